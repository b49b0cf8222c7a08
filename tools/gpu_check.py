"""`make gpu-check`: what was written for a GPU and tested on a CPU, tried on the GPU of this machine.

In this order: the tests of the model in float32 on the GPU; float32 there against the CPU; measured memory against `plan`;
a scoring batch, a training step and 64 tokens with the waits of the host counted; bfloat16, float16 and NF4 against
float32; own engine against vLLM, where that is installed; two equal trainings. Figures go to a JSON file. Ends with 1 if something is not as it should be, with 2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

NEAR = 2e-3  # of values in float32 on two devices, relative to the largest
RELATED = 0.95  # least correlation of entropies in half precision with those in float32; NF4 is another model
TESTS = ("predict", "predict_fast", "token_values", "train", "classify", "large", "peft_contract")
LORA = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "lora_dropout": 0.1, "target_modules": "all-linear"}
NEEDS = frozenset({"label_log_probs", "gold_nll", "response_entropy"})

Found = tuple[bool, dict[str, Any]]  # whether it is as it should be, and the figures


@dataclass(frozen=True)
class Scene:
    """What is tried on what. model: a folder or a name. rows: labelled examples."""

    model: str
    device: str
    folder: Path
    rows: list[tuple[Any, str]]
    task: Any

    def load(self, dtype: str, device: str | None = None, quantize: Any = None) -> Any:
        """The model in a precision, on the scene's device or another."""
        from guidestar.config import ModelConfig
        from guidestar.model.load import load

        given: dict[str, Any] = {"name": self.model, "dtype": dtype, "device": device or self.device}
        return load(ModelConfig(**given, quantize=quantize))

    def train(self, base: Any, name: str, dropout: float = 0.1, **settings: Any) -> tuple[float, ...]:
        """Losses of a training whose adapter goes to the folder `name`."""
        from guidestar.asking import Lesson
        from guidestar.config import TrainConfig
        from guidestar.model.train import OwnTrainer

        (self.folder / name).mkdir()
        config = TrainConfig(**{"epochs": 1, **settings})
        peft = {**LORA, "lora_dropout": dropout}
        lesson = Lesson(labelled=self.rows, seed=1)
        return OwnTrainer(base, self.task, peft, config)(lesson, self.folder / name).losses

    def scores(self, base: Any, name: str | None = None, needs: frozenset[str] = NEEDS) -> Mapping[str, Any]:
        """Arrays of the bare model, or under an adapter of `train`."""
        from guidestar.asking import Ask
        from guidestar.model import adapters
        from guidestar.model.scorer import OwnScorer

        gold = {example.id: answer for example, answer in self.rows}
        with adapters.adapted(base, self.folder / name if name else None) as model:
            ask = Ask(needs, gold=gold)
            return OwnScorer(base, self.task, live=model)([e for e, _ in self.rows], ask).arrays


def suite(scene: Scene) -> Found:
    """The tests of the model, whose fixtures take the GPU where there is one."""
    files = [f"tests/test_{name}.py" for name in TESTS]
    done = subprocess.run(  # noqa: S603 - our own tests
        [sys.executable, "-m", "pytest", "-q", "-n", "0", *files], capture_output=True, text=True, check=False,
        env={**os.environ, "NVIDIA_TF32_OVERRIDE": "0"},
    )  # fmt: skip
    return done.returncode == 0, {"failed": [line for line in done.stdout.splitlines() if line.startswith("FAILED")]}


def against_cpu(scene: Scene) -> Found:
    """Values of the bare and the trained model, and the losses, in float32 without TF32."""
    apart: dict[str, float] = {}
    before = torch.get_float32_matmul_precision()
    found: dict[int, dict[str, Any]] = {}
    try:
        for device in ("cpu", scene.device):
            base = scene.load("float32", device)
            torch.set_float32_matmul_precision("highest")
            losses = scene.train(base, name := f"float32-{len(found)}", dropout=0.0)
            found[len(found)] = {**scene.scores(base), **_named("tuned", scene.scores(base, name)), "losses": losses}
    finally:
        torch.set_float32_matmul_precision(before)
    for key, values in found[0].items():
        one, two = np.asarray(values), np.asarray(found[1][key])
        apart[key] = float(np.abs(one - two).max() / max(np.abs(one).max(), 1e-9))
    return max(apart.values()) <= NEAR, apart


def _named(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix} {name}": values for name, values in arrays.items()}


def memory(scene: Scene) -> Found:
    """The peak of a training and of a scoring pass beside what `plan` says: its range holds the context of CUDA, too."""
    from guidestar import config as configs
    from guidestar.model import sizes
    from guidestar.study import fit

    figures, right = {}, True
    for quantize, again in ((None, False), (None, True), ("nf4", False)):
        base = scene.load("bfloat16", quantize=quantize)
        given = {"name": scene.model, "dtype": "bfloat16", "device": scene.device, "quantize": quantize}
        given["batch_tokens"] = base.batch_tokens
        config = configs.parse(
            {"data": {"preset": "demo"}, "model": given, "peft": LORA, "train": {"checkpointing": again}}
        )
        tokens = sorted(len(base.tokenizer(e.prompt)["input_ids"]) for e, _ in scene.rows)
        lengths = fit.Lengths(
            float(np.mean(tokens)), float(tokens[int(0.9 * (len(tokens) - 1))]), float(tokens[-1]), 3.0
        )
        planned = fit.peaks(config, *sizes.sizes_of(config), lengths, scene.task)
        name = f"{quantize or 'bfloat16'}{' checkpointing' if again else ''}"
        works: dict[str, Callable[[], Any]] = {
            "training": lambda base=base, name=name, again=again: scene.train(
                base, f"memory {name}", checkpointing=again
            ),  # type: ignore[misc]
            "scoring": lambda base=base: scene.scores(base, needs=frozenset({"label_log_probs"})),  # type: ignore[misc]
        }
        for phase, work in works.items():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            work()
            low, high = (end - fit.CUDA_CONTEXT for end in planned[phase].range)
            used = torch.cuda.max_memory_allocated()
            figures[f"{name}, {phase}"] = {"planned": [low, high], "used": used}
            right &= used <= 1.1 * high
        del base, works
    return right, figures


@contextmanager
def waits(device: str) -> Iterator[list[str]]:
    """The places where the host waits for a GPU while the block lasts."""
    seen: list[str] = []
    if not device.startswith("cuda"):
        yield seen
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield seen
        finally:
            torch.cuda.set_sync_debug_mode("default")
            seen += [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]


def profile(scene: Scene) -> Found:
    """Seconds and waits of a scoring pass, of a training and of 64 written tokens, and of how many batches and steps."""
    from guidestar.config import TaskConfig
    from guidestar.model.predict import respond
    from guidestar.progress import settle
    from guidestar.tasks import make_task

    base, figures = scene.load("auto"), {}
    free = make_task(TaskConfig(kind="text", max_new_tokens=64), [], "{answer}")
    steps = -(-len(scene.rows) // 8)
    works: dict[str, tuple[int, Callable[[], Any]]] = {
        "scoring, label words": (1, lambda: scene.scores(base, needs=frozenset({"label_log_probs"}))),
        "training steps": (steps, lambda: scene.train(base, f"profile {time.perf_counter_ns()}", batch_size=8)),
        "64 tokens": (64, lambda: respond(base, base.model, [e for e, _ in scene.rows[:8]], free)),
    }
    for name, (count, work) in works.items():
        work()  # what is loaded lazily is paid for
        settle()
        start = time.perf_counter()
        with waits(scene.device) as seen:
            work()
        settle()
        where = {place: seen.count(place) for place in sorted(set(seen))}
        figures[name] = {"seconds": time.perf_counter() - start, "of": count, "waits": len(seen), "where": where}
    return True, figures


def precisions(scene: Scene) -> Found:
    """Entropies of label words in half precision and in NF4 beside those in float32: their correlation."""
    needs, figures = frozenset({"label_log_probs"}), {}
    kinds = {"float32": None, "bfloat16": None, "float16": None, "nf4": "nf4"}
    if not scene.device.startswith("cuda"):
        del kinds["float16"]  # which few CPUs compute with
    entropies = {}
    for name, quantize in kinds.items():
        base = scene.load("float32" if quantize else name, quantize=quantize)
        log_p = scene.scores(base, needs=needs)["label_log_probs"][0]
        entropies[name] = -(np.exp(log_p) * log_p).sum(-1)
        figures[name] = float(np.corrcoef(entropies["float32"], entropies[name])[0, 1])
    return all(value >= RELATED for name, value in figures.items() if name != "nf4"), figures


def against_vllm(scene: Scene) -> Found:
    """Entropies of label words by the own engine and by vLLM, bare and trained: their rank correlation, and the share of the
    highest tenth that both name."""
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    from guidestar.asking import LABELS
    from guidestar.config import ModelConfig
    from guidestar.errors import ConfigError
    from guidestar.model.scorer import OwnScorer
    from guidestar.model.vllm import Served, VllmScorer

    base, examples, figures = scene.load("auto"), [e for e, _ in scene.rows], dict[str, Any]()
    try:
        served = Served(base, ModelConfig(name=scene.model), int(LORA["r"]), {"gpu_memory_utilization": 0.4})  # type: ignore[call-overload]
    except ConfigError as error:
        return True, {"not run": str(error)}
    scene.train(base, "vllm")
    for name, place in {"bare": None, "tuned": scene.folder / "vllm"}.items():
        scorers = OwnScorer(base, scene.task, place), VllmScorer(served, scene.task, place)
        log_p = [scorer(examples, LABELS).arrays["label_log_probs"][0] for scorer in scorers]
        one, two = (-(np.exp(each) * each).sum(-1) for each in log_p)
        tenths = [set(np.argsort(-each)[: max(1, len(each) // 10)].tolist()) for each in (one, two)]
        overlap = len(tenths[0] & tenths[1]) / len(tenths[0])
        figures[name] = {"rank correlation": float(spearmanr(one, two)[0]), "top tenth in common": overlap}
    return all(each["rank correlation"] >= RELATED for each in figures.values()), {"vllm": served.version, **figures}


def equal(scene: Scene) -> Found:
    """Two trainings with one seed: the largest difference of a weight, and of a loss. Bits are promised on a CPU alone."""
    from safetensors.torch import load_file

    base = scene.load("auto")
    losses = [scene.train(base, f"equal {i}") for i in range(2)]
    one, two = (load_file(scene.folder / f"equal {i}" / "adapter_model.safetensors") for i in range(2))
    apart = max(float((two[name].float() - value.float()).abs().max()) for name, value in one.items())
    return losses[0] == losses[1] and apart == 0 if scene.device == "cpu" else abs(losses[0][-1] - losses[1][-1]) < 0.1, {
        "weights": apart, "losses": [list(each) for each in losses]
    }  # fmt: skip


CHECKS: dict[str, Callable[[Scene], Found]] = {
    "tests": suite, "float32 against the CPU": against_cpu, "memory against plan": memory, "profile": profile,
    "precisions": precisions, "own engine against vLLM": against_vllm, "two equal trainings": equal,
}  # fmt: skip


def scene_of(folder: Path, device: str, model: str | None = None, rows: int = 96) -> Scene:
    """Demo messages for a model, or for a tiny one that is made here."""
    from guidestar.config import TaskConfig
    from guidestar.data.demo import SHARES, make_demo
    from guidestar.model.tiny import build_tiny_model
    from guidestar.records import Example
    from guidestar.tasks import make_task

    made = make_demo(seed=5, rows=rows)
    prompts = [f"Message: {row['text']}\nTopic:" for row in made]
    examples = [Example(f"{i:016x}", {"text": row["text"]}, prompts[i]) for i, row in enumerate(made)]
    if model is None:
        model = str(
            build_tiny_model(
                folder / "model", [f"{p} {r['label']}" for p, r in zip(prompts, made, strict=True)], steps=40
            )
        )
    task = make_task(TaskConfig(kind="choice", labels=list(SHARES), max_new_tokens=4), [], "{answer}")
    return Scene(model, device, folder, [(e, row["label"]) for e, row in zip(examples, made, strict=True)], task)


def check(scene: Scene, checks: Mapping[str, Callable[[Scene], Found]]) -> dict[str, Any]:
    """Every check's figures, and whether it is "right"; one that fails by an error is not, and the others go on."""
    found: dict[str, Any] = {}
    for name, one in checks.items():
        try:
            right, figures = one(scene)
        except Exception as error:  # whatever torch raises on a card that nobody has tried
            right, figures = False, {"error": f"{type(error).__name__}: {error}"}
        found[name] = {"right": bool(right), **figures}
        print(f"{'ok  ' if right else 'NOT '} {name}: {json.dumps(figures)[:2000]}", flush=True)
    return found


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a model's name or folder; default: smollm2-135m, or a tiny one with --tiny")
    parser.add_argument("--tiny", action="store_true", help="a tiny model that is made here, offline")
    parser.add_argument("--out", default="build/gpu-check.json", help="where the figures go")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu-check: this machine has no GPU that PyTorch can use, so nothing was checked", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        scene = scene_of(Path(folder), "cuda", None if options.tiny else options.model or "smollm2-135m")
        found = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, **check(scene, CHECKS)}
    place = Path(options.out)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"figures: {place}")
    return 0 if all(one["right"] for one in found.values() if isinstance(one, dict)) else 1


if __name__ == "__main__":
    sys.exit(main())
