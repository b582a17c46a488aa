"""T180: sessions and links against switches that lie, flood, or do not read; the program is in test_app_*.py."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import eventlet
import pytest
import ryu.base.app_manager  # noqa: F401 - before anything else of Ryu's
from fakeswitch import message, port_status
from policies import with_inbound
from test_openflow_link import running, until  # noqa: F401 - a fixture
from test_openflow_session import Talk, without_first_rule

from firewall_app.openflow import compat, questions
from firewall_app.openflow import link as link_module
from firewall_app.openflow import session as session_module
from firewall_app.progress import Sync

# --------------------------------------------------------------------------------------------- sessions


def out_of_turn(talk: Talk, data: bytes) -> str | None:
    talk.exchange(talk.session.receive(data, talk.now))
    return talk.session.dead


def flows_and_more(asked: bytes, count: int) -> bytes:
    """A part of an answer that is not the last."""
    entry = struct.pack("!H46xHH4x", 56, 1, 4)
    return message(19, int.from_bytes(asked[4:8], "big"), bytes([0, 1, 0, 1]) + bytes(4) + entry * count)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (message(19, 7, bytes([0, 0]) + bytes(6 + 1056)), "DescReply"),
        (message(19, 7, bytes([0, 13]) + bytes(6)), "PortDescReply"),
        (message(19, 7, bytes([0, 1]) + bytes(6)), "FlowStatsReply"),
        (message(21, 7), "BarrierReply"),
        (message(25, 7, bytes(16)), "RoleReply"),
        (message(33, 7, bytes([0, 0, 0, 1, 0, 5, 0, 3])), "BundleReply"),
    ],
)
def test_T180_an_answer_to_nothing_ends_the_session_and_changes_nothing(data, kind):
    talk = Talk()
    before = (dict(talk.switch.flows), talk.report)
    assert out_of_turn(talk, data) == f"{kind} answers nothing that it was asked"
    assert (talk.switch.flows, talk.report) == before


@pytest.mark.parametrize("kind", [0, 1, 13])
def test_T180_an_answer_that_comes_twice_ends_the_session(kind):
    talk = Talk()
    tell = talk.switch._multipart
    talk.switch._multipart = lambda asked, *rest: tell(asked, *rest) * (2 if asked == kind else 1)
    talk.session._retry_at, talk.session._lost_role = 0.0, True  # to be asked for everything again
    talk.pass_time(1)
    assert "answers nothing" in talk.session.dead


def test_T180_another_question_s_answer_is_none():
    """Under the xid of a question for flows: a list of ports, which would say that the switch holds nothing."""
    talk = Talk()
    talk.switch._multipart = lambda _, xid, *__: [message(19, xid, bytes([0, 13]) + bytes(6))]
    talk.exchange(talk.session.resync(talk.now))
    assert talk.session.dead == "PortDescReply answers nothing that it was asked"


def test_T180_flows_without_end_end_the_session(monkeypatch):
    monkeypatch.setattr(questions, "MOST_TOLD_BYTES", 100_000)
    talk = Talk()
    asked = talk.session.resync(talk.now)[-1]
    part = flows_and_more(asked, 800)
    assert [out_of_turn(talk, part) for _ in range(2)] == [None, None]
    assert "has no end" in out_of_turn(talk, part)


def test_T180_counters_without_end_end_the_session_and_are_asked_for_once(monkeypatch):
    monkeypatch.setattr(questions, "MOST_TOLD_BYTES", 100_000)
    talk = Talk()
    (asked,) = talk.session.count()
    assert talk.session.count() == []
    part = flows_and_more(asked, 800)
    assert [out_of_turn(talk, part) for _ in range(2)] == [None, None]
    assert "has no end" in out_of_turn(talk, part)


def test_T180_ports_without_end_end_the_session(monkeypatch):
    monkeypatch.setattr(session_module, "MOST_PORTS", 10)
    talk = Talk()
    for number in range(4, 12):
        assert out_of_turn(talk, port_status(0, number, f"x{number}")) is None
    assert out_of_turn(talk, port_status(0, 12, "x")) == "it has more than 10 ports"


def test_T180_errors_without_end_end_the_session():
    talk = Talk()
    for _ in range(session_module.MOST_ERRORS):
        assert out_of_turn(talk, message(1, 7, bytes(4))) is None
    assert "errors that nothing explains" in out_of_turn(talk, message(1, 7, bytes(4)))


def test_the_error_that_names_a_flow_is_told_however_many_come_before():
    talk = Talk()
    talk.switch.mute = frozenset({20})
    talk.change(without_first_rule(talk.policy))
    for _ in range(1000):
        talk.hear(message(1, 5, bytes([0, 1, 0, 10])))
    talk.hear(message(1, min(talk.session._added), bytes([0, 5, 0, 1])))
    talk.hear(message(1, 5, bytes([0, 1, 0, 10])))
    assert len(talk.session._errors) == 1
    (barrier,) = talk.session._asked.open
    talk.hear(message(21, barrier))
    assert "FLOW_MOD_FAILED" in talk.report.error


def test_the_fragment_mode_is_said_with_every_reading():
    talk = Talk()
    talk.switch.config = 0  # as somebody else may set it
    talk.exchange(talk.session.resync(talk.now))
    assert talk.switch.config == 3


# --------------------------------------------------------------------------------------------- links


def test_T180_a_switch_that_reads_too_slowly_is_given_up(running):  # noqa: F811
    owner, datapath, link = running
    link._patience = 0.2
    datapath.stuck = True
    owner.policy, owner.revision = with_inbound(owner.policy), 1
    link.policy_changed()
    until(lambda: owner.gone)
    assert datapath.closed
    assert "has not taken what it was sent" in link._session.dead


def test_T180_what_waits_is_bounded_in_bytes(running):  # noqa: F811
    owner, datapath, link = running
    datapath.stuck = True
    owner.policy, owner.revision = with_inbound(owner.policy), 1
    link.policy_changed()
    until(lambda: not link._policy_changed)
    big, sent = message(3, 1, bytes(60_000)), []

    def flood() -> None:
        while link._open:
            link.received(big)
            sent.append(len(big))

    flooding = eventlet.spawn(flood)
    until(lambda: sum(sent) > link_module.INBOX_BYTES)
    for _ in range(20):
        eventlet.sleep(0)
    assert sum(sent) <= link_module.INBOX_BYTES + 2 * len(big)
    datapath.stuck = False
    until(lambda: sum(sent) > 2 * link_module.INBOX_BYTES)  # it goes on as room is made
    link.close()
    flooding.wait()


# --------------------------------------------------------------------------------------------- the rim


def test_T180_one_switch_s_messages_give_way_to_everything_else():
    datapath, others = SimpleNamespace(), []
    eventlet.spawn(others.append, "ran")
    with eventlet.Timeout(10):
        while not others:  # nothing here waits for anything: without giving way it would go on for ever
            compat._give_way(datapath)


def test_T180_a_hello_that_takes_long_to_read_is_none():
    element = struct.pack("!HHI", 1, 8, 1 << 5)
    assert compat._well_formed_hello(message(0, 1, element * 100))
    assert not compat._well_formed_hello(message(0, 1, element * 8000))


def test_what_ports_do_in_many_messages_is_compared_once():
    talk = Talk()
    asked = []
    plan = talk.session._plan
    talk.session._plan = lambda interfaces: asked.append(dict(interfaces)) or plan(interfaces)
    for number in range(10, 20):
        assert talk.session.receive(port_status(0, number, f"x{number}"), talk.now, more=True) == []
    assert (asked, talk.session.behind) == ([], True)
    talk.hear(port_status(1, 10, "x10"))
    assert [sorted(interfaces) for interfaces in asked] == [[1, 2, 3, *range(11, 20)]]
    talk.session.receive(port_status(0, 30, "x"), talk.now, more=True)
    talk.pass_time(1)  # nothing came after it
    assert 30 in talk.report.interfaces
    assert not talk.session.behind


def test_answers_to_what_was_given_up_are_passed_over():
    """Another token while questions are open: the answers and errors that are on their way are to nothing any more."""
    talk = Talk()
    late = talk.session.resync(talk.now)
    asked = talk.session.lead(8, talk.now)
    for data in late:
        for answer in talk.switch.answer(data):
            talk.hear(answer)
    assert talk.session.dead is None
    talk.exchange(asked)
    assert talk.report.sync is Sync.IN_SYNC


def test_late_errors_about_a_bundle_that_was_given_up_are_passed_over():
    talk = Talk()
    talk.switch.mute = frozenset({20})
    talk.change(without_first_rule(talk.policy))
    adds = sorted(talk.session._added)
    talk.switch.mute = frozenset()
    asked = talk.session.lead(8, talk.now)
    for xid in adds * session_module.MOST_ERRORS:
        talk.hear(message(1, xid, bytes([0, 1, 0, 10])))
    assert talk.session.dead is None
    talk.exchange(asked)
    assert talk.report.sync is Sync.IN_SYNC
