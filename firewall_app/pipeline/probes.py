"""Which packets tell whether a hypervisor's flows do what a policy means.

Around every boundary of every rule that is in force on the hypervisor: its ports and the ones beside them, its
protocol and the others, the addresses that it names and the ones just outside; from the uplinks and from every droplet
here; and what droplets and strangers may not send at all.  That is a product of short lists (a `Block`), so that it can
be sampled without being written out.

Edge: opening packets of IP only, untagged and whole; what follows them is `conform.py`'s.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..policy.decide import Packet
from ..policy.model import Address, Direction, Firewall, Network, Port, PortRules, Protocol, Rule, address, mac_number
from ..policy.policy import Policy
from .compile import peer_networks
from .flow import ETH_IP, ETH_IPV6, IP_ICMP, IP_ICMP6, IP_TCP, IP_UDP
from .tracker import SYN, Frame

SOURCE_PORT = 40000
GRE = 47
VERSIONS = (4, 6)
SOMEONE = {4: address("198.51.100.77"), 6: address("2001:db8:ffff::77")}  # a host that no rule is likely to name
MOST_FAR_DROPLETS = 20  # of other hypervisors, tried with each rule beside those that the rule names


@dataclass(frozen=True)
class Wiring:
    """What is plugged into a bridge: OpenFlow numbers of its ports."""

    droplets: Mapping[str, int]  # by port id
    uplinks: tuple[int, ...]
    strangers: tuple[int, ...] = ()


class End(NamedTuple):
    """Where a packet comes from or goes to."""

    address: Address
    mac: int
    ofport: int
    port: str | None = None  # the droplet port here; None is the world outside
    stranger: bool = False  # a switch port that is neither a droplet's nor an uplink


class Service(NamedTuple):
    protocol: Protocol | int
    port: int = 0


class Case(NamedTuple):
    """A packet that would open something, and why it is tried."""

    why: str
    source: End
    target: End
    service: Service
    own_mac: bool = True  # whether the sender's MAC is its own

    @property
    def packet(self) -> Packet:
        """As the policy sees it."""
        has_ports = self.service.protocol in (Protocol.TCP, Protocol.UDP)
        return Packet(
            self.source.address, self.target.address, self.service.protocol,
            SOURCE_PORT if has_ports else 0, self.service.port,
            self.source.port, self.target.port, None if self.own_mac else mac_text(self.source.mac),
        )  # fmt: skip

    @property
    def frame(self) -> Frame:
        """As the switch sees it."""
        return frame_of(self.packet, self.source.mac, self.target.mac, SYN)


def mac_text(number: int) -> str:
    return number.to_bytes(6, "big").hex(":")


def frame_of(packet: Packet, source: int, target: int, flags: int = 0, answer: bool = False) -> Frame:
    """The frame of a packet between two MACs; `answer`: an ICMP echo reply instead of a request."""
    version = packet.source.version
    is_icmp = packet.protocol is Protocol.ICMP
    return Frame(
        eth_src=source,
        eth_dst=target,
        eth_type=ETH_IP if version == 4 else ETH_IPV6,
        src=packet.source.value,
        dst=packet.destination.value,
        proto=_number(packet.protocol, version),
        sport=packet.source_port,
        dport=packet.destination_port,
        flags=flags if packet.protocol is Protocol.TCP else 0,
        icmp_type={4: (8, 0), 6: (128, 129)}[version][answer] if is_icmp else 0,
        icmp_id=7 if is_icmp else 0,
    )


def _number(protocol: Protocol | int, version: int) -> int:
    match protocol:
        case Protocol.TCP:
            return IP_TCP
        case Protocol.UDP:
            return IP_UDP
        case Protocol.ICMP:
            return IP_ICMP if version == 4 else IP_ICMP6
        case int():
            return protocol


# --------------------------------------------------------------------------------------------- blocks


@dataclass(frozen=True)
class Block:
    """Every source with every target and every service; all of one IP version."""

    why: str
    sources: Sequence[End]
    targets: Sequence[End]
    services: Sequence[Service]
    own_mac: bool = True

    def __len__(self) -> int:
        return len(self.sources) * len(self.targets) * len(self.services)

    def __getitem__(self, index: int) -> Case:
        rest, source = divmod(index, len(self.sources))
        service, target = divmod(rest, len(self.targets))
        return Case(self.why, self.sources[source], self.targets[target], self.services[service], self.own_mac)


def sample(blocks: Sequence[Block], most: int, seed: int) -> list[Case]:
    """Cases of the blocks, at most so many; when that is not all, of each block as many as of any other."""
    rng = random.Random(seed)  # noqa: S311 - not for secrets: the same seed is to give the same cases
    found: list[Case] = []
    for block, number in zip(blocks, _shares([len(block) for block in blocks], most, rng), strict=True):
        chosen = range(len(block)) if number == len(block) else sorted(rng.sample(range(len(block)), number))
        found += (block[index] for index in chosen)
    # From an address to itself is a tuple that is its own reverse; no tracker can tell the answer from the question.
    return [case for case in found if case.source.address != case.target.address]


def _shares(sizes: Sequence[int], most: int, rng: random.Random) -> list[int]:
    """How many to take of each, so that none has less than another unless it is taken whole."""
    shares, left = [0] * len(sizes), most
    # In random order among equals, so that when there is not one for each it is not always the last that go without.
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i], rng.random()))
    for position, i in enumerate(order):
        share = -(-left // (len(order) - position))
        shares[i] = min(sizes[i], share, left)
        left -= shares[i]
    return shares


def blocks(policy: Policy, wiring: Wiring, seed: int = 0) -> list[Block]:
    """All that there is to try on a hypervisor."""
    return list(_Prober(policy, wiring, seed).blocks())


class _Prober:
    """One hypervisor's blocks."""

    def __init__(self, policy: Policy, wiring: Wiring, seed: int) -> None:
        self.policy, self.wiring = policy, wiring
        self.outside_mac = _free_mac(policy)
        self.someone = {version: [self.outside(SOMEONE[version])] for version in VERSIONS}
        self.here = {version: [end for port in self.ports() for end in self.own(port, version)] for version in VERSIONS}
        rng = random.Random(seed)  # noqa: S311 - as above
        far = sorted(set(policy.ports) - set(wiring.droplets))
        self.far = {
            version: [
                self.outside(own.first, mac_number(policy.ports[port_id].mac))
                for port_id in rng.sample(far, min(len(far), MOST_FAR_DROPLETS))
                for own in policy.ports[port_id].networks
                if own.version == version
            ]
            for version in VERSIONS
        }
        self._near: dict[tuple[int, int], list[End]] = {}

    def ports(self) -> list[Port]:
        return [self.policy.ports[port_id] for port_id in self.wiring.droplets]

    def blocks(self) -> Iterator[Block]:
        for port in self.ports():
            for version in VERSIONS:
                yield from self._about(port, version)
        for version in VERSIONS:
            # A stranger does best to look like somebody who may.
            like = (self.here[version] or self.someone[version])[0]
            strangers = [End(like.address, like.mac, number, stranger=True) for number in self.wiring.strangers]
            targets = self.here[version] + self.someone[version]
            yield Block("a switch port that nobody registered", strangers, targets, _ANY_SERVICES)

    def _about(self, port: Port, version: int) -> Iterator[Block]:
        own = self.own(port, version)
        # A frame for its MAC reaches a droplet whatever the address says.
        targets = own or [self._at(port, SOMEONE[version])]
        others = [end for end in self.here[version] if end.port != port.id] + self.far[version]
        around = self.someone[version] + others
        yield Block(f"into {port.id}", around, targets, _ANY_SERVICES)
        yield Block(f"out of {port.id}", own, around, _ANY_SERVICES)
        for rule_set in self.policy.rule_sets_of(port):
            for rule in rule_set.rules:
                why, services = f"{_name(rule_set)}: {rule_text(rule)}", _services(rule)
                for peers in (self.near(rule_set.account, rule, version), around):
                    if rule.direction is Direction.INBOUND:
                        yield Block(why, peers, targets, services)
                    else:
                        yield Block(why, own, peers, services)
        yield from self._spoofs(port, version, around)

    def _spoofs(self, port: Port, version: int, around: list[End]) -> Iterator[Block]:
        """What is sent under another's address or MAC."""
        beside = [one for net in port.networks if net.version == version for one in edges(net)]
        claimed = dict.fromkeys([*beside, *(end.address for end in around)])
        others = [self._at(port, one) for one in claimed if not any(net.covers(one) for net in port.networks)]
        yield Block(f"{port.id} under another's address", others, around, _ANY_SERVICES)
        macs = [end._replace(mac=mac) for end in self.own(port, version) for mac in (end.mac ^ 1, self.outside_mac)]
        yield Block(f"{port.id} under another MAC", macs, around, _ANY_SERVICES, own_mac=False)

    def near(self, account: str, rule: Rule, version: int) -> list[End]:
        """The edges of what a rule's peer stands for, as addresses of the world outside."""
        found = self._near.get((id(rule), version))
        if found is None:
            networks = [net for net in peer_networks(self.policy, account, rule) if net.version == version]
            found = [self.outside(one) for one in dict.fromkeys(one for net in networks for one in edges(net))]
            self._near[id(rule), version] = found
        return found

    def own(self, port: Port, version: int) -> list[End]:
        """A droplet port here, under its own addresses."""
        networks = [net for net in port.networks if net.version == version]
        return [self._at(port, one) for one in dict.fromkeys(one for net in networks for one in (net.first, net.last))]

    def _at(self, port: Port, where: Address) -> End:
        return End(where, mac_number(port.mac), self.wiring.droplets[port.id], port.id)

    def outside(self, where: Address, mac: int | None = None) -> End:
        uplink = self.wiring.uplinks[where.value % len(self.wiring.uplinks)]
        return End(where, self.outside_mac if mac is None else mac, uplink)


_ANY_SERVICES = tuple(
    Service(*pair)
    for pair in ((Protocol.TCP, 22), (Protocol.UDP, 53), (Protocol.ICMP, 0), (GRE, 0), (Protocol.TCP, 65535))
)


def _services(rule: Rule) -> tuple[Service, ...]:
    """The edges of a rule's ports, and the other protocols."""
    first, last = rule.ports.first, rule.ports.last
    found = [Service(rule.protocol)]
    if rule.protocol is not Protocol.ICMP:
        at = dict.fromkeys((first - 1, first, (first + last) // 2, last, last + 1))
        found = [Service(rule.protocol, port) for port in at if 0 <= port <= 0xFFFF]
    others = [other for other in Protocol if other is not rule.protocol]
    return (*found, *(Service(other, 0 if other is Protocol.ICMP else first) for other in others), Service(GRE))


def edges(net: Network) -> list[Address]:
    """The first and the last address of a prefix, and the ones beside it."""
    values = (net.first.value, net.last.value, net.first.value - 1, net.last.value + 1)
    return [Address(net.version, value) for value in dict.fromkeys(values) if 0 <= value < 1 << net.bits]


def _free_mac(policy: Policy) -> int:
    """A MAC that no droplet has."""
    taken = {mac_number(port.mac) for port in policy.ports.values()}
    return next(mac for mac in range(0x02_00_5E_00_53_01, 1 << 48) if mac not in taken)


def _name(owner: Firewall | PortRules) -> str:
    return f"firewall {owner.name}" if isinstance(owner, Firewall) else f"the rules of port {owner.port_id}"


def rule_text(rule: Rule) -> str:
    """A rule in one line, its peers in short."""
    peer = rule.peer
    names = [*peer.addresses, *(f"droplet {i}" for i in peer.droplet_ids), *(f"tag {tag}" for tag in peer.tags)]
    names += peer.external_uids
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nobody"
    ports = "" if rule.protocol is Protocol.ICMP else " all ports" if rule.ports.is_every else f" {rule.ports}"
    side = "from" if rule.direction is Direction.INBOUND else "to"
    return f"{rule.direction.value} {rule.protocol.value}{ports} {side} {shown}"
