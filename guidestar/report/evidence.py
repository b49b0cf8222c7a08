"""What a report shows beside the numbers: hard examples and doubtful labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from guidestar.config import kept_in, load
from guidestar.data.formats import HUB
from guidestar.data.pool import load_dataset
from guidestar.data.presets import apply_preset
from guidestar.errors import GuidestarError
from guidestar.metrics.scores import SURE, contradicted, hardest
from guidestar.records import Example, Label
from guidestar.report.read import RunRecord
from guidestar.store.cache import Cache

SHOWN = 10  # of the hardest examples and of the suspects, each


@dataclass(frozen=True)
class Doubt:
    """One example that models get wrong. given: its label. said: what most models answer. p_given: the mean probability
    of the given label, p_said of the other. right: how many of the models are."""

    name: str
    fields: Sequence[tuple[str, str]]
    given: str
    said: str
    p_given: float
    p_said: float
    right: int


@dataclass(frozen=True)
class Evidence:
    """hardest: test examples, without the suspects. suspects: test examples whose label all models contradict. labelled:
    suspects among the labels given in the run. models: how many last models looked at the test set. sure, wrong: how
    many test examples all of them answer alike and surely, and how many of these contradict the label. texts: whether
    the texts of the test set could be read."""

    hardest: Sequence[Doubt]
    suspects: Sequence[Doubt]
    labelled: Sequence[Doubt]
    models: int
    sure: int
    wrong: int
    texts: bool


def evidence(runs: Sequence[RunRecord], folder: Path) -> Evidence | None:
    """Hard and doubtful examples by the last model of every run; None if the task is no choice or nothing is measured.

    folder: of the experiment or of the run. A store has no texts of a test set but of what was set aside. They are read from
    the data files, if these are still there and have the recorded hash; else examples are named by their row.
    """
    labels = list((runs[0].facts.get("task") or {}).get("labels") or [])
    last = [run.test["last"] for run in runs if "log_probs" in run.test.get("last", {})]
    suspects = _labelled(runs)
    last = [one for one in last if np.array_equal(one["gold"], last[0]["gold"])]  # on one test set in one order
    if not last or not labels:
        return Evidence([], [], suspects, 0, 0, 0, True) if suspects else None
    logs, gold = np.stack([arrays["log_probs"].astype(np.float64) for arrays in last]), last[0]["gold"]
    examples = _test_examples(runs[0], folder, [labels[i] for i in gold])
    wrong = contradicted(logs, gold)
    order, _ = hardest(logs, gold)
    beside = [i for i in order[: SHOWN + len(wrong)].tolist() if i not in set(wrong.tolist())]
    chances = np.exp(logs).mean(axis=0)
    alike = (logs.argmax(axis=2) == chances.argmax(axis=1)).all(axis=0) & (chances.max(axis=1) >= SURE)

    def doubt(i: int) -> Doubt:
        others = chances[i].copy()
        others[gold[i]] = -1.0
        said = int(others.argmax())
        example = examples[i] if examples else None
        return Doubt(
            file_of(example.where) if example else f"test example {i + 1}",
            clipped(example.fields) if example else [],
            labels[gold[i]], labels[said], float(chances[i, gold[i]]), float(chances[i, said]),
            int((logs[:, i].argmax(axis=1) == gold[i]).sum()),
        )  # fmt: skip

    return Evidence(
        [doubt(i) for i in beside[:SHOWN]], [doubt(i) for i in wrong[:SHOWN].tolist()], suspects, len(last),
        int(alike.sum()), len(wrong), examples is not None,
    )  # fmt: skip


def file_of(where: str) -> str:
    """Without the folders, which are those of one machine."""
    return where.rsplit("/", 1)[-1]


def clipped(fields: Mapping[str, str]) -> list[tuple[str, str]]:
    """An example's fields, what is too long for a table cut, and said so."""
    return [(name, text[:600] + f" … ({len(text)} characters)" * (len(text) > 600)) for name, text in fields.items()]


def _test_examples(run: RunRecord, folder: Path, gold: Sequence[str]) -> Sequence[Example] | None:
    """The test set as it was measured, None if it cannot be read any more."""
    if run.apart:
        return run.apart if [getattr(run.answers.get(e.id), "answer", None) for e in run.apart] == list(gold) else None
    copy, facts = kept_in(folder), run.facts
    if copy is None or not facts.get("data_hash"):
        return None
    try:
        config = load(copy)
        data = apply_preset(config.data, config.task)[0]
        if any(str(source).startswith(HUB) for source in (data.pool, data.test, data.validation)):
            return None  # a report asks no network
        dataset = load_dataset(config, Cache(copy.parent / "cache").folder)
    except (GuidestarError, ValueError, OSError):  # moved, changed, or another version's configuration
        return None
    pairs = dataset.test.answered() if dataset.test is not None and dataset.hash == facts["data_hash"] else []
    return [example for example, _ in pairs] if [answer for _, answer in pairs] == list(gold) else None


def _labelled(runs: Sequence[RunRecord]) -> list[Doubt]:
    """Labels given in a run that a model, before it was trained on them, was almost sure are wrong."""
    doubts = []
    for run in runs:
        for id, said in run.unseen.items():
            answer, p = run.answers.get(id), said.probabilities
            if not isinstance(answer, Label) or answer.answer not in p or id not in run.examples:
                continue
            if not said.knew(answer.answer, run.learnt):
                continue
            names, chances = list(p), np.maximum(list(p.values()), 1e-300)
            if len(contradicted(np.log(chances)[None, None], np.array([names.index(answer.answer)]))):
                other = names[int(chances.argmax())]
                example = run.examples[id]
                where = f"{run.name}, {file_of(example.where)}"
                given, fields = answer.answer, clipped(example.fields)
                doubts.append(Doubt(where, fields, given, other, p[given], p[other], 0))
    return sorted(doubts, key=lambda doubt: doubt.p_given - doubt.p_said)[:SHOWN]
