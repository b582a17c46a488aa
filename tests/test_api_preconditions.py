"""If-Match, If-None-Match, Idempotency-Key; how often a token and an address may ask; pages of other origins."""

from __future__ import annotations

from typing import Any

import pytest
from api_server import HV1, OPERATOR, OTHER_TENANT, TENANT, VIEWER, World

from firewall_app.api.app import _address
from firewall_app.api.errors import TooMany
from firewall_app.api.limits import MOST_KNOWN, FailedAttempts, RateLimits, Window, Windows
from firewall_app.settings import Settings
from firewall_app.store import Store

Json = dict[str, Any]
RULE = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["203.0.113.0/24"]}}
FIREWALL: Json = {"name": "web-fw", "inbound_rules": [RULE], "droplet_ids": [102], "tags": ["web"]}


@pytest.fixture
def world() -> World:
    return World().furnish()


def made(world: World, **headers: str) -> Any:
    return world.call("POST", "/v2/firewalls", FIREWALL, headers=headers)


# --------------------------------------------------------------------------------------------- entity tags

OBJECTS = [
    (f"/v1/hypervisors/{HV1}", {"name": "other", "uplinks": ["eth*"]}),
    ("/v1/droplets/101", {"name": "other", "tags": ["web"]}),
    ("/v1/ports/p102", None),
    ("/v1/ports/p102/rules", {"inbound_rules": [RULE]}),
]


@pytest.mark.parametrize(("path", "body"), OBJECTS)
def test_a_write_counts_only_for_what_its_caller_has_seen(world: World, path: str, body: Json | None) -> None:
    seen = world.call("GET", path)
    tag = seen.headers["ETag"]
    changed = body or {**seen.json, "addresses": ["10.0.0.9"]}
    first = world.call("PUT", path, changed, headers={"If-Match": tag})
    assert first.status == 200
    assert first.headers["ETag"] == world.call("GET", path).headers["ETag"] != tag
    revision = world.core.revision
    second = world.call("PUT", path, seen.json, headers={"If-Match": tag})
    assert (second.status, second.json["id"]) == (412, "precondition_failed")
    assert first.headers["ETag"] in second.json["message"]
    assert world.call("DELETE", path, headers={"If-Match": tag}).status == 412
    assert world.core.revision == revision
    several = f'"other", {first.headers["ETag"]}'
    assert world.call("PUT", path, seen.json, headers={"If-Match": several}).status == 200


def test_the_tag_of_a_firewall_follows_every_way_to_change_it(world: World) -> None:
    created = made(world)
    path = f"/v2/firewalls/{created.json['firewall']['id']}"
    tags = [created.headers["ETag"]]
    for method, part, body in (
        ("POST", "/droplets", {"droplet_ids": [101]}),
        ("POST", "/tags", {"tags": []}),
        ("DELETE", "/tags", {"tags": ["web"]}),
        ("POST", "/rules", {"inbound_rules": [{**RULE, "ports": "80"}]}),
        ("DELETE", "/rules", {"inbound_rules": [RULE]}),
        ("PUT", "", {**FIREWALL, "name": "other"}),
    ):
        answer = world.call(method, path + part, body, headers={"If-Match": tags[-1]})
        assert answer.status in (200, 204), (part, answer.body)
        assert answer.headers["ETag"] == world.call("GET", path).headers["ETag"]
        assert (answer.headers["ETag"] == tags[-1]) == (body == {"tags": []})
        tags.append(answer.headers["ETag"])
        assert world.call("DELETE", path, headers={"If-Match": tags[0]}).status == 412
    assert world.call("DELETE", path, headers={"If-Match": tags[-1]}).status == 204


def test_a_tag_stays_while_switches_follow(world: World) -> None:
    world.switches[HV1].mode = "silent"
    created = made(world)
    path = f"/v2/firewalls/{created.json['firewall']['id']}"
    assert created.json["firewall"]["status"] == "waiting"
    world.switches[HV1].confirm()
    read = world.call("GET", path)
    assert read.json["firewall"]["status"] == "succeeded"
    assert read.headers["ETag"] == created.headers["ETag"]


def test_a_tag_that_was_deleted_and_made_again_is_another_one(world: World) -> None:
    first = world.call("GET", "/v2/tags/web").headers["ETag"]
    world.good("DELETE", "/v2/tags/web")
    again = world.call("POST", "/v2/tags", {"name": "web"})
    assert again.headers["ETag"] == world.call("GET", "/v2/tags/web").headers["ETag"] != first
    assert world.call("DELETE", "/v2/tags/web", headers={"If-Match": first}).status == 412


def test_only_what_is_there_or_not_there_yet(world: World) -> None:
    body = {"name": "new"}
    assert world.call("PUT", "/v1/droplets/300", body, headers={"If-Match": "*"}).status == 412
    assert world.call("PUT", "/v1/droplets/300", body, headers={"If-None-Match": "*"}).status == 201
    answer = world.call("PUT", "/v1/droplets/300", {"name": "other"}, headers={"If-None-Match": "*"})
    assert answer.status == 412
    assert world.good("GET", "/v1/droplets/300")["name"] == "new"
    assert world.call("PUT", "/v1/droplets/300", {"name": "other"}, headers={"If-Match": "*"}).status == 200


@pytest.mark.parametrize("tag", ["bare", '"', "", '"a" "b"', "*, *", '"a\x07"'])
def test_what_is_no_entity_tag_is_refused(world: World, tag: str) -> None:
    assert world.call("PUT", "/v1/droplets/101", {"name": "x"}, headers={"If-Match": tag}).status == 400


def test_a_weak_tag_never_matches(world: World) -> None:
    tag = world.call("GET", "/v1/droplets/101").headers["ETag"]
    assert world.call("PUT", "/v1/droplets/101", {"name": "x"}, headers={"If-Match": f"W/{tag}"}).status == 412


def test_a_condition_on_what_has_no_tag_is_refused(world: World) -> None:
    assert world.call("POST", "/v2/firewalls", FIREWALL, headers={"If-Match": '"a"'}).status == 400
    assert world.good("GET", "/v2/firewalls")["firewalls"] == []


def test_the_tag_of_anothers_object_says_nothing(world: World) -> None:
    created = made(world)
    path = f"/v2/firewalls/{created.json['firewall']['id']}"
    tag = created.headers["ETag"]
    right = world.call("PUT", path, FIREWALL, token=OTHER_TENANT, headers={"If-Match": tag})
    wrong = world.call("PUT", path, FIREWALL, token=OTHER_TENANT, headers={"If-Match": '"x"'})
    none = world.call("PUT", "/v2/firewalls/none", FIREWALL, token=OTHER_TENANT, headers={"If-Match": '"x"'})
    assert {right.status, wrong.status, none.status} == {412}
    assert right.json["message"] == wrong.json["message"] == none.json["message"]


# --------------------------------------------------------------------------------------------- Idempotency-Key


def test_the_same_create_twice_makes_one_firewall(world: World) -> None:
    first, second = (made(world, **{"Idempotency-Key": "abc"}) for _ in range(2))
    assert (first.status, second.status) == (202, 202)
    assert first.json["firewall"]["id"] == second.json["firewall"]["id"]
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert world.good("GET", "/v2/firewalls")["meta"]["total"] == 1
    assert made(world, **{"Idempotency-Key": '"abc"'}).headers["Idempotent-Replayed"] == "true"
    assert made(world, **{"Idempotency-Key": "other"}).status == 409


def test_a_key_is_for_one_request_of_one_caller(world: World) -> None:
    made(world, **{"Idempotency-Key": "abc"})
    other = world.call("POST", "/v2/firewalls", {**FIREWALL, "name": "x2"}, headers={"Idempotency-Key": "abc"})
    assert (other.status, list(other.problems)) == (422, ["Idempotency-Key"])
    body = {"name": "web-fw", "inbound_rules": [RULE]}
    theirs = world.call("POST", "/v2/firewalls", body, token=OTHER_TENANT, headers={"Idempotency-Key": "abc"})
    assert (theirs.status, theirs.headers.get("Idempotent-Replayed")) == (202, None)


def test_a_create_that_was_refused_uses_no_key(world: World) -> None:
    bad = {**FIREWALL, "droplet_ids": [999]}
    assert world.call("POST", "/v2/firewalls", bad, headers={"Idempotency-Key": "abc"}).status == 422
    assert made(world, **{"Idempotency-Key": "abc"}).status == 202


def test_what_was_made_and_deleted_is_not_made_again(world: World) -> None:
    first = made(world, **{"Idempotency-Key": "abc"})
    world.good("DELETE", f"/v2/firewalls/{first.json['firewall']['id']}")
    assert made(world, **{"Idempotency-Key": "abc"}).status == 409
    assert world.good("GET", "/v2/firewalls")["firewalls"] == []


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\xe4"])
def test_what_is_no_key_is_refused(world: World, key: str) -> None:
    assert made(world, **{"Idempotency-Key": key}).status == 400


def test_keys_outlast_a_restart(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/firewall.db"

    def start() -> World:
        return World(store=Store.open(url))

    world = start()
    world.furnish()
    first = made(world, **{"Idempotency-Key": "abc"})
    again = made(start(), **{"Idempotency-Key": "abc"})
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json["firewall"]["id"] == first.json["firewall"]["id"]


# --------------------------------------------------------------------------------------------- how often


def limited(**settings: int) -> World:
    return World(settings=Settings(**settings)).furnish()


def test_a_tenants_token_has_so_many_requests() -> None:
    world = limited(rate_limit=3, rate_burst=0)
    answers = [world.call("GET", "/v2/firewalls", token=TENANT) for _ in range(4)]
    assert [a.status for a in answers] == [200, 200, 200, 429]
    assert [a.headers["ratelimit-remaining"] for a in answers] == ["2", "1", "0", "0"]
    assert {a.headers["ratelimit-limit"] for a in answers} == {"3"}
    assert int(answers[0].headers["ratelimit-reset"]) > 1_700_000_000
    assert answers[3].json["message"] == "API rate limit exceeded."
    assert answers[3].json["id"] == "too_many_requests"
    assert "retry-after" not in answers[3].headers  # a client that waits for an hour in a request helps nobody
    assert world.call("GET", "/v2/firewalls", token=OTHER_TENANT).status == 200
    assert world.call("GET", "/v2/firewalls", token=VIEWER).status == 200
    for _ in range(5):
        assert world.call("GET", "/v2/firewalls", token=OPERATOR).status == 200


def test_a_burst_is_told_when_to_come_back() -> None:
    world = limited(rate_limit=100, rate_burst=2)
    answers = [world.call("GET", "/v2/firewalls", token=TENANT) for _ in range(3)]
    assert [a.status for a in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 61
    assert answers[2].headers["ratelimit-remaining"] == "98"


def test_errors_carry_the_rate_headers_too() -> None:
    world = limited(rate_limit=100)
    assert world.call("GET", "/v2/firewalls/none", token=TENANT).headers["ratelimit-remaining"] == "99"


def test_failed_attempts_of_an_address_are_limited_and_good_tokens_are_not() -> None:
    world = limited(failed_attempts=2)
    statuses = [world.call("GET", "/v2/firewalls", token="guess").status for _ in range(4)]
    assert statuses == [401, 401, 429, 429]
    answer = world.call("GET", "/nothing", token="guess")
    assert (answer.status, answer.json["id"]) == (429, "too_many_requests")
    assert int(answer.headers["retry-after"]) >= 1
    assert world.call("GET", "/v2/firewalls", token=TENANT).status == 200


def test_a_window_slides() -> None:
    window = Window(60, 3)
    for second in (0, 10, 20):
        assert window.left(second) > 0
        window.use(second)
    assert window.left(59) == 0
    assert window.reset(59) == 61
    assert window.left(61) == 1
    assert window.left(200) == 3


def test_a_window_counts_the_same_however_often_it_is_used() -> None:
    window = Window(60, 1 << 60)
    for i in range(100_000):
        window.left(i / 100)
        window.use(i / 100)
    assert len(window._steps) <= 61


def test_only_so_many_are_remembered() -> None:
    windows = Windows((60, 1))
    first = windows.of(0)
    for i in range(MOST_KNOWN):
        windows.of(i)
        assert windows.of(0) is first  # in use
    windows.of("one more")
    assert len(windows._known) == MOST_KNOWN


def test_an_ipv6_host_is_its_64() -> None:
    attempts = FailedAttempts(1)
    attempts.add("2001:db8::1", 0)
    with pytest.raises(TooMany):
        attempts.add("2001:db8::ffff:1", 0)
    attempts.add("2001:db8:0:1::1", 0)
    attempts.add("192.0.2.1", 0)
    attempts.add("192.0.2.2", 0)
    with pytest.raises(TooMany):
        attempts.add("192.0.2.2", 1)


def test_an_ipv4_host_is_one_on_a_socket_of_both_versions() -> None:
    attempts = FailedAttempts(1)
    attempts.add("::ffff:192.0.2.1", 0)
    attempts.add("::ffff:192.0.2.2", 0)
    with pytest.raises(TooMany):
        attempts.add("192.0.2.1", 0)


def test_clients_behind_a_proxy_of_ours_are_told_apart() -> None:
    world = World(settings=Settings(failed_attempts=1, trusted_proxies=("unix", "192.0.2.1")))

    def guess(passed: str) -> int:
        return world.call("GET", "/v2/firewalls", token="guess", headers={"X-Forwarded-For": passed}).status

    assert [guess("198.51.100.1"), guess("198.51.100.2"), guess("198.51.100.1")] == [401, 401, 429]
    assert guess("198.51.100.9, 198.51.100.2, 192.0.2.1") == 429  # what a client says of itself is not believed
    assert guess("198.51.100.2, anything") == 401  # what is no address ends the way: it is the proxy itself
    unproxied = World(settings=Settings(failed_attempts=1))
    world = unproxied
    assert [guess("198.51.100.1"), guess("198.51.100.2")] == [401, 429]


def test_no_limit_is_no_limit() -> None:
    limits, attempts = RateLimits(0, 0), FailedAttempts(0)
    for _ in range(10_000):
        assert limits.use("token", 0) == {}
        attempts.add("192.0.2.1", 0)
    assert RateLimits(0, 1).use("token", 0)["ratelimit-remaining"] == "0"


# --------------------------------------------------------------------------------------------- CORS

PAGE = "https://panel.example.com"
ASK = {"Origin": PAGE, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization"}


def test_cors_is_off_by_default(world: World) -> None:
    answer = world.call("GET", "/v2/firewalls", headers={"Origin": PAGE})
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert world.call("OPTIONS", "/v2/firewalls", headers=ASK).status == 405
    assert world.call("OPTIONS", "/v2/firewalls", token=None, headers=ASK).status == 401


def test_pages_of_an_allowed_origin_may_use_the_api() -> None:
    world = World(settings=Settings(cors_origins=(PAGE,))).furnish()
    asked = world.call("OPTIONS", "/v2/firewalls/x", token=None, headers=ASK)
    assert (asked.status, asked.body) == (204, b"")
    assert asked.headers["Access-Control-Allow-Origin"] == PAGE
    assert asked.headers["Access-Control-Allow-Methods"] == "DELETE, GET, HEAD, PUT"
    assert "Authorization" in asked.headers["Access-Control-Allow-Headers"]
    for path, token, status in (("/v2/firewalls", OPERATOR, 200), ("/v2/none", OPERATOR, 404), ("/v2/x", None, 401)):
        answer = world.call("GET", path, token=token, headers={"Origin": PAGE})
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (status, PAGE)
        assert "Origin" in answer.headers["Vary"]
    other = world.call("GET", "/v2/firewalls", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in other.headers
    assert world.call("OPTIONS", "/v2/firewalls", headers={**ASK, "Origin": "https://evil.example"}).status == 405


def test_a_preflight_tells_nothing_of_what_there_is() -> None:
    world = World(settings=Settings(cors_origins=("*",))).furnish()
    there, nowhere = (world.call("OPTIONS", p, token=None, headers=ASK) for p in ("/v1/ports/none", "/v1/ports/p101"))
    assert there.headers["Access-Control-Allow-Methods"] == nowhere.headers["Access-Control-Allow-Methods"]
    assert there.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize(
    ("peer", "passed", "expected"),
    [
        ("::ffff:192.0.2.1", "198.51.100.7", "198.51.100.7"),
        ("::ffff:192.0.2.9", "198.51.100.7", "192.0.2.9"),
        ("192.0.2.1", "::ffff:198.51.100.7, 192.0.2.1", "198.51.100.7"),
        ("192.0.2.1", "198.51.100.7, 5.5.5.5:80", "192.0.2.1"),
        ("192.0.2.1", "", "192.0.2.1"),
        ("2001:db8::1", "2001:0DB8::0002", "2001:db8::2"),
    ],
)
def test_where_a_request_comes_from(peer: str, passed: str, expected: str) -> None:
    proxies = frozenset(("192.0.2.1", "2001:db8::1"))
    assert _address({"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": passed}, proxies) == expected
