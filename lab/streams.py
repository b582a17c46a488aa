"""What flows in the fault tests, and the account of it: numbered datagrams, and TCP sessions that never pause.

What is lost is told by numbers and times of sending, so a machine that is late reads as late and never as loss.
`Traffic` (traffic.py) makes the sockets, calls `tick` and `receive`; here nothing waits.
"""

from __future__ import annotations

import itertools
import socket
import struct
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol


class Streaming(Protocol):
    """What `Traffic` drives: `tick` is called `rate` times a second."""

    rate: float

    def tick(self, now: float, /) -> None: ...


class Allowed(Streaming, Protocol):
    """What is meant to arrive."""

    name: str

    def flows_since(self, moment: float) -> bool: ...


@dataclass(frozen=True)
class Loss:
    """Of the packets of some time: how many were sent and lost, and the longest time in which none arrived."""

    sent: int
    lost: int
    gap: float  # seconds, by the times of sending


@dataclass
class Datagrams:
    """Numbered datagrams from one connected socket to another."""

    name: str
    rate: float
    out: socket.socket
    times: list[float] = field(default_factory=list)
    arrived: bytearray = field(default_factory=bytearray)  # of each number, whether it came

    def tick(self, now: float) -> None:
        number = len(self.times)
        self.times.append(now)
        self.arrived.append(0)
        with suppress(OSError):  # no link, no way: it is lost like any other
            self.out.send(struct.pack("!I", number).ljust(64, b"."))

    def receive(self, opened: socket.socket) -> None:
        for data in drained(opened):
            number = struct.unpack_from("!I", data)[0]
            if number < len(self.arrived):
                self.arrived[number] = 1

    def loss(self, begin: float, end: float) -> Loss:
        first, last = bisect_left(self.times, begin), bisect_left(self.times, end)
        lost, gap, since = 0, 0.0, None
        for number in range(first, last):
            if self.arrived[number]:
                gap, since = max(gap, self.times[number] - since if since is not None else 0.0), None
            else:
                lost += 1
                since = self.times[max(first, number - 1)] if since is None else since
        if since is not None:
            gap = max(gap, end - since)
        return Loss(last - first, lost, gap)

    def flows_since(self, moment: float) -> bool:
        """Whether something that was sent after a moment has arrived."""
        return 1 in self.arrived[bisect_left(self.times, moment) :]

    def arrived_between(self, begin: float, end: float) -> int:
        """How many of those arrived that were sent in that time."""
        return self.arrived[bisect_left(self.times, begin) : bisect_left(self.times, end)].count(1)


@dataclass
class Conversation:
    """A TCP connection on which both ends speak all the time."""

    name: str
    rate: float
    ends: tuple[socket.socket, socket.socket]
    heard: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))  # when each end heard something
    broken: bool = False

    def tick(self, _now: float) -> None:
        for end in self.ends:
            try:
                end.send(b"." * 64)
            except BlockingIOError:
                pass  # the buffer is full of what was not acknowledged
            except OSError:
                self.broken = True

    def receive(self, which: int) -> bool:
        """Takes what has come; whether the connection is still there."""
        try:
            while data := self.ends[which].recv(1 << 16):
                self.heard[which].append(time.monotonic())
                del data
        except BlockingIOError:
            return True
        except OSError:
            pass
        self.broken = True
        return False

    def stall(self, begin: float, end: float) -> float:
        """The longest time in which one of the two heard nothing."""
        worst = 0.0
        for heard in self.heard:
            inside = heard[bisect_left(heard, begin) : bisect_left(heard, end)]
            moments = [begin, *inside, end]
            worst = max(worst, *(after - before for before, after in itertools.pairwise(moments)))
        return worst

    def flows_since(self, moment: float) -> bool:
        return not self.broken and all(heard and heard[-1] > moment for heard in self.heard)

    def heard_between(self, begin: float, end: float) -> int:
        """How often an end heard something in that time."""
        return sum(bisect_left(heard, end) - bisect_left(heard, begin) for heard in self.heard)


def drained(opened: socket.socket) -> Iterator[bytes]:
    """All that a socket holds at the moment."""
    while True:
        try:
            yield opened.recv(1 << 17)
        except BlockingIOError:
            return
        except OSError:
            continue  # an ICMP error for something sent before
