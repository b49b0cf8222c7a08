"""What every layer of a model makes of a prompt: for comparing layers, not for choosing examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from guidestar.model import adapters
from guidestar.model.batches import encode_prompts, prompt_batch, read_batches, token_state
from guidestar.model.load import BaseModel
from guidestar.progress import Tick
from guidestar.records import Example


def layer_states(
    base: BaseModel, model: Any, examples: Sequence[Example], tick: Tick = lambda done, total: None
) -> NDArray[np.float32]:
    """State of the last prompt token (of an encoder's first) behind every block, (layers, n, width) float32; the embedding layer is left out.

    base, model: the base model, and itself or a PEFT model on it, in eval mode. The last layer's state is the one behind
    the last norm, as transformers gives it.
    """
    prompts = encode_prompts(base, examples, 0 if base.labels else 1)
    exact = adapters.exact_lengths(model)
    found: NDArray[np.float32] | None = None
    done = 0
    with torch.inference_mode():
        for rows in read_batches(base, [len(p) for p in prompts], exact):
            batch = prompt_batch(base, [prompts[i] for i in rows])
            states = model(**batch.inputs(exact), output_hidden_states=True).hidden_states[1:]
            last = torch.stack([token_state(base, batch, state).float() for state in states]).cpu().numpy()
            if found is None:
                found = np.zeros((len(last), len(examples), last.shape[-1]), dtype=np.float32)
            found[:, np.asarray(rows)] = last
            done += len(rows)
            tick(done, len(examples))
    assert found is not None, "no examples"
    return found
