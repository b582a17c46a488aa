"""A bridge that walks: holds `Flow`s and says where a frame goes, connection tracking included.

It judges the compiler and, fed with what a switch says that it holds, the switch (`verify.py`).  So it is written from
the manuals and from what Open vSwitch 3.1.0 with its userspace datapath was seen to do (a test compares the two),
never from the compiler.  What it does not know it refuses with `Unsupported`; what a real switch leaves open (two
different flows at one priority) with `Ambiguous`.

Edge: what `tracker.py` says of connections.  A fragment is a frame with `frag` set; reassembly is known only as far
as this: a later fragment waits at a commit until its connection exists.

Sources: ovs-actions(7) "ct", "resubmit", ovs-fields(7), ofproto/ofproto-dpif-xlate.c of Open vSwitch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from . import reserved
from .flow import (
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
from .tables import RULE
from .tracker import ICMP_PROTOCOLS, Connection, Frame, Tracked, Tuple, Unsupported, Zone, tuple_of

MAX_RECIRCULATIONS = 6  # lib/dpif-netdev.c, MAX_RECIRC_DEPTH
MAX_RESUBMITS = 64  # ofproto/ofproto-dpif-xlate.h, MAX_DEPTH


class Ambiguous(Exception):
    """Two flows of one priority match a frame and do different things."""


class Looped(Exception):
    """A frame went round: too many resubmits or recirculations, or back into the fabric that it came from."""


# --------------------------------------------------------------------------------------------- packets


@dataclass
class _Packet:
    """A frame on its way through the tables."""

    frame: Frame
    in_port: int
    registers: dict[str, int] = field(default_factory=dict)
    tracked: Tracked | None = None
    _fields: dict[str, int] = field(default_factory=dict, repr=False)  # of the frame, as they were asked for

    def value(self, name: str) -> int:
        if name == "in_port":
            return self.in_port
        if name.startswith("reg"):
            return self.registers.get(name, 0)
        if name == "pkt_mark":
            return 0  # a packet has none when it enters, and nothing here gives it one
        if name.startswith("ct_"):
            return self._tracked_value(name)
        found = self._fields.get(name)
        if found is None:
            found = self._fields[name] = self.frame.field(name)
        return found

    def _tracked_value(self, name: str) -> int:
        tracked = self.tracked
        if name not in ("ct_state", "ct_zone", "ct_mark", "ct_label"):
            raise Unsupported(f"match field {name}")
        return 0 if tracked is None else int(getattr(tracked, name.removeprefix("ct_")))

    def fork(self) -> _Packet:
        """The same packet; what becomes of the one does not change the other."""
        return replace(self, registers=dict(self.registers))

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
        return replace(self, frame=frame, _fields={})


class Pass(NamedTuple):
    """What a zone said of a packet."""

    zone: int
    state: int
    mark: int
    original: Tuple | None

    def __str__(self) -> str:
        words = "+".join(name for bit, name in _STATES.items() if self.state & bit)
        opened = f", opened by {self.original}" if self.original is not None else ""
        return f"    ct zone {self.zone}: {words}, mark {self.mark:#x}{opened}"


@dataclass(frozen=True)
class Walk:
    """Where a frame went: ports in order of output, and what it met on its way.

    A reserved port (`reserved.py`) stands for itself: whom NORMAL or FLOOD reach is not known here.
    """

    outputs: tuple[int, ...]
    steps: tuple[Flow | Pass | str, ...]

    @property
    def hits(self) -> tuple[Flow, ...]:
        return tuple(step for step in self.steps if isinstance(step, Flow))

    @property
    def trace(self) -> tuple[str, ...]:
        return tuple(map(str, self.steps))

    def __str__(self) -> str:
        return "\n".join((*self.trace, f"-> {list(self.outputs)}"))


class Bridge:
    """One bridge: flows, and the conntrack zones of its datapath."""

    def __init__(self) -> None:
        self.flows: dict[Key, Flow] = {}
        self.refusing: set[int] = set()  # zones that are full: new connections are not committed
        self._zones: dict[int, Zone] = {}
        self._tables: dict[int, _Table] | None = None  # made when first asked for

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

    def forget(self) -> None:
        """Flushes every zone."""
        self._zones.clear()

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
                raise Looped("\n".join(map(str, run.steps)))
            run.table(packet, table, depth=0)
        return Walk(tuple(run.outputs), tuple(run.steps))

    def zone(self, number: int) -> Zone:
        return self._zones.setdefault(number, Zone())

    def lookup(self, table: int, packet: _Packet) -> Flow | None:
        """The flow that a packet meets in a table."""
        for _, groups in self._table(table):
            found = []
            for signature, by_values in groups.items():
                flow = by_values.get(tuple(packet.value(name) & mask for name, mask in signature))
                if flow is not None:
                    found.append(flow)
            if found:
                if len({_effect(flow) for flow in found}) > 1:
                    raise Ambiguous("\n".join([repr(packet), *map(str, found)]))
                return found[0]
        return None

    def _table(self, number: int) -> _Table:
        """A table's flows by priority, the highest first."""
        if self._tables is None:
            self._tables = {}
            by_table: dict[int, dict[int, _Groups]] = {}
            for flow in self.flows.values():
                signature, values = _signature(flow.match)
                groups = by_table.setdefault(flow.table, {}).setdefault(flow.priority, {})
                groups.setdefault(signature, {})[values] = flow
            for table, by_priority in by_table.items():
                self._tables[table] = sorted(by_priority.items(), key=lambda entry: -entry[0])
        return self._tables.get(number, [])


# Flows of one priority whose matches look at the same bits are found by the values of those bits, as the tuple space
# search of OvS finds them; going through thousands of flows for each packet would take minutes.
_Signature = tuple[tuple[str, int], ...]
_Groups = dict[_Signature, dict[tuple[int, ...], Flow]]
_Table = list[tuple[int, _Groups]]


def _signature(match: Match) -> tuple[_Signature, tuple[int, ...]]:
    """The bits that a match looks at, and what they must be."""
    looks_at = tuple((term.name, -1 if term.mask is None else term.mask) for term in match.terms)
    return looks_at, tuple(term.value for term in match.terms)


def _effect(flow: Flow) -> tuple[Action, ...]:
    """What a flow does, less what is only written down: which of several rules admitted changes nothing."""
    return tuple(action for action in flow.actions if not (isinstance(action, Load) and action.to == RULE))


class _Run:
    """One frame's walk."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        self.outputs: list[int] = []
        self.steps: list[Flow | Pass | str] = []
        self.waiting: list[tuple[_Packet, int]] = []
        self.recirculations = 0

    def table(self, packet: _Packet, number: int, depth: int, ct: bool = False) -> None:
        if depth > MAX_RESUBMITS:
            raise Looped("\n".join(map(str, self.steps)))
        seen = packet.under_original() if ct else packet
        flow = self.bridge.lookup(number, seen) if seen is not None else None
        if flow is None:
            self.steps.append(f"table={number}: no flow, dropped")
            return
        self.steps.append(flow)
        for position, action in enumerate(flow.actions):
            match action:
                case Output(port=port):
                    self._output(packet, port)
                case Load() | Move() if action.to.name.startswith("reg"):
                    packet.registers[action.to.name] = _written(action, packet, packet.value(action.to.name))
                case Resubmit():
                    self.table(packet, action.table, depth + 1, action.ct)
                case Ct():
                    if position != len(flow.actions) - 1:
                        raise Unsupported(f"actions after ct: {flow}")
                    if self._track(packet, action):
                        self.waiting.append((packet.fork(), action.table))
                    # What is left to do after a nested table is done without what the tracker said.
                    packet.tracked = None
                case Note():
                    pass
                case _:
                    raise Unsupported(action.text)

    def _output(self, packet: _Packet, port: int) -> None:
        if port == reserved.IN_PORT:
            self.outputs.append(packet.in_port)
        elif port >= reserved.FIRST and port not in _REACHING:
            raise Unsupported(f"output to reserved port {port:#x}")
        elif port != packet.in_port:
            self.outputs.append(port)

    def _track(self, packet: _Packet, action: Ct) -> bool:
        """Passes a packet through a zone; whether it goes on."""
        frame = packet.frame
        if not frame.is_ip:
            raise Unsupported("ct of a packet that is not IP")
        number = _read(action.zone, packet)
        zone = self.bridge.zone(number)
        # State is kept from one pass through a zone to the next, and forgotten when another zone comes between.
        if packet.tracked is None or packet.tracked.zone != number:
            packet.tracked = zone.track(frame, number)
        tracked = packet.tracked
        if action.commit and not tracked.state & CT_INV:
            if tracked.connection is None and frame.frag == "later":
                self.steps.append(f"    ct zone {number}: waits for the first fragment")
                return False
            if tracked.connection is None and number not in self.bridge.refusing:
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
        self.steps.append(Pass(number, tracked.state, tracked.mark, tracked.original))
        return True


_REACHING = (reserved.NORMAL, reserved.FLOOD, reserved.ALL, reserved.CONTROLLER, reserved.LOCAL)
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
