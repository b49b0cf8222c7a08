"""A comparison as text for a terminal: tables, sentences, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guidestar.report.facts import Compared, Comparisons, Row
from guidestar.words import NOTHING, aligned, bounded, chance, count, level_of, number, paired, share


def compare_text(facts: Comparisons) -> str:
    """The comparison for a terminal: for each dataset sentences, tables and notes; then who won, and what the columns
    mean."""
    parts = [_dataset_text(data) for data in facts.datasets]
    if facts.wins:
        parts.append(_wins_text(facts.wins, len(facts.datasets)))
    if any(row.auc.strategy is not None for data in facts.datasets for row in data.comparisons):
        parts.append(_legend(facts, "\n".join(parts)))
    return "\n\n".join(parts)


def _dataset_text(data: Compared) -> str:
    rows, control = data.comparisons, data.control
    labels = f", {data.labels[0]} to {data.labels[-1]} labels" if data.labels else ""
    lines = [f"{data.name}, beside {control}{labels}" + (f", {data.test} test examples" if data.test else ""), ""]
    lines += data.warnings
    if not rows:
        lines.append(f"There is nothing to compare with {control}.")
    for row in rows:
        lines.append(row.verdict.sentence)
        if row.target_sentence:
            lines.append(f"  At the target: {row.target_sentence}")
    if shown := [row for row in rows if row.auc.strategy is not None]:
        columns = ["seeds", "AUC", "AUC control", "RIPL", "deficiency", "final", "final control"]
        lines += ["", *_block(shown, columns, {"AUC control": control, "final control": control})]
    if any(row.p is not None for row in rows):
        lines += ["", *_block(rows, ["labels saved on average", "at the end"])]
        lines += ["", *_block(rows, ["difference of AUC", "p", "Holm", "exact p"])]
    rest = [*data.left_out, *data.notes]
    return "\n".join([*lines, *([""] if rest else []), *rest])


def _block(rows: Sequence[Row], columns: Sequence[str], names: Mapping[str, str] | None = None) -> list[str]:
    """Some columns of `cells` as a table, without those that are known of no row. names: column -> what stands above it, where
    that is not its name."""
    shown = [column for column in columns if any(cells(row)[column] != NOTHING for row in rows)]
    header = ["", *((names or {}).get(column, column) for column in shown)]
    return aligned(header, [[row.strategy, *(cells(row)[column] for column in shown)] for row in rows])


def cells(row: Row) -> dict[str, str]:
    """All that is shown of a strategy beside the control: column -> text."""
    p, end = row.p, row.saved.at_the_end if row.saved else None
    return {
        "seeds": str(len(row.seeds)),
        "AUC": number(row.auc.strategy),
        "AUC control": number(row.auc.control),
        "RIPL": share(row.ripl),
        "deficiency": bounded(row.deficiency),
        "final": number(row.final.strategy),
        "final control": number(row.final.control),
        "labels saved on average": share(row.saved.on_average if row.saved else None),
        "at the end": share(end.share.plain(), end.bound) if end else NOTHING,
        "difference of AUC": paired(row.auc.difference),
        "p": chance(p.t if p else None),
        "Holm": chance(p.holm if p else None),
        "exact p": chance(p.sign_flips if p else None),
    }


def _legend(facts: Comparisons, text: str) -> str:
    """What the columns in a text mean, and its dashes."""
    tested = facts.comparisons
    holm = f"corrected for {count(tested, 'comparison')}" if tested else "not for so few seeds"
    meant = {
        f" {NOTHING}": f"{NOTHING}: not known with these seeds.",
        " AUC": "AUC: mean height of the curve.",
        " RIPL": "RIPL: share of the gap between the control's AUC and 1 that is closed.",
        "deficiency": "deficiency: area above the curve, under the control's last accuracy, over the control's; below 1 is "
        "better.",
        "labels saved on average": "labels saved: share of the control's, on average over the accuracies on the way, and to reach "
        "the accuracy at which the lower curve ends.",
        "difference of AUC": f"difference of AUC: by the t distribution. p: t test; Holm: {holm}; exact p: sign flips. In brackets: "
        f"{level_of(facts.level)} intervals; … is an open end.",
    }
    return "\n".join(line for column, line in meant.items() if column in text)


def _wins_text(wins: Mapping[str, Mapping[str, Sequence[int]]], datasets: int) -> str:
    names = list(wins)
    pairs = sum(sum(counts) for columns in wins.values() for counts in columns.values()) // 2
    rows = [[name, *("-".join(map(str, wins[name].get(other, ()))) for other in names)] for name in names]
    where = f"{datasets} datasets" if datasets > 1 else "one dataset"
    head = f"Won-tied-lost of each row against each column, over {where}, corrected for all {pairs} pairs:"
    return "\n".join([head, "", *aligned(["", *names], rows)])
