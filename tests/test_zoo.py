"""Tiny random models of every family in transformers that is built like this from its config: what is said of a text is what
plain transformers says of it, alone and in a batch. Minutes: `make test-all`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import predict
from test_publish import _program
from test_traits import LABELS, SHAPE, SPECIAL, example, loaded, saved

from guidestar import loop
from guidestar.config import TaskConfig
from guidestar.errors import ConfigError, ModelError
from guidestar.model import batches
from guidestar.publish import publish
from guidestar.scoring import predict_file
from guidestar.tasks import make_task

pytestmark = [pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]

CAUSAL = """
afmoe apertus arcee aria_text axk2 bailing_hybrid bamba bart beam bert-generation bigbird_pegasus biogpt bitnet
blenderbot blenderbot-small bloom codegen cohere cohere2 cohere2_moe cpmant ctrl cwm deepseek_v2 deepseek_v3
deepseek_v32 deepseek_v4 diffllama doge ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon falcon_h1 falcon_mamba
flex_olmo flint gemma gemma2 gemma3_text gemma3n_text glm glm4 glm4_moe glm4_moe_lite glm_moe_dsa gpt-sw3 gpt2
gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss gptj granite granite_swa granitemoe granitemoe_swa
granitemoehybrid granitemoeshared helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hyperclovax
inkling2_text inkling_text internlm3 iquestcoder jais2 jamba jetmoe kimi_linear kolibri1 laguna lfm2 lfm2_moe lfm3
llama llama4_text longcat_flash mamba mamba2 marian mbart mellum mimo_v2_flash minicpm3 minimax minimax_m2
minimax_m3_vl_text ministral ministral3 mistral mixtral modernbert-decoder moshi mpt mvp nanochat nemotron nemotron_h
olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt opt pegasus persimmon phi phi3 phimoe plbart qwen2 qwen2_moe qwen3
qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next recurrent_gemma reformer rwkv seed_oss smollm3 solar_open stablelm
starcoder2 trocr vaultgemma whisper xglm xlnet youtu zamba zamba2 zaya
""".split()  # noqa: SIM905 - names, to be read as a paragraph
ENCODERS = """
albert bert big_bird camembert convbert data2vec-text deberta deberta-v2 distilbert electra ernie esm esmc eurobert
flaubert fnet gte ibert jina_embeddings_v3 layoutlm luke megatron-bert mobilebert modernbert mpnet
nomic_bert nystromformer rembert roberta roberta-prelayernorm roc_bert roformer squeezebert tapas ultrabert xlm
xlm-roberta xlm-roberta-xl xmod yoso
""".split()  # noqa: SIM905 - names, to be read as a paragraph
NOT_HERE = {  # why a family of transformers' tables is not built
    "made of a text model, which is here, and of one for images or sound": "blt emu3 fuyu gemma3 gemma3n gemma4 gemma4_assistant "
    "gemma4_unified gemma4_unified_assistant git got_ocr2 llama4 mllama modernvbert moss_transcribe_diarize musicgen musicgen_melody "
    "perceiver phi4_multimodal qwen3_5 qwen3_5_moe qwen4_exp ultravbert",
    "does not build, or not small, from one set of sizes": "axk1 cohere_compass_text dbrx dots1 dots3_note dots3_note_text funnel "
    "gemma4_text gemma4_unified_text neomme prophetnet qwen4_exp_text xlstm",
    "says the same of every text while its weights are random": "mra",
    "has a head that gives the first token global attention, which the plain model here does not": "longformer",
}


_WIDTHS = (
    "hidden_size n_embd d_model dim embedding_size emb_dim word_embed_proj_dim intermediate_size n_inner d_inner ffn_dim dim_ff \
hidden_dim encoder_ffn_dim decoder_ffn_dim moe_intermediate_size shared_expert_intermediate_size d_ff"
)
_DEPTHS = "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_key_value_heads num_experts_per_tok"
_FOURS = (
    "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads num_experts num_local_experts \
n_routed_experts rotary_dim"
)
_EIGHTS = "head_dim q_lora_rank kv_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim d_kv"
SIZES = {
    **dict.fromkeys(_WIDTHS.split(), 32), **dict.fromkeys(_DEPTHS.split(), 2), **dict.fromkeys(_FOURS.split(), 4),
    **dict.fromkeys(_EIGHTS.split(), 8), "max_position_embeddings": 128, "n_positions": 128,
}  # fmt: skip

_LATENT = "axk2 bailing_hybrid deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa longcat_flash minicpm3 youtu"
OWN_SIZES: dict[str, dict[str, Any]] = {  # where those above do not go together
    **{family: {"num_key_value_heads": 4} for family in _LATENT.split()}, **{family: {"head_dim": 8} for family in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]}, "nemotron": {"num_key_value_heads": 2},
    **{family: {"mamba_n_heads": 4, "mamba_d_head": 16} for family in ("bamba", "granitemoehybrid")}, "mamba2": {"num_heads": 8, "head_dim": 8}, "zaya": {"num_experts_per_tok": 1},
    "xmod": {"default_language": "en_XX"},
    "deepseek_v2": {"num_key_value_heads": 4, "topk_group": 1, "n_group": 1, "num_experts_per_tok": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1}, "esmc": {"num_key_value_heads": 4}, "gemma3n_text": {"num_kv_shared_layers": 0},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]}, "reformer": {"is_decoder": True, "axial_pos_embds": False},
}  # fmt: skip


def built(family: str, folder: Path, *, encoder: bool) -> Path:
    """A model of the family, its weights large enough for texts to matter, with the tokenizer of `saved`."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    saved(folder, "Llama", form="<s> $A </s>" if encoder else "<s> $A")
    for place in folder.glob("*.safetensors"):
        place.unlink()
    (folder / "generation_config.json").unlink(missing_ok=True)
    if family not in transformers.CONFIG_MAPPING:
        pytest.skip(f"this release of transformers has no {family}")
    plain = transformers.CONFIG_MAPPING[family]()
    fixed = {key for key in dir(type(plain)) if isinstance(getattr(type(plain), key, None), property)}
    fixed |= {key for key, name in plain.attribute_map.items() if name in fixed}
    sizes: dict[str, Any] = {
        key: size for key, size in SIZES.items() if key not in fixed and getattr(plain, key, None) is not None
    }
    if isinstance(kinds := getattr(plain, "layer_types", None), list) and "layer_types" not in fixed:
        sizes["layer_types"] = [kinds[0], kinds[-1]]
    sizes |= OWN_SIZES.get(family, {})
    names = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES if encoder else auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    vocabulary = len(transformers.AutoTokenizer.from_pretrained(folder))
    config = transformers.CONFIG_MAPPING[family](
        **sizes, vocab_size=vocabulary, pad_token_id=1, bos_token_id=0, eos_token_id=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, names[family])(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data *= 3
    model.save_pretrained(folder)
    return folder


FAMILIES = pytest.mark.parametrize(
    ("family", "encoder"), [*((f, False) for f in CAUSAL), *((f, True) for f in ENCODERS)],
    ids=[*CAUSAL, *(f"{f}-head" for f in ENCODERS)],
)  # fmt: skip


def test_every_family_of_transformers_is_here_or_said_why_not() -> None:
    from transformers.models.auto import modeling_auto as auto

    there = {*auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES}
    assert there == {*CAUSAL, *ENCODERS, *(family for families in NOT_HERE.values() for family in families.split())}


@FAMILIES
def test_a_batch_says_what_plain_transformers_says_of_each_text(family: str, encoder: bool, tmp_path: Path) -> None:
    base = loaded(built(family, tmp_path, encoder=encoder))
    assert bool(base.labels) == encoder
    task = make_task(TaskConfig(kind="choice"), list(LABELS), "{answer}")
    texts = [replace(example(text), id=text) for text in ("ab:", "abcdefgh and a longer text:", "abc abc:")]
    name = "embedding" if encoder else "label_log_probs"  # an untrained head says next to nothing
    found = predict(base, base.model, texts, {name}, task).arrays[name][0]
    tokens = None if encoder else batches.label_tokens(base, task, batches.joint_of(base, texts[0].prompt))
    plain = []
    with torch.inference_mode():
        for row in batches.encode_prompts(base, texts):
            ids = torch.tensor([row + (list(tokens.prefix) if tokens else [])])
            mask = torch.ones_like(ids)
            if tokens is None:
                plain.append(base.model.base_model(input_ids=ids, attention_mask=mask)[0][0, 0].numpy())
            else:
                logits = base.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0, -1].float()
                plain.append(logits[tokens.first].log_softmax(-1).numpy())
    np.testing.assert_allclose(found, plain, atol=2e-5)
    assert np.ptp(plain, axis=0).max() > 1e-3, "all texts are one to it, so this test says nothing"


def _of_the_card(folder: Path, texts: list[str], patch: pytest.MonkeyPatch) -> list[str]:
    """What the published card's program says, run inside the folder; that it needs nothing of ours is test_publish's affair."""
    space: dict[str, Any] = {}
    with patch.context() as here:
        here.chdir(folder)
        exec(_program(folder).rpartition("\n\n")[0], space)  # without the example call
        return [space["predict"](text=text) for text in texts]


FEATURES = [*ENCODERS, *"gemma2 glm gpt2 llama mistral olmo2 opt phi3 qwen2 qwen3 smollm3 xlnet".split()]  # noqa: SIM905


@pytest.mark.parametrize(
    ("family", "head"), [*((f, None) for f in [*CAUSAL, *ENCODERS]), *((f, "features") for f in FEATURES)],
    ids=[*CAUSAL, *(f"{f}-head" for f in ENCODERS), *(f"{f}-features" for f in FEATURES)],
)  # fmt: skip
def test_a_run_stops_goes_on_and_is_published_with_its_own_answers(
    family: str, head: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card's program against `predict`; a run that was stopped in the middle against one that was not. A family that an
    adapter does not fit is refused in a sentence."""
    model = built(family, tmp_path / "model", encoder=family in ENCODERS)
    rows = [f"{'red' if i % 2 else 'blue'} thing number {i},{LABELS[i % 2]}" for i in range(24)]
    (tmp_path / "pool.csv").write_text("text,label\n" + "\n".join(rows) + "\n")

    def config(out: str) -> dict[str, Any]:
        return {
            "out": str(tmp_path / out), "seeds": [0], "strategies": ["lean" if head else "least_confidence"],
            "data": {"pool": str(tmp_path / "pool.csv"), "answer": "label", "template": "{text}:", "test_share": 0.3},
            "task": {"kind": "choice", "labels": list(LABELS)}, "query": {"warm_start": 4, "batch": 8, "budget": 12},
            "model": {"name": str(model), "dtype": "float32", "head": head, "views": "weighted" if head else None},
            "train": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-2},
            "peft": {"peft_type": "LORA", "r": 2, "target_modules": "all-linear"}, "annotator": "oracle",
        }  # fmt: skip

    try:
        with loop.Run(config("whole")) as run:
            run.run(loop.oracle(run.bench.dataset))
            whole = [m.values for m in run.metrics()]
    except (ConfigError, ModelError) as error:
        pytest.skip(f"refused: {error}")
    with loop.Run(config("stopped")) as run:
        gold = loop.oracle(run.bench.dataset)
        for asked in run.ask():
            run.tell(asked.id, gold(asked))  # type: ignore[arg-type]
    with loop.Run(config("stopped")) as run:
        run.run(loop.oracle(run.bench.dataset))
        assert [m.values for m in run.metrics()] == whole
        settings, folder = run.config, run.folder
    published = Path(str(publish(folder, base=str(model))["folder"]))
    texts = [row.partition(",")[0] for row in rows]
    ours = [row["answer"] for row in predict_file(folder, settings, str(tmp_path / "pool.csv"))]
    assert _of_the_card(published, texts, monkeypatch) == ours
    assert json.loads((published / "adapter_config.json").read_text())["base_model_name_or_path"] == str(model)


TOKENIZERS = {  # how it cuts, what it puts around a text, and more
    "a space before": ("bytes", "<s> $A", {"add_prefix_space": True}), "begin and end": ("bytes", "<s> $A </s>", {}),
    "end": ("bytes", "$A </s>", {}), "begins twice": ("bytes", "<s> <s> $A", {}), "pads with its end": ("bytes", "<s> $A", {"pad_token": "</s>"}),
    "nothing special": ("bytes", "$A", {"bos_token": None, "eos_token": None, "unk_token": None}),
    "cuts and pads": ("bytes", "<s> $A", {"cut": 6}), "sentences": ("sentences", "<s> $A", {}), "pieces": ("pieces", "<s> $A <mask>", {}),
    "likely pieces": ("likely", "<s> $A", {}), "words": ("words", "<s> $A", {}),
}  # fmt: skip


def _tokenizer(folder: Path, cuts: str, form: str, more: dict[str, Any]) -> int:
    """A small tokenizer of some kind; how many tokens it has."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    texts, known = (
        [f"{c} thing number {i} : good bad" for c in ("red", "blue") for i in range(24)],
        {"special_tokens": SPECIAL, "show_progress": False},
    )
    before, alphabet = more.pop("add_prefix_space", False), pre_tokenizers.ByteLevel.alphabet()
    raw, pre, decoder, trainer = {
        "bytes": (models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=before), decoders.ByteLevel(), trainers.BpeTrainer(initial_alphabet=alphabet, vocab_size=0, **known)),
        "sentences": (models.BPE(unk_token="<unk>"), pre_tokenizers.Metaspace(prepend_scheme="first"), decoders.Metaspace(prepend_scheme="first"), trainers.BpeTrainer(vocab_size=300, **known)),
        "pieces": (models.WordPiece(unk_token="<unk>"), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(), trainers.WordPieceTrainer(vocab_size=200, **known)),
        "likely": (models.Unigram(), pre_tokenizers.Metaspace(), decoders.Metaspace(), trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", **known)),
        "words": (models.WordLevel(unk_token="<unk>"), pre_tokenizers.Whitespace(), decoders.WordPiece(), trainers.WordLevelTrainer(**known)),
    }[cuts]  # fmt: skip
    made = Tokenizer(raw)
    made.pre_tokenizer, made.decoder = pre, decoder
    if cuts == "pieces":
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.train_from_iterator([] if cuts == "bytes" else texts, trainer)
    made.post_processor = processors.TemplateProcessing(
        single=form, special_tokens=[(token, made.token_to_id(token)) for token in SPECIAL]
    )
    cut, names = more.pop("cut", None), {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | more
    if cut:
        made.enable_truncation(cut)
        made.enable_padding(length=cut, pad_id=1)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **{k: v for k, v in names.items() if v})
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_both_hold_whatever_the_tokenizer(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def llama(family: str, folder: Path, *, encoder: bool) -> Path:
        import transformers

        cuts, form, more = TOKENIZERS[kind]
        size = _tokenizer(folder, cuts, form, dict(more))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = transformers.LlamaConfig(**SHAPE, vocab_size=size, pad_token_id=1, bos_token_id=0, eos_token_id=2)
            model = transformers.LlamaForCausalLM(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data *= 3
        model.save_pretrained(folder)
        return folder

    monkeypatch.setitem(globals(), "built", llama)
    test_a_batch_says_what_plain_transformers_says_of_each_text("llama", False, tmp_path / "alone")
    (tmp_path / "run").mkdir()
    test_a_run_stops_goes_on_and_is_published_with_its_own_answers("llama", False, tmp_path / "run", monkeypatch)
