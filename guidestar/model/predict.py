"""One pass over examples that computes every array asked for.

Memory is bounded by the batch, whatever the size of the pool: of each batch only a few numbers an example are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from guidestar.asking import Ask, Responses, silent
from guidestar.asking.wrappers import vary
from guidestar.errors import DataError, ModelError, NoVariance
from guidestar.model import adapters, attention, classify, full, lora, words
from guidestar.model.batches import encode_answer, encode_response, walk
from guidestar.model.device import seeded
from guidestar.model.dropout import banked
from guidestar.model.load import BaseModel, Model
from guidestar.model.words import EMBEDDING, GENERATED, GOLD, LABEL
from guidestar.progress import Tick
from guidestar.records import Array, Example, Predictions
from guidestar.tasks import Task, scored_labels, several

ARRAYS = LABEL | EMBEDDING | GENERATED | GOLD


def predict(
    base: BaseModel, model: Model, examples: Sequence[Example], task: Task, ask: Ask, tick: Tick = silent
) -> Predictions:
    """What an `Ask` needs of `ARRAYS`, for all examples, from one walk over them.

    base, model: the base model, and itself or a PEFT model on it. What they can answer `OwnScorer` knows.
    Raises NoVariance when all K passes are equal, ModelError for non-finite logits (naming the example),
    DataError for a prompt that does not fit.
    """
    repeats, labels = max(ask.passes, 1), scored_labels(task)
    ids = tuple(e.id for e in examples)
    store: dict[str, NDArray[Any]] = {n: np.zeros((repeats, len(examples))) for n in ask.needs - LABEL - EMBEDDING}
    if ask.needs & LABEL:
        store["label_log_probs"] = np.zeros((repeats, len(examples), len(labels), *([2] * several(task))))
    if not examples:
        if ask.needs & EMBEDDING:
            store["embedding"] = np.zeros((1, 0, 1))
        return Predictions(ids, store, labels)

    work = (classify.Work if base.labels else words.Work)(base, model, examples, task, ask)
    fast = ready(base, model, ask.dropout if ask.passes else None)
    with torch.inference_mode(), seeded(ask.seed, base.device), fast, banked(model) as bank:
        for rows in walk(work.batches, len(examples), tick):
            at = np.asarray(rows)
            for k in range(repeats):
                bank.renew()
                for name, values in work.run(rows).items():
                    if name == "embedding":  # the mean over passes; K copies would not be read by anyone
                        if name not in store:
                            store[name] = np.zeros((1, len(examples), values.shape[-1]), dtype=np.float32)
                        store[name][0, at] += values / repeats
                    else:
                        store[name][k, at] = values
    predictions = Predictions(ids, store, labels)
    refuse_non_finite(predictions, examples)
    if ask.passes > 1:
        _refuse_equal_passes(predictions, model)
    return predictions


def respond(
    base: BaseModel, model: Model, examples: Sequence[Example], task: Task, stop: str | None = None, tick: Tick = silent
) -> Responses:
    """Generate a greedy response to every example with one plain pass.

    stop: a text that ends a response as the end token does; it is cut off the texts and counts in the arrays.
    """
    texts = [""] * len(examples)
    store: dict[str, Array] = {name: np.zeros(len(examples)) for name in GENERATED}
    if not examples:
        return Responses((), store)
    work = words.Work(base, model, examples, task, Ask(GENERATED))
    with torch.inference_mode(), ready(base, model):
        for rows in walk(work.batches, len(examples), tick):
            responses, values = work.generate(rows, stop)
            for i, text in zip(rows, responses, strict=True):
                texts[i] = text.partition(stop)[0] if stop else text
            for name, array in values.items():
                store[name][rows] = array
    ids = tuple(e.id for e in examples)
    refuse_non_finite(Predictions(ids, {name: array[None] for name, array in store.items()}), examples)
    return Responses(tuple(texts), store)


@contextmanager
def ready(base: BaseModel, model: Model, dropout: str | None = None) -> Iterator[None]:
    """The model as a plain pass, or one with dropout, runs fastest. An adapter is folded into float32 weights alone:
    bfloat16 would round most of it away (measured; see LOG.md). dropout: whose is on, as an `Ask` has it; None: none."""
    fold = not (dropout or base.spread) and adapters.inner(model).dtype == torch.float32
    with ExitStack() as stack:
        stack.enter_context(attention.products(base, model))
        if dropout:
            stack.enter_context(adapters.dropout_on(model, whole=dropout == "model"))
        stack.enter_context(lora.merged(model) if fold else lora.added(model))
        yield


def refuse_non_finite(predictions: Predictions, examples: Sequence[Example]) -> None:
    for name, array in predictions.arrays.items():
        bad = ~np.isfinite(array).all(axis=(0, *range(2, array.ndim)))
        if bad.any():
            first = examples[int(np.flatnonzero(bad)[0])]
            raise ModelError(
                f"{first.where or first.id}: {name} is not finite for {int(bad.sum())} of {len(examples)} examples; the model's "
                "logits hold NaN or infinity (try model.dtype: float32, or a lower learning rate)"
            )


def _refuse_equal_passes(predictions: Predictions, model: Model) -> None:
    """All passes equal means that no dropout acted: a silent zero would rank examples by nothing."""
    if vary(predictions.arrays):
        return
    config = getattr(model, "active_peft_config", None)
    if full.is_full(model):
        why = "full fine-tuning has no adapter, and the model's own dropout stays off"
    elif config is None:
        why = "there is no adapter on the model, and the base model's own dropout stays off"
    else:
        name = getattr(config.peft_type, "value", config.peft_type)
        rates = {k: v for k, v in vars(config).items() if k.endswith("dropout") and isinstance(v, (int, float))}
        if not rates:
            why = f"{name} has no dropout of its own"
        elif not any(rates.values()):
            why = f"{', '.join(f'{k} is {v}' for k, v in rates.items())}; set one above 0"
        else:
            why = f"{name}'s dropout ({', '.join(f'{k} {v}' for k, v in rates.items())}) does not act on this model"
    raise NoVariance(
        f"all Monte-Carlo passes are equal, so they say nothing: {why}. Use passes: 0, or an adapter with dropout, or "
        "dropout: model where the model was trained with some."
    )


def free_tokens(base: BaseModel, task: Task, examples: Sequence[Example], gold: Mapping[str, str]) -> list[int]:
    """Tokens to keep free behind each prompt for this task's responses, and for a free answer that is known (gold, by id) at
    least its length; a classification head writes none."""
    if base.labels:
        return [0] * len(examples)
    labels = [task.response_text(label) for label in task.classes]
    longest = max((len(encode_response(base, "x", w)) for w in labels), default=0)
    if longest >= base.max_length:
        raise DataError(f"a label word has {longest} tokens, more than the model's context of {base.max_length}")
    room, known = max(task.max_new_tokens, longest + 1), {} if task.classes else gold
    return [max(room, len(encode_answer(base, task, e, known[e.id]))) if e.id in known else room for e in examples]
