"""`Swarm`: thousands of light OpenFlow 1.4 switches in one process beside the controller that is measured.

    python -m bench.swarm HOST PORT INTERFACE...

Each has a connection of its own, keeps its flows as bytes, and answers what a controller asks as Open vSwitch 3.1
does: features, description, ports, roles, flow statistics, bundles, barriers, echo.  As Open vSwitch it gives up a
connection on which it hears no HELLO within a second, and dials again a second later; both become longer with each
failure, up to eight seconds.  It forwards no packet, checks no flow and refuses nothing.  One epoll loop serves all, so
that the controller's work is the bound and not this.

The process takes commands as lines of JSON on its standard input and answers each with one line; it ends with its
input, and so with whoever started it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
V14 = 5
HELLO, ECHO_REQUEST, ECHO_REPLY, FEATURES_REPLY, GET_CONFIG_REPLY = 0, 2, 3, 6, 8
MULTIPART_REPLY, BARRIER_REPLY, ROLE_REPLY, BUNDLE, BUNDLE_ADD = 19, 21, 25, 33, 34
BUNDLE_CLOSE, BUNDLE_COMMIT = 2, 4
DESC, FLOW, PORT_DESC, FLOW_MONITOR = 0, 1, 13, 16
ADD, DELETE, DELETE_STRICT = 0, 3, 4
ANYTHING = struct.pack("!HH4x", 1, 4)  # a match of nothing
MOST = 60_000  # bytes of one part of a reply
PROBE = 5.0  # seconds of silence until a switch asks whether its controller is there, as Open vSwitch's does
BACKOFF, MOST_BACKOFF = 1.0, 8.0  # seconds that a switch waits, for HELLO or to dial again: at first, and at last
LOOK = 0.25  # seconds between two looks at who was silent
HEADER = struct.Struct("!BBHI")
STATS = struct.Struct("!HBxIIHHHHH2x")  # of a flow's statistics, up to its cookie


def message(kind: int, xid: int, body: bytes = b"") -> bytes:
    return HEADER.pack(V14, kind, 8 + len(body), xid) + body


class Switch:
    """One switch: what it holds, and its connection while it has one."""

    __slots__ = (
        "backoff", "bundle", "connected", "dialled", "flows", "generation", "heard", "number", "read", "role", "sock",
        "stalled", "written",
    )  # fmt: skip

    def __init__(self, number: int) -> None:
        self.number = number
        self.flows: dict[bytes, bytes] = {}  # table, priority and match -> the flow as statistics tell it
        self.role, self.generation = 1, (1 << 64) - 1
        self.bundle: list[bytes] = []
        self.sock: socket.socket | None = None
        self.connected = self.stalled = False
        self.heard = 0.0
        self.dialled = 0.0  # when, until the controller's HELLO has come
        self.backoff = 0.0  # seconds that it waited before it dialled; 0 when it did so at once
        self.read, self.written = b"", b""


@dataclass
class Counts:
    """What happened since the last `reset`; times are those of the clock that all processes share."""

    connected: int = 0  # now
    features: int = 0  # switches that were asked who they are
    mods: int = 0  # flow-mods, also those in bundles
    commits: int = 0
    barriers: int = 0
    readings: int = 0  # of all flows
    echoes: int = 0  # that the controller asked for
    probes: int = 0  # that switches asked for
    lost: int = 0  # connections that the controller ended
    given_up: int = 0  # connections on which no HELLO came in time
    last_commit: float = 0.0
    last_barrier: float = 0.0
    last_reading: float = 0.0
    flows: int = 0  # that all switches hold


class Herd:
    """The switches, and the loop that serves them."""

    def __init__(self, host: str, port: int, interfaces: Sequence[str]) -> None:
        self.address = host, port
        self.switches: dict[int, Switch] = {}
        self.counts = Counts()
        self._epoll = select.epoll()
        self._of: dict[int, Switch] = {}  # by file descriptor
        self._again: dict[int, float] = {}  # who is to dial again, and when
        self._made: dict[
            bytes, tuple[int, bytes, bytes]
        ] = {}  # flow-mod -> command, key, statistics: kept once for all
        self._ports = b"".join(_port(number, name) for number, name in enumerate(interfaces, 1))

    # ---- commands

    def connect(self, first: int, count: int) -> None:
        """All at once, as after an outage: nobody waits for another."""
        for number in range(first, first + count):
            switch = self.switches.setdefault(number, Switch(number))
            self._again.pop(number, None)
            switch.backoff = 0.0
            if switch.sock is None:
                self._dial(switch)

    def disconnect(self, first: int, count: int, reset: bool = False) -> None:
        """`reset`: with an RST, as a host that crashes."""
        for number in range(first, first + count):
            switch = self.switches[number]
            self._again.pop(number, None)
            if switch.sock is not None:
                if reset:
                    switch.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._close(switch)

    def forget(self, first: int, count: int) -> None:
        """They lose their flows, as switches that were restarted."""
        for number in range(first, first + count):
            self.switches[number].flows = {}

    def stall(self, first: int, count: int, stalled: bool = True) -> None:
        """They keep their connections and neither read nor answer, until they are told otherwise."""
        for number in range(first, first + count):
            switch = self.switches[number]
            switch.stalled = stalled
            if switch.sock is not None:
                self._epoll.modify(switch.sock.fileno(), 0 if stalled else self._events(switch))

    def reset(self) -> None:
        self.counts = Counts(connected=self.counts.connected)

    def tell(self) -> dict[str, float]:
        self.counts.flows = sum(len(switch.flows) for switch in self.switches.values())
        return asdict(self.counts)

    # ---- the loop

    def run(self, commands: int) -> None:
        """Until the commands end."""
        self._epoll.register(commands, select.EPOLLIN)
        waiting, look = b"", 0.0
        while True:
            for number, events in self._epoll.poll(LOOK):
                if number == commands:
                    data = os.read(commands, 1 << 16)
                    if not data:
                        return
                    *lines, waiting = (waiting + data).split(b"\n")
                    for line in lines:
                        self._obey(line)
                elif number in self._of:
                    self._serve(self._of[number], events)
            if time.monotonic() >= look + LOOK:
                look = time.monotonic()
                self._probe(look)
                self._give_up(look)
                for number in [number for number, when in self._again.items() if look >= when]:
                    del self._again[number]
                    self._dial(self.switches[number])

    def _obey(self, line: bytes) -> None:
        asked = json.loads(line)
        answer = getattr(self, asked.pop("do"))(**asked)
        print(json.dumps(answer), flush=True)

    def _dial(self, switch: Switch) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = sock.connect_ex(self.address)
        if error not in (0, errno.EINPROGRESS):
            raise OSError(error, os.strerror(error))
        switch.sock, switch.connected, switch.dialled = sock, False, time.monotonic()
        switch.read, switch.bundle = b"", []
        switch.written = message(HELLO, 1, struct.pack("!HHI", 1, 8, 1 << V14))
        self._of[sock.fileno()] = switch
        self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _close(self, switch: Switch) -> None:
        if switch.sock is not None:
            self.counts.connected -= switch.connected
            self._epoll.unregister(switch.sock.fileno())
            del self._of[switch.sock.fileno()]
            switch.sock.close()
            switch.sock, switch.connected = None, False

    def _lose(self, switch: Switch) -> None:
        self._close(switch)
        switch.backoff = min(max(BACKOFF, 2 * switch.backoff), MOST_BACKOFF)
        self._again[switch.number] = time.monotonic() + switch.backoff

    def _give_up(self, now: float) -> None:
        for switch in list(self._of.values()):
            late = switch.dialled and now - switch.dialled >= max(BACKOFF, switch.backoff)
            if late and not switch.stalled and not _is_heard(switch):
                self.counts.given_up += 1
                self._lose(switch)

    def _events(self, switch: Switch) -> int:
        return select.EPOLLIN | (select.EPOLLOUT if switch.written else 0)

    def _probe(self, now: float) -> None:
        for switch in self._of.values():
            if switch.connected and not switch.stalled and now - switch.heard > PROBE:
                switch.heard = now
                self.counts.probes += 1
                switch.written += message(ECHO_REQUEST, 0)
                self._send(switch)

    def _serve(self, switch: Switch, events: int) -> None:
        assert switch.sock is not None
        if not switch.connected and events & (select.EPOLLOUT | select.EPOLLERR):
            if switch.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._lose(switch)
                return
            switch.connected, switch.heard = True, time.monotonic()
            self.counts.connected += 1
        try:
            if events & ~select.EPOLLOUT:
                try:
                    data = switch.sock.recv(1 << 18)
                except BlockingIOError:
                    data = None
                if data == b"":
                    raise ConnectionResetError
                if data:
                    self._take(switch, data)
        except OSError:
            self.counts.lost += 1
            self._lose(switch)
            return
        if switch.written:
            self._send(switch, bool(events & select.EPOLLOUT))

    def _send(self, switch: Switch, waited: bool = False) -> None:
        """`waited`: the loop waits for room in the socket."""
        assert switch.sock is not None
        with contextlib.suppress(OSError):  # what has ended is found when it is read
            switch.written = switch.written[switch.sock.send(switch.written) :]
        if waited or switch.written:
            self._epoll.modify(switch.sock.fileno(), self._events(switch))

    def _take(self, switch: Switch, data: bytes) -> None:
        switch.heard = time.monotonic()
        data = switch.read + data if switch.read else data
        at, size, out = 0, len(data), []
        while size - at >= 8:
            _, kind, length, xid = HEADER.unpack_from(data, at)
            if size - at < length:
                break
            if kind == HELLO:
                switch.dialled = switch.backoff = 0.0
            if kind == BUNDLE_ADD:  # most of them, and nothing is said to them
                switch.bundle.append(data[at + 16 : at + length])
            else:
                out.append(self._answer(switch, kind, xid, data[at : at + length]))
            at += length
        switch.read = data[at:]
        switch.written += b"".join(out)

    # ---- what a switch says

    def _answer(self, switch: Switch, kind: int, xid: int, data: bytes) -> bytes:
        counts = self.counts
        match kind:
            case 2:  # ECHO_REQUEST
                counts.echoes += 1
                return message(ECHO_REPLY, xid, data[8:])
            case 5:  # FEATURES
                counts.features += 1
                return message(FEATURES_REPLY, xid, struct.pack("!QIBBxxII", switch.number, 0, 254, 0, 0x4F, 0))
            case 7:  # GET_CONFIG
                return message(GET_CONFIG_REPLY, xid, struct.pack("!HH", 3, 128))
            case 14:  # FLOW_MOD
                self._apply(switch, [data])
            case 18:  # MULTIPART
                return self._multipart(switch, xid, data)
            case 20:  # BARRIER
                counts.barriers, counts.last_barrier = counts.barriers + 1, time.monotonic()
                return message(BARRIER_REPLY, xid)
            case 24:  # ROLE
                role, generation = struct.unpack_from("!I4xQ", data, 8)
                if role:
                    switch.role, switch.generation = role, generation
                return message(ROLE_REPLY, xid, struct.pack("!I4xQ", switch.role, switch.generation))
            case 33:  # BUNDLE
                bundle, what, flags = struct.unpack_from("!IHH", data, 8)
                if what == BUNDLE_COMMIT:
                    self._apply(switch, switch.bundle)
                    counts.commits, counts.last_commit = counts.commits + 1, time.monotonic()
                if what != BUNDLE_CLOSE:
                    switch.bundle = []
                return message(BUNDLE, xid, struct.pack("!IHH", bundle, what + 1, flags))
        return b""  # HELLO, ECHO_REPLY, SET_CONFIG, and what flushes connections

    def _apply(self, switch: Switch, mods: list[bytes]) -> None:
        self.counts.mods += len(mods)
        for mod in mods:
            made = self._made.get(mod[8:])
            if made is None:
                made = self._made[mod[8:]] = _read(mod)
            command, key, stats = made
            if command == ADD:
                switch.flows[key] = stats
            elif command == DELETE_STRICT:
                switch.flows.pop(key, None)
            else:
                assert (command, mod[48:]) == (DELETE, ANYTHING), "all flows, or one"
                switch.flows = {}

    def _multipart(self, switch: Switch, xid: int, data: bytes) -> bytes:
        (kind,) = struct.unpack_from("!H", data, 8)
        if kind == DESC:
            texts = ("Nicira, Inc.", "Open vSwitch", "3.1.0")
            return _part(xid, DESC, b"".join(text.encode().ljust(256, b"\0") for text in texts) + bytes(32 + 256))
        if kind == PORT_DESC:
            return _part(xid, PORT_DESC, self._ports)
        if kind == FLOW_MONITOR:
            return _part(xid, FLOW_MONITOR, b"")
        assert kind == FLOW, f"nothing is known of multipart {kind}"
        flows = switch.flows
        if data[48:] != ANYTHING:
            return _part(xid, FLOW, b"".join(s for key, s in flows.items() if key[3:] == data[48:]))
        self.counts.readings, self.counts.last_reading = self.counts.readings + 1, time.monotonic()
        parts, size, out = [], 0, []
        for stats in flows.values():
            if size + len(stats) > MOST:
                out.append(_part(xid, FLOW, b"".join(parts), more=True))
                parts, size = [], 0
            parts.append(stats)
            size += len(stats)
        return b"".join([*out, _part(xid, FLOW, b"".join(parts))])


def _is_heard(switch: Switch) -> bool:
    """Whether something waits to be read: then this process is what is late."""
    assert switch.sock is not None
    try:
        return bool(switch.sock.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def _part(xid: int, kind: int, body: bytes, more: bool = False) -> bytes:
    return message(MULTIPART_REPLY, xid, struct.pack("!HH4x", kind, more) + body)


def _port(number: int, name: str) -> bytes:
    head = struct.pack("!IH2x6s2x16sII", number, 72, b"\2\0\0\0\0\1", name.encode(), 0, 0)
    return head + struct.pack("!HH4xIIIIII", 0, 32, 0, 0, 0, 0, 0, 0)


def _read(mod: bytes) -> tuple[int, bytes, bytes]:
    """Of a flow-mod its command, the key of its flow, and the flow as statistics tell it."""
    cookie, _, table, command, idle, hard, priority = struct.unpack_from("!QQBBHHH", mod, 8)
    end = 48 + (struct.unpack_from("!H", mod, 50)[0] + 7) // 8 * 8
    key = mod[24:25] + mod[30:32] + mod[48:end]
    head = STATS.pack(len(mod), table, 0, 0, priority, idle, hard, 0, 0)
    return command, key, head + struct.pack("!QQQ", cookie, 2, 300) + mod[48:]


class Swarm:
    """The process, for who measures.  As a context manager: it ends with it, whatever happens."""

    def __init__(self, host: str, port: int, interfaces: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.swarm", host, str(port), *interfaces],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            start_new_session=True,  # an interrupt reaches who measures, who ends it
        )

    def __enter__(self) -> Swarm:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def do(self, what: str, **how: int) -> dict[str, float]:
        """A command of `Herd`, and its answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"do": what, **how}).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the swarm has ended by itself")
        found: dict[str, float] = json.loads(answer)
        return found

    def counts(self) -> Counts:
        return Counts(**self.do("tell"))  # type: ignore[arg-type]


def main() -> None:
    host, port, *interfaces = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    Herd(host, int(port), interfaces).run(sys.stdin.fileno())


if __name__ == "__main__":
    main()
