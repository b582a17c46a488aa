"""The whole program while its store fails: what callers are told, what switches get, and how it comes back.

For each fault: reads and switches go on, writes are answered 503 and change nothing, and when the fault is gone the
next write works, without a restart.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from test_app_pace import LiveSwitch, rule

from firewall_app.backup import main
from lab.controller import Answer, Controller
from lab.system import wait_until

if TYPE_CHECKING:
    from postgresql import Server

pytest_plugins = ("postgresql",)
pytestmark = pytest.mark.process


class Cloud:
    """A controller with one switch, on which a droplet is behind a firewall."""

    def __init__(self, directory: Path, database: str = "") -> None:
        self.controller = Controller(directory, database=database)
        self.controller.start()
        self.call = self.controller.call
        self.live = self.connect()
        for path, body in (
            (f"/v1/hypervisors/{self.live.dpid}", {"name": "hv"}),
            ("/v1/droplets/1", {"name": "web"}),
            ("/v1/ports/p", {"droplet_id": 1, "hypervisor": self.live.dpid, "interface": "tap0",
                             "mac": "02:00:00:00:00:01", "addresses": ["10.0.0.1"]}),
        ):  # fmt: skip
            assert self.call("PUT", path, body).status == 201
        self.body: dict[str, Any] = {"name": "all", "droplet_ids": [1], "inbound_rules": [rule(1)]}
        made = self.call("POST", "/v2/firewalls", self.body, {"Prefer": "wait=30"}).json["firewall"]
        self.path = f"/v2/firewalls/{made['id']}"

    def close(self) -> None:
        self.live.stop()
        self.controller.close()

    def connect(self) -> LiveSwitch:
        last = getattr(self, "live", None)
        return LiveSwitch(1, self.controller.openflow_port, last.switch if last else None)

    def change(self, number: int) -> Answer:
        """One change of the firewall, which its switch is waited for to follow."""
        body = {**self.body, "inbound_rules": [rule(number)]}
        return self.call("PUT", self.path, body, {"Prefer": "wait=30"})

    def rules(self) -> Any:
        return self.call("GET", self.path).json["firewall"]["inbound_rules"]

    def in_sync(self) -> bool:
        found = self.call("GET", f"/v1/hypervisors/{self.live.dpid}").json
        return bool(found["connected"]) and found["sync"]["state"] == "in_sync"

    def fenced(self) -> bool:
        return f"hypervisor {self.live.dpid}: fenced" in self.call("GET", "/readyz").json.get("problems", [])

    def connected(self) -> bool:
        return bool(self.call("GET", f"/v1/hypervisors/{self.live.dpid}").json["connected"])

    def reconnect(self, until: Callable[[], bool] | None = None) -> None:
        self.live.stop()
        wait_until("it to be gone", lambda: not self.connected(), 30)
        self.live = self.connect()
        wait_until("it to be back", until or self.in_sync, 30)

    def revision(self) -> str:
        lines = self.call("GET", "/metrics").json.splitlines()
        return next(line for line in lines if line.startswith("firewall_policy_revision "))

    def suffers(
        self, fault: AbstractContextManager[object], first: int, told: str = "nothing was changed|may have been kept"
    ) -> None:
        """Lives through a fault of the store; the rule's port is `first` from then on."""
        assert self.change(first + 1).status == 200
        before, flows, adds = self.revision(), dict(self.live.switch.flows), self.live.switch.adds
        with fault:
            answer = self.change(first)
            assert (answer.status, answer.json["id"]) == (503, "store_unavailable")
            assert re.search(f"the store failed; .*({told})$", answer.json["message"])
            assert (self.rules(), self.revision()) == ([rule(first + 1)], before)
            assert self.call("GET", self.path).json["firewall"]["status"] == "succeeded"
            ready = self.call("GET", "/readyz")
            assert (ready.status, ready.json["problems"]) == (503, ["store: not reachable"])
            self.reconnect()
        assert self.change(first).status == 200, "the next write works"
        assert self.live.switch.flows != flows
        assert self.rules() == [rule(first)]
        wait_until("it to be ready", lambda: self.call("GET", "/readyz").status == 200, 30)
        # One change of one rule: no flow was sent but what that takes.
        assert self.live.switch.adds - adds < len(flows) // 2
        assert self.live.problem is None


# --------------------------------------------------------------------------------------------- SQLite


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """Its store is on a disk of its own, of four megabytes."""
    if os.geteuid() != 0:
        pytest.fail("only root may mount a disk")
    folder = Path(tempfile.mkdtemp(prefix="fw-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], check=True)
    try:
        directory = Path(tempfile.mkdtemp(prefix="fw-"))
        made = Cloud(directory, f"sqlite:///{folder}/firewall.db")
        try:
            yield made
        finally:
            made.close()
            shutil.rmtree(directory)
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


def path_of(cloud: Cloud) -> Path:
    return Path(cloud.controller.database.removeprefix("sqlite:///"))


@contextmanager
def full(cloud: Cloud) -> Iterator[None]:
    ballast = path_of(cloud).with_name("ballast")
    with ballast.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def unwritable(cloud: Cloud) -> Iterator[None]:
    """Every write of the process to a file fails, as on a disk that the kernel has made read-only."""
    was = resource.prlimit(cloud.controller.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(cloud.controller.pid, resource.RLIMIT_FSIZE, (0, was[1]))
    try:
        yield
    finally:
        resource.prlimit(cloud.controller.pid, resource.RLIMIT_FSIZE, was)


@contextmanager
def locked(cloud: Cloud) -> Iterator[None]:
    with closing(sqlite3.connect(path_of(cloud))) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def gone(cloud: Cloud) -> Iterator[None]:
    path = path_of(cloud)
    away = path.with_name("away")
    away.mkdir()
    parts = [part.rename(away / part.name) for part in path.parent.glob(f"{path.name}*")]
    try:
        yield
        assert not list(path.parent.glob(f"{path.name}*"))
    finally:
        for part in parts:
            part.rename(path.with_name(part.name))
        away.rmdir()


@contextmanager
def unmounted(cloud: Cloud) -> Iterator[None]:
    """Another disk, an empty one, is where the store's was."""
    folder = path_of(cloud).parent
    subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    try:
        yield
        assert not list(folder.iterdir())
    finally:
        subprocess.run(["umount", folder], check=True)


CERTAIN, UNKNOWN = "nothing was changed", "may have been kept"


@pytest.mark.parametrize(
    ("fault", "told"),
    [(full, CERTAIN), (unwritable, UNKNOWN), (locked, CERTAIN), (gone, CERTAIN), (unmounted, CERTAIN)],
)
def test_T179_switches_are_left_as_they_are_while_the_store_cannot_write(
    cloud: Cloud, fault: Callable[[Cloud], AbstractContextManager[None]], told: str
) -> None:
    cloud.suffers(fault(cloud), 100, told)


def test_T174_a_store_that_was_damaged_in_use_is_restored_without_a_restart(cloud: Cloud, tmp_path: Path) -> None:
    path, backup = path_of(cloud), tmp_path / "a.backup"

    @contextmanager
    def damaged() -> Iterator[None]:
        assert main(["create", "--database", cloud.controller.database, str(backup)]) == 0
        with closing(sqlite3.connect(path)) as other:  # as a command that writes: what was read is valid no longer
            other.execute("PRAGMA user_version = 1")
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(path.stat().st_size - 4096))
        yield
        for part in path.parent.glob(f"{path.name}*"):
            part.unlink()
        assert main(["restore", "--database", cloud.controller.database, str(backup)]) == 0

    cloud.suffers(damaged(), 200)


def stays_as_it_is_until_confirmed(cloud: Cloud, sent: tuple[int, int]) -> None:
    """The switch follows a policy that the store does not know: it is sent nothing, whatever is asked for."""
    live = cloud.live
    found = cloud.call("GET", f"/v1/hypervisors/{live.dpid}").json["sync"]
    assert (found["state"], bool(found["error"])) == ("failed", True)
    assert cloud.call("POST", f"/v1/hypervisors/{live.dpid}/resync").status in (200, 202, 204)
    cloud.reconnect(cloud.fenced)
    assert "fence" in cloud.controller.log.read_text()
    assert (cloud.live.switch.adds, cloud.live.switch.commits) == sent
    (fence,) = cloud.call("GET", "/v1/fences").json["fences"]
    path = f"/v1/fences/{fence['timeline']}/confirm"
    assert cloud.call("POST", path, {"revision": fence["revision"]}).status == 200
    wait_until("it to follow", cloud.in_sync, 30)
    assert cloud.live.switch.commits > sent[1]
    wait_until("it to be ready", lambda: cloud.call("GET", "/readyz").status == 200, 30)


@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "while it is stopped"])
def test_T173_a_restored_backup_narrows_nothing_until_an_operator_confirms(
    cloud: Cloud, tmp_path: Path, running: bool
) -> None:
    backup, path = tmp_path / "a.backup", path_of(cloud)
    assert cloud.change(400).status == 200
    assert main(["create", "--database", cloud.controller.database, str(backup)]) == 0
    assert cloud.change(401).status == 200
    flows, sent = dict(cloud.live.switch.flows), (cloud.live.switch.adds, cloud.live.switch.commits)
    if running:
        away = path.with_name("away")
        away.mkdir()
        for part in path.parent.glob(f"{path.name}*"):
            part.rename(away / part.name)
        assert main(["restore", "--database", cloud.controller.database, str(backup)]) == 0
    else:
        cloud.controller.stop()
        assert main(["restore", "--replace", "--database", cloud.controller.database, str(backup)]) == 0
        cloud.controller.start()
        cloud.live.stop()
        cloud.live = cloud.connect()
    wait_until("the fence to be met", cloud.fenced, 30)
    assert cloud.rules() == [rule(400)], "reads are of the store that was restored"
    assert cloud.change(402).headers["x-change-status"] == "failed", "kept, but not in force"
    assert cloud.live.switch.flows == flows
    stays_as_it_is_until_confirmed(cloud, sent)
    assert cloud.change(403).json["firewall"]["status"] == "succeeded"


def test_T173_a_store_that_was_lost_deletes_nothing(cloud: Cloud) -> None:
    """The last one of this disk: a new, empty store is made, and says so."""
    flows, sent = dict(cloud.live.switch.flows), (cloud.live.switch.adds, cloud.live.switch.commits)
    assert len(flows) > 20
    cloud.controller.kill()
    for part in path_of(cloud).parent.glob("firewall.db*"):
        part.unlink()
    cloud.controller.start()
    assert "there was no store: a new, empty one was made" in cloud.controller.log.read_text()
    cloud.live.stop()
    cloud.live = cloud.connect()
    wait_until("the fence to be met", lambda: cloud.call("GET", "/v1/fences").json["fences"], 30)
    assert cloud.live.switch.flows == flows
    assert cloud.call("PUT", f"/v1/hypervisors/{cloud.live.dpid}", {"name": "hv"}).status == 201
    wait_until("it to be told", cloud.fenced, 30)
    assert cloud.live.switch.flows == flows
    stays_as_it_is_until_confirmed(cloud, sent)
    assert len(cloud.live.switch.flows) < len(flows)


# --------------------------------------------------------------------------------------------- PostgreSQL


@pytest.fixture(scope="module")
def served(postgresql: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    made = Cloud(tmp_path_factory.mktemp("served"), postgresql.database())
    try:
        yield made
    finally:
        made.close()


@contextmanager
def killed(server: Server) -> Iterator[None]:
    server.kill()
    try:
        yield
    finally:
        server.start()


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()


@contextmanager
def read_only(server: Server) -> Iterator[None]:
    """As a server that has become a standby."""
    set_read_only(server, "on")
    try:
        yield
    finally:
        set_read_only(server, "off")


def set_read_only(server: Server, value: str) -> None:
    server.sql(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    server.sql("SELECT pg_reload_conf()")
    wait_until("it to be so", lambda: server.sql("SHOW default_transaction_read_only") == [(value,)], 30)


@pytest.mark.postgresql
@pytest.mark.parametrize("fault", [killed, stopped, read_only])
def test_T179_switches_are_left_as_they_are_while_postgresql_fails(
    served: Cloud, postgresql: Server, fault: Callable[[Server], AbstractContextManager[None]]
) -> None:
    served.suffers(fault(postgresql), 300)


@pytest.mark.postgresql
def test_T183_a_database_that_reconnects_causes_no_flow_mods(served: Cloud, postgresql: Server) -> None:
    """Connections that are cut, a server that restarts, a controller that was stopped for a while: nothing is sent."""
    adds, commits = served.live.switch.adds, served.live.switch.commits
    before = served.revision()
    postgresql.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cloud-firewall'")
    postgresql.stop("immediate")
    postgresql.start()
    os.kill(served.controller.pid, signal.SIGSTOP)
    os.kill(served.controller.pid, signal.SIGCONT)
    wait_until("it to be ready", lambda: served.call("GET", "/readyz").status == 200, 30)
    served.reconnect()
    assert served.call("PUT", "/v1/droplets/9", {"name": "elsewhere"}).status in (200, 201)
    assert served.revision() != before
    assert served.in_sync()
    assert (served.live.switch.adds, served.live.switch.commits) == (adds, commits)
