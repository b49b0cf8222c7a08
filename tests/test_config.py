"""The configuration: strict, every problem at once with its place, and read the way a person means it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guidestar import config
from guidestar.bench import Bench
from guidestar.data.presets import PRESETS, apply_preset
from guidestar.errors import ConfigError
from guidestar.schema import RunConfig

GOOD = "data: {pool: pool.csv, template: 'Q: {text}'}\ntask: {kind: choice}\n"

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(text: str | bytes) -> Path:
        path = tmp_path / "my.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return file


def problems(path: Path, overrides: list[str] | None = None) -> list[str]:
    """The lines of the error, the file's folder taken off."""
    with pytest.raises(ConfigError) as caught:
        config.load(path, overrides or [])
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


# --- every problem at once, with its place --------------------------------------------------------


def test_unknown_keys_are_named_with_line_place_and_the_nearest(write: Write) -> None:
    found = problems(
        write(
            GOOD
            + "trian: {epochs: 3}\nquery: {bach: 5}\nstrategies:\n- use: star\n  mesure: entropy\n  mix: {shedule: linear}\n"
        )
    )
    assert len(found) == 4
    starts = {
        "my.yaml line 3: unknown key 'trian' in the top level; did you mean 'train'? allowed: out, seeds, ",
        "my.yaml line 4: unknown key 'bach' in query; did you mean 'batch'? allowed: warm_start, batch, budget, ",
        "my.yaml line 7: unknown key 'mesure' in strategies.0; did you mean 'measure'? allowed: use, name, ",
        "my.yaml line 8: unknown key 'shedule' in strategies.0.mix; did you mean 'schedule'? allowed: schedule, ",
    }
    for start in starts:
        assert any(line.startswith(start) for line in found), f"missing: {start}\nfound: {found}"


def test_a_key_unlike_any_other_gets_no_hint(write: Write) -> None:
    assert "did you mean" not in problems(write(GOOD + "zzz: 1\n"))[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {learning_rate: fast}", "train.learning_rate is 'fast'; allowed: a number"),
        ("train: {epochs: 3.5}", "train.epochs is 3.5; allowed: a whole number"),
        ("train: {epochs: '3'}", "train.epochs is '3'; allowed: a whole number"),
        ("train: {epochs: true}", "train.epochs is True; allowed: a whole number"),
        ("train: {epochs: 0}", "train.epochs is 0; allowed: greater than or equal to 1"),
        ("train: {warmup: 1}", "train.warmup is 1; allowed: less than 1"),
        ("train: {start: bse}", "train.start is 'bse'; did you mean 'base'? allowed: base, previous"),
        ("model: {chat: yes}", "model.chat is 'yes'; allowed: true or false"),
        ("model: {revision: 123}", "model.revision is 123; allowed: text, so put it in quotes"),
        ("query: 5", "query is 5; allowed: keys and values, {key: value}"),
        ("query:", "query is empty; allowed: keys and values, {key: value}"),
        ("strategies: star", "strategies is 'star'; allowed: a list, [a, b]"),
        ("strategies: []", "strategies is []; allowed: at least one item"),
        ("strategies: [{name: mine}]", "strategies.0.use is missing"),
        ("strategies: [{use: star, name: a/b}]", "strategies.0.name is 'a/b'; allowed: must be letters, digits"),
        ("strategies: [{use: star, mix: {schedule: linaer}}]", "did you mean 'linear'? allowed: linear, cosine,"),
        ("seeds: [zero]", "seeds.0 is 'zero'; allowed: a whole number"),
        ("peft: LORA", "peft is 'LORA'; allowed: keys and values, {key: value}"),
        ("peft: {1: 2}", "peft has the key 1; allowed: text, so put it in quotes"),
        ("out:", "out is empty; allowed: text"),
        ("<<: {train: {epochs: 3}}", "unknown key '<<' in the top level"),
    ],
)
def test_wrong_values_say_what_was_found_and_what_is_allowed(write: Write, text: str, message: str) -> None:
    (found,) = problems(write(GOOD + text + "\n"))
    assert found.startswith("my.yaml line 3: ")
    assert message in found


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("[0, 1]", ["task.labels.0 is 0; allowed: text, so put it in quotes", "task.labels.1 is 1; "]),
        ("{0: no, 1: yes}", ["task.labels has the key 0; allowed: text, so put it in quotes", "the key 1; "]),
        ("good", ["task.labels is 'good'; allowed: a list, [a, b]", "allowed: keys and values, {key: value}"]),
    ],
)
def test_labels_that_yaml_reads_as_numbers(write: Write, labels: str, expected: list[str]) -> None:
    """The commonest mistake of all gets no lecture on the other forms that labels may take."""
    found = problems(write(f"data: {{pool: p.csv, template: '{{text}}'}}\ntask:\n  kind: choice\n  labels: {labels}\n"))
    assert len(found) == len(expected), found
    for line, words in zip(found, expected, strict=True):
        assert line.startswith("my.yaml line 4: ")
        assert words in line


IMPOSSIBLE = """\
seeds: [1, 1]
strategies: [star, star]
query: {warm_start: 10, budget: 5}
train: {patience: 2, batch_size: 8, micro_batch_size: 3}
model: {remote_code: true, revision: main}
"""


def test_impossible_combinations_are_reported_together(write: Write) -> None:
    assert problems(write(IMPOSSIBLE)) == [
        "my.yaml: data.pool is missing; give it, or a `preset`",
        "my.yaml: data.template is missing; give it, or a `preset`",
        "my.yaml: task.kind is missing; allowed: choice, multi_label, number, text",
        "my.yaml line 3: query.budget is 5, below query.warm_start 10",
        "my.yaml line 4: train.patience needs a validation set, because the test set chooses nothing: give data.validation",
        "my.yaml line 5: model.remote_code needs model.revision pinned to a commit of 40 hex digits",
        "my.yaml line 4: train.micro_batch_size is 3, which does not divide batch_size 8",
        "my.yaml line 2: strategies has two strategies called 'star'; give one a `name`",
        "my.yaml line 1: seeds has the same seed twice",
    ]


def test_impossible_combinations_are_reported_beside_wrong_keys(write: Write) -> None:
    found = problems(write(GOOD + IMPOSSIBLE + "trian: 3\n"))
    assert found[0].startswith("my.yaml line 8: unknown key 'trian'")
    assert "my.yaml line 5: query.budget is 5, below query.warm_start 10" in found
    assert "my.yaml line 3: seeds has the same seed twice" in found


def test_a_wrong_value_is_not_reported_a_second_time_as_a_combination(write: Write) -> None:
    found = problems(write(GOOD + "query: {warm_start: many, budget: 5}\n"))
    assert found == ["my.yaml line 3: query.warm_start is 'many'; allowed: a whole number"]


def test_plain_data_is_checked_like_a_file() -> None:
    with pytest.raises(ConfigError, match=r"^config: unknown key 'trian'"):
        config.parse({"trian": 1})


# --- YAML, read strictly --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("out: a\nseeds: [1]\nout: b\n", "my.yaml line 3: the key 'out' stands here and on line 1; once is allowed"),
        ("train: {epochs: 1, epochs: 2}\n", "my.yaml line 1: the key 'epochs' stands here and on line 1"),
        ("out: &x a\ndata: {pool: *x}\n", "my.yaml line 2: found the alias *x; aliases are not allowed"),
        (
            "out: !!python/object/apply:os.system [ls]\n",
            "my.yaml line 1: found the tag tag:yaml.org,2002:python/object",
        ),
        ('out: "\\ud83d"\n', "my.yaml line 1: holds NUL or half of a character, which nothing here can be"),
        ('task: {labels: ["a\\0"]}\n', "my.yaml line 1: holds NUL or half of a character"),
        ("out: !!str 5\n", "my.yaml line 1: found the tag tag:yaml.org,2002:str; tags are not allowed"),
        (b"out: ok\nseeds: \xff\xfe\n", "my.yaml: not UTF-8 text at byte 15"),
        ("- a\n- b\n", "my.yaml line 1: found list, expected `key: value` lines"),
        ("hello\n", "my.yaml line 1: found str, expected `key: value` lines"),
        ("seeds: [1\n", "my.yaml line 2: not valid YAML: expected ',' or ']'"),
        ("\tout: a\n", "my.yaml line 1: not valid YAML: found character '\\t'"),
        ("a: 1\n---\nb: 2\n", "my.yaml line 2: not valid YAML: but found another document"),
        ("? {a: b}\n: c\n", "my.yaml line 1: not valid YAML: found unhashable key"),
        ("out: \0\n", "my.yaml: not valid YAML: unacceptable character #x0000"),
        ("1: x\n" + GOOD, "my.yaml: the top level has the key 1; allowed: text, so put it in quotes"),
    ],
)
def test_what_yaml_would_let_through(write: Write, text: str | bytes, message: str) -> None:
    assert problems(write(text))[0].startswith(message)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        config.load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"found no config\.yaml in it or in the folder above it"):
        config.load(tmp_path)


def test_a_data_file_is_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "mine.CSV").write_text("text,label\nhello,a\n")
    with pytest.raises(
        ConfigError, match=r"mine\.CSV: holds data; `guidestar init \S*mine\.CSV` writes a configuration"
    ):
        config.load(tmp_path / "mine.CSV")


def test_words_and_numbers_are_those_of_yaml_1_2(write: Write) -> None:
    found = config.load(
        write(
            "data: {pool: p.csv, template: '{text}'}\n"
            "task: {kind: choice, labels: [yes, no, on, off, 1:30, 2024-01-02, 0x1f, 1_000, y]}\n"
            "seeds: [010, +2]\ntrain: {learning_rate: 5e-4, warmup: .1, clip: 2}\nmodel: {chat: true}\n"
        )
    )
    assert found.task.labels == ["yes", "no", "on", "off", "1:30", "2024-01-02", "0x1f", "1_000", "y"]
    assert found.seeds == [10, 2]
    assert (found.train.learning_rate, found.train.warmup, found.train.clip) == (5e-4, 0.1, 2.0)
    assert found.model.chat is True


def test_a_byte_order_mark_is_no_mistake(write: Write) -> None:
    assert config.load(write("\ufeff" + GOOD)).task.kind == "choice"


def test_an_explicit_null_is_a_value_not_given(write: Write) -> None:
    assert config.load(write(GOOD + "query: {candidates: null}\n")).query.candidates is None


# --- overrides ------------------------------------------------------------------------------------


def test_overrides_are_read_as_yaml_and_win(write: Write) -> None:
    path = write(GOOD + "train: {epochs: 3}\nstrategies: [star]\n")
    found = config.load(
        path, ["train.epochs=5", "train.learning_rate=1e-3", "strategies=[random]", "seeds=[1, 2]", "model.name=./m=1"]
    )
    assert (found.train.epochs, found.train.learning_rate) == (5, 1e-3)
    assert [s.use for s in found.strategies] == ["random"]
    assert found.seeds == [1, 2]
    assert found.model.name == "./m=1", "paths of the command line start from the current folder"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epocs=3", "command line: train.epocs: unknown key 'epocs' in train; did you mean 'epochs'?"),
        ("trian.epochs=3", "command line: trian.epochs: unknown key 'trian' in the top level; did you mean 'train'?"),
        ("train.epochs=many", "command line: train.epochs is 'many'; allowed: a whole number"),
        ("train.epochs.x=3", "command line: train.epochs.x: train.epochs is {'x': 3}; allowed: a whole number"),
        ("strategies.0.use=a", "command line: strategies.0.use: strategies is {'0': {'use': 'a'}}; allowed: a list"),
        ("query.budget=5", "command line: query.budget is 5, below query.warm_start 100"),
        ("train.epochs=[1", "command line: train.epochs line 1: not valid YAML: expected ',' or ']'"),
        ("train.epochs", "command line: 'train.epochs' is not of the form key.sub=value"),
        ("=3", "command line: '=3' is not of the form key.sub=value"),
    ],
)
def test_overrides_have_their_own_place(write: Write, override: str, message: str) -> None:
    assert problems(write(GOOD), [override])[0].startswith(message)


def test_an_override_mends_what_is_wrong_in_the_file(write: Write) -> None:
    path = write(GOOD + "train: {epochs: many}\n")
    assert config.load(path, ["train.epochs=2"]).train.epochs == 2
    path = write(GOOD + "train:\n")
    assert config.load(path, ["train.epochs=2"]).train.epochs == 2


# --- paths ----------------------------------------------------------------------------------------


def test_relative_paths_start_from_the_files_folder(write: Write, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "models").mkdir()
    path = write(
        "out: runs/a\ndata: {pool: pool.csv, test: ../test.csv, validation: /v.csv, template: '{text}'}\n"
        "task: {kind: choice}\nmodel: {name: ./models}\n"
    )
    monkeypatch.chdir("/")
    found = config.load(path)
    assert found.out == str(tmp_path / "runs/a")
    assert found.data.pool == str(tmp_path / "pool.csv")
    assert found.data.test == str(tmp_path / "../test.csv")
    assert found.data.validation == "/v.csv"
    assert found.model.name == str(tmp_path / "models")


@pytest.mark.parametrize(
    ("name", "local"),
    [("./tiny", True), ("tiny.gguf", True), ("here", True), ("smollm2-135m", False), ("owner/name", False)],
)
def test_a_models_name_is_a_path_only_if_it_looks_like_one(
    write: Write, tmp_path: Path, name: str, local: bool
) -> None:
    (tmp_path / "here").mkdir()
    found = config.load(write(GOOD + f"model: {{name: {name}}}\n")).model.name
    assert found == (str(tmp_path / name) if local else name)


@pytest.mark.parametrize("source", ["hub:owner/name:config@train", "demo:pool"])
def test_sources_that_are_no_paths_stay_as_they_are(write: Write, source: str) -> None:
    found = config.load(write(f"data: {{pool: '{source}', template: '{{text}}'}}\ntask: {{kind: choice}}\n"))
    assert found.data.pool == source


# --- the copy that a run keeps --------------------------------------------------------------------

DELICATE = {
    "out": "somewhere",
    "seeds": [3, 4],
    "strategies": [{"use": "star", "name": "08", "mix": {"schedule": "exponential", "rate": 1e-5}}, {"use": "random"}],
    "data": {
        "pool": "pool.csv",
        "template": "no: {text}\n\t# 'x' \"y\" é 🚀 \\n {{braces}}",
        "response": " yes: {answer}",
        "columns": {"text": "1e5"},
        "answer": "null",
    },
    "task": {
        "kind": "choice",
        "labels": {
            "08": "1e5", "no": "yes", "1:30": "2024-01-02", "5e-4": "~", "": "<<", "=": "+1", ".5": "true",
            "a.b": "- x", "#": "&a", "*a": "!b", "é": "🚀", "0x1f": "1_000", " lead": "trail ",
        },
    },
    "model": {"name": "owner/1e5"},
    "peft": {"peft_type": "LORA", "r": 4, "target_modules": ["q", "v"], "lora_alpha": 1e-7, "init_lora_weights": True},
    "train": {"learning_rate": 1e-5, "weight_decay": 1e20},
}  # fmt: skip


@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_the_kept_config_is_the_same_configuration(
    preset: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever YAML could misread, and what a preset fills in: kept, read back from anywhere, kept again."""
    monkeypatch.chdir(tmp_path)
    data = DELICATE if preset is None else {"out": "somewhere", "data": {"preset": preset, "folder": "files"}}
    before = config.parse(data)
    Bench(before).keep_config()
    monkeypatch.chdir("/")
    kept = tmp_path / "somewhere" / "config.yaml"
    after = config.load(kept)
    assert after.key() == before.key()
    assert (after.seeds, after.strategies) == (before.seeds, before.strategies)
    assert after.out == str(tmp_path / "somewhere")
    if preset is None:
        assert after.data.pool == str(tmp_path / "pool.csv")
    else:
        was, now = (apply_preset(c.data, c.task) for c in (before, after))
        assert now[0].response == was[0].response == PRESETS[preset].response, "a default must not hide the preset's"
        assert now[0].template == was[0].template == PRESETS[preset].template
        assert now[1] == was[1]
        assert now[0].pool == str(tmp_path / was[0].pool)
    text = kept.read_text(encoding="utf-8")
    Bench(after).keep_config()
    assert kept.read_text(encoding="utf-8") == text, "a second copy differs"


def test_the_key_covers_all_but_places_seeds_strategies_and_annotators() -> None:
    """Every leaf of the configuration is in the key, so that a new one cannot be forgotten."""
    plain = config.parse(DELICATE).plain()
    every = set(config.flat(plain))
    places = {"out", "data.folder", "data.pool", "data.test", "data.validation"}
    memory = {"model.device", "model.batch_tokens", "train.micro_batch_size"}
    apart = {"annotator", "people", "endpoint", "stop", "cost", "tracker"}
    people = {name for name in every if name.split(".")[0] in apart}
    left_out = {"seeds", "strategies"} | places | memory | people
    assert set(config.parse(DELICATE).key()) == every - left_out
    assert json.loads(json.dumps(config.parse(DELICATE).key())) == config.parse(DELICATE).key()


def test_defaults_are_the_documented_method() -> None:
    """STAR beside random over one warm start, with the paper's β and LoRA on all linear layers."""
    found = RunConfig.model_validate({"data": {"preset": "demo"}})
    assert [s.use for s in found.strategies] == ["star", "random"]
    assert found.peft["peft_type"] == "LORA"
    assert found.peft["target_modules"] == "all-linear"
    assert found.peft["lora_dropout"] > 0, "Monte-Carlo dropout needs one"
    assert found.train.b_decay > 0
    assert found.query.rounds == 1 + (400 - 100) // 50


def test_a_configuration_of_ones_own_in_the_place_of_the_copy_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    text = "# mine\nout: .\ndata: {preset: demo, folder: data}\n"
    file.write_text(text)
    mine = config.load(file)
    Bench(mine).keep_config()
    assert file.read_text() == text
    for other in (f"{text}train: {{epochs: 1}}\n", "not a configuration"):
        file.write_text(other)
        with pytest.raises(ConfigError, match="is in the way of the copy of the configuration"):
            Bench(mine).keep_config()
        assert file.read_text() == other


# --- files that mean no good ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "query: {budget: " + "9" * 5000 + "}",
            "my.yaml line 1: not valid YAML: a number of 5000 digits; allowed: up to 300",
        ),
        ("a: " + "[" * 20_000 + "]" * 20_000, "my.yaml line 1: nested more than 50 deep"),
        ("- " * 20_000 + "a", "my.yaml line 1: nested more than 50 deep"),
        ("\n".join(" " * i + "a:" for i in range(1000)), "my.yaml line 51: nested more than 50 deep"),
        ("# " + "x" * 2_000_000, "my.yaml: has 2000002 characters; allowed: up to 2000000"),
    ],
)
def test_a_hostile_file_is_refused_in_a_sentence(write: Write, text: str, message: str) -> None:
    """At once, too: reading on would take minutes."""
    (found,) = problems(write(text))
    assert found.startswith(message)


def test_a_long_number_on_the_command_line_is_refused_in_a_sentence(write: Write) -> None:
    (found,) = problems(write(GOOD), ["query.budget=" + "9" * 5000])
    assert found.startswith("command line: query.budget line 1: not valid YAML: a number of 5000 digits")


@pytest.mark.parametrize("place", ["file", "command line"])
def test_the_home_folder_is_meant_by_a_tilde_wherever_it_stands(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    keys = {"out": "~/out", "data.pool": "~/p.csv", "data.test": "~/t.csv", "model.name": "~/model"}
    if place == "file":
        text = "out: ~/out\ndata: {pool: ~/p.csv, test: ~/t.csv, template: '{text}'}\nmodel: {name: ~/model}\ntask: {kind: choice}\n"
        found = config.load(write(text))
    else:
        found = config.load(write(GOOD), [f"{key}={value}" for key, value in keys.items()])
    home = str(tmp_path / "me")
    assert [found.out, found.data.pool, found.data.test, found.model.name] == [
        f"{home}/out", f"{home}/p.csv", f"{home}/t.csv", f"{home}/model",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"annotator": "endpoint", "people": {"first_guess": "endpoint"}, "endpoint": {"url": "http://127.0.0.1:1", "model": "m"}},
            "people.first_guess asks the endpoint that is the annotator already",
        ),
        (
            {"annotator": "endpoint", "train": {"weak_labels": 9}, "endpoint": {"url": "http://127.0.0.1:1", "model": "m"}},
            "train.weak_labels asks the endpoint that is the annotator already",
        ),
        ({"train": {"weak_labels": 9}}, "endpoint.url is missing; train.weak_labels needs it"),
        (
            {"data": {"pool": "a.jsonl", "messages": "messages", "answer": "response", "template": "{dialogue}"}, "task": {"kind": "text"}},
            "data.template reads {dialogue}, which holds the answer",
        ),
    ],
)  # fmt: skip
def test_what_would_pay_twice_or_show_the_answer_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config.parse({"data": {"preset": "trec-6"}, "strategies": ["random"]} | changes)
    assert said in str(raised.value)
