"""The policy in force, the one way to change it, and the switches that follow it.

A change, start to end: draft from the policy in force (faults are raised here, and nothing has happened) -> commit to
the store -> the new policy is in force -> switches concerned are told to look.  Changes go one after the other, those
that wait share a commit (`writing.py`); reads go on meanwhile and see the policy before or after, never between.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from .. import logs
from ..history import History, Point
from ..pipeline.compile import Rulings
from ..pipeline.flow import Flow
from ..pipeline.plan import Parts, units
from ..pipeline.touched import Touched, touched
from ..policy.errors import NotFound, Standby, StoreError, Unreachable
from ..policy.model import Firewall
from ..policy.policy import Change, Counters, Draft, Policy, merged
from ..progress import Drift, Progress, SwitchReport, Sync, Wanted
from ..records import Entry, Key, Note, Outcome, Token
from .deed import Deed
from .planning import Kept, Planning
from .writing import Event, Groups, Job

LOG = logs.get(__name__)
T = TypeVar("T")
PATIENCE = 10  # seconds that a write waits for those before it
STRANGERS = 1000  # switches that nobody registered and that are gone: as many are listed
PROBE = timedelta(seconds=5)  # between two questions whether a store that took no write takes them again


class KeptStore(Protocol):
    """What the core needs of a store; every method raises StoreError."""

    def commit(
        self,
        changes: Iterable[Change],
        counters: Counters,
        expected: Point,
        notes: Sequence[Note] = (),
        revisions: int = 1,
    ) -> Point: ...

    def load(self) -> tuple[Policy, History]: ...

    def newest(self) -> Point: ...

    def branch(self) -> None: ...

    def supersede(self, point: Point, entry: Entry | None = None) -> None: ...

    def ping(self, write: bool = False) -> None: ...

    def record(self, *entries: Entry) -> None: ...

    def made_with(self, key: Key) -> tuple[str, str] | None: ...

    def entries(self, wanted: Mapping[str, str], first: int, count: int) -> tuple[list[Entry], int]: ...

    def tokens(self) -> list[Token]: ...

    def tokens_mark(self) -> tuple[object, ...]: ...

    def add_token(self, token: Token, entry: Entry | None = None) -> None: ...

    def revoke_token(self, token_id: str, when: datetime, entry: Entry | None = None) -> None: ...


class Lock(Protocol):
    """One at a time; of the kind that the runtime's loop knows."""

    def acquire(self, *, timeout: float) -> bool: ...

    def release(self) -> object: ...

    def __enter__(self) -> object: ...

    def __exit__(self, *_: Any) -> object: ...


class Runtime(Protocol):
    """How the program waits, runs slow work and tells time; the rim decides with what."""

    def lock(self) -> Lock: ...

    def slow(self, work: Callable[[], T]) -> T:
        """Runs work that takes long by itself, without holding up anything else but work of the same kind."""
        ...

    def aside(self, work: Callable[[], T]) -> T:
        """Runs what waits for something outside; it never waits behind slow work."""
        ...

    def pause(self) -> None:
        """Lets others go on who have something to do: what switches were asked for is sent."""
        ...

    def event(self) -> Event:
        """For what may never come: the end of the program gives it up."""
        ...

    def certain(self) -> Event:
        """For what always comes."""
        ...

    def now(self) -> datetime: ...


@dataclass(frozen=True)
class FlowStats:
    """A flow as read back from a switch, with its counters."""

    flow: Flow | None  # None when it is none of ours and holds what we do not know
    text: str
    packets: int
    bytes: int


class Switch(Protocol):
    """A connected switch."""

    def policy_changed(self) -> None:
        """The flows that it should hold may differ now."""

    def resync(self) -> None:
        """Read it back, compare, repair."""

    def read_flows(self, timeout: float) -> list[FlowStats]:
        """Every flow with a cookie of ours, read back now.  Raises Unreachable."""

    def read_counters(self, timeout: float) -> Mapping[int, tuple[int, int]]:
        """Packets and bytes that the flows of rules have counted, by the id of the rule.  Raises Unreachable."""

    def close(self) -> None:
        """Disconnect it."""


@dataclass(frozen=True)
class Limits:
    """How much one request, one firewall or one account may hold."""

    droplets: int = 10
    tags: int = 5
    rules: int = 50
    entries: int = 1000
    firewalls: int = 30
    account_firewalls: int = 1000  # 0: no limit
    account_tags: int = 1000  # as above


@dataclass(frozen=True)
class Written(Generic[T]):
    """What a write did: its result, and which switches must confirm which revision."""

    value: T
    revision: int
    hosts: frozenset[str]


class Core:
    """The state of the program."""

    deed: Deed | None = None  # the request that this core writes for; see `acting`

    def __init__(
        self,
        policy: Policy,
        history: History,
        store: KeptStore,
        runtime: Runtime,
        rulings: Rulings | None = None,
        limits: Limits | None = None,
        token: int | None = 1,
    ) -> None:
        """`token`: under which the lease is ours; None: another controller has it, and this one stands by."""
        self.token = token
        self.active = ""  # where the controller is that has the lease, when it is another
        self._kept: Kept = policy, history, 1  # as one: a thread never has one of before and one of after
        self.progress = Progress(history.revision)
        self.rulings = rulings or Rulings()
        self._parts = Parts()
        self._plannings: dict[str, set[Planning]] = {}  # of the switches that are connected
        self.limits = limits or Limits()
        self.runtime = runtime
        self.store = store
        self.store_failures = 0
        self._store_fails = False  # said once, and once when it has passed
        self._takes_writes = True  # whether the store took the last write
        self._probed = datetime.min.replace(tzinfo=UTC)  # when it was last asked whether it takes writes again
        self._writing = runtime.lock()
        self._groups = Groups(runtime.certain)
        self._reading = runtime.lock()  # the audit log, which has a connection of its own
        self._storing = runtime.lock()  # a store has one connection, and serves one caller at a time
        # Account -> its firewalls, and the same from the oldest on (firewalls.every).
        self.by_age: dict[str, tuple[frozenset[str], list[str]]] = {}
        self._switches: dict[str, Switch] = {}
        self._untold: set[str] = set()  # hypervisors whose switches have not been told yet that a write concerns them
        self._cuts: dict[str, int] = {}  # hypervisor -> the newest revision that cuts live connections there
        self._cut_all = history.revision  # ... of those that no change concerned yet

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._kept[0]

    @property
    def history(self) -> History:
        """What the policy in force descends from; its revision is the policy's."""
        return self._kept[1]

    @property
    def revision(self) -> int:
        return self.history.revision

    # ---- changing the policy

    def acting(self, deed: Deed) -> Core:
        """This core, for one request that changes something."""
        return _Acting(self, deed)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """While it is held nobody else writes.  Raises StoreError when others do not come to an end."""
        if not self._writing.acquire(timeout=PATIENCE):
            raise StoreError(f"others have been writing for {PATIENCE} s")
        try:
            yield
        finally:
            self._writing.release()

    @contextmanager
    def alone(self) -> Iterator[Deed]:
        """While it is held nobody else writes; gives the deed that it is held for.

        Raises StoreError when others do not come to an end; what the deed's authority raises.
        """
        with self._turn():
            deed = self.deed or Deed()
            if deed.authority is not None:
                deed.authority()
            yield deed

    def keep(self, deed: Deed, work: Callable[[Entry | None], None], entry: Entry | None) -> None:
        """Has the store change something beside the policy, together with its line in the audit log; while `alone`."""
        self.check_active()
        self.stored(lambda: work(entry), writes=True)
        deed.noted = True

    def write(self, edit: Callable[[Draft], T]) -> Written[T]:
        """Drafts, commits and puts in force.  What `edit` raises leaves everything as it was.

        Connections that live by what the write takes away are cut, on every switch as it follows, unless the deed
        keeps them.
        """
        job = Job(self.deed or Deed(), edit)
        try:
            value = self._groups.run(job, self._turn, self._write)
        finally:
            self._tell()
        return Written(value, job.revision, job.hosts)

    def _write(self, jobs: Sequence[Job[Any]]) -> None:
        """A group of writes, while nobody else writes.  They share the fate of their commit."""
        self.check_active()
        keys = {job.deed.key for job in jobs if job.deed.key is not None}
        made = {
            (key.scope, key.key): found for key in keys if (found := self.stored(partial(self.store.made_with, key)))
        }
        in_force = policy = self.policy
        for job in jobs:  # nothing waits in here: what is asked of one is true of all until they are stored
            policy = job.draft(policy, self.limits.firewalls, made)
        drafted = [job for job in jobs if job.fault is None]
        history = self.history
        try:
            timeline = self._commit(drafted)
        except StoreError as error:
            for job in jobs:  # also what was refused for the sake of what is not in force
                if job.fault is None or job.before is not in_force:
                    job.fault = error
            return
        for job in drafted:
            if job.changes:
                history = history.after(Point(timeline, history.revision + 1))
            self._put_in_force(job, history)
            self._untold |= job.hosts

    def _tell(self) -> None:
        """Has switches look that a write concerns; each once, however many were kept together."""
        hosts, self._untold = self._untold, set()
        for dpid in hosts:
            if dpid in self._switches:
                self._switches[dpid].policy_changed()

    def _commit(self, jobs: Sequence[Job[Any]]) -> int:
        """Has the store keep what was drafted, all of it or nothing; gives the timeline.  Raises StoreError."""
        notes = [job.note for job in jobs if job.note is not None]
        changing = [job for job in jobs if job.changes]
        point = self.history.point
        if changing:
            changes = merged(change for job in changing for change in job.changes)
            counters, count = changing[-1].counters, len(changing)
            try:
                work = partial(self.store.commit, changes, counters, point, notes, count)
                return self.stored(work, writes=True).timeline
            except StoreError:
                self.store.branch()  # it may have been kept: its point is never given to another state
                self._catch_up()
                raise
        if notes:
            self.stored(partial(self.store.record, *(note.entry for note in notes)), writes=True)
        return point.timeline

    def _put_in_force(self, job: Job[Any], history: History) -> None:
        """What a job has drafted, and the store has kept."""
        before, after, changes, revision = job.before, job.after, job.changes, history.revision
        # What is as it was already may not have reached every switch yet: those are asked again, too.
        concerned: frozenset[str] = frozenset().union(*(before.concerned(c) | after.concerned(c) for c in job.touched))
        hosts = frozenset(dpid for dpid in concerned if dpid in after.hypervisors or dpid in self._switches)
        if changes:
            if not job.deed.keeps:
                self._cuts.update(dict.fromkeys(hosts, revision))  # before the policy: see `units`
            self._in_force(after, history, concerned, touched(before, after, changes))
            # Who has not confirmed what these firewalls were before is to confirm what they are now.
            owing = self.progress.owing(before, (c.old for c in changes if isinstance(c.old, Firewall)))
            self.progress.changed(before, after, changes, hosts, revision)
            hosts |= owing
            entry = job.deed.entry
            request = entry.request_id if entry is not None else None
            LOG.info("policy changed", request=request, revision=revision, objects=len(changes), hypervisors=len(hosts))
        job.deed.after, job.deed.noted = after, True
        job.revision, job.hosts = revision, hosts

    def _in_force(self, policy: Policy, history: History, hosts: Iterable[str], found: Touched | None) -> None:
        """A new policy, and what it touches on these hypervisors."""
        serial = self._kept[2] + 1
        self._parts.touch(found, policy, serial)
        for dpid in hosts:
            for planning in self._plannings.get(dpid, ()):
                planning.note(serial, found)
        self._kept = policy, history, serial

    def record(self, outcome: Outcome, problem: str = "", fault: Exception | None = None) -> None:
        """Notes a request that came to no write.  What cannot be kept is logged: no line is dropped in silence.

        `fault`: why it came to none.  A store that has just failed is not asked once more.
        """
        entry = self.deed.ended(outcome, problem) if self.deed is not None and not self.deed.noted else None
        if entry is None:
            return
        try:
            if isinstance(fault, StoreError):
                raise fault
            if not self._takes_writes:
                raise StoreError("it takes no writes")
            self.stored(lambda: self.store.record(entry), writes=True)
        except StoreError as error:
            LOG.error(
                "the audit log cannot be written", request=entry.request_id, error=error,
                entry=json.dumps(asdict(entry), default=lambda value: getattr(value, "value", str(value))),
            )  # fmt: skip

    def stored(self, work: Callable[[], T], writes: bool = False) -> T:
        """What the store does, while the loop goes on."""
        if not self._storing.acquire(timeout=PATIENCE):
            raise StoreError(f"the store has been busy for {PATIENCE} s")
        try:
            done = self.runtime.aside(work)
        except Standby as another:
            self.stand_by(another.active)
            raise
        except StoreError as error:
            if not self._store_fails:
                LOG.error("the store fails", error=error)
            self.store_failures += 1
            self._store_fails = True
            self._takes_writes &= not writes
            raise
        finally:
            self._storing.release()
        self._takes_writes |= writes
        if self._store_fails and self._takes_writes:
            LOG.warning("the store works again")
            self._store_fails = False
        return done

    def _catch_up(self) -> None:
        """After a commit that failed: it may have been kept all the same, or another controller has written."""
        with suppress(StoreError):  # the store is away; what is in force stays in force
            if self.stored(self.store.newest) != self.history.point:
                self._take_up()

    def _take_up(self) -> None:
        """What the store holds, when that is not what is in force; while `alone`.  Raises StoreError."""
        policy, history = self.stored(self.store.load)
        if history != self.history:
            ours, found = self.history.point, history.point
            say = LOG.debug if self.token is None else LOG.warning
            say(
                "the store has moved on by itself",
                revision=found.revision, timeline=found.name, was_revision=ours.revision, was_timeline=ours.name,
            )  # fmt: skip
            self.store.branch()
            self._cuts.clear()
            self._cut_all = history.revision
            self._in_force(policy, history, list(self._plannings), None)
            self.progress.restarted(history.revision)
            self._all_look()

    def follow(self, whole: bool = False) -> None:
        """Takes up what has happened to the store behind our back: another controller's change, a restored backup.

        `whole`: also what the newest point does not tell.  Raises StoreError.
        """
        if whole or self.stored(self.store.newest) != self.history.point:
            with self.alone():
                self._take_up()

    def supersede(self, point: Point, deed: Deed, entry: Entry | None) -> None:
        """From now on this store goes before a timeline of another; while `alone`."""
        self.keep(deed, lambda noted: self.store.supersede(point, noted), entry)
        self._kept = self.policy, self.history.superseding(point), self._kept[2]
        self._all_look()

    def _all_look(self) -> None:
        for switch in list(self._switches.values()):
            switch.policy_changed()

    def wait(self, written: Written[T], seconds: float) -> bool:
        """Waits until every switch concerned has confirmed or refused a write; False when the time is up."""
        event = self.runtime.event()
        give_up = self.progress.when_settled(written.revision, written.hosts, event.set)
        try:
            return self.progress.settled(written.revision, written.hosts) or event.wait(seconds)
        finally:
            give_up()

    def entries(self, wanted: Mapping[str, str], first: int, count: int) -> tuple[list[Entry], int]:
        """Lines of the audit log (`store.Store.entries`); other work of the store goes on meanwhile."""
        with self._reading:
            return self.runtime.aside(lambda: self.store.entries(wanted, first, count))

    # ---- one of several controllers

    def lead(self, token: int) -> None:
        """The lease is ours, and the policy the newest: this controller drives the switches."""
        if token != self.token:
            LOG.warning("active: this controller has the lease", token=token)
            self.token, self.active, self._takes_writes = token, "", True
            self._all_look()

    def stand_by(self, active: str) -> None:
        """The lease is another's.  Before anything else nothing is sent to switches any more."""
        if self.token is not None:
            self.token = None
            LOG.warning("standby: another controller has the lease", active=active or None)
            self._all_look()
        self.active = active

    def check_active(self) -> None:
        """Raises Standby when the lease is another's."""
        if self.token is None:
            raise Standby(self.active)

    # ---- switches

    def plan(self, dpid: str) -> Planning:
        """To be asked what a switch should hold, from any thread; until `end_plan`."""
        # What cuts live connections is read after the policy, and written before.
        cut = lambda: self._cuts.get(dpid, self._cut_all)  # noqa: E731
        planning = Planning(dpid, self.rulings, self._parts, lambda: self._kept, cut)
        self._plannings.setdefault(dpid, set()).add(planning)
        return planning

    def end_plan(self, planning: Planning) -> None:
        """Its switch has gone."""
        others = self._plannings.get(planning.dpid, set())
        others.discard(planning)
        if not others:
            self._plannings.pop(planning.dpid, None)

    def units(self, dpid: str, interfaces: Mapping[int, str]) -> Wanted:
        """What a switch with these interfaces should hold now, planned from nothing."""
        policy, history, _ = self._kept
        return Wanted(history, units(policy, dpid, interfaces, self.rulings), self._cuts.get(dpid, self._cut_all))

    def is_registered(self, dpid: str) -> bool:
        return dpid in self.policy.hypervisors

    def connected(self, dpid: str, switch: Switch) -> bool:
        """A switch came; an older connection of the same datapath id is closed.  Whether there was one."""
        old = self._switches.get(dpid)
        self._switches[dpid] = switch
        if old is None or old is switch:
            return False
        old.close()
        return True

    def reported(self, dpid: str, switch: Switch, report: SwitchReport) -> None:
        """A switch said how it stands; what a replaced connection still says is not heard."""
        if self._switches.get(dpid) is switch:
            self.progress.reported(dpid, report)

    def drifted(self, dpid: str, switch: Switch, found: Iterable[Drift]) -> None:
        """Others did something to the flows of a switch."""
        if self._switches.get(dpid) is switch:
            self.progress.drifted(dpid, found)

    def disconnected(self, dpid: str, switch: Switch, why: str | None = None) -> None:
        """A switch went.  What it confirmed stays confirmed: without us it keeps its flows."""
        if self._switches.get(dpid) is switch:
            del self._switches[dpid]
            last = self.progress.report(dpid)
            gone = SwitchReport(
                confirmed=last.confirmed,
                failed=last.failed,
                error=why or last.error,
                flows=last.flows,
                fence=last.fence,
            )
            self.progress.reported(dpid, gone)
            if dpid not in self.policy.hypervisors:  # a fleet that goes is not looked through for each of it
                self._forget_strangers()

    def refused(self, dpid: str, address: str, why: str) -> None:
        """A switch was turned away before it was anybody's; one of that name that is connected knows nothing of it."""
        last = self.progress.report(dpid)
        if not last.connected:
            self.progress.reported(dpid, replace(last, error=f"{address} was refused: {why}"))
            self._forget_strangers()

    def _forget_strangers(self) -> None:
        """Of switches that nobody registered and that are gone, the last ones are listed, however many come."""
        reports = self.progress.reports
        gone = [dpid for dpid in reports if not reports[dpid].connected and dpid not in self.policy.hypervisors]
        for dpid in gone[: max(0, len(gone) - STRANGERS)]:
            self.progress.forget(dpid)

    def switch(self, dpid: str) -> Switch:
        """A connected switch.  Raises NotFound for one that nobody knows, Unreachable for one that is not there."""
        if dpid in self._switches:
            return self._switches[dpid]
        if dpid in self.policy.hypervisors or dpid in self.progress.reports:
            raise Unreachable(f"hypervisor {dpid} is not connected")
        raise NotFound(f"there is no hypervisor {dpid}")

    def disconnect(self) -> None:
        """All of them: the program ends."""
        for switch in list(self._switches.values()):
            switch.close()

    # ---- health

    def ready(self) -> list[str]:
        """Why the service is not ready; empty when it is."""
        problems = [] if self.token is not None else ["standby: another controller is active"]
        try:
            if self._takes_writes or self.token is None:
                self.stored(self.store.ping)
            elif abs(self.runtime.now() - self._probed) >= PROBE:  # however many ask, and whichever way clocks jump
                self._probed = self.runtime.now()
                self.stored(lambda: self.store.ping(write=True), writes=True)
            else:
                raise StoreError("it takes no writes")
        except StoreError as error:
            if not self._store_fails:  # or the log has it
                LOG.error("the store is not reachable", error=error)
            problems.append("store: not reachable")  # anyone may ask; the words are for the log
        for dpid, report in sorted(self.progress.reports.items()):
            out_of_step = report.connected and report.sync not in (Sync.IN_SYNC, Sync.STANDBY)
            if dpid in self.policy.hypervisors and out_of_step:
                problems.append(f"hypervisor {dpid}: {'fenced' if report.fence else report.sync.value}")
        return problems


class _Acting(Core):
    """A core for one request.  All of its state is the core's, but for the request."""

    __slots__ = ("deed",)

    def __init__(self, core: Core, deed: Deed) -> None:
        self.__dict__ = core.__dict__
        self.deed = deed
