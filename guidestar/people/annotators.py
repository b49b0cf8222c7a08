"""Who answers a run's questions when the program asks them itself: the gold answers, an endpoint, or nobody yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from guidestar.config import RunConfig
from guidestar.data.pool import Dataset
from guidestar.records import Example, Label, Skip
from guidestar.store.store import Store

# May have `source`, what the record says the answers came from, and `prefetch`, called with a batch before its examples.
Annotator = Callable[[Example], Label | Skip | str | None]


def oracle(dataset: Dataset) -> Annotator:
    """An annotator that knows the gold answers of the pool; None where the data has no answer."""

    def answer(example: Example) -> Label | None:
        return Label(dataset.gold[example.id]) if example.id in dataset.gold else None

    answer.source = "oracle"  # type: ignore[attr-defined]
    return answer


@contextmanager
def annotator_of(
    kind: str, config: RunConfig, dataset: Dataset, store: Store, say: Callable[[str], None]
) -> Iterator[Annotator]:
    """The annotator of a run, open while it is used. kind: "oracle", "endpoint", or "people", who answer nothing here.

    Raises ConfigError for an endpoint that cannot be used.
    """
    if kind == "oracle":
        yield oracle(dataset)
    elif kind == "people":
        yield lambda example: None
    else:
        from guidestar.people.endpoint import EndpointAnnotator

        with EndpointAnnotator(config.endpoint, dataset.task, store.folder, config.people, say=say) as annotator:
            yield annotator
