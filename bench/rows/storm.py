"""Thousands of hypervisors that come back at once, after an outage of the network."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack

from bench.fleet import fleet, plain
from bench.judges import find
from bench.row import US, Row, Run, Series, Target, Verdict

BACK = "{:,} reconnects"
RYU = "Ryu 4.34, a barrier each"
SIZES = (1000,)  # 2,000 cost stock Ryu minutes: its backlog is 50, and TCP waits longer each time
PORTS, RULES = 1, 3
NOTES = {
    US: "read back and compared, nothing sent; until GET /metrics says in_sync of all",
    RYU: "a plain application that sends one barrier to each; Ryu's own listener, with its backlog of 50",
}


def measure(run: Run) -> Iterator[Series]:
    sizes = (20,) if run.quick else SIZES
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for place, size in enumerate(sizes):
        with ExitStack() as stack:
            some = stack.enter_context(fleet(run.directory / f"fleet-{size}", size, PORTS, RULES))
            ryu = stack.enter_context(plain(run.directory / f"ryu-{size}", 0, "bytes"))
            run.progress(f"{size} hypervisors connect", place / len(sizes))
            some.connect()
            for number in range(run.runs):
                run.progress(f"{size} come back", (place + (number + 1) / (run.runs + 1)) / len(sizes))
                some.leave()
                began = time.monotonic()
                found[US, BACK.format(size)].append(some.connect() - began)
                began = time.monotonic()
                found[RYU, BACK.format(size)].append(ryu.connect(size) - began)
                ryu.swarm.do("disconnect", first=1, count=size)
    for (who, what), values in found.items():
        yield Series(who, what, "s", tuple(values), note=NOTES[who])


def _judge(series: list[Series]) -> Verdict:
    ours, theirs = (find(series, BACK.format(SIZES[-1]), who) for who in (US, RYU))
    if ours is None or theirs is None:
        return Verdict(False, "not measured")
    return Verdict(ours.median <= theirs.median, f"{ours.median:.1f} s; Ryu's listener {theirs.median:.1f} s")


ROW = Row(
    name="storm",
    title="hypervisors that come back at once, their flows unchanged",
    about=(
        "Simulated hypervisors (bench/swarm.py), one droplet each, lose their connections and connect again, all at"
        " once. Ours reads every flow back and compares it; Ryu's listener is what paces whoever uses it: connections"
        " beyond its backlog wait for retransmissions of TCP."
    ),
    measure=measure,
    targets=(Target(f"{SIZES[-1]:,} in no more time than Ryu's own listener takes for a barrier each", _judge),),
)
