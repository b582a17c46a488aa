"""Two controllers and one switch, all of them real processes: who drives it, and what a change of that costs."""

from __future__ import annotations

import os
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from frames import ip_frame, udp
from ovs_dummy import DummyOvs
from realfleet import Capture, Control

from lab.controller import Controller, Rest
from lab.system import wait_until

if TYPE_CHECKING:
    from postgresql import Server

pytest_plugins = ("postgresql",)
pytestmark = [pytest.mark.ovs, pytest.mark.process]

DPID = "0000000000000001"
SELF = f"/v1/hypervisors/{DPID}"
MAC, ADDRESS, PEER, PEER_MAC = "02:00:00:00:00:65", "10.0.0.1", "198.51.100.7", "02:00:00:00:00:01"
PATIENCE = 40.0
Start = Callable[..., Controller]


class Switch:
    """One bridge with an uplink and a droplet's port; `sent` and `received` are datagrams for the droplet."""

    def __init__(self, ovs: DummyOvs) -> None:
        self._ovs = ovs
        ovs.add_bridge("br0", ("up0",))
        self._pcap = ovs.directory / "tap1.pcap"
        ovs.vsctl(*("add-port", "br0", "tap1", "--", "set", "interface", "tap1", "type=dummy", "ofport_request=2"),
                  f"options:tx_pcap={self._pcap}")  # fmt: skip
        self.connect()

    def connect(self) -> None:
        """To the frames; again after a restart."""
        wait_until("the capture file", lambda: self._pcap.exists() and self._pcap.stat().st_size >= 24, PATIENCE)
        self._control, self._capture = Control(self._ovs.directory), Capture(self._pcap)
        self.sent = self.received = 0

    def close(self) -> None:
        self._control.close()
        self._capture.close()

    def follow(self, *controllers: Controller) -> None:
        names = [f"@c{number}" for number in range(len(controllers))]
        words = ["set", "bridge", "br0", f"controller=[{','.join(names)}]"]
        for name, one in zip(names, controllers, strict=True):
            words += ["--", f"--id={name}", "create", "controller", "max_backoff=1000"]
            words.append(f'target="tcp:127.0.0.1:{one.openflow_port}"')
        self._ovs.vsctl(*words)

    def restart(self) -> None:
        self.close()
        self._ovs.kill_vswitchd()
        for left in (self._pcap, *self._ovs.directory.glob("ovs-vswitchd.*.ctl")):
            left.unlink()
        self._ovs.start_vswitchd()
        self.connect()

    def flows(self) -> list[str]:
        text = self._ovs.ofctl("-O", "OpenFlow14", "--no-stats", "dump-flows", "br0")
        return sorted(line.strip() for line in text.splitlines() if "cookie" in line)

    def ages(self) -> dict[str, float]:
        """Seconds since each flow was put there."""
        text = self._ovs.ofctl("-O", "OpenFlow14", "dump-flows", "br0")
        found = re.findall(r"cookie=(\w+), duration=([\d.]+)s, (table=\d+), .*?(priority=\S+)", text)
        return {f"{cookie} {table} {what}": float(seconds) for cookie, seconds, table, what in found}

    def probe(self) -> None:
        """Two new flows to the droplet: one that the firewall allows, one that it does not."""
        for port in (443, 444):
            packet = udp(PEER, ADDRESS, 1024 + self.sent % 60000, port)
            frame = ip_frame(MAC, PEER_MAC, PEER, ADDRESS, 17, packet)
            self._control.call("netdev-dummy/receive", "up0", frame)
        self.sent += 1

    def assert_none_lost_none_leaked(self) -> None:
        def all_there() -> bool:
            for frame in self._capture.frames():
                port = int.from_bytes(frame[36:38], "big")
                assert port == 443, "a forbidden packet came through"
                self.received += 1
            return self.received == self.sent

        wait_until(f"{self.sent} packets at the droplet", all_there, PATIENCE)


class CutSocket:
    """Stands between a controller and its PostgreSQL server: passes bytes on, until it is cut."""

    def __init__(self, directory: Path, server: Path) -> None:
        self.directory = directory
        self._target = str(server / ".s.PGSQL.5432")
        self._ends: list[socket.socket] = []
        self.open = True
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / ".s.PGSQL.5432"))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self.open = False
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        for end in (*self._ends, self._listener):
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if not self.open:
                    client.close()
                    continue
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                self._ends += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def switch() -> Iterator[Switch]:
    with tempfile.TemporaryDirectory(prefix="fw-") as directory, DummyOvs(Path(directory)) as ovs:
        made = Switch(ovs)
        yield made
        made.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a controller, and ends all of them in the end."""
    with ExitStack() as stack:

        def started(name: str, database: str, **settings: object) -> Controller:
            controller = Controller(tmp_path / name, database=database, settings={"audit_interval": 2, **settings})
            stack.callback(controller.kill)
            controller.start()
            return controller

        yield started


def furnish(controller: Controller) -> None:
    """A droplet behind a firewall that allows one port."""
    port = {"droplet_id": 1, "hypervisor": DPID, "interface": "tap1", "mac": MAC, "addresses": [ADDRESS]}
    rule = {"protocol": "udp", "ports": "443", "sources": {"addresses": ["0.0.0.0/0"]}}
    for method, path, body in (
        ("PUT", SELF, {"uplinks": ["up0"]}),
        ("PUT", "/v1/droplets/1", {"name": "web"}),
        ("PUT", "/v1/ports/web-0", port),
        ("POST", "/v2/firewalls", {"name": "fw", "droplet_ids": [1], "inbound_rules": [rule]}),
    ):
        assert write(controller, path, body, method).status < 300


def write(controller: Controller, path: str, body: Any, method: str = "PUT") -> Any:
    return controller.call(method, path, body, {"Prefer": "wait=30"})


def sync(controller: Controller) -> dict[str, Any]:
    return controller.call("GET", SELF).json.get("sync", {})


def comes_to(controller: Controller, state: str, during: Callable[[], None] = lambda: None) -> None:
    def there() -> bool:
        during()
        return sync(controller).get("state") == state

    wait_until(f"{controller.directory.name}: {state}", there, PATIENCE, 0.02)


def becomes(controller: Controller, active: bool, during: Callable[[], None] = lambda: None) -> None:
    def there() -> bool:
        during()
        return bool(controller.call("GET", "/v1/status").json["lease"]["active"]) is active

    wait_until(f"{controller.directory.name}: {'active' if active else 'standby'}", there, PATIENCE, 0.02)


def refuses_as_standby(controller: Controller, active: Controller) -> None:
    answer = controller.call("PUT", "/v1/droplets/9", {"name": "x"})
    assert (answer.status, answer.json["id"]) == (503, "standby")
    assert active.rest.url in answer.json["message"]
    assert controller.call("GET", "/readyz").status == 503
    assert controller.call("GET", "/healthz").status == 200


def test_T171_the_standby_takes_over_from_one_that_dies_and_no_flow_changes_and_no_packet_is_lost(
    tmp_path: Path, switch: Switch, start: Start
) -> None:
    """On one SQLite file."""
    database = f"sqlite:///{tmp_path}/shared.db"
    one = start("one", database)
    two = start("two", database)
    switch.follow(one, two)
    furnish(one)
    comes_to(two, "standby")
    wait_until("the standby's policy", lambda: two.call("GET", "/v1/droplets/1").status == 200, PATIENCE)
    refuses_as_standby(two, one)
    secret = one.call("POST", "/v1/tokens", {"role": "viewer"}).json["token"]
    viewer = Rest(two.host, two.rest.port, secret)
    wait_until("the standby's tokens", lambda: viewer.call("GET", "/v1/status").status == 200, PATIENCE)
    switch.probe()
    switch.assert_none_lost_none_leaked()
    flows, ages = switch.flows(), switch.ages()
    one.kill()
    becomes(two, True, switch.probe)
    comes_to(two, "in_sync", switch.probe)
    one.start()
    refuses_as_standby(one, two)
    comes_to(one, "standby", switch.probe)
    after = switch.ages()
    assert switch.flows() == flows
    assert all(after[key] > age for key, age in ages.items()), "a flow was written anew"
    assert write(two, "/v1/droplets/2", {"name": "new"}).status == 201
    wait_until("what the active one wrote", lambda: one.call("GET", "/v1/droplets/2").status == 200, PATIENCE)
    switch.assert_none_lost_none_leaked()


def test_T171_T172_a_controller_that_was_frozen_and_deposed_can_write_neither_to_the_store_nor_to_the_switch(
    postgresql: Server, switch: Switch, start: Start
) -> None:
    """On PostgreSQL: a frozen holder keeps its session, and with it the lease, until an operator ends the session."""
    database = postgresql.database()
    schema = database.rpartition("%3D")[2]
    one = start("one", database)
    two = start("two", database)
    switch.follow(one, two)
    furnish(one)
    comes_to(two, "standby")
    os.kill(one.pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(one.call, "PUT", "/v1/droplets/9", {"name": "late"})
            assert not two.call("GET", "/v1/status").json["lease"]["active"]
            terminate = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            assert postgresql.sql(f"{terminate} AND objid = '{schema}'::regnamespace") == [(True,)]
            becomes(two, True, switch.probe)
            comes_to(two, "in_sync", switch.probe)
            firewall = two.call("GET", "/v2/firewalls").json["firewalls"][0]
            assert write(two, f"/v2/firewalls/{firewall['id']}", {**firewall, "droplet_ids": [1]}).status == 200
            flows = switch.flows()
            os.kill(one.pid, signal.SIGCONT)
            assert late.result().status == 503
    finally:
        os.kill(one.pid, signal.SIGCONT)
    becomes(one, False)
    comes_to(one, "standby")
    refuses_as_standby(one, two)
    assert two.call("GET", "/v1/droplets/9").status == 404
    assert switch.flows() == flows
    assert sync(two)["state"] == "in_sync"
    switch.assert_none_lost_none_leaked()


def test_T172_one_that_is_cut_off_from_the_store_serves_its_switches_until_another_is_their_master(
    postgresql: Server, switch: Switch, start: Start
) -> None:
    database = postgresql.database()
    with tempfile.TemporaryDirectory(prefix="fw-") as directory:
        between = CutSocket(Path(directory), postgresql.folder)
        one = start("one", database.replace(str(postgresql.folder), directory))
        switch.follow(one)
        furnish(one)
        flows = switch.flows()
        between.cut()
        # Nobody else is there: what reconnects is driven as before, here with all that it lost.
        switch.restart()
        wait_until("the flows", lambda: len(switch.flows()) == len(flows), PATIENCE, 0.05)
        switch.probe()
        switch.assert_none_lost_none_leaked()
        answer = one.call("PUT", "/v1/droplets/9", {"name": "x"})
        assert (answer.status, answer.json["id"]) == (503, "store_unavailable")
        # Another one can reach the store, and so has the lease.
        two = start("two", database)
        becomes(two, True)
        switch.follow(one, two)
        comes_to(two, "in_sync", switch.probe)
        comes_to(one, "failed", switch.probe)
        assert "another connection is master with generation" in sync(one)["error"]
        assert write(two, "/v1/droplets/1", {"name": "web", "tags": ["a"]}).status == 200
        flows = switch.flows()
        switch.follow(two)
        comes_to(one, "unreachable", switch.probe)
        switch.follow(one, two)
        comes_to(one, "failed", switch.probe)
        assert switch.flows() == flows
        assert sync(two)["state"] == "in_sync"
        between.open = True
        becomes(one, False, switch.probe)
        comes_to(one, "standby", switch.probe)
        refuses_as_standby(one, two)
        switch.assert_none_lost_none_leaked()
        assert switch.flows() == flows
        one.kill()
        between.close()
