"""The ledger of an experiment: what each round cost, and curves against labels and against all that was spent.

Seconds are those that the runs recorded. Tokens are counted with the model's tokenizer, afterwards: labelled examples
exactly, scored ones as the mean over the pool; operations come from formulas (`metrics/cost.py`).
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from guidestar import config as configs
from guidestar.bench import Bench
from guidestar.config import CONFIG_FILE, CostConfig, TrainConfig
from guidestar.data.table import IN_MEMORY
from guidestar.errors import ConfigError, ConfigMismatch, GuidestarError
from guidestar.metrics.cost import KINDS, Prices, Spent
from guidestar.model.recipe import epochs
from guidestar.people.ledger import read_ledger
from guidestar.phases import PHASES
from guidestar.query.recipes import ABOUT, Recipe
from guidestar.records import Label
from guidestar.report.read import is_random
from guidestar.report.spending import COSTS_FILE, read_ledger_of
from guidestar.report.style import look
from guidestar.store import Store, files, runs_in
from guidestar.study.drawing import save_figure
from guidestar.study.fit import pretrained
from guidestar.words import aligned, duration

PAUSE = 300.0  # seconds without an answer that count as a pause and not as labelling
BY_HAND = {"page", "terminal"}
Count = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True)
class Bill:
    """One run. rounds: kind -> spent, by round. labels, accuracy: after each of them, accuracy None without a test set."""

    run: str
    seed: int
    random: bool
    rounds: tuple[dict[str, Spent], ...]
    labels: tuple[int, ...]
    accuracy: tuple[float | None, ...]

    @property
    def totals(self) -> list[Spent]:
        """All spent up to each round, measuring left out."""
        counted = ([spent for kind, spent in one.items() if kind != "measuring"] for one in self.rounds)
        return list(itertools.accumulate(sum(spent, Spent()) for spent in counted))

    def plain(self, spent: Sequence[float]) -> dict[str, Any]:
        """As JSON-able data. spent: up to each round, see `_unit`."""
        kinds = {kind: asdict(sum((one[kind] for one in self.rounds), Spent())) for kind in KINDS}
        after = zip(self.labels, self.accuracy, spent, self.totals, self.rounds, strict=True)
        rows = [
            {"round": r, "labels": labels, "accuracy": accuracy, "spent": all_of_it, "total": asdict(total)}
            | {kind: asdict(part) for kind, part in one.items()}
            for r, (labels, accuracy, all_of_it, total, one) in enumerate(after)
        ]
        return {"run": self.run, "seed": self.seed, "kinds": kinds, "rounds": rows}


def costs(
    folder: Path,
    *,
    changes: Mapping[str, float | None] | None = None,
    out: Path | None = None,
    bench: Bench | None = None,
) -> dict[str, Any]:
    """The bills of an experiment's runs, JSON-able: "prices", "currency"; "runs", each with its "kinds" and "rounds";
    "priced", whether anything cost money; "unit" of what each round has "spent"; "sentences", "files".

    changes: names of `Prices` -> what is paid in place of the configuration's; None changes nothing. out: where cost.csv, .png and .pdf go; nothing is written
    without it. bench: the data and the tokenizer, if they are loaded already.
    Raises ConfigError for a folder without runs or configuration, ConfigMismatch for data that have changed since.
    """
    places = runs_in(folder)
    file = configs.kept_in(folder)
    if not places or file is None:
        raise ConfigError(f"{folder}: found no run with a {CONFIG_FILE} in it or above it")
    bench = bench or Bench(configs.load(file))
    set_prices = bench.config.cost
    prices = prices_of(set_prices, changes or {})
    tokenizer = pretrained(bench.config, "AutoTokenizer")

    def count(texts: Sequence[str]) -> list[int]:
        return [len(row) for row in tokenizer(list(texts))["input_ids"]] if texts else []

    home = file.absolute().parent  # of a run's folder the others of its experiment may have done work for it
    together = runs_in(home) if home == folder.absolute().parent else places
    asked = {place.resolve() for place in places}
    with ExitStack() as stack:
        stores = [stack.enter_context(Store.open(place, read=True)) for place in together]
        all_begun = [store for store in stores if store.begun and store.metrics()]
        begun = [store for store in all_begun if store.folder.resolve() in asked]
        if not begun:
            raise ConfigError(f"{folder}: no round is complete yet, so there is nothing to count")
        shared = _shared_seconds(all_begun)
        bills = [_bill(store, bench, prices, count, shared) for store in begun]
    priced, unit = _unit(bills, set_prices.currency)
    facts: dict[str, Any] = {
        "prices": asdict(prices),
        "currency": set_prices.currency,
        "priced": priced,
        "unit": unit,
        "runs": [bill.plain(_spent(bill, priced)) for bill in bills],
        "sentences": _sentences(bills, set_prices.currency),
        "files": [],
    }
    if out is not None:
        facts["files"] = [str(path) for path in _write(bills, out, set_prices.currency)]
    return facts


def prices_of(section: CostConfig, changes: Mapping[str, float | None]) -> Prices:
    """The prices of a configuration. changes: names of `Prices` -> others in their place; None changes nothing."""
    prices = Prices(section.label, section.annotator_hour, section.machine_hour)
    return replace(prices, **{name: value for name, value in changes.items() if value is not None})


def keep_costs(folder: Path) -> Path | None:
    """Write the bills, at the configuration's prices, as costs.json into the folder, where the report finds them.

    Returns the file; None where they cannot be had, for want of the data, the tokenizer or a complete round. A ledger
    about the same rounds, labels and prices stays as it is.
    """
    path, file = folder / COSTS_FILE, configs.kept_in(folder)
    try:
        if file is None:
            return None
        config = configs.load(file)
        about = {"rounds": _rounds(folder), "cost": config.cost.model_dump(mode="json")}
        kept = read_ledger_of(folder)
        if kept is None or kept.get("about") != about:
            facts = {"about": about, **costs(folder, bench=Bench(config))}
            files.write_bytes(path, (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())
    except (GuidestarError, OSError, ValueError):  # the last two: a tokenizer that transformers cannot read
        return None
    return path


def _rounds(folder: Path) -> dict[str, list[int]]:
    """Run -> [complete rounds, things that annotators did]: what a ledger depends on, besides prices."""
    complete = {}
    for place in runs_in(folder):
        with Store.open(place, read=True) as store:
            if store.begun:
                complete[place.resolve().name] = [len(store.metrics()), len(store.annotations.history())]
    return complete


def costs_text(facts: Mapping[str, Any]) -> str:
    """The bills as a table for a terminal, a line for each kind of work of each run, then the sentences."""
    header = ("run", "for", "seconds", "tokens", "operations", facts["currency"] or "money")
    rows = [
        (
            run["run"] if kind == KINDS[0] else "", kind, "?" if spent["seconds"] is None else f"{spent['seconds']:.1f}",
            f"{spent['tokens']:,.0f}", f"{spent['operations']:.2e}",
            f"{spent['money']:.2f}" if facts["priced"] else "–",  # nothing has a price
        )
        for run in facts["runs"]
        for kind, spent in run["kinds"].items()
    ]  # fmt: skip
    return "\n".join([*aligned(header, rows, left=2), "", *facts["sentences"], *facts["files"]])


# --- counting -------------------------------------------------------------------------------------


def _shared_seconds(stores: Sequence[Store]) -> dict[tuple[Any, ...], float]:
    """What only the first run of an experiment had to do, so that it is charged to all: the base model's predictions
    and the warm start's adapter."""
    longest: dict[tuple[Any, ...], float] = {}
    for store in stores:
        for r, phase, seconds, n in store.timings():
            key = _shared_key(store, r, phase, n)
            if key is not None:
                longest[key] = max(longest.get(key, 0.0), seconds)
    return longest


def _shared_key(store: Store, r: int, phase: str, n: int) -> tuple[Any, ...] | None:
    shared = PHASES[phase].shared if phase in PHASES else "no"
    if shared == "all":
        return r, phase, n
    if shared != "seed" or r != 0:
        return None
    picks = tuple(pick.id for pick in store.query(0).picks)  # a strategy may choose a warm start of its own
    return store.facts.get("seed"), r, phase, n, picks


def _bill(store: Store, bench: Bench, prices: Prices, count: Count, shared: Mapping[tuple[Any, ...], float]) -> Bill:
    if store.facts.get("data_hash") != bench.dataset.hash:
        raise ConfigMismatch(
            f"{store.folder}: the data or the template has changed since the run was begun; put it back to count its tokens"
        )
    measured = store.metrics()
    known = len(measured)
    parameters = float(store.facts["model"]["parameters"])
    data = bench.dataset
    parts = {
        "pool": data.pool[:: -(-len(data.pool) // IN_MEMORY)],  # of a large one a part tells the mean
        "test": data.test.examples if data.test else (),
        "validation": data.validation.examples if data.validation else (),
    }
    lengths = {name: statistics.fmean(count([e.prompt for e in some])) if some else 0.0 for name, some in parts.items()}
    rounds = [{kind: Spent() for kind in KINDS} for _ in range(known)]
    known_fields = {f.name for f in fields(Recipe)} - {"mix"} - ABOUT
    recipe = {k: v for k, v in (store.facts.get("recipe") or {}).items() if k in known_fields and v is not None}
    walks, seen = Recipe("", **recipe).walks, set()  # stored recipes of older runs know passes alone
    for r, name, seconds, n in store.timings():
        if r >= known or name not in PHASES:
            continue
        phase, key = PHASES[name], _shared_key(store, r, name, n)
        seconds = max(seconds, shared.get(key, 0.0)) if key is not None else seconds
        if phase.over == "labelled":
            of = r - (name != "train")  # a committee learns from the labels of the round before
            tokens = _trained_tokens(store, bench, count, of) * n / max(store.trained_on(of), 1)
        elif phase.whole and name in seen and phase.once(bench.config):
            tokens = 0.0  # the whole pool once; later rounds read it from the cache
        else:
            tokens = n * lengths[phase.over] * (walks if phase.walks else 1)
        seen.add(name)
        frozen = str(bench.config.peft.get("peft_type", "")).upper() != "FULL"
        rounds[r][phase.purpose] += phase.spent(
            tokens, parameters, frozen=frozen, seconds=seconds, money=prices.machine(seconds)
        )
    for r, spent in enumerate(_labelling(store, bench, prices, known)):
        rounds[r]["labelling"] += spent
    return Bill(
        store.folder.resolve().name, int(store.facts.get("seed", 0)), is_random(store.facts), tuple(rounds),
        tuple(m.labels for m in measured), tuple(m.values.get("accuracy") for m in measured),
    )  # fmt: skip


def _trained_tokens(store: Store, bench: Bench, count: Count, r: int) -> float:
    """Tokens of prompts, answers and end tokens, all epochs; with early stopping an upper limit."""
    task = bench.dataset.task
    texts = []
    for example, label in store.annotations.labelled(r):
        word = task.response_text(label.answer) if not task.classes or label.answer in task.classes else ""
        texts.append(f"{example.prompt} {word}")
    known = store.facts.get("training", bench.config.train.model_dump())
    settings = TrainConfig(**{key: value for key, value in known.items() if key in TrainConfig.model_fields})
    return float(epochs(settings, len(texts)) * (sum(count(texts)) + len(texts)))


def _labelling(store: Store, bench: Bench, prices: Prices, rounds: int) -> list[Spent]:
    """Each round's answers: an endpoint's by its ledger (its weak labels in round 0), people's by the clock between two answers, else by the price."""
    history, replies = store.annotations.history(), read_ledger(store.folder)
    given = bench.config.cost.seconds_per_label
    by_hand = given if given is not None else _pace([e for e in history if e.source in BY_HAND])
    source = {entry.id: entry.source for entry in history if isinstance(entry.annotation, Label)}
    picked = {pick.id for r in range(rounds) for pick in store.query(r).picks}
    rounds_spent = []
    for r in range(rounds):
        ids = {pick.id for pick in store.query(r).picks}
        here = [source[id] for id in ids if id in source]
        asked = [line for line in replies if line["id"] in ids or (r == 0 and line["id"] not in picked)]
        people = sum(kind not in ("endpoint", "oracle", "import") for kind in here)
        simulated = sum(kind == "oracle" for kind in here)
        pace = given if given is not None else by_hand
        human = people + (simulated if given is not None else 0)
        seconds = 0.0 if not human else None if pace is None else pace * human
        paid = prices.labels(people + simulated, seconds) + sum(float(line["cost"]) for line in asked)
        if asked:
            seconds = None if seconds is None else seconds + sum(float(line["seconds"]) for line in asked)
        tokens = sum((line["tokens_in"] or 0) + (line["tokens_out"] or 0) for line in asked)
        rounds_spent.append(Spent(seconds, float(tokens), 0.0, paid))
    return rounds_spent


def _pace(entries: Sequence[Any]) -> float | None:
    """Median seconds between two answers of one annotator, pauses left out; None with fewer than five."""
    last: dict[str, datetime] = {}
    gaps = []
    for entry in entries:
        who, at = getattr(entry.annotation, "annotator", ""), datetime.fromisoformat(entry.at)
        if who in last and 0 < (gap := (at - last[who]).total_seconds()) <= PAUSE:
            gaps.append(gap)
        last[who] = at
    return statistics.median(gaps) if len(gaps) >= 5 else None


# --- what is said and written ---------------------------------------------------------------------


def _unit(bills: Sequence[Bill], currency: str) -> tuple[bool, str]:
    """Whether anything has a price, and the name of what curves are drawn against: money, else time of the machine."""
    priced = any(total.money for bill in bills for total in bill.totals)
    return priced, f"all that was spent{', ' + currency if currency else ''}" if priced else "computing, minutes"


def _spent(bill: Bill, priced: bool) -> list[float]:
    """All that was spent up to each round, in `_unit`."""
    return [total.money if priced else _machine(bill, i) / 60 for i, total in enumerate(bill.totals)]


def _sentences(bills: Sequence[Bill], currency: str) -> list[str]:
    """Each strategy beside the random one of its seed: at the accuracy where random ended, labels and all that was spent."""
    lines = []
    for bill in bills:
        control = next((b for b in bills if b.random and b.seed == bill.seed), None)
        if bill.random or control is None or control.accuracy[-1] is None:
            continue
        target = control.accuracy[-1]
        own, other = (
            next((i for i, a in enumerate(b.accuracy) if a is not None and a >= target), None) for b in (bill, control)
        )
        if own is None or other is None:
            lines.append(
                f"{bill.run} never reached {target:.3f}, the accuracy that {control.run} ended with: there is nothing to save."
            )
            continue
        saved = control.labels[other] - bill.labels[own]
        mine, theirs = bill.totals[own], control.totals[other]
        with_labels = f"with {bill.labels[own]} labels instead of {control.labels[other]}"
        if not saved:
            with_labels = f"with as many labels, {bill.labels[own]}"
        line = f"{bill.run} reached {target:.3f}, the accuracy that {control.run} ended with, {with_labels}"
        if f"{mine.money:.2f}" != f"{theirs.money:.2f}":
            line += f", for {mine.money:.2f} instead of {theirs.money:.2f} {currency}".rstrip()
        lines.append(f"{line}{_price_of_saving(bill, control, own, other, saved)}.")
    return lines


def _price_of_saving(bill: Bill, control: Bill, own: int, other: int, saved: int) -> str:
    machine = [_machine(b, at) for b, at in ((bill, own), (control, other))]
    extra = machine[0] - machine[1]
    if saved <= 0:
        less = "more" if extra > 0 else "less"
        return "; it saved no label" + (f" and computed {duration(abs(extra))} {less}" if abs(extra) >= 0.5 else "")
    if extra <= 0:
        return f"; the {saved} labels that it saved also saved {duration(-extra)} of computing"
    return f"; each of the {saved} labels that it saved took {extra / saved:.1f} s of computing"


def _machine(bill: Bill, at: int) -> float:
    """Seconds of choosing and training up to a round."""
    return sum((one[kind].seconds or 0.0) for one in bill.rounds[: at + 1] for kind in ("choosing", "training"))


def _write(bills: Sequence[Bill], out: Path, currency: str) -> list[Path]:
    priced, unit = _unit(bills, currency)
    spent = [_spent(bill, priced) for bill in bills]

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        for i, (bill, money) in enumerate(zip(bills, spent, strict=True)):
            if all(a is not None for a in bill.accuracy):
                left.plot(bill.labels, bill.accuracy, label=bill.run, **look(i))
                right.plot(money, bill.accuracy, **look(i))
        left.set(xlabel="labels", ylabel="accuracy")
        right.set(xlabel=unit)
        figure.legend(loc="outside lower center", ncols=4)

    header = ["run", "round", "labels", "accuracy", unit]
    header += [f"{kind} {what}" for kind in KINDS for what in ("seconds", "tokens", "operations", "money")]
    rows = [
        [bill.run, r, bill.labels[r], bill.accuracy[r], money[r]]
        + [getattr(one[kind], what) for kind in KINDS for what in ("seconds", "tokens", "operations", "money")]
        for bill, money in zip(bills, spent, strict=True)
        for r, one in enumerate(bill.rounds)
    ]
    for kind in ("csv", "png", "pdf"):
        files.check_output(out / f"cost.{kind}", lambda path: _is_ours(out / "cost.csv"), "what costs wrote")
    return save_figure(out / "cost", draw, header, rows)


def _is_ours(table: Path) -> bool:
    """Whether a table is an earlier one of these; the pictures beside it then are, too."""
    try:
        with table.open(encoding="utf-8") as file:
            return file.readline().startswith("run,round,labels,accuracy,")
    except (OSError, UnicodeDecodeError):
        return False
