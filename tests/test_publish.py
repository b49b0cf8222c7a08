"""A published folder: its program gives the run's own predictions in a process that knows nothing of this library."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from asked import predict
from loops import SMALL, MakeConfig, sums, write_csv

from guidestar import loop
from guidestar.bench import Bench, read_config
from guidestar.cli import main
from guidestar.errors import ConfigError, ModelError, StoreError
from guidestar.model import adapters
from guidestar.model.predict import respond
from guidestar.publish import publish
from guidestar.publish.snippet import Usage, call, pieces
from guidestar.store import Store


def _program(folder: Path) -> str:
    found = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def _source(folder: Path) -> str:
    """The card's program without the example call."""
    return _program(folder).rpartition("\n\n")[0]


def _elsewhere(folder: Path, rows: list[dict[str, str]]) -> list[str]:
    """What the card's program says to some rows, inside the folder, in this process, where this library's own types are known
    already."""
    names: dict[str, Any] = {}
    with contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(_source(folder), names)
        return [names["predict"](**row) for row in rows]


def _fresh(*asked: tuple[Path, list[dict[str, str]]]) -> list[list[str]]:
    """The same of several folders, one after the other, in a new process, which takes the seconds that torch and transformers
    take to import; it must not import this library before a program says so."""
    program = """
import json, os, sys
said = []
for folder, source, rows in json.load(sys.stdin):
    os.chdir(folder)
    exec(source, names := {})
    said.append([names["predict"](**row) for row in rows])
    assert "from guidestar" in source or not any(name.startswith("guidestar") for name in sys.modules)
print(json.dumps(said))
"""
    given = json.dumps([(str(folder), _source(folder), rows) for folder, rows in asked])
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return said


def _here(config: dict[str, Any], name: str, count: int) -> tuple[list[dict[str, str]], list[str]]:
    """The rows of some test examples, and what the run's own adapter predicts for them."""
    bench = Bench(read_config(config))
    task, test = bench.dataset.task, bench.dataset.test
    assert test is not None
    examples = test.examples[:count]
    with Store.open(Path(config["out"]) / name) as store:
        adapter = store.adapter(store.metrics()[-1].round)
    with adapters.adapted(bench.base, adapter) as model:
        if task.classes:
            found = predict(bench.base, model, examples, {"label_log_probs"}, task).arrays["label_log_probs"][0]
            said = [task.labels[int(row.argmax())] for row in found]
        else:
            said = [text.strip() for text in respond(bench.base, model, examples, task).texts]
    return [dict(example.fields) for example in examples], said


BOTTLENECK = {"peft_type": "BOTTLENECK", "r": 8, "target_modules": ["o_proj", "down_proj"]}


def test_the_card_s_program_predicts_as_the_run_does(make_config: MakeConfig, tmp_path: Path) -> None:
    """A choice by first tokens, with format words before the answer; and an adapter that needs this library."""
    config = make_config(
        **{**SMALL, "data": {"test_limit": 30, "response": "the topic is {answer}"}, "train": {"epochs": 3}},
        strategies=["entropy"],
    )
    loop.run(config)
    found = publish(config["out"], tmp_path / "hub", license="cc-by-4.0", with_labels=True)
    folder = tmp_path / "hub"
    assert found["files"] == [
        "DATA.md", "README.md", "adapter_config.json", "adapter_model.safetensors", "labels.jsonl", "published.json",
    ]  # fmt: skip
    rows, said = _here(config, "entropy-seed0", 30)
    assert len(set(said)) > 1, "a model that always says the same would not test much"
    own = make_config(
        **{**SMALL, "peft": BOTTLENECK, "data": {"test_limit": 8}, "out": str(tmp_path / "own")}, strategies=["random"]
    )
    loop.run(own)
    publish(own["out"], tmp_path / "own-hub")
    own_rows, own_said = _here(own, "random-seed0", 8)
    assert _fresh((folder, rows), (tmp_path / "own-hub", own_rows)) == [said, own_said]

    front = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert front["library_name"] == "peft"
    assert front["license"] == "cc-by-4.0"
    card, data = ((folder / name).read_text(encoding="utf-8") for name in ("README.md", "DATA.md"))
    with Store.open(Path(config["out"]) / "entropy-seed0") as store:
        last = store.metrics()[-1]
        asked = [pick.id for r in range(3) for pick in store.query(r).picks]
    assert f"| accuracy | {last.values['accuracy']:.4f} |" in card
    assert f"fine-tuned on {last.labels} labels" in card
    assert all(f"**{warning}**" in card for warning in found["warnings"])
    assert "The data are synthetic" in card
    assert "- Round 0: 12 examples at random" in data
    assert "no random sample of the pool. They are those a model was unsure of" in data
    assert re.search(r"\| delivery \| \d+ \| \d+ % \| \d+ % \(", data), (
        "the warm start alone estimates the pool's classes"
    )
    labels = [json.loads(line) for line in (folder / "labels.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(labels) == len(asked)
    assert [row["round"] for row in labels] == [0] * 12 + [1] * 2 + [2] * 2
    origin = json.loads((folder / "published.json").read_text(encoding="utf-8"))
    assert str(tmp_path) not in json.dumps(origin["config"]["data"])
    assert origin["metrics"][-1]["accuracy"] == last.values["accuracy"]


def test_the_card_s_program_knows_prompts_with_a_blank_last_column(
    make_config: MakeConfig, demo_data: Path, tmp_path: Path
) -> None:
    """Behind a line end the label words have no space: the program looks at each prompt's end, as the run does."""
    for name in ("pool", "test"):
        with (demo_data / f"{name}.csv").open(encoding="utf-8") as file:
            rows = [{**row, "note": "" if i % 2 else "soon"} for i, row in enumerate(csv.DictReader(file))]
        write_csv(tmp_path / f"{name}.csv", rows)
    data = {
        "preset": None, "folder": None, "pool": str(tmp_path / "pool.csv"), "test": str(tmp_path / "test.csv"),
        "test_limit": 20, "answer": "label", "template": "Message: {text}\n{note}",
    }  # fmt: skip
    config = make_config(**{**SMALL, "data": data}, task={"kind": "choice"}, strategies=["random"])
    loop.run(config)
    publish(config["out"], tmp_path / "hub")
    rows, said = _here(config, "random-seed0", 20)
    assert len({bool(row["note"]) for row in rows}) == 2
    assert "FIRST_BEHIND_SPACE" in _program(tmp_path / "hub")
    assert _elsewhere(tmp_path / "hub", rows) == said


def test_generated_answers_are_the_run_s_own(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        data={
            "preset": None, "folder": None, "pool": str(sums(tmp_path / "sums.jsonl", 60)), "test_share": 0.2,
            "test_limit": 6, "answer": "answer", "template": "Question: {question}\nAnswer:",
        },
        task={"kind": "number", "max_new_tokens": 12},
        query=SMALL["query"], train=SMALL["train"], peft=SMALL["peft"], strategies=["random"],
    )  # fmt: skip
    loop.run(config)
    publish(config["out"], tmp_path / "hub")
    rows, said = _here(config, "random-seed0", 6)
    assert _elsewhere(tmp_path / "hub", rows) == said
    data = (tmp_path / "hub" / "DATA.md").read_text(encoding="utf-8")
    assert "Not stated" in data
    assert "Every example of the pool had the same chance" in data


@pytest.mark.parametrize(
    "peft",
    [
        BOTTLENECK,
        {"peft_type": "GATED_PREFIX"},
    ],
    ids=["bottleneck", "prefix"],
)
def test_an_adapter_of_the_project_s_own_says_what_it_needs(
    make_config: MakeConfig, tmp_path: Path, peft: dict[str, Any]
) -> None:
    config = make_config(
        **{**SMALL, "peft": peft, "data": {"test_limit": 8}}, strategies=["random"]
    )  # fmt: skip
    loop.run(config)
    publish(config["out"], tmp_path / "hub")
    rows, said = _here(config, "random-seed0", 8)
    assert "from guidestar.model.peft import register" in _program(tmp_path / "hub"), "the one import of this library"
    assert _elsewhere(tmp_path / "hub", rows) == said


def test_a_whole_model_and_whole_words(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        **{**SMALL, "peft": {"peft_type": "FULL"}, "data": {"test_limit": 8}}, task={"scoring": "sequence"},
        strategies=["random"],
    )  # fmt: skip
    loop.run(config)
    publish(config["out"], tmp_path / "hub", round=1)
    assert "peft" not in _program(tmp_path / "hub")
    bench = Bench(read_config(config))
    assert bench.dataset.test is not None
    examples = bench.dataset.test.examples
    with Store.open(Path(config["out"]) / "random-seed0") as store:
        adapter = store.adapter(1)
    with adapters.adapted(bench.base, adapter) as model:
        found = predict(bench.base, model, examples, {"label_log_probs"}, bench.dataset.task).arrays["label_log_probs"]
    said = [bench.dataset.task.labels[int(row.argmax())] for row in found[0]]
    assert _elsewhere(tmp_path / "hub", [dict(example.fields) for example in examples]) == said


def test_what_is_no_published_folder_is_left_alone(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(**SMALL, strategies=["random"])
    loop.run(config)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is not a published folder"):
        publish(config["out"], mine)
    with pytest.raises(ConfigError, match="round is 9; allowed: 0, 1, 2"):
        publish(config["out"], round=9)
    assert (mine / "thesis.txt").read_text() == "years of work"

    assert main(["publish", config["out"], "--base", "owner/model", "--quiet"]) == 0
    assert "nothing was uploaded" in capsys.readouterr().out
    folder = Path(config["out"]) / "random-seed0" / "published"
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "owner/model"
    assert "base_model: owner/model" in (folder / "README.md").read_text(encoding="utf-8")

    calls: list[Any] = []

    class Api:
        def create_repo(self, repository: str, **options: Any) -> None:
            calls.append((repository, options))

        def upload_folder(self, **options: Any) -> str:
            calls.append(options)
            if options["repo_id"] == "me/denied":
                raise OSError("403")
            return "https://hub/me/model"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert publish(config["out"], push="me/model")["pushed"] == "https://hub/me/model"
    assert calls[0] == ("me/model", {"private": True, "exist_ok": True})
    assert calls[1]["folder_path"] == str(folder)
    with pytest.raises(ModelError, match="is complete, but pushing it to 'me/denied' failed"):
        publish(config["out"], push="me/denied")


def test_a_run_without_a_round_cannot_be_published(make_config: MakeConfig) -> None:
    config = make_config(**SMALL, strategies=["random"], annotator="people")
    loop.run(config)
    with pytest.raises(StoreError, match="nothing to publish"):
        publish(config["out"])


def test_columns_that_are_no_names_of_python_are_given_by_a_mapping() -> None:
    usage = Usage("base", False, "float32", "{the text}, {{braces}}", False, False)
    assert pieces(usage.template) == [("", "the text"), (", {", None), ("braces}", None)]
    assert call(usage) == "print(predict(**{'the text': '…'}))"


@pytest.mark.parametrize("head", ["classifier", "mean", "features"])
@pytest.mark.parametrize(
    "peft", [{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"}, {"peft_type": "FULL"}]
)
def test_a_classification_head_goes_with_its_adapter(
    make_config: MakeConfig, tmp_path: Path, tiny_encoder_folder: Path, peft: dict[str, Any], head: str
) -> None:
    rate = 0.003 if head == "mean" else 0.001
    changes = {
        "train": {"epochs": 20, "learning_rate": rate if peft["peft_type"] == "FULL" else 0.01},
        "model": {"name": str(tiny_encoder_folder), "dtype": "float32", "head": head},
        "data": {"template": "{text}", "test_limit": 20},
        "query": {**SMALL["query"], "budget": 12},  # one training
    }
    config = make_config(**{**SMALL, **changes, "peft": peft}, strategies=["entropy"])
    loop.run(config)
    publish(config["out"], tmp_path / "hub", license="cc-by-4.0")
    rows, said = _here(config, "entropy-seed0", 20)
    assert len(set(said)) > 1, "a model that always says the same would not test much"
    assert _elsewhere(tmp_path / "hub", rows) == said
