"""What holds for every request: tokens, roles, bodies, errors, waiting for switches, pages."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from api_server import HV1, HV2, OPERATOR, TENANT, VIEWER, Threads, World
from webob import Request

from firewall_app.api.app import ROUTES
from firewall_app.api.errors import STATUS, HttpError, WrongMethod, status
from firewall_app.policy import errors as policy_errors
from firewall_app.policy.errors import CallerError, FirewallError, StoreError, SwitchError
from firewall_app.service.access import Caller, Role
from firewall_app.service.core import Core, Event
from firewall_app.settings import Settings

FIREWALL: dict[str, Any] = {"name": "fw", "inbound_rules": [], "droplet_ids": [101]}


@pytest.fixture
def world() -> World:
    return World().furnish()


# --------------------------------------------------------------------------------------------- tokens and roles


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer nobody", f"Basic {OPERATOR}", OPERATOR])
@pytest.mark.parametrize("path", ["/v2/firewalls", "/v1/ports", "/nothing", "/v1/ports/a/b/c"])
def test_without_a_valid_token_nothing_is_told(world: World, header: str | None, path: str) -> None:
    headers = {"Authorization": header} if header is not None else {}
    answer = world.call("GET", path, token=None, headers=headers)
    assert (answer.status, answer.json["id"]) == (401, "unauthorized")
    assert answer.json["message"] == "Unable to authenticate you."
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_the_scheme_is_read_in_any_case(world: World) -> None:
    assert world.call("GET", "/v1/ports", token=None, headers={"Authorization": f"bearer {OPERATOR}"}).status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_token(world: World, path: str) -> None:
    assert world.call("GET", path, token=None).status == 200


def test_a_viewer_reads_and_does_nothing_else(world: World) -> None:
    before = world.core.revision
    for route in ROUTES:
        path = route.path
        for name in ("firewall_id", "droplet_id", "name", "dpid", "port_id"):
            path = path.replace(f"{{{name}}}", "101")
        found = world.call(route.method, path, {}, token=VIEWER).status
        assert (found == 403) is (route.writes or route.operators), (route.method, path, found)
    assert world.core.revision == before


def test_a_tenant_has_no_business_on_v1(world: World) -> None:
    for route in (r for r in ROUTES if not r.compatible):
        if not route.open:
            path = route.path.replace("{dpid}", HV1).replace("{droplet_id}", "101").replace("{port_id}", "p101")
            answer = world.call(route.method, path, {}, token=TENANT)
            assert (answer.status, answer.json["id"]) == (403, "forbidden"), path


def test_callers_of_one_account_see_no_other(world: World) -> None:
    world.access.grant("theirs", Caller(Role.VIEWER, "acme"))
    assert world.call("GET", "/v1/droplets", token="theirs").status == 403
    assert [d["id"] for d in world.good("GET", "/v2/droplets", token="theirs")["droplets"]] == [201]
    world.access.grant("lost", Caller(Role.TENANT))
    assert world.call("GET", "/v2/droplets", token="lost").status == 403


# --------------------------------------------------------------------------------------------- paths and methods


def test_wrong_methods_name_the_right_ones(world: World) -> None:
    answer = world.call("PATCH", "/v2/firewalls/x")
    assert (answer.status, answer.headers["Allow"]) == (405, "DELETE, GET, HEAD, PUT")
    assert world.call("GET", "/v2/firewalls/x/rules").headers["Allow"] == "DELETE, POST"


@pytest.mark.parametrize("path", ["/", "/v2", "/v2/", "/v2/firewalls//", "/v2/firewalls/x/y", "/v2/%ff%fe", "//"])
def test_other_paths_are_not_found_as_json(world: World, path: str) -> None:
    answer = world.call("GET", path)
    assert (answer.status, answer.json["id"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/v2/firewalls", "/v1/ports/p101", "/healthz", "/v2/droplets/999", "/openapi.json"])
def test_head_is_get_without_the_body(world: World, path: str) -> None:
    get, head = world.call("GET", path), world.call("HEAD", path)
    assert (head.status, head.body) == (get.status, b"")
    assert head.headers["Content-Length"] == str(len(get.body))


def test_every_answer_has_a_request_id(world: World) -> None:
    ids = {
        world.call(method, path, token=token).headers["x-request-id"]
        for method, path, token in (
            ("GET", "/v2/firewalls", OPERATOR),
            ("GET", "/v2/firewalls", None),
            ("GET", "/nothing", OPERATOR),
            ("PATCH", "/v2/firewalls", OPERATOR),
            ("DELETE", "/v1/ports/none", OPERATOR),
            ("DELETE", "/v1/ports/p101", OPERATOR),
        )
    }
    assert len(ids) == 6


# --------------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nonsense",
        b"",
        b"   ",
        b'{"name": "a", "name": "b"}',
        b'{"inbound_rules": [{"ports": "1", "ports": "2"}]}',
        b'{"name": NaN}',
        b'{"name": -Infinity}',
        b'{"name": "\xff"}',
        b'\xef\xbb\xbf{"name": "bom"}',
        '{"name": "utf-16"}'.encode("utf-16"),
        b"[" * 100_000,
        b"[" * 2_000 + b"]" * 1_999,
        b"[" * 2_000 + b"}" * 2_000,
        b"]" + b"[" * 2_000 + b"]" * 1_999,
        b"{} {}",
        b"[" + b"1" * 5000,
        b"9" * 5000 + b" NaN",
    ],
)
def test_what_is_no_json_is_a_400(world: World, body: bytes) -> None:
    answer = world.call("POST", "/v2/firewalls", body)
    assert (answer.status, answer.json["message"]) == (400, "error parsing request body")
    (problem,) = answer.problems.values()
    assert "codec" not in problem
    assert "utf-8-sig" not in problem


DEEP, LONG = "nested deeper than 32", "an integer of more than 4300 digits"
NUL, HALF = "text may not hold the character 0", "half a surrogate pair is no text"


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        (b'{"name": "\\u0000"}', {"name": NUL}),
        (b'{"name": "\\ud800", "tags": ["a", "b\\u0000"]}', {"name": HALF, "tags[1]": NUL}),
        (b'{"\\udfff": 1}', {"": f"a key: {HALF}"}),
        (b'{"inbound_rules": [{"sources": {"\\u0000": 1}}]}', {"inbound_rules[0].sources": f"a key: {NUL}"}),
        (b"[" * 2_000 + b"]" * 2_000, {"": DEEP}),
        (b'{"a}\\"":["]",' * 2_000 + b"1" + b"]}" * 2_000, {"": DEEP}),  # no more is looked at than its brackets
        (b"[" * 100 + b"]" * 100, {"": DEEP}),
        (b'{"a":' * 500 + b"1" + b"}" * 500, {"": DEEP}),
        (b"1" * 5000, {"": LONG}),
        (b'{"droplet_ids": [1, -' + b"1" * 5000 + b'], "name": "\\u0000"}', {"droplet_ids[1]": LONG, "name": NUL}),
    ],
)
def test_json_that_nothing_can_mean_is_a_422_with_its_place(
    world: World, body: bytes, problems: dict[str, str]
) -> None:
    answer = world.call("POST", "/v2/firewalls", body)
    assert (answer.status, answer.problems) == (422, problems)


def test_a_long_number_in_a_deep_body_has_a_place(world: World) -> None:
    answer = world.call("POST", "/v2/firewalls", b"[" * 40 + b"1" * 5000 + b"]" * 40)
    assert (answer.status, set(answer.problems.values())) == (422, {DEEP})
    answer = world.call("POST", "/v2/firewalls", b"[" + b"1" * 5000 + b"," + b"[" * 2_000 + b"]" * 2_001)
    assert (answer.status, answer.problems) == (422, {"": DEEP})


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON; charset=UTF-8", 'application/json; charset="utf-8"', "",
     "application/merge-patch+json"],
)  # fmt: skip
def test_a_body_may_say_that_it_is_json_or_nothing(world: World, content_type: str) -> None:
    answer = world.call("POST", "/v2/firewalls", FIREWALL, headers={"Content-Type": content_type})
    assert answer.status == 202


@pytest.mark.parametrize(
    "content_type",
    ["application/x-www-form-urlencoded", "text/plain", "x", "application/json; charset=latin-1", "text/json"],
)
def test_a_body_that_says_to_be_something_else_is_refused(world: World, content_type: str) -> None:
    answer = world.call("POST", "/v2/firewalls", FIREWALL, headers={"Content-Type": content_type})
    assert (answer.status, answer.json["id"]) == (415, "unsupported_media_type")
    assert world.good("GET", "/v2/firewalls")["firewalls"] == []


def test_a_delete_may_say_anything_of_its_body(world: World) -> None:
    made = world.good("POST", "/v2/firewalls", FIREWALL)["firewall"]["id"]
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert world.call("DELETE", f"/v2/firewalls/{made}", b"{}", headers=headers).status == 204


def test_the_body_of_a_get_is_ignored(world: World) -> None:
    assert world.call("GET", "/v2/firewalls", b"nonsense").status == 200


class Endless:
    """A body that fails the test when more of it is read than the limit."""

    def __init__(self, most: int) -> None:
        self.left = most

    def read(self, size: int) -> bytes:
        self.left -= size
        assert self.left >= 0
        return b" " * size


@pytest.mark.parametrize("declared", ["1001", "9" * 18, "9" * 30, "0" * 30 + "1001"])
def test_a_body_that_says_it_is_too_long_is_not_read(declared: str) -> None:
    world = World(Settings(max_body=1000)).furnish()
    request = Request.blank("/v2/firewalls", method="POST", headers={"Authorization": f"Bearer {OPERATOR}"})
    request.environ |= {"CONTENT_LENGTH": declared, "wsgi.input": Endless(0)}
    response = request.get_response(world.application)
    assert (response.status_code, response.json["id"]) == (413, "payload_too_large")


def test_a_body_without_a_length_is_read_up_to_the_limit() -> None:
    world = World(Settings(max_body=1000)).furnish()
    request = Request.blank("/v2/firewalls", method="POST", headers={"Authorization": f"Bearer {OPERATOR}"})
    request.environ |= {"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": "", "wsgi.input": Endless(1001)}
    assert request.get_response(world.application).status_code == 413


@pytest.mark.parametrize(
    ("failure", "code"), [(TimeoutError("late"), 408), (OSError("gone"), 400), (ValueError("bad chunk"), 400)]
)
def test_a_body_that_does_not_come_is_the_callers_fault(world: World, failure: Exception, code: int) -> None:
    class Broken:
        def read(self, size: int) -> bytes:
            raise failure

    request = Request.blank("/v2/firewalls", method="POST", headers={"Authorization": f"Bearer {OPERATOR}"})
    request.environ |= {"CONTENT_LENGTH": "10", "wsgi.input": Broken()}
    assert request.get_response(world.application).status_code == code


def test_a_body_shorter_than_it_says_is_refused(world: World) -> None:
    headers = {"Authorization": f"Bearer {OPERATOR}"}
    request = Request.blank("/v2/tags", method="POST", headers=headers, body=b'{"name": "x"}')
    request.environ["CONTENT_LENGTH"] = "100"
    assert request.get_response(world.application).status_code == 400
    assert world.call("GET", "/v2/tags/x").status == 404


def test_a_body_of_very_many_values_is_refused(world: World) -> None:
    rule = {"protocol": "tcp", "ports": "1", "sources": {"droplet_ids": [1] * 110_000}}
    answer = world.call("POST", "/v2/firewalls", {"name": "fw", "inbound_rules": [rule]})
    assert (answer.status, answer.problems) == (422, {"": "more than 104857 values"})


def test_long_bodies_are_checked_beside_the_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Exception):
        pass

    def slow(work: object) -> object:
        raise Slow

    monkeypatch.setattr(world.core.runtime, "slow", slow)
    monkeypatch.setattr(Core, "record", lambda *_: None)  # that the audit log is written aside is no news
    assert world.call("POST", "/v2/tags", b"[]".ljust(32 << 10)).status == 422
    assert world.call("POST", "/v2/tags", b"[]".ljust((32 << 10) + 1)).status == 500
    assert world.call("POST", "/v2/tags", [0] * 1001).status == 422
    assert world.call("POST", "/v2/tags", [0] * 1002).status == 500


def test_faults_past_the_thousandth_are_counted(world: World) -> None:
    answer = world.call("POST", "/v2/firewalls", {"name": "fw", "inbound_rules": [{}] * 600})
    assert len(answer.json["errors"]) == 1001
    assert answer.json["errors"][-1]["problem"] == "and 200 more"  # two for each rule


@pytest.mark.parametrize("query", ["a=1&" * 60, "%zz=%ff&page=%00", "page=1&page=2", "=&&=", "\x00"])
def test_queries_are_read_or_refused(world: World, query: str) -> None:
    request = Request.blank("/v2/firewalls", headers={"Authorization": f"Bearer {OPERATOR}"})
    request.environ["QUERY_STRING"] = query
    assert request.get_response(world.application).status_code in (200, 400, 422)


# --------------------------------------------------------------------------------------------- errors


def test_every_error_has_a_status() -> None:
    kinds = [k for k in vars(policy_errors).values() if isinstance(k, type) and issubclass(k, FirewallError)]
    bases = {FirewallError, CallerError, SwitchError}
    assert {kind for kind in kinds if kind not in STATUS} == bases
    assert {kind for kind in HttpError.__subclasses__() if kind not in STATUS} == set()
    assert status(WrongMethod("X", [])) == (405, "method_not_allowed")
    assert status(KeyError("x")) == (500, "server_error")


def test_a_failing_store_changes_nothing_and_tells_no_secrets(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.store.broken = True
    answer = world.call("POST", "/v2/firewalls", FIREWALL)
    assert (answer.status, answer.json["id"]) == (503, "store_unavailable")
    assert answer.json["message"] == "the store failed; nothing was changed"
    assert answer.json["request_id"] in caplog.text
    assert "secret details" in caplog.text
    assert "Traceback" not in caplog.text  # of SQLAlchemy and a driver it would be 60 lines, for each write
    world.store.broken = False
    assert world.good("GET", "/v2/firewalls")["meta"]["total"] == 0
    assert world.call("POST", "/v2/firewalls", FIREWALL).status == 202


def test_who_asks_for_what_may_have_been_kept_is_told_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise StoreError("the connection broke", may_be_kept=True)

    monkeypatch.setattr(world.store, "commit", lost)
    answer = world.call("POST", "/v2/firewalls", FIREWALL)
    assert answer.json["message"] == "the store failed; look before you repeat this, it may have been kept"


def test_an_error_of_ours_is_logged_with_the_request_id(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> object:
        raise RuntimeError("secret details")

    monkeypatch.setattr(world.core, "ready", broken)
    answer = world.call("GET", "/v1/status")
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body
    record = next(r for r in caplog.records if r.levelno == logging.ERROR)
    assert answer.headers["x-request-id"] in record.getMessage()
    assert "secret details" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "token", "lines"),
    [
        ("GET", "/v2/firewalls", OPERATOR, []),
        ("GET", "/v2/firewalls/none", OPERATOR, [logging.INFO]),
        ("GET", "/v1/droplets?page=x", OPERATOR, [logging.INFO]),
        ("GET", "/v1/droplets", TENANT, [logging.INFO]),
        ("POST", "/v2/tags", OPERATOR, [logging.INFO]),
        ("GET", "/v2/firewalls", "nobody", [logging.WARNING]),
        ("POST", "/v2/firewalls", "nobody", [logging.WARNING]),
    ],
)
def test_what_fails_is_logged_once(
    world: World, caplog: pytest.LogCaptureFixture, method: str, path: str, token: str, lines: list[int]
) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = world.call(method, path, token=token)
    told = [record for record in caplog.records if answer.headers["x-request-id"] in record.getMessage()]
    assert [record.levelno for record in told if record.levelno > logging.DEBUG] == lines


def test_what_is_refused_unread_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Settings(failed_attempts=1, rate_burst=1))
    with caplog.at_level(logging.INFO):
        assert [world.call("POST", "/v2/tags", token="nobody").status for _ in range(3)] == [401, 429, 429]
        assert len(caplog.records) == 1
        assert [world.call("GET", "/v2/tags", token=TENANT).status for _ in range(2)] == [200, 429]
    assert len(caplog.records) == 2  # whose token it is is known


def test_who_asks_often_whether_it_is_ready_does_not_fill_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.store.broken = True
    with caplog.at_level(logging.INFO):
        assert [world.call("GET", "/readyz", token=None).status for _ in range(3)] == [503] * 3
    assert [record.getMessage() for record in caplog.records] == ['the store fails error="disk full: secret details"']


def test_a_switch_that_is_not_there_is_a_503(world: World) -> None:
    world.switches[HV1].mode = "silent"
    answer = world.call("GET", f"/v1/hypervisors/{HV1}/flows")
    assert (answer.status, answer.json["id"]) == (503, "switch_unreachable")
    assert "did not answer within 30 s" in answer.json["message"]


# --------------------------------------------------------------------------------------------- Prefer: wait


@pytest.mark.parametrize(
    ("sent", "applied"),
    [
        ("wait=5", "wait=5"),
        ("wait=0", "wait=0"),
        ('respond-async, WAIT="7"; x=y', "wait=7"),
        ("wait = 3", "wait=3"),
        ("wait=9999999999999999", "wait=60"),
        ("wait=-1", None),
        ("wait=soon", None),
        ("return=minimal", None),
        ("wait", None),
        ("keep-established", "keep-established"),
        ("keep-established=false", None),
        ("Keep-Established; x, wait=2", "keep-established, wait=2"),
        ("wait=2, wait=9,keep-established", "keep-established, wait=2"),
        (",;=", None),
    ],
)
def test_preferences_are_read_as_rfc_7240_has_them(world: World, sent: str, applied: str | None) -> None:
    answer = world.call("POST", "/v2/firewalls", FIREWALL, headers={"Prefer": sent})
    assert answer.status == 202
    assert answer.headers.get("Preference-Applied") == applied


def test_T095_only_writes_that_say_so_keep_established_connections(world: World) -> None:
    def cut() -> int:
        return world.core.units(HV1, world.switches[HV1].interfaces).cut

    made = world.call("POST", "/v2/firewalls", FIREWALL).json["firewall"]["id"]
    first = cut()
    assert first == world.core.revision
    for method, path, body in (
        ("DELETE", f"/v2/firewalls/{made}/rules", {"inbound_rules": FIREWALL["inbound_rules"]}),
        ("PUT", f"/v2/firewalls/{made}", FIREWALL),
        ("DELETE", f"/v2/firewalls/{made}", None),
        ("PUT", "/v1/ports/p101/rules", {"inbound_rules": FIREWALL["inbound_rules"]}),
        ("DELETE", "/v1/ports/p101/rules", None),
    ):
        answer = world.call(method, path, body, headers={"Prefer": "keep-established"})
        assert answer.status < 300, (method, path, answer.body)
        assert answer.headers["Preference-Applied"] == "keep-established"
    assert world.core.revision > first
    assert cut() == first
    world.good("PUT", "/v1/ports/p101/rules", {"inbound_rules": FIREWALL["inbound_rules"]})
    assert cut() == world.core.revision


@pytest.mark.parametrize(("mode", "outcome"), [("confirm", "succeeded"), ("refuse", "failed")])
def test_a_write_waits_until_the_switches_have_answered(world: World, mode: str, outcome: str) -> None:
    switch = world.switches[HV1]
    switch.mode = "silent"
    asked = threading.Event()
    switch.policy_changed = asked.set  # type: ignore[method-assign]

    def answer_later() -> None:
        asked.wait(30)
        getattr(switch, mode)()

    thread = threading.Thread(target=answer_later)
    thread.start()
    answer = world.call("POST", "/v2/firewalls", FIREWALL, headers={"Prefer": "wait=20"})
    thread.join()
    assert answer.json["firewall"]["status"] == outcome
    assert answer.headers["Preference-Applied"] == "wait=20"
    assert answer.headers["X-Change-Status"] == outcome


def test_a_write_whose_time_is_up_is_still_waiting(world: World) -> None:
    world.switches[HV1].mode = "silent"
    answer = world.call("POST", "/v2/firewalls", FIREWALL, headers={"Prefer": "wait=1"})
    assert (answer.status, answer.json["firewall"]["status"]) == (202, "waiting")
    assert answer.headers["X-Change-Status"] == "waiting"


def test_every_write_can_wait(world: World) -> None:
    one = f"/v2/firewalls/{world.good('POST', '/v2/firewalls', FIREWALL)['firewall']['id']}"
    rules = {"inbound_rules": [{"protocol": "icmp", "sources": {}}]}
    resources = {"resources": [{"resource_id": 101, "resource_type": "droplet"}]}
    world.good("PUT", "/v1/droplets/110", {})
    port = {"droplet_id": 110, "hypervisor": HV2, "number": 9, "mac": "02:00:00:00:00:99"}
    for method, path, body in (
        ("PUT", one, FIREWALL),
        ("POST", f"{one}/droplets", {"droplet_ids": [102]}),
        ("DELETE", f"{one}/droplets", {"droplet_ids": [102]}),
        ("POST", f"{one}/tags", {"tags": ["web"]}),
        ("DELETE", f"{one}/tags", {"tags": ["web"]}),
        ("POST", f"{one}/rules", rules),
        ("DELETE", f"{one}/rules", rules),
        ("DELETE", one, None),
        ("POST", "/v2/tags", {"name": "t"}),
        ("POST", "/v2/tags/t/resources", resources),
        ("DELETE", "/v2/tags/t/resources", resources),
        ("DELETE", "/v2/tags/t", None),
        ("PUT", f"/v1/hypervisors/{HV2}", {"name": "b"}),
        ("PUT", "/v1/droplets/111", {}),
        ("DELETE", "/v1/droplets/111", None),
        ("PUT", "/v1/ports/p110", port),
        ("PUT", "/v1/ports/p110/rules", rules),
        ("POST", "/v1/ports/p110/rules", rules),
        ("DELETE", "/v1/ports/p110/rules", rules),
        ("DELETE", "/v1/ports/p110/rules", None),
        ("DELETE", "/v1/ports/p110", None),
    ):
        answer = world.call(method, path, body, headers={"Prefer": "wait=1"})
        assert answer.headers.get("Preference-Applied") == "wait=1", (method, path, answer.status, answer.body)
    assert "Preference-Applied" not in world.call("GET", "/v2/tags", headers={"Prefer": "wait=1"}).headers


def test_a_firewall_deleted_while_its_writer_waits_is_still_answered(world: World) -> None:
    switch = world.switches[HV1]
    deleted: list[int] = []

    def delete_it() -> None:
        if not deleted:
            (firewall_id,) = world.core.policy.firewalls
            deleted.append(0)
            deleted[0] = world.call("DELETE", f"/v2/firewalls/{firewall_id}").status
        switch.confirm()

    switch.policy_changed = delete_it  # type: ignore[method-assign]
    answer = world.call("POST", "/v2/firewalls", FIREWALL, headers={"Prefer": "wait=5"})
    assert deleted == [204]
    assert (answer.status, answer.json["firewall"]["status"]) == (202, "waiting")


class Waiting(Threads):
    """Time in which a request waits is given to `meanwhile`; after that its time is up."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0
        self.meanwhile: Callable[[], object] = lambda: None

    def event(self) -> Event:
        return self

    def set(self) -> None:
        pass

    def wait(self, timeout: float) -> bool:
        self.waits += 1
        self.meanwhile()
        return False


def test_only_so_many_requests_wait_at_once() -> None:
    runtime = Waiting()
    world = World(Settings(max_connections=60), runtime=runtime).furnish()
    for number in range(6):
        world.access.grant(f"token-{number}", Caller(Role.TENANT, "default", f"token-{number}"))
    world.switches[HV1].mode = "silent"
    tokens, answers = iter(()), []

    def write() -> None:
        token = next(tokens, None)
        if token is not None:
            answer = world.call(
                "POST", "/v2/firewalls", {**FIREWALL, "name": token}, f"token-{token[0]}", {"Prefer": "wait=60"}
            )
            assert answer.headers["X-Change-Status"] == "waiting"
            answers.append((token, answer.headers.get("Preference-Applied")))

    runtime.meanwhile = write
    tokens = iter(["0a", "0b", "0c", "0d"])  # each comes while those before it wait
    write()
    assert answers == [("0d", None), ("0c", "wait=60"), ("0b", "wait=60"), ("0a", "wait=60")]
    assert runtime.waits == 3

    answers.clear()
    tokens = iter([f"{n}{x}" for n in range(1, 6) for x in "abc"] + ["0e"])
    write()
    assert answers[0] == ("0e", None)
    assert (len(answers), {applied for _, applied in answers[1:]}) == (16, {"wait=60"})

    class Killed(BaseException):
        """As GreenletExit, which is no Exception."""

    def fail() -> None:
        raise Killed

    for n in range(20):
        runtime.meanwhile = fail
        with pytest.raises(Killed):
            world.call("PUT", f"/v1/droplets/{101}", {"name": f"n{n}"}, headers={"Prefer": "wait=60"})
    runtime.meanwhile = lambda: None
    answer = world.call("PUT", "/v1/droplets/101", {}, headers={"Prefer": "wait=60"})
    assert answer.headers["Preference-Applied"] == "wait=60"


# --------------------------------------------------------------------------------------------- pages


@pytest.mark.parametrize(
    ("query", "shown", "links"),
    [
        ("", 4, {}),
        ("?per_page=4", 4, {}),
        ("?per_page=3", 3, {"next": "2", "last": "2"}),
        ("?per_page=3&page=2", 1, {"first": "1", "prev": "1"}),
        ("?per_page=1&page=2", 1, {"first": "1", "prev": "1", "next": "3", "last": "4"}),
        ("?per_page=3&page=9", 0, {"first": "1", "prev": "2"}),
        ("?page=99999999999999999", 0, {"first": "1", "prev": "1"}),
        ("?per_page=200&page=", 4, {}),
    ],
)
def test_collections_come_in_pages(world: World, query: str, shown: int, links: dict[str, str]) -> None:
    answer = world.good("GET", f"/v1/droplets{query}")
    assert len(answer["droplets"]) == shown
    assert answer["meta"] == {"total": 4}
    pages = answer["links"].get("pages", {})
    assert {name: parse_qs(urlsplit(url).query)["page"][0] for name, url in pages.items()} == links


def test_pages_keep_the_rest_of_the_query_and_the_path(world: World) -> None:
    pages = world.good("GET", "/v1/ports/?per_page=1&hypervisor=" + HV1)["links"]["pages"]
    assert pages["next"] == f"http://localhost:80/v1/ports/?page=2&per_page=1&hypervisor={HV1}"


@pytest.mark.parametrize(
    ("query", "at"),
    [
        ("page=0", ["page"]),
        ("page=-1", ["page"]),
        ("page=x", ["page"]),
        ("per_page=0", ["per_page"]),
        ("per_page=201", ["per_page"]),
        ("per_page=1.5&page=%D9%A3", ["page", "per_page"]),
    ],
)
@pytest.mark.parametrize("path", ["/v2/firewalls", "/v2/tags", "/v2/droplets/101/firewalls", "/v1/hypervisors"])
def test_pages_that_cannot_be_are_refused(world: World, path: str, query: str, at: list[str]) -> None:
    answer = world.call("GET", f"{path}?{query}")
    assert (answer.status, list(answer.problems)) == (422, at)


@pytest.mark.parametrize(("sent", "status"), [(b"101.0", 201), (b"1.01e2", 201), (b"101.5", 422), (b"1e400", 422)])
def test_a_whole_number_is_an_integer_however_it_is_written(world: World, sent: bytes, status: int) -> None:
    port = b'{"droplet_id": %s, "hypervisor": "%s", "number": 9, "mac": "02:00:00:00:09:01"}' % (sent, HV1.encode())
    assert world.call("PUT", "/v1/ports/whole", port).status == status
