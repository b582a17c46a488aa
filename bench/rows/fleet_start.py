"""How long many hypervisors take to come into step with one controller, and what it remembers for each."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator

from bench.fleet import FLOWS, at, fleet, memory, plain
from bench.row import US, Plot, Row, Run, Series

IN_STEP, MEMORY = "hypervisors in step", "memory of a hypervisor"
BYTES, OBJECTS = "Ryu 4.34, flows as bytes", "Ryu 4.34, flows as objects"
SIZE = 1000  # of the target
NOTES = {
    US: "read back, compared, sent in a bundle, confirmed; until GET /metrics says in_sync of all",
    BYTES: "sent and not read back; until the last barrier was asked for",
    OBJECTS: "as its documentation has it; the same",
}


def measure(run: Run) -> Iterator[Series]:
    each, once = ((5,), ()) if run.quick else ((100, SIZE), (10, 300, 3000))
    rounds = [(who, size) for _ in range(run.runs) for size in each for who in (US, BYTES)]
    rounds += [(US, size) for size in once] + [(OBJECTS, min(each))]
    found: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for number, (who, size) in enumerate(rounds):
        run.progress(f"{who}: {size} hypervisors", number / len(rounds))
        seconds, kilobytes = _ours(run, number, size) if who == US else _plain(run, number, size, who)
        found[who, IN_STEP, size].append(seconds)
        found[who, MEMORY, size].append(kilobytes)
    for (who, what, size), values in sorted(found.items()):
        yield Series(who, what, "s" if what == IN_STEP else "KB", tuple(values), size, NOTES[who])


def _ours(run: Run, number: int, size: int) -> tuple[float, float]:
    with fleet(run.directory / str(number), size) as some:
        before, began = memory(some.pid), time.monotonic()
        return some.connect() - began, (memory(some.pid) - before) / size


def _plain(run: Run, number: int, size: int, who: str) -> tuple[float, float]:
    how = "bytes" if who == BYTES else "objects"
    with plain(run.directory / str(number), FLOWS, how) as ryu:
        before, began = memory(ryu.pid), time.monotonic()
        return ryu.connect(size) - began, (memory(ryu.pid) - before) / size


ROW = Row(
    name="fleet-start",
    title=f"{SIZE:,} hypervisors x {FLOWS} flows, from the first connection until all are in step",
    about=(
        "Simulated hypervisors (bench/swarm.py) connect all at once, without a flow, to a controller that runs and"
        " has their policy in its store: 8 droplets on each, all behind one firewall. Memory is what the process grew"
        " by. The simulator answers at once and from the other core: what a real switch takes, it takes in its own"
        " machine."
    ),
    measure=measure,
    targets=(
        at("under 20 s", IN_STEP, SIZE, 20),
        at("under 300 KB for each", MEMORY, SIZE, 300),
    ),
    plots=(
        Plot("fleet-start", "Start of a fleet", "hypervisors", "seconds", (IN_STEP,), log_x=True, log_y=True),
        Plot("fleet-memory", "Memory of a fleet", "hypervisors", "KB for each", (MEMORY,), log_x=True),
    ),
)
