"""The judge is judged: the simulated switch against a real ovs-vswitchd, and what it refuses to guess."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from ovs_dummy import DummyOvs
from ryu.lib.packet import ethernet, icmp, icmpv6, ipv4, ipv6, packet, tcp, udp

from firewall_app.pipeline import reserved
from firewall_app.pipeline.flow import (
    CT_EST,
    CT_INV,
    CT_NEW,
    CT_REL,
    CT_RPL,
    CT_TRK,
    ETH_ARP,
    ETH_IP,
    ETH_IPV6,
    IP_ICMP,
    IP_ICMP6,
    IP_TCP,
    IP_UDP,
    Ct,
    Flow,
    Load,
    Note,
    Output,
    Resubmit,
    bits,
    match,
)
from firewall_app.pipeline.tables import RULE
from firewall_app.pipeline.tracker import ACK, FIN, PSH, RST, SYN, Frame, Unsupported
from firewall_app.pipeline.walker import Ambiguous, Bridge, Looped

# --------------------------------------------------------------------------------------------- conversations

Spoken = tuple[Frame, int, int]  # a frame, and the TCP sequence and acknowledgement numbers that make it plausible

ENDS = {4: (0x0A000001, 0x0A000002), 6: (0xFD << 120 | 1, 0xFD << 120 | 2)}


def base(back: bool, version: int, **fields: int) -> Frame:
    here, there = ENDS[version][::-1] if back else ENDS[version]
    return Frame(2, 4, ETH_IP if version == 4 else ETH_IPV6, src=here, dst=there, **fields)


def segment(flags: int, back: bool = False, seq: int = 1, ack: int = 0, version: int = 4) -> Spoken:
    sport, dport = (80, 1000) if back else (1000, 80)
    return base(back, version, proto=IP_TCP, sport=sport, dport=dport, flags=flags), seq, ack


def datagram(back: bool = False, version: int = 4) -> Spoken:
    sport, dport = (53, 1000) if back else (1000, 53)
    return base(back, version, proto=IP_UDP, sport=sport, dport=dport), 0, 0


def ping(back: bool = False, answer: bool = False, version: int = 4) -> Spoken:
    kind = {4: (8, 0), 6: (128, 129)}[version][answer]
    proto = {4: IP_ICMP, 6: IP_ICMP6}[version]
    return base(back, version, proto=proto, icmp_type=kind, icmp_id=7), 0, 0


def raw(proto: int, back: bool = False) -> Spoken:
    return base(back, 4, proto=proto), 0, 0


def unreachable(about: Spoken, version: int = 4, source: int | None = None) -> Spoken:
    inner = about[0]
    kind, code, proto = {4: (3, 3, IP_ICMP), 6: (1, 4, IP_ICMP6)}[version]
    error = replace(inner, src=inner.dst, dst=inner.src, proto=proto, sport=0, dport=0, flags=0)
    error = replace(error, icmp_type=kind, icmp_code=code, inner=inner)
    return (error if source is None else replace(error, src=source)), 0, 0


N, E, R = CT_NEW | CT_TRK, CT_EST | CT_TRK, CT_EST | CT_RPL | CT_TRK
INVALID, RELATED, RELATED_BACK = CT_INV | CT_TRK, CT_REL | CT_TRK, CT_REL | CT_RPL | CT_TRK

CONVERSATIONS: dict[str, list[tuple[Spoken, int]]] = {
    "tcp": [
        (segment(SYN), N),
        (segment(SYN | ACK, True, 100, 2), R),
        (segment(ACK, False, 2, 101), E),
        (segment(ACK, True, 101, 2), R),
    ],
    "tcp over ipv6": [(segment(SYN, version=6), N), (segment(SYN | ACK, True, 100, 2, version=6), R)],
    "tcp, sent again and by both sides at once": [
        (segment(SYN), N),
        (segment(SYN), N),
        (segment(SYN, True, 100), N),  # it knows the connection and says neither est nor rpl
        (segment(SYN | ACK, False, 1, 101), E),
        (segment(SYN | ACK, True, 100, 2), R),
    ],
    "tcp, goes on without an answer": [
        (segment(SYN), N),
        (segment(ACK, False, 2, 101), E),
        (segment(ACK | PSH, False, 2, 101), E),
    ],
    "tcp, refused and tried again": [
        (segment(SYN), N),
        (segment(RST | ACK, True, 0, 2), R),
        (segment(SYN, False, 7), N),
    ],
    "tcp, picked up in the middle": [
        (segment(ACK, False, 5000, 700), N),
        (segment(ACK, False, 5000, 700), E),
        (segment(ACK, True, 700, 5000), R),
    ],
    "tcp, a syn when established": [
        (segment(SYN), N),
        (segment(SYN | ACK, True, 100, 2), R),
        (segment(ACK, False, 2, 101), E),
        (segment(SYN, False, 2), E),
        (segment(SYN, True, 101), R),
    ],
    "tcp, flags that open nothing": [
        (segment(SYN | ACK, seq=5, ack=5), INVALID),
        (segment(SYN | FIN), INVALID),
        (segment(0), INVALID),
        (segment(PSH), INVALID),
        (segment(SYN), N),
    ],
    "udp": [(datagram(), N), (datagram(), N), (datagram(True), R), (datagram(), E), (datagram(True), R)],
    "udp over ipv6": [(datagram(version=6), N), (datagram(True, 6), R), (datagram(version=6), E)],
    "ping": [(ping(), N), (ping(), N), (ping(True, True), R), (ping(), E), (ping(True), N)],
    "ping over ipv6": [(ping(version=6), N), (ping(True, True, 6), R), (ping(version=6), E)],
    "an echo reply to nothing": [(ping(True, True), INVALID), (ping(True, True, 6), INVALID)],
    "gre": [(raw(47), N), (raw(47), N), (raw(47, True), R), (raw(47), E)],
    "an error about nothing": [(unreachable(datagram()), INVALID)],
    "errors": [
        (datagram(), N),
        (unreachable(datagram()), RELATED_BACK),
        (unreachable(datagram(True)), RELATED),
        (unreachable(datagram(), source=0xCB007101), RELATED_BACK),
        (datagram(), N),
        (datagram(True), R),
        (unreachable(datagram()), RELATED_BACK),
    ],
    "errors over ipv6": [
        (datagram(version=6), N),
        (unreachable(datagram(version=6), 6), RELATED_BACK),
        (unreachable(datagram(True, 6), 6), RELATED),
    ],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_connection_states(name: str) -> None:
    """As a real switch says them: the next test asks one."""
    switch = tracker()
    seen = [switch.walk(1, frame).hits[-1] for (frame, _, _), _ in CONVERSATIONS[name]]
    assert [flow.cookie for flow in seen] == [state for _, state in CONVERSATIONS[name]]


def tracker() -> Bridge:
    """Commits everything in zone 1; the last flow that a frame meets has the first ct_state as its cookie."""
    switch = Bridge()
    zone = bits("reg5")
    flows = [Flow(0, 1, match(), (Load(1, zone), Ct(zone, 1)))]
    for state in (N, E, R, INVALID, RELATED, RELATED_BACK):
        for eth in (ETH_IP, ETH_IPV6):
            this = match(eth_type=eth, ct_state=(state, 63))
            flows.append(Flow(1, 1, this, (Resubmit(2),) if state == INVALID else (Ct(zone, 2, commit=True),), state))
            flows.append(Flow(2, 1, this, (), state))
    switch.install(flows)
    return switch


@pytest.mark.ovs
def test_connection_states_are_those_of_a_real_switch() -> None:
    """Each conversation through the conntrack of a real ovs-vswitchd with the userspace datapath."""
    with tempfile.TemporaryDirectory() as directory, DummyOvs(Path(directory) / "ovs") as ovs:
        ovs.add_bridge("br0", ("p1",))
        bridge = f"unix:{ovs.mgmt('br0')}"
        lines = [f"table=0,{ip},actions=ct(zone=1,table=1)" for ip in ("ip", "ipv6")]
        for state in range(CT_TRK, 2 * CT_TRK):
            go_on = "drop" if state & CT_INV else "ct(commit,zone=1)"
            lines.append(f"table=1,cookie={state},ct_state={state:#x}/0x3f,ip,actions={go_on}")
            lines.append(f"table=1,cookie={state},ct_state={state:#x}/0x3f,ipv6,actions={go_on}")
        ovs.ofctl("-O", "OpenFlow14", "add-flows", bridge, "-", stdin="\n".join(lines))

        def counts() -> dict[int, int]:
            ovs.appctl("revalidator/purge")  # which also brings the counters up to date
            dump = ovs.ofctl("-O", "OpenFlow14", "dump-flows", bridge, "table=1")
            found: dict[int, int] = {}
            for cookie, packets in re.findall(r"cookie=(0x[0-9a-f]+).*?n_packets=(\d+)", dump):
                found[int(cookie, 16)] = found.get(int(cookie, 16), 0) + int(packets)
            return found

        for name, conversation in CONVERSATIONS.items():
            ovs.appctl("dpctl/flush-conntrack")
            seen = []
            for spoken, _ in conversation:
                before = counts()
                ovs.appctl("netdev-dummy/receive", "p1", wire(*spoken).hex())
                after = counts()
                seen.append([state for state in after if after[state] != before[state]])
            assert seen == [[state] for _, state in conversation], name


def wire(frame: Frame, seq: int, ack: int) -> bytes:
    """The bytes of a frame."""
    made = packet.Packet()
    made.add_protocol(ethernet.ethernet("00:00:00:00:00:04", "00:00:00:00:00:02", frame.eth_type))
    for layer in layers(frame, seq, ack):
        made.add_protocol(layer)
    made.serialize()
    return bytes(made.data)


def layers(frame: Frame, seq: int = 1, ack: int = 0) -> list[object]:
    text = {4: lambda n: ".".join(str(n >> s & 255) for s in (24, 16, 8, 0)),
            6: lambda n: ":".join(f"{n >> s & 0xFFFF:x}" for s in range(112, -1, -16))}  # fmt: skip
    found: list[object] = []
    if frame.eth_type == ETH_IP:
        found.append(ipv4.ipv4(src=text[4](frame.src), dst=text[4](frame.dst), proto=frame.proto, ttl=64))
    else:
        found.append(ipv6.ipv6(src=text[6](frame.src), dst=text[6](frame.dst), nxt=frame.proto, hop_limit=64))
    about = b""
    if frame.inner is not None:
        inner = packet.Packet()
        for layer in layers(frame.inner):
            inner.add_protocol(layer)
        inner.serialize()
        about = bytes(inner.data)
    match frame.proto:
        case 6:
            found.append(tcp.tcp(frame.sport, frame.dport, seq=seq, ack=ack, bits=frame.flags, window_size=5000))
        case 17:
            found += [udp.udp(frame.sport, frame.dport), b"x" * 20]
        case 1 if frame.inner is not None:
            found.append(icmp.icmp(frame.icmp_type, frame.icmp_code, 0, icmp.dest_unreach(data=about)))
        case 1:
            found.append(icmp.icmp(frame.icmp_type, 0, 0, icmp.echo(frame.icmp_id, 1, b"x" * 20)))
        case 58 if frame.inner is not None:
            found.append(icmpv6.icmpv6(frame.icmp_type, frame.icmp_code, 0, b"\0" * 4 + about))
        case 58:
            found.append(icmpv6.icmpv6(frame.icmp_type, 0, 0, icmpv6.echo(frame.icmp_id, 1, b"x" * 20)))
        case _:
            found.append(b"\0" * 30)
    return found


# --------------------------------------------------------------------------------------------- tables

PLAIN = Frame(2, 4, ETH_IP, src=1, dst=2, proto=IP_UDP, sport=5, dport=6)


def switch(*flows: Flow) -> Bridge:
    made = Bridge()
    made.install(flows)
    return made


def test_the_highest_priority_wins_and_no_flow_drops() -> None:
    low, high = Flow(0, 1, match(), (Output(2),)), Flow(0, 2, match(eth_dst=4), (Output(3),))
    assert switch(low, high).walk(1, PLAIN).outputs == (3,)
    assert switch(low, high).walk(1, replace(PLAIN, eth_dst=5)).outputs == (2,)
    assert switch(high).walk(1, replace(PLAIN, eth_dst=5)).outputs == ()


def test_a_frame_never_goes_back() -> None:
    assert switch(Flow(0, 1, match(), (Output(1), Output(2)))).walk(1, PLAIN).outputs == (2,)


def test_two_flows_of_one_priority_are_ambiguous_unless_they_do_the_same() -> None:
    one, other = match(udp_dst=6, eth_type=ETH_IP, ip_proto=IP_UDP), match(eth_dst=4)
    both = [(Output(2),), (Output(3),)]
    with pytest.raises(Ambiguous):
        switch(Flow(0, 1, one, both[0]), Flow(0, 1, other, both[1])).walk(1, PLAIN)
    assert switch(Flow(0, 1, one, both[0], 7), Flow(0, 1, other, both[0], 8)).walk(1, PLAIN).outputs == (2,)
    rules = [(Load(n, RULE), Output(2)) for n in (1, 2)]
    assert switch(Flow(0, 1, one, rules[0]), Flow(0, 1, other, rules[1])).walk(1, PLAIN).outputs == (2,)


def test_registers_outlive_resubmits_and_recirculation() -> None:
    zone = bits("reg5", 0, 15)
    made = switch(
        Flow(0, 1, match(), (Load(7, bits("reg7")), Load(9, bits("reg5")), Resubmit(1))),
        Flow(1, 1, match(reg7=7), (Load(1, bits("reg7", 4, 4)), Ct(zone, 2))),
        Flow(2, 1, match(reg7=0x17, reg5=9, ct_state=(CT_NEW | CT_TRK, 63)), (Output(2),)),
    )
    assert made.walk(1, PLAIN).outputs == (2,)
    assert made.connections(9) == 0, "ct without commit creates nothing"


def test_masks() -> None:
    made = switch(Flow(0, 1, match(eth_type=ETH_IP, ip_proto=IP_UDP, udp_dst=(6, 0xFFFE)), (Output(2),)))
    assert [bool(made.walk(1, replace(PLAIN, dport=port)).outputs) for port in (5, 6, 7, 8)] == [
        False,
        True,
        True,
        False,
    ]


def test_a_tagged_frame_shows_its_ip_fields_and_its_tag() -> None:
    ip = match(eth_type=ETH_IP, ipv4_src=1)
    assert switch(Flow(0, 1, ip, (Output(2),))).walk(1, replace(PLAIN, vlan=5)).outputs == (2,)
    untagged = match(vlan_vid=0, eth_type=ETH_IP, ipv4_src=1)
    assert switch(Flow(0, 1, untagged, (Output(2),))).walk(1, replace(PLAIN, vlan=0)).outputs == ()


def test_a_zone_is_flushed_alone() -> None:
    zone = bits("reg5")
    both = (Load(1, zone), Ct(zone, 1, commit=True))
    made = switch(Flow(0, 1, match(), both), Flow(1, 1, match(reg5=1), (Load(2, zone), Ct(zone, 2, commit=True))))
    made.walk(1, PLAIN)
    assert (made.connections(1), made.connections(2)) == (1, 1)
    made.flush(1)
    assert (made.connections(1), made.connections(2)) == (0, 1)


ZONE = bits("reg5")


@pytest.mark.parametrize(
    ("flow", "frame", "error"),
    [
        (Flow(0, 1, match(), (Resubmit(0),)), PLAIN, Looped),
        (Flow(0, 1, match(), (Resubmit(1, ct=True),)), PLAIN, Unsupported),
        (Flow(0, 1, match(), (Ct(ZONE, 0),)), PLAIN, Looped),
        (Flow(0, 1, match(), (Ct(ZONE, 1), Output(2))), PLAIN, Unsupported),
        (Flow(0, 1, match(), (Ct(ZONE, 1, exec=(Load(1, bits("ct_mark")),)),)), PLAIN, Unsupported),
        (Flow(0, 1, match(), (Ct(ZONE, 1, commit=True, exec=(Load(1, bits("reg4")),)),)), PLAIN, Unsupported),
        (Flow(0, 1, match(), (Load(1, bits("ct_mark")),)), PLAIN, Unsupported),
        (Flow(0, 1, match(), (Output(reserved.TABLE),)), PLAIN, Unsupported),
        (Flow(0, 1, match(), (Ct(ZONE, 1),)), Frame(2, 4, ETH_ARP), Unsupported),
        (Flow(0, 1, match(), (Ct(ZONE, 1),)), replace(PLAIN, proto=IP_ICMP, icmp_type=3), Unsupported),
    ],
    ids=lambda value: value.text if isinstance(value, Flow) else "",
)
def test_what_it_does_not_know_it_refuses(flow: Flow, frame: Frame, error: type[Exception]) -> None:
    with pytest.raises(error):
        switch(flow).walk(1, frame)


def test_notes_do_nothing() -> None:
    assert switch(Flow(0, 1, match(), (Note(b"x"), Output(2)))).walk(1, PLAIN).outputs == (2,)


def test_bundles_name_what_is_there() -> None:
    flow = Flow(0, 1, match(), (Output(2),))
    made = switch(flow)
    with pytest.raises(KeyError):
        made.apply([Flow(0, 2, match(), ()).key], [])
    with pytest.raises(ValueError, match="under"):
        made.apply([], [(Flow(0, 2, match(), ()).key, flow)])
    with pytest.raises(ValueError, match="one key"):
        made.install([flow, replace(flow, actions=())])
