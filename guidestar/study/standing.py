"""How the strategies of a study stand: AUC and RIPL with intervals for every dataset, model and adapter."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from guidestar.metrics import savings, statistics
from guidestar.metrics.curve import auc, ripl
from guidestar.study.results import Result, mean_sd
from guidestar.words import percent, share, spread

Group = tuple[str, str, str]  # dataset, model, adapter
Row = dict[str, Any]

NOTE = (
    "± and brackets: standard deviation over the seeds, and 95 % intervals. AUC's speak of new seeds and this test set, "
    "RIPL's of new test examples too where each one's results are on this machine's disk."
)
HEADER = (
    "dataset", "model", "peft", "strategy", "seeds", "auc_mean", "auc_sd", "auc_low", "auc_high", "ripl", "ripl_low",
    "ripl_high", "final_mean", "final_sd", "verdict",
)  # fmt: skip


def group_of(result: Result) -> Group:
    """Where a result belongs."""
    tags = result["tags"]
    return str(tags["dataset"]), str(tags["model"]), str(tags["peft"])


def standing(
    results: Sequence[Result],
    strategies: Sequence[str],
    control: str | None,
    compared: Mapping[Group, Mapping[str, Any]] | None = None,
) -> list[Row]:
    """A row for every strategy of every dataset, model and adapter that has a result; fractions.

    strategies: the order of the rows. control: the strategy that RIPL compares with, on the seeds that both have, over
    the points that all their curves have; None gives none. compared: what `compare` says of a group: its intervals and
    verdicts are taken where they are of the same seeds.

    Keys: "dataset", "model", "peft", "strategy", "control" (whether it is), "seeds"; "auc" and "final" (mean, sd, low,
    high), "ripl" (estimate, low, high), None where there is no test set, no control or no common seed; "verdict".
    """
    groups: dict[Group, dict[str, dict[int, Result]]] = {}
    for one in results:
        if one["curve"]:
            methods = groups.setdefault(group_of(one), {})
            methods.setdefault(str(one["tags"]["method"]), {})[int(one["tags"]["seed"])] = one
    rows = []
    for group, methods in groups.items():
        facts = {row["strategy"]: row for row in ((compared or {}).get(group) or {}).get("comparisons", ())}
        for name in (name for name in strategies if name in methods):
            own = methods[name]
            base = methods.get(control or "", {}) if name != control else {}
            seeds = sorted(set(own) & set(base))
            fact = facts.get(name)
            fact = fact if fact and list(fact["seeds"]) == seeds else None
            rows.append(
                {
                    "dataset": group[0], "model": group[1], "peft": group[2], "strategy": name,
                    "control": name == control, "seeds": sorted(own),
                    "auc": _mean([own[seed]["auc"] for seed in sorted(own)]),
                    "final": _mean([own[seed]["final"] for seed in sorted(own)]),
                    "ripl": (fact and fact["ripl"]) or _ripl([(own[seed]["curve"], base[seed]["curve"]) for seed in seeds]),
                    "verdict": fact["verdict"]["kind"] if fact else None,
                }
            )  # fmt: skip
    return rows


def _mean(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, standard deviation, and the t interval within [0, 1] from two seeds on."""
    found = mean_sd(values) | {"low": None, "high": None}
    if len(values) > 1:
        interval = statistics.t_interval(values)
        found |= {"low": max(interval.low, 0.0), "high": min(interval.high, 1.0)}
    return found


Curves = Sequence[Sequence[float]]


def _ripl(pairs: Sequence[tuple[Curves, Curves]]) -> dict[str, float | None] | None:
    """RIPL of the mean areas over the points that all curves have; its interval from two seeds on."""
    labels: list[float] = []
    for points in zip(*(curve for both in pairs for curve in both), strict=False):
        if len({at for at, _ in points}) > 1:
            break
        labels.append(points[0][0])
    if not labels:
        return None
    own, base = (np.array([[value for _, value in both[i][: len(labels)]] for both in pairs]) for i in (0, 1))
    if len(pairs) > 1:
        return savings.ripl_interval(savings.pair(own, base, labels)).plain()
    top = auc(list(base[0]))
    return {"estimate": ripl(auc(list(own[0])), top) if top < 1 else None, "low": None, "high": None}


def warm_starts(results: Sequence[Result]) -> list[str]:
    """What is not shared as it should be, in sentences: the examples that strategies of a seed begin with, over all
    adapters of a dataset, and the warm start's adapter, which one strategy trains and the others copy."""
    picks: dict[tuple[Any, ...], dict[str, str]] = {}
    trained: dict[tuple[Any, ...], list[str]] = {}
    for one in results:
        tags, start = one["tags"], one["warm_start"]
        place = (tags["dataset"], tags["seed"], start["size"])
        picks.setdefault((*place, start["pool"]), {})[one["name"]] = start["picks"]
        if sum(spent for r, phase, spent, _ in one["timings"] if r == 0 and phase == "train") > 0:
            trained.setdefault((*group_of(one), tags["seed"]), []).append(str(tags["method"]))
    found = [
        f"{dataset}, seed {seed}: the runs did not begin with the same {size} examples, so part of their difference "
        "comes from the warm start."
        for (dataset, seed, size, _), starts in picks.items()
        if len(set(starts.values())) > 1
    ]
    pools = {(place[0], place[1]) for place in picks}
    found += [
        f"{dataset}, seed {seed}: the runs have different pools or sizes of the warm start, which is then not shared."
        for dataset, seed in sorted(pools)
        if sum((place[0], place[1]) == (dataset, seed) for place in picks) > 1
    ]
    again: dict[tuple[Any, ...], list[str]] = {}
    for (*group, seed), names in trained.items():
        if len(names) > 1:
            again.setdefault((*group, ", ".join(names)), []).append(str(seed))
    found += [
        f"{', '.join(map(str, group))}, seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}: the warm start was trained "
        f"{names.count(',') + 1} times, for {names}, and not copied; equal examples and seed."
        for (*group, names), seeds in again.items()
    ]
    return list(dict.fromkeys(found))


# --- forms --------------------------------------------------------------------------------------


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, AUC and final accuracy per cent."""
    head = ["dataset", "model", "peft", "strategy", "seeds", "AUC", "RIPL", "final", "verdict"]
    cells = [
        [
            row["dataset"],
            row["model"],
            row["peft"],
            row["strategy"],
            str(len(row["seeds"])),
            _with_ends(row["auc"]),
            ripl_of(row),
            spread(row["final"]),
            "control" if row["control"] else row["verdict"] or "–",
        ]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in [head, *cells]]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def as_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV: fractions in full precision, seeds with spaces between them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for row in rows:
        found = row["ripl"] or {}
        flat = row | {"seeds": " ".join(map(str, row["seeds"])), "ripl": found.get("estimate")}
        flat |= {f"ripl_{end}": found.get(end) for end in ("low", "high")}
        flat |= {f"{name}_{key}": row[name][key] for name in ("auc", "final") for key in ("mean", "sd", "low", "high")}
        writer.writerow(["" if flat[key] is None else flat[key] for key in HEADER])
    return text.getvalue()


def _with_ends(value: Mapping[str, float]) -> str:
    ends = f" ({100 * value['low']:.1f} to {100 * value['high']:.1f})" if value["low"] is not None else ""
    return spread(value) + ends


def ripl_of(row: Mapping[str, Any]) -> str:
    """RIPL as text; that of one seed has no interval and is shown all the same, one that nothing bounds is not."""
    value = row["ripl"]
    if value and value["estimate"] is not None and len(row["seeds"]) == 1:
        return percent(value["estimate"], 1)
    return share(value)
