"""`guidestar search`: which parts of an adapter, of which sizes, in which layers, by multi-objective Bayesian optimisation.

The space is AutoPEFT's: a bottleneck in series, one in parallel and a prefix, each of eleven sizes with 0, and every layer
with or without them; 11³ · 2¹² = 5,451,776 points for BERT-base. A point is trained on the warm start of a configuration
and judged by its accuracy on the *validation* set and its trained numbers. What no other point beats in both is the front.

Every trial is in `search/trials.json` before the next begins. The sampler of a trial is made from the seed, the trial's
number and what is in that file, so that a search that was stopped proposes what one that was not would have proposed.
Source: Zhou, Wan, Vulić, Korhonen 2024 (AutoPEFT): 200 trials, half of them at random.
"""

from __future__ import annotations

import json
import math
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from guidestar import config as configs
from guidestar.asking import Lesson, evaluate
from guidestar.bench import Bench, read_config
from guidestar.config import RunConfig
from guidestar.errors import ConfigError, ConfigMismatch
from guidestar.model.layers import block_of
from guidestar.model.sparse import optuna_of
from guidestar.progress import Progress
from guidestar.report.style import look
from guidestar.rng import generator, phase_seed
from guidestar.store import files
from guidestar.study.drawing import COLUMN, save_figure
from guidestar.words import count, percent

FOLDER, TRIALS = "search", "trials.json"
PARTS = ("series", "parallel", "prefix")
FIRST_AT_RANDOM = 0.5  # share of the trials


@dataclass(frozen=True)
class Space:
    """sizes: of each part, with 0. layers: how many there are."""

    sizes: tuple[int, ...]
    layers: int

    @property
    def points(self) -> int:
        """
        >>> Space(sizes_of(768), 12).points
        5451776
        """
        return int(len(self.sizes) ** len(PARTS) * 2**self.layers)


@dataclass(frozen=True)
class Trial:
    """point: place of each part's size, and for each layer 0 or 1. accuracy: on the validation set, 0 to 1. numbers:
    trained ones beside a head; a point without any is never on the front."""

    point: Mapping[str, int]
    accuracy: float
    numbers: int


def sizes_of(width: int) -> tuple[int, ...]:
    """0, and a model's width halved nine times over: eleven sizes of a part.

    >>> sizes_of(768)
    (0, 1, 3, 6, 12, 24, 48, 96, 192, 384, 768)
    """
    return (0, *sorted(max(1, width // 2**k) for k in range(10)))


def adapter_of(space: Space, point: Mapping[str, int]) -> dict[str, Any] | None:
    """The `peft` of a configuration for a point; None where no part is left."""
    sizes = {part: space.sizes[point[part]] for part in PARTS}
    layers = [i for i in range(space.layers) if point[f"layer {i}"]]
    return {"peft_type": "AUTOPEFT", **sizes, "layers": layers} if layers and any(sizes.values()) else None


def front(trials: Sequence[Trial]) -> list[int]:
    """Places of the trials that none is better than in one respect and as good in the other, by their numbers. Of equal
    ones the first is kept."""
    best = -1.0
    kept: list[int] = []
    for i in sorted(range(len(trials)), key=lambda i: (trials[i].numbers, -trials[i].accuracy, i)):
        if trials[i].numbers and trials[i].accuracy > best:
            best = trials[i].accuracy
            kept.append(i)
    return kept


def propose(space: Space, done: Sequence[Trial], trials: int, seed: int) -> dict[str, int]:
    """The next point: at random in the first half, then where both aims are expected to gain most (a Gaussian process)."""
    optuna = optuna_of("guidestar search")
    first = math.ceil(FIRST_AT_RANDOM * trials)
    number = phase_seed(seed, len(done), "search") % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sampler is called experimental
        later = optuna.samplers.GPSampler(seed=number, n_startup_trials=first)
    sampler = optuna.samplers.RandomSampler(seed=number) if len(done) < first else later
    whole, switch = (optuna.distributions.IntDistribution(0, top) for top in (len(space.sizes) - 1, 1))
    kinds = {**dict.fromkeys(PARTS, whole), **{f"layer {i}": switch for i in range(space.layers)}}
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    most = max((one.numbers for one in done), default=0)
    for one in done:  # a point with nothing to train must not be the smallest
        values = [one.accuracy, math.log10(one.numbers or most or 1)]
        study.add_trial(optuna.trial.create_trial(params=dict(one.point), distributions=kinds, values=values))
    return {name: int(value) for name, value in study.ask(kinds).params.items()}


def search(config: RunConfig, *, trials: int = 60, progress: Progress) -> tuple[dict[str, Any], str]:
    """Try points until there are so many, and write the front into `out/search`; the same call continues it.

    Returns facts and a text. Raises ConfigError for a configuration without validation data or gold answers, ConfigMismatch
    for a folder of another one.
    """
    config = read_config(config)
    bench = Bench(config, progress)
    bench.check()
    engine, data, seed = bench.engine, bench.fitting, config.seeds[0]
    if data.validation is None or not len(data.validation):
        needs = "a validation set, for the test set chooses nothing: give data.validation"
        raise ConfigError(f"guidestar search judges by {needs}")
    known = [i for i, id in enumerate(data.pool.ids) if id in data.gold]
    if len(known) < config.query.warm_start:
        has = f"{len(known)} rows of the pool have an answer"
        raise ConfigError(f"{has}; the search trains on query.warm_start of them")
    drawn = generator(seed, 0, "search").choice(len(known), config.query.warm_start, replace=False)
    picked = [data.pool[known[i]] for i in sorted(drawn.tolist())]
    labelled = [(example, data.gold[example.id]) for example in picked]
    start = bench.head_start(labelled, generator(seed, 0, "head start"))
    space = space_of(engine)
    place = bench.folder / FOLDER
    key = {**config.key(), "seed": seed, "data": data.hash, "sizes": list(space.sizes), "layers": space.layers}
    done = _kept(place / TRIALS, key)

    def tried(point: Mapping[str, int]) -> Trial:
        adapter = adapter_of(space, point)
        if adapter is None:
            return Trial(point, 0.0, 0)
        trainer = engine.trainer(config.model_copy(update={"peft": adapter}), data.hash)
        with tempfile.TemporaryDirectory() as folder:
            trainer(Lesson(labelled=labelled, seed=phase_seed(seed, 0, "train"), start=start), Path(folder))
            with engine.scorer(Path(folder)) as scorer:
                assert data.validation is not None
                values, _ = evaluate(scorer, data.validation, data.task)
        return Trial(point, float(values["accuracy"]), _attached(engine, adapter)[0])

    say: Callable[[str], None] = progress.say
    with progress.phase("search") as tick:
        while len(done) < trials:
            done.append(tried(propose(space, done, trials, seed)))
            content = {"key": key, "trials": [asdict(one) for one in done]}
            files.write_bytes(place / TRIALS, (json.dumps(content) + "\n").encode())
            say(f"trial {len(done)} of {trials}: {percent(done[-1].accuracy, 1)} with {done[-1].numbers:,} numbers")
            tick(len(done), trials)
    return _written(config, bench, space, done, place, len(labelled), len(data.validation))


def space_of(engine: Any) -> Space:
    """The space of a model: of its width, and of the layers that an adapter finds."""
    layers = _attached(engine, {"peft_type": "AUTOPEFT", "prefix": 0})[1]
    return Space(sizes_of(int(engine.base.model.config.hidden_size)), layers)


def _attached(engine: Any, adapter: Mapping[str, Any]) -> tuple[int, int]:
    """Of an adapter on the model: its trained numbers beside a head, and how many layers have some."""
    from guidestar.model import adapters

    model = adapters.attach(engine.base, adapter, seed=0)
    try:
        layers = {block_of(name) for name, p in model.named_parameters() if p.requires_grad and ".autopeft." in name}
        return adapters.numbers(model), len(layers)
    finally:
        adapters.detach(model)


def _kept(path: Path, key: Mapping[str, Any]) -> list[Trial]:
    if not path.is_file():
        return []
    kept = json.loads(path.read_text(encoding="utf-8"))
    if kept["key"] != json.loads(json.dumps(key)):
        raise ConfigMismatch(f"{path}: is a search with another configuration; give `out` another folder, or remove it")
    return [Trial(**one) for one in kept["trials"]]


def _written(
    config: RunConfig, bench: Bench, space: Space, done: Sequence[Trial], place: Path, labels: int, judged: int
) -> tuple[dict[str, Any], str]:
    """The front as a figure, a study's file, facts and a text."""
    kept = [done[i] for i in front(done)]
    rows: list[dict[str, Any]] = []
    for one in kept:
        size = {"name": f"n{one.numbers}", "accuracy": one.accuracy, "numbers": one.numbers}
        rows.append({**size, "peft": adapter_of(space, one.point)})

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        others = [one for one in done if one.numbers and one not in kept]
        for some, label, style in ((others, "tried", look(None) | {"linestyle": "none"}), (kept, "front", look(0))):
            axes.plot([one.numbers for one in some], [100 * one.accuracy for one in some], **style, label=label)
        axes.set(xscale="log", xlabel="trained numbers", ylabel="accuracy on validation, %")
        axes.legend()

    table = [[one.numbers, one.accuracy, int(one in kept), json.dumps(adapter_of(space, one.point))] for one in done]
    written = save_figure(place / "front", draw, ["numbers", "accuracy", "front", "peft"], table, width=1.4 * COLUMN)
    study = place / "study.yaml"
    files.write_bytes(study, configs.dump_yaml(_study(config, bench, rows)).encode())
    facts = {
        "points": space.points, "trials": len(done), "labels": labels, "validation": judged, "front": rows,
        "study": str(study), "files": sorted(map(str, written)),
    }  # fmt: skip
    lines = [
        f"{count(len(done), 'trial')} of {space.points:,} points, each trained on {labels} labels and judged on {judged} validation "
        "examples; the front:", *(f"  {one['numbers']:>10,} numbers  {percent(float(one['accuracy']), 1)}  {_shown(one['peft'])}" for one in rows),
        "Each was trained once: the differences are partly luck. With seeds and beside random:", f"  guidestar study {study}",
    ]  # fmt: skip
    return facts, "\n".join(lines)


def _shown(peft: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{part} {peft[part]}" for part in PARTS if peft[part])
    return f"{parts}; layers {', '.join(map(str, peft['layers']))}"


def _study(config: RunConfig, bench: Bench, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A study of the front: every point beside random with the same training."""
    plain = config.model_dump(mode="json", exclude_unset=True)
    data = configs.with_absolute_places(plain.get("data", {}))
    strategy = config.strategies[0].use
    own = {} if strategy == "random" else {"control": "own"}
    return {
        "title": "The front of a search of adapters", "out": "front",
        "datasets": [{"name": str(data.get("preset") or "data"), "data": data, "task": plain.get("task", {})}],
        "models": [{"name": "model", "model": dict(bench.config.model.model_dump(mode="json", exclude_unset=True))}],
        "rows": [{"name": one["name"], "strategy": strategy, "peft": one["peft"], **own} for one in rows],
        "seeds": config.seeds,
        "base": {key: plain[key] for key in ("query", "train") if plain.get(key)},
    }  # fmt: skip
