"""The probes `picks` and `layers`, end to end on a run of the tiny model with two strategies."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guidestar import loop
from guidestar.config import ModelConfig, parse
from guidestar.errors import ConfigError, StoreError
from guidestar.metrics.smoothness import smoothness
from guidestar.model import adapters
from guidestar.model.load import load
from guidestar.model.states import layer_states
from guidestar.rng import generator
from guidestar.store import Store
from guidestar.study.probes import probe
from guidestar.study.probes.inside import cka


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, demo_data: Path, tiny_folder: Path) -> Path:
    """Two strategies, two seeds, three rounds."""
    out = tmp_path_factory.mktemp("probed") / "run"
    loop.run(
        {
            "out": str(out),
            "seeds": [0, 1],
            "strategies": ["entropy", "random"],
            "data": {"preset": "demo", "folder": str(demo_data), "test_limit": 20, "pool_limit": 70},
            "model": {"name": str(tiny_folder), "dtype": "float32"},
            "query": {"warm_start": 16, "batch": 6, "budget": 28, "candidates": 40},
            "peft": {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
            "train": {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3},
        }
    )
    return out


@pytest.fixture
def experiment(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def asked(run: Path) -> list[str]:
    with Store.open(run) as store:
        return [pick.id for r in range(1, store.rounds()) for pick in store.query(r).picks]


# --- picks ----------------------------------------------------------------------------------------


def test_picks_of_the_strategies_of_a_seed(experiment: Path) -> None:
    found = probe(experiment / "entropy-seed0", "picks")
    mine, other = set(asked(experiment / "entropy-seed0")), set(asked(experiment / "random-seed0"))
    assert found.facts["strategies"] == ["entropy", "random"]
    assert found.facts["rounds"] == 2
    assert found.facts["overlap"][0] == [1.0, pytest.approx(len(mine & other) / len(mine | other))]
    assert found.facts["picks"]["entropy"]["picks"] == len(mine) == 12
    with Store.open(experiment / "random-seed0") as store:
        answers = [a.answer for id, a in store.annotations.answers().items() if id in other]
        pool = store.facts["data"]["pool"]
    assert found.facts["picks"]["random"]["classes"] == {c: answers.count(c) for c in sorted(set(answers))}
    both = 12 * 12 / (pool - 16)
    assert found.facts["chance"]["random"] == pytest.approx(both / (24 - both))
    place = experiment / "entropy-seed0" / "probes"
    assert {p.name for p in found.files} == {f"picks.{kind}" for kind in ("png", "pdf", "csv", "json")}
    assert json.loads((place / "picks.json").read_text()) == found.facts
    table = rows(place / "picks.csv")
    assert [row["strategy"] for row in table] == ["entropy", "random"]
    assert float(table[0]["overlap with random"]) == found.facts["overlap"][0][1]
    assert "entropy picked 12 examples in 2 rounds" in found.sentences[0]
    assert "entropy and random share" in found.sentences[1]


def test_picks_leave_out_rounds_that_not_all_have_asked(experiment: Path) -> None:
    """And runs of another seed; a run alone has nobody to be compared with."""
    shutil.rmtree(experiment / "random-seed0")
    found = probe(experiment / "entropy-seed0", "picks")
    assert found.facts["strategies"] == ["entropy"]
    assert found.sentences[1] == "No other strategy of this seed lies beside it, so there is no overlap to tell."


def test_picks_need_a_round_after_the_warm_start(tmp_path: Path, demo_data: Path, tiny_folder: Path) -> None:
    config = {
        "out": str(tmp_path / "run"), "strategies": ["entropy"], "model": {"name": str(tiny_folder), "dtype": "float32"},
        "data": {"preset": "demo", "folder": str(demo_data), "pool_limit": 30},
        "query": {"warm_start": 8, "batch": 4, "budget": 12},
    }  # fmt: skip
    with loop.Run(parse(config)) as run:
        run.ask()
    with pytest.raises(StoreError, match="nothing was asked after the warm start yet"):
        probe(tmp_path / "run", "picks")


# --- layers ---------------------------------------------------------------------------------------


def test_layers_of_every_round(experiment: Path, tiny_folder: Path) -> None:
    run = experiment / "entropy-seed0"
    found = probe(run, "layers", texts=15)
    facts = found.facts
    assert facts["rows"] == ["base", "0", "1", "2"]
    assert facts["texts"] == 15
    assert facts["labelled"] == 28
    base = load(ModelConfig(name=str(tiny_folder), dtype="float32"))
    with Store.open(run) as store:
        labelled = store.annotations.labelled(None)
        task = store.facts["task"]["labels"]
        folder = store.adapter(2)
        test = None
    bench = loop.Bench(parse(json.loads(json.dumps(_config(run)))))
    test = bench.fitting.test.examples
    order = generator(0, 0, "layers").permutation(len(test))[:15]
    sample = [test[i] for i in sorted(order)]
    plain = layer_states(base, base.model, sample)
    with adapters.adapted(base, folder) as model:
        tuned = layer_states(base, model, [*sample, *(e for e, _ in labelled)])
    for layer in range(len(plain)):
        assert facts["cka"]["linear"][2][layer] == pytest.approx(cka(plain[layer], tuned[layer, :15]), abs=1e-4)
        assert facts["cka"]["rbf"][2][layer] == pytest.approx(cka(plain[layer], tuned[layer, :15], rbf=True), abs=1e-4)
    classes = np.array([task.index(label.answer) for _, label in labelled])
    assert facts["smoothness"][3][0] == pytest.approx(smoothness(tuned[0, 15:], classes), rel=0.1)
    table = rows(run / "probes" / "layers.csv")
    assert len(table) == 4 * len(plain)
    assert {row["cka_linear"] for row in table if row["round"] == "base"} == {"1.0"}
    assert "After round 2 the first" in found.sentences[0]
    assert "Besov smoothness of the 28 labelled examples" in found.sentences[1]


def _config(run: Path) -> dict[str, Any]:
    with Store.open(run) as store:
        return dict(store.facts["config"])


def test_layers_are_computed_once(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = experiment / "random-seed1"
    first = probe(run, "layers", texts=10).facts

    def refuse(*args: Any, **options: Any) -> Any:
        raise AssertionError("it was computed again")

    monkeypatch.setattr("guidestar.model.states.layer_states", refuse)
    assert probe(run, "layers", texts=10).facts == first
    with pytest.raises(ConfigError, match="texts is 2; allowed: 3 or more"):
        probe(run, "layers", texts=2)


def test_the_last_layer_is_what_enters_the_projection(base: Any, demo_data: Path) -> None:
    """So that the last layer's state is the embedding that strategies see; the others are the blocks'."""
    from asked import predict

    from guidestar.data.pool import load_dataset

    data = load_dataset(parse({"data": {"preset": "demo", "folder": str(demo_data)}}))
    found = layer_states(base, base.model, data.pool[:7])
    assert found.shape == (base.model.config.num_hidden_layers, 7, base.model.config.hidden_size)
    embedding = predict(base, base.model, data.pool[:7], {"embedding"}, data.task).arrays["embedding"][0]
    np.testing.assert_allclose(found[-1], embedding, rtol=1e-3, atol=1e-4)
    alone = layer_states(base, base.model, data.pool[3:4])
    np.testing.assert_allclose(found[:, 3:4], alone, rtol=1e-3, atol=1e-3)
    assert not math.isclose(float(np.abs(found[0] - found[-1]).max()), 0.0)
