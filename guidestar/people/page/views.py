"""What the page is told, as JSON-able data. Texts of the pool are texts here and nothing else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from guidestar.data.messages import TURNS, last_turn
from guidestar.metrics.statistics import wilson
from guidestar.people import queue
from guidestar.people.agreement import is_person, measured
from guidestar.people.page import wire
from guidestar.people.page.board import Board
from guidestar.people.page.finder import Finder
from guidestar.people.suspects import Suspect, suspects
from guidestar.people.trainer import TrainerState
from guidestar.records import Example, Label, Skip, Stop, Suggestion
from guidestar.tasks import Task, form_of
from guidestar.words import count, duration, hundredths, percent, shortened

PAGE = 60  # lines of history at a time
MOST = 200  # examples in one list of the review
_EXCERPT = 160  # characters
_LONG = 1000  # characters of a text in a list of many
_KEPT = "Until then nothing more is asked, so that the budget is not spent on questions that nothing chose."
_SPENT = "The budget is spent. When the model is trained on all answers, the run is finished."

Json = dict[str, Any]


def not_begun(text: str, trainer: TrainerState | None, setup: Json | None = None) -> Json:
    """The state while there is no run. setup: what the page asks for before one can begin."""
    if trainer is not None and trainer.kind == "training":
        text = f"Getting ready: {trainer.line.strip(' …') or 'reading the file'}. {trainer.seconds:.0f} s so far."
    elif trainer is not None:
        text = "The run could not begin." if trainer.kind == "failed" else "The run is about to begin."
    return {"ready": False, "text": text, "setup": setup, "trainer": _trainer(trainer)}


def state(board: Board, annotator: str, trainer: TrainerState | None, *, whole: bool = False) -> Json:
    """Where the run stands, and what the annotator has done. whole: with what does not change while the page is open."""
    r = board.round if board.asks else max(board.round - 1, 0)
    metrics, finished = board.store.metrics(), board.store.finished()
    times = board.times.get(annotator, [])
    mode = board.people.suggestions
    lasting = {
        "task": _form(board),
        "suggestions": ("hidden" if board.people.overlap else "shown") if mode == "auto" else mode,
        "several": board.people.overlap > 0,
    }
    return (lasting if whole else {}) | {
        "ready": True,
        "version": board.relabels,  # of the labels
        "round": r,
        # skipped examples are made up for in a further round
        "last": r if finished else max(board.query.rounds - 1, r),
        "asked": board.asked[r] if board.asks or r < board.round else 0,  # not known while the model is loaded
        "done": board.asked[r] - board.left[r],
        "aside": board.aside[r],
        "labels": board.labels,
        "budget": board.query.budget,
        "pace": queue.pace(times, board.clock(), board.waited.get(annotator, ())),
        "accuracy": accuracy_text(metrics[-1].values, board.store.annotations.held_out_labels()) if metrics else "",
        "finished": finished.value if finished else None,
        "training": _training(board, trainer),
        "trainer": _trainer(trainer),
    }


def _form(board: Board) -> Json:
    """What the page must know of the task, with what each label means, where somebody wrote it down."""
    form, means = form_of(board.task), board.people.descriptions
    return form | {"labels": [label | {"about": means.get(label["label"], "")} for label in form["labels"]]}


def accuracy_text(values: Mapping[str, float], held_out: int) -> str:
    """How good the newest model is: "accuracy 86 % (95 % interval 71 to 95) on 28 questions set aside", or on the
    validation set, or ""."""
    if (value := values.get("accuracy")) is not None and held_out:
        low, high = wilson(value, held_out)
        between = f"{hundredths(low, 0)} to {hundredths(high, 0)}"
        return f"accuracy {percent(value)} (95 % interval {between}) on {count(held_out, 'question')} set aside"
    value = values.get("validation_accuracy")
    return "" if value is None else f"validation accuracy {percent(value)}"


def _training(board: Board, trainer: TrainerState | None) -> str:
    """What the training is about, in a sentence that says when it will be ready; "" while there is none."""
    if trainer is None or trainer.kind != "training" or board.store.finished() is not None:
        return ""
    if not board.complete or not board.asks:
        return "The model is being loaded. You can go on meanwhile." if not board.store.metrics() else ""
    left = re.match(r"train .* (\d+) s left", trainer.line)
    spent = board.last_training
    known = [*([] if spent is None else [spent - trainer.seconds]), *([float(left[1])] if left else [])]
    if not known:
        return f"The first training is under way, {duration(trainer.seconds)} so far."
    seconds = max(known)  # the last one may have been faster
    return f"Next training ready in {'less than a minute' if seconds < 60 else f'about {duration(seconds)}'}."


def idle(
    board: Board, annotator: str, trainer: TrainerState | None, reached: Mapping[str, Any] | None = MappingProxyType({})
) -> Json:
    """Why nothing is offered: {"kind", "text"}, and under "command" what to type or a folder, where there is one. reached:
    what `status` says of a finished run, and its next command; None for one that goes on."""
    if (finished := board.store.finished()) is not None and reached is not None:
        return _finished(finished, **reached)
    loads = finished is not None or not (board.asks or board.store.metrics())
    if loads and trainer is not None and trainer.kind in ("idle", "training"):
        more = "There is a larger budget now. " if finished else ""
        text = f"{more}The model is being loaded; then it chooses what to ask next. {_KEPT}"
        return {"kind": "training", "text": text}
    held, seconds = queue.held_by_others(board.unanswered(), annotator, now=board.clock(), lease=board.lease)
    if held and not board.complete:
        minutes = max(1, round((seconds or 0) / 60))
        others = f"{count(held, 'example')} {'is' if held == 1 else 'are'} in front of others."
        free = f"What they leave unanswered comes to you, the first in {count(minutes, 'minute')}."
        return {"kind": "held", "text": f"{others} {free}"}
    what = f"Round {board.round} has all its answers. " if board.asks else ""
    spent = _SPENT if board.labels >= board.query.budget else ""
    if trainer is None:
        then = spent or "The model is to be trained before the next round is chosen."
        text = f"{what}{then} This page goes on by itself when that is done."
        return {"kind": "complete", "text": text, "command": f"guidestar run {board.store.folder.parent}"}
    then = spent or f"The model is being trained and then chooses what to ask next. {_KEPT}"
    texts = {
        "training": f"{what}{then} {_training(board, trainer)}".strip(),
        "busy": f"{what}Another process works in the run's folder; this page goes on when it is done.",
        "failed": "The training has failed. Nothing you did is lost.",
    }
    return {"kind": trainer.kind, "text": texts.get(trainer.kind, f"{what}The training is about to start.")}


def _finished(
    stop: Stop, sentence: str = "", cautions: Sequence[str] = (), next: Sequence[Mapping[str, str]] = (), **_: Any
) -> Json:
    """What was reached, what must be known with it, and what to do next, up to the first command."""
    more, command = [*cautions], ""
    for i, step in enumerate(next):
        more.append(f"{'Or' if i else 'Next'}: {step['text']}")
        if command := step["command"]:
            break
    text = sentence or f"The run is finished. {stop.value}"
    return {"kind": "finished", "text": text, "more": more, "command": command}


def example(board: Board, id: str, annotator: str) -> Json:
    """One example with all that its page shows. Raises StoreError for an unknown id."""
    found = board.example(id)
    given = board.replay.current.get(id, {}).get(annotator)
    item = board.items.get(id)
    return {
        "id": id,
        "fields": _fields(found.fields),
        "excerpt": _excerpt(found),
        "prompt": found.prompt,
        "second": bool(item and item.answered - {annotator}),
        "answer": _answer(given[1]) if given else None,
        "note": board.replay.notes.get(id, {}).get(annotator, ""),
        "flagged": annotator in board.replay.flags.get(id, ()),
        "suggestion": _suggestion(board, id),
    }


def suggested(board: Board, ids: Iterable[str]) -> Json:
    """Example -> what the model says of it, for those of `ids` where it says something. A round's examples are there
    before the suggestions are, so a page may hold examples that came without theirs."""
    return {id: said for id in ids if (said := _suggestion(board, id)) is not None}


def history(board: Board, annotator: str, skip: int, only: str) -> Json:
    """What the annotator did, newest first: a line for each example that they answered, flagged or noted."""
    lines: list[Json] = []
    for id in reversed(board.touched.get(annotator, {})):
        given = board.replay.current.get(id, {}).get(annotator)
        flagged = annotator in board.replay.flags.get(id, ())
        noted = annotator in board.replay.notes.get(id, {})
        kept = {
            "all": given or flagged or noted,
            "skipped": given and isinstance(given[1], Skip),
            "flagged": flagged,
            "noted": noted,
        }[only]
        if kept:
            answer = _answer(given[1]) if given else None
            who, group = board.groups.get(id, (annotator, None))
            line = {"id": id, "answer": answer, "flagged": flagged, "noted": noted}
            lines.append(line | {"group": group if who == annotator else None})
    return {
        "lines": [line | {"text": _excerpt(board.example(line["id"]))} for line in lines[skip : skip + PAGE]],
        "more": len(lines) > skip + PAGE,
    }


def search(finder: Finder, asked: wire.Find, barred: set[str]) -> Json:
    """Texts of the pool that were looked for, the beginning of long ones. same: nearly the text that they should be like."""
    if asked.like is None:
        examples, more = finder.words(asked.words, barred, asked.skip)
    else:
        examples, more = finder.like(asked.like, barred, asked.skip)
    same = finder.nearly_same(asked.like, examples) if asked.like else set()
    return {
        "examples": [{"id": e.id, "fields": _fields(e.fields, _LONG), "same": e.id in same} for e in examples],
        "more": more,
    }


def classes(board: Board) -> Json:
    """The labels with the number of examples that have each, and how many examples are asked again."""
    counts = Counter(answer.answer for answer in board.replay.counts.values() if isinstance(answer, Label))
    labels = [{"label": label, "count": counts[label]} for label in board.task.labels]
    return {"labels": labels, "again": len(board.replay.again)}


def answered(board: Board, ids: Iterable[str]) -> Json:
    """Example -> the answer that counts, for those of `ids` that have one."""
    return {id: _answer(board.replay.counts[id]) for id in ids if id in board.replay.counts}


# --- review ---------------------------------------------------------------------------------------


def review(board: Board) -> Json:
    """What a second look is worth: disagreements, likely label errors, flags; and how far annotators agree."""
    replay, task = board.replay, board.task
    said = {
        id: {who: answer for who, (_, answer) in current.items() if isinstance(answer, Label)}
        for id, current in replay.current.items()
    }
    disagreed = [id for id, given in said.items() if len({task.compared(a.answer) for a in given.values()}) > 1]
    found = _suspects(board)
    lists = {
        "disagreements": [id for id in disagreed if id not in replay.verdicts],
        "suspects": [s.id for s in found],
        "flagged": [id for id in replay.flags if id not in replay.verdicts],
        "settled": list(reversed(replay.verdicts)),
    }
    doubts = {s.id: {"other": s.other, "p_given": s.p_given, "p_other": s.p_other} for s in found}
    return {
        "lists": {
            name: {"count": len(ids), "cards": [_card(board, id, doubts.get(id)) for id in ids[:MOST]]}
            for name, ids in lists.items()
        },
        "agreement": _agreement(task, said),
    }


def _card(board: Board, id: str, doubt: Json | None) -> Json:
    found, replay = board.example(id), board.replay
    counts, verdict = replay.counts.get(id), replay.verdicts.get(id)
    return {
        "id": id,
        "fields": _fields(found.fields),
        "answers": [{"annotator": who, **_answer(a)} for who, (_, a) in sorted(replay.current.get(id, {}).items())],
        "counts": _answer(counts) if counts else None,
        "verdict": {"annotator": verdict.annotator, **_answer(verdict)} if verdict else None,
        "notes": [{"annotator": who, "text": text} for who, text in sorted(replay.notes.get(id, {}).items())],
        "flags": sorted(replay.flags.get(id, ())),
        "doubt": doubt,
    }


def _suspects(board: Board) -> list[Suspect]:
    """Labels that a tuned model contradicts: one that had not seen the label, or one that had and still does."""
    best: dict[str, Suspect] = {}
    learnt = board.store.annotations.learnt()
    for trained in (False, True):
        said = {id: s for id, s in board.store.suggestions(trained=trained).items() if s.round >= 0}
        for suspect in suspects(board.replay.counts, said, board.replay.verdicts, learnt):
            best.setdefault(suspect.id, suspect)
    return sorted(best.values(), key=lambda s: (s.p_given - s.p_other, s.id))


def _agreement(task: Task, said: dict[str, dict[str, Label]]) -> Json | None:
    """Numbers over the examples that several people labelled, None while there are none."""
    units = [{who: task.compared(a.answer) for who, a in given.items() if is_person(who)} for given in said.values()]
    units = [unit for unit in units if len(unit) > 1]
    return measured(units, units, task) if units else None


# --- pieces ---------------------------------------------------------------------------------------


def _fields(fields: Mapping[str, str], most: int | None = None) -> list[Json]:
    return [
        {"name": name, "text": text if most is None or len(text) <= most else f"{text[:most]} …"}
        for name, text in fields.items()
    ]


def _answer(given: Label | Skip) -> Json:
    if isinstance(given, Label):
        return {"kind": "label", "text": given.answer}
    return {"kind": "skip", "text": given.reason}


def _suggestion(board: Board, id: str) -> Json | None:
    if board.people.suggestions == "off":
        return None
    found: Suggestion | None = board.suggestions().get(id)
    if found is None:
        return None
    said = {"text": found.answer, "probability": found.probabilities.get(found.answer)}
    if found.round >= 0 or not board.people.first_guess:
        return said
    asked = (board.facts.get("config") or {}).get("endpoint") or {}
    other = board.people.first_guess == "endpoint"
    return said | {"guess": asked.get("model", "the endpoint") if other else "the untuned model"}


def _excerpt(example: Example) -> str:
    """The beginning of an example's texts on one line; of a conversation its last turn, for the first is often the same."""
    texts = (last_turn(text) if name in TURNS else text for name, text in example.fields.items())
    return shortened(" ".join(" · ".join(text for text in texts if text.strip()).split()), _EXCERPT)


def _trainer(found: TrainerState | None) -> Json | None:
    if found is None:
        return None
    return {"kind": found.kind, "line": found.line, "why": found.why, "tail": list(found.tail), "log": found.log}
