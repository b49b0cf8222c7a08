"""From a configuration to examples: prompts, ids, splits, gold answers kept apart."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidestar.config import DataConfig, RunConfig, parse
from guidestar.data.formats import Row
from guidestar.data.pool import Dataset, load_dataset, read_examples
from guidestar.data.prompts import Template
from guidestar.errors import ConfigError, DataError, GuidestarError

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
    return Template(text, DataConfig(**{"answer": "label", **data}))


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
