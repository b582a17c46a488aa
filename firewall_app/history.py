"""Which states of the policy a store descends from, so that a switch that holds something else is not touched.

A store can be lost, restored from a backup, or be another one than before.  Revisions alone do not tell: ten changes
after an old backup was restored, its revision is above that of a switch which holds what the backup never had.  So
whoever writes to a store does it on a *timeline* of its own, a random number (PostgreSQL's timelines are the same
thought: continuous archiving, "Timelines"), and a *point* is a revision on a timeline.  A switch keeps the point of the
policy that it last got (unit_host.py, Fence).

Pure: values.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

TIMELINE_BITS = 63


class Point(NamedTuple):
    """A state of the policy: the revision, and the timeline on which it was written."""

    timeline: int
    revision: int

    @property
    def name(self) -> str:
        """The timeline as people see it."""
        return f"{self.timeline:016x}"


@dataclass(frozen=True)
class History:
    """What a store descends from.

    `starts`: for each timeline in turn the first revision that was written on it; a timeline may come back.
    `superseded`: timelines of others, and up to which revision of them an operator has said that this store goes first.
    """

    revision: int
    starts: tuple[Point, ...]
    superseded: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def point(self) -> Point:
        """The newest state."""
        return self.at(self.revision)

    def at(self, revision: int) -> Point:
        """The state at one of this store's revisions."""
        found = bisect_right(self.starts, revision, key=lambda start: start.revision)
        return Point(self.starts[max(found - 1, 0)].timeline, revision)

    def knows(self, point: Point) -> bool:
        """Whether what a switch got then may be replaced: this store descends from it, or goes first."""
        if point.revision == 0:  # nothing of anybody's
            return True
        if point.revision <= self.revision and self.at(point.revision) == point:
            return True
        return self.superseded.get(point.timeline, -1) >= point.revision

    def after(self, point: Point) -> History:
        """With one more state, the newest."""
        starts = self.starts if point.timeline == self.point.timeline else (*self.starts, point)
        return replace(self, revision=point.revision, starts=starts)

    def superseding(self, point: Point) -> History:
        """With one more timeline that this store goes before."""
        revision = max(point.revision, self.superseded.get(point.timeline, -1))
        return replace(self, superseded=MappingProxyType({**self.superseded, point.timeline: revision}))


def beginning(timeline: int = 1, revision: int = 0) -> History:
    """The history of a store that has never been another."""
    return History(revision, (Point(timeline, 0),))
