"""Known datasets: their files, their names on the hub, and how a row becomes a prompt and an answer.

A preset only fills configuration keys that are not given; it holds no data. The prompts of STAR's three datasets
are those of the paper's Table 4; the forms that its published code uses are in `study/star/published-code.yaml`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from guidestar.config import DataConfig, TaskConfig
from guidestar.errors import ConfigError, DataError, allowed

Values = Mapping[str, str]
Normalise = Callable[[Values], Values]


@dataclass(frozen=True)
class Preset:
    """What is known about a dataset.

    files: "pool", "test", "validation" -> file name in the dataset's folder.
    sources: the same -> source without a folder (hub names).
    task: keys of the task section.
    normalise: row -> row, run before columns are looked up; gives all forms of a dataset the same columns.
    """

    description: str
    files: Mapping[str, str]
    sources: Mapping[str, str]
    template: str
    answer: str
    task: Mapping[str, Any]
    response: str = "{answer}"
    header: Sequence[str] | None = None
    normalise: Normalise | None = None


def apply_preset(data: DataConfig, task: TaskConfig) -> tuple[DataConfig, TaskConfig, Normalise]:
    """The two sections with the preset's values where none are given, and its row function.

    Without a preset all stays as it is. The preset's sets are used only if no `pool` is given or a
    `folder` is; with `test_share` its test set is left out.
    Raises ConfigError for an unknown preset or a folder without one.
    """
    if data.preset is None:
        if data.folder is not None:
            raise ConfigError(f"data.folder is {data.folder!r}, which needs a data.preset; else give data.pool")
        return data, task, _same
    if data.preset not in PRESETS:
        raise ConfigError(f"data.preset is {data.preset!r}; {allowed(PRESETS, data.preset)}")
    preset = PRESETS[data.preset]
    values: dict[str, Any] = {"template": preset.template, "answer": preset.answer, "response": preset.response}
    if data.folder is not None:
        values["header"] = list(preset.header) if preset.header else None
        values |= {split: str(Path(data.folder) / name) for split, name in preset.files.items()}
    elif data.pool is None:
        values |= preset.sources
    if data.test_share:
        values.pop("test", None)
    return _filled(data, values), _filled(task, preset.task), preset.normalise or _same


def _filled(section: Any, values: Mapping[str, Any]) -> Any:
    """The section with `values` where the user gave nothing; an explicit null is nothing given."""
    given = {name for name in section.model_fields_set if getattr(section, name) is not None}
    return section.model_copy(update={name: value for name, value in values.items() if name not in given})


# --- row functions ------------------------------------------------------------------------------


def _same(row: Values) -> Values:
    return row


def boolq_row(row: Values) -> Values:
    """The hub's bare questions get the instruction that the files' questions carry; no passage in either. Answers
    without the files' format words, which the response template brings back where they are wanted."""
    answer = {"answer": _BOOLQ_WORDS.sub("", row["answer"])} if "answer" in row else {}
    if "passage" not in row:
        return {**row, **answer}
    question = (
        f"Please answer the following question with true or false, question: {row['question']}?\n\n"
        "Answer format: true/false"
    )
    return {"question": question, **answer}


_BOOLQ_WORDS = re.compile(r"^\s*the correct answer is\s+", re.IGNORECASE)


def boolq_passage_row(row: Values) -> Values:
    """As they are. Raises DataError for the files that have the questions alone."""
    if "passage" not in row:
        raise DataError(
            "no column 'passage': these are BoolQ's questions alone; use data.preset: boolq, or files with the "
            "passages, such as google/boolq of the hub"
        )
    return row


def openbookqa_row(row: Values) -> Values:
    """One form for the train file ("AnswerA puppies"), the test file ("AnswerA: lions") and the hub."""
    if "question_stem" in row:
        choices = json.loads(row["choices"])
        listed = "".join(f"\nAnswer{k}: {t}" for k, t in zip(choices["label"], choices["text"], strict=True))
        question = f"{row['question_stem']}{listed}\nThe correct answer is"
        return {"question": question, "answer": row["answerKey"]}
    question = re.sub(r"(?m)^Answer([A-D]) ", r"Answer\1: ", row.get("question", "")).rstrip()
    return {**row, "question": question}


TREC_HUB_LABELS = {"ABBR": "2", "ENTY": "1", "DESC": "0", "HUM": "3", "LOC": "5", "NUM": "4"}


def trec_row(row: Values) -> Values:
    """The hub's coarse classes under the numbers that the files use."""
    if "label_coarse_original" not in row:
        return row
    return {"text": row["text"], "label": TREC_HUB_LABELS[row["label_coarse_original"]]}


def subj_row(row: Values) -> Values:
    """The hub keeps the label's name in a column of its own."""
    return {"text": row["text"], "label": row["label_text"]} if "label_text" in row else row


_ROWS = {rows.__name__: rows for rows in (boolq_row, boolq_passage_row, openbookqa_row, trec_row, subj_row)}


def _presets() -> dict[str, Preset]:
    """The table of `presets.yaml`."""
    table = yaml.safe_load(Path(__file__).with_name("presets.yaml").read_text(encoding="utf-8"))
    return {name: Preset(**one | {"normalise": _ROWS.get(one.get("normalise"))}) for name, one in table.items()}


PRESETS = _presets()
