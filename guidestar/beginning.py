"""What a run is recorded as when it begins: what must not change while it lasts, and what a reader wants to know."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from guidestar import config as configs
from guidestar import tasks
from guidestar.bench import Bench, hardware, versions
from guidestar.query.recipes import ABOUT, Recipe
from guidestar.store.store import BUDGET, Store


def key_of(bench: Bench, recipe: Recipe, seed: int) -> dict[str, Any]:
    """What must not change: flat, JSON-able."""
    key = bench.config.key() | {"data_hash": bench.dataset.hash, "seed": seed}
    return key | configs.flat({"strategy": plain(recipe)})


def facts_of(bench: Bench, strategy: str, recipe: Recipe, seed: int) -> dict[str, Any]:
    """What a report says of a run, JSON-able."""
    return {
        "name": bench.folder.name,
        "strategy": strategy,
        "recipe": plain(recipe),
        "seed": seed,
        "task": tasks.facts_of(bench.dataset.task),
        "data": dict(bench.fitting.facts),
        "data_hash": bench.dataset.hash,
        "synthetic": bench.config.data.preset == "demo",
        "model": dict(bench.engine.facts),
        "config": bench.config.plain(),
        "training": bench.training.model_dump(mode="json"),
        "versions": versions(),
        "hardware": hardware(),
    }


def grow(store: Store, key: Mapping[str, Any]) -> str:
    """Take on a larger budget, if nothing else has changed. Returns what to say of it; "" where it is no larger.

    Raises ConfigMismatch if something else has changed, too.
    """
    asked, known = key[BUDGET], store.budgets()[-1][0]
    if asked <= known:
        return ""
    store.begin({**key, BUDGET: known}, store.facts)
    store.raise_budget(asked)
    ended = store.finished()
    return f"the budget is raised from {known} to {asked} labels, from round {store.budgets()[-1][1]} on" + (
        f"; but the run has ended otherwise: {ended.value}" if ended else ""
    )


def plain(recipe: Recipe) -> dict[str, Any]:
    """What a recipe does, as JSON-able data; its description is left out."""
    fields = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if f.name not in ABOUT}
    if not recipe.racing:
        del fields["racing"]  # as in a run begun before there were races
    return fields | {"mix": recipe.mix.model_dump(mode="json") if recipe.mix else None}
