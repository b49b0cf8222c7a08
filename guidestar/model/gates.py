"""What the gates of a UniPELT adapter say to examples: which of its four parts is in use, in which layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from guidestar.model.batches import encode_prompts, prompt_batch, read_batches
from guidestar.model.load import BaseModel
from guidestar.progress import Tick
from guidestar.records import Example


def gates(
    base: BaseModel, model: Any, examples: Sequence[Example], tick: Tick = lambda done, total: None
) -> dict[str, NDArray[np.float32]]:
    """Part (`unipelt.KINDS`) -> its gates in (0, 1), (layers, n): the mean over the tokens of each prompt.

    model: a UniPELT adapter on the base, in eval mode. Only layers that have one are counted.
    Raises ModelError for another adapter, or none.
    """
    from guidestar.model.peft.unipelt import KINDS, watched_gates

    prompts = encode_prompts(base, examples, 0 if base.labels else 1)
    found: dict[str, NDArray[np.float32]] = {}
    done = 0
    with torch.inference_mode():
        for rows in read_batches(base, [len(p) for p in prompts]):
            batch = prompt_batch(base, [prompts[i] for i in rows])
            with watched_gates(model) as seen:
                model(**batch.inputs())
            for kind in KINDS:
                layers = [torch.cat(passes).numpy() for (k, _), passes in sorted(seen.items()) if k == kind]
                if layers:
                    whole = found.setdefault(kind, np.zeros((len(layers), len(examples)), dtype=np.float32))
                    whole[:, np.asarray(rows)] = np.stack(layers)
            done += len(rows)
            tick(done, len(examples))
    return found
