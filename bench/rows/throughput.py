"""Row `throughput`: what goes through the pipeline between two machines of one hypervisor, and what it costs."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from .. import datapath
from ..datapath import CABLE, NEUTRON, NORMAL, OVN, SLIDES, STATELESS, Contestant, run_inside
from ..judges import find, reaches
from ..row import US, Plot, Row, Run, Series, Target, Verdict

WHO = (CABLE, NORMAL, STATELESS, SLIDES, US, OVN, NEUTRON)
TCP, LOAD, COST = "TCP over IPv4", "CPU load", "CPU per gigabyte"
PACKETS, RTT, PASSES = "small UDP packets", "round trip", "passes of a packet"
STREAM = {TCP: "Mbit/s", LOAD: "%", COST: "s/GB", PASSES: "passes"}
SMALL = {PACKETS: "packets/s", RTT: "us"}
EACH = 4  # streams of a run: one alone is as far from the next as contestants are from each other
OTHERS = 2000
# How much: of TCP, of UDP, of pings, as iperf3 and ping want it.
FULL, QUICK = (("-t", "1"), ("-t", "1"), ("-w", "1")), (("-n", "8M"), ("-n", "64K"), ("-c", "100"))
Options = tuple[str, ...]


def measure(run: Run) -> Iterator[Series]:
    with datapath.contestants(WHO, 100 if run.quick else OTHERS) as built:
        yield from measured(run, built)


def measured(run: Run, built: Sequence[Contestant]) -> Iterator[Series]:
    much = QUICK if run.quick else FULL
    with ExitStack() as servers:
        for number, one in enumerate(built):
            log = run.directory / f"iperf3-{number}"
            servers.enter_context(datapath.served(one.server, log, "iperf3", "-s", "--forceflush"))
            datapath.wait_for(log, "listening")
        tcp, udp, ping = much
        yield from datapath.in_turns(run, built, STREAM, lambda one, _: stream(one, tcp), 1 if run.quick else EACH)
        yield from datapath.in_turns(run, built, SMALL, lambda one, _: small(one, udp, ping))


def stream(one: Contestant, tcp: Options) -> dict[str, float]:
    found: dict[str, float] = {}
    if one.host is not None:
        one.host.ovs.appctl("dpif-netdev/pmd-stats-clear")
    before = one.cpu()
    received = iperf3(one, *tcp)["sum_received"]
    work = one.cpu() - before
    found[TCP] = received["bits_per_second"] / 1e6
    if one.host is not None:
        found[COST] = work / (received["bytes"] / 1e9)
        found[LOAD] = 100 * work / received["seconds"]
        found[PASSES] = passes(one.host.ovs.appctl("dpif-netdev/pmd-stats-show"))
    return found


def small(one: Contestant, udp: Options, ping: Options) -> dict[str, float]:
    found: dict[str, float] = {}
    sent = iperf3(one, "-u", "-b", "0", "-l", "64", *udp)["sum"]
    found[PACKETS] = (sent["packets"] - sent["lost_packets"]) / sent["seconds"]
    answer = run_inside(one.client, "ping", "-f", "-q", *ping, one.server.address())
    found[RTT] = float(answer.split("min/avg/max")[1].split("= ")[1].split("/")[1]) * 1000
    return found


def iperf3(one: Contestant, *options: str) -> dict[str, dict[str, float]]:
    answer = json.loads(run_inside(one.client, "iperf3", "-c", one.server.address(), "-J", *options))
    return dict(answer["end"])


def passes(shown: str) -> float:
    """How often the datapath looked at a packet, on average: once and again for each `ct`."""
    found = re.search(r"datapath passes per packet:\s+([\d.]+)", shown)
    return float(found[1]) if found else 0.0


def _not_below(text: str, than: str) -> Target:
    """The throughput of ours is not below another's, run by run: missed when it is in three quarters of the runs.

    Less cannot be told from noise, here where both are equal within it.
    """

    def judge(series: Sequence[Series]) -> Verdict:
        ours, other = find(series, TCP), find(series, TCP, than)
        if ours is None or other is None:
            return Verdict(False, "not measured")
        ratios = sorted(mine / theirs for mine, theirs in zip(ours.values, other.values, strict=True))
        middle, upper = statistics.median(ratios), ratios[min(len(ratios) - 1, 3 * len(ratios) // 4)]
        return Verdict(upper >= 1, f"{middle:.2f} of it ({ratios[0]:.2f} to {ratios[-1]:.2f})")

    return Target(text, judge)


ROW = Row(
    "throughput",
    "TCP throughput through the pipeline",
    "iperf3 with one TCP stream over IPv4 between two machines of one hypervisor, MTU 1500, offloads off; CPU "
    "time of ovs-vswitchd meanwhile; then UDP packets of 64 bytes as fast as they go, and the round trip of a "
    "flood of pings. All contestants admit the same and hold 2,000 more rules; ours are put there by the real "
    'controller, over REST. *stateless* is the talk\'s "before": access lists both ways; *one zone* is its c1, '
    "c2, c3. Shown is the userspace datapath of Open vSwitch, whose packet sockets cost more than any pipeline: "
    "single streams differ by some 10 % on a shared machine, so there are four for each run, in turns, and ratios are "
    "of those side by side; "
    "and the CPU time for a gigabyte says more than the throughput. Not shown: the kernel's datapath and its "
    "absolute figures, hardware offload, the talk's load average of 24 CPUs (here: the share of one core that "
    "ovs-vswitchd used).",
    measure,
    (
        reaches("0.95 of NORMAL", TCP, 0.95, NORMAL),
        _not_below("not below OVN", OVN),
        _not_below("not below Neutron", NEUTRON),
    ),
    (
        Plot("tcp-throughput", "TCPv4 throughput, one stream", "", "Mbit/s", (TCP,)),
        Plot("cpu-load", "CPU load of ovs-vswitchd meanwhile", "", "% of one core", (LOAD,)),
    ),
)
