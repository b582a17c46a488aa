"""A session and a simulated switch with a faulty wire between them, and packets walked after every message.

The switch is a `FakeSwitch` whose flows a `Bridge` walks.  What a policy means for a packet is asked of `decide`; at
every moment the switch must do what the policy before or the policy after means, so that what both forbid never passes
and what both allow always does.  Edge: whole messages; half ones never reach either side (test_faults_ovs.py has them).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache

from fakeswitch import FakeSwitch
from policies import DPID

from firewall_app.history import beginning
from firewall_app.openflow import wire
from firewall_app.openflow.held import fence_of, generation_of, turn_of
from firewall_app.openflow.rendering import Body, Key, render
from firewall_app.openflow.session import Moment, Session, State
from firewall_app.openflow.wire import RawFlow, decode_flow
from firewall_app.pipeline import probes
from firewall_app.pipeline.compile import Rulings
from firewall_app.pipeline.flow import Flow
from firewall_app.pipeline.plan import units
from firewall_app.pipeline.probes import Case, Wiring, frame_of
from firewall_app.pipeline.tracker import ACK, PSH, SYN, Frame, Zone
from firewall_app.pipeline.unit import Fence, Generation, Turn, Unit, UnitKey
from firewall_app.pipeline.walker import Bridge
from firewall_app.policy.decide import Packet, Verdict, decide
from firewall_app.policy.policy import Policy
from firewall_app.progress import Sync, Wanted

EPOCH = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PORTS = {1: "up0", 2: "tap101", 3: "tap102"}
CASES = 40  # opening packets that are walked in each state that a switch is ever in
REPLY_TIMEOUT, AUDIT_INTERVAL = 30.0, 300.0


class Lost(Exception):
    """The connection has ended."""


class What(Enum):
    CUT = "cut"  # the connection ends instead of the message
    HOLE = "hole"  # nothing in this direction arrives any more, and nobody is told
    STALL = "stall"  # this and what follows comes late
    DROP = "drop"  # the message alone is lost: TCP does not do that, so only the end is looked at


@dataclass(frozen=True)
class Fault:
    """At message `k` (from 0) of a direction."""

    what: What
    to_switch: bool
    k: int

    def __str__(self) -> str:
        return f"{self.what.value}, message {self.k} {'to' if self.to_switch else 'from'} the switch"


# --------------------------------------------------------------------------------------------- what is meant


def wiring(policy: Policy) -> Wiring:
    """What is plugged in where, as far as a policy knows."""
    numbers = {name: number for number, name in PORTS.items()}
    return Wiring({port.id: numbers[port.interface] for port in policy.ports.values()}, (1,))


def meant(policy: Policy, packet: Packet, opening: Packet | None = None) -> tuple[int, ...]:
    """The switch ports that a packet is to reach."""
    if packet.sender is not None and packet.sender not in policy.ports:
        return ()  # what nobody registered reaches nobody
    if packet.receiver is not None and packet.receiver not in policy.ports:
        packet = replace(packet, receiver=None)  # for all that we know it is elsewhere
        if packet.sender is None:
            return ()
    if decide(policy, packet, opening).verdict is Verdict.DROP:
        return ()
    return (wiring(policy).droplets[packet.receiver],) if packet.receiver is not None else (1,)


def cases(*policies: Policy) -> tuple[Case, ...]:
    """Opening packets at the edges of each of the policies."""
    found: dict[Case, None] = {}
    for policy in policies:
        found |= dict.fromkeys(probes.sample(probes.blocks(policy, wiring(policy)), CASES, seed=1))
    return tuple(found)


def _kind(case: Case) -> object:
    """Cases that are alike in this need not all become connections."""
    return case.source.ofport, case.target.ofport, case.service.protocol


@cache
def _flow(key: Key, body: Body) -> Flow:
    return decode_flow(RawFlow(key.table, key.priority, body.cookie, key.match, body.instructions, 0, 0, 0))


class Judge:
    """Says whether a switch does what one of two policies means; remembers the states that it has seen."""

    def __init__(self, before: Policy | None, after: Policy) -> None:
        """`before` None: a switch that holds nothing, where nothing passes."""
        self.policies = (before, after)
        self.cases = cases(*(policy for policy in self.policies if policy is not None))
        stays = {case: bool(meant(after, case.packet)) for case in self.cases}
        allowed = {
            (_kind(case), stays[case]): case for case in self.cases if before is not None and meant(before, case.packet)
        }
        self.connections = tuple(allowed.values())  # those that are open when the fault comes
        self.walked = 0
        self._units: dict[tuple[int, tuple[tuple[int, str], ...]], dict[UnitKey, Unit]] = {}
        self._bridges: dict[frozenset[tuple[Key, Body]], Bridge] = {}
        self._verdicts: dict[tuple[int, bool], str | None] = {}

    def units(self, policy: Policy, interfaces: Mapping[int, str]) -> dict[UnitKey, Unit]:
        known = (id(policy), tuple(interfaces.items()))
        if known not in self._units:
            self._units[known] = units(policy, DPID, interfaces, Rulings())
        return self._units[known]

    def flows(self, held: dict[Key, Body]) -> dict[Key, Body]:
        """The flows that the policy after means; what numbers the changes is taken from those that a switch holds."""
        marks = [Generation(generation_of(held) or 0), Turn(turn_of(held)), Fence(*(fence_of(held) or (0, 0)))]
        return dict(entry for unit in [*self.units(self.policies[1], PORTS).values(), *marks] for entry in render(unit))

    def bridge(self, held: dict[Key, Body]) -> Bridge:
        """A bridge with these flows; for all who hold them, so that each sets the connections that are his."""
        state = frozenset(held.items())
        if state not in self._bridges:
            self._bridges[state] = Bridge()
            self._bridges[state].install(_flow(key, body) for key, body in state)
        return self._bridges[state]

    def wrong(self, bridge: Bridge, settled: bool) -> str | None:
        """The first opening packet that goes wrong there; `settled`: the policy after is to hold, and no other."""
        if (id(bridge), settled) not in self._verdicts:
            self._verdicts[id(bridge), settled] = self._walk(bridge, settled)
        return self._verdicts[id(bridge), settled]

    def _walk(self, bridge: Bridge, settled: bool) -> str | None:
        bridge._zones = {}
        for case in self.cases:
            bridge.forget()
            self.walked += 1
            problem = self.judged(case.packet, None, bridge.walk(case.source.ofport, case.frame).outputs, settled)
            if problem is not None:
                return f"{problem} ({case.why})"
        return None

    def judged(
        self, packet: Packet, opening: Packet | None, reached: tuple[int, ...], settled: bool = False
    ) -> str | None:
        """What is wrong with a packet's having reached these ports."""
        policies = self.policies[1:] if settled else self.policies
        right = [() if policy is None else meant(policy, packet, opening) for policy in policies]
        if reached in right:
            return None
        return f"{packet} reached {reached}, and not one of {right}"


@dataclass(frozen=True)
class Connection:
    """A connection that was opened under the policy before."""

    case: Case

    def packets(self) -> Iterable[tuple[Packet, int, Frame]]:
        """A packet in the middle of it each way: the packet, where it comes in, its frame."""
        opening, source, target = self.case.packet, self.case.source, self.case.target
        reply = opening.reply()
        yield opening, source.ofport, frame_of(opening, source.mac, target.mac, ACK | PSH)
        yield reply, target.ofport, frame_of(reply, target.mac, source.mac, ACK | PSH, answer=True)


# --------------------------------------------------------------------------------------------- the talk


class Talk:
    """A switch and, one after the other, the sessions that it has; time stands still unless moved."""

    def __init__(self, before: Policy | None, after: Policy, judge: Judge) -> None:
        self.switch = FakeSwitch(ports=dict(PORTS))
        self.zones: dict[int, Zone] = {}
        self.judge = judge
        self.policy, self.history, self.seconds = before or after, beginning(), 0.0
        self.watched = False  # whether packets are walked after each message
        self.fault: Fault | None = None
        self.counts = {True: 0, False: 0}
        self._connections: list[Connection] = []
        self._late: list[tuple[bool, bytes]] = []
        self._after = after
        self._seen: object = None

    # ---- before the fault

    def connect(self) -> None:
        """A session of its own for a new connection; the one before, if any, is over."""
        self.switch._bundle = []  # a connection's bundles end with it
        self.switch.role = wire.ROLE_EQUAL
        self._late = []
        self.session = Session(
            DPID,
            5,
            self._plan,
            lambda: self.history,
            self.now,
            "test",
            reply_timeout=REPLY_TIMEOUT,
            audit_interval=AUDIT_INTERVAL,
        )
        self._exchange([(True, data) for data in self.session.start(self.now)])

    def open_connections(self) -> None:
        """Opens each connection that the policy allows; they are there when the fault comes."""
        bridge = self._walked()
        for case in self.judge.connections:
            answer = frame_of(case.packet.reply(), case.target.mac, case.source.mac, SYN | ACK, answer=True)
            if bridge.walk(case.source.ofport, case.frame).outputs:
                bridge.walk(case.target.ofport, answer)
                self._connections.append(Connection(case))

    def watch(self, fault: Fault | None) -> None:
        """From now on messages are counted and packets walked, and this fault comes."""
        self.watched = fault is None or fault.what is not What.DROP
        self.fault, self.counts = fault, {True: 0, False: 0}

    # ---- the fault

    def change(self) -> None:
        """The policy after, while connected."""
        self.change_while_away()
        self._exchange([(True, data) for data in self.session.policy_changed(self.now)])

    def change_while_away(self) -> None:
        self.policy = self._after
        self.history = self.history.after(self.history.point._replace(revision=self.history.revision + 1))

    def recover(self) -> None:
        """What the world does after a fault: time passes, and a connection that ended is made anew."""
        fault, self.fault = self.fault, None
        if fault is not None and fault.what is What.STALL:
            self.seconds += REPLY_TIMEOUT / 2
            self._exchange(self._late)
        elif fault is not None and fault.what is not What.CUT:
            awaiting = self.session._state is not State.IDLE
            self._pass(REPLY_TIMEOUT + 1)
            assert (self.session.dead is not None) == awaiting, self.session.dead
            if fault.what is What.DROP and not awaiting:
                self._pass(AUDIT_INTERVAL)  # what nobody answers is found missing by the next reading
            else:
                self.connect()  # an answer that never came, or the rim's echo, ended it
        else:
            self.connect()

    # ---- after it

    def settled(self) -> None:
        """The switch holds exactly what the policy after means, and the session knows it."""
        report = self.session.report
        assert (report.sync, report.confirmed, self.session.dead) == (Sync.IN_SYNC, self.history.revision, None)
        assert self.switch.flows == self.judge.flows(self.switch.flows)
        assert self.switch.config == 3
        assert self.switch.role == 2
        self.look(settled=True)

    def look(self, settled: bool = False) -> None:
        """Walks what there is to walk, if the switch would treat it otherwise than the last time."""
        seen = (self.switch.commits, settled)
        if seen == self._seen and not self.switch.flushed:
            return
        self._seen = seen
        problem = self.judge.wrong(self.judge.bridge(self.switch.flows), settled)
        assert problem is None, problem
        bridge = self._walked()
        for connection in self._connections:
            for packet, ofport, frame in connection.packets():
                reached = bridge.walk(ofport, frame).outputs
                problem = self.judge.judged(packet, connection.case.packet, reached, settled)
                assert problem is None, f"in the middle of a connection: {problem}"

    # ---- inside

    @property
    def now(self) -> Moment:
        return Moment(self.seconds, EPOCH + timedelta(seconds=self.seconds))

    def _walked(self) -> Bridge:
        """The switch as packets meet it, with the connections that are open."""
        for zone in self.switch.flushed:
            self.zones.pop(zone, None)
        self.switch.flushed.clear()
        bridge = self.judge.bridge(self.switch.flows)
        bridge._zones = self.zones
        return bridge

    def _plan(self, interfaces: dict[int, str]) -> Wanted:
        return Wanted(self.history, self.judge.units(self.policy, interfaces))

    def _pass(self, seconds: float) -> None:
        self.seconds += seconds
        self._exchange([(True, data) for data in self.session.tick(self.now)])

    def _exchange(self, waiting: list[tuple[bool, bytes]]) -> None:
        """Carries messages, each with whether it goes to the switch, until both are silent or the connection ends."""
        waiting = list(waiting)
        while (waiting or self.session.filling) and self.session.dead is None:
            waiting = waiting or [(True, data) for data in self.session.fill(self.now)]
            to_switch, data = waiting.pop(0)
            try:
                arrives = self._carried(to_switch, data)
            except Lost:
                return
            if arrives and to_switch:
                waiting += [(False, answer) for answer in self.switch.answer(data)]
                if self.watched:
                    self.look()
            elif arrives:
                waiting += [(True, answer) for answer in self.session.receive(data, self.now)]

    def _carried(self, to_switch: bool, data: bytes) -> bool:
        """Whether a message arrives now.  Raises Lost when the connection ends instead."""
        count = self.counts[to_switch]
        self.counts[to_switch] += 1
        fault = self.fault
        if fault is None or fault.to_switch is not to_switch or count < fault.k:
            return True
        if fault.what is What.CUT:
            raise Lost
        if fault.what is What.STALL:
            self._late.append((to_switch, data))
        return fault.what is What.DROP and count > fault.k
