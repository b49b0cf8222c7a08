"""The probes' numbers against slow literal twins and golden arrays, and their drawings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from literal_probes import (
    PDF,
    PNG,
    literal_changes,
    literal_density,
    literal_matrices,
    literal_wrong,
    read,
    some_log_probs,
)
from numpy.testing import assert_allclose, assert_array_equal

from guidestar.report.style import COLOURS, look
from guidestar.study.drawing import save_figure, write_csv
from guidestar.study.probes import figures, numbers

# --- confidence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [2, 3, 7])
def test_confidence_of_wrong_predictions_equals_the_literal_twin(labels: int) -> None:
    rng = np.random.default_rng(labels)
    log_probs, gold = some_log_probs(rng, 200, labels), rng.integers(0, labels, 200)
    missed = log_probs.argmax(axis=1) != gold
    assert_allclose(numbers.confidence(log_probs)[missed], literal_wrong(log_probs, gold), rtol=1e-12)
    assert 0 < missed.sum() < 200


def test_golden_calibration() -> None:
    log_probs = np.log([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6], [0.5, 0.5]])
    gold = np.array([0, 0, 0, 0, 1])  # right, wrong, right, wrong, and a tie, which the first label wins: wrong
    found = numbers.calibration(log_probs, gold)
    assert found["accuracy"] == pytest.approx(0.4)
    assert found["confidence"] == pytest.approx(0.7)
    assert found["overconfidence"] == pytest.approx(0.3)
    assert (found["right"]["n"], found["right"]["mean"]) == (2, pytest.approx(0.8))
    assert (found["wrong"]["n"], found["wrong"]["mean"]) == (3, pytest.approx(1.9 / 3))
    assert found["wrong"]["q50"] == pytest.approx(0.6)
    assert numbers.calibration(log_probs[[0]], gold[[0]])["wrong"] == {"n": 0}, "nothing wrong, nothing to describe"


def test_confidence_of_float32_never_exceeds_one() -> None:
    log_probs = np.array([[1e-8, -30.0]], dtype=np.float32)
    assert numbers.confidence(log_probs)[0] == 1.0


@given(st.lists(st.floats(0.25, 1.0), min_size=1, max_size=60))
def test_density_equals_the_literal_twin_and_holds_all_of_its_mass(values: list[float]) -> None:
    at = np.linspace(0.25, 1.0, 751)
    found = numbers.density(np.array(values), at, 0.25, 1.0)
    assert found.min() >= 0
    assert np.trapezoid(found, at) == pytest.approx(1.0, abs=5e-3), "reflection keeps the mass inside"
    assert_allclose(found[::250], [literal_density(values, x, 0.25, 1.0) for x in at[::250]], rtol=1e-9, atol=1e-12)


def test_density_equals_scipys_far_from_the_ends() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).normal(0.5, 0.02, 400)
    quartiles = np.quantile(values, [0.25, 0.75])
    h = 0.9 * min(values.std(), (quartiles[1] - quartiles[0]) / 1.34) * 400**-0.2
    h = max(h, 1 / 50)
    at = np.linspace(0.3, 0.7, 21)
    theirs = stats.gaussian_kde(values, bw_method=h / values.std(ddof=1))(at)
    assert_allclose(numbers.density(values, at, 0.0, 1.0), theirs, rtol=1e-10)


def test_standard_error_is_welchs() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=12), rng.normal(1, 3, size=40)
    welch = stats.ttest_ind(one, other, equal_var=False)
    assert (one.mean() - other.mean()) / numbers.standard_error(one, other) == pytest.approx(welch.statistic)
    assert math.isnan(numbers.standard_error(one[:1], other))


# --- correlation ----------------------------------------------------------------------------------


def test_correlations_equal_the_literal_twin() -> None:
    rng = np.random.default_rng(1)
    values = np.cumsum(rng.normal(size=(5, 40)), axis=0).round(1)  # rounded: ties for Spearman
    values[4] = 2.0  # a constant row
    labelled = rng.random((5, 40)) < np.array([0, 0.1, 0.3, 0.5, 0.6])[:, None]
    for keep in (np.ones_like(labelled), ~labelled):
        pearson, spearman, number = numbers.correlations(values, keep=keep)
        literal = literal_matrices(values, keep)
        assert_allclose(pearson, literal[0], atol=1e-12)
        assert_allclose(spearman, literal[1], atol=1e-12)
        assert_array_equal(number, keep.astype(int) @ keep.T.astype(int))
        assert np.isnan(pearson[4]).all(), "nothing correlates with a constant"
        assert not np.isnan(pearson[:4, :4]).any()


def test_correlations_equal_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(2).gamma(1.0, size=(4, 200)).round(2)
    pearson, spearman, _ = numbers.correlations(values)
    assert_allclose(pearson, np.corrcoef(values), atol=1e-12)
    assert_allclose(spearman, stats.spearmanr(values, axis=1).statistic, atol=1e-12)


def test_golden_correlations() -> None:
    pearson, spearman, number = numbers.correlations(np.array([[1.0, 2, 3, 4], [2.0, 1, 4, 3], [4.0, 3, 2, 1]]))
    assert_allclose(pearson, [[1, 0.6, -1], [0.6, 1, -0.6], [-1, -0.6, 1]])
    assert_allclose(spearman, pearson)
    assert number.tolist() == [[4] * 3] * 3


def test_correlation_of_few_or_tiny_values() -> None:
    two = numbers.correlations(np.array([[1.0, 2.0], [2.0, 4.0]]))
    assert np.isnan(two[0]).all()
    assert np.isnan(two[1]).all()
    tiny = np.array([[1.0, 2.0, 4.0], [1e-200, 2e-200, 4e-200]])
    assert numbers.correlations(tiny)[0][0, 1] == pytest.approx(1.0), "squares of these would be 0"


# --- unchanged ------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [2, 4])
def test_changes_equal_the_literal_twin(labels: int) -> None:
    rng = np.random.default_rng(labels)
    before, after = some_log_probs(rng, 150, labels), some_log_probs(rng, 150, labels)
    after[:75] = some_log_probs(rng, 75, labels) * 0.1 + before[:75]
    after -= np.log(np.exp(after).sum(axis=1, keepdims=True))
    gold = rng.integers(0, labels, 150)
    found, literal = numbers.changes(before, after, gold), literal_changes(before, after, gold)
    assert list(found) == list(numbers.GROUPS)
    for group, values in literal.items():
        assert found[group]["n"] == len(values["entropy"]) > 0
        assert found[group]["share"] == pytest.approx(len(values["entropy"]) / 150)
        for what in ("confidence", "entropy"):
            assert found[group][what]["mean"] == pytest.approx(np.mean(values[what]))
            assert found[group][what]["q25"] == pytest.approx(np.quantile(values[what], 0.25))
            assert found[group][what]["q95"] == pytest.approx(np.quantile(values[what], 0.95))


def test_golden_changes() -> None:
    before = np.log([[0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    after = np.log([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    found = numbers.changes(before, after, np.array([0, 1, 0]))
    assert {name: one["n"] for name, one in found.items()} == {
        "unchanged": 2, "unchanged_right": 1, "unchanged_wrong": 1, "changed": 1, "changed_right": 1, "changed_wrong": 0,
    }  # fmt: skip
    assert found["unchanged_right"]["confidence"]["mean"] == pytest.approx(0.3)
    assert found["unchanged_wrong"]["confidence"]["mean"] == pytest.approx(-0.1)
    assert found["changed"]["confidence"]["mean"] == pytest.approx(-0.1)
    assert found["unchanged_right"]["entropy"]["mean"] == pytest.approx(0.32508 - 0.67301, abs=1e-5)
    assert found["changed_wrong"]["entropy"] == {"n": 0}


# --- drawing --------------------------------------------------------------------------------------


def test_a_figure_is_three_files_and_the_same_bytes_again(tmp_path: Path) -> None:
    def draw(figure: Any) -> None:
        figure.add_subplot().plot([1, 2], [3, 4], label="λ", **look(0))

    found = []
    for name in ("one", "two"):
        written = save_figure(tmp_path / name / "a.b", draw, ["x", "y"], [[1, np.float64(0.1)]], width=2, height=1)
        assert [path.name for path in written] == ["a.b.png", "a.b.pdf", "a.b.csv"]
        found.append([path.read_bytes() for path in written])
    assert found[0] == found[1]
    png, pdf, table = found[0]
    assert png.startswith(PNG)
    assert int.from_bytes(png[16:20]) == 600, "2 inches at 300 dots"
    assert pdf.startswith(PDF)
    assert table == b"x,y\n1,0.1\n"


def test_a_table_keeps_every_digit_and_leaves_the_unknown_empty(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "t.csv", ["a", "b", "c"], [[np.float64(1 / 3), None, math.nan], ["x, y", np.int64(2), 0]]
    )
    rows = read(path)
    assert rows == [{"a": repr(1 / 3), "b": "", "c": ""}, {"a": "x, y", "b": "2", "c": "0"}]


def test_series_differ_without_colour() -> None:
    looks = [(str(look(i)["linestyle"]), look(i)["marker"]) for i in range(8)]
    assert len(set(looks)) == 8
    assert look(len(COLOURS))["color"] == COLOURS[0]


def test_figures_of_odd_sizes_are_drawn(tmp_path: Path) -> None:
    """Undefined correlations, a hundred rounds, equal values, nobody in a group: nothing of it may stop a probe."""
    nothing = np.full((3, 3), np.nan)
    same = figures.Pair("base", "0", np.ones(3), np.ones(3), np.array([True, True, True]), math.nan, math.nan)
    empty: dict[str, Any] = {group: {"confidence": {"n": 0}, "entropy": {"n": 0}} for group in numbers.GROUPS}
    many = np.corrcoef(np.random.default_rng(0).normal(size=(101, 30)))
    drawings = [
        figures.draw_correlations(["base", "0", "1"], nothing, [same], "t"),
        figures.draw_correlations(["base", *map(str, range(100))], many, [same, same], "t"),
        figures.draw_changes([("a", ["0"], [empty])]),
        figures.draw_densities([figures.Density("a", np.array([0.6, 0.9]), np.array([1.0, 2.0]), 0.7)], 0.5),
    ]
    for i, draw in enumerate(drawings):
        assert save_figure(tmp_path / str(i), draw, ["x"], [], width=4, height=2)[0].read_bytes().startswith(PNG)
