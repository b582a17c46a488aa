"""Draws a `Plot` as a small SVG: one line for each contestant, its spread as a band, or bars where there is no axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

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
        else:
            _ranking(axes, plot, shown, who)
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
    _scale(axes, plot, shown)


def _ranking(axes: Axes, plot: Plot, shown: Sequence[Series], who: Sequence[str]) -> None:
    """Who did it how fast: a bar for each beside its name, or a point where the axis has no 0 for a bar to begin at."""
    found = {(one.who, one.what): one for one in shown}
    order = sorted(who, key=lambda name: min(one.median for one in shown if one.who == name))
    high = 0.8 / len(plot.what)
    for place, what in enumerate(plot.what):
        label: str | None = what
        for row, name in enumerate(order):
            if (one := found.get((name, what))) is None:
                continue
            at = row + (place - (len(plot.what) - 1) / 2) * high
            colour = COLOURS[place if len(plot.what) > 1 else name != US]
            spread = _spread(one)
            if plot.log_y:
                axes.errorbar(one.median, at, xerr=spread, fmt=MARKERS[place], color=colour, ecolor=EDGE, label=label)
            else:
                axes.barh(at, one.median, high * 0.8, xerr=spread, color=colour, ecolor=EDGE, label=label)
            label = None
            end = one.quantile(0.75) if len(one.values) > 1 else one.median
            axes.annotate(number(one.median), (end, at), xytext=(5, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(len(order) - 0.4, -0.6)  # the fastest above
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(plot.y)
    axes.set_ylabel(plot.x)
    axes.margins(x=0.12)
    if plot.log_y:
        _logarithmic(axes.set_xscale, axes.xaxis, [one.median for one in shown])
    else:
        axes.set_xlim(left=0)


def _spread(one: Series) -> list[list[float]]:
    return [[max(0.0, one.median - one.quantile(0.25))], [max(0.0, one.quantile(0.75) - one.median)]]


def _scale(axes: Axes, plot: Plot, shown: Sequence[Series]) -> None:
    """What is not logarithmic begins at 0; sizes are marked where something was measured."""
    if plot.log_y:
        _logarithmic(axes.set_yscale, axes.yaxis, [one.median for one in shown])
    else:
        axes.set_ylim(bottom=0)
    if plot.log_x:
        xs = sorted({one.x for one in shown if one.x})
        _logarithmic(axes.set_xscale, axes.xaxis, xs)
        axes.xaxis.set_major_locator(FixedLocator(xs))


def _logarithmic(scale: Callable[[str], None], axis: Axis, values: Sequence[float]) -> None:
    """Marks are numbers as people write them; within a decade or two also at 2 and 5."""
    scale("log")
    narrow = max(values) < 50 * min(values)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_formatter(NullFormatter())
