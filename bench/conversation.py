"""A session of ours with a real bridge, in this process: over its management socket, without Ryu and without a loop.

What reading, comparing and sending cost is measured here, apart from what else the program does.
"""

from __future__ import annotations

import gc
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from firewall_app import memory
from firewall_app.history import beginning
from firewall_app.openflow import wire
from firewall_app.openflow.session import Moment, Session
from firewall_app.pipeline.compile import Rulings
from firewall_app.pipeline.plan import Parts
from firewall_app.policy.policy import Policy
from firewall_app.progress import ALWAYS, Sync
from firewall_app.service.planning import Planning
from lab.system import LabError

HELLO, ECHO_REQUEST, ECHO_REPLY, FEATURES_REQUEST, FEATURES_REPLY = 0, 2, 3, 5, 6
MULTIPART_REPLY, BARRIER_REPLY, BUNDLE_CONTROL, ERROR = 19, 21, 33, 1
PATIENCE = 60.0
XID = 0x7F000000  # of what is asked beside the session


class Bare:
    """A connection to a bridge, in OpenFlow 1.4."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._buffer = bytearray()
        try:
            self._socket.connect(str(path))
            self.send(struct.pack("!BBHIHHI", wire.OF14, HELLO, 16, 1, 1, 8, 1 << wire.OF14))
            self.until(HELLO)
            self.send(struct.pack("!BBHI", wire.OF14, FEATURES_REQUEST, 8, 2))
            self.until(FEATURES_REPLY)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def next(self) -> bytes:
        """The next message that is not an echo."""
        buffer = self._buffer
        while True:
            size = int.from_bytes(buffer[2:4], "big") if len(buffer) >= 8 else 8
            if len(buffer) >= size >= 8 and len(buffer) >= 8:
                message = bytes(buffer[:size])
                del buffer[:size]
                if message[1] != ECHO_REQUEST:
                    return message
                self.send(bytes([message[0], ECHO_REPLY]) + message[2:])
                continue
            data = self._socket.recv(1 << 18)
            if not data:
                raise LabError("the switch closed the connection")
            buffer += data

    def until(self, kind: int) -> bytes:
        """The next message of a kind; an error before it is one."""
        while True:
            message = self.next()
            if message[1] == kind:
                return message
            if message[1] == ERROR:
                raise LabError(f"the switch refused: {wire.decode(message)}")

    def statistics(self) -> list[bytes]:
        """The messages that tell all flows, as they come."""
        self.send(wire.flow_stats_request(wire.OF14, XID))
        found = []
        while True:
            found.append(self.until(MULTIPART_REPLY))
            if not found[-1][11] & 1:
                return found

    def commit(self, adds: bytes, bundle_id: int) -> None:
        """A bundle of messages that are ready, until the switch has it in force."""
        self.send(wire.bundle_open(wire.OF14, XID, bundle_id))
        self.send(adds)
        self.send(wire.barrier(wire.OF14, XID))
        self.until(BARRIER_REPLY)
        self.send(wire.bundle_commit(wire.OF14, XID, bundle_id))
        while wire.decode(message := self.until(BUNDLE_CONTROL)) and message[13] != wire.BUNDLE_COMMIT + 1:
            pass

    def clear(self) -> None:
        self.send(wire.raw_flow_mod(wire.OF14, XID, wire.DELETE, wire.ALL_TABLES, 0))
        self.send(wire.barrier(wire.OF14, XID))
        self.until(BARRIER_REPLY)


@contextmanager
def as_in_the_program() -> Iterator[None]:
    """Meanwhile the garbage collector looks as seldom as it does there."""
    before = gc.get_threshold()
    memory.collect_seldom()
    memory.keep_what_there_is()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def moment() -> Moment:
    return Moment(time.monotonic(), datetime.now(UTC))


class Conversation:
    """A session that has the bridge hold what a policy means; `changes` counts the flow-mods that it sent."""

    def __init__(self, path: Path, policy: Policy, dpid: str) -> None:
        self.changes = 0
        self._bare = Bare(path)
        try:
            history = beginning()
            plan = Planning(dpid, Rulings(), Parts(), lambda: (policy, history, 0), lambda: ALWAYS)
            self.session = Session(dpid, wire.OF14, plan, lambda: history, moment(), reply_timeout=PATIENCE)
            self._settle(self.session.start(moment()))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._bare.close()

    def resync(self) -> None:
        """Reads the switch back and compares, until it is known to be in step."""
        self._settle(self.session.resync(moment()))

    def _settle(self, messages: list[bytes]) -> None:
        session, reads = self.session, self.session.reads
        while True:
            self.changes += sum(message[1] == 34 for message in messages)
            self._bare.send(b"".join(messages))
            if session.reads > reads and session.report.sync is Sync.IN_SYNC:
                return
            messages = session.fill(moment()) if session.filling else session.receive(self._bare.next(), moment())
            if session.dead is not None or session.report.error is not None:
                raise LabError(f"the session ended: {session.dead or session.report.error}")
