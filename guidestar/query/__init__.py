"""Which examples to ask labels for: measures, base/full mixing, selectors, strategies. Pure NumPy."""
