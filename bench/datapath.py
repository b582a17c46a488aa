"""Two machines on one bridge, once for each contestant: all in one lab, at rest until it is their turn.

Each contestant has an Open vSwitch of its own (userspace datapath, MTU 1500, offloads off) with two machines that all
contestants let talk alike, and as many other rules.  What is measured there is the business of the rows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lab.cloud import Cloud, inbound, outbound
from lab.controller import Controller
from lab.machine import Machine
from lab.network import Hypervisor, Lab
from lab.system import LabError, end, spawn, wait_until
from lab.system import run as execute

from . import datapath_flows as flows
from . import ovn
from .row import US, Run, Series

CABLE, NORMAL, STATELESS, SLIDES = "no switch (veth)", "NORMAL", "stateless", "one zone (the talk)"
NEUTRON, OVN = "Neutron 29.0.0", "OVN"
TAG = "bench"  # of the lab: what a killed one left is swept by the next

LOADS = Path(__file__).with_name("loads.py")
BY_HAND = {NORMAL: flows.normal, STATELESS: flows.stateless, SLIDES: flows.slides, NEUTRON: flows.neutron}
OTHERS_EACH = 50  # rules of one other droplet


@dataclass
class Contestant:
    who: str
    client: Machine
    server: Machine
    host: Hypervisor | None = None  # None: no switch
    put_back: Callable[[], object] | None = None  # its flows, into a switch that lost them; None: by itself

    @property
    def switch(self) -> Hypervisor:
        if self.host is None:
            raise LabError(f"{self.who} has no switch")
        return self.host

    def cpu(self) -> float:
        """Seconds that its ovs-vswitchd has worked; 0 without one."""
        # A process's own clock, in nanoseconds where /proc has hundredths of a second: clock_getcpuclockid(3).
        return time.clock_gettime(~self.host.ovs.switch_pid << 3 | 2) if self.host else 0.0

    def memory(self) -> int:
        """Bytes that its ovs-vswitchd holds in memory."""
        status = Path(f"/proc/{self.switch.ovs.switch_pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def connections(self) -> int:
        """Entries of its connection tracker."""
        return int(self.switch.ovs.appctl("dpctl/ct-get-nconns"))

    def restart(self) -> None:
        """A new ovs-vswitchd with the same flows, which remembers no connection."""
        self.switch.ovs.restart_switch()
        if self.put_back is not None:
            self.put_back()
        self.wait_until_open()

    def wait_until_open(self, seconds: float = 30) -> None:
        ping = partial(self.client.call, "icmp", address=self.server.address(), timeout=0.2)
        wait_until(f"{self.who}: a ping", lambda: ping() == "open", seconds)


def inside(machine: Machine, *command: str) -> list[str]:
    """The command line that runs it in a machine."""
    return ["ip", "netns", "exec", machine.netns, *command]


def run_inside(machine: Machine, *command: str) -> str:
    return execute(*inside(machine, *command))


def pair(lab: Lab, key: str, host: Hypervisor) -> tuple[Machine, Machine]:
    return lab.add_machine(f"{key}-a", host), lab.add_machine(f"{key}-b", host)


@contextmanager
def contestants(who: Sequence[str], others: int, tag: str = TAG) -> Iterator[list[Contestant]]:
    """Those, in this order, ready."""
    with Lab(tag, datapath="netdev") as lab:
        built = []
        for number, name in enumerate(who):
            build = {CABLE: _cable, OVN: _ovn, US: _cloud_firewall}.get(name, partial(_by_hand, name))
            built.append(build(lab, f"c{number}", others))
        for one in built:
            one.wait_until_open()
        yield built


def _cable(lab: Lab, key: str, _others: int) -> Contestant:
    return Contestant(CABLE, *lab.add_pair(f"{key}-a", f"{key}-b"))


def _hypervisor(lab: Lab, key: str) -> Hypervisor:
    host = lab.add_hypervisor(key)
    host.ovs.vsctl(
        "remove", "Open_vSwitch", ".", "other_config", "max-revalidator"
    )  # the default, as operators have it
    return host


def _by_hand(name: str, lab: Lab, key: str, others: int) -> Contestant:
    host = _hypervisor(lab, key)
    machines = pair(lab, key, host)
    ends = [(host.ovs.ofport(lab.taps[machine.name].name), machine) for machine in machines]
    put = partial(host.ovs.put_flows, host.bridge, list(BY_HAND[name](ends, others)))
    put()
    return Contestant(name, *machines, host, put)


def _ovn(lab: Lab, key: str, others: int) -> Contestant:
    host = _hypervisor(lab, key)
    machines = pair(lab, key, host)
    peer = lab.keep(ovn.Ovn(lab.directory / "ovn", host))
    peer.nbctl("ls-add", "sw0")
    for number, machine in enumerate(machines):
        name, owner = f"p{number}", f"{machine.mac} {machine.address()}"
        for command in ("lsp-set-addresses", "lsp-set-port-security"):
            peer.nbctl("--may-exist", "lsp-add", "sw0", name, "--", command, name, owner)
        host.ovs.vsctl("set", "Interface", lab.taps[machine.name].name, f"external_ids:iface-id={name}")
    peer.nbctl("pg-add", "rules", "p0", "p1")

    def acl(direction: str, priority: int, match: str, action: str) -> list[str]:
        return ["--", "acl-add", "rules", direction, str(priority), match, action]

    arriving = f"outport == @rules && ip4 && ip4.src == {flows.NETWORK}"
    services = [*(f"tcp.dst == {port}" for port in flows.TCP_PORTS), "udp", "icmp4"]
    commands = [acl("to-lport", 1002, f"{arriving} && {service}", "allow-related") for service in services]
    commands.append(acl("from-lport", 1002, "inport == @rules && ip4", "allow-related"))
    commands.append(acl("to-lport", 1000, "outport == @rules && ip", "drop"))
    for i in range(others):
        match = f"outport == @rules && ip4.src == {flows.other_source(i)} && tcp.dst == {flows.other_port(i)}"
        commands.append(acl("to-lport", 1002, match, "allow-related"))
    peer.nbctl(*[word for command in commands for word in command][1:])
    peer.sync()
    return Contestant(ovn.version(), *machines, host)


def _cloud_firewall(lab: Lab, key: str, others: int) -> Contestant:
    """The real controller, told over REST: both machines behind a firewall, and other droplets behind theirs."""
    host = _hypervisor(lab, key)
    machines = pair(lab, key, host)
    absent = [f"t{number}" for number in range(others // OTHERS_EACH)]
    if absent:
        host.ovs.vsctl(*_add_idle_ports(host.bridge, absent))
    controller = lab.keep(Controller(lab.directory / "controller", host=lab.address))
    controller.start()
    host.connect(f"tcp:{lab.address}:{controller.openflow_port}")
    cloud = Cloud(lab, controller)
    cloud.call("PUT", f"/v1/hypervisors/{host.dpid}", {"name": host.name, "uplinks": [host.uplink]})
    for number, machine in enumerate(machines):
        cloud.register(machine.name, 1 + number, ["busy"])
    everywhere = {"addresses": ["0.0.0.0/0", "::/0"]}
    near = {"addresses": [flows.NETWORK]}
    tcp = [inbound("tcp", str(port), **near) for port in flows.TCP_PORTS]
    cloud.call(
        "POST", "/v2/firewalls",
        {"name": "busy", "tags": ["busy"],
         "inbound_rules": [*tcp, inbound("udp", "0", **near), inbound("icmp", "0", **near)],
         "outbound_rules": [outbound(protocol, "0", **everywhere) for protocol in ("tcp", "udp", "icmp")]},
    )  # fmt: skip
    for number, interface in enumerate(absent):
        droplet, address = 100 + number, f"10.1.200.{number + 1}"
        cloud.call("PUT", f"/v1/droplets/{droplet}", {"name": interface})
        cloud.call(
            "PUT", f"/v1/ports/{interface}",
            {"droplet_id": droplet, "hypervisor": host.dpid, "interface": interface,
             "mac": f"02:77:00:00:00:{number:02x}", "addresses": [address]},
        )  # fmt: skip
        rules = range(number * OTHERS_EACH, (number + 1) * OTHERS_EACH)
        listed = [inbound("tcp", str(flows.other_port(i)), addresses=[flows.other_source(i)]) for i in rules]
        cloud.call("POST", "/v2/firewalls", {"name": interface, "droplet_ids": [droplet], "inbound_rules": listed})
    wait_until("the hypervisor in sync", lambda: _in_sync(cloud, host.dpid), 30, 0.05)
    return Contestant(US, *machines, host)


def _in_sync(cloud: Cloud, dpid: str) -> bool:
    return bool(cloud.call("GET", f"/v1/hypervisors/{dpid}")["sync"]["state"] == "in_sync")


def _add_idle_ports(bridge: str, names: Iterable[str]) -> list[str]:
    """Ports of which the datapath has nothing to poll: patches whose other end is not there."""
    words: list[str] = []
    for name in names:
        words += ["--", "add-port", bridge, name, "--", "set", "Interface", name, "type=patch"]
        words += [f"options:peer={name}-peer"]
    return words


@contextmanager
def served(machine: Machine, log: Path, *command: str) -> Iterator[None]:
    """A program that runs in a machine meanwhile."""
    process = spawn(inside(machine, *command), log)
    try:
        yield
    finally:
        end(process)


def in_turns(
    run: Run,
    built: Sequence[Contestant],
    units: Mapping[str, str],
    sample: Callable[[Contestant, int], dict[str, float]],
    each: int = 1,
) -> Iterator[Series]:
    """One series for each contestant and thing (with its unit), of samples taken A B C A B C, so many for each run."""
    found: dict[tuple[str, str], list[float]] = {}
    turns = run.runs * each
    for turn in range(turns):
        for number, one in enumerate(built):
            run.progress(f"{one.who}, turn {turn + 1}", (turn + number / len(built)) / turns)
            for what, value in sample(one, turn).items():
                found.setdefault((one.who, what), []).append(value)
    for what, unit in units.items():
        for one in built:
            if values := found.get((one.who, what)):
                yield Series(one.who, what, unit, tuple(values))


def wait_for(log: Path, word: str) -> None:
    """Until a program has said so."""
    wait_until(f"{word!r} in {log.name}", lambda: log.exists() and word in log.read_text(), 10)
