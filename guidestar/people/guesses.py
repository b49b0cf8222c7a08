"""What an endpoint takes examples for, kept: first guesses for people and weak labels for training, never labels of people.

One JSON line an example in `guesses.jsonl` of the cache that the runs of an experiment share, on the disk before it is
used. So nothing is paid for twice, by another run or after a stop, until somebody deletes the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from guidestar.config import RunConfig
from guidestar.people.endpoint import EndpointAnnotator
from guidestar.people.ledger import add_line, lines_of
from guidestar.progress import Tick
from guidestar.records import Example, Label
from guidestar.store.cache import alone
from guidestar.store.store import Store
from guidestar.tasks import Task

FILE = "guesses.jsonl"


def guesses_of(
    config: RunConfig, task: Task, store: Store, cache: Path, examples: Sequence[Example], say: Callable[[str], None],
    tick: Tick,
) -> Iterator[tuple[str, str]]:  # fmt: skip
    """(example, canonical answer) as the endpoint of a configuration says; what it skips, or what `endpoint.max_cost` leaves
    no money for, is left out.

    store: of the run that pays. tick: called with (examples done, examples in all). One process asks, others wait.
    Raises what `EndpointAnnotator` does, and ModelError where the server does not answer.
    """
    path = cache / FILE
    with EndpointAnnotator(config.endpoint, task, store.folder, config.people, say=say) as ask, alone(path):
        questions = {e.id: ask.question(e) for e in examples}
        kept = {line["question"]: line["answer"] for line in lines_of(path, ("question", "answer"))}
        yield from ((id, kept[question]) for id, question in questions.items() if kept.get(question) is not None)
        new = [e for e in examples if questions[e.id] not in kept]
        ask.prefetch(new)
        for i, example in enumerate(new, 1):
            if (answer := ask(example)) is None:
                return
            given = answer.answer if isinstance(answer, Label) else None
            add_line(path, {"question": questions[example.id], "id": example.id, "by": ask.name, "answer": given})
            if given is not None:
                yield example.id, given
            tick(len(examples) - len(new) + i, len(examples))
