"""A file's examples under a model and an optional adapter, their uncertainty or their answers: two Unix tools' inside.

The file is read in parts, so that memory does not grow with it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.config import RunConfig
from guidestar.data.pool import load_dataset
from guidestar.data.presets import apply_preset
from guidestar.data.stream import parts_of, survey
from guidestar.errors import ConfigError
from guidestar.loop import trained
from guidestar.progress import Progress, Silent, behind
from guidestar.query import measures as measure_room
from guidestar.query.recipes import SAMPLES, SOURCES
from guidestar.records import Example
from guidestar.store.files import sha256
from guidestar.store.store import find_run
from guidestar.tasks import TASKS, Task, make_task

CHUNK = 1024  # examples predicted before their rows are given out
PREDICTION = "guidestar.prediction"  # beside the measures of a part: the likeliest label's place


def score_file(
    config: RunConfig,
    source: str,
    *,
    measures: Sequence[str] | None = None,
    adapter: str | None = None,
    passes: int = 0,
    seed: int = 0,
    keep: Path | None = None,
    progress: Progress | None = None,
) -> Iterator[dict[str, Any]]:
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
    task = _task(config)
    names = list(measures or [measure_room.default_measure(task.family)])
    found = survey(source, config, task.parse_gold)
    labelled = found.answered == found.rows
    problems = [p for name in names for p in measure_room.measure_problems(name, task.family, labelled)]
    problems += [
        f"measure {name} compares Monte-Carlo passes: give --passes 2 or more"
        for name in names
        if not problems
        and not measure_room.MEASURES[name].sampled
        and measure_room.MEASURES[name].min_passes > max(passes, 1)
    ]
    if problems:
        raise ConfigError("\n".join(problems))

    from guidestar.model import adapters, load
    from guidestar.model.arrays import predict
    from guidestar.model.parts import kept_part
    from guidestar.model.precision import computing_in

    progress = progress or Silent()
    with progress.phase("loading model"):
        base = load.load(config.model, progress.say, task.classes)
    if base.labels and adapter is None:
        raise ConfigError(
            f"{base.name} answers with a classification head, which is noise without the adapter that it was trained "
            "with; give --adapter, or the folder of a run"
        )
    needs = {array for name in names for array in measure_room.MEASURES[name].needs}
    if task.classes:
        needs.add("label_log_probs")
    labels = base.labels or task.classes
    oracle = any(measure_room.MEASURES[name].oracle for name in names)
    samples = SAMPLES if any(measure_room.MEASURES[name].sampled for name in names) else 0
    asked = {
        "model": base.fingerprint, "settings": config.model.model_dump(mode="json"), "measures": names, "passes": passes,
        "adapter": sha256(Path(adapter)) if adapter and Path(adapter).exists() else None, "task": repr(task),
        "b_dropout": config.train.b_dropout, "samples": samples,
    }  # fmt: skip
    if own := [SOURCES["MEASURES", name] for name in names if ("MEASURES", name) in SOURCES]:
        asked["code"] = own
    with (
        computing_in(base, config.model.score_dtype) as scorer,
        adapters.adapted(
            scorer, Path(adapter) if adapter else None, b_dropout=config.train.b_dropout if passes else None
        ) as model,
        progress.phase("score") as tick,
    ):

        def values_of(start: int, part: Sequence[Example], gold: Mapping[str, str]) -> dict[str, np.ndarray]:
            told = behind(tick, start, found.rows)
            said = predict(
                scorer, model, part, needs, task, passes=passes, seed=seed + start, gold=gold, tick=told, samples=samples,
            )  # fmt: skip
            values = {name: measure_room.evaluate_measure(name, said) for name in names}
            if task.classes:
                values[PREDICTION] = said.arrays["label_log_probs"].mean(0).argmax(1)
            return values

        for start, whole, cells in parts_of(found, CHUNK):
            gold = {e.id: task.parse_gold(a, e.where) for e, a in zip(whole, cells, strict=True) if a is not None}
            errors = _too_long(scorer, task, whole, gold if oracle else {})
            part = [e for e in whole if e.id not in errors]
            make = partial(values_of, start, part, gold)
            if keep is None:
                values: Mapping[str, np.ndarray] = make()
            else:
                rows = [[e.id, e.prompt] for e in part]
                question = {**asked, "seed": seed + start, "rows": rows, "gold": gold if oracle else None}
                values = kept_part(keep, start, question, make)
                tick(start + len(whole), found.rows)
            places = {example.id: i for i, example in enumerate(part)}
            for example in whole:
                row: dict[str, Any] = {"id": example.id, "where": example.where}
                if example.id in errors:
                    yield row | {"error": errors[example.id]}
                    continue
                i = places[example.id]
                if PREDICTION in values:
                    row["prediction"] = labels[int(values[PREDICTION][i])]
                yield row | {name: float(values[name][i]) for name in names}


def _too_long(base: Any, task: Task, part: Sequence[Example], gold: Mapping[str, str]) -> dict[str, str]:
    """Id -> what to say of it, of the examples that do not fit the model's context with a response."""
    from guidestar.model.batches import too_long
    from guidestar.model.predict import rooms

    said = f"the prompt and a response do not fit the model's context of {base.max_length} tokens"
    return dict.fromkeys(too_long(base, part, rooms(base, task, part, gold)), said)


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
    return heapq.nlargest(
        k,
        (row for row in rows if "error" not in row),
        key=lambda row: next(row[name] for name in row if name not in named),
    )


def predict_file(
    run: Path, config: RunConfig, source: str, *, round: int | None = None, progress: Progress | None = None
) -> Iterator[dict[str, Any]]:
    """Rows {"id", "where", "answer", "probability"} in the order of the file, the last for a choice only; {"id", "where",
    "error"} for a text that is too long for the model.

    run: a run's folder, or one that holds a single run. config: that run's; its template, task and model are used.
    round: whose adapter answers; None is the last that was trained.
    Raises StoreError without a trained adapter, ConfigMismatch if the base model is another than the run's, DataError
    for a row that cannot be used.
    """
    folder = find_run(run)
    task = _task(config)
    found = survey(source, config, lambda answer, where: None)
    adapter, chosen, begun = trained(folder, config, round, progress=progress)

    from guidestar.model import adapters, load
    from guidestar.model.suggest import suggest

    progress = progress or Silent()
    with progress.phase("loading model"):
        base = load.load(config.model, progress.say, task.classes)
    load.same(base, begun, folder, ["fingerprint"])
    with adapters.adapted(base, adapter) as model, progress.phase("predict") as tick:
        for start, part, _ in parts_of(found, CHUNK):
            errors = _too_long(base, task, part, {})
            some = [e for e in part if e.id not in errors]
            answers = suggest(base, model, some, task, chosen, behind(tick, start, found.rows)) if some else {}
            for example in part:
                row: dict[str, Any] = {"id": example.id, "where": example.where}
                if example.id in errors:
                    yield row | {"error": errors[example.id]}
                    continue
                said = answers[example.id]
                row["answer"] = said.answer
                yield row | ({"probability": said.probabilities[said.answer]} if said.probabilities else {})


def _task(config: RunConfig) -> Task:
    data, task_config, _ = apply_preset(config.data, config.task)
    kind = TASKS.get(task_config.kind or "")
    if kind is not None and kind.reads_labels and task_config.labels is None:  # they are those of the run's own data
        return load_dataset(config).task
    return make_task(task_config, [], data.response)
