"""The compiler: which units a policy means, what each renders to, and all of it as text."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import strategies as our
from hypothesis import given
from hypothesis import strategies as st
from representative import (
    DB,
    EVERY,
    FAR,
    HERE,
    ICMP,
    IN,
    OPEN,
    OUT,
    OUTSIDE,
    SITE,
    TCP,
    UDP,
    WEB,
    Net,
    representative,
    tcp,
)

from firewall_app.openflow.oxm import encode_instructions
from firewall_app.pipeline.compile import MOST_SETS, Rulings, peer_networks, ports_here, rule_units, uplinks_here
from firewall_app.pipeline.flow import match, texts
from firewall_app.pipeline.plan import units
from firewall_app.pipeline.tables import BY_ID, GUARD, OWN_SET, PEERS, TABLES, TAG_SET, cookie_parts
from firewall_app.pipeline.unit import (
    AddressSet,
    FirewallSets,
    Flood,
    Generation,
    PortFirewalls,
    PortGuards,
    PortProtection,
    Protection,
    RuleFlows,
    SetMembers,
    Static,
    Uplinks,
    next_generation,
)
from firewall_app.policy.model import (
    Droplet,
    ExternalPeer,
    Firewall,
    Hypervisor,
    Peer,
    Port,
    PortRange,
    Rule,
    Tag,
    network,
)

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def net() -> Net:
    return Net()


# --------------------------------------------------------------------------------------------- units


def test_a_port_is_here_when_its_interface_is(net: Net) -> None:
    interfaces = {1: "uplink0", 12: "vm1", 13: "vm9"}
    assert [(port.id, ofport) for port, ofport in ports_here(net.policy, HERE, interfaces)] == [("p1", 12)]
    draft = net.policy.edit()
    draft.put(replace(net.policy.ports["p2"], interface=None, number=13))
    assert [(p.id, n) for p, n in ports_here(draft.done(), HERE, interfaces)] == [("p1", 12), ("p2", 13)]
    assert ("guards", "p2") not in units(net.policy, HERE, interfaces, Rulings())


def test_uplinks_are_named_by_pattern_name_or_number(net: Net) -> None:
    interfaces = {1: "uplink0", 2: "uplink1", 3: "vm1", 4: "Uplink2"}

    def found(uplinks: tuple[str, ...] | None, taken: set[int], default: tuple[str, ...] = ()) -> tuple[int, ...]:
        draft = net.policy.edit()
        draft.put(Hypervisor(HERE, "a1", uplinks))
        return uplinks_here(draft.done(), HERE, interfaces, Rulings(default_uplinks=default), taken)

    assert found(("uplink*",), set()) == (1, 2)
    assert found(("uplink1", "3"), set()) == (2, 3)
    assert found(("*",), {3}) == (1, 2, 4), "a droplet's port is never an uplink"
    assert found(None, set(), ("uplink0",)) == (1,)
    assert found((), set(), ("uplink0",)) == ()
    unknown = uplinks_here(net.policy, "00000000000000ff", interfaces, Rulings(default_uplinks=("uplink1",)), set())
    assert unknown == (2,)


def test_a_rule_names_droplets_and_tags_of_its_own_account_only(net: Net) -> None:
    draft = net.policy.edit()
    draft.put(Droplet(5, "umbrella", tags=("web",)))
    draft.put(Port("p5", 5, HERE, "vm5", None, "02:00:00:00:00:05", ("10.0.0.5",), slot=5))
    policy = draft.done()
    names = Rule(IN, TCP, EVERY, Peer(addresses=("192.0.2.1",), droplet_ids=(2, 5, 99), tags=("wEb",)))

    def named(account: str) -> set[int]:
        found = peer_networks(policy, account, names)
        assert network("192.0.2.1") in found
        return {n for n in range(1, 6) if network(f"10.0.0.{n}") in found}

    assert named("default") == {1, 2, 4}
    assert named("umbrella") == {5}
    assert peer_networks(policy, "default", Rule(IN, TCP, EVERY, Peer())) == ()
    lost = Peer(load_balancer_uids=("lb",), kubernetes_ids=("k",))
    assert peer_networks(policy, "default", Rule(IN, TCP, EVERY, lost)) == ()


def test_a_rule_without_peers_has_no_unit_and_its_port_drops(net: Net) -> None:
    draft = net.policy.edit()
    draft.put(Firewall("f-db", "default", "db", (Rule(IN, TCP, EVERY, Peer(droplet_ids=(99,)), 30),), (), (2,)))
    found = units(draft.done(), HERE, SITE.interfaces[HERE], Rulings())
    assert ("rule", "30") not in found
    assert net.reached(OUTSIDE, tcp(OUTSIDE, DB, 1000, 1)) == set()


def test_a_tag_that_nobody_carries_costs_nothing_but_its_rules(net: Net) -> None:
    """So that its first member costs no more than its second."""
    draft = net.policy.edit()
    draft.put(Firewall("f-db", "default", "db", (Rule(IN, TCP, EVERY, Peer(tags=("nobody",)), 30),), (), (2,)))
    found = units(draft.done(), HERE, SITE.interfaces[HERE], Rulings())
    number = draft.peek().tags["default", "nobody"].number
    assert not [name for name in found if name[0] == "tag" and name[1].startswith(f"{number} ")]
    assert found["firewall", f"{draft.peek().firewalls['f-db'].number} inbound"].sets == (AddressSet(TAG_SET, number),)
    assert len(list(found["rule", "30"].flows())) == 2


def test_a_rule_of_everybody_stays_within_its_ip_version() -> None:
    """A prefix of length 0 leaves the address out, never the IP version."""
    for text, words in (("0.0.0.0/0", "tcp,tp_dst=80,"), ("::/0", "tcp6,tp_dst=80,")):
        plain = RuleFlows(7, 3, IN, TCP, PortRange(80, 80), (network(text),), ())
        assert [flow.match.text for flow in plain.flows()] == [f"{words}reg1=0x0,reg2=0x0,reg3=0x3,reg6=0x0"]
        members = SetMembers(AddressSet(OWN_SET, 7), IN, (network(text),))
        version = words.split(",")[0].replace("tcp", "ip").replace("ip6", "ipv6")
        assert [flow.match.text for flow in members.flows()] == [f"{version},reg1=0x1,reg2=0x7,reg6=0x0"]


def test_icmp_rules_name_the_protocol_of_their_ip_version() -> None:
    unit = RuleFlows(
        7, 3, OUT, ICMP, EVERY, (network("10.0.0.1"), network("fd00::1")), ((AddressSet(TAG_SET, 5), (4, 6)),)
    )
    assert [flow.match.text for flow in unit.flows()] == [
        "icmp,nw_dst=10.0.0.1,reg1=0x0,reg2=0x0,reg3=0x3,reg6=0x1",
        "icmp6,ipv6_dst=fd00::1,reg1=0x0,reg2=0x0,reg3=0x3,reg6=0x1",
        "icmp,reg1=0x6,reg2=0x5,reg3=0x3,reg6=0x1",
        "icmp6,reg1=0x6,reg2=0x5,reg3=0x3,reg6=0x1",
    ]


def addresses(count: int) -> tuple[str, ...]:
    return tuple(f"198.51.{i // 250}.{i % 250}" for i in range(count))


@pytest.mark.parametrize(
    ("count", "ports", "flows"),
    [
        (1, (1, 30000), 21),  # one address: no more than its port masks
        (2, (7, 10), 2 * 3),  # few: spelled out
        (4, (8, 11), 4),
        (8, (80, 80), 8),
        (9, (80, 80), 9),  # one port: a set would be one flow more
        (9, (7, 10), 9 + 3),  # many of both: the sum, not the product
        (1000, (1, 65534), 1000 + 30),
    ],
)
def test_a_rule_costs_the_sum_of_its_addresses_and_port_masks(net: Net, count, ports, flows) -> None:
    rule = Rule(IN, UDP, PortRange(*ports), Peer(addresses=addresses(count)), 7)
    owner = Firewall("f", "default", "fw", (rule,), number=3)
    made = [flow for unit in rule_units(net.policy, owner, IN)[7] if unit is not None for flow in unit.flows()]
    assert len(made) == len({flow.key for flow in made}) == flows


def test_T046_a_rule_that_outgrows_its_flows_rewrites_nothing_of_others(net: Net) -> None:
    """From few addresses to many and back: what differs is that rule's, and the list of what its firewall asks."""
    few = net.policy
    rule = next(rule for rule in few.firewalls["f-web"].inbound_rules if rule.id == 2)
    draft = few.edit()
    many = replace(rule, peer=Peer(addresses=(*rule.peer.addresses, *addresses(40))))
    others = tuple(many if one.id == 2 else one for one in few.firewalls["f-web"].inbound_rules)
    draft.put(replace(few.firewalls["f-web"], inbound_rules=others))
    grown = draft.done()
    before, after = (units(policy, HERE, SITE.interfaces[HERE], Rulings()) for policy in (few, grown))
    number = few.firewalls["f-web"].number
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed == {("rule", "2"), ("own set", "2"), ("firewall", f"{number} inbound")}
    member = next(iter(many.peer.networks)).first.value
    for policy in (grown, few, grown):
        net.fleet.follow(policy)
        assert net.reached(OUTSIDE, replace(tcp(OUTSIDE, WEB, 1000, 8001), src=member)) == {WEB}
        last = replace(tcp(OUTSIDE, WEB, 1000, 8001), src=network(addresses(40)[-1]).value)
        assert net.reached(OUTSIDE, last) == ({WEB} if policy is grown else set())


def test_a_firewall_that_names_many_sets_asks_a_bounded_number_and_means_what_it_says(net: Net) -> None:
    """Beyond, the newest rules are spelled out: more flows, and never a packet that a rule allows and no flow does."""
    draft = net.policy.edit()
    names = [f"t{n}" for n in range(100)]
    for name in names:
        draft.put(Tag("default", name))
    draft.put(Droplet(3, tags=("t99",)))
    draft.put(Droplet(4, tags=("t0",)))
    rules = tuple(
        Rule(IN, TCP, PortRange(1000 + n, 1000 + n), Peer(tags=(name,), addresses=("192.0.2.9",)), 100 + n)
        for n, name in enumerate(names)
    )
    draft.put(Firewall("f-db", "default", "db", rules, (), (2,)))
    net.fleet.follow(draft.done())
    number = draft.peek().firewalls["f-db"].number
    asked = units(net.fleet.policy, HERE, SITE.interfaces[HERE], Rulings())["firewall", f"{number} inbound"]
    assert len(asked.sets) == MOST_SETS
    assert net.reached(OPEN, tcp(OPEN, DB, 5000, 1099)) == {DB}
    assert net.reached(OPEN, tcp(OPEN, DB, 5000, 1000)) == set()
    assert net.reached(FAR, tcp(FAR, DB, 5000, 1000)) == {OUTSIDE, DB}
    assert net.reached(OUTSIDE, replace(tcp(OUTSIDE, DB, 5000, 1098), src=network("192.0.2.9").value)) == {DB}
    assert max(len(encode_instructions(flow.actions)) for flow in net.fleet.members[HERE].switch.flows.values()) < 8192


def test_external_peers_are_sets_as_tags_are_and_no_more_are_asked(net: Net) -> None:
    """One rule of more uids than a firewall may ask sets: their addresses are the rule's own."""
    uids = [f"uid-{n}" for n in range(MOST_SETS + 1)]
    draft = net.policy.edit()
    for n, uid in enumerate(uids):
        draft.put(ExternalPeer(uid, addresses=(f"192.0.2.{n}",)))
    peers = Peer(load_balancer_uids=tuple(uids[:1])), Peer(kubernetes_ids=tuple(uids))
    rules = tuple(Rule(IN, TCP, PortRange(1000 + n, 1000 + 2 * n), peer, 100 + n) for n, peer in enumerate(peers))
    draft.put(Firewall("f-db", "default", "db", rules, (), (2,)))
    net.fleet.follow(draft.done())
    policy, number = net.fleet.policy, draft.peek().firewalls["f-db"].number
    found = units(policy, HERE, SITE.interfaces[HERE], Rulings())
    shared = AddressSet(TAG_SET, policy.external_peers["uid-0"].number)
    assert found["firewall", f"{number} inbound"].sets == (AddressSet(OWN_SET, 101), shared)
    for host, port, passes in ((0, 1000, True), (0, 1001, True), (MOST_SETS, 1001, True), (MOST_SETS, 1000, False)):
        frame = replace(tcp(OUTSIDE, DB, 5000, port), src=network(f"192.0.2.{host}").value)
        assert net.reached(OUTSIDE, frame) == ({DB} if passes else set()), (host, port)


def test_T050_an_address_that_joins_a_tag_is_one_flow_for_each_direction(net: Net) -> None:
    """However many rules and droplets use the tag."""
    draft = net.policy.edit()
    more = tuple(Rule(IN, TCP, PortRange(n, n + 7), Peer(tags=("db",)), 100 + n) for n in range(40))
    draft.put(Firewall("f-more", "default", "more", more, (), (1, 2), ("web",)))
    net.fleet.follow(draft.done())
    draft = net.fleet.policy.edit()
    draft.put(replace(net.policy.droplets[3], tags=("db",)))
    joined = 3  # addresses of droplet 3: one IPv4, one IPv6, the link-local one
    member = net.fleet.members[HERE]
    generation = member.generation
    without = net.fleet.policy
    net.fleet.follow(draft.done())
    assert (len(member.last.put), len(member.last.delete)) == (2 * joined, 0)
    assert member.generation == generation, "one that joins takes nothing away"
    net.fleet.follow(without)
    assert len([key for key in member.last.delete if key.table == PEERS.id]) == 2 * joined
    rest = [key for key in member.last.delete if key.table != PEERS.id]
    assert {key for key, _ in member.last.put} | set(rest) <= {
        flow.key for number in (generation, generation + 1) for flow in Generation(number).flows()
    }


@pytest.mark.parametrize(("number", "following"), [(0, 1), (1, 2), (0x7FFFFFFE, 0x7FFFFFFF), (0x7FFFFFFF, 1)])
def test_T114_generations_go_round_and_are_never_0(number: int, following: int) -> None:
    assert next_generation(number) == following
    assert list(Generation(following).flows())


def test_a_switch_without_droplets_or_uplinks_has_no_flood() -> None:
    assert list(Flood((), (1,)).flows()) == []
    assert list(Uplinks(()).flows()) == []


# --------------------------------------------------------------------------------------------- all flows


@given(st.data())
def test_every_flow_obeys_its_table(data: st.DataObject) -> None:
    policy = data.draw(our.policies())
    dpid = data.draw(st.sampled_from(our.HYPERVISORS))
    rulings = Rulings(closed=data.draw(st.booleans()))
    found = {**units(policy, dpid, our.SITE.interfaces[dpid], rulings), ("generation", ""): Generation(7)}
    for unit in found.values():
        flows = list(unit.flows())
        assert len({flow.key for flow in flows}) == len(flows), f"two flows of one key in {unit}"
        for flow in flows:
            assert BY_ID[flow.table].flow(flow.priority, flow.match, *flow.actions, cookie=flow.cookie) == flow
            terms = {t.name: t.value if t.mask is None else (t.value, t.mask) for t in flow.match.terms}
            assert match(**terms) == flow.match
            assert cookie_parts(flow.cookie) is not None
    # One key twice is only ever the same rule twice: what is in force must not depend on chance.
    owners: dict[object, set[str]] = {}
    for (kind, _), unit in found.items():
        for flow in unit.flows():
            owners.setdefault(flow.key, set()).add(kind)
    assert all(len(kinds) == 1 for kinds in owners.values())


def test_every_table_ends_in_a_flow_for_everything() -> None:
    """What no other flow matches is dropped, or goes to z; never by the default of the switch."""
    last = {}
    for flow in Static().flows():
        if flow.match == match():
            last[flow.table] = flow
    assert set(last) == set(BY_ID)
    for table in TABLES:
        actions = ",".join(action.text for action in last[table.id].actions)
        assert actions == {"drop": "", "nothing": "", "to z": "resubmit(,40)"}[table.miss]
        others = [flow.priority for unit in every_unit() for flow in unit.flows() if flow.table == table.id]
        assert min(others) >= last[table.id].priority


def every_unit() -> list[object]:
    """One unit of each kind."""
    return [
        Static(),
        Static(fragments=False),
        Generation(1),
        Uplinks((1,)),
        Flood((11,), (1,)),
        PortGuards(1, 11, "02:00:00:00:00:01", (network("10.0.0.1"), network("fd00::1"))),
        *(
            PortProtection(1, 11, "02:00:00:00:00:01", protection, f)
            for protection in Protection
            for f in (True, False)
        ),
        PortFirewalls(1, 0, ()),
        PortFirewalls(1, 0, (3, 4)),
        RuleFlows(1, 3, IN, TCP, PortRange(1, 2), (network("10.0.0.1"), network("fd00::1")), ()),
        RuleFlows(1, 3, IN, TCP, PortRange(1, 2), (), ((AddressSet(OWN_SET, 1), (4, 6)),)),
        SetMembers(AddressSet(OWN_SET, 1), IN, (network("10.0.0.1"), network("fd00::1"))),
        FirewallSets(3, IN, True, (AddressSet(OWN_SET, 1), AddressSet(TAG_SET, 1))),
    ]


def test_from_a_droplet_every_guard_says_untagged() -> None:
    """Else a tagged frame passes: the IP fields of a frame are seen behind its tag."""
    guards = PortGuards(1, 11, "02:00:00:00:00:01", (network("10.0.0.1"), network("fd00::1")))
    passing = [flow for flow in (*guards.flows(), *Uplinks((1,)).flows()) if flow.table == GUARD.id and flow.actions]
    assert passing
    for flow in passing:
        vlan = flow.match.get("vlan_vid")
        assert vlan is not None, flow
        assert (vlan.value, vlan.mask) == (0, None)


# --------------------------------------------------------------------------------------------- golden text


def golden_flows() -> dict[str, list[str]]:
    """The representative policy's flows as text, by table."""
    wanted = {**units(representative(), HERE, SITE.interfaces[HERE], Rulings()), ("generation", ""): Generation(1)}
    flows = {flow.key: flow for unit in wanted.values() for flow in unit.flows()}
    return {table.name: texts(flow for flow in flows.values() if flow.table == table.id) for table in TABLES}


@pytest.mark.parametrize("table", [table.name for table in TABLES])
def test_flows_are_those_that_were_read_and_approved(table: str, golden: bool) -> None:
    """After a wanted change: pytest --golden, and read what git says changed."""
    file = GOLDEN / f"table-{table}.txt"
    text = "\n".join(golden_flows()[table]) + "\n"
    if golden:
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(text)
    assert file.read_text() == text


@pytest.mark.ovs
def test_ovs_reads_the_flows_as_they_are_meant() -> None:
    """ovs-ofctl parses every line and has nothing to normalise: no match lacks what it needs."""
    ofctl = shutil.which("ovs-ofctl")
    if ofctl is None:
        pytest.skip("ovs-ofctl is not installed")
    lines = [line for flows in golden_flows().values() for line in flows]
    for line in lines:
        done = subprocess.run([ofctl, "-F", "nxm", "parse-flow", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr)
        assert "normalization" not in done.stderr, (line, done.stderr)
