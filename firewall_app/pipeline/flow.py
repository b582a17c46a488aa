"""Flows as plain values with one exact line of ovs-ofctl(8) text each.

A `Match` is valid once it exists: fields in canonical order, bits outside a mask cleared, an exact mask dropped,
and every field's prerequisites there (ovs-fields(7)).  A missing prerequisite is the error that `ovs-ofctl` turns
silently into "match everything"; here it is a ValueError.

Only what our pipeline uses exists here.  How a flow looks on the wire is `openflow/wire.py`'s business alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import netaddr

# EtherTypes and IP protocols by the names that the text form gives them.
ETH_IP, ETH_ARP, ETH_RARP, ETH_IPV6 = 0x0800, 0x0806, 0x8035, 0x86DD
IP_ICMP, IP_TCP, IP_UDP, IP_ICMP6 = 1, 6, 17, 58

# ct_state bits, ovs-fields(7)
CT_NEW, CT_EST, CT_REL, CT_RPL, CT_INV, CT_TRK = 1, 2, 4, 8, 16, 32
_CT_NAMES = {CT_NEW: "new", CT_EST: "est", CT_REL: "rel", CT_RPL: "rpl", CT_INV: "inv", CT_TRK: "trk"}
_TCP_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns")

NX_FRAG_ANY, NX_FRAG_LATER = 1, 2
A_FRAGMENT = NX_FRAG_ANY, NX_FRAG_ANY
NOT_A_FRAGMENT = 0, NX_FRAG_ANY | NX_FRAG_LATER

ALL_PORTS_MASK = 0xFFFF


class Field(NamedTuple):
    """A match field: its name in text, its width, how its value is written, what it needs beside it."""

    name: str
    bits: int
    style: str  # dec, hex, mac, ip, ip6, ct, tcpflags, vlan, frag
    eth: frozenset[int] = frozenset()  # EtherTypes of which one must be matched
    proto: frozenset[int] = frozenset()  # IP protocols of which one must be matched
    icmp: frozenset[int] = frozenset()  # ICMPv6 types of which one must be matched, with code 0
    maskable: bool = True


_IP4, _IP6, _ARP = frozenset({ETH_IP}), frozenset({ETH_IPV6}), frozenset({ETH_ARP, ETH_RARP})
_IP = _IP4 | _IP6
_TCP, _UDP = frozenset({IP_TCP}), frozenset({IP_UDP})
_ICMP, _ICMP6 = frozenset({IP_ICMP}), frozenset({IP_ICMP6})

# In the order in which OvS writes them (lib/nx-match.c, nx_put_raw), so that what is read back compares as it is.
FIELDS = {
    f.name: f
    for f in (
        Field("in_port", 32, "dec", maskable=False),
        Field("eth_src", 48, "mac"),
        Field("eth_dst", 48, "mac"),
        Field("eth_type", 16, "hex", maskable=False),
        Field("vlan_vid", 13, "vlan"),  # the VLAN id and, as bit 12, whether there is a tag at all; 0 is untagged
        Field("ipv4_src", 32, "ip", _IP4),
        Field("ipv4_dst", 32, "ip", _IP4),
        Field("ipv6_src", 128, "ip6", _IP6),
        Field("ipv6_dst", 128, "ip6", _IP6),
        Field("ip_frag", 8, "frag", _IP),
        Field("ip_ttl", 8, "dec", _IP, maskable=False),
        Field("ip_proto", 8, "dec", _IP, maskable=False),
        Field("tcp_src", 16, "dec", _IP, _TCP),
        Field("tcp_dst", 16, "dec", _IP, _TCP),
        Field("tcp_flags", 16, "tcpflags", _IP, _TCP),
        Field("udp_src", 16, "dec", _IP, _UDP),
        Field("udp_dst", 16, "dec", _IP, _UDP),
        Field("icmp_type", 8, "dec", _IP4, _ICMP, maskable=False),
        Field("icmp_code", 8, "dec", _IP4, _ICMP, maskable=False),
        Field("icmpv6_type", 8, "dec", _IP6, _ICMP6, maskable=False),
        Field("icmpv6_code", 8, "dec", _IP6, _ICMP6, maskable=False),
        Field("nd_target", 128, "ip6", _IP6, _ICMP6, frozenset({135, 136})),
        Field("nd_sll", 48, "mac", _IP6, _ICMP6, frozenset({135})),
        Field("nd_tll", 48, "mac", _IP6, _ICMP6, frozenset({136})),
        Field("arp_op", 16, "dec", _ARP, maskable=False),
        Field("arp_spa", 32, "ip", _ARP),
        Field("arp_tpa", 32, "ip", _ARP),
        Field("arp_sha", 48, "mac", _ARP),
        Field("arp_tha", 48, "mac", _ARP),
        Field("reg0", 32, "hex"),
        Field("reg1", 32, "hex"),
        Field("reg2", 32, "hex"),
        Field("reg3", 32, "hex"),
        Field("reg4", 32, "hex"),
        Field("reg5", 32, "hex"),
        Field("reg6", 32, "hex"),
        Field("reg7", 32, "hex"),
        Field("pkt_mark", 32, "hex"),
        Field("ct_state", 32, "ct"),
        Field("ct_zone", 16, "dec", maskable=False),
        Field("ct_mark", 32, "hex"),
        Field("ct_label", 128, "hex"),
    )
}
_ORDER = {name: i for i, name in enumerate(FIELDS)}

# What ovs-ofctl calls them.
_TEXT_NAMES = {
    "eth_src": "dl_src", "eth_dst": "dl_dst", "ipv4_src": "nw_src", "ipv4_dst": "nw_dst",
    "ip_ttl": "nw_ttl", "tcp_src": "tp_src", "tcp_dst": "tp_dst", "udp_src": "tp_src", "udp_dst": "tp_dst",
    "icmpv6_type": "icmp_type", "icmpv6_code": "icmp_code", "ip_frag": "nw_frag",
}  # fmt: skip
_SHORTHAND = {
    (ETH_IP, None): "ip", (ETH_IPV6, None): "ipv6", (ETH_ARP, None): "arp", (ETH_RARP, None): "rarp",
    (ETH_IP, IP_TCP): "tcp", (ETH_IP, IP_UDP): "udp", (ETH_IP, IP_ICMP): "icmp",
    (ETH_IPV6, IP_TCP): "tcp6", (ETH_IPV6, IP_UDP): "udp6", (ETH_IPV6, IP_ICMP6): "icmp6",
}  # fmt: skip


# By (value, mask); "later" is one bit to a flow, and both once a switch tells it.
_FRAGMENTS = {
    (0, 3): "no", (1, 1): "yes", (1, 3): "first", (0, 2): "not_later", (2, 2): "later", (3, 3): "later"
}  # fmt: skip


class Term(NamedTuple):
    """One matched field.  `mask` None: every bit."""

    name: str
    value: int
    mask: int | None = None


Value = int | tuple[int, int]


@dataclass(frozen=True)
class Match:
    """What a flow matches; build with `match()`."""

    terms: tuple[Term, ...] = ()

    def get(self, name: str) -> Term | None:
        return next((term for term in self.terms if term.name == name), None)

    @property
    def text(self) -> str:
        """The match as ovs-ofctl reads it; empty when it matches everything."""
        values = {term.name: term for term in self.terms}
        eth = values["eth_type"].value if "eth_type" in values else None
        proto = values["ip_proto"].value if "ip_proto" in values else None
        words: list[str] = []
        short = _SHORTHAND.get((eth, proto)) or _SHORTHAND.get((eth, None)) if eth is not None else None
        if short:
            words.append(short)
        for term in self.terms:
            if term.name == "eth_type" and short:
                continue
            if term.name == "ip_proto" and short != _SHORTHAND.get((eth or 0, None)):
                continue
            words.append(_term_text(term))
        return ",".join(words)


def match(**fields: Value) -> Match:
    """A match on the given fields; a value is a number, or (value, mask).

    Raises ValueError for an unknown field, a value out of range, or a missing prerequisite.
    """
    terms = []
    for name, given in fields.items():
        spec = FIELDS.get(name)
        if spec is None:
            raise ValueError(f"no such field: {name}")
        full = (1 << spec.bits) - 1
        value, mask = given if isinstance(given, tuple) else (given, full)
        if not (0 <= value <= full and 0 <= mask <= full):
            raise ValueError(f"{name}={value:#x}/{mask:#x} does not fit in {spec.bits} bits")
        if mask == 0:
            continue
        if mask != full and not spec.maskable:
            raise ValueError(f"{name} cannot be masked")
        terms.append(Term(name, value & mask, None if mask == full else mask))
    terms.sort(key=lambda term: _ORDER[term.name])
    present = {term.name: term.value for term in terms}
    for name in present:
        spec = FIELDS[name]
        if spec.eth and present.get("eth_type") not in spec.eth:
            raise ValueError(f"{name} needs eth_type in {sorted(map(hex, spec.eth))}")
        if spec.proto and present.get("ip_proto") not in spec.proto:
            raise ValueError(f"{name} needs ip_proto in {sorted(spec.proto)}")
        if spec.icmp and (present.get("icmpv6_type") not in spec.icmp or present.get("icmpv6_code") != 0):
            raise ValueError(f"{name} needs icmpv6_type in {sorted(spec.icmp)} and icmpv6_code=0")
    return Match(tuple(terms))


def _mac(number: int) -> str:
    text = f"{number:012x}"
    return ":".join(text[i : i + 2] for i in range(0, 12, 2))


def _ip(number: int, spec: Field) -> str:
    if spec.bits == 32:
        return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return str(netaddr.IPAddress(number, 6))


def _ct_state(value: int, mask: int) -> str:
    return "".join(("+" if value & bit else "-") + name for bit, name in _CT_NAMES.items() if mask & bit)


def _term_text(term: Term) -> str:
    spec = FIELDS[term.name]
    name = _TEXT_NAMES.get(term.name, term.name)
    value, mask = term.value, term.mask
    match spec.style:
        case "ct":
            return f"ct_state={_ct_state(value, mask if mask is not None else 0xFFFFFFFF)}"
        case "tcpflags":
            flags = "".join(
                ("+" if value >> i & 1 else "-") + flag
                for i, flag in enumerate(_TCP_FLAGS)
                if (mask if mask is not None else 0xFFF) >> i & 1
            )
            return f"tcp_flags={flags}"
        case "frag":
            return f"nw_frag={_FRAGMENTS.get((value, mask or 0), f'{value}/{mask}')}"
        case "mac":
            return f"{name}={_mac(value)}" + (f"/{_mac(mask)}" if mask is not None else "")
        case "ip" | "ip6":
            text = _ip(value, spec)
            if mask is None:
                return f"{name}={text}"
            length = mask.bit_count()
            if mask == ((1 << length) - 1) << (spec.bits - length):
                return f"{name}={text}/{length}"
            return f"{name}={text}/{_ip(mask, spec)}"
        case "vlan":
            return f"vlan_tci=0x{value:04x}/0x{mask if mask is not None else 0x1FFF:04x}"
        case "hex":
            return f"{name}={value:#x}" + (f"/{mask:#x}" if mask is not None else "")
        case _:
            return f"{name}={value}" + (f"/{mask:#x}" if mask is not None else "")


# --------------------------------------------------------------------------------------------- actions


class Bits(NamedTuple):
    """Bits `first` to `last` of a register or of another field that actions may write."""

    name: str  # reg1..reg7, ct_mark, ct_label
    first: int
    last: int

    @property
    def width(self) -> int:
        return self.last - self.first + 1

    @property
    def text(self) -> str:
        nxm = "NXM_NX_" + self.name.upper()
        whole = self.first == 0 and self.last == FIELDS[self.name].bits - 1
        if whole:
            return f"{nxm}[]"
        return f"{nxm}[{self.first}]" if self.width == 1 else f"{nxm}[{self.first}..{self.last}]"


def bits(name: str, first: int = 0, last: int | None = None) -> Bits:
    """A checked range of bits; raises ValueError when it ends past the field."""
    width = FIELDS[name].bits
    end = width - 1 if last is None else last
    if not 0 <= first <= end < width:
        raise ValueError(f"{name}[{first}..{end}] is not within {width} bits")
    return Bits(name, first, end)


@dataclass(frozen=True)
class Output:
    """Send the packet out of a port."""

    port: int

    @property
    def text(self) -> str:
        return f"output:{self.port}"


@dataclass(frozen=True)
class Load:
    """Write a number into bits of a field."""

    value: int
    to: Bits

    def __post_init__(self) -> None:
        if not 0 <= self.value < 1 << self.to.width:
            raise ValueError(f"{self.value:#x} does not fit in {self.to.text}")

    @property
    def text(self) -> str:
        return f"load:{self.value:#x}->{self.to.text}"


@dataclass(frozen=True)
class Move:
    """Copy bits from one field to as many bits of another."""

    source: Bits
    to: Bits

    def __post_init__(self) -> None:
        if self.source.width != self.to.width:
            raise ValueError(f"{self.source.text} and {self.to.text} differ in width")

    @property
    def text(self) -> str:
        return f"move:{self.source.text}->{self.to.text}"


@dataclass(frozen=True)
class Resubmit:
    """Look the packet up in another table; with `ct` under the original-direction tuple of its connection."""

    table: int
    ct: bool = False

    @property
    def text(self) -> str:
        return f"resubmit(,{self.table}{',ct' if self.ct else ''})"


@dataclass(frozen=True)
class Ct:
    """Pass the packet through connection tracking in the zone that `zone` holds, and go on in `table`."""

    zone: Bits
    table: int
    commit: bool = False
    exec: tuple[Load | Move, ...] = ()

    @property
    def text(self) -> str:
        words = ["commit"] if self.commit else []
        words += [f"table={self.table}", f"zone={self.zone.text}"]
        if self.exec:
            words.append(f"exec({','.join(action.text for action in self.exec)})")
        return f"ct({','.join(words)})"


@dataclass(frozen=True)
class Note:
    """Bytes that OvS keeps with the flow and ignores."""

    data: bytes

    @property
    def text(self) -> str:
        return "note:" + ".".join(f"{byte:02x}" for byte in self.data)


Action = Output | Load | Move | Resubmit | Ct | Note


class Key(NamedTuple):
    """What OpenFlow calls identical: two flows with one key cannot both be in a switch."""

    table: int
    priority: int
    match: Match


@dataclass(frozen=True)
class Flow:
    """What a switch holds.  No actions means drop."""

    table: int
    priority: int
    match: Match
    actions: tuple[Action, ...]
    cookie: int = 0

    @property
    def key(self) -> Key:
        return Key(self.table, self.priority, self.match)

    @property
    def text(self) -> str:
        """One line that `ovs-ofctl add-flow` reads and that says everything about the flow."""
        return self.line(self.match.text)

    def line(self, matched: str) -> str:
        """`text`, for callers that have the text of the match already: it is most of the work."""
        head = [f"cookie={self.cookie:#x}", f"table={self.table}", f"priority={self.priority}"]
        if matched:
            head.append(matched)
        actions = ",".join(action.text for action in self.actions) or "drop"
        return f"{','.join(head)} actions={actions}"

    def __str__(self) -> str:
        return self.text


def texts(flows: Iterable[Flow]) -> list[str]:
    """The lines of flows in reading order: by table, priority from the top, then by text."""
    told = sorted(((f.match.text, f) for f in flows), key=lambda pair: (pair[1].table, -pair[1].priority, pair[0]))
    return [f.line(matched) for matched, f in told]
