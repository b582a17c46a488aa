"""What came of benchmarks, and where they ran: kept as JSON, from which the page is made.

Knows rows by their name alone, so that results can be read when a row is gone.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .row import Series

ROOT = Path(__file__).parents[1]
DIGITS = 5  # of a value, in the file


@dataclass(frozen=True)
class Result:
    """One row of one day."""

    series: tuple[Series, ...]
    runs: int
    quick: bool
    seconds: float  # that it took
    when: str  # it began, UTC
    program: str  # `git describe`
    load: tuple[float, float]  # load average of a minute, before and after
    error: str = ""  # why there is nothing more

    @classmethod
    def of(cls, told: dict[str, Any]) -> Result:
        series = tuple(Series(**{**one, "values": tuple(one["values"])}) for one in told["series"])
        return cls(**{**told, "series": series, "load": tuple(told["load"])})


@dataclass(frozen=True)
class Results:
    machine: dict[str, str]
    rows: dict[str, Result]

    def with_row(self, name: str, result: Result) -> Results:
        return replace(self, rows={**self.rows, name: result})

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = {name: _told(result) for name, result in self.rows.items()}
        text = json.dumps({"machine": self.machine, "rows": rows}, indent=1)
        path.write_text(_lists_on_a_line(text) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        told = json.loads(path.read_text())
        return cls(told["machine"], {name: Result.of(one) for name, one in told["rows"].items()})


def _told(result: Result) -> dict[str, Any]:
    told = asdict(result)
    for one in told["series"]:
        one["values"] = [float(f"{value:.{DIGITS}g}") for value in one["values"]]
    return told


def _lists_on_a_line(text: str) -> str:
    """A hundred samples are not a hundred lines of a diff."""
    return re.sub(r"\[[-+.\de,\s]+\]", lambda found: re.sub(r"\s+", " ", found[0]), text)


def machine() -> dict[str, str]:
    """Where this runs, and with what."""
    cpu = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in cpu if line.startswith("model name")), platform.machine())
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1024**2
    programs = {
        "Open vSwitch": _said("ovs-vswitchd", "--version"),
        "OVN": _said("ovn-controller", "--version"),
    }
    libraries = ("ryu", "eventlet", "SQLAlchemy", "pydantic")
    return {
        "processor": f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB",
        "system": f"{platform.freedesktop_os_release().get('PRETTY_NAME', '')}, Linux {platform.release()}",
        "Python": platform.python_version(),
        **{name: said for name, said in programs.items() if said},
        **{name: _version(name) for name in libraries},
    }


def program() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _said(*command: str) -> str:
    """The version that a program tells in its first line; empty when there is no such program."""
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
    return text.splitlines()[0].split()[-1] if text else ""


def number(value: float) -> str:
    """As people read it: three digits that count."""
    if value == 0 or math.isnan(value):
        return "0" if value == 0 else "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
