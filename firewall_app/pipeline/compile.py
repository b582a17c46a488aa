"""What the things of a policy come to on a hypervisor: rules, sets of addresses, ports, uplinks (for `plan.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..policy.model import Direction, ExternalPeer, Firewall, Network, Port, PortRules, Rule, Tag, tag_key
from ..policy.policy import Policy
from .tables import OWN_SET, TAG_SET
from .unit import AddressSet, Flood, RuleFlows, SetMembers, is_plain

# The sets that one firewall asks in one direction: Open vSwitch follows 4,096 resubmits for a packet, two for each set.
MOST_SETS = 64
# The firewalls that one port asks.  No more are accepted (service/core.py); were there more, they would not count.
MOST_FIREWALLS = 1000
_NONE_KNOWN: Mapping[int, RuleFlows] = {}


Shared = Tag | ExternalPeer  # what rules name and switches know as one set of addresses, whoever names it


@dataclass(frozen=True)
class Rulings:
    """Settings that change what a policy means for a switch."""

    default_uplinks: tuple[str, ...] = ()
    closed: bool = False  # whether a droplet behind no firewall is closed instead of open
    track_open: bool = True  # whether the connections of open droplets are tracked
    fragments: bool = True  # whether fragments are tracked; else they pass open droplets alone


def rule_units(
    policy: Policy, rule_set: Firewall | PortRules, direction: Direction, known: Mapping[int, RuleFlows] = _NONE_KNOWN
) -> dict[int, tuple[RuleFlows, SetMembers | None]]:
    """What each rule of a direction comes to, by its id: its flows, and the set of its own addresses if it has one.

    A firewall asks no more than MOST_SETS sets, as long as it has no more rules than that: where the shared sets that
    a rule names do not leave one for each rule to come, their members go into the rule's own set.  `known`: the flows
    of before by the id of their rule, for rules that come to the same now.
    """
    rules = sorted(rule_set.in_direction(direction), key=lambda rule: rule.id)
    asked: set[AddressSet] = set()
    found: dict[int, tuple[RuleFlows, SetMembers | None]] = {}
    for place, rule in enumerate(rules):
        if (was := known.get(rule.id)) is not None and _comes_to(rule, rule_set.number, was):
            found[rule.id] = was, None
            continue
        own, shared = own_networks(policy, rule_set.account, rule), shared_peers(policy, rule_set.account, rule)
        sets: dict[AddressSet, tuple[int, ...]] = {AddressSet(TAG_SET, one.number): (4, 6) for one in shared}
        to_come = len(rules) - place - 1
        needs_own = not is_plain(own, rule.protocol, rule.ports)
        if sets and len(asked | sets.keys()) + needs_own + to_come > MOST_SETS:
            own, sets = peer_networks(policy, rule_set.account, rule), {}
            needs_own = not is_plain(own, rule.protocol, rule.ports)
        own_set = None
        if needs_own:
            own_set = SetMembers(AddressSet(OWN_SET, rule.id), direction, own)
            sets = {own_set.set: tuple(sorted({network.version for network in own})), **sets}
        asked |= sets.keys()
        flows = RuleFlows(
            rule.id, rule_set.number, direction, rule.protocol, rule.ports, () if own_set else own, tuple(sets.items())
        )
        found[rule.id] = flows, own_set
    return found


def _comes_to(rule: Rule, number: int, flows: RuleFlows) -> bool:
    """Whether a rule that spells out all its addresses comes to these flows; seen by what they were made of."""
    return (
        flows.networks is rule.peer.distinct
        and flows.ports is rule.ports
        and flows.protocol is rule.protocol
        and flows.direction is rule.direction
        and flows.firewall == number
        and not (flows.sets or rule.peer.names_sets or rule.peer.droplet_ids)
    )


def shared_peers(policy: Policy, account: str, rule: Rule) -> list[Shared]:
    """The tags and the mapped external peers that a rule names, each once."""
    if not rule.peer.names_sets:
        return []
    keys = dict.fromkeys(tag_key(account, name) for name in rule.peer.tags)
    return [*(policy.tags[key] for key in keys if key in policy.tags), *policy.external_peers_of(account, rule)]


def own_networks(policy: Policy, account: str, rule: Rule) -> tuple[Network, ...]:
    """The addresses that a rule spells out: as written, and those of the droplets that it names one by one."""
    if not rule.peer.droplet_ids:
        return rule.peer.distinct
    return tuple(sorted({*rule.peer.networks, *_networks_of(policy, _there(policy, account, rule.peer.droplet_ids))}))


def members_of(policy: Policy, shared: Shared) -> Iterable[int]:
    """The droplets that carry a tag now, or that an external peer stands for."""
    if isinstance(shared, Tag):
        return policy.tagged.get(shared.key, ())
    return _there(policy, shared.account, shared.droplet_ids)


def shared_networks(policy: Policy, shared: Shared) -> tuple[Network, ...]:
    """The addresses of a tag's droplets, or those that an external peer stands for; each once."""
    own = () if isinstance(shared, Tag) else shared.networks
    return tuple(sorted({*own, *_networks_of(policy, members_of(policy, shared))}))


def _there(policy: Policy, account: str, droplet_ids: Iterable[int]) -> list[int]:
    """Those of an account's droplets that exist."""
    named = (policy.droplets.get(i) for i in dict.fromkeys(droplet_ids))
    return [droplet.id for droplet in named if droplet is not None and droplet.account == account]


def peer_networks(policy: Policy, account: str, rule: Rule) -> tuple[Network, ...]:
    """All addresses that a rule's peer stands for now."""
    found = {*rule.peer.networks, *_networks_of(policy, policy.peer_droplets(account, rule))}
    found.update(*(one.networks for one in policy.external_peers_of(account, rule)))
    return tuple(sorted(found))


def _networks_of(policy: Policy, droplet_ids: Iterable[int]) -> set[Network]:
    return {
        network
        for droplet_id in droplet_ids
        for port_id in policy.ports_of.get(droplet_id, ())
        for network in policy.ports[port_id].networks
    }


def ports_here(policy: Policy, dpid: str, interfaces: Mapping[int, str]) -> list[tuple[Port, int]]:
    """The droplet ports of a hypervisor whose interface is there, with its OpenFlow number; by slot."""
    numbers = numbers_of(interfaces)
    found: dict[int, Port] = {}
    for port in sorted((policy.ports[p] for p in policy.ports_on.get(dpid, ())), key=lambda port: port.slot):
        ofport = port.number if port.interface is None else numbers.get(port.interface)
        if ofport is not None and ofport in interfaces:
            # Registered by name and, as another port, by the number of that name: the older registration holds.
            found.setdefault(ofport, port)
    return sorted(((port, ofport) for ofport, port in found.items()), key=lambda pair: pair[0].slot)


def numbers_of(interfaces: Mapping[int, str]) -> dict[str, int]:
    """The OpenFlow number of each interface.

    A name that several have is nobody's: OpenFlow cuts names after 15 characters, and one of two must not be taken
    for the other.
    """
    names = Counter(interfaces.values())
    return {name: ofport for ofport, name in interfaces.items() if names[name] == 1}


def flood_here(policy: Policy, dpid: str, interfaces: Mapping[int, str], rulings: Rulings) -> Flood:
    """Where broadcast goes on a hypervisor."""
    here = {ofport for _, ofport in ports_here(policy, dpid, interfaces)}
    return Flood(tuple(sorted(here)), uplinks_here(policy, dpid, interfaces, rulings, taken=here))


def uplinks_here(
    policy: Policy, dpid: str, interfaces: Mapping[int, str], rulings: Rulings, taken: set[int]
) -> tuple[int, ...]:
    """The uplinks of a hypervisor as OpenFlow numbers; a port that belongs to a droplet is never one."""
    hypervisor = policy.hypervisors.get(dpid)
    patterns = rulings.default_uplinks
    if hypervisor is not None and hypervisor.uplinks is not None:
        patterns = hypervisor.uplinks
    return tuple(
        sorted(
            ofport
            for ofport, name in interfaces.items()
            if ofport not in taken and uplink_pattern(patterns, ofport, name) is not None
        )
    )


def uplink_pattern(patterns: Iterable[str], ofport: int | None, name: str | None) -> str | None:
    """The first of the patterns that a switch port is an uplink by, as far as its number and its name are known."""
    for pattern in patterns:
        if pattern == str(ofport) or (name is not None and fnmatchcase(name, pattern)):
            return pattern
    return None
