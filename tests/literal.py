"""The slow, literal twins of the model room: one example and one token at a time, no padding, no cache."""

from __future__ import annotations

import math
from typing import Any

import torch


def distribution(model: Any, ids: list[int]) -> list[float]:
    """Probabilities of the next token after `ids`."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
    return torch.softmax(logits, dim=0).tolist()


def entropy(probabilities: list[float]) -> float:
    """−Σ p ln p, with 0 ln 0 = 0."""
    return -sum(p * math.log(p) for p in probabilities if p > 0)


def encode(base: Any, prompt: str, response: str) -> tuple[list[int], list[int]]:
    """Prompt tokens; response tokens behind a space or the prompt's own white space, with the end token."""
    both = base.tokenizer(prompt + ("" if prompt[-1].isspace() else " ") + response)["input_ids"]
    first = base.tokenizer(prompt)["input_ids"]
    assert both[: len(first)] == first, "the tokenizer joins prompt and response"
    return first, [*both[len(first) :], base.eos[0]]


def teacher_forced(base: Any, model: Any, prompt: str, response: str) -> tuple[float, float, int]:
    """STAR eq. 3 (−Σ log p of the response's tokens), the entropies at those positions, and their number."""
    ids, tokens = encode(base, prompt, response)
    nll = total = 0.0
    for token in tokens:
        p = distribution(model, ids)
        nll -= math.log(p[token])
        total += entropy(p)
        ids = [*ids, token]
    return nll, total, len(tokens)


def generated(base: Any, model: Any, prompt: str, limit: int) -> tuple[float, float, list[int]]:
    """STAR eq. 2: Σ entropies along the greedy response, its −log p, its tokens (end token included)."""
    ids = base.tokenizer(prompt)["input_ids"]
    nll = total = 0.0
    tokens: list[int] = []
    for _ in range(limit):
        p = distribution(model, ids)
        token = max(range(len(p)), key=p.__getitem__)
        nll -= math.log(p[token])
        total += entropy(p)
        tokens.append(token)
        ids = [*ids, token]
        if token in base.eos:
            break
    return total, nll, tokens


def padded(model: Any, rows: list[list[int]], side: str, pad: int) -> list[list[list[float]]]:
    """Probabilities after each token of each row, from one batch of all rows padded on `side`."""
    width = max(map(len, rows))
    ids, mask, positions, starts = [], [], [], []
    for row in rows:
        gap = width - len(row)
        left, right = (gap, 0) if side == "left" else (0, gap)
        ids.append([pad] * left + row + [pad] * right)
        mask.append([0] * left + [1] * len(row) + [0] * right)
        positions.append([0] * left + list(range(len(row))) + [0] * right)
        starts.append(left)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    with torch.no_grad():
        logits = model(**{name: torch.tensor(value) for name, value in inputs.items()}).logits.double()
    return [
        torch.softmax(logits[i, start : start + len(row)], dim=-1).tolist()
        for i, (row, start) in enumerate(zip(rows, starts, strict=True))
    ]


def along(after: list[list[float]], prompt: list[int], response: list[int]) -> tuple[float, float]:
    """(Σ entropies, Σ −ln p) over a response, from the probabilities after each token of prompt and response."""
    total = nll = 0.0
    for i, token in enumerate(response):
        p = after[len(prompt) + i - 1]
        total += entropy(p)
        nll -= math.log(p[token])
    return total, nll


def generated_with_cache(base: Any, model: Any, prompt: str, limit: int) -> float:
    """`generated`'s entropy, but each token is read once: under dropout it keeps the mask it was read with."""
    ids, cache, total = base.tokenizer(prompt)["input_ids"], None, 0.0
    for _ in range(limit):
        with torch.no_grad():
            out = model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True)
        p = torch.softmax(out.logits[0, -1].double(), dim=0).tolist()
        total += entropy(p)
        token, cache = max(range(len(p)), key=p.__getitem__), out.past_key_values
        if token in base.eos:
            break
        ids = [token]
    return total


def label_log_probs(base: Any, model: Any, prompt: str, words: list[str], whole: bool) -> list[float]:
    """ln p over the label words: by their first token after the common ones, or by all their tokens."""
    rows = [encode(base, prompt, word)[1] for word in words]
    shared = 0
    while len({row[shared] for row in rows}) == 1:
        shared += 1
    context = base.tokenizer(prompt)["input_ids"] + rows[0][:shared]
    scores = []
    for row in rows:
        rest = row[shared:] if whole else row[shared : shared + 1]
        ids, score = list(context), 0.0
        for token in rest:
            score += math.log(distribution(model, ids)[token])
            ids.append(token)
        scores.append(score)
    norm = math.log(sum(math.exp(s) for s in scores))
    return [s - norm for s in scores]
