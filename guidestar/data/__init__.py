"""Where examples come from: files and hubs, prompts, answers, splits. No model is needed here."""
