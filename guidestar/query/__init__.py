"""Which examples to ask labels for: measures, base/full mixing, selectors, strategies. Pure NumPy."""

from guidestar.query.measures import MEASURES, Measure
from guidestar.query.recipes import STRATEGIES, Recipe
from guidestar.query.table import SELECTORS, Candidates, Option, Selector

__all__ = ["MEASURES", "SELECTORS", "STRATEGIES", "Candidates", "Measure", "Option", "Recipe", "Selector"]
