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
from test_publish import _elsewhere
from test_traits import LABELS, example, loaded, saved

from guidestar import loop
from guidestar.config import TaskConfig
from guidestar.model import batches
from guidestar.model.predict import predict
from guidestar.publish import publish
from guidestar.scoring import predict_file
from guidestar.tasks import make_task

pytestmark = [pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]

CAUSAL = """
afmoe apertus arcee aria_text bart beam bert-generation bigbird_pegasus biogpt bitnet blenderbot blenderbot-small
bloom codegen cohere cohere2 cohere2_moe cpmant ctrl cwm deepseek_v4 diffllama doge ernie4_5 ernie4_5_moe exaone4
exaone_moe flex_olmo flint gemma gemma2 gemma3_text glm glm4 glm4_moe gpt-sw3 gpt2 gpt_bigcode gpt_neox
gpt_neox_japanese gpt_oss gptj granite granite_swa granitemoe granitemoe_swa granitemoeshared helium hrm_text hy_v3
hy_v4 hyperclovax inkling2_text inkling_text internlm3 iquestcoder jais2 jetmoe kolibri1 laguna lfm2 lfm3 llama
llama4_text marian mbart mellum mimo_v2_flash minimax minimax_m2 minimax_m3_vl_text ministral3 mistral mixtral
modernbert-decoder moshi mpt mvp nanochat nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt opt pegasus
persimmon phi phi3 phimoe plbart qwen2 qwen2_moe qwen3 qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next rwkv
seed_oss smollm3 solar_open stablelm starcoder2 trocr vaultgemma whisper xglm zamba zamba2
""".split()  # noqa: SIM905 - names, to be read as a paragraph
ENCODERS = """
albert bert big_bird camembert convbert data2vec-text deberta deberta-v2 distilbert electra ernie esm flaubert fnet
ibert layoutlm luke megatron-bert mobilebert modernbert mpnet nystromformer rembert roberta roberta-prelayernorm
roc_bert roformer squeezebert xlm xlm-roberta xlm-roberta-xl yoso
""".split()  # noqa: SIM905 - names, to be read as a paragraph

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
    sizes: dict[str, Any] = {key: size for key, size in SIZES.items() if getattr(plain, key, None) is not None}
    if isinstance(kinds := getattr(plain, "layer_types", None), list):
        sizes["layer_types"] = [kinds[0], kinds[-1]]
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


@pytest.mark.parametrize(
    ("family", "encoder"), [*((f, False) for f in CAUSAL), *((f, True) for f in ENCODERS)],
    ids=[*CAUSAL, *(f"{f}-head" for f in ENCODERS)],
)  # fmt: skip
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


@pytest.mark.parametrize(
    ("family", "encoder"),
    [("gpt2", False), ("opt", False), ("bloom", False), ("bart", False), ("bert", True), ("albert", True), ("roberta", True)],
)  # fmt: skip
def test_a_run_stops_goes_on_and_is_published_with_its_own_answers(family: str, encoder: bool, tmp_path: Path) -> None:
    """The card's program, in a process of its own, against `predict`; the run stopped in the middle against one that was not."""
    model = built(family, tmp_path / "model", encoder=encoder)
    rows = [f"{'red' if i % 2 else 'blue'} thing number {i},{LABELS[i % 2]}" for i in range(24)]
    (tmp_path / "pool.csv").write_text("text,label\n" + "\n".join(rows) + "\n")

    def config(out: str) -> dict[str, Any]:
        return {
            "out": str(tmp_path / out), "seeds": [0], "strategies": ["least_confidence"],
            "data": {"pool": str(tmp_path / "pool.csv"), "answer": "label", "template": "{text}:", "test_share": 0.3},
            "task": {"kind": "choice", "labels": list(LABELS)}, "model": {"name": str(model), "dtype": "float32"},
            "query": {"warm_start": 4, "batch": 4, "budget": 8}, "train": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2},
            "peft": {"peft_type": "LORA", "r": 2, "target_modules": "all-linear"}, "annotator": "oracle",
        }  # fmt: skip

    with loop.Run(config("whole")) as run:
        run.run(loop.oracle(run.bench.dataset))
        whole = [m.values for m in run.metrics()]
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
    assert _elsewhere(published, [{"text": text} for text in texts]) == ours
    assert json.loads((published / "adapter_config.json").read_text())["base_model_name_or_path"] == str(model)
