"""A `Core` without eventlet, database or switches: a store in memory, a runtime of threads, switches that obey."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

from memorystore import MemoryJournal

from firewall_app.history import Point, beginning
from firewall_app.policy.errors import StoreError
from firewall_app.policy.policy import Policy
from firewall_app.progress import SwitchReport, Sync
from firewall_app.service.core import Core

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class MemoryStore(MemoryJournal):
    """Accepts commits, or fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[tuple] = []
        self.broken: str | None = None
        self.stored: tuple = ()
        self.lost_answer = False
        self.branches = 0
        self.superseded = []

    def commit(self, changes, counters, expected, notes=(), revisions=1):
        if self.broken:
            raise StoreError(self.broken)
        if self.lost_answer:
            raise StoreError("the connection broke")
        self.note(notes)
        self.commits.append((tuple(changes), counters))
        return Point(expected.timeline, expected.revision + revisions)

    def load(self):
        if self.broken:
            raise StoreError(self.broken)
        return self.stored

    def newest(self):
        return self.load()[1].point

    def branch(self):
        self.branches += 1

    def supersede(self, point, entry=None):
        self.ping()
        self.superseded.append(point)

    def ping(self, write=False):
        if self.broken:
            raise StoreError(self.broken)


class ThreadRuntime:
    """Waits with threads, works at once; time stands still."""

    def lock(self):
        return threading.Lock()

    def slow(self, work):
        return work()

    def aside(self, work):
        return work()

    def pause(self): ...

    def event(self):
        return threading.Event()

    def certain(self):
        return threading.Event()

    def now(self):
        return NOW


class FakeSwitch:
    """Confirms, refuses or ignores what it is told."""

    def __init__(self, core: Core, dpid: str, interfaces: dict[int, str] | None = None) -> None:
        self.core, self.dpid = core, dpid
        self.interfaces = interfaces or {}
        self.told = 0
        self.closed = False
        self.behaviour = "confirm"
        self.report = SwitchReport(Sync.SYNCING, interfaces=self.interfaces)
        core.connected(dpid, self)
        self.act()

    def policy_changed(self):
        self.told += 1
        self.act()

    def act(self):
        revision = self.core.revision
        match self.behaviour:
            case "confirm":
                self.say(SwitchReport(Sync.IN_SYNC, confirmed=revision, interfaces=self.interfaces))
            case "refuse":
                last = self.core.progress.report(self.dpid).confirmed
                self.say(SwitchReport(Sync.FAILED, last, revision, "TABLE_FULL", interfaces=self.interfaces))

    def say(self, report):
        self.core.reported(self.dpid, self, report)

    def resync(self):
        pass

    def read_flows(self, timeout):
        return []

    def read_counters(self, timeout):
        return {}

    def close(self):
        self.closed = True


def fake_core(policy: Policy | None = None, **options) -> tuple[Core, MemoryStore]:
    store = MemoryStore()
    store.stored = (policy or Policy(), beginning(revision=5))
    return Core(*store.stored, store, ThreadRuntime(), **options), store
