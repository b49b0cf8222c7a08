"""Parts that the generated pages share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[object], rows: Iterable[Iterable[object]]) -> list[str]:
    """The lines of a Markdown table.

    >>> table(["", "AUC"], [["star", 0.5]])
    ['|  | AUC |', '|---|---|', '| star | 0.5 |']
    """
    names, *lines = (f"| {' | '.join(map(str, cells))} |" for cells in (header, *rows))
    return [names, "|---" * len(header) + "|", *lines]
