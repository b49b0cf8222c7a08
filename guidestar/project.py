"""Configurations that a person starts from: one written after looking at a data file, one for the demo."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from guidestar.config import read_file
from guidestar.data.demo import write_demo
from guidestar.data.look import LOOK, TELLING, Answer, Look, answer_of, id_of, is_numbers, look, texts_of
from guidestar.data.messages import CONVERSATION, RESPONSE, TURNS
from guidestar.errors import ConfigError, DataError, allowed
from guidestar.schema import FEW_LABELS
from guidestar.store.files import check_output, publish_folder, write_bytes
from guidestar.tasks import Choice
from guidestar.tasks.common import doubtful, label_key, shown, visible
from guidestar.words import filled, shortened

NO_COLUMN = "none"  # of the answers, said on the command line

_ENCODER, _LANGUAGE = "all-minilm-l6-v2", "smollm2-135m"
# Models that are begun with `lean` and its head, and others with `star`: those with which it beat random (docs/comparisons.md).
_LEAN = (_ENCODER,)
ENCODED = 1000  # characters of a text that the encoder surely reads to its end
TEMPLATES = Path(__file__).with_name("templates")
_ASKED_OF = 800  # characters of labels and of what they mean, which go into the prompt of a language model
_KINDS = {"number": "a final number", "text": "free text"}
_LABELLED = ("choice", "multi_label")


@dataclass(frozen=True)
class _Guess:
    """What is written down: the file, its answers and texts, and the model to begin with. asked: people label; ready: the
    labels are known. missing, blank: rows with a text and no answer, and without a text. about: label -> what it means."""

    looked: Look
    answer: Answer
    texts: list[str]
    labels: list[str]
    missing: int
    blank: int
    model: str
    why: str
    max_length: int | None
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def asked(self) -> bool:
        return self.answer.column is None or self.missing > 0

    @property
    def ready(self) -> bool:
        return bool(self.answer.column or self.labels)


def _named(data: Path) -> Path:
    """A data file by the name that a configuration takes over."""
    plain = data.name not in ("", "..")  # "." is a place and has no name
    named = data if plain else data.parent / (data.resolve().name or "data")
    return named.with_suffix("") if named.suffix.lower() == ".gz" else named


def config_beside(data: Path) -> Path:
    """Where the configuration of a data file is written, if nobody says another place."""
    return _named(data).with_suffix(".yaml")


def write_config(
    data: Path, out: Path | None, *, force: bool = False, answer: str | None = None, text: str | None = None,
    labels: Mapping[str, str] | Sequence[str] | None = None, keys: Sequence[str] = (),
) -> tuple[Path, dict[str, Any]]:  # fmt: skip
    """Look at a data file and write a configuration that runs, once it has labels.

    answer, text: the columns (of texts several, between commas); guessed without. answer "none": labels will be asked for.
    labels: what a choice is between, maybe with what each means (`read_labels`); without them those of the answer column,
    and without one none, which no command takes before somebody has put them in. keys: `section.key=value` texts to write in the place of what is guessed.
    Returns the path, and what was found: rows, columns, the chosen text and answer columns, how many rows lack an answer,
    notes for people. Raises DataError for a file that cannot be used, ConfigError if the configuration exists (unless
    `force`), for a column that is not there, or for labels where the answers are none.
    """
    named = _named(data)
    config = out or config_beside(data)
    if config.exists() and not force:
        raise ConfigError(f"{config}: exists already; use --force to replace it, or --out for another name")
    check_output(config, is_configuration, "a configuration")
    looked = look(data)
    about = {label: text for label, text in labels.items() if text} if isinstance(labels, Mapping) else {}
    names, several = None if labels is None else list(labels), "task.kind=multi_label" in keys
    guess = replace(_guess(data, looked, answer, text, names, several), about=about)
    notes = list(_notes(named.name, guess, guessed=answer is None))
    following_here = following(config.name, guess.asked, guess.ready)
    body = _body(guess, name=named.name, following=following_here, notes=notes, out=f"runs/{named.stem}",
                 pool=_relative(data, config.parent))  # fmt: skip
    write_bytes(config, _with_keys(body, keys).encode())
    return config, {
        "rows": looked.rows, "columns": looked.columns, "text": ", ".join(guess.texts), "kind": guess.answer.kind,
        "answer": guess.answer.column, "labels": guess.labels, "missing": guess.missing, "asked": guess.asked,
        "next": following(str(config), guess.asked, guess.ready), "notes": notes,
    }  # fmt: skip


def is_configuration(path: Path) -> bool:
    """Whether a file is a configuration and no data."""
    try:
        return "data" in read_file(path)[0]
    except ConfigError:
        return False


def following(config: str, asked: bool, ready: bool) -> str:
    """How to go on with a configuration. ready: its labels are known."""
    command = f"guidestar label {config}" if asked else f"guidestar run {config}"
    return command if ready else f"put your labels into it (task.labels), then: {command}"


# --- guessing -------------------------------------------------------------------------------------


def _guess(
    data: Path, looked: Look, named: str | None, text: str | None, labels: Sequence[str] | None, several: bool
) -> _Guess:
    given, texts = list(labels or []), text.split(",") if text and text not in looked.cells else [text] if text else []
    for option, names in (("answer", [named] if named and named != NO_COLUMN else []), ("text", texts)):
        for name in names:
            if name not in looked.cells and not (looked.messages and name in TURNS):
                raise ConfigError(f"--{option} {name}: no such column; {allowed(looked.columns, name)}")
    answer = Answer(None) if named == NO_COLUMN else answer_of(looked, named, given)
    if several and answer.column is None:
        answer = replace(answer, kind="multi_label")
    if given and answer.kind not in _LABELLED:
        raise ConfigError(
            f"--labels: the answers in {answer.column!r} are no choice but {_KINDS[answer.kind]}; leave it out"
        )
    if labels is not None:
        Choice(tuple(given), tuple(given))  # says what is wrong with them
    if given and (others := [n for n in answer.labels if label_key(n) not in set(map(label_key, given))]):
        raise ConfigError(
            f"--labels: {answer.column!r} holds others, too: {', '.join(others[:5])}; name all, or give --answer {NO_COLUMN}"
        )
    texts = texts or texts_of(looked, answer.column)
    if not texts:
        raise DataError(f"{data}: no column with text besides {answer.column!r}")
    source = [looked.messages if name in TURNS and looked.messages else name for name in texts]
    there = [any(looked.cells[name][i].strip() for name in source) for i in range(looked.rows)]
    answers = looked.cells.get(answer.column or "", ["x"] * looked.rows)
    missing = sum(not cell.strip() and has for cell, has in zip(answers, there, strict=True)) if answer.column else 0
    lengths = sorted(sum(len(looked.cells[name][i]) for name in source) for i in range(looked.rows))
    model, why, most = _model(answer.kind, lengths)
    return _Guess(
        looked, answer, texts, given or list(answer.labels), missing, there.count(False), model, why, most
    )  # fmt: skip


def _model(kind: str, lengths: list[int]) -> tuple[str, str, int | None]:
    """The model to begin with, why, and the tokens that it is to read where a few long texts would decide that.

    lengths: characters of the texts, sorted; the longest twentieth decides nothing."""
    usual, longest = lengths[int(0.95 * (len(lengths) - 1))], lengths[-1]
    if kind in _LABELLED and usual <= ENCODED:
        why = "an encoder: it tells classes apart after fewer labels than a small language model, and needs no GPU"
        return _ENCODER, why, None
    most = max(256, -(-usual // 2 // 128) * 128 + 128)  # two characters a token and some for the answer is plenty
    limit = most if longest > 4 * usual and longest // 4 > most else None
    if kind not in _LABELLED:
        return _LANGUAGE, "a language model, because the answers have to be written", limit
    why = f"a language model: the texts have up to {usual} characters, more than the small encoder reads"
    return _LANGUAGE, why, limit


def _notes(name: str, guess: _Guess, guessed: bool) -> Iterator[str]:
    """What is said on the screen, and stands as comments in the configuration."""
    looked, answer, rows = guess.looked, guess.answer, guess.looked.rows
    yield f"{name}: {rows}{' or more' if rows == LOOK else ''} rows; columns: {_listed(looked.columns)}"
    if looked.header:
        yield f"the first line looks like a row and not like names, so the columns are called {_listed(looked.header)} (data.header)"
    if looked.encoding:
        read = "; ".join(f"as {encoding}: {shortened(place, 60)!r}" for encoding, place in looked.readings)
        told = f"the file is not UTF-8 and was read as {looked.encoding}; if letters are wrong, change data.encoding"
        yield told + (f". One place reads {read}" if read else "")
    if looked.messages:
        whole = "the assistant's last message is the answer; --labels sorts whole conversations instead"
        said = whole if answer.column == RESPONSE else "all that was said is the text"
        yield f"{looked.messages} holds conversations: {said} (data.messages)"
    texts = f"{'text' if len(guess.texts) == 1 else 'texts'}: {', '.join(guess.texts)}"
    if answer.column:
        count = len(guess.labels)
        what = {"choice": f"a choice of {count} labels", "multi_label": f"any number of {count} labels"} | _KINDS
        yield f"{texts}; answer: {answer.column} ({what[answer.kind]})"
    else:
        asked = "labels, any number for a text," if answer.kind == "multi_label" else "labels"
        yield f"{texts}; no answer column: {asked} will be asked for"
    numbers = [c for c in looked.columns if is_numbers(looked.cells[c]) and c != id_of(looked, guess.texts)]
    if answer.column is None and guessed and numbers:
        yield f"numbers in {_listed(numbers)}: --answer COLUMN makes one the answer"
    if answer.column and guessed and answer.column.lower() not in TELLING | {RESPONSE, "output"}:
        yield f"guessed: if {answer.column} holds no labels, start again with --answer COLUMN, or --answer {NO_COLUMN}"
    if answer.column and guess.missing:
        yield (
            f"{guess.missing} of {rows} rows have no {answer.column}, so people will be asked; the labels that are there count "
            "from the start"
        )
    if guess.blank:
        yield f"{guess.blank} of {rows} rows have no {' or '.join(guess.texts)} and are left out (data.blank: drop)"
    values = {cell.strip() for cell in looked.cells.get(answer.column or "", ()) if visible(cell)}
    if answer.kind == "text" and len(values) == 1 < rows:
        yield f"{answer.column} holds one value alone, {shown(*values)}: to tell texts apart, name all labels with --labels"
    if answer.column and answer.kind == "choice":
        yield from _merged(looked.cells[answer.column], guess.labels)
    if answer.column:
        yield from doubtful(answer.labels)
    if id := id_of(looked, [*guess.texts, answer.column or ""]):
        yield f"id: {id}, by which `predict` and `score` call a row (data.id)"
    yield f"model: {guess.model}, {guess.why}"
    if guess.max_length:
        yield f"a few texts are far longer than the others: {guess.max_length} tokens are read, the rest is cut (model.max_length)"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:50]) + (f" and {len(names) - 50} more" if len(names) > 50 else "")


def _merged(cells: Sequence[str], labels: Sequence[str]) -> list[str]:
    """A sentence where several spellings of a label count as one."""
    spellings: dict[str, list[str]] = {label_key(label): [label] for label in labels}
    for cell in dict.fromkeys(cell.strip() for cell in cells if visible(cell)):
        if cell not in spellings.setdefault(label_key(cell), []):
            spellings[label_key(cell)].append(cell)
    several = [" and ".join(map(shown, names)) for names in spellings.values() if len(names) > 1]
    return [f"spellings that count as one label: {'; '.join(several)}"] if several else []


# --- writing --------------------------------------------------------------------------------------


def _body(guess: _Guess, *, name: str, following: str, notes: list[str], out: str, pool: str) -> str:
    looked, answer = guess.looked, guess.answer
    given = looked.rows - guess.blank - guess.missing if answer.column and guess.missing else 0
    left = looked.rows - guess.blank - given
    budget = given + min(left, max(8, min(400, left // 2)))
    chat = guess.texts == [CONVERSATION] or "instruction" in guess.texts
    lean = guess.model in _LEAN and answer.kind in _LABELLED
    warm = max(2, min(20 if lean else 100, budget // 4))
    batch = max(1, min(20 if lean else 50, (budget - warm) // 5))
    budget -= max(budget - warm, 0) % batch  # a last round of a few labels would cost a whole training
    columns, template = _template(guess, chat)
    labels: list[str] | None = guess.labels
    if answer.kind not in _LABELLED or (answer.column and (looked.rows >= LOOK or not labels)):
        labels = None  # if not all rows were looked at, the data have the labels
    return filled(
        TEMPLATES / "init.yaml.jinja", {"quoted": _quoted}, rows=looked.rows, name=name, following=following, notes=notes, out=out,
        asked=guess.asked, strategy="lean" if lean else "star", missing=guess.missing, pool=pool, header=looked.header,
        encoding=looked.encoding, messages=looked.messages if {*TURNS} & {*guess.texts} else None,
        id=id_of(looked, [*guess.texts, answer.column or ""]), answer=answer.column,
        columns=json.dumps(columns, ensure_ascii=False) if columns else "", template=template,
        conversation=looked.messages is not None and bool({*TURNS} & {*guess.texts}),  # whose last question must stay
        blank=guess.blank, kind=answer.kind, labels=labels, ready=guess.ready, model=guess.model,
        few_labels=FEW_LABELS if lean else {}, chat=chat, max_length=guess.max_length, warm=warm,
        batch=batch, budget=budget, hold_out=round(0.2 * (budget - given)),
        about=json.dumps(dict(guess.about), ensure_ascii=False) if guess.about else "",
    )  # fmt: skip


def _template(guess: _Guess, chat: bool) -> tuple[dict[str, str], str]:
    """The template, and another name for each column whose own cannot stand in one."""
    taken, called = set(guess.looked.columns), dict[str, str]()
    for text in guess.texts:
        fits = text.strip() and not set(text) & set("{}[].:!")
        free = (n for n in ("text", "input", "message", *map(str, range(9))) if n not in taken | set(called.values()))
        called[text] = text if fits else next(free)
    fields = [f"{{{name}}}" for name in called.values()]
    labels = ", ".join(f"{name} ({guess.about[name]})" if name in guess.about else name for name in guess.labels)
    if chat:
        template = "\n\n".join(fields)
    elif guess.model == _ENCODER:
        template = " [SEP] ".join(fields)
    else:
        parts = fields if len(fields) == 1 else [f"{name.capitalize()}: {{{name}}}" for name in called.values()]
        asked = "Which of these" if guess.answer.kind == "choice" else "All that hold of"
        if guess.answer.kind in _LABELLED and 0 < len(labels) <= _ASKED_OF:
            parts.append(f"{asked}: {labels}?".replace("{", "{{").replace("}", "}}"))
        template = "\n".join([*parts, "Answer:"])
    return {name: text for text, name in called.items() if name != text}, template


def _quoted(value: str | Sequence[str]) -> str:
    """A text, or a list of texts, that YAML cannot misread."""
    return json.dumps(value if isinstance(value, str) else list(value), ensure_ascii=False)


def _with_keys(body: str, keys: Sequence[str]) -> str:
    """A configuration's text with the values of some `key=value` and `section.key=value` texts; deeper keys are left out.

    >>> _with_keys("seeds: [0]\\nquery:\\n  batch: 20\\n", ["query.batch=5", "train.epochs=3", "seeds=[1]"])
    'seeds: [1]\\nquery:\\n  batch: 5\\n\\ntrain:\\n  epochs: 3\\n'
    """
    lines = body.splitlines()
    for name, _, value in (text.partition("=") for text in keys):
        section, _, key = name.rpartition(".")
        if "." in section:
            continue
        if section and f"{section}:" not in lines:
            lines += ["", f"{section}:"]
        start = lines.index(f"{section}:") + 1 if section else 0
        ends = (i for i in range(start, len(lines)) if section and lines[i][:1].strip())
        begin = f"{'  ' if section else ''}{key}:"
        end = next(ends, len(lines))
        there = next((i for i in range(start, end) if lines[i].startswith(begin)), None)
        lines[start if there is None else there : start if there is None else there + 1] = [f"{begin} {value}"]
    return "\n".join(lines) + "\n"


def _relative(data: Path, folder: Path) -> str:
    try:
        return str(data.resolve().relative_to(folder.resolve()))
    except ValueError:
        return str(data.resolve())


def write_demo_project(folder: Path) -> Path:
    """Data and configuration of the demo in `folder`, left alone where they exist; returns the configuration."""
    if not (folder / "data").is_dir():
        publish_folder(folder / "data", write_demo)
    config = folder / "demo.yaml"
    if not config.exists():
        write_bytes(config, (TEMPLATES / "demo.yaml").read_bytes())
    return config
