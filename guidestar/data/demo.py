"""SYNTHETIC data for the demo: messages of customers to an online shop, written by a seeded grammar.

Nobody wrote these messages and they measure nothing but the demo. The label is what the writer wants
now. It is decided by meaning, not by a keyword: parcels, cards, lids and thanks occur under every label,
and in the hard cases (about 28 %) two topics are named and one is settled, denied or meant ironically.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from guidestar.errors import DataError
from guidestar.rng import generator

Rows = list[dict[str, str]]
T = TypeVar("T")

SHARES = {"delivery": 0.34, "refund": 0.24, "account": 0.17, "exchange": 0.12, "stock": 0.08, "praise": 0.05}
SIZES = {"pool": 600, "test": 200, "validation": 100}
HARD_SHARE = 0.28
WORD_LIMITS = (6, 22)


def make_demo(seed: int, rows: int) -> Rows:
    """`rows` different synthetic messages, {"text": …, "label": …}; the same seed gives the same rows.

    Labels are drawn with the shares of `SHARES`. Raises DataError if `rows` is below 1.
    """
    if rows < 1:
        raise DataError(f"synthetic data: {rows} rows were asked for; allowed: 1 or more")
    rng = generator(seed, 0, "demo")
    labels, shares = list(SHARES), list(SHARES.values())
    made: Rows = []
    seen: set[str] = set()
    while len(made) < rows:
        label = labels[rng.choice(len(labels), p=shares)]
        text = _message(label, rng)
        key = re.sub(r"[^a-z0-9 ]", "", text.lower())
        if key not in seen and WORD_LIMITS[0] <= len(text.split()) <= WORD_LIMITS[1]:
            seen.add(key)
            made.append({"text": text, "label": label})
    return made


def make_splits(seed: int = 0, sizes: dict[str, int] | None = None) -> dict[str, Rows]:
    """Synthetic "pool", "test" and "validation" rows that share no message."""
    sizes = sizes or SIZES
    rows = iter(make_demo(seed, sum(sizes.values())))
    return {name: [next(rows) for _ in range(size)] for name, size in sizes.items()}


def write_demo(folder: Path, seed: int = 0, pool: int = 600, test: int = 200, validation: int = 100) -> None:
    """Write pool.csv, test.csv and validation.csv with the header text,label; always the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in make_splits(seed, {"pool": pool, "test": test, "validation": validation}).items():
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, ["text", "label"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        (folder / f"{name}.csv").write_bytes(buffer.getvalue().encode())


# --- the grammar --------------------------------------------------------------------------------


@cache
def grammar() -> dict[str, Any]:
    """The words of `demo.yaml`."""
    return dict(yaml.safe_load(Path(__file__).with_name("demo.yaml").read_text(encoding="utf-8")))


def _message(label: str, rng: np.random.Generator) -> str:
    """One message: the want, and around it an opener, a neutral sentence and a closer, each maybe."""
    words = grammar()
    hard = rng.random() < HARD_SHARE
    sentences = [_hard(label, rng) if hard else _one_of(words["wants"][label], rng)]
    if rng.random() < (0.2 if hard else 0.5):
        sentences.insert(int(rng.integers(2)), _one_of(words["neutral"], rng))
    if rng.random() < 0.35:
        sentences.append(_one_of(words["closers"].split("|"), rng))
    text = _expand(" / ".join(sentences), rng)
    opener = _one_of(words["openers"].split("|"), rng) if rng.random() < 0.4 else ""
    return _written(opener, text.split(" / "), rng)


def _hard(label: str, rng: np.random.Generator) -> str:
    """A want that its words alone do not give away."""
    words = grammar()
    if rng.random() < 0.3:
        return _one_of(words["indirect"][label], rng)
    want = _one_of(words["wants"][label], rng)
    if label == "praise":
        return f"{_one_of(words['overcome'], rng)}, but {want}"
    topic = _one_of([name for name in SHARES if name != label], rng)
    if rng.random() < 0.35:
        denied = _one_of(words["denied"][topic], rng)
        return f"{denied} {want}" if denied.endswith("but") else _joined(denied, want, ",", rng)
    settled = _one_of(words["settled"][topic], rng)
    if rng.random() < 0.6:
        return f"{settled}, {_one_of(words['but'].split('|'), rng)} {want}"
    return _joined(want, settled, f", {_one_of(['though', 'although', 'even if'], rng)}", rng)


def _joined(first: str, second: str, link: str, rng: np.random.Generator) -> str:
    """Two clauses; with a bare comma in either order. A question mark moves to the end."""
    if link == "," and rng.random() < 0.4:
        first, second = second, first
    mark = "?" if "?" in (first[-1], second[-1]) else ""
    return f"{first.rstrip('?')}{link} {second.rstrip('?')}{mark}"


def _expand(text: str, rng: np.random.Generator) -> str:
    """Choose in every [a|b], innermost first, then fill in every {name}."""
    while "[" in text:
        text = re.sub(r"\[([^\[\]]*)\]", lambda match: _one_of(match[1].split("|"), rng), text)
    words = {name: _one_of(options.split("|"), rng) for name, options in grammar()["words"].items()}
    words["colour2"] = _one_of([c for c in grammar()["words"]["colour"].split("|") if c != words["colour"]], rng)
    words["inches"], words["cents"] = (str(n) for n in rng.integers(5, 95, size=2))
    return re.sub(r"\ba (?=[aeiou])", "an ", text.format_map(words))


def _written(opener: str, sentences: list[str], rng: np.random.Generator) -> str:
    """The sentences as somebody types them: with care, in lower case, or with a slip of the finger."""
    style = rng.random()
    if opener:
        sentences = [f"{opener}, {sentences[0]}", *sentences[1:]]
    if style < 0.5:
        sentences = [s[0].upper() + s[1:] for s in sentences]
        text = " ".join(s if s.endswith("?") else f"{s}." for s in sentences)
    else:
        link = _one_of([". ", ", ", " - ", "... "], rng)
        text = link.join(s.rstrip("?") for s in sentences).lower()
        if style > 0.8:
            text = text.replace("'", "").replace(",", "")
    return _slip(text, rng) if rng.random() < 0.15 else text


def _slip(text: str, rng: np.random.Generator) -> str:
    """Swap or drop one inner letter of one longer word."""
    words = text.split(" ")
    longer = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not longer:
        return text
    at = _one_of(longer, rng)
    word, k = words[at], int(rng.integers(1, len(words[at]) - 2))
    letters = word[k + 1] + word[k] if rng.random() < 0.5 else word[k + 1]
    words[at] = word[:k] + letters + word[k + 2 :]
    return " ".join(words)


def _one_of(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.integers(len(options)))]
