"""`guidestar paper` from end to end, at the scale that means nothing, and the synthetic data it runs on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from guidestar import config as configs
from guidestar.data.pool import load_dataset
from guidestar.errors import ConfigError
from guidestar.store import files
from guidestar.study import cells as engine
from guidestar.study import paper
from guidestar.study.grid import run_study
from guidestar.study.paper import order_of
from guidestar.study.results import read_results, result_path
from guidestar.study.synthetic import TEST, TRAIN, tiny_texts, write_synthetic

OPTIONS: dict[str, Any] = {"scale": "tiny", "seeds": 1, "datasets": ["openbookqa"]}


def run_paper(name: str, part: str | None = None, plan_only: bool = False, **options: Any) -> Any:
    return run_study(order_of(name, **options), part=part, plan_only=plan_only)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, hardly trained: its answers mean nothing anyhow."""
    from guidestar.model.tiny import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("tiny") / "model", tiny_texts(rows=60), steps=10)


@pytest.fixture(scope="module")
def done(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str, int]:
    """Table 1 for one dataset and one seed."""
    out = tmp_path_factory.mktemp("paper") / "tiny"
    return out, *run_paper("table1", model=str(model), out=out, **OPTIONS)


def test_a_table_from_plan_to_figures(done: tuple[Path, dict[str, Any], str, int]) -> None:
    out, facts, text, code = done
    assert code == 0
    assert (facts["cells"], facts["done"], facts["failed"], facts["elsewhere"]) == (5, 5, {}, [])
    rows = facts["rows"]
    assert [row["label"] for row in rows] == ["random", "PE", "ME", "PE with STAR", "ME with STAR"]
    assert all(row["seeds"] == [0] for row in rows)
    assert [row["verdict"] for row in rows] == [None, *["too few seeds"] * 4]
    assert [row["published"] for row in rows][-1] == [66.17, 7.47]
    assert "these numbers mean nothing beyond 'it runs'" in text
    assert "time by phase, of all processes:" in text
    assert re.search(r"train: \d+ s, planned ", text)
    assert "(few-shot)" in text
    for name in (
        "table.md",
        "table.csv",
        "facts.json",
        *(f"curves-openbookqa.{x}" for x in ("png", "pdf", "csv")),
    ):
        assert (out / "table1" / name).stat().st_size > 200, name
    assert "mean nothing" in (out / "table1" / "table.md").read_text()
    stored = json.loads((out / "table1" / "facts.json").read_text())
    assert stored["rows"] == facts["rows"]


def test_curves_csv_is_what_the_cells_hold(done: tuple[Path, dict[str, Any], str, int]) -> None:
    out, *_ = done
    lines = (out / "table1" / "curves-openbookqa.csv").read_text().splitlines()[1:]
    found = [[line.split(",")[3], int(line.split(",")[6]), float(line.split(",")[7])] for line in lines]
    order = ["random-decay", "pe-decay", "me-decay", "pe-star", "me-star"]
    results = {one.method: one.plain() for one in read_results(out / "results")}
    assert found == [[name, *point] for name in order for point in results[name]["curve"]]


def test_what_a_result_file_says(done: tuple[Path, dict[str, Any], str, int], model: Path) -> None:
    out, *_ = done
    star = json.loads(result_path(out, "openbookqa/me-star/seed0").read_text())
    assert star["tags"] == {"scale": "tiny", "dataset": "openbookqa", "method": "me-star", "seed": 0}
    assert star["recipe"]["measure"] == "response_entropy"
    assert star["config"]["train"]["b_decay"] == 0.5
    assert star["model"]["name"] == model.name
    few = json.loads(result_path(out, "openbookqa/few-shot/seed0").read_text())
    assert 0 <= few["final"] <= 1
    assert few["metrics"]["shots"] == 4
    starts = {json.dumps(one.warm_start) for one in read_results(out / "results") if one.warm_start}
    assert len(starts) == 1


def test_the_same_call_again_trains_nothing(
    done: tuple[Path, dict[str, Any], str, int], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, facts, *_ = done
    before = {path: path.read_bytes() for path in out.glob("results/**/*.json")}
    monkeypatch.setattr(engine.Shared, "bench", lambda self, config: pytest.fail("nothing is left to run"))
    again, text, code = run_paper("table1", model=str(model), out=out, **OPTIONS)
    assert code == 0
    assert again["rows"] == facts["rows"]
    assert "time by phase" not in text
    assert {path: path.read_bytes() for path in out.glob("results/**/*.json")} == before
    shared, *_ = run_paper("fig5", model=str(model), out=out, **OPTIONS)
    assert shared["done"] == 5, "figure 5 is made of table 1's runs"


def test_the_plan_alone_runs_nothing(model: Path, tmp_path: Path) -> None:
    facts, text, code = run_paper("passes", model=str(model), out=tmp_path, plan_only=True, **OPTIONS)
    assert code == 0
    assert facts["cells"] == 5
    assert facts["labels"] == 5 * 32
    assert "rows: random-decay, me-dynamic-l2, passes-1, me-star, passes-10" in text
    assert "openbookqa: 5 runs; 16 labels to begin with, 8 a round, 32 in all; 40 candidates scored a round" in text
    assert "estimated time on this machine" in text
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "runs").exists()


def test_probes_are_run_on_what_was_run(model: Path, tmp_path: Path) -> None:
    facts, text, code = run_paper("unchanged", model=str(model), out=tmp_path, **OPTIONS)
    assert code == 0
    assert "test predictions stay the same" in text
    assert (tmp_path / "unchanged" / "openbookqa-unchanged.png").stat().st_size > 1000
    stored = json.loads(result_path(tmp_path, "openbookqa/probe-unchanged/seed0").read_text())
    assert stored["tags"]["probed"] == "me"
    assert all(sentence in facts["reading"] for sentence in stored["sentences"])
    assert str(tmp_path) not in json.dumps(stored)


def test_parts_share_the_work_and_the_last_writes_the_table(model: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"seeds": 2, "model": str(model), "out": tmp_path}
    first, *_ = run_paper("fig2", part="1/2", **options)
    assert (first["cells"], first["done"]) == (2, 1)
    second, *_ = run_paper("fig2", part="2/2", **options)
    assert second["done"] == 2
    assert second["rows"][0]["seeds"] == [0, 1]
    for wrong in ("0/2", "3/2", "half"):
        with pytest.raises(ConfigError, match="part is"):
            run_paper("fig2", part=wrong, **options)


def test_a_failing_cell_gives_code_1_and_a_table_of_the_rest(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guidestar.model import predict

    real = predict.predict

    def broken(base: Any, model: Any, examples: Any, task: Any, ask: Any, *args: Any) -> Any:
        if "gold_nll" in ask.needs:
            raise RuntimeError("no gold today")
        return real(base, model, examples, task, ask, *args)

    monkeypatch.setattr(predict, "predict", broken)
    facts, text, code = run_paper("table1", model=str(model), out=tmp_path, **OPTIONS)
    assert code == 1
    assert sorted(facts["failed"]) == ["openbookqa/pe-decay/seed0", "openbookqa/pe-star/seed0"]
    assert facts["done"] == 3
    assert list(facts["plan"]["unplanned"]) == sorted(facts["failed"])
    assert "failed: openbookqa/pe-decay/seed0, openbookqa/pe-star/seed0: RuntimeError: no gold today" in text
    assert re.search(r"\| PE +\| 0 +\| not run", text)


def test_the_tiny_model_and_data_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidestar.model import tiny

    built: list[int] = []

    def build(folder: Path, texts: Any, **options: Any) -> Path:
        built.append(len(texts))
        files.write_bytes(folder / "model.safetensors", b"x")
        return folder

    monkeypatch.setattr(tiny, "build_tiny_model", build)
    from guidestar.progress import Silent

    for _ in range(2):
        model, data = paper._tiny(tmp_path, None, None, Silent())
        assert (Path(model), data) == (tmp_path / "model", tmp_path / "data")
    assert built == [600]
    assert paper._tiny(tmp_path, "other", Path("there"), Silent()) == ("other", Path("there"))


# --- synthetic data -------------------------------------------------------------------------------


def test_synthetic_data_reads_like_the_published_files(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "a")
    write_synthetic(tmp_path / "b")
    write_synthetic(tmp_path / "c", seed=1)
    for name, preset in (("GSM8K", "gsm8k"), ("BoolQ", "boolq"), ("OBQA", "openbookqa")):
        a, b, c = ((tmp_path / x / name / "train.jsonl").read_bytes() for x in "abc")
        assert a == b != c
        config = configs.parse(
            {
                "data": {"preset": preset, "folder": str(tmp_path / "a" / name), "duplicates": "error"},
                "query": {"warm_start": 5, "budget": 9},
            }
        )
        data = load_dataset(config)
        assert (len(data.pool), data.facts["test"]) == (TRAIN, TEST)
        assert len(data.gold) == TRAIN
    assert data.pool[0].prompt.count("\nAnswer") == 4
    assert "AnswerA " in json.loads((tmp_path / "a" / "OBQA" / "train.jsonl").read_text().splitlines()[0])["question"]
    assert "AnswerA: " in data.pool[0].prompt
    write_synthetic(tmp_path / "d", train=7, test=3)
    lengths = [len((tmp_path / "d" / "OBQA" / f"{x}.jsonl").read_text().splitlines()) for x in ("train", "test")]
    assert lengths == [7, 3]


def test_synthetic_answers_are_right(tmp_path: Path) -> None:
    write_synthetic(tmp_path)

    def rows(name: str) -> list[dict[str, str]]:
        return [json.loads(line) for line in (tmp_path / name / "train.jsonl").read_text().splitlines()]

    for row in rows("GSM8K"):
        a, b = map(int, re.findall(r"\d+", row["question"]))
        right = a + b if "more" in row["question"] else a * b
        assert row["answer"].endswith(f"#### {right}")
        assert f"={right}>>{right}" in row["answer"]
    truths = []
    for row in rows("BoolQ"):
        a, b = map(int, re.findall(r"\d+", row["question"]))
        truths.append(a > b)
        assert row["answer"] == f"the correct answer is {str(a > b).lower()}"
    assert 0.5 < sum(truths) / len(truths) < 0.75
    assert {row["answer"] for row in rows("OBQA")} == set("ABCD")


def test_the_tiny_model_reads_forms_and_no_answers() -> None:
    texts = tiny_texts()
    assert texts == tiny_texts()
    assert len(texts) == 600
    assert sum("####" in text for text in texts) == 200
    assert sum(bool(re.search(r"answer is [A-D]$", text)) for text in texts) == 200
