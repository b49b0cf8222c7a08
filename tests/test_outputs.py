"""What a command writes replaces an earlier output of the same command, and nothing else, whatever is asked for."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_help import QUESTIONS, make_run
from test_exchange_clock import write

from guidestar.cli import main
from guidestar.errors import ConfigError, StoreError
from guidestar.exchange import FORMATS, export_run
from guidestar.exchange.outward import _is_export
from guidestar.exchange.own_rows import LABELLED, PREDICTED, _is_ours, write_rows
from guidestar.publish.folder import FILES, MARK, _is_published
from guidestar.records import Label
from guidestar.report.page import _is_report
from guidestar.store import Store, files


def whole(folder: Path) -> dict[str, str]:
    """Every file under a folder and its content, as hashes."""
    return {str(p.relative_to(folder)): files.sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An experiment with labels, beside things of its owner's."""
    run = make_run(tmp_path)
    with Store.open(run) as store:
        for e in store.annotations.unanswered(0)[:4]:
            store.annotations.add(e.id, Label("HUM", "ann"))
    (tmp_path / "pool.csv").write_text("text,label\n" + "".join(f"{text},HUM\n" for text in QUESTIONS))
    (tmp_path / "notes.jsonl").write_text('{"text": "years of work"}\n')
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "thesis.txt").write_text("years of work")
    (tmp_path / "link.csv").symlink_to(tmp_path / "pool.csv")
    (tmp_path / "other-name.csv").hardlink_to(tmp_path / "pool.csv")
    (tmp_path / "by-link").symlink_to(run)
    (run / "adapters" / "round-000").mkdir(parents=True)
    (run / "adapters" / "round-000" / "adapter_config.json").write_text("{}")
    return tmp_path


MINE = [
    "questions/star-seed0/run.sqlite", "questions/star-seed0/run.sqlite-wal", "questions/star-seed0/annotations.count",
    "questions/star-seed0/run.lock", "questions/star-seed0/arrays", "questions/star-seed0/adapters",
    "questions/config.yaml", "pool.csv", "notes.jsonl", "study", "study/thesis.txt", "link.csv", "questions/star-seed0",
    "questions/star-seed0/adapters/round-000/adapter_config.json", "questions/star-seed0/arrays/round-009-new.jsonl",
    "by-link/run.sqlite", "by-link/adapters/new.csv", "study/../pool.csv", "other-name.csv",
]  # fmt: skip


@pytest.mark.parametrize("target", MINE)
def test_nothing_of_its_owners_is_written_over(place: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    before, run, out = whole(place), place / "questions" / "star-seed0", str(place / target)
    for format in FORMATS:
        if FORMATS[format].container not in ("parquet", "datasets"):
            assert main(["export", str(run), "--format", format, "--out", out, "--quiet"]) in (2, 3), format
    assert main(["export", str(run), "--log", "--out", out, "--quiet"]) in (2, 3)
    assert main(["publish", str(run), "--out", out, "--quiet"]) == 2
    if target != "questions/config.yaml":  # a configuration is what init writes, and --force says so
        assert main(["init", str(place / "pool.csv"), "--out", out, "--force", "--quiet"]) == 2
    assert main(["report", str(run), "--out", out, "--quiet"]) in (1, 2)
    for names in (LABELLED, PREDICTED):
        with pytest.raises(ConfigError):
            write_rows(["text"], [{"text": "a"}], Path(out), names)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert whole(place) == before
    assert not (place / target).is_symlink() or (place / target).resolve() == place / "pool.csv"


def test_a_table_is_not_written_over_the_file_that_it_is_made_of(place: Path) -> None:
    """Not even where that is an earlier table of ours, by whatever name it is called."""
    out = place / "answers.csv"
    for _ in range(2):
        write_rows(
            ["text", *PREDICTED], [dict.fromkeys(["text", *PREDICTED], "a")], out, PREDICTED, str(place / "pool.csv")
        )
    (place / "same.csv").hardlink_to(out)
    for name in ("answers.csv", "same.csv", "study/../answers.csv"):
        with pytest.raises(ConfigError, match="is the file that is read"):
            write_rows(["text"], [], place / name, PREDICTED, str(out))
    (place / ".answers.csv.part").symlink_to(place / "pool.csv")  # a name that could be guessed is not written through
    before = files.sha256(place / "pool.csv")
    write_rows(["text", *PREDICTED], [], out, PREDICTED)
    assert files.sha256(place / "pool.csv") == before


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_for_which_there_is_no_room_leaves_the_earlier_one(place: Path, suffix: str) -> None:
    """A real limit of the operating system on the size of files."""
    out, rows = place / f"answers{suffix}", [dict.fromkeys(["text", *LABELLED], f"{i}" * 40) for i in range(500)]
    write_rows(["text", *LABELLED], [row | {"round": 1} for row in rows[:2]], out, LABELLED)
    before, there = files.sha256(out), sorted(place.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(StoreError, match="cannot be written"):
            write_rows(["text", *LABELLED], [row | {"round": 1} for row in rows], out, LABELLED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (files.sha256(out), sorted(place.iterdir())) == (before, there)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
CONTENT = (
    st.binary(min_size=5, max_size=80)
    | st.text(min_size=5, max_size=80).map(lambda text: text.encode(errors="replace"))
    | JSON.map(lambda value: json.dumps([value, "of mine"]).encode())
    | st.lists(st.dictionaries(st.text(max_size=8), JSON, min_size=1, max_size=4), min_size=1, max_size=3).map(
        lambda rows: "\n".join(map(json.dumps, rows)).encode()
    )
)


@settings(max_examples=150, deadline=None)
@given(
    content=CONTENT.filter(lambda content: content.strip(b"[] \r\n")),
    suffix=st.sampled_from([".csv", ".jsonl", ".json", ".parquet", ".html", ".yaml", ""]),
)
def test_whatever_lies_there_is_never_taken_for_an_output(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"mine{suffix}")
        path.write_bytes(content)
        for earlier in (
            _is_export,
            _is_report,
            _is_published,
            lambda p: _is_ours(p, LABELLED),
            lambda p: _is_ours(p, PREDICTED),
        ):
            with pytest.raises(ConfigError, match="exists and is not an output"):
                files.check_output(path, earlier, "an output")
        assert path.read_bytes() == content


@pytest.mark.parametrize("format", [name for name in FORMATS if FORMATS[name].container != "datasets"])
def test_an_earlier_export_is_replaced(place: Path, format: str) -> None:
    run = place / "questions" / "star-seed0"
    out = place / f"labels.{FORMATS[format].container}"
    export_run(run, format, out)
    first = files.sha256(out)
    with Store.open(run) as store:
        store.annotations.add(store.annotations.unanswered(0)[0].id, Label("LOC", "ann"))
    export_run(run, format, out)
    assert files.sha256(out) != first
    with pytest.raises(ConfigError, match="is not an export"):
        export_run(run, format, write(place / "mine.jsonl", [{"text": "a", "label": "b"}]))


def test_what_is_empty_or_a_log_is_replaced(place: Path) -> None:
    run, out = place / "questions" / "star-seed0", place / "log.jsonl"
    out.touch()
    for _ in range(2):
        export_run(run, "jsonl", out, log=True)
    assert out.stat().st_size


def _published(folder: Path) -> Path:
    folder.mkdir()
    (folder / "README.md").write_text("card")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    mark = {"kind": "published", FILES: {p.name: files.sha256(p) for p in folder.iterdir()}}
    (folder / MARK).write_text(json.dumps(mark))
    return folder


@pytest.mark.parametrize(
    ("change", "replaced"),
    [
        (lambda folder: None, True),
        (lambda folder: (folder / "README.md").unlink(), True),
        (lambda folder: (folder / "README.md").write_text("written on for a day"), False),
        (lambda folder: (folder / "thesis.txt").write_text("years of work"), False),
        (lambda folder: (folder / "deep").symlink_to(folder.parent), False),
        (lambda folder: (folder / MARK).unlink(), False),
        (lambda folder: (folder / MARK).write_text("{}"), False),
        (lambda folder: (folder / MARK).write_text("[]"), False),
        (lambda folder: (folder / MARK).write_text("no JSON"), False),
        (lambda folder: shutil.copy(folder / "README.md", folder / "copy.md"), False),
    ],
)
def test_only_what_publish_wrote_is_published_over(
    tmp_path: Path, change: Callable[[Path], object], replaced: bool
) -> None:
    folder = _published(tmp_path / "hub")
    change(folder)
    assert _is_published(folder) is replaced


def test_a_folder_of_an_earlier_version_is_known_by_its_weights(tmp_path: Path) -> None:
    folder = _published(tmp_path / "hub")
    weights = {"adapter_model.safetensors": files.sha256(folder / "adapter_model.safetensors")}
    (folder / MARK).write_text(json.dumps({"kind": "published", "sha256": weights}))
    assert _is_published(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"other")
    assert not _is_published(folder)
