"""Drives a `Session` over a socket to a real switch, one message at a time, without Ryu and without threads."""

from __future__ import annotations

import socket
import struct
import time
from datetime import UTC, datetime
from pathlib import Path

from firewall_app.history import beginning
from firewall_app.openflow.session import Moment, Plan, Session, State
from firewall_app.pipeline.compile import Rulings
from firewall_app.pipeline.plan import units
from firewall_app.policy.policy import Policy
from firewall_app.progress import Wanted

HELLO, ECHO_REQUEST, ECHO_REPLY, FEATURES_REQUEST, FEATURES_REPLY = 0, 2, 3, 5, 6
PATIENCE = 20.0


def moment() -> Moment:
    return Moment(time.monotonic(), datetime.now(UTC))


class PolicyPlan:
    """A plan that follows `policy`; set it, tell the session."""

    def __init__(self, dpid: str, policy: Policy | None = None, rulings: Rulings | None = None) -> None:
        self.dpid, self.policy, self.history = dpid, policy or Policy(), beginning()
        self.rulings = rulings or Rulings()

    @property
    def revision(self) -> int:
        return self.history.revision

    def change(self, policy: Policy) -> None:
        point = self.history.point
        self.policy, self.history = policy, self.history.after(point._replace(revision=point.revision + 1))

    def __call__(self, interfaces):
        return Wanted(self.history, units(self.policy, self.dpid, interfaces, self.rulings))


class Driven:
    """A session with a switch at a Unix socket.  `sent` counts messages by OpenFlow type."""

    def __init__(
        self,
        path: Path,
        plan: Plan,
        version: int = 5,
        dpid: str = "0000000000000001",
        forget_cached: bool = False,
        token: int | None = 1,
    ) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(path))
        self._buffer = b""
        self.sent: dict[int, int] = {}
        self.sent_bytes: list[bytes] = []
        self._write([struct.pack("!BBHIHHI", version, HELLO, 16, 1, 1, 8, 1 << version)])
        self._until(HELLO)
        self._write([struct.pack("!BBHI", version, FEATURES_REQUEST, 8, 2)])
        self._until(FEATURES_REPLY)
        self.session = Session(
            dpid, version, plan, lambda: plan({}).history, moment(), "test", forget_cached=forget_cached, token=token
        )
        self.sent.clear()
        self.feed(self.session.start(moment()))

    def close(self) -> None:
        self.socket.close()

    def feed(self, messages: list[bytes]) -> None:
        self._write(messages)

    def settle(self) -> None:
        """Exchanges messages until nothing is in flight (or the session is dead)."""
        while self.session.dead is None and self.session._state not in (State.IDLE, State.UNFIT):
            if self.session.filling:
                self._write(self.session.fill(moment()))
            else:
                self.step()

    def step(self) -> None:
        """Takes one message from the switch."""
        message = self._next()
        if message[1] == ECHO_REQUEST:
            self._write([bytes([message[0], ECHO_REPLY]) + message[2:]])
        else:
            self._write(self.session.receive(message, moment()))

    def pump(self, seconds: float) -> None:
        """Takes what the switch says of its own accord within a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                self.step()
            except TimeoutError:
                break
        self.socket.settimeout(PATIENCE)
        self.settle()

    def policy_changed(self) -> None:
        self._write(self.session.policy_changed(moment()))
        self.settle()

    def _write(self, messages: list[bytes]) -> None:
        for message in messages:
            self.sent[message[1]] = self.sent.get(message[1], 0) + 1
            self.sent_bytes.append(message)
        if messages:
            self.socket.sendall(b"".join(messages))

    def _next(self) -> bytes:
        while len(self._buffer) < 8 or len(self._buffer) < int.from_bytes(self._buffer[2:4], "big"):
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("the switch closed the connection")
            self._buffer += data
        length = int.from_bytes(self._buffer[2:4], "big")
        message, self._buffer = self._buffer[:length], self._buffer[length:]
        return message

    def _until(self, kind: int) -> bytes:
        while (message := self._next())[1] != kind:
            if message[1] == ECHO_REQUEST:
                self._write([bytes([message[0], ECHO_REPLY]) + message[2:]])
        return message
