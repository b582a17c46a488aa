"""The tenants' interface: every operation with its exact success code, and the rules that clients hold it to."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from api_server import HV1, HV2, OPERATOR, OTHER_TENANT, TENANT, VIEWER, Answer, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firewall_app.service.core import Limits

Json = dict[str, Any]

SSH = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["203.0.113.0/24"], "tags": ["web"]}}
PING = {"protocol": "icmp", "ports": "0", "sources": {"addresses": ["0.0.0.0/0", "::/0"]}}
OUT = {"protocol": "tcp", "ports": "0", "destinations": {"addresses": ["0.0.0.0/0", "::/0"]}}
WEB_FW: Json = {
    "name": "web-fw",
    "inbound_rules": [SSH, PING],
    "outbound_rules": [OUT],
    "droplet_ids": [102],
    "tags": ["web"],
}


@pytest.fixture
def world() -> World:
    return World().furnish()


def made(world: World, body: Json | None = None, **more: Any) -> Json:
    answer = world.call("POST", "/v2/firewalls", {**WEB_FW, **(body or {})}, **more)
    assert answer.status == 202, answer.body
    firewall: Json = answer.json["firewall"]
    return firewall


def read(world: World, firewall_id: str) -> Json:
    firewall: Json = world.good("GET", f"/v2/firewalls/{firewall_id}")["firewall"]
    return firewall


def written(firewall: Json) -> Json:
    return {name: firewall[name] for name in WEB_FW}


# --------------------------------------------------------------------------------------------- the hard rules


def test_R1_success_codes_are_exact(world: World) -> None:
    def expect(status: int, method: str, path: str, body: object = None) -> Answer:
        answer = world.call(method, path, body)
        assert answer.status == status, (method, path, answer.status, answer.body)
        if status == 204:
            assert answer.body == b""
            assert "Content-Type" not in answer.headers
        return answer

    created = expect(202, "POST", "/v2/firewalls", WEB_FW)
    one = f"/v2/firewalls/{created.json['firewall']['id']}"
    assert set(expect(200, "GET", "/v2/firewalls").json) == {"firewalls", "links", "meta"}
    assert set(expect(200, "GET", one).json) == {"firewall"}
    assert set(expect(200, "PUT", one, WEB_FW).json) == {"firewall"}
    expect(204, "POST", f"{one}/droplets", {"droplet_ids": [101]})
    expect(204, "DELETE", f"{one}/droplets", {"droplet_ids": [101]})
    expect(204, "POST", f"{one}/tags", {"tags": ["web"]})
    expect(204, "DELETE", f"{one}/tags", {"tags": ["web"]})
    expect(204, "POST", f"{one}/rules", {"inbound_rules": [SSH]})
    expect(204, "DELETE", f"{one}/rules", {"outbound_rules": [OUT]})
    assert len(expect(200, "GET", "/v2/droplets/102/firewalls").json["firewalls"]) == 1
    expect(204, "DELETE", one)
    assert set(expect(201, "POST", "/v2/tags", {"name": "new"}).json) == {"tag"}
    expect(201, "POST", "/v2/tags", {"name": "new"})
    expect(200, "GET", "/v2/tags")
    expect(200, "GET", "/v2/tags/new")
    resources = {"resources": [{"resource_id": "101", "resource_type": "droplet"}]}
    expect(204, "POST", "/v2/tags/new/resources", resources)
    expect(204, "DELETE", "/v2/tags/new/resources", resources)
    expect(204, "DELETE", "/v2/tags/new")
    expect(200, "GET", "/v2/droplets")
    expect(200, "GET", "/v2/droplets/101")
    expect(200, "GET", "/v2/account")


@pytest.mark.parametrize("sources", [{}, None, {"addresses": None}, {"addresses": [], "tags": []}])
def test_R2_targets_are_never_null(world: World, sources: object) -> None:
    firewall = made(world, {"inbound_rules": [{"protocol": "tcp", "ports": "80", "sources": sources}]})
    assert firewall["inbound_rules"] == [{"protocol": "tcp", "ports": "80", "sources": {}}]
    assert world.good("GET", "/v1/ports/p102/rules")["rules"][0]["addresses"] == []  # nobody, not everybody


def test_R3_empty_keys_of_targets_are_left_out(world: World) -> None:
    targets = {"addresses": ["10.0.0.0/8"], "droplet_ids": [], "load_balancer_uids": [], "tags": None}
    rule = {"protocol": "tcp", "ports": "80", "destinations": targets}
    assert made(world, {"outbound_rules": [rule]})["outbound_rules"][0]["destinations"] == {"addresses": ["10.0.0.0/8"]}


def test_R4_rules_have_three_keys_and_no_other(world: World) -> None:
    firewall = made(world)
    assert all(set(rule) == {"protocol", "ports", "sources"} for rule in firewall["inbound_rules"])
    assert all(set(rule) == {"protocol", "ports", "destinations"} for rule in firewall["outbound_rules"])


def test_R5_the_firewall_has_the_keys_of_the_public_api(world: World) -> None:
    assert set(made(world)) >= {"id", "name", "status", "created_at", "pending_changes", *WEB_FW}


@pytest.mark.parametrize("body", [{"inbound_rules": None}, {"outbound_rules": [], "droplet_ids": None, "tags": None}])
def test_R6_lists_are_never_null_or_absent(world: World, body: Json) -> None:
    firewall = world.good("POST", "/v2/firewalls", {"name": "bare", **body})["firewall"]
    for name in ("inbound_rules", "outbound_rules", "droplet_ids", "tags", "pending_changes"):
        assert firewall[name] == []


def test_R7_ids_may_be_digit_strings_and_lists_null(world: World) -> None:
    peers = {"droplet_ids": ["103"], "tags": None, "addresses": None}
    firewall = made(
        world,
        {
            "droplet_ids": ["101", 102],
            "tags": None,
            "outbound_rules": None,
            "inbound_rules": [{"protocol": "udp", "ports": 53, "sources": peers}],
        },
    )
    assert firewall["droplet_ids"] == [101, 102]
    assert firewall["inbound_rules"] == [{"protocol": "udp", "ports": "53", "sources": {"droplet_ids": [103]}}]


def test_R7_a_tag_or_droplet_named_twice_is_attached_once(world: World) -> None:
    firewall = made(world, {"droplet_ids": [101, "101"], "tags": ["WEB", "web"]})
    assert (firewall["droplet_ids"], firewall["tags"]) == ([101], ["WEB"])


def test_R8_links_lead_back_to_where_the_request_came(world: World) -> None:
    for number in range(5):
        made(world, {"name": f"fw-{number}"})
    headers = {"Host": "fw.example:8443", "X-Forwarded-Proto": "https"}
    answer = world.call("GET", "/v2/firewalls?per_page=2&page=2", headers=headers).json
    pages = answer["links"]["pages"]
    assert set(pages) == {"first", "prev", "next", "last"}
    following = urlsplit(pages["next"])
    assert (following.scheme, following.netloc, following.path) == ("https", "fw.example:8443", "/v2/firewalls")
    assert parse_qs(following.query) == {"page": ["3"], "per_page": ["2"]}
    assert parse_qs(urlsplit(pages["last"]).query)["page"] == ["3"]


def test_R9_values_are_echoed_as_written(world: World) -> None:
    rule = {
        "protocol": "tcp",
        "ports": "8000-9000",
        "sources": {
            "addresses": ["2001:DB8:0::/48", "10.1.2.3/8", "10.0.0.0/8"],
            "tags": ["WEB"],
            "load_balancer_uids": ["b", "a"],
        },
    }
    firewall = made(world, {"inbound_rules": [PING, rule], "tags": ["Web"]})
    assert firewall["inbound_rules"] == [PING, rule]
    assert firewall["tags"] == ["Web"]
    assert written(read(world, firewall["id"])) == {**WEB_FW, "inbound_rules": [PING, rule], "tags": ["Web"]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "slug", "message"),
    [
        ("POST", "/v2/firewalls", b"{", 400, "bad_request", "error parsing request body"),
        ("GET", "/v2/firewalls/none", None, 404, "not_found", "The resource you requested could not be found."),
        ("GET", "/v2/nothing", None, 404, "not_found", "The resource you requested could not be found."),
        ("PATCH", "/v2/firewalls", None, 405, "method_not_allowed", "PATCH is not possible here, only GET, HEAD, POST"),
        ("POST", "/v2/firewalls", WEB_FW, 409, "conflict", "duplicate name"),
        ("GET", "/v2/firewalls?page=0", None, 422, "unprocessable_entity", "page: must be a number from 1"),
    ],
)
def test_R10_errors_have_id_and_message(
    world: World, method: str, path: str, body: object, status: int, slug: str, message: str
) -> None:
    made(world)
    answer = world.call(method, path, body)
    assert (answer.status, answer.json["id"], answer.json["message"]) == (status, slug, message)
    assert answer.json["request_id"] == answer.headers["x-request-id"]


def test_R10_a_body_that_is_no_json_has_a_shape_of_its_own_for_tags(world: World) -> None:
    answer = world.call("POST", "/v2/tags/", b"nonsense")
    assert answer.status == 400
    assert set(answer.json) >= {"id", "message", "error", "messages", "root_causes"}


def test_R11_a_trailing_slash_changes_nothing(world: World) -> None:
    answer = world.call("POST", "/v2/firewalls/", WEB_FW)
    assert answer.status == 202
    one = f"/v2/firewalls/{answer.json['firewall']['id']}/"
    assert world.call("GET", one).json["firewall"]["name"] == "web-fw"
    assert world.call("DELETE", one, {}).status == 204


@pytest.mark.parametrize("body", [None, {}, b"", b"  ", b"not even JSON"])
def test_R12_the_body_of_a_delete_is_read_where_it_means_something(world: World, body: object) -> None:
    one = f"/v2/firewalls/{made(world)['id']}"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert world.call("DELETE", f"{one}/rules", {"inbound_rules": [SSH]}, headers=headers).status == 204
    assert world.good("GET", one)["firewall"]["inbound_rules"] == [PING]
    assert world.call("DELETE", one, body, headers=headers).status == 204


def test_R13_a_deleted_firewall_is_not_found(world: World) -> None:
    one = f"/v2/firewalls/{made(world)['id']}"
    world.good("DELETE", one)
    for method in ("GET", "PUT", "DELETE"):
        assert world.call(method, one, WEB_FW).status == 404
    assert world.good("GET", "/v2/firewalls")["firewalls"] == []


def test_R14_a_second_delete_reads_404_not_found_and_has_no_request_id(world: World) -> None:
    answer = world.call("DELETE", "/v2/firewalls/gone")
    assert answer.status == 404
    assert answer.json["message"].startswith("Not Found")
    assert "request_id" not in answer.json
    assert "x-request-id" not in answer.headers


def test_R15_writes_are_read_at_once_while_they_wait(world: World) -> None:
    for switch in world.switches.values():
        switch.mode = "silent"
    firewall = made(world)
    assert firewall["status"] == "waiting"
    assert read(world, firewall["id"]) == firewall
    world.good("PUT", f"/v2/firewalls/{firewall['id']}", {**WEB_FW, "name": "renamed"})
    assert world.good("GET", "/v2/firewalls")["firewalls"][0]["name"] == "renamed"


def test_R16_adding_what_is_there_and_removing_what_is_not_are_no_errors(world: World) -> None:
    one = f"/v2/firewalls/{made(world)['id']}"
    revision = world.core.revision
    assert world.call("POST", f"{one}/rules", {"inbound_rules": [SSH]}).status == 204
    answer = world.call("DELETE", f"{one}/rules", {"inbound_rules": [{**SSH, "ports": "23"}], "outbound_rules": [OUT]})
    assert answer.status == 204
    assert answer.headers["x-firewall-rules-unmatched"] == "1"
    assert world.call("DELETE", f"{one}/droplets", {"droplet_ids": [103]}).status == 204
    assert world.call("DELETE", f"{one}/tags", {"tags": ["unheard-of"]}).status == 204
    assert written(read(world, one[14:])) == {**WEB_FW, "outbound_rules": []}
    assert world.core.revision == revision + 1


def test_R17_id_and_created_at_survive_a_put(world: World) -> None:
    firewall = made(world)
    changed = world.good("PUT", f"/v2/firewalls/{firewall['id']}", {"name": "other", "inbound_rules": []})["firewall"]
    assert (changed["id"], changed["created_at"]) == (firewall["id"], firewall["created_at"])
    assert firewall["created_at"].endswith("Z")
    assert (changed["droplet_ids"], changed["tags"], changed["outbound_rules"]) == ([], [], [])


# --------------------------------------------------------------------------------------------- rules, removed


@pytest.mark.parametrize(
    ("sent", "left"),
    [
        ({"ports": "all"}, 0),  # the spelling of ports does not matter ...
        ({"ports": 0}, 0),
        ({"destinations": {"addresses": ["::/0", "0.0.0.0/0"]}}, 0),  # ... nor the order of targets
        ({"destinations": {"addresses": ["::/0"]}}, 1),  # but part of a rule is another rule
        ({"ports": "1-65535"}, 1),
        ({"protocol": "udp"}, 1),
    ],
)
def test_rules_to_remove_match_whole(world: World, sent: Json, left: int) -> None:
    one = f"/v2/firewalls/{made(world)['id']}"
    answer = world.call("DELETE", f"{one}/rules", {"outbound_rules": [{**OUT, **sent}]})
    assert answer.status == 204
    assert answer.headers.get("x-firewall-rules-unmatched") == ("1" if left else None)
    assert len(world.good("GET", one)["firewall"]["outbound_rules"]) == left


def test_targets_that_match_nobody_carry_a_warning(world: World) -> None:
    rule = {"protocol": "tcp", "ports": "80", "sources": {"kubernetes_ids": ["k"]}}
    answer = world.call("POST", "/v2/firewalls", {"name": "lb", "inbound_rules": [rule]})
    assert "match nobody" in answer.headers["Warning"]
    one = f"/v2/firewalls/{answer.json['firewall']['id']}"
    assert "Warning" in world.call("POST", f"{one}/rules", {"inbound_rules": [rule]}).headers
    assert "Warning" not in world.call("PUT", one, WEB_FW).headers


# --------------------------------------------------------------------------------------------- faults of bodies


def test_every_fault_is_listed_with_its_path(world: World) -> None:
    body = {
        "nme": "x",
        "name": "no spaces",
        "inbound_rules": [
            {"protocol": "tcp", "prots": "22", "sources": {"addresses": ["10.0.0.0/8", ""], "droplet_ids": [True]}},
            {"protocol": "sctp", "ports": "1", "sources": [], "id": 1},
        ],
        "outbound_rules": [{"protocol": "tcp", "ports": "9-1"}],
        "tags": [3],
    }
    answer = world.call("POST", "/v2/firewalls", body)
    assert answer.status == 422
    assert answer.problems == {
        "nme": "unknown field; did you mean 'name'?",
        "name": "'no spaces' is not a firewall name: two or more letters, digits, '.', '-', the first no sign",
        "inbound_rules[0].ports": "You must specify a positive value for ports.",
        "inbound_rules[0].prots": "unknown field; did you mean 'ports'?",
        "inbound_rules[0].sources.addresses[1]": "invalid address",
        "inbound_rules[0].sources.droplet_ids[0]": "must be a droplet id: a positive integer up to 9007199254740992",
        "inbound_rules[1].protocol": "must be 'tcp', 'udp' or 'icmp'",
        "inbound_rules[1].sources": "You specified an invalid type for one of the sources.",
        "inbound_rules[1].id": "unknown field",
        "outbound_rules[0].ports": "you must specify a valid range for ports: first 9 is after last 1",
        "outbound_rules[0].destinations": "is required",
        "tags[0]": "must be a string",
    }
    assert answer.json["message"].endswith("; and 9 more")
    assert world.good("GET", "/v2/firewalls")["meta"]["total"] == 0


def test_a_firewall_names_at_least_one_kind_of_rules(world: World) -> None:
    answer = world.call("POST", "/v2/firewalls", {"name": "x"})
    assert answer.status == 422
    assert answer.problems == {
        "": "one of inbound_rules and outbound_rules is needed",
        "name": "'x' is not a firewall name: two or more letters, digits, '.', '-', the first no sign",
    }


def test_what_does_not_exist_is_named(world: World) -> None:
    targets = {"tags": ["web", "nope"], "droplet_ids": [201]}
    answer = world.call(
        "POST",
        "/v2/firewalls",
        {
            "name": "fw",
            "inbound_rules": [{"protocol": "icmp", "sources": targets}],
            "droplet_ids": [101, 999],
            "tags": ["secret"],
        },
    )
    assert answer.status == 422
    assert answer.problems == {
        "droplet_ids[1]": "droplet 999 does not exist",
        "tags[0]": "tag 'secret' does not exist",  # it is another account's
        "inbound_rules[0].sources.droplet_ids[0]": "droplet 201 does not exist",
        "inbound_rules[0].sources.tags[1]": "tag 'nope' does not exist",
    }


def test_limits_are_named_with_the_count() -> None:
    world = World(limits=Limits(droplets=1, tags=1, rules=2, entries=1)).furnish()
    world.good("POST", "/v2/tags", {"name": "t2"})
    answer = world.call("POST", "/v2/firewalls", {**WEB_FW, "droplet_ids": [101, 102], "tags": ["web", "t2"]})
    assert answer.status == 422
    assert answer.problems == {
        "droplet_ids": "must have no more than 1 droplets, not 2",
        "tags": "must have no more than 1 tags, not 2",
        "": "must have no more than 2 rules, not 3",
        "inbound_rules[1].sources.addresses": "2 entries; no more than 1 are allowed",
        "outbound_rules[0].destinations.addresses": "2 entries; no more than 1 are allowed",
    }


def test_an_account_has_so_many_firewalls_and_tags_and_no_more() -> None:
    world = World(limits=Limits(account_firewalls=2, account_tags=2)).furnish()
    first, second = (world.good("POST", "/v2/firewalls", {**WEB_FW, "name": name})["firewall"] for name in ("f1", "f2"))
    answer = world.call("POST", "/v2/firewalls", {**WEB_FW, "name": "f3"})
    problem = "account default has 2 firewalls; no more than 2 are allowed"
    assert (answer.status, answer.problems) == (422, {"": problem})
    world.good("POST", "/v2/firewalls", {"name": "f3", "inbound_rules": []}, token=OTHER_TENANT)
    world.good("PUT", f"/v2/firewalls/{first['id']}", {**WEB_FW, "name": "f4"})
    world.good("DELETE", f"/v2/firewalls/{second['id']}")
    world.good("POST", "/v2/firewalls", {**WEB_FW, "name": "f3"})

    world.good("POST", "/v2/tags", {"name": "t2"})  # the other one is `web`
    answer = world.call("POST", "/v2/tags", {"name": "t3"})
    assert (answer.status, answer.problems) == (422, {"": "account default has 2 tags; no more than 2 are allowed"})
    world.good("POST", "/v2/tags", {"name": "T2"})  # is there
    world.good("POST", "/v2/tags", {"name": "t3"}, token=OTHER_TENANT)
    world.good("PUT", "/v1/droplets/101", {"tags": ["web", "by-operators"]})
    assert world.call("POST", "/v2/tags", {"name": "t4"}).json["message"].startswith("account default has 3 tags")

    world.core.limits = Limits(account_firewalls=0, account_tags=0)
    world.good("POST", "/v2/firewalls", {**WEB_FW, "name": "f5"})
    world.good("POST", "/v2/tags", {"name": "t4"})


@pytest.mark.parametrize("part", ["droplets", "tags", "rules"])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_parts_of_a_firewall_need_a_body_and_a_firewall(world: World, method: str, part: str) -> None:
    one = f"/v2/firewalls/{made(world)['id']}/{part}"
    assert world.call(method, one, {}).status == 422
    assert world.call(method, one).status == (400 if method == "POST" else 422)
    bodies: Json = {"droplets": {"droplet_ids": [101]}, "tags": {"tags": ["web"]}, "rules": {"inbound_rules": [SSH]}}
    assert world.call(method, f"/v2/firewalls/none/{part}", bodies[part]).status == 404
    if method == "POST":
        wrong: Json = {
            "droplets": {"droplet_ids": [999]},
            "tags": {"tags": ["nope"]},
            "rules": {"inbound_rules": [{**SSH, "sources": {"tags": ["nope"]}}]},
        }
        assert world.call(method, one, wrong[part]).status == 422


def test_droplets_and_tags_are_added_and_removed(world: World) -> None:
    one = f"/v2/firewalls/{made(world)['id']}"
    world.good("POST", f"{one}/droplets", {"droplet_ids": ["103", 102]})
    world.good("POST", f"{one}/tags", {"tags": ["WEB"]})  # it is there, in another spelling
    assert written(read(world, one[14:])) == {**WEB_FW, "droplet_ids": [102, 103]}
    world.good("DELETE", f"{one}/droplets", {"droplet_ids": [102]})
    world.good("DELETE", f"{one}/tags", {"tags": ["WEB"]})
    assert written(read(world, one[14:])) == {**WEB_FW, "droplet_ids": [103], "tags": []}


def test_names_are_unique_within_an_account(world: World) -> None:
    made(world)
    other = made(world, {"name": "db-fw"})
    assert world.call("PUT", f"/v2/firewalls/{other['id']}", WEB_FW).status == 409
    bare = {"droplet_ids": [], "tags": [], "inbound_rules": []}
    assert made(world, bare, token=OTHER_TENANT)["name"] == "web-fw"


# --------------------------------------------------------------------------------------------- how far it has come


def test_pending_changes_tell_how_far_a_change_has_come(world: World) -> None:
    first, second = world.switches[HV1], world.switches[HV2]
    first.mode = second.mode = "silent"
    firewall = made(world, {"droplet_ids": [103]})  # and 101 by its tag
    assert firewall["status"] == "waiting"
    assert firewall["pending_changes"] == [
        {"droplet_id": 101, "removing": False, "status": "waiting"},
        {"droplet_id": 103, "removing": False, "status": "waiting"},
    ]
    first.confirm()
    assert read(world, firewall["id"])["pending_changes"] == [
        {"droplet_id": 103, "removing": False, "status": "waiting"}
    ]
    second.refuse()
    failed = read(world, firewall["id"])
    assert failed["status"] == "failed"
    assert failed["pending_changes"] == [{"droplet_id": 103, "removing": False, "status": "failed"}]
    second.confirm()
    assert (read(world, firewall["id"])["status"], read(world, firewall["id"])["pending_changes"]) == ("succeeded", [])


def test_a_droplet_that_leaves_is_pending_as_removing(world: World) -> None:
    firewall = made(world, {"droplet_ids": [103], "tags": []})
    world.switches[HV2].mode = "silent"
    world.good("DELETE", f"/v2/firewalls/{firewall['id']}/droplets", {"droplet_ids": [103]})
    left = read(world, firewall["id"])
    assert left["droplet_ids"] == []
    assert left["pending_changes"] == [{"droplet_id": 103, "removing": True, "status": "waiting"}]
    world.switches[HV2].confirm()
    assert read(world, firewall["id"])["pending_changes"] == []


def test_a_firewall_without_droplets_has_succeeded_at_once(world: World) -> None:
    for switch in world.switches.values():
        switch.mode = "silent"
    assert made(world, {"droplet_ids": [], "tags": []})["status"] == "succeeded"


# --------------------------------------------------------------------------------------------- accounts


def test_what_is_in_another_account_does_not_exist(world: World) -> None:
    ours = made(world)["id"]

    def status(method: str, path: str, body: object = None) -> int:
        return world.call(method, path, body, token=OTHER_TENANT).status

    assert world.good("GET", "/v2/firewalls", token=OTHER_TENANT)["meta"]["total"] == 0
    assert [d["id"] for d in world.good("GET", "/v2/droplets", token=OTHER_TENANT)["droplets"]] == [201]
    assert [t["name"] for t in world.good("GET", "/v2/tags", token=OTHER_TENANT)["tags"]] == ["secret"]
    for method in ("GET", "PUT", "DELETE"):
        assert status(method, f"/v2/firewalls/{ours}", {**WEB_FW, "droplet_ids": [], "tags": []}) == 404
    assert status("GET", "/v2/droplets/101") == 404
    assert status("GET", "/v2/droplets/101/firewalls") == 404
    assert status("GET", "/v2/tags/web") == 404
    assert status("DELETE", "/v2/tags/web") == 404
    resources = {"resources": [{"resource_id": "101", "resource_type": "droplet"}]}
    assert status("POST", "/v2/tags/secret/resources", resources) == 422
    assert status("POST", "/v2/firewalls", {"name": "mine", "inbound_rules": [], "droplet_ids": [101]}) == 422
    assert read(world, ours)["name"] == "web-fw"


def test_an_operator_names_the_account_and_a_tenant_has_one(world: World) -> None:
    bare = {"name": "theirs", "inbound_rules": [], "droplet_ids": [201]}
    assert world.call("POST", "/v2/firewalls?account=acme", bare).status == 202
    assert world.good("GET", "/v2/firewalls?account=acme", token=VIEWER)["meta"]["total"] == 1
    assert world.good("GET", "/v2/firewalls", token=OTHER_TENANT)["meta"]["total"] == 1
    assert world.good("GET", "/v2/firewalls?account=acme", token=OTHER_TENANT)["meta"]["total"] == 1
    assert world.good("GET", "/v2/firewalls")["meta"]["total"] == 0
    assert world.call("GET", "/v2/firewalls?account=acme", token=TENANT).status == 403
    assert world.call("GET", "/v2/firewalls?account=a%00b", token=OPERATOR).problems == {
        "account": "must be an account: 1 to 64 letters, digits, '.', '_', ':', '-'"
    }


def test_the_account_is_named_to_those_who_ask(world: World) -> None:
    account = world.good("GET", "/v2/account", token=OTHER_TENANT)["account"]
    assert account["email"] == "acme@localhost"
    assert account["status"] == "active"
    assert account["uuid"] == world.good("GET", "/v2/account?account=acme")["account"]["uuid"]


# --------------------------------------------------------------------------------------------- droplets and tags

REQUIRED = (
    "id", "name", "memory", "vcpus", "disk", "locked", "status", "created_at", "features", "backup_ids",
    "next_backup_window", "snapshot_ids", "image", "volume_ids", "size", "size_slug", "networks", "region", "tags",
)  # fmt: skip


def test_a_droplet_has_every_required_key(world: World) -> None:
    droplet = world.good("GET", "/v2/droplets/101")["droplet"]
    assert set(REQUIRED) <= set(droplet)
    assert droplet["region"]["slug"] == droplet["image"]["name"] == ""
    assert droplet["tags"] == ["web"]
    assert droplet["networks"] == {
        "v4": [{"ip_address": "203.0.113.1", "netmask": "255.255.255.255", "gateway": "", "type": "public"}],
        "v6": [{"ip_address": "2001:db8::1", "netmask": 128, "gateway": "", "type": "public"}],
    }


def test_private_addresses_are_told_from_public_ones(world: World) -> None:
    networks = world.good("GET", "/v2/droplets/103")["droplet"]["networks"]
    assert networks["v4"] == [  # 10.9.0.0/24 is no address
        {"ip_address": "10.0.0.3", "netmask": "255.255.255.255", "gateway": None, "type": "private"}
    ]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", [101, 102, 103]),
        ("?tag_name=WEB", [101]),
        ("?tag_name=none", []),
        ("?name=Web-2", [102]),
        ("?name=web", []),
        ("?type=droplets", [101, 102, 103]),
        ("?type=gpus", []),
        ("?per_page=2&page=2", [103]),
    ],
)
def test_droplets_are_filtered(world: World, query: str, found: list[int]) -> None:
    assert [droplet["id"] for droplet in world.good("GET", f"/v2/droplets{query}")["droplets"]] == found


@pytest.mark.parametrize("query", ["tag_name=web&name=x", "tag_name=web&type=droplets", "type=cars"])
def test_filters_that_cannot_be_are_refused(world: World, query: str) -> None:
    assert world.call("GET", f"/v2/droplets?{query}").status == 422


@pytest.mark.parametrize("number", ["999", "abc", "0", "-1", "1e2", "9" * 30, "%D9%A3"])
def test_a_droplet_that_is_not_there_is_not_found(world: World, number: str) -> None:
    assert world.call("GET", f"/v2/droplets/{number}").status == 404
    assert world.call("GET", f"/v2/droplets/{number}/firewalls").status == 404


def test_firewalls_of_a_droplet_are_those_attached_and_those_of_its_tags(world: World) -> None:
    by_tag = made(world, {"droplet_ids": []})["id"]
    direct = made(world, {"name": "direct", "droplet_ids": [101], "tags": []})["id"]
    made(world, {"name": "other", "droplet_ids": [102], "tags": []})
    found = world.good("GET", "/v2/droplets/101/firewalls?per_page=1")
    assert found["meta"]["total"] == 2
    assert [f["id"] for f in found["firewalls"]] == [by_tag]
    assert [f["id"] for f in world.good("GET", "/v2/droplets/101/firewalls?page=2&per_page=1")["firewalls"]] == [direct]


def test_a_tag_keeps_its_first_spelling_and_counts_its_droplets(world: World) -> None:
    tag = world.good("POST", "/v2/tags", {"name": "WEB"})["tag"]
    assert tag["name"] == "web"
    assert tag["resources"]["count"] == tag["resources"]["droplets"]["count"] == 1
    assert world.good("GET", "/v2/tags")["meta"]["total"] == 1
    resources = {"resources": [{"resource_id": "102", "resource_type": "droplet"}]}
    world.good("POST", "/v2/tags/web/resources", resources)
    assert world.good("GET", "/v2/tags/web")["tag"]["resources"]["count"] == 2
    world.good("DELETE", "/v2/tags/web/resources", resources)
    assert world.good("GET", "/v2/droplets/102")["droplet"]["tags"] == []


def test_a_deleted_tag_is_gone_everywhere(world: World) -> None:
    firewall = made(world)
    world.good("DELETE", "/v2/tags/web")
    left = read(world, firewall["id"])
    assert left["tags"] == []
    assert left["inbound_rules"][0]["sources"] == {"addresses": ["203.0.113.0/24"]}
    assert world.good("GET", "/v2/droplets/101")["droplet"]["tags"] == []
    assert world.call("GET", "/v2/tags/web").status == 404


@pytest.mark.parametrize(
    ("path", "body", "at"),
    [
        ("/v2/tags", {"name": "a b"}, "name"),
        ("/v2/tags", {"name": "a" * 256}, "name"),
        ("/v2/tags", {}, "name"),
        ("/v2/tags/web/resources", {"resources": [{"resource_id": "x", "resource_type": "droplet"}]},
         "resources[0].resource_id"),
        ("/v2/tags/web/resources", {"resources": [{"resource_id": "1", "resource_type": "image"}]},
         "resources[0].resource_type"),
        ("/v2/tags/web/resources", {"resources": [{"resource_id": "999", "resource_type": "droplet"}]},
         "resources[0].resource_id"),
    ],
)  # fmt: skip
def test_faults_of_tags(world: World, path: str, body: object, at: str) -> None:
    answer = world.call("POST", path, body)
    assert (answer.status, list(answer.problems)) == (422, [at])


# --------------------------------------------------------------------------------------------- round trip

ADDRESSES = st.one_of(st.ip_addresses().map(str), st.just("10.0.0.0/8"), st.just("2001:DB8::/32"), st.just("::/0"))
TARGETS = st.fixed_dictionaries(
    {},
    optional={
        "addresses": st.lists(ADDRESSES, min_size=1, max_size=3),
        "droplet_ids": st.lists(st.sampled_from([101, 102, 103]), min_size=1, max_size=3),
        "tags": st.lists(st.sampled_from(["web", "WEB", "db"]), min_size=1, max_size=2),
        "kubernetes_ids": st.lists(st.uuids().map(str), min_size=1, max_size=2),
    },
)
PORTS = st.one_of(
    st.just("0"),
    st.just("1-65535"),
    st.integers(1, 65535).map(str),
    st.tuples(st.integers(1, 65535), st.integers(1, 65535))
    .filter(lambda pair: pair[0] < pair[1])
    .map(lambda pair: f"{pair[0]}-{pair[1]}"),
)


def rule_lists(key: str) -> st.SearchStrategy[list[Json]]:
    with_ports = st.fixed_dictionaries({"protocol": st.sampled_from(["tcp", "udp"]), "ports": PORTS, key: TARGETS})
    icmp = st.fixed_dictionaries(
        {"protocol": st.just("icmp"), "ports": st.sampled_from(["0", "1-65535"]), key: TARGETS}
    )
    return st.lists(st.one_of(with_ports, icmp), max_size=4)


FIREWALLS = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9.-]{1,20}", fullmatch=True),
        "inbound_rules": rule_lists("sources"),
        "outbound_rules": rule_lists("destinations"),
        "droplet_ids": st.lists(st.sampled_from([101, 102, 103]), unique=True),
        "tags": st.lists(st.sampled_from(["web", "DB"]), unique=True),
    }
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FIREWALLS)
def test_what_is_read_is_what_was_written_and_writing_it_back_changes_nothing(body: Json) -> None:
    world = World().furnish()
    world.good("POST", "/v2/tags", {"name": "db"})
    firewall = made(world, body)
    one = f"/v2/firewalls/{firewall['id']}"
    assert written(firewall) == body
    # (That a switch that is asked once more gets no message is for the tests of sessions.)
    before = world.core.revision, world.store.revision
    assert world.good("PUT", one, world.good("GET", one)["firewall"])["firewall"] == firewall
    assert before == (world.core.revision, world.store.revision)


def test_a_rule_may_say_that_it_allows_and_nothing_else(world: World) -> None:
    firewall = made(world, {"inbound_rules": [{**SSH, "action": "allow"}, {**PING, "action": None}]})
    assert firewall["inbound_rules"] == [SSH, PING]
    answer = world.call("POST", "/v2/firewalls", {"name": "x2", "inbound_rules": [{**SSH, "action": "deny"}]})
    assert (answer.status, answer.problems) == (422, {"inbound_rules[0].action": "must be 'allow'"})


def test_a_droplet_behind_too_many_firewalls_is_told_by_its_place() -> None:
    world = World(limits=Limits(firewalls=1)).furnish()
    world.good("POST", "/v2/firewalls", {"name": "first", "inbound_rules": [], "droplet_ids": [101, 102]})
    second = world.good("POST", "/v2/firewalls", {"name": "second", "inbound_rules": []})["firewall"]["id"]
    world.good("POST", "/v2/tags", {"name": "other"})
    world.good("POST", "/v2/firewalls", {"name": "third", "inbound_rules": [], "tags": ["other"]})
    one, resource = f"/v2/firewalls/{second}", {"resource_type": "droplet"}
    for method, path, body, at in (
        (
            "POST",
            "/v2/firewalls",
            {"name": "fw", "inbound_rules": [], "droplet_ids": [103, 103, 102]},
            "droplet_ids[2]",
        ),
        ("PUT", one, {"name": "fw", "inbound_rules": [], "tags": ["other", "WEB"]}, "tags[1]"),
        ("POST", f"{one}/droplets", {"droplet_ids": [103, 101]}, "droplet_ids[1]"),
        ("POST", f"{one}/tags", {"tags": ["other", "web"]}, "tags[1]"),
        (
            "POST",
            "/v2/tags/other/resources",
            {"resources": [{"resource_id": number, **resource} for number in (103, 102)]},
            "resources[1].resource_id",
        ),
        ("PUT", "/v1/droplets/101", {"tags": ["web", "other"]}, "tags"),
    ):
        answer = world.call(method, path, body)
        assert (answer.status, list(answer.problems)) == (422, [at]), (method, path)
        assert "would be behind 2 firewalls; no more than 1 are allowed" in answer.problems[at]


def test_nothing_is_remembered_of_accounts_that_have_no_firewalls(world: World) -> None:
    made = world.good("POST", "/v2/firewalls?account=acme", {"name": "one", "inbound_rules": []})["firewall"]
    assert [f["id"] for f in world.good("GET", "/v2/firewalls?account=acme")["firewalls"]] == [made["id"]]
    world.good("DELETE", f"/v2/firewalls/{made['id']}?account=acme")
    for name in ("acme", "nobody", "nobody-else"):
        assert world.good("GET", f"/v2/firewalls?account={name}")["firewalls"] == []
    assert not world.core.by_age
