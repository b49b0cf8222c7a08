"""The report in Chromium: it fits a phone and a printed page, follows the reader's theme, and asks no network."""

from __future__ import annotations

from typing import Any

import pytest
from test_report import build

from guidestar.report import build_report


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs") / "shown"
    for seed in range(3):
        for name, final in (("star", 0.9), ("random", 0.85), ("a_strategy_with_a_very_long_name", 0.8)):
            build(folder, name, seed, final=final + 0.004 * seed)
    return build_report(folder).as_uri()


def opened(chromium: Any, address: str, width: int, **options: Any) -> tuple[Any, list[str]]:
    """A page of that width, and what it complained about or asked for beside itself."""
    page, heard = chromium.new_page(viewport={"width": width, "height": 800}, **options), []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: heard.append(request.url) if request.url != address else None)
    page.goto(address)
    return page, heard


def widths(page: Any) -> tuple[int, int]:
    found = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    return int(found[0]), int(found[1])


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_screen_even_opened(chromium: Any, address: str, width: int) -> None:
    page, heard = opened(chromium, address, width)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    content, screen = widths(page)
    assert content <= screen, "wide tables scroll in their own frame"
    assert heard == []
    page.close()


def test_a_printed_page_shows_the_tables_whole_and_on_white(chromium: Any, address: str) -> None:
    page, _ = opened(chromium, address, 700, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    cut = page.evaluate(
        "[...document.querySelectorAll('table')].filter(one => one.checkVisibility() &&"
        " one.getBoundingClientRect().right > innerWidth).map(one => one.className)"
    )
    assert cut == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_lines_stand_out_from_the_paper_in_both_themes(chromium: Any, address: str, scheme: str) -> None:
    """The contrast ratios of WCAG 2.2: 4.5 for texts, 3 for what a chart draws."""
    page, _ = opened(chromium, address, 1280, color_scheme=scheme)
    names = ["--paper", "--raised", "--ink", "--muted", *(f"--series-{i}" for i in range(6))]
    read = "names => names.map(name => getComputedStyle(document.documentElement).getPropertyValue(name).trim())"
    paper, raised, ink, muted, *series = (luminance(colour) for colour in page.evaluate(read, names))
    assert all(contrast(text, back) >= 4.5 for text in (ink, muted) for back in (paper, raised))
    assert all(contrast(line, paper) >= 3 for line in series)
    text = page.locator("svg text").first.evaluate("one => getComputedStyle(one).fill")
    assert contrast(luminance_of([int(part) for part in text[4:-1].split(",")]), paper) >= 4.5
    page.close()


def luminance(colour: str) -> float:
    """Of '#rrggbb'."""
    return luminance_of([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def luminance_of(parts: list[int]) -> float:
    linear = [p / 255 / 12.92 if p / 255 <= 0.04045 else ((p / 255 + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: float, other: float) -> float:
    high, low = max(one, other), min(one, other)
    return (high + 0.05) / (low + 0.05)
