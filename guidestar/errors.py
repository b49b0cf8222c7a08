"""Every error a user can meet, and the exit code of the command line for it.

```
Exception
└── GuidestarError        1  something went wrong; the message says where
    ├── ConfigError       2  the configuration cannot be used
    │   └── ConfigMismatch 2  the run folder was begun with another configuration
    ├── DataError         3  a data file, a row or a label cannot be used
    ├── ModelError        1  a model, an adapter or its numbers cannot be used
    │   └── NoVariance    1  the stochastic passes are all equal
    └── StoreError        1  the run folder is not there, damaged, locked or not writable
        ├── LostRecord    1  the database once held more than it does
        ├── NewerDatabase 1  a newer version of this library wrote it
        └── ForeignDatabase 1  it holds another program's data
```

A message says where, what was found and what is allowed:
``pool.csv line 7: label 'postive' is not one of: negative, positive``.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class GuidestarError(Exception):
    """Base of every error raised on purpose by this package."""

    exit_code = 1


class ConfigError(GuidestarError):
    """The configuration cannot be used; the message lists every problem found."""

    exit_code = 2


class ConfigMismatch(ConfigError):
    """The run folder was begun with another configuration or other data."""


class DataError(GuidestarError):
    """A data file, a row or a label cannot be used."""

    exit_code = 3


class ModelError(GuidestarError):
    """A model, a tokenizer, an adapter or its numbers cannot be used."""


class NoVariance(ModelError):
    """Monte-Carlo passes were asked for and all of them are equal."""


class StoreError(GuidestarError):
    """The run folder is not there, damaged, in use or cannot be written."""


class LostRecord(StoreError):
    """Files beside the database show that it once held more: its WAL is missing, or an older copy took its place."""


class NewerDatabase(StoreError):
    """A newer version of this library wrote the database."""


class ForeignDatabase(StoreError):
    """The database is that of another program."""


def needed(module: str, what: str, extra: str = "", error: type[GuidestarError] = ConfigError) -> Any:
    """A module that the base install lacks, imported. what: needs it; extra: of Guidestar that brings it.

    Raises `error` with the command that installs it where it is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as missing:
        name = module.partition(".")[0].replace("_", "-")
        bringing = f"'guidestar[{extra}]'" if extra else name
        raise error(f"{what} needs {name}, which is not installed: pip install {bringing}") from missing


def allowed(names: Iterable[object], given: object = None) -> str:
    """'allowed: a, b' with the nearest name to `given` in front when there is one.

    >>> allowed(["entropy", "margin"], "entrpy")
    "did you mean 'entropy'? allowed: entropy, margin"
    """
    options = [str(name) for name in names]
    near = difflib.get_close_matches(str(given), options, n=1) if given is not None else []
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}allowed: {', '.join(options)}"
