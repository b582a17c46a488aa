"""One switch: read it back, compare with what it should hold, send the difference in one atomic bundle, confirm.

API model.  Events go in (`start`, `receive`, `policy_changed`, `resync`, `tick`), messages to send come out; `report`
says how the switch stands, `dead` that the connection is to be closed and why.  No socket, no clock, no thread: time is
an argument.

Design.  (1) The switch alone knows what it holds.  `_actual` is what was read back, changed only by what it confirmed.
(2) One path for first connect, reconnect, repair and change: `_compare`.  (3) A refused flow is noticed before the
commit, since a bundle is not poisoned by it: after the adds a barrier, and any error so far discards the bundle; the
switch keeps what it had.  (4) One bundle in flight; what happens meanwhile only marks the session dirty.
(5) When a comparison takes something away, the generation goes up in the same bundle (unit_host.py, Generation).
(6) A switch that holds a policy which ours does not descend from is read and nothing else (`_fenced`, history.py).
(7) What goes to a switch that holds nothing of ours needs no comparison: it is rendered and sent part by part (`fill`),
so that the switch takes in one part while the next is made.  It is one bundle all the same.

Sources: OpenFlow 1.4.0, 6.9 (bundles) and 7.3.9; the connect sequence of docs/architecture.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum, auto
from typing import Any, NamedTuple
from zlib import crc32

from ..history import History, Point
from ..pipeline.diff import Desired, Difference, difference
from ..pipeline.tables import (
    BY_ID,
    COOKIE_MASK,
    KIND_MASK,
    MAGIC,
    RULES,
    Kind,
    cookie,
    cookie_parts,
)
from ..pipeline.unit import TURNS, Fence, Generation, PickUp, PortProtection, Turn, Unit, UnitKey, next_generation
from ..policy.model import mac_number
from ..progress import Drift, SwitchReport, Sync, Wanted
from . import wire
from .held import (
    FENCE_KEY,
    Foreign,
    Owner,
    asks_for_no_less,
    fence_of,
    generation_of,
    held_in,
    is_ours,
    is_unread,
    judges,
    owners_of,
    slots_of,
    text_of,
    turn_of,
)
from .questions import ROLE, Questions
from .rendering import Body, Key, render

LAST_THAT_REMEMBERS = (3, 1)  # the newest release of which it is known (docs/decisions/0017)
OLDEST = (2, 8)  # the first Open vSwitch with resubmit(,table,ct)
FRAGMENTS_NX_MATCH = 3  # OFPC_FRAG_NX_MATCH: a first fragment keeps its ports, a later one has none
RETRY_FIRST, RETRY_MOST = 5.0, 300.0  # seconds until a refused change is tried again
MOST_PORTS = 1 << 16  # of one switch; OpenFlow numbers no more in Open vSwitch
MOST_ERRORS = 10  # that no message of ours explains
GENERATION: UnitKey = ("generation", "")
TURN: UnitKey = ("turn", "")
FENCE: UnitKey = ("fence", "")
MOST_TOLD = 20  # flows of one repair that are told
DRIFT_PAUSE = 1.0  # seconds at least between two readings because of what others do to the flows
PART = 1000  # flows of one part of a first load, or a few more: it takes the switch as long as us, some 5 ms
UNITS = 100  # that are rendered until it is looked how many flows that makes

Plan = Callable[[Mapping[int, str]], Wanted]


@dataclass(frozen=True)
class Moment:
    """When something happens: seconds of a clock that only goes forward, and the time of day."""

    seconds: float
    wall: datetime


class Decision(NamedTuple):
    """What the log should have a line of, with its fields; `serious` is for what an operator must look at."""

    event: str
    fields: dict[str, Any]
    serious: bool = False


class State(Enum):
    READING = auto()  # asked for version, ports, role and flows
    IDLE = auto()  # nothing in flight
    ADDING = auto()  # a bundle is being filled; the barrier is on its way
    COMMITTING = auto()
    UNFIT = auto()  # a switch that we cannot drive: left alone


class Session:
    """The conversation with one connected switch."""

    def __init__(  # noqa: PLR0915 - one line for each thing that is known of a switch
        self, dpid: str, version: int, plan: Plan, history: Callable[[], History], now: Moment,
        address: str | None = None, *,
        reply_timeout: float = 30, audit_interval: float = 300, pickup_grace: int = 0,
        forget_cached: bool | None = None, token: int | None = 1,
    ) -> None:  # fmt: skip
        """`history`: of the policy in force, without what a plan costs."""
        self.dpid = dpid
        self.token = token  # of the lease, with which we ask for the master role; None: we stand by
        self.dead: str | None = None
        self.reads = 0  # how many times the switch was read back to the end
        self.flows_read: tuple[wire.RawFlow, ...] = ()  # the last reading, when it was asked to be kept
        self.drift: list[Drift] = []  # what others were found to have done since the link looked last
        self.changes: list[str | Decision] = []  # what was decided since the link looked last, one line each
        self.counted: dict[int, tuple[int, int]] | None = None  # rule id -> packets, bytes; once they were read
        self.report = SwitchReport(
            Sync.SYNCING, address=address, connected_since=now.wall, openflow={4: "1.3", 5: "1.4"}[version]
        )
        self._version = version
        self._plan = plan
        self._history = history
        self._audit_interval = audit_interval
        self._pickup_grace = pickup_grace
        self._forget_cached = forget_cached  # None: by the switch's version
        self._state = State.READING
        self._asked = Questions(reply_timeout)
        self._bundle = 0
        self._discard: int | None = None  # the xid of the last; a switch that has forgotten the bundle refuses it
        self._unexplained = 0  # errors
        self._dirty = False
        self._more = False
        self._ports_moved = False  # since the last comparison: what is in flight is not for the ports that there are
        self._resync = False
        self._audit_at = 0.0
        self._interfaces: dict[int, str] = {}
        self._ports_read: dict[int, str] = {}
        self._reading: list[wire.RawFlow] = []
        self._flows_asked = False
        self._counters: dict[int, tuple[int, int]] = {}
        self._actual: dict[Key, Body] = {}
        self._desired: Desired[Key, Body] = Desired(render)
        self._to_come: dict[UnitKey, Unit] = {}  # what the plan has told of, and `_desired` does not have yet
        self._look_at: set[Key] | None = None  # keys that may differ; None: all
        self._owners_meant: frozenset[Owner] = frozenset()  # whose zones should be in use
        self._owners: frozenset[Owner] = frozenset()  # whose zones are in use on the switch
        self._keep_flows = False
        self._auditing = False  # comparing with a fresh reading of a switch that was in step
        self._repairing: tuple[Drift, ...] = ()  # what the bundle in flight puts right that someone else did
        self._repaired = 0  # how many flows that is
        self._lost_role = False  # another controller is master: the role is to be asked for again
        self._confirmed_at: Point | None = None  # of which policy `report.confirmed` is the revision
        self._monitor: int | None = None  # xid of the request to be told of what others do
        self._foreign: frozenset[tuple[int, int, int, bytes]] = frozenset()  # flows of others in our tables
        self._drifted = False  # somebody has changed a flow of ours; to be read when it is time
        self._drift_at = -DRIFT_PAUSE
        self._master = False  # whether the switch has given us the role
        self._in_bundle: Difference[Key, Body] | None = None
        self._bundle_owners: frozenset[Owner] = frozenset()
        self._point = Point(0, -1)  # of the bundle in flight
        self._added: dict[int, Key] = {}  # xid of an add -> its flow
        self._errors: list[wire.Error] = []
        self._retry_at: float | None = None
        self._retry_after = RETRY_FIRST

    @property
    def unfit(self) -> bool:
        """Whether this is a switch that we cannot drive; `report.error` says why."""
        return self._state is State.UNFIT

    @property
    def _ports(self) -> int:
        return max(len(self._interfaces), len(self._ports_read))

    @property
    def behind(self) -> bool:
        """Whether something has changed and nothing in flight leads to it: for `policy_changed`, when there is time."""
        return self._dirty and self._state is State.IDLE

    @property
    def flow_count(self) -> int:
        """How many flows are kept of what the switch has told."""
        return len(self._reading) + len(self._actual)

    @property
    def to_compare(self) -> int:
        """How many flows the next comparison looks at, beside those that the plan changes."""
        return len(self._reading) + (len(self._desired) if self._look_at is None else len(self._look_at))

    @property
    def filling(self) -> bool:
        """Whether there is more to be put into the bundle in flight: `fill`."""
        return self._state is State.ADDING and bool(self._to_come)

    @property
    def counting(self) -> bool:
        """Whether counters were asked for, and the switch has not told all of them."""
        return self._asked.counting is not None

    def let_go(self) -> None:
        """The switch is gone: what was known of its flows is freed now, and not when a cycle of garbage is found."""
        self._actual, self._desired, self._reading, self.flows_read = {}, Desired(render), [], ()
        self._in_bundle, self._added, self._look_at, self._to_come = None, {}, None, {}

    def compares(self, data: bytes) -> bool:
        """Whether a message may be the one that a comparison waits for."""
        return self._state is not State.READING or (self._flows_asked and self._asked.is_last(data))

    # ---- events

    def start(self, now: Moment) -> list[bytes]:
        """The switch has connected."""
        return self._read(now, everything=True)

    def stand_by(self, now: Moment) -> list[bytes]:
        """The lease is another's: from here on nothing is changed on the switch."""
        self.token = None
        return self._anew(now)

    def lead(self, token: int, now: Moment) -> list[bytes]:
        """The lease is ours: the switch is taken over."""
        self.token = token
        return self._anew(now)

    def policy_changed(self, now: Moment) -> list[bytes]:
        """What the switch should hold may have changed."""
        self._dirty = True
        return self._compare(now) if self._state is State.IDLE else []

    def resync(self, now: Moment, keep_flows: bool = False) -> list[bytes]:
        """Read the flows back and repair what differs; with `keep_flows`, `flows_read` is what was found."""
        self._keep_flows = self._keep_flows or keep_flows
        if self._state is State.IDLE:
            return self._read(now, everything=False)
        self._resync = self._state is not State.UNFIT
        return []

    def count(self) -> list[bytes]:
        """Asks what the flows of rules have counted, whatever else is in flight; `counted` has it in the end."""
        if self._asked.counting is not None:
            return []  # it is being told
        self._asked.counting, self._counters, self.counted = self._asked.next_xid(), {}, None
        return [wire.flow_stats_request(self._version, self._asked.counting, cookie(Kind.RULE), KIND_MASK, RULES.id)]

    @property
    def due(self) -> float | None:
        """When `tick` has something to do, in seconds; None: not before something else happens."""
        times = [self._asked.deadline]
        if self._state is State.IDLE:
            times.append(self._retry_at)
        if self.token is not None and not self._lost_role:
            times.append(self._drift_at + DRIFT_PAUSE if self._drifted else None)
            times.append(self._audit_at if self._state is State.IDLE and self._audit_interval else None)
        return min((time for time in times if time is not None), default=None)

    def tick(self, now: Moment) -> list[bytes]:
        """Time has passed; call when it is `due`, or more often."""
        if self._asked.deadline is not None and now.seconds > self._asked.deadline:
            asked = ", ".join(sorted(set(self._asked.open.values())))
            self.dead = f"no answer to {asked} within {self._asked.timeout:g} s"
        elif self._state is State.IDLE and self._retry_at is not None and now.seconds >= self._retry_at:
            self._retry_at = None
            everything, self._lost_role = self._lost_role, False
            return self._read(now, everything)
        elif self.token is None:
            return []  # what a switch holds is the active controller's to look after
        elif self._drifted:
            return self._on_drift(now)
        elif self.behind:
            return self._compare(now)
        elif self._state is State.IDLE and self._audit_interval and now.seconds >= self._audit_at:
            return self._read(now, everything=False)
        return []

    def receive(self, data: bytes, now: Moment, more: bool = False) -> list[bytes]:
        """One whole message from the switch; a malformed one ends the session.

        `more`: others have come already; what ports do in all of them is compared at once, after the last (`behind`).
        """
        self._more = more
        try:
            message = wire.decode(data)
        except wire.DecodeError as error:
            self.dead = f"malformed message: {error}"
            return []
        if self._state is State.UNFIT:
            return []
        problem = self._out_of_turn(message, len(data))
        if problem is not None:
            self.dead = problem
            return []
        match message:
            case wire.Error():
                return self._on_error(message, now)
            case wire.PortStatus():
                return self._on_port(message, now)
            case wire.DescReply():
                return self._on_version(message, now)
            case wire.PortDescReply():
                if message.xid not in self._asked.open:
                    return []
                self._ports_read |= {port.number: port.name for port in message.ports}
                if message.more:
                    return []
                self._interfaces, self._ports_read = self._ports_read, {}
            case wire.RoleReply():
                return self._on_role(message, now)
            case wire.RoleStatus():
                return self._on_role_status(message, now)
            case wire.FlowStatsReply() if message.xid == self._asked.counting:
                self._on_counters(message)
                return []
            case wire.FlowStatsReply():
                if message.xid in self._asked.open:
                    self._reading += message.flows
                if message.more:
                    return []
            case wire.FlowMonitorReply():
                if message.xid == self._monitor:
                    self.report = replace(self.report, watched=True)
                if any(self._concerns(update) for update in message.updates):
                    return self._on_drift(now)
                return []
            case wire.BarrierReply():
                if self._state is State.ADDING and self._asked.answered(message.xid):
                    return self._commit_or_discard(now)
            case wire.BundleReply():
                if message.kind == wire.BUNDLE_COMMIT and self._asked.answered(message.xid):
                    return self._committed(now)
                return []
            case _:
                return []
        return self._answered(message.xid, now)

    def _out_of_turn(self, message: wire.Message, size: int) -> str | None:
        """Why a message cannot be part of this conversation; None when it can.

        A switch that answers what it was not asked, or without end, does not hold what we think: a new connection
        begins anew.
        """
        if isinstance(message, wire.PortStatus | wire.PortDescReply) and self._ports > MOST_PORTS:
            return f"it has more than {MOST_PORTS} ports"
        return self._asked.fault(message, size)

    # ---- reading

    def _anew(self, now: Moment) -> list[bytes]:
        """As after a connect.  What was in flight is forgotten: a bundle without its commit is, by the switch, too."""
        if self._state is State.UNFIT:
            return []
        self._in_bundle, self._added, self._errors = None, {}, []
        self._lost_role = False
        self._retry_at, self._retry_after = None, RETRY_FIRST
        self._repairing = ()
        return self._read(now, everything=True)

    def _read(self, now: Moment, everything: bool) -> list[bytes]:
        self._state = State.READING
        self._resync = False
        self._reading, self._flows_asked = [], False
        self._asked.give_up()
        if everything:
            self._master = False
            return [
                wire.desc_request(self._version, self._ask("its version", now)),
                wire.port_desc_request(self._version, self._ask("its ports", now)),
            ]
        return self._ask_flows(now)

    def _ask_flows(self, now: Moment) -> list[bytes]:
        self._flows_asked = True
        # Those of others, too: in our tables they can let pass what the policy forbids.
        asked = [wire.flow_stats_request(self._version, self._ask("its flows", now))]
        # It has no reply, and anyone may change it: said with each reading, it is wrong no longer than a flow is.
        return [*self._set_fragments(), *asked] if self._master else asked

    def _set_fragments(self) -> list[bytes]:
        return [wire.set_config(self._version, self._asked.next_xid(), FRAGMENTS_NX_MATCH, 128)]

    def _answered(self, xid: int, now: Moment) -> list[bytes]:
        self._asked.open.pop(xid, None)
        if self._state is not State.READING or self._asked.open:
            return []
        self._asked.deadline = None
        if not self._flows_asked and self.token is not None:
            return self._take_over(now)
        if not self._flows_asked:
            self._state = State.IDLE
            return self._compare(now)
        # Those that connected together are not audited together: the first audit of each comes a little sooner.
        share = crc32(self.dpid.encode()) / 2**33 if self.reads == 0 else 0
        self._audit_at = now.seconds + self._audit_interval * (1 - share)
        found, self._reading = self._reading, []
        self.reads += 1
        self.flows_read = tuple(f for f in found if is_ours(f) or f.table in BY_ID) if self._keep_flows else ()
        self._keep_flows = False
        self._actual, foreign = held_in(found)
        self._look_at_foreign(foreign, now)
        self._auditing = self.reads > 1
        self._look_at = None
        # What we knew stays known: a flow that someone deleted by hand takes no connection out of its zone.
        self._owners |= owners_of(flow for flow in found if is_ours(flow))
        self._state = State.IDLE
        return self._compare(now)

    def _look_at_foreign(self, flows: Foreign, now: Moment) -> None:
        """What others have in our tables is theirs, and left alone; that it is there is told, once."""
        new = [flow for name, flow in flows.items() if name not in self._foreign]
        self._foreign = frozenset(flows)
        self.report = replace(self.report, foreign_flows=len(flows))
        if new:
            told = [text_of(Key(f.table, f.priority, f.match), Body(f.cookie, f.instructions)) for f in new[:MOST_TOLD]]
            self.drift += [Drift(now.wall, "foreign", text) for text in told]
            said = {"count": len(new), "flow": told[0]}
            self.changes.append(Decision("flows of others in tables of the firewall", said, serious=True))

    def _on_counters(self, message: wire.FlowStatsReply) -> None:
        found = self._counters
        for flow in message.flows:
            kind, rule_id = cookie_parts(flow.cookie) or (None, 0)
            if kind is Kind.RULE and flow.table == RULES.id:
                packets, size = found.get(rule_id, (0, 0))
                found[rule_id] = packets + flow.packets, size + flow.byte_count
        if not message.more:
            self._asked.counting, self._counters, self.counted = None, {}, found

    def _on_version(self, message: wire.DescReply, now: Moment) -> list[bytes]:
        """Nothing is asked to change of a switch that we cannot drive."""
        if message.xid not in self._asked.open:
            return []
        self.report = replace(self.report, software=f"{message.hardware} {message.software}".strip())
        found = re.match(r"(\d+)\.(\d+)", message.software)
        release = (int(found[1]), int(found[2])) if found else (0, 0)
        if self._forget_cached is None:
            self._forget_cached = release <= LAST_THAT_REMEMBERS
        if message.hardware != "Open vSwitch" or release < OLDEST:
            self._state, self._asked.deadline = State.UNFIT, None
            wanted = ".".join(map(str, OLDEST))
            why = f"Open vSwitch {wanted} or newer is needed; this is {self.report.software!r}"
            self.report = replace(self.report, sync=Sync.FAILED, error=why)
            self.changes.append(why)
            return []
        if self.token is None:
            return self._ask_role(now) + self._answered(message.xid, now)
        xid = self._ask("its fence", now)
        fence = FENCE_KEY
        out = [wire.flow_stats_request(self._version, xid, MAGIC << 48, COOKIE_MASK, fence.table, fence.match)]
        return out + self._answered(message.xid, now)

    def _take_over(self, now: Moment) -> list[bytes]:
        """To be its master, unless somebody whom our store does not know has given it a policy; and what it holds.

        The role is theirs then: by our token, which may be greater, we would shut them out.
        """
        found, self._reading = self._reading, []
        held = fence_of({Key(f.table, f.priority, f.match): Body(f.cookie, f.instructions) for f in found})
        out = []
        if held is None or self._history().knows(held):
            out = [
                *self._ask_role(now),
                *self._set_fragments(),
                wire.barrier(self._version, self._ask("a barrier", now)),
            ]
        # Before the flows are read, so that no change falls between; a switch that cannot do it says so by an error.
        # Once for a connection: Open vSwitch answers a second request in OpenFlow 1.0.
        if self._monitor is None and self.report.watched is None:
            self._monitor = self._asked.next_xid()
            out.append(wire.flow_monitor_request(self._version, self._monitor))
        return out + self._ask_flows(now)

    def _ask_role(self, now: Moment, anew: bool = False) -> list[bytes]:
        """To be master by our token.  To be slave, or to learn why not master, what is in force is asked first."""
        role = wire.ROLE_NO_CHANGE if self.token is None or anew else wire.ROLE_MASTER
        return [wire.role_request(self._version, self._ask(ROLE, now), role, 0 if anew else self.token or 0)]

    def _on_role(self, message: wire.RoleReply, now: Moment) -> list[bytes]:
        if message.xid not in self._asked.open:
            return []
        out = []
        if self.token is None and message.role != wire.ROLE_SLAVE:
            # With the generation that is in force: a greater one would shut out the active controller.
            generation = 0 if message.generation_id == wire.NO_GENERATION else message.generation_id
            out.append(wire.role_request(self._version, self._ask(ROLE, now), wire.ROLE_SLAVE, generation))
        elif self.token is not None and message.role != wire.ROLE_MASTER:
            return self._outbid(message.generation_id, now)
        self._master = message.role == wire.ROLE_MASTER
        return out + self._answered(message.xid, now)

    def _on_role_status(self, message: wire.RoleStatus, now: Moment) -> list[bytes]:
        """Another controller was given the role that was ours; in OpenFlow 1.3 only the next change would tell."""
        if self.token is None or message.role == wire.ROLE_MASTER or self._lost_role:
            return []  # or it is known, however often it is said
        return self._outbid(message.generation_id, now)

    def _outbid(self, generation: int, now: Moment) -> list[bytes]:
        """Another controller is master by a greater token: this one changes nothing, says so, and asks again."""
        why = f"another connection is master with generation {generation}, ours is {self.token}: nothing is changed"
        if why != self.report.error:
            self.changes.append(Decision("outbid", {"error": why}, serious=True))
        self.report = replace(self.report, sync=Sync.FAILED, confirmed=-1, error=why)
        self._state = State.IDLE
        self._asked.give_up()
        self._in_bundle, self._added, self._errors = None, {}, []
        self._lost_role = True
        self._try_later(now)
        return self._compare(now)

    def _on_port(self, message: wire.PortStatus, now: Moment) -> list[bytes]:
        number, name = message.port.number, message.port.name
        same = self._interfaces.get(number) == (None if message.reason == wire.PORT_DELETE else name)
        for known in (self._interfaces, self._ports_read):  # of a list in several parts the rest may be on its way
            if message.reason == wire.PORT_DELETE:
                known.pop(number, None)
            else:
                known[number] = name
        if same:
            return []  # a link went up or down: no flow depends on it
        self._dirty = self._ports_moved = True
        if self._more:
            return []
        if self.reads:  # before, nothing was said of any port
            # Whatever is in flight was not made for these ports: until it is looked at again, nothing is confirmed.
            self.report = replace(self.report, sync=Sync.SYNCING, confirmed=-1, interfaces=dict(self._interfaces))
        return self.policy_changed(now)

    def _on_drift(self, now: Moment) -> list[bytes]:
        """Somebody has changed a flow of ours: a reading tells what."""
        if self.token is None or self._lost_role:
            return []  # it was the one whose turn it is
        self._drifted = now.seconds - self._drift_at < DRIFT_PAUSE
        if self._drifted:
            return []  # `tick` comes back to it: who changes flows all the time does not keep us busy
        self._drift_at = now.seconds
        return self.resync(now)

    def _concerns(self, update: wire.FlowUpdate) -> bool:
        """Whether a change by others is about a flow of ours, or one in our tables."""
        parts = cookie_parts(update.cookie)
        if update.cookie >> 48 == MAGIC:
            return parts is None or parts[0] is not Kind.PICKUP
        return update.table in BY_ID

    # ---- comparing and changing

    def _compare(self, now: Moment) -> list[bytes]:
        """Sends what makes the switch hold what it should; nothing to send is a confirmation too."""
        self._dirty = False
        if self.token is None:
            self.report = replace(
                self.report, sync=Sync.STANDBY, confirmed=-1, error=None, interfaces=dict(self._interfaces)
            )
        if self.token is None or self._lost_role:
            return self._read(now, everything=False) if self._resync or self._keep_flows else []
        history, cut, moved = self._follow()
        if self._confirmed_at is not None and not history.knows(self._confirmed_at):
            # The store has become another one: what its revisions were says nothing of what they are.
            self.report, self._confirmed_at = replace(self.report, confirmed=-1), None
        held = fence_of(self._actual)
        if held is not None and self._master and self._confirmed_at is not None and is_unread(self._actual):
            held = None  # the note was ours, and nobody was master since: somebody has changed it by hand
        if held is not None and not history.knows(held):
            return self._fenced(held, history.point, now)
        if self.report.fence is not None:
            self.changes.append(Decision("fence lifted", {"revision": self.report.fence.revision}))
            self.report = replace(self.report, fence=None)
            return self._read(now, everything=True)  # and become its master again
        if not self._master:
            return self._read(now, everything=True)
        return self._follow_up(history, cut, held or history.point, moved, now)

    def _follow_up(self, history: History, cut: int, noted: Point, moved: set[Key], now: Moment) -> list[bytes]:
        """Sends what differs.  `noted`: the point that the switch has a note of; see `_follow` for the others."""
        revision = history.revision
        generation = self._desired.unit(GENERATION)
        fresh = not self._actual and not isinstance(generation, Generation)  # no connection has our generation yet
        if not isinstance(generation, Generation):
            generation = Generation(generation_of(self._actual) or int(now.wall.timestamp()) & 0x7FFFFFFF or 1)
        turn = self._desired.unit(TURN)
        if not isinstance(turn, Turn):
            turn = Turn(turn_of(self._actual))
        marks: dict[UnitKey, Unit] = {GENERATION: generation, FENCE: Fence(*noted)}
        if self._forget_cached:
            marks[TURN] = turn
        touched = self._desired.change(marks)
        looked = None if self._look_at is None else self._look_at | touched
        changes = difference(self._desired, self._actual, looked)
        # After a reading one cannot know what was there before: what someone took away may have admitted a connection.
        unknown = self._look_at is None and not fresh and bool(changes)
        wrong = changes
        # Every change since the last confirmed one asked to leave live connections alone.
        kept = cut <= self.report.confirmed < revision
        marks = {}
        if unknown or (not kept and changes.takes_away(judges, asks_for_no_less)):
            marks[GENERATION] = Generation(next_generation(generation.number))
        if changes and self._forget_cached:
            marks[TURN] = Turn((turn.number + 1) % TURNS)
        if changes:
            marks[FENCE] = Fence(*history.point)
            touched = self._desired.change(marks)
            changes = changes.without(touched) + difference(self._desired, self._actual, touched)
        if self._look_at is None:
            self._actual = self._desired.known(self._actual)
        self._look_at, self._ports_moved = set(), False
        self.report = replace(self.report, interfaces=dict(self._interfaces))
        if not changes:
            self._owners = self._owners_meant
            return self._confirm(history.point, now, changes)
        # The same revision once more, and yet there is something to do that ports are not the reason of: someone else
        # has changed the switch.
        self._repairing = ()
        if self._auditing and revision == self.report.confirmed:
            wrong = wrong.without(moved)
            self._repairing = self._told(wrong, now)
            self._repaired = len(wrong.delete) + len(wrong.put)
        return self._send(changes, history.point, self._owners_meant, now)

    def _follow(self) -> tuple[History, int, set[Key]]:
        """What is meant becomes that of the newest policy and of the ports that there are.

        Returns whose policy it is, what cuts live connections, and the keys that another flow may be meant for now.
        """
        history, units, cut, gone = self._plan(self._interfaces)
        if gone is None:  # those are all there are
            gone = self._desired.units.keys() - units.keys() - {GENERATION, TURN, FENCE}
        else:
            units = {name: unit for name, unit in self._to_come.items() if name not in gone} | units
        touched: set[Key] = set()
        self._to_come = {}
        if self._actual or self._desired.units:
            touched = self._desired.change(units, gone)
        else:  # nothing to compare with: they are rendered as they are sent
            self._to_come = dict(units)
        if self._look_at is not None:
            self._look_at |= touched
        if any(name[0] == "protection" for names in (units, gone) for name in names):
            self._owners_meant = frozenset(
                Owner(unit.slot, mac_number(unit.mac))
                for unit in (self._to_come or self._desired.units).values()
                if isinstance(unit, PortProtection) and unit.tracked
            )
        return history, cut, touched

    def _fenced(self, held: Point, ours: Point, now: Moment) -> list[bytes]:
        """Somebody has given the switch a policy that ours does not descend from: it is left as it is."""
        first, was_master = self.report.fence != held, self._master
        self._auditing = self._master = False
        unread = is_unread(self._actual)
        why = (
            f"fenced: the switch holds {'a note that cannot be read, taken for ' if unread else ''}"
            f"revision {held.revision} of timeline {held.name}, which this controller's store"
            f" (revision {ours.revision} of timeline {ours.name}) does not descend from: an older backup was restored,"
            " the store was lost, or another controller drives the switch. Nothing is changed on it until an operator"
            f" confirms (POST /v1/fences/{held.name}/confirm)"
        )
        self.report = replace(
            self.report, sync=Sync.FAILED, confirmed=-1, failed=ours.revision, error=why, fence=held,
            flows=len(self._actual), interfaces=dict(self._interfaces),
        )  # fmt: skip
        self._look_at, self._retry_at = None, None
        if not first:
            return self._next(now)
        self.changes.append(Decision("fenced", {"revision": ours.revision, "error": why}, serious=True))
        if not was_master:
            return self._next(now)
        # Whoever gave it that policy may go on: we are not its master.
        role = wire.role_request(self._version, self._asked.next_xid(), wire.ROLE_EQUAL)
        self._asked.give_up()  # its answer
        return [role, *self._next(now)]

    def _told(self, wrong: Difference[Key, Body], now: Moment) -> tuple[Drift, ...]:
        """What somebody else has done, for people: the first of it."""
        replaced = {key: old for key, old, _ in wrong.replaced}
        found = [("added", key, self._actual[key]) for key in wrong.delete]
        found += [
            ("changed" if key in replaced else "removed", key, replaced.get(key, body)) for key, body in wrong.put
        ]
        return tuple(Drift(now.wall, what, text_of(key, body)) for what, key, body in found[:MOST_TOLD])

    def _send(self, changes: Difference[Key, Body], point: Point, owners: frozenset[Owner], now: Moment) -> list[bytes]:
        version, self._state, revision = self._version, State.ADDING, point.revision
        self._in_bundle, self._point, self._bundle_owners = changes, point, owners
        self._added, self._errors = {}, []
        self._asked.give_up()
        self._bundle = self._bundle % 0xFFFFFFFF + 1
        # Work at a revision that was confirmed already: until it is done, nothing of this switch is known to be right.
        known = self.report.confirmed if revision > self.report.confirmed else -1
        self.report = replace(self.report, sync=Sync.SYNCING, confirmed=known)
        out = []
        # The connection state of a slot's last owner must not serve the next.  A switch without any flow of ours has
        # been restarted: its connections, if the kernel kept them, are those of the slots' present owners.
        new = slots_of(owners - self._owners)
        if self._actual:
            out += [wire.ct_flush_zone(version, self._asked.next_xid(), slot) for slot in new]
        out.append(wire.bundle_open(version, self._asked.next_xid(), self._bundle))
        for key in changes.delete:
            out.append(self._add(wire.DELETE_STRICT, key, None))
        for slot in new if self._pickup_grace else ():
            out += [self._add(wire.ADD, key, body, self._pickup_grace) for key, body in render(PickUp(slot))]
        return out + self._adds(changes.put) + self.fill(now)

    def fill(self, now: Moment) -> list[bytes]:
        """What goes into the bundle next; after the last of it a barrier."""
        assert self._in_bundle is not None  # noqa: S101 - it is being filled
        put: list[tuple[Key, Body]] = []
        while self._to_come and len(put) < PART:
            units = dict(self._to_come.popitem() for _ in range(min(UNITS, len(self._to_come))))
            # A flow that units of two parts want is sent with each, the second time as it is to be.
            put += [(key, self._desired.flows[key]) for key in self._desired.change(units)]
        out = self._adds(put)
        self._in_bundle += Difference((), tuple(put), ())
        if not self._to_come:
            self._to_come = {}  # what was in it is gone, but not the room for it
            out.append(wire.barrier(self._version, self._ask("a bundle", now)))
        return out

    def _adds(self, put: Sequence[tuple[Key, Body]]) -> list[bytes]:
        xids = self._asked.next_xids(len(put))
        self._added.update(zip(xids, (key for key, _ in put), strict=True))
        return list(wire.bundle_adds(self._version, self._bundle, xids, put))

    def _add(self, command: int, key: Key, body: Body | None, hard_timeout: int = 0) -> bytes:
        xid = self._asked.next_xid()
        self._added[xid] = key
        message = wire.raw_flow_mod(
            self._version, xid, command, key.table, key.priority, match=key.match,
            instructions=body.instructions if body else b"", cookie=body.cookie if body else MAGIC << 48,
            cookie_mask=0 if body else COOKIE_MASK, hard_timeout=hard_timeout,
        )  # fmt: skip
        return wire.bundle_add(self._version, self._bundle, message)

    def _commit_or_discard(self, now: Moment) -> list[bytes]:
        if self._errors:
            self._discard = self._asked.next_xid()
            out = [wire.bundle_discard(self._version, self._discard, self._bundle)]
            return out + self._refused(now)
        self._state = State.COMMITTING
        return [wire.bundle_commit(self._version, self._ask("a commit", now), self._bundle)]

    def _committed(self, now: Moment) -> list[bytes]:
        changes = self._in_bundle
        assert changes is not None  # noqa: S101 - a commit was asked for, so there was a bundle
        for key in changes.delete:
            self._actual.pop(key, None)
        self._actual.update(changes.put)
        if self._foreign:
            put = {key for key, _ in changes.put}
            self._foreign = frozenset(name for name in self._foreign if Key(*name[1:]) not in put)
            self.report = replace(self.report, foreign_flows=len(self._foreign))
        # Of a slot that changed hands also what its former owner opened while the bundle was on its way.
        gone = slots_of(self._owners - self._bundle_owners)
        out = [wire.ct_flush_zone(self._version, self._asked.next_xid(), slot) for slot in gone]
        self._owners = self._bundle_owners
        return out + self._confirm(self._point, now, changes)

    def _confirm(self, point: Point, now: Moment, changes: Difference[Key, Body]) -> list[bytes]:
        if changes:
            counts = {"deleted": len(changes.delete), "added": len(changes.put), "flows": len(self._desired)}
            self.changes.append(Decision("change in force", {"revision": point.revision, **counts}))
        elif point.revision > self.report.confirmed:  # whoever follows a request by the log is to find its end
            self.changes.append(Decision("in step", {"revision": point.revision, "flows": len(self._desired)}))
        self._state, self._asked.deadline, self._in_bundle, self._added = State.IDLE, None, None, {}
        self._retry_at, self._retry_after = None, RETRY_FIRST
        drift, self._repairing, self._auditing = self._repairing, (), False
        repaired = self._repaired if drift else 0
        if drift:
            self.drift += drift
            first = f"{drift[0].what} {drift[0].flow}"
            self.changes.append(Decision("repaired what others did", {"flows": repaired, "first": first}, serious=True))
        self._confirmed_at = point
        sync, confirmed = (Sync.SYNCING, -1) if self._ports_moved else (Sync.IN_SYNC, point.revision)
        self.report = replace(
            self.report, sync=sync, confirmed=confirmed, error=None, flows=len(self._actual),
            last_change_at=now.wall if changes else self.report.last_change_at,
            last_repair_at=now.wall if repaired else self.report.last_repair_at,
            repaired_flows=self.report.repaired_flows + repaired,
        )  # fmt: skip
        return self._next(now)

    def _next(self, now: Moment) -> list[bytes]:
        if self._resync:
            return self._read(now, everything=False)
        return self._compare(now) if self._dirty else []

    def _on_error(self, error: wire.Error, now: Moment) -> list[bytes]:
        if error.xid == self._discard:
            return []
        if error.xid == self._asked.counting:
            self._asked.counting = None
            return []
        if error.xid == self._monitor:
            self._monitor = None
            self.report = replace(self.report, watched=False)
            self.changes.append(f"it does not tell what others do ({error.text}): that is found by audits")
            return []
        if self._asked.is_stale(error.xid):
            return []
        asked = self._asked.open.get(error.xid)
        if error.xid in self._added or (self._state is State.ADDING and asked is None):
            self._note(error)
            return []
        if self._state is State.COMMITTING:
            # Two errors tell of a refused commit: one names the flow, the other the commit itself.
            self._note(error)
            if asked is not None:
                return self._refused(now)
            return []
        if asked == ROLE and "STALE" in error.text:
            del self._asked.open[error.xid]
            return self._ask_role(now, anew=True)
        if asked is not None:
            self.dead = f"{error.text} in answer to {asked}"
        elif self._unexplained == MOST_ERRORS:
            self.dead = f"{MOST_ERRORS} errors that nothing explains; the last: {error.text}"
        else:
            self._unexplained += 1
            self.changes.append(f"unexpected error {error.text}")
        return []

    def _note(self, error: wire.Error) -> None:
        """Keeps an error about the bundle: the first that names a flow of it, else the first."""
        if not self._errors or (error.xid in self._added and self._errors[0].xid not in self._added):
            self._errors = [error]

    def _refused(self, now: Moment) -> list[bytes]:
        """The switch said no: it keeps what it had; what it said is told, and the change is tried again later."""
        error = self._errors[0]
        key = self._added.get(error.xid)
        words = f"{error.text}: {text_of(key, self._desired.get(key))}" if key is not None else error.text
        refused = {"revision": self._point.revision, "error": words}
        self.changes.append(Decision("change refused", refused, serious=True))
        self.report = replace(self.report, sync=Sync.FAILED, failed=self._point.revision, error=words)
        self._state, self._in_bundle, self._added = State.IDLE, None, {}
        self._asked.give_up()
        self._look_at = None
        self._lost_role = "IS_SLAVE" in error.text
        self._try_later(now)
        return self._next(now)

    def _try_later(self, now: Moment) -> None:
        self._retry_at = now.seconds + self._retry_after
        self._retry_after = min(RETRY_MOST, self._retry_after * 2)

    def _ask(self, what: str, now: Moment) -> int:
        return self._asked.ask(what, now.seconds)
