"""One way to ask a model about examples, whoever computes the answer: the own engine, a server, other machines.

A `Scorer` is called with examples and an `Ask` and gives `Predictions`. It does what it is asked or refuses with a
sentence; it never gives something else instead. Classes are abstract or final: behaviour is changed by wrapping
(`wrappers.py`). What every scorer must hold to is a test suite of this package: `guidestar.testing.ScorerContract`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from guidestar.errors import ConfigError
from guidestar.progress import Tick
from guidestar.records import Array, Example, Predictions


def silent(done: int, total: int) -> None:
    """A tick that tells nobody."""


@dataclass(frozen=True)
class Ask:
    """What is wanted to know about some examples.

    needs: names of arrays; see `Predictions` for shapes. Those that begin with "gold_" read `gold`, answers by id.
    passes: K > 0 for K Monte-Carlo passes with dropout on (leading axis K); 0 for one plain pass.
    dropout: whose dropout is on in those passes: the "adapter"'s alone, or that of the whole "model".
    one_model: pass k has the same dropout masks for all examples, so that it is one model.
    seed: of dropout and of sampled responses.
    samples, temperature: of the responses behind "sampled_answer", (samples, n); drawn from softmax(logits / temperature).
    """

    needs: frozenset[str]
    passes: int = 0
    seed: int = 0
    dropout: Literal["adapter", "model"] = "adapter"
    one_model: bool = False
    gold: Mapping[str, str] | None = field(default=None, compare=False)
    samples: int = 0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.reads_gold and self.gold is None:
            raise ValueError("arrays that begin with gold_ need the gold answers")

    @classmethod
    def of(cls, needs: Iterable[str], **others: Any) -> Ask:
        """An ask for arrays by their names.

        >>> Ask.of(["embedding"], passes=3).plain()
        {'needs': ['embedding'], 'passes': 3, 'seed': 0}
        """
        return cls(frozenset(needs), **others)

    @property
    def reads_gold(self) -> bool:
        """Whether the gold answers change what comes out."""
        return any(name.startswith("gold_") for name in self.needs)

    def plain(self) -> dict[str, Any]:
        """All that the answer depends on as JSON-able data; what is at its default is left out, and so are gold answers."""
        asked: dict[str, Any] = {"needs": sorted(self.needs)}
        if self.passes:
            asked |= {"passes": self.passes}
            asked |= {"dropout": self.dropout} if self.dropout != "adapter" else {}
            asked |= {"one_model": True} if self.one_model else {}
        if self.samples:
            asked |= {"samples": self.samples, "temperature": self.temperature}
        return asked | ({"seed": self.seed} if self.passes or self.samples else {})


@dataclass(frozen=True)
class Responses:
    """Greedy responses. texts: decoded to the end token; arrays as the "response_" and "answer_" ones, (n,)."""

    texts: tuple[str, ...]
    arrays: Mapping[str, Array]


class Scorer(ABC):
    """Answers what is asked about examples.

    Contract of every scorer, which `guidestar.testing.ScorerContract` checks:

    - The same examples and `Ask` give the same arrays; row i is of example i, whose id stands in `Predictions.ids`.
    - What `refusal` explains is raised as ConfigError when it is asked for all the same; nothing else is put in its place.
    - `plain()` holds all that the answers depend on beside examples and `Ask`.
    - It may be called at any time. In a `with` block it keeps what is dear to set up, such as an adapter on its base
      model, from one call to the next. Of scorers on one base model only one may be open.
    """

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """Names of the label space, for "label_log_probs"; empty where answers are free."""

    @abstractmethod
    def __call__(self, examples: Sequence[Example], ask: Ask, tick: Tick = silent) -> Predictions:
        """The arrays named in `ask.needs`, and NAME_bound beside NAME where that may be off by so much. tick: called with (examples done, examples in all).

        Raises ConfigError for what `refusal` explains, NoVariance if all stochastic passes are equal, ModelError for
        numbers that are not finite (naming the example), DataError for a prompt that does not fit.
        """

    @abstractmethod
    def refusal(self, ask: Ask) -> str | None:
        """Why this cannot be answered, in a sentence; None if it can."""

    def can(self, ask: Ask) -> bool:
        """Whether this can be answered."""
        return self.refusal(ask) is None

    def check(self, ask: Ask) -> None:
        """Raise ConfigError if this cannot be answered."""
        if (why := self.refusal(ask)) is not None:
            raise ConfigError(why)

    @abstractmethod
    def plain(self) -> dict[str, Any]:
        """Who answers, as JSON-able data: fingerprints of weights and adapter, precision, task."""

    def respond(self, examples: Sequence[Example], stop: str | None = None, tick: Tick = silent) -> Responses:
        """A greedy response to every example. stop: a text that ends a response as the end token does; it is cut off.

        Raises ConfigError where no text is written.
        """
        raise ConfigError(f"{type(self).__name__} writes no responses; allowed: a model that generates text")

    def too_long(self, examples: Sequence[Example], answers: Mapping[str, str] | None = None) -> dict[str, str]:
        """Id -> a sentence, for the examples that do not fit with a response. answers: gold ones by id, whose length is
        then left free."""
        return {}

    def forget(self) -> None:  # noqa: B027 - most keep nothing
        """Remove what was kept so that a stopped process could go on: the answers are stored elsewhere now."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        return None
