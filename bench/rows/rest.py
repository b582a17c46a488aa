"""REST: answers per second to 16 clients, and what a write costs until it is on disk."""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.judges import at_least
from bench.load import Answered, Load, ask, request
from bench.row import US, Row, Run, Series
from lab.controller import ROOT, RYU, Controller, Rest, free_port, is_listened_on
from lab.network import Lab
from lab.postgresql import Server, binaries
from lab.system import LabError, end, spawn, tail, wait_until

CLIENTS, FIREWALLS, RULES = 16, 20, 25
POSTGRESQL = f"{US}, PostgreSQL"
RYU_FIREWALL = "Ryu 4.34 rest_firewall"
BARE = "eventlet's server, a constant answer"
DISK = "SQLite, one commit after another"
READ, PAGE, WRITE, ALONE, LATE = (
    "read a firewall", "read a page of 20 firewalls", "add or remove a rule", "add or remove a rule, one client",
    "add or remove a rule, p99",
)  # fmt: skip
NOTES = {
    (US, WRITE): "on disk when it is answered (SQLite, synchronous=FULL), with its line in the audit log",
    (POSTGRESQL, WRITE): "committed by a server with fsync on when it is answered",
    (RYU_FIREWALL, WRITE): "a rule is added: it is sent to the switch, neither kept nor confirmed",
    (BARE, READ): "no route, no token, no JSON: what any answer costs here",
    (DISK, WRITE): "one row of 200 bytes each, without HTTP: what the disk allows whoever does not group commits",
}


@dataclass(frozen=True)
class Task:
    """One thing that clients ask of one contestant."""

    who: str
    what: str
    port: int
    requests: Sequence[Sequence[str]]  # of each client, in turn
    good: Sequence[str]  # statuses


def measure(run: Run) -> Iterator[Series]:
    seconds = 0.2 if run.quick else 1.5
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        run.progress("starting", 0)
        tasks = [*_ours(stack, run), *_others(stack, run)]
        disk = stack.enter_context(closing(_database(run.directory / "alone.db")))
        for number in range(run.runs):
            for place, task in enumerate(tasks):
                run.progress(f"{task.who}: {task.what}", (number + place / len(tasks)) / run.runs)
                answered = ask(Load("127.0.0.1", task.port, seconds, task.requests))
                _note(found, task, answered)
            found[DISK, WRITE, "1/s"].append(_commits(disk, seconds))
    for (who, what, unit), values in found.items():
        yield Series(who, what, unit, tuple(values), note=NOTES.get((who, what), ""))


def _note(found: dict[tuple[str, str, str], list[float]], task: Task, answered: Answered) -> None:
    bad = {status: count for status, count in answered.statuses.items() if status not in task.good}
    if bad:
        raise LabError(f"{task.who}, {task.what}: answers of status {bad}")
    milliseconds = sorted(answered.milliseconds)
    if task.what == ALONE:
        found[task.who, ALONE, "ms"].append(statistics.median(milliseconds))
        return
    found[task.who, task.what, "1/s"].append(answered.per_second)
    if task.what == WRITE:
        found[task.who, LATE, "ms"].append(milliseconds[int(len(milliseconds) * 0.99)])


# ---- us


def _ours(stack: ExitStack, run: Run) -> Iterator[Task]:
    for who, database in ((US, ""), (POSTGRESQL, _postgresql(stack))):
        if database is None:
            continue
        directory = run.directory / ("postgresql" if database else "sqlite")
        controller = stack.enter_context(Controller(directory, database=database, settings={"max_connections": 100}))
        rest = controller.rest
        ids = [_firewall(rest, number) for number in range(FIREWALLS)]
        reads = [[request("GET", f"/v2/firewalls/{ids[n]}", rest.token)] for n in range(CLIENTS)]
        pages = [[request("GET", "/v2/firewalls", rest.token)]] * CLIENTS
        writes = [_writes(rest, ids[n], 5000 + n) for n in range(CLIENTS)]
        if not database:  # reads do not ask the store
            yield Task(who, READ, rest.port, reads, ("200",))
            yield Task(who, PAGE, rest.port, pages, ("200",))
        yield Task(who, WRITE, rest.port, writes, ("204",))
        yield Task(who, ALONE, rest.port, writes[:1], ("204",))


def _firewall(rest: Rest, number: int) -> str:
    rules = [_rule(str(1000 + n), (f"10.{n}.0.0/16", "2001:db8::/32")) for n in range(RULES)]
    answer = rest.call("POST", "/v2/firewalls", {"name": f"fw-{number}", "inbound_rules": rules})
    if answer.status != 202:
        raise LabError(f"POST /v2/firewalls: {answer}")
    found: str = answer.json["firewall"]["id"]
    return found


def _writes(rest: Rest, firewall: str, port: int) -> list[str]:
    path, body = f"/v2/firewalls/{firewall}/rules", {"inbound_rules": [_rule(str(port), ("192.0.2.0/24",))]}
    return [request(method, path, rest.token, body) for method in ("POST", "DELETE")]


def _rule(ports: str, addresses: Sequence[str]) -> dict[str, object]:
    return {"protocol": "tcp", "ports": ports, "sources": {"addresses": list(addresses)}}


def _postgresql(stack: ExitStack) -> str | None:
    found = binaries()
    if found is None:
        return None
    server = Server(found, fsync=True)
    stack.callback(server.remove)
    return server.database()


# ---- others


def _others(stack: ExitStack, run: Run) -> Iterator[Task]:
    port = free_port()
    stack.enter_context(
        _process([sys.executable, "-m", "bench.bare_server", str(port)], run.directory / "bare.log", port)
    )
    yield Task(BARE, READ, port, [[request("GET", "/")]] * CLIENTS, ("200",))
    port = stack.enter_context(_ryu(run.directory / "ryu.log"))
    path = "/firewall/rules/0000000000000001"
    rules = [[request("POST", path, body=_ryu_rule(client, n)) for n in range(250)] for client in range(CLIENTS)]
    yield Task(RYU_FIREWALL, WRITE, port, rules, ("200",))


def _ryu_rule(client: int, number: int) -> dict[str, str]:
    return {
        "nw_src": f"10.{client}.{number}.0/24", "nw_dst": "10.200.0.1/32", "nw_proto": "TCP", "tp_dst": "443",
        "priority": "10",
    }  # fmt: skip


@contextmanager
def _ryu(log: Path) -> Iterator[int]:
    """Ryu's example firewall with one real switch; where its REST API is."""
    with Lab() as lab:
        lab.add_hypervisor()
        openflow, rest = free_port(lab.address), Rest("127.0.0.1", free_port(), token="")
        argv = [
            *RYU, "--ofp-listen-host", lab.address, "--ofp-tcp-listen-port", str(openflow),
            "--wsapi-host", rest.host, "--wsapi-port", str(rest.port), "ryu.app.rest_firewall",
        ]  # fmt: skip
        with _process(argv, log, rest.port):
            lab.connect(openflow)
            enable = "/firewall/module/enable/0000000000000001"
            wait_until("Ryu's firewall", lambda: "success" in json.dumps(rest.call("PUT", enable).json), 15, 0.1)
            yield rest.port


@contextmanager
def _process(argv: list[str], log: Path, port: int) -> Iterator[None]:
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = spawn(argv, log, {**os.environ, "PYTHONPATH": paths})
    try:
        wait_until(argv[-1], lambda: process.poll() is not None or is_listened_on("127.0.0.1", port), 30, 0.05)
        if process.poll() is not None:
            raise LabError(f"{argv[-1]} ended by itself:\n{tail(log)}")
        yield
    finally:
        end(process)


def _database(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    for line in (
        "PRAGMA journal_mode=WAL",
        "PRAGMA synchronous=FULL",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT)",
    ):
        connection.execute(line)
    return connection


def _commits(connection: sqlite3.Connection, seconds: float) -> float:
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        connection.execute("INSERT INTO t (x) VALUES (?)", ("x" * 200,))
        count += 1
    return count / (time.perf_counter() - began)


ROW = Row(
    name="rest",
    title="REST: answers per second to 16 clients",
    about=(
        "16 connections of another process on this machine (bench/load.py), each asking as soon as it was answered, of"
        " one controller with 20 firewalls of 25 rules and no switch; a bearer token with every request. Writes add a"
        " rule to a firewall and remove it, in turn, each client with its own firewall; they are answered when they are"
        " on disk, and do not wait for switches. Client and server share the two cores. Ryu's example firewall has one"
        " real Open vSwitch, keeps nothing and waits for no confirmation. Not measured: TLS, and clients that open a"
        " connection for each request."
    ),
    measure=measure,
    targets=(
        at_least("reads 2,000/s", READ, 2000),
        at_least("pages 2,000/s", PAGE, 2000),
        at_least("durable writes 300/s", WRITE, 300),
    ),
)
