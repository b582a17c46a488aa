"""What verification tries, what it notices, and what it says; pure: the real switch is in `test_verify_ovs.py`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
import strategies as our
from fleet import Member, Site
from hypothesis import example, given, settings
from hypothesis import strategies as st
from representative import HERE, IN, SITE, TCP, representative

from firewall_app import verify
from firewall_app.pipeline import reserved
from firewall_app.pipeline.compile import Rulings, ports_here, uplinks_here
from firewall_app.pipeline.conform import Conformance, Findings
from firewall_app.pipeline.flow import (
    CT_REL,
    CT_RPL,
    CT_TRK,
    ETH_IP,
    Flow,
    Match,
    Output,
    Resubmit,
    match,
)
from firewall_app.pipeline.parse import parse_flow
from firewall_app.pipeline.probes import Block, Case, End, Wiring, blocks, edges, rule_text, sample
from firewall_app.pipeline.tables import Kind, cookie_parts
from firewall_app.policy.decide import Verdict, decide
from firewall_app.policy.model import Peer, PortRange, Protocol, Rule, network
from firewall_app.policy.policy import Policy
from firewall_app.remote import Reading
from firewall_app.verify import COULD_NOT, DISAGREE, CouldNot, Held

WIRING = Wiring({"p1": 11, "p2": 12, "p3": 13}, (1,), (77, reserved.LOCAL))


def compiled(policy: Policy, dpid: str = HERE, site: Site = SITE, closed: bool = False) -> list[Flow]:
    """What a hypervisor holds that follows a policy; where several rules mean one flow, it is there once."""
    member = Member(dpid, site.interfaces[dpid])
    member.follow(policy, Rulings(closed=closed))
    return list(member.switch.flows.values())


def everything() -> list[Case]:
    return sample(blocks(representative(), WIRING), 1 << 30, 0)


def findings(flows: Iterable[Flow], cases: Iterable[Case] | None = None, until_wrong: bool = False) -> Findings:
    check = Conformance(representative(), WIRING, flows)
    for case in everything() if cases is None else cases:
        check.check(case)
        if until_wrong and check.findings.disagreements:
            break
    return check.findings


# --------------------------------------------------------------------------------------------- what is tried


def tried(**wanted: object) -> list[Case]:
    """Cases of the representative policy whose packet has these values."""
    return [case for case in everything() if all(getattr(case.packet, k) == v for k, v in wanted.items())]


@pytest.mark.parametrize("source", ["192.0.2.0", "192.0.2.255", "192.0.1.255", "192.0.3.0"])
@pytest.mark.parametrize("port", [7999, 8000, 8002, 8003])
def test_both_sides_of_every_edge_of_a_rule_are_tried(source: str, port: int) -> None:
    assert tried(source=network(source).first, destination_port=port, protocol=TCP, receiver="p1", sender=None)


def test_every_droplet_and_protocol_is_tried_with_a_rule_in_both_directions() -> None:
    into_web = [case.packet for case in everything() if "inbound tcp 443" in case.why]
    assert {packet.sender for packet in into_web} == {None, "p2", "p3"}
    assert {packet.protocol for packet in into_web} == {*Protocol, 47}
    assert {packet.source.version for packet in into_web} == {4, 6}
    out = [case.packet for case in everything() if "outbound tcp 5432 to tag db" in case.why]
    assert {packet.sender for packet in out} == {"p1"}
    assert {packet.receiver for packet in out} == {None, "p2", "p3"}
    assert {packet.destination_port for packet in out if packet.protocol is TCP} == {5431, 5432, 5433}


def test_a_droplet_is_tried_under_others_addresses_and_macs_and_strangers_as_droplets() -> None:
    verdicts = {case.why: decide(representative(), case.packet).reason for case in everything()}
    assert "is not an address of port p1" in verdicts["p1 under another's address"]
    assert "is not the MAC of port p2" in verdicts["p2 under another MAC"]
    strangers = [case for case in everything() if case.source.stranger]
    assert {case.source.ofport for case in strangers} == {77, reserved.LOCAL}


def test_most_cases_would_tell() -> None:
    """Both verdicts come up for every protocol: a check that only tries what is dropped would miss half."""
    seen = {(case.packet.protocol, decide(representative(), case.packet).verdict) for case in everything()}
    assert {(protocol, verdict) for protocol in Protocol for verdict in Verdict} <= seen


@given(st.sampled_from(our.PEERS).map(network))
def test_edges_are_inside_and_outside(net: object) -> None:
    inside = [one for one in edges(net) if net.covers(one)]
    assert inside == list(dict.fromkeys((net.first, net.last)))
    assert len(edges(net)) > len(inside) or net.prefix == 0


def block(size: int, why: str = "") -> Block:
    ends = [End(numbered(i), 1, 1) for i in range(size)]
    return Block(why, ends, [End(numbered(1 << 20), 2, 2)], [None])


def numbered(number: int) -> object:
    return network("10.0.0.0").first._replace(value=number)


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(0, 100), st.integers(0, 3))
@example([0, 1, 5, 5], 7, 0)
def test_a_sample_is_fair(sizes: list[int], most: int, seed: int) -> None:
    made = [block(size, str(i)) for i, size in enumerate(sizes)]
    found = sample(made, most, seed)
    taken = [sum(case.why == str(i) for case in found) for i in range(len(sizes))]
    assert len(set(found)) == len(found) == min(most, sum(sizes))
    for mine, size in zip(taken, sizes, strict=True):
        assert mine == size or mine >= max(taken, default=0) - 1
    assert sample(made, most, seed) == found


def test_another_seed_is_another_sample() -> None:
    assert len({tuple(sample([block(1000)], 10, seed)) for seed in range(5)}) == 5


# --------------------------------------------------------------------------------------------- what is noticed


def test_what_was_compiled_agrees() -> None:
    found = findings(compiled(representative()))
    assert (found.disagreements, found.puzzles) == ([], {})
    assert found.agreed == found.cases > 4000
    assert 0 < found.admitted < found.packets


@settings(max_examples=25)
@given(our.policies(), st.booleans(), st.integers(0, 1000))
def test_T194_flows_of_any_policy_read_from_their_text_do_what_it_means(
    policy: Policy, closed: bool, seed: int
) -> None:
    for dpid, interfaces in our.SITE.interfaces.items():
        here = {port.id: number for port, number in ports_here(policy, dpid, interfaces)}
        uplinks = uplinks_here(policy, dpid, interfaces, Rulings(), set(here.values()))
        wiring = Wiring(here, uplinks, tuple(sorted({*interfaces} - {*here.values(), *uplinks})))
        flows = [parse_flow(flow.text) for flow in compiled(policy, dpid, our.SITE, closed)]
        check = Conformance(policy, wiring, flows, closed)
        for case in sample(blocks(policy, wiring, seed), 150, seed):
            check.check(case)
        assert check.findings.disagreements == []
        assert check.findings.puzzles == {}


def of_rules() -> list[Flow]:
    flows = sorted(compiled(representative()), key=lambda flow: flow.text)  # in one order in every process
    return [flow for flow in flows if (parts := cookie_parts(flow.cookie)) is not None and parts[0] is Kind.RULE]


@pytest.mark.parametrize("gone", of_rules(), ids=lambda flow: flow.match.text)
def test_every_flow_of_a_rule_that_is_gone_is_noticed(gone: Flow) -> None:
    assert findings((f for f in compiled(representative()) if f != gone), until_wrong=True).disagreements


PEERS_AND_SERVICES = ("ipv4_src", "ipv4_dst", "ipv6_src", "ipv6_dst", "tcp_dst", "udp_dst", "ip_proto")


def widened() -> list[tuple[Flow, Match]]:
    """Flows of rules, and a match with one of their words left out, as far as there is such a match."""
    found = []
    for flow in of_rules():
        for name in PEERS_AND_SERVICES:
            terms = tuple(term for term in flow.match.terms if term.name != name)
            needs_it = name == "ip_proto" and any(term.name in ("tcp_dst", "udp_dst") for term in terms)
            if len(terms) < len(flow.match.terms) and not needs_it:
                found.append((flow, Match(terms)))
    return found


@pytest.mark.parametrize(("flow", "wide"), widened(), ids=lambda value: getattr(value, "text", "")[:60])
def test_every_flow_of_a_rule_that_matches_more_is_noticed(flow: Flow, wide: Match) -> None:
    # In place of the others with that match, which would be there only once.
    flows = {f.key: f for f in compiled(representative()) if f != flow}
    flows[replace(flow, match=wide).key] = replace(flow, match=wide)
    assert findings(flows.values(), until_wrong=True).disagreements


@pytest.mark.parametrize(
    ("foreign", "said"),
    [
        (Flow(0, 60000, match(), (Output(reserved.NORMAL),)), "it reaches NORMAL"),
        (Flow(0, 60000, match(in_port=1), (Output(11), Output(12))), "it reaches port p1 (11) and port p2 (12)"),
        (Flow(0, 60000, match(in_port=77), (Output(1),)), "it reaches uplink 1"),
        (Flow(0, 60000, match(in_port=11), ()), "it reaches nobody"),
        (Flow(0, 60000, match(in_port=11), (Resubmit(0),)), "it goes round until the switch drops it"),
        (Flow(0, 2000, match(in_port=11), (Output(1),)), "two flows of one priority do different things with it"),
        (Flow(40, 60000, match(reg7=2), (Output(77), Output(13))), "it reaches switch port 77 and port p3 (13)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_others_put_there_is_noticed(foreign: Flow, said: str) -> None:
    assert said in {one.done for one in findings([*compiled(representative()), foreign]).disagreements}


@pytest.mark.parametrize(
    ("state", "what"),
    [(CT_RPL | CT_TRK, "the answer to tcp from "), (CT_REL | CT_TRK, "the ICMP error about icmp from ")],
)
def test_what_follows_an_opening_is_tried_too(state: int, what: str) -> None:
    drop = Flow(20, 60000, match(eth_type=ETH_IP, ct_state=(state, state)), ())
    wrong = findings([*compiled(representative()), drop]).disagreements
    assert any(one.what.startswith(what) for one in wrong)
    assert all(one.meant.startswith("ALLOW") for one in wrong)


def test_a_second_packet_is_tried_too() -> None:
    # A droplet's own second segment is no SYN.
    drop = match(eth_type=ETH_IP, ip_proto=6, reg7=1, tcp_flags=(0, 2), ct_state=(CT_TRK, CT_TRK))
    wrong = findings([*compiled(representative()), Flow(20, 60000, drop, ())]).disagreements
    assert any(one.what.startswith("a second packet like tcp from ") for one in wrong)


def test_a_disagreement_says_all() -> None:
    gone = next(flow for flow in of_rules() if "tp_dst=443" in flow.text and "tcp6" not in flow.text)
    wrong = findings(flow for flow in compiled(representative()) if flow != gone).disagreements
    one = next(one for one in wrong if one.case.packet.sender is None)
    assert one.case.why == "firewall web: inbound tcp 443 from 0.0.0.0/0, ::/0"
    assert one.what == "tcp from 0.0.0.0 port 40000 (outside) to 10.0.0.1 port 443 (port p1 of droplet 1)"
    assert one.meant == "ALLOW: inbound rule of web allows it; it should reach port p1 (11)"
    assert one.done == "it reaches nobody"
    assert "    ct zone 1: new+trk, mark 0x0, opened by 0.0.0.0 -> 10.0.0.1 protocol 6 ports 40000 -> 443" in one.trace
    assert one.trace[-1].endswith("actions=drop")


def test_what_the_walker_does_not_know_is_counted_and_never_agreement() -> None:
    found = findings([*compiled(representative()), Flow(0, 60000, match(in_port=1), (Output(reserved.TABLE),))])
    assert (found.disagreements, len(found.puzzles)) == ([], 1)
    assert 0 < found.agreed < found.cases
    assert verify.report(found, "some", 1) == COULD_NOT


# --------------------------------------------------------------------------------------------- what is said


def test_a_report_shows_each_kind_before_any_twice(capsys: pytest.CaptureFixture[str]) -> None:
    flows = [*compiled(representative()), Flow(0, 60000, match(in_port=11), ())]
    found = findings(flows)
    assert verify.report(found, "all", 3) == DISAGREE
    said = capsys.readouterr().out
    assert f"do not agree: {len(found.disagreements)}" in said
    shown = [line.split(": ", 1)[1] for line in said.splitlines() if line.startswith("   tried for: ")]
    assert len(shown) == len(set(shown)) == 3
    assert "cookie=0x0,table=0,priority=60000,in_port=11 actions=drop" in said


def test_nothing_tried_is_no_agreement(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.report(Findings(), "all 0 cases", 1) == COULD_NOT
    assert "agree: 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Rule(IN, TCP, PortRange.every(), Peer(tags=("a", "b", "c", "d"))),
         "inbound tcp all ports from tag a, tag b, tag c and 1 more"),
        (Rule(IN, Protocol.ICMP, PortRange.every(), Peer()), "inbound icmp from nobody"),
        (Rule(IN, TCP, PortRange(1, 2), Peer(droplet_ids=(7,))), "inbound tcp 1-2 from droplet 7"),
    ],
)  # fmt: skip
def test_rules_in_words(rule: Rule, text: str) -> None:
    assert rule_text(rule) == text


# --------------------------------------------------------------------------------------------- the wiring

READING = Reading(representative(), {"p1": 11, "p2": 12, "p4": 11})


def test_the_wiring_of_a_bridge_is_by_the_names_of_its_interfaces() -> None:
    wiring, absent = verify.wiring_of(READING, Held("", HERE, {1: "uplink0", 5: "vm3", 11: "vm2", 9: "x"}), HERE, None)
    assert wiring == Wiring({"p2": 11, "p3": 5}, (1,), (9, reserved.LOCAL))
    assert [port.id for port in absent] == ["p1"]


def test_the_wiring_of_a_file_is_by_the_numbers_that_the_controller_knows() -> None:
    wiring, absent = verify.wiring_of(READING, Held(""), HERE, ("1", "2"))
    assert wiring == Wiring({"p1": 11, "p2": 12}, (1, 2), (reserved.LOCAL,))
    assert [port.id for port in absent] == ["p3"]


def test_a_port_of_a_droplet_is_no_uplink_whatever_the_pattern() -> None:
    wiring, _ = verify.wiring_of(READING, Held("", HERE, {1: "eth0", 11: "vm1"}), HERE, ("*",))
    assert wiring.uplinks == (1,)


def test_no_uplink_and_no_hypervisor_are_said() -> None:
    with pytest.raises(CouldNot, match="give --uplinks with OpenFlow numbers"):
        verify.wiring_of(READING, Held(""), HERE, None)
    with pytest.raises(CouldNot, match="not registered"):
        verify.wiring_of(READING, Held(""), "00000000000000ff", ("1",))


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--bridge", "br0"),
        ("--api", "http://x", "--token-file", "t", "--bridge", "br0", "--flows", "f"),
        ("--api", "http://x", "--token-file", "t", "--bridge", "br0", "--dpid", "1"),
        ("--api", "http://x", "--token-file", "t", "--bridge", "br0", "--cases", "-1"),
        ("--api", "http://x", "--token-file", "t", "--bri", "br0"),
    ],
)
def test_a_command_line_that_is_wrong(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        verify.main(words)
    assert ended.value.code == COULD_NOT
    assert "usage: python -m firewall_app.verify" in capsys.readouterr().err


def test_the_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        verify.main(["--help"])
    assert ended.value.code == 0
    assert "--bridge br-int" in capsys.readouterr().out


def test_a_token_that_cannot_be_read_and_a_url_that_is_none(
    tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify.main(["--api", "http://x", "--token-file", f"{tmp_path}/none", "--flows", "-"]) == COULD_NOT
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "token").write_text("secret")
    assert verify.main(["--api", "x", "--token-file", f"{tmp_path}/token", "--flows", "-"]) == COULD_NOT
    assert "is not a URL" in capsys.readouterr().err
