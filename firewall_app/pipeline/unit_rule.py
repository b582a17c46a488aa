"""Units of rules: the rules themselves, the address sets that they name, and which sets a firewall asks.

Cost.  A policy comes to the sum of its parts: a flow for each port and direction, each address of a set, each service
of a rule; not one for each combination.  A rule of few addresses needs no set of its own: it is expanded into one flow
for each address and port mask, when that is fewer.  An address that joins or leaves a tag or an external peer is one
flow for the direction in which it is a source and one for that in which it is a destination.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..policy.model import Direction, Network, PortRange, Protocol
from .flow import (
    CT_INV,
    CT_NEW,
    CT_RPL,
    CT_TRK,
    IP_ICMP,
    IP_ICMP6,
    IP_TCP,
    IP_UDP,
    Action,
    Flow,
    Load,
    Resubmit,
    Value,
    match,
)
from .tables import (
    INBOUND_RULES,
    IS_MEMBER,
    MEMBER,
    NO_SET,
    OUTBOUND_RULES,
    OWN_SET,
    PEERS,
    RULE,
    RULES,
    SET,
    SET_KIND,
    SETS,
    Kind,
    cookie,
)
from .values import eth_type, state

PLAIN = 8  # addresses times port masks of a rule that is expanded in any case

DIRECTIONS = {Direction.INBOUND: INBOUND_RULES, Direction.OUTBOUND: OUTBOUND_RULES}
_IP_PROTOCOL = {
    (Protocol.TCP, 4): IP_TCP, (Protocol.TCP, 6): IP_TCP, (Protocol.UDP, 4): IP_UDP, (Protocol.UDP, 6): IP_UDP,
    (Protocol.ICMP, 4): IP_ICMP, (Protocol.ICMP, 6): IP_ICMP6,
}  # fmt: skip


class AddressSet(NamedTuple):
    """A set as switches know it."""

    kind: int  # OWN_SET or TAG_SET
    number: int  # id of the rule, or number of the tag or external peer


def is_plain(networks: tuple[Network, ...], protocol: Protocol, ports: PortRange) -> bool:
    """Whether a rule of these addresses is expanded, one flow for each address and port mask."""
    masks = _masks(protocol, ports)
    versions = len({network.version for network in networks})
    expanded = len(networks) * masks
    return expanded <= PLAIN or expanded <= len(networks) + masks * versions


def _masks(protocol: Protocol, ports: PortRange) -> int:
    return 1 if protocol is Protocol.ICMP or ports.is_every else len(ports.masks())


def _peer(direction: Direction, network: Network) -> dict[str, Value]:
    """The peer's side of a packet that opens a connection."""
    side = "src" if direction is Direction.INBOUND else "dst"
    return {f"ipv{network.version}_{side}": (network.value, network.mask)}


@dataclass(frozen=True)
class RuleFlows:
    """What one rule allows: to addresses that it spells out, and to the members of sets."""

    rule_id: int
    firewall: int  # its number
    direction: Direction
    protocol: Protocol
    ports: PortRange
    networks: tuple[Network, ...]
    sets: tuple[tuple[AddressSet, tuple[int, ...]], ...]  # with the IP versions that each is asked for

    def flows(self) -> Iterator[Flow]:
        common: dict[str, Value] = {"reg3": self.firewall, "reg6": DIRECTIONS[self.direction]}
        services: list[dict[str, Value]] = [{}]
        if self.protocol is not Protocol.ICMP and not self.ports.is_every:
            services = [{f"{self.protocol.value}_dst": pair} for pair in self.ports.masks()]
        for network in self.networks:
            for service in services:
                yield self._allows(network.version, **common, **_peer(self.direction, network), **service)
        for (kind, number), versions in self.sets:
            for version in versions:
                for service in services:
                    yield self._allows(version, reg1=kind | IS_MEMBER, reg2=number, **common, **service)

    def _allows(self, version: int, **fields: Value) -> Flow:
        fields = {"reg1": NO_SET, "reg2": 0, **fields}
        protocol = _IP_PROTOCOL[self.protocol, version]
        return RULES.flow(
            1000, match(eth_type=eth_type(version), ip_proto=protocol, **fields),
            Load(self.rule_id, RULE), cookie=cookie(Kind.RULE, self.rule_id),
        )  # fmt: skip


@dataclass(frozen=True)
class SetMembers:
    """An address set in one direction: the addresses of a tag's droplets, of an external peer, or that a rule lists."""

    set: AddressSet
    direction: Direction
    networks: tuple[Network, ...]

    def flows(self) -> Iterator[Flow]:
        kind, number = self.set
        owner = cookie(Kind.RULE if kind == OWN_SET else Kind.TAG, number)
        asked: dict[str, Value] = {"reg1": kind, "reg2": number, "reg6": DIRECTIONS[self.direction]}
        for network in self.networks:
            peer = _peer(self.direction, network)
            yield PEERS.flow(
                1000, match(eth_type=eth_type(network.version), **asked, **peer), Load(1, MEMBER), cookie=owner
            )


@dataclass(frozen=True)
class FirewallSets:
    """What a firewall asks in one direction: its rules' own addresses, then each set that they name."""

    firewall: int  # its number
    direction: Direction
    plain: bool
    sets: tuple[AddressSet, ...]

    def flows(self) -> Iterator[Flow]:
        fields = {"reg3": self.firewall, "reg6": DIRECTIONS[self.direction]}
        owner = cookie(Kind.FIREWALL, self.firewall)
        # A packet that would open a connection is judged as itself.  That is not the same as by its connection when
        # both ends open at once: the tracker calls the second SYN new, under the tuple of the first.
        opening = match(**fields, ct_state=state(CT_NEW | CT_TRK, CT_RPL | CT_INV))
        yield SETS.flow(110, opening, *self._ask(ct=False), cookie=owner)
        known = match(**fields, ct_state=state(CT_TRK, CT_INV))
        yield SETS.flow(100, known, *self._ask(ct=True), cookie=owner)

    def _ask(self, ct: bool) -> Iterator[Action]:
        rules = Resubmit(RULES.id, ct)
        if self.plain:
            yield from (Load(NO_SET, SET_KIND), Load(0, SET), rules)
        for kind, number in self.sets:
            yield from (Load(kind, SET_KIND), Load(number, SET), Resubmit(PEERS.id, ct), rules)
