"""Neutron's native Open vSwitch firewall driver as a peer: `neutron_driver.py` in a virtual environment of its own.

One network, one security group for each port, the members as a remote group.  What is measured is the driver's own
time until `ovs-ofctl --bundle` has ended, without the agent, RPC and database around it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from lab.network import Lab
from lab.system import LabError, tail

from ..policies import Size, address, interface, mac, member_address, member_mac, service, source
from ..results import ROOT
from . import NEW_SERVICE, add_interfaces, flow_count, new_source, port_of

VERSION = "29.0.0"
ENVIRONMENT = ROOT / "run" / "bench" / f"neutron-{VERSION}"
BRIDGE = "br-int"
PROGRAM = Path(__file__).with_name("neutron_driver.py")
GROUP = "members"


def install() -> Path:
    """The Python that has Neutron; made the first time.  Raises LabError with pip's words."""
    python = ENVIRONMENT / "bin" / "python"
    done = ENVIRONMENT / "installed"
    if not done.exists():
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)],
            [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", f"neutron=={VERSION}"],
        ):
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode:
                raise LabError(f"{' '.join(command)}: {made.stderr.strip()[-500:]}")
        done.touch()
    return python


class Neutron:
    name = f"Neutron {VERSION}, native driver"

    def __init__(self, lab: Lab, size: Size, tag: str = "") -> None:
        python = install()
        self.size = size
        host = lab.add_hypervisor(f"neutron{tag}", f"{len(lab.hypervisors) + 1:016x}")
        self.ovs = host.ovs
        self.ovs.vsctl("del-br", host.bridge)
        self.ovs.add_bridge(BRIDGE, host.dpid, protocols="OpenFlow10,OpenFlow13,OpenFlow14")
        add_interfaces(self.ovs, BRIDGE, map(interface, range(size.ports)), _told)
        self._log = lab.directory / f"neutron{tag}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", host.netns, str(python), "-P", str(PROGRAM), self.ovs.database,
                 str(self.ovs.directory)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        lab.keep(self)
        self._answer()

    def close(self) -> None:
        """The program ends when its input does."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # ---- everything

    def load(self) -> float:
        ports = [_port(port) for port in range(self.size.ports)]
        rules = [self._rules(port) for port in range(self.size.ports)]
        return self._do("load", ports=ports, rules=rules, members=_members(self.size.members))

    def unload(self) -> None:
        self._do("unload")

    def flows(self) -> int:
        return flow_count(self.ovs, BRIDGE)

    # ---- changes

    def add_rule(self, number: int) -> float:
        port = port_of(number, self.size)
        return 1000 * self._do("rules", port=port, rules=[*self._rules(port), _rule(NEW_SERVICE, new_source(number))])

    def remove_rule(self, number: int) -> float:
        port = port_of(number, self.size)
        return 1000 * self._do("rules", port=port, rules=self._rules(port))

    def add_member(self) -> float:
        return 1000 * self._do("members", members=_members(self.size.members + 1))

    def remove_member(self) -> float:
        return 1000 * self._do("members", members=_members(self.size.members))

    def _rules(self, port: int) -> list[dict[str, Any]]:
        own = [_rule(service(rule), source(port, rule)) for rule in range(1, self.size.rules)]
        egress = {"ethertype": "IPv4", "direction": "egress"}
        return [*own, _rule(service(0), "", {"remote_group_id": GROUP}), egress]

    def _do(self, what: str, **arguments: Any) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LabError(f"Neutron's driver has ended: {tail(self._log)}")
        return json.loads(line)


def _told(port: int) -> list[str]:
    """What the agent of a hypervisor finds at an interface, and what it notes at its port."""
    name = interface(port)
    own = [f"external_ids:iface-id=p{port}", f'external_ids:attached-mac="{mac(port)}"']
    vlan = ["tag=1", "other_config:tag=1", "other_config:network_type=vlan", "other_config:segmentation_id=1",
            "other_config:physical_network=physical"]  # fmt: skip
    return [*own, "--", "set", "Port", name, *vlan]


def _port(port: int) -> dict[str, Any]:
    return {
        "device": f"p{port}", "device_owner": "compute:bench", "admin_state_up": True, "fixed_ips": [address(port)],
        "mac_address": mac(port), "port_security_enabled": True, "security_groups": [f"group{port}"],
        "status": "ACTIVE", "network_id": "network", "allowed_address_pairs": [],
    }  # fmt: skip


def _rule(port: int, prefix: str, more: dict[str, Any] | None = None) -> dict[str, Any]:
    peer = {"source_ip_prefix": prefix} if prefix else {}
    return {"ethertype": "IPv4", "direction": "ingress", "protocol": "tcp", "port_range_min": port,
            "port_range_max": port, **peer, **(more or {})}  # fmt: skip


def _members(count: int) -> dict[str, Any]:
    return {"IPv4": [[member_address(member), member_mac(member)] for member in range(count)], "IPv6": []}
