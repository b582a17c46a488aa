"""The rows of the data path, small: real machines, real Open vSwitch, our own pipeline from the real controller."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench import datapath
from bench.datapath import CABLE, NEUTRON, NORMAL, SLIDES, STATELESS, Contestant
from bench.row import US, Series
from bench.rows import connections, conntrack_memory, throughput
from lab.system import LabError

pytestmark = pytest.mark.lab
WHO = (CABLE, NORMAL, STATELESS, SLIDES, US, NEUTRON)
OTHERS = 100


@pytest.fixture(scope="module")
def built() -> Iterator[list[Contestant]]:
    with datapath.contestants(WHO, OTHERS, tag=f"dp{os.getpid():x}"[:9]) as ready:
        yield ready


@dataclass(frozen=True)
class Small:
    """A run as `python -m bench --quick --runs 1` makes it."""

    directory: Path
    runs: int = 1
    quick: bool = True

    def progress(self, text: str, done: float | None = None) -> None:
        assert text
        assert done is None or 0 <= done < 1


def by_who(series: Iterator[Series], what: str) -> dict[str, float]:
    return {one.who: one.median for one in series if one.what == what}


def expected(things: Iterable[str], *of_cable: str) -> set[tuple[str, str]]:
    """Who has which series: a cable has no switch whose work could be measured."""
    return {(who, what) for who in WHO for what in things if who != CABLE or what in of_cable}


def test_all_admit_the_same_and_hold_the_other_rules(built: list[Contestant]) -> None:
    for one in built:

        def reaches(port: int, one: Contestant = one) -> str:
            return str(one.client.call("tcp", address=one.server.address(), port=port, timeout=0.3))

        one.server.call("listen", tcp=[80, 81])
        assert reaches(80) == "open", one.who
        assert reaches(81) == ("open" if one.who in {CABLE, NORMAL} else "timeout"), one.who
        one.server.call("unlisten", tcp=[80, 81])
        if one.who == CABLE:
            continue
        rules = [line for line in one.switch.flows() if "nw_src=172.16." in line]
        # Neutron's driver has two flows for each: of what is new, and of what is established.
        assert len(rules) == {NORMAL: 0, NEUTRON: 2 * OTHERS}.get(one.who, OTHERS), one.who


def test_each_half_of_ours_is_one_entry_and_the_slides_have_one(built: list[Contestant], tmp_path: Path) -> None:
    tracking = [one for one in built if one.who in {SLIDES, US}]
    found = list(conntrack_memory.measured(Small(tmp_path), tracking))
    assert by_who(iter(found), conntrack_memory.ENTRIES) == {
        SLIDES: pytest.approx(1, abs=0.02),
        US: pytest.approx(2, abs=0.02),
    }
    grown = [one for one in found if one.what == conntrack_memory.MEMORY and one.who == US]
    assert [one.x for one in grown] == list(conntrack_memory.QUICK_SIZES)
    assert all(one.median > 0 for one in grown)


def test_connections_are_made_and_their_cost_is_the_switch_s(built: list[Contestant], tmp_path: Path) -> None:
    found = list(connections.measured(Small(tmp_path), built))
    assert {(one.who, one.what) for one in found} == expected(connections.UNITS, connections.RATE)
    assert all(one.median > 0 for one in found)
    # Every connection is still known to a tracker, and only to that of who tracks.
    known = {one.who: one.connections() for one in built if one.who != CABLE}
    assert known[NORMAL] == known[STATELESS] == 0
    assert known[US] > known[SLIDES] > 0


def test_new_and_known_connections_are_cached_under_the_same_masks(built: list[Contestant]) -> None:
    ours = next(one for one in built if one.who == US)
    assert ours.client.call("icmp", address=ours.server.address(), timeout=2) == "open"
    cached = ours.switch.ovs.appctl("dpctl/dump-flows")
    tracked = [bits for bits in re.findall(r"ct_state\(([^)]*)\)", cached) if "+trk" in bits]
    assert any("+new" in bits for bits in tracked)
    assert any("+est" in bits for bits in tracked)
    assert not [bits for bits in tracked if "est" not in bits]


@pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed")
def test_throughput_is_measured_of_all_with_the_passes_that_each_takes(built: list[Contestant], tmp_path: Path) -> None:
    found = list(throughput.measured(Small(tmp_path), built))
    of_cable = (throughput.TCP, throughput.PACKETS, throughput.RTT)
    assert {(one.who, one.what) for one in found} == expected({**throughput.STREAM, **throughput.SMALL}, *of_cable)
    assert all(one.median > 0 for one in found)
    passes = by_who(iter(found), throughput.PASSES)
    # Once for a switch, and once more for each time that a packet is tracked.
    taken = {who: round(value) for who, value in passes.items()}
    assert taken == {NORMAL: 1, STATELESS: 1, SLIDES: 2, US: 3, NEUTRON: 2}


def test_a_contestant_that_does_not_answer_is_an_error(built: list[Contestant]) -> None:
    ours = next(one for one in built if one.who == STATELESS)
    ours.switch.ovs.ofctl("del-flows", ours.switch.bridge)
    try:
        ours.switch.settle()
        with pytest.raises(LabError, match="a ping"):
            ours.wait_until_open(0.5)
    finally:
        assert ours.put_back is not None
        ours.put_back()
    ours.wait_until_open()
