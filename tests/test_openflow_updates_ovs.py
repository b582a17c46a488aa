"""Changes that go wrong half way, between a session and a real ovs-vswitchd: all of a change is in force, or nothing.

Behaviours T143 to T146, T149 and T150 as far as they are about messages; with packets they are test_lab_updates.py.
The switch really refuses: a flow when it is added (a feature of the datapath is declared missing), the commit (a table
is full), or a bundle that lay idle (its clock is moved).
"""

from __future__ import annotations

import itertools
import re
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from ovs_dummy import DummyOvs
from policies import ANYONE, DPID, FIREWALL, rule, small, with_inbound
from session_driver import Driven, PolicyPlan, moment

from firewall_app.openflow import wire
from firewall_app.openflow.session import RETRY_FIRST, Moment
from firewall_app.pipeline.tables import Kind, cookie_parts
from firewall_app.policy.model import Peer
from firewall_app.progress import Sync

pytestmark = pytest.mark.ovs
ERROR, BARRIER_REPLY = 1, 21
FOREIGN = 7  # an xid that no session uses
IDLE_TOO_LONG = 12_000  # milliseconds; Open vSwitch keeps an idle bundle for ten seconds
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def ovs():
    with tempfile.TemporaryDirectory(prefix="fw-") as directory, DummyOvs(Path(directory)) as switch:
        yield switch


@pytest.fixture(params=[5, 4], ids=["1.4", "1.3"])
def talk(ovs, request):
    made = Talk(ovs, f"up{next(_numbers)}", request.param)
    yield made
    made.driven.close()
    ovs.vsctl("del-br", made.bridge)


class Talk:
    """A session in step with a bridge of its own; what it wants to say may be meddled with on the way."""

    def __init__(self, ovs, bridge, version):
        self.ovs, self.bridge, self.version = ovs, bridge, version
        ports = tuple(f"{bridge}{suffix}" for suffix in "uab")
        ovs.add_bridge(bridge, ports)
        policy = small()
        draft = policy.edit()
        draft.put(replace(policy.hypervisors[DPID], uplinks=ports[:1]))
        for port_id, interface in zip(("web-eth0", "db-eth0"), ports[1:], strict=True):
            draft.put(replace(policy.ports[port_id], interface=interface))
        self.policy = draft.done()
        self.plan = PolicyPlan(DPID, self.policy)
        self.driven = Driven(ovs.mgmt(bridge), self.plan, version)
        self.driven.settle()
        assert self.report.sync is Sync.IN_SYNC

    @property
    def session(self):
        return self.driven.session

    @property
    def report(self):
        return self.session.report

    def wants(self, *rules):
        """What the session would now send, for the firewall to have these inbound rules."""
        self.plan.change(with_inbound(self.policy, *rules))
        return self.session.policy_changed(moment())

    def change(self, *rules):
        self.driven.feed(self.wants(*rules))
        self.driven.settle()

    def until(self, kind):
        """What the switch says until it says this; the session has not heard it yet."""
        heard = [self.driven._next()]
        while heard[-1][1] != kind:
            heard.append(self.driven._next())
        return heard

    def idles(self):
        """Time passes for the switch alone: what it says until it has forgotten the bundle."""
        self.ovs.appctl("time/warp", str(IDLE_TOO_LONG))
        return self.until(ERROR)

    def hears(self, messages):
        for message in messages:
            self.driven.feed(self.session.receive(message, moment()))
        self.driven.settle()

    def later(self):
        """The session tries again what was refused."""
        now = moment()
        self.driven.feed(self.session.tick(Moment(now.seconds + 2 * RETRY_FIRST + 1, now.wall)))
        self.driven.settle()

    def resync(self):
        self.driven.feed(self.session.resync(moment()))
        self.driven.settle()

    def dump(self):
        """What the switch holds, one line a flow, without counters and times."""
        text = self.ovs.ofctl("-O", "OpenFlow14", "--no-stats", "--no-names", "dump-flows", self.bridge)
        return {line.strip() for line in text.splitlines() if "cookie" in line}

    def opens(self):
        """The TCP ports that flows of rules open."""
        lines = [line for line in self.dump() if "table=33" in line]
        return {int(found[1]) for line in lines if (found := re.search(r"tp_dst=(\d+)", line)) and "tcp," in line}


OLD = {80, 81}
NEW = (rule("inbound", "tcp", "443", ANYONE, 9), rule("inbound", "tcp", "8443", ANYONE, 10),
       rule("inbound", "tcp", "9443", ANYONE, 11))  # fmt: skip


@contextmanager
def refusing(talk, when):
    """The switch refuses what a change needs: the flows that mark connections, or one more flow in the rules' table."""
    if when == "add":
        talk.ovs.appctl("dpif/set-dp-features", talk.bridge, "ct_label", "false")
    else:
        held = sum("table=33" in line for line in talk.dump())
        talk.ovs.vsctl("--id=@t", "create", "Flow_Table", f"flow_limit={held}", "overflow_policy=refuse",
                       "--", "set", "Bridge", talk.bridge, "flow_tables:33=@t")  # fmt: skip
    try:
        yield
    finally:
        if when == "add":
            talk.ovs.appctl("dpif/set-dp-features", talk.bridge, "ct_label", "true")
        else:
            talk.ovs.vsctl("clear", "Bridge", talk.bridge, "flow_tables")


def is_mended(talk):
    assert talk.report.sync is Sync.IN_SYNC
    assert talk.report.confirmed == talk.plan.revision
    assert talk.report.error is None
    assert talk.opens() == {443, 8443, 9443}
    # and it is what a session finds right that knows nothing of what happened
    fresh = Driven(talk.ovs.mgmt(talk.bridge), talk.plan, talk.version)
    fresh.settle()
    assert not {14, 33, 34} & fresh.sent.keys()
    assert talk.version == 5 or 4 not in fresh.sent
    fresh.close()


def is_refused(talk, before, *words):
    assert talk.session.dead is None
    assert talk.report.sync is Sync.FAILED
    assert talk.report.failed == talk.plan.revision
    assert talk.report.confirmed < talk.plan.revision
    for word in words:
        assert word in talk.report.error
    assert talk.dump() == before


@pytest.mark.parametrize("mend", ["later", "resync"])
@pytest.mark.parametrize(("when", "words"), [("add", ("CT_DATAPATH_SUPPORT", "table=35")),
                                             ("commit", ("TABLE_FULL", "table=33"))])  # fmt: skip
def test_T143_T144_one_flow_refused_is_all_refused_and_all_is_tried_again(talk, when, words, mend):
    before = talk.dump()
    with refusing(talk, when):
        talk.change(*NEW)
        is_refused(talk, before, *words)
        getattr(talk, mend)()
        is_refused(talk, before, *words)
    assert talk.opens() == OLD
    getattr(talk, mend)()
    is_mended(talk)


def test_T143_what_the_switch_refuses_is_the_flow_and_not_the_change_after(talk):
    with refusing(talk, "add"):
        talk.change(*talk.policy.firewalls[FIREWALL].inbound_rules, NEW[0])  # takes nothing away: needs no new marks
        assert talk.report.sync is Sync.IN_SYNC
        assert talk.opens() == {*OLD, 443}
        before = talk.dump()
        talk.change(NEW[0])
        is_refused(talk, before, "CT_DATAPATH_SUPPORT")
    talk.change(*NEW)  # which waits for no retry
    is_mended(talk)


# ---- idle bundles


def test_T145_a_bundle_that_idled_before_its_commit_is_made_again_whole(talk):
    before = talk.dump()
    talk.driven.feed(talk.wants(*NEW))
    added = talk.until(BARRIER_REPLY)
    talk.hears([*added, *talk.idles()])
    is_refused(talk, before, "BUNDLE_FAILED")
    talk.later()
    is_mended(talk)


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_T145_a_bundle_that_idled_while_it_was_filled_leaves_no_half(talk, part):
    """Open vSwitch begins a new bundle when it is given a message for one that it has forgotten."""
    before = talk.dump()
    opened, *adds, barrier = talk.wants(*NEW)
    cut = int(part * len(adds))
    talk.driven.feed([opened, *adds[:cut]])
    talk.driven.feed([wire.barrier(talk.version, FOREIGN)])  # until they are there, nothing can idle
    heard = [*talk.until(BARRIER_REPLY)[:-1], *talk.idles()]  # the reply to this barrier is none to the session's
    talk.driven.feed([*adds[cut:], barrier])
    talk.hears(heard)
    is_refused(talk, before, "BUNDLE_FAILED")
    talk.later()
    is_mended(talk)


def test_T145_a_change_that_came_while_a_bundle_idled_is_made_at_once(talk):
    talk.driven.feed(talk.wants(NEW[0]))
    added = talk.until(BARRIER_REPLY)
    assert talk.wants(*NEW) == []  # one bundle at a time
    talk.hears([*added, *talk.idles()])
    is_mended(talk)


def test_T145_a_change_that_came_while_a_bundle_idled_half_filled_is_made_at_once(talk):
    """What is forgotten cannot be discarded, which the switch says too; that must not count against the next bundle."""
    opened, *adds, barrier = talk.wants(NEW[0])
    talk.driven.feed([opened, *adds, wire.barrier(talk.version, FOREIGN)])
    assert talk.wants(*NEW) == []
    heard = [*talk.until(BARRIER_REPLY)[:-1], *talk.idles()]  # the reply to this barrier is none to the session's
    talk.driven.feed([barrier])
    talk.hears(heard)
    is_mended(talk)


# ---- errors of bundles


def other_flags(message):
    """A bundle control or add message with the flag "ordered" alone."""
    control = len(message) <= 24
    at = len(message) - 2 if control else 14 if message[1] == 34 else 22
    assert message[at : at + 2] == b"\0\3"
    return message[:at] + b"\0\2" + message[at + 2 :]


def mistakes(version, bundle):
    """Messages that the switch answers with an error of bundles."""
    opened = wire.bundle_open(version, FOREIGN, bundle)
    return {
        "opened twice": [opened, opened],
        "commit of an unknown one": [wire.bundle_commit(version, FOREIGN, bundle)],
        "discard of an unknown one": [wire.bundle_discard(version, FOREIGN, bundle)],
        "commit with other flags": [opened, other_flags(wire.bundle_commit(version, FOREIGN, bundle))],
        "barrier inside": [opened, wire.bundle_add(version, bundle, wire.barrier(version, FOREIGN))],
    }


MISTAKES = tuple(mistakes(5, 1))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_T146_a_bundle_error_between_changes_is_told_and_changes_nothing(talk, mistake):
    before, report = talk.dump(), talk.report
    talk.session.changes.clear()
    talk.driven.feed(mistakes(talk.version, 999)[mistake])
    talk.hears(talk.until(ERROR))
    assert talk.session.dead is None
    assert any("unexpected error" in line and "BUNDLE_FAILED" in line for line in map(str, talk.session.changes))
    assert (talk.report, talk.dump()) == (report, before)
    talk.change(*NEW)
    is_mended(talk)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_T146_a_bundle_error_within_a_change_refuses_that_change_alone(talk, mistake):
    before = talk.dump()
    opened, *adds, barrier = talk.wants(*NEW)
    talk.driven.feed([opened, *adds[:3], *mistakes(talk.version, 999)[mistake], *adds[3:], barrier])
    talk.driven.settle()
    is_refused(talk, before, "BUNDLE_FAILED")
    talk.later()
    is_mended(talk)


@pytest.mark.parametrize("mistake", ["opened twice", "an add with other flags"])
def test_T146_a_bundle_that_was_spoilt_itself_leaves_no_half(talk, mistake):
    before = talk.dump()
    opened, *adds, barrier = talk.wants(*NEW)
    wrong = opened if mistake == "opened twice" else other_flags(adds[3])
    talk.driven.feed([opened, *adds[:3], wrong, *adds[4:], barrier])
    talk.driven.settle()
    is_refused(talk, before, "BUNDLE_FAILED")
    talk.later()
    is_mended(talk)


def test_T146_a_commit_with_other_flags_is_refused_and_its_bundle_never_committed(talk):
    before = talk.dump()
    talk.driven.feed(talk.wants(*NEW))
    *heard, added = talk.until(BARRIER_REPLY)
    assert not [message for said in heard for message in talk.session.receive(said, moment())]
    (commit,) = talk.session.receive(added, moment())
    talk.driven.feed([other_flags(commit)])
    talk.driven.settle()
    is_refused(talk, before, "BUNDLE_FAILED")
    talk.later()
    is_mended(talk)


# ---- no more than is needed


def messages_of_bundles(talk):
    kinds = (33, 34) if talk.version == 5 else (4,)
    return [message for message in talk.driven.sent_bytes if message[1] in kinds]


def test_T149_the_same_policy_once_more_is_no_message_at_all(talk):
    talk.driven.sent_bytes.clear()
    talk.change(*talk.policy.firewalls[FIREWALL].inbound_rules)
    talk.change(*reversed(talk.policy.firewalls[FIREWALL].inbound_rules))
    assert talk.driven.sent_bytes == []
    assert talk.report.confirmed == 2
    talk.resync()
    assert messages_of_bundles(talk) == []
    assert talk.report.repaired_flows == 0


MANY = Peer(tuple(f"192.0.2.{2 * i}" for i in range(20)))
FEW = Peer(("192.0.2.1", "2001:db8::1"))
TAG = Peer((), tags=("web",))


@pytest.mark.parametrize("peer", [FEW, ANYONE, MANY, TAG], ids=["few", "anyone", "many", "tag"])
@pytest.mark.parametrize("ports", ["443", "1000-1999"])
def test_T150_one_rule_swapped_is_its_flows_gone_and_the_others_come(talk, peer, ports):
    kept = talk.policy.firewalls[FIREWALL].inbound_rules
    talk.change(*kept, rule("inbound", "udp", "7", peer, 20))
    before = talk.dump()
    talk.driven.sent_bytes.clear()
    talk.change(*kept, rule("inbound", "tcp", ports, peer, 21))
    after = talk.dump()
    gone, come = before - after, after - before

    def of(lines, *kinds):
        return {line for line in lines if kind_of(line)[0] in kinds}

    # a set of the rule's own is one more that its firewall asks for; a tag's was asked for before
    asks = {Kind.FIREWALL} if peer == MANY and "-" in ports else set()
    marks = {line for line in gone | come if "CT_MARK" in line or "ct_mark" in line or "note:" in line}
    assert of(gone, Kind.RULE) == {line for line in before if kind_of(line) == (Kind.RULE, 20)} != set()
    assert of(come, Kind.RULE) == {line for line in after if kind_of(line) == (Kind.RULE, 21)} != set()
    rest = (gone | come) - of(gone | come, Kind.RULE) - marks
    assert {kind_of(line)[0] for line in rest} == asks
    # deletes and adds: what was overwritten is one message; so are the marks, but for that of the fast path
    overwritten = {re.sub(r"^cookie=\w+, | actions=.*", "", line) for line in gone}
    overwritten &= {re.sub(r"^cookie=\w+, | actions=.*", "", line) for line in come}
    adds = [message for message in messages_of_bundles(talk) if len(message) > 32]
    assert len(adds) == len(gone) + len(come) - len(overwritten)


def kind_of(line):
    return cookie_parts(int(re.search(r"cookie=(0x\w+)", line)[1], 16))
