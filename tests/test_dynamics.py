"""What a training records of what the model says, and the probe `forgetting` made of it."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import predict, train
from conftest import LABELS
from test_predict import PEFT, choice, examples, ragged

from guidestar import loop
from guidestar.cli.main import main
from guidestar.config import ModelConfig, TaskConfig, TrainConfig
from guidestar.errors import ConfigError, StoreError
from guidestar.metrics.dynamics import from_arrays
from guidestar.model import adapters
from guidestar.model.batches import encode_answer, encode_prompts
from guidestar.model.load import load
from guidestar.store import Store
from guidestar.study.probes import probe
from guidestar.study.probes.forgetting import NEVER
from guidestar.tasks import make_task

LABELLED = [(e, LABELS[i % 6]) for i, e in enumerate(examples())]
DRY = {**PEFT, "lora_dropout": 0.0}
STILL = {"learning_rate": 1e-12, "warmup": 0.0, "b_decay": 0.0}  # steps that change nothing to be seen


def said_after(base: Any, folder: Path, task: Any, needs: set[str], **options: Any) -> Any:
    with adapters.adapted(base, folder) as model:
        return predict(base, model, [e for e, _ in LABELLED], needs, task, **options).arrays


# --- what is recorded -----------------------------------------------------------------------------


@pytest.mark.parametrize("response", ["{answer}", "the topic is {answer}"])
@pytest.mark.parametrize("micro", [None, 1])
def test_a_choice_is_heard_over_its_labels(base: Any, tmp_path: Path, response: str, micro: int | None) -> None:
    """Without dropout and without a step that counts, every epoch hears what a plain pass says."""
    task = choice(response=response)
    config = TrainConfig(epochs=3, batch_size=4, micro_batch_size=micro, **STILL)
    found = train(base, DRY, config, LABELLED, task, tmp_path / "a", seed=0).dynamics
    assert found is not None
    assert (found.over, found.ids) == ("labels", tuple(e.id for e, _ in LABELLED))
    log_probs = said_after(base, tmp_path / "a", task, {"label_log_probs"})["label_log_probs"][0]
    gold = [task.labels.index(a) for _, a in LABELLED]
    for epoch in range(3):
        np.testing.assert_allclose(found.log_probs[epoch], log_probs[np.arange(len(gold)), gold], atol=1e-4)
        np.testing.assert_array_equal(found.correct[epoch], log_probs.argmax(-1) == gold)


def test_rows_with_other_joints_are_heard_by_their_own_label_words(base: Any, tmp_path: Path) -> None:
    """Half of the prompts end in a line end, behind which a label word has no space."""
    task = choice()
    labelled = [(e, LABELS[i % 6]) for i, e in enumerate(ragged())]
    found = train(
        base, DRY, TrainConfig(epochs=1, batch_size=4, **STILL), labelled, task, tmp_path / "a", seed=0
    ).dynamics
    assert found is not None
    with adapters.adapted(base, tmp_path / "a") as model:
        said = predict(base, model, ragged(), {"label_log_probs"}, task).arrays["label_log_probs"][0]
    gold = [task.labels.index(a) for _, a in labelled]
    np.testing.assert_allclose(found.log_probs[0], said[np.arange(len(gold)), gold], atol=1e-4)


@pytest.mark.parametrize("kind", ["text", "sequence"])
def test_other_answers_are_heard_over_the_response(base: Any, tmp_path: Path, kind: str) -> None:
    task = choice("sequence") if kind == "sequence" else make_task(TaskConfig(kind="text"), [], "{answer}")
    labelled = [(e, "I don't know" if kind == "text" and i % 2 else answer) for i, (e, answer) in enumerate(LABELLED)]
    config = TrainConfig(epochs=2, batch_size=4, **STILL)
    found = train(base, DRY, config, labelled, task, tmp_path / "a", seed=0).dynamics
    assert found is not None
    assert found.over == "response"
    gold = {e.id: answer for e, answer in labelled}
    arrays = said_after(base, tmp_path / "a", task, {"gold_nll"}, gold=gold)
    np.testing.assert_allclose(found.log_probs[0], -arrays["gold_nll"][0], atol=1e-3)
    with adapters.adapted(base, tmp_path / "a") as model, torch.inference_mode():
        for i, (example, answer) in enumerate(labelled):
            prompt, response = encode_prompts(base, [example])[0], encode_answer(base, task, example, answer)
            logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
            assert bool(found.correct[0, i]) == (logits.argmax(-1).tolist() == response)


@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_a_classification_head_is_heard(
    tiny_folder: Path, tiny_encoder_folder: Path, tmp_path: Path, kind: str
) -> None:
    task = choice()
    folder = tiny_encoder_folder if kind == "encoder" else tiny_folder
    base = load(ModelConfig(name=str(folder), dtype="float32", head="classifier"), labels=task.labels)
    peft = {**DRY, "target_modules": "all-linear"}
    found = train(
        base, peft, TrainConfig(epochs=2, batch_size=4, **STILL), LABELLED, task, tmp_path / "a", seed=0
    ).dynamics
    assert found is not None
    log_probs = said_after(base, tmp_path / "a", task, {"label_log_probs"})["label_log_probs"][0]
    gold = [task.labels.index(a) for _, a in LABELLED]
    if kind == "causal":  # the encoder's own dropout is on in training
        np.testing.assert_allclose(found.log_probs[1], log_probs[np.arange(len(gold)), gold], atol=1e-4)
    assert found.over == "labels"
    assert found.log_probs.shape == (2, len(LABELLED))


def test_it_is_heard_before_the_step_and_with_dropout_on(base: Any, tmp_path: Path) -> None:
    whole = {"epochs": 2, "batch_size": 64, "b_decay": 0.0, "warmup": 0.0}
    task = choice()
    model = adapters.attach(base, DRY, seed=0)  # B is 0: the base model's opinion
    log_probs = predict(base, model, [e for e, _ in LABELLED], {"label_log_probs"}, task).arrays["label_log_probs"][0]
    adapters.detach(model)
    fast = train(base, DRY, TrainConfig(learning_rate=0.05, **whole), LABELLED, task, tmp_path / "a", seed=0).dynamics
    assert fast is not None
    gold = [task.labels.index(a) for _, a in LABELLED]
    np.testing.assert_allclose(fast.log_probs[0], log_probs[np.arange(len(gold)), gold], atol=1e-4)
    assert (np.abs(fast.log_probs[1] - fast.log_probs[0]) > 0.01).any()
    wet = {**DRY, "lora_dropout": 0.5, "init_lora_weights": False}
    still = {**whole, **STILL}
    heard = train(base, wet, TrainConfig(**still), LABELLED, task, tmp_path / "b", seed=0).dynamics
    assert heard is not None
    assert (heard.log_probs[0] != heard.log_probs[1]).all(), "other masks in every epoch"


def test_listening_changes_no_bit_of_the_training(base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidestar.model import train as train_room
    from guidestar.store.files import sha256

    config = TrainConfig(epochs=2, batch_size=4, learning_rate=5e-3)
    train(base, PEFT, config, LABELLED, choice(), tmp_path / "heard", seed=1)
    real = train_room._loss
    monkeypatch.setattr(train_room, "_loss", lambda base, model, rows, listener=None: real(base, model, rows))
    train(base, PEFT, config, LABELLED, choice(), tmp_path / "deaf", seed=1)
    assert sha256(tmp_path / "heard") == sha256(tmp_path / "deaf")


def test_an_epoch_that_a_schedule_cuts_off_is_left_out(base: Any, tmp_path: Path) -> None:
    steps = -(-len(LABELLED) // 4)
    config = TrainConfig(epochs=3, batch_size=4, schedule_steps=steps + 1)
    found = train(base, DRY, config, LABELLED, choice(), tmp_path / "a", seed=0).dynamics
    assert found is not None
    assert found.log_probs.shape == found.correct.shape == (1, len(LABELLED))


# --- in the loop, and the probe -------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, demo_data: Path, tiny_folder: Path) -> Path:
    out = tmp_path_factory.mktemp("dynamics") / "run"
    loop.run(
        {
            "out": str(out),
            "strategies": ["entropy", "random"],
            "data": {"preset": "demo", "folder": str(demo_data), "test_limit": 10, "pool_limit": 60},
            "model": {"name": str(tiny_folder), "dtype": "float32"},
            "query": {"warm_start": 16, "batch": 6, "budget": 28},
            "peft": {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
            "train": {"epochs": 4, "batch_size": 8, "learning_rate": 2e-2},
        }
    )
    return out


@pytest.fixture
def experiment(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_every_round_of_every_run_has_them(finished: Path) -> None:
    found = []
    for name in ("entropy-seed0", "random-seed0"):
        with Store.open(finished / name) as store:
            for r in range(3):
                said = from_arrays(store.arrays(r, "dynamics"))
                ids = [e.id for e, _ in store.annotations.labelled(r)]
                assert said.ids == tuple(ids)
                assert said.log_probs.shape == (4, len(ids))
                assert (said.log_probs < 0).all()
            found.append(store.arrays(0, "dynamics"))
    for array, other in zip(found[0].values(), found[1].values(), strict=True):
        np.testing.assert_array_equal(array, other, err_msg="the warm start is trained once and its record shared")


def literal_events(sequence: list[bool]) -> int:
    if not any(sequence):
        return NEVER
    return sum(a and not b for a, b in itertools.pairwise(sequence))


def test_the_probe_counts_what_the_training_recorded(experiment: Path) -> None:
    run = experiment / "entropy-seed0"
    found = probe(run, "forgetting")
    facts = found.facts
    with Store.open(run) as store:
        said = from_arrays(store.arrays(2, "dynamics"))
        asked = {r: {p.id for p in store.query(r).picks} for r in range(3)}
    events = {id: literal_events(said.correct[:, i].tolist()) for i, id in enumerate(said.ids)}
    assert (facts["round"], facts["epochs"], facts["examples"], facts["over"]) == (2, 4, 28, "labels")
    assert sum(facts["events"].values()) == 28
    assert facts["events"]["never"] == sum(e == NEVER for e in events.values())
    assert facts["events"]["1"] == sum(e == 1 for e in events.values())
    for name, ids in (("warm start", asked[0]), ("round 2", asked[2]), ("entropy", asked[1] | asked[2])):
        group = facts["groups"][name]
        assert group["examples"] == len(ids)
        assert group["never"] == pytest.approx(np.mean([events[id] == NEVER for id in ids]))
        rows = [i for i, id in enumerate(said.ids) if id in ids]
        assert group["confidence"] == pytest.approx(np.exp(said.log_probs[:, rows]).mean())
        assert group["variability"] == pytest.approx(np.exp(said.log_probs[:, rows]).std(axis=0).mean())
        assert sum(group["regions"].values()) == pytest.approx(1.0)
    assert facts["groups"]["random"]["regions"] is None, "thirds of another map"
    with Store.open(experiment / "random-seed0") as store:
        other = from_arrays(store.arrays(2, "dynamics"))
        late = {p.id for r in (1, 2) for p in store.query(r).picks}
    rows = [i for i, id in enumerate(other.ids) if id in late]
    assert facts["groups"]["random"]["confidence"] == pytest.approx(np.exp(other.log_probs[:, rows]).mean())
    assert {p.suffix for p in found.files} == {".png", ".pdf", ".csv", ".json"}
    with (run / "probes" / "forgetting.csv").open(newline="", encoding="utf-8") as file:
        table = {row["group"]: row for row in csv.DictReader(file)}
    assert list(table) == ["all", "warm start", "round 1", "round 2", "entropy", "random"]
    assert float(table["entropy"]["confidence"]) == facts["groups"]["entropy"]["confidence"]
    assert "picks of random" in " ".join(found.sentences)


def test_an_earlier_round_knows_its_own_picks_alone(experiment: Path) -> None:
    facts = probe(experiment / "entropy-seed0", "forgetting", round=1).facts
    assert "round 2" not in facts["groups"]
    assert facts["groups"]["entropy"]["examples"] == facts["groups"]["random"]["examples"] == 6


def test_on_the_whole_pool_the_strategies_share_one_map(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = probe(experiment / "entropy-seed0", "forgetting", pool=True).facts
    assert (facts["on"], facts["round"], facts["examples"]) == ("pool", None, 60)
    assert facts["groups"]["entropy"]["examples"] == facts["groups"]["random"]["examples"] == 12
    assert facts["groups"]["random"]["regions"] is not None
    from guidestar.model.train import OwnTrainer

    monkeypatch.setattr(OwnTrainer, "__call__", None)  # the second time it is read from the disk
    again = probe(experiment / "entropy-seed0", "forgetting", pool=True).facts
    assert again == facts


def test_the_command_line_has_it(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", str(experiment / "entropy-seed0"), "forgetting", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["probe"] == "forgetting"


def test_what_it_cannot_say(experiment: Path) -> None:
    run = experiment / "entropy-seed0"
    with pytest.raises(ConfigError, match=r"round is 7; allowed: 0, 1, 2"):
        probe(run, "forgetting", round=7)
    with pytest.raises(ConfigError, match="give either round or pool"):
        probe(run, "forgetting", round=1, pool=True)
    for r in range(3):
        (run / "arrays" / f"round-{r:03d}-dynamics.safetensors").unlink()
    with pytest.raises(StoreError, match="no training has kept what the model said"):
        probe(run, "forgetting")
