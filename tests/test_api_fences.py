"""Fences and drift over REST, and a store that moves on by itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from api_server import HV1, TENANT, World
from fakecore import FakeSwitch

from firewall_app.history import Point
from firewall_app.policy.model import Droplet
from firewall_app.progress import Drift, SwitchReport, Sync
from firewall_app.store import Store

OTHER = Point(0xABC, 57)
NAME = f"{0xABC:016x}"


@pytest.fixture
def world() -> World:
    return World().furnish()


def fenced(world: World, dpid: str = HV1, point: Point = OTHER) -> None:
    report = SwitchReport(Sync.FAILED, failed=world.core.revision, error="fenced", fence=point)
    world.core.reported(dpid, world.switches[dpid], report)


def test_a_fence_is_shown_everywhere_and_lifted_by_an_operator(world: World) -> None:
    assert world.good("GET", "/v1/fences")["fences"] == []
    fenced(world)
    shown = {"timeline": NAME, "revision": 57}
    assert world.good("GET", "/v1/fences")["fences"] == [{**shown, "hypervisors": [HV1]}]
    assert world.good("GET", f"/v1/hypervisors/{HV1}")["sync"]["fence"] == shown
    ready = world.call("GET", "/readyz")
    assert (ready.status, f"hypervisor {HV1}: fenced" in ready.body.decode()) == (503, True)
    told = world.switches[HV1].told
    lifted = world.good("POST", f"/v1/fences/{NAME}/confirm", {"revision": 57})
    assert lifted == {**shown, "hypervisors": [HV1]}
    assert world.switches[HV1].told == told + 1
    assert world.core.history.knows(OTHER)
    assert world.good("GET", "/v1/fences")["fences"] == []
    entry = world.good("GET", "/v1/audit")["entries"][0]
    assert (entry["outcome"], entry["changes"][0]["kind"], entry["changes"][0]["id"]) == ("done", "fence", NAME)
    assert entry["changes"][0]["before"]["hypervisors"] == [HV1]


@pytest.mark.parametrize("revision", [56, 58])
def test_who_confirms_must_have_seen_what_is_given_up(world: World, revision: int) -> None:
    fenced(world)
    answer = world.call("POST", f"/v1/fences/{NAME}/confirm", {"revision": revision})
    assert (answer.status, answer.problems) == (422, {"revision": f"is {revision}; a hypervisor holds revision 57"})
    assert not world.core.history.knows(OTHER)


def test_a_stranger_has_no_say_in_what_is_confirmed(world: World) -> None:
    stranger = FakeSwitch(world.core, "00000000000000ee")
    for point in (OTHER, Point(0xDEF, 3)):
        stranger.say(SwitchReport(Sync.FAILED, fence=point._replace(revision=(1 << 63) - 1)))
        named = [fence["timeline"] for fence in world.good("GET", "/v1/fences")["fences"]]
        assert named == [point.name], "it may be one that a lost store had"
    stranger.say(SwitchReport(Sync.FAILED, fence=OTHER._replace(revision=(1 << 63) - 1)))
    fenced(world)
    assert world.good("GET", "/v1/fences")["fences"] == [{"timeline": NAME, "revision": 57, "hypervisors": [HV1]}]
    world.good("POST", f"/v1/fences/{NAME}/confirm", {"revision": 57})
    assert world.core.history.knows(OTHER)
    assert not world.core.history.knows(OTHER._replace(revision=58))


def test_what_cannot_be_confirmed(world: World) -> None:
    assert world.call("POST", f"/v1/fences/{NAME}/confirm", {"revision": 57}).status == 404
    fenced(world)
    assert world.call("POST", f"/v1/fences/{NAME}/confirm", {}).status == 422
    assert world.call("POST", f"/v1/fences/{NAME}/confirm", {"revision": -1}).status == 422
    assert world.call("POST", f"/v1/fences/{NAME}/confirm", {"revision": 57}, token=TENANT).status in (403, 404)
    world.store.broken = True
    assert world.call("POST", f"/v1/fences/{NAME}/confirm", {"revision": 57}).status == 503
    assert not world.core.history.knows(OTHER)


def test_drift_is_listed_with_the_newest_first(world: World) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    found = (Drift(at, "added", "table=0,priority=9 actions=drop"), Drift(at, "removed", "table=10"))
    for _ in range(70):
        world.core.drifted(HV1, world.switches[HV1], found)
    listed = world.good("GET", f"/v1/hypervisors/{HV1}/drift?per_page=200")
    assert listed["meta"]["total"] == 100, "no more are kept"
    assert listed["drift"][1] == {
        "at": "2026-01-02T03:04:05Z", "change": "added", "flow": "table=0,priority=9 actions=drop"
    }  # fmt: skip
    assert world.call("GET", "/v1/hypervisors/00000000000000ff/drift").status == 404


def test_a_store_that_moves_on_by_itself_is_followed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/firewall.db"
    world = World(store=Store.open(url)).furnish()
    world.core.follow()
    before, told = world.core.history, world.switches[HV1].told
    assert world.switches[HV1].told == told
    other = Store.open(url)
    policy, history = other.load()
    draft = policy.edit()
    draft.put(Droplet(999))
    other.commit(draft.changes, draft.counters, history.point)
    world.core.follow()
    assert 999 in world.core.policy.droplets
    assert (world.core.revision, world.switches[HV1].told) == (before.revision + 1, told + 1)
    assert world.core.history.knows(before.point)
    world.good("POST", "/v2/tags", {"name": "web-fw"}, token=TENANT)
    starts = world.core.history.starts
    assert len({start.timeline for start in starts}) == len(starts) == 4, "what follows is on a timeline of its own"
    other.close()
    world.store.close()
