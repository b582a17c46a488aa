"""`SimHost`: a simulated hypervisor with a real session, whose ports come and go while messages are on their way.

The session is the real one and speaks bytes with a `FakeSwitch`; the core is a real one with a store in memory; what
the switch holds is decoded from those bytes and walked.  Nothing is delivered until somebody says `pass_on`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache

from fakeswitch import FakeSwitch, port_status

from firewall_app.openflow import wire
from firewall_app.openflow.rendering import Body, Key
from firewall_app.openflow.session import Moment, Session
from firewall_app.pipeline.flow import Flow
from firewall_app.pipeline.walker import Bridge
from firewall_app.service.core import Core
from firewall_app.service.planning import Planning

EPOCH = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@lru_cache(100_000)
def _flow(key: Key, body: Body) -> Flow:
    return wire.decode_flow(wire.RawFlow(key.table, key.priority, body.cookie, key.match, body.instructions, 0, 0, 0))


@dataclass
class Switch(FakeSwitch):
    """A `FakeSwitch` that forwards: its flows as a `Bridge`, flushed when it is told to."""

    bridge: Bridge = field(default_factory=Bridge)

    def answer(self, data: bytes) -> list[bytes]:
        commits, flushed = self.commits, len(self.flushed)
        answers = super().answer(data)
        for zone in self.flushed[flushed:]:
            self.bridge.flush(zone)
        if self.commits != commits:
            self.load()
        return answers

    def load(self) -> None:
        self.bridge.install(_flow(key, body) for key, body in self.flows.items())


class SimHost:
    """What `service.core.Switch` promises, and the switch itself."""

    def __init__(self, core: Core, dpid: str, ports: dict[int, str]) -> None:
        self.core, self.dpid = core, dpid
        self.switch = Switch(ports=dict(ports))
        self.session: Session | None = None
        self.plan: Planning | None = None
        self.to_controller: deque[bytes] = deque()
        self.seconds = 0.0

    @property
    def now(self) -> Moment:
        return Moment(self.seconds, EPOCH)

    # ---- the connection

    def connect(self) -> None:
        self.to_controller.clear()
        if self.plan is not None:
            self.core.end_plan(self.plan)
        self.plan = self.core.plan(self.dpid)
        self.session = Session(self.dpid, 5, self.plan, lambda: self.core.history, self.now, audit_interval=0)
        self.core.connected(self.dpid, self)
        self._send(self.session.start(self.now))

    def disconnect(self) -> None:
        """The switch keeps its flows, and drops a bundle that was not committed; what it said last is lost."""
        self.session = None
        if self.plan is not None:
            self.core.end_plan(self.plan)
            self.plan = None
        self.to_controller.clear()
        self.core.disconnected(self.dpid, self)

    def pass_on(self, messages: int) -> None:
        """The controller gets so many of the messages that the switch has sent; the switch gets all at once."""
        for _ in range(min(messages, len(self.to_controller))):
            assert self.session is not None
            self._send(self.session.receive(self.to_controller.popleft(), self.now))

    def settle(self) -> None:
        for _ in range(1000):
            if not self.to_controller:
                return
            self.pass_on(1)
        raise AssertionError(f"{self.dpid} never comes to an end")

    def _send(self, messages: list[bytes]) -> None:
        assert self.session is not None
        assert self.session.dead is None, self.session.dead
        self.core.reported(self.dpid, self, self.session.report)
        for message in messages:
            self.to_controller += self.switch.answer(message)
        if self.session.filling:
            self._send(self.session.fill(self.now))

    # ---- ports

    def plug(self, number: int, name: str) -> None:
        self.switch.ports[number] = name
        self._tell(wire.PORT_ADD, number, name)

    def unplug(self, number: int) -> None:
        self._tell(wire.PORT_DELETE, number, self.switch.ports.pop(number))

    def rename(self, number: int, name: str) -> None:
        self.switch.ports[number] = name
        self._tell(wire.PORT_MODIFY, number, name)

    def flap(self, number: int, name: str) -> None:
        self._tell(wire.PORT_MODIFY, number, name)

    def _tell(self, reason: int, number: int, name: str) -> None:
        if self.session is not None:
            self.to_controller.append(port_status(reason, number, name))

    # ---- service.core.Switch

    def policy_changed(self) -> None:
        if self.session is not None:
            self._send(self.session.policy_changed(self.now))

    def resync(self) -> None:
        if self.session is not None:
            self._send(self.session.resync(self.now))

    def close(self) -> None:
        self.disconnect()
