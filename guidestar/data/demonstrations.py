"""Demonstrations for in-context learning: labelled examples that stand before a prompt (few-shot prompting)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from guidestar.errors import ConfigError, DataError
from guidestar.records import Example
from guidestar.tasks import Task

Demonstration = tuple[Example, str]

BLANK_LINE = "\n\n"


def choose_demonstrations(
    labelled: Sequence[Demonstration], shots: int, rng: np.random.Generator, task: Task
) -> list[Demonstration]:
    """Draw `shots` of the labelled examples, all of them if there are fewer.

    For a choice they are balanced: one of every class in a random order, then one more of every class, and so on.
    Any number of them from the front is therefore balanced too.
    Raises ConfigError for less than one shot, DataError without a labelled example.
    Source: Brown et al. 2020; Dong et al. 2022.
    """
    if shots < 1:
        raise ConfigError(f"shots is {shots}; allowed: 1 or more")
    if not labelled:
        raise DataError("there is no labelled example to show as a demonstration")
    order = [labelled[i] for i in rng.permutation(len(labelled))]
    if not task.classes:
        return order[:shots]
    by_class: dict[str, list[Demonstration]] = {}
    for pair in order:
        by_class.setdefault(pair[1], []).append(pair)
    classes, chosen = sorted(by_class), list[Demonstration]()
    while len(chosen) < min(shots, len(order)):
        for i in rng.permutation(len(classes)):
            if left := by_class[classes[i]]:
                chosen.append(left.pop())
    return chosen[:shots]


def with_demonstrations(
    examples: Sequence[Example], demonstrations: Sequence[Demonstration], task: Task
) -> list[Example]:
    """The examples with the demonstrations before their prompts, a blank line behind each.

    Prompt and response of a demonstration are joined as in training: by a space, unless the prompt ends in white
    space. Ids and fields stay.
    """
    shown = "".join(joined(e.prompt, task.response_text(answer)) + BLANK_LINE for e, answer in demonstrations)
    return [replace(example, prompt=shown + example.prompt) for example in examples]


def joined(prompt: str, response: str) -> str:
    """Prompt and response as one text.

    >>> joined("Topic:", "order"), joined("Answer\\n", "4")
    ('Topic: order', 'Answer\\n4')
    """
    return prompt + ("" if prompt[-1:].isspace() else " ") + response
