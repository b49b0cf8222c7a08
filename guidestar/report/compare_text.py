"""A comparison as text for a terminal: tables, sentences, notes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def compare_text(facts: Mapping[str, Any]) -> str:
    """The comparison for a terminal: for each dataset sentences, tables and notes; then who won, and what the columns
    mean."""
    parts = [_dataset_text(data) for data in facts["datasets"]]
    if facts["wins"]:
        parts.append(_wins_text(facts["wins"], len(facts["datasets"])))
    if any(row["p"] is not None for data in facts["datasets"] for row in data["comparisons"]):
        parts.append(_legend(facts))
    return "\n\n".join(parts)


def _dataset_text(data: Mapping[str, Any]) -> str:
    rows, control = data["comparisons"], data["control"]
    labels = f", {data['labels'][0]} to {data['labels'][-1]} labels" if data["labels"] else ""
    lines = [
        f"{data['name']}, beside {control}{labels}" + (f", {data['test']} test examples" if data["test"] else ""),
        "",
    ]
    if not rows:
        lines.append(f"There is nothing to compare with {control}.")
    for row in rows:
        lines.append(f"{row['strategy']}: {row['verdict']['sentence']}")
        if row["target_sentence"]:
            lines.append(f"  At the target: {row['target_sentence']}")
    if rows:
        header = ["", "seeds", "AUC", control, "RIPL", "deficiency", "final", control]
        lines += ["", *_table(header, [_curve_row(row) for row in rows])]
    if any(row["p"] is not None for row in rows):
        header = ["", "labels saved on average", "at the end"]
        lines += ["", *_table(header, [_saved_row(row) for row in rows])]
        header = ["", "difference of AUC", "bootstrap", "sign flips", "d_z", "p", "Holm", "exact p"]
        lines += ["", *_table(header, [_tests_row(row) for row in rows])]
    rest = [*data["left_out"], *data["notes"]]
    return "\n".join([*lines, *([""] if rest else []), *rest])


def _curve_row(row: Mapping[str, Any]) -> list[str]:
    area, end = row["auc"], row["final"]
    return [
        row["strategy"], str(len(row["seeds"])), number(area["strategy"]), number(area["control"]),
        share(row["ripl"]), bounded(row["deficiency"]), number(end["strategy"]), number(end["control"]),
    ]  # fmt: skip


def _saved_row(row: Mapping[str, Any]) -> list[str]:
    saved = row["saved"] or {}
    end = saved.get("at_the_end") or {}
    return [row["strategy"], share(saved.get("on_average")), share(end.get("share"), end.get("bound"))]


def _tests_row(row: Mapping[str, Any]) -> list[str]:
    p, others = row["p"] or {}, row["intervals"] or {}
    return [
        row["strategy"], signed(row["auc"]["difference"]), ends(others.get("bootstrap")), ends(others.get("sign_flips")),
        number((row["effect_size"] or {}).get("estimate"), 2), chance(p.get("t")), chance(p.get("holm")),
        chance(p.get("sign_flips")),
    ]  # fmt: skip


def _legend(facts: Mapping[str, Any]) -> str:
    tested = facts["comparisons"]
    holm = f"corrected for {tested} comparison{'s' * (tested != 1)}" if tested else "not for so few seeds"
    return "\n".join(
        [
            f"In brackets: {100 * facts['level']:g} % intervals; … is an open end, – is not known.",
            "AUC: mean height of the curve. RIPL: share of the gap between the control's AUC and 1 that is closed.",
            "deficiency: area above the curve, under the control's last accuracy, over the control's; below 1 is better.",
            "labels saved: share of the control's, on average over the accuracies on the way, and to reach the accuracy "
            "at which the lower curve ends.",
            "difference of AUC: by the t distribution; its intervals by the paired bootstrap and by exact sign flips, "
            "which take 5 and 6 seeds at 95 %.",
            f"d_z: difference over its standard deviation between seeds. p: t test; Holm: {holm}; exact p: sign flips.",
        ]
    )


def _wins_text(wins: Mapping[str, Mapping[str, Sequence[int]]], datasets: int) -> str:
    names = list(wins)
    pairs = sum(sum(counts) for found in wins.values() for counts in found.values()) // 2
    rows = [
        [name, *("-".join(map(str, wins[name][other])) if other in wins[name] else "" for other in names)]
        for name in names
    ]
    where = f"{datasets} datasets" if datasets > 1 else "one dataset"
    head = f"Won-tied-lost of each row against each column, over {where}, corrected for all {pairs} pairs:"
    return "\n".join([head, "", *_table(["", *names], rows)])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns, the first to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, *rows]
    ]


# --- numbers as the table and the report show them --------------------------------------------------


def number(value: float | None, digits: int = 3) -> str:
    """
    >>> number(-0.25), number(None)
    ('−0.250', '–')
    """
    return "–" if value is None else _minus(f"{value:.{digits}f}")


def signed(interval: Mapping[str, float | None]) -> str:
    """A difference of accuracies with its interval, where there is one.

    >>> signed({"estimate": 0.1, "low": -0.02, "high": 0.22})
    '+0.100 (−0.020 to +0.220)'
    """
    if interval["estimate"] is None:
        return "–"
    both = ends(interval)
    return _minus(f"{interval['estimate']:+.3f}") + (f" ({both})" if both != "–" else "")


def ends(interval: Mapping[str, float | None] | None) -> str:
    """The two ends of an interval of a difference; a dash if neither is known."""
    if interval is None or (interval["low"] is None and interval["high"] is None):
        return "–"
    low, high = ("…" if interval[end] is None else _minus(f"{interval[end]:+.3f}") for end in ("low", "high"))
    return f"{low} to {high}"


def bounded(interval: Mapping[str, float | None] | None) -> str:
    """A ratio; a dash where nothing bounds it, for then its estimate means nothing either."""
    if interval is None or (interval["low"] is None and interval["high"] is None):
        return "–"
    return number(interval["estimate"], 2)


def share(interval: Mapping[str, float | None] | None, bound: str | None = None) -> str:
    """A share in per cent with its interval; an open end is '…', a share that nothing bounds a dash.

    >>> share({"estimate": 0.38, "low": 0.21, "high": 0.52}), share({"estimate": 0.2, "low": -0.03, "high": 1.0}, "at least")
    ('38 % (21 to 52)', '≥ 20 % (−3 to 100)')
    """
    if interval is None or interval["estimate"] is None:
        return "–"
    if interval["low"] is None and interval["high"] in (None, 1.0):
        return "–"
    estimate, low, high = (
        "…" if value is None else _minus(f"{100 * value:.0f}")
        for value in (interval["estimate"], interval["low"], interval["high"])
    )
    sign = {"at least": "≥ ", "at most": "≤ "}.get(bound or "", "")
    return f"{sign}{estimate} % ({low} to {high})"


def chance(p: float | None) -> str:
    """A p value, a dash for none."""
    if p is None or math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _minus(text: str) -> str:
    """A real minus sign, and none before a number that is rounded to 0."""
    bare = text.lstrip("-+")
    zero = not bare.strip("0.")
    return bare if zero else text.replace("-", "−")
