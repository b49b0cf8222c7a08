"""Do the examples that were uncertain at the start stay so over the rounds (STAR, figure 3)?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.asking import Ask
from guidestar.bench import Bench
from guidestar.errors import ConfigError, StoreError, allowed
from guidestar.progress import Progress
from guidestar.query.measures import MEASURES, default_measure, evaluate_measure, measure_problems
from guidestar.records import Array, Example, Metrics, Predictions
from guidestar.rng import generator
from guidestar.store import files
from guidestar.study.drawing import save_figure, write_csv
from guidestar.study.probes import figures, numbers
from guidestar.study.probes.run import Arrays, Probe, Subject, number, opened
from guidestar.tasks import recorded_task

LATE = (4, 5)  # the rounds that the paper calls iterations 5 and 6


def entropy_probe(
    run: Path,
    bench: Bench | None = None,
    *,
    top: int = 1000,
    limit: int | None = None,
    measure: str | None = None,
    progress: Progress | None = None,
) -> Probe:
    """Uncertainty of the pool's examples that the base model finds most uncertain, by every round's adapter.

    The examples are the same in all rounds, labelled meanwhile or not; correlations are given with those that were
    trained on, and without. Taking the most uncertain ones narrows the base model's values, and this alone lowers
    their correlation with others: as many examples drawn at random from the same pool stand beside them.

    top: how many examples. limit: of how many pool examples, drawn at random; default all. measure: an uncertainty
    measure that needs no label, default the run's own; for one over the whole response, the one over its answer
    tokens is given beside it, and the other way round. All values are of one plain pass, without dropout.
    Raises ConfigError for a measure that does not fit, ConfigMismatch for another model or other data than the run's.
    """
    for name, value, least in (("top", top, numbers.LEAST), ("limit", limit, numbers.LEAST)):
        if value is not None and value < least:
            raise ConfigError(f"{name} is {value}; allowed: {least} or more")
    with opened(run, bench, progress) as subject:
        measures, notes = _measures(subject, measure)
        rounds = _with_adapters(subject, notes)
        sample = _sample(subject, measures, top, limit)
        values = _values(subject, measures, [metrics.round for metrics in rounds], sample)
        trained = _trained(subject, [metrics.round for metrics in rounds], sample.examples)
        names = ["base", *(str(metrics.round) for metrics in rounds)]
        facts: dict[str, Any] = {
            **subject.about("entropy"),
            "measure": measures[0],
            "pool": sample.considered,
            "top": int(sample.top.sum()),
            "random": int(sample.control.sum()) or None,
            "rows": names,
            "labels": [0, *(metrics.labels for metrics in rounds)],
            "labelled": trained[:, sample.top].sum(axis=1).tolist(),
            "measures": {name: _correlated(values[name], trained, sample) for name in measures},
        }
        pairs = _pairs(rounds)
        written = []
        for name in measures:
            found = facts["measures"][name]
            scatters = [
                _scatter(values[name][:, sample.top], trained[:, sample.top], found["top"], rounds, pair)
                for pair in pairs
            ]
            pearson = np.asarray(found["top"]["pearson"], dtype=np.float64)
            stem = subject.place / ("entropy" if name == measures[0] else f"entropy-{name}")
            draw = figures.draw_correlations(names, pearson, scatters, _title(name, facts))
            written += save_figure(
                stem,
                draw,
                *_correlation_rows(names, found),
                width=6.4 if len(pairs) == 1 else 7.0,
                height=2.8 + 2.3 * (len(pairs) - 1),
            )
        written.append(_example_table(subject, names, measures, values, trained, sample))
        sentences = _entropy_sentences(facts, rounds, pairs) + notes
        return subject.finish("entropy", facts, sentences, written)


@dataclass(frozen=True)
class _Sample:
    """Pool examples that are followed. top, control: (examples,), which are the most uncertain ones, and which were
    drawn at random (none where the most uncertain are all). considered: how many they were taken from. base: what
    the base model says of them."""

    examples: tuple[Example, ...]
    top: numbers.Mask
    control: numbers.Mask
    considered: int
    base: Predictions


def _measures(subject: Subject, measure: str | None) -> tuple[list[str], list[str]]:
    """The measure and its partner over the other tokens, and a note where the run's own cannot be used."""
    kind = recorded_task(subject.facts).family
    notes = []
    if measure is None:
        own = (subject.facts.get("recipe") or {}).get("measure")
        measure = default_measure(kind) if own in (None, "auto") else str(own)
        if measure not in MEASURES or MEASURES[measure].oracle or MEASURES[measure].min_passes > 1:
            notes.append(
                f"The run's own measure, {measure}, cannot be taken from one pass without labels; "
                f"this is {default_measure(kind)}."
            )
            measure = default_measure(kind)
    problems = measure_problems(measure, kind, simulation=True)
    if not problems and (MEASURES[measure].oracle or MEASURES[measure].min_passes > 1):
        usable = [
            name for name, one in MEASURES.items() if kind in one.tasks and not one.oracle and one.min_passes == 1
        ]
        why = "reads gold answers" if MEASURES[measure].oracle else "compares Monte-Carlo passes"
        problems = [f"measure {measure!r} {why}, and a probe makes one pass without labels; {allowed(usable)}"]
    if problems:
        raise ConfigError("\n".join(problems))
    whole, part = "response_", "answer_"
    swap = {whole: part, part: whole}
    partner = next((measure.replace(a, b, 1) for a, b in swap.items() if measure.startswith(a)), None)
    fits = partner in MEASURES and kind in MEASURES[partner].tasks
    return [measure, partner] if partner is not None and fits else [measure], notes


def _with_adapters(subject: Subject, notes: list[str]) -> list[Metrics]:
    """The finished rounds whose adapter is still there; `notes` gets a sentence on the others."""
    finished = subject.store.metrics()
    there = [metrics for metrics in finished if subject.store.has_adapter(metrics.round)]
    if not there:
        what = "all their adapters are gone" if finished else "no round is complete yet"
        raise StoreError(f"{subject.folder}: {what}, so there is no tuned model to probe")
    if gone := [str(metrics.round) for metrics in finished if metrics not in there]:
        notes.append(f"Left out, because their adapters were deleted: round {', '.join(gone)}.")
    return there


def _sample(subject: Subject, measures: Sequence[str], top: int, limit: int | None) -> _Sample:
    """The examples to follow, the same for every run of one pool, model, measure and limit."""
    bench = subject.bench
    _ = subject.engine  # before anything is computed
    pool, seed = bench.pool, bench.config.data.seed
    if limit is not None and limit < len(pool):
        rows = generator(seed, 0, "probe/limit").choice(len(pool), size=limit, replace=False)
        pool = tuple(pool[i] for i in sorted(rows))
    main, every = frozenset(MEASURES[measures[0]].needs), _needs(measures)
    first = _base_predictions(subject, pool, main)
    chosen = numbers.most_uncertain(evaluate_measure(measures[0], first), top)
    drawn = np.zeros(0, dtype=np.intp)
    if len(chosen) < len(pool):
        drawn = generator(seed, 0, "probe/random").choice(len(pool), size=len(chosen), replace=False)
    rows = np.union1d(chosen, drawn)
    examples = tuple(pool[i] for i in rows)
    base = first.rows(rows) if main == every else _base_predictions(subject, examples, every)
    return _Sample(examples, np.isin(rows, chosen), np.isin(rows, drawn), len(pool), base)


def _needs(measures: Sequence[str]) -> frozenset[str]:
    return frozenset(need for name in measures for need in MEASURES[name].needs)


def _base_predictions(subject: Subject, examples: Sequence[Example], needs: frozenset[str]) -> Predictions:
    with subject.progress.phase("base model") as tick:
        return subject.untuned(examples, Ask(needs), tick)


def _values(subject: Subject, measures: Sequence[str], rounds: Sequence[int], sample: _Sample) -> dict[str, Array]:
    """Measure -> (1 + rounds, examples): the base model's values, then each round's."""
    needs = _needs(measures)
    found = [sample.base]
    for r in rounds:
        adapter = subject.store.adapter(r)
        asked = subject.question | {
            "adapter": files.sha256(adapter), "needs": sorted(needs), "ids": [e.id for e in sample.examples],
        }  # fmt: skip

        def compute(r: int = r, adapter: Path = adapter) -> Arrays:
            with subject.progress.phase(f"round {r}") as tick:
                return subject.engine.scorer(adapter)(sample.examples, Ask(needs), tick).arrays

        arrays = subject.cached(f"entropy-round-{r:03d}", asked, compute)
        found.append(Predictions(sample.base.ids, arrays, sample.base.labels))
    return {name: np.stack([evaluate_measure(name, one) for one in found]) for name in measures}


def _trained(subject: Subject, rounds: Sequence[int], examples: Sequence[Example]) -> numbers.Mask:
    """(1 + rounds, examples): which of them each model was trained on; the base model, on none."""
    found = np.zeros((1 + len(rounds), len(examples)), dtype=bool)
    for i, r in enumerate(rounds):
        known = {example.id for example, _ in subject.store.annotations.labelled(r)}
        found[i + 1] = [example.id in known for example in examples]
    return found


def _correlated(values: Array, trained: numbers.Mask, sample: _Sample) -> dict[str, Any]:
    """Means and correlations of one measure, for the most uncertain examples and for random ones."""
    found: dict[str, Any] = {}
    for name, mask in (("top", sample.top), ("random", sample.control)):
        if not mask.any():
            found[name] = None
            continue
        pearson, spearman, _ = numbers.correlations(values[:, mask])
        rest_pearson, rest_spearman, rest = numbers.correlations(values[:, mask], keep=~trained[:, mask])
        found[name] = {
            "mean": values[:, mask].mean(axis=1).tolist(),
            "std": values[:, mask].std(axis=1).tolist(),
            "examples": int(mask.sum()),
            "pearson": _matrix(pearson),
            "spearman": _matrix(spearman),
            "unlabelled": rest.tolist(),
            "pearson_unlabelled": _matrix(rest_pearson),
            "spearman_unlabelled": _matrix(rest_spearman),
        }
    return found


def _pairs(rounds: Sequence[Metrics]) -> list[tuple[int, int]]:
    """Rows of the two scatter plots: base and first round, and two late ones in a row."""
    place = {metrics.round: i + 1 for i, metrics in enumerate(rounds)}
    if all(r in place for r in LATE):
        return [(0, 1), (place[LATE[0]], place[LATE[1]])]
    return [(0, 1), (len(rounds) - 1, len(rounds))] if len(rounds) > 1 else [(0, 1)]


def _scatter(
    values: Array, trained: numbers.Mask, found: Mapping[str, Any], rounds: Sequence[Metrics], pair: tuple[int, int]
) -> figures.Pair:
    a, b = pair
    return figures.Pair(
        _row_name(rounds, a), _row_name(rounds, b), values[a], values[b], trained[a] | trained[b],
        _nan(found["pearson"][a][b]), _nan(found["pearson_unlabelled"][a][b]),
    )  # fmt: skip


def _row_name(rounds: Sequence[Metrics], row: int) -> str:
    return "base model" if row == 0 else f"round {rounds[row - 1].round} ({rounds[row - 1].labels:,} labels)"


def _correlation_rows(names: Sequence[str], found: Mapping[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Header and rows of the CSV file: every pair of rows, of both samples."""
    columns = ("pearson", "spearman", "unlabelled", "pearson_unlabelled", "spearman_unlabelled")
    rows: list[list[object]] = []
    for sample, one in found.items():
        for i in range(len(names) if one else 0):
            for j in range(i + 1, len(names)):
                rows.append([sample, names[i], names[j], one["examples"], *(one[column][i][j] for column in columns)])
    return ["sample", "from", "to", "examples", *columns], rows


def _example_table(
    subject: Subject, names: Sequence[str], measures: Sequence[str], values: Mapping[str, Array],
    trained: numbers.Mask, sample: _Sample,
) -> Path:  # fmt: skip
    """Every example that was followed, and its values: what the scatter plots show."""
    header = ["id", "where", "top", "random", "labelled_by"]
    header += [f"{measure}_{name if name == 'base' else f'round_{name}'}" for measure in measures for name in names]
    rows = []
    for i, example in enumerate(sample.examples):
        first = names[int(trained[:, i].argmax())] if trained[:, i].any() else None
        found = [value for measure in measures for value in values[measure][:, i]]
        where = Path(example.where).name  # the file and the line; not where somebody keeps the file
        rows.append([example.id, where, int(sample.top[i]), int(sample.control[i]), first, *found])
    return write_csv(subject.place / "entropy-examples.csv", header, rows)


def _entropy_sentences(
    facts: Mapping[str, Any], rounds: Sequence[Metrics], pairs: Sequence[tuple[int, int]]
) -> list[str]:
    name, top = facts["measure"], facts["top"]
    found = [
        f"Followed: the {top:,} of {facts['pool']:,} pool examples that are most uncertain to the base model "
        f"by {_titled(name)}; when {_row_name(rounds, len(rounds))} was trained, {facts['labelled'][-1]:,} of them were labelled."
        if top < facts["pool"]
        else f"Followed: all {top:,} pool examples, by {_titled(name)}; when {_row_name(rounds, len(rounds))} was trained, "
        f"{facts['labelled'][-1]:,} of them were labelled."
    ]
    for measure, both in facts["measures"].items():
        one = both["top"]
        mean = one["mean"]
        found.append(
            f"Mean {measure.replace('_', ' ')}: {mean[0]:.3f} by the base model, {mean[1]:.3f} by "
            f"{_row_name(rounds, 1)}, {mean[-1]:.3f} by {_row_name(rounds, len(rounds))}."
        )
        for a, b in pairs:
            text = (
                f"Correlation of {_row_name(rounds, a)} and {_row_name(rounds, b)}: "
                f"r = {_two(one['pearson'][a][b])}, Spearman {_two(one['spearman'][a][b])}"
            )
            left = one["unlabelled"][a][b]
            if left < one["examples"]:
                text += f"; r = {_two(one['pearson_unlabelled'][a][b])} for the {left:,} not labelled by then"
            if both["random"]:
                other = both["random"]["pearson"][a][b]
                text += f"; r = {_two(other)} for {both['random']['examples']:,} random examples of the pool"
            found.append(f"{text}.")
    if facts["random"]:
        found.append(
            "Taking the most uncertain examples narrows the base model's values, which can lower their correlation with "
            "the rounds' without any change of the model; the random examples are there to tell the two apart."
        )
    return found


def _title(measure: str, facts: Mapping[str, Any]) -> str:
    """The headline of a figure.

    >>> _title("entropy", {"top": 1000, "pool": 5000})
    'Entropy (nats) of the 1,000 examples most uncertain at the start'
    """
    which = f"the {facts['top']:,} examples most uncertain at the start" if facts["top"] < facts["pool"] else "the pool"
    words = _titled(measure)
    return f"{words[:1].upper()}{words[1:]} of {which}"


def _titled(measure: str) -> str:
    """A measure's name with its unit."""
    words = measure.replace("_", " ")
    if "entropy" not in measure and "nll" not in measure:
        return words
    per_token = MEASURES[measure].function.__name__ == "per_token"
    return f"{words} (nats per token)" if per_token else f"{words} (nats)"


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def _two(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _matrix(values: Array) -> list[list[float | None]]:
    return [[number(value) for value in row] for row in values]
