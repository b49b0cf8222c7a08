"""The real model: SmolLM2-135M on the synthetic demo, and the papers' files where they are at hand.

Marked `real`, run by `make test-all`; about 15 minutes on 2 cores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"
PEFT = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "lora_dropout": 0.1, "target_modules": "all-linear"}

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def smollm() -> Any:
    from guidestar.config import ModelConfig
    from guidestar.model.load import load

    return load(ModelConfig(name="smollm2-135m"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from guidestar.config import parse
    from guidestar.data.demo import write_demo
    from guidestar.data.pool import load_dataset

    folder = tmp_path_factory.mktemp("demo") / "data"
    write_demo(folder)
    return load_dataset(parse({"data": {"preset": "demo", "folder": str(folder)}}))


def test_the_demo_is_hard_for_the_base_model_and_learnable_from_all_labels(
    smollm: Any, demo: Any, tmp_path: Path
) -> None:
    from asked import train

    from guidestar.asking import evaluate
    from guidestar.config import TrainConfig
    from guidestar.model.adapters import adapted
    from guidestar.model.scorer import OwnScorer

    assert evaluate(OwnScorer(smollm, demo.task), demo.test, demo.task)[0]["accuracy"] < 0.6
    labelled = [(e, demo.gold[e.id]) for e in demo.pool]
    train(smollm, PEFT, TrainConfig(epochs=4, learning_rate=1e-3), labelled, demo.task, tmp_path / "a", seed=0)
    with adapted(smollm, tmp_path / "a") as model:
        assert evaluate(OwnScorer(smollm, demo.task, live=model), demo.test, demo.task)[0]["accuracy"] > 0.9


def test_a_score_hardly_depends_on_the_batch_in_bfloat16(smollm: Any, demo: Any) -> None:
    import dataclasses

    from asked import predict

    from guidestar.query.measures import evaluate_measure

    scores = [
        evaluate_measure(
            "entropy",
            predict(
                dataclasses.replace(smollm, batch_tokens=tokens),
                smollm.model,
                demo.pool[:64],
                {"label_log_probs"},
                demo.task,
            ),
        )
        for tokens in (1, 4096)
    ]
    assert np.corrcoef(scores[0], scores[1])[0, 1] > 0.98


@pytest.mark.skipif(not SHARED.is_dir(), reason="the papers' files are not beside the checkout")
@pytest.mark.parametrize(
    ("preset", "folder"), [("openbookqa", "star/OBQA"), ("gsm8k", "star/GSM8K"), ("boolq", "star/BoolQ")]
)
def test_two_small_rounds_on_the_papers_files(preset: str, folder: str, tmp_path: Path) -> None:
    from guidestar import run, summary
    from guidestar.records import Finished

    config = {
        "out": str(tmp_path / "run"),
        "data": {"preset": preset, "folder": str(SHARED / folder), "test_limit": 8, "pool_limit": 60},
        "task": {"max_new_tokens": 48},
        "query": {"warm_start": 8, "batch": 4, "budget": 12, "candidates": 8},
        "train": {"epochs": 1},
    }
    outcomes = run(config)
    assert all(isinstance(outcome, Finished) for outcome in outcomes.values())
    assert all(one["rounds"] == 2 and one["final"] is not None for one in summary(tmp_path / "run")["runs"])
