"""What strategies add to the control: by hand, over the seeds that both have, and on average over adapters."""

from __future__ import annotations

import re
from dataclasses import asdict

import pytest
from scipy import stats

from guidestar.study.gains import Above, gains, markdown
from guidestar.study.results import Result
from tools.comparisons import gain_of


def made(peft: str, method: str, seed: int, area: float, points: tuple[int, ...] = (10, 20)) -> Result:
    tags: dict[str, str | int] = {"dataset": "d", "model": "m", "peft": peft, "method": method, "seed": seed}
    return Result(name="", tags=tags, curve=[[n, area] for n in points], auc=area)


def squeezed(text: str) -> str:
    """A table without the spaces that align its columns."""
    return re.sub(" +", " ", text)


def test_the_mean_over_adapters_is_made_seed_by_seed() -> None:
    areas = {"lora": ([0.5, 0.6, 0.7], [0.6, 0.65, 0.9]), "full": ([0.7, 0.7, 0.7], [0.6, 0.75, 0.8])}
    results = [
        made(peft, method, seed, area)
        for peft, pair in areas.items()
        for method, found in zip(("random", "me"), pair, strict=True)
        for seed, area in enumerate(found)
    ]
    lora, full, both = gains(results, ["random", "me"], "random")
    assert [row.peft for row in (lora, full, both)] == ["lora", "full", None]
    assert lora.above["me"].mean == pytest.approx(0.35 / 3)
    assert full.above["me"].mean == pytest.approx(0.05 / 3)
    by_seed = [0.0, 0.05, 0.15]
    low, high = stats.t.interval(0.95, 2, sum(by_seed) / 3, stats.sem(by_seed))
    expected = {"mean": sum(by_seed) / 3, "low": low, "high": high, "seeds": 3}
    assert vars(both.above["me"]) == pytest.approx(expected)
    assert both.adapters == 2
    assert gain_of(asdict(both)) == both
    text = squeezed(markdown([lora, full, both], "random")).splitlines()
    assert text[0] == "| AUC above random, points | me |"
    assert text[-1].startswith("| d, m, **mean of 2 adapters** | +6.7 (−")
    assert len(text) == 5


def test_only_what_can_be_paired() -> None:
    """Other points, a seed that one of them lacks, a strategy that an adapter lacks."""
    results = [made("lora", "random", s, 0.5) for s in (0, 1)]
    results += [made("lora", "me", 0, 0.6), made("lora", "me", 1, 0.9, (10, 30)), made("lora", "me", 2, 0.9)]
    results += [made("full", "random", 0, 0.5), made("full", "mc", 0, 0.4)]
    lora, full, both = gains(results, ["random", "mc", "me"], "random")
    assert lora.above == {"mc": None, "me": Above(pytest.approx(0.1), None, None, 1)}
    assert full.above["me"] is None
    assert both.above == {"mc": None, "me": None}
    assert "| d, m, full | −10.0 | – |" in squeezed(markdown([lora, full, both], "random"))


def test_without_a_control_there_is_nothing_to_add_to() -> None:
    assert gains([made("lora", "me", 0, 0.6)], ["me"], None) == []
    assert gains([made("lora", "me", 0, 0.6)], ["me"], "random") == []
    assert markdown([], None) == ""
