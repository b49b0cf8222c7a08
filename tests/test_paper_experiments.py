"""The experiments and scales: every variant is a valid run, and the numbers that the paper fixes are those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guidestar.errors import ConfigError
from guidestar.metrics.curve import ripl
from guidestar.model.adapters import make_config as adapter_config
from guidestar.query import strategies
from guidestar.query.mixing import schedule_for, weight
from guidestar.study import published
from guidestar.study.experiments import EXPERIMENTS, Variant
from guidestar.study.paper import identity, make_study, method_names, training_name, variants_of
from guidestar.study.scales import SCALES, kind_of, plain_config, variant_config

PLACES = [(scale, dataset) for scale in SCALES for dataset in SCALES[scale].settings]


def plain_of(scale: str, dataset: str) -> dict[str, Any]:
    return plain_config(scale, dataset, model=None if SCALES[scale].model else "tiny")


def config_of(scale: str, dataset: str, variant: Variant, seed: int = 0) -> Any:
    return variant_config(plain_of(scale, dataset), variant, scale, dataset, seed=seed, out="runs/x")


@pytest.mark.parametrize(("scale", "dataset"), PLACES)
def test_every_variant_is_a_run_that_can_be_made(scale: str, dataset: str) -> None:
    adapters: dict[str, Any] = {}
    for name, experiment in EXPERIMENTS.items():
        for variant in variants_of(experiment, dataset):
            config = config_of(scale, dataset, variant)
            recipe = strategies.resolve(config.strategies[0])
            problems = strategies.check(recipe, kind_of(dataset), True, config.peft, config.train.b_dropout)
            assert not problems, f"{name}, {variant.name}: {problems}"
            adapters.setdefault(repr(sorted(config.peft.items(), key=str)), config.peft)
    for peft in adapters.values():
        adapter_config(peft)  # raises for keys that PEFT does not know


@pytest.mark.parametrize(("scale", "dataset"), PLACES)
def test_a_name_is_one_configuration(scale: str, dataset: str) -> None:
    """Two experiments that name a variant alike mean the same run; so results can be shared."""
    seen: dict[str, str] = {}
    for experiment in EXPERIMENTS.values():
        for variant in variants_of(experiment, dataset):
            found = identity(config_of(scale, dataset, variant))
            assert seen.setdefault(variant.name, found) == found, variant.name
    names = method_names(plain_of(scale, dataset), scale, dataset)
    assert len({name for name, _ in names.values()}) == len(names)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_are_whole(name: str) -> None:
    experiment = EXPERIMENTS[name]
    variants = {v.name: v for v in experiment.variants}
    assert len(variants) == len(experiment.variants), "two variants with one name"
    for v in variants.values():
        control = variants[v.control]
        assert control.strategy == {"use": "random"}, f"{v.name} is measured against {control.name}"
        assert control.control == control.name
        if v.control != "random":  # a control of its own is trained the same way, but for β
            left = {key: value for key, value in v.overrides.items() if key != "train.b_decay"}
            own = {key: value for key, value in control.overrides.items() if key != "train.b_decay"}
            assert left == own
    for names in experiment.panels.values():
        assert set(names) <= variants.keys()
    assert experiment.probed in ({*variants} if experiment.probe else {""})
    assert set(experiment.datasets) <= SCALES["paper"].settings.keys() & SCALES["small"].settings.keys()


def test_the_papers_protocol() -> None:
    for dataset, batch, rate, epochs, step, budget, test in (
        ("gsm8k", 8, 1.5e-4, 3, 500, 5000, 1319),
        ("boolq", 32, 3e-5, 15, 500, 5000, 3270),
        ("openbookqa", 32, 3e-5, 15, 200, 2000, 500),
    ):
        star = config_of("paper", dataset, EXPERIMENTS["table1"].variants[-1])
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
    rows = {v.name: config_of("paper", "boolq", v) for name in ("table1", "table2") for v in EXPERIMENTS[name].variants}
    found = {}
    for name, config in rows.items():
        recipe = strategies.resolve(config.strategies[0])
        found[name] = (recipe.measure, recipe.passes, recipe.mix is not None, config.train.b_decay)
    pe, me = "oracle_predictive_entropy", "response_entropy"
    assert found == {
        "random": (None, 0, False, 0.0),
        "pe": (pe, 0, False, 0.0),
        "pe-dynamic": (pe, 0, True, 0.0),
        "pe-dynamic-mc": (pe, 3, True, 0.0),
        "pe-dynamic-l2": (pe, 0, True, 0.5),
        "pe-star": (pe, 3, True, 0.5),
        "me": (me, 0, False, 0.0),
        "me-dynamic": (me, 0, True, 0.0),
        "me-dynamic-mc": (me, 3, True, 0.0),
        "me-dynamic-l2": (me, 0, True, 0.5),
        "me-star": (me, 3, True, 0.5),
    }
    assert all(config.peft["lora_dropout"] == 0.1 for config in rows.values())


def test_the_published_schedule_ends_where_the_specification_says() -> None:
    """GSM8K trains 74 % of its steps at rate 0, OpenBookQA 75 %."""
    variant = next(v for v in EXPERIMENTS["published-code"].variants if v.name == "published-7-schedule")
    for dataset, steps, share in (("gsm8k", 495, 0.736), ("boolq", 1545, 0.344), ("openbookqa", 240, 0.746)):
        config = config_of("paper", dataset, variant)
        assert config.train.schedule_steps == steps
        real = -(-config.query.budget // config.train.batch_size) * config.train.epochs
        assert 1 - steps / real == pytest.approx(share, abs=1e-3)


def test_published_prompts() -> None:
    variants = {v.name: v for v in EXPERIMENTS["published-code"].variants}
    everything = config_of("paper", "boolq", variants["published-all"])
    assert everything.data.response == "the correct answer is {answer}"
    assert (everything.data.template or "").endswith("then answer the final number.\n")
    alone = config_of("paper", "boolq", variants["published-9-format"])
    assert (alone.data.template, alone.data.response) == ("{question}\n", "the correct answer is {answer}")
    same = config_of("paper", "gsm8k", variants["published-9-format"])
    assert identity(same) == identity(config_of("paper", "gsm8k", variants["me-star"])), "GSM8K's prompt is its own"
    words = config_of("small", "subj", variants["published-8-prompt"]).data.template or ""
    assert words.startswith("{text}\nAnswer the above question.")


def test_equal_configurations_are_one_run(tmp_path: Path) -> None:
    study = make_study("passes", scale="small", out=tmp_path, seeds=2, datasets=["trec-6"])
    assert study.rows["trec-6", "passes-3"] == "me-star"
    assert study.rows["trec-6", "passes-0"] == "me-dynamic-l2"
    assert [cell.name for cell in study.cells][:2] == ["trec-6/random/seed0", "trec-6/me-dynamic-l2/seed0"]
    assert len(study.cells) == 10
    assert all(cell.config.strategies[0].title == cell.tags["method"] for cell in study.cells)


def test_rows_that_are_trained_alike_share_a_folder(tmp_path: Path) -> None:
    study = make_study("table1", scale="small", out=tmp_path, seeds=1, datasets=["trec-6"])
    folders = {cell.tags["method"]: Path(cell.config.out).relative_to(tmp_path).as_posix() for cell in study.cells}
    plain, decayed = "runs/trec-6/plain", "runs/trec-6/b_decay-0.5"
    assert folders == {"random": plain, "pe": plain, "me": plain, "pe-star": decayed, "me-star": decayed}
    for name in EXPERIMENTS:
        by_folder: dict[str, set[str]] = {}
        for cell in make_study(name, scale="small", out=tmp_path, seeds=1, datasets=["boolq"]).cells:
            by_folder.setdefault(cell.config.out, set()).add(str(sorted(cell.config.key().items())))
        assert all(len(keys) == 1 for keys in by_folder.values()), f"{name}: one folder, two ways of training"


def test_folder_names_are_plain(tmp_path: Path) -> None:
    plain = plain_of("small", "boolq")
    for experiment in EXPERIMENTS.values():
        for variant in variants_of(experiment, "boolq"):
            name = training_name(plain, config_of("small", "boolq", variant))
            assert "/" not in name
            assert len(name) <= 60


def test_refusals(tmp_path: Path) -> None:
    for options, words in (
        ({"name": "table3"}, "did you mean 'table2'"),
        ({"scale": "large"}, "allowed: paper, small, tiny"),
        ({"datasets": ["trec-7"]}, "did you mean 'trec-6'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"data": tmp_path}, "looked in"),
        ({"overrides": ["train.epoch=3"]}, "did you mean 'epochs'"),
        ({"overrides": ["strategies=[random]"]}, "decided by the experiment"),
        ({"overrides": ["train.epochs"]}, "not of the form"),
    ):
        given: dict[str, Any] = {"name": "table1", "scale": "small", "out": tmp_path, **options}
        with pytest.raises(ConfigError, match=words.replace("[", r"\[")):
            make_study(**given)
    assert not list(tmp_path.iterdir())


def test_overrides_reach_every_cell_and_variants_still_differ(tmp_path: Path) -> None:
    study = make_study(
        "dropout", scale="small", out=tmp_path, seeds=1, datasets=["trec-6"], overrides=["train.epochs=2", "peft.r=4"]
    )
    assert {cell.config.train.epochs for cell in study.cells} == {2}
    assert {cell.config.peft["r"] for cell in study.cells} == {4}
    assert {cell.config.peft["lora_dropout"] for cell in study.cells} == {0.05, 0.1, 0.2, 0.5}


# --- the paper's own numbers ----------------------------------------------------------------------


def test_the_papers_ripl_follows_from_its_areas() -> None:
    """Equation 8 on the printed AUCs gives the printed RIPL, but for the slip in Table 2's GSM8K column."""
    for method, row in published.TABLES.items():
        for dataset, (area, printed) in row.items():
            if printed is None:
                continue
            random = published.TABLES["random"][dataset][0]
            against = published.TABLES["pe"][dataset][0] if (dataset, method) in SLIPPED else random
            assert 100 * ripl(area / 100, against / 100) == pytest.approx(printed, abs=0.025), (method, dataset)
            assert published.paper_auc(method, dataset) == area


SLIPPED = {("gsm8k", method) for method in published.SLIPPED}


def test_the_slip_put_right() -> None:
    found = [published.paper_ripl(method, "gsm8k") for method in published.SLIPPED]
    assert found == [0.50, 0.92, 0.77, 0.43, 0.91, 0.62]
    assert published.paper_ripl("me-star", "gsm8k") == 2.01
    assert published.paper_ripl("random", "gsm8k") is None
    assert published.paper_ripl("me", "trec-6") is None


def test_every_row_of_the_paper_has_its_variant() -> None:
    ours = {v.name for name in ("table1", "table2") for v in EXPERIMENTS[name].variants}
    assert ours == published.TABLES.keys()
