"""The audit log, and requests that must not be done twice, inside transactions that others open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, Connection, bindparam, func, select

from ..records import Entry, Key, Note
from . import codec, schema
from .prepared import Prepared

PROBE_BYTES = 64 << 10
_ADD_LINES = Prepared(
    # Without its number, which the database gives.
    schema.audit.insert()
    .inline()
    .values({c.name: bindparam(c.name) for c in schema.audit.columns if not c.primary_key})
)
KEY_LIFE = timedelta(days=1)  # for which a request may be repeated under its key


def write(connection: Connection, notes: Sequence[Note]) -> None:
    """Lines of the audit log, and the keys of those requests that had one."""
    record(connection, *(note.entry for note in notes))
    rows = [
        {
            "scope": key.scope,
            "key": key.key,
            "fingerprint": key.fingerprint,
            "made": note.made,
            "at": codec.moment(key.at),
        }
        for note in notes
        if (key := note.key) is not None
    ]
    if rows:
        table, newest = schema.keys, max(note.key.at for note in notes if note.key is not None)
        connection.execute(table.delete().where(table.c.at < codec.moment(newest - KEY_LIFE)))
        connection.execute(table.insert(), rows)


def record(connection: Connection, *entries: Entry) -> None:
    if entries:
        _ADD_LINES.run(connection, [codec.entry_row(entry) for entry in entries])


def made_with(connection: Connection, key: Key) -> tuple[str, str] | None:
    """The fingerprint of an earlier request with this key, and the id of what it made."""
    table = schema.keys
    asked = select(table.c.fingerprint, table.c.made).where(
        table.c.scope == key.scope, table.c.key == key.key, table.c.at >= codec.moment(key.at - KEY_LIFE)
    )
    found = connection.execute(asked).first()
    return (found.fingerprint, found.made) if found is not None else None


def entries(connection: Connection, wanted: Mapping[str, str], first: int, count: int) -> tuple[list[Entry], int]:
    """Lines of the audit log, the newest first, from the `first` one that is wanted; and how many are wanted.

    `wanted`: values by column, and moments for `since` (included) and `until` (not included).
    """
    table = schema.audit
    where: list[ColumnElement[bool]] = []
    for name, value in wanted.items():
        if name == "since":
            where.append(table.c.at >= value)
        elif name == "until":
            where.append(table.c.at < value)
        else:
            where.append(table.c[name] == value)
    total = connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one()
    asked = select(table).where(*where).order_by(table.c.number.desc()).offset(first).limit(count)
    return [codec.entry(row) for row in connection.execute(asked).mappings()], total


_PROBE = {"scope": "", "key": "probe"}  # no caller's: theirs are never empty


def fill(connection: Connection) -> None:
    """Writes as much as a change may need."""
    clear(connection)
    connection.execute(schema.keys.insert(), {**_PROBE, "fingerprint": "x" * PROBE_BYTES, "made": "", "at": ""})


def clear(connection: Connection) -> None:
    table = schema.keys
    connection.execute(table.delete().where(table.c.scope == _PROBE["scope"], table.c.key == _PROBE["key"]))
