"""Tokens and the audit log over REST: who may, what is kept, and that nothing is forgotten."""

from __future__ import annotations

import json
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from api_server import HV1, OPERATOR, OTHER_TENANT, START, TENANT, VIEWER, Threads, World, port
from webob import Request

from firewall_app.policy.errors import StoreError
from firewall_app.records import Token
from firewall_app.service import core, tokens
from firewall_app.service.access import Access, digest
from firewall_app.service.core import Core
from firewall_app.store import Store

FIREWALL: dict[str, Any] = {
    "name": "web-fw",
    "inbound_rules": [{"protocol": "tcp", "ports": "22", "sources": {"addresses": ["203.0.113.0/24"]}}],
    "droplet_ids": [102],
}


@pytest.fixture
def world() -> World:
    return World().furnish()


def log(world: World) -> list[dict[str, Any]]:
    """The audit log, the oldest first."""
    found: list[dict[str, Any]] = world.good("GET", "/v1/audit?per_page=200")["entries"]
    return found[::-1]


def last(world: World) -> dict[str, Any]:
    return log(world)[-1]


# --------------------------------------------------------------------------------------------- tokens


def token(world: World, **body: Any) -> dict[str, Any]:
    made: dict[str, Any] = world.good("POST", "/v1/tokens", body)
    return made


def test_a_token_is_in_force_from_its_answer_to_its_revocation(world: World) -> None:
    made = token(world, role="tenant", account="acme", note="ci of acme")
    secret = made.pop("token")
    assert set(made) == {"id", "role", "account", "note", "created_at", "revoked_at"}
    assert [d["id"] for d in world.good("GET", "/v2/droplets", token=secret)["droplets"]] == [201]
    assert world.good("GET", f"/v1/tokens/{made['id']}") == made
    assert world.call("DELETE", f"/v1/tokens/{made['id']}").status == 204
    assert world.call("GET", "/v2/droplets", token=secret).status == 401
    assert world.good("GET", f"/v1/tokens/{made['id']}")["revoked_at"] is not None
    assert world.call("DELETE", f"/v1/tokens/{made['id']}").status == 204
    assert world.call("DELETE", "/v1/tokens/none").status == 404


def test_a_secret_is_shown_once_and_kept_nowhere(world: World) -> None:
    secret = token(world, role="viewer")["token"]
    assert len(secret) >= 43
    assert secret not in json.dumps(world.good("GET", "/v1/tokens"))
    assert secret not in json.dumps(log(world))
    assert secret not in repr(vars(world.store))
    assert [t.hash for t in world.store.tokens()] == [digest(secret)]


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({"role": "tenant"}, "account"),
        ({"role": "operator", "account": "acme"}, "account"),
        ({"role": "root"}, "role"),
        ({}, "role"),
        ({"role": "viewer", "account": "a b"}, "account"),
        ({"role": "viewer", "acount": "a"}, "acount"),
        ({"role": "viewer", "note": "a\nb"}, "note"),
    ],
)
def test_a_token_that_cannot_be_is_refused(world: World, body: object, at: str) -> None:
    answer = world.call("POST", "/v1/tokens", body)
    assert answer.status == 422
    assert list(answer.problems) == [at]
    assert world.store.tokens() == []


def test_the_last_operators_token_cannot_be_revoked(world: World) -> None:
    first = token(world, role="operator")
    answer = world.call("DELETE", f"/v1/tokens/{first['id']}", token=first["token"])
    assert answer.status == 409
    token(world, role="tenant", account="acme")
    assert world.call("DELETE", f"/v1/tokens/{first['id']}").status == 409
    second = token(world, role="operator")
    assert world.call("DELETE", f"/v1/tokens/{first['id']}", token=first["token"]).status == 204
    assert world.call("GET", "/v1/tokens", token=first["token"]).status == 401
    assert world.call("GET", "/v1/tokens", token=second["token"]).status == 200


@pytest.mark.parametrize("who", [TENANT, OTHER_TENANT, VIEWER])
@pytest.mark.parametrize("path", ["/v1/tokens", "/v1/audit", "/v1/tokens/x"])
def test_tokens_and_the_audit_log_are_for_operators(world: World, who: str, path: str) -> None:
    assert world.call("GET", path, token=who).status == 403
    assert world.call("POST", "/v1/tokens", {"role": "operator"}, token=who).status == 403
    assert world.store.tokens() == []


def test_roles_are_what_the_token_says(world: World) -> None:
    viewer, theirs = token(world, role="viewer")["token"], token(world, role="viewer", account="acme")["token"]
    assert world.call("GET", "/v1/droplets", token=viewer).status == 200
    assert world.call("GET", "/v1/droplets", token=theirs).status == 403
    assert [d["id"] for d in world.good("GET", "/v2/droplets", token=theirs)["droplets"]] == [201]
    for who in (viewer, theirs):
        assert world.call("POST", "/v2/tags", {"name": "new"}, token=who).status == 403
    operator = token(world, role="operator")["token"]
    assert world.call("PUT", "/v1/droplets/300", {"name": "x"}, token=operator).status == 201


def test_a_store_that_is_away_makes_no_token(world: World) -> None:
    world.store.broken = True
    assert world.call("POST", "/v1/tokens", {"role": "operator"}).status == 503
    world.store.broken = False
    assert world.store.tokens() == []


# --------------------------------------------------------------------------------------------- audit log


def test_a_write_is_told_with_who_what_before_and_after(world: World) -> None:
    made = world.call("POST", "/v2/firewalls", FIREWALL, token=TENANT)
    firewall = made.json["firewall"]["id"]
    entry = last(world)
    assert entry["request_id"] == made.headers["x-request-id"]
    assert (entry["role"], entry["account"]) == ("tenant", "default")
    assert (entry["method"], entry["path"], entry["outcome"]) == ("POST", "/v2/firewalls", "done")
    (change,) = entry["changes"]
    assert (change["kind"], change["id"], change["before"]) == ("firewall", firewall, None)
    assert change["after"]["inbound_rules"] == FIREWALL["inbound_rules"]

    world.good("DELETE", f"/v2/firewalls/{firewall}/droplets", {"droplet_ids": [102]})
    (change,) = last(world)["changes"]
    assert (change["before"]["droplet_ids"], change["after"]["droplet_ids"]) == ([102], [])
    world.good("DELETE", f"/v2/firewalls/{firewall}")
    (change,) = last(world)["changes"]
    assert change["after"] is None


def test_every_kind_of_object_is_told(world: World) -> None:
    world.good("PUT", "/v1/ports/p101/rules", {"inbound_rules": []})
    world.good("DELETE", "/v1/droplets/101?ports=delete")
    world.good("DELETE", "/v2/tags/web")
    world.good("DELETE", "/v1/ports/p102")
    world.good("DELETE", "/v1/ports/p103")
    world.good("DELETE", f"/v1/hypervisors/{HV1}")
    kinds = {change["kind"] for entry in log(world) for change in entry["changes"]}
    assert kinds == {"hypervisor", "droplet", "port", "tag", "port_rules"}


def test_a_write_that_changes_nothing_is_told_as_such(world: World) -> None:
    world.good("PUT", "/v1/droplets/103", {"name": "db-1"})
    assert (last(world)["outcome"], last(world)["changes"]) == ("unchanged", [])


def test_a_write_of_another_account_is_of_that_account(world: World) -> None:
    world.good("PUT", "/v1/droplets/202", {"name": "x", "account": "acme"})
    assert last(world)["account"] == "acme"
    world.good("POST", "/v2/tags?account=acme", {"name": "new"})
    assert last(world)["account"] == "acme"


def test_what_was_refused_is_told_with_the_reason(world: World) -> None:
    def refused(status: int, *args: Any, **more: Any) -> str:
        answer = world.call(*args, **more)
        assert answer.status == status
        entry = last(world)
        assert entry["request_id"] == answer.headers["x-request-id"]
        assert (entry["outcome"], entry["changes"]) == ("refused", [])
        problem: str = entry["problem"]
        return problem

    assert "droplet 9 does not exist" in refused(422, "POST", "/v2/firewalls", {**FIREWALL, "droplet_ids": [9]})
    assert "no firewall" in refused(404, "PUT", "/v2/firewalls/none", FIREWALL)
    assert "may only read" in refused(403, "POST", "/v2/tags", {"name": "x"}, token=VIEWER)
    assert "/v2 alone" in refused(403, "DELETE", "/v1/droplets/101", token=TENANT)
    assert refused(400, "POST", "/v2/tags", b"{")
    assert refused(415, "POST", "/v2/tags", b"{}", headers={"Content-Type": "text/plain"})


def test_reads_and_strangers_leave_no_line(world: World) -> None:
    before = len(log(world))
    world.call("GET", "/v2/firewalls")
    world.call("POST", "/v2/tags", {"name": "x"}, token=None)
    world.call("POST", "/v2/tags", {"name": "x"}, token="nobody")
    assert len(log(world)) == before


def test_a_resync_is_told(world: World) -> None:
    world.good("POST", f"/v1/hypervisors/{HV1}/resync")
    assert (last(world)["path"], last(world)["outcome"]) == (f"/v1/hypervisors/{HV1}/resync", "done")


def test_making_and_revoking_a_token_is_told(world: World) -> None:
    made = token(world, role="tenant", account="acme", note="ci")
    entry = last(world)
    assert (entry["account"], entry["changes"][0]["after"]["note"]) == ("acme", "ci")
    world.good("DELETE", f"/v1/tokens/{made['id']}")
    assert last(world)["changes"][0]["before"]["id"] == made["id"]


def test_the_token_is_named_in_its_writes(world: World) -> None:
    made = token(world, role="tenant", account="default", note="ci of web")
    world.good("POST", "/v2/tags", {"name": "x"}, token=made["token"])
    assert (last(world)["token"], last(world)["who"]) == (made["id"], "ci of web")


def test_what_cannot_be_kept_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.store.broken = True
    answer = world.call("POST", "/v2/firewalls", FIREWALL)
    assert answer.status == 503
    lines = [r.getMessage() for r in caplog.records if "audit log cannot be written" in r.getMessage()]
    assert len(lines) == 1
    assert answer.headers["x-request-id"] in lines[0]
    (told,) = [r.msg.fields["entry"] for r in caplog.records if "audit log cannot be written" in r.getMessage()]
    entry = json.loads(told)
    assert (entry["path"], entry["outcome"]) == ("/v2/firewalls", "failed")
    assert datetime.fromisoformat(entry["at"])


def test_the_real_store_keeps_the_line_with_the_change_or_neither(tmp_path: Any) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/firewall.db")
    world = World(store=store)
    world.furnish()
    world.good("POST", "/v2/firewalls", FIREWALL, token=TENANT)
    assert world.call("POST", "/v2/firewalls", FIREWALL, token=TENANT).status == 409
    policy, _ = store.load()
    (found,) = policy.firewalls.values()
    store.close()

    again = Store.open(f"sqlite:///{tmp_path}/firewall.db")
    entries, total = again.entries({}, 0, 200)
    assert total == len(entries) > 8
    assert [e.number for e in entries] == sorted((e.number for e in entries), reverse=True)
    refused, done = entries[:2]
    assert (refused.outcome.value, refused.problem) == ("refused", "duplicate name")
    assert done.changes[0]["id"] == found.id
    assert [e.path for e in again.entries({"account": "acme"}, 0, 9)[0]] == ["/v1/droplets/201"]
    assert again.entries({"outcome": "refused"}, 0, 9)[1] == 1
    third = entries[-3].at.isoformat(timespec="microseconds")
    assert again.entries({"until": third}, 0, 9)[1] == 2
    assert again.entries({"since": third}, 0, 1)[1] == total - 2
    assert [e.number for e in again.entries({}, 2, 3)[0]] == [e.number for e in entries[2:5]]
    again.close()


def test_the_audit_log_is_paged_and_filtered_over_rest(tmp_path: Any) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/firewall.db")
    world = World(store=store)
    world.furnish()
    first = world.good("GET", "/v1/audit?per_page=3")
    assert len(first["entries"]) == 3
    assert "page=2" in first["links"]["pages"]["next"]
    assert world.good("GET", "/v1/audit?account=acme")["meta"]["total"] == 1
    moment = first["entries"][0]["at"].replace("+", "%2B")
    assert world.good("GET", f"/v1/audit?since={moment}&outcome=done&method=PUT")["meta"]["total"] >= 1
    assert world.good("GET", "/v1/audit?until=2020-01-01T00:00:00Z")["entries"] == []
    answer = world.call("GET", "/v1/audit?since=yesterday&outcome=fine")
    assert (answer.status, set(answer.problems)) == (422, {"since", "outcome"})
    store.close()


# --------------------------------------------------------------------------------------------- tokens by other hands


def test_access_follows_what_the_store_holds() -> None:
    now = Threads().now()
    one = Token("1", digest("one"), "tenant", "acme", "", now)
    access = Access([one, Token("2", digest("two"), "operator", None, "", now, now)])
    assert access.caller("one") is not None
    assert access.caller("two") is None
    access.keep([])
    assert access.caller("one") is None


def test_a_core_without_a_deed_writes_no_line(world: World) -> None:
    assert isinstance(world.core, Core)
    before = len(log(world))
    world.core.write(lambda draft: draft.drop(draft.peek().ports["p103"]))
    assert len(log(world)) == before
    assert OPERATOR not in repr(world.store.log)


@pytest.mark.parametrize("query", ["since=0001-01-01T00:00:00%2B10:00", "until=9999-12-31T23:59:59-10:00"])
def test_moments_outside_the_calendar_are_refused(world: World, query: str) -> None:
    assert world.call("GET", f"/v1/audit?{query}").status == 422


def test_text_that_no_database_keeps_is_refused(world: World) -> None:
    assert world.call("GET", "/v1/audit?path=%00").status == 422


def test_the_farthest_page_is_empty(tmp_path: Path) -> None:
    world = World(store=Store.open(f"sqlite:///{tmp_path}/firewall.db"))
    assert world.good("GET", f"/v1/audit?page={10**18 - 1}&per_page=200")["entries"] == []


# --------------------------------------------------------------------------------------------- what went wrong once


def test_a_token_that_is_revoked_while_its_request_is_under_way_does_nothing(world: World) -> None:
    first, second = (token(world, role="operator") for _ in range(2))

    class Slow(BytesIO):
        """A body whose end comes after the token was revoked."""

        def read(self, size: int | None = -1) -> bytes:
            assert world.call("DELETE", f"/v1/tokens/{first['id']}", token=second["token"]).status == 204
            return super().read(size)

    made = json.dumps({"role": "operator"}).encode()
    request = Request.blank("/v1/tokens", method="POST", headers={"Authorization": f"Bearer {first['token']}"})
    request.body_file, request.content_length = Slow(made), len(made)
    assert request.get_response(world.application).status_code == 401
    assert len(world.store.tokens()) == 2


def test_a_token_that_is_revoked_while_a_write_waits_for_its_turn_does_nothing(world: World) -> None:
    made = token(world, role="operator")
    token(world, role="operator")

    class Turn:
        """Lets a writer in once its token was revoked."""

        def acquire(self, *, timeout: float) -> bool:
            world.access.bar(world.access.tokens[made["id"]], None)
            return True

        def release(self) -> None:
            pass

    world.core._writing = Turn()  # type: ignore[assignment]
    assert world.call("PUT", "/v1/droplets/300", {"name": "late"}, token=made["token"]).status == 401
    assert 300 not in world.core.policy.droplets


def test_a_write_does_not_wait_for_ever_for_its_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "PATIENCE", 0.01)
    with world.core.alone():
        assert world.call("PUT", "/v1/droplets/300", {}).status == 503
    assert world.call("PUT", "/v1/droplets/300", {}).status == 201


def test_a_token_is_refused_from_its_revocation_even_if_the_store_cannot_keep_it(world: World) -> None:
    token(world, role="operator")
    made = token(world, role="tenant", account="acme")
    world.store.broken = True
    assert world.call("DELETE", f"/v1/tokens/{made['id']}").status == 503
    assert world.call("GET", "/v2/tags", token=made["token"]).status == 401
    world.access.keep(world.access.tokens.values())  # as when the store is read again
    assert world.call("GET", "/v2/tags", token=made["token"]).status == 401
    with pytest.raises(StoreError):
        tokens.settle(world.core, world.access)
    world.store.broken = False
    tokens.settle(world.core, world.access)
    assert world.access.barred == {}
    assert world.store.kept[made["id"]].revoked_at is not None
    assert last(world)["changes"][0]["before"]["id"] == made["id"]


def test_a_line_has_a_bound(world: World) -> None:
    addresses = [f"10.{i >> 8}.{i & 255}.{j}" for i in range(200) for j in range(5)]
    rule = {"protocol": "tcp", "ports": "22", "sources": {"addresses": addresses}}
    made = world.good("POST", "/v2/firewalls", {"name": "large", "inbound_rules": [rule] * 20})["firewall"]["id"]
    (change,) = last(world)["changes"]
    assert (change["kind"], change["id"], change["cut"], change["before"]) == ("firewall", made, "all", None)
    assert list(change["after"]) == ["etag"]

    small = {"protocol": "tcp", "ports": "23", "sources": {"addresses": ["10.0.0.1"]}}
    world.good("POST", f"/v2/firewalls/{made}/rules", {"inbound_rules": [small]})
    (change,) = last(world)["changes"]
    assert change["cut"] == "difference"
    assert (change["before"]["inbound_rules"], change["after"]["inbound_rules"]) == ([], [small])
    assert change["after"]["name"] == "large"

    for i in range(400):
        world.good("PUT", f"/v1/droplets/{1000 + i}", {"name": "x" * 100, "tags": ["many"]})
    world.good("DELETE", "/v2/tags/many")
    changes = last(world)["changes"]
    assert sum(len(json.dumps(change, separators=(",", ":"))) for change in changes) < (33 << 10)
    assert changes[-1]["kind"] == "more"
    assert len(changes) - 1 + changes[-1]["more"] == 401


def test_rules_that_were_not_there_are_told(world: World) -> None:
    made = world.good("POST", "/v2/firewalls", FIREWALL)["firewall"]["id"]
    other = {"inbound_rules": [{**FIREWALL["inbound_rules"][0], "ports": "99"}]}
    world.good("DELETE", f"/v2/firewalls/{made}/rules", other)
    assert (last(world)["outcome"], last(world)["problem"]) == (
        "unchanged",
        "1 of the rules to be removed are not there",
    )
    world.good("DELETE", "/v1/ports/p101/rules", other)
    assert last(world)["problem"] == "1 of the rules to be removed are not there"


def test_a_port_is_of_its_droplets_account(world: World) -> None:
    world.good("PUT", "/v1/ports/p201", port(201, HV1, "tap9", "10.0.0.9"))
    assert last(world)["account"] == "acme"
    world.good("DELETE", "/v1/ports/p201")
    assert last(world)["account"] == "acme"


def test_a_store_that_does_not_take_writes_is_not_ready_until_it_does(world: World) -> None:
    class Full(type(world.store)):  # type: ignore[misc]
        full = True

        def commit(self, *_: Any, **__: Any) -> int:
            raise StoreError("disk full")

        def ping(self, write: bool = False) -> None:
            if write and self.full:
                raise StoreError("disk full")

    world.store.__class__ = Full
    assert world.call("GET", "/readyz").status == 200
    assert world.call("PUT", "/v1/droplets/300", {}).status == 503
    assert world.call("GET", "/readyz").status == 503
    assert {world.call("GET", "/readyz").status for _ in range(10)} == {503}
    Full.full = False
    assert 200 in {world.call("GET", "/readyz").status for _ in range(10)}  # it is not asked each time


def test_deleting_a_firewall_waits_for_what_it_still_owes(world: World) -> None:
    world.switches[HV1].mode = "silent"
    made = world.good("POST", "/v2/firewalls", FIREWALL)["firewall"]["id"]
    world.good("PUT", f"/v2/firewalls/{made}", {**FIREWALL, "droplet_ids": []})
    answer = world.call("DELETE", f"/v2/firewalls/{made}", headers={"Prefer": "wait=0"})
    assert answer.headers["X-Change-Status"] == "waiting"


def test_a_token_is_refused_while_its_revocation_waits_for_its_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "PATIENCE", 0.01)
    token(world, role="operator")
    made = token(world, role="operator")
    with world.core.alone():
        answers = [world.call("DELETE", f"/v1/tokens/{made['id']}")]
    assert world.call("GET", "/v1/tokens", token=made["token"]).status == 401
    answers.append(world.call("DELETE", f"/v1/tokens/{made['id']}"))  # it is owed, and no other one
    assert [answer.status for answer in answers] == [503, 503]
    assert all("may have been kept" in answer.json["message"] for answer in answers)
    assert "revoked tokens" in world.call("GET", "/readyz").json["problems"][0]
    tokens.settle(world.core, world.access)
    tokens.settle(world.core, world.access)
    told = [entry for entry in log(world) if entry["changes"] and entry["changes"][0]["id"] == made["id"]]
    assert [entry["changes"][0]["after"] is None for entry in told] == [False, True]
    assert world.call("DELETE", f"/v1/tokens/{made['id']}").status == 204
    assert world.call("GET", "/readyz").status == 200


def test_a_store_that_hangs_is_waited_for_by_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "PATIENCE", 0.01)
    world.core._storing.acquire(timeout=1)
    assert world.call("GET", "/v1/tokens").status == 503
    world.core._storing.release()
    assert world.call("GET", "/v1/tokens").status == 200


def test_however_many_ask_whether_a_store_takes_writes_again_it_is_asked_now_and_then(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    world.store.broken = True
    assert world.call("PUT", "/v1/droplets/300", {}).status == 503
    world.store.broken = False
    monkeypatch.setattr(world.store, "ping", lambda write=False: asked.append(write))
    world.store.broken = True
    monkeypatch.setattr(world.core.runtime, "now", lambda: START)
    answers = [world.call("GET", "/readyz").status for _ in range(5)]
    assert (answers, asked) == ([200] * 5, [True, False, False, False, False])


def test_an_order_that_changed_is_told_as_a_change(world: World) -> None:
    rules = [
        {
            "protocol": "tcp",
            "ports": str(n),
            "sources": {"addresses": [f"10.{n}.{i >> 8}.{i & 255}" for i in range(300)]},
        }
        for n in (1, 2, 3)
    ]
    made = world.good("POST", "/v2/firewalls", {"name": "ordered", "inbound_rules": rules})["firewall"]["id"]
    world.good("PUT", f"/v2/firewalls/{made}", {"name": "ordered", "inbound_rules": rules[::-1]})
    (change,) = last(world)["changes"]
    assert change["cut"] == "all"
    assert change["before"]["etag"] != change["after"]["etag"]


def test_what_a_request_was_about_is_told_before_the_tags_that_came_with_it(world: World) -> None:
    world.good("PUT", "/v1/droplets/300", {"tags": [f"new-{i}" for i in range(600)]})
    assert last(world)["changes"][0]["kind"] == "droplet"


def test_few_objects_are_told_by_their_tags_alone(world: World) -> None:
    rule = {
        "protocol": "tcp",
        "sources": {"addresses": [f"10.0.{i >> 8}.{i & 255}" for i in range(600)], "tags": ["web"]},
    }
    for i in range(12):
        world.good("POST", "/v2/firewalls", {"name": f"fw-{i}", "inbound_rules": [{**rule, "ports": "1"}]})
    world.good("DELETE", "/v2/tags/web")
    changes = last(world)["changes"]
    assert sum(change.get("cut") == "all" for change in changes) <= 10


def test_tokens_are_not_read_anew_while_another_may_be_revoked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what was read before that revocation would put the token in force again."""
    monkeypatch.setattr(core, "PATIENCE", 0.01)
    with world.core.alone():
        assert world.call("DELETE", "/v1/tokens/of-a-command").status == 503
    assert world.call("DELETE", "/v1/tokens/of-a-command").status == 404


def test_the_audit_log_quotes_a_nul_in_a_way_that_each_database_takes(world: World) -> None:
    assert world.call("DELETE", "/v2/firewalls/a%00b").status == 404
    entry = world.store.log[-1]
    assert "\0" not in entry.path + entry.problem
    assert "a\ufffdb" in entry.path
