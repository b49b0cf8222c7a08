"""Everything that needs torch: base models, adapters, batches, prediction, training, evaluation."""
