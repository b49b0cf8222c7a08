"""A final number after a worked answer."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import ClassVar

from guidestar.errors import ConfigError, DataError
from guidestar.tasks.common import ANSWER, Settings, Span, Task

# A number as people and models write it: sign, currency, thousands, decimals; or a fraction, also mixed.
_NUMBER = re.compile(
    r"""(?<!\w)(?<!\d\.)                 # not inside a word or another number
    (?P<sign>(?<![)%])[-\u2212])?        # a minus after a closing bracket is a subtraction
    (?:[$€£](?P<minus>[-\u2212])?)?      # -$5 and $-5
    (?P<digits>
        (?:\d+\ )?\d+/0*[1-9]\d*         # 3/4, 2 1/2
      | \d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)
      | \d+(?:\.\d+)?
      | (?<!\.)\.\d+
    )""",
    re.VERBOSE | re.ASCII,
)
_DIGITS = 2000  # beyond, Python refuses to write a whole number out
_CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's marks, "<<48/2=24>>"
_ANSWER_IS = re.compile(r"\banswer\s+is\b", re.IGNORECASE)


@dataclass(frozen=True)
class Number(Task):
    """A final number after a worked answer (GSM8K).

    The canonical answer is the worked answer without calculator marks, ending in "#### NUMBER"; the
    number has no thousands commas. Numbers are compared by value: 18 = 18.0 = 18.00.
    """

    kind: ClassVar[str] = "number"
    about: ClassVar[str] = "a final number after a worked answer"
    family: ClassVar[str] = "number"
    numeric: ClassVar[bool] = True
    response: str = ANSWER
    marker: str = Settings.marker
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        if not self.marker.strip():
            raise ConfigError("task.marker is empty; it must be what stands before the final number, like ####")

    @classmethod
    def build(cls, config: Settings, cells: Sequence[str], response: str) -> Number:
        return cls(response, config.marker, config.max_new_tokens or cls.max_new_tokens)

    @property
    def asked(self) -> str:
        return f"Write the solution step by step, and as the last line {self.marker} and the final number alone."

    def parse_gold(self, raw: str, where: str) -> str:
        """The worked answer of a cell; a bare number becomes "#### NUMBER".

        Raises DataError if there is no number in it.

        >>> Number().parse_gold("He has 2*9=<<2*9=18>>18 eggs.\\n#### 1,018 eggs", "x")
        'He has 2*9=18 eggs.\\n#### 1018'
        """
        text = _CALCULATOR.sub("", raw).strip()
        final = text.rpartition(self.marker)[2]  # a cell with a marker must have its number behind it
        match = self._match(text) if _NUMBER.search(final) else None
        if match is None:
            shown = text if len(text) <= 60 else f"…{text[-60:]}"
            raise DataError(f"{where}: no number in the answer {shown!r}; it must hold one, like '{self.marker} 18'")
        if self.marker in text:
            worked = text.rpartition(self.marker)[0].rstrip()
        elif match.span() == (0, len(text)):
            worked = ""
        else:
            worked = text
        return f"{worked}\n{self.marker} {_plain(match)}".lstrip("\n")

    def parse(self, text: str) -> str | None:
        """The final number of a response as plain text, "1018", "-2.5" or "3/4".

        The first number after the last marker; without one, the first after the last "answer is"; else
        the last number. Currency, thousands commas, per cent signs, units and what follows are dropped.

        >>> Number().parse("So she earns $1,018.50 per week.")
        '1018.50'
        """
        match = self._match(text)
        return None if match is None else _plain(match)

    def answer_span(self, text: str) -> Span | None:
        """Character positions (start, end) of the final number, its sign included, the currency not."""
        match = self._match(text)
        if match is None:
            return None
        sign = match.start("sign")
        return (sign if sign >= 0 else match.start("digits") - bool(match["minus"]), match.end("digits"))

    def correct(self, predicted: str | None, gold: str) -> bool:
        """Whether the numbers are equal in value; `gold` may be the worked answer or a number alone."""
        if predicted is None:
            return False
        said, wanted = self.parse(predicted), self.parse(gold)
        return said is not None and wanted is not None and _value(said) == _value(wanted)

    def compared(self, answer: str) -> str:
        """The value as one text, "-5/2" for "-2 1/2" and "-2.50"."""
        number = self.parse(answer)
        if number is None or len(number) > _DIGITS:
            return answer if number is None else number
        return str(Fraction(_value(number)))

    def read_reply(self, text: str) -> str:
        """The number must stand behind the marker. Raises DataError otherwise."""
        if self.marker not in text:
            raise DataError(f"there is no {self.marker!r} in it")
        return self.parse_gold(text, "reply")

    def _match(self, text: str) -> re.Match[str] | None:
        numbers = list(_NUMBER.finditer(text))
        if not numbers:
            return None
        for cue in (re.compile(re.escape(self.marker)), _ANSWER_IS):
            ends = [m.end() for m in cue.finditer(text)]
            for end in reversed(ends[: bisect_left(ends, numbers[-1].end())]):  # the last one with a number behind it
                if match := _NUMBER.search(text, end):
                    return match
        return numbers[-1]


def _plain(match: re.Match[str]) -> str:
    """A matched number without currency and commas, with a plain minus sign."""
    sign = "-" if match["sign"] or match["minus"] else ""
    return sign + match["digits"].replace(",", "")


def _value(number: str) -> Decimal | Fraction:
    """The exact value of a plain number, however many digits a model wrote; "-2 1/2" is -5/2.

    >>> _value("-2 1/2"), _value("18.00")
    (Fraction(-5, 2), Decimal('18.00'))
    """
    if "/" not in number:
        return Decimal(number)
    whole, _, rest = number.lstrip("-").rpartition(" ")
    above, _, below = rest.partition("/")
    value = Fraction(Decimal(whole or 0)) + Fraction(Decimal(above)) / Fraction(Decimal(below))
    return -value if number.startswith("-") else value
