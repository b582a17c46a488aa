"""`Fleet`: simulated hypervisors that follow a policy, as `openflow/session.py` makes real ones follow it.

For each hypervisor it keeps what the switch should hold, sends the difference, raises the generation exactly when
the difference takes something away, and flushes the conntrack zones of slots that left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from simfabric import Delivery, Place, SimFabric

from firewall_app.pipeline.compile import Rulings, ports_here
from firewall_app.pipeline.diff import Desired, Difference, difference
from firewall_app.pipeline.flow import Flow, Key
from firewall_app.pipeline.plan import units
from firewall_app.pipeline.tables import BY_ID, asks_no_less
from firewall_app.pipeline.tracker import Frame
from firewall_app.pipeline.unit import Generation, Unit, UnitKey, next_generation
from firewall_app.pipeline.walker import Bridge
from firewall_app.policy.model import Port
from firewall_app.policy.policy import Policy

GENERATION = ("generation", "")


def render(unit: Unit) -> Iterator[tuple[Key, Flow]]:
    """A unit's flows by their key."""
    return ((flow.key, flow) for flow in unit.flows())


def judges(key: Key) -> bool:
    """Whether a flow that goes away may forbid something."""
    return BY_ID[key.table].judges


def lists_no_less(key: Key, old: Flow, new: Flow) -> bool:
    return asks_no_less(key.table, old.actions, new.actions)


class Member:
    """One hypervisor of the fleet: its switch, and what that should hold."""

    def __init__(self, dpid: str, interfaces: Mapping[int, str]) -> None:
        self.dpid = dpid
        self.interfaces = interfaces
        self.switch = Bridge()
        self.desired: Desired[Key, Flow] = Desired(render)
        self.generation = 0
        self.slots: frozenset[int] = frozenset()
        self.last: Difference[Key, Flow] = Difference((), (), ())

    def follow(self, policy: Policy, rulings: Rulings) -> frozenset[int]:
        """Makes the switch follow a policy; returns the zones that were flushed."""
        wanted: dict[UnitKey, Unit] = units(policy, self.dpid, self.interfaces, rulings)
        if self.generation:
            wanted[GENERATION] = Generation(self.generation)
        keys = self.desired.update(wanted)
        change = difference(self.desired, self.switch.flows, keys)
        if not self.generation or change.takes_away(judges, lists_no_less):
            self.generation = next_generation(self.generation)
            keys |= self.desired.change({GENERATION: Generation(self.generation)})
            change = difference(self.desired, self.switch.flows, keys)
        self.switch.apply(change.delete, change.put)
        self.last = change
        slots = frozenset(port.slot for port, _ in ports_here(policy, self.dpid, self.interfaces))
        gone, self.slots = self.slots - slots, slots
        for slot in gone:
            self.switch.flush(slot)
        return gone


@dataclass(frozen=True)
class Site:
    """The hardware: which switch ports each hypervisor has, and which of them is its uplink."""

    interfaces: Mapping[str, Mapping[int, str]]
    uplinks: Mapping[str, int]


class Fleet:
    """All hypervisors of a site."""

    def __init__(self, site: Site, rulings: Rulings) -> None:
        self.rulings = rulings
        self.members = {dpid: Member(dpid, interfaces) for dpid, interfaces in site.interfaces.items()}
        self.fabric = SimFabric({dpid: member.switch for dpid, member in self.members.items()}, site.uplinks)
        self.policy = Policy()

    def follow(self, policy: Policy) -> set[tuple[str, int]]:
        """Makes every switch follow a policy; returns the zones that were flushed, with their hypervisor."""
        self.policy = policy
        return {(dpid, slot) for dpid, member in self.members.items() for slot in member.follow(policy, self.rulings)}

    def place(self, port: Port) -> Place | None:
        """Where a droplet port is plugged in; None when its interface is not there."""
        member = self.members.get(port.hypervisor)
        if member is None:
            return None
        here = {found.id: number for found, number in ports_here(self.policy, member.dpid, member.interfaces)}
        return Place(member.dpid, here[port.id]) if port.id in here else None

    def send(self, sender: Port | None, frame: Frame) -> Delivery:
        """From a droplet port, or from the world outside (None)."""
        if sender is None:
            return self.fabric.arrive(frame)
        place = self.place(sender)
        assert place is not None, f"{sender.id} is not plugged in"
        return self.fabric.send(place, frame)
