"""Sessions against a switch that misbehaves on purpose; a real one is in test_openflow_session_ovs.py."""

from __future__ import annotations

import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fakeswitch import FakeSwitch, message, port_status
from policies import ANYONE, DPID, FIREWALL, rule, small, with_inbound

from firewall_app.history import beginning
from firewall_app.openflow import session as session_module
from firewall_app.openflow import wire
from firewall_app.openflow.questions import Questions
from firewall_app.openflow.rendering import Body
from firewall_app.openflow.session import Decision, Moment, Session
from firewall_app.pipeline.compile import Rulings
from firewall_app.pipeline.plan import units
from firewall_app.pipeline.tables import LAYOUT
from firewall_app.policy.policy import Policy
from firewall_app.progress import ALWAYS, Sync, Wanted

EPOCH = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Talk:
    """A session and a fake switch that exchange messages until both are silent; time stands still unless moved."""

    def __init__(
        self, switch: FakeSwitch | None = None, policy: Policy | None = None, revision: int = 0, **options
    ) -> None:
        self.switch = switch or FakeSwitch()
        self.policy = policy if policy is not None else small()
        self.history, self.cut = beginning(revision=revision), ALWAYS
        self.seconds = 0.0
        self.session = Session(DPID, 5, self._plan, lambda: self.history, self.now, "test", **options)
        self.exchange(self.session.start(self.now))

    def _plan(self, interfaces):
        return Wanted(self.history, units(self.policy, DPID, interfaces, Rulings()), self.cut)

    @property
    def revision(self) -> int:
        return self.history.revision

    @revision.setter
    def revision(self, number: int) -> None:
        self.history = self.history.after(self.history.point._replace(revision=number))

    @property
    def now(self) -> Moment:
        return Moment(self.seconds, EPOCH + timedelta(seconds=self.seconds))

    @property
    def report(self):
        return self.session.report

    def change(self, policy: Policy) -> None:
        self.policy, self.history = policy, self.history.after(self.history.point._replace(revision=self.revision + 1))
        self.exchange(self.session.policy_changed(self.now))

    def exchange(self, messages: list[bytes]) -> None:
        waiting = list(messages)
        while waiting or self.session.filling:
            waiting = waiting or self.session.fill(self.now)
            for answer in self.switch.answer(waiting.pop(0)):
                waiting += self.session.receive(answer, self.now)

    def hear(self, data: bytes) -> None:
        self.exchange(self.session.receive(data, self.now))

    def pass_time(self, seconds: float) -> None:
        self.seconds += seconds
        self.exchange(self.session.tick(self.now))


def without_first_rule(policy):
    return with_inbound(policy, *policy.firewalls[FIREWALL].inbound_rules[1:])


def test_connect_takes_the_master_role_sets_the_fragment_mode_and_confirms():
    talk = Talk()
    assert talk.report.sync is Sync.IN_SYNC
    assert talk.report.confirmed == 0
    assert talk.switch.config == 3
    assert talk.switch.role == wire.ROLE_MASTER
    assert talk.switch.generation == talk.session.token
    assert talk.switch.commits == 1
    assert talk.report.software == "Open vSwitch 3.1.0"
    assert talk.report.interfaces == {1: "up0", 2: "tap101", 3: "tap102"}


def test_converged_means_no_message_at_all():
    talk = Talk()
    adds = talk.switch.adds
    assert talk.session.policy_changed(talk.now) == []
    talk.exchange(talk.session.resync(talk.now))
    assert (talk.switch.adds, talk.switch.commits) == (adds, 1)
    assert talk.report.repaired_flows == 0


@pytest.mark.parametrize(
    ("hardware", "software"), [("Open vSwitch", "2.7.9"), ("lagopus", "3.1.0"), ("Open vSwitch", "?")]
)
def test_a_switch_that_cannot_do_it_is_left_alone_and_says_why(hardware, software):
    talk = Talk(FakeSwitch(hardware=hardware, software=software))
    assert talk.report.sync is Sync.FAILED
    assert "2.8 or newer" in talk.report.error
    assert software in talk.report.error
    talk.change(without_first_rule(talk.policy))
    talk.exchange(talk.session.resync(talk.now))
    talk.pass_time(1000)
    assert (talk.switch.adds, talk.switch.config, talk.switch.role) == (0, 0, 1)
    assert talk.session.dead is None


def test_a_refused_add_discards_the_bundle_and_is_tried_again_later():
    talk = Talk()
    before = dict(talk.switch.flows)
    talk.switch.refuse_adds = 1
    talk.change(without_first_rule(talk.policy))
    assert talk.switch.flows == before
    assert talk.report.sync is Sync.FAILED
    assert (talk.report.confirmed, talk.report.failed) == (0, 1)
    assert "FLOW_MOD_FAILED" in talk.report.error
    assert "delete table=" in talk.report.error
    talk.pass_time(1)
    assert talk.report.sync is Sync.FAILED
    talk.pass_time(10)
    assert talk.report.sync is Sync.IN_SYNC
    assert talk.report.confirmed == 1
    assert talk.report.error is None
    assert len(talk.switch.flows) == len(before) - 2


def test_a_refused_commit_changes_nothing_and_is_told():
    talk = Talk()
    before = dict(talk.switch.flows)
    talk.switch.refuse_commit = True
    talk.change(without_first_rule(talk.policy))
    assert talk.switch.flows == before
    assert talk.report.failed == 1
    assert "FLOW_MOD_FAILED" in talk.report.error
    talk.switch.refuse_commit = False
    talk.change(with_inbound(talk.policy, rule("inbound", "tcp", "443", ANYONE, 9)))
    assert talk.report.sync is Sync.IN_SYNC
    assert talk.report.confirmed == 2


def test_retries_come_ever_later():
    talk = Talk()
    talk.switch.refuse_adds = 1000
    talk.change(without_first_rule(talk.policy))
    tried = []
    for second in range(1, 200):
        left = talk.switch.refuse_adds
        talk.pass_time(1)
        if talk.switch.refuse_adds != left:
            tried.append(second)
    assert tried == [5, 15, 35, 75, 155]


@pytest.mark.parametrize("muted", [18, 20, 24])
def test_a_switch_that_does_not_answer_is_given_up(muted):
    talk = Talk(FakeSwitch(mute=frozenset({muted})), reply_timeout=30)
    talk.pass_time(29)
    assert talk.session.dead is None
    talk.pass_time(2)
    assert "no answer" in talk.session.dead
    assert talk.switch.adds == 0


def test_a_commit_without_an_answer_is_not_taken_for_one():
    talk = Talk()
    talk.switch.mute = frozenset({33})
    talk.change(without_first_rule(talk.policy))
    assert talk.report.sync is Sync.SYNCING
    assert talk.report.confirmed == 0
    talk.pass_time(31)
    assert "a commit" in talk.session.dead


@pytest.mark.parametrize("data", [b"\5\x13\0\x08\0\0\0\1", b"\5\x15\0\x07\0\0\0\1", b"", b"\xff" * 40])
def test_a_malformed_message_ends_the_session(data):
    talk = Talk()
    talk.hear(data)
    assert "malformed" in talk.session.dead


def test_messages_that_no_answer_is_waited_for_are_passed_over():
    talk = Talk()
    before = talk.report
    for stray in (message(3, 77), message(33, 78, b"\0\0\0\1\0\7\0\3"), message(4, 79, bytes(8)), message(200, 80)):
        talk.hear(stray)
    assert talk.session.dead is None
    assert talk.report == before


def test_changes_during_a_bundle_are_done_after_it_in_one_more():
    talk = Talk()
    original = talk.policy
    talk.policy, talk.revision = without_first_rule(original), 1
    first = talk.session.policy_changed(talk.now)
    talk.policy, talk.revision = with_inbound(original), 2
    assert talk.session.policy_changed(talk.now) == []
    talk.policy, talk.revision = with_inbound(original, rule("inbound", "tcp", "443", ANYONE, 9)), 3
    assert talk.session.policy_changed(talk.now) == []
    talk.exchange(first)
    assert talk.switch.commits == 3  # connect, the change in flight, and one for all that came meanwhile
    assert talk.report.confirmed == 3


def test_ports_come_go_and_change_names():
    talk = Talk(FakeSwitch(ports={1: "up0"}))
    closed = len(talk.switch.flows)
    talk.hear(port_status(wire.PORT_ADD, 2, "tap101"))
    opened = len(talk.switch.flows)
    assert opened > closed
    talk.hear(port_status(wire.PORT_MODIFY, 2, "tap101"))
    assert len(talk.switch.flows) == opened
    talk.hear(port_status(wire.PORT_MODIFY, 2, "other"))
    assert len(talk.switch.flows) == closed
    talk.hear(port_status(wire.PORT_ADD, 5, "tap101"))
    assert len(talk.switch.flows) == opened
    talk.hear(port_status(wire.PORT_DELETE, 5, "tap101"))
    assert len(talk.switch.flows) == closed
    assert talk.report.sync is Sync.IN_SYNC


def test_zones_of_new_slots_are_flushed_but_not_on_a_switch_that_was_restarted():
    talk = Talk()
    assert talk.switch.flushed == []
    draft = talk.policy.edit()
    draft.put(replace(talk.policy.ports["web-eth0"], slot=9))
    talk.change(draft.done())
    assert talk.switch.flushed == [9, 1]


def test_T109_T115_a_zone_is_flushed_when_its_port_goes_and_when_one_comes_not_with_its_firewalls():
    talk = Talk()
    protected = talk.policy
    draft = protected.edit()
    draft.drop(protected.firewalls[FIREWALL])
    talk.change(draft.done())
    assert talk.switch.flushed == [], "an open droplet is tracked, so that a firewall that comes cuts nothing allowed"
    draft = talk.policy.edit()
    gone = [port for port in talk.policy.ports.values() if port.slot == 1]
    for port in gone:
        draft.drop(port)
    talk.change(draft.done())
    assert talk.switch.flushed == [1]
    again = Talk(talk.switch, talk.policy, talk.revision)
    again.change(protected)
    assert talk.switch.flushed == [1, 1]


def test_flows_of_another_layout_are_replaced_and_their_connections_left_alone():
    talk = Talk()
    old = {
        key: Body(body.cookie & ~(0xFF << 32) | 1 << 32, body.instructions) for key, body in talk.switch.flows.items()
    }
    talk.switch.flows.clear()
    talk.switch.flows.update(old)
    again = Talk(talk.switch, talk.policy)
    assert again.report.sync is Sync.IN_SYNC
    assert {body.cookie >> 32 & 0xFF for body in again.switch.flows.values()} == {LAYOUT}
    assert again.switch.flushed == [], "the zones are those of the same ports"


def test_after_a_reading_what_is_missing_counts_as_taken_away():
    """What someone deleted by hand may have admitted a connection that the policy of today forbids."""
    talk = Talk()
    for key in [key for key in talk.switch.flows if key.table == 30]:
        del talk.switch.flows[key]
    again = Talk(talk.switch, without_first_rule(talk.policy))
    assert mark_of(again.switch) == mark_of(talk.switch) == int(EPOCH.timestamp()) + 1
    Talk(talk.switch, again.policy)
    assert mark_of(talk.switch) == int(EPOCH.timestamp()) + 1


def test_a_rule_that_goes_while_somebody_clears_the_switch_takes_its_connections_with_it():
    talk = Talk()
    before = mark_of(talk.switch)
    talk.switch.flows.clear()
    reading = talk.session.resync(talk.now)
    talk.policy, talk.revision = without_first_rule(talk.policy), 1
    assert talk.session.policy_changed(talk.now) == []
    talk.exchange(reading)
    assert mark_of(talk.switch) == before + 1


def test_T095_a_change_that_keeps_established_connections_does_not_raise_the_generation():
    talk = Talk()
    generation = mark_of(talk.switch)
    talk.cut = 0  # what the switch has confirmed: all changes since are to leave live connections alone
    whole = talk.policy
    talk.change(without_first_rule(whole))
    assert (talk.report.sync, mark_of(talk.switch)) == (Sync.IN_SYNC, generation)
    talk.change(whole)
    talk.cut = 3
    talk.change(without_first_rule(whole))
    assert mark_of(talk.switch) == generation + 1, "one that cuts"


def test_T095_a_cut_that_was_refused_is_made_good_by_the_next_change():
    talk = Talk()
    generation, whole = mark_of(talk.switch), talk.policy
    talk.switch.refuse_adds, talk.cut = 1, 1
    talk.change(without_first_rule(whole))
    assert talk.report.sync is Sync.FAILED
    talk.change(without_first_rule(whole))
    assert talk.report.confirmed == 2
    assert mark_of(talk.switch) > generation


def test_T095_what_was_to_be_kept_is_cut_when_the_switch_was_away():
    """A session that begins has confirmed nothing: it cannot know which changes it missed."""
    talk = Talk()
    again = Talk(talk.switch, without_first_rule(talk.policy))
    assert mark_of(again.switch) == int(EPOCH.timestamp()) + 1


@pytest.mark.parametrize(
    ("software", "asked", "turns"),
    [
        ("3.1.0", None, True),
        ("2.17.9", None, True),
        ("3.2.0", None, False),
        ("3.3.0", True, True),
        ("3.1.0", False, False),
    ],
)
def test_switches_that_need_it_are_given_another_turn_with_each_change(software, asked, turns):
    def turn(talk):
        flows = [wire.decode_match(key.match).text for key in talk.switch.flows if key.priority == 0xFFFF]
        assert len(flows) in (0, 3)
        return set(flows)

    talk = Talk(FakeSwitch(software=software), forget_cached=asked)
    first = turn(talk)
    assert bool(first) == turns
    talk.exchange(talk.session.resync(talk.now))
    assert turn(talk) == first, "without a change it stays"
    generation = mark_of(talk.switch)
    more = rule("inbound", "udp", "7", ANYONE, 77)
    talk.change(with_inbound(talk.policy, *talk.policy.firewalls[FIREWALL].inbound_rules, more))
    assert turn(talk) != first or not turns
    assert mark_of(talk.switch) == generation, "it takes nothing away"


def test_T097_ports_that_come_may_go_on_in_the_middle_for_some_seconds():
    talk = Talk(pickup_grace=20)
    assert [(timeout, key.priority) for key, timeout in talk.switch.timeouts.items()] == [(20, 211)] * 4
    talk.exchange(talk.session.resync(talk.now))
    assert talk.report.repaired_flows == 0, "they are neither wanted nor in the way"
    talk.change(with_inbound(talk.policy))
    assert len(talk.switch.timeouts) == 4, "not again"
    for key in talk.switch.timeouts:
        del talk.switch.flows[key]
    talk.exchange(talk.session.resync(talk.now))
    assert (talk.report.sync, talk.report.repaired_flows) == (Sync.IN_SYNC, 0)


def test_T097_by_default_nothing_is_picked_up():
    assert Talk().switch.timeouts == {}


def mark_of(switch):
    found = (wire.decode_match(key.match).get("ct_mark") for key in switch.flows if key.priority == 202)
    (mark,) = {term.value for term in found if term is not None}
    return mark


def test_a_revision_that_means_no_flow_is_told_too():
    """Whoever follows a request by the log cannot tell `nothing to do` from `not told` otherwise."""
    talk = Talk()
    talk.session.changes.clear()
    talk.history = beginning(revision=9)
    for _ in range(2):
        talk.exchange(talk.session.policy_changed(talk.now))
    (said,) = talk.session.changes
    assert said == ("in step", {"revision": 9, "flows": talk.report.flows}, False)
    talk.exchange(talk.session.resync(talk.now))
    assert talk.session.changes == [said], "an audit that finds nothing says nothing"


def test_work_at_a_confirmed_revision_is_not_confirmed_until_it_is_done():
    talk = Talk(FakeSwitch(ports={1: "up0"}))
    assert talk.report.confirmed == 0
    talk.switch.refuse_adds = 1
    talk.hear(port_status(wire.PORT_ADD, 2, "tap101"))
    assert talk.report.sync is Sync.FAILED
    assert (talk.report.confirmed, talk.report.failed) == (-1, 0)
    talk.pass_time(10)
    assert (talk.report.sync, talk.report.confirmed) == (Sync.IN_SYNC, 0)


def replaced(switch: FakeSwitch, generation: int) -> None:
    """Another controller became master."""
    switch.slave, switch.role, switch.generation = True, wire.ROLE_SLAVE, generation


def test_a_controller_that_was_made_slave_asks_for_its_role_again():
    talk = Talk(token=7)
    replaced(talk.switch, 7)
    talk.change(without_first_rule(talk.policy))
    assert "IS_SLAVE" in talk.report.error
    talk.pass_time(10)
    assert talk.switch.role == wire.ROLE_MASTER
    assert (talk.report.sync, talk.report.confirmed) == (Sync.IN_SYNC, 1)


def test_T172_an_older_token_is_refused_at_the_switch_and_nothing_is_changed_until_it_is_newer():
    talk = Talk(token=7)
    held = dict(talk.switch.flows)
    replaced(talk.switch, 9)
    talk.change(without_first_rule(talk.policy))
    for _ in range(3):
        talk.pass_time(100)
        assert (talk.report.sync, talk.report.confirmed) == (Sync.FAILED, -1)
        assert "another connection is master with generation 9, ours is 7" in talk.report.error
        talk.change(talk.policy)
        talk.exchange(talk.session.resync(talk.now, keep_flows=True))
        assert len(talk.session.flows_read) == len(held)  # a person may look
    assert (talk.switch.flows, talk.switch.role, talk.session.dead) == (held, wire.ROLE_SLAVE, None)
    serious = [line.event for line in talk.session.changes if isinstance(line, Decision) and line.serious]
    assert serious == ["change refused", "outbid"], "once, however often it is tried again"
    talk.session.token = 10
    talk.pass_time(400)
    assert (talk.report.sync, talk.report.confirmed) == (Sync.IN_SYNC, 4)
    assert talk.switch.generation == 10


def test_T172_a_controller_hears_that_another_became_master_and_forgets_what_was_in_flight():
    talk = Talk(token=7)
    talk.policy, talk.revision = without_first_rule(talk.policy), 1
    talk.session.policy_changed(talk.now)  # a bundle is on its way
    replaced(talk.switch, 9)
    talk.hear(message(30, 0, struct.pack("!IB3xQ", wire.ROLE_SLAVE, 0, 9)))
    assert (talk.report.sync, talk.report.confirmed) == (Sync.FAILED, -1)
    assert "generation 9" in talk.report.error
    commits, said = talk.switch.commits, len(talk.session.changes)
    for generation in range(10, 100):
        talk.hear(message(30, 0, struct.pack("!IB3xQ", wire.ROLE_SLAVE, 0, generation)))
    assert len(talk.session.changes) == said, "the log has it once"
    talk.switch.generation, talk.switch.role = 7, wire.ROLE_EQUAL  # the other is gone, and forgotten
    talk.pass_time(10)
    assert (talk.report.sync, talk.report.confirmed, talk.switch.commits) == (Sync.IN_SYNC, 1, commits + 1)


def test_T171_a_standby_is_slave_and_changes_nothing():
    switch = Talk(token=9).switch
    held, config, commits = dict(switch.flows), switch.config, switch.commits
    switch.config, switch.role = 0, wire.ROLE_EQUAL  # as the standby's own connection begins
    talk = Talk(switch, small(), token=None)
    assert (talk.report.sync, talk.report.confirmed) == (Sync.STANDBY, -1)
    talk.change(without_first_rule(talk.policy))
    talk.hear(port_status(wire.PORT_DELETE, 2, "tap101"))
    talk.pass_time(1000)
    assert talk.report.sync is Sync.STANDBY
    # It would shut out the active one by a generation greater than that one's.
    assert (switch.role, switch.generation) == (wire.ROLE_SLAVE, 9)
    assert (switch.flows, switch.config, switch.commits) == (held, 0, commits)
    talk.exchange(talk.session.resync(talk.now, keep_flows=True))
    assert len(talk.session.flows_read) == len(held)
    assert talk.report.interfaces == {1: "up0", 3: "tap102"}
    assert config == 3


def test_T171_a_standby_asked_for_a_reading_while_it_connects_reads():
    switch = Talk(token=9).switch
    switch.role = wire.ROLE_EQUAL
    talk = Talk(FakeSwitch(mute=frozenset({24})), small(), token=None)
    talk.switch.flows, talk.switch.mute = switch.flows, frozenset()
    assert talk.session.resync(talk.now, keep_flows=True) == []
    talk.exchange(talk.session.stand_by(talk.now))
    assert len(talk.session.flows_read) == len(switch.flows)
    assert talk.report.sync is Sync.STANDBY


def test_T171_what_the_active_one_kept_in_step_needs_no_change_when_a_standby_takes_over():
    active = Talk(token=9)
    switch = active.switch
    switch.role = wire.ROLE_EQUAL
    standby = Talk(switch, active.policy, token=None)
    commits = switch.commits
    standby.exchange(standby.session.lead(10, standby.now))
    assert (standby.report.sync, standby.report.confirmed) == (Sync.IN_SYNC, 0)
    assert (switch.role, switch.generation, switch.commits) == (wire.ROLE_MASTER, 10, commits)
    standby.change(without_first_rule(standby.policy))
    assert switch.commits == commits + 1


def test_T171_a_deposed_controller_commits_no_bundle_that_it_has_begun():
    talk = Talk(token=9)
    held, commits = dict(talk.switch.flows), talk.switch.commits
    talk.policy, talk.revision = without_first_rule(talk.policy), 1
    answers = [a for sent in talk.session.policy_changed(talk.now) for a in talk.switch.answer(sent)]
    asked = talk.session.stand_by(talk.now)
    for answer in answers:  # the barrier's among them, upon which the commit would follow
        asked += talk.session.receive(answer, talk.now)
    talk.exchange(asked)
    assert (talk.switch.flows, talk.switch.commits) == (held, commits)
    assert talk.report.sync is Sync.STANDBY
    talk.exchange(talk.session.lead(11, talk.now))
    assert (talk.report.sync, talk.report.confirmed) == (Sync.IN_SYNC, 1)


def test_T171_a_standby_whose_role_request_another_one_overtook_asks_again():
    talk = Talk(token=9)
    asked = talk.session.stand_by(talk.now)
    (version,) = talk.switch.answer(asked[0])
    (ports,) = talk.switch.answer(asked[1])
    (nothing,) = talk.session.receive(version, talk.now)
    assert talk.session.receive(ports, talk.now) == []
    (role,) = talk.switch.answer(nothing)
    (slave,) = talk.session.receive(role, talk.now)
    talk.switch.generation = 12
    (stale,) = talk.switch.answer(slave)
    talk.hear(stale)
    assert (talk.report.sync, talk.switch.role, talk.switch.generation) == (Sync.STANDBY, wire.ROLE_SLAVE, 12)


def test_the_generation_survives_a_new_session_and_counts_on():
    talk = Talk()
    talk.change(without_first_rule(talk.policy))
    held = dict(talk.switch.flows)
    again = Talk(talk.switch, talk.policy, talk.revision)
    assert talk.switch.flows == held
    assert again.report.sync is Sync.IN_SYNC
    again.change(with_inbound(again.policy))
    assert mark_of(talk.switch) == int(EPOCH.timestamp()) + 2


def test_an_audit_finds_and_counts_what_was_changed_behind_our_back():
    talk = Talk(audit_interval=60)
    right = len(talk.switch.flows)
    lost = next(key for key in talk.switch.flows if key.table == 40)
    del talk.switch.flows[lost]
    talk.pass_time(30)
    assert len(talk.switch.flows) == right - 1
    talk.pass_time(31)
    assert len(talk.switch.flows) == right
    assert talk.report.repaired_flows == 1
    assert talk.report.last_repair_at == talk.now.wall


def test_what_was_read_and_is_right_is_kept_once():
    again = Talk(Talk().switch)
    assert (again.switch.commits, again.report.sync) == (1, Sync.IN_SYNC)
    held, meant = again.session._actual, again.session._desired.flows
    assert held
    assert all(held[key] is body for key, body in meant.items())


def test_tick_is_due_when_something_has_to_be_looked_at_and_not_before():
    assert Talk(audit_interval=0).session.due is None
    talk = Talk(audit_interval=300, reply_timeout=30)
    audit = talk.session.due
    begun, interval = talk.now.seconds, 300
    assert begun + interval / 2 <= audit <= begun + interval, "not all of a fleet at the same time"
    talk.pass_time(audit - begun - 1)
    assert (talk.session.reads, talk.session.due) == (1, audit)
    talk.pass_time(1.5)
    assert (talk.session.reads, talk.session.due) == (2, talk.now.seconds + interval)
    talk.switch.mute = frozenset({20})
    talk.change(with_inbound(talk.policy))
    assert talk.session.due == talk.now.seconds + 30, "the answer to a bundle"


def test_a_dump_in_many_parts_is_compared_whole():
    talk = Talk(policy=small(rules=120))
    assert sum(len(k.match) for k in talk.switch.flows) > 8000
    again = Talk(talk.switch, talk.policy)
    assert again.report.sync is Sync.IN_SYNC
    assert talk.switch.commits == 1


def test_numbers_taken_at_once_are_those_taken_one_by_one():
    one, other = Questions(1), Questions(1)
    for questions in (one, other):
        questions._xid = 0xFFFFFFFD  # the highest number is three away
    assert one.next_xids(5) == [other.next_xid() for _ in range(5)]
    assert one.next_xid() == other.next_xid()


def test_a_switch_that_is_in_step_has_its_flows_kept_once():
    talk = Talk()
    again = Talk(talk.switch, talk.policy)
    assert again.report.sync is Sync.IN_SYNC
    held, meant = again.session._actual, again.session._desired.flows
    assert len(held) > 50
    assert {id(key) for key in held} == {id(key) for key in meant}
    assert {id(body) for body in held.values()} == {id(body) for body in meant.values()}
    again.change(with_inbound(again.policy, rule("inbound", "tcp", "443", ANYONE, 77)))
    assert again.session._actual == again.switch.flows, "what one changes is not the other's"


# ---- a first load, in parts


@pytest.fixture
def in_parts(monkeypatch):
    monkeypatch.setattr(session_module, "PART", 10)
    monkeypatch.setattr(session_module, "UNITS", 2)


class Paused(Talk):
    """Stands still in the middle of a first load until it is told to go on; its plan tells what differs, as real ones.

    What a plan has told once, it does not tell again.
    """

    def __init__(self, **options) -> None:
        self._known: dict = {}
        super().__init__(**options)

    def _plan(self, interfaces):
        was, self._known = self._known, units(self.policy, DPID, interfaces, Rulings())
        news = {name: unit for name, unit in self._known.items() if was.get(name) != unit}
        return Wanted(self.history, news, self.cut, was.keys() - self._known.keys())

    def exchange(self, messages: list[bytes]) -> None:
        waiting = list(messages)
        while waiting:
            for answer in self.switch.answer(waiting.pop(0)):
                waiting += self.session.receive(answer, self.now)

    def go_on(self) -> None:
        super().exchange([])


def whole(policy: Policy) -> dict:
    """What a switch holds of a policy, by a load in one part."""
    return Talk(policy=policy).switch.flows


def twice(policy: Policy) -> Policy:
    """Two rules of one firewall want the same flows: those of the older one are in force."""
    first = policy.firewalls[FIREWALL].inbound_rules[0]
    return with_inbound(policy, *(replace(first, id=number) for number in (7, 100, 40, 5)))


@pytest.mark.parametrize("policy", [small(40), twice(small())])
def test_a_first_load_in_parts_is_one_bundle_and_comes_to_the_same(policy, in_parts, monkeypatch):
    talk = Paused(policy=policy)
    assert talk.session.filling
    parts = 1
    while talk.session.filling:
        assert (talk.switch.flows, talk.switch.commits, talk.report.sync) == ({}, 0, Sync.SYNCING)
        talk.exchange(talk.session.fill(talk.now))
        parts += 1
    assert parts >= 3
    assert (talk.report.sync, talk.report.confirmed, talk.switch.commits) == (Sync.IN_SYNC, 0, 1)
    monkeypatch.undo()
    assert talk.switch.flows == whole(policy)
    talk.exchange(talk.session.resync(talk.now))
    assert (talk.report.repaired_flows, talk.switch.commits) == (0, 1)


def test_a_flow_that_is_refused_in_an_early_part_discards_all_of_them(in_parts):
    talk = Paused(policy=small(40))
    talk.switch.refuse_adds = 1
    talk.go_on()
    assert (talk.switch.flows, talk.switch.commits) == ({}, 0)
    assert (talk.report.sync, talk.report.failed) == (Sync.FAILED, 0)
    assert "FLOW_MOD_FAILED" in talk.report.error
    talk.pass_time(10)
    assert (talk.report.sync, talk.report.confirmed) == (Sync.IN_SYNC, 0)
    assert len(talk.switch.flows) == len(whole(talk.policy))


def test_a_change_in_the_middle_of_a_first_load_comes_after_it(in_parts):
    talk = Paused(policy=small(40))
    talk.change(without_first_rule(talk.policy))
    assert (talk.switch.flows, talk.switch.commits) == ({}, 0)
    talk.go_on()
    assert (talk.report.sync, talk.report.confirmed, talk.switch.commits) == (Sync.IN_SYNC, 1, 2)
    assert len(talk.switch.flows) == len(whole(talk.policy))


def test_what_a_first_load_that_was_broken_off_had_not_sent_is_not_forgotten(in_parts):
    talk = Paused(policy=small(40), token=9)
    assert talk.session.filling
    talk.exchange(talk.session.stand_by(talk.now))
    assert (talk.report.sync, talk.session.filling, talk.switch.flows) == (Sync.STANDBY, False, {})
    talk.policy, talk.revision = without_first_rule(talk.policy), 1
    talk.exchange(talk.session.lead(11, talk.now))
    talk.go_on()
    assert (talk.report.sync, talk.report.confirmed, talk.switch.commits) == (Sync.IN_SYNC, 1, 1)
    assert len(talk.switch.flows) == len(whole(talk.policy))


def test_only_the_end_of_a_reading_is_what_a_comparison_waits_for():
    talk = Talk(policy=small(40))
    (asked,) = talk.session.resync(talk.now)[-1:]
    *parts, last = talk.switch.answer(asked)
    assert parts
    assert not any(map(talk.session.compares, [*parts, message(19, 1, last[8:]), b""]))
    assert talk.session.compares(last)
