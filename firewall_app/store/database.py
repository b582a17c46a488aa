"""Opening a database by its URL, bringing its tables up to date, and telling its errors in our words.

SQLite and PostgreSQL, over one connection that stays open (opening one costs more than a commit).  Any thread may use
it, two at a time may not.  A database that was away is found again, and looked at as at the start: it may be another
one.  What is in the tables is no business of this module.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, StaticPool, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from .. import logs
from ..policy.errors import StoreError
from . import schema
from .prepared import send

if TYPE_CHECKING:
    from .impatient import ImpatientConnection

LOG = logs.get(__name__)
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
APPLICATION = "cloud-firewall"  # how a PostgreSQL server knows our connections

# One lock per database for those that start at the same time; the number is any that others are unlikely to use.
_MIGRATION_LOCK = 0x636C6F7564_6677


class Unprepared(StoreError):
    """There are no tables, or older ones than this program needs, and they may not be made or upgraded now."""


class Database:
    """An open database with tables as this program knows them."""

    guard: Callable[[Connection], None] | None = None  # asked first in every transaction that writes
    may_upgrade: Callable[[], bool] | None = None  # whether tables may be upgraded now; None: by `as_it_is`

    def __init__(
        self,
        url: str | URL,
        as_it_is: bool = False,
        before: Callable[[Connection], None] | None = None,
        looks: bool = True,
    ) -> None:
        """Opens, creates or upgrades; with `as_it_is` opens only what needs neither.  Raises StoreError.

        `before` is called before anything is created or upgraded, and may raise StoreError.  Without `looks` there may
        be any tables or none; with PostgreSQL alone.
        """
        self.url = _parsed(url)
        self.name = self.url.set(query={}).render_as_string(hide_password=True)  # a query may hold a password, too
        self.path: Path | None = None  # of a SQLite file
        self._files: _Files | None = None  # those of SQLite that are in use
        self.is_new = False  # whether its tables were made when it was opened
        self._opened: tuple[int, int] | None = None  # the file of the connection
        self._unseen = True  # whether the connection is a new one, and nobody has looked at what is there
        if self.url.get_backend_name() == "sqlite":
            self._engine = self._sqlite(as_it_is)
            self._reader = self._engine.execution_options(sqlite_begin="BEGIN")
        else:
            self._engine = self._postgresql()
            self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ")
        event.listen(self._engine, "connect", self._connected)
        self._creates = self._upgrades = not as_it_is
        self._before = before
        self._looks = looks
        try:
            with self.reading("open") if as_it_is or not looks else self.writing("open"):
                pass
        except BaseException:
            self.close()
            raise

    @staticmethod
    def file_of(url: str) -> Path | None:
        """Where a SQLite database is; None for others."""
        parsed = _parsed(url)
        return Path(parsed.database or "").absolute() if parsed.get_backend_name() == "sqlite" else None

    @contextmanager
    def reading(self, what: str) -> Iterator[Connection]:
        """One transaction that sees one state of the database.  Database errors become StoreErrors."""
        with self._transaction(self._reader, what) as connection:
            yield connection

    @contextmanager
    def writing(self, what: str) -> Iterator[Connection]:
        """One transaction, kept when the block ends and undone when it raises.  Database errors become StoreErrors.

        Of one that fails in its very end nobody knows whether it was kept, unless the disk had no room for it.
        """
        ends = False
        try:
            with self._transaction(self._engine, what) as connection:
                if self.guard is not None:
                    self.guard(connection)
                yield connection
                ends = True
        except StoreError as error:
            error.may_be_kept = ends and not _is_full(error)
            raise

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _transaction(self, engine: Engine, what: str) -> Iterator[Connection]:
        with told(f"cannot {what} in {self.name}"):
            self._find_again()
            with engine.connect() as connection:
                if self._unseen and self._looks:
                    self._look(connection)
                with connection.begin():
                    yield connection

    def _connected(self, *_: object) -> None:
        self._unseen = True

    def _look(self, connection: Connection) -> None:
        """Whether this is a sound database of this program, or of one before it.  Only the first time it may be new."""
        with connection.begin():
            if connection.dialect.name == "sqlite":
                _check_pages(connection)
            if self._before is not None:
                self._before(connection)
            upgrades = self._upgrades if self.may_upgrade is None else self.may_upgrade()
            self.is_new |= _upgrade(connection, self.name, self._creates, upgrades)
        if self.path is not None:
            files = _Files.of(self.path)
            if files.database != self._opened:
                raise StoreError(f"{self.path} was replaced while it was opened")
            self._files = files
        self._creates = self._unseen = False

    def _find_again(self) -> None:
        """SQLite goes on with files that were deleted or replaced: what it writes would be lost at the next start."""
        if self.path is None or self._creates:
            return
        found = _Files.of(self.path)
        if found.database is None or not self.path.stat().st_size:
            # Never made anew: an empty policy would be taken for the policy.
            raise Unprepared(f"{self.path} is not there, or empty; put it back, or restore a backup")
        if self._files is None:
            self._engine.dispose()  # what was opened last was no store, and may stand no longer where it stood
            return
        if found == self._files:
            return
        if found.database == self._files.database:
            raise StoreError(f"{self.path}-wal was removed while in use; a restart writes what it held")
        LOG.warning("the store was replaced while in use: it is opened again", file=self.path)
        self._files.leave(self.path)
        self._engine.dispose()
        self._files = None

    def _sqlite(self, as_it_is: bool) -> Engine:
        if self.url.query:
            raise StoreError(f"{self.name}: options in a SQLite URL are not supported")
        name = ":memory:"
        if self.url.database and self.url.database != ":memory:":
            self.path = Path(self.url.database).absolute()
            if not as_it_is:
                _make_private(self.path)
            name = f"{self.path.as_uri()}?mode=rw"  # never creates it

        def connect() -> sqlite3.Connection:
            self._opened = _inode(self.path) if self.path is not None else None
            return sqlite3.connect(name, BUSY_SECONDS, check_same_thread=False, uri=True)

        engine = create_engine(
            self.url,
            creator=connect,
            hide_parameters=True,  # errors are logged, and what people store is not for logs
            poolclass=StaticPool,
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _postgresql(self) -> Engine:
        # Without these, a network that swallows packets would hold a commit for a quarter of an hour.
        arguments: dict[str, object] = {
            "connect_timeout": NETWORK_SECONDS,
            "tcp_user_timeout": NETWORK_SECONDS * 1000,
            "keepalives_idle": NETWORK_SECONDS,
            "keepalives_interval": 1,
            "application_name": APPLICATION,
        }
        try:
            engine = create_engine(
                self.url,
                hide_parameters=True,
                poolclass=StaticPool,
                pool_pre_ping=True,  # a server that was restarted meanwhile is no reason to fail
                connect_args={k: v for k, v in arguments.items() if k not in self.url.query},
            )
            from .impatient import ImpatientConnection
        except ImportError as error:
            raise StoreError(
                f"no driver for PostgreSQL ({error}); install cloud-firewall[postgresql], "
                "with the extra named postgresql"
            ) from error

        def connect(_dialect: object, _record: object, words: Any, named: Any) -> ImpatientConnection:
            return ImpatientConnection.connect(*words, **named)

        event.listen(engine, "do_connect", connect)
        event.listen(engine, "connect", _prepare_postgresql)
        return engine


def beside(path: Path) -> tuple[Path, Path]:
    """SQLite's write-ahead log of a database, and the index of that."""
    return Path(f"{path}-wal"), Path(f"{path}-shm")


@dataclass(frozen=True)
class _Files:
    """Which files SQLite has open, by device and inode; None: there is none."""

    database: tuple[int, int] | None
    log: tuple[int, int] | None
    index: tuple[int, int] | None

    @classmethod
    def of(cls, path: Path) -> _Files:
        name = str(path)  # asked before every transaction: not by way of `beside`, which takes longer than the asking
        return cls(_inode(name), _inode(f"{name}-wal"), _inode(f"{name}-shm"))

    def leave(self, path: Path) -> None:
        """Parts the database that stands at `path` now from what the former one left there.

        SQLite would take the former one's log for the new one's, and write it over it.
        """
        found, (log, index) = _Files.of(path), beside(path)
        if found.log is not None and found.log == self.log:
            aside = log.with_name(f"{log.name}.{time.strftime('%Y%m%dT%H%M%S')}")
            log.rename(aside)
            LOG.warning("the write-ahead log of the former database is kept", file=aside)
        if found.index is not None and found.index == self.index:
            index.unlink()


@contextmanager
def told(what: str) -> Iterator[None]:
    """Database errors as StoreErrors: in the database's own words, without statements and their values."""
    try:
        yield
    except DBAPIError as error:
        raise StoreError(f"{what}: {'; '.join(str(error.orig).split(chr(10)))}") from error
    # ValueError and OverflowError: values that cannot be stored, found by the codec or by a driver.
    except (SQLAlchemyError, ValueError, OverflowError, OSError) as error:
        raise StoreError(f"{what}: {error}") from error


def _is_full(error: StoreError) -> bool:
    """Whether SQLite has found no room: what it could not write whole counts for nothing when it is read."""
    found = getattr(getattr(error.__cause__, "orig", None), "sqlite_errorcode", None)
    return found == sqlite3.SQLITE_FULL


def _parsed(text: str | URL) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # The text is not repeated: it may hold a password.
        raise StoreError("the store's URL is not understood; write sqlite:////path or postgresql://host/name") from None
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg"):
        raise StoreError(f"the store cannot be in {url.drivername!r}; write sqlite:////path or postgresql://host/name")
    return url


def check_place(path: Path) -> None:
    """Raises StoreError when a SQLite file cannot be there."""
    with told(f"cannot look for the store {path}"):
        if not path.parent.is_dir():
            raise StoreError(f"the directory {path.parent} of the store does not exist; create it")
        if path.is_dir():
            raise StoreError(f"{path} is a directory, not a file for the store")


def _make_private(path: Path) -> None:
    """Creates the file that is missing, for its owner alone: SQLite would take whatever the umask leaves."""
    check_place(path)
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


def _inode(path: str | Path) -> tuple[int, int] | None:
    """Raises OSError when it cannot be said: who may not look at a file must not be told that there is none."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
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
    send(connection, connection.get_execution_options().get("sqlite_begin", "BEGIN IMMEDIATE"), ())


def _check_pages(connection: Connection) -> None:
    """Raises StoreError when pages of SQLite's file are damaged.  Not those of the audit log, which may be large."""
    there = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())
    for table in schema.metadata.sorted_tables:
        if table.name in there and table is not schema.audit:
            said = connection.exec_driver_sql(f"PRAGMA quick_check({table.name})").scalar()
            if said != "ok":
                raise StoreError(f"table {table.name} is damaged: {said}")


def _upgrade(connection: Connection, name: str, creates: bool, upgrades: bool) -> bool:
    """Runs the migrations that are missing; refuses a database that a newer program has written, or nobody.

    Returns whether it was empty.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
    found = _versions(connection)
    if found == {schema.VERSION}:
        return False  # as nearly always; Alembic alone takes a tenth of the time that the program needs to start
    from .upgrade import upgrade, versions

    if not found and not creates:
        raise Unprepared(f"{name} is empty or not of this program; restore a backup")
    there = ", ".join(sorted(found))
    if not found.issubset(versions()):
        raise StoreError(
            f"{name} has schema version {there}, this program knows up to {schema.VERSION}: a newer program has "
            "written it. Run that program, or restore a backup from before its upgrade"
        )
    if not upgrades:
        raise Unprepared(f"{name} has schema version {there}, this program {schema.VERSION}: an older one wrote it")
    if connection.dialect.name == "postgresql":
        _driver(connection).patience = None  # moving many rows may take long
    upgrade(connection)
    if connection.dialect.name == "postgresql":
        del _driver(connection).patience
    return not found


def _versions(connection: Connection) -> set[str]:
    """Which versions of the tables there are, in Alembic's own table: one, or none in a new database."""
    if not inspect(connection).has_table("alembic_version"):
        return set()
    return set(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars())


def _driver(connection: Connection) -> Any:
    return connection.connection.dbapi_connection
