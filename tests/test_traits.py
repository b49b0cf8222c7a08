"""What a model's files lack, hide or promise is found at loading: tiny models saved with one thing wrong each."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import predict

from guidestar.asking import Ask
from guidestar.config import ModelConfig, TaskConfig
from guidestar.errors import ConfigError, DataError, ModelError
from guidestar.model import adapters, batches, classify, heads, load, sources, traits
from guidestar.records import Example
from guidestar.tasks import make_task

LABELS = ("good", "bad")
SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def saved(folder: Path, family: str, what: str = "CausalLM", form: str = "<s> $A", **config: Any) -> Path:
    """A random model with a tokenizer of single bytes; form: what the tokenizer puts around a text."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        [], trainers.BpeTrainer(special_tokens=SPECIAL, show_progress=False, initial_alphabet=alphabet)
    )
    raw.post_processor = processors.TemplateProcessing(
        single=form, special_tokens=[(token, raw.token_to_id(token)) for token in SPECIAL]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>", cls_token="<s>", sep_token="</s>",
        mask_token="<mask>",
    )  # fmt: skip
    options = {**SHAPE, "vocab_size": len(tokenizer), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, **config}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}For{what}" if what else f"{family}Model")(
            getattr(transformers, f"{family}Config")(**options)
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def loaded(folder: Path, **config: Any) -> load.BaseModel:
    return load.load(ModelConfig(name=str(folder), dtype="float32", **config), labels=LABELS)


def example(text: str) -> Example:
    return Example("0" * 16, {"text": text}, text, "pool.csv line 2")


def test_an_adapter_beside_the_model_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "Llama")
    base = loaded(folder)
    model = adapters.attach(base, {"r": 2, "target_modules": ["q_proj"]}, seed=0)
    adapters.save(model, tmp_path / "adapter")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "adapter" / name, folder / name)
    with pytest.raises(ModelError, match="an adapter lies beside the model"):
        loaded(folder)
    with pytest.raises(ModelError, match=r"is an adapter and no model; model\.name must name the model it belongs to"):
        loaded(tmp_path / "adapter")


@pytest.mark.parametrize("family", ["Bert", "Albert"])
@pytest.mark.parametrize("peft", [{"target_modules": "all-linear"}, {"peft_type": "FULL"}], ids=["lora", "full"])
def test_what_the_files_lack_below_the_head_is_trained_and_saved(
    family: str, peft: dict[str, Any], tmp_path: Path
) -> None:
    """A masked language model has no pooler; the one that is drawn at loading belongs to the head."""
    small = {"embedding_size": 16} if family == "Albert" else {}
    folder = saved(tmp_path / "model", family, "MaskedLM", form="<s> $A </s>", **small)
    base = loaded(folder)
    drawn = f"{family.lower()}.pooler"
    assert heads.names(base.model) == ["classifier", drawn]
    before = base.model.get_submodule(drawn)
    model = adapters.attach(base, peft if "peft_type" in peft else {"r": 2, **peft}, seed=0)
    own = heads.trained(adapters.inner(model))[drawn]
    assert all(p.requires_grad for p in own.parameters())
    tensors = {name: p.detach().clone() for name, p in own.state_dict().items()}
    adapters.save(model, tmp_path / "adapter")
    adapters.detach(model)
    assert base.model.get_submodule(drawn) is before
    other = loaded(folder)
    for p in other.model.get_submodule(drawn).parameters():  # plain transformers draws it anew in every process
        p.data.normal_()
    with adapters.adapted(other, tmp_path / "adapter") as again:
        answered = heads.trained(adapters.inner(again))[drawn].state_dict()
        assert all(torch.equal(answered[name], tensor) for name, tensor in tensors.items())


def test_a_pooler_that_is_there_is_no_part_of_the_head(tmp_path: Path) -> None:
    base = loaded(saved(tmp_path, "Bert", "", form="<s> $A </s>"))
    assert heads.names(base.model) == ["classifier"]


@pytest.mark.parametrize(("family", "what"), [("Llama", ""), ("Bert", "MaskedLM")])
def test_weights_that_are_not_all_there_are_refused(family: str, what: str, tmp_path: Path) -> None:
    """A Llama without its vocabulary projection; a BERT without one of its layers."""
    folder = saved(tmp_path, family, what, form="<s> $A </s>", **({"num_hidden_layers": 2} if what else {}))
    if what:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        save_file(
            {k: v for k, v in weights.items() if "layer.1." not in k}, folder / "model.safetensors", {"format": "pt"}
        )
    first = "bert.encoder.layer.1" if what else "lm_head.weight"
    with pytest.raises(
        ModelError, match=rf"the weights of .* are not all there: \d+ tensors are missing, first {first}"
    ):
        loaded(folder)


def test_an_end_token_that_the_tokenizer_appends_is_no_part_of_a_prompt(tmp_path: Path) -> None:
    base = loaded(saved(tmp_path, "Llama", form="<s> $A </s>"))
    assert base.closing == (2,)
    (row,) = batches.encode_prompts(base, [example("ab")])
    assert row == [0, *base.tokenizer("ab", add_special_tokens=False)["input_ids"]]
    (typed,) = batches.encode_prompts(base, [example("ab</s>")])
    assert typed == [*row, 2], "one that the text holds itself stays"
    older = load.as_begun(base, {"fingerprint": base.fingerprint})
    assert batches.encode_prompts(older, [example("ab")]) == [[*row, 2]], "a run that was begun with it goes on so"
    assert load.as_begun(base, load.describe(base)) is base


@pytest.mark.parametrize(
    ("form", "behind"), [("<s> $A <mask>", (4,)), ("<s> $A <mask> </s>", (4, 2)), ("<s> <mask> $A", ())]
)
def test_any_control_token_behind_a_prompt_is_taken_off(form: str, behind: tuple[int, ...], tmp_path: Path) -> None:
    """Whatever it is called: Chinese GPT-2 comes with BERT's tokenizer, which appends [SEP]."""
    base = loaded(saved(tmp_path, "Llama", form=form))
    assert base.closing == behind
    (row,) = batches.encode_prompts(base, [example("ab")])
    assert row[-1] == base.tokenizer("b", add_special_tokens=False)["input_ids"][-1]


def test_a_classification_head_keeps_its_end_token(tmp_path: Path) -> None:
    base = loaded(saved(tmp_path, "Bert", "MaskedLM", form="<s> $A </s>"))
    assert batches.encode_prompts(base, [example("ab")])[0][-1] == 2


def test_control_tokens_in_texts_are_counted(tmp_path: Path) -> None:
    base = loaded(saved(tmp_path, "Llama"))
    texts = [example("plain </ s>"), example("a</s>b</s>"), example("</s><mask>")]
    assert batches.control_tokens(base, texts) == {"</s>": 2, "<mask>": 1}


def grown(folder: Path) -> None:
    """A pad token in the tokenizer alone."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)


def test_a_pad_token_beyond_the_embeddings(tmp_path: Path) -> None:
    folder = saved(tmp_path, "Llama")
    grown(folder)
    base = loaded(folder)
    assert base.tokenizer.pad_token_id == base.vocabulary
    assert base.pad == 2
    rows = batches.encode_prompts(base, [example("a"), example("abc")])
    batch = batches.prompt_batch(base, rows)
    base.model(**batch.inputs())
    with pytest.raises(
        DataError, match=r"pool.csv line 2: holds '\[PAD\]', which the tokenizer reads as token \d+, but"
    ):
        batches.too_long(base, [example("a [PAD]")], 0)
    with pytest.raises(DataError, match=r"the response '\[PAD\]': holds"):
        batches.encode_response(base, "a", "[PAD]")


def test_an_end_token_beyond_the_embeddings_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, "Llama", eos_token_id=None)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"eos_token": "[END]"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"no end-of-text token .* within the model's 261 tokens"):
        loaded(folder)


CONTEXTS = {
    "roberta counts from behind the padding's row": ("Roberta", "MaskedLM", {"max_position_embeddings": 34}, 32),
    "opt has two rows more": ("OPT", "CausalLM", {"max_position_embeddings": 32, "word_embed_proj_dim": 16, "ffn_dim": 16}, 32),
    "bert has as many as it says": ("Bert", "MaskedLM", {"max_position_embeddings": 32}, 32),
    "gpt2 too": ("GPT2", "CausalLM", {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}, 32),
    "llama has no table": ("Llama", "CausalLM", {"max_position_embeddings": 32}, 32),
    "xlnet names -1": ("XLNet", "LMHeadModel", {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16}, 2048),
}  # fmt: skip


@pytest.mark.parametrize(("family", "what", "config", "limit"), CONTEXTS.values(), ids=list(CONTEXTS))
def test_the_context_is_what_the_model_can_read(
    family: str, what: str, config: dict[str, Any], limit: int, tmp_path: Path
) -> None:
    import transformers

    name = (
        f"{family}{what}" if what == "LMHeadModel" else f"{family}For{what}" if family != "GPT2" else "GPT2LMHeadModel"
    )
    shape = {} if family in ("XLNet", "GPT2") else SHAPE if family != "OPT" else {k: SHAPE[k] for k in list(SHAPE)[:3]}
    pad = {"pad_token_id": 1} if family in ("Roberta", "OPT") else {}
    made = getattr(transformers, f"{family}Config")(vocab_size=99, **shape, **config, **pad)
    model = getattr(transformers, name)(made).eval()
    assert traits.context(model, None) == limit
    if limit < 99:
        ids = torch.full((1, limit), 7)
        model(input_ids=ids)
        assert traits.context(model, 9) == 9
        assert traits.context(model, 5000) == (5000 if family == "Llama" else limit), "a table cannot be outgrown"
        if family != "Llama":
            with pytest.raises(Exception, match=r"index|range|size"):
                model(input_ids=torch.full((1, limit + 1), 7))


def test_embeddings_have_length_one_where_the_model_says_so(tmp_path: Path) -> None:
    folder = saved(tmp_path, "Bert", "MaskedLM", form="<s> $A </s>")
    plain = loaded(folder)
    assert not plain.normalized
    kind = "sentence_transformers.models.Normalize"
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "type": "…Transformer"}, {"idx": 2, "type": kind}]))
    base = loaded(folder)
    texts = [replace(example(text), id=text) for text in ("a", "abc", "ab")]
    a, b = (
        classify.Work(m, m.model, texts, None, Ask.of(["embedding"])).run([0, 1, 2])["embedding"] for m in (plain, base)
    )
    np.testing.assert_allclose(b, a / np.linalg.norm(a, axis=1, keepdims=True), rtol=1e-6)
    assert not load.as_begun(base, load.describe(plain)).normalized


HOSTILE = {
    "raises": "{{ raise_exception('no') }}",
    "reaches out": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "is no template": "{% for %}",
    "counts far": "{% for i in range(1000000000) %}x{% endfor %}",
    "never ends": "{% for i in range(99999) %}{% for j in range(99999) %}{% set a = i %}{% endfor %}{% endfor %}",
}


@pytest.mark.parametrize("template", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_chat_template_is_a_sentence(template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traits, "TEMPLATE_SECONDS", 0.2)
    folder = saved(tmp_path, "Llama")
    (folder / "chat_template.jinja").write_text(template)
    loaded(folder)
    with pytest.raises(ConfigError, match=r"model\.chat: the tokenizer's chat template fails: .*; allowed: false"):
        loaded(folder, chat=True)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


LIES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "no magic": lambda: b"NOPE" + bytes(64),
    "cut off": lambda: b"GGUF" + struct.pack("<I", 3),
    "many keys": lambda: b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60),
    "many tensors": lambda: b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0) + bytes(32),
    "long name": lambda: b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62) + b"a",
    "unknown type": lambda: b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("general.architecture") + struct.pack("<I", 99),
    "unknown architecture": lambda: (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("general.architecture") + struct.pack("<I", 8) + text("nonsense") + bytes(32)
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES.values(), ids=list(LIES))
def test_a_gguf_file_that_lies_is_a_sentence(
    lie: Callable[[], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setenv("GUIDESTAR_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    file.write_bytes(lie())
    with pytest.raises(ModelError, match=r"model\.gguf: cannot be read as GGUF: "):
        sources.resolve(ModelConfig(name=str(file)))
    assert not [left for left in (tmp_path / "cache" / "models").glob("*") if left.suffix != ".lock"]


RECURRENT = {"lru_width": 16, "num_key_value_heads": 1, "num_hidden_layers": 3, "w_init_variance_scale": 1.0}
PADDED = {  # family -> what it needs; those beside Llama must not be padded
    "Bart": {"d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "init_std": 0.5},
    "RecurrentGemma": RECURRENT, "Llama": {},
}  # fmt: skip


@pytest.mark.parametrize("family", PADDED)
def test_a_model_that_counts_the_padding_is_read_in_batches_of_one_length(family: str, tmp_path: Path) -> None:
    """BART's decoder takes no positions: left to itself it counts them from the padding. RecurrentGemma is told where its
    tokens stand, and its recurrent layers read the padding all the same."""
    base = loaded(saved(tmp_path, family, **PADDED[family]))
    assert adapters.exact_lengths(base.model) == (family != "Llama")
    task = make_task(TaskConfig(kind="choice"), list(LABELS), "{answer}")
    texts = [replace(example(text), id=text) for text in ("ab:", "abcdefgh and a longer text:")]
    many, *single = (
        predict(base, base.model, some, {"label_log_probs"}, task).arrays["label_log_probs"][0]
        for some in (texts, texts[:1], texts[1:])
    )
    np.testing.assert_allclose(many, np.concatenate(single), atol=1e-5)
    model = adapters.attach(base, {"r": 2, "target_modules": ["q_proj"]}, seed=0)
    assert adapters.exact_lengths(model) == (family != "Llama")
    adapters.detach(model)
