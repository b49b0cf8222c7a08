"""The labelling page in a real Chromium: one annotator's round."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from page_browser import IDS, NAMES, Page, all_saved, answers, log, said, shown
from page_help import QUESTIONS, Server, ask, examples, make_run, served

from guidestar.records import Flag, Label, Metrics, Note, Skip, Suggestion
from guidestar.store import Store

# --- a round --------------------------------------------------------------------------------------


def test_a_whole_round_by_keys_alone(tmp_path: Path, enter: Callable[..., Page]) -> None:
    run = make_run(tmp_path)
    keys = "651435216243"
    with served(run) as server:
        page = enter(server)
        for text, key in zip(QUESTIONS, keys, strict=True):
            shown(page, text)
            page.keyboard.press(key)
        page.wait_for_selector("#idle:visible >> text=Round 0 has all its answers")
        all_saved(page)
        assert said(page, "round-count") == "12 / 12"
        assert said(page, "labels") == "12 of 30 labels"
        assert said(page, "idle-detail") == f"guidestar run {run.parent}"
        assert said(page, "status").startswith("Saved: ")
        with Store.open(run) as store:  # the run goes on elsewhere
            store.add_adapter(0, lambda folder: None)
            store.add_metrics(Metrics(0, 12, {"validation_accuracy": 0.8125}))
            ask(store, 1, examples(["What is new ?"], 50))
        shown(page, "What is new ?")
        assert said(page, "accuracy") == "validation accuracy 81 %"
    given = [NAMES[int(key) - 1] for key in keys]
    assert answers(run) == {id: Label(label, "Ann") for id, label in zip(IDS, given, strict=True)}
    with Store.open(run) as store:
        entries = store.annotations.history()
    assert [e.source for e in entries] == ["page"] * 12
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", e.decision or "") for e in entries)


def test_skip_flag_note_and_the_whole_prompt_by_keys(tmp_path: Path, enter: Callable[..., Page]) -> None:
    run = make_run(tmp_path)
    with served(run) as server:
        page = enter(server)
        shown(page, QUESTIONS[0])
        page.keyboard.press("p")
        assert page.inner_text("#prompt") == f"Question: {QUESTIONS[0]}\nType:"
        page.keyboard.press("f")
        assert page.get_attribute("#flag", "aria-pressed") == "true"
        page.keyboard.press("n")
        page.keyboard.type("Two answers?  1 2 s u")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#note-dialog", state="hidden")
        assert said(page, "note-text") == "Note (1)"
        page.keyboard.press("s")
        shown(page, QUESTIONS[1])
        assert page.get_attribute("#flag", "aria-pressed") == "false"
        page.keyboard.press("?")
        page.wait_for_selector("#help[open]")
        page.keyboard.press("3")  # not an answer while the dialog is open
        page.keyboard.press("Escape")
        page.select_option("#only", "flagged")
        page.click("#history-list button")
        shown(page, QUESTIONS[0])
        assert said(page, "place") == "You skipped this. Another answer replaces it."
        page.keyboard.press("1")
        shown(page, QUESTIONS[1])
        all_saved(page)
    assert log(run) == [Flag("Ann"), Note("Two answers?  1 2 s u", "Ann"), Skip("", "Ann"), Label("ABBR", "Ann")]


def test_undo_again_and_again_through_reloads_and_a_restart(tmp_path: Path, enter: Callable[..., Page]) -> None:
    run = make_run(tmp_path)
    server = Server(run).start()
    try:
        page = enter(server)
        for text in QUESTIONS[:4]:
            shown(page, text)
            page.keyboard.press("1")
        shown(page, QUESTIONS[4])
        page.keyboard.press("u")
        shown(page, QUESTIONS[3])
        page.keyboard.press("Backspace")
        shown(page, QUESTIONS[2])
        all_saved(page)
        assert list(answers(run)) == IDS[:2]
        page.reload()
        shown(page, QUESTIONS[2])  # shown before and not answered: it comes first
        assert page.locator("#history-list li").count() == 2
        all_saved(page)
        server.kill()
        server.start()
        page.reload()
        shown(page, QUESTIONS[2])
        page.keyboard.press("u")  # known from the server alone by now
        shown(page, QUESTIONS[1])
        page.keyboard.press("2")
        shown(page, QUESTIONS[2])
        page.click("#history-list button >> nth=0")
        shown(page, QUESTIONS[1])
        assert page.get_attribute("#answers .answer >> nth=1", "aria-pressed") == "true"
        page.keyboard.press("3")
        shown(page, QUESTIONS[2])
        all_saved(page)
    finally:
        server.stop()
    assert answers(run) == {IDS[0]: Label("ABBR", "Ann"), IDS[1]: Label("ENTY", "Ann")}


def test_arrows_walk_through_the_history_and_back_to_the_work(tmp_path: Path, enter: Callable[..., Page]) -> None:
    run = make_run(tmp_path)
    with served(run) as server:
        page = enter(server)
        for text in QUESTIONS[:3]:
            shown(page, text)
            page.keyboard.press("4")
        shown(page, QUESTIONS[3])
        page.keyboard.press("f")  # in the history too now, and still the one to answer
        for text in (QUESTIONS[2], QUESTIONS[1], QUESTIONS[0], QUESTIONS[0]):
            page.keyboard.press("ArrowLeft")
            shown(page, text)
        for text in (QUESTIONS[1], QUESTIONS[2], QUESTIONS[3], QUESTIONS[3]):
            page.keyboard.press("ArrowRight")
            shown(page, text)
        page.keyboard.press("5")
        shown(page, QUESTIONS[4])
        all_saved(page)
    assert len(answers(run)) == 4


def test_a_long_history_is_drawn_in_parts_and_nothing_of_it_is_missing(
    tmp_path: Path, enter: Callable[..., Page]
) -> None:
    texts = [f"text {i}" for i in range(150)]
    run = make_run(tmp_path, texts)
    ids = list(examples(texts))
    with Store.open(run) as store:
        store.annotations.add_many([(id, Label("HUM", "Ann"), None, "page") for id in ids[:140]])
    with served(run) as server:
        page = enter(server)
        for text in texts[140:145]:
            shown(page, text)
            page.keyboard.press("4")
        all_saved(page)
        lines = page.locator("#history-list button")
        for count in (60, 120, 145):
            page.wait_for_function(f"() => document.querySelectorAll('#history-list button').length === {count}")
            if count < 145:
                page.click("#older")
        assert not page.is_visible("#older")
        told = lines.evaluate_all("found => found.map((one) => one.dataset.id)")
        assert told == list(reversed(ids[:145]))


def test_selecting_first_and_confirming_with_enter(tmp_path: Path, enter: Callable[..., Page]) -> None:
    run = make_run(tmp_path)
    with served(run) as server:
        page = enter(server)
        shown(page, QUESTIONS[0])
        page.keyboard.press("?")
        page.uncheck("#at-once")
        page.keyboard.press("Escape")
        page.keyboard.press("2")
        page.keyboard.press("4")
        assert page.locator("#answers [aria-pressed=true] .name").inner_text().startswith("human")
        shown(page, QUESTIONS[0])
        page.keyboard.press("Enter")
        shown(page, QUESTIONS[1])
        page.keyboard.press("Enter")  # nothing is selected
        page.click("#answers .answer >> nth=4")
        page.keyboard.press("Enter")
        shown(page, QUESTIONS[2])
        page.reload()  # the setting stays
        shown(page, QUESTIONS[2])
        page.keyboard.press("1")
        shown(page, QUESTIONS[2])
        all_saved(page)
    assert answers(run) == {IDS[0]: Label("HUM", "Ann"), IDS[1]: Label("LOC", "Ann")}


def test_a_double_click_or_a_key_held_down_is_one_answer(tmp_path: Path, enter: Callable[..., Page]) -> None:
    run = make_run(tmp_path)
    with served(run) as server:
        page = enter(server)
        shown(page, QUESTIONS[0])
        page.dblclick("#answers .answer >> nth=3")
        shown(page, QUESTIONS[1])
        page.keyboard.down("2")
        page.keyboard.down("2")  # the second one is a repetition
        page.keyboard.down("2")
        page.keyboard.up("2")
        shown(page, QUESTIONS[2])
        all_saved(page)
    assert log(run) == [Label("HUM", "Ann"), Label("DESC", "Ann")]


def test_many_labels_are_searched(tmp_path: Path, enter: Callable[..., Page]) -> None:
    labels = {f"K{i}": f"{word} {i}" for i, word in enumerate(["card", "cash", "fee", "pin"] * 8)}
    run = make_run(tmp_path, labels=labels)
    with served(run) as server:
        page = enter(server)
        shown(page, QUESTIONS[0])
        page.keyboard.press("/")
        page.keyboard.type("fee 1")
        assert page.locator("#answers .answer:visible").count() == 3  # 10, 14, 18
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        shown(page, QUESTIONS[1])
        page.keyboard.press("9")  # the first nine have their keys, and the search is left
        shown(page, QUESTIONS[2])
        page.keyboard.press("/")
        page.keyboard.type("k31")  # the label itself is found too
        page.keyboard.press("Enter")
        shown(page, QUESTIONS[3])
        page.keyboard.press("/")
        page.keyboard.type("zzz")
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
        assert page.locator("#answers .answer:visible").count() == 32
        page.keyboard.press("s")
        shown(page, QUESTIONS[4])
        all_saved(page)
    assert [a.answer for a in log(run)[:3]] == ["K14", "K8", "K31"]


def test_a_number_is_typed_checked_and_kept_while_it_is_not_saved(tmp_path: Path, enter: Callable[..., Page]) -> None:
    draft = Suggestion("16 - 3 - 4 = 9\n#### 18", {}, -1)
    run = make_run(tmp_path, kind="number", suggestions={IDS[0]: draft})
    with served(run) as server:
        page = enter(server)
        shown(page, QUESTIONS[0])
        page.keyboard.type("eighteen, s u 1")  # in the box, keys are letters
        page.keyboard.press("Enter")
        shown(page, QUESTIONS[1])
        all_saved(page)
        assert log(run) == [Label("eighteen, s u 1\n#### 1", "Ann")]
        page.keyboard.press("Escape")
        page.keyboard.press("u")
        shown(page, QUESTIONS[0])
        page.keyboard.press("Escape")
        page.keyboard.press("d")  # the model's draft, to edit
        assert page.input_value("#answers textarea") == draft.answer
        page.keyboard.type(".5")
        page.reload()
        shown(page, QUESTIONS[0])
        assert page.input_value("#answers textarea") == f"{draft.answer}.5", "what is typed survives a reload"
        page.keyboard.press("Enter")
        shown(page, QUESTIONS[1])
        page.keyboard.type("none")
        page.keyboard.press("Enter")
        assert page.inner_text("#answers .problem") == "There is no number in it."
        page.fill("#answers textarea", "x1y")  # looks like one, and the server says no
        page.keyboard.press("Enter")
        page.wait_for_selector("#notices >> text=1 answer was refused")
        assert "no number in the answer 'x1y'" in page.inner_text("#notices")
        page.click("#notices >> text=Open the example")
        shown(page, QUESTIONS[1])
        page.click("#notices >> text=Dismiss")
        page.fill("#answers textarea", "7")
        page.click("#answers .main-action")
        shown(page, QUESTIONS[2])
        all_saved(page)
        assert page.inner_text("#notices") == ""
    assert [a.answer for a in answers(run).values()] == ["16 - 3 - 4 = 9\n#### 18.5", "#### 7"]
    with Store.open(run) as store:
        assert [e.source for e in store.annotations.history()] == ["page+suggestion", "page", "page+suggestion", "page"]


def test_a_text_has_its_box_and_shift_enter_makes_a_line(tmp_path: Path, enter: Callable[..., Page]) -> None:
    run = make_run(tmp_path, kind="text")
    with served(run) as server:
        page = enter(server)
        shown(page, QUESTIONS[0])
        page.keyboard.press("Enter")
        assert "The box is empty" in page.inner_text("#answers .problem")
        page.keyboard.type("200 miles")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("by road")
        page.keyboard.press("Control+Enter")
        shown(page, QUESTIONS[1])
        all_saved(page)
    assert log(run) == [Label("200 miles\nby road", "Ann")]


def test_what_the_model_says_is_blind_by_default_with_an_overlap_and_recorded_when_seen(
    tmp_path: Path, enter: Callable[..., Page]
) -> None:
    model = {id: Suggestion("HUM", {"HUM": 0.83, "LOC": 0.17}, -1) for id in IDS}
    run = make_run(tmp_path, suggestions=model, people={"overlap": 0.5})
    with served(run) as server:
        page = enter(server)
        shown(page, QUESTIONS[0])
        assert not page.is_visible("#suggestion")
        page.keyboard.press("m")
        assert said(page, "suggestion") == "The model says human 83 % sure"
        page.keyboard.press("m")  # seen is seen
        page.keyboard.press("4")
        shown(page, QUESTIONS[1])
        assert not page.is_visible("#suggestion"), "blind again"
        page.keyboard.press("4")
        shown(page, QUESTIONS[2])
        all_saved(page)
    with Store.open(run) as store:
        assert [e.source for e in store.annotations.history()] == ["page+suggestion", "page"]
    other = make_run(tmp_path, suggestions=model, experiment="alone")
    with served(other) as server:
        page = enter(server)
        shown(page, QUESTIONS[0])
        assert page.is_visible("#suggestion")
        page.keyboard.press("m")
        page.keyboard.press("4")
        shown(page, QUESTIONS[1])
        assert not page.is_visible("#suggestion"), "hidden stays hidden where it is shown by default"


def test_several_labels_are_switched_and_saved_together(tmp_path: Path, enter: Callable[..., Page]) -> None:
    run = make_run(tmp_path, kind="multi_label")
    with served(run) as server:
        page = enter(server)
        shown(page, QUESTIONS[0])
        page.keyboard.press("Enter")  # nothing is switched on, so nothing is saved
        for key in ("6", "1", "2", "2"):
            page.keyboard.press(key)
        assert page.get_attribute("#answers .answer >> nth=5", "aria-pressed") == "true"
        page.keyboard.press("Enter")
        shown(page, QUESTIONS[1])
        assert page.locator("#answers .answer[aria-pressed=true]").count() == 0
        page.keyboard.press("0")
        shown(page, QUESTIONS[2])
        page.click("#answers .answer >> nth=3")
        page.keyboard.press("Enter")  # a button has the focus; it saves, and does not switch again
        shown(page, QUESTIONS[3])
        all_saved(page)
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector("#place >> text=You answered human")
    assert [answers(run)[id].answer for id in IDS[:3]] == ["ABBR; NUM", "[]", "HUM"]
