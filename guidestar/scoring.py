"""Uncertainty of every example of a file, under a model and an optional adapter: a Unix tool's inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from guidestar.config import RunConfig
from guidestar.data.pool import load_dataset, read_examples
from guidestar.data.presets import apply_preset
from guidestar.data.tasks import make_task
from guidestar.errors import ConfigError
from guidestar.progress import Progress, Silent, Tick
from guidestar.query import measures as measure_room

CHUNK = 1024  # examples predicted before their rows are given out


def score_file(
    config: RunConfig,
    source: str,
    *,
    measures: Sequence[str] | None = None,
    adapter: str | None = None,
    passes: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows {"id", "where", "prediction", MEASURE: value, …} in the order of the file.

    config: its template, task and model are used. measures: default the one of `measure: auto`.
    passes: K Monte-Carlo passes with the adapter's dropout; the value is the mean of the K values for
    measures of a single pass. Oracle measures need the answer column in the file.

    Raises ConfigError for an unknown or unfit measure, DataError for a row that cannot be used.
    """
    examples, answers = read_examples(source, config)
    data, task_config, _ = apply_preset(config.data, config.task)
    if task_config.kind == "choice" and task_config.labels is None:  # they are those of the run's own data
        task = load_dataset(config).task
    else:
        task = make_task(task_config, [], data.response)
    names = list(measures or [measure_room.default_measure(task.kind)])
    labelled = all(answer is not None for answer in answers)
    problems = [p for name in names for p in measure_room.measure_problems(name, task.kind, labelled)]
    problems += [
        f"measure {name} compares Monte-Carlo passes: give --passes 2 or more"
        for name in names
        if not problems and measure_room.MEASURES[name].min_passes > max(passes, 1)
    ]
    if problems:
        raise ConfigError("\n".join(problems))

    from guidestar.model import adapters, load
    from guidestar.model.arrays import predict
    from guidestar.model.precision import computing_in

    progress = progress or Silent()
    with progress.phase("loading model"):
        base = load.load(config.model, progress.say)
    needs = {array for name in names for array in measure_room.MEASURES[name].needs}
    if task.kind == "choice":
        needs.add("label_log_probs")
    gold = {e.id: task.parse_gold(a, e.where) for e, a in zip(examples, answers, strict=True) if a is not None}
    with (
        computing_in(base, config.model.score_dtype) as scorer,
        adapters.adapted(
            scorer, Path(adapter) if adapter else None, b_dropout=config.train.b_dropout if passes else None
        ) as model,
        progress.phase("score") as tick,
    ):
        for start in range(0, len(examples), CHUNK):
            part = examples[start : start + CHUNK]
            found = predict(
                scorer, model, part, needs, task, passes=passes, seed=seed + start, gold=gold,
                tick=_from(start, len(examples), tick),
            )  # fmt: skip
            values = {name: measure_room.evaluate_measure(name, found) for name in names}
            likeliest = found.arrays["label_log_probs"].mean(0).argmax(1) if task.kind == "choice" else None
            for i, example in enumerate(part):
                row: dict[str, Any] = {"id": example.id, "where": example.where}
                if likeliest is not None:
                    row["prediction"] = found.labels[int(likeliest[i])]
                yield row | {name: float(values[name][i]) for name in names}


def _from(start: int, total: int, tick: Tick) -> Tick:
    """The tick of a part that begins at `start` as one of the whole."""
    return lambda done, _: tick(start + done, total)
