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

_WHERE = {
    "Run": "guidestar.loop",
    "run": "guidestar.loop",
    "RunConfig": "guidestar.config",
    "load": "guidestar.config",
    "load_code": "guidestar.query.own",
    "Example": "guidestar.records",
    "Finished": "guidestar.records",
    "Label": "guidestar.records",
    "Metrics": "guidestar.records",
    "Skip": "guidestar.records",
    "Waiting": "guidestar.records",
    "build_report": "guidestar.report",
    "compare": "guidestar.report",
    "predict": "guidestar.scoring",
    "summary": "guidestar.report",
    "ConfigError": "guidestar.errors",
    "DataError": "guidestar.errors",
    "GuidestarError": "guidestar.errors",
    "ModelError": "guidestar.errors",
    "StoreError": "guidestar.errors",
}

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
