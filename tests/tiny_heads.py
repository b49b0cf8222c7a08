"""Tiny random models of several families, as base models without a tokenizer."""

from __future__ import annotations

from typing import Any

import torch

from guidestar.model.load import BaseModel

LABELS = ("one", "two", "three")
WORDS = 60  # in the vocabulary
KINDS = ("llama", "bert", "roberta", "llama-head")
HEADS = KINDS[1:]


def tiny(kind: str) -> BaseModel:
    """llama: a causal language model. bert, roberta, eurobert, llama-head: with an untrained head for three labels."""
    import transformers

    shape: dict[str, Any] = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
        "vocab_size": WORDS, "max_position_embeddings": 64, "pad_token_id": 0,
    }  # fmt: skip
    head = {} if kind == "llama" else {"num_labels": len(LABELS)}
    groups = {"num_key_value_heads": 2} if kind.startswith("llama") else {}
    family = {"eurobert": "EuroBert"}.get(kind) or kind.removesuffix("-head").capitalize()
    config = getattr(transformers, f"{family}Config")(**shape, **groups, **head)
    what = "ForSequenceClassification" if head else "ForCausalLM"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, family + what)(config)
    model.requires_grad_(False).eval()
    return BaseModel(
        model, None, "tiny", "0", torch.device("cpu"), torch.float32, (1,), pad=0, max_length=64, chat=False,
        batch_tokens=1000, written_tokens=1000, labels=LABELS if head else (), encoder=not groups, pooling="last" if groups else "first",
    )  # fmt: skip


def texts(rows: int = 3, tokens: int = 7, seed: int = 5) -> dict[str, torch.Tensor]:
    """Token ids of texts of one length, token 7 among them, with their mask."""
    ids = torch.randint(5, WORDS, (rows, tokens), generator=torch.Generator().manual_seed(seed))
    ids[0, 0] = 7
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def said(model: Any, given: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
    """Logits of the texts' own tokens, or of the labels."""
    given = texts() if given is None else given
    with torch.inference_mode():
        logits: torch.Tensor = model(**given).logits
    return logits[:, -given["input_ids"].shape[1] :] if logits.ndim == 3 else logits


def moved(model: Any, size: float = 0.3) -> None:
    """Weights that are not at their start, as after training."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += size * torch.randn(parameter.shape, generator=generator)


def under_its_own_head(model: Any) -> None:
    """Give the head that is trained with an adapter the weights of the base model's own: then only the adapter differs."""
    for module in model.modules():
        if hasattr(module, "modules_to_save") and hasattr(module, "original_module"):
            for own in module.modules_to_save.values():
                own.load_state_dict(module.original_module.state_dict())
