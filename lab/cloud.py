"""A lab and a controller joined: machines registered as droplets, and what the controller's policy means for them.

`Cloud` is what the demo, the tests and the benchmarks talk to.  `policy()` reads the policy back over REST, as an
outsider sees it; `expected()` asks `firewall_app.policy.decide` what that means, case by case.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from firewall_app.policy.decide import Packet, Verdict, decide
from firewall_app.policy.model import Protocol, address
from firewall_app.policy.policy import Policy
from firewall_app.remote import read

from .controller import Answer, Controller
from .network import Lab
from .system import LabError, wait_until
from .truth import Case, disagreements, probe

WAIT = {"Prefer": "wait=30"}
EVERYWHERE = {"addresses": ["0.0.0.0/0", "::/0"]}


def inbound(protocol: str, ports: str, **sources: list[Any]) -> dict[str, Any]:
    """A rule of the tenant API; without sources from everywhere."""
    return {"protocol": protocol, "ports": ports, "sources": sources or EVERYWHERE}


def outbound(protocol: str, ports: str, **destinations: list[Any]) -> dict[str, Any]:
    return {"protocol": protocol, "ports": ports, "destinations": destinations or EVERYWHERE}


class Cloud:
    """A lab under a controller."""

    def __init__(self, lab: Lab, controller: Controller) -> None:
        self.lab, self.controller = lab, controller
        self.droplets: dict[str, int] = {}  # machine -> droplet id

    # ---- REST

    def call(self, method: str, path: str, body: Any = None, expect: int | None = None) -> Any:
        """One request that must succeed (or answer `expect`); waits until the switches have confirmed a write."""
        answer = self.controller.call(method, path, body, WAIT if method != "GET" else None)
        if answer.status != expect if expect is not None else answer.status >= 300:
            raise LabError(f"{method} {path} answered {answer.status}: {answer.json}")
        return answer.json

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """One request, whatever is answered."""
        return self.controller.call(method, path, body)

    def register_hypervisors(self) -> None:
        for host in self.lab.hypervisors.values():
            self.call("PUT", f"/v1/hypervisors/{host.dpid}", {"name": host.name, "uplinks": [host.uplink]})

    def register(self, name: str, droplet_id: int, tags: Iterable[str] = ()) -> None:
        """Makes a machine a droplet with one port."""
        machine, tap = self.lab.machines[name], self.lab.taps[name]
        self.call("PUT", f"/v1/droplets/{droplet_id}", {"name": name, "tags": list(tags)})
        self.call(
            "PUT", f"/v1/ports/{name}",
            {"droplet_id": droplet_id, "hypervisor": tap.hypervisor.dpid, "interface": tap.name,
             "mac": machine.mac, "addresses": list(machine.hosts)},
        )  # fmt: skip
        self.droplets[name] = droplet_id

    def wait_in_sync(self, seconds: float = 30) -> None:
        """Waits until every hypervisor of the lab has confirmed what it should hold."""

        def in_step() -> bool:
            found = {h["dpid"]: h["sync"]["state"] for h in self.call("GET", "/v1/hypervisors")["hypervisors"]}
            return all(found.get(host.dpid) == "in_sync" for host in self.lab.hypervisors.values())

        wait_until("all hypervisors in sync", in_step, seconds, 0.05)

    def settle(self) -> None:
        """Returns when no packet is judged any more by flows of before the last change.

        OvS confirms a change when its tables have it; packets that follow a cached decision are caught up with after.
        """
        with ThreadPoolExecutor() as hosts:
            list(hosts.map(lambda host: host.settle(), self.lab.hypervisors.values()))

    # ---- meaning

    def policy(self) -> Policy:
        """The policy as REST tells it."""
        return read(lambda path: self.call("GET", path)).policy

    def expected(self, cases: Iterable[Case]) -> dict[Case, bool]:
        """Whether each case may pass, by the policy's meaning."""
        policy = self.policy()
        return {case: decide(policy, self.packet(case)).verdict is Verdict.ALLOW for case in cases}

    def packet(self, case: Case) -> Packet:
        """The packet that opens a case's connection."""
        source, target = self.lab.machines[case.source], self.lab.machines[case.target]
        return Packet(
            address(source.address(case.version)),
            address(case.address or target.address(case.version)),
            Protocol(case.protocol),
            case.source_port,
            case.port,
            case.source if case.source in self.droplets else None,
            case.target if case.target in self.droplets else None,
        )

    def compare(
        self, cases: Iterable[Case], tries: int = 3, timeout: float = 0.4
    ) -> tuple[Mapping[Case, bool], Mapping[Case, str], list[Case]]:
        """What is expected of each case, what packets say, and where they differ."""
        expected = self.expected(cases)
        self.settle()
        passing = {case for case, passes in expected.items() if passes}
        probed = probe(self.lab.machines, expected, passing, tries, timeout)
        return expected, probed, disagreements(expected, probed)


def seconds_until(done: Any, limit: float) -> float | None:
    """How long it took until `done()` was true; None when the limit passed."""
    start = time.monotonic()
    while time.monotonic() - start < limit:
        if done():
            return time.monotonic() - start
        time.sleep(0.005)
    return None
