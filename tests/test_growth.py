"""What a request and a command do does not grow with the pool and the log, where it need not: counted, not timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_help import examples, make_run

from guidestar.config import PeopleConfig
from guidestar.exchange import export_run
from guidestar.people import queue
from guidestar.people.page.board import Board
from guidestar.records import Label, Skip, Undo
from guidestar.report import summary
from guidestar.store import Store
from guidestar.store.database import Database


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Numbers of rows that the database gives out, one for each query."""
    found: list[int] = []
    real = Database.rows

    def rows(self: Database, sql: str, *values: object) -> Any:
        answer = real(self, sql, *values)
        found.append(len(answer))
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Database, "rows", rows)
        yield found


def _run(folder: Path, size: int) -> Path:
    texts = [f"text {i}" for i in range(size)]
    run = make_run(folder, texts, experiment=f"of-{size}", query={"warm_start": size, "batch": 5, "budget": size + 50})
    with Store.open(run) as store:
        half = list(examples(texts))[: size // 2]
        store.annotations.add_many([(id, Label("HUM", "ann"), None, "page") for id in half])
        for id in half:
            store.annotations.claim([id], "ann")
    return run


@pytest.mark.parametrize("command", [lambda run: export_run(run, "jsonl"), lambda run: summary(run)])
def test_a_command_asks_the_database_as_often_for_a_large_run_as_for_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[[Path], object]
) -> None:
    asked = []
    for size in (20, 200):
        run = _run(tmp_path, size)
        with counted(monkeypatch) as rows:
            command(run)
        asked.append(len(rows))
    assert asked[0] == asked[1]


def test_a_save_reads_no_more_after_thousands_of_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, start, ticks = [], datetime.now(UTC), count()

    def tick() -> str:  # claims of one millisecond are read together, and how many those are is up to the machine
        return (start + timedelta(milliseconds=next(ticks))).isoformat(timespec="milliseconds")

    monkeypatch.setattr("guidestar.store.annotations.timestamp", tick)
    for size in (20, 400):
        with Store.open(_run(tmp_path, size)) as store:
            ahead = [0.0]
            board = Board(store, PeopleConfig(), lambda: time.time() + ahead[0])  # noqa: B023
            id = board.offer("ben", 1, [], [])[0][0]
            ahead[0] = 60.0  # claims are looked at again
            with counted(monkeypatch) as rows:
                board.save([(id, Label("LOC", "ben"), "decision-1", "page")])
                board.refresh()
            read.append(sum(rows))
    assert read[0] == read[1]


def test_what_comes_next_is_found_as_fast_in_a_large_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    real = queue.may_have
    monkeypatch.setattr(queue, "may_have", lambda *a, **o: looked.append(1) or real(*a, **o))
    seen = []
    for size in (20, 400):
        with Store.open(_run(tmp_path, size)) as store:
            board = Board(store, PeopleConfig(), time.time)
            board.offer("ben", 1, [], [])
            looked.clear()
            with counted(monkeypatch) as rows:
                board.offer("ben", 5, [], [])
            seen.append((len(looked), sum(rows)))
    assert seen[0] == seen[1]
    assert seen[0][0] <= 8


MOVES = st.tuples(
    st.sampled_from(["label", "skip", "undo", "show"]), st.integers(0, 5), st.sampled_from(["ann", "ben"])
)


@settings(max_examples=40, deadline=None)
@given(moves=st.lists(MOVES, max_size=25), overlap=st.sampled_from([0.0, 0.5, 1.0]))
def test_the_lists_that_the_next_one_is_found_in_are_those_of_all_items(
    moves: list[tuple[str, int, str]], overlap: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Beside the literal lists, every item looked at; and those of a board that is opened afterwards."""
    run = make_run(tmp_path_factory.mktemp("run"), [f"text {i}" for i in range(6)])
    with Store.open(run) as store:
        board = Board(store, PeopleConfig(overlap=overlap), time.time)
        for what, place, who in moves:
            id = list(board.items)[place]
            if what == "show":
                board.claim([id], who)
            else:
                said = {"label": Label("HUM", who), "skip": Skip("", who), "undo": Undo(who)}[what]
                board.save([(id, said, None, "page")])
            items = list(board.items.values())
            still = [item for item in items if queue.is_open(item)]
            assert list(board.unanswered()) == [item for item in items if not item.done]
            assert list(board._at(board._second)) == [item for item in still if item.done]
            for name in ("ann", "ben"):
                mine = [item for item in still if name in item.claims and name not in item.answered]
                assert list(board._at(board._shown.get(name, []))) == mine
        lists = board._waiting, board._second, {who: places for who, places in board._shown.items() if places}
        board._list()
        assert (board._waiting, board._second, board._shown) == lists
