"""Flows as values: what a match must be, and the one line of text that each has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall_app.pipeline.flow import (
    CT_EST,
    CT_INV,
    CT_NEW,
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
    NOT_A_FRAGMENT,
    NX_FRAG_LATER,
    Ct,
    Flow,
    Load,
    Move,
    Note,
    Output,
    Resubmit,
    Term,
    bits,
    match,
    texts,
)

IP4, IP6, ARP = {"eth_type": ETH_IP}, {"eth_type": ETH_IPV6}, {"eth_type": ETH_ARP}
TCP4, UDP6 = {**IP4, "ip_proto": IP_TCP}, {**IP6, "ip_proto": IP_UDP}
ICMP4, ICMP6 = {**IP4, "ip_proto": IP_ICMP}, {**IP6, "ip_proto": IP_ICMP6}

# --------------------------------------------------------------------------------------------- matches


@pytest.mark.parametrize(
    "fields",
    [
        {"ipv4_src": 1},
        {"ip_proto": IP_TCP},
        {"ip_ttl": 255},
        {"ip_frag": 1},
        {"tcp_dst": 80},
        {"arp_spa": 1},
        {**IP6, "ipv4_src": 1},
        {**IP4, "ipv6_dst": 1},
        {**IP4, "arp_op": 1},
        {**ARP, "ip_proto": IP_TCP},
        {**IP4, "tcp_dst": 80},
        {**TCP4, "udp_dst": 80},
        {**UDP6, "tcp_src": 80},
        {**UDP6, "tcp_flags": 2},
        {**ICMP6, "icmp_type": 8},
        {**ICMP4, "icmpv6_type": 128},
        {"eth_type": ETH_IP, "ip_proto": IP_ICMP6, "icmpv6_type": 128},
        {**IP6, "nd_target": 1},
        {**ICMP6, "nd_target": 1},
        {**ICMP6, "icmpv6_type": 133, "icmpv6_code": 0, "nd_target": 1},
        {**ICMP6, "nd_sll": 1},
        {**ICMP6, "icmpv6_type": 136, "icmpv6_code": 0, "nd_sll": 1},
        {**ICMP6, "icmpv6_type": 135, "icmpv6_code": 0, "nd_tll": 1},
        {**ICMP6, "icmpv6_type": 135, "nd_sll": 1},
        {**ICMP6, "icmpv6_type": 135, "icmpv6_code": 1, "nd_sll": 1},
    ],
    ids=str,
)
def test_a_field_without_its_prerequisite_is_refused(fields: dict[str, int]) -> None:
    """`ovs-ofctl` makes a match on everything of it."""
    with pytest.raises(ValueError, match="needs"):
        match(**fields)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"tp_dst": 80}, "no such field: tp_dst"),
        ({"in_port": -1}, "does not fit in 32 bits"),
        ({"eth_src": 1 << 48}, "does not fit in 48 bits"),
        ({"vlan_vid": 1 << 13}, "does not fit in 13 bits"),
        ({**TCP4, "tcp_dst": 65536}, "does not fit in 16 bits"),
        ({**TCP4, "tcp_dst": (0, 65536)}, "does not fit in 16 bits"),
        ({"in_port": (1, 1)}, "cannot be masked"),
        ({"eth_type": (ETH_IP, 0xFF00)}, "cannot be masked"),
        ({"eth_type": ETH_IP, "ip_proto": (6, 6)}, "cannot be masked"),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_is_refused(fields: dict[str, int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        match(**fields)


def test_a_match_has_one_form() -> None:
    """However it is written: else what is read back from a switch would differ for ever."""
    assert match(**TCP4, tcp_dst=(80, 0xFFFF)) == match(tcp_dst=80, ip_proto=6, eth_type=ETH_IP)
    assert match(**IP4, ipv4_src=(0x0A0000FF, 0xFFFFFF00)) == match(**IP4, ipv4_src=(0x0A000000, 0xFFFFFF00))
    assert match(**IP4, ipv4_src=(0x0A000000, 0)) == match(**IP4)
    assert match(reg5=(7, 0)) == match()
    assert match(**IP4, in_port=3).terms == (Term("in_port", 3), Term("eth_type", ETH_IP))


def test_a_field_of_mask_0_may_be_a_prerequisite_of_nothing() -> None:
    with pytest.raises(ValueError, match="tcp_dst needs ip_proto"):
        match(eth_type=ETH_IP, ip_proto=(IP_TCP, 0), tcp_dst=80)


ND_TYPES = {"nd_sll": 135, "nd_tll": 136, "nd_target": 135}


@st.composite
def fields(draw: st.DrawFn) -> dict[str, int | tuple[int, int]]:
    """Some fields with what they need, in any order."""
    eth = draw(st.sampled_from([None, ETH_IP, ETH_IPV6, ETH_ARP]))
    protos = {ETH_IP: [None, IP_TCP, IP_UDP, IP_ICMP], ETH_IPV6: [None, IP_TCP, IP_UDP, IP_ICMP6]}
    proto = draw(st.sampled_from(protos.get(eth, [None])))
    found: dict[str, int | tuple[int, int]] = {}
    for spec in FIELDS.values():
        if spec.name in ("eth_type", "ip_proto", "icmpv6_type", *ND_TYPES):
            continue
        if (spec.eth and eth not in spec.eth) or (spec.proto and proto not in spec.proto) or draw(st.integers(0, 3)):
            continue
        value = draw(st.integers(0, (1 << spec.bits) - 1))
        mask = draw(st.integers(0, (1 << spec.bits) - 1)) if spec.maskable and draw(st.booleans()) else None
        found[spec.name] = value if mask is None else (value, mask)
    if proto == IP_ICMP6 and draw(st.booleans()):
        name = draw(st.sampled_from(sorted(ND_TYPES)))
        found |= {name: 5, "icmpv6_type": ND_TYPES[name], "icmpv6_code": 0}
    found |= {"eth_type": eth} if eth else {}
    found |= {"ip_proto": proto} if proto else {}
    return dict(draw(st.permutations(list(found.items()))))


@given(fields())
def test_a_match_is_canonical(given_: dict[str, int | tuple[int, int]]) -> None:
    made = match(**given_)
    order = list(FIELDS)
    names = [term.name for term in made.terms]
    assert names == sorted(names, key=order.index)
    for term in made.terms:
        full = (1 << FIELDS[term.name].bits) - 1
        assert term.mask is None or (0 < term.mask < full and term.value & ~term.mask == 0)
        assert made.get(term.name) == term
    again = {term.name: term.value if term.mask is None else (term.value, term.mask) for term in made.terms}
    assert match(**again) == made
    for name, value in given_.items():
        number, mask = value if isinstance(value, tuple) else (value, (1 << FIELDS[name].bits) - 1)
        term = made.get(name)
        assert (term is None) == (mask == 0)
        assert term is None or term.value == number & mask


def test_a_field_that_is_not_matched_is_none() -> None:
    assert match(reg5=1).get("reg6") is None


# --------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, ""),
        ({"in_port": 3}, "in_port=3"),
        ({"eth_src": 0x020000000001, "eth_dst": (1 << 40, 1 << 40)},
         "dl_src=02:00:00:00:00:01,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00"),
        (IP4, "ip"),
        (ARP, "arp"),
        ({"eth_type": 0x8847}, "eth_type=0x8847"),
        ({**IP4, "ip_proto": 47}, "ip,ip_proto=47"),
        (TCP4, "tcp"),
        (ICMP6, "icmp6"),
        ({**TCP4, "tcp_src": 80, "tcp_dst": (0x1F40, 0xFFFE)}, "tcp,tp_src=80,tp_dst=8000/0xfffe"),
        ({**UDP6, "udp_dst": 53, "ipv6_src": (0xFD << 120, 0xFF << 120)}, "udp6,ipv6_src=fd00::/8,tp_dst=53"),
        ({**IP4, "ipv4_src": 0x0A000001}, "ip,nw_src=10.0.0.1"),
        ({**IP4, "ipv4_dst": (0x0A000000, 0xFF000000)}, "ip,nw_dst=10.0.0.0/8"),
        ({**IP4, "ipv4_dst": (0x00000001, 0x000000FF)}, "ip,nw_dst=0.0.0.1/0.0.0.255"),
        ({"vlan_vid": 0}, "vlan_tci=0x0000/0x1fff"),
        ({**IP4, "ip_frag": (NX_FRAG_LATER, NX_FRAG_LATER)}, "ip,nw_frag=later"),
        ({**IP4, "ip_frag": (0, NX_FRAG_LATER)}, "ip,nw_frag=not_later"),
        ({**IP4, "ip_frag": NOT_A_FRAGMENT}, "ip,nw_frag=no"),
        ({**TCP4, "tcp_flags": (0, 2)}, "tcp,tcp_flags=-syn"),
        ({**TCP4, "tcp_flags": (0x10, 0x12)}, "tcp,tcp_flags=-syn+ack"),
        ({"ct_state": (CT_NEW | CT_TRK, CT_NEW | CT_TRK | CT_INV)}, "ct_state=+new-inv+trk"),
        ({"ct_state": (CT_TRK, CT_TRK | CT_EST | CT_RPL)}, "ct_state=-est-rpl+trk"),
        ({"ct_mark": 7}, "ct_mark=0x7"),
        ({"reg5": (1, 0xFFFF), "reg7": 2}, "reg5=0x1/0xffff,reg7=0x2"),
        ({**ARP, "arp_op": 1, "arp_spa": 0, "arp_sha": 1}, "arp,arp_op=1,arp_spa=0.0.0.0,arp_sha=00:00:00:00:00:01"),
        ({**ICMP6, "ip_ttl": 255, "icmpv6_type": 135, "icmpv6_code": 0, "nd_target": 1},
         "icmp6,nw_ttl=255,icmp_type=135,icmp_code=0,nd_target=::1"),
        ({**ICMP4, "icmp_type": 8}, "icmp,icmp_type=8"),
    ],
    ids=str,
)  # fmt: skip
def test_a_match_as_text(fields: dict[str, int], text: str) -> None:
    assert match(**fields).text == text


def test_actions_as_text() -> None:
    zone = bits("reg5", 0, 15)
    flow = Flow(
        10,
        7,
        match(reg6=1),
        (
            Load(3, bits("reg5")),
            Load(1, bits("reg6", 0, 0)),
            Move(bits("reg4"), bits("ct_label", 0, 31)),
            Resubmit(20),
            Resubmit(30, ct=True),
            Ct(zone, 20),
            Ct(zone, 40, commit=True, exec=(Load(9, bits("ct_mark")),)),
            Note(b"\x01\xff"),
            Output(4),
        ),
        0xD0F1 << 48,
    )
    assert flow.text == str(flow) == (
        "cookie=0xd0f1000000000000,table=10,priority=7,reg6=0x1 actions="
        "load:0x3->NXM_NX_REG5[],load:0x1->NXM_NX_REG6[0],move:NXM_NX_REG4[]->NXM_NX_CT_LABEL[0..31],"
        "resubmit(,20),resubmit(,30,ct),ct(table=20,zone=NXM_NX_REG5[0..15]),"
        "ct(commit,table=40,zone=NXM_NX_REG5[0..15],exec(load:0x9->NXM_NX_CT_MARK[])),note:01.ff,output:4"
    )  # fmt: skip
    assert Flow(0, 1, match(), ()).text == "cookie=0x0,table=0,priority=1 actions=drop"


def test_flows_are_read_from_the_first_table_and_the_highest_priority() -> None:
    some = [
        Flow(1, 1, match(), ()),
        Flow(0, 1, match(reg5=2), ()),
        Flow(0, 1, match(reg5=1), ()),
        Flow(0, 9, match(), ()),
    ]
    assert texts(some) == [some[3].text, some[2].text, some[1].text, some[0].text]


def test_flows_are_identical_by_table_priority_and_match() -> None:
    one = Flow(0, 1, match(reg5=1), (), 1)
    assert one.key == Flow(0, 1, match(reg5=(1, 0xFFFFFFFF)), (Output(1),), 2).key
    others = (Flow(1, 1, match(reg5=1), ()), Flow(0, 2, match(reg5=1), ()), Flow(0, 1, match(reg5=2), ()))
    assert len({one.key, *(other.key for other in others)}) == 4


# --------------------------------------------------------------------------------------------- actions


def test_actions_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit in NXM_NX_REG6"):
        Load(2, bits("reg6", 0, 0))
    with pytest.raises(ValueError, match="does not fit"):
        Load(-1, bits("reg6"))
    with pytest.raises(ValueError, match="differ in width"):
        Move(bits("reg4"), bits("ct_label"))
    for first, last in ((0, 32), (5, 4), (-1, 3)):
        with pytest.raises(ValueError, match="is not within 32 bits"):
            bits("reg5", first, last)
    assert (bits("ct_label").width, bits("reg5", 4, 7).width) == (128, 4)
