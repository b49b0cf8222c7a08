"""Scoring a file part by part: its memory, a stop in the middle, what is kept, the highest, repeated rows."""

from __future__ import annotations

import gc
import json
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS
from literal_rows import read_examples

from guidestar import cli, scoring
from guidestar.bench import read_config
from guidestar.data.stream import parts_of, survey
from guidestar.errors import ConfigError, DataError, StoreError
from guidestar.model import predict as predict_room

Config = Callable[..., Any]


def write(path: Path, texts: list[str], answers: list[str | None] | None = None) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for i, text in enumerate(texts):
            row = {"text": text} | ({} if answers is None else {"topic": answers[i]})
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def config(make_config: Config) -> Any:
    """Labels of its own, so that no pool is read."""
    data = {"preset": None, "folder": None, "test_limit": None, "pool": "none.jsonl", "answer": "topic"}
    return read_config(
        make_config(data=data | {"template": "Message: {text}\nTopic:"}, task={"kind": "choice", "labels": LABELS})
    )


TEXTS = ["where is my parcel", "the lamp is broken", "cancel my account", "where is my parcel", "a refund, please"] * 2


def every(config: Any, path: Path, **options: Any) -> list[dict[str, Any]]:
    return list(scoring.score_file(config, str(path), **options))


def test_a_stream_reads_what_the_whole_reading_reads(config: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", TEXTS, ["billing", None] * 5)
    examples, answers = read_examples(str(path), config)
    found = survey(str(path), config, lambda answer, where: None)
    assert (found.rows, found.answered) == (10, 5)
    assert len(found.repeated) == 4, "each of the four contents occurs at least twice"
    for size in (1, 3, 10, 11):
        parts = list(parts_of(found, size))
        assert [part.start for part in parts] == list(range(0, 10, size))
        assert [e for part in parts for e in part.examples] == examples
        assert [a for part in parts for a in part.answers] == answers
    assert examples[5].id == f"{examples[0].id}-3"


def test_a_wrong_answer_is_found_before_anything_is_given_out(config: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", TEXTS, [LABELS[0]] * 9 + ["nonsense"])
    with pytest.raises(DataError, match=r"a\.jsonl line 10"):
        next(scoring.score_file(config, str(path)))


@pytest.mark.parametrize("options", [{}, {"measures": ["margin", "entropy"]}, {"measures": ["oracle_entropy"]}])
def test_parts_that_are_kept_give_the_same_rows(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    path = write(tmp_path / "a.jsonl", TEXTS, [LABELS[i % 6] for i in range(10)])
    monkeypatch.setattr(scoring, "CHUNK", 4)
    plain = every(config, path, **options)
    kept = every(config, path, keep=tmp_path / "kept", **options)
    assert plain == kept
    assert len(list((tmp_path / "kept").iterdir())) == 3
    monkeypatch.setattr(
        predict_room, "predict", lambda *args, **more: pytest.fail("a finished part was computed again")
    )
    assert every(config, path, keep=tmp_path / "kept", **options) == plain


def test_a_stop_in_the_middle_costs_one_part(config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", TEXTS)
    monkeypatch.setattr(scoring, "CHUNK", 3)
    whole = every(config, path)
    asked: list[int] = []
    plain = predict_room.predict

    def dies(base: Any, model: Any, some: Any, *args: Any, **options: Any) -> Any:
        asked.append(len(some))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return plain(base, model, some, *args, **options)

    monkeypatch.setattr(predict_room, "predict", dies)
    given: list[dict[str, Any]] = []
    with pytest.raises(KeyboardInterrupt):
        given.extend(scoring.score_file(config, str(path), keep=tmp_path / "kept"))
    assert every(config, path, keep=tmp_path / "kept") == whole
    assert asked == [3, 3, 3, 3, 1], "a finished part was computed twice"


def test_another_question_is_not_answered_from_what_was_kept(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = tmp_path / "kept"
    path = write(tmp_path / "a.jsonl", TEXTS)
    first = every(config, path, keep=keep)
    margin = every(config, path, keep=keep, measures=["margin"])
    assert set(margin[0]) == {"id", "where", "prediction", "margin"}
    template = config.model_copy(update={"data": config.data.model_copy(update={"template": "{text}\nTopic:"})})
    other = every(template, path, keep=keep)
    assert [row["id"] for row in other] == [row["id"] for row in first]
    assert [row["entropy"] for row in other] != [row["entropy"] for row in first], "prompts differ, ids do not"
    assert len(list(keep.iterdir())) == 3
    answered = write(tmp_path / "b.jsonl", TEXTS, [LABELS[0]] * 10)
    changed = write(tmp_path / "c.jsonl", TEXTS, [LABELS[1]] * 10)
    oracle = [every(config, p, keep=keep, measures=["oracle_predictive_entropy"]) for p in (answered, changed)]
    values = [[row["oracle_predictive_entropy"] for row in rows] for rows in oracle]
    assert values[0] != values[1]


def test_damage_in_what_was_kept_is_refused(config: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", TEXTS)
    every(config, path, keep=tmp_path / "kept")
    (file,) = (tmp_path / "kept").iterdir()
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(StoreError, match="its content has changed since it was written; delete it"):
        every(config, path, keep=tmp_path / "kept")


def test_a_text_too_long_for_the_model_is_a_row_of_its_own(config: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*TEXTS[:2], "word " * 3000, *TEXTS[2:5]])
    rows = every(config, path, keep=tmp_path / "kept")
    assert ["error" in row for row in rows] == [False, False, True, False, False, False]
    without = every(config, write(tmp_path / "b.jsonl", TEXTS[:5]))
    assert [row["entropy"] for row in rows if "entropy" in row] == pytest.approx([row["entropy"] for row in without])
    assert rows == every(config, path, keep=tmp_path / "kept")
    assert len(scoring.highest(iter(rows), 6)) == 5, "what has no value is not among the highest"
    alone = every(config, write(tmp_path / "c.jsonl", ["word " * 3000]))
    assert [sorted(row) for row in alone] == [["error", "id", "where"]]


def test_agreement_of_sampled_answers(config: Any, tmp_path: Path) -> None:
    rows = every(config, write(tmp_path / "a.jsonl", TEXTS[:3]), measures=["answer_consistency"])
    assert all(0 <= row["answer_consistency"] <= math.log(10) + 1e-9 for row in rows)


def test_the_highest_are_those_of_a_sort(config: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", TEXTS)
    rows = every(config, path, measures=["margin", "entropy"])
    expected = sorted(rows, key=lambda row: -row["margin"])
    assert scoring.highest(iter(rows), 4) == expected[:4]
    assert scoring.highest(iter(rows), 99) == expected
    with pytest.raises(ConfigError, match="top is 0; allowed: 1 or more"):
        scoring.highest(iter(rows), 0)


def test_memory_does_not_grow_with_the_file(config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five times the rows need 8 bytes a row more, twice while they are sorted, and no more."""
    monkeypatch.setattr(scoring, "CHUNK", 128)

    def peak(n: int) -> int:
        path = write(tmp_path / f"{n}.jsonl", [f"order {i}" for i in range(n)])
        gc.collect()
        tracemalloc.start()
        found = scoring.highest(scoring.score_file(config, str(path), keep=tmp_path / str(n)), 5)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(found) == 5
        return most

    peak(200)  # what is loaded once
    small, large = peak(300), peak(1500)
    allowed = 2 * 8 * (1500 - 300) + 300_000  # a row kept as Python objects would take a kilobyte
    assert large - small < allowed, f"{small} bytes for 300 rows, {large} for 1500"


def test_the_command_keeps_parts_and_gives_the_highest(
    make_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(make_config(task={"kind": "choice", "labels": LABELS})), encoding="utf-8")
    pool = write(tmp_path / "a.jsonl", TEXTS)

    def score(*options: str) -> list[dict[str, Any]]:
        assert cli.main(["score", str(file), str(pool), "--quiet", *options]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    rows = score()
    assert score("--keep", str(tmp_path / "kept"), "--top", "3") == sorted(rows, key=lambda row: -row["entropy"])[:3]
    assert list((tmp_path / "kept").glob("part-*.safetensors"))
    assert cli.main(["score", str(file), str(pool), "--quiet", "--top", "0"]) == 2
    assert "top is 0; allowed: 1 or more" in capsys.readouterr().err
