"""What explain says of random packets: decide's verdict, flows that the switches hold and the packet meets."""

from __future__ import annotations

from dataclasses import replace

import strategies as our
from fakecore import FakeSwitch, fake_core
from fleet import Fleet
from hypothesis import assume, example, given
from hypothesis import strategies as st
from policies import small
from strategies import SITE

from firewall_app.pipeline.compile import Rulings, ports_here
from firewall_app.pipeline.flow import Flow, Load
from firewall_app.pipeline.tables import RULE, Kind, cookie_parts
from firewall_app.policy.decide import Packet, Verdict, decide
from firewall_app.policy.model import Firewall, Peer, Port, PortRange, PortRules, Protocol, address, network
from firewall_app.policy.policy import Policy
from firewall_app.service.core import Core
from firewall_app.service.explain import Answer, End, Question, explain

NOWHERE = tuple(map(network, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/127", "ff00::/8")))
rulings = st.builds(Rulings, closed=st.booleans(), track_open=st.booleans())


def core_of(policy: Policy, ruled: Rulings) -> Core:
    """A core whose switches are those of the site."""
    core, _ = fake_core(policy, rulings=ruled)
    for dpid, interfaces in SITE.interfaces.items():
        FakeSwitch(core, dpid, dict(interfaces))
    return core


def question(packet: Packet) -> Question:
    assert isinstance(packet.protocol, Protocol)
    ends = (End(port=packet.sender, address=packet.source), End(port=packet.receiver, address=packet.destination))
    return Question(*ends, packet.protocol, packet.destination_port, packet.source_port)


@st.composite
def asked(draw: st.DrawFn) -> tuple[Policy, Rulings, our.Sent]:
    """A policy, and a packet about which can be asked: an address outside must not be one that a port holds."""
    policy, ruled = draw(our.policies()), draw(rulings)
    plugged = frozenset(
        port.id for dpid, there in SITE.interfaces.items() for port, _ in ports_here(policy, dpid, there)
    )
    sent = draw(our.openings(policy, plugged))
    packet = sent.packet
    assume(isinstance(packet.protocol, Protocol))
    own = [net for port in policy.ports.values() for net in port.networks]
    for end, where in ((packet.sender, packet.source), (packet.receiver, packet.destination)):
        assume(end is not None or not any(net.covers(where) for net in own))
        assume(not any(net.covers(where) for net in NOWHERE))
    return policy, ruled, sent


@given(asked())
def test_the_verdict_is_that_of_decide_the_flows_are_met_and_a_mended_rule_would_allow(
    found: tuple[Policy, Rulings, our.Sent],
) -> None:
    policy, ruled, sent = found
    answer = explain(core_of(policy, ruled), question(sent.packet))
    assert answer.packet == sent.packet
    assert answer.decision == decide(policy, sent.packet, closed=ruled.closed)
    assert answer.others == ()
    fleet = Fleet(SITE, ruled)
    fleet.follow(policy)
    flows_are_met(fleet, sent, answer)
    both_ends_are_shown(fleet, answer)
    rules_miss_by_what_is_said(answer, ruled)


def flows_are_met(fleet: Fleet, sent: our.Sent, answer: Answer) -> None:
    sender = fleet.policy.ports[sent.packet.sender] if sent.packet.sender else None
    delivery = fleet.send(sender, sent.frame)
    hits = {likeness(flow) for walk in delivery.walks for flow in walk.hits}
    for dpid, flow in answer.flows:
        assert fleet.members[dpid].switch.flows[flow.key] == flow
        assert likeness(flow) in hits, f"{flow}\n{delivery}"


def likeness(flow: Flow) -> tuple[object, ...]:
    """Of flows that do the same a packet may meet any one: of rules that allow it, or of drops."""
    asked = tuple(term for term in flow.match.terms if term.name in ("reg1", "reg2", "reg3", "reg6"))
    does = tuple(action for action in flow.actions if not (isinstance(action, Load) and action.to == RULE))
    return flow.table, flow.priority, asked, does


def both_ends_are_shown(fleet: Fleet, answer: Answer) -> None:
    """At each end that is plugged in, as far as the packet comes, the rule that allows it or a drop."""
    shown = [cookie_parts(flow.cookie) for _, flow in answer.flows]
    ends = [end for end in (answer.packet.sender, answer.packet.receiver) if end is not None]
    if any(fleet.place(fleet.policy.ports[end]) is None for end in ends):
        return
    for check in answer.decision.checks:
        if check.verdict is Verdict.DROP:
            break
        if check.rule is not None:
            assert (Kind.RULE, check.rule.id) in shown
    if answer.decision.verdict is Verdict.DROP:
        assert shown[-1] is not None
        assert shown[-1][0] is Kind.DROP
        assert answer.flows[-1][1].actions == ()


def rules_miss_by_what_is_said(answer: Answer, ruled: Rulings) -> None:
    """The nearest rule, with what it misses by mended, allows the packet."""
    policy, packet = answer.policy, answer.packet
    for check, nearest in zip(answer.decision.checks, answer.nearest, strict=True):
        sets = policy.rule_sets_of(policy.ports[check.port_id])
        rules = [rule for owner in sets for rule in owner.in_direction(check.direction)]
        assert (nearest is None) == (check.verdict is Verdict.ALLOW or not rules)
        if nearest is None:
            continue
        assert nearest.rule in rules
        assert nearest.misses
        mended = nearest.rule
        for miss in nearest.misses:
            if miss.startswith("protocol "):
                assert isinstance(packet.protocol, Protocol)
                mended = replace(mended, protocol=packet.protocol)
            elif miss.startswith("port "):
                mended = replace(mended, ports=PortRange(packet.destination_port, packet.destination_port))
            else:
                mended = replace(mended, peer=Peer(("0.0.0.0/0", "::/0")))
        draft = policy.edit()
        draft.put(with_rule(nearest.rule_set, nearest.rule, mended))
        again = decide(draft.done(), packet, closed=ruled.closed)
        assert [other.verdict for other in again.checks if other.port_id == check.port_id] == [Verdict.ALLOW]


def with_rule(owner: Firewall | PortRules, old: object, new: object) -> Firewall | PortRules:
    def swap(rules: tuple) -> tuple:
        return tuple(new if rule == old else rule for rule in rules)

    return replace(owner, inbound_rules=swap(owner.inbound_rules), outbound_rules=swap(owner.outbound_rules))


# --------------------------------------------------------------------------------------------- which packet is meant


def ports_of(policy: Policy, *ports: Port) -> Policy:
    draft = policy.edit()
    for port in ports:
        draft.put(replace(port, slot=draft.new_slot()))
    return draft.done()


@given(st.sampled_from(["10.1.0.7", "fd00:1::7"]))
@example("10.1.0.7")
def test_an_address_says_which_port_of_a_droplet(text: str) -> None:
    base = small()
    second = replace(
        base.ports["web-eth0"], id="web-eth1", interface="tap7", mac="02:00:00:00:00:07",
        addresses=("10.1.0.7", "fd00:1::7"),
    )  # fmt: skip
    core, _ = fake_core(ports_of(base, second))
    where = address(text)
    other = End(droplet_id=102)
    answer = explain(core, Question(End(droplet_id=101, address=where), other, Protocol.TCP, 80))
    assert (answer.packet.sender, answer.packet.source) == ("web-eth1", where)
    answer = explain(core, Question(other, End(droplet_id=101), Protocol.TCP, 80))
    assert (answer.packet.receiver, str(answer.packet.destination)) == ("web-eth0", "10.1.0.1")
