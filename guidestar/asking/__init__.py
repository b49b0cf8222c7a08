"""The seam between what wants to know and what knows: `Scorer` answers about examples, `Trainer` makes adapters."""

from guidestar.asking.frozen import Frozen, Probed
from guidestar.asking.scorer import Ask, Responses, Scorer, silent
from guidestar.asking.trainer import Labelled, Lesson, Trained, Trainer, Weighted
from guidestar.asking.wrappers import Cached, Committee, InParts, Raced

__all__ = [
    "Ask", "Cached", "Committee", "Frozen", "InParts", "Labelled", "Lesson", "Probed", "Raced", "Responses", "Scorer",
    "Trained", "Trainer", "Weighted", "silent",
]  # fmt: skip
