"""Numbers, memory and time of a training step of every method: `python -m benchmarks.methods STUDY.yaml [ROW …]`.

The rows of a study are trained for a few steps on synthetic texts with the study's first model. Time is the mean of CPU
seconds of one thread; memory is what a step keeps for its backward pass, without the model's own weights, the mean of two. Results are
added to results/methods/step.json, from which docs/methods.md is made.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded

import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe
from guidestar.asking import Lesson
from guidestar.config import ModelConfig, RunConfig, parse
from guidestar.data.demo import write_demo
from guidestar.data.pool import load_dataset
from guidestar.model import adapters, layers, train
from guidestar.model.load import BaseModel, load
from guidestar.store.files import write_bytes
from guidestar.study.compose import load_study

RESULTS = Path(__file__).parents[1] / "results" / "methods" / "step.json"
STEPS, WATCHED, BATCH = 8, 3, 8  # steps in all, those whose memory is counted before the clock, examples of each


def measured(base: BaseModel, config: RunConfig, labelled: Any, task: Any) -> dict[str, Any]:
    """{"numbers": trained beside the head, "seconds": of a step, "bytes": kept for its backward pass, "still": whether two
    dropout passes of the trained adapter are equal}."""
    plain, own = layers.split(config.peft)
    model = adapters.attach(base, {**plain, "layers": [0]} if own.get("layers") == "fisher" else config.peft, seed=0)
    numbers = adapters.numbers(model)
    adapters.detach(model)
    settings = config.train.model_copy(
        update={"min_steps": STEPS, "epochs": 1, "batch_size": BATCH, "recipe": None, "learning_rate": 1e-3}
    )
    known = {p.untyped_storage().data_ptr() for p in base.model.parameters()}
    seen, kept, times = set(known), [0], [0.0]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = (tensor.coalesce().values() if tensor.is_sparse else tensor).untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept[-1] += storage.nbytes()
        return tensor

    watching = ExitStack()

    def tick(done: int, total: int) -> None:
        times.append(time.process_time())
        if done < WATCHED:
            seen.clear()
            seen.update(known)
            kept.append(0)
        elif done == WATCHED:
            watching.close()

    with tempfile.TemporaryDirectory() as folder, watching:
        watching.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))
        trainer = train.OwnTrainer(base, task, config.peft, settings)
        trainer(Lesson(labelled=labelled, seed=0), Path(folder) / "a", tick)
        with adapters.adapted(base, Path(folder) / "a") as model:
            ids = torch.tensor([base.tokenizer(labelled[0][0].prompt)["input_ids"]])
            torch.manual_seed(0)
            with adapters.dropout_on(model), torch.inference_mode():
                one, two = (model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits for _ in range(2))
    step = (times[-1] - times[WATCHED + 1]) / (STEPS - WATCHED - 1)
    return {
        "numbers": numbers,
        "seconds": round(step, 4),
        "bytes": sum(kept[1:]) // len(kept[1:]),
        "still": bool(torch.equal(one, two)),
    }


def main(arguments: list[str]) -> None:
    """Measure the rows that are named, or all that are not in the results yet."""
    study, *names = arguments
    cells = {cell.tags["method"]: cell for cell in load_study(study, ["folder=null", "datasets=[{name: demo}]"]).cells}
    kept: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"methods": {}}
    names = names or [name for name in cells if not name.startswith("random-") and name not in kept["methods"]]
    with tempfile.TemporaryDirectory() as folder:
        write_demo(Path(folder), seed=3, pool=64, test=10, validation=10)
        data = load_dataset(
            parse({"data": {"preset": "demo", "folder": folder}, "query": {"warm_start": 16, "budget": 16}})
        )
    labelled = [(e, data.gold[e.id]) for e in data.pool[:16]]
    model = next(iter(cells.values())).config.model
    base = load(ModelConfig(name=model.name, dtype="float32", head="features"), labels=data.task.labels)
    kept |= {"model": model.name, "batch": BATCH, **describe(base.device)}
    for name in names:
        try:
            kept["methods"][name] = measured(base, cells[name].config, labelled, data.task)
        except Exception as error:  # a type that does not fit is a result
            kept["methods"][name] = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        print(name, kept["methods"][name], flush=True)
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(RESULTS, (json.dumps(kept, indent=1, sort_keys=True) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
