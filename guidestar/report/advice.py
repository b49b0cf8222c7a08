"""Should labelling go on? What the curve, the predictions and the budget say, and what the random picks say.

Nothing here ends a run: the loop asks `stop_advice` only where the configuration says `stop: stop`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.config import CONFIG_FILE, read_yaml
from guidestar.errors import GuidestarError
from guidestar.metrics import forecast
from guidestar.metrics.smoothness import levelled, shuffled, smoothness
from guidestar.metrics.statistics import Interval
from guidestar.records import Label, Metrics, Stop
from guidestar.report.control import control, sampled
from guidestar.schema import StopConfig
from guidestar.store import Store, runs_in
from guidestar.words import count

LEAST_PICKS = 10  # labelled picks of a round below which their smoothness is not computed
Said = list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # by model: rows, their labels, their confidences


def advise(folder: Path) -> list[dict[str, Any]]:
    """For each run of an experiment folder, or the one of a run folder: "run", "finished", "control", "stop"; JSON-able.

    "control" and "stop" are None where nothing can be said. Each has "sentences" for people.
    Raises StoreError if a run cannot be read.
    """
    places = runs_in(folder)
    runs = []
    for place in places:
        with Store.open(place, read=True) as store:
            if store.begun:
                advice = stop_advice(store, settings(place, store.facts))
                one = {"run": place.resolve().name, "finished": store.finished() is not None}
                runs.append(one | {"control": control(store), "stop": advice})
    return runs


def advice_lines(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The sentences of `advise` for a terminal, those of each run below its name.

    Of several runs, finished ones are left out: nobody has to decide about them any more.
    """
    lines: list[str] = []
    for one in runs if len(runs) == 1 else [one for one in runs if not one["finished"]]:
        if said := said_of(one):
            lines += [f"{one['run']}:", *(f"  {line}" for line in said)]
    return lines


def said_of(one: Mapping[str, Any]) -> list[str]:
    """The sentences about one run of `advise`."""
    return [line for part in ("control", "stop") for line in (one[part] or {}).get("sentences", ())]


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


def stop_advice(store: Store, stop: StopConfig) -> dict[str, Any] | None:
    """Whether more labels hardly pay; None where that is not wanted, or nothing is measured.

    Keys: "mode"; "advice" ("stop", "go on" or "unknown"); "signals" (gain, agreement, confidence, smoothness: true says
    stop, None is not known); the same names with what they rest on, or None; "budget"; "sentences".
    With the mode `stop` the test set is not looked at, since it must choose nothing; else it is where there is neither
    a validation set nor a random share.
    """
    since = store.relabels.since
    measured = [m for m in store.metrics() if m.round >= since]
    if stop.mode == "off" or not measured:
        return None
    with_test = stop.mode != "stop"
    gain = _gain(store, measured, stop, with_test)
    said, where = _said(store, range(since, since + len(measured)), with_test)
    agreement = _agreement(said, where, stop)
    confidence = _confidence(said, where, stop)
    parts = {
        "gain": gain, "agreement": agreement, "confidence": confidence,
        "smoothness": _smoothness(store, range(since + 1, since + len(measured)), stop),
    }  # fmt: skip
    signals = {name: None if part is None else part["stop"] for name, part in parts.items()}
    facts = {
        "mode": stop.mode,
        "advice": forecast.decide(signals),
        "signals": signals,
        **parts,
        "budget": _budget(store, measured),
    }
    return facts | {"sentences": list(_sentences(facts, stop))}


# --- the curve ------------------------------------------------------------------------------------


def _gain(store: Store, measured: Sequence[Metrics], stop: StopConfig, with_test: bool) -> dict[str, Any] | None:
    source, points = _points(store, measured, with_test)
    if len(points) < forecast.LEAST_ROUNDS:
        return None
    labels, values, examples = (np.asarray(part, dtype=np.float64) for part in zip(*points, strict=True))
    now, batch = float(measured[-1].labels), _query(store).get("batch", 50)
    curve = forecast.fit_curve(labels, values, examples)
    next_round = forecast.gain(curve, now, now + batch, stop.gain)
    held = forecast.hold_back(labels, values, examples)
    return {
        "source": source,
        "rounds": len(points),
        "batch": batch,
        **next_round.interval.plain(),
        "chance": next_round.chance,
        "plateau": curve.plateau().plain(),
        "forecasts": len(held),
        "held": sum(one.held for one in held),
        "stop": next_round.interval.high < stop.gain,
    }


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
            rows = np.arange(len(arrays[0]["log_probs"]))
            return [
                (rows, one["log_probs"].argmax(axis=1), np.exp(one["log_probs"].max(axis=1))) for one in arrays
            ], where
    kept = [
        store.arrays(r, "answers") for r in range(rounds.start + 1, rounds.stop + 1) if store.has_arrays(r, "answers")
    ]
    return [(one["row"], one["label"], one["confidence"]) for one in kept], "unlabelled candidates"


def _agreement(said: Said, where: str, stop: StopConfig) -> dict[str, Any] | None:
    kappas, shared = [], 0
    for (rows, labels, _), (later_rows, later, _) in pairwise(said):
        _, at, later_at = np.intersect1d(rows, later_rows, return_indices=True)
        if not len(at):
            return None
        kappas.append(forecast.kappa(labels[at], later[later_at]))
        shared = len(at)
    settled = forecast.settled(kappas, stop.agreement, stop.rounds)
    return {"on": where, "examples": shared, "kappas": kappas, "stop": settled} if kappas else None


def _confidence(said: Said, where: str, stop: StopConfig) -> dict[str, Any] | None:
    means = [float(np.mean(sure)) for _, _, sure in said]
    return {"on": where, "means": means, "stop": forecast.falling(means, stop.rounds)} if means else None


def _smoothness(store: Store, rounds: range, stop: StopConfig) -> dict[str, Any] | None:
    """Besov α of the newest batches, by the model that chose them; None where their states were not kept, or for batches
    too small for it."""
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
    return {"rounds": used, "alphas": alphas, "chance": chance, "stop": settled}


# --- budget and words -----------------------------------------------------------------------------


def _query(store: Store) -> dict[str, Any]:
    return (store.facts.get("config") or {}).get("query") or {}


def _budget(store: Store, measured: Sequence[Metrics]) -> dict[str, Any]:
    labels = measured[-1].labels + len(store.annotations.held_out())  # what is set aside costs labels too
    budget, batch = _query(store).get("budget"), _query(store).get("batch")
    left = max(budget - labels, 0) if budget else None
    spent = store.finished() is Stop.BUDGET
    return {
        "spent": spent,
        "labels": labels,
        "budget": budget,
        "left": left,
        "rounds": -(-left // batch) if left and batch else left,
    }


_VERDICTS = {
    "stop": "Advice: stop. More labels of this kind are not expected to pay.",
    "go on": "Advice: go on. Nothing shows that more labels would not pay.",
    "unknown": "Advice: none yet. Fewer than two of the four signs of an end can be read.",
}


def _sentences(facts: Mapping[str, Any], stop: StopConfig) -> Iterator[str]:
    yield _VERDICTS[facts["advice"]]
    gain, agreement, confidence, budget = (facts[k] for k in ("gain", "agreement", "confidence", "budget"))
    if gain:
        yield (
            f"The next {gain['batch']} labels are expected to add {_points_of(gain)} to the accuracy ({gain['source']}, "
            f"{gain['rounds']} rounds); a gain of {100 * stop.gain:g} points or more has a chance of {gain['chance']:.0%}."
        )
        if gain["forecasts"]:
            yield (
                f"Of {gain['forecasts']} rounds forecast from the rounds before them, {gain['held']} lay in their 90 % "
                "interval."
            )
        if gain["source"] == "test set":
            yield "This was read off the test set: stopping by it makes the test accuracy a little too good."
    elif facts["mode"] == "stop":
        yield (
            f"No gain is forecast: that takes {forecast.LEAST_ROUNDS} rounds measured on a validation set (data.validation) "
            "or on random picks (query.random_share), since the test set must choose nothing."
        )
    else:
        yield f"No gain is forecast: that takes {forecast.LEAST_ROUNDS} measured rounds."
    if agreement:
        last = agreement["kappas"][-stop.rounds :]
        few = "" if agreement["examples"] >= 300 else f", only {agreement['examples']} examples"
        yield (
            f"Consecutive models agree with a κ of {', '.join(f'{k:.3f}' for k in last)} on {agreement['on']}{few}; "
            f"{stop.agreement:g} on average over {stop.rounds} counts as settled."
        )
    if confidence and len(confidence["means"]) > 1:
        trend = {True: "it has been falling", False: "it is not falling steadily", None: "too few rounds to judge"}
        last_means = ", ".join(f"{mean:.3f}" for mean in confidence["means"][-stop.rounds - 1 :])
        yield f"Mean confidence on {confidence['on']}: {last_means}; {trend[confidence['stop']]}."
    if smooth := facts["smoothness"]:
        yield _smoothness_sentence(smooth, stop)
    if budget["spent"]:
        yield f"The budget of {budget['budget']} labels is spent; a larger query.budget goes on from here."
    elif budget["left"]:
        yield f"Left of the budget: {count(budget['left'], 'label')}, {count(budget['rounds'], 'round')}."


def _smoothness_sentence(smooth: Mapping[str, Any], stop: StopConfig) -> str:
    alphas = smooth["alphas"]
    if len(alphas) < 2 * stop.rounds:
        trend = f"too few batches to judge ({2 * stop.rounds})"
    elif smooth["stop"] is None:
        trend = "the model tells these labels apart no better than chance, so this says nothing"
    else:
        trend = "it has levelled off" if smooth["stop"] else "it is still rising"
    return (
        f"Smoothness of each new batch by the model that chose it (Besov α): {', '.join(f'{a:.2f}' for a in alphas)}; with "
        f"shuffled labels {smooth['chance']:.2f}; {trend}."
    )


def _points_of(gain: Mapping[str, Any]) -> str:
    interval = Interval(gain["estimate"], gain["low"], gain["high"])
    return f"{100 * interval.estimate:.1f} points (90 % interval {100 * interval.low:.1f} to {100 * interval.high:.1f})"
