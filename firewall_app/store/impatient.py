"""Connections to PostgreSQL that do not wait for ever.

TCP notices a host that is gone.  It does not notice a server that takes a statement and never answers, because its
disk hangs or a proxy between has lost it; nor does PostgreSQL, whose own limits are kept by that server.
"""

from __future__ import annotations

from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

T = TypeVar("T")
ANSWER_SECONDS = 20  # for which one statement may be without an answer


class ImpatientConnection(psycopg.Connection[Any]):
    """A connection that breaks off when an answer takes too long; what became of the statement is then not known."""

    patience: float | None = ANSWER_SECONDS

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        try:
            return super().wait(gen, interval, self.patience if timeout is None else timeout)
        except psycopg.errors._WaitTimeout:
            self.pgconn.finish()
            raise psycopg.OperationalError(f"the server has not answered for {self.patience} s") from None
