"""A fleet for the benches: its policy, a controller that has it, and simulated hypervisors that connect.

Each hypervisor has some droplets, all behind one firewall; a rule of that names a tag that a few of them carry.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import policies, results
from bench.row import US, Series, Target, Verdict
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
from lab.controller import RYU, Controller, free_port, is_listened_on
from lab.system import LabError, end, spawn, tail, wait_until

FIREWALL = "6b6e0e2e-55b5-4d0b-9d7e-0d5a4a3c0001"
PORTS, RULES, FLOWS = 8, 35, 500  # of a hypervisor, where nothing else is said
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


def memory(pid: int, line: str = "VmRSS") -> int:
    """Of a process, in KB; VmHWM: at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{line}:\s+(\d+) kB", status, re.MULTILINE)
    if found is None:
        raise LabError(f"process {pid} has no {line}")
    return int(found[1])


def cpu(pid: int) -> float:
    """Seconds that a process has worked."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Fleet:
    """A controller that knows a fleet, and the fleet."""

    def __init__(self, controller: Controller, swarm: Swarm, hypervisors: int) -> None:
        self.controller, self.swarm, self.hypervisors = controller, swarm, hypervisors

    @property
    def pid(self) -> int:
        return self.controller.pid

    def count(self, state: str) -> int:
        """Registered hypervisors in a state."""
        found = re.search(
            rf'^firewall_hypervisors{{state="{state}"}} (\d+)', self.controller.call("GET", "/metrics").json, re.M
        )
        return int(found[1]) if found else 0

    def connect(self) -> float:
        """All of them at once; when all were in sync, by the clock that all processes share.

        The controller is asked only when the switches have what they can have: asking is work, too.
        """
        self.swarm.do("reset")
        self.swarm.do("connect", first=1, count=self.hypervisors)
        wait_until("every hypervisor's flows to be read", self._all_read, PATIENCE, 0.02)
        wait_until("all in sync", lambda: self.count("in_sync") == self.hypervisors, PATIENCE, 0.05)
        return time.monotonic()

    def _all_read(self) -> bool:
        counts = self.swarm.counts()
        return counts.readings >= self.hypervisors and counts.commits in (0, self.hypervisors)

    def leave(self) -> None:
        """All go at once, as when a network breaks; until the controller knows."""
        self.swarm.do("disconnect", first=1, count=self.hypervisors, reset=1)
        wait_until("nobody to be there", lambda: self.count("unreachable") == self.hypervisors, PATIENCE, 0.1)


@contextmanager
def fleet(directory: Path, hypervisors: int, ports: int = PORTS, rules: int = RULES) -> Iterator[Fleet]:
    """A controller in a directory of its own, started, to which nobody has connected."""
    directory.mkdir(exist_ok=True)
    policies.keep(f"sqlite:///{directory}/firewall.db", policy(hypervisors, ports, rules))
    with ExitStack() as stack:
        controller = stack.enter_context(Controller(directory))
        interfaces = ("eth0", *(f"tap{place}" for place in range(1, ports + 1)))
        swarm = stack.enter_context(Swarm(controller.host, controller.openflow_port, interfaces))
        yield Fleet(controller, swarm, hypervisors)


class Plain:
    """A plain Ryu application in place of our controller (plain_ryu.py), and switches that may connect to it."""

    def __init__(self, swarm: Swarm, pid: int) -> None:
        self.swarm, self.pid = swarm, pid
        self._files = self._open_files()

    def connect(self, hypervisors: int, patience: float = PATIENCE) -> float:
        """All at once; when the last of them was asked for its barrier, by the clock that all processes share."""
        self.swarm.do("reset")
        self.swarm.do("connect", first=1, count=hypervisors)
        wait_until("all barriers", lambda: self.swarm.counts().barriers >= hypervisors, patience, 0.02)
        return self.swarm.counts().last_barrier

    def leave(self, hypervisors: int) -> None:
        """All go; until Ryu has closed what it had, and works for nobody."""
        self.swarm.do("disconnect", first=1, count=hypervisors)
        wait_until("Ryu to have closed all", lambda: self._open_files() <= self._files, PATIENCE, 0.1)

    def _open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


@contextmanager
def plain(directory: Path, flows: int, how: str) -> Iterator[Plain]:
    """`how`: whether Ryu sends `objects` or `bytes`."""
    directory.mkdir(exist_ok=True)
    port, app = free_port(), Path(__file__).with_name("plain_ryu.py")
    argv = [*RYU, "--ofp-listen-host", "127.0.0.1", "--ofp-tcp-listen-port", str(port), str(app)]
    log = directory / "ryu.log"
    process = spawn(argv, log, {**os.environ, "FLOWS": str(flows), "HOW": how})
    try:
        wait_until("Ryu", lambda: process.poll() is not None or is_listened_on("127.0.0.1", port), 30, 0.05)
        if process.poll() is not None:
            raise LabError(f"Ryu ended by itself:\n{tail(log)}")
        with Swarm("127.0.0.1", port, ("eth0",)) as swarm:
            yield Plain(swarm, process.pid)
    finally:
        end(process)


def at(text: str, what: str, x: float, limit: float) -> Target:
    """Our median at a place of the axis is at most this."""

    def judge(series: Sequence[Series]) -> Verdict:
        ours = [one for one in series if (one.who, one.what, one.x) == (US, what, x)]
        if not ours:
            return Verdict(False, "not measured")
        return Verdict(ours[0].median <= limit, f"{results.number(ours[0].median)} {ours[0].unit}")

    return Target(text, judge)
