"""Frames that no policy of the fault tests allows: every kind, each with a mark and a number of its own.

Built by hand, as attackers would: with others' addresses, in the middle of connections that there are not.  Which of
them are forbidden is up to who sends them; here is only how they look.
"""

from __future__ import annotations

import ipaddress
import itertools
import struct
from collections.abc import Iterator

from .agent import checksum, mac
from .machine import Machine
from .traffic import MARKED, TOKEN, Probe

ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
SYN, RST, ACK = 2, 4, 16
_numbers = itertools.count(1)


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def ip_frame(dst_mac: str, src_mac: str, src: str, dst: str, protocol: int, payload: bytes) -> bytes:
    """An Ethernet frame, marked; the payload's checksum (at its usual place, as zero) is filled in."""
    pseudo = packed(src) + packed(dst) + struct.pack("!II", len(payload), protocol)
    at = {TCP: 16, UDP: 6, ICMP: 2, ICMP6: 2}[protocol]
    summed = checksum((b"" if protocol == ICMP else pseudo) + payload)
    if protocol == UDP:
        summed = summed or 0xFFFF  # 0 would say that there is none
    payload = payload[:at] + struct.pack("!H", summed) + payload[at + 2 :]
    ethernet = mac(dst_mac) + mac(src_mac)
    if ":" in src:
        head = struct.pack("!IHBB", 6 << 28 | MARKED, len(payload), protocol, 64) + packed(src) + packed(dst)
        return ethernet + b"\x86\xdd" + head + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), MARKED, 0, 64, protocol, 0) + packed(src) + packed(dst)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return ethernet + b"\x08\x00" + head + payload


def udp(sport: int, dport: int) -> bytes:
    return struct.pack("!HHHH", sport, dport, 8 + TOKEN, 0)


def tcp(sport: int, dport: int, flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", sport, dport, 1000, 2000, 0x50, flags, 65535, 0, 0)


def between(
    sender: Machine,
    target: Machine,
    *,
    udp_ports: tuple[int, ...] = (81,),
    tcp_ports: tuple[int, ...] = (81,),
    claims: Machine | None = None,
    claims_mac: bool = False,
    guarded: bool = False,
) -> Iterator[Probe]:
    """Every kind of packet from one machine to another, on both IP versions.

    `claims`: with the addresses of this machine as the source, and with its MAC if `claims_mac`.
    """
    said = claims or sender
    source_mac = said.mac if claims_mac else sender.mac
    as_whom = f" as {said.name}" + (" with its MAC" if claims_mac else "") if claims else ""
    for version in (4, 6):
        src, dst = said.address(version), target.address(version)
        icmp, request, reply = (ICMP, 8, 0) if version == 4 else (ICMP6, 128, 129)

        def probe(what: str, protocol: int, head: bytes, v: int = version, s: str = src, d: str = dst) -> Probe:
            data = (b"%d" % next(_numbers)).rjust(TOKEN, b"#")
            frame = ip_frame(target.mac, source_mac, s, d, protocol, head + data)
            return Probe(f"{sender.name}{as_whom} to {target.name}: {what}, IPv{v}", sender, frame, guarded)

        for port in udp_ports:
            yield probe(f"UDP {port}", UDP, udp(4100, port))
        for port in tcp_ports:
            yield probe(f"TCP SYN {port}", TCP, tcp(4101, port, SYN))
        yield probe(f"TCP SYN+ACK {tcp_ports[0]}", TCP, tcp(4102, tcp_ports[0], SYN | ACK))
        yield probe(f"TCP ACK {tcp_ports[0]}", TCP, tcp(4103, tcp_ports[0], ACK))
        yield probe(f"TCP RST {tcp_ports[0]}", TCP, tcp(4104, tcp_ports[0], RST))
        yield probe("echo request", icmp, bytes([request, 0, 0, 0, 0, 7, 0, 1]))
        yield probe("echo reply", icmp, bytes([reply, 0, 0, 0, 0, 7, 0, 1]))
