"""The cache of what the base model says: computed once, and never for another model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loops import SMALL, MakeConfig, answer_all, dumps, nothing_stays, picks  # noqa: F401 - fixtures

from guidestar import loop
from guidestar.asking import LABELS, Cached
from guidestar.bench import Bench, read_config
from guidestar.errors import StoreError
from guidestar.loop import Run
from guidestar.model.scorer import OwnScorer
from guidestar.store import Store
from guidestar.store.cache import Cache


def test_base_scores_are_computed_once_and_are_what_the_model_says(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later rounds and other strategies, here with the same arrays, read the first base pass from the cache."""
    from guidestar.model import predict as predict_room

    calls: list[list[str]] = []
    plain = predict_room.predict

    def count(base: Any, model: Any, examples: Any, *rest: Any, **options: Any) -> Any:
        if model is base.model:
            calls.append([e.id for e in examples])
        return plain(base, model, examples, *rest, **options)

    monkeypatch.setattr(predict_room, "predict", count)
    twice = {"use": "star", "name": "again", "passes": 2}
    mixed = {"use": "entropy", "mix": {"schedule": "constant"}}
    config = make_config(
        **{**SMALL, "query": {**SMALL["query"], "candidates": None}}, strategies=["star", twice, mixed]
    )
    bench = Bench(read_config(config))
    loop.run(config)
    dataset = bench.dataset
    assert dataset.test is not None
    assert calls == [[e.id for e in dataset.test.examples], [e.id for e in dataset.pool]], (
        f"one pass over the test set for the report and one over the pool; found {list(map(len, calls))}"
    )

    fresh = plain(bench.base, bench.base.model, dataset.pool, dataset.task, LABELS)
    cached = bench.untuned()(dataset.pool, LABELS)
    assert len(calls) == 2, "that answer came from the cache"
    assert np.array_equal(cached.arrays["label_log_probs"], fresh.arrays["label_log_probs"])
    p = dict(zip(fresh.ids, fresh.arrays["label_log_probs"][0], strict=True))
    for name in ("star-seed0", "again-seed0", "entropy-seed0"):
        with Store.open(tmp_path / "run" / name) as store:
            for pick in store.query(2).picks:
                assert pick.details["base"] == pytest.approx(-(np.exp(p[pick.id]) * p[pick.id]).sum(), rel=1e-12)


@pytest.mark.parametrize("candidates", [None, 20])
def test_a_run_does_not_depend_on_who_filled_the_cache(
    candidates: int | None, make_config: MakeConfig, tmp_path: Path
) -> None:
    """The last bits of a score may depend on its batch, so what another seed asked before must not change it."""
    changes = {**SMALL, "query": {**SMALL["query"], "candidates": candidates}}
    found = []
    for seeds in ([0], [1, 0]):
        folder = tmp_path / f"{len(seeds)}"
        loop.run(make_config(out=str(folder), strategies=["star_diverse"], seeds=seeds, **changes))
        found.append(dumps(folder)["star_diverse-seed0"])
    assert found[0] == found[1]


def test_a_changed_base_model_does_not_get_the_others_scores(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    bench = Bench(read_config(make_config(**SMALL)))
    examples, task = bench.dataset.pool[:5], bench.dataset.task

    def ask(base: Any) -> np.ndarray:
        found = Cached(OwnScorer(base, task), Cache(bench.cache))(examples, LABELS)
        return np.asarray(found.arrays["label_log_probs"])

    before = ask(bench.base)
    with torch.no_grad():
        bench.base.model.model.embed_tokens.weight.mul_(1.5)
    assert np.array_equal(ask(bench.base), before), "the same fingerprint reads the cache"
    assert not np.array_equal(ask(dataclasses.replace(bench.base, fingerprint="other")), before)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-9], "cannot be read as a safetensors file"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "its content has changed since it was written"),
    ],
    ids=["truncated", "one bit"],
)
def test_a_damaged_cache_is_named_and_can_be_deleted(
    damage: Callable[[bytes], bytes], message: str, make_config: MakeConfig
) -> None:
    config = make_config(**{**SMALL, "query": {**SMALL["query"], "candidates": None}}, strategies=["star"])
    with Run(config) as run:
        answer_all(run, run.ask())
        second = run.ask()
        cache = list(run.bench.cache.iterdir())
        assert cache
        for file in cache:
            file.write_bytes(damage(file.read_bytes()))
    with Run(config) as run:
        answer_all(run, second)
        with pytest.raises(StoreError, match=rf"cache/base-[0-9a-f]{{16}}\.safetensors: {message}"):
            run.ask()
    for file in cache:
        file.unlink()
    with Run(config) as run:
        assert len(run.ask()) == 2
