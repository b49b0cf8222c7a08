"""A tiny Llama-family model, built in seconds: for tests, for trying a configuration, never for results.

It has a byte-level tokenizer trained on the given texts and two layers trained to continue them, so that
LoRA on top of it visibly learns a classification.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

PAD, END = "<pad>", "</s>"


def build_tiny_model(
    folder: Path, texts: Sequence[str], *, seed: int = 0, steps: int = 300, width: int = 64, vocabulary: int = 600,
) -> Path:  # fmt: skip
    """Write a tiny causal language model to `folder` as safetensors; returns `folder`.

    texts: what it is trained to continue, at least one; repeatable by `seed` on one machine.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    raw.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=END, pad_token=PAD)
    rows = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(list(texts))["input_ids"]]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=max(steps, 2))
        rng = np.random.default_rng(seed)
        for _ in range(steps):
            chosen = [rows[i] for i in rng.integers(0, len(rows), size=32)]
            longest = max(map(len, chosen))
            ids = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in chosen])
            real = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in chosen])
            loss = model(input_ids=ids, attention_mask=real, labels=ids.masked_fill(real == 0, -100)).loss
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return Path(folder)
