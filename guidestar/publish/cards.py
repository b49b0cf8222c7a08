"""The cards: what the model is and how good, how its labels were chosen and what bias that brings. Markdown, laid out by
`templates/README.md.jinja` and `templates/DATA.md.jinja`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import yaml

from guidestar.metrics.sample import proportion
from guidestar.metrics.scores import not_above_majority
from guidestar.publish.snippet import TEMPLATES, Usage, call, program
from guidestar.records import Label, Skip
from guidestar.report.control import class_shares, control, in_percent
from guidestar.report.read import is_random, with_test_set
from guidestar.store import Store
from guidestar.store.annotations import GROUPS
from guidestar.tasks import recorded_task
from guidestar.words import filled, number, percent

SHOWN = {
    "accuracy": "accuracy", "micro_f1": "micro F1", "macro_f1": "macro F1", "ece": "expected calibration error", "brier": "Brier score",
    "nll": "negative log-likelihood (nats)", "majority": "accuracy of the most frequent label",
}  # fmt: skip
NO_LICENCE = "Not stated. Whoever publishes this must say it (`--license`)"


def model_card(store: Store, r: int, usage: Usage, *, name: str, license: str | None) -> str:
    """README.md: front matter, what it is, how to use it, metrics, how it was made, limits."""
    facts, curve = store.facts, [m for m in store.metrics() if m.round <= r]
    measured = next(m for m in curve if m.round == r)
    peft = str(((facts.get("config") or {}).get("peft") or {}).get("peft_type", "LORA")).upper()
    local = usage.base.startswith(("/", ".", "~"))
    front: dict[str, Any] = {"library_name": "transformers" if usage.full else "peft"}
    front |= ({} if local else {"base_model": usage.base}) | ({"license": license} if license else {})
    front |= {"pipeline_tag": "text-classification" if usage.answers is not None or usage.head else "text-generation"}
    front |= {"tags": ["active-learning", "guidestar", *(["lora"] if peft == "LORA" else [])]}
    values, data = measured.values, with_test_set(store).get("data") or {}
    test, majority = data.get("test"), data.get("majority")
    metrics = [(SHOWN[key], value) for key, value in values.items() if key in SHOWN]
    if majority and "accuracy" in values and "majority" not in values:
        metrics.append((f"{SHOWN['majority']} ({majority['label']})", majority["share"]))
    validated = ((key.removeprefix("validation_"), value) for key, value in values.items() if key not in SHOWN)
    metrics += [(f"{SHOWN[key]}, validation set", value) for key, value in validated if key in SHOWN]
    interval = proportion(round(values["accuracy"] * test), test) if test and "accuracy" in values else None
    return filled(
        TEMPLATES / "README.md.jinja", {"value": partial(number, digits=4)},
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(), name=name, usage=usage, peft=peft, measured=measured, facts={"strategy": None, "seed": None, **facts}, warnings=card_warnings(store, r),
        task=recorded_task(facts), program=f"{program(usage).rstrip()}\n\n{call(usage)}", local=local, test=test,
        interval=interval, metrics=metrics, curve=curve,
        licence=license or NO_LICENCE, machine_made=any(e.source == "endpoint" for e in store.annotations.history()),
        weak_labels=((facts.get("config") or {}).get("train") or {}).get("weak_labels"),
    )  # fmt: skip


def card_warnings(store: Store, r: int) -> list[str]:
    """What must be said before anybody uses the adapter of a round: it is no better than the majority baseline."""
    reached = {f"round {m.round}": m.values.get("accuracy") for m in store.metrics() if m.round == r}
    return not_above_majority(reached, (with_test_set(store).get("data") or {}).get("majority"))


def data_card(store: Store, r: int, *, license: str | None, with_labels: bool) -> str:
    """DATA.md: where the labelled examples come from, who labelled them, how they were chosen, what bias that brings."""
    facts, answers = store.facts, store.annotations.answers()
    queries = [store.query(i).picks for i in range(r + 1)]
    picked = {pick.id for picks in queries for pick in picks}
    given: list[Label | Skip] = [answers[pick.id] for picks in queries for pick in picks if pick.id in answers]
    labels, measured = [answer for answer in given if isinstance(answer, Label)], control(store)
    none = "There are no random picks after the warm start, so how far the set is from the pool was not measured."
    return filled(
        TEMPLATES / "DATA.md.jinja", facts={"strategy": None, **facts}, labels=labels, pool=(facts.get("data") or {}).get("pool"),
        with_labels=with_labels, licence=license or NO_LICENCE, round=r, start=len(queries[0]),
        later=sum(map(len, queries[1:])), random=is_random(facts), recipe={"measure": None, "select": None} | (facts.get("recipe") or {}),
        at_random=sum("random" in pick.details for picks in queries[1:] for pick in picks),
        bias=measured.sentences if measured else [none],
        sources=Counter(e.source for e in store.annotations.history() if e.id in picked or e.source in GROUPS).most_common(),
        found=len(store.annotations.grouped()), people=len({answer.annotator for answer in given}), skipped=len(given) - len(labels),
        classes=list(_classes(labels, store)),
    )  # fmt: skip


def _classes(labels: Sequence[Label], store: Store) -> Iterator[tuple[str, int, str, str]]:
    """(label, examples, share of the labels, share of the pool in words) of each label; nothing for free texts."""
    task, shares = recorded_task(store.facts), class_shares(store) or {}
    counts = Counter(part for label in labels for part in task.parts(label.answer))
    for name in store.facts["task"].get("labels") or () if labels else ():
        pool = shares[name].pool if name in shares else None
        estimate = f"{percent(pool.estimate)} ({in_percent(pool)})" if pool else "–"
        yield name, counts[name], percent(counts[name] / len(labels)), estimate
