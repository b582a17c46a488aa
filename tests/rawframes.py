"""Conversations by hand: segments, datagrams, ICMP errors and fragments, byte by byte.

An `End` is an address of a machine that its kernel does not have, so that the kernel neither answers nor resets what a
test says.  Whether a frame arrives is known without waiting: behind it goes an ARP answer, which needs no rule, by the
same way; when that is there and the frame is not, the frame was dropped.  Knows nothing of rules.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from frames import arp, checksum, ethernet, icmp6, ip_bytes, ipv4, ipv6, udp

from lab.machine import Machine
from lab.system import LabError

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
ICMP, TCP, UDP, FRAGMENT, ICMP6 = 1, 6, 17, 44, 58
HOP_BY_HOP, ROUTING, OPTIONS = 0, 43, 60  # IPv6 extension headers
_numbers = itertools.count(1)


@dataclass(frozen=True)
class End:
    """One end of a conversation."""

    machine: Machine = field(compare=False)
    version: int
    address: str


def end(machine: Machine, version: int = 4, host: int = 0) -> End:
    """The machine's own address beyond its kernel; other hosts stand for whoever else is behind it."""
    number = int(machine.mac.replace(":", ""), 16) & 0xFF
    made = f"10.1.{9 + host}.{number}" if version == 4 else f"fd00:1::{9 + host:x}:{number:x}"
    return End(machine, version, made)


def ends(machine: Machine) -> list[str]:
    """What a port must have as addresses besides those of the kernel, for `end` to be the machine's own."""
    return [end(machine, version).address for version in (4, 6)]


def delivered(sender: Machine, receiver: Machine, frames: Iterable[str]) -> list[str]:
    """Those of the frames that come out at the receiver, as they come."""
    sent = list(frames)
    token = f"{next(_numbers):016}"
    answer = arp(2, sender.mac, sender.address(4), receiver.mac, receiver.address(4))
    last = ethernet(receiver.mac, sender.mac, 0x0806, answer + token.encode())
    receiver.call("capture", capture=token, src=sender.mac)
    sender.call("send_frames", frames=sent)
    seen: list[str] = []
    for seconds in (2, 5, 10):  # the last frame says that those before it have had their time; it may be lost itself
        sender.call("send_frames", frames=[last])
        seen = receiver.call("captured", capture=token, seconds=seconds, until=token.encode().hex(), end=seconds == 10)
        if last in seen:
            break
    else:
        raise LabError(f"not even ARP passes from {sender.name} to {receiver.name}")
    return [frame for frame in seen if frame in sent]


def passes(source: End, target: End, packet: bytes) -> bool:
    """Whether a packet between two ends arrives."""
    return bool(delivered(source.machine, target.machine, [framed(source, target, packet)]))


def framed(source: End, target: End, packet: bytes) -> str:
    """Its frame, without padding: what tracks connections cuts that off."""
    kind = 0x0800 if source.version == 4 else 0x86DD
    return ethernet(target.machine.mac, source.machine.mac, kind, packet)[: 2 * (14 + len(packet))]


def packet(source: End, target: End, protocol: int, payload: bytes) -> bytes:
    build = ipv4 if source.version == 4 else ipv6
    return build(source.address, target.address, protocol, payload)


def segment(
    source: End, target: End, ports: tuple[int, int], flags: int, seq: int = 1, ack: int = 0, data: bytes = b"",
    spoil: int = 0,
) -> bytes:  # fmt: skip
    """A TCP segment in its packet; `spoil` is added to the checksum."""
    head = struct.pack("!HHIIBBHHH", *ports, seq, ack, 0x50, flags, 65535, 0, 0)
    pseudo = ip_bytes(source.address) + ip_bytes(target.address) + struct.pack("!II", len(head + data), TCP)
    right = checksum(pseudo + head + data)
    head = head[:16] + struct.pack("!H", (right + spoil) & 0xFFFF) + head[18:]
    return packet(source, target, TCP, head + data)


def datagram(source: End, target: End, ports: tuple[int, int], data: bytes = b"datagram") -> bytes:
    return packet(source, target, UDP, udp(source.address, target.address, *ports, data))


def echo(source: End, target: End, identity: int, size: int = 16, reply: bool = False) -> tuple[int, bytes]:
    """An echo request or reply: its protocol and what goes into its packet."""
    body = struct.pack("!HH", identity, 1) + bytes(i & 0xFF for i in range(size))
    if source.version == 6:
        return ICMP6, icmp6(source.address, target.address, 129 if reply else 128, body)
    head = struct.pack("!BBH", 0 if reply else 8, 0, 0) + body
    return ICMP, head[:2] + struct.pack("!H", checksum(head)) + head[4:]


def icmp_error(source: End, target: End, kind: tuple[int, int], about: bytes, word: int = 0) -> bytes:
    """An ICMP error of (type, code) about a packet; `word` is what follows the checksum, as the MTU."""
    body = struct.pack("!I", word) + about[:1200]
    if source.version == 6:
        return packet(source, target, ICMP6, icmp6(source.address, target.address, kind[0], body, kind[1]))
    head = struct.pack("!BBH", *kind, 0) + body
    return packet(source, target, ICMP, head[:2] + struct.pack("!H", checksum(head)) + head[4:])


class Talk:
    """What connections of both protocols have in common: two ends, and who hears whom."""

    protocol = ""

    def __init__(self, client: End, server: End, client_port: int, server_port: int) -> None:
        self.client, self.server = client, server
        self.ports = client_port, server_port

    def open(self) -> bool:
        raise NotImplementedError

    def says(self, who: End) -> bool:
        """Whether what one end says in the open conversation arrives at the other."""
        raise NotImplementedError

    def last(self, who: End) -> bytes:
        """A packet as `who` would have sent it, for ICMP errors to be about."""
        raise NotImplementedError

    def heard(self, first: End | None = None) -> str:
        """Which ends are heard: "both", "client", "server" or "none".

        The server speaks first, unless told: what it says is a reply, which is where a firewall is tempted.
        """
        order = (self.client, self.server) if first == self.client else (self.server, self.client)
        through = {who: self.says(who) for who in order}
        if all(through.values()):
            return "both"
        return "client" if through[self.client] else "server" if through[self.server] else "none"

    def _way(self, who: End) -> tuple[End, End, tuple[int, int]]:
        if who == self.client:
            return self.client, self.server, self.ports
        return self.server, self.client, (self.ports[1], self.ports[0])


class Udp(Talk):
    protocol = "udp"

    def open(self) -> bool:
        return self.says(self.client) and self.says(self.server)

    def says(self, who: End) -> bool:
        return passes(*self._way(who)[:2], self.last(who))

    def last(self, who: End) -> bytes:
        return datagram(*self._way(who))


class Tcp(Talk):
    """Keeps the sequence numbers; what did not arrive is said again next time, as a kernel would."""

    protocol = "tcp"

    def __init__(self, client: End, server: End, client_port: int, server_port: int) -> None:
        super().__init__(client, server, client_port, server_port)
        self.next = {client: 1000, server: 5000}

    def open(self) -> bool:
        return (
            self.send(self.client, SYN, ack=False)
            and self.send(self.server, SYN | ACK)
            and self.send(self.client, ACK)
            and self.says(self.client)
            and self.says(self.server)
        )

    def says(self, who: End) -> bool:
        return self.send(who, PSH | ACK, b"twelve bytes")

    def last(self, who: End) -> bytes:
        way = self._way(who)
        return segment(*way, PSH | ACK, self.next[who], self.next[way[1]], b"twelve bytes")

    def send(self, who: End, flags: int, data: bytes = b"", *, ack: bool = True, ahead: int = 0) -> bool:
        """One segment; `ahead`: so many bytes beyond what comes next."""
        source, target, ports = self._way(who)
        made = segment(source, target, ports, flags, self.next[who] + ahead, self.next[target] if ack else 0, data)
        arrived = passes(source, target, made)
        if arrived and not ahead:
            self.next[who] += len(data) + bool(flags & (SYN | FIN))
        return arrived

    def again(self) -> None:
        """The same four numbers, for a connection that is new."""
        self.next = {who: number + 1_000_000 for who, number in self.next.items()}


# ---- fragments


def fragments(
    source: End, target: End, protocol: int, payload: bytes, size: int = 1400, *, ident: int = 0, before: bytes = b"",
) -> list[str]:  # fmt: skip
    """The frames of one packet in fragments of `size` bytes (of 8), in order.

    `before` are IPv6 extension headers in front of the fragment header, the first byte of each the next header; they
    begin with the number of the first.
    """
    ident = ident or next(_numbers)
    return [
        fragment(source, target, protocol, payload[at : at + size], at, at + size < len(payload), ident, before)
        for at in range(0, len(payload), size)
    ]


def fragment(
    source: End, target: End, protocol: int, part: bytes, at: int, more: bool, ident: int, before: bytes = b"",
) -> str:  # fmt: skip
    """One fragment, which holds `part` of the payload from byte `at`."""
    if source.version == 6:
        head = struct.pack("!BBHI", protocol, 0, at | more, ident)
        first, chain = (before[0], before[1:]) if before else (FRAGMENT, b"")
        return framed(source, target, ipv6(source.address, target.address, first, chain + head + part))
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(part), ident & 0xFFFF, at >> 3 | more << 13, 64, protocol, 0,
        ip_bytes(source.address), ip_bytes(target.address),
    )  # fmt: skip
    return framed(source, target, head[:10] + struct.pack("!H", checksum(head)) + head[12:] + part)
