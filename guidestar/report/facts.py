"""What `compare`, `status` and the report work out, as frozen records with a plain form for JSON.

An interval is kept as `Interval.plain` gives it: "estimate", "low" and "high", None for an open end.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guidestar.metrics.savings import Saving
from guidestar.metrics.statistics import Interval, t_interval
from guidestar.metrics.verdict import Verdict
from guidestar.report.noise import BesideFloor, Noise
from guidestar.report.read import RunRecord
from guidestar.words import Ends, hundredths
from guidestar.words import spread as spread_in_words


def plain(value: Any) -> Any:
    """A record as JSON-able data: records become objects with their fields in order, whatever they hold.

    >>> plain(Beside(0.5, None, {"estimate": None, "low": None, "high": None}))["strategy"]
    0.5
    """
    if isinstance(value, (Interval, RunRecord)):
        return value.plain()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


@dataclass(frozen=True)
class Beside:
    """Means of a strategy and of the control over the seeds that both have, and the interval of their difference."""

    strategy: float | None
    control: float | None
    difference: Ends


@dataclass(frozen=True)
class Point(Beside):
    """`Beside` at one number of labels."""

    labels: int


@dataclass(frozen=True)
class Saved:
    """Labels saved: on average over the accuracies on the way, at the end of the lower curve, and at the target."""

    on_average: Ends
    at_the_end: Saving | None
    at_target: Saving | None


@dataclass(frozen=True)
class Chances:
    """p values of the difference of the areas: t test, corrected by Holm (None where so few seeds claim nothing), exact
    sign flips and the smallest these can give."""

    t: float
    holm: float | None
    sign_flips: float
    smallest: float


@dataclass(frozen=True)
class StandardErrors:
    """By the seeds alone, what the test examples add, and both; None where single answers are not known."""

    seeds: float
    examples: float | None
    both: float | None


@dataclass(frozen=True)
class Row:
    """One strategy beside the control, over `seeds`. What needs two seeds is None for fewer.

    examples: test examples, if each one's answers are known. points: at every number of labels. errors: of "auc" and "final". noise: the difference of
    the areas beside the noise floor. target_sentence: what both needed to reach the target.
    """

    strategy: str
    seeds: Sequence[int]
    examples: int | None
    auc: Beside
    final: Beside
    verdict: Verdict
    noise: BesideFloor | None
    target_sentence: str | None
    points: Sequence[Point] | None = None
    ripl: Ends | None = None
    deficiency: Ends | None = None
    saved: Saved | None = None
    p: Chances | None = None
    errors: Mapping[str, StandardErrors] | None = None


@dataclass(frozen=True)
class Compared:
    """One dataset: the strategies beside the control.

    test: examples. labels: of the points. shared_warm_start: seed -> whether all strategies began with the same picks.
    noise: how far training alone moves the accuracy; None if no run was probed for it. left_out, warnings, notes:
    sentences; warnings name results that are no better than the majority baseline.
    """

    name: str
    folder: str
    control: str
    test: int | None
    labels: Sequence[int]
    synthetic: bool
    shared_warm_start: Mapping[str, bool]
    noise: Noise | None
    left_out: Sequence[str]
    warnings: Sequence[str]
    notes: Sequence[str]
    comparisons: Sequence[Row]


@dataclass(frozen=True)
class Comparisons:
    """All datasets of one call of `compare`.

    comparisons: how many p values were corrected together. wins: strategy -> strategy -> (wins, ties, losses) over the
    datasets, or None where there is only one pair.
    """

    level: float
    target: float | None
    comparisons: int
    datasets: Sequence[Compared]
    wins: Mapping[str, Mapping[str, Sequence[int]]] | None


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n − 1) over seeds, and the 95 % t interval within [0, 1]; fractions, None for one seed."""

    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of at least one value, one a seed.

        >>> str(Spread.of([0.912]))
        '91.20'
        """
        if len(values) == 1:
            return Spread(values[0])
        ends = t_interval(values)
        return Spread(statistics.fmean(values), statistics.stdev(values), max(ends.low, 0.0), min(ends.high, 1.0))

    def __str__(self) -> str:
        """As 91.20 ± 0.53, per cent."""
        return spread_in_words(vars(self))

    def with_ends(self) -> str:
        """As 91.20 ± 0.53 (90.5 to 91.9)."""
        known = self.low is not None and self.high is not None
        return f"{self} ({hundredths(self.low, 1)} to {hundredths(self.high, 1)})" if known else str(self)


@dataclass(frozen=True)
class StrategyFacts:
    """One strategy over the compared seeds. ripl: against the control of the same seeds, None for the control itself."""

    strategy: str
    seeds: Sequence[int]
    auc: Spread
    final: Spread
    ripl: float | None


@dataclass(frozen=True)
class Shared:
    """The seeds and the numbers of labels that every strategy has."""

    seeds: Sequence[int]
    labels: Sequence[int]


@dataclass(frozen=True)
class Summary:
    """An experiment; accuracies, areas and RIPL are fractions.

    sentence, warnings (of results that are no better than the majority baseline), notes: for people. test: examples.
    majority: the test set's most frequent "label" and its "share". base: the untuned model's accuracy. compared: what
    `strategies` rest on. control: the random strategy. shared_warm_start: seed -> whether all strategies began with the
    same picks. config, versions, hardware, data_hash: to repeat it.
    """

    sentence: str
    warnings: Sequence[str]
    notes: Sequence[str]
    folder: str
    name: str
    synthetic: bool
    test: int | None
    majority: Mapping[str, Any] | None
    base: float | None
    runs: Sequence[RunRecord]
    compared: Shared
    control: str | None
    strategies: Sequence[StrategyFacts]
    shared_warm_start: Mapping[str, bool]
    config: Mapping[str, Any]
    versions: Mapping[str, Any] | None
    hardware: Mapping[str, Any] | None
    data_hash: str | None
