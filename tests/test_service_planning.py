"""What waits for a switch until it asks: nothing is missed, whoever comes first, and however much it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from policies import ANYONE, DPID, FIREWALL, rule, small, with_inbound

from firewall_app.history import beginning
from firewall_app.pipeline.compile import Rulings
from firewall_app.pipeline.plan import Parts, units
from firewall_app.pipeline.touched import touched
from firewall_app.policy.model import Droplet, Port
from firewall_app.policy.policy import Policy
from firewall_app.service import planning as module
from firewall_app.service.planning import Planning

INTERFACES = {1: "up0", 2: "tap101", 3: "tap102"}


class Kept:
    """A core, as far as plans see it; `note` and `enter` are the two steps of a change."""

    def __init__(self, policy: Policy) -> None:
        self.kept = policy, beginning(revision=1), 1
        self.parts = Parts()
        self.planning = Planning(DPID, Rulings(), self.parts, lambda: self.kept, lambda: 0)
        self.held: dict = {}

    def note(self, after: Policy) -> None:
        before, _, serial = self.kept
        changes = _changes(before, after)
        found = touched(before, after, changes)
        self.parts.touch(found, after, serial + 1)
        self.planning.note(serial + 1, found)

    def enter(self, after: Policy) -> None:
        serial = self.kept[2] + 1
        self.kept = after, beginning(revision=serial), serial

    def change(self, after: Policy) -> None:
        self.note(after)
        self.enter(after)

    def ask(self) -> bool:
        """Asks what should be held; whether it was told whole."""
        wanted = self.planning(INTERFACES)
        if wanted.gone is None:
            self.held = {}
        for name in wanted.gone or ():
            del self.held[name]
        self.held |= wanted.units
        assert wanted.history == self.kept[1]
        assert self.held == units(self.kept[0], DPID, INTERFACES, Rulings())
        return wanted.gone is None


def _changes(before: Policy, after: Policy):
    draft = before.edit()
    for table in ("droplets", "ports", "firewalls"):
        for entity in getattr(after, table).values():
            if getattr(before, table).get(entity.id) != entity:
                draft.put(entity)
    return draft.changes


def open_to(policy: Policy, *ports: int) -> Policy:
    return with_inbound(policy, *(rule("inbound", "tcp", str(port), ANYONE, 1000 + port) for port in ports))


def test_the_first_answer_is_whole_and_the_next_say_what_differs() -> None:
    kept = Kept(small())
    assert kept.ask()
    assert not kept.ask()
    kept.change(open_to(kept.kept[0], 80, 443))
    kept.change(open_to(kept.kept[0], 443, 22))
    wanted = kept.planning(INTERFACES)
    assert {name for name in wanted.units if name[0] == "rule"} == {("rule", "1443"), ("rule", "1022")}
    assert ("rule", "1080") not in wanted.units
    assert wanted.gone == {("rule", "2"), ("rule", "3")}


def test_a_note_that_is_there_before_its_policy_waits_for_it() -> None:
    """As when a native thread asks while the loop is between the two."""
    kept = Kept(small())
    kept.ask()
    after = open_to(kept.kept[0], 443)
    kept.note(after)
    assert not kept.ask(), "of the policy that is in force"
    kept.enter(after)
    assert not kept.ask()
    assert ("rule", "1443") in kept.held


@pytest.mark.parametrize("why", ["too many notes", "a policy that came from elsewhere"])
def test_when_it_is_not_known_what_changed_the_plan_begins_anew(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(small())
    kept.ask()
    monkeypatch.setattr(module, "MOST_NOTED", 2)
    after = open_to(kept.kept[0], 443)
    if why == "too many notes":
        for port in (1, 2, 3):
            kept.change(open_to(kept.kept[0], port))
    else:
        kept.parts.touch(None, after, kept.kept[2] + 1)
        kept.planning.note(kept.kept[2] + 1, None)
        assert kept.ask(), "before that policy is in force, too: nobody knows what was noted before"
        kept.enter(after)
    assert kept.ask()
    assert not kept.ask()


def test_the_cost_tells_what_is_short_from_what_is_long() -> None:
    kept = Kept(small(rules=40))
    assert kept.planning.cost >= 40
    kept.ask()
    assert kept.planning.cost == 0
    draft = kept.kept[0].edit()
    draft.put(Droplet(7, name="new"))
    draft.put(Port("new-eth0", 7, DPID, "tap7", None, "02:00:00:00:00:07", ("10.1.0.7",), slot=draft.new_slot()))
    kept.change(draft.done())
    assert 0 < kept.planning.cost < 200
    firewall = kept.kept[0].firewalls[FIREWALL]
    peer = replace(ANYONE, addresses=tuple(f"10.{n >> 8}.{n & 255}.0/24" for n in range(3000)))
    kept.change(with_inbound(kept.kept[0], replace(firewall.inbound_rules[0], peer=peer)))
    assert kept.planning.cost > 3000


def test_who_works_with_an_older_policy_neither_gets_nor_leaves_a_part_of_another() -> None:
    parts, before = Parts(), small()
    after = open_to(before, 443)
    old = parts.rule_sets.get(before, 1, FIREWALL)
    parts.touch(touched(before, after, _changes(before, after)), after, 2)
    assert parts.rule_sets.get(before, 1, FIREWALL) == old
    new = parts.rule_sets.get(after, 2, FIREWALL)
    assert ("rule", "1443") in new.units
    assert parts.rule_sets.get(before, 1, FIREWALL).units == old.units
    assert parts.rule_sets.get(after, 2, FIREWALL) is new
    assert new.units["rule", "4"] is old.units["rule", "4"], "what is as it was stays the same object"


def test_what_is_removed_is_forgotten() -> None:
    parts, before = Parts(), small()
    parts.rule_sets.get(before, 1, FIREWALL)
    draft = before.edit()
    draft.drop(before.firewalls[FIREWALL])
    changes, after = draft.changes, draft.done()
    parts.touch(touched(before, after, changes), after, 2)
    assert not parts.rule_sets._parts
    assert not parts.rule_sets._touched
