"""The picture of the probe `forgetting`: a data map, forgetting events, and the regions of groups of examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from guidestar.records import Array
from guidestar.report.style import COLOURS, MUTED
from guidestar.study.analyses.dynamics import DataMap
from guidestar.study.probes.figures import Draw

MOST_POINTS = 4000  # of the map that are drawn


def draw_map(
    frame: DataMap, events: Mapping[str, int], groups: Sequence[str], shares: Array, regions: Sequence[str]
) -> Draw:
    """Three panels. events: forgetting events -> examples. shares: (groups, regions) of each group's examples."""

    def draw(figure: Any) -> None:
        points, counts, bars = figure.subplots(1, 3, width_ratios=(1.3, 0.9, 1.1))
        every = max(1, -(-len(frame.confidence) // MOST_POINTS))
        of = frame.regions()
        for i, region in enumerate(regions):
            rows = np.flatnonzero(of == region)[::every]
            points.plot(
                frame.variability[rows], frame.confidence[rows], linestyle="", marker="os^x"[i % 4], markersize=2.5,
                color=_colour(i), label=region, alpha=0.7,
            )  # fmt: skip
        points.set_xlabel("variability")
        points.set_ylabel("mean probability of the right answer")
        points.set_ylim(-0.02, 1.02)
        counts.bar(range(len(events)), list(events.values()), color=COLOURS[0])
        counts.set_xticks(range(len(events)), list(events), rotation=45)
        counts.set_xlabel("times forgotten")
        counts.set_ylabel("examples")
        counts.grid(False, axis="x")
        left = np.zeros(len(groups))
        for i in range(len(regions)):
            values = np.nan_to_num(shares[:, i]) if len(groups) else left
            bars.barh(range(len(groups)), values, left=left, color=_colour(i), height=0.7)
            left = left + values
        bars.set_yticks(range(len(groups)), list(groups))
        bars.invert_yaxis()
        bars.set_xlim(0, 1)
        bars.set_xlabel("share of its examples")
        bars.grid(False, axis="y")
        figure.legend(loc="outside upper left", ncols=4)

    return draw


def _colour(i: int) -> str:
    return (COLOURS[4], COLOURS[1], COLOURS[3], MUTED)[i % 4]
