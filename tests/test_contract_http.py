"""The contract's conventions, endpoints and limits (1.1 to 1.5, 1.7, 4, 5), row by row.

Over a real socket, but for what needs switches that do as they are told.  Where it can, a test goes by the table of
routes: a new route is held to the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from api_server import HV1, HV2, OPERATOR, Process, World
from contract import ANYWHERE, BODIES, OUT, PING, ROUTES, SSH, UNLIMITED, WEB, Api, Json, filled, naming, raw

from firewall_app.service.core import Limits


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    process = Process(**UNLIMITED)
    yield process
    process.stop()


@pytest.fixture
def api(server: Process) -> Iterator[Api]:
    yield (found := Api(server))
    found.clean()


# --------------------------------------------------------------------------------------------- 1.1 transport, errors


@pytest.mark.parametrize(("method", "path", "status"), ROUTES)
def test_1_1_auth(api: Api, method: str, path: str, status: int) -> None:
    one = filled(path, api.make()["id"])
    answer = api.of(None).call(method, one, BODIES.get((method, path)))
    assert answer.status == 401
    assert (answer.json["id"], answer.json["message"]) == ("unauthorized", "Unable to authenticate you.")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert api.call(method, one, BODIES.get((method, path))).status == status


@pytest.mark.parametrize(("method", "path", "status"), ROUTES)
@pytest.mark.parametrize("slash", ["", "/"])
def test_1_4_codes_and_R11_slashes(api: Api, method: str, path: str, status: int, slash: str) -> None:
    """Neither changes anything but where an answer says where it came from."""
    one = filled(path, api.make()["id"]) + slash
    answer = api.call(method, one, BODIES.get((method, path)))
    assert answer.status == status, answer.body
    assert "location" not in answer.headers
    if status == 204:
        assert answer.body == b""
        assert "content-type" not in answer.headers
    else:
        assert answer.headers["content-type"] == "application/json"


SINGULAR = {"account", "firewall", "droplet", "tag"}


@pytest.mark.parametrize(("path", "key"), [(path, path.split("/")[-1]) for m, path, _ in ROUTES if m == "GET"])
def test_1_1_success_bodies(api: Api, path: str, key: str) -> None:
    found = api.good("GET", filled(path, api.make()["id"]))
    if key.startswith("{"):
        key = path.split("/")[-2].removesuffix("s")
    assert set(found) == ({key} if key in SINGULAR else {key, "links", "meta"})
    assert isinstance(found[key], dict if key in SINGULAR else list)


@pytest.mark.parametrize("path", [path for method, path, _ in ROUTES if method == "GET"])
def test_1_1_other_verbs_head(api: Api, path: str) -> None:
    one = filled(path, api.make()["id"])
    get, head = api.call("GET", one), api.call("HEAD", one)
    assert (head.status, head.body) == (200, b"")
    for name in ("content-length", "content-type"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize("path", sorted({path for _, path, _ in ROUTES}))
@pytest.mark.parametrize("slash", ["", "/"])
def test_1_1_other_verbs_405(api: Api, path: str, slash: str) -> None:
    there = {method for method, other, _ in ROUTES if other == path}
    there |= {"HEAD"} if "GET" in there else set()
    one = filled(path, api.make()["id"]) + slash
    before = api.everything()
    for method in {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "BREW"} - there:
        answer = api.call(method, one, {} if method in ("POST", "PUT", "PATCH") else None)
        assert answer.status == 405, (method, one, answer.body)
        assert there <= set(answer.headers["allow"].split(", ")) <= there | {"OPTIONS"}
        assert method == "HEAD" or answer.json["id"] == "method_not_allowed"
    assert api.everything() == before


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "slug", "message"),
    [
        ("POST", "/v2/firewalls", b"{", 400, "bad_request", "error parsing request body"),
        ("PUT", "/v2/firewalls/x", b"\xff", 400, "bad_request", "error parsing request body"),
        ("GET", "/v2/firewalls/x", None, 404, "not_found", "The resource you requested could not be found."),
        ("PUT", "/v2/firewalls/x", WEB, 404, "not_found", "The resource you requested could not be found."),
        ("GET", "/v2/tags/x", None, 404, "not_found", "The resource you requested could not be found."),
        ("GET", "/v2/droplets/9", None, 404, "not_found", "The resource you requested could not be found."),
        ("GET", "/v2/x", None, 404, "not_found", "The resource you requested could not be found."),
    ],
)
def test_1_1_stock_messages(
    api: Api, method: str, path: str, body: object, status: int, slug: str, message: str
) -> None:
    answer = api.call(method, path, body)
    assert (answer.status, answer.json["id"], answer.json["message"]) == (status, slug, message)


def test_1_1_error_body(api: Api) -> None:
    for path in ("/v2/firewalls/x", "/v2/firewalls?page=0", "/v2/firewalls?account=acme"):
        found = api.call("GET", path).json
        assert set(found) == {"id", "message", "request_id", "errors"}
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", found["request_id"])
        assert all(set(fault) == {"at", "problem"} for fault in found["errors"])


def test_1_1_tag_creation(api: Api) -> None:
    found = api.call("POST", "/v2/tags", b"not JSON").json
    assert isinstance(found["error"], str)
    assert (found["messages"], found["root_causes"]) == (None, [])
    assert "error" not in api.call("POST", "/v2/tags", {"name": "a b"}).json
    assert "error" not in api.call("POST", "/v2/tags/web/resources", b"not JSON").json


def test_1_1_request_id(api: Api) -> None:
    answers = [api.call("GET", "/v2/firewalls/x"), api.call("POST", "/v2/firewalls", {}), api.call("GET", "/v2/tags")]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3
    for answer in answers[:2]:
        assert answer.headers["x-request-id"] == answer.json["request_id"]


# --------------------------------------------------------------------------------------------- 1.2 pages

LISTS = [
    path for method, path, _ in ROUTES if method == "GET" and path.split("/")[-1] in ("firewalls", "tags", "droplets")
]


def fill(api: Api) -> dict[str, int]:
    """Three of each kind; how many objects each list holds."""
    for name in ("fw-a", "fw-b", "fw-c"):
        api.make(name=name, droplet_ids=[101])
    for name in ("a", "b"):
        api.good("POST", "/v2/tags", {"name": name})
    return dict.fromkeys(LISTS, 3)


@pytest.mark.parametrize("path", LISTS)
def test_1_2_total_and_1_2_links(api: Api, path: str) -> None:
    total, one, key = fill(api)[path], filled(path, ""), path.rsplit("/", maxsplit=1)[-1]
    seen: list[Json] = []
    for number, relations in ((1, {"next", "last"}), (2, {"first", "prev", "next", "last"}), (3, {"first", "prev"})):
        found = api.good("GET", f"{one}?per_page=1&page={number}")
        assert found["meta"] == {"total": total}
        assert set(found["links"]["pages"]) == relations
        seen += found[key]
    assert seen == api.good("GET", one)[key]
    assert api.good("GET", f"{one}?per_page=3")["links"] in ({}, {"pages": {}})


@pytest.mark.parametrize("path", LISTS)
def test_1_2_past_the_end(api: Api, path: str) -> None:
    total, one, key = fill(api)[path], filled(path, ""), path.rsplit("/", maxsplit=1)[-1]
    for page in ("2", "9", "9" * 18):
        found = api.good("GET", f"{one}?per_page=3&page={page}")
        assert (found[key], found["meta"]) == ([], {"total": total})
        assert set(found["links"]["pages"]) == {"first", "prev"}
        assert "page=1&" in found["links"]["pages"]["prev"]


@pytest.mark.parametrize("path", LISTS)
def test_1_2_bounds(api: Api, path: str) -> None:
    one = filled(path, "")
    for query in ("page=1", "per_page=1", "per_page=200", "per_page=200&page=1", ""):
        assert api.call("GET", f"{one}?{query}").status == 200
    for query in ("page=0", "page=-1", "page=a", "per_page=0", "per_page=201", "per_page=1e1", "page=1.0", "page=+1"):
        answer = api.call("GET", f"{one}?{query}")
        assert (answer.status, list(answer.problems)) == (422, [query.split("=")[0]])


def test_1_2_bounds_default_of_20(api: Api) -> None:
    for number in range(21):
        api.make(name=f"fw-{number:02}", droplet_ids=[], tags=[])
    found = api.good("GET", "/v2/firewalls")
    assert (len(found["firewalls"]), found["meta"]["total"]) == (20, 21)
    assert "page=2" in found["links"]["pages"]["next"]
    assert [f["name"] for f in api.good("GET", "/v2/firewalls?page=2")["firewalls"]] == ["fw-20"]


# --------------------------------------------------------------------------------------------- 1.3, 1.4 firewalls


@pytest.mark.parametrize("name", ["aa", "A0", "0-", "a.", "web-fw.example.com", "a" * 255])
def test_1_3_name(api: Api, name: str) -> None:
    firewall = api.make(name=name)
    assert firewall["name"] == name
    assert api.good("PUT", f"/v2/firewalls/{firewall['id']}", {**WEB, "name": name})["firewall"]["name"] == name


@pytest.mark.parametrize(
    "name", ["", "a", "-a", ".a", "a b", "a_b", "ä1", "a\n", "aa\n", "a/b", "a" * 256, None, 12, ["aa"]]
)
def test_1_3_name_that_is_none(api: Api, name: object) -> None:
    one = f"/v2/firewalls/{api.make()['id']}"
    assert list(api.refused("POST", "/v2/firewalls", {**WEB, "name": name}).problems) == ["name"]
    assert list(api.refused("PUT", one, {**WEB, "name": name}).problems) == ["name"]


def test_1_3_created_at(api: Api) -> None:
    for found in (
        api.make(),
        api.good("GET", "/v2/firewalls")["firewalls"][0],
        api.good("GET", "/v2/droplets/101")["droplet"],
    ):
        assert re.fullmatch(r"20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\dZ", found["created_at"])


def test_1_3_droplet_ids(api: Api) -> None:
    firewall = api.make(droplet_ids=[102], tags=["web"])
    assert firewall["droplet_ids"] == [102]
    assert [f["id"] for f in api.good("GET", "/v2/droplets/101/firewalls")["firewalls"]] == [firewall["id"]]


@pytest.mark.parametrize("value", [None, "x", 1, [], {}, [{"droplet_id": 8, "status": "waiting"}]])
def test_1_3_read_only(api: Api, value: object) -> None:
    firewall = api.make()
    others = dict.fromkeys(("id", "status", "created_at", "pending_changes"), value)
    one = f"/v2/firewalls/{firewall['id']}"
    assert api.good("PUT", one, {**WEB, **others})["firewall"] == firewall
    made = api.make(name="other", **others)
    assert made["id"] not in (value, firewall["id"])
    assert made["status"] in ("waiting", "succeeded")
    assert api.good("POST", "/v2/tags", {"name": "t", "resources": value})["tag"]["resources"]["count"] == 0


@pytest.mark.parametrize("missing", ["protocol", "sources"])
def test_1_3_rule(api: Api, missing: str) -> None:
    rule = {key: value for key, value in SSH.items() if key != missing}
    problems = api.refused("POST", "/v2/firewalls", {**WEB, "inbound_rules": [PING, rule]}).problems
    assert problems == {f"inbound_rules[1].{missing}": "is required"}


@pytest.mark.parametrize("protocol", ["TCP", "icmpv6", "sctp", "all", "", None, 6, ["tcp"]])
def test_1_3_rule_of_another_protocol(api: Api, protocol: object) -> None:
    body = {"name": "fw", "outbound_rules": [{**OUT, "protocol": protocol}]}
    assert list(api.refused("POST", "/v2/firewalls", body).problems) == ["outbound_rules[0].protocol"]


def test_1_4_create(api: Api) -> None:
    assert api.refused("POST", "/v2/firewalls", {"name": "fw"}).problems == {
        "": "one of inbound_rules and outbound_rules is needed"
    }
    assert list(api.refused("POST", "/v2/firewalls", {"inbound_rules": [SSH]}).problems) == ["name"]
    for number, rules in enumerate(({"inbound_rules": [SSH]}, {"outbound_rules": [OUT]}, {"inbound_rules": None})):
        assert api.good("POST", "/v2/firewalls", {"name": f"fw-{number}", **rules})["firewall"]["droplet_ids"] == []


def test_1_4_put(api: Api) -> None:
    firewall = api.make()
    one = f"/v2/firewalls/{firewall['id']}"
    assert list(api.refused("PUT", one, {"name": "web-fw"}).problems) == [""]
    changed = api.good("PUT", one, {"name": "web-fw", "outbound_rules": [OUT]})["firewall"]
    assert changed["outbound_rules"] == [OUT]
    assert [changed[key] for key in ("inbound_rules", "droplet_ids", "tags")] == [[], [], []]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize(
    ("part", "body", "at"),
    [
        ("droplets", {}, "droplet_ids"),
        ("droplets", {"droplet_ids": 102}, "droplet_ids"),
        ("droplets", {"droplet_ids": [102], "tags": []}, "tags"),
        ("tags", {}, "tags"),
        ("tags", {"tags": "web"}, "tags"),
        ("tags", {"tags": [1]}, "tags[0]"),
        ("rules", {}, ""),
        ("rules", {"inbound_rules": SSH}, "inbound_rules"),
        ("rules", {"inbound_rules": [SSH], "name": "x"}, "name"),
        ("rules", {"inbound_rules": [OUT]}, "inbound_rules[0].sources"),
    ],
)
def test_1_4_sub_resources(api: Api, method: str, part: str, body: Json, at: str) -> None:
    assert at in api.refused(method, f"/v2/firewalls/{api.make()['id']}/{part}", body).problems


def test_1_4_no_others(api: Api) -> None:
    api.make(name="other")
    one = f"/v2/firewalls/{api.make()['id']}"
    assert api.call("PATCH", one, {"name": "x2"}).status == 405
    for part in ("droplets", "tags", "rules"):
        assert api.call("GET", f"{one}/{part}").status == 405
    for path in (f"{one}/rules/0", f"{one}/droplets/102", f"{one}/x"):
        assert api.call("DELETE", path).status == 404
    assert api.good("GET", "/v2/firewalls?name=other")["meta"]["total"] == 2


# --------------------------------------------------------------------------------------------- 1.5 status


def silent() -> World:
    world = World().furnish()
    for switch in world.switches.values():
        switch.mode = "silent"
    return world


def pending(world: World, firewall_id: str) -> tuple[str, list[tuple[int, bool, str]]]:
    found = world.good("GET", f"/v2/firewalls/{firewall_id}")["firewall"]
    assert all(list(c) == ["droplet_id", "removing", "status"] for c in found["pending_changes"])
    return found["status"], [(c["droplet_id"], c["removing"], c["status"]) for c in found["pending_changes"]]


def test_1_5_waiting_for_each_droplet_by_id_and_by_tag() -> None:
    world = silent()
    firewall = world.good("POST", "/v2/firewalls", {**WEB, "droplet_ids": [103]})["firewall"]
    one = firewall["id"]
    assert pending(world, one) == ("waiting", [(101, False, "waiting"), (103, False, "waiting")])
    assert firewall["droplet_ids"] == [103]
    world.switches[HV2].confirm()
    assert pending(world, one) == ("waiting", [(101, False, "waiting")])
    world.switches[HV1].confirm()
    assert pending(world, one) == ("succeeded", [])
    world.good("PUT", f"/v2/firewalls/{one}", {**WEB, "droplet_ids": [103]})
    assert pending(world, one) == ("succeeded", [])  # it says what was said


def test_1_5_waiting_for_nobody() -> None:
    world = silent()
    bare = {**WEB, "droplet_ids": [], "tags": []}
    assert world.good("POST", "/v2/firewalls", bare)["firewall"]["status"] == "succeeded"


def test_1_5_removing_by_every_way_out() -> None:
    world = silent()
    body = {**WEB, "droplet_ids": [102, 103]}
    one = world.good("POST", "/v2/firewalls", body)["firewall"]["id"]
    for switch in world.switches.values():
        switch.confirm()
    resources = {"resources": [{"resource_id": "101", "resource_type": "droplet"}]}
    world.good("DELETE", "/v2/tags/web/resources", resources)
    assert (101, True, "waiting") in pending(world, one)[1]
    world.good("PUT", f"/v2/firewalls/{one}", {**body, "droplet_ids": [103]})
    assert {(101, True, "waiting"), (102, True, "waiting")} <= set(pending(world, one)[1])
    world.good("DELETE", f"/v2/firewalls/{one}/droplets", {"droplet_ids": [103]})
    assert (103, True, "waiting") in pending(world, one)[1]
    for switch in world.switches.values():
        switch.confirm()
    assert pending(world, one) == ("succeeded", [])


def test_1_5_failed_entries_stay() -> None:
    world = silent()
    one = world.good("POST", "/v2/firewalls", {**WEB, "droplet_ids": [103]})["firewall"]["id"]
    world.switches[HV1].confirm()
    world.switches[HV2].refuse()
    assert pending(world, one) == ("failed", [(103, False, "failed")])


# --------------------------------------------------------------------------------------------- 1.7 codes


@pytest.mark.parametrize("path", [(m, p) for m, p, _ in ROUTES if (m, p) in BODIES and BODIES[m, p] is not None])
def test_1_7_codes(api: Api, path: tuple[str, str]) -> None:
    """400 for what is no JSON and 422 for any other body that is wrong, on every write that has one."""
    method, one = path[0], filled(path[1], api.make()["id"])
    for body in (b"{", b"\xff\xfe", b"nonsense", b'{"a": 1, "a": 2}', b"[" * 5000):
        api.refused(method, one, body, 400)
    for value in ([], "x", 1, None, True, {"surely": "unknown"}, {}):
        api.refused(method, one, raw(value), 422)


# --------------------------------------------------------------------------------------------- 4, 5 limits, decisions


def test_4_tags_and_4_rules(api: Api) -> None:
    names = [f"t{number}" for number in range(6)]
    for name in names:
        api.good("POST", "/v2/tags", {"name": name})
    rules = [{**PING, "protocol": "tcp", "ports": str(port)} for port in range(1, 51)]
    one = f"/v2/firewalls/{api.make(name='full', tags=names[:5], inbound_rules=rules[:49])['id']}"
    said = api.refused("POST", f"{one}/tags", {"tags": names[5:]}).json["message"]
    assert "no more than 5 tags, not 6" in said
    said = api.refused("POST", f"{one}/rules", {"outbound_rules": [{**OUT, "protocol": "udp"}]}).json["message"]
    assert "no more than 50 rules, not 51" in said
    api.good("DELETE", f"{one}/rules", {"outbound_rules": [OUT]})
    api.good("POST", f"{one}/rules", {"inbound_rules": rules[49:]})
    body = {**WEB, "tags": names, "inbound_rules": rules}
    problems = api.refused("PUT", one, body).problems
    assert set(problems) == {"tags", ""}


def test_4_entries(api: Api) -> None:
    thousand = [f"10.0.{i >> 8}.{i & 255}" for i in range(1000)]
    rule = {"protocol": "tcp", "ports": "1", "sources": {"addresses": thousand}}
    one = f"/v2/firewalls/{api.make(inbound_rules=[rule])['id']}"
    assert api.good("GET", one)["firewall"]["inbound_rules"] == [rule]
    for key, more in (("addresses", [*thousand, "::1"]), ("load_balancer_uids", ["x"] * 1001)):
        body = {"inbound_rules": [{**rule, "sources": {key: more}}]}
        problems = api.refused("POST", f"{one}/rules", body).problems
        assert problems == {f"inbound_rules[0].sources.{key}": "1001 entries; no more than 1000 are allowed"}


def test_4_droplets_are_counted_once(api: Api) -> None:
    assert api.make(droplet_ids=[101, "101"] * 20)["droplet_ids"] == [101]


def test_5_empty_peers(api: Api) -> None:
    rules = [{"protocol": "tcp", "ports": "0", "sources": s} for s in ({}, None, {"tags": ["none-has-it"]})]
    api.good("POST", "/v2/tags", {"name": "none-has-it"})
    firewall = api.make(droplet_ids=[102], tags=[], inbound_rules=rules)
    resolved = api.of(OPERATOR).good("GET", "/v1/ports/p102/rules")["rules"]
    assert [rule["addresses"] for rule in resolved if rule["direction"] == "inbound"] == [[], [], []]
    assert [rule["sources"] for rule in firewall["inbound_rules"]] == [{}, {}, {"tags": ["none-has-it"]}]


def test_5_own_peer(api: Api) -> None:
    rule = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["10.0.0.2"], "droplet_ids": [102]}}
    assert api.make(droplet_ids=[102], inbound_rules=[rule])["inbound_rules"] == [rule]


def test_5_unknown_tag_and_5_unknown_droplet(api: Api) -> None:
    one = api.make()["id"]
    for method, path, body in naming("no-such", 999):
        answer = api.refused(method, filled(path, one), body)
        ((at, problem),) = answer.problems.items()
        assert at.endswith("[1]")
        assert problem in ("tag 'no-such' does not exist", "droplet 999 does not exist")
        assert problem in answer.json["message"]


def test_5_uids_are_kept_and_a_header_warns(api: Api) -> None:
    peers = {"load_balancer_uids": ["4de7ac8b-495b-4884-9a69-1050c6793cd6"], "kubernetes_ids": ["not-even.a:uuid_"]}
    rules = [{"protocol": "tcp", "ports": "80", "destinations": peers}]
    answer = api.call("POST", "/v2/firewalls", {**WEB, "outbound_rules": rules})
    assert answer.json["firewall"]["outbound_rules"] == rules
    assert "warning" in answer.headers
    assert "warning" not in api.call("POST", "/v2/firewalls", {**WEB, "name": "other"}).headers


def test_4_settings_of_each_limit() -> None:
    world = World(limits=Limits(droplets=1, tags=0, rules=1, entries=1)).furnish()
    rule = {"protocol": "icmp", "sources": {"addresses": ANYWHERE}}
    body = {"name": "fw", "inbound_rules": [rule, rule], "droplet_ids": [101, 102], "tags": ["web"]}
    answer = world.call("POST", "/v2/firewalls", body)
    assert answer.status == 422
    assert set(answer.problems) == {
        "", "droplet_ids", "tags", "inbound_rules[0].sources.addresses", "inbound_rules[1].sources.addresses",
    }  # fmt: skip
