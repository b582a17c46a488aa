"""Seeded random Ethernet frames, and a reader that says what a receiving host could take a frame to be.

The reader is written from the RFCs (791, 826, 903, 1042, 2675, 4861, 8200 and IEEE 802.1Q) and shares nothing with the
firewall; it is lenient where a host may be: checksums, versions, the order of extension headers and padding do not
matter to it.  Edge: it does not reassemble (a later fragment is only known to be one), does not open tunnels, and
does not follow source routes.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from frames import checksum

IP4, IP6, ARP, RARP = 0x0800, 0x86DD, 0x0806, 0x8035
TAGS = (0x8100, 0x88A8)
HOP_BY_HOP, ICMP, TCP, UDP, ROUTING, FRAGMENT, AUTH, ICMP6, OPTIONS = 0, 1, 6, 17, 43, 44, 51, 58, 60
EXTENSIONS = (HOP_BY_HOP, ROUTING, AUTH, OPTIONS)
RS, RA, NS, NA, REDIRECT = 133, 134, 135, 136, 137
BROADCAST = b"\xff" * 6


# --------------------------------------------------------------------------------------------- reading


class Piece(Enum):
    WHOLE = "whole"
    FIRST = "first"
    LATER = "later"


@dataclass(frozen=True)
class Arp:
    standard: bool  # Ethernet and IPv4, RFC 826
    op: int
    sha: bytes
    spa: bytes
    tha: bytes
    tpa: bytes


@dataclass(frozen=True)
class Ip:
    version: int
    source: bytes
    destination: bytes
    hops: int
    protocol: int | None  # None: the chain of headers goes on where this frame ends
    piece: Piece
    ident: int  # of the datagram that a fragment is a piece of
    at: int  # where the transport header starts in the frame
    body: bytes  # from there on

    @property
    def ports(self) -> tuple[int, int] | None:
        if self.protocol in (TCP, UDP) and self.piece is not Piece.LATER and len(self.body) >= 4:
            return int.from_bytes(self.body[:2], "big"), int.from_bytes(self.body[2:4], "big")
        return None

    @property
    def icmp(self) -> tuple[int, int] | None:
        """Type and code; in a protocol that does not belong to the IP version there are none."""
        if self.protocol == (ICMP if self.version == 4 else ICMP6) and self.piece is not Piece.LATER and self.body:
            return self.body[0], self.body[1] if len(self.body) > 1 else 0
        return None

    @property
    def nd_target(self) -> bytes:
        return self.body[8:24]

    @property
    def nd_addresses(self) -> list[bytes]:
        """The link-layer addresses that a solicitation or advertisement gives its sender (RFC 4861, 4.6.1; 2464, 6)."""
        found, rest = [], self.body[24:]
        wanted = bytes([1 if self.body[0] == NS else 2, 1])  # other options and lengths are not for it
        while len(rest) >= 8 and rest[1]:
            if rest[:2] == wanted:
                found.append(rest[2:8])
            rest = rest[rest[1] * 8 :]
        return found


@dataclass(frozen=True)
class Reading:
    """One thing that a host could take a frame to be."""

    receiver: bytes
    sender: bytes
    tagged: bool
    kind: int  # the EtherType; 0 for what is none
    arp: Arp | None = None
    ip: Ip | None = None

    @property
    def label(self) -> str:
        """In a word, for counting."""
        ip = self.ip
        if ip is None:
            return {ARP: "arp", RARP: "rarp"}.get(self.kind, "no IP")
        if ip.piece is Piece.LATER:
            return f"later{ip.version}"
        if ip.icmp and ip.version == 6 and RS <= ip.icmp[0] <= REDIRECT:
            return {RS: "rs", RA: "ra", NS: "ns", NA: "na", REDIRECT: "redirect"}[ip.icmp[0]]
        if ip.protocol == UDP and ip.ports in ((68, 67), (546, 547)):
            return f"dhcp{ip.version} request"
        if ip.protocol == UDP and ip.ports in ((67, 68), (547, 546)):
            return f"dhcp{ip.version} answer"
        return {TCP: "tcp", UDP: "udp"}.get(ip.protocol or 0, "icmp" if ip.icmp else "other") + str(ip.version)


def read(data: bytes) -> tuple[Reading, ...]:
    """All that a frame could be to its receiver."""
    at, tagged = 12, False
    kind = int.from_bytes(data[at : at + 2], "big")
    while kind in TAGS and len(data) >= at + 6:
        tagged, at = True, at + 4
        kind = int.from_bytes(data[at : at + 2], "big")
    at += 2
    if kind < 0x0600:  # a length: LLC, perhaps with SNAP
        snap = data[at : at + 3] == b"\xaa\xaa\x03" and len(data) >= at + 8
        kind, at = (int.from_bytes(data[at + 6 : at + 8], "big"), at + 8) if snap else (0, at)
    base = Reading(data[:6], data[6:12], tagged, kind)
    if kind in (ARP, RARP):
        return (Reading(data[:6], data[6:12], tagged, kind, arp=_arp(data[at:])),)
    found = {IP4: _ip4, IP6: _ip6}.get(kind, lambda *_: [])(data, at)
    return tuple(Reading(data[:6], data[6:12], tagged, kind, ip=ip) for ip in found) or (base,)


def _arp(data: bytes) -> Arp | None:
    if len(data) < 28:
        return None
    standard = data[:6] == b"\0\1\x08\0\6\4"
    return Arp(standard, int.from_bytes(data[6:8], "big"), data[8:14], data[14:18], data[18:24], data[24:28])


def _ip4(data: bytes, start: int) -> list[Ip]:
    head = data[start : start + 20]
    if len(head) < 20:
        return []
    size, total = (head[0] & 15) * 4, int.from_bytes(head[2:4], "big")
    if size < 20 or total < size or start + size > len(data):
        return []
    flags = int.from_bytes(head[6:8], "big")
    piece = Piece.LATER if flags & 0x1FFF else Piece.FIRST if flags & 0x2000 else Piece.WHOLE
    ident = int.from_bytes(head[4:6], "big")
    body = data[start + size : start + total]
    return [Ip(4, head[12:16], head[16:20], head[8], head[9], piece, ident, start + size, body)]


def _ip6(data: bytes, start: int) -> list[Ip]:
    head = data[start : start + 40]
    if len(head) < 40:
        return []
    size = int.from_bytes(head[4:6], "big")
    ends = [start + 40 + size]
    if size == 0 and head[6] == HOP_BY_HOP:
        ends.append(len(data))  # as a jumbogram (RFC 2675), whose length is elsewhere
    found = []
    for end in ends:
        protocol, piece, ident, at = _chain(data[:end], head[6], start + 40)
        found.append(Ip(6, head[8:24], head[24:40], head[7], protocol, piece, ident, at, data[at:end]))
    return found


def _chain(data: bytes, protocol: int, at: int) -> tuple[int | None, Piece, int, int]:
    """Walks over extension headers in any order: the protocol, what piece it is, of which datagram, and where."""
    piece, ident = Piece.WHOLE, 0
    while protocol in (*EXTENSIONS, FRAGMENT):
        if len(data) < at + 8:
            return None, piece, ident, at
        if protocol == FRAGMENT:
            offset, ident = struct.unpack_from("!HI", data, at + 2)
            size = 8
            if offset & 0xFFF8:
                return data[at], Piece.LATER, ident, at + 8
            piece = Piece.FIRST if offset & 1 else piece
        else:
            size = (data[at + 1] + 2) * 4 if protocol == AUTH else (data[at + 1] + 1) * 8
        protocol, at = data[at], at + size
        if len(data) < at:
            return None, piece, ident, at
    return protocol, piece, ident, at


# --------------------------------------------------------------------------------------------- making


@dataclass(frozen=True)
class End:
    """Somebody on the network: a droplet port, or the world."""

    name: str
    mac: bytes
    v4: tuple[bytes, ...]
    v6: tuple[bytes, ...]  # the link-local one last


@dataclass(frozen=True)
class Shot:
    """A frame and the end that sends it."""

    sender: str
    data: bytes


V4 = [bytes(map(int, text.split("."))) for text in (
    "0.0.0.0", "255.255.255.255", "127.0.0.1", "224.0.0.1", "239.1.2.3", "169.254.1.1", "198.51.100.9", "10.0.0.254",
)]  # fmt: skip
V6 = [bytes.fromhex(text) for text in (
    "00" * 16, "00" * 15 + "01", "ff02" + "00" * 13 + "01", "ff02" + "00" * 13 + "02", "ff05" + "00" * 10 + "00010003",
    "ff02" + "00" * 9 + "01ff000003", "00" * 10 + "ffff0a000001", "fe80" + "00" * 13 + "99",
    "20010db8" + "00" * 11 + "99",
)]  # fmt: skip
PORTS = (53, 53, 443, 443, 8000, 8002, 8003, 5432, 5432, 22, 67, 68, 546, 547, 80, 0)
FLAGS = (0x02, 0x02, 0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x03, 0x00, 0xFF)
KINDS = {
    "tcp": 6, "udp": 6, "icmp": 5, "error": 3, "nd": 12, "arp": 5, "rarp": 2, "dhcp4": 4, "dhcp6": 3, "group": 2,
    "other": 3, "nothing": 1,
}  # fmt: skip


@dataclass
class Maker:
    """Draws stories: a few frames that have to do with each other."""

    rng: random.Random
    ends: Sequence[End]  # droplets first, the world last
    senders: Sequence[str]
    likely: Sequence[tuple[str, str, str, int]] = ()  # sender, receiver, kind and port of what a policy allows
    mutate: bool = True
    _port: int | None = None
    _ident: int = 0
    _pool: list[bytes] = field(default_factory=lambda: [b"\0" * 60])

    def story(self) -> list[Shot]:
        sender = self.rng.choice(self.senders)
        by_name = {end.name: end for end in self.ends}
        me = by_name.get(sender) or self.rng.choice(self.ends)
        you = self.rng.choice([end for end in self.ends if end is not me])
        self._ident = (self._ident + 1) & 0xFFFFFFFF
        kind = self.rng.choices(list(KINDS), list(KINDS.values()))[0]
        self._port = None
        if self.likely and self._chance(0.3):
            sender, receiver, kind, self._port = self.rng.choice(self.likely)
            me, you = by_name[sender], by_name[receiver]
        version = self.rng.choice((4, 6))
        shots = [(sender, data) for data in self._frames(kind, version, me, you)]
        if kind in ("tcp", "udp", "icmp", "error") and you.name in self.senders and self._chance(0.5):
            shots += self._answers(kind, version, shots[0][1], me, you)
        return [Shot(name, self._mutated(data)) for name, data in shots]

    def _answers(self, kind: str, version: int, opening: bytes, me: End, you: End) -> list[tuple[str, bytes]]:
        """What comes back to a first frame, and goes on: the tuple turned round, or an error about it."""
        readings = [reading.ip for reading in read(opening) if reading.ip]
        if not readings or readings[0].piece is not Piece.WHOLE:
            return []
        ip, body = readings[0], readings[0].body
        found = []
        for back in (True, False, True)[: self.rng.randint(1, 3)]:
            name, one, other = (you.name, you, me) if back else (me.name, me, you)
            src, dst = (ip.destination, ip.source) if back else (ip.source, ip.destination)
            if back and self._chance(0.3):
                made = self._error(version, src, dst, opening[14:])
            elif ip.protocol in (TCP, UDP) and len(body) >= 8:
                turned = body[2:4] + body[:2] if back else body[:4]
                flags = bytes([self.rng.choice((0x12, 0x10, 0x18, 0x11, 0x04))])
                rest = body[4:13] + flags + body[14:] if ip.protocol == TCP else body[4:]
                made = self._ip(version, src, dst, ip.protocol, turned + rest)
            elif ip.icmp:
                kinds = {8: 0, 128: 129}
                made = self._ip(version, src, dst, ip.protocol or 0, bytes([kinds.get(body[0], body[0])]) + body[1:])
            else:
                break
            found += [(name, self._ether(other.mac, one.mac, IP4 if version == 4 else IP6, part)) for part in made]
        return found

    # ----- choices

    def _chance(self, share: float) -> bool:
        return self.rng.random() < share

    def _address(self, end: End, version: int, own: float = 0.9) -> bytes:
        if self._chance(own):
            return self.rng.choice(end.v4 if version == 4 else end.v6)
        others = [address for other in self.ends for address in (other.v4 if version == 4 else other.v6)]
        return self.rng.choice((V4 if version == 4 else V6) + others)

    def _mac(self, end: End, own: float = 0.9) -> bytes:
        if self._chance(own):
            return end.mac
        odd = [BROADCAST, b"\0" * 6, b"\x33\x33\0\0\0\1", b"\x01\0\x5e\0\0\1", self.rng.randbytes(6)]
        return self.rng.choice(odd + [other.mac for other in self.ends])

    # ----- frames of a kind

    def _frames(self, kind: str, version: int, me: End, you: End) -> list[bytes]:
        target = self._mac(you, 0.93)
        if kind in ("arp", "rarp"):
            return [self._arp_frame(kind, me, you)]
        if kind == "nothing":
            other = self.rng.choice(
                (0, 0x0600, 0x8847, 0x8870, 0x888E, 0x88CC, 0x88E7, 0x9000, self.rng.getrandbits(16))
            )
            return [self._ether(target, self._mac(me), other, self.rng.randbytes(self.rng.randint(0, 80)))]
        if kind == "nd":
            return self._nd_frames(me, you)
        src, dst = self._address(me, version), self._address(you, version)
        if kind == "dhcp4":
            version, ports = (
                4,
                self.rng.choice(((68, 67), (67, 67), (67, 68) if me is self.ends[-1] else (68, 67), (67, 68))),
            )
            src, dst = self.rng.choice(((V4[0], V4[1]), (self._address(me, 4), self._address(you, 4)), (src, V4[1])))[
                :2
            ]
            target = self.rng.choice((BROADCAST, you.mac))
        elif kind == "dhcp6":
            version, ports = (
                6,
                self.rng.choice(((546, 547), (547, 546) if me is self.ends[-1] else (546, 547), (547, 546))),
            )
            src, dst = me.v6[-1] if self._chance(0.8) else self._address(me, 6), self.rng.choice((V6[4], you.v6[-1]))
            target = you.mac if ports == (547, 546) else self.rng.choice((b"\x33\x33\0\1\0\2", you.mac))
        else:
            ports = (self.rng.choice((*PORTS, 1024, 40000)), self._port or self.rng.choice(PORTS))
        if len(src) != (4 if version == 4 else 16):
            src, dst = self._address(me, version), self._address(you, version)
        protocol, body = self._body(kind, version, ports)
        if kind == "error":
            about = self._ip(
                version, dst, src, *self._body(self.rng.choice(("tcp", "udp", "icmp")), version, ports[::-1])
            )
            made = self._error(version, src, dst, about[0] if about else b"")
        else:
            made = self._ip(version, src, dst, protocol, body)
        if kind == "group":
            target = b"\x33\x33\0\0\0\x16" if version == 6 else b"\x01\0\x5e\0\0\x16"
        return [self._ether(target, self._mac(me, 0.96), IP4 if version == 4 else IP6, part) for part in made]

    def _body(self, kind: str, version: int, ports: tuple[int, int]) -> tuple[int, bytes]:
        data = self.rng.randbytes(self.rng.choice((0, 1, 12, 40)))
        if kind == "tcp":
            flags = 2 if self._port else self.rng.choice(FLAGS)
            return TCP, struct.pack("!HHIIBBHHH", *ports, 1, 0, 0x50, flags, 5000, 0, 0) + data
        if kind in ("udp", "dhcp4", "dhcp6"):
            return UDP, struct.pack("!HHHH", *ports, 8 + len(data), 0) + data
        if kind == "icmp":
            of = version if self._chance(0.9) else 10 - version  # the other version's in this one's packet
            icmp, common = (ICMP, (8, 8, 0, 13)) if of == 4 else (ICMP6, (128, 128, 129))
            odd = self.rng.choice((*common, *common, 5, 9, 10, 17, 130, 131, 138, 139, 151, self.rng.getrandbits(8)))
            return icmp, struct.pack("!BBHHH", odd, 0, 0, 7, 1) + data
        if kind == "group":
            report = self.rng.choice((130, 131, 132, 143))
            return (2, b"\x16\0\0\0\xe1\1\2\3") if version == 4 else (ICMP6, bytes([report]) + b"\0" * 7 + V6[2])
        return self.rng.choice(
            (0, 4, 41, 47, 50, 59, 89, 112, 132, 135, 139, 253, self.rng.getrandbits(8))
        ), b"\0" * 12 + data

    def _error(self, version: int, src: bytes, dst: bytes, about: bytes) -> list[bytes]:
        kind = self.rng.choice((3, 3, 4, 5, 11, 12) if version == 4 else (1, 1, 2, 3, 4))
        body = struct.pack("!BBHI", kind, self.rng.choice((0, 3, 4)), 0, 0) + about[: self.rng.choice((28, 68, 400))]
        return self._ip(version, src, dst, ICMP if version == 4 else ICMP6, body)

    def _arp_frame(self, kind: str, me: End, you: End) -> bytes:
        own = self._mac(me, 0.85)
        if kind == "rarp" and self._chance(0.6):
            op, tha, spa, tpa = self.rng.choice((3, 4)), own, V4[0], V4[0]
        else:
            op = self.rng.choice((1, 1, 2, 2, 3, 4, 8, 9, 257))
            tha = self.rng.choice((b"\0" * 6, you.mac, me.mac))
            spa, tpa = self._address(me, 4, 0.8) if self._chance(0.85) else V4[0], self._address(you, 4)
        head = b"\0\1\x08\0\6\4" if self._chance(0.95) else self.rng.choice((b"\0\6\x08\0\6\4", b"\0\1\x86\xdd\6\4"))
        body = head + struct.pack("!H", op) + own + spa + tha + tpa
        target = self.rng.choice((BROADCAST, BROADCAST, you.mac))
        return self._ether(target, self._mac(me, 0.95), ARP if kind == "arp" else RARP, body)

    def _nd_frames(self, me: End, you: End) -> list[bytes]:
        kind = self.rng.choice((RS, RA, RA, NS, NS, NS, NA, NA, REDIRECT))
        src = self.rng.choice((self._address(me, 6), self._address(me, 6), V6[0]))
        body = struct.pack("!BBHI", kind, 0 if self._chance(0.95) else 1, 0, 0x60000000 if kind == NA else 0)
        if kind in (NS, NA, REDIRECT):
            body += self._address(me if kind == NA or src == V6[0] else you, 6)
        if kind == REDIRECT:
            body += self._address(you, 6)
        body += b"\0" * 8 if kind == RA else b""
        for _ in range(self.rng.choice((0, 0, 1, 1, 1, 2, 3))):
            option = self.rng.choice((2 if kind == NA else 1,) * 4 + (1, 2, 5, 14, 25))
            size = self.rng.choice((1, 1, 1, 1, 1, 1, 2, 0))
            named = self.rng.choice((me.mac, me.mac, me.mac, you.mac, b"\0" * 6))
            body += bytes([option, size]) + named + b"\0" * 8 * (size - 1)
        unicast = self._chance(0.4)
        dst = you.v6[-1] if unicast else self.rng.choice((V6[2], V6[3], V6[5]))
        target = you.mac if unicast else b"\x33\x33" + dst[12:]
        made = self._ip(6, src, dst, ICMP6, body, hops=255 if self._chance(0.9) else self.rng.choice((0, 1, 64, 254)))
        return [self._ether(target, self._mac(me, 0.96), IP6, part) for part in made]

    # ----- packets

    def _ip(self, version: int, src: bytes, dst: bytes, protocol: int, body: bytes, hops: int = 64) -> list[bytes]:
        """One packet, or the fragments of one."""
        body = _summed(version, src, dst, protocol, body)
        self._ident = (self._ident + 1) & 0xFFFFFFFF
        if self._chance(0.85):
            return [self._packet(version, src, dst, protocol, body, hops)]
        atomic = version == 6 and self._chance(0.25)
        if not atomic and self._chance(0.6):  # the tracker takes no small fragments
            body = _summed(version, src, dst, protocol, body + self.rng.randbytes(1304 - len(body) % 8))
        size = self.rng.choice((0, 8, 16, 400, 480, 800, 1296)) // 8 * 8
        cuts = sorted({0, min(size, len(body) // 8 * 8), len(body) // 2 // 8 * 8 if self._chance(0.3) else 0})
        cuts = [0] if atomic else cuts
        parts = [(cut, body[cut:end], end < len(body)) for cut, end in zip(cuts, [*cuts[1:], len(body)], strict=True)]
        if size == 0 and not atomic:
            parts.insert(0, (0, b"", True))
        if self._chance(0.2):  # overlaps, or says the same again
            cut, part, more = self.rng.choice(parts)
            parts.append((max(0, cut - 8 * self.rng.randint(0, 2)), self.rng.randbytes(8) + part, more))
        if self._chance(0.3):
            self.rng.shuffle(parts)
        if len(parts) > 1 and self._chance(0.1):
            parts.pop()
        return [self._packet(version, src, dst, protocol, part, hops, (cut, more)) for cut, part, more in parts]

    def _packet(self, version: int, src: bytes, dst: bytes, protocol: int, body: bytes, hops: int,
                fragment: tuple[int, bool] | None = None) -> bytes:  # fmt: skip
        if version == 4:
            options = b"" if self._chance(0.9) else self.rng.choice((b"\x94\4\0\0", b"\1" * 4, b"\x83\7\4\x0a\0\0\2\0"))
            cut, more = fragment or (0, False)
            flags = cut >> 3 | more << 13 | (0 if fragment else self.rng.choice((0, 0x4000)))
            head = struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0, 20 + len(options) + len(body),
                               self._ident & 0xFFFF, flags, hops, protocol, 0) + src + dst + options  # fmt: skip
            head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
            return head + body
        if fragment:
            cut, more = fragment
            inner = protocol, body
            if cut == 0 and self._chance(0.3):
                # Options that go on in the next fragment, or end in this one.
                hides = self._chance(0.5)
                inner = (OPTIONS, bytes([protocol, 9]) + b"\1\4\0\0\0\0") if hides else self._extended(protocol, body)
            protocol, body = FRAGMENT, struct.pack("!BBHI", inner[0], 0, cut | more, self._ident) + inner[1]
        if self._chance(0.2):
            protocol, body = self._extended(protocol, body)
        size = 0 if protocol == HOP_BY_HOP and self._chance(0.3) else len(body)
        return struct.pack("!IHBB", 6 << 28, size, protocol, hops) + src + dst + body

    def _extended(self, protocol: int, body: bytes) -> tuple[int, bytes]:
        """Behind some extension headers, in no order."""
        for _ in range(self.rng.randint(1, 3)):
            kind = self.rng.choice((*EXTENSIONS, OPTIONS))
            if kind == AUTH:
                body = bytes([protocol, 4]) + b"\0" * 22 + body
            else:
                fill = b"\0\0\0\0\0\0" if kind == ROUTING else b"\1\4\0\0\0\0"
                body = bytes([protocol, self.rng.choice((0, 0, 0, 1))]) + fill + body
                body = body[:8] + (b"\1\6" + b"\0" * 6 if body[1] else b"") + body[8:]
            protocol = kind
        return protocol, body

    # ----- frames

    def _ether(self, dst: bytes, src: bytes, kind: int, body: bytes) -> bytes:
        words = struct.pack("!H", kind)
        if self._chance(0.08):
            tci = struct.pack("!H", self.rng.choice((0, 0x2000, 0x1000, 5, 4095)))
            words = self.rng.choice((
                b"\x81\0" + tci + words, b"\x88\xa8" + tci + words, b"\x91\0" + tci + words,
                b"\x88\xa8" + tci + b"\x81\0" + tci + words, b"\x81\0" + tci + b"\x81\0" + tci + words,
                b"\x88\x47\0\0\x11\xff", struct.pack("!H", min(1500, len(body) + 8)) + b"\xaa\xaa\3\0\0\0" + words,
                struct.pack("!H", min(1500, len(body) + 3)) + b"\x42\x42\3",
                struct.pack("!H", 0x05FF) + b"\xaa\xaa\3\0\0\0" + words,
                struct.pack("!H", 48) + b"\xaa\xaa\3\0\0\xf8" + words,
            ))  # fmt: skip
        made = dst + src + words + body
        return made.ljust(60, b"\0") if self._chance(0.5) else made + self.rng.randbytes(self.rng.choice((0, 0, 0, 5)))

    def _mutated(self, data: bytes) -> bytes:
        self._pool = [*self._pool[-63:], data]
        if not self.mutate or self._chance(0.6):
            return data
        made = bytearray(data)
        for _ in range(self.rng.choice((1, 1, 1, 2, 3))):
            at = self.rng.randrange(min(len(made), 90) if self._chance(0.8) else len(made))
            match self.rng.randrange(8):
                case 0 | 1 | 2:
                    made[at] ^= 1 << self.rng.randrange(8)
                case 3 | 4:
                    made[at] = self.rng.choice(
                        (0, 1, 6, 17, 44, 58, 60, 67, 68, 134, 135, 136, 255, self.rng.getrandbits(8))
                    )
                case 5:
                    other = self.rng.choice(self._pool)[at:][: self.rng.choice((1, 2, 4, 6, 16))]
                    made[at : at + len(other)] = other
                case 6:
                    del made[max(14, self.rng.choice((at, len(made) - 1, len(made) - 8))) :]
                case 7:
                    made += self.rng.randbytes(self.rng.randint(1, 20))
        return _repaired(bytes(made)) if self._chance(0.7) else bytes(made)


def _summed(version: int, src: bytes, dst: bytes, protocol: int, body: bytes) -> bytes:
    """A transport header with its checksum, where there is one."""
    at = {TCP: 16, UDP: 6, ICMP: 2, ICMP6: 2}.get(protocol, 0)
    if not at or len(body) < at + 2:
        return body
    if protocol == UDP and len(body) <= 0xFFFF:
        body = body[:4] + struct.pack("!H", len(body)) + body[6:]
    body = body[:at] + b"\0\0" + body[at + 2 :]
    pseudo = b"" if protocol == ICMP else src + dst + struct.pack("!II", len(body), protocol)
    return body[:at] + struct.pack("!H", checksum(pseudo + body) or 0xFFFF) + body[at + 2 :]


def _repaired(data: bytes) -> bytes:
    """With checksums that are right, so that damage elsewhere is looked at."""
    ip = next((reading.ip for reading in read(data) if reading.ip), None)
    if ip is None:
        return data
    if ip.version == 4:
        start = data.find(ip.source + ip.destination) - 12
        head = data[start : start + 10] + b"\0\0" + data[start + 12 : ip.at]
        data = data[: start + 10] + struct.pack("!H", checksum(head)) + data[start + 12 :]
    if ip.piece is not Piece.WHOLE or ip.protocol is None:
        return data
    body = _summed(ip.version, ip.source, ip.destination, ip.protocol, ip.body)
    return data[: ip.at] + body + data[ip.at + len(body) :]
