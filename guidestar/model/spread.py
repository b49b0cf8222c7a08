"""A pool scored by workers of an engine, part by part: they get texts and no store, read the weights, and write arrays."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, final

from guidestar.asking import Ask, How, InParts, Scorer, silent
from guidestar.asking.wrappers import Around, question
from guidestar.config import ModelConfig, RunConfig, TaskConfig
from guidestar.errors import ConfigError, ModelError
from guidestar.executors import EXECUTORS, Executor
from guidestar.progress import Progress, Tick
from guidestar.records import Example, Predictions
from guidestar.store import files
from guidestar.store.cache import Cache
from guidestar.store.remote import Remote
from guidestar.tasks import Task, make_task, scored_labels, several


def who(config: RunConfig, task: Task, adapter: Path | None, how: How) -> dict[str, Any]:
    """What a worker makes the same scorer of, JSON-able.

    Raises ConfigError for a task that cannot be told in the keys of a configuration.
    """
    section = config.task.model_dump(mode="json", exclude_none=True) | {"kind": task.kind}
    if task.labels:
        section["labels"] = dict(zip(task.labels, task.words, strict=True))
    if repr(_task(section, task.response)) != repr(task):
        raise ConfigError(f"engine.score.use: a task of kind {task.kind} is scored in this process; allowed: here")
    model = config.model.model_dump(mode="json")
    place = None if adapter is None else str(adapter.absolute())
    return {"model": model, "task": section, "response": task.response, "adapter": place, "how": dict(how)}


@final
@dataclass(frozen=True)
class Spread(Around):
    """Has the parts of a large pool made by workers, then puts them together as `InParts` does, which finds them done.

    remote: where workers put the parts and get the adapter, if they share no file system with this process.
    """

    scorer: InParts
    workers: Executor
    who: Mapping[str, Any]
    remote: Remote | None = None

    def __call__(self, examples: Sequence[Example], ask: Ask, tick: Tick = silent) -> Predictions:
        self.check(ask)
        missing = self._missing(examples, ask) if len(examples) > self.scorer.size else {}
        if len(missing) > 1:
            who, place, url = dict(self.who), str(self.scorer.cache.place.absolute()), None
            if self.remote is not None:
                url, adapter = self.remote.url, self.who["adapter"]
                who["adapter"] = adapter and self.remote.put_folder(Path(adapter))
            common = {"who": who, "place": place, "url": url}
            if failed := self.workers.run("guidestar.model.spread:score", common, missing):
                name, why = next(iter(failed.items()))
                raise ModelError(f"{len(failed)} of {len(missing)} parts of the pool were not scored; {name}: {why}")
            if self.remote is not None:
                self._missing(examples, ask)
        return self.scorer(examples, ask, tick)

    def _missing(self, examples: Sequence[Example], ask: Ask) -> _Missing:
        """The parts that are neither here nor at the URL, from where those that are there are brought here."""
        missing = _Missing(self.scorer, examples, ask)
        if (remote := self.remote) is None:
            return missing
        for name in list(missing):
            path = missing.path(name)
            if remote.has(path.name):
                files.write_bytes(path, remote.get(path.name))
                remote.remove(path.name)
                del missing.starts[name]
        return missing


def spread(scorer: InParts, config: RunConfig, task: Task, news: Progress, adapter: Path | None, how: How) -> Scorer:
    """A scorer whose parts are made by workers, where `engine.score` has some."""
    asks = config.engines.score
    if asks.use not in EXECUTORS:
        return scorer
    remote = Remote(asks.folder) if asks.folder else None
    return Spread(scorer, EXECUTORS[asks.use](asks, news), who(config, task, adapter, how), remote)


class _Missing(Mapping[str, Mapping[str, Any]]):
    """Name -> item of the parts that are not made yet; the texts of one are in memory while it is handed out."""

    def __init__(self, scorer: InParts, examples: Sequence[Example], ask: Ask) -> None:
        self.scorer, self.examples, self.ask = scorer, examples, ask
        every = ((start, self._asked(start)) for start in range(0, len(examples), scorer.size))
        self.starts = {asked[0]: start for start, asked in every if not scorer.cache.has(*asked)}

    def _asked(self, start: int) -> tuple[str, Mapping[str, Any]]:
        return self.scorer.asked(start, *self.scorer.part(self.examples, start, self.ask))

    def path(self, name: str) -> Path:
        """Where the answer of a part is looked for."""
        return self.scorer.cache.path(*self._asked(self.starts[name]), ".safetensors")

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        start = self.starts[name]
        some, own = self.scorer.part(self.examples, start, self.ask)
        gold = own.gold and {example.id: own.gold[example.id] for example in some if example.id in own.gold}
        texts = [{**asdict(example), "fields": dict(example.fields)} for example in some]
        ask = {**vars(own), "needs": sorted(own.needs), "gold": gold}
        return {"name": name, "file": self.path(name).name, "examples": texts, "ask": ask}

    def __iter__(self) -> Iterator[str]:
        return iter(self.starts)

    def __len__(self) -> int:
        return len(self.starts)


def score(common: Mapping[str, Any], item: Mapping[str, Any]) -> str | None:
    """Make one part in a worker: its arrays, in a file under its fingerprint; or say why not."""
    scorer, url = _scorer(json.dumps(common["who"]), common["url"]), common["url"]
    examples = [Example(**one) for one in item["examples"]]
    ask = Ask(**{**item["ask"], "needs": frozenset(item["ask"]["needs"])})
    with TemporaryDirectory() as own:
        cache, asked = Cache(Path(own if url else common["place"])), (item["name"], question(scorer, examples, ask))
        if (path := cache.path(*asked, ".safetensors")).name != item["file"]:
            return "the model or the adapter that the worker read is another than here; both must lie at the same path"
        cache.arrays(*asked, lambda: scorer(examples, ask).arrays)
        if url:
            Remote(url).put(path.name, path.read_bytes())
    return None


@lru_cache(maxsize=1)
def _scorer(who: str, url: str | None) -> Scorer:
    from guidestar.model import load
    from guidestar.model.engine import OwnEngine

    told = json.loads(who)
    task = _task(told["task"], told["response"])
    base = load.load(ModelConfig.model_validate(told["model"]), print, scored_labels(task), several(task))
    if not (url and told["adapter"]):
        return OwnEngine(base, task).scorer(told["adapter"] and Path(told["adapter"]), **told["how"])
    own = Remote(url).get_folder(told["adapter"], Path(mkdtemp(prefix="guidestar-")))
    scorer = OwnEngine(base, task).scorer(own, **told["how"])
    weakref.finalize(scorer, shutil.rmtree, own, ignore_errors=True)
    return scorer


def _task(section: Mapping[str, Any], response: str) -> Task:
    return make_task(TaskConfig.model_validate(section), [], response)
