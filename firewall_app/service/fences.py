"""Fences: switches that hold a policy which our store does not descend from, and the operator's word to go on.

What a fence is: `history.py`, and docs/operations.md.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from ..history import Point
from ..policy.errors import Invalid, NotFound
from ..records import Outcome
from .core import Core
from .describe import Json


@dataclass(frozen=True)
class Fence:
    """A timeline of another store, the newest revision of it that a switch holds, and the switches that hold it."""

    point: Point
    hypervisors: tuple[str, ...]


def every(core: Core) -> list[Fence]:
    """Those that hold up a switch, by timeline.

    While a registered one holds a timeline, nobody else who claims to hold it has a say in what is confirmed.
    """
    registered = core.policy.hypervisors
    held: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for dpid, report in core.progress.reports.items():
        if report.fence is not None and not core.history.knows(report.fence):
            held[report.fence.timeline][dpid] = report.fence.revision
    fences = []
    for number, found in sorted(held.items()):
        ours = {dpid: revision for dpid, revision in found.items() if dpid in registered} or found
        fences.append(Fence(Point(number, max(ours.values())), tuple(sorted(ours))))
    return fences


def confirm(core: Core, name: str, revision: int) -> Fence:
    """Lifts a fence: what switches hold of a timeline up to a revision may be replaced by our policy.

    Raises NotFound for a timeline that no switch holds; Invalid for another revision than the newest that one holds:
    whoever confirms is to have seen what is given up.
    """
    with core.alone() as deed:
        fence = next((fence for fence in every(core) if fence.point.name == name), None)
        if fence is None:
            raise NotFound(f"no hypervisor is fenced by timeline {name}")
        if revision != fence.point.revision:
            raise Invalid.one("revision", f"is {revision}; a hypervisor holds revision {fence.point.revision}")
        core.supersede(fence.point, deed, deed.ended(Outcome.DONE, changes=(_change(fence),)))
    return fence


def _change(fence: Fence) -> Json:
    held = {"timeline": fence.point.name, "revision": fence.point.revision, "hypervisors": list(fence.hypervisors)}
    return {"kind": "fence", "id": fence.point.name, "before": held, "after": None}
