"""What annotators did: an append-only log that loses nothing and doubles nothing, and what it amounts to."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from guidestar.errors import StoreError
from guidestar.records import (
    Annotation,
    Example,
    Flag,
    Label,
    Metrics,
    Note,
    Pick,
    Query,
    Skip,
    Suggestion,
    Undo,
    Verdict,
)
from guidestar.store import Store, find_run
from guidestar.store.migrations import timestamp

EXAMPLES = {f"{n:016x}": Example(f"{n:016x}", {"text": f"text {n}"}, f"Text: {n}", f"line {n}") for n in range(10)}
IDS = list(EXAMPLES)


def query(round: int, ids: Sequence[str]) -> Query:
    return Query(round, tuple(Pick(id, 0.5) for id in ids))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Round 0 asks for examples 2, 0, 1."""
    with Store.open(tmp_path / "run", create=True) as opened:
        opened.add_query(query(0, [IDS[2], IDS[0], IDS[1]]), EXAMPLES)
        yield opened


def rows(store: Store) -> list[Annotation]:
    return [entry.annotation for entry in store.annotations.history()]


# --- which answer counts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        ([Label("a", "ann"), Label("b", "ann")], Label("b", "ann")),
        ([Label("a", "ann"), Undo("ann")], None),
        ([Label("a", "ann"), Skip("hard", "bob")], Label("a", "ann")),
        ([Skip("first", "ann"), Skip("second", "bob")], Skip("second", "bob")),
        ([Label("a", "ann"), Label("b", "bob")], Label("b", "bob")),
        ([Label("a", "ann"), Label("b", "bob"), Label("a", "cy")], Label("a", "cy")),
        ([Label("a", "ann"), Label("a", "bob"), Label("b", "cy")], Label("a", "bob")),
        ([Label("a", "ann"), Label("b", "bob"), Undo("bob")], Label("a", "ann")),
        ([Label("a", "ann"), Label("b", "bob"), Label("a", "ann"), Label("b", "ann")], Label("b", "ann")),
        ([Label("a", "ann"), Verdict("b", "judge"), Label("a", "bob")], Label("b", "judge")),
        ([Verdict("b", "judge"), Verdict("c", "judge"), Undo("judge")], Label("c", "judge")),
        ([Flag("ann"), Note("odd", "ann")], None),
    ],
)
def test_what_counts(store: Store, given: list[Annotation], counts: Label | Skip | None) -> None:
    for annotation in given:
        store.annotations.add(IDS[0], annotation)
    assert store.annotations.answers().get(IDS[0]) == counts
    assert (IDS[0] in [e.id for e in store.annotations.unanswered(0)]) == (counts is None)
    labels = [label for _, label in store.annotations.labelled()]
    assert labels == ([counts] if isinstance(counts, Label) else [])


def test_everything_comes_back_with_its_maker_source_and_time(store: Store) -> None:
    given: list[Annotation] = [
        Label("ja", "ann"), Skip("no\x00'", "bob"), Undo("ann"), Flag("bob"), Flag("bob", on=False), Note("nö", "cy"),
        Verdict("x", "dee"),
    ]  # fmt: skip
    for n, annotation in enumerate(given):
        assert store.annotations.add(IDS[n % 2], annotation, decision=f"d{n}", source="page")
    assert rows(store) == given
    entries = store.annotations.history()
    assert [e.number for e in entries] == list(range(1, 8))
    assert [e.decision for e in entries] == [f"d{n}" for n in range(7)]
    assert {e.source for e in entries} == {"page"}
    assert all(e.at.endswith("+00:00") for e in entries)
    assert [e for e in entries if e.id == IDS[1]] == entries[1::2]


def test_flags_notes_and_verdicts(store: Store) -> None:
    notes = store.annotations
    for annotation in (Flag("ann"), Flag("bob"), Flag("ann", on=False), Note("one", "ann"), Note("two", "ann")):
        assert notes.add(IDS[0], annotation)
    assert notes.flags() == {IDS[0]: {"bob"}}
    assert notes.notes() == {IDS[0]: {"ann": "two"}}
    notes.add(IDS[0], Flag("bob", on=False))
    notes.add(IDS[0], Note("", "ann"))
    notes.add(IDS[1], Verdict("x", "judge"))
    assert (notes.flags(), notes.notes(), notes.verdicts()) == ({}, {}, {IDS[1]: Label("x", "judge")})
    assert notes.by_annotator() == {}, "a verdict is nobody's own answer"


def test_what_is_returned_is_the_callers_own(store: Store) -> None:
    notes = store.annotations
    for annotation in (Label("a", "ann"), Flag("ann"), Note("n", "ann"), Verdict("b", "ann")):
        notes.add(IDS[0], annotation)

    def state() -> list[object]:
        return [notes.answers(), notes.by_annotator(), notes.verdicts(), notes.flags(), notes.notes(), notes.extras()]

    before = state()
    notes.by_annotator()[IDS[0]].clear()
    notes.flags()[IDS[0]].clear()
    notes.notes()[IDS[0]].clear()
    for mapping in (notes.answers(), notes.verdicts()):
        mapping.clear()
    assert state() == before


# --- each decision once ---------------------------------------------------------------------------


def test_a_decision_is_stored_once_however_often_it_is_sent(store: Store) -> None:
    add = store.annotations.add
    assert add(IDS[0], Label("a", "ann"), decision="one", source="page")
    assert add(IDS[0], Label("b", "ann"), decision="two", source="page")
    assert not add(IDS[0], Label("a", "ann"), decision="one", source="page"), "a late retry brings no old answer back"
    assert store.annotations.answers() == {IDS[0]: Label("b", "ann")}
    for id, other in ((IDS[0], Label("c", "ann")), (IDS[1], Label("a", "ann")), (IDS[0], Label("a", "bob"))):
        with pytest.raises(StoreError, match=r"decision one was recorded as label 'a' of ann for example 0{16}; found"):
            add(id, other, decision="one")
    with pytest.raises(StoreError, match=r"as label 'b' of ann for example 0{16}; found undo of ann"):
        add(IDS[0], Undo("ann"), decision="two")
    assert add(IDS[0], Label("b", "ann"), decision="three"), "a new decision is kept, even one that changes nothing"
    assert rows(store) == [Label("a", "ann"), Label("b", "ann"), Label("b", "ann")]


def test_without_a_decision_only_changes_are_stored(store: Store) -> None:
    add = store.annotations.add
    for nothing in (Undo("ann"), Flag("ann", on=False), Note("", "ann")):
        assert not add(IDS[0], nothing)
    for annotation in (Label("a", "ann"), Skip("", "bob"), Flag("ann"), Note("n", "ann"), Verdict("a", "ann")):
        assert add(IDS[0], annotation)
        assert not add(IDS[0], annotation)
    assert add(IDS[0], Verdict("a", "bob"))
    assert add(IDS[0], Verdict("a", "ann"))
    assert add(IDS[0], Undo("ann"))
    assert not add(IDS[0], Undo("ann"))
    assert add(IDS[0], Label("a", "ann")), "what was taken back can be said again"


def test_several_at_once_are_all_stored_or_none(store: Store) -> None:
    many = store.annotations.add_many
    a, b = Label("a", "ann"), Label("b", "bob")
    assert many([(IDS[0], a, None, "x"), (IDS[0], a, None, "x"), (IDS[1], b, "d", "x"), (IDS[1], b, "d", "x")]) == [
        True, False, True, False,
    ]  # fmt: skip
    with pytest.raises(StoreError, match=f"example {IDS[9]} was never asked for"):
        many([(IDS[2], a, "e", "x"), (IDS[9], a, "f", "x")])
    assert store.annotations.answers() == {IDS[0]: a, IDS[1]: b}
    assert many([]) == []
    assert many([(IDS[2], a, "e", "x")]) == [True], "a refused decision was not used up"


def test_half_a_character_is_refused_in_plain_words(store: Store) -> None:
    with pytest.raises(StoreError, match="half a character"):
        store.annotations.add(IDS[0], Label("\ud800", "ann"))
    assert rows(store) == []


# --- examples that nobody asked for ---------------------------------------------------------------


def test_extras_are_labelled_last_and_not_waited_for(store: Store) -> None:
    notes = store.annotations
    assert notes.add_extra([EXAMPLES[IDS[7]], EXAMPLES[IDS[0]], EXAMPLES[IDS[7]], EXAMPLES[IDS[6]]]) == 2
    assert notes.add_extra([EXAMPLES[IDS[6]]]) == 0
    assert notes.extras() == {IDS[6], IDS[7]}
    assert store.asked() == {IDS[n] for n in (0, 1, 2, 6, 7)}
    assert store.example(IDS[7]) == EXAMPLES[IDS[7]]
    assert len(notes.unanswered(0)) == 3, "extras are not waited for"
    for n in (7, 0, 6):
        notes.add(IDS[n], Label(f"label {n}", "ann"), source="import")
    assert [e.id for e, _ in notes.labelled()] == [IDS[0], IDS[7], IDS[6]]
    assert list(notes.answers()) == [IDS[0], IDS[7], IDS[6]]


def test_an_extra_belongs_to_the_round_that_was_not_over(store: Store) -> None:
    notes = store.annotations
    notes.add_extra([EXAMPLES[IDS[5]]])
    store.add_metrics(Metrics(0, 3, {}))
    notes.add_extra([EXAMPLES[IDS[6]]])
    for n in (5, 6):
        notes.add(IDS[n], Label("x", "ann"))
    assert [e.id for e, _ in notes.labelled(0)] == [IDS[5]]
    assert [e.id for e, _ in notes.labelled(1)] == [e.id for e, _ in notes.labelled()] == [IDS[5], IDS[6]]


def test_an_extra_that_a_query_has_just_chosen_becomes_a_pick(store: Store) -> None:
    """An import may come while the run chooses: the example is then asked, with the answer it has."""
    with Store.open(store.folder) as other:
        other.annotations.add_extra([EXAMPLES[IDS[5]]])
        other.annotations.add(IDS[5], Label("x", "ann"))
        assert store.annotations.extras() == {IDS[5]}
    store.add_metrics(Metrics(0, 3, {}))
    store.add_query(query(1, [IDS[4], IDS[5]]), EXAMPLES)
    notes = store.annotations
    assert notes.extras() == set()
    assert [e.id for e in notes.unanswered(1)] == [IDS[4]]
    assert [(e.id, label.answer) for e, label in notes.labelled()] == [(IDS[5], "x")]
    assert notes.labelled(0) == []


def test_claims_hold_the_last_time_an_example_was_shown(store: Store) -> None:
    notes = store.annotations
    notes.claim([IDS[0]], "ann")
    notes.claim([IDS[0]], "bob")
    first = notes.claims()[IDS[0]]["ann"]
    while first >= timestamp():  # the clock counts milliseconds
        pass
    notes.claim([IDS[0]], "ann")
    claims = notes.claims()
    assert {id: set(who) for id, who in claims.items()} == {IDS[0]: {"ann", "bob"}}
    assert claims[IDS[0]]["ann"] > first
    with pytest.raises(StoreError, match="never asked for, so it cannot be shown"):
        notes.claim([IDS[9]], "ann")


# --- suggestions ----------------------------------------------------------------------------------


def test_suggestions_come_back_and_repeat_no_label(store: Store) -> None:
    """The one shown for an example is always from a model that was not trained on it."""
    store.add_metrics(Metrics(0, 3, {}))
    store.add_query(query(1, [IDS[4], IDS[5]]), EXAMPLES)
    store.add_metrics(Metrics(1, 5, {}))
    store.add_query(query(2, [IDS[6]]), EXAMPLES)
    store.annotations.add_extra([EXAMPLES[IDS[8]]])
    odds = {"a": 1 / 3, "b": 2 / 3}
    first = {IDS[4]: Suggestion("b", odds, 0), IDS[5]: Suggestion("draft", {}, 0), IDS[0]: Suggestion("a", odds, 0)}
    assert not store.has_suggestions(1)
    store.add_suggestions(1, first)
    store.add_suggestions(1, first)
    assert store.has_suggestions(1)
    with pytest.raises(StoreError, match="round 1 already has suggestions, with other content"):
        store.add_suggestions(1, {IDS[4]: Suggestion("a", odds, 0)})
    with pytest.raises(StoreError, match="round 7 has no query"):
        store.add_suggestions(7, first)
    second = {id: Suggestion("a", odds, 1) for id in (IDS[6], IDS[4], IDS[0], IDS[8])}
    store.add_suggestions(2, second)
    assert store.suggestions() == {IDS[4]: first[IDS[4]], IDS[5]: first[IDS[5]], IDS[6]: second[IDS[6]],
                                   IDS[8]: second[IDS[8]]}  # fmt: skip
    assert store.suggestions(trained=True) == {**first, **second}


# --- which folder is meant ------------------------------------------------------------------------


def test_the_run_folder_that_a_user_means(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such folder"):
        find_run(tmp_path / "none")
    with pytest.raises(StoreError, match=r"found no run; expected a folder with run\.sqlite, or one with folders like"):
        find_run(tmp_path)
    one = tmp_path / "star-seed0"
    Store.open(one, create=True).close()
    (tmp_path / "cache").mkdir()
    assert find_run(one) == find_run(tmp_path) == one
    Store.open(tmp_path / "random-seed0", create=True).close()
    with pytest.raises(StoreError, match=r"holds 2 runs; name one of: .*random-seed0, .*star-seed0"):
        find_run(tmp_path)


# --- any order, against a list --------------------------------------------------------------------

Item = tuple[str, Annotation, str | None]
GROUPS: list[tuple[type, ...]] = [(Label, Skip, Undo), (Flag,), (Note,), (Verdict,)]

people = st.sampled_from(["ann", "bob", "cy"])
texts = st.sampled_from(["", "yes", "nö\x00'"])
annotations = st.one_of(
    st.builds(Label, texts, people),
    st.builds(Label, texts, people),
    st.builds(Skip, texts, people),
    st.builds(Undo, people),
    st.builds(Flag, people, st.booleans()),
    st.builds(Note, texts, people),
    st.builds(Verdict, texts, people),
)
items = st.tuples(st.sampled_from(IDS[:6]), annotations, st.sampled_from([None, None, "d1", "d2", "d3"]))


class Log:
    """The annotations as a plain list, and every question answered by going through all of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.extra: list[tuple[str, int]] = []
        self.items: list[Item] = []

    def known(self) -> list[str]:
        return list(dict.fromkeys(id for id, _ in [*self.asked, *self.extra]))

    def add(self, item: Item) -> bool:
        """Raises ValueError where the store must refuse."""
        id, annotation, decision = item
        for earlier in self.items:
            if decision is not None and earlier[2] == decision:
                if earlier != item:
                    raise ValueError
                return False
        if id not in self.known():
            raise ValueError
        if decision is None:
            group = next(kinds for kinds in GROUPS if isinstance(annotation, kinds))
            before = [
                a for i, a, _ in self.items
                if i == id and isinstance(a, group) and (a.annotator == annotation.annotator or group == (Verdict,))
            ]  # fmt: skip
            silent = isinstance(annotation, Undo) or annotation in (
                Flag(annotation.annotator, on=False), Note("", annotation.annotator),
            )  # fmt: skip
            if (before and before[-1] == annotation) or (not before and silent):
                return False
        self.items.append(item)
        return True

    def by_annotator(self, id: str) -> dict[str, Label | Skip]:
        found: dict[str, Label | Skip] = {}
        for i, a, _ in self.items:
            if i == id and isinstance(a, Label | Skip):
                found.pop(a.annotator, None)
                found[a.annotator] = a  # the one given last stands last
            elif i == id and isinstance(a, Undo):
                found.pop(a.annotator, None)
        return found

    def counts(self, id: str) -> Label | Skip | None:
        verdicts = [a for i, a, _ in self.items if i == id and isinstance(a, Verdict)]
        if verdicts:
            return Label(verdicts[-1].answer, verdicts[-1].annotator)
        answers = list(self.by_annotator(id).values())
        labels = [a for a in answers if isinstance(a, Label)]
        if not labels:
            return answers[-1] if answers else None
        most = Counter(a.answer for a in labels)
        return next(a for a in reversed(labels) if most[a.answer] == max(most.values()))


class Annotating(RuleBasedStateMachine):
    """Two open stores of one folder beside a list: whatever is done through either, all three agree."""

    @initialize()
    def begin(self) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.folder = Path(self.place.name) / "run"
        self.stores = [Store.open(self.folder, create=True) for _ in range(2)]
        self.log = Log()

    @rule(ids=st.lists(st.sampled_from(IDS), min_size=1, max_size=3, unique=True), which=st.integers(0, 1))
    def ask(self, ids: list[str], which: int) -> None:
        store = self.stores[which]
        new = query(store.rounds(), ids)
        if {id for id, _ in self.log.asked} & set(ids):
            with pytest.raises(StoreError):
                store.add_query(new, EXAMPLES)
        else:
            store.add_query(new, EXAMPLES)
            store.add_metrics(Metrics(new.round, 0, {}))
            self.log.asked += [(id, new.round) for id in ids]

    @rule(ids=st.lists(st.sampled_from(IDS), max_size=3), which=st.integers(0, 1))
    def add_extra(self, ids: list[str], which: int) -> None:
        store = self.stores[which]
        fresh = [id for id in dict.fromkeys(ids) if id not in self.log.known()]
        assert store.annotations.add_extra([EXAMPLES[id] for id in ids]) == len(fresh)
        self.log.extra += [(id, store.current_round()) for id in fresh]

    @rule(item=items, which=st.integers(0, 1))
    def annotate(self, item: Item, which: int) -> None:
        id, annotation, decision = item
        notes = self.stores[which].annotations
        try:
            expected = self.log.add(item)
        except ValueError:
            with pytest.raises(StoreError):
                notes.add(id, annotation, decision=decision, source="page")
            return
        assert notes.add(id, annotation, decision=decision, source="page") == expected

    @rule(several=st.lists(items, max_size=4), which=st.integers(0, 1))
    def annotate_several(self, several: list[Item], which: int) -> None:
        notes = self.stores[which].annotations
        before = list(self.log.items)
        try:
            expected = [self.log.add(item) for item in several]
        except ValueError:
            self.log.items = before
            with pytest.raises(StoreError):
                notes.add_many([(*item, "page") for item in several])
            return
        assert notes.add_many([(*item, "page") for item in several]) == expected

    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        self.stores[which].close()
        self.stores[which] = Store.open(self.folder)

    @invariant()
    def agree(self) -> None:
        log, asked = self.log, dict(self.log.asked)
        extras = {id: r for id, r in log.extra if id not in asked}
        rounds = {**asked, **extras}
        counts = {id: answer for id in rounds if (answer := log.counts(id)) is not None}
        flags: dict[str, set[str]] = {}
        notes: dict[str, dict[str, str]] = {}
        verdicts: dict[str, Label] = {}
        for id, a, _ in log.items:
            if isinstance(a, Flag):
                flags[id] = (flags.get(id, set()) - {a.annotator}) | ({a.annotator} if a.on else set())
            elif isinstance(a, Note):
                notes[id] = {**notes.get(id, {}), a.annotator: a.text}
            elif isinstance(a, Verdict):
                verdicts[id] = Label(a.answer, a.annotator)
        for store in self.stores:
            found = store.annotations
            assert [(e.id, e.annotation, e.decision) for e in found.history()] == log.items
            assert found.answers() == counts
            assert list(found.answers()) == [id for id in rounds if id in counts]
            assert found.by_annotator() == {id: said for id in rounds if (said := log.by_annotator(id))}
            assert found.verdicts() == verdicts
            assert found.flags() == {id: who for id, who in flags.items() if who}
            written = {id: {who: text for who, text in n.items() if text} for id, n in notes.items()}
            assert found.notes() == {id: n for id, n in written.items() if n}
            assert found.extras() == set(extras)
            for r in range(store.rounds()):
                waiting = [EXAMPLES[id] for id in asked if asked[id] == r and id not in counts]
                assert found.unanswered(r) == waiting
            for last in (None, *range(store.rounds())):
                expected = [
                    (EXAMPLES[id], counts[id]) for id, r in rounds.items()
                    if isinstance(counts.get(id), Label) and (last is None or r <= last)
                ]  # fmt: skip
                assert found.labelled(last) == expected

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        self.place.cleanup()


TestAnnotating = Annotating.TestCase
TestAnnotating.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


# --- several processes ----------------------------------------------------------------------------

WRITER = """
import json, sys
from pathlib import Path
from guidestar.records import Label, Note
from guidestar.store import Store
folder, who, shared = sys.argv[1:]
with Store.open(Path(folder)) as store:
    ids = sorted(store.asked())
    print("ready", flush=True)
    sys.stdin.readline()
    results = []
    for n in range(150):
        id = ids[n % len(ids)]
        if n % 3 == 0:  # the same decision from both: as when a browser sends it again
            results.append(store.annotations.add(id, Note(f"{n}", "both"), decision=f"{shared}-{n}"))
        elif n % 3 == 1:
            results.append(store.annotations.add(id, Label(f"{n}", who), decision=f"{who}-{n}"))
        else:
            items = [(id, Label(f"{n}.{k}", who), f"{who}-{n}.{k}", "page") for k in range(2)]
            results += store.annotations.add_many(items)
    print(json.dumps(results), flush=True)
"""


def test_two_processes_at_once_lose_nothing_and_double_nothing(store: Store) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store.folder), who, "shared"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for who in ("ann", "bob")
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = {}
    for who, process in zip(("ann", "bob"), processes, strict=True):
        assert process.stdout is not None
        results[who] = json.loads(process.stdout.readline())
        assert process.wait() == 0
        process.stdout.close()
        assert process.stdin is not None
        process.stdin.close()
    entries = store.annotations.history()
    decisions = [e.decision for e in entries]
    assert len(decisions) == len(set(decisions)) == 50 + 2 * 150
    for who in ("ann", "bob"):
        own = [e.annotation for e in entries if isinstance(e.annotation, Label) and e.annotation.annotator == who]
        expected = [f"{n}" if n % 3 == 1 else f"{n}.{k}" for n in range(150) if n % 3 for k in range(n % 3)]
        assert [a.answer for a in own] == expected, "each process's own come in its order"
    assert sum(results["ann"]) + sum(results["bob"]) == len(entries), "each was new to exactly one of them"
    ids = sorted(store.asked())
    last = {ids[n % 3]: f"{n}" if n % 3 == 1 else f"{n}.1" for n in range(150) if n % 3}
    said = {
        id: {who: answer.answer for who, answer in by.items()} for id, by in store.annotations.by_annotator().items()
    }
    assert said == {id: {"ann": answer, "bob": answer} for id, answer in last.items()}


@settings(max_examples=40)
@given(st.permutations([("ann", "a", 3), ("bob", "b", 1), ("cy", "b", 0), ("di", "a", 2)]), st.data())
def test_a_tie_goes_to_what_was_said_last_in_whatever_order_it_came(
    said: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    """By the answers' own times, which labels from a file bring along; without any by the log."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    some = said[: data.draw(st.integers(1, 4))]
    with tempfile.TemporaryDirectory() as place, Store.open(Path(place, "run"), create=True) as store:
        store.add_query(query(0, IDS[:1]), {IDS[0]: EXAMPLES[IDS[0]]})
        for who, answer, day in some:
            store.annotations.add_many([(IDS[0], Label(answer, who), None, "import", now + timedelta(days=day))])
        found = store.annotations.answers()[IDS[0]]
    votes = Counter(answer for _, answer, _ in some)
    most = [one for one in some if votes[one[1]] == max(votes.values())]
    assert (found.annotator, found.answer) == max(most, key=lambda one: one[2])[:2]  # type: ignore[union-attr]
