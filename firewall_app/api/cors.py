"""Cross-origin requests of browsers (https://fetch.spec.whatwg.org/#http-cors-protocol), for origins that are allowed.

Off unless origins are set.  No credentials but the token that a page holds itself: there are no cookies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ANY = "*"
EXPOSED = (
    "ETag, Preference-Applied, Retry-After, Warning, X-Change-Status, X-Request-Id, ratelimit-limit, "
    "ratelimit-remaining, ratelimit-reset, x-firewall-rules-unmatched, Idempotent-Replayed"
)
SENT = "Authorization, Content-Type, If-Match, If-None-Match, Prefer, Idempotency-Key"
SECONDS = "600"  # for which a browser may remember the answer to a preflight


def headers(environ: Mapping[str, Any], origins: Sequence[str]) -> dict[str, str]:
    """What any answer says to a page of an allowed origin; nothing for all others."""
    origin = environ.get("HTTP_ORIGIN")
    if not origin or not (ANY in origins or origin in origins):
        return {}
    allowed = ANY if ANY in origins else origin
    return {"Access-Control-Allow-Origin": allowed, "Access-Control-Expose-Headers": EXPOSED, "Vary": "Origin"}


def is_preflight(environ: Mapping[str, Any]) -> bool:
    return environ["REQUEST_METHOD"] == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ


def preflight(methods: Iterable[str]) -> dict[str, str]:
    """What may be sent to a path with these methods."""
    return {
        "Access-Control-Allow-Methods": ", ".join(sorted(methods)),
        "Access-Control-Allow-Headers": SENT,
        "Access-Control-Max-Age": SECONDS,
    }
