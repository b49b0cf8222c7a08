"""Frozen features: several views of a text in the states of a model, for a classifier that costs nothing.

One pass gives six blocks. Means over the tokens of a lower, a middle and an upper layer know what a text is about; the
states of single tokens in the last layers know how it is put.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from guidestar.model import adapters
from guidestar.model.batches import encode_prompts, prompt_batch, prompt_text, read_batches
from guidestar.model.load import BaseModel
from guidestar.progress import Tick
from guidestar.records import Example

BLOCKS = 6


def features(base: BaseModel, model: Any, examples: Sequence[Example], tick: Tick) -> NDArray[np.float16]:
    """Six states of every text, (n, 6, width) float16.

    Of an encoder: means over the tokens of the layers at 1/3, 2/3 and the end, and in the last layer the first token of
    all, the first and the last token of what the template was filled with. Of a causal model: means of the layers at 8,
    15 and 22 of 30, and the last prompt token at 15, 22 and 30.
    base, model: the base model, and itself or a PEFT model on it, in eval mode. Only a batch's states are in memory.
    """
    prompts = encode_prompts(base, examples, 0 if base.labels else 1)
    spans = _spans(base, examples, prompts)
    body = adapters.inner(model).base_model  # without the vocabulary's logits
    found = np.zeros((len(examples), BLOCKS, 0), dtype=np.float16)
    done = 0
    with torch.inference_mode():
        for rows in read_batches(base, [len(p) for p in prompts], adapters.exact_lengths(model)):
            batch = prompt_batch(base, [prompts[i] for i in rows])
            states = body(**batch.inputs(), output_hidden_states=True).hidden_states
            pad = 0 if base.labels else batch.ids.shape[1] - np.array([len(prompts[i]) for i in rows])
            blocks = _blocks(states, batch.mask, torch.from_numpy(spans[rows] + np.reshape(pad, (-1, 1))), base)
            if not found.shape[2]:
                found = np.zeros((len(examples), BLOCKS, blocks.shape[2]), dtype=np.float16)
            found[rows] = blocks.clamp(-6e4, 6e4).half().cpu().numpy()
            done += len(rows)
            tick(done, len(examples))
    return found


def _blocks(states: Sequence[torch.Tensor], mask: torch.Tensor, spans: torch.Tensor, base: BaseModel) -> torch.Tensor:
    """(rows, 6, width) of the states of all layers, each (rows, tokens, width). spans: places of the first and of the
    last token of each text."""
    layers, rows = len(states) - 1, torch.arange(len(mask), device=mask.device)
    weights = mask[..., None].float()

    def mean(share: float) -> torch.Tensor:
        return (states[round(share * layers)].float() * weights).sum(1) / weights.sum(1)

    if base.encoder:
        first, last = spans.to(mask.device).T
        end = states[-1].float()
        singles = [end[:, 0], end[rows, first], end[rows, last]]
        return torch.stack([mean(1 / 3), mean(2 / 3), mean(1.0), *singles], dim=1)
    at_end = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(1)
    singles = [states[round(share * layers)].float()[rows, at_end] for share in (0.5, 22 / 30, 1.0)]
    return torch.stack([mean(8 / 30), mean(0.5), mean(22 / 30), *singles], dim=1)


def _spans(base: BaseModel, examples: Sequence[Example], prompts: Sequence[Sequence[int]]) -> NDArray[np.intp]:
    """Places of the first and of the last token of what the template was filled with, (n, 2); of the whole prompt where
    the tokenizer does not say where its tokens come from."""
    whole = np.array([[0, len(p) - 1] for p in prompts], dtype=np.intp).reshape(-1, 2)
    if not base.encoder or not getattr(base.tokenizer, "is_fast", False) or not examples:
        return whole
    texts = [prompt_text(base, e.prompt) for e in examples]
    offsets = base.tokenizer(texts, add_special_tokens=not base.chat, return_offsets_mapping=True)["offset_mapping"]
    found = whole.copy()
    for i, (example, text, places) in enumerate(zip(examples, texts, offsets, strict=True)):
        filled = [(start, start + len(v)) for v in example.fields.values() if v and (start := text.find(v)) >= 0]
        begin, end = (min(b for b, _ in filled), max(e for _, e in filled)) if filled else (0, len(text))
        inside = [j for j, (b, e) in enumerate(places) if b < e and e > begin and b < end]
        if inside:
            found[i] = inside[0], inside[-1]
    return found
