"""What thousands of hypervisors cost that are connected while nothing happens."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.fleet import cpu, fleet, memory
from bench.judges import at_most
from bench.row import US, Row, Run, Series

SHARE, MEMORY, IN_STEP = "CPU while idle", "memory of an idle hypervisor", "connected at once until in step"
SIZE = 5000
SAMPLE = 5.0  # seconds; the interval of echo requests, so that each sample has one of each hypervisor
PORTS, RULES = 1, 3


def measure(run: Run) -> Iterator[Series]:
    size = 20 if run.quick else SIZE
    with fleet(run.directory / "fleet", size, PORTS, RULES) as some:
        run.progress(f"{size} hypervisors connect", 0.1)
        before, began = memory(some.pid), time.monotonic()
        took = some.connect() - began
        run.progress("idle", 0.5)
        time.sleep(0.5 if run.quick else SAMPLE)
        some.swarm.do("reset")
        shares = []
        for number in range(max(run.runs, 1)):
            run.progress("idle", 0.6 + 0.4 * number / run.runs)
            worked, began = cpu(some.pid), time.monotonic()
            time.sleep(0.5 if run.quick else SAMPLE)
            shares.append(100 * (cpu(some.pid) - worked) / (time.monotonic() - began))
        grown = (memory(some.pid) - before) / size
        counts = some.swarm.counts()
    asked = f"{counts.echoes} echo requests, {counts.probes} of switches; {counts.lost} connections lost"
    yield Series(US, SHARE, "% of a core", tuple(shares), note=f"{asked}; {int(counts.flows / size)} flows each")
    yield Series(US, MEMORY, "KB", (grown,))
    yield Series(US, IN_STEP, "s", (took,))


ROW = Row(
    name="fleet-idle",
    title=f"{SIZE:,} hypervisors connected and idle",
    about=(
        "Simulated hypervisors (bench/swarm.py) with one droplet each. Every 5 s the controller asks each for an echo"
        " (`echo_request_interval`); as Open vSwitch does, a hypervisor that hears nothing for 5 s asks, too. Audits"
        " (`audit_interval`, 300 s) begin after the measurement."
    ),
    measure=measure,
    targets=(at_most("under 20 % of a core", SHARE, 20),),
)
