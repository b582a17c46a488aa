"""What all topologies share: kinds of nodes, the command line, registering with the firewall.

Runs under Debian's Python, the one that has Mininet (2.3); needs root and the system's Open vSwitch service, which
it starts.  Switches are in userspace: no kernel module.  Knows nothing of the controller but its REST API.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

try:
    from mininet.cli import CLI
    from mininet.log import setLogLevel
    from mininet.net import Mininet
    from mininet.node import Host, OVSBridge, OVSSwitch, RemoteController
    from mininet.topo import Topo
except ImportError as missing:
    sys.exit(f"{missing}: run this with /usr/bin/python3, where the package mininet installs itself")

from lab.system import offloads_off

FIRST_DROPLET_ID = 101
OVS_CTL = "/usr/share/openvswitch/scripts/ovs-ctl"


class Problem(Exception):
    """Why the topology cannot run; the text is for the person who started it."""


# --- nodes ---


class Hypervisor(OVSSwitch):
    """A bridge that the firewall controls.

    Mininet sets fail_mode=secure, disable-in-band and protocols in the one transaction that also sets the
    controller, so there is no moment in which the bridge would switch by itself.
    """

    def __init__(self, name: str, uplink: str = "", **params: Any) -> None:
        params["datapath"] = "user"
        params.setdefault("protocols", "OpenFlow13,OpenFlow14")
        super().__init__(name, **params)
        self.uplink = uplink


class Fabric(OVSBridge):
    """The network between hypervisors: a plain learning bridge that no controller sees."""

    def __init__(self, name: str, **params: Any) -> None:
        super().__init__(name, **{**params, "datapath": "user"})


class Machine(Host):
    """A host with an IPv6 address too, and complete packets: a userspace switch forwards unfinished checksums."""

    def config(self, ipv6: str = "", **params: Any) -> dict[str, Any]:
        result: dict[str, Any] = super().config(**params)
        for interface in self.intfList():
            peer = interface.link.intf2 if interface.link.intf1 is interface else interface.link.intf1
            offloads_off(f"/proc/{self.pid}/ns/net", [interface.name])
            offloads_off("/proc/self/ns/net", [peer.name])
            self.cmd(f"sysctl -q -w net.ipv6.conf.{interface.name}.accept_ra=0")
            if ipv6:
                self.cmd(f"ip addr add {ipv6} dev {interface.name} nodad")
        return result


class Droplet(Machine):
    """A virtual machine: it is registered with the firewall.  Its parameters are those of `cloud.droplet`."""


class CloudTopo(Topo):
    """Words for topologies: hypervisors with an uplink, droplets on them, a host outside."""

    def hypervisor(self, number: int, fabric: str) -> str:
        """hvN, datapath id N, with its uplink hvN-up in the fabric (a switch, or the host outside)."""
        name, uplink = f"hv{number}", f"hv{number}-up"
        self.addSwitch(name, cls=Hypervisor, dpid=f"{number:016x}", uplink=uplink)
        self.addLink(name, fabric, intfName1=uplink)
        return name

    def droplet(self, number: int, hypervisor: str, *tags: str) -> str:
        """hN, droplet 100+N: interface tapN, 10.1.0.N, fd00:1::N, MAC 02:00:00:00:00:N."""
        name = f"h{number}"
        self.addHost(name, cls=Droplet, droplet_id=FIRST_DROPLET_ID - 1 + number, tags=tags, **addresses(number))
        self.addLink(name, hypervisor, intfName2=f"tap{number}")
        return name

    def outside(self) -> str:
        """`out`, 10.1.255.1 and fd00:1::ff01: a host that no firewall protects."""
        return str(self.addHost("out", cls=Machine, **addresses(0xFF01)))

    def fabric(self) -> str:
        return str(self.addSwitch("fabric", cls=Fabric, dpid="f" * 16))


def addresses(number: int) -> dict[str, str]:
    high, low = number >> 8, number & 255
    return {
        "ip": f"10.1.{high}.{low}/16",
        "ipv6": f"fd00:1::{number:x}/64",
        "mac": f"02:00:00:00:{high:02x}:{low:02x}",
    }


# --- the system's Open vSwitch ---


def ensure_ovs() -> None:
    """Start the system's Open vSwitch if it does not run; raises Problem that says what was tried."""
    if shutil.which("ovs-vsctl") is None:
        raise Problem("Open vSwitch is not installed: apt install openvswitch-switch")
    if _ovs_runs():
        return
    tried = [["service", "openvswitch-switch", "start"]]
    # Where there is neither systemd nor the kernel module, the service starts the database and then gives up.
    tried += [[OVS_CTL, "--system-id=random", "--no-ovs-vswitchd", "start"]]
    tried += [["ovs-vswitchd", "--pidfile", "--detach", "--log-file", "-vconsole:off", "-vsyslog:off"]]
    said: list[str] = []
    for command in tried:
        if shutil.which(command[0]) is not None:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            said.append(f"$ {shlex.join(command)}\n{done.stdout}{done.stderr}")
        if _ovs_runs():
            return
    raise Problem("the system's Open vSwitch does not start:\n" + "".join(said))


def _ovs_runs() -> bool:
    """Both daemons answer."""
    commands = (["ovs-vsctl", "--timeout=3", "--no-wait", "show"], ["ovs-appctl", "--timeout=3", "version"])
    return all(subprocess.run(c, capture_output=True, check=False).returncode == 0 for c in commands)


# --- the firewall's REST API ---


def registration(net: Mininet) -> list[tuple[str, dict[str, Any]]]:
    """What the firewall has to know of this network: (path, body) for each PUT, in order."""
    calls: list[tuple[str, dict[str, Any]]] = []
    for switch in net.switches:
        if isinstance(switch, Hypervisor):
            body = {"name": switch.name, "uplinks": [switch.uplink]}
            calls.append((f"/v1/hypervisors/{switch.dpid}", body))
    for host in droplets(net):
        number, switch, tap = host.params["droplet_id"], *_tap(host)
        calls.append((f"/v1/droplets/{number}", {"name": host.name, "tags": list(host.params["tags"])}))
        port = {
            "droplet_id": number,
            "hypervisor": switch.dpid,
            "interface": tap,
            "mac": host.params["mac"],
            "addresses": [host.params[key].split("/")[0] for key in ("ip", "ipv6")],
        }
        calls.append((f"/v1/ports/{host.name}-eth0", port))
    return calls


def droplets(net: Mininet) -> list[Droplet]:
    return [host for host in net.hosts if isinstance(host, Droplet)]


def _tap(host: Host) -> tuple[Any, str]:
    """The switch that the host is plugged into, and the name of the interface there."""
    link = host.defaultIntf().link
    end = link.intf2 if link.intf1.node is host else link.intf1
    return end.node, end.name


def put(rest: str, token: str, path: str, body: dict[str, Any]) -> None:
    """PUT, and wait until the switches have confirmed; raises Problem with the API's own words."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}", "Prefer": "wait=10"}
    request = urllib.request.Request(rest + path, json.dumps(body).encode(), headers, method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=30):
            pass
    except urllib.error.HTTPError as refused:
        with refused:
            raise Problem(f"PUT {path}: {refused.code} {refused.read().decode(errors='replace')}") from refused
    except OSError as silent:
        raise Problem(f"no firewall answers at {rest}: {silent}") from silent


# --- running ---


def parser(description: str) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--controller", default="127.0.0.1:6653", help="where the switches connect, ADDRESS:PORT")
    options.add_argument("--rest", default="http://127.0.0.1:8080", help="where the REST API is")
    options.add_argument(
        "--token",
        default=os.environ.get("FIREWALL_OPERATOR_TOKEN", ""),
        help="the operator's token (default: $FIREWALL_OPERATOR_TOKEN)",
    )
    options.add_argument("--no-register", action="store_true", help="do not tell the firewall what there is")
    options.add_argument(
        "--plain", action="store_true", help="learning switches without a firewall; implies --no-register"
    )
    options.add_argument(
        "--run",
        action="append",
        default=[],
        metavar="'HOST COMMAND'",
        help="run this, print what it says and leave; may be repeated; names of hosts stand for their addresses",
    )
    return options


def main(topo: Topo, options: argparse.Namespace) -> int:
    """Build, register, then the commands of --run or Mininet's prompt; always takes all down again."""
    if os.geteuid() != 0:
        print("Mininet needs root: sudo /usr/bin/python3 ...", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    os.environ.setdefault("SHELL", "/bin/sh")  # Mininet wants to know it, and containers have none
    setLogLevel("warning")
    net = None
    try:
        ensure_ovs()
        net = build(topo, options)
        print(describe(net))
        if not options.plain:
            connect_and_register(net, options)
            print(things_to_try(net, options))
        if options.run:
            return max(run_line(net, line) for line in options.run)
        CLI(net)
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    finally:
        if net is not None:
            net.stop()
    return 0


def build(topo: Topo, options: argparse.Namespace) -> Mininet:
    net = Mininet(topo=topo, controller=None, build=False)
    if not options.plain:
        host, _, port = options.controller.rpartition(":")
        if not port.isdigit():
            raise Problem(f"--controller is ADDRESS:PORT, not {options.controller!r}")
        net.addController("c0", controller=Unchecked, ip=host, port=int(port))
    try:
        net.build()
        if options.plain:
            for switch in net.switches:
                switch.failMode = "standalone"
        net.start()
    except BaseException:
        net.stop()
        raise
    return net


class Unchecked(RemoteController):
    """A controller elsewhere, which may come later; Mininet would try to connect to it with telnet."""

    def checkListening(self) -> None:  # noqa: N802 - Mininet's name
        pass


def connect_and_register(net: Mininet, options: argparse.Namespace) -> None:
    """With --no-register the switches are left to connect when they can."""
    if options.no_register:
        return
    if not options.token:
        raise Problem("no operator token: give --token, or set FIREWALL_OPERATOR_TOKEN, or use --no-register")
    if not net.waitConnected(timeout=15, delay=0.1):
        raise Problem(f"the switches do not connect to a controller at {options.controller}; is it running?")
    for path, body in registration(net):
        put(options.rest, options.token, path, body)


def describe(net: Mininet) -> str:
    """A table of what was built."""
    form = "{:<8} {:<10} {:<18} {:<6} {:<15} {:<16} {}"
    lines = [form.format("host", "droplet", "hypervisor", "port", "IPv4", "IPv6", "MAC")]
    for host in net.hosts:
        params = host.params
        switch, tap = _tap(host)
        droplet = "outside"
        if isinstance(host, Droplet):
            droplet = " ".join([str(params["droplet_id"]), *params["tags"]])
        where = switch.dpid if isinstance(host, Droplet) else "-"
        v4, v6 = (params[key].split("/")[0] for key in ("ip", "ipv6"))
        lines.append(form.format(host.name, droplet, where, tap, v4, v6, params["mac"]))
    return "\n".join(lines)


def things_to_try(net: Mininet, options: argparse.Namespace) -> str:
    first = droplets(net)[0]
    rule = {"protocol": "tcp", "ports": "80", "sources": {"addresses": ["10.1.0.0/16"]}}
    firewall = {"name": "web-fw", "droplet_ids": [first.params["droplet_id"]], "inbound_rules": [rule]}
    curl = f"curl -s -H 'Authorization: Bearer {options.token or 'TOKEN'}'"
    return "\n".join(
        [
            "",
            f"{curl} {options.rest}/v1/hypervisors",
            f"{curl} {options.rest}/v2/firewalls --json {shlex.quote(json.dumps(firewall))}",
            f"{curl} {options.rest}/v1/ports/{first.name}-eth0/rules",
            "",
        ]
    )


def run_line(net: Mininet, line: str) -> int:
    """One command on a host, as at Mininet's prompt; `pingall` is every host to every other."""
    print(f"mininet> {line}", flush=True)
    if line == "pingall":
        loss = net.pingAll(timeout=1)
        print(f"{loss:.0f}% lost")
        return 1 if loss else 0
    name, _, command = line.partition(" ")
    if name not in net or not command:
        raise Problem(f"--run wants a host and a command, or pingall, not {line!r}")
    hosts = {host.name: host for host in net.hosts}
    words = [hosts[word].IP() if word in hosts else word for word in command.split(" ")]
    out, err, status = net[name].pexec(" ".join(words), shell=True)
    print(out + err, end="", flush=True)
    return int(status)
