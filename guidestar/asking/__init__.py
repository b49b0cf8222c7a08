"""The seam between what wants to know and what knows: a `Scorer` answers about examples, a `Trainer` makes adapters, and
an `Engine` gives both."""

from guidestar.asking.answers import LABELS, Measured, choice_values, evaluate, label_places, suggest
from guidestar.asking.engine import Engine, How
from guidestar.asking.frozen import Frozen, Probed, baselines
from guidestar.asking.scorer import Ask, Responses, Scorer, silent
from guidestar.asking.trainer import HeadStart, Labelled, Lesson, Trained, Trainer, Weighted, kept
from guidestar.asking.wrappers import Cached, Committee, InParts, Raced, part_of

__all__ = [
    "LABELS", "Ask", "Cached", "Committee", "Engine", "Frozen", "HeadStart", "How", "InParts", "Labelled", "Lesson", "Measured", "Probed",
    "Raced", "Responses", "Scorer", "Trained", "Trainer", "Weighted", "baselines", "choice_values", "evaluate", "kept",
    "label_places", "part_of", "silent", "suggest",
]  # fmt: skip
