"""What a run is recorded as when it begins: what must not change while it lasts, and what a reader wants to know."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from guidestar import config as configs
from guidestar import tasks
from guidestar.bench import Bench
from guidestar.data.pool import Dataset
from guidestar.query.recipes import ABOUT, Recipe
from guidestar.records import Example, Label
from guidestar.store.store import BUDGET, PROVISIONAL, Store

GIVEN = "import"  # annotator and source of labels that the pool's file has, as if somebody had imported them


def key_of(bench: Bench, recipe: Recipe, seed: int) -> dict[str, Any]:
    """What must not change: flat, JSON-able."""
    key = bench.config.key() | {"data_hash": bench.dataset.hash, "seed": seed}
    if bench.config.engines.score.use == "vllm":
        from guidestar.model import vllm

        key["engine.score.version"] = vllm.installed()
    return key | configs.flat({"strategy": plain(recipe)})


@cache
def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("guidestar", "torch", "transformers", "peft", "accelerate", "numpy", "scikit-learn")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def hardware() -> dict[str, Any]:
    """The machine, as far as a result depends on it."""
    return {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()}


def facts_of(bench: Bench, strategy: str, recipe: Recipe, seed: int, *, provisional: bool = False) -> dict[str, Any]:
    """What a report says of a run, JSON-able. provisional: as far as it is known before the model is loaded, so that people can
    be asked meanwhile."""
    dataset = bench.dataset if provisional else bench.fitting
    held = bench.config.query.held_out(len(given_in(dataset)))
    return {
        **({PROVISIONAL: True} if provisional else {}),
        "name": bench.folder.name,
        "strategy": strategy,
        "recipe": plain(recipe),
        "seed": seed,
        "task": tasks.facts_of(dataset.task),
        "data": dict(dataset.facts) | ({"test": held} if held else {}),
        "data_hash": bench.dataset.hash,
        "synthetic": bench.config.data.preset == "demo",
        "config": bench.config.plain(),
        "versions": versions(),
        "hardware": hardware(),
        "model": {"name": bench.config.model.name} if provisional else dict(bench.engine.facts),
        "training": (bench.config.train if provisional else bench.training).model_dump(mode="json"),
    }


def given_in(dataset: Dataset) -> Sequence[Example]:
    """The examples that the pool's file has a label for, if some have none. Where all have one, people are asked although
    the answers are known, and none counts as given."""
    pool, gold = dataset.pool, dataset.gold
    return pool.only(gold) if 0 < len(gold) < len(pool) else ()


def take_given(store: Store, dataset: Dataset) -> int:
    """Take in the labels of `given_in`; they belong to round 0. Returns how many."""
    given = given_in(dataset)
    store.annotations.add_extra(given)
    store.annotations.add_many([(e.id, Label(dataset.gold[e.id], GIVEN), f"given-{e.id}", GIVEN) for e in given])
    return len(given)


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
