"""Shows how far benchmarks are: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from .results import Result


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Lines:
    """A line when a row begins, and one when it ends."""

    def __init__(self, names: Sequence[str], before: Mapping[str, float]) -> None:
        """`before`: seconds that rows took the last time."""
        self._names, self._before = names, before
        self._began = time.monotonic()
        self._done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def begins(self, name: str) -> None:
        self._done += 1
        last = f", {clock(self._before[name])} the last time" if name in self._before else ""
        self._print(f"{name}{last}")

    def told(self, text: str, done: float | None) -> None:
        pass

    def ended(self, name: str, result: Result) -> None:
        self._print(f"{name}: {result.error or 'done'} ({clock(result.seconds)})")

    def _print(self, text: str) -> None:
        elapsed = clock(time.monotonic() - self._began)
        print(f"[{self._done}/{len(self._names)}] {elapsed}  {text}", file=sys.stderr, flush=True)


class _Times(ProgressColumn):
    """How long it has taken, of how long it may take in all: by what is done, or by the last time."""

    def __init__(self, before: Mapping[TaskID, float]) -> None:
        super().__init__()
        self._before = before

    def render(self, task: Task) -> Text:
        if not task.started:
            guess = self._before.get(task.id)
            return Text(f"     of ~{clock(guess)}" if guess else "", style="dim")
        elapsed = task.finished_time if task.finished_time is not None else task.elapsed or 0.0
        if task.finished:
            return Text(clock(elapsed))
        share = task.completed
        guess = elapsed / share if share > 0.05 else self._before.get(task.id)
        return Text(clock(elapsed) + (f" of ~{clock(max(guess, elapsed))}" if guess else ""))


class Live:
    """A line for each row, and one for all."""

    def __init__(self, names: Sequence[str], before: Mapping[str, float]) -> None:
        guesses: dict[TaskID, float] = {}
        self._shown = Progress(
            TextColumn("{task.fields[name]:<18}"),
            BarColumn(24),
            _Times(guesses),
            TextColumn("[dim]{task.description}"),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self._tasks = {name: self._shown.add_task("", start=False, total=1.0, name=name) for name in names}
        self._all = self._shown.add_task("", total=1.0, name="all")
        guesses.update({self._tasks[name]: before[name] for name in names if name in before})
        known = [before[name] for name in names if name in before]
        self._typical = sum(known) / len(known) if known else 60.0
        self._weights = {name: before.get(name, self._typical) for name in names}
        if known:
            guesses[self._all] = sum(self._weights.values())
        self._past = 0.0
        self._now = ""

    def __enter__(self) -> Self:
        self._shown.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.stop()

    def begins(self, name: str) -> None:
        self._now = name
        self._shown.start_task(self._tasks[name])

    def told(self, text: str, done: float | None) -> None:
        self._shown.update(self._tasks[self._now], description=text, completed=done)
        self._whole(done or 0.0)

    def ended(self, name: str, result: Result) -> None:
        said = f"[red]{result.error}" if result.error else ""
        self._shown.update(self._tasks[name], description=said, completed=1.0)
        self._whole(1.0)
        self._past += self._weights[name]

    def _whole(self, done: float) -> None:
        share = (self._past + self._weights[self._now] * done) / sum(self._weights.values())
        self._shown.update(self._all, completed=share)


def display(names: Sequence[str], before: Mapping[str, float]) -> Lines | Live:
    return Live(names, before) if sys.stderr.isatty() else Lines(names, before)
