"""A comparison as text for a terminal: tables, sentences, notes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def compare_text(facts: Mapping[str, Any]) -> str:
    """The comparison for a terminal: for each dataset two tables, the sentences and the notes; then who won."""
    parts = [_dataset_text(data, facts["level"]) for data in facts["datasets"]]
    if facts["wins"]:
        parts.append(_wins_text(facts["wins"], len(facts["datasets"])))
    return "\n\n".join(parts)


def _dataset_text(data: Mapping[str, Any], level: float) -> str:
    rows, control = data["comparisons"], data["control"]
    labels = f", {data['labels'][0]} to {data['labels'][-1]} labels" if data["labels"] else ""
    lines = [f"{data['name']}: beside {control}{labels}" + (f", {data['test']} test examples" if data["test"] else "")]
    if not rows:
        lines.append(f"There is nothing to compare with {control}.")
    else:
        span = f"{100 * level:g} % interval"
        lines += ["", *_table(
            ["strategy", "seeds", "AUC", control, f"difference ({span})", f"RIPL ({span})", "deficiency", "final", control],
            [_curve_row(row) for row in rows],
        )]  # fmt: skip
        lines += ["", *_table(
            ["strategy", f"saved on average ({span})", f"saved at the end ({span})", "d_z", "p", "Holm", "exact p"],
            [_saved_row(row) for row in rows],
        ), ""]  # fmt: skip
        for row in rows:
            lines.append(f"{row['strategy']}: {row['verdict']['sentence']}")
            if row["target_sentence"]:
                lines.append(f"  At the target: {row['target_sentence']}")
    rest = [*data["left_out"], *data["notes"]]
    return "\n".join([*lines, *([""] if rest else []), *rest])


def _curve_row(row: Mapping[str, Any]) -> list[str]:
    area, end = row["auc"], row["final"]
    return [
        row["strategy"], str(len(row["seeds"])), _number(area["strategy"]), _number(area["control"]),
        _signed_interval(area["difference"]), _share_interval(row["ripl"]), _number((row["deficiency"] or {}).get("estimate"), 2),
        _number(end["strategy"]), _number(end["control"]),
    ]  # fmt: skip


def _saved_row(row: Mapping[str, Any]) -> list[str]:
    saved, p = row["saved"] or {}, row["p"] or {}
    end = saved.get("at_the_end") or {}
    return [
        row["strategy"], _share_interval(saved.get("on_average")), _share_interval(end.get("share"), end.get("bound")),
        _number((row["effect_size"] or {}).get("estimate"), 2), _p(p.get("t")), _p(p.get("holm")), _p(p.get("sign_flips")),
    ]  # fmt: skip


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


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _signed_interval(interval: Mapping[str, float | None]) -> str:
    if interval["estimate"] is None:
        return "–"
    estimate, low, high = (
        "" if value is None else f"{value:+.3f}".replace("-", "−")
        for value in (interval["estimate"], interval["low"], interval["high"])
    )
    return f"{estimate} ({low} to {high})" if low and high else estimate


def _share_interval(interval: Mapping[str, float | None] | None, bound: str | None = None) -> str:
    """A share in percent with its interval; an open end is '…'."""
    if interval is None or interval["estimate"] is None:
        return "–"
    estimate, low, high = (
        "…" if value is None else f"{100 * value:.0f}".replace("-", "−")
        for value in (interval["estimate"], interval["low"], interval["high"])
    )
    sign = {"at least": "≥ ", "at most": "≤ "}.get(bound or "", "")
    return f"{sign}{estimate} % ({low} to {high})"


def _p(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
