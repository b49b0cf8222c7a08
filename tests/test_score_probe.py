"""The probe `score` on runs of the tiny model: numbers recomputed from the stores, and sentences that follow them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked import predict
from loops import SMALL, MakeConfig, sums
from sklearn.metrics import roc_auc_score

from guidestar import loop
from guidestar.bench import Bench, read_config
from guidestar.errors import ConfigError
from guidestar.model import adapters
from guidestar.query.measures import entropy
from guidestar.store import Store
from guidestar.study.probes import noise, probe
from guidestar.study.probes.score import _sentences


def test_the_numbers_are_those_of_the_adapters(make_config: MakeConfig) -> None:
    config = make_config(**{**SMALL, "train": {"epochs": 4, "learning_rate": 1e-2}}, strategies=["star"])
    loop.run(config)
    place = Path(config["out"]) / "star-seed0"
    found = probe(place, "score")
    facts = found.facts
    assert facts["on"] == "validation set"
    assert list(facts["models"]) == ["base", "round 0", "round 1", "round 2"]
    assert set(facts["models"]["round 2"]["measures"]) == {
        "entropy", "least_confidence", "margin", "entropy of passes", "least_confidence of passes", "margin of passes",
        "entropy_of_mean of passes", "bald of passes", "vote_entropy of passes",
    }  # fmt: skip
    assert set(facts["models"]["base"]["measures"]) == {"entropy", "least_confidence", "margin"}
    bench = Bench(read_config(config))
    assert bench.fitting.validation is not None
    pairs, task = bench.fitting.validation.answered(), bench.fitting.task
    with Store.open(place) as store:
        adapter = store.adapter(2)
    with adapters.adapted(bench.base, adapter) as model:
        log_probs = predict(bench.base, model, [e for e, _ in pairs], {"label_log_probs"}, task).arrays[
            "label_log_probs"
        ][0]
    wrong = log_probs.argmax(axis=1) != [task.labels.index(a) for _, a in pairs]
    tuned = facts["models"]["round 2"]
    assert tuned["accuracy"] == pytest.approx(1 - wrong.mean())
    assert tuned["measures"]["entropy"]["auroc"]["estimate"] == pytest.approx(roc_auc_score(wrong, entropy(log_probs)))
    assert tuned["measures"]["entropy"]["aurc_blind"] == pytest.approx(wrong.mean())
    assert -1 <= tuned["measures"]["entropy"]["rank_with_base"] <= 1
    assert sum(c["all"] for c in tuned["measures"]["margin"]["classes"].values()) == pytest.approx(1)
    assert facts["models"]["base"]["measures"]["entropy"]["rank_with_base"] is None
    assert {path.name for path in found.files} == {"score.json", "score.csv", "score.png", "score.pdf"}
    with (place / "probes" / "score.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 + 3 * 9
    assert float(rows[3]["auroc"]) == facts["models"]["round 0"]["measures"]["entropy"]["auroc"]["estimate"]


def test_what_was_asked_before_is_read_from_the_disk(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(**SMALL, strategies=["entropy"])
    loop.run(config)
    first = probe(Path(config["out"]), "score")

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("predicted again")

    monkeypatch.setattr("guidestar.model.predict.predict", refuse)
    assert probe(Path(config["out"]), "score").facts == first.facts


def test_generated_answers_have_answer_tokens_and_all_tokens_apart(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        data={
            "preset": None, "folder": None, "pool": str(sums(tmp_path / "sums.jsonl", 60)), "test_share": 0.2,
            "test_limit": 6, "answer": "answer", "template": "Question: {question}\nAnswer:",
        },
        task={"kind": "number", "max_new_tokens": 8},
        query=SMALL["query"], train=SMALL["train"], peft=SMALL["peft"], strategies=["random"],
    )  # fmt: skip
    loop.run(config)
    facts = probe(Path(config["out"]), "score").facts
    assert {"response_entropy", "answer_entropy", "response_nll_mean"} <= set(facts["models"]["round 0"]["measures"])
    assert facts["on"] == "test set"
    assert "choose no strategy by these numbers" in facts["sentences"][0]
    if facts["models"]["round 2"]["accuracy"] == 0:
        assert "no score can be judged" in facts["sentences"][1]


def test_a_length_bias_and_a_crowded_class_are_named() -> None:
    classes = {"a": {"all": 0.5, "top": 0.1}, "b": {"all": 0.5, "top": 0.9}}
    one = {
        "auroc": {"estimate": 0.8, "low": 0.7, "high": 0.9}, "rank_with_length": 0.6, "rank_with_base": 0.1,
        "classes": classes,
    }  # fmt: skip
    facts = {
        "on": "validation set", "examples": 200, "chance": 0.14,
        "models": {
            "base": {"measures": {"entropy": {"auroc": {"estimate": 0.55}}}},
            "round 1": {"accuracy": 0.75, "measures": {"entropy": one}},
        },
    }  # fmt: skip
    said = _sentences(facts, "round 1", {"entropy": np.linspace(0, 0.25, 200)})
    assert said[0].startswith("entropy tells wrong from right answers after round 1: AUROC 0.80")
    assert "wrong on 25.0% of all, and on 12.4%" in said[1]
    assert "+0.10 with the tuned one's" in said[2]
    assert said[3] == "A length bias: longer prompts get a higher entropy (rank correlation +0.60)."
    assert "holds 90% of 'b', which is 50% of all" in said[4]
    one["auroc"] = {"estimate": 0.55, "low": 0.45, "high": 0.65}
    one["rank_with_length"] = 0.05
    unsure = _sentences(facts, "round 1", {"entropy": np.linspace(0, 0.25, 200)})
    assert "may know nothing" in unsure[0]
    assert not any("length bias" in line for line in unsure)


def test_what_cannot_be_probed_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(**SMALL, strategies=["random"])
    loop.run(config)
    with pytest.raises(ConfigError, match="passes is -1; allowed: 0 or more"):
        probe(Path(config["out"]), "score", passes=-1)
    with pytest.raises(ConfigError, match="probe score has no option 'top'"):
        probe(Path(config["out"]), "score", top=5)


def test_the_noise_floor_is_the_spread_of_repeated_trainings(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(
        **{**SMALL, "data": {"test_limit": 40}, "train": {"epochs": 2, "learning_rate": 1e-2}}, strategies=["random"]
    )
    loop.run(config)
    place = Path(config["out"]) / "random-seed0"
    found = probe(place, "noise", seeds=3)
    facts = found.facts
    values = np.asarray(facts["accuracies"])
    assert len(set(facts["accuracies"])) > 1, "seeds that change nothing would test nothing"
    assert facts["labels"] == 16
    assert facts["sd"] == pytest.approx(np.std(values, ddof=1))
    assert facts["floor"] == pytest.approx(4.303 * np.sqrt(2) * facts["sd"], rel=1e-3), "t of 2 degrees of freedom"
    with Store.open(place) as store:
        assert facts["own"] == store.metrics()[-1].values["accuracy"]
    assert "Trained 3 times on the same 16 labels" in facts["sentences"][0]
    assert facts["without"] == []
    assert any("had besides: tapt" in line for line in noise._sentences({**facts, "without": ["tapt"]}))

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("guidestar.model.train.OwnTrainer.__call__", refuse)
    assert probe(place, "noise", seeds=2).facts["accuracies"] == facts["accuracies"][:2]
    with pytest.raises(AssertionError, match="trained again"):
        probe(place, "noise", seeds=2, round=0)
    with pytest.raises(ConfigError, match="seeds is 1; allowed: 2 or more"):
        probe(place, "noise", seeds=1)
    with pytest.raises(ConfigError, match="round is 7; allowed: 0, 1, 2"):
        probe(place, "noise", round=7)
