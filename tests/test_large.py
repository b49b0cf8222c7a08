"""Large models: quantised bases, checkpointing, attention, and how a model gets to its device."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import predict, train
from safetensors.torch import load_file
from test_predict import PEFT, choice, examples
from test_train import LABELLED

from guidestar import config as configs
from guidestar import loop
from guidestar.config import ModelConfig, TrainConfig
from guidestar.errors import ConfigError
from guidestar.model import adapters, load, quantized
from guidestar.model import device as devices
from guidestar.model.batches import Batch, ends, pad_left
from guidestar.model.engine import OwnTrainer
from guidestar.store import Store

NEEDS = frozenset({"label_log_probs", "response_entropy", "gold_nll"})
GOLD = {e.id: answer for e, answer in LABELLED}


def quantised(folder: Path, how: str, **more: Any) -> load.BaseModel:
    return load.load(ModelConfig(name=str(folder), dtype="float32", quantize=how, **more))  # type: ignore[arg-type]


def unpack(base: load.BaseModel, folder: Path) -> load.BaseModel:
    """The plain model whose weights are those of a quantised one, unpacked."""
    import bitsandbytes

    plain = load.load(ModelConfig(name=str(folder), dtype="float32"))
    for name, module in base.model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            plain.model.get_submodule(name).weight.data = weight.float()
        elif isinstance(module, bitsandbytes.nn.Linear8bitLt):
            scale = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
            plain.model.get_submodule(name).weight.data = module.weight.data.float() * scale[:, None] / 127
    return plain


def trained(base: load.BaseModel, folder: Path, peft: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    options = {"epochs": 1, "learning_rate": 5e-3, **more}
    result = train(
        base, peft or {**PEFT, "lora_dropout": 0.0}, TrainConfig(**options), LABELLED, choice(), folder, seed=4
    )
    return {"losses": result.losses, **load_file(folder / "adapter_model.safetensors")}


def scores(base: load.BaseModel, folder: Path | None, passes: int = 0) -> dict[str, np.ndarray]:
    with adapters.adapted(base, folder) as model:
        return dict(predict(base, model, examples(), NEEDS, choice(), passes=passes, gold=GOLD).arrays)


@pytest.mark.parametrize(("how", "near"), [("nf4", 2e-4), ("int8", 0.05)])
def test_a_quantised_model_is_the_plain_one_with_its_weights(
    tiny_folder: Path, tmp_path: Path, how: str, near: float
) -> None:
    """Base passes, training and tuned passes; int8 rounds what enters its layers, too, hence its tolerance."""
    packed = quantised(tiny_folder, how)
    plain = unpack(packed, tiny_folder)
    for name, values in scores(packed, None).items():
        np.testing.assert_allclose(values, scores(plain, None)[name], atol=near, rtol=near)
    one, two = trained(packed, tmp_path / "packed"), trained(plain, tmp_path / "plain")
    np.testing.assert_allclose(one["losses"], two["losses"], rtol=near)
    for name, values in scores(packed, tmp_path / "packed").items():
        np.testing.assert_allclose(values, scores(plain, tmp_path / "plain")[name], atol=10 * near, rtol=10 * near)
    assert quantized.numbers(packed.model) == quantized.numbers(plain.model) == load.describe(packed)["parameters"]


def test_dropout_masks_draw_on_quantised_layers_and_the_base_is_left_alone(tiny_folder: Path, tmp_path: Path) -> None:
    base = quantised(tiny_folder, "nf4")
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    peft = {**PEFT, "lora_dropout": 0.3}
    trained(base, tmp_path / "a", peft, b_dropout=0.2)
    passes = scores(base, tmp_path / "a", passes=4)["label_log_probs"]
    assert (passes.std(axis=0) > 0).all()
    with adapters.adapted(base, tmp_path / "a", b_dropout=0.5) as model:
        both = predict(base, model, examples(), ["label_log_probs"], choice(), passes=4).arrays["label_log_probs"]
    assert not np.array_equal(both, passes)
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_the_fingerprint_says_how_it_is_packed(tiny_folder: Path) -> None:
    names = {load.load(ModelConfig(name=str(tiny_folder), dtype="float32")).fingerprint}
    names |= {quantised(tiny_folder, how).fingerprint for how in ("nf4", "int8")}
    assert len(names) == 3


def test_what_cannot_be_quantised_is_refused(tiny_folder: Path, tiny_encoder_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.quantize is nf4, but .* is an encoder \(bert\)"):
        load.load(ModelConfig(name=str(tiny_encoder_folder), quantize="nf4"), labels=["a", "b"])
    base = quantised(tiny_folder, "nf4")
    base.model.save_pretrained(tmp_path / "packed")
    base.tokenizer.save_pretrained(tmp_path / "packed")
    with pytest.raises(ConfigError, match=r"is quantised already \(.*bitsandbytes.*\); leave it out"):
        quantised(tmp_path / "packed", "nf4")
    again = load.load(ModelConfig(name=str(tmp_path / "packed"), dtype="float32"))
    np.testing.assert_array_equal(scores(again, None)["gold_nll"], scores(base, None)["gold_nll"])
    for options, words in (
        ({"init_lora_weights": "loftq", "loftq_config": {}}, "loftq"), ({"use_qalora": True}, "GPTQ")
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            adapters.attach(base, {**PEFT, **options}, seed=0)
    with pytest.raises(ConfigError, match=r"model.score_dtype is set together with model.quantize"):
        configs.parse({"model": {"quantize": "nf4", "score_dtype": "float32"}})
    with pytest.raises(ConfigError, match=r"model.quantize is set together with peft_type FULL"):
        configs.parse({"model": {"quantize": "nf4"}, "peft": {"peft_type": "FULL"}})


def test_a_run_on_a_quantised_model_goes_on_and_is_published(
    make_config: Callable[..., dict[str, Any]], tiny_folder: Path, tmp_path: Path
) -> None:
    """Stopped after its first rounds and continued, it is the uninterrupted one; the card's program predicts alike."""
    from guidestar.publish import publish
    from guidestar.scoring import predict_file

    def config(out: str, **query: int) -> dict[str, Any]:
        return make_config(
            out=str(tmp_path / out), model={"name": str(tiny_folder), "dtype": "float32", "quantize": "nf4"},
            strategies=["entropy"], query={"warm_start": 8, "batch": 4, "candidates": 20, **query}, train={"epochs": 1},
        )  # fmt: skip

    loop.run(config("whole", budget=16))
    loop.run(config("parts", budget=12))
    loop.run(config("parts", budget=16))
    picks = []
    for out in ("whole", "parts"):
        with Store.open(tmp_path / out / "entropy-seed0") as store:
            picks.append([[pick.id for pick in store.query(r).picks] for r in range(store.rounds())])
            assert store.facts["model"]["quantize"] == "nf4"
    assert picks[0] == picks[1]
    folder = tmp_path / "whole" / "entropy-seed0"
    place = Path(publish(folder)["folder"])
    card = (place / "README.md").read_text()
    assert "NF4" in card
    source = card.partition("```python\n")[2].partition("```")[0]
    assert "load_in_4bit=True" in source
    here = os.getcwd()
    os.chdir(place)
    try:
        scope: dict[str, Any] = {}
        source = "\n".join(line for line in source.splitlines() if not line.startswith("print("))
        exec(source, scope)
    finally:
        os.chdir(here)
    texts = [example.fields["text"] for example in loop.Run(config("whole", budget=16)).bench.dataset.pool[:12]]
    (file := tmp_path / "new.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    ours = [row["answer"] for row in predict_file(folder, configs.load(folder), str(file))]
    assert ours == [scope["predict"](text=text) for text in texts]


def test_checkpointing_is_the_same_training(base: Any, tmp_path: Path) -> None:
    """With dropout: the second computation draws the masks of the first."""
    peft = {**PEFT, "lora_dropout": 0.2}
    one, two = (trained(base, tmp_path / str(on), peft, checkpointing=on) for on in (False, True))
    assert one["losses"] == two["losses"]
    assert all(torch.equal(value, two[name]) for name, value in one.items() if name != "losses")
    names = [OwnTrainer(base, choice(), peft, TrainConfig(checkpointing=on)).plain() for on in (None, True)]
    assert names[0] == names[1], "it decides about memory alone, so an adapter is kept under the same name"
    kept = {"saved": 0}

    def count(on: bool) -> int:
        kept["saved"] = 0
        model = adapters.attach(base, peft, seed=0)
        model.train()
        from guidestar.model import step

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept["saved"] += tensor.numel()
            return tensor

        batch = pad_left([[5] * 60], base.pad, base.device)
        with step.checkpointed(model, on), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(**batch.inputs())
        adapters.detach(model)
        return kept["saved"]

    assert count(True) < count(False) / 2


def test_checkpointing_is_refused_for_prefixes(base: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.checkpointing is on, but PREFIX_TUNING"):
        trained(base, tmp_path / "a", {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4}, checkpointing=True)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "auto"])
def test_the_attention_is_the_one_that_is_asked_for(base: Any, tiny_folder: Path, attention: Any) -> None:
    other = load.load(ModelConfig(name=str(tiny_folder), dtype="float32", attention=attention, device_map="auto"))
    wanted = base.model.config._attn_implementation if attention == "auto" else attention
    assert other.model.config._attn_implementation == wanted
    for name, values in scores(base, None).items():
        np.testing.assert_allclose(values, scores(other, None)[name], rtol=1e-4)
    with pytest.raises(
        ConfigError, match=r"model.attention is flash_attention_2, which needs .* allowed: auto, eager, sdpa"
    ):
        load.load(ModelConfig(name=str(tiny_folder), device="cpu", attention="flash_attention_2"))


def test_weights_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDESTAR_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.safetensors"
    reads: list[int] = []
    real = hashlib.file_digest

    def counted(*given: Any) -> Any:
        reads.append(1)
        return real(*given)

    monkeypatch.setattr(hashlib, "file_digest", counted)

    def digest(content: bytes, age: float) -> int:
        file.write_bytes(content)
        os.utime(file, ns=(0, int((1_700_000_000 - age) * 1e9)))
        reads.clear()
        assert load._sha256(file) == hashlib.sha256(content).digest()
        return len(reads)

    content = bytes(load.LARGE)
    assert [digest(content, 1), digest(content, 1)] == [1, 0], "read once"
    assert digest(content[:-1] + b"1", 2) == 1, "another time of change, another content"
    assert digest(content + b"1", 2) == 1, "another size"
    assert [digest(b"small", 1), digest(b"small", 1)] == [1, 1], "small files are read"
    (tmp_path / "cache" / load.HASHES).write_text("{broken")
    assert digest(content, 1) == 1
    blobs = tmp_path / "hub" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / hashlib.sha256(content).hexdigest()).write_bytes(content)
    link = tmp_path / "hub" / "model.safetensors"
    link.symlink_to(blobs / hashlib.sha256(content).hexdigest())
    reads.clear()
    assert load._sha256(link) == hashlib.sha256(content).digest()
    assert not reads, "the hub's name is the hash"


def test_a_file_that_was_just_written_is_not_trusted_by_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUIDESTAR_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.safetensors"
    for content in (bytes(load.LARGE), b"1" * load.LARGE):
        file.write_bytes(content)
        assert load._sha256(file) == hashlib.sha256(content).digest()
    assert not (tmp_path / "cache" / load.HASHES).exists()


def test_other_generators_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeds every GPU"))
    torch.random.default_generator.manual_seed(7)
    before = torch.random.get_rng_state()
    with devices.seeded(3, torch.device("cpu")):
        ours = torch.rand(4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(ours, torch.rand(4, generator=torch.Generator().manual_seed(3))), "the numbers of before"


def test_without_a_mask_a_full_batch_says_the_same(base: Any) -> None:
    batch = pad_left([[5, 6, 7, 8], [9, 8, 7, 6]], base.pad, base.device)
    assert not batch.bare, "on a CPU the mask stays: its kernels take one, and bits are promised there"
    bare = Batch(batch.ids, batch.mask, batch.positions, bare=True)
    assert "attention_mask" not in bare.inputs()
    with torch.inference_mode():
        torch.testing.assert_close(base.model(**bare.inputs()).logits, base.model(**batch.inputs()).logits)


def test_ends_are_the_places_of_a_mask() -> None:
    lengths, width = [2, 0, 4, 1], 4
    mask = torch.arange(width) >= (width - torch.tensor(lengths))[:, None]
    rows, places = torch.nonzero(mask, as_tuple=True)
    found = ends(lengths, width, torch.device("cpu"))
    assert torch.equal(found[0], rows)
    assert torch.equal(found[1], places)


def test_the_probe_takes_the_largest_batch_that_pays(base: Any) -> None:
    asked: list[int] = []

    def seconds(tokens: int) -> float:
        asked.append(tokens)
        return 1.0 + tokens / 1000

    assert devices.largest_worth(seconds, 4096) == 16384, "beyond it a token is hardly cheaper"
    assert asked == [4096, 8192, 16384, 32768]
    assert devices.largest_worth(lambda tokens: None if tokens > 3000 else 1.0, 512) == 2048, "memory ends it"
    assert devices.largest_worth(lambda tokens: None, 512) == devices.PROBE, "nothing fits: the least is tried"
    ticks = iter(range(100))
    assert devices.timed_pass(base.model, base.device, lambda: float(next(ticks)))(512) == 1.0
