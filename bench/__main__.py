"""Measures rows of the table of docs/benchmarks.md, beside peers and limits.

make bench                                      # all, and docs/benchmarks.md written anew
python -m bench full-load add-rule --runs 5
python -m bench --quick --json /tmp/try.json    # small sizes, to see that all works
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from .display import clock, display
from .page import text_table, write_page
from .results import Result, Results, machine
from .runner import discover, run_all

FEWEST_RUNS = 5


def main() -> int:
    known = discover()
    options = _options(list(known))
    if options.list:
        for row in known.values():
            print(f"{row.name:<18} {row.title}")
        return 0
    runs = options.runs or (1 if options.quick else FEWEST_RUNS)
    chosen = [row for row in known.values() if row.name in options.rows or not options.rows]
    kept = _kept(options.json)
    before = {name: one.seconds for name, one in kept.rows.items() if not one.error and one.quick == options.quick}
    signal.signal(signal.SIGTERM, _terminate)
    began = time.monotonic()

    def keep(name: str, result: Result) -> None:
        nonlocal kept
        kept = kept.with_row(name, result)
        if options.json:
            kept.write(options.json)

    interrupted, well = False, True
    try:
        with display([row.name for row in chosen], before) as shown:
            well = run_all(chosen, runs, options.quick, shown, keep)
    except KeyboardInterrupt:
        interrupted = True
    print(text_table(kept, [row for row in chosen if row.name in kept.rows]))
    print(f"\n{clock(time.monotonic() - began)} minutes in all")
    if options.page:
        write_page(kept, known, options.page)
    return 130 if interrupted else 0 if well else 1


# fmt: off
def _options(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").splitlines()[0],
                                     epilog=f"rows: {', '.join(names)}")
    parser.add_argument("rows", nargs="*", metavar="NAME", help="this row; all, when none is named")
    parser.add_argument("--list", action="store_true", help="which rows there are")
    parser.add_argument("--runs", type=int, help=f"how often each contestant repeats (default {FEWEST_RUNS})")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works; figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE",
                        help="keep results here; those of rows that are not run stay, if they are of this machine")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page of the manual (docs/benchmarks.md)")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(names):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return options
# fmt: on


def _kept(path: Path | None) -> Results:
    """Results of before, of rows that are not measured now; none of another machine."""
    here = machine()
    if path is None or not path.exists():
        return Results(here, {})
    found = Results.read(path)
    if found.machine != here:
        print(f"{path} is of another machine or other versions: begun anew", file=sys.stderr)
        return Results(here, {})
    return found


def _terminate(number: int, _frame: FrameType | None) -> None:
    """As an exception does: everything that was started is ended."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
