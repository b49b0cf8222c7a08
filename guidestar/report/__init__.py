"""What came out: one HTML file, the same in numbers. Reads stores, and of the data files only the texts of hard
test examples."""

from guidestar.report.notebook import compare, summary
from guidestar.report.page import build_report

__all__ = ["build_report", "compare", "summary"]
