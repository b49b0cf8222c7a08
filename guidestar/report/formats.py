"""Numbers and values as the report writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping


def number(value: float | None) -> str:
    """Four digits; a dash for none.

    >>> [number(x) for x in (0.123456, 12, None, float("nan"))]
    ['0.1235', '12', '–', '–']
    """
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"


def accuracy(value: float | None) -> str:
    """Three digits; a dash for none."""
    return "–" if value is None else f"{value:.3f}"


def percent(share: float | None) -> str:
    """
    >>> [percent(x) for x in (0.1234, None)]
    ['12.3 %', '–']
    """
    return "–" if share is None else f"{100 * share:.1f} %".replace("-", "−")


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
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) or "(empty)"


def share(count: int, total: int) -> float:
    """0 where there is nothing."""
    return count / total if total else 0.0


def spread(found: Mapping[str, float | None]) -> str:
    """'84.1 ± 0.6' in per cent, the spread left out for one seed."""
    mean, sd = found["mean"], found["sd"]
    return percent(mean) if mean is None or sd is None else f"{100 * mean:.1f} ± {100 * sd:.1f} %"
