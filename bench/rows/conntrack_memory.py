"""Row `conntrack-memory`: what ovs-vswitchd holds in memory for the connections that it tracks."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Sequence

from lab.machine import Machine
from lab.system import LabError, in_netns

from .. import datapath
from ..datapath import OVN, SLIDES, Contestant
from ..judges import at_most, times
from ..row import US, Plot, Row, Run, Series

WHO = (SLIDES, US, OVN)
MEMORY, ENTRIES, EACH = "memory of tracked connections", "entries of a connection", "memory of a connection"
SIZES, QUICK_SIZES = (10_000, 50_000, 100_000, 200_000), (500, 1_000)
PACKETS_PER_SECOND = 40_000  # that the receive buffer of a port survives
TRIES = 20


def measure(run: Run) -> Iterator[Series]:
    with datapath.contestants(WHO, 0) as built:
        yield from measured(run, built)


def measured(run: Run, built: Sequence[Contestant]) -> Iterator[Series]:
    sizes = QUICK_SIZES if run.quick else SIZES
    grown: dict[tuple[str, int], list[float]] = {}
    entries: dict[str, list[float]] = {}
    each: dict[str, list[float]] = {}
    for turn in range(run.runs):
        for number, one in enumerate(built):
            run.progress(f"{one.who}, run {turn + 1}", (turn + number / len(built)) / run.runs)
            points = fill(one, sizes)
            for size, (_, growth) in points.items():
                grown.setdefault((one.who, size), []).append(growth / 1e6)
            last = points[sizes[-1]]
            entries.setdefault(one.who, []).append(last[0] / sizes[-1])
            each.setdefault(one.who, []).append(last[1] / sizes[-1])
    for (who, size), values in grown.items():
        yield Series(who, MEMORY, "MB", tuple(values), x=size)
    for what, unit, found in ((ENTRIES, "entries", entries), (EACH, "bytes", each)):
        for who, values in found.items():
            yield Series(who, what, unit, tuple(values))


def fill(one: Contestant, sizes: Sequence[int]) -> dict[int, tuple[int, int]]:
    """For each number of connections: how many entries they have, and by how many bytes the process grew."""
    one.restart()
    memory, known, each = one.memory(), one.connections(), 0
    chunk, found = sizes[0] // 10, {}
    packets = small_packets(one.client, one.server)
    with in_netns(one.client.netns, packet_socket) as out:
        for last in range(chunk, sizes[-1] + 1, chunk):
            sent = [packet for packet, _ in zip(packets, range(chunk), strict=False)]
            for _ in range(TRIES):
                send(out, sent)
                entries = settled(one)
                each = each or round(entries / chunk)
                # Nearly all: on a busy machine the first of them may be forgotten before the last is there.
                if each and entries >= 0.998 * each * last:
                    break
            else:
                raise LabError(f"{one.who}: {entries} entries of {last} connections")
            if last in sizes:
                found[last] = entries - known, one.memory() - memory
    return found


def packet_socket() -> socket.socket:
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    out.bind(("eth0", 0))
    return out


def small_packets(source: Machine, target: Machine) -> Iterator[bytes]:
    """The smallest UDP packets from one to the other, each of a connection of its own."""
    ends = socket.inet_aton(source.address()) + socket.inet_aton(target.address())
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0, 64, socket.IPPROTO_UDP, 0)
    ip = ip[:10] + struct.pack("!H", checksum(ip + ends)) + ends
    head = bytes.fromhex(f"{target.mac}{source.mac}0800".replace(":", "")) + ip
    for target_port in range(2000, 65536):
        for source_port in range(1024, 65536):
            # Without a checksum, as UDP over IPv4 may be.
            yield head + struct.pack("!HHHH", source_port, target_port, 8, 0)


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def send(out: socket.socket, packets: Sequence[bytes]) -> None:
    start = time.perf_counter()
    for number, packet in enumerate(packets):
        out.send(packet)
        if number % 64 == 0:
            time.sleep(max(0.0, number / PACKETS_PER_SECOND - (time.perf_counter() - start)))


def settled(one: Contestant) -> int:
    """Entries, once the packets on the way have arrived."""
    before = -1
    while (now := one.connections()) != before:
        before = now
        time.sleep(0.005)
    return now


ROW = Row(
    "conntrack-memory",
    "Memory of connection tracking",
    "One small UDP packet for each connection (which lives for a minute), up to 200,000, sent through two "
    "machines of one hypervisor; by how much the memory of ovs-vswitchd grew, and how many entries its "
    "connection tracker has. Each run begins with a new ovs-vswitchd. *one zone* is the pipeline of the talk's "
    "slides, which tracks what arrives. Ours judges both ends of a connection, each in the zone of its own "
    "port: two entries when both are on this hypervisor, one when the other is elsewhere. OVN too has two; with "
    "`nat` in its actions, as OVN writes them, an entry is twice as large. Without tracking there is nothing to "
    "hold. Userspace datapath: the kernel's entries have other sizes.",
    measure,
    (
        at_most("two entries for each connection", ENTRIES, 2.01),
        at_most("700 bytes for each connection", EACH, 700),
        times("0.6 of OVN's", EACH, 0.6, than=OVN),
    ),
    (Plot("conntrack-memory", "Memory of tracked connections", "connections", "MB", (MEMORY,)),),
)
