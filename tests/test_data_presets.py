"""Presets: what they fill, and the prompts they make of the real files."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guidestar.config import DataConfig, RunConfig, TaskConfig, parse, read_file
from guidestar.data import presets
from guidestar.data.demo import write_demo
from guidestar.data.pool import load_dataset
from guidestar.data.presets import PRESETS, apply_preset
from guidestar.errors import ConfigError, DataError
from guidestar.study.studyfile import SHIPPED
from guidestar.tasks import make_task

SHARED = Path(__file__).parents[2] / "shared" / "data"
FOLDERS = {
    "gsm8k": "star/GSM8K",
    "boolq": "star/BoolQ",
    "openbookqa": "star/OBQA",
    "trec-6": "text/TREC-6",
    "subj": "text/SUBJ",
}
needs_files = pytest.mark.skipif(not SHARED.exists(), reason="needs the files in ../shared/data")


def config(name: str, **data: Any) -> RunConfig:
    return parse({"data": {"preset": name, **data}, "query": {"warm_start": 20, "batch": 10, "budget": 40}})


# --- filling in ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_a_complete_configuration(name: str) -> None:
    data, task, normalise = apply_preset(DataConfig(preset=name), TaskConfig())
    assert data.pool is not None
    assert data.test is not None
    assert data.template is not None
    assert data.answer is not None
    assert task.kind is not None
    assert make_task(task, [], data.response).kind == task.kind
    assert normalise({"other": "x", "passage": "p", "question": "q"}) is not None


def test_explicit_keys_win() -> None:
    data = DataConfig(preset="boolq", folder="here", template="Q: {question}", response="{answer}", test="my.csv")
    filled, task, normalise = apply_preset(data, TaskConfig(labels=["true", "false", "unknown"]))
    assert normalise({"question": "q", "answer": "The correct answer is  true"})["answer"] == "true"
    assert (filled.template, filled.response, filled.test) == ("Q: {question}", "{answer}", "my.csv")
    assert filled.pool == str(Path("here") / "train.jsonl")
    assert filled.answer == "answer"
    assert task.labels == ["true", "false", "unknown"]
    assert task.kind == "choice"


def test_a_pool_of_ones_own_brings_no_other_sets_and_its_own_header() -> None:
    data, _, _ = apply_preset(DataConfig(preset="subj", pool="mine.csv"), TaskConfig())
    assert (data.pool, data.test, data.validation, data.header) == ("mine.csv", None, None, None)


def test_a_test_share_replaces_the_presets_test_set() -> None:
    data, _, _ = apply_preset(DataConfig(preset="subj", test_share=0.2), TaskConfig())
    assert data.test is None


def test_without_a_preset_nothing_changes() -> None:
    data, task = DataConfig(pool="a.csv"), TaskConfig(kind="text")
    assert apply_preset(data, task)[:2] == (data, task)


def test_an_unknown_preset_and_a_folder_without_one_are_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("data.preset is 'trec6'; did you mean 'trec-6'? allowed: gsm8k,")):
        apply_preset(DataConfig(preset="trec6"), TaskConfig())
    with pytest.raises(ConfigError, match=re.escape("data.folder is 'x', which needs a data.preset")):
        apply_preset(DataConfig(folder="x", pool="a.csv"), TaskConfig())


# --- the forms of the hub -----------------------------------------------------------------------


def test_boolq_of_the_hub_gets_the_files_prompt() -> None:
    row = {"question": "is it", "passage": "…", "answer": "true"}
    assert presets.boolq_row(row) == {
        "question": "Please answer the following question with true or false, question: is it?\n\n"
        "Answer format: true/false",
        "answer": "true",
    }


def test_openbookqa_has_one_form() -> None:
    train = "Stars are\nAnswerA warm\nAnswerB AnswerA like\nAnswerC far\nAnswerD new\nThe correct answer is "
    wanted = "Stars are\nAnswerA: warm\nAnswerB: AnswerA like\nAnswerC: far\nAnswerD: new\nThe correct answer is"
    choices = json.dumps({"text": ["warm", "AnswerA like", "far", "new"], "label": ["A", "B", "C", "D"]})
    hub = {"question_stem": "Stars are", "choices": choices, "answerKey": "C"}
    assert presets.openbookqa_row({"question": train, "answer": "C"}) == {"question": wanted, "answer": "C"}
    assert presets.openbookqa_row({"question": wanted, "answer": "C"}) == {"question": wanted, "answer": "C"}
    assert presets.openbookqa_row(hub) == {"question": wanted, "answer": "C"}


def test_trec_and_subj_of_the_hub_get_the_files_labels() -> None:
    assert presets.trec_row({"text": "Who ?", "label_coarse_original": "HUM"}) == {
        "text": "Who ?",
        "label": "3",
    }
    assert presets.subj_row({"text": "a", "label": "1", "label_text": "subjective"})["label"] == "subjective"


# --- the real files -----------------------------------------------------------------------------


@needs_files
@pytest.mark.parametrize(
    ("name", "sizes", "answer"),
    [
        ("gsm8k", (7473, 1319, 0), None),
        ("boolq", (9427, 3270, 0), "true"),
        ("openbookqa", (4952, 500, 0), "D"),
        ("trec-6", (4871, 500, 451), "description"),
        ("subj", (7000, 2000, 1000), "subjective"),
    ],
)
def test_the_real_files(name: str, sizes: tuple[int, int, int], answer: str | None) -> None:
    data = load_dataset(config(name, folder=str(SHARED / FOLDERS[name])))
    assert (data.facts["pool"], data.facts["test"], data.facts["validation"]) == sizes
    assert data.facts["pool_without_answer"] == 0
    first = data.pool[0]
    if answer is not None:
        assert data.task.response_text(data.gold[first.id]) == answer
    known = {example.id for split in (data.test, data.validation) if split for example in split.examples}
    assert not known & data.gold.keys()
    for example in data.pool[:500]:
        gold = data.gold[example.id]
        assert data.task.correct(data.task.parse(data.task.response_text(gold)), gold)


@needs_files
def test_what_is_known_about_the_real_files() -> None:
    trec = load_dataset(config("trec-6", folder=str(SHARED / FOLDERS["trec-6"])))
    assert trec.facts["shared_with_test"] == 9
    by_text = {e.fields["text"]: trec.task.response_text(trec.gold[e.id]) for e in trec.pool}
    assert by_text["What films featured the character Popeye Doyle ?"] == "entity"
    assert by_text["What is the full form of .com ?"] == "abbreviation"
    assert by_text["Who killed Gandhi ?"] == "human"
    assert by_text["When was Ozzy Osbourne born ?"] == "number"
    assert by_text["What sprawling U.S. state boasts the most airports ?"] == "location"
    assert trec.pool[0].prompt == "Question: How did serfdom develop in and then leave Russia ?\nType:"

    boolq = load_dataset(config("boolq", folder=str(SHARED / FOLDERS["boolq"])))
    assert boolq.facts["majority"] == {"label": "true", "share": pytest.approx(0.6217, abs=1e-4)}

    obqa = load_dataset(config("openbookqa", folder=str(SHARED / FOLDERS["openbookqa"])))
    assert obqa.facts["pool_duplicates"] == 5
    assert obqa.test is not None
    assert obqa.facts["normalised_rows"] == {"pool": 4957, "test": 0}
    assert "form_differences" not in obqa.facts
    for example in (*obqa.pool, *obqa.test.examples):
        assert len(re.findall(r"(?m)^Answer[A-D]: ", example.prompt)) == 4
        assert example.prompt.endswith("The correct answer is")


# --- STAR's templates ---------------------------------------------------------------------------


def form_of(form: str, name: str) -> dict[str, str]:
    """What a form changes of a preset: nothing for the paper's Table 4, else what the study of the published code has."""
    values = read_file(SHIPPED / "published-code.yaml")[0]["settings"].get(name, {}).get("values", {})
    keys = {
        "table4": {},
        "published": {"template": "published_template", "response": "published_response"},
        "one_prompt": {"template": "one_prompt"},
    }
    return {key: values[value] for key, value in keys[form].items() if value in values}


@pytest.mark.parametrize(
    ("form", "name", "prompt", "response"),
    [
        ("table4", "gsm8k", "Q\nAnswer the above question. First, think step by step and then answer the final number.\n", "W\n#### 4"),
        ("table4", "boolq", "Q\nThe correct answer is\n", "true"),
        ("published", "boolq", "Q\n", "the correct answer is true"),
        ("one_prompt", "boolq", "Q\nAnswer the above question. First, think step by step and then answer the final number.\n", "true"),
        ("one_prompt", "openbookqa", "Q\nAnswerA: a\nAnswerB: b\nThe correct answer is\nAnswer the above question. First, think step by step and then answer the final number.\n", "B"),
    ],
)  # fmt: skip
def test_a_row_under_a_form(tmp_path: Path, form: str, name: str, prompt: str, response: str) -> None:
    rows = {
        "gsm8k": {"question": "Q", "answer": "W\n#### 4"},
        "boolq": {"question": "Q", "answer": "the correct answer is true"},
        "openbookqa": {"question": "Q\nAnswerA a\nAnswerB b\nThe correct answer is ", "answer": "B"},
    }
    (tmp_path / "p.jsonl").write_text(json.dumps(rows[name]) + "\n")
    made = {"data": {"preset": name, "pool": str(tmp_path / "p.jsonl"), **form_of(form, name)}}
    data = load_dataset(parse(made | {"query": {"warm_start": 1, "batch": 1, "budget": 1}}))
    (example,) = data.pool
    assert example.prompt == prompt
    assert data.task.response_text(data.gold[example.id]) == response


def test_boolq_with_its_passage(tmp_path: Path) -> None:
    """Rows as google/boolq has them, where the answer is true or false and no text."""
    for file in ("train.jsonl", "dev.jsonl"):
        rows = [
            {"question": f"is {file} {i} a thing", "title": "T", "passage": f"{i} is.", "answer": i % 2 == 0}
            for i in range(4)
        ]
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = {"data": {"preset": "boolq-passage", "folder": str(tmp_path)}}
    data = load_dataset(parse(made | {"query": {"warm_start": 2, "batch": 1, "budget": 3}}))
    assert [e.prompt for e in data.pool[:1]] == ["0 is.\nis train.jsonl 0 a thing?\nThe correct answer is\n"]
    assert [data.gold[e.id] for e in data.pool] == ["true", "false", "true", "false"]
    assert data.facts["test"] == 4


def test_boolq_without_passages_is_refused_by_the_preset_with_them(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"question": "q", "answer": "true"}) + "\n")
    message = "train.jsonl line 1: no column 'passage': these are BoolQ's questions alone; use data.preset: boolq"
    with pytest.raises(DataError, match=re.escape(message)):
        load_dataset(config("boolq-passage", folder=str(tmp_path)))


def test_a_preset_folder_without_its_files_names_the_missing_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'train.csv'}: no such file or folder")):
        load_dataset(config("trec-6", folder=str(tmp_path)))


def test_the_demo_is_the_same_with_and_without_files(tmp_path: Path) -> None:
    write_demo(tmp_path)
    made, read = load_dataset(config("demo")), load_dataset(config("demo", folder=str(tmp_path)))
    assert made.hash == read.hash
    assert [replace(e, where="") for e in made.pool] == [replace(e, where="") for e in read.pool]
    assert (made.facts["pool"], made.facts["test"], made.facts["validation"]) == (600, 200, 100)
    assert made.facts["pool_duplicates"] == made.facts["shared_with_test"] == 0
