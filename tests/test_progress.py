"""What switches have confirmed: who is waited for, and by whom."""

from __future__ import annotations

from dataclasses import replace

from policies import DPID, FIREWALL, rule, small

from firewall_app.policy.model import Droplet, Hypervisor, Peer, Port, Tag
from firewall_app.policy.policy import Draft, Policy
from firewall_app.progress import PendingChange, Progress, Status, SwitchReport, Sync

OTHER = "0000000000000002"


class World:
    """A policy and the progress of its changes; `web` is droplet 101, behind the firewall by its tag."""

    def __init__(self) -> None:
        draft = small().edit()
        draft.put(Hypervisor(OTHER, "hv-2"))
        self.policy: Policy = draft.done()
        self.revision = 1
        self.progress = Progress(1)
        for dpid in (DPID, OTHER):
            self.confirm(dpid)

    def confirm(self, dpid: str, **fields: object) -> None:
        fields = {"confirmed": self.revision, **fields}
        self.progress.reported(dpid, SwitchReport(Sync.IN_SYNC, interfaces={1: "up0"}, **fields))

    def change(self, draft: Draft) -> frozenset[str]:
        changes, before = draft.changes, self.policy
        self.policy = draft.done()
        self.revision += 1
        hosts = frozenset(h for c in changes for h in before.concerned(c) | self.policy.concerned(c))
        self.progress.changed(before, self.policy, changes, hosts, self.revision)
        return hosts

    def move(self, dpid: str) -> frozenset[str]:
        draft = self.policy.edit()
        draft.put(replace(self.policy.ports["web-eth0"], hypervisor=dpid))
        return self.change(draft)

    def tag(self, *tags: str) -> frozenset[str]:
        draft = self.policy.edit()
        draft.put(replace(self.policy.droplets[101], tags=tags))
        return self.change(draft)

    @property
    def pending(self) -> tuple[PendingChange, ...]:
        return self.progress.pending(self.policy, FIREWALL)


def test_a_droplet_that_moved_waits_for_the_hypervisor_that_it_left_and_the_one_that_it_came_to() -> None:
    for first, second in ((DPID, OTHER), (OTHER, DPID)):
        world = World()
        assert not world.pending
        assert world.move(OTHER) == {DPID, OTHER}
        assert world.pending == (PendingChange(101, False, Status.WAITING),)
        world.confirm(first)
        assert world.pending == (PendingChange(101, False, Status.WAITING),)
        world.confirm(second)
        assert not world.pending


def test_a_droplet_that_leaves_and_comes_back_waits_for_both() -> None:
    world = World()
    world.tag()
    assert world.pending == (PendingChange(101, True, Status.WAITING),)
    world.move(OTHER)
    world.tag("web")
    assert world.pending == (PendingChange(101, False, Status.WAITING),)
    world.confirm(OTHER)
    assert world.pending == (PendingChange(101, False, Status.WAITING),), "its rules may still be in force where it was"
    world.confirm(DPID, confirmed=1, failed=world.revision)
    assert world.pending == (PendingChange(101, False, Status.FAILED),)
    world.confirm(DPID)
    assert not world.pending
    assert world.progress.owing(world.policy, world.policy.firewalls.values()) == frozenset()


def test_droplets_that_come_and_go_leave_nothing_behind() -> None:
    """Also when nobody ever asks how the firewall stands."""
    world = World()
    draft = world.policy.edit()
    for number in range(200, 250):
        draft.put(Droplet(number, name=f"d{number}"))
        draft.put(Port(f"p{number}", number, DPID, f"tap{number}", None, f"02:00:00:00:01:{number - 200:02x}",
                       (f"10.2.0.{number}",), slot=draft.new_slot()))  # fmt: skip
    world.change(draft)
    for number in range(200, 250):
        for tags in (("web",), ()):
            draft = world.policy.edit()
            draft.put(replace(world.policy.droplets[number], tags=tags))
            world.change(draft)
            world.confirm(DPID)
    assert len(world.progress._firewalls[FIREWALL].left) <= 1


def test_who_waits_is_woken_once_by_the_last_answer_and_leaves_nothing_behind() -> None:
    world, woken = World(), []
    hosts = world.move(OTHER)
    give_up = world.progress.when_settled(world.revision, hosts, lambda: woken.append("first"))
    other = world.progress.when_settled(world.revision, hosts, lambda: woken.append("second"))
    world.confirm(DPID)
    world.confirm(DPID)
    other()
    assert not woken
    world.confirm(OTHER, confirmed=1, failed=world.revision)  # a refusal is an answer, too
    assert woken == ["first"]
    world.confirm(OTHER)
    assert woken == ["first"]
    give_up()
    other()
    assert not world.progress._waiters


def test_a_report_asks_no_waiter_about_other_hypervisors() -> None:
    """With a thousand hypervisors to answer, each answer costs what it is, and not what is still to come."""
    progress, asked = Progress(0), []
    hosts = frozenset(f"{number:016x}" for number in range(1000))
    progress.when_settled(1, hosts, lambda: asked.append("woken"))
    known = progress.report
    progress.report = lambda dpid: (asked.append(dpid), known(dpid))[1]  # type: ignore[method-assign]
    for dpid in sorted(hosts):
        progress.reported(dpid, SwitchReport(Sync.IN_SYNC, confirmed=1))
    assert asked[-1] == "woken"
    assert len(asked) == 1001, "each is looked at once"


def test_what_rules_name_is_waited_for_where_the_rules_are_however_many_firewalls_name_it() -> None:
    world = World()
    draft = world.policy.edit()
    draft.put(Tag("default", "db"))
    peer = rule("inbound", "tcp", "5432", Peer(tags=("DB",)), draft.new_rule_id())
    draft.put(replace(world.policy.firewalls[FIREWALL], inbound_rules=(peer,)))
    world.change(draft)
    world.confirm(DPID)
    for joins in (("db",), ()):
        draft = world.policy.edit()
        draft.put(replace(world.policy.droplets[102], tags=joins))
        assert world.change(draft) == {DPID}
        assert world.pending == (PendingChange(101, False, Status.WAITING),)
        assert world.progress.owing(world.policy, world.policy.firewalls.values()) == {DPID}
        world.confirm(DPID)
        assert not world.pending
        assert not world.progress.owing(world.policy, world.policy.firewalls.values())
    draft = world.policy.edit()
    draft.put(replace(world.policy.firewalls[FIREWALL], inbound_rules=()))
    world.change(draft)
    draft = world.policy.edit()
    draft.put(replace(world.policy.droplets[102], tags=("db",)))
    world.change(draft)
    assert not world.progress._named, "nobody names it any more"
