"""Full fine-tuning beside the adapters: the same functions, an untouched base model, folders that say what they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import predict, train
from test_predict import PEFT, choice, examples
from test_train import LABELLED

from guidestar.config import ModelConfig, TrainConfig, parse
from guidestar.errors import ConfigError, ModelError, NoVariance
from guidestar.loop import Run, oracle
from guidestar.model import adapters, full
from guidestar.model.load import load
from guidestar.model.predict import GENERATED
from guidestar.query.strategies import STRATEGIES, check
from guidestar.store.files import sha256

FULL = {"peft_type": "FULL"}
TRAIN = TrainConfig(epochs=4, batch_size=4, learning_rate=1e-3)
NEEDS = {"label_log_probs", "embedding", *GENERATED}


def tuned(base: Any, folder: Path, config: TrainConfig = TRAIN, **options: Any) -> Any:
    folder.mkdir()
    return train(base, FULL, config, LABELLED, choice(), folder, seed=1, **options)


def scores(base: Any, model: Any) -> dict[str, np.ndarray]:
    return dict(predict(base, model, examples(), NEEDS, choice()).arrays)


@pytest.fixture(params=["float32", "bfloat16"])
def either(request: pytest.FixtureRequest, tiny_folder: Path) -> Any:
    return load(ModelConfig(name=str(tiny_folder), dtype=request.param))


def test_it_learns_and_the_base_model_stays_bit_for_bit(either: Any, tmp_path: Path) -> None:
    before = {name: p.clone() for name, p in either.model.state_dict().items()}
    said = scores(either, either.model)
    found = tuned(either, tmp_path / "a")
    assert found.losses[-1] < 0.95 * found.losses[0]
    with adapters.adapted(either, tmp_path / "a") as model:
        changed = [n for n, p in model.state_dict().items() if not torch.equal(p, before[n])]
        assert abs(scores(either, model)["label_log_probs"] - said["label_log_probs"]).max() > 1e-3
        assert len({p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in either.model.parameters()}) == 0
    vectors = {name for name in before if "norm" in name}  # near 1, where bfloat16 has steps of 0.008
    assert set(before) - set(changed) <= (vectors if either.dtype == torch.bfloat16 else set()), "every one is trained"
    after = either.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad for p in either.model.parameters())
    for name, array in scores(either, either.model).items():
        np.testing.assert_array_equal(array, said[name])


def test_the_copy_has_float32_weights_and_tied_ones_stay_tied(either: Any, tmp_path: Path) -> None:
    model = adapters.attach(either, FULL, seed=0)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert len(list(model.parameters())) == len(list(either.model.parameters()))
    assert adapters.anchors(model) == {}, "norm weights that happen to be constant are no B"
    adapters.save(model, tmp_path)
    with adapters.adapted(either, tmp_path) as saved:
        assert saved.lm_head.weight is saved.model.embed_tokens.weight
        assert {p.dtype for p in saved.parameters()} == {either.dtype}
        for name, parameter in either.model.named_parameters():
            assert torch.equal(dict(saved.named_parameters())[name], parameter), "nothing was trained yet"


def test_saving_and_loading_change_no_prediction(base: Any, tmp_path: Path) -> None:
    model = adapters.attach(base, FULL, seed=0)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    model.eval()
    before = scores(base, model)
    adapters.save(model, tmp_path)
    with adapters.adapted(base, tmp_path) as saved:
        after = scores(base, saved)
    for name in NEEDS:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_the_folder_is_a_transformers_model_and_says_what_it_is(either: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tuned(either, tmp_path / "a")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert model.dtype == either.dtype
    assert AutoTokenizer.from_pretrained(tmp_path / "a")("hi")["input_ids"] == either.tokenizer("hi")["input_ids"]
    mark = json.loads((tmp_path / "a" / "guidestar.json").read_text())
    assert mark["kind"] == "full"
    assert mark["fingerprint"] == either.fingerprint
    assert not (tmp_path / "a" / "adapter_config.json").exists()
    again = load(ModelConfig(name=str(tmp_path / "a"), dtype="float32"))  # and may be a base model itself
    assert again.eos == either.eos


def test_the_same_seed_gives_the_same_bytes(either: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        tuned(either, tmp_path / name)
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")


def test_weights_in_several_files(base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned(base, tmp_path / "one")
    monkeypatch.setattr(full, "SHARD", "100KB")
    tuned(base, tmp_path / "many")
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 1
    found = []
    for name in ("one", "many"):
        with adapters.adapted(base, tmp_path / name) as model:
            found.append(scores(base, model)["label_log_probs"])
    np.testing.assert_array_equal(*found)


def test_training_goes_on_from_the_last_model(base: Any, tmp_path: Path) -> None:
    first = tuned(base, tmp_path / "a")
    second = tuned(base, tmp_path / "b", previous=tmp_path / "a")
    assert second.losses[0] < first.losses[0]
    assert sha256(tmp_path / "a") != sha256(tmp_path / "b")


def test_weight_decay_acts_on_every_weight_and_b_decay_on_none(base: Any, tmp_path: Path) -> None:
    """One step from the same weights: AdamW's decay is θ ← θ − γ w θ beside the same gradient step."""
    from safetensors.torch import load_file

    def weights(name: str, **changes: Any) -> dict[str, torch.Tensor]:
        tuned(base, tmp_path / name, TrainConfig(epochs=1, batch_size=8, learning_rate=1e-3, **changes))
        return load_file(tmp_path / name / "model.safetensors")

    plain, decayed, b = (
        weights("plain", b_decay=0.0),
        weights("w", weight_decay=5.0, b_decay=0.0),
        weights("b", b_decay=50.0),
    )
    start = base.model.state_dict()
    for name in plain:
        torch.testing.assert_close(decayed[name], plain[name] - 1e-3 * 5.0 * start[name], rtol=1e-4, atol=1e-6)
        assert torch.equal(plain[name], b[name])


def test_the_copys_memory_is_given_back(base: Any, tmp_path: Path) -> None:
    tuned(base, tmp_path / "a")
    with adapters.adapted(base, tmp_path / "a") as model:
        assert next(model.parameters()).device == base.device
    assert {p.device.type for p in model.parameters()} == {"meta"}, "whoever still holds it holds no memory"


# --- refusals ---


def test_monte_carlo_passes_are_refused(base: Any, tmp_path: Path) -> None:
    for kind in ("choice", "number"):
        (problem,) = check(STRATEGIES["star"], kind, simulation=True, peft=FULL)
        assert problem == (
            "passes is 3, but full fine-tuning has no adapter whose dropout could be sampled, and the model's own stays "
            "off; set passes to 0, or dropout to model where the model was trained with some"
        )
    assert check(STRATEGIES["entropy"], "choice", simulation=True, peft=FULL) == []
    tuned(base, tmp_path / "a")
    with (
        adapters.adapted(base, tmp_path / "a") as model,
        pytest.raises(NoVariance, match="full fine-tuning has no adapter, and the model's own dropout stays off"),
    ):
        predict(base, model, examples(), {"label_log_probs"}, choice(), passes=2)


@pytest.mark.parametrize("options", [{"r": 8}, {"lora_dropout": 0.1, "target_modules": "all-linear"}])
def test_keys_of_adapters_are_refused(base: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"unknown key '(r|lora_dropout)' for FULL; allowed: peft_type alone"):
        adapters.attach(base, FULL | options, seed=0)


def test_a_quantised_base_model_is_refused(base: Any) -> None:
    base.model.hf_quantizer = object()
    with pytest.raises(ConfigError, match="FULL cannot train the quantised weights of"):
        adapters.attach(base, FULL, seed=0)


def test_another_base_model_and_damage_are_refused(base: Any, tmp_path: Path) -> None:
    tuned(base, tmp_path / "a")
    base.fingerprint, kept = "0" * 64, base.fingerprint
    with pytest.raises(
        ModelError, match=r"fine-tuned from a model with the fingerprint .* use the model it was trained"
    ):
        adapters.load_adapter(base, tmp_path / "a")
    base.fingerprint = kept
    weights = tmp_path / "a" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:500])
    with pytest.raises(ModelError, match="the model cannot be loaded"):
        adapters.load_adapter(base, tmp_path / "a")
    (tmp_path / "a" / "guidestar.json").write_text("{}")
    with pytest.raises(ModelError, match="not readable as the mark of a fully fine-tuned model"):
        adapters.load_adapter(base, tmp_path / "a")


def test_weights_that_are_missing_are_not_made_up(base: Any, tmp_path: Path) -> None:
    """transformers would fill them with random numbers."""
    from safetensors.torch import load_file, save_file

    tuned(base, tmp_path / "a")
    weights = load_file(tmp_path / "a" / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "a" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of its tensors, first model.layers.1.mlp.up_proj.weight"):
        adapters.load_adapter(base, tmp_path / "a")


# --- a run ---


@pytest.mark.parametrize("start", ["base", "previous"])
def test_a_run_stopped_anywhere_goes_on_to_the_same_models(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, start: str
) -> None:
    changes = {"peft": FULL, "train": {"learning_rate": 1e-3, "start": start}, "strategies": [_star()]}
    config = make_config(**changes)
    with Run(parse(config | {"out": str(tmp_path / "whole")})) as run:
        run.run(oracle(run.bench.dataset))
        whole = [run.store.adapter(r) for r in range(3)]
        values = [m.values for m in run.metrics()]
    sums = [sha256(folder) for folder in whole]
    for _ in range(3):  # one round each
        with Run(parse(config | {"out": str(tmp_path / "parts")})) as run:
            for example in run.ask():
                run.tell(example.id, run.bench.dataset.gold[example.id])
    shutil.rmtree(run.folder / "adapters" / "round-000")  # trained once more when it is asked for
    with Run(parse(config | {"out": str(tmp_path / "parts")})) as run:
        run.run(oracle(run.bench.dataset))
        assert [sha256(run.tuning.adapter(r)) for r in range(3)] == sums
        assert [m.values for m in run.metrics()] == values


def _star() -> dict[str, Any]:
    """STAR without passes: the base model's entropies beside those of the copy."""
    return {"use": "star", "passes": 0}


def test_the_warm_start_of_two_strategies_is_trained_once(make_config: Callable[..., dict[str, Any]]) -> None:
    from guidestar.loop import run

    config = make_config(peft=FULL, train={"learning_rate": 1e-3}, strategies=[_star(), "random"], query={"budget": 18})
    folders = [Path(config["out"]) / name / "adapters" / "round-000" for name in run(config)]
    assert sha256(folders[0]) == sha256(folders[1])


def test_bad_settings_are_found_before_anybody_labels(make_config: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match="unknown key 'r' for FULL"):
        Run(make_config(peft=FULL | {"r": 4}, strategies=["random"]))
    with pytest.raises(ConfigError, match=r"strategy star: passes is 3, but full fine-tuning has no adapter"):
        Run(make_config(peft=FULL, strategies=["star"]))
    with pytest.raises(ConfigError, match=r"train.b_dropout is 0.1, but full fine-tuning has no LoRA B; leave it out"):
        Run(make_config(peft=FULL, strategies=["random"], train={"b_dropout": 0.1}))


def test_a_type_misspelt_names_full_too(base: Any) -> None:
    with pytest.raises(ConfigError, match=r"peft.peft_type is 'FUL'; did you mean 'FULL'"):
        adapters.attach(base, PEFT | {"peft_type": "FUL"}, seed=0)
