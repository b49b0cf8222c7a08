"""What a training chose or estimated beside its weights, in sentences: layers, ranks, entries, the density of activations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from guidestar.records import Array
from guidestar.words import listed, percent

NAME = "training"  # of the arrays of a round
NOT_RELU = "a share near 100 % is what models with GELU or SiLU have, whose activations are hardly ever 0: there the term means nothing"


def sentences(arrays: Mapping[str, Array]) -> list[str]:
    """arrays: as `Trained.arrays` and `Tuning` keep them.

    >>> sentences({"mask_overlap": np.array([0.5])})
    ['50 % of the chosen entries are those of the round before']
    """
    said = []
    if "weak_labels" in arrays:
        used, asked, agreed, both = arrays["weak_labels"].astype(int).tolist()
        took = f"{used} answers of the endpoint were learned from as weak labels"
        if not used:
            took = f"none of {asked} answers of the endpoint was learned from, as they do not help out of fold"
        agrees = f"; it agrees with {agreed} of {both} labels that were given beside its own" if both else ""
        said.append(took + agrees)
    if "fisher" in arrays:
        values, chosen = arrays["fisher"], arrays["layers"].astype(int).tolist()
        share = float(values[chosen].sum() / values.sum()) if values.sum() else 0.0
        said.append(
            f"Fisher information chose layer{'s' * (len(chosen) > 1)} {listed(map(str, chosen))} of {len(values)} "
            f"(counted from 0), with {percent(share)} of the information"
        )
    if "ranks" in arrays:
        ranks = arrays["ranks"]
        best = ranks[ranks[:, 1].argmin()]
        tried = ", ".join(f"{int(r)}: {nats:.3f}" for r, nats in ranks)
        said.append(f"rank {int(best[0])} had the least loss on held-out labels (nats of a token by rank: {tried})")
    if "importance" in arrays:
        order = np.argsort(arrays["importance"], kind="stable")
        said.append(f"layers from the most to the least important by estimate: {', '.join(map(str, order.tolist()))}")
    if "density" in arrays:
        before, after = arrays["density"].mean(axis=1)
        said.append(f"{percent(after)} of the activations are not zero, before the training {percent(before)}")
        if after > 0.9:
            said.append(NOT_RELU)
    if "mask_overlap" in arrays:
        said.append(f"{percent(float(arrays['mask_overlap'][0]))} of the chosen entries are those of the round before")
    return said
