"""Memory of scoring a large file of short texts with a tiny model: `python -m benchmarks.pool 100000 MODEL`.

What `guidestar score --keep DIR --top 10` does. Prints JSON: peak memory of this process before (model, and a file of two
parts scored) and in all, and seconds. A process of its own for every size, since a peak is never forgotten.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

WORDS = ("order", "parcel", "refund", "lamp", "kettle", "invoice", "account")


def write(path: Path, n: int) -> Path:
    """n made-up messages, all different."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            file.write(json.dumps({"text": f"{WORDS[i % 7]} {i} {WORDS[i // 7 % 7]}"}) + "\n")
    return path


def main(n: int, model: str) -> dict[str, float]:
    """Score n made-up messages; see the module."""
    from guidestar import config as configs
    from guidestar.data.demo import SHARES
    from guidestar.scoring import CHUNK, highest, score_file
    from guidestar.study.fit import peak_memory

    config = configs.parse(
        {
            "data": {"pool": "none.jsonl", "template": "Message: {text}\nTopic:"},
            "task": {"kind": "choice", "labels": list(SHARES)},
            "model": {"name": model, "dtype": "float32", "batch_tokens": 8192},
        }
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def score(rows: int) -> None:
            path = write(folder / f"{rows}.jsonl", rows)
            highest(score_file(config, str(path), keep=folder / f"kept-{rows}"), 10)

        score(2 * CHUNK)  # what a part takes is there before and after
        before, start = peak_memory(), time.process_time()
        score(n)
        return {
            "examples": n,
            "part": CHUNK,
            "before": before,
            "peak": peak_memory(),
            "seconds": time.process_time() - start,
        }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), sys.argv[2])))
