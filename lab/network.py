"""`Lab`: hypervisors, virtual machines and the links between, built from namespaces and removed without trace.

    outside ---- fabric (a Linux bridge) ---- eth0 [hypervisor: br0 of its own Open vSwitch] tapN ---- eth0 [machine]

All machines are in one flat network, 10.1.0.0/16 and fd00:1::/64.  Every hypervisor also has a management link to
the caller's namespace, where a controller that listens on `lab.address` is reachable from all of them.

Everything made carries the tag: namespaces `fw-TAG-*`, devices `fwTAGm*` in the caller's namespace, the directory
fw-TAG in the temporary directory.  It is removed at the end of the `with`, also by an exception, SIGINT, SIGTERM,
SIGHUP or the interpreter's exit; after a SIGKILL the next lab of the same tag, or leftovers.py, removes it.  Two labs
with different tags can run at once.  LAB_KEEP=1 keeps the directory with its logs.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

from .leftovers import claim, claim_tag, remove
from .machine import Machine
from .ovs import Datapath, PrivateOvs
from .system import LabError, ip, offloads_off, run, wait_until, write_sysctls

MAX_TAG = 9  # fwTAGm999 is a device name, and those have at most 15 characters
HUB_MAC = "02:fe:00:00:00:01"
DEVICE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}")
ENDINGS = (signal.SIGTERM, signal.SIGHUP)


class Closeable(Protocol):
    def close(self) -> object: ...


Owned = TypeVar("Owned", bound=Closeable)


@dataclass
class Hypervisor:
    """One namespace with an Open vSwitch, a bridge, an uplink to the fabric and a management link."""

    name: str
    netns: str
    dpid: str  # 16 hex digits
    ovs: PrivateOvs
    management: str  # the device in the caller's namespace
    address: str  # its own on the management link
    bridge: str = "br0"
    uplink: str = "eth0"

    def connect(self, *targets: str) -> None:
        """Set the controllers, `tcp:IP:PORT`; none takes them away (which clears all flows)."""
        self.ovs.set_controller(self.bridge, *targets)

    @property
    def connected(self) -> bool:
        return self.ovs.connected(self.bridge)

    def add_flows(self, *flows: str) -> None:
        """Flows by hand, in the words of ovs-ofctl(8)."""
        self.ovs.ofctl("add-flows", self.bridge, "-", stdin="\n".join(flows) + "\n")

    def flows(self) -> list[str]:
        """All flows, one line of text each."""
        lines = self.ovs.ofctl("--no-stats", "dump-flows", self.bridge).splitlines()
        return [line.strip() for line in lines if "actions=" in line]

    def settle(self) -> None:
        """Wait until what the switch has cached agrees with its flows; a change needs up to half a second."""
        # The first ends with a pass that may have begun before the change.
        for _ in range(2):
            self.ovs.appctl("revalidator/wait")

    def cut(self) -> None:
        """Part it from the controller without a word, as a broken management network would."""
        ip(None, f"link set {self.management} down")

    def heal(self) -> None:
        ip(None, f"link set {self.management} up")


@dataclass
class Tap:
    """Where a machine's interface comes out."""

    name: str
    hypervisor: Hypervisor
    plugged: bool = False


class Lab:
    """Builds, and owns what it builds.  Use as a context manager."""

    def __init__(self, tag: str = "", datapath: Datapath = "auto") -> None:
        self.tag = tag or f"{os.getpid():x}"
        if not re.fullmatch(rf"[a-z0-9]{{1,{MAX_TAG}}}", self.tag):
            raise LabError(f"a tag is 1 to {MAX_TAG} of a-z and 0-9, not {tag!r}: device names are short")
        if os.geteuid() != 0:
            raise LabError("network namespaces need root: run make as root (sudo make ...)")
        self.datapath: Datapath = datapath
        self.hypervisors: dict[str, Hypervisor] = {}
        self.machines: dict[str, Machine] = {}
        self.taps: dict[str, Tap] = {}
        self.directory = Path(tempfile.gettempdir(), f"fw-{self.tag}")
        self.address = ""  # where a controller listens; set on entry
        self._fabric = ""
        self._management_links = 0
        self._stack = contextlib.ExitStack()

    # --- begin and end ---

    def __enter__(self) -> Lab:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        # What is registered first is done last: signals and locks are given back when all else is gone.
        self._catch_signals()
        self._stack.enter_context(claim_tag(self.tag))
        remove(self.tag, self.directory)
        atexit.register(self.close)
        self._stack.callback(atexit.unregister, self.close)
        self.directory.mkdir(mode=0o700)
        if not os.environ.get("LAB_KEEP"):
            self._stack.callback(shutil.rmtree, self.directory)
        subnet = self._claim_subnet()
        self.address = f"{subnet}.1"
        hub = f"fw{self.tag}m0"
        self._stack.callback(run, "ip", "link", "del", hub)
        # A bridge without a MAC of its own takes the lowest of its ports': it changes when one joins, and who knows the
        # old one reaches nobody for seconds.
        ip(None, f"link add {hub} address {HUB_MAC} type bridge")
        ip(None, f"addr add {self.address}/24 dev {hub}", f"link set {hub} up")
        self._fabric = self._add_netns("fabric", {"ipv6/conf/default/disable_ipv6": 1})
        ip(self._fabric, "link add fabric type bridge mcast_snooping 0", "link set fabric up")

    def close(self) -> None:
        """Remove everything, each thing even if another cannot be; a second call does nothing."""
        main = threading.current_thread() is threading.main_thread()
        # A second Ctrl-C must not stop the removal half way.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
        try:
            self._stack.close()
        finally:
            self.machines, self.hypervisors, self.taps = {}, {}, {}
            if main:
                signal.signal(signal.SIGINT, before)

    def keep(self, thing: Owned) -> Owned:
        """Own one thing more: it is closed before the network goes."""
        self._stack.callback(thing.close)
        return thing

    def _catch_signals(self) -> None:
        """Let SIGTERM and SIGHUP unwind the program as an exception does, unless somebody else handles them."""

        def unwind(number: int, _frame: FrameType | None) -> None:
            sys.exit(128 + number)

        if threading.current_thread() is threading.main_thread():
            for number in ENDINGS:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, unwind)
                    self._stack.callback(signal.signal, number, signal.SIG_DFL)

    def _claim_subnet(self) -> str:
        """The first three octets of a management network that nobody on this machine uses."""
        taken = run("ip", "-4", "-brief", "address")
        start = zlib.crc32(self.tag.encode())
        for i in range(256):
            subnet = f"198.18.{(start + i) % 256}"
            if f" {subnet}." not in taken:
                with contextlib.suppress(OSError):
                    self._stack.enter_context(claim(f"subnet-{subnet}"))
                    return subnet
        raise LabError("all 256 management networks in 198.18.0.0/16 are taken")

    # --- build ---

    def add_hypervisor(self, name: str = "", dpid: str = "") -> Hypervisor:
        """A hypervisor with an empty bridge in secure mode: until flows are set, nothing passes."""
        number = len(self.hypervisors) + 1
        name = name or f"hv{number}"
        netns = self._add_netns(name, {"ipv6/conf/default/disable_ipv6": 1})
        device, address = self._add_management(netns)
        self._join_fabric(netns, "eth0", name)
        ip(netns, "link set eth0 up")
        ovs = PrivateOvs(self.directory / name, netns, self.datapath)
        self._stack.callback(ovs.stop)
        ovs.start()
        hypervisor = Hypervisor(name, netns, dpid or f"{number:016x}", ovs, device, address)
        ovs.add_bridge(hypervisor.bridge, hypervisor.dpid)
        ovs.add_port(hypervisor.bridge, hypervisor.uplink)
        self.hypervisors[name] = hypervisor
        return hypervisor

    def add_machine(
        self,
        name: str,
        hypervisor: Hypervisor | str,
        *,
        addresses: Iterable[str] = (),
        mac: str = "",
        tap: str = "",
        plugged: bool = True,
    ) -> Machine:
        """A virtual machine whose interface comes out as `tap`; in the bridge, unless it is to appear later."""
        host = self.hypervisors[hypervisor] if isinstance(hypervisor, str) else hypervisor
        number = len(self.machines) + 1
        tap = tap or f"tap{number}"
        if not DEVICE_NAME.fullmatch(tap):
            raise LabError(f"{tap!r} is no device name")
        machine = self._add_machine(name, number, addresses, mac)
        ip(host.netns, f"link add {tap} type veth peer name eth0 address {machine.mac} netns {machine.netns}")
        offloads_off(host.netns, [tap])
        self._bring_up(machine)
        self.taps[name] = Tap(tap, host)
        if plugged:
            self.plug(name)
        return machine

    def add_outside(self, name: str = "outside", addresses: Iterable[str] = (), mac: str = "") -> Machine:
        """A host that is on no hypervisor: joined to the fabric itself."""
        machine = self._add_machine(name, len(self.machines) + 1, addresses, mac)
        self._join_fabric(machine.netns, "eth0", name, machine.mac)
        self._bring_up(machine)
        return machine

    def add_pair(self, one: str, other: str) -> tuple[Machine, Machine]:
        """Two machines joined by a cable alone: what this machine carries without any switch."""
        a = self._add_machine(one, len(self.machines) + 1, (), "")
        b = self._add_machine(other, len(self.machines) + 1, (), "")
        ip(a.netns, f"link add eth0 address {a.mac} type veth peer name eth0 address {b.mac} netns {b.netns}")
        for machine in (a, b):
            self._bring_up(machine)
        return a, b

    def add_managed_namespace(self, name: str) -> str:
        """A namespace with nothing but a management link, for whatever else wants to reach the controller."""
        netns = self._add_netns(name, {})
        self._add_management(netns)
        return netns

    def _add_machine(self, name: str, number: int, addresses: Iterable[str], mac: str) -> Machine:
        quiet = {"accept_ra": 0, "autoconf": 0, "accept_dad": 0, "dad_transmits": 0, "router_solicitations": 0}
        netns = self._add_netns(name, {f"ipv6/conf/default/{key}": value for key, value in quiet.items()})
        machine = Machine(
            name=name,
            netns=netns,
            mac=mac or f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}",
            addresses=tuple(addresses) or (f"10.1.{number >> 8}.{number & 255}/16", f"fd00:1::{number:x}/64"),
            log=self.directory / f"{name}.agent.log",
        )
        self._stack.callback(machine.close)
        self.machines[name] = machine
        return machine

    def _bring_up(self, machine: Machine) -> None:
        """Addresses come after the link is up, as then IPv6 needs no moment to settle."""
        offloads_off(machine.netns, ["eth0"])
        machine.ip("link set eth0 up")
        for address in machine.addresses:
            machine.add_address(address)

    def _add_netns(self, name: str, sysctls: dict[str, Any]) -> str:
        if not DEVICE_NAME.fullmatch(name):
            raise LabError(f"{name!r} is no name: 1 to 15 letters, digits, dots, dashes and underscores")
        netns = f"fw-{self.tag}-{name}"
        run("ip", "netns", "add", netns)
        self._stack.callback(run, "ip", "netns", "del", netns)
        write_sysctls(netns, sysctls)
        ip(netns, "link set lo up")
        return netns

    def _add_management(self, netns: str) -> tuple[str, str]:
        self._management_links += 1
        number = self._management_links
        device = f"fw{self.tag}m{number}"
        address = self.address.rsplit(".", 1)[0] + f".{number + 1}"
        ip(
            None,
            f"link add {device} type veth peer name mgmt netns {netns}",
            f"link set {device} master fw{self.tag}m0 up",
        )
        self._stack.callback(run, "ip", "link", "del", device)
        ip(netns, f"addr add {address}/24 dev mgmt", "link set mgmt up")
        return device, address

    def _join_fabric(self, netns: str, device: str, port: str, mac: str = "") -> None:
        chosen = f"address {mac}" if mac else ""
        ip(
            self._fabric,
            f"link add {port} type veth peer name {device} {chosen} netns {netns}",
            f"link set {port} master fabric up",
        )
        offloads_off(self._fabric, [port])
        offloads_off(netns, [device])

    # --- interfaces that come and go ---

    def plug(self, name: str, ofport: int | None = None) -> int:
        """Put a machine's tap in its hypervisor's bridge; the OpenFlow number that it got."""
        tap = self.taps[name]
        ip(tap.hypervisor.netns, f"link set {tap.name} up")
        number = tap.hypervisor.ovs.add_port(tap.hypervisor.bridge, tap.name, ofport)
        tap.plugged = True
        return number

    def unplug(self, name: str) -> None:
        tap = self.taps[name]
        tap.hypervisor.ovs.del_port(tap.hypervisor.bridge, tap.name)
        tap.plugged = False

    def move(self, name: str, hypervisor: Hypervisor | str) -> None:
        """Migrate a machine: its tap leaves one hypervisor and appears, unplugged, on another."""
        tap = self.taps[name]
        if tap.plugged:
            self.unplug(name)
        target = self.hypervisors[hypervisor] if isinstance(hypervisor, str) else hypervisor
        ip(tap.hypervisor.netns, f"link set {tap.name} netns {target.netns}")
        tap.hypervisor = target

    def connect(self, port: int, seconds: float = 15) -> None:
        """Point every hypervisor at a controller on `lab.address`, and wait until all are connected."""
        for hypervisor in self.hypervisors.values():
            hypervisor.connect(f"tcp:{self.address}:{port}")
        for hypervisor in self.hypervisors.values():
            wait_until(f"connection of {hypervisor.name}", partial(self._connected, hypervisor), seconds, 0.05)

    @staticmethod
    def _connected(hypervisor: Hypervisor) -> bool:
        return hypervisor.connected
