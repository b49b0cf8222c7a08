"""Prompt templates: text with {column} fields, filled from a row."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

from guidestar.config import DataConfig
from guidestar.data.formats import Row
from guidestar.errors import ConfigError, DataError, allowed


class Template:
    """A prompt template with {column} fields; {{ and }} stand for braces.

    columns: template name -> column of the files, in the order of the template.
    Raises ConfigError for anything but plain names, no field at all, or the answer column.
    """

    def __init__(self, data: DataConfig) -> None:
        self.text = data.template or ""
        try:
            self._parts = [_plain_field(*part) for part in string.Formatter().parse(self.text)]
        except ValueError as error:
            raise ConfigError(f"data.template: {error}; write {{{{ and }}}} for literal braces") from error
        names = dict.fromkeys(name for _, name in self._parts if name is not None)
        if not names:
            raise ConfigError("data.template has no {column} field, so all prompts would be the same")
        self.columns = {name: data.columns.get(name, name) for name in names}
        if unused := data.columns.keys() - names.keys() - {data.answer}:
            used = [*names, *([data.answer] if data.answer else [])]
            raise ConfigError(f"data.columns: {min(unused)!r} is not used; {allowed(used, min(unused))}")
        answer = answer_column(data)
        if (name := next((name for name, column in self.columns.items() if column == answer), None)) is not None:
            raise ConfigError(
                f"data.template uses {{{name}}}, which is the answer column {answer!r}; "
                f"the model would read the answer in its prompt"
            )

    def in_case(self, row: Row) -> Row:
        """The row; where it lacks a column, under the template's names for what differs in upper and lower case alone."""
        names = self.columns.values()
        if all(name in row.values or name in row.nulls for name in names):
            return row
        spelled = in_case_of(names, row.columns)
        values = {spelled[column]: text for column, text in row.values.items()}
        return replace(row, values=values, nulls=tuple(spelled[column] for column in row.nulls))

    def fields(self, row: Row) -> dict[str, str]:
        """The texts that fill the template. Raises DataError for a missing column or if all are blank."""
        if missing := [column for column in self.columns.values() if column not in row.columns]:
            found = allowed(row.columns, missing[0])
            raise DataError(f"{row.where}: no column {missing[0]!r}, which the template uses; {found}")
        fields = {name: row.cell(column) for name, column in self.columns.items()}
        if not any(value.strip() for value in fields.values()):
            raise DataError(
                f"{row.where}: all columns of the template are blank: {', '.join(fields)}; data.blank: drop leaves such rows out"
            )
        return fields

    def blank(self, row: Row) -> bool:
        """Whether all columns of the template are there and hold nothing but white space, or null."""
        columns = self.columns.values()
        return not any(row.values.get(column, "").strip() for column in columns) and set(row.columns) >= {*columns}

    def fill(self, fields: Mapping[str, str]) -> str:
        """The prompt; braces inside the texts stay as they are.

        White space around a text is left out: whether a space joins prompt and response is then a matter of
        the template alone.
        """
        return "".join(literal + (fields[name].strip() if name is not None else "") for literal, name in self._parts)


def in_case_of(names: Collection[str], columns: Collection[str]) -> dict[str, str]:
    """Column -> the one of some names that it is, but for upper and lower case and white space around it; itself where it is
    none of them, or where two columns could be meant.

    >>> in_case_of(["text", "label"], ["Text ", "LABEL", "Label"])
    {'Text ': 'text', 'LABEL': 'LABEL', 'Label': 'Label'}
    """
    spelled = {name.casefold(): name for name in names}
    plain = {column: column.strip().casefold() for column in columns}
    times = Counter(plain.values())
    return {
        column: column if column in names or times[key] > 1 else spelled.get(key, column)
        for column, key in plain.items()
    }


def _plain_field(literal: str, name: str | None, spec: str | None, conversion: str | None) -> tuple[str, str | None]:
    """(text before, column) of one parsed piece. Raises ConfigError for anything but a plain name."""
    if name is None:
        return literal, None
    shown = f"{{{name}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}}"
    if not name.strip() or any(c in name for c in ".[]") or spec or conversion:
        raise ConfigError(
            f"data.template: found {shown}; allowed: plain column names like {{text}} "
            f"(map a column with another name in data.columns)"
        )
    return literal, name


def answer_column(data: DataConfig) -> str | None:
    """The file column with the gold answer, or None."""
    return None if data.answer is None else data.columns.get(data.answer, data.answer)
