"""Annotations in and out: our own tables, and the files of other labelling tools.

A format is two pure functions, a row to records and a record to a row; each tool's lie in a file of their own, and
`table.py` puts them together. `outward.py` and `inward.py` know the run and no format.
"""

from guidestar.exchange.inward import import_file
from guidestar.exchange.outward import export_run
from guidestar.exchange.table import FORMATS

__all__ = ["FORMATS", "export_run", "import_file"]
