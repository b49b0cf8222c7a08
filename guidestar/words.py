"""Numbers, counts and lists as every table, sentence and page of Guidestar shows them.

A minus is "−", what is not known is "–", a space stands before "%", and no number that is rounded to 0 has a sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

NOTHING = "–"
Ends = Mapping[str, float | None]  # "low" and "high" of an interval, often with its "estimate"; None is an open end


# --- numbers --------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number with so many decimal places. sign: with + or −, as a difference is shown.

    >>> number(-0.25), number(None), number(0.0312, 2, sign=True), number(-0.0001, sign=True)
    ('−0.250', '–', '+0.03', '0.000')
    """
    if value is None or math.isnan(value):
        return NOTHING
    return _minus(f"{value:{'+' if sign else ''}.{digits}f}")


def significant(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits.

    >>> [significant(x) for x in (0.123456, 12, None, float("nan"))]
    ['0.1235', '12', '–', '–']
    """
    return NOTHING if value is None or math.isnan(value) else _minus(f"{value:.{digits}g}")


def percent(share: float | None, digits: int = 0) -> str:
    """A fraction in per cent.

    >>> percent(0.784), percent(0.1234, 1), percent(-0.02), percent(None)
    ('78 %', '12.3 %', '−2 %', '–')
    """
    return NOTHING if share is None or math.isnan(share) else f"{hundredths(share, digits)} %"


def level_of(value: float) -> str:
    """The level of an interval.

    >>> level_of(0.95), level_of(0.975)
    ('95 %', '97.5 %')
    """
    return f"{100 * value:g} %"


def hundredths(share: float | None, digits: int = 2, sign: bool = False) -> str:
    """A fraction in per cent, or a difference of two in points, without the unit.

    >>> hundredths(0.912), hundredths(-0.004, 1, sign=True), hundredths(None)
    ('91.20', '−0.4', '–')
    """
    return number(None if share is None else 100 * share, digits, sign)


def spread(values: Ends | None, digits: int = 2) -> str:
    """The "mean" of some fractions in per cent and their standard deviation, "sd", which one seed does not have.

    >>> spread({"mean": 0.912, "sd": 0.0053}), spread({"mean": 0.912, "sd": None}), spread(None)
    ('91.20 ± 0.53', '91.20', '–')
    """
    if values is None:
        return NOTHING
    mean = hundredths(values["mean"], digits)
    return mean if values["sd"] is None else f"{mean} ± {hundredths(values['sd'], digits)}"


def chance(p: float | None) -> str:
    """A p value.

    >>> chance(0.0312), chance(0.0001), chance(None)
    ('0.031', '< 0.001', '–')
    """
    return "< 0.001" if p is not None and p < 0.001 else number(p)


def plain(value: object) -> str:
    """A configured value in words.

    >>> [plain(x) for x in (None, True, ["a", "b"], 0.5, "")]
    ['not set', 'yes', 'a, b', '0.5', '(empty)']
    """
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value) or "(empty)"


def _minus(text: str) -> str:
    bare = text.lstrip("-+")
    return text.replace("-", "−") if bare.strip("0.") else bare


# --- intervals ------------------------------------------------------------------------------------


def span(ends: Sequence[float], show: Callable[[float], str]) -> str:
    """Two ends of a range in words, one where both read the same.

    >>> span((40, 400), duration), span((41.0, 41.1), duration)
    ('40 s to 7 min', '41 s')
    """
    a, b = map(show, ends)
    return a if a == b else f"{a} to {b}"


def ends(interval: Ends | None) -> str:
    """The two ends of an interval of a difference; a dash if neither is known."""
    if interval is None or (interval["low"] is None and interval["high"] is None):
        return NOTHING
    return " to ".join("…" if interval[end] is None else number(interval[end], sign=True) for end in ("low", "high"))


def paired(interval: Ends) -> str:
    """A difference of accuracies with its interval, where there is one.

    >>> paired({"estimate": 0.1, "low": -0.02, "high": 0.22})
    '+0.100 (−0.020 to +0.220)'
    """
    both = ends(interval)
    return number(interval["estimate"], sign=True) + (f" ({both})" if both != NOTHING else "")


def bounded(interval: Ends | None) -> str:
    """A ratio; a dash where nothing bounds it, for then its estimate means nothing either."""
    if interval is None or (interval["low"] is None and interval["high"] is None):
        return NOTHING
    return number(interval["estimate"], 2)


def share(interval: Ends | None, bound: str | None = None) -> str:
    """A share in per cent with its interval; an open end is '…', a share that nothing bounds a dash.

    >>> share({"estimate": 0.38, "low": 0.21, "high": 0.52}), share({"estimate": 0.2, "low": -0.03, "high": 1.0}, "at least")
    ('38 % (21 to 52)', '≥ 20 % (−3 to 100)')
    """
    if interval is None or interval["estimate"] is None:
        return NOTHING
    if interval["low"] is None and interval["high"] in (None, 1.0):
        return NOTHING
    low, high = ("…" if interval[end] is None else hundredths(interval[end], 0) for end in ("low", "high"))
    return (
        f"{ {'at least': '≥ ', 'at most': '≤ '}.get(bound or '', '') }{percent(interval['estimate'])} ({low} to {high})"
    )


# --- counts, lists, lengths -----------------------------------------------------------------------


def count(n: int, noun: str) -> str:
    """
    >>> count(1, "reply"), count(2, "reply"), count(0, "label"), count(12000, "label")
    ('1 reply', '2 replies', '0 labels', '12,000 labels')
    """
    return f"{n:,} {noun if n == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """
    >>> plural("reply"), plural("seed"), plural("batch")
    ('replies', 'seeds', 'batches')
    """
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def listed(items: Iterable[object], last: str = "and") -> str:
    """
    >>> listed("abc"), listed([1, 2], "or"), listed(["a"])
    ('a, b and c', '1 or 2', 'a')
    """
    texts = [str(item) for item in items]
    return f" {last} ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def shortened(text: str, length: int, end: int = 0) -> str:
    """A text of at most so many characters, cut before its last `end` ones.

    >>> shortened("uncertainty", 6), shortened("uncertainty", 6, end=2), shortened("short", 6)
    ('uncer…', 'unc…ty', 'short')
    """
    return text if len(text) <= length else f"{text[: length - 1 - end]}…{text[len(text) - end :]}"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them.

    >>> [duration(s) for s in (3.2, 600, 8000)]
    ['3 s', '10 min', '2.2 h']
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# --- tables ---------------------------------------------------------------------------------------


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """The lines of a table for a terminal: the first `left` columns to the left, numbers to the right.

    >>> aligned(["", "AUC"], [["star", "0.5"]])
    ['      AUC', 'star  0.5']
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, *rows]
    ]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown that can also be read as it is.

    >>> print(markdown_table(["", "AUC"], [["star", "0.5"]]))
    |      | AUC |
    |------|-----|
    | star | 0.5 |
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    body = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in [header, *rows]
    ]
    return "\n".join([body[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *body[1:]])


def filled(template: Path, filters: Mapping[str, Callable[..., str]] | None = None, /, **values: Any) -> str:
    """A Jinja file of this package with the values and filters that it names; what is filled into HTML is escaped. Raises
    jinja2's UndefinedError for a name that is not given."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    html = template.suffix == ".html"
    pages = Environment(
        loader=FileSystemLoader(template.parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=not html, autoescape=html,  # noqa: S701
    )  # fmt: skip
    pages.filters |= filters or {}
    return pages.get_template(template.name).render(values)
