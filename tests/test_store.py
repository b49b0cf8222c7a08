"""The store: what goes in comes out, nothing recorded is ever lost, and every failure has a clear message."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outside import dump

from guidestar.errors import ConfigMismatch, StoreError
from guidestar.records import Example, Flag, Label, Metrics, Note, Pick, Query, Skip, Stop, Suggestion, Verdict
from guidestar.store import Store, database, files


def example(number: int) -> Example:
    text = f"text {number} – ünï \U0001f680"
    return Example(f"{number:016x}", {"text": text, "b": "", "a": "x"}, f"Text: {text}\n", f"pool.csv line {number}")


EXAMPLES = {e.id: e for e in map(example, range(12))}
IDS = list(EXAMPLES)


def query(round: int, ids: list[str], score: float = 0.1) -> Query:
    return Query(round, tuple(Pick(id, score + i / 3, {"base": 1 / 3, "full": 0.2}) for i, id in enumerate(ids)))


def fill(text: str) -> Any:
    def write(folder: Path) -> None:
        (folder / "adapter_config.json").write_text("{}")
        (folder / "deep").mkdir()
        (folder / "deep" / "weights").write_text(text)

    return write


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "run", create=True) as opened:
        yield opened


@pytest.fixture
def asked(store: Store) -> Store:
    """A store whose round 0 asks for examples 2, 0, 1."""
    store.add_query(query(0, [IDS[2], IDS[0], IDS[1]]), EXAMPLES)
    return store


# --- what goes in comes out -----------------------------------------------------------------------


def test_query_and_examples_come_back_as_they_were(asked: Store) -> None:
    assert asked.query(0) == query(0, [IDS[2], IDS[0], IDS[1]])
    assert asked.example(IDS[2]) == EXAMPLES[IDS[2]]
    assert list(asked.example(IDS[2]).fields) == ["text", "b", "a"], "the order of the columns is kept"
    assert asked.asked() == {IDS[0], IDS[1], IDS[2]}
    assert [e.id for e in asked.annotations.unanswered(0)] == [IDS[2], IDS[0], IDS[1]]
    assert (asked.rounds(), asked.current_round(), asked.has_query(1)) == (1, 0, False)


def test_scores_that_are_no_numbers_come_back(store: Store) -> None:
    picks = (Pick(IDS[0], math.nan, {"a": math.nan, "b": math.inf}), Pick(IDS[1], -math.inf))
    store.add_query(Query(0, picks), EXAMPLES)
    first, second = store.query(0).picks
    assert math.isnan(first.score)
    assert math.isnan(first.details["a"])
    assert first.details["b"] == math.inf
    assert second == picks[1]
    store.add_query(Query(0, picks), EXAMPLES)  # nan equals nan when a restart repeats it


def test_labelled_follows_rounds_and_leaves_out_skips(asked: Store) -> None:
    asked.add_query(query(1, [IDS[5], IDS[4]]), EXAMPLES)
    for number, answer in ((4, Label("four")), (0, Label("zero")), (2, Skip("unclear")), (5, Label("five"))):
        assert asked.annotations.add(IDS[number], answer)
    assert [(e.id, a.answer) for e, a in asked.annotations.labelled()] == [
        (IDS[0], "zero"),
        (IDS[5], "five"),
        (IDS[4], "four"),
    ]
    assert [e.id for e, _ in asked.annotations.labelled(0)] == [IDS[0]]
    assert [e.id for e in asked.annotations.unanswered(0)] == [IDS[1]]
    assert asked.annotations.unanswered(1) == []
    assert asked.annotations.answers()[IDS[2]] == Skip("unclear")


def test_the_last_answer_counts_and_history_keeps_all(asked: Store) -> None:
    given = [Label("a", "ann"), Label("b", "ann"), Label("b", "bob"), Skip("", "bob"), Label("b", "bob")]
    assert [asked.annotations.add(IDS[0], answer) for answer in given] == [True] * 5
    assert asked.annotations.add(IDS[0], Label("b", "bob")) is False
    assert asked.annotations.answers() == {IDS[0]: Label("b", "bob")}
    assert [entry.annotation for entry in asked.annotations.history()] == given
    assert all(entry.at.endswith("+00:00") for entry in asked.annotations.history())


def test_metrics_timings_and_finish(asked: Store) -> None:
    metrics = Metrics(0, 3, {"accuracy": 2 / 3, "ece": math.inf})
    asked.add_metrics(metrics)
    assert asked.metrics() == [metrics]
    assert asked.current_round() == 1
    asked.add_timing(0, "train", 1.0, 3)
    asked.add_timing(0, "evaluate", 2.0, 9)
    asked.add_timing(0, "train", 4.0, 3)
    assert asked.timings() == [(0, "train", 4.0, 3), (0, "evaluate", 2.0, 9)]
    assert asked.finished() is None
    asked.finish(Stop.BUDGET)
    asked.finish(Stop.BUDGET)
    assert asked.finished() is Stop.BUDGET
    with pytest.raises(StoreError, match="ended before, with BUDGET; found EMPTY"):
        asked.finish(Stop.EMPTY)


def test_arrays_come_back_bit_for_bit(store: Store) -> None:
    arrays = {"p": np.array([[1 / 3, -np.inf]], np.float32).T[::1], "gold": np.arange(5)[::2]}
    store.add_arrays(3, "test", arrays, {"labels": "a\nb"})
    back = store.arrays(3, "test")
    assert {name: a.dtype for name, a in back.items()} == {name: a.dtype for name, a in arrays.items()}
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)
    assert store.has_arrays(3, "test")
    assert not store.has_arrays(3, "scores")
    store.add_arrays(3, "test", {"p": np.zeros(2)})
    assert np.array_equal(store.arrays(3, "test")["p"], np.zeros(2))
    with pytest.raises(StoreError, match="cannot name arrays"):
        store.add_arrays(3, "../x", arrays)


def test_equal_arrays_give_equal_bytes_in_every_process() -> None:
    program = (
        "import numpy; from guidestar.store import files; "
        "arrays = {'a': numpy.ones(2), 'b': numpy.ones(3)}; "
        "print(files.sha256_of_bytes(files.arrays_as_bytes(arrays, {c: c for c in 'abcdef'})))"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in range(3)
    }
    assert len(hashes) == 1


def test_adapter_is_published_whole_and_can_be_trained_again(asked: Store) -> None:
    path = asked.add_adapter(0, fill("weights"))
    assert path == asked.adapter(0) == asked.folder / "adapters" / "round-000"
    assert (path / "deep" / "weights").read_text() == "weights"
    asked.add_adapter(0, fill("not called, because the adapter is there"))
    assert (path / "deep" / "weights").read_text() == "weights"
    before = dump(asked)
    for name in ("deep/weights", "adapter_config.json"):
        (path / name).unlink()
    (path / "deep").rmdir()
    path.rmdir()
    assert not asked.has_adapter(0)
    asked.add_adapter(0, fill("weights"))
    assert dump(asked) == before


def test_folder_hash_is_that_of_sha256sum(tmp_path: Path) -> None:
    fill("weights")(tmp_path)
    weights, config = hashlib.sha256(b"weights").hexdigest(), hashlib.sha256(b"{}").hexdigest()
    listing = f"{config}  adapter_config.json\n{weights}  deep/weights\n".encode()
    assert files.sha256(tmp_path) == hashlib.sha256(listing).hexdigest()


# --- a changed configuration ----------------------------------------------------------------------


def test_begin_keeps_the_first_facts_and_names_every_difference(store: Store) -> None:
    with pytest.raises(StoreError, match="has not begun"):
        store.key  # noqa: B018
    assert not store.begun
    key = {"train.epochs": 6, "task.labels": ["a", "b"], "seed": 0, "old": 1.5}
    store.begin(key, {"hardware": "first"})
    store.begin({**key, "task.labels": ("a", "b")}, {"hardware": "second"})
    assert store.facts == {"hardware": "first"}
    assert store.key == key
    with pytest.raises(ConfigMismatch) as caught:
        store.begin({"train.epochs": 3, "task.labels": ["a"], "seed": 0, "new": "x"}, {})
    assert [line.strip() for line in str(caught.value).splitlines()[1:-1]] == [
        "train.epochs: begun with 6, now 3",
        "task.labels: begun with ['a', 'b'], now ['a']",
        "old: begun with 1.5, now without it",
        "new: begun without it, now 'x'",
    ]


def test_a_key_that_no_configuration_has_is_explained(store: Store) -> None:
    store.begin({"strategy.model": None, "data_hash": "a"}, {})
    with pytest.raises(ConfigMismatch) as caught:
        store.begin({"strategy.model": "frozen", "data_hash": "b"}, {})
    first, second = str(caught.value).splitlines()[1:-1]
    assert first.startswith(
        "  strategy.model: begun without it, now 'frozen' (what the strategy is made of: its entry under"
    )
    assert second == "  data_hash: begun with 'a', now 'b' (a hash of the texts, answers and template of the data)"


def test_a_setting_that_did_not_exist_when_the_run_was_begun_is_its_default(store: Store) -> None:
    """A newer version has new settings, None by default, and may drop old ones: such runs continue."""
    store.begin({"seed": 0, "dropped": None}, {})
    store.begin({"seed": 0, "train.b_dropout": None}, {})
    assert store.key == {"seed": 0, "dropped": None}, "what was begun stays as it is"
    with pytest.raises(ConfigMismatch, match=r"train\.b_dropout: begun without it, now 0\.5"):
        store.begin({"seed": 0, "train.b_dropout": 0.5}, {})
    with pytest.raises(ConfigMismatch, match=r"seed: begun with 0, now without it"):
        store.begin({"seed": None}, {})


# --- refusals -------------------------------------------------------------------------------------


def test_a_repeated_query_must_be_equal(asked: Store) -> None:
    asked.add_query(query(0, [IDS[2], IDS[0], IDS[1]]), EXAMPLES)
    with pytest.raises(StoreError, match="round 0 already has a query, with other picks"):
        asked.add_query(query(0, [IDS[0], IDS[2], IDS[1]]), EXAMPLES)
    with pytest.raises(StoreError, match=r"round 1 asks for example 0{16} again; round 0 has asked for it"):
        asked.add_query(query(1, [IDS[3], IDS[0]]), EXAMPLES)
    assert asked.rounds() == 1, "a refused query leaves nothing behind"
    with pytest.raises(StoreError, match="found a query for round 2; the next round is 1"):
        asked.add_query(query(2, [IDS[3]]), EXAMPLES)


def test_what_was_never_asked_for_is_refused(asked: Store) -> None:
    with pytest.raises(StoreError, match="was never asked for"):
        asked.annotations.add(IDS[9], Label("a"))
    with pytest.raises(StoreError, match="was never asked for"):
        asked.example(IDS[9])
    for refused in (asked.query, asked.annotations.unanswered, lambda r: asked.add_adapter(r, fill(""))):
        with pytest.raises(StoreError, match="round 4 has no query; rounds with one: 1"):
            refused(4)
    with pytest.raises(StoreError, match="round 0 has no adapter"):
        asked.adapter(0)
    with pytest.raises(StoreError, match="round 0 has no arrays called 'test'"):
        asked.arrays(0, "test")


def test_metrics_are_never_rewritten(asked: Store) -> None:
    with pytest.raises(StoreError, match="metrics for round 1; the first round without them is 0"):
        asked.add_metrics(Metrics(1, 3, {}))
    asked.add_metrics(Metrics(0, 3, {"accuracy": 0.5}))
    asked.add_metrics(Metrics(0, 3, {"accuracy": 0.5}))
    with pytest.raises(StoreError, match="round 0 already has metrics, with other values"):
        asked.add_metrics(Metrics(0, 3, {"accuracy": 0.6}))


# --- damage ---------------------------------------------------------------------------------------


def test_a_truncated_adapter_is_found_and_says_what_to_do(asked: Store) -> None:
    path = asked.add_adapter(0, fill("weights"))
    (path / "deep" / "weights").write_text("weig")
    assert asked.has_adapter(0)
    with pytest.raises(StoreError, match=r"round-000: the adapter is truncated.*delete the folder and run again"):
        asked.adapter(0)


def test_truncated_arrays_are_found(store: Store) -> None:
    store.add_arrays(0, "test", {"p": np.zeros(100)})
    path = store.folder / "arrays" / "round-000-test.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StoreError, match=r"round-000-test.safetensors: the file is truncated"):
        store.arrays(0, "test")
    with pytest.raises(StoreError, match="cannot be read as a safetensors file"):
        files.read_arrays(path)
    path.unlink()
    assert not store.has_arrays(0, "test")


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such folder"):
        Store.open(tmp_path / "none")
    with pytest.raises(StoreError, match=r"is not a run folder; it has no run\.sqlite"):
        Store.open(tmp_path)
    (tmp_path / "run.sqlite").write_bytes(b"not a database at all, but long enough to be one" * 50)
    with pytest.raises(StoreError, match=r"run\.sqlite: is not an SQLite database"):
        Store.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file: cannot be written: File exists"):
        Store.open(tmp_path / "file", create=True)


def test_a_damaged_database_is_found_when_opened(asked: Store) -> None:
    asked.close()
    path = asked.folder / "run.sqlite"
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 4] = b"\xa5" * 8192
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"run\.sqlite: the database is damaged"):
        Store.open(asked.folder)


# --- places that cannot be written ----------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(asked: Store) -> None:
    asked.close()
    asked.folder.chmod(0o500)
    try:
        with pytest.raises(StoreError, match=r"run\.sqlite: cannot be (opened|written)"):
            Store.open(asked.folder)
    finally:
        asked.folder.chmod(0o700)


def test_database_on_a_read_only_or_full_disk(asked: Store) -> None:
    before = dump(asked)
    asked._db.connection.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreError, match=r"is read-only\. Nothing recorded is lost"):
        asked.add_timing(0, "train", 1.0, 1)
    asked._db.connection.execute("PRAGMA query_only = OFF")
    pages = asked._db.connection.execute("PRAGMA page_count").fetchone()[0]
    asked._db.connection.execute(f"PRAGMA max_page_count = {pages}")
    large = {id: Example(id, {"text": "x" * 10_000}, "", "") for id in IDS}
    with pytest.raises(StoreError, match=r"the disk is full\. Nothing recorded is lost"):
        asked.add_query(query(1, IDS[3:]), large)
    assert dump(asked) == before
    asked._db.connection.execute(f"PRAGMA max_page_count = {pages * 100}")
    asked.add_query(query(1, IDS[3:]), large)
    assert asked.rounds() == 2


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission is denied"),
    ],
)
def test_files_that_cannot_be_written(asked: Store, monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    asked.add_arrays(0, "test", {"p": np.zeros(3)})
    before = dump(asked)

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(files, "flush", refuse)
        for attempt in (
            lambda: asked.add_adapter(0, fill("weights")),
            lambda: files.write_bytes(asked.folder / "x.json", b"{}"),
            lambda: asked.add_arrays(0, "scores", {"p": np.ones(3)}),
        ):
            with pytest.raises(StoreError, match=rf"cannot be written: {words}\. Nothing recorded is lost"):
                attempt()
    assert not list(asked.folder.rglob(".tmp-*")), "temporaries are removed, they would fill the disk"
    assert dump(asked) == before
    asked.add_adapter(0, fill("weights"))


def test_another_process_that_writes_for_too_long(asked: Store) -> None:
    asked._db.connection.execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(asked.folder / "run.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another process has been writing"):
        asked.annotations.add(IDS[0], Label("a"))
    other.execute("ROLLBACK")
    other.close()
    assert asked.annotations.add(IDS[0], Label("a"))


# --- the lock -------------------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from guidestar.store import Store
with Store.open(Path(sys.argv[1])) as store, store.lock():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_lock_is_exclusive_and_dies_with_its_process(asked: Store) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(asked.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(StoreError, match=rf"is in use by process {holder.pid}\b"), asked.lock():
            pass
        assert asked.annotations.add(IDS[0], Label("a")), "people may answer while another process holds the lock"
        holder.kill()
    with asked.lock():
        pass


def test_lock_removes_what_a_crashed_process_left(asked: Store) -> None:
    (asked.folder / "adapters" / ".tmp-round-000-abcd").mkdir(parents=True)
    (asked.folder / "arrays").mkdir()
    (asked.folder / "arrays" / ".tmp-x").write_text("half")
    with asked.lock():
        assert not list(asked.folder.rglob(".tmp-*"))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_write_removes_what_a_killed_one_left_beside_it_and_nothing_that_is_being_written(
    kind: str, tmp_path: Path
) -> None:
    """Anywhere, not only in a run's own folders; another process's half-made neighbour is not touched."""
    program = "import sys, time, pathlib; from guidestar.store import files\n" + (
        "files.publish_folder(pathlib.Path(sys.argv[1]), lambda place: (print('in', flush=True), time.sleep(60)))"
        if kind == "folder"
        else "files.step = lambda name: (print('in', flush=True), time.sleep(60)) if 'rename' in name else None\n"
        "files.write_bytes(pathlib.Path(sys.argv[1]), b'x')"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "other")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as busy:
        assert busy.stdout is not None
        assert busy.stdout.readline() == "in\n"
        (tmp_path / ".tmp-dead").write_text("half")
        files.write_bytes(tmp_path / "mine", b"whole")
        left = [path.name for path in tmp_path.glob(".tmp-*")]
        assert len(left) == 1
        assert left[0].startswith(".tmp-other-")
        busy.kill()
    files.write_bytes(tmp_path / "mine", b"again")
    assert not list(tmp_path.glob(".tmp-*"))


def test_an_error_under_the_lock_stays_what_it_is(asked: Store) -> None:
    with pytest.raises(FileNotFoundError), asked.lock():
        raise FileNotFoundError("pool.csv")
    with asked.lock():
        pass


# --- crashes --------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here: like SIGKILL, it is caught by nobody who would tidy up."""


def script(folder: Path) -> dict[str, Any]:
    """A small run, written as the loop does it: each step only if it is not recorded yet."""
    with Store.open(folder, create=True) as store, store.lock():
        budget = store.budgets()[-1][0] if store.begun else 4
        store.begin({"seed": 0, "query.budget": budget}, {"name": "crash test"})
        for r in range(store.current_round(), 2):
            store.add_arrays(r, "scores", {"score": np.arange(3) / 3 + r})
            if not store.has_query(r):
                store.add_query(query(r, IDS[2 * r : 2 * r + 2]), EXAMPLES)
            if not store.has_suggestions(r):
                store.add_suggestions(r, {IDS[2 * r]: Suggestion("a", {"a": 0.7, "b": 0.3}, r - 1)})
            for asked in store.annotations.unanswered(r):
                store.annotations.add(asked.id, Label(f"answer to {asked.id}", "ann"), source="page")
            many = [(IDS[2 * r], Note("odd", "ann"), f"note {r}", "page"), (IDS[2 * r], Flag("bob"), None, "page")]
            store.annotations.add_many(many)
            store.annotations.claim([IDS[2 * r + 1]], "bob")
            if r == 0:
                store.annotations.add_extra([EXAMPLES[IDS[9]]])
                store.annotations.add(IDS[9], Verdict("z", "bob"), decision="verdict", source="import")
            if not store.has_adapter(r):
                answers = [label.answer for _, label in store.annotations.labelled(r)]
                store.add_adapter(r, fill(f"weights from {answers}"))
            assert store.adapter(r).is_dir()
            if store.current_round() == r:
                store.add_arrays(r, "test", {"p": np.full(4, r / 7)})
                store.add_timing(r, "train", 1.0, 2)
                store.add_metrics(Metrics(r, 2 * r + 2, {"accuracy": 0.5 + r / 9}))
        if budget == 4:
            store.finish(Stop.BUDGET)
            store.raise_budget(6)
        store.finish(Stop.EMPTY)
        return dump(store)


def test_a_crash_at_every_durable_step_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "flush", lambda descriptor: None)  # slow; no power is cut here
    monkeypatch.setattr(database, "_SETTINGS", [s.replace("FULL", "OFF") for s in database._SETTINGS])
    passed: list[str] = []
    monkeypatch.setattr(files, "step", passed.append)
    expected = script(tmp_path / "whole")
    steps = list(passed)
    assert len(steps) > 60

    for crash_at, name in enumerate(steps):
        passed.clear()

        def crash(name: str, crash_at: int = crash_at) -> None:
            passed.append(name)
            if len(passed) > crash_at:
                raise Crash

        folder = tmp_path / f"crash-{crash_at}"
        with monkeypatch.context() as patch:
            patch.setattr(files, "step", crash)
            with pytest.raises(Crash):
                script(folder)
        assert script(folder) == expected, f"a crash at step {crash_at}, {name!r}, changed the result"
        assert not list(folder.rglob(".tmp-*"))


def test_a_leftover_under_the_final_name_is_replaced(asked: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(name: str) -> None:
        if name == "commit add_adapter 0":
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(files, "step", crash)
        with pytest.raises(Crash):
            asked.add_adapter(0, fill("published, but not recorded"))
    assert (asked.folder / "adapters" / "round-000").is_dir()
    assert not asked.has_adapter(0)
    path = asked.add_adapter(0, fill("weights"))
    assert (path / "deep" / "weights").read_text() == "weights"
