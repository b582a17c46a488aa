"""Holds every answer that a test of api/ gets to the OpenAPI document: its status, its body, its headers.

Stricter than the document: objects have the keys that it names and no others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import jsonschema_rs

from firewall_app.api import openapi
from firewall_app.api.app import ROUTES
from firewall_app.api.errors import HttpError
from firewall_app.api.routes import Routes
from firewall_app.settings import Settings

_DOCUMENT_ROUTE = openapi.route(ROUTES, Settings())
_ROUTES = Routes((*ROUTES, _DOCUMENT_ROUTE))


@cache
def _document() -> Any:
    document = openapi.document(_ROUTES.all, Settings())
    for schema in document["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return document


@cache
def _validator(schema: str) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for({**json.loads(schema), "components": _document()["components"]})


def check(method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Raises AssertionError.  What is no operation (no such path, a wrong method) is described nowhere."""
    try:
        route, _ = _ROUTES.find(method, path.partition("?")[0])
    except HttpError:
        return
    about = f"{method} {path}: {status}"
    responses = _document()["paths"][route.path][route.method.lower()]["responses"]
    assert str(status) in responses, f"{about} is not in the document"
    response = _resolve(responses[str(status)])
    known = {name.lower() for name in response["headers"]} | {"content-type", "content-length", "date", "connection"}
    known |= {"vary", "access-control-allow-origin", "access-control-expose-headers"}  # of CORS, not of operations
    extra = {name.lower() for name in headers} - known
    assert not extra, f"{about}: headers {extra} are not in the document"
    content = response.get("content")
    if method == "HEAD":
        return
    assert bool(content) == bool(body), f"{about}: {body!r}"
    if content and "application/json" in content:
        _validator(json.dumps(content["application/json"]["schema"])).validate(json.loads(body))


def _resolve(response: Any) -> Any:
    name = response.get("$ref", "").rpartition("/")[2]
    return _document()["components"]["responses"][name] if name else response
