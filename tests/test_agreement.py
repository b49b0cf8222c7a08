"""Agreement of annotators: published values, other people's implementations, literal versions, simulations."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from guidestar.metrics.agreement import confusion, krippendorff_alpha, pairwise, per_class_agreement
from guidestar.people.agreement import agreement_of, agreement_text
from guidestar.people.ledger import Ledger
from guidestar.records import Example, Label, Pick, Query, Skip, Verdict
from guidestar.store import Store

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: 4 observers, 12 units, missing values.
PUBLISHED = """
    A  1 2 3 3 2 1 4 1 2 . . .
    B  1 2 3 3 2 2 4 1 2 5 . 3
    C  . 3 3 3 2 3 4 2 2 5 1 .
    D  1 2 3 3 2 4 4 1 2 5 1 .
"""


def units_of(table):
    rows = [line.split() for line in table.strip().splitlines()]
    return [
        {row[0]: row[column] for row in rows if row[column] != "."}
        for column in range(1, len(rows[0]))
    ]  # fmt: skip


def literal_alpha(units):
    """The coincidence matrix value pair by value pair, as Krippendorff writes it; None where there is no variation."""
    coincidences: Counter[tuple[str, str]] = Counter()
    for unit in units:
        for a, b in itertools.permutations(unit, 2):
            coincidences[unit[a], unit[b]] += 1 / (len(unit) - 1)
    margins: Counter[str] = Counter()
    for (c, _), value in coincidences.items():
        margins[c] += value
    n = sum(margins.values())
    observed = sum(value for (c, k), value in coincidences.items() if c != k) / n if n else 0
    expected = sum(margins[c] * margins[k] for c in margins for k in margins if c != k)
    return None if not expected else 1 - observed / (expected / (n * (n - 1)))


def package_alpha(units):
    annotators = sorted({a for unit in units for a in unit})
    labels = sorted({label for unit in units for label in unit.values()})
    table = [[labels.index(unit[a]) if a in unit else np.nan for unit in units] for a in annotators]
    return krippendorff.alpha(np.array(table, dtype=float), level_of_measurement="nominal")


def made_up(seed, n=40, annotators=4, labels=3, noise=0.3, missing=0.4):
    rng = np.random.default_rng(seed)
    units = []
    for truth in rng.integers(0, labels, n):
        unit = {}
        for a in range(annotators):
            if rng.random() > missing:
                unit[f"a{a}"] = f"l{rng.integers(0, labels) if rng.random() < noise else truth}"
        units.append(unit)
    return units


# --- alpha ----------------------------------------------------------------------------------------


def test_the_published_example():
    found = krippendorff_alpha(units_of(PUBLISHED))
    assert found.alpha == pytest.approx(0.743, abs=0.0005)
    assert found.units == 11, "the twelfth has one label"
    assert found.annotators == 4
    assert found.pairs == 8 * 6 + 3 + 3 + 1
    assert found.low < found.alpha < found.high


def test_the_published_binary_example():
    """Krippendorff 2011, section A: 2 observers, 10 units, no missing values; alpha is 0.095."""
    units = units_of("A 0 1 0 0 0 0 0 0 1 0\nB 1 1 1 0 0 1 0 0 0 0")
    found = krippendorff_alpha(units)
    assert found.alpha == pytest.approx(0.095, abs=0.0005)
    assert (found.units, found.annotators, found.pairs, found.observed) == (10, 2, 10, 0.6)


@pytest.mark.parametrize("seed", range(8))
def test_alpha_equals_the_literal_version_and_the_package(seed):
    units = made_up(seed, annotators=2 + seed % 4, labels=2 + seed % 3, noise=0.1 * seed)
    found = krippendorff_alpha(units, draws=5)
    assert found.alpha == pytest.approx(literal_alpha(units))
    assert found.alpha == pytest.approx(package_alpha(units))
    usable = [unit for unit in units if len(unit) > 1]
    pairs = [unit[a] == unit[b] for unit in usable for a, b in itertools.combinations(unit, 2)]
    assert (found.units, found.pairs) == (len(usable), len(pairs))
    assert found.observed == pytest.approx(sum(pairs) / len(pairs))


names = st.sampled_from(["ann", "bob", "cem", "dee"])


@settings(deadline=None, max_examples=150)
@given(st.lists(st.dictionaries(names, st.sampled_from("xyz"), max_size=4), max_size=12), st.randoms())
def test_alpha_of_any_units(units, random):
    found = krippendorff_alpha(units, draws=20)
    expected = literal_alpha(units)
    assert found.alpha == (None if expected is None else pytest.approx(expected))
    assert found.alpha is None or found.alpha <= 1
    assert (found.low is None) == (found.high is None)
    if found.low is not None:
        assert found.low <= found.high <= 1
    shuffled = random.sample(units, len(units))
    again = krippendorff_alpha(shuffled, draws=20)
    assert again == found, "the order of the units plays no part, not even in the interval"


def test_no_alpha_where_there_is_nothing_to_compare():
    for units in ([], [{"ann": "x"}, {"bob": "y"}], [{}]):
        assert krippendorff_alpha(units) == krippendorff_alpha([])
    nothing = krippendorff_alpha([])
    assert (nothing.alpha, nothing.low, nothing.high, nothing.observed) == (None, None, None, None)
    assert (nothing.units, nothing.annotators, nothing.pairs) == (0, 0, 0)
    same = krippendorff_alpha([{"ann": "x", "bob": "x"}] * 5)
    assert (same.alpha, same.low, same.observed, same.units) == (None, None, 1.0, 5), (
        "no variation: chance explains all"
    )
    one = krippendorff_alpha([{"ann": "x", "bob": "y"}])
    assert one.alpha is not None
    assert one.low is None, "one unit cannot be resampled"


# --- the interval -----------------------------------------------------------------------------------


def test_the_interval_is_the_bootstrap_over_units():
    """The counts of equal units are drawn at once; here every unit is drawn by itself, with the literal alpha."""
    units = [unit for unit in made_up(3, n=60) if len(unit) > 1]
    rng = np.random.default_rng(1)
    alphas = [literal_alpha([units[i] for i in rng.integers(0, len(units), len(units))]) for _ in range(1500)]
    found = krippendorff_alpha(units, draws=4000)
    slow = np.quantile(alphas, [0.025, 0.975])
    width = slow[1] - slow[0]
    assert found.low == pytest.approx(slow[0], abs=0.08 * width)
    assert found.high == pytest.approx(slow[1], abs=0.08 * width)
    assert krippendorff_alpha(units, seed=1) == krippendorff_alpha(units, seed=1) != krippendorff_alpha(units, seed=2)


def channel(rng, n, error, labels=3):
    """Two annotators who each miss the truth with a given probability and then say any other label."""
    truth = rng.integers(0, labels, n)

    def says():
        wrong = (truth + rng.integers(1, labels, n)) % labels
        return np.where(rng.random(n) < error, wrong, truth)

    return [{"ann": str(a), "bob": str(b)} for a, b in zip(says(), says(), strict=True)]


def true_alpha(error, labels=3):
    agree = (1 - error) ** 2 + error**2 / (labels - 1)
    return 1 - (1 - agree) / (1 - 1 / labels)


@pytest.mark.parametrize(("n", "error", "least"), [(60, 0.2, 0.91), (200, 0.1, 0.91), (30, 0.1, 0.85)])
def test_the_interval_covers_the_true_alpha(n, error, least):
    """95 % intervals of 300 samples. With 30 units the percentiles are known to be too short, so less is asked."""
    rng = np.random.default_rng(n)
    found = [krippendorff_alpha(channel(rng, n, error), draws=300, seed=i) for i in range(300)]
    covered = np.mean([one.low <= true_alpha(error) <= one.high for one in found])
    assert least <= covered <= 0.985, f"{covered:.3f} of the intervals hold the true alpha"


def test_perfect_agreement_is_not_taken_for_certainty():
    ten = krippendorff_alpha([{"ann": label, "bob": label} for label in "xy" * 5])
    hundred = krippendorff_alpha([{"ann": label, "bob": label} for label in "xy" * 50])
    assert ten.alpha == ten.high == hundred.alpha == hundred.high == 1
    # Clopper and Pearson for 0 of 10: the share of disagreement is below 1 - 0.025 ** (1 / 10) = 0.3085
    assert ten.low == pytest.approx(1 - 0.3085 / (10 / 19), abs=1e-3)
    assert ten.low < hundred.low < 1
    rng = np.random.default_rng(0)
    low_error = [krippendorff_alpha(channel(rng, 20, 0.01), draws=200) for _ in range(200)]
    covered = np.mean([one.low <= true_alpha(0.01) <= one.high for one in low_error])
    assert covered > 0.9, f"{covered:.3f}: percentiles alone would give [1, 1] most of the time"


def test_no_interval_where_many_resamples_have_no_alpha():
    rare = [{"ann": "x", "bob": "x"}] * 20 + [{"ann": "x", "bob": "y"}]  # a third of the resamples has no y
    found = krippendorff_alpha(rare)
    assert found.alpha == pytest.approx(literal_alpha(rare))
    assert found.low is None


# --- classes, pairs, confusions ---------------------------------------------------------------------


def literal_class_agreement(units, label):
    """Of all ordered pairs of annotators whose first says the label: the share whose second says it too."""
    pairs = [(u[a], u[b]) for u in units for a, b in itertools.permutations(u, 2) if u[a] == label]
    return sum(b == label for _, b in pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(4))
def test_specific_agreement(seed):
    units = made_up(seed)
    found = per_class_agreement(units)
    assert list(found) == sorted(found)
    for label, (agreement, n) in found.items():
        assert agreement == pytest.approx(literal_class_agreement(units, label))
        assert n == sum(label in unit.values() for unit in units if len(unit) > 1)
    two = [{a: unit[a] for a in ("a0", "a1")} for unit in units if {"a0", "a1"} <= unit.keys()]
    both = Counter((unit["a0"], unit["a1"]) for unit in two)
    one_of_them = sum(n for pair, n in both.items() if (pair[0] == "l0") != (pair[1] == "l0"))
    agree = both["l0", "l0"]
    assert per_class_agreement(two)["l0"].agreement == pytest.approx(2 * agree / (2 * agree + one_of_them))
    assert per_class_agreement([{"ann": "x"}]) == {}


@pytest.mark.parametrize("seed", range(4))
def test_pairs_equal_scikit_learn(seed):
    units = made_up(seed)
    found = pairwise(units)
    assert list(found) == list(itertools.combinations(["a0", "a1", "a2", "a3"], 2))
    for (a, b), pair in found.items():
        answers = [(unit[a], unit[b]) for unit in units if a in unit and b in unit]
        assert pair.n == len(answers)
        assert pair.observed == pytest.approx(np.mean([x == y for x, y in answers]))
        assert pair.kappa == pytest.approx(cohen_kappa_score(*zip(*answers, strict=True)))


def test_pairs_without_a_kappa():
    assert pairwise([{"ann": "x", "bob": "x"}] * 3) == {("ann", "bob"): (3, 1.0, None)}
    assert pairwise([{"ann": "x", "bob": "y"}])["ann", "bob"] == (1, 0.0, None)
    assert pairwise([{"ann": "x"}, {"bob": "x"}]) == {}


def test_confusions_equal_the_literal_count():
    for seed in range(4):
        units = made_up(seed)
        literal: Counter[tuple[str, str]] = Counter()
        for unit in units:
            for a, b in itertools.combinations(unit, 2):
                if unit[a] != unit[b]:
                    literal[min(unit[a], unit[b]), max(unit[a], unit[b])] += 1
        found = confusion(units)
        assert found == literal
        assert list(found.values()) == sorted(found.values(), reverse=True), "the most confused first"
        assert sum(found.values()) == round(
            krippendorff_alpha(units, draws=1).pairs * (1 - krippendorff_alpha(units, draws=1).observed)
        )


# --- the facts of a run -----------------------------------------------------------------------------


def annotated(folder, answers, *, task=None, config=None):
    """A run folder. answers: for each example {annotator: answer, or None for a skip}; "!" is the annotator of a verdict."""
    texts = [f"text {n}" for n in range(len(answers))]
    examples = {
        f"{n:016x}": Example(f"{n:016x}", {"text": text}, f"Q: {text}", f"x line {n}") for n, text in enumerate(texts)
    }
    labels = ["place", "person", "thing"]
    facts = {"task": task or {"kind": "choice", "labels": labels, "words": labels}, "config": config or {}}
    with Store.open(folder, create=True) as store:
        store.begin({"seed": 0}, facts)
        store.add_query(Query(0, tuple(Pick(id, float("nan")) for id in examples)), examples)
        items = []
        for id, given in zip(examples, answers, strict=True):
            for who, answer in given.items():
                said = Label(answer, who) if answer else Skip("", who)
                source = "endpoint" if who.startswith("endpoint:") else "page"
                items.append((id, Verdict(answer, "judge") if who == "!" else said, None, source))
        store.annotations.add_many(items)
    return folder


def test_the_facts_of_a_run(tmp_path):
    folder = annotated(
        tmp_path / "run",
        [
            {"ann": "place", "bob": "place", "endpoint:toy": "person"},
            {"ann": "place", "bob": "person"},
            {"ann": "person", "bob": "thing", "!": "thing"},
            {"ann": "person", "bob": "person", "endpoint:toy": "person"},
            {"ann": "thing", "bob": None},
            {"endpoint:toy": "thing"},
            {},
        ],
    )
    with Store.open(folder) as store:
        store.annotations.add("0" * 16, Label("thing", "ann"), source="terminal")
        store.annotations.add("0" * 16, Label("place", "ann"), source="page+suggestion")
    facts = agreement_of(tmp_path)
    assert json.loads(json.dumps(facts)) == facts
    units = [
        {"ann": "place", "bob": "place"}, {"ann": "place", "bob": "person"}, {"ann": "person", "bob": "thing"},
        {"ann": "person", "bob": "person"},
    ]  # fmt: skip
    assert facts["alpha"] == pytest.approx(literal_alpha(units)), "of people, before anything was settled"
    assert (facts["compared"], facts["people"], facts["pairs"][0]["n"]) == (4, 2, 4)
    assert (facts["asked"], facts["labelled"], facts["one_skipped"]) == (7, 6, 1)
    assert facts["annotators"] == {
        "ann": {"labels": 5, "skips": 0}, "bob": {"labels": 4, "skips": 1}, "endpoint:toy": {"labels": 3, "skips": 0},
    }  # fmt: skip
    assert facts["sources"] == {"endpoint": 3, "page": 9, "page+suggestion": 1}
    assert [pair["annotators"] for pair in facts["pairs"]] == [
        ["ann", "bob"],
        ["ann", "endpoint:toy"],
        ["bob", "endpoint:toy"],
    ]
    assert facts["confused"] == [
        {"labels": ["person", "place"], "count": 1},
        {"labels": ["person", "thing"], "count": 1},
    ]
    assert facts["disagreements"] == [
        {"id": f"{1:016x}", "where": "x line 1", "text": "Q: text 1", "answers": {"ann": "place", "bob": "person"}}
    ]
    assert facts["settled"] == [
        {"id": f"{2:016x}", "answer": "thing", "by": "judge", "answers": {"ann": "person", "bob": "thing"}}
    ]
    assert facts["classes"]["person"] == {"agreement": 0.5, "n": 3}
    assert facts["endpoint"] is None
    text = agreement_text(facts)
    for line in (
        "run: 6 of 7 asked examples have a label (answers by source: 3 endpoint, 9 page, 1 page+suggestion)",
        "  bob: 4 labels, 1 skipped",
        "Two people both labelled 4 examples; 50 % of the pairs of labels agree.",
        "With 4 examples that is rough. Have more of them labelled twice before you rely on it.",
        "1 answer was given with the model's suggestion in view, which makes people agree more.",
        "1 example was labelled by one and skipped by another; alpha does not count that.",
        "  ann and endpoint:toy: 50 % of 2, kappa 0.00",
        "1 disagreement still open; settle it on the page (guidestar label). 1 example was settled.",
        "  Q: text 1 (ann: place, bob: person)",
    ):
        assert line in text.splitlines()
    assert f"Krippendorff's alpha is {facts['alpha']:.3f}, 95 % interval" in text


def test_nobody_labelled_twice(tmp_path):
    facts = agreement_of(annotated(tmp_path / "run", [{"ann": "place"}, {"ann": "thing", "endpoint:toy": "thing"}]))
    text = agreement_text(facts)
    assert facts["alpha"] is None
    assert "No example has labels of two people, so nothing can be said about agreement." in text
    assert "ann and endpoint:toy: 100 % of 1, no kappa" in text, "a machine beside a person is shown all the same"
    empty = agreement_of(annotated(tmp_path / "other", [{}]))
    assert agreement_text(empty).startswith("other: 0 of 1 asked examples have a label\nNo example has")


def test_a_simulation_has_no_people(tmp_path):
    facts = agreement_of(annotated(tmp_path / "run", [{"oracle": "place", "ann": "place"}]))
    assert facts["compared"] == 0


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ([{"ann": "place", "bob": "place"}] * 40, "All gave one and the same label, so there is no alpha"),
        ([{"ann": a, "bob": a} for a in ("place", "person") * 40], "The whole interval is above 0.8"),
        ([{"ann": a, "bob": a} for a in ("place", "person") * 40] + [{"ann": "place", "bob": "person"}] * 6, "not below 0.667"),
        ([{"ann": a, "bob": b} for a in ("place", "person") for b in ("place", "person")] * 10, "reaches below 0.667"),
        ([{"ann": "place", "bob": "place"}] * 40 + [{"ann": "place", "bob": "person"}], "too few labels of any but one kind"),
    ],
)  # fmt: skip
def test_sentences_for_every_case(tmp_path, answers, sentence):
    assert sentence in agreement_text(agreement_of(annotated(tmp_path / "run", answers)))


def test_numbers_agree_by_value_and_texts_by_normal_form(tmp_path):
    numbers = agreement_of(
        annotated(
            tmp_path / "numbers",
            [{"ann": "9*2=18\n#### 18", "bob": "#### 18.00"}, {"ann": "#### 1/2", "bob": "#### 0.5"}, {"ann": "#### 3", "bob": "#### -3"}],
            task={"kind": "number"}, config={"task": {"marker": "####"}},
        )
    )  # fmt: skip
    assert numbers["observed"] == pytest.approx(2 / 3)
    assert "Most confused" not in agreement_text(numbers)
    texts = agreement_of(
        annotated(
            tmp_path / "texts", [{"ann": "The Tower!", "bob": "tower"}, {"ann": "x", "bob": "y"}], task={"kind": "text"}
        )
    )
    assert texts["observed"] == 0.5
    assert texts["disagreements"][0]["answers"] == {"ann": "x", "bob": "y"}


def test_long_tables_are_cut_in_the_terminal_and_nothing_is_obeyed(tmp_path):
    answers = [{"ann": "place", "bob": "person"}] * 25
    facts = agreement_of(annotated(tmp_path / "run", answers))
    facts["disagreements"][0]["text"] = "\x1b[2J" + "x" * 500
    text = agreement_text(facts)
    assert "  and 15 more; --json has all" in text
    assert len(facts["disagreements"]) == 25
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 200


def test_the_costs_of_an_endpoint_are_shown(tmp_path):
    folder = annotated(tmp_path / "run", [{"endpoint:toy": "place"}])
    Ledger(folder).add(
        {
            "id": "a",
            "model": "toy",
            "outcome": "answer",
            "tokens_in": 120,
            "tokens_out": 3,
            "cost": 0.25,
            "seconds": 1.0,
            "tries": 1,
        }
    )
    text = agreement_text(agreement_of(folder))
    assert "Endpoint (toy): 1 reply, 120 tokens read and 3 written, 0.25 spent." in text
