"""What happens to confidence and entropy where the prediction stays the same?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guidestar.bench import Bench
from guidestar.errors import StoreError
from guidestar.progress import Progress
from guidestar.study.drawing import save_figure
from guidestar.study.probes import figures, numbers
from guidestar.study.probes.run import Arrays, Probe, Subject, opened
from guidestar.words import number


def unchanged_probe(run: Path, bench: Bench | None = None, *, progress: Progress | None = None) -> Probe:
    """Change of confidence and of entropy on the test set, apart by whether the predicted label changed.

    Each round is set beside the base model, and beside the round before it; right and wrong are after the change.
    It computes nothing with a model, unless the base model's test predictions were deleted.
    Raises ConfigError for a task that is not a choice, and for a run without a test set.
    """
    with opened(run, bench, progress) as subject:
        subject.need_choice("unchanged")
        rounds = list(subject.measured().values())
        arrays = [subject.zero_shot(), *(subject.store.arrays(m.round, "test") for m in rounds)]
        pairs = [(0, i + 1) for i in range(len(rounds))] + [(i, i + 1) for i in range(1, len(rounds))]
        found = [
            {
                "from": None if a == 0 else rounds[a - 1].round,
                "to": rounds[b - 1].round,
                "labels": rounds[b - 1].labels,
                "groups": _changes(subject, arrays[a], arrays[b]),
            }
            for a, b in pairs
        ]
        facts = {**subject.about("unchanged"), "examples": len(arrays[0]["gold"]), "changes": found}
        columns: list[tuple[str, list[str], list[Any]]] = []
        for title, some in (
            ("against the base model", [one for one in found if one["from"] is None]),
            ("against the round before", [one for one in found if one["from"] is not None]),
        ):
            if some:
                columns.append((title, [str(one["to"]) for one in some], [one["groups"] for one in some]))
        draw = figures.draw_changes(columns, "round (0 is the warm start)")
        written = save_figure(
            subject.place / "unchanged", draw, *_change_rows(found), width=3.6 * len(columns), height=4.0
        )
        return subject.finish("unchanged", facts, _change_sentences(found, len(rounds)), written)


def _changes(subject: Subject, before: Arrays, after: Arrays) -> dict[str, dict[str, Any]]:
    if not np.array_equal(before["gold"], after["gold"]):
        raise StoreError(f"{subject.folder}: the test predictions of two rounds are not of the same examples")
    return numbers.changes(before["log_probs"], after["log_probs"], after["gold"])


def _change_rows(found: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """Header and rows of the CSV file: a row for each pair of models, group and quantity."""
    columns = ("mean", "std", *(f"q{round(100 * q):02d}" for q in numbers.QUANTILES))
    rows: list[list[object]] = []
    for one in found:
        for group, values in one["groups"].items():
            for what in ("confidence", "entropy"):
                spread = values[what]
                rows.append(
                    ["base" if one["from"] is None else one["from"], one["to"], one["labels"], group, values["n"],
                     values["share"], what, *(spread.get(column) for column in columns)]
                )  # fmt: skip
    return ["from", "to", "labels", "group", "n", "share", "change_of", *columns], rows


def _change_sentences(found: Sequence[Mapping[str, Any]], rounds: int) -> list[str]:
    sentences = [_change_sentence("the base model", found[rounds - 1])]
    if rounds > 1:
        sentences.append(_change_sentence(f"round {found[-1]['from']}", found[-1]))
        shares = [one["groups"]["unchanged"]["share"] for one in found[rounds:]]
        sentences.append(
            f"From one round to the next, between {min(shares):.0%} and {max(shares):.0%} of the predictions stay "
            "the same."
        )
    return sentences


def _change_sentence(before: str, one: Mapping[str, Any]) -> str:
    groups = one["groups"]
    parts = [
        f"{groups[name]['n']} {words}: confidence {number(groups[name]['confidence']['mean'], 2, sign=True)}, "
        f"entropy {number(groups[name]['entropy']['mean'], 2, sign=True)} nats"
        for name, words in (
            ("unchanged_right", "unchanged and right"),
            ("unchanged_wrong", "unchanged and wrong"),
            ("changed", "changed"),
        )
        if groups[name]["n"]
    ]
    return (
        f"From {before} to round {one['to']} ({one['labels']:,} labels), {groups['unchanged']['share']:.0%} of the test "
        f"predictions stay the same. Mean changes: {'; '.join(parts)}."
    )
