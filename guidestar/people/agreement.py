"""How far the annotators of a run agree: facts from its store, and sentences for the terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guidestar.metrics.agreement import Unit, confusion, krippendorff_alpha, pairwise, per_class_agreement
from guidestar.metrics.statistics import LEVEL
from guidestar.people.endpoint import MACHINE
from guidestar.people.ledger import endpoint_usage
from guidestar.people.page.board import Board
from guidestar.people.page.desk import experiment_of, people_of
from guidestar.people.terminal import printable
from guidestar.records import Label, Skip
from guidestar.store import Store, find_run
from guidestar.tasks import Task
from guidestar.words import count, percent, shortened

FEW = 30  # examples with two labels below which the interval is called rough
SHOWN = 10  # rows of a table in the terminal; the facts have all
_GOOD, _FAIR = 0.8, 0.667  # Krippendorff's customary bounds


def agreement_of(run: Path) -> dict[str, Any]:
    """JSON-able facts about the answers of a run and how far they agree.

    Alpha, classes and confusions are about people alone, `pairs` about all annotators. Free texts agree when their
    normal forms are equal, numbers when their values are. Where an example was settled, the labels given before are
    what is compared.
    Raises StoreError if there is no run.
    """
    folder = find_run(run)
    with Store.open(folder) as store:
        board = Board(store, people_of(experiment_of(folder), store.facts), time.time)
        given, verdicts = store.annotations.by_annotator(), store.annotations.verdicts()
        labels = {
            id: {who: answer.answer for who, answer in one.items() if isinstance(answer, Label)}
            for id, one in given.items()
        }  # fmt: skip
        every = [{who: board.task.compared(answer) for who, answer in one.items()} for one in labels.values()]
        people = [{who: answer for who, answer in unit.items() if is_person(who)} for unit in every]
        contested = [id for id, unit in zip(labels, people, strict=True) if len(set(unit.values())) > 1]
        return {
            "run": folder.resolve().name,
            "kind": board.task.kind,
            "asked": len(board.items),
            "labelled": board.labels,
            "annotators": _annotators(given),
            "sources": _sources(store, given),
            **measured(people, every, board.task),
            "one_skipped": sum(  # where a person labelled what another one skipped
                len({type(answer) for who, answer in one.items() if is_person(who)}) > 1 for one in given.values()
            ),
            "disagreements": [
                {"id": id, "where": store.example(id).where, "text": store.example(id).prompt, "answers": labels[id]}
                for id in contested
                if id not in verdicts
            ],
            "settled": [
                {"id": id, "answer": verdict.answer, "by": verdict.annotator, "answers": labels.get(id, {})}
                for id, verdict in verdicts.items()
            ],
            "endpoint": endpoint_usage(folder),
        }


def measured(people: Sequence[Unit], every: Sequence[Unit], task: Task) -> dict[str, Any]:
    """How far people agree, and every two annotators, as JSON-able numbers. people, every: of each example, annotator -> what
    of their answer is compared."""
    found = krippendorff_alpha(people)
    by_label = people if task.classes else []
    return {
        "alpha": found.alpha, "low": found.low, "high": found.high, "level": LEVEL, "observed": found.observed,
        "compared": found.units, "people": found.annotators,
        "classes": {name: one._asdict() for name, one in per_class_agreement(by_label).items()},
        "pairs": [{"annotators": list(pair), **one._asdict()} for pair, one in pairwise(every).items()],
        "confused": [{"labels": list(pair), "count": times} for pair, times in confusion(by_label).items()],
    }  # fmt: skip


def is_person(annotator: str) -> bool:
    """Whether somebody and no program answered under this name."""
    return annotator != "oracle" and not annotator.startswith(MACHINE)


def agreement_text(facts: Mapping[str, Any]) -> str:
    """The facts as sentences and small tables."""
    parts = [_who(facts), *_alpha(facts), _classes(facts), _pairs(facts), _confused(facts)]
    if facts["compared"]:
        parts.append(_open(facts))
    if (usage := facts["endpoint"]) is not None:
        cost = f", {usage['cost']:.4g} spent" if usage["cost"] else ""
        parts.append(
            f"Endpoint ({', '.join(usage['models'])}): {count(usage['replies'], 'reply')}, {usage['tokens_in']} tokens read and "
            f"{usage['tokens_out']} written{cost}. Machine-made labels are no gold standard, and a text can steer them."
        )
    return printable("\n".join(part for part in parts if part))


# --- facts --------------------------------------------------------------------------------------


def _annotators(given: Mapping[str, Mapping[str, Label | Skip]]) -> dict[str, dict[str, int]]:
    """Annotator -> {"labels", "skips"}: the answers that they did not take back."""
    found: dict[str, dict[str, int]] = {}
    for one in given.values():
        for who, answer in one.items():
            found.setdefault(who, {"labels": 0, "skips": 0})["labels" if isinstance(answer, Label) else "skips"] += 1
    return dict(sorted(found.items()))


def _sources(store: Store, given: Mapping[str, Mapping[str, Label | Skip]]) -> dict[str, int]:
    """Source -> answers that stand: "page", "page+suggestion", "terminal", "endpoint", "import", …"""
    last: dict[tuple[str, str], str] = {}
    for entry in store.annotations.history():
        if isinstance(entry.annotation, (Label, Skip)):
            last[entry.id, entry.annotation.annotator] = entry.source
    counts = Counter(source for (id, who), source in last.items() if who in given.get(id, {}))
    return dict(sorted(counts.items()))


# --- sentences ----------------------------------------------------------------------------------


def _who(facts: Mapping[str, Any]) -> str:
    rows = [
        f"{who}: {count(counts['labels'], 'label')}" + (f", {counts['skips']} skipped" if counts["skips"] else "")
        for who, counts in facts["annotators"].items()
    ]
    sources = ", ".join(f"{count} {source or 'unnamed'}" for source, count in facts["sources"].items())
    head = f"{facts['run']}: {facts['labelled']} of {facts['asked']} asked examples have a label"
    return "\n".join([f"{head} (answers by source: {sources})" if sources else head, *(f"  {row}" for row in rows)])


def _alpha(facts: Mapping[str, Any]) -> list[str]:
    n, alpha = facts["compared"], facts["alpha"]
    if n == 0:
        return [
            "No example has labels of two people, so nothing can be said about agreement. "
            "Set people.overlap (0.1, say) and let a second person label."
        ]
    who = "Two people both" if facts["people"] == 2 else f"At least two of {facts['people']} people"
    seen = f"{who} labelled {count(n, 'example')}; {_share(facts['observed'])} of the pairs of labels agree."
    if alpha is None:
        return [seen, "All gave one and the same label, so there is no alpha: chance alone would agree as well."]
    low, high = facts["low"], facts["high"]
    interval = (
        f", {100 * facts['level']:.0f} % interval {low:.2f} to {high:.2f}"
        if low is not None
        else "; there are too few labels of any but one kind for an interval"
    )
    lines = [seen, f"Krippendorff's alpha is {alpha:.3f}{interval}."]
    if n < FEW:
        lines.append(f"With {n} examples that is rough. Have more of them labelled twice before you rely on it.")
    elif low is not None:
        lines.append(_judged(low))
    lines.append(
        "The interval is about other examples like these and the same people. Examples that a strategy picked are often "
        "harder than the pool."
    )
    if shown := facts["sources"].get("page+suggestion"):
        lines.append(
            f"{_were(shown, 'answer')} given with the model's suggestion in view, which makes people agree more."
        )
    if skipped := facts["one_skipped"]:
        lines.append(f"{_were(skipped, 'example')} labelled by one and skipped by another; alpha does not count that.")
    return lines


def _judged(low: float) -> str:
    if low >= _GOOD:
        return f"The whole interval is above {_GOOD}, which Krippendorff asks of labels to rely on."
    if low >= _FAIR:
        return f"The interval reaches below {_GOOD}, which Krippendorff asks of labels to rely on, not below {_FAIR}."
    return f"The interval reaches below {_FAIR}, Krippendorff's least for tentative conclusions: read the guidelines."


def _classes(facts: Mapping[str, Any]) -> str:
    width = max(map(len, facts["classes"]), default=0)
    rows = [
        f"  {label:<{width}}  {_share(one['agreement']):>5}  in {count(one['n'], 'example')}"
        for label, one in sorted(facts["classes"].items(), key=lambda item: (item[1]["agreement"], item[0]))
    ]
    return _part("Where one says a label, another says it too:", rows)


def _pairs(facts: Mapping[str, Any]) -> str:
    rows = []
    for pair in sorted(facts["pairs"], key=lambda pair: -pair["n"]):
        kappa = "no kappa" if pair["kappa"] is None else f"kappa {pair['kappa']:.2f}"
        rows.append(f"  {' and '.join(pair['annotators'])}: {_share(pair['observed'])} of {pair['n']}, {kappa}")
    return _part("Pairs of annotators:", rows)


def _confused(facts: Mapping[str, Any]) -> str:
    rows = [f"  {' and '.join(row['labels'])}: {count(row['count'], 'time')}" for row in facts["confused"]]
    return _part("Most confused:", rows)


def _open(facts: Mapping[str, Any]) -> str:
    settled = f" {_were(len(facts['settled']), 'example')} settled." if facts["settled"] else ""
    if not facts["disagreements"]:
        return f"No disagreement is open.{settled}"
    rows = []
    for row in facts["disagreements"]:
        text = " ".join(row["text"].split())
        said = ", ".join(f"{who}: {shortened(answer, 40)}" for who, answer in row["answers"].items())
        rows.append(f"  {shortened(text, 60)} ({said})")
    head = f"{count(len(rows), 'disagreement')} still open; settle {'it' if len(rows) == 1 else 'them'} on the page (guidestar label).{settled}"
    return _part(head, rows)


def _part(head: str, rows: list[str]) -> str:
    """A head with the first of its rows; "" without any."""
    more = [f"  and {len(rows) - SHOWN} more; --json has all"] if len(rows) > SHOWN else []
    return "\n".join([head, *rows[:SHOWN], *more]) if rows else ""


def _share(value: float) -> str:
    """A share in per cent; 100 and 0 only where it is all or nothing.

    >>> _share(0.9996), _share(1.0)
    ('>99 %', '100 %')
    """
    if value not in (0, 1) and round(100 * value) in (0, 100):
        return ">99 %" if value > 0.5 else "<1 %"
    return percent(value)


def _were(number: int, noun: str) -> str:
    return f"{count(number, noun)} {'was' if number == 1 else 'were'}"
