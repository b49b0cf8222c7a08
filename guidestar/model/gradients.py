"""The gradient of a text's representation by its input embeddings: how much the representation hangs on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from guidestar.model import adapters
from guidestar.model.batches import encode_prompts, prompt_batch, read_batches, token_state
from guidestar.model.load import BaseModel
from guidestar.progress import Tick
from guidestar.records import Array, Example


def representation_gradient(
    base: BaseModel,
    model: Any,
    examples: Sequence[Example],
    tick: Tick = lambda done, total: None,
) -> Array:
    """‖∂ mean(h) / ∂ (e_1 … e_T)‖₂, h the state of the last prompt token behind the last norm (of an encoder's first),
    e the input embeddings.

    base, model: the base model, and itself or a PEFT model on it, in eval mode. Returns (n,) float64.
    Dropout is off. The gradient is taken by the embeddings alone, so no weight gets one and nothing is kept between
    batches.
    Source: "RG" of Jukić and Šnajder 2023b (arXiv 2212.11680), with a causal model's last prompt token in place of [CLS].
    """
    found = np.zeros(len(examples))
    if not examples:
        return found
    prompts = encode_prompts(base, examples, 0 if base.labels else 1)
    exact = adapters.exact_lengths(model)
    table = adapters.inner(model).get_input_embeddings()
    done = 0
    for rows in read_batches(base, [len(p) for p in prompts], exact):
        batch = prompt_batch(base, [prompts[i] for i in rows])
        inputs: list[torch.Tensor] = []

        def keep(module: Any, args: Any, output: torch.Tensor, inputs: list[torch.Tensor] = inputs) -> torch.Tensor:
            inputs.append(output.detach().requires_grad_())
            return inputs[-1]

        handle = table.register_forward_hook(keep)
        try:
            with torch.enable_grad(), adapters.last_states(model) as states:
                model(**batch.inputs(exact))
                goal = token_state(base, batch, states[-1]).float().mean(dim=1).sum()  # rows do not touch each other
                (slope,) = torch.autograd.grad(goal, inputs[:1])
        finally:
            handle.remove()
        found[np.asarray(rows)] = slope.float().flatten(1).norm(dim=1).cpu().double().numpy()
        done += len(rows)
        tick(done, len(examples))
    return found
