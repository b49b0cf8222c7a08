"""Annotations in and out: out and in again is the same, whatever the texts, labels and names."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from guidestar import config as configs
from guidestar.config import dump_yaml
from guidestar.data.pool import load_dataset
from guidestar.errors import ConfigError, DataError, GuidestarError
from guidestar.exchange import FORMATS, export_run, import_file
from guidestar.exchange.containers import CONTAINERS, SAFE, columns_in, dumped, load, write_csv, write_safe_csv
from guidestar.exchange.rows import About, Given, Row, columns_of
from guidestar.exchange.table import recognise
from guidestar.records import Annotation, Example, Flag, Label, Metrics, Note, Pick, Query, Skip, Suggestion, Verdict
from guidestar.schema import fingerprint
from guidestar.store import Store, files
from guidestar.tasks import MultiLabel
from guidestar.tasks.common import label_key, visible
from guidestar.tasks.multi_label import NONE

TOOLS = ["label-studio", "argilla", "prodigy", "doccano"]
SUFFIX = {"json": ".json", "jsonl": ".jsonl", "csv": ".csv", "parquet": ".parquet", "datasets": ""}


def make_example(fields: Mapping[str, str]) -> Example:
    prompt = "".join(f"{name}: {text.strip()}\n" for name, text in fields.items())
    return Example(fingerprint(dict(fields))[:16], dict(fields), prompt, "pool.csv line 2")


def make_run(
    folder: Path, examples: Sequence[Example], labels: Sequence[str] = ("good", "bad"), kind: str = "choice"
) -> Path:
    """A run that has asked for some examples in two rounds."""
    with Store.open(folder, create=True) as store:
        names = {"labels": list(labels), "words": list(labels)} if kind in ("choice", "multi_label") else {}
        store.begin({}, {"task": {"kind": kind, **names}})
        half = len(examples) // 2
        for r, part in enumerate([examples[:half], examples[half:]]):
            picks = tuple(Pick(e.id, float("nan") if r == 0 else -0.25 + i / 3) for i, e in enumerate(part))
            store.add_query(Query(r, picks), {e.id: e for e in part})
    return folder


def annotate(run: Path, said: Sequence[tuple[str, Annotation]]) -> None:
    with Store.open(run) as store:
        store.annotations.add_many([(id, annotation, None, "python") for id, annotation in said])


def state(run: Path) -> dict[str, Any]:
    with Store.open(run) as store:
        notes = store.annotations
        return {
            "by": notes.by_annotator(), "counts": notes.answers(), "verdicts": notes.verdicts(), "flags": notes.flags(),
            "notes": notes.notes(),
        }  # fmt: skip


@pytest.fixture
def examples() -> list[Example]:
    return [make_example({"text": text}) for text in ("So good", "Rather bad", "=1+1", 'He said "no",\nthen left')]


@pytest.fixture
def run(tmp_path: Path, examples: list[Example]) -> Path:
    """Two annotators who differ on the first example, one skip, one flag, one note, one verdict, one unanswered."""
    folder = make_run(tmp_path / "star-seed0", examples)
    a, b, c, _ = (e.id for e in examples)
    annotate(
        folder,
        [
            (a, Label("good", "ann")), (a, Label("bad", "bob")), (b, Skip("unclear", "ann")), (b, Flag("ann")),
            (b, Note("=HYPERLINK(1)", "bob")), (c, Label("bad", "ann")), (c, Label("good", "bob")),
            (c, Verdict("good", "cy")),
        ],
    )  # fmt: skip
    return folder


# --- out and in again ---------------------------------------------------------------------------

# Quotes, line ends, what spreadsheets take for formulas, control characters, half of a JSON text
NASTY = ["=1+1", "-2", "@x", "\tx", "\r\nx\r", '"a","b"', "'=x", "''", "  lead", "trail \n", "[1]", '{"a": 1}', "ünï \U0001f680",
    "\x01\x1f\x7f", "\u2028\u0085\ufeff", "null", "NaN", "true", "a#b", "x" * 3000]  # fmt: skip
TEXT = st.one_of(st.sampled_from(NASTY), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12))
NAME = st.one_of(
    st.sampled_from(NASTY[:-1]), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
)
WORD = NAME.map(str.strip).filter(bool)
FIELD = st.sampled_from(
    ["text", "question", "id", "answer", "label", "answers", "note", "fields.id", "guidestar", "meta", "data", "ä, b", "=x",
     "'x", "final", SAFE]
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    kind: str
    labels: tuple[str, ...]
    examples: tuple[Example, ...]
    said: tuple[tuple[str, Annotation], ...]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kind = draw(st.sampled_from(["choice", "multi_label", "text", "number"]))
    word = WORD.filter(visible).filter(lambda w: kind != "multi_label" or (";" not in w and w != NONE))
    labels = draw(st.lists(word, min_size=2, max_size=4, unique_by=label_key))
    names = draw(st.lists(FIELD, min_size=1, max_size=3, unique=True))
    made = draw(st.lists(st.fixed_dictionaries({name: TEXT for name in names}), min_size=1, max_size=3))
    pool = {e.id: e for fields in made if any(text.strip() for text in fields.values()) for e in [make_example(fields)]}
    pool = pool or {(e := make_example(dict.fromkeys(names, "x"))).id: e}
    who = draw(st.lists(NAME.filter(bool), min_size=1, max_size=3, unique=True))
    number = st.integers(-99, 99).map(lambda n: f"#### {n}") | st.integers(0, 99).map(lambda n: f"{n}*2=\n#### {2 * n}")
    several = st.sets(st.sampled_from(labels)).map(
        lambda held: MultiLabel(tuple(labels), tuple(labels)).canonical(held)
    )
    answer = {
        "choice": st.sampled_from(labels),
        "multi_label": several if kind == "multi_label" else WORD,
        "text": WORD,
        "number": number,
    }[kind]
    annotation = st.one_of(
        st.builds(Label, answer, st.sampled_from(who)),
        st.builds(Skip, NAME, st.sampled_from(who)),
        st.builds(Flag, st.sampled_from(who)),
        st.builds(Note, NAME, st.sampled_from(who)),
        st.builds(Verdict, answer, st.sampled_from(who)),
    )
    said = draw(st.lists(st.tuples(st.sampled_from(sorted(pool)), annotation), max_size=8))
    return Case(kind, tuple(labels), tuple(pool.values()), tuple(said))


PLAIN = Case(
    "choice",
    ("good", "bad"),
    (make_example({"text": "a"}), make_example({"text": "very long " * 20_000})),
    ((make_example({"text": "a"}).id, Label("good", "ann")), (make_example({"text": "a"}).id, Label("bad", "bob"))),
)


EVERY = [*FORMATS, "csv-safe"]


def out_name(format: str) -> str:
    return f"out{SUFFIX[FORMATS[format.removesuffix('-safe')].container]}"


@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_what_a_file_says_is_what_was_written(case: Case) -> None:
    """Every format carries answers with their annotators, skips, flags, notes and verdicts, in its files too."""
    labels = case.labels if case.kind in ("choice", "multi_label") else ()
    about = About(labels, tuple(case.examples[0].fields), several=case.kind == "multi_label")
    rows = rows_with(case)
    for format in EVERY:
        chosen = FORMATS[format.removesuffix("-safe")]
        records = [record for row in rows for record in chosen.write(row, about)]
        with tempfile.TemporaryDirectory() as place:
            file = Path(place, out_name(format))
            container = CONTAINERS[chosen.container]
            if container.fill is not None:
                container.fill(records, file, columns_in(records))
            else:
                write = write_safe_csv if format == "csv-safe" else container.write
                assert write is not None
                file.write_bytes(dumped(records, write))
            found = [chosen.read(record, about, where) for where, record in load(file)]
        assert heard(found) == heard(rows), format


def rows_with(case: Case) -> list[Row]:
    """The rows of a case as a run would give them."""
    rows: list[Row] = []
    for e in case.examples:
        said = [annotation for id, annotation in case.said if id == e.id]
        answers = {a.annotator: a for a in said if isinstance(a, (Label, Skip))}
        given = {
            who: Given(who, a.answer) if isinstance(a, Label) else Given(who, None, a.reason)
            for who, a in answers.items()
        }
        labels = [g for g in given.values() if g.answer is not None]
        verdict = next((Given(v.annotator, v.answer) for v in reversed(said) if isinstance(v, Verdict)), None)
        rows.append(
            Row(
                id=e.id, fields=e.fields, prompt=e.prompt, round=1, score=-0.5, answers=tuple(given.values()),
                final=verdict or (labels[-1] if labels else next(iter(given.values()), None)), verdict=verdict,
                flags=tuple(sorted({a.annotator for a in said if isinstance(a, Flag)})),
                notes={a.annotator: a.text for a in said if isinstance(a, Note) and a.text},
            )
        )  # fmt: skip
    return rows


def heard(rows: Sequence[Row]) -> dict[str, Any]:
    """Example -> what is said of it, from however many rows."""
    found: dict[str, Any] = {}
    for row in rows:
        one = found.setdefault(row.id, {"answers": [], "verdict": None, "flags": set(), "notes": {}})
        one["answers"] += row.answers
        one["verdict"] = row.verdict or one["verdict"]
        one["flags"] |= set(row.flags)
        one["notes"] |= row.notes
    return found


@settings(max_examples=5, deadline=None)
@given(case=cases())
@example(case=PLAIN)
def test_out_and_in_again_is_the_same(case: Case) -> None:
    """From one run into another that asked for the same; again, and back, it changes nothing."""
    with tempfile.TemporaryDirectory() as place:
        one = make_run(Path(place, "one"), case.examples, case.labels, case.kind)
        empty = make_run(Path(place, "empty"), case.examples, case.labels, case.kind)
        annotate(one, case.said)
        said = state(one)
        for format in EVERY:
            name = format.removesuffix("-safe")
            two = Path(shutil.copytree(empty, Path(place, f"two-{format}")))
            file = Path(place, format, out_name(format))
            file.parent.mkdir()
            export_run(one, name, file, safe=format != name)
            counts = import_file(two, file, format=name, pool=())
            assert state(two) == said, format
            assert counts["not_asked"] == counts["changed_since"] == counts["unknown"] == 0, format
            again = import_file(two, file, format=name, pool=())
            assert (again["new"], again["unchanged"]) == (0, counts["new"]), format
            assert import_file(one, file, format=name, pool=())["new"] == 0, (
                "what a run said itself is nothing new to it"
            )


@settings(deadline=None)
@given(st.lists(st.lists(TEXT, min_size=2, max_size=2), min_size=1, max_size=4))
def test_a_safe_csv_holds_no_formula_and_reads_back_the_same(cells: list[list[str]]) -> None:
    records = [{"=a": one, "b'": two} for one, two in cells]
    raw = dumped(records, write_safe_csv)
    for line in csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline="")):
        for cell in line[:2]:
            assert cell[:1] not in ("=", "+", "-", "@", "\t", "\r", "\n")
            assert cell.lstrip()[:1] not in ("=", "+", "-", "@")
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "x.csv")
        file.write_bytes(raw)
        assert [dict(found) for _, found in load(file)] == records
        file.write_bytes(dumped(records, write_csv))
        assert [dict(found) for _, found in load(file)] == records, "and without the option too"


@settings(deadline=None)
@given(st.dictionaries(FIELD, TEXT, min_size=1))
def test_names_of_fields_never_meet_a_formats_own_names(fields: dict[str, str]) -> None:
    own = {"id", "answer", "note"}
    columns = columns_of(fields, own)
    assert len(columns) == len(fields)
    assert not own & columns.keys()


# --- exporting ----------------------------------------------------------------------------------


def test_examples_stand_in_the_order_of_asking_with_answers_in_the_order_given(
    run: Path, examples: list[Example]
) -> None:
    text = export_run(run, "jsonl")
    assert isinstance(text, str)
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["id"] for row in rows] == [e.id for e in examples]
    first, second, third, fourth = rows
    assert [(a["annotator"], a["answer"]) for a in first["answers"]] == [("ann", "good"), ("bob", "bad")]
    assert (first["answer"], first["text"], first["round"], first["score"]) == ("bad", "So good", 0, None)
    assert second["answer"] is None
    assert second["answers"][0]["skip"] == "unclear"
    assert (second["flags"], second["notes"]) == (["ann"], [{"annotator": "bob", "text": "=HYPERLINK(1)"}])
    assert (third["answer"], third["verdict"]) == ("good", {"annotator": "cy", "answer": "good"})
    assert (fourth["answers"], fourth["round"], fourth["score"]) == ([], 1, pytest.approx(-0.25 + 1 / 3))
    assert fourth["prompt"] == examples[3].prompt


def test_added_examples_are_exported_last(run: Path, tmp_path: Path) -> None:
    new = make_example({"text": "from elsewhere"})
    with Store.open(run) as store:
        store.annotations.add_extra([new])
        store.annotations.add(new.id, Label("good", "ann"), source="import")
    rows = [json.loads(line) for line in str(export_run(run, "jsonl")).splitlines()]
    assert (rows[-1]["id"], rows[-1]["round"], rows[-1]["answer"]) == (new.id, None, "good")


def test_the_log_holds_every_change(run: Path, examples: list[Example], tmp_path: Path) -> None:
    annotate(run, [(examples[0].id, Label("bad", "ann")), (examples[1].id, Flag("ann", on=False))])
    out = export_run(run, "jsonl", tmp_path / "log.jsonl", log=True)
    assert isinstance(out, Path)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    with Store.open(run) as store:
        assert len(rows) == len(store.annotations.history()) == 10
    assert [row["number"] for row in rows] == sorted(row["number"] for row in rows)
    by = [(row["kind"], row.get("answer"), row["annotator"]) for row in rows if row["id"] == examples[0].id]
    assert by == [("label", "good", "ann"), ("label", "bad", "bob"), ("label", "bad", "ann")]
    assert (rows[-1]["kind"], rows[-1]["on"], rows[-1]["source"]) == ("flag", False, "python")
    with pytest.raises(
        DataError, match=r"log\.jsonl line 1 and 9 more: this is the full log of a run.*export without --log"
    ):
        import_file(run, out)


def test_csv_has_a_line_for_each_annotator_and_can_be_labelled_in_a_spreadsheet(
    run: Path, tmp_path: Path, examples: list[Example]
) -> None:
    out = tmp_path / "sheet.csv"
    export_run(run, "csv", out, safe=True)
    raw = out.read_bytes().decode("utf-8-sig")
    lines = list(csv.DictReader(io.StringIO(raw, newline="")))
    assert [line["annotator"] for line in lines] == ["ann", "bob", "ann", "bob", "ann", "bob", ""]
    assert [line["text"] for line in lines][4:] == ["'=1+1", "'=1+1", 'He said "no",\nthen left']
    assert lines[3]["note"] == "'=HYPERLINK(1)"
    lines[-1]["answer"] = "Bad"  # what a person types
    with out.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    said: list[str] = []
    counts = import_file(run, out, annotator="dora", say=said.append)
    assert counts["new"] == 1
    assert counts["unchanged"] == 8
    assert state(run)["by"][examples[3].id] == {"dora": Label("bad", "dora")}
    assert said == [f"{out}: read as csv; another format can be named with --format"]


def test_suggestions_go_to_other_tools_only_if_wished(run: Path, examples: list[Example]) -> None:
    """A model's answer beside an example sways whoever labels it."""
    with Store.open(run) as store:
        store.add_suggestions(0, {examples[3].id: Suggestion("bad", {"good": 0.25, "bad": 0.75}, -1)})
    own = [json.loads(line) for line in str(export_run(run, "jsonl")).splitlines()][3]["suggestion"]
    assert (own["answer"], own["round"], own["probabilities"][1]) == ("bad", -1, {"label": "bad", "probability": 0.75})
    plain = {tool: str(export_run(run, tool)) for tool in TOOLS}
    wished = {tool: str(export_run(run, tool, suggestions=True)) for tool in TOOLS}
    for tool in TOOLS:
        assert plain[tool] != wished[tool]
        assert "0.75" not in plain[tool]
    task = json.loads(wished["label-studio"])[3]["predictions"][0]
    assert (task["score"], task["result"][0]["value"]) == (0.75, {"choices": ["bad"]})


def test_options_that_do_not_go_together(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no format 'argila'; did you mean 'argilla'"):
        export_run(run, "argila")
    with pytest.raises(ConfigError, match="safe is for csv"):
        export_run(run, "jsonl", safe=True)
    with pytest.raises(ConfigError, match="the log is written as jsonl only"):
        export_run(run, "csv", log=True)
    for format in ("parquet", "datasets"):
        with pytest.raises(DataError, match=f"{format} cannot be shown as text"):
            export_run(run, format)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="exists and is not an export as it was written here"):
        export_run(run, "datasets", mine)
    with pytest.raises(DataError, match="is a folder; give the name of a file"):
        export_run(run, "jsonl", mine)
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_an_export_may_be_written_again(run: Path, tmp_path: Path) -> None:
    for format, container in ((name, f.container) for name, f in FORMATS.items()):
        out = tmp_path / f"again-{format}{SUFFIX[container]}"
        for _ in range(2):
            assert export_run(run, format, out) == out
    assert not [path for path in tmp_path.rglob(".tmp-*")]


def test_the_columns_are_what_training_needs(run: Path, tmp_path: Path) -> None:
    import datasets

    export_run(run, "datasets", tmp_path / "set")
    loaded = datasets.load_from_disk(str(tmp_path / "set"))
    assert loaded["answer"] == ["bad", None, "good", None]
    assert loaded["text"][2] == "=1+1"
    assert loaded[0]["answers"][1]["annotator"] == "bob"


# --- importing ----------------------------------------------------------------------------------


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def refused(run: Path, file: Path, *messages: str, **options: Any) -> None:
    before = state(run)
    with pytest.raises(GuidestarError) as caught:
        import_file(run, file, **options)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(messages), str(caught.value)
    for line, message in zip(lines, messages, strict=True):
        assert re.search(message, line), line
    assert state(run) == before, "all or nothing"


def test_a_plain_table_is_matched_by_its_text(run: Path, tmp_path: Path, examples: list[Example]) -> None:
    file = write(
        tmp_path / "labels.jsonl",
        [{"text": "So good", "label": "BAD"}, {"text": 'He said "no",\r\nthen left ', "label": "good"}],
    )
    said: list[str] = []
    counts = import_file(run, file, pool=(), say=said.append)
    assert (counts["new"], counts["not_asked"]) == (2, 0)
    assert state(run)["by"][examples[0].id]["import"] == Label("bad", "import")
    assert state(run)["by"][examples[3].id]["import"] == Label("good", "import"), "white space does not matter"
    assert said[1] == "answers that name nobody are stored as by 'import'; another name can be given with --annotator"
    with Store.open(run) as store:
        assert {e.source for e in store.annotations.history()[-2:]} == {"import"}


def test_all_problems_are_told_at_once_and_nothing_is_stored(
    run: Path, tmp_path: Path, examples: list[Example]
) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(
        '{"text": "So good", "label": "goood"}\n'
        '{"text": "never seen", "label": "good"}\n'
        "{broken\n"
        '{"text": "Rather bad", "label": "good", "annotator": "eve"}\n'
        '{"text": "Rather bad", "label": "bad", "annotator": "eve"}\n'
        '{"text": "Rather bad", "label": ["good", "bad"]}\n'
        f'{{"id": "{examples[0].id}", "text": "another text", "label": "good"}}\n'
        "[1]\n"
        '{"text": "=1+1", "label": "\\ud83d"}\n'
        '{"label": "good"}\n'
        '{"text": "So good"}\n',
        encoding="utf-8",
    )
    refused(
        run,
        file,
        r"bad\.jsonl line 3: not valid JSON at character 2: Expecting property name",
        r"bad\.jsonl line 6: found 2 labels, 'good', 'bad'; exactly one is allowed",
        r"bad\.jsonl line 8: found a JSON array, expected an object \{…\}",
        r"bad\.jsonl line 9: the column 'label' holds half of a character \(\\ud83d\)",
        r"bad\.jsonl line 10: no id of an example, and no text: expected text or id, found label",
        r"bad\.jsonl line 11: no column with answers: expected 'answer' or 'label', found",
        r"bad\.jsonl line 2: not an example of this run or its pool: 'never seen'",
        rf"bad\.jsonl line 7: 'text' is not that of example {examples[0].id}; put the text back, or remove the id",
        r"bad\.jsonl line 1: label 'goood' is not one of: good, bad; did you mean 'good'\?",
        r"bad\.jsonl line 5: two different answers of eve about one example: 'bad' here, 'good' at bad\.jsonl line 4",
        pool=(),
    )


def test_columns_may_be_spelled_in_another_case(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "sheet.csv"
    file.write_text("ID,Text,LABEL ,Annotator\n,So good,good,eve\n,Rather bad,bad,eve\n", encoding="utf-8")
    assert import_file(run, file, pool=())["new"] == 2
    assert {who for said in state(run)["by"].values() for who in said} >= {"eve"}
    file.write_text("Text,TEXT,label\nSo good,Rather bad,good\n", encoding="utf-8")
    refused(
        run, file, "line 2: no id of an example, and no text: expected text or id, found Text, TEXT, label", pool=()
    )


def test_what_is_wrong_with_every_row_is_said_once(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "sheet.csv"
    file.write_text("text,kind\nSo good,good\nRather bad,bad\n", encoding="utf-8")
    refused(
        run,
        file,
        "line 2 and 1 more: no column with answers: expected 'answer' or 'label', found beside the texts: kind$",
        pool=(),
    )


def test_many_problems_are_counted(run: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "many.jsonl", [{"text": "So good", "label": f"x{i}"} for i in range(30)])
    refused(run, file, *[rf"line {i + 1}: label 'x{i}'" for i in range(20)], r"… and 10 more problems", pool=())


def test_an_answer_that_nobody_gave_is_a_cell_edited_by_mistake(run: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in str(export_run(run, "jsonl")).splitlines()]
    rows[2]["answer"] = "bad"  # the verdict was good, and ann's own answer was bad
    assert import_file(run, write(tmp_path / "a.jsonl", rows), pool=())["new"] == 0
    rows[2]["answers"] = rows[2]["answers"][1:]
    refused(
        run,
        write(tmp_path / "b.jsonl", rows),
        r"b\.jsonl line 3: 'bad' is said to count, but no annotator of the row gave it; change an annotator's answer",
        pool=(),
    )


def test_examples_of_the_pool_that_nobody_asked_for_are_accepted_and_counted(
    run: Path, tmp_path: Path, examples: list[Example]
) -> None:
    more = [make_example({"text": f"more {i}"}) for i in range(3)]
    file = write(
        tmp_path / "more.jsonl", [{"text": e.fields["text"], "label": "good"} for e in (*more[:2], examples[0])]
    )
    counts = import_file(run, file, pool=[*examples, *more])
    assert (counts["new"], counts["not_asked"]) == (3, 2)
    with Store.open(run) as store:
        assert store.annotations.extras() == {more[0].id, more[1].id}
        assert [e.id for e, _ in store.annotations.labelled()][-2:] == [more[0].id, more[1].id]
    again = import_file(run, file, pool=[*examples, *more])
    assert (again["new"], again["unchanged"], again["not_asked"]) == (0, 3, 0)


def test_the_pool_is_read_with_the_configuration_beside_the_run(tmp_path: Path) -> None:
    """Its template's names may differ from the file's columns, and its words may stand for labels."""
    pool = tmp_path / "pool.csv"
    pool.write_text("sentence,gold\nfirst one,\nsecond one,\nthird one,\n", encoding="utf-8")
    (tmp_path / "config.yaml").write_text(
        dump_yaml(
            {
                "data": {
                    "pool": str(pool), "template": "Text: {text}\nMood:", "answer": "gold", "columns": {"text": "sentence"},
                    "response": "the mood is {answer}",
                },
                "task": {"kind": "choice", "labels": {"1": "good", "0": "bad"}},
                "query": {"warm_start": 2, "batch": 1, "budget": 3},
            }
        )
    )  # fmt: skip
    first = make_example({"text": "first one"})
    folder = tmp_path / "random-seed0"
    with Store.open(folder, create=True) as store:
        store.begin({}, {"task": {"kind": "choice", "labels": ["1", "0"], "words": ["good", "bad"]}})
        store.add_query(Query(0, (Pick(first.id, 0.5),)), {first.id: first})
    pool.write_text("sentence,gold\nfirst one,good\nsecond one,the mood is BAD\nthird one,\n", encoding="utf-8")
    counts = import_file(tmp_path, pool, annotator="ann")  # the experiment's folder holds one run
    assert counts == {
        "new": 2, "unchanged": 0, "changed_since": 0, "not_asked": 1, "without_answer": 1, "rejected": 0, "kept_apart": 0,
        "unknown": 0,
    }  # fmt: skip
    second = make_example({"text": "second one"}).id
    assert state(folder)["counts"] == {first.id: Label("1", "ann"), second: Label("0", "ann")}
    other = write(tmp_path / "other.jsonl", [{"sentence": "not in it", "gold": "good"}])
    refused(folder, other, r"other\.jsonl line 1: not an example of this run or its pool: 'not in it'")
    assert import_file(folder, other, skip_unknown=True)["unknown"] == 1


def test_rows_of_the_test_set_are_counted_and_not_stored(tmp_path: Path) -> None:
    """The file that a run's pool and test set were drawn from comes back, as a half-labelled file does."""
    rows = [f"text number {i}" for i in range(12)]
    pool = tmp_path / "pool.csv"
    pool.write_text("text,gold\n" + "".join(f"{text},{'good' if i < 8 else ''}\n" for i, text in enumerate(rows)))
    plain = {
        "data": {"pool": str(pool), "template": "{text}\nMood:", "answer": "gold", "test_share": 0.25},
        "task": {"kind": "choice", "labels": ["good", "bad"]}, "query": {"warm_start": 2, "batch": 1, "budget": 3},
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(dump_yaml(plain))
    data = load_dataset(configs.load(tmp_path / "config.yaml"))
    assert data.test is not None
    first = data.pool[0]
    with Store.open(tmp_path / "random-seed0", create=True) as store:
        store.begin({}, {"task": {"kind": "choice", "labels": ["good", "bad"], "words": ["good", "bad"]}})
        store.add_query(Query(0, (Pick(first.id, 0.5),)), {first.id: first})
    counts = import_file(tmp_path, pool, annotator="ann")
    assert (counts["kept_apart"], counts["new"], counts["without_answer"]) == (2, 6, 4)
    with Store.open(tmp_path / "random-seed0") as store:
        assert not set(store.annotations.answers()) & {e.id for e in data.test.examples}


def test_what_was_changed_since_an_import_stays_and_is_told(run: Path, tmp_path: Path, examples: list[Example]) -> None:
    id = examples[3].id
    file = write(tmp_path / "x.jsonl", [{"id": id, "answer": "good", "annotator": "ann"}])
    assert import_file(run, file, pool=())["new"] == 1
    annotate(run, [(id, Label("bad", "ann"))])
    said: list[str] = []
    counts = import_file(run, file, pool=(), say=said.append)
    assert (counts["new"], counts["changed_since"]) == (0, 1)
    assert said[-1] == "1 answers are older than what the run has now, which stays as it is"
    assert state(run)["counts"][id] == Label("bad", "ann")
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    newer = write(tmp_path / "y.jsonl", [{"id": id, "answer": "good", "annotator": "ann", "at": soon}])
    assert import_file(run, newer, pool=())["new"] == 1, "said at another time, it is another decision"


def test_copies_of_a_text_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    one = make_example({"text": "twice"})
    two = Example(f"{one.id}-2", one.fields, one.prompt)
    run = make_run(tmp_path / "run", [one])
    file = write(
        tmp_path / "x.jsonl", [{"id": two.id, "text": "twice", "answer": "bad"}, {"text": "twice", "answer": "good"}]
    )
    assert import_file(run, file, pool=[one, two])["not_asked"] == 1
    assert {id: answer.answer for id, answer in state(run)["counts"].items()} == {one.id: "good", two.id: "bad"}


def test_texts_that_differ_in_white_space_alone_are_ambiguous_without_it(tmp_path: Path) -> None:
    examples = [make_example({"text": "a  b"}), make_example({"text": "a b"})]
    run = make_run(tmp_path / "run", examples)
    exact = write(tmp_path / "x.jsonl", [{"text": e.fields["text"], "answer": "good"} for e in examples])
    assert import_file(run, exact, pool=())["new"] == 2
    refused(
        run,
        write(tmp_path / "y.jsonl", [{"text": "a\tb", "answer": "good"}]),
        rf"y\.jsonl line 1: its text is that of several examples: {examples[0].id}, {examples[1].id}",
        pool=(),
    )


def test_imported_labels_belong_to_the_current_round(run: Path, tmp_path: Path) -> None:
    with Store.open(run) as store:
        store.add_metrics(Metrics(0, 2, {"accuracy": 0.5}))
    new = make_example({"text": "late"})
    import_file(run, write(tmp_path / "x.jsonl", [{"text": "late", "label": "good"}]), pool=[new])
    with Store.open(run) as store:
        assert new.id not in {e.id for e, _ in store.annotations.labelled(0)}
        assert new.id in {e.id for e, _ in store.annotations.labelled(1)}


def test_an_import_that_is_cut_off_is_made_whole_by_the_next(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = make_example({"text": "more"})
    file = write(tmp_path / "x.jsonl", [{"text": "more", "label": "good"}, {"text": "So good", "label": "bad"}])
    before = state(run)

    def cut(name: str) -> None:
        if "annotate" in name:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "step", cut)
        with pytest.raises(KeyboardInterrupt):
            import_file(run, file, pool=[more])
    assert state(run) == before
    assert import_file(run, file, pool=[more])["new"] == 2


def test_importing_loads_nothing_heavy() -> None:
    program = "import sys, guidestar.exchange; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "datasets", "pyarrow", "sklearn", "pandas"} & set(found)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b"", r"x\.jsonl: the file is empty"),
        ("x.pdf", b"a\tb", r"x\.pdf: found the extension '\.pdf'; .*allowed: \.csv, .*, or a folder"),
        ("x.json", b'[{"text": "a"}', r"x\.json: not valid JSON at character 15: Expecting ',' delimiter"),
        ("x.json", b'[\n{"text": "a"},\n{"text" "b"}]', r"x\.json line 3: not valid JSON at character 9: Expecting ':'"),
        ("x.json", b'\n\n{"a": "\xff"}', r"x\.json line 3: byte 8 of the line is 0xff, which is not UTF-8"),
        ("x.json", b'[{"text": "a", "label": "b"}]', r"x\.json: not the JSON of a known tool; .*keys text, label"),
        ("x.csv", b"text,label\na,b,c\n", r"x\.csv line 2: cells: found 3, expected 2"),
        ("x.csv", b"text,annotator,skipped\nSo good,ann,perhaps\n", r"x\.csv line 2: skipped: found 'perhaps'; allowed: yes"),
        ("x.csv", b"text,answer,skipped\nSo good,good,yes\n", r"x\.csv line 2: has an answer, 'good', and is skipped"),
        ("x.jsonl", b'{"text": "So good", "answers": [{}]}', r"x\.jsonl line 1: answers: found neither 'answer' nor 'skip'"),
        ("x.jsonl", b'{"text": "So good", "answers": {"a": 1}}', r"x\.jsonl line 1: answers: found .*, expected a list"),
    ],
)  # fmt: skip
def test_damaged_files(run: Path, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    refused(run, file, message, pool=())


def test_missing_files_and_columns(run: Path, tmp_path: Path) -> None:
    refused(run, tmp_path / "gone.jsonl", r"gone\.jsonl: no such file or folder")
    file = write(tmp_path / "x.jsonl", [{"text": "So good", "mood": "good"}])
    refused(run, file, r"line 1: no column with answers", pool=())
    refused(run, file, r"line 1: no column 'moode'; did you mean 'mood'\?", format="jsonl:moode", pool=())
    assert import_file(run, file, format="jsonl:mood", pool=())["new"] == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.tsv", b"text\tlabel\nSo good\tgood\n"),
        ("x.csv.gz", gzip.compress(b"text;label\nSo good;good\n", mtime=0)),
        ("x.jsonl.gz", gzip.compress(b'{"text": "So good", "label": "good"}\n', mtime=0)),
        ("x.jsonl", '{"text": "So good", "label": "good"}\n'.encode("utf-16")),
    ],
)
def test_labels_come_in_every_form_that_a_pool_may_have(run: Path, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert import_file(run, tmp_path / name, pool=())["new"] == 1


def test_one_object_alone_is_a_file_of_one(run: Path, tmp_path: Path) -> None:
    task = {"data": {"text": "So good"}, "annotations": [{"result": [
        {"from_name": "answer", "to_name": "text", "type": "choices", "value": {"choices": ["good"]}}]}]}  # fmt: skip
    for text in (json.dumps(task), json.dumps(task, indent=2)):
        (tmp_path / "one.json").write_text(text)
        assert [found for _, found in load(tmp_path / "one.json")] == [task]
    assert import_file(run, tmp_path / "one.json", pool=())["new"] == 1


def test_every_format_is_recognised_by_what_it_holds(run: Path, tmp_path: Path) -> None:
    for name, format in FORMATS.items():
        out = tmp_path / f"{name}-x{SUFFIX[format.container]}"
        export_run(run, name, out)
        assert recognise(out) == name
    odd = write(tmp_path / "odd.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": ["x"]}])
    assert recognise(odd) == "jsonl", "one odd line does not make it doccano's"
    both = write(tmp_path / "both.jsonl", [{"text": "a", "label": ["x"], "_task_hash": 1}])
    with pytest.raises(DataError, match="could be prodigy or doccano; say which with --format"):
        recognise(both)
