"""Laws that hold for every policy: what may not matter, what must add up, what indexes must say."""

from __future__ import annotations

from dataclasses import replace

import strategies as our
from fleet import GENERATION, Fleet, judges, lists_no_less, render
from hypothesis import given
from hypothesis import strategies as st
from reference import protected
from strategies import HYPERVISORS, SITE
from test_meaning import Tale, framed, plugged

from firewall_app.pipeline.compile import Rulings
from firewall_app.pipeline.diff import Desired, difference
from firewall_app.pipeline.flow import Flow, Key
from firewall_app.pipeline.plan import units
from firewall_app.pipeline.unit import Generation
from firewall_app.policy.decide import Packet, Verdict, decide
from firewall_app.policy.model import (
    Firewall,
    Protocol,
    tag_key,
)
from firewall_app.policy.policy import Policy, key_of

rulings = st.booleans().map(lambda closed: Rulings(closed=closed))

# --------------------------------------------------------------------------------------------- laws


def flows_of(policy: Policy, rulings: Rulings) -> dict[str, dict[Key, Flow]]:
    """What each hypervisor holds that starts with a policy."""
    fleet = Fleet(SITE, rulings)
    fleet.follow(policy)
    return held(fleet)


def held(fleet: Fleet) -> dict[str, dict[Key, Flow]]:
    """The flows of a fleet, less those that differ with the generation."""
    found = {}
    for dpid, member in fleet.members.items():
        marked = {key for key, _ in render(Generation(member.generation))}
        assert marked <= set(member.switch.flows)
        found[dpid] = {key: flow for key, flow in member.switch.flows.items() if key not in marked}
    return found


def wanted(desired: Desired[Key, Flow]) -> dict[Key, Flow | None]:
    return {key: desired.get(key) for key in tuple(desired.keys())}


def entities(policy: Policy) -> list[our.Entity]:
    tables = ("hypervisors", "tags", "droplets", "ports", "firewalls", "port_rules", "external_peers")
    return [entity for table in tables for entity in getattr(policy, table).values()]


@given(st.data(), rulings)
def test_the_order_of_what_is_written_does_not_matter(data: st.DataObject, rulings: Rulings) -> None:
    policy = data.draw(our.policies())
    draft = Policy(counters=policy.counters).edit()
    for entity in data.draw(st.permutations(entities(policy))):
        draft.put(entity)
    other = draft.done()
    assert other == policy
    assert flows_of(other, rulings) == flows_of(policy, rulings)


@given(st.data(), rulings)
def test_any_policy_may_follow_any_other(data: st.DataObject, rulings: Rulings) -> None:
    """Forwards, backwards, with an empty one between: the flows are those of the last, as if it were the first."""
    first = data.draw(our.policies())
    second = data.draw(st.one_of(our.policies(first), our.edits(first).map(lambda draft: draft.done())))
    ways = {"forwards": (first, second), "backwards": (second, first), "cleared": (first, Policy(), second)}
    fleet = Fleet(SITE, rulings)
    for policy in data.draw(st.sampled_from(sorted(ways)).map(ways.__getitem__)):
        fleet.follow(policy)
    assert held(fleet) == flows_of(fleet.policy, rulings)
    for dpid, member in fleet.members.items():
        assert not difference(member.desired, member.switch.flows), "a converged switch needs no change"
        assert wanted(member.desired) == member.switch.flows
        before = member.generation
        member.follow(fleet.policy, rulings)
        assert not member.last, dpid
        assert member.generation == before


@given(st.data(), rulings)
def test_the_generation_rises_exactly_when_something_is_taken_away(data: st.DataObject, rulings: Rulings) -> None:
    """Judged by the flows themselves: one that judged is gone, or does something else now."""
    first = data.draw(our.policies())
    second = data.draw(our.edits(first)).done()
    fleet = Fleet(SITE, rulings)
    fleet.follow(first)
    before, then = held(fleet), {dpid: member.generation for dpid, member in fleet.members.items()}
    fleet.follow(second)
    for dpid, member in fleet.members.items():
        now = held(fleet)[dpid]
        lost = [
            key
            for key, flow in before[dpid].items()
            if judges(key) and now.get(key) != flow and not (key in now and lists_no_less(key, flow, now[key]))
        ]
        assert (member.generation != then[dpid]) == bool(lost)


@given(st.data())
def test_the_difference_turns_any_flows_into_the_desired_ones(data: st.DataObject) -> None:
    first, second = data.draw(our.policies()), data.draw(our.policies())
    dpid = data.draw(st.sampled_from(HYPERVISORS))
    desired: Desired[Key, Flow] = Desired(render)
    desired.update({**units(first, dpid, SITE.interfaces[dpid], Rulings()), GENERATION: Generation(1)})
    other: Desired[Key, Flow] = Desired(render)
    other.update({**units(second, dpid, SITE.interfaces[dpid], Rulings()), GENERATION: Generation(2)})
    actual = {key: flow for key, flow in wanted(other).items() if data.draw(st.integers(0, 19))}
    before = dict(actual)
    change = difference(desired, actual)
    for key in change.delete:
        del actual[key]
    assert set(change.replaced) == {(key, actual[key], flow) for key, flow in change.put if key in actual}
    actual.update(change.put)
    assert actual == wanted(desired)
    assert all(before.get(key) != flow for key, flow in change.put), "a flow that is right is sent again"
    assert not difference(desired, actual)


@given(st.data())
def test_a_firewall_without_rules_closes_an_open_droplet(data: st.DataObject) -> None:
    policy = data.draw(our.policies())
    open_ports = [port for port in policy.ports.values() if not protected(policy, port, closed=False)]
    if not open_ports:
        return
    port = data.draw(st.sampled_from(open_ports))
    draft = policy.edit()
    draft.put(Firewall("empty", policy.droplets[port.droplet_id].account, "empty", droplet_ids=(port.droplet_id,)))
    tale = Tale(Rulings())
    for now, verdict in ((policy, Verdict.ALLOW), (draft.done(), Verdict.DROP)):
        tale.follow(now)
        mine = port.networks[0].first
        theirs = our.network("192.0.2.7" if mine.version == 4 else "2001:db8::1").first
        leaving = Packet(mine, theirs, Protocol.UDP, 1000, 42, port.id, None)
        for one in (leaving, leaving.reply()):
            assert decide(now, one).verdict is verdict
            tale.send(framed(now, one))


@given(st.data(), rulings)
def test_firewalls_add_up(data: st.DataObject, rulings: Rulings) -> None:
    """Two firewalls with half the rules each mean what one with all of them means."""
    policy = data.draw(our.policies())
    if not policy.firewalls:
        return
    whole = data.draw(st.sampled_from(list(policy.firewalls.values())))
    draft = policy.edit()
    halves = [
        [[one for i, one in enumerate(rules) if i % 2 == half] for rules in (whole.inbound_rules, whole.outbound_rules)]
        for half in (0, 1)
    ]
    for number, (inbound, outbound) in enumerate(halves):
        draft.put(
            replace(whole, id=f"half-{number}", name=f"half-{number}", inbound_rules=tuple(inbound),
                    outbound_rules=tuple(outbound), number=0)
        )  # fmt: skip
    draft.drop(whole)
    one, two = Fleet(SITE, rulings), Fleet(SITE, rulings)
    one.follow(policy)
    two.follow(draft.done())
    for _ in range(6):
        if policy.ports:
            sent = data.draw(our.openings(policy, plugged(one)))
            sender = policy.ports[sent.packet.sender] if sent.packet.sender else None
            first, second = one.send(sender, sent.frame), two.send(sender, sent.frame)
            assert (first.reached, first.outside) == (second.reached, second.outside), f"{first}\n\n{second}"


# --------------------------------------------------------------------------------------------- indexes


def naive_indexes(policy: Policy) -> dict[str, dict[object, frozenset[object]]]:
    """Every index of a policy, from its entities alone."""
    found: dict[str, dict[object, set[object]]] = {}

    def note(index: str, key: object, member: object) -> None:
        found.setdefault(index, {}).setdefault(key, set()).add(member)

    for droplet in policy.droplets.values():
        for tag in droplet.tags:
            note("tagged", (droplet.account, tag.lower()), droplet.id)
    for port in policy.ports.values():
        note("ports_of", port.droplet_id, port.id)
        note("ports_on", port.hypervisor, port.id)
        note("slots", port.slot, port.id)
    for tag in policy.tags.values():
        note("account_tags", tag.account, (tag.account, tag.name.lower()))
    for firewall in policy.firewalls.values():
        note("account_firewalls", firewall.account, firewall.id)
        note("firewalls_named", (firewall.account, firewall.name), firewall.id)
        for number in firewall.droplet_ids:
            note("attached_to_droplet", number, firewall.id)
        for tag in firewall.tags:
            note("attached_to_tag", (firewall.account, tag.lower()), firewall.id)
    named = [(owner, owner.id) for owner in policy.firewalls.values()]
    named += [(owner, f"port {owner.port_id}") for owner in policy.port_rules.values()]
    for owner, name in named:
        for one in owner.inbound_rules + owner.outbound_rules:
            for number in one.peer.droplet_ids:
                note("naming_droplet", number, name)
            for tag in one.peer.tags:
                note("naming_tag", tag_key(owner.account, tag), name)
            for uid in one.peer.load_balancer_uids + one.peer.kubernetes_ids:
                note("naming_external", (owner.account, uid.lower()), name)
    for external in policy.external_peers.values():
        for number in external.droplet_ids:
            note("external_with", number, external.uid.lower())
    return {index: {key: frozenset(members) for key, members in by.items()} for index, by in found.items()}


INDEXES = (
    "ports_of", "ports_on", "tagged", "attached_to_droplet", "attached_to_tag", "naming_droplet", "naming_tag",
    "naming_external", "external_with", "slots", "account_tags", "account_firewalls", "firewalls_named",
)  # fmt: skip


@given(st.data())
def test_indexes_are_what_the_entities_say(data: st.DataObject) -> None:
    policy = data.draw(our.policies())
    for _ in range(data.draw(st.integers(0, 4))):
        before = repr(policy)
        draft = data.draw(our.edits(policy))
        assert repr(policy) == before, "a draft changes its base"
        policy = draft.done()
    naive = naive_indexes(policy)
    assert {name: getattr(policy, name) for name in INDEXES} == {name: naive.get(name, {}) for name in INDEXES}
    for droplet in policy.droplets.values():
        behind = [
            firewall
            for firewall in policy.firewalls.values()
            if droplet.id in firewall.droplet_ids
            or (
                firewall.account == droplet.account
                and {t.lower() for t in firewall.tags} & {t.lower() for t in droplet.tags}
            )
        ]
        assert sorted(policy.firewalls_of(droplet.id), key=key_of) == sorted(behind, key=key_of)
        assert all(droplet.id in policy.droplets_behind(firewall) for firewall in behind)


@given(st.data(), rulings)
def test_hypervisors_that_no_change_concerns_keep_their_units(data: st.DataObject, rulings: Rulings) -> None:
    old = new = data.draw(our.policies())
    changes = []
    for _ in range(data.draw(st.integers(1, 3))):
        draft = data.draw(our.edits(new))
        new = draft.done()
        changes += draft.changes
    merged = old.edit()
    for change in changes:
        if change.new is None:
            merged.drop(change.entity)
        else:
            merged.put(change.new)
    assert merged.peek() == replace(new, counters=old.counters)
    concerned = {dpid for change in merged.changes for now in (old, new) for dpid in now.concerned(change)}
    for dpid in HYPERVISORS:
        if dpid not in concerned:
            interfaces = SITE.interfaces[dpid]
            assert units(old, dpid, interfaces, rulings) == units(new, dpid, interfaces, rulings), merged.changes


@given(st.data())
def test_firewalls_that_no_change_touches_keep_their_flows(data: st.DataObject) -> None:
    old = data.draw(our.policies())
    draft = data.draw(our.edits(old))
    new = draft.done()
    touched = {name for change in draft.changes for now in (old, new) for name in now.touched_firewalls(change)}
    names = {name for change in draft.changes for now in (old, new) for name in now.names_of(change)}
    touched |= {fw.id for now in (old, new) for fw in now.firewalls.values() if not names.isdisjoint(fw.named)}
    assert touched <= set(old.firewalls) | set(new.firewalls)
    for name in set(old.firewalls) - touched:
        for dpid in HYPERVISORS:
            before, after = (units(now, dpid, SITE.interfaces[dpid], Rulings()) for now in (old, new))
            for rule in old.firewalls[name].rules:
                assert before.get(("rule", str(rule.id))) == after.get(("rule", str(rule.id))), draft.changes
    for droplet in old.droplets.values():
        homes = {port.hypervisor for port in old.ports.values() if port.droplet_id == droplet.id}
        assert old.hosts_of(droplet.id) == homes
