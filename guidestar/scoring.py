"""A file's examples under a model and an optional adapter, their uncertainty or their answers: two Unix tools' inside.

The file is read in parts, so that memory does not grow with it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from guidestar import config as configs
from guidestar.asking import LABELS, Ask, Scorer, suggest
from guidestar.asking.shortened import shortened
from guidestar.asking.wrappers import question
from guidestar.bench import Bench, with_present_labels
from guidestar.config import RunConfig
from guidestar.data.stream import Part, parts_of, survey
from guidestar.errors import ConfigError
from guidestar.exchange.own_rows import PREDICTED, beside, blank_rows_kept, write_rows
from guidestar.executors import EXECUTORS
from guidestar.loop import trained
from guidestar.progress import Progress, Silent, Tick, behind
from guidestar.query import measures as measure_room
from guidestar.query.recipes import SAMPLES, SOURCES
from guidestar.records import Example
from guidestar.store import find_run
from guidestar.store.cache import Cache
from guidestar.tasks import scored_labels
from guidestar.tasks.multi_label import answer_of

CHUNK = 1024  # examples predicted before their rows are given out
AHEAD = 16  # parts for each worker, which loads the model for them
PREDICTION = "guidestar.prediction"  # beside the measures of a part: the likeliest label's place, or 0 and 1 for each


def score_file(
    config: RunConfig, source: str, *, measures: Sequence[str] | None = None, adapter: str | None = None, passes: int = 0,
    seed: int = 0, keep: Path | None = None, progress: Progress | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Rows {"id", "where", "prediction", MEASURE: value, …} in the order of the file; {"id", "where", "error"} for a text
    that is too long for the model.

    config: its template, task and model are used. measures: default the one of `measure: auto`.
    passes: K Monte-Carlo passes with the adapter's dropout; the value is the mean of the K values for
    measures of a single pass. Oracle measures need the answer column in the file; one of sampled answers samples 10.
    keep: a folder for the values of finished parts: asked the same again after a stop, only what is missing is
    computed. It may be deleted at any time.

    Raises ConfigError for an unknown or unfit measure, DataError for a row that cannot be used, StoreError for a damaged
    part in `keep`.
    """
    bench = Bench(config, progress or Silent())
    config, task = bench.config, bench.task
    names = list(measures or [measure_room.default_measure(task.family)])
    rows_of_file = survey(source, config, task.parse_gold)
    labelled = rows_of_file.answered == rows_of_file.rows
    problems = [p for name in names for p in measure_room.measure_problems(name, task.family, labelled)]
    chosen = {} if problems else {name: measure_room.MEASURES[name] for name in names}
    problems += [
        f"measure {name} compares Monte-Carlo passes: give --passes 2 or more"
        for name, measure in chosen.items()
        if not measure.sampled and measure.min_passes > max(passes, 1)
    ]
    if problems:
        raise ConfigError("\n".join(problems))

    asks = config.engines.score
    with ExitStack() as stack:
        own = stack.enter_context(TemporaryDirectory())
        scorer = bench.parts(
            keep or Path(own), Path(adapter) if adapter else None, CHUNK, dtype=config.model.score_dtype,
            b_dropout=config.train.b_dropout if passes else None,
        )  # fmt: skip
        needs = {array for measure in chosen.values() for array in measure.needs}
        needs |= LABELS.needs if scored_labels(task) else set()
        samples = SAMPLES if any(measure.sampled for measure in chosen.values()) else 0
        plain = Ask.of(needs, passes=passes, samples=samples, gold={})
        if (why := scorer.refusal(plain)) is not None:
            raise ConfigError(why if adapter else f"{why}; give --adapter, or the folder of a run")
        about = {"measures": names, "code": [SOURCES.get(("MEASURES", name)) for name in names]}
        many = (asks.part or CHUNK) * (AHEAD * asks.workers if asks.use in EXECUTORS else 1)
        stack.enter_context(scorer)
        tick = stack.enter_context(bench.progress.phase("score"))
        for piece in parts_of(rows_of_file, many):
            start, whole, cells = piece.start, piece.examples, piece.answers
            gold = {e.id: task.parse_gold(a, e.where) for e, a in zip(whole, cells, strict=True) if a is not None}
            fit, errors = shortened(scorer, whole, config, gold if plain.reads_gold else {})
            part, ask = [e for e in fit if e.id not in errors], replace(plain, seed=seed + start, gold=gold)
            make = partial(_values, scorer, part, ask, names, behind(tick, start, rows_of_file.rows))
            if keep is None:
                values: Mapping[str, np.ndarray] = make()
            else:
                values = Cache(keep).arrays(f"part-{start:09d}", {**question(scorer, part, ask), **about}, make)
                tick(start + len(whole), rows_of_file.rows)
            scorer.forget()
            places = {example.id: i for i, example in enumerate(part)}
            for example, row in _named(piece, config):
                if example.id in errors:
                    yield row | {"error": errors[example.id]}
                    continue
                i = places[example.id]
                if PREDICTION in values:
                    place = values[PREDICTION][i]
                    row["prediction"] = answer_of(scorer.labels, place) if place.ndim else scorer.labels[int(place)]
                yield row | {name: float(values[name][i]) for name in names}


def _values(
    scorer: Scorer, examples: Sequence[Example], ask: Ask, measures: Sequence[str], tick: Tick
) -> dict[str, np.ndarray]:
    """Measure -> (n,); and for a choice the place of the likeliest label."""
    said = scorer(examples, ask, tick)
    values: dict[str, np.ndarray] = {name: measure_room.evaluate_measure(name, said) for name in measures}
    if "label_log_probs" in said.arrays:
        values[PREDICTION] = said.arrays["label_log_probs"].mean(0).argmax(-1)
    return values


def _named(part: Part, config: RunConfig) -> Iterator[tuple[Example, dict[str, Any]]]:
    """Each example of a part with how its row is called: by the user's column, or its hash; and where it is."""
    for row, place in part.rows:
        if place is not None:
            example = part.examples[place]
            id = row.plain().get(config.data.id) if config.data.id else None
            yield example, {"id": example.id if id is None else id, "where": example.where}


def highest(rows: Iterator[dict[str, Any]], k: int) -> list[dict[str, Any]]:
    """The k rows of `score_file` with the highest value of the first measure, highest first, of equals the earlier one.
    No more than k rows are held, and none without a value.

    Raises ConfigError for a k below 1.
    >>> highest(iter([{"id": "a", "margin": 0.2}, {"id": "b", "margin": 0.9}, {"id": "c", "margin": 0.5}]), 2)
    [{'id': 'b', 'margin': 0.9}, {'id': 'c', 'margin': 0.5}]
    """
    if k < 1:
        raise ConfigError(f"top is {k}; allowed: 1 or more")
    named = {"id", "where", "prediction"}
    valued = (row for row in rows if "error" not in row)
    return heapq.nlargest(k, valued, key=lambda row: next(row[name] for name in row if name not in named))


def predict_file(
    run: Path, config: RunConfig, source: Any, *, round: int | None = None, progress: Progress | None = None,
    own: bool = False,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Rows {"id", "where", "answer", "probability"} in the order of the file, the last where there are labels; {"id", "where",
    "error"} for a text that is too long for the model.

    source: a file of any form that a pool may have, or a pandas DataFrame. own: every row of it, blank ones too, with all
    its own columns in the place of id and where (`exchange/own_rows.py`).

    run: a run's folder, or one that holds a single run. config: that run's; its template, task and model are used.
    round: whose adapter answers; None is the last that was trained.
    Raises StoreError without a trained adapter, ConfigMismatch if the base model is another than the run's, DataError
    for a row that cannot be used.
    """
    folder = find_run(run)
    bench = Bench(with_present_labels(config, folder), progress or Silent())
    config, task = bench.config, bench.task
    rows_of_file = survey(source, blank_rows_kept(config) if own else config, lambda answer, where: None)
    names = beside(rows_of_file.columns if own else (), PREDICTED)
    adapter, chosen, begun = trained(folder, config, round, bench=bench)

    bench.engine.must_be(begun, folder, ["fingerprint"])
    with bench.engine.scorer(adapter) as scorer, bench.progress.phase("predict") as tick:
        for part in parts_of(rows_of_file, CHUNK):
            fit, errors = shortened(scorer, part.examples, config)
            some = [e for e in fit if e.id not in errors]
            answers = suggest(scorer, some, task, chosen, behind(tick, part.start, rows_of_file.rows)) if some else {}
            known: dict[str, dict[str, Any]] = {id: {"error": why} for id, why in errors.items()}
            for id, said in answers.items():
                chance = {"probability": said.probabilities[said.answer]} if said.probabilities else {}
                known[id] = {"answer": said.answer, **chance}
            if not own:
                yield from (row | known[example.id] for example, row in _named(part, config))
                continue
            for whole, place in part.rows:
                new = known[part.examples[place].id] if place is not None else {"error": "the row is blank"}
                added = {names[name]: new.get(name) for name in PREDICTED}
                yield dict.fromkeys(rows_of_file.columns) | whole.plain() | added


def predict(
    run: str | Path, data: Any, out: str | Path | None = None, *, round: int | None = None,
    progress: Progress | None = None,
) -> Any:  # fmt: skip
    """What a run's adapter answers to every row of a file or of a pandas DataFrame, beside the row's own columns.

    Of a DataFrame a new one comes back, its index and columns as they were, with "answer", "probability" and "error". Of a
    file the rows as dictionaries, one by one; with `out` they are written there (.csv, .jsonl, .parquet) and the path
    comes back. Raises what `predict_file` does.
    """
    folder = find_run(Path(run))
    frame, source = not isinstance(data, (str, Path)), str(data) if isinstance(data, Path) else data
    rows = predict_file(folder, configs.load(folder), source, round=round, progress=progress, own=True)
    if out is not None:
        write_predictions(rows, Path(out), source)
        return Path(out)
    if not frame:
        return rows
    result, columns = data.copy(), list(map(str, data.columns))
    new = [{n: row[name] for n, name in beside(columns, PREDICTED).items()} for row in rows]
    for name, column in beside(columns, PREDICTED).items():
        result[column] = [row[name] for row in new]
    return result


def write_predictions(rows: Iterator[dict[str, Any]], out: Path, source: object) -> int:
    """Write what `predict_file` gives with `own`; returns how many rows."""
    first = next(rows)  # all rows have the same keys in the end: those of the file, and ours
    return write_rows(list(first), chain([first], rows), out, PREDICTED, source)
