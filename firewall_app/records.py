"""What is remembered beside the policy: tokens, the audit log, keys of requests that must not be done twice.

Plain values; who makes them and who keeps them is said elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum


@dataclass(frozen=True)
class Token:
    """A credential, by the hash of its secret; the secret itself is never stored."""

    id: str
    hash: str
    role: str
    account: str | None
    note: str
    created_at: datetime
    revoked_at: datetime | None = None


class Outcome(Enum):
    """What came of a request to change something."""

    DONE = "done"
    UNCHANGED = "unchanged"  # it was so already
    REFUSED = "refused"  # the request is at fault
    FAILED = "failed"  # this service is


@dataclass(frozen=True)
class Entry:
    """One line of the audit log: who asked for what, and what came of it."""

    at: datetime
    request_id: str
    token: str  # its id; empty for what no token stands behind
    who: str  # the token's note
    role: str
    account: str | None  # whose objects were meant, where that is known
    address: str  # where the request came from
    method: str
    path: str
    outcome: Outcome
    problem: str = ""
    changes: tuple[Mapping[str, object], ...] = ()  # each with kind, id, before and after
    number: int = 0  # its place in the log; 0 until it is kept
    text: str = field(default="", compare=False, repr=False)  # `changes` as JSON, where they were made so already


@dataclass(frozen=True)
class Key:
    """An `Idempotency-Key`: one caller's name for one request."""

    scope: str  # whose it is; two callers may use the same key
    key: str
    fingerprint: str  # of the request, since a key must not be used for another one
    at: datetime


@dataclass(frozen=True)
class Note:
    """What a commit keeps beside the change itself."""

    entry: Entry
    key: Key | None = None
    made: str = ""  # with `key`: the id of what the request made
