"""A user's own rows come back: all their columns, ids and order, blank rows too, as CSV, JSON lines, Parquet or a DataFrame."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import guidestar
from guidestar import cli, loop
from guidestar.data.formats import read_rows
from guidestar.errors import ConfigError
from guidestar.exchange import export_run
from guidestar.exchange.own_rows import LABELLED, PREDICTED, beside, write_rows

ROWS = [
    {"ticket": "T-9", "text": "where is my parcel", "answer": "old", "n": "1"},
    {"ticket": "T-2", "text": "  ", "answer": "", "n": "2"},
    {"ticket": "T-5", "text": "where is my parcel", "answer": 'a "b", c', "n": "3"},
    {"ticket": "T-1", "text": "word " * 3000, "answer": "=1+1", "n": "4"},
]


def written(path: Path) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    return path


@pytest.fixture(scope="module")
def run(tiny_folder: Path, demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    loop.run(
        {
            "out": str(folder / "run"), "data": {"preset": "demo", "folder": str(demo_data), "test_limit": 20, "id": "ticket"},
            "model": {"name": str(tiny_folder), "dtype": "float32"}, "strategies": ["random"],
            "query": {"warm_start": 8, "batch": 2, "budget": 8}, "train": {"epochs": 1},
            "peft": {"peft_type": "LORA", "r": 4, "target_modules": "all-linear"},
        }
    )  # fmt: skip
    return folder / "run" / "random-seed0"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_predictions_stand_beside_the_rows_they_are_of(run: Path, tmp_path: Path, suffix: str) -> None:
    file, out = written(tmp_path / "new.csv"), tmp_path / f"out{suffix}"
    for _ in range(2):  # again, over its own earlier output
        assert cli.main(["predict", "--quiet", str(run), str(file), "--out", str(out)]) == 0
    found = [row.plain() for row in read_rows(str(out))]
    assert [{c: row[c] or "" for c in ROWS[0]} for row in found] == ROWS
    assert [bool(row["guidestar_answer"]) for row in found] == [True, False, True, False]
    assert found[1]["error"] == "the row is blank"
    assert "do not fit the model's context" in found[3]["error"]
    assert found[0]["guidestar_answer"] == found[2]["guidestar_answer"]
    assert 0 < float(found[0]["probability"]) <= 1
    assert not list(tmp_path.glob(".*")), "nothing unfinished stays"
    assert cli.main(["predict", "--quiet", str(run), str(file), "--out", str(file)]) == 2, "the user's own file"
    assert next(row.plain() for row in read_rows(str(file))) == ROWS[0]


def test_a_column_names_the_rows_on_standard_output(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps({"ticket": i, "text": f"lamp {i}"}) + "\n" for i in (7, 3)))
    assert cli.main(["predict", "--quiet", str(run), str(file)]) == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == [7, 3]
    assert cli.main(["score", "--quiet", str(run), str(file)]) == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == [7, 3]


def test_a_frame_goes_in_and_comes_out(run: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(
        {"text": ["where is my parcel", None, "a refund"], "n": [1.5, float("nan"), 3.0]}, index=[5, 1, 9]
    )
    found = guidestar.predict(run, frame)
    assert list(found.index) == [5, 1, 9]
    assert list(found.columns) == ["text", "n", *PREDICTED]
    pandas.testing.assert_frame_equal(found[["text", "n"]], frame)
    assert found["answer"].notna().tolist() == [True, False, True]
    rows = list(guidestar.predict(run, written(tmp_path / "new.csv")))
    assert [row["ticket"] for row in rows] == [row["ticket"] for row in ROWS]


def test_labels_stand_beside_the_rows_of_the_pool(run: Path, demo_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "pool.csv"
    assert cli.main(["export", str(run), "--rows", "--out", str(out)]) == 0
    pool, found = (list(read_rows(str(path))) for path in (demo_data / "pool.csv", out))
    assert [row.values["text"] for row in found] == [row.values["text"] for row in pool]
    told = [row for row in found if row.values["answer"]]
    assert len(told) == 8
    assert all(row.values["answer"] == row.values["label"] and row.values["annotator"] == "oracle" for row in told)


def test_an_export_is_of_the_kind_that_its_name_says(run: Path, tmp_path: Path) -> None:
    kinds = (("labels.csv", "text,"), ("labels.CSV", "text,"), ("labels.jsonl", "{"), ("labels.txt", "{"))
    for name, begins in kinds:
        assert cli.main(["export", str(run), "--out", str(tmp_path / name), "--quiet"]) == 0
        assert (tmp_path / name).read_text(encoding="utf-8-sig").startswith(begins), name
    assert str(export_run(run, out=tmp_path / "x.parquet")).endswith(".parquet")
    assert (tmp_path / "x.parquet").read_bytes().startswith(b"PAR1")
    assert write_rows(["n"], [{"n": 1}], tmp_path / "rows.CSV", ()) == 1, "the same rule for a user's own rows"
    assert (tmp_path / "rows.CSV").read_text().split() == ["n", "1"]


def test_a_column_in_another_case_is_the_one_that_is_meant(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `import` takes it; the row comes back under its own names, and two that could be meant are refused."""
    file, out = tmp_path / "new.csv", tmp_path / "out.csv"
    file.write_text("Ticket,TEXT \nT-1,where is my parcel\n")
    assert cli.main(["predict", "--quiet", str(run), str(file), "--out", str(out)]) == 0
    (row,) = read_rows(str(out))
    assert list(row.values)[:2] == ["Ticket", "TEXT "]
    assert row.values["answer"]
    file.write_text("Text,TEXT\na,b\n")
    assert cli.main(["predict", "--quiet", str(run), str(file)]) == 3
    assert "no column 'text', which the template uses" in capsys.readouterr().err


def test_a_run_begins_from_frames(make_config: Callable[..., dict[str, Any]], demo_data: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    config = make_config(
        data={
            "preset": None, "folder": None, "pool": pandas.read_csv(demo_data / "pool.csv"), "answer": "label",
            "test": pandas.read_csv(demo_data / "test.csv"), "template": "{text}\nTopic:",
        },
        task={"kind": "choice"}, strategies=["random"], query={"budget": 12},
    )  # fmt: skip
    loop.run(config)
    assert len(list(read_rows(str(Path(config["out"]) / "pool.jsonl")))) == 160


NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1, max_size=6).filter(str.strip)
CELL = st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)


@settings(max_examples=30, deadline=None)
@given(st.lists(NAME, min_size=1, max_size=3, unique=True), st.data())
def test_whatever_the_rows_hold_they_are_read_as_they_were_written(names: list[str], data: st.DataObject) -> None:
    import tempfile

    rows = data.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(names, CELL)), min_size=1, max_size=4))
    with tempfile.TemporaryDirectory() as place:
        for suffix in (".jsonl", ".parquet"):
            out = Path(place, f"out{suffix}")
            assert write_rows(names, rows, out, ()) == len(rows)
            assert [row.plain() for row in read_rows(str(out))] == rows
        with pytest.raises(ConfigError, match=r"allowed: \.csv, \.jsonl, \.parquet"):
            write_rows(names, rows, Path(place, "out.doc"), ())


def test_names_that_are_taken_get_another() -> None:
    assert beside(["answer"], PREDICTED) == {
        "answer": "guidestar_answer", "probability": "probability", "error": "error",
    }  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("names", [LABELLED, PREDICTED])
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_a_column_of_ones_own_may_be_called_as_ours(suffix: str, names: tuple[str, ...], data: st.DataObject) -> None:
    """Whatever stands in "round" or "probability" of a user's file, ours is a number beside it."""
    values = st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1) | st.integers()
    columns = ["round", "probability", "score", "answers"]
    ours = beside(columns, names)
    row = {name: data.draw(values, label=name) for name in columns} | {
        column: {"round": 3, "probability": 0.5}.get(name) for name, column in ours.items()
    }
    with tempfile.TemporaryDirectory() as place:
        out = Path(place, f"out{suffix}")
        assert write_rows([*columns, *ours.values()], [row], out, names) == 1
        (back,) = (one.plain() for one in read_rows(str(out)))
    number = str if suffix == ".csv" else lambda value: value
    own = {c: "" if suffix == ".csv" and row[c] is None else row[c] for c in columns}
    texts = own if suffix == ".jsonl" else {c: str(v) if isinstance(v, int) else v for c, v in own.items()}
    assert {c: back[c] for c in columns} == texts
    assert back[ours["round"]] == number(3) if "round" in ours else back[ours["probability"]] == number(0.5)
