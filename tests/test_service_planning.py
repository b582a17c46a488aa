"""What waits for a switch until it asks: nothing is missed, whoever comes first, and however much it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from policies import ANYONE, DPID, FIREWALL, rule, small, with_inbound

from firewall_app.history import beginning
from firewall_app.pipeline.compile import Rulings
from firewall_app.pipeline.plan import Parts, units
from firewall_app.pipeline.touched import Touched, touched
from firewall_app.policy.model import Droplet, Hypervisor, Peer, Port, Tag
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
        if any(DPID in before.concerned(change) | after.concerned(change) for change in changes):
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


def tagged(policy: Policy, number: int, *tags: str) -> Policy:
    draft = policy.edit()
    draft.put(replace(policy.droplets[number], tags=tags))
    return draft.done()


def test_a_firewall_that_changes_between_leaving_and_coming_back() -> None:
    """While no port here is behind it, a change of it concerns this hypervisor as little as any other's."""
    kept = Kept(small())
    kept.ask()
    kept.change(tagged(kept.kept[0], 101))
    kept.change(open_to(kept.kept[0], 443))
    kept.change(tagged(kept.kept[0], 101, "web"))
    kept.ask()
    assert ("rule", "1443") in kept.held


@pytest.mark.parametrize("through", ["the rule", "the droplet"])
def test_a_set_that_changes_while_nothing_here_asks_it(through: str) -> None:
    draft = small().edit()
    draft.put(Hypervisor("0000000000000002", "hv-2"))
    draft.put(Tag("default", "db"))
    draft.put(Droplet(7, name="far"))
    draft.put(
        Port("far-eth0", 7, "0000000000000002", "tap7", None, "02:00:00:00:00:07", ("10.1.0.7",), slot=draft.new_slot())
    )
    asking = rule("inbound", "tcp", "443", Peer(tags=("db",)), 1443)
    kept = Kept(with_inbound(draft.done(), asking))
    kept.ask()
    kept.change(tagged(kept.kept[0], 101) if through == "the droplet" else open_to(kept.kept[0], 80))
    kept.change(tagged(kept.kept[0], 7, "db"))
    kept.change(tagged(kept.kept[0], 101, "web") if through == "the droplet" else with_inbound(kept.kept[0], asking))
    kept.change(tagged(kept.kept[0], 102, "db"))
    kept.ask()
    assert {name[1].split()[-1] for name in kept.held if name[0] == "tag"} == {"far-eth0", "db-eth0"}


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


@pytest.mark.parametrize("how", ["it connects", "a rule names it", "a port comes behind a rule that names it"])
def test_the_cost_counts_a_set_that_a_switch_does_not_have_yet(how: str) -> None:
    draft = small().edit()
    draft.put(Tag("default", "db"))
    for number in range(1000):
        mac, address = f"02:00:00:01:{number >> 8:02x}:{number & 255:02x}", f"10.2.{number >> 8}.{number & 255}"
        draft.put(Droplet(1000 + number, name="far", tags=("db",)))
        draft.put(
            Port(f"far{number}", 1000 + number, "0000000000000002", "tap", None, mac, (address,), slot=number + 9)
        )
    without = draft.done()
    naming = with_inbound(without, rule("inbound", "tcp", "443", Peer(tags=("db",)), 1443))
    if how == "it connects":
        kept = Kept(naming)
        assert kept.planning.cost > 2000
        kept.ask()
        kept.change(
            with_inbound(naming, *naming.firewalls[FIREWALL].inbound_rules, rule("inbound", "tcp", "1", ANYONE, 9))
        )
    elif how == "a rule names it":
        kept = Kept(without)
        kept.ask()
        kept.change(naming)
        assert kept.planning.cost > 2000
    else:
        kept = Kept(tagged(naming, 101))
        kept.ask()
        kept.change(naming)
        assert kept.planning.cost > 2000
    kept.ask()
    kept.change(tagged(kept.kept[0], 1000))
    assert kept.planning.cost < 200, "it has the set"


def test_a_change_of_many_ports_elsewhere_costs_nothing_here() -> None:
    kept = Kept(small())
    kept.ask()
    kept.planning.note(1, Touched(ports=frozenset(f"far{number}" for number in range(1000))))
    assert kept.planning.cost == 0


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
