"""The rim of a session: threads, inboxes, and a datapath that may not read."""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import threading
import weakref
from collections import Counter
from types import SimpleNamespace

import eventlet
import pytest
from fakeswitch import NO_MATCH, FakeSwitch, message
from policies import DPID, small, with_inbound

from firewall_app.history import beginning
from firewall_app.openflow import link as link_module
from firewall_app.openflow import session as session_module
from firewall_app.openflow import wire
from firewall_app.openflow.link import INBOX, SHORT, Link
from firewall_app.openflow.listener import Lines
from firewall_app.openflow.rendering import Body, Key
from firewall_app.pipeline.compile import Rulings
from firewall_app.pipeline.plan import units
from firewall_app.pipeline.tables import MAGIC, RULES, Kind, cookie_parts
from firewall_app.policy.errors import Unreachable
from firewall_app.progress import Sync, Wanted


class Plan:
    """A plan that is always made anew; one that says that it costs much is asked in another thread."""

    def __init__(self, units) -> None:
        self._units, self.cost = units, 0

    def __call__(self, interfaces):
        return self._units(interfaces)


class Owner:
    """What the service does for a link."""

    token: int | None = 1

    @property
    def history(self):
        return self.units(DPID, {}).history

    def __init__(self) -> None:
        self.policy, self.revision = small(), 0
        self.reports: list = []
        self.registered = True
        self.gone = self.plans_ended = 0

    def units(self, dpid, interfaces):
        return Wanted(beginning(revision=self.revision), units(self.policy, dpid, interfaces, Rulings()))

    def plan(self, dpid):
        return Plan(lambda interfaces: self.units(dpid, interfaces))

    def end_plan(self, plan):
        self.plans_ended += 1

    def drifted(self, dpid, switch, found):
        pass

    def is_registered(self, dpid):
        return self.registered

    def connected(self, dpid, switch):
        assert dpid == DPID

    def reported(self, dpid, switch, report):
        self.reports.append(report)

    def disconnected(self, dpid, switch, why):
        self.gone += 1
        self.why = why


class Datapath:
    """Ryu's, as far as a link sees it; answers by a `FakeSwitch`, or does not take what it is sent."""

    id = 1
    address = ("192.0.2.1", 4711)
    ofproto = SimpleNamespace(OFP_VERSION=5)
    max_unreplied_echo_requests = 3

    def __init__(self, switch: FakeSwitch) -> None:
        self.switch, self.firewall_link, self.closed = switch, None, False
        self.stuck = False
        self.unreplied_echo_requests: list = []
        self.socket = SimpleNamespace(ended=None)
        self._answers = eventlet.Queue()
        eventlet.spawn_n(self._receive)

    def _receive(self) -> None:
        """Ryu's receiving thread."""
        while True:
            answer = self._answers.get()
            if self.firewall_link is not None:
                self.firewall_link.received(answer)

    def send(self, data: bytes) -> None:
        while self.stuck:
            eventlet.sleep(0.01)
        while data:
            length = int.from_bytes(data[2:4], "big")
            for answer in self.switch.answer(data[:length]):
                self._answers.put(answer)
            data = data[length:]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def running():
    owner, datapath = Owner(), Datapath(FakeSwitch())
    link = Link(owner, datapath, lambda raw: raw.cookie, reply_timeout=30, audit_interval=0)
    datapath.firewall_link = link
    eventlet.spawn(link.run)
    until(lambda: owner.reports and owner.reports[-1].sync is Sync.IN_SYNC)
    yield owner, datapath, link
    datapath.stuck = False
    link.close()
    until(lambda: owner.gone)


def until(done) -> None:
    with eventlet.Timeout(10):
        while not done():
            eventlet.sleep(0.005)


def test_it_connects_follows_the_policy_and_reports(running):
    owner, datapath, link = running
    assert datapath.switch.commits == 1
    owner.policy, owner.revision = with_inbound(owner.policy), 1
    link.policy_changed()
    until(lambda: owner.reports[-1].confirmed == 1)
    assert datapath.switch.commits == 2


def test_T171_a_deposed_controller_sends_nothing_that_it_had_decided_and_takes_over_again(running, monkeypatch):
    owner, datapath, link = running
    held = dict(datapath.switch.flows)

    def deposed_meanwhile(now):
        out = change(now)
        owner.token = None
        return out

    change = link._session.policy_changed
    monkeypatch.setattr(link._session, "policy_changed", deposed_meanwhile)
    owner.policy, owner.revision = with_inbound(owner.policy), 1
    link.policy_changed()
    until(lambda: owner.reports[-1].sync is Sync.STANDBY)
    assert (datapath.switch.flows, datapath.switch.commits, datapath.switch.role) == (held, 1, wire.ROLE_SLAVE)
    monkeypatch.undo()
    owner.token = 2
    link.policy_changed()
    until(lambda: owner.reports[-1].confirmed == 1)
    assert (datapath.switch.role, datapath.switch.generation) == (wire.ROLE_MASTER, 2)
    owner.token = 3
    link.policy_changed()
    until(lambda: link._session.token == 3)
    assert owner.reports[-1].sync is Sync.IN_SYNC


def test_nobody_waits_for_a_switch_that_does_not_read(running):
    owner, datapath, link = running
    datapath.stuck = True
    owner.policy, owner.revision = with_inbound(owner.policy), 1
    link.policy_changed()
    eventlet.sleep(0.05)  # its thread is now stuck in a send
    for _ in range(INBOX - link._inbox.qsize()):
        link._inbox.put_nowait(message(3, 1))
    with eventlet.Timeout(1):
        for _ in range(3):
            link.policy_changed()
            link.resync()
        with pytest.raises(Unreachable, match="did not answer"):
            link.read_flows(0.1)
    datapath.stuck = False
    until(lambda: owner.reports[-1].confirmed == 1)


def test_flows_are_read_back_for_everyone_who_asked(running):
    _, datapath, link = running
    pile = eventlet.GreenPool()
    answers = list(pile.imap(lambda _: link.read_flows(5), range(3)))
    assert [len(answer) for answer in answers] == [len(datapath.switch.flows)] * 3


def test_who_waits_for_a_switch_that_goes_is_told(running):
    owner, datapath, link = running
    datapath.switch.mute = frozenset({18})
    waiting = eventlet.spawn(link.read_flows, 30)
    eventlet.sleep(0.05)
    link.close()
    with eventlet.Timeout(5), pytest.raises(Unreachable, match="went away"):
        waiting.wait()
    assert datapath.closed
    assert owner.gone == 1
    assert datapath.firewall_link is None


def test_a_malformed_message_closes_the_connection(running):
    owner, datapath, link = running
    link.received(b"\5\x13\0\x08\0\0\0\1")
    until(lambda: owner.gone)
    assert datapath.closed
    assert owner.why.startswith("malformed message")
    assert link._session.flow_count == 0
    assert not len(link._session._desired)


@pytest.mark.parametrize(
    ("ended", "missed", "why"),
    [("the switch closed the connection", 0, "the switch closed the connection"),
     (None, 4, "4 echo requests in a row had no answer"), (None, 3, None)],
)  # fmt: skip
def test_a_connection_that_ends_leaves_a_line_that_says_why_unless_we_ended_it(running, caplog, ended, missed, why):
    owner, datapath, link = running
    datapath.socket.ended, datapath.unreplied_echo_requests = ended, [*range(missed)]
    datapath.close = lambda: datapath.socket.__setattr__("ended", "closed by our own closing")
    link.close()
    until(lambda: owner.gone)
    assert owner.why == why
    lines = [record.getMessage() for record in caplog.records if "disconnected" in record.getMessage()]
    assert lines == [f'hypervisor disconnected dpid={DPID} error="{why}"'] * (why is not None)


def test_an_error_of_our_own_closes_the_connection_and_is_logged(running, caplog):
    owner, datapath, link = running

    def broken(dpid, interfaces):
        raise RuntimeError("cannot compile")

    owner.units = broken
    link.policy_changed()
    until(lambda: owner.gone)
    assert datapath.closed
    assert "cannot compile" in caplog.text
    assert owner.why == "an internal error of the controller; its log has it"


def test_a_switch_that_makes_lines_of_the_log_has_some_left_out(running, monkeypatch, caplog):
    _, datapath, link = running
    monkeypatch.setattr(link_module, "LINES", Lines(most=4))
    caplog.set_level(logging.INFO, "firewall_app.openflow")
    for _ in range(8):
        link.received(message(1, 1, bytes(4) + bytes(2000)))
    until(lambda: "because of this address" in caplog.text)
    link.received(b"\5")
    until(lambda: datapath.closed)
    lines = [record for record in caplog.records if record.name == "firewall_app.openflow.link"]
    assert [record.levelname for record in lines] == ["INFO"] * 4 + ["WARNING"]
    assert max(len(record.getMessage()) for record in lines) < link_module.LONGEST + 200


@pytest.mark.parametrize("registered", [True, False])
def test_T180_strangers_have_so_many_flows_together_and_who_has_the_most_must_go(running, monkeypatch, registered):
    owner, datapath, light = running
    owner.registered = registered
    flows = len(datapath.switch.flows)
    other_datapath = Datapath(FakeSwitch())
    other_datapath.switch.flows = {Key(9, n, NO_MATCH): Body(MAGIC << 48, b"") for n in range(flows)}
    monkeypatch.setattr(link_module, "STRANGERS_FLOWS", flows * 2 + 20)
    light.resync()
    heavy = Link(owner, other_datapath, lambda raw: raw.cookie, reply_timeout=30, audit_interval=0)
    other_datapath.firewall_link = heavy
    eventlet.spawn(heavy.run)
    until(lambda: other_datapath.switch.commits == 1)
    other_datapath.switch.flows |= {Key(9, n, NO_MATCH): Body(MAGIC << 48, b"") for n in range(50)}
    heavy.resync()
    until(lambda: other_datapath.closed or other_datapath.switch.commits == 2)
    assert other_datapath.closed is not registered
    heavy.close()
    until(lambda: owner.gone == 1)
    assert len(light.read_flows(10)) == flows, "it goes on"


def test_time_passes_though_messages_never_cease(running):
    owner, datapath, link = running
    link._session._asked.timeout = 0.2
    datapath.switch.mute = frozenset({20})
    owner.policy, owner.revision = with_inbound(owner.policy), 1
    link.policy_changed()
    with eventlet.Timeout(10):
        while not owner.gone:
            link.received(message(3, 1))
            eventlet.sleep(0.001)
    assert datapath.closed


def test_nobody_is_woken_while_nothing_is_due(running):
    """Thousands of idle switches cost what their echoes cost."""
    owner, _, link = running
    waits, get = [], link._inbox.get

    def recorded(timeout):
        waits.append(timeout)
        return get(timeout=timeout)

    link._inbox.get = recorded
    owner.policy, owner.revision = with_inbound(owner.policy), 1
    link.policy_changed()
    until(lambda: owner.reports[-1].confirmed == 1 and waits[-1] is None)
    assert any(wait is not None and 25 < wait <= 30 for wait in waits), "while an answer was due"


def test_what_a_link_held_goes_with_it_and_not_with_the_garbage_collector():
    owner, datapath = Owner(), Datapath(FakeSwitch())
    link = Link(owner, datapath, lambda raw: raw.cookie, reply_timeout=30, audit_interval=0)
    datapath.firewall_link = link
    eventlet.spawn_n(link.run)
    until(lambda: owner.reports and owner.reports[-1].sync is Sync.IN_SYNC)
    session = weakref.ref(link._session)
    gc.collect()
    gc.disable()
    try:
        link.close()
        until(lambda: owner.gone)
        del link
        until(lambda: session() is None)
    finally:
        gc.enable()


def test_a_long_comparison_holds_up_nobody_else(running):
    owner, _, link = running
    begun, may_end = threading.Event(), threading.Event()
    plan = owner.units

    def long(dpid, interfaces):
        begun.set()
        assert may_end.wait(10), "everything stood still meanwhile"
        return plan(dpid, interfaces)

    owner.units = long
    link._plan.cost = SHORT + 1
    owner.policy, owner.revision = with_inbound(owner.policy), 1
    link.policy_changed()
    until(begun.is_set)
    assert owner.reports[-1].confirmed == 0
    may_end.set()
    until(lambda: owner.reports[-1].confirmed == 1)


class Beginning(Datapath):
    """Does what the test says when it is sent something while there is more to come."""

    def __init__(self, switch: FakeSwitch) -> None:
        self.meanwhile: list[int] = []
        super().__init__(switch)

    def send(self, data: bytes) -> None:
        if self.firewall_link is not None and self.firewall_link._session.filling:
            self.meanwhile.append(len(data))
            self.first()
        super().send(data)

    def first(self) -> None: ...


@pytest.fixture
def beginning_in_parts(monkeypatch):
    monkeypatch.setattr(session_module, "PART", 10)
    monkeypatch.setattr(session_module, "UNITS", 2)
    monkeypatch.setattr(link_module, "CHUNK", 500)
    owner, datapath = Owner(), Beginning(FakeSwitch())
    owner.policy = small(40)
    link = Link(owner, datapath, lambda raw: raw.cookie, reply_timeout=0.3, audit_interval=0)
    datapath.firewall_link = link
    yield owner, datapath, link
    datapath.stuck = False
    link.close()
    until(lambda: owner.gone)


def test_the_switch_is_sent_one_part_before_the_next_is_made_and_others_have_their_turn(beginning_in_parts):
    owner, datapath, link = beginning_in_parts
    turns = Counter()

    def others():
        while not owner.gone:
            turns[len(datapath.meanwhile)] += 1
            eventlet.sleep(0)

    eventlet.spawn(others)
    eventlet.spawn(link.run)
    until(lambda: owner.reports and owner.reports[-1].sync is Sync.IN_SYNC)
    assert len(datapath.meanwhile) >= 10
    assert turns.keys() >= set(range(1, len(datapath.meanwhile)))
    assert datapath.switch.commits == 1


def test_a_switch_that_takes_no_more_in_the_middle_of_a_first_load_is_given_up(beginning_in_parts):
    owner, datapath, link = beginning_in_parts
    datapath.first = lambda: setattr(datapath, "stuck", True)
    eventlet.spawn(link.run)
    until(lambda: owner.gone)
    assert "it has not taken what it was sent" in owner.why
    assert (datapath.switch.commits, datapath.switch.flows) == (0, {})


def test_a_connection_that_is_closed_in_the_middle_of_a_first_load_ends(beginning_in_parts):
    owner, datapath, link = beginning_in_parts
    datapath.first = link.close
    eventlet.spawn(link.run)
    until(lambda: owner.gone)
    assert (len(datapath.meanwhile), datapath.switch.commits, datapath.switch.flows) == (1, 0, {})
    assert 0 < datapath.switch.adds < 100, "no further part was made"


def test_counters_are_read_for_everyone_who_asked_and_nothing_else_is_done(running):
    owner, datapath, link = running
    owner.policy, owner.revision = with_inbound(owner.policy), 1
    link.policy_changed()
    until(lambda: owner.reports[-1].confirmed == 1)
    commits, reports = datapath.switch.commits, len(owner.reports)
    answers = list(eventlet.GreenPool().imap(lambda _: link.read_counters(5), range(3)))
    parts = [cookie_parts(body.cookie) for key, body in datapath.switch.flows.items() if key.table == RULES.id]
    numbers = [number for kind, number in parts if kind is Kind.RULE]
    assert numbers
    assert answers == [{number: (2 * count, 300 * count) for number, count in Counter(numbers).items()}] * 3
    assert (datapath.switch.commits, len(owner.reports)) == (commits, reports)


def test_a_switch_that_refuses_to_tell_its_counters_goes_on(running):
    owner, datapath, link = running
    told = datapath.switch._multipart
    datapath.switch._multipart = lambda kind, xid, match: [message(1, xid, bytes([0, 1, 0, 5]) + bytes(8))]
    with pytest.raises(Unreachable, match="does not tell its counters"):
        link.read_counters(5)
    datapath.switch._multipart = told
    owner.policy, owner.revision = with_inbound(owner.policy), 1
    link.policy_changed()
    until(lambda: owner.reports[-1].confirmed == 1)


def test_a_switch_that_does_not_tell_its_counters_holds_nobody(running):
    _, datapath, link = running
    datapath.switch.mute = frozenset({18})
    with pytest.raises(Unreachable, match="did not answer"):
        link.read_counters(0.05)
    waiting = eventlet.spawn(link.read_counters, 30)
    eventlet.sleep(0)
    link.close()
    with pytest.raises(Unreachable, match="went away"):
        waiting.wait()


def test_a_session_ends_with_its_connection_though_nobody_says_so():
    """Ryu loses the event when more switches go at once than its queue holds: the thread that tells it is killed."""
    importlib.import_module("ryu.base.app_manager")  # first: ryu.controller cannot be imported by itself
    compat = importlib.import_module("firewall_app.openflow.compat")
    compat.install()

    class Connection:
        closed = 0

        def __init__(self):
            self.firewall_link = self

        def close(self):
            self.closed += 1

    def cut(_):
        raise ConnectionResetError

    for ends in (lambda _: None, cut):
        connection = Connection()
        with contextlib.suppress(ConnectionResetError):
            compat._serve(ends)(connection)
        assert connection.closed == 1
    connection.firewall_link = None
    compat._serve(lambda _: None)(connection)
    assert connection.closed == 1
    assert compat.controller.Datapath.serve.__qualname__.startswith("_serve."), "and Ryu's is replaced"
