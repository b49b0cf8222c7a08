"""People label: the page, the terminal, other annotators, files in and out, agreement."""
