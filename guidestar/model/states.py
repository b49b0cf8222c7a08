"""What a model's states say of prompts: of every layer, in blocks for a classifier, by their gradient, through gates.

Nothing here is asked by label words or responses (`words`); each function walks once over its examples, and only the
states of one batch are in memory. base, model: the base model, and itself or a PEFT model on it, in eval mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from guidestar.asking import silent
from guidestar.model import adapters, heads
from guidestar.model.batches import Batch, encode_prompts, prompt_batch, read_batches, token_state, walk
from guidestar.model.load import BaseModel, Model
from guidestar.model.views import BLOCKS, views
from guidestar.progress import Tick
from guidestar.records import Array, Example

Rows = NDArray[np.intp]
Single = NDArray[np.float32]


def _walk(base: BaseModel, model: Model, examples: Sequence[Example], tick: Tick) -> Iterator[tuple[Rows, Batch]]:
    """Batches of prompts of similar length, and the positions of their examples."""
    prompts = encode_prompts(base, examples, 0 if base.labels else 1)
    for rows in walk(read_batches(base, list(map(len, prompts)), adapters.exact_lengths(model)), len(examples), tick):
        yield np.asarray(rows, dtype=np.intp), prompt_batch(base, [prompts[i] for i in rows])


def _in_order(parts: Iterable[tuple[Rows, Array]], n: int, axis: int = 0) -> Any:
    """The arrays of all batches as one, the n ≥ 1 examples along `axis` in their own order."""
    whole = np.empty(0)
    for i, (rows, array) in enumerate(parts):
        if i == 0:
            whole = np.empty((*array.shape[:axis], n, *array.shape[axis + 1 :]), dtype=array.dtype)
        whole[(slice(None),) * axis + (rows,)] = array
    return whole


def layer_states(base: BaseModel, model: Model, examples: Sequence[Example], tick: Tick = silent) -> Single:
    """State of the last prompt token (of an encoder's first) behind every block, (layers, n, width) float32, n ≥ 1; the
    embedding layer is left out.

    The last layer's state is the one behind the last norm, as transformers gives it.
    """
    exact, parts = adapters.exact_lengths(model), []
    with torch.inference_mode():
        for rows, batch in _walk(base, model, examples, tick):
            states = model(**batch.inputs(exact), output_hidden_states=True).hidden_states[1:]
            parts.append((rows, torch.stack([token_state(base, batch, s).float() for s in states]).cpu().numpy()))
    return np.asarray(_in_order(parts, len(examples), axis=1), dtype=np.float32)


def gates(base: BaseModel, model: Model, examples: Sequence[Example], tick: Tick = silent) -> dict[str, Single]:
    """Part (`unipelt.KINDS`) -> its gates in (0, 1), (layers, n), n ≥ 1: the mean over the tokens of each prompt.

    model: a UniPELT adapter on the base, in eval mode. Only layers that have one are counted.
    Raises ModelError for another adapter, or none.
    """
    from guidestar.model.peft.unipelt import KINDS, watched_gates

    parts: dict[str, list[tuple[Rows, Array]]] = {}
    with torch.inference_mode():
        for rows, batch in _walk(base, model, examples, tick):
            with watched_gates(model) as seen:
                model(**batch.inputs())
            for kind in KINDS:
                if layers := [torch.cat(passes).numpy() for (k, _), passes in sorted(seen.items()) if k == kind]:
                    parts.setdefault(kind, []).append((rows, np.stack(layers)))
    return {kind: _in_order(some, len(examples), axis=1) for kind, some in parts.items()}


def representation_gradient(base: BaseModel, model: Model, examples: Sequence[Example], tick: Tick = silent) -> Array:
    """‖∂ mean(h) / ∂ (e_1 … e_T)‖₂, h the state of the last prompt token behind the last norm (of an encoder's first),
    e the input embeddings: how much a text's representation depends on them.

    Returns (n,) float64. Dropout is off. The gradient is taken by the embeddings alone, so no weight gets one and nothing is kept between
    batches.
    Source: "RG" of Jukić and Šnajder 2023b (arXiv 2212.11680), with a causal model's last prompt token in place of [CLS].
    """
    exact, parts = adapters.exact_lengths(model), [(np.zeros(0, dtype=np.intp), np.zeros(0))]
    inputs: list[torch.Tensor] = []

    def keep(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        inputs[:] = [output.detach().requires_grad_()]
        return inputs[0]

    with adapters.inner(model).get_input_embeddings().register_forward_hook(keep):
        for rows, batch in _walk(base, model, examples, tick):
            with torch.enable_grad(), adapters.last_states(model) as states:
                model(**batch.inputs(exact))
                goal = token_state(base, batch, states[-1]).float().mean(dim=1).sum()  # rows do not touch each other
                (slope,) = torch.autograd.grad(goal, inputs)
            parts.append((rows, slope.float().flatten(1).norm(dim=1).cpu().double().numpy()))
    return np.asarray(_in_order(parts, len(examples)))


def features(base: BaseModel, model: Model, examples: Sequence[Example], tick: Tick) -> NDArray[np.float16]:
    """Six views of every text (`model/views.py`), (n, 6, width) float16, for a classifier that costs nothing once they are there."""
    around = heads.around(base.tokenizer) if base.encoder else (0, 0)
    body = adapters.inner(model).base_model  # without the vocabulary's logits
    if not examples:
        return np.zeros((0, BLOCKS, 0), dtype=np.float16)

    def parts() -> Iterator[tuple[Rows, Array]]:  # of a large pool they are not held twice
        for rows, batch in _walk(base, model, examples, tick):
            states = body(**batch.inputs(), output_hidden_states=True).hidden_states
            seen = views(states, batch.mask, base.encoder, around)
            yield rows, seen.clamp(-6e4, 6e4).half().cpu().numpy()

    with torch.inference_mode():
        return np.asarray(_in_order(parts(), len(examples)), dtype=np.float16)
