"""One request, start to end: request id, route, token, body, handler, answer.

A WSGI application: knows nothing of sockets and of who runs it.  Every answer is JSON or empty; what goes wrong inside
is logged with the request id that the caller got, and said to nobody.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, quote

from webob import Response

from .. import logs
from ..policy.errors import FirewallError, Invalid, Standby, SwitchError
from ..records import Entry, Outcome
from ..service.access import Access, Caller, Role, account
from ..service.core import Core
from ..service.deed import Deed
from ..settings import Settings
from . import (
    admin,
    bodies,
    cors,
    documentation,
    errors,
    explain,
    external,
    fences,
    openapi,
    preconditions,
    telling,
    v1,
    v2,
)
from .errors import BadRequest, Forbidden, HttpError, Unauthenticated
from .limits import FailedAttempts, RateLimits, is_address, plain_address
from .metrics import Metrics
from .routes import Call, Route, Routes
from .waits import Waits

LOG = logs.get(__name__)

LONGEST_WAIT = 60  # seconds that a client may ask us to wait for switches
MOST_QUERY_KEYS = 50
# A body is checked where it is, but a long one beside the loop: all other requests and the switches would wait.
LONG_BODY = 32 << 10  # bytes
MANY_VALUES = 1000  # commas, as good a measure: a short body of many faults takes long, too
WORD = re.compile(r"[\w.~+=-]{8,}", re.ASCII)  # what may be a token
READY = "/readyz"
LONGEST_PATH = LONGEST_PROBLEM = 4096  # characters that the audit log keeps

ROUTES = (*v1.ROUTES, *admin.ROUTES, *fences.ROUTES, *external.ROUTES, *explain.ROUTES, *v2.ROUTES)

Environ = dict[str, Any]
Wsgi = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def make_application(core: Core, access: Access, settings: Settings, metrics: Metrics | None = None) -> Wsgi:
    """The WSGI application of one controller process."""
    return _Application(core, access, settings, metrics or Metrics(core))


@dataclass
class _Request:
    """What is known of a request while it is answered, and what its answer says whatever it says."""

    environ: Environ
    id: str
    method: str
    path: str
    shown: str  # the path as logs have it: whoever takes a token for an id tells nobody
    address: str  # of the client
    route: str = ""  # the path of the route, when there is one
    caller: Caller | None = None
    secret: str = field(default="", repr=False)
    headers: dict[str, str] = field(default_factory=dict)


class _Application:
    def __init__(self, core: Core, access: Access, settings: Settings, metrics: Metrics) -> None:
        self._core = core
        self._metrics = metrics
        self._access = access
        self._settings = settings
        self._limits = RateLimits(settings.rate_limit, settings.rate_burst)
        self._waits = Waits(settings.max_connections)
        self._proxies = frozenset(map(plain_address, settings.trusted_proxies))
        self._attempts = FailedAttempts(settings.failed_attempts)
        routes = (*ROUTES, *metrics.routes(settings))
        self._routes = Routes((*routes, openapi.route(routes, settings), *documentation.ROUTES))

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        begun = time.monotonic()
        address = _address(environ, self._proxies)
        path = _path(environ)
        shown = WORD.sub(lambda word: "***" if self._access.caller(word[0]) else word[0], path)
        request = _Request(environ, str(uuid.uuid4()), environ["REQUEST_METHOD"], path, shown, address)
        try:
            response = self._answer(request)
            response.headers["x-request-id"] = request.id
        except Exception as error:  # noqa: BLE001,RUF100 - whatever it is, the caller gets JSON and no traceback
            response = _fault(error, request)
        _add_headers(response, request.headers)
        self._metrics.observe(request.route, request.method, response.status_code, time.monotonic() - begun)
        _log(request, response)
        return response(environ, start_response)

    def _answer(self, request: _Request) -> Response:
        environ, method, path = request.environ, request.method, request.path
        request.headers |= cors.headers(environ, self._settings.cors_origins)
        if request.headers and cors.is_preflight(environ):
            return self._preflight(request)
        try:
            route, parameters = self._routes.find(method, path)
        except HttpError:
            self._authenticate(request)  # what there is and what not is told to callers with a token
            raise
        request.route = route.path
        call = Call(self._core, self._access, self._settings, None, _url(environ), {}, self._waits, status=route.status)
        if not route.open:
            self._authenticate(request)
        if not route.writes:
            return self._handle(request, route, parameters, call)
        self._core.check_active()  # before anything: a standby cannot note in the audit log what it refuses
        call.deed = Deed(_entry(request, self._core.runtime.now()), authority=lambda: self._still(request))
        call.core = self._core.acting(call.deed)
        try:
            response = self._handle(request, route, parameters, call)
        except Exception as error:
            failed = errors.status(error)[0] >= 500
            call.core.record(Outcome.FAILED if failed else Outcome.REFUSED, _text(str(error), LONGEST_PROBLEM), error)
            raise
        call.core.record(Outcome.DONE)
        return response

    def _handle(self, request: _Request, route: Route, parameters: dict[str, str], call: Call) -> Response:
        environ = request.environ
        call.query = query = _query(environ)
        call.caller = caller = request.caller
        if caller is not None and not route.open:
            _authorize(caller, route)
            if route.compatible:
                call.account = _account(caller, query, self._settings)
        if call.deed.entry is not None and route.compatible:
            call.deed.entry = replace(call.deed.entry, account=call.account)
        if route.writes:
            call.patience, call.deed.keeps = _preferences(environ)
            call.deed.condition = preconditions.condition(environ, route, call, parameters)
        if route.body is not None:
            call.body = self._body(request, route, call)
            self._still(request)
        if route.writes and route.object is not None:
            call.meanwhile = lambda: preconditions.state(route, call.deed.after, call, parameters)
        before = call.core.policy
        found = route.handler(call, **parameters)
        if found is None:
            response = Response(status=call.status)
            response.headers.pop("Content-Type", None)
        elif isinstance(found, Response):
            response = found
        else:
            response = _answer(call.status, self._told(found))
        _add_headers(response, call.headers)
        if route.object is not None and "ETag" not in call.headers:
            preconditions.tag(response, route, call, parameters, call.deed.after if route.writes else before)
        return response

    def _told(self, found: object) -> bytes:
        if telling.is_heavy(found):
            return self._core.runtime.slow(lambda: telling.encode_in_parts(found))
        return telling.encode(found)

    def _body(self, request: _Request, route: Route, call: Call) -> object:
        limit = self._settings.max_body
        data = bodies.read(request.environ, limit)
        bodies.check_type(request.environ, route, data)
        if route.once:
            call.deed.key = preconditions.key(request.environ, call, request.path, data)
        most = limit // bodies.BYTES_FOR_A_VALUE
        if len(data) <= LONG_BODY and data.count(b",") <= MANY_VALUES:
            return bodies.parsed(data, route, most)
        return self._core.runtime.slow(lambda: bodies.parsed(data, route, most))

    def _authenticate(self, request: _Request) -> None:
        """Raises Unauthenticated, TooMany."""
        scheme, _, secret = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        caller = self._access.caller(secret.strip()) if scheme.lower() == "bearer" else None
        now = time.monotonic()
        if caller is None:
            left = self._attempts.add(request.address, now)
            LOG.warning(
                "no valid token", request=request.id, method=request.method, path=request.shown,
                address=request.address,
                note=None if left else "more of them are not logged for a minute",
            )  # fmt: skip
            raise Unauthenticated("a valid token is needed: Authorization: Bearer <token>")
        request.caller, request.secret = caller, secret.strip()
        if caller.role is not Role.OPERATOR:
            request.headers |= self._limits.use(caller.token or caller, now)

    def _still(self, request: _Request) -> None:
        """Whether the caller's token is in force still, after a wait.  Raises Unauthenticated."""
        if request.caller is not None and self._access.caller(request.secret) != request.caller:
            raise Unauthenticated("the token was revoked while the request was under way")

    def _preflight(self, request: _Request) -> Response:
        """What a browser asks before it lets a page of another origin send something (CORS)."""
        try:
            methods = self._routes.methods(request.path)
        except HttpError:
            methods = []
        response = Response(status=204)
        response.headers.pop("Content-Type", None)
        _add_headers(response, cors.preflight(methods))
        return response


def _entry(request: _Request, now: datetime) -> Entry:
    caller = request.caller
    assert caller is not None  # noqa: S101 - only callers with a token come to a route that writes
    return Entry(
        at=now,
        request_id=request.id,
        token=caller.token,
        who=caller.note,
        role=caller.role.value,
        account=caller.account,
        address=request.address,
        method=request.method,
        path=_text(request.shown, LONGEST_PATH),
        outcome=Outcome.FAILED,
    )


def _text(text: str, longest: int) -> str:
    """What callers have sent as PostgreSQL takes it, too: a line that it refuses would pass for a store that fails."""
    return text[:longest].replace("\0", "\ufffd")


def _log(request: _Request, response: Response) -> None:
    """One line for each request that changes something, and for each that fails; other reads with --verbose.

    A token that nobody has was logged when it was refused; what is refused unread after many of them is not, since
    whoever sends it could fill the log.  Nor is a 503 of `/readyz`, which load balancers ask each second.
    """
    reads, code = request.method in ("GET", "HEAD", "OPTIONS"), response.status_code
    level = logging.INFO if not reads or code >= 400 else logging.DEBUG
    if (code in (401, 429) and request.caller is None) or (code, request.route) == (503, READY):
        level = logging.DEBUG
    if LOG.isEnabledFor(level):
        caller = request.caller
        who = (caller.note or caller.token or caller.role.value) if caller is not None else None
        LOG.log(
            level, "answered", request=request.id, method=request.method, path=request.shown, status=code, actor=who,
            account=caller.account if caller is not None else None, address=request.address,
        )  # fmt: skip


# ---- who may


def _authorize(caller: Caller, route: Route) -> None:
    if caller.role is Role.VIEWER and route.writes:
        raise Forbidden("this token may only read")
    # What /v1 shows is of all accounts.
    if route.operators and caller.role is not Role.OPERATOR:
        raise Forbidden("this is for operators")
    if route.path.startswith("/v1/") and (caller.role is Role.TENANT or caller.account is not None):
        raise Forbidden("this token is for /v2 alone")


def _account(caller: Caller, query: dict[str, str], settings: Settings) -> str:
    """Whose objects a call on /v2 is about."""
    asked = query.get("account")
    if caller.account is not None:
        if asked not in (None, caller.account):
            raise Forbidden("this token is of another account")
        return caller.account
    if caller.role is Role.TENANT:
        raise Forbidden("this token has no account")
    try:
        return account(asked) if asked is not None else settings.default_account
    except ValueError as error:
        raise Invalid.one("account", str(error)) from None


# ---- what was sent


def _path(environ: Environ) -> str:
    """The path as text; WSGI passes bytes on in the guise of Latin-1."""
    raw: str = environ.get("PATH_INFO", "")
    return raw.encode("latin-1", "replace").decode("utf-8", "replace")


def _address(environ: Environ, proxies: Container[str]) -> str:
    """Where a request comes from: the last address that no proxy of ours has, as far as they tell addresses."""
    address = plain_address(str(environ.get("REMOTE_ADDR") or "") or "unix")
    for hop in reversed(environ.get("HTTP_X_FORWARDED_FOR", "").split(",")):
        if address not in proxies or not is_address(hop.strip()):
            break
        address = plain_address(hop.strip())
    return address


def _url(environ: Environ) -> str:
    """The URL as the client wrote it, less the query; a proxy that ends TLS, or cuts off a prefix, says so."""
    scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").partition(",")[0].strip().lower()  # the first of several proxies
    if scheme not in ("http", "https"):
        scheme = environ["wsgi.url_scheme"]
    host = environ.get("HTTP_HOST") or f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
    prefix = environ.get("HTTP_X_FORWARDED_PREFIX", "").rstrip("/")
    path = (prefix if prefix.startswith("/") else "") + environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return f"{scheme}://{host}{quote(path, safe='/:@', encoding='latin-1', errors='replace')}"


def _query(environ: Environ) -> dict[str, str]:
    try:
        pairs = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True, max_num_fields=MOST_QUERY_KEYS)
    except ValueError as error:
        raise BadRequest(f"query: {error}") from None
    return dict(pairs)


def _preferences(environ: Environ) -> tuple[int | None, bool]:
    """Seconds of `Prefer: wait=SECONDS`, and whether `keep-established` is there; others are ignored (RFC 7240)."""
    wait, keep = None, False
    for preference in environ.get("HTTP_PREFER", "").split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        if name == "wait" and wait is None and value.isascii() and value.isdigit():
            wait = min(int(value[:9]), LONGEST_WAIT)
        keep |= (name, value) == ("keep-established", "")
    return wait, keep


# ---- what is answered


def _fault(error: Exception, request: _Request) -> Response:
    method, path, request_id = request.method, request.path, request.id
    code, _ = errors.status(error)
    compatible, deletes = path.startswith("/v2/"), method == "DELETE"
    if code >= 500 and not isinstance(error, SwitchError | Standby):
        # What an error of ours has to say is in its words; where it came from matters for what nobody foresaw.
        trace = None if isinstance(error, FirewallError) else error
        LOG.error("request failed", request=request_id, method=method, path=request.shown, error=error, exc_info=trace)
    found = errors.body(error, request_id, compatible, deletes)
    if code == 400 and method == "POST" and path.rstrip("/") == "/v2/tags":
        # The public API has a shape of its own for this one case.
        found |= {"error": found["message"], "messages": None, "root_causes": []}
    response = _answer(code, telling.encode(found))
    if isinstance(error, HttpError):
        _add_headers(response, error.headers)
    if not errors.without_request_id(error, compatible, deletes):
        response.headers["x-request-id"] = request_id
    return response


def _add_headers(response: Response, headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        response.headers[name] = value


def _answer(code: int, body: bytes) -> Response:
    return Response(status=code, body=body, content_type="application/json")
