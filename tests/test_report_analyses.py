"""The report's section on probes: what lies in `probes/` is on the page, and nothing is trusted that should not be."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from test_report import HOSTILE, Elements, build

from guidestar.report import build_report
from guidestar.report.analyses import MOST_ROWS, analyses
from guidestar.study.drawing import save_figure


def found_by(run: Path, name: str, sentences: list[str], rows: int = 3) -> None:
    """The files of a probe, as `probes.run.finish` leaves them."""
    place = run / "probes"
    place.mkdir(exist_ok=True)
    table = [[i, HOSTILE if i == 0 else "layer", 0.123456789 * i, None] for i in range(rows)]
    save_figure(place / name, lambda figure: figure.add_subplot().plot([0, 1]), ["row", "name", "value", "rest"], table)
    facts = {"probe": name, "sentences": sentences, "files": []}
    (place / f"{name}.json").write_text(json.dumps(facts), encoding="utf-8")


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    for strategy in ("star", "random"):
        build(tmp_path, strategy, 0)
    return tmp_path


def page_of(folder: Path) -> str:
    return build_report(folder).read_text(encoding="utf-8")


def test_a_report_without_probes_has_no_section_and_allows_no_picture(experiment: Path) -> None:
    page = page_of(experiment)
    assert 'id="analyses"' not in page
    assert "img-src" not in page
    assert "<img" not in page


def test_sentences_pictures_and_tables_are_on_the_page(experiment: Path) -> None:
    found_by(experiment / "star-seed0", "layers", ["Early layers stay.", HOSTILE])
    found_by(experiment / "random-seed0", "picks", ["They share a tenth."])
    assert [(one.run, one.probe) for one in analyses(experiment)] == [
        ("random-seed0", "picks"),
        ("star-seed0", "layers"),
    ]
    page = page_of(experiment)
    elements = Elements(page)
    assert "<script" not in page
    assert sum(HOSTILE in text for text in elements.text) >= 2, "as text: in a sentence, and in a cell of each table"
    assert any("Early layers stay." in text for text in elements.text)
    assert "0.1235" in elements.text
    assert "0.123456789" not in page
    pictures = [attributes for tag, attributes in elements.found if tag == "img"]
    assert len(pictures) == 2
    for picture in pictures:
        assert picture["alt"]
        assert int(str(picture["width"])) == 700, "7 inches at 300 dots, a third of that"
        kind, _, content = str(picture["src"]).partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content).startswith(b"\x89PNG")
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:\"" in page
    assert page_of(experiment) == page


def test_a_run_folder_alone_has_its_own(experiment: Path) -> None:
    found_by(experiment / "star-seed0", "layers", ["Early layers stay."])
    found_by(experiment / "random-seed0", "picks", ["They share a tenth."])
    page = page_of(experiment / "star-seed0")
    assert "Early layers stay." in page
    assert "They share a tenth." not in page


def test_what_is_too_much_is_named_and_left_in_the_folder(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guidestar.report.analyses.MOST_PICTURES", 3)
    for i in range(5):
        found_by(experiment / "star-seed0", f"probe{i}", ["One."], rows=MOST_ROWS + 5 if i == 0 else 1)
    found = analyses(experiment)
    assert sum(len(one.pictures) for one in found) == 3
    assert len(found[0].rows) == MOST_ROWS
    assert found[0].more == [f"The first {MOST_ROWS} of {MOST_ROWS + 5} rows; all are in star-seed0/probes/probe0.csv."]
    assert [bool(one.more) for one in found[-3:]] == [False, True, True]
    assert len(re.findall("<img", page_of(experiment))) == 3


@pytest.mark.parametrize(("name", "content"), [("x.json", "{"), ("x.json", "[]"), ("x.png", "<svg onload=alert(1)>")])
def test_a_damaged_file_does_not_stop_the_report(experiment: Path, name: str, content: str) -> None:
    found_by(experiment / "star-seed0", "x", ["Early layers stay."])
    (experiment / "star-seed0" / "probes" / name).write_text(content, encoding="utf-8")
    (one,) = analyses(experiment)
    assert one.sentences == [
        "probes/x.json or a file beside it cannot be read; guidestar probe star-seed0 x makes it again."
    ]
    assert "onload" not in page_of(experiment)
