"""Small things for the person who labels: what labels mean, first guesses, own ids, numbers, keys that clash, the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import LABELS
from loops import CHOICE, SMALL, MakeConfig, nothing_stays, unlabelled_data, write_csv  # noqa: F401 - fixtures
from page_client import following, label_all, post
from page_help import QUESTIONS, examples, make_run
from test_endpoint import Server, completion, server  # noqa: F401 - a fixture

from guidestar import config as configs
from guidestar.asking import Ask
from guidestar.bench import Bench, read_config
from guidestar.data.formats import Row
from guidestar.data.messages import CONVERSATION, opened, turns_in
from guidestar.data.prompts import Template
from guidestar.errors import ConfigMismatch, DataError
from guidestar.exchange import import_file
from guidestar.loop import Run
from guidestar.measuring import first_guess
from guidestar.people.endpoint import instructions
from guidestar.people.page.board import Board
from guidestar.people.page.desk import people_of
from guidestar.people.page.server import check_keys
from guidestar.people.page.setup import Setup
from guidestar.people.page.views import example, idle
from guidestar.people.trainer import status_of
from guidestar.phases import Clock
from guidestar.project import write_config
from guidestar.publish.cards import model_card
from guidestar.publish.snippet import Usage, program
from guidestar.records import Label, Metrics, Pick, Query, Stop
from guidestar.store import Store
from guidestar.store.annotations import TEST
from guidestar.tasks import Choice
from guidestar.tasks.common import read_labels

# --- what labels mean -----------------------------------------------------------------------------


def test_labels_may_say_what_they_mean() -> None:
    assert read_labels("a, b") == read_labels("a\nb;") == {"a": "", "b": ""}
    assert read_labels("a = x, y; b") == {"a": "x, y", "b": ""}
    assert read_labels("a=x,b=y") == {"a": "x", "b": "y"}
    task = Choice(("a", "b"), ("a", "b"))
    assert "- a: of x\n- b\n" in instructions(task, descriptions={"a": "of x"})


def test_descriptions_go_into_the_configuration_and_stand_beside_the_keys(
    tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    long = "This is a long message of somebody about a thing. " * 40
    data = write_csv(tmp_path / "m.csv", [{"text": f"{long} {i}"} for i in range(20)])
    config, _ = write_config(data, None, labels=read_labels("billing = money; other"))
    loaded = configs.load(config)
    assert loaded.people.descriptions == {"billing": "money"}
    assert loaded.data.template is not None
    assert "Which of these: billing (money), other?" in loaded.data.template, "a language model reads long texts"
    assert loaded.key() == configs.load(config, ["people.descriptions={}"]).key(), "they may change while a run lasts"
    config, _ = write_config(data, tmp_path / "without.yaml")
    assert not (Setup(config).asked() or {})["several"]
    Setup(config).give(["billing = money", "other"])
    assert configs.load(config).people.descriptions == {"billing": "money"}
    assert configs.load(config).task.labels == ["billing", "other"]
    run = make_run(tmp_path, people={"descriptions": {"HUM": "a person"}})
    labels = post(open_page(run), "state", {"annotator": "ann"})["task"]["labels"]
    assert {one["label"]: one["about"] for one in labels if one["about"]} == {"HUM": "a person"}


def test_several_labels_are_asked_for_on_the_command_line_or_on_the_page(tmp_path: Path) -> None:
    data = write_csv(tmp_path / "m.csv", [{"text": f"a short text {i}"} for i in range(40)])
    written = [write_config(data, tmp_path / "a.yaml", labels=["a", "b"], keys=["task.kind=multi_label"])[0]]
    for name, keys in (("b", ()), ("c", ["task.kind=multi_label"])):
        written.append(write_config(data, tmp_path / f"{name}.yaml", keys=keys)[0])
        assert (Setup(written[-1]).asked() or {})["several"] is bool(keys)
        Setup(written[-1]).give(["a", "b"], several=True)
    for config in map(configs.load, written):
        assert (config.task.kind, config.task.labels) == ("multi_label", ["a", "b"])
        assert [s.title for s in config.strategies] == ["lean"], "questions as fast as for classes"
    again, _ = write_config(data, tmp_path / "d.yaml", keys=["task.kind=multi_label"])
    Setup(again).give(["a", "b"], several=False)
    assert configs.load(again).task.kind == "choice"


def test_a_column_of_words_is_no_column_of_numbers(
    make_config: MakeConfig, unlabelled: dict[str, Any], tmp_path: Path
) -> None:
    """One sentence, and not one for each row."""
    data = write_csv(tmp_path / "m.csv", [{"text": f"text {i}", "kind": "a" if i % 3 else "b"} for i in range(90)])
    section = {**unlabelled, "pool": str(data), "template": "{text}", "answer": "kind"}
    config = make_config(data=section, task={"kind": "number"})
    with pytest.raises(
        DataError, match=r"the same holds of 90 of 90 answers, so task.kind 'number' does not fit"
    ) as told:
        Bench(read_config(config)).dataset  # noqa: B018
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("encoder", [False, True])
def test_a_first_guess_is_of_the_untuned_model_and_marked(
    make_config: MakeConfig, unlabelled: dict[str, Any], tiny_encoder_folder: Path, encoder: bool
) -> None:
    means = {LABELS[0]: "a parcel comes"}
    changes: dict[str, Any] = {"model": {"name": str(tiny_encoder_folder)}} if encoder else {}
    if encoder:
        changes["peft"] = {**SMALL["peft"], "target_modules": ["query"]}
    config = make_config(
        **{**SMALL, "data": unlabelled, "task": CHOICE, "annotator": "people", "strategies": ["random"],
           "people": {"first_guess": True, "descriptions": means}, **changes}
    )  # fmt: skip
    with Run(config) as run:
        asked = run.ask()
        said = run.store.suggestions()
        assert said.keys() == {e.id for e in asked}
        assert {s.round for s in said.values()} == {-1}
        assert said == first_guess(run.tuning, asked)
        met = [said[e.id].answer for e in asked]
        assert len(set(met[: len(set(met))])) == len(set(met)), "each guessed label once, before any comes again"
        board = Board(run.store, people_of(run.folder.parent), lambda: 0.0)
        shown = example(board, asked[0].id, "ann")["suggestion"]
        assert shown["guess"]
        assert shown["text"] == said[asked[0].id].answer
        if encoder:  # a literal reading: the label whose name lies nearest by the angle
            names = [f"{label}: {means[label]}" if label in means else label for label in LABELS]
            texts = [e.prompt for e in asked]
            base, one = run.tuning.base(), asked[0]
            rows = [
                base([type(one)(f"x{i}", {}, t)], Ask.of(["embedding"])).arrays["embedding"][0][0]
                for i, t in enumerate([*names, *texts])
            ]
            units = np.array([row / np.linalg.norm(row) for row in rows])
            nearest = (units[len(names) :] @ units[: len(names)].T).argmax(axis=1)
            assert [said[e.id].answer for e in asked] == [LABELS[i] for i in nearest]


@pytest.mark.parametrize("away", [False, True])
def test_a_first_guess_of_an_endpoint_orders_the_questions(
    make_config: MakeConfig,
    unlabelled: dict[str, Any],
    server: Server,  # noqa: F811
    away: bool,
) -> None:
    """One paid request an example, labels in turn, marked as the model's that guessed; without an answer people are asked all
    the same."""

    def says(request: dict[str, Any], number: int) -> tuple[int, dict[str, str], Any]:
        told = request["messages"][1]["content"]
        return (401, {}, {}) if away else completion(LABELS[sum(map(ord, told)) % len(LABELS)])

    server.script = says
    config = make_config(
        **{**SMALL, "data": unlabelled, "task": CHOICE, "annotator": "people", "strategies": ["random"],
           "people": {"first_guess": "endpoint"}, "endpoint": {"url": server.url, "model": "toy", "key": "TEST_KEY", "parallel": 1}}
    )  # fmt: skip
    with Run(config) as run:
        asked, said = run.ask(), run.store.suggestions()
        assert asked
        if away:
            assert not said
            return
        assert len(server.requests) == len(asked) == len(said)
        turns = [said[e.id].answer for e in asked]
        rounds = [turns[:i].count(label) for i, label in enumerate(turns)]
        assert rounds == sorted(rounds), "no label comes again before all others that were guessed have come"
        board = Board(run.store, people_of(run.folder.parent), lambda: 0.0)
        shown = example(board, asked[0].id, "ann")["suggestion"]
        assert shown == {"text": turns[0], "probability": None, "guess": "toy"}
        run.tuning.guesses.clear()  # as in a process that was stopped and came again
        assert first_guess(run.tuning, asked) == said
        assert len(server.requests) == len(asked), "an answer that is kept is not paid again"


# --- how a run ends -------------------------------------------------------------------------------


def test_the_last_screen_says_what_status_says(tmp_path: Path) -> None:
    run = make_run(tmp_path, QUESTIONS[:4], query={"warm_start": 4, "batch": 5, "budget": 4})
    label_all(run, ["HUM"] * 4)
    with Store.open(run) as store:
        store.add_adapter(0, lambda folder: None)
        store.add_metrics(Metrics(0, 4, {"accuracy": 0.5}))
        store.finish(Stop.BUDGET)
        board = Board(store, people_of(run.parent), lambda: 0.0)
        said = status_of(run.parent)
        assert "after 4 labels" in said["sentence"]
        shown = idle(board, "ann", None, said)
        assert shown["text"] == said["sentence"]
        assert any(line.startswith("Next: ") for line in shown["more"])
        assert shown["command"].startswith("guidestar ")
        assert "The run is finished." in idle(board, "ann", None)["text"], "before it is known, or where it fails"
    assert status_of(tmp_path / "nowhere") == {}


def test_the_page_says_how_many_questions_are_set_aside(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    run = make_run(tmp_path)
    new = examples(["a", "b", "c"], 50)
    with Store.open(run) as store:
        store.add_query(Query(1, tuple(Pick(id, 0.5, {TEST: 1.0} if i else {}) for i, id in enumerate(new))), new)
    page = open_page(run)
    assert following(page)["state"]["aside"] == 0
    label_all(run, ["HUM"] * 12)
    with Store.open(run) as store:
        store.add_adapter(0, lambda folder: None)
        store.add_metrics(Metrics(0, 12, {}))
    assert following(page)["state"]["aside"] == 2


def test_a_published_card_says_what_the_most_frequent_label_of_those_set_aside_reaches(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "run.sqlite").unlink()
    asked = examples(QUESTIONS[:4])
    with Store.open(run, create=True) as store:
        store.begin({"seed": 0}, {"task": {"kind": "choice", "labels": ["HUM", "LOC"]}})
        store.add_query(Query(0, tuple(Pick(id, float("nan"), {TEST: 1.0}) for id in asked)), asked)
        for id, label in zip(asked, ["HUM", "HUM", "HUM", "LOC"], strict=True):
            store.annotations.add(id, Label(label, "ann"))
        store.add_adapter(0, lambda folder: None)
        store.add_metrics(Metrics(0, 4, {"accuracy": 0.5}))
        usage = Usage("base", True, "float32", "{text}", False, False)
        card = model_card(store, 0, usage, name="x", license=None)
    assert "On 4 test examples" in card
    assert "| accuracy of the most frequent label (HUM) | 0.7500 |" in card


def test_the_program_of_a_card_takes_whole_conversations() -> None:
    usage = Usage(base="b", full=False, dtype="float32", template="{conversation}", chat=True, remote_code=False)
    told: dict[str, Any] = {}

    class Tokenizer:
        def apply_chat_template(self, turns: Any, **options: Any) -> str:
            told["turns"] = turns
            return ""

    space: dict[str, Any] = {"tokenizer": Tokenizer()}
    source = program(usage)
    exec(source[source.index("PROMPT =") : source.index("def prompt_tokens")], space)
    said = [("system", "Be short."), ("user", " Hi "), ("assistant", "Yes?"), ("user", "Bye")]
    for turns in (said, said[1:2]):
        messages = [{"role": role, "content": text} for role, text in turns]
        row = opened(Row("here", {"messages": json.dumps(messages)}), "messages")
        data = configs.parse({"data": {"pool": "x", "template": "{conversation}"}, "task": {"kind": "text"}}).data
        prompt = Template(data).fill({CONVERSATION: row.values[CONVERSATION]})
        space["prompt_text"]({"conversation": messages})
        assert told["turns"] == turns_in(prompt)
    space["prompt_text"]({"conversation": "Hi"})
    assert told["turns"] == [{"role": "user", "content": "Hi"}]


# --- files and keys -------------------------------------------------------------------------------


def test_labels_come_in_by_the_users_own_ids_alone(make_config: MakeConfig, tmp_path: Path) -> None:
    rows = [{"ticket": f"T-{i}", "text": f"message number {i} about things"} for i in range(30)]
    pool = write_csv(tmp_path / "pool.csv", rows)
    data = {"preset": None, "folder": None, "test_limit": None, "pool": str(pool), "template": "{text}", "id": "ticket"}
    with Run(make_config(**{**SMALL, "data": data, "task": CHOICE, "annotator": "people"})) as run:
        ids = {e.fields["text"]: e.id for e in run.bench.dataset.pool}
        run.ask()
    labels = write_csv(tmp_path / "labels.csv", [{"ticket": f"T-{i}", "label": LABELS[i % 2]} for i in (3, 8)])
    assert import_file(run.folder, labels)["new"] == 2
    with Store.open(run.folder) as store:
        given = {id: label.answer for id, label in store.annotations.answers().items() if isinstance(label, Label)}
    assert given == {ids[rows[i]["text"]]: LABELS[i % 2] for i in (3, 8)}
    assert import_file(run.folder, labels)["new"] == 0
    other = write_csv(tmp_path / "other.csv", [{"ticket": "T-99", "label": LABELS[0]}])
    with pytest.raises(DataError, match="no row of the data has 'T-99' in the column 'ticket'"):
        import_file(run.folder, other)


def test_a_column_of_numbers_is_offered_and_taken(tmp_path: Path) -> None:
    rows = [{"text": f"a text of many words {i}", "price": f"{i * 7 + 0.5}"} for i in range(40)]
    data = write_csv(tmp_path / "prices.csv", rows)
    _, found = write_config(data, None)
    assert found["answer"] is None
    assert any("numbers in price: --answer COLUMN makes one the answer" in note for note in found["notes"])
    config, found = write_config(data, tmp_path / "p.yaml", answer="price")
    assert (found["kind"], yaml.safe_load(config.read_text())["task"]["kind"]) == ("number", "number")
    telling = write_csv(tmp_path / "t.csv", [{"text": row["text"], "target": row["price"]} for row in rows])
    assert write_config(telling, None)[1]["kind"] == "number"


def test_a_key_that_the_run_was_not_begun_with_is_refused_before_the_page_opens(
    make_config: MakeConfig, unlabelled: dict[str, Any], tmp_path: Path
) -> None:
    config = make_config(**{**SMALL, "data": unlabelled, "task": CHOICE, "annotator": "people"})
    with Run(config) as run:
        run.ask()
    place, folder = tmp_path / "c.yaml", run.folder.parent
    place.write_text(yaml.safe_dump({**config, "out": str(folder)}))
    check_keys(folder, configs.load(place, ["query.budget=99", "query.batch=2"]), ["query.budget=99", "query.batch=2"])
    with pytest.raises(ConfigMismatch, match=r"was begun with query.batch: 2, found 5; leave it out to go on"):
        check_keys(folder, configs.load(place, ["query.batch=5"]), ["query.batch=5"])


def test_a_phase_that_costs_nothing_is_recorded_and_not_printed(tmp_path: Path) -> None:
    said: list[str] = []

    class Loud:
        def say(self, text: str) -> None:
            said.append(text)

        def phase(self, name: str) -> Any:
            raise AssertionError("printed")

    with Store.open(make_run(tmp_path)) as store:
        with Clock(store, Loud())(0, "read features", 3, quiet=True) as tick:
            tick(3, 3)
        assert [row[:2] for row in store.timings()] == [(0, "read features")]
    assert not said
