"""Change one's mind about the labels: add, rename, merge or split one while a run lasts.

What people said stays in the log as they said it; the store records the change and its place in the log
(`store/relabels.py`). The next training starts afresh, from what was said in the new labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidestar import config as configs
from guidestar import tasks
from guidestar.bench import Bench
from guidestar.config import TaskConfig
from guidestar.data.pool import Dataset
from guidestar.errors import ConfigError, DataError
from guidestar.progress import Progress
from guidestar.records import Label
from guidestar.store import Store, find_run
from guidestar.store.store import DATA
from guidestar.tasks import Task, recorded_task
from guidestar.tasks.common import label_key
from guidestar.words import count


@dataclass(frozen=True)
class Change:
    """One change of the labels. old: labels that go. new: labels that come in their place. again: the examples that had one of
    `old` are asked again; else they have the one of `new`."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    again: bool = False

    @classmethod
    def read(cls, kind: str, text: str) -> Change:
        """A change as the command line has it: add NAME, rename OLD=NEW, merge A,B=NEW or split OLD=NEW1,NEW2.

        Raises ConfigError for any other form.
        >>> Change.read("merge", "billing, refund=money")
        Change(old=('billing', 'refund'), new=('money',), again=False)
        """
        form, least_old, least_new = _FORMS[kind]
        before, _, after = text.rpartition("=") if kind != "add" else ("", "", text)
        old = _names(before, several=kind == "merge")
        new = _names(after, several=kind == "split")
        if not (len(old) >= least_old and len(new) >= least_new):
            raise ConfigError(f"--{kind}: found {text!r}; expected {form}")
        return cls(old, new, kind == "split")


_FORMS = {
    "add": ("NAME", 0, 1),
    "rename": ("OLD=NEW", 1, 1),
    "merge": ("A,B=NEW", 2, 1),
    "split": ("OLD=NEW1,NEW2", 1, 2),
}
KINDS = {kind: form for kind, (form, _, _) in _FORMS.items()}


def _names(text: str, several: bool) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text.split(",") if several else [text]) if part.strip())


def labels_of(run: Path) -> dict[str, Any]:
    """The labels of a run: {"labels": label -> examples that have it, "asked_again": examples that wait for a new answer
    because theirs is no label any more, "since": the first round that is trained on these labels}."""
    with Store.open(find_run(run)) as store:
        task = _choice(store)
        counts = Counter(a.answer for a in store.annotations.answers().values() if isinstance(a, Label))
        again = len(store.annotations.asked_again())
        return {"labels": {label: counts[label] for label in task.labels}, "asked_again": again,
                "since": store.relabels.since}  # fmt: skip


def change_labels(run: str | Path, change: Change, progress: Progress | None = None) -> dict[str, Any]:
    """Change the labels of a run. Returns what `labels_of` does.

    It is done when it returns and not at all when it raises; a process that is killed leaves the one or the other.

    run: a run's folder, or one that holds a single run. The data files may go on saying a renamed or merged label.
    Raises ConfigError for a change that cannot be, for a task that is no choice, and where a data file has a label that is
    to be split; StoreError where another process runs there, or where several runs share the configuration.
    """
    folder = find_run(Path(run))
    experiment = folder if (folder / configs.CONFIG_FILE).is_file() else folder.parent
    if experiment != folder:
        find_run(experiment)  # runs that share a configuration have the same labels
    with Store.open(folder) as store, store.lock():
        bench = Bench(configs.load(folder), progress)
        task = _choice(store)
        names, section = _changed(task, change, TaskConfig.model_validate(store.relabels.tasks()[-1]))
        if change.again:
            _need_no_gold(bench.dataset, change.old)
        new = Bench(bench.config.model_copy(update={"task": section}), progress)
        new.config = bench.config.model_copy(update={"task": section})
        _ = new.fitting  # the data can be read with the new labels, and the model can tell their words apart
        before, key = store.key, new.config.key() | {DATA: new.dataset.hash}
        differ = {n: key.get(n) for n in {*before, *key} if n.startswith("task.") or n == DATA}
        facts = {
            "task": tasks.facts_of(new.dataset.task),
            DATA: new.dataset.hash,
            "config": {"task": new.config.plain()["task"]},
            "data": {n: new.dataset.facts[n] for n in ("classes", "majority") if n in new.dataset.facts},
        }
        store.relabels.record(names, differ, facts)
        new.keep_config()
    return labels_of(folder)


def text_of(facts: dict[str, Any]) -> str:
    """What `labels_of` says, for a terminal."""
    width = max(map(len, facts["labels"]))
    lines = [f"{label:<{width}}  {number}" for label, number in facts["labels"].items()]
    if again := facts["asked_again"]:
        lines.append(f"{count(again, 'example')} to be asked again")
    return "\n".join(lines)


def _choice(store: Store) -> Task:
    task = recorded_task(store.facts)
    if task.kind != "choice":
        raise ConfigError(f"{store.folder}: task.kind is {task.kind!r}; the labels of a choice alone can be changed")
    return task


def _changed(task: Task, change: Change, section: TaskConfig) -> tuple[dict[str, str | None], TaskConfig]:
    """(former label -> what it is called now, None where it is asked again; the `task` section with the new labels)."""
    try:
        old = tuple(dict.fromkeys(task.parse_gold(name, "labels") for name in change.old))
    except DataError as error:
        raise ConfigError(str(error)) from None
    words, former = dict(zip(task.labels, task.words, strict=True)), dict(section.renamed or {})
    for name in change.new:
        same = next((label for label in task.labels if label_key(label) == label_key(name) and label not in old), None)
        if same is not None:
            raise ConfigError(f"{name!r} is a label already; to put two together, merge them: A,B=NEW")
        if former.get(name) not in (None, *([] if change.again else old)):
            raise ConfigError(
                f"{name!r} was the name of what is {former[name]!r} now, and answers and files still say it so; choose another"
            )
    labels: dict[str, str] = {}
    fresh = {name: words[name] if name in old else name for name in change.new}
    if len(old) == 1 and not change.again and words[old[0]] != old[0]:
        fresh = {change.new[0]: words[old[0]]}  # a word of its own stays
    for label, word in words.items():
        labels |= {label: word} if label not in old else fresh if label == old[0] else {}
    labels |= fresh
    names: dict[str, str | None] = {
        label: None if change.again else change.new[0] for label in old if change.again or label != change.new[0]
    }
    renamed = {before: names.get(label, label) for before, label in former.items()} | names
    kept = {b: n for b, n in renamed.items() if n is not None and b not in labels}
    plain = {"labels": list(labels) if all(n == w for n, w in labels.items()) else labels, "renamed": kept or None}
    changed = section.model_copy(update={"kind": task.kind, **plain})
    tasks.make_task(changed, [], task.response)  # labels that cannot be told apart are refused
    return names, TaskConfig.model_validate(changed.model_dump(exclude_unset=True) | plain | {"kind": task.kind})


def _need_no_gold(dataset: Dataset, old: Sequence[str]) -> None:
    """Raise ConfigError if a data file has a label that is to be split: nobody would say which of the new ones it is."""
    sets = {"pool": dataset.gold.values()} | {
        name: split.answers for name, split in (("test", dataset.test), ("validation", dataset.validation)) if split
    }
    for name, answers in sets.items():
        if rows := sum(answer in old for answer in answers):
            raise ConfigError(
                f"{count(rows, 'row')} of the {name} file {'has' if rows == 1 else 'have'} the label {old[0]!r}, and the file "
                "would have to say which of the new labels it is; a run whose files have it cannot split it"
            )
