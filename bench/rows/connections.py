"""Row `connections`: what a new TCP connection costs, and a first packet of which the datapath knows nothing."""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial

from .. import datapath
from ..datapath import CABLE, LOADS, NEUTRON, NORMAL, OVN, SLIDES, STATELESS, Contestant, run_inside
from ..judges import times
from ..row import US, Plot, Row, Run, Series

WHO = (CABLE, NORMAL, STATELESS, SLIDES, US, OVN, NEUTRON)
RATE, COST, FIRST = "new TCP connections", "CPU per connection", "first packet, nothing cached"
CACHED = "cached decisions afterwards"
UNITS = {RATE: "1/s", COST: "us", FIRST: "us", CACHED: "megaflows"}
OTHERS, AT_A_TIME, FIRSTS = 2000, 3000, 10
PYTHON = (sys.executable, "-I", "-S", str(LOADS))
LOWEST_PORT, HIGHEST_PORT = 1024, 65536
WEB = "80"


def measure(run: Run) -> Iterator[Series]:
    with datapath.contestants(WHO, 100 if run.quick else OTHERS) as built:
        yield from measured(run, built)


def measured(run: Run, built: Sequence[Contestant]) -> Iterator[Series]:
    count = 300 if run.quick else AT_A_TIME
    firsts = 2 if run.quick else FIRSTS
    with ExitStack() as servers:
        for number, one in enumerate(built):
            log = run.directory / f"server-{number}"
            servers.enter_context(datapath.served(one.server, log, *PYTHON, "serve", "0.0.0.0", WEB))
            datapath.wait_for(log, "ready")
        yield from datapath.in_turns(run, built, UNITS, partial(sample, count, firsts))


def sample(count: int, firsts: int, one: Contestant, turn: int) -> dict[str, float]:
    source, target = one.client.address(), one.server.address()
    # A tuple that comes again while OVN's pipeline remembers it ends ovs-vswitchd 3.1.0: ports are used once.
    first_port = LOWEST_PORT + turn * count % (HIGHEST_PORT - LOWEST_PORT - count)
    before = one.cpu()
    answer = run_inside(one.client, *PYTHON, "open", source, str(first_port), target, WEB, str(count))
    found = {RATE: count / float(answer)}
    if one.host is not None:
        found[COST] = (one.cpu() - before) / count * 1e6
        found[CACHED] = len(one.host.ovs.appctl("dpctl/dump-flows").splitlines())
        found[FIRST] = statistics.median(first_packet(one) for _ in range(firsts))
    return found


def first_packet(one: Contestant) -> float:
    """Microseconds from a ping to its answer when the switch asks its tables about each step of both."""
    one.switch.ovs.appctl("revalidator/purge")
    answer = run_inside(one.client, "ping", "-c", "1", "-W", "2", one.server.address())
    found = re.search(r"time=([\d.]+) ms", answer)
    if found is None:
        raise ValueError(f"{one.who}: {answer}")
    return float(found[1]) * 1000


ROW = Row(
    "connections",
    "New TCP connections",
    "A client opens TCP connections to a server behind the same bridge, 16 at once, gets two bytes and closes: "
    "how many in a second, and the CPU time of ovs-vswitchd for each (about nine packets). Client, server and "
    "switch share the machine's cores, so the rate is bound by all three; the CPU time is the switch's own. "
    "*First packet*: a ping after `revalidator/purge`, when each step of the request and of its answer asks the "
    "OpenFlow tables. *Cached decisions*: megaflows that the datapath has after the connections. No long churn: "
    "ovs-vswitchd 3.1.0 aborts when a tuple comes again under `nat`, which OVN's pipeline uses, so every "
    "connection has a source port of its own.",
    measure,
    (
        times("CPU at most 1.2 of OVN's", COST, 1.2, than=OVN),
        times("first packet at most 1.5 of OVN's", FIRST, 1.5, than=OVN),
    ),
    (Plot("connection-cost", "CPU of ovs-vswitchd for one TCP connection", "", "us", (COST,)),),
)
