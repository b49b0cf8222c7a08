"""Responses, greedy or sampled, and what is known of each of their tokens, written down while they are generated.

Entropies are taken from the very pass that generates, one number a token, so memory does not grow with
(new tokens × vocabulary). Rows that have ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from guidestar.model.batches import Batch, decode, followed
from guidestar.model.load import BaseModel, Model

_CHUNK = 128  # rows whose logits are made, and on a GPU treated, at one time
_CACHED = 8  # rows whose distribution stays in a core's cache
_LOOK = 8  # steps between two looks at which rows have ended, where looking makes the processor wait for a device


@dataclass(frozen=True)
class Written:
    """tokens: (rows, steps) int64, anything behind a row's end. nll, entropy: (rows, steps) float32, nats.
    real: (rows, steps) bool, up to and with the first end token."""

    tokens: torch.Tensor
    nll: torch.Tensor
    entropy: torch.Tensor
    real: torch.Tensor


def token_values(
    logits: torch.Tensor, goal: torch.Tensor | None = None, head: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each row's goal, its −log p, and the entropy: (rows,) int64 and float32, nats.

    logits: (rows, vocabulary), or what `head` makes them from; goal: token ids, without it the likeliest. With x the
    logits below their largest and z = Σ exp x: log z − x_goal, and log z − Σ x exp x / z, with 0 log 0 = 0. NaN and
    infinity in the logits give NaN, so that they are noticed.
    """
    rows, device = len(logits), logits.device
    nll, entropy = (torch.empty(rows, dtype=torch.float32, device=device) for _ in range(2))
    tokens = torch.empty(rows, dtype=torch.int64, device=device) if goal is None else goal
    for part in _chunks(rows, _CHUNK):
        whole = logits[part] if head is None else head(logits[part])
        for at in _chunks(len(whole), _together(device)):
            x = whole[at].to(torch.float32, copy=True)
            if goal is None:
                tokens[part][at] = x.argmax(-1)  # in float32 four times as fast as in bfloat16
            x -= x.amax(-1, keepdim=True)
            p = x.exp()
            z = p.sum(-1)
            log_z = z.log()
            nll[part][at] = log_z - x.gather(1, tokens[part][at, None])[:, 0]
            entropy[part][at] = log_z - p.mul_(x.clamp_(min=-1e4)).sum(-1) / z  # p is 0 far above that
    return tokens, nll, entropy


def _chunks(n: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, n, size))


def _together(device: torch.device) -> int:
    """Rows whose full-vocabulary distribution exists at one time."""
    return _CACHED if device.type == "cpu" else _CHUNK


# (scores of the last position, rows of the result, step) -> the token of each row, its −log p, the entropy
Choose = Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def likeliest(scores: torch.Tensor, at: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The choice of a greedy response."""
    return token_values(scores)


def drawn(draws: torch.Tensor, temperature: float) -> Choose:
    """The choice of sampled responses.

    draws: (rows of the result, limit) in [0, 1), one for each token, in float64 where the device has it: the token is the one
    in whose part of the cumulative sum its draw falls, and the vocabulary's tail is long. The same draws give the same
    response whatever else is in the batch. −log p and entropy are of the distribution that is drawn from,
    softmax(logits / temperature).
    """

    def choose(scores: torch.Tensor, at: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows, device = len(scores), scores.device
        nll, entropy = (torch.empty(rows, dtype=torch.float32, device=device) for _ in range(2))
        chosen = torch.empty(rows, dtype=torch.int64, device=device)
        for part in _chunks(rows, _together(device)):
            scaled = scores[part].float() / temperature
            sums = torch.log_softmax(scaled, dim=-1).to(draws.dtype).exp().cumsum(-1)
            places = torch.searchsorted(sums, draws[at[part], step, None] * sums[:, -1:], right=True)
            chosen[part], nll[part], entropy[part] = token_values(scaled, places.clamp(max=sums.shape[1] - 1)[:, 0])
        return chosen, nll, entropy

    return choose


def write(
    base: BaseModel, logits: Callable[[Batch], torch.Tensor], batch: Batch, limit: int, choose: Choose = likeliest,
    copies: int = 1,
) -> Written:  # fmt: skip
    """Responses of at most `limit` tokens, on a cache of ours with room for them.

    logits: of the last position of a batch, (rows, vocabulary). copies: responses to each prompt, which is read once for all
    of them; they stand together in the result.
    """
    scores = logits(batch)
    if copies > 1:
        each = torch.arange(len(batch.ids), device=batch.ids.device).repeat_interleave(copies)
        batch.past.batch_select_indices(each)
        batch, scores = Batch(batch.ids[each], batch.mask[each], batch.positions[each], batch.past), scores[each]
    rows, device = len(batch.ids), batch.ids.device
    ends = torch.tensor(base.eos, device=device)
    tokens = batch.ids.new_full((rows, limit), base.eos[0])
    nll, entropy = (torch.zeros(rows, limit, device=device) for _ in range(2))
    at = torch.arange(rows, device=device)  # the row of the result that each row of the batch belongs to
    going = torch.ones(rows, dtype=torch.bool, device=device)
    steps = 0
    look = 1 if device.type == "cpu" else _LOOK
    for steps in range(1, limit + 1):
        chosen, loss, doubt = choose(scores, at, steps - 1)
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
                batch.past.batch_select_indices(left)
                at, going, chosen = at[left], going[left], chosen[left]
                batch = Batch(batch.ids[left], batch.mask[left], batch.positions[left], batch.past)
        batch = followed(batch, chosen[:, None])
        scores = logits(batch)
    tokens, nll, entropy = tokens[:, :steps], nll[:, :steps], entropy[:, :steps]
    return Written(tokens, nll, entropy, _until_the_end(tokens, ends))


def _until_the_end(tokens: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    over = torch.isin(tokens, ends)
    return (over.cumsum(1) - over.long()) == 0


def by_transformers(
    base: BaseModel, model: Model, batch: Batch, limit: int, choose: Choose = likeliest, copies: int = 1, *,
    stop: str | None = None,
) -> Written:  # fmt: skip
    """As `write`, by `generate` of transformers: for any architecture, and for a text that ends a response.

    What is chosen is made the only token left, which greedy generation then takes.
    """
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    each = torch.arange(len(batch.ids), device=batch.ids.device).repeat_interleave(copies)
    ids = batch.ids[each]
    options = GenerationConfig(
        max_new_tokens=limit, do_sample=False, num_beams=1, use_cache=True,
        eos_token_id=list(base.eos), pad_token_id=base.pad,
    )  # fmt: skip
    recorder = _Recorder(choose, len(ids), limit, ids.device)
    watcher = _Watcher(stop, partial(decode, base), ids.shape, limit) if stop else None
    sequences = model.generate(
        input_ids=ids, attention_mask=batch.mask[each], generation_config=options,
        logits_processor=LogitsProcessorList([recorder]),
        stopping_criteria=StoppingCriteriaList([watcher] if watcher else []),
    )  # fmt: skip
    tokens = sequences[:, ids.shape[1] :]
    steps = tokens.shape[1]
    real = _until_the_end(tokens, torch.tensor(base.eos, device=tokens.device))
    if watcher:
        real &= torch.arange(steps, device=tokens.device) < watcher.lengths.to(tokens.device)[:, None]
    return Written(tokens, recorder.nll[:, :steps], recorder.entropy[:, :steps], real)


def own_tokens(base: BaseModel, written: Written) -> list[list[int]]:
    """The tokens of each response, without the end token."""
    ends = torch.isin(written.tokens, torch.tensor(base.eos, device=written.tokens.device))
    counts = (written.real & ~ends).sum(1).tolist()
    return [ids[:n] for ids, n in zip(written.tokens.cpu().tolist(), counts, strict=True)]


class _Recorder:
    """A logits processor that leaves the chosen token alone, and writes down its −log p and the entropy before it.

    It sees the model's own logits because no other processor is switched on. Attributes are (rows, steps) float32, nats.
    """

    def __init__(self, choose: Choose, rows: int, steps: int, device: torch.device) -> None:
        self.choose, self.rows, self.step = choose, torch.arange(rows, device=device), 0
        self.nll, self.entropy = (torch.zeros(rows, steps, device=device) for _ in range(2))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen, self.nll[:, self.step], self.entropy[:, self.step] = self.choose(scores, self.rows, self.step)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


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
