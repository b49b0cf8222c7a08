"""What came out: one HTML file, the same in numbers. Reads stores, and of the data files only the texts of hard
test examples."""

from guidestar.report.page import build_report
from guidestar.report.summary import status_text, summary

__all__ = ["build_report", "status_text", "summary"]
