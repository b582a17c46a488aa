"""`Lease`: which one of the controllers that share a store may write.

Goals.  (1) One at a time: what a controller commits after another has taken the lease is refused, whether it has
noticed or not.  (2) No clock in that argument.  (3) The death of the one that has it gives it free at once.

Implementation.  A lock that the holder's death releases (SQLite: of a file beside the database; PostgreSQL: of a
session) says who may take the lease; a row says who has it.  Whoever gets the lock raises the row's token, and every
transaction that writes asks first whether the token is its own (`check`).  So the lock only has to be right most of the
time: a session that was cut, or a lock file that someone removed, lets another raise the token, and that decides.

The token only grows.  It begins at the seconds of 1970, and so is above any of a database that was lost.  It is the
generation with which a controller asks switches for the master role (docs/decisions/0027).
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple, Protocol

from sqlalchemy import Connection, select, text

from ..policy.errors import Standby
from . import schema
from .database import Database, check_place, told
from .prepared import Prepared

_LOCK = 0x6C656173  # any number that others are unlikely to use; the second one is the schema's, within the database
_TRY_LOCK = text(
    "SELECT pg_try_advisory_lock(:lock, CAST(CAST(CAST(current_schema() AS regnamespace) AS oid) AS int4))"
).bindparams(lock=_LOCK)
_HAS_LOCK = text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted "
    "AND classid = :lock AND objid = CAST(CAST(current_schema() AS regnamespace) AS oid) AND objsubid = 2"
).bindparams(lock=_LOCK)
_ASKED = select(schema.lease.c.token, schema.lease.c.process, schema.lease.c.url)
_ROW = Prepared(_ASKED)
_HELD_ROW = Prepared(_ASKED.with_for_update(read=True))  # nobody raises the token until we are done
_MINE = schema.lease.c.name == "active"


class Holder(NamedTuple):
    """Who has the lease: the token, the process, and where its REST API is."""

    token: int
    process: str
    url: str


class _Lock(Protocol):
    def held(self, connection: Connection | None) -> bool: ...

    def take(self, connection: Connection | None) -> bool: ...

    def close(self) -> None: ...


class Lease:
    """One process's part in the lease.  Synchronous; `take` and `close` by one caller at a time, the rest by any."""

    def __init__(self, url: str, address: str = "", clock: Callable[[], float] = time.time) -> None:
        """`address`: where others find this controller's REST API.  Raises StoreError."""
        self.token: int | None = None  # None: another has the lease, or nobody has it yet
        self.holder: Holder | None = None  # as it was seen last
        self._process = secrets.token_hex(8)
        self._address = address
        self._clock = clock
        self._url = url
        path = Database.file_of(url)
        self._lock: _Lock = _FileLock(path) if path is not None else _SessionLock()
        # The lock of a session is taken before there are tables; a file is opened once they are there.
        self._opened = Database(url, as_it_is=True, looks=False) if path is None else None
        self._locked = False

    @property
    def url(self) -> str:
        """Where the one is that has the lease; empty when that is not known."""
        return self.holder.url if self.holder is not None else ""

    def close(self) -> None:
        self.token = None
        self._lock.close()
        if self._opened is not None:
            self._opened.close()

    def lock(self) -> bool:
        """Takes the lock alone, before there are tables.  Raises StoreError."""
        with nullcontext() if self._opened is None else self._opened.reading("lock the lease") as connection:
            self._locked = self._lock.held(connection) or self._lock.take(connection)
        return self._locked

    def is_locked(self) -> bool:
        """Whether we had the lock when we looked last."""
        return self._locked

    @property
    def _database(self) -> Database:
        if self._opened is None:
            self._opened = Database(self._url, as_it_is=True)
        return self._opened

    def take(self) -> int | None:
        """Takes the lease if nobody has it; gives its token, None when another has it.

        Raises StoreError: nothing is known then, and what was true before is taken to be.
        """
        with self._database.reading("look at the lease") as connection:
            held, holder = self._lock.held(connection), _holder(connection)
            if held and self._is_ours(holder):
                return holder.token
            self._locked = held or self._lock.take(connection)
            if not self._locked:
                self.token, self.holder = None, holder
                return None
        # One transaction, hence one session: the token is raised with the lock, or not at all.
        with self._database.writing("take the lease") as connection:
            holder = _holder(connection, hold=True)
            if not self._lock.held(connection):
                self.token, self.holder = None, holder
                return None
            if not self._is_ours(holder):
                holder = Holder(max(int(self._clock()), holder.token + 1), self._process, self._address)
                _keep(connection, holder)
        self.token, self.holder = holder.token, holder
        return holder.token

    def check(self, connection: Connection) -> None:
        """Raises Standby unless the lease is ours until the end of the connection's transaction."""
        holder = _holder(connection, hold=True)
        if not self._is_ours(holder):
            raise Standby(holder.url)

    def _is_ours(self, holder: Holder) -> bool:
        return self.token is not None and (holder.token, holder.process) == (self.token, self._process)


def _holder(connection: Connection, hold: bool = False) -> Holder:
    with told("cannot read table lease"):
        rows = (_HELD_ROW if hold else _ROW).rows(connection)
    return Holder(*rows[0]) if rows else Holder(0, "", "")


def _keep(connection: Connection, holder: Holder) -> None:
    values = holder._asdict()
    if not connection.execute(schema.lease.update().where(_MINE).values(**values)).rowcount:
        connection.execute(schema.lease.insert().values(name="active", **values))


class _SessionLock:
    """Of the session of a PostgreSQL server; the end of the session gives it free."""

    def held(self, connection: Connection | None) -> bool:
        # Asked anew each time: the session may be another one, after one that broke.
        assert connection is not None  # noqa: S101 - it is of a session
        return bool(connection.execute(_HAS_LOCK).scalar_one())

    def take(self, connection: Connection | None) -> bool:
        assert connection is not None  # noqa: S101 - as above
        return bool(connection.execute(_TRY_LOCK).scalar_one())

    def close(self) -> None:
        """Ends with the session."""


class _FileLock:
    """Of a file beside the database; the end of the process gives it free.

    Not of the database's own file: SQLite locks that in another way, and loses those locks when anything closes it.
    """

    def __init__(self, database: Path) -> None:
        self._database = database.resolve()  # two controllers may name one database by different links
        self._path = self._database.with_name(self._database.name + "-lease")
        self._file: int | None = None

    def held(self, _: Connection | None) -> bool:
        return self._file is not None and self._is_at_path(self._file)

    def take(self, _: Connection | None) -> bool:
        self.close()
        check_place(self._database)
        with told(f"cannot lock {self._path}"):
            file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                return False
            except BaseException:
                os.close(file)
                raise
        self._file = file
        return self._is_at_path(file)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _is_at_path(self, file: int) -> bool:
        """Whether the locked file is the one that others would lock."""
        try:
            return os.path.samestat(os.fstat(file), self._path.stat())
        except FileNotFoundError:
            return False
