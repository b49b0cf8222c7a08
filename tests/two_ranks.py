"""A training by as many processes as are started, in float64: `two_ranks MODEL OUT SETTINGS…`, each of the
settings a JSON object, with "peft" where the adapter is another than LoRA, and with a folder's name in OUT behind it.

Rank 0 writes the adapters and the gradients of the first steps to OUT; the others follow it as they do in a run.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from test_predict import PEFT, choice
from test_train import LABELLED

from guidestar.asking import Lesson
from guidestar.config import ModelConfig, TrainConfig
from guidestar.model import load, ranks, train


def main() -> None:
    model, out, wanted = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    base = load.load(ModelConfig(name=str(model), dtype="float32"))
    base = dataclasses.replace(base, model=base.model.double())
    group, real = ranks.here(), ranks.Ranks.sum_gradients
    if os.environ.get("USE") == "fsdp2":
        group.spread(base.model, base.device)
        base = dataclasses.replace(base, spread=True)
    for text, name in zip(wanted[::2], wanted[1::2], strict=True):
        if group.rank:
            order = group.listen()
            train.follow(base, TrainConfig(**order["config"]), order)
            continue
        gradients: list[dict[str, torch.Tensor]] = []

        def summed(self: Any, parameters: Any, kept: list[dict[str, torch.Tensor]] = gradients) -> None:
            own = list(parameters)
            real(self, own)
            kept.append({str(i): p.grad.clone() for i, p in enumerate(own)})

        ranks.Ranks.sum_gradients = summed  # type: ignore[method-assign]
        folder, settings = out / name, json.loads(text)
        folder.mkdir()
        peft = settings.pop("peft", {**PEFT, "lora_dropout": 0.0})
        lesson = Lesson(labelled=LABELLED, seed=4, validation=LABELLED[:4])
        result = train.OwnTrainer(base, choice(), peft, TrainConfig(**settings))(lesson, folder)
        save_file(gradients[0], folder / "gradients.safetensors")
        (folder / "result.json").write_text(json.dumps([result.losses, result.validation_losses, result.best_epoch]))
    if group.rank:
        assert group.listen() == {"do": "end"}
    ranks.leave()


if __name__ == "__main__":
    main()
