"""What the tables of a study show, in sentences, with no claim beyond them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from guidestar.config import fingerprint
from guidestar.metrics.verdict import can_claim, least_seeds
from guidestar.study.compose import Row
from guidestar.study.results import Place, Result
from guidestar.study.tables import Line, Table, baselines, points_of
from guidestar.words import listed, plural

LOPSIDED = 0.2  # how much more of a batch than of the control's the largest class may have before it is told


def reading(table: Table, rows: Sequence[Row], results: Sequence[Result]) -> list[str]:
    """What may be said of a table, and what forbids comparing its rows. rows, results: those that it was made of."""
    measured = [line for line in table.lines if line.beside]
    if not measured and any(row.control is not None and row.name != row.control for row in rows):
        return ["Nothing can be compared yet: no row and its control have a seed in common."]
    return [
        *_verdicts(table),
        *_signs(measured),
        *_pairs(table, {row.name: row for row in rows}),
        *_batches(table, {row.name: row.control for row in rows}),
        *_majority(table, results),
    ]


def beside(table: Table, results: Sequence[Result]) -> list[str]:
    """What a reader must see beside the rows: baselines, rows that are one run, and what makes rows incomparable."""
    notes = []
    for place in dict.fromkeys(one.place for one in results):
        here = [one for one in results if one.place == place and one.curve]
        where = ", ".join(filter(None, place))
        notes += [f"{where}: {text}" for text in (baselines(place, results), *_unlike(here)) if text]
    if table.same:
        notes.append("The same run as another row here: " + "; ".join(f"{a} = {b}" for _, a, b in table.same) + ".")
    return notes


def _unlike(results: Sequence[Result]) -> Iterator[str]:
    """What would make rows incomparable."""
    for key, what in (("fingerprint", "models"), ("dtype", "precisions"), ("device", "kinds of processor")):
        if len({one.model.get(key) for one in results}) > 1:
            yield f"The rows were made with different {what}, so they cannot be compared as they stand."
    if len({(one.warm_start or {}).get("pool") for one in results}) > 1:
        yield "The rows were made with different pools, so they cannot be compared as they stand."
    yield from sorted({text for one in results for text in one.data.get("form_differences", [])})


# --- verdicts -------------------------------------------------------------------------------------


def _verdicts(table: Table) -> Iterator[str]:
    """Each verdict of enough seeds. Those of fewer differ in their numbers alone, which the table has, and are counted."""
    lines = [(line, line.beside) for line in table.lines if line.beside]
    for line, compared in lines:
        if compared.sentence:
            yield f"{_where(line)}: {line.label}: {compared.sentence}"
    few = sum(not can_claim(len(compared.seeds)) for _, compared in lines)
    if few:
        yield (
            f"{few} of {len(lines)} comparisons have fewer than {least_seeds()} seeds. They cannot show a gain at 95 %, "
            "even if all their seeds agree: what the tables say of them may be chance."
        )


def _signs(measured: Sequence[Line]) -> Iterator[str]:
    """How verdicts agree with what was printed elsewhere; a row without a verdict has no sign."""
    claims = [(line, line.published[1]) for line in measured if line.published[1] is not None]
    decided = [(line.beside.verdict == "gain", printed > 0) for line, printed in claims
               if line.beside and printed is not None and line.beside.verdict in ("gain", "harm")]  # fmt: skip
    if claims:
        same = sum(ours == theirs for ours, theirs in decided)
        yield (
            f"Rows that were published above or below their control: {len(claims)}; with a verdict of the same sign here: "
            f"{same}, of the other: {len(decided) - same}, undecided: {len(claims) - len(decided)}."
        )


def _pairs(table: Table, rows: Mapping[str, Row]) -> Iterator[str]:
    """The pairs that were asked for beside the controls: what each part adds, here and as published."""
    for place, after, before, compared in table.pairs:
        a, b = rows[after], rows[before]
        where = ", ".join(filter(None, (*place, _seeds(compared.seeds))))
        apart = f"{a.label} is {points_of(compared.difference)} points of AUC from {b.label}"
        yield f"{where}: {apart}: {compared.verdict}{_printed(a, b, place)}."


def _printed(after: Row, before: Row, place: Place) -> str:
    """The published difference of the two AUCs, of all datasets where there is none of this one."""
    both = after.published.keys() & before.published.keys()
    steps = {name: after.published[name][0] - before.published[name][0] for name in after.published if name in both}
    if place[0] in steps:
        return f"; published {steps[place[0]]:+.2f}"
    return f"; published {', '.join(f'{step:+.2f} ({name})' for name, step in steps.items())}" if steps else ""


def _batches(table: Table, controls: Mapping[str, str | None]) -> Iterator[str]:
    """Rows that ask for one class: what is rare under the untuned model is a label word as often as a hard example."""
    shares = {(line.dataset, line.model, line.row): line.largest_class for line in table.lines}
    lopsided: dict[str, list[str]] = {}
    for line in table.lines:
        control = shares.get((line.dataset, line.model, str(controls[line.row])))
        if control is not None and line.largest_class is not None and line.largest_class > control + LOPSIDED:
            text = f"{line.label} {100 * line.largest_class:.0f} % (control {100 * control:.0f} %)"
            lopsided.setdefault(_where(line), []).append(text)
    for where, texts in lopsided.items():
        yield f"{where}: batches that are mostly of one class, by the mean share of the largest: {', '.join(texts)}."


def _majority(table: Table, results: Sequence[Result]) -> Iterator[str]:
    """How many areas are above what always giving the most frequent answer gives."""
    for place in dict.fromkeys((line.dataset, line.model) for line in table.lines):
        known = (one.data.get("majority") for one in results if one.place == place)
        if majority := next(filter(None, known), None):
            areas = [line.auc.mean for line in table.lines if (line.dataset, line.model) == place and line.auc]
            above = sum(area > majority["share"] for area in areas)
            which = f"all {len(areas)}" if above == len(areas) else f"{above} of {len(areas)}"
            always = f"always answering {majority['label']!r} gives {100 * majority['share']:.2f}"
            count = f"{which} AUCs are" if above else "no AUC is"
            yield f"{', '.join(filter(None, place))}: {always}; {count} above that."


# --- warm starts ----------------------------------------------------------------------------------


def warm_starts(results: Sequence[Result]) -> list[str]:
    """What is not shared as it should be, in sentences: the examples that rows of a seed begin with, and the warm start's
    adapter, which one row trains and those that are trained alike copy."""
    picks: dict[tuple[Any, ...], dict[str, str]] = {}
    trained: dict[tuple[Any, ...], dict[str, float | None]] = {}
    for one in results:
        tags, start = one.tags, one.warm_start
        if not start:  # no run, but what stands beside the runs
            continue
        place = (tags["dataset"], tags["seed"], start["size"])
        picks.setdefault((*place, start["pool"]), {})[one.name] = start["picks"]
        if sum(spent for r, phase, spent, _ in one.timings if r == 0 and phase == "train") > 0:
            first = one.curve[0][1] if one.curve else None
            alike = (*one.group, (_training(one), start["picks"]), tags["seed"])
            trained.setdefault(alike, {})[str(tags["method"])] = first
    apart: dict[tuple[str, int], list[int]] = {}
    for (dataset, seed, size, _), starts in picks.items():
        if len(set(starts.values())) > 1:
            apart.setdefault((dataset, size), []).append(seed)
    sentences = [
        f"{dataset}, seed {listed(map(str, seeds))}: the runs did not begin with the same {size} examples, so part of their "
        "difference comes from the warm start."
        for (dataset, size), seeds in apart.items()
    ]
    pools = Counter((dataset, seed) for dataset, seed, *_ in picks)
    sentences += [
        f"{dataset}, seed {seed}: the runs have different pools or sizes of the warm start, which is then not shared."
        for (dataset, seed), times in sorted(pools.items())
        if times > 1
    ]
    return list(dict.fromkeys([*sentences, *_trained_again(trained)]))


def _training(one: Result) -> str:
    """Equal for runs that train alike; keys that are newer than a result count as not given."""
    parts = [one.config.get(key) or {} for key in ("train", "peft", "tapt")]
    return fingerprint([{key: value for key, value in part.items() if value is not None} for part in parts])


def _trained_again(trained: Mapping[tuple[Any, ...], Mapping[str, float | None]]) -> Iterator[str]:
    again: dict[tuple[Any, ...], list[tuple[str, float]]] = {}
    for (*group, _, seed), firsts in trained.items():
        if len(firsts) > 1:
            known = [value for value in firsts.values() if value is not None]
            gap = max(known) - min(known) if known else 0.0
            again.setdefault((*filter(None, group), ", ".join(firsts)), []).append((str(seed), gap))
    for (*group, names), seeds in again.items():
        gap = 100 * max(gap for _, gap in seeds)
        apart = f" Its accuracies lie up to {gap:.2f} points apart: so much can training alone change." if gap else ""
        yield (
            f"{', '.join(group)}, {_seeds([seed for seed, _ in seeds])}: the warm start was trained {names.count(',') + 1} "
            f"times, for {names}, and not copied; equal examples and seed.{apart}"
        )


def _where(line: Line) -> str:
    return ", ".join(filter(None, (line.dataset, line.model, line.peft)))


def _seeds(seeds: Sequence[object]) -> str:
    return f"{plural('seed') if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"
