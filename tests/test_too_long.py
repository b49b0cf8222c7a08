"""Texts that do not fit a model's context are cut: as little as it takes, never the template, and it is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loops import SMALL, write_csv

from guidestar import cli, loop
from guidestar.asking.shortened import at_most, shortened
from guidestar.bench import Bench, read_config
from guidestar.config import DataConfig, RunConfig, parse
from guidestar.data.prompts import Template
from guidestar.errors import DataError
from guidestar.model import batches
from guidestar.records import Example
from guidestar.store import Store
from guidestar.study.fit import lengths_of

MakeConfig = Callable[..., dict[str, Any]]
TEMPLATE = Template(DataConfig(template="A: {a}\nB: {b}\nTopic:"))


def cutting(cut: str) -> RunConfig:
    data = {"pool": "pool.csv", "template": TEMPLATE.text, "too_long": "truncate", "cut": cut}
    return parse({"data": data, "task": {"kind": "choice"}})


class Counting:
    """Reads at most so many characters."""

    def __init__(self, most: int) -> None:
        self.most = most

    def too_long(self, examples: Any, answers: Any = None) -> dict[str, str]:
        return {e.id: "too long" for e in examples if len(e.prompt) > self.most}


def example(id: str, **fields: str) -> Example:
    return Example(id, fields, TEMPLATE.fill(fields))


@pytest.mark.parametrize("cut", ["end", "start", "middle"])
def test_as_little_as_it_takes_is_cut_from_the_longest_text(cut: str) -> None:
    some = [example("1", a="x" * 500, b="short"), example("2", a="y", b="z"), example("3", a="u" * 90, b="v" * 70)]
    found, bare = shortened(Counting(100), some, cutting(cut))  # type: ignore[arg-type]
    assert not bare
    assert found[1] is some[1]
    assert [e.fields for e in found] == [e.fields for e in some], "people see the whole text"
    assert all(90 <= len(e.prompt) <= 100 for e in (found[0], found[2]))
    assert all(e.prompt.startswith("A: ") and e.prompt.endswith("\nTopic:") for e in found)
    assert "short" in found[0].prompt
    assert found[0].prompt == at_most(some[0], found[0].prompt.count("x"), TEMPLATE, cut).prompt
    again = shortened(Counting(100), some[::-1], cutting(cut))[0]  # type: ignore[arg-type]
    assert again[::-1] == found, "company and order play no part"
    assert shortened(Counting(5), some, cutting(cut))[1].keys() == {"1", "2", "3"}, "the template alone is too long"


def test_one_long_row_stops_no_run_and_decides_no_plan(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"where is parcel {i}", "label": ["delivery", "refund"][i % 2]} for i in range(30)]
    rows[3]["text"] = "lorem ipsum " * 4500
    data = {
        "preset": None, "folder": None, "pool": str(write_csv(tmp_path / "pool.csv", rows)), "test_share": 0.3,
        "answer": "label", "template": "{text}\nTopic:", "too_long": "truncate", "test_limit": None,
    }  # fmt: skip
    query = {"warm_start": 6, "batch": 3, "budget": 9, "candidates": None}
    config = make_config(**{**SMALL, "data": data, "query": query}, task={"kind": "choice"}, strategies=["random"])
    loop.run(config)
    with Store.open(Path(config["out"]) / "random-seed0") as store:
        assert store.facts["data"]["truncated"] == 1
    bench = Bench(read_config(config))
    every = [*bench.fitting.pool, *bench.fitting.test.examples] if bench.fitting.test else []
    (cut,) = [e for e in every if "lorem" in e.prompt]
    assert cut.prompt.endswith("\nTopic:")
    assert len(cut.fields["text"]) > 50_000
    assert bench.fitting.facts["truncated"] == 1
    assert lengths_of(bench.config, bench.dataset).longest <= bench.base.max_length
    assert cli.main(["predict", "--quiet", str(Path(config["out"])), str(tmp_path / "pool.csv")]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(said) == 30 and not any("error" in row for row in said)  # noqa: PT018


def test_what_surely_fits_is_not_tokenized_and_nothing_changes(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The literal way tokenizes every prompt; a token that the model lacks is found whatever the length."""
    rng, room = np.random.default_rng(0), 5
    words = ["order", "Q", "7-", "é", "\n", "  ", "\u00ad", "ﷺ"]
    texts = [" ".join(rng.choice(words, n)) for n in rng.integers(1, 400, 120)] + ["a" * n for n in range(450, 530, 7)]
    examples = [Example(str(i), {}, f"x{text}") for i, text in enumerate(texts)]
    literal = {e.id for e in examples if len(base.tokenizer(e.prompt)["input_ids"]) + room > base.max_length}
    assert 0 < len(literal) < len(examples)
    assert batches.too_long(base, examples, room) == literal
    assert batches.too_long(base, examples, [room] * len(examples)) == literal
    base.tokenizer.add_tokens(["<lacking>"])
    with pytest.raises(DataError, match="holds '<lacking>'"):
        batches.too_long(base, [Example("0", {}, "short <lacking> text")], room)
