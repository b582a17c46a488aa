"""Raw Ethernet frames as hex, for what no honest network stack would send; and at which machines they come out."""

from __future__ import annotations

import ipaddress
import itertools
import struct
import time
from collections.abc import Collection, Mapping

from lab.machine import Machine

BROADCAST = "ff:ff:ff:ff:ff:ff"
NOBODY = "00:00:00:00:00:00"  # in ARP, what is asked for


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ip_bytes(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(dst: str, src: str, ethertype: int, payload: bytes, vlan: int | None = None) -> str:
    tag = struct.pack("!HH", 0x8100, vlan) if vlan is not None else b""
    return (mac_bytes(dst) + mac_bytes(src) + tag + struct.pack("!H", ethertype) + payload).ljust(60, b"\0").hex()


def ipv4(src: str, dst: str, protocol: int, payload: bytes, ttl: int = 64) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, ttl, protocol, 0) + ip_bytes(src) + ip_bytes(dst)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ipv6(src: str, dst: str, next_header: int, payload: bytes, hops: int = 255) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(payload), next_header, hops) + ip_bytes(src) + ip_bytes(dst) + payload


def _sum(src: str, dst: str, protocol: int, data: bytes) -> int:
    return checksum(ip_bytes(src) + ip_bytes(dst) + struct.pack("!II", len(data), protocol) + data)


def udp(src: str, dst: str, sport: int, dport: int, data: bytes = b"probe") -> bytes:
    head = struct.pack("!HHHH", sport, dport, 8 + len(data), 0)
    return head[:6] + struct.pack("!H", _sum(src, dst, 17, head + data) or 0xFFFF) + data


def tcp(src: str, dst: str, sport: int, dport: int, flags: int, seq: int = 1, ack: int = 0) -> bytes:
    head = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 0x50, flags, 65535, 0, 0)
    return head[:16] + struct.pack("!H", _sum(src, dst, 6, head)) + head[18:]


def icmp6(src: str, dst: str, kind: int, body: bytes, code: int = 0) -> bytes:
    head = struct.pack("!BBH", kind, code, 0) + body
    return head[:2] + struct.pack("!H", _sum(src, dst, 58, head)) + head[4:]


def arp(op: int, sha: str, spa: str, tha: str, tpa: str) -> bytes:
    parts = mac_bytes(sha) + ip_bytes(spa) + mac_bytes(tha) + ip_bytes(tpa)
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, op) + parts


def neighbour_advert(src: str, dst: str, target: str, tll: str, hops: int = 255) -> bytes:
    body = struct.pack("!I", 0x60000000) + ip_bytes(target) + b"\2\1" + mac_bytes(tll)
    return ipv6(src, dst, 58, icmp6(src, dst, 136, body), hops)


def neighbour_solicit(src: str, dst: str, target: str, *slls: str) -> bytes:
    body = struct.pack("!I", 0) + ip_bytes(target) + b"".join(b"\1\1" + mac_bytes(sll) for sll in slls)
    return ipv6(src, dst, 58, icmp6(src, dst, 135, body))


def first_fragment(src: str, dst: str, next_header: int, payload: bytes) -> bytes:
    """The first of several fragments."""
    return ipv6(src, dst, 44, struct.pack("!BBHI", next_header, 0, 1, 7) + payload)


def router_advert(src: str, lladdr: str, options: bytes = b"") -> bytes:
    dst = "ff02::1"
    body = struct.pack("!BBHII", 64, 0, 1800, 0, 0) + b"\1\1" + mac_bytes(lladdr)
    payload = icmp6(src, dst, 134, body)
    if options:  # an extension header in front, whose first byte is the next header
        return ipv6(src, dst, options[0], bytes([58]) + options[1:] + payload)
    return ipv6(src, dst, 58, payload)


# ---- whole frames, and more of what hosts say to one another


def multicast_mac(group: str) -> str:
    """The Ethernet address of an IP multicast group (RFC 1112, RFC 2464)."""
    packed = ip_bytes(group)
    head = b"\x33\x33" + packed[12:] if len(packed) == 16 else b"\x01\x00\x5e" + bytes([packed[1] & 0x7F]) + packed[2:]
    return head.hex(":")


def solicited_node(address: str) -> str:
    return str(ipaddress.IPv6Address(ip_bytes("ff02::1:ff00:0")[:13] + ip_bytes(address)[13:]))


def ip_frame(dst_mac: str, src_mac: str, src: str, dst: str, protocol: int, payload: bytes, hops: int = 64) -> str:
    """IPv4 or IPv6, as the addresses say."""
    if ":" in src:
        return ethernet(dst_mac, src_mac, 0x86DD, ipv6(src, dst, protocol, payload, hops))
    return ethernet(dst_mac, src_mac, 0x0800, ipv4(src, dst, protocol, payload, hops))


def udp_frame(
    dst_mac: str, src_mac: str, src: str, dst: str, data: bytes = b"probe", sport: int = 5000, dport: int = 5001
) -> str:
    return ip_frame(dst_mac, src_mac, src, dst, 17, udp(src, dst, sport, dport, data))


def icmp6_frame(dst_mac: str, src_mac: str, src: str, dst: str, kind: int, body: bytes, hops: int = 255) -> str:
    return ip_frame(dst_mac, src_mac, src, dst, 58, icmp6(src, dst, kind, body), hops)


def fragment(src: str, dst: str, next_header: int, payload: bytes, offset: int = 0, more: bool = True) -> bytes:
    """A fragment of an IPv6 packet; `offset` in bytes, a multiple of 8."""
    return ipv6(src, dst, 44, struct.pack("!BBHI", next_header, 0, offset | more, 7) + payload)


def lladdr_option(kind: int, mac: str) -> bytes:
    """Neighbour discovery: 1 is the source's link-layer address, 2 the target's."""
    return bytes([kind, 1]) + mac_bytes(mac)


def redirect_body(target: str, destination: str) -> bytes:
    return struct.pack("!I", 0) + ip_bytes(target) + ip_bytes(destination)


def mld_report(src: str, group: str) -> bytes:
    """MLDv2 (RFC 3810): joins a group.  The hop-by-hop header says that routers should look at it."""
    dst = "ff02::16"
    body = struct.pack("!HHBBH", 0, 1, 4, 0, 0) + ip_bytes(group)
    return ipv6(src, dst, 0, bytes([58, 0, 5, 2, 0, 0, 1, 0]) + icmp6(src, dst, 143, body), hops=1)


def mld_query(src: str) -> bytes:
    dst = "ff02::1"
    body = struct.pack("!HH", 1000, 0) + bytes(16) + struct.pack("!BBH", 2, 125, 0)
    return ipv6(src, dst, 0, bytes([58, 0, 5, 2, 0, 0, 1, 0]) + icmp6(src, dst, 130, body), hops=1)


def dhcp4(kind: int, mac: str, yours: str = "0.0.0.0") -> bytes:
    """DHCP (RFC 2131): 1 discover, 2 offer, 3 request, 5 acknowledgement."""
    op = 2 if kind in (2, 5, 6) else 1
    head = struct.pack("!BBBBIHH", op, 1, 6, 0, 0x5EED, 0, 0) + bytes(4) + ip_bytes(yours) + bytes(8)
    return head + mac_bytes(mac).ljust(16, b"\0") + bytes(192) + b"\x63\x82\x53\x63" + bytes([53, 1, kind, 255])


def dhcp6(kind: int, mac: str) -> bytes:
    """DHCPv6 (RFC 8415): 1 solicit, 2 advertise, 3 request, 5 renew, 7 reply; with the client's identifier."""
    return struct.pack("!I", kind << 24 | 0x5EED) + struct.pack("!HHHH", 1, 10, 3, 1) + mac_bytes(mac)


# ---- where frames come out

_probes = itertools.count()


def last_frame(machine: Machine) -> str:
    """An ARP probe (RFC 5227) for a fresh address: allowed to every droplet, and delivered to everybody."""
    number = next(_probes)
    asked = f"192.0.{2 + (number >> 8) % 2}.{number & 255}"
    return ethernet(BROADCAST, machine.mac, 0x0806, arp(1, machine.mac, "0.0.0.0", NOBODY, asked))


def deliveries(
    machines: Mapping[str, Machine],
    sender: str,
    cases: Mapping[str, tuple[str, Collection[str]]],
    deaf: Collection[str] = (),
    seconds: float = 8,
) -> dict[str, set[str]]:
    """For each case (name -> frame, machines that should get it): the machines at whose interface it came out.

    Nothing tells that a frame was dropped; so a probe that everybody hears, the `deaf` aside, goes after them.
    What has not come when it is there and every frame that should come has come, will not.
    """
    names = {frame: name for name, (frame, _) in cases.items()}
    assert len(names) == len(cases), "two cases with one frame cannot be told apart"
    last = last_frame(machines[sender])
    hearers = set(machines) - {sender, *deaf}
    wanted = {receiver: {frame for frame, to in cases.values() if receiver in to} for receiver in machines}
    for receiver in hearers:
        wanted[receiver].add(last)
    for started in [machine.submit("capture", capture="deliveries") for machine in machines.values()]:
        started.result(30)
    machines[sender].call("send_frames", frames=[*names, last])

    def seen(end: bool = False) -> dict[str, set[str]]:
        asked = {name: m.submit("captured", capture="deliveries", end=end) for name, m in machines.items()}
        # a bridge on the way may take off what fills a short frame up
        return {name: {frame.ljust(120, "0") for frame in answer.result(30)} for name, answer in asked.items()}

    late = time.monotonic() + seconds
    while any(wanted[receiver] - frames for receiver, frames in seen().items()) and time.monotonic() < late:
        time.sleep(0.02)
    time.sleep(0.1)  # for a leak that another thread of the switch carries
    found = seen(end=True)
    silent = sorted(receiver for receiver in hearers if last not in found[receiver])
    assert not silent, f"the last frame of {sender} never came to {silent}: what was dropped cannot be told"
    return {name: {receiver for receiver in machines if frame in found[receiver]} for frame, name in names.items()}


def misdelivered(
    machines: Mapping[str, Machine],
    sender: str,
    cases: Mapping[str, tuple[str, Collection[str]]],
    deaf: Collection[str] = (),
) -> list[str]:
    """The cases that did not come out where they should, and nowhere else, in words."""
    found = deliveries(machines, sender, cases, deaf)
    return [
        f"{name}: came out at {sorted(found[name]) or 'nobody'}, should at {sorted(to) or 'nobody'}"
        for name, (_, to) in cases.items()
        if found[name] != set(to)
    ]
