"""Flows of the contestants that have no controller, in the words of ovs-ofctl(8).

All admit the same: between the two machines tcp to ports 5201 and 80, udp and icmp, from `NETWORK`; each machine sends
from its own addresses alone; and there are `others` more rules, for machines that say nothing meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lab.machine import Machine

NETWORK = "10.1.0.0/16"
TCP_PORTS = (5201, 80)
Ends = Sequence[tuple[int, Machine]]  # OpenFlow port and who is behind it

_NEUTRON = Path(__file__).with_name("neutron.flows")


def other_source(number: int) -> str:
    """Whom the rule admits that nobody meets."""
    return f"172.16.{number % 256}.0/24"


def other_port(number: int) -> int:
    return 1000 + number % 50


def normal(_ends: Ends, _count: int) -> Iterator[str]:
    """A switch and nothing more."""
    yield "priority=0,actions=NORMAL"


def _own(port: int, machine: Machine, action: str) -> Iterator[str]:
    """The talk's table 0: a machine is who it claims to be."""
    address = machine.address()
    yield f"table=0,priority=2010,arp,in_port={port},arp_sha={machine.mac},arp_spa={address},actions=NORMAL"
    yield f"table=0,priority=2000,ip,in_port={port},dl_src={machine.mac},nw_src={address},actions={action}"


def _services(sides: Iterable[str] = ("tp_dst",)) -> Iterator[str]:
    for side in sides:
        yield from (f"tcp,nw_src={NETWORK},{side}={port}" for port in TCP_PORTS)
    yield from (f"{protocol},nw_src={NETWORK}" for protocol in ("udp", "icmp"))


def _others(table: int, count: int, state: str, action: str) -> Iterator[str]:
    for i in range(count):
        mac = f"02:77:00:00:{i // 50 >> 8:02x}:{i // 50 & 255:02x}"
        rule = f"{state}tcp,dl_dst={mac},nw_src={other_source(i)},tp_dst={other_port(i)}"
        yield f"table={table},priority=1000,{rule},actions={action}"


def stateless(ends: Ends, others: int) -> Iterator[str]:
    """Access lists in both directions and no connection tracking, as before OvS 2.5."""
    yield "table=0,priority=100,actions=drop"
    for port, machine in ends:
        yield from _own(port, machine, "resubmit(,1)")
        for service in _services(("tp_dst", "tp_src")):  # what answers comes from the port that was asked
            yield f"table=1,priority=1000,dl_dst={machine.mac},{service},actions=resubmit(,5)"
    yield from _others(1, others, "", "resubmit(,5)")
    yield "table=1,priority=100,actions=drop"
    yield "table=5,actions=NORMAL"


def slides(ends: Ends, others: int) -> Iterator[str]:
    """The talk's c1, c2, c3: what arrives is tracked, in one zone of the server's; replies are known there too."""
    yield "table=0,priority=100,actions=drop"
    for port, machine in ends:
        yield from _own(port, machine, "resubmit(,2)")
        yield f"table=2,priority=110,ip,dl_dst={machine.mac},actions=ct(table=3,zone=1)"
        for service in _services():
            match = f"ct_state=+new+trk,dl_dst={machine.mac},{service}"
            yield f"table=4,priority=1000,{match},actions=ct(commit,zone=1,table=5)"
    yield "table=2,priority=100,actions=resubmit(,5)"
    yield "table=3,priority=210,ct_state=+inv+trk,actions=drop"
    yield "table=3,priority=202,ct_state=+est+trk,ip,actions=resubmit(,5)"
    yield "table=3,priority=202,ct_state=+rel+trk,ip,actions=resubmit(,5)"
    yield "table=3,priority=200,actions=resubmit(,4)"
    yield from _others(4, others, "ct_state=+new+trk,", "ct(commit,zone=9,table=5)")
    yield "table=4,priority=100,actions=drop"
    yield "table=5,actions=NORMAL"


def neutron(ends: Ends, others: int) -> Iterator[str]:
    """As its driver wrote them: the driver itself needs a virtual environment of 200 packages."""
    per_port, common = (
        [line for line in part.splitlines() if line and not line.startswith("#")]
        for part in _NEUTRON.read_text().split("\n\n")
    )
    for port, machine in ends:
        words = {"port": port, "mac": machine.mac, "address": machine.address(), "link_local": machine.link_local}
        yield from (line.format(**words, network=NETWORK) for line in per_port)
    yield from common
    for i in range(others):
        rule = f"tcp,reg5={100 + i // 50},nw_src={other_source(i)},tp_dst={other_port(i)}"
        yield f"table=82,priority=77,ct_state=+est-rel-rpl,{rule},actions=output:99"
        commit = "ct(commit,zone=NXM_NX_REG6[0..15]),output:99,resubmit(,92)"
        yield f"table=82,priority=77,ct_state=+new-est,{rule},actions={commit}"
