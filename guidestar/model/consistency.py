"""How far do sampled responses agree on the answer? K responses to every prompt, grouped by the answer read off each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from guidestar.asking import Ask, silent
from guidestar.model import adapters, generate, kv
from guidestar.model.batches import decode, encode_prompts, pad_left, token_batches, walk
from guidestar.model.load import BaseModel, Model
from guidestar.model.predict import ready, refuse_non_finite
from guidestar.model.words import next_logits
from guidestar.progress import Tick
from guidestar.records import Array, Example, Predictions
from guidestar.tasks import Task


def sampled_answers(
    base: BaseModel, model: Model, examples: Sequence[Example], task: Task, ask: Ask, tick: Tick = silent
) -> Array:
    """Which answer each of K sampled responses gave: codes that are equal for equal answers of an example, (K, n).

    See `sampled_texts` and `answer_groups`.
    """
    texts = sampled_texts(base, model, examples, task, ask, tick)
    groups = [answer_groups([task.parse(text) for text in responses], task) for responses in texts]
    return np.array(groups, dtype=np.float32).reshape(len(examples), ask.samples).T


def answer_groups(answers: Sequence[str | None], task: Task) -> NDArray[np.float32]:
    """A code for each answer, the place of the first that equals it by the task's own comparison ("18" and "18.0").

    All responses without a readable answer are one group: "no answer" is an outcome that a model can be sure of. A
    group for each would give the highest score to whatever is cut off at `max_new_tokens`, which no label can mend.

    >>> from guidestar.tasks import Number
    >>> answer_groups(["18", None, "18.0", "9", None], Number()).tolist()
    [0.0, 1.0, 0.0, 3.0, 1.0]
    """

    def same(one: str | None, other: str | None) -> bool:
        return one is other if one is None or other is None else task.correct(one, other)

    codes: list[int] = []
    for i, answer in enumerate(answers):
        codes.append(next((j for j in range(i) if codes[j] == j and same(answer, answers[j])), i))
    return np.asarray(codes, dtype=np.float32)


def sampled_texts(
    base: BaseModel, model: Model, examples: Sequence[Example], task: Task, ask: Ask, tick: Tick = silent
) -> list[tuple[str, ...]]:
    """K responses to every example, sampled from softmax(logits / temperature) to the end token or the task's limit.

    One plain model: no dropout is on. The draws of an example depend on the seed and its id alone, so it has the same
    responses in whatever order or batch it comes. ask: its samples, temperature and seed.
    Raises ModelError for logits that are not finite, naming the example.
    """
    limit, samples = task.max_new_tokens, ask.samples
    prompts = encode_prompts(base, examples, limit)
    texts: list[tuple[str, ...]] = [()] * len(examples)
    lengths = [(len(prompt) + limit) * samples for prompt in prompts]
    own_cache = kv.keeps_every_key(model)
    wide = torch.float32 if base.device.type == "mps" else torch.float64  # which that device does not have
    batches = token_batches(lengths, base.written_tokens, adapters.exact_lengths(model))
    with torch.inference_mode(), ready(base, model):
        for rows in walk(batches, len(examples), tick):
            draws = torch.from_numpy(np.concatenate([_draws(ask.seed, examples[i].id, samples, limit) for i in rows]))
            choose, some = generate.drawn(draws.to(base.device, wide), ask.temperature), [prompts[i] for i in rows]
            if own_cache:
                past = kv.roomy(model, None, len(rows), max(map(len, some)) + limit)
                batch = pad_left(some, base.pad, base.device, past=past)
                written = generate.write(base, partial(next_logits, model), batch, limit, choose, samples)
            else:
                batch = pad_left(some, base.pad, base.device)
                written = generate.by_transformers(base, model, batch, limit, choose, samples)
            nll = written.nll.where(written.real, 0.0).sum(1).view(len(rows), samples).T.cpu().numpy()
            said = Predictions(tuple(examples[i].id for i in rows), {"the probability of a sampled response": nll})
            refuse_non_finite(said, [examples[i] for i in rows])
            decoded = [decode(base, ids) for ids in generate.own_tokens(base, written)]
            for place, i in enumerate(rows):
                texts[i] = tuple(decoded[place * samples : (place + 1) * samples])
    return texts


def _draws(seed: int, id: str, samples: int, limit: int) -> NDArray[np.float64]:
    """Uniform draws of one example, (samples, limit)."""
    digest = hashlib.sha256(f"guidestar/sampled/{seed}/{id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big")).random((samples, limit))
