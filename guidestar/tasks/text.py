"""Free text, compared after normalisation."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from guidestar.errors import DataError
from guidestar.tasks.common import ANSWER, Settings, Task


@dataclass(frozen=True)
class Text(Task):
    """Free text, right when it equals the gold answer after normalisation.

    The normal form is SQuAD's (Rajpurkar et al. 2016): lower case, no punctuation, no articles (a, an,
    the), single spaces. Where nothing would be left, as for the answer "the", only case and outer
    spaces are levelled.
    """

    kind: ClassVar[str] = "text"
    about: ClassVar[str] = "a text, compared by normalised exact match"
    family: ClassVar[str] = "text"
    any_text: ClassVar[bool] = True
    described: ClassVar[str] = "a text"
    asked: ClassVar[str] = "Answer with the text asked for and nothing else: no introduction, no explanation."
    response: str = ANSWER
    max_new_tokens: int = 64

    @classmethod
    def build(cls, config: Settings, cells: Sequence[str], response: str) -> Text:
        return cls(response, config.max_new_tokens or cls.max_new_tokens)

    def parse_gold(self, raw: str, where: str) -> str:
        """The cell without outer spaces. Raises DataError if nothing is left."""
        if not raw.strip():
            raise DataError(f"{where}: the answer is empty; it must hold some text")
        return raw.strip()

    def compared(self, answer: str) -> str:
        return normal_form(answer)

    def read_reply(self, text: str) -> str:
        """Any text. Raises DataError for none."""
        if (answer := self.parse(text)) is None:
            raise DataError("there is no text in it")
        return self.parse_gold(answer, "reply")


def normal_form(text: str) -> str:
    """SQuAD's normalisation of an answer.

    >>> normal_form("  The Eiffel  Tower! ")
    'eiffel tower'
    """
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    words = re.sub(r"\b(a|an|the)\b", " ", bare).split()
    return " ".join(words) or text.strip().lower()
