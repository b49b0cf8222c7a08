"""Configurations that a person starts from: one written after looking at a data file, one for the demo."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from guidestar.config import read_file
from guidestar.data.demo import write_demo
from guidestar.data.formats import read_rows
from guidestar.data.textfile import guess_encoding
from guidestar.errors import ConfigError, DataError, allowed
from guidestar.store.files import check_output, publish_folder, write_bytes
from guidestar.tasks import ANSWER, MOST_LABELS, Choice
from guidestar.tasks.choice import labels_in
from guidestar.tasks.common import label_key, shown, visible
from guidestar.tasks.multi_label import several_in

LOOK = 100_000  # rows looked at
NO_COLUMN = "none"  # of the answers, said on the command line

_CONFIG = """\
# Written by `guidestar init` after looking at {rows} rows of {name}.
# Every key is explained in docs/config.md. Next: {following}

# the folder to write to, beside this file
out: {out}
{strategies}

data:
  pool: {pool}{encoding}
{answer}
  # the prompt; {{column}} stands for a column of the file
{template}{blank}

task:
{task}

model:
  # a short name (see `guidestar models`), a folder, a .gguf file or a hub name
  name: {model}
  # how classes are told apart: by words, or by a head on an encoder's states (docs/encoders.md)
  head: {head}

query:
  # labels of round 0, which lean spreads over the pool and others draw at random; of every further round; and in all
  warm_start: {warm}
  batch: {batch}
  budget: {budget}

train:
  # steps enough to move a model with few labels, by its kind (docs/training.md)
  recipe: lean

# peft: {{peft_type: LORA, r: 16, lora_alpha: 32, lora_dropout: 0.1, target_modules: all-linear}}
"""

_WITH_ANSWER = """\
  # annotators are simulated with this column
  answer: {answer}
  # no test file given: this share of the pool is set aside for the learning curve
  test_share: 0.2"""

_WITHOUT_ANSWER = """\
  # no answer column: labels are asked for. A labelled file gives a learning curve, another one an accuracy while
  # labelling; answer is their column with the labels:
  # test: test.csv
  # validation: validation.csv
  # answer: label"""

_SOME_ANSWERS = """\
  # people are asked, because some rows have no answer; those that have one are the test set, as far as this share of
  # them goes, and the others come in with: guidestar import RUN FILE
  answer: {answer}
  test_share: 0.2"""

_ANSWER = "\nAnswer:"
_ENCODER, _LANGUAGE = "all-minilm-l6-v2", "smollm2-135m"
ENCODED = 1000  # characters of a text that the encoder surely reads to its end
_SIMULATED = """\
# one run for each seed and strategy: three seeds or more give a spread, random is the control
seeds: [0]
strategies: [{use}, random]"""

_ASKED = """\
# every strategy asks for labels of its own, so people answer one
strategies: [{use}]"""

_PEOPLE = "\nannotator: people"

_KINDS = {"number": "a final number", "text": "free text"}
_TELLING = {
    "label",
    "labels",
    "answer",
    "class",
    "category",
    "categories",
    "intent",
    "tags",
    "target",
    "topic",
    "topics",
    "y",
}


def _is_configuration(path: Path) -> bool:
    try:
        return "data" in read_file(path)[0]
    except ConfigError:
        return False


def write_config(
    data: Path, out: Path | None, *, force: bool = False, answer: str | None = None, text: str | None = None,
    labels: Sequence[str] | None = None,
) -> tuple[Path, dict[str, Any]]:  # fmt: skip
    """Look at a data file and write a configuration that runs, once it has labels.

    answer, text: the columns; guessed without. answer "none": labels will be asked for. labels: what a choice is between;
    without them those of the answer column, and without one none, which no command takes before somebody has put them in.
    Returns the path, and what was found: rows, columns, the chosen text and answer columns, how many rows lack an answer,
    notes for people. Raises DataError for a file that cannot be used, ConfigError if the configuration exists (unless
    `force`), for a column that is not there, or for labels where the answers are none.
    """
    plain = data.name not in ("", "..")  # "." is a place and has no name
    named = data if plain else data.parent / (data.resolve().name or "data")
    named = named.with_suffix("") if named.suffix.lower() == ".gz" else named
    config = out or named.with_suffix(".yaml")
    if config.exists() and not force:
        raise ConfigError(f"{config}: exists already; use --force to replace it, or --out for another name")
    check_output(config, _is_configuration, "a configuration")
    encoding = guess_encoding(data) if data.is_file() else None
    looked = list(islice(read_rows(str(data), encoding=encoding), LOOK))
    rows = [row.values for row in looked]
    columns = list(dict.fromkeys(c for row in looked for c in row.columns))  # the first may hold nulls
    cells = {c: [str(r.get(c) or "") for r in rows] for c in columns}
    for option, name in (("answer", None if answer == NO_COLUMN else answer), ("text", text)):
        if name is not None and name not in columns:
            raise ConfigError(f"--{option} {name}: no such column; {allowed(columns, name)}")
    guessed, given = answer is None, list(labels or [])
    kind, known = "choice", list[str]()
    if answer == NO_COLUMN:
        answer = None
    else:
        kind, answer, known = _answer_column({answer: cells[answer]} if answer else cells, len(rows), answer)
    if given and kind not in ("choice", "multi_label"):
        raise ConfigError(f"--labels: the answers in {answer!r} are no choice but {_KINDS[kind]}; leave it out")
    if labels is not None:
        Choice(tuple(given), tuple(given))  # says what is wrong with them
    if given and (others := [name for name in known if label_key(name) not in set(map(label_key, given))]):
        raise ConfigError(
            f"--labels: {answer!r} holds others, too: {', '.join(others[:5])}; name all, or give --answer {NO_COLUMN}"
        )
    texts = [c for c in columns if c != answer and any(cells[c])]
    if not texts:
        raise DataError(f"{data}: no column with text besides {answer!r}")
    text = text or max(texts, key=lambda c: sum(map(len, cells[c])))
    texted = [bool(cell.strip()) for cell in cells[text]]
    missing = (
        sum(not cell.strip() and there for cell, there in zip(cells[answer], texted, strict=True)) if answer else 0
    )
    asked, ready = answer is None or missing > 0, bool(answer or given)
    budget = max(8, min(400, len(rows) // 2))
    what = {
        "choice": f"a choice of {len(given or known)} labels", "multi_label": f"any number of {len(given or known)} labels"
    }.get(kind) or _KINDS[kind]  # fmt: skip
    more = " or more" if len(rows) == LOOK else ""
    notes = [
        f"{named.name}: {len(rows)}{more} rows; columns: {_listed(columns)}",
        f"text: {text}; answer: {answer} ({what})"
        if answer
        else f"text: {text}; no answer column: labels will be asked for",
    ]
    if encoding:
        notes.append(f"the file is not UTF-8 and was read as {encoding}; if letters are wrong, change data.encoding")
    if answer and guessed and answer.lower() not in _TELLING:
        notes.append(f"guessed: if {answer} holds no labels, start again with --answer COLUMN, or --answer {NO_COLUMN}")
    if answer and missing:
        notes.append(
            f"{missing} of {len(rows)} rows have no {answer}, so people will be asked; once the run has begun, "
            f"guidestar import RUN {data} brings in the labels that are there"
        )
    if blank := texted.count(False):
        notes.append(f"{blank} of {len(rows)} rows have no {text} and are left out (data.blank: drop)")
    if answer and known and kind == "choice":
        notes += _merged(cells[answer], given or known)
    model, why = _model(kind, cells[text])
    encoder, lean = model == _ENCODER, model == _ENCODER and kind == "choice"
    warm = max(2, min(20 if lean else 100, budget // 4))
    batch = max(1, min(20 if lean else 50, (budget - warm) // 5))
    notes.append(f"model: {model}, {why}")
    body = _CONFIG.format(
        model=model, rows=len(rows), name=named.name, following=following(config.name, asked, ready), out=_quoted(f"runs/{named.stem}"),
        pool=_quoted(_relative(data, config.parent)), template=_template(text, columns, "" if encoder else _ANSWER),
        head="features" if lean else "auto",
        encoding=f"\n  # guessed by the file's bytes, which are not UTF-8\n  encoding: {encoding}" if encoding else "",
        strategies=f"{(_ASKED if asked else _SIMULATED).format(use='lean' if lean else 'star')}{_PEOPLE if missing else ''}",
        answer=(_SOME_ANSWERS if missing else _WITH_ANSWER).format(answer=_quoted(answer)) if answer else _WITHOUT_ANSWER,
        blank="\n  # rows without text are left out\n  blank: drop" if blank else "",
        task=_task(kind, given or (known if len(rows) < LOOK else []), ready), warm=warm, batch=batch, budget=budget,
    )  # fmt: skip
    write_bytes(config, body.encode())
    found = {
        "rows": len(rows),
        "columns": columns,
        "text": text,
        "kind": kind,
        "answer": answer,
        "labels": given or known,
    }
    return config, found | {
        "missing": missing,
        "asked": asked,
        "next": following(str(config), asked, ready),
        "notes": notes,
    }


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:50]) + (f" and {len(names) - 50} more" if len(names) > 50 else "")


def _model(kind: str, texts: Sequence[str]) -> tuple[str, str]:
    """The model to begin with, and why."""
    if kind not in ("choice", "multi_label"):
        return _LANGUAGE, "a language model, because the answers have to be written"
    if (longest := max(map(len, texts))) > ENCODED:
        return (
            _LANGUAGE,
            f"a language model: the longest text has {longest} characters, more than the small encoder reads",
        )
    return (
        _ENCODER,
        "an encoder: it tells classes apart after fewer labels than a small language model, and needs no GPU",
    )


def following(config: str, asked: bool, ready: bool) -> str:
    """How to go on with a configuration. ready: its labels are known."""
    command = f"guidestar label {config} --train" if asked else f"guidestar run {config}"
    return command if ready else f"put your labels into it (task.labels), then: {command}"


def _merged(cells: list[str], labels: list[str]) -> list[str]:
    """A sentence where several spellings of a label count as one."""
    spellings: dict[str, list[str]] = {label_key(label): [label] for label in labels}
    for cell in dict.fromkeys(cell.strip() for cell in cells if visible(cell)):
        if cell not in spellings.setdefault(label_key(cell), []):
            spellings[label_key(cell)].append(cell)
    several = [" and ".join(map(shown, names)) for names in spellings.values() if len(names) > 1]
    return [f"spellings that count as one label: {'; '.join(several)}"] if several else []


def _answer_column(
    cells: dict[str, list[str]], rows: int, named: str | None = None
) -> tuple[str, str | None, list[str]]:
    """(task kind, column, labels): a column with few short values, a telling name first; else a telling name
    with worked answers ("#### 7") or texts; else a choice without a column. named: the column, where it is known."""
    best: tuple[float, str, list[str]] | None = None
    longest = None if named else max(cells, key=lambda name: sum(map(len, cells[name])))  # the text to be labelled
    for i, (name, values) in enumerate(cells.items()):
        kinds = Counter(label_key(v) for v in values if visible(v))
        few = 2 <= len(kinds) <= min(MOST_LABELS, max(2, rows // 4)) and all(len(k) <= 40 for k in kinds)
        several = [] if name == longest and not named else list(several_in(values))
        rank = (
            (0 if name.lower() in _TELLING else 100) + len(several or kinds) - i / 1000
        )  # of equals, the later column
        if (few or several) and name != longest and (best is None or rank < best[0]):
            best = (rank, name, several)
    if best is not None and best[2]:
        return "multi_label", best[1], best[2]
    if best is not None:
        return "choice", best[1], list(labels_in([v for v in cells[best[1]] if visible(v)], ANSWER))
    for name, values in cells.items():
        worked = all("####" in v for v in values if v)  # a worked answer may be longer than its question
        if named and any(values):
            return "number" if worked else "text", name, []
        if name.lower() in _TELLING and any(values) and len(cells) > 1 and (worked or name != longest):
            return "number" if worked else "text", name, []
    return "choice", None, []


def _task(kind: str, labels: list[str], ready: bool) -> str:
    if kind not in ("choice", "multi_label") or (
        ready and not labels
    ):  # not all rows were looked at: the data have the labels
        return f"  kind: {kind}"
    mine = (
        ""
        if ready
        else "  # put your labels between the brackets: [billing, delivery]; other kinds: multi_label, number, text\n"
    )
    hint = "  # write {label: word, …} to have the model write another word than the label\n"
    return f"  kind: {kind}\n{mine}{hint}  labels: {_quoted(labels)}"


def _template(text: str, columns: list[str], behind: str) -> str:
    """The template's line, with what stands behind the text; a column whose name cannot stand in a template is called by another one."""
    if not set(text) & set("{}[].:!") and text.strip():
        return f"  template: {_quoted(f'{{{text}}}{behind}')}"
    name = next(name for name in ("text", "input", "message", *map(str, range(9))) if name not in columns)
    return f"  columns: {{{name}: {_quoted(text)}}}\n  template: {_quoted(f'{{{name}}}{behind}')}"


def _quoted(value: str | list[str]) -> str:
    """A text, or a list of texts, that YAML cannot misread."""
    return json.dumps(value, ensure_ascii=False)


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
query: {warm_start: 40, batch: 20, budget: 100, candidates: 150}
# the upper half of the layers: 1.6 times as fast to train as all of them
peft:
  peft_type: LORA
  r: 16
  lora_alpha: 32
  lora_dropout: 0.1
  target_modules: [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]
  layers_to_transform: [15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29]
train: {epochs: 4, batch_size: 8, learning_rate: 1e-3}
"""


def write_demo_project(folder: Path) -> Path:
    """Data and configuration of the demo in `folder`, left alone where they exist; returns the configuration."""
    if not (folder / "data").is_dir():
        publish_folder(folder / "data", write_demo)
    config = folder / "demo.yaml"
    if not config.exists():
        write_bytes(config, _DEMO.encode())
    return config
