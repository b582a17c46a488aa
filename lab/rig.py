"""Two hypervisors, three droplets and a host outside, under traffic that never pauses: what faults are measured on.

`Rig.measured` runs one fault and tells what became of every stream.  Which faults there are is in faults.py.
Neighbours are written down in every machine, so that no figure depends on when a kernel asks for them again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Any

from .cloud import Cloud, inbound, outbound
from .controller import Controller
from .machine import Machine
from .network import Hypervisor, Lab
from .postgresql import Server
from .probes import between
from .snoop import Snoop
from .streams import Allowed, Conversation, Datagrams, Loss
from .system import LabError, wait_until
from .traffic import Connects, Forbidden, Probe, Traffic, Way

DROPLETS = {"front": ("hv1", 101), "back": ("hv2", 102), "other": ("hv1", 103)}
UDP, UDP6, OWN, NEW_INSIDE, NEW_OUTSIDE, INBOUND, CUT_UDP, CUT_TCP, CLOSED = (
    7000, 7020, 7003, 7004, 7005, 7006, 7010, 7011, 81,
)  # fmt: skip
# Who opens a TCP connection to whom, the port, and how often a second both ends speak.
SESSIONS = {
    "own": ("front", "back", OWN, 100),
    "inbound": ("outside", "front", INBOUND, 100),
    "cut": ("outside", "front", CUT_TCP, 10),
}
CALM = 0.5  # seconds of traffic before a fault and after the recovery
ON_ITS_WAY = 0.3  # seconds until what was sent has arrived, or never will
# The controller notices a silent switch after this; the defaults of 5 s and 3 requests would make every run longer.
ECHO = {"echo_request_interval": 1, "maximum_unreplied_echo_requests": 3}
INACTIVITY_PROBE = 3000  # milliseconds: the same the other way round
# What may differ between two flow sets that mean the same: the generation and the revision, which only count changes.
COUNTS = re.compile(
    r"(?<=ct_mark=)0x\w+|(?<=pkt_mark=)0x\w+(/0x\w+)?|(?<=load:)0x\w+(?=->NXM_NX_CT_MARK)|(?<=note:)[\w.]+"
)


@dataclass(frozen=True)
class Figures:
    """What one run of a fault did to the traffic."""

    seconds: float
    udp: Loss  # of all streams together; the gap is the longest of any
    own_stall: float | None  # of the session that a droplet opened, in seconds; None: it did not go on
    inbound_stall: float | None  # of the session that was opened to a droplet
    connects: int
    failed: tuple[str, ...]  # new connections that did not come to be at the first try, and why
    probes: int
    leaks: tuple[str, ...]
    in_sync: float  # seconds from the moment that what was broken was given back
    flow_mods: int
    same_flows: bool


class Rig:
    """Made by `rig()`."""

    def __init__(self, cloud: Cloud, traffic: Traffic, snoop: Snoop, server: Server | None) -> None:
        self.cloud, self.traffic, self.snoop, self.server = cloud, traffic, snoop, server
        self.controller, self.lab = cloud.controller, cloud.lab
        self.hosts: tuple[Hypervisor, ...] = tuple(cloud.lab.hypervisors.values())
        self.firewalls: dict[str, str] = {}  # their ids
        self.sessions: dict[str, Conversation] = {}
        self.udp: list[Datagrams] = []
        self.cut: list[Datagrams] = []
        self.watched_since = 0.0  # leaks before were told already
        machines = self.lab.machines
        front, back = machines["front"], machines["back"]
        ways = [Way(machines["outside"], front.address(version), NEW_OUTSIDE) for version in (4, 6)]
        ways += [Way(front, back.address(version), NEW_INSIDE) for version in (4, 6)]
        self.connects = Connects(traffic, ways, 50)
        self.forbidden = Forbidden(traffic, forbidden_probes(machines), 200)
        for name, machine in machines.items():
            self.forbidden.watch(machine, only_own=name == "outside")

    # --- the policy and the traffic

    def begin(self) -> None:
        """Shows that probes would be seen, sets the policy, and begins all streams."""
        self._see_probes()
        front, back, outside = (self.lab.machines[name] for name in ("front", "back", "outside"))
        strangers = {"addresses": list(outside.hosts)}
        inside = f"{OWN}-{NEW_INSIDE}"
        open_ports = (("tcp", NEW_OUTSIDE), ("tcp", INBOUND), ("udp", UDP6))
        self._firewall(
            "front",
            [inbound(protocol, str(port), **strangers) for protocol, port in open_ports],
            [outbound("udp", str(UDP), tags=["back"]), outbound("tcp", inside, tags=["back"])],
        )
        self._firewall("back", [inbound("udp", str(UDP), tags=["front"]), inbound("tcp", inside, tags=["front"])], [])
        self._firewall("other", [], [outbound(protocol, "all") for protocol in ("tcp", "udp", "icmp")])
        self._firewall("gone", [inbound("udp", str(CUT_UDP)), inbound("tcp", str(CUT_TCP))], [], tags=["front"])
        self._firewall("spare", [inbound("tcp", "8000")], [], tags=["back", "front"])
        self.cloud.settle()
        self.udp += self.traffic.datagrams("UDP", front, back, UDP, 500)
        self.udp += self.traffic.datagrams("UDP over IPv6", outside, front, UDP6, 100, 6)
        self.cut += self.traffic.datagrams("cut UDP", outside, front, CUT_UDP, 25)
        for machine, port in ((front, NEW_OUTSIDE), (back, NEW_INSIDE)):
            self.traffic.serve(machine, port)
        for name in SESSIONS:
            self._talk(name)
        # The first of each pair opens the connection; what comes back is an answer.
        openers, answers = (*self.udp[::2], *self.cut[::2]), (*self.udp[1::2], *self.cut[1::2])
        for opener in openers:
            self.traffic.add(opener)
        wait_until("what opens connections", lambda: not self._silent(0, *openers))
        for answer in answers:
            self.traffic.add(answer)
        self.traffic.add(self.connects)
        self._wait_all_pass()
        wait_until("what will be cut", lambda: not self._silent(0, *self.cut, self.sessions["cut"]))
        self.cloud.call("DELETE", f"/v2/firewalls/{self.firewalls['gone']}")
        self.cloud.settle()
        self.watched_since = time.monotonic() + ON_ITS_WAY
        self.traffic.add(self.forbidden)

    def _see_probes(self) -> None:
        """While droplets are open every kind comes out, less those that no droplet may ever send."""
        for _ in range(3):
            for probe in self.forbidden.probes:
                self.forbidden.send(probe)
        open_to_all = {probe.kind for probe in self.forbidden.probes if not probe.guarded}

        def seen() -> set[str]:
            return {leak.kind for leak in self.forbidden.leaks}

        wait_until("all kinds of probes, while nothing forbids them", lambda: open_to_all <= seen(), 5)
        if guarded := seen() - open_to_all:
            raise LabError(f"forged packets passed: {', '.join(sorted(guarded))}")
        self.forbidden.leaks.clear()

    def _firewall(
        self, name: str, inbound_rules: list[Any], outbound_rules: list[Any], tags: Sequence[str] = ()
    ) -> None:
        body = {
            "name": name,
            "inbound_rules": inbound_rules,
            "outbound_rules": outbound_rules,
            "tags": list(tags) or [name],
        }
        self.firewalls[name] = self.cloud.call("POST", "/v2/firewalls", body, expect=202)["firewall"]["id"]

    def spare(self, number: int) -> tuple[str, dict[str, Any]]:
        """The path and body of a change: rules come and go; the traffic is none the wiser.  0: as it began."""
        rules = [inbound("tcp", "8000")]
        if number:
            rules.append(inbound("tcp", str(8000 + number)))
        if number % 2:
            rules.append(inbound("udp", "9000", tags=["other"]))
        body = {"name": "spare", "inbound_rules": rules, "outbound_rules": [], "tags": ["back", "front"]}
        return f"/v2/firewalls/{self.firewalls['spare']}", body

    def spare_number(self) -> int:
        """Of the change that is in force."""
        rules = self.cloud.call("GET", f"/v2/firewalls/{self.firewalls['spare']}")["firewall"]["inbound_rules"]
        return max(int(rule["ports"]) - 8000 for rule in rules if rule["protocol"] == "tcp")

    def change(self, number: int, wait: int = 30) -> None:
        """One change of the policy, confirmed by all switches unless `wait` is 0."""
        path, body = self.spare(number)
        headers = {"Prefer": f"wait={wait}"} if wait else {}
        answer = self.controller.call("PUT", path, body, headers)
        if answer.status >= 300:
            raise LabError(f"change {number} was answered {answer.status}: {answer.json}")

    def _talk(self, name: str) -> None:
        source, target, port, rate = SESSIONS[name]
        machines = self.lab.machines
        self.sessions[name] = self.traffic.conversation(name, machines[source], machines[target], port, rate)
        self.traffic.add(self.sessions[name])

    def renew(self) -> None:
        """Opens sessions anew that have ended, less the one that was cut."""
        moment = time.monotonic() - 0.2
        for name in ("own", "inbound"):
            if not self.sessions[name].flows_since(moment):
                self.traffic.hang_up(self.sessions[name])
                self._talk(name)

    def silent(self, own: bool = True) -> list[str]:
        """What of all that is allowed has not passed within the last moments; `own`: the session of a droplet, too."""
        sessions = [self.sessions[name] for name in (("own", "inbound") if own else ("inbound",))]
        return self._silent(time.monotonic() - 0.3, *self.udp, self.connects, *sessions)

    @staticmethod
    def _silent(moment: float, *streams: Allowed) -> list[str]:
        return [stream.name for stream in streams if not stream.flows_since(moment)]

    def _wait_all_pass(self, seconds: float = 10, own: bool = True) -> None:
        self.traffic.check()
        try:
            wait_until("all streams", lambda: not self.silent(own), seconds, 0.05)
        except LabError as problem:
            raise LabError(f"{problem}; nothing comes of {', '.join(self.silent(own))}") from problem

    # --- the switches and the controller

    def flows(self) -> list[list[str]]:
        """The flow sets, less what only counts changes."""
        return [sorted(COUNTS.sub("", line) for line in host.flows()) for host in self.hosts]

    def sync(self) -> dict[str, str]:
        """The state of each hypervisor that is connected, as the controller tells it; nothing while it is away."""
        try:
            answer = self.controller.call("GET", "/v1/hypervisors")
        except OSError:
            return {}
        if answer.status != 200:
            return {}
        return {h["dpid"]: h["sync"]["state"] for h in answer.json["hypervisors"] if h["connected"]}

    def in_sync(self) -> bool:
        found = self.sync()
        return all(found.get(host.dpid) == "in_sync" for host in self.hosts)

    def connections(self) -> int:
        """How often hypervisors have connected to this controller since it started."""
        return int(re.findall(r"^firewall_hypervisor_connections_total (\d+)", self._metrics(), re.MULTILINE)[0])

    def wait_connections(self, before: int, more: int) -> None:
        wait_until("connections anew", lambda: self.connections() >= before + more, 30, 0.02)

    def _metrics(self) -> str:
        return str(self.controller.call("GET", "/metrics").json)

    # --- measuring

    def measured(self, fault: Callable[[Rig], float], resumes: bool, seconds: float = CALM) -> Figures:
        """Runs a fault, waits until all is as before, and tells what became of the traffic meanwhile.

        `fault` returns the moment from which recovery counts; `resumes`: whether a droplet's own sessions must go on.
        """
        before, mods = self.flows(), sum(self.snoop.sent.values())
        begin = time.monotonic()
        time.sleep(seconds)
        back = fault(self)
        try:
            wait_until("the flows of before", lambda: self.flows() == before and self.in_sync(), 60, 0.02)
        except LabError as problem:
            raise LabError(f"{problem}; {self._difference(before)}") from problem
        recovered = time.monotonic()
        # TCP tries again after a time that doubles: a session may be silent for as long again as it was cut off.
        self._wait_all_pass(90, resumes)
        time.sleep(seconds)
        end = time.monotonic()
        time.sleep(ON_ITS_WAY)
        self.traffic.check()
        wait_until("connections under way", lambda: not self.connects.pending(end), 5, 0.05)
        figures = self._figures(
            begin, end, recovered - back, sum(self.snoop.sent.values()) - mods, self.flows() == before
        )
        self.renew()
        self._wait_all_pass()
        return figures

    def _difference(self, before: list[list[str]]) -> str:
        found = [
            f"{host.name} {sign} {line}"
            for host, old, new in zip(self.hosts, before, self.flows(), strict=True)
            for sign, lines in (("has no", set(old) - set(new)), ("has", set(new) - set(old)))
            for line in sorted(lines)
        ]
        return "; ".join([*found[:6], f"{len(found)} flows differ", f"told: {self.sync()}"])

    def _figures(self, begin: float, end: float, in_sync: float, flow_mods: int, same: bool) -> Figures:
        losses = [stream.loss(begin, end) for stream in self.udp]
        connects = self.connects.outcomes(begin, end)
        cut = sum(stream.loss(begin, end).sent for stream in self.cut)
        own, inbound_session = (
            session.stall(begin, end) if session.flows_since(end - 0.3) else None
            for session in (self.sessions["own"], self.sessions["inbound"])
        )
        return Figures(
            seconds=end - begin,
            udp=Loss(sum(x.sent for x in losses), sum(x.lost for x in losses), max(x.gap for x in losses)),
            own_stall=own,
            inbound_stall=inbound_session,
            connects=len(connects),
            failed=tuple(problem for problem in connects if problem),
            probes=self.forbidden.counted(begin, end) + cut,
            leaks=self._leaks(end),
            in_sync=in_sync,
            flow_mods=flow_mods,
            same_flows=same,
        )

    def _leaks(self, end: float) -> tuple[str, ...]:
        """What passed since they were told last, what passed between two runs included."""
        begin, self.watched_since = self.watched_since, end
        found = [f"{leak.kind}, at {leak.at}" for leak in self.forbidden.leaked(begin, end)]
        found += [f"{stream.name}: {n}" for stream in self.cut if (n := stream.arrived_between(begin, end))]
        found += ["cut TCP"] * self.sessions["cut"].heard_between(begin, end)
        return tuple(found)


def forbidden_probes(machines: Mapping[str, Machine]) -> list[Probe]:
    """Every kind of packet that the policy of `begin` forbids, between all machines."""
    front, back, other, outside = (machines[name] for name in (*DROPLETS, "outside"))
    many = partial(between, udp_ports=(CLOSED, UDP), tcp_ports=(CLOSED, OWN, INBOUND))
    forged = partial(many, guarded=True)
    return [
        *between(outside, front, udp_ports=(CLOSED, UDP), tcp_ports=(CLOSED, OWN)),
        *between(outside, back, udp_ports=(CLOSED, UDP), tcp_ports=(CLOSED, OWN, NEW_INSIDE)),
        *between(outside, front, claims=other),
        *many(other, front),
        *many(other, back),
        *between(front, other),
        *between(back, other),
        *between(back, outside),
        *between(front, outside),
        *forged(other, back, claims=front),
        *forged(other, back, claims=front, claims_mac=True),
        *forged(other, front, claims=outside),
        *forged(other, outside, claims=back),
    ]


@contextmanager
def rig(tag: str, server: Server | None) -> Iterator[Rig]:
    """A rig whose traffic flows.  Its store is a database of `server`; without, an SQLite file."""
    with Lab(tag) as lab:
        hosts = [lab.add_hypervisor(), lab.add_hypervisor()]
        for name, (home, _) in DROPLETS.items():
            lab.add_machine(name, home)
        lab.add_outside()
        for one, peer in permutations(lab.machines.values(), 2):
            one.ip(*(f"neigh replace {address} lladdr {peer.mac} dev eth0 nud permanent" for address in peer.hosts))
        database = server.database() if server else ""
        controller = Controller(lab.directory / "controller", host=lab.address, database=database, ryu=ECHO)
        lab.keep(controller)
        controller.start()
        snoop = lab.keep(Snoop(f"fw{lab.tag}m0", controller.openflow_port))
        traffic = lab.keep(Traffic())
        traffic.watch(snoop.socket, snoop.ready)
        lab.connect(controller.openflow_port)
        for host in hosts:
            for uuid in host.ovs.vsctl("get", "Bridge", host.bridge, "controller").strip("[]").split(","):
                host.ovs.vsctl("set", "Controller", uuid.strip(), f"inactivity_probe={INACTIVITY_PROBE}")
        cloud = Cloud(lab, controller)
        cloud.register_hypervisors()
        for name, (_, droplet_id) in DROPLETS.items():
            cloud.register(name, droplet_id, [name])
        cloud.wait_in_sync()
        made = Rig(cloud, traffic, snoop, server)
        traffic.start()
        made.begin()
        yield made
