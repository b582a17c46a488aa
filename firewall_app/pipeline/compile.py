"""Compiles a policy: which units (`unit.py`) it means for one hypervisor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..policy.model import Network, Port, Rule
from ..policy.policy import Policy
from .unit import Flood, PortGuards, PortProtection, RuleFlows, Static, Unit, UnitKey, Uplinks


@dataclass(frozen=True)
class Rulings:
    """Settings that change what a policy means for a switch."""

    default_uplinks: tuple[str, ...] = ()
    closed: bool = False  # whether a droplet behind no firewall is closed instead of open


def units(policy: Policy, dpid: str, interfaces: Mapping[int, str], rulings: Rulings) -> dict[UnitKey, Unit]:
    """What one hypervisor should hold, the generation aside.

    `interfaces`: the switch ports there are, OpenFlow number to interface name.  A droplet port whose interface is not
    there has no flows, and so can neither send nor receive.
    """
    here = ports_here(policy, dpid, interfaces)
    uplinks = uplinks_here(policy, dpid, interfaces, rulings, taken={ofport for _, ofport in here})
    found: dict[UnitKey, Unit] = {
        ("static", ""): Static(),
        ("uplinks", ""): Uplinks(uplinks),
        ("flood", ""): Flood(tuple(sorted(ofport for _, ofport in here)), uplinks),
    }
    in_force: dict[int, tuple[str, Rule, list[int]]] = {}  # rule id -> account, rule, slots that it protects
    for port, ofport in here:
        sets = policy.rule_sets_of(port)
        found["guards", port.id] = PortGuards(port.slot, ofport, port.mac, port.networks)
        found["protection", port.id] = PortProtection(port.slot, port.mac, bool(sets) or rulings.closed)
        for rule_set in sets:
            for rule in rule_set.rules:
                in_force.setdefault(rule.id, (rule_set.account, rule, []))[2].append(port.slot)
    for account, rule, slots in in_force.values():
        networks = peer_networks(policy, account, rule)
        if networks:
            found["rule", str(rule.id)] = RuleFlows(
                rule.id, rule.direction, rule.protocol, rule.ports, networks, tuple(slots)
            )
    return found


def peer_networks(policy: Policy, account: str, rule: Rule) -> tuple[Network, ...]:
    """The addresses that a rule's peer stands for now: as written, and those of the droplets that it names."""
    networks = set(rule.peer.networks)
    for droplet_id in policy.peer_droplets(account, rule):
        for port_id in policy.ports_of.get(droplet_id, ()):
            networks.update(policy.ports[port_id].networks)
    return tuple(sorted(networks))


def ports_here(policy: Policy, dpid: str, interfaces: Mapping[int, str]) -> list[tuple[Port, int]]:
    """The droplet ports of a hypervisor whose interface is there, with its OpenFlow number; by slot."""
    numbers = {name: ofport for ofport, name in interfaces.items()}
    found: dict[int, Port] = {}
    for port in sorted((policy.ports[p] for p in policy.ports_on.get(dpid, ())), key=lambda port: port.slot):
        ofport = port.number if port.interface is None else numbers.get(port.interface)
        if ofport is not None and ofport in interfaces:
            # Registered by name and, as another port, by the number of that name: the older registration holds.
            found.setdefault(ofport, port)
    return sorted(((port, ofport) for ofport, port in found.items()), key=lambda pair: pair[0].slot)


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
            if ofport not in taken and any(pattern == str(ofport) or fnmatchcase(name, pattern) for pattern in patterns)
        )
    )
