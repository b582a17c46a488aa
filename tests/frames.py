"""Raw Ethernet frames as hex, for what no honest network stack would send."""

from __future__ import annotations

import ipaddress
import struct

BROADCAST = "ff:ff:ff:ff:ff:ff"


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
