"""Units to bytes: what each flow of a unit is on the wire, made once for each unit and cheap enough for thousands.

What a unit means is said by its `flows()` alone; `encoded` is these flows, encoded.  For units that come in thousands
`render` gives the same bytes in a twentieth of the time (docs/decisions/0031), in one of two ways:

(1) Rules and members of sets: a match is a row of terms, most of which all flows of the unit share.
(2) What belongs to one port or firewall: by a `Template`, which is what encoding gave for another unit of the same
shape, cut where that unit's numbers stand.  No layout is written down here, and a template that does not give what
encoding gives for a third unit is not used.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from hashlib import sha256
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

from ..pipeline.flow import IP_ICMP, IP_ICMP6, IP_TCP, IP_UDP, Load
from ..pipeline.tables import IS_MEMBER, MEMBER, NO_SET, OWN_SET, PEERS, RULE, RULES, Kind, cookie
from ..pipeline.unit import (
    AddressSet,
    Fence,
    FirewallSets,
    Generation,
    PickUp,
    PortFirewalls,
    PortGuards,
    PortProtection,
    RuleFlows,
    SetMembers,
    Unit,
)
from ..pipeline.unit_port import LINK_LOCAL
from ..pipeline.unit_rule import DIRECTIONS
from ..pipeline.values import eth_type
from ..policy.model import Direction, Network, Protocol
from .oxm import encode_field, encode_instructions, encode_match, join_fields

_COOKIE = struct.Struct("!Q")
_TABLE_PRIORITY = struct.Struct("!BH")
_bytes = bytes.__new__


class Key(bytes):
    """What OpenFlow calls identical: table, priority and match, as the bytes that they are on the wire.

    One object without parts, which the garbage collector need not look at: there are hundreds of thousands.
    """

    __slots__ = ()

    def __new__(cls, table: int, priority: int, match: bytes) -> Key:
        return _bytes(cls, _TABLE_PRIORITY.pack(table, priority) + match)

    @property
    def table(self) -> int:
        return self[0]

    @property
    def priority(self) -> int:
        return self[1] << 8 | self[2]

    @property
    def match(self) -> bytes:
        return self[3:]

    def __repr__(self) -> str:
        return f"Key({self.table}, {self.priority}, {self.match!r})"


class Body(bytes):
    """What else there is to a flow: cookie and instructions."""

    __slots__ = ()

    def __new__(cls, cookie: int, instructions: bytes) -> Body:
        return _bytes(cls, _COOKIE.pack(cookie) + instructions)

    @property
    def cookie(self) -> int:
        return int.from_bytes(self[:8], "big")

    @property
    def instructions(self) -> bytes:
        return self[8:]

    def __repr__(self) -> str:
        return f"Body({self.cookie:#x}, {self.instructions!r})"


Pair = tuple[Key, Body]
_key: Callable[[bytes], Key] = partial(_bytes, Key)  # from all of its bytes
_body: Callable[[bytes], Body] = partial(_bytes, Body)


def encoded(unit: Unit | PickUp) -> tuple[Pair, ...]:
    """The flows of a unit, encoded one by one."""
    return tuple(
        (
            Key(flow.table, flow.priority, encode_match(flow.match)),
            Body(flow.cookie, encode_instructions(flow.actions)),
        )
        for flow in unit.flows()
    )


def render(unit: Unit | PickUp) -> tuple[Pair, ...]:
    """The same, by whatever is quickest."""
    made: tuple[Pair, ...] = _RENDERERS.get(type(unit), _encoded)(unit)
    return made


# What many hypervisors have in common is kept once: the fixed part, rules, members of sets, what firewalls ask.
_encoded = lru_cache(maxsize=1024)(encoded)


# --------------------------------------------------------------------------------------------- rules and members

_IP_PROTOCOL = {
    (Protocol.TCP, 4): IP_TCP, (Protocol.TCP, 6): IP_TCP, (Protocol.UDP, 4): IP_UDP, (Protocol.UDP, 6): IP_UDP,
    (Protocol.ICMP, 4): IP_ICMP, (Protocol.ICMP, 6): IP_ICMP6,
}  # fmt: skip
_VERSIONS = {version: encode_field("eth_type", eth_type(version)) for version in (4, 6)}
_DIRECTIONS = {direction: encode_field("reg6", number) for direction, number in DIRECTIONS.items()}
_NO_SET = encode_field("reg1", NO_SET) + encode_field("reg2", 0)
_MATCHED = encode_instructions((Load(0, RULE),))[:-8]  # without the number, which comes last
_IS_MEMBER = encode_instructions((Load(1, MEMBER),))
_RULE_COOKIE, _MEMBER_COOKIE = cookie(Kind.RULE), cookie(Kind.TAG)
_RULE_KEY = _TABLE_PRIORITY.pack(RULES.id, 1000)
_MEMBER_KEY = _TABLE_PRIORITY.pack(PEERS.id, 1000)


class _Frame(NamedTuple):
    """What all matches of a firewall's rules for one direction and protocol have in common."""

    peers: str  # what their peer's side is called: src or dst
    service: str | None  # the field that their port is; None for ICMP
    protocols: dict[int, bytes]  # by IP version
    asked: bytes  # which firewall and direction: the last registers


@lru_cache(maxsize=1024)
def _frame(firewall: int, direction: Direction, protocol: Protocol) -> _Frame:
    return _Frame(
        "src" if direction is Direction.INBOUND else "dst",
        None if protocol is Protocol.ICMP else f"{protocol.value}_dst",
        {version: encode_field("ip_proto", _IP_PROTOCOL[protocol, version]) for version in (4, 6)},
        encode_field("reg3", firewall) + _DIRECTIONS[direction],
    )


@lru_cache(maxsize=1 << 16)
def _rule(unit: RuleFlows) -> tuple[Pair, ...]:
    frame = _frame(unit.firewall, unit.direction, unit.protocol)
    services = [b""]
    if frame.service is not None and not unit.ports.is_every:
        services = [encode_field(frame.service, value, mask) for value, mask in unit.ports.masks()]
    asked = _NO_SET + frame.asked
    fronts = [(_peer(frame.peers, network), frame.protocols[network.version], asked) for network in unit.networks]
    for (kind, number), versions in unit.sets:
        asked = encode_field("reg1", kind | IS_MEMBER) + encode_field("reg2", number) + frame.asked
        fronts += [(_VERSIONS[version], frame.protocols[version], asked) for version in versions]
    body = _body(_COOKIE.pack(_RULE_COOKIE | unit.rule_id) + _MATCHED + _COOKIE.pack(unit.rule_id))
    return tuple(
        [
            (_key(_RULE_KEY + join_fields(peer + protocol + service + asked)), body)
            for peer, protocol, asked in fronts
            for service in services
        ]
    )


def _peer(side: str, network: Network) -> bytes:
    """The IP version and the peer's side of a packet that opens a connection."""
    version = network.version
    return _VERSIONS[version] + encode_field(f"ipv{version}_{side}", network.value, network.mask)


def _members(unit: SetMembers) -> tuple[Pair, ...]:
    members, direction = unit.set, unit.direction
    return tuple([_member(members, direction, network) for network in unit.networks])


@lru_cache(maxsize=1 << 16)
def _member(members: AddressSet, direction: Direction, network: Network) -> Pair:
    kind, number = members
    asked = encode_field("reg1", kind) + encode_field("reg2", number) + _DIRECTIONS[direction]
    owner = (_RULE_COOKIE if kind == OWN_SET else _MEMBER_COOKIE) | number
    peer = _peer("src" if direction is Direction.INBOUND else "dst", network)
    return _key(_MEMBER_KEY + join_fields(peer + asked)), _body(_COOKIE.pack(owner) + _IS_MEMBER)


# --------------------------------------------------------------------------------------------- templates

MOST_TEMPLATES = 4096  # that are kept; a shape that comes later is encoded
_TEMPLATES: dict[Hashable, Template | None] = {}  # by shape; None: there is none, and its units are encoded
_TRIES = 4


@dataclass(frozen=True)
class Template:
    """The flows of units of one shape: bytes with holes, in which the numbers of a unit go."""

    constant: tuple[bytes, ...]  # what stands between the numbers
    pick: Callable[[tuple[bytes, ...]], tuple[bytes, ...]]  # from numbers and constants: the row that all of it is
    layout: struct.Struct  # of that row, joined: the keys, then the bodies, each once
    keys: int
    bodies: tuple[int, ...]  # which one each key has

    def render(self, numbers: tuple[bytes, ...]) -> tuple[Pair, ...]:
        parts = self.layout.unpack(b"".join(self.pick(numbers + self.constant)))
        keys, made = parts[: self.keys], list(map(_body, parts[self.keys :]))
        return tuple(zip(map(_key, keys), map(made.__getitem__, self.bodies), strict=True))


class _Cut(NamedTuple):
    """How a unit is taken apart into shape and numbers: the flows of units of one shape differ by these alone."""

    apart: Callable[[Any], tuple[Hashable, tuple[bytes, ...]]]  # the numbers as they are on the wire; no shape: None
    anew: Callable[[Any, Sequence[int]], Unit]  # the same unit with other numbers


def _by_template(unit: Unit) -> tuple[Pair, ...]:
    cut = _CUTS[type(unit)]
    shape, numbers = cut.apart(unit)
    if shape is None:
        return encoded(unit)
    try:
        template = _TEMPLATES[shape]
    except KeyError:
        template = _learn(unit, cut)
        if len(_TEMPLATES) < MOST_TEMPLATES:
            _TEMPLATES[shape] = template
    return encoded(unit) if template is None else template.render(numbers)


def _learn(unit: Unit, cut: _Cut) -> Template | None:
    """The template for units of this one's shape; None when encoding does not work by numbers alone."""
    numbers = cut.apart(unit)[1]
    for attempt in range(_TRIES):
        here, there = (cut.anew(unit, _marks(numbers, attempt + n)) for n in (0, 1))
        template = _cut_out(encoded(here), cut.apart(here)[1])
        if template is not None and template.render(cut.apart(there)[1]) == encoded(there):
            return template
    return None


def _marks(numbers: Iterable[bytes], attempt: int) -> list[int]:
    """Numbers that stand for those of a unit and occur nowhere else, most probably."""
    found = []
    for place, number in enumerate(numbers):
        mark = sha256(f"{attempt} {place}".encode()).digest()
        size = len(number)
        found.append(int.from_bytes(number[: size // 2] + mark[: size - size // 2] if size > 8 else mark[:size], "big"))
    return found


def _cut_out(pairs: tuple[Pair, ...], numbers: tuple[bytes, ...]) -> Template | None:
    if len(set(numbers)) < len(numbers) or not pairs:
        return None
    distinct = list(dict.fromkeys(body for _, body in pairs))
    rows = [*(key for key, _ in pairs), *distinct]
    constant: list[bytes] = []
    places: list[int] = []
    for row in rows:
        for piece in _pieces(row, numbers):
            if piece in numbers:
                places.append(numbers.index(piece))
            else:
                places.append(len(numbers) + len(constant))
                constant.append(piece)
    return Template(
        tuple(constant),
        itemgetter(*places),
        struct.Struct("".join(f"{len(row)}s" for row in rows)),
        len(pairs),
        tuple(distinct.index(body) for _, body in pairs),
    )


def _pieces(row: bytes, numbers: tuple[bytes, ...]) -> list[bytes]:
    """A row, cut where numbers stand in it, the longest first."""
    pieces = [row]
    for number in sorted(numbers, key=len, reverse=True):
        pieces = list(
            chain.from_iterable(_split(piece, number) if piece not in numbers else [piece] for piece in pieces)
        )
    return pieces


def _split(piece: bytes, number: bytes) -> list[bytes]:
    parts: list[bytes] = []
    for between in bytes(piece).split(number):
        parts += [between, number]
    return [part for part in parts[:-1] if part]


def _u16(number: int) -> bytes:
    return number.to_bytes(2, "big")


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _mac_text(number: int) -> str:
    return number.to_bytes(6, "big").hex(":")


def _guards(unit: PortGuards) -> tuple[Hashable, tuple[bytes, ...]]:
    networks = unit.networks
    if any(network.prefix != network.bits for network in networks):
        return None, ()
    shape = PortGuards, tuple([(network.version, network.overlaps(LINK_LOCAL)) for network in networks])
    addresses = [network.value.to_bytes(network.bits // 8, "big") for network in networks]
    return shape, (_u16(unit.slot), _u32(unit.ofport), _mac(unit.mac), *addresses)


def _other_guards(unit: PortGuards, numbers: Sequence[int]) -> PortGuards:
    slot, ofport, mac, *values = numbers
    networks = tuple(n._replace(value=value) for n, value in zip(unit.networks, values, strict=True))
    return PortGuards(slot, ofport, _mac_text(mac), networks)


def _protection(unit: PortProtection) -> tuple[Hashable, tuple[bytes, ...]]:
    shape = PortProtection, unit.protection, unit.fragments
    return shape, (_u16(unit.slot), _u32(unit.ofport), _mac(unit.mac))


def _other_protection(unit: PortProtection, numbers: Sequence[int]) -> PortProtection:
    return replace(unit, slot=numbers[0], ofport=numbers[1], mac=_mac_text(numbers[2]))


def _firewalls(unit: PortFirewalls) -> tuple[Hashable, tuple[bytes, ...]]:
    shape = PortFirewalls, unit.direction, len(unit.firewalls)
    return shape, (_u16(unit.slot), *map(_u32, unit.firewalls))


def _other_firewalls(unit: PortFirewalls, numbers: Sequence[int]) -> PortFirewalls:
    return replace(unit, slot=numbers[0], firewalls=tuple(numbers[1:]))


def _sets(unit: FirewallSets) -> tuple[Hashable, tuple[bytes, ...]]:
    shape = FirewallSets, unit.direction, unit.plain, tuple(members.kind for members in unit.sets)
    return shape, (_u32(unit.firewall), *(_u32(members.number) for members in unit.sets))


def _other_sets(unit: FirewallSets, numbers: Sequence[int]) -> FirewallSets:
    sets = tuple(AddressSet(members.kind, number) for members, number in zip(unit.sets, numbers[1:], strict=True))
    return replace(unit, firewall=numbers[0], sets=sets)


def _u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


_CUTS: dict[type, _Cut] = {
    Fence: _Cut(lambda unit: (Fence, (_u64(unit.timeline), _u64(unit.revision))), lambda _, numbers: Fence(*numbers)),
    Generation: _Cut(lambda unit: (Generation, (_u32(unit.number),)), lambda _, numbers: Generation(*numbers)),
    PortGuards: _Cut(_guards, _other_guards),
    PortProtection: _Cut(_protection, _other_protection),
    PortFirewalls: _Cut(_firewalls, _other_firewalls),
    FirewallSets: _Cut(_sets, _other_sets),
}

_RENDERERS: dict[type, Callable[[Any], tuple[Pair, ...]]] = {
    RuleFlows: _rule,
    SetMembers: _members,
    Fence: _by_template,
    Generation: _by_template,
    PortGuards: _by_template,
    PortProtection: _by_template,
    PortFirewalls: _by_template,
    FirewallSets: lru_cache(maxsize=1 << 14)(_by_template),
}
