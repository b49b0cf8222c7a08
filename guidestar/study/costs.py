"""What labelling will cost, and the ledger of an experiment: what each round did cost, and curves against all that was spent.

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
from guidestar.metrics.memory import Range
from guidestar.model.recipe import epochs
from guidestar.model.sizes import pretrained
from guidestar.people.ledger import read_ledger
from guidestar.phases import PHASES
from guidestar.query.recipes import ABOUT, Recipe
from guidestar.records import Label
from guidestar.report.read import is_random
from guidestar.report.spending import COSTS_FILE, read_ledger_of
from guidestar.report.style import look
from guidestar.store import Store, files, runs_in
from guidestar.study.drawing import save_figure
from guidestar.study.fit import Lengths
from guidestar.words import aligned, count, duration, span

PACE = (0.75, 1.5)  # people label so much faster and slower than the rate that is expected of them
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

    @property
    def kinds(self) -> dict[str, Spent]:
        """All rounds together, by kind."""
        return {kind: sum((one[kind] for one in self.rounds), Spent()) for kind in KINDS}

    def machine(self, at: int) -> float:
        """Seconds of choosing and training up to a round."""
        return sum((one[kind].seconds or 0.0) for one in self.rounds[: at + 1] for kind in ("choosing", "training"))

    def plain(self, spent: Sequence[float]) -> dict[str, Any]:
        """As JSON-able data. spent: up to each round, see `Costs.unit`."""
        after = zip(self.labels, self.accuracy, spent, self.totals, self.rounds, strict=True)
        rows = [
            {"round": r, "labels": labels, "accuracy": accuracy, "spent": all_of_it, "total": asdict(total)}
            | {kind: asdict(part) for kind, part in one.items()}
            for r, (labels, accuracy, all_of_it, total, one) in enumerate(after)
        ]
        kinds = {kind: asdict(part) for kind, part in self.kinds.items()}
        return {"run": self.run, "seed": self.seed, "kinds": kinds, "rounds": rows}


@dataclass(frozen=True)
class Costs:
    """The bills of an experiment's runs."""

    bills: Sequence[Bill]
    prices: Prices
    currency: str

    @property
    def priced(self) -> bool:
        """Whether anything cost money."""
        return any(total.money for bill in self.bills for total in bill.totals)

    @property
    def unit(self) -> str:
        """What curves are drawn against: money, or the machine's time where nothing has a price."""
        return ", ".join(filter(None, ("all that was spent", self.currency))) if self.priced else "computing, minutes"

    def spent(self, bill: Bill) -> list[float]:
        """By a run up to each round, in `unit`."""
        return [total.money if self.priced else bill.machine(i) / 60 for i, total in enumerate(bill.totals)]

    def plain(self) -> dict[str, Any]:
        """As JSON-able data."""
        return {
            "prices": asdict(self.prices), "currency": self.currency, "priced": self.priced, "unit": self.unit,
            "runs": [bill.plain(self.spent(bill)) for bill in self.bills], "sentences": self.sentences,
        }  # fmt: skip

    def text(self) -> str:
        """A table for a terminal, a line for each kind of work of each run, then the sentences."""
        header = ("run", "for", "seconds", "tokens", "operations", self.currency or "money")
        rows = [
            (
                bill.run if kind == KINDS[0] else "", kind, "?" if spent.seconds is None else f"{spent.seconds:.1f}",
                f"{spent.tokens:,.0f}", f"{spent.operations:.2e}",
                f"{spent.money:.2f}" if self.priced else "–",  # nothing has a price
            )
            for bill in self.bills
            for kind, spent in bill.kinds.items()
        ]  # fmt: skip
        return "\n".join([*aligned(header, rows, left=2), "", *self.sentences])

    @property
    def sentences(self) -> list[str]:
        """Each strategy beside the random one of its seed: at the accuracy where random ended, labels and all that was spent."""
        controls = {bill.seed: bill for bill in reversed(self.bills) if bill.random}
        pairs = [(bill, controls[bill.seed]) for bill in self.bills if not bill.random and bill.seed in controls]
        return [_beside(bill, control, self.currency) for bill, control in pairs if control.accuracy[-1] is not None]

    def write(self, out: Path) -> list[Path]:
        """cost.csv, cost.png and cost.pdf in a folder, over earlier ones of theirs alone."""
        spent = [self.spent(bill) for bill in self.bills]

        def draw(figure: Any) -> None:
            left, right = figure.subplots(1, 2, sharey=True)
            for i, (bill, so_far) in enumerate(zip(self.bills, spent, strict=True)):
                if all(a is not None for a in bill.accuracy):
                    left.plot(bill.labels, bill.accuracy, label=bill.run, **look(i))
                    right.plot(so_far, bill.accuracy, **look(i))
            left.set(xlabel="labels", ylabel="accuracy")
            right.set(xlabel=self.unit)
            figure.legend(loc="outside lower center", ncols=4)

        parts = [(kind, what.name) for kind in KINDS for what in fields(Spent)]
        header = ["run", "round", "labels", "accuracy", self.unit, *map(" ".join, parts)]
        rows = [
            [bill.run, r, *at, *(getattr(one[kind], what) for kind, what in parts)]
            for bill, so_far in zip(self.bills, spent, strict=True)
            for r, (*at, one) in enumerate(zip(bill.labels, bill.accuracy, so_far, bill.rounds, strict=True))
        ]
        for kind in ("csv", "png", "pdf"):
            files.check_output(out / f"cost.{kind}", lambda path: _is_ours(out / "cost.csv"), "what costs wrote")
        return save_figure(out / "cost", draw, header, rows)


def costs(folder: Path, *, changes: Mapping[str, float | None] | None = None, bench: Bench | None = None) -> Costs:
    """The bills of an experiment's runs.

    changes: names of `Prices` -> what is paid in place of the configuration's; None changes nothing. bench: the data and
    the tokenizer, if they are loaded already.
    Raises ConfigError for a folder without runs or configuration, ConfigMismatch for data that have changed since.
    """
    places = runs_in(folder)
    file = configs.kept_in(folder)
    if not places or file is None:
        raise ConfigError(f"{folder}: found no run with a {CONFIG_FILE} in it or above it")
    bench = bench or Bench(configs.load(file))
    prices = prices_of(bench.config.cost, changes or {})
    tokenizer = pretrained(bench.config, "AutoTokenizer")

    def tokens_of(texts: Sequence[str]) -> list[int]:
        return [len(row) for row in tokenizer(list(texts))["input_ids"]] if texts else []

    home = file.absolute().parent  # of a run's folder the others of its experiment may have done work for it
    together = runs_in(home) if home == folder.absolute().parent else places
    asked = {place.resolve() for place in places}
    with ExitStack() as stack:
        stores = [stack.enter_context(Store.open(place, read=True)) for place in together]
        begun = [store for store in stores if store.begun and store.metrics()]
        shared = _shared_seconds(begun)
        bills = [_bill(s, bench, prices, tokens_of, shared) for s in begun if s.folder.resolve() in asked]
    if not bills:
        raise ConfigError(f"{folder}: no round is complete yet, so there is nothing to count")
    return Costs(bills, prices, bench.config.cost.currency)


def prices_of(section: CostConfig, changes: Mapping[str, float | None]) -> Prices:
    """The prices of a configuration. changes: names of `Prices` -> others in their place; None changes nothing."""
    prices = Prices(section.label, section.annotator_hour, section.machine_hour)
    return replace(prices, **{name: value for name, value in changes.items() if value is not None})


@dataclass(frozen=True)
class Labelling:
    """Who will answer, and the money of labels and of the machine. weak_labels: that an endpoint is asked for once. hours:
    of annotators, None where no rate is known; the money of labels is then the price alone. money: of "labels", "machine"
    and "total"."""

    answered_by: str
    labels_asked: int
    weak_labels: int
    hours: Range | None
    prices: Prices
    currency: str
    money: Mapping[str, Range]

    @property
    def lines(self) -> list[str]:
        """Both for a terminal."""
        if self.answered_by == "endpoint":
            said = f"{self.labels_asked} questions to the endpoint"
        elif self.hours is None:
            said = "no rate is known; give --rate LABELS_PER_HOUR, or cost.seconds_per_label"
        else:
            would = " if people answered" if self.answered_by == "oracle" else ""
            said = f"{span([h * 3600 for h in self.hours], duration)} for {self.labels_asked} answers{would}"
        paid = "no price is known; give --label, --annotator-hour or --machine-hour, or the section `cost`"
        if any(vars(self.prices).values()) or self.money["total"][1]:
            labels, machine, total = (span(ends, lambda n: f"{n:,.2f}") for ends in self.money.values())
            paid = f"{total} {self.currency}".rstrip() + f" (labels {labels}, machine {machine})"
        weak = f"{count(self.weak_labels, 'question')} to the endpoint, once for all runs; those that are kept cost nothing"
        return [f"labelling: {said}", *([f"weak labels: {weak}"] if self.weak_labels else []), f"money: {paid}"]


def labelling_of(
    bench: Bench, labels: int, seconds: Range, prices: Prices, rate: float | None, lengths: Lengths
) -> Labelling:
    """What so many labels and so much time of the machine will cost. rate: labels an hour; default: the configuration's."""
    config, endpoint = bench.config, bench.answered_by == "endpoint"
    pace = 3600 / rate if rate is not None else config.cost.seconds_per_label
    asked = labels if endpoint else round(labels * (1 + config.people.overlap))
    hours = None if pace is None or endpoint else (asked * pace / 3600 * PACE[0], asked * pace / 3600 * PACE[1])
    low, high = (prices.labels(0 if endpoint else asked, 3600 * end) for end in hours or (0.0, 0.0))
    weak, e = min(config.train.weak_labels or 0, len(bench.dataset.pool)), config.endpoint
    questions = asked if endpoint else weak
    dearest = 2 * lengths.longest * e.price_in + e.max_tokens * e.price_out
    low, high = low + questions * lengths.mean * e.price_in / 1e6, high + questions * dearest / 1e6
    least, most = (prices.machine(end) for end in seconds)
    money = {"labels": (low, high), "machine": (least, most), "total": (low + least, high + most)}
    return Labelling(bench.answered_by, asked, weak, hours, prices, config.cost.currency, money)


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
            facts = {"about": about, **costs(folder, bench=Bench(config)).plain(), "files": []}
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
    frozen = str(bench.config.peft.get("peft_type", "")).upper() != "FULL"
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
        money = prices.machine(seconds)
        rounds[r][phase.purpose] += phase.spent(tokens, parameters, frozen=frozen, seconds=seconds, money=money)
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
    pace = given if given is not None else _pace([e for e in history if e.source in BY_HAND])
    source = {entry.id: entry.source for entry in history if isinstance(entry.annotation, Label)}
    picked = {pick.id for r in range(rounds) for pick in store.query(r).picks}
    rounds_spent = []
    for r in range(rounds):
        ids = {pick.id for pick in store.query(r).picks}
        here = [source[id] for id in ids if id in source]
        asked = [line for line in replies if line["id"] in ids or (r == 0 and line["id"] not in picked)]
        people = sum(kind not in ("endpoint", "oracle", "import") for kind in here)
        simulated = sum(kind == "oracle" for kind in here)
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


# --- what is said ---------------------------------------------------------------------------------


def _beside(bill: Bill, control: Bill, currency: str) -> str:
    target = control.accuracy[-1] or 0.0
    curves = ([-1.0 if a is None else a for a in one.accuracy] for one in (bill, control))
    own, other = (next((i for i, a in enumerate(curve) if a >= target), None) for curve in curves)
    if own is None or other is None:
        return f"{bill.run} never reached {target:.3f}, the accuracy that {control.run} ended with: there is nothing to save."
    saved = control.labels[other] - bill.labels[own]
    mine, theirs = bill.totals[own], control.totals[other]
    with_labels = f"with {bill.labels[own]} labels instead of {control.labels[other]}"
    if not saved:
        with_labels = f"with as many labels, {bill.labels[own]}"
    line = f"{bill.run} reached {target:.3f}, the accuracy that {control.run} ended with, {with_labels}"
    if f"{mine.money:.2f}" != f"{theirs.money:.2f}":
        line += f", for {mine.money:.2f} instead of {theirs.money:.2f} {currency}".rstrip()
    return f"{line}{_price_of_saving(bill.machine(own) - control.machine(other), saved)}."


def _price_of_saving(extra: float, saved: int) -> str:
    """extra: seconds that the machine worked longer."""
    if saved <= 0:
        less = "more" if extra > 0 else "less"
        return "; it saved no label" + (f" and computed {duration(abs(extra))} {less}" if abs(extra) >= 0.5 else "")
    if extra <= 0:
        return f"; the {saved} labels that it saved also saved {duration(-extra)} of computing"
    return f"; each of the {saved} labels that it saved took {extra / saved:.1f} s of computing"


def _is_ours(table: Path) -> bool:
    """Whether a table is an earlier one of these; the pictures beside it then are, too."""
    try:
        with table.open(encoding="utf-8") as file:
            return file.readline().startswith("run,round,labels,accuracy,")
    except (OSError, UnicodeDecodeError):
        return False
