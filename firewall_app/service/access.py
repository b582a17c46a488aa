"""Tokens: who may do what.  Only hashes are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from ..records import Token


class Role(Enum):
    OPERATOR = "operator"  # everything
    TENANT = "tenant"  # its account, on /v2
    VIEWER = "viewer"  # reads only


@dataclass(frozen=True)
class Caller:
    """Who is asking.  `account` None: any."""

    role: Role
    account: str | None = None
    token: str = ""  # the id of the token; empty for one that is in no store
    note: str = ""  # what was said about it when it was made


def digest(secret: str) -> str:
    """What is kept of a token.  Tokens are 256 random bits, so a plain hash cannot be searched for."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Access:
    """The tokens in force: their digests, and whose they are."""

    def __init__(self, tokens: Iterable[Token] = ()) -> None:
        self._granted: dict[str, Caller] = {}
        self._kept: dict[str, Caller] = {}
        self.keep(tokens)

    def grant(self, secret: str, caller: Caller) -> None:
        """A token for as long as this process lives."""
        self._granted[digest(secret)] = caller

    def keep(self, tokens: Iterable[Token]) -> None:
        """The tokens that the store holds, revoked ones too, in place of those that it held."""
        self._kept = {t.hash: Caller(Role(t.role), t.account, t.id, t.note) for t in tokens if t.revoked_at is None}

    def caller(self, secret: str) -> Caller | None:
        """Whose token this is; None when it is nobody's.  A lookup by digest leaks nothing by its timing."""
        found = digest(secret)
        return self._granted.get(found) or self._kept.get(found)

    def __len__(self) -> int:
        return len(self._granted) + len(self._kept)
