"""This controller as an operator runs it: `ryu-manager`, a store in SQLite, REST, two real hypervisors.

The second hypervisor has the members of the tag.  A change is asked for on one connection that stays open, and counts
as done when it is answered with `Prefer: wait`: durable, and committed by every switch.
"""

from __future__ import annotations

import threading
import time
from select import select

from lab.controller import TOKEN, Controller
from lab.network import Hypervisor, Lab
from lab.snoop import Snoop
from lab.system import wait_until

from .. import policies
from ..client import Client
from ..policies import ELSEWHERE, HERE, MEMBERS_FROM, TAG, Size
from ..row import US
from . import NEW_SERVICE, add_interfaces, flow_count, new_source, port_of, seconds

WAIT = {"Prefer": "wait=60"}
POLL = 0.005  # seconds between two looks at whether a switch is in step


class Ours:
    name = US

    def __init__(self, lab: Lab, size: Size, tag: str = "", settings: dict[str, object] | None = None) -> None:
        """All is there but the connection of the switch with the ports.  With two in a lab `tag` tells them apart."""
        self.size, self._lab = size, lab
        self.here = lab.add_hypervisor(f"here{tag}", HERE)
        self.there = lab.add_hypervisor(f"there{tag}", ELSEWHERE)
        add_interfaces(self.here.ovs, self.here.bridge, (policies.interface(port) for port in range(size.ports)))
        members = (policies.member_interface(member) for member in range(size.members + 1))
        add_interfaces(self.there.ovs, self.there.bridge, members)
        directory = lab.directory / f"controller{tag}"
        directory.mkdir()
        told = {"max_rules": size.rules + 50, **(settings or {})}
        self.controller = lab.keep(Controller(directory, host=lab.address, settings=told))
        policies.keep(self.controller.database, policies.policy(size))
        self.controller.start()
        self._rest = lab.keep(Client(lab.address, self.controller.rest.port, TOKEN))
        self._connect(self.there)
        self._in_sync(ELSEWHERE)

    # ---- everything

    def load(self) -> float:
        """From the moment that the switch is told its controller until the controller says that it is in step."""

        def work() -> None:
            self._connect(self.here)
            self._in_sync(HERE)

        return seconds(work)

    def unload(self) -> None:
        self.here.connect()  # without a controller the bridge forgets its flows
        wait_until("an empty switch", lambda: not self.flows(), 20)
        wait_until("the end of the connection", lambda: self._sync(HERE) == "unreachable", 20)

    def flows(self) -> int:
        return flow_count(self.here.ovs, self.here.bridge)

    def dump(self) -> list[str]:
        """The flows as ovs-ofctl takes them."""
        return self.here.ovs.saved_flows(self.here.bridge)

    # ---- changes

    def add_rule(self, number: int) -> float:
        return self._rule("POST", number)

    def remove_rule(self, number: int) -> float:
        return self._rule("DELETE", number)

    def _rule(self, method: str, number: int) -> float:
        path = f"/v2/firewalls/{policies.firewall_id(port_of(number, self.size))}/rules"
        rule = {"protocol": "tcp", "ports": str(NEW_SERVICE), "sources": {"addresses": [new_source(number)]}}
        return 1000 * seconds(lambda: self._rest.call(method, path, {"inbound_rules": [rule]}, WAIT))

    def add_member(self) -> float:
        return self._member("POST")

    def remove_member(self) -> float:
        return self._member("DELETE")

    def _member(self, method: str) -> float:
        droplet = {"resource_id": str(MEMBERS_FROM + self.size.members), "resource_type": "droplet"}
        path = f"/v2/tags/{TAG}/resources"
        return 1000 * seconds(lambda: self._rest.call(method, path, {"resources": [droplet]}, WAIT))

    # ---- how it stands

    def _connect(self, hypervisor: Hypervisor) -> None:
        target = f"tcp:{self._lab.address}:{self.controller.openflow_port}"
        hypervisor.ovs.vsctl("--no-wait", "set-controller", hypervisor.bridge, target, "--",
                             "set", "controller", hypervisor.bridge, "connection_mode=out-of-band")  # fmt: skip

    def _in_sync(self, dpid: str) -> None:
        wait_until(f"hypervisor {dpid} in step", lambda: self._sync(dpid) == "in_sync", 60, POLL)

    def _sync(self, dpid: str) -> str:
        return str(self._rest.call("GET", f"/v1/hypervisors/{dpid}")["sync"]["state"])


class FlowMods:
    """Counts what a controller sends to the switches of a lab, read from the wire."""

    def __init__(self, lab: Lab, port: int) -> None:
        self._snoop = Snoop(f"fw{lab.tag}m0", port)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._ends.is_set():
            if select([self._snoop.socket], [], [], 0.05)[0]:
                self._snoop.ready()

    def sent(self, address: str) -> int:
        """So far, to the switch of that address; what is on the wire now may be missing."""
        time.sleep(0.1)
        return self._snoop.sent[address]

    def close(self) -> None:
        self._ends.set()
        self._thread.join()
        self._snoop.close()
