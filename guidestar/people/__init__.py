"""People label: the page, the terminal, other annotators, agreement."""
