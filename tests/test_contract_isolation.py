"""A tenant sees and touches its own account alone, by any route.

What is another's is answered as what is not there, byte for byte but for the request id and the word that was asked
for.  Goes by the tables of routes: a new route is tested too, or the tests fail until they know how to ask for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from api_server import HV1, HV2, OPERATOR, OTHER_TENANT, TENANT, VIEWER, Answer, World, port
from contract import BODIES, PING, ROUTES, UNLIMITED, WEB, Json, filled, naming

from firewall_app.api import app, v2
from firewall_app.pipeline.flow import texts
from firewall_app.service.access import Caller, Role
from firewall_app.settings import Settings

THEIR_VIEWER = "their-viewer"
# What the victim has, and as many letters that nobody has.
TAG, NO_TAG = "victims-tag", "nobody-tags"
DROPLET, NO_DROPLET = 4711, 4712
NO_FIREWALL = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def world() -> World:
    """Two accounts.  `default` is the victim; `acme` has droplet 201, of the same kind and with the same tag `web`."""
    world = World(Settings(**UNLIMITED)).furnish()
    world.access.grant(THEIR_VIEWER, Caller(Role.VIEWER, "acme"))
    world.good("PUT", f"/v1/droplets/{DROPLET}", {"name": "victim", "tags": [TAG]})
    world.good("PUT", "/v1/droplets/201", {"name": "theirs", "account": "acme", "tags": ["web"]})
    world.good("PUT", "/v1/droplets/202", {"name": "theirs-too", "account": "acme"})
    for client, droplet_id in ((TENANT, DROPLET), (OTHER_TENANT, 201)):
        body = {**WEB, "droplet_ids": [droplet_id]}
        world.good("POST", "/v2/firewalls", body, token=client)
    return world


def view(world: World, token: str) -> dict[str, bytes]:
    """All that a tenant can see."""
    found = {path: world.call("GET", path, token=token).body for _, path, _ in ROUTES if "{" not in path}
    for firewall in world.good("GET", "/v2/firewalls", token=token)["firewalls"]:
        found[firewall["id"]] = world.call("GET", f"/v2/firewalls/{firewall['id']}", token=token).body
    return found


def firewall_of(world: World, token: str) -> str:
    found: str = world.good("GET", "/v2/firewalls", token=token)["firewalls"][0]["id"]
    return found


def same(answer: Answer, word: object, other: Answer, other_word: object) -> bool:
    """Whether two answers differ in their request ids and in a word alone."""

    def plain(one: Answer, gone: object) -> tuple[int, str]:
        request_id = one.headers.get("x-request-id", "no request id")
        shown = {**one.headers, **({"ETag": "a digest of the body"} if "ETag" in one.headers else {})}
        text = "\n".join(f"{name}: {value}" for name, value in sorted(shown.items())) + "\n" + one.body.decode()
        return one.status, text.replace(request_id, "ID").replace(str(gone), "WORD")

    return plain(answer, word) == plain(other, other_word)


def test_two_answers_that_differ_are_not_the_same(world: World) -> None:
    first, second = (world.call("GET", f"/v2/firewalls/{name}") for name in ("aa", "bb"))
    assert same(first, "aa", second, "bb")
    assert not same(first, "aa", second, "aa")
    assert not same(first, "aa", world.call("GET", "/v2/tags/bb"), "aa")


# --------------------------------------------------------------------------------------------- paths and bodies

PATHS = [(method, path) for method, path, _ in ROUTES if "{" in path]


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_what_is_anothers_is_not_there(world: World, method: str, path: str) -> None:
    theirs = {**WEB, "droplet_ids": [201]}
    bodies: dict[str, Json] = {
        "/v2/firewalls/{firewall_id}": theirs,
        "/v2/firewalls/{firewall_id}/droplets": {"droplet_ids": [201]},
        "/v2/tags/{name}/resources": {"resources": [{"resource_id": "201", "resource_type": "droplet"}]},
    }
    body = bodies.get(path, BODIES.get((method, path))) if method != "GET" else None
    words: dict[str, tuple[object, object]] = {
        "firewall_id": (firewall_of(world, TENANT), NO_FIREWALL),
        "droplet_id": (DROPLET, NO_DROPLET),
        "name": (TAG, NO_TAG),
    }
    (parameter,) = re.findall(r"\{(\w+)\}", path)
    there, nowhere = words[parameter]
    before, mine = view(world, TENANT), view(world, OTHER_TENANT)

    def ask(word: object, token: str = OTHER_TENANT, verb: str = method) -> Answer:
        asked = filled(path, firewall_id=str(word), droplet_id=word, tag=str(word))
        return world.call(verb, asked, body, token=token)

    for verb in (method, "HEAD") if method == "GET" else (method,):
        found = ask(there, verb=verb)
        assert found.status == 404
        assert same(found, there, ask(nowhere, verb=verb), nowhere)
    assert (view(world, TENANT), view(world, OTHER_TENANT)) == (before, mine)
    if method == "GET":
        assert ask(there, TENANT).status == 200  # it is there, and the test would see it


def asking() -> Iterator[tuple[str, str, Any]]:
    """(method, path, body as a function of a tag and a droplet) for each place of a body that names something."""
    for number, (method, path, _) in enumerate(naming(TAG, DROPLET)):
        yield method, path, lambda tag, droplet, n=number: naming(tag, droplet, also=201)[n][2]
    for part, body in (
        ("droplets", lambda _, droplet: {"droplet_ids": [droplet]}),
        ("tags", lambda tag, _: {"tags": [tag]}),
        ("rules", lambda tag, _: {"inbound_rules": [{**PING, "sources": {"tags": [tag]}}]}),
    ):
        yield "DELETE", f"/v2/firewalls/{{firewall_id}}/{part}", body
    yield "POST", "/v2/tags", lambda tag, _: {"name": tag}
    for method in ("POST", "DELETE"):
        yield (
            method,
            "/v2/tags/{name}/resources",
            lambda _, droplet: {"resources": [{"resource_id": str(droplet), "resource_type": "droplet"}]},
        )


def test_every_body_is_asked_for() -> None:
    with_body = {(route.method, route.path) for route in v2.ROUTES if route.body is not None}
    assert {(method, path) for method, path, _ in asking()} == with_body
    assert {(method, path) for method, path, _ in ROUTES if method != "GET"} == set(BODIES)


@pytest.mark.parametrize(("method", "path", "body"), [*asking()])
def test_what_is_anothers_cannot_be_named(world: World, method: str, path: str, body: Any) -> None:
    path = filled(path, firewall_of(world, OTHER_TENANT), 201, "web")
    before = view(world, TENANT)
    found = world.call(method, path, body(TAG, DROPLET), token=OTHER_TENANT)
    assert view(world, TENANT) == before
    none = world.call(method, path, body(NO_TAG, NO_DROPLET), token=OTHER_TENANT)
    # One of the two words is in the answer, if any.
    found = Answer(found.status, found.headers, found.body.replace(TAG.encode(), NO_TAG.encode()))
    assert same(found, DROPLET, none, NO_DROPLET), (found, none)


@pytest.mark.parametrize(
    "query", [f"tag_name={TAG}", "name=victim", "type=droplets", "per_page=200", "page=2", "name=", f"name={DROPLET}"]
)
@pytest.mark.parametrize("path", [path for method, path, _ in ROUTES if method == "GET"])
def test_lists_hold_nothing_of_others(world: World, path: str, query: str) -> None:
    asked = filled(path, firewall_of(world, OTHER_TENANT), 201, "web")
    for token in (OTHER_TENANT, THEIR_VIEWER):
        answer = world.call("GET", f"{asked}?{query}", token=token)
        assert answer.status == 200
        shown = re.sub(r'"(next|last|first|prev)": "[^"]*"', "", answer.body.decode())  # the query, as it was sent
        for word in (TAG, str(DROPLET), "victim", firewall_of(world, TENANT), "default"):
            assert word not in shown


# --------------------------------------------------------------------------------------------- ?account=


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, _ in ROUTES])
def test_a_tenant_cannot_name_another_account(world: World, method: str, path: str) -> None:
    before, mine = view(world, TENANT), view(world, OTHER_TENANT)
    body = BODIES.get((method, path))
    for token in (OTHER_TENANT, THEIR_VIEWER):
        asked = filled(path, firewall_of(world, TENANT), DROPLET, TAG)
        answers = [
            world.call(method, f"{asked}?account={name}", body, token=token)
            for name in ("default", "nobody1", "acme&account=default", "DEFAULT", "", "a%00b")
        ]
        assert {answer.status for answer in answers} == {403}
        assert all(same(answers[0], "no", other, "no") for other in answers)
    assert (view(world, TENANT), view(world, OTHER_TENANT)) == (before, mine)


def test_an_operator_who_names_an_account_is_in_it(world: World) -> None:
    theirs = firewall_of(world, OTHER_TENANT)
    assert world.call("GET", f"/v2/firewalls/{theirs}").status == 404
    assert world.call("GET", f"/v2/firewalls/{theirs}?account=acme").status == 200
    body = {**WEB, "name": "new", "droplet_ids": [DROPLET]}
    assert world.call("POST", "/v2/firewalls?account=acme", body).status == 422
    found = world.good("GET", "/v2/droplets?account=acme&per_page=1")
    assert "account=acme" in found["links"]["pages"]["next"]


# --------------------------------------------------------------------------------------------- /v1, viewers

V1 = [(route.method, route.path) for route in app.ROUTES if not route.open and not route.compatible]


def v1_paths(path: str) -> tuple[str, str]:
    """The path of something that is there, and of something that is not."""
    for name, there, nowhere in (
        ("{dpid}", HV1, "00000000000000ff"),
        ("{droplet_id}", "101", "909"),
        ("{port_id}", "p101", "p909"),
    ):
        if name in path:
            return path.replace(name, there), path.replace(name, nowhere)
    return re.sub(r"\{\w+\}", "x", path), re.sub(r"\{\w+\}", "y", path)


@pytest.mark.parametrize(("method", "path"), V1)
def test_v1_is_not_for_tenants(world: World, method: str, path: str) -> None:
    revision = world.core.revision
    for token in (TENANT, OTHER_TENANT, THEIR_VIEWER):
        there, nowhere = (world.call(method, one, {}, token=token) for one in v1_paths(path))
        assert (there.status, there.json["id"]) == (403, "forbidden")
        assert same(there, "no", nowhere, "no")
    assert world.core.revision == revision


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, _ in ROUTES if method != "GET"])
def test_viewers_write_nothing(world: World, method: str, path: str) -> None:
    revision = world.core.revision
    for token, owner, droplet in ((VIEWER, TENANT, 102), (THEIR_VIEWER, OTHER_TENANT, 201)):
        asked = filled(path, firewall_of(world, owner), droplet, "web")
        assert world.call(method, asked, BODIES[method, path], token=token).status == 403
    assert world.core.revision == revision


def test_every_route_is_of_a_kind_that_is_tested_here() -> None:
    assert {route.path.split("/")[1] for route in app.ROUTES if not route.open} == {"v1", "v2"}
    assert {(method, path) for method, path, _ in ROUTES} | set(V1) == {
        (route.method, route.path) for route in app.ROUTES if not route.open
    }


def test_metrics_are_not_for_tenants(world: World) -> None:
    for token in (TENANT, OTHER_TENANT, THEIR_VIEWER):
        assert world.call("GET", "/metrics", token=token).status == 403


def test_viewers_write_nothing_on_v1(world: World) -> None:
    revision = world.core.revision
    safe = {("POST", "/v1/explain")}  # changes nothing
    for method, path in V1:
        if method != "GET" and (method, path) not in safe:
            assert world.call(method, v1_paths(path)[0], {}, token=VIEWER).status == 403, (method, path)
    assert world.core.revision == revision


# --------------------------------------------------------------------------------------------- down to the flows


def held(world: World) -> dict[str, dict[object, list[str]]]:
    """What each switch should hold: the texts of the flows of each unit."""
    return {
        dpid: {key: texts(unit.flows()) for key, unit in world.core.units(dpid, switch.interfaces).units.items()}
        for dpid, switch in world.switches.items()
    }


def test_accounts_with_the_same_names_do_not_mix_in_flows() -> None:
    """acme does all that it can with the names that default has; of what default's ports hold, nothing moves."""
    world = World(Settings(**UNLIMITED)).furnish()
    world.switches[HV1].interfaces = {**world.switches[HV1].interfaces, 5: "tap5"}
    world.switches[HV1].confirm()
    world.good("PUT", "/v1/droplets/102", {"name": "web-2", "tags": ["web"]})
    peers = [{"protocol": "tcp", "ports": "22", "sources": {"tags": ["web"]}}]
    ours = {**WEB, "inbound_rules": peers, "outbound_rules": [], "droplet_ids": []}
    world.good("POST", "/v2/firewalls", ours, token=TENANT)
    world.good("PUT", "/v1/droplets/201", {"name": "web-1", "account": "acme"})
    world.good("PUT", "/v1/ports/p201", port(201, HV1, "tap5", "198.51.100.7", "2001:db8:ac::7"))
    before = held(world)

    world.good("POST", "/v2/tags", {"name": "web"}, token=OTHER_TENANT)
    resources = {"resources": [{"resource_id": "201", "resource_type": "droplet"}]}
    world.good("POST", "/v2/tags/web/resources", resources, token=OTHER_TENANT)
    theirs = world.good("POST", "/v2/firewalls", ours, token=OTHER_TENANT)["firewall"]
    assert [change["droplet_id"] for change in theirs["pending_changes"]] in ([], [201])
    during = held(world)
    assert during[HV2] == before[HV2]
    moved = {key for key in before[HV1] if during[HV1].get(key) != before[HV1][key]}
    gone = "\n".join(line for key in moved for line in before[HV1][key])
    fresh = "\n".join(line for key, lines in during[HV1].items() if before[HV1].get(key) != lines for line in lines)
    assert "198.51.100.7" in fresh  # their own, by their tag
    for address in ("203.0.113.1", "10.0.0.2", "2001:db8::1"):
        assert address not in fresh
        assert address not in gone
    rules = world.good("GET", "/v1/ports/p201/rules")["rules"]
    assert [rule["addresses"] for rule in rules] == [["198.51.100.7", "2001:db8:ac::7", "fe80::ff:fe00:c9"]]
    rules = world.good("GET", "/v1/ports/p101/rules")["rules"]
    assert "198.51.100.7" not in str(rules)

    world.good("DELETE", "/v2/tags/web", token=OTHER_TENANT)
    world.good("DELETE", f"/v2/firewalls/{theirs['id']}", token=OTHER_TENANT)
    assert held(world) == before
    assert [f["tags"] for f in world.good("GET", "/v2/firewalls", token=TENANT)["firewalls"]] == [["web"]]
    assert world.good("GET", "/v2/tags/web", token=OPERATOR)["tag"]["resources"]["count"] == 2
