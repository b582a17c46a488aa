"""`Policy`: everything that the controller knows, at one moment; and `Draft`, the only way to a next one.

Goals.  (1) A policy never changes: whoever holds one may compute from it while the next is being made.
(2) Questions that are asked for every change (which ports has this droplet, who carries this tag, which firewalls
are behind it) are answered from indexes, not by walking.  (3) A draft notes what it changed, so that the store writes
and the compiler recompiles only that.

Implementation.  Plain dicts, copied when first written to by a draft (a copy of 10,000 entries takes 0.1 ms).
The rules that hold among entities (a port's droplet exists, no two ports claim one address) are checked by whoever
drafts (`service.py`), not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from .errors import Conflict
from .model import (
    Droplet,
    Entity,
    ExternalPeer,
    Firewall,
    Hypervisor,
    Name,
    Port,
    PortRules,
    Rule,
    Tag,
    TagKey,
    external_name,
    tag_key,
)

K = TypeVar("K")
V = TypeVar("V")

# Slots are 16 bits and double as conntrack zones.  Zone 0 is the host's; the top is left to other software.
FIRST_SLOT, LAST_SLOT = 1, 65000


@dataclass(frozen=True)
class Change:
    """One entity that was written (`new`), replaced, or removed (`new` is None)."""

    old: Entity | None
    new: Entity | None

    @property
    def entity(self) -> Entity:
        found = self.new if self.new is not None else self.old
        assert found is not None  # noqa: S101 - a change without either is never made
        return found


@dataclass(frozen=True)
class Counters:
    """Numbers that are given out once and never go back."""

    rule: int = 0  # the last one given to a rule, a rule set, a tag or an external peer
    slot: int = 0  # the last slot given


@dataclass(frozen=True)
class Policy:
    """What exists, by its key; and indexes over it.  Treat every mapping as read-only."""

    hypervisors: Mapping[str, Hypervisor] = field(default_factory=dict)
    tags: Mapping[TagKey, Tag] = field(default_factory=dict)
    droplets: Mapping[int, Droplet] = field(default_factory=dict)
    ports: Mapping[str, Port] = field(default_factory=dict)
    firewalls: Mapping[str, Firewall] = field(default_factory=dict)
    port_rules: Mapping[str, PortRules] = field(default_factory=dict)
    external_peers: Mapping[str, ExternalPeer] = field(default_factory=dict)  # by uid in lower case
    counters: Counters = Counters()

    ports_of: Mapping[int, frozenset[str]] = field(default_factory=dict)  # droplet -> ports
    ports_on: Mapping[str, frozenset[str]] = field(default_factory=dict)  # hypervisor -> ports
    tagged: Mapping[TagKey, frozenset[int]] = field(default_factory=dict)  # tag -> droplets that carry it
    attached_to_droplet: Mapping[int, frozenset[str]] = field(default_factory=dict)  # droplet -> firewalls, directly
    attached_to_tag: Mapping[TagKey, frozenset[str]] = field(default_factory=dict)  # tag -> firewalls
    naming_droplet: Mapping[int, frozenset[str]] = field(default_factory=dict)  # droplet -> firewalls with it as a peer
    naming_tag: Mapping[TagKey, frozenset[str]] = field(default_factory=dict)  # tag -> firewalls with it as a peer
    # (account, uid in lower case) -> firewalls with it as a peer, whether it is mapped or not
    naming_external: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    external_with: Mapping[int, frozenset[str]] = field(default_factory=dict)  # droplet -> external peers that hold it
    slots: Mapping[int, frozenset[str]] = field(default_factory=dict)  # slot -> ports
    account_firewalls: Mapping[str, frozenset[str]] = field(default_factory=dict)  # account -> firewalls
    firewalls_named: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)  # (account, name) -> them
    account_tags: Mapping[str, frozenset[TagKey]] = field(default_factory=dict)  # account -> tags

    def edit(self) -> Draft:
        """A draft of the next policy."""
        return Draft(self)

    def firewalls_of(self, droplet_id: int) -> tuple[Firewall, ...]:
        """The firewalls that a droplet is behind, directly or by a tag, by their id."""
        ids = set(self.attached_to_droplet.get(droplet_id, ()))
        droplet = self.droplets.get(droplet_id)
        for key in droplet.tag_keys if droplet else ():
            ids |= self.attached_to_tag.get(key, frozenset())
        return tuple(self.firewalls[i] for i in sorted(ids))

    def rule_sets_of(self, port: Port) -> tuple[Firewall | PortRules, ...]:
        """Every rule set that applies to a port; none means that it is behind no firewall."""
        own = self.port_rules.get(port.id)
        return self.firewalls_of(port.droplet_id) + ((own,) if own is not None else ())

    def rule_set(self, owner: str) -> Firewall | PortRules | None:
        """A rule set by what `owner_of` calls it."""
        if owner.startswith(_PORT_OWNER):
            return self.port_rules.get(owner.removeprefix(_PORT_OWNER))
        return self.firewalls.get(owner)

    def droplets_behind(self, firewall: Firewall) -> frozenset[int]:
        """The droplets that exist and are behind a firewall, directly or by a tag."""
        found = {i for i in firewall.droplet_ids if i in self.droplets}
        for key in firewall.tag_keys:
            found |= self.tagged.get(key, frozenset())
        return frozenset(found)

    def peer_droplets(self, account: str, rule: Rule) -> frozenset[int]:
        """The droplets that a rule of an account names now, directly, by a tag or by an external peer."""
        ids = set(rule.peer.droplet_ids).union(*(one.droplet_ids for one in self.external_peers_of(account, rule)))
        named = (self.droplets.get(i) for i in ids)
        found = {droplet.id for droplet in named if droplet is not None and droplet.account == account}
        for name in rule.peer.tags:
            found |= self.tagged.get(tag_key(account, name), frozenset())
        return frozenset(found)

    def external_peers_of(self, account: str, rule: Rule) -> tuple[ExternalPeer, ...]:
        """The external peers that a rule of an account names and that are mapped, each once."""
        keys = dict.fromkeys(uid.lower() for uid in rule.peer.external_uids)
        found = (self.external_peers.get(key) for key in keys)
        return tuple(one for one in found if one is not None and one.account == account)

    def concerned(self, change: Change) -> frozenset[str]:
        """The hypervisors whose flows may differ because of a change; ask the old policy and the new one."""
        found: set[str] = set()
        for entity in (change.old, change.new):
            if entity is not None:
                found |= self._hosts_by(entity)
        return frozenset(found | self._hosts_of_owners(set().union(*map(self.naming, self.names_of(change)))))

    def _hosts_by(self, entity: Entity) -> set[str]:
        """The hypervisors that an entity is on, or that have ports behind it."""
        match entity:
            case Hypervisor():
                return {entity.dpid}
            case Firewall():
                return self._hosts(self.droplets_behind(entity))
            case PortRules():
                port = self.ports.get(entity.port_id)
                return {port.hypervisor} if port else set()
            case Port():
                return {entity.hypervisor}
            case Droplet():
                return self._hosts([entity.id])
            case _:
                return set()

    def names_of(self, change: Change) -> set[Name]:
        """What rules may name what has changed by."""
        found: set[Name] = set()
        for entity in (change.old, change.new):
            match entity:
                case Tag():
                    # Droplets that gain or lose it are changes of their own; but switches know it by its number.
                    found.add(("tag", entity.key))
                case Port():
                    found |= self._names_of_droplet(self.droplets.get(entity.droplet_id), entity.droplet_id)
                case Droplet():
                    found |= self._names_of_droplet(entity, entity.id)
                case ExternalPeer():
                    found.add(external_name(entity.account, entity.key))
        return found

    def _names_of_droplet(self, droplet: Droplet | None, droplet_id: int) -> set[Name]:
        external = (self.external_peers[uid] for uid in self.external_with.get(droplet_id, ()))
        return {
            ("droplet", droplet_id),
            *(("tag", key) for key in (droplet.tag_keys if droplet is not None else ())),
            *(external_name(peer.account, peer.key) for peer in external),
        }

    def touched_firewalls(self, change: Change) -> frozenset[str]:
        """The firewalls that are others because of a change, or that other ports are behind.

        Of those whose rules name what has changed `names_of` tells.  Ask the old policy and the new one.
        """
        found: set[str] = set()
        for entity in (change.old, change.new):
            match entity:
                case Firewall():
                    found.add(entity.id)
                case Droplet():
                    found |= {f.id for f in self.firewalls_of(entity.id)}
                case Port():
                    found |= {f.id for f in self.firewalls_of(entity.droplet_id)}
                case _:
                    pass
        return frozenset(i for i in found if i in self.firewalls)

    def hosts_of(self, droplet_id: int) -> frozenset[str]:
        """The hypervisors on which a droplet has ports."""
        return frozenset(self._hosts((droplet_id,)))

    def hosts_of_all(self, droplet_ids: Iterable[int]) -> frozenset[str]:
        """The hypervisors on which any of these droplets has ports."""
        return frozenset(self._hosts(droplet_ids))

    def _hosts(self, droplet_ids: Iterable[int]) -> set[str]:
        return {self.ports[p].hypervisor for d in droplet_ids for p in self.ports_of.get(d, ())}

    def naming(self, name: Name) -> frozenset[str]:
        """The owners of rules that name this."""
        kind, key = name
        index: Mapping[Any, frozenset[str]] = getattr(self, f"naming_{kind}")
        return index.get(key, frozenset())

    def _hosts_of_owners(self, owners: Iterable[str]) -> set[str]:
        """Where rules of these owners are in force."""
        found: set[str] = set()
        droplets: set[int] = set()
        tags: set[TagKey] = set()
        for owner in owners:
            if (firewall := self.firewalls.get(owner)) is not None:
                droplets.update(firewall.droplet_ids)
                tags |= firewall.tag_keys
            elif (port := self.ports.get(owner.removeprefix(_PORT_OWNER))) is not None:
                found.add(port.hypervisor)
        for key in tags:
            droplets |= self.tagged.get(key, frozenset())
        return found | self._hosts(droplets & self.droplets.keys())


_PORT_OWNER = "port "  # owners in the naming_* indexes are firewall ids, or this and a port id


def owner_of(rules: Firewall | PortRules) -> str:
    """What a rule set is called among those of all firewalls and ports."""
    return rules.id if isinstance(rules, Firewall) else _PORT_OWNER + rules.port_id


Numbered = Firewall | PortRules | Tag | ExternalPeer  # switches know them by number


class Draft:
    """A policy in the making.  `put` and `drop` entities, then `done()`; `changes` lists what differs."""

    def __init__(self, base: Policy) -> None:
        self._base = base
        self._copies: dict[str, dict[Any, Any]] = {}
        self._growing: dict[tuple[str, Any], set[Any]] = {}  # entries of indexes that are being written
        self._changes: dict[tuple[str, Any], Change] = {}
        self.counters = base.counters

    def peek(self) -> Policy:
        """The policy as drafted so far.  It shares the draft's tables: do not keep it."""
        for (name, key), members in self._growing.items():
            if members:
                self._copies[name][key] = frozenset(members)
            else:
                self._copies[name].pop(key, None)
        self._growing.clear()
        values = {name: self._copies.get(name, getattr(self._base, name)) for name in _TABLES}
        return Policy(**values, counters=self.counters)

    def done(self) -> Policy:
        """The finished policy.  The draft must not be used afterwards."""
        policy = self.peek()
        self._copies = {}
        return policy

    @property
    def changes(self) -> tuple[Change, ...]:
        """What differs from the base, each entity once; an entity put back as it was is no change."""
        return tuple(c for c in self._changes.values() if not _alike(c.old, c.new))

    @property
    def touched(self) -> tuple[Change, ...]:
        """What was written, as it was or not."""
        return tuple(self._changes.values())

    def new_rule_id(self) -> int:
        self.counters = Counters(self.counters.rule + 1, self.counters.slot)
        return self.counters.rule

    def new_slot(self, dpid: str = "") -> int:
        """The next slot that no port of any hypervisor has; when all are given, the next one that fewest have.

        Never one of another port of hypervisor `dpid`; raises Conflict when those have all.

        In turn rather than lowest-first, so that a slot rests before it is used again; unique over hypervisors,
        since bridges of one host share conntrack zones and OpenFlow does not tell which bridges do.
        """
        span = LAST_SLOT - FIRST_SLOT + 1
        now = self.peek()
        here = now.ports_on.get(dpid, frozenset())
        best, fewest = 0, 1 << 30
        for step in range(1, span + 1):
            slot = FIRST_SLOT + (self.counters.slot - FIRST_SLOT + step) % span
            users = now.slots.get(slot, frozenset())
            if len(users) < fewest and not users & here:
                best, fewest = slot, len(users)
            if not users:
                break
        if not best:
            raise Conflict(f"all {span} slots are given to ports of hypervisor {dpid}")
        self.counters = Counters(self.counters.rule, best)
        return best

    # ---- writing

    def put(self, entity: Entity) -> None:
        """Adds an entity, or replaces the one with its key.  What has a number gets it here, or keeps it."""
        table, key = _table_of(entity), key_of(entity)
        if isinstance(entity, Numbered) and not entity.number:
            old = self._copies.get(table, getattr(self._base, table)).get(key)
            entity = replace(entity, number=old.number if old is not None else self.new_rule_id())
        self._write(table, key, entity)

    def drop(self, entity: Entity) -> None:
        """Removes an entity, if it is there."""
        self._write(_table_of(entity), key_of(entity), None)

    def _write(self, table: str, key: Any, new: Entity | None) -> None:
        rows = self._own(table)
        old = rows.get(key)
        if new is None:
            rows.pop(key, None)
        else:
            rows[key] = new
        before, after = set(_entries(old)), set(_entries(new))
        for name, index_key, member in before - after:
            self._members(name, index_key).discard(member)
        for name, index_key, member in after - before:
            self._members(name, index_key).add(member)
        was = self._changes.get((table, key))
        self._changes[table, key] = Change(was.old if was else old, new)

    def _own(self, name: str) -> dict[Any, Any]:
        if name not in self._copies:
            self._copies[name] = dict(getattr(self._base, name))
        return self._copies[name]

    def _members(self, name: str, key: Any) -> set[Any]:
        """An entry of an index, to be written to; `peek` puts it in place."""
        found = self._growing.get((name, key))
        if found is None:
            found = self._growing[name, key] = set(self._own(name).get(key, ()))
        return found


_TABLES = (
    "hypervisors", "tags", "droplets", "ports", "firewalls", "port_rules", "external_peers",
    "ports_of", "ports_on", "tagged", "attached_to_droplet", "attached_to_tag",
    "naming_droplet", "naming_tag", "naming_external", "external_with", "slots",
    "account_firewalls", "firewalls_named", "account_tags",
)  # fmt: skip


def merged(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Changes that follow one another as one step: of each entity what it was at first, and is at last."""
    found: dict[tuple[str, Any], Change] = {}
    for change in changes:
        at = _table_of(change.entity), key_of(change.entity)
        found[at] = Change(found[at].old if at in found else change.old, change.new)
    return tuple(change for change in found.values() if not _alike(change.old, change.new))


def key_of(entity: Entity) -> Any:
    """What identifies an entity among those of its kind."""
    match entity:
        case Hypervisor():
            return entity.dpid
        case Tag() | ExternalPeer():
            return entity.key
        case PortRules():
            return entity.port_id
        case _:
            return entity.id


def _table_of(entity: Entity) -> str:
    return {
        Hypervisor: "hypervisors",
        Tag: "tags",
        Droplet: "droplets",
        Port: "ports",
        Firewall: "firewalls",
        PortRules: "port_rules",
        ExternalPeer: "external_peers",
    }[type(entity)]


def _entries(entity: Entity | None) -> Iterator[tuple[str, Any, Any]]:
    """The index entries that an entity stands for: (index, key, member)."""
    match entity:
        case Droplet():
            for key in entity.tag_keys:
                yield "tagged", key, entity.id
        case Port():
            yield "ports_of", entity.droplet_id, entity.id
            yield "ports_on", entity.hypervisor, entity.id
            yield "slots", entity.slot, entity.id
        case Tag():
            yield "account_tags", entity.account, entity.key
        case Firewall():
            yield "account_firewalls", entity.account, entity.id
            yield "firewalls_named", (entity.account, entity.name), entity.id
            for droplet_id in set(entity.droplet_ids):
                yield "attached_to_droplet", droplet_id, entity.id
            for key in entity.tag_keys:
                yield "attached_to_tag", key, entity.id
            yield from ((f"naming_{kind}", key, entity.id) for kind, key in entity.named)
        case PortRules():
            yield from ((f"naming_{kind}", key, owner_of(entity)) for kind, key in entity.named)
        case ExternalPeer():
            for droplet_id in set(entity.droplet_ids):
                yield "external_with", droplet_id, entity.key
        case _:
            return


def _alike(old: Entity | None, new: Entity | None) -> bool:
    """Equal also in what equality leaves out."""
    return old == new and _apart(old) == _apart(new)


def rule_apart(rule: Rule) -> tuple[object, ...]:
    """What a rule carries beside its content."""
    return rule.id, rule.ports.written


def _apart(entity: Entity | None) -> tuple[object, ...]:
    """What entities carry beside their content: when they were made, slots, ids of rules, spelling."""
    match entity:
        case Firewall():
            return entity.created_at, entity.number, *map(rule_apart, entity.rules)
        case PortRules():
            return entity.number, *map(rule_apart, entity.rules)
        case ExternalPeer():
            return entity.created_at, entity.number
        case Tag():
            return (entity.number,)
        case Port():
            return entity.created_at, entity.slot
        case Hypervisor() | Droplet():
            return (entity.created_at,)
        case _:
            return ()
