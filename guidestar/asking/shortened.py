"""Prompts that do not fit a model's context, made to fit by cutting the longest of their texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from guidestar.asking.scorer import Scorer
from guidestar.config import RunConfig
from guidestar.data.presets import apply_preset
from guidestar.data.prompts import Template
from guidestar.records import Example

ROUNDS = 14  # of the search for how much fits: to a 16,000th of the longest text


def shortened(
    scorer: Scorer, examples: Sequence[Example], config: RunConfig, answers: Mapping[str, str] | None = None
) -> tuple[list[Example], dict[str, str]]:
    """The examples in their order, and id -> a sentence for those that do not fit the model's context; with `data.too_long`:
    truncate each has a prompt that fits, and the sentences are of those for which nothing helps.

    No text of a prompt is longer than some number of characters, for each example the most that fits; the fields of an
    example and its id stay whole. answers: gold ones by id, whose length is left free.
    """
    long = scorer.too_long(examples, answers)
    if not long or config.data.too_long != "truncate":
        return list(examples), long
    template, cut = Template(apply_preset(config.data, config.task)[0]), config.data.cut or "end"
    low = {e.id: 0 for e in examples if e.id in long}
    high = {e.id: max(map(len, e.fields.values())) for e in examples if e.id in long}
    some = [e for e in examples if e.id in long]
    bare = scorer.too_long([at_most(e, 0, template, cut) for e in some], answers)
    some = [e for e in some if e.id not in bare]
    for _ in range(ROUNDS):
        middle = {e.id: (low[e.id] + high[e.id]) // 2 for e in some}
        still = scorer.too_long([at_most(e, middle[e.id], template, cut) for e in some], answers)
        for id, size in middle.items():
            (high if id in still else low)[id] = size
    fits = {e.id for e in some}
    return [at_most(e, low[e.id], template, cut) if e.id in fits else e for e in examples], bare


def at_most(example: Example, size: int, template: Template, cut: str) -> Example:
    """The example with no text in its prompt longer than `size` characters. cut: what is left out: a text's "end", "start" or
    "middle"."""
    fields = {name: _cut(text.strip(), size, cut) for name, text in example.fields.items()}
    return replace(example, prompt=template.fill(fields))


def _cut(text: str, size: int, cut: str) -> str:
    """
    >>> [_cut("abcdefgh", 4, cut) for cut in ("end", "start", "middle")], _cut("abc", 4, "end")
    (['abcd', 'efgh', 'ab … gh'], 'abc')
    """
    if len(text) <= size:
        return text
    if cut == "end":
        return text[:size]
    if cut == "start":
        return text[len(text) - size :]
    head = -(-size // 2)
    return f"{text[:head]} … {text[len(text) - (size - head) :]}"
