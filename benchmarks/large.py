"""Time and memory of a large pool of short texts: `python -m benchmarks.large 10000 100000 [--out FILE]`.

Real commands, each in a process of its own: `guidestar label FILE` until the first questions are ready, `guidestar run` with
random and lean (a tiny encoder), the same command again when all is finished, and `guidestar score`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

TOPICS = {
    "billing": ("invoice", "refund", "charge", "card", "bill", "payment", "price", "receipt"),
    "delivery": ("parcel", "courier", "driver", "address", "box", "delay", "tracking", "door"),
    "other": ("lamp", "kettle", "manual", "shop", "hours", "colour", "size", "guide"),
}
FILLING = (
    "my",
    "the",
    "please",
    "about",
    "again",
    "yesterday",
    "today",
    "with",
    "never",
    "still",
    "order",
    "was",
    "is",
    "not",
)
MODEL_TEXTS = 300


def write(path: Path, n: int, answers: bool = True) -> Path:
    """n made-up messages of 8 to 12 words, a hundredth of them copies of an earlier one."""
    rng, names = np.random.default_rng(0), list(TOPICS)
    with path.open("w", encoding="utf-8") as file:
        kept: list[str] = []
        for i in range(n):
            topic = names[int(rng.integers(3))]
            words = [str(w) for w in rng.choice(FILLING, rng.integers(4, 7))]
            words += [str(w) for w in rng.choice(TOPICS[topic], 3)]
            line = json.dumps({"text": f"{' '.join(words)} {i}"} | ({"label": topic} if answers else {}))
            if i % 100 == 99:
                line = kept[i // 100 % len(kept)]
            if len(kept) < 1000:
                kept.append(line)
            file.write(line + "\n")
    return path


def tiny_encoder(folder: Path) -> Path:
    """A random BERT of two layers, 48 wide: what it costs is the package's own work."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    from guidestar.model.tiny import build_tiny_model

    texts = [json.loads(line)["text"] for line in write(folder / "texts.jsonl", MODEL_TEXTS).read_text().splitlines()]
    build_tiny_model(folder / "words", texts, steps=1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "words")
    torch.manual_seed(0)
    BertModel(BertConfig(
        vocab_size=len(tokenizer), hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id, initializer_range=0.1,
    )).save_pretrained(folder / "model")  # fmt: skip
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def watched(command: list[str], folder: Path, until: Callable[[], bool] | None = None) -> dict[str, float]:
    """Seconds by the clock and of the processor, and the peak memory of a command and its children, in bytes.

    until: the command is stopped when this is so.
    """
    with (folder / "said.log").open("ab") as log:
        start, peak, before = time.monotonic(), 0, _processor()
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)  # noqa: S603
        while process.poll() is None:
            done = until is not None and until()
            peak = max(peak, sum(_peak(pid) for pid in _family(process.pid)))
            if done:
                break
            time.sleep(0.5)
        seconds, stopped = time.monotonic() - start, process.poll() is None
        if stopped:
            process.terminate()
        if process.wait() and not stopped:
            raise SystemExit((folder / "said.log").read_text()[-3000:])
    return {"seconds": seconds, "processor": _processor() - before, "peak": float(peak)}


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _family(pid: int) -> list[int]:
    """A process and its descendants, whichever of its threads started them."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [p for child in path.read_text().split() for p in _family(int(child))]
    return found


def _peak(pid: int) -> int:
    try:
        line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0
    return int(line.split()[1]) * 1024


def measure(n: int, model: Path, scratch: Path, only: list[str]) -> dict[str, Any]:
    """All commands at one size."""
    command = [sys.executable, "-m", "guidestar"]
    folder = scratch / f"n{n}"
    folder.mkdir()
    config = {
        "out": "runs/pool", "seeds": [0], "strategies": ["random", "lean"],
        "data": {"pool": "pool.jsonl", "answer": "label", "template": "{text}", "test_share": 200 / n},
        "task": {"kind": "choice", "labels": list(TOPICS)},
        "model": {"name": str(model), "dtype": "float32", "head": "features"},
        "query": {"warm_start": 20, "batch": 10, "budget": 40},
        "peft": {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
        "train": {"epochs": 1, "batch_size": 8},
    }  # fmt: skip
    write(folder / "pool.jsonl", n)
    write(folder / "texts.jsonl", n, answers=False)
    (folder / "pool.yaml").write_text(json.dumps(config))
    found: dict[str, Any] = {"texts": n, "load": os.getloadavg()[0]}

    def ready() -> bool:
        import sqlite3

        path = next(folder.glob("runs/texts/*/run.sqlite"), None)
        if path is None:
            return False
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
                return bool(db.execute("SELECT count(*) FROM reserve").fetchone()[0])
        except sqlite3.Error:
            return False

    label = [*command, "label", "texts.jsonl", "--labels", ",".join(TOPICS), "--no-browser", f"model.name={model}"]
    steps = {
        "label": lambda: watched(label, folder, ready),
        "run": lambda: watched([*command, "run", "pool.yaml"], folder),
        "run again": lambda: watched([*command, "run", "pool.yaml"], folder),
        "score": lambda: watched(
            [*command, "score", "runs/pool/random-seed0", "texts.jsonl", "--keep", "kept", "--top", "10"], folder
        ),
    }
    for name, step in steps.items():
        if not only or name in only:
            found[name] = step()
            print(n, name, found[name], f"load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Parse, measure, print JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="+", type=int)
    parser.add_argument("--only", default="")
    parser.add_argument("--out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = tiny_encoder(Path(scratch))
        found = [measure(n, model, Path(scratch), [o for o in options.only.split(",") if o]) for n in options.sizes]
    text = json.dumps(found, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
