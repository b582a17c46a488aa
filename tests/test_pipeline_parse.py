"""Text to flows: both ways with `Flow.text`, as a real switch prints it, and that no word is passed over."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
import strategies as our
from hypothesis import given
from hypothesis import strategies as st
from ovs_dummy import DummyOvs
from representative import HERE, SITE, representative

from firewall_app.pipeline import reserved
from firewall_app.pipeline.compile import Rulings
from firewall_app.pipeline.flow import (
    CT_EST,
    CT_INV,
    CT_NEW,
    CT_TRK,
    ETH_ARP,
    ETH_IP,
    ETH_IPV6,
    FIELDS,
    IP_ICMP6,
    IP_TCP,
    IP_UDP,
    NX_FRAG_ANY,
    NX_FRAG_LATER,
    Ct,
    Flow,
    Load,
    Match,
    Move,
    Note,
    Output,
    Resubmit,
    bits,
    match,
    texts,
)
from firewall_app.pipeline.parse import ETH_RARP, Unreadable, parse_dump, parse_flow
from firewall_app.pipeline.plan import units
from firewall_app.pipeline.unit import Generation
from firewall_app.policy.policy import Policy

# --------------------------------------------------------------------------------------------- both ways


def compiled(policy: Policy, dpid: str) -> list[Flow]:
    found = units(policy, dpid, SITE.interfaces[dpid], Rulings())
    return [*(flow for unit in found.values() for flow in unit.flows()), *Generation(0x7FFFFFFF).flows()]


@given(our.policies())
def test_every_flow_of_any_policy_comes_back_from_its_text(policy: Policy) -> None:
    for dpid, interfaces in our.SITE.interfaces.items():
        for unit in units(policy, dpid, interfaces, Rulings()).values():
            for flow in unit.flows():
                assert parse_flow(flow.text) == flow


def values(name: str) -> st.SearchStrategy[int | tuple[int, int]]:
    spec = FIELDS[name]
    full = (1 << spec.bits) - 1
    whole = st.integers(0, full)
    return st.tuples(whole, st.integers(1, full)) if spec.maskable else whole


PROTOCOLS = [
    {},
    {"eth_type": ETH_ARP},
    {"eth_type": 0x88CC},
    *({"eth_type": eth} for eth in (ETH_IP, ETH_IPV6)),
    *({"eth_type": eth, "ip_proto": number} for eth in (ETH_IP, ETH_IPV6) for number in (1, 6, 17, 47, 58)),
    *({"eth_type": ETH_IPV6, "ip_proto": 58, "icmpv6_type": kind, "icmpv6_code": 0} for kind in (135, 136)),
]
# The text of these says less than any value: it names bits, or the few kinds of fragments there are.
NAMED_BITS = {"ct_state": 63, "tcp_flags": 0x1FF, "vlan_vid": 0x1FFF}


@st.composite
def matches(draw: st.DrawFn) -> Match:
    fields = dict(draw(st.sampled_from(PROTOCOLS)))
    for name in draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=6, unique=True)):
        if name in fields or name == "ip_frag":
            continue
        value = draw(values(name))
        if name in NAMED_BITS:
            value = draw(st.integers(0, NAMED_BITS[name])), draw(st.integers(1, NAMED_BITS[name]))
        try:
            match(**fields, **{name: value})
        except ValueError:
            continue  # what it needs is not matched
        fields[name] = value
    return match(**fields)


@given(matches())
def test_every_match_comes_back_from_its_text(wanted: Match) -> None:
    assert parse_flow(Flow(0, 1, wanted, ()).text).match == wanted


REGISTERS = sorted(name for name in FIELDS if name.startswith("reg"))


@pytest.mark.parametrize(
    "action",
    [
        Output(1),
        Output(0xFEFF),
        *(Load(5, bits(name)) for name in REGISTERS),
        Load(1, bits("reg7", 4, 4)),
        Load(0, bits("ct_mark")),
        Move(bits("reg4"), bits("ct_label", 32, 63)),
        Resubmit(0),
        Resubmit(254, ct=True),
        Note(b"\x00\xff"),
        Ct(bits("reg5", 0, 15), 20),
        Ct(bits("reg5", 0, 15), 40, True, (Load(7, bits("ct_mark")), Move(bits("reg4"), bits("ct_label", 0, 31)))),
    ],
    ids=lambda action: action.text,
)
def test_every_action_comes_back_from_its_text_also_in_a_row(action: object) -> None:
    for actions in ((action,), (Resubmit(3), action, Load(0, bits("reg6")))):
        assert parse_flow(Flow(1, 2, match(), actions).text).actions == actions


FRAGMENTS = ("no", "yes", "first", "later", "not_later")


@pytest.mark.parametrize("kind", FRAGMENTS)
def test_fragments_keep_their_word(kind: str) -> None:
    """Also those that our pipeline does not match: others' flows are told as they are."""
    text = f"cookie=0x0,table=0,priority=1,ip,nw_frag={kind} actions=drop"
    assert parse_flow(text).text == text


@pytest.mark.parametrize("kind", FRAGMENTS)
def test_fragments(kind: str) -> None:
    later, some = NX_FRAG_LATER, NX_FRAG_ANY
    meant = {"no": (0, some | later), "yes": (some, some), "first": (some, some | later), "later": (later, later),
             "not_later": (0, later)}[kind]  # fmt: skip
    assert parse_flow(f"ip,nw_frag={kind} actions=drop").match == match(eth_type=ETH_IP, ip_frag=meant)


# --------------------------------------------------------------------------------------------- as a switch prints it


def line(text: str) -> str:
    return f" cookie=0xd0f1020100000001, duration=12.3s, table=20, n_packets=4, n_bytes=392, {text}"


def test_a_line_of_a_switch() -> None:
    text = line("priority=201,ct_state=+est-inv+trk,ipv6,nw_frag=later actions=ct(commit,table=40,"
                "zone=NXM_NX_REG5[0..15],exec(load:0x7->NXM_NX_CT_MARK[]))")  # fmt: skip
    frag, state = (NX_FRAG_LATER, NX_FRAG_LATER), (CT_EST | CT_TRK, CT_EST | CT_INV | CT_TRK)
    commit = Ct(bits("reg5", 0, 15), 40, True, (Load(7, bits("ct_mark")),))
    wanted = match(eth_type=ETH_IPV6, ip_frag=frag, ct_state=state)
    assert parse_flow(text) == Flow(20, 201, wanted, (commit,), 0xD0F1020100000001)


def test_what_is_left_out_has_the_value_that_openflow_gives_it() -> None:
    assert parse_flow(" cookie=0x0, duration=1s, n_packets=0, n_bytes=0, actions=drop") == Flow(0, 32768, match(), ())


def test_flags_and_timeouts_are_read_over() -> None:
    text = line("idle_timeout=20, hard_timeout=30, importance=4, idle_age=3, hard_age=2, send_flow_rem reset_counts "
                "priority=3,in_port=2 actions=drop")  # fmt: skip
    assert parse_flow(text).match == match(in_port=2)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("rarp,in_port=2", match(eth_type=ETH_RARP, in_port=2)),
        ("tcp,tp_dst=0x50/0xfff0", match(eth_type=ETH_IP, ip_proto=IP_TCP, tcp_dst=(0x50, 0xFFF0))),
        ("udp6,tp_src=68", match(eth_type=ETH_IPV6, ip_proto=IP_UDP, udp_src=68)),
        ("tp_dst=53,nw_proto=17,dl_type=0x0800", match(eth_type=ETH_IP, ip_proto=IP_UDP, udp_dst=53)),
        ("icmp6,icmp_type=135,icmp_code=0,nd_target=fe80::/10",
         match(eth_type=ETH_IPV6, ip_proto=IP_ICMP6, icmpv6_type=135, icmpv6_code=0,
               nd_target=(0xFE80 << 112, 0xFFC0 << 112))),
        ("ip,nw_src=10.0.0.1/255.0.255.255", match(eth_type=ETH_IP, ipv4_src=(0x0A000001, 0xFF00FFFF))),
        ("ct_state=0x21/0x23", match(ct_state=(CT_NEW | CT_TRK, CT_NEW | CT_EST | CT_TRK))),
        ("dl_dst=01:00:00:00:00:00/01:00:00:00:00:00", match(eth_dst=(1 << 40, 1 << 40))),
        ("vlan_tci=0x0000/0x1fff", match(vlan_vid=0)),
        ("dl_vlan=5", match(vlan_vid=0x1005)),
        ("in_port=LOCAL", match(in_port=reserved.LOCAL)),
        ("ct_label=0x5/0x7,ct_zone=4", match(ct_label=(5, 7), ct_zone=4)),
    ],
)  # fmt: skip
def test_words_of_a_match(words: str, wanted: Match) -> None:
    assert parse_flow(f"{words} actions=drop").match == wanted


@pytest.mark.parametrize("name", REGISTERS)
def test_every_register_that_flows_may_match_is_read(name: str) -> None:
    assert parse_flow(line(f"{name}=0x5/0xff actions=drop")).match == match(**{name: (5, 0xFF)})


@pytest.mark.parametrize(
    ("word", "action"),
    [
        ("NORMAL", Output(reserved.NORMAL)),
        ("CONTROLLER:65535", Output(reserved.CONTROLLER)),
        ("output:LOCAL", Output(reserved.LOCAL)),
        ("set_field:0x5->reg6", Load(5, bits("reg6"))),
    ],
)
def test_words_of_actions_of_others(word: str, action: object) -> None:
    assert parse_flow(f"actions={word},output:3").actions == (action, Output(3))


# --------------------------------------------------------------------------------------------- what is not known


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("table=1,ip,nw_tos=4 actions=drop", "nw_tos"),
        ("metadata=5 actions=drop", "metadata"),
        ("ip,nonsense actions=drop", "nonsense"),
        ("tcp,udp actions=drop", "udp"),
        ("tcp,tcp6 actions=drop", "tcp6"),
        ("sctp,tp_dst=5 actions=drop", "tp_dst"),
        ("tp_dst=5 actions=drop", "tp_dst"),
        ("nw_src=10.0.0.1 actions=drop", "ipv4_src"),
        ("ip,nw_src=10.1 actions=drop", "nw_src=10.1"),
        ("ip,nw_src=fe80::1 actions=drop", "nw_src=fe80::1"),
        ("ip,nw_src=10.0.0.0/33 actions=drop", "nw_src=10.0.0.0/33"),
        ("dl_src=1:2:3:4:5:6 actions=drop", "dl_src=1:2:3:4:5:6"),
        ("in_port=eth0 actions=drop", "eth0"),
        ('in_port="vm 1" actions=drop', "in_port"),
        ("vlan_tci=0x2000/0xe000 actions=drop", "vlan_tci"),
        ("dl_vlan=5,vlan_tci=0 actions=drop", "vlan_tci"),
        ("ct_state=+new+snat actions=drop", "snat"),
        ("ct_state=new actions=drop", "ct_state=new"),
        ("tcp,tcp_flags=+xyz actions=drop", "xyz"),
        ("ip,nw_frag=some actions=drop", "nw_frag=some"),
        ("reg5=-1 actions=drop", "reg5=-1"),
        ("reg5=1,reg5=2 actions=drop", "reg5"),
        ("priority=high actions=drop", "priority=high"),
        ("priority=1,priority=2 actions=drop", "priority"),
        ("in_port=1", "actions="),
        ("actions=", "action"),
        ("actions=drop,output:1", "drop"),
        ("actions=output:vm1", "output:vm1"),
        ("actions=group:1", "group:1"),
        ("actions=goto_table:3", "goto_table:3"),
        ("actions=resubmit(1,2)", "resubmit(1,2)"),
        ("actions=conjunction(3,1/2)", "conjunction"),
        ("actions=clone(output:1,output:2)", "clone(output:1,output:2)"),
        ("actions=learn(table=9,load:0->NXM_NX_REG5[])", "learn"),
        ("actions=load:0x1->NXM_OF_ETH_DST[]", "NXM_OF_ETH_DST"),
        ("actions=load:0x10000->NXM_NX_REG5[0..15]", "0x10000"),
        ("actions=load:1->NXM_NX_REG5[0..32]", "reg5"),
        ("actions=set_field:0x5/0x7->reg5", "set_field:0x5/0x7->reg5"),
        ("actions=ct(commit)", "ct(commit)"),
        ("actions=ct(table=3,zone=5)", "zone=5"),
        ("actions=ct(table=3,zone=NXM_NX_REG5[0..15],nat)", "nat"),
        ("actions=ct(commit,force,table=3,zone=NXM_NX_REG5[0..15])", "force"),
        ("actions=note:xy", "note:xy"),
    ],
)
def test_a_word_that_is_not_known_is_named(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        parse_flow(text)


def test_a_dump_holds_what_was_read_and_what_was_not() -> None:
    text = "\n".join(
        ["OFPST_FLOW reply (OF1.4) (xid=0x2):", line("in_port=2 actions=drop"), line("ip,nw_tos=4 actions=drop"), "",
         "NXST_FLOW reply (xid=0x4):", "warning: something else"]
    )  # fmt: skip
    dump = parse_dump(text)
    assert [flow.match for flow in dump.flows] == [match(in_port=2)]
    assert dump.unreadable == (
        Unreadable(line("ip,nw_tos=4 actions=drop").strip(), "nw_tos is not known"),
        Unreadable("warning: something else", "no actions= in 'warning: something else'"),
    )


# --------------------------------------------------------------------------------------------- a real switch


@pytest.mark.ovs
@pytest.mark.parametrize("version", ["OpenFlow13", "OpenFlow14"])
def test_a_real_switch_gives_back_what_it_was_given(version: str) -> None:
    given_to_it = compiled(representative(), HERE)
    extra = [
        Flow(7, 1, match(eth_type=ETH_RARP), (Output(reserved.FLOOD),)),
        Flow(7, 32768, match(), (Note(b"123456"), Output(reserved.NORMAL))),
        Flow(7, 2, match(in_port=reserved.LOCAL, ct_zone=5, ct_label=(5, 7)), (Output(reserved.CONTROLLER),)),
        *(Flow(8, 1, match(**{name: (5, 0xFF)}), (Load(1, bits(name, 3, 5)), Resubmit(9))) for name in REGISTERS),
    ]
    with tempfile.TemporaryDirectory(prefix="fw-") as directory, DummyOvs(Path(directory) / "ovs") as ovs:
        ovs.add_bridge("br0", ("p1",))
        bridge = f"unix:{ovs.mgmt('br0')}"
        ovs.ofctl("-O", version, "add-flows", bridge, "-", stdin="\n".join(texts([*given_to_it, *extra])))
        dump = parse_dump(ovs.ofctl("-O", version, "dump-flows", bridge))
    assert dump.unreadable == ()
    assert set(dump.flows) == {*given_to_it, *extra}
