"""docs/statistics.md: what `guidestar compare` computes, and how often that was right where the truth is known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from guidestar.errors import StoreError
from guidestar.words import hundredths, paired
from tools.pages import table

FILE, POOLS = Path("statistics") / "coverage.json", "pools.json"  # below `results`; in the same folder
_ALARM = "p < 0.05"

_METHOD = """# Statistics

`guidestar compare` and the report set strategies beside random. This page says how, and how often the answer was right on
{simulations:,} simulated experiments a row whose truth is known. It is generated from `results/statistics/coverage.json`;
`python tests/simulation.py {simulations} results/statistics/coverage.json` measures again.

## What is compared

- **Pairs.** Both curves of a seed begin with the same examples and the same adapter, so their difference is taken seed by
  seed. A warm start that is not shared is named. Seeds that one side has not finished are left out, by name.
- **AUC** is the mean height of the curve by trapezoids, **RIPL** the share of the gap between random's AUC and 1 that is
  closed, **deficiency** the area between random's last accuracy and the curve over the same for random (below 1 is
  better).
- **Labels saved** has two forms. *To reach an accuracy*: where the lower of the two curves ends, or `--target`; one minus
  the strategy's labels over random's, read off a local quadratic in the logarithm of the labels. *On average*: over all
  accuracies between the warm start and the higher end. A share below 0 means more labels than random. Where one curve
  ends before the accuracy, the share is "at least" or "at most" that, and its interval is open.

## How sure

- **Intervals** rest on the t distribution over paired seeds; those of ratios are Fieller's; those of labels saved hold
  every number of labels at which the two curves are not significantly apart.
- **Test examples.** A test set is a sample too. If the run kept which test examples were answered rightly (a choice task
  does), intervals hold for new seeds and new test examples alike, by a crossed random effects model. If not, the text
  says that they hold for these test examples alone.
- **Bootstraps** are not used: the percentile kind covers 83 % in place of 95 % with 5 seeds. The exact sign-flip
  (permutation) test stands beside the t test.
- **Several strategies or datasets**: p values are corrected by Holm's method over all of them.

## What it takes to say "gain"

"Gain" and "harm" need all of: an interval of the difference of the AUCs without 0, Holm's p within the level, and an
exact one-sided sign-flip test within the level. The last assumes no distribution. It cannot be passed with fewer than five
seeds at 95 %, so with fewer the verdict is always "no evidence", and the text says how often chance alone would agree.
"No evidence" is not "no effect": look at the interval.

Where a run was probed for its noise floor (`guidestar probe RUN noise`, [costs.md](costs.md)), a fourth thing is needed: a
difference of the AUCs not below the floor of a mean of so many seeds, the probe's floor over √seeds. The simulations below
have no probe.

What it cannot tell: whether the gain holds for another model, budget or dataset; whether a learning curve goes on as
measured; what a strategy costs in scoring time."""


def statistics_page(file: Path) -> str:
    """The page as Markdown. file: what `tests/simulation.py` wrote; beside it what `tools.verdicts` did.

    Raises StoreError if one cannot be read.
    """
    found, pools = _read(file), _read(file.with_name(POOLS))
    rows = found["rows"]

    def about(what: str) -> list[Mapping[str, Any]]:
        return [row for row in rows if row["about"] == what]

    parts = [
        _METHOD.format(simulations=found["simulations"]),
        *_curves(about("curves"), found["simulations"]),
        *_examples(about("examples")),
        *_verdicts(about("verdicts")),
        *_pools(pools),
        *_families(about("families")),
        *_means(about("means")),
    ]
    return "\n".join([*parts, ""])


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{file}: cannot be read as the results of the simulations: {error}") from error


def _curves(rows: Sequence[Mapping[str, Any]], simulations: int) -> list[str]:
    """Coverage of every interval: lowest, mean and highest over all worlds."""
    names = [name for name in rows[0]["found"] if name != _ALARM]
    seeds = sorted({row["seeds"] for row in rows})
    columns = [name for n in seeds for name in (f"{n} seeds: mean", "lowest", "highest")]
    worlds = len(rows) // len(seeds)
    within = [row["found"][name] for row in rows for name in names]
    close = sum(abs(value - 0.95) <= 0.02 for value in within)
    low = sum(value < 0.93 for value in within)
    level = [row for row in rows if row["speed"] == 1]

    def ends(name: str, among: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        for n in seeds:
            values = [row["found"][name] for row in among if row["seeds"] == n]
            yield from (_points(of(values)) for of in (fmean, min, max))

    return [
        *_measured(
            "intervals of learning curves",
            f"{worlds} worlds: three shapes of curve (two power laws, one S), a strategy that learns as fast as random, faster "
            "and more slowly, noise along the curve that is smooth, skewed or independent from point to point, 500 test "
            f"examples. Share of {simulations:,} experiments whose 95 % interval held the truth, in per cent; chance alone "
            "moves one such number by ± 1.4 (two standard errors).",
            ["interval of", *columns],
            [[name, *ends(name, rows)] for name in names],
        ),
        "",
        f"{close} of all {len(within)} numbers are within 2 points of 95, {low} below 93. False alarms where there is no "
        "difference (p < 0.05 of the t test):",
        "",
        *table(
            ["noise", *columns],
            [
                [noise, *ends(_ALARM, [row for row in level if row["noise"] == noise])]
                for noise in dict.fromkeys(row["noise"] for row in rows)
            ],
        ),
    ]


def _examples(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A test set that all seeds share, its answers known or not."""
    return _measured(
        "a test set that all seeds share",
        "All runs are measured on one sample of test examples, and the truth is the accuracy on all possible ones. Knowing "
        "which examples were answered rightly keeps the promise; knowing the accuracies alone does not.",
        ["test examples", "answers", "seeds", "speed", "area", "labels saved at the end", "p < 0.05"],
        [
            [row["examples"], row["answers"], row["seeds"], f"{row['speed']:.2f}",
             *(_points(row["found"][name]) for name in ("area", "saved at the end", _ALARM))]
            for row in rows
        ],
    )  # fmt: skip


def _verdicts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return _measured(
        "the verdict",
        "How often each word was said. Speed 1.00 is no difference; 2.00 means that each label is worth two random ones.",
        ["curve", "speed", "seeds", "gain", "no evidence", "harm"],
        [[row["world"], f"{row['speed']:.2f}", row["seeds"], *map(_points, row["found"].values())] for row in rows],
    )


def _pools(found: Mapping[str, Any]) -> list[str]:
    """What the verdict said on pools that were made to win, tie or lose."""
    labels, seeds = found["labels"], found["seeds"]
    return _measured(
        "pools where choosing must win, tie and lose",
        f"Real runs of the strategy `entropy` beside `random`: pools of points, a logistic regression as the learner, {seeds} "
        f"seeds, {labels[0]} to {labels[-1]} labels, {found['experiments']} pools each "
        f"(`python -m tools.verdicts {found['experiments']} results/statistics/pools.json`). The suite runs one "
        "pool of each. The last column is the mean difference of the AUCs over all pools with its 95 % interval.",
        ["pool", "because", "truth", "gain", "no evidence", "harm", "difference"],
        [
            [row["world"], row["why"], row["truth"], *map(_points, row["verdicts"].values()), paired(row["difference"])]
            for row in found["rows"]
        ],
    )


def _families(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return _measured(
        "several strategies at once",
        "Strategies that are all random, beside random: the share of experiments with any p < 0.05.",
        ["strategies", "seeds", *rows[0]["found"]],
        [[row["strategies"], row["seeds"], *map(_points, row["found"].values())] for row in rows],
    )


def _means(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return _measured(
        "a mean of a few differences",
        "Coverage of the interval of a mean, and false alarms of the tests.",
        ["differences", "seeds", *rows[0]["found"]],
        [[row["world"], row["seeds"], *map(_points, row["found"].values())] for row in rows],
    )


def _measured(title: str, text: str, header: Sequence[object], rows: Iterable[Iterable[object]]) -> list[str]:
    """A section with a table."""
    return ["", f"## Measured: {title}", "", text, "", *table(header, rows)]


def _points(share: float) -> str:
    return hundredths(share, 1)
