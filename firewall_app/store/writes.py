"""Changes as the fewest rows to write, in an order in which references hold at every moment.

A firewall of 50 rules that gains one writes one rule.  Opens no transaction and decides nothing: `store.py` does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import Connection, Table, bindparam, select

from ..policy.errors import StoreError
from ..policy.model import Direction, Droplet, Entity, ExternalPeer, Firewall, Hypervisor, Port, PortRules, Rule, Tag
from ..policy.policy import Change, rule_apart
from . import schema
from .codec import row_of, rule_row
from .prepared import Prepared

Rows = defaultdict[Table, list[dict[str, Any]]]

_TABLES = {
    Hypervisor: schema.hypervisors,
    Tag: schema.tags,
    Droplet: schema.droplets,
    ExternalPeer: schema.external_peers,
    Port: schema.ports,
    Firewall: schema.firewalls,
    PortRules: schema.port_rule_sets,
}
_KEY = "key_"  # in front of parameters that select a row, to tell them from those that are written


def write(connection: Connection, changes: Iterable[Change], last_rule_id: int) -> None:
    """Writes what differs.  Raises StoreError when the database does not hold what the changes start from."""
    work = _Work()
    listed = tuple(changes)
    for change in listed:
        _entity(work, change)
        if isinstance(change.entity, Firewall | PortRules):
            _rules(connection, work, change, last_rule_id)
    work.parked = _names_that_trade_places(listed)
    work.run(connection)


@dataclass
class _Work:
    inserts: Rows = field(default_factory=lambda: defaultdict(list))
    updates: Rows = field(default_factory=lambda: defaultdict(list))
    deletes: Rows = field(default_factory=lambda: defaultdict(list))
    parked: list[dict[str, Any]] = field(default_factory=list)

    def run(self, connection: Connection) -> None:
        self._delete(connection, schema.rules, schema.firewalls, schema.port_rule_sets, schema.external_peers)
        if self.parked:
            _checked(connection, _update(schema.firewalls, ("name",)), self.parked, schema.firewalls)
        self._put(connection, schema.hypervisors, schema.tags, schema.droplets, schema.ports, schema.external_peers)
        self._delete(connection, schema.ports)
        self._put(connection, schema.firewalls, schema.port_rule_sets, schema.rules)
        self._delete(connection, schema.droplets, schema.tags, schema.hypervisors)

    def _put(self, connection: Connection, *tables: Table) -> None:
        for table in tables:
            if rows := self.updates.get(table):
                columns = tuple(c.name for c in table.columns if not c.primary_key)
                _checked(connection, _update(table, columns), rows, table)
            if rows := self.inserts.get(table):
                _insert(table).run(connection, rows)

    def _delete(self, connection: Connection, *tables: Table) -> None:
        for table in tables:
            if rows := self.deletes.get(table):
                _checked(connection, _delete(table), rows, table)


def _checked(connection: Connection, statement: Prepared, rows: list[dict[str, Any]], table: Table) -> None:
    if statement.run(connection, rows) != len(rows):
        raise StoreError(f"table {table.name} lacks rows that this controller knows of; load the store again")


@cache
def _insert(table: Table) -> Prepared:
    return Prepared(table.insert().inline().values({c.name: bindparam(c.name) for c in table.columns}))


@cache
def _update(table: Table, columns: tuple[str, ...]) -> Prepared:
    return Prepared(table.update().where(*_is_row(table)).values({name: bindparam(name) for name in columns}))


@cache
def _delete(table: Table) -> Prepared:
    return Prepared(table.delete().where(*_is_row(table)))


def _is_row(table: Table) -> list[Any]:
    return [column == bindparam(_KEY + column.name) for column in table.primary_key]


def _key(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    return {_KEY + column.name: row[column.name] for column in table.primary_key}


def _update_row(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    return {c.name: row[c.name] for c in table.columns if not c.primary_key} | _key(table, row)


def _entity(work: _Work, change: Change) -> None:
    table = _TABLES[type(change.entity)]
    old, new = (_row_or_none(entity) for entity in (change.old, change.new))
    if old is None and new is not None:
        work.inserts[table].append(new)
    elif old is not None and new is None:
        work.deletes[table].append(_key(table, old))
    elif new is not None and old != new:
        work.updates[table].append(_update_row(table, new))


def _row_or_none(entity: Entity | None) -> dict[str, Any] | None:
    return None if entity is None else row_of(entity)


def _rules(connection: Connection, work: _Work, change: Change, last_rule_id: int) -> None:
    old = change.old if isinstance(change.old, Firewall | PortRules) else None
    new = change.new if isinstance(change.new, Firewall | PortRules) else None
    if new is not None:
        _check_ids(new, last_rule_id)
    positions: dict[int, int] | None = None
    for direction in Direction:
        was = {rule.id: rule for rule in old.in_direction(direction)} if old else {}
        now = new.in_direction(direction) if new else ()
        kept = {rule.id for rule in now} & was.keys()
        work.deletes[schema.rules] += [_key(schema.rules, {"id": i}) for i in was if i not in kept]
        if new is None or (len(kept) == len(now) and all(map(_alike, (was[i] for i in was if i in kept), now))):
            continue
        if kept and positions is None:
            positions = dict(_positions(isinstance(new, Firewall)).rows(connection, {"owner": _owner_id(new)}))
        _place(work, new, was, now, positions or {})


def _place(
    work: _Work,
    owner: Firewall | PortRules,
    was: Mapping[int, Rule],
    now: Iterable[Rule],
    positions: Mapping[int, int],
) -> None:
    """Writes the rules of one direction that are new, differ, or no longer stand after their forerunner."""
    last = -1
    for rule in now:
        stored = positions.get(rule.id) if rule.id in was else None
        last = stored if stored is not None and stored > last else last + 1
        if rule.id not in was:
            work.inserts[schema.rules].append(rule_row(owner, rule, last))
        elif stored != last or not _alike(was[rule.id], rule):
            work.updates[schema.rules].append(_update_row(schema.rules, rule_row(owner, rule, last)))


def _alike(was: Rule, now: Rule) -> bool:
    return was is now or (was == now and rule_apart(was) == rule_apart(now))


@cache
def _positions(of_firewall: bool) -> Prepared:
    owner = schema.rules.c.firewall_id if of_firewall else schema.rules.c.port_id
    return Prepared(select(schema.rules.c.id, schema.rules.c.position).where(owner == bindparam("owner")))


def _owner_id(owner: Firewall | PortRules) -> str:
    return owner.id if isinstance(owner, Firewall) else owner.port_id


def _check_ids(owner: Firewall | PortRules, last_rule_id: int) -> None:
    seen: set[int] = set()
    for direction in Direction:
        for rule in owner.in_direction(direction):
            if rule.direction is not direction:
                raise StoreError(
                    f"rule {rule.id} is {rule.direction.value} but stands among the {direction.value} ones"
                )
            # An id that is not counted would be given a second time, and switches would take two rules for one.
            if not 1 <= rule.id <= last_rule_id or rule.id in seen:
                raise StoreError(f"rule id {rule.id} was not given out for one rule (the last given is {last_rule_id})")
            seen.add(rule.id)


def _names_that_trade_places(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """Firewalls whose old name another one takes in the same commit: they get a name for the meantime."""
    pairs = [(c.old, c.new) for c in changes if isinstance(c.old, Firewall) and isinstance(c.new, Firewall)]
    taken = {(c.new.account, c.new.name): c.new.id for c in changes if isinstance(c.new, Firewall)}
    return [
        _key(schema.firewalls, {"id": old.id}) | {"name": f"~{old.id}"}  # '~' is in no name of a firewall
        for old, new in pairs
        if taken.get((old.account, old.name), old.id) != old.id
    ]
