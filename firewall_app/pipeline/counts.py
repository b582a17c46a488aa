"""How many flows a policy comes to, by formula, and what other designs would come to.

Written from the policy, apart from the compiler; the tests hold it against what is compiled, table by table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from ..policy.model import (
    Direction,
    Firewall,
    Network,
    Port,
    PortRules,
    Protocol,
    Rule,
)
from ..policy.policy import Policy
from .compile import (
    Rulings,
    Shared,
    own_networks,
    peer_networks,
    ports_here,
    shared_networks,
    shared_peers,
    uplinks_here,
)
from .unit_port import LINK_LOCAL

# --------------------------------------------------------------------------------------------- the formula


@dataclass(frozen=True)
class Part:
    """So many flows, in these tables, for each of something."""

    each: str
    tables: tuple[tuple[str, int], ...]
    why: str
    of_rules: bool = False

    @property
    def flows(self) -> int:
        return sum(count for _, count in self.tables)


HYPERVISOR = Part(
    "hypervisor", (("0", 1), ("c1", 3), ("c2", 17), ("c3", 1), ("c3s", 1), ("c3p", 1), ("c3r", 1), ("c4", 6), ("z", 4)),
    "the fixed part, 25, and what names the generation: 6 in c2, 4 in c4",
)  # fmt: skip
UPLINKS = Part("hypervisor that has an uplink", (("z", 1),), "what is for nobody here leaves")
FLOOD = Part("hypervisor that has a droplet port", (("z", 9),), "broadcast: 3 from droplets, 6 to droplets")
UPLINK = Part("uplink", (("0", 1),), "what comes in")
PORT = Part(
    "droplet port", (("0", 17), ("c1", 6), ("z", 1)),
    "12 that refuse, 5 for what is sent before there is an address; 6 for ARP, ND, DHCP; 1 for senders here",
)  # fmt: skip
IPV4 = Part("IPv4 address or prefix of a port", (("0", 3),), "IP, ARP, DHCP renewal")
IPV6 = Part("IPv6 address or prefix of a port", (("0", 6),), "IP; solicitation and advertisement, 2 each; DAD")
LOCAL = Part("link-local one of these", (("0", 5),), "RS, DHCPv6, 3 of MLD; every port has the one of its MAC")
JUDGED = Part("port behind a firewall, or closed", (("c1", 2), ("z", 2)), "to the rules: IPv4, IPv6; delivery, 2")
TRACKED = Part(
    "open port, tracked", (("c1", 5), ("z", 2)), "past the rules: IPv4 and 6, in and out; what is not IP; delivery, 2"
)
UNTRACKED = Part("open port, not tracked", (("c1", 2), ("z", 1)), "past the rules: in, out; delivery")
RULED = Part(
    "port and direction with rules", (("c3", 1), ("c4", 1)), "the list of its firewalls; the drop, counted", True
)
RULELESS = Part("port and direction without, behind a firewall", (("c3", 1),), "the drop, counted", True)
FIREWALL = Part(
    "firewall and direction that names somebody",
    (("c3s", 2),),
    "the list of its sets, for first and other packets",
    True,
)
PLAIN = Part("address × mask of a rule of few", (("c3r", 1),), "*few*: a·m ≤ 8, or a·m ≤ a + m·v", True)
MEMBER = Part("address of a rule of many", (("c3p", 1),), "the rule's own set", True)
OWN_SET = Part("mask × IP version of a rule of many", (("c3r", 1),), "what the rule allows to its own set", True)
TAGGED = Part("mask of a rule × tag or external peer that it names", (("c3r", 2),), "IPv4, IPv6", True)
TAG_MEMBER = Part(
    "address × tag or external peer that has it × direction in which rules name that", (("c3p", 1),),
    "shared by all rules, firewalls and ports", True,
)  # fmt: skip

PARTS = (
    HYPERVISOR, UPLINKS, FLOOD, UPLINK, PORT, IPV4, IPV6, LOCAL, JUDGED, TRACKED, UNTRACKED, RULED, RULELESS, FIREWALL,
    PLAIN, MEMBER, OWN_SET, TAGGED, TAG_MEMBER,
)  # fmt: skip


def parts(policy: Policy, dpid: str, interfaces: Mapping[int, str], rulings: Rulings) -> Counter[Part]:
    """How many there are of each part on one hypervisor.

    An upper bound in one respect: when two rules of one firewall want the same match, the switch holds one flow.
    """
    here = ports_here(policy, dpid, interfaces)
    uplinks = uplinks_here(policy, dpid, interfaces, rulings, taken={ofport for _, ofport in here})
    found = Counter({HYPERVISOR: 1, UPLINKS: bool(uplinks), UPLINK: len(uplinks), FLOOD: bool(here)})
    for port, _ in here:
        found[PORT] += 1
        for own in port.networks:
            found[IPV4 if own.version == 4 else IPV6] += 1
            found[LOCAL] += own.overlaps(LINK_LOCAL)
        sets = policy.rule_sets_of(port)
        if not sets and not rulings.closed:
            found[TRACKED if rulings.track_open else UNTRACKED] += 1
            continue
        found[JUDGED] += 1
        for direction in Direction:
            found[RULED if any(s.in_direction(direction) for s in sets) else RULELESS] += 1
    named: set[tuple[Shared, Direction]] = set()
    for rule_set, _ in _in_force(policy, here):
        for direction in Direction:
            rules = [_Cost.of(policy, rule_set, rule) for rule in rule_set.in_direction(direction)]
            found[FIREWALL] += any(rule.own or rule.shared for rule in rules)
            for rule in rules:
                few = rule.own * rule.masks <= max(8, rule.own + rule.masks * rule.versions)
                found[PLAIN] += rule.own * rule.masks if few else 0
                found[MEMBER] += 0 if few else rule.own
                found[OWN_SET] += 0 if few else rule.masks * rule.versions
                found[TAGGED] += rule.masks * len(rule.shared)
                named |= {(shared, direction) for shared in rule.shared}
    found[TAG_MEMBER] = sum(len(shared_networks(policy, shared)) for shared, _ in named)
    return +found


@dataclass(frozen=True)
class _Cost:
    """What a rule's flows are counted by."""

    own: int  # addresses that it spells out: a
    versions: int  # of these: v
    masks: int  # m
    shared: frozenset[Shared]

    @classmethod
    def of(cls, policy: Policy, rule_set: Firewall | PortRules, rule: Rule) -> _Cost:
        own = own_networks(policy, rule_set.account, rule)
        shared = frozenset(shared_peers(policy, rule_set.account, rule))
        return cls(len(own), len({net.version for net in own}), _masks(rule), shared)


def _masks(rule: Rule) -> int:
    return len(_services(rule))


def _services(rule: Rule) -> tuple[tuple[int, int], ...]:
    return (rule.ports.masks() if rule.protocol is not Protocol.ICMP else ()) or ((0, 0),)


def _in_force(policy: Policy, here: list[tuple[Port, int]]) -> list[tuple[Firewall | PortRules, list[int]]]:
    """The rule sets that apply here, with the slots of the ports to which they do."""
    found: dict[int, tuple[Firewall | PortRules, list[int]]] = {}
    for port, _ in here:
        for rule_set in policy.rule_sets_of(port):
            found.setdefault(rule_set.number, (rule_set, []))[1].append(port.slot)
    return list(found.values())


def total(found: Mapping[Part, int], of_rules: bool = False) -> int:
    """All flows, or those of rules alone."""
    return sum(part.flows * count for part, count in found.items() if part.of_rules or not of_rules)


# --------------------------------------------------------------------------------------------- other designs

# In bytes: bundle-add 24, flow-mod 48, match at most 32, instruction 8; then the actions.
MESSAGE, AROUND = 0xFFFF, 112
LOAD, RESUBMIT, OUTPUT, CONJUNCTION = 24, 16, 16, 16


@dataclass(frozen=True)
class Others:
    """What the rules of a hypervisor would cost otherwise."""

    expanded: int  # one flow for each port, address and mask
    conjunctions: int
    largest: int  # actions of the flow that has most

    @property
    def fits(self) -> bool:
        return AROUND + CONJUNCTION * self.largest <= MESSAGE


def others(policy: Policy, here: list[tuple[Port, int]]) -> Others:
    """One conjunction id for each rule; what several rules need is one flow with an action for each of them."""
    expanded = verdicts = 0
    members: Counter[tuple[int, Direction]] = Counter()
    addresses: Counter[tuple[Direction, Network]] = Counter()
    services: Counter[tuple[Protocol, int, tuple[int, int]]] = Counter()
    for rule_set, slots in _in_force(policy, here):
        for rule in rule_set.rules:
            peers = peer_networks(policy, rule_set.account, rule)
            if not peers:
                continue
            expanded += len(slots) * len(peers) * _masks(rule)
            verdicts += 2
            members.update((slot, rule.direction) for slot in slots)
            addresses.update((rule.direction, peer) for peer in peers)
            services.update(product((rule.protocol,), {peer.version for peer in peers}, _services(rule)))
    actions = [*members.values(), *addresses.values(), *services.values()]
    return Others(expanded, len(actions) + verdicts, max(actions, default=0))
