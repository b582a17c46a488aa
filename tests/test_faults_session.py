"""T168: a fault at every message of every connect and every change; packets are walked after each message.

A message that is lost alone, which no TCP does, may leave a flow out of a bundle that is then confirmed: there it is
only shown that the next reading finds it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from faultline import Fault, Judge, Talk, What
from policies import ANYONE, FIREWALL, rule, small, with_inbound

from firewall_app.openflow import session as session_module
from firewall_app.policy.policy import Policy

BEFORE = small(3)
OLD = BEFORE.firewalls[FIREWALL].inbound_rules
NEW = rule("inbound", "tcp", "443", ANYONE, 77)


def without_port(policy: Policy) -> Policy:
    draft = policy.edit()
    draft.drop(policy.ports["db-eth0"])
    return draft.done()


ADDED = with_inbound(BEFORE, *OLD, NEW)
REMOVED = with_inbound(BEFORE, *OLD[1:])
BOTH = with_inbound(BEFORE, *OLD[1:], NEW)
LESS_PORT = without_port(BEFORE)


def connect(talk: Talk) -> None:
    """The part that a fault comes in: a switch that holds nothing connects."""
    talk.connect()


def reconnect(talk: Talk) -> None:
    """What changed while the switch was away is found when it comes back."""
    talk.change_while_away()
    talk.connect()


def change(talk: Talk) -> None:
    talk.change()


STORIES: dict[str, tuple[Policy | None, Policy, Callable[[Talk], None]]] = {
    "first connect": (None, BEFORE, connect),
    "reconnect, nothing changed": (BEFORE, BEFORE, reconnect),
    "reconnect, both": (BEFORE, BOTH, reconnect),
    "rule added": (BEFORE, ADDED, change),
    "rule removed": (BEFORE, REMOVED, change),
    "rules added and removed": (BEFORE, BOTH, change),
    "port leaves": (BEFORE, LESS_PORT, change),
    "port comes": (LESS_PORT, BEFORE, change),
}


def told(story: str, judge: Judge, fault: Fault | None) -> Talk:
    """A story up to its end, with a fault in its last part."""
    before, after, last = STORIES[story]
    talk = Talk(before, after, judge)
    if before is not None:
        talk.connect()
        talk.open_connections()
    talk.watch(fault)
    last(talk)
    return talk


@pytest.fixture(autouse=True)
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a first connect sends is long enough to come in parts."""
    monkeypatch.setattr(session_module, "PART", 10)
    monkeypatch.setattr(session_module, "UNITS", 2)


@pytest.mark.parametrize("what", What)
@pytest.mark.parametrize("story", STORIES)
def test_T168_a_fault_at_any_message_opens_no_hole_and_ends_in_exactly_the_policy(story: str, what: What) -> None:
    before, after, _ = STORIES[story]
    judge = Judge(before, after)
    faultless = told(story, judge, None)
    faultless.settled()
    counts = faultless.counts
    assert min(counts.values()) >= 3
    for to_switch, count in counts.items():
        for k in range(count):
            fault = Fault(what, to_switch, k)
            try:
                talk = told(story, judge, fault)
                talk.recover()
                talk.settled()
            except AssertionError as problem:
                raise AssertionError(f"{fault}: {problem}") from problem
    assert judge.walked >= len(judge.cases) >= 36
