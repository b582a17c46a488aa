"""Writes docs/benchmarks.md and its plots from results: `python -m bench.page FILE.json [docs/benchmarks.md]`.

The words are those of rows; what was reached is judged here anew, from the figures.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .plots import draw
from .results import ROOT, Result, Results, number
from .row import US, Row, Series

DEFAULT = ROOT / "docs" / "benchmarks.md"

PAGE = """\
# Benchmarks

*This page is written by `make bench`. Do not edit it.*

What this controller costs, beside others that do the same and beside what bounds it, on one machine, in one run: all
contestants of a row take turns (A B C, A B C), so that what else the machine does falls on all of them. Machines are
shared and noisy; a ratio from one run says more than a time. Figures are medians; *(x 3)* is three times ours; *spread*
is the middle half of all values, from a quarter to three quarters. Why so, and which peers:
[decision 32](decisions/0032-benchmarks.md).

{summary}

## Where

{where}

## Again

```sh
make bench                                     # all of it, some {minutes:.0f} min here; Debian 12, as root
make bench ROWS="full-load add-rule" RUNS=9    # some rows, more often; the others stay as they were
.venv/bin/python -m bench --list
.venv/bin/python -m bench.page docs/benchmarks/results.json     # this page again, from the figures
```

All values of all runs are in [results.json](benchmarks/results.json). What is needed is installed: packages of Debian,
and for Neutron's driver a virtual environment of its own in `run/bench/`; these stay. All else is in network namespaces
and temporary directories, and is gone afterwards.

{rows}
"""


def write_page(results: Results, known: Mapping[str, Row], path: Path = DEFAULT) -> None:
    """The page, and its plots beside it in a folder of its name."""
    folder = path.with_suffix("")
    rows = [(row, results.rows[name]) for name, row in known.items() if name in results.rows]
    for row, result in rows:
        for plot in row.plots:
            draw(plot, result.series, folder / f"{plot.name}.svg")
    seconds = sum(result.seconds for _, result in rows)
    path.write_text(PAGE.format(
        summary=_table(SUMMARY, [_summary(row, result) for row, result in rows]),
        where="\n".join(f"- {name}: {text}" for name, text in results.machine.items()),
        minutes=max(1.0, seconds / 60),
        rows="\n\n".join(_section(row, result, folder.name) for row, result in rows),
    ))  # fmt: skip


# --- the table of all rows

SUMMARY = ("what", "target", "this controller", "others, same run", "reached")


def _summary(row: Row, result: Result) -> tuple[str, ...]:
    verdicts = [target.judge(result.series) for target in row.targets]
    targets = [target.text for target in row.targets]
    marks = [f"{'yes' if verdict.met else '**no**'} ({verdict.text})" for verdict in verdicts]
    plain = [one for one in result.series if one.x is None and (one.what in row.headline or not row.headline)]
    several = len({one.what for one in plain}) > 1
    ours = [_figure(one, several) for one in plain if one.who == US]
    others = [f"{one.who}: {_figure(one, several)}{_times(one, plain)}" for one in plain if one.who != US]
    title = f"[{row.title}](#{row.name})" + (f"<br>*ended early: {_cell(result.error)}*" if result.error else "")
    lists = (targets, ours, others, marks)
    return (title, *("<br>".join(map(_cell, texts)) or "-" for texts in lists))


def _figure(one: Series, named: bool) -> str:
    return f"{one.what + ' ' if named else ''}{number(one.median)} {one.unit}"


def _times(one: Series, series: Sequence[Series]) -> str:
    ratio = _ratio(one, series)
    return f" (x {ratio})" if ratio else ""


# --- one row

HEADS = ("who", "what", "median", "spread", "p99", "values", "times ours", "")


def _section(row: Row, result: Result, folder: str) -> str:
    parts = [f"## {row.name}", textwrap.fill(f"{row.title}. {row.about}", 120, break_on_hyphens=False)]
    if result.error:
        parts.append(f"**Ended early:** {result.error}")
    plain = [one for one in result.series if one.x is None]
    if plain:
        parts.append(_table(HEADS, [_line(one, plain) for one in plain]))
    parts += [f"![{plot.title}]({folder}/{plot.name}.svg)" for plot in row.plots]
    parts += [_by_x(what, result.series) for what in _whats(result.series)]
    load = f"load average {result.load[0]:.1f} before, {result.load[1]:.1f} after"
    parts.append(
        f"{result.when} UTC, {result.program}, {result.runs} runs{' of the quick kind' if result.quick else ''}, "
        f"{result.seconds:.0f} s, {load}."
    )
    return "\n\n".join(parts)


def _line(one: Series, series: Sequence[Series]) -> tuple[str, ...]:
    return (
        f"**{_cell(one.who)}**" if one.who == US else _cell(one.who),
        _cell(one.what),
        f"{number(one.median)} {one.unit}",
        f"{number(one.quantile(0.25))} to {number(one.quantile(0.75))}",
        number(one.quantile(0.99)) if len(one.values) >= MANY else "",
        str(len(one.values)),
        "" if one.who == US else _ratio(one, series),
        _cell(one.note),
    )


def _ratio(one: Series, series: Sequence[Series]) -> str:
    """To ours at the same; empty where either was not measured."""
    ours = next((other for other in series if other.who == US and other.what == one.what), None)
    return number(one.median / ours.median) if ours is not None and ours.median and one.values else ""


MANY = 50  # values from which on the hundredth part of them is told


def _whats(series: Iterable[Series]) -> list[str]:
    return list(dict.fromkeys(one.what for one in series if one.x is not None))


def _by_x(what: str, series: Sequence[Series]) -> str:
    """Medians of what was measured at several sizes: a column for each."""
    here = [one for one in series if one.what == what and one.x is not None]
    xs = sorted({one.x for one in here if one.x is not None})
    lines = []
    for who in dict.fromkeys(one.who for one in here):
        found = {one.x: one for one in here if one.who == who}
        lines.append((who, *(number(found[x].median) if x in found else "" for x in xs)))
    return _table((f"{what}, {here[0].unit}", *(number(x) for x in xs)), lines)


# --- text


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in rows)


def text_table(results: Results, rows: Iterable[Row]) -> str:
    """For a terminal."""
    lines: list[str] = []
    for row in rows:
        result = results.rows[row.name]
        lines += ["", f"{row.name}: {row.title}"]
        for one in result.series:
            at = "" if one.x is None else f" at {number(one.x)}"
            spread = f"{number(one.quantile(0.25))} to {number(one.quantile(0.75))}"
            lines.append(f"  {one.who:<34.34} {one.what + at:<40.40} {number(one.median):>8} {one.unit:<8} {spread}")
        for target in row.targets:
            verdict = target.judge(result.series)
            lines.append(f"  {'reached' if verdict.met else 'MISSED '} {target.text}: {verdict.text}")
        if result.error:
            lines.append(f"  ENDED EARLY: {result.error}")
    return "\n".join(lines)


def main() -> int:
    from .runner import discover

    source, *page = map(Path, sys.argv[1:])
    write_page(Results.read(source), discover(), *page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
