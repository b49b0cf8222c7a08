"""Scores of a model and of a learning curve, against literal versions, scikit-learn and published numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from sklearn.metrics import f1_score

from guidestar.errors import ModelError
from guidestar.metrics.savings import auc, ripl
from guidestar.metrics.scores import (
    accuracy,
    brier,
    choice_metrics,
    ece,
    exact_metrics,
    macro_f1,
    majority_baseline,
    nll,
    reliability,
)


def made_up(seed, n=60, labels=4):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, labels))
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return log_probs, rng.integers(0, labels, n)


@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_their_literal_versions(seed):
    log_probs, gold = made_up(seed)
    for bins in (1, 5, 15):
        assert ece(log_probs, gold, bins) == pytest.approx(reference.ece(log_probs, gold, bins))
    assert brier(log_probs, gold) == pytest.approx(reference.brier(log_probs, gold))
    assert nll(log_probs, gold) == pytest.approx(reference.predictive_entropy(log_probs, gold) / len(gold))
    predicted = log_probs.argmax(axis=1)
    assert macro_f1(predicted, gold, 4) == pytest.approx(reference.macro_f1(predicted, gold, 4))
    assert macro_f1(predicted, gold, 4) == pytest.approx(f1_score(gold, predicted, average="macro"))


def test_macro_f1_leaves_out_a_label_that_is_not_there():
    predicted, gold = [0, 1, 1, 0], [0, 1, 1, 0]
    assert macro_f1(predicted, gold, labels=5) == 1.0
    assert macro_f1([0, 3, 1, 0], gold, labels=5) == pytest.approx(reference.macro_f1([0, 3, 1, 0], gold, 5))


def test_a_sure_model_that_is_right_and_one_that_is_wrong():
    sure = np.array([[0.0, -np.inf], [-np.inf, 0.0]])
    right, wrong = choice_metrics(sure, [0, 1]), choice_metrics(sure, [1, 0])
    assert right == {"accuracy": 1, "macro_f1": 1, "ece": 0, "brier": 0, "nll": 0, "majority": 0.5}
    assert wrong == {"accuracy": 0, "macro_f1": 0, "ece": 1, "brier": 2, "nll": math.inf, "majority": 0.5}


def test_even_odds():
    found = choice_metrics(np.log(np.full((4, 2), 0.5)), [0, 0, 0, 1])
    assert found["accuracy"] == 0.75, "of equals the first label"
    assert found["ece"] == pytest.approx(0.25)
    assert found["brier"] == pytest.approx(0.5)
    assert found["nll"] == pytest.approx(math.log(2))
    assert found["majority"] == 0.75


def test_confidences_on_an_edge_belong_to_the_bin_below():
    curve = reliability(np.log([[0.75, 0.25], [0.5, 0.5]]), np.array([0, 1]), bins=4)
    assert curve.count.tolist() == [0, 1, 1, 0]
    assert curve.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose(curve.confidence, [np.nan, 0.5, 0.75, np.nan])
    np.testing.assert_allclose(curve.accuracy, [np.nan, 0, 1, np.nan])


def test_scores_refuse_what_cannot_be_scored():
    with pytest.raises(ModelError, match="NaN for 1 of 2 examples"):
        choice_metrics(np.array([[0.0, np.nan], [0.0, -np.inf]]), [0, 0])
    with pytest.raises(ValueError, match=r"\(2,\) predictions for \(3,\) gold answers"):
        accuracy([0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match=r"\(0,\) predictions"):
        exact_metrics([])


def test_choice_metrics_leave_their_input_alone():
    log_probs, gold = made_up(0)
    before = log_probs.copy()
    choice_metrics(log_probs, gold)
    np.testing.assert_array_equal(log_probs, before)


def test_exact_and_majority():
    assert exact_metrics([True, False, False, False]) == {"accuracy": 0.25}
    assert majority_baseline([2, 2, 1]) == pytest.approx(2 / 3)
    assert majority_baseline(["true"] * 6217 + ["false"] * 3783) == pytest.approx(0.6217)


# --- curves -------------------------------------------------------------------------------------


def test_auc_equals_its_literal_version():
    for length in (2, 3, 10):
        curve = np.random.default_rng(length).random(length).tolist()
        assert auc(curve) == pytest.approx(reference.auc(curve))
    assert auc([0.4]) == 0.4
    assert auc([0.3] * 7) == pytest.approx(0.3)
    assert auc([0.0, 1.0, 0.0]) == 0.5


@pytest.mark.parametrize(
    ("al", "random", "published"),
    [
        (28.83, 27.37, 2.01),  # STAR table 1: ME with STAR, GSM8K
        (66.17, 63.44, 7.47),  # OpenBookQA
        (61.91, 60.46, 3.67),  # BoolQ
        (58.39, 60.46, -5.24),  # PE, BoolQ: worse than random
    ],
)
def test_ripl_gives_the_papers_values(al, random, published):
    assert 100 * ripl(al / 100, random / 100) == pytest.approx(published, abs=0.005)


def test_curves_refuse_what_is_no_fraction():
    with pytest.raises(ValueError, match="random curve is perfect"):
        ripl(0.9, 1.0)
    with pytest.raises(ValueError, match=r"fractions from 0 to 1, found 28.83 and 27.37"):
        ripl(28.83, 27.37)
    with pytest.raises(ValueError, match="fractions from 0 to 1"):
        auc([28.83, 30.0])
    with pytest.raises(ValueError, match="fractions from 0 to 1"):
        auc([0.2, math.nan])
    with pytest.raises(ValueError, match="at least one point"):
        auc([])
