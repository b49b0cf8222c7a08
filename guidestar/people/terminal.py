"""Label in a terminal: one example at a time, one line an answer.

What is printed as saved is on the disk. Pool texts are foreign: what a terminal would obey is shown and not sent.
"""

from __future__ import annotations

import sys
import textwrap
import time
import unicodedata
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from guidestar.errors import DataError, allowed
from guidestar.people import queue
from guidestar.people.page import wire
from guidestar.people.page.board import Board
from guidestar.people.page.desk import experiment_of, guidelines_of, people_of
from guidestar.records import Annotation, Example, Flag, Label, Note, Skip, Undo
from guidestar.store import Store, find_run
from guidestar.tasks import Task, several

SOURCE = "terminal"
FEW = 9  # labels up to which each has a line of its own
WIDTH = 100  # characters of a line with several

_COMMANDS = {
    "s": "skip, with a reason if you like: s too short",
    "u": "undo your last answer; again for the one before",
    "f": "flag for a second look, or take the flag away",
    "n": "note: n two topics; n alone removes it",
    "g": "guidelines",
    "?": "this help",
    "q": "quit; everything saved stays saved",
}


def label_in_terminal(
    run: Path,
    *,
    annotator: str,
    stdin: TextIO | None = None,
    stdout: TextIO | None = None,
    clock: Callable[[], float] = time.time,
) -> int:
    """Ask `annotator` for what waits in a run folder, until nothing is left, `q`, or the end of the input. Returns 0.

    stdin, stdout: the process's own if not given; the input may be a pipe or a file. clock: seconds since the epoch.
    Raises ConfigError for a name that cannot be used, StoreError for a folder that is no run, DataError for input
    that is no text.
    """
    name = wire.checked_name(annotator)
    folder = find_run(run)
    with Store.open(folder) as store:
        board = Board(store, people_of(experiment_of(folder), store.facts), clock)
        _Session(board, name, stdin or sys.stdin, stdout or sys.stdout).run()
    return 0


class _Session:
    """A person at a terminal."""

    def __init__(self, board: Board, name: str, stdin: TextIO, stdout: TextIO) -> None:
        self.board, self.name, self.stdin, self.stdout = board, name, stdin, stdout
        self.saved = False  # anything yet
        self.again: list[str] = []  # ids to show before the queue's, the last one first

    def run(self) -> None:
        """Example after example."""
        self.say(f"Labelling as {self.name}. ? is help, q quits.")
        while True:
            if (example := self._next()) is not None:
                if not self._ask(example):
                    return
            elif not self._end():
                return

    def say(self, text: str) -> None:
        """Print, so that the terminal obeys nothing in it and can write all of it."""
        encoding = self.stdout.encoding or "utf-8"
        self.stdout.write(printable(text).encode(encoding, "backslashreplace").decode(encoding) + "\n")
        self.stdout.flush()

    # --- which example ---

    def _next(self) -> Example | None:
        board = self.board
        board.refresh()
        while self.again:
            id = self.again.pop()
            if queue.may_have(board.items[id], self.name, now=board.clock(), lease=board.lease):
                board.claim([id], self.name)
                return board.example(id)
        ids, _ = board.offer(self.name, 1, (), ())
        return board.example(ids[0]) if ids else None

    def _end(self) -> bool:
        """Nothing is left: whether to look again."""
        self.say(self._why_none())
        if not self.saved:
            return False
        self.say("u takes your last answer back, an empty line looks again, q quits.")
        while (line := self._line()) is not None and (kind := line.strip().removeprefix(":")) != "q":
            if not kind or (kind == "u" and self._undo()):
                return True
        return False

    def _why_none(self) -> str:
        board = self.board
        if board.store.finished() is not None:
            return "The run is finished: nothing is left to label."
        open_ones = board.unanswered()
        waiting, seconds = queue.held_by_others(open_ones, self.name, now=board.clock(), lease=board.lease)
        if waiting and seconds is not None:
            return f"Others have the remaining {waiting} in front of them, for at most {seconds / 60:.0f} more minutes."
        where = "Nothing is left to label in this round." if board.asks else "No round has its examples yet."
        return f"{where} Next: guidestar run {board.store.folder.parent}"

    # --- one example ---

    def _ask(self, example: Example) -> bool:
        """Show it and read lines until it has an answer; False to quit."""
        self._show(example)
        while (line := self._line()) is not None:
            kind, text = read_line(line, self.board.task)
            if kind == "quit":
                return False
            if kind in ("answer", "skip"):
                answer = Label(text, self.name) if kind == "answer" else Skip(text, self.name)
                self._save(example, answer, f"saved: {text if kind == 'answer' else 'skipped'}{self._where(example)}")
                return True
            if kind == "undo":
                if self._undo(example):
                    return True
                continue
            self._other(kind, text, example)
        self.say("\nEnd of the input.")
        return False

    def _line(self) -> str | None:
        """What was typed, lines that end in a backslash joined; None at the end of the input."""
        self.stdout.write("> ")
        self.stdout.flush()
        lines: list[str] = []
        try:
            while line := self.stdin.readline():
                joined = line.rstrip("\r\n")
                if self.board.task.classes or not joined.endswith("\\"):
                    return "\n".join([*lines, joined])
                lines.append(joined[:-1])
        except UnicodeDecodeError as error:
            raise DataError(f"standard input is not {error.encoding} text: {error.reason}") from None
        return None  # a last line that was to go on is no answer

    def _other(self, kind: str, text: str, example: Example) -> None:
        """What leaves the example without an answer."""
        if kind == "flag":
            on = self.name not in self.board.store.annotations.flags().get(example.id, ())
            self._save(example, Flag(self.name, on), "saved: flagged" if on else "saved: flag taken away")
        elif kind == "note":
            self._save(example, Note(text, self.name), "saved: noted" if text else "saved: note removed")
        elif kind == "help":
            self.say(help_text(self.board.task))
        elif kind == "guidelines":
            self.say(guidelines_of(self.board.people) or "This run has no guidelines (people.guidelines).")
        elif kind == "wrong":
            self.say(text)
        else:
            self._show(example)

    def _undo(self, before: Example | None = None) -> bool:
        """Take back the annotator's latest answer, and ask for it, before `before`; False when there is none."""
        self.board.refresh()
        mine = {id for id, who in self.board.replay.current.items() if self.name in who and id in self.board.items}
        for entry in reversed(self.board.store.annotations.history()):
            said = entry.annotation
            if entry.id in mine and said.annotator == self.name and isinstance(said, Label | Skip):
                self._save(self.board.example(entry.id), Undo(self.name), "saved: your last answer is taken back")
                self.again += [before.id, entry.id] if before else [entry.id]
                return True
        self.say("There is no answer of yours to take back.")
        return False

    def _save(self, example: Example, annotation: Annotation, done: str) -> None:
        self.board.save([(example.id, annotation, str(uuid.uuid4()), SOURCE)])  # it is on the disk when this returns
        self.saved = True
        self.say(done)

    def _where(self, example: Example) -> str:
        """How far the example's round is once it has its answer."""
        item = self.board.items.get(example.id)
        if item is None:
            return ""
        asked = sum(other.round == item.round for other in self.board.items.values())
        left = self.board.left[item.round] - (not item.done)
        return f" ({asked - left} of {asked} in round {item.round})"

    def _show(self, example: Example) -> None:
        notes = self.board.store.annotations.notes().get(example.id, {})
        flagged = self.name in self.board.store.annotations.flags().get(example.id, ())
        lines = ["", "-" * 40]
        for name, text in example.fields.items():
            # Behind a bar, so that no text can pass for a line of this program.
            body = textwrap.indent(printable(text), "| ", lambda line: True) or "|"
            lines += [f"{name}:", body] if len(example.fields) > 1 else [body]
        if self.name in notes:
            lines.append(f"your note: {notes[self.name]}")
        if flagged:
            lines.append("flagged by you")
        self.say("\n".join([*lines, "", _menu(self.board.task)]))


# --- pure parts ---------------------------------------------------------------------------------


def read_line(line: str, task: Task) -> tuple[str, str]:
    """What a line means: ("answer", canonical answer), ("skip", reason), ("note", text),
    ("undo" | "flag" | "guidelines" | "help" | "quit" | "empty", ""), or ("wrong", what to say).

    A choice is answered by its label or word, its number, or a beginning that only one label has; a command comes
    before a beginning. Where the answer is text, commands need a colon (":s"), and "::" is a text that begins with one.
    >>> from guidestar.tasks import Choice
    >>> task = Choice(("place", "person", "spam"), ("place", "person", "spam"))
    >>> [read_line(line, task) for line in ("2", "pl", "s", "sp", "p")]
    ... # doctest: +NORMALIZE_WHITESPACE
    [('answer', 'person'), ('answer', 'place'), ('skip', ''), ('answer', 'spam'),
     ('wrong', 'p could be: place, person')]
    """
    text = line.strip()
    if not text:
        return "empty", ""
    if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in text):
        return "wrong", "That holds control characters or is no text, and was not saved; type it again."
    if len(text) > wire.TEXT:
        return "wrong", f"That has {len(text)} characters and was not saved; allowed: up to {wire.TEXT}."
    if task.classes:
        return _read_choice(text, task)
    if text.startswith("::"):
        text = text[1:]
    elif (found := _command(text[1:] if text.startswith(":") else text)) is not None:
        if text.startswith(":") or not task.any_text:
            return found
    elif text.startswith(":"):
        return "wrong", f"{text} is no command; ? is help, and a text that begins with a colon is written ::"
    return _canonical(text, task)


def _read_choice(text: str, task: Task) -> tuple[str, str]:
    said = text.casefold()
    names = {name.casefold() for name in (*task.labels, *task.words)}
    if said in names:
        return _canonical(text, task)
    if _numbered(task) and text.isascii() and text.isdigit():
        number = int(text) if len(text) < 5 else 0
        if 1 <= number <= len(task.labels):
            return "answer", task.labels[number - 1]
        return "wrong", f"{text} is not a label's number; allowed: 1 to {len(task.labels)}"
    if (found := _command(text.removeprefix(":"))) is not None:
        return found
    pairs = zip(task.labels, task.words, strict=True)
    near = [label for label, word in pairs if label.casefold().startswith(said) or word.casefold().startswith(said)]
    if len(near) == 1:
        return "answer", near[0]
    if near:
        return "wrong", f"{text} could be: {', '.join(near)}"
    return "wrong", f"{text} is no label and no command (? is help); {allowed(task.labels, text)}"


def _canonical(text: str, task: Task) -> tuple[str, str]:
    try:
        return "answer", task.parse_gold(text, "answer")
    except DataError as error:
        return "wrong", f"{error}; not saved"


def _command(text: str) -> tuple[str, str] | None:
    letter, _, rest = text.partition(" ")
    rest = rest.strip()
    if letter in ("s", "n"):
        return ("skip" if letter == "s" else "note"), rest
    alone = {"u": "undo", "f": "flag", "g": "guidelines", "?": "help", "q": "quit"}
    if rest:
        return None
    return (alone[letter], "") if letter in alone else None


def help_text(task: Task) -> str:
    """How to answer, and the commands."""
    colon = ":" if task.any_text else ""
    if task.classes:
        number = "its number, " if _numbered(task) else ""
        answer = f"A label is given by {number}its name, or as much of its name as no other begins with."
        hidden = [c for c in _COMMANDS if c in {name.casefold() for name in (*task.labels, *task.words)}]
        if hidden:
            answer += f" {', '.join(hidden)} is a label here; as a command it is written with a colon, :{hidden[0]}."
    else:
        answer = "Type the answer. A line that ends in a backslash goes on in the next one."
        if colon:
            answer += " Commands begin with a colon; a text that does is written with two."
    rows = [f"  {colon}{key}  {text}" for key, text in _COMMANDS.items()]
    return "\n".join([answer, *rows, "  an empty line shows the example again"])


def _menu(task: Task) -> str:
    """The labels with their numbers; many of them stand beside each other."""
    if not task.classes:
        return f"all that hold of: {'; '.join(task.labels)} ([] if none does):" if several(task) else "the answer:"
    pairs = zip(task.labels, task.words, strict=True)
    names = [label if label == word else f"{label} ({word})" for label, word in pairs]
    width = len(str(len(names)))
    if _numbered(task):
        names = [f"{number:>{width}}  {name}" for number, name in enumerate(names, 1)]
    if len(names) <= FEW:
        return "\n".join(f"  {name}" for name in names)
    column = max(map(len, names)) + 3
    beside = max(1, WIDTH // column)
    rows = (names[i : i + beside] for i in range(0, len(names), beside))
    return "\n".join("  " + "".join(f"{name:<{column}}" for name in row).rstrip() for row in rows)


def _numbered(task: Task) -> bool:
    """Whether labels can be given by their place: not where a label is itself a number, which would be two things."""
    return not any(name.isdigit() for name in (*task.labels, *task.words))


# Characters that change the direction of what follows, or that nobody sees: a text could show what it does not say.
_HIDDEN = {
    0x061C, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF, *range(0xE0000, 0xE0080),
}  # fmt: skip
_JOINERS = {0x200C, 0x200D}  # needed to write some languages and emoji


def printable(text: str) -> str:
    r"""A text that a terminal shows and does not obey: control characters, direction marks and what no terminal can
    show are written as escapes. Line ends and tabs stay.

    >>> printable("a\x1b[2Jb\r\nc\u202ed")
    'a\\x1b[2Jb\nc\\u202ed'
    """
    text = text.replace("\r\n", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    return "".join(c if _harmless(c) else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _harmless(c: str) -> bool:
    if c in "\n\t" or ord(c) in _JOINERS:
        return True
    return ord(c) not in _HIDDEN and unicodedata.category(c) not in ("Cc", "Cs")
