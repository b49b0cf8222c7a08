"""Old databases: brought up to date with all they hold, or refused with a reason."""

from __future__ import annotations

import json
import math
import sqlite3
from pathlib import Path

import pytest
from outside import dump

from guidestar.errors import StoreError
from guidestar.records import Example, Flag, Label, Metrics, Note, Pick, Query, Skip, Stop, Undo, Verdict
from guidestar.store import Entry, Store, files, migrations

A, B, C = (f"00000000000000{x * 2}" for x in "abc")


def old_store(folder: Path, schema: int) -> Path:
    """A run folder as an earlier schema left it."""
    db = sqlite3.connect(folder / "run.sqlite")
    db.executescript((Path(__file__).parent / "old_stores" / f"schema-{schema}.sql").read_text())
    db.close()
    return folder


def tables(folder: Path) -> set[str]:
    db = sqlite3.connect(folder / "run.sqlite")
    found = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    db.close()
    return found


def test_the_first_schema_is_brought_up_to_date_and_goes_on(tmp_path: Path) -> None:
    with Store.open(old_store(tmp_path, 1)) as store:
        assert store.key == {"seed": 0, "train.epochs": 6}
        assert store.query(1).picks == (Pick(C, 0.75, {"base": 1.0, "full": 0.5, "lambda": 0.5}),)
        assert store.annotations.answers() == {B: Label("no", "person"), A: Skip("unclear", "person")}
        assert math.isnan(store.metrics()[0].values["ece"])
        assert store.finished() is None
        store.annotations.add(C, Label("yes"))
        store.add_metrics(Metrics(1, 2, {"accuracy": 0.75}))
        store.finish(Stop.BUDGET)
        assert store.current_round() == 2
    with Store.open(tmp_path) as store:
        assert store.finished() is Stop.BUDGET


def test_answers_of_the_second_schema_become_annotations(tmp_path: Path) -> None:
    with Store.open(old_store(tmp_path, 2)) as store:
        notes = store.annotations
        assert notes.history() == [
            Entry(1, B, Label("yes", "oracle"), "oracle", None, "2026-02-05T10:01:00.000+00:00"),
            Entry(2, A, Skip("unclear", "person"), "python", None, "2026-02-05T10:02:00.000+00:00"),
            Entry(3, B, Label("no", "person"), "python", None, "2026-02-05T10:03:00.000+00:00"),
            Entry(5, A, Label("yes", "person"), "python", None, "2026-02-05T10:03:30.000+00:00"),
            Entry(6, C, Label("no", "oracle"), "oracle", None, "2026-02-05T10:06:00.000+00:00"),
        ]
        assert notes.answers() == {B: Label("no", "person"), A: Label("yes", "person"), C: Label("no", "oracle")}
        assert notes.by_annotator()[B] == {"oracle": Label("yes", "oracle"), "person": Label("no", "person")}
        assert [m.labels for m in store.metrics()] == [2, 3]
        assert store.trained_on(1) == 3
        assert store.finished() is Stop.BUDGET
        assert (notes.extras(), notes.claims(), store.suggestions()) == (set(), {}, {})
        notes.add(A, Flag("ann"), decision="d", source="page")
        assert notes.history()[-1].number == 7, "numbers go on where they were"
        assert notes.add_extra([Example("new", {"text": "x"}, "Text: x", "")]) == 1
    assert "answers" not in tables(tmp_path), "one place holds the answers"


@pytest.mark.parametrize("schema", [1, 2])
def test_a_crash_while_a_store_is_brought_up_to_date_loses_nothing(
    schema: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    passed: list[str] = []
    (tmp_path / "whole").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(files, "step", passed.append)
        with Store.open(old_store(tmp_path / "whole", schema)) as store:
            expected = (dump(store), store.annotations.history())
    steps = len(passed)
    assert steps == 2 * (len(migrations.MIGRATIONS) - schema)
    for crash_at in range(steps):
        folder = tmp_path / f"crash-{crash_at}"
        folder.mkdir()
        passed.clear()

        def crash(name: str, crash_at: int = crash_at) -> None:
            passed.append(name)
            if len(passed) > crash_at:
                raise Crash

        with monkeypatch.context() as patch:
            patch.setattr(files, "step", crash)
            with pytest.raises(Crash):
                Store.open(old_store(folder, schema))
        with Store.open(folder) as store:
            assert (dump(store), store.annotations.history()) == expected


def test_a_newer_or_foreign_database_is_refused(tmp_path: Path) -> None:
    newest = len(migrations.MIGRATIONS)
    Store.open(tmp_path, create=True).close()
    db = sqlite3.connect(tmp_path / "run.sqlite", isolation_level=None)
    db.execute("INSERT INTO migrations VALUES (?, 'from_the_future', '')", (newest + 1,))
    db.close()
    with pytest.raises(StoreError, match=rf"found schema {newest + 1}, .* newer version .*up to {newest}"):
        Store.open(tmp_path)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    db = sqlite3.connect(foreign / "run.sqlite")
    db.execute("CREATE TABLE songs (name TEXT)")
    db.close()
    with pytest.raises(StoreError, match="is not the database of a guidestar run; found the tables songs"):
        Store.open(foreign)


def test_every_table_is_described(tmp_path: Path) -> None:
    Store.open(tmp_path, create=True).close()
    text = (Path(__file__).parents[1] / "docs" / "store.md").read_text(encoding="utf-8")
    text = text.partition("## Tables")[2].partition("###")[0]
    described = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    own = {name for name in tables(tmp_path) if not name.startswith("sqlite_")}
    assert set(described) == own
    db = sqlite3.connect(tmp_path / "run.sqlite")
    missing = [
        f"{table}.{column}"
        for table in sorted(own)
        for _, column, *_ in db.execute(f"PRAGMA table_info({table})")
        if f"`{column}`" not in described[table] and column != "id"
    ]
    db.close()
    assert not missing, "columns that docs/store.md does not name"


def test_the_query_in_the_docs_gives_the_labels(tmp_path: Path) -> None:
    """docs/store.md shows how to read the labels without this library; it must give what the library gives."""
    text = (Path(__file__).parents[1] / "docs" / "store.md").read_text(encoding="utf-8")
    query = text.partition("```sql\n")[2].partition("```")[0]
    examples = {f"{n}": Example(f"{n}", {"text": f"text {n}"}, "", "") for n in range(9)}
    given = [
        [Label("a", "ann")],
        [Label("a", "ann"), Label("b", "ann")],
        [Label("a", "ann"), Undo("ann")],
        [Label("a", "ann"), Label("b", "bob"), Label("a", "cy"), Skip("", "dee")],
        [Label("b", "bob"), Label("a", "ann"), Note("n", "bob")],
        [Label("a", "ann"), Verdict("c", "bob"), Verdict("b", "ann"), Label("c", "ann"), Label("c", "bob")],
        [Skip("", "ann"), Flag("ann")],
        [Label("b", "bob"), Label("a", "ann"), Undo("ann")],
        [Label("a", "ann")],
    ]
    with Store.open(tmp_path, create=True) as store:
        store.add_query(Query(0, tuple(Pick(id, 0.5) for id in "5310")), examples)
        store.annotations.add_extra([examples["8"], examples["7"]])
        store.add_metrics(Metrics(0, 0, {}))
        store.add_query(Query(1, tuple(Pick(id, 0.5) for id in "2647")), examples)
        for id, several in zip(examples, given, strict=True):
            for annotation in several:
                store.annotations.add(id, annotation)
        labelled = store.annotations.labelled(3)
        rounds = {pick.id: r for r in range(2) for pick in store.query(r).picks}
    db = sqlite3.connect(tmp_path / "run.sqlite")
    found = [(round, json.loads(fields), label) for round, fields, label in db.execute(query)]
    db.close()
    assert found == [(rounds.get(e.id, 0), e.fields, label.answer) for e, label in labelled]
    assert [label for _, _, label in found] == ["b", "a", "b", "a", "a", "b", "a"]
