"""The page at /docs: the OpenAPI document, to be read and tried.  Everything that it loads comes from here.

swagger_ui/ holds Swagger UI as its makers publish it (decision 18), and our page.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

from webob import Response

from .errors import NoSuchPath
from .routes import Call, Route

# Swagger UI writes style attributes, and its style sheet holds small pictures.
POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked for again each time, and answered 304
}
PAGE = "index.html"
FILES = {
    PAGE: "text/html",
    "start.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}


def page(_: Call) -> object:
    return _file(PAGE)


def asset(_: Call, name: str) -> object:
    if name not in FILES:
        raise NoSuchPath(f"there is nothing at /docs/{name}")
    return _file(name)


def _file(name: str) -> Response:
    data, tag = _read(name)
    response = Response(body=data, content_type=FILES[name], conditional_response=True, etag=tag)
    if FILES[name].startswith("text/"):
        response.charset = "UTF-8"
    for header, value in HEADERS.items():
        response.headers[header] = value
    return response


@cache
def _read(name: str) -> tuple[bytes, str]:
    data = (resources.files(__package__) / "swagger_ui" / name).read_bytes()
    return data, hashlib.sha256(data).hexdigest()


ROUTES = (
    Route("GET", "/docs", page, 200, open=True),
    Route("GET", "/docs/{name}", asset, 200, open=True),
)
