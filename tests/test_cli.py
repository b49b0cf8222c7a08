"""The command line: what a shell sees, exit codes included."""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LABELS
from forks import Forked
from outside import COMMAND, dump, recorded

from guidestar import cli, loop
from guidestar import config as configs
from guidestar.bench import Bench, read_config
from guidestar.data.pool import load_dataset
from guidestar.data.presets import PRESETS
from guidestar.query.measures import MEASURES
from guidestar.query.strategies import STRATEGIES
from guidestar.records import Label
from guidestar.store import Store

MakeConfig = Callable[..., dict[str, Any]]
Call = Callable[..., tuple[int, str, str]]

SMALL: dict[str, Any] = {
    "data": {"test_limit": 10},
    "query": {"warm_start": 12, "batch": 2, "budget": 14, "candidates": 12},
    "train": {"epochs": 1, "batch_size": 16},
}
COMMANDS = next(a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction)).choices


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command in this process: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = cli.main([str(a) for a in arguments])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        found = capsys.readouterr()
        return code, found.out, found.err

    return run


@pytest.fixture
def config_file(make_config: MakeConfig, tmp_path: Path) -> Callable[..., Path]:
    """A configuration as a file; JSON is YAML."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "my.yaml"
        path.write_text(json.dumps(make_config(**{**SMALL, **changes})))
        return path

    return write


def strict_json(text: str) -> Any:
    """JSON as other programs read it: NaN and Infinity are not in it."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"], []])
def test_help_is_quick_because_it_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; from guidestar import cli\n"
        f"try: cli.main({arguments!r})\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {"torch", "transformers", "peft", "numpy", "pydantic", "yaml", "sklearn"} & set(found.stderr.split())
    assert not loaded, f"guidestar {' '.join(arguments)} loads {sorted(loaded)}"
    assert "guidestar" in found.stdout


def test_every_command_has_help_and_stands_in_the_documentation(call: Call) -> None:
    code, text, _ = call("--help")
    assert code == 0
    assert "exit codes: 0 ok, 1 failure, 2 usage or config, 3 data, 4 waiting for labels, 130/143 stopped" in " ".join(
        text.split()
    )
    pages = Path(__file__).parent.parent / "docs" / "cli.md"
    documented = pages.read_text(encoding="utf-8") if pages.exists() else None
    for name, command in COMMANDS.items():
        assert callable(command.get_default("function")), f"{name} is parsed and not carried out"
        code, text, _ = call(name, "--help")
        assert code == 0
        assert command.description
        for action in command._actions:
            assert action.help, f"{name}: {action.dest} has no help"
        if documented is not None:
            assert f"## `guidestar {name}`" in documented, f"docs/cli.md does not know {name}"


# --- exit codes -----------------------------------------------------------------------------------


def test_exit_codes_and_the_stream_of_each_message(
    call: Call, config_file: Callable[..., Path], tmp_path: Path, demo_data: Path
) -> None:
    """Facts go to standard output, everything else to standard error; no failure shows a traceback."""
    assert call()[0] == 2, "no command"
    assert call("rum")[0] == 2
    assert call("run")[0] == 2
    good = config_file(strategies=["random"])
    bad_data = {"data": {"preset": "demo", "folder": str(tmp_path)}}
    missing: list[list[object]] = [
        [name] for name in ("run", "plan", "status", "report", "label", "agreement", "export")
    ]
    missing += [["export", "--rows", demo_data / "pool.csv", "--out", tmp_path / "a.csv"]]
    cases: list[tuple[int, list[object], str]] = [
        *((1, [*command, tmp_path / "none"], "none: no such folder") for command in missing),
        (1, ["predict", tmp_path / "none", demo_data / "pool.csv"], "none: no such folder"),
        *((2, [*command, tmp_path / "none.yaml"], "none.yaml: no such file") for command in missing),
        (1, ["report", tmp_path], "found no run; expected a folder with run.sqlite"),
        (1, ["run", good, f"model.name={demo_data}"], "no weights here; expected *.safetensors"),
        (2, ["run", good, "train.epocs=3"], "did you mean 'epochs'?"),
        (2, ["run", good, "query.budget=5"], "query.budget is 5, below query.warm_start 12"),
        (2, ["score", good, demo_data / "test.csv", "--measure", "entrpy"], "did you mean 'entropy'?"),
        (2, ["init", demo_data / "pool.csv", "--out", good], "exists already; use --force"),
        (3, ["run", config_file_at(tmp_path / "bad.yaml", good, bad_data)], "pool.csv: no such file"),
        (3, ["init", tmp_path / "none.csv"], "none.csv: no such file"),
        (0, ["run", good], ""),
        (2, ["run", good, "train.epochs=9"], "train.epochs: begun with 1, now 9"),
    ]
    for expected, arguments, message in cases:
        code, out, err = call(*arguments)
        assert code == expected, f"guidestar {arguments}: exit code {code}\n{out}\n{err}"
        assert message in err
        assert "Traceback" not in err
        if expected:
            assert out == "", "what went wrong is no fact"
            assert all(line.startswith("guidestar: ") for line in err.splitlines() if message in line)


def config_file_at(path: Path, source: Path, changes: dict[str, Any]) -> Path:
    path.write_text(json.dumps({**json.loads(source.read_text()), **changes}))
    return path


def test_a_run_stopped_by_signals_continues_to_the_same_end(
    config_file: Callable[..., Path], make_config: MakeConfig, tmp_path: Path
) -> None:
    """Ctrl-C in the middle gives 130 and a calm sentence, SIGTERM 143; a third command ends the run like an
    uninterrupted one."""
    longer = {**SMALL, "query": {**SMALL["query"], "budget": 16}, "train": {"epochs": 10, "batch_size": 8}}
    file = config_file(strategies=["star"], **longer)
    folder = tmp_path / "run" / "star-seed0"
    for number, code, done in ((signal.SIGINT, 130, 0), (signal.SIGTERM, 143, 1)):
        command = [*COMMAND, "run", str(file)]
        with Forked(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None and (
                recorded(tmp_path / "run", "annotations") < 12 or recorded(tmp_path / "run", "adapters") < done
            ):
                time.sleep(0.005)
            process.send_signal(number)
            out, err = process.communicate()
        # Interrupted inside an `exec` of a library, Python ends by the signal itself; to a shell that is 130 too.
        shown = process.returncode if process.returncode >= 0 else 128 - process.returncode
        assert shown == code, err
        assert "Traceback" not in err
        assert out == ""
        if number == signal.SIGINT:
            assert err.endswith("guidestar: stopped; nothing recorded is lost, the same command continues\n")
    with Store.open(folder) as store:
        assert store.finished() is None, "the run was over before the signals came: the test says nothing"
    assert cli.main(["run", "--quiet", str(file)]) == 0
    loop.run(make_config(out=str(tmp_path / "whole"), strategies=["star"], **longer))
    with Store.open(folder) as one, Store.open(tmp_path / "whole" / "star-seed0") as other:
        assert dump(one) == dump(other)


# --- facts as JSON --------------------------------------------------------------------------------


def test_json_is_json_for_every_command_that_prints_facts(
    call: Call, config_file: Callable[..., Path], tmp_path: Path, demo_data: Path
) -> None:
    file = config_file()
    code, out, err = call("run", "--json", file)
    assert code == 0, err
    facts = strict_json(out)
    assert {run["run"] for run in facts["runs"]} == {"star-seed0", "random-seed0"}
    assert all(run["finished"] == "The label budget is spent." for run in facts["runs"])
    assert "star seed 0 round 1: 14 labels, accuracy" in err, "news of a round go to standard error"

    code, out, _ = call("status", "--json", tmp_path / "run")
    assert code == 0
    stands = strict_json(out)
    assert [one["run"] for one in stands.pop("advice")] == ["random-seed0", "star-seed0"]
    assert stands.pop("answer")["sentence"].startswith("One seed cannot show a gain")
    assert stands == facts
    code, out, _ = call("report", "--json", tmp_path / "run")
    page = Path(strict_json(out)["report"])
    assert page.is_file()
    assert "<html" in page.read_text(encoding="utf-8")

    code, out, _ = call("init", "--json", demo_data / "pool.csv", "--out", tmp_path / "new.yaml")
    found = strict_json(out)
    assert found["config"] == str(tmp_path / "new.yaml")
    assert (found["text"], found["answer"], found["labels"]) == ("text", "label", sorted(LABELS))

    for name, table in (("strategies", STRATEGIES), ("measures", MEASURES), ("presets", PRESETS)):
        found = strict_json(call(name, "--json")[1])
        assert list(found) == list(table)
        assert all(found.values())
        lines = [line.split() for line in call(name)[1].splitlines()]
        named = [words[0] for words in lines if words and words[0] in table]
        assert named == list(table) if name != "strategies" else sorted(named) == sorted(table)
    assert "smollm2-135m" in strict_json(call("models", "--json")[1])


def test_json_of_a_run_that_waits(
    call: Call, config_file: Callable[..., Path], tmp_path: Path, demo_data: Path
) -> None:
    unlabelled = tmp_path / "pool.csv"
    unlabelled.write_text("text\n" + "".join(f"message {i}\n" for i in range(20)))
    data = {"preset": None, "folder": None, "test_limit": None, "pool": str(unlabelled), "template": "{text}\nTopic:"}
    file = config_file(data=data, task={"kind": "choice", "labels": LABELS}, strategies=["star"])
    code, out, _ = call("run", "--json", file)
    assert code == 4
    (run,) = strict_json(out)["runs"]
    assert (run["unanswered"], run["finished"], run["final"]) == (12, None, None)
    assert strict_json(call("status", "--json", tmp_path / "run")[1])["runs"] == [run]
    with Store.open(tmp_path / "run" / "star-seed0") as store:
        for pick in store.query(0).picks[:3]:
            store.annotations.add(pick.id, Label(LABELS[0], "Ada"))
    said = call("status", tmp_path / "run")[1].splitlines()
    assert said[0] == "3 labels so far, no model yet: 9 questions of the first round wait."
    assert said[1] == "star-seed0: 0 of 2 rounds, 3 labels; waits for 9 answers."
    assert said[2].startswith("next: answer the 9 questions that wait: guidestar label ")


def test_quiet_says_nothing_but_facts(call: Call, config_file: Callable[..., Path]) -> None:
    code, out, err = call("run", "--quiet", config_file(strategies=["random"]))
    assert code == 0
    assert err == ""
    assert out.count("budget is spent") == 1, "the end of a run says it once"


# --- init -----------------------------------------------------------------------------------------


def test_init_on_a_labelled_file_writes_a_configuration_that_runs(
    call: Call, tmp_path: Path, demo_data: Path, tiny_folder: Path
) -> None:
    data = tmp_path / "mine.csv"
    data.write_bytes((demo_data / "pool.csv").read_bytes())
    code, out, _ = call("init", data)
    assert code == 0
    config = tmp_path / "mine.yaml"
    assert out.splitlines()[-1] == f"next: guidestar run {config}"
    assert config.read_text().count("#") > 5, "the configuration explains itself"
    assert "model: all-minilm-l6-v2, an encoder: it tells classes apart" in out
    overrides = [
        f"model.name={tiny_folder}",
        "query.budget=24",
        "query.candidates=12",
        "train={recipe: lean, epochs: 1, min_steps: 3}",
        "strategies=[margin]",
    ]
    code, out, err = call("run", "--json", config, *overrides)
    assert code == 0, err
    (run,) = strict_json(out)["runs"]
    assert run["labels"] == 24
    assert run["final"] is not None, "a test share gives a curve"
    assert (tmp_path / "runs" / "mine").is_dir(), "the run lies beside the configuration"
    assert call("init", data)[0] == 2, "an existing configuration is not overwritten"
    assert call("init", data, "--force")[0] == 0


def test_init_on_an_unlabelled_file_gives_a_run_that_waits_for_people(
    call: Call, tmp_path: Path, tiny_folder: Path
) -> None:
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(json.dumps({"id": i, "text": f"a longer message, number {i}"}) + "\n" for i in range(30)))
    code, out, _ = call("init", data)
    assert code == 0
    assert "no answer column: labels will be asked for" in out
    following = f"guidestar label {tmp_path / 'mine.yaml'}"
    assert out.splitlines()[-1] == f"next: put your labels into it (task.labels), then: {following}"
    code, out, err = call("run", tmp_path / "mine.yaml", f"model.name={tiny_folder}")
    assert code == 2
    assert "task.labels: a choice needs at least two labels, found none" in err, "nobody is asked about made-up labels"
    for labels, why in (
        ("praise", "at least two labels"),
        (",", "found none"),
        ("praise,Praise", "same when case is ignored"),
    ):
        code, _, err = call("init", data, "--force", "--labels", labels)
        assert code == 2
        assert why in err
    code, out, _ = call("init", data, "--force", "--labels", "praise, complaint,")
    assert code == 0
    assert out.splitlines()[-1] == f"next: {following}"
    code, out, err = call("run", tmp_path / "mine.yaml", f"model.name={tiny_folder}")
    assert code == 4, err
    assert "lean-seed0: waits for" in out
    assert configs.load(tmp_path / "mine.yaml").task.labels == ["praise", "complaint"]


def test_init_refuses_labels_that_do_not_fit_the_answers(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(f"message {i},{LABELS[i % 3]}\n" for i in range(30)))
    some = ",".join(LABELS[:2])
    code, _, err = call("init", tmp_path / "mine.csv", "--labels", some)
    assert code == 2
    assert f"--labels: 'label' holds others, too: {LABELS[2]}; name all, or give --answer none" in err
    code, out, _ = call("init", tmp_path / "mine.csv", "--labels", f"{some},{LABELS[2]},rare")
    assert code == 0
    assert "a choice of 4 labels" in out
    (tmp_path / "sums.csv").write_text(
        "text,answer\n" + "".join(f"{i} and 1?,we add #### {i + 1}\n" for i in range(30))
    )
    code, out, _ = call("init", tmp_path / "sums.csv", "--labels", "a,b")
    assert code == 0
    assert "no answer column: labels will be asked for" in out, "it has none of the labels"
    code, _, err = call("init", tmp_path / "sums.csv", "--force", "--labels", "a,b", "--answer", "answer")
    assert code == 2
    assert "--labels: the answers in 'answer' are no choice but a final number; leave it out" in err
    code, _, err = call("init", tmp_path / "sums.csv", "--force", "--labels", "")
    assert (code, "a choice needs at least two labels" in err) == (2, True), "an empty variable is no wish for a guess"


def test_init_says_that_a_column_of_one_label_tells_nothing_apart(call: Call, tmp_path: Path) -> None:
    for labels, said in ((["spam"], True), (["spam", "ham"], False)):
        rows = "".join(f"message {i},{labels[i % len(labels)]}\n" for i in range(30))
        (tmp_path / "one.csv").write_text("text,label\n" + rows)
        _, out, _ = call("init", tmp_path / "one.csv", "--force")
        assert (
            "label holds one value alone, 'spam': to tell texts apart, name all labels with --labels" in out
        ) == said


DELICATE = {
    "emoji 🚀 and “quotes”.csv": ["message 🚀", "label"],
    "a: b #c.csv": ["user: text", "the label #1"],
    "dots.csv": ["user.text", "is.spam"],
    "brackets.csv": ["text [en]", "label"],
    "braces.csv": ["{text}", "label"],
    "no.csv": ["text", "true"],
}


@pytest.mark.parametrize("name", DELICATE)
def test_init_copes_with_names_that_yaml_or_templates_could_misread(
    name: str, call: Call, tmp_path: Path, tiny_folder: Path
) -> None:
    text, label = DELICATE[name]
    with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow([text, label])
        rows.writerows([f"a message about thing {i}, quite long", "yes" if i % 3 else "08"] for i in range(40))
    assert call("init", tmp_path / name, "--out", tmp_path / "c.yaml")[0] == 0
    overrides = [f"model.name={tiny_folder}", "query.budget=10", "query.warm_start=10", "train.min_steps=2"]
    code, out, err = call("run", "--json", tmp_path / "c.yaml", *overrides, "strategies=[random]")
    assert code == 0, err
    (run,) = strict_json(out)["runs"]
    assert run["labels"] == 10


def test_init_sees_a_label_column_whose_first_cells_are_empty(call: Call, tmp_path: Path) -> None:
    """A pool half labelled, with a null label in its first row."""
    rows = [{"text": f"a message about thing {i}", "label": None if i < 3 else LABELS[i % 2]} for i in range(40)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = strict_json(call("init", "--json", tmp_path / "mine.jsonl")[1])
    assert (found["answer"], found["labels"]) == ("label", sorted(LABELS[:2]))


def test_init_on_a_half_labelled_file_asks_people_and_its_labels_come_in(
    call: Call, tmp_path: Path, tiny_folder: Path
) -> None:
    data = tmp_path / "mine.csv"
    rows = [f"a message about thing {i},{LABELS[i % 2] if i < 30 else ''}\n" for i in range(60)]
    data.write_text("text,label\n" + "".join(rows) + ",\n")
    code, out, _ = call("init", data)
    assert code == 0
    assert "30 of 61 rows have no label, so people will be asked" in out
    assert "1 of 61 rows have no text and are left out" in out
    assert out.splitlines()[-1] == f"next: guidestar label {tmp_path / 'mine.yaml'}"
    settings = configs.load(tmp_path / "mine.yaml")
    assert (settings.annotator, len(settings.strategies), settings.data.blank) == ("people", 1, "drop")
    code, out, err = call("run", tmp_path / "mine.yaml", f"model.name={tiny_folder}")
    assert code == 4, err
    assert "1 blank row left out" in err
    code, out, err = call("import", tmp_path / "runs" / "mine", data)
    assert code == 0, err
    assert "30 answers stand so already" in out, "they counted from the start"
    assert out.startswith("no new answers\n"), "an import of nothing new promises no training"


def test_init_takes_the_columns_it_is_told(call: Call, tmp_path: Path) -> None:
    data = tmp_path / "mine.csv"
    rows = [f"{i},a longer message {i},{'web' if i % 2 else 'mail'}\n" for i in range(40)]
    data.write_text("id,text,channel\n" + "".join(rows))
    out = call("init", data)[1]
    assert "guessed: if channel holds no labels, start again with --answer COLUMN, or --answer none" in out
    found = strict_json(call("init", "--json", data, "--force", "--answer", "none")[1])
    assert (found["answer"], found["asked"]) == (None, True)
    found = strict_json(call("init", "--json", data, "--force", "--answer", "channel", "--text", "id")[1])
    assert (found["answer"], found["text"], found["asked"]) == ("channel", "id", False)
    assert not any("guessed" in note for note in found["notes"])
    code, _, err = call("init", data, "--force", "--answer", "chanel")
    assert code == 2
    assert "--answer chanel: no such column; did you mean 'channel'?" in err


def test_labels_that_case_alone_tells_apart_are_named(call: Call, tmp_path: Path) -> None:
    data = tmp_path / "mine.csv"
    data.write_text(
        "text,label\n" + "".join(f"a longer message {i},{('Web', 'web', 'mail')[i % 3]}\n" for i in range(60))
    )
    assert "spellings that count as one label: 'Web' and 'web'" in call("init", data)[1]


def test_the_terminal_says_what_it_needs(call: Call, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("out: runs\n")
    code, _, err = call("label", config, "--terminal")
    assert code == 2
    assert f"begin it with: guidestar run {config}" in err
    code, _, err = call("label", tmp_path, "--terminal", "--train")
    assert code == 2
    assert "--train goes with the page" in err


# --- demo -----------------------------------------------------------------------------------------


def test_the_demo_runs_and_continues_with_another_model(call: Call, tmp_path: Path, tiny_folder: Path) -> None:
    sizes = ["query.warm_start=12", "query.batch=2", "query.budget=14", "query.candidates=12", "data.test_limit=10"]
    sizes += ["seeds=[0]", "train.min_steps=1"]
    command = ["demo", "--json", "--out", tmp_path / "demo", f"model.name={tiny_folder}", "train.epochs=1", *sizes]
    code, out, err = call(*command)
    assert code == 0, err
    assert err.startswith("guidestar demo: "), "something is said before anything slow begins"
    facts = strict_json(out)
    assert facts["synthetic"] is True
    assert {run["strategy"] for run in facts["runs"]} == {"lean", "star", "random"}
    assert list((tmp_path / "demo").glob("*.html"))
    assert strict_json(call(*command)[1])["runs"] == facts["runs"]


def test_a_demo_killed_while_it_writes_its_data_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidestar.project import write_demo_project
    from guidestar.store import files

    class Crash(BaseException):
        pass

    write_demo_project(tmp_path / "whole")

    def content_of(folder: Path) -> dict[str, bytes]:
        found = (f for f in folder.rglob("*") if f.is_file() and ".tmp-" not in str(f))
        return {str(f.relative_to(folder)): f.read_bytes() for f in found}

    steps: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(files, "step", steps.append)
        write_demo_project(tmp_path / "counted")
    for at in range(len(steps)):
        left = at

        def crash(step: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash

        with monkeypatch.context() as patch:
            patch.setattr(files, "step", crash)
            with pytest.raises(Crash):
                write_demo_project(tmp_path / f"crash-{at}")
        write_demo_project(tmp_path / f"crash-{at}")
        assert content_of(tmp_path / f"crash-{at}") == content_of(tmp_path / "whole"), f"after {steps[at]!r}"


# --- score ----------------------------------------------------------------------------------------


@pytest.fixture
def trained(config_file: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """(configuration, adapter) of a finished run."""
    file = config_file(strategies=["random"], train={"epochs": 4, "batch_size": 8, "learning_rate": 1e-2})
    loop.run(file)
    return file, tmp_path / "run" / "random-seed0" / "adapters" / "round-001"


def test_score_prints_one_line_for_each_row_in_the_files_order(
    call: Call, trained: tuple[Path, Path], demo_data: Path, tmp_path: Path
) -> None:
    config, adapter = trained
    source = demo_data / "test.csv"
    with source.open(encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]

    def score(*options: object) -> list[dict[str, Any]]:
        code, out, err = call("score", config, source, *options)
        assert code == 0, err
        rows = [strict_json(line) for line in out.splitlines()]
        assert [row["where"] for row in rows] == [f"{source} line {i + 2}" for i in range(len(texts))]
        assert len({row["id"] for row in rows}) == len(texts)
        assert {row["prediction"] for row in rows} <= set(LABELS)
        return rows

    def values(rows: list[dict[str, Any]], name: str) -> np.ndarray:
        return np.array([row[name] for row in rows])

    base = score("--quiet")
    assert set(base[0]) == {"id", "where", "prediction", "entropy"}, "entropy is the measure of a choice"
    tuned = score("--adapter", adapter)
    assert not np.array_equal(values(base, "entropy"), values(tuned, "entropy"))
    two = score("--adapter", adapter, "--measure", "margin", "--measure", "entropy")
    assert list(two[0])[3:] == ["margin", "entropy"]
    assert np.array_equal(values(two, "entropy"), values(tuned, "entropy"))
    dropped = score("--adapter", adapter, "--passes", 3, "--measure", "bald", "--seed", 1)
    assert (values(dropped, "bald") >= 0).all()
    assert np.array_equal(
        values(score("--adapter", adapter, "--passes", 3, "--measure", "bald", "--seed", 1), "bald"),
        values(dropped, "bald"),
    )
    assert not np.array_equal(
        values(score("--adapter", adapter, "--passes", 3, "--measure", "bald"), "bald"), values(dropped, "bald")
    )
    gold = score("--measure", "oracle_predictive_entropy")
    assert (values(gold, "oracle_predictive_entropy") > 0).all()

    folder = tmp_path / "run"
    code, out, _ = call("score", folder, source, "--adapter", "none")
    assert code == 0
    assert [strict_json(line) for line in out.splitlines()] == base, (
        "the folder of a run is as good as its configuration"
    )
    code, out, err = call("score", folder, source)
    assert code == 0
    last = sorted(folder.glob("*/adapters/round-*"))[-1]
    assert f"adapter of round {int(last.name[-3:])}: {last}" in err
    assert [strict_json(line) for line in out.splitlines()] == score("--adapter", last), "a run's last adapter"


def test_score_equals_what_the_loop_computes(call: Call, trained: tuple[Path, Path], demo_data: Path) -> None:
    """The tool and the loop must not drift apart: the last evaluation's entropies of the same examples."""
    config, adapter = trained
    _, out, _ = call("score", config, demo_data / "test.csv", "--adapter", adapter)
    rows = [strict_json(line) for line in out.splitlines()]
    with Store.open(adapter.parent.parent) as store:
        log_probs = store.arrays(1, "test")["log_probs"].astype(float)
    test = Bench(read_config(config)).dataset.test
    assert test is not None
    by_where = {row["where"]: row["entropy"] for row in rows}
    scored = np.array([by_where[example.where] for example in test.examples])
    np.testing.assert_allclose(scored, -(np.exp(log_probs) * log_probs).sum(1), rtol=1e-4, atol=1e-6)


def test_score_refuses_what_makes_no_sense(
    call: Call, trained: tuple[Path, Path], demo_data: Path, tmp_path: Path
) -> None:
    config, _ = trained
    source = demo_data / "test.csv"
    bare = tmp_path / "bare.csv"
    bare.write_text("text\nwhere is my parcel\n")
    cases: list[tuple[int, list[object], str]] = [
        (2, [source, "--measure", "bald"], "measure bald compares Monte-Carlo passes: give --passes 2 or more"),
        (2, [bare, "--measure", "oracle_entropy"], "needs the gold answer of every pool example"),
        (2, [source, "--passes", 2], "there is no adapter on the model"),
        (1, [source, "--adapter", tmp_path], "not an adapter; expected adapter_config.json"),
        (3, [tmp_path / "none.csv"], "none.csv: no such file"),
        (3, [config], "found the extension '.yaml'"),
    ]
    for expected, arguments, message in cases:
        code, out, err = call("score", config, *arguments)
        assert (code, out) == (expected, ""), err
        assert message in err
    assert call("score", config, bare)[0] == 0, "a file without answers is what the tool is for"


def test_score_takes_the_labels_from_the_configured_pool(
    call: Call, make_config: MakeConfig, tmp_path: Path, demo_data: Path
) -> None:
    """Without task.labels the label space is the pool's, whatever labels the scored file happens to hold."""
    data = {
        "preset": None,
        "folder": None,
        "test_limit": None,
        "pool": str(demo_data / "pool.csv"),
        "answer": "label",
        "template": "Message: {text}\nTopic:",
    }
    file = tmp_path / "c.json"
    file.write_text(json.dumps(make_config(data=data, task={"kind": "choice"})))
    scored = {}
    for name, text in (
        ("bare", "text\nwhere is my parcel\n"),
        ("one", "text,label\nwhere is my parcel,delivery\n"),
        ("two", "text,label\nwhere is my parcel,delivery\nhi,praise\n"),
    ):
        (tmp_path / f"{name}.csv").write_text(text)
        code, out, err = call("score", file, tmp_path / f"{name}.csv", "--quiet")
        assert code == 0, err
        scored[name] = strict_json(out.splitlines()[0])["entropy"]
    assert scored["bare"] == scored["one"]
    assert scored["two"] == pytest.approx(scored["one"], rel=1e-5)


@pytest.mark.parametrize(
    ("process", "arguments"), [(subprocess.Popen, ["strategies"]), (Forked, ["score", "CONFIG", "FILE", "--quiet"])]
)
def test_a_closed_pipe_is_no_failure(
    process: Any, arguments: list[str], config_file: Callable[..., Path], demo_data: Path
) -> None:
    """`guidestar score … | head -1`: the reader leaves early, and nobody hears of it."""
    places = {"CONFIG": str(config_file()), "FILE": str(demo_data / "pool.csv")}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with process(
        [*COMMAND, *(places.get(a, a) for a in arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as one:  # fmt: skip
        one.stdout.close()
        errors = one.stderr.read()
    assert errors == ""
    assert one.returncode == 0


# --- overrides and folders ------------------------------------------------------------------------


def test_a_run_continues_from_its_folder_alone_and_from_anywhere(
    call: Call,
    make_config: MakeConfig,
    tmp_path: Path,
    tiny_folder: Path,
    demo_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Begun with relative paths and overrides; the file is gone; another current folder."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "data").symlink_to(demo_data)
    (home / "tiny").symlink_to(tiny_folder)
    plain = make_config(**{**SMALL, "data": {"folder": "data", "test_limit": 10}}, model={"name": "tiny"}, out="runs/a")
    (home / "my.yaml").write_text(json.dumps(plain))
    monkeypatch.chdir(home)
    code, _, err = call("run", "my.yaml", "strategies=[random]", "train.epochs=2")
    assert code == 0, err
    (home / "my.yaml").unlink()
    monkeypatch.chdir("/")
    code, out, err = call("run", home / "runs" / "a")
    assert code == 0, err
    assert out.count("budget is spent") == 1
    monkeypatch.chdir(home / "runs")
    code, out, err = call("run", "a", "seeds=[0, 1]")
    assert code == 0, err
    assert "random-seed0 and random-seed1: The label budget is spent." in out
    assert out.count("budget is spent") == 1
    with Store.open(home / "runs" / "a" / "random-seed1") as store:
        assert store.key["train.epochs"] == 2, "the override was kept"
    code, _, err = call("run", "a", "train.epochs=3")
    assert code == 2
    assert "train.epochs: begun with 2, now 3" in err


def test_a_model_named_by_a_relative_override_is_found_again(
    call: Call, config_file: Callable[..., Path], tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = config_file(model={"name": "smollm2-135m"}, strategies=["random"])
    monkeypatch.chdir(tiny_folder.parent)
    assert call("run", file, f"model.name={tiny_folder.name}")[0] == 0
    monkeypatch.chdir("/")
    code, _, err = call("run", tmp_path / "run")
    assert code == 0, err


def test_overrides_are_part_of_what_is_checked(call: Call, config_file: Callable[..., Path]) -> None:
    code, _, err = call("run", config_file(), "train.epochs=0", "query.bach=3", "seeds=[1,1]")
    assert code == 2
    assert "command line: train.epochs is 0; allowed: greater than or equal to 1" in err
    assert "command line: query.bach: unknown key 'bach' in query; did you mean 'batch'?" in err
    assert "command line: seeds has the same seed twice" in err


def test_keys_to_change_may_stand_after_any_option(call: Call, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("datasets: [demo]\nstrategies: [random]\n")
    for command in (
        ["paper", "table1", "--seeds", 1, "train.epoch=3"],
        ["paper", "--scale", "small", "table1", "query.batch=5", "--seeds", 1, "train.epoch=3", "--plan"],
        ["study", tmp_path / "study.yaml", "--plan", "train.epoch=3"],
    ):
        code, _, said = call(*command)
        assert code == 2
        assert "train.epoch: unknown key 'epoch' in train; did you mean 'epochs'" in said
    for wrong in (
        ["paper", "table1", "--plan", "train.epochs"],
        ["paper", "table1", "x=1", "--nope"],
        ["doctor", "a", "b=1"],
    ):
        code, _, said = call(*wrong)
        assert code == 2
        assert "unrecognized arguments" in said


def test_init_of_the_current_folder_has_a_name(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "." has none; the configuration is called as the folder is, and lies in it."""
    datasets = pytest.importorskip("datasets")
    (tmp_path / "mine").mkdir()
    table = {"text": [f"a longer message {i}" for i in range(40)], "label": ["ab"[i % 2] for i in range(40)]}
    datasets.Dataset.from_dict(table).save_to_disk(str(tmp_path / "mine"))
    monkeypatch.chdir(tmp_path / "mine")
    code, out, _ = call("init", ".")
    assert code == 0
    assert "mine: 40 rows" in out
    assert read_config(tmp_path / "mine" / "mine.yaml").out.endswith("runs/mine")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    code, _, err = call("init", ".")
    assert code == 3
    assert "cannot be loaded" in err
    assert "it holds no file that could be data" in err
    (tmp_path / "empty" / "broken.parquet").write_text("no table")
    assert "name one of its files: broken.parquet" in call("init", ".")[2]


def test_a_tilde_in_an_option_is_the_home_folder(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves the one in --out=~/x alone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(f"message {i},{'ab'[i % 2]}\n" for i in range(40)))
    assert call("init", "~/mine.csv", "--out=~/there.yaml")[0] == 0
    assert (tmp_path / "there.yaml").exists()


def test_init_writes_the_encoding_that_the_bytes_show(call: Call, tmp_path: Path) -> None:
    """A guess is a line in the configuration that a person can change, and said."""
    rows = [f"Die Größe der Straße ist schön und die Tür geht auf {i},{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "mine.csv.gz").write_bytes(gzip.compress("\n".join(["text,label", *rows, ""]).encode("cp1252")))
    code, out, _ = call("init", tmp_path / "mine.csv.gz")
    assert code == 0
    found = read_config(tmp_path / "mine.yaml")
    assert found.data.encoding is not None
    assert f"the file is not UTF-8 and was read as {found.data.encoding}" in out
    assert load_dataset(found).pool[0].fields["text"].startswith("Die Größe der Straße")
    (tmp_path / "plain.csv").write_text("text,label\n" + "\n".join(rows))
    call("init", tmp_path / "plain.csv")
    assert "encoding" not in (tmp_path / "plain.yaml").read_text()


def test_label_again_with_the_same_labels_goes_on_and_keys_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command continues: keys given with the file are written into its configuration."""
    from guidestar.people.page import server

    served: list[Path] = []
    monkeypatch.setattr(server, "serve", lambda run, **_: served.append(run) or 0)
    data = tmp_path / "mine.csv"
    data.write_text("text\n" + "".join(f"message number {i} about parcels\n" for i in range(60)))
    command = ["label", str(data), "--labels", "praise,complaint", "--no-browser"]
    assert cli.main([*command, "query.warm_start=7", "query.batch=3", "query.budget=13"]) == 0
    written = configs.load(tmp_path / "mine.yaml")
    assert (written.query.warm_start, written.query.batch, written.query.budget) == (7, 3, 13)
    before = (tmp_path / "mine.yaml").read_bytes()
    assert cli.main(command) == 0
    assert served == [tmp_path / "mine.yaml"] * 2
    assert (tmp_path / "mine.yaml").read_bytes() == before
    assert cli.main([*command[:3], "praise,other", *command[4:]]) == 2
