"""Measures: equal to their literal versions, right on known values, strict about bad numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from contracts import MEASURE_CONTRACT, predictions_for
from hypothesis import given, settings
from hypothesis import strategies as st

from guidestar.errors import ConfigError, ModelError
from guidestar.query import measures
from guidestar.query.measures import MEASURES, evaluate_measure, measure_problems
from guidestar.records import Predictions


@pytest.mark.parametrize("check", MEASURE_CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", MEASURES)
def test_contract(name, check):
    check(name)


def labelled(log_probs):
    log_probs = np.asarray(log_probs, dtype=np.float64)
    return Predictions(tuple(f"x{i}" for i in range(log_probs.shape[1])), {"label_log_probs": log_probs})


def normalised(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def awkward(rng):
    """(4, 7, 5) log-probabilities with zeros, ties, a point mass, a uniform row and nearly equal rows."""
    rows = normalised(rng.normal(0, 6, (4, 7, 5)))
    rows[:, 0] = [0.0, -np.inf, -np.inf, -np.inf, -np.inf]
    rows[:, 1] = -math.log(5)
    rows[:, 2] = np.log([0.5, 0.5, 1e-300, 1e-300, 1e-300])
    rows[:2, 3], rows[2:, 3] = [0.0, *[-np.inf] * 4], [-np.inf, 0.0, *[-np.inf] * 3]  # certain, and at odds
    rows[1:, 4] = rows[0, 4]
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_label_measures_equal_their_literal_versions(seed):
    rows = awkward(np.random.default_rng(seed))
    found = labelled(rows)
    for name in ("entropy", "least_confidence", "margin"):
        literal = reference.mean_over_passes([[getattr(reference, name)(row) for row in one] for one in rows])
        np.testing.assert_allclose(evaluate_measure(name, found), literal, rtol=1e-10, atol=1e-12)
    for name in ("entropy_of_mean", "bald"):
        literal = [getattr(reference, name)(rows[:, i]) for i in range(rows.shape[1])]
        np.testing.assert_allclose(evaluate_measure(name, found), literal, rtol=1e-10, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 6).flatmap(
        lambda labels: st.lists(
            st.lists(st.floats(-700, 700), min_size=labels, max_size=labels), min_size=2, max_size=5
        )
    )
)
def test_bald_lies_between_zero_and_the_entropy_of_the_mean(logits):
    array = np.asarray(logits)[:, None, :]
    found = labelled(normalised(array - array.max(axis=-1, keepdims=True)))
    mutual, mean = evaluate_measure("bald", found), evaluate_measure("entropy_of_mean", found)
    assert 0 <= mutual[0] <= mean[0] + 1e-12
    np.testing.assert_allclose(mutual + evaluate_measure("entropy", found), mean, atol=1e-9)


def test_known_values():
    even, sure = [math.log(0.5)] * 2, [0.0, -np.inf]
    found = labelled([[even, sure, even], [even, sure, sure]])
    ln2 = math.log(2)
    np.testing.assert_allclose(evaluate_measure("entropy", found), [ln2, 0, ln2 / 2])
    np.testing.assert_allclose(evaluate_measure("margin", found), [1, 0, 0.5])
    np.testing.assert_allclose(evaluate_measure("least_confidence", found), [0.5, 0, 0.25])
    # doubt that all passes share says nothing about the adapter
    np.testing.assert_allclose(evaluate_measure("bald", found), [0, 0, 0.215762], atol=1e-6)


def test_passes_that_disagree_matter_to_bald_and_not_to_the_mean_of_entropies():
    certain = labelled([[[0.0, -np.inf]], [[-np.inf, 0.0]]])
    assert evaluate_measure("entropy", certain) == 0
    np.testing.assert_allclose(evaluate_measure("bald", certain), math.log(2))
    np.testing.assert_allclose(evaluate_measure("entropy_of_mean", certain), math.log(2))


def test_sequence_measures_equal_the_papers_sums():
    """From token distributions to eq. 2, eq. 3 and eq. 7, with the sums that the model room hands over."""
    rng = np.random.default_rng(0)
    passes, lengths, vocabulary = 3, (4, 1, 6), 9
    tokens = [[normalised(rng.normal(0, 3, (n, vocabulary))) for n in lengths] for _ in range(passes)]
    gold = [rng.integers(vocabulary, size=n) for n in lengths]
    entropies = [[reference.maximum_entropy(example) for example in one] for one in tokens]
    losses = [
        [reference.predictive_entropy(example, z) for example, z in zip(one, gold, strict=True)] for one in tokens
    ]
    found = Predictions(
        ("a", "b", "c"),
        {
            "response_entropy": np.array(entropies),
            "response_length": np.broadcast_to(np.array(lengths, dtype=float), (passes, 3)),
            "gold_nll": np.array(losses),
        },
    )
    literal = reference.mean_over_passes(entropies)
    np.testing.assert_allclose(evaluate_measure("response_entropy", found), literal)
    np.testing.assert_allclose(
        evaluate_measure("response_entropy_mean", found),
        [h / n for h, n in zip(literal, lengths, strict=True)],
    )
    np.testing.assert_allclose(evaluate_measure("oracle_predictive_entropy", found), reference.mean_over_passes(losses))


def test_an_empty_response_has_no_entropy_per_token():
    found = Predictions(("a",), {"response_entropy": np.zeros((1, 1)), "response_length": np.zeros((1, 1))})
    assert evaluate_measure("response_entropy_mean", found) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_the_examples_id(bad):
    values = np.ones((2, 3))
    values[1, 2] = bad
    found = Predictions(("a", "b", "c"), {"response_entropy": values})
    with pytest.raises(ModelError, match=r"^example c: response_entropy is .*; 1 of 3 examples are affected$"):
        evaluate_measure("response_entropy", found)


@pytest.mark.parametrize("name", ["entropy", "least_confidence", "margin", "bald", "entropy_of_mean"])
@pytest.mark.parametrize("row", [[np.nan, 0.0], [0.0, 0.0], [-np.inf, -np.inf], [np.inf, 0.0], [900.0, 0.0]])
def test_labels_that_are_no_distribution_are_refused(name, row):
    good = [math.log(0.5)] * 2
    with pytest.raises(ModelError, match=r"^example x1: label probabilities sum to .*, expected 1; 1 of 2"):
        evaluate_measure(name, labelled([[good, row], [good, good]]))


def test_what_is_missing_is_named():
    found = predictions_for({"response_nll"})
    with pytest.raises(ModelError, match=r"measure 'entropy' needs the array 'label_log_probs'.*found: response_nll"):
        evaluate_measure("entropy", found)
    with pytest.raises(ConfigError, match="measure 'bald' needs at least 2 passes, found 1"):
        evaluate_measure("bald", predictions_for({"label_log_probs"}))
    with pytest.raises(ConfigError, match="margin: found 1 label; at least 2 are needed"):
        evaluate_measure("margin", labelled([[[0.0]]]))
    with pytest.raises(ConfigError, match="did you mean 'entropy'"):
        evaluate_measure("entrpy", found)


def test_checks_before_a_run():
    assert measure_problems("entropy", "choice", simulation=False) == []
    for name, kind, simulation, problem in (
        ("margn", "choice", True, "measure 'margn' is unknown; did you mean 'margin'"),
        ("bald", "number", True, "not defined for the task kind 'number'; allowed: choice"),
        ("oracle_entropy", "text", False, "needs the gold answer of every pool example, which a real pool"),
    ):
        (found,) = measure_problems(name, kind, simulation)
        assert problem in found
    assert all(not measure_problems(name, "choice", simulation=True) for name in MEASURES)


def test_a_measure_of_ones_own_is_one_more_entry(monkeypatch):
    own = measures.Measure(lambda nll, length: nll - length, ("response_nll", "response_length"), "loss less length")
    monkeypatch.setitem(MEASURES, "own", own)
    found = Predictions(("a",), {"response_nll": np.array([[3.0], [5.0]]), "response_length": np.ones((2, 1))})
    assert evaluate_measure("own", found) == 3.0
