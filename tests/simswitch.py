"""A switch that walks: applies `Flow`s and says where a frame goes, connection tracking included.

It is the judge of the compiler, so it is written from the manuals and from what Open vSwitch 3.1.0 with its userspace
datapath was seen to do (`test_simswitch.py` compares the two), never from the compiler.  What it does not know it
refuses with `Unsupported`; what a real switch leaves open (two different flows at one priority) with `Ambiguous`.

Edge: what `simtrack.py` says of connections.  A fragment is a frame with `frag` set; reassembly is known only as far
as this: a later fragment waits at a commit until its connection exists.

Sources: ovs-actions(7) "ct", "resubmit", ovs-fields(7), ofproto/ofproto-dpif-xlate.c of Open vSwitch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from simtrack import ICMP_PROTOCOLS, Connection, Frame, Tracked, Unsupported, Zone, tuple_of

from firewall_app.pipeline.flow import (
    CT_EST,
    CT_INV,
    CT_NEW,
    CT_REL,
    CT_RPL,
    CT_TRK,
    FIELDS,
    Action,
    Bits,
    Ct,
    Flow,
    Key,
    Load,
    Match,
    Move,
    Note,
    Output,
    Resubmit,
)
from firewall_app.pipeline.tables import RULE

MAX_RECIRCULATIONS = 6  # lib/dpif-netdev.c, MAX_RECIRC_DEPTH
MAX_RESUBMITS = 64  # ofproto/ofproto-dpif-xlate.h, MAX_DEPTH


class Ambiguous(Exception):
    """Two flows of one priority match a frame and do different things."""


class Looped(Exception):
    """A frame went round: too many resubmits or recirculations, or back into the fabric that it came from."""


# --------------------------------------------------------------------------------------------- the switch


@dataclass
class _Packet:
    """A frame on its way through the tables."""

    frame: Frame
    in_port: int
    registers: dict[str, int] = field(default_factory=dict)
    tracked: Tracked | None = None

    def value(self, name: str) -> int:
        if name == "in_port":
            return self.in_port
        if name in ("reg1", "reg2", "reg3", "reg4", "reg5", "reg6", "reg7"):
            return self.registers.get(name, 0)
        if name == "ct_state":
            return self.tracked.state if self.tracked else 0
        if name == "ct_mark":
            return self.tracked.mark if self.tracked else 0
        if name == "ct_label":
            return self.tracked.label if self.tracked else 0
        return self.frame.field(name)

    def under_original(self) -> _Packet | None:
        """The packet as `resubmit(,t,ct)` looks it up; None when there is no tuple and the resubmit is left out."""
        tracked = self.tracked
        if tracked is None or tracked.state & CT_INV:
            raise Unsupported("resubmit(,,ct) of a packet without valid connection tracking")
        if self.frame.frag == "later":
            raise Unsupported("resubmit(,,ct) of a later fragment: versions differ in what they see")
        original = tracked.original
        if original is None or original.proto == 0:
            return None
        icmp = original.proto in ICMP_PROTOCOLS
        frame = replace(
            self.frame,
            src=original.src,
            dst=original.dst,
            proto=original.proto,
            sport=0 if icmp else original.sport,
            dport=0 if icmp else original.dport,
            icmp_type=original.sport if icmp else 0,
            icmp_code=original.dport if icmp else 0,
        )
        return replace(self, frame=frame)


@dataclass(frozen=True)
class Walk:
    """Where a frame went: ports in order of output, the flows it met, and all of it in words."""

    outputs: tuple[int, ...]
    hits: tuple[Flow, ...]
    trace: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join((*self.trace, f"-> {list(self.outputs)}"))


class SimSwitch:
    """One bridge: flows, and the conntrack zones of its datapath."""

    def __init__(self, name: str = "switch") -> None:
        self.name = name
        self.flows: dict[Key, Flow] = {}
        self.refusing: set[int] = set()  # zones that are full: new connections are not committed
        self._zones: dict[int, Zone] = {}
        self._tables: dict[int, list[tuple[int, list[Flow]]]] | None = None

    # ---- control

    def apply(self, delete: Iterable[Key], put: Iterable[tuple[Key, Flow]]) -> None:
        """One bundle, deletes first.  Deleting what is not there is a mistake of the caller and refused."""
        for key in delete:
            del self.flows[key]
        for key, flow in put:
            if key != flow.key:
                raise ValueError(f"{flow} put under {key}")
            self.flows[key] = flow
        self._tables = None

    def install(self, flows: Iterable[Flow]) -> None:
        """These flows and no others.  Two with one key are a mistake, unless both are the same."""
        new: dict[Key, Flow] = {}
        for flow in flows:
            if new.setdefault(flow.key, flow) != flow:
                raise ValueError(f"{flow} and {new[flow.key]} have one key")
        self.apply(list(self.flows), new.items())

    def flush(self, zone: int) -> None:
        self._zones.pop(zone, None)

    def connections(self, zone: int) -> int:
        return len(self._zones.get(zone, ()))

    def connection(self, zone: int, frame: Frame) -> Connection | None:
        """The connection that a frame belongs to."""
        own = tuple_of(frame)
        found = self._zones.get(zone)
        return found.find(own) if found is not None and own is not None else None

    # ---- packets

    def walk(self, in_port: int, frame: Frame) -> Walk:
        """Sends a frame into a port."""
        run = _Run(self)
        run.table(_Packet(frame, in_port), 0, depth=0)
        while run.waiting:
            packet, table = run.waiting.pop(0)
            run.recirculations += 1
            if run.recirculations > MAX_RECIRCULATIONS:
                raise Looped("\n".join(run.trace))
            run.table(packet, table, depth=0)
        return Walk(tuple(run.outputs), tuple(run.hits), tuple(run.trace))

    def zone(self, number: int) -> Zone:
        return self._zones.setdefault(number, Zone())

    def lookup(self, table: int, packet: _Packet) -> Flow | None:
        """The flow that a packet meets in a table."""
        for _, flows in self._sorted().get(table, ()):
            found = [flow for flow in flows if _matches(flow.match, packet)]
            if found:
                if len({_effect(flow) for flow in found}) > 1:
                    raise Ambiguous("\n".join([repr(packet), *map(str, found)]))
                return found[0]
        return None

    def _sorted(self) -> Mapping[int, list[tuple[int, list[Flow]]]]:
        """Flows by table and priority, the highest first."""
        if self._tables is None:
            groups: dict[int, dict[int, list[Flow]]] = {}
            for flow in self.flows.values():
                groups.setdefault(flow.table, {}).setdefault(flow.priority, []).append(flow)
            self._tables = {table: sorted(by.items(), reverse=True) for table, by in groups.items()}
        return self._tables


def _effect(flow: Flow) -> tuple[Action, ...]:
    """What a flow does, less what is only written down: which of several rules admitted changes nothing."""
    return tuple(action for action in flow.actions if not (isinstance(action, Load) and action.to == RULE))


def _matches(match: Match, packet: _Packet) -> bool:
    for name, value, mask in match.terms:
        if (packet.value(name) ^ value) & (mask if mask is not None else -1):
            return False
    return True


class _Run:
    """One frame's walk."""

    def __init__(self, switch: SimSwitch) -> None:
        self.switch = switch
        self.outputs: list[int] = []
        self.hits: list[Flow] = []
        self.trace: list[str] = []
        self.waiting: list[tuple[_Packet, int]] = []
        self.recirculations = 0

    def table(self, packet: _Packet, number: int, depth: int, ct: bool = False) -> None:
        if depth > MAX_RESUBMITS:
            raise Looped("\n".join(self.trace))
        seen = packet.under_original() if ct else packet
        flow = self.switch.lookup(number, seen) if seen is not None else None
        if flow is None:
            self.trace.append(f"{self.switch.name} table={number}: no flow, dropped")
            return
        self.hits.append(flow)
        self.trace.append(f"{self.switch.name} {flow.text}")
        for position, action in enumerate(flow.actions):
            match action:
                case Output(port=port):
                    if port >= 0xFF00:
                        raise Unsupported(f"output to reserved port {port:#x}")
                    if port != packet.in_port:
                        self.outputs.append(port)
                case Load() | Move() if action.to.name.startswith("reg"):
                    packet.registers[action.to.name] = _written(action, packet, packet.value(action.to.name))
                case Resubmit():
                    self.table(packet, action.table, depth + 1, action.ct)
                case Ct():
                    if position != len(flow.actions) - 1:
                        raise Unsupported(f"actions after ct: {flow}")
                    if self._track(packet, action):
                        self.waiting.append((packet, action.table))
                case Note():
                    pass
                case _:
                    raise Unsupported(action.text)

    def _track(self, packet: _Packet, action: Ct) -> bool:
        """Passes a packet through a zone; whether it goes on."""
        frame = packet.frame
        if not frame.is_ip:
            raise Unsupported("ct of a packet that is not IP")
        number = _read(action.zone, packet)
        zone = self.switch.zone(number)
        # State is kept from one pass through a zone to the next, and forgotten when another zone comes between.
        if packet.tracked is None or packet.tracked.zone != number:
            packet.tracked = zone.track(frame, number)
        tracked = packet.tracked
        if action.commit and not tracked.state & CT_INV:
            if tracked.connection is None and frame.frag == "later":
                self.trace.append(f"    ct zone {number}: waits for the first fragment")
                return False
            if tracked.connection is None and number not in self.switch.refusing:
                zone.commit(tracked)
            if tracked.connection is not None:
                for inner in action.exec:
                    if inner.to.name not in ("ct_mark", "ct_label"):
                        raise Unsupported(f"{inner.text} within ct")
                    kind = inner.to.name.removeprefix("ct_")
                    value = _written(inner, packet, getattr(tracked.connection, kind))
                    setattr(tracked.connection, kind, value)
        elif action.exec and not action.commit:
            raise Unsupported("exec without commit")
        words = [name for bit, name in _STATES.items() if tracked.state & bit]
        self.trace.append(f"    ct zone {number}: {'+'.join(words)}, mark {tracked.mark:#x}, {tracked.original}")
        return True


_STATES = {CT_NEW: "new", CT_EST: "est", CT_REL: "rel", CT_RPL: "rpl", CT_INV: "inv", CT_TRK: "trk"}


def _read(bits: Bits, packet: _Packet) -> int:
    return packet.value(bits.name) >> bits.first & (1 << bits.width) - 1


def _written(action: Load | Move, packet: _Packet, old: int) -> int:
    """The whole value of a field after some of its bits were written."""
    new = action.value if isinstance(action, Load) else _read(action.source, packet)
    to = action.to
    if to.last >= FIELDS[to.name].bits:
        raise Unsupported(to.text)
    return old & ~((1 << to.width) - 1 << to.first) | new << to.first


# --------------------------------------------------------------------------------------------- the fabric


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

    def __init__(self, switches: Mapping[str, SimSwitch], uplinks: Mapping[str, int]) -> None:
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
