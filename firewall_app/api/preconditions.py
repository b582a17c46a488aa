"""Writes that count only for what their caller has seen, and only once: If-Match, If-None-Match, Idempotency-Key.

RFC 9110 section 13, and draft-ietf-httpapi-idempotency-key-header.  An entity tag stands for what was written of an
object; how far switches have come with it is left out, so that waiting for them does not make a tag stale.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from webob import Response

from ..policy.errors import NotFound, Stale
from ..policy.policy import Policy
from ..records import Key
from ..service import describe
from .errors import BadRequest
from .routes import Call, Route

Condition = Callable[[Policy], None]
_TAGS = re.compile(r'\s*(\*|(?:W/)?"[^"\x00-\x20\x7f]*"(?:\s*,\s*(?:W/)?"[^"\x00-\x20\x7f]*")*)\s*')
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def condition(environ: Mapping[str, Any], route: Route, call: Call, parameters: Mapping[str, str]) -> Condition | None:
    """What must be true of the policy when the write is made.  Raises BadRequest."""
    wanted = _header(environ, "HTTP_IF_MATCH", "If-Match")
    unwanted = _header(environ, "HTTP_IF_NONE_MATCH", "If-None-Match")
    if wanted is None and unwanted is None:
        return None
    if route.object is None:
        raise BadRequest("nothing here has an entity tag, so If-Match and If-None-Match mean nothing")

    def check(policy: Policy) -> None:
        now = state(route, policy, call, parameters)
        if wanted is not None and (now is None if "*" in wanted else now not in wanted):
            there = f"it is {now} now" if now is not None else "it does not exist"
            raise Stale(f"If-Match: the object is not as you have seen it; {there}")
        if unwanted is not None and now is not None and ("*" in unwanted or now in unwanted):
            raise Stale(f"If-None-Match: the object exists; it is {now}")

    return check


def tag(response: Response, route: Route, call: Call, parameters: Mapping[str, str], policy: Policy | None) -> None:
    """Says in an answer which state of the object it is about; `policy` is the one in which it was so."""
    found = state(route, policy, call, parameters)
    if found is not None:
        response.headers["ETag"] = found


def key(environ: Mapping[str, Any], call: Call, path: str, body: bytes) -> Key | None:
    """The caller's name for a request that must not be done twice.  Raises BadRequest."""
    text = environ.get("HTTP_IDEMPOTENCY_KEY")
    if text is None:
        return None
    text = text.strip().strip('"')  # the draft has it quoted, many clients send it bare
    if not _KEY.fullmatch(text):
        raise BadRequest("Idempotency-Key must be 1 to 255 printable ASCII characters without spaces")
    caller = call.caller
    scope = f"{caller.token or caller.role.value if caller else ''} {call.account}"
    fingerprint = hashlib.sha256(path.rstrip("/").encode() + b"\0" + body).hexdigest()
    return Key(scope, text, fingerprint, call.core.runtime.now())


def _header(environ: Mapping[str, Any], name: str, shown: str) -> frozenset[str] | None:
    text = environ.get(name)
    if text is None:
        return None
    if not _TAGS.fullmatch(text):
        raise BadRequest(f'{shown} must be * or entity tags in quotes, as "0123abcd"')
    return frozenset(part.strip() for part in text.split(","))


def state(route: Route, policy: Policy | None, call: Call, parameters: Mapping[str, str]) -> str | None:
    """The entity tag of the object at a path in a policy; None when there is none.  It is made once."""
    if policy is None:
        return None
    assert route.object is not None  # noqa: S101 - the callers have looked
    try:
        return describe.etag(route.object(policy, call, **parameters))
    except NotFound:
        return None
