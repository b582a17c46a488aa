"""The operator's interface to the service itself: tokens, and the audit log."""

from __future__ import annotations

from datetime import UTC, datetime

from ..policy.errors import Fault, Invalid
from ..records import Entry, Outcome, Token
from ..service import tokens
from ..service.access import Role
from ..service.describe import moment
from . import schemas
from .paging import page, page_of
from .routes import Call, Route
from .telling import Told, weight_of_json


def list_tokens(call: Call) -> object:
    return page(call, "tokens", tokens.every(call.core), _token)


def get_token(call: Call, token_id: str) -> object:
    return _token(tokens.find(call.core, token_id))


def create_token(call: Call) -> object:
    """The secret is in this answer and nowhere else."""
    body: schemas.TokenBody = call.body
    token, secret = tokens.create(call.core, call.access, Role(body.role), body.account, body.note or "")
    return {**_token(token), "token": secret}


def revoke_token(call: Call, token_id: str) -> None:
    tokens.revoke(call.core, call.access, token_id)


def _token(token: Token) -> dict[str, object]:
    return {
        **tokens.told(token),
        "created_at": moment(token.created_at),
        "revoked_at": moment(token.revoked_at),
    }


# ---- audit log

_EXACT = ("account", "token", "request_id", "method", "path")


def list_audit(call: Call) -> object:
    """The newest first."""
    wanted = {name: call.query[name] for name in _EXACT if call.query.get(name)}
    faults = [Fault(name, "may not hold the character 0") for name, text in wanted.items() if "\0" in text]
    for name in ("since", "until"):
        if text := call.query.get(name):
            try:
                when = datetime.fromisoformat(text)
                when = (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC)
            except (ValueError, OverflowError):  # the first and the last day of the calendar, elsewhere
                faults.append(Fault(name, "must be a moment as 2026-01-02T03:04:05Z"))
                continue
            wanted[name] = when.isoformat(timespec="microseconds")
    if outcome := call.query.get("outcome"):
        if outcome not in (known.value for known in Outcome):
            faults.append(Fault("outcome", f"must be one of {', '.join(known.value for known in Outcome)}"))
        wanted["outcome"] = outcome
    if faults:
        raise Invalid(faults)

    def shown(entry: Entry) -> Told:
        return Told(weight_of_json(entry.changes), lambda: _audited(entry))

    return page_of(call, "entries", lambda first, count: call.core.entries(wanted, first, count), shown)


def _audited(entry: Entry) -> dict[str, object]:
    return {
        "id": entry.number,
        "at": moment(entry.at),
        "request_id": entry.request_id,
        "token": entry.token or None,
        "who": entry.who,
        "role": entry.role,
        "account": entry.account,
        "address": entry.address,
        "method": entry.method,
        "path": entry.path,
        "outcome": entry.outcome.value,
        "problem": entry.problem or None,
        "changes": list(entry.changes),
    }


_TOKEN = "/v1/tokens/{token_id}"  # noqa: S105 - a path

ROUTES = (
    Route("GET", "/v1/tokens", list_tokens, 200, operators=True),
    Route("POST", "/v1/tokens", create_token, 201, schemas.TokenBody, operators=True, settles=False),
    Route("GET", _TOKEN, get_token, 200, operators=True),
    Route("DELETE", _TOKEN, revoke_token, 204, operators=True, settles=False),
    Route("GET", "/v1/audit", list_audit, 200, operators=True),
)
