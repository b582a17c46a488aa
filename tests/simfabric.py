"""Hypervisors joined by their uplinks, each one a `Bridge` that walks.

Edge: the fabric is a hub, and the world outside is one host behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from firewall_app.pipeline.tracker import Frame
from firewall_app.pipeline.walker import Bridge, Looped, Walk


class Place(NamedTuple):
    """A switch port."""

    dpid: str
    port: int


@dataclass(frozen=True)
class Delivery:
    """Whom a frame reached: droplet ports, and whether it went out into the fabric; and how."""

    reached: tuple[Place, ...]
    outside: bool
    walks: tuple[Walk, ...]

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.walks)) + f"\nreached {list(self.reached)}, fabric: {self.outside}"


class SimFabric:
    """Switches joined by their uplinks, and the world outside.

    The fabric is a hub: what leaves one uplink arrives at all others and outside, as unknown unicast does in a real
    one.  So a hypervisor is also seen with frames that are not for it.
    """

    def __init__(self, switches: Mapping[str, Bridge], uplinks: Mapping[str, int]) -> None:
        self.switches = switches
        self.uplinks = uplinks

    def send(self, place: Place, frame: Frame) -> Delivery:
        """From a droplet port."""
        walk = self.switches[place.dpid].walk(place.port, frame)
        reached, out = self._split(place.dpid, walk)
        walks = [walk]
        if out:
            beyond = self.arrive(frame, skip=place.dpid)
            reached += beyond.reached
            walks += beyond.walks
        return Delivery(tuple(reached), out, tuple(walks))

    def arrive(self, frame: Frame, skip: str = "") -> Delivery:
        """From the world outside, or from the switch to skip."""
        reached: list[Place] = []
        walks = []
        for dpid, switch in self.switches.items():
            if dpid != skip and dpid in self.uplinks:
                walk = switch.walk(self.uplinks[dpid], frame)
                walks.append(walk)
                found, back = self._split(dpid, walk)
                if back:
                    raise Looped(str(walk))
                reached += found
        return Delivery(tuple(reached), False, tuple(walks))

    def _split(self, dpid: str, walk: Walk) -> tuple[list[Place], bool]:
        uplink = self.uplinks.get(dpid)
        reached = [Place(dpid, port) for port in walk.outputs if port != uplink]
        return reached, uplink in walk.outputs
