"""Task-adaptive pretraining: its loss beside a literal one, what starts from it, and that it is made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from asked import pretrain as read
from asked import train
from conftest import LABELS
from loops import SMALL, Crash, dumps, nothing_stays  # noqa: F401 - fixtures
from safetensors.torch import load_file
from test_predict import PEFT, choice, examples

from guidestar import loop
from guidestar.asking import Lesson
from guidestar.config import ModelConfig, TaptConfig, TrainConfig
from guidestar.errors import ConfigError, ConfigMismatch, StoreError
from guidestar.loop import Run
from guidestar.model import adapters, heads, pretrain
from guidestar.model.batches import encode_prompts
from guidestar.model.load import load
from guidestar.model.pretrain import OwnPretrainer
from guidestar.model.train import _begun
from guidestar.store.files import sha256

LABELLED = [(e, LABELS[i % 6]) for i, e in enumerate(examples())]
SOME = [e for e, _ in LABELLED]
STILL = TrainConfig(epochs=1, learning_rate=1e-12, b_decay=0.0)


@pytest.fixture
def encoder(tiny_encoder_folder: Path) -> Any:
    base = load(ModelConfig(name=str(tiny_encoder_folder), dtype="float32"), labels=choice().labels)
    base.tokenizer.mask_token = base.tokenizer.convert_ids_to_tokens(35)  # the tiny tokenizer has none
    return base


# --- the loss -------------------------------------------------------------------------------------


def test_the_causal_loss_is_that_of_single_texts(base: Any) -> None:
    rows = encode_prompts(base, SOME)
    found, count = pretrain._loss(base, base.model, None, rows, rows), pretrain._count(base, rows)
    slow = 0.0
    for row in rows:
        logs = torch.log_softmax(base.model(input_ids=torch.tensor([row])).logits[0].double(), -1)
        slow -= sum(float(logs[i, row[i + 1]].detach()) for i in range(len(row) - 1))
    assert count == sum(len(row) - 1 for row in rows)
    assert float(found) == pytest.approx(slow, rel=1e-5)


def test_the_masked_loss_is_that_of_single_texts(encoder: Any) -> None:
    rows = encode_prompts(encoder, SOME)
    inputs, targets = pretrain.masked(encoder, rows, 0.4, np.random.default_rng(0))
    head = pretrain._identity(encoder)
    with torch.no_grad():
        head.weight.add_(0.1)
    found, count = pretrain._loss(encoder, encoder.model, head, inputs, targets), pretrain._count(encoder, targets)
    words = encoder.model.get_input_embeddings().weight
    slow, number = 0.0, 0
    for row, wanted in zip(inputs, targets, strict=True):
        states = encoder.model.base_model(input_ids=torch.tensor([row])).last_hidden_state[0]
        for i, target in enumerate(wanted):
            if target != pretrain.IGNORED:
                slow += F.cross_entropy(head(states[i]) @ words.T, torch.tensor(target)).item()
                number += 1
    assert count == number > 5
    assert found.item() == pytest.approx(slow, rel=1e-4)


def test_masks_have_the_shares_of_the_paper_and_spare_special_tokens(encoder: Any) -> None:
    special = encoder.tokenizer.all_special_ids
    row = [special[0], *[i for i in range(40, 60) if i not in special], special[1]]
    inputs, targets = (np.array(x) for x in pretrain.masked(encoder, [row] * 2000, 0.15, np.random.default_rng(0)))
    own = np.array([row] * 2000)
    wanted = targets != pretrain.IGNORED
    assert not wanted[:, [0, -1]].any()
    np.testing.assert_array_equal(targets[wanted], own[wanted])
    np.testing.assert_array_equal(inputs[~wanted], own[~wanted])
    assert wanted[:, 1:-1].mean() == pytest.approx(0.15, abs=0.01)
    assert (inputs[wanted] == encoder.tokenizer.mask_token_id).mean() == pytest.approx(0.8, abs=0.02)
    assert (inputs[wanted] == own[wanted]).mean() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("peft", [PEFT, {"peft_type": "FULL"}, {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3}])
def test_reading_the_prompts_makes_them_likelier_and_leaves_the_base(base: Any, tmp_path: Path, peft: Any) -> None:
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    config = TaptConfig(epochs=6, learning_rate=5e-3)
    losses = read(base, peft, config, SOME, tmp_path / "a", seed=0)
    assert losses[-1] < losses[0] - 0.05
    for name, tensor in base.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    read(base, peft, config, SOME, tmp_path / "b", seed=0)
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")


def test_parts_of_a_batch_add_up(base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by tokens, and what is learned does not depend on where the bound lies."""
    dry = {**PEFT, "lora_dropout": 0.0}  # masks would differ
    whole = read(base, dry, TaptConfig(epochs=2), SOME, tmp_path / "a", seed=0)
    monkeypatch.setattr(pretrain, "MOST", 40)
    assert read(base, dry, TaptConfig(epochs=2), SOME, tmp_path / "b", seed=0) == pytest.approx(whole)
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in "ab")
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("peft", [{**PEFT, "target_modules": "all-linear"}, {"peft_type": "FULL"}])
def test_an_encoder_reads_too(encoder: Any, tmp_path: Path, peft: Any) -> None:
    config = TaptConfig(epochs=12, learning_rate=5e-3, mask=0.3)
    losses = read(encoder, peft, config, SOME, tmp_path / "a", seed=0)
    assert np.mean(losses[-3:]) < losses[0] - 0.05


def test_without_a_mask_token_there_is_no_masked_model(encoder: Any, tmp_path: Path) -> None:
    encoder.tokenizer.mask_token = None
    assert encoder.tokenizer.mask_token_id is None
    with pytest.raises(ConfigError, match="has no mask token"):
        read(encoder, PEFT, TaptConfig(), SOME, tmp_path / "a", seed=0)


# --- what starts from it --------------------------------------------------------------------------


def test_a_round_starts_from_it_and_b_decays_to_the_start_of_a_fresh_one(base: Any, tmp_path: Path) -> None:
    read(base, PEFT, TaptConfig(epochs=3, learning_rate=5e-3), SOME, tmp_path / "tapt", seed=0)
    train(base, PEFT, STILL, LABELLED, choice(), tmp_path / "a", seed=1, pretrained=tmp_path / "tapt")
    own, later = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("tapt", "a"))
    for name, tensor in own.items():
        torch.testing.assert_close(later[name], tensor, atol=1e-6, rtol=0)
    lesson = Lesson(labelled=LABELLED, seed=1, pretrained=tmp_path / "tapt")
    with _begun(base, PEFT, STILL, lesson) as (model, starts):
        trained = dict(model.named_parameters())
        assert starts
        for name, start in starts.items():
            assert not start.any(), "the fresh adapter's B is 0"
            assert trained[name].abs().max() > 1e-4, "the pretrained one's is not"
    train(base, PEFT, STILL, LABELLED, choice(), tmp_path / "b", seed=1, previous=tmp_path / "a", pretrained=tmp_path)
    again = load_file(tmp_path / "b" / "adapter_model.safetensors")
    for name, tensor in later.items():
        torch.testing.assert_close(again[name], tensor, atol=1e-6, rtol=0, msg="a last adapter comes before it")


@pytest.mark.parametrize("peft", [{**PEFT, "target_modules": "all-linear"}, {"peft_type": "FULL"}])
def test_the_head_is_new_in_every_training(encoder: Any, tmp_path: Path, peft: Any) -> None:
    """It has read no label: its start belongs to the round's seed, as without pretraining."""
    read(encoder, peft, TaptConfig(epochs=1), SOME, tmp_path / "tapt", seed=0)
    found = []
    for seed in (1, 2, 1):
        lesson = Lesson(labelled=LABELLED, seed=seed, pretrained=tmp_path / "tapt")
        with _begun(encoder, peft, STILL, lesson) as (model, _):
            parts = heads.trained(adapters.inner(model))
            found.append([p.detach().clone() for part in parts.values() for p in part.parameters()])
    assert any(not torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[2], strict=True))


# --- in the loop ----------------------------------------------------------------------------------


def test_it_is_made_once_for_all_runs(make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = OwnPretrainer.__call__

    def noted(self: OwnPretrainer, lesson: Lesson, *rest: Any) -> Any:
        made.append(len(lesson.labelled))
        return real(self, lesson, *rest)

    monkeypatch.setattr(OwnPretrainer, "__call__", noted)
    config = make_config(**SMALL, strategies=["star", "random"], seeds=[0, 1], tapt={"epochs": 1})
    loop.run(config)
    pool = len(Run(config).bench.pool)
    assert made == [pool]
    with Run(config, strategy="random", seed=1) as run:
        assert [(r, n) for r, phase, _, n in run.store.timings() if phase == "pretrain"] == [(0, pool)]
    plain = make_config(**SMALL, strategies=["star"], out=str(tmp_path / "plain"))
    loop.run(plain)
    with Run(config, strategy="star") as run, Run(plain) as other:
        assert run.store.query(0) == other.store.query(0), "the warm start is the same"
        assert sha256(run.store.adapter(0)) != sha256(other.store.adapter(0))
        ours, theirs = (one.store.arrays(0, "test_base")["log_probs"] for one in (run, other))
        np.testing.assert_array_equal(ours, theirs, err_msg="the base model's opinion is that of the bare base model")
    with pytest.raises(ConfigMismatch, match=r"tapt\.epochs"):
        Run({**config, "tapt": {"epochs": 2}})


def test_killed_while_reading_it_reads_again_and_ends_the_same(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(**SMALL, strategies=["random"], tapt={"epochs": 1}, out=str(tmp_path / "whole"))
    loop.run(config)

    def dies(*args: Any, **options: Any) -> None:
        raise Crash

    other = {**config, "out": str(tmp_path / "other")}
    with monkeypatch.context() as inner:
        inner.setattr(pretrain, "_fit", dies)
        with pytest.raises(Crash):
            loop.run(other)
    loop.run(other)
    assert dumps(tmp_path / "other") == dumps(tmp_path / "whole")
    (kept,) = (tmp_path / "other" / "cache" / "tapt").glob("tapt-*[0-9a-f]/")
    (kept / "adapter_config.json").write_text("{}")
    with pytest.raises(StoreError, match="has changed since it was written; delete it, it is made again"):
        Run(other).tuning._pretrained(1)


def test_a_study_has_an_adapter_with_and_without_it(demo_data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    from guidestar.study.compose import make_study
    from guidestar.study.studyfile import StudyConfig

    lora = {"peft_type": "LORA", "r": 4}
    study = StudyConfig.model_validate(
        {
            "out": str(tmp_path), "seeds": [0], "strategies": ["random"],
            "datasets": [{"name": "demo", "data": {"preset": "demo", "folder": str(demo_data)}}],
            "models": [{"name": "tiny", "model": {"name": str(tiny_folder)}}],
            "peft": [{"name": "lora", "peft": lora}, {"name": "lora-tapt", "peft": lora, "tapt": {"epochs": 2}}],
        }
    )  # fmt: skip
    cells = make_study(study).cells
    assert [cell.config.tapt and cell.config.tapt.epochs for cell in cells] == [None, 2]
