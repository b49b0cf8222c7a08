"""What annotators did: one append-only log, and what it amounts to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from guidestar.errors import DataError, StoreError
from guidestar.records import Annotation, Example, Flag, Label, Note, Pick, Relabel, Skip, Undo, Verdict
from guidestar.store.database import Database, json_of, numbers_as_json
from guidestar.store.migrations import timestamp
from guidestar.store.replay import Replay

# Kinds of one list replace each other: an annotator's last one of a list is what they say now.
_REPLACE: tuple[tuple[str, ...], ...] = (("label", "skip", "undo"), ("flag", "unflag"), ("note",), ("verdict",))
_COLUMNS = "number, example, kind, text, annotator, source, decision, annotated_at"
TEST = "test"  # in the details of a pick: its label is set aside to test on
# Sources of answers to several examples at once, which people looked for themselves.
GROUPS = ("page+words", "page+like")
CURRENT_ROUND = "SELECT count(*) FROM metrics"  # the first round without metrics
CHOSEN_ROUNDS = "SELECT count(*) FROM queries WHERE NOT open"  # number of rounds whose examples are all chosen
Given = tuple[str, Annotation, str | None, str]  # (example, annotation, decision, source)
_MANY = 500  # placeholders in one statement; SQLite allows at least 999


@dataclass(frozen=True)
class Entry:
    """One row of the history. `at` is UTC, ISO 8601; `decision` is the id that its maker gave it."""

    number: int
    id: str
    annotation: Annotation
    source: str
    decision: str | None
    at: str


class Annotations:
    """The annotations of one run; `Store.annotations`.

    The log is only ever appended to, by any number of processes at once. What it amounts to is kept in memory,
    and every read first takes in what was appended since the last one, by whoever did it.

    What counts for an example: its latest verdict; else the label of most annotators, a tie going to the label
    said last, by its own time; else the last skip. Every annotator has one current answer: their last, unless they took it back.
    """

    def __init__(self, database: Database) -> None:
        """Use `Store.annotations`."""
        self._db = database
        self._state = Replay()
        self._seen = self._relabels = 0  # numbers of the last entry and of the last change of the labels taken in
        self._picks: dict[str, int] = {}  # example -> round, in the order of asking
        self._last_pick = 0
        self._apart: set[str] = set()  # picks that were set aside to test on
        self._grouped: set[str] = set()  # examples that were ever answered in a group
        self._extras: dict[str, int] = {}  # example -> round, in the order of adding
        self._last_extra = 0
        self._examples: dict[str, Example] = {}

    # --- writing ----------------------------------------------------------------------------------

    def add(self, id: str, annotation: Annotation, *, decision: str | None = None, source: str = "") -> bool:
        """Append what an annotator did to an example. Returns whether it is new; it is on the disk then.

        decision: an id made by the caller, which may send the same decision again: the second time changes nothing
        and gives False. Without one, what the annotator says already gives False.
        source: where it came from, "page", "terminal", "endpoint", "import", "python", "oracle" or one of `GROUPS`.

        Raises StoreError if the example was neither asked for nor added, or if the decision is known with other
        content.
        """
        return self.add_many([(id, annotation, decision, source)])[0]

    def add_many(
        self, items: Sequence[Given | tuple[*Given, datetime | None]], extras: Sequence[Example] = ()
    ) -> list[bool]:
        """`add` of several (id, annotation, decision, source) in one transaction: all of them or, on an error, none. A fifth
        item is when it was said, where that is known and is not now. extras: examples to add first, as `add_extra` does."""
        name = items[0][0] if len(items) == 1 else f"{len(items)} at once"
        with self._db.transaction(f"annotate {name}"):
            self._add_extra(extras)
            new = [self._append(*item) for item in items]
            newest = self._db.number("SELECT coalesce(max(number), 0) FROM annotations")
        if any(new):
            self._db.count_annotations(newest)
        return new

    def _append(
        self, id: str, annotation: Annotation, decision: str | None, source: str, at: datetime | None = None
    ) -> bool:
        content = (id, *_encoded(annotation))
        if decision is not None:
            sql = "SELECT example, kind, text, annotator FROM annotations WHERE decision = ?"
            before = self._db.row(sql, decision)
            if before == content or (before and self._changed_since(decision)):
                return False
            if before is not None:
                raise StoreError(
                    f"{self._db.folder}: decision {decision} was recorded as {_shown(before)}; found {_shown(content)}"
                )
        if self._db.row("SELECT 1 FROM examples WHERE id = ?", id) is None:
            raise StoreError(f"{self._db.folder}: example {id} was never asked for, so it cannot be answered")
        if decision is None and not self._changes(*content):
            return False
        if isinstance(annotation, Label | Verdict) and (now := self._labels()) and annotation.answer not in now:
            raise DataError(
                f"{self._db.folder}: the labels have changed; found {annotation.answer!r}, allowed: {', '.join(now)}"
            )
        self._db.execute(
            "INSERT INTO annotations (example, kind, text, annotator, source, decision, annotated_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            *content, source, decision, at.astimezone(UTC).isoformat() if at else timestamp(),
        )  # fmt: skip
        return True

    def _labels(self) -> list[str]:
        """The labels after the last change of them; none without one. Whoever answers may not have heard of it."""
        row = self._db.row("SELECT facts FROM relabels ORDER BY number DESC LIMIT 1")
        return json.loads(row[0])["task"]["labels"] if row else []

    def _changed_since(self, decision: str) -> bool:
        """Whether the labels have changed since a decision was recorded; sent again, it is read in the new ones."""
        sql = "SELECT 1 FROM relabels WHERE after >= (SELECT number FROM annotations WHERE decision = ?)"
        return self._db.row(sql, decision) is not None

    def _changes(self, id: str, kind: str, text: str, annotator: str) -> bool:
        """Whether this would change what the annotator says. Reads the table, for it is asked within a transaction."""
        kinds = next(kinds for kinds in _REPLACE if kind in kinds)
        sql = "SELECT kind, text, annotator, number FROM annotations WHERE example = ? ORDER BY number DESC"
        rows = self._db.rows(sql, id)
        whose = {annotator} if kind != "verdict" else {who for _, _, who, _ in rows}
        last = next((row for row in rows if row[0] in kinds and row[2] in whose), None)
        if last is None:
            return (kind, text) not in (("undo", ""), ("unflag", ""), ("note", ""))
        if kind in ("label", "verdict") and self._db.row("SELECT 1 FROM relabels WHERE after >= ?", last[3]):
            return True  # the same word may be another label now
        return bool(last[:3] != (kind, text, annotator))

    def add_extra(self, examples: Sequence[Example]) -> int:
        """Add examples that nobody asked for, so that they can be labelled. Returns how many are new.

        They belong to the current round: it is the first to train on their labels.
        """
        with self._db.transaction("add_extra"):
            return self._add_extra(examples)

    def _add_extra(self, examples: Sequence[Example]) -> int:
        known = {id for (id,) in self._db.rows("SELECT id FROM examples")} if examples else set()
        fresh = {example.id: example for example in examples if example.id not in known}
        round = self._db.number(CURRENT_ROUND)
        sql = "INSERT INTO extras (example, round, added_at) VALUES (?, ?, ?)"
        for example in fresh.values():
            insert_example(self._db, example)
            self._db.execute(sql, example.id, round, timestamp())
        return len(fresh)

    def claim(self, ids: Sequence[str], annotator: str) -> None:
        """Record that examples are shown to an annotator now, in one transaction."""
        if not ids:
            return
        with self._db.transaction("claim"):
            for id in ids:
                if self._db.row("SELECT 1 FROM examples WHERE id = ?", id) is None:
                    raise StoreError(f"{self._db.folder}: example {id} was never asked for, so it cannot be shown")
                self._db.execute(
                    "INSERT INTO claims VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET claimed_at = excluded.claimed_at",
                    id, annotator, timestamp(),
                )  # fmt: skip

    # --- what the log amounts to ------------------------------------------------------------------

    def answers(self) -> dict[str, Label | Skip]:
        """Example -> the answer that counts, in the order of asking, extras last."""
        counts = self._now().counts
        return {id: counts[id] for id in self._order() if id in counts}

    def by_annotator(self) -> dict[str, dict[str, Label | Skip]]:
        """Example -> annotator -> that annotator's current answer."""
        now = self._now().current
        return {id: {who: answer for who, (_, answer) in now[id].items()} for id in self._order() if now.get(id)}

    def verdicts(self) -> dict[str, Label]:
        """Example -> what was settled on, by whom."""
        return dict(self._now().verdicts)

    def flags(self) -> dict[str, set[str]]:
        """Example -> the annotators who flag it now."""
        return {id: set(who) for id, who in self._now().flags.items()}

    def notes(self) -> dict[str, dict[str, str]]:
        """Example -> annotator -> their note."""
        return {id: dict(notes) for id, notes in self._now().notes.items()}

    def unanswered(self, round: int) -> list[Example]:
        """The examples of a round without an answer that counts, in the order of asking; without extras. Those of earlier
        rounds that a change of the labels asks again come first."""
        need_query(self._db, round)
        now = self._now()
        asked = (id for id, r in self._picks.items() if r == round or (r < round and id in now.again))
        return self._loaded(id for id in asked if id not in now.counts)

    def asked_again(self) -> list[str]:
        """Examples whose label is one no more and that nobody has answered since, in the order of asking, extras last."""
        again = self._now().again
        return [id for id in self._order() if id in again]

    def labelled(self, round: int | None = None) -> list[tuple[Example, Label]]:
        """The labelled examples of all rounds up to `round`, in the order of asking, extras last; without skipped ones and
        those that are set aside."""
        return [pair for pair, r in self._pairs() if (round is None or r <= round) and pair[0].id not in self._apart]

    def answered(self, round: int | None = None) -> list[tuple[Example, str]]:
        """`labelled`, each with its answer alone."""
        return [(example, label.answer) for example, label in self.labelled(round)]

    def held_out(self) -> list[tuple[Example, Label]]:
        """The labelled examples that are set aside to test on: nobody trains on them."""
        return [pair for pair, _ in self._pairs() if pair[0].id in self._apart]

    def learnt(self) -> dict[str, int]:
        """Answer -> the first round that may train on an example of it; it reads no example."""
        firsts: dict[str, int] = {}
        counts = self._now().counts
        for id, r in self._order().items():
            if id not in self._apart and isinstance(answer := counts.get(id), Label):
                firsts[answer.answer] = min(firsts.get(answer.answer, r), r)
        return firsts

    def held_out_labels(self) -> int:
        """How many labels are set aside; it reads no example."""
        counts = self._now().counts
        return sum(isinstance(counts.get(id), Label) for id in self._apart)

    def apart(self) -> set[str]:
        """Ids of the examples that are set aside to test on, asked already or not."""
        self._now()
        sql = "SELECT example FROM reserve WHERE instr(details, ?)"
        return self._apart | {id for (id,) in self._db.rows(sql, f'"{TEST}"')}

    def _pairs(self) -> list[tuple[tuple[Example, Label], int]]:
        counts = self._now().counts
        labels = {id: (answer, r) for id, r in self._order().items() if isinstance(answer := counts.get(id), Label)}
        return [((e, answer), r) for e, (answer, r) in zip(self._loaded(labels), labels.values(), strict=True)]

    def extras(self) -> set[str]:
        """Ids of the examples that were added and not asked for."""
        self._now()
        return self._extras.keys() - self._picks.keys()

    def grouped(self) -> set[str]:
        """Ids of the examples that nobody asked for and whose label was given to a group of them (`GROUPS`)."""
        return {id for id in self.extras() & self._grouped if isinstance(self._state.counts.get(id), Label)}

    def given_back(self) -> set[str]:
        """Ids of the examples that were added with a group whose answer was taken back: as if nobody had found them."""
        lacking = self.extras() & self._grouped - self._state.counts.keys()
        return lacking - self._state.again

    def claims(self, since: str = "") -> dict[str, dict[str, str]]:
        """Example -> annotator -> when it was last shown to them, UTC, ISO 8601. since: only what was shown from then on."""
        shown: dict[str, dict[str, str]] = {}
        sql = "SELECT example, annotator, claimed_at FROM claims WHERE claimed_at >= ? ORDER BY claimed_at"
        for id, annotator, at in self._db.rows(sql, since):
            shown.setdefault(id, {})[annotator] = at
        return shown

    # --- the log ----------------------------------------------------------------------------------

    def log(self, after: int = 0, change: int = 0) -> Iterator[Entry | tuple[int, Relabel]]:
        """What was done after entry number `after`, with the changes of the labels after number `change` in their places;
        one view of both, whatever is written meanwhile."""
        sql = (
            f"SELECT {_COLUMNS}, 0 AS change FROM annotations WHERE number > ? UNION ALL "  # noqa: S608 - our own words
            "SELECT after, '', '', names, '', '', NULL, changed_at, number FROM relabels WHERE number > ? ORDER BY 1, 9"
        )
        for *row, number in self._db.rows(sql, after, change):
            yield (number, Relabel(json.loads(row[3]))) if number else _entry(tuple(row))

    def history(self) -> list[Entry]:
        """All that was ever done, in that order."""
        sql = f"SELECT {_COLUMNS} FROM annotations ORDER BY number"  # noqa: S608 - our own words
        return [_entry(row) for row in self._db.rows(sql)]

    # --- the copy in memory -----------------------------------------------------------------------

    def _now(self) -> Replay:
        """The state, with all that was appended since the last call.

        The log is read first: what it speaks of was asked or added before, so the reads after it find that.
        """
        for entry in self.log(self._seen, self._relabels):
            if isinstance(entry, Entry):
                self._state.apply(entry.number, entry.id, entry.annotation, entry.at)
                self._seen = entry.number
                if entry.source in GROUPS:
                    self._grouped.add(entry.id)
            else:
                self._relabels, change = entry
                self._state.relabel(change)
        sql = "SELECT rowid, example, round, details FROM picks WHERE rowid > ? ORDER BY rowid"  # the order of asking
        for number, id, round, details in self._db.rows(sql, self._last_pick):
            self._picks[id] = round
            self._last_pick = number
            if f'"{TEST}"' in details:
                self._apart.add(id)
        sql = "SELECT number, example, round FROM extras WHERE number > ? ORDER BY number"
        for number, id, round in self._db.rows(sql, self._last_extra):
            self._extras[id] = round
            self._last_extra = number
        return self._state

    def _order(self) -> dict[str, int]:
        """Example -> round of all that were asked or added, in that order. An extra asked for later is a pick."""
        return {**self._picks, **{id: r for id, r in self._extras.items() if id not in self._picks}}

    def _loaded(self, ids: Iterable[str]) -> list[Example]:
        wanted = list(ids)
        missing = [id for id in wanted if id not in self._examples]
        for start in range(0, len(missing), _MANY):
            for example in read_examples(self._db, missing[start : start + _MANY]):
                self._examples[example.id] = example
        return [self._examples[id] for id in wanted]


def need_query(db: Database, round: int) -> None:
    """Raise StoreError if a round has no query."""
    if db.row("SELECT 1 FROM queries WHERE round = ?", round) is None:
        rounds = db.number("SELECT count(*) FROM queries")
        raise StoreError(f"{db.folder}: round {round} has no query; rounds with one: {rounds}")


def example_row(example: Example) -> tuple[str, str, str, str]:
    """(id, fields, prompt, source) as the tables have them."""
    return example.id, json_of(dict(example.fields)), example.prompt, example.where


def pick_row(pick: Pick) -> tuple[str, float | None, str]:
    """(example, score, details) as the tables have them."""
    return pick.id, None if math.isnan(pick.score) else float(pick.score), numbers_as_json(pick.details)


def insert_example(db: Database, example: Example) -> None:
    """Record an example, inside a transaction."""
    db.execute("INSERT OR IGNORE INTO examples VALUES (?, ?, ?, ?)", *example_row(example))


def append_pick(db: Database, round: int, id: str, score: float | None = None, details: str = "{}") -> None:
    """Ask for an example behind those of the next round that are asked already, inside a transaction."""
    db.execute("INSERT OR IGNORE INTO queries (round, asked_at, open) VALUES (?, ?, 1)", round, timestamp())
    place = db.number("SELECT count(*) FROM picks WHERE round = ?", round)
    db.execute("INSERT INTO picks VALUES (?, ?, ?, ?, ?)", round, place, id, score, details)


def read_examples(db: Database, ids: Collection[str] | None = None) -> Iterator[Example]:
    """The recorded examples, or those among at most 500 ids, in any order."""
    some = "" if ids is None else f"WHERE id IN ({', '.join('?' * len(ids))})"
    sql = f"SELECT id, fields, prompt, source FROM examples {some}"  # noqa: S608 - question marks only
    for id, fields, prompt, where in db.rows(sql, *(ids or ())):
        yield Example(id, json.loads(fields), prompt, where)


# kind in the table -> what it stands for, from its text and its annotator; those without a text have "" there
_KINDS: dict[str, Callable[[str, str], Annotation]] = {
    "label": Label,
    "skip": Skip,
    "undo": lambda text, who: Undo(who),
    "flag": lambda text, who: Flag(who),
    "unflag": lambda text, who: Flag(who, on=False),
    "note": Note,
    "verdict": Verdict,
}


def _encoded(annotation: Annotation) -> tuple[str, str, str]:
    """(kind, text, annotator) as the table has them."""
    kind = type(annotation).__name__.lower()
    if isinstance(annotation, Flag) and not annotation.on:
        kind = "unflag"
    text = next((getattr(annotation, name) for name in ("answer", "reason", "text") if hasattr(annotation, name)), "")
    return kind, text, annotation.annotator


def _entry(row: tuple[Any, ...]) -> Entry:
    number, id, kind, text, annotator, source, decision, at = row
    return Entry(number, id, _KINDS[kind](text, annotator), source, decision, at)


def _shown(content: tuple[str, str, str, str]) -> str:
    id, kind, text, annotator = content
    return f"{kind} {text!r} of {annotator} for example {id}" if text else f"{kind} of {annotator} for example {id}"
