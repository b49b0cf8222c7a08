"""Numbers of a whole learning curve: its area, and what active learning adds to random labelling.

Sources: Jukić and Šnajder 2023, arXiv 2305.14576; Zhang, Wu, Zhou, Xu 2024, arXiv 2403.01165 (eq. 8).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def auc(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Area under the learning curve: trapezoids over the steps, divided by the number of intervals.

    values: the metric at each point, as fractions. The x axis is the step, not the count of labels. A curve
    of one point has that value.
    Raises ValueError if there is no point or a value lies outside [0, 1].
    >>> auc([0.25, 0.5, 0.75])
    0.5
    """
    curve = np.asarray(values, dtype=np.float64)
    if curve.ndim != 1 or not len(curve):
        raise ValueError("a learning curve needs at least one point")
    if not ((curve >= 0) & (curve <= 1)).all():
        raise ValueError(f"values of a learning curve are fractions from 0 to 1, found {curve.tolist()}")
    if len(curve) == 1:
        return float(curve[0])
    return float(((curve[1:] + curve[:-1]) / 2).mean())


def ripl(auc_al: float, auc_random: float) -> float:
    """Relative improvement over passive learning, (AUC_AL − AUC_random)/(1 − AUC_random); a fraction.

    1 closes the whole gap to a perfect curve, 0 is random's level, below 0 is worse than random.
    Raises ValueError if an area lies outside [0, 1], or if random is perfect and leaves nothing to improve.
    >>> round(100 * ripl(0.2883, 0.2737), 2)
    2.01
    """
    if not (0 <= auc_al <= 1 and 0 <= auc_random <= 1):
        raise ValueError(f"areas are fractions from 0 to 1, found {auc_al} and {auc_random}")
    if auc_random == 1:
        raise ValueError("the random curve is perfect, so that no improvement over it is defined")
    return (auc_al - auc_random) / (1 - auc_random)
