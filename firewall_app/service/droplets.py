"""Droplets and the tags that they carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..policy.errors import Conflict, Crowded, Fault, Invalid, NotFound
from ..policy.model import Droplet, Firewall, PortRules, Rule, Tag, TagKey, tag_key
from ..policy.policy import Draft, Policy
from .core import Core, Written
from .rules import room_for_one, tags_once


def every(core: Core, account: str | None) -> list[Droplet]:
    """All droplets of an account, or of all accounts, by id."""
    found = [d for d in core.policy.droplets.values() if account is None or d.account == account]
    return sorted(found, key=lambda droplet: droplet.id)


def find(policy: Policy, account: str | None, droplet_id: int) -> Droplet:
    droplet = policy.droplets.get(droplet_id)
    if droplet is None or (account is not None and droplet.account != account):
        raise NotFound(f"there is no droplet {droplet_id}")
    return droplet


def put(core: Core, droplet_id: int, account: str, name: str, tags: Sequence[str]) -> Written[tuple[Droplet, bool]]:
    """Registers a droplet or replaces what is known of it; its tags are created on the way, and keep their names.

    The value is (droplet, whether it is new).  Raises Conflict when another account has the id.
    """

    def edit(draft: Draft) -> tuple[Droplet, bool]:
        policy = draft.peek()
        old = policy.droplets.get(droplet_id)
        if old is not None and old.account != account:
            raise Conflict(f"droplet {droplet_id} belongs to account {old.account}")
        _create_tags(draft, account, tags)
        known = draft.peek().tags
        names = tuple(known[tag_key(account, name)].name for name in tags_once(account, tags))
        droplet = Droplet(droplet_id, account, name, names, old.created_at if old else core.runtime.now())
        draft.put(droplet)
        return droplet, old is None

    try:
        return core.write(edit)
    except Crowded as error:
        raise error.at("tags") from None


def delete(core: Core, droplet_id: int, with_ports: bool = False) -> Written[Droplet]:
    """Takes a droplet out of firewalls, rules and external peers.  Raises NotFound; Conflict while it has ports."""

    def edit(draft: Draft) -> Droplet:
        policy = draft.peek()
        droplet = find(policy, None, droplet_id)
        ports = sorted(policy.ports_of.get(droplet_id, ()))
        if ports and not with_ports:
            raise Conflict(f"droplet {droplet_id} has ports: {', '.join(ports)}")
        for port_id in ports:
            if port_id in policy.port_rules:
                draft.drop(policy.port_rules[port_id])
            draft.drop(policy.ports[port_id])

        def keeps(number: int) -> bool:
            return number != droplet_id

        for rules in _naming(policy, policy.naming_droplet.get(droplet_id, frozenset())):
            draft.put(_without_peers(rules, droplet_id=droplet_id))
        for firewall_id in policy.attached_to_droplet.get(droplet_id, ()):
            firewall = draft.peek().firewalls[firewall_id]
            draft.put(replace(firewall, droplet_ids=tuple(filter(keeps, firewall.droplet_ids))))
        for key in policy.external_with.get(droplet_id, ()):
            peer = policy.external_peers[key]
            draft.put(replace(peer, droplet_ids=tuple(filter(keeps, peer.droplet_ids))))
        draft.drop(droplet)
        return droplet

    return core.write(edit)


# ---- tags


def tags(core: Core, account: str) -> list[Tag]:
    found = (core.policy.tags[key] for key in core.policy.account_tags.get(account, ()))
    return sorted(found, key=lambda tag: tag.name)


def find_tag(policy: Policy, account: str, name: str) -> Tag:
    tag = policy.tags.get(tag_key(account, name))
    if tag is None:
        raise NotFound(f"there is no tag {name!r}")
    return tag


def carriers(policy: Policy, tag: Tag) -> list[Droplet]:
    """The droplets that carry a tag, by id."""
    return [policy.droplets[i] for i in sorted(policy.tagged.get(tag.key, ()))]


def create_tag(core: Core, account: str, name: str) -> Written[Tag]:
    """An existing tag is no error, and keeps its first spelling.  Raises Invalid when the account has too many."""

    def edit(draft: Draft) -> Tag:
        policy = draft.peek()
        if tag_key(account, name) not in policy.tags:
            room_for_one(len(policy.account_tags.get(account, ())), account, "tags", core.limits.account_tags)
        _create_tags(draft, account, (name,))
        return draft.peek().tags[tag_key(account, name)]

    return core.write(edit)


def delete_tag(core: Core, account: str, name: str) -> Written[Tag]:
    """Deletes a tag everywhere: from droplets, firewalls, and the peers of rules."""

    def edit(draft: Draft) -> Tag:
        policy = draft.peek()
        tag = find_tag(policy, account, name)
        for droplet in carriers(policy, tag):
            draft.put(replace(droplet, tags=_without(droplet.tags, tag.key)))
        for rules in _naming(policy, policy.naming_tag.get(tag.key, frozenset())):
            draft.put(_without_peers(rules, key=tag.key))
        for firewall_id in policy.attached_to_tag.get(tag.key, ()):
            firewall = draft.peek().firewalls[firewall_id]
            draft.put(replace(firewall, tags=_without(firewall.tags, tag.key)))
        draft.drop(tag)
        return tag

    return core.write(edit)


def tag_droplets(core: Core, account: str, name: str, ids: Sequence[int], add: bool) -> Written[Tag]:
    """Puts a tag on droplets, or takes it off.  Raises NotFound for the tag, Invalid for unknown droplets."""

    def edit(draft: Draft) -> Tag:
        policy = draft.peek()
        tag = find_tag(policy, account, name)
        faults = []
        for i, droplet_id in enumerate(ids):
            droplet = draft.peek().droplets.get(droplet_id)
            if droplet is None or droplet.account != account:
                faults.append(Fault(f"resources[{i}].resource_id", f"droplet {droplet_id} does not exist"))
            elif add:
                has = tag.key in droplet.tag_keys
                draft.put(droplet if has else replace(droplet, tags=(*droplet.tags, tag.name)))
            else:
                draft.put(replace(droplet, tags=_without(droplet.tags, tag.key)))
        if faults:
            raise Invalid(faults)
        return tag

    try:
        return core.write(edit)
    except Crowded as error:
        raise error.at(f"resources[{ids.index(error.droplet_id)}].resource_id") from None


def _create_tags(draft: Draft, account: str, names: Sequence[str]) -> None:
    for name in names:
        if tag_key(account, name) not in draft.peek().tags:
            draft.put(Tag(account, name))


def _without(names: Sequence[str], key: TagKey) -> tuple[str, ...]:
    return tuple(name for name in names if name.lower() != key[1])


def _naming(policy: Policy, owners: frozenset[str]) -> list[Firewall | PortRules]:
    """The rule sets behind the owners of an index (firewall ids, or `port ` and a port id)."""
    found: list[Firewall | PortRules] = [policy.firewalls[o] for o in owners if o in policy.firewalls]
    ports = [o.removeprefix("port ") for o in owners if o not in policy.firewalls]
    return found + [policy.port_rules[p] for p in ports if p in policy.port_rules]


def _without_peers(
    rules: Firewall | PortRules, droplet_id: int | None = None, key: TagKey | None = None
) -> Firewall | PortRules:
    """The rule set with a droplet, or a tag, gone from its peers; a rule left without peers matches nobody."""

    def less(rule: Rule) -> Rule:
        peer = rule.peer
        left = replace(
            peer,
            droplet_ids=tuple(i for i in peer.droplet_ids if i != droplet_id),
            tags=_without(peer.tags, key) if key else peer.tags,
        )
        return replace(rule, peer=left)

    return replace(
        rules,
        inbound_rules=tuple(map(less, rules.inbound_rules)),
        outbound_rules=tuple(map(less, rules.outbound_rules)),
    )
