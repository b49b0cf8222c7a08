"""How fast scoring and training are, beside what they replace and beside what the machine can do: `make bench`."""
