"""The OpenAPI 3.1 document, made from the route tables and the schemas that check bodies: it cannot be stale."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import models_json_schema

from .. import __version__
from .routes import Route

_PREFIX = "#/components/schemas/"
_FAULT = {
    "type": "object",
    "required": ["id", "message"],
    "properties": {
        "id": {"type": "string"},
        "message": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"at": {"type": "string"}, "problem": {"type": "string"}},
            },
        },
    },
}


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The whole document as JSON."""
    known = tuple(routes)
    bodies = list(dict.fromkeys(route.body for route in known if route.body is not None))
    schemas = models_json_schema([(body, "validation") for body in bodies], ref_template=_PREFIX + "{model}")[1]
    paths: dict[str, dict[str, Any]] = {}
    for route in known:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Cloud firewall", "version": __version__},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": {**schemas["$defs"], "Fault": _FAULT},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    codes = [route.status, *([201] if route.created else [])]
    found: dict[str, Any] = {
        "operationId": f"{'v2' if route.compatible else 'v1'}_{route.handler.__name__}",
        "responses": {
            **{str(code): {"description": "Success"} for code in codes},
            "default": {
                "description": "What is wrong with the request",
                "content": {"application/json": {"schema": {"$ref": _PREFIX + "Fault"}}},
            },
        },
    }
    names = re.findall(r"\{(\w+)\}", route.path)
    if names:
        found["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if route.body is not None:
        found["requestBody"] = {
            "required": not route.body_optional,
            "content": {"application/json": {"schema": {"$ref": _PREFIX + route.body.__name__}}},
        }
    if route.open:
        found["security"] = []
    return found
