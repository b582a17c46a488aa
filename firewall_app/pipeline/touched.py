"""What a change of the policy touches, as far as flows are concerned: `Touched`, in the words of `plan.py`.

It is found once for a change, from what changed, and then tells each hypervisor which parts of its plan to look at
again.  To name a part too many costs a little; to name one too few leaves wrong flows: tests compare plans that were
changed step by step with plans made from nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, fields

from ..policy.model import Droplet, Entity, ExternalPeer, Firewall, Hypervisor, Port, PortRules, Tag, TagKey
from ..policy.policy import Change, Policy, owner_of
from .compile import MOST_SETS

SharedKey = TagKey | str  # of a tag, or of an external peer


@dataclass(frozen=True)
class Touched:
    """Parts whose units may differ."""

    hosts: Set[str] = frozenset()  # hypervisors of which other ports, or other uplinks, may be in use
    ports: Set[str] = frozenset()  # droplet ports
    rule_sets: Set[str] = frozenset()  # owners of rules
    shared: Set[SharedKey] = frozenset()  # sets that may be another number, or have any other members
    members: Set[tuple[SharedKey, str]] = frozenset()  # sets, and ports that may have joined or left them

    @property
    def sets(self) -> set[SharedKey]:
        """All sets that may differ in any way."""
        return {key for key, _ in self.members}.union(self.shared)

    def __or__(self, other: Touched) -> Touched:
        return Touched(*(getattr(self, one.name) | getattr(other, one.name) for one in fields(self)))


def touched(before: Policy, after: Policy, changes: Iterable[Change]) -> Touched:
    """What changes touch that lead from one policy to the next."""
    found = _Found(before, after)
    for change in changes:
        found.add(change.old, change.new)
    return Touched(found.hosts, found.ports, found.rule_sets, found.shared, found.members)


class _Found:
    def __init__(self, before: Policy, after: Policy) -> None:
        self.policies = before, after
        self.hosts: set[str] = set()
        self.ports: set[str] = set()
        self.rule_sets: set[str] = set()
        self.shared: set[SharedKey] = set()
        self.members: set[tuple[SharedKey, str]] = set()
        self._folding: set[SharedKey] = set()  # sets that were looked for in rules that may have taken their members

    def add(self, old: Entity | None, new: Entity | None) -> None:
        match new if new is not None else old:
            case Hypervisor(dpid=dpid):
                self.hosts.add(dpid)
            case Tag(key=key):
                self._shared_changed(key, _numbers(old, new))
            case ExternalPeer(key=key):
                self._shared_changed(key, _numbers(old, new))
                self.shared.add(key)
            case Droplet():
                self._droplet(*(one if isinstance(one, Droplet) else None for one in (old, new)))
            case Port():
                self._port(*(one if isinstance(one, Port) else None for one in (old, new)))
            case Firewall():
                self._firewall(*(one if isinstance(one, Firewall) else None for one in (old, new)))
            case PortRules(port_id=port_id) as rules:
                self.rule_sets.add(owner_of(rules))
                if _asked(old) != _asked(new):
                    self.ports.add(port_id)

    def _shared_changed(self, key: SharedKey, numbers: set[int]) -> None:
        """A set came, went, or is another; what a rule that names it comes to, too."""
        if len(numbers) > 1:
            self.shared.add(key)
        for policy in self.policies:
            for owner in _naming(policy, key):
                if len(numbers) > 1 or _may_fold(policy, owner):
                    self.rule_sets.add(owner)

    def _member(self, key: SharedKey, port_ids: Iterable[str]) -> None:
        self.members.update((key, port_id) for port_id in port_ids)
        if key not in self._folding:
            before, after = self.policies
            others = before.firewalls is not after.firewalls or before.port_rules is not after.port_rules
            self._folding.add(key)
            for policy in self.policies if others else (after,):
                self.rule_sets.update(owner for owner in _naming(policy, key) if _may_fold(policy, owner))

    def _addresses(self, droplet: Droplet, port_ids: Iterable[str]) -> None:
        """What a droplet has of addresses may be another, on these ports of its."""
        for key in droplet.tag_keys:
            self._member(key, port_ids)
        for policy in self.policies:
            self.rule_sets.update(policy.naming_droplet.get(droplet.id, ()))
            for uid in policy.external_with.get(droplet.id, ()):
                self._member(uid, port_ids)

    def _droplet(self, old: Droplet | None, new: Droplet | None) -> None:
        ports = self._ports_of(one.id for one in (old, new) if one is not None)
        if old is None or new is None or old.account != new.account:
            self.ports |= ports
            for one in (old, new):
                if one is not None:
                    self._addresses(one, ports)
        elif old.tag_keys != new.tag_keys:
            self.ports |= ports
            for key in old.tag_keys ^ new.tag_keys:
                self._member(key, ports)

    def _port(self, old: Port | None, new: Port | None) -> None:
        for policy, port in zip(self.policies, (old, new), strict=True):
            if port is None:
                continue
            self.ports.add(port.id)
            self.hosts.add(port.hypervisor)
            if old is None or new is None or (old.networks, old.droplet_id) != (new.networks, new.droplet_id):
                droplet = policy.droplets.get(port.droplet_id)
                if droplet is not None:
                    self._addresses(droplet, (port.id,))

    def _firewall(self, old: Firewall | None, new: Firewall | None) -> None:
        self.rule_sets.update(one.id for one in (old, new) if one is not None)
        if old is None or new is None or _asked(old) != _asked(new):
            for policy, one in zip(self.policies, (old, new), strict=True):
                if one is not None:
                    self.ports |= self._ports_of(policy.droplets_behind(one))
            return
        droplets = set(old.droplet_ids) ^ set(new.droplet_ids)
        for key in old.tag_keys ^ new.tag_keys:
            droplets.update(*(policy.tagged.get(key, ()) for policy in self.policies))
        self.ports |= self._ports_of(droplets)

    def _ports_of(self, droplet_ids: Iterable[int]) -> set[str]:
        return {port for i in droplet_ids for policy in self.policies for port in policy.ports_of.get(i, ())}


def _numbers(*entities: Entity | None) -> set[int]:
    return {one.number if isinstance(one, Tag | ExternalPeer) else 0 for one in entities}


def _asked(rules: Entity | None) -> tuple[int, ...]:
    """What a port has to know of a rule set: its number, and which directions it has rules in."""
    if not isinstance(rules, Firewall | PortRules):
        return ()
    return rules.number, bool(rules.inbound_rules), bool(rules.outbound_rules)


def _naming(policy: Policy, key: SharedKey) -> frozenset[str]:
    """The owners of rules that name a tag or an external peer."""
    if not isinstance(key, str):
        return policy.naming_tag.get(key, frozenset())
    peer = policy.external_peers.get(key)
    return policy.naming_external.get((peer.account, key), frozenset()) if peer is not None else frozenset()


def _may_fold(policy: Policy, owner: str) -> bool:
    """Whether rules may have taken the members of a set for their own, since they name too many (`rule_units`)."""
    rules = policy.rule_set(owner)
    return rules is not None and rules.most_sets > MOST_SETS
