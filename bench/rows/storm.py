"""Thousands of hypervisors that come back at once, after an outage of the network."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from bench.fleet import fleet, plain
from bench.judges import find
from bench.row import US, Row, Run, Series, Target, Verdict
from lab.system import LabError

BACK = "{:,} reconnects"
RYU = "Ryu 4.34, a barrier each"
SIZE, TRIAL = 2000, 20
PORTS, RULES = 1, 3
PATIENCE = 30.0  # seconds that Ryu has for a run: five runs end within the row's share of all
NOTES = {
    US: "read back and compared, nothing sent; until GET /metrics says in_sync of all",
    RYU: "a plain application that sends one barrier to each; Ryu's own listener, with its backlog of 50",
}


def measure(run: Run) -> Iterator[Series]:
    size = TRIAL if run.quick else SIZE
    found: dict[str, list[float]] = {US: [], RYU: []}
    tries = dict.fromkeys(found, 0)
    unfinished: list[int] = []  # of each run of Ryu's that was ended, how many had no barrier yet
    with fleet(run.directory / "ours", size, PORTS, RULES) as some:
        run.progress(f"{size} hypervisors connect", 0.0)
        some.connect()
        for number in range(run.runs):
            run.progress(f"{size} come back", (number + 1) / (run.runs + 1))
            some.leave()
            began = time.monotonic()
            found[US].append(some.connect() - began)
            tries[US] += some.swarm.counts().given_up
            # A new one each time: what its backlog dropped may come to an old one minutes later.
            with plain(run.directory / "ryu", 0, "bytes") as ryu:
                began = time.monotonic()
                try:
                    found[RYU].append(ryu.connect(size, PATIENCE) - began)
                except LabError:
                    found[RYU].append(PATIENCE)
                    unfinished.append(size - ryu.swarm.counts().barriers)
                tries[RYU] += ryu.swarm.counts().given_up
    for who, values in found.items():
        note = f"{NOTES[who]}. Connections given up for want of a HELLO: {tries[who] / run.runs:,.0f} a run"
        if who == RYU and unfinished:
            note += (
                f". More than {PATIENCE:g} s in {len(unfinished)} of {run.runs} runs, which were ended then:"
                f" {min(unfinished):,} to {max(unfinished):,} hypervisors had no barrier yet"
            )
        yield Series(who, BACK.format(size), "s", tuple(values), note=note)


def _judge(series: Sequence[Series]) -> Verdict:
    ours, theirs = (find(series, BACK.format(SIZE), who) for who in (US, RYU))
    if ours is None or theirs is None:
        return Verdict(False, "not measured")
    more = "more than " if theirs.median >= PATIENCE else ""
    return Verdict(ours.median <= theirs.median, f"{ours.median:.1f} s; Ryu's listener {more}{theirs.median:.1f} s")


ROW = Row(
    name="storm",
    title="hypervisors that come back at once, their flows unchanged",
    about=(
        "Simulated hypervisors (bench/swarm.py), one droplet each, lose their connections and connect again, all at"
        " once. Each does as Open vSwitch does by itself: it gives up a connection on which no HELLO comes within a"
        " second, waits for a second and tries again, with more patience each time, up to eight seconds. Ours reads"
        " every flow back and compares it. Ryu's listener is what paces whoever uses it: connections beyond its"
        " backlog are dropped, and tried again later."
    ),
    measure=measure,
    targets=(Target(f"{SIZE:,} in no more time than Ryu's own listener takes for a barrier each", _judge),),
)
