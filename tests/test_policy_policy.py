"""Policies and drafts: what a draft notes, what it never touches, and the numbers that it gives out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import strategies as our
from hypothesis import given
from hypothesis import strategies as st

from firewall_app.policy.errors import Conflict
from firewall_app.policy.model import (
    Direction,
    Droplet,
    ExternalPeer,
    Firewall,
    Hypervisor,
    Peer,
    Port,
    PortRange,
    PortRules,
    Protocol,
    Rule,
    Tag,
)
from firewall_app.policy.policy import FIRST_SLOT, LAST_SLOT, Change, Counters, Policy, key_of

DPID, OTHER = "00000000000000a1", "00000000000000a2"


def rule(peer: Peer, number: int = 1) -> Rule:
    return Rule(Direction.INBOUND, Protocol.TCP, PortRange(80, 80), peer, number)


def port(name: str = "p1", droplet: int = 1, dpid: str = DPID, slot: int = 1) -> Port:
    return Port(name, droplet, dpid, f"if-{name}", None, "02:00:00:00:00:01", ("10.0.0.1",), slot)


def policy(*entities: our.Entity) -> Policy:
    draft = Policy().edit()
    for entity in entities:
        draft.put(entity)
    return draft.done()


# --------------------------------------------------------------------------------------------- drafts


def test_a_draft_leaves_its_base_alone() -> None:
    base = policy(Droplet(1, tags=("web",)), port())
    before = repr(base)
    draft = base.edit()
    draft.put(Droplet(1, tags=("db",)))
    draft.drop(port())
    draft.new_slot()
    draft.new_rule_id()
    assert repr(base) == before
    done = draft.done()
    assert done.tagged == {("default", "db"): frozenset({1})}
    assert done.ports == done.ports_of == done.slots == {}
    assert repr(base) == before


def test_peek_shows_the_draft_so_far() -> None:
    draft = Policy().edit()
    draft.put(Droplet(1))
    assert set(draft.peek().droplets) == {1}
    draft.drop(Droplet(1))
    assert set(draft.peek().droplets) == set()


def test_changes_are_what_differs_from_the_base_each_once() -> None:
    base = policy(Droplet(1, name="a"), Droplet(2), Tag("default", "web"))
    draft = base.edit()
    draft.put(Droplet(1, name="b"))
    draft.put(Droplet(1, name="c"))
    draft.drop(Droplet(2))
    draft.put(Droplet(3))
    assert draft.changes == (
        Change(Droplet(1, name="a"), Droplet(1, name="c")),
        Change(Droplet(2), None),
        Change(None, Droplet(3)),
    )
    assert [change.entity.id for change in draft.changes] == [1, 2, 3]


def test_what_is_put_back_is_no_change() -> None:
    base = policy(Droplet(1, name="a"))
    draft = base.edit()
    draft.put(Droplet(1, name="b"))
    draft.put(Droplet(1, name="a"))
    draft.put(Droplet(2))
    draft.drop(Droplet(2))
    draft.drop(Droplet(9))
    assert draft.changes == ()
    assert draft.done() == base


def test_a_change_of_slot_or_rule_id_alone_is_a_change() -> None:
    """Equality leaves them out, but the store and the switches must know."""
    base = policy(port(slot=1), Firewall("f", "default", "fw", (rule(Peer(), 1),)))
    draft = base.edit()
    draft.put(port(slot=2))
    draft.put(Firewall("f", "default", "fw", (rule(Peer(), 2),)))
    assert len(draft.changes) == 2
    respelled = base.edit()
    respelled.put(Firewall("f", "default", "fw", (replace(rule(Peer(), 1), ports=PortRange.parse("80-80")),)))
    assert len(respelled.changes) == 1
    assert respelled.done() == base, "though it means the same"
    assert draft.done().slots == {2: frozenset({"p1"})}


def test_an_index_entry_goes_with_its_last_member() -> None:
    base = policy(Droplet(1, tags=("web",)), Droplet(2, tags=("WEB",)))
    assert base.tagged == {("default", "web"): frozenset({1, 2})}
    draft = base.edit()
    draft.drop(base.droplets[1])
    assert draft.peek().tagged == {("default", "web"): frozenset({2})}
    draft.drop(base.droplets[2])
    assert draft.done().tagged == {}


def test_entities_are_found_by_what_identifies_them() -> None:
    entities = {
        Hypervisor(DPID, "a"): DPID, Tag("acme", "Web"): ("acme", "web"), Droplet(7): 7, port(): "p1",
        Firewall("f", "acme", "fw"): "f", PortRules("p1", "acme"): "p1", ExternalPeer("LB-1"): "lb-1",
    }  # fmt: skip
    assert [key_of(entity) for entity in entities] == list(entities.values())


# --------------------------------------------------------------------------------------------- numbers


def test_rule_ids_are_given_once_and_go_on_from_the_last() -> None:
    draft = Policy(counters=Counters(rule=41)).edit()
    assert [draft.new_rule_id() for _ in range(3)] == [42, 43, 44]
    assert draft.done().counters == Counters(rule=44)


def test_slots_are_given_in_turn() -> None:
    draft = Policy().edit()
    assert [draft.new_slot() for _ in range(3)] == [1, 2, 3]
    draft = draft.done().edit()
    assert draft.new_slot() == 4, "the next, though none of the others is in use"


def test_slots_in_use_are_left_out_and_the_round_starts_again() -> None:
    base = policy(port("p1", slot=LAST_SLOT), port("p2", slot=FIRST_SLOT))
    draft = replace(base, counters=Counters(slot=LAST_SLOT - 2)).edit()
    assert [draft.new_slot() for _ in range(2)] == [LAST_SLOT - 1, FIRST_SLOT + 1]


def test_when_all_slots_are_given_the_one_that_fewest_have_is_next() -> None:
    slots = {slot: frozenset({f"a{slot}", f"b{slot}"}) for slot in range(FIRST_SLOT, LAST_SLOT + 1)}
    slots[4711] = frozenset({"a"})
    draft = Policy(slots=slots, counters=Counters(slot=5)).edit()
    assert draft.new_slot() == 4711


def test_a_slot_is_never_given_to_two_ports_of_one_hypervisor() -> None:
    """With more ports than slots these are shared, and a slot is what a port's packets and connections go by."""
    slots = {slot: frozenset({f"a{slot}"}) for slot in range(FIRST_SLOT, LAST_SLOT + 1)}
    crowded = Policy(slots=slots, ports_on={"d1": frozenset(f"a{slot}" for slot in range(1, 100))})
    assert crowded.edit().new_slot("d2") == 1
    assert crowded.edit().new_slot("d1") == 100
    full = replace(crowded, ports_on={"d1": frozenset(f"a{slot}" for slot in slots)})
    with pytest.raises(Conflict, match="all 65000 slots"):
        full.edit().new_slot("d1")


@given(st.integers(0, LAST_SLOT), st.sets(st.integers(FIRST_SLOT, LAST_SLOT), max_size=5))
def test_a_new_slot_is_a_free_one(last: int, used: set[int]) -> None:
    slots = {slot: frozenset({"p"}) for slot in used}
    draft = Policy(slots=slots, counters=Counters(slot=last)).edit()
    slot = draft.new_slot()
    assert FIRST_SLOT <= slot <= LAST_SLOT
    assert slot not in used
    assert draft.counters == Counters(slot=slot)


# --------------------------------------------------------------------------------------------- questions


def test_a_droplet_is_behind_its_own_firewalls_and_those_of_its_tags() -> None:
    now = policy(
        Droplet(1, tags=("Web",)),
        Droplet(2, "umbrella", tags=("web",)),
        Firewall("by-id", "default", "fw", droplet_ids=(1, 3)),
        Firewall("by-tag", "default", "fw", tags=("WEB",)),
        Firewall("both", "default", "fw", droplet_ids=(1,), tags=("web",)),
        Firewall("none", "default", "fw"),
        port(),
        PortRules("p1", "default"),
    )
    assert [firewall.id for firewall in now.firewalls_of(1)] == ["both", "by-id", "by-tag"]
    assert now.firewalls_of(2) == ()
    assert [firewall.id for firewall in now.firewalls_of(3)] == ["by-id"], "attached, though it is not known yet"
    assert now.rule_sets_of(now.ports["p1"]) == (*now.firewalls_of(1), PortRules("p1", "default"))
    assert now.droplets_behind(now.firewalls["by-id"]) == {1}
    assert now.droplets_behind(now.firewalls["by-tag"]) == {1}
    assert now.droplets_behind(now.firewalls["none"]) == frozenset()


def test_a_rule_names_droplets_of_its_account() -> None:
    now = policy(Droplet(1, tags=("web",)), Droplet(2, "umbrella", tags=("web",)), Droplet(3))
    assert now.peer_droplets("default", rule(Peer(droplet_ids=(2, 3, 9), tags=("WEB",)))) == {1, 3}
    assert now.peer_droplets("umbrella", rule(Peer(droplet_ids=(2, 3), tags=("WEB",)))) == {2}
    assert now.peer_droplets("default", rule(Peer())) == frozenset()
    draft = now.edit()
    draft.put(ExternalPeer("K8s", droplet_ids=(1, 2, 9)))
    one = rule(Peer(load_balancer_uids=("lb",), kubernetes_ids=("k8S",)))
    assert draft.peek().peer_droplets("default", one) == {1}
    assert draft.peek().peer_droplets("umbrella", one) == frozenset()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (Hypervisor(DPID, "a"), {DPID}),
        (Tag("default", "web"), set()),
        (port("p3", 3, OTHER, 3), {OTHER}),
        (Droplet(3), {OTHER}),
        (Droplet(2, tags=("db",)), {DPID, OTHER}),
        (Firewall("web", "default", "fw", droplet_ids=(1,)), {DPID}),
        (PortRules("p2", "default"), {OTHER}),
        (PortRules("gone", "default"), set()),
        (ExternalPeer("LB"), {OTHER}),
        (ExternalPeer("k8s"), {DPID}),
        (ExternalPeer("lb", "umbrella"), set()),
        (ExternalPeer("unnamed", addresses=("10.0.0.1",), droplet_ids=(1,)), set()),
        (Droplet(4), {DPID}),
    ],
    ids=lambda value: "" if isinstance(value, set) else repr(value),
)
def test_whom_a_change_concerns(changed: our.Entity, expected: set[str]) -> None:
    """Droplet 1 is here and lets droplet 2 in, by its tag, and 4, by an external peer; 2 and 3 are on the other
    hypervisor, where a port names a load balancer."""
    mapped = Peer(kubernetes_ids=("K8S",))
    now = policy(
        Droplet(1),
        Droplet(2, tags=("db",)),
        Droplet(3),
        port("p1", 1, DPID, 1),
        port("p2", 2, OTHER, 2),
        port("p3", 3, OTHER, 3),
        Firewall("web", "default", "fw", (rule(Peer(tags=("DB",))), rule(mapped)), droplet_ids=(1,)),
        PortRules("p3", "default", (), (rule(Peer(load_balancer_uids=("lb",))),)),
        Droplet(4),
        ExternalPeer("K8s", droplet_ids=(4,)),
    )
    assert now.concerned(Change(changed, None)) == expected
    assert now.concerned(Change(None, changed)) == expected
