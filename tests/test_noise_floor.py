"""No difference below what training alone moves is called a gain, and the words and the numbers say why."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from test_compare import BETTER, RISING, WORSE, experiment, row, write

from guidestar.cli.main import main
from guidestar.errors import StoreError
from guidestar.metrics.verdict import below_floor, floor_of_mean
from guidestar.report import build_report, compare
from guidestar.report.compare import compare_text, compared
from guidestar.report.noise import NOISE_FILE, read_noise
from guidestar.study.probes import run as probed

LOUD = [0.70, 0.78, 0.86, 0.74, 0.82]  # sd 0.0632: floor 0.248 of one training, 0.111 of a mean of 5
QUIET = [0.800, 0.801, 0.802, 0.800, 0.801]


def probe(run: Path, accuracies: Sequence[float]) -> None:
    """What `guidestar probe RUN noise` leaves, as far as a comparison reads it."""
    path = run / NOISE_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"probe": "noise", "accuracies": list(accuracies)}), encoding="utf-8")


@pytest.fixture
def clear(tmp_path: Path) -> Path:
    return experiment(tmp_path / "tickets", star=BETTER, entropy=WORSE, random=RISING)


def _floor(accuracies: Sequence[float]) -> float:
    return float(stats.t.ppf(0.975, len(accuracies) - 1) * math.sqrt(2) * np.std(accuracies, ddof=1))


def test_a_gain_below_the_floor_is_none(clear: Path) -> None:
    without = compare([clear])
    assert (row(without)["verdict"]["kind"], row(without, "entropy")["verdict"]["kind"]) == ("gain", "harm")
    assert without["wins"]["star"]["random"] == [1, 0, 0]
    probe(clear / "star-seed0", LOUD)
    facts = compare([clear])
    for name in ("star", "entropy"):
        found = row(facts, name)
        assert found["verdict"]["kind"] == "no evidence"
        assert ", below the noise floor of 11.1 points of a mean of 5 seeds, " in found["verdict"]["sentence"]
        assert found["verdict"]["sentence"].endswith("; training again on the same labels may move it as far.")
        assert found["noise"]["floor"] == pytest.approx(_floor(LOUD))
        assert found["noise"]["of_mean"] == pytest.approx(_floor(LOUD) / math.sqrt(5))
        assert found["noise"]["below"] is True
    assert facts["wins"]["star"]["random"] == [0, 1, 0]
    assert facts["datasets"][0]["noise"]["runs"] == ["star-seed0"]
    text = compare_text(compared([clear]))
    assert "The noise floor: order, dropout and the adapter's start alone move two trainings" in text
    assert "up to 24.8 points apart (95 %, 5 trainings of star-seed0), a mean of 5 seeds by up to 11.1." in text


def test_a_gain_above_it_stays_and_is_said_to_be_hidden_from_one_project(clear: Path) -> None:
    probe(clear / "random-seed3", QUIET)
    quiet = compare([clear])
    assert row(quiet)["verdict"] == row(compare([clear]))["verdict"]
    assert row(quiet)["verdict"]["kind"] == "gain"
    assert row(quiet)["noise"]["below_one"] is False
    assert not any("one project may not see it" in note for note in quiet["datasets"][0]["notes"])
    difference = row(quiet)["auc"]["difference"]["estimate"]
    (clear / "random-seed3" / NOISE_FILE).unlink()
    steps = np.array([-1.0, 1, -1, 1, -1, 1])
    probe(
        clear / "star-seed1", (0.8 + steps * 1.5 * difference / _floor(steps.tolist())).tolist()
    )  # 1.5 × the difference
    between = compare([clear])
    assert row(between)["verdict"]["kind"] == "gain"
    assert (row(between)["noise"]["below"], row(between)["noise"]["below_one"]) == (False, True)
    notes = [note for note in between["datasets"][0]["notes"] if note.startswith("star: the gain shows in the mean")]
    assert len(notes) == 1
    assert "one project may not see it" in notes[0]


def test_one_seed_is_measured_by_the_whole_floor(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "one", seeds=1, size=0.0, star=BETTER, random=RISING)
    probe(folder / "star-seed0", LOUD)
    found = row(compare([folder]))
    assert (
        "above random's accuracy, below the noise floor of 24.8 points, and nothing tells"
        in found["verdict"]["sentence"]
    )
    assert found["noise"]["of_mean"] == found["noise"]["floor"]


def test_without_a_probe_the_notes_say_how_to_get_one(clear: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = compare([clear])
    assert facts["datasets"][0]["noise"] is None
    assert row(facts)["noise"] is None
    assert main(["compare", str(clear)]) == 0
    assert "`guidestar probe RUN noise` measures it" in capsys.readouterr().out


def test_the_report_and_json_say_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clear = tmp_path / "tickets"
    for name, curve in (("star", BETTER), ("random", RISING)):
        for seed in range(5):
            write(clear, name, seed, curve + 0.001 * seed * (name == "star"), task={"kind": "text"})
    probe(clear / "star-seed0", LOUD)
    page = build_report(clear).read_text(encoding="utf-8")
    assert "below the noise floor of 11.1 points" in page
    assert "The noise floor: order, dropout" in page
    assert main(["compare", str(clear), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert row(facts)["noise"]["below"] is True


def test_several_probes_are_pooled(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("a", "b", "c")]
    for run, values in zip(runs, (LOUD, QUIET[:3], None), strict=True):
        run.mkdir()
        if values:
            probe(run, values)
    found = read_noise(runs)
    assert found is not None
    variance = (4 * np.var(LOUD, ddof=1) + 2 * np.var(QUIET[:3], ddof=1)) / 6
    assert (found.degrees, found.runs) == (6, ["a", "b"])
    assert found.sd == pytest.approx(math.sqrt(variance))
    assert found.floor == pytest.approx(stats.t.ppf(0.975, 6) * math.sqrt(2 * variance))
    assert read_noise(runs[2:]) is None


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"accuracies": [0.5]}', '{"accuracies": [0.5, 7]}', '{"accuracies": null}']
)
def test_a_file_that_is_no_probe_is_refused(tmp_path: Path, text: str) -> None:
    probe(tmp_path, QUIET)
    (tmp_path / NOISE_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(StoreError, match=r"noise\.json: "):
        read_noise([tmp_path])


def test_alike_strategies_end_below_the_floor_of_their_mean_nineteen_times_in_twenty() -> None:
    """Two equal strategies differ by training noise alone; the floor comes from another five trainings."""
    rng, below, seeds = np.random.default_rng(0), 0, 5
    for _ in range(4000):
        floor = _floor(rng.normal(0.8, 0.01, 5).tolist())
        differences = rng.normal(0.8, 0.01, seeds) - rng.normal(0.8, 0.01, seeds)
        below += below_floor(differences, floor)
    assert below / 4000 == pytest.approx(0.95, abs=0.015)
    assert floor_of_mean(0.1, 1) == 0.1
    assert not below_floor(np.zeros(3), None)


def test_what_the_probe_leaves_is_what_is_read(tmp_path: Path) -> None:
    class Subject:
        place = tmp_path / "run" / "probes"

    Subject.place.mkdir(parents=True)
    probed.Subject.finish(Subject(), "noise", {"accuracies": QUIET, "synthetic": False}, ["said"], [])  # type: ignore[arg-type]
    found = read_noise([tmp_path / "run"])
    assert found is not None
    assert found.floor == pytest.approx(_floor(QUIET))
