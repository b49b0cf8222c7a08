"""Conversations in files: a list of messages becomes what was said, and the last answer of the assistant.

The turns stand in one text that people can read; each begins with a mark nobody sees, so that a model's own chat template
can be filled with them (`model/traits.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from guidestar.data.formats import Row
from guidestar.errors import DataError

CONVERSATION, RESPONSE, DIALOGUE = "conversation", "response", "dialogue"  # names of the columns
TURNS = (CONVERSATION, RESPONSE, DIALOGUE)
MARK = "\u2063"  # INVISIBLE SEPARATOR, before the name of who speaks
_TURN = re.compile(rf"(?:^|\n\n){MARK}?(?:System|User|Assistant|Developer|Tool): ")
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


def is_conversation(cells: Sequence[str]) -> bool:
    """Whether the first filled cells of a column are lists of messages."""
    some = [cell for cell in cells[:100] if cell.strip()][:20]
    return bool(some) and all(_messages(cell) is not None for cell in some)


def _messages(cell: str) -> list[tuple[str, str]] | None:
    """(role, text) of each message; None if the cell is no list of messages."""
    if not cell.lstrip().startswith("["):
        return None
    try:
        items = json.loads(cell)
    except (ValueError, RecursionError):
        return None
    said = []
    for item in items if isinstance(items, list) else [None]:
        role, text = (_value(item, *names) for names in (("role", "from"), ("content", "value")))
        if role is None or text is None:
            return None
        said.append((_ROLES.get(role.lower(), role.lower()), text.strip().replace(MARK, "")))
    return said or None


def _value(item: Any, *names: str) -> str | None:
    value = next((item[name] for name in names if name in item), None) if isinstance(item, dict) else None
    return value if isinstance(value, str) else None


def opened(row: Row, column: str) -> Row:
    """The row with the columns `conversation` and `response`, made of the messages in a column; the response is the
    assistant's last message, null where the conversation does not end in one. `dialogue` has all messages, for who labels them.

    Raises DataError for a cell that is no list of messages.
    """
    said = _messages(row.cell(column))
    if said is None:
        raise DataError(
            f"{row.where}: the column {column!r} (data.messages) is no list of messages; expected "
            '[{"role": "user", "content": "…"}, …]'
        )
    answer = said[-1][1] if said[-1][0] == "assistant" else None
    asked = said[:-1] if answer is not None else said
    text = turns_as_text(asked)
    dialogue = turns_as_text(said).replace(MARK, "")
    values = {**row.values, CONVERSATION: text, DIALOGUE: dialogue} | ({} if answer is None else {RESPONSE: answer})
    return replace(row, values=values, nulls=(*row.nulls, *([RESPONSE] if answer is None else [])))


def turns_as_text(turns: Sequence[tuple[str, str]]) -> str:
    """One user's turn as it is; more of them with who speaks.

    >>> turns_as_text([("user", "Hello")]), turns_as_text([("user", "Hi"), ("assistant", "Hm?")]).replace(MARK, "*")
    ('Hello', '*User: Hi\\n\\n*Assistant: Hm?')
    """
    if len(turns) == 1 and turns[0][0] == "user":
        return turns[0][1]
    return "\n\n".join(f"{MARK}{role.capitalize()}: {text}" for role, text in turns)


def last_turn(text: str) -> str:
    """What was said last in a text of `turns_as_text`, marked or not.

    >>> last_turn("System: Be kind.\\n\\nUser: Hi\\n\\nthere: you"), last_turn("Hello")
    ('Hi\\n\\nthere: you', 'Hello')
    """
    return _TURN.split(text)[-1]


def turns_in(prompt: str) -> list[dict[str, str]]:
    """The messages of a prompt as a chat template takes them: those that it marks, or all of it as one of the user's.

    >>> turns_in(turns_as_text([("user", "Hi"), ("assistant", "Hm?"), ("user", "Bye")]))[2]
    {'role': 'user', 'content': 'Bye'}
    """
    before, *marked = prompt.split(MARK)
    if not marked:
        return [{"role": "user", "content": prompt}]
    pairs = [part.partition(": ") for part in marked]
    turns = [{"role": role.lower(), "content": text.strip()} for role, _, text in pairs]
    return [{"role": "system", "content": before.strip()}, *turns] if before.strip() else turns
