"""Should labelling go on? What the curve, the predictions and the budget say, and what the random picks say.

Nothing here ends a run: the loop asks `stop_advice` only where the configuration says `stop: stop`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.config import CONFIG_FILE, read_yaml
from guidestar.errors import GuidestarError
from guidestar.metrics import forecast
from guidestar.metrics.agreement import cohen_kappa
from guidestar.metrics.smoothness import levelled, shuffled, smoothness
from guidestar.metrics.statistics import Interval
from guidestar.records import Label, Metrics, Stop
from guidestar.report.control import Control, control, sampled
from guidestar.schema import StopConfig
from guidestar.store import Store, runs_in
from guidestar.words import count

Said = list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # by model: rows, their labels, their confidences
LEAST_PICKS = 10  # labelled picks of a round below which their smoothness is not computed


@dataclass(frozen=True)
class Gain:
    """What the next `batch` labels may add to the accuracy. source, rounds: what it is read off. estimate, low, high: 90 %.
    chance: of the gain that is worth it. plateau: where the curve ends. held: of so many forecasts of earlier rounds, those
    that held. stop: the gain is not worth it."""

    source: str
    rounds: int
    batch: int
    estimate: float
    low: float
    high: float
    chance: float
    plateau: Interval
    forecasts: int
    held: int
    stop: bool


@dataclass(frozen=True)
class Agreement:
    """How far each model and the one before agree. on: which examples, how many. stop: they are settled."""

    on: str
    examples: int
    kappas: Sequence[float]
    stop: bool | None


@dataclass(frozen=True)
class Confidence:
    """Mean confidence of each model. on: which examples. stop: it has been falling."""

    on: str
    means: Sequence[float]
    stop: bool | None


@dataclass(frozen=True)
class Smoothness:
    """Besov α of the batches of some rounds, by the model that chose them; chance: with the labels shuffled. stop: it has
    levelled off."""

    rounds: Sequence[int]
    alphas: Sequence[float]
    chance: float
    stop: bool | None


@dataclass(frozen=True)
class Budget:
    """labels: that were paid for. left, rounds: of the budget, None where there is none."""

    spent: bool
    labels: int
    budget: int | None
    left: int | None
    rounds: int | None


@dataclass(frozen=True)
class Advice:
    """Whether more labels hardly pay. signals: name -> true says stop, None is not known; what they rest on has the same
    names. sentences: for people."""

    mode: str
    advice: forecast.Advice
    signals: Mapping[str, bool | None]
    gain: Gain | None
    agreement: Agreement | None
    confidence: Confidence | None
    smoothness: Smoothness | None
    budget: Budget
    sentences: Sequence[str] = ()


@dataclass(frozen=True)
class Advised:
    """A run: what its random picks say, and whether to go on; None where nothing can be said."""

    run: str
    finished: bool
    control: Control | None
    stop: Advice | None

    @property
    def sentences(self) -> list[str]:
        """Of both, for people."""
        return [line for part in (self.control, self.stop) if part is not None for line in part.sentences]


def advise(folder: Path) -> list[Advised]:
    """Each run of an experiment folder, or the one of a run folder. Raises StoreError if a run cannot be read."""
    runs = []
    for place in runs_in(folder):
        with Store.open(place, read=True) as store:
            if store.begun:
                advice, finished = stop_advice(store, settings(place, store.facts)), store.finished() is not None
                runs.append(Advised(place.resolve().name, finished, control(store), advice))
    return runs


def advice_lines(runs: Sequence[Advised]) -> list[str]:
    """The sentences of `advise` for a terminal, those of each run below its name.

    Of several runs, finished ones are left out: nobody has to decide about them any more.
    """
    lines: list[str] = []
    for one in runs if len(runs) == 1 else [one for one in runs if not one.finished]:
        if one.sentences:
            lines += [f"{one.run}:", *(f"  {line}" for line in one.sentences)]
    return lines


def settings(folder: Path, facts: Mapping[str, Any]) -> StopConfig:
    """The `stop` section that holds now: that of the configuration's copy beside the run, else what it was begun with."""
    for path in (folder / CONFIG_FILE, folder.absolute().parent / CONFIG_FILE):
        try:
            data = read_yaml(path.read_text(encoding="utf-8"), str(path))[0]
            given = data.get("stop", {}) if isinstance(data, dict) else {}
            return StopConfig.model_validate({"mode": given} if isinstance(given, str) else given)
        except (OSError, ValueError, GuidestarError):
            continue
    return StopConfig.model_validate((facts.get("config") or {}).get("stop") or {})


def stop_advice(store: Store, stop: StopConfig) -> Advice | None:
    """Whether more labels hardly pay; None where that is not wanted, or nothing is measured.

    With the mode `stop` the test set is not looked at, since it must choose nothing; else it is where there is neither
    a validation set nor a random share.
    """
    since = store.relabels.since
    measured = [m for m in store.metrics() if m.round >= since]
    if stop.mode == "off" or not measured:
        return None
    with_test = stop.mode != "stop"
    said, where = _said(store, range(since, since + len(measured)), with_test)
    parts: dict[str, Any] = {
        "gain": _gain(store, measured, stop, with_test),
        "agreement": _agreement(said, where, stop),
        "confidence": _confidence(said, where, stop),
        "smoothness": _smoothness(store, range(since + 1, since + len(measured)), stop),
    }
    signals = {name: None if part is None else part.stop for name, part in parts.items()}
    said_so = Advice(stop.mode, forecast.decide(signals), signals, **parts, budget=_budget(store, measured))
    return replace(said_so, sentences=list(_sentences(said_so, stop)))


# --- the curve ------------------------------------------------------------------------------------


def _gain(store: Store, measured: Sequence[Metrics], stop: StopConfig, with_test: bool) -> Gain | None:
    source, points = _points(store, measured, with_test)
    if len(points) < forecast.LEAST_ROUNDS:
        return None
    labels, values, examples = (np.asarray(part, dtype=np.float64) for part in zip(*points, strict=True))
    now, batch = float(measured[-1].labels), _query(store).get("batch", 50)
    curve = forecast.fit_curve(labels, values, examples)
    ends, chance = forecast.gain(curve, now, now + batch, stop.gain)
    held = forecast.hold_back(labels, values, examples)
    return Gain(
        source, len(points), batch, ends.estimate, ends.low, ends.high, chance, curve.plateau(), len(held),
        sum(one.held for one in held), ends.high < stop.gain,
    )  # fmt: skip


def _points(store: Store, measured: Sequence[Metrics], with_test: bool) -> tuple[str, list[tuple[float, float, float]]]:
    """(source, (labels, accuracy, examples) of each round) from the validation set, the random picks or the test set."""
    data = store.facts.get("data") or {}
    if any("validation_accuracy" in m.values for m in measured):
        return "validation set", _of_metrics(measured, "validation_accuracy", data.get("validation"))
    if random := sampled(store):
        points = [(float(s.labels), sum(s.random) / len(s.random), float(len(s.random))) for s in random]
        return "random picks", _rising(points)
    if with_test:
        return "test set", _of_metrics(measured, "accuracy", data.get("test"))
    return "nothing", []


def _of_metrics(measured: Sequence[Metrics], name: str, examples: int | None) -> list[tuple[float, float, float]]:
    return _rising([(float(m.labels), m.values[name], float(examples or 1)) for m in measured if name in m.values])


def _rising(points: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Without rounds that had as many labels as a later one, or more: labels that were taken back are known no more, and of
    equals the last counts."""
    kept: list[tuple[float, float, float]] = []
    for point in reversed(points):
        if not kept or point[0] < kept[-1][0]:
            kept.append(point)
    return kept[::-1]


# --- predictions ----------------------------------------------------------------------------------


def _said(store: Store, rounds: range, with_test: bool) -> tuple[Said, str]:
    """What each model said to examples whose labels are not looked at, and which examples those are."""
    sets = {"validation": "the validation set"} | ({"test": "the test set"} if with_test else {})
    for name, where in sets.items():
        arrays = [store.arrays(r, name) for r in rounds if store.has_arrays(r, name)]
        if arrays and all("log_probs" in one for one in arrays):
            logs = [one["log_probs"] for one in arrays]
            return [(np.arange(len(one)), one.argmax(axis=1), np.exp(one.max(axis=1))) for one in logs], where
    later = range(rounds.start + 1, rounds.stop + 1)
    kept = [store.arrays(r, "answers") for r in later if store.has_arrays(r, "answers")]
    return [(one["row"], one["label"], one["confidence"]) for one in kept], "unlabelled candidates"


def _agreement(said: Said, where: str, stop: StopConfig) -> Agreement | None:
    kappas, shared = [], 0
    for (rows, labels, _), (later_rows, later, _) in pairwise(said):
        _, at, later_at = np.intersect1d(rows, later_rows, return_indices=True)
        if not len(at):
            return None
        kappa = cohen_kappa(labels[at].tolist(), later[later_at].tolist())
        kappas.append(1.0 if kappa is None else kappa)
        shared = len(at)
    settled = forecast.settled(kappas, stop.agreement, stop.rounds)
    return Agreement(where, shared, kappas, settled) if kappas else None


def _confidence(said: Said, where: str, stop: StopConfig) -> Confidence | None:
    means = [float(np.mean(sure)) for _, _, sure in said]
    return Confidence(where, means, forecast.falling(means, stop.rounds)) if means else None


def _smoothness(store: Store, rounds: range, stop: StopConfig) -> Smoothness | None:
    """Of the newest batches; None where their states were not kept, or for batches too small for it."""
    classes = {label: i for i, label in enumerate(store.facts.get("task", {}).get("labels") or [])}
    kept = [r for r in rounds if store.has_arrays(r, "picks")][-2 * stop.rounds :]
    answers = store.annotations.answers() if classes and kept else {}
    alphas, chances, used = [], [], []
    for r in kept:
        given = [answers.get(pick.id) for pick in store.query(r).picks]
        rows = [i for i, answer in enumerate(given) if isinstance(answer, Label) and answer.answer in classes]
        of = np.array([classes[given[i].answer] for i in rows], dtype=np.intp)  # type: ignore[union-attr]
        if len(rows) < LEAST_PICKS or len(np.unique(of)) < 2:
            continue
        points = store.arrays(r, "picks")["embedding"][rows]
        alphas.append(smoothness(points, of))
        chances.append(shuffled(points, of))
        used.append(r)
    if not used:
        return None
    chance = float(np.mean(chances[-stop.rounds :]))
    settled = levelled(alphas, chances, stop.rounds)
    return Smoothness(used, alphas, chance, settled)


# --- budget and words -----------------------------------------------------------------------------


def _query(store: Store) -> dict[str, Any]:
    return (store.facts.get("config") or {}).get("query") or {}


def _budget(store: Store, measured: Sequence[Metrics]) -> Budget:
    labels = measured[-1].labels + len(store.annotations.held_out())  # what is set aside costs labels too
    budget, batch = _query(store).get("budget"), _query(store).get("batch")
    left = max(budget - labels, 0) if budget else None
    rounds = -(-left // batch) if left and batch else left
    return Budget(store.finished() is Stop.BUDGET, labels, budget, left, rounds)


_VERDICTS = {
    "stop": "Advice: stop. More labels of this kind are not expected to pay.",
    "go on": "Advice: go on. Nothing shows that more labels would not pay.",
    "unknown": "Advice: none yet. Fewer than two of the four signs of an end can be read.",
}


def _sentences(facts: Advice, stop: StopConfig) -> Iterator[str]:
    yield _VERDICTS[facts.advice]
    gain, agreement, confidence, budget = facts.gain, facts.agreement, facts.confidence, facts.budget
    if gain:
        yield (
            f"The next {gain.batch} labels are expected to add {100 * gain.estimate:.1f} points (90 % interval "
            f"{100 * gain.low:.1f} to {100 * gain.high:.1f}) to the accuracy ({gain.source}, {gain.rounds} rounds); a gain of "
            f"{100 * stop.gain:g} points or more has a chance of {gain.chance:.0%}."
        )
        if gain.forecasts:
            before = f"Of {gain.forecasts} rounds forecast from the rounds before them"
            yield f"{before}, {gain.held} lay in their 90 % interval."
        if gain.source == "test set":
            yield "This was read off the test set: stopping by it makes the test accuracy a little too good."
    elif facts.mode == "stop":
        yield (
            f"No gain is forecast: that takes {forecast.LEAST_ROUNDS} rounds measured on a validation set (data.validation) "
            "or on random picks (query.random_share), since the test set must choose nothing."
        )
    else:
        yield f"No gain is forecast: that takes {forecast.LEAST_ROUNDS} measured rounds."
    if agreement:
        last = agreement.kappas[-stop.rounds :]
        few = "" if agreement.examples >= 300 else f", only {agreement.examples} examples"
        yield (
            f"Consecutive models agree with a κ of {', '.join(f'{k:.3f}' for k in last)} on {agreement.on}{few}; "
            f"{stop.agreement:g} on average over {stop.rounds} counts as settled."
        )
    if confidence and len(confidence.means) > 1:
        trend = {True: "it has been falling", False: "it is not falling steadily", None: "too few rounds to judge"}
        last_means = ", ".join(f"{mean:.3f}" for mean in confidence.means[-stop.rounds - 1 :])
        yield f"Mean confidence on {confidence.on}: {last_means}; {trend[confidence.stop]}."
    if facts.smoothness:
        yield _smoothness_sentence(facts.smoothness, stop)
    if budget.spent:
        yield f"The budget of {budget.budget} labels is spent; a larger query.budget goes on from here."
    elif budget.left:
        yield f"Left of the budget: {count(budget.left, 'label')}, {count(budget.rounds or 0, 'round')}."


def _smoothness_sentence(smooth: Smoothness, stop: StopConfig) -> str:
    alphas = smooth.alphas
    if len(alphas) < 2 * stop.rounds:
        trend = f"too few batches to judge ({2 * stop.rounds})"
    elif smooth.stop is None:
        trend = "the model tells these labels apart no better than chance, so this says nothing"
    else:
        trend = "it has levelled off" if smooth.stop else "it is still rising"
    return (
        f"Smoothness of each new batch by the model that chose it (Besov α): {', '.join(f'{a:.2f}' for a in alphas)}; with "
        f"shuffled labels {smooth.chance:.2f}; {trend}."
    )
