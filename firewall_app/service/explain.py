"""What the policy says of one packet, why, which rule came nearest, and which flows do it.

The verdict is `policy/decide.py`'s, of a packet that opens a connection.  The flows are found by walking that packet
through what the policy means for the hypervisors on its way, compiled now: no switch is read.

Edge: IP between hosts.  What passes without a rule (ARP, neighbour discovery, DHCP) is listed with each port's rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..pipeline.compile import peer_networks, uplinks_here
from ..pipeline.compile import ports_here as plugged_in
from ..pipeline.flow import Flow
from ..pipeline.plan import units as compiled
from ..pipeline.probes import SOURCE_PORT, frame_of
from ..pipeline.tables import TAG_SET, Kind, cookie_parts
from ..pipeline.tracker import SYN
from ..pipeline.unit import Generation, RuleFlows, SetMembers, Unit, UnitKey
from ..pipeline.walker import Bridge
from ..policy.decide import Check, Decision, Packet, Verdict, decide
from ..policy.errors import Fault, Invalid
from ..policy.model import (
    Address,
    Direction,
    Firewall,
    Port,
    PortRange,
    PortRules,
    Protocol,
    Rule,
    RuleSet,
    link_local,
    mac_number,
    network,
)
from ..policy.policy import Policy
from ..progress import Status
from .core import Core

OUTSIDE_MAC = 0x02_00_00_00_00_FE  # of the router that everything outside comes by; no rule and no guard looks at it
MOST_PACKETS = 64  # that one question may stand for
DHCP = (67, 68, 546, 547)
# This network, loopback, multicast and what is above it: nothing of these travels between hosts.
_NO_HOST = tuple(map(network, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/127", "ff00::/8")))


@dataclass(frozen=True)
class End:
    """Where a packet comes from or goes to, as it is asked for: a droplet, a port or an address; an address beside one
    of the others says which of theirs."""

    droplet_id: int | None = None
    port: str | None = None
    address: Address | None = None


@dataclass(frozen=True)
class Question:
    """May a packet from the one end to the other open a connection?"""

    source: End
    target: End
    protocol: Protocol
    port: int = 0
    source_port: int = SOURCE_PORT


@dataclass(frozen=True)
class Nearest:
    """A rule that does not allow a packet, and by what it misses."""

    rule_set: Firewall | PortRules
    rule: Rule
    misses: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """How a packet fares.  `nearest` has an entry for each check, None where it allows or where there is no rule."""

    policy: Policy
    packet: Packet
    decision: Decision
    nearest: tuple[Nearest | None, ...]
    flows: tuple[tuple[str, Flow], ...]  # each with its hypervisor, in the order in which the packet meets them
    notes: tuple[str, ...]
    others: tuple[tuple[Packet, Decision], ...]  # further packets that were meant and are decided otherwise


def explain(core: Core, question: Question) -> Answer:
    """Explains the first packet that the question stands for; raises Invalid, for names that do not exist too.

    A droplet stands for all its ports, and a port for its first address of each IP version, IPv4 first: every pair
    that can be is decided, and those with another verdict than the first are told.
    """
    policy = core.policy
    packets = _packets(policy, question)
    about = _about(policy, packets)
    decisions = [decide(about, packet, closed=core.rulings.closed) for packet in packets]
    first, decision = packets[0], decisions[0]
    others = [pair for pair in zip(packets, decisions, strict=True) if pair[1].verdict is not decision.verdict]
    return Answer(
        policy,
        first,
        decision,
        tuple(_nearest(policy, about, check, first) for check in decision.checks),
        tuple(_flows(core, policy, first, decision)),
        tuple(_notes(core, policy, question, first)),
        tuple(others),
    )


def _about(policy: Policy, packets: Iterable[Packet]) -> Policy:
    """The policy with no droplets and ports but those that can matter to some packets.

    `decide` looks for peers among all ports of all droplets, which takes minutes where there are many thousands.
    """
    ends = {end for packet in packets for end in (packet.sender, packet.receiver)}
    addresses = {address for packet in packets for address in (packet.source, packet.destination)}
    ports = {
        port.id: port
        for port in policy.ports.values()
        if port.id in ends or any(own.covers(address) for own in port.networks for address in addresses)
    }
    droplets = {port.droplet_id: policy.droplets[port.droplet_id] for port in ports.values()}
    return replace(policy, ports=ports, droplets=droplets)


# ---- which packets are meant


def _packets(policy: Policy, question: Question) -> list[Packet]:
    faults: list[Fault] = []
    ends: list[Sequence[tuple[str | None, Address]]] = []
    for at, end in (("from", question.source), ("to", question.target)):
        try:
            ends.append(_places(policy, at, end))
        except Invalid as error:
            faults += error.faults
    if faults:
        raise Invalid(faults)
    sources, targets = ends
    pairs = [(a, b) for a in sources for b in targets if a[1].version == b[1].version]
    if not pairs:
        raise Invalid.one("to", "has no address of an IP version that 'from' has")
    pairs = [(a, b) for a, b in pairs if a != b and (a[0] is None or a[0] != b[0])]
    if not pairs:
        raise Invalid.one("to", "is the same as 'from'; what one sends to oneself reaches no switch")
    if len(pairs) > MOST_PACKETS:
        raise Invalid.one("", f"stands for {len(pairs)} pairs of addresses; name ports or addresses")
    has_ports = question.protocol is not Protocol.ICMP
    sport, dport = (question.source_port, question.port) if has_ports else (0, 0)
    return [Packet(a, b, question.protocol, sport, dport, sender, receiver) for (sender, a), (receiver, b) in pairs]


def _places(policy: Policy, at: str, end: End) -> Sequence[tuple[str | None, Address]]:
    """The ports and addresses that an end stands for; no port is the world outside."""
    address = end.address
    if address is not None and any(net.covers(address) for net in _NO_HOST):
        raise Invalid.one(f"{at}.address", f"{address} is no address of a host")
    if end.port is None and end.droplet_id is None and address is not None:
        return [(_holder(at, address, policy.ports.values(), outside=True), address)]
    if end.port is not None:
        if end.port not in policy.ports:
            raise Invalid.one(f"{at}.port", f"port {end.port} does not exist")
        ports = [policy.ports[end.port]]
    else:
        if end.droplet_id is None or end.droplet_id not in policy.droplets:
            raise Invalid.one(f"{at}.droplet_id", f"droplet {end.droplet_id} does not exist")
        ports = [policy.ports[i] for i in sorted(policy.ports_of.get(end.droplet_id, ()))]
        if not ports:
            raise Invalid.one(f"{at}.droplet_id", f"droplet {end.droplet_id} has no port")
    if address is None:
        return sorted(((port.id, own) for port in ports for own in _addresses(port)), key=lambda pair: pair[1].version)
    return [(ports[0].id if len(ports) == 1 else _holder(at, address, ports), address)]


def _holder(at: str, address: Address, ports: Iterable[Port], outside: bool = False) -> str | None:
    """The one of some ports that holds an address."""
    found = sorted(port.id for port in ports if any(own.covers(address) for own in port.networks))
    if len(found) == 1 or (outside and not found):
        return found[0] if found else None
    held = f"is held by ports {', '.join(found)}" if found else "is held by no port of the droplet"
    raise Invalid.one(f"{at}.address", f"{address} {held}; name the port")


def _addresses(port: Port) -> list[Address]:
    """A port's first address of each version, hosts before prefixes; the link-local one when there is no other."""
    own = [net for net in port.networks if net != link_local(port.mac).network] or list(port.networks)
    first: dict[int, Address] = {}
    for net in sorted(own, key=lambda net: net.prefix != net.bits):
        # The lowest address of a prefix is rarely a host's.
        first.setdefault(net.version, Address(net.version, net.value + (net.bits - net.prefix > 1)))
    return list(first.values())


# ---- which rule came nearest


def _nearest(policy: Policy, about: Policy, check: Check, packet: Packet) -> Nearest | None:
    """Of the rules by which an end was judged, the one of which the fewest of protocol, ports and peer are off (both of
    the first two between ICMP and others); of several the one whose ports are nearest, then the first."""
    if check.verdict is Verdict.ALLOW:
        return None
    found = [
        (_distance(rule, packet, _names_peer(about, rule_set, rule, check, packet)), rule_set, rule)
        for rule_set in policy.rule_sets_of(policy.ports[check.port_id])
        for rule in rule_set.in_direction(check.direction)
    ]
    if not found:
        return None
    _, rule_set, rule = min(found, key=lambda entry: entry[0])
    return Nearest(rule_set, rule, tuple(_misses(policy, rule_set.account, rule, packet)))


def _distance(rule: Rule, packet: Packet, names_peer: bool) -> tuple[int, int]:
    """How many of protocol, ports and peer are off, and how far the ports are."""
    if rule.protocol is not packet.protocol and Protocol.ICMP in (rule.protocol, packet.protocol):
        return 2 + (not names_peer), 0x10000
    port = packet.destination_port
    gap = 0 if port in rule.ports else max(rule.ports.first - port, port - rule.ports.last)
    return (rule.protocol is not packet.protocol) + (gap > 0) + (not names_peer), gap


def _names_peer(about: Policy, rule_set: RuleSet, rule: Rule, check: Check, packet: Packet) -> bool:
    """Whether a rule names the packet's other end: it does if, alone and for whatever service, it would allow it."""
    assert isinstance(packet.protocol, Protocol)  # noqa: S101 - no question names another
    alone = (replace(rule, protocol=packet.protocol, ports=PortRange.every()),)
    inbound = rule.direction is Direction.INBOUND
    own = PortRules(check.port_id, rule_set.account, alone if inbound else (), () if inbound else alone)
    decision = decide(replace(about, firewalls={}, port_rules={own.port_id: own}), packet)
    return all(other.verdict is Verdict.ALLOW for other in decision.checks if other.port_id == own.port_id)


def _misses(policy: Policy, account: str, rule: Rule, packet: Packet) -> Iterator[str]:
    """Why a rule does not allow a packet."""
    assert isinstance(packet.protocol, Protocol)  # noqa: S101 - no question names another
    if rule.protocol is not packet.protocol:
        yield f"protocol {packet.protocol.value} is not {rule.protocol.value}"
    if Protocol.ICMP not in (rule.protocol, packet.protocol) and packet.destination_port not in rule.ports:
        one = rule.ports.first == rule.ports.last
        yield f"port {packet.destination_port} is {'not' if one else 'outside'} {rule.ports}"
    inbound = rule.direction is Direction.INBOUND
    side, address = ("source", packet.source) if inbound else ("destination", packet.destination)
    named = peer_networks(policy, account, rule)
    if any(net.covers(address) for net in named):
        return
    alike = [net for net in named if net.version == address.version]
    if alike:
        near = min(alike, key=lambda net: (address.value ^ net.value) & net.mask)
        more = f" and {len(alike) - 1} more" if len(alike) > 1 else ""
        yield f"{side} {address} is {'not' if near.prefix == near.bits else 'outside'} {near}{more}"
    elif named:
        yield f"{side} {address} is IPv{address.version}, and the rule names no such address"
    else:
        yield f"the rule names no {side} that exists now"


# ---- which flows do it


def _flows(core: Core, policy: Policy, packet: Packet, decision: Decision) -> Iterator[tuple[str, Flow]]:
    """The flows that the packet meets, less those that every switch has; nothing for a port that is not plugged in."""
    sender, receiver = (policy.ports.get(end) if end else None for end in (packet.sender, packet.receiver))
    frame = frame_of(
        packet,
        mac_number(sender.mac) if sender else OUTSIDE_MAC,
        mac_number(receiver.mac) if receiver else OUTSIDE_MAC,
        SYN,
    )
    hosts = dict.fromkeys(port.hypervisor for port in (sender, receiver) if port)
    for dpid in hosts:
        interfaces = core.progress.report(dpid).interfaces
        here = {port.id: ofport for port, ofport in plugged_in(policy, dpid, interfaces)}
        if sender is not None and sender.hypervisor == dpid:
            enters = here.get(sender.id)
        else:
            uplinks = uplinks_here(policy, dpid, interfaces, core.rulings, taken=set(here.values()))
            enters = uplinks[0] if uplinks and receiver is not None and receiver.id in here else None
        if enters is None:
            return
        bridge = Bridge()
        wanted = compiled(policy, dpid, interfaces, core.rulings)
        bridge.install(flow for unit in _units(wanted, packet, decision) for flow in unit.flows())
        walk = bridge.walk(enters, frame)
        for flow in walk.hits:
            parts = cookie_parts(flow.cookie)
            if parts is not None and parts[0] is not Kind.STATIC:
                yield dpid, flow
        if not walk.outputs:
            return


def _units(wanted: dict[UnitKey, Unit], packet: Packet, decision: Decision) -> Iterator[Unit]:
    """Of what a hypervisor should hold, what this packet meets; of the rules, the one that allows it at each end."""
    keys: list[UnitKey] = []
    for end in (packet.sender, packet.receiver):
        keys += [("guards", f"{end}"), ("protection", f"{end}")]
    for check in decision.checks:
        side = check.direction.value
        keys.append(("rules of", f"{check.port_id} {side}"))
        if check.rule is not None and check.rule_set is not None:
            keys += [("firewall", f"{check.rule_set.number} {side}"), ("rule", f"{check.rule.id}")]
            keys.append(("own set", f"{check.rule.id}"))
            flows = wanted.get(("rule", f"{check.rule.id}"))
            sets = flows.sets if isinstance(flows, RuleFlows) else ()
            asked = {members for members, _ in sets if members.kind == TAG_SET}
            keys += [
                key
                for key, unit in wanted.items()
                if isinstance(unit, SetMembers) and unit.set in asked and unit.direction is check.direction
            ]
    # Last: of two drops of one priority the port's own is to be met.
    keys += [("uplinks", ""), ("static", "")]
    yield from (wanted[key] for key in dict.fromkeys(keys) if key in wanted)
    yield Generation(1)  # whatever it is: a connection that is new has none


# ---- what else to know


def _notes(core: Core, policy: Policy, question: Question, packet: Packet) -> Iterator[str]:
    """Where what happens may differ from the verdict."""
    for at, end, port_id, address in (
        ("from", question.source, packet.sender, packet.source),
        ("to", question.target, packet.receiver, packet.destination),
    ):
        if port_id is None:
            continue
        if end.port is None and end.droplet_id is None:
            yield f"{at}: {address} is an address of port {port_id}, and was taken for it"
        status, error, _, _ = core.progress.port_status(policy, port_id)
        if status is not Status.SUCCEEDED:
            yield f"{at}: port {port_id} is {status.value}" + (f": {error}" if error else "")
    if packet.protocol is Protocol.UDP and (packet.source_port in DHCP or packet.destination_port in DHCP):
        yield "DHCP passes to and from clients without a rule, and no droplet may answer as a server"
