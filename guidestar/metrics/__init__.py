"""How good a model is, and how good a learning curve is. Pure NumPy."""
