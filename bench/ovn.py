"""`Ovn`: OVN's databases and daemons for one hypervisor of a lab, away from the system's.

Northbound and southbound database, ovn-northd and ovn-controller run in the hypervisor's namespace and keep everything
in one directory.  Debian: ovn-central, ovn-host.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from lab.network import Hypervisor
from lab.system import LabError, end, run, spawn, tail, wait_until

SCHEMAS = Path("/usr/share/ovn")


class Ovn:
    """Started when it is made; `close` ends it."""

    def __init__(self, directory: Path, host: Hypervisor) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._inside = ("ip", "netns", "exec", host.netns)
        own = dict.fromkeys(("OVN_RUNDIR", "OVN_DBDIR", "OVN_LOGDIR"), str(directory))
        # ovn-controller looks there for the socket of the bridge.
        self._env = {**os.environ, **own, "OVS_RUNDIR": str(host.ovs.directory)}
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._north, south = f"unix:{directory}/nb.sock", f"unix:{directory}/sb.sock"
        try:
            for database in ("nb", "sb"):
                self._start_database(database)
            self.nbctl("init")
            run("ovn-sbctl", f"--db={south}", "init", env=self._env)
            self._daemon("ovn-northd", f"--ovnnb-db={self._north}", f"--ovnsb-db={south}")
            # ovn-controller speaks no older version.
            host.ovs.vsctl("set", "Bridge", host.bridge, "protocols=OpenFlow13,OpenFlow14,OpenFlow15")
            host.ovs.vsctl(
                *("set", "Open_vSwitch", ".", f"external_ids:system-id={host.name}"),
                f"external_ids:ovn-remote={south}",
                f"external_ids:ovn-bridge={host.bridge}",
                f"external_ids:ovn-bridge-datapath-type={host.ovs.datapath}",
                "external_ids:ovn-encap-type=geneve",
                "external_ids:ovn-encap-ip=127.0.0.1",
            )
            self._daemon("ovn-controller", host.ovs.database)
            self.sync()
        except BaseException:
            self.close()
            raise

    def nbctl(self, *arguments: str) -> str:
        """One transaction on the northbound database; several commands are parted by `--`."""
        return run("ovn-nbctl", f"--db={self._north}", "--timeout=60", *arguments, env=self._env)

    def sync(self) -> None:
        """Wait until the hypervisor has what the northbound database says."""
        self.nbctl("--wait=hv", "sync")

    def close(self) -> None:
        for daemon in reversed(self._daemons):
            end(daemon)
        self._daemons.clear()

    def _start_database(self, name: str) -> None:
        file, schema = self.directory / f"{name}.db", SCHEMAS / f"ovn-{name}.ovsschema"
        if not schema.exists():
            raise LabError(f"OVN is not installed (ovn-central, ovn-host): {schema} does not exist")
        run("ovsdb-tool", "create", str(file), str(schema), env=self._env)
        socket = self.directory / f"{name}.sock"
        control = f"--unixctl={self.directory}/{name}.ctl"
        self._daemon("ovsdb-server", str(file), f"--remote=punix:{socket}", control, name=f"ovsdb-{name}")
        wait_until(f"the {name} database", socket.is_socket)

    def _daemon(self, program: str, *arguments: str, name: str = "") -> None:
        log = self.directory / f"{name or program}.out"
        logs = (f"--pidfile={self.directory}/{name or program}.pid", f"--log-file={log.with_suffix('.log')}")
        argv = [*self._inside, program, *arguments, *logs, "-vconsole:emer", "-vsyslog:off"]
        daemon = spawn(argv, log, self._env)
        self._daemons.append(daemon)
        if daemon.poll() is not None:
            raise LabError(f"{program} ended at once: {tail(log)}")


def version() -> str:
    """As the page names it: "OVN 23.03.1"."""
    return "OVN " + run("ovn-nbctl", "--version").split()[1]
