"""SIGTERM ends the program within 5 s with status 0, whatever goes on; what was acknowledged is kept.

Status 0 itself says that it was in time: a limit inside the program ends it with another one (`process.End`).
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from fakeswitch import V14, message, port

from lab.controller import TOKEN, Answer, Controller
from lab.system import LabError, wait_until

pytestmark = pytest.mark.process
ROOT = Path(__file__).parent.parent
SWITCHES = 300
DPID = f"{1:016x}"


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    with Controller(tmp_path) as running:
        yield running


def mute_switch(controller: Controller, number: int) -> socket.socket:
    """Shakes hands, then says nothing and reads nothing."""
    switch = socket.create_connection((controller.host, controller.openflow_port), timeout=30)
    features = struct.pack("!QIBBxxII", number, 0, 254, 0, 0x4F, 0)
    ports = struct.pack("!HH4x", 13, 0) + port(1, "eth0") + port(2, "tap0")
    switch.sendall(message(0, 1, struct.pack("!HHI", 1, 8, 1 << V14)) + message(6, 2, features) + message(19, 3, ports))
    return switch


def furnish(controller: Controller) -> None:
    """A droplet behind a firewall on one hypervisor."""
    port = {"droplet_id": 7, "hypervisor": DPID, "interface": "tap0", "mac": "02:00:00:00:00:07",
            "addresses": ["10.0.0.7"]}  # fmt: skip
    for path, body in (
        (f"/v1/hypervisors/{DPID}", {"name": "hv1"}), ("/v1/droplets/7", {"name": "d"}), ("/v1/ports/p7", port),
    ):  # fmt: skip
        assert controller.call("PUT", path, body).status in (200, 201), path


def connected(controller: Controller) -> int:
    found = controller.call("GET", "/v1/hypervisors?per_page=200").json["hypervisors"]
    return sum(bool(hypervisor["connected"]) for hypervisor in found)


def firewall(name: str) -> dict[str, object]:
    rule = {"protocol": "tcp", "ports": "80", "sources": {"addresses": ["0.0.0.0/0"]}}
    return {"name": name, "droplet_ids": [7], "inbound_rules": [rule]}


def kept(directory: Path) -> set[str]:
    with closing(sqlite3.connect(directory / "firewall.db")) as database:
        return {row[0] for row in database.execute("select name from firewalls")}


def said(controller: Controller) -> str:
    return controller.log.read_text()


def test_sigterm_in_the_middle_of_everything(controller: Controller, tmp_path: Path) -> None:
    furnish(controller)
    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        for number in range(1, SWITCHES + 1):
            stack.enter_context(mute_switch(controller, number))
        wait_until("all connect", lambda: said(controller).count("hypervisor connected") == SWITCHES, 30)
        idle = http.client.HTTPConnection(controller.host, controller.rest.port, timeout=30)
        stack.callback(idle.close)
        idle.request("GET", "/healthz")
        assert idle.getresponse().read()
        waits = threads.submit(controller.call, "POST", "/v2/firewalls", firewall("waits"), {"Prefer": "wait=60"})
        reads = threads.submit(controller.call, "GET", f"/v1/hypervisors/{DPID}/flows")
        half = stack.enter_context(socket.create_connection((controller.host, controller.rest.port), timeout=30))
        half.sendall(
            f"POST /v2/firewalls HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{".encode()
        )
        wait_until("the write is kept", lambda: "waits" in kept(tmp_path))
        assert not waits.done()
        assert not reads.done()
        assert controller.stop() == 0
        assert not list(tmp_path.glob("firewall.db-wal")), "a copy of the database alone lacks what is in its log"
        answer: Answer = waits.result()
        assert (answer.status, answer.json["firewall"]["status"]) == (202, "waiting")
        assert answer.headers["connection"] == "close"
        assert reads.result().status == 503
        assert half.recv(1) == b""
        assert idle.sock.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            controller.call("GET", "/healthz")
    assert "firewall_app.process: ended" in said(controller)
    assert "Traceback" not in said(controller)
    (warning,) = [line for line in said(controller).partition("ending signal")[2].splitlines() if "WARNING" in line]
    assert "requests are cut off without an answer requests=1" in warning  # the half of one
    controller.start()
    assert [f["name"] for f in controller.call("GET", "/v2/firewalls").json["firewalls"]] == ["waits"]


def test_a_store_that_is_stalled_does_not_hold_the_end(controller: Controller, tmp_path: Path) -> None:
    furnish(controller)
    other = sqlite3.connect(tmp_path / "firewall.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # the program waits for it up to 5 s
    with ThreadPoolExecutor() as threads:
        held = threads.submit(controller.call, "POST", "/v2/firewalls", firewall("held"))
        behind = threads.submit(controller.call, "POST", "/v2/firewalls", firewall("behind"))
        wait_until("both are under way", lambda: connections(controller) >= 2)
        assert controller.stop() == 0
        # Nobody was told that anything is kept, and nothing is.
        for request in (held, behind):
            with pytest.raises(OSError, match=r"POST|reset"):
                request.result()
    other.close()
    assert kept(tmp_path) == set()
    assert "requests are cut off without an answer requests=2" in said(controller)
    assert "the store does not answer" in said(controller)


def connections(controller: Controller) -> int:
    """How many clients the REST server has, less the one that asks."""
    text = controller.call("GET", "/metrics").json
    (value,) = [line.split()[1] for line in text.splitlines() if line.startswith("firewall_http_connections ")]
    return int(float(value)) - 1


def test_sigterm_during_the_start_ends_it(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "firewall.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")  # the program waits for it up to 5 s
    controller = Controller(tmp_path)
    with ThreadPoolExecutor() as threads:
        starting = threads.submit(controller.start)
        wait_until("its process has the store open", lambda: has_open(tmp_path, "firewall.db"), 30)
        os.kill(controller.pid, signal.SIGTERM)
        with pytest.raises(LabError, match=r"ended by itself \(-15\)"):
            starting.result()
    other.close()
    assert said(controller) == ""


def has_open(directory: Path, name: str) -> bool:
    try:
        pid = int((directory / "controller.pid").read_text())
        return str(directory / name) in {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    except (OSError, ValueError):
        return False


HANGS = """
import os, signal, sys, time
import ryu.cmd.manager  # patches, as ryu-manager does
import eventlet
eventlet.monkey_patch(thread=True)
import logging
logging.basicConfig(stream=sys.stderr)
from firewall_app import process
from eventlet import patcher, tpool
process.END_SECONDS = float(sys.argv[2])

def hang_in_a_step(): eventlet.sleep(3600)
def fine(): pass
def fails(): raise ValueError("of no use")
def wait_natively(): patcher.original("time").sleep(3600)

steps = {"step": [hang_in_a_step], "thread": [fine, fails], "loop": [fine]}[sys.argv[1]]
eventlet.spawn_n(process.End(*steps).wait)
eventlet.spawn_n(tpool.execute, wait_natively)
eventlet.sleep(0.05)
if sys.argv[1] == "loop":
    print("ready", flush=True)
    wait_natively()
print("ready", flush=True)
eventlet.sleep(3600)
"""


@pytest.mark.parametrize(
    ("what", "status", "words"),
    [
        ("step", 1, ("ended by force", "step=hang_in_a_step", "hang_in_a_step,greenthread.py")),
        ("loop", 1, ("ended by force", 'step="waiting for the loop"', " wait_natively")),
        ("thread", 0, ("a step to the end failed step=fails", "of no use", "ended")),
    ],
)
def test_nothing_holds_the_end(what: str, status: int, words: tuple[str, ...]) -> None:
    log = ended(what, 0.3, signals=1, status=status)
    for word in words:
        assert word in log, log


def test_a_second_signal_ends_it_at_once() -> None:
    assert "by force" not in ended("step", 60, signals=2, status=128 + signal.SIGINT)


def ended(what: str, seconds: float, signals: int, status: int) -> str:
    """The log of a program that gets signals."""
    process = subprocess.Popen(
        [sys.executable, "-c", HANGS, what, str(seconds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        log = ""
        for _ in range(signals):
            process.send_signal(signal.SIGINT)
            while what != "loop" and "ending" not in log:
                log += process.stderr.readline()
        log += process.stderr.read()  # not communicate(), which knows nothing of what is buffered here
        process.wait(30)
    finally:
        process.kill()
        process.stdout.close()
        process.stderr.close()
    assert process.returncode == status, log
    return log
