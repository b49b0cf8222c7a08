"""Every source that the code names is in docs/bibliography.md, and so is every source of a strategy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import guidestar
from guidestar.query import standing
from guidestar.query.standing import NOT_STUDIED, evidence
from guidestar.query.strategies import STRATEGIES
from tools.choosing import page
from tools.evidence import RESULTS, text
from tools.evidence import evidence as collected

DOCS = Path(__file__).parent.parent / "docs"
PACKAGE = Path(guidestar.__file__).parent
# key -> (what the entry says of authors, year)
ENTRIES = {
    key: (authors, int(year))
    for key, authors, year in re.findall(
        r'<a id="(\w+)"></a>\*\*\1\*\* (.+?)\. (\d{4})\. \*', (DOCS / "bibliography.md").read_text(encoding="utf-8")
    )
}


def sources() -> list[tuple[str, str]]:
    """(file, sentence) of every "Source:" and "Sources:" in the package; those of exchange/ are other tools' documents."""
    found = []
    for file in sorted(set(PACKAGE.rglob("*.py")) - set(PACKAGE.glob("exchange/*"))):
        for block in re.findall(r"Sources?: ((?:[^\n\"]+\n?)+)", file.read_text(encoding="utf-8")):
            found.append((str(file.relative_to(PACKAGE)), " ".join(block.split())))
    return found


def test_every_source_of_the_code_is_listed() -> None:
    unknown, met = [], 0
    for file, sentence in sources():
        for year in map(int, re.findall(r"(?<![\d./])(1[89]\d\d|20\d\d)(?![\d.]\d)", sentence)):
            met += 1
            names = [
                name for authors, y in ENTRIES.values() if y == year for name in re.findall(r"[\w'-]{3,}", authors)
            ]
            if not any(name in sentence for name in names):
                unknown.append(f"{file}: {year} in {sentence[:90]!r}")
    assert met > 80, "the search finds sources"
    assert not unknown, "add to docs/bibliography.md:\n" + "\n".join(unknown)


def test_keys_are_surname_and_year() -> None:
    text_ = (DOCS / "bibliography.md").read_text(encoding="utf-8")
    assert len(ENTRIES) == text_.count('<a id="'), "every entry can be read, and no key stands twice"
    assert all(key.rstrip("b").endswith(str(year)) for key, (_, year) in ENTRIES.items())


def test_every_source_of_a_strategy_exists() -> None:
    assert {one.source for one in STRATEGIES.values() if one.source} <= ENTRIES.keys()


def test_the_kept_evidence_is_that_of_the_results() -> None:
    kept = standing.EVIDENCE.read_text(encoding="utf-8")
    assert kept == text(collected(RESULTS / "studies")), "python -m tools.docs docs writes it anew"
    assert all(one["verdict"] == "too few seeds" for one in json.loads(kept)["comparisons"] if one["seeds"] < 5)


def test_evidence_is_a_number_or_none_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {
        "strategy": "star", "study": "s", "dataset": "d", "model": "m", "peft": "lora", "control": "random",
        "labels": [10, 50], "seeds": 10, "difference": 0.031, "low": 0.012, "high": 0.05, "verdict": "gain",
    }  # fmt: skip
    rows = [one, one | {"dataset": "e", "verdict": "no evidence"}, one | {"strategy": "mc", "verdict": "no evidence"}]
    monkeypatch.setattr(standing, "measured", lambda: rows)
    assert evidence("star") == (
        "gain on d with m, lora (+3.1 points of area beside random, +1.2 to +5.0, 10 seeds); nothing shown in 1 more"
    )
    assert evidence("mc") == "none yet: no gain and no harm shown in 1 setting, at most 10 seeds each"
    assert evidence("cal") == NOT_STUDIED
    assert evidence("random") == "the control of every comparison"


def test_which_one_to_take_fits_a_screen() -> None:
    shown = page()
    assert (DOCS / "how-to-choose.md").read_text(encoding="utf-8") == shown, "python -m tools.docs docs writes it anew"
    assert len(shown.splitlines()) <= 45
    assert "Which one do I take?" in shown.splitlines()[0]
