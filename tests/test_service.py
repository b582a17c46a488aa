"""What people ask for, without HTTP."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
from fakecore import NOW, FakeSwitch, fake_core
from policies import ANYONE, DPID, FIREWALL, rule, small

from firewall_app.history import Point, beginning
from firewall_app.pipeline.unit import PortGuards
from firewall_app.policy.errors import Conflict, Invalid, NotFound, StoreError, Unreachable
from firewall_app.policy.model import Peer, Port, Rule
from firewall_app.progress import Drift, PendingChange, Status, SwitchReport, Sync
from firewall_app.service import droplets, firewalls, hypervisors
from firewall_app.service.core import Limits
from firewall_app.service.deed import Deed
from firewall_app.service.firewalls import FirewallSpec

OTHER = "0000000000000002"
INTERFACES = {1: "up0", 2: "tap101", 3: "tap102"}


def spec(**fields):
    return FirewallSpec(**{"name": "fw-2", "inbound_rules": (rule("inbound", "tcp", "22", ANYONE, 0),), **fields})


def port(**fields):
    values = {"id": "p", "droplet_id": 102, "hypervisor": DPID, "interface": "tap9", "number": None,
              "mac": "02:00:00:00:00:09", "addresses": ("10.1.0.9",)}  # fmt: skip
    return Port(**{**values, **fields})


@pytest.fixture
def world():
    core, store = fake_core(small())
    return core, store, FakeSwitch(core, DPID, INTERFACES)


# ---- writing


def test_a_write_is_stored_then_in_force_then_told_to_the_switches_concerned(world):
    core, store, switch = world
    draft = core.policy.edit()
    other = FakeSwitch(core, OTHER)
    told = (switch.told, other.told)
    written = firewalls.create(core, "default", spec(tags=("web",)))
    assert written.revision == core.revision == 6
    assert written.hosts == {DPID}
    assert (switch.told, other.told) == (told[0] + 1, told[1])
    assert core.policy.firewalls[written.value.id] == written.value
    changes, counters = store.commits[-1]
    assert [c.new for c in changes] == [written.value]
    assert counters.rule == draft.counters.rule + 2, "one for the rule, one for the firewall"
    assert written.value.created_at == NOW


def test_what_the_store_refuses_changes_nothing(world):
    core, store, switch = world
    before, told = core.policy, switch.told
    store.broken = "disk full"
    with pytest.raises(StoreError, match="disk full"):
        firewalls.create(core, "default", spec(tags=("web",)))
    assert core.policy is before
    assert (core.revision, switch.told) == (5, told)


def test_a_commit_whose_answer_was_lost_is_found_out(world):
    core, store, switch = world
    firewall = core.policy.firewalls[FIREWALL]
    draft = core.policy.edit()
    draft.drop(firewall)
    store.stored = (draft.done(), beginning(revision=6))
    store.lost_answer = True
    told = switch.told
    with pytest.raises(StoreError, match="broke"):
        firewalls.delete(core, "default", FIREWALL)
    assert core.policy.firewalls == {}
    assert (core.revision, switch.told) == (6, told + 1)
    store.lost_answer = False
    store.stored = (store.stored[0], beginning(revision=7))
    switch.behaviour = "silent"
    store.broken = "not now"
    with pytest.raises(StoreError):
        firewalls.create(core, "default", spec(droplet_ids=(101,)))
    assert core.revision == 6  # the store was away: nothing is known of it
    store.broken = None
    switch.behaviour = "confirm"
    switch.act()
    store.stored = (small(), beginning(revision=9))
    store.lost_answer = True
    switch.behaviour = "silent"
    with pytest.raises(StoreError):
        firewalls.create(core, "default", spec())
    assert firewalls.view(core, core.policy.firewalls[FIREWALL]).status is Status.WAITING
    switch.behaviour = "confirm"
    switch.act()
    assert firewalls.view(core, core.policy.firewalls[FIREWALL]).status is Status.SUCCEEDED
    store.lost_answer = False
    assert firewalls.create(core, "default", spec()).revision == 10


def test_a_write_that_changes_nothing_is_not_stored_but_waited_for(world):
    """Someone who repeats a request asks whether it is in force, and it may not be yet."""
    core, store, switch = world
    old = core.policy.firewalls[FIREWALL]
    same = FirewallSpec(old.name, old.inbound_rules, old.outbound_rules, old.droplet_ids, old.tags)
    written = firewalls.update(core, "default", FIREWALL, same)
    assert (written.hosts, written.revision) == ({DPID}, 5)
    assert (store.commits, core.revision) == ([], 5)
    switch.behaviour = "silent"
    rule_gone = core.policy.firewalls[FIREWALL].inbound_rules[:1]
    for _ in range(2):
        removing = firewalls.remove_rules(core, "default", FIREWALL, rule_gone, [])
        assert core.wait(removing, 0.01) is False
        assert core.progress.outcome(dict.fromkeys(removing.hosts, removing.revision)) is Status.WAITING
    assert len(store.commits) == 1
    for _ in range(2):
        tagging = droplets.tag_droplets(core, "default", "web", [102], add=True)
        assert core.wait(tagging, 0.01) is False
    assert len(store.commits) == 2


def test_a_rule_whose_peer_is_written_anew_keeps_its_id(world):
    core, _, _ = world
    first, second = core.policy.firewalls[FIREWALL].inbound_rules
    longer = replace(second, id=0, peer=Peer(addresses=(*second.peer.addresses, "192.0.2.2")))
    spec_of = partial(FirewallSpec, "web-fw", outbound_rules=(), droplet_ids=(), tags=("web",))
    updated = firewalls.update(core, "default", FIREWALL, spec_of((longer, replace(first, id=0)))).value
    assert [(r.id, r.peer) for r in updated.inbound_rules] == [(second.id, longer.peer), (first.id, first.peer)]
    # One that stays as it is goes before one that only resembles it.
    twin = replace(longer, peer=Peer(addresses=("192.0.2.2", "192.0.2.9")))
    updated = firewalls.update(core, "default", FIREWALL, spec_of((twin, longer))).value
    assert [r.id for r in updated.inbound_rules] == [core.policy.counters.rule, second.id]
    other = replace(longer, peer=Peer(addresses=("198.51.100.1",)))
    updated = firewalls.update(core, "default", FIREWALL, spec_of((other,))).value
    assert [r.id for r in updated.inbound_rules] == [core.policy.counters.rule], "of other people it is another rule"


def test_a_droplet_is_behind_no_more_firewalls_than_a_switch_can_ask(world):
    core, _, _ = world
    core.limits = Limits(firewalls=2)
    droplets.put(core, 102, "default", "db", ("db",))
    assert len(core.policy.firewalls_of(101)) == 1
    second = firewalls.create(core, "default", spec(name="second", droplet_ids=(101,))).value
    third = firewalls.create(core, "default", spec(name="third")).value
    for attach in (
        lambda: firewalls.add_droplets(core, "default", third.id, (101,)),
        lambda: firewalls.add_tags(core, "default", third.id, ("web",)),
        lambda: firewalls.create(core, "default", spec(name="fourth", tags=("web",))),
    ):
        before = core.policy
        with pytest.raises(Invalid, match="droplet 101 would be behind 3 firewalls; no more than 2"):
            attach()
        assert core.policy is before
    firewalls.add_tags(core, "default", third.id, ("db",))
    with pytest.raises(Invalid, match="droplet 101 would be behind 3"):
        droplets.put(core, 101, "default", "web", ("web", "db"))
    core.limits = Limits(firewalls=1)  # what is there already may be changed, and taken away
    firewalls.remove_droplets(core, "default", second.id, (101,))


def test_T095_only_writes_that_keep_established_connections_do_not_cut(world):
    core, _, _ = world
    cut = core.units(DPID, INTERFACES).cut
    assert cut <= core.revision
    kept = firewalls.create(core.acting(Deed(keeps=True)), "default", spec(tags=("web",)))
    wanted = core.units(DPID, INTERFACES)
    assert (wanted.revision, wanted.cut) == (kept.revision, cut) == (core.revision, cut)
    assert core.policy.firewalls[kept.value.id] == kept.value
    written = firewalls.delete(core, "default", kept.value.id)
    assert core.units(DPID, INTERFACES).cut == written.revision
    assert core.units(OTHER, {}).cut == cut, "another hypervisor's connections are not concerned"


def test_rules_keep_their_ids_through_an_update_and_ids_never_return(world):
    core, _, _ = world
    first, second = core.policy.firewalls[FIREWALL].inbound_rules
    new = rule("inbound", "udp", "53", ANYONE, 0)
    shuffled = FirewallSpec("web-fw", (replace(second, id=0), new), (), (), ("web",))
    updated = firewalls.update(core, "default", FIREWALL, shuffled).value
    fresh = core.policy.counters.rule
    assert [r.id for r in updated.inbound_rules] == [second.id, fresh]
    back = FirewallSpec("web-fw", (replace(first, id=0),), (), (), ("web",))
    assert [r.id for r in firewalls.update(core, "default", FIREWALL, back).value.inbound_rules] == [fresh + 1]


# ---- faults


def test_every_fault_is_listed_with_its_path(world):
    core, _, _ = world
    peer = Peer((), (101, 999), ("web", "nope"))
    bad = spec(inbound_rules=(rule("inbound", "tcp", "22", peer, 0),), droplet_ids=(102, 7), tags=("gone",))
    with pytest.raises(Invalid) as caught:
        firewalls.create(core, "default", bad)
    assert [f.at for f in caught.value.faults] == [
        "droplet_ids[1]",
        "tags[0]",
        "inbound_rules[0].sources.droplet_ids[1]",
        "inbound_rules[0].sources.tags[1]",
    ]
    assert len(core.policy.firewalls) == 1


def test_another_accounts_things_do_not_exist(world):
    core, _, _ = world
    droplets.put(core, 201, "acme", "theirs", ("theirs",))
    for call in (
        lambda: firewalls.find(core.policy, "acme", FIREWALL),
        lambda: firewalls.delete(core, "acme", FIREWALL),
        lambda: firewalls.of_droplet(core, "acme", 101),
        lambda: droplets.find_tag(core.policy, "acme", "web"),
    ):
        with pytest.raises(NotFound):
            call()
    with pytest.raises(Invalid, match="droplet 201 does not exist"):
        firewalls.create(core, "default", spec(droplet_ids=(201,)))
    with pytest.raises(Invalid, match="tag 'theirs' does not exist"):
        firewalls.create(core, "default", spec(tags=("theirs",)))
    with pytest.raises(Conflict, match="belongs to account acme"):
        droplets.put(core, 201, "default", "mine", ())


def test_limits_name_the_limit_and_the_count():
    core, _ = fake_core(small(), limits=Limits(droplets=1, tags=1, rules=1, entries=1))
    bad = spec(droplet_ids=(101, 102), inbound_rules=(rule("inbound", "tcp", "1", ANYONE, 0),) * 2)
    with pytest.raises(Invalid) as caught:
        firewalls.create(core, "default", bad)
    problems = [str(f) for f in caught.value.faults]
    assert any("no more than 1 droplets, not 2" in p for p in problems)
    assert any("no more than 1 rules, not 2" in p for p in problems)
    assert any("2 entries; no more than 1" in p for p in problems)


def test_names_are_unique_within_an_account(world):
    core, _, _ = world
    with pytest.raises(Conflict, match="duplicate name"):
        firewalls.create(core, "default", spec(name="web-fw"))
    firewalls.create(core, "acme", spec(name="web-fw"))


# ---- rules, droplets and tags of a firewall


def test_adding_a_rule_twice_and_removing_a_missing_one_are_no_errors(world):
    core, _, _ = world
    extra = rule("inbound", "tcp", "443", Peer(("::/0", "0.0.0.0/0")), 0)
    firewalls.add_rules(core, "default", FIREWALL, [extra], [])
    again = firewalls.add_rules(core, "default", FIREWALL, [rule("inbound", "tcp", "443", ANYONE, 0)], [])
    assert len(again.value.inbound_rules) == 3
    assert again.revision == core.revision == 6
    part = rule("inbound", "tcp", "443", Peer(("::/0",)), 0)
    assert firewalls.remove_rules(core, "default", FIREWALL, [part], []).value == 1
    assert firewalls.remove_rules(core, "default", FIREWALL, [extra], []).value == 0
    assert len(core.policy.firewalls[FIREWALL].inbound_rules) == 2


def test_droplets_and_tags_come_and_go(world):
    core, _, _ = world
    assert firewalls.add_droplets(core, "default", FIREWALL, [102, 102]).value.droplet_ids == (102,)
    assert firewalls.remove_droplets(core, "default", FIREWALL, [102, 55]).value.droplet_ids == ()
    droplets.create_tag(core, "default", "db")
    assert firewalls.add_tags(core, "default", FIREWALL, ["DB", "web"]).value.tags == ("web", "DB")
    assert firewalls.remove_tags(core, "default", FIREWALL, ["db"]).value.tags == ("web",)


def test_deleting_a_droplet_takes_it_out_of_attachments_and_peers(world):
    core, _, _ = world
    peers = Peer((), (101, 102))
    made = firewalls.create(
        core, "default", spec(inbound_rules=(rule("inbound", "tcp", "1", peers, 0),), droplet_ids=(102,))
    )
    hypervisors.replace_rules(core, "web-eth0", [rule("inbound", "tcp", "2", Peer((), (102,)), 0)], [])
    with pytest.raises(Conflict, match="db-eth0"):
        droplets.delete(core, 102)
    droplets.delete(core, 102, with_ports=True)
    left = core.policy.firewalls[made.value.id]
    assert left.droplet_ids == ()
    assert left.inbound_rules[0].peer == Peer((), (101,))
    assert left.inbound_rules[0].id == made.value.inbound_rules[0].id
    assert core.policy.port_rules["web-eth0"].inbound_rules[0].peer == Peer()
    assert "db-eth0" not in core.policy.ports


def test_deleting_a_tag_takes_it_off_everything(world):
    core, _, _ = world
    firewalls.add_rules(core, "default", FIREWALL, [rule("inbound", "tcp", "9", Peer((), (), ("WEB",)), 0)], [])
    droplets.delete_tag(core, "default", "Web")
    assert core.policy.droplets[101].tags == ()
    assert core.policy.firewalls[FIREWALL].tags == ()
    assert core.policy.firewalls[FIREWALL].inbound_rules[-1].peer == Peer()
    assert droplets.tags(core, "default") == []


def test_tags_keep_their_first_spelling(world):
    core, _, _ = world
    assert droplets.create_tag(core, "default", "WEB").value.name == "web"
    droplets.tag_droplets(core, "default", "Web", [102], add=True)
    assert core.policy.droplets[102].tags == ("web",)
    droplets.tag_droplets(core, "default", "wEb", [101, 102], add=False)
    assert core.policy.tagged == {}


# ---- ports


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"interface": "tap101"}, "interface tap101 belongs to port web-eth0"),
        ({"mac": "02:00:00:00:00:01"}, "MAC 02:00:00:00:00:01 belongs to port web-eth0"),
        ({"addresses": ("10.1.0.0/24",)}, "address 10.1.0.0/24 belongs to port"),
        ({"addresses": ("10.9.0.1", "fd00:1::2")}, "address fd00:1::2 belongs to port db-eth0"),
    ],
)
def test_two_ports_of_one_hypervisor_claim_nothing_twice(world, fields, words):
    core, _, _ = world
    with pytest.raises(Conflict, match=words):
        hypervisors.put_port(core, port(**fields))
    hypervisors.put(core, OTHER, "hv-2", None)
    hypervisors.put_port(core, port(hypervisor=OTHER, **fields))


def test_a_port_keeps_its_slot_until_it_goes_elsewhere(world):
    core, _, _ = world
    hypervisors.put(core, OTHER, "hv-2", None)
    made, new = hypervisors.put_port(core, port()).value
    assert (made.slot, new) == (3, True)
    readdressed, new = hypervisors.put_port(core, port(addresses=("10.1.0.10",))).value
    assert (readdressed.slot, new) == (3, False)
    moved, _ = hypervisors.put_port(core, port(hypervisor=OTHER)).value
    assert moved.slot == 4
    written = hypervisors.put_port(core, port(hypervisor=OTHER, droplet_id=101))
    assert written.value[0].slot == 5
    assert written.hosts == {OTHER}


@pytest.mark.parametrize(("fields", "at"), [({"droplet_id": 9}, "droplet_id"), ({"hypervisor": OTHER}, "hypervisor")])
def test_a_port_names_what_exists(world, fields, at):
    core, _, _ = world
    with pytest.raises(Invalid) as caught:
        hypervisors.put_port(core, port(**fields))
    assert caught.value.faults[0].at == at


def test_an_empty_rule_set_of_a_port_protects_it_and_clearing_opens_it(world):
    core, _, _ = world
    db = core.policy.ports["db-eth0"]
    assert core.policy.rule_sets_of(db) == ()
    hypervisors.replace_rules(core, "db-eth0", [], [])
    assert len(core.policy.rule_sets_of(db)) == 1
    hypervisors.clear_rules(core, "db-eth0")
    assert core.policy.rule_sets_of(db) == ()


def test_a_hypervisor_with_ports_is_not_deleted(world):
    core, _, _ = world
    with pytest.raises(Conflict, match="db-eth0, web-eth0"):
        hypervisors.delete(core, DPID)
    hypervisors.put(core, OTHER, "hv-2", ["eth*"])
    assert hypervisors.delete(core, OTHER).value.name == "hv-2"
    with pytest.raises(NotFound):
        hypervisors.find(core, OTHER)


# ---- status


def test_a_change_waits_until_its_switch_confirms(world):
    core, _, switch = world
    switch.behaviour = "silent"
    made = firewalls.create(core, "default", spec(droplet_ids=(102,))).value
    shown = firewalls.view(core, made)
    assert shown.status is Status.WAITING
    assert shown.pending == (PendingChange(102, False, Status.WAITING),)
    switch.behaviour = "confirm"
    switch.act()
    assert firewalls.view(core, made).status is Status.SUCCEEDED
    assert firewalls.view(core, made).pending == ()


def test_a_firewall_without_droplets_succeeds_at_once(world):
    core, _, switch = world
    switch.behaviour = "silent"
    made = firewalls.create(core, "default", spec()).value
    assert firewalls.view(core, made).status is Status.SUCCEEDED


def test_a_leaving_droplet_is_pending_as_removing(world):
    core, _, switch = world
    switch.behaviour = "silent"
    droplets.tag_droplets(core, "default", "web", [101], add=False)
    shown = firewalls.view(core, core.policy.firewalls[FIREWALL])
    assert shown.pending == (PendingChange(101, True, Status.WAITING),)
    switch.behaviour = "confirm"
    switch.act()
    assert firewalls.view(core, core.policy.firewalls[FIREWALL]).pending == ()


def test_a_hypervisor_that_missed_an_earlier_change_is_still_waited_for():
    core, _ = fake_core(small())
    here, there = FakeSwitch(core, DPID, INTERFACES), FakeSwitch(core, OTHER, {1: "tap9"})
    hypervisors.put(core, OTHER, "hv-2", None)
    hypervisors.put_port(core, port(droplet_id=101, hypervisor=OTHER))
    here.behaviour = there.behaviour = "silent"
    firewalls.add_rules(core, "default", FIREWALL, [rule("inbound", "udp", "1", ANYONE, 0)], [])
    hypervisors.put_port(core, port(droplet_id=101, hypervisor=OTHER, mac="02:00:00:00:00:19"))
    there.behaviour = "confirm"
    there.act()
    shown = firewalls.view(core, core.policy.firewalls[FIREWALL])
    assert shown.pending == (PendingChange(101, False, Status.WAITING),)
    here.behaviour = "confirm"
    here.act()
    assert firewalls.view(core, core.policy.firewalls[FIREWALL]).status is Status.SUCCEEDED


def test_a_hypervisor_that_is_gone_for_good_is_not_waited_for():
    core, _ = fake_core(small())
    FakeSwitch(core, DPID, INTERFACES)
    hypervisors.put(core, OTHER, "hv-2", None)
    hypervisors.put_port(core, port(droplet_id=101, hypervisor=OTHER))
    assert firewalls.view(core, core.policy.firewalls[FIREWALL]).status is Status.WAITING
    hypervisors.delete_port(core, "p")
    assert hypervisors.delete(core, OTHER).hosts == frozenset()
    assert firewalls.view(core, core.policy.firewalls[FIREWALL]).status is Status.SUCCEEDED


def test_a_store_serves_one_caller_at_a_time(world):
    core, store, _ = world
    inside, most, begun = [], [], threading.Event()

    def slowly(*_):
        inside.append(1)
        most.append(len(inside))
        begun.set()
        time.sleep(0.02)
        inside.pop()
        return Point(1, 6)

    store.commit, store.ping = slowly, slowly
    writer = threading.Thread(target=lambda: firewalls.create(core, "default", spec()))
    readers = [threading.Thread(target=core.ready) for _ in range(3)]
    writer.start()
    begun.wait(10)
    for thread in readers:
        thread.start()
    for thread in (writer, *readers):
        thread.join()
    assert most == [1, 1, 1, 1]


def test_a_tag_member_makes_the_firewalls_that_name_the_tag_wait(world):
    core, _, switch = world
    named = spec(inbound_rules=(rule("inbound", "tcp", "1", Peer((), (), ("web",)), 0),), droplet_ids=(101,))
    made = firewalls.create(core, "default", named).value
    switch.behaviour = "silent"
    droplets.tag_droplets(core, "default", "web", [102], add=True)
    assert firewalls.view(core, made).status is Status.WAITING


def test_a_refusal_fails_with_the_switchs_words(world):
    core, _, switch = world
    switch.behaviour = "refuse"
    made = firewalls.create(core, "default", spec(droplet_ids=(102,))).value
    assert firewalls.view(core, made).status is Status.FAILED
    shown = hypervisors.port_view(core, core.policy.ports["db-eth0"])
    assert (shown.status, shown.error) == (Status.FAILED, "TABLE_FULL")


def test_nothing_is_succeeded_before_the_switch_was_read_back():
    core, _ = fake_core(small())
    assert firewalls.view(core, core.policy.firewalls[FIREWALL]).status is Status.WAITING
    FakeSwitch(core, DPID, INTERFACES)
    assert firewalls.view(core, core.policy.firewalls[FIREWALL]).status is Status.SUCCEEDED


def test_port_status_follows_the_switch():
    core, _ = fake_core(small())
    web = core.policy.ports["web-eth0"]
    assert hypervisors.port_view(core, web).status is Status.UNREACHABLE
    switch = FakeSwitch(core, DPID, {1: "up0"})
    assert hypervisors.port_view(core, web).status is Status.ABSENT
    switch.interfaces = {1: "up0", 7: "tap101"}
    switch.act()
    shown = hypervisors.port_view(core, web)
    assert (shown.status, shown.number, shown.interface) == (Status.SUCCEEDED, 7, "tap101")
    switch.behaviour = "silent"
    hypervisors.put_port(core, replace(web, addresses=("10.1.0.77",)))
    assert hypervisors.port_view(core, core.policy.ports["web-eth0"]).status is Status.WAITING
    core.disconnected(DPID, switch)
    assert hypervisors.port_view(core, web).status is Status.UNREACHABLE


def test_a_switch_port_that_two_ports_claim_is_the_older_ones(world):
    core, _, _ = world
    hypervisors.put_port(core, port(interface=None, number=2))  # tap101, which belongs to web-eth0
    shown = hypervisors.port_view(core, core.policy.ports["p"])
    assert (shown.status, shown.error) == (Status.FAILED, "switch port 2 belongs to port web-eth0")
    assert hypervisors.port_view(core, core.policy.ports["web-eth0"]).status is Status.SUCCEEDED
    slots = {unit.slot for unit in core.units(DPID, INTERFACES)[1].values() if isinstance(unit, PortGuards)}
    assert slots == {1, 2}


def test_wait_returns_when_the_switch_confirms_refuses_or_the_time_is_up(world):
    core, _, switch = world
    switch.behaviour = "silent"
    written = firewalls.create(core, "default", spec(droplet_ids=(102,)))
    assert core.wait(written, 0.01) is False

    def later(behaviour):
        switch.behaviour = behaviour
        timer = threading.Timer(0.05, switch.act)
        timer.start()
        return timer

    timer = later("confirm")
    assert core.wait(written, 10) is True
    timer.join()
    switch.behaviour = "silent"
    second = firewalls.delete(core, "default", written.value.id)
    timer = later("refuse")
    assert core.wait(second, 10) is True
    timer.join()
    assert core.progress._waiters == {}


def test_an_old_connection_of_a_switch_is_closed_and_not_heard(world):
    core, _, old = world
    new = FakeSwitch(core, DPID, INTERFACES)
    assert old.closed
    old.say(SwitchReport(Sync.FAILED, error="late"))
    assert core.progress.report(DPID).sync is Sync.IN_SYNC
    core.disconnected(DPID, old)
    assert core.switch(DPID) is new
    core.disconnected(DPID, new, "it closed the connection")
    assert core.progress.report(DPID).error == "it closed the connection"
    with pytest.raises(Unreachable):
        core.switch(DPID)
    with pytest.raises(NotFound):
        core.switch(OTHER)


def test_ready_says_what_is_not(world):
    core, store, switch = world
    assert core.ready() == []
    store.broken = "gone"
    switch.behaviour = "refuse"
    switch.act()
    assert core.ready() == ["store: not reachable", f"hypervisor {DPID}: failed"]


def test_a_store_that_fails_is_told_once_and_once_when_it_works_again(world, caplog):
    core, store, _ = world

    def told():
        found = [record.getMessage() for record in caplog.records if "the store " in record.getMessage()]
        caplog.clear()
        return found

    def write():
        with suppress(StoreError):
            firewalls.create(core, "default", spec(name=f"fw{core.revision}"))

    store.broken = "disk full"
    write()
    write()
    assert told() == ['the store fails error="disk full"']
    store.broken, store.lost_answer = None, True
    core.follow()
    assert told() == [], "it can be read, and may not be written to yet"
    store.lost_answer = False
    write()
    assert told() == ["the store works again"]
    store.broken = "gone"
    with pytest.raises(StoreError):
        core.follow()
    store.broken = None
    core.follow()
    assert told()[0] == "the store fails error=gone"
    assert not core._store_fails


def test_each_rule_is_looked_at_once_however_many_are_there(monkeypatch):
    """Comparing each with each, a body of ten thousand rules that is refused in the end took a minute."""
    core, _ = fake_core(small())
    rules = [rule("inbound", "tcp", str(n), ANYONE, 0) for n in range(1, 201)]
    looks = []
    content = Rule.content.func
    monkeypatch.setattr(Rule, "content", property(lambda self: looks.append(1) or content(self)))
    monkeypatch.setattr(Rule, "same", lambda *_: looks.extend([1] * 1000))
    with pytest.raises(Invalid, match="no more than 50 rules"):
        firewalls.add_rules(core, "default", FIREWALL, rules, ())
    assert firewalls.remove_rules(core, "default", FIREWALL, rules, ()).value == 198  # two are there
    assert 400 <= len(looks) <= 420


def test_a_switch_that_was_refused_is_listed_with_the_reason_and_disturbs_nobody(world):
    core, _, switch = world
    before = core.progress.report(DPID)
    assert before.connected
    core.refused(DPID, "192.0.2.9", "its certificate is another's")
    assert core.progress.report(DPID) == before
    core.disconnected(DPID, switch)
    core.refused(DPID, "192.0.2.9", "its certificate is another's")
    report = core.progress.report(DPID)
    assert report.error == "192.0.2.9 was refused: its certificate is another's"
    assert (report.connected, report.confirmed) == (False, before.confirmed)


def test_strangers_beyond_count_are_not_all_remembered(world, monkeypatch):
    core, _, _ = world
    monkeypatch.setattr("firewall_app.service.core.STRANGERS", 3)
    for number in range(100, 110):
        core.progress.drifted(f"{number:016x}", [Drift(NOW, "added", "table=0")])
        core.refused(f"{number:016x}", "192.0.2.9", "it is not registered")
    listed = [view.dpid for view in hypervisors.every(core) if view.hypervisor is None]
    assert listed == [f"{number:016x}" for number in (107, 108, 109)]
    assert DPID in core.progress.reports
    assert sorted(core.progress.drift) == listed
