"""Measures, selectors and strategies from a user's file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loops import SMALL, MakeConfig, dumps, nothing_stays  # noqa: F401 - fixtures

from guidestar import load_code, loop
from guidestar.cli import main
from guidestar.config import RunConfig, StrategyConfig
from guidestar.errors import ConfigError, ConfigMismatch, ModelError
from guidestar.loop import Run
from guidestar.query import MEASURES, SELECTORS, STRATEGIES, own
from guidestar.query.measures import evaluate_measure
from guidestar.query.recipes import SOURCES, resolve
from guidestar.query.strategies import Context, choose
from guidestar.records import Predictions
from guidestar.study.results import Result, config_fingerprint, made_with, portable, recipe

PAGE = Path(__file__).parents[1] / "docs" / "own.md"


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tables are as they were after every test, and no child of another test loads a file."""
    tables: list[dict[Any, Any]] = [MEASURES, SELECTORS, STRATEGIES, SOURCES, own._FILES]
    before = [dict(table) for table in tables]
    monkeypatch.setenv(own.VARIABLE, "")
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The file that the page shows."""
    found = re.search(r'```python\n("""mine.py""".*?)```', PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    path = tmp_path / "a: b" / "mine.py"
    path.parent.mkdir()
    path.write_text(found[1], encoding="utf-8")
    return path


def log_probs(*rows: list[float]) -> Predictions:
    names = tuple(f"e{i}" for i in range(len(rows)))
    return Predictions(names, {"label_log_probs": np.log([list(rows)])}, ("a", "b"))


def test_the_file_of_the_page_makes_measures_and_strategies(mine: Path) -> None:
    added = ["MEASURES gini", "SELECTORS spread_out", "STRATEGIES gini", "STRATEGIES gini_spread"]
    assert load_code(mine) == added
    assert load_code(mine) == [], "the same file again is no mistake"
    assert json.loads(os.environ[own.VARIABLE]) == [str(mine)]
    found = log_probs([0.5, 0.5], [0.9, 0.1], [0.7, 0.3])
    assert evaluate_measure("gini", found) == pytest.approx([0.5, 0.18, 0.42])
    context = Context(t=0, rounds=3, kind="choice", full=found)
    picks = choose(STRATEGIES["gini"], found.ids, context, 2, np.random.default_rng(0)).picks
    assert [pick.id for pick in picks] == ["e0", "e2"]
    spread = resolve(StrategyConfig(use="gini_spread", options={"reach": 2.0}))
    for seed in range(9):
        (pick,) = choose(spread, found.ids, context, 1, np.random.default_rng(seed)).picks
        assert pick.id in ("e0", "e2"), "of the two best"
    for config in ({"use": "gini"}, {"use": "star", "measure": "gini"}, {"use": "entropy", "select": "spread_out"}):
        assert resolve(StrategyConfig(**config)).code == SOURCES["MEASURES", "gini"]
    assert resolve(StrategyConfig(use="star")).code is None


def test_a_run_uses_them_and_is_not_continued_with_another_file(make_config: MakeConfig, mine: Path) -> None:
    config = make_config(**SMALL, strategies=["random", {"use": "star", "measure": "gini"}])
    with pytest.raises(
        ConfigError, match=r"measure 'gini' is unknown; .*; one of your own comes with: guidestar --code"
    ):
        loop.run(config)
    load_code(mine)
    loop.run(config)
    with Run(config, strategy="star") as run:
        assert run.store.facts["recipe"]["measure"] == "gini"
        scores = run.store.arrays(1, "scores")
        assert scores["full"].max() <= 1 - 1 / len(run.bench.dataset.task.labels) + 1e-9  # type: ignore[union-attr]
        details = run.store.query(1).picks[0].details
        mixed = details["lambda"] * details["base"] + (1 - details["lambda"]) * details["full"]
        assert run.store.query(1).picks[0].score == pytest.approx(mixed)
    before = dumps(config["out"])
    mine.write_text(mine.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")
    assert len(load_code(mine)) == 4, "an edited file replaces its own entries"
    with pytest.raises(ConfigMismatch, match=r"strategy\.code: begun with '[0-9a-f]{64}', now '[0-9a-f]{64}'"):
        Run(config, strategy="star")
    with Run(config, strategy="random"):
        pass
    assert dumps(config["out"]) == before


GOOD = "from guidestar.query import *\n"
BAD = {
    "import numpy\n": "adds nothing to MEASURES, SELECTORS or STRATEGIES",
    "x = 1\nx.y\n": "mine.py line 2: AttributeError: 'int' object has no attribute 'y'",
    "x = (\n": "mine.py line 1: SyntaxError: '\\(' was never closed",
    GOOD + "MEASURES['entropy'] = MEASURES['margin']\n": r"MEASURES\['entropy'\] is there already and must stay",
    GOOD
    + "del STRATEGIES['random']\nSTRATEGIES['r'] = Recipe('', select='random')\n": r"STRATEGIES\['random'\] is there already",
    GOOD + "MEASURES['m'] = len\n": r"MEASURES\['m'\] is a builtin_function_or_method; allowed: a Measure",
    GOOD + "MEASURES['m'] = Measure(len, ('texts',), '')\n": r"MEASURES\['m'\] needs texts; allowed: .*label_log_probs",
    GOOD + "MEASURES['m'] = Measure(len, (), '')\n": r"MEASURES\['m'\] needs nothing; allowed: ",
    GOOD + "MEASURES['m'] = Measure(len, ('gold_nll',), '')\n": r"is called oracle_… if it needs a gold_… array",
    GOOD + "MEASURES['oracle_m'] = Measure(len, ('response_nll',), '')\n": r"is called oracle_… if it needs",
    GOOD + "MEASURES['m'] = Measure(len, ('response_nll',), '', {'regression'})\n": "tasks regression are unknown",
    GOOD
    + "MEASURES['m'] = Measure(len, ('label_log_probs',), '')\n": "label_log_probs is not there for the task kinds number, text",
    GOOD
    + "SELECTORS['s'] = Selector(len, '', full={'label_log_probs'})\n": "label_log_probs is not there for the task kinds",
    GOOD + "STRATEGIES['a/b'] = Recipe('', select='random')\n": "a name is letters, digits and",
    GOOD + "STRATEGIES['s'] = Recipe('', measure='giny')\n": r"STRATEGIES\['s'\]: measure 'giny' is unknown",
    GOOD + "STRATEGIES['s'] = Recipe('')\n": r"STRATEGIES\['s'\]: select is 'top', which needs a measure to rank by",
}


@pytest.mark.parametrize("text", BAD)
def test_a_file_that_cannot_be_used_changes_nothing(text: str, tmp_path: Path) -> None:
    tables: list[dict[Any, Any]] = [MEASURES, SELECTORS, STRATEGIES, SOURCES]
    before = [list(table.items()) for table in tables]
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"--code .*{BAD[text]}"):
        load_code(path)
    assert [list(table.items()) for table in tables] == before
    assert os.environ[own.VARIABLE] == ""
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_code(tmp_path / "none.py")


def test_what_a_function_returns_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        GOOD + "MEASURES['flat'] = Measure(lambda p: p[0, :, 0], ('label_log_probs',), '', {'choice'})\n"
        "for name, found in {'twice': [0, 0], 'far': [0, 9], 'one': [0], 'real': [0.0, 1.0]}.items():\n"
        "    SELECTORS[name] = Selector(lambda c, k, rng, found=found: found, '')\n",
        encoding="utf-8",
    )
    load_code(path)
    found = log_probs([0.5, 0.5], [0.9, 0.1], [0.7, 0.3])
    with pytest.raises(ModelError, match=r"measure 'flat' returned an array of shape \(3,\); allowed: \(1, 3\)"):
        evaluate_measure("flat", found)
    for name in ("twice", "far", "one", "real"):
        recipe = resolve(StrategyConfig(use="random", select=name))
        with pytest.raises(
            ModelError, match=rf"the selector '{name}' returned .*; allowed: 2 different whole numbers from 0 to 2"
        ):
            choose(recipe, found.ids, Context(t=0, rounds=3, kind="choice"), 2, np.random.default_rng(0))


def test_a_result_of_an_edited_file_is_not_kept(mine: Path, tmp_path: Path) -> None:
    data = {"pool": "p.csv", "template": "{text}"}
    config = RunConfig.model_validate(
        {"out": str(tmp_path), "data": data, "task": {"kind": "choice"}, "strategies": ["gini"]}
    )
    load_code(mine)
    made = Result(
        name="", tags={}, fingerprint=config_fingerprint(config), config=portable(config), recipe=recipe(config)
    )
    assert made_with(made, config)
    mine.write_text(mine.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")
    load_code(mine)
    assert not made_with(made, config)
    plain = config.model_copy(update={"strategies": [StrategyConfig(use="random")]})
    assert "code" not in recipe(plain), "results from before keep their fingerprint"


def test_on_the_command_line_and_in_a_process_that_is_started(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--code", str(mine), "strategies", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out))[-2:] == ["gini", "gini_spread"]
    child = subprocess.run(
        [sys.executable, "-m", "guidestar", "measures", "--json"], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert list(json.loads(child.stdout))[-1] == "gini"
    assert main(["--code", str(mine.parent / "none.py"), "strategies"]) == 2
    assert "none.py: cannot be read: No such file or directory" in capsys.readouterr().err
