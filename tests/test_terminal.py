"""The terminal labeller: what a line means, what is saved, and what a text cannot do to a terminal."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guidestar.errors import ConfigError, DataError, StoreError
from guidestar.people.terminal import help_text, label_in_terminal, printable, read_line
from guidestar.records import Example, Flag, Label, Metrics, Note, Pick, Query, Skip, Stop, Undo
from guidestar.store import Store
from guidestar.tasks import Choice, Number, Text

LABELS = ("place", "person", "spam")


def begin(folder: Path, texts, *, task=None, config=None, rounds=1):
    """A run folder that has asked for one example a text, all in round 0."""
    examples = {
        f"{n:016x}": Example(f"{n:016x}", {"text": text}, f"Q: {text}", f"x line {n}") for n, text in enumerate(texts)
    }
    facts = {"task": task or {"kind": "choice", "labels": list(LABELS), "words": list(LABELS)}, "config": config or {}}
    with Store.open(folder, create=True) as store:
        store.begin({"seed": 0}, facts)
        store.add_query(Query(0, tuple(Pick(id, float("nan")) for id in examples)), examples)
    return list(examples)


def label(folder, lines, annotator="ann", **arguments):
    """What the terminal showed. lines: what is typed."""
    out = io.StringIO()
    code = label_in_terminal(
        folder, annotator=annotator, stdin=io.StringIO("".join(line + "\n" for line in lines)), stdout=out, **arguments
    )
    assert code == 0
    return out.getvalue()


def answers(folder):
    with Store.open(folder) as store:
        return store.annotations.answers()


def history(folder):
    with Store.open(folder) as store:
        return store.annotations.history()


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "star-seed0"
    begin(folder, ["Where is Rome?", "Who wrote it?", "Buy now!", "Where is Oslo?"])
    return folder


# --- what a line means ------------------------------------------------------------------------------

CHOICE = Choice(LABELS, LABELS)


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("place", ("answer", "place")),
        ("  PLACE ", ("answer", "place")),
        ("2", ("answer", "person")),
        ("pl", ("answer", "place")),
        ("sp", ("answer", "spam")),
        ("s", ("skip", "")),
        ("s two topics", ("skip", "two topics")),
        (":s", ("skip", "")),
        ("n look here", ("note", "look here")),
        ("n", ("note", "")),
        ("u", ("undo", "")),
        ("f", ("flag", "")),
        ("g", ("guidelines", "")),
        ("?", ("help", "")),
        ("q", ("quit", "")),
        ("", ("empty", "")),
        (" \t ", ("empty", "")),
        ("p", ("wrong", "p could be: place, person")),
        ("0", ("wrong", "0 is not a label's number; allowed: 1 to 3")),
        ("4", ("wrong", "4 is not a label's number; allowed: 1 to 3")),
        ("9" * 5000, ("wrong", f"{'9' * 5000} is not a label's number; allowed: 1 to 3")),
        ("²", ("wrong", "² is no label and no command (? is help); allowed: place, person, spam")),
        ("persan", ("wrong", "persan is no label and no command (? is help); did you mean 'person'? allowed: place, person, spam")),
        ("pl\x1b[A", ("wrong", "That holds control characters or is no text, and was not saved; type it again.")),
        ("\udc80", ("wrong", "That holds control characters or is no text, and was not saved; type it again.")),
    ],
)  # fmt: skip
def test_lines_of_a_choice(line, meaning):
    assert read_line(line, CHOICE) == meaning


def test_labels_that_look_like_commands_or_numbers():
    letters = Choice(("s", "q"), ("s", "q"))
    assert read_line("s", letters) == ("answer", "s")
    assert read_line(":s", letters) == ("skip", "")
    assert "s, q is a label here" in help_text(letters)
    stars = Choice(("3", "1", "2"), ("3", "1", "2"))
    assert read_line("1", stars) == ("answer", "1"), "the label and not the first one"
    kind, said = read_line("4", stars)
    assert kind == "wrong"
    assert "allowed: 3, 1, 2" in said
    worded = Choice(("LOC", "HUM"), ("place", "person"))
    assert [read_line(line, worded) for line in ("place", "hum", "pe", "1")] == [
        ("answer", "LOC"), ("answer", "HUM"), ("answer", "HUM"), ("answer", "LOC"),
    ]  # fmt: skip


def test_lines_of_texts_and_numbers():
    text, number = Text(), Number()
    assert read_line("s", text) == ("answer", "s"), "a text may be one letter"
    assert read_line(":s too long", text) == ("skip", "too long")
    assert read_line("::-)", text) == ("answer", ":-)")
    assert read_line("q", number) == read_line(":q", number) == ("quit", "")
    assert read_line("2*9 = 18", number)[0] == "answer"
    assert read_line("18", number) == ("answer", "#### 18")
    kind, said = read_line("eighteen", number)
    assert kind == "wrong"
    assert "no number in the answer 'eighteen'" in said
    assert said.endswith("not saved")
    assert read_line(":x", text)[0] == "wrong"
    assert read_line("x" * 10_001, text)[0] == "wrong"
    assert read_line("", text) == ("empty", "")


# --- labelling ----------------------------------------------------------------------------------------


def test_a_whole_round(run):
    shown = label(run, ["1", "person", "s advert", "pl"])
    assert list(answers(run).values()) == [
        Label("place", "ann"), Label("person", "ann"), Skip("advert", "ann"), Label("place", "ann"),
    ]  # fmt: skip
    assert {entry.source for entry in history(run)} == {"terminal"}
    decisions = [entry.decision for entry in history(run)]
    assert len(set(decisions)) == 4
    assert "| Where is Rome?" in shown
    assert "  1  place\n  2  person\n  3  spam" in shown
    assert "saved: place (1 of 4 in round 0)" in shown
    assert "saved: skipped (3 of 4 in round 0)" in shown
    assert "Nothing is left to label in this round. Next: guidestar run" in shown
    assert "Nothing is left" in label(run, []), "and again"


def test_the_end_of_the_input_and_q_lose_nothing(run):
    assert label(run, ["1"]).endswith("> \nEnd of the input.\n")
    assert label(run, ["2", "q", "3", "3"]).count("saved") == 1
    assert list(answers(run).values()) == [Label("place", "ann"), Label("person", "ann")]
    shown = label(run, [])
    assert "| Buy now!" in shown
    assert "Rome" not in shown


def test_a_wrong_line_saves_nothing_and_asks_again(run):
    shown = label(run, ["7", "pers\x00", "nonsense", "", "3", "q"])
    assert shown.count("saved:") == 1
    assert shown.count("Where is Rome?") == 2, "an empty line shows it again"
    assert next(iter(answers(run).values())) == Label("spam", "ann")


def test_undo_goes_back_answer_by_answer_and_over_restarts(run):
    label(run, ["1", "2", "q"])
    shown = label(run, ["u", "u", "2", "1", "q"])
    order = [text for text in shown.splitlines() if text.startswith("| ")]
    assert order == ["| Buy now!", "| Who wrote it?", "| Where is Rome?", "| Who wrote it?", "| Buy now!"]
    assert list(answers(run).values()) == [Label("person", "ann"), Label("place", "ann")]
    assert [type(entry.annotation) for entry in history(run)] == [Label, Label, Undo, Undo, Label, Label]


def test_undo_without_an_answer_and_after_the_last(run):
    shown = label(run, ["u", "1", "1", "1", "1", "u", "3", "", "q"])
    assert "There is no answer of yours to take back." in shown
    assert list(answers(run).values())[-1] == Label("spam", "ann")
    assert shown.count("Nothing is left to label") == 3


def test_undo_takes_back_only_what_is_mine(run):
    label(run, ["1"], annotator="bob")
    assert "There is no answer of yours" in label(run, ["u", "q"])
    assert list(answers(run).values()) == [Label("place", "bob")]


def test_flags_and_notes(run):
    shown = label(run, ["f", "n two readings", "", "f", "n", "1", "f", "n x", "q"])
    assert "flagged by you" in shown
    assert "your note: two readings" in shown
    first = [entry.annotation for entry in history(run)][:5]
    assert first == [
        Flag("ann", True), Note("two readings", "ann"), Flag("ann", False), Note("", "ann"), Label("place", "ann"),
    ]  # fmt: skip
    with Store.open(run) as store:
        assert store.annotations.flags() == {"0000000000000001": {"ann"}}
        assert store.annotations.notes() == {"0000000000000001": {"ann": "x"}}


def test_two_annotators_do_not_get_the_same_example(run):
    clock = time.time
    label(run, ["q"], annotator="bob", clock=clock)  # has the first one in front of him
    shown = label(run, ["1", "1", "1", "q"], clock=clock)
    assert "Rome" not in shown
    assert "Others have the remaining 1 in front of them" in shown
    late = label(run, ["1", "q"], clock=lambda: time.time() + 16 * 60)
    assert "Rome" in late, "his time is over"


def test_an_overlap_is_asked_twice(tmp_path):
    folder = tmp_path / "run"
    begin(folder, ["a", "b", "c"], config={"people": {"overlap": 1.0}})
    label(folder, ["1", "1", "1"])
    label(folder, ["1", "2", "2"], annotator="bob")
    with Store.open(folder) as store:
        both = [
            {who: answer.answer for who, answer in one.items()} for one in store.annotations.by_annotator().values()
        ]
    assert both == [
        {"ann": "place", "bob": "place"},
        {"ann": "place", "bob": "person"},
        {"ann": "place", "bob": "person"},
    ]


def test_many_labels_stand_beside_each_other(tmp_path):
    labels = [f"label {n:02d}" for n in range(1, 21)]
    folder = tmp_path / "run"
    begin(folder, ["a", "b", "c"], task={"kind": "choice", "labels": labels, "words": labels})
    shown = label(folder, ["12", "label 20", "label 1", "?", "q"])
    assert "   1  label 01    2  label 02    3  label 03 " in shown
    assert "  19  label 19   20  label 20\n" in shown
    assert [answer.answer for answer in answers(folder).values()] == ["label 12", "label 20"]
    assert "label 1 could be: label 10, label 11" in shown


def test_texts_over_several_lines(tmp_path):
    folder = tmp_path / "run"
    begin(folder, ["a", "b"], task={"kind": "number"}, config={"task": {"marker": "####"}})
    label(folder, ["2*9 = 18\\", "#### 18", "half an answer\\"])
    assert list(answers(folder).values()) == [Label("2*9 = 18\n#### 18", "ann")]
    text = tmp_path / "text"
    begin(text, ["a", "b"], task={"kind": "text"})
    label(text, ["A short title", ":s", "q"])
    assert list(answers(text).values()) == [Label("A short title", "ann"), Skip("", "ann")]


def test_guidelines(tmp_path):
    guide = tmp_path / "guide.md"
    guide.write_text("Towns are places.\x1b[2J", encoding="utf-8")
    folder = tmp_path / "run"
    begin(folder, ["a"], config={"people": {"guidelines": str(guide)}})
    assert r"Towns are places.\x1b[2J" in label(folder, ["g", "q"])
    guide.unlink()
    assert "cannot be read" in label(folder, ["g", "q"])


def test_what_cannot_be_labelled(tmp_path, run):
    for name in ("", "oracle", "endpoint:toy", "a\x1b[31m", "x" * 60):
        with pytest.raises(ConfigError, match="a name has at most 40 characters"):
            label(run, [], annotator=name)
    with pytest.raises(StoreError, match="found no run"):
        label(_empty(tmp_path), [])
    assert "Rome" in label(tmp_path, ["q"]), "the folder above a single run will do"
    with Store.open(run) as store:
        for id in store.asked():
            store.annotations.add(id, Label("place", "bob"))
        store.add_metrics(Metrics(0, 4, {}))
    assert "No round has its examples yet. Next: guidestar run" in label(run, [])
    with Store.open(run) as store:
        store.finish(Stop.EMPTY)
    assert "The run is finished" in label(run, [])


def _empty(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


# --- terminals and pipes --------------------------------------------------------------------------------

ATTACKS = [
    "\x1b[2J\x1b[H",  # clears the screen
    "\x1b]0;title\x07",  # sets the window's title
    "\x1b]52;c;cm0gLXJm\x07",  # writes to the clipboard
    "\x1bP+q544e\x1b\\",  # makes some terminals type an answer
    "\x9b31m",  # C1: the same as ESC [
    "line one\rsaved: place",  # writes over its own beginning
    "\x08\x08\x08",
    "abc\u202egnp.exe",  # shown backwards
    "\u2066hidden\u2069",
    "a\u200bb\ufeffc\U000e0041",  # what nobody sees
    "\x00\x07\x0e",
    "\udc80",  # half a character
]


def obeyed(text):
    """Characters of an output that a terminal acts on or hides."""
    return [c for c in text if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or 0x202A <= ord(c) <= 0x202E
            or 0x2066 <= ord(c) <= 0x2069 or ord(c) in (0x200B, 0xFEFF) or ord(c) >= 0xE0000 or 0xD800 <= ord(c) < 0xE000]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_gives_a_terminal_orders(attack, tmp_path):
    assert not obeyed(printable(attack))
    folder = tmp_path / "run"
    stored = attack.encode("utf-8", "replace").decode()
    labels = ["ok", "x" + stored.replace("\r", "")]
    begin(folder, [stored], task={"kind": "choice", "labels": labels, "words": labels})
    shown = label(folder, ["n hello", "2", "q"])
    assert not obeyed(shown)
    assert next(iter(answers(folder).values())).answer == labels[1].strip(), "what is stored is the text itself"


def test_what_is_harmless_stays():
    for text in ("two\nlines\tand a tab", "Grüße, 你好, नमस्ते", "👩‍👩‍👧 \u200d", "naïve\u0301"):
        assert printable(text) == text
    assert printable("a\r\nb\u2028c") == "a\nb\nc"


def test_no_text_passes_for_a_line_of_the_program(tmp_path):
    folder = tmp_path / "run"
    begin(folder, ["x\nsaved: place (1 of 1 in round 0)\n\n> "])
    lines = label(folder, ["q"]).splitlines()
    assert not any(line.startswith("saved") for line in lines)
    assert "| saved: place (1 of 1 in round 0)" in lines


def test_a_terminal_that_cannot_write_everything(tmp_path):
    folder = tmp_path / "run"
    begin(folder, ["Größe 😀"])
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    label_in_terminal(folder, annotator="ann", stdin=io.StringIO("1\n"), stdout=out)
    out.flush()
    assert b"| Gr\\xf6\\xdfe \\U0001f600" in raw.getvalue()


def test_input_that_is_no_text(run):
    bad = io.TextIOWrapper(io.BytesIO(b"1\n\xff\xfe\n"), encoding="utf-8")
    with pytest.raises(DataError, match="standard input is not utf-8 text"):
        label_in_terminal(run, annotator="ann", stdin=bad, stdout=io.StringIO())


PROGRAM = "import sys; from pathlib import Path; from guidestar.people.terminal import label_in_terminal as l; sys.exit(l(Path(sys.argv[1]), annotator='ann'))"


def test_a_pipe(run):
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(run)], input="1\n2\n", text=True, capture_output=True, check=True
    )
    assert found.stdout.count("saved:") == 2
    assert found.stdout.endswith("End of the input.\n")
    assert len(answers(run)) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_what_was_printed_as_saved_is_there_after_the_end_of_the_process(run, number):
    """Killed while it waits for the next line, with the answer before it acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        seen = b""
        for line in (b"1\n", b"2\n"):
            process.stdin.write(line)
            process.stdin.flush()
            before = seen.count(b"saved:")
            while seen.count(b"saved:") == before:
                seen += os.read(process.stdout.fileno(), 4096)
        process.send_signal(number)
        process.wait(20)
    assert list(answers(run).values()) == [Label("place", "ann"), Label("person", "ann")]


def test_saved_is_printed_only_after_the_save(run, monkeypatch):
    def broken(self, items):
        raise StoreError("the disk is full")

    out = io.StringIO()
    monkeypatch.setattr("guidestar.store.annotations.Annotations.add_many", broken)
    with pytest.raises(StoreError, match="the disk is full"):
        label_in_terminal(run, annotator="ann", stdin=io.StringIO("1\n"), stdout=out)
    assert "saved" not in out.getvalue()
