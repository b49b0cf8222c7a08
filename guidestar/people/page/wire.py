"""What the browser may send: strict models, nothing unknown, nothing long; and what becomes of it."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from guidestar.errors import ConfigError, allowed
from guidestar.records import Annotation, Flag, Label, Note, Skip, Undo, Verdict
from guidestar.tasks import Task

NAME = r"[\p{L}\p{N}](?:[\p{L}\p{M}\p{N} ._@+-]{0,38}[\p{L}\p{M}\p{N}._@+-])?"
TEXT = 10_000  # characters of an answer or a note; with up to six bytes each they fit a request
_RESERVED = {"oracle"}  # the annotator of a simulation


def _name(value: str) -> str:
    if value.casefold() in _RESERVED:
        raise ValueError("this name is taken")
    return unicodedata.normalize("NFC", value)


Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$"), AfterValidator(_name)]
Id = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z_-]{1,64}$")]


def checked_name(name: str) -> str:
    """An annotator's name as it is stored. Raises ConfigError for one that is not allowed."""
    try:
        return TypeAdapter[str](Name).validate_python(name)
    except ValidationError:
        kinds = ["letters", "digits", "spaces", ". _ @ + -"]
        raise ConfigError(
            f"annotator: found {name!r}; a name has at most 40 characters and does not begin or end with a space, "
            f"{allowed(kinds)}; `oracle` is taken"
        ) from None


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Who(_Body):
    """Who asks."""

    annotator: Name


class Older(Who):
    """Which part of the history: what lies before the first `skip` lines of it."""

    skip: int = Field(0, ge=0)
    only: Literal["all", "skipped", "flagged", "noted"] = "all"


class One(Who):
    """One example."""

    id: Id


class Ask(Who):
    """Which examples come next.

    want: how many. hold: those that the page has and is about to show. have: those that it knows of otherwise, for
    it has answered them and the answer is on its way. active: somebody is at the page; what an abandoned page holds
    is free for others when the lease is over.
    """

    want: int = Field(ge=0, le=10)
    hold: list[Id] = Field(default_factory=list, max_length=20)
    have: list[Id] = Field(default_factory=list, max_length=500)
    active: bool = True


class Find(Who):
    """What to look for in the pool: words, or texts like one. skip: so many of them were shown."""

    words: Annotated[str, StringConstraints(max_length=1000)] = ""
    like: Id | None = None
    skip: int = Field(0, ge=0)


class Group(Who):
    """A group of answers that were given at once: its id, made in the browser."""

    group: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z-]{8,40}$")]


class Grouped(Group):
    """One answer for several texts that were found by words or by likeness."""

    ids: list[Id] = Field(min_length=1, max_length=200)
    text: Annotated[str, StringConstraints(max_length=TEXT)]
    how: Literal["words", "like"]


class Relabel(Who):
    """A change of the labels: those that go, and what comes in their place; of a split, names between commas."""

    kind: Literal["add", "rename", "merge", "split"]
    old: list[Annotated[str, StringConstraints(max_length=200)]] = Field(default_factory=list, max_length=100)
    new: Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^[^\x00-\x1f]*$")]

    @property
    def text(self) -> str:
        """As `guidestar labels` takes it."""
        return self.new if self.kind == "add" else f"{','.join(self.old)}={self.new}"


class Labels(Who):
    """The labels that there are to choose from, each maybe with "= what it means", given before a run begins.
    several: any number of them may hold for one text."""

    labels: list[Annotated[str, StringConstraints(min_length=1, max_length=500)]] = Field(min_length=2, max_length=1000)
    several: bool = False


class Decision(_Body):
    """One thing that an annotator did. decision: its id, made in the browser. seen: the model's suggestion was shown."""

    decision: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z-]{8,64}$")]
    id: Id
    kind: Literal["label", "skip", "undo", "flag", "note", "verdict"]
    text: Annotated[str, StringConstraints(max_length=TEXT)] = ""
    on: bool = True
    seen: bool = False


class Decisions(Who):
    """What an annotator did, in that order."""

    decisions: list[Decision] = Field(min_length=1, max_length=100)


def annotation(found: Decision, annotator: str, task: Task) -> Annotation:
    """The record of a decision. Raises DataError for an answer that the task does not allow."""
    match found.kind:
        case "label":
            return Label(task.parse_gold(found.text, "answer"), annotator)
        case "verdict":
            return Verdict(task.parse_gold(found.text, "answer"), annotator)
        case "skip":
            return Skip(found.text.strip(), annotator)
        case "undo":
            return Undo(annotator)
        case "flag":
            return Flag(annotator, on=found.on)
        case "note":
            return Note(found.text.strip(), annotator)
