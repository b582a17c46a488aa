"""The rim of a session: a Ryu datapath, a green thread, a clock.  Decides nothing.

One thread for each switch takes what happens from an inbox, gives it to the session and sends what that returns, so
that a switch that does not read holds up nobody but itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Protocol, TypeVar

import eventlet
from eventlet import tpool
from eventlet.event import Event
from eventlet.queue import Empty, Full, LightQueue

from .. import logs
from ..history import History
from ..policy.errors import Unreachable
from ..progress import Drift, SwitchReport, Wanted
from . import wire
from .listener import LINES
from .session import Decision, Moment, Session
from .turns import Pace, Turns

LOG = logs.get(__name__)
T = TypeVar("T")
INBOX = 4096  # events that may wait; a switch that floods is then read no faster than we work
INBOX_BYTES = 4 << 20  # bytes that they may have together, or so
BREATH = 0.01  # seconds until a switch that floods is looked at again
LONGEST = 2000  # characters of what a switch says that the log has
CHUNK = 32 << 10  # bytes given to a socket at once: joined messages, but other threads get their turn


# Comparing a large policy with a switch takes a tenth of a second and more, which no other switch and no request should
# wait for.  It runs in a native thread (turns.py).
COMPARING = Turns(2)
COMPARING_STRANGERS = Turns(1)  # those that nobody registered wait for each other
PACE = Pace()
SHORT = 2000  # flows that are compared in the loop, in ten milliseconds at most
STRANGERS_FLOWS = 400_000  # that are kept of all strangers together, 0.6 KB each
PORT_STATUS = 12
MAY_COMPARE = (4, PORT_STATUS, 19, 33)  # message types: experimenter and bundle control, multipart


class FlowReading(Protocol):
    """How a raw flow is told to people; see `service.core.FlowStats`."""

    def __call__(self, raw: wire.RawFlow) -> Any: ...


class Plan(Protocol):
    """What a switch should hold, by the interfaces that it has."""

    def __call__(self, interfaces: Mapping[int, str], /) -> Wanted: ...

    @property
    def cost(self) -> int:
        """How many flows the next call looks at, as far as is known."""


class Owner(Protocol):
    """Who is told of switches, and knows what they should hold.  `token`: of the lease; None on a standby."""

    token: int | None

    @property
    def history(self) -> History: ...

    def plan(self, dpid: str) -> Plan: ...

    def end_plan(self, plan: Any) -> None: ...

    def is_registered(self, dpid: str) -> bool: ...

    def connected(self, dpid: str, switch: Any) -> bool: ...

    def reported(self, dpid: str, switch: Any, report: SwitchReport) -> None: ...

    def drifted(self, dpid: str, switch: Any, found: list[Drift]) -> None: ...

    def disconnected(self, dpid: str, switch: Any, why: str | None) -> None: ...


class Strangers:
    """How many flows are kept of the switches that nobody registered: when it is too many, who has the most must go."""

    def __init__(self) -> None:
        self._flows: dict[Link, int] = {}

    def weigh(self, link: Link, flows: int) -> Link | None:
        """Who has to go, when one of them has so many flows."""
        self._flows[link] = flows
        if sum(self._flows.values()) <= STRANGERS_FLOWS:
            return None
        return max(self._flows, key=self._flows.__getitem__)

    def leave(self, link: Link) -> None:
        self._flows.pop(link, None)


STRANGERS = Strangers()


def _why_it_ended(datapath: Any) -> str | None:
    """None when the connection goes on, as far as is known here."""
    missed = len(datapath.unreplied_echo_requests)
    if missed > datapath.max_unreplied_echo_requests:
        return f"{missed} echo requests in a row had no answer"
    why: str | None = datapath.socket.ended
    return why


def moment() -> Moment:
    return Moment(time.monotonic(), datetime.now(UTC))


class Link:
    """A connected switch; what `service.core.Switch` promises."""

    def __init__(
        self,
        owner: Owner,
        datapath: Any,
        tell: FlowReading,
        *,
        reply_timeout: float,
        audit_interval: float,
        pickup_grace: int = 0,
        forget_cached: bool | None = None,
    ) -> None:
        self.dpid = f"{datapath.id:016x}"
        self._host: str = datapath.address[0]
        self._owner = owner
        self._datapath = datapath
        self._tell = tell
        self._inbox: LightQueue = LightQueue(INBOX)
        self._waiting = 0  # bytes in the inbox
        # What others want is a flag, not a message: nobody may have to wait for room in the inbox of a slow switch.
        self._policy_changed = False
        self._resync = False
        self._new_readers: list[Event] = []
        self._readers: list[Event] = []
        self._new_counters: list[Event] = []
        self._counters: list[Event] = []  # who waits for the reading of counters that is on its way
        self._open = True
        self._why: str | None = None  # it ended, unless we were told to close it
        self._patience = reply_timeout
        self._plan = owner.plan(self.dpid)
        self._session = Session(
            self.dpid,
            datapath.ofproto.OFP_VERSION,
            self._plan,
            lambda: owner.history,
            moment(),
            ":".join(map(str, datapath.address[:2])),
            reply_timeout=reply_timeout,
            audit_interval=audit_interval,
            pickup_grace=pickup_grace,
            forget_cached=forget_cached,
            token=owner.token,
        )

    def run(self) -> None:
        """The switch's thread, from connect to disconnect."""
        report = None
        try:
            self._say(logging.INFO, "hypervisor connected", address=self._host)
            if self._owner.connected(self.dpid, self):
                self._say(logging.WARNING, "a hypervisor connected again: the older connection is closed")
            self._send(self._session.start(moment()))
            while self._open and self._session.dead is None:
                if self._session.report is not report:
                    report = self._session.report
                    self._owner.reported(self.dpid, self, report)
                    if self._session.changes:
                        eventlet.sleep(0)  # who waits for this is answered before it is logged
                self._log()
                self._send(chain(self._handle(), self._rest()))
        except Exception:
            self._say(logging.ERROR, "a session failed", exc_info=True)
            self._session.dead = "an internal error of the controller; its log has it"
        finally:
            STRANGERS.leave(self)
            self.close()
            if self._why is not None:
                self._say(logging.WARNING, "hypervisor disconnected", error=self._why)
            self._readers += self._new_readers
            self._counters += self._new_counters
            gone = Unreachable(f"hypervisor {self.dpid} went away")
            self._wake_readers(gone)
            self._wake_counters(gone)
            while self._inbox.qsize():  # whoever waits for room, waits no longer
                self._inbox.get_nowait()
            self._owner.end_plan(self._plan)
            self._owner.disconnected(self.dpid, self, self._why)
            self._session.let_go()

    def _log(self) -> None:
        """What the session has decided."""
        for line in self._session.changes:
            if isinstance(line, Decision):
                self._say(logging.ERROR if line.serious else logging.INFO, line.event, **line.fields)
            else:
                self._say(logging.INFO, line)
        self._session.changes.clear()
        if self._session.drift:
            found, self._session.drift = self._session.drift, []
            self._owner.drifted(self.dpid, self, found)

    def _say(self, level: int, event: str, **fields: Any) -> None:
        """A line of the log; a switch that causes too many has some left out."""
        if LINES.room(self._host, level):
            short: dict[str, Any] = {n: v[:LONGEST] if isinstance(v, str) else v for n, v in fields.items()}
            LOG.log(level, event[:LONGEST], dpid=self.dpid, **short)

    def _handle(self) -> list[bytes]:
        """Waits for something to happen, and what is to be sent because of it."""
        due = self._session.due
        try:
            event = self._inbox.get(timeout=None if due is None else max(BREATH, due - time.monotonic()))
        except Empty:
            event = None
        now = moment()
        out: list[bytes] = []
        if event is not None:
            self._waiting -= len(event)
            reads = self._session.reads
            more = self._inbox.qsize() > 0
            may_compare = event[1:2] and event[1] in MAY_COMPARE and not (more and event[1] == PORT_STATUS)
            if may_compare and self._session.compares(event):
                out += self._in_turn(lambda: self._session.receive(event, now, more))
            else:
                out += PACE.work(lambda: self._session.receive(event, now, more))
            self._weigh()
            if self._session.reads != reads and self._readers:
                self._wake_readers(self._aside(lambda: [self._tell(raw) for raw in self._session.flows_read]))
        if self._counters and not self._session.counting:
            refused = Unreachable(f"hypervisor {self.dpid} does not tell its counters")
            self._wake_counters(refused if self._session.counted is None else self._session.counted)
        if self._policy_changed or (self._session.behind and not self._inbox.qsize()):
            self._policy_changed = False
            out += self._in_turn(lambda: self._session.policy_changed(now))
        if self._session.unfit and self._new_readers:
            self._readers, self._new_readers = self._readers + self._new_readers, []
            self._wake_readers(Unreachable(f"hypervisor {self.dpid}: {self._session.report.error}"))
        if self._session.unfit and (self._new_counters or self._counters):
            self._counters, self._new_counters = self._counters + self._new_counters, []
            self._wake_counters(Unreachable(f"hypervisor {self.dpid}: {self._session.report.error}"))
        if self._new_counters and not self._counters:
            self._counters, self._new_counters = self._new_counters, []
            out += self._session.count()
        if self._resync or self._new_readers:
            self._resync = False
            out += self._session.resync(now, keep_flows=bool(self._new_readers))
            self._readers += self._new_readers
            self._new_readers = []
        due = self._session.due
        if due is not None and now.seconds >= due:
            out += self._session.tick(now)
        token = self._owner.token
        if token is None and self._session.token is not None:
            return self._session.stand_by(now)  # in place of what was decided while the lease was ours
        if token is not None and self._session.token is None:
            return self._session.lead(token, now)
        self._session.token = token  # a greater one, for the next time that the role is asked for
        return out

    def _rest(self) -> Iterator[bytes]:
        """What is made only as it is sent."""
        while self._open and self._session.filling:
            yield from self._aside(lambda: self._session.fill(moment()))

    def _in_turn(self, work: Callable[[], T]) -> T:
        """Work that may compare: in the loop when it is short."""
        if self._plan.cost + self._session.to_compare <= SHORT:
            return PACE.work(work)
        return self._aside(work)

    def _aside(self, work: Callable[[], T]) -> T:
        """Runs work of the switch's own in a native thread; only its green thread waits."""
        with COMPARING if self._owner.is_registered(self.dpid) else COMPARING_STRANGERS:
            done: T = tpool.execute(work)
            return done

    def _weigh(self) -> None:
        if self._owner.is_registered(self.dpid):
            STRANGERS.leave(self)
            return
        heaviest = STRANGERS.weigh(self, self._session.flow_count)
        if heaviest is not None:
            STRANGERS.leave(heaviest)
            heaviest._session.dead = f"nobody registered it, and it holds {heaviest._session.flow_count} flows of ours"
            heaviest._nudge()

    def _send(self, messages: Iterable[bytes]) -> None:
        """Blocks while the switch does not read; one that reads too slowly to be driven is given up."""
        chunk: list[bytes] = []
        size = 0
        with eventlet.Timeout(self._patience, False):
            for message in messages:
                chunk.append(message)
                size += len(message)
                if size >= CHUNK:
                    self._datapath.send(b"".join(chunk))
                    chunk, size = [], 0
                    eventlet.sleep(0)
            if chunk:
                self._datapath.send(b"".join(chunk))
            return
        self._session.dead = f"it has not taken what it was sent within {self._patience:g} s"

    def _wake_readers(self, answer: Any) -> None:
        readers, self._readers = self._readers, []
        self._wake(readers, answer)

    def _wake_counters(self, answer: Any) -> None:
        readers, self._counters = self._counters, []
        self._wake(readers, answer)

    def _wake(self, readers: list[Event], answer: Any) -> None:
        for reader in readers:
            if isinstance(answer, Exception):
                reader.send_exception(answer)
            else:
                reader.send(answer)

    # ---- from Ryu

    def received(self, data: bytes) -> None:
        """A message came; blocks the socket's reader when too much waits."""
        while self._open and self._waiting > INBOX_BYTES:
            eventlet.sleep(BREATH)
        if self._open:
            self._waiting += len(data)
            self._inbox.put(data)

    # ---- service.core.Switch

    def policy_changed(self) -> None:
        self._policy_changed = True
        self._nudge()

    def resync(self) -> None:
        self._resync = True
        self._nudge()

    def read_flows(self, timeout: float) -> list[Any]:
        reader = Event()
        self._new_readers.append(reader)
        found: list[Any] = self._wait(reader, timeout)
        return found

    def read_counters(self, timeout: float) -> dict[int, tuple[int, int]]:
        reader = Event()
        self._new_counters.append(reader)
        found: dict[int, tuple[int, int]] = self._wait(reader, timeout)
        return found

    def _wait(self, reader: Event, timeout: float) -> Any:
        self._nudge()
        answer = None
        with eventlet.Timeout(timeout, False):
            answer = reader.wait()
        if answer is None:
            for waiting in (self._readers, self._new_readers, self._counters, self._new_counters):
                if reader in waiting:
                    waiting.remove(reader)
            raise Unreachable(f"hypervisor {self.dpid} did not answer within {timeout:g} s")
        return answer

    def close(self) -> None:
        if self._open:
            self._open = False
            # Asked now: closing ends the connection, too.
            self._why = self._session.dead or _why_it_ended(self._datapath)
            self._datapath.firewall_link = None
            self._datapath.close()
            self._nudge()

    def _nudge(self) -> None:
        """Wakes the switch's thread; one that has messages waiting needs no waking."""
        try:
            self._inbox.put_nowait(None)
        except Full:
            pass
