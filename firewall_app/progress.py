"""What switches were asked, have confirmed, and refused: the source of every `status` that the API shows.

Pure: told of facts, asked for conclusions.  Nothing of it is stored.  After a restart nothing is confirmed until the
switches have been read back, so that "succeeded" never rests on memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from .history import History, Point
from .pipeline.compile import numbers_of, ports_here
from .pipeline.unit import Unit, UnitKey
from .policy.model import Firewall, Name, Port
from .policy.policy import Change, Policy

MOST_DRIFT = 100  # flows of one hypervisor that are remembered


class Status(Enum):
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABSENT = "absent"  # ports: the switch has no such interface yet
    UNREACHABLE = "unreachable"  # ports: their switch is not connected


class Sync(Enum):
    IN_SYNC = "in_sync"
    SYNCING = "syncing"
    FAILED = "failed"
    STANDBY = "standby"  # another controller drives it
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class Drift:
    """What somebody else did to a flow of ours, which was put right; or a flow of theirs in a table of ours."""

    at: datetime
    what: str  # added, changed or removed; foreign: left alone
    flow: str  # as it was found; when it was removed, as it should be


@dataclass(frozen=True)
class SwitchReport:
    """What a session says of its switch, at one moment.  Revisions are those of the policy; -1 is none."""

    sync: Sync = Sync.UNREACHABLE
    confirmed: int = -1  # the newest revision that the switch has confirmed
    failed: int = -1  # the newest revision that it refused
    error: str | None = None
    address: str | None = None
    connected_since: datetime | None = None
    openflow: str | None = None
    software: str | None = None
    flows: int = 0
    last_change_at: datetime | None = None
    last_repair_at: datetime | None = None
    repaired_flows: int = 0
    foreign_flows: int = 0  # of others, in tables of ours
    fence: Point | None = None  # what it holds, when that is not ours to change
    watched: bool | None = None  # whether it tells of changes by others at once; None: not known yet
    interfaces: Mapping[int, str] = field(default_factory=dict)

    @property
    def connected(self) -> bool:
        return self.sync is not Sync.UNREACHABLE


UNKNOWN = SwitchReport()


@dataclass(frozen=True)
class PendingChange:
    """One droplet that a firewall's last change has not reached yet."""

    droplet_id: int
    removing: bool
    status: Status


@dataclass
class _Asked:
    """What has to be seen yet of a firewall's changes: which revision which hypervisors must confirm."""

    hosts: dict[str, int] = field(default_factory=dict)  # for the droplets that it has there
    left: dict[int, dict[str, int]] = field(default_factory=dict)  # ... and for one that it has there no more


@dataclass(eq=False)
class _Waiter:
    """Somebody who waits for hypervisors to answer; `hosts` are those that have not."""

    revision: int
    hosts: set[str]
    wake: Callable[[], None]


ALWAYS = 1 << 63


class Wanted(NamedTuple):
    """What a switch should hold.

    `cut`: the newest revision of which live connections are to feel what it took away.  When the switch has confirmed
    that one, what is taken away since was asked to leave them alone.
    """

    history: History  # up to the revision that the units are of
    units: dict[UnitKey, Unit]
    cut: int = ALWAYS
    gone: Set[UnitKey] | None = None  # names; `units` are those that are new or others.  None: they are all there are

    @property
    def revision(self) -> int:
        return self.history.revision


@dataclass
class Totals:
    """What happened since this process started."""

    changes: int = 0  # of the policy
    connections: int = 0  # of switches
    refusals: int = 0
    repairs: int = 0
    repaired_flows: int = 0

    def count(self, old: SwitchReport, new: SwitchReport) -> None:
        """What a report tells that the one before did not; a switch that connects begins anew."""
        if new.connected_since != old.connected_since:
            self.connections += new.connected
            old = SwitchReport()
        self.refusals += new.sync is Sync.FAILED and (old.sync, old.failed) != (Sync.FAILED, new.failed)
        self.repairs += new.last_repair_at is not None and new.last_repair_at != old.last_repair_at
        self.repaired_flows += new.repaired_flows - old.repaired_flows


class Progress:
    """Follows each change until every switch concerned has confirmed it."""

    def __init__(self, revision: int) -> None:
        self._start = revision
        self.reports: dict[str, SwitchReport] = {}
        self.drift: dict[str, deque[Drift]] = {}  # hypervisor -> what others did to its flows, the newest last
        self.totals = Totals()
        self._hosts: dict[str, int] = {}  # hypervisor -> the revision that concerned it last
        self._firewalls: dict[str, _Asked] = {}
        # What rules name that has changed by itself, and what hypervisors must confirm since: for all firewalls whose
        # rules name it at once, however many they are.
        self._named: dict[Name, dict[str, int]] = {}
        self._waiters: dict[str, list[_Waiter]] = {}  # by each hypervisor that they wait for

    # ---- facts

    def restarted(self, revision: int) -> None:
        """The policy became another one, at `revision`, in a way that is not known: everything is asked anew."""
        self._start = revision
        self._hosts.clear()
        self._firewalls.clear()
        self._named.clear()
        self.reports = {dpid: replace(report, confirmed=-1, failed=-1) for dpid, report in self.reports.items()}

    def changed(
        self, before: Policy, after: Policy, changes: Sequence[Change], hosts: frozenset[str], rev: int
    ) -> None:
        """A change was committed at revision `rev`; `hosts` are the hypervisors that it concerns."""
        self.totals.changes += 1
        to_confirm = dict.fromkeys(hosts, rev)
        self._hosts.update(to_confirm)
        touched: set[str] = set()
        for change in changes:
            touched |= before.touched_firewalls(change) | after.touched_firewalls(change)
            for name in before.names_of(change) | after.names_of(change):
                if after.naming(name):
                    self._named.setdefault(name, {}).update(to_confirm)
                else:
                    self._named.pop(name, None)
        moved = {change.old.droplet_id for change in changes if isinstance(change.old, Port)}
        for firewall_id in touched:
            if firewall_id not in after.firewalls:
                self._firewalls.pop(firewall_id, None)
                continue
            old, new = before.firewalls.get(firewall_id), after.firewalls[firewall_id]
            was = before.droplets_behind(old) if old else frozenset()
            now = after.droplets_behind(new)
            asked = self._firewalls.setdefault(firewall_id, _Asked())
            where = (before.hosts_of_all(was | now) | after.hosts_of_all(was | now)) & hosts
            asked.hosts.update(dict.fromkeys(where, rev))
            for droplet_id in was & (moved | (was - now)):
                stays = after.hosts_of(droplet_id) if droplet_id in now else frozenset()
                gone = dict.fromkeys((before.hosts_of(droplet_id) & hosts) - stays, rev)
                if gone:
                    over = [one for one, hosts in asked.left.items() if self.outcome(hosts) is Status.SUCCEEDED]
                    for one in over:
                        del asked.left[one]
                    asked.left[droplet_id] = {**asked.left.get(droplet_id, {}), **gone}

    def reported(self, dpid: str, report: SwitchReport) -> None:
        """A switch said how it stands."""
        self.totals.count(self.report(dpid), report)
        self.reports[dpid] = report
        done = max(report.confirmed, report.failed)
        for waiter in [one for one in self._waiters.get(dpid, ()) if one.revision <= done]:
            self._leave(waiter, dpid)
            if not waiter.hosts:
                waiter.wake()

    def _leave(self, waiter: _Waiter, dpid: str) -> None:
        waiter.hosts.discard(dpid)
        waiting = self._waiters[dpid]
        waiting.remove(waiter)
        if not waiting:
            del self._waiters[dpid]

    def forget(self, dpid: str) -> None:
        """A switch that nobody registered is gone."""
        self.reports.pop(dpid, None)
        self.drift.pop(dpid, None)

    def drifted(self, dpid: str, found: Iterable[Drift]) -> None:
        """Others did something to the flows of a switch."""
        self.drift.setdefault(dpid, deque(maxlen=MOST_DRIFT)).extend(found)

    # ---- conclusions

    def settled(self, revision: int, hosts: Iterable[str]) -> bool:
        """Whether each of the hypervisors has confirmed or refused a revision."""
        return all(max(r.confirmed, r.failed) >= revision for r in map(self.report, hosts))

    def report(self, dpid: str) -> SwitchReport:
        return self.reports.get(dpid, UNKNOWN)

    def confirmed(self, dpid: str) -> bool:
        """Whether a hypervisor has confirmed the newest change that concerns it."""
        return self.report(dpid).confirmed >= self._hosts.get(dpid, self._start)

    def when_settled(self, revision: int, hosts: frozenset[str], wake: Callable[[], None]) -> Callable[[], None]:
        """Calls `wake` once the hypervisors have answered; returns what to call to give up."""
        waiter = _Waiter(revision, {dpid for dpid in hosts if not self.settled(revision, (dpid,))}, wake)
        for dpid in waiter.hosts:
            self._waiters.setdefault(dpid, []).append(waiter)

        def give_up() -> None:
            for dpid in list(waiter.hosts):
                self._leave(waiter, dpid)

        return give_up

    def outcome(self, hosts: Mapping[str, int]) -> Status:
        """How hypervisors stand to the revision that each is to confirm: succeeded, waiting or failed."""
        behind = [(self.report(dpid), revision) for dpid, revision in hosts.items()]
        behind = [(report, revision) for report, revision in behind if report.confirmed < revision]
        if any(report.failed >= revision for report, revision in behind):
            return Status.FAILED
        return Status.WAITING if behind else Status.SUCCEEDED

    def owing(self, policy: Policy, firewalls: Iterable[Firewall]) -> frozenset[str]:
        """The hypervisors that have not confirmed what was last asked of them for these firewalls of a policy."""
        found: set[str] = set()
        for firewall in firewalls:
            asked = self._firewalls.get(firewall.id) or _Asked()
            for hosts in (asked.hosts, *asked.left.values()):
                found.update(dpid for dpid, revision in hosts.items() if self.report(dpid).confirmed < revision)
            late = {
                dpid
                for name in firewall.named
                for dpid, revision in self._named.get(name, {}).items()
                if self.report(dpid).confirmed < revision
            }
            if late:
                found |= late & policy.hosts_of_all(policy.droplets_behind(firewall))
        return frozenset(found)

    def pending(self, policy: Policy, firewall_id: str) -> tuple[PendingChange, ...]:
        """The droplets that a firewall's last changes have not reached, by droplet id."""
        asked = self._firewalls.get(firewall_id) or _Asked()
        firewall = policy.firewalls[firewall_id]
        members = policy.droplets_behind(firewall)
        since = [asked.hosts, *(self._named[name] for name in firewall.named if name in self._named)]
        found = []
        for droplet_id in sorted(members | asked.left.keys()):
            hosts = dict(asked.left.get(droplet_id, ()))
            for dpid in policy.hosts_of(droplet_id) if droplet_id in members else ():
                # What was in force before this process started is asked of every switch when it connects.
                hosts[dpid] = max(revisions.get(dpid, self._start) for revisions in since)
            status = self.outcome({dpid: rev for dpid, rev in hosts.items() if self._counts(policy, dpid)})
            if status is not Status.SUCCEEDED:
                found.append(PendingChange(droplet_id, droplet_id not in members, status))
            else:
                asked.left.pop(droplet_id, None)
        return tuple(found)

    def _counts(self, policy: Policy, dpid: str) -> bool:
        """Whether a hypervisor is to be waited for: one that is neither registered nor there is gone for good."""
        return dpid in policy.hypervisors or self.report(dpid).connected

    @staticmethod
    def status_of(pending: Iterable[PendingChange]) -> Status:
        """What the pending changes of a firewall amount to."""
        statuses = {change.status for change in pending}
        if Status.FAILED in statuses:
            return Status.FAILED
        return Status.WAITING if statuses else Status.SUCCEEDED

    def port_status(self, policy: Policy, port_id: str) -> tuple[Status, str | None, int | None, str | None]:
        """(status, error, OpenFlow number, interface name) of a port, the latter two as its switch has them."""
        port = policy.ports[port_id]
        report = self.report(port.hypervisor)
        number, name = port.number, port.interface
        if name is not None:
            number = numbers_of(report.interfaces).get(name)
        elif number is not None:
            name = report.interfaces.get(number)
        if not report.connected:
            return Status.UNREACHABLE, None, number, name
        if number is None and name in report.interfaces.values():
            return Status.FAILED, f"several switch ports are named {name}", None, name
        if number is None or number not in report.interfaces:
            if report.sync is Sync.SYNCING and not report.interfaces:
                return Status.WAITING, None, number, name
            if report.sync is Sync.FAILED and not report.interfaces:  # a switch that is not driven tells of no port
                return Status.FAILED, report.error, number, name
            return Status.ABSENT, None, number, name
        holder = next((p.id for p, n in ports_here(policy, port.hypervisor, report.interfaces) if n == number), port_id)
        if holder != port_id:
            return Status.FAILED, f"switch port {number} belongs to port {holder}", number, name
        outcome = self.outcome({port.hypervisor: self._hosts.get(port.hypervisor, self._start)})
        return outcome, report.error if outcome is Status.FAILED else None, number, name
