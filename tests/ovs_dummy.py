"""A private Open vSwitch for tests: its own database, daemon and directory, packets only from `netdev-dummy`.

Needs no root and no kernel module, and touches neither the system's switch nor its network: every interface is
a dummy (`--enable-dummy=override`).  The control plane, the flow tables and conntrack are the real ones.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
PATIENCE = 20.0  # seconds that a daemon may take to start or stop


class DummyOvs:
    """One ovsdb-server and one ovs-vswitchd in a directory of their own; `with DummyOvs(path) as ovs:`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env = {
            **os.environ,
            "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin",
            **{f"OVS_{kind}DIR": str(directory) for kind in ("RUN", "DB", "LOG", "SYSCONF")},
        }
        self._daemons: list[tuple[str, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> DummyOvs:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        # A Unix socket's path ends at 107 characters, which pytest's tmp_path and a bridge name may pass.
        if len(str(self.mgmt("br0123456789abc"))) > 107:
            raise RuntimeError(f"{self.directory} is too long a path for Unix sockets")
        self.run("ovsdb-tool", "create", str(self.directory / "conf.db"), str(SCHEMA))
        self.start_ovsdb()
        self.vsctl("--no-wait", "init")
        self.start_vswitchd()

    def start_ovsdb(self) -> None:
        self._spawn("ovsdb-server", str(self.directory / "conf.db"), f"--remote=punix:{self._db}")

    def start_vswitchd(self) -> None:
        """Also after `kill_vswitchd`: the database, thus the bridges, are still there."""
        self._spawn("ovs-vswitchd", f"unix:{self._db}", "--enable-dummy=override", "--disable-system")

    def kill_vswitchd(self) -> None:
        """As a crash does: at once, with nothing saved."""
        self.kill("ovs-vswitchd")

    def kill(self, name: str) -> None:
        for entry in [entry for entry in self._daemons if entry[0] == name]:
            entry[1].kill()
            entry[1].wait(PATIENCE)
            self._daemons.remove(entry)
        (self.directory / f"{name}.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        for _, process in reversed(self._daemons):
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE)
        self._daemons.clear()

    def add_bridge(self, name: str, ports: tuple[str, ...] = (), dpid: int = 1) -> None:
        """A bridge that drops what no flow matches, with ports 1, 2, .. in this order."""
        words = [
            *("add-br", name, "--", "set", "bridge", name, "datapath_type=dummy", "fail_mode=secure"),
            *(f"other_config:datapath-id={dpid:016x}", "other_config:disable-in-band=true"),
            "protocols=OpenFlow13,OpenFlow14",
        ]
        for number, port in enumerate(ports, 1):
            words += ["--", "add-port", name, port]
            words += ["--", "set", "interface", port, "type=dummy", f"ofport_request={number}"]
        self.vsctl(*words)

    def mgmt(self, bridge: str) -> Path:
        """The Unix socket at which a bridge listens for OpenFlow."""
        return self.directory / f"{bridge}.mgmt"

    def vsctl(self, *words: str) -> str:
        return self.run("ovs-vsctl", f"--db=unix:{self._db}", *words)

    def ofctl(self, *words: str, stdin: str | None = None) -> str:
        """What it says, its warnings included."""
        return self.run("ovs-ofctl", *words, stdin=stdin, with_errors=True)

    def appctl(self, *words: str) -> str:
        return self.run("ovs-appctl", "-t", "ovs-vswitchd", *words)

    @property
    def log(self) -> str:
        return (self.directory / "ovs-vswitchd.log").read_text(errors="replace")

    @property
    def _db(self) -> Path:
        return self.directory / "db.sock"

    def run(self, *words: str, stdin: str | None = None, with_errors: bool = False) -> str:
        done = subprocess.run(words, env=self.env, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)[:300]} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout + (done.stderr if with_errors else "")

    def _spawn(self, name: str, *words: str) -> None:
        program = shutil.which(name, path=self.env["PATH"])
        if program is None:
            raise RuntimeError(f"{name} is not installed")
        log = self.directory / f"{name}.log"
        command = [program, *words, f"--pidfile={self.directory / name}.pid", f"--log-file={log}", "-vconsole:off"]
        with (self.directory / f"{name}.out").open("ab") as out:
            process = subprocess.Popen(command, env=self.env, stdout=out, stderr=out)
        self._daemons.append((name, process))
        # The daemon listens for ovs-appctl once it runs its loop; its pid file is there before.
        control = self.directory / f"{name}.{process.pid}.ctl"
        end = time.monotonic() + PATIENCE
        while not control.exists():
            if process.poll() is not None or time.monotonic() > end:
                said = log.read_text(errors="replace") if log.exists() else ""
                raise RuntimeError(f"{name} did not start: {said[-500:]}")
            time.sleep(0.01)
