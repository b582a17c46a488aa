"""The walker and a real ovs-vswitchd with the same flows: each frame must meet the same flows in both.

What the pipeline leans on: registers through nested tables and recirculation, several resubmits and loads in a row,
lookups under the tuple of a connection's first packet, `ct_state` beside registers, RARP.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from ovs_dummy import DummyOvs
from test_meaning_ovs import on_the_wire

from firewall_app.pipeline.flow import (
    CT_EST,
    CT_INV,
    CT_NEW,
    CT_RPL,
    CT_TRK,
    ETH_ARP,
    ETH_IP,
    FIELDS,
    IP_UDP,
    Action,
    Ct,
    Flow,
    Load,
    Match,
    Move,
    Output,
    Resubmit,
    Term,
    bits,
    match,
)
from firewall_app.pipeline.parse import ETH_RARP
from firewall_app.pipeline.tracker import Frame
from firewall_app.pipeline.walker import Bridge

pytestmark = pytest.mark.ovs
REGISTERS = sorted(name for name in FIELDS if name.startswith("reg"))
CLIENT, SERVER = 0x0A000001, 0x0A000002
OPENING = Frame(2, 4, ETH_IP, src=CLIENT, dst=SERVER, proto=IP_UDP, sport=1000, dport=53)
ANSWER = Frame(4, 2, ETH_IP, src=SERVER, dst=CLIENT, proto=IP_UDP, sport=53, dport=1000)
ANYTHING = match()
TRACKED = (CT_TRK, CT_INV | CT_TRK)  # which resubmit(,t,ct) asks for
NEW, REPLY = (CT_NEW | CT_TRK, CT_NEW | CT_TRK), (CT_RPL | CT_TRK, CT_RPL | CT_TRK)


@pytest.fixture(scope="module")
def ovs() -> Iterator[DummyOvs]:
    with tempfile.TemporaryDirectory(prefix="fw-") as directory, DummyOvs(Path(directory) / "ovs") as started:
        started.add_bridge("br0", ("p1", "p2"))
        yield started


def flow(table: int, priority: int, wanted: Match, *actions: Action) -> Flow:
    return Flow(table, priority, wanted, actions)


def meets(ovs: DummyOvs, flows: Sequence[Flow], frames: Sequence[Frame], wire: dict[Frame, bytes] | None = None):
    """Has both take the frames; returns the flows that each met, which must be the same, as positions in `flows`."""
    numbered = [replace(one, cookie=number) for number, one in enumerate(flows)]
    walker = Bridge()
    walker.install(numbered)
    simulated = [sorted(hit.cookie for hit in walker.walk(1, frame).hits) for frame in frames]

    bridge = f"unix:{ovs.mgmt('br0')}"
    ovs.appctl("dpctl/flush-conntrack")
    ovs.ofctl("-O", "OpenFlow14", "replace-flows", bridge, "-", stdin="\n".join(one.text for one in numbered))

    def counts() -> Counter[int]:
        ovs.appctl("revalidator/purge")
        dump = ovs.ofctl("-O", "OpenFlow14", "dump-flows", bridge)
        return Counter({int(c, 16): int(n) for c, n in re.findall(r"cookie=(0x[0-9a-f]+).*?n_packets=(\d+)", dump)})

    real, before = [], counts()
    for frame in frames:
        ovs.appctl("netdev-dummy/receive", "p1", (wire or {}).get(frame, b"").hex() or on_the_wire(frame).hex())
        after = counts()
        real.append(sorted((after - before).elements()))
        before = after
    assert simulated == real
    return real


@pytest.mark.parametrize("register", REGISTERS)
def test_what_a_nested_table_wrote_stays_written(ovs: DummyOvs, register: str) -> None:
    whole, low, high = bits(register), bits(register, 0, 15), bits(register, 16, 31)
    flows = [
        flow(0, 1, ANYTHING, Load(0x10005, whole), Resubmit(1), Resubmit(2), Resubmit(4)),
        flow(1, 1, match(**{register: 0x10005}), Load(6, low), Resubmit(3), Load(7, high)),
        flow(2, 2, match(**{register: 0x70006}), Output(2)),
        flow(2, 1, ANYTHING),
        flow(3, 1, match(**{register: 0x10006}), Resubmit(2), Load(9, low)),
        flow(4, 3, match(**{register: (0x70000, 0xFFFF0000)}), Output(2)),
        flow(4, 2, match(**{register: (9, 0xFFFF)})),
    ]
    assert meets(ovs, flows, [OPENING]) == [[0, 1, 3, 3, 4, 5]]


def test_no_flow_ends_the_nested_lookup_alone(ovs: DummyOvs) -> None:
    flows = [
        flow(0, 1, ANYTHING, Resubmit(1), Load(1, bits("reg4")), Resubmit(2), Resubmit(9)),
        flow(1, 1, match(reg4=1)),
        flow(2, 1, match(reg4=1), Resubmit(1)),
        flow(9, 1, match(reg4=1), Output(2)),
    ]
    assert meets(ovs, flows, [OPENING]) == [[0, 1, 2, 3]]


def judged(*rest: Flow) -> list[Flow]:
    """New connections are committed; replies are sent on to table 2, where `rest` begins (as number 4)."""
    zone = bits("reg5", 0, 15)
    return [
        flow(0, 1, match(eth_type=ETH_IP), Load(3, bits("reg5")), Ct(zone, 1)),
        flow(1, 2, match(eth_type=ETH_IP, ct_state=NEW), Load(1, bits("reg6")), Ct(zone, 9, commit=True)),
        flow(1, 1, match(eth_type=ETH_IP, ct_state=REPLY), Load(2, bits("reg6")), Resubmit(2, ct=True), Resubmit(8)),
        flow(9, 1, match(reg6=1, ct_state=NEW), Output(2)),
        *rest,
    ]


def test_the_tuple_of_the_connection_is_for_that_lookup_alone(ovs: DummyOvs) -> None:
    """What the table resubmits is looked up under the packet's own addresses, unless it says `ct` itself."""
    client = {"eth_type": ETH_IP, "ipv4_src": CLIENT, "ct_state": TRACKED}
    server = {"eth_type": ETH_IP, "ipv4_src": SERVER, "ct_state": TRACKED}
    ports = {"ip_proto": IP_UDP, "udp_src": 1000, "udp_dst": 53}
    flows = judged(
        flow(2, 1, match(**client, **ports), Load(7, bits("reg7")), Resubmit(3), Resubmit(4, ct=True), Resubmit(5)),
        flow(2, 1, match(**server)),
        flow(3, 1, match(**client)),
        flow(3, 1, match(**server), Resubmit(6, ct=True), Resubmit(7)),
        flow(4, 1, match(**client), Resubmit(7), Load(8, bits("reg7"))),
        flow(4, 1, match(**server)),
        flow(5, 1, match(reg7=8, **server), Output(2)),
        flow(6, 1, match(**client, **ports)),
        flow(6, 1, match(**server)),
        flow(7, 1, match(**client)),
        flow(7, 1, match(**server)),
        flow(8, 1, match(reg7=8, ct_state=REPLY, **{k: v for k, v in server.items() if k != "ct_state"})),
    )
    assert meets(ovs, flows, [OPENING, ANSWER]) == [[0, 1, 3], [0, 2, 4, 7, 8, 10, 11, 14, 14, 15]]


@pytest.mark.parametrize("register", REGISTERS)
def test_state_beside_registers(ovs: DummyOvs, register: str) -> None:
    """As a table of rules would have it: who it is in one register, which rules in another, and the state."""
    other = next(name for name in REGISTERS if name not in (register, "reg5", "reg6"))
    if register in ("reg5", "reg6"):
        register = "reg4" if other != "reg4" else "reg7"
    est = (CT_EST | CT_TRK, CT_EST | CT_NEW | CT_TRK)
    flows = judged(
        flow(2, 1, match(ct_state=est, reg6=2), Load(0xFFFFFFFF, bits(register)), Move(bits(register), bits(other)),
             Resubmit(3), Resubmit(4)),
        flow(3, 2, match(**{register: 0xFFFFFFFF, other: 0xFFFFFFFF}, ct_state=NEW)),
        flow(3, 1, match(**{register: 0xFFFFFFFF, other: (0xF0, 0xF0)}, ct_state=REPLY), Load(0, bits(other, 4, 7))),
        flow(4, 1, match(**{other: 0xFFFFFF0F}, ct_state=REPLY), Output(2)),
    )  # fmt: skip
    assert meets(ovs, flows, [OPENING, ANSWER])[1] == [0, 2, 4, 6, 7]


def test_tracking_in_a_nested_table_forks_the_packet(ovs: DummyOvs) -> None:
    """The tracked one goes on with the registers of that moment; what is left to do is done with an untracked one."""
    zone = bits("reg5", 0, 15)
    flows = [
        flow(0, 1, match(eth_type=ETH_IP), Load(4, bits("reg5")), Resubmit(1), Load(2, bits("reg6")), Resubmit(5)),
        flow(1, 1, match(eth_type=ETH_IP), Load(1, bits("reg6")), Ct(zone, 2)),
        flow(2, 1, match(reg6=1, ct_state=TRACKED), Output(2)),
        flow(2, 1, match(reg6=2)),
        flow(5, 2, match(reg6=2, ct_state=(0, CT_TRK))),
        flow(5, 1, ANYTHING),
    ]
    assert meets(ovs, flows, [OPENING]) == [[0, 1, 2, 4]]


def test_rarp_has_the_fields_of_arp(ovs: DummyOvs) -> None:
    mac = 0x0001_0203_0405
    rarp = Frame(mac, (1 << 48) - 1, ETH_RARP, arp_op=3, arp_sha=mac, arp_tha=mac)
    stolen = replace(rarp, arp_sha=mac + 1)
    arp = replace(rarp, eth_type=ETH_ARP)

    def announces(eth_type: int, *more: Term) -> Match:
        return Match((Term("eth_type", eth_type), Term("arp_op", 3), *more))

    def frame(one: Frame) -> bytes:
        ends = one.eth_dst.to_bytes(6, "big") + one.eth_src.to_bytes(6, "big") + one.eth_type.to_bytes(2, "big")
        fixed = bytes.fromhex("0001 0800 06 04") + one.arp_op.to_bytes(2, "big")
        return ends + fixed + one.arp_sha.to_bytes(6, "big") + bytes(4) + one.arp_tha.to_bytes(6, "big") + bytes(22)

    flows = [
        flow(0, 3, announces(ETH_RARP, Term("arp_spa", 0), Term("arp_sha", mac)), Output(2)),
        flow(0, 3, announces(ETH_ARP, Term("arp_sha", mac)), Output(2)),
        flow(0, 2, match(eth_type=ETH_RARP)),
        flow(0, 1, ANYTHING),
    ]
    frames = [rarp, stolen, arp]
    assert meets(ovs, flows, frames, {one: frame(one) for one in frames}) == [[0], [2], [1]]
