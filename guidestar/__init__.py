"""Guidestar: label less, fine-tune better. Active learning for LLMs with LoRA and other adapters.

Nothing heavy is imported until it is used: `import guidestar` does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guidestar.config import RunConfig, load
    from guidestar.errors import ConfigError, DataError, GuidestarError, ModelError, StoreError
    from guidestar.loop import Run, run
    from guidestar.query.own import load_code
    from guidestar.records import Example, Finished, Label, Metrics, Skip, Waiting
    from guidestar.report import build_report, compare, summary
    from guidestar.scoring import predict

_ROOMS = {
    "config": ("RunConfig", "load"),
    "errors": ("ConfigError", "DataError", "GuidestarError", "ModelError", "StoreError"),
    "loop": ("Run", "run"),
    "query.own": ("load_code",),
    "records": ("Example", "Finished", "Label", "Metrics", "Skip", "Waiting"),
    "report": ("build_report", "compare", "summary"),
    "scoring": ("predict",),
}
_WHERE = {name: f"guidestar.{room}" for room, names in _ROOMS.items() for name in names}

__all__ = [
    "ConfigError", "DataError", "Example", "Finished", "GuidestarError", "Label", "Metrics", "ModelError", "Run",
    "RunConfig", "Skip", "StoreError", "Waiting", "build_report", "compare", "load", "load_code", "predict", "run", "summary",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'guidestar' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
