"""The program of a model card: what a reader runs to get the run's own predictions, without this library."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from guidestar.data.messages import CONVERSATION
from guidestar.words import filled

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Usage:
    """What a prediction depends on, beside the weights.

    base: the base model's name or folder. full: the folder holds a whole model and no adapter. own: the adapter is of a
    type of this project, which plain PEFT does not know. template: as configured. answers: for a choice, label -> tokens, the
    first token after `prefix` alone or the whole word with the end token; None for generated answers. behind_space: the
    prefix and the answers behind a prompt that ends in white space because its last columns are blank, where those are
    others. head: the labels of a classification head, in its order; empty without one. several: any number of labels may hold.
    questions: label -> what is asked behind the prompt, where they are asked about alone; `answers` are then no and yes. reads:
    what that head reads, "mean", "features" or nothing special; views: for features, the arguments of `read_views` behind the
    model. eos, pad: token ids. closing: tokens that the tokenizer puts behind a prompt and that are taken off. max_new_tokens:
    limit of a generated answer. quantize: what the base is packed in, "nf4" or "int8".
    """

    base: str
    full: bool
    dtype: str
    template: str
    chat: bool
    remote_code: bool
    prefix: tuple[int, ...] = ()
    answers: dict[str, tuple[int, ...]] | None = None
    behind_space: tuple[tuple[int, ...], dict[str, tuple[int, ...]]] | None = None
    whole: bool = False
    eos: tuple[int, ...] = ()
    pad: int = 0
    max_new_tokens: int = 0
    own: bool = False
    head: tuple[str, ...] = ()
    closing: tuple[int, ...] = ()
    reads: str | None = None
    views: tuple[str, bool, tuple[int, int]] | None = None
    several: bool = False
    questions: dict[str, str] = field(default_factory=dict)
    quantize: str | None = None


def pieces(template: str) -> list[tuple[str, str | None]]:
    """(text before, column) of a template, in order.

    >>> pieces("Message: {text}\\nTopic:")
    [('Message: ', 'text'), ('\\nTopic:', None)]
    """
    return [(literal, name) for literal, name, _, _ in string.Formatter().parse(template)]


def program(usage: Usage) -> str:
    """Python source with a function `predict(**columns)`; `templates/snippet.py.jinja` lays it out."""

    def first(answers: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """What the answers are told apart by: the whole word, or its first token."""
        return {label: list(row) if usage.whole else row[0] for label, row in answers.items()}

    source = (files("guidestar") / "model" / "views.py").read_text(encoding="utf-8")  # what transformers does not know
    source = source.split("from __future__ import annotations\n", 1)[1].replace("\nimport torch\n", "\n").strip()
    parts = [list(piece) for piece in pieces(usage.template)]
    talk = CONVERSATION if usage.chat and parts == [["", CONVERSATION]] and not usage.questions else ""
    page = TEMPLATES / "snippet.py.jinja"
    return filled(page, {"repr": repr}, u=usage, pieces=parts, first=first, views_source=source, talk=talk)


def call(usage: Usage) -> str:
    """One line that calls the program.

    >>> call(Usage("base", False, "float32", "Message: {text}", False, False))
    'print(predict(text="…"))'
    """
    names = list(dict.fromkeys(name for _, name in pieces(usage.template) if name is not None))
    if all(name.isidentifier() for name in names):
        given = ", ".join(f'{name}="…"' for name in names)
        return f"print(predict({given}))"
    return f"print(predict(**{dict.fromkeys(names, '…')!r}))"
