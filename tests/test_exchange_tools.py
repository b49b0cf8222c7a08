"""Files as other labelling tools write them; and what is left of ours when a tool drops what it does not know.

The files in `exchange/` were written after each tool's documentation and source code; `docs/exchange.md` names them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from test_exchange import TOOLS, annotate, make_example, make_run, refused, state, write

from guidestar.exchange import FORMATS, export_run, import_file
from guidestar.exchange.containers import dumped, write_csv
from guidestar.exchange.rows import KEY
from guidestar.records import Flag, Label, Note, Skip, Verdict
from guidestar.store import Store

HERE = Path(__file__).parent / "exchange"
SOUND, BROKE, WAIT = "The sound is superb.", 'It broke after a week; "never again".', "Zwei Wochen Lieferzeit, naja…"
EXAMPLES = [make_example({"text": text}) for text in (SOUND, BROKE, WAIT)]
ANN, KIM = "5b8d3c2e-8a4f-4b1f-9d3a-2f6f0f6f7a01", "0e1f2a3b-4c5d-4e6f-8a9b-0c1d2e3f4a5b"  # users are UUIDs in Argilla

GOLDEN: dict[str, tuple[str, dict[str, dict[str, str | None]]]] = {
    "label-studio.json": (
        "label-studio",
        {SOUND: {"ann@example.org": "positive", "5": "negative"}, BROKE: {"ann@example.org": None}},
    ),
    "label-studio-min.json": ("label-studio", {SOUND: {"ann@example.org": "positive", "5": "negative"}}),
    "label-studio.csv": (
        "label-studio",
        {SOUND: {"ann@example.org": "positive"}, BROKE: {"ann@example.org": "negative"}},
    ),
    "argilla-api.json": ("argilla", {SOUND: {ANN: "positive"}, BROKE: {ANN: None}}),
    "argilla-1x.json": ("argilla", {SOUND: {"ann": "positive"}, BROKE: {"ann": None}}),
    "prodigy-choice.jsonl": (
        "prodigy",
        {SOUND: {"reviews-alex": "positive", "reviews-kim": "negative"}, BROKE: {"import": None}, WAIT: {"import": "negative"}},
    ),
    "prodigy-binary.jsonl": (
        "prodigy",
        {SOUND: {"import": "positive"}, BROKE: {"import": "negative"}, WAIT: {"import": None}},
    ),
    "doccano.jsonl": ("doccano", {SOUND: {"import": "positive"}, BROKE: {"import": "negative"}}),
    "doccano-2018.jsonl": ("doccano", {SOUND: {"admin": "positive"}, BROKE: {"kim": "negative"}}),
    "doccano.csv": ("csv", {SOUND: {"import": "positive"}, BROKE: {"import": "negative"}}),
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", EXAMPLES, ("positive", "negative"))


def said(run: Path) -> dict[str, dict[str, str | None]]:
    """Text -> annotator -> answer, None for a skip."""
    texts = {e.id: e.fields["text"] for e in EXAMPLES}
    by = state(run)["by"]
    return {
        texts[id]: {who: a.answer if isinstance(a, Label) else None for who, a in answers.items()} for id, answers in by.items()
    }  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_a_tools_own_export_is_recognised_and_read(run: Path, name: str) -> None:
    news: list[str] = []
    format, answers = GOLDEN[name]
    counts = import_file(run, HERE / name, pool=(), say=news.append)
    assert news[0].endswith(f"{name}: read as {format}; another format can be named with --format")
    assert said(run) == answers
    assert counts["new"] >= sum(map(len, answers.values()))
    assert import_file(run, HERE / name, pool=())["new"] == 0


def test_every_file_here_is_read_by_a_test() -> None:
    others = {"argilla.json", "doccano-seq2seq.json", "label-studio-textarea.json"}
    assert {file.name for file in HERE.iterdir()} == GOLDEN.keys() | others


def test_argilla_with_two_questions_must_be_told_which(run: Path) -> None:
    refused(
        run, HERE / "argilla.json", r"item 1: several questions are answered: 'sentiment', 'comment'; name one behind .*", pool=()
    )  # fmt: skip
    import_file(run, HERE / "argilla.json", format="argilla:sentiment", pool=(), annotator="zoe")
    assert said(run) == {SOUND: {ANN: "positive", KIM: "negative"}, BROKE: {"zoe": "negative"}}


def test_comments_flags_and_times_of_the_tools_come_along(run: Path) -> None:
    import_file(run, HERE / "doccano.jsonl", annotator="kim", pool=())
    import_file(run, HERE / "prodigy-choice.jsonl", pool=())
    found = state(run)
    assert found["notes"] == {EXAMPLES[0].id: {"kim": "clear\nno doubt"}}
    assert found["flags"] == {EXAMPLES[0].id: {"reviews-kim"}}


def test_free_text_of_the_tools(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", EXAMPLES, kind="text")
    import_file(run, HERE / "doccano-seq2seq.json", annotator="kim", pool=())
    assert said(run) == {SOUND: {"kim": "Praise of the sound"}, BROKE: {"kim": "Broken soon"}}
    file = HERE / "label-studio-textarea.json"
    refused(run, file, r"item 1: several controls hold an answer: 'summary', 'stars'; name one behind .*", pool=())
    import_file(run, file, format="label-studio:summary", pool=())
    assert said(run)[SOUND]["1"] == "Praise of the sound"
    lines = [
        {"text": BROKE, "user_input": "Gone", "answer": "accept", "_annotator_id": "d-alex", "_view_id": "text_input"}
    ]
    import_file(run, write(tmp_path / "p.jsonl", lines), pool=())
    assert said(run)[BROKE]["d-alex"] == "Gone"


def test_a_rejected_label_is_an_answer_only_where_one_other_is_left(tmp_path: Path) -> None:
    file = HERE / "prodigy-binary.jsonl"
    three = make_run(tmp_path / "three", EXAMPLES, ("positive", "negative", "mixed"))
    counts = import_file(three, file, pool=())
    assert (counts["rejected"], counts["without_answer"]) == (1, 0)
    assert said(three) == {SOUND: {"import": "positive"}, WAIT: {"import": None}}


def test_what_tools_write_for_other_tasks_is_refused(run: Path, tmp_path: Path) -> None:
    cases: list[tuple[Mapping[str, Any], str]] = [
        ({"text": SOUND, "label": [[0, 3, "Positive"]]}, "line 1: label marks parts of the text; only labels of whole texts"),
        ({"text": SOUND, "annotations": [{"label": 7, "user": 1}], "meta": {}}, "line 1: found 'annotations' with the numbers"),
        ({"text": SOUND, "label": ["Positive", "Negative"]}, "line 1: label: found 2 labels"),
        ({"text": SOUND, "accept": ["a", "b"], "_task_hash": 1, "answer": "accept"}, "line 1: accept holds 2 options"),
        ({"text": SOUND, "label": "x", "_task_hash": 1, "answer": "accepted"}, "line 1: answer is 'accepted'; did you mean 'accept'"),
        ({"data": [], "annotations": []}, "line 1: data: found .*, expected an object"),
        ({"data": {"text": SOUND}, "annotations": {}}, "line 1: annotations: found {}, expected a list"),
        ({"data": {"text": SOUND, KEY: 3}, "annotations": []}, f"line 1: {KEY}: found 3, expected an object"),
        (
            {"text": SOUND, "answer": "positive", "annotation_id": 1, "lead_time": 1, KEY: {"answers": [{"answer": "x"}]}},
            "line 1: JSON-MIN does not say which answers came from here; export as JSON",
        ),
        ({"fields": "x", "responses": {}}, "line 1: fields: found 'x', expected an object"),
    ]  # fmt: skip
    for record, message in cases:
        refused(run, write(tmp_path / "x.jsonl", [record]), message, pool=())


# --- what the tools themselves keep of our files --------------------------------------------------


def forgotten(value: Any) -> Any:
    """A record without our own key and without what Label Studio does not take over, at any depth."""
    if isinstance(value, dict):
        return {k: forgotten(v) for k, v in value.items() if k not in (KEY, "created_username")}
    return [forgotten(item) for item in value] if isinstance(value, list) else value


def records_of(text: str) -> list[Any]:
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]


SAID = {SOUND: {"ann": "positive", "bob": "negative"}, BROKE: {"ann": None}, WAIT: {"bob": "negative"}}
LEFT: dict[str, dict[str, dict[str, str | None]]] = {
    "label-studio": {SOUND: SAID[SOUND], BROKE: {"import": None}, WAIT: SAID[WAIT]},
    "prodigy": SAID,
    "doccano": {SOUND: {"import": "negative"}, WAIT: {"import": "negative"}},
}


@pytest.fixture
def full(run: Path) -> Path:
    a, b, c = (e.id for e in EXAMPLES)
    annotate(
        run,
        [
            (a, Label("positive", "ann")), (a, Label("negative", "bob")), (b, Skip("unclear", "ann")), (b, Flag("bob")),
            (b, Note("look again", "bob")), (c, Label("negative", "bob")), (c, Flag("bob")), (c, Verdict("negative", "cy")),
        ],
    )  # fmt: skip
    return run


@pytest.mark.parametrize("tool", TOOLS)
def test_what_is_left_when_a_tool_drops_our_key(full: Path, tmp_path: Path, tool: str) -> None:
    """The answers are in the tool's own places; other things only where it has a place for them."""
    records = [forgotten(record) for record in records_of(str(export_run(full, tool)))]
    for record in records:
        record.get("metadata", {}).pop(KEY, None)
    fresh = make_run(tmp_path / "fresh", EXAMPLES, ("positive", "negative"))
    import_file(fresh, write(tmp_path / "x.jsonl", records), format=tool, pool=())
    if tool == "argilla":  # its users are UUIDs: names are lost, who is who is not
        found = said(fresh)
        assert BROKE not in found, "a response must have a value, so a skip has no place"
        assert list(found[SOUND].values()) == ["positive", "negative"]
        assert list(found[WAIT]) == list(found[SOUND])[1:]
    else:
        assert said(fresh) == LEFT[tool]
    # Prodigy marks an answer of an annotator as flagged; the others have no flags, notes or verdicts of their own.
    assert state(fresh)["flags"] == ({EXAMPLES[2].id: {"bob"}} if tool == "prodigy" else {})
    assert state(fresh)["notes"] == state(fresh)["verdicts"] == {}


@pytest.mark.parametrize("tool", TOOLS)
def test_answers_changed_in_a_tool_come_back(full: Path, tmp_path: Path, tool: str) -> None:
    """Somebody opens our file in the tool, changes one answer and gives an answer where there was none."""
    records = records_of(str(export_run(full, tool)).replace('"negative"', '"positive"'))
    kept = records_of(str(export_run(full, tool)))
    for record, before in zip(records, kept, strict=True):  # the tool changes its own places only
        for place in (record, record.get("data", {}), record.get("metadata", {})):
            if KEY in place:
                place[KEY] = (before.get("data") or before.get("metadata") or before)[KEY]
    file = write(tmp_path / "changed.jsonl", records)
    import_file(full, file, format=tool, annotator="dora", pool=())
    by = said(full)
    if tool == "doccano":  # it does not say who
        assert by[SOUND] == {"ann": "positive", "bob": "negative", "dora": "positive"}
    else:
        assert by[SOUND] == {"ann": "positive", "bob": "positive"}
    with Store.open(full) as store:
        assert store.annotations.answers()[EXAMPLES[0].id].answer == "positive"
    assert by[BROKE] == {"ann": None}
    assert state(full)["by"][EXAMPLES[1].id]["ann"] == Skip("unclear", "ann"), "the reason that the tool lost is kept"


def test_label_studios_csv_of_tasks_that_came_from_here(run: Path, tmp_path: Path) -> None:
    """Its cells hold our key as JSON text; with it, even an edited text would be known as another example's."""
    task = records_of(str(export_run(run, "label-studio")))[1]["data"]
    row = {"text": task["text"], KEY: json.dumps(task[KEY]), "answer": "Negative", "annotator": "5", "annotation_id": "9",
        "created_at": "2024-05-14", "updated_at": "", "lead_time": "1.5", "id": "12"}  # fmt: skip
    file = tmp_path / "project-7.csv"
    file.write_bytes(dumped([row], write_csv))
    assert import_file(run, file, pool=())["new"] == 1
    assert said(run) == {BROKE: {"5": "negative"}}
    file.write_bytes(dumped([{**row, "text": SOUND}], write_csv))
    refused(run, file, rf"line 2: 'text' is not that of example {EXAMPLES[1].id}", pool=())


def test_a_pool_with_several_fields_goes_through_the_tools(tmp_path: Path) -> None:
    """Tools with one text show the filled template; what comes back is matched by our id, or by that text."""
    examples = [make_example({"text": f"Is {n} prime?", "hint": "divide"}) for n in (7, 8)]
    one = make_run(tmp_path / "one", examples, ("yes", "no"))
    annotate(
        one,
        [(examples[0].id, Label("yes", "ann")), (examples[1].id, Skip("", "ann")), (examples[1].id, Skip("", "bob"))],
    )
    for tool in TOOLS:
        records = records_of(str(export_run(one, tool)))
        for text in ("Is 8 prime?", "divide"):
            assert text in json.dumps(records[1])
        for record in records:
            record.pop(KEY, None)
            (record.get("data") or record.get("metadata") or {}).pop(KEY, None)
        two = make_run(tmp_path / tool, examples, ("yes", "no"))
        import_file(two, write(tmp_path / f"{tool}.jsonl", records), format=tool, pool=(), annotator="ann")
        assert state(two)["by"][examples[0].id].popitem()[1].answer == "yes"
        three = make_run(tmp_path / f"{tool}-whole", examples, ("yes", "no"))
        whole = records_of(str(export_run(one, tool)))
        import_file(three, write(tmp_path / f"{tool}-whole.jsonl", whole), format=tool, pool=())
        assert state(three) == state(one)


def test_the_hints_name_what_the_file_uses(full: Path) -> None:
    news: list[str] = []
    tasks = records_of(str(export_run(full, "label-studio", say=news.append)))
    result = tasks[0]["annotations"][0]["result"][0]
    assert (result["from_name"], result["to_name"]) == ("answer", "text")
    assert '<Text name="text" value="$text"/>' in news[0]
    assert '<Choices name="answer" toName="text" choice="single">\n    <Choice value="positive"/>' in news[0]
    export_run(full, "argilla:mood", say=news.append)
    assert "rg.LabelQuestion(name='mood', labels=['positive', 'negative'])" in news[1]
    assert FORMATS["prodigy"].hint is None


def test_tasks_without_answers_are_what_the_tools_label(run: Path) -> None:
    tasks = {tool: records_of(str(export_run(run, tool))) for tool in TOOLS}
    assert [task["annotations"] for task in tasks["label-studio"]] == [[], [], []]
    assert [record["responses"] for record in tasks["argilla"]] == [{}, {}, {}]
    assert all("answer" not in line and "accept" not in line for line in tasks["prodigy"])
    assert tasks["prodigy"][0]["options"] == [
        {"id": "positive", "text": "positive"},
        {"id": "negative", "text": "negative"},
    ]
    assert [line["label"] for line in tasks["doccano"]] == [[], [], []]
