"""A test client of the labelling page, with the cookie, and what it posts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from page_help import QUESTIONS, examples
from starlette.testclient import TestClient

from guidestar.records import Label
from guidestar.store import Store

HOST = "127.0.0.1:8000"
WRITE = {"X-Guidestar": "1", "Origin": f"http://{HOST}", "Content-Type": "application/json"}
IDS = list(examples(QUESTIONS))
GOOD = {"annotator": "ann", "decisions": [{"decision": "d" * 8, "id": IDS[0], "kind": "label", "text": "HUM"}]}


class Clock:
    """Real time, and more on demand."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def post(page: TestClient, name: str, body: dict[str, Any], status: int = 200) -> Any:
    answer = page.post(f"/api/{name}", content=json.dumps(body), headers=WRITE)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.headers["content-type"] == "application/json" else answer.text


_made = iter(range(10**9))


def decision(id: str, kind: str = "label", text: str = "", **more: Any) -> dict[str, Any]:
    return {"decision": f"decision-{next(_made):08d}", "id": id, "kind": kind, "text": text, **more}


def save(page: TestClient, *decisions: dict[str, Any], annotator: str = "ann") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = post(page, "save", {"annotator": annotator, "decisions": decisions})["results"]
    return found


def following(page: TestClient, annotator: str = "ann", want: int = 3, **more: Any) -> Any:
    return post(page, "next", {"annotator": annotator, "want": want, **more})


def ids_of(reply: Any) -> list[str]:
    return [example["id"] for example in reply["examples"]]


def label_all(run: Path, labels: list[str], annotator: str = "ann", round: int = 0) -> None:
    with Store.open(run) as store:
        for e, label in zip(store.annotations.unanswered(round), labels, strict=False):
            store.annotations.add(e.id, Label(label, annotator))
