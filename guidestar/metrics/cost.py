"""What a round costs: tokens, floating-point operations, seconds, money. Pure arithmetic; the formulas are estimates.

A transformer with P parameters spends about 2 P operations on a token in a forward pass: one multiplication and one
addition for every weight. The backward pass through frozen weights costs as much again (gradients of activations
alone), through trained weights twice as much. Attention between tokens is left out: below 2,000 tokens it is a few per
cent. So is the adapter itself. Source: Kaplan et al. 2020, section 2.1; Hoffmann et al. 2022, appendix F.
"""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("choosing", "training", "labelling", "measuring")


def operations(parameters: float, tokens: float, *, trains: bool, frozen: bool) -> float:
    """Of forward passes over `tokens`. trains: of backward passes, too, all epochs counted; frozen: through an adapter alone.

    >>> [operations(1.0, 1.0, trains=trains, frozen=frozen) for trains, frozen in ((False, True), (True, True), (True, False))]
    [2.0, 4.0, 6.0]
    """
    passes = 2.0 if not trains else 4.0 if frozen else 6.0
    return passes * parameters * tokens


@dataclass(frozen=True)
class Spent:
    """What one kind of work took. None: not known. money: of the machine and of labels."""

    seconds: float | None = 0.0
    tokens: float = 0.0
    operations: float = 0.0
    money: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        both = None if self.seconds is None or other.seconds is None else self.seconds + other.seconds
        return Spent(both, self.tokens + other.tokens, self.operations + other.operations, self.money + other.money)


@dataclass(frozen=True)
class Prices:
    """What is paid, in one currency: for a label, for an annotator's hour, for an hour of the machine."""

    label: float = 0.0
    annotator_hour: float = 0.0
    machine_hour: float = 0.0

    def machine(self, seconds: float) -> float:
        """
        >>> Prices(machine_hour=3.6).machine(1000)
        1.0
        """
        return self.machine_hour * seconds / 3600

    def labels(self, count: int, seconds: float | None) -> float:
        """Of `count` labels that took annotators some seconds.

        >>> Prices(label=0.5, annotator_hour=36).labels(4, 100)
        3.0
        """
        return self.label * count + self.annotator_hour * (seconds or 0.0) / 3600
