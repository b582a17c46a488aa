"""What a real Open vSwitch makes of our bytes, and of our text: the same, to the last byte."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ovs_dummy import DummyOvs
from test_openflow_wire import flows as any_flow
from test_openflow_wire import raw

from firewall_app.openflow import wire
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
    FIELDS,
    IP_ICMP,
    IP_ICMP6,
    IP_TCP,
    IP_UDP,
    NX_FRAG_LATER,
    Ct,
    Flow,
    Load,
    Move,
    Note,
    Output,
    Resubmit,
    bits,
    match,
)

pytestmark = pytest.mark.ovs
VERSIONS = pytest.mark.parametrize("version", [wire.OF13, wire.OF14])
PATIENCE = 20.0


class Controller:
    """The least controller: one connection to a bridge's management socket."""

    def __init__(self, path: Path, version: int) -> None:
        self.version = version
        self.xid = 100
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(path))
        self.buffer = b""
        hello = struct.pack("!BBHIHHI", version, 0, 16, 1, 1, 8, 1 << version)
        self.socket.sendall(hello + struct.pack("!BBHI", version, 5, 8, 2))
        while self._next()[1] != 6:  # the switch's features, after its HELLO
            pass

    def close(self) -> None:
        self.socket.close()

    def _next(self) -> bytes:
        while len(self.buffer) < 4 or len(self.buffer) < int.from_bytes(self.buffer[2:4], "big"):
            more = self.socket.recv(1 << 16)
            if not more:
                raise EOFError("the switch hung up")
            self.buffer += more
        size = int.from_bytes(self.buffer[2:4], "big")
        message, self.buffer = self.buffer[:size], self.buffer[size:]
        return message

    def receive(self) -> wire.Message:
        return wire.decode(self._next())

    def ask(self, *messages: bytes) -> list[wire.Message]:
        """What comes back for messages, a barrier's reply at the end left out."""
        self.xid += 1
        self.socket.sendall(b"".join(messages) + wire.barrier(self.version, self.xid))
        got: list[wire.Message] = []
        while (message := self.receive()) != wire.BarrierReply(self.xid):
            got.append(message)
        return got

    def bundle(self, *mods: bytes) -> None:
        """Apply flow-mods at once; every one must be taken."""
        adds = [wire.bundle_add(self.version, 5, mod) for mod in mods]
        opened, *errors = self.ask(wire.bundle_open(self.version, 3, 5), *adds)
        assert opened == wire.BundleReply(3, 5, wire.BUNDLE_OPEN)
        if errors:
            self.ask(wire.bundle_discard(self.version, 4, 5))
            raise AssertionError(errors)
        assert self.ask(wire.bundle_commit(self.version, 4, 5)) == [wire.BundleReply(4, 5, wire.BUNDLE_COMMIT)]

    def clear(self) -> bytes:
        return wire.raw_flow_mod(self.version, 1, wire.DELETE, wire.ALL_TABLES, 0)

    def flows(self, cookie: int = 0, cookie_mask: int = 0, table: int = wire.ALL_TABLES) -> set[wire.RawFlow]:
        """What is installed, its counters and age aside."""
        replies = self.ask(wire.flow_stats_request(self.version, 9, cookie, cookie_mask, table))
        assert [reply.more for reply in replies] == [True] * (len(replies) - 1) + [False]
        told = [flow for reply in replies for flow in reply.flows]
        assert len(set(told)) == len(told)
        return {flow._replace(packets=0, byte_count=0, duration_ns=0) for flow in told}


@pytest.fixture(scope="module")
def ovs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DummyOvs]:
    with DummyOvs(tmp_path_factory.mktemp("ovs")) as ovs:
        ovs.add_bridge("br0", ("p1", "p2", "p3"), dpid=0xA1)
        ovs.add_bridge("br1", dpid=0xA2)
        yield ovs


@pytest.fixture(params=[wire.OF13, wire.OF14], ids=["1.3", "1.4"])
def controller(ovs: DummyOvs, request: pytest.FixtureRequest) -> Iterator[Controller]:
    controller = Controller(ovs.mgmt("br0"), request.param)
    try:
        controller.ask(controller.clear())
        yield controller
    finally:
        controller.close()


MAC, OTHER_MAC = 0x020000000001, 0x020000000002
ADDRESS, NET6 = 0x0A000005, 0x20010DB8 << 96
SLOT, ZONE, G = bits("reg5", 0, 15), bits("reg5", 0, 15), 7
IP, IP6 = {"eth_type": ETH_IP}, {"eth_type": ETH_IPV6}
TCP, TCP6, UDP = IP | {"ip_proto": IP_TCP}, IP6 | {"ip_proto": IP_TCP}, IP | {"ip_proto": IP_UDP}
ND = IP6 | {"ip_proto": IP_ICMP6, "icmpv6_code": 0, "ip_ttl": 255}


def state(on: int, off: int = 0) -> tuple[int, int]:
    return on, on | off


COMMIT = Ct(ZONE, 40, commit=True, exec=(Load(G, bits("ct_mark")), Move(bits("reg4"), bits("ct_label", 0, 31))))
ENTER = (Load(9, SLOT), Load(1, bits("reg7")))
# Each field and each kind of action, in the shapes that the pipeline uses.
REPRESENTATIVE = (
    Flow(0, 2020, match(in_port=1, **UDP, udp_src=67, udp_dst=68), ()),
    Flow(0, 2010, match(in_port=1, eth_src=MAC, vlan_vid=0, eth_type=ETH_ARP, arp_op=1, arp_spa=ADDRESS,
                        arp_tpa=(ADDRESS, 0xFFFFFF00), arp_sha=MAC, arp_tha=0), (*ENTER, Resubmit(40))),
    Flow(0, 2010, match(in_port=1, vlan_vid=0, **ND, icmpv6_type=135, ipv6_src=NET6 + 5, nd_target=NET6 + 6,
                        nd_sll=MAC), (*ENTER, Resubmit(40))),
    Flow(0, 2010, match(in_port=1, vlan_vid=0, **ND, icmpv6_type=136, nd_target=NET6 + 5, nd_tll=MAC),
         (*ENTER, Resubmit(40))),
    Flow(0, 2000, match(in_port=1, eth_src=MAC, vlan_vid=0, **IP6, ipv6_src=(NET6, ((1 << 64) - 1) << 64)),
         (*ENTER, Resubmit(10))),
    Flow(0, 1500, match(vlan_vid=(0x1000, 0x1000)), (Load(2, bits("reg7")),)),
    Flow(0, 1000, match(in_port=3), (Load(2, bits("reg7")), Resubmit(10))),
    Flow(0, 100, match(), ()),
    Flow(10, 110, match(**IP, eth_dst=MAC, reg7=2), (Load(9, SLOT), Load(0, bits("reg6", 0, 0)), Ct(ZONE, 20))),
    Flow(20, 206, match(**TCP, reg7=1, ct_state=state(CT_NEW | CT_TRK), tcp_flags=(0, 2)), ()),
    Flow(20, 205, match(**IP, ct_state=state(CT_NEW | CT_TRK, CT_INV), ip_frag=(NX_FRAG_LATER, NX_FRAG_LATER)),
         (Ct(ZONE, 40, commit=True, exec=(Load(G, bits("ct_mark")),)),)),
    Flow(20, 204, match(**IP6, ip_frag=(0, NX_FRAG_LATER)), ()),
    Flow(20, 202, match(ct_state=state(CT_EST | CT_TRK), ct_mark=G, ct_zone=4), (Resubmit(40),)),
    Flow(20, 200, match(**IP6, reg6=(0, 1), ct_state=state(CT_RPL | CT_TRK | CT_EST, CT_INV)),
         (Load(1, bits("reg6", 0, 0)), Resubmit(30, ct=True))),
    Flow(30, 1000, match(reg5=(9, 0xFFFF), reg6=(0, 1), **TCP, ipv4_src=(0x0A000000, 0xFF000000), tcp_dst=443),
         (Load(77, bits("reg4")), Resubmit(35)), cookie=0xD0F1_0300_0000_004D),
    Flow(30, 1000, match(reg5=(9, 0xFFFF), reg6=(1, 1), **TCP6, ipv6_dst=NET6 + 1, tcp_dst=(0x400, 0xFC00)),
         (Load(78, bits("reg4")), Resubmit(35)), cookie=0xD0F1_0300_0000_004E),
    Flow(30, 1000, match(**TCP, tcp_src=(0, 1), ipv4_dst=(ADDRESS, 0xFF0000FF)), ()),
    Flow(30, 1000, match(**IP, ip_proto=IP_ICMP, icmp_type=8, icmp_code=0), (Resubmit(35),)),
    Flow(40, 65535, match(reg0=(1, 1), pkt_mark=(1 << 31, 1 << 31)), ()),
    Flow(33, 900, match(reg1=6, reg2=5, reg3=4, **IP6), (Load(5, bits("reg4")), Load(1, bits("reg1", 2, 2)))),
    Flow(35, 110, match(**IP, ct_state=state(CT_NEW | CT_REL | CT_TRK)), (COMMIT,)),
    Flow(35, 109, match(ct_label=(5, 0xFFFFFFFF), reg4=(1 << 31, 1 << 31)), (Resubmit(40),)),
    Flow(40, 110, match(eth_dst=(1 << 40, 1 << 40)), tuple(
        part for port in (1, 2) for part in (Load(port, SLOT), Output(port))
    )),
    Flow(253, 65535, match(), (Note(bytes(range(14))),), cookie=0xD0F1_09FF_FFFF_FFFF),
)  # fmt: skip


def test_the_representative_flows_use_all_there_is() -> None:
    assert {term.name for flow in REPRESENTATIVE for term in flow.match.terms} == set(FIELDS)
    kinds = {type(action) for flow in REPRESENTATIVE for action in flow.actions}
    assert kinds == {Output, Load, Move, Resubmit, Ct, Note} - {Move}
    assert {type(action) for action in COMMIT.exec} == {Load, Move}


def test_flows_come_back_as_they_were_sent(controller: Controller) -> None:
    controller.bundle(*(wire.flow_mod(controller.version, 6, flow) for flow in REPRESENTATIVE))
    got = controller.flows()
    assert got == set(map(raw, REPRESENTATIVE))
    assert {wire.decode_flow(told) for told in got} == set(REPRESENTATIVE)


@VERSIONS
def test_any_flows_come_back_as_they_were_sent(ovs: DummyOvs, version: int) -> None:
    controller = Controller(ovs.mgmt("br0"), version)

    @settings(max_examples=60)
    @given(st.lists(any_flow(), min_size=1, max_size=8, unique_by=lambda flow: flow.key))
    def check(flows: list[Flow]) -> None:
        controller.bundle(controller.clear(), *(wire.flow_mod(version, 6, flow) for flow in flows))
        assert controller.flows() == set(map(raw, flows))

    try:
        check()
    finally:
        controller.close()


def installed_by_text(ovs: DummyOvs, flows: list[Flow]) -> set[wire.RawFlow]:
    lines = "\n".join(flow.text for flow in flows) + "\n"
    said = ovs.ofctl("-OOpenFlow14", "--bundle", "replace-flows", f"unix:{ovs.mgmt('br1')}", "-", stdin=lines)
    assert "normalization" not in said
    controller = Controller(ovs.mgmt("br1"), wire.OF14)
    try:
        return controller.flows()
    finally:
        controller.close()


def test_the_text_of_a_flow_says_what_its_bytes_say(ovs: DummyOvs) -> None:
    assert installed_by_text(ovs, list(REPRESENTATIVE)) == set(map(raw, REPRESENTATIVE))


def test_the_text_of_any_flow_says_what_its_bytes_say(ovs: DummyOvs) -> None:
    @settings(max_examples=25)
    @given(st.lists(any_flow(), min_size=1, max_size=12, unique_by=lambda flow: flow.key))
    def check(flows: list[Flow]) -> None:
        assert installed_by_text(ovs, flows) == set(map(raw, flows))

    check()


def test_parse_flows_takes_every_text(ovs: DummyOvs, tmp_path: Path) -> None:
    path = tmp_path / "flows"
    path.write_text("".join(f"{flow.text}\n" for flow in REPRESENTATIVE))
    said = ovs.ofctl("-OOpenFlow14", "parse-flows", str(path))
    assert "normalization" not in said
    assert said.count(": ADD ") == len(REPRESENTATIVE)


def test_a_refused_flow_is_told_before_the_commit(controller: Controller) -> None:
    version = controller.version
    good = Flow(0, 1, match(), ())
    # ct() asks for a match on IP.  What else is wrong with a flow cannot be encoded.
    refused = Flow(0, 2, match(), (Ct(ZONE, 20),))
    first = wire.bundle_add(version, 5, wire.flow_mod(version, 31, good))
    second = wire.bundle_add(version, 5, wire.flow_mod(version, 32, refused))
    opened, error = controller.ask(wire.bundle_open(version, 30, 5), first, second)
    assert opened == wire.BundleReply(30, 5, wire.BUNDLE_OPEN)
    assert isinstance(error, wire.Error)
    assert (error.xid, error.text) == (32, "BAD_ACTION/MATCH_INCONSISTENT")
    assert controller.ask(wire.bundle_discard(version, 33, 5)) == [wire.BundleReply(33, 5, wire.BUNDLE_DISCARD)]
    assert controller.flows() == set()


def test_a_bundle_that_is_not_there_has_the_same_error_in_both_versions(controller: Controller) -> None:
    (error,) = controller.ask(wire.bundle_commit(controller.version, 33, 99))
    assert isinstance(error, wire.Error)
    assert (error.xid, error.text) == (33, "BUNDLE_FAILED/BAD_ID")


def test_a_strict_delete_takes_one_flow_by_value_or_by_what_was_read(controller: Controller) -> None:
    version = controller.version
    controller.bundle(*(wire.flow_mod(version, 6, flow) for flow in REPRESENTATIVE))
    by_value, by_bytes = REPRESENTATIVE[1], raw(REPRESENTATIVE[2])
    controller.bundle(
        wire.flow_mod(version, 7, by_value, wire.DELETE_STRICT),
        wire.raw_flow_mod(version, 8, wire.DELETE_STRICT, by_bytes.table, by_bytes.priority, match=by_bytes.match),
    )
    assert controller.flows() == set(map(raw, REPRESENTATIVE)) - {raw(by_value), by_bytes}


def test_flows_can_be_asked_for_by_cookie_and_table(controller: Controller) -> None:
    controller.bundle(*(wire.flow_mod(controller.version, 6, flow) for flow in REPRESENTATIVE))
    ours = {raw(flow) for flow in REPRESENTATIVE if flow.cookie >> 48 == 0xD0F1}
    assert len(ours) == 3
    assert controller.flows(0xD0F1 << 48, 0xFFFF << 48) == ours
    assert controller.flows(table=20) == {raw(flow) for flow in REPRESENTATIVE if flow.table == 20}


def test_a_dump_of_many_parts(controller: Controller) -> None:
    many = [Flow(30, 5, match(**TCP, tcp_dst=port), (Load(port, bits("reg4")),), port) for port in range(3000)]
    controller.bundle(*(wire.flow_mod(controller.version, 6, flow) for flow in many))
    assert controller.flows() == set(map(raw, many))


def test_what_a_switch_tells_of_itself(controller: Controller) -> None:
    version = controller.version
    (desc,) = controller.ask(wire.desc_request(version, 5))
    assert isinstance(desc, wire.DescReply)
    assert (desc.manufacturer, desc.hardware, desc.more) == ("Nicira, Inc.", "Open vSwitch", False)
    assert desc.software[0].isdigit()
    (ports,) = controller.ask(wire.port_desc_request(version, 6))
    assert isinstance(ports, wire.PortDescReply)
    names = {port.number: port.name for port in ports.ports}
    assert names == {1: "p1", 2: "p2", 3: "p3", 0xFFFFFFFE: "br0"}
    assert all(len(port.mac) == 17 for port in ports.ports)
    assert controller.ask(wire.set_config(version, 7, 3, 128)) == []
    assert controller.ask(wire.get_config(version, 8)) == [wire.ConfigReply(8, 3, 128)]
    assert controller.ask(wire.echo_request(version, 9, b"hi")) == [wire.EchoReply(9, b"hi")]


def test_roles(ovs: DummyOvs, controller: Controller) -> None:
    version, first = controller.version, controller.version * 10  # a switch keeps the generation
    asked = wire.role_request(version, 5, wire.ROLE_MASTER, first + 1)
    assert controller.ask(asked) == [wire.RoleReply(5, wire.ROLE_MASTER, first + 1)]
    (error,) = controller.ask(wire.role_request(version, 6, wire.ROLE_MASTER, first))
    assert isinstance(error, wire.Error)
    assert (error.xid, error.text) == (6, "ROLE_REQUEST_FAILED/STALE")


def test_the_coming_and_going_of_a_port(ovs: DummyOvs, controller: Controller) -> None:
    def told() -> tuple[int, int, str]:
        while True:
            message = controller.receive()
            if isinstance(message, wire.PortStatus) and message.reason != wire.PORT_MODIFY:
                return message.reason, message.port.number, message.port.name

    # Through a management socket only those who set how much of a packet they want are told of anything.
    controller.ask(wire.set_config(controller.version, 5, 3, 128))
    ovs.vsctl("add-port", "br0", "p9", "--", "set", "interface", "p9", "type=dummy", "ofport_request=9")
    assert told() == (wire.PORT_ADD, 9, "p9")
    ovs.vsctl("del-port", "br0", "p9")
    assert told() == (wire.PORT_DELETE, 9, "p9")


def test_flushing_a_zone_leaves_the_others(ovs: DummyOvs, controller: Controller) -> None:
    track = Flow(0, 1, match(**IP), (Load(5, SLOT), Ct(ZONE, 1, commit=True)))
    other = Flow(0, 1, match(**IP), (Load(6, SLOT), Ct(ZONE, 1, commit=True)))
    packet = (
        "in_port(1),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x0800),"
        "ipv4(src=10.0.0.1,dst=10.0.0.2,proto=17,tos=0,ttl=64,frag=no),udp(src=1,dst=2)"
    )
    for zone, flow in ((5, track), (6, other)):
        controller.bundle(wire.flow_mod(controller.version, 6, flow))
        ovs.appctl("revalidator/purge")  # what was decided by the flow before
        ovs.appctl("netdev-dummy/receive", "p1", packet)  # the answer says that it is queued
        end = time.monotonic() + 10
        while f"zone={zone}" not in ovs.appctl("dpctl/dump-conntrack") and time.monotonic() < end:
            time.sleep(0.01)
    zones = ovs.appctl("dpctl/dump-conntrack")
    assert ("zone=5" in zones, "zone=6" in zones) == (True, True)
    assert controller.ask(wire.ct_flush_zone(controller.version, 7, 5)) == []
    zones = ovs.appctl("dpctl/dump-conntrack")
    assert ("zone=5" in zones, "zone=6" in zones) == (False, True)
