"""What targets of rows say: judged from series, with the figures in the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .results import number
from .row import US, Series, Target, Verdict

Judge = Callable[[Sequence[Series]], Verdict]


def find(series: Sequence[Series], what: str, who: str = US) -> Series | None:
    """The series of a contestant whose name begins so: versions differ."""
    return next((one for one in series if one.what == what and one.who.startswith(who) and one.values), None)


def at_most(text: str, what: str, limit: float, share: float = 0.5) -> Target:
    """Our median, or the value that `share` of all do not exceed, is at most this (in the series' unit)."""
    return Target(text, _bound(what, limit, share, most=True))


def at_least(text: str, what: str, limit: float) -> Target:
    return Target(text, _bound(what, limit, 0.5, most=False))


def _bound(what: str, limit: float, share: float, most: bool) -> Judge:
    def judge(series: Sequence[Series]) -> Verdict:
        ours = find(series, what)
        if ours is None:
            return Verdict(False, "not measured")
        value = ours.median if share == 0.5 else ours.quantile(share)
        return Verdict(value <= limit if most else value >= limit, f"{number(value)} {ours.unit}")

    return judge


def times(text: str, what: str, most: float, of: str = "", than: str = US) -> Target:
    """The median of ours is at most so many times that of another: another thing (`of`), or another one's (`than`)."""

    def judge(series: Sequence[Series]) -> Verdict:
        ours, other = find(series, what), find(series, of or what, than)
        if ours is None or other is None:
            return Verdict(False, "not measured")
        ratio = ours.median / other.median
        return Verdict(ratio <= most, f"{number(ratio)} times")

    return Target(text, judge)


def reaches(text: str, what: str, least: float, than: str) -> Target:
    """Where more is better: the median of ours is at least this share of another's."""

    def judge(series: Sequence[Series]) -> Verdict:
        ours, other = find(series, what), find(series, what, than)
        if ours is None or other is None:
            return Verdict(False, "not measured")
        ratio = ours.median / other.median
        return Verdict(ratio >= least, f"{number(ratio)} of it")

    return Target(text, judge)
