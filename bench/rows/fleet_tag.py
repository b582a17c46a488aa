"""One droplet joins a tag that rules on a thousand hypervisors name; what others feel of it meanwhile."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from typing import Any

from bench.fleet import Fleet, fleet
from bench.judges import at_most
from bench.row import US, Row, Run, Series
from lab.controller import TOKEN
from lab.system import LabError, wait_until

COMMITTED, ANSWERED, MEANWHILE = "all have committed", "the request is answered", "a GET meanwhile"
MODS = "flow-mods of a hypervisor"
SIZE, PORTS = 1000, 8
READERS, PAUSE = 4, 0.005  # clients that read meanwhile, and seconds that each waits before it asks again


class Reader(threading.Thread):
    """A client that reads again and again on one connection, and notes when it asked and how long it waited."""

    def __init__(self, host: str, port: int, path: str) -> None:
        super().__init__()
        self.found: list[tuple[float, float]] = []  # when it began, and seconds
        self.problem: BaseException | None = None
        self._address, self._path, self._over = (host, port), path, threading.Event()

    def run(self) -> None:
        try:
            connection = http.client.HTTPConnection(*self._address, timeout=60)
            while not self._over.wait(PAUSE):
                began = time.monotonic()
                connection.request("GET", self._path, headers={"Authorization": f"Bearer {TOKEN}"})
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    raise LabError(f"GET {self._path}: {response.status}")
                self.found.append((began, time.monotonic() - began))
            connection.close()
        except BaseException as problem:  # noqa: BLE001,RUF100 - told by `end`
            self.problem = problem

    def end(self) -> None:
        self._over.set()
        self.join()
        if self.problem is not None:
            raise self.problem


def measure(run: Run) -> Iterator[Series]:
    size = 20 if run.quick else SIZE
    committed, answered, meanwhile, mods = [], [], [], []
    with fleet(run.directory / "fleet", size, PORTS) as some:
        run.progress(f"{size} hypervisors connect", 0.1)
        some.connect()
        last = size * PORTS
        for number in range(run.runs):
            run.progress("a droplet joins a tag", 0.5 + 0.5 * number / run.runs)
            found = _join(some, last - number)
            committed.append(found["committed"])
            answered.append(found["answered"])
            mods.append(found["mods"] / size)
            meanwhile += found["reads"]
    yield Series(US, COMMITTED, "s", tuple(committed), note="from the request to the last switch's commit")
    yield Series(US, ANSWERED, "s", tuple(answered), note="with `Prefer: wait`")
    yield Series(US, MEANWHILE, "ms", tuple(meanwhile), note=f"{READERS} clients, GET /v1/ports/ID")
    yield Series(
        US, MODS, "flow-mods", tuple(mods), note="the address, IPv4 and link-local; fence, generation and turn"
    )


def _join(some: Fleet, droplet: int) -> dict[str, Any]:
    rest = some.controller.rest
    readers = [Reader(rest.host, rest.port, f"/v1/ports/p{number}") for number in range(1, READERS + 1)]
    for reader in readers:
        reader.start()
    try:
        wait_until("reads", lambda: all(reader.found or reader.problem for reader in readers), 30)
        some.swarm.do("reset")
        body = {"name": f"d{droplet}", "tags": ["all", "few"]}
        began = time.monotonic()
        answer = some.controller.call("PUT", f"/v1/droplets/{droplet}", body, {"Prefer": "wait=60"})
        ended = time.monotonic()
        counts = some.swarm.counts()
    finally:
        for reader in readers:
            reader.end()
    if answer.headers.get("x-change-status") != "succeeded" or counts.commits != some.hypervisors:
        raise LabError(f"{counts.commits} commits, and {answer}")
    reads = [1000 * took for reader in readers for when, took in reader.found if when + took >= began and when < ended]
    return {
        "committed": counts.last_commit - began, "answered": ended - began, "mods": counts.mods, "reads": reads,
    }  # fmt: skip


ROW = Row(
    name="fleet-tag",
    title=f"one tag change that touches {SIZE:,} hypervisors, and GET requests meanwhile",
    about=(
        "A droplet gets a tag that a rule in force on every hypervisor names (PUT /v1/droplets/ID). The hypervisors are"
        " simulated (bench/swarm.py), 500 flows each. The GET requests are those of other clients between"
        " the request and its answer."
    ),
    measure=measure,
    targets=(
        at_most("all committed within 2 s", COMMITTED, 2),
        at_most("GET meanwhile: p99 under 100 ms", MEANWHILE, 100, 0.99),
    ),
)
