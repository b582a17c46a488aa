"""A fleet for the benches: its policy, a controller that has it, and simulated hypervisors that connect.

Each hypervisor has some droplets, all behind one firewall; a rule of that names a tag that a few of them carry.
"""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.swarm import Swarm
from firewall_app.policy.model import (
    Direction,
    Droplet,
    Firewall,
    Hypervisor,
    Peer,
    Port,
    PortRange,
    Protocol,
    Rule,
    Tag,
)
from firewall_app.policy.policy import Draft, Policy
from firewall_app.store import Store
from lab.controller import TOKEN, Controller
from lab.system import LabError, wait_until

FIREWALL = "6b6e0e2e-55b5-4d0b-9d7e-0d5a4a3c0001"
TAGGED = 20  # droplets that carry the tag that a rule of the firewall names
PATIENCE = 180.0  # seconds until we give up


def policy(hypervisors: int, ports: int, rules: int) -> Draft:
    """So many droplets on each hypervisor, with one port each, all behind one firewall of so many rules."""
    draft = Policy().edit()
    draft.put(Tag("default", "all"))
    draft.put(Tag("default", "few"))
    droplet = 0
    for number in range(1, hypervisors + 1):
        dpid = f"{number:016x}"
        draft.put(Hypervisor(dpid, f"hv-{number}", ("eth0",)))
        for place in range(1, ports + 1):
            droplet += 1
            draft.put(Droplet(droplet, name=f"d{droplet}", tags=("all", "few") if droplet <= TAGGED else ("all",)))
            mac = f"02:00:{droplet >> 24:02x}:{droplet >> 16 & 255:02x}:{droplet >> 8 & 255:02x}:{droplet & 255:02x}"
            own = f"10.{droplet >> 16}.{droplet >> 8 & 255}.{droplet & 255}"
            slot = draft.new_slot(dpid)
            draft.put(Port(f"p{droplet}", droplet, dpid, f"tap{place}", None, mac, (own,), slot=slot))
    inbound = [_rule(draft, str(1000 + n), Peer((f"198.18.{n % 250}.0/24",))) for n in range(rules - 1)]
    inbound.append(_rule(draft, "53", Peer(tags=("few",))))
    outbound = (_rule(draft, "1-65535", Peer(("0.0.0.0/0", "::/0")), "outbound"),)
    draft.put(Firewall(FIREWALL, "default", "all", tuple(inbound), outbound, (), ("all",)))
    return draft


def _rule(draft: Draft, ports: str, peer: Peer, direction: str = "inbound") -> Rule:
    return Rule(Direction(direction), Protocol("tcp"), PortRange.parse(ports), peer, draft.new_rule_id())


class Fleet:
    """A controller that knows a fleet, and the fleet."""

    def __init__(self, controller: Controller, swarm: Swarm, hypervisors: int) -> None:
        self.controller, self.swarm, self.hypervisors = controller, swarm, hypervisors
        self._http = http.client.HTTPConnection(controller.rest.host, controller.rest.port, timeout=60)

    def get(self, path: str) -> bytes:
        """On one connection that is kept."""
        self._http.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}", "Accept": "*/*"})
        response = self._http.getresponse()
        body = response.read()
        if response.status != 200:
            raise LabError(f"GET {path}: {response.status} {body[:200]!r}")
        return body

    def count(self, state: str) -> int:
        """Registered hypervisors in a state."""
        found = re.search(rf'^firewall_hypervisors{{state="{state}"}} (\d+)', self.get("/metrics").decode(), re.M)
        return int(found[1]) if found else 0

    def wait_in_sync(self, count: int) -> float:
        """When so many were in sync, by the clock that all processes share."""
        wait_until(f"{count} hypervisors in sync", lambda: self.count("in_sync") == count, PATIENCE, 0.1)
        return time.monotonic()

    def memory(self, line: str = "VmRSS") -> int:
        """Of the controller, in KB; VmHWM: at most."""
        status = Path(f"/proc/{self.controller.pid}/status").read_text()
        found = re.search(rf"^{line}:\s+(\d+) kB", status, re.M)
        assert found
        return int(found[1])

    def cpu(self) -> float:
        """Seconds that the controller has worked."""
        fields = Path(f"/proc/{self.controller.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def close(self) -> None:
        self._http.close()


@contextmanager
def fleet(
    directory: Path, hypervisors: int, ports: int = 8, rules: int = 30, **options: Any
) -> Iterator[Fleet]:
    """A controller in a directory of its own, started, to which nobody has connected."""
    directory.mkdir()
    store = Store.open(f"sqlite:///{directory}/firewall.db")
    draft = policy(hypervisors, ports, rules)
    store.commit(draft.changes, draft.counters, store.newest())
    store.close()
    with ExitStack() as stack:
        controller = stack.enter_context(Controller(directory, **options))
        interfaces = ("eth0", *(f"tap{place}" for place in range(1, ports + 1)))
        swarm = stack.enter_context(Swarm(controller.host, controller.openflow_port, interfaces))
        found = Fleet(controller, swarm, hypervisors)
        stack.callback(found.close)
        yield found
