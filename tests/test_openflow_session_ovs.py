"""Sessions with a real ovs-vswitchd: what it is sent, what it then holds."""

from __future__ import annotations

import re
import struct
import tempfile
import time
from pathlib import Path

import pytest
from frames import ethernet, ipv4
from ovs_dummy import DummyOvs
from policies import ANYONE, DPID, FIREWALL, rule, small, with_inbound
from session_driver import Driven, PolicyPlan, moment

from firewall_app.history import History, Point, beginning
from firewall_app.openflow import session as session_module
from firewall_app.openflow import wire
from firewall_app.openflow.rendering import Body, Key, render
from firewall_app.pipeline.flow import Flow, Resubmit, match
from firewall_app.pipeline.plan import units
from firewall_app.pipeline.tables import RULES, Kind, cookie
from firewall_app.pipeline.unit import TURNS, Fence, Generation
from firewall_app.policy.policy import Policy
from firewall_app.progress import Sync

pytestmark = pytest.mark.ovs
BUNDLE_ADD = {5: 34, 4: 4}
INTERFACES = {1: "up0", 2: "tap101", 3: "tap102"}


@pytest.fixture(scope="module")
def ovs():
    with tempfile.TemporaryDirectory(prefix="fw-") as directory, DummyOvs(Path(directory)) as switch:
        yield switch


@pytest.fixture
def bridge(ovs, request):
    name = "br%x" % (hash(request.node.nodeid) & 0xFFFFFF)
    ports = tuple(f"{name}{suffix}" for suffix in ("u", "a", "b"))
    ovs.add_bridge(name, ports)
    yield name
    ovs.vsctl("del-br", name)


def named(policy, bridge):
    """The policy with the interfaces of a bridge (dummy ports are unique in the whole instance)."""
    from dataclasses import replace

    draft = policy.edit()
    draft.put(replace(policy.hypervisors[DPID], uplinks=(f"{bridge}u",)))
    for port_id, suffix in (("web-eth0", "a"), ("db-eth0", "b")):
        if port_id in policy.ports:
            draft.put(replace(policy.ports[port_id], interface=bridge + suffix))
    return draft.done()


def dump(ovs, bridge):
    """What the switch holds, by ovs-ofctl: one line a flow, counters and times left out, sorted."""
    text = ovs.ofctl("-O", "OpenFlow14", "--no-stats", "--no-names", "dump-flows", bridge)
    return sorted(line.strip() for line in text.splitlines() if "cookie" in line)


def meant(ovs, bridge, policy, generation, interfaces):
    """The same, of what the policy means, by way of a second bridge and ovs-ofctl's own parser."""
    flows = [f for unit in units(policy, DPID, interfaces, session_module_rulings()).values() for f in unit.flows()]
    flows += [*Generation(generation).flows(), *Fence(*beginning().point).flows()]
    ovs.add_bridge("brmeant")
    try:
        ovs.ofctl(
            "-O", "OpenFlow14", "add-flows", "brmeant", "-", stdin="\n".join({f.key: f.text for f in flows}.values())
        )
        return dump(ovs, "brmeant")
    finally:
        ovs.vsctl("del-br", "brmeant")


def session_module_rulings():
    from firewall_app.pipeline.compile import Rulings

    return Rulings()


def generation_of(lines):
    found = {m[1] for line in lines if (m := re.search(r"priority=202,.*ct_mark=(0x[0-9a-f]+)", line))}
    assert len(found) == 1
    return int(found.pop(), 16)


@pytest.mark.parametrize("version", [5, 4])
def test_connect_installs_exactly_what_the_policy_means(ovs, bridge, version):
    policy = named(small(), bridge)
    driven = Driven(ovs.mgmt(bridge), PolicyPlan(DPID, policy), version)
    driven.settle()
    assert driven.session.report.sync is Sync.IN_SYNC
    held = dump(ovs, bridge)
    interfaces = {1: f"{bridge}u", 2: f"{bridge}a", 3: f"{bridge}b"}
    assert held == meant(ovs, bridge, policy, generation_of(held), interfaces)
    assert driven.session.report.flows == len(held)
    assert {1: f"{bridge}u", 2: f"{bridge}a"}.items() <= driven.session.report.interfaces.items()
    driven.close()


@pytest.mark.parametrize("version", [5, 4])
def test_a_first_load_in_parts_has_each_flow_as_it_is_to_be(ovs, bridge, version, monkeypatch):
    """Also one that is wanted more than once: the bundle has it in two parts, of another rule each."""
    monkeypatch.setattr(session_module, "PART", 4)
    monkeypatch.setattr(session_module, "UNITS", 1)
    same = (rule("inbound", "tcp", "80", ANYONE, number) for number in (7, 100, 40, 5))
    driven = Driven(ovs.mgmt(bridge), PolicyPlan(DPID, with_inbound(named(small(), bridge), *same)), version)
    assert not dump(ovs, bridge)
    driven.settle()
    held = dump(ovs, bridge)
    rules = [line for line in held if f"table={RULES.id}," in line and "tp_dst=80 " in line]
    assert {line.split(",")[0] for line in rules} == {f"cookie={cookie(Kind.RULE, 5):#x}"}
    assert len(rules) == 2
    driven.feed(driven.session.resync(moment()))
    driven.settle()
    report = driven.session.report
    assert (report.sync, report.flows, report.repaired_flows) == (Sync.IN_SYNC, len(held), 0)
    driven.close()


@pytest.mark.parametrize("version", [5, 4])
def test_counters_are_those_of_rules_alone(ovs, bridge, version):
    policy = with_inbound(named(small(), bridge), rule("inbound", "udp", "53", ANYONE, 77))
    driven = Driven(ovs.mgmt(bridge), PolicyPlan(DPID, policy), version)
    driven.settle()
    before = driven.session.report
    driven.feed(driven.session.count())
    while driven.session.counting:
        driven.step()
    text = ovs.ofctl("-O", "OpenFlow14", "--no-names", "dump-flows", bridge, f"table={RULES.id}")
    kind = f"cookie={cookie(Kind.RULE) >> 32:#x}"
    ids = {int(number, 16) for number in re.findall(kind + "([0-9a-f]{8})", text)}
    assert 77 in ids
    assert driven.session.counted == dict.fromkeys(ids, (0, 0))
    assert driven.session.report is before
    driven.close()


@pytest.mark.parametrize("version", [5, 4])
@pytest.mark.parametrize("forgets", [True, False])
def test_a_change_has_the_switch_forget_what_it_cached(ovs, bridge, version, forgets):
    """Also when the flows that a packet met are the same as before; otherwise Open vSwitch keeps the decision."""
    plan = PolicyPlan(DPID, named(small(), bridge))
    driven = Driven(ovs.mgmt(bridge), plan, version, forget_cached=forgets)
    driven.settle()
    probe = ethernet("02:00:00:00:00:02", "02:00:00:00:00:01", 0x0800, ipv4("10.1.0.1", "10.1.0.2", 17, bytes(8)))

    ovs.vsctl("set", "Open_vSwitch", ".", "other_config:max-revalidator=100")

    def cached():
        for _ in range(2):  # the first ends with a pass that may have begun before the change
            ovs.appctl("revalidator/wait")
        return [line for line in ovs.appctl("dpctl/dump-flows").splitlines() if "10.1.0.1" in line]

    for _ in range(TURNS + 2 if version == 5 else 3):  # all bits, and round
        ovs.appctl("netdev-dummy/receive", f"{bridge}a", probe)
        wait_until(cached)
        plan.change(with_inbound(plan.policy, rule("inbound", "tcp", str(plan.revision + 1000), ANYONE, 99)))
        driven.policy_changed()
        assert bool(cached()) != forgets
        if not forgets:
            break
    again = Driven(ovs.mgmt(bridge), plan, version, forget_cached=forgets)
    again.settle()
    assert not any(kind in (14, 33, 34) for kind in again.sent), "a right switch is left alone, its turn too"
    driven.close()
    again.close()


def wait_until(done):
    end = time.monotonic() + 10
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("version", [5, 4])
def test_a_second_controller_on_a_right_switch_sends_no_flow(ovs, bridge, version):
    plan = PolicyPlan(DPID, named(small(), bridge))
    first = Driven(ovs.mgmt(bridge), plan, version)
    first.settle()
    first.close()
    before = dump(ovs, bridge)
    second = Driven(ovs.mgmt(bridge), plan, version)
    second.settle()
    assert second.session.report.sync is Sync.IN_SYNC
    assert not any(kind in (14, 33, 34) for kind in second.sent)
    assert version == 5 or second.sent.get(4, 0) == 0
    assert dump(ovs, bridge) == before
    second.close()


def test_an_added_rule_is_one_flow_for_each_ip_version_and_bumps_nothing(ovs, bridge):
    policy = named(small(), bridge)
    plan = PolicyPlan(DPID, policy)
    driven = Driven(ovs.mgmt(bridge), plan)
    driven.settle()
    before = dump(ovs, bridge)
    driven.sent.clear()
    plan.change(
        with_inbound(policy, *policy.firewalls[FIREWALL].inbound_rules, rule("inbound", "tcp", "443", ANYONE, 9))
    )
    driven.policy_changed()
    assert driven.sent[34] == 2 + 1  # and the fence
    after = dump(ovs, bridge)
    assert generation_of(after) == generation_of(before)
    assert len(set(after) - set(before)) == 2 + 1
    assert {line for line in set(before) - set(after) if "note:" not in line} == set()
    driven.close()


def test_a_removed_rule_raises_the_generation_in_the_same_bundle(ovs, bridge):
    policy = named(small(), bridge)
    plan = PolicyPlan(DPID, policy)
    driven = Driven(ovs.mgmt(bridge), plan)
    driven.settle()
    before = generation_of(dump(ovs, bridge))
    driven.sent.clear()
    plan.change(with_inbound(policy, policy.firewalls[FIREWALL].inbound_rules[0]))
    driven.policy_changed()
    # 2 rule flows and the 2 of the old fast path deleted, those of the new, 4 fragment gates, 4 commits and the
    # fence written
    assert driven.sent[34] == 2 + 2 + 2 + 4 + 4 + 1
    assert driven.sent[33] == 2
    assert generation_of(dump(ovs, bridge)) == before + 1
    assert driven.session.report.confirmed == 1
    driven.close()


def test_an_interface_that_appears_later_is_programmed_and_one_that_goes_leaves_nothing(ovs, bridge):
    policy = named(small(), bridge)
    ovs.vsctl("del-port", f"{bridge}a")
    driven = Driven(ovs.mgmt(bridge), PolicyPlan(DPID, policy))
    driven.settle()
    assert not [line for line in dump(ovs, bridge) if f"cookie={cookie(Kind.PORT, 1):#x}" in line]
    ovs.vsctl(
        "add-port", bridge, f"{bridge}a", "--", "set", "interface", f"{bridge}a", "type=dummy", "ofport_request=7"
    )
    driven.pump(1)
    assert [line for line in dump(ovs, bridge) if f"cookie={cookie(Kind.PORT, 1):#x}" in line and "in_port=7" in line]
    ovs.vsctl("del-port", f"{bridge}a")
    driven.pump(1)
    assert not [line for line in dump(ovs, bridge) if f"cookie={cookie(Kind.PORT, 1):#x}" in line]
    assert not [line for line in dump(ovs, bridge) if f"cookie={cookie(Kind.RULE, 1):#x}" in line]
    driven.close()


def test_flows_changed_by_hand_are_repaired_and_counted_and_those_of_others_left_alone(ovs, bridge):
    driven = Driven(ovs.mgmt(bridge), PolicyPlan(DPID, named(small(), bridge)))
    driven.settle()
    right = dump(ovs, bridge)
    ovs.ofctl("-O", "OpenFlow14", "--strict", "del-flows", bridge, "table=30,priority=0")
    ovs.ofctl(
        "-O",
        "OpenFlow14",
        "add-flow",
        bridge,
        "cookie=0xd0f1030100000063,table=30,priority=1000,tcp,actions=resubmit(,35)",
    )
    ovs.ofctl("-O", "OpenFlow14", "add-flow", bridge, "cookie=0x1234,table=30,priority=7,tcp,actions=drop")
    driven.pump(2)
    driven.feed(driven.session.resync(moment(), keep_flows=True))
    driven.settle()
    foreign = [line for line in dump(ovs, bridge) if "cookie=0x1234" in line]
    assert len(foreign) == 1
    held = [line for line in dump(ovs, bridge) if "cookie=0x1234" not in line]
    assert generation_of(held) == generation_of(right) + 1  # a flow that admitted was taken away
    assert [re.sub(r"ct_mark=\w+|load:\w+->NXM_NX_CT_MARK", "", x) for x in held] == [
        re.sub(r"ct_mark=\w+|load:\w+->NXM_NX_CT_MARK", "", x) for x in right
    ]
    assert driven.session.report.repaired_flows >= 2
    assert driven.session.report.last_repair_at is not None
    assert len(driven.session.flows_read) == len(right) + len(foreign)
    driven.close()


def test_a_refused_flow_leaves_the_switch_as_it_was_and_says_which(ovs, bridge, monkeypatch):
    policy = named(small(), bridge)
    plan = PolicyPlan(DPID, policy)
    driven = Driven(ovs.mgmt(bridge), plan)
    driven.settle()
    before = dump(ovs, bridge)

    # resubmit(,t,ct) without a ct_state match is refused by OvS when it is added
    bad = Flow(RULES.id, 1000, match(reg5=77), (Resubmit(35, ct=True),), cookie(Kind.RULE, 99))

    def with_a_bad_one(unit):
        pairs = list(render(unit))
        if getattr(unit, "rule_id", None) == 9:
            key = Key(bad.table, bad.priority, wire.encode_match(bad.match))
            pairs.append((key, Body(bad.cookie, wire.encode_instructions(bad.actions))))
        return pairs

    monkeypatch.setattr(driven.session._desired, "_render", with_a_bad_one)
    plan.change(with_inbound(policy, rule("inbound", "tcp", "443", ANYONE, 9)))
    driven.policy_changed()
    assert driven.session.report.sync is Sync.FAILED
    assert driven.session.report.failed == 1
    assert driven.session.report.confirmed == 0
    assert "reg5=0x4d" in driven.session.report.error
    assert dump(ovs, bridge) == before

    plan.change(with_inbound(policy, rule("inbound", "tcp", "444", ANYONE, 10)))
    driven.policy_changed()
    assert driven.session.report.sync is Sync.IN_SYNC
    assert driven.session.report.error is None
    assert any("tp_dst=444" in line for line in dump(ovs, bridge))
    driven.close()


def test_the_fragment_mode_is_set_on_every_connect(ovs, bridge):
    driven = Driven(ovs.mgmt(bridge), PolicyPlan(DPID, named(small(), bridge)))
    driven.settle()
    assert "frags=nx-match" in ovs.ofctl("-O", "OpenFlow14", "show", bridge)
    driven.close()


def test_a_newer_connection_becomes_master_and_the_older_is_refused(ovs, bridge):
    policy = named(small(), bridge)
    plan = PolicyPlan(DPID, policy)
    old = Driven(ovs.mgmt(bridge), plan)
    old.settle()
    new = Driven(ovs.mgmt(bridge), PolicyPlan(DPID, policy))
    new.settle()
    plan.change(with_inbound(policy))
    old.policy_changed()
    assert old.session.report.sync is Sync.FAILED
    assert "another connection is master with generation 1" in old.session.report.error
    old.close()
    new.close()


def test_a_slot_is_flushed_before_it_is_used_and_after(ovs, bridge):
    from dataclasses import replace

    policy = named(small(), bridge)
    plan = PolicyPlan(DPID, policy)
    driven = Driven(ovs.mgmt(bridge), plan)
    driven.settle()
    driven.sent_bytes.clear()
    draft = policy.edit()
    draft.put(replace(policy.ports["web-eth0"], slot=9))
    plan.change(draft.done())
    driven.policy_changed()
    flushes = [m for m in driven.sent_bytes if m[1] == 4]
    assert flushes == [
        wire.ct_flush_zone(5, int.from_bytes(m[4:8], "big"), z) for m, z in zip(flushes, (9, 1), strict=True)
    ]
    opened = next(i for i, m in enumerate(driven.sent_bytes) if m[1] == 33)
    assert driven.sent_bytes.index(flushes[0]) < opened < driven.sent_bytes.index(flushes[1])
    driven.close()


@pytest.mark.parametrize("version", [5, 4])
def test_T164_T175_what_others_do_is_noticed_at_once_repaired_and_told_with_its_text(ovs, bridge, version):
    driven = Driven(ovs.mgmt(bridge), PolicyPlan(DPID, named(small(), bridge)), version)
    driven.settle()
    assert driven.session.report.watched is True
    right = without_marks(dump(ovs, bridge))

    def ofctl(*words):
        ovs.ofctl("-O", "OpenFlow14", *words)

    def repaired(what, part):
        before = driven.session.report.last_repair_at
        deadline = time.monotonic() + 10
        while driven.session.report.last_repair_at == before:
            assert time.monotonic() < deadline
            driven.pump(0.05)
            driven.feed(driven.session.tick(moment()))
        assert without_marks(line for line in dump(ovs, bridge) if "cookie=0x99" not in line) == right
        assert any(found.what == what and part in found.flow for found in driven.session.drift)
        driven.session.drift.clear()

    ofctl("add-flow", bridge, f"cookie={cookie(Kind.RULE, 77):#x},table=33,priority=9,tcp,tp_dst=666 actions=drop")
    repaired("added", "tcp,tp_dst=666")
    ofctl("--strict", "mod-flows", bridge, "table=40,priority=100,actions=NORMAL")
    repaired("changed", "table=40,priority=100")
    ofctl("del-flows", bridge, "table=10")
    repaired("removed", "table=10")
    # somebody else's flow in the place of one of ours
    ofctl("--strict", "add-flow", bridge, "cookie=0x99,table=40,priority=100,actions=NORMAL")
    repaired("removed", "table=40,priority=100")
    # where it is in nobody's way it is told, and left alone
    assert driven.session.report.foreign_flows == 0
    driven.session.changes.clear()
    ofctl("add-flow", bridge, "cookie=0x99,table=0,priority=65000,actions=NORMAL")
    deadline = time.monotonic() + 10
    while not driven.session.report.foreign_flows:
        assert time.monotonic() < deadline
        driven.pump(0.05)
        driven.feed(driven.session.tick(moment()))
    assert [(found.what, found.flow) for found in driven.session.drift] == [("foreign", FOREIGN)]
    (said,) = [line for line in driven.session.changes if isinstance(line, session_module.Decision)]
    assert (said.serious, said.fields) == (True, {"count": 1, "flow": FOREIGN})
    driven.feed(driven.session.resync(moment()))
    driven.settle()
    assert len(driven.session.drift) == 1, "once"
    assert [line for line in dump(ovs, bridge) if "cookie=0x99" in line]
    ofctl("add-flow", bridge, "cookie=0x99,table=99,priority=7,actions=drop")
    reads = driven.session.reads
    driven.pump(0.3)
    assert (driven.session.reads, driven.session.report.foreign_flows) == (reads, 1), "other tables are nothing to us"
    ofctl("del-flows", bridge, "cookie=0x99/-1")
    driven.feed(driven.session.resync(moment()))
    driven.settle()
    assert driven.session.report.foreign_flows == 0
    driven.close()


@pytest.mark.parametrize("version", [5, 4])
def test_T173_a_switch_that_holds_another_policy_is_left_alone_until_somebody_confirms(ovs, bridge, version):
    plan = PolicyPlan(DPID, named(small(), bridge))
    plan.history = History(57, (Point(11, 0),))
    first = Driven(ovs.mgmt(bridge), plan, version)
    first.settle()
    first.close()
    held = dump(ovs, bridge)
    backup = PolicyPlan(DPID, Policy())
    backup.history = History(50, (Point(11, 0),))  # restored from before
    second = Driven(ovs.mgmt(bridge), backup, version)
    second.settle()
    assert (second.session.report.sync, second.session.report.fence) == (Sync.FAILED, Point(11, 57))
    for number in range(51, 61):  # and it goes on, past the revision that the switch has
        backup.history = backup.history.after(Point(12, number))
        second.policy_changed()
        second.feed(second.session.resync(moment()))
        second.settle()
    assert second.session.report.failed == 60
    assert dump(ovs, bridge) == held
    assert not any(kind in (14, 33, 34) for kind in second.sent)
    backup.history = backup.history.superseding(Point(11, 57))
    second.policy_changed()
    assert (second.session.report.sync, second.session.report.fence) == (Sync.IN_SYNC, None)
    assert second.session.report.confirmed == 60
    assert fence_of(dump(ovs, bridge)) == (12, 60)
    second.close()


@pytest.mark.parametrize("version", [4, 5])
def test_T172_a_controller_of_another_store_takes_the_role_from_nobody(ovs, bridge, version):
    plan = PolicyPlan(DPID, named(small(), bridge))
    plan.history = History(57, (Point(11, 0),))
    ours = Driven(ovs.mgmt(bridge), plan, version, token=5)
    ours.settle()
    theirs = PolicyPlan(DPID, Policy())
    theirs.history = History(99, (Point(12, 0),))
    other = Driven(ovs.mgmt(bridge), theirs, version, token=9)
    other.settle()
    assert (other.session.report.sync, other.session.report.fence) == (Sync.FAILED, Point(11, 57))
    plan.change(with_inbound(plan.policy))
    ours.policy_changed()
    assert (ours.session.report.sync, ours.session.report.confirmed) == (Sync.IN_SYNC, 58)
    ours.close()
    other.close()


@pytest.mark.parametrize("version", [4, 5])
def test_T171_T172_a_greater_token_takes_over_without_a_change_and_the_older_one_is_refused(ovs, bridge, version):
    old_plan, new_plan = (PolicyPlan(DPID, named(small(), bridge)) for _ in range(2))
    old = Driven(ovs.mgmt(bridge), old_plan, version, token=5)
    old.settle()
    new = Driven(ovs.mgmt(bridge), new_plan, version, token=None)
    new.settle()
    assert new.session.report.sync is Sync.STANDBY
    new.feed(new.session.lead(9, moment()))
    new.settle()
    assert new.session.report.sync is Sync.IN_SYNC
    assert not any(kind in (14, 33, 34) for kind in new.sent), "what is right was written"
    held = dump(ovs, bridge)
    old_plan.change(with_inbound(old_plan.policy))
    old.policy_changed()
    assert old.session.report.sync is Sync.FAILED
    for _ in range(2):  # and when it connects again, or is told that it leads
        old.feed(old.session.lead(5, moment()))
        old.settle()
        assert old.session.report.sync is Sync.FAILED
        assert "another connection is master with generation 9, ours is 5" in old.session.report.error
    assert dump(ovs, bridge) == held
    old.feed(old.session.stand_by(moment()))
    old.settle()
    assert old.session.dead is None
    assert old.session.report.sync is Sync.STANDBY
    new_plan.change(with_inbound(new_plan.policy))
    new.policy_changed()
    assert (new.session.report.sync, new.session.report.confirmed) == (Sync.IN_SYNC, 1)
    old.close()
    new.close()


FOREIGN = "cookie=0x99,table=0,priority=65000 actions=output:4294967290"  # NORMAL


def without_marks(lines):
    return [re.sub(r"ct_mark=\w+|load:\w+->NXM_NX_CT_MARK", "", line) for line in lines]


def fence_of(lines):
    notes = [bytes.fromhex(m[1].replace(".", "")) for line in lines if (m := re.search(r"note:([0-9a-f.]+)", line))]
    assert len(notes) == 1
    return struct.unpack("!6xQQ", notes[0])
