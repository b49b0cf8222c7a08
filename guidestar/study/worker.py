"""One of several processes on a study: `python -m guidestar.study.worker ORDER I/N`."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence

from guidestar.progress import Plain
from guidestar.query.own import load_inherited
from guidestar.study import cells as engine
from guidestar.study.grid import Order, run_part
from guidestar.study.jobs import rotated


def main(arguments: Sequence[str]) -> int:
    """ORDER: the fields of `Order` as JSON. The last line of the output is JSON: the cells that failed, and why."""
    load_inherited()
    order, share = arguments
    part, _, parts = share.partition("/")
    study, news = Order(**json.loads(order)).study(), Plain()
    cells = rotated(study.cells, int(part), int(parts))
    results = run_part(study, cells, engine.Shared(study.out / "cache", news), news)
    print(json.dumps({one.cell.name: one.error for one in results if one.error}))
    return int(any(one.state == "failed" for one in results))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # the process above says it
        sys.exit(130)
