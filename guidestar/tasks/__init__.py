"""What an answer is: how it is asked for, written, read back, compared and counted.

A kind of task is one class with the surface of `Task` and one entry in `TASKS`; everything else asks the task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from guidestar.tasks.choice import Choice
from guidestar.tasks.common import ANSWER, MOST_LABELS, Settings, Span, Task, facts_of, form_of, scored_labels, several
from guidestar.tasks.multi_label import MultiLabel
from guidestar.tasks.number import Number
from guidestar.tasks.text import Text, normal_form

__all__ = [
    "ANSWER", "MOST_LABELS", "TASKS", "Choice", "MultiLabel", "Number", "Settings", "Span", "Task", "Text",
    "facts_of", "form_of", "make_task", "normal_form", "recorded_task", "scored_labels", "several",
]  # fmt: skip

TASKS: dict[str, type[Task]] = {"choice": Choice, "multi_label": MultiLabel, "number": Number, "text": Text}


def make_task(config: Any, cells: Sequence[str], response: str) -> Task:
    """The task of a configuration's `task` section.

    cells: the answers in the data, used where labels are not configured.
    response: what the model is taught to write, with {answer} once.
    Raises ConfigError if the labels cannot be told apart.
    """
    return TASKS[config.kind].build(config, cells, response)


def recorded_task(facts: Mapping[str, Any], response: str = ANSWER, section: Any = None) -> Task:
    """The task of a run, from its facts. response, section: the template and the `task` section of its configuration, which
    the facts do not hold, as far as a preset fills them."""
    known = facts["task"]
    labels = dict(zip(known["labels"], known.get("words", known["labels"]), strict=True)) if "labels" in known else None
    if section is None:
        marker = ((facts.get("config") or {}).get("task") or {}).get("marker", Settings.marker)
        section = Settings(known["kind"], marker=marker)
    more = {name: getattr(section, name) for name in ("scoring", "max_new_tokens", "marker")}
    return make_task(Settings(known["kind"], labels, known.get("renamed"), **more), [], response)
