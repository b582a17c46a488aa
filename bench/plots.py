"""Draws a `Plot` as a small SVG: one line for each contestant, its spread as a band, or bars where there is no axis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from .results import number
from .row import US, Plot, Series

# Okabe and Ito: told apart also by those who do not see red and green.  The first is ours.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
EDGE = "#555555"
DASHES = ("-", "--", ":", "-.")
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "bench",  # the same figures give the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "legend.frameon": False,
}


def draw(plot: Plot, series: Sequence[Series], path: Path) -> bool:
    """Whether there was anything to draw."""
    shown = [one for one in series if one.what in plot.what and one.values]
    if not shown:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    who = sorted({one.who for one in shown}, key=lambda name: (name != US, name))
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(6.2, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.set_title(plot.title, loc="left", fontsize=10)
        axes.set_xlabel(plot.x)
        axes.set_ylabel(plot.y)
        if any(one.x is not None for one in shown):
            _lines(axes, plot, shown, who)
        elif len(plot.what) == 1:
            _bars(axes, plot, shown, who)
        else:
            _groups(axes, plot, shown, who)
        if len(axes.get_legend_handles_labels()[0]) > 1:
            figure.legend(loc="outside lower center", ncols=2, fontsize=8)
        figure.savefig(path, metadata={"Date": None})
    return True


def _lines(axes: Axes, plot: Plot, shown: Sequence[Series], who: Sequence[str]) -> None:
    for place, name in enumerate(who):
        for dash, what in zip(DASHES, plot.what, strict=False):
            line = sorted((one for one in shown if one.who == name and one.what == what), key=lambda one: one.x or 0)
            points = [one for one in line if one.x is not None]
            if not points:
                continue
            xs = [one.x or 0.0 for one in points]
            label = name if len(plot.what) == 1 else f"{name}: {what}"
            axes.plot(xs, [one.median for one in points], dash, color=COLOURS[place % len(COLOURS)],
                      marker=MARKERS[place % len(MARKERS)], label=label)  # fmt: skip
            axes.fill_between(xs, [one.quantile(0.25) for one in points], [one.quantile(0.75) for one in points],
                              color=COLOURS[place % len(COLOURS)], alpha=0.15, linewidth=0)  # fmt: skip
    _scale(axes, plot)


def _bars(axes: Axes, plot: Plot, shown: Sequence[Series], who: Sequence[str]) -> None:
    """One thing that all of them did: a lying bar for each, beside its name."""
    order = sorted(shown, key=lambda one: who.index(one.who))
    colours = [COLOURS[who.index(one.who) % len(COLOURS)] for one in order]
    axes.barh(range(len(order)), [one.median for one in order], 0.6, xerr=_spread(order), color=colours, ecolor=EDGE)
    axes.set_yticks(range(len(order)), [one.who for one in order])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(plot.y)
    axes.set_ylabel(plot.x)
    if plot.log_y:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(_tick))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _groups(axes: Axes, plot: Plot, shown: Sequence[Series], who: Sequence[str]) -> None:
    """Several things: a group of bars for each."""
    width = 0.8 / len(who)
    for place, name in enumerate(who):
        found = [(at, one) for at, what in enumerate(plot.what) for one in shown if (one.who, one.what) == (name, what)]
        middle = (place - (len(who) - 1) / 2) * width
        series = [one for _, one in found]
        axes.bar([at + middle for at, _ in found], [one.median for one in series], width, yerr=_spread(series),
                 color=COLOURS[place % len(COLOURS)], ecolor=EDGE, label=name)  # fmt: skip
    axes.set_xticks(range(len(plot.what)), plot.what)
    axes.grid(visible=False, axis="x")
    _scale(axes, plot)


def _spread(series: Sequence[Series]) -> list[list[float]]:
    low = [max(0.0, one.median - one.quantile(0.25)) for one in series]
    return [low, [max(0.0, one.quantile(0.75) - one.median) for one in series]]


def _scale(axes: Axes, plot: Plot) -> None:
    """Marks are numbers as people write them; what is not logarithmic begins at 0."""
    if plot.log_x:
        axes.set_xscale("log")
    if plot.log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    for axis, is_log in ((axes.xaxis, plot.log_x), (axes.yaxis, plot.log_y)):
        if is_log:
            axis.set_major_formatter(FuncFormatter(_tick))
            axis.set_minor_formatter(NullFormatter())


def _tick(value: float, _place: int | None) -> str:
    return number(value)
