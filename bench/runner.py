"""Runs rows one after the other and keeps what they measure.  One that fails does not lose the others."""

from __future__ import annotations

import importlib
import os
import pkgutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from . import results, rows
from .results import Result
from .row import Row, Series


class Display(Protocol):
    """Who shows how far it is."""

    def begins(self, name: str) -> None: ...
    def told(self, text: str, done: float | None) -> None: ...
    def ended(self, name: str, result: Result) -> None: ...


@dataclass(frozen=True)
class RowRun:
    """`row.Run`, for one row."""

    runs: int
    quick: bool
    directory: Path
    tell: Callable[[str, float | None], None]

    def progress(self, text: str, done: float | None = None) -> None:
        self.tell(text, done)


def discover() -> dict[str, Row]:
    """All rows by name, those of `rows.ORDER` first."""
    found: dict[str, Row] = {}
    for module in pkgutil.iter_modules(rows.__path__):
        row = importlib.import_module(f"{rows.__name__}.{module.name}").ROW
        if row.name.replace("-", "_") != module.name:
            raise ValueError(f"bench/rows/{module.name}.py has the row {row.name}")
        found[row.name] = row
    places = {name: place for place, name in enumerate(rows.ORDER)}
    return {name: found[name] for name in sorted(found, key=lambda name: (places.get(name, len(places)), name))}


def run(row: Row, runs: int, quick: bool, display: Display) -> Result:
    """One row.  What ends it early is told in the result; an interrupt goes through."""
    began, when, load = time.monotonic(), results.now(), os.getloadavg()[0]
    series: list[Series] = []
    error = ""
    display.begins(row.name)
    with tempfile.TemporaryDirectory(prefix="fwb-") as directory:
        try:
            for one in row.measure(RowRun(runs, quick, Path(directory), display.told)):
                series.append(one)  # each for itself: what came before a fault is kept
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"
            traceback.print_exc()
    result = Result(
        tuple(series), runs, quick, round(time.monotonic() - began, 1), when, results.program(),
        (round(load, 2), round(os.getloadavg()[0], 2)), error,
    )  # fmt: skip
    display.ended(row.name, result)
    return result


def run_all(
    chosen: Iterable[Row], runs: int, quick: bool, display: Display, keep: Callable[[str, Result], None]
) -> bool:
    """All of these; whether every one came to its end.  Each result is kept as soon as there is one."""
    well = True
    for row in chosen:
        result = run(row, runs, quick, display)
        keep(row.name, result)
        well = well and not result.error
    return well
