"""A controller that stands by, and one that gets or loses the lease, as callers and switches see it."""

from __future__ import annotations

import logging

import pytest
from api_server import HV1, HV2, OPERATOR, TENANT, VIEWER, World

from firewall_app.history import Point
from firewall_app.policy.errors import Standby, StoreError
from firewall_app.service import standby

OTHER = "https://192.0.2.2:8080"


class FakeLease:
    """Says what it is told to say."""

    def __init__(self) -> None:
        self.token: int | None = None
        self.url = OTHER
        self.broken = False

    def take(self) -> int | None:
        if self.broken:
            raise StoreError("the server is not there")
        return self.token


@pytest.fixture
def lease() -> FakeLease:
    return FakeLease()


@pytest.fixture
def world(lease: FakeLease) -> World:
    """A standby: another controller took the lease after the policy was made."""
    world = World().furnish()
    standby.look(world.core, lease)
    return world


WRITES = (
    ("PUT", "/v1/droplets/104", {"name": "x"}, OPERATOR),
    ("DELETE", "/v1/ports/p101", None, OPERATOR),
    ("POST", "/v2/firewalls", {"name": "fw"}, TENANT),
    ("POST", "/v1/tokens", {"role": "viewer"}, OPERATOR),
    ("POST", f"/v1/hypervisors/{HV1}/resync", None, OPERATOR),
)


@pytest.mark.parametrize(("method", "path", "body", "token"), WRITES)
def test_T171_a_standby_refuses_writes_and_says_who_is_active(world: World, method, path, body, token) -> None:
    lines, point = len(world.store.log), world.core.history.point
    answer = world.call(method, path, body, token=token)
    assert (answer.status, answer.json["id"]) == (503, "standby")
    assert OTHER in answer.json["message"]
    assert (len(world.store.log), world.store.newest(), world.core.history.point) == (lines, point, point)


def test_T171_a_standby_that_refuses_a_write_has_no_error_to_tell(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert world.call("PUT", "/v1/droplets/104", {"name": "x"}).status == 503
        assert world.call("GET", "/readyz", token=None).status == 503
    (record,) = caplog.records
    assert (record.levelno, "answered" in record.getMessage()) == (logging.INFO, True)


def test_who_may_not_write_is_told_so_first(world: World) -> None:
    assert world.call("PUT", "/v1/droplets/104", {}, token="nobody").status == 401


def test_T171_a_standby_answers_reads_and_is_healthy_and_not_ready(world: World) -> None:
    assert world.good("GET", "/v1/droplets/101", token=VIEWER)["name"] == "web-1"
    asked = {"from": {"droplet_id": 101}, "to": {"droplet_id": 102}, "protocol": "icmp"}
    assert world.good("POST", "/v1/explain", asked, token=VIEWER)["verdict"] == "ALLOW"
    assert world.good("GET", "/healthz") == {"status": "ok"}
    ready = world.call("GET", "/readyz", token=None)
    assert (ready.status, ready.json["problems"]) == (503, ["standby: another controller is active"])
    assert world.good("GET", "/v1/status")["lease"] == {"active": False, "token": None, "url": OTHER}
    page = world.call("GET", "/metrics").body.decode()
    assert "\nfirewall_active 0.0\n" in page
    assert "\nfirewall_lease_token 0.0\n" in page


def test_T171_a_standby_follows_the_store_and_tells_its_switches(world: World, lease: FakeLease) -> None:
    other = World(store=world.store)
    other.core.follow(whole=True)
    other.good("PUT", "/v1/droplets/105", {"name": "new"})
    assert world.call("GET", "/v1/droplets/105").status == 404
    world.core.follow()
    assert world.good("GET", "/v1/droplets/105")["name"] == "new"


def test_T171_who_gets_the_lease_takes_up_what_was_committed_before_it_drives_switches(
    world: World, lease: FakeLease
) -> None:
    other = World(store=world.store)
    other.core.follow(whole=True)
    other.good("DELETE", "/v1/ports/p103")
    world.store.supersede(Point(7, 8))
    lease.token = 77
    told: list[tuple[int | None, int]] = []
    world.switches[HV2].policy_changed = lambda: told.append((world.core.token, world.core.revision))  # type: ignore[method-assign]
    standby.look(world.core, lease)
    assert told[-1] == (77, other.core.revision)
    assert {revision for token, revision in told if token is not None} == {other.core.revision}
    assert world.good("GET", "/v1/status")["lease"] == {"active": True, "token": 77, "url": None}
    assert world.call("GET", "/readyz").status == 200
    assert world.core.history.knows(Point(7, 8))  # also what an operator has confirmed
    world.good("PUT", "/v1/droplets/105", {"name": "new"})


def test_T171_who_cannot_load_the_policy_does_not_become_active(world: World, lease: FakeLease) -> None:
    lease.token = 77
    world.store.broken = True
    standby.look(world.core, lease)
    assert world.core.token is None
    world.store.broken = False
    standby.look(world.core, lease)
    assert world.core.token == 77


def test_an_active_controller_whose_store_is_away_goes_on_with_its_switches(world: World, lease: FakeLease) -> None:
    lease.token = 77
    standby.look(world.core, lease)
    lease.broken = world.store.broken = True
    standby.look(world.core, lease)
    assert world.core.token == 77
    answer = world.call("PUT", "/v1/droplets/105", {"name": "new"})
    assert (answer.status, answer.json["id"]) == (503, "store_unavailable")
    assert world.good("GET", "/v1/droplets/101")["name"] == "web-1"


def test_T171_a_commit_that_is_refused_makes_a_standby_at_once(
    world: World, lease: FakeLease, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease.token = 77
    standby.look(world.core, lease)

    def deposed(*_: object) -> int:
        raise Standby(OTHER)

    monkeypatch.setattr(world.store, "commit", deposed)
    told: list[int | None] = []
    world.switches[HV1].policy_changed = lambda: told.append(world.core.token)  # type: ignore[method-assign]
    failures = world.core.store_failures
    answer = world.call("PUT", "/v1/droplets/105", {"name": "new"})
    assert (answer.status, answer.json["id"]) == (503, "standby")
    assert (world.core.token, told[0]) == (None, None)
    assert world.core.store_failures == failures
    assert world.call("GET", "/v1/droplets/105").status == 404
