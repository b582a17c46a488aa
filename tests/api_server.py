"""A controller without a database and without switches, for the tests of api/.

`World` holds one in this process, and is called as a WSGI application.  `Process` runs one behind the real server in
a process of its own, since eventlet and pytest do not share one well; `python api_server.py` is that process.
"""

from __future__ import annotations

if __name__ == "__main__":
    import eventlet

    eventlet.monkey_patch()  # before anything else is imported

import http.client
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import conformance
from memorystore import MemoryJournal
from webob import Request

from firewall_app import certificates
from firewall_app.api.app import Environ, make_application
from firewall_app.history import History, Point, beginning
from firewall_app.pipeline.tables import Kind, cookie_parts
from firewall_app.policy.errors import StoreError, Unreachable
from firewall_app.policy.policy import Change, Counters, Policy
from firewall_app.progress import SwitchReport, Sync
from firewall_app.records import Entry, Note
from firewall_app.service.access import Access, Caller, Role
from firewall_app.service.core import Core, Event, FlowStats, Limits, Runtime
from firewall_app.settings import Settings

T = TypeVar("T")

OPERATOR, TENANT, OTHER_TENANT, VIEWER = "operator-token", "tenant-token", "other-token", "viewer-token"
HV1, HV2 = "0000000000000001", "0000000000000002"
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Threads:
    """`service.core.Runtime` on plain threads.  Its clock moves on by a second whenever it is looked at."""

    def __init__(self) -> None:
        self._now = START

    def lock(self) -> AbstractContextManager[object]:
        return threading.Lock()

    def slow(self, work: Callable[[], T]) -> T:
        return work()

    def aside(self, work: Callable[[], T]) -> T:
        return work()

    def pause(self) -> None: ...

    def event(self) -> Event:
        return threading.Event()

    def certain(self) -> Event:
        return threading.Event()

    def now(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now


class Memory(MemoryJournal):
    """A store that forgets when the process ends."""

    def __init__(self) -> None:
        super().__init__()
        self.policy, self.history = Policy(), beginning()
        self.broken = False

    def commit(
        self,
        changes: Iterable[Change],
        counters: Counters,
        expected: Point,
        notes: Sequence[Note] = (),
        revisions: int = 1,
    ) -> Point:
        self.ping()
        self.note(notes)
        draft = self.policy.edit()
        for change in changes:
            if change.new is not None:
                draft.put(change.new)
            else:
                draft.drop(change.entity)
        draft.counters = counters
        self.policy, self.history = draft.done(), self.history.after(Point(1, expected.revision + revisions))
        return self.history.point

    def load(self) -> tuple[Policy, History]:
        self.ping()
        return self.policy, self.history

    @property
    def revision(self) -> int:
        return self.history.revision

    def newest(self) -> Point:
        self.ping()
        return self.history.point

    def branch(self) -> None:
        pass

    def supersede(self, point: Point, entry: Entry | None = None) -> None:
        if entry is not None:
            self.record(entry)
        self.history = self.history.superseding(point)

    def ping(self, write: bool = False) -> None:
        if self.broken:
            raise StoreError("disk full: secret details")


class FakeSwitch:
    """A switch that confirms at once, refuses, or says nothing until it is told to; or does so `later`."""

    later: Callable[[Callable[[], None]], object]

    def __init__(self, core: Core, dpid: str, interfaces: Mapping[int, str]) -> None:
        self.core, self.dpid, self.interfaces = core, dpid, interfaces
        self.mode = "confirm"
        self.told = self.resyncs = 0

    def connect(self) -> None:
        self.core.connected(self.dpid, self)
        self.confirm()

    def policy_changed(self) -> None:
        self.told += 1
        what, _, when = self.mode.partition("-")
        answer = {"confirm": self.confirm, "refuse": self.refuse, "silent": lambda: None}[what]
        if when:
            self.later(answer)
        else:
            answer()

    def resync(self) -> None:
        self.resyncs += 1

    def read_flows(self, timeout: float) -> list[FlowStats]:
        if self.mode == "silent":
            raise Unreachable(f"hypervisor {self.dpid} did not answer within {timeout} s")
        units = self.core.units(self.dpid, self.interfaces)[1].values()
        flows = [flow for unit in units for flow in unit.flows()]
        return [
            FlowStats(None, "table=99, whoever wrote this", 1, 2),
            *(FlowStats(flow, flow.text, 10, 1000) for flow in reversed(flows)),
        ]

    def read_counters(self, timeout: float) -> dict[int, tuple[int, int]]:
        found: dict[int, tuple[int, int]] = {}
        for stats in self.read_flows(timeout):
            parts = cookie_parts(stats.flow.cookie) if stats.flow is not None and stats.flow.table == 33 else None
            if parts is not None and parts[0] is Kind.RULE:
                packets, size = found.get(parts[1], (0, 0))
                found[parts[1]] = packets + stats.packets, size + stats.bytes
        return found

    def close(self) -> None:
        pass

    def confirm(self) -> None:
        self._report(SwitchReport(Sync.IN_SYNC, confirmed=self.core.revision))

    def refuse(self) -> None:
        self._report(
            SwitchReport(
                Sync.FAILED,
                confirmed=self.core.progress.report(self.dpid).confirmed,
                failed=self.core.revision,
                error="table is full",
            )
        )

    def _report(self, what: SwitchReport) -> None:
        report = SwitchReport(
            what.sync, what.confirmed, what.failed, what.error, "192.0.2.1", START, "1.4", "3.1.0", 7, START,
            interfaces=self.interfaces,
        )  # fmt: skip
        self.core.reported(self.dpid, self, report)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problems(self) -> dict[str, str]:
        """The faults of an error, by their path."""
        return {fault["at"]: fault["problem"] for fault in self.json["errors"]}


@dataclass
class World:
    """One controller; `call` asks it something as the operator, or as someone else."""

    settings: Settings = field(default_factory=Settings)
    limits: Limits = field(default_factory=Limits)
    runtime: Runtime = field(default_factory=Threads)
    store: Any = field(default_factory=Memory)

    def __post_init__(self) -> None:
        self.core = Core(*self.store.load(), self.store, self.runtime, limits=self.limits)
        self.access = Access()
        self.access.grant(OPERATOR, Caller(Role.OPERATOR))
        self.access.grant(TENANT, Caller(Role.TENANT, "default"))
        self.access.grant(OTHER_TENANT, Caller(Role.TENANT, "acme"))
        self.access.grant(VIEWER, Caller(Role.VIEWER))
        self.application = make_application(self.core, self.access, self.settings)
        self.switches = {
            HV1: FakeSwitch(self.core, HV1, {1: "eth0", 3: "tap3", 4: "tap4"}),
            HV2: FakeSwitch(self.core, HV2, {1: "eth0", 3: "tap3"}),
        }

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        token: str | None = OPERATOR,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """`body`: bytes as they are, None for none, else JSON."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = Request.blank(path, method=method, body=data, headers=dict(headers or {}))
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
        response = request.get_response(self.application)
        conformance.check(method, path, response.status_code, response.headers, response.body)
        return Answer(response.status_code, response.headers, response.body)

    def furnish(self) -> World:
        """Two hypervisors; droplets 101 (tag web) and 102 on the first, 103 on the second, 201 of account acme."""
        for switch in self.switches.values():
            switch.connect()
        for number, dpid in enumerate((HV1, HV2), 1):
            self.good("PUT", f"/v1/hypervisors/{dpid}", {"name": f"hv-{number}", "uplinks": ["eth*"]})
        self.good("PUT", "/v1/droplets/101", {"name": "web-1", "tags": ["web"]})
        self.good("PUT", "/v1/droplets/102", {"name": "web-2"})
        self.good("PUT", "/v1/droplets/103", {"name": "db-1"})
        self.good("PUT", "/v1/droplets/201", {"name": "theirs", "account": "acme", "tags": ["secret"]})
        self.good("PUT", "/v1/ports/p101", port(101, HV1, "tap3", "203.0.113.1", "2001:db8::1"))
        self.good("PUT", "/v1/ports/p102", port(102, HV1, "tap4", "10.0.0.2"))
        self.good("PUT", "/v1/ports/p103", port(103, HV2, "tap3", "10.0.0.3", "10.9.0.0/24"))
        return self

    def good(self, method: str, path: str, body: object = None, **more: Any) -> Any:
        """The JSON of a call that must succeed."""
        answer = self.call(method, path, body, **more)
        assert answer.status < 300, (method, path, answer.status, answer.body)
        return answer.json if answer.body else None


def port(droplet_id: int, hypervisor: str, interface: str, *addresses: str) -> dict[str, Any]:
    mac = f"02:00:00:00:{droplet_id >> 8:02x}:{droplet_id & 255:02x}"
    return {
        "droplet_id": droplet_id,
        "hypervisor": hypervisor,
        "interface": interface,
        "mac": mac,
        "addresses": list(addresses),
    }


# --------------------------------------------------------------------------------------------- over sockets


class Process:
    """A furnished controller behind the real server; called over HTTPS with `tls`, which says whom to trust."""

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, **settings: Any) -> None:
        command = [sys.executable, "-W", "ignore", str(Path(__file__)), host, json.dumps(settings)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=Path(__file__).parent.parent
        )
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        if not first:
            raise RuntimeError(self._process.communicate(timeout=30)[1])
        self.host, self.port, self.tls = host, int(first), tls

    def connect(self) -> socket.socket:
        client = self.connect_plainly()
        return self.tls.wrap_socket(client, server_hostname=self.host) if self.tls else client

    def connect_plainly(self) -> socket.socket:
        """Without TLS, whatever the server speaks."""
        if "/" in self.host:
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(30)
            client.connect(self.host)
            return client
        return socket.create_connection((self.host, self.port), timeout=30)

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        token: str | None = OPERATOR,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        connection.sock = self.connect()
        try:
            sent = {"Authorization": f"Bearer {token}"} if token else {}
            connection.request(method, path, data, {**sent, **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def raw(self, data: bytes) -> bytes:
        """Everything that the server answers to these bytes, until it closes the connection."""
        with self.connect() as client:
            client.sendall(data)
            return read_all(client)

    def stop(self) -> str:
        """Ends the server; what it wrote to stderr.  `left` is then how many connections it did not end."""
        said, written = self._process.communicate(timeout=30)
        assert self._process.returncode == 0, written
        self.left = int(said)
        return written


def lab_certificate(directory: Path, *names: str) -> tuple[dict[str, str], ssl.SSLContext]:
    """Settings for HTTPS with a certificate made in a directory, and whom a client has to trust then."""
    argv = ["--directory", str(directory), *(part for name in names for part in ("--name", name)), "--force"]
    assert certificates.main(argv) == 0
    settings = {"tls_certificate": str(directory / "server.crt"), "tls_key": str(directory / "server.key")}
    return settings, ssl.create_default_context(cafile=str(directory / "ca.crt"))


def read_all(client: socket.socket) -> bytes:
    found = b""
    while data := client.recv(65536):
        found += data
    return found


def main() -> None:
    """Serves until stdin ends, in memory unless told a database.  Paths under /test/ let a test drive the switches."""
    import eventlet
    from eventlet import tpool
    from eventlet.event import Event as GreenEvent
    from eventlet.semaphore import Semaphore

    from firewall_app.api import server as api_server
    from firewall_app.store import Store

    class Waiting:
        def __init__(self) -> None:
            self._event: Any = GreenEvent()

        def set(self) -> None:
            if not self._event.ready():
                self._event.send(True)

        def wait(self, timeout: float) -> bool:
            with eventlet.Timeout(timeout, False):
                return bool(self._event.wait())
            return False

    class Green(Threads):
        def lock(self) -> AbstractContextManager[object]:
            lock: AbstractContextManager[object] = Semaphore()
            return lock

        def slow(self, work: Callable[[], T]) -> T:
            return self.aside(work)

        def aside(self, work: Callable[[], T]) -> T:
            done: T = tpool.execute(work)
            return done

        def pause(self) -> None:
            eventlet.sleep(0)

        def event(self) -> Event:
            return Waiting()

        def certain(self) -> Event:
            return Waiting()

    def soon(answer: Callable[[], None]) -> object:
        return eventlet.spawn_after(0.1, answer)

    host, settings = sys.argv[1], json.loads(sys.argv[2])
    store = Store.open(settings["database"]) if "database" in settings else Memory()
    world = World(Settings(**settings), runtime=Green(), store=store).furnish()
    for switch in world.switches.values():
        switch.later = soon

    def application(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/test/crash":
            raise RuntimeError("secret details")
        if not path.startswith("/test/"):
            return world.application(environ, start_response)
        _, _, dpid, mode = path.split("/")
        world.switches[dpid].mode = mode
        start_response("204 No Content", [])
        return []

    api_server.STOP_PATIENCE = 0.2
    server = api_server.serve(application, host, 0, world.settings)
    print(server.port, flush=True)
    tpool.execute(sys.stdin.read)
    server.stop()
    print(server.connections)


if __name__ == "__main__":
    main()
