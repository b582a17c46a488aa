"""The OpenAPI 3.1 document: made from the routes, the schemas that check bodies, answers.py and operations.py.

Which errors an operation may give follows from its kind; operations.py names the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from .. import __version__
from ..settings import Settings
from . import answers, operations
from .operations import OPERATIONS, PATH, TAGS, Operation
from .routes import Route

Json = dict[str, Any]
_SCHEMAS, _RESPONSES, _HEADERS = "#/components/schemas/", "#/components/responses/", "#/components/headers/"

_ABOUT = """\
Two interfaces: `/v2` for tenants, compatible with DigitalOcean's firewalls, tags and droplets; `/v1` for the operator.

- `Authorization: Bearer TOKEN`. A token is an operator's (everything), a tenant's (its account on `/v2`) or a viewer's
  (reads).
- A write is on disk before it is answered, and seen by the next read. `Prefer: wait=SECONDS` waits for the switches.
- Keys that only answers hold are ignored in bodies, so that what was read can be written back. Other unknown keys are
  faults. Every fault of a body is listed with its path.
- Paths may end in a slash. `HEAD` is `GET` without the body. Other methods are 405, with `Allow`.
- Objects in answers may get more keys.
"""

HEADERS: Json = {
    "x-request-id": {"description": "Stands in the log of the service.", "schema": {"type": "string"}},
    "ETag": {"description": "The state of the object, for `If-Match`.", "schema": {"type": "string"}},
    "Preference-Applied": {
        "description": "What of `Prefer` was followed.",
        "schema": {"type": "string", "examples": ["wait=10"]},
    },
    "X-Change-Status": {
        "description": "With `Prefer: wait`: how the change stands on the switches.",
        "schema": {"type": "string", "enum": ["waiting", "succeeded", "failed"]},
    },
    "Warning": {"description": "Something was kept that matches nobody (RFC 7234).", "schema": {"type": "string"}},
    "Idempotent-Replayed": {
        "description": "It had been done already; this is what it made.",
        "schema": {"type": "string", "const": "true"},
    },
    "WWW-Authenticate": {"schema": {"type": "string", "const": "Bearer"}},
    "x-firewall-rules-unmatched": {
        "description": "How many of the rules to be removed matched none.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "ratelimit-limit": {"description": "Requests in a window.", "schema": {"type": "integer"}},
    "ratelimit-remaining": {"description": "Those that are left.", "schema": {"type": "integer"}},
    "ratelimit-reset": {"description": "When there are more; seconds since 1970.", "schema": {"type": "integer"}},
    "retry-after": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
}
_RATE = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")

# Without examples of their own, which the page at /docs would send.
REQUEST_HEADERS: Json = {
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": "`wait=SECONDS` (at most 60): answer once every switch concerned has confirmed or refused. "
        "`keep-established`: cut no live connection. Both may stand in one header; others are ignored (RFC 7240).",
        "schema": {"type": "string", "examples": ["wait=10"]},
    },
    "If-Match": {
        "name": "If-Match",
        "in": "header",
        "description": "An `ETag`, or several: do it only while the object is in that state; `*`: while it exists.",
        "schema": {"type": "string", "examples": ["*"]},
    },
    "If-None-Match": {
        "name": "If-None-Match",
        "in": "header",
        "description": "`*`: do it only when there is no such object yet. An `ETag`: unless it is in that state.",
        "schema": {"type": "string", "examples": ['"0123abcd"']},
    },
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "A text of the client's own: the same request sent twice with it is done once.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$", "examples": ["b6fc6dd4-0f6f-4c2e-9f0f-7a7a2a1e5d10"]},
    },
}

# Status: (name of the component, what it means)
FAULTS = {
    400: ("BadRequest", "The request cannot be understood, or the body is no JSON."),
    401: ("Unauthorized", "No valid token."),
    403: ("Forbidden", "The token may not do this."),
    404: ("NotFound", "There is no such object in the account."),
    408: ("RequestTimeout", "The body did not arrive in time."),
    409: ("Conflict", "It contradicts something that exists."),
    412: ("PreconditionFailed", "The object is not in the state that `If-Match` names."),
    413: ("PayloadTooLarge", "The body is longer than is allowed."),
    415: ("UnsupportedMediaType", "The body is said to be something else than JSON."),
    422: ("UnprocessableEntity", "Something in the body or the query is wrong; all of it is listed."),
    429: ("TooManyRequests", "Too many requests."),
    500: ("ServerError", "An error of this service; its log has it under the request id."),
    503: ("Unavailable", "The store or a switch does not answer, or this controller stands by."),
}


def route(routes: Iterable[Route], settings: Settings) -> Route:
    """Where the document is, itself included.  It is open: it holds nothing of anybody."""
    made: Json = {}
    found = Route("GET", "/openapi.json", lambda _: made, 200, open=True)
    made.update(document((*routes, found), settings))
    return found


def document(routes: Iterable[Route], settings: Settings) -> Json:
    """The whole document as JSON."""
    known = [(route, OPERATIONS[key(route)]) for route in routes]
    paths: dict[str, Json] = {}
    for one, about in known:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, about, known)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Cloud firewall",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.values() if text],
        "paths": paths,
        "components": {
            "schemas": _schemas(known, settings),
            "responses": {name: _fault(code, text) for code, (name, text) in FAULTS.items()},
            "headers": HEADERS,
            "parameters": REQUEST_HEADERS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def key(route: Route) -> str:
    """What a route is called in operations.py."""
    return f"{route.method} {route.path}"


def _operation(route: Route, about: Operation, known: list[tuple[Route, Operation]]) -> Json:
    parameters = _parameters(route, about)
    found: Json = {
        "operationId": about.id,
        "summary": about.summary,
        "tags": [next(tag for prefix, (tag, _) in TAGS.items() if route.path.startswith(prefix))],
        **({"parameters": parameters} if parameters else {}),
        "responses": {
            **{str(code): _success(route, about, known) for code in _successes(route)},
            **{str(code): _error(code, about) for code in _errors(route, about)},
        },
    }
    text = about.description or route.handler.__doc__
    if text:
        found["description"] = text
    if route.body is not None:
        content: Json = {"schema": {"$ref": _SCHEMAS + route.body.__name__}}
        if about.example is not None:
            content["example"] = about.example
        found["requestBody"] = {"required": not route.body_optional, "content": {"application/json": content}}
    if route.open:
        found["security"] = []
    return found


def _parameters(route: Route, about: Operation) -> list[Json]:
    found = [_path_parameter(name) for name in _path_names(route)]
    found += about.query
    if route.compatible:
        found.append(operations.ACCOUNT)
    return found + [{"$ref": f"#/components/parameters/{name}"} for name in _request_headers(route)]


def _path_parameter(name: str) -> Json:
    schema = PATH[name]
    example = {"example": schema["examples"][0]} if "examples" in schema else {}  # the page at /docs fills it in
    return {"name": name, "in": "path", "required": True, "schema": schema, **example}


def _request_headers(route: Route) -> list[str]:
    found = ["Prefer"] if route.writes and route.settles else []
    if route.writes and route.object is not None:
        found += ["If-Match", "If-None-Match"]
    return [*found, "Idempotency-Key"] if route.once else found


def _path_names(route: Route) -> list[str]:
    return re.findall(r"\{(\w+)\}", route.path)


def _successes(route: Route) -> list[int]:
    return [route.status, *([201] if route.created else [])]


def _success(route: Route, about: Operation, known: list[tuple[Route, Operation]]) -> Json:
    headers = ["x-request-id", *about.headers, *(() if route.open else _RATE)]
    headers += ["Preference-Applied", "X-Change-Status"] if route.writes and route.settles else []
    headers += ["ETag"] if route.object is not None else []
    found: Json = {
        "description": about.summary if about.answer is None else (about.answer.__doc__ or about.summary),
        "headers": {name: {"$ref": _HEADERS + name} for name in headers},
    }
    if about.media:
        found["content"] = {about.media: {"schema": {"type": "string"}}}
    if about.answer is not None:
        found["content"] = _json(about.answer.__name__)
    links = {
        other.id: {"operationId": other.id, "parameters": dict(about.gives)}
        for at, other in known
        if about.gives and _path_names(at) == list(about.gives) and at.path.split("/")[1] == route.path.split("/")[1]
    }
    if links:
        found["links"] = links
    return found


def _errors(route: Route, about: Operation) -> list[int]:
    found = {400, 500, *about.errors, *about.faults}
    if not route.open:
        found |= {401, 403, 429}
    if _path_names(route):
        found.add(404)
    if route.body is not None:
        found |= {408, 413, 415, 422}
    if about.query or route.compatible or route.method == "PUT":
        found.add(422)
    if route.writes:
        found.add(503)
    if route.writes and route.object is not None:
        found.add(412)
    return sorted(found)


def _error(code: int, about: Operation) -> Json:
    own = about.faults.get(code)
    if own is None:
        return {"$ref": _RESPONSES + FAULTS[code][0]}
    return {**_fault(code, FAULTS[code][1]), "content": _json(own.__name__)}


def _fault(code: int, text: str) -> Json:
    headers = ["x-request-id", *(["WWW-Authenticate"] if code == 401 else _RATE)]
    headers += ["retry-after"] if code == 429 else []
    return {
        "description": text,
        "headers": {name: {"$ref": _HEADERS + name} for name in headers},
        "content": _json(answers.Fault.__name__),
    }


def _json(schema: str) -> Json:
    return {"application/json": {"schema": {"$ref": _SCHEMAS + schema}}}


# ---- schemas


def _schemas(known: list[tuple[Route, Operation]], settings: Settings) -> Json:
    bodies: list[type[BaseModel]] = [route.body for route, _ in known if route.body is not None]
    told = [about.answer for _, about in known if about.answer is not None]
    own = [model for _, about in known for model in about.faults.values()]
    models: dict[type[BaseModel], None] = dict.fromkeys([*bodies, *told, *own, answers.Fault])
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in models]
    found = models_json_schema(wanted, ref_template=_SCHEMAS + "{model}")[1]
    return {name: _tidy(schema, settings) for name, schema in sorted(found["$defs"].items())}


def _tidy(schema: Any, settings: Settings) -> Any:
    """Without titles that repeat names and defaults that are null; with the limits that are settings."""
    if isinstance(schema, list):
        return [_tidy(part, settings) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        name: {key: _tidy(inner, settings) for key, inner in part.items()}
        if name in ("properties", "$defs")
        else _tidy(part, settings)
        for name, part in schema.items()
        if name not in ("title", "x-setting", "default")
    }
    if "description" in found and isinstance(found["description"], str):
        found["description"] = found["description"].replace("{max_entries}", str(settings.max_entries))
    if "x-setting" in schema:
        items = next(part for part in found["anyOf"] if part["type"] == "array")
        items["maxItems"] = getattr(settings, schema["x-setting"])
    return found
