"""Tokens: made, listed, revoked.  What is said of them is in `access.py`."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from functools import partial

from ..policy.errors import Conflict, Invalid, NotFound, StoreError
from ..records import Outcome, Token
from . import access as accesses
from .access import Access, Role, digest
from .core import Core
from .deed import Deed

LONGEST_NOTE = 255


def every(core: Core) -> list[Token]:
    """All tokens, revoked ones too, the oldest first."""
    return core.stored(core.store.tokens)


def find(core: Core, token_id: str) -> Token:
    """Raises NotFound."""
    return _named(every(core), token_id)


def made(role: Role, account: str | None, note: str, now: datetime) -> tuple[Token, str]:
    """A new token and its secret, which nobody will see again.  Raises Invalid."""
    if role is Role.TENANT and account is None:
        raise Invalid.one("account", "is required for a tenant's token")
    if role is Role.OPERATOR and account is not None:
        raise Invalid.one("account", "an operator's token is for all accounts")
    if account is not None:
        try:
            accesses.account(account)
        except ValueError as error:
            raise Invalid.one("account", str(error)) from None
    if len(note) > LONGEST_NOTE or not note.isprintable():
        raise Invalid.one("note", f"must be at most {LONGEST_NOTE} printable characters")
    secret = secrets.token_urlsafe(32)
    return Token(secrets.token_hex(8), digest(secret), role.value, account, note, now), secret


def revocable(tokens: Iterable[Token], token_id: str) -> Token:
    """The token with an id.  Raises NotFound; Conflict for the last operator's, after which nobody could make another.

    `tokens`: those in force, and whatever else there is, marked as revoked.
    """
    known = list(tokens)
    token = _named(known, token_id)
    others = (t for t in known if t.revoked_at is None and t.id != token_id)
    if token.revoked_at is None and token.role == Role.OPERATOR.value and all(t.role != token.role for t in others):
        raise Conflict(f"{token_id} is the last operator's token; make another one first")
    return token


def create(core: Core, access: Access, role: Role, account: str | None, note: str) -> tuple[Token, str]:
    """Makes a token that is in force when this returns."""
    token, secret = made(role, account, note, core.runtime.now())
    with core.alone() as deed:
        entry = deed.ended(Outcome.DONE, changes=(change(None, token),), account=token.account)
        core.keep(deed, partial(core.store.add_token, token), entry)
        access.keep([*access.tokens.values(), token])
    return token, secret


def revoke(core: Core, access: Access, token_id: str) -> None:
    """From when this returns or raises StoreError nobody can use the token.  One that is revoked already stays so.

    What the store cannot take now `settle` tries again.  Raises NotFound, Conflict.
    """
    deed = core.deed or Deed()
    if token_id not in access.tokens:  # a command may just have made it
        with core.alone():  # or what is read could be older than what another has just revoked
            access.keep(every(core))
    if deed.authority is not None:
        deed.authority()
    if token_id in access.barred:
        raise StoreError(f"token {token_id} is refused already; the store could not be told yet", may_be_kept=True)
    token = revocable((t for t in access.tokens.values() if t.id not in access.barred), token_id)
    if token.revoked_at is not None:
        return
    entry = deed.ended(Outcome.DONE, changes=(change(token, None),), account=token.account)
    access.bar(token, entry)  # before anything that may have to wait, or fail
    deed.authority = None  # it may be the caller's own
    try:
        with core.alone():
            if token_id in access.barred:  # else it was settled meanwhile
                core.keep(deed, partial(core.store.revoke_token, token.id, core.runtime.now()), entry)
                access.revoked(token.id, core.runtime.now())
            deed.noted = True
    except StoreError as error:
        error.may_be_kept = True
        raise


def settle(core: Core, access: Access) -> None:
    """Revokes in the store what it could not take when it was asked to.  Raises StoreError when it still cannot."""
    for token_id in list(access.barred):
        with core.alone(), suppress(NotFound):
            if token_id in access.barred:
                now = core.runtime.now()
                core.stored(partial(core.store.revoke_token, token_id, now, access.barred[token_id]), writes=True)
                access.revoked(token_id, now)


def change(before: Token | None, after: Token | None) -> dict[str, object]:
    """What the audit log says of a token that was made or revoked."""
    token = after or before
    return {
        "kind": "token",
        "id": token.id if token is not None else "",
        "before": told(before) if before is not None else None,
        "after": told(after) if after is not None else None,
    }


def told(token: Token) -> dict[str, object]:
    """What may be said of a token."""
    return {"id": token.id, "role": token.role, "account": token.account, "note": token.note}


def _named(tokens: Iterable[Token], token_id: str) -> Token:
    found = next((token for token in tokens if token.id == token_id), None)
    if found is None:
        raise NotFound(f"there is no token {token_id}")
    return found
