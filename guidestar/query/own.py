"""Measures, selectors and strategies of one's own, from a Python file that is named on the command line.

The file adds entries to the tables, as this package's own rooms do:

    import numpy as np
    from guidestar.query import MEASURES, STRATEGIES, Measure, Recipe

    def gini(label_log_probs):  # (K passes, n, labels) -> (K, n)
        return 1 - (np.exp(label_log_probs) ** 2).sum(axis=-1)

    MEASURES["gini"] = Measure(gini, ("label_log_probs",), "1 − Σ p² over the labels", {"choice"})
    STRATEGIES["gini"] = Recipe("highest Gini impurity of 5 dropout passes", measure="gini", passes=5)

It is a program and may do whatever a program may. A configuration cannot name one, so reading somebody else's
configuration runs no code.
The file's hash is part of what a run must not change while it lasts.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from guidestar.errors import ConfigError, allowed
from guidestar.query.measures import KINDS, MEASURES, Measure
from guidestar.query.recipes import SOURCES, STRATEGIES, Recipe, misfits, unknown_parts
from guidestar.query.table import SELECTORS, Selector
from guidestar.sections import NAME

VARIABLE = "GUIDESTAR_CODE"  # where processes that this one starts find the files, as a JSON list
_TABLES: dict[str, tuple[dict[str, Any], type]] = {
    "MEASURES": (MEASURES, Measure), "SELECTORS": (SELECTORS, Selector), "STRATEGIES": (STRATEGIES, Recipe),
}  # fmt: skip
_ARRAYS: dict[str, frozenset[str]] = {}  # name -> the task kinds that have it
for _measure in MEASURES.values():
    for _need in _measure.needs:
        _ARRAYS[_need] = _ARRAYS.get(_need, frozenset()) | _measure.tasks
_FILES: dict[Path, list[tuple[str, str]]] = {}  # what each file added


def load_code(path: str | Path) -> list[str]:
    """Run a file and keep what it adds to the tables; returns the names, ["MEASURES gini", …].

    Processes started from here on load it, too. The same file again does nothing, or after an edit replaces its entries.
    Raises ConfigError for a file that cannot be run, adds nothing, replaces what is there, or adds what cannot be used;
    the tables are then as before.
    """
    path = Path(path).absolute()
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"--code {path}: cannot be read: {error.strerror}") from error
    if digest in SOURCES.values():
        return []
    whole = {name: dict(table) for name, (table, _) in _TABLES.items()}
    for name, key in _FILES.get(path, []):
        _TABLES[name][0].pop(key, None)
    before = {name: dict(table) for name, (table, _) in _TABLES.items()}
    try:
        _execute(path)
        added = [(name, key) for name, (table, _) in _TABLES.items() for key in table if key not in before[name]]
        problems = [p for name, (table, _) in _TABLES.items() for p in _replaced(name, before[name], table)]
        problems += [problem for name, key in added for problem in _problems(name, key)]
        if not added:
            problems.append("adds nothing to MEASURES, SELECTORS or STRATEGIES")
        if problems:
            raise ConfigError("\n".join(f"--code {path}: {problem}" for problem in problems))
    except BaseException:
        for name, (table, _) in _TABLES.items():
            table.clear()
            table.update(whole[name])
        raise
    for entry in _FILES.get(path, []):
        SOURCES.pop(entry, None)
    _FILES[path] = added
    SOURCES.update(dict.fromkeys(added, digest))
    os.environ[VARIABLE] = json.dumps(list(dict.fromkeys([*_inherited(), str(path)])))
    return [f"{name} {key}" for name, key in added]


def load_inherited() -> None:
    """Load the files of the process that started this one."""
    for path in _inherited():
        load_code(path)


def _inherited() -> list[str]:
    try:
        return [str(path) for path in json.loads(os.environ.get(VARIABLE) or "[]")]
    except ValueError as error:
        raise ConfigError(f"{VARIABLE} is {os.environ[VARIABLE]!r}; allowed: a JSON list of files") from error


def _execute(path: Path) -> None:
    name = f"guidestar_own_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--code {path}: is no Python file; allowed: NAME.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses in it look themselves up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever somebody's program raises
        del sys.modules[name]
        line = _line(error, path)
        raise ConfigError(f"--code {path}{line}: {type(error).__name__}: {error}") from error


def _line(error: Exception, path: Path) -> str:
    """' line 7', where the file itself was when it raised."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f" line {error.lineno}"
    trace, line = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = f" line {trace.tb_lineno}"
        trace = trace.tb_next
    return line


def _replaced(name: str, before: dict[str, Any], table: dict[str, Any]) -> Iterable[str]:
    for key, entry in before.items():
        if table.get(key) is not entry:
            yield f"{name}[{key!r}] is there already and must stay; choose another name"


def _problems(name: str, key: str) -> list[str]:
    """Why an entry cannot be used, in sentences."""
    entry: Any = _TABLES[name][0][key]
    kind: Any = _TABLES[name][1]
    where = f"{name}[{key!r}]"
    if not isinstance(key, str) or not NAME.fullmatch(key):
        return [f"{where}: a name is letters, digits and . _ + - only, at most 61 of them"]
    if not isinstance(entry, kind):
        return [f"{where} is a {type(entry).__name__}; allowed: a {kind.__name__}"]
    if isinstance(entry, Recipe):
        return [f"{where}: {problem}" for problem in unknown_parts(entry) or misfits(entry)]
    if wrong := sorted(set(entry.tasks) - KINDS):
        return [f"{where}: tasks {', '.join(wrong)} are unknown; allowed: {', '.join(sorted(KINDS))}"]
    read = entry.needs if isinstance(entry, Measure) else entry.full | entry.base | entry.labelled | entry.labelled_base
    for need in read:
        if lacking := sorted(set(entry.tasks) - _ARRAYS.get(need, KINDS)):
            kinds, those = ", ".join(lacking), allowed(sorted(_ARRAYS[need]))
            return [f"{where}: {need} is not there for the task kinds {kinds}; {those}"]
    if isinstance(entry, Measure):
        if not entry.needs or (wrong := sorted(set(entry.needs) - _ARRAYS.keys())):
            return [f"{where} needs {', '.join(wrong) or 'nothing'}; allowed: {', '.join(sorted(_ARRAYS))}"]
        if entry.oracle != key.startswith("oracle_"):
            return [f"{where}: a measure is called oracle_… if it needs a gold_… array, and only then"]
    return []
