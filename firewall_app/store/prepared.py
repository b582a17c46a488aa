"""`Prepared`: a statement that SQLAlchemy writes, once, and that goes to the driver by itself from then on.

What SQLAlchemy does around one execution takes five times as long as SQLite needs for a small statement, and a commit
is a dozen of them.  So those of a commit are prepared; anything else is asked of SQLAlchemy itself.

Nothing is converted: there are only text and numbers (schema.py), which drivers take and give as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ClauseElement, Connection
from sqlalchemy.exc import DBAPIError

_NOTHING: Mapping[str, Any] = {}


class Prepared:
    """A statement whose parameters are named; for any connection."""

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement
        # By the name of a dialect: as its driver wants it, and the parameters in their order, None where they are named
        self._sent: dict[str, tuple[str, Sequence[str] | None]] = {}

    def rows(self, connection: Connection, values: Mapping[str, Any] = _NOTHING) -> list[tuple[Any, ...]]:
        """What the statement finds."""
        text, names = self._for(connection)
        return send(connection, text, _given(values, names))[0]

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Executes it with each of the rows; gives how many rows of the database that has concerned."""
        text, names = self._for(connection)
        if len(rows) == 1:
            return send(connection, text, _given(rows[0], names))[1]
        return send(connection, text, [_given(row, names) for row in rows], many=True)[1]

    def _for(self, connection: Connection) -> tuple[str, Sequence[str] | None]:
        dialect = connection.dialect
        found = self._sent.get(dialect.name)
        if found is None:
            compiled: Any = self._statement.compile(dialect=dialect)
            if any(value is not None for value in compiled.params.values()):
                raise ValueError(f"a value of its own is no parameter: {compiled}")
            found = self._sent[dialect.name] = str(compiled), compiled.positiontup
        return found


def send(connection: Connection, text: str, values: Any, many: bool = False) -> tuple[list[tuple[Any, ...]], int]:
    """What the driver finds, and how many rows that concerned.

    Its errors become SQLAlchemy's, and a connection that broke is given up.
    """
    driver: Any = connection.connection.dbapi_connection
    cursor = driver.cursor()
    try:
        (cursor.executemany if many else cursor.execute)(text, values)
        return cursor.fetchall() if cursor.description else [], cursor.rowcount  # SQLite goes on when it is fetched
    except connection.dialect.loaded_dbapi.Error as error:
        if connection.dialect.is_disconnect(error, driver, cursor):
            connection.invalidate(error)
        raise DBAPIError(text, None, error) from error


def _given(values: Mapping[str, Any], names: Sequence[str] | None) -> Any:
    return values if names is None else [values[name] for name in names]
