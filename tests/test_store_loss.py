"""A store without its WAL, on a medium that cannot be written, or of somebody else: said before anything is lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import SMALL, MakeConfig
from outside import dump
from page_help import ask, examples

from guidestar import loop
from guidestar.doctor import run_folder
from guidestar.errors import ForeignDatabase, GuidestarError, LostRecord, NewerDatabase, StoreError
from guidestar.records import Label, Metrics, Note, Skip, Suggestion, Verdict
from guidestar.store import Store
from guidestar.store.database import COUNT

TEXTS = [f"text {i}" for i in range(8)]
IDS = list(examples(TEXTS))


def _begun(folder: Path) -> Store:
    store = Store.open(folder, create=True)
    with store.lock():
        store.begin({"seed": 0}, {"seed": 0, "task": {"kind": "text"}})
        ask(store, 0, examples(TEXTS))
    return store


def _copy(folder: Path, target: Path) -> Path:
    """What a sync tool that leaves SQLite's own files out would bring."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    return target


def test_labels_that_lie_in_a_lost_wal_are_missed_and_come_back_with_it(tmp_path: Path) -> None:
    with _begun(tmp_path / "run") as store:
        for id in IDS[:5]:
            store.annotations.add(id, Label("a"))
        copy = _copy(tmp_path / "run", tmp_path / "copy")
        for create in (False, True):
            with pytest.raises(LostRecord, match=r"0 of at least 5 annotations are in it.*run\.sqlite-wal"):
                Store.open(copy, create=create)
        found = next(f for f in run_folder(copy) if f.about == "copy")
        assert (found.state, "labels and rounds may be missing" in found.fix) == ("problem", True)
        shutil.copy(tmp_path / "run" / "run.sqlite-wal", copy)
        with Store.open(copy) as whole:
            assert dump(whole) == dump(store)
        other = _copy(tmp_path / "run", tmp_path / "other")
        (other / COUNT).unlink()  # the way on where the file is gone for good
        with Store.open(other) as left:
            assert left.rounds() == 1, "the query was checkpointed"


@settings(max_examples=25, deadline=None)
@given(moves=st.lists(st.sampled_from(["label", "round", "checkpoint", "reopen"]), max_size=12))
def test_a_copy_without_its_wal_is_whole_or_refused(moves: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("store") / "run"
    store, said = _begun(folder), 0
    for i, move in enumerate(moves):
        if move == "label":
            said += store.annotations.add(IDS[i % 8], Label(f"answer {i}"))
        elif move == "round" and store.current_round() == 0:
            store.add_metrics(Metrics(0, said, {}))
        elif move == "checkpoint":
            store.checkpoint()
        elif move == "reopen":
            store.close()
            store = Store.open(folder)
    copy = _copy(folder, folder.with_name("copy"))
    try:
        with Store.open(copy) as found:
            assert len(found.annotations.history()) == said
    except LostRecord:
        assert said
    store.close()
    with Store.open(_copy(folder, folder.with_name("closed"))) as found:
        assert len(found.annotations.history()) == said, "a closed store needs no WAL"


@settings(max_examples=20, deadline=None)
@given(before=st.integers(0, 4), after=st.integers(0, 4), settled=st.booleans(), tail=st.booleans())
def test_a_wal_of_another_moment_is_refused_or_changes_nothing(
    before: int, after: int, settled: bool, tail: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A sync tool that brings the two files at different times."""
    folder = tmp_path_factory.mktemp("store") / "run"
    store, wal = _begun(folder), folder / "run.sqlite-wal"
    for i in range(before):
        store.annotations.add(IDS[i], Label("a"))
    old = wal.read_bytes() if wal.exists() else b""
    if settled:
        store.checkpoint()
    for i in range(after):
        store.annotations.add(IDS[4 + i], Label("b"))
    store.close()
    wal.write_bytes(old if tail else old[: len(old) * 2 // 3])
    try:
        with Store.open(folder) as found:
            said = [(entry.id, entry.annotation.answer) for entry in found.annotations.history()]  # type: ignore[union-attr]
            assert said == [(id, "a") for id in IDS[:before]] + [(id, "b") for id in IDS[4 : 4 + after]]
            assert found.rounds() == 1
    except StoreError:
        assert old


@settings(max_examples=60, deadline=None)
@given(
    damage=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=30)), min_size=1, max_size=4
    ),
    cut=st.booleans(),
)
def test_a_damaged_record_is_read_or_refused_in_a_sentence(
    damage: list[tuple[float, bytes]], cut: bool, whole: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("store")
    content = bytearray(whole)
    for place, put in damage:
        at = int(place * len(content))
        content[at : at + len(put)] = put
        if cut:
            del content[at + len(put) :]
    (folder / "run.sqlite").write_bytes(content)
    run_folder(folder)
    try:
        with Store.open(folder) as store:
            dump(store)
            store.facts, store.annotations.answers(), store.suggestions(), store.timings()
    except GuidestarError:
        pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a run with something in every table that is read often."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with _begun(folder) as store:
        for i, id in enumerate(IDS):
            store.annotations.add(
                id, [Label("a", "ann"), Skip("why", "ann"), Note("text", "ann"), Verdict("b", "ann")][i % 4]
            )
        store.add_suggestions(0, {IDS[0]: Suggestion("a", {"a": 0.5}, -1)})
        store.add_timing(0, "train", 1.0, 4)
        store.add_metrics(Metrics(0, 4, {"accuracy": 0.5}))
    return (folder / "run.sqlite").read_bytes()


def test_a_record_that_ends_before_its_files_is_not_gone_on_from(tmp_path: Path) -> None:
    with _begun(tmp_path / "run") as store:
        arrays = tmp_path / "run" / "arrays"
        arrays.mkdir()
        (arrays / "round-000-scores.safetensors").write_text("a leftover of the round at hand")
        store.begin({"seed": 0}, {})
        (arrays / "round-002-test.safetensors").write_text("of a round that is not recorded")
        with pytest.raises(LostRecord, match=r"ends before arrays/round-002-test"):
            store.begin({"seed": 0}, {})
    assert [f.fix for f in run_folder(tmp_path / "run") if f.state == "problem" and f.about == "run"]


@pytest.mark.parametrize("left", ["run.lock", "adapters", "arrays"])
def test_nothing_is_begun_where_a_run_has_been(tmp_path: Path, left: str) -> None:
    """As version 0.1 left a copied folder: all that it knew was in the WAL."""
    (tmp_path / left).mkdir()
    sqlite3.connect(tmp_path / "run.sqlite").close()
    with pytest.raises(LostRecord, match=f"nothing is in it, though {left} of a run lie beside it"):
        Store.open(tmp_path, create=True)
    assert (tmp_path / "run.sqlite").stat().st_size == 0, "a WAL that is brought back must still fit"


def test_texts_and_answers_are_their_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with _begun(tmp_path / "runs" / "mine" / "star-seed0") as store:
            store.annotations.add(IDS[0], Label("a"))
            for path in (store.folder, store.folder.parent):
                assert stat.S_IMODE(path.stat().st_mode) == 0o700
            for path in store.folder.glob("run.sqlite*"):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


_READ = """
import sys
from pathlib import Path
from guidestar.records import Label
from guidestar.store import Store
with Store.open(Path(sys.argv[1])) as store:
    print(len(store.annotations.history()))
    try:
        store.annotations.add(sys.argv[2], Label("b"))
    except Exception as error:
        print(error)
"""


@pytest.mark.parametrize("open_elsewhere", [False, True])
def test_a_run_that_cannot_be_written_can_be_read(tmp_path: Path, open_elsewhere: bool) -> None:
    """In a process that may not write, whoever runs the tests; with what still lies in the WAL."""
    store = _begun(tmp_path / "run")
    store.annotations.add(IDS[0], Label("a"))
    if not open_elsewhere:
        store.close()
    for path in (tmp_path / "run").iterdir():
        path.chmod(0o400)
    (tmp_path / "run").chmod(0o500)
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    if drop and shutil.which("setpriv") is None:
        pytest.skip("root may write anywhere, and setpriv is not installed")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("run.sqlite*")}
    done = subprocess.run(
        [*drop, sys.executable, "-c", _READ, str(tmp_path / "run"), IDS[1]], capture_output=True, text=True
    )
    (tmp_path / "run").chmod(0o700)
    assert done.stdout.splitlines()[0] == "1", done.stderr
    assert "read-only. Nothing recorded is lost" in done.stdout
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").glob("run.sqlite*")} == before


_LOOK = """
import sys
from guidestar.cli import main
for words in sys.stdin.read().splitlines():
    print("code", main(words.split()), words, flush=True)
"""


def test_every_command_that_only_looks_can_read_a_run_that_cannot_be_written(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(**SMALL, strategies=["random", "entropy"])
    loop.run(config)
    out, elsewhere = Path(config["out"]), tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o777)
    elsewhere.chmod(0o777)
    run = out / "random-seed0"
    commands = [
        f"status {out}", f"compare {out}", f"report {out} --out {elsewhere}/report.html", f"export {run} --out {elsewhere}/labels.jsonl",
        f"costs {out}", f"doctor {run}", f"agreement {run}", f"labels {run}",
    ]  # fmt: skip
    for path in [*out.rglob("*"), out]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    if drop and shutil.which("setpriv") is None:
        pytest.skip("root may write anywhere, and setpriv is not installed")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    done = subprocess.run(
        [*drop, sys.executable, "-c", _LOOK], input="\n".join(commands), capture_output=True, text=True
    )
    for path in [out, *out.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
    codes = [line for line in done.stdout.splitlines() if line.startswith("code ")]
    assert [line.split()[1] for line in codes] == ["0"] * len(commands), (codes, done.stderr)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_the_doctor_tells_newer_foreign_and_damaged_databases_apart(tmp_path: Path) -> None:
    for name in ("newer", "damaged"):
        _begun(tmp_path / name).close()
    with sqlite3.connect(tmp_path / "newer" / "run.sqlite") as db:
        db.execute("INSERT INTO migrations VALUES (99, 'm099', '')")
    db.close()
    (tmp_path / "damaged" / "run.sqlite").write_bytes(b"x" * 9000)
    for name, table in (("foreign", "songs (name TEXT)"), ("similar", "migrations (id TEXT)")):
        (tmp_path / name).mkdir()
        with sqlite3.connect(tmp_path / name / "run.sqlite") as db:
            db.execute(f"CREATE TABLE {table}")
        db.close()
        before = (tmp_path / name / "run.sqlite").read_bytes()
        with pytest.raises(ForeignDatabase):
            Store.open(tmp_path / name)
        assert (tmp_path / name / "run.sqlite").read_bytes() == before, "what is not ours is left as it is"
    with pytest.raises(NewerDatabase):
        Store.open(tmp_path / "newer")
    with pytest.raises(StoreError):
        Store.open(tmp_path / "damaged")
    fixes = {f.about: f.fix for f in run_folder(tmp_path) if f.state == "problem"}
    assert "pip install --upgrade" in fixes["newer"]
    assert fixes["foreign"] == fixes["similar"] != fixes["damaged"]
