"""One request, start to end: request id, route, token, body, handler, answer.

A WSGI application: knows nothing of sockets and of who runs it.  Every answer is JSON or empty; what goes wrong inside
is logged with the request id that the caller got, and said to nobody.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote

from webob import Response

from ..policy.errors import Invalid, SwitchError
from ..service.access import Access, Caller, Role
from ..service.core import Core
from ..settings import Settings
from . import errors, external, openapi, schemas, v1, v2
from .errors import BadBody, BadRequest, Forbidden, HttpError, TooLarge, TooSlow, Unauthenticated
from .routes import Call, Route, Routes

LOG = logging.getLogger(__name__)

LONGEST_WAIT = 60  # seconds that a client may ask us to wait for switches
MOST_QUERY_KEYS = 50
DEEPEST_BODY = 32  # nested lists and objects; the deepest that means anything here has 6
# A body is checked where it is, but a long one beside the loop: all other requests and the switches would wait.
LONG_BODY = 32 << 10  # bytes
BYTES_FOR_A_VALUE = 10  # an address in quotes is longer; shorter values are numbers in the hundred thousands

Environ = dict[str, Any]
Wsgi = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def make_application(core: Core, access: Access, settings: Settings) -> Wsgi:
    """The WSGI application of one controller process."""
    return _Application(core, access, settings)


class _Application:
    def __init__(self, core: Core, access: Access, settings: Settings) -> None:
        self._core = core
        self._access = access
        self._settings = settings
        routes = (*v1.ROUTES, *external.ROUTES, *v2.ROUTES)
        described = openapi.document(routes)
        self._routes = Routes((*routes, Route("GET", "/openapi.json", lambda _: described, 200)))

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        request_id = str(uuid.uuid4())
        method, path = environ["REQUEST_METHOD"], _path(environ)
        try:
            response = self._answer(environ, method, path)
            response.headers["x-request-id"] = request_id
        except Exception as error:  # noqa: BLE001,RUF100 - whatever it is, the caller gets JSON and no traceback
            response = _fault(error, method, path, request_id)
        if method not in ("GET", "HEAD"):
            LOG.debug("%s %s %r: %d", request_id, method, path, response.status_code)
        return response(environ, start_response)

    def _answer(self, environ: Environ, method: str, path: str) -> Response:
        try:
            route, parameters = self._routes.find(method, path)
        except HttpError:
            self._caller(environ)  # what there is and what not is told to callers with a token
            raise
        query = _query(environ)
        call = Call(self._core, self._settings, None, _url(environ), query, status=route.status)
        if not route.open:
            call.caller = caller = self._caller(environ)
            _authorize(caller, route)
            if route.compatible:
                call.account = _account(caller, query, self._settings)
        if route.method != "GET":
            call.prefer(*_preferences(environ))
        if route.body is not None:
            call.body = self._body(environ, route)
        found = route.handler(call, **parameters)
        if found is None:
            response = Response(status=call.status)
            response.headers.pop("Content-Type", None)
        else:
            response = _json(call.status, found)
        _add_headers(response, call.headers)
        return response

    def _body(self, environ: Environ, route: Route) -> object:
        limit = self._settings.max_body
        data = _read(environ, limit)
        most = limit // BYTES_FOR_A_VALUE
        if len(data) <= LONG_BODY:
            return _body(data, route, most)
        return self._core.runtime.slow(lambda: _body(data, route, most))

    def _caller(self, environ: Environ) -> Caller:
        scheme, _, secret = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        caller = self._access.caller(secret.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            raise Unauthenticated("a valid token is needed: Authorization: Bearer <token>")
        return caller


# ---- who may


def _authorize(caller: Caller, route: Route) -> None:
    if caller.role is Role.VIEWER and route.method != "GET":
        raise Forbidden("this token may only read")
    # What /v1 shows is of all accounts.
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
        return schemas.account(asked) if asked is not None else settings.default_account
    except ValueError as error:
        raise Invalid.one("account", str(error)) from None


# ---- what was sent


def _path(environ: Environ) -> str:
    """The path as text; WSGI passes bytes on in the guise of Latin-1."""
    raw: str = environ.get("PATH_INFO", "")
    return raw.encode("latin-1", "replace").decode("utf-8", "replace")


def _url(environ: Environ) -> str:
    """The URL as the client wrote it, less the query; a proxy that ends TLS says so."""
    scheme = environ.get("HTTP_X_FORWARDED_PROTO", "")
    if scheme not in ("http", "https"):
        scheme = environ["wsgi.url_scheme"]
    host = environ.get("HTTP_HOST") or f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
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


def _body(data: bytes, route: Route, most: int) -> object:
    """The body, checked; None when there is none and the route means something by that."""
    assert route.body is not None  # noqa: S101 - the caller has looked
    if not data.strip():
        if route.body_optional:
            return None
        if route.method != "DELETE":
            raise BadBody("the body is empty")
        data = b"{}"
    return schemas.parse(route.body, _parse(data, most))


def _read(environ: Environ, limit: int) -> bytes:
    """Never more than the limit; what says that it is larger is not read at all."""
    declared = environ.get("CONTENT_LENGTH") or ""
    chunked = environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked"
    if declared and not (declared.isascii() and declared.isdigit()):
        raise BadRequest("Content-Length is no number")
    if len(declared.lstrip("0")) > len(str(limit)) or int(declared or 0) > limit:
        raise TooLarge(f"the body is longer than {limit} bytes, which is what is allowed")
    try:
        data: bytes = environ["wsgi.input"].read(int(declared) if declared else limit + 1 if chunked else 0)
    except TimeoutError:
        raise TooSlow("the body did not arrive in time") from None
    except (OSError, ValueError) as error:
        raise BadRequest(f"the body cannot be read: {error}") from None
    if len(data) > limit:
        raise TooLarge(f"the body is longer than {limit} bytes, which is what is allowed")
    if declared and len(data) < int(declared):
        raise BadRequest(f"the body ends after {len(data)} of {declared} bytes")
    return data


def _parse(data: bytes, most: int) -> object:
    """JSON as RFC 8259 has it, and unambiguous: no key twice, no NaN, no text that cannot be stored."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_members, parse_constant=_no_number)
        _check_values(value, most)
    except (ValueError, RecursionError) as error:
        raise BadBody(str(error)) from None
    return value


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_number(text: str) -> object:
    raise ValueError(f"{text} is no number in JSON")


def _check_values(value: object, most: int) -> None:
    level, depth, count = [value], 0, 0
    while level:
        count += len(level)
        if count > most:
            raise ValueError(f"more than {most} values")
        if depth > DEEPEST_BODY:
            raise ValueError(f"nested deeper than {DEEPEST_BODY}")
        below: list[object] = []
        for item in level:
            if isinstance(item, str):
                _storable(item)
            elif isinstance(item, dict):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                below += item
        level, depth = below, depth + 1


def _storable(text: str) -> None:
    if "\0" in text or not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("half a surrogate pair is no text") from None
        if "\0" in text:
            raise ValueError("text may not hold the character 0")


# ---- what is answered


def _fault(error: Exception, method: str, path: str, request_id: str) -> Response:
    code, _ = errors.status(error)
    compatible, deletes = path.startswith("/v2/"), method == "DELETE"
    if code >= 500 and not isinstance(error, SwitchError):
        LOG.error("%s %s %r failed", request_id, method, path, exc_info=error)
    found = errors.body(error, request_id, compatible, deletes)
    if code == 400 and method == "POST" and path.rstrip("/") == "/v2/tags":
        # The public API has a shape of its own for this one case.
        found |= {"error": found["message"], "messages": None, "root_causes": []}
    response = _json(code, found)
    if isinstance(error, HttpError):
        _add_headers(response, error.headers)
    if not errors.without_request_id(error, compatible, deletes):
        response.headers["x-request-id"] = request_id
    return response


def _add_headers(response: Response, headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        response.headers[name] = value


def _json(code: int, value: object) -> Response:
    return Response(status=code, body=json.dumps(value).encode() + b"\n", content_type="application/json")
