"""The seam: every scorer answers or refuses, wrapped or not; a stranger's needs no change of the package."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
from conftest import LABELS
from loops import SMALL
from test_predict import PEFT, choice, examples

from guidestar.asking import (
    Ask,
    Cached,
    Committee,
    Engine,
    InParts,
    Lesson,
    Raced,
    Scorer,
    Trained,
    Trainer,
    silent,
)  # fmt: skip
from guidestar.bench import Bench, read_config
from guidestar.config import TrainConfig
from guidestar.errors import ConfigError, ModelError
from guidestar.loop import Run, oracle
from guidestar.metrics.scores import accuracy
from guidestar.model.engine import OwnTrainer
from guidestar.model.scorer import OwnScorer
from guidestar.progress import Tick
from guidestar.query.measures import evaluate_measure
from guidestar.records import Array, Example, Predictions, Stop
from guidestar.store.cache import Cache
from guidestar.testing import ScorerContract


@final
class Centroids(Scorer):
    """A toy: texts as counts of letters, and how near they are to the mean of each label's labelled texts. Its passes leave
    letters out."""

    def __init__(self, labelled: Sequence[tuple[Example, str]], labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        states = self._states([e for e, _ in labelled])
        self.centres = np.array([
            states[[answer == label for _, answer in labelled]].mean(axis=0) for label in self._labels
        ])  # fmt: skip

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    def __call__(self, examples: Sequence[Example], ask: Ask, tick: Tick = silent) -> Predictions:
        self.check(ask)
        states = self._states(examples)
        made: dict[str, Array] = {"embedding": states[None]} if "embedding" in ask.needs else {}
        if "label_log_probs" in ask.needs:
            rng = np.random.default_rng(ask.seed)
            kept = [rng.random(26) >= 0.3 if ask.passes else np.ones(26) for _ in range(max(ask.passes, 1))]
            made["label_log_probs"] = np.array([self._log_probs(states, mask) for mask in kept])
        tick(len(examples), len(examples))
        return Predictions(tuple(e.id for e in examples), made, self._labels)

    def refusal(self, ask: Ask) -> str | None:
        other = sorted(ask.needs - {"embedding", "label_log_probs"})
        return f"centroids know labels and embeddings, not {other[0]}" if other else None

    def plain(self) -> dict[str, Any]:
        return {"centroids": self.centres.round(6).tolist(), "labels": list(self._labels)}

    def _log_probs(self, states: Array, mask: Array) -> Array:
        scores = -((states[:, None] - self.centres[None]) ** 2 * mask).sum(axis=2)
        return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

    @staticmethod
    def _states(examples: Sequence[Example]) -> Array:
        found = np.array([[e.prompt.lower().count(chr(97 + i)) for i in range(26)] for e in examples], dtype=np.float64)
        return found.reshape(len(examples), 26) / np.maximum(found.reshape(len(examples), 26).sum(1, keepdims=True), 1)


class Given:
    @pytest.fixture
    def examples(self) -> list[Example]:
        return examples()


class TestToy(Given, ScorerContract):
    @pytest.fixture
    def scorer(self) -> Scorer:
        return Centroids([(e, LABELS[i % 2]) for i, e in enumerate(examples())], LABELS[:2])


class TestBare(Given, ScorerContract):
    @pytest.fixture
    def scorer(self, base: Any) -> Scorer:
        return OwnScorer(base, choice())


class TestTuned(Given, ScorerContract):
    @pytest.fixture
    def scorer(self, base: Any, adapter: Path) -> Scorer:
        return OwnScorer(base, choice(), adapter)


class TestHead(Given, ScorerContract):
    @pytest.fixture
    def scorer(self, tiny_encoder_folder: Path, tmp_path: Path) -> Scorer:
        from guidestar.config import ModelConfig
        from guidestar.model.load import load

        base = load(ModelConfig(name=str(tiny_encoder_folder), dtype="float32"), labels=LABELS)
        trainer = OwnTrainer(base, choice(), PEFT, TrainConfig(epochs=1, batch_size=4))
        trainer(Lesson(labelled=[(e, LABELS[i % 6]) for i, e in enumerate(examples())], seed=1), tmp_path / "h")
        return OwnScorer(base, choice(), tmp_path / "h")


class TestInParts(Given, ScorerContract):
    wanted = (Ask.of(["label_log_probs"]), Ask.of(["label_log_probs"], passes=2))

    @pytest.fixture
    def scorer(self, base: Any, adapter: Path, tmp_path: Path) -> Scorer:
        return InParts(OwnScorer(base, choice(), adapter), Cache(tmp_path / "own-parts"), size=3)


class TestCommittee(Given, ScorerContract):
    wanted = (Ask.of(["label_log_probs"]), Ask.of(["label_log_probs"], passes=2))
    seeded = False

    @pytest.fixture
    def scorer(self) -> Scorer:
        one, other = (
            Centroids([(e, LABELS[i // k % 2]) for i, e in enumerate(examples())], LABELS[:2]) for k in (1, 2)
        )
        return Committee((one, other))


@final
class CentroidTrainer(Trainer):
    """Writes what `Centroids` is made of as its "adapter"."""

    def __call__(self, lesson: Lesson, folder: Path, tick: Tick = silent) -> Trained:
        (folder / "labelled.json").write_text(json.dumps([[e.prompt, answer] for e, answer in lesson.labelled]))
        return Trained((0.0,))

    def plain(self) -> dict[str, Any]:
        return {"trainer": "centroids"}


@final
class CentroidEngine(Engine):
    """A whole second engine: nothing of torch is behind it."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels, self.asked = tuple(labels), Counter[str]()

    @property
    def facts(self) -> dict[str, Any]:
        return {"name": "centroids", "fingerprint": "1", "dtype": "float64", "device": "cpu", "parameters": 26}

    def scorer(self, adapter: Path | None = None, **others: Any) -> Scorer:
        self.asked["bare" if adapter is None else "tuned"] += 1
        there = adapter is not None and adapter.exists()
        rows = json.loads((adapter / "labelled.json").read_text()) if adapter is not None and there else []
        known = [(Example("", {}, prompt), answer) for prompt, answer in rows]
        missing = [(Example("", {}, label), label) for label in self.labels if label not in {a for _, a in known}]
        return Centroids([*known, *missing], self.labels)

    def trainer(self, config: Any, data_hash: str) -> Trainer:
        return CentroidTrainer()

    def pretrainer(self, config: Any, data_hash: str) -> Trainer:
        raise ConfigError("centroids read no prompts without answers; leave tapt out")


def test_a_run_with_a_strangers_engine(
    make_config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Passes, a mix with the bare model, a race and a committee, without a base model of ours."""
    monkeypatch.setattr("guidestar.model.load.load", lambda *args, **how: pytest.fail("our own model was loaded"))
    changes = {**SMALL, "query": {"warm_start": 12, "batch": 4, "budget": 20, "candidates": 24}}
    raced = {"use": "star", "passes": 5, "name": "raced", "racing": True}
    for strategy in ("star", raced, {"use": "k_center"}):
        config = read_config(make_config(strategies=[strategy], out=str(tmp_path / "run"), **changes))
        engine = CentroidEngine(LABELS)
        bench = Bench(config, engine=engine)
        with Run(config, bench=bench) as run:
            run.run(oracle(bench.dataset))
            assert run.store.finished() is Stop.BUDGET
            assert run.metrics()[-1].values["accuracy"] > 0.2, "centroids of letters know something of the demo"
            assert run.store.facts["model"]["name"] == "centroids"
            newest = run.adapter()
        assert engine.asked["tuned"]
        assert (newest / "labelled.json").is_file()


def test_one_adapter_at_a_time(base: Any, adapter: Path) -> None:
    """The bare model's answers would be the tuned one's in silence, because an adapter changes it in place."""
    bare, tuned = OwnScorer(base, choice()), OwnScorer(base, choice(), adapter)
    with tuned, pytest.raises(ModelError, match=r"an adapter is on .* already; close the scorer"):
        bare(examples(), Ask.of(["label_log_probs"]))
    bare(examples(), Ask.of(["label_log_probs"]))


def test_wrappers_compose_around_a_toy(tmp_path: Path) -> None:
    """A race over parts, kept: the picks of the plain race; and what is kept needs no scorer any more."""
    toy = Centroids([(e, LABELS[i % 2]) for i, e in enumerate(examples())], LABELS[:2])

    def value(said: Predictions, rows: Array) -> Array:
        return evaluate_measure("entropy", said)

    plain = Raced(toy, value, k=2)
    ask = Ask.of(["label_log_probs"], passes=6, seed=3)
    _, whole = plain.race(examples(), ask)
    said, found = Raced(InParts(toy, Cache(tmp_path), size=100), value, k=2).race(examples(), ask)
    assert found.picks.tolist() == whole.picks.tolist()
    kept = Cached(plain, Cache(tmp_path))
    first = kept(examples(), ask)
    np.testing.assert_array_equal(first.arrays["label_log_probs"], said.arrays["label_log_probs"])
    toy.centres = toy.centres * np.nan
    again = Cached(plain, Cache(tmp_path))
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    with pytest.raises(ConfigError, match="embeddings are means over all passes"):
        again(examples(), Ask.of(["embedding"], passes=6))


def test_a_toy_learns() -> None:
    """It is no constant: trained on all, it answers better than chance."""
    known = [(e, LABELS[i % 2]) for i, e in enumerate(examples())]
    said = Centroids(known, LABELS[:2])(examples(), Ask.of(["label_log_probs"]))
    gold = np.array([LABELS.index(answer) for _, answer in known])
    assert accuracy(said.arrays["label_log_probs"][0].argmax(axis=1), gold) > 0.5
