"""Memory of scoring a large pool of short texts with a tiny model: `python -m benchmarks.pool 100000 MODEL`.

Prints JSON: peak memory of this process before scoring and in all, of the examples, and seconds. A process of its own
for every size, since a peak is never forgotten.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path


def peak() -> int:
    """Largest resident memory of this process so far, in bytes."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size


def main(n: int, folder: str, part: int) -> dict[str, float]:
    """Score n made-up messages; see the module."""
    from guidestar.config import ModelConfig, TaskConfig
    from guidestar.data.demo import SHARES
    from guidestar.data.tasks import make_task
    from guidestar.model.load import load
    from guidestar.model.parts import predict_in_parts
    from guidestar.records import Example

    base = load(ModelConfig(name=folder, dtype="float32", batch_tokens=8192))
    task = make_task(TaskConfig(kind="choice", labels=list(SHARES)), [], "{answer}")
    words = ("order", "parcel", "refund", "lamp", "kettle", "invoice", "account")
    texts = [f"{words[i % 7]} {i} {words[i // 7 % 7]}" for i in range(n)]
    pool = [Example(f"{i:016x}", {}, f"Message: {text}\nTopic:") for i, text in enumerate(texts)]
    predict_in_parts(
        base, base.model, pool[:part], {"label_log_probs"}, task, folder=Path(folder), question={}, part=part
    )  # what one part takes is there before and after
    before, start = peak(), time.process_time()
    with tempfile.TemporaryDirectory() as parts:
        predict_in_parts(base, base.model, pool, {"label_log_probs"}, task, folder=Path(parts), question={}, part=part)
    return {"examples": n, "part": part, "before": before, "peak": peak(), "seconds": time.process_time() - start}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 16384)))
