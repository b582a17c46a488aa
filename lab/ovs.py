"""`PrivateOvs`: an Open vSwitch of our own, away from the system's.

Its database, sockets and logs are in one directory, its ovs-vswitchd in one network namespace (two userspace
switches cannot share a namespace: both want the tap `ovs-netdev`).  It can be stopped, killed and started again
like the one on a real hypervisor; the database outlives the switch.  Knows nothing of virtual machines.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from .system import LabError, end, run, spawn, tail, wait_until

Datapath = Literal["auto", "netdev", "system"]

SCHEMAS = (
    Path("/usr/share/openvswitch/vswitch.ovsschema"),
    Path("/usr/local/share/openvswitch/vswitch.ovsschema"),
)
LONGEST_SOCKET = 107  # bytes of a path in sockaddr_un, less its end


def datapath_type(wanted: Datapath) -> str:
    """`system` where the kernel can switch, else `netdev`, the datapath in userspace."""
    if wanted != "auto":
        return wanted
    run("modprobe", "--quiet", "openvswitch", check=False)
    return "system" if Path("/sys/module/openvswitch").exists() else "netdev"


class PrivateOvs:
    """One Open vSwitch; `netns` None runs it where the caller is."""

    def __init__(self, directory: Path, netns: str | None = None, datapath: Datapath = "auto") -> None:
        self.directory = directory
        self.netns = netns
        self.datapath = datapath_type(datapath)
        self.database = f"unix:{directory}/db.sock"
        self.control = directory / "vswitchd.ctl"
        self._server: subprocess.Popen[bytes] | None = None
        self._switch: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._env = dict(os.environ)
        for variable in ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"):
            self._env[variable] = str(directory)
        longest = directory / "a-bridge-of-15c.mgmt"
        if len(str(longest)) > LONGEST_SOCKET:
            raise LabError(f"{directory} is too long a path: a socket's name has {LONGEST_SOCKET} bytes at most")

    # --- life ---

    def start(self) -> None:
        """Start what does not run; the database is made the first time."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._server is None or self._server.poll() is not None:
            self._start_database()
        self.start_switch()

    def start_switch(self) -> None:
        """Start ovs-vswitchd and wait until it has done everything that the database asks."""
        if self.running:
            return
        self._switch = self._daemon("ovs-vswitchd", self.database, f"--unixctl={self.control}")
        self._take_over()

    def _take_over(self) -> None:
        """Wait until ovs-vswitchd has done what the database asks: a change that is always new is this counter."""
        self._starts += 1
        try:
            self.vsctl("set", "Open_vSwitch", ".", f"external_ids:starts={self._starts}")
        except LabError as problem:
            raise LabError(f"{problem}\n{tail(self.directory / 'ovs-vswitchd.out')}") from problem

    def stop_switch(self) -> None:
        """End ovs-vswitchd in an orderly way (SIGTERM); flows and connections are forgotten."""
        end(self._switch)
        self._switch = None

    def kill_switch(self) -> None:
        """End ovs-vswitchd as a crash would (SIGKILL)."""
        if self._switch is not None:
            self._switch.send_signal(signal.SIGKILL)
            self._switch.wait()
            self._switch = None

    def restart_switch(self) -> None:
        self.stop_switch()
        self.start_switch()

    def kill_database(self) -> None:
        """End ovsdb-server as a crash would; the switch goes on without."""
        if self._server is not None:
            self._server.send_signal(signal.SIGKILL)
            self._server.wait()
            self._server = None

    def start_database(self) -> None:
        """Start ovsdb-server again and wait until the switch has found it."""
        self._start_database()
        self._take_over()

    def restart_switch_with_flows(self, bridge: str) -> None:
        """As `ovs-ctl restart` does: flows are saved, and put back before the switch sets up its controllers."""
        saved = self.saved_flows(bridge)
        self.vsctl("--no-wait", "set", "Open_vSwitch", ".", "other_config:flow-restore-wait=true")
        self.restart_switch()
        self.put_flows(bridge, saved)
        self.vsctl("remove", "Open_vSwitch", ".", "other_config", "flow-restore-wait")

    def saved_flows(self, bridge: str) -> list[str]:
        """All flows as `put_flows` takes them."""
        lines = self.ofctl("--no-names", "--no-stats", "dump-flows", bridge).splitlines()
        return [line.strip() for line in lines if "actions=" in line]

    def put_flows(self, bridge: str, flows: Iterable[str]) -> None:
        self.ofctl("--bundle", "add-flows", bridge, "-", stdin="\n".join(flows) + "\n")

    def stop(self) -> None:
        """End both daemons."""
        self.stop_switch()
        end(self._server)
        self._server = None

    @property
    def running(self) -> bool:
        return self._switch is not None and self._switch.poll() is None

    @property
    def switch_pid(self) -> int:
        if self._switch is None:
            raise LabError("ovs-vswitchd does not run")
        return self._switch.pid

    def _start_database(self) -> None:
        file = self.directory / "conf.db"
        if not file.exists():
            schema = next((path for path in SCHEMAS if path.exists()), None)
            if schema is None:
                raise LabError(f"no Open vSwitch here: none of {', '.join(map(str, SCHEMAS))} exists")
            run("ovsdb-tool", "create", str(file), str(schema), env=self._env)
        self._server = self._daemon(
            "ovsdb-server",
            str(file),
            f"--remote=p{self.database}",
            f"--unixctl={self.directory}/ovsdb.ctl",
        )
        server, log = self._server, self.directory / "ovsdb-server.out"

        def up() -> bool:
            if server.poll() is not None:
                raise LabError(f"ovsdb-server ended at once: {tail(log)}")
            return (self.directory / "db.sock").is_socket()

        wait_until("the socket of ovsdb-server", up)
        self.vsctl("--no-wait", "init")
        # How long a cached decision may rest before it is looked at again: whoever waits for that waits less.
        self.vsctl("--no-wait", "set", "Open_vSwitch", ".", "other_config:max-revalidator=100")

    def _daemon(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        inside = ["ip", "netns", "exec", self.netns] if self.netns else []
        logs = ["--pidfile", "--log-file", "-vconsole:emer", "-vsyslog:off"]
        return spawn([*inside, program, *arguments, *logs], self.directory / f"{program}.out", self._env)

    # --- tools ---

    def vsctl(self, *arguments: str) -> str:
        return run("ovs-vsctl", f"--db={self.database}", "--timeout=15", "--retry", *arguments, env=self._env).strip()

    def ofctl(self, *arguments: str, stdin: str | None = None) -> str:
        return run("ovs-ofctl", "-O", "OpenFlow13,OpenFlow14", *arguments, stdin=stdin, env=self._env)

    def appctl(self, command: str, *arguments: str) -> str:
        """One command over the control socket of ovs-vswitchd, without a process; raises with its refusal."""
        request = json.dumps({"id": 0, "method": command, "params": list(arguments)})
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(15)
            try:
                connection.connect(str(self.control))
                connection.sendall(request.encode())
                reply = _read_json(connection)
            except OSError as problem:
                raise LabError(f"ovs-vswitchd does not answer at {self.control}: {problem}") from problem
        if reply.get("error") is not None:
            raise LabError(f"{command}: {reply['error']}")
        return str(reply["result"])

    # --- what a hypervisor sets up ---

    def add_bridge(
        self,
        name: str,
        dpid: str,
        fail_mode: str = "secure",
        protocols: str = "OpenFlow13,OpenFlow14",
    ) -> None:
        """A bridge that is closed from its first moment: all that matters is set before any controller is."""
        self.vsctl(
            *("add-br", name, "--", "set", "Bridge", name),
            f"datapath_type={self.datapath}",
            f"fail_mode={fail_mode}",
            f"protocols={protocols}",
            f"other_config:datapath-id={dpid}",
            "other_config:disable-in-band=true",
        )

    def set_ssl(self, key: Path, certificate: Path, authority: Path) -> None:
        """What all bridges show to controllers at `ssl:IP:PORT`, and whom they believe."""
        self.vsctl("set-ssl", str(key), str(certificate), str(authority))

    def set_controller(self, bridge: str, *targets: str, max_backoff: int = 1000) -> None:
        """Connect to `tcp:IP:PORT` or `ssl:IP:PORT`, tried again every `max_backoff` ms or sooner; none: to nobody."""
        if not targets:
            self.vsctl("del-controller", bridge)
            return
        made: list[str] = []
        for i, target in enumerate(targets):
            made += ["--", f"--id=@c{i}", "create", "Controller", f'target="{target}"']
            made += [f"max_backoff={max_backoff + 1}", "connection_mode=out-of-band"]
        names = ",".join(f"@c{i}" for i in range(len(targets)))
        # One transaction, so that no controller is ever tried with other settings.
        self.vsctl(*made[1:], "--", "set", "Bridge", bridge, f"controller=[{names}]")
        # Heeded when it changes, not from the start (ofproto/connmgr.c).
        for uuid in self._controllers(bridge):
            self.vsctl("set", "Controller", uuid, f"max_backoff={max_backoff}")

    def connected(self, bridge: str) -> bool:
        """Whether a controller is connected, as the switch sees it."""
        return any(
            self.vsctl("get", "Controller", uuid, "is_connected") == "true" for uuid in self._controllers(bridge)
        )

    def _controllers(self, bridge: str) -> list[str]:
        return self.vsctl("--bare", "get", "Bridge", bridge, "controller").strip("[]").replace(",", " ").split()

    def add_port(
        self,
        bridge: str,
        name: str,
        ofport: int | None = None,
        external_ids: Iterable[tuple[str, str]] = (),
    ) -> int:
        """Put a device in a bridge; the OpenFlow number that it got.  The device may not exist yet: -1."""
        sets = [f"external_ids:{key}={value}" for key, value in external_ids]
        if ofport is not None:
            sets.append(f"ofport_request={ofport}")
        change = ["--", "set", "Interface", name, *sets] if sets else []
        self.vsctl("add-port", bridge, name, *change)
        return self.ofport(name)

    def del_port(self, bridge: str, name: str) -> None:
        self.vsctl("del-port", bridge, name)

    def ofport(self, name: str) -> int:
        return int(self.vsctl("get", "Interface", name, "ofport"))


def _read_json(connection: socket.socket) -> dict[str, object]:
    text = b""
    while True:
        part = connection.recv(65536)
        if not part:
            raise OSError("connection closed within an answer")
        text += part
        try:
            reply = json.loads(text)
        except json.JSONDecodeError:
            continue  # not all of it yet
        if not isinstance(reply, dict):
            raise LabError(f"not an answer: {text[:200]!r}")
        return reply
