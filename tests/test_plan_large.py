"""The plan of a model of 7 billion parameters, on paper: its sizes from a configuration without weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from guidestar import config as configs
from guidestar.metrics import memory
from guidestar.metrics.memory import GIB
from guidestar.model import device as devices
from guidestar.model.sizes import sizes_of
from guidestar.study import fit
from guidestar.tasks import make_task

LORA = {"peft_type": "LORA", "r": 64, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": "all-linear"}
LENGTHS = fit.Lengths(mean=100, usual=200, longest=512, response=2)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of Llama-2-7B, and a file of weights that nobody reads."""
    from transformers import LlamaConfig

    folder = tmp_path_factory.mktemp("llama") / "7b"
    LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        max_position_embeddings=4096, tie_word_embeddings=False,
    ).save_pretrained(folder)  # fmt: skip
    (folder / "model.safetensors").touch()
    return folder


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "named", lambda name: torch.device("cuda"))


def sized(folder: Path, **model: Any) -> tuple[configs.RunConfig, memory.Shape, memory.Adapter]:
    train = {"micro_batch_size": 4} | model.pop("train", {})
    given = {"name": str(folder), "dtype": "bfloat16", **model}
    config = configs.parse(
        {"data": {"preset": "demo"}, "model": given, "peft": LORA, "train": {"batch_size": 8, **train}}
    )
    return config, *sizes_of(config)


def peak(config: configs.RunConfig, *sizes: Any) -> dict[str, Any]:
    task = make_task(configs.TaskConfig(kind="choice", labels=["a", "b"]), [], "{answer}")
    return fit.peaks(config, *sizes, LENGTHS, task)


@pytest.mark.usefixtures("on_gpu")
def test_the_constants_of_llama_7b(llama: Path) -> None:
    _, shape, adapter = sized(llama)
    layer = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    assert shape.parameters == 2 * 32000 * 4096 + 32 * layer + 4096 == 6_738_415_616
    one = 64 * (4 * 2 * 4096 + 2 * (4096 + 11008) + (11008 + 4096))
    assert adapter.numbers == 32 * one == 159_907_840
    parts = memory.training(shape, adapter, rows=4, tokens=200, response=2)
    assert round(parts["weights"] / GIB, 2) == 12.55
    assert parts["adapter"] + parts["gradients"] + parts["optimiser"] == 16 * 159_907_840
    assert adapter.mask == 1, "a GPU's masks are bool"
    inputs = 32 * (4 * 4096 + 2 * 4096 + 11008)
    on_cpu = memory.Adapter(adapter.numbers, adapter.inputs, adapter.depth, mask=4)
    less = memory.activation_bytes(shape, on_cpu) - memory.activation_bytes(shape, adapter)
    assert less == 3 * inputs, "three bytes for each element of what enters an adapted layer"


@pytest.mark.usefixtures("on_gpu")
def test_quantised_it_is_packed_and_its_work_is_not(llama: Path) -> None:
    _, whole, adapter = sized(llama)
    config, shape, same = sized(llama, quantize="nf4")
    linear = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert (shape.parameters, shape.packed, shape.largest) == (whole.parameters, linear, 4096 * 11008)
    assert same.numbers == adapter.numbers
    kept = (shape.parameters - linear) * 2 + linear * (4 + 8 / 64 + 32 / 16384) / 8
    assert shape.weights == pytest.approx(kept)
    assert 3.5 < shape.weights / GIB < 3.7
    found = peak(config, shape, same)
    assert found["training"].parts["weights"] == shape.weights
    assert found["training"].parts["activations"] == pytest.approx(
        memory.training(whole, adapter, 4, 202, 2)["activations"] + 4096 * 11008 * 2
    ), "activations are those of the whole model, and a layer is unpacked at a time"


@pytest.mark.usefixtures("on_gpu")
def test_it_fits_where_it_fits(llama: Path) -> None:
    """48 GB hold a training of 8 rows of 500 tokens; checkpointing and 4 bits bring it to 24 GB and below."""
    config, shape, adapter = sized(llama)
    sizes: list[Any] = [shape, adapter]
    eight = [sum(memory.training(shape, one, 8, 500, 2).values()) for one in (adapter, replace(adapter, mask=4))]
    assert eight[0] < 48e9 < eight[1], "with a CPU's masks it would have been refused"
    usual = peak(config, *sizes)["training"].range[0]
    assert usual < 48e9
    again, *sizes = sized(llama, train={"checkpointing": True})
    less = peak(again, *sizes)["training"]
    assert less.range[0] < usual
    assert less.parts["activations"] < 0.1 * peak(config, *sizes)["training"].parts["activations"]
    both, *sizes = sized(llama, quantize="nf4", train={"checkpointing": True})
    assert peak(both, *sizes)["training"].range[1] < 12e9


@pytest.mark.usefixtures("on_gpu")
def test_scoring_in_another_precision_keeps_both(llama: Path) -> None:
    config, *sizes = sized(llama)
    other, *_ = sized(llama, score_dtype="float32")
    parts = peak(config, *sizes)["scoring"].parts
    wide = peak(other, *sizes)["scoring"].parts
    assert wide["weights"] == parts["weights"] * 3, "two bytes a number, and four beside them"
    assert wide["adapter"] == 2 * parts["adapter"]
    assert wide["working"] > parts["working"]
