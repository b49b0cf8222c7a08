"""What the page knows of a run: a copy in memory of what the store says, brought up to date before every use.

Other processes write to the same store (training, another page, the terminal, an import), so nothing here is taken
for granted longer than one request.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from guidestar.config import PeopleConfig, QueryConfig
from guidestar.people import queue
from guidestar.people.queue import Item
from guidestar.records import Annotation, Example, Label, Relabel, Skip, Suggestion, Undo, Verdict
from guidestar.store import Entry, Store
from guidestar.store.annotations import GROUPS, TEST
from guidestar.store.replay import Replay
from guidestar.tasks import Task, recorded_task

_START = 10.0  # seconds until a training's process has loaded the model
_MANY = 100  # changed items from which on the lists of places are made anew
_CLAIMS_AGAIN = 5.0  # seconds until the claims that other processes made are looked at again

Saved = tuple[str, Annotation, str | None, str]  # (example, annotation, decision, source), as the store takes them


class Board:
    """A run as the page sees it. It belongs to the thread of its store.

    query: how many labels are asked for.
    replay: what all annotations amount to. items: what the queue looks at, in the order of asking. asked,
    left, aside: round -> examples, those of them without an answer, and those that are set aside to test on. labels: examples
    whose answer is a label. touched: annotator -> examples that they did something to, the newest last. times: annotator -> seconds of each answer. waited: annotator -> those
    of them that were the first of a new round. decisions: what is recorded under a decision's id. groups: example -> who
    answered it last and in which group. seen: number of the last entry taken in.
    """

    def __init__(self, store: Store, people: PeopleConfig, clock: Callable[[], float], *, ahead: bool = False) -> None:
        """store: begun. people: how people label. clock: seconds since the epoch. ahead: who would have to wait is asked
        what is ready for the next round."""
        self.store, self.people, self.clock, self.ahead = store, people, clock, ahead
        self.facts = store.facts
        self.query = QueryConfig.model_validate(self.facts.get("config", {}).get("query", {}))
        self.replay = Replay()
        self.items: dict[str, Item] = {}
        self.asked: Counter[int] = Counter()
        self.left: Counter[int] = Counter()
        self.aside: Counter[int] = Counter()
        self.labels = 0
        self.touched: dict[str, dict[str, None]] = {}
        self.times: dict[str, list[float]] = {}
        self.waited: dict[str, set[float]] = {}
        self._reached: dict[str, int] = {}  # annotator -> the newest round that they answered in
        self.decisions: dict[str, tuple[str, Annotation]] = {}
        self.groups: dict[str, tuple[str, str]] = {}
        self.round = 0
        self._order: list[str] = []  # every item, in the order of asking; what follows are places in it, rising
        self._waiting: list[int] = []  # without an answer
        self._second: list[int] = []  # with one, and another is wanted
        self._shown: dict[str, list[int]] = {}  # annotator -> in front of them, and open
        self.seen = self._rounds = self.relabels = 0
        self._claims_at, self._claimed = float("-inf"), ""  # when claims were looked at, and the newest that was there
        self._examples: dict[str, Example] = {}
        self._suggested: tuple[object, dict[str, Suggestion]] = (None, {})
        self.refresh()

    # --- what the run is ---

    @cached_property
    def task(self) -> Task:
        """What an answer is; it reads and checks what people give."""
        return recorded_task(self.facts)

    @property
    def lease(self) -> float:
        """Seconds for which an example is kept for whom it was shown to."""
        return self.people.lease * 60.0

    # --- taking in what the store says ---

    def refresh(self) -> None:
        """Take in whatever was recorded since the last time, by whoever did it."""
        self.round = self.store.current_round()
        if (budgets := self.store.budgets()) and budgets[-1][0] != self.query.budget:  # it was raised meanwhile
            self.query = self.query.model_copy(update={"budget": budgets[-1][0]})
        rounds, changed = self.store.rounds(), dict[str, None]()
        for r in range(self._rounds, rounds + 1):  # of the last one, what was asked ahead
            for pick in self.store.query(r).picks[self.asked[r] :]:
                place, shared = len(self._order), queue.in_overlap(pick.id, self.people.overlap)
                self.items[pick.id] = Item(pick.id, r, shared, place=place)
                self.asked[r] += 1
                self.left[r] += 1
                self.aside[r] += TEST in pick.details
                self._order.append(pick.id)
                self._waiting.append(place)
                if pick.id in self.replay.current or pick.id in self.replay.verdicts:
                    changed[pick.id] = None  # it may have been answered before it was asked for
        self._rounds = rounds
        for found in self.store.annotations.log(self.seen, self.relabels):
            if isinstance(found, Entry):
                self._apply(found)
                changed[found.id] = None
            else:
                self._relabel(*found)
                changed |= dict.fromkeys(self.items)
        many = len(changed) > _MANY
        for id in changed.keys() & self.items.keys():
            self._update(id, listed=not many)
        if many:
            self._list()
        if abs((now := self.clock()) - self._claims_at) >= _CLAIMS_AGAIN:
            since = self._claimed if now >= self._claims_at else ""  # the clock was put back: all claims
            self._claims_at = now
            for id, claims in self.store.annotations.claims(since).items():
                self._claimed = max(self._claimed, *claims.values())
                if id in self.items:
                    mine = self.items[id].claims
                    latest = {who: max(_seconds(at), mine.get(who, 0.0)) for who, at in claims.items()}
                    self._change(id, claims={**mine, **latest})

    def _apply(self, entry: Entry) -> None:
        before = isinstance(self.replay.counts.get(entry.id), Label)
        self.replay.apply(entry.number, entry.id, entry.annotation, entry.at)
        self.labels += isinstance(self.replay.counts.get(entry.id), Label) - before
        self.seen = entry.number
        who = entry.annotation.annotator
        touched = self.touched.setdefault(who, {})
        touched.pop(entry.id, None)
        touched[entry.id] = None
        if isinstance(entry.annotation, (Label, Skip, Undo)):
            self.groups.pop(entry.id, None)
        if entry.source in GROUPS and isinstance(entry.annotation, Label):
            self.groups[entry.id] = who, str(entry.decision).removesuffix(f"-{entry.id}")
        elif isinstance(entry.annotation, (Label, Skip)) and entry.source != "import":
            self.times.setdefault(who, []).append(_seconds(entry.at))
            self._enter_round(who, entry)
        if entry.decision is not None:
            self.decisions[entry.decision] = (entry.id, entry.annotation)

    def _relabel(self, number: int, change: Relabel) -> None:
        self.replay.relabel(change)
        self.relabels = number
        self.labels = sum(isinstance(answer, Label) for answer in self.replay.counts.values())
        self.facts = self.store.facts
        self.__dict__.pop("task", None)
        self._suggested = (None, {})
        for decision, (id, said) in self.decisions.items():  # sent again, they are read in the new labels
            if isinstance(said, Label | Verdict) and (name := change.names.get(said.answer)) is not None:
                self.decisions[decision] = (id, dataclasses.replace(said, answer=name))

    def _enter_round(self, who: str, entry: Entry) -> None:
        """Note whether this answer is the annotator's first of a new round: before it they waited for the training."""
        item, reached = self.items.get(entry.id), self._reached.get(who)
        if item is None or (reached is not None and item.round <= reached):
            return
        if reached is not None:
            self.waited.setdefault(who, set()).add(_seconds(entry.at))
        self._reached[who] = item.round

    def _update(self, id: str, *, listed: bool) -> None:
        """Bring an item up to date with what was said about it."""
        replay = self.replay
        answered = frozenset(replay.current.get(id, ()))
        self._change(id, listed, answered=answered, done=id in replay.counts, settled=id in replay.verdicts)

    def _change(self, id: str, listed: bool = True, **changes: Any) -> None:
        before = self.items[id]
        after = self.items[id] = dataclasses.replace(before, **changes)
        self.left[after.round] += before.done - after.done
        if not listed:
            return
        is_open = queue.is_open(after)
        _put(self._waiting, after.place, not after.done)
        _put(self._second, after.place, after.done and is_open)
        for who in after.claims:
            _put(self._shown.setdefault(who, []), after.place, is_open and who not in after.answered)

    def _list(self) -> None:
        """The lists of places anew: where much has changed, that is faster."""
        items = [self.items[id] for id in self._order]
        self._waiting = [item.place for item in items if not item.done]
        self._second = [item.place for item in items if item.done and queue.is_open(item)]
        self._shown = {}
        for item in items:
            for who in item.claims.keys() - item.answered if queue.is_open(item) else ():
                self._shown.setdefault(who, []).append(item.place)

    # --- reading ---

    @property
    def asks(self) -> bool:
        """Whether the current round has its examples."""
        return self.round < self._rounds

    @property
    def complete(self) -> bool:
        """Whether every example of the current round, and every earlier one that is asked again, has an answer; true also when
        none is asked for yet."""
        again = (self.items[id].round for id in self.replay.again if id in self.items)
        return not self.asks or not (self.left[self.round] or any(r <= self.round for r in again))

    def example(self, id: str) -> Example:
        """An example that was asked for or added. Raises StoreError for any other id."""
        if id not in self._examples:
            self._examples[id] = self.store.example(id)
        return self._examples[id]

    def suggestions(self) -> dict[str, Suggestion]:
        """What the model itself said of each example before it was trained on it."""
        last = self._rounds - 1
        known = (last, last >= 0 and self.store.has_suggestions(last))  # they come a moment after a round's query
        if self._suggested[0] != known:
            self._suggested = (known, self.store.suggestions())
        return self._suggested[1]

    @property
    def last_training(self) -> float | None:
        """Seconds of all that was done in the last complete round, None before there is one."""
        spent = [seconds for r, _, seconds, _ in self.store.timings() if r == self.round - 1]
        return sum(spent) + _START if spent else None

    def unanswered(self) -> Iterable[Item]:
        """What has no answer, in the order of asking."""
        return self._at(self._waiting)

    def _at(self, places: Iterable[int]) -> Iterable[Item]:
        return (self.items[self._order[place]] for place in places)

    # --- writing ---

    def offer(
        self, annotator: str, want: int, have: Collection[str], hold: Collection[str], *, active: bool = True
    ) -> tuple[list[str], list[str]]:
        """(next ids for the annotator, ids of `hold` that are not theirs any more).

        have: ids that the page knows of, not to be offered. hold: ids that it is about to show; they stay claimed as
        long as the annotator is active.
        """
        now, lease = self.clock(), self.lease

        def next_ones() -> list[str]:
            return queue.offer(
                self._at(self._shown.get(annotator, ())), self.unanswered(), self._at(self._second), annotator,
                round=self.round, now=now, lease=lease, want=want, have={*have, *hold},
            )  # fmt: skip

        fresh = next_ones()
        chosen = [id for id in (*hold, *fresh) if id in self.items and self.items[id].round < self._rounds]
        if self.ahead and len(chosen) <= 1 and self.store.finished() is None:  # the last of its round is on the screen
            room = self.query.budget - self.labels - sum(self.left.values())
            if self.store.ahead.take(min(want - len(fresh), room)):
                self.refresh()
                fresh = next_ones()
        lost, again = list[str](), list[str]()
        for id in hold:
            item = self.items.get(id)
            if item is None or not queue.may_have(item, annotator, now=now, lease=lease):
                lost.append(id)
            elif active and abs(now - item.claims.get(annotator, 0.0)) > lease / 4:
                again.append(id)
        self.claim([*fresh, *again], annotator)
        return fresh, lost

    def claim(self, ids: Sequence[str], annotator: str) -> None:
        """Record that the annotator has examples in front of them."""
        self.store.annotations.claim(ids, annotator)
        for id in ids:
            self._change(id, claims={**self.items[id].claims, annotator: self.clock()})

    def save(self, items: Sequence[Saved]) -> None:
        """Record what annotators did. It is on the disk when this returns."""
        self.store.annotations.add_many(items)
        self.refresh()

    def answer_group(self, who: str, examples: Sequence[Example], answer: str, group: str, source: str) -> list[str]:
        """Give one answer to several examples of the pool that were found, in one transaction; those that have one, or are
        set aside, stay as they are. group: the id of what is done here; sent again, it changes nothing. Returns the ids of
        those that have the answer by this group now. Raises DataError for an answer that the task does not allow."""
        label, apart = Label(self.task.parse_gold(answer, "answer"), who), self.store.annotations.apart()
        free = [e for e in examples if e.id not in apart and e.id not in self.replay.counts]
        fresh = {f"{group}-{e.id}": e for e in free if f"{group}-{e.id}" not in self.decisions}
        self.store.annotations.add_many([(e.id, label, key, source) for key, e in fresh.items()], list(fresh.values()))
        self.refresh()
        return [e.id for e in examples if self.groups.get(e.id) == (who, group)]

    def undo_group(self, who: str, group: str) -> list[str]:
        """Take back all of a group that was not changed since. Returns the ids."""
        ids = [id for id, given in self.groups.items() if given == (who, group)]
        self.store.annotations.add_many([(id, Undo(who), None, "page") for id in ids])
        self.refresh()
        return ids


def _put(places: list[int], place: int, there: bool) -> None:
    """Have a place in a rising list, or not."""
    i = bisect_left(places, place)
    known = places[i : i + 1] == [place]
    if there and not known:
        places.insert(i, place)
    elif known and not there:
        del places[i]


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
