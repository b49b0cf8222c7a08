"""Bad input gets a clear error (where, what was found, what is allowed), the right exit code, and loses nothing."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outside import dump

from guidestar import cli, loop
from guidestar.bench import Bench, read_config
from guidestar.progress import Silent
from guidestar.records import Example, Skip
from guidestar.store import Store, files, runs_in

MakeConfig = Callable[..., dict[str, Any]]

ROWS = [("a fine film", "good"), ("what a bore", "bad"), ("loved it all", "good"), ("we left early", "bad")]
MORE = [(f"{text} {word}", label) for word in ("indeed", "again", "today", "really") for text, label in ROWS]


@pytest.fixture
def write(make_config: MakeConfig, tmp_path: Path) -> Callable[..., Path]:
    """A small project of one's own, a pool.csv and a my.yaml; keyword arguments change the configuration."""

    def project(text: str | bytes | None = None, **changes: Any) -> Path:
        pool = "text,label\n" + "".join(f"{row},{label}\n" for row, label in MORE) if text is None else text
        (tmp_path / "pool.csv").write_bytes(pool if isinstance(pool, bytes) else pool.encode())
        data = {
            "preset": None, "folder": None, "test_limit": None, "pool": str(tmp_path / "pool.csv"),
            "template": "Review: {text}\nThis is", "answer": "label",
        }  # fmt: skip
        config = make_config(
            data={**data, **changes.pop("data", {})},
            task={"kind": "choice", "labels": ["good", "bad"], **changes.pop("task", {})},
            query={"warm_start": 4, "batch": 2, "budget": 6, "candidates": None, **changes.pop("query", {})},
            train=changes.pop("train", {"epochs": 1, "batch_size": 8}),
            strategies=changes.pop("strategies", ["entropy"]),
            **changes,
        )
        (tmp_path / "my.yaml").write_text(json.dumps(config))
        return tmp_path / "my.yaml"

    return project


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Run a command: (exit code, what was said on standard error, the folder's name taken off)."""

    def command(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = cli.main([str(a) for a in arguments])
        return code, capsys.readouterr().err.replace(f"{tmp_path}/", "")

    return command


def refused(found: tuple[int, str], code: int, message: str) -> None:
    assert found[0] == code, f"exit code {found[0]}, expected {code}:\n{found[1]}"
    lines = [line.removeprefix("guidestar: ") for line in found[1].splitlines() if line.startswith("guidestar: ")]
    assert any(message in line for line in lines), f"expected: {message}\nfound: {lines}"
    assert "Traceback" not in found[1]


def whole(folder: Path) -> dict[str, Any]:
    found = {}
    for place in sorted(folder.glob("*/run.sqlite")):
        with Store.open(place.parent) as store:
            found[place.parent.name] = dump(store)
    return found


# --- data and configuration -----------------------------------------------------------------------

LABELS = "label 'godo' is not one of: good, bad; did you mean 'good'?"
BAD_DATA: dict[str, tuple[str | bytes | None, dict[str, Any], int, str]] = {
    "missing answer column": (
        "text,class\nfine,good\nbad,bad\n", {}, 3,
        "pool.csv line 2: no answer column 'label' (data.answer); allowed: text, class",
    ),
    "missing column": (
        "words,label\nfine,good\nbad,bad\n", {}, 3,
        "pool.csv line 2: no column 'text', which the template uses; allowed: words, label",
    ),
    "empty file": ("", {}, 3, "pool.csv: the file is empty"),
    "header and no rows": ("text,label\n", {}, 3, "pool.csv: no rows; at least one is needed"),
    "label outside the set": ("text,label\nfine,good\n\nbad,bad\noops,godo\n", {}, 3, f"pool.csv line 5: {LABELS}"),
    "label outside the set, after a text of two lines": (
        'text,label\n"one\ntwo",good\noops,godo\n', {}, 3, f"pool.csv line 4: {LABELS}",
    ),
    "non-UTF-8 bytes": (
        b"text,label\nfine,good\ncaf\xe9,bad\n", {}, 3,
        "pool.csv line 3: byte 4 of the line is 0xe9, which is not UTF-8; save the file as UTF-8",
    ),
    "pool smaller than the warm start": (
        None, {"query": {"warm_start": 99, "budget": 99}}, 3,
        "pool.csv: the pool holds 16 examples, fewer than the warm start of 99 (query.warm_start)",
    ),
    "budget below the warm start": (
        None, {"query": {"budget": 3}}, 2, "my.yaml line 1: query.budget is 3, below query.warm_start 4",
    ),
    "template with an unknown column": (
        None, {"data": {"template": "{txt} is"}}, 3,
        "pool.csv line 2: no column 'txt', which the template uses; did you mean 'text'? allowed: text, label",
    ),
    "template with the answer": (
        None, {"data": {"template": "{text} {label}"}}, 2,
        "data.template uses {label}, which is the answer column 'label'; the model would read the answer in its prompt",
    ),
    "prompt longer than the context": (
        "text,label\nfine,good\nbad,bad\nok,good\nno,bad\n" + "word " * 600 + ",good\n", {}, 3,
        "1 prompt cannot be used, because the prompt and a response of 16 tokens do not fit the model's context of 512 tokens: pool.csv line 6; "
        "shorten the template, or set data.too_long: truncate or drop",
    ),
    "two labels that share their first token": (
        None, {"task": {"labels": {"good": "very good", "bad": "very bad", "none": "I cannot say"}}}, 2,
        "task.labels: the words of 'good' and 'bad' both begin with the token",
    ),
    "a strategy that does not exist": (None, {"strategies": ["entrpy"]}, 2, "strategy 'entrpy' is unknown; did you mean 'entropy'?"),
    "passes without dropout": (
        None, {"strategies": ["star"], "peft": {"peft_type": "LORA", "r": 4, "target_modules": "all-linear"}}, 2,
        "strategy star: passes is 3, but the LORA adapter has no dropout, so that all passes would be equal; "
        "set lora_dropout in `peft` above 0, or passes to 0, or dropout to model where the model has its own",
    ),
    "an unknown key of PEFT": (
        None, {"peft": {"peft_type": "LORA", "r": 4, "lora_dropotu": 0.1}}, 2,
        "peft: unknown key 'lora_dropotu' for LORA; did you mean 'lora_dropout'? allowed: ",
    ),
    "an unknown type of PEFT": (None, {"peft": {"peft_type": "LOAR"}}, 2, "peft.peft_type is 'LOAR'; did you mean 'LORA'?"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_and_configurations(name: str, write: Callable[..., Path], run: Callable[..., Any]) -> None:
    """Each is refused with its sentence, and the mended project then runs in the same folder."""
    text, changes, code, message = BAD_DATA[name]
    refused(run("run", write(text, **changes)), code, message)
    code, said = run("run", "--quiet", write())
    assert code == 0, f"the mistake left something behind:\n{said}"


def test_every_bad_row_is_listed_at_once(write: Callable[..., Path], run: Callable[..., Any]) -> None:
    rows = "".join(f"text {i},{'good' if i % 2 else 'meh'}\n" for i in range(50))
    code, said = run("run", write("text,label\n" + rows))
    assert code == 3
    assert said.count("label 'meh' is not one of: good, bad") == 20
    assert "… and 5 more rows like these" in said


def test_prompts_that_do_not_fit_can_be_dropped(write: Callable[..., Path], run: Callable[..., Any]) -> None:
    text = "text,label\n" + "".join(f"{t},{label}\n" for t, label in MORE[:7]) + "word " * 600 + ",good\n"
    code, said = run("run", write(text, data={"too_long": "drop"}))
    assert code == 0
    assert "data: 1 prompt dropped for not fitting the model's context" in said


def test_facts_are_those_of_the_prompts_that_fit(write: Callable[..., Path], run: Callable[..., Any]) -> None:
    """The majority baseline and the sizes, where the long texts are all of one class."""
    rows = [(f"{MORE[i % 7][0]} {i}", "bad" if i % 3 else "good") for i in range(60)]
    rows += [(f"{'word ' * 600}{i}", "good") for i in range(60)]
    config = write(
        "text,label\n" + "".join(f"{t},{label}\n" for t, label in rows), data={"too_long": "drop", "test_share": 0.5}
    )
    code, said = run("run", config)
    assert code == 0, said
    (folder,) = runs_in(config.parent / "run")
    with Store.open(folder) as store:
        data, last = store.facts["data"], store.metrics()[-1].values
        gold = store.arrays(0, "test")["gold"]
    assert data["too_long"] == 60
    assert data["test"] == len(gold) < 60
    assert data["majority"]["share"] == pytest.approx(np.bincount(gold).max() / len(gold))
    assert data["majority"]["share"] == pytest.approx(last["majority"])
    assert data["majority"]["label"] == "bad"
    assert sum(data["classes"].values()) == data["pool"]


def test_gold_responses_that_do_not_fit_are_dropped_or_refused(
    write: Callable[..., Path], run: Callable[..., Any]
) -> None:
    """In a simulation the longest answer is known before anybody trains on it; each prompt needs room for its own."""
    rows = [f"{t},{label} indeed" for t, label in MORE[:7]] + ["fine," + "word " * 600]
    changes = {"task": {"kind": "text", "max_new_tokens": 4, "labels": None}, "strategies": ["random"]}
    text = "\n".join(["text,label", *rows, ""])
    code, said = run("run", write(text, **changes))
    assert code == 3
    assert "tokens do not fit the model's context of 512 tokens: pool.csv line 9; shorten" in said
    code, said = run("run", write(text, data={"too_long": "drop"}, **changes))
    assert code == 0, said
    assert "data: 1 prompt dropped for not fitting the model's context" in said


def test_labels_that_share_their_first_token_work_as_sequences(
    write: Callable[..., Path], run: Callable[..., Any]
) -> None:
    words = {"labels": {"good": "12", "bad": "12 3"}, "scoring": "sequence"}
    assert run("run", "--quiet", write(task=words))[0] == 0


def test_a_batch_larger_than_what_is_left_asks_for_that(
    write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    code, said = run("run", write(query={"warm_start": 14, "batch": 50, "budget": 100}))
    assert code == 0
    assert "only 2 examples are left in the pool; asking for those instead of 50" in said
    (dump,) = whole(tmp_path / "run").values()
    assert (dump["finished"], len(dump["annotations"])) == ("EMPTY", 16)


def test_an_annotators_mistake_is_refused_and_the_rest_is_kept(write: Callable[..., Path]) -> None:
    """A program that answers wrongly in the middle: what it answered before is stored, the wrong one is not."""
    from guidestar.errors import DataError

    answers = iter(["good", Skip("unclear"), "goodd"])

    def annotate(example: Example) -> Any:
        return next(answers)

    with loop.Run(write()) as one:
        with pytest.raises(DataError, match="label 'goodd' is not one of: good, bad; did you mean 'good'"):
            one.run(annotate)
        assert len(one.store.annotations.history()) == 2
        assert len(one.ask()) == 2


# --- models and adapters --------------------------------------------------------------------------


@pytest.fixture
def model(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def test_a_model_folder_without_weights(write: Callable[..., Path], run: Callable[..., Any], model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    message = "model: no weights here; expected *.safetensors, found: "
    found = run("run", write(model={"name": str(model)}))
    refused(found, 1, message)
    assert "pytorch_model.bin" in found[1]
    refused(run("score", model.parent / "my.yaml", model.parent / "pool.csv"), 1, message)
    assert run("run", "--quiet", write())[0] == 0, "the mended configuration may use the same folder"


def test_damaged_weights(write: Callable[..., Path], run: Callable[..., Any], model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-500])
    refused(run("run", write(model={"name": str(model)})), 1, "model: cannot be loaded as a causal language model: ")


def test_a_folder_that_is_no_model(write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(
        run("run", write(model={"name": str(tmp_path / "empty")})),
        1,
        "empty: no weights here; expected *.safetensors, found: nothing",
    )
    refused(run("run", write(model={"name": str(tmp_path / "none")})), 1, "none: no such folder")
    refused(
        run("run", write(model={"name": "no-such-model-here"})), 1, "model 'no-such-model-here' is not in the cache"
    )


@pytest.fixture
def adapter(write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path) -> Path:
    """A copy of a run's adapter that a test may damage."""
    assert run("run", "--quiet", write(query={"budget": 4}))[0] == 0
    return Path(shutil.copytree(tmp_path / "run" / "entropy-seed0" / "adapters" / "round-000", tmp_path / "adapter"))


@pytest.mark.parametrize("damage", ["bin only", "no weights", "truncated", "of another model", "no adapter"])
def test_adapters_that_cannot_be_used(
    damage: str, adapter: Path, write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    weights = adapter / "adapter_model.safetensors"
    assert run("score", tmp_path / "run", tmp_path / "pool.csv", "--adapter", adapter)[0] == 0
    if damage == "bin only":
        weights.rename(adapter / "adapter_model.bin")
        message = (
            "adapter: found adapter_model.bin only, a pickle that could run code when loaded; "
            "expected adapter_model.safetensors (save it again with safe_serialization=True)"
        )
    elif damage == "no weights":
        weights.unlink()
        message = "adapter: adapter_model.safetensors is missing"
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
        message = "adapter: the adapter cannot be loaded on "
    elif damage == "of another model":
        file = adapter / "adapter_config.json"
        file.write_text(file.read_text().replace('"r": 4', '"r": 3'))
        message = "adapter: the adapter cannot be loaded on "
    else:
        adapter = tmp_path / "run"
        message = "run: not an adapter; expected adapter_config.json and adapter_model.safetensors"
    refused(run("score", tmp_path / "run", tmp_path / "pool.csv", "--adapter", adapter), 1, message)


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("start", ["base", "previous"])
def test_a_runs_own_adapter_damaged_between_two_rounds(
    start: str, write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named with what to do; that done, the run goes on to the same end as if nothing had happened."""
    changes: dict[str, Any] = {"query": {"budget": 8}, "train": {"epochs": 1, "batch_size": 8, "start": start}}
    assert run("run", "--quiet", write(out=str(tmp_path / "whole"), **changes))[0] == 0
    config = write(**changes)

    def crash(step: str) -> None:
        if step == "committed add_metrics 1":
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(files, "step", crash)
        with pytest.raises(Crash):
            run("run", "--quiet", config)
    adapters = tmp_path / "run" / "entropy-seed0" / "adapters"
    weights = adapters / "round-001" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    message = "run/entropy-seed0/adapters/round-001: the adapter is truncated, changed or gone since it was recorded"
    for _ in range(2):
        found = run("run", config)
        refused(found, 1, message)
        assert "delete the folder and run again: it is then trained once more from the recorded labels" in found[1]
    shutil.rmtree(adapters)
    code, said = run("run", "--quiet", config)
    assert code == 0, said
    assert whole(tmp_path / "run") == whole(tmp_path / "whole")


def test_a_tokenizer_without_a_pad_token_works_the_same(
    write: Callable[..., Path], run: Callable[..., Any], model: Path, tmp_path: Path
) -> None:
    """Padding is masked, so that which token pads does not matter: the same run, bit for bit."""
    assert run("run", "--quiet", write(out=str(tmp_path / "with"), strategies=["star", "response_entropy"]))[0] == 0
    file = model / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    assert settings.pop("pad_token")
    file.write_text(json.dumps(settings))
    (model / "special_tokens_map.json").unlink(missing_ok=True)
    config = json.loads((model / "config.json").read_text())
    config["pad_token_id"] = None
    (model / "config.json").write_text(json.dumps(config))
    (model / "generation_config.json").unlink()
    bench = Bench(read_config(write(model={"name": str(model), "dtype": "float32"})))
    assert bench.base.tokenizer.pad_token is None
    changed = write(
        out=str(tmp_path / "without"),
        strategies=["star", "response_entropy"],
        model={"name": str(model), "dtype": "float32"},
    )
    code, said = run("run", "--quiet", changed)
    assert code == 0, said
    with_, without = whole(tmp_path / "with"), whole(tmp_path / "without")
    for held in (*with_.values(), *without.values()):
        held.pop("adapters")  # their files name the folder of the base model
    assert without == with_


def test_nan_in_the_logits(write: Callable[..., Path], run: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    """Scoring names the example; training says what to try. Labels given so far stay."""
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    config = write(model={"name": str(model), "dtype": "float32"})
    refused(
        run("score", config, tmp_path / "pool.csv"), 1,
        "pool.csv line 2: label_log_probs is not finite for 16 of 16 examples; the model's logits hold NaN or infinity "
        "(try model.dtype: float32, or a lower learning rate)",
    )  # fmt: skip
    refused(run("run", config), 1, "the training loss is nan in epoch 1; try a lower train.learning_rate (now 0.005)")
    (dump,) = whole(tmp_path / "run").values()
    assert len(dump["annotations"]) == 4
    assert dump["adapters"] == [], "a broken adapter must not be kept"


# --- interruptions and places that cannot be written ----------------------------------------------


def test_ctrl_c_at_any_moment(
    write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While loading, training, evaluating, scoring, and at some durable steps by lot: 130, one calm sentence, and
    in the end the same run."""
    calm = "stopped; nothing recorded is lost, the same command continues"
    changes: dict[str, Any] = {"strategies": ["star", "random"], "data": {"test_share": 0.25}}
    assert run("run", "--quiet", write(out=str(tmp_path / "whole"), **changes))[0] == 0
    config = write(**changes)
    real = Silent.phase
    for name in ("loading model", "train", "evaluate base", "evaluate", "score base", "score"):

        def interrupted(self: Silent, phase: str, name: str = name) -> Any:
            if phase == name:
                raise KeyboardInterrupt
            return real(self, phase)

        with monkeypatch.context() as patch:
            patch.setattr(Silent, "phase", interrupted)
            refused(run("run", "--quiet", config), 130, calm)
    lot = random.Random(3)
    for _ in range(6):
        left = lot.randint(3, 15)

        def countdown(step: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(files, "step", countdown)
            refused(run("run", "--quiet", config), 130, calm)
    assert run("run", "--quiet", config)[0] == 0
    assert whole(tmp_path / "run") == whole(tmp_path / "whole")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_loses_nothing(
    number: int, write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever file is written when it happens: one sentence, and with room made the run goes on to the same end."""
    reason = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}[number]
    assert run("run", "--quiet", write(out=str(tmp_path / "whole"), strategies=["star"]))[0] == 0
    config = write(strategies=["star"])
    stopped_at: set[str] = set()
    for room in range(40):  # so many flushes succeed, then none
        left = room

        def flush(descriptor: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(files, "flush", flush)
            found = run("run", "--quiet", config)
        assert not list((tmp_path / "run").rglob(".tmp-*")), "temporaries are removed, they would fill the disk"
        if found[0] == 0:  # nothing is left to write but the report, which can be written again at any time
            break
        refused(found, 1, f"cannot be written: {reason}. Nothing recorded is lost; run the same command again")
        stopped_at |= set(re.findall(r"guidestar: run/(\S+): cannot", found[1]))
    assert {"config.yaml", "star-seed0/adapters/round-000"} <= stopped_at, stopped_at
    assert any("round-001" in name for name in stopped_at), stopped_at
    assert run("run", "--quiet", config)[0] == 0
    assert whole(tmp_path / "run") == whole(tmp_path / "whole")


def test_a_disk_that_fills_under_foreign_writers(
    write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    """A real limit of the operating system on the size of files, which SQLite and safetensors run into themselves."""
    import resource
    import signal

    assert run("run", "--quiet", write(out=str(tmp_path / "whole"), strategies=["star"]))[0] == 0
    config = write(strategies=["star"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    failures = []
    try:
        for size in (1_000, 10_000, 60_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            try:
                code, said = run("run", "--quiet", config)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            if code:
                failures.append(said)
                assert code == 1, said
                assert "Traceback" not in said
                assert re.search(r"cannot be (written|read or written)", said), said
    finally:
        signal.signal(signal.SIGXFSZ, before)
    assert len(failures) >= 2
    assert run("run", "--quiet", config)[0] == 0
    assert whole(tmp_path / "run") == whole(tmp_path / "whole")


def test_a_read_only_output_folder(
    write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated, so that it also holds for a superuser, to whom no folder is read-only."""
    real = Path.mkdir

    def mkdir(self: Path, *args: Any, **options: Any) -> None:
        if "run" in self.parts[-2:]:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        real(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", mkdir)
        refused(run("run", write()), 1, "run/entropy-seed0: cannot be written: the file system is read-only.")
    assert run("run", "--quiet", write())[0] == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path) -> None:
    assert run("run", "--quiet", write(query={"budget": 4}))[0] == 0
    before = whole(tmp_path / "run")
    (tmp_path / "run").chmod(0o500)
    try:
        refused(
            run("run", write(query={"budget": 4}, strategies=["random"])),
            1,
            "random-seed0: cannot be written: permission is denied",
        )
    finally:
        (tmp_path / "run").chmod(0o700)
    assert whole(tmp_path / "run") == before


def test_an_output_folder_that_is_a_file(write: Callable[..., Path], run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    refused(run("run", write()), 1, "run/entropy-seed0: cannot be written: Not a directory")
    assert (tmp_path / "run").read_text() == "mine"
