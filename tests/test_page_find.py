"""Finding texts on the page, by words or likeness, and one answer for a group of them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loops import (  # noqa: F401 - fixtures
    CHOICE,
    MakeConfig,
    nothing_stays,
    trained_labels,
    unlabelled_data,
)
from page_browser import said, shown
from page_client import decision, following, ids_of, post, save
from page_help import LABELS, QUESTIONS, make_run, served
from starlette.testclient import TestClient

from guidestar import config as configs
from guidestar.data.pool import Dataset, load_dataset
from guidestar.loop import Run
from guidestar.people.page.finder import PAGE, Finder
from guidestar.records import Label, Pick, Query
from guidestar.store import Store, files
from guidestar.store.annotations import TEST
from guidestar.store.likeness import keep_points

MORE = ("Who was Mozart ?", "who was mozart", "Who was Galilei ?", *(f"What is {n} times seven ?" for n in range(60)))
GROUP = "group-000001"


@pytest.fixture(name="searched")
def searched_run(tmp_path: Path) -> tuple[Path, Dataset]:
    """A run of which two questions are asked, one of them set aside, and a third will be set aside."""
    run = make_run(tmp_path, QUESTIONS[:2])
    with (run.parent / "pool.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([text] for text in (*QUESTIONS, *MORE))])
    dataset = load_dataset(configs.load(run.parent / "config.yaml"))
    (run / "run.sqlite").unlink()
    with Store.open(run, create=True) as store:
        task = {"kind": "choice", "labels": list(LABELS), "words": list(LABELS.values())}
        store.begin({"seed": 0}, {"name": "questions", "task": task, "config": configs.load(run.parent).plain()})
        asked = {e.id: e for e in dataset.pool[:2]}
        details: list[dict[str, float]] = [{}, {TEST: 1.0}]
        picks = [Pick(id, float("nan"), d) for id, d in zip(asked, details, strict=True)]
        store.add_query(Query(0, tuple(picks)), asked)
        store.ahead.prepare(1, [Pick(dataset.pool[2].id, float("nan"), {TEST: 1.0})], {e.id: e for e in dataset.pool})
    return run, dataset


def find(page: TestClient, **asked: Any) -> tuple[list[str], Any]:
    reply = post(page, "find", {"annotator": "ann", **asked})
    return [e["fields"][0]["text"] for e in reply["examples"]], reply


def ids(reply: Any) -> list[str]:
    return [e["id"] for e in reply["examples"]]


def give(page: TestClient, ids: list[str], text: str = "HUM", group: str = GROUP, status: int = 200) -> Any:
    body = {"annotator": "ann", "ids": ids, "text": text, "how": "words", "group": group}
    return post(page, "group", body, status)["ids" if status == 200 else "error"]


def log(run: Path) -> list[tuple[str, Any, str]]:
    with Store.open(run) as store:
        return [(e.id, e.annotation, e.source) for e in store.annotations.history()]


# --- finding --------------------------------------------------------------------------------------


def test_words_phrases_and_pages_of_a_long_list(
    searched: tuple[Path, Dataset], open_page: Callable[..., TestClient]
) -> None:
    page = open_page(searched[0])
    assert find(page, words="who MOZART")[0] == list(MORE[:2])
    assert find(page, words='"who was m"')[0] == list(MORE[:2])
    assert find(page, words="zebra") == ([], {"examples": [], "more": False, "said": {}})
    assert find(page, words="  ")[0] == []
    first, reply = find(page, words="times seven")
    rest, last = find(page, words="times seven", skip=PAGE)
    assert (len(first), reply["more"], last["more"]) == (PAGE, True, False)
    assert first + rest == list(MORE[3:])


@pytest.mark.parametrize("how", ["words", "like"])
def test_what_is_set_aside_is_neither_shown_nor_answered(
    searched: tuple[Path, Dataset], open_page: Callable[..., TestClient], how: str
) -> None:
    """QUESTIONS[1] is asked and set aside, QUESTIONS[2] ("Who was Galileo ?") will be."""
    run, dataset = searched
    page = open_page(run)
    asked = {"words": "w"} if how == "words" else {"like": dataset.pool[14].id}
    texts, _reply = find(page, **asked)
    if how == "words":
        more, _ = find(page, words="w", skip=PAGE)
        texts += more
        assert len(texts) == len(dataset.pool) - 2 == len(set(texts))
    assert not {QUESTIONS[1], QUESTIONS[2]} & set(texts)
    assert give(page, [e.id for e in dataset.pool[1:4]]) == [dataset.pool[3].id]


def test_without_features_likeness_is_that_of_the_words(searched: tuple[Path, Dataset]) -> None:
    run, dataset = searched
    finder = Finder(run.parent)
    mozart = next(e for e in dataset.pool if e.fields["text"] == "Who was Mozart ?")
    found, more = finder.like(mozart.id, ())
    texts = [e.fields["text"] for e in found]
    assert texts[:2] == ["Who was Mozart ?", "who was mozart"]
    assert more
    assert set(texts[2:4]) == {"Who was Galileo ?", "Who was Galilei ?"}
    assert finder.nearly_same(mozart.id, found) == {e.id for e in found[:2]}
    assert finder.like("0" * 16, ()) == ([], False)


def test_with_features_it_is_their_cosine_as_in_a_plain_loop(searched: tuple[Path, Dataset]) -> None:
    run, dataset = searched
    rng = np.random.default_rng(0)
    points = rng.normal(size=(len(dataset.pool) - 1, 8)) * rng.uniform(0.1, 9, (len(dataset.pool) - 1, 1))
    kept = [e.id for e in dataset.pool[:-1]]  # the last one does not fit the model
    keep_points(run.parent, dataset.hash, kept, lambda: points)
    keep_points(run.parent, dataset.hash, kept, lambda: pytest.fail("once is enough"))
    finder = Finder(run.parent)

    def cosine(a: Any, b: Any) -> float:
        return float(
            sum(x * y for x, y in zip(a, b, strict=True)) / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5
        )

    literal = sorted(range(len(kept)), key=lambda i: -cosine(points[5], points[i]))
    found, _ = finder.like(kept[5], {kept[literal[1]]})
    assert [e.id for e in found][:20] == [kept[i] for i in [literal[0], *literal[2:21]]]
    assert finder.like(dataset.pool[-1].id, ())[0][0] == dataset.pool[-1], "by words"


# --- answering ------------------------------------------------------------------------------------


def test_a_group_gets_one_answer_which_is_recorded_as_such_and_taken_back_as_one(
    searched: tuple[Path, Dataset], open_page: Callable[..., TestClient]
) -> None:
    run, dataset = searched
    page = open_page(run)
    save(page, decision(dataset.pool[0].id, text="NUM"))
    _, reply = find(page, words="was")
    group = [*ids(reply), dataset.pool[0].id]
    assert give(page, group) == group[:-1], "what has an answer keeps it"
    assert give(page, group) == group[:-1], "sent again, it changes nothing"
    assert "'HUMAN BEING' is not one of" in give(page, [dataset.pool[5].id], "HUMAN BEING", status=422)
    assert log(run)[1:] == [(id, Label("HUM", "ann"), "page+words") for id in group[:-1]]
    _, reply = find(page, words="was")
    assert reply["said"] == {id: {"kind": "label", "text": "HUM"} for id in group[:-1]}
    lines = post(page, "history", {"annotator": "ann"})["lines"]
    assert {line["group"] for line in lines if line["id"] in group[:-1]} == {GROUP}
    save(page, decision(group[0], text="LOC"))  # changed since: it is no part of the group any more
    state = post(page, "state", {"annotator": "ann"})
    assert state["labels"] == len(group)
    assert state["pace"] is None
    with Store.open(run) as store:
        assert store.annotations.grouped() == set(group[:-1])
    assert post(page, "ungroup", {"annotator": "ben", "group": GROUP})["ids"] == []
    back = post(page, "ungroup", {"annotator": "ann", "group": GROUP})["ids"]
    assert sorted(back) == sorted(group[1:-1])
    assert post(page, "ungroup", {"annotator": "ann", "group": GROUP})["ids"] == []
    with Store.open(run) as store:
        assert store.annotations.given_back() == set(back)
        assert store.asked() == {e.id for e in dataset.pool[:2]} | {group[0]}, "strategies may ask for the others again"
        store.add_query(Query(1, (Pick(back[0], 0.5),)), {back[0]: store.example(back[0])})
        assert back[0] in store.asked()


def test_a_group_is_stored_whole_or_not_at_all(
    searched: tuple[Path, Dataset], open_page: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, dataset = searched
    page, group = open_page(run), [e.id for e in dataset.pool[5:9]]

    def fail(step: str) -> None:
        if step.startswith("commit annotate"):
            raise files.StoreError("disk full")

    monkeypatch.setattr(files, "step", fail)
    post(page, "group", {"annotator": "ann", "ids": group, "text": "HUM", "how": "like", "group": GROUP}, 503)
    monkeypatch.undo()
    with Store.open(run) as store:
        assert store.asked() == {e.id for e in dataset.pool[:2]}
        assert not store.annotations.history()
    assert give(page, group) == group
    assert [id for id in ids_of(following(page)) if id in group] == []


def test_groups_are_trained_on_and_are_no_warm_start(
    make_config: MakeConfig, unlabelled: dict[str, Any], trained: list[dict[str, str]]
) -> None:
    from guidestar.people.page.board import Board
    from guidestar.people.page.desk import people_of

    query = {"warm_start": 6, "batch": 2, "budget": 30, "candidates": 12, "hold_out": 0.2}
    config = make_config(data=unlabelled, task=CHOICE, query=query, annotator="people")
    with Run(config, ahead=True) as run:
        board = Board(run.store, people_of(run.folder.parent, run.store.facts), lambda: 0.0)
        apart = run.store.annotations.apart()
        assert len(apart) == 6, "before any of them is asked"
        pool = run.bench.dataset.pool[:12]
        got = board.answer_group("ann", pool, "refund", GROUP, "page+like")
        assert got == [e.id for e in pool if e.id not in apart]
        asked = run.ask()
        assert len(asked) == 6 + 6, "the whole warm start, and all that is set aside"
        for e in asked:
            run.tell(e.id, "refund" if e.id < "8" else "delivery")
        run.ask()
        assert set(got) <= trained[0].keys()
        assert not apart & trained[0].keys()
        assert run.metrics()[0].labels == 6 + len(got)


# --- in the browser -------------------------------------------------------------------------------


def test_a_group_in_the_browser(searched: tuple[Path, Dataset], enter: Callable[..., Any]) -> None:
    run, dataset = searched
    with served(run) as server:
        page = enter(server)
        shown(page, QUESTIONS[0])
        page.keyboard.press("g")
        page.fill("#find-words", "mozart")
        page.keyboard.press("Enter")
        page.wait_for_selector("#find-list li")
        assert page.locator("#find-list li").count() == 2
        page.keyboard.press("Tab")
        page.click("#find-all")
        assert said(page, "find-count") == "The answer for 2 ticked texts:"
        page.keyboard.press("4")
        page.wait_for_function(
            "() => document.getElementById('find-said').textContent.startsWith('Saved: 2 texts human')"
        )
        page.click("#find-close")
        page.wait_for_function("() => document.querySelectorAll('#history-list li').length === 2")
        page.keyboard.press("u")
        page.wait_for_function("() => document.querySelectorAll('#history-list li').length === 0")
        shown(page, QUESTIONS[0])
        page.keyboard.press("l")
        page.wait_for_selector("#find-list li")
        page.locator("#find-list input").first.check()
        page.click("#find-answers .answer >> nth=0")
        page.wait_for_function("() => document.getElementById('find-said').textContent.startsWith('Saved: 1 text')")
        page.click("#find-close")
        shown(page, QUESTIONS[1])
    assert [(a.annotation, a.source) for a in history(run)][-1] == (Label("ABBR", "Ann"), "page+like")
    assert history(run)[-1].id == dataset.pool[0].id


def history(run: Path) -> list[Any]:
    with Store.open(run) as store:
        return store.annotations.history()
