"""Tokens: who may do what.  Only hashes are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    OPERATOR = "operator"  # everything
    TENANT = "tenant"  # its account, on /v2
    VIEWER = "viewer"  # reads only


@dataclass(frozen=True)
class Caller:
    """Who is asking.  `account` None: any."""

    role: Role
    account: str | None = None


def digest(secret: str) -> str:
    """What is kept of a token.  Tokens are 256 random bits, so a plain hash cannot be searched for."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Access:
    """The tokens in force: their digests, and whose they are."""

    def __init__(self, tokens: Iterable[tuple[str, Caller]] = ()) -> None:
        self._callers = dict(tokens)

    def grant(self, secret: str, caller: Caller) -> None:
        self._callers[digest(secret)] = caller

    def caller(self, secret: str) -> Caller | None:
        """Whose token this is; None when it is nobody's.  A lookup by digest leaks nothing by its timing."""
        return self._callers.get(digest(secret))

    def __len__(self) -> int:
        return len(self._callers)
