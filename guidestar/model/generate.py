"""Greedy responses and what is known of each of their tokens, written down while they are generated.

Entropies are taken from the very pass that generates, one number a token, so memory does not grow with
(new tokens × vocabulary). Rows that have ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from guidestar.model import kv
from guidestar.model.batches import Batch, followed
from guidestar.model.load import BaseModel

_CHUNK = 64  # rows whose full-vocabulary distribution exists at one time
_LOOK = 8  # steps between two looks at which rows have ended, where looking makes the processor wait for a device


@dataclass(frozen=True)
class Written:
    """tokens: (rows, steps) int64, anything behind a row's end. nll, entropy: (rows, steps) float32, nats.
    real: (rows, steps) bool, up to and with the first end token."""

    tokens: torch.Tensor
    nll: torch.Tensor
    entropy: torch.Tensor
    real: torch.Tensor


def entropy_of(log_p: torch.Tensor) -> torch.Tensor:
    """−Σ p log p over the last axis, with 0 log 0 = 0; NaN stays NaN so that it is noticed."""
    return -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(-1)


def greedy(base: BaseModel, logits: Callable[[Batch], torch.Tensor], batch: Batch, limit: int) -> Written:
    """Greedy responses of at most `limit` tokens, on a cache of ours with room for them.

    logits: of the last position of a batch, (rows, vocabulary).
    """
    rows, device = len(batch.ids), batch.ids.device
    ends = torch.tensor(base.eos, device=device)
    tokens = batch.ids.new_full((rows, limit), base.eos[0])
    nll, entropy = (torch.zeros(rows, limit, device=device) for _ in range(2))
    at = torch.arange(rows, device=device)  # the row of the result that each row of the batch belongs to
    going = torch.ones(rows, dtype=torch.bool, device=device)
    steps = 0
    look = 1 if device.type == "cpu" else _LOOK
    for steps in range(1, limit + 1):
        chosen, loss, doubt = _choose(logits(batch))
        tokens[at, steps - 1], nll[at, steps - 1], entropy[at, steps - 1] = chosen, loss, doubt
        going &= ~torch.isin(chosen, ends)
        if steps == limit:
            break
        if steps % look == 0:
            left = torch.nonzero(going).flatten()
            if len(left) == 0:
                break
            if len(left) <= 0.8 * len(at):  # moving the others closer costs a copy of their keys and values
                if len(left) == 1:  # a product with one row may round by where the weights lie in memory
                    left = torch.cat([left, (left + 1) % len(at)])
                kv.keep_rows(batch.past, left)
                at, going, chosen = at[left], going[left], chosen[left]
                batch = Batch(batch.ids[left], batch.mask[left], batch.positions[left], batch.past)
        batch = followed(batch, chosen[:, None])
    tokens, nll, entropy = tokens[:, :steps], nll[:, :steps], entropy[:, :steps]
    return Written(tokens, nll, entropy, _until_the_end(tokens, ends))


def _choose(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The likeliest token of each row, its −log p, and the entropy: (rows,) each."""
    chosen = logits.argmax(-1)
    nll, entropy = (torch.empty(len(logits), dtype=torch.float32, device=logits.device) for _ in range(2))
    for start in range(0, len(logits), _CHUNK):
        part = slice(start, start + _CHUNK)
        log_p = torch.log_softmax(logits[part].float(), dim=-1)
        nll[part], entropy[part] = -log_p.amax(-1), entropy_of(log_p)
    return chosen, nll, entropy


def _until_the_end(tokens: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    over = torch.isin(tokens, ends)
    return (over.cumsum(1) - over.long()) == 0


def by_transformers(
    base: BaseModel,
    model: Any,
    batch: Batch,
    limit: int,
    decode: Callable[[Sequence[int]], str],
    stop: str | None = None,
) -> Written:
    """The same by `generate` of transformers: for any architecture, and for a text that ends a response."""
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    recorder = _Recorder(len(batch.ids), limit, batch.ids.device)
    options = GenerationConfig(
        max_new_tokens=limit, do_sample=False, num_beams=1, use_cache=True,
        eos_token_id=list(base.eos), pad_token_id=base.pad,
    )  # fmt: skip
    watcher = _Watcher(stop, decode, batch.ids.shape, limit) if stop else None
    sequences = model.generate(
        input_ids=batch.ids, attention_mask=batch.mask, generation_config=options,
        logits_processor=LogitsProcessorList([recorder]),
        stopping_criteria=StoppingCriteriaList([watcher] if watcher else []),
    )  # fmt: skip
    tokens = sequences[:, batch.ids.shape[1] :]
    steps = tokens.shape[1]
    real = _until_the_end(tokens, torch.tensor(base.eos, device=tokens.device))
    if watcher:
        real &= torch.arange(steps, device=tokens.device) < watcher.lengths.to(tokens.device)[:, None]
    return Written(tokens, recorder.nll[:, :steps], recorder.entropy[:, :steps], real)


class _Recorder:
    """A logits processor that writes down entropy and −log p of the greedy token at each step.

    It sees the model's own logits because no other processor is switched on. Attributes are
    (rows, steps) float32 in nats.
    """

    def __init__(self, rows: int, steps: int, device: torch.device) -> None:
        self.entropy = torch.zeros(rows, steps, device=device)
        self.nll = torch.zeros(rows, steps, device=device)
        self.step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for start in range(0, len(scores), _CHUNK):
            log_p = torch.log_softmax(scores[start : start + _CHUNK].float(), dim=-1)
            self.entropy[start : start + _CHUNK, self.step] = entropy_of(log_p)
            self.nll[start : start + _CHUNK, self.step] = -log_p.amax(-1)
        self.step += 1
        return scores


class _Watcher:
    """A stopping criterion: a row is done when a text has come up in what is new of it.

    lengths: (rows,) new tokens of each row when that happened, `limit` where it did not.
    """

    def __init__(self, stop: str, decode: Callable[[Sequence[int]], str], shape: Sequence[int], limit: int) -> None:
        self.stop, self.decode, self.start = stop, decode, shape[1]
        self.lengths = torch.full((shape[0],), limit)
        self.done = torch.zeros(shape[0], dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        step = input_ids.shape[1] - self.start
        # No token is empty, so the text lies in at most as many of them as it has bytes.
        tails = input_ids[:, self.start :][:, -len(self.stop.encode()) - 1 :].cpu().tolist()
        for row in torch.nonzero(~self.done).flatten().tolist():
            if self.stop in self.decode(tails[row]):
                self.lengths[row], self.done[row] = step, True
        return self.done.to(input_ids.device)
