"""Opening a database by its URL, bringing its tables up to date, and telling its errors in our words.

SQLite and PostgreSQL, over one connection that stays open (opening one costs more than a commit).  Any thread may use
it, two at a time may not.  What is in the tables is no business of this module.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, StaticPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from ..policy.errors import StoreError

BUSY_SECONDS = 5  # how long to wait for another process that is writing
NETWORK_SECONDS = 10  # how long a PostgreSQL server may be silent on the network
# The server's side: it ends a session whose client is gone, or hangs within a transaction, and with it its locks.
_SESSION = {
    "tcp_keepalives_idle": "6s",
    "tcp_keepalives_interval": "2s",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": f"{NETWORK_SECONDS}s",
    "idle_in_transaction_session_timeout": "60s",
}

# One lock per database for those that start at the same time; the number is any that others are unlikely to use.
_MIGRATION_LOCK = 0x636C6F7564_6677


class Database:
    """An open database with tables as this program knows them."""

    guard: Callable[[Connection], None] | None = None  # asked first in every transaction that writes

    def __init__(self, url: str, migrate: bool = True) -> None:
        """Opens; with `migrate` creates or upgrades the tables, too.  Raises StoreError."""
        self.url = _parsed(url)
        self.name = self.url.render_as_string(hide_password=True)
        self._path: Path | None = None
        self._inode: tuple[int, int] | None = None
        if self.url.get_backend_name() == "sqlite":
            self._engine = self._sqlite()
            self._reader = self._engine.execution_options(sqlite_begin="BEGIN")
        else:
            self._engine = self._postgresql()
            self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ")
        try:
            if migrate:
                with self.writing("open") as connection:
                    _upgrade(connection, self.name)
            self._inode = _inode(self._path) if self._path else None
        except BaseException:
            self.close()
            raise

    @contextmanager
    def reading(self, what: str) -> Iterator[Connection]:
        """One transaction that sees one state of the database.  Database errors become StoreErrors."""
        with self._transaction(self._reader, what) as connection:
            yield connection

    @contextmanager
    def writing(self, what: str) -> Iterator[Connection]:
        """One transaction, kept when the block ends and undone when it raises.  Database errors become StoreErrors."""
        with self._transaction(self._engine, what) as connection:
            if self.guard is not None:
                self.guard(connection)
            yield connection

    @property
    def path(self) -> Path | None:
        """The SQLite file; None with PostgreSQL."""
        return self._path

    def is_current(self) -> bool:
        """Whether the tables are as this program knows them.  Raises StoreError, also when they are newer."""
        with self.reading("look at the tables") as connection:
            return _missing(connection, self.name) is None

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _transaction(self, engine: Engine, what: str) -> Iterator[Connection]:
        # SQLite goes on writing into a file that was deleted or replaced; all of that would be lost at the next start.
        if self._inode is not None and _inode(self._path) != self._inode:
            raise StoreError(f"cannot {what}: {self._path} was removed or replaced while in use; restart")
        with told(f"cannot {what} in {self.name}"), engine.begin() as connection:
            yield connection

    def _sqlite(self) -> Engine:
        if self.url.query:
            raise StoreError(f"{self.name}: options in a SQLite URL are not supported")
        if self.url.database and self.url.database != ":memory:":
            self._path = Path(self.url.database).absolute()
            _make_private(self._path)
        engine = create_engine(
            self.url,
            hide_parameters=True,  # errors are logged, and what people store is not for logs
            poolclass=StaticPool,
            connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS},
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _postgresql(self) -> Engine:
        # Without these, a network that swallows packets would hold a commit for a quarter of an hour.
        arguments = {
            "connect_timeout": NETWORK_SECONDS,
            "tcp_user_timeout": NETWORK_SECONDS * 1000,
            "keepalives_idle": NETWORK_SECONDS,
        }
        try:
            engine = create_engine(
                self.url,
                hide_parameters=True,
                poolclass=StaticPool,
                pool_pre_ping=True,  # a server that was restarted meanwhile is no reason to fail
                connect_args={k: v for k, v in arguments.items() if k not in self.url.query},
            )
        except ImportError as error:
            raise StoreError(
                f"no driver for PostgreSQL ({error}); install cloud-firewall[postgresql], "
                "with the extra named postgresql"
            ) from error
        event.listen(engine, "connect", _prepare_postgresql)
        return engine


@contextmanager
def told(what: str) -> Iterator[None]:
    """Database errors as StoreErrors: in the database's own words, without statements and their values."""
    try:
        yield
    except DBAPIError as error:
        raise StoreError(f"{what}: {'; '.join(str(error.orig).split(chr(10)))}") from error
    # ValueError and OverflowError: values that cannot be stored, found by the codec or by a driver.
    except (SQLAlchemyError, CommandError, ValueError, OverflowError, OSError) as error:
        raise StoreError(f"{what}: {error}") from error


def _parsed(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError:
        # The text is not repeated: it may hold a password.
        raise StoreError("the store's URL is not understood; write sqlite:////path or postgresql://host/name") from None
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg"):
        raise StoreError(f"the store cannot be in {url.drivername!r}; write sqlite:////path or postgresql://host/name")
    return url


def _make_private(path: Path) -> None:
    """Creates the file that is missing, for its owner alone: SQLite would take whatever the umask leaves."""
    if not path.parent.is_dir():
        raise StoreError(f"the directory {path.parent} of the store does not exist; create it")
    if path.is_dir():
        raise StoreError(f"{path} is a directory, not a file for the store")
    with told(f"cannot create the store {path}"):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            return
        # SQLite syncs the directory for files that it creates itself; this one it did not.
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _inode(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes late and not for all statements
    for pragma in (f"busy_timeout={BUSY_SECONDS * 1000}", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            # Two that open a new file at once: here alone SQLite does not heed its busy_timeout.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _prepare_postgresql(connection: Any, _record: object) -> None:
    for name, value in {"lock_timeout": f"{BUSY_SECONDS}s", **_SESSION}.items():
        connection.execute(f"SET {name} = '{value}'")
    connection.commit()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later can be refused half-way; IMMEDIATE waits for its turn at once.
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN IMMEDIATE"))


def _upgrade(connection: Connection, name: str) -> None:
    """Runs the migrations that are missing; refuses a database that a newer program has written."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
    config = _missing(connection, name)
    if config is not None:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _missing(connection: Connection, name: str) -> Config | None:
    """What leads to the migrations, when some are missing.  Raises StoreError when a newer program has run more."""
    config = Config()
    folder = resources.files("firewall_app.store") / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    newest = scripts.get_current_head()
    found = MigrationContext.configure(connection).get_current_heads()
    if not known.issuperset(found):
        raise StoreError(
            f"{name} has schema version {', '.join(found)}, this program knows up to {newest}: a newer program has "
            "written it. Run that program, or restore a backup from before its upgrade"
        )
    return None if found == (newest,) else config
