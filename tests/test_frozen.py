"""Frozen features and the classifier on them: what the states are, the contract of a scorer, and what it must not do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LABELS
from hypothesis import given, settings
from hypothesis import strategies as st
from test_predict import choice, examples

from guidestar.asking import Ask, Frozen, Probed, Scorer, baselines
from guidestar.asking.frozen import FEATURES
from guidestar.config import ModelConfig
from guidestar.model import heads
from guidestar.model.engine import OwnScorer
from guidestar.model.load import load
from guidestar.query import probe
from guidestar.query.space import space_of
from guidestar.records import Example
from guidestar.store.cache import Cache
from guidestar.testing import ScorerContract

GENERATOR = np.random.default_rng(0)


@pytest.fixture
def encoder(tiny_encoder_folder: Path) -> Any:
    return load(ModelConfig(name=str(tiny_encoder_folder), dtype="float32"), labels=LABELS)


# --- features -----------------------------------------------------------------------------------


def states_of(base: Any, example: Example) -> tuple[list[torch.Tensor], list[int]]:
    """All layers' states of one text read alone, and its token ids."""
    ids = base.tokenizer(example.prompt)["input_ids"]
    with torch.inference_mode():
        found = base.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    return [state[0] for state in found], ids


def test_features_of_an_encoder_are_the_states_of_each_text_alone(encoder: Any) -> None:
    got = OwnScorer(encoder, choice())(examples(), FEATURES).arrays["features"]
    assert got.dtype == np.float16
    assert got.shape[:3] == (1, len(examples()), 6)
    before, behind = heads.around(encoder.tokenizer)
    for i, example in enumerate(examples()):
        states, _ = states_of(encoder, example)
        layers = len(states) - 1
        wanted = [states[round(share * layers)].mean(0) for share in (1 / 3, 2 / 3, 1)]
        wanted += [states[-1][0], states[-1][before], states[-1][-1 - behind]]
        np.testing.assert_allclose(got[0, i], torch.stack(wanted).numpy(), rtol=2e-3, atol=2e-3)


def test_features_of_a_causal_model_are_means_and_its_last_token(base: Any) -> None:
    got = OwnScorer(base, choice())(examples(), FEATURES).arrays["features"][0]
    for i, example in enumerate(examples()):
        states, _ = states_of(base, example)
        layers = len(states) - 1
        wanted = [states[round(share * layers)].mean(0) for share in (8 / 30, 0.5, 22 / 30)]
        wanted += [states[round(share * layers)][-1] for share in (0.5, 22 / 30, 1)]
        np.testing.assert_allclose(got[i], torch.stack(wanted).numpy(), rtol=2e-3, atol=2e-3)


def test_the_space_keeps_all_distances_that_the_blocks_have() -> None:
    raw = GENERATOR.normal(size=(40, 6, 8)) * np.array([1, 10, 100, 1, 1, 0.01])[None, :, None]
    moved = raw - raw.mean(axis=0)
    blocks = (moved / np.linalg.norm(moved, axis=2, keepdims=True)).reshape(40, -1)
    got = space_of(raw, GENERATOR, rank=48).points(raw)
    np.testing.assert_allclose(got @ got.T, blocks @ blocks.T, atol=1e-4)


def test_weighted_views_of_the_space_are_their_blocks_weighted() -> None:
    """Where all directions are kept, weighted points lie as the weighted blocks side by side, to the literal sums."""
    raw = GENERATOR.normal(size=(30, 6, 4)) * np.array([1, 10, 100, 1, 1, 0.01])[None, :, None]
    moved = raw - raw.mean(axis=0)
    blocks = moved / np.linalg.norm(moved, axis=2, keepdims=True)
    space = space_of(raw, GENERATOR, rank=24)
    for weights in (np.eye(6)[4], np.array([2.0, 0, 0.5, 0, 0, 3.5]), np.ones(6)):
        got = space.points(raw) @ space.weighing(weights)
        wanted = [[sum(w * float(a[v] @ b[v]) for v, w in enumerate(weights)) for b in blocks] for a in blocks]
        np.testing.assert_allclose(got @ got.T, wanted, atol=1e-4)
    for v, view in enumerate(space.views(space.points(raw))):
        np.testing.assert_allclose(view @ view.T, [[float(a[v] @ b[v]) for b in blocks] for a in blocks], atol=1e-4)


# --- the scorer ---------------------------------------------------------------------------------


def frozen(scorer: Scorer, place: Path) -> Frozen:
    return Frozen(scorer, examples(), Cache(place))


class TestProbed(ScorerContract):
    @pytest.fixture
    def examples(self) -> list[Example]:
        return examples()

    @pytest.fixture
    def scorer(self, encoder: Any, tmp_path: Path) -> Scorer:
        labelled = [(e, LABELS[i % 2]) for i, e in enumerate(examples()[:6])]
        return Probed.of(frozen(OwnScorer(encoder, choice()), tmp_path / "f"), labelled, choice(), GENERATOR)


class TestOfACausalModel(TestProbed):
    @pytest.fixture
    def scorer(self, base: Any, tmp_path: Path) -> Scorer:
        labelled = [(e, LABELS[i % 2]) for i, e in enumerate(examples()[:6])]
        return Probed.of(frozen(OwnScorer(base, choice()), tmp_path / "f"), labelled, choice(), GENERATOR)


def test_what_was_read_needs_no_model_any_more(encoder: Any, tmp_path: Path) -> None:
    first = frozen(OwnScorer(encoder, choice()), tmp_path)
    first.read(examples())
    torch.nn.init.zeros_(encoder.model.get_input_embeddings().weight)
    again = frozen(OwnScorer(encoder, choice()), tmp_path)
    again.read(examples())
    np.testing.assert_array_equal(again.points(examples()), first.points(examples()))


def test_without_a_label_it_knows_where_texts_lie_and_no_label(encoder: Any, tmp_path: Path) -> None:
    found = Probed.of(frozen(OwnScorer(encoder, choice()), tmp_path), [], choice(), GENERATOR)
    assert found.can(Ask.of(["embedding"]))
    assert "no labelled example yet" in str(found.refusal(Ask.of(["label_log_probs"])))


def test_baselines_are_fitted_to_the_labels_and_measured_on_the_test_set(encoder: Any, tmp_path: Path) -> None:
    """With an example of every label they know its copies; with the labels turned round they know none."""
    known = [(e, LABELS[i % 2]) for i, e in enumerate(examples())]
    turned = [(e, LABELS[1 - i % 2]) for i, e in enumerate(examples())]
    features = frozen(OwnScorer(encoder, choice()), tmp_path)
    right = baselines(features, known, known, choice(), np.random.default_rng(0))
    assert right["frozen_accuracy"] == 1.0
    assert right["class_means_accuracy"] >= 0.75
    wrong = baselines(features, known, turned, choice(), np.random.default_rng(0))
    assert {name: 1 - value for name, value in right.items()} == wrong


# --- the classifier -----------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 4), width=st.integers(2, 60))
@settings(max_examples=15, deadline=None)
def test_the_classifier_is_the_plain_regression(seed: int, classes: int, width: int) -> None:
    """Fitted in the span of its points it is what scikit-learn finds in the whole space."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(24) % classes)
    x = rng.normal(size=(classes, width))[y] + rng.normal(size=(24, width))
    plain = LogisticRegression(C=10.0, max_iter=5000, tol=1e-8).fit(x, y).predict_proba(x)
    got = probe.fit(x.astype(np.float32), y, classes + 1, rng)
    scores = x @ got.weights + got.constants
    own = np.exp(scores[:, :classes] - scores[:, :classes].max(axis=1, keepdims=True))
    np.testing.assert_allclose(own / own.sum(axis=1, keepdims=True), plain, atol=5e-3)
    assert np.isneginf(got.constants[classes])
    said = np.exp(got.log_probs(x))
    np.testing.assert_allclose(said.sum(axis=1), 1.0)
    np.testing.assert_allclose(said[:, classes], 1 / 25 / (classes + 1), rtol=1e-3)  # a class that nobody gave


def test_one_class_alone_is_no_fault() -> None:
    got = probe.fit(np.ones((3, 2)), np.array([1, 1, 1]), 3, GENERATOR)
    assert np.exp(got.log_probs(np.zeros((1, 2)))).round(3).tolist() == [[0.083, 0.833, 0.083]]


def test_out_of_fold_knows_nothing_of_its_own_label() -> None:
    """On noise the classifier is right about every example it has seen, and out of fold about half of them."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(60, 40)), rng.integers(0, 2, 60)
    seen = (probe.fit(x, y, 2, rng).log_probs(x).argmax(axis=1) == y).mean()
    unseen = (probe.out_of_fold(x, y, 2, rng).argmax(axis=1) == y).mean()
    assert seen > 0.95
    assert 0.25 < unseen < 0.75
    assert probe.fit(x, y, 2, rng).temperature > 3, "what was learned by heart is no certainty"


def test_pseudo_labels_are_kept_where_they_help_and_not_where_features_know_nothing() -> None:
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(400) % 2)
    labelled = np.arange(24)
    helped = probe.helpful_pseudo_labels(
        2.0 * np.eye(2, 20)[y] + rng.normal(size=(400, 20)), labelled, y[:24], 2, rng, 0.3
    )
    assert len(helped[0]) > 20
    assert (y[helped[0]] == helped[1]).mean() > 0.85
    kept = [
        len(probe.helpful_pseudo_labels(rng.normal(size=(400, 20)), labelled, y[:24], 2, rng, 0.3)[0])
        for _ in range(12)
    ]
    assert kept.count(0) >= 8, "on noise they only make a classifier surer of what is wrong"


@pytest.mark.parametrize(("right", "kept"), [(0.95, True), (0.1, False)])
def test_answers_of_another_model_are_kept_where_they_help(right: float, kept: bool) -> None:
    """All or none, and never one of an example that has a label: not in the trial either, where they would tell its answer."""
    rng = np.random.default_rng(2)
    y = rng.permutation(np.arange(400) % 3)
    x, labelled, rows = 1.5 * np.eye(3, 20)[y] + rng.normal(size=(400, 20)), np.arange(48), np.arange(36, 300)
    said = np.where(rng.random(len(rows)) < right, y[rows], (y[rows] + 1) % 3)
    said[:12] = (y[36:48] + 1) % 3  # about labelled ones it is always wrong, which nobody must read
    got = probe.helpful_pseudo_labels(x, labelled, y[:48], 3, rng, 0.3, others=(rows, said))
    assert [part.tolist() for part in got] == ([rows[12:].tolist(), said[12:].tolist()] if kept else [[], []])


def test_pseudo_labels_are_few_of_each_class_and_mostly_right() -> None:
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat([0, 1, 2], [200, 80, 20]))
    x = 3.0 * np.eye(3, 8)[y] + rng.normal(size=(300, 8))
    labelled = np.concatenate([np.flatnonzero(y == c)[:4] for c in range(3)])
    said = probe.fit(x[labelled], y[labelled], 3, rng).log_probs(x)
    rows, classes = probe.pseudo_labels(said, x, labelled, y[labelled])
    assert not set(rows) & set(labelled)
    assert (np.bincount(classes, minlength=3) <= 8).all()
    assert set(classes) == {0, 1, 2}
    assert (y[rows] == classes).mean() > 0.9


def views_of(y: np.ndarray, telling: dict[int, float], rng: np.random.Generator) -> list[np.ndarray]:
    """Six views of examples with classes y, by the noise of each that tells them; the others are noise alone."""
    noise = rng.normal(size=(6, len(y), 12))
    return [3.0 * np.eye(3, 12)[y] + telling[v] * noise[v] if v in telling else noise[v] for v in range(6)]


def literal_view_weights(views: list[np.ndarray], classes: list[int]) -> list[float]:
    """Example by example: the class means without it, at every sharpness, and the mean of −ln p of its own class."""
    losses = []
    for view in views:
        apart, twins = [], [i for i, c in enumerate(classes) if classes.count(c) > 1]
        for i in twins:
            means = {
                c: np.mean([x for j, x in enumerate(view) if classes[j] == c and j != i], axis=0) for c in set(classes)
            }
            apart.append({c: float(((view[i] - mean) ** 2).sum()) for c, mean in means.items()})
        own = [classes[i] for i in twins]
        unit = 1 / np.mean([d[c] for d, c in zip(apart, own, strict=True)])
        at = [
            np.mean([-s * unit * d[c] - np.logaddexp.reduce([-s * unit * x for x in d.values()]) for d, c in zip(apart, own, strict=True)])
            for s in np.logspace(-3, 3, 61)
        ]  # fmt: skip
        losses.append(-max(at))
    shares = [math.exp(-loss / 0.1) for loss in losses]
    return [len(views) * share / sum(shares) for share in shares]


@given(seed=st.integers(0, 1000), m=st.integers(8, 24))
@settings(max_examples=10, deadline=None)
def test_the_weights_of_views_are_the_literal_ones(seed: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(m) % 3)
    views = views_of(y, {1: 2.0, 4: 3.0}, rng)
    got = probe.view_weights(views, y)
    np.testing.assert_allclose(got, literal_view_weights(views, y.tolist()), rtol=1e-4, atol=1e-6)
    assert got.sum() == pytest.approx(6)


def test_a_view_that_tells_labels_counts_most_and_without_evidence_all_count_alike() -> None:
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(40) % 3)
    weights = probe.view_weights(views_of(y, {4: 0.5}, rng), y)
    assert weights.argmax() == 4
    assert weights[4] > 5
    for none in (np.zeros(40, dtype=int), np.arange(40)):  # one class; each its own
        assert probe.view_weights(views_of(y, {4: 0.5}, rng), none).tolist() == [1.0] * 6


def test_the_classifier_on_weighted_views_is_one_function_of_the_points(encoder: Any, tmp_path: Path) -> None:
    """What it says of points and what a head that starts as it says agree on the weights; where texts lie does not depend on them."""
    labelled = [(e, LABELS[i % 2]) for i, e in enumerate(examples() * 4)][:24]
    features, task = Frozen(OwnScorer(encoder, choice()), examples(), Cache(tmp_path), weighted=True), choice()
    known, points = features.points([e for e, _ in labelled]), features.points(examples())
    right = np.array([LABELS.index(answer) for _, answer in labelled])
    turn = features.space().weighing(probe.view_weights(features.space().views(known), right))
    said = Probed.of(features, labelled, task, np.random.default_rng(0))(
        examples(), Ask.of(["label_log_probs", "embedding"])
    )
    np.testing.assert_array_equal(said.arrays["embedding"][0], points)
    plain = probe.fit(known @ turn, right, len(LABELS), np.random.default_rng(0))
    np.testing.assert_allclose(said.arrays["label_log_probs"][0], plain.log_probs(points @ turn), atol=1e-4)
    start = features.head_start(labelled, task, np.random.default_rng(0))
    np.testing.assert_allclose(features.space().directions.T @ start.weights, turn @ plain.head[0], atol=1e-4)
    assert features.turn(labelled[:9], task) is None, "nine labels tell no view from another"
