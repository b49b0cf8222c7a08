"""The cards: what the model is and how good, how its labels were chosen and what bias that brings. Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from guidestar.metrics.sample import proportion
from guidestar.metrics.scores import not_above_majority
from guidestar.publish.snippet import Usage, call, program
from guidestar.records import Label, Skip
from guidestar.report.control import class_shares, control, in_percent
from guidestar.report.read import is_random
from guidestar.store import Store
from guidestar.tasks import recorded_task
from guidestar.words import percent

SHOWN = {
    "accuracy": "accuracy", "micro_f1": "micro F1", "macro_f1": "macro F1", "ece": "expected calibration error", "brier": "Brier score",
    "nll": "negative log-likelihood (nats)", "majority": "accuracy of the most frequent label",
}  # fmt: skip
NO_LICENCE = "Not stated. Whoever publishes this must say it (`--license`)"


def model_card(store: Store, round: int, usage: Usage, *, name: str, license: str | None) -> str:
    """README.md: front matter, what it is, how to use it, metrics, how it was made, limits."""
    facts = store.facts
    measured = next(m for m in store.metrics() if m.round == round)
    front: dict[str, Any] = {"library_name": "transformers" if usage.full else "peft"}
    front |= {} if usage.base.startswith(("/", ".", "~")) else {"base_model": usage.base}
    front |= {"license": license} if license else {}
    front |= {"pipeline_tag": "text-classification" if usage.answers is not None or usage.head else "text-generation"}
    front |= {"tags": ["active-learning", "guidestar", *(["lora"] if _peft_type(facts) == "LORA" else [])]}
    kind = "All weights" if usage.full else f"A {_peft_type(facts)} adapter"
    return "\n".join(
        [
            "---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(), "---", "",
            f"# {name}", "",
            f"{kind} of `{usage.base}`, fine-tuned on {measured.labels} labels chosen by active learning "
            f"(strategy `{facts.get('strategy')}`, round {round}, seed {facts.get('seed')}).", "",
            *(["**The data are synthetic: a program wrote them. This model is of no use on real texts.**", ""]
              if facts.get("synthetic") else []),
            *(f"**{warning}**\n" for warning in card_warnings(store, round)),
            f"Task: {recorded_task(facts).described}.", "",
            "## Use", "", "```python", program(usage).rstrip(), "", call(usage), "```", "",
            *_note_about_base(usage, facts), "",
            "## Metrics", "", *_metrics(store, measured.values), "",
            "## How it was made", "",
            "The labelled set, how it was chosen and its bias: [DATA.md](DATA.md). Configuration, versions and hashes: "
            "`published.json`.", "",
            "| labels | accuracy on the test set |", "|---|---|",
            *(f"| {m.labels} | {_value(m.values.get('accuracy'))} |" for m in store.metrics() if m.round <= round), "",
            "## Limits", "", *_limits(store, license),
        ]
    ) + "\n"  # fmt: skip


def card_warnings(store: Store, round: int) -> list[str]:
    """What must be said before anybody uses the adapter of a round: it is no better than the majority baseline."""
    reached = {f"round {m.round}": m.values.get("accuracy") for m in store.metrics() if m.round == round}
    return not_above_majority(reached, (store.facts.get("data") or {}).get("majority"))


def data_card(store: Store, round: int, *, license: str | None, with_labels: bool) -> str:
    """DATA.md: where the labelled examples come from, who labelled them, how they were chosen, what bias that brings."""
    facts, answers = store.facts, store.annotations.answers()
    picked = [pick.id for r in range(round + 1) for pick in store.query(r).picks]
    given = [answers[id] for id in picked if id in answers]
    labels = [answer for answer in given if isinstance(answer, Label)]
    held = "`labels.jsonl`" if with_labels else "not part of this folder"
    return "\n".join(
        [
            "# The labelled set", "",
            f"{len(labels)} labelled examples, chosen from a pool of {(facts.get('data') or {}).get('pool')}. "
            f"The texts and labels are {held}.", "",
            "## Licence", "", f"{license or NO_LICENCE}.", "",
            "## How the examples were chosen", "", *_choice(store, round), "",
            "## Bias", "",
            *_leaning(facts), "",
            *_bias(store), "",
            "## Who labelled", "", *_annotators(store, set(picked), given), "",
            "## Classes", "", *_classes(labels, store),
        ]
    ) + "\n"  # fmt: skip


# --- the model ------------------------------------------------------------------------------------


def _peft_type(facts: Mapping[str, Any]) -> str:
    return str(((facts.get("config") or {}).get("peft") or {}).get("peft_type", "LORA")).upper()


def _note_about_base(usage: Usage, facts: Mapping[str, Any]) -> Iterator[str]:
    model = facts["model"]
    if not usage.full:
        yield (
            f"The adapter was trained on weights of `{model['name']}` in {model['dtype']} with the fingerprint "
            f"`{model['fingerprint'][:16]}`. Other copies of that name, such as an unpacked GGUF file, can give slightly "
            "other numbers."
        )
    if usage.base.startswith(("/", ".", "~")):
        yield "The base model is named by a folder of one machine: put its public name into `BASE`."


def _metrics(store: Store, values: Mapping[str, float]) -> Iterator[str]:
    test = (store.facts.get("data") or {}).get("test")
    if "accuracy" in values and test:
        interval = proportion(round(values["accuracy"] * test), test)
        yield (
            f"On {test} test examples, which chose nothing. The accuracy's 95 % interval is {interval.low:.3f} to "
            f"{interval.high:.3f}; it speaks of other test examples and not of another training."
        )
        yield ""
    rows = [(SHOWN[name], value) for name, value in values.items() if name in SHOWN]
    rows += [
        (f"{SHOWN[key]}, validation set", v) for n, v in values.items() if (key := n[11:]) in SHOWN and n[0] == "v"
    ]
    if not rows:
        yield "Nothing was measured: the run has no test set."
        return
    yield "| metric | value |"
    yield "|---|---|"
    for name, value in rows:
        yield f"| {name} | {_value(value)} |"


def _limits(store: Store, license: str | None) -> Iterator[str]:
    yield "- It was measured on data like its own only. On other texts it may be much worse."
    yield "- Probabilities of a fine-tuned model are often too sure of themselves; see the calibration error above."
    yield "- A fine-tuned model can repeat what it was trained on. Do not publish it if the texts are private."
    yield f"- Licence: {license or NO_LICENCE}. The base model's licence holds too."
    if any(entry.source == "endpoint" for entry in store.annotations.history()):
        yield "- Labels came from another model. They are no gold standard, and its terms of use may bind this model."


# --- the labelled set -----------------------------------------------------------------------------


def _choice(store: Store, round: int) -> Iterator[str]:
    facts = store.facts
    recipe = facts.get("recipe") or {}
    start = len(store.query(0).picks)
    yield f"- Round 0: {start} examples at random from the whole pool."
    if round:
        how = "at random too" if is_random(facts) else f"by the strategy `{facts.get('strategy')}`"
        sizes = [len(store.query(r).picks) for r in range(1, round + 1)]
        yield f"- Rounds 1 to {round}: {sum(sizes)} examples {how}, with the model of the round before."
        at_random = sum("random" in pick.details for r in range(1, round + 1) for pick in store.query(r).picks)
        if at_random:
            yield f"- Of these, {at_random} were drawn at random, independently of any score."
    measure = recipe.get("measure")
    if measure:
        yield f"- The strategy's measure is `{measure}`, its selection `{recipe.get('select')}`; all of it in `published.json`."


def _leaning(facts: Mapping[str, Any]) -> Iterator[str]:
    """Which examples such a strategy prefers."""
    recipe = facts.get("recipe") or {}
    if is_random(facts):
        yield "Every example of the pool had the same chance to be chosen. Examples that were skipped are missing."
        return
    prefers = (
        "They are those a model was unsure of at some time, so they hold more hard, rare, ambiguous and noisy examples than "
        "the pool."
        if recipe.get("measure")
        else "They were chosen for what they are to the model, unusual examples more often than usual ones."
    )
    yield (
        f"The examples are no random sample of the pool. {prefers} Do not estimate the pool's classes, or any model's "
        "accuracy, from them; a model of another kind may learn less from them than from as many random examples."
    )


def _bias(store: Store) -> Iterator[str]:
    measured = control(store)
    none = "There are no random picks after the warm start, so how far the set is from the pool was not measured."
    yield from (f"- {line}" for line in (measured["sentences"] if measured else [none]))


def _annotators(store: Store, picked: set[str], given: Sequence[Label | Skip]) -> Iterator[str]:
    who = {"oracle": "gold answers of the data, as a simulation", "page": "people at the labelling page",
           "terminal": "people at the terminal", "endpoint": "a model behind an endpoint (machine-made)",
           "import": "an imported file", "python": "a program"}  # fmt: skip
    counts = Counter(e.source for e in store.annotations.history() if e.id in picked)
    for source, count in counts.most_common():
        yield f"- {count} annotations from {who.get(source, source)}"
    people = {answer.annotator for answer in given}
    skipped = sum(isinstance(answer, Skip) for answer in given)
    yield f"- {len(people)} {'annotator' if len(people) == 1 else 'annotators'}; {skipped} examples were skipped and have no label"


def _classes(labels: Sequence[Label], store: Store) -> Iterator[str]:
    names = store.facts["task"].get("labels")
    if not names or not labels:
        yield "The answers are free texts."
        return
    shares = class_shares(store) or {}
    task = recorded_task(store.facts)
    counts = Counter(part for label in labels for part in task.parts(label.answer))
    yield "| label | examples | share | share of the pool, estimated (95 %) |"
    yield "|---|---|---|---|"
    for name in names:
        pool = shares.get(name, {}).get("pool")
        estimate = f"{percent(pool['estimate'])} ({in_percent(pool)})" if pool else "–"
        yield f"| {name} | {counts[name]} | {percent(counts[name] / len(labels))} | {estimate} |"


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
