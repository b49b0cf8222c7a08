"""Pools that are not held in memory: the same as a list would be, kept by the content of their file."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidestar.bench import Bench
from guidestar.config import DataConfig, RunConfig, fingerprint, parse
from guidestar.data import pool as pools
from guidestar.data import table as tables
from guidestar.data.pool import load_dataset
from guidestar.data.prompts import Template
from guidestar.data.table import Pool, copies_of
from guidestar.errors import DataError, StoreError
from guidestar.loop import Run, oracle
from guidestar.records import Example
from guidestar.store.cache import Cache

TEMPLATE = "Text: {text}\nMood:"
Item = tuple[Example, str | None]


def config(folder: Path, pool: str, **data: Any) -> RunConfig:
    section = {"pool": pool, "template": TEMPLATE, "answer": "label", "too_long": "error", **data}
    return parse({
        "out": str(folder / "run"), "data": section, "task": {"kind": "choice", "labels": ["good", "bad"]},
        "query": {"warm_start": 1, "batch": 1, "budget": 2},
    })  # fmt: skip


def written(path: Path, rows: list[tuple[str, str]]) -> str:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return str(path)


# --- the literal way: lists of examples -----------------------------------------------------------


def items_of(path: str, rows: list[tuple[str, str]]) -> list[Item]:
    found = []
    for number, (text, label) in enumerate(rows, 1):
        example = Example(
            fingerprint({"text": text})[:16], {"text": text}, f"Text: {text.strip()}\nMood:", f"{path} line {number}"
        )
        found.append((example, label or None))
    return found


def distinct(items: list[Item]) -> list[Item]:
    seen: Counter[str] = Counter()
    found = []
    for example, answer in items:
        seen[example.id] += 1
        count = seen[example.id]
        found.append((dataclasses.replace(example, id=f"{example.id}-{count}") if count > 1 else example, answer))
    return found


def literal(pool: list[Item], test: list[Item], duplicates: str) -> tuple[list[Item], dict[str, int]]:
    """The pool in use and what was counted, by walking over lists."""
    first: dict[str, Item] = {}
    repeats = conflicts = 0
    for example, answer in pool:
        if example.id not in first:
            first[example.id] = (example, answer)
            continue
        kept, known = first[example.id]
        repeats += 1
        conflicts += None not in (answer, known) and answer != known
        if known is None:
            first[example.id] = (kept, answer)
    pool = pool if duplicates == "keep" else list(first.values())
    there = {example.id for example, _ in test}
    shared = sum(example.id in there for example, _ in pool)
    if duplicates == "drop":
        pool = [item for item in pool if item[0].id not in there]
    return distinct(pool), {
        "pool_duplicates": repeats,
        "pool_conflicting_labels": conflicts,
        "shared_with_test": shared,
    }


ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c ", "d\nd", "é"]), st.sampled_from(["good", "bad", ""])),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(
    ROWS,
    st.lists(st.tuples(st.sampled_from("cdefg"), st.sampled_from(["good", "bad"])), min_size=1, max_size=4),
    st.booleans(),
)
def test_a_pool_is_what_lists_of_examples_give(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], tested: list[tuple[str, str]], keep: bool
) -> None:
    folder, duplicates = tmp_path_factory.mktemp("pool"), "keep" if keep else "drop"
    pool, test = written(folder / "pool.jsonl", rows), written(folder / "test.jsonl", tested)
    expected, counted = literal(items_of(pool, rows), items_of(test, tested), duplicates)
    settings = config(folder, pool, test=test, duplicates=duplicates)
    if not expected:
        with pytest.raises(DataError, match="fewer than the warm start"):
            load_dataset(settings)
        return
    found = load_dataset(settings)
    assert found.pool == [example for example, _ in expected]
    assert found.pool.ids == [example.id for example, _ in expected]
    assert [name.decode() for name in found.pool.names.tolist()] == found.pool.ids
    assert found.gold == {example.id: answer for example, answer in expected if answer is not None}
    assert len(found.gold) == len(dict(found.gold))
    assert {name: found.facts[name] for name in counted} == counted
    assert found.test is not None
    assert found.hash == fingerprint({
        "pool": [(example.id, answer) for example, answer in expected],
        "test": [(example.id, answer) for example, answer in distinct(items_of(test, tested))],
        "template": TEMPLATE, "response": found.task.response, "labels": [("good", "good"), ("bad", "bad")],
    }), "an earlier run of the same data would not be continued"  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.data(), st.lists(st.sampled_from("abcde"), min_size=1, max_size=12), st.booleans())
def test_parts_of_a_pool_are_parts_of_its_list(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, rows: list[str], held: bool
) -> None:
    """Whether its examples are held or made each time."""
    folder = tmp_path_factory.mktemp("pool")
    pool = load_dataset(
        config(folder, written(folder / "p.jsonl", [(t, "good") for t in rows]), duplicates="keep")
    ).pool
    whole = list(pool)
    ids = data.draw(
        st.lists(st.sampled_from([*pool.ids, "0" * 16, "x", "", f"{pool.ids[0]}-1", f"{pool.ids[0]}-99", "f" * 17]))
    )
    start, stop, step = (data.draw(st.none() | st.integers(-13, 13)) for _ in range(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "IN_MEMORY", 16384 if held else 0)
        assert pool == whole
        assert pool[start : stop : step or 1] == tuple(whole[start : stop : step or 1])
        assert pool[-1] == whole[-1]
        with pytest.raises(IndexError):
            _ = pool[len(whole)]
        assert pool.only(ids) == [e for e in whole if e.id in ids]
        left = pool.without(ids)
        assert left == [e for e in whole if e.id not in ids]
        assert left.without(pool.ids) == []
        known = list(dict.fromkeys(id for id in ids if id in pool.ids))
        assert pool.named(known) == {id: next(e for e in whole if e.id == id) for id in known}
        if set(ids) - set(pool.ids):
            with pytest.raises(KeyError):
                pool.places(ids)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.text('aAßİ é"\\\n\t\u2028\x1f', max_size=6), min_size=1, max_size=8),
    st.lists(st.text('aAßİ é"\\\n\t\u2028\x1f', min_size=1, max_size=3), max_size=2),
    st.integers(1, 3),
)
def test_none_that_hold_the_words_are_left_out(texts: list[str], words: list[str], block: int) -> None:
    read = [(f"{i:016x}", f"row {i}", [text, f"{text}!"], None) for i, text in enumerate(texts)]
    table, template = tables.Table.of(read, dict), Template(DataConfig(template="{one} {two}"))
    rows = np.arange(len(texts))[:: 2 if len(texts) > 4 else 1]
    pool = Pool(table, template, rows, np.ones(len(rows), dtype=np.int32))
    folded = [word.casefold() for word in words]
    holding = [e for e in pool if all(any(w in t.casefold() for t in e.fields.values()) for w in folded)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "IN_MEMORY", block)
        may = list(pool.holding(folded))
    assert [e for e in may if e in holding] == holding
    assert list(pool.holding(["zz"])) == []


def test_copies_are_counted_in_their_order() -> None:
    ids = np.random.default_rng(0).integers(0, 9, 200).astype(np.uint64)
    seen: Counter[int] = Counter()
    for id, copy in zip(ids.tolist(), copies_of(ids).tolist(), strict=True):
        seen[id] += 1
        assert copy == seen[id]


# --- what was read of a file is kept --------------------------------------------------------------


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files of any size are kept; the list tells which were read."""
    read: list[str] = []
    plain = pools.read_rows

    def rows(source: str, **form: Any) -> Any:
        read.append(source)
        return plain(source, **form)

    monkeypatch.setattr(pools, "KEPT", 0)
    monkeypatch.setattr(pools, "read_rows", rows)
    return read


def test_a_file_is_read_once_and_again_when_its_bytes_change(tmp_path: Path, keeping: list[str]) -> None:
    rows = [(f"message {i % 7} é", ("good", "bad", "")[i % 3]) for i in range(10)]
    pool, kept = written(tmp_path / "pool.jsonl", rows), Cache(tmp_path / "cache").folder
    test = written(tmp_path / "test.jsonl", [("other", "good")])
    settings = config(tmp_path, pool, test=test)
    plain, first = load_dataset(settings), load_dataset(settings, kept)
    assert keeping == [pool, test, pool, test]
    again = load_dataset(settings, kept)
    assert keeping == [pool, test, pool, test], "what was kept is read in the place of the files"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        load_dataset(config(tmp_path, "pool.jsonl", test="test.jsonl"), kept)
    assert keeping == [pool, test, pool, test], "a run's copy of its configuration names them by their whole paths"
    for found in (first, again):
        assert dataclasses.replace(found, pool=plain.pool, gold=plain.gold) == plain
        assert (found.pool, dict(found.gold)) == (plain.pool, dict(plain.gold))

    before = (tmp_path / "pool.jsonl").stat()
    Path(pool).write_text(Path(pool).read_text().replace("message 3", "message X"))
    os.utime(pool, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = (tmp_path / "pool.jsonl").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    changed = load_dataset(settings, kept)
    assert changed.hash != plain.hash, "size and time are the same, the bytes are not"
    assert changed.hash == load_dataset(settings).hash
    load_dataset(config(tmp_path, pool, test=test, blank="drop"), kept)
    assert keeping[-1] == test, "read otherwise, it is another table"


def test_what_is_kept_is_whole_and_its_owners_alone(tmp_path: Path, keeping: list[str]) -> None:
    settings = config(tmp_path, written(tmp_path / "pool.jsonl", [("a", "good"), ("b", "bad")]))
    assert len(Bench(settings).dataset.pool) == 2
    (folder,) = (tmp_path / "run" / "cache").glob("pool-????????????????")
    assert (tmp_path / "run").stat().st_mode & 0o077 == 0
    (folder / "rows.jsonl").write_text((folder / "rows.jsonl").read_text().replace("a", "z"))
    with pytest.raises(StoreError, match="its content has changed since it was written"):
        _ = Bench(settings).dataset


def test_a_file_that_cannot_be_used_leaves_nothing_kept(tmp_path: Path, keeping: list[str]) -> None:
    settings = config(tmp_path, written(tmp_path / "pool.jsonl", [("a", "good"), (" ", "bad")]))
    with pytest.raises(DataError, match=re.escape("line 2: all columns of the template are blank")):
        load_dataset(settings, Cache(tmp_path / "cache").folder)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


@pytest.mark.parametrize("strategy", ["random", "lean"])
def test_a_run_is_the_same_whether_its_pool_is_in_memory(
    make_config: Any,
    tmp_path: Path,
    tiny_encoder_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    keeping: list[str],
    strategy: str,
) -> None:
    """Picks, labels and measurements; a finished run opens again without reading its file."""
    model = {"name": str(tiny_encoder_folder), "dtype": "float32", "head": "features"}
    plain = make_config(strategies=[strategy], model=model, query={"warm_start": 12, "batch": 6, "budget": 18})

    def outcome(out: str) -> Any:
        with Run({**plain, "out": str(tmp_path / out)}) as run:
            run.run(oracle(run.bench.dataset))
            return (
                [run.store.query(r) for r in range(2)],
                run.metrics(),
                run.store.facts["data"],
                run.store.key["data_hash"],
            )

    one = outcome("kept")
    read = len(keeping)
    assert outcome("kept") == one
    assert len(keeping) == read
    monkeypatch.setattr(tables, "IN_MEMORY", 0)
    assert outcome("not held") == one


def test_a_large_pool_has_a_standing_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen features are read of it alone, and it is the same for all runs."""
    pool = written(tmp_path / "pool.jsonl", [(f"message {i}", "good") for i in range(50)])
    bench = Bench(config(tmp_path, pool))
    bench.__dict__["fitting"] = bench.dataset
    assert bench.standing is bench.pool
    del bench.__dict__["standing"]
    monkeypatch.setattr("guidestar.bench.STANDING", 20)
    assert isinstance(bench.standing, Pool)
    assert len(bench.standing) == 20
    other = Bench(config(tmp_path, pool))
    other.__dict__["fitting"] = other.dataset
    assert other.standing.ids == bench.standing.ids
    assert sorted(bench.standing.ids, key=bench.pool.ids.index) == bench.standing.ids
