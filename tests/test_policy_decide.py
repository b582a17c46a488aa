"""What a policy means, case by case: `decide()` is short enough to be read, this says what to read it for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import strategies as our
from hypothesis import given
from hypothesis import strategies as st

from firewall_app.policy.decide import Packet, Verdict, decide
from firewall_app.policy.model import (
    Direction,
    Droplet,
    ExternalPeer,
    Firewall,
    Peer,
    Port,
    PortRange,
    PortRules,
    Protocol,
    Rule,
    address,
)
from firewall_app.policy.policy import Policy

IN, OUT = Direction.INBOUND, Direction.OUTBOUND
TCP, UDP, ICMP = Protocol.TCP, Protocol.UDP, Protocol.ICMP
DPID = "00000000000000a1"
ANYONE = Peer(addresses=("0.0.0.0/0", "::/0"))
OUTSIDE = "192.0.2.7"


def policy(*entities: our.Entity) -> Policy:
    """Droplets 1 and 2 with a port each, and more."""
    draft = Policy().edit()
    for number in (1, 2):
        draft.put(Droplet(number, tags=("db",) if number == 2 else ()))
        addresses = (f"10.0.0.{number}", f"fd00::{number}")
        draft.put(Port(f"p{number}", number, DPID, f"vm{number}", None, f"02:00:00:00:00:0{number}", addresses, number))
    for entity in entities:
        draft.put(entity)
    return draft.done()


def rule(
    direction: Direction, protocol: Protocol = TCP, ports: tuple[int, int] = (80, 80), peer: Peer = ANYONE
) -> Rule:
    return Rule(direction, protocol, PortRange(*ports), peer, 1)


def firewall(*rules: Rule, droplet: int = 1, **changes: object) -> Firewall:
    inbound = tuple(rule for rule in rules if rule.direction is IN)
    outbound = tuple(rule for rule in rules if rule.direction is OUT)
    made = Firewall(f"f{droplet}", "default", "fw", inbound, outbound, (droplet,))
    return replace(made, **changes)  # type: ignore[arg-type]


def enters(source: str = OUTSIDE, port: int = 80, protocol: Protocol | int = TCP, to: int = 1) -> Packet:
    version = address(source).version
    own = f"10.0.0.{to}" if version == 4 else f"fd00::{to}"
    return Packet(address(source), address(own), protocol, 1000, port, None, f"p{to}")


def leaves(destination: str = OUTSIDE, port: int = 80, protocol: Protocol | int = TCP) -> Packet:
    own = "10.0.0.1" if address(destination).version == 4 else "fd00::1"
    return Packet(address(own), address(destination), protocol, 1000, port, "p1", None)


def between(port: int = 80) -> Packet:
    return Packet(address("10.0.0.1"), address("10.0.0.2"), TCP, 1000, port, "p1", "p2")


def allowed(now: Policy, packet: Packet, opening: Packet | None = None, closed: bool = False) -> bool:
    return decide(now, packet, opening, closed).verdict is Verdict.ALLOW


def test_a_droplet_behind_no_firewall_is_open_unless_the_setting_closes_it() -> None:
    for packet in (enters(), leaves(), enters(protocol=47), between()):
        assert allowed(policy(), packet)
        assert not allowed(policy(), packet, closed=True)


def test_a_firewall_without_rules_closes() -> None:
    now = policy(firewall())
    for packet in (enters(), leaves(), enters(protocol=ICMP), between()):
        assert not allowed(now, packet)
    assert allowed(now, enters(to=2)), "the other droplet is still open"
    assert not allowed(policy(PortRules("p1", "default")), enters()), "an empty rule set of a port closes too"


def test_what_a_rule_allows_and_nothing_beside_it() -> None:
    now = policy(firewall(rule(IN, TCP, (80, 81), Peer(addresses=("192.0.2.0/29",)))))
    assert allowed(now, enters())
    assert allowed(now, enters("192.0.2.0", 81))
    for wrong in (
        enters("192.0.1.255"),
        enters("192.0.2.8"),
        enters("2001:db8::1"),
        enters(port=79),
        enters(port=82),
        enters(protocol=UDP),
        enters(protocol=ICMP),
        enters(protocol=6),  # a number is a protocol that no rule can name
        leaves(),
    ):
        assert not allowed(now, wrong)


def test_an_outbound_rule_names_who_is_called() -> None:
    now = policy(firewall(rule(OUT, UDP, (53, 53), Peer(addresses=(OUTSIDE,)))))
    assert allowed(now, leaves(port=53, protocol=UDP))
    assert not allowed(now, leaves("192.0.2.8", 53, UDP))
    assert not allowed(now, enters(port=53, protocol=UDP))


def test_nobody_and_everybody() -> None:
    assert not allowed(policy(firewall(rule(IN, peer=Peer()))), enters())
    assert not allowed(policy(firewall(rule(IN, peer=Peer(load_balancer_uids=("lb",))))), enters())
    every4 = policy(firewall(rule(IN, peer=Peer(addresses=("0.0.0.0/0",)))))
    assert allowed(every4, enters())
    assert not allowed(every4, enters("2001:db8::1"))


def test_icmp_rules_ignore_ports() -> None:
    now = policy(firewall(rule(IN, ICMP, (0, 65535))))
    assert allowed(now, replace(enters(protocol=ICMP), source_port=0, destination_port=0))
    assert allowed(now, enters("2001:db8::1", 0, ICMP))


@pytest.mark.parametrize("peer", [Peer(droplet_ids=(1,)), Peer(tags=("WEB",))], ids=["droplet", "tag"])
def test_a_rule_may_name_droplets(peer: Peer) -> None:
    closed = firewall(rule(IN, peer=peer), droplet=2)
    now = policy(Droplet(1, tags=("web",)), closed)
    assert allowed(now, between())
    assert not allowed(now, enters(to=2))
    other = policy(Droplet(1, "umbrella", tags=("web",)), closed)
    assert not allowed(other, between()), "a droplet of another account"


def test_a_rule_may_name_external_peers() -> None:
    """By the mapping of its own account, in any case, whichever list names it; without one it names nobody."""
    mapped = ExternalPeer("LB-1", addresses=("192.0.2.0/29",), droplet_ids=(1,))
    for peer in (Peer(load_balancer_uids=("lb-1",)), Peer(kubernetes_ids=("Lb-1", "other"))):
        closed = firewall(rule(IN, peer=peer), droplet=2)
        now = policy(closed, mapped)
        assert allowed(now, between())
        assert allowed(now, enters(to=2))
        assert not allowed(now, enters("192.0.2.8", to=2))
        for nobody in (replace(mapped, account="umbrella"), replace(mapped, uid="lb-2"), ExternalPeer("lb-1")):
            other = policy(closed, nobody)
            assert not allowed(other, between())
            assert not allowed(other, enters(to=2))
    theirs = policy(Droplet(1, "umbrella"), closed, mapped)
    assert not allowed(theirs, between()), "a droplet of another account"


def test_both_ends_are_judged() -> None:
    out, into = firewall(rule(OUT)), firewall(rule(IN), droplet=2)
    assert allowed(policy(out, into), between())
    assert not allowed(policy(out, firewall(droplet=2)), between())
    assert not allowed(policy(firewall(), into), between())
    decision = decide(policy(out, into), between())
    assert [(check.port_id, check.direction) for check in decision.checks] == [("p1", OUT), ("p2", IN)]
    assert decision.checks[1].rule == rule(IN)
    assert decision.checks[1].rule_set == into


def test_a_firewall_reaches_droplets_by_tag_within_its_account() -> None:
    tagged = firewall(droplet_ids=(), tags=("DB",))
    assert not allowed(policy(tagged), enters(to=2))
    assert allowed(policy(tagged), enters(to=1))
    assert allowed(policy(replace(tagged, account="umbrella")), enters(to=2))


def test_rule_sets_add_up() -> None:
    one, other = rule(IN), rule(IN, UDP, (53, 53))
    now = policy(firewall(one), firewall(other, id="second"), PortRules("p1", "default", (rule(IN, ICMP, (0, 65535)),)))
    for packet in (enters(), enters(port=53, protocol=UDP), enters(port=0, protocol=ICMP)):
        assert allowed(now, packet)
    assert not allowed(now, enters(port=53))


def test_a_packet_is_judged_as_the_one_that_opened_its_connection() -> None:
    now = policy(firewall(rule(IN)))
    opening = enters()
    assert not allowed(now, opening.reply())
    assert allowed(now, opening.reply(), opening)
    assert allowed(now, opening, opening)
    error = Packet(address("10.0.0.1"), address(OUTSIDE), ICMP, sender="p1")
    assert allowed(now, error, opening)
    assert not allowed(now, error)
    assert not allowed(policy(firewall()), opening.reply(), opening), "and stops with the rule"
    assert not allowed(now, enters(), leaves().reply().reply()), (
        "under the rules of the direction in which it was opened"
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"source": address("10.0.0.2")}, "10.0.0.2 is not an address of port p1"),
        ({"source": address("10.0.0.0")}, "is not an address"),
        ({"source_mac": "02:00:00:00:00:02"}, "is not the MAC of port p1"),
    ],
)
def test_a_droplet_sends_only_as_itself(changes: dict[str, object], why: str) -> None:
    now = policy()
    decision = decide(now, replace(leaves(), **changes))  # type: ignore[arg-type]
    assert decision.verdict is Verdict.DROP
    assert why in decision.reason
    assert not allowed(now, replace(leaves(), **changes), leaves())  # type: ignore[arg-type]
    assert allowed(now, replace(leaves(), source_mac="02:00:00:00:00:01", source=address("fe80::ff:fe00:1")))


def test_a_verdict_says_why() -> None:
    assert decide(policy(), enters()).reason == "droplet 1 is behind no firewall"
    assert decide(policy(firewall()), enters()).reason == "no inbound rule of droplet 1 allows it"
    assert decide(policy(firewall(rule(IN))), enters()).reason == "inbound rule of fw allows it"
    assert decide(policy(), Packet(address(OUTSIDE), address(OUTSIDE), TCP)).reason == "not between droplets"
    own = policy(PortRules("p1", "default", (rule(IN),)))
    assert decide(own, enters()).reason == "inbound rule of the rules of port p1 allows it"


@given(st.data())
def test_more_rules_never_forbid(data: st.DataObject) -> None:
    """A rule added to a firewall that is in force takes nothing away."""
    now = data.draw(our.policies())
    if not now.firewalls or not now.ports:
        return
    one = data.draw(st.sampled_from(sorted(now.firewalls.values(), key=lambda one: one.id)))
    draft = now.edit()
    more = replace(data.draw(our.rules(IN)), id=draft.new_rule_id())
    draft.put(replace(one, inbound_rules=(*one.inbound_rules, more)))
    wider = draft.done()
    packet = data.draw(our.openings(now, frozenset(now.ports))).packet
    if allowed(now, packet):
        assert allowed(wider, packet)
