"""Backups: a store copied to a file, looked at, and copied back.

A backup is a SQLite database with the tables of a store, and one more, `backup`, that says of what it is and has a
digest of all rows.  A copy is of one moment, and there whole or not at all: it is made under another name, synced, read
back, and renamed.  A backup itself is never written to; it is a copy of it that is brought to the schema of today.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Function, Table, func, select

from .. import __version__
from ..policy.errors import StoreError
from ..records import Entry
from . import codec, journal, schema
from .database import APPLICATION, Database, beside, told
from .store import loaded

Tell = Callable[[str, int], None]  # a table and how many of its rows are copied; an empty name when all are

ROWS = 1000  # that are copied at a time
_MADE = "CREATE TABLE backup (made_at TEXT, source TEXT, program TEXT, digest TEXT)"
# Where SQLite's connections lock the file of a database for as long as they are open (its file format, 'os.h').
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510


@dataclass(frozen=True)
class Summary:
    """What a backup is of, and how many rows of each table it holds."""

    source: str
    made_at: str
    revision: int
    rows: Mapping[str, int]


def create(url: str, file: Path, tell: Tell) -> Summary:
    """Makes a backup of a store that is left as it is, and may be in use.  Raises StoreError."""
    with closing(Database(url, as_it_is=True)) as database, database.reading("make a backup") as connection:
        return _write(connection, database.name, file, tell)


def check(file: Path) -> Summary:
    """Loads a backup whole.  Raises StoreError when it could not be restored."""
    with tempfile.TemporaryDirectory() as folder:
        return _unpack(file, Path(folder, "store.db"))


def restore(url: str, file: Path, replace: bool, entry: Entry, tell: Tell) -> tuple[Summary, Path | None]:
    """Puts a backup, and a line of the audit log, in place of a store.

    A store that holds something is replaced only with `replace`; the path is where that is kept.  Raises StoreError,
    and has changed nothing then.
    """
    target = Database.file_of(url)
    if target is not None:
        return _restore_file(target, file, replace, entry)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store.db")
        found = _unpack(file, path)
        with closing(Database(_url(path))) as copy, closing(Database(url, before=_refuse_in_use)) as database:
            aside = _restore_server(copy, database, replace, entry, tell)
    return found, aside


# ---------------------------------------------------------------------------------------------- writing a backup


def _write(source: Connection, name: str, file: Path, tell: Tell) -> Summary:
    if file.exists():
        raise StoreError(f"{file} exists already")
    with told(f"cannot write {file}"), _part(file) as part:
        with closing(Database(_url(part))) as copy, copy.writing("copy") as target:
            _copy(source, target, tell)
        with closing(sqlite3.connect(part)) as plain:
            plain.execute("PRAGMA journal_mode=DELETE")  # one file from now on
            plain.execute(_MADE)
            made_at = datetime.now(UTC).isoformat(timespec="seconds")
            plain.execute("INSERT INTO backup VALUES (?, ?, ?, ?)", (made_at, name, __version__, _digest(plain)))
            plain.commit()
        found = check(part)
        _place(part, file)
    return found


@contextmanager
def _part(file: Path) -> Iterator[Path]:
    """A file for its owner alone, beside the one that it shall become; gone when it did not."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    os.close(descriptor)
    part = Path(name)
    try:
        yield part
    finally:
        for path in (part, *beside(part)):
            path.unlink(missing_ok=True)


def _place(part: Path, file: Path) -> None:
    _sync(part)
    part.rename(file)
    _sync(file.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(source: Connection, target: Connection, tell: Tell) -> None:
    """Every row of every table, in place of what is there."""
    for table in reversed(schema.metadata.sorted_tables):
        target.execute(table.delete())
    for table in schema.metadata.sorted_tables:
        done = 0
        found = source.execute(select(table), execution_options={"yield_per": ROWS})
        for rows in found.mappings().partitions():
            target.execute(table.insert(), [dict(row) for row in rows])
            done += len(rows)
            tell(table.name, done)
        if table.dialect_options["sqlite"]["autoincrement"]:
            _count_on(target, table, _last_number(source, table))
    tell("", 0)


def _last_number(connection: Connection, table: Table) -> int:
    """The last number that was given to a row, which may be there no longer."""
    if connection.dialect.name == "sqlite":
        asked = "SELECT seq FROM sqlite_sequence WHERE name = ?"
        return int(connection.exec_driver_sql(asked, (table.name,)).scalar() or 0)
    sequence = connection.execute(select(_sequence(table))).scalar_one()
    found = connection.exec_driver_sql(f"SELECT last_value FROM {sequence} WHERE is_called").scalar()  # noqa: S608 - PostgreSQL's
    return int(found or 0)


def _count_on(connection: Connection, table: Table, last: int) -> None:
    """Numbers of new rows go on after `last`."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (table.name,))
        connection.exec_driver_sql("INSERT INTO sqlite_sequence VALUES (?, ?)", (table.name, last))
    else:
        connection.execute(select(func.setval(_sequence(table), max(last, 1), last > 0)))


def _sequence(table: Table) -> Function[Any]:
    (column,) = table.primary_key
    return func.pg_get_serial_sequence(table.name, column.name)


# ---------------------------------------------------------------------------------------------- reading a backup


def _unpack(file: Path, path: Path) -> Summary:
    """Makes a store of a backup at `path`; loads it to see that it is one."""
    if not file.is_file():
        raise StoreError(f"there is no file {file}")
    with told(f"{file} cannot be read"):
        path.touch(0o600)
        shutil.copyfile(file, path)
        made_at, source = _verified(file, path)
        with closing(Database(_url(path))) as database, database.reading("check") as connection:
            _, history = loaded(connection)
            for row in connection.execute(select(schema.tokens)).mappings():
                codec.token(row)
            return Summary(source, made_at, history.revision, _rows(connection))


def _verified(file: Path, path: Path) -> tuple[str, str]:
    """When and of what the backup was made, whose copy is at `path`; is a store from now on."""
    try:
        with closing(sqlite3.connect(path)) as plain:
            made_at, source, digest = plain.execute("SELECT made_at, source, digest FROM backup").fetchone()
            if digest != _digest(plain):
                raise StoreError(f"{file} is damaged: its digest is another one")
            plain.execute("DROP TABLE backup")
            plain.commit()
    except sqlite3.Error as error:
        raise StoreError(f"{file} is no backup, or damaged: {error}") from error
    return str(made_at), str(source)


def _digest(plain: sqlite3.Connection) -> str:
    found = hashlib.sha256()
    names = "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT IN ('backup') ORDER BY name"
    for name, sql in plain.execute(names).fetchall():
        found.update(repr((name, sql)).encode())
        for row in plain.execute(f'SELECT * FROM "{name}" ORDER BY rowid'):  # noqa: S608 - of a table of this file
            found.update(repr(row).encode())
    return found.hexdigest()


def _rows(connection: Connection) -> dict[str, int]:
    always = (schema.counters, schema.timelines, schema.lease)  # which an empty store has, too
    tables = (table for table in schema.metadata.sorted_tables if table not in always)
    return {table.name: connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables}


# ---------------------------------------------------------------------------------------------- restoring


def _restore_file(target: Path, file: Path, replace: bool, entry: Entry) -> tuple[Summary, Path | None]:
    with told(f"cannot restore into {target}"), _part(target) as part:
        found = _unpack(file, part)
        with closing(Database(_url(part))) as database, database.writing("restore") as connection:
            journal.record(connection, entry)
        there = target.exists()
        if there and not replace:
            _refuse_what_holds_something(target)
        _owned_as(part, target if there else target.parent)
        aside = target.with_name(f"{target.name}.before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        with _held(target) if there else nullcontext(), _set_aside(target, aside):
            _place(part, target)
    return found, aside if there else None


@contextmanager
def _held(target: Path) -> Iterator[None]:
    """Nobody else has the database open, or can open it."""
    with target.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED_FIRST)
        except OSError:
            raise StoreError(f"{target} is in use: stop the controller; switches keep their flows") from None
        yield


@contextmanager
def _set_aside(target: Path, aside: Path) -> Iterator[None]:
    """Gives a database, and what SQLite has left beside it, another name.  The first stays until it is replaced."""
    (log, index), kept_log = beside(target), beside(aside)[0]
    try:
        if target.exists():
            aside.hardlink_to(target)
        if log.exists():
            log.rename(kept_log)
        index.unlink(missing_ok=True)
        yield
    except BaseException:
        if aside.exists() and target.samefile(aside):
            aside.unlink()
            if kept_log.exists():
                kept_log.rename(log)
        raise


def _refuse_what_holds_something(target: Path) -> None:
    try:
        with closing(Database(_url(target), as_it_is=True)) as database, database.reading("look") as connection:
            _refuse(connection, str(target))
    except StoreError as error:
        raise StoreError(f"{error}; with --replace it is kept aside") from error


def _refuse(connection: Connection, name: str) -> None:
    kinds = ", ".join(f"{count} {table}" for table, count in _rows(connection).items() if count)
    if kinds:
        raise StoreError(f"{name} holds {kinds}")


def _owned_as(path: Path, other: Path) -> None:
    """What root restores must be the controller's all the same."""
    if os.geteuid() == 0:
        found = other.stat()
        os.chown(path, found.st_uid, found.st_gid)


def _refuse_in_use(connection: Connection) -> None:
    asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    if connection.exec_driver_sql(f"{asked} AND application_name = %s", (APPLICATION,)).scalar_one():
        raise StoreError("the store is in use: stop the controller; switches keep their flows")


def _restore_server(copy: Database, database: Database, replace: bool, entry: Entry, tell: Tell) -> Path | None:
    aside = None
    with copy.reading("restore") as source, database.writing("restore") as target:
        names = ", ".join(table.name for table in schema.metadata.sorted_tables)
        target.exec_driver_sql(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
        if any(_rows(target).values()):
            if not replace:
                _refuse(target, f"{database.name}, to be replaced with --replace alone,")
            aside = Path(f"before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.backup").absolute()
            _write(target, database.name, aside, tell)
        _copy(source, target, tell)
        journal.record(target, entry)
    return aside


def _url(path: Path) -> URL:
    return URL.create("sqlite", database=str(path))
