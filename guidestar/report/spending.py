"""What an experiment cost, as the report shows it: read from the ledger that `guidestar costs` keeps beside the runs.

Tokens take the run's tokenizer and its data, which a report must not need. So the ledger is made where they are
(`study/costs.py`) and kept as costs.json; here it is only read, and only while it is about the rounds that the runs have.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidestar.metrics.cost import KINDS
from guidestar.report.read import RunRecord
from guidestar.report.summary import strategy_names
from guidestar.store import files

COSTS_FILE = "costs.json"


@dataclass(frozen=True)
class Spending:
    """header, rows: strategy, kind of work, seconds, tokens, operations, and money where something has a price; means over
    the strategy's runs. currency: of the money, empty where nothing has a price. sentences: each strategy beside its
    control."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    currency: str
    sentences: Sequence[str]


def spending(facts: Mapping[str, Any] | None, runs: Sequence[RunRecord]) -> Spending | None:
    """What the runs cost by their ledger (`current_ledger`); None without one."""
    if facts is None:
        return None
    bills = {bill["run"]: bill for bill in facts["runs"]}
    names = [name for name in strategy_names(runs) if any(r.strategy == name and r.name in bills for r in runs)]
    beside = {name: [bills[r.name] for r in runs if r.strategy == name and r.name in bills] for name in names}
    money = facts["currency"] or "money" if facts["priced"] else ""
    header = ["strategy", "for", "seconds", "tokens", "operations", *([money] if money else [])]
    spent = [(name, kind, _cells([bill["kinds"][kind] for bill in beside[name]])) for name in names for kind in KINDS]
    rows = [[name, kind, *cells][: len(header)] for name, kind, cells in spent if set(cells) - {"?", "0", "0.00"}]
    return Spending(header, rows, money, facts["sentences"])


def current_ledger(folder: Path, runs: Sequence[RunRecord]) -> dict[str, Any] | None:
    """What costs.json says; None where it is not there, or about other rounds than `runs` have.

    Raises StoreError for a file that is no ledger.
    """
    facts = read_ledger_of(folder)
    measured = {run.name: [m.labels for m in run.metrics] for run in runs if run.metrics}
    kept = {bill["run"]: [one["labels"] for one in bill["rounds"]] for bill in (facts or {"runs": []})["runs"]}
    return facts if measured == kept else None


def read_ledger_of(folder: Path) -> dict[str, Any] | None:
    """What costs.json says; None if it is not there. Raises StoreError if it cannot be read as a ledger."""
    path, needed = folder / COSTS_FILE, {"runs", "unit", "sentences", "currency"}
    mend = "delete it, `guidestar report` makes it anew"
    return files.read_json(path, needed, "ledger of costs", mend) if path.is_file() else None


def _cells(spent: Sequence[Mapping[str, Any]]) -> tuple[str, str, str, str]:
    """Means over the runs as text; a time that is not known of one run is not known."""
    seconds = [one["seconds"] for one in spent]
    kinds = ("tokens", "operations", "money")
    tokens, operations, money = (statistics.fmean(one[kind] for one in spent) for kind in kinds)
    known = "?" if None in seconds else f"{statistics.fmean(seconds):,.1f}"
    return known, f"{tokens:,.0f}", f"{operations:.2e}" if operations else "0", f"{money:,.2f}"
