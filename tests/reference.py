"""Slow, literal versions of the formulas, in plain loops; the fast functions are compared with them."""

from __future__ import annotations

import itertools
import math


def entropy(log_probs):
    """H = −Σ_c p_c ln p_c of one example."""
    h = 0.0
    for log_p in log_probs:
        p = math.exp(log_p)
        if p > 0:
            h -= p * math.log(p)
    return h


def mean_distribution(passes):
    """ln p̄_c with p̄ = (1/K) Σ_k p_k; `passes` are K lists of log-probabilities of one example."""
    means = [sum(math.exp(one[c]) for one in passes) / len(passes) for c in range(len(passes[0]))]
    return [math.log(p) if p > 0 else -math.inf for p in means]


def entropy_of_mean(passes):
    return entropy(mean_distribution(passes))


def bald(passes):
    """H(p̄) − (1/K) Σ_k H(p_k)."""
    return entropy_of_mean(passes) - sum(entropy(one) for one in passes) / len(passes)


def least_confidence(log_probs):
    return 1 - max(math.exp(log_p) for log_p in log_probs)


def margin(log_probs):
    first, second = sorted((math.exp(log_p) for log_p in log_probs), reverse=True)[:2]
    return 1 - (first - second)


def maximum_entropy(token_log_probs):
    """STAR eq. 2: −Σ_i Σ_v p(v) ln p(v); one list of log-probabilities over the vocabulary for each token."""
    return sum(entropy(vocabulary) for vocabulary in token_log_probs)


def predictive_entropy(token_log_probs, gold_tokens):
    """STAR eq. 3: −Σ_i ln p(z̄_i) along the gold response."""
    return -sum(vocabulary[token] for vocabulary, token in zip(token_log_probs, gold_tokens, strict=True))


def mean_over_passes(values):
    """STAR eq. 7: (1/K) Σ_k μ_k; `values` are K lists over the examples."""
    return [sum(one[i] for one in values) / len(values) for i in range(len(values[0]))]


def dynamic_uncertainty(base, full, lam):
    """STAR eq. 5: λ μ_b + (1 − λ) μ_f."""
    return [lam * b + (1 - lam) * f for b, f in zip(base, full, strict=True)]


def published_linear(t):
    """λ of STAR's published code, which is written for ten rounds."""
    return 1 - 0.1 * (t + 1)


def published_mix(base, full, lam):
    """The mix of STAR's published code: base values min-max scaled, the tuned model's as they are."""
    low, high = min(base), max(base)
    return [lam * (b - low) / (high - low) + (1 - lam) * f for b, f in zip(base, full, strict=True)]


def linear_rate(step, peak, warmup, length):
    """The learning rate of a step: up over the first steps, down to 0 at `length`, 0 after."""
    if step < warmup:
        return peak * step / warmup
    return peak * max(0.0, (length - step) / (length - warmup))


def average_rank(values):
    """The share of the others below, ties counted half; 0 for a single value."""
    others = max(len(values) - 1, 1)
    return [(sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2) / others for x in values]


def k_center(points, centres, k):
    """Sener and Savarese 2018, algorithm 1. `centres` must not be empty; ties go to the first."""
    centres, chosen = [list(c) for c in centres], []
    for _ in range(min(k, len(points))):
        best, farthest = -1, -1.0
        for i, point in enumerate(points):
            nearest = min(math.dist(point, centre) for centre in centres)
            if i not in chosen and nearest > farthest:
                best, farthest = i, nearest
        chosen.append(best)
        centres.append(list(points[best]))
    return chosen


def balance(predicted, order, counts, k):
    """Each time the best in `order` of the rarest class that still has someone."""
    counts, left, chosen = list(counts), list(order), []
    for _ in range(min(k, len(order))):
        fewest = min(counts[predicted[i]] for i in left)
        i = next(i for i in left if counts[predicted[i]] == fewest)
        counts[predicted[i]] += 1
        left.remove(i)
        chosen.append(i)
    return chosen


def auc(values):
    """Trapezoids of width 1, divided by the number of intervals."""
    area = 0.0
    for left, right in itertools.pairwise(values):
        area += (left + right) / 2
    return area / (len(values) - 1)


def macro_f1(predicted, gold, labels):
    scores = []
    for label in range(labels):
        tp = sum(p == label == g for p, g in zip(predicted, gold, strict=True))
        fp = sum(p == label != g for p, g in zip(predicted, gold, strict=True))
        fn = sum(g == label != p for p, g in zip(predicted, gold, strict=True))
        if tp + fp + fn:
            scores.append(2 * tp / (2 * tp + fp + fn))
    return sum(scores) / len(scores)


def ece(log_probs, gold, bins):
    """Σ over bins (j/bins, (j+1)/bins] of (share of examples) · |accuracy − mean confidence|."""
    result = 0.0
    for j in range(bins):
        inside = []
        for row, answer in zip(log_probs, gold, strict=True):
            confidence = math.exp(max(row))
            if j / bins < confidence <= (j + 1) / bins:
                inside.append((confidence, list(row).index(max(row)) == answer))
        if inside:
            mean_confidence = sum(c for c, _ in inside) / len(inside)
            mean_accuracy = sum(right for _, right in inside) / len(inside)
            result += len(inside) / len(gold) * abs(mean_accuracy - mean_confidence)
    return result


def brier(log_probs, gold):
    total = 0.0
    for row, answer in zip(log_probs, gold, strict=True):
        total += sum((math.exp(log_p) - (c == answer)) ** 2 for c, log_p in enumerate(row))
    return total / len(gold)


def answer_entropy(answers):
    """−Σ_a (c_a/K) ln (c_a/K) over the different answers of K responses."""
    counts = {}
    for answer in answers:
        counts[answer] = counts.get(answer, 0) + 1
    return sum(-count / len(answers) * math.log(count / len(answers)) for count in counts.values())


def sampled_response(model, prompt, draws, temperature, ends):
    """Token by token, with the whole text read again each time: walk along the vocabulary until the draw is used up."""
    import torch

    ids = []
    for draw in draws:
        logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, -1].double()
        left, token = draw, -1
        for p in torch.softmax(logits / temperature, dim=-1).tolist():
            left, token = left - p, token + 1
            if left < 0:
                break
        if token in ends:
            break
        ids.append(token)
    return ids


def token_values(logits, goal):
    """(−log p of the goal, entropy) from one row of logits, in double precision."""
    top = max(logits)
    log_z = top + math.log(sum(math.exp(x - top) for x in logits))
    log_p = [x - log_z for x in logits]
    return -log_p[goal], -sum(math.exp(x) * x for x in log_p if math.exp(x) > 0)


def attention(query, key, value, mask, scaling):
    """softmax(scaling · q · k + mask) · v for every row, head and token; a group of heads shares keys and values."""
    import torch

    rows, heads, tokens, _ = query.shape
    group = heads // key.shape[1]
    out = torch.zeros(rows, tokens, heads, value.shape[-1], dtype=query.dtype)
    for row in range(rows):
        for head in range(heads):
            for token in range(tokens):
                scores = [scaling * float(query[row, head, token] @ k) for k in key[row, head // group]]
                scores = [s + float(m) for s, m in zip(scores, mask[row, 0, token], strict=True)]
                top = max(scores)
                weights = [math.exp(s - top) for s in scores]
                for weight, v in zip(weights, value[row, head // group], strict=True):
                    out[row, token, head] += weight / sum(weights) * v
    return out
