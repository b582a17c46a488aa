"""`Store`: the policy, the tokens and the audit log, kept.

Goals.  (1) What was acknowledged is there after a crash: a commit returns when the database has it on disk.
(2) All or nothing: a commit that fails has changed nothing, a load gives the whole policy or an error that names the
row.  (3) A commit costs what it changes, not what exists.  (4) Two controllers that share a database notice: a commit
says from which point it starts.  (5) Whoever opens a store writes on a timeline of its own (history.py).

Implementation.  Synchronous; calls may come from different threads, never two at a time.  Who may do what, and whether
a policy makes sense, is decided elsewhere.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import TypeVar

from sqlalchemy import Connection, Table, bindparam, func, select

from ..history import TIMELINE_BITS, History, Point
from ..policy.errors import NotFound, StoreError
from ..policy.model import Entity, Firewall, Port, PortRules, Rule
from ..policy.policy import Change, Counters, Numbered, Policy, key_of
from ..records import Entry, Key, Note, Token
from . import codec, journal, schema
from .codec import Row
from .database import Database, Unprepared, told
from .lease import Lease
from .prepared import Prepared
from .writes import write

T = TypeVar("T")

_COUNTERS = ("revision", "rule", "slot")
_ASKED = select(schema.counters.c.name, schema.counters.c.value).order_by(schema.counters.c.name)
_READ_COUNTERS = Prepared(_ASKED)
_HOLD_COUNTERS = Prepared(_ASKED.with_for_update())  # other controllers wait, in the same order, until we are done
_NEWEST_START = select(func.max(schema.timelines.c.revision)).scalar_subquery()
_READ_TIMELINE = Prepared(select(schema.timelines.c.timeline).where(schema.timelines.c.revision == _NEWEST_START))
_WRITE_COUNTER = Prepared(
    schema.counters.update().where(schema.counters.c.name == bindparam("counter")).values(value=bindparam("number"))
)


class Store:
    """An open store.  Every method raises StoreError when the database fails."""

    def __init__(self, database: Database, reader: Database) -> None:
        """`reader` is the same database once more, for long readings, so that they hold up nothing."""
        self._database = database
        self._reader = reader
        self.is_new = database.is_new  # whether there was none before it was opened
        self._timeline = 0
        self.branch()

    @classmethod
    def open(cls, url: str, as_it_is: bool = False) -> Store:
        """Opens `sqlite:////path` or `postgresql://user@host/name`; creates what is missing, upgrades what is old.

        `as_it_is`: or raises Unprepared.
        """
        database = Database(url, as_it_is)
        try:
            return cls(database, Database(url, as_it_is))
        except BaseException:
            database.close()
            raise

    @classmethod
    def leased(cls, url: str, lease: Lease, wait: Callable[[str], None]) -> Store:
        """Opens a store that several controllers may share: nothing is written to it but under the lease.

        Only the one that has the lock makes or upgrades tables.  Until they are what this program needs, `wait` is
        called again and again, with the reason.
        """
        while True:
            try:
                store = cls.open(url, as_it_is=not lease.lock())
                break
            except Unprepared as error:
                wait(f"another controller is active, and {error}")
        store._database.guard = lease.check
        for database in (store._database, store._reader):  # also when another one is found in its place later
            database.may_upgrade = lease.is_locked
        return store

    @property
    def name(self) -> str:
        """Where it is, without passwords."""
        return self._database.name

    def close(self) -> None:
        self._database.close()
        self._reader.close()

    def ping(self, write: bool = False) -> None:
        """Raises StoreError when the database cannot be reached; with `write`, when it cannot be written to."""
        self.newest()
        if write:
            for probe in (journal.fill, journal.clear):  # a byte or two may fit where no change does
                with self._database.writing("write to the store") as connection:
                    probe(connection)

    def branch(self) -> None:
        """What is written from now on is on a timeline of its own: the store may have become another one."""
        self._timeline = secrets.randbits(TIMELINE_BITS)

    def newest(self) -> Point:
        """The state of the policy that is kept."""
        with self._database.reading("reach the store") as connection:
            return Point(_timeline(connection), _numbers(connection)["revision"])

    def supersede(self, point: Point, entry: Entry | None = None) -> None:
        """Keeps that this store goes before a timeline of another, up to a revision of it."""
        table = schema.superseded
        with self._database.writing("confirm a fence") as connection:
            known = connection.execute(select(table.c.revision).where(table.c.timeline == point.timeline)).scalar()
            connection.execute(table.delete().where(table.c.timeline == point.timeline))
            revision = max(point.revision, known if known is not None else 0)
            connection.execute(table.insert(), {"timeline": point.timeline, "revision": revision})
            if entry is not None:
                journal.record(connection, entry)

    # ------------------------------------------------------------------------------------------ policy

    def load(self) -> tuple[Policy, History]:
        """The policy, and what it descends from."""
        with self._database.reading("load") as connection:
            return loaded(connection)

    def commit(
        self,
        changes: Iterable[Change],
        counters: Counters,
        expected: Point,
        notes: Sequence[Note] = (),
        revisions: int = 1,
    ) -> Point:
        """Keeps the changes and counters of a draft that was made at the point `expected`; gives the new point.

        `notes` are kept with them or not at all.  `revisions`: how many states of the policy there were in between,
        the last one included; nobody ever sees the others.

        When it raises, nothing was changed, with one exception: a connection that breaks during the very last step,
        and a database that stays away when it is asked what came of it.  Then, as after another controller's commit,
        the next commit is refused by its point until the policy is loaded again.
        """
        new, written = Point(self._timeline, expected.revision + revisions), False
        try:
            with self._database.writing("commit") as connection:
                self._write(connection, tuple(changes), counters, expected, new)
                journal.write(connection, notes)
                written = True
        except StoreError:
            # Nobody else writes on our timeline, so when the store is at this point, this commit has made it so.
            if not written or not self._is_at(new):
                raise
        return new

    def _is_at(self, point: Point) -> bool:
        try:
            return self.newest() == point
        except StoreError:
            return False

    @staticmethod
    def _write(
        connection: Connection, changes: Iterable[Change], counters: Counters, expected: Point, new: Point
    ) -> None:
        numbers = _numbers(connection, hold=True)
        found = Point(_timeline(connection), numbers["revision"])
        if found != expected:
            raise StoreError(
                f"the store is at revision {found.revision} of timeline {found.name}, this controller at "
                f"{expected.revision} of {expected.name}: another controller has written, or the database was "
                "replaced. Load it again"
            )
        if found.timeline != new.timeline:
            connection.execute(schema.timelines.insert(), {"timeline": new.timeline, "revision": expected.revision + 1})
        if counters.rule < numbers["rule"]:
            raise StoreError(f"rule ids up to {numbers['rule']} are given out; they cannot go back to {counters.rule}")
        wanted = {"revision": new.revision, "rule": counters.rule, "slot": counters.slot}
        _WRITE_COUNTER.run(
            connection, [{"counter": k, "number": wanted[k]} for k in _COUNTERS if wanted[k] != numbers[k]]
        )
        write(connection, changes, counters.rule)

    # ------------------------------------------------------------------------------------------ audit log

    def record(self, *entries: Entry) -> None:
        """Adds lines to the audit log."""
        with self._database.writing("write the audit log") as connection:
            journal.record(connection, *entries)

    def entries(self, wanted: Mapping[str, str], first: int, count: int) -> tuple[list[Entry], int]:
        """`journal.entries`, on a connection of its own: this alone may be called beside other calls."""
        with self._reader.reading("read the audit log") as connection:
            try:
                return journal.entries(connection, wanted, first, count)
            except ValueError as error:
                raise StoreError(f"table audit: {error}") from error

    def made_with(self, key: Key) -> tuple[str, str] | None:
        """`journal.made_with`."""
        with self._database.reading("look for a key") as connection:
            return journal.made_with(connection, key)

    # ------------------------------------------------------------------------------------------ tokens

    def tokens(self) -> list[Token]:
        """Every token, revoked ones too, the oldest first."""
        with self._database.reading("list tokens") as connection:
            found = _read(connection, schema.tokens, codec.token)
        return sorted(found, key=lambda token: (token.created_at, token.id))

    def add_token(self, token: Token, entry: Entry | None = None) -> None:
        with self._database.writing("add a token") as connection:
            connection.execute(schema.tokens.insert(), codec.token_row(token))
            if entry is not None:
                journal.record(connection, entry)

    def tokens_mark(self) -> tuple[object, ...]:
        """Something that differs when the tokens in force do."""
        made, revoked = schema.tokens.c.created_at, schema.tokens.c.revoked_at
        asked = select(func.count(made), func.max(made), func.count(revoked), func.max(revoked))
        with self._database.reading("look for new tokens") as connection:
            return tuple(connection.execute(asked).one())

    def revoke_token(self, token_id: str, when: datetime, entry: Entry | None = None) -> None:
        """Marks a token as revoked; one that is already keeps its moment.  Raises NotFound."""
        table = schema.tokens
        with self._database.writing("revoke a token") as connection:
            if connection.execute(select(table.c.id).where(table.c.id == token_id)).first() is None:
                raise NotFound(f"there is no token {token_id!r}")
            connection.execute(
                table.update()
                .where(table.c.id == token_id, table.c.revoked_at.is_(None))
                .values(revoked_at=codec.moment(when))
            )
            if entry is not None:
                journal.record(connection, entry)


def loaded(connection: Connection) -> tuple[Policy, History]:
    """`Store.load`, inside a transaction that others open."""
    numbers = _numbers(connection)
    history = _history(connection, numbers["revision"])
    draft = Policy().edit()
    draft.counters = Counters(numbers["rule"], numbers["slot"])
    for entity in _entities(connection, numbers["rule"]):
        draft.put(entity)
    return draft.done(), history


def _numbers(connection: Connection, hold: bool = False) -> dict[str, int]:
    found = dict((_HOLD_COUNTERS if hold else _READ_COUNTERS).rows(connection))
    for name in _COUNTERS:
        if type(found.get(name)) is not int or found[name] < 0:
            raise StoreError(f"table counters, name {name}: the value is {found.get(name)!r}, not a number")
    return found


def _timeline(connection: Connection) -> int:
    """The timeline that is written on."""
    rows = _READ_TIMELINE.rows(connection)
    return _positive(rows[0][0] if rows else None)


def _history(connection: Connection, revision: int) -> History:
    table, others = schema.timelines, schema.superseded
    starts = connection.execute(select(table.c.timeline, table.c.revision).order_by(table.c.revision)).all()
    if not starts or starts[0].revision != 0:
        raise StoreError("table timelines does not begin at revision 0")
    return History(
        revision,
        tuple(Point(_positive(row.timeline), _positive(row.revision)) for row in starts),
        {_positive(row.timeline): _positive(row.revision) for row in connection.execute(select(others))},
    )


def _positive(number: object) -> int:
    if type(number) is not int or number < 0:
        raise StoreError(f"table timelines: {number!r} is no timeline or revision")
    return number


def _entities(connection: Connection, last_rule_id: int) -> list[Entity]:
    """Everything that is stored, with references that hold."""
    rules = _rules(connection, last_rule_id)
    hypervisors = {h.dpid: h for h in _read(connection, schema.hypervisors, codec.hypervisor)}
    droplets = {d.id: d for d in _read(connection, schema.droplets, codec.droplet)}

    def port(row: Row) -> Port:
        found = codec.port(row)
        _exists(found.droplet_id in droplets, f"droplet {found.droplet_id}")
        _exists(found.hypervisor in hypervisors, f"hypervisor {found.hypervisor}")
        return found

    ports = {p.id: p for p in _read(connection, schema.ports, port)}

    def port_rules(row: Row) -> PortRules:
        _exists(row["port_id"] in ports, f"port {row['port_id']!r}")
        return codec.port_rules(row, rules.pop((None, row["port_id"]), ()))

    def firewall(row: Row) -> Firewall:
        return codec.firewall(row, rules.pop((row["id"], None), ()))

    entities: list[Entity] = [
        *hypervisors.values(),
        *_read(connection, schema.tags, codec.tag),
        *droplets.values(),
        *_read(connection, schema.external_peers, codec.external_peer),
        *ports.values(),
        *_read(connection, schema.firewalls, firewall),
        *_read(connection, schema.port_rule_sets, port_rules),
    ]
    for left in rules.values():
        raise StoreError(f"table rules, id {left[0].id}: its firewall or port does not exist")
    _distinct(entities, last_rule_id)
    return entities


def _distinct(entities: Iterable[Entity], last: int) -> None:
    """Switches know some entities by number: two with one number would be one to them."""
    seen: dict[int, Entity] = {}
    for entity in entities:
        if isinstance(entity, Numbered):
            other = seen.setdefault(entity.number, entity)
            if other is not entity:
                raise StoreError(f"{key_of(other)!r} and {key_of(entity)!r} have one number, {entity.number}")
            if entity.number > last:
                raise StoreError(f"{key_of(entity)!r} has the number {entity.number}; the last one given is {last}")


def _rules(connection: Connection, last_rule_id: int) -> dict[tuple[str | None, str | None], list[Rule]]:
    """Rules in their order, by (firewall id, port id), of which one is None."""
    placed: defaultdict[tuple[str | None, str | None], list[tuple[int, Rule]]] = defaultdict(list)

    def place(row: Row) -> None:
        rule = codec.rule(row)
        if not 1 <= rule.id <= last_rule_id:
            raise ValueError(f"the last id given out is {last_rule_id}")
        placed[row["firewall_id"], row["port_id"]].append((codec.number(row, "position"), rule))

    _read(connection, schema.rules, place)
    return {owner: [rule for _, rule in sorted(found, key=itemgetter(0))] for owner, found in placed.items()}


def _read(connection: Connection, table: Table, convert: Callable[[Row], T]) -> list[T]:
    """Every row of a table, converted; a row that cannot be is a StoreError with table and key."""
    found = []
    with told(f"cannot read table {table.name}"):
        rows = connection.execute(select(table)).mappings().all()
    for row in rows:
        try:
            found.append(convert(row))
        except (ValueError, TypeError, OverflowError) as error:
            key = ", ".join(f"{column.name} {row[column.name]}" for column in table.primary_key)
            raise StoreError(f"table {table.name}, {key}: {error}") from error
    return found


def _exists(there: bool, what: str) -> None:
    if not there:
        raise ValueError(f"{what} does not exist")
