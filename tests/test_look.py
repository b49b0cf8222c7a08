"""What `init` recognises in a file, and what it writes down; every guess is a comment that says so."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidestar.config import load
from guidestar.data.formats import read_rows
from guidestar.data.look import look
from guidestar.data.messages import MARK, turns_as_text, turns_in
from guidestar.data.pool import load_dataset
from guidestar.errors import DataError
from guidestar.project import write_config

TEXTS = ["Where is my parcel?", "I want my money back", "How do I change my password", "It came broken again"]
LABELS = ["delivery", "refund", "account", "damage"]


def table(path: Path, header: Sequence[str] | None, rows: Sequence[Sequence[object]], separator: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([*([header] if header else []), *rows])
    return path


def lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def some(n: int = 60) -> list[tuple[str, str]]:
    return [(f"{TEXTS[i % 4]} Order {i}, I have waited for days", LABELS[i % 4]) for i in range(n)]


def written(file: Path, **options: Any) -> tuple[Any, list[str]]:
    """The configuration as it is read back, and the notes, each of which must stand in it as a comment."""
    place, found = write_config(file, None, force=True, **options)
    body = place.read_text(encoding="utf-8")
    assert all(f"# - {' '.join(note.split())}" in body for note in found["notes"])
    return load(place), found["notes"]


def test_a_file_without_header_is_noticed(tmp_path: Path) -> None:
    config, notes = written(table(tmp_path / "a.csv", None, some()))
    assert config.data.header == ["text", "label"]
    assert any("the first line looks like a row and not like names" in note for note in notes)
    assert len(load_dataset(config).pool) + len(load_dataset(config).test or ()) == 60, "the first row is one of them"


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_header_is_taken_for_one_and_a_row_for_a_row(data: st.DataObject) -> None:
    names = data.draw(
        st.sampled_from([("text", "label"), ("Nachricht", "Thema"), ("id", "body"), ("message", "is_spam")])
    )
    word = st.sampled_from(["lamp", "parcel", "card", "where", "is", "my", "the", "money", "broken", "again"])
    texts = data.draw(st.lists(st.lists(word, min_size=5, max_size=12).map(" ".join), min_size=30, max_size=40))
    labels = data.draw(st.sampled_from([["yes", "no"], ["1", "0", "2"], ["red", "blue"]]))
    rows = [(text, labels[i % len(labels)]) for i, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as place:
        assert look(table(Path(place, "a.csv"), names, rows)).header is None
        assert look(table(Path(place, "b.csv"), None, rows)).header == ["text", "label"]


@pytest.mark.parametrize("bare", [1, 3, 12])
def test_no_more_labels_are_planned_than_there_are_texts(tmp_path: Path, bare: int) -> None:
    rows = [(text, "" if i < bare else label) for i, (text, label) in enumerate(some())]
    config, _ = written(table(tmp_path / "a.csv", ["text", "topic"], [*rows, ("", "")]))
    assert len(rows) - bare < config.query.budget <= len(rows)


@pytest.mark.parametrize("names", [("premise", "hypothesis"), ("question1", "question2"), ("Title", "Body")])
def test_both_texts_of_a_pair_are_read(tmp_path: Path, names: tuple[str, str]) -> None:
    rows = [
        (i, f"A man number {i} plays the guitar", f"Somebody makes music {i}", ["yes", "no"][i % 2]) for i in range(50)
    ]
    config, notes = written(table(tmp_path / "a.tsv", ["idx", *names, "label"], rows, "\t"))
    assert config.data.template == f"{{{names[0]}}} [SEP] {{{names[1]}}}"
    assert f"texts: {names[0]}, {names[1]}; answer: label (a choice of 2 labels)" in notes
    config, _ = written(tmp_path / "a.tsv", text=f"{names[1]},{names[0]}")
    assert config.data.template == f"{{{names[1]}}} [SEP] {{{names[0]}}}"


def test_columns_that_share_nothing_with_the_labels_do_not_answer(tmp_path: Path) -> None:
    file = table(
        tmp_path / "a.csv", ["text", "channel"], [(text, ["web", "mail"][i % 2]) for i, (text, _) in enumerate(some())]
    )
    config, notes = written(file, labels=["billing", "other"])
    assert (config.data.answer, config.task.labels) == (None, ["billing", "other"])
    assert any("no answer column: labels will be asked for" in note for note in notes)
    config, _ = written(file, labels=["web", "mail", "phone"])
    assert config.data.answer == "channel"


def test_several_labels_are_recognised(tmp_path: Path) -> None:
    rows = [(f"the parcel number {i} is late", [["a"], ["b", "a"], []][i % 3]) for i in range(60)]
    for file in (
        table(tmp_path / "a.csv", ["text", "tags"], [(text, "; ".join(tags) or "[]") for text, tags in rows]),
        table(tmp_path / "b.csv", ["text", "tags"], [(text, str(tags)) for text, tags in rows]),
        lines(tmp_path / "c.jsonl", [{"text": text, "tags": tags} for text, tags in rows]),
    ):
        config, notes = written(file)
        assert (config.task.kind, config.task.labels) == ("multi_label", ["a", "b"]), file.name
        assert "text: text; answer: tags (any number of 2 labels)" in notes
        assert set(load_dataset(config).gold.values()) == {"a", "a; b", "[]"}


def chat(i: int) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "Be kind."}, {"role": "user", "content": f"What is {i}+1?"},
        {"role": "assistant", "content": f"It is {i + 1}"},
    ]  # fmt: skip


@pytest.mark.parametrize("labelled", [False, True])
def test_conversations_are_labelled_whole_where_labels_are_given(tmp_path: Path, labelled: bool) -> None:
    """Those that end with the user, too; labels that stand beside some of them count."""
    rows: list[dict[str, Any]] = [{"messages": chat(i)[: 2 + i % 2]} for i in range(40)]
    rows = [row | {"mood": "ab"[i % 3 % 2] if i < 30 else ""} if labelled else row for i, row in enumerate(rows)]
    config, notes = written(lines(tmp_path / "a.jsonl", rows), labels=["a", "b"])
    assert (config.data.messages, config.model.chat, config.task.kind) == ("messages", False, "choice")
    dataset = load_dataset(config)
    assert [e.prompt for e in dataset.pool[:2]] == [
        "System: Be kind.\n\nUser: What is 0+1?", "System: Be kind.\n\nUser: What is 1+1?\n\nAssistant: It is 2",
    ]  # fmt: skip
    assert len(dataset.gold) == (30 if labelled else 0)
    assert any("all that was said is the text" in note for note in notes)


def test_conversations_become_prompts_of_the_chat_template(tmp_path: Path) -> None:
    config, notes = written(lines(tmp_path / "a.jsonl", [{"messages": chat(i)} for i in range(40)]))
    assert (config.data.messages, config.model.chat, config.task.kind) == ("messages", True, "text")
    assert config.data.cut == "start", "the last question must stay"
    dataset = load_dataset(config)
    example = dataset.pool[0]
    assert turns_in(example.prompt)[0] == {"role": "system", "content": "Be kind."}
    assert turns_in(example.prompt)[1]["content"].startswith("What is")
    assert dataset.gold[example.id].startswith("It is")
    assert any("the assistant's last message is the answer" in note for note in notes)
    lines(tmp_path / "b.jsonl", [{"messages": chat(1)}, {"messages": "hello"}])
    config = config.model_copy(update={"data": config.data.model_copy(update={"pool": str(tmp_path / "b.jsonl")})})
    with pytest.raises(DataError, match=r"b.jsonl line 2: the column 'messages' .* is no list of messages"):
        load_dataset(config)


TURN = st.tuples(
    st.sampled_from(["user", "assistant", "system"]), st.text(st.characters(exclude_characters=MARK)).map(str.strip)
)


@given(st.lists(TURN, min_size=1, max_size=5))
def test_turns_are_read_back_from_the_text(turns: list[tuple[str, str]]) -> None:
    found = [(one["role"], one["content"]) for one in turns_in(turns_as_text(turns))]
    assert found == turns


def test_a_chat_template_has_the_turns(base: Any) -> None:
    from dataclasses import replace

    from guidestar.model.batches import prompt_text

    base.tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    prompt = turns_as_text([("user", "Hi"), ("assistant", "Hm?"), ("user", "Bye")])
    assert prompt_text(replace(base, chat=True), prompt) == "<user>Hi<assistant>Hm?<user>Bye"
    assert prompt_text(base, prompt) == "User: Hi\n\nAssistant: Hm?\n\nUser: Bye"


def test_instructions_are_recognised(tmp_path: Path) -> None:
    rows = [
        {"instruction": f"Add one to {i}", "input": "" if i % 2 else "a word", "output": f"that is {i + 1}"}
        for i in range(40)
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    config, _ = written(tmp_path / "a.json")
    assert (config.data.template, config.data.answer, config.model.chat) == ("{instruction}\n\n{input}", "output", True)


def test_one_long_text_decides_neither_the_model_nor_its_context(tmp_path: Path) -> None:
    config, _ = written(table(tmp_path / "a.csv", ["text", "label"], [*some(), ("x y " * 13_500, "refund")]))
    assert (config.model.name, config.data.too_long) == ("all-minilm-l6-v2", "truncate")
    rows = [(f"{'a longer story ' * 150}{i}", LABELS[i % 2]) for i in range(40)]
    config, notes = written(table(tmp_path / "b.csv", ["text", "label"], [*rows, ("x y " * 13_500, LABELS[0])]))
    assert config.model.name == "smollm2-135m"
    assert config.model.max_length == 1280
    assert any("a few texts are far longer than the others: 1280 tokens are read" in note for note in notes)
    assert "Which of these: delivery, refund?" in str(config.data.template)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1250", "Zażółć gęślą jaźń i proszę o zwrot pieniędzy, żółw"),
        ("cp1252", "Die Größe der Straße ist schön und die Tür"),
    ],
)
def test_an_encoding_is_guessed_and_shown_by_a_place(tmp_path: Path, encoding: str, text: str) -> None:
    rows = "\n".join(["text,label", *(f'"{text} {i}",{"ab"[i % 2]}' for i in range(60))])
    (tmp_path / "a.csv").write_bytes(rows.encode(encoding))
    config, notes = written(tmp_path / "a.csv")
    assert config.data.encoding == encoding
    assert any(f"as {encoding}: " in note and text.split()[0] in note for note in notes)


def test_a_column_that_names_the_rows_is_the_id(tmp_path: Path) -> None:
    config, _ = written(
        table(tmp_path / "a.csv", ["ticket_id", "text", "label"], [(f"T{i}", *row) for i, row in enumerate(some())])
    )
    assert config.data.id == "ticket_id"
    config, _ = written(table(tmp_path / "b.csv", ["ticket_id", "text", "label"], [("T", *row) for row in some()]))
    assert config.data.id is None


def test_an_excel_sheet_is_read(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    for row in [("id", "text", "label"), (1, "where is it", "a"), (2, None, "b"), (None, None, None), (3, "lost", 1.5)]:
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    found = [row.plain() for row in read_rows(str(tmp_path / "a.xlsx"))]
    assert found == [
        {"id": 1, "text": "where is it", "label": "a"}, {"id": 2, "text": "", "label": "b"}, {"id": 3, "text": "lost", "label": 1.5},
    ]  # fmt: skip


def test_without_the_package_an_excel_file_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "python_calamine", None)
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(
        DataError, match=r"needs python-calamine, which is not installed: pip install 'guidestar\[excel\]'"
    ):
        next(read_rows(str(tmp_path / "a.xlsx")))


@given(rows=st.integers(20, 900), labelled=st.integers(0, 15))
@settings(max_examples=8, deadline=None)
def test_every_round_of_a_proposed_budget_is_whole(rows: int, labelled: int) -> None:
    """A last round of one label would cost a whole training."""
    with tempfile.TemporaryDirectory() as folder:
        data = [(f"text {i}", "ab"[i % 2] if i < labelled else "") for i in range(rows)]
        config, _ = written(table(Path(folder) / "d.csv", ("text", "label"), data), labels={"a": "", "b": ""})
    query = config.query
    assert (query.budget - query.warm_start) % query.batch == 0
    assert labelled + 8 <= query.budget <= rows
