"""The rows of fleets measure what they say: run small."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from bench.fleet import FLOWS, Plain, fleet
from bench.judges import find
from bench.row import US, Series
from bench.rows import fleet_idle, fleet_start, fleet_tag, storm
from bench.runner import RowRun
from bench.swarm import BACKOFF, Swarm, message
from lab.system import wait_until

pytestmark = pytest.mark.process


def quick(row, directory: Path) -> list[Series]:
    found = list(row.measure(RowRun(1, True, directory, lambda text, done: None)))
    assert all(value >= 0 for one in found for value in one.values)
    assert all(len(one.values) >= 1 for one in found)
    return found


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    with fleet(tmp_path_factory.mktemp("fleet"), 4) as running:
        yield running


def test_a_swarm_answers_keeps_its_flows_and_tells_them_again(some):
    some.connect()
    first = some.swarm.counts()
    assert (first.connected, first.features, first.commits, first.flows) == (4, 4, 4, 4 * FLOWS)
    assert first.mods >= first.flows
    some.leave()
    some.connect()
    again = some.swarm.counts()
    assert (again.connected, again.mods, again.commits, again.flows) == (4, 0, 0, 4 * FLOWS), "they were read back"
    some.leave()
    some.swarm.do("forget", first=1, count=4)
    some.connect()
    assert some.swarm.counts().commits == 4


def test_one_that_stalls_holds_up_no_other_and_one_that_is_sent_away_comes_back(some):
    some.swarm.do("stall", first=1, count=1)
    some.swarm.do("reset")
    body = {"name": "d32", "tags": ["all", "few"]}
    answer = some.controller.call("PUT", "/v1/droplets/32", body, {"Prefer": "wait=1"})
    assert (answer.headers["x-change-status"], some.swarm.counts().commits) == ("waiting", 3)
    some.swarm.do("stall", first=1, count=1, stalled=0)
    wait_until("the one that had stalled", lambda: some.swarm.counts().commits == 4)
    some.controller.restart()
    wait_until("all to come back by themselves", lambda: some.swarm.counts().readings == 4)
    assert some.swarm.counts().lost >= 4


def test_the_start_of_a_fleet(tmp_path):
    found = quick(fleet_start.ROW, tmp_path)
    assert {(one.who, one.what, one.x) for one in found} >= {
        (who, what, 5) for who in (US, fleet_start.BYTES) for what in (fleet_start.IN_STEP, fleet_start.MEMORY)
    }
    slow, fast = (find(found, fleet_start.IN_STEP, who) for who in (fleet_start.OBJECTS, fleet_start.BYTES))
    assert slow.median > fast.median


def test_an_idle_fleet(tmp_path):
    found = quick(fleet_idle.ROW, tmp_path)
    assert [one.what for one in found] == [fleet_idle.SHARE, fleet_idle.MEMORY, fleet_idle.IN_STEP]
    assert "0 connections lost" in found[0].note


def test_a_tag_change_and_what_others_feel(tmp_path):
    found = quick(fleet_tag.ROW, tmp_path)
    committed, answered, reads, mods = found
    assert 0 < committed.median <= answered.median
    assert len(reads.values) > 4
    assert 2 <= mods.median < 20


def test_a_storm(tmp_path):
    found = quick(storm.ROW, tmp_path)
    assert {(one.who, one.what) for one in found} == {(who, storm.BACK.format(storm.TRIAL)) for who in (US, storm.RYU)}


def test_a_peer_that_does_not_end_in_time_is_told_and_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(storm, "PATIENCE", 0.5)
    monkeypatch.setattr(storm, "SIZE", 20)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as mute, monkeypatch.context() as patch:
        swarm = Swarm("127.0.0.1", mute.getsockname()[1], ("eth0",))
        patch.setattr(storm, "plain", lambda *_: nullcontext(Plain(swarm, swarm.pid)))
        with swarm:
            ours, theirs = quick(storm.ROW, tmp_path)
    assert ours.median > 0
    assert theirs.values == (0.5,)
    assert "More than 0.5 s in 1 of 1 runs, which were ended then: 20 to 20 hypervisors had no barrier" in theirs.note
    (target,) = storm.ROW.targets
    assert "Ryu's listener more than 0.5 s" in target.judge([ours, theirs]).text


def test_a_switch_that_hears_no_HELLO_gives_up_and_dials_again():
    with socket.create_server(("127.0.0.1", 0)) as mute, Swarm("127.0.0.1", mute.getsockname()[1], ("eth0",)) as swarm:
        swarm.do("connect", first=1, count=1)
        wait_until("the first attempt to end", lambda: swarm.counts().given_up == 1)
        first, _ = mute.accept()
        with first:
            assert first.recv(4096)[1] == 0, "it said HELLO"
            assert first.recv(4096) == b"", "and left"
        mute.settimeout(10)
        second, _ = mute.accept()
        with second:
            second.sendall(message(0, 1))
            wait_until("the connection", lambda: swarm.counts().connected == 1)
            second.settimeout(BACKOFF + 0.5)
            assert second.recv(4096)[1] == 0, "it said HELLO again"
            with pytest.raises(TimeoutError):
                second.recv(4096)
        assert swarm.counts().given_up == 1, "it stays where it heard one"


def test_a_swarm_ends_with_who_started_it(tmp_path):
    with Swarm("127.0.0.1", 1, ("eth0",)) as swarm:  # where nobody listens
        swarm.do("connect", first=1, count=3)
        assert swarm.counts().connected == 0
        pid = swarm.pid
    assert not Path(f"/proc/{pid}").exists()
