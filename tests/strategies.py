"""Random policies, and packets near the edges of their rules.

The universe is small on purpose: few addresses, few ports, few names, so that rules overlap, tags are shared between
droplets and spelled differently, and a change meets connections that live.  The hardware never changes: two
hypervisors whose switch ports are all there but one.

Not drawn, since infrastructure passes without a rule (test_pipeline_compile.py tests it): UDP from 68 to 67 and back,
from 546 to 547 and back, neighbour discovery.  Nor what table 0 refuses because it hides what it is: IPv6 packets of
protocol 0, or from port 0 to port 0.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, TypeVar

from fleet import Site
from hypothesis import assume
from hypothesis import strategies as st

from firewall_app.pipeline.flow import ETH_IP, ETH_IPV6, IP_ICMP, IP_ICMP6, IP_TCP, IP_UDP
from firewall_app.pipeline.tracker import ACK, PSH, SYN, Frame
from firewall_app.policy.decide import Packet
from firewall_app.policy.model import (
    Address,
    Direction,
    Droplet,
    Entity,
    ExternalPeer,
    Firewall,
    Hypervisor,
    Network,
    Peer,
    Port,
    PortRange,
    PortRules,
    Protocol,
    Rule,
    Tag,
    mac_number,
    network,
)
from firewall_app.policy.policy import Draft, Policy

# --------------------------------------------------------------------------------------------- the universe

HYPERVISORS = ("00000000000000a1", "00000000000000a2")
UPLINK = 1
SITE = Site(
    interfaces={
        HYPERVISORS[0]: {1: "uplink0", 11: "vm1", 12: "vm2", 13: "vm3", 14: "vm4"},
        HYPERVISORS[1]: {1: "uplink0", 11: "vm1", 12: "vm2", 14: "vm4"},  # vm3 is unplugged
    },
    uplinks=dict.fromkeys(HYPERVISORS, UPLINK),
)
OUTSIDE_MAC = 0x02_00_00_00_00_FE

ACCOUNTS = ("acme", "umbrella")
TAGS = ("web", "Web", "WEB", "db")
ADDRESSES = (
    "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.6", "10.0.0.4/30", "10.0.0.0/29",
    "fd00::1", "fd00::2", "fd00::4/126",
)  # fmt: skip
PEERS = (
    *ADDRESSES, "0.0.0.0/0", "::/0", "10.0.0.0/30", "10.0.0.5", "192.0.2.7", "192.0.2.6/31", "128.0.0.0/1",
    "fd00::/125", "2001:db8::1", "fe80::/10",
)  # fmt: skip
RANGES = (
    (42, 42), (0, 0), (65535, 65535), (0, 65535), (1, 65535), (1, 1), (7, 8), (42, 43), (100, 1000), (0, 41),
    (65533, 65535), (1, 2), (2, 65535), (43, 998),
)  # fmt: skip
UIDS = ("lb-1", "LB-1", "k8s-1")
SOURCE_PORTS = (0, 42, 1000, 65535)
OTHER_PROTOCOLS = (2, 47, 132)  # IGMP, GRE, SCTP

account = st.sampled_from(ACCOUNTS)
droplet_ids = st.integers(1, 4)
tag_sets = st.lists(st.sampled_from(TAGS), max_size=2, unique_by=str.lower).map(tuple)
ranges = st.sampled_from([*(PortRange(*pair) for pair in RANGES), PortRange.parse("42-42")])
uids = st.lists(st.sampled_from(UIDS), max_size=2, unique=True).map(tuple)

EVERYBODY = Peer(addresses=("0.0.0.0/0", "::/0"))
peers = st.one_of(
    st.just(EVERYBODY),
    st.lists(st.sampled_from(PEERS), max_size=3).map(lambda found: Peer(addresses=tuple(found))),
    st.lists(st.sampled_from(PEERS), min_size=7, unique=True).map(lambda found: Peer(addresses=tuple(found))),
    st.lists(droplet_ids, min_size=1, max_size=2, unique=True).map(lambda found: Peer(droplet_ids=tuple(found))),
    tag_sets.map(lambda found: Peer(tags=found)),
    st.sampled_from(UIDS).map(lambda uid: Peer(load_balancer_uids=(uid,))),
    st.builds(
        Peer,
        addresses=st.lists(st.sampled_from(PEERS), max_size=1).map(tuple),
        droplet_ids=st.lists(droplet_ids, max_size=1).map(tuple),
        tags=tag_sets,
        load_balancer_uids=uids,
        kubernetes_ids=uids,
    ),
)


@st.composite
def rules(draw: st.DrawFn, direction: Direction) -> Rule:
    protocol = draw(st.sampled_from(Protocol))
    ports = PortRange.every() if protocol is Protocol.ICMP else draw(ranges)
    return Rule(direction, protocol, ports, draw(peers))


@st.composite
def rule_lists(draw: st.DrawFn, direction: Direction, old: tuple[Rule, ...] = ()) -> tuple[Rule, ...]:
    """Rules; of those that a set had before, some stay."""
    kept = [rule for rule in old if draw(st.booleans())]
    new = draw(st.lists(rules(direction), max_size=2 if old else 3))
    return (*kept, *(rule for rule in dict.fromkeys(new) if rule not in kept))


# --------------------------------------------------------------------------------------------- entities


@st.composite
def droplets(draw: st.DrawFn, policy: Policy) -> Droplet:
    number = draw(droplet_ids)
    old = policy.droplets.get(number)
    return Droplet(number, old.account if old else draw(account), tags=draw(tag_sets))


@st.composite
def external_peers(draw: st.DrawFn, policy: Policy) -> ExternalPeer:
    uid = draw(st.sampled_from(UIDS))
    old = policy.external_peers.get(uid.lower())
    return ExternalPeer(
        uid,
        old.account if old else draw(account),
        addresses=tuple(draw(st.lists(st.sampled_from(PEERS), max_size=2))),
        droplet_ids=tuple(draw(st.lists(droplet_ids, max_size=2))),
    )


@st.composite
def ports(draw: st.DrawFn, policy: Policy) -> Port:
    """A port of a droplet that exists, at a switch port that no other port has."""
    number = draw(st.integers(1, 5))
    name = f"p{number}"
    old = policy.ports.get(name)
    taken = {(port.hypervisor, port.interface or f"vm{(port.number or 0) - 10}") for port in policy.ports.values()}
    taken -= {(old.hypervisor, old.interface or f"vm{(old.number or 0) - 10}")} if old else set()
    spots = [(dpid, f"vm{i}") for dpid in HYPERVISORS for i in range(1, 5) if (dpid, f"vm{i}") not in taken]
    dpid, interface = draw(st.sampled_from(spots))
    by_number = draw(st.booleans())
    return Port(
        name,
        old.droplet_id if old else draw(st.sampled_from(sorted(policy.droplets))),
        dpid,
        None if by_number else interface,
        int(interface[2:]) + 10 if by_number else None,
        f"02:00:00:00:00:{number:02x}",
        tuple(draw(st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=3, unique=True))),
    )


@st.composite
def firewalls(draw: st.DrawFn, policy: Policy) -> Firewall:
    name = draw(st.sampled_from(("fw-1", "fw-2", "fw-3")))
    old = policy.firewalls.get(name)
    return Firewall(
        name,
        old.account if old else draw(account),
        name,
        draw(rule_lists(Direction.INBOUND, old.inbound_rules if old else ())),
        draw(rule_lists(Direction.OUTBOUND, old.outbound_rules if old else ())),
        draw(st.lists(droplet_ids, max_size=3, unique=True).map(tuple)),
        draw(tag_sets),
    )


@st.composite
def port_rule_sets(draw: st.DrawFn, policy: Policy) -> PortRules:
    port = policy.ports[draw(st.sampled_from(sorted(policy.ports)))]
    old = policy.port_rules.get(port.id)
    return PortRules(
        port.id,
        policy.droplets[port.droplet_id].account,
        draw(rule_lists(Direction.INBOUND, old.inbound_rules if old else ())),
        draw(rule_lists(Direction.OUTBOUND, old.outbound_rules if old else ())),
    )


# --------------------------------------------------------------------------------------------- policies

Owner = TypeVar("Owner", Firewall, PortRules)


def put(draft: Draft, entity: Entity) -> None:
    """Adds or replaces an entity as the service does: rules that stay keep their id, a port keeps its slot."""
    now = draft.peek()
    match entity:
        case Firewall():
            entity = _numbered(draft, entity, now.firewalls.get(entity.id))
        case PortRules():
            entity = _numbered(draft, entity, now.port_rules.get(entity.port_id))
        case Port():
            old = now.ports.get(entity.id)
            # A port that moves is another zone: the old one is flushed, and rests before it is used again.
            stays = old is not None and old.hypervisor == entity.hypervisor
            entity = replace(entity, slot=old.slot if old is not None and stays else draft.new_slot())
        case _:
            pass
    draft.put(entity)


def _numbered(draft: Draft, new: Owner, old: Owner | None) -> Owner:
    known = {rule: rule.id for rule in old.rules} if old is not None else {}

    def number(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        return tuple(replace(rule, id=known.get(rule) or draft.new_rule_id()) for rule in rules)

    return replace(new, inbound_rules=number(new.inbound_rules), outbound_rules=number(new.outbound_rules))


def drop(draft: Draft, entity: Entity) -> None:
    """Removes an entity and what cannot be without it; rules and firewalls may go on naming a droplet that is gone."""
    now = draft.peek()
    if isinstance(entity, Droplet):
        for port_id in now.ports_of.get(entity.id, ()):
            drop(draft, now.ports[port_id])
    if isinstance(entity, Port) and entity.id in now.port_rules:
        draft.drop(now.port_rules[entity.id])
    draft.drop(entity)


@st.composite
def policies(draw: st.DrawFn, base: Policy | None = None) -> Policy:
    """A whole policy; numbers that are given out once go on from `base`."""
    draft = Policy(counters=base.counters).edit() if base is not None else Policy().edit()
    for dpid in HYPERVISORS:
        draft.put(Hypervisor(dpid, dpid[-2:], ("uplink*",)))
    for owner in ACCOUNTS:
        for name in TAGS:
            draft.put(Tag(owner, name))
    for _ in range(draw(st.integers(1, 4))):
        put(draft, draw(droplets(draft.peek())))
    for _ in range(draw(st.integers(1, 5))):
        put(draft, draw(ports(draft.peek())))
    for _ in range(draw(st.integers(0, 3))):
        put(draft, draw(firewalls(draft.peek())))
    for _ in range(draw(st.integers(0, 1))):
        put(draft, draw(port_rule_sets(draft.peek())))
    for _ in range(draw(st.integers(0, 2))):
        put(draft, draw(external_peers(draft.peek())))
    return draft.done()


@st.composite
def edits(draw: st.DrawFn, policy: Policy) -> Draft:
    """One change of a policy, as a draft."""
    draft = policy.edit()
    kinds = ["firewall", "firewall", "firewall", "firewall", "droplet", "external peer"]
    kinds += ["port"] if policy.droplets else []
    kinds += ["port rules"] if policy.ports else []
    held: list[Entity] = [
        entity
        for table in (policy.firewalls, policy.port_rules, policy.ports, policy.droplets, policy.external_peers)
        for entity in table.values()
    ]
    kinds += ["drop"] if held else []
    match draw(st.sampled_from(kinds)):
        case "firewall":
            put(draft, draw(firewalls(policy)))
        case "droplet":
            put(draft, draw(droplets(policy)))
        case "external peer":
            put(draft, draw(external_peers(policy)))
        case "port":
            put(draft, draw(ports(policy)))
        case "port rules":
            put(draft, draw(port_rule_sets(policy)))
        case "drop":
            drop(draft, draw(st.sampled_from(held)))
    return draft


# --------------------------------------------------------------------------------------------- packets


class Sent(NamedTuple):
    """A packet as the policy sees it, and the frame that it travels in."""

    packet: Packet
    frame: Frame


def edges(networks: tuple[Network, ...]) -> list[Address]:
    """The first and the last address of each prefix, and the ones beside it."""
    found: list[Address] = []
    for net in networks:
        top = (1 << net.bits) - 1
        values = (net.first.value, net.last.value, net.first.value - 1, net.last.value + 1)
        found += [Address(net.version, value) for value in values if 0 <= value <= top]
    return list(dict.fromkeys(found))


@st.composite
def openings(draw: st.DrawFn, policy: Policy, plugged: frozenset[str]) -> Sent:
    """A packet that opens something, mostly near a rule that is in force; `plugged`: ports that can send.

    There must be a port.
    """
    senders: list[str | None] = [None, *sorted(plugged)]
    receivers: list[str | None] = [None, *sorted(policy.ports)]
    in_force = [
        (port.id, rule, near)
        for _, port in sorted(policy.ports.items())
        for owner in policy.rule_sets_of(port)
        for rule in owner.rules
        if (near := _named(policy, owner.account, rule)) and (rule.direction is Direction.INBOUND or port.id in plugged)
    ]
    sender, rule, near = None, None, tuple(network(text) for text in PEERS)
    if in_force and draw(st.integers(0, 7)):
        end, rule, near = draw(st.sampled_from(in_force))
        if rule.direction is Direction.OUTBOUND:
            sender = end
            receiver = draw(st.sampled_from([end for end in receivers if end != sender]))
        else:
            receiver = end
            sender = draw(st.sampled_from([end for end in senders if end != receiver]))
    else:
        sender = draw(st.sampled_from(senders if len(receivers) > 2 else senders[:1]))
        receiver = draw(st.sampled_from([end for end in receivers if end != sender]))
    version = draw(st.sampled_from(sorted({net.version for net in near})))
    source = draw(_address(policy, sender, near, version))
    destination = draw(_address(policy, receiver, near, version))
    # "From itself to itself" (the LAND attack) has a tuple that may be its own reverse, and then no tracker can say
    # which packet is the answer.  The simulated one calls each an opening, which is stricter than decide().
    assume(source != destination)
    kinds: list[Protocol | int] = [rule.protocol] * 8 if rule else []
    protocol = draw(st.sampled_from([*kinds, *Protocol, *OTHER_PROTOCOLS]))
    sport = dport = 0
    if protocol in (Protocol.TCP, Protocol.UDP):
        sport = draw(st.sampled_from(SOURCE_PORTS))
        limits = rule.ports if rule else draw(ranges)
        at = (limits.first, limits.last, limits.first, limits.last, limits.first - 1, limits.last + 1)
        dport = draw(st.sampled_from([port for port in at if 0 <= port <= 0xFFFF]))
        if sport == dport == 0:
            sport = 42  # table 0 takes it for a fragment without its transport header
    packet = Packet(source, destination, protocol, sport, dport, sender, receiver)
    return Sent(packet, frame_of(policy, packet, flags=SYN))


def _named(policy: Policy, account: str, rule: Rule) -> tuple[Network, ...]:
    """What a rule's peer stands for now."""
    ports = (
        policy.ports[i] for droplet in policy.peer_droplets(account, rule) for i in policy.ports_of.get(droplet, ())
    )
    mapped = (net for one in policy.external_peers_of(account, rule) for net in one.networks)
    return rule.peer.networks + tuple(sorted({*mapped, *(own for port in ports for own in port.networks)}))


@st.composite
def _address(draw: st.DrawFn, policy: Policy, end: str | None, near: tuple[Network, ...], version: int) -> Address:
    """For a droplet mostly one that it has, for the world one at the edge of what the rule names."""
    beside = [one for one in edges(near) if one.version == version]
    if end is not None and draw(st.integers(0, 9)):
        own = [one for net in policy.ports[end].networks for one in (net.first, net.last) if one.version == version]
        named = [one for one in own if any(net.covers(one) for net in near)]
        return draw(st.sampled_from(named if named and draw(st.integers(0, 3)) else own or [_other(version)]))
    inside = [one for one in beside if any(net.covers(one) for net in near)]
    return draw(st.sampled_from(inside if draw(st.booleans()) else beside))


def _other(version: int) -> Address:
    return network("198.51.100.1" if version == 4 else "2001:db8::99").first


def mac_of(policy: Policy, end: str | None) -> int:
    return OUTSIDE_MAC if end is None else mac_number(policy.ports[end].mac)


def frame_of(policy: Policy, packet: Packet, flags: int = 0, answer: bool = False) -> Frame:
    """The frame of a packet; `answer`: an ICMP echo reply instead of a request."""
    version = packet.source.version
    proto = {
        Protocol.TCP: IP_TCP, Protocol.UDP: IP_UDP, Protocol.ICMP: IP_ICMP if version == 4 else IP_ICMP6,
    }.get(packet.protocol, packet.protocol)  # type: ignore[call-overload]  # fmt: skip
    frame = Frame(
        eth_src=mac_of(policy, packet.sender) if packet.source_mac is None else mac_number(packet.source_mac),
        eth_dst=mac_of(policy, packet.receiver),
        eth_type=ETH_IP if version == 4 else ETH_IPV6,
        src=packet.source.value,
        dst=packet.destination.value,
        proto=proto,
    )
    if packet.protocol is Protocol.ICMP:
        kinds = {4: (8, 0), 6: (128, 129)}[version]
        return replace(frame, icmp_type=kinds[answer], icmp_id=7)
    if packet.protocol in (Protocol.TCP, Protocol.UDP):
        flags = flags if packet.protocol is Protocol.TCP else 0
        return replace(frame, sport=packet.source_port, dport=packet.destination_port, flags=flags)
    return frame


def again(policy: Policy, sent: Sent) -> Sent:
    """One more packet in the same direction."""
    answer = sent.frame.icmp_type in (0, 129)
    return Sent(sent.packet, frame_of(policy, sent.packet, ACK | PSH, answer))


def reply(policy: Policy, sent: Sent) -> Sent:
    """The packet that answers: SYN+ACK to a SYN, an echo reply to a request."""
    packet = sent.packet.reply()
    flags = SYN | ACK if sent.frame.flags == SYN else ACK | PSH
    return Sent(packet, frame_of(policy, packet, flags, answer=sent.frame.icmp_type in (8, 128)))


def error(policy: Policy, sent: Sent) -> Sent:
    """The ICMP error with which a packet's receiver turns it down: port unreachable."""
    turned = sent.packet.reply()
    version = turned.source.version
    packet = replace(turned, protocol=Protocol.ICMP, source_port=0, destination_port=0)
    kind, code = {4: (3, 3), 6: (1, 4)}[version]
    frame = replace(frame_of(policy, packet), icmp_type=kind, icmp_code=code, icmp_id=0, inner=sent.frame)
    return Sent(packet, frame)
