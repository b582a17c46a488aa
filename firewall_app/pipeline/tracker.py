"""Frames, and what a conntrack zone makes of them: connection tracking for `walker.py`.

Written from ovs-fields(7) "Connection Tracking Fields", lib/conntrack*.c of Open vSwitch, and from what its version
3.1.0 with the userspace datapath was seen to do; a test compares the two.

Edge: no TCP sequence numbers, no timeouts, no NAT, no helpers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from ..policy.model import Address
from .flow import (
    CT_EST,
    CT_INV,
    CT_NEW,
    CT_REL,
    CT_RPL,
    CT_TRK,
    ETH_IP,
    ETH_IPV6,
    IP_ICMP,
    IP_ICMP6,
    IP_TCP,
    IP_UDP,
    NX_FRAG_ANY,
    NX_FRAG_LATER,
)

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32


class Unsupported(Exception):
    """The flow or the frame uses what this switch does not know."""


# --------------------------------------------------------------------------------------------- frames


@dataclass(frozen=True)
class Frame:
    """An Ethernet frame, as far as flows can see it.  Addresses are numbers; fields that it has not are 0."""

    eth_src: int
    eth_dst: int
    eth_type: int
    vlan: int | None = None  # the VLAN id when there is a tag; 0 is a priority tag
    src: int = 0  # of IP
    dst: int = 0
    proto: int = 0
    ttl: int = 64
    sport: int = 0  # of TCP and UDP
    dport: int = 0
    flags: int = 0  # of TCP
    icmp_type: int = 0  # of ICMP and ICMPv6
    icmp_code: int = 0
    icmp_id: int = 0
    frag: str = ""  # "first" or "later"
    inner: Frame | None = None  # the packet that an ICMP error is about
    nd_target: int = 0
    nd_sll: int = 0
    nd_tll: int = 0
    arp_op: int = 0
    arp_spa: int = 0
    arp_tpa: int = 0
    arp_sha: int = 0
    arp_tha: int = 0

    @property
    def is_ip(self) -> bool:
        return self.eth_type in (ETH_IP, ETH_IPV6)

    def field(self, name: str) -> int:
        """The value of a match field that is not metadata; 0 when the frame has no such field."""
        later = self.frag == "later"  # it has no transport header, OFPC_FRAG_NX_MATCH
        match name:
            case "eth_src" | "eth_dst" | "eth_type":
                return int(getattr(self, name))
            case "vlan_vid":
                return 0 if self.vlan is None else 0x1000 | self.vlan
            case "ipv4_src" | "ipv6_src":
                return self.src
            case "ipv4_dst" | "ipv6_dst":
                return self.dst
            case "ip_proto":
                return self.proto
            case "ip_ttl":
                return self.ttl
            case "ip_frag":
                return {"": 0, "first": NX_FRAG_ANY, "later": NX_FRAG_ANY | NX_FRAG_LATER}[self.frag]
            case "tcp_src" | "udp_src":
                return 0 if later else self.sport
            case "tcp_dst" | "udp_dst":
                return 0 if later else self.dport
            case "tcp_flags":
                return 0 if later else self.flags
            case "icmp_type" | "icmpv6_type":
                return 0 if later else self.icmp_type
            case "icmp_code" | "icmpv6_code":
                return 0 if later else self.icmp_code
            case "nd_target" | "nd_sll" | "nd_tll" | "arp_op" | "arp_spa" | "arp_tpa" | "arp_sha" | "arp_tha":
                return int(getattr(self, name))
        raise Unsupported(f"match field {name}")


class Tuple(NamedTuple):
    """What identifies a connection.  For ICMP the ports are type and code, as for ct_tp_src and ct_tp_dst."""

    eth_type: int
    src: int
    dst: int
    proto: int
    sport: int = 0
    dport: int = 0
    icmp_id: int = 0

    @property
    def reverse(self) -> Tuple:
        sport, dport = self.dport, self.sport
        if self.proto in ICMP_PROTOCOLS:
            sport, dport = _ICMP_ANSWERS[self.proto, self.sport], self.dport
        return self._replace(src=self.dst, dst=self.src, sport=sport, dport=dport)

    def __str__(self) -> str:
        version = 4 if self.eth_type == ETH_IP else 6
        numbers = f" type {self.sport} code {self.dport}" if self.proto in ICMP_PROTOCOLS else ""
        if self.proto in (IP_TCP, IP_UDP):
            numbers = f" ports {self.sport} -> {self.dport}"
        return f"{Address(version, self.src)} -> {Address(version, self.dst)} protocol {self.proto}{numbers}"


ICMP_PROTOCOLS = (IP_ICMP, IP_ICMP6)
_ICMP_ANSWERS = {
    (IP_ICMP, 8): 0, (IP_ICMP, 0): 8, (IP_ICMP, 13): 14, (IP_ICMP, 14): 13, (IP_ICMP, 15): 16, (IP_ICMP, 16): 15,
    (IP_ICMP6, 128): 129, (IP_ICMP6, 129): 128,
}  # fmt: skip
_ICMP_OPENERS = {(IP_ICMP, 8), (IP_ICMP, 13), (IP_ICMP, 15), (IP_ICMP6, 128)}
_ICMP_ERRORS = {IP_ICMP: (3, 4, 5, 11, 12), IP_ICMP6: (1, 2, 3, 4)}


def tuple_of(frame: Frame) -> Tuple | None:
    """A frame's own tuple; None for what cannot be tracked (ICMP types that are neither query, answer nor error)."""
    base = (frame.eth_type, frame.src, frame.dst, frame.proto)
    if frame.proto in (IP_TCP, IP_UDP):
        return Tuple(*base, frame.sport, frame.dport)
    if frame.proto in ICMP_PROTOCOLS:
        if (frame.proto == IP_ICMP) != (frame.eth_type == ETH_IP):
            raise Unsupported("ICMP of the other IP version")
        if (frame.proto, frame.icmp_type) not in _ICMP_ANSWERS:
            return None
        return Tuple(*base, frame.icmp_type, frame.icmp_code, frame.icmp_id)
    return Tuple(*base)


# --------------------------------------------------------------------------------------------- connection tracking

# States of one end of a TCP connection, in the order in which conntrack compares them.
_CLOSED, _SYN_SENT, _ESTABLISHED, _CLOSING, _FIN_WAIT_2, _TIME_WAIT = range(6)


@dataclass
class Connection:
    """A connection in a zone."""

    original: Tuple
    mark: int = 0
    label: int = 0
    replied: bool = False
    ends: list[int] = field(default_factory=lambda: [_SYN_SENT, _CLOSED])  # of TCP: who opened, who answers


@dataclass
class Tracked:
    """What `ct` wrote beside a packet."""

    zone: int
    state: int
    original: Tuple | None
    connection: Connection | None

    @property
    def mark(self) -> int:
        return self.connection.mark if self.connection else 0

    @property
    def label(self) -> int:
        return self.connection.label if self.connection else 0


def _bad_flags(flags: int) -> bool:
    """lib/conntrack-tcp.c, tcp_invalid_flags()."""
    if flags & SYN and flags & (RST | FIN):
        return True
    if not flags & SYN and not flags & (ACK | RST):
        return True
    return not flags & ACK and bool(flags & (FIN | PSH | URG))


def _tcp_update(connection: Connection, flags: int, reply: bool) -> int | None:
    """The ct_state of a packet of a known TCP connection; None when it opens another one in its place."""
    ends, me, peer = connection.ends, int(reply), int(not reply)
    if _bad_flags(flags):
        return CT_INV
    if flags & (SYN | ACK) == SYN:
        if min(ends) >= _FIN_WAIT_2:
            return None
        if ends[me] <= _SYN_SENT:  # sent again, or by both sides at once; OvS does not say +rpl then
            ends[me] = _SYN_SENT
            return CT_NEW
    ends[me] = max(ends[me], _SYN_SENT)
    if flags & FIN:
        ends[me] = max(ends[me], _CLOSING)
    if flags & ACK:
        if ends[peer] == _SYN_SENT:
            ends[peer] = _ESTABLISHED
        elif ends[peer] == _CLOSING:
            ends[peer] = _FIN_WAIT_2
    if flags & RST:
        ends[:] = [_TIME_WAIT, _TIME_WAIT]
    return CT_EST | (CT_RPL if reply else 0)


class Zone:
    """The connections of one conntrack zone."""

    def __init__(self) -> None:
        self._by_tuple: dict[Tuple, Connection] = {}

    def find(self, own: Tuple) -> Connection | None:
        """The connection of a tuple, in either direction."""
        return self._by_tuple.get(own)

    def __len__(self) -> int:
        return len({id(connection) for connection in self._by_tuple.values()})

    def track(self, frame: Frame, number: int) -> Tracked:
        """Classifies a packet that enters the zone."""
        if frame.proto in ICMP_PROTOCOLS and frame.icmp_type in _ICMP_ERRORS[frame.proto]:
            return self._related(frame, number)
        own = tuple_of(frame)
        if own is None:
            return Tracked(number, CT_INV | CT_TRK, None, None)
        connection = self._by_tuple.get(own)
        if connection is not None:
            state = self._update(connection, frame, own != connection.original)
            if state is not None:
                return Tracked(number, state | CT_TRK, connection.original, connection)
            self._forget(connection)
        state = CT_NEW if _may_open(frame, own) else CT_INV
        return Tracked(number, state | CT_TRK, own, None)

    def _related(self, frame: Frame, number: int) -> Tracked:
        if frame.inner is None:
            raise Unsupported("an ICMP error without the packet that it is about")
        inner = tuple_of(frame.inner)
        connection = self._by_tuple.get(inner) if inner is not None else None
        if connection is None or frame.inner.src != frame.dst:
            return Tracked(number, CT_INV | CT_TRK, None, None)
        # About a packet of the opener, it travels towards the opener.
        reply = CT_RPL if inner == connection.original else 0
        return Tracked(number, CT_REL | reply | CT_TRK, connection.original, connection)

    @staticmethod
    def _update(connection: Connection, frame: Frame, reply: bool) -> int | None:
        if frame.proto == IP_TCP:
            return _tcp_update(connection, frame.flags, reply)
        connection.replied |= reply
        if reply:
            return CT_EST | CT_RPL
        return CT_EST if connection.replied else CT_NEW

    def commit(self, tracked: Tracked) -> None:
        """Makes a new connection of a packet that has none."""
        if tracked.original is None:
            raise Unsupported("commit of a packet that cannot be tracked")
        connection = tracked.connection = Connection(tracked.original)
        self._by_tuple[connection.original] = self._by_tuple[connection.original.reverse] = connection

    def _forget(self, connection: Connection) -> None:
        del self._by_tuple[connection.original]
        self._by_tuple.pop(connection.original.reverse, None)


def _may_open(frame: Frame, own: Tuple) -> bool:
    if frame.proto == IP_TCP:
        return not _bad_flags(frame.flags) and frame.flags & (SYN | ACK) != SYN | ACK
    if frame.proto in ICMP_PROTOCOLS:
        return (frame.proto, own.sport) in _ICMP_OPENERS
    return True
