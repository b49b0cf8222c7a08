"""vLLM as the scorer of pools, with a double of it on transformers: the arithmetic is that of the own engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vllm_double
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import entropy
from test_predict import choice, examples

from guidestar import config as configs
from guidestar import loop
from guidestar.asking import Ask, Scorer
from guidestar.bench import Bench, read_config
from guidestar.config import ModelConfig, TaskConfig
from guidestar.errors import ConfigError
from guidestar.model import vllm
from guidestar.model.engine import OwnEngine
from guidestar.model.scorer import OwnScorer
from guidestar.store import Store
from guidestar.tasks import make_task
from guidestar.testing import ScorerContract

LABELS = list(choice().labels)
NAMES = [
    f"{part}_{what}" for part in ("response", "answer", "gold", "gold_answer") for what in ("entropy", "nll", "length")
]


@pytest.fixture
def served(base: Any, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> vllm.Served:
    vllm_double.install(monkeypatch)
    return vllm.Served(base, ModelConfig(name=str(tiny_folder)), 4, {"gpu_memory_utilization": 0.4})


class TestContract(ScorerContract):
    wanted = (*ScorerContract.wanted, Ask.of(["label_log_probs"], passes=2, one_model=True))

    @pytest.fixture
    def scorer(self, served: vllm.Served, adapter: Path) -> Scorer:
        return vllm.VllmScorer(served, choice(), adapter)

    @pytest.fixture
    def examples(self) -> Any:
        return examples()


@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("scoring", ["first_token", "sequence"])
def test_label_words_are_those_of_the_own_engine(served: Any, adapter: Path, tuned: bool, scoring: str) -> None:
    """Behind format words, too; and labels in several requests where there are more than one takes."""
    ask, place = Ask.of(["label_log_probs"]), adapter if tuned else None
    task = choice(scoring, response="the answer is {answer}")
    own, other = (kind(on, task, place) for kind, on in ((OwnScorer, served.base), (vllm.VllmScorer, served)))
    expected = own(examples(), ask).arrays["label_log_probs"]
    np.testing.assert_allclose(other(examples(), ask).arrays["label_log_probs"], expected, atol=2e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm, "AT_ONCE", 4)
        np.testing.assert_allclose(other(examples(), ask).arrays["label_log_probs"], expected, atol=2e-5)
    assert own.plain() != other.plain()
    assert other.plain()["engine"] == f"vllm {vllm_double.VERSION}"
    assert vllm_double.LLM.started["max_lora_rank"] == 8, "the least that vLLM allows for r 4"
    assert vllm_double.LLM.started["memory"] == 0.4


def test_responses_and_gold_answers_are_those_of_the_own_engine(served: Any, adapter: Path) -> None:
    """All but the entropies to rounding, and those within the bounds that come with them."""
    task = make_task(TaskConfig(kind="text", max_new_tokens=6), [], "{answer}")
    ask = Ask.of(NAMES, gold={e.id: LABELS[i % 6] for i, e in enumerate(examples())})
    own, other = OwnScorer(served.base, task, adapter), vllm.VllmScorer(served, task, adapter)
    expected, said = own(examples(), ask).arrays, other(examples(), ask).arrays
    for name in NAMES:
        if not name.endswith("entropy"):
            np.testing.assert_allclose(said[name], expected[name], rtol=1e-4, atol=1e-4)
            continue
        bound = said[f"{name}_bound"]
        assert (np.abs(said[name] - expected[name]) <= bound + 1e-3).all()
        assert (bound > 0).all()
        assert bound.mean() < 0.5 * expected[name].mean(), "the bound says something"


def test_passes_of_one_model_each_are_those_of_the_own_engine(served: Any, adapter: Path) -> None:
    """The masks lie in the weights of K adapters; those before B, too."""
    ask = Ask.of(["label_log_probs"], passes=3, one_model=True, seed=5)
    own = OwnScorer(served.base, choice(), adapter, b_dropout=0.2)
    other = vllm.VllmScorer(served, choice(), adapter, b_dropout=0.2)
    said = other(examples(), ask).arrays["label_log_probs"]
    np.testing.assert_allclose(said, own(examples(), ask).arrays["label_log_probs"], atol=5e-5)
    assert np.ptp(said, axis=0).max() > 1e-3


def test_sampled_answers_belong_to_their_example(served: Any, adapter: Path) -> None:
    """The same draws in any order; as often the likeliest answer as the own engine's."""
    ask = Ask.of(["sampled_answer"], samples=40, temperature=1.5, seed=2)
    task = choice(limit=2)
    some = examples()[:3]
    said = vllm.VllmScorer(served, task, adapter)(some, ask).arrays["sampled_answer"]
    back = vllm.VllmScorer(served, task, adapter)(some[::-1], ask).arrays["sampled_answer"]
    np.testing.assert_array_equal(back[:, ::-1], said)
    own = OwnScorer(served.base, task, adapter)(some, ask).arrays["sampled_answer"]
    shares = [[np.unique(column, return_counts=True)[1].max() / 40 for column in array.T] for array in (said, own)]
    assert np.abs(np.subtract(*shares)).max() < 0.35, "three standard errors of two shares of forty"


@given(st.lists(st.floats(-12, 12), min_size=21, max_size=60), st.integers(0, 20))
@settings(max_examples=80, deadline=None)
def test_an_entropy_lies_in_its_bounds(logits: list[float], other: int) -> None:
    """Of any distribution of which the twenty likeliest tokens are known, and maybe one more."""
    log_p = np.sort(log_softmax(logits))[::-1]
    known = [*log_p[: vllm.TOP], *log_p[vllm.TOP + other : vllm.TOP + other + 1]]
    low, high = vllm.entropy_between(known, len(log_p))
    assert low - 1e-9 <= entropy(np.exp(log_p)) <= high + 1e-9


def test_what_vllm_does_not_have_is_refused(served: Any, adapter: Path) -> None:
    scorer = vllm.VllmScorer(served, choice(), adapter)
    asks = {
        "draws no dropout masks": Ask.of(["label_log_probs"], passes=2),
        "gives no 'embedding'": Ask.of(["embedding"]),
        "temperature is 3.0": Ask.of(["sampled_answer"], samples=3, temperature=3.0),
    }
    for why, ask in asks.items():
        assert why in str(scorer.refusal(ask))
    score = {"engine": {"score": {"use": "vllm"}}}
    for key, value in {
        "peft": {"peft_type": "IA3"}, "model": {"quantize": "nf4"},
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=r"engine\.score\.use is vllm"):
            configs.parse({**score, key: value})
    for names in ("lm_head", ["q_proj", "embed_tokens"]):
        with pytest.raises(ConfigError, match=r"below the vocabulary's projection"):
            configs.parse({**score, "peft": {"peft_type": "LORA", "target_modules": names}})


def test_a_run_is_scored_by_vllm(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its picks are those of the own engine, its key another, and strategies that vLLM has not the numbers for are refused."""
    vllm_double.install(monkeypatch)

    def config(use: str, *strategies: str) -> dict[str, Any]:
        return make_config(
            out=str(tmp_path / use), strategies=list(strategies or ["entropy"]), engine={"score": {"use": use}},
            train={"epochs": 1}, query={"warm_start": 6, "batch": 4, "budget": 10, "candidates": 20},
        )  # fmt: skip

    picks = []
    for use in ("here", "vllm"):
        loop.run(config(use))
        with Store.open(tmp_path / use / "entropy-seed0", read=True) as store:
            picks.append([p.id for p in store.query(1).picks])
    assert picks[0] == picks[1]
    keys = [configs.parse(config(use)).key() for use in ("here", "vllm")]
    assert {**keys[0], "engine.score.use": "vllm"} == keys[1]
    with pytest.raises(ConfigError, match=r"strategy mc_entropy: vLLM draws no dropout masks"):
        Bench(read_config(config("vllm", "mc_entropy"))).check()


def test_without_vllm_it_says_what_to_install(make_config: Callable[..., dict[str, Any]]) -> None:
    bench = Bench(read_config(make_config(engine={"score": {"use": "vllm"}})))
    with pytest.raises(ConfigError, match=r"pip install 'guidestar\[vllm\]'"):
        assert isinstance(bench.engine, OwnEngine)
