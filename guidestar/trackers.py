"""Experiment trackers: one configuration key, off by default, and a package imported only when it is asked for.

What is sent after each round: the measured numbers, the number of labels, and seconds by phase; once, the configuration
(with its template, its label names and its paths). Never a text, an answer or an id. Without the key nothing is sent.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidestar.errors import ConfigError, allowed

Values = Mapping[str, float]


@dataclass(frozen=True)
class Subject:
    """A run as a tracker sees it. project: the experiment's name. id: the same whenever the run is continued, so that a
    tracker that can goes on with its own run. config: JSON-able, one level of dotted names."""

    project: str
    name: str
    folder: Path
    config: Mapping[str, Any]

    @property
    def id(self) -> str:
        """16 hex digits of the run's place."""
        return hashlib.sha256(str(self.folder.absolute()).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Tracking:
    """An open tracker. log: a round's number and values. close: nothing more will come."""

    log: Callable[[int, Values], None]
    close: Callable[[], None]


_NONE = Tracking(lambda r, values: None, lambda: None)


def check(name: str) -> Any:
    """The tracker's module, None for "none". Raises ConfigError if the tracker is unknown or its package not installed."""
    if name == "none":
        return None
    if name not in TRACKERS:
        raise ConfigError(f"tracker is {name!r}; {allowed(['none', *TRACKERS], name)}")
    module = TRACKERS[name][0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"tracker is {name}, but {module} cannot be imported ({error}); pip install {name}, or set tracker: none"
        ) from error


def start(name: str, subject: Subject, say: Callable[[str], None] = lambda line: None) -> Tracking:
    """Begin to track a run. A tracker that fails later (a network, a full disk) is reported once and gets nothing more;
    the run goes on, for it has everything on its own disk.

    say: takes a line for people. Raises ConfigError as `check` does.
    """
    if (module := check(name)) is None:
        return _NONE
    failed: list[str] = []

    def guarded(action: Callable[[], Any]) -> Any:
        if failed:
            return None
        try:
            return action()
        except Exception as error:  # each package raises its own kinds
            failed.append(str(error))
            say(f"tracker {name} failed and gets nothing more; the run goes on: {type(error).__name__}: {error}")
            return None

    tracking: Tracking | None = guarded(lambda: TRACKERS[name][1](module, subject))
    if tracking is None:
        return _NONE

    def log(r: int, values: Values) -> None:
        guarded(lambda: tracking.log(r, {k: float(v) for k, v in values.items() if math.isfinite(v)}))

    return Tracking(log, lambda: guarded(tracking.close))


# --- one function each ----------------------------------------------------------------------------


def _trackio(trackio: Any, subject: Subject) -> Tracking:
    run = trackio.init(project=subject.project, name=subject.name, config=dict(subject.config), resume="allow")
    return Tracking(lambda r, values: run.log(dict(values), step=r), run.finish)


def _wandb(wandb: Any, subject: Subject) -> Tracking:
    run = wandb.init(
        project=subject.project, name=subject.name, id=subject.id, resume="allow", dir=str(subject.folder),
        config=dict(subject.config), reinit="create_new",
    )  # fmt: skip
    return Tracking(lambda r, values: run.log(dict(values), step=r), run.finish)


def _mlflow(mlflow: Any, subject: Subject) -> Tracking:
    client = mlflow.MlflowClient()
    known = client.get_experiment_by_name(subject.project)
    experiment = known.experiment_id if known is not None else client.create_experiment(subject.project)
    earlier = client.search_runs([experiment], filter_string=f"tags.guidestar = '{subject.id}'", max_results=1)
    if earlier:
        run = earlier[0].info.run_id
    else:
        tags = {"guidestar": subject.id, "mlflow.runName": subject.name}
        run = client.create_run(experiment, tags=tags).info.run_id
        for key, value in subject.config.items():
            client.log_param(run, key, str(value)[:500])  # longer ones are refused by some servers

    def log(r: int, values: Values) -> None:
        for key, value in values.items():
            client.log_metric(run, key, value, step=r)

    return Tracking(log, lambda: client.set_terminated(run))


def _tensorboard(tensorboard: Any, subject: Subject) -> Tracking:
    writer = tensorboard.SummaryWriter(log_dir=str(subject.folder / "tensorboard"))
    writer.add_text("config", f"```json\n{json.dumps(dict(subject.config), indent=1)}\n```")

    def log(r: int, values: Values) -> None:
        for key, value in values.items():
            writer.add_scalar(key, value, r)
        writer.flush()

    return Tracking(log, writer.close)


# name -> the module that must be there, and how it is begun
TRACKERS: dict[str, tuple[str, Callable[[Any, Subject], Tracking]]] = {
    "trackio": ("trackio", _trackio), "wandb": ("wandb", _wandb), "mlflow": ("mlflow", _mlflow),
    "tensorboard": ("torch.utils.tensorboard", _tensorboard),
}  # fmt: skip
