"""Test suites that ship with the package: what anybody's scorer must hold to."""

from guidestar.testing.scorers import ScorerContract

__all__ = ["ScorerContract"]
