"""Writes that wait for their turn, so that the store keeps them together: a group commit.

The first that waits takes with it those that come before its turn has come (leader and followers), up to a bound.
Each is drafted from the policy that the one before it has left, and keeps its own conditions, faults, revision and line
in the audit log.

Called in the loop alone.  What is stored, and what follows from it, is the core's (`core.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from ..policy.errors import Crowded, Invalid, StoreError
from ..policy.model import Droplet, Firewall
from ..policy.policy import Change, Counters, Draft, Policy
from ..records import Key, Note
from .deed import Deed

T = TypeVar("T")
MOST_TOGETHER = 16  # writes in one group: they are drafted in one go, while nobody else has a turn
LONGEST_WAIT = 60  # seconds until a write asks again whether its group has come to an end
Made = tuple[str, str]  # the fingerprint of a request with an Idempotency-Key, and the id of what it made


class Event(Protocol):
    """Something to wait for; of the kind that the runtime's loop knows."""

    def set(self) -> None: ...

    def wait(self, timeout: float) -> bool: ...


@dataclass(eq=False)
class Job(Generic[T]):
    """One write: what is asked for, and what has come of it."""

    deed: Deed
    edit: Callable[[Draft], T]
    fault: Exception | None = None  # why it is refused, or failed
    value: Any = None  # what `edit` gives: a T, once it was called
    before: Policy = field(default_factory=Policy)
    after: Policy = field(default_factory=Policy)
    counters: Counters = field(default_factory=Counters)
    changes: tuple[Change, ...] = ()
    touched: tuple[Change, ...] = ()
    note: Note | None = None
    revision: int = 0
    hosts: frozenset[str] = frozenset()

    def draft(self, policy: Policy, most: int, made: MutableMapping[tuple[str, str], Made]) -> Policy:
        """Drafts it from a policy; gives the next one, or the same when it is refused: `fault` says why.

        `most`: firewalls that a droplet may be behind.  `made`: what was made with Idempotency-Keys.
        """
        self.before = self.after = policy
        try:
            self._draft(most, made)
        except Exception as error:  # noqa: BLE001,RUF100 - whoever asked for it raises it
            self.fault, self.after = error, policy
        return self.after

    def _draft(self, most: int, made: MutableMapping[tuple[str, str], Made]) -> None:
        deed, before = self.deed, self.before
        if deed.authority is not None:
            deed.authority()
        if deed.key is not None:
            deed.made_before = _made_before(deed.key, made)
        if deed.condition is not None:
            deed.condition(before)
        draft = before.edit()
        self.value = self.edit(draft)
        self.changes, self.touched, self.counters = draft.changes, draft.touched, draft.counters
        after = draft.done()
        check_firewalls(before, after, self.changes, most)
        self.note = deed.note(self.changes, self.value, before)
        if self.note is not None and self.note.key is not None:
            key = self.note.key
            made[key.scope, key.key] = key.fingerprint, self.note.made
        self.after = after


def _made_before(key: Key, made: MutableMapping[tuple[str, str], Made]) -> str | None:
    """The id of what was made with a key.  Raises Invalid when that was by another request."""
    found = made.get((key.scope, key.key))
    if found is None:
        return None
    if found[0] != key.fingerprint:
        raise Invalid.one("Idempotency-Key", "was used for another request")
    return found[1]


def check_firewalls(before: Policy, after: Policy, changes: Iterable[Change], most: int) -> None:
    """Raises Crowded when a droplet would be behind more firewalls than a switch may be told to ask."""
    for change in changes:
        old, new = change.old, change.new
        reached: Iterable[int] = ()
        if isinstance(new, Firewall):
            attached = (new.droplet_ids, new.tag_keys)
            if not isinstance(old, Firewall) or (old.droplet_ids, old.tag_keys) != attached:
                reached = after.droplets_behind(new)
        elif isinstance(new, Droplet):
            reached = (new.id,)
        for droplet_id in reached:
            count = len(after.firewalls_of(droplet_id))
            if count > max(most, len(before.firewalls_of(droplet_id))):
                raise Crowded(
                    droplet_id,
                    f"droplet {droplet_id} would be behind {count} firewalls; no more than {most} are allowed",
                )


class Groups:
    """Jobs in groups: one group at work, others that wait for their turn in order; the last of those grows."""

    def __init__(self, event: Callable[[], Event]) -> None:
        self._event = event
        self._waiting: _Group | None = None

    def run(
        self,
        job: Job[T],
        turn: Callable[[], AbstractContextManager[object]],
        work: Callable[[Sequence[Job[Any]]], None],
    ) -> T:
        """What a job comes to, after `work` was done in its `turn` for it, and for all that came meanwhile."""
        group = self._waiting
        if group is None or len(group.jobs) >= MOST_TOGETHER:
            self._lead(job, turn, work)
        else:
            self._follow(job, group)
        fault, job.fault = job.fault, None  # it knows the frames that it went through, and they the job: a cycle,
        try:  # which would keep whole policies until the garbage collector looks
            if fault is not None:
                raise fault
        finally:
            del fault
        found: T = job.value
        return found

    def _lead(
        self,
        job: Job[T],
        turn: Callable[[], AbstractContextManager[object]],
        work: Callable[[Sequence[Job[Any]]], None],
    ) -> None:
        group = self._waiting = _Group([job], self._event())
        try:
            with turn():
                self._close(group)
                work(group.jobs)
                group.ended = True
        except StoreError as error:
            group.fail(error)
        finally:  # also when the thread is killed: nobody waits for it in vain
            self._close(group)
            if not group.ended:
                group.fail(StoreError("the write was broken off", may_be_kept=True))
            group.over.set()

    def _follow(self, job: Job[T], group: _Group) -> None:
        group.jobs.append(job)
        try:
            while not group.ended:
                group.over.wait(LONGEST_WAIT)
        finally:
            if not group.closed:  # whoever asked is gone before anything was done
                group.jobs.remove(job)

    def _close(self, group: _Group) -> None:
        """Nobody joins it any more, or leaves it."""
        group.closed = True
        if self._waiting is group:
            self._waiting = None


@dataclass(eq=False)
class _Group:
    jobs: list[Job[Any]]
    over: Event
    closed: bool = False
    ended: bool = False

    def fail(self, fault: Exception) -> None:
        for job in self.jobs:
            job.fault = job.fault or fault
        self.ended = True
