"""The check that pool and test prompts have the same form."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from test_data_presets import FOLDERS, SHARED, needs_files

from guidestar.config import parse
from guidestar.data.forms import ALWAYS, FEWEST, differences
from guidestar.data.pool import load_dataset
from guidestar.records import Example


def made(texts: list[str]) -> list[Example]:
    return [Example(f"{i:016x}", {"question": text}, f"Q: {text}\nA:") for i, text in enumerate(texts)]


def questions(n: int, sign: str, seed: int = 0, end: str = "?") -> list[Example]:
    rng = random.Random(seed)
    starts = ["What", "Who", "When", "Is", "Does the", "In which town"]
    return made(
        [f"{rng.choice(starts)} {rng.random():.4f}{end}\nAnswerA{sign} one\nAnswerB{sign} two" for _ in range(n)]
    )


def test_another_sign_behind_a_marker_is_named() -> None:
    found = differences(questions(200, ""), questions(50, ":"), "test")
    assert "a line of {question} begins with 'AnswerA' in 100% of the pool and in 0% of the test set" in found
    assert len(found) == 4, "AnswerA, AnswerA:, AnswerB, AnswerB:"


def test_another_ending_is_named() -> None:
    pool = made([f"Is {i} odd?" for i in range(60)])
    test = made([f"Is {i} odd" for i in range(60)])
    assert differences(pool, test, "validation") == [
        "{question} ends in '?' in 100% of the pool and in 0% of the validation set"
    ]


@pytest.mark.parametrize("seed", range(40))
def test_the_same_form_gives_no_alarm(seed: int) -> None:
    """Splits of one source, small ones too: content differs by chance, form does not."""
    rng = random.Random(seed)
    every = questions(300, ":", seed) + made([f"Common {rng.random()}." for _ in range(900)])
    rng.shuffle(every)
    size = rng.choice([FEWEST, 40, 300])
    assert differences(every[size:], every[:size], "test") == []


def test_too_few_texts_say_nothing() -> None:
    assert differences(questions(FEWEST - 1, ""), questions(100, ":"), "test") == []
    assert differences(questions(100, ""), questions(FEWEST - 1, ":"), "test") == []
    assert differences(questions(FEWEST, ""), questions(FEWEST, ":"), "test")


def test_a_few_odd_rows_hide_nothing_and_alarm_nobody() -> None:
    odd = int(100 * (1 - ALWAYS))
    pool = questions(100 - odd, ":") + made(["hm"] * odd)
    assert differences(pool, questions(100, ":"), "test") == []
    assert differences(pool, questions(100, ")"), "test")


def test_the_fact_stands_in_the_dataset(tmp_path: Path) -> None:
    for name, sign in (("pool", " "), ("test", ": ")):
        rows = "".join(f'"Is {name} {i} odd?\nAnswerA{sign}yes",{("a", "b")[i % 2]}\n' for i in range(30))
        (tmp_path / f"{name}.csv").write_text("question,answer\n" + rows)
    data = {"pool": str(tmp_path / "pool.csv"), "template": "{question}", "answer": "answer"}
    config = {"task": {"kind": "choice"}, "query": {"warm_start": 5, "batch": 1, "budget": 6}}
    facts = load_dataset(parse(config | {"data": data | {"test": str(tmp_path / "test.csv")}})).facts
    assert len(facts["form_differences"]) == 2
    assert all("AnswerA" in line for line in facts["form_differences"])
    assert "form_differences" not in load_dataset(parse(config | {"data": data | {"test_share": 0.7}})).facts


@needs_files
def test_openbookqas_published_files_are_caught() -> None:
    folder = SHARED / FOLDERS["openbookqa"]
    data = {"pool": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl"), "template": "{question}"}
    config = {"data": data | {"answer": "answer"}, "task": {"kind": "choice"}}
    found = load_dataset(parse(config)).facts["form_differences"]
    assert [line.split("'")[1] for line in found] == [f"Answer{x}{sign}" for x in "ABCD" for sign in ("", ":")]


@needs_files
@pytest.mark.parametrize("name", FOLDERS)
def test_no_false_alarm_on_the_presets(name: str) -> None:
    facts = load_dataset(parse({"data": {"preset": name, "folder": str(SHARED / FOLDERS[name])}})).facts
    assert "form_differences" not in facts
    assert ("normalised_rows" in facts) == (name == "openbookqa")


def test_no_false_alarm_on_the_demo() -> None:
    facts = load_dataset(parse({"data": {"preset": "demo"}})).facts
    assert not {"form_differences", "normalised_rows"} & facts.keys()
