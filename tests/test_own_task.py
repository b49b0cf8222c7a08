"""A fourth kind of task that the package does not know: several labels may hold for one text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from loops import SMALL, dumps, nothing_stays, write_csv  # noqa: F401

from guidestar import loop
from guidestar.errors import ConfigError, DataError
from guidestar.loop import Run
from guidestar.people.agreement import agreement_of
from guidestar.people.endpoint import instructions
from guidestar.people.page.board import Board
from guidestar.people.terminal import help_text, read_line
from guidestar.records import Finished, Stop
from guidestar.report.control import control
from guidestar.store import Store
from guidestar.tasks import ANSWER, TASKS, Settings, Span, Task, facts_of, form_of, make_task, recorded_task
from guidestar.tasks.common import labels_and_words

MakeConfig = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Tags:
    """Any number of some labels, at least one. The canonical answer has them in their order: "delivery; refund"."""

    kind: ClassVar[str] = "tags"
    about: ClassVar[str] = "some of some labels"
    family: ClassVar[str] = "text"
    numeric: ClassVar[bool] = False
    any_text: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = True
    classes: ClassVar[tuple[str, ...]] = ()  # no model gives them probabilities that sum to one
    labels: tuple[str, ...]
    words: tuple[str, ...]
    response: str = ANSWER
    max_new_tokens: int = 16

    @classmethod
    def build(cls, config: Settings, cells: Sequence[str], response: str) -> Tags:
        found = sorted({name.strip() for cell in cells for name in cell.split(";")})
        labels, words = labels_and_words(config) or (tuple(found),) * 2
        return cls(labels, words, response, config.max_new_tokens or 16)

    @property
    def described(self) -> str:
        return f"some of the labels {', '.join(self.labels)}"

    @property
    def asked(self) -> str:
        return f"Answer with all that fit of these, semicolons between them: {', '.join(self.words)}."

    @property
    def stand_in(self) -> str:
        return self.labels[0]

    def _named(self, text: str) -> tuple[str, ...]:
        names = {name.strip() for name in text.split(";")}
        return tuple(label for label in self.labels if label in names)

    def response_text(self, answer: str) -> str:
        return self.response.replace(ANSWER, answer)

    def parse_gold(self, raw: str, where: str) -> str:
        found = self._named(raw)
        if len(found) != len({name.strip() for name in raw.split(";")}):
            raise DataError(f"{where}: {raw!r} holds what is no label; allowed: {', '.join(self.labels)}")
        return "; ".join(found)

    def parse(self, text: str) -> str | None:
        return "; ".join(self._named(text)) or None

    def answer_span(self, text: str) -> Span | None:
        return (0, len(text)) if self.parse(text) else None

    def correct(self, predicted: str | None, gold: str) -> bool:
        return predicted == gold

    def compared(self, answer: str) -> str:
        return answer

    def parts(self, answer: str) -> tuple[str, ...]:
        return self._named(answer)

    def measures(self, predicted: Sequence[str | None], gold: Sequence[str]) -> dict[str, float]:
        shares = []
        for one, other in zip(predicted, gold, strict=True):
            said, true = set(self._named(one or "")), set(self._named(other))
            shares.append(len(said & true) / len(said | true))
        return {"jaccard": sum(shares) / len(shares)}

    def read_reply(self, text: str) -> str:
        return self.parse_gold(text, "reply")


@pytest.fixture(autouse=True)
def fourth_kind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    entry: type[Task] = Tags  # the surface is complete, says the type checker
    monkeypatch.setitem(TASKS, "tags", entry)
    return


def rows(count: int) -> list[dict[str, str]]:
    what = {"the parcel is late": "delivery", "I was charged twice": "billing", "it came broken": "damage"}
    texts = list(what)
    return [
        {"text": f"Order {i}: {a}, and {b}.", "tags": "; ".join({what[a]: 0, what[b]: 0})}
        for i in range(count)
        for a, b in [(texts[i % 3], texts[i // 3 % 3])]
    ]


def test_a_kind_of_ones_own_goes_through_the_loop(make_config: MakeConfig, tmp_path: Path) -> None:
    """Trained, scored, chosen, measured by its own metric, counted by label; nothing in the package knows it."""
    data = {
        "preset": None, "folder": None, "test_limit": 6, "pool": str(write_csv(tmp_path / "pool.csv", rows(40))),
        "test": str(write_csv(tmp_path / "test.csv", rows(60)[40:])), "answer": "tags", "template": "{text}\nTags:",
    }  # fmt: skip
    query = {"warm_start": 6, "batch": 3, "budget": 9, "candidates": 10}
    task = {"kind": "tags", "max_new_tokens": 6}
    config = make_config(**{**SMALL, "data": data, "query": query}, task=task, strategies=["star", "random"])
    assert set(loop.run(config).values()) == {Finished(Stop.BUDGET)}
    for name, dump in dumps(config["out"]).items():
        values = [json.loads(values) for _, _, values in dump["metrics"]]
        assert all(0 <= v["accuracy"] <= v["jaccard"] <= 1 for v in values), name
    folder = Path(config["out"]) / "star-seed0"
    with Store.open(folder) as store:
        assert store.facts["task"]["labels"] == ["billing", "damage", "delivery"]
        assert sum(store.facts["data"]["classes"].values()) > store.facts["data"]["pool"], "two labels count twice"
        assert recorded_task(store.facts).labels == ("billing", "damage", "delivery")
        assert (
            Board(store, config_of(config).people, lambda: 0.0).task.parse_gold("delivery;billing", "x")
            == "billing; delivery"
        )
        control(store)
    assert agreement_of(folder)["kind"] == "tags"


def config_of(config: dict[str, Any]) -> Any:
    from guidestar.config import RunConfig

    return RunConfig.model_validate(config)


def test_people_answer_a_kind_of_ones_own() -> None:
    task = Tags(("billing", "delivery"), ("billing", "delivery"))
    assert read_line("delivery; billing", task) == ("answer", "billing; delivery")
    assert read_line("parcels", task)[0] == "wrong"
    assert "Type the answer" in help_text(task)
    assert form_of(task)["buttons"] is False
    assert len(form_of(task)["labels"]) == 2
    assert task.asked in instructions(task)
    assert "- billing" in instructions(task)
    assert facts_of(task) == {"kind": "tags", "labels": ["billing", "delivery"], "words": ["billing", "delivery"]}


def test_an_unknown_kind_is_refused_with_the_kinds_there_are(make_config: MakeConfig) -> None:
    with pytest.raises(
        ConfigError, match=r"task.kind is 'tag'; did you mean 'tags'\? allowed: choice, multi_label, number, text, tags"
    ):
        Run(make_config(**SMALL, task={"kind": "tag"}))


# --- what every kind must hold --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "cell"),
    [("choice", "no"), ("number", "2+2 is 4\n#### 4"), ("text", "the Eiffel tower"), ("tags", "yes; no")],
)
def test_what_a_kind_writes_it_reads_back(kind: str, cell: str) -> None:
    """The contract of `Task`: canonical answers stay what they are through writing, parsing, recording."""
    from guidestar.config import TaskConfig

    task = make_task(TaskConfig(kind=kind), ["yes", "no"], "Answer: {answer}")
    gold = task.parse_gold(cell, "x")
    assert task.parse_gold(gold, "x") == gold, "canonical answers are fixed points"
    assert task.compared(gold) == task.compared(task.parse_gold(cell, "x"))
    written = task.response_text(gold)
    assert written.startswith("Answer: ")
    if kind != "tags":  # the toy does not look for its template's words
        assert task.correct(task.parse(written), gold)
        span = task.answer_span(written)
        assert span is not None
        assert written[slice(*span)].strip()
    assert not task.correct(None, gold)
    assert set(task.parts(gold)) <= set(task.labels)
    assert len(task.labels) == len(task.words)
    assert set(task.classes) <= set(task.labels)
    assert task.parse_gold(task.stand_in, "x")
    again = recorded_task({"task": facts_of(task), "config": {}}, task.response)
    assert (again.labels, again.words, again.kind) == (task.labels, task.words, kind)
    assert task.about
    assert task.described
    assert task.asked.endswith(".")
    with pytest.raises(DataError):
        task.read_reply("")
