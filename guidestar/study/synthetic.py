"""SYNTHETIC stand-ins for GSM8K, BoolQ and OpenBookQA, in the files' own forms, written by a seeded program.

Sums, comparisons and odd ones out: enough to see whether everything runs, and nothing more. Nobody wrote these
questions and no number measured on them means anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from guidestar.rng import generator
from guidestar.store.files import write_bytes

Row = dict[str, str]

TRAIN, TEST = 240, 60  # rows
_PLACES = ("shop", "farm", "kitchen", "library", "garden", "workshop", "harbour", "station")
_THINGS = ("apples", "books", "chairs", "boxes", "plants", "cups", "ropes", "lamps", "coins", "bricks")
_KINDS = {
    "an animal": ("horse", "otter", "wren", "lizard", "hare", "salmon", "beetle"),
    "a colour": ("red", "blue", "green", "violet", "brown", "grey", "orange"),
    "a tool": ("hammer", "chisel", "saw", "plane", "drill", "file", "pliers"),
    "a fruit": ("pear", "plum", "cherry", "quince", "lemon", "fig", "melon"),
}


def write_synthetic(folder: Path, seed: int = 0, train: int = TRAIN, test: int = TEST) -> None:
    """Write GSM8K/, BoolQ/ and OBQA/ with train.jsonl and test.jsonl of so many rows below `folder`; always the same bytes."""
    for name, make in (("GSM8K", _sum), ("BoolQ", _comparison), ("OBQA", _odd_one)):
        rows = _different(make, train + test, generator(seed, 0, f"synthetic/{name}"))
        parts = {"train": rows[:train], "test": rows[train:]}
        if name == "OBQA":  # the published files differ in this way, and reading them must not mind
            for row in parts["train"]:
                row["question"] = re.sub(r"\nAnswer([A-D]): ", r"\nAnswer\1 ", row["question"])
        for split, chosen in parts.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
            write_bytes(folder / name / f"{split}.jsonl", text.encode())


def tiny_texts(rows: int = 200) -> list[str]:
    """What the tiny model reads before it is tuned: questions of the three forms, choices answered at random."""
    rng = generator(0, 0, "synthetic/texts")
    texts = []
    for make in (_sum, _comparison, _odd_one):
        for row in _different(make, rows, rng):
            ending = f"\nAnswer the above question. First, think step by step and then answer the final number.\n{row['answer']}"
            if make is _comparison:
                ending = f"\nthe correct answer is {_one_of(('true', 'false'), rng)}"
            elif make is _odd_one:
                ending = " " + _one_of(("A", "B", "C", "D"), rng)
            texts.append(row["question"].rstrip() + ending)
    return texts


def _different(make: Callable[[np.random.Generator], Row], size: int, rng: np.random.Generator) -> list[Row]:
    rows: dict[str, Row] = {}
    while len(rows) < size:
        row = make(rng)
        rows.setdefault(row["question"], row)
    return list(rows.values())


def _sum(rng: np.random.Generator) -> Row:
    """A word problem of one step, with a worked answer in GSM8K's form."""
    a, b = (int(n) for n in rng.integers(2, 20, size=2))
    place, thing = _one_of(_PLACES, rng), _one_of(_THINGS, rng)
    if rng.random() < 0.5:
        c = a + b
        question = f"A {place} has {a} {thing}. It gets {b} more. How many {thing} does the {place} have now?"
        worked = f"The {place} has {a}+{b}=<<{a}+{b}={c}>>{c} {thing} now."
    else:
        c = a * b
        question = f"A {place} has {a} shelves with {b} {thing} each. How many {thing} are in the {place}?"
        worked = f"There are {a}*{b}=<<{a}*{b}={c}>>{c} {thing} in the {place}."
    return {"question": question, "answer": f"{worked}\n#### {c}"}


def _comparison(rng: np.random.Generator) -> Row:
    """A question to be answered with true or false, true for about three in five, in BoolQ's form."""
    low, high = sorted(int(n) for n in rng.choice(90, size=2, replace=False) + 1)
    truth = bool(rng.random() < 0.62)
    first, second = (high, low) if truth else (low, high)
    asked = f"are {first} {_one_of(_THINGS, rng)} more than {second}"
    begin = "Please answer the following question with true or false, question:"
    question = f"{begin} {asked}?\n\nAnswer format: true/false"
    return {"question": question, "answer": f"the correct answer is {str(truth).lower()}"}


def _odd_one(rng: np.random.Generator) -> Row:
    """Four choices of which one is of the kind asked for, in OpenBookQA's form."""
    kind, other = (str(name) for name in rng.choice(list(_KINDS), size=2, replace=False))
    right = int(rng.integers(4))
    words = [str(word) for word in rng.choice(_KINDS[other], size=4, replace=False)]
    words[right] = _one_of(_KINDS[kind], rng)
    listed = "\n".join(f"Answer{letter}: {word}" for letter, word in zip("ABCD", words, strict=True))
    return {"question": f"Which of these is {kind}\n{listed}\nThe correct answer is ", "answer": "ABCD"[right]}


def _one_of(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
