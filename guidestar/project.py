"""Configurations that a person starts from: one written after looking at a data file, one for the demo."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from guidestar.data.demo import write_demo
from guidestar.data.formats import read_rows
from guidestar.data.tasks import MOST_LABELS
from guidestar.errors import ConfigError, DataError
from guidestar.store.files import write_bytes

LOOK = 5000  # rows looked at

_CONFIG = """\
# Written by `guidestar init` after looking at {rows} rows of {name}. Every key is explained in
# docs/config.md. Run it with: guidestar run {config}

out: {out}                # the folder to write to, beside this file
seeds: [0]                # one run for each seed and strategy; three or more give a spread
strategies: [star, random]  # random is the control; see `guidestar strategies`

data:
  pool: {pool}
{test}
{answer}
  # the prompt; {{column}} stands for a column of the file
  template: {template}

task:
{task}

model:
  name: smollm2-135m      # a short name, a folder, a .gguf file or a hub name

query:
  warm_start: {warm}         # labels of round 0, drawn at random
  batch: {batch}              # labels of every further round
  budget: {budget}            # labels in all

# peft: {{peft_type: LORA, r: 16, lora_alpha: 32, lora_dropout: 0.1, target_modules: all-linear}}
# train: {{epochs: 6, learning_rate: 5e-4}}
"""


def write_config(data: Path, out: Path | None, *, force: bool = False) -> tuple[Path, dict[str, Any]]:
    """Look at a data file and write a configuration that runs.

    Returns the path, and what was found: rows, columns, the chosen text and answer columns, notes for people.
    Raises DataError for a file that cannot be used, ConfigError if the configuration exists (unless `force`).
    """
    config = out or data.with_suffix(".yaml")
    if config.exists() and not force:
        raise ConfigError(f"{config}: exists already; use --force to replace it, or --out for another name")
    rows = [row.values for row in islice(read_rows(str(data), header=None), LOOK)]
    columns = list(rows[0])
    cells = {c: [str(r.get(c) or "") for r in rows] for c in columns}
    answer, labels = _answer_column(cells, len(rows))
    texts = [c for c in columns if c != answer and any(cells[c])]
    if not texts:
        raise DataError(f"{data}: no column with text besides {answer!r}")
    text = max(texts, key=lambda c: sum(map(len, cells[c])))
    budget = max(8, min(400, len(rows) // 2))
    warm = max(2, min(100, budget // 4))
    found = {
        "rows": len(rows), "columns": columns, "text": text, "answer": answer, "labels": labels,
        "notes": [
            f"{data.name}: {len(rows)}{' or more' if len(rows) == LOOK else ''} rows; columns: {', '.join(columns)}",
            f"text: {text}" + (f"; answer: {answer} ({len(labels)} labels)" if answer else "; no answer column: labels will be asked for"),
        ],
    }  # fmt: skip
    body = _CONFIG.format(
        rows=len(rows), name=data.name, config=config.name, out=f"runs/{data.stem}",
        pool=json.dumps(_relative(data, config.parent)),
        test="  test_share: 0.2         # no test file given: this share of the pool is set aside for the curve"
        if answer else "  # test: test.csv        # a labelled file, for the learning curve",
        answer=f"  answer: {json.dumps(answer)}           # the column with the gold answer; annotators are simulated with it"
        if answer else "  # answer: label         # a column with gold answers, to simulate annotators",
        template=json.dumps(f"{{{text}}}\nAnswer:"),
        task=_task(labels, answer), warm=warm, batch=max(1, min(50, (budget - warm) // 5)), budget=budget,
    )  # fmt: skip
    write_bytes(config, body.encode())
    return config, found


def _answer_column(cells: dict[str, list[str]], rows: int) -> tuple[str | None, list[str]]:
    """The column that looks like labels: a telling name first, then the fewest different short values."""
    best: tuple[float, str] | None = None
    for i, (name, values) in enumerate(cells.items()):
        kinds = Counter(v for v in values if v)
        few = 2 <= len(kinds) <= min(MOST_LABELS, max(2, rows // 4)) and all(len(k) <= 40 for k in kinds)
        if not few:
            continue
        telling = name.lower() in {
            "label",
            "labels",
            "answer",
            "class",
            "category",
            "intent",
            "target",
            "topic",
            "y",
        }
        rank = (0 if telling else 100) + len(kinds) - i / 1000  # of equals, the later column
        if best is None or rank < best[0]:
            best = (rank, name)
    if best is None:
        return None, []
    return best[1], sorted({v for v in cells[best[1]] if v})


def _task(labels: list[str], answer: str | None) -> str:
    if answer:
        return f"  kind: choice\n  labels: {json.dumps(labels, ensure_ascii=False)}"
    return (
        "  kind: choice            # choice, number or text\n"
        "  labels: [yes, no]       # <- your labels; write {label: word} to have the model write another word"
    )


def _relative(data: Path, folder: Path) -> str:
    try:
        return str(data.resolve().relative_to(folder.resolve()))
    except ValueError:
        return str(data.resolve())


_DEMO = """\
# The demo: a SYNTHETIC pool of customer messages, written by a seeded generator, never by customers.
out: .
seeds: [0]
strategies: [star, random]
data:
  preset: demo
  folder: data
model: {name: smollm2-135m}
query: {warm_start: 40, batch: 30, budget: 130, candidates: 300}
peft: {peft_type: LORA, r: 16, lora_alpha: 32, lora_dropout: 0.1, target_modules: all-linear}
train: {epochs: 4, batch_size: 8, learning_rate: 1e-3}
"""


def write_demo_project(folder: Path) -> Path:
    """Data and configuration of the demo in `folder`, left alone where they exist; returns the configuration."""
    if not (folder / "data").is_dir():
        write_demo(folder / "data")
    config = folder / "demo.yaml"
    if not config.exists():
        write_bytes(config, _DEMO.encode())
    return config
