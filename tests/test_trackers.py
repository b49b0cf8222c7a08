"""Trackers: off unless asked for, a missing package is named before anything runs, and what each is sent."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import accelerate  # noqa: F401 - it asks for the packages of trackers when it is imported: before some are replaced here
import pytest

from guidestar import config as configs
from guidestar import loop, trackers
from guidestar.errors import ConfigError
from guidestar.schema import RunConfig

Make = Callable[..., dict[str, Any]]


class Notes:
    """What a fake package was told."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.values: list[tuple[int, dict[str, float]]] = []
        self.closed = 0


def fake(notes: Notes, name: str) -> ModuleType:
    """A module with the few calls that the tracker's own package has."""
    module = ModuleType(name)

    def finish(*arguments: Any) -> None:
        notes.closed += 1

    if name in ("trackio", "wandb"):

        def init(**options: Any) -> Any:
            notes.begun.append(options)
            return SimpleNamespace(log=lambda values, step: notes.values.append((step, values)), finish=finish)

        module.init = init  # type: ignore[attr-defined]
    elif name == "mlflow":
        runs: dict[str, str] = {}

        class MlflowClient:
            def get_experiment_by_name(self, project: str) -> Any:
                return SimpleNamespace(experiment_id="7") if notes.begun else None

            def create_experiment(self, project: str) -> str:
                notes.begun.append({"project": project, "config": {}})
                return "7"

            def search_runs(self, experiments: list[str], filter_string: str, max_results: int) -> list[Any]:
                mark = filter_string.removeprefix("tags.guidestar = '").removesuffix("'")
                return [SimpleNamespace(info=SimpleNamespace(run_id=runs[mark]))] if mark in runs else []

            def create_run(self, experiment: str, tags: dict[str, str]) -> Any:
                runs[tags["guidestar"]] = "run"
                notes.begun[-1]["name"] = tags["mlflow.runName"]
                return SimpleNamespace(info=SimpleNamespace(run_id="run"))

            def log_param(self, run: str, key: str, value: str) -> None:
                assert len(value) <= 500
                notes.begun[-1]["config"][key] = value

            def log_metric(self, run: str, key: str, value: float, step: int) -> None:
                if not notes.values or notes.values[-1][0] != step:
                    notes.values.append((step, {}))
                notes.values[-1][1][key] = value

            set_terminated = finish

        module.MlflowClient = MlflowClient  # type: ignore[attr-defined]
    else:

        class SummaryWriter:
            def __init__(self, log_dir: str) -> None:
                notes.begun.append({"project": Path(log_dir).parts[-3], "name": Path(log_dir).parts[-2]})

            def add_text(self, title: str, text: str) -> None:
                notes.begun[-1]["config"] = text

            def add_scalar(self, key: str, value: float, step: int) -> None:
                if not notes.values or notes.values[-1][0] != step:
                    notes.values.append((step, {}))
                notes.values[-1][1][key] = value

            def flush(self) -> None:
                pass

            close = finish

        module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    return module


@pytest.fixture(params=list(trackers.TRACKERS))
def told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Notes]:
    notes, name = Notes(), trackers.TRACKERS[request.param][0]
    monkeypatch.setitem(sys.modules, name, fake(notes, name))
    return request.param, notes


def test_the_table_and_the_key_name_the_same() -> None:
    kinds = get_args(RunConfig.model_fields["tracker"].annotation)
    assert kinds == ("none", *trackers.TRACKERS)
    assert configs.parse({"data": {"preset": "demo", "folder": "x"}}).tracker == "none"


def test_each_round_is_sent_and_no_text(make_config: Make, told: tuple[str, Notes]) -> None:
    name, notes = told
    plain = make_config(strategies=["random"], query={"warm_start": 8, "batch": 4, "budget": 16}, tracker=name)
    config = configs.parse(plain)
    with loop.Run(config) as run:
        run.run(loop.oracle(run.bench.dataset))
        measured = run.metrics()
        prompts = [e.prompt for e in run.bench.pool]
    assert [step for step, _ in notes.values] == [0, 1, 2]
    for (_, values), metric in zip(notes.values, measured, strict=True):
        assert values["accuracy"] == metric.values["accuracy"]
        assert values["labels"] == metric.labels
        assert values["seconds/train"] > 0
    assert len(notes.begun) == 1
    assert (notes.begun[0]["project"], notes.begun[0]["name"]) == ("run", "random-seed0")
    assert "train.epochs" in notes.begun[0]["config"]
    assert notes.closed == 1
    sent = repr((notes.begun, notes.values))
    assert not any(prompt in sent for prompt in prompts)


def test_a_continued_run_goes_on_in_the_same_place(make_config: Make, told: tuple[str, Notes]) -> None:
    name, notes = told
    short = make_config(strategies=["random"], query={"warm_start": 8, "batch": 4, "budget": 12}, tracker=name)
    with loop.Run(short) as run:
        examples = run.ask()
        gold = run.bench.dataset.gold
        for example in examples:
            run.tell(example.id, gold[example.id])
        run.ask()
    with loop.Run(short) as run:
        run.run(loop.oracle(run.bench.dataset))
    assert [step for step, _ in notes.values] == [0, 1]
    assert notes.closed == 2
    if name == "wandb":
        assert notes.begun[0]["id"] == notes.begun[1]["id"]
    if name == "mlflow":
        assert len(notes.begun) == 1, "found again by its tag"


def test_off_means_that_nothing_is_imported(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, _ in trackers.TRACKERS.values():
        monkeypatch.setitem(sys.modules, module, None)  # importing it would be an error
    config = make_config(strategies=["random"], query={"warm_start": 8, "batch": 4, "budget": 8})
    with loop.Run(config) as run:
        run.run(loop.oracle(run.bench.dataset))
        assert len(run.metrics()) == 1


@pytest.mark.parametrize("name", list(trackers.TRACKERS))
def test_a_missing_package_is_named_before_anything_runs(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, trackers.TRACKERS[name][0], None)
    plain = make_config(tracker=name)
    with pytest.raises(ConfigError, match=rf"tracker is {name}, .*pip install {name}"):
        loop.Run(plain)
    assert not Path(plain["out"]).exists()


def test_an_unknown_tracker_is_refused(make_config: Make) -> None:
    with pytest.raises(ConfigError, match="tracker"):
        configs.parse(make_config(tracker="neptune"))
    with pytest.raises(ConfigError, match="did you mean 'wandb'"):
        trackers.check("wandbb")


def test_a_tracker_that_fails_does_not_end_the_run(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("trackio")
    calls = []

    def log(values: Any, step: int) -> None:
        calls.append(step)
        raise OSError("no route to host")

    module.init = lambda **options: SimpleNamespace(log=log, finish=lambda: calls.append(-1))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", module)
    said: list[str] = []
    subject = trackers.Subject("p", "n", Path("x"), {})
    tracking = trackers.start("trackio", subject, said.append)
    for r in range(3):
        tracking.log(r, {"accuracy": 0.5})
    tracking.close()
    assert calls == [0]
    assert said == ["tracker trackio failed and gets nothing more; the run goes on: OSError: no route to host"]
    module.init = lambda **options: 1 / 0  # type: ignore[attr-defined]
    trackers.start("trackio", subject, said.append).log(0, {})
    assert "ZeroDivisionError" in said[-1]


def test_what_is_no_number_is_left_out(told: tuple[str, Notes]) -> None:
    name, notes = told
    tracking = trackers.start(name, trackers.Subject("p", "n", Path("q/n"), {"a": 1}))
    tracking.log(0, {"accuracy": 0.5, "loss": float("nan")})
    assert notes.values == [(0, {"accuracy": 0.5})]


def test_changing_the_tracker_continues_a_run(make_config: Make, told: tuple[str, Notes]) -> None:
    name, notes = told
    plain = make_config(strategies=["random"], query={"warm_start": 8, "batch": 4, "budget": 8})
    with loop.Run(plain) as run:
        run.run(loop.oracle(run.bench.dataset))
    with loop.Run({**plain, "tracker": name}) as run:
        assert run.ask() == []
    assert not notes.begun, "nothing new was measured"


def test_tensorboard_itself(make_config: Make) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-not-found]

    plain = make_config(strategies=["random"], query={"warm_start": 8, "batch": 4, "budget": 12}, tracker="tensorboard")
    with loop.Run(plain) as run:
        run.run(loop.oracle(run.bench.dataset))
        found = EventAccumulator(str(run.folder / "tensorboard"))
        found.Reload()
        assert [e.step for e in found.Scalars("accuracy")] == [0, 1]
        assert [e.value for e in found.Scalars("labels")] == [8, 12]
