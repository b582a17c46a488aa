"""Traffic that goes on while things break, every packet of it accounted for.

One thread sends and receives for all machines: its sockets are made inside their namespaces.  Packets and sessions are
counted in streams.py, new connections and forbidden packets here.  A leak is any frame of a forbidden kind that comes
out anywhere.  Knows nothing of firewalls: what is forbidden, the caller says.
"""

from __future__ import annotations

import ctypes
import errno
import heapq
import itertools
import os
import selectors
import socket
import struct
import threading
import time
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from .machine import Machine
from .streams import Conversation, Datagrams, Streaming, drained
from .system import CLONE_NEWNET, LabError

BUFFER = 1 << 23  # bytes that a receiver may be behind
CONNECT_TIMEOUT = 0.9  # seconds: less than it takes until a lost SYN is sent again
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
SO_RCVBUFFORCE, SO_ATTACH_FILTER = 33, 26
SOL_PACKET, PACKET_IGNORE_OUTGOING, ETH_P_ALL = 263, 23, 3
MARKED = 0xFB1D  # identification (IPv4) and flow label (IPv6) of every forbidden frame
TOKEN = 20  # bytes at its end, which tell which one it is
# Classic BPF (bpf(4)): keeps what is marked, so that the kernel and not Python looks at all the rest.
FILTER = (
    (0x28, 0, 0, 12),  # the ethertype
    (0x15, 0, 2, 0x0800),
    (0x28, 0, 0, 18),
    (0x15, 4, 5, MARKED),
    (0x15, 0, 4, 0x86DD),
    (0x20, 0, 0, 14),
    (0x54, 0, 0, 0xFFFFF),
    (0x15, 0, 1, MARKED),
    (0x06, 0, 0, 0x40000),  # all of it
    (0x06, 0, 0, 0),  # nothing
)


@dataclass(frozen=True)
class Way:
    """Where a new connection goes from and to."""

    source: Machine
    address: str
    port: int


@dataclass
class Connects:
    """New TCP connections, one after the other over all ways; one that a lost packet delays has failed."""

    traffic: Traffic
    ways: Sequence[Way]
    rate: float
    name: str = "new connections"
    tried: list[tuple[float, str]] = field(default_factory=list)  # when, and why it did not come to be: "" if it did
    _next: int = 0
    _under_way: dict[socket.socket, tuple[float, Way]] = field(default_factory=dict)

    def tick(self, now: float) -> None:
        for late in [one for one, (began, _) in self._under_way.items() if now - began > CONNECT_TIMEOUT]:
            self._ended(late, "no answer")
        way = self.ways[self._next % len(self.ways)]
        self._next += 1
        made = self.traffic.make(way.source, socket.AF_INET6 if ":" in way.address else socket.AF_INET)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._under_way[made] = now, way
        result = made.connect_ex((way.address, way.port))
        if result == errno.EINPROGRESS:
            self.traffic.watch(made, lambda: self._answered(made), selectors.EVENT_WRITE)
        else:
            self._ended(made, os.strerror(result) if result else "")

    def _answered(self, made: socket.socket) -> None:
        error = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._ended(made, os.strerror(error) if error else "")

    def _ended(self, made: socket.socket, problem: str) -> None:
        began, way = self._under_way.pop(made)
        self.tried.append((began, f"{way.source.name} to {way.address} port {way.port}: {problem}" if problem else ""))
        self.traffic.unwatch(made)
        made.close()

    def outcomes(self, begin: float, end: float) -> list[str]:
        """Of each that began in that time, why it did not come to be; "" if it did."""
        return [problem for began, problem in self.tried if begin <= began < end]

    def pending(self, moment: float) -> bool:
        """Whether one that began before a moment has not ended yet."""
        return any(began < moment for began, _ in list(self._under_way.values()))

    def flows_since(self, moment: float) -> bool:
        return any(not problem for began, problem in self.tried[-20:] if began > moment)


@dataclass(frozen=True)
class Probe:
    """A frame that must not come out anywhere.  `guarded`: not even where there is no firewall."""

    kind: str
    sender: Machine
    frame: bytes
    guarded: bool = False


@dataclass(frozen=True)
class Leak:
    kind: str
    at: str  # the machine that it reached
    when: float


@dataclass
class Forbidden:
    """Probes, sent in turn, each kind known by its number in the payload; and a watch on all machines."""

    traffic: Traffic
    probes: Sequence[Probe]
    rate: float
    leaks: list[Leak] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    _senders: dict[str, socket.socket] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._kinds = {probe.frame[-TOKEN:]: probe.kind for probe in self.probes}

    def watch(self, machine: Machine, only_own: bool) -> None:
        """Sees what reaches a machine; `only_own`: what its link has for others is no leak, as on a shared wire."""
        seen = self.traffic.make(machine, socket.AF_PACKET, socket.SOCK_RAW)
        program = b"".join(struct.pack("HBBI", *line) for line in FILTER)
        code = ctypes.create_string_buffer(program)
        seen.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(FILTER), ctypes.addressof(code)))
        seen.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        seen.bind(("eth0", ETH_P_ALL))
        own = bytes.fromhex(machine.mac.replace(":", ""))

        def arrived() -> None:
            for frame in drained(seen):
                # Now and then a frame of somebody else has the mark by chance.
                kind = self._kinds.get(frame[-TOKEN:])
                if kind is not None and (not only_own or frame[:6] == own or frame[0] & 1):
                    self.leaks.append(Leak(kind, machine.name, time.monotonic()))

        self.traffic.watch(seen, arrived)

    def tick(self, now: float) -> None:
        probe = self.probes[len(self.times) % len(self.probes)]
        self.times.append(now)
        self.send(probe)

    def send(self, probe: Probe) -> None:
        name = probe.sender.name
        if name not in self._senders:
            self._senders[name] = self.traffic.make(probe.sender, socket.AF_PACKET, socket.SOCK_RAW)
            self._senders[name].bind(("eth0", 0))
        with suppress(OSError):  # its link is down: nothing was sent, and nothing can come out
            self._senders[name].send(probe.frame)

    def counted(self, begin: float, end: float) -> int:
        return bisect_left(self.times, end) - bisect_left(self.times, begin)

    def leaked(self, begin: float, end: float) -> list[Leak]:
        return [leak for leak in self.leaks if begin <= leak.when < end]


class Traffic:
    """The thread, its sockets and its streams."""

    def __init__(self) -> None:
        self.streams: list[Streaming] = []
        self._selector = selectors.DefaultSelector()
        self._namespaces: dict[str, int] = {}
        self._made: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._due: list[tuple[float, int, Streaming]] = []
        self._numbers = itertools.count()  # no two are equal, so that streams due at once need no order
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    # --- sockets

    def make(self, machine: Machine | None, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket in a machine's namespace (None: the caller's), that blocks nobody and can hold a lot."""
        with self.inside(machine):
            made = socket.socket(family, kind | socket.SOCK_NONBLOCK)
        self._made.add(made)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if kind != socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        return made

    @contextmanager
    def inside(self, machine: Machine | None) -> Iterator[None]:
        """This thread in a machine's namespace; a socket stays where it was made."""
        if machine is None:
            yield
            return
        home = self._namespace("/proc/thread-self/ns/net")
        self._enter(self._namespace(f"/run/netns/{machine.netns}"))
        try:
            yield
        finally:
            self._enter(home)

    def _namespace(self, path: str) -> int:
        if path not in self._namespaces:
            self._namespaces[path] = os.open(Path(path), os.O_RDONLY | os.O_CLOEXEC)
        return self._namespaces[path]

    def _enter(self, namespace: int) -> None:
        if self._libc.setns(namespace, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "cannot enter a namespace")

    def watch(self, opened: socket.socket, ready: Callable[[], object], events: int = selectors.EVENT_READ) -> None:
        with self._lock:
            self._selector.register(opened, events, ready)

    def unwatch(self, opened: socket.socket) -> None:
        with self._lock, suppress(KeyError):
            self._selector.unregister(opened)

    # --- what flows

    def add(self, stream: Streaming) -> None:
        """Begins a stream; the thread may run already."""
        with self._lock:
            self.streams.append(stream)
            heapq.heappush(self._due, (time.monotonic(), next(self._numbers), stream))

    def remove(self, stream: Streaming) -> None:
        with self._lock:
            self.streams.remove(stream)
            self._due = [entry for entry in self._due if entry[2] is not stream]
            heapq.heapify(self._due)

    def datagrams(
        self, name: str, source: Machine, target: Machine, port: int, rate: float, version: int = 4
    ) -> tuple[Datagrams, Datagrams]:
        """A UDP flow on one pair of ports: what the source sends, and what the target sends back; neither begun."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        near, far = (self.make(machine, family, socket.SOCK_DGRAM) for machine in (source, target))
        near.bind((source.address(version), port))
        far.bind((target.address(version), port))
        near.connect(far.getsockname()[:2])
        far.connect(near.getsockname()[:2])
        there = Datagrams(f"{name}, there", rate, near)
        back = Datagrams(f"{name}, back", rate, far)
        self.watch(far, partial(there.receive, far))
        self.watch(near, partial(back.receive, near))
        return there, back

    def conversation(self, name: str, source: Machine, target: Machine, port: int, rate: float) -> Conversation:
        """A TCP connection that the source opens; not begun to speak."""
        server = self.make(target, socket.AF_INET)
        server.bind((target.address(), port))
        server.listen()
        near = self.make(source, socket.AF_INET)
        for blocking in (server, near):
            blocking.settimeout(5)
        try:
            near.connect((target.address(), port))
            far, _ = server.accept()
            self._made.add(far)
        except OSError as problem:
            raise LabError(f"{name} could not connect: {problem}") from problem
        finally:
            server.close()
        for end in (near, far):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        made = Conversation(name, rate, (near, far))
        for which, end in enumerate(made.ends):
            self.watch(end, partial(self._converse, made, which))
        return made

    def _converse(self, conversation: Conversation, which: int) -> None:
        if not conversation.receive(which):
            self.unwatch(conversation.ends[which])

    def hang_up(self, conversation: Conversation) -> None:
        self.remove(conversation)
        for end in conversation.ends:
            self.unwatch(end)
            end.close()

    def serve(self, machine: Machine, port: int) -> None:
        """Accepts connections and hangs up, on both IP versions."""
        for family, every in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            server = self.make(machine, family)
            if family == socket.AF_INET6:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            server.bind((every, port))
            server.listen(512)
            self.watch(server, partial(self._accept, server))

    @staticmethod
    def _accept(server: socket.socket) -> None:
        with suppress(BlockingIOError):
            while True:
                server.accept()[0].close()

    # --- the thread

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        if self._failure is not None:
            raise LabError(f"the traffic stopped: {self._failure!r}") from self._failure

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for made in list(self._made):
            made.close()
        self._selector.close()
        for namespace in self._namespaces.values():
            os.close(namespace)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._turn()
        except BaseException as problem:
            self._failure = problem

    def _turn(self) -> None:
        with self._lock:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                due, number, stream = heapq.heappop(self._due)
                stream.tick(time.monotonic())
                # One that is late catches up, yet does not send a burst that nothing could take.
                heapq.heappush(self._due, (max(due + 1 / stream.rate, now - 0.05), number, stream))
            wait = max(0.0, self._due[0][0] - time.monotonic()) if self._due else 0.01
        for key, _ in self._selector.select(min(wait, 0.01)):
            with self._lock:
                if self._watched(key):
                    key.data()

    def _watched(self, key: selectors.SelectorKey) -> bool:
        """Whether it is watched still: what came before it in the same turn may have closed it."""
        try:
            return self._selector.get_key(key.fileobj) is key
        except (KeyError, ValueError):
            return False
