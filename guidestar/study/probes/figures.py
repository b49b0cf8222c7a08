"""What the probes draw: functions that fill an empty matplotlib figure (see `drawing.save_figure`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import numpy as np
from numpy.typing import NDArray

from guidestar.records import Array
from guidestar.report.style import COLOURS, DASHES, MARKERS, MUTED, look

if TYPE_CHECKING:
    from guidestar.study.probes.forgetting import DataMap

Draw = Callable[[Any], None]
Facts = ParamSpec("Facts")

MOST_NUMBERS = 14  # rows of a heatmap whose cells still hold a number
MOST_TICKS = 12
MOST_POINTS = 4000  # of a data map that are drawn
ROUNDS = "round (0 is the warm start)"
FEW = 5  # examples below which a median is drawn hollow


def drawing(fill: Callable[Concatenate[Any, Facts], None]) -> Callable[Facts, Draw]:
    """A function of a figure and of what it shows, as a function of what it shows that gives a `Draw`."""

    @wraps(fill)
    def shown(*args: Facts.args, **options: Facts.kwargs) -> Draw:
        return lambda figure: fill(figure, *args, **options)

    return shown


# --- confidence ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Density:
    """One curve of the confidence figure. middles, heights: (bins,); mean: of the confidences."""

    name: str
    middles: Array
    heights: Array
    mean: float


@drawing
def draw_densities(figure: Any, curves: Sequence[Density], low: float) -> None:
    """The paper's figure 2: a curve for each model, a line down at each mean. low: the smallest confidence."""
    axes = figure.add_subplot()
    for i, curve in enumerate(curves):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(curve.middles, curve.heights, color=colour, linestyle=DASHES[i % len(DASHES)], label=curve.name)
        axes.fill_between(curve.middles, curve.heights, color=colour, alpha=0.12, linewidth=0)
        height = float(np.interp(curve.mean, curve.middles, curve.heights))
        axes.vlines(curve.mean, 0, height, color=colour, linewidth=0.8)
        axes.plot([curve.mean], [height], color=colour, marker=MARKERS[i % 8], markersize=4, linestyle="")
    axes.set(xlim=(low, 1.0), ylabel="density")
    axes.set_xlabel("confidence of a wrong prediction (probability of the chosen label)")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper left", borderaxespad=0.2)


# --- entropy ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """One scatter plot. x, y: (n,); labelled: (n,) trained on by then; r, r_rest: with and without those."""

    x_name: str
    y_name: str
    x: Array
    y: Array
    labelled: NDArray[np.bool_]
    r: float
    r_rest: float


@drawing
def draw_correlations(figure: Any, names: Sequence[str], pearson: Array, pairs: Sequence[Pair], title: str) -> None:
    """The paper's figure 3: the heatmap of the correlation between rounds, and scatter plots beside it.

    names: of the rows, "base", "0", "1", …. title: what is measured, with its unit, and of which examples.
    """
    grid = figure.add_gridspec(max(len(pairs), 1), 2, width_ratios=[1.75 if len(pairs) > 1 else 1.2, 1])
    _heatmap(figure, figure.add_subplot(grid[:, 0]), names, pearson)
    key: dict[str, Any] = {}
    for i, pair in enumerate(pairs):
        axes = figure.add_subplot(grid[i, 1])
        _scatter(axes, pair, "bcd"[i])
        key |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(key.values(), key.keys(), loc="outside lower right", ncols=3, markerscale=1.5)
    figure.suptitle(title, x=0.01, ha="left", fontsize=8.5)


def _heatmap(figure: Any, axes: Any, names: Sequence[str], pearson: Array) -> None:
    low = np.floor(10 * float(np.nanmin(np.append(pearson, 0.0)))) / 10
    image = axes.imshow(np.ma.masked_invalid(pearson), cmap="cividis", vmin=low, vmax=1.0)
    axes.grid(False)
    every = -(-len(names) // MOST_TICKS) if len(names) > MOST_NUMBERS else 1
    places = [0, *(i for i in range(every, len(names)) if (i - 1) % every == 0)]  # "base" is a wide word
    axes.set_xticks(places, [names[i] for i in places])
    axes.set_yticks(places, [names[i] for i in places])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel=ROUNDS, ylabel="round", title="(a) correlation between rounds (Pearson's r)")
    figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02).outline.set_visible(False)
    _write_cells(axes, pearson, _short, lambda value: bool(np.isnan(value) or (value - low) / (1.0 - low) > 0.5))


def _write_cells(axes: Any, matrix: Array, show: Callable[[Any], str], light: Callable[[Any], bool]) -> None:
    """The numbers of a heatmap in its cells, where they are few. light: whether a cell of this value is."""
    for (i, j), value in np.ndenumerate(matrix if len(matrix) <= MOST_NUMBERS else matrix[:0]):
        colour = "black" if light(value) else "white"
        axes.text(j, i, show(value), ha="center", va="center", fontsize=6.5, color=colour)


def _short(value: Any) -> str:
    """A correlation for a small cell: .07, −.30, 1.

    >>> _short(0.071), _short(-0.3), _short(-0.001), _short(0.999), _short(float("nan"))
    ('.07', '−.30', '.00', '1', '–')
    """
    if np.isnan(value):
        return "–"
    text = f"{abs(value):.2f}"
    sign = "−" if value < 0 and text != "0.00" else ""
    return sign + ("1" if text == "1.00" else text.removeprefix("0"))


def _scatter(axes: Any, pair: Pair, letter: str) -> None:
    small, rest, without = 5 if len(pair.x) > 300 else 11, ~pair.labelled, ""
    limits = _limits(pair)
    pale = {"s": small, "color": "#56B4E9", "alpha": 0.75, "linewidths": 0}
    axes.scatter(pair.x[rest], pair.y[rest], **pale, label="not labelled by then")
    if pair.labelled.any():
        crosses = {"s": small + 5, "color": "black", "marker": "x", "linewidths": 0.6}
        axes.scatter(pair.x[~rest], pair.y[~rest], **crosses, label="labelled by then")
        without = f" ({two_digits(pair.r_rest)} unlabelled)"
    axes.plot(limits, limits, color="#D55E00", linewidth=1.0, linestyle=(0, (4, 2)), label="no change")
    axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel=pair.x_name, ylabel=pair.y_name)
    axes.set_title(f"({letter}) r = {two_digits(pair.r)}{without}")


def _limits(pair: Pair) -> tuple[float, float]:
    """One range for both axes of a scatter plot, so that the line of no change is the diagonal."""
    both = np.concatenate([pair.x, pair.y])
    low, high = float(both.min()), float(both.max())
    low = 0.0 if 0 <= low < 0.3 * high else low
    margin = 0.03 * (high - low) or 0.5
    return low - margin, high + margin


def two_digits(value: float | None) -> str:
    """A correlation, which may be undefined."""
    return "undefined" if value is None or np.isnan(value) else f"{value:.2f}"


# --- unchanged ----------------------------------------------------------------------------------

DRAWN = {"unchanged_right": "unchanged, right", "unchanged_wrong": "unchanged, wrong", "changed": "changed"}
CHANGED = {"confidence": "change of confidence", "entropy": "change of entropy (nats)"}


@drawing
def draw_changes(
    figure: Any, columns: Sequence[tuple[str, Sequence[str], Sequence[Mapping[str, Mapping[str, Any]]]]]
) -> None:
    """Change of confidence (above) and entropy (below), by round: medians as points, quartiles as lines.

    columns: (title, name of each round, `numbers.changes` of each round).
    """
    panels = figure.subplots(2, len(columns), sharey="row", squeeze=False)
    for below, (title, names, changes) in zip(panels.T, columns, strict=True):
        for axes, what in zip(below, CHANGED, strict=True):
            axes.axhline(0, color=MUTED, linewidth=0.9, linestyle=(0, (4, 2)))
            for i, (group, label) in enumerate(DRAWN.items()):
                _bars(axes, i, [one[group][what] for one in changes], label)
            every = -(-len(names) // MOST_TICKS)
            axes.set_xticks(range(0, len(names), every), names[::every])
            axes.set_xlim(-0.6, len(names) - 0.4)
            axes.grid(axis="x", visible=False)
        below[0].set_title(title)
        below[1].set_xlabel(ROUNDS)
    for axes, unit in zip(panels[:, 0], CHANGED.values(), strict=True):
        axes.set_ylabel(unit)
    beside = len(DRAWN) if len(columns) > 1 else 1  # a figure of one column has no room for all in a row
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=beside, borderaxespad=0.2,
        alignment="left", title=f"medians (hollow below {FEW} examples) and quartiles", title_fontsize=7.5,
    )  # fmt: skip
    figure.align_ylabels(panels[:, 0])


def _bars(axes: Any, i: int, spreads: Sequence[Mapping[str, float]], label: str) -> None:
    """One series, moved aside a little so that three stand next to each other; a round with nobody is left out."""
    some = [k for k, one in enumerate(spreads) if one["n"]]
    x = np.asarray(some, dtype=np.float64) + (i - 1) * 0.24
    middle, low, high = (np.asarray([spreads[k][q] for k in some]) for q in ("q50", "q25", "q75"))
    style = look(i) | {"linestyle": "", "markersize": 3.8, "elinewidth": 1.2, "capsize": 1.5}
    axes.errorbar(x, middle, yerr=[middle - low, high - middle] if some else None, label=label, **style)
    few = np.asarray([spreads[k]["n"] < FEW for k in some], dtype=bool)
    if few.any():
        axes.plot(x[few], middle[few], marker=style["marker"], markersize=1.8, color="white", linestyle="", zorder=4)


# --- picks, layers, gates -----------------------------------------------------------------------


@drawing
def draw_overlap(figure: Any, names: Sequence[str], matrix: Array) -> None:
    """A heatmap of the overlap of picks. matrix: (strategies, strategies) in [0, 1]."""
    axes = figure.add_subplot()
    axes.imshow(matrix, vmin=0.0, vmax=1.0, cmap="Blues")
    axes.grid(False)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_title("share of picks in common (Jaccard)")
    _write_cells(axes, matrix, lambda value: f"{value:.2f}", lambda value: value <= 0.6)


@drawing
def draw_layers(figure: Any, names: Sequence[str], similar: Array, smooth: Array | None) -> None:
    """CKA with the base model over the layers, a line for each round, and beside it the smoothness of each layer.

    names: "base" and the rounds. similar: (rounds, layers). smooth: (1 + rounds, layers) or None.
    """
    plots = figure.subplots(1, 1 if smooth is None else 2, squeeze=False)[0]
    _over_layers(plots[0], names[1:], similar)
    plots[0].set_ylim(top=1.02)
    plots[0].set_ylabel("linear CKA with the base model")
    if smooth is not None:
        plots[1].plot(range(1, 1 + len(smooth[0])), smooth[0], label="base", color=MUTED, linestyle=":")
        _over_layers(plots[1], [], smooth[1:])
        plots[1].set_ylabel("Besov smoothness α of the labels")
    for axes in plots:
        axes.set_xlabel("layer")
    figure.legend(loc="outside upper left", ncols=4)


@drawing
def draw_gates(figure: Any, names: Sequence[str], gates: Mapping[str, Array]) -> None:
    """Mean gate over the layers, a panel for each part of the adapter and a line for each round.

    names: of the rounds. gates: part -> (rounds, layers) in (0, 1).
    """
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, (part, values) in zip(panels.flat, gates.items(), strict=False):
        _over_layers(axes, names if axes is panels[0, 0] else [], values)
        axes.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
        axes.set_title(part.replace("_", " "))
    for beside, below in zip(panels[:, 0], panels[1], strict=True):
        beside.set_ylabel("mean gate")
        below.set_xlabel("layer")
    figure.legend(loc="outside upper left", ncols=4)


def _over_layers(axes: Any, names: Sequence[str], values: Array) -> None:
    """A line for each round. names: of the rounds, none where another panel has them. values: (rounds, layers)."""
    for i, row in enumerate(values):
        axes.plot(range(1, 1 + len(row)), row, label=f"round {names[i]}" if names else None, **look(i))


# --- forgetting ---------------------------------------------------------------------------------


@drawing
def draw_map(
    figure: Any, frame: DataMap, events: Mapping[str, int], groups: Sequence[str], shares: Array, regions: Sequence[str]
) -> None:
    """A data map, forgetting events, and the regions of groups of examples.

    events: forgetting events -> examples. shares: (groups, regions) of each group's examples.
    """
    points, counts, bars = figure.subplots(1, 3, width_ratios=(1.3, 0.9, 1.1))
    every = max(1, -(-len(frame.confidence) // MOST_POINTS))
    of, left = frame.regions(), np.zeros(len(groups))
    for i, (region, colour) in enumerate(zip(regions, (COLOURS[4], COLOURS[1], COLOURS[3], MUTED), strict=True)):
        rows = np.flatnonzero(of == region)[::every]
        points.plot(
            frame.variability[rows], frame.confidence[rows], linestyle="", marker="os^x"[i], markersize=2.5,
            color=colour, label=region, alpha=0.7,
        )  # fmt: skip
        values = np.nan_to_num(shares[:, i]) if len(groups) else left
        bars.barh(range(len(groups)), values, left=left, color=colour, height=0.7)
        left = left + values
    points.set(xlabel="variability", ylabel="mean probability of the right answer", ylim=(-0.02, 1.02))
    counts.bar(range(len(events)), list(events.values()), color=COLOURS[0])
    counts.set_xticks(range(len(events)), list(events), rotation=45)
    counts.set(xlabel="times forgotten", ylabel="examples")
    counts.grid(False, axis="x")
    bars.set_yticks(range(len(groups)), list(groups))
    bars.invert_yaxis()
    bars.set(xlim=(0, 1), xlabel="share of its examples")
    bars.grid(False, axis="y")
    figure.legend(loc="outside upper left", ncols=4)
