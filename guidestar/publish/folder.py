"""The folder itself: adapter, cards, what is needed to repeat it; and the push, where one is asked for."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

from guidestar import config as configs
from guidestar.asking.each import yes_or_no
from guidestar.bench import Bench
from guidestar.data.presets import apply_preset
from guidestar.data.prompts import Template
from guidestar.errors import ConfigError, ModelError, StoreError
from guidestar.loop import trained
from guidestar.publish.cards import card_warnings, data_card, model_card
from guidestar.publish.snippet import Usage
from guidestar.records import Label
from guidestar.store import Store, files, find_run
from guidestar.tasks import Task, recorded_task, several

MARK = "published.json"  # says that a folder was made here and may be replaced
FOLDER = "published"
FILES = "files"  # in the mark: the SHA-256 of every other file
_CARDS = {"README.md", "DATA.md", "labels.jsonl", "adapter_config.json"}  # beside the weights, before there was FILES


def publish(
    run: Path | str, out: Path | str | None = None, *, round: int | None = None, base: str | None = None,
    license: str | None = None, with_labels: bool = False, push: str | None = None, public: bool = False,
    bench: Bench | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write a folder with a run's adapter, a model card and a data card; returns its path and what is in it.

    out: default `published` in the run's folder. round: default the last one measured. base: the base model's public
    name, where the run used a local folder. with_labels: add the labelled texts. push: a repository of the hub to
    upload to, made private unless `public`; nothing leaves the machine without it. bench: the run's model, if loaded.

    Raises StoreError for a run without a measured round, ConfigError for a folder that holds something else,
    ConfigMismatch for another base model than the run's, ModelError if the push fails.
    """
    from guidestar.model import full

    folder = find_run(Path(run))
    target = Path(out) if out else folder / FOLDER
    files.check_output(target, _is_published, "a published folder")
    with Store.open(folder) as store:
        measured = [m.round for m in store.metrics()]
        if not measured:
            raise StoreError(f"{folder}: no round is complete yet, so there is nothing to publish")
        if round is not None and round not in measured:
            raise ConfigError(f"round is {round}; allowed: {', '.join(map(str, measured))}")
    bench = bench or Bench(configs.load(folder))
    adapter, chosen, _ = trained(folder, bench.config, measured[-1] if round is None else round, bench=bench)
    with Store.open(folder) as store:
        usage = _usage(store, bench, adapter, base)
        name = (push or f"{store.facts.get('name')}-{store.facts.get('strategy')}").rpartition("/")[2]

        def fill(place: Path) -> None:
            shutil.copytree(adapter, place, dirs_exist_ok=True)
            if (adapted := place / "adapter_config.json").is_file():  # names the base model that the card names
                full.rewrite(adapted, {"base_model_name_or_path": usage.base})
            texts = {
                "README.md": model_card(store, chosen, usage, name=name, license=license),
                "DATA.md": data_card(store, chosen, license=license, with_labels=with_labels),
                **({"labels.jsonl": _labels(store, chosen)} if with_labels else {}),
            }
            for file, text in texts.items():
                (place / file).write_text(text, encoding="utf-8")
            written = {p.relative_to(place).as_posix(): files.sha256(p) for p in place.rglob("*") if p.is_file()}
            (place / MARK).write_text(_json({**_origin(store, chosen, place), FILES: written}), encoding="utf-8")

        files.publish_folder(target, fill)
        warnings = card_warnings(store, chosen)
    facts = {
        "folder": str(target), "round": chosen, "files": sorted(p.name for p in target.iterdir()), "pushed": None,
        "warnings": warnings,
    }  # fmt: skip
    return facts | ({"pushed": _push(target, push, public)} if push else {})


def _is_published(folder: Path) -> bool:
    """Whether a folder is empty, or holds what `publish` wrote and nothing else: no file more, none that was changed."""
    if not folder.is_dir():
        return False
    present = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}
    mark = present.pop(MARK, None)
    if mark is None:
        return not present
    try:
        origin = json.loads(mark.read_text(encoding="utf-8"))
        written = origin.get(FILES) or {}  # of an earlier version: the weights are known by their hashes
        known = written or origin["sha256"]
        return origin["kind"] == "published" and all(
            known[name] == files.sha256(path) if name in known else not written and name in _CARDS
            for name, path in present.items()
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return False


def _usage(store: Store, bench: Bench, adapter: Path, base: str | None) -> Usage:
    from guidestar.model import full, heads
    from guidestar.model.batches import joint_of
    from guidestar.model.peft import NAMES

    facts, config = store.facts, bench.config
    bench.engine.must_be(facts["model"], store.folder, ["fingerprint"])
    data, task_config, _ = apply_preset(config.data, config.task)
    task, whole = recorded_task(facts, data.response, task_config), False
    prefix: tuple[int, ...] = ()
    answers: dict[str, tuple[int, ...]] | None = None
    behind_space = None
    questions: dict[str, str] = {}
    if several(task) and not bench.base.labels:
        questions = {label: f"{word}?" for label, word in zip(task.labels, task.words, strict=True)}
        task = yes_or_no(task)
        prefix, answers = _answers(bench, task, " ")
    elif task.classes and not bench.base.labels:
        whole, template = task_config.scoring == "sequence", Template(data)
        filled, blank = (joint_of(bench.base, template.fill(dict.fromkeys(template.columns, text))) for text in "x ")
        prefix, answers = _answers(bench, task, filled)
        behind_space = _answers(bench, task, blank) if blank != filled else None
    views = None
    if heads.reads(model := bench.base.model) == "features":
        views = (heads.answering(model), bench.base.encoder, heads.around(bench.base.tokenizer))
    return Usage(
        base=base or bench.base.name, full=full.is_saved(adapter), own=str(config.peft.get("peft_type", "LORA")).upper() in NAMES, dtype=facts["model"]["dtype"],
        template=data.template or "", chat=config.model.chat, remote_code=config.model.remote_code, prefix=prefix,
        answers=answers, behind_space=behind_space, whole=whole, eos=bench.base.eos, pad=bench.base.pad, max_new_tokens=task.max_new_tokens,
        head=bench.base.labels, reads=heads.reads(model), views=views, closing=tuple(facts["model"].get("closing", ())),
        several=bench.base.several, questions=questions, quantize=bench.base.quantize,
    )  # fmt: skip


def _answers(bench: Bench, task: Task, joint: str) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """The tokens that all answers begin with behind a joint, and by label those that follow."""
    from guidestar.model.batches import label_tokens

    tokens = label_tokens(bench.base, task, joint)
    return tokens.prefix, dict(zip(task.labels, tokens.rest, strict=True))


def _origin(store: Store, round: int, place: Path) -> dict[str, Any]:
    """Everything to repeat it; places of this machine left out."""
    facts = store.facts
    names = ("strategy", "recipe", "seed", "task", "data", "data_hash", "model", "versions", "hardware")
    config = {key: value for key, value in facts["config"].items() if key not in ("out", "endpoint")}
    config["data"] = {k: v for k, v in config["data"].items() if k not in ("folder", "pool", "test", "validation")}
    weights = {path.name: files.sha256(path) for path in sorted(place.glob("*.safetensors"))}
    metrics = [
        {"round": m.round, "labels": m.labels} | {k: v if math.isfinite(v) else None for k, v in m.values.items()}
        for m in store.metrics()
        if m.round <= round
    ]
    own = {"kind": "published", "round": round, "metrics": metrics, "sha256": weights, "config": config}
    return own | {name: facts.get(name) for name in names}


def _labels(store: Store, round: int) -> str:
    rows = []
    for r in range(round + 1):
        for pick in store.query(r).picks:
            answer = store.annotations.answers().get(pick.id)
            if isinstance(answer, Label):
                chance = r == 0 or "random" in pick.details
                rows.append({**store.example(pick.id).fields, "label": answer.answer, "round": r, "random": chance})
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _push(folder: Path, repository: str, public: bool) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        return str(api.upload_folder(folder_path=str(folder), repo_id=repository))
    except Exception as error:  # the hub client raises many kinds: network, login, rights
        raise ModelError(
            f"{folder} is complete, but pushing it to {repository!r} failed ({type(error).__name__}: {error}); log in with "
            "`hf auth login` and run the same command again"
        ) from error


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
