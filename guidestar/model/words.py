"""How label words and written answers are read off a causal language model, a batch at a time.

The vocabulary's logits are computed at answer positions alone, a chunk of them at a time. What all prompts begin with is
read once (with dropout once a batch and pass), and a prompt once for all its labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from guidestar.asking import Ask
from guidestar.model import adapters, batches, generate, kv
from guidestar.model.batches import Batch, LabelTokens, decode, ends, followed, pad_left
from guidestar.model.device import moved
from guidestar.model.generate import token_values
from guidestar.model.load import BaseModel, Model
from guidestar.records import Example

LABEL = frozenset({"label_log_probs"})
EMBEDDING = frozenset({"embedding"})
GENERATED = frozenset(f"{part}_{what}" for part in ("response", "answer") for what in ("entropy", "nll", "length"))
GOLD = frozenset(f"gold_{part}{what}" for part in ("", "answer_") for what in ("entropy", "nll", "length"))
GOLD_ANSWER = frozenset(name for name in GOLD if "answer" in name)

_SAVED = 256  # tokens of a batch that a prefix must save to be worth a pass of its own


class Work:
    """What does not change between batches and passes: encoded texts, their common prefix, batches, label tokens."""

    def __init__(self, base: BaseModel, model: Model, examples: Sequence[Example], task: Any, ask: Ask) -> None:
        self.base, self.model, self.task, self.wanted = base, model, task, (wanted := ask.needs)
        self.stochastic, self.exact = ask.passes > 0, adapters.exact_lengths(model)
        self.gold: list[list[int]] = []
        if wanted & GOLD:
            self.gold = [batches.encode_answer(base, task, e, (ask.gold or {})[e.id]) for e in examples]
        self.labels = batches.each_label_tokens(base, task, examples) if wanted & LABEL else []
        alike: dict[int, list[int]] = {}  # the rows of a batch have the same label tokens
        for i in range(len(examples)):
            alike.setdefault(id(self.labels[i]) if self.labels else 0, []).append(i)
        written = task.max_new_tokens if wanted & GENERATED else 1
        room = max([written, *(self.labels[rows[0]].room for rows in alike.values() if self.labels)])
        rooms = [max(room, len(row)) for row in self.gold] or [room] * len(examples)
        self.prompts = batches.encode_prompts(base, examples, rooms)
        self.own_cache = kv.keeps_every_key(model)
        shared = kv.common_prefix(self.prompts) if self.own_cache and len(examples) > 1 else []
        self.prefix = shared if len(shared) >= kv.LEAST else []
        self._prefix_states: kv.States | None = None
        behind = rooms if wanted & (GENERATED | GOLD) else [0] * len(examples)
        longest = [len(p) - len(self.prefix) + more for p, more in zip(self.prompts, behind, strict=True)]
        self.batches: list[list[int]] = []
        for group in alike.values():
            lengths = [longest[i] for i in group]
            if wanted & GENERATED:  # a step reads all weights for one token of each row
                parts = batches.token_batches(lengths, base.written_tokens, self.exact)
            else:
                parts = batches.read_batches(base, lengths, self.exact)
            self.batches += [[group[i] for i in part] for part in parts]
        self.bare_head = bool(wanted & GOLD) and self._head_is_bare()

    def run(self, rows: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Every wanted array for the examples at `rows`, from one pass."""
        arrays: dict[str, NDArray[Any]] = {}
        if self.stochastic:
            self._prefix_states = None  # each pass draws its own masks for it
        if self.wanted & (LABEL | EMBEDDING):
            arrays |= self._labels(rows)
        if self.wanted & GENERATED:
            values = self.generate(rows)[1]
            arrays |= {name: values[name] for name in self.wanted & GENERATED}
        if self.wanted & GOLD:
            values = self._teacher_forced(rows)
            arrays |= {name: values[name] for name in self.wanted & GOLD}
        return arrays

    # --- the label space, and the embedding ---

    def _labels(self, rows: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Natural log-probabilities over the labels, (rows, labels); and the state of the last prompt token."""
        labels = self.labels[rows[0]] if self.labels else None  # one for all rows of a batch
        prefix = list(labels.prefix) if labels else []
        arrays: dict[str, NDArray[Any]] = {}
        whole = labels is not None and self.task.scoring == "sequence"
        if self.wanted & EMBEDDING or not whole or self.own_cache:
            longest = max(map(len, labels.rest)) - 1 if whole and labels and self.own_cache else 0
            batch = self._batch([self.prompts[i] + prefix for i in rows], longest)
            keep = 1 + len(prefix) if self.wanted & EMBEDDING else 1  # the prompt ends before the format words
            with self._head_input() as states:
                logits = self._logits(batch, keep)[:, -1]
            if self.wanted & EMBEDDING:
                arrays["embedding"] = states[-1][:, -1 - len(prefix)].float().cpu().numpy()
        if labels is not None:
            if not whole:
                scores = logits[:, moved(torch.tensor(labels.first), logits.device)].float()
            elif self.own_cache:
                scores = self._continued_labels(labels, batch, logits.float())
            else:
                scores = self._label_sequences(labels, rows)
            arrays["label_log_probs"] = torch.log_softmax(scores.cpu().double(), dim=-1).numpy()
        return arrays

    def _continued_labels(self, labels: LabelTokens, batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        """Sum of log p over each label's own tokens, end token included: (rows, labels).

        batch: the prompts, read into a cache with room for a label; logits: behind their last token.
        """
        normaliser, read, columns = logits.logsumexp(-1), batch.mask.shape[1], []
        for rest in labels.rest:
            column = logits[:, rest[0]] - normaliser
            if len(rest) > 1:
                if batch.past is not None:
                    kv.rewind(batch.past, read)
                tokens = torch.tensor(rest, device=batch.ids.device).expand(len(batch.ids), -1)
                after = self._logits(followed(batch, tokens[:, :-1]), len(rest) - 1)
                column = column - token_values(after.flatten(0, 1), tokens[:, 1:].flatten())[1].view_as(
                    tokens[:, 1:]
                ).sum(1)
            columns.append(column)
        return torch.stack(columns, dim=1)

    def _label_sequences(self, labels: LabelTokens, rows: Sequence[int]) -> torch.Tensor:
        """The same with each label's tokens behind a prompt of their own, for models without a cache of ours."""
        columns = []
        for rest in labels.rest:
            batch = self._batch([self.prompts[i] + [*labels.prefix, *rest] for i in rows])
            targets = torch.tensor(rest, device=batch.ids.device).expand(len(rows), -1)
            nll, _ = self._token_values(batch, targets, [targets.shape[1]] * len(targets))
            columns.append(-nll.sum(1))
        return torch.stack(columns, dim=1)

    # --- teacher forcing ---

    def _teacher_forced(self, rows: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Sums over the tokens of the gold response (end token included), and over its answer alone."""
        batch = self._batch([self.prompts[i] + self.gold[i] for i in rows])
        width = max(len(self.gold[i]) for i in rows)
        lengths = [len(self.gold[i]) for i in rows]
        real = torch.arange(width) >= (width - torch.tensor(lengths))[:, None]
        nll, entropy = self._token_values(batch, batch.ids[:, -width:], lengths)
        answer = np.zeros((len(rows), width), dtype=bool)
        if self.wanted & GOLD_ANSWER:
            for row, gold in enumerate(self.gold[i] for i in rows):
                answer[row, width - len(gold) : width - 1] = answer_mask(self.base, self.task, gold[:-1])
        return _sums("gold", "gold_answer", nll, entropy, real, answer)

    def _token_values(
        self, batch: Batch, targets: torch.Tensor, lengths: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """−log p of each real target token and the entropy before it, (rows, targets), in nats; 0 elsewhere.

        The targets are the last tokens of the batch, of which the last `lengths` of each row are real. The full distribution exists for a chunk of positions
        at a time, and for those of real targets alone.
        """
        width, device = targets.shape[1], targets.device
        real = ends(lengths, width, device)
        if self.bare_head:
            with self._head_input(skip=True) as states:
                self._logits(batch, width + 1)
            entering = states[-1][:, -width - 1 : -1][real]
            values = token_values(entering, targets[real], adapters.inner(self.model).get_output_embeddings())
        else:
            values = token_values(self._logits(batch, keep=width + 1)[:, :-1][real], targets[real])
        nll, entropy = (torch.zeros(targets.shape, dtype=torch.float32, device=device) for _ in range(2))
        nll[real], entropy[real] = values[1:]
        return nll, entropy

    # --- generation ---

    def generate(self, rows: Sequence[int], stop: str | None = None) -> tuple[list[str], dict[str, NDArray[Any]]]:
        """Greedy responses and sums over their tokens.

        The end token counts: deciding to stop is part of a response.
        """
        limit = self.task.max_new_tokens
        if self.own_cache and stop is None:
            batch = self._batch([self.prompts[i] for i in rows], limit)
            written = generate.write(self.base, partial(next_logits, self.model), batch, limit)
        else:
            batch = pad_left([self.prompts[i] for i in rows], self.base.pad, self.base.device)
            written = generate.by_transformers(self.base, self.model, batch, limit, stop=stop)
        answer = np.zeros((len(rows), written.tokens.shape[1]), dtype=bool)
        texts = []
        for row, ids in enumerate(generate.own_tokens(self.base, written)):
            texts.append(decode(self.base, ids))
            answer[row, : len(ids)] = answer_mask(self.base, self.task, ids)
        return texts, _sums("response", "answer", written.nll, written.entropy, written.real, answer)

    # --- the model ---

    def _batch(self, rows: Sequence[Sequence[int]], room: int = 0) -> Batch:
        """Rows of prompt and what follows; their common prefix, where there is one, is read from a cache.

        room: tokens to come behind them, which that cache must hold, too.
        """
        shared, device = len(self.prefix), self.base.device
        if shared and (not self.stochastic or shared * (len(rows) - 1) >= _SAVED):
            if self._prefix_states is None:
                self._prefix_states = kv.read(self.model, self.prefix, device)
            if self._prefix_states is not None:
                own = [row[shared:] for row in rows]
                past = kv.roomy(self.model, self._prefix_states, len(rows), max(map(len, rows)) + room)
                return pad_left(own, self.base.pad, device, past=past, before=shared)
        past = kv.roomy(self.model, None, len(rows), max(map(len, rows)) + room) if room else None
        return pad_left(rows, self.base.pad, device, past=past)

    def _head_is_bare(self) -> bool:
        """Whether the logits are the vocabulary projection's own output, neither scaled nor capped: tried on a few
        tokens. Asked before any dropout is on."""
        if (head := adapters.inner(self.model).get_output_embeddings()) is None:
            return False
        batch = pad_left([self.prompts[0][:8]], self.base.pad, self.base.device)
        with torch.inference_mode(), self._head_input() as states:
            logits = self._logits(batch, 1)
            return torch.allclose(logits, head(states[-1][:, -1:]), rtol=1e-3, atol=1e-3)

    def _logits(self, batch: Batch, keep: int) -> torch.Tensor:
        return last_logits(self.model, batch, keep)

    @contextmanager
    def _head_input(self, skip: bool = False) -> Iterator[list[torch.Tensor]]:
        """Collects what enters the vocabulary projection: the last layer's normalised states. skip: it gets none of them,
        so that nothing is left for it to do."""
        states: list[torch.Tensor] = []

        def take(module: Any, args: Any) -> Any:
            states.append(args[0])
            return (args[0][:, :0], *args[1:]) if skip else None

        head = adapters.inner(self.model).get_output_embeddings()
        with nullcontext() if head is None else head.register_forward_pre_hook(take, prepend=skip):
            yield states


def answer_mask(base: BaseModel, task: Any, ids: Sequence[int]) -> NDArray[np.bool_]:
    """True for the tokens that the answer's characters lie in; all False when no answer can be read off."""
    text = decode(base, ids)
    span = task.answer_span(text)
    if span is None:
        return np.zeros(len(ids), dtype=bool)
    behind = _ends_of(base, text, ids)
    before = np.concatenate([[0], behind[:-1]])
    return np.asarray((behind > span[0]) & (before < span[1]), dtype=bool)


def _ends_of(base: BaseModel, text: str, ids: Sequence[int]) -> NDArray[np.intp]:
    """The character position behind each token of a decoded text.

    Tokens are not decoded one by one: SentencePiece would lose the space before a word.
    """
    if base.tokenizer.is_fast:
        again = base.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        if list(again["input_ids"]) == list(ids):
            return np.asarray([end for _, end in again["offset_mapping"]], dtype=np.intp)
    return np.asarray([len(decode(base, ids[: k + 1])) for k in range(len(ids))], dtype=np.intp)


def _sums(
    whole: str, part: str, nll: torch.Tensor, entropy: torch.Tensor, real: torch.Tensor, answer: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    """Row sums over the response and over its answer. A response with no readable answer counts whole: all of
    it is doubt about the answer. Tokens after the end are left out before summing: 0 × NaN would be NaN."""
    mine, real = torch.from_numpy(answer), real.cpu()
    nll, entropy = nll.cpu().double(), entropy.cpu().double()
    mine = torch.where(mine.any(1, keepdim=True), mine, real)
    sums = {}
    for name, mask in ((whole, real), (part, mine)):
        sums[f"{name}_entropy"] = entropy.where(mask, 0.0).sum(1).numpy()
        sums[f"{name}_nll"] = nll.where(mask, 0.0).sum(1).numpy()
        sums[f"{name}_length"] = mask.sum(1).double().numpy()
    return sums


def last_logits(model: Model, batch: Batch, keep: int) -> torch.Tensor:
    """Logits of the last `keep` positions, (rows, keep, vocabulary); no others are computed where the
    architecture can leave them out."""
    options = {"logits_to_keep": keep} if "logits_to_keep" in adapters.accepted(model) else {}
    out = model(**batch.inputs(adapters.exact_lengths(model)), **options)
    return out.logits[:, -keep:]


def next_logits(model: Model, batch: Batch) -> torch.Tensor:
    """Logits behind the last token, (rows, vocabulary)."""
    return last_logits(model, batch, 1)[:, -1]
