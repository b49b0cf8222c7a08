"""Rows from files: what goes in comes out, and every problem is named by its place."""

import csv
import gzip
import io
import json
import re
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guidestar.data.formats import Row, parse_hub, read_rows
from guidestar.data.textfile import guess_encoding
from guidestar.errors import DataError

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
TABLE = st.lists(st.fixed_dictionaries({"text": TEXT, "label": TEXT}), min_size=1, max_size=6)
IN_ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def rows(source: Path | str, header: list[str] | None = None) -> list[Row]:
    return list(read_rows(str(source), header=header))


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def fails(source: Path | str, message: str, header: list[str] | None = None) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        rows(source, header)


# --- round trips --------------------------------------------------------------------------------


@given(TABLE)
@IN_ONE_FOLDER
def test_jsonl_round_trip(tmp_path: Path, table: list[dict[str, str]]) -> None:
    path = write(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in table))
    assert [dict(row.values) for row in rows(path)] == table
    assert [row.where for row in rows(path)] == [f"{path} line {i}" for i in range(1, len(table) + 1)]


@given(TABLE)
@IN_ONE_FOLDER
def test_csv_round_trip(tmp_path: Path, table: list[dict[str, str]]) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["text", "label"], quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(table)
    assert [dict(row.values) for row in rows(write(tmp_path, "a.csv", buffer.getvalue()))] == table


def test_parquet_round_trip(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = [{"text": f"näh {i}", "label": i, "score": 0.5, "ok": True, "gone": None} for i in range(2500)]
    table[0]["score"] = float("nan")
    parquet.write_table(pa.Table.from_pylist(table), tmp_path / "a.parquet")
    found = rows(tmp_path / "a.parquet")
    assert len(found) == 2500
    assert found[2].values == {"text": "näh 2", "label": "2", "score": "0.5", "ok": "true"}
    assert found[2].nulls == ("gone",)
    assert found[0].nulls == ("score", "gone")
    assert found[2].where == f"{tmp_path / 'a.parquet'} row 3"


def test_folders_of_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": one, "test": one.select([1])}).save_to_disk(tmp_path / "both")
    assert [dict(row.values) for row in rows(tmp_path / "one")] == [
        {"text": "a", "label": "0"},
        {"text": "b", "label": "1"},
    ]
    assert [row.values["text"] for row in rows(f"{tmp_path / 'both'}@test")] == ["b"]
    both = tmp_path / "both"
    fails(both, f"{both}: it has several splits; write {both}@SPLIT, allowed: train, test")
    fails(f"{both}@tset", f"{both}@tset: no split 'tset'; write {both}@SPLIT, did you mean 'test'?")
    fails(f"{tmp_path / 'one'}@train", "no split 'train'; the folder holds one set without splits")
    (tmp_path / "none").mkdir()
    fails(tmp_path / "none", f"{tmp_path / 'none'}: cannot be loaded by `datasets`:")


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_csv_as_spreadsheets_write_it_elsewhere(tmp_path: Path, separator: str) -> None:
    file = tmp_path / "a.csv"
    quoted = f'"with {separator} in it"'
    file.write_text(f"text{separator}label\na, b and c{separator}x\n{quoted}{separator}y\n", encoding="utf-8-sig")
    rows = list(read_rows(str(file), header=None))
    assert [dict(row.values) for row in rows] == [
        {"text": "a, b and c", "label": "x"}, {"text": f"with {separator} in it", "label": "y"},
    ]  # fmt: skip
    file.write_text(f"a{separator}b\n1{separator}2{separator}3\n")
    name = "semicolons" if separator == ";" else "tabs"
    with pytest.raises(DataError, match=f"found 3, expected 2 .*quote cells that hold {name}"):
        list(read_rows(str(file), header=None))
    file.write_text("one; two\nthree; four\n")
    assert [row.values["text"] for row in read_rows(str(file), header=["text"])] == ["one; two", "three; four"]


@pytest.mark.parametrize(
    ("package", "source"), [("pyarrow", "a.parquet"), ("datasets", "."), ("datasets", "hub:owner/name")]
)
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, source: str) -> None:
    write(tmp_path, "a.parquet", b"x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    fails(source, "which is not installed: pip install 'guidestar[data]'")


# --- places -------------------------------------------------------------------------------------


def test_csv_lines_are_counted_through_cells_of_several_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", '\ufefftext,label\n"one\ntwo",a\n\nthree,b\r\n"x, y",c\n')
    found = rows(path)
    assert [row.where for row in found] == [f"{path} line {i}" for i in (2, 5, 6)]
    assert [row.values["text"] for row in found] == ["one\ntwo", "three", "x, y"]


def test_csv_without_a_header_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "1,one,x\n2,two,y\n")
    assert [row.values for row in rows(path, ["id", "text", "label"])] == [
        {"id": "1", "text": "one", "label": "x"},
        {"id": "2", "text": "two", "label": "y"},
    ]


def test_jsonl_values_become_text(tmp_path: Path) -> None:
    line = '\ufeff{"a": 1, "b": 2.5, "c": true, "d": null, "e": ["ü"], "f": {"g": 1}}\n\n{"a": "x"}'
    first, second = rows(write(tmp_path, "a.jsonl", line))
    assert first.values == {"a": "1", "b": "2.5", "c": "true", "e": '["ü"]', "f": '{"g": 1}'}
    assert first.nulls == ("d",)
    assert second.where.endswith("line 3")


def test_a_cell_that_is_not_there() -> None:
    row = Row("a.csv line 2", {"text": "x", "label": "y"}, ("note",))
    assert row.cell("text") == "x"
    expected = "a.csv line 2: no column 'txet'; did you mean 'text'? allowed: text, label, note"
    with pytest.raises(DataError, match=re.escape(expected)):
        row.cell("txet")
    with pytest.raises(DataError, match=r"a.csv line 2: the column 'note' is null; it must hold a value"):
        row.cell("note")


# --- bad files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", ": the file is empty"),
        ("a.jsonl", "\n \n", ": no rows; at least one is needed"),
        ("a.csv", "text,label\n", ": no rows; at least one is needed"),
        ("a.jsonl", '{"a": 1}\n{"a": }\n', " line 2: not valid JSON at character 7: Expecting value"),
        ("a.jsonl", '{"a": 1}\n[1]\n', " line 2: found a JSON array, expected an object {…}"),
        ("a.jsonl", "null", " line 1: found a JSON null, expected an object {…}"),
        ("a.jsonl", "7", " line 1: found a JSON number, expected an object {…}"),
        ("a.jsonl", f'{{"a": {"9" * 5000}}}', " line 1: not usable JSON:"),
        ("a.jsonl", '{"a": "\\ud83d"}', " line 1: the column 'a' holds half of a character (\\ud83d)"),
        (
            "a.jsonl",
            b'{"a": 1}\n{"a": "\xff"}',
            " line 2: byte 8 of the line is 0xff, which is not UTF-8; save",
        ),
        ("a.csv", b"text,label\nf\xfcr,a\n", " line 2: byte 2 of the line is 0xfc, which is not UTF-8"),
        (
            "a.csv",
            'text,label\n"a\nb",x\nc,d,e\n',
            " line 4: cells: found 3, expected 2 (text, label); quote cells that hold commas",
        ),
        ("a.csv", "text,label\nalone\n", " line 2: cells: found 1, expected 2 (text, label)"),
        ("a.csv", "text,text\n", " line 1: the header has the column 'text' twice; names must differ"),
        ("a.csv", "text,\n", " line 1: the header has no name for column 2"),
        ("a.csv", 'text,label\na,b\n"c,d\ne,f\n', " line 3: not valid CSV: unexpected end of data"),
        (
            "a.jsnol",
            "x",
            ": found the extension '.jsnol'; did you mean '.jsonl'? allowed: .csv, .tsv",
        ),
        (
            "data",
            "x",
            ": found no extension; allowed: .csv, .tsv, .jsonl, .json, .txt, .parquet, .xlsx, .xls, .ods, the text files also as .gz, or a folder",
        ),
        ("a.parquet", "no parquet", ": not readable as Parquet:"),
        ("a.jsonl", '{"a": 1, "a": 2}', " line 1: not usable JSON: a name stands twice in one object: a, a"),
        (
            "a.txt",
            "plain letters\n".encode("utf-16-le"),
            ": every few bytes one is NUL, so it is no UTF-8; a text in UTF-16",
        ),
        ("a.csv", b"PK\x03\x04" + b"\0" * 30, ": every few bytes one is NUL"),
    ],
)
def test_a_bad_file_is_named_by_its_place(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = write(tmp_path, name, content)
    fails(path, f"{path}{message}")


def test_a_missing_file(tmp_path: Path) -> None:
    fails(tmp_path / "a.csv", f"{tmp_path / 'a.csv'}: no such file or folder")
    fails("demo:tset", "demo:tset: no such part of the synthetic data; did you mean 'test'?")


def test_a_file_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path, "a.csv", "text,label\na,b\n")
    monkeypatch.setattr(Path, "open", refuse)
    fails(path, f"{path}: cannot be read: Permission denied")


# --- the hub ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("hub:subj", ("subj", None, None)),
        ("hub:google/boolq", ("google/boolq", None, None)),
        ("hub:google/boolq@train", ("google/boolq", None, "train")),
        ("hub:openai/gsm8k:main", ("openai/gsm8k", "main", None)),
        ("hub:openai/gsm8k:main@test", ("openai/gsm8k", "main", "test")),
    ],
)
def test_hub_sources_are_taken_apart(source: str, parts: tuple[str, str | None, str | None]) -> None:
    assert parse_hub(source) == parts


@pytest.mark.parametrize("source", ["hub:", "hub:@train", "hub:a/b:", "hub:a/b@"])
def test_hub_sources_of_another_form_are_refused(source: str) -> None:
    fails(source, f"{source}: not of the form hub:owner/name, hub:owner/name:config or …@split")


def test_the_hub_is_asked_by_name_and_config(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[tuple[str, str | None]] = []

    def load(name: str, config: str | None) -> dict[str, list[dict[str, object]]]:
        asked.append((name, config))
        return {"train": [{"text": "a", "label": 1}], "test": [{"text": "b", "label": 0}]}

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert rows("hub:owner/name:main@test") == [Row("hub:owner/name:main@test row 1", {"text": "b", "label": "0"})]
    assert asked == [("owner/name", "main")]
    fails(
        "hub:owner/name",
        "hub:owner/name: it has several splits; write hub:owner/name@SPLIT, allowed: train, test",
    )


# --- files as people and attackers make them ------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_cell_may_be_long(tmp_path: Path, name: str) -> None:
    """Whether a text fits the model is asked later; and the limit of the process is as before."""
    text, before = "word " * 60_000, csv.field_size_limit()
    table = [{"text": text, "label": "a"}, {"text": "short", "label": "b"}]
    file = tmp_path / name
    if name == "a.csv":
        file.write_text(f"text,label\n{text},a\nshort,b\n", encoding="utf-8")
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    assert [dict(row.values) for row in rows(file)] == table
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;  "])
def test_the_line_for_excel_is_obeyed_and_no_header(tmp_path: Path, first: str) -> None:
    file = write(tmp_path, "a.csv", f"{first}\r\ntext;label\r\na, b;x\r\n")
    (row,) = rows(file)
    assert (dict(row.values), row.where) == ({"text": "a, b", "label": "x"}, f"{file} line 3")


def test_a_table_of_too_many_columns_is_refused(tmp_path: Path) -> None:
    header = ",".join(f"c{i}" for i in range(50_000))
    fails(
        write(tmp_path, "a.csv", f"{header}\n{header}\n"), "line 1: the header has 50000 columns; allowed: up to 10000"
    )


TABLE = [{"text": "naïve café", "label": "ja"}, {"text": "Größe, 2 €", "label": "nein"}]
AS_CSV = 'text,label\nnaïve café,ja\n"Größe, 2 €",nein\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "text\tlabel\nnaïve café\tja\nGröße, 2 €\tnein\n"),
        ("a.json", json.dumps(TABLE, indent=1, ensure_ascii=False)),
        ("b.json", "\n" + "".join(json.dumps(row) + "\n" for row in TABLE)),
        ("a.csv.gz", AS_CSV),
        ("a.JSON.GZ", json.dumps(TABLE)),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_same_rows_in_any_form(tmp_path: Path, name: str, content: str, encoding: str) -> None:
    """UTF-16 says so itself; everything else without a word is UTF-8."""
    raw = content.encode(encoding)
    file = write(tmp_path, name, gzip.compress(raw) if name.lower().endswith("gz") else raw)
    assert [dict(row.values) for row in rows(file)] == TABLE


def test_a_text_a_line(tmp_path: Path) -> None:
    found = rows(write(tmp_path, "a.txt", 'one, "two"\r\n\r\n  three\n'))
    assert [(row.values["text"], row.where.split()[-1]) for row in found] == [('one, "two"', "1"), ("  three", "3")]


ENCODINGS = [
    ("utf-8", None), ("utf-8-sig", None), ("utf-16", None), ("utf-32", None), ("utf-16-le", "utf-16-le"), ("utf-16-be", "utf-16-be"),
]  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufeff"), min_size=1), min_size=1, max_size=4),
    st.sampled_from(ENCODINGS),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([".jsonl", ".txt", ".csv", ".csv.gz"]),
)  # fmt: skip
def test_the_same_rows_in_every_encoding_and_with_every_line_end(
    texts: list[str], encoding: tuple[str, str | None], end: str, suffix: str
) -> None:
    texts = [f"a{text}" for text in texts]
    lines = {
        ".jsonl": [json.dumps({"text": text}, ensure_ascii=False) for text in texts],
        ".txt": texts,
    }.get(suffix, ["text", *('"' + text.replace('"', '""') + '"' for text in texts)])
    written, named = encoding
    raw = "".join(line + end for line in lines).encode(written)
    with tempfile.TemporaryDirectory() as place:
        file = write(Path(place), f"a{suffix}", gzip.compress(raw) if suffix.endswith("gz") else raw)
        assert [row.values["text"] for row in read_rows(str(file), encoding=named)] == texts


def test_a_column_that_is_there_twice_is_refused_in_every_table(tmp_path: Path) -> None:
    pyarrow, pandas = pytest.importorskip("pyarrow"), pytest.importorskip("pandas")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(
        pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"]),
        tmp_path / "a.parquet",
    )
    wide = pandas.DataFrame([["a"] * 10_001], columns=[f"c{i}" for i in range(10_001)])
    with pytest.raises(DataError, match="the table has 10001 columns; allowed: up to 10000"):
        list(read_rows(wide))
    for source in (str(tmp_path / "a.parquet"), pandas.DataFrame([["a", "b"]], columns=["text", "text"])):
        with pytest.raises(DataError, match="the table has the column 'text' twice; names must differ"):
            list(read_rows(source))


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="cp1252", exclude_categories=["Cc"]), min_size=1), min_size=1, max_size=5))
def test_a_named_encoding_is_for_files_that_are_not_utf_8(texts: list[str]) -> None:
    """A new file in UTF-8 is read as that, whatever the pool was written in."""
    table = [{"text": text} for text in texts]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table)
    with tempfile.TemporaryDirectory() as place:
        for encoding in ("cp1252", "utf-8"):
            raw = content.encode(encoding)
            if encoding == "cp1252":
                try:
                    raw.decode()
                except UnicodeDecodeError:
                    pass
                else:
                    continue  # bytes that are UTF-8, too
            file = write(Path(place), "a.jsonl", raw)
            assert [dict(row.values) for row in read_rows(str(file), encoding="cp1252")] == table


def test_what_is_no_utf_8_and_has_no_name_is_refused_with_a_guess(tmp_path: Path) -> None:
    text = "Die Größe der Straße ist schön und die Tür geht über den Fluß. " * 20
    file = write(tmp_path, "a.csv", f"text\n{text}\n".encode("cp1252"))
    guess = guess_encoding(file)
    assert guess is not None
    fails(file, f"which is not UTF-8; save the file as UTF-8, or try data.encoding: {guess}")
    (row,) = read_rows(str(file), encoding=guess)
    assert row.values["text"] == text
    with pytest.raises(DataError, match=r"not readable as nonsense \(data.encoding\)"):
        list(read_rows(str(file), encoding="nonsense"))


def test_a_damaged_gz_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(AS_CSV.encode() * 1000)
    for damaged in (whole[: len(whole) // 2], b"no gzip at all", whole[:20] + b"xxxxxxxx" + whole[28:]):
        fails(write(tmp_path, "a.csv.gz", damaged), "a.csv.gz: cannot be read: ")
