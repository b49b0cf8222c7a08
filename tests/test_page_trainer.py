"""Training beside the page: started when there is work, never twice, and its failures are told."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from forks import Forked
from page_help import make_run, served, until

from guidestar import config as configs
from guidestar.errors import GuidestarError
from guidestar.people.trainer import Trainer, TrainerState
from guidestar.records import Label
from guidestar.store import Store, find_run


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def trainer(folder: Path, program: str, clock: Clock | None = None) -> Trainer:
    return Trainer(folder, command=[sys.executable, "-c", program], clock=clock or Clock())


def going_on(page: Browser) -> Any:
    """The page's state, in which no training has failed: what failed is said at once, not after minutes."""
    state = page.post("state")
    assert state["trainer"]["kind"] != "failed", state["trainer"]
    time.sleep(0.05)
    return state


def ended(found: Trainer, work: object = None) -> TrainerState:
    """The state once the process has ended."""
    until(lambda: found.tick(work).kind != "training")
    return found.tick(work)


def test_a_training_starts_with_work_tells_its_newest_line_and_waits_for_the_next_work(tmp_path: Path) -> None:
    go = tmp_path / "go"
    program = f"""
import os, sys, time
print("first line", file=sys.stderr, flush=True)
print("  training 3/8 ü", file=sys.stderr, flush=True)
with open({str(tmp_path / "starts")!r}, "a") as file:
    file.write("x")
while not os.path.exists({str(go)!r}):
    time.sleep(0.01)
sys.exit(4)
"""
    found = trainer(tmp_path, program)
    assert found.tick(None) == TrainerState("idle")
    assert found.tick(1).kind == "training"
    until(lambda: found.tick(1) == TrainerState("training", "training 3/8 ü"))
    assert found.tick(2).kind == "training", "never two at once"
    go.touch()
    assert ended(found) == TrainerState("idle")
    assert found.tick(1) == TrainerState("idle"), "the same state of the run is not trained on again"
    assert found.tick(2).kind == "training"
    assert ended(found) == TrainerState("idle")
    assert (tmp_path / "starts").read_text() == "xx"


def test_the_end_of_the_run_is_told(tmp_path: Path) -> None:
    found = trainer(tmp_path, "pass")
    found.tick(1)
    assert ended(found) == TrainerState("finished")


def test_a_failure_shows_its_last_lines_and_waits_for_somebody(tmp_path: Path) -> None:
    found = trainer(
        tmp_path, "import sys; [print('line', i) for i in range(30)]; print('guidestar: no room'); sys.exit(1)"
    )
    found.tick(1)
    state = ended(found)
    assert state.kind == "failed"
    assert (state.tail[0], state.tail[-1]) == ("line 19", "guidestar: no room")
    assert found.tick(2).kind == "failed", "not again by itself"
    found.retry()
    assert found.tick(1).kind == "training"
    assert ended(found).kind == "failed"


def test_another_process_in_the_folder_is_no_failure_and_is_tried_again_later(tmp_path: Path) -> None:
    clock = Clock()
    found = trainer(tmp_path, "import sys; print('guidestar: x: is in use by process 12; wait'); sys.exit(1)", clock)
    found.tick(1)
    until(lambda: found.tick(1).kind == "busy")
    assert found.tick(1).kind == "busy"
    assert found.tick(None).kind == "idle", "the other one has gone on to the next round"
    clock.now = 31.0
    assert found.tick(1).kind == "training"
    assert ended(found, 1).kind == "busy"


def test_stopping_ends_the_process_even_one_that_will_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidestar.people import trainer as module

    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    found = trainer(
        tmp_path, "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    found.tick(1)
    until(lambda: found.state().line == "deaf")
    process = found._process
    found.stop()
    assert process is not None
    assert process.returncode == -9
    assert found.tick(None) == TrainerState("idle")
    found.stop()  # nothing to stop


def test_a_log_that_cannot_be_written_is_an_error_in_plain_words(tmp_path: Path) -> None:
    found = trainer(tmp_path / "gone", "pass")
    with pytest.raises(GuidestarError, match=r"gone/label-train\.log: cannot be written: No such file"):
        found.tick(1)


def test_the_command_is_this_programs_own(tmp_path: Path) -> None:
    assert Trainer(tmp_path).command == [sys.executable, "-P", "-m", "guidestar", "run", "--ahead", str(tmp_path)]
    changed = Trainer(tmp_path, config=Path("a.yaml"), overrides=["query.budget=9"])
    assert changed.command[-2:] == ["a.yaml", "query.budget=9"]


# --- with the page --------------------------------------------------------------------------------


class Browser:
    """What the page's scripts send."""

    def __init__(self, link: str) -> None:
        self.base = link.partition("/?")[0]
        self.http = httpx.Client(base_url=self.base, headers={"X-Guidestar": "1", "Origin": self.base}, timeout=60)
        self.http.get(link)
        self.count = 0

    def post(self, name: str, **body: Any) -> Any:
        answer = self.http.post(f"/api/{name}", json={"annotator": "ann", **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def label(self, want: int, answer: Callable[[Any], str]) -> int:
        """Answer up to `want` examples; how many there were."""
        found = self.post("next", want=want)["examples"]
        self.count += len(found)
        if found:
            decisions = [
                {"decision": f"decision-{e['id']}", "id": e["id"], "kind": "label", "text": answer(e)} for e in found
            ]
            assert not any(r["refused"] for r in self.post("save", decisions=decisions)["results"])
        return len(found)


def test_a_training_that_fails_is_told_on_the_page_and_can_be_tried_again(tmp_path: Path) -> None:
    run = make_run(tmp_path, ["one", "two"])
    flag = tmp_path / "fixed"
    program = f"import os, sys; print('no memory'); sys.exit(4 if os.path.exists({str(flag)!r}) else 1)"
    with served(run, trainer=trainer(run.parent, program)) as server:
        page = Browser(server.link)
        assert page.post("next", want=1)["state"]["trainer"]["kind"] == "idle", "labels are missing"
        page.label(2, lambda e: "HUM")
        idle = until(lambda: (i := page.post("next", want=1)["idle"]) and i["kind"] == "failed" and i)
        assert "Nothing you did is lost" in idle["text"]
        assert page.post("state")["trainer"]["tail"] == ["no memory"]
        assert page.post("state")["trainer"]["why"] == "no memory"
        assert page.post("state")["trainer"]["log"] == str(run.parent / "label-train.log")
        flag.touch()
        page.post("retry")
        until(lambda: page.post("state")["trainer"]["kind"] == "idle")
        page.http.close()


def test_from_a_configuration_to_the_end_with_the_page_alone(
    tmp_path: Path, make_config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real thing on the tiny model: begun by the page's own training process, two rounds, answered meanwhile."""
    monkeypatch.setattr(subprocess, "Popen", Forked)
    place = tmp_path / "run"
    place.mkdir()
    config = make_config(
        annotator="people", strategies=["star"], query={"warm_start": 5, "batch": 3, "budget": 8, "candidates": 20},
        people={"overlap": 1.0, "suggestions": "off"},
    )  # fmt: skip
    file = tmp_path / "config.yaml"
    file.write_text(configs.dump_yaml(config), encoding="utf-8")
    labels = ["billing", "delivery"]
    with served(place, trainer=Trainer(place, config=file)) as server:
        page = Browser(server.link)
        assert not page.post("state")["ready"]
        state = until(lambda: (s := going_on(page))["ready"] and s["asked"] and s, 240)
        labels = [one["label"] for one in state["task"]["labels"]]
        rounds = set()

        def finished() -> bool:
            state = going_on(page)
            rounds.add(state["round"])
            page.label(2, lambda e: labels[int(e["id"], 16) % 2])
            return state["finished"] is not None

        until(finished, 400)
        assert rounds == {0, 1}
        assert page.count == 8
        idle = until(lambda: (i := page.post("next", want=1)["idle"])["more"] and i, 120)
        assert " after 8 labels, on " in idle["text"]
        assert any(line.startswith(("Next: ", "Or: ")) for line in idle["more"])
        assert (idle["command"] or "guidestar ").startswith(
            "guidestar "
        )  # a model that learned nothing has no next one
        until(lambda: page.post("state")["trainer"]["kind"] == "finished")
        page.http.close()
    with Store.open(find_run(place)) as store:
        answers = store.annotations.answers()
        assert len(answers) == 8
        assert {a.annotator for a in answers.values() if isinstance(a, Label)} == {"ann"}
        assert [m.labels for m in store.metrics()] == [5, 8]
    assert json.dumps(sorted(path.name for path in place.iterdir())).count(".tmp-") == 0
