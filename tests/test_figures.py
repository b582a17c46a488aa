"""How lost packets, flow-mods and figures are counted, without any packet."""

from __future__ import annotations

import socket
import struct
from dataclasses import replace

import pytest

from lab.faults import FAULTS
from lab.figures import complaints, markdown, of_runs, row
from lab.rig import COUNTS, Figures
from lab.snoop import Connection, flow_mods
from lab.streams import Conversation, Datagrams, Loss

GOOD = Figures(
    seconds=2, udp=Loss(1000, 0, 0.0), own_stall=0.02, inbound_stall=0.02, connects=100, failed=(), probes=400,
    leaks=(), in_sync=0.1, flow_mods=0, same_flows=True,
)  # fmt: skip
FAULT = {fault.name: fault for fault in FAULTS}


def datagrams(arrived: str) -> Datagrams:
    """One datagram a second, from second 0 on; `-` for each that was lost."""
    times = [float(number) for number in range(len(arrived))]
    with socket.socket() as out:
        return Datagrams("x", 1, out, times, bytearray(sign != "-" for sign in arrived))


@pytest.mark.parametrize(
    ("arrived", "begin", "end", "expected"),
    [
        ("xxxxx", 0, 5, Loss(5, 0, 0)),
        ("xx-xx", 0, 5, Loss(5, 1, 2)),
        ("x--x-x", 0, 6, Loss(6, 3, 3)),
        ("-xx", 0, 3, Loss(3, 1, 1)),
        ("xx--", 0, 4, Loss(4, 2, 3)),
        ("--xx--", 2, 4, Loss(2, 0, 0)),
    ],
)
def test_what_is_lost_is_told_by_number_and_the_gap_by_the_times_of_sending(arrived, begin, end, expected):
    assert datagrams(arrived).loss(begin, end) == expected


def test_a_session_that_stopped_reads_as_a_stall_up_to_the_end():
    with socket.socket() as near, socket.socket() as far:
        talk = Conversation("x", 1, (near, far), ([1.0, 2.0, 3.0], [1.0, 2.0, 2.5]))
    assert talk.stall(1, 4) == 1.5
    assert not talk.flows_since(2.7)
    assert talk.heard_between(2, 3) == 3


def message(kind: int, body: bytes = b"") -> bytes:
    return struct.pack("!BBHI", 5, kind, 8 + len(body), 7) + body


FLOW_MOD = message(14, bytes(48))
IN_BUNDLE = message(34, struct.pack("!IHH", 1, 0, 3) + FLOW_MOD)
IN_BUNDLE_13 = message(4, struct.pack("!IIIHH", 0x4F4E4600, 2301, 1, 0, 3) + FLOW_MOD)
BARRIER = message(20)


def test_flow_mods_are_counted_alone_and_in_bundles_of_both_versions():
    count, rest = flow_mods(FLOW_MOD + BARRIER + IN_BUNDLE + IN_BUNDLE_13 + message(34, bytes(8) + BARRIER) + b"\5\16")
    assert (count, rest) == (3, b"\5\16")


def test_flow_mods_are_counted_once_whatever_order_segments_come_in():
    data = BARRIER + IN_BUNDLE * 3 + FLOW_MOD
    cuts = [data[at : at + 50] for at in range(0, len(data), 50)]
    numbers = [(0xFFFFFFF0 + at) & 0xFFFFFFFF for at in range(0, len(data), 50)]  # the counter wraps
    connection = Connection(numbers[0])
    order = [0, 2, 1, 1, 4, 3, 0, *range(5, len(cuts))]
    assert sum(connection.segment(numbers[number], cuts[number]) for number in order) == 4


@pytest.mark.parametrize(
    ("fault", "broken", "said"),
    [
        ("changes", {"udp": Loss(1000, 1, 0.004)}, "1 of 1000 packets lost"),
        ("changes", {"failed": ("a to b port 1: no answer",)}, "connection failed"),
        ("switch-killed", {"leaks": ("x to y: echo request, at y",)}, "passed: x to y"),
        ("switch-killed", {"same_flows": False}, "not those of before"),
        ("switch-killed", {"inbound_stall": None}, "session to a droplet ended"),
        ("controller-killed", {"own_stall": None}, "a droplet had opened ended"),
        ("controller-killed", {"flow_mods": 2}, "2 flow-mods where none was needed"),
    ],
)
def test_a_broken_promise_is_told(fault, broken, said):
    (found,) = complaints(FAULT[fault], replace(GOOD, **broken))
    assert said in found
    assert complaints(FAULT[fault], GOOD) == []


def test_what_a_fault_costs_is_no_broken_promise():
    figures = replace(GOOD, udp=Loss(1000, 500, 0.5), failed=("a to b port 1: no answer",), own_stall=None, flow_mods=9)
    assert complaints(FAULT["switch-killed"], figures) == []


def test_a_row_has_the_median_and_the_worst():
    assert of_runs([3, 1, 2], str) == "2 (3)"
    assert of_runs([2, 2], str) == "2"
    cells = row(FAULT["changes"], [GOOD, GOOD, replace(GOOD, udp=Loss(900, 4, 0.5), leaks=("x",), same_flows=False)])
    assert cells[1:3] == ("0 (4) of 1000", "0 ms (500 ms)")
    assert cells[6] == "1 of 1200"
    assert cells[-1] == "DIFFER"
    assert all(len(line.split("|")) == 12 for line in markdown({FAULT["changes"]: [GOOD]}).splitlines())


def test_flow_sets_are_compared_without_what_counts_changes():
    old = ("cookie=0xd0f1010200000000, table=20, priority=202,ct_state=+est+trk,ct_mark=0x5b actions=resubmit(,40)",
           "table=35 actions=ct(commit,exec(load:0x5b->NXM_NX_CT_MARK[],move:NXM_NX_REG4[]->NXM_NX_CT_LABEL[0..31]))",
           "table=40, priority=1,reg0=0x1/0x1 actions=note:00.01.02")  # fmt: skip
    new = [line.replace("0x5b", "0x5c").replace("01.02", "01.03") for line in old]
    assert [COUNTS.sub("", line) for line in old] == [COUNTS.sub("", line) for line in new]
    assert COUNTS.sub("", old[1]).endswith("move:NXM_NX_REG4[]->NXM_NX_CT_LABEL[0..31]))")
