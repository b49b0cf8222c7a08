"""Do the examples that were uncertain at the start stay so over the rounds (STAR, figure 3)?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.asking import Ask, Engine
from guidestar.errors import ConfigError, allowed
from guidestar.metrics.diagnostics import LEAST
from guidestar.progress import Tick
from guidestar.query.measures import MEASURES, default_measure, evaluate_measure, measure_problems
from guidestar.records import Array, Example, Metrics, Predictions
from guidestar.rng import generator
from guidestar.study.probes import figures, numbers
from guidestar.study.probes.run import Answer, Arrays, Figure, Rows, Subject, at_least, plain
from guidestar.tasks import recorded_task

LATE = (4, 5)  # the rounds that the paper calls iterations 5 and 6


def entropy(subject: Subject, *, top: int = 1000, limit: int | None = None, measure: str | None = None) -> Answer:
    """Uncertainty of the pool's examples that the base model finds most uncertain, by every round's adapter.

    The examples are the same in all rounds, labelled meanwhile or not; correlations are given with those that were
    trained on, and without. Taking the most uncertain ones narrows the base model's values, and this alone lowers
    their correlation with others: as many examples drawn at random from the same pool stand beside them.

    top: how many examples. limit: of how many pool examples, drawn at random; default all. measure: an uncertainty
    measure that needs no label, default the run's own; for one over the whole response, the one over its answer
    tokens is given beside it, and the other way round. All values are of one plain pass, without dropout.
    Raises ConfigError for a measure that does not fit, ConfigMismatch for another model or other data than the run's.
    """
    at_least(LEAST, top=top, limit=limit)
    measures, notes = _measures(subject, measure)
    rounds = subject.tuned_rounds()
    if gone := [str(m.round) for m in subject.finished() if m not in rounds]:
        notes.append(f"Left out, because their adapters were deleted: round {', '.join(gone)}.")
    sample = _sample(subject, measures, top, limit)
    values = _values(subject, measures, [metrics.round for metrics in rounds], sample)
    trained = np.zeros((1 + len(rounds), len(sample.examples)), dtype=bool)  # which examples each model was trained on
    for i, metrics in enumerate(rounds, start=1):
        known = {example.id for example, _ in subject.store.annotations.labelled(metrics.round)}
        trained[i] = [example.id in known for example in sample.examples]
    names = ["base", *(str(metrics.round) for metrics in rounds)]
    facts: dict[str, Any] = {
        "measure": measures[0], "pool": sample.considered, "top": int(sample.top.sum()),
        "random": int(sample.control.sum()) or None, "rows": names,
        "labels": [0, *(metrics.labels for metrics in rounds)],
        "labelled": trained[:, sample.top].sum(axis=1).tolist(),
        "measures": {name: _correlated(values[name], trained, sample) for name in measures},
    }  # fmt: skip
    pairs = _pairs(rounds)
    drawn = []
    for name in measures:
        one = facts["measures"][name]
        pearson, rest = (np.asarray(one["top"][key], dtype=np.float64) for key in ("pearson", "pearson_unlabelled"))
        of_top, of_trained = values[name][:, sample.top], trained[:, sample.top]
        scatters = [
            figures.Pair(
                _row_name(rounds, a), _row_name(rounds, b), of_top[a], of_top[b], of_trained[a] | of_trained[b],
                pearson[a, b], rest[a, b],
            )
            for a, b in pairs
        ]  # fmt: skip
        draw = figures.draw_correlations(names, pearson, scatters, _title(name, facts))
        ending = "" if name == measures[0] else f"-{name}"
        width, height = (6.4, 2.8) if len(pairs) == 1 else (7.0, 2.8 + 2.3 * (len(pairs) - 1))
        drawn.append(Figure(*_table(names, one), draw, width, height, ending))
    examples = _examples(names, {name: values[name] for name in measures}, trained, sample)
    return Answer(facts, _sentences(facts, rounds, pairs) + notes, [*drawn, examples])


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
    usable = [name for name, one in MEASURES.items() if kind in one.tasks and not one.oracle and one.min_passes == 1]
    notes = []
    if measure is None:
        own = (subject.facts.get("recipe") or {}).get("measure")
        measure = default_measure(kind) if own in (None, "auto") else str(own)
        if measure not in MEASURES or MEASURES[measure].oracle or MEASURES[measure].min_passes > 1:
            why = "cannot be taken from one pass without labels"
            notes.append(f"The run's own measure, {measure}, {why}; this is {default_measure(kind)}.")
            measure = default_measure(kind)
    problems = measure_problems(measure, kind, simulation=True)
    if not problems and measure not in usable:
        why = "reads gold answers" if MEASURES[measure].oracle else "compares Monte-Carlo passes"
        problems = [f"measure {measure!r} {why}, and a probe makes one pass without labels; {allowed(usable)}"]
    if problems:
        raise ConfigError("\n".join(problems))
    swap = {"response_": "answer_", "answer_": "response_"}
    partners = [measure.replace(a, b, 1) for a, b in swap.items() if measure.startswith(a)]
    return [measure, *(name for name in partners if name in MEASURES and kind in MEASURES[name].tasks)], notes


def _sample(subject: Subject, measures: Sequence[str], top: int, limit: int | None) -> _Sample:
    """The examples to follow, the same for every run of one pool, model, measure and limit."""
    bench = subject.bench
    _ = subject.engine  # before anything is computed
    pool, seed = bench.pool, bench.config.data.seed
    if limit is not None and limit < len(pool):
        rows = generator(seed, 0, "probe/limit").choice(len(pool), size=limit, replace=False)
        pool = pool.take(np.sort(rows))
    main, every = _needs(measures[:1]), _needs(measures)
    first = _by_base(subject, pool, main)
    chosen = np.argsort(-evaluate_measure(measures[0], first), kind="stable")[:top]  # of equal values the first
    drawn = np.zeros(0, dtype=np.intp)
    if len(chosen) < len(pool):
        drawn = generator(seed, 0, "probe/random").choice(len(pool), size=len(chosen), replace=False)
    rows = np.union1d(chosen, drawn)
    examples = tuple(pool[i] for i in rows)
    base = first.rows(rows) if main == every else _by_base(subject, examples, every)
    return _Sample(examples, np.isin(rows, chosen), np.isin(rows, drawn), len(pool), base)


def _needs(measures: Sequence[str]) -> frozenset[str]:
    return frozenset(need for name in measures for need in MEASURES[name].needs)


def _by_base(subject: Subject, examples: Sequence[Example], needs: frozenset[str]) -> Predictions:
    with subject.progress.phase("base model") as tick:
        return subject.untuned(examples, Ask(needs), tick)


def _values(subject: Subject, measures: Sequence[str], rounds: Sequence[int], sample: _Sample) -> dict[str, Array]:
    """Measure -> (1 + rounds, examples): the base model's values, then each round's."""
    needs = _needs(measures)
    predictions = [sample.base]
    asked = {"needs": sorted(needs), "ids": [e.id for e in sample.examples]}

    def said(engine: Engine, adapter: Path | None, tick: Tick) -> Arrays:
        return engine.scorer(adapter)(sample.examples, Ask(needs), tick).arrays

    for r in rounds:
        arrays = subject.of_model(f"entropy-round-{r:03d}", r, asked, said)
        predictions.append(Predictions(sample.base.ids, arrays, sample.base.labels))
    return {name: np.stack([evaluate_measure(name, one) for one in predictions]) for name in measures}


def _correlated(values: Array, trained: numbers.Mask, sample: _Sample) -> dict[str, Any]:
    """Means and correlations of one measure, for the most uncertain examples and for random ones."""
    correlated: dict[str, Any] = {}
    for name, mask in (("top", sample.top), ("random", sample.control)):
        if not mask.any():
            correlated[name] = None
            continue
        some = values[:, mask]
        pearson, spearman, _ = numbers.correlations(some)
        rest_pearson, rest_spearman, rest = numbers.correlations(some, keep=~trained[:, mask])
        correlated[name] = {
            "mean": some.mean(axis=1).tolist(), "std": some.std(axis=1).tolist(), "examples": int(mask.sum()),
            "pearson": plain(pearson), "spearman": plain(spearman), "unlabelled": rest.tolist(),
            "pearson_unlabelled": plain(rest_pearson), "spearman_unlabelled": plain(rest_spearman),
        }  # fmt: skip
    return correlated


def _pairs(rounds: Sequence[Metrics]) -> list[tuple[int, int]]:
    """Rows of the two scatter plots: base and first round, and two late ones in a row."""
    place = {metrics.round: i + 1 for i, metrics in enumerate(rounds)}
    if all(r in place for r in LATE):
        return [(0, 1), (place[LATE[0]], place[LATE[1]])]
    return [(0, 1), (len(rounds) - 1, len(rounds))] if len(rounds) > 1 else [(0, 1)]


def _row_name(rounds: Sequence[Metrics], row: int) -> str:
    return "base model" if row == 0 else f"round {rounds[row - 1].round} ({rounds[row - 1].labels:,} labels)"


def _table(names: Sequence[str], samples: Mapping[str, Any]) -> tuple[list[str], Rows]:
    """Header and rows of the CSV file: every pair of rows, of both samples."""
    columns = ("pearson", "spearman", "unlabelled", "pearson_unlabelled", "spearman_unlabelled")
    rows: Rows = [
        [sample, names[i], names[j], one["examples"], *(one[column][i][j] for column in columns)]
        for sample, one in samples.items()
        if one
        for i in range(len(names))
        for j in range(i + 1, len(names))
    ]
    return ["sample", "from", "to", "examples", *columns], rows


def _examples(names: Sequence[str], values: Mapping[str, Array], trained: numbers.Mask, sample: _Sample) -> Figure:
    """The table of every example that was followed, and its values: what the scatter plots show."""
    header = ["id", "where", "top", "random", "labelled_by"]
    header += [f"{measure}_{name if name == 'base' else f'round_{name}'}" for measure in values for name in names]
    rows: Rows = []
    for i, example in enumerate(sample.examples):
        first = names[int(trained[:, i].argmax())] if trained[:, i].any() else None
        where = Path(example.where).name  # the file and the line; not where somebody keeps the file
        own = [value for one in values.values() for value in one[:, i]]
        rows.append([example.id, where, int(sample.top[i]), int(sample.control[i]), first, *own])
    return Figure(header, rows, ending="-examples")


def _sentences(facts: Mapping[str, Any], rounds: Sequence[Metrics], pairs: Sequence[tuple[int, int]]) -> list[str]:
    top, pool = facts["top"], facts["pool"]
    which = f"the {top:,} of {pool:,} pool examples that are most uncertain to the base model"
    said = [
        f"Followed: {which if top < pool else f'all {top:,} pool examples,'} by {_titled(facts['measure'])}; when "
        f"{_row_name(rounds, len(rounds))} was trained, {facts['labelled'][-1]:,} of them were labelled."
    ]
    for measure, both in facts["measures"].items():
        one, mean = both["top"], both["top"]["mean"]
        tuned = f"{mean[1]:.3f} by {_row_name(rounds, 1)}, {mean[-1]:.3f} by {_row_name(rounds, len(rounds))}"
        said.append(f"Mean {measure.replace('_', ' ')}: {mean[0]:.3f} by the base model, {tuned}.")
        for a, b in pairs:
            pearson, spearman = (figures.two_digits(one[kind][a][b]) for kind in ("pearson", "spearman"))
            pair = f"{_row_name(rounds, a)} and {_row_name(rounds, b)}"
            text = f"Correlation of {pair}: r = {pearson}, Spearman {spearman}"
            left = one["unlabelled"][a][b]
            if left < one["examples"]:
                rest = figures.two_digits(one["pearson_unlabelled"][a][b])
                text += f"; r = {rest} for the {left:,} not labelled by then"
            if other := both["random"]:
                text += f"; r = {figures.two_digits(other['pearson'][a][b])} for {other['examples']:,} random examples of the pool"
            said.append(f"{text}.")
    if facts["random"]:
        said.append(
            "Taking the most uncertain examples narrows the base model's values, which can lower their correlation with "
            "the rounds' without any change of the model; the random examples are there to tell the two apart."
        )
    return said


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
