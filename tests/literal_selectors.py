"""Slow, literal versions of the batch selectors, written from the papers; the fast ones are compared with them."""

from __future__ import annotations

import itertools
import math

import numpy as np


def gradient(log_probs, state):
    """The gradient of −ln p(ŷ) by the label rows of the output projection, built: (labels × width,)."""
    p = np.exp(log_probs)
    p[int(np.argmax(p))] -= 1.0
    return np.outer(p, state).ravel()


def badge(log_probs, points, uniform, k):
    """Ash et al. 2020 on the built gradients. uniform: numbers in [0, 1), one for each draw after the first choice."""
    gradients = [gradient(row, point) for row, point in zip(log_probs, points, strict=True)]
    chosen = [int(np.argmax([np.linalg.norm(g) for g in gradients]))]
    for u in uniform[: k - 1]:
        distance = np.array([min(((g - gradients[c]) ** 2).sum() for c in chosen) for g in gradients])
        chosen.append(int(np.searchsorted(np.cumsum(distance / distance.sum()), u, side="right")))
    return chosen


def log_det(points, labelled, k, ridge):
    """FisherSFT's greedy choice with a determinant for each candidate of each step."""
    scale = math.sqrt(np.mean([point @ point for point in points]))
    points, labelled = points / scale, labelled / scale
    matrix = ridge * np.eye(points.shape[1]) + labelled.T @ labelled
    chosen = []
    for _ in range(k):
        values = [
            -math.inf if i in chosen else np.linalg.slogdet(matrix + np.outer(x, x))[1] for i, x in enumerate(points)
        ]
        chosen.append(int(np.argmax(values)))
        matrix = matrix + np.outer(points[chosen[-1]], points[chosen[-1]])
    return chosen


def joint_information(label_log_probs, batch):
    """I(y_1 … y_b; ω) = H(y_1 … y_b) − (1/K) Σ_k Σ_i H(p_k(y_i)), over all labelings."""
    probabilities = np.exp(label_log_probs)
    passes, _, labels = probabilities.shape
    joint = 0.0
    for labeling in itertools.product(range(labels), repeat=len(batch)):
        p = np.mean(
            [math.prod(probabilities[k, i, y] for i, y in zip(batch, labeling, strict=True)) for k in range(passes)]
        )
        if p > 0:
            joint -= p * math.log(p)
    alone = [-sum(p * math.log(p) for p in probabilities[k, i] if p > 0) for k in range(passes) for i in batch]
    return joint - sum(alone) / passes


def batch_bald(label_log_probs, k):
    chosen: list[int] = []
    for _ in range(k):
        values = [
            -math.inf if i in chosen else joint_information(label_log_probs, [*chosen, i])
            for i in range(label_log_probs.shape[1])
        ]
        chosen.append(int(np.argmax(values)))
    return chosen


def contrast(points, log_probs, labelled_points, labelled_log_probs, neighbours):
    """CAL, algorithm 1: the mean KL(p_neighbour ‖ p_candidate)."""
    scores = []
    for point, logs in zip(points, log_probs, strict=True):
        order = sorted(range(len(labelled_points)), key=lambda j: math.dist(point, labelled_points[j]))
        divergence = [
            sum(math.exp(a) * (a - b) for a, b in zip(labelled_log_probs[j], logs, strict=True))
            for j in order[:neighbours]
        ]
        scores.append(sum(divergence) / len(divergence))
    return scores


def on_the_sphere(points):
    """Centred unit vectors; the small common coordinate of the fast version is left out."""
    moved = points - points.mean(axis=0)
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def facility_location(points, labelled, k):
    """Greedy on Σ_a max_s (1 + cos(a, s))/2, every sum from scratch."""
    unit = on_the_sphere(np.concatenate([points, labelled]))
    similar = 0.5 + 0.5 * unit @ unit.T
    chosen: list[int] = []
    for _ in range(k):
        have = [*range(len(points), len(unit)), *chosen]
        values = [-1.0 if i in chosen else similar[:, [*have, i]].max(axis=1).sum() for i in range(len(points))]
        chosen.append(int(np.argmax(values)))
    return chosen


def prob_cover(points, labelled, k, radius):
    """Yehuda et al. 2022, algorithm 1, on the graph of all pairs within the radius."""
    unit = on_the_sphere(np.concatenate([points, labelled]))
    graph = np.linalg.norm(unit[:, None] - unit[None], axis=2) <= radius
    covered = graph[len(points) :].any(axis=0)
    chosen: list[int] = []
    for _ in range(k):
        values = [-1 if i in chosen else int((graph[i] & ~covered).sum()) for i in range(len(points))]
        chosen.append(int(np.argmax(values)))
        covered |= graph[chosen[-1]]
    return chosen


def purity(points, of, radius):
    """Share of points all of whose neighbours within the radius are of their own cluster."""
    pure = [
        all(of[i] == of[j] for j in range(len(points)) if math.dist(points[i], points[j]) <= radius)
        for i in range(len(points))
    ]
    return sum(pure) / len(points)


def typicality(points, neighbours):
    """1 / mean distance to the nearest others."""
    found = []
    for i, point in enumerate(points):
        apart = sorted(math.dist(point, other) for j, other in enumerate(points) if j != i)[
            : min(neighbours, len(points) // 2)
        ]
        found.append(1.0 / (sum(apart) / len(apart) + 1e-5))
    return found


def mixed_k_center(views, k):
    """k-centre with d = Σ_v w_v ‖x_v − y_v‖; views are (points, labelled, weight)."""
    n = len(views[0][0])
    centres = [[labelled[j] for _, labelled, _ in views] for j in range(len(views[0][1]))]
    chosen: list[int] = []
    for _ in range(k):
        values = []
        for i in range(n):
            apart = [
                sum(w * math.dist(points[i], centre[v]) for v, (points, _, w) in enumerate(views)) for centre in centres
            ]
            values.append(-1.0 if i in chosen else min(apart))
        chosen.append(int(np.argmax(values)))
        centres.append([points[chosen[-1]] for points, _, _ in views])
    return chosen


def anchor_scores(points, labelled, anchors, neighbours):
    """AnchorAL: mean cosine to those anchors that count a candidate among their nearest; None where there is none."""
    unit = on_the_sphere(np.concatenate([points, labelled]))
    mine, known = unit[: len(points)], unit[len(points) :]
    brought: list[list[float]] = [[] for _ in points]
    for a in anchors:
        near = mine @ known[a]
        for i in np.argsort(-near)[:neighbours]:
            brought[i].append(near[i])
    return [float(np.mean(one)) if one else None for one in brought]


def herding_kernel(points, others, sigma):
    """exp(−‖x − s‖²/(2σ²)) of unit vectors, from every distance."""
    unit = [row / np.linalg.norm(row) for row in points]
    theirs = [row / np.linalg.norm(row) for row in others]
    return np.array([[math.exp(-((a - b) @ (a - b)) / (2 * sigma**2)) for b in theirs] for a in unit])


def kernel_radius(points):
    unit = [row / np.linalg.norm(row) for row in points]
    return 0.7 * float(np.median([math.dist(a, b) for a, b in itertools.combinations(unit, 2)]))


def herding_gains(points, labelled, chosen, weights):
    """For every choice in turn: how much coverage, Σ u(x) max_s K(x, s), it adds, and the most that any could add."""
    kernel = herding_kernel(points, np.concatenate([labelled, points]), kernel_radius(points))
    have, gains = list(range(len(labelled))), []
    for one in chosen:
        before = sum(u * max([row[s] for s in have], default=0.0) for u, row in zip(weights, kernel, strict=True))
        added = [
            sum(u * max(row[s] for s in [*have, len(labelled) + i]) for u, row in zip(weights, kernel, strict=True))
            - before
            for i in range(len(points))
        ]
        gains.append((added[one], max(added)))
        have.append(len(labelled) + one)
    return gains
