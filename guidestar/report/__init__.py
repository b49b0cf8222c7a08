"""What came out: one HTML file, the same in numbers. Reads stores and nothing else."""

from guidestar.report.page import build_report
from guidestar.report.summary import status_text, summary

__all__ = ["build_report", "status_text", "summary"]
