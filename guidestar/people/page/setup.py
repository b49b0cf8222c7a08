"""What must be known before a run can begin and only a person knows: the labels, asked for on the page."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guidestar.config import read_file
from guidestar.errors import ConfigError
from guidestar.store.files import write_bytes
from guidestar.tasks import Choice, MultiLabel
from guidestar.tasks.common import read_labels

_EMPTY = re.compile(r"^( +)labels: *\[ *\][^\n]*$", re.MULTILINE)
_KIND = re.compile(r"^( +kind: *)(?:choice|multi_label)\b", re.MULTILINE)
_HINT = re.compile(r"^ *# put your labels between the brackets[^\n]*\n", re.MULTILINE)
_NEXT = re.compile(r"Next: put your labels into it \(task\.labels\), then:")


class Setup:
    """The configuration that lacks labels. notes: what was recognised in the data, for whoever looks at the page."""

    def __init__(self, config: Path, notes: Sequence[str] = ()) -> None:
        self.config, self.notes = config, list(notes)
        self.missing = lacks_labels(config)

    def asked(self) -> dict[str, Any] | None:
        """What the page asks for, None when all is known."""
        if not self.missing:
            return None
        several = read_file(self.config)[0]["task"]["kind"] == "multi_label"
        return {"notes": self.notes, "config": str(self.config), "several": several}

    def give(self, labels: Sequence[str], several: bool = False) -> None:
        """Write the labels into the configuration. several: any number of them may hold for one text. Raises ConfigError for
        labels that cannot be used."""
        about = read_labels("\n".join([*labels, ""]))
        labels = list(about)
        (MultiLabel if several else Choice)(tuple(labels), tuple(labels))  # says what is wrong with them
        text = self.config.read_text(encoding="utf-8")
        line = f"labels: {json.dumps(labels, ensure_ascii=False)}"
        found, changed = _EMPTY.subn(lambda match: f"{match[1]}{line}", _HINT.sub("", text), count=1)
        if not changed:
            raise ConfigError(f"{self.config}: has no line `labels: []` to write the labels into; write them yourself")
        if means := {label: text for label, text in about.items() if text}:
            found += f"\npeople:\n  descriptions: {json.dumps(means, ensure_ascii=False)}\n"
        found = _KIND.sub(rf"\1{'multi_label' if several else 'choice'}", found, count=1)
        write_bytes(self.config, _NEXT.sub("Next:", found).encode())
        self.missing = False


def lacks_labels(config: Path) -> bool:
    """Whether a configuration has an empty list of labels, as `init` writes it where nobody named any."""
    task = read_file(config)[0].get("task") or {}
    return isinstance(task, dict) and task.get("kind") in ("choice", "multi_label") and task.get("labels") == []
