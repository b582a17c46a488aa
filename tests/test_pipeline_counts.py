"""The page about numbers of flows: its formula is what is compiled, and its claims hold."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import strategies as our
from fakecore import fake_core
from hypothesis import given
from hypothesis import strategies as st
from policies import DPID, small

from firewall_app.openflow import wire
from firewall_app.pipeline import counts, counts_page
from firewall_app.pipeline.compile import Rulings, peer_networks, ports_here
from firewall_app.pipeline.flow import Flow, Resubmit
from firewall_app.pipeline.plan import units
from firewall_app.pipeline.tables import BY_ID, PEERS, RULES
from firewall_app.pipeline.unit import AddressSet, FirewallSets, Flood, Generation, PortFirewalls, Unit
from firewall_app.policy.errors import Invalid
from firewall_app.policy.model import Direction, Firewall, Hypervisor, Peer, PortRange, Protocol, Rule, Tag
from firewall_app.policy.policy import Policy
from firewall_app.service import firewalls
from firewall_app.service.firewalls import FirewallSpec

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "flows.md"
RULINGS = st.builds(Rulings, default_uplinks=st.just(()), closed=st.booleans(), track_open=st.booleans())


@dataclass(frozen=True)
class Setting:
    policy: Policy
    interfaces: Mapping[int, str]


@cache
def setting(index: int) -> Setting:
    site = counts_page.SITES[index][1]()
    return Setting(site.policy(), site.interfaces)


def compiled(policy: Policy, dpid: str, interfaces: Mapping[int, str], rulings: Rulings) -> list[Unit]:
    return [*units(policy, dpid, interfaces, rulings).values(), Generation(1)]


def by_table(found: Mapping[counts.Part, int]) -> Counter[str]:
    """What the formula says, table by table."""
    tables: Counter[str] = Counter()
    for part, count in found.items():
        for table, flows in part.tables:
            tables[table] += flows * count
    return tables


def flows_of(made: Iterable[Unit]) -> list[Flow]:
    """What units render to; an address that several ports lend to one set is one flow."""
    flows = [flow for unit in made for flow in unit.flows()]
    lent = {flow.key: flow for flow in flows if flow.table == PEERS.id}
    return [flow for flow in flows if flow.table != PEERS.id] + list(lent.values())


def doubles(made: Iterable[Unit]) -> tuple[Counter[str], int]:
    """How many flows the units render to, table by table; and how many are of a match that another unit wants too."""
    flows = flows_of(made)
    twice = [key for key, count in Counter(flow.key for flow in flows).items() for _ in range(count - 1)]
    assert {key.table for key in twice} <= {RULES.id}
    return Counter(BY_ID[flow.table].name for flow in flows), len(twice)


# ---- the page


@pytest.fixture(scope="module")
def printed() -> str:
    return counts_page.page()


def test_the_committed_page_is_what_the_code_prints(printed: str) -> None:
    assert PAGE.read_text() == printed, "docs/flows.md is stale: run `make docs`"


@pytest.mark.process
@pytest.mark.parametrize(("word", "page"), [((), "pipeline.md"), (("counts",), "flows.md")])
def test_the_command_prints_a_page(word: tuple[str, ...], page: str) -> None:
    command = [sys.executable, "-m", "firewall_app.pipeline", *word]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == (ROOT / "docs" / page).read_text()


@pytest.mark.process
def test_the_command_knows_no_other_page() -> None:
    command = [sys.executable, "-m", "firewall_app.pipeline", "count"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("usage:")


def test_every_part_and_policy_and_change_is_on_it(printed: str) -> None:
    for part in counts.PARTS:
        assert f"\n| {part.each} | {part.flows} | " in printed
    for number, (text, *_) in enumerate(counts_page.SITES, 1):
        assert f"\n{number}. {text}\n" in printed
    for text in (text for there, back, _ in counts_page.CHANGES for text in (there, back)):
        assert f"\n| {text} | " in printed


# ---- the formula


@given(policy=our.policies(), rulings=RULINGS, dpid=st.sampled_from(our.HYPERVISORS), uplinks=st.integers(0, 2))
def test_the_formula_is_what_is_compiled(policy: Policy, rulings: Rulings, dpid: str, uplinks: int) -> None:
    draft = policy.edit()
    draft.put(Hypervisor(dpid, "hv", tuple(f"uplink{n}" for n in range(uplinks))))
    policy, interfaces = draft.done(), {**our.SITE.interfaces[dpid], 2: "uplink1"}
    found = counts.parts(policy, dpid, interfaces, rulings)
    made = compiled(policy, dpid, interfaces, rulings)
    rendered, shared = doubles(made)
    assert by_table(found) == rendered
    keys = {flow.key for unit in made for flow in unit.flows()}
    assert counts.total(found) == len(keys) + shared


@given(policy=our.policies(), dpid=st.sampled_from(our.HYPERVISORS))
def test_flows_of_rules_are_those_of_the_tables_of_rules_and_the_counted_drops(policy: Policy, dpid: str) -> None:
    found = counts.parts(policy, dpid, our.SITE.interfaces[dpid], Rulings())
    flows = flows_of(compiled(policy, dpid, our.SITE.interfaces[dpid], Rulings()))
    of_rules = [f for f in flows if BY_ID[f.table].name in {"c3", "c3s", "c3p", "c3r"} and f.priority]
    of_rules += [f for f in flows if BY_ID[f.table].name == "c4" and f.priority == 130]
    assert counts.total(found, of_rules=True) == len(of_rules)


@pytest.mark.parametrize("last", [80, 81, 82, 86, 1023, 65534], ids="to {}".format)
def test_rules_of_few_and_of_many_addresses_part_where_the_formula_says(last: int) -> None:
    """Every number of addresses of either IP version, and from 1 mask to many."""
    for v4, v6 in product(range(10), range(10)):
        site = counts_page.Site()
        site.droplets(1, "behind")
        peer = Peer((*(f"172.16.0.{n}" for n in range(v4)), *(f"2001:db8::{n}" for n in range(v6))))
        site.firewall("fw", site.rule(peer, PortRange(80 if last < 65534 else 1, last)), tags=("behind",))
        policy = site.policy()
        made = compiled(policy, counts_page.HERE, site.interfaces, Rulings())
        assert by_table(counts.parts(policy, counts_page.HERE, site.interfaces, Rulings())) == doubles(made)[0], (
            v4,
            v6,
        )


def test_every_part_is_met() -> None:
    """Or the random policies would say nothing about it."""
    met: Counter[counts.Part] = Counter()
    for index in range(len(counts_page.SITES)):
        site = setting(index)
        met += counts.parts(site.policy, counts_page.HERE, site.interfaces, Rulings())
    extra = counts_page.Site()
    extra.droplets(1)
    interfaces, policy = extra.interfaces, extra.policy()
    for rulings in (Rulings(), Rulings(track_open=False)):
        met += counts.parts(policy, counts_page.HERE, interfaces, rulings)
    assert set(met) == set(counts.PARTS)


@pytest.mark.parametrize("index", range(len(counts_page.SITES)))
def test_the_numbers_of_each_policy_are_those_of_its_compiled_flows(index: int) -> None:
    site = setting(index)
    made = compiled(site.policy, counts_page.HERE, site.interfaces, Rulings())
    rendered, shared = doubles(made)
    found = counts.parts(site.policy, counts_page.HERE, site.interfaces, Rulings())
    assert (by_table(found), shared) == (rendered, 0)


def test_the_policies_are_what_their_texts_say() -> None:
    sizes = [50, 50, 50, 50, 1]
    for index, size in zip((1, 2, 3, 4, 5), sizes, strict=True):
        assert {len(fw.rules) for fw in setting(index).policy.firewalls.values()} == {size}
    behind = [len(setting(i).policy.ports_on[counts_page.HERE]) for i in range(len(counts_page.SITES))]
    assert behind == [15, 100, 200, 200, 50, 50, 100]
    assert [len(setting(i).policy.firewalls) for i in range(len(counts_page.SITES))] == [3, 1, 200, 1, 1, 1, 100]
    for index, tagged in ((2, 20), (3, 20), (4, 1000), (6, 100)):
        assert len(setting(index).policy.tagged["default", "web"]) == tagged
    assert {len(rule.ports.masks()) for fw in setting(4).policy.firewalls.values() for rule in fw.rules} == {20}
    assert len(counts_page.WIDEST.masks()) == 30


def test_only_firewalls_that_are_in_force_and_sets_that_they_name_count() -> None:
    site = counts_page.own_firewalls()
    site.droplets(1000, "elsewhere", dpid=counts_page.THERE)
    interfaces, policy = dict(site.interfaces), site.policy()
    draft = policy.edit()
    rule = Rule(Direction.INBOUND, Protocol.TCP, PortRange.every(), Peer(tags=("web", "elsewhere")), 90_000)
    draft.put(Firewall("far", "default", "far", (rule,), (), (), ("elsewhere",)))
    more = counts.parts(draft.done(), counts_page.HERE, interfaces, Rulings())
    assert more == counts.parts(policy, counts_page.HERE, interfaces, Rulings())


# ---- other designs


@given(policy=our.policies(), dpid=st.sampled_from(our.HYPERVISORS))
def test_other_designs_are_counted_as_if_each_flow_were_written_down(policy: Policy, dpid: str) -> None:
    here = ports_here(policy, dpid, our.SITE.interfaces[dpid])
    expanded, flows = [], {}

    def needs(rule: Rule, *flow: object) -> None:
        flows.setdefault(flow, set()).add(rule.id)

    for port, _ in here:
        for owner in policy.rule_sets_of(port):
            for rule in owner.rules:
                peers = peer_networks(policy, owner.account, rule)
                every = rule.protocol is Protocol.ICMP or rule.ports.is_every
                masks = (None,) if every else rule.ports.masks()
                for peer, mask in product(peers, masks):
                    expanded.append((port.slot, peer, mask, rule.id))
                    needs(rule, "port", port.slot, rule.direction)
                    needs(rule, "address", rule.direction, peer)
                    needs(rule, "service", rule.protocol, peer.version, mask)
                    needs(rule, "verdict", rule.id, 4)
                    needs(rule, "verdict", rule.id, 6)
    found = counts.others(policy, here)
    assert (found.expanded, found.conjunctions) == (len(expanded), len(flows))
    assert found.largest == max((len(rules) for rules in flows.values()), default=0)


def test_a_flow_of_more_conjunctions_than_a_message_holds_does_not_fit() -> None:
    assert [counts.Others(0, 0, n).fits for n in (1, 4088, 4089)] == [True, True, False]


# ---- changes


@pytest.fixture(scope="module")
def changed() -> list[tuple[counts_page.Cost, counts_page.Cost]]:
    """Each change in the shop and in the 200 x 50 policy."""
    (shop, _), (large, _) = counts_page.costs(counts_page.shop()), counts_page.costs(counts_page.own_firewalls())
    return [(one, other) for (_, one), (_, other) in zip(shop, large, strict=True)]


def test_a_change_costs_no_more_in_a_large_policy(changed: list[tuple[counts_page.Cost, counts_page.Cost]]) -> None:
    assert all(other.put <= one.put and other.deleted <= one.deleted for one, other in changed)
    assert all(one.raises is other.raises for one, other in changed)


def test_a_change_costs_what_it_is_about(changed: list[tuple[counts_page.Cost, counts_page.Cost]]) -> None:
    flows = [(other.put, other.deleted, other.raises) for _, other in changed]
    port = counts.PORT.flows + counts.IPV6.flows + counts.LOCAL.flows + counts.IPV4.flows + counts.TRACKED.flows
    delivery = 2  # the same open and behind a firewall
    attached = counts.JUDGED.flows + counts.RULED.flows + counts.RULELESS.flows - delivery
    opened = counts.TRACKED.flows - delivery
    firewall = 50 + counts.FIREWALL.flows
    assert flows == [
        (1, 0, False), (0, 1, True),
        (2, 0, False), (0, 2, True),
        (attached, opened, True), (opened, attached, True),
        (attached + firewall, opened, True), (opened, attached + firewall, True),
        (port + counts.FLOOD.flows, 0, False), (counts.FLOOD.flows, port, True),
    ]  # fmt: skip


def test_raising_the_generation_costs_the_same_everywhere() -> None:
    for site in (counts_page.shop(), counts_page.one_firewall()):
        assert counts_page.costs(site)[1] == len(list(Generation(1).flows())) + 2
    assert counts.HYPERVISOR.flows == 25 + len(list(Generation(1).flows()))


def test_sets_grow_by_themselves_alone() -> None:
    """Twice the droplets behind a firewall are twice their ports, and nothing of its rules."""

    def rules_of(droplets: int) -> Counter[str]:
        site = counts_page.Site()
        site.droplets(7, "web", dpid=counts_page.THERE)
        site.droplets(droplets, "behind")
        many = Peer(tuple(f"172.16.0.{n}" for n in range(20)), tags=("web",))
        site.firewall("fw", site.rule(many, counts_page.WIDEST), tags=("behind",))
        interfaces = site.interfaces
        made = compiled(site.policy(), counts_page.HERE, interfaces, Rulings())
        return doubles(unit for unit in made if not isinstance(unit, PortFirewalls))[0]

    few, more = rules_of(5), rules_of(10)
    assert {table: few[table] for table in ("c3s", "c3p", "c3r")} == {"c3s": 3, "c3p": 35, "c3r": 91}
    assert {table: more[table] - few[table] for table in ("c3s", "c3p", "c3r")} == {"c3s": 0, "c3p": 0, "c3r": 0}


# ---- what a message holds


def longest(unit: Unit) -> int:
    """Bytes of the actions of a unit's longest flow."""
    return max(len(wire.encode_instructions(flow.actions)) for flow in unit.flows())


def test_lists_grow_by_what_the_page_says(printed: str) -> None:
    sets = [FirewallSets(1, Direction.INBOUND, True, tuple(AddressSet(2, n) for n in range(count))) for count in (5, 7)]
    behind = [PortFirewalls(1, 0, tuple(range(count))) for count in (5, 7)]
    floods = [Flood(tuple(range(count)), (9,)) for count in (5, 7)]
    grown = [(longest(more) - longest(few)) // 2 for few, more in (behind, sets, floods)]
    assert grown == [40, 80, 16]
    for size, count in ((40, "1,630"), (80, "810"), (16, "4,080")):
        assert f" | {size} | {count} |\n" in printed


@pytest.mark.parametrize("unit", [
    PortFirewalls(1, 0, tuple(range(1630))),
    FirewallSets(1, Direction.INBOUND, True, tuple(AddressSet(2, n) for n in range(810))),
    Flood(tuple(range(4080)), (4081,)),
], ids=lambda unit: type(unit).__name__)  # fmt: skip
def test_lists_of_that_length_fit_on_the_wire(unit: Unit) -> None:
    for flow in unit.flows():
        for version in (wire.OF13, wire.OF14):
            assert wire.bundle_add(version, 1, wire.flow_mod(version, 1, flow))


def test_a_set_is_looked_up_twice_and_a_firewall_at_most_twice() -> None:
    for plain, sets in ((True, 7), (False, 7), (True, 0)):
        unit = FirewallSets(1, Direction.INBOUND, plain, tuple(AddressSet(2, n) for n in range(sets)))
        for flow in unit.flows():
            assert sum(isinstance(action, Resubmit) for action in flow.actions) == 2 * sets + plain


def test_what_the_service_takes_fits_on_the_wire() -> None:
    """A firewall may name many tags, and the list of its sets is one flow."""
    draft = small().edit()
    names = tuple(f"tag-{n}" for n in range(1000))
    for name in names:
        draft.put(Tag("default", name))
    core, _ = fake_core(draft.done())
    rules = tuple(
        Rule(Direction.INBOUND, Protocol.TCP, PortRange(80 + n, 80 + n), Peer(tags=names[n * 20 : n * 20 + 20]))
        for n in range(50)
    )
    with suppress(Invalid):  # what is refused need not fit
        firewalls.create(core, "default", FirewallSpec("many", rules, (), (101,), ()))
    for unit in units(core.policy, DPID, {1: "up0", 2: "tap101", 3: "tap102"}, Rulings()).values():
        for flow in unit.flows():
            for version in (wire.OF13, wire.OF14):
                wire.bundle_add(version, 1, wire.flow_mod(version, 1, flow))
