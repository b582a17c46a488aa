"""Writes that come while others are being stored: kept together, and each still a write of its own."""

from __future__ import annotations

import gc
import json
import logging
import weakref
from contextlib import closing
from dataclasses import replace

import eventlet
import pytest
from eventlet.event import Event as GreenEvent
from eventlet.semaphore import Semaphore
from fakecore import NOW, FakeSwitch, MemoryStore, ThreadRuntime
from policies import ANYONE, DPID, FIREWALL, rule, small

from firewall_app.history import beginning
from firewall_app.policy.errors import Conflict, Stale, StoreError
from firewall_app.policy.model import Droplet
from firewall_app.policy.policy import Change, merged
from firewall_app.records import Entry, Key, Outcome
from firewall_app.service import firewalls
from firewall_app.service.core import Core
from firewall_app.service.deed import Deed
from firewall_app.service.firewalls import FirewallSpec
from firewall_app.service.writing import MOST_TOGETHER
from firewall_app.store import Store

INTERFACES = {1: "up0", 2: "tap101", 3: "tap102"}


class Flag:
    def __init__(self):
        self._event = GreenEvent()

    def set(self):
        self._event.send()

    def wait(self, timeout):
        with eventlet.Timeout(timeout, False):
            self._event.wait()


class Green(ThreadRuntime):
    """Green threads; what the store does takes until `go`."""

    def __init__(self):
        self.held = False
        self._store = Semaphore()

    def hold(self):
        self.held = True
        self._store.acquire()

    def go(self):
        self._store.release()

    def lock(self):
        return Semaphore()

    def certain(self):
        return Flag()

    def aside(self, work):
        with self._store:
            return work()


def world():
    store, runtime = MemoryStore(), Green()
    store.stored = small(), beginning(revision=5)
    core = Core(*store.stored, store, runtime)
    return core, store, runtime, FakeSwitch(core, DPID, INTERFACES)


def deed(number, **fields):
    entry = Entry(NOW, f"r{number}", "t", "who", "operator", None, "::1", "POST", "/", Outcome.FAILED)
    return Deed(entry, **fields)


def asked(core, number, work, *args, **fields):
    """A request in a green thread of its own: what came of it."""

    def ask():
        try:
            return work(core.acting(deed(number, **fields)), "default", *args)
        except Exception as error:
            return error

    thread = eventlet.spawn(ask)
    eventlet.sleep(0)  # it comes as far as it can
    return thread


def ports(firewall):
    return [str(rule.ports) for rule in firewall.inbound_rules]


def add(core, number, **fields):
    new = (rule("inbound", "udp", str(number), ANYONE, 0),)
    return asked(core, number, firewalls.add_rules, FIREWALL, new, (), **fields)


def test_writes_that_come_while_others_are_stored_are_kept_together_each_with_its_revision():
    core, store, runtime, switch = world()
    told, before = switch.told, core.policy
    runtime.hold()
    threads = [add(core, number) for number in range(7000, 7006)]
    assert core.policy is before, "nobody sees what is not kept"
    runtime.go()
    written = [thread.wait() for thread in threads]
    assert len(store.commits) == 2, "the first alone, and all that came meanwhile"
    assert [one.revision for one in written] == [6, 7, 8, 9, 10, 11]
    assert core.revision == 11
    assert ports(core.policy.firewalls[FIREWALL])[-6:] == [str(number) for number in range(7000, 7006)]
    assert [ports(one.value)[-1] for one in written] == [str(number) for number in range(7000, 7006)]
    ((change,), counters) = store.commits[1]
    assert ports(change.old)[-1] == "7000"
    assert (change.new, counters) == (written[-1].value, core.policy.counters)
    assert [(entry.request_id, len(entry.changes)) for entry in store.log] == [(f"r{n}", 1) for n in range(7000, 7006)]
    assert all(json.loads(entry.text) == list(entry.changes) for entry in store.log)
    assert switch.told == told + 2, "once for each commit"
    assert core.wait(written[-1], 0)


def test_each_write_of_a_group_has_conditions_and_faults_of_its_own():
    core, store, runtime, _ = world()
    seen = []

    def stale(policy):
        seen.append(policy)
        raise Stale("not as you have seen it")

    runtime.hold()
    first = add(core, 1)
    spec = FirewallSpec("fw-2")
    made, again = (asked(core, number, firewalls.create, spec) for number in (2, 3))
    refused, last = add(core, 4, condition=stale), add(core, 5)
    runtime.go()
    assert first.wait().revision == 6
    assert made.wait().revision == 7
    assert isinstance(again.wait(), Conflict)
    assert isinstance(refused.wait(), Stale)
    assert "fw-2" in {firewall.name for firewall in seen[0].firewalls.values()}, "it sees those before it"
    assert last.wait().revision == core.revision == 8
    assert len(store.commits) == 2


def test_a_key_that_comes_twice_at_once_makes_one_thing():
    core, store, runtime, _ = world()
    key, other = Key("ops", "k", "print", NOW), Key("ops", "k", "another print", NOW)
    runtime.hold()
    add(core, 1)
    one, two, wrong = (
        asked(core, n, firewalls.create, FirewallSpec(f"fw-{n}"), key=k) for n, k in ((2, key), (3, key), (4, other))
    )
    runtime.go()
    assert one.wait().value == two.wait().value
    assert "was used for another request" in str(wrong.wait())
    assert store.made_with(key) == ("print", one.wait().value.id)


def test_a_group_whose_commit_fails_fails_whole_and_nothing_of_it_is_in_force():
    core, store, runtime, switch = world()
    runtime.hold()
    first = add(core, 1)
    made, again = (asked(core, number, firewalls.create, FirewallSpec("fw-2")) for number in (2, 3))
    missing = asked(core, 4, firewalls.delete, "no-such")
    commit = store.commit

    def once(*what):
        if store.commits:
            store.stored = core.policy, core.history
            raise StoreError("disk full")
        return commit(*what)

    store.commit = once
    runtime.go()
    first.wait()
    told, after = switch.told, core.policy
    found = [str(thread.wait()) for thread in (made, again, missing)]
    assert found == ["disk full"] * 3, "nor is anyone refused for the sake of what is not in force"
    assert (core.policy, core.revision, switch.told) == (after, 6, told)
    assert store.branches == 1


def test_who_is_gone_before_its_turn_does_nothing_and_holds_up_nobody():
    core, _, runtime, _ = world()
    runtime.hold()
    add(core, 1)
    leader, gone, follower = (add(core, number) for number in (2, 3, 4))
    gone.kill()
    leader_before = core.revision
    runtime.go()
    assert [thread.wait().revision for thread in (leader, follower)] == [leader_before + 2, leader_before + 3]
    assert ports(core.policy.firewalls[FIREWALL])[-3:] == ["1", "2", "4"]


def test_whose_turn_is_broken_off_leaves_the_others_with_an_answer():
    core, _, runtime, _ = world()
    runtime.hold()
    alone = add(core, 1)
    leader, follower = add(core, 2), add(core, 3)
    leader.kill()
    error = follower.wait()
    assert isinstance(error, StoreError)
    assert error.may_be_kept
    runtime.go()
    assert alone.wait().revision == 6
    assert add(core, 4).wait().revision == 7


def test_a_group_has_a_bound_and_who_comes_then_is_in_the_next_one():
    core, store, runtime, _ = world()
    runtime.hold()
    threads = [add(core, number) for number in range(7000, 7002 + 2 * MOST_TOGETHER)]
    threads.pop(MOST_TOGETHER // 2).kill()  # it is gone; its group is full no longer, and not the one that grows
    runtime.go()
    assert [thread.wait().revision for thread in threads] == list(range(6, 7 + 2 * MOST_TOGETHER))
    assert len(store.commits) == 4, "the first alone, two groups, and the one that found both full"
    assert core.revision == 6 + 2 * MOST_TOGETHER


@pytest.mark.parametrize("broken", [None, "disk full"])
def test_a_write_that_is_refused_keeps_no_policy_in_memory(broken, caplog):
    caplog.set_level(logging.CRITICAL, "firewall_app")  # pytest keeps what was logged, and faults with it
    store = MemoryStore()
    store.stored = small(), beginning(revision=5)
    core = Core(*store.stored, store, Green())
    gc.disable()  # it looks seldom, and a policy may be large
    try:
        firewalls.create(core, "default", FirewallSpec("fw-1"))
        former, store.broken = weakref.ref(core.policy), broken
        with pytest.raises(StoreError if broken else Conflict) as refused:
            firewalls.create(core, "default", FirewallSpec("fw-2" if broken else "fw-1"))
        del refused
        store.broken = None
        firewalls.create(core, "default", FirewallSpec("fw-3"))
        assert former() is None
    finally:
        gc.enable()


def test_changes_that_follow_one_another_are_one_step():
    one, two, three = (Droplet(7, name=name) for name in ("one", "two", "three"))
    other = Droplet(8)
    steps = (Change(one, two), Change(None, other), Change(two, three), Change(other, None))
    assert merged(steps) == (Change(one, three),)
    assert merged((Change(one, two), Change(two, one))) == ()


@pytest.mark.parametrize("count", [1, 3])
def test_a_store_counts_every_state_of_a_group(tmp_path, count):
    url = f"sqlite:///{tmp_path}/firewall.db"
    with closing(Store.open(url)) as store:
        _, history = store.load()
        draft = store.load()[0].edit()
        draft.put(Droplet(7))
        entries = [replace(deed(number).entry, outcome=Outcome.DONE) for number in range(count)]
        notes = [Deed(entry).note(draft.changes, None, draft.peek()) for entry in entries]
        point = store.commit(draft.changes, draft.counters, history.point, notes, count)
        assert point.revision == count
        assert store.newest() == point
        assert [entry.request_id for entry in store.entries({}, 0, 9)[0]] == [f"r{n}" for n in reversed(range(count))]
    with closing(Store.open(url)) as store:
        policy, history = store.load()
        assert list(policy.droplets) == [7]
        assert [history.at(n).timeline == point.timeline for n in range(1, count + 1)] == [True] * count
