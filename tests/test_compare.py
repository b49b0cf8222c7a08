"""Comparisons of made runs: who is set beside whom, over which seeds, with which numbers and words."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from simulation import WORLDS, Noise, accuracies, answers

from guidestar.cli.main import main
from guidestar.errors import ConfigError, GuidestarError
from guidestar.metrics.savings import auc, ripl
from guidestar.metrics.statistics import holm
from guidestar.records import Example, Metrics, Pick, Query, Stop
from guidestar.report import compare, summary
from guidestar.report.compare import compare_text, compared
from guidestar.store import Store

LABELS = [100, 150, 200, 300, 400]
RISING = np.array([0.6, 0.7, 0.76, 0.8, 0.82])
BETTER = np.array([0.6, 0.76, 0.81, 0.84, 0.86])
WORSE = np.array([0.6, 0.66, 0.7, 0.74, 0.77])
EXAMPLES = 1000


def write(
    folder: Path, strategy: str, seed: int, curve: Any, labels: Sequence[int] = LABELS, *, finished: bool = True,
    warm: str = "", right: np.ndarray | None = None, **facts: Any,
) -> Path:  # fmt: skip
    """A run as the loop leaves it. curve: accuracies, None without a test set. right: (points, examples), 1 for a
    right answer. warm: set apart from the other strategies' warm start."""
    place, random = folder / f"{strategy}-seed{seed}", strategy == "random"
    recipe = {"select": "random" if random else "top", "measure": None if random else "auto"}
    query = {"warm_start": 100, "batch": 75, "budget": 400}  # five rounds
    config = {"strategies": [{"use": "star"}, {"use": "entropy"}, {"use": "random"}], "query": query}
    about = {"strategy": strategy, "seed": seed, "recipe": recipe, "data": {"test": EXAMPLES}, "data_hash": "one"}
    with Store.open(place, create=True) as store:
        store.begin({"seed": seed}, about | {"config": config} | facts)
        for r, (at, value) in enumerate(zip(labels, curve, strict=True)):
            name = f"{warm}warm" if r == 0 else strategy
            example = Example(f"{name}-{seed}-{r}", {"text": "x"}, "x")
            store.add_query(Query(r, (Pick(example.id, float("nan")),)), {example.id: example})
            if right is not None:
                store.add_arrays(r, "test", {"correct": right[r].astype(np.uint8)})
            store.add_metrics(Metrics(r, at, {"loss": 1.0} if value is None else {"accuracy": float(value)}))
        if finished:
            store.finish(Stop.BUDGET)
    return place


def experiment(folder: Path, seeds: int = 5, size: float = 0.004, **curves: np.ndarray) -> Path:
    """Every strategy with its curve, seed by seed a little higher or lower; random's seeds in another order."""
    for name, curve in curves.items():
        for seed, shift in enumerate(np.linspace(-size, size, seeds)[:: -1 if name == "random" else 1]):
            values = np.asarray(curve) + shift
            values[0] = curve[0]
            write(folder, name, seed, values)
    return folder


def row(facts: dict[str, Any], strategy: str = "star") -> dict[str, Any]:
    return next(one for one in facts["datasets"][0]["comparisons"] if one["strategy"] == strategy)


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """star is better than random, entropy worse."""
    return experiment(tmp_path_factory.mktemp("runs") / "tickets", star=BETTER, entropy=WORSE, random=RISING)


# --- numbers --------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_curves(clear: Path) -> None:
    facts = compare([clear])
    found = row(facts)
    shifts = np.linspace(-0.004, 0.004, 5)
    areas = np.array(
        [[auc([c[0], *(c[1:] + s)]) for s in order] for c, order in ((BETTER, shifts), (RISING, shifts[::-1]))]
    )
    own, other = areas
    test = stats.ttest_rel(own, other)
    interval = test.confidence_interval(0.95)
    assert found["auc"]["strategy"] == pytest.approx(own.mean())
    assert found["auc"]["control"] == pytest.approx(other.mean())
    difference = found["auc"]["difference"]
    assert (difference["low"], difference["high"]) == pytest.approx((interval.low, interval.high))
    assert found["final"]["difference"]["estimate"] == pytest.approx(0.04)
    assert found["ripl"]["estimate"] == pytest.approx(ripl(float(own.mean()), float(other.mean())))
    assert found["deficiency"]["estimate"] < 1 < row(facts, "entropy")["deficiency"]["estimate"]
    assert found["p"]["t"] == pytest.approx(test.pvalue)
    assert found["p"]["sign_flips"] == pytest.approx(2 / 2**5)
    assert found["p"]["smallest"] == pytest.approx(2 / 2**5)
    both = [row(facts, name)["p"] for name in ("star", "entropy")]
    assert [p["holm"] for p in both] == pytest.approx(holm([p["t"] for p in both]).tolist())
    assert facts["comparisons"] == 2


def test_words_are_those_of_the_verdicts(clear: Path) -> None:
    facts = compare([clear])
    star, entropy = row(facts)["verdict"], row(facts, "entropy")["verdict"]
    assert (star["kind"], entropy["kind"]) == ("gain", "harm")
    assert re.fullmatch(
        r"star reached random's \d+-label accuracy of 0\.82 with \d+ labels: \d+ % saved, 95 % interval \d+ to \d+ %, 5 seeds, after "
        r"correction for 2 comparisons\.",
        star["sentence"],
    )
    assert re.match(r"entropy reached an accuracy of .* more, ", entropy["sentence"])
    assert facts["wins"] == {
        "star": {"entropy": [1, 0, 0], "random": [1, 0, 0]},
        "entropy": {"star": [0, 0, 1], "random": [0, 0, 1]},
        "random": {"star": [0, 0, 1], "entropy": [1, 0, 0]},
    }


def test_saved_labels_and_their_reverse_are_read_off_the_curves(clear: Path) -> None:
    facts = compare([clear], target=0.8)
    target = row(facts)["saved"]["at_target"]
    assert 150 < target["labels"] < 220
    assert target["control_labels"] == pytest.approx(300, rel=0.05)
    assert row(facts)["target_sentence"].startswith("star needed ")
    # entropy ends at 0.77, which random has with a little more than 200 labels: it needed more, not fewer
    reverse = row(facts, "entropy")["saved"]["at_the_end"]
    assert reverse["share"]["high"] < 0
    assert 200 < reverse["control_labels"] < 260


def test_another_control_and_level(clear: Path) -> None:
    facts = compare([clear], control="star", level=0.9)
    assert [one["strategy"] for one in facts["datasets"][0]["comparisons"]] == ["entropy", "random"]
    assert row(facts, "random")["verdict"]["kind"] == "harm"
    assert "90 % interval" in row(facts, "random")["verdict"]["sentence"]
    narrow, wide = (row(compare([clear], level=level))["auc"]["difference"] for level in (0.9, 0.99))
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]


def test_facts_are_plain_json_and_the_same_every_time(clear: Path) -> None:
    assert json.dumps(compare([clear], target=0.99), allow_nan=False) == json.dumps(compare([clear], target=0.99))


def test_known_answers_widen_the_intervals_to_new_test_examples(tmp_path: Path) -> None:
    world = replace(WORLDS["power law"], speed=1.0)
    right = answers(world, 5, np.random.default_rng(3), Noise(0.002, 0.002, examples=150))
    for folder, known in ((tmp_path / "known", True), (tmp_path / "unknown", False)):
        for name, side in zip(("star", "random"), right, strict=True):
            for seed in range(5):
                one = side[seed]
                write(folder, name, seed, one.mean(axis=1), world.labels.tolist(), right=one if known else None)
    known, unknown = compare([tmp_path / "known"]), compare([tmp_path / "unknown"])
    spans = [row(f)["auc"]["difference"]["high"] - row(f)["auc"]["difference"]["low"] for f in (known, unknown)]
    assert row(known)["examples"] == 150
    assert spans[0] > spans[1]
    assert any("new test examples like these 150" in note for note in known["datasets"][0]["notes"])
    assert any("a larger test set would tell more" in note for note in known["datasets"][0]["notes"])
    assert any("test examples alone" in note for note in unknown["datasets"][0]["notes"])


# --- who is set beside whom ------------------------------------------------------------------------


def test_seeds_that_are_not_finished_are_left_out_and_named(tmp_path: Path) -> None:
    experiment(tmp_path, star=BETTER, random=RISING)
    write(tmp_path, "star", 5, BETTER[:3], LABELS[:3], finished=False)
    write(tmp_path, "random", 6, RISING)
    facts = compare([tmp_path])
    assert row(facts)["seeds"] == [0, 1, 2, 3, 4]
    left_out = facts["datasets"][0]["left_out"]
    assert any(text.startswith("star-seed5 is left out: it is not finished, it has measured 3") for text in left_out)
    assert "random-seed6 is left out: star has not finished seed 6." in left_out


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_few_seeds_are_said_so_and_claim_nothing(tmp_path: Path, seeds: int) -> None:
    folder = experiment(tmp_path, seeds, star=BETTER + 0.1, random=RISING)
    facts = compare([folder])
    found = row(facts)
    assert found["verdict"]["kind"] == "no evidence"
    assert "cannot show a gain" in found["verdict"]["sentence"]
    assert facts["comparisons"] == 0
    assert facts["wins"] is None
    assert (found["p"] is None) == (seeds == 1)
    text = compare_text(compared([folder]))
    assert "cannot show a gain" in text
    assert "AUC: mean height of the curve." in text
    if any("–" in line for line in text.splitlines() if line.startswith("star ")):
        assert "–: not known with these seeds." in text, "no dash goes unexplained"
    assert ("deficiency" in text) == (seeds > 1), "a column of dashes alone is left out"


def test_warm_starts_are_checked(tmp_path: Path) -> None:
    experiment(tmp_path / "shared", star=BETTER, random=RISING)
    shared = compare([tmp_path / "shared"])["datasets"][0]
    assert shared["shared_warm_start"] == {str(seed): True for seed in range(5)}
    assert not any("did not begin" in note for note in shared["notes"])
    experiment(tmp_path / "apart", 4, star=BETTER, random=RISING)
    write(tmp_path / "apart", "random", 4, RISING)
    write(tmp_path / "apart", "star", 4, BETTER, warm="own-")
    apart = compare([tmp_path / "apart"])["datasets"][0]
    assert apart["shared_warm_start"]["4"] is False
    assert any(
        note.startswith("The strategies of seed 4 did not begin with the same examples") for note in apart["notes"]
    )


def test_curves_are_compared_where_both_have_points(tmp_path: Path) -> None:
    """A control that went on with more labels answers what the shared budget cannot."""
    for seed in range(5):
        write(tmp_path, "star", seed, BETTER[:4] + 0.001 * seed, LABELS[:4])
        write(tmp_path, "random", seed, RISING + 0.001 * (seed % 2), LABELS)
    facts = compare([tmp_path])
    end = row(facts)["saved"]["at_the_end"]
    assert row(facts)["auc"]["strategy"] == pytest.approx(auc(BETTER[:4]) + 0.002)
    assert end["control_labels"] <= 400
    assert any("only their first 4 numbers of labels in common, of 5" in note for note in facts["datasets"][0]["notes"])


def test_different_data_are_named(tmp_path: Path) -> None:
    for seed in range(5):
        write(tmp_path, "star", seed, BETTER + 0.001 * seed)
        write(tmp_path, "random", seed, RISING, data_hash="another")
    assert any("not made on the same data" in note for note in compare([tmp_path])["datasets"][0]["notes"])


def test_runs_of_different_configurations_claim_nothing(tmp_path: Path) -> None:
    """A strategy trained longer, or another model, looks like a better strategy."""
    query = {"warm_start": 100, "batch": 75, "budget": 400}
    for name, epochs, curve in (("star", 12, BETTER), ("random", 2, RISING)):
        for seed in range(5):
            config = {"query": query, "train": {"epochs": epochs, "micro_batch_size": epochs}, "out": name}
            model = {"fingerprint": name, "dtype": "float32"}
            write(tmp_path, name, seed, curve + 0.001 * seed, config=config, model=model)
    facts = compare([tmp_path])
    said = row(facts)["verdict"]
    assert said["kind"] == "no evidence"
    assert said["sentence"].startswith("star and random were not made with the same configuration (")
    assert "train.epochs: 12 and 2" in said["sentence"]
    assert "the model's fingerprint: star and random" in said["sentence"]
    assert "micro_batch_size" not in said["sentence"]
    assert facts["wins"] is None
    notes = summary(tmp_path)["notes"]
    assert any(note.startswith("The runs were not made with the same configuration: ") for note in notes)


def test_a_target_with_one_seed_is_answered(tmp_path: Path) -> None:
    facts = compare([experiment(tmp_path, 1, star=BETTER, random=RISING)], target=0.8)
    assert (
        row(facts)["target_sentence"]
        == "How many labels an accuracy of 0.8 takes beside random is said from two seeds on."
    )


def test_run_folders_of_one_experiment_count_as_one(clear: Path) -> None:
    runs = [clear / f"{name}-seed{seed}" for name in ("star", "random") for seed in range(5)]
    facts = compare(runs)
    assert len(facts["datasets"]) == 1
    assert row(facts)["auc"] == row(compare([clear]))["auc"]


def test_several_datasets_share_one_correction_and_one_table_of_wins(tmp_path: Path) -> None:
    names = ["trec/plain", "subj/plain", "boolq/plain"]
    for name, curve in zip(names, (BETTER, RISING, WORSE), strict=True):
        experiment(tmp_path / name, star=curve, random=RISING)
    facts = compare([tmp_path / name for name in names])
    assert [data["name"] for data in facts["datasets"]] == names, "folders of one name are told apart"
    assert [data["comparisons"][0]["verdict"]["kind"] for data in facts["datasets"]] == ["gain", "no evidence", "harm"]
    assert facts["comparisons"] == 3
    assert facts["wins"]["star"]["random"] == [1, 1, 1]
    text = compare_text(compared([tmp_path / name for name in names]))
    assert "Won-tied-lost of each row against each column, over 3 datasets, corrected for all 3 pairs:" in text
    assert re.search(r"^star +1-1-1$", text, re.MULTILINE)


def test_equal_strategies_seldom_win_whatever_their_number(tmp_path: Path) -> None:
    """Five strategies that are random: none is called a gain in this draw, and Holm's p exceed the plain ones."""
    curves = accuracies(replace(WORLDS["power law"], speed=1.0), 5, np.random.default_rng(1), strategies=5)
    for name, side in zip(["a", "b", "c", "d", "e", "random"], curves, strict=True):
        for seed in range(5):
            write(tmp_path, name, seed, side[seed], WORLDS["power law"].labels.tolist())
    rows = compare([tmp_path])["datasets"][0]["comparisons"]
    assert [one["verdict"]["kind"] for one in rows] == ["no evidence"] * 5
    assert all(one["p"]["holm"] >= one["p"]["t"] for one in rows)


# --- what cannot be compared -----------------------------------------------------------------------


def test_errors_say_what_is_allowed(clear: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"has no strategy 'sta' .* did you mean 'star'\? allowed: star, entropy, random"
    ):
        compare([clear], control="sta")
    with pytest.raises(
        ConfigError, match="has no random strategy to compare with; it ran star alone; run random beside it"
    ):
        compare([clear / "star-seed0"])
    with pytest.raises(ConfigError, match=r"target is 80; allowed: a fraction between 0 and 1"):
        compare([clear], target=80)
    with pytest.raises(GuidestarError, match="no such folder"):
        compare([tmp_path / "missing"])


def test_nothing_beside_random_and_no_test_set(tmp_path: Path) -> None:
    experiment(tmp_path / "alone", random=RISING)
    assert "There is nothing to compare with random." in compare_text(compared([tmp_path / "alone"]))
    for name in ("star", "random"):
        write(tmp_path / "blind", name, 0, [None] * 5)
    facts = compare([tmp_path / "blind"])
    assert facts["datasets"][0]["left_out"][0] == "star-seed0 is left out: it has no test set, so no accuracy is known."
    assert row(facts)["verdict"]["sentence"] == "No seed is finished for both star and random."
    text = compare_text(compared([tmp_path / "blind"]))
    assert "No seed is finished for both star and random." in text
    assert "RIPL" not in text, "a table would hold dashes alone"


# --- the command ----------------------------------------------------------------------------------


def test_the_command_says_the_sentence_first_and_explains_its_columns(clear: Path, capsys: Any) -> None:
    assert main(["compare", str(clear), "--target", "0.8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tickets, beside random, 100 to 400 labels, 1000 test examples"
    assert lines[2].startswith("star reached an accuracy of 0.80 with ")
    assert lines[3].startswith("  At the target: star needed ")
    text = "\n".join(lines)
    for word in ("AUC", "RIPL", "deficiency", "labels saved", "Holm", "exact p"):
        assert text.count(word) >= 2, f"{word} is in the tables and explained"
    assert main(["compare", str(clear), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(compare([clear])))


def test_the_command_refuses_what_it_cannot_do(clear: Path, capsys: Any) -> None:
    assert main(["compare", str(clear), "--level", "95"]) == 2
    assert "level is 95.0; allowed: a fraction between 0 and 1" in capsys.readouterr().err
