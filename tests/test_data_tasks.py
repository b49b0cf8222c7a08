"""Answers: written, read back, compared."""

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidestar.config import TaskConfig
from guidestar.errors import ConfigError, DataError
from guidestar.tasks import TASKS, Choice, Number, Text, make_task, normal_form, number
from guidestar.tasks.common import label_key

SHARED = Path(__file__).parents[2] / "shared" / "data"
RESPONSES = ("{answer}", "the correct answer is {answer}", "Answer: {answer}.", "it is {answer}, I think")

PLAIN = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8)


def choice(*labels: str, response: str = "{answer}", **words: str) -> Choice:
    return make_task(TaskConfig(kind="choice", labels=words or list(labels)), [], response)  # type: ignore[return-value]


# --- one suite over the table -------------------------------------------------------------------


@pytest.mark.parametrize("response", RESPONSES)
@pytest.mark.parametrize(
    ("kind", "gold"),
    [("choice", "positive"), ("number", "He has 3 + 4 = 7.\n#### 7"), ("text", "The Eiffel Tower")],
)
def test_every_kind_reads_back_what_it_teaches(kind: str, gold: str, response: str) -> None:
    task = make_task(TaskConfig(kind=kind), ["negative", "positive"], response)  # type: ignore[arg-type]
    assert task.kind == kind
    assert task.parse_gold(gold, "x") == gold
    written = task.response_text(gold)
    read = task.parse(written)
    assert task.correct(read, gold)
    span = task.answer_span(written)
    assert span is not None
    assert written[slice(*span)] == read
    assert not task.correct(None, gold)
    assert task.parse("") is None
    assert task.answer_span("  ") is None


def test_defaults_and_limits_of_every_kind() -> None:
    limits = {kind: make_task(TaskConfig(kind=kind), ["a", "b"], "{answer}").max_new_tokens for kind in TASKS}  # type: ignore[arg-type]
    assert limits == {"choice": 16, "multi_label": 64, "number": 256, "text": 64}
    assert make_task(TaskConfig(kind="text", max_new_tokens=5), [], "{answer}").max_new_tokens == 5


# --- choice -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(PLAIN, min_size=2, max_size=8, unique_by=label_key), st.sampled_from(RESPONSES))
def test_choice_reads_every_label_back(labels: list[str], response: str) -> None:
    task = choice(*labels, response=response)
    for label in labels:
        written = task.response_text(label)
        assert task.parse(written) == label
        span = task.answer_span(written)
        assert span is not None
        assert written[slice(*span)] == label
        assert task.parse_gold(f" {label} ", "x") == label
        assert task.parse_gold(written, "x") == label


def test_choice_maps_labels_to_words() -> None:
    task = choice(response="it is about {answer}!", **{"0": "sport", "1": "world news", "2": "world"})
    assert task.labels == ("0", "1", "2")
    assert task.words == ("sport", "world news", "world")
    assert task.response_text("1") == "it is about world news!"
    assert task.parse("It is about WORLD NEWS today") == "1"
    assert task.parse("world") == "2"
    assert task.parse_gold("World News", "x") == "1"
    assert task.parse_gold("it is about sport!", "x") == "0"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("the correct answer is true", "true"),
        ("  True.", "true"),
        ("Is it true or false? The correct  answer is: **false**", "false"),
        ("the correct answer is", None),
        ("untrue, falsehood", None),
        ("I believe that it is false and not true", "false"),
    ],
)
def test_choice_finds_the_word_behind_the_prefix(text: str, answer: str | None) -> None:
    assert choice("true", "false", response="the correct answer is {answer}").parse(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [("b", "B"), ("(c).", "C"), ("it is a marsh, so D", "D"), ("Apples", None), ("B or C", "B")],
)
def test_letters_are_not_articles(text: str, answer: str | None) -> None:
    assert choice("A", "B", "C", "D").parse(text) == answer


def test_choice_takes_the_labels_found() -> None:
    cells = ["the correct answer is TRUE", "false", " true", "true", "the correct answer is false"]
    task = make_task(TaskConfig(kind="choice"), cells, "the correct answer is {answer}")
    assert task.labels == ("false", "true")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"], "task.labels: a choice needs at least two labels, found 'a'"),
        ([], "task.labels: a choice needs at least two labels, found none"),
        (
            ["a", "b", "A"],
            "task.labels: the labels 'a' and 'A' are the same when case is ignored; name one of them, and the data may hold both",
        ),
        (["a", " "], "task.labels: found an empty label; every label needs some text"),
        (
            {"0": "yes", "1": "Yes"},
            "task.labels: the words 'yes' and 'Yes' are the same when case is ignored",
        ),
        ({"0": "yes", "1": ""}, "task.labels: found an empty word; every word needs some text"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(labels: list[str] | dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_task(TaskConfig(kind="choice", labels=labels), [], "{answer}")


def test_too_many_labels_found_suggest_text() -> None:
    with pytest.raises(ConfigError, match="hold 65 different answers, above the limit of 64; use kind: text"):
        make_task(TaskConfig(kind="choice"), [f"answer {i}" for i in range(65)], "{answer}")


def test_an_unknown_label_names_place_labels_and_nearest() -> None:
    task = choice("negative", "positive")
    expected = "pool.csv line 7: label 'postive' is not one of: negative, positive; did you mean 'positive'?"
    with pytest.raises(DataError, match=re.escape(expected)):
        task.parse_gold("postive", "pool.csv line 7")
    with pytest.raises(DataError, match=r"label 'xyzzy' is not one of: negative, positive$"):
        task.parse_gold("xyzzy", "pool.csv line 7")
    with pytest.raises(DataError, match="label 'maybe' is not one of: negative, positive"):
        task.response_text("maybe")


# --- number -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 18", "18"),
        ("9 eggs, so\n#### $1,018.50 a week (7 days)", "1018.50"),
        ("#### 3 no wait #### 4", "4"),
        ("18 is it #### none", "18"),
        ("The final answer is 1,234,567 dollars, not 7.", "1234567"),
        ("So she earns 12%.", "12"),
        ("5 - 8 = -3", "-3"),
        ("it costs -$5", "-5"),
        ("it costs $-5.", "-5"),
        ("it is \u22124 degrees", "-4"),
        ("12-5", "5"),
        ("f(2)-3", "3"),
        ("is...18", "18"),
        ("0.5.", "0.5"),
        (".25 l", ".25"),
        ("3/4 cup", "3/4"),
        ("2 1/2 cups", "2 1/2"),
        ("\\boxed{42}", "42"),
        ("**7**", "7"),
        ("room B12", None),
        ("none", None),
    ],
)
def test_number_is_found(text: str, number: str | None) -> None:
    assert Number().parse(text) == number


@pytest.mark.parametrize("other", ["18.0", "18.00", "$18", "018", "36/2", "17 2/2", "it is 18 eggs"])
def test_numbers_are_compared_by_value(other: str) -> None:
    assert Number().correct(other, "She has 18 eggs.\n#### 18")
    assert not Number().correct(other, "#### 18.01")
    assert not Number().correct(other, "#### -18")


@settings(deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_every_decimal_survives_thousands_commas(value: Decimal) -> None:
    task = Number()
    gold = task.parse_gold(f"All in all ${value:,}\n#### {value:,}", "x")
    assert task.correct(task.parse(f"that is {value:,} euros."), gold)
    assert task.parse_gold(gold, "x") == gold
    assert not task.correct(str(value + 1), gold)


def test_number_of_thousands_of_digits_is_no_accident() -> None:
    many = "1" * 5000
    assert Number().correct(many, f"#### {many}")
    assert not Number().correct(many + "2", f"#### {many}1")


def test_gold_numbers_end_in_the_marker() -> None:
    task = Number(marker="=>")
    assert task.parse_gold("18", "x") == "=> 18"
    assert task.parse_gold("$1,018", "x") == "=> 1018"
    assert task.parse_gold("She has 18 eggs.", "x") == "She has 18 eggs.\n=> 18"
    assert task.parse_gold("2*9=<<2*9=18>>18\n=> 18 eggs", "x") == "2*9=18\n=> 18"


@pytest.mark.parametrize("cell", ["none", "", "5 eggs\n#### unknown"])
def test_gold_without_a_number_is_refused(cell: str) -> None:
    with pytest.raises(
        DataError, match=r"train.jsonl line 3: no number in the answer '.*'; it must hold one, like '#### 18'"
    ):
        Number().parse_gold(cell, "train.jsonl line 3")


def test_an_empty_marker_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"task.marker is empty"):
        make_task(TaskConfig(kind="number", marker=" "), [], "{answer}")


@pytest.mark.skipif(not SHARED.exists(), reason="needs the files in ../shared/data")
@pytest.mark.parametrize("name", ["train", "test"])
def test_every_gsm8k_answer_is_read_back(name: str) -> None:
    task = Number()
    for line in (SHARED / "star" / "GSM8K" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        cell = json.loads(line)["answer"]
        gold = task.parse_gold(cell, name)
        read = task.parse(task.response_text(gold))
        assert read is not None
        assert task.correct(read, gold)
        assert Decimal(read) == Decimal(cell.rpartition("#### ")[2].replace(",", ""))
        assert "<<" not in gold


# --- text ---------------------------------------------------------------------------------------


def test_normal_form_is_squads() -> None:
    assert normal_form("The  Eiffel-Tower, a.k.a. an icon!") == "eiffeltower aka icon"
    assert normal_form(" The ") == "the"
    assert normal_form("!") == "!"


def test_text_is_compared_in_normal_form() -> None:
    task = Text("Answer: {answer}.")
    assert task.parse("answer:  the Louvre.") == "the Louvre"
    assert task.correct("Louvre", "The louvre!")
    assert not task.correct("Louvre", "Lyon")
    assert not task.correct("?", "!")
    with pytest.raises(DataError, match=r"a.csv line 2: the answer is empty; it must hold some text"):
        task.parse_gold("  ", "a.csv line 2")


def slow_match(text: str, marker: str) -> str | None:
    """`Number.parse` as its docstring says it, one search for each marker."""
    ends = [m.end() for m in re.finditer(re.escape(marker), text)]
    cues = [m.end() for m in re.finditer(r"(?i)\banswer\s+is\b", text, re.ASCII)]
    for start in (*reversed(ends), *reversed(cues)):
        if match := number._NUMBER.search(text, start):
            return number._plain(match)
    found = list(number._NUMBER.finditer(text))
    return number._plain(found[-1]) if found else None


@given(
    st.lists(st.sampled_from(["####", "=>", "answer is", " ", "7", "1,018", "-", "$", "3/4", "2 1/2", ".", "x", "-5"])),
    st.sampled_from(["####", "=>", "-", "7"]),
)
def test_the_number_found_is_that_of_the_slow_literal_search(parts: list[str], marker: str) -> None:
    text = "".join(parts)
    assert Number(marker=marker).parse(text) == slow_match(text, marker)


@pytest.mark.parametrize("piece", ["####", "answer is ", "#### x ", "1/0 ", "1 ", "-", "$", "1,111", "<<"])
def test_a_response_that_repeats_itself_takes_no_longer_for_it(piece: str) -> None:
    """With a search for each marker, the first of them takes an hour."""
    text = piece * 50_000
    assert Number().parse(text) in (
        None,
        "1",
        "0",
        number._plain(number._NUMBER.search("1")),
        Number().parse(text[-400:]),
    )
