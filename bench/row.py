"""What a benchmark is: a `Row` of the table in docs/benchmarks.md, and the `Series` that it measures.

Each file bench/rows/NAME.py has one value `ROW`; `python -m bench NAME` runs it.  A row measures all contestants in one
run, one after the other and again (A B C, A B C), so that what else the machine does falls on all of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

US = "cloud firewall"  # as a contestant


@dataclass(frozen=True)
class Series:
    """What was measured of one contestant doing one thing: one value for each run or sample."""

    who: str  # US, "OVN 23.03.1", "ovs-ofctl --bundle add-flows": name and version
    what: str  # "full load", "add one rule"; the same for all who do the same
    unit: str  # "s", "ms", "Mbit/s", "KB"
    values: tuple[float, ...]  # none: it could not be measured, and `note` says why
    x: float | None = None  # on the axis of a plot: ports, rules, hypervisors, connections
    note: str = ""  # what a reader must know of it

    @property
    def median(self) -> float:
        return statistics.median(self.values) if self.values else math.nan

    def quantile(self, share: float) -> float:
        """The value that `share` (0 to 1) of all values do not exceed."""
        if not self.values:
            return math.nan
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True)
class Verdict:
    """Whether a target was reached; `text` says by how much."""

    met: bool
    text: str


@dataclass(frozen=True)
class Target:
    text: str  # "median 4 ms", as the table shows it
    judge: Callable[[Sequence[Series]], Verdict]  # from all series of the row


@dataclass(frozen=True)
class Plot:
    """A plot of series that have an `x`: one line for each contestant, or a ranking when none has."""

    name: str  # of the file docs/benchmarks/NAME.svg
    title: str
    x: str
    y: str
    what: tuple[str, ...]  # the series that it shows
    log_x: bool = False
    log_y: bool = False


class Run(Protocol):
    """What a row is given."""

    @property
    def runs(self) -> int:
        """How often each contestant repeats; five or more, fewer only when it is tried out."""

    @property
    def quick(self) -> bool:
        """Smaller sizes, to see that it works."""

    @property
    def directory(self) -> Path:
        """For files; gone afterwards."""

    def progress(self, text: str, done: float | None = None) -> None:
        """Tells who waits what is being done; `done`: the share of the row, 0 to 1."""


@dataclass(frozen=True)
class Row:
    name: str  # of the command
    title: str  # what is measured, for the table
    about: str  # how, in two or three sentences, for the page
    measure: Callable[[Run], Iterator[Series]]
    targets: tuple[Target, ...] = ()
    plots: tuple[Plot, ...] = field(default=())
    headline: tuple[str, ...] = ()  # what of it the table of all rows shows; empty: all that has no `x`
