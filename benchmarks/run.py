"""Run the benchmarks of one size and keep what they found: `python -m benchmarks.run --size small --data DIR`.

Every number stands beside what it is compared with, measured in turn in the same process on the same examples.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded; more are timed by the wall clock
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks import literal
from benchmarks.machine import clock, describe, flops, matmul_speed, ratio, side_by_side
from guidestar import config as configs
from guidestar.asking import Ask, Lesson
from guidestar.config import ModelConfig, TrainConfig
from guidestar.data.presets import apply_preset
from guidestar.data.stream import parts_of, survey
from guidestar.model import adapters
from guidestar.model.batches import encode_answer, encode_prompts
from guidestar.model.load import BaseModel, load
from guidestar.model.predict import predict
from guidestar.model.train import OwnTrainer
from guidestar.records import Example
from guidestar.store.files import write_bytes
from guidestar.tasks import make_task

RESULTS = Path(__file__).parent / "results"
NEEDS = {"gold_entropy", "gold_nll"}
LORA = {"peft_type": "LORA", "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": "all-linear"}
FOLDERS = {"boolq": "star/BoolQ", "openbookqa": "star/OBQA", "gsm8k": "star/GSM8K", "trec-6": "text/TREC-6"}


@dataclass(frozen=True)
class Size:
    """How much is measured. model: "tiny" is built on the spot. sets: dataset -> examples scored. agree: examples for
    bfloat16 against float32. new: new tokens; written: responses; together: of them, in a batch of `generate`; alone: of them, one at a time for the literal version.
    trained: examples; turns: of every comparison; pools: texts."""

    model: str
    r: int
    sets: Mapping[str, int]
    agree: int
    written: int
    together: int
    alone: int
    new: int
    train_sets: Sequence[str]
    trained: int
    turns: int
    pools: Sequence[int] = (20_000, 100_000)


SIZES = {
    "tiny": Size("tiny", 4, {"demo": 12}, 24, 8, 4, 2, 8, ["demo"], 16, 1, (1000,)),
    "small": Size(
        "smollm2-135m", 64, {"boolq": 48, "openbookqa": 48, "gsm8k": 16}, 200, 128, 32, 4, 64, ["trec-6", "boolq"], 48, 3, (100_000, 1_000_000)
    ),
    "medium": Size(
        "smollm2-135m", 64, {"boolq": 200, "openbookqa": 200, "gsm8k": 50}, 500, 200, 32, 8, 64, ["trec-6", "boolq"], 400, 5, (100_000, 1_000_000)
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One dataset's examples with their gold answers."""

    name: str
    examples: list[Example]
    gold: dict[str, str]
    task: Any

    def tokens(self, base: BaseModel) -> list[tuple[list[int], list[int]]]:
        """Prompt and response of every example."""
        prompts = encode_prompts(base, self.examples, 1)
        return [
            (p, encode_answer(base, self.task, e, self.gold[e.id])) for p, e in zip(prompts, self.examples, strict=True)
        ]


def read_case(name: str, data: Path, n: int) -> Case:
    """The first n training examples of a dataset; "demo" needs no files."""
    folder = data / FOLDERS.get(name, name)
    config = configs.parse({"data": {"preset": name, "folder": str(folder)}, "out": "unused"})
    settings, task_config, _ = apply_preset(config.data, config.task)
    if settings.pool is None:
        raise SystemExit(f"{name}: no pool in {folder}")
    task = make_task(task_config, [], settings.response)
    parts = parts_of(survey(settings.pool, config, lambda answer, where: None), 1024)
    pairs = ((e, a) for part in parts for e, a in zip(part.examples, part.answers, strict=True) if a is not None)
    kept = list({e.id: (e, a) for e, a in pairs}.values())[:n]
    return Case(name, [e for e, _ in kept], {e.id: task.parse_gold(a, e.where) for e, a in kept}, task)


def scoring(size: Size, case: Case, base: BaseModel, exact: BaseModel, folder: Path, speed: float) -> dict[str, Any]:
    """One deterministic pass and K = 3 dynamic passes against the literal scorer; agreement of the values."""
    _, now = clock(base.device)
    rows, n = case.tokens(base), len(case.examples)
    found: dict[str, Any] = {"examples": n}
    prompt, response = (float(np.mean([len(row[i]) for row in rows])) for i in range(2))
    found |= {"prompt_tokens": prompt, "response_tokens": response}
    kept: dict[str, Any] = {}

    def ours(which: BaseModel, model: Any, passes: int) -> None:
        kept["ours"] = predict(which, model, case.examples, case.task, Ask(NEEDS, passes=passes, gold=case.gold)).arrays

    def theirs(model: Any, passes: int) -> None:
        kept["literal"] = [
            literal.dynamic(model, p, r, passes) if passes else literal.teacher_forced(model, p, r) for p, r in rows
        ]

    with adapters.adapted(base, folder) as model, adapters.adapted(exact, folder) as plain:
        for label, passes in (("plain", 0), ("dynamic", 3)):
            times = side_by_side(
                {
                    "literal": lambda passes=passes: theirs(plain, passes),  # type: ignore[misc]
                    "ours": lambda passes=passes: ours(base, model, passes),  # type: ignore[misc]
                },
                size.turns, now,
            )  # fmt: skip
            found[label] = {
                "milliseconds": {name: 1e3 * float(np.median(t)) / n for name, t in times.items()},
                "ratio": ratio(times["literal"], times["ours"]),
            }
            if not passes:
                ours(exact, plain, 0)
                slow = np.asarray(kept["literal"])
                fast = np.stack([kept["ours"]["gold_entropy"][0], kept["ours"]["gold_nll"][0]], axis=1)
                found["largest_relative_difference_float32"] = float((abs(fast - slow) / abs(slow)).max())
    needed = float(np.mean([flops(base.model, len(p) + len(r), len(r)) for p, r in rows]))
    milliseconds = found["plain"]["milliseconds"]["ours"]
    found |= {"floor_milliseconds": 1e3 * needed / speed, "share_of_matmul_speed": 1e3 * needed / speed / milliseconds}
    return found


def precision(case: Case, base: BaseModel, exact: BaseModel, folder: Path) -> dict[str, Any]:
    """bfloat16 (as the model is loaded) against float32: rank correlation and overlap of the top tenth."""
    found: dict[str, Any] = {"examples": len(case.examples)}
    values: dict[str, list[np.ndarray]] = {}
    choice = case.task.kind == "choice"
    for which in (base, exact):
        with adapters.adapted(which, folder) as model:
            needs = NEEDS | ({"label_log_probs"} if choice else set())
            arrays = predict(which, model, case.examples, case.task, Ask(needs, gold=case.gold)).arrays
        values.setdefault("gold entropy", []).append(arrays["gold_entropy"][0])
        if choice:
            log_p = arrays["label_log_probs"][0]
            values.setdefault("label entropy", []).append(-(np.exp(log_p) * log_p).sum(-1))
    for name, (rough, fine) in values.items():
        k = max(len(fine) // 10, 1)
        best = [set(np.argsort(-v, kind="stable")[:k].tolist()) for v in (rough, fine)]
        found[name] = {
            "rank_correlation": float(spearmanr(rough, fine).statistic),
            "top_tenth_overlap": len(best[0] & best[1]) / k,
        }
    return found  # fmt: skip


def generation(size: Size, case: Case, base: BaseModel) -> dict[str, Any]:
    """Entropy of generated responses, in our own batches, against `generate(output_scores=True)` in the same precision: in
    batches that keep its scores small, all in one, and one response at a time, as the published code generates. The
    untuned model, which seldom ends early."""
    _, now = clock(base.device)
    examples = case.examples[: size.written]
    task = replace(case.task, max_new_tokens=size.new)
    prompts = [p for p, _ in case.tokens(base)[: size.written]]
    kept: dict[str, Any] = {}

    def theirs(rows: Sequence[list[int]], together: int) -> list[float]:
        found: list[float] = []
        for start in range(0, len(rows), together):
            part = rows[start : start + together]
            values, kept[f"bytes {together}"] = literal.generated(
                base.model, base.tokenizer, part, base.eos, base.pad, size.new
            )
            found += values
        return found

    def whole(together: int) -> None:
        kept["theirs"] = theirs(prompts, together)

    ask = Ask.of(["response_entropy", "response_length"])

    def ours() -> None:
        kept["ours"] = predict(base, base.model, examples, task, ask).arrays

    some = prompts[:: max(len(prompts) // size.alone, 1)][: size.alone]
    works = {str(n): partial(whole, n) for n in dict.fromkeys([len(examples), size.together])}
    works |= {"1": partial(theirs, some, 1), "ours": ours}
    times = {
        name: [seconds / (len(some) if name == "1" else len(examples)) for seconds in turns]
        for name, turns in side_by_side(works, size.turns, now).items()
    }
    slow, fast = np.asarray(kept["theirs"]), kept["ours"]["response_entropy"][0]
    return {
        "responses": len(examples), "new_tokens": size.new, "mean_length": float(kept["ours"]["response_length"].mean()),
        "milliseconds": {name: 1e3 * float(np.median(t)) for name, t in times.items()},
        "ratio": {name: ratio(turns, times["ours"]) for name, turns in times.items() if name != "ours"},
        "bytes_of_scores_kept": {name: kept[f"bytes {name}"] for name in times if name != "ours"} | {"ours": 2 * 4 * len(examples) * size.new},
        "median_relative_difference": float(np.median(abs(fast - slow) / np.maximum(abs(slow), 1e-9))),
    }  # fmt: skip


def training(size: Size, case: Case, base: BaseModel) -> dict[str, Any]:
    """One epoch of LoRA against `transformers.Trainer` with dynamic padding: tokens of text a second, and losses."""
    _, now = clock(base.device)
    rows = case.tokens(base)
    labelled = [(e, case.gold[e.id]) for e in case.examples]
    peft, batch, rate, epochs = {**LORA, "r": size.r}, 8, 5e-4, 2
    bf16 = base.dtype == torch.bfloat16
    kept: dict[str, Any] = {}

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            settings = TrainConfig(epochs=epochs, batch_size=batch, learning_rate=rate, b_decay=0.0)
            trainer, lesson = OwnTrainer(base, case.task, peft, settings), Lesson(labelled=labelled, seed=0)
            kept["ours"] = list(trainer(lesson, Path(folder) / "a").losses)

    def theirs() -> None:
        from peft import get_peft_model

        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = get_peft_model(base.model, adapters.make_config(peft))
            try:
                losses = literal.by_trainer(
                    model, base.tokenizer, rows, Path(folder), batch=batch, epochs=epochs, rate=rate, bf16=bf16
                )
            finally:
                adapters.detach(model)
            steps = len(losses) // epochs
            kept["theirs"] = [float(np.mean(losses[i * steps : (i + 1) * steps])) for i in range(epochs)]

    times = side_by_side({"trainer": theirs, "ours": ours}, size.turns, now)
    tokens = epochs * sum(len(p) + len(r) for p, r in rows)
    return {
        "examples": len(rows), "epochs": epochs, "batch": batch,
        "tokens_a_second": {name: tokens / float(np.median(t)) for name, t in times.items()},
        "ratio": ratio(times["trainer"], times["ours"]),
        "losses": {"trainer": kept["theirs"], "ours": kept["ours"]},
    }  # fmt: skip


def racing() -> dict[str, Any]:
    """Passes saved by elimination, and how many picks stay the same, over simulated pools."""
    from benchmarks.racing import simulate

    return {f"noise {noise}": simulate(5000, 500, 10, noise=noise, seeds=20) for noise in (0.05, 0.2, 0.5)}


def pool(size: Size, folder: Path) -> list[dict[str, Any]]:
    """Peak memory of scoring pools of short texts, each in a process of its own; see `pool.py`."""
    model = tiny_model(folder / "pool-model")
    found = []
    for n in size.pools:
        command = [sys.executable, "-m", "benchmarks.pool", str(n), str(model)]
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=alone)  # noqa: S603
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def tiny_model(folder: Path) -> Path:
    """A model of two layers that has read the demo's messages for a moment."""
    from guidestar.data.demo import make_demo
    from guidestar.model.tiny import build_tiny_model

    texts = [f"Message: {row['text']}\nTopic: {row['label']}" for row in make_demo(seed=11, rows=200)]
    return build_tiny_model(folder, texts, steps=40)


def bases(size: Size, folder: Path) -> tuple[BaseModel, BaseModel]:
    """The model as it is loaded by default, and in float32."""
    name = size.model
    if name == "tiny":
        name = str(tiny_model(folder / "model"))
    return load(ModelConfig(name=name)), load(ModelConfig(name=name, dtype="float32"))


def run(size_name: str, data: Path, parts: Sequence[str], say: Any = print) -> dict[str, Any]:
    """Everything of one size as JSON-able data."""
    size = SIZES[size_name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if size.model == "tiny":
            from guidestar.data.demo import write_demo

            write_demo(folder / "demo", seed=3, pool=60, test=10, validation=10)
            data = folder
        base, exact = bases(size, folder)
        which, now = clock(base.device)
        shape = base.model.config
        found: dict[str, Any] = {
            "size": size_name, "clock": which, "dtype": str(base.dtype).removeprefix("torch."), "r": size.r,
            "turns": size.turns, "model": base.name if size.model != "tiny" else "tiny", **describe(base.device),
        }  # fmt: skip
        for b in (base, exact):
            speed = matmul_speed(shape.hidden_size, shape.intermediate_size, 2048, b.dtype, b.device, now)
            found.setdefault("matmul_gigaflops", {})[str(b.dtype).removeprefix("torch.")] = speed / 1e9
        fast = 1e9 * found["matmul_gigaflops"][found["dtype"]]
        first = read_case(next(iter(size.sets)), data, max(size.agree, *size.sets.values()))
        labelled = [(e, first.gold[e.id]) for e in first.examples[-16:]]
        peft = {**LORA, "r": size.r}
        settings = TrainConfig(epochs=2, batch_size=8, learning_rate=1e-3)
        OwnTrainer(base, first.task, peft, settings)(Lesson(labelled=labelled, seed=0), folder / "adapter")
        works: dict[str, Any] = {
            "scoring": lambda: {
                name: scoring(size, read_case(name, data, n), base, exact, folder / "adapter", fast)
                for name, n in size.sets.items()
            },
            "precision": lambda: {first.name: precision(replace(first, examples=first.examples[: size.agree]), base, exact, folder / "adapter")},
            "generation": lambda: {first.name: generation(size, first, base)},
            "training": lambda: {name: training(size, read_case(name, data, size.trained), base) for name in size.train_sets},
            "racing": racing,
            "pool": lambda: pool(size, folder),
        }  # fmt: skip
        for name in parts or works:
            say(f"{name} …")
            found[name] = works[name]()
            say(json.dumps(found[name], indent=1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder with star/BoolQ, star/OBQA, … text/TREC-6"
    )
    parser.add_argument("--name", help="of the result file; default: the size")
    parser.add_argument("--part", action="append", default=[], help="only this part, and keep the others of the file")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    path = RESULTS / f"{given.name or given.size}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if given.part and path.exists() else {}
    if before and (threads := before["hardware"]["threads"]) != torch.get_num_threads():
        raise SystemExit(
            f"{path}: the other parts were measured with {threads} thread(s), this one would be with {torch.get_num_threads()}; "
            f"set OMP_NUM_THREADS={threads}, or give it another --name"
        )
    found = before | run(given.size, given.data, given.part, lambda text: print(text, flush=True))
    if before and "scoring" not in given.part:  # whose shares of it stand in the file
        found["matmul_gigaflops"] = before["matmul_gigaflops"]
    write_bytes(path, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())


if __name__ == "__main__":
    main()
