"""The warm start that several runs of one folder share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guidestar.errors import StoreError
from guidestar.records import Example, Flag, Note
from guidestar.store.store import DATABASE, Store


def same_start(store: Store, labelled: Sequence[tuple[Example, str]]) -> Path | None:
    """The warm start's adapter in a folder beside `store`, of another strategy with this seed, if all it was made of
    is the same. labelled: what the warm start of `store` is to be trained on."""
    folder = store.folder
    for place in sorted(folder.parent.glob(f"*-seed{store.facts['seed']}")):
        if place == folder or not (place / DATABASE).is_file():
            continue
        try:
            with Store.open(place) as other:
                if _made_of_the_same(store, other, labelled):
                    return other.adapter(0)
        except StoreError:  # another run's damage is that run's concern; training gives the same adapter
            continue
    return None


def _made_of_the_same(store: Store, other: Store, labelled: Sequence[tuple[Example, str]]) -> bool:
    if not other.begun or not other.has_adapter(0) or len(store.relabels) or len(other.relabels):
        return False
    given = [entry.id for entry in other.annotations.history() if not isinstance(entry.annotation, Flag | Note)]
    if len(given) > len(set(given)) or other.trained_on(0) != len(labelled):
        return False  # corrected or added to, maybe after the training
    return (
        _but_strategy(store.key) == _but_strategy(other.key)
        and store.facts["model"] == other.facts["model"]
        and labelled == [(example, label.answer) for example, label in other.annotations.labelled(0)]
    )


def _but_strategy(key: Mapping[str, Any]) -> dict[str, Any]:
    """A run's key without what chooses its queries: what the warm start depends on."""
    return {name: value for name, value in key.items() if not name.startswith("strategy.")}
