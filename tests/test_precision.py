"""Scoring in another precision than training: the same as a model of that precision, and nothing stays behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import predict
from test_predict import choice, examples

from guidestar import loop
from guidestar.asking import InParts
from guidestar.errors import ConfigError
from guidestar.model import adapters
from guidestar.model.load import BaseModel
from guidestar.model.scorer import OwnScorer, computing_in, precision
from guidestar.store import Store

NEEDS = frozenset({"label_log_probs", "response_entropy"})


def in_bfloat16(base: BaseModel) -> BaseModel:
    return dataclasses.replace(base, model=base.model.to(torch.bfloat16), dtype=torch.bfloat16)


def scores(base: BaseModel, folder: Path) -> dict[str, np.ndarray]:
    with adapters.adapted(base, folder) as model:
        return dict(predict(base, model, examples(), NEEDS, choice()).arrays)


def test_scores_are_those_of_a_model_in_that_precision(base: Any, adapter: Path) -> None:
    half = in_bfloat16(base)
    bits = {name: tensor.clone() for name, tensor in half.model.state_dict().items()}
    before = scores(half, adapter)
    with computing_in(half, "float32") as whole:
        assert whole.dtype == torch.float32
        found = scores(whole, adapter)
    assert all(torch.equal(tensor, bits[name]) for name, tensor in half.model.state_dict().items())
    assert {t.dtype for t in half.model.parameters()} == {torch.bfloat16}
    after = scores(half, adapter)
    twin = scores(dataclasses.replace(half, model=half.model.float(), dtype=torch.float32), adapter)
    for name in NEEDS:
        np.testing.assert_array_equal(after[name], before[name])
        np.testing.assert_array_equal(found[name], twin[name])
        assert not np.array_equal(found[name], before[name])


def test_the_same_precision_changes_nothing_and_a_quantised_model_is_refused(base: Any) -> None:
    for dtype in (None, "float32"):
        with computing_in(base, dtype) as same:
            assert same is base
    base.model.is_quantized = True
    with pytest.raises(ConfigError, match="the model is quantised"), computing_in(base, "bfloat16"):
        pass


def test_a_run_scores_in_it_and_trains_in_its_own(
    make_config: Callable[..., dict[str, Any]], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.dtype] = []
    real = InParts.__call__

    def watched(self: InParts, *given: Any, **options: Any) -> Any:
        assert isinstance(self.scorer, OwnScorer)
        seen.append(precision(self.scorer.base, self.scorer.dtype))
        return real(self, *given, **options)

    monkeypatch.setattr(InParts, "__call__", watched)
    config = make_config(
        model={"name": str(tiny_folder), "dtype": "bfloat16", "score_dtype": "float32"},
        strategies=["star"],
        query={"warm_start": 8, "batch": 4, "budget": 12, "candidates": 20},
        train={"epochs": 1},
    )
    loop.run(config)
    assert seen == [torch.bfloat16, torch.float32, torch.float32], "the test set for the report; the pool twice"
    with Store.open(tmp_path / "run" / "star-seed0") as store:
        assert store.facts["model"]["dtype"] == "bfloat16"
        assert store.metrics()[-1].labels == 12
