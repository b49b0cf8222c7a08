"""What the tests of the labelling page in a browser share: what it shows and what is on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from page_help import LABELS, QUESTIONS, examples

from guidestar.store import Store

IDS = list(examples(QUESTIONS))
NAMES = list(LABELS)
Page = Any


def shown(page: Page, text: str) -> None:
    """Wait until this is the example that is shown."""
    page.wait_for_function(
        "text => document.querySelector('#work:not([hidden]) #fields .text')?.textContent === text", arg=text
    )


def all_saved(page: Page) -> None:
    page.wait_for_function(
        "() => !Object.keys(localStorage).some((key) => key.includes(':out:')) && document.getElementById('saving').textContent === ''"
    )


def said(page: Page, id: str) -> str:
    return str(page.inner_text(f"#{id}")).replace("\xa0", " ")


def answers(run: Path) -> dict[str, Any]:
    with Store.open(run) as store:
        return store.annotations.answers()


def log(run: Path) -> list[Any]:
    with Store.open(run) as store:
        return [entry.annotation for entry in store.annotations.history()]
