"""Which HTTP status each error becomes, and its body.  Nothing else decides on a status of 400 or more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from ..policy.errors import (
    Conflict,
    Crowded,
    Fault,
    FirewallError,
    Invalid,
    NotFound,
    Stale,
    Standby,
    StoreError,
    Unreachable,
)

# A body of one megabyte can hold a hundred thousand faults; nobody reads them, and the answer would be huge.
MOST_FAULTS = 1000
FAULTS_IN_MESSAGE = 3


class HttpError(Exception):
    """A request that is at fault as HTTP, before it comes to what it asks for."""

    headers: Mapping[str, str] = MappingProxyType({})


class BadBody(HttpError):
    """The body is no JSON."""


class BadRequest(HttpError):
    """The request cannot be understood."""


class Unauthenticated(HttpError):
    """No token, or one that nobody has."""

    headers: Mapping[str, str] = MappingProxyType({"WWW-Authenticate": "Bearer"})


class Forbidden(HttpError):
    """The token is somebody's who may not do this."""


class NoSuchPath(HttpError):
    """There is nothing at this path."""


class WrongMethod(HttpError):
    """The path has other methods."""

    def __init__(self, method: str, allowed: Iterable[str]) -> None:
        names = ", ".join(sorted(allowed))
        super().__init__(f"{method} is not possible here, only {names}")
        self.headers = {"Allow": names}


class TooSlow(HttpError):
    """The body did not arrive in time."""


class TooLarge(HttpError):
    """The body is larger than the limit."""


class NotJson(HttpError):
    """The body is declared to be something else than JSON."""


class TooMany(HttpError):
    """The caller asks too often."""

    def __init__(self, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.headers = headers


STATUS: dict[type[Exception], tuple[int, str]] = {
    BadBody: (400, "bad_request"),
    BadRequest: (400, "bad_request"),
    Unauthenticated: (401, "unauthorized"),
    Forbidden: (403, "forbidden"),
    NotFound: (404, "not_found"),
    NoSuchPath: (404, "not_found"),
    WrongMethod: (405, "method_not_allowed"),
    TooSlow: (408, "request_timeout"),
    Conflict: (409, "conflict"),
    Stale: (412, "precondition_failed"),
    TooLarge: (413, "payload_too_large"),
    NotJson: (415, "unsupported_media_type"),
    Invalid: (422, "unprocessable_entity"),
    Crowded: (422, "unprocessable_entity"),
    TooMany: (429, "too_many_requests"),
    Standby: (503, "standby"),
    StoreError: (503, "store_unavailable"),
    Unreachable: (503, "switch_unreachable"),
    Exception: (500, "server_error"),
}

# What clients of the public API have always been told; what exactly is wrong then stands in `errors`.
STOCK: dict[type[Exception], str] = {
    BadBody: "error parsing request body",
    Unauthenticated: "Unable to authenticate you.",
    Forbidden: "You are not authorized to perform this operation.",
}
# Of one fault in a body, how the public API tells of it: the text alone, and the place in `errors`.
KNOWN_FAULTS = (
    "You must specify a positive value for ports.",
    "you must specify a valid range for ports",
    "You specified an invalid type for one of the sources.",
    "You specified an invalid type for one of the destinations.",
    "invalid address",
)
STOCK_NOT_FOUND = "The resource you requested could not be found."


def status(error: Exception) -> tuple[int, str]:
    """(status, id) of an error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def body(error: Exception, request_id: str, compatible: bool, deletes: bool) -> dict[str, object]:
    """The JSON of an error.  `compatible`: on /v2; `deletes`: the request was a DELETE."""
    code, slug = status(error)
    faults = error.faults if isinstance(error, Invalid) else (Fault("", _reason(error, code)),)
    more = error.more if isinstance(error, Invalid) else 0
    message = STOCK.get(type(error)) or sentence(faults, more)
    if compatible and len(faults) == 1 and faults[0].problem.startswith(KNOWN_FAULTS):
        message = faults[0].problem
    if code == 404 and compatible:
        # terraform takes "404 Not Found" in the text of a failed DELETE for "it is gone already".
        message = f"Not Found. {STOCK_NOT_FOUND}" if deletes else STOCK_NOT_FOUND
    listed = [{"at": fault.at, "problem": fault.problem} for fault in faults[:MOST_FAULTS]]
    if unlisted := len(faults) + more - len(listed):
        listed.append({"at": "", "problem": f"and {unlisted} more"})
    found: dict[str, object] = {"id": slug, "message": message, "request_id": request_id, "errors": listed}
    if without_request_id(error, compatible, deletes):
        del found["request_id"]
    return found


def without_request_id(error: Exception, compatible: bool, deletes: bool) -> bool:
    """Whether the answer must not carry a request id: clients in Go would print it between "404" and "Not Found"."""
    return compatible and deletes and status(error)[0] == 404


def sentence(faults: tuple[Fault, ...], others: int = 0) -> str:
    """The first faults as one line; `others`: how many there are besides."""
    text = "; ".join(map(str, faults[:FAULTS_IN_MESSAGE]))
    more = len(faults) + others - FAULTS_IN_MESSAGE
    return f"{text}; and {more} more" if more > 0 else text


def _reason(error: Exception, code: int) -> str:
    """What a caller may read of an error.  Whatever is not meant for people stays in the log."""
    if isinstance(error, StoreError) and not isinstance(error, Standby):
        if error.may_be_kept:
            return "the store failed; look before you repeat this, it may have been kept"
        return "the store failed; nothing was changed"
    if isinstance(error, FirewallError | HttpError) or code < 500:
        return str(error)
    return "an error of this service; its log has it under this request id"
