"""Tokens: who may do what.  Only hashes are kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from ..records import Entry, Token


class Role(Enum):
    OPERATOR = "operator"  # everything
    TENANT = "tenant"  # its account, on /v2
    VIEWER = "viewer"  # reads only


_ROLES = frozenset(role.value for role in Role)
_ACCOUNT = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def account(text: str) -> str:
    """The name of an account.  Raises ValueError."""
    if not _ACCOUNT.fullmatch(text):
        raise ValueError("must be an account: 1 to 64 letters, digits, '.', '_', ':', '-'")
    return text


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
    """The tokens in force: their digests, and whose they are.

    A token that is `barred` is refused whatever the store says: one that was revoked while the store could not be
    written to is still to be revoked there.
    """

    def __init__(self, tokens: Iterable[Token] = ()) -> None:
        self._granted: dict[str, Caller] = {}
        self._callers: dict[str, Caller] = {}
        self.tokens: dict[str, Token] = {}  # by id; revoked ones too
        self.barred: dict[str, Entry | None] = {}  # id -> the line that the audit log still lacks
        self.keep(tokens)

    def grant(self, secret: str, caller: Caller) -> None:
        """A token for as long as this process lives."""
        self._granted[digest(secret)] = caller

    def keep(self, tokens: Iterable[Token]) -> None:
        """The tokens that the store holds, revoked ones too, in place of those that it held."""
        self.tokens = {token.id: token for token in tokens}
        self._callers = {
            token.hash: Caller(Role(token.role), token.account, token.id, token.note)
            for token in self.tokens.values()
            if self.in_force(token)
        }

    def in_force(self, token: Token) -> bool:
        return token.revoked_at is None and token.id not in self.barred and token.role in _ROLES

    def bar(self, token: Token, entry: Entry | None) -> None:
        """Refuses a token from now on."""
        self.barred[token.id] = entry
        self._callers.pop(token.hash, None)

    def revoked(self, token_id: str, when: datetime) -> None:
        """The store knows that a token is revoked."""
        self.barred.pop(token_id, None)
        if token_id in self.tokens:
            self.tokens[token_id] = replace(self.tokens[token_id], revoked_at=when)

    def caller(self, secret: str) -> Caller | None:
        """Whose token this is; None when it is nobody's.  A lookup by digest leaks nothing by its timing."""
        found = digest(secret)
        return self._granted.get(found) or self._callers.get(found)

    def __len__(self) -> int:
        return len(self._granted) + len(self._callers)
