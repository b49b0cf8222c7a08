"""From a configuration to examples: prompts, ids, splits, gold answers kept apart."""

import csv
import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from literal_rows import read_examples

from guidestar.bench import Bench
from guidestar.config import DataConfig, RunConfig, TaskConfig, parse
from guidestar.data.formats import Row, read_rows
from guidestar.data.pool import Dataset, load_dataset
from guidestar.data.prompts import Template
from guidestar.errors import ConfigError, DataError, GuidestarError
from guidestar.progress import Silent
from guidestar.tasks import Choice, make_task
from guidestar.tasks.common import doubtful

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


def table(path: Path, rows: list[tuple[str, str]], header: tuple[str, ...] = ("text", "label")) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return str(path)


def numbered(n: int, start: int = 0) -> list[tuple[str, str]]:
    return [(f"message {i}", ("good", "bad")[i % 2]) for i in range(start, start + n)]


def config(pool: str, kind: str = "choice", warm_start: int = 2, **data: Any) -> RunConfig:
    section = {"pool": pool, "template": "Text: {text}\nMood:", "answer": "label", **data}
    labels = section.pop("labels", None)
    return parse(
        {
            "data": section,
            "task": {"kind": kind, "labels": labels},
            "query": {"warm_start": warm_start, "batch": 2, "budget": max(6, warm_start)},
        }
    )


def refused(settings: RunConfig, message: str, error: type[GuidestarError] = DataError) -> None:
    with pytest.raises(error, match=re.escape(message)):
        load_dataset(settings)


def texts(data: Dataset) -> list[str]:
    return [example.fields["text"] for example in data.pool]


# --- templates ----------------------------------------------------------------------------------


def template(text: str, **data: Any) -> Template:
    return Template(DataConfig(**{"template": text, "answer": "label", **data}))


@settings(deadline=None)
@given(TEXT, TEXT)
def test_texts_are_put_in_as_they_are_but_for_white_space_around_them(one: str, two: str) -> None:
    made = template("{{{a}}} and {b}{a}", columns={"b": "bee"})
    row = Row("x", {"a": one, "bee": two, "label": "secret"})
    if (one + two).strip():
        fields = made.fields(row)
        assert fields == {"a": one, "b": two}
        assert made.fill(fields) == "{" + one.strip() + "} and " + two.strip() + one.strip()
    else:
        with pytest.raises(DataError, match="x: all columns of the template are blank: a, b"):
            made.fields(row)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{a.b}", "data.template: found {a.b}; allowed: plain column names like {text}"),
        ("{a[0]}", "data.template: found {a[0]}; allowed: plain column names"),
        ("{a!r}", "data.template: found {a!r}; allowed: plain column names"),
        ("{a:>9}", "data.template: found {a:>9}; allowed: plain column names"),
        ("{}", "data.template: found {}; allowed: plain column names"),
        ("{a", "data.template: expected '}' before end of string; write {{ and }} for literal braces"),
        ("a} {a}", "data.template: Single '}' encountered in format string; write {{ and }}"),
        ("hello", "data.template has no {column} field, so all prompts would be the same"),
        (
            "{a} {label}",
            "data.template uses {label}, which is the answer column 'label'; the model would read",
        ),
        ("{text} {renamed}", "data.template uses {renamed}, which is the answer column 'label'"),
    ],
)
def test_templates_that_cannot_work_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        template(text, columns={"renamed": "label"} if "renamed" in text else {})


def test_an_unknown_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    pool = table(tmp_path / "pool.csv", numbered(3))
    refused(
        config(pool, template="{txt}"),
        f"{pool} line 2: no column 'txt', which the template uses; did you mean 'text'? allowed: text, label",
    )
    refused(
        config(pool, columns={"body": "text"}),
        "data.columns: 'body' is not used; allowed: text, label",
        ConfigError,
    )


def test_columns_are_mapped(tmp_path: Path) -> None:
    pool = table(tmp_path / "pool.csv", numbered(4), ("Body", "Y"))
    data = load_dataset(config(pool, columns={"text": "Body", "label": "Y"}))
    assert data.pool[0].fields == {"text": "message 0"}
    assert data.pool[0].prompt == "Text: message 0\nMood:"
    assert data.pool[0].where == f"{pool} line 2"
    assert data.gold[data.pool[0].id] == "good"


# --- ids and hash -------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(st.characters(categories=("L", "N", "P")), min_size=1), min_size=3, max_size=8, unique=True))
def test_ids_depend_on_the_used_fields_alone(tmp_path_factory: pytest.TempPathFactory, found: list[str]) -> None:
    folder = tmp_path_factory.mktemp("ids")
    one, two = folder / "one.jsonl", folder / "two.jsonl"
    one.write_text("\n".join(json.dumps({"text": t, "label": "ab"[i % 2]}) for i, t in enumerate(found)))
    two.write_text("\n".join(json.dumps({"n": i, "label": "a", "text": t}) for i, t in enumerate(reversed(found))))
    first, _ = read_examples(str(one), config(str(one)))
    second, _ = read_examples(str(two), config(str(two)))
    assert [e.id for e in first] == [e.id for e in reversed(second)]
    assert len({e.id for e in first}) == len(found)
    assert all(re.fullmatch(r"[0-9a-f]{16}", e.id) for e in first)


def test_ids_stay_the_same_between_versions(tmp_path: Path) -> None:
    """A changed id would make old run folders unreadable."""
    data = load_dataset(config(table(tmp_path / "pool.csv", numbered(4))))
    assert data.pool[0].id == "b567bf3f99ca0705"


def test_the_hash_sees_every_change(tmp_path: Path) -> None:
    pool, test = table(tmp_path / "pool.csv", numbered(8)), table(tmp_path / "test.csv", numbered(4, 10))
    other = table(tmp_path / "other.csv", [("message 0", "bad"), *numbered(8)[1:]])
    changed = [
        config(pool, test=test),
        config(pool),
        config(other, test=test),
        config(pool, test=test, template="{text}"),
        config(pool, test=test, response="it is {answer}"),
        config(pool, test=test, labels=["good", "bad"]),
        config(pool, test=test, labels={"good": "fine", "bad": "poor"}),
        config(pool, test=test, pool_limit=7),
    ]
    hashes = [load_dataset(c).hash for c in changed]
    assert len(set(hashes)) == len(changed)
    assert load_dataset(changed[0]).hash == hashes[0]
    copy = table(tmp_path / "copy.csv", numbered(8))
    assert load_dataset(config(copy, test=test)).hash == hashes[0]  # where a file lies does not matter


# --- no label where a model or a strategy could see it ------------------------------------------


def test_examples_hold_nothing_of_the_answers(tmp_path: Path) -> None:
    rows = numbered(20)
    poisoned = [(text, f"POISON{label}") for text, label in rows]
    clean = load_dataset(config(table(tmp_path / "pool.csv", rows)))
    dirty = load_dataset(config(table(tmp_path / "pool.csv", poisoned)))
    assert clean.pool == dirty.pool
    assert "POISON" not in repr(dirty.pool)
    assert set(dirty.gold.values()) == {"POISONgood", "POISONbad"}


# --- duplicates ---------------------------------------------------------------------------------


def test_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [("a", "good"), ("b", "bad"), ("a", "good"), ("a", "bad"), ("c", "good"), ("d", "bad")]
    pool = table(tmp_path / "pool.csv", rows)
    test = table(tmp_path / "test.csv", [("c", "good"), ("x", "bad"), ("x", "bad"), ("v", "good")])
    validation = table(tmp_path / "val.csv", [("d", "good"), ("v", "good"), ("w", "bad")])
    data = load_dataset(config(pool, test=test, validation=validation))
    assert texts(data) == ["a", "b"]
    assert data.gold[data.pool[0].id] == "good"
    counted = {
        "pool_rows": 6,
        "pool_duplicates": 2,
        "pool_conflicting_labels": 1,
        "shared_with_test": 1,
        "shared_with_validation": 1,
        "validation_shared_with_test": 1,
        "pool": 2,
        "test": 4,
        "validation": 2,
        "pool_without_answer": 0,
        "budget_exceeds_pool": True,
        "classes": {"bad": 1, "good": 1},
        "majority": {"label": "good", "share": 0.5},
    }
    assert data.facts == counted
    assert json.loads(json.dumps(data.facts)) == counted
    assert data.test is not None
    assert data.test.examples[2].id == data.test.examples[1].id + "-2"


def test_a_validation_set_inside_the_test_set_is_refused(tmp_path: Path) -> None:
    pool, test = table(tmp_path / "pool.csv", numbered(4)), table(tmp_path / "test.csv", numbered(4, 10))
    refused(config(pool, test=test, validation=test), f"{test}: every row also stands in the test set")


def test_the_answer_of_a_later_copy_is_not_lost(tmp_path: Path) -> None:
    rows = [("a", ""), ("b", "bad"), ("a", "good"), ("c", "bad")]
    data = load_dataset(config(table(tmp_path / "pool.csv", rows)))
    assert [data.gold.get(e.id) for e in data.pool] == ["good", "bad", "bad"]
    assert data.facts["pool_conflicting_labels"] == 0


def test_duplicates_can_be_kept(tmp_path: Path) -> None:
    rows = [("a", "good"), ("a", "bad"), ("b", "bad"), ("a", "good")]
    data = load_dataset(config(table(tmp_path / "pool.csv", rows), duplicates="keep"))
    first = data.pool[0].id
    assert [e.id for e in data.pool] == [first, f"{first}-2", data.pool[2].id, f"{first}-3"]
    assert [data.gold[e.id] for e in data.pool] == ["good", "bad", "bad", "good"]
    assert data.facts["pool_duplicates"] == 2


@pytest.mark.parametrize(("duplicates", "done"), [("drop", "dropped"), ("keep", "kept")])
def test_what_becomes_of_duplicates_and_of_their_other_answers_is_said(
    duplicates: str, done: str, tmp_path: Path
) -> None:
    rows = [("a", "good"), ("a", "bad"), ("b", "bad"), ("c", "good"), ("c", "good")]
    test = table(tmp_path / "test.csv", [("b", "bad"), ("x", "good")])
    said: list[str] = []

    class Heard(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    asked = config(table(tmp_path / "pool.csv", rows), test=test, duplicates=duplicates)
    assert Bench(asked, Heard()).dataset.facts["pool_conflicting_labels"] == 1
    assert f", 2 duplicates {done}, 1 shared with the test {done}" in said[0]
    other = "warning: 1 duplicate with another answer than the first row with that text"
    assert other + (", which counts" if done == "dropped" else "") in said


def test_duplicates_can_be_an_error(tmp_path: Path) -> None:
    pool = table(tmp_path / "pool.csv", [("a", "good"), ("b", "bad"), ("a", "good")])
    refused(config(pool, duplicates="error"), f"{pool} line 4: the same content as {pool} line 2; data.duplicates")
    pool = table(tmp_path / "pool.csv", numbered(4))
    test = table(tmp_path / "test.csv", [("new", "good"), ("message 3", "bad")])
    refused(config(pool, test=test, duplicates="error"), f"{pool} line 5: also in the test set, {test} line 3;")


# --- limits and shares --------------------------------------------------------------------------


def test_limits_are_random_ordered_and_repeatable(tmp_path: Path) -> None:
    pool, test = table(tmp_path / "pool.csv", numbered(50)), table(tmp_path / "test.csv", numbered(50, 100))
    limited = config(pool, test=test, pool_limit=20, test_limit=10)
    data = load_dataset(limited)
    numbers = [int(text.split()[1]) for text in texts(data)]
    assert len(numbers) == 20
    assert numbers == sorted(numbers)
    assert numbers != list(range(20))
    assert data.test is not None
    assert len(data.test) == 10
    assert load_dataset(limited).hash == data.hash
    assert load_dataset(config(pool, test=test, pool_limit=20, test_limit=10, seed=1)).hash != data.hash
    assert load_dataset(config(pool, test=test, pool_limit=20)).pool == data.pool
    assert load_dataset(config(pool, pool_limit=99)).facts["pool"] == 50


@pytest.mark.parametrize("duplicates", ["drop", "keep"])
def test_a_test_share_is_set_aside(tmp_path: Path, duplicates: str) -> None:
    pool = table(tmp_path / "pool.csv", [*numbered(40), *numbered(10)])
    data = load_dataset(config(pool, test_share=0.25, duplicates=duplicates))
    assert data.test is not None
    tested = {example.fields["text"] for example in data.test.examples}
    assert len(tested) == 10
    assert not tested & set(texts(data))
    assert len(data.pool) + len(data.test) == (40 if duplicates == "drop" else 50)
    assert all(answer in ("good", "bad") for answer in data.test.answers)


def test_shares_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    pool = table(tmp_path / "pool.csv", numbered(4))
    refused(
        config(pool, test_share=0.1),
        f"{pool}: a test share of 0.1 of 4 answered examples leaves 4 for the pool",
    )
    refused(config(pool, test_share=0.5, test=pool), "data.test and data.test_share are both given", ConfigError)


def test_a_pool_below_the_warm_start_is_refused(tmp_path: Path) -> None:
    pool = table(tmp_path / "pool.csv", numbered(4))
    expected = f"{pool}: the pool holds 4 examples, fewer than the warm start of 5 (query.warm_start)"
    refused(config(pool, warm_start=5), expected)


# --- answers ------------------------------------------------------------------------------------


def test_all_rows_with_an_unknown_label_are_listed_at_once(tmp_path: Path) -> None:
    pool = table(tmp_path / "pool.csv", [(f"m{i}", "goood" if i % 2 else "good") for i in range(60)])
    with pytest.raises(DataError) as caught:
        load_dataset(config(pool, labels=["good", "bad"]))
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[0] == f"{pool} line 3: label 'goood' is not one of: good, bad; did you mean 'good'?"
    assert lines[-1] == "… and 10 more rows like these"


def test_a_pool_may_lack_answers_but_a_test_set_may_not(tmp_path: Path) -> None:
    bare = table(tmp_path / "bare.csv", [(f"m{i}",) for i in range(4)], ("text",))  # type: ignore[misc]
    partly = table(tmp_path / "partly.csv", [("a", "good"), ("b", ""), ("c", "bad")])
    test = table(tmp_path / "test.csv", numbered(4))
    unlabelled = load_dataset(config(bare, test=test))
    assert unlabelled.gold == {}
    assert unlabelled.facts["pool_without_answer"] == 4
    assert "classes" not in unlabelled.facts
    data = load_dataset(config(partly))
    assert [data.gold.get(e.id) for e in data.pool] == ["good", None, "bad"]
    refused(
        config(test, test=partly),
        f"{partly} line 3: column 'label' is empty; every row of the test set needs",
    )
    refused(config(test, test=bare), f"{bare} line 2: no answer column 'label' (data.answer); allowed: text")
    refused(
        config(test, answer="lable"),
        f"{test} line 2: no answer column 'lable' (data.answer); did you mean 'label'?",
    )
    refused(config(test, test=test, answer=None), "data.answer is missing; the test set is useless", ConfigError)
    assert load_dataset(config(test, answer=None, labels=["good", "bad"])).gold == {}


def test_numbers_and_texts_have_no_classes(tmp_path: Path) -> None:
    pool = table(tmp_path / "pool.csv", [("1+1", "it is <<1+1=2>>2\n#### 2"), ("2+2", "4")])
    data = load_dataset(config(pool, kind="number", test=table(tmp_path / "test.csv", [("3+3", "6")])))
    assert list(data.gold.values()) == ["it is 2\n#### 2", "#### 4"]
    assert data.test is not None
    assert data.test.answers == ("#### 6",)
    assert not {"classes", "majority"} & data.facts.keys()


def test_any_file_can_be_read_under_a_template(tmp_path: Path) -> None:
    pool = table(tmp_path / "pool.csv", numbered(4))
    file = tmp_path / "new.jsonl"
    file.write_text('{"text": "one"}\n{"text": "two", "label": "bad"}\n{"text": "one"}\n')
    examples, answers = read_examples(str(file), config(pool))
    assert [e.prompt for e in examples] == ["Text: one\nMood:", "Text: two\nMood:", "Text: one\nMood:"]
    assert answers == [None, "bad", None]
    assert examples[2].id == f"{examples[0].id}-2"


# --- one label, several spellings -----------------------------------------------------------------

SPELLINGS = {  # what people and tables make of one label
    "café": ["café", "cafe\u0301", "Café", " CAFÉ\u200b", "\ufeffcafé", "ca\u00adfé"],
    "very good": ["very good", "Very  Good", "very\u00a0good", "VERY GOOD "],
    "1": ["1", "1.0", "1.00", "1.0 ", "1.", "\uff11", "\u0661", "1\0"],
    "yes": ["yes", "Yes", "\uff39\uff25\uff33", "y\u3164es", "yes\x1b"],
    "-1": ["-1", "\u22121", "-1.0"],
    "Maße": ["Maße", "maße", "MAßE"],
    "Masse": ["Masse", "masse"],
}


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_labels_are_the_same_however_they_are_spelled_and_ordered(data: st.DataObject) -> None:
    """Each label once, without a character that nobody sees; another order of the rows changes nothing."""
    cells = [
        data.draw(st.sampled_from(spellings))
        for spellings in SPELLINGS.values()
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    task = make_task(TaskConfig(kind="choice"), cells, "{answer}")
    assert len(task.labels) == len(SPELLINGS)
    shuffled = data.draw(st.permutations(cells))
    assert make_task(TaskConfig(kind="choice"), shuffled, "{answer}") == task
    for spellings in SPELLINGS.values():  # one seen later, in an import say, is the same label, too
        assert len({task.parse_gold(spelling, "x") for spelling in spellings}) == 1
    if any(cell == "1" for cell in cells):
        assert "1" in task.labels, "what a table made of a number is not kept where the number itself is there"


LOOK_ALIKE = """1,000 1000|1'000 1000.0|1e3 1000|+1 1|-0 0|01 1|1.50 1.5|1,0 1|True 1|false 0|\ufb01ne fine|semi\u2013good semi-good|\
don\u2019t don't|m\u00b2 m2|Strasse Straße|\u0430bc abc|"a" a"""


@pytest.mark.parametrize("pair", LOOK_ALIKE.split("|"))
def test_labels_that_may_be_one_are_two_and_said_loudly(pair: str, tmp_path: Path) -> None:
    first, second = pair.split()
    rows = [(f"message {i}", (first, second, "other")[i % 3]) for i in range(30)]
    found = load_dataset(config(table(tmp_path / "pool.csv", rows)))
    assert len(found.task.labels) == 3
    (warning,) = found.facts["label_warnings"]
    assert "may be one label in several spellings; they count as several; name the labels" in warning
    told = load_dataset(config(table(tmp_path / "pool.csv", rows), labels=list(found.task.labels)))
    assert "label_warnings" not in told.facts, "whoever names both has decided"


@pytest.mark.parametrize("label", ["None", "nan", "NULL", "<NA>", "N/A", "-1"])
def test_a_label_that_tables_write_for_nothing_is_said_loudly(label: str, tmp_path: Path) -> None:
    rows = [(f"message {i}", ("0", "1", label)[i % 3]) for i in range(30)]
    found = load_dataset(config(table(tmp_path / "pool.csv", rows)))
    assert found.facts["label_warnings"] == [
        f"the label {label!r} is what tables write where there is no value, and counts as a label; name the labels in task.labels"
    ]
    assert not doubtful(["none", "some", "1", "2", "3", "good", "very good"])


def test_what_is_merged_is_said_and_a_label_that_only_the_test_has_is_warned_of(tmp_path: Path) -> None:
    """pandas writes 1.0 for 1 once a cell of the column is empty; and a test label that no pool row has is unlearnable."""
    pool = table(tmp_path / "pool.csv", [(f"message {i}", ("1.0", "0.0", "")[i % 3]) for i in range(30)])
    test = table(tmp_path / "test.csv", [(f"other {i}", ("1", "0", "2")[i % 3]) for i in range(9)])
    found = load_dataset(config(pool, test=test))
    assert found.task.labels == ("0", "1", "2")
    assert set(found.gold.values()) == {"0", "1"}
    assert found.facts["label_notes"] == [
        "the label '0' is also spelled '0.0' (10 rows); they count as one",
        "the label '1' is also spelled '1.0' (10 rows); they count as one",
    ]
    (warning,) = found.facts["label_warnings"]
    assert warning.startswith("3 of 9 rows of the test set have the label '2', which no answered row of the pool has")
    said: list[str] = []

    class Heard(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    assert Bench(config(pool, test=test), Heard()).dataset.task.labels == ("0", "1", "2")
    assert f"warning: {warning}" in said
    assert sum("also spelled" in line for line in said) == 2
    plain = load_dataset(
        config(table(tmp_path / "plain.csv", numbered(12)), test=table(tmp_path / "t.csv", numbered(4, 20)))
    )
    assert not {"label_notes", "label_warnings"} & plain.facts.keys(), "nothing is said where nothing is to be said"


@pytest.mark.parametrize(
    ("change", "alike"),
    [
        (str.upper, True),
        ("{}\u200b".format, True),
        (lambda t: t.replace(" ", "\u00a0"), True),
        (lambda t: t + "!", False),
    ],
)
def test_a_text_of_the_test_set_that_the_pool_has_in_another_spelling_is_warned_of(
    change: Callable[[str], str], alike: bool, tmp_path: Path
) -> None:
    rows = [(f"m\u00e9ssage number {i}", ("good", "bad")[i % 2]) for i in range(12)]
    pool = table(tmp_path / "pool.csv", [(unicodedata.normalize("NFD", text), label) for text, label in rows])
    test = table(tmp_path / "test.csv", [(change(rows[0][0]), "good"), ("quite another", "bad")])
    found = load_dataset(config(pool, test=test))
    warned = found.facts.get("label_warnings", [])
    assert [line.startswith("the test set and the pool share 1 text but for case") for line in warned] == [True] * alike


def test_configured_labels_take_every_spelling(tmp_path: Path) -> None:
    pool = table(tmp_path / "pool.csv", [(f"message {i}", ("1.0", "0")[i % 2]) for i in range(8)])
    found = load_dataset(config(pool, labels={"0": "neg", "1": "pos"}))
    assert set(found.gold.values()) == {"0", "1"}
    with pytest.raises(ConfigError, match=r"'caf\\xe9' and 'cafe\\u0301' look alike"):
        Choice(("café", "cafe\u0301"), ("a", "b"))
    with pytest.raises(ConfigError, match="the same but for white space or a decimal point"):
        Choice(("1", "1.0"), ("a", "b"))


def test_a_list_is_no_label(tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps({"text": f"m {i}", "label": ["a", "b"][: i % 2 + 1]}) + "\n" for i in range(8)))
    refused(config(str(pool)), """an answer in the data is a list, '["a""", ConfigError)


# --- labels with names in the schema --------------------------------------------------------------


def named_labels(folder: Path) -> dict[str, str]:
    """The same rows as a saved set and as Parquet: a class with names, −1 for not labelled, and lists of classes."""
    datasets = pytest.importorskip("datasets")
    mood = datasets.ClassLabel(names=["bad", "good"])
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": mood,
            "tags": datasets.Sequence(datasets.ClassLabel(names=["x", "y"])),
        }
    )
    rows = {
        "text": [f"message {i}" for i in range(12)], "label": [(-1, 0, 1)[i % 3] for i in range(12)],
        "tags": [[0, 1] if i % 2 else [1] for i in range(12)],
    }  # fmt: skip
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(str(folder / "saved"))
    made.to_parquet(str(folder / "rows.parquet"))
    return {"saved": str(folder / "saved"), "parquet": str(folder / "rows.parquet")}


def test_class_names_come_from_the_schema_and_minus_one_is_no_label(tmp_path: Path) -> None:
    for form, source in named_labels(tmp_path).items():
        found = load_dataset(config(source))
        assert found.task.labels == ("bad", "good"), form
        assert found.facts["pool_without_answer"] == 4, "−1 is not labelled"
        assert sorted(found.gold.values()) == ["bad"] * 4 + ["good"] * 4
        by_number = load_dataset(config(source, labels={"0": "awful", "1": "fine"}))
        assert set(by_number.gold.values()) == {"0", "1"}, "a configuration that names the numbers keeps them"
        row = next(iter(read_rows(source)))
        assert (row.values["tags"], row.nulls) == ('["y"]', ("label",))


def test_a_number_without_a_name_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    schema = {"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}}
    told = pyarrow.table({"text": ["m"], "label": [7]}).replace_schema_metadata({"huggingface": json.dumps(schema)})
    parquet.write_table(told, tmp_path / "p.parquet")
    with pytest.raises(DataError, match="row 1: the column 'label' is 7; its names are numbered 0 to 1"):
        list(read_rows(str(tmp_path / "p.parquet")))
    for damaged in ("{", "[]", '{"info": 3}', '{"info": {"features": {"label": {"names": {"0": "a"}}}}}'):
        again = told.replace_schema_metadata({"huggingface": damaged})
        parquet.write_table(again, tmp_path / "q.parquet")
        assert next(iter(read_rows(str(tmp_path / "q.parquet")))).values["label"] == "7", "as without a schema"
