"""`SimSwitches`: hundreds of simulated switches with TCP connections of their own, served by one thread.

Each is a `FakeSwitch` that keeps its flows while it is away, as a real one does.  One can be told to stall: it keeps
its connection and neither reads nor answers; `unstall` has it go on.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from fakeswitch import V14, FakeSwitch, message

HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY, FEATURES_REQUEST, FEATURES_REPLY = 0, 1, 2, 3, 5, 6


@dataclass
class Member:
    """One switch, and its connection while it has one."""

    number: int
    switch: FakeSwitch
    connection: socket.socket | None = None
    stalled: bool = False
    read: bytearray = field(default_factory=bytearray)
    written: bytearray = field(default_factory=bytearray)

    @property
    def dpid(self) -> str:
        return f"{self.number:016x}"

    def answer(self, one: bytes) -> bytes:
        kind, (xid,) = one[1], struct.unpack_from("!I", one, 4)
        match kind:
            case 0 | 1 | 3:
                return b""
            case 2:
                return message(ECHO_REPLY, xid, one[8:])
            case 5:
                return message(FEATURES_REPLY, xid, struct.pack("!QIBBxxII", self.number, 0, 254, 0, 0x4F, 0))
        return b"".join(self.switch.answer(one))


class SimSwitches:
    """As a context manager: its thread ends with it."""

    def __init__(self, switches: Iterable[FakeSwitch], host: str, port: int) -> None:
        self.members = [Member(number, switch) for number, switch in enumerate(switches, 1)]
        self.problems: list[BaseException] = []
        self._address = host, port
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()  # held while messages are worked on, and while members are told something
        self._ended = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> SimSwitches:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()
        self.disconnect(self.members)
        self._selector.close()

    def connect(self, members: Iterable[Member]) -> None:
        """At once: nobody waits for another."""
        for member in members:
            connection = socket.create_connection(self._address, timeout=30)
            connection.setblocking(False)
            with self._lock:
                member.connection, member.read, member.written = connection, bytearray(), bytearray()
                member.switch._bundle = []
                member.written += message(HELLO, 1, struct.pack("!HHI", 1, 8, 1 << V14))
                self._selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, member)

    def disconnect(self, members: Iterable[Member], reset: bool = False) -> None:
        """`reset`: with an RST, as a switch that crashes, instead of an orderly end."""
        for member in members:
            with self._lock:
                if member.connection is not None:
                    if reset:
                        member.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self._close(member)

    def stall(self, members: Iterable[Member]) -> None:
        with self._lock:
            for member in members:
                member.stalled = True

    def unstall(self, members: Iterable[Member]) -> None:
        with self._lock:
            for member in members:
                member.stalled = False
                self._work(member)

    def _close(self, member: Member) -> None:
        assert member.connection is not None
        self._selector.unregister(member.connection)
        member.connection.close()
        member.connection = None

    def _run(self) -> None:
        while not self._ended:
            try:
                for key, _ in self._selector.select(0.05):
                    with self._lock:
                        if key.data.connection is key.fileobj and not key.data.stalled:
                            self._serve(key.data)
            except BaseException as problem:  # noqa: BLE001,RUF100 - the test tells
                self.problems.append(problem)
                return

    def _serve(self, member: Member) -> None:
        assert member.connection is not None
        try:
            with contextlib.suppress(BlockingIOError):
                while data := member.connection.recv(1 << 18):
                    member.read += data
                self._close(member)  # the controller has closed it
                return
            self._work(member)
        except ConnectionError:
            self._close(member)

    def _work(self, member: Member) -> None:
        read, at = member.read, 0
        while len(read) - at >= 8 and len(read) - at >= (length := int.from_bytes(read[at + 2 : at + 4], "big")):
            member.written += member.answer(bytes(read[at : at + length]))
            at += length
        del read[:at]
        if member.connection is None:
            return
        with contextlib.suppress(BlockingIOError):
            while member.written:
                del member.written[: member.connection.send(member.written)]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if member.written else 0)
        self._selector.modify(member.connection, wanted, member)
