"""The pipeline, case by case: every walk-through of a packet, and every guard."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleet import GENERATION
from representative import (
    ANYONE,
    BROADCAST,
    DB,
    FAR,
    HERE,
    IN,
    OPEN,
    OUT,
    OUTSIDE,
    ROUTER,
    TCP,
    WEB,
    Net,
    arp,
    echo,
    error,
    frame,
    ip,
    mac,
    nd,
    path,
    representative,
    tcp,
    udp,
)

from firewall_app.pipeline.compile import Rulings
from firewall_app.pipeline.diff import difference
from firewall_app.pipeline.flow import CT_INV, CT_TRK, IP_ICMP6, IP_UDP, Match
from firewall_app.pipeline.tables import INBOUND_RULES, NO_RULES, NO_RULES_AND_INVALID, OUTBOUND_RULES, OUTPUT
from firewall_app.pipeline.tracker import ACK, FIN, PSH, SYN, Frame
from firewall_app.pipeline.unit import Generation, Static
from firewall_app.policy.model import (
    Firewall,
    PortRange,
    Rule,
    link_local,
)


@pytest.fixture
def net() -> Net:
    return Net()


# --------------------------------------------------------------------------------------------- walk-throughs


@pytest.mark.parametrize("version", [4, 6])
def test_a_first_packet_from_outside_is_judged_and_its_answer_takes_the_fast_path(net: Net, version: int) -> None:
    first = net.send(OUTSIDE, tcp(OUTSIDE, WEB, 1000, 443, SYN, version))
    assert [name for name, _ in path(first)] == ["0", "c1", "c2", "c3", "c3s", "c3r", "c4", "z"]
    assert path(first)[5] == ("c3r", 1000)
    assert len(first.reached) == 1
    answer = net.send(WEB, tcp(WEB, OUTSIDE, 443, 1000, SYN | ACK, version))
    assert path(answer) == [("0", 2000), ("c1", 110), ("c2", 202), ("z", 105)]
    assert answer.outside
    third = net.send(OUTSIDE, tcp(OUTSIDE, WEB, 1000, 443, ACK, version))
    assert path(third) == [("0", 1000), ("c1", 110), ("c2", 202), ("z", 110)]
    assert len(third.reached) == 1


@pytest.mark.parametrize("version", [4, 6])
def test_a_first_packet_to_the_outside_is_judged_and_its_answer_takes_the_fast_path(net: Net, version: int) -> None:
    first = net.send(WEB, udp(WEB, OUTSIDE, 1000, 53, version))
    assert [name for name, priority in path(first) if priority] == ["0", "c1", "c2", "c3", "c3s", "c3r", "c4", "z"]
    assert first.outside
    answer = net.send(OUTSIDE, udp(OUTSIDE, WEB, 53, 1000, version))
    assert path(answer) == [("0", 1000), ("c1", 110), ("c2", 202), ("z", 110)]
    assert len(answer.reached) == 1


def test_the_rule_that_admitted_is_written_into_the_connection(net: Net) -> None:
    net.send(OUTSIDE, tcp(OUTSIDE, WEB, 1000, 443))
    connection = net.fleet.members[HERE].switch.connection(1, tcp(OUTSIDE, WEB, 1000, 443))
    assert connection is not None
    assert (connection.label, connection.mark) == (1, net.fleet.members[HERE].generation)


@pytest.mark.parametrize("near", [True, False], ids=["same host", "two hosts"])
@pytest.mark.parametrize("leaves", [True, False], ids=["sender allows", "sender denies"])
@pytest.mark.parametrize("enters", [True, False], ids=["receiver allows", "receiver denies"])
def test_between_droplets_both_ends_must_allow(near: bool, leaves: bool, enters: bool) -> None:
    draft = representative().edit()
    a, b = (WEB, DB) if near else (FAR, DB)
    allowed = PortRange(5000, 5000)
    draft.put(
        Firewall("f-web", "default", "web", (), (Rule(OUT, TCP, allowed, ANYONE, 20),) if leaves else (), tags=("web",))
    )
    draft.put(Firewall("f-db", "default", "db", (Rule(IN, TCP, allowed, ANYONE, 21),) if enters else (), (), (DB,)))
    net = Net(draft.done())
    both = leaves and enters
    assert (DB in net.reached(a, tcp(a, b, 1000, 5000))) == both
    assert (a in net.reached(b, tcp(b, a, 5000, 1000, SYN | ACK))) == both
    assert (DB in net.reached(a, tcp(a, b, 1000, 5000, ACK | PSH))) == both
    assert not net.reached(b, tcp(b, a, 1000, 5000)), "no rule lets the other side open"


def test_a_frame_for_a_droplet_here_never_takes_the_uplink(net: Net) -> None:
    assert net.reached(OPEN, udp(OPEN, DB, 1000, 9)) == {DB}
    assert net.reached(OPEN, udp(OPEN, WEB, 1000, 9)) == set()


@pytest.mark.parametrize("version", [4, 6])
def test_port_unreachable_comes_back(net: Net, version: int) -> None:
    """To the droplet that asked, and from the droplet that was asked; judged as the query, never committed."""
    kind, code = (3, 3) if version == 4 else (1, 4)
    query = udp(WEB, OUTSIDE, 1000, 53, version)
    refusal = error(OUTSIDE, WEB, query, kind, code)
    assert net.reached(OUTSIDE, refusal) == set(), "there is no query yet"
    net.send(WEB, query)
    back = net.send(OUTSIDE, refusal)
    assert path(back)[2:] == [("c2", 202), ("z", 110)], "with its connection"
    for member in net.fleet.members.values():
        member.desired.change({GENERATION: Generation(2)})
        change = difference(member.desired, member.switch.flows)
        member.switch.apply(change.delete, change.put)
    back = net.send(OUTSIDE, refusal)
    judged = [step for step in path(back)[2:] if step[1]]
    assert judged == [("c2", 199), ("c3", 100), ("c3s", 100), ("c3r", 1000), ("c4", 100), ("z", 110)]
    assert net.fleet.members[HERE].switch.connections(1) == 1
    asked = udp(OUTSIDE, DB, 1000, 9, version)
    assert net.reached(DB, error(DB, OUTSIDE, asked, kind, code)) == set()
    net.send(OUTSIDE, asked)
    assert net.reached(DB, error(DB, OUTSIDE, asked, kind, code)) == {OUTSIDE}


@pytest.mark.parametrize("version", [4, 6])
def test_a_router_may_say_that_a_packet_is_too_big(net: Net, version: int) -> None:
    kind, code = (3, 4) if version == 4 else (2, 0)
    router = ip("203.0.113.1" if version == 4 else "2001:db8:ffff::1")
    net.send(OUTSIDE, tcp(OUTSIDE, WEB, 1000, 443, SYN, version))
    answer = tcp(WEB, OUTSIDE, 443, 1000, SYN | ACK, version)
    net.send(WEB, answer)
    assert net.reached(OUTSIDE, error(OUTSIDE, WEB, answer, kind, code, src=router)) == {WEB}
    other = tcp(WEB, OUTSIDE, 443, 1001, ACK, version)
    assert net.reached(OUTSIDE, error(OUTSIDE, WEB, other, kind, code, src=router)) == set()


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_follow_their_first_one(net: Net, version: int) -> None:
    """A later fragment has no ports: it waits at the commit, and only an admitted first fragment completes it."""
    refused = udp(OUTSIDE, WEB, 1000, 53, version)
    for part in ("first", "later"):
        assert net.reached(OUTSIDE, replace(refused, frag=part)) == set()
    admitted = udp(OUTSIDE, DB, 1000, 9, version)
    later = replace(admitted, frag="later")
    held = net.send(OUTSIDE, later)
    assert held.reached == ()
    assert path(held)[-1] == ("c2", 205)
    assert net.fleet.members[HERE].switch.connections(2) == 0
    for part in ("first", "later"):
        assert net.reached(OUTSIDE, replace(admitted, frag=part)) == {DB}
    assert net.reached(DB, udp(DB, OUTSIDE, 9, 1000, version)) == {OUTSIDE}
    established = net.send(OUTSIDE, later)
    assert path(established)[2] == ("c2", 202)
    assert established.reached


@pytest.mark.parametrize("version", [4, 6])
def test_T125_fragments_may_be_refused_before_they_are_tracked(version: int) -> None:
    net = Net(rulings=Rulings(fragments=False))
    whole = udp(OUTSIDE, DB, 1000, 9, version)
    assert net.reached(OUTSIDE, whole) == {DB}
    for part in ("first", "later"):
        refused = net.send(OUTSIDE, replace(whole, frag=part))
        assert path(refused)[-1] == ("c1", 111)
        assert net.reached(WEB, replace(udp(WEB, OUTSIDE, 1000, 53, version), frag=part)) == set()
        assert net.reached(OUTSIDE, replace(udp(OUTSIDE, OPEN, 1000, 9, version), frag=part)) == {OPEN}
        assert net.reached(OPEN, replace(udp(OPEN, OUTSIDE, 1000, 9, version), frag=part)) == {OUTSIDE}
    assert net.fleet.members[HERE].switch.connections(3) == 0, "untracked"


@pytest.mark.parametrize("flags", [SYN | ACK, SYN | FIN, 0, PSH], ids=["syn+ack", "syn+fin", "none", "psh"])
def test_tcp_flags_that_open_nothing_are_invalid(net: Net, flags: int) -> None:
    entering = net.send(OUTSIDE, tcp(OUTSIDE, WEB, 1000, 443, flags))
    assert path(entering)[-1] == ("c2", 201)
    assert entering.reached == ()


def test_tcp_is_picked_up_in_the_middle_only_towards_a_droplet(net: Net) -> None:
    assert net.reached(OUTSIDE, tcp(OUTSIDE, WEB, 1000, 443, ACK)) == {WEB}
    leaving = tcp(WEB, DB, 1000, 5432, ACK)
    assert path(net.send(WEB, leaving))[-1] == ("c2", 210)
    assert net.reached(WEB, replace(leaving, flags=SYN)) == {DB}


@pytest.mark.parametrize("proto", [0, 2, 47, 50, 132])
def test_other_protocols_pass_only_at_open_droplets(net: Net, proto: int) -> None:
    assert net.reached(OUTSIDE, frame(OUTSIDE, WEB, proto=proto)) == set()
    assert net.reached(WEB, frame(WEB, OUTSIDE, proto=proto)) == set()
    assert net.reached(OUTSIDE, frame(OUTSIDE, OPEN, proto=proto)) == {OPEN}
    assert net.reached(OPEN, frame(OPEN, OUTSIDE, proto=proto)) == {OUTSIDE}


@pytest.mark.parametrize("version", [4, 6])
def test_echo(net: Net, version: int) -> None:
    assert net.reached(WEB, echo(WEB, OUTSIDE, version, answer=True)) == set(), "an answer opens nothing"
    assert net.reached(OUTSIDE, echo(OUTSIDE, WEB, version)) == {WEB}
    assert net.reached(WEB, echo(WEB, OUTSIDE, version, answer=True)) == {OUTSIDE}
    assert net.reached(WEB, echo(WEB, OUTSIDE, version)) == set()


def test_an_open_droplet_is_open_unless_the_setting_closes_it() -> None:
    for closed in (False, True):
        net = Net(rulings=Rulings(closed=closed))
        assert net.reached(OPEN, tcp(OPEN, OUTSIDE, 1000, 80)) == (set() if closed else {OUTSIDE})
        assert net.reached(OUTSIDE, tcp(OUTSIDE, OPEN, 1000, 80)) == (set() if closed else {OPEN})


def test_a_refused_commit_fails_closed(net: Net) -> None:
    """When the zone is full the userspace datapath lets the packet go on, uncommitted."""
    net.fleet.members[HERE].switch.refusing.add(1)
    entering = net.send(OUTSIDE, tcp(OUTSIDE, WEB, 1000, 443))
    assert path(entering)[-1] == ("z", 200)
    assert entering.reached == ()
    assert net.reached(WEB, udp(WEB, OUTSIDE, 1000, 53)) == set()
    net.fleet.members[HERE].switch.refusing.clear()
    assert net.reached(OUTSIDE, tcp(OUTSIDE, WEB, 1000, 443)) == {WEB}


@pytest.mark.parametrize("state", [CT_INV, CT_INV | CT_TRK], ids=["untracked", "tracked"])
@pytest.mark.parametrize("direction", [INBOUND_RULES, OUTBOUND_RULES, NO_RULES, NO_RULES_AND_INVALID])
def test_T121_invalid_packets_are_not_delivered_past_a_commit(state: int, direction: int) -> None:
    """Reassemblers send expired fragments on with another packet; what c2 found invalid itself passes if it is open."""

    def meets(match: Match) -> bool:
        have = {"ct_state": state, "reg6": direction, "reg7": 2, "ct_mark": 1}
        return all((have.get(t.name, 0) ^ t.value) & (t.mask or -1) == 0 for t in match.terms)

    first = next(flow for flow in sorted(Static().flows(), key=lambda f: -f.priority)
                 if flow.table == OUTPUT.id and meets(flow.match))  # fmt: skip
    assert (first.priority == 200) == (direction != NO_RULES_AND_INVALID)
    assert first.actions == ()


def test_no_walk_recirculates_more_than_the_datapath_allows(net: Net) -> None:
    """The worst case is a first packet between two droplets of one host; Bridge raises past the limit of 6."""
    first = net.send(WEB, tcp(WEB, DB, 1000, 5432))
    assert sum("ct zone" in line for line in first.walks[0].trace) == 4
    assert first.reached


# --------------------------------------------------------------------------------------------- guards


def test_arp_of_oneself_passes_and_floods(net: Net) -> None:
    assert net.reached(WEB, arp(WEB)) == {DB, OPEN, FAR, OUTSIDE}
    assert net.reached(WEB, arp(WEB, DB, arp_op=2)) == {DB}
    assert net.reached(WEB, arp(WEB, arp_spa=0)) == {DB, OPEN, FAR, OUTSIDE}, "a probe"
    assert net.reached(DB, arp(DB, arp_spa=ip("10.0.0.11"))) == {WEB, OPEN, FAR, OUTSIDE}, "within its prefix"
    assert net.reached(OUTSIDE, arp(OUTSIDE)) == {WEB, DB, OPEN, FAR}
    assert net.reached(OUTSIDE, arp(OUTSIDE, WEB, arp_op=2)) == {WEB}


@pytest.mark.parametrize(
    "lie",
    [
        {"arp_spa": ip("10.0.0.2")},
        {"arp_spa": ip("10.0.0.254")},
        {"arp_sha": mac(2)},
        {"eth_src": mac(2)},
        {"eth_src": ROUTER, "arp_sha": ROUTER},
        {"arp_op": 2, "arp_spa": 0},
        {"vlan": 5},
    ],
    ids=str,
)
def test_arp_lies_reach_nobody(net: Net, lie: dict[str, int]) -> None:
    assert net.reached(WEB, arp(WEB, **lie)) == set()
    assert net.reached(WEB, arp(WEB, DB, **lie)) == set()


NS, NA, RS, RA, REDIRECT = 135, 136, 133, 134, 137


def test_what_hides_its_protocol_does_not_leave(net: Net) -> None:
    """To OvS, a first fragment without its transport header has no protocol, or ports or an ICMPv6 type of 0."""
    for hidden in ({"proto": 0}, {"proto": IP_UDP}, {"proto": IP_ICMP6}):
        assert net.reached(OPEN, frame(OPEN, OUTSIDE, version=6, **hidden)) == set(), hidden
    assert net.reached(OPEN, frame(OPEN, OUTSIDE, version=6, proto=132)) == {OUTSIDE}
    assert net.reached(OPEN, udp(OPEN, OUTSIDE, 0, 9, 6)) == {OUTSIDE}


def test_neighbour_discovery_of_oneself_passes_and_floods(net: Net) -> None:
    everybody = {DB, OPEN, FAR, OUTSIDE}
    own = ip("fd00::1")
    assert net.reached(WEB, nd(WEB, NS, nd_target=ip("fd00::2"), nd_sll=mac(WEB))) == everybody
    assert net.reached(WEB, nd(WEB, NS, src=own, nd_target=ip("fd00::2"))) == everybody
    assert net.reached(WEB, nd(WEB, NS, src=0, nd_target=own)) == everybody, "duplicate address detection"
    assert net.reached(WEB, nd(WEB, NA, nd_target=own, nd_tll=mac(WEB))) == everybody
    assert net.reached(WEB, nd(WEB, NA, DB, nd_target=own)) == {DB}
    for source in (link_local("02:00:00:00:00:01").value, 0):
        # A question for routers, and no droplet is one.
        assert net.reached(WEB, nd(WEB, RS, src=source)) == {OUTSIDE}
    assert net.reached(OUTSIDE, nd(OUTSIDE, RA)) == {WEB, DB, OPEN, FAR}
    assert net.reached(OUTSIDE, nd(OUTSIDE, RA, WEB)) == {WEB}
    assert net.reached(OUTSIDE, nd(OUTSIDE, NS, nd_target=own)) == {WEB, DB, OPEN, FAR}
    assert net.reached(OUTSIDE, nd(OUTSIDE, NA, WEB, nd_target=own)) == {WEB}


@pytest.mark.parametrize(
    ("kind", "lie"),
    [
        (NA, {"nd_target": ip("fd00::2")}),
        (NA, {"nd_target": ip("fd00::1"), "nd_tll": mac(2)}),
        (NA, {"nd_target": ip("fd00::1"), "ttl": 254}),
        (NA, {"nd_target": ip("fd00::1"), "icmp_code": 1}),
        (NA, {"nd_target": ip("fd00::1"), "eth_src": mac(2)}),
        (NA, {"nd_target": ip("fd00::1"), "vlan": 5}),
        (NS, {"src": ip("fd00::2"), "nd_target": ip("fd00::3")}),
        (NS, {"nd_target": ip("fd00::2"), "nd_sll": mac(2)}),
        (NS, {"nd_target": ip("fd00::2"), "ttl": 254}),
        (NS, {"src": 0, "nd_target": ip("fd00::2")}),
        (NS, {"src": 0, "nd_target": ip("fd00::1"), "nd_sll": mac(1)}),
        (RS, {"src": ip("fd00::2")}),
        (RS, {"ttl": 254}),
        (RA, {}),
        (RA, {"src": ip("fd00::1")}),
        (REDIRECT, {}),
        (REDIRECT, {"src": ip("fd00::1")}),
    ],
    ids=str,
)
def test_neighbour_discovery_lies_reach_nobody(net: Net, kind: int, lie: dict[str, int]) -> None:
    """Not even an open droplet's: what fails its guard must not pass as ordinary IPv6."""
    for sender in (WEB, OPEN):
        # The same lie, told by the open droplet about its own addresses.
        told = {k: v + 2 if sender == OPEN and v in (ip("fd00::1"), mac(1)) else v for k, v in lie.items()}
        assert net.reached(sender, nd(sender, kind, **told)) == set()
        assert net.reached(sender, nd(sender, kind, DB, **told)) == set()


def test_what_crossed_a_router_is_no_neighbour_discovery(net: Net) -> None:
    for kind in (RA, NS, NA, REDIRECT):
        assert net.reached(OUTSIDE, nd(OUTSIDE, kind, ttl=254)) == set()
        assert net.reached(OUTSIDE, nd(OUTSIDE, kind, WEB, ttl=254)) == set()
    assert net.reached(OUTSIDE, nd(OUTSIDE, REDIRECT, WEB)) == set()


def test_a_droplet_may_ask_for_an_address_but_not_give_any(net: Net) -> None:
    request = replace(udp(WEB, OUTSIDE, 68, 67), src=0, dst=0xFFFFFFFF, eth_dst=BROADCAST)
    assert net.reached(WEB, request) == {OUTSIDE}, "droplets do not see each other's requests"
    assert net.reached(WEB, replace(request, src=ip("10.0.0.1"), dst=ip("10.0.0.254"), eth_dst=ROUTER)) == {OUTSIDE}
    assert net.reached(WEB, replace(request, src=ip("10.0.0.2"))) == set()
    assert net.reached(WEB, replace(request, dst=ip("10.0.0.2"), eth_dst=ROUTER)) == set(), "from nowhere to someone"
    request6 = replace(nd(WEB, 0), proto=IP_UDP, icmp_type=0, sport=546, dport=547, eth_dst=0x3333_0001_0002)
    assert net.reached(WEB, request6) == {OUTSIDE}
    for sender in (WEB, OPEN):
        for to in (OUTSIDE, DB):
            assert net.reached(sender, udp(sender, to, 67, 68)) == set()
            assert net.reached(sender, udp(sender, to, 547, 546, 6)) == set()


def test_answers_of_dhcp_servers_arrive(net: Net) -> None:
    offer = udp(OUTSIDE, WEB, 67, 68)
    assert net.reached(OUTSIDE, offer) == {WEB}
    assert net.reached(OUTSIDE, replace(offer, eth_dst=BROADCAST, dst=0xFFFFFFFF)) == {WEB, DB, OPEN, FAR}
    assert net.reached(OUTSIDE, udp(OUTSIDE, WEB, 547, 546, 6)) == {WEB}
    for wrong in ({"dport": 69}, {"sport": 66}):
        assert net.reached(OUTSIDE, replace(offer, **wrong)) == set()
        assert net.reached(OUTSIDE, replace(offer, eth_dst=BROADCAST, dst=0xFFFFFFFF, **wrong)) == set()


def test_a_tagged_frame_reaches_nobody(net: Net) -> None:
    for tag in (0, 5):
        assert net.reached(OPEN, replace(udp(OPEN, OUTSIDE, 1, 2), vlan=tag)) == set()
        assert net.reached(OUTSIDE, replace(tcp(OUTSIDE, WEB, 1000, 443), vlan=tag)) == set()


@pytest.mark.parametrize("eth_type", [0x8847, 0x88CC, 0x0842, 0x05DC])
def test_other_ethertypes_reach_no_protected_droplet(net: Net, eth_type: int) -> None:
    strange = Frame(mac(OPEN), mac(DB), eth_type)
    assert net.reached(OPEN, strange) == set()
    assert net.reached(OPEN, replace(strange, eth_dst=ROUTER)) == set()
    assert net.reached(OUTSIDE, Frame(ROUTER, mac(WEB), eth_type)) == set()


def test_a_port_that_nobody_registered_reaches_nobody(net: Net) -> None:
    for one in (udp(OPEN, OUTSIDE, 1, 2), arp(OPEN), nd(OPEN, NS), udp(OPEN, DB, 1, 9)):
        assert net.fleet.members[HERE].switch.walk(77, one).outputs == ()
        assert net.fleet.members[HERE].switch.walk(78, one).outputs == ()


def test_unknown_unicast_floods_nobody(net: Net) -> None:
    assert net.reached(OUTSIDE, replace(udp(OUTSIDE, OPEN, 1, 2), eth_dst=mac(99))) == set()
    assert net.reached(OPEN, replace(udp(OPEN, OUTSIDE, 1, 2), eth_dst=mac(99))) == {OUTSIDE}


@pytest.mark.parametrize("eth_dst", [BROADCAST, 0x0100_5E00_0001], ids=["broadcast", "multicast"])
def test_ip_multicast_reaches_no_droplet(net: Net, eth_dst: int) -> None:
    many = replace(udp(OPEN, OUTSIDE, 5353, 5353), eth_dst=eth_dst, dst=ip("224.0.0.251"))
    assert net.reached(OPEN, many) == {OUTSIDE}
    assert net.reached(OUTSIDE, replace(many, eth_src=ROUTER, src=ip("192.0.2.7"))) == set()


def test_nothing_passes_from_uplink_to_uplink() -> None:
    """A hypervisor is no bridge between its uplinks: two of them would make a loop."""
    policy = representative()
    draft = policy.edit()
    draft.put(replace(policy.hypervisors[HERE], uplinks=("uplink*", "stranger")))
    net = Net(draft.done())
    switch = net.fleet.members[HERE].switch
    assert switch.walk(13, arp(OPEN)).outputs == (11, 12, 1, 77), "both are uplinks"
    for one in (udp(OUTSIDE, OPEN, 1, 2), arp(OUTSIDE), nd(OUTSIDE, NS), udp(OUTSIDE, OUTSIDE, 1, 2)):
        for uplink in (1, 77):
            for eth_dst in (one.eth_dst, mac(99), BROADCAST):
                assert not {1, 77} & set(switch.walk(uplink, replace(one, eth_dst=eth_dst)).outputs)


def test_a_droplet_reaches_not_itself(net: Net) -> None:
    assert net.reached(OPEN, udp(OPEN, OPEN, 1, 2)) == set()
