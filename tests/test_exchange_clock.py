"""What one person says at several times: the newest by its own time counts, whatever file it comes in and how it is written."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_exchange import make_example, state
from test_exchange import make_run as run_of
from test_exchange import write as write_lines

from guidestar.cli import main
from guidestar.errors import DataError
from guidestar.exchange import import_file
from guidestar.exchange.rows import moment
from guidestar.records import Label, Skip, Undo
from guidestar.store import Store

TEXT = "The sound is superb."
EXAMPLE = make_example({"text": TEXT})
FINE = EXAMPLE.id


def make_run(folder: Path) -> Path:
    return run_of(folder, [EXAMPLE], ("positive", "negative"))


def write(path: Path, records: Sequence[Any]) -> Path:
    if path.suffix == ".jsonl":
        return write_lines(path, records)
    path.write_text(json.dumps(records))
    return path


def said(run: Path) -> dict[str, Any]:
    """Example -> annotator -> their label."""
    return {id: {who: a.answer for who, a in by.items()} for id, by in state(run)["by"].items()}


SPELLINGS: list[Callable[[datetime], str]] = [
    lambda t: t.isoformat(),
    lambda t: t.isoformat().replace("+00:00", "Z"),
    lambda t: t.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat(sep=" "),
    lambda t: t.replace(tzinfo=None).isoformat(),
    lambda t: str(t.timestamp()),
    lambda t: str(int(t.timestamp() * 1000)),
    lambda t: str(int(t.timestamp()) * 10**9),
    lambda t: t.strftime("%Y%m%d%H%M%S"),
    lambda t: t.strftime("%Y%m%dT%H%M%SZ"),
    lambda t: t.astimezone(timezone(timedelta(hours=-9))).strftime("%Y-%m-%d %H:%M:%S%z"),
]
SAYS = st.tuples(st.sampled_from(["positive", "negative", None]), st.integers(0, 4), st.sampled_from(SPELLINGS))


def task_of(said: Sequence[tuple[str | None, str]]) -> dict[str, Any]:
    """A Label Studio task with what one person said at some times."""
    return {
        "data": {"text": TEXT},
        "annotations": [
            {
                "result": [{"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [answer]}}]
                if answer
                else [],
                "was_cancelled": answer is None,
                "completed_by": "ann",
                "created_at": at,
            }
            for answer, at in said
        ],
    }


@settings(max_examples=25, deadline=None)
@given(said=st.lists(SAYS, min_size=1, max_size=6, unique_by=lambda s: s[1]), cuts=st.lists(st.booleans(), max_size=6))
def test_the_newest_by_its_own_time_counts_in_whatever_files_and_order_it_comes(
    said: list[tuple[str | None, int, Callable[[datetime], str]]], cuts: list[bool]
) -> None:
    start = datetime(2024, 3, 31, 1, 30, tzinfo=UTC)
    timed = [(answer, spell(start + timedelta(minutes=30 * n))) for answer, n, spell in said]
    files: list[list[tuple[str | None, str]]] = [[]]
    for i, one in enumerate(timed):
        files[-1].append(one)
        if i < len(cuts) and cuts[i]:
            files.append([])
    with tempfile.TemporaryDirectory() as place:
        run = make_run(Path(place))
        for file in [*files, *files]:  # the second time, nothing is new
            if file:
                counts = import_file(run, write(Path(place, "ls.json"), [task_of(file)]), pool=())
        assert counts["new"] == 0
        newest = max(said, key=lambda s: s[1])[0]
        with Store.open(run) as store:
            given = store.annotations.by_annotator()[FINE]["ann"]
        assert given == (Skip("", "ann") if newest is None else Label(newest, "ann"))


@pytest.mark.parametrize("spell", SPELLINGS)
def test_the_same_moment_is_not_newer_however_it_is_written(tmp_path: Path, spell: Callable[[datetime], str]) -> None:
    run, then = make_run(tmp_path / "run"), datetime(2024, 6, 1, 10, tzinfo=UTC)
    import_file(run, write(tmp_path / "a.json", [task_of([("positive", "2024-06-01T10:00:00Z")])]), pool=())
    counts = import_file(run, write(tmp_path / "b.json", [task_of([("negative", spell(then))])]), pool=())
    assert (counts["new"], counts["changed_since"]) == (0, 1)
    assert said(run)[FINE] == {"ann": "positive"}


@pytest.mark.parametrize(
    ("at", "message"),
    [("06/01/2024 10:00", "cannot be read; allowed: ISO 8601"), ("yesterday", "cannot be read"), ("nan", "cannot be read"),
     ("2099-01-01T00:00:00Z", "lies in the future"), ("17172360000", "lies in the future")],
)  # fmt: skip
def test_a_time_that_nobody_can_have_meant_is_refused(tmp_path: Path, at: str, message: str) -> None:
    """As "now" it would replace what is newer; from the future it would hold against everything that follows."""
    run = make_run(tmp_path / "run")
    with pytest.raises(DataError, match=message):
        import_file(run, write(tmp_path / "a.json", [task_of([("positive", at)])]), pool=())
    assert not said(run)


def test_a_date_alone_is_no_number_of_seconds() -> None:
    assert moment("20240601") == moment("2024-06-01") == datetime(2024, 6, 1, tzinfo=UTC)


def test_what_was_taken_back_here_does_not_return_with_an_older_file(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with Store.open(run) as store:
        store.annotations.add_many([(FINE, Label("positive", "ann"), None, "page"), (FINE, Undo("ann"), None, "page")])
    import_file(run, write(tmp_path / "a.json", [task_of([("positive", "2024-06-01T10:00:00Z")])]), pool=())
    assert FINE not in said(run)


def test_a_correction_without_a_time_is_refused_and_one_with_a_time_is_history(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    line = {"text": TEXT, "options": [], "answer": "accept", "_annotator_id": "d-ann"}
    lines = [{**line, "accept": ["positive"]}, {**line, "accept": ["negative"]}]
    with pytest.raises(DataError, match=r"line 2: two different answers of d-ann .* no time tells which is newer"):
        import_file(run, write(tmp_path / "p.jsonl", lines), pool=())
    timed = [{**one, "_timestamp": 200 - 100 * i} for i, one in enumerate(lines)]
    import_file(run, write(tmp_path / "p.jsonl", timed), pool=())
    assert said(run)[FINE] == {"d-ann": "positive"}
    with Store.open(run) as store:
        assert [e.annotation for e in store.annotations.history()] == [
            Label("negative", "d-ann"),
            Label("positive", "d-ann"),
        ]
        assert store.annotations.history()[-1].at == "1970-01-01T00:03:20+00:00"


def test_prodigy_rejects_a_choice_as_a_whole_and_a_binary_label_for_the_other(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    line = {"text": TEXT, "answer": "reject", "_annotator_id": "d-ann"}
    for accept in (["positive"], []):
        file = write(tmp_path / "p.jsonl", [{**line, "options": [{"id": "positive"}], "accept": accept}])
        counts = import_file(run, file, pool=())
        assert (counts["new"], counts["rejected"], counts["without_answer"]) == (0, 1, 0)
    import_file(run, write(tmp_path / "q.jsonl", [{**line, "label": "positive"}]), pool=())
    assert said(run)[FINE] == {"d-ann": "negative"}


def test_a_file_that_says_nothing_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    nothing: Sequence[tuple[str, list[Any], str]] = (
        ("a.jsonl", [{"text": TEXT, "mood": "positive"}], "no answer was found"),
        ("b.json", [], "no rows"),
    )
    for name, records, said in nothing:
        file = write(tmp_path / name, records)
        assert main(["import", str(run), str(file), "--format", "doccano", "--quiet"]) == 3
        assert said in capsys.readouterr().err


@given(st.one_of(st.text(max_size=30), st.floats().map(str), st.integers().map(str), st.datetimes().map(str)))
def test_any_text_is_a_moment_or_none(text: str) -> None:
    found = moment(text)
    assert found is None or found.tzinfo is UTC
