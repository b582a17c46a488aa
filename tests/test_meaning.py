"""The switches do what the policy means: random policies, random packets, changes in between."""

from __future__ import annotations

from dataclasses import replace

import strategies as our
from fleet import Fleet
from hypothesis import given
from hypothesis import strategies as st
from reference import Reference
from simfabric import Delivery
from strategies import HYPERVISORS, SITE, Sent

from firewall_app.pipeline.compile import Rulings
from firewall_app.pipeline.tracker import ACK, SYN
from firewall_app.policy.decide import Packet, Verdict, decide
from firewall_app.policy.model import (
    Direction,
    Droplet,
    Firewall,
    Hypervisor,
    Peer,
    Port,
    PortRange,
    Protocol,
    Rule,
    address,
)
from firewall_app.policy.policy import Policy


def plugged(fleet: Fleet) -> frozenset[str]:
    return frozenset(port.id for port in fleet.policy.ports.values() if fleet.place(port) is not None)


def check(fleet: Fleet, reference: Reference, sent: Sent) -> Delivery:
    """Sends a packet and compares what became of it with what should."""
    policy, packet = fleet.policy, sent.packet
    expected = reference.expect(policy, sent)
    delivery = fleet.send(policy.ports[packet.sender] if packet.sender else None, sent.frame)
    receiver = policy.ports[packet.receiver] if packet.receiver else None
    place = fleet.place(receiver) if receiver else None
    story = f"{sent}\n{expected}\n{delivery}"
    assert delivery.reached == ((place,) if expected.arrives and place else ()), story
    if packet.sender:
        here = place is not None and place.dpid == policy.ports[packet.sender].hypervisor
        assert delivery.outside == (expected.leaves and not here), story
    return delivery


class Tale:
    """A fleet and its reference that live through the same events."""

    def __init__(self, rulings: Rulings) -> None:
        self.fleet = Fleet(SITE, rulings)
        self.reference = Reference(rulings.closed)
        self.past: list[Sent] = []

    def follow(self, policy: Policy) -> None:
        self.reference.forget(self.fleet.follow(policy))
        self.past = [sent for sent in self.past if self.can_send(sent)]

    def can_send(self, sent: Sent) -> bool:
        ends = [end for end in (sent.packet.sender, sent.packet.receiver) if end]
        return all(end in self.fleet.policy.ports for end in ends)

    def send(self, sent: Sent) -> Delivery | None:
        """None: its sender is not plugged in."""
        if sent.packet.sender and sent.packet.sender not in plugged(self.fleet):
            return None
        delivery = check(self.fleet, self.reference, sent)
        if sent.frame.inner is None:
            # What arrived is answered more often than what did not.
            self.past += [sent] * (3 if delivery.reached or delivery.outside else 1)
        return delivery


rulings = st.booleans().map(lambda closed: Rulings(closed=closed))


@given(st.data())
def test_the_switches_do_what_the_policy_means(data: st.DataObject) -> None:
    """A policy, packets of new and live connections, changes in between."""
    tale = Tale(data.draw(rulings))
    tale.follow(data.draw(our.policies()))
    for _ in range(data.draw(st.integers(1, 14), label="events")):
        policy = tale.fleet.policy
        kinds = ["edit"]
        kinds += ["open", "open"] if policy.ports else []
        kinds += ["again", "reply", "reply", "error"] if tale.past else []
        match data.draw(st.sampled_from(kinds)):
            case "open":
                tale.send(data.draw(our.openings(policy, plugged(tale.fleet))))
            case "edit":
                tale.follow(data.draw(our.edits(policy)).done())
            case kind:
                sent = data.draw(st.sampled_from(tale.past))
                made = {"again": our.again, "reply": our.reply, "error": our.error}[kind]
                tale.send(made(policy, sent))


@given(st.data())
def test_a_change_is_felt_by_live_connections(data: st.DataObject) -> None:
    """Connections that were admitted and answered; then a change; then packets of theirs, in either direction first."""
    tale = Tale(data.draw(rulings))
    tale.follow(data.draw(our.policies()))
    for _ in range(data.draw(st.integers(1, 3), label="connections")):
        policy = tale.fleet.policy
        if not plugged(tale.fleet):
            return
        # Of some packets near the rules, one that a rule lets pass.
        near = [data.draw(our.openings(policy, plugged(tale.fleet))) for _ in range(4)]
        verdicts = [decide(policy, sent.packet, closed=tale.reference.closed) for sent in near]
        allowed = [sent for sent, said in zip(near, verdicts, strict=True) if any(check.rule for check in said.checks)]
        first = (allowed or near)[0]
        tale.send(first)
        if data.draw(st.integers(0, 3)):
            tale.send(our.reply(policy, first))
    for _ in range(data.draw(st.integers(1, 2), label="changes")):
        tale.follow(data.draw(our.edits(tale.fleet.policy)).done())
        if not tale.past:
            return
        for sent in data.draw(st.lists(st.sampled_from(tale.past), min_size=1, max_size=4)):
            made = data.draw(st.sampled_from((our.again, our.reply, our.reply, our.error)))
            tale.send(made(tale.fleet.policy, sent))


# --------------------------------------------------------------------------------------------- by example

UP, DOWN = HYPERVISORS
ANYONE = our.EVERYBODY
HTTPS = PortRange(443, 443)


def rule(number: int, direction: Direction, protocol: Protocol, ports: PortRange, peer: Peer = ANYONE) -> Rule:
    return Rule(direction, protocol, ports, peer, number)


def one_droplet(*rules: Rule) -> Policy:
    """Droplet 1 with one port, behind one firewall."""
    draft = Policy().edit()
    draft.put(Hypervisor(UP, "a1", ("uplink*",)))
    draft.put(Hypervisor(DOWN, "a2", ("uplink*",)))
    draft.put(Droplet(1))
    draft.put(Port("p1", 1, UP, "vm1", None, "02:00:00:00:00:01", ("10.0.0.1", "fd00::1"), slot=1))
    inbound = tuple(rule for rule in rules if rule.direction is Direction.INBOUND)
    outbound = tuple(rule for rule in rules if rule.direction is Direction.OUTBOUND)
    draft.put(Firewall("f", "default", "fw", inbound, outbound, (1,)))
    return draft.done()


def packet(protocol: Protocol, sport: int, dport: int, *, leaves: bool) -> Packet:
    ends = [(address("10.0.0.1"), "p1"), (address("192.0.2.7"), None)]
    (source, sender), (destination, receiver) = ends if leaves else ends[::-1]
    return Packet(source, destination, protocol, sport, dport, sender, receiver)


def framed(policy: Policy, sent: Packet, flags: int = 0) -> Sent:
    return Sent(sent, our.frame_of(policy, sent, flags))


def test_a_syn_of_the_answering_side_does_not_revive_a_revoked_connection() -> None:
    """Conntrack calls such a SYN +new, though it knows the connection; it must not pass as its other side's SYN."""
    inbound = rule(1, Direction.INBOUND, Protocol.TCP, HTTPS)
    before = one_droplet(inbound, rule(2, Direction.OUTBOUND, Protocol.TCP, HTTPS))
    after = one_droplet(inbound)
    tale = Tale(Rulings())
    tale.follow(before)
    assert tale.send(framed(before, packet(Protocol.TCP, 1000, 443, leaves=True), SYN)).outside
    tale.follow(after)
    for flags in (SYN, ACK):
        answer = framed(after, packet(Protocol.TCP, 443, 1000, leaves=False), flags)
        assert tale.send(answer).reached == ()
    assert not tale.send(framed(after, packet(Protocol.TCP, 1000, 443, leaves=True), ACK)).outside


def test_a_revoked_connection_stops_in_both_directions_at_once() -> None:
    """Each direction by itself: neither waits for a packet of the other."""
    allowed = rule(1, Direction.INBOUND, Protocol.UDP, PortRange(53, 53))
    there, back = packet(Protocol.UDP, 1000, 53, leaves=False), packet(Protocol.UDP, 53, 1000, leaves=True)
    for first in (there, back):
        tale = Tale(Rulings())
        policy = one_droplet(allowed)
        tale.follow(policy)
        assert tale.send(framed(policy, there)).reached
        assert tale.send(framed(policy, back)).outside
        tale.follow(one_droplet())
        delivery = tale.send(framed(policy, first))
        assert not delivery.reached
        assert not delivery.outside
        tale.follow(policy)  # and when the rule returns, so does the connection
        assert tale.send(framed(policy, back)).outside


def test_an_icmp_error_stops_with_the_connection_that_it_is_about() -> None:
    policy = one_droplet(rule(1, Direction.OUTBOUND, Protocol.UDP, PortRange(53, 53)))
    tale = Tale(Rulings())
    tale.follow(policy)
    query = framed(policy, packet(Protocol.UDP, 1000, 53, leaves=True))
    assert tale.send(query).outside
    assert tale.send(our.error(policy, query)).reached
    tale.follow(one_droplet())
    assert not tale.send(our.error(policy, query)).reached


# --------------------------------------------------------------------------------------------- spoofing


@given(st.data())
def test_a_droplet_sends_only_as_itself(data: st.DataObject) -> None:
    """A frame with another MAC, another source address or a VLAN tag reaches nobody, whatever the rules say."""
    fleet = Fleet(SITE, Rulings())
    fleet.follow(data.draw(our.policies()))
    ports = [fleet.policy.ports[name] for name in sorted(plugged(fleet))]
    if not ports:
        return
    port = data.draw(st.sampled_from(ports))
    receiver = data.draw(st.sampled_from([None, *sorted(set(fleet.policy.ports) - {port.id})]))
    own = data.draw(st.sampled_from(port.networks)).first
    version = own.version
    to = our.network("192.0.2.7" if version == 4 else "2001:db8::1").first
    sent = framed(fleet.policy, Packet(own, to, Protocol.UDP, 1000, 42, port.id, receiver))
    match data.draw(st.sampled_from(("mac", "source", "vlan"))):
        case "mac":
            liar = data.draw(st.sampled_from([our.OUTSIDE_MAC, sent.frame.eth_src ^ 1, sent.frame.eth_src ^ 1 << 40]))
            frame = replace(sent.frame, eth_src=liar)
        case "source":
            edges = [one for one in our.edges(port.networks) if one.version == version]
            beside = [one for one in edges if not any(net.covers(one) for net in port.networks)]
            liar = data.draw(st.sampled_from(beside))
            assert decide(fleet.policy, replace(sent.packet, source=liar)).verdict is Verdict.DROP
            frame = replace(sent.frame, src=liar.value)
        case "vlan":
            frame = replace(sent.frame, vlan=data.draw(st.sampled_from((0, 1, 5, 4095))))
    delivery = fleet.send(port, frame)
    assert not delivery.reached, delivery
    assert not delivery.outside, delivery
