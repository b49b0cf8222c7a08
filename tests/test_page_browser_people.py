"""The labelling page in a real Chromium: several people, lost servers, review, attacks, and every reader."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from page_browser import IDS, Page, all_saved, answers, log, said, shown
from page_help import QUESTIONS, Server, make_run, served

from guidestar.records import Flag, Label, Note, Suggestion, Verdict
from guidestar.store import Store

# --- several people, several tabs -----------------------------------------------------------------


def test_two_people_share_a_round(tmp_path: Path, enter: Callable[..., Page]) -> None:
    run = make_run(tmp_path)
    with served(run) as server:
        ann, ben = enter(server, "Ann"), enter(server, "Ben")
        for page, key in ((ann, "1"), (ben, "2")) * 6:
            page.wait_for_selector("#work:visible")
            before = page.inner_text("#fields .text")
            page.keyboard.press(key)
            page.wait_for_function(
                "before => document.querySelector('#work').hidden || document.querySelector('#fields .text').textContent !== before",
                arg=before,
            )
        for page in (ann, ben):
            page.wait_for_selector("#idle:visible >> text=Round 0 has all its answers")
            all_saved(page)
            assert page.locator("#history-list li").count() == 6
    with Store.open(run) as store:
        by = store.annotations.by_annotator()
    assert len(by) == 12
    assert all(len(given) == 1 for given in by.values()), "nobody was asked for what another had"
    assert [sum(name in given for given in by.values()) for name in ("Ann", "Ben")] == [6, 6]


def test_a_page_where_nobody_is_says_so(tmp_path: Path, enter: Callable[..., Page]) -> None:
    """What it holds is then free for others when the lease is over, and a key makes it somebody's again."""
    run = make_run(tmp_path)
    with served(run) as server:
        first = enter(server)
        page = enter.tab(first.context)  # type: ignore[attr-defined]
        page.clock.install()
        page.goto(server.link.partition("?")[0])
        shown(page, QUESTIONS[0])
        with page.expect_request(lambda r: r.url.endswith("/api/next") and not r.post_data_json["active"]) as asked:
            page.clock.fast_forward(200_000)
        assert asked.value.post_data_json["hold"][0] == IDS[0]
        with page.expect_request("**/api/next") as asked:
            page.keyboard.press("4")
        assert asked.value.post_data_json["active"]
        page.clock.run_for(5_000)
        shown(page, QUESTIONS[1])
        page.clock.resume()
        all_saved(page)


def test_two_tabs_of_one_person_stay_together(tmp_path: Path, enter: Callable[..., Page]) -> None:
    run = make_run(tmp_path)
    with served(run) as server:
        first = enter(server)
        shown(first, QUESTIONS[0])
        second = enter.tab(first.context)  # type: ignore[attr-defined]
        second.goto(server.link.partition("?")[0])  # the cookie and the name are known
        shown(second, QUESTIONS[0])
        for i in range(10):
            page = (first, second)[i % 2]
            shown(page, QUESTIONS[i])
            page.keyboard.press("1")
        for page in (first, second):
            shown(page, QUESTIONS[10])
            all_saved(page)
    assert log(run) == [Label("ABBR", "Ann")] * 10


def test_a_name_can_be_changed_and_what_waits_keeps_its_own(tmp_path: Path, enter: Callable[..., Page]) -> None:
    run = make_run(tmp_path)
    with served(run) as server:
        page = enter(server, "Ann")
        shown(page, QUESTIONS[0])
        page.context.set_offline(True)
        page.keyboard.press("1")
        shown(page, QUESTIONS[1])
        page.click("#rename")
        page.fill("#name", "<b>")
        page.keyboard.press("Enter")
        assert "A name has 1 to 40" in page.inner_text("#name-error")
        page.context.set_offline(False)
        page.fill("#name", "Ben")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.getElementById('who').textContent === 'Ben'")
        page.wait_for_selector("#work:visible")
        page.keyboard.press("2")
        all_saved(page)
    assert {a.annotator for a in log(run)} == {"Ann", "Ben"}
    assert answers(run)[IDS[0]] == Label("ABBR", "Ann")


# --- a server that is away ------------------------------------------------------------------------


def test_offline_and_back(tmp_path: Path, enter: Callable[..., Page]) -> None:
    run = make_run(tmp_path)
    with served(run) as server:
        page = enter(server)
        shown(page, QUESTIONS[0])
        page.wait_for_timeout(300)  # the examples ahead are there
        page.context.set_offline(True)
        for text in QUESTIONS[:3]:
            shown(page, text)
            page.keyboard.press("6")
        page.wait_for_selector("#notices >> text=Not connected")
        assert said(page, "saving") == "3 not saved yet"
        assert "3 answers are kept in this browser" in page.inner_text("#notices")
        assert page.locator("#history-list .pending").count() == 3
        assert not said(page, "status").startswith("Saved")
        assert log(run) == []
        page.context.set_offline(False)
        all_saved(page)
        page.wait_for_function("() => document.getElementById('notices').textContent === ''")
        assert page.locator("#history-list .pending").count() == 0
        shown(page, QUESTIONS[3])
    assert log(run) == [Label("NUM", "Ann")] * 3


def test_what_was_decided_while_the_server_was_away_is_sent_after_it_came_back_to_a_new_page(
    tmp_path: Path, enter: Callable[..., Page]
) -> None:
    run = make_run(tmp_path)
    server = Server(run).start()
    page = enter(server)
    shown(page, QUESTIONS[0])
    page.wait_for_timeout(300)
    server.kill()
    page.keyboard.press("1")
    page.keyboard.press("2")
    page.keyboard.press("u")
    page.keyboard.press("3")
    page.keyboard.press("f")
    page.wait_for_selector("#notices >> text=Not connected")
    context = page.context
    page.close()
    link = server.link
    server.start()
    try:
        assert server.link != link, "the link is another one, and the cookie is still good"
        page = enter.tab(context)  # type: ignore[attr-defined]
        page.goto(link.partition("?")[0])
        shown(page, QUESTIONS[2])
        all_saved(page)
        page.wait_for_function("() => document.querySelectorAll('#history-list li').length === 3")
    finally:
        server.stop()
    found = log(run)
    assert found[:2] == [Label("ABBR", "Ann"), Label("DESC", "Ann")]
    assert answers(run) == {IDS[0]: Label("ABBR", "Ann"), IDS[1]: Label("ENTY", "Ann")}
    assert found[-1] == Flag("Ann")


# --- review ---------------------------------------------------------------------------------------


def reviewed_run(folder: Path) -> Path:
    run = make_run(folder, people={"overlap": 1.0})
    with Store.open(run) as store:
        for i, id in enumerate(IDS):
            store.annotations.add(id, Label("HUM", "Ann"))
            store.annotations.add(id, Label("LOC" if i in (1, 4) else "HUM", "Ben"))
        store.annotations.add(IDS[1], Note("a county is no person", "Ben"))
        store.annotations.add(IDS[7], Flag("Ann"))
    return run


def test_disagreements_are_settled_by_keys(tmp_path: Path, enter: Callable[..., Page]) -> None:
    run = reviewed_run(tmp_path)
    with served(run) as server:
        page = enter(server, "Cem")
        page.click("nav >> text=Review")
        shown(page, QUESTIONS[1])
        assert page.inner_text("#said").split("\n")[::2] == [
            "Ann",
            "human",
            "Ben",
            "location",
            "Ben, note",
            "a county is no person",
        ]
        assert page.locator("#answers [aria-pressed=true]").count() == 0, "neither answer is put forward"
        assert "α = " in page.inner_text("#agreement-body")
        page.keyboard.press("ArrowRight")
        shown(page, QUESTIONS[4])
        page.keyboard.press("6")
        shown(page, QUESTIONS[1])
        page.keyboard.press("5")
        page.wait_for_selector("#empty:visible >> text=Nobody disagrees")
        page.click("#lists >> text=Flagged")
        shown(page, QUESTIONS[7])
        page.keyboard.press("k")
        page.click("#lists >> text=Settled")
        shown(page, QUESTIONS[7])
        page.keyboard.press("1")  # another verdict replaces it
        all_saved(page)
        page.reload()
        page.wait_for_selector("#review:visible")
        assert page.inner_text("#lists").split() == [
            "Disagreements",
            "0",
            "Likely",
            "label",
            "errors",
            "0",
            "Flagged",
            "0",
            "Settled",
            "3",
        ]
    with Store.open(run) as store:
        assert store.annotations.verdicts() == {
            IDS[1]: Label("LOC", "Cem"), IDS[4]: Label("NUM", "Cem"), IDS[7]: Label("ABBR", "Cem"),
        }  # fmt: skip
        assert [e.annotation for e in store.annotations.history()][-1] == Verdict("ABBR", "Cem")


def test_free_texts_are_settled_by_one_of_them_or_a_third(tmp_path: Path, enter: Callable[..., Page]) -> None:
    run = make_run(tmp_path, kind="text", people={"overlap": 1.0})
    with Store.open(run) as store:
        for who, text in (("Ann", "200 miles"), ("Ben", "320 km")):
            store.annotations.add(IDS[0], Label(text, who))
            store.annotations.add(IDS[1], Label(text, who))
    with served(run) as server:
        page = enter(server, "Cem")
        page.click("nav >> text=Review")
        shown(page, QUESTIONS[0])
        page.keyboard.press("2")
        shown(page, QUESTIONS[1])
        page.keyboard.press("/")
        page.keyboard.type("far")
        page.keyboard.press("Enter")
        page.wait_for_selector("#empty:visible")
        all_saved(page)
    assert list(answers(run).values()) == [Label("320 km", "Cem"), Label("far", "Cem")]


# --- texts that attack ----------------------------------------------------------------------------


def test_attacks_in_texts_labels_and_guidelines_do_not_run(tmp_path: Path, enter: Callable[..., Page]) -> None:
    from test_page import INJECTIONS, injected_run

    run = injected_run(tmp_path)
    with served(run) as server:
        page = enter(server)
        count = len(INJECTIONS)
        for i in range(count):
            shown(page, INJECTIONS[i])
            assert page.evaluate("() => window.pwned === undefined && document.scripts.length === 1")
            if i == 0:
                page.keyboard.press("n")
                page.fill("#note-box", "<img src=x onerror=window.pwned=1>")
                page.keyboard.press("Control+Enter")
                page.keyboard.press("m")
                page.keyboard.press("m")
            page.keyboard.press("p")
            page.keyboard.press(str(1 + i % 9))
        page.wait_for_selector("#idle:visible")
        all_saved(page)
        page.reload()
        page.wait_for_function("n => document.querySelectorAll('#history-list li').length === n", arg=count)
        assert page.inner_text(".guidelines").startswith("<script>window.pwned=1</script>\n")
        page.click("nav >> text=Review")
        page.wait_for_selector("#review:visible")
        assert page.evaluate(
            "() => window.pwned === undefined && document.images.length === 0 && !document.querySelector('iframe, svg, style')"
        )
    assert len(answers(run)) == count


# --- for everybody --------------------------------------------------------------------------------

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
SMALL = """() => [...document.querySelectorAll('button, select, input, nav a, summary')]
  .filter((e) => e.checkVisibility() && e.type !== 'checkbox' && e.getBoundingClientRect().height < 24)
  .map((e) => e.id || e.textContent)"""


def test_a_phone_needs_no_sideways_scrolling_and_has_room_for_fingers(
    tmp_path: Path, enter: Callable[..., Page]
) -> None:
    long = "Donaudampfschifffahrtsgesellschaftskapitänswitwenrentenauszahlungsstelle" * 3
    labels = {f"LONG_LABEL_WITHOUT_ANY_SPACE_{i}": f"{long[:50]}{i}" for i in range(4)}
    texts = [long, *QUESTIONS[:3], "word " * 900]
    run = make_run(tmp_path, texts, labels=labels, people={"overlap": 1.0}, experiment=long[:70])
    with Store.open(run) as store:
        for i, label in enumerate(labels):
            store.annotations.add(f"{1:016x}", Label(label, f"person {i}"))
    with served(run) as server:
        page = enter(server, "A" * 40, **PHONE)
        for text in (long, *QUESTIONS[1:3]):
            shown(page, text)
            assert page.evaluate(WIDE) <= 0
            assert page.evaluate(SMALL) == []
            assert page.evaluate(
                "() => [...document.querySelectorAll('.answer')].every((e) => e.getBoundingClientRect().height >= 44)"
            )
            page.locator(".answer").first.tap()
            page.wait_for_timeout(500)  # a tap is no half of a double tap
        shown(page, texts[4])
        assert page.evaluate(WIDE) <= 0
        page.tap("#help-open")
        assert page.evaluate(
            "() => document.getElementById('help').scrollWidth <= document.getElementById('help').clientWidth + 1"
        )
        page.tap("#help button")
        page.tap("nav >> text=Review")
        page.wait_for_selector("#review:visible")
        assert page.evaluate(WIDE) <= 0
        assert page.evaluate(SMALL) == []


def test_a_screen_reader_is_told_what_is_what_and_what_happened(tmp_path: Path, enter: Callable[..., Page]) -> None:
    run = make_run(tmp_path, people={"guidelines": __file__})
    with served(run) as server:
        page = enter(server)
        shown(page, QUESTIONS[0])
        nameless = """() => [...document.querySelectorAll('button, input, select, textarea, a[href], summary')]
          .filter((e) => e.checkVisibility())
          .filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length))
          .map((e) => e.outerHTML)"""
        assert page.evaluate(nameless) == []
        for landmark in (
            "header",
            "main",
            "aside[aria-label]",
            "nav[aria-label]",
            "#answers[aria-label]",
            "[role=status]",
            "[role=alert]",
        ):
            assert page.locator(landmark).count() >= 1, landmark
        assert page.evaluate("() => document.activeElement.id") == "example", "the example is read out when it comes"
        assert page.get_attribute(".answer >> nth=1", "aria-keyshortcuts") == "2"
        page.keyboard.press("2")
        shown(page, QUESTIONS[1])
        assert page.evaluate("() => document.activeElement.id") == "example"
        page.wait_for_function("() => document.getElementById('status').textContent === 'Saved: description'")
        page.keyboard.press("Tab")  # from the example to its parts and to the answers
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.className") == "answer"
        assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid", "visible focus"
        page.keyboard.press("Enter")
        shown(page, QUESTIONS[2])
        page.keyboard.press("?")
        assert page.evaluate("() => document.activeElement.closest('dialog').id") == "help"
        page.keyboard.press("Escape")
        assert page.evaluate("() => document.activeElement.closest('dialog')") is None
        all_saved(page)
    assert [a.answer for a in log(run)] == ["DESC", "ABBR"]


def test_the_accessibility_tree_says_what_the_page_shows(tmp_path: Path, enter: Callable[..., Page]) -> None:
    """What Chromium hands to a screen reader: names, states and values of all that can be used."""
    run = make_run(tmp_path)
    with served(run) as server:
        page = enter(server)
        shown(page, QUESTIONS[0])
        page.keyboard.press("f")
        all_saved(page)
        heard = page.locator("main").aria_snapshot()
        for line in (
            '- progressbar "Round 0, the warm start"',
            '- heading "Example" [level=1]',
            '- button "human HUM"',
            '- button "Flagged" [pressed]',
            '- button "Earlier example"',
            '- status: "Saved: flagged"',
        ):
            assert line in heard, heard
        tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        nodes = [node for node in tree if not node["ignored"]]
        usable = [n for n in nodes if n["role"]["value"] in {"button", "link", "textbox", "combobox", "checkbox"}]
        assert len(usable) > 15
        assert [n for n in usable if not n["name"]["value"]] == []
        article = next(n for n in nodes if n["role"]["value"] == "article")
        assert article["description"]["value"] == f"text {QUESTIONS[0]}", "read out when it gets the focus"
        page.goto(server.link.partition("?")[0] + "review")
        page.wait_for_selector("#review:visible")
        assert '- button "Flagged 1" [pressed]' in page.locator("main").aria_snapshot()
        assert page.locator("aside").get_attribute("aria-label") == "Agreement"


def test_a_suggestion_that_comes_late_is_there_with_the_examples_to_come(
    tmp_path: Path, enter: Callable[..., Page]
) -> None:
    run = make_run(tmp_path)
    with served(run) as server:
        page = enter(server)
        shown(page, QUESTIONS[0])
        with Store.open(run) as store:
            store.add_suggestions(0, {id: Suggestion("HUM", {"HUM": 0.83, "LOC": 0.17}, -1) for id in IDS})
        with page.expect_response("**/api/next"):
            page.keyboard.press("6")
        shown(page, QUESTIONS[1])
        all_saved(page)
        assert not page.is_visible("#suggestion"), "nothing appears under the eyes of who reads"
        page.keyboard.press("5")
        shown(page, QUESTIONS[2])
        assert said(page, "suggestion") == "The model says human 83 % sure"
        all_saved(page)


def test_dark_mode_and_less_motion_are_followed(tmp_path: Path, enter: Callable[..., Page]) -> None:
    run = make_run(tmp_path)
    with served(run) as server:
        page = enter(server, color_scheme="dark", reduced_motion="reduce")
        shown(page, QUESTIONS[0])
        style = "() => getComputedStyle(document.body)"
        assert page.evaluate(f"({style})().backgroundColor") == "rgb(21, 24, 28)"
        assert page.evaluate(f"({style})().color") == "rgb(230, 233, 237)"
        assert page.evaluate("() => getComputedStyle(document.querySelector('.dot')).animationName") == "none"
        page.emulate_media(color_scheme="light")
        assert page.evaluate(f"({style})().backgroundColor") == "rgb(255, 255, 255)"


def test_colours_have_enough_contrast_in_both_modes() -> None:
    """At least 4.5 : 1 for text on every ground it stands on (WCAG 2.2, 1.4.3), 3 : 1 for edges of controls (1.4.11)."""
    from guidestar.people.page.app import HERE

    css = (HERE / "static" / "page.css").read_text(encoding="utf-8")
    modes = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)
    ]
    assert len(modes) == 2

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    def contrast(one: str, other: str) -> float:
        high, low = sorted((light(one), light(other)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for mode in modes:
        pairs = [("ink", "paper"), ("ink", "raised"), ("ink", "tint"), ("ink", "warn-tint"), ("muted", "paper"), ("muted", "raised"),
                 ("muted", "tint"), ("accent", "paper"), ("accent", "warn-tint"), ("on-accent", "accent"), ("warn", "paper")]  # fmt: skip
        low = {pair: contrast(mode[pair[0]], mode[pair[1]]) for pair in pairs}
        assert min(low.values()) >= 4.5, low
        assert contrast(mode["edge"], mode["paper"]) >= 3
