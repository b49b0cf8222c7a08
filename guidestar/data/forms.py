"""Whether two sets of prompts have the same form.

What stands at the same place of nearly every text of one set and of few texts of the other is form, not content:
OpenBookQA was published with `AnswerA x` in the training file and `AnswerA: x` in the test file. A model tuned
on the one and tested on the other is measured on something it never saw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from guidestar.records import Example
from guidestar.tasks.common import label_key
from guidestar.words import count

ALWAYS, SELDOM = 0.95, 0.5  # share of the texts with a mark, from which it is form; up to which it is missing
FEWEST = 20  # texts in a set, below which chance looks like form
COMPARED = 20_000  # texts of the pool that are compared with those of the test set
LOOKED = 2000  # texts of a set that are looked at


def marks(name: str, text: str) -> set[str]:
    """What could be form in a field: the first word of each of its lines, and the sign that it ends in.

    >>> sorted(marks("question", "Stars are\\nAnswerA: warm."))
    ["a line of {question} begins with 'AnswerA:'", "a line of {question} begins with 'Stars'", "{question} ends in '.'"]
    """
    firsts = {line.split()[0] for line in text.splitlines() if line.strip()}
    found = {f"a line of {{{name}}} begins with {word!r}" for word in firsts}
    last = text.rstrip()[-1:]
    return found if last.isalnum() or not last else found | {f"{{{name}}} ends in {last!r}"}


def differences(pool: Sequence[Example], other: Sequence[Example], name: str) -> list[str]:
    """Marks of the texts that are form in the pool and missing in the other set (`name`), or the other way round.

    Sentences, sorted; empty if the forms agree or a set is too small to tell. The template's own words are the same
    in both and play no part.
    """
    if min(len(pool), len(other)) < FEWEST:
        return []
    here, there = _shares(pool), _shares(other)
    both = {mark: (here.get(mark, 0.0), there.get(mark, 0.0)) for mark in sorted(here.keys() | there.keys())}
    return [
        f"{mark} in {mine:.0%} of the pool and in {others:.0%} of the {name} set"
        for mark, (mine, others) in both.items()
        if max(mine, others) >= ALWAYS and min(mine, others) <= SELDOM
    ]


def nearly_shared(pool: Sequence[Example], others: Mapping[str, Sequence[Example]]) -> list[str]:
    """A sentence for each set that has texts of the pool in another spelling; equal texts are left out before. Of a large pool
    some are looked at."""

    def keys(examples: Sequence[Example]) -> set[tuple[str, ...]]:
        return {tuple(map(label_key, example.fields.values())) for example in examples}

    there = {name: keys(examples) for name, examples in others.items()}
    known = keys(pool[:: max(1, len(pool) // COMPARED)]) if there else set()
    return [
        f"the {name} set and the pool share {count(len(both), 'text')} but for case, white space or characters that are not seen; "
        "such texts count as others, so the accuracy may be that of what was learnt by heart"
        for name, texts in there.items()
        if (both := texts & known)
    ]


def _shares(examples: Sequence[Example]) -> dict[str, float]:
    """Mark -> share of the examples that have it, from at most about LOOKED of them, evenly spread."""
    some = examples[:: max(1, len(examples) // LOOKED)]
    counts: Counter[str] = Counter()
    for example in some:
        counts.update({mark for name, text in example.fields.items() for mark in marks(name, text)})
    return {mark: count / len(some) for mark, count in counts.items()}
