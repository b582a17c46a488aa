"""Tokens: made, listed, revoked.  What is said of them is in `access.py`."""

from __future__ import annotations

import secrets
from datetime import datetime

from ..policy.errors import Conflict, Invalid, NotFound
from ..records import Entry, Outcome, Token
from .access import Access, Role, digest
from .core import Core


def every(core: Core) -> list[Token]:
    """All tokens, revoked ones too, the oldest first."""
    return core.stored(core.store.tokens)


def find(core: Core, token_id: str) -> Token:
    """Raises NotFound."""
    found = next((token for token in every(core) if token.id == token_id), None)
    if found is None:
        raise NotFound(f"there is no token {token_id}")
    return found


def made(role: Role, account: str | None, note: str, now: datetime) -> tuple[Token, str]:
    """A new token and its secret, which nobody will see again.  Raises Invalid."""
    if role is Role.TENANT and account is None:
        raise Invalid.one("account", "is required for a tenant's token")
    if role is Role.OPERATOR and account is not None:
        raise Invalid.one("account", "an operator's token is for all accounts")
    secret = secrets.token_urlsafe(32)
    return Token(secrets.token_hex(8), digest(secret), role.value, account, note, now), secret


def create(core: Core, access: Access, role: Role, account: str | None, note: str) -> tuple[Token, str]:
    """Makes a token that is in force when this returns."""
    token, secret = made(role, account, note, core.runtime.now())
    with core.alone():
        entry = _entry(core, {"kind": "token", "id": token.id, "before": None, "after": told(token)})
        core.stored(lambda: core.store.add_token(token, entry))
        _noted(core)
        access.keep(every(core))
    return token, secret


def revoke(core: Core, access: Access, token_id: str) -> None:
    """From when this returns nobody can use the token.  One that is revoked already stays so.

    Raises NotFound; Conflict for the last operator's token, after which nobody could make another.
    """
    with core.alone():
        tokens = {token.id: token for token in every(core)}
        token = tokens.get(token_id)
        if token is None:
            raise NotFound(f"there is no token {token_id}")
        if token.revoked_at is None:
            others = [t for t in tokens.values() if t.revoked_at is None and t.id != token_id]
            if token.role == Role.OPERATOR.value and all(t.role != token.role for t in others):
                raise Conflict(f"{token_id} is the last operator's token; make another one first")
            entry = _entry(core, {"kind": "token", "id": token.id, "before": told(token), "after": None})
            core.stored(lambda: core.store.revoke_token(token_id, core.runtime.now(), entry))
            _noted(core)
        access.keep(every(core))


def told(token: Token) -> dict[str, object]:
    """What may be said of a token."""
    return {"id": token.id, "role": token.role, "account": token.account, "note": token.note}


def _entry(core: Core, change: dict[str, object]) -> Entry | None:
    deed = core.deed
    return deed.ended(Outcome.DONE, changes=(change,)) if deed is not None else None


def _noted(core: Core) -> None:
    if core.deed is not None:
        core.deed.noted = True
