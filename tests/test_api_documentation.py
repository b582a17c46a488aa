"""The page at /docs: all of it comes from here, and nothing of it from elsewhere."""

from __future__ import annotations

import re

import pytest
from api_server import World

from firewall_app.api.documentation import FILES, PAGE, ROUTES

ASSETS = sorted(set(FILES) - {PAGE})


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.mark.parametrize("path", ["/docs", "/docs/", *(f"/docs/{name}" for name in ASSETS)])
def test_the_page_needs_no_token_and_loads_nothing_from_elsewhere(world: World, path: str) -> None:
    answer = world.call("GET", path, token=None)
    assert answer.status == 200
    assert answer.body
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self';")
    assert not re.search(r"https?:|\*|unsafe-eval|script-src", policy)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    head = world.call("HEAD", path, token=None)
    assert (head.status, head.body, head.headers["ETag"]) == (200, b"", answer.headers["ETag"])


def test_the_page_and_the_style_sheet_name_files_of_ours_alone(world: World) -> None:
    page = world.call("GET", "/docs", token=None).body.decode()
    named = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {f"/docs/{name}" for name in ASSETS} == set(named)
    assert "<script>" not in page
    assert not re.search(r"\son\w+=|\sstyle=", page)
    start = world.call("GET", "/docs/start.js", token=None).body.decode()
    assert re.findall(r'url: "([^"]*)"', start) == ["/openapi.json"]
    style = world.call("GET", "/docs/swagger-ui.css", token=None).body.decode()
    loaded = re.findall(r"url\(\s*[\"']?([^\"')]{1,20})", style)
    assert loaded
    assert all(url.startswith("data:") for url in loaded)
    assert "@import" not in style


def test_a_page_that_has_not_changed_is_not_sent_again(world: World) -> None:
    first = world.call("GET", "/docs/swagger-ui-bundle.js", token=None)
    again = world.call(
        "GET", "/docs/swagger-ui-bundle.js", token=None, headers={"If-None-Match": first.headers["ETag"]}
    )
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("name", ["LICENSE", "nothing", "..", "swagger_ui"])
def test_other_files_are_not_there(world: World, name: str) -> None:
    assert world.call("GET", f"/docs/{name}", token=None).status == 404


def test_the_page_is_no_part_of_the_document(world: World) -> None:
    paths = world.good("GET", "/openapi.json", token=None)["paths"]
    assert not {route.path for route in ROUTES} & set(paths)
