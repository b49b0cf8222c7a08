"""The shipped studies of the STAR paper: every row is a valid run, and the numbers that the paper fixes are those."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from guidestar.config import RunConfig, read_file
from guidestar.errors import ConfigError
from guidestar.metrics.savings import ripl
from guidestar.model.adapters import make_config as adapter_config
from guidestar.query import strategies
from guidestar.query.mixing import schedule_for, weight
from guidestar.study.compose import Row, Study, identity, load_study
from guidestar.study.grid import Order
from guidestar.study.paper import order_of
from guidestar.study.studyfile import SHIPPED, scales, shipped

PLACES = [(s, d) for s in scales() for d in read_file(SHIPPED / "scales" / f"{s}.yaml")[0]["settings"]]
OF_KIND = {"gsm8k": "number"}  # the others are choices


@cache
def study_of(name: str, scale: str, dataset: str) -> Study:
    model = ("model.name=tiny",) if scale == "tiny" else ()
    texts = (f"datasets=[{dataset}]", "seeds=[0]", "out=runs/x", *model)
    return Order(str(shipped()[name]), texts, scale, name).study()


def configs_of(name: str, scale: str, dataset: str) -> Mapping[str, RunConfig]:
    """Row -> its run's configuration."""
    study = study_of(name, scale, dataset)
    by_name = {cell.tags["method"]: cell.config for cell in study.cells}
    return {row: by_name[run] for (_, _, row), run in study.runs.items()}


@pytest.mark.parametrize(("scale", "dataset"), PLACES)
def test_every_row_is_a_run_that_can_be_made(scale: str, dataset: str) -> None:
    adapters: dict[str, Any] = {}
    for name in shipped():
        for row, config in configs_of(name, scale, dataset).items():
            recipe = strategies.resolve(config.strategies[0])
            kind = OF_KIND.get(dataset, "choice")
            problems = strategies.check(recipe, kind, True, config.peft, config.train.b_dropout)
            assert not problems, f"{name}, {row}: {problems}"
            adapters.setdefault(repr(sorted(config.peft.items(), key=str)), config.peft)
    for peft in adapters.values():
        adapter_config(peft)  # raises for keys that PEFT does not know


@pytest.mark.parametrize(("scale", "dataset"), PLACES)
def test_a_name_is_one_configuration(scale: str, dataset: str) -> None:
    """Two studies that name a row alike mean the same run; so results can be shared."""
    seen: dict[str, str] = {}
    for name in shipped():
        for cell in study_of(name, scale, dataset).cells:
            found = identity(cell.config)
            assert seen.setdefault(str(cell.tags["method"]), found) == found, cell.name


@pytest.mark.parametrize("name", shipped())
def test_a_row_differs_from_its_control_in_the_query_or_in_what_it_is_about(name: str) -> None:
    """Controls are trained as their rows are; where a row is about training, its control has the same strategy, or is the
    paper's own random row of the ablation."""
    study = study_of(name, "small", "boolq")
    rows = {row.name: row for row in study.rows}
    found = configs_of(name, "small", "boolq")
    about_training = 0
    for row in rows.values():
        if row.control is None or row.name == row.control or row.name not in found:
            continue
        own, control = found[row.name].key(), found[row.control].key()
        changed = {key for key in {*own, *control} if own.get(key) != control.get(key)}
        if changed:
            about_training += 1
            same = [strategies.resolve(found[one].strategies[0]) for one in (row.name, row.control)]
            alike = same[0].measure == same[1].measure
            assert alike or (name == "table2" and changed == {"train.b_decay"}), f"{row.name}: {changed}"
    wanted = {"table2": 2, "decay": 4, "regularisers": 5, "published-code": 1}
    assert about_training == wanted.get(name, 0)


def test_the_papers_protocol() -> None:
    for dataset, batch, rate, epochs, step, budget, test in (
        ("gsm8k", 8, 1.5e-4, 3, 500, 5000, 1319),
        ("boolq", 32, 3e-5, 15, 500, 5000, 3270),
        ("openbookqa", 32, 3e-5, 15, 200, 2000, 500),
    ):
        star = configs_of("table1", "paper", dataset)["me-star"]
        assert star.model.name == "meta-llama/Llama-2-7b-hf"
        assert star.peft == {
            "peft_type": "LORA", "r": 64, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": "all-linear"
        }  # fmt: skip
        assert (star.train.batch_size, star.train.learning_rate, star.train.epochs) == (batch, rate, epochs)
        assert (star.query.warm_start, star.query.batch, star.query.budget) == (step, step, budget)
        assert star.query.rounds == 10
        assert star.query.candidates is None
        assert star.data.test_limit == test
        assert star.train.b_decay == 0.5
        recipe = strategies.resolve(star.strategies[0])
        assert (recipe.measure, recipe.passes, recipe.select) == ("response_entropy", 3, "top")
        assert recipe.mix is not None
        assert recipe.mix.scale == "raw"
        schedule = schedule_for(recipe.mix)
        assert [weight(schedule, t, 10) for t in range(9)] == pytest.approx([1 - 0.1 * (t + 1) for t in range(9)])


def test_what_the_rows_of_the_tables_are() -> None:
    found: dict[str, dict[str, Any]] = {}
    for name in ("table1", "table2"):
        for row, config in configs_of(name, "paper", "boolq").items():
            recipe = strategies.resolve(config.strategies[0])
            assert config.peft["lora_dropout"] == 0.1
            is_mixed = recipe.mix is not None
            found.setdefault(name, {})[row] = (recipe.measure, recipe.passes, is_mixed, config.train.b_decay)
    pe, me = "oracle_predictive_entropy", "response_entropy"
    assert found["table1"] == {
        "random-decay": (None, 0, False, 0.5),
        "pe-decay": (pe, 0, False, 0.5),
        "me-decay": (me, 0, False, 0.5),
        "pe-star": (pe, 3, True, 0.5),
        "me-star": (me, 3, True, 0.5),
    }, "one β, so that RIPL is of the choice alone"
    assert found["table2"] == {
        "random": (None, 0, False, 0.0),
        "pe": (pe, 0, False, 0.0),
        "pe-dynamic": (pe, 0, True, 0.0),
        "pe-dynamic-mc": (pe, 3, True, 0.0),
        "pe-dynamic-l2": (pe, 0, True, 0.5),
        "me": (me, 0, False, 0.0),
        "me-dynamic": (me, 0, True, 0.0),
        "me-dynamic-mc": (me, 3, True, 0.0),
        "me-dynamic-l2": (me, 0, True, 0.5),
    }


def test_the_published_schedule_ends_where_the_specification_says() -> None:
    """GSM8K trains 74 % of its steps at rate 0, OpenBookQA 75 %."""
    for dataset, steps, share in (("gsm8k", 495, 0.736), ("boolq", 1545, 0.344), ("openbookqa", 240, 0.746)):
        config = configs_of("published-code", "paper", dataset)["published-7-schedule"]
        assert config.train.schedule_steps == steps
        real = -(-config.query.budget // config.train.batch_size) * config.train.epochs
        assert 1 - steps / real == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize(("scale", "dataset"), PLACES)
def test_the_published_schedule_is_as_long_as_the_test_sets_epochs(scale: str, dataset: str) -> None:
    config = configs_of("published-code", scale, dataset)["published-7-schedule"]
    test = config.data.test_limit
    assert test is not None
    assert config.train.schedule_steps == -(-test // config.train.batch_size) * config.train.epochs


def test_published_prompts() -> None:
    rows = configs_of("published-code", "paper", "boolq")
    assert rows["published-all"].data.response == "the correct answer is {answer}"
    assert (rows["published-all"].data.template or "").endswith("then answer the final number.\n")
    alone = rows["published-9-format"]
    assert (alone.data.template, alone.data.response) == ("{question}\n", "the correct answer is {answer}")
    same = study_of("published-code", "paper", "gsm8k")
    assert same.runs["gsm8k", "", "published-9-format"] == "me-star", "GSM8K's prompt is its own"
    words = configs_of("published-code", "small", "subj")["published-8-prompt"].data.template or ""
    assert words.startswith("{text}\nAnswer the above question.")


def test_equal_configurations_are_one_run(tmp_path: Path) -> None:
    study = order_of("length", scale="small", out=tmp_path, seeds=2, datasets=["trec-6"]).study()
    assert study.runs["trec-6", "", "labels"] == "me-star", "maximum entropy there"
    assert study.runs["trec-6", "", "response-sum"] == "response-sum"
    assert [cell.name for cell in study.cells][:2] == ["trec-6/random-decay/seed0", "trec-6/me-star/seed0"]
    assert len(study.cells) == 8
    assert all(cell.config.strategies[0].title == cell.tags["method"] for cell in study.cells)
    assert study_of("length", "small", "boolq").runs["boolq", "", "response-sum"] == "me-star"


def test_rows_that_are_trained_alike_share_a_folder(tmp_path: Path) -> None:
    study = order_of("table2", scale="small", out=tmp_path, seeds=1, datasets=["trec-6"]).study()
    folders = {cell.tags["method"]: Path(cell.config.out).relative_to(tmp_path).as_posix() for cell in study.cells}
    plain, decayed = "runs/trec-6/plain", "runs/trec-6/b_decay-0.5"
    assert {folders[name] for name in ("random", "pe", "me-dynamic-mc")} == {plain}
    assert {folders[name] for name in ("pe-dynamic-l2", "me-dynamic-l2")} == {decayed}
    star = order_of("table1", scale="small", out=tmp_path, seeds=1, datasets=["trec-6"]).study()
    assert {Path(cell.config.out).name for cell in star.cells} == {"b_decay-0.5"}
    by_folder: dict[str, set[str]] = {}
    for name in shipped():
        for cell in study_of(name, "small", "boolq").cells:
            by_folder.setdefault(cell.config.out, set()).add(str(sorted(cell.config.key().items())))
            assert len(Path(cell.config.out).name) <= 60
    assert all(len(keys) == 1 for keys in by_folder.values()), "one folder, two ways of training"


def test_refusals(tmp_path: Path) -> None:
    for options, words in (
        ({"name": "table3"}, "did you mean 'table2'"),
        ({"scale": "large"}, "allowed: paper, small, tiny"),
        ({"datasets": ["trec-7"]}, "no setting at scale small; did you mean 'trec-6'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"data": tmp_path}, "looked in"),
        ({"overrides": ["train.epoch=3"]}, "did you mean 'epochs'"),
        ({"overrides": ["strategies=[random]"]}, "`rows` must be given, and not both"),
        ({"overrides": ["train.epochs"]}, "not of the form"),
    ):
        given: dict[str, Any] = {"name": "table1", "scale": "small", "out": tmp_path, **options}
        with pytest.raises(ConfigError, match=words.replace("[", r"\[")):
            order_of(**given).study()
    assert not list(tmp_path.iterdir())


def test_overrides_reach_every_cell_and_rows_still_differ(tmp_path: Path) -> None:
    options: dict[str, Any] = {"scale": "small", "out": tmp_path, "seeds": 1, "datasets": ["trec-6"]}
    study = order_of("dropout", overrides=["train.epochs=2", "peft.r=4", "query.budget=100"], **options).study()
    assert {cell.config.train.epochs for cell in study.cells} == {2}
    assert {cell.config.peft["r"] for cell in study.cells} == {4}
    assert {cell.config.query.budget for cell in study.cells} == {100}
    assert {cell.config.peft["lora_dropout"] for cell in study.cells} == {0.05, 0.1, 0.2, 0.5}
    more = order_of("table1", overrides=["seeds=[3, 4]"], **{**options, "seeds": None}).study()
    assert more.seeds == (3, 4)


# --- a study of one's own rows --------------------------------------------------------------------

TOY = """\
title: A toy
datasets: [{name: demo, data: {preset: demo}}]
values: {rate: 0.02}
every_row: {strategy: entropy, train: {epochs: 2}}
rows:
  - {name: plain, strategy: random}
  - {name: eager, label: eager learner, train: {learning_rate: $rate}, control: own, published: {demo: [50.0, 1.5]}}
  - {name: wide, peft: {r: 12}, query: {batch: 5}, control: eager}
base: {query: {warm_start: 8, budget: 18, batch: 10}}
seeds: [1]
"""


def test_a_toy_row_needs_a_file_alone(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(TOY)
    study = load_study(tmp_path / "toy.yaml")
    assert [cell.name for cell in study.cells] == [
        f"demo/{n}/seed1" for n in ("plain", "random-eager", "eager", "wide")
    ]
    found = {str(cell.tags["method"]): cell.config for cell in study.cells}
    assert [config.train.epochs for config in found.values()] == [2, 2, 2, 2]
    assert [config.train.learning_rate for config in found.values()][1:3] == [0.02, 0.02]
    assert (found["wide"].peft["r"], found["wide"].query.batch, found["plain"].query.batch) == (12, 5, 10)
    assert [row.control for row in study.rows] == ["plain", "random-eager", "random-eager", "eager"]
    assert study.rows[1] == Row(
        "random-eager", "random-eager", "random, eager learner", control="random-eager", adapters="last"
    )
    assert study.rows[2].published == {"demo": [50.0, 1.5]}
    assert Path(found["wide"].out).name == "r-12+batch-5+epochs-2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("$rate", "$rat"), r"line 7: eager: \$rat stands for no value; did you mean 'rate'"),
        (("control: eager}", "control: eagre}"), r"line 8: rows.2.control is 'eagre'; did you mean 'eager'"),
        (("r: 12", "rr: 12"), r"line 8: wide: peft: unknown key 'rr'"),
        (("batch: 5", "batch: 0"), r"line 8: query.batch is 0"),
        (("strategy: entropy", "strategy: entropi"), r"line 7: eager: strategy 'entropi' is unknown"),
        (("name: wide", "name: plain"), r"rows has 'plain' twice"),
        (("title: A toy", "strategies: [random]"), r"`rows` must be given, and not both"),
    ],
)
def test_mistakes_in_rows_are_named_with_their_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    (tmp_path / "toy.yaml").write_text(TOY.replace(*change))
    with pytest.raises(ConfigError, match=message):
        load_study(tmp_path / "toy.yaml")


# --- the paper's own numbers ----------------------------------------------------------------------


def published() -> dict[str, tuple[str, Mapping[str, list[float]]]]:
    """Row of the paper's tables -> its label, and dataset -> AUC and RIPL."""
    rows = {}
    for name in ("table1", "table2"):
        for row in study_of(name, "paper", "boolq").rows:
            rows[row.label] = (row.name, {dataset: list(values) for dataset, values in row.published.items()})
    return rows


def test_the_papers_ripl_follows_from_its_areas() -> None:
    """Equation 8 on the printed AUCs gives the printed RIPL; GSM8K's of Table 2, which slipped, are put right."""
    rows = published()
    assert len(rows) == 11
    for label, (_, values) in rows.items():
        for dataset, (area, *printed) in values.items():
            random = rows["random"][1][dataset][0]
            if label != "random":
                assert 100 * ripl(area / 100, random / 100) == pytest.approx(printed[0], abs=0.025), (label, dataset)
    slipped = [label for label in rows if "dynamic" in label]
    assert [rows[label][1]["gsm8k"][1] for label in slipped] == [0.50, 0.92, 0.77, 0.43, 0.91, 0.62]
    assert rows["ME with STAR"][1]["gsm8k"] == [28.83, 2.01]
