"""The probes end to end on a run of three rounds, and on stores without a model."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked import predict
from literal_probes import (
    literal_changes,
    literal_matrices,
    literal_wrong,
    read,
    some_log_probs,
)
from numpy.testing import assert_allclose
from outside import dump

from guidestar import loop
from guidestar.bench import Bench, read_config
from guidestar.errors import ConfigError, ConfigMismatch, StoreError
from guidestar.model import adapters
from guidestar.model import predict as predict_room
from guidestar.records import Example, Label, Metrics, Pick, Query
from guidestar.store import Store
from guidestar.study import probes
from guidestar.study.drawing import write_csv
from guidestar.study.probes import figures, numbers, probe

# --- end to end -----------------------------------------------------------------------------------

QUERY = {"warm_start": 12, "batch": 6, "budget": 24, "candidates": 40}


def config_of(folder: Path, model: Path, **changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "out": str(folder),
        "strategies": ["entropy"],
        "model": {"name": str(model), "dtype": "float32"},
        "query": QUERY,
        "peft": {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
        "train": {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3},
    }
    return plain | changes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, demo_data: Path, tiny_folder: Path) -> dict[str, Any]:
    """The configuration of a finished run of three rounds."""
    folder = tmp_path_factory.mktemp("probed") / "run"
    data = {"preset": "demo", "folder": str(demo_data), "test_limit": 40, "pool_limit": 60}
    config = config_of(folder, tiny_folder, data=data)
    loop.run(config)
    return config


@pytest.fixture
def experiment(finished: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of the finished experiment, for one test alone."""
    return Path(shutil.copytree(finished["out"], tmp_path / "copy"))


@pytest.fixture
def run(experiment: Path) -> Path:
    return experiment / "entropy-seed0"


@pytest.fixture(scope="module")
def bench(finished: dict[str, Any]) -> Bench:
    return Bench(read_config(finished))


@pytest.fixture
def drawn() -> None:
    """Asked for by the tests whose figures are really drawn."""


@pytest.fixture(autouse=True)
def blank(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty figures in the other tests: to draw one takes longer than all else that these do."""
    if "drawn" not in request.fixturenames:
        for name in ("draw_densities", "draw_correlations", "draw_changes"):
            monkeypatch.setattr(figures, name, lambda *args: lambda figure: None)


def forbid(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Any use of these functions is an error."""
    for name in names:

        def refuse(*args: Any, **options: Any) -> Any:
            raise AssertionError("it was computed again")

        monkeypatch.setattr(name, refuse)


def test_confidence_of_a_run(run: Path, bench: Bench, drawn: None) -> None:
    found = probe(run, "confidence", bench=bench, shots=2)
    with Store.open(run) as store:
        last, base = store.arrays(2, "test"), store.arrays(0, "test_base")
        accuracy = store.metrics()[2].values
    for key, arrays in (("tuned", last), ("zero_shot", base)):
        expected = literal_wrong(arrays["log_probs"].astype(float), arrays["gold"])
        assert found.facts["models"][key]["wrong"]["n"] == len(expected) >= 10
        assert found.facts["models"][key]["wrong"]["mean"] == pytest.approx(np.mean(expected))
    assert found.facts["models"]["tuned"]["accuracy"] == pytest.approx(accuracy["accuracy"])
    assert found.facts["models"]["tuned"]["ece"] == pytest.approx(accuracy["ece"], abs=1e-5)
    assert found.facts["round"] == 2
    assert found.facts["labels"] == 24
    pairs = list(zip(base["log_probs"].astype(float), last["log_probs"].astype(float), last["gold"], strict=True))
    moved = [math.exp(b.max()) - math.exp(a.max()) for a, b, y in pairs if a.argmax() != y and b.argmax() != y]
    assert found.facts["differences"]["zero_shot"]["both"] == len(moved) > 0
    assert found.facts["differences"]["zero_shot"]["both_wrong"] == pytest.approx(np.mean(moved))
    assert found.facts["models"]["few_shot"]["confidence"] != found.facts["models"]["zero_shot"]["confidence"]
    assert found.facts["names"]["few_shot"] == "base model with 2 demonstrations"
    assert {path.name for path in found.files} == {f"confidence.{kind}" for kind in ("png", "pdf", "csv", "json")}
    assert json.loads((run / "probes" / "confidence.json").read_text()) == found.facts
    assert found.facts["sentences"] == list(found.sentences)

    rows = read(run / "probes" / "confidence.csv")
    for key in ("few_shot", "zero_shot", "tuned"):
        mine = [row for row in rows if row["model"] == key]
        assert sum(int(row["wrong"]) for row in mine) == found.facts["models"][key]["wrong"]["n"]
        width = 1 - 1 / len(bench.dataset.task.labels)
        assert float(mine[0]["from"]) == pytest.approx(1 - width)
        for column in ("histogram", "density"):
            mass = sum(float(row[column]) for row in mine) * width / len(mine)
            assert mass == pytest.approx(1, abs=0.01), f"the {column} of {key} is no density"


def test_few_shot_predictions_are_those_of_the_warm_starts_labels(run: Path, bench: Bench) -> None:
    with Store.open(run) as store:
        labelled = [(example, label.answer) for example, label in store.annotations.labelled(0)]
    split = bench.fitting.test
    assert split is not None
    values, _ = bench.engine.few_shot(labelled, split, shots=3, seed=0)
    found = probe(run, "confidence", bench=bench, shots=3).facts["models"]["few_shot"]
    assert found["accuracy"] == pytest.approx(values["accuracy"])
    assert found["ece"] == pytest.approx(values["ece"], abs=1e-6)


def test_a_confidence_probe_asked_again_needs_no_model(
    run: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = probe(run, "confidence", bench=bench, shots=2)
    before = {path: path.read_bytes() for path in first.files}
    forbid(monkeypatch, "guidestar.model.engine.OwnEngine.few_shot", "guidestar.model.load.load")
    again = probe(run, "confidence", shots=2)  # without a bench: nothing of it is needed
    assert again.facts == first.facts
    assert {path: path.read_bytes() for path in again.files} == before
    monkeypatch.setattr("guidestar.model.load.load", lambda *args, **how: bench.base)
    with pytest.raises(AssertionError, match="computed again"):
        probe(run, "confidence", shots=3)


def test_confidence_of_another_round_and_without_demonstrations(run: Path, bench: Bench) -> None:
    found = probe(run, "confidence", bench=bench, shots=0, round=0)
    assert (found.facts["round"], found.facts["labels"]) == (0, 12)
    assert list(found.facts["models"]) == ["zero_shot", "tuned"]
    with pytest.raises(ConfigError, match="round is 3; allowed: 0, 1, 2"):
        probe(run, "confidence", bench=bench, round=3)
    with pytest.raises(ConfigError, match="shots is -1"):
        probe(run, "confidence", bench=bench, shots=-1)


def test_a_base_model_whose_test_predictions_were_deleted_is_asked_again(run: Path, bench: Bench) -> None:
    before = probe(run, "confidence", bench=bench, shots=0).facts
    (run / "arrays" / "round-000-test_base.safetensors").unlink()
    assert probe(run, "confidence", bench=bench, shots=0).facts == before


def test_too_few_wrong_predictions_are_a_sentence_and_no_figure(run: Path, bench: Bench) -> None:
    stem = run / "probes" / "confidence"
    probe(run, "confidence", bench=bench, shots=0)
    assert stem.with_suffix(".png").exists()
    with Store.open(run) as store, store.lock():
        arrays = store.arrays(2, "test")
        right = np.full_like(arrays["log_probs"], -5.0)
        right[np.arange(40), arrays["gold"]] = np.log(1 - 5 * np.exp(-5.0))
        worse = right.copy()
        worse[:3] = np.roll(right[:3], 1, axis=1)
        store.add_arrays(2, "test", {"log_probs": worse, "gold": arrays["gold"]})
        store.add_arrays(0, "test_base", {"log_probs": right, "gold": arrays["gold"]})
    found = probe(run, "confidence", bench=bench, shots=0)
    text = " ".join(found.sentences)
    assert "no prediction is wrong" in text
    assert (
        "fewer than 10 predictions are wrong: the base model (0) and the tuned model, round 2 (24 labels) (3)" in text
    )
    assert "cannot be compared" in text
    assert {path.name for path in found.files} == {"confidence.csv", "confidence.json"}
    assert not stem.with_suffix(".png").exists(), "the figure of the earlier probe contradicts this one"
    assert not stem.with_suffix(".pdf").exists()


def test_entropy_of_a_run(run: Path, bench: Bench, drawn: None) -> None:
    found = probe(run, "entropy", bench=bench, top=20)
    base, pool, task = bench.base, bench.pool, bench.dataset.task

    def entropies(adapter: Path | None, examples: Any) -> list[float]:
        with adapters.adapted(base, adapter) as model:
            logs = [
                predict(base, model, [e], {"label_log_probs"}, task).arrays["label_log_probs"][0, 0] for e in examples
            ]
        return [-sum(math.exp(v) * v for v in row) for row in logs]

    at_the_start = dict(zip([e.id for e in pool], entropies(None, pool), strict=True))
    expected = set(sorted(at_the_start, key=lambda id: -at_the_start[id])[:20])
    rows = read(run / "probes" / "entropy-examples.csv")
    top = [row for row in rows if row["top"] == "1"]
    assert {row["id"] for row in top} == expected
    assert sum(row["random"] == "1" for row in rows) == 20
    assert all("/" not in row["where"] and " line " in row["where"] for row in rows)

    by_id = {e.id: e for e in pool}
    with Store.open(run) as store:
        trained = [{e.id for e, _ in store.annotations.labelled(r)} for r in range(3)]
        folders = [store.adapter(r) for r in range(3)]
    for name, adapter in (("base", None), *((f"round_{r}", folders[r]) for r in range(3))):
        values = [float(row[f"entropy_{name}"]) for row in rows]
        assert_allclose(values, entropies(adapter, [by_id[row["id"]] for row in rows]), atol=1e-4)
    for row in rows:
        first = next((str(r) for r in range(3) if row["id"] in trained[r]), "")
        assert row["labelled_by"] == first
    assert found.facts["labelled"] == [0, *(len(expected & trained[r]) for r in range(3))]

    values = np.array([[float(row[f"entropy_{n}"]) for row in top] for n in ("base", "round_0", "round_1", "round_2")])
    unlabelled = np.array([[True] * 20, *([row["id"] not in trained[r] for row in top] for r in range(3))])
    one = found.facts["measures"]["entropy"]["top"]
    assert_allclose(one["mean"], values.mean(axis=1))
    for suffix, keep in (("", np.ones_like(unlabelled)), ("_unlabelled", unlabelled)):
        pearson, spearman = literal_matrices(values, keep)
        assert_allclose(np.array(one[f"pearson{suffix}"], dtype=float), pearson, atol=1e-9)
        assert_allclose(np.array(one[f"spearman{suffix}"], dtype=float), spearman, atol=1e-9)
    pairs = read(run / "probes" / "entropy.csv")
    assert len(pairs) == 2 * 6, "six pairs of four models, for the uncertain and for the random examples"
    shown = next(row for row in pairs if (row["sample"], row["from"], row["to"]) == ("top", "1", "2"))
    assert float(shown["pearson"]) == one["pearson"][2][3]
    assert int(shown["unlabelled"]) == int(unlabelled[2:].all(axis=0).sum())
    assert {path.name for path in found.files} == {
        *(f"entropy.{kind}" for kind in ("png", "pdf", "csv", "json")), "entropy-examples.csv",
    }  # fmt: skip


def test_an_entropy_probe_goes_on_where_it_was_stopped(
    run: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = probe(run, "entropy", bench=bench, top=15)
    kept = sorted((run / "probes").glob("entropy-round-*.safetensors"))
    assert len(kept) == 3
    for path in (*whole.files, *kept[1:]):
        path.unlink()
    calls, real = [], predict_room.predict

    def counted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(predict_room, "predict", counted)
    with pytest.raises(KeyboardInterrupt):
        probe(run, "entropy", bench=bench, top=15)
    assert len(list((run / "probes").glob("entropy-round-*.safetensors"))) == 2
    again = probe(run, "entropy", bench=bench, top=15)
    assert len(calls) == 3, "of three rounds one was there, one was made, one was stopped and made again"
    assert again.facts == whole.facts
    probe(run, "entropy", bench=bench, top=15)
    assert len(calls) == 3
    probe(run, "entropy", bench=bench, top=16)
    assert len(calls) == 6, "other examples are another question"


def test_all_of_a_small_pool_needs_no_random_examples(run: Path, bench: Bench) -> None:
    found = probe(run, "entropy", bench=bench, limit=10)
    assert found.facts["top"] == found.facts["pool"] == 10
    assert found.facts["random"] is None
    assert found.facts["measures"]["entropy"]["random"] is None
    assert "Followed: all 10 pool examples" in found.sentences[0]
    assert len(read(run / "probes" / "entropy-examples.csv")) == 10
    assert {row["sample"] for row in read(run / "probes" / "entropy.csv")} == {"top"}


def test_a_measure_of_responses_comes_with_that_of_their_answers(run: Path, bench: Bench) -> None:
    found = probe(run, "entropy", bench=bench, top=6, limit=12, measure="response_entropy")
    assert list(found.facts["measures"]) == ["response_entropy", "answer_entropy"]
    assert found.facts["measure"] == "response_entropy"
    names = {path.name for path in found.files}
    assert {"entropy.png", "entropy-answer_entropy.png", "entropy-answer_entropy.csv"} <= names
    first = read(run / "probes" / "entropy-examples.csv")[0]
    assert float(first["response_entropy_base"]) >= float(first["answer_entropy_base"]) > 0
    probe(run, "entropy", bench=bench, top=6, limit=12)
    left = {path.name for path in (run / "probes").iterdir()}
    assert "entropy-answer_entropy.png" not in left, "the next probe has another measure and takes this figure away"
    assert "entropy-examples.csv" in left
    assert sum(name.endswith(".safetensors") for name in left) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": "entrpy"}, "measure 'entrpy' is unknown; did you mean 'entropy'"),
        ({"measure": "oracle_entropy"}, "'oracle_entropy' reads gold answers.* allowed: entropy, "),
        ({"measure": "bald"}, "'bald' compares Monte-Carlo passes"),
        ({"top": 2}, "top is 2; allowed: 3 or more"),
        ({"limit": 0}, "limit is 0; allowed: 3 or more"),
    ],
)
def test_options_of_the_entropy_probe_are_checked(
    run: Path, bench: Bench, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        probe(run, "entropy", bench=bench, **options)


def test_rounds_whose_adapters_were_deleted_are_left_out(run: Path, bench: Bench) -> None:
    shutil.rmtree(run / "adapters" / "round-001")
    found = probe(run, "entropy", bench=bench, top=8, limit=20)
    assert found.facts["rows"] == ["base", "0", "2"]
    assert found.sentences[-2] == "Left out, because their adapters were deleted: round 1."
    for r in (0, 2):
        shutil.rmtree(run / "adapters" / f"round-00{r}")
    with pytest.raises(StoreError, match="all their adapters are gone"):
        probe(run, "entropy", bench=bench)


def test_a_damaged_cache_is_refused(run: Path, bench: Bench) -> None:
    probe(run, "entropy", bench=bench, top=8, limit=20)
    path = min((run / "probes").glob("entropy-round-*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(StoreError, match="its content has changed since it was written; delete it"):
        probe(run, "entropy", bench=bench, top=8, limit=20)
    path.unlink()
    probe(run, "entropy", bench=bench, top=8, limit=20)


def test_unchanged_predictions_of_a_run(run: Path, monkeypatch: pytest.MonkeyPatch, drawn: None) -> None:
    forbid(monkeypatch, "guidestar.model.load.load")  # all it needs is in the store
    found = probe(run, "unchanged")
    with Store.open(run) as store:
        arrays = [store.arrays(0, "test_base"), *(store.arrays(r, "test") for r in range(3))]
    logs, gold = [a["log_probs"].astype(float) for a in arrays], arrays[0]["gold"]
    places = {None: 0, 0: 1, 1: 2, 2: 3}
    pairs = [(one["from"], one["to"]) for one in found.facts["changes"]]
    assert pairs == [(None, 0), (None, 1), (None, 2), (0, 1), (1, 2)]
    for one in found.facts["changes"]:
        literal = literal_changes(logs[places[one["from"]]], logs[places[one["to"]]], gold)
        for group, values in literal.items():
            assert one["groups"][group]["n"] == len(values["entropy"])
            if values["entropy"]:
                assert one["groups"][group]["entropy"]["mean"] == pytest.approx(np.mean(values["entropy"]))
                assert one["groups"][group]["confidence"]["q50"] == pytest.approx(np.median(values["confidence"]))
    rows = read(run / "probes" / "unchanged.csv")
    assert len(rows) == 5 * len(numbers.GROUPS) * 2
    assert {path.name for path in found.files} == {f"unchanged.{kind}" for kind in ("png", "pdf", "csv", "json")}
    assert "stay the same" in found.sentences[0]


def test_a_probe_by_name_finds_the_run_of_an_experiment(experiment: Path) -> None:
    found = probe(experiment, "unchanged", round=None, top=None)
    assert found.facts["run"] == "entropy-seed0"
    assert found.sentences[-1].startswith("The data is synthetic")
    with pytest.raises(ConfigError, match=r"probe 'entorpy' is unknown; did you mean 'entropy'\?"):
        probe(experiment, "entorpy")
    with pytest.raises(ConfigError, match="probe unchanged has no option 'top'; allowed: none"):
        probe(experiment, "unchanged", top=5)
    with pytest.raises(ConfigError, match="probe confidence has no option 'measure'; allowed: shots, round"):
        probe(experiment, "confidence", measure="entropy")
    shutil.copytree(experiment / "entropy-seed0", experiment / "entropy-seed1")
    with pytest.raises(StoreError, match="2 runs"):
        probe(experiment, "unchanged")


def test_a_probe_reads_the_configuration_beside_the_run(run: Path) -> None:
    """Without a bench: the folder alone is enough."""
    assert probe(run, "entropy", top=4, limit=8).facts["top"] == 4
    (run.parent / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"found no config\.yaml in it or in the folder above it"):
        probe(run, "entropy", top=4, limit=8)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("model", {"dtype": "bfloat16"}, "the model's dtype was float32 when the run began, now it is bfloat16"),
        ("data", {"test_limit": 39}, "the data or the template has changed since the run was begun"),
    ],
)
def test_another_model_or_other_data_than_the_runs_is_refused(
    run: Path, finished: dict[str, Any], section: str, change: dict[str, Any], message: str
) -> None:
    other = Bench(read_config(finished | {section: finished[section] | change}))
    for ask in (
        lambda: probe(run, "entropy", bench=other, top=5),
        lambda: probe(run, "confidence", bench=other, shots=1),
    ):
        with pytest.raises(ConfigMismatch, match=message):
            ask()


def test_a_probe_changes_nothing_in_the_run(run: Path, bench: Bench) -> None:
    with Store.open(run) as store:
        before = dump(store)
    for name in probes.PROBES:
        if name != "gates":  # for UniPELT alone; test_unipelt.py asks the same of it
            probe(run, name, bench=bench)
    with Store.open(run) as store:
        assert dump(store) == before


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> dict[str, Any]:
    """The configuration of a run on a task with a number for an answer, with every weight tuned."""
    folder = tmp_path_factory.mktemp("sums")
    rng = np.random.default_rng(0)
    for name, size in (("pool", 20), ("test", 4)):
        pairs = rng.permutation(400)[:size]
        rows = [
            [f"Message: {p // 20} and {p % 20}", f"It is {p // 20 + p % 20}. #### {p // 20 + p % 20}"] for p in pairs
        ]
        write_csv(folder / f"{name}.csv", ["text", "answer"], rows)
    config = config_of(
        folder / "run",
        tiny_folder,
        data={
            "pool": str(folder / "pool.csv"), "test": str(folder / "test.csv"), "answer": "answer", "template": "{text}\nSum:",
        },
        task={"kind": "number", "max_new_tokens": 8},
        query={"warm_start": 4, "batch": 4, "budget": 8},
        strategies=["random"],
        peft={"peft_type": "FULL"},
    )  # fmt: skip
    loop.run(config)
    return config


def test_probes_of_a_task_that_writes_responses_and_of_full_fine_tuning(sums: dict[str, Any]) -> None:
    run = Path(sums["out"]) / "random-seed0"
    found = probe(run, "entropy", top=6)
    assert list(found.facts["measures"]) == ["response_entropy", "answer_entropy"], "random has no measure of its own"
    assert found.facts["rows"] == ["base", "0", "1"]
    means = found.facts["measures"]["response_entropy"]["top"]["mean"]
    assert len(set(means)) == 3, "base model and rounds are different models"
    for name in ("confidence", "unchanged"):
        with pytest.raises(
            ConfigError, match=f"probe {name} needs the probabilities of labels, and of a task of kind number"
        ):
            probe(run, name)
    with pytest.raises(ConfigError, match="measure 'entropy' is not defined for the task kind 'number'"):
        probe(run, "entropy", measure="entropy")


# --- stores without a model -----------------------------------------------------------------------


@pytest.fixture
def invented(tmp_path: Path) -> Callable[..., Path]:
    """A run folder with what the store holds after some rounds, and no adapters."""

    def build(rounds: int, *, test: bool = True, measure: str | None = "auto") -> Path:
        folder = tmp_path / "invented"
        facts = {
            "name": "invented", "strategy": "x", "seed": 0, "task": {"kind": "choice", "labels": ["a", "b"], "words": ["a", "b"]},
            "recipe": {"measure": measure}, "data_hash": "0", "model": {"name": "m", "fingerprint": "0", "dtype": "float32"},
        }  # fmt: skip
        rng = np.random.default_rng(0)
        gold = rng.integers(0, 2, 50)
        with Store.open(folder, create=True) as store:
            store.begin({"seed": 0}, facts)
            for r in range(rounds):
                id = f"{r:016x}"
                store.add_query(Query(r, (Pick(id, math.nan),)), {id: Example(id, {"text": "t"}, "t", "p.csv line 2")})
                store.annotations.add(id, Label("a"))
                if test:
                    for name in ("test", "test_base") if r == 0 else ("test",):
                        store.add_arrays(r, name, {"log_probs": some_log_probs(rng, 50, 2), "gold": gold})
                store.add_metrics(Metrics(r, r + 1, {"accuracy": 0.5} if test else {}))
        return folder

    return build


def test_a_run_without_a_finished_round_or_a_test_set(invented: Callable[..., Path]) -> None:
    folder = invented(0)
    for name in ("confidence", "entropy", "unchanged"):
        with pytest.raises(StoreError, match="no round is complete yet"):
            probe(folder, name)
    shutil.rmtree(folder)
    folder = invented(2, test=False)
    for name in ("confidence", "unchanged"):
        with pytest.raises(ConfigError, match="the run has no test set"):
            probe(folder, name)


def test_one_round_has_no_round_before(invented: Callable[..., Path]) -> None:
    found = probe(invented(1), "unchanged")
    assert [(one["from"], one["to"]) for one in found.facts["changes"]] == [(None, 0)]
    assert len(found.sentences) == 1


def test_test_sets_that_differ_are_noticed(invented: Callable[..., Path]) -> None:
    folder = invented(2)
    with Store.open(folder) as store, store.lock():
        arrays = store.arrays(1, "test")
        store.add_arrays(1, "test", {**arrays, "gold": 1 - arrays["gold"]})
    for ask in (lambda: probe(folder, "unchanged"), lambda: probe(folder, "confidence", shots=0)):
        with pytest.raises(StoreError, match="not of the same examples"):
            ask()


@pytest.mark.parametrize("own", ["bald", "oracle_predictive_entropy"])
def test_a_strategys_measure_that_one_pass_cannot_give_is_replaced(
    run: Path, bench: Bench, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Store.facts.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(Store, "facts", property(lambda self: recorded(self) | {"recipe": {"measure": own}}))
    found = probe(run, "entropy", bench=bench, top=5, limit=10)
    assert found.facts["measure"] == "entropy"
    assert any(sentence.startswith(f"The run's own measure, {own}, cannot") for sentence in found.sentences)


def test_the_late_scatter_is_the_papers_iterations_5_and_6() -> None:
    from guidestar.study.probes.entropy import _pairs, _row_name

    rounds = [Metrics(r, 500 * (r + 1), {}) for r in range(10)]
    assert _pairs(rounds) == [(0, 1), (5, 6)]
    assert [_row_name(rounds, row) for row in (0, 5, 6)] == [
        "base model",
        "round 4 (2,500 labels)",
        "round 5 (3,000 labels)",
    ]
    assert _pairs(rounds[:4]) == [(0, 1), (3, 4)]
    assert _pairs(rounds[:1]) == [(0, 1)]
    assert _pairs(rounds[:2]) == [(0, 1), (1, 2)]


def test_importing_the_probes_loads_nothing_heavy() -> None:
    program = "import sys, guidestar.study.probes; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "peft", "matplotlib", "scipy", "sklearn"} & set(found)
