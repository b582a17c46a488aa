"""T168 with a real ovs-vswitchd and the program itself: a proxy between them misbehaves at message k, for every k.

Each bridge is a hypervisor with a line of its own through the proxy, and a k of its own; all of them go through the
stories side by side.  While faults come, packets that neither policy allows are traced through all bridges.
"""

from __future__ import annotations

import re
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from faultproxy import ECHO_LIMIT, Fault, Impatient, Line, Proxy, What
from ovs_dummy import DummyOvs
from policies import ANYONE, FIREWALL, rule
from realfleet import Control

from firewall_app.openflow import wire
from firewall_app.openflow.held import fence_of, generation_of, turn_of
from firewall_app.openflow.rendering import Body, Key, render
from firewall_app.pipeline.compile import Rulings
from firewall_app.pipeline.plan import units
from firewall_app.pipeline.tables import COOKIE_MASK, MAGIC
from firewall_app.pipeline.unit import Fence, Generation, Turn
from firewall_app.policy.model import Droplet, Firewall, Hypervisor, Port, Tag
from firewall_app.policy.policy import Policy
from firewall_app.store import Store
from lab.controller import Controller

pytestmark = [pytest.mark.ovs, pytest.mark.process]
TO_SWITCH, FROM_SWITCH = 118, 16  # more than there are in a first connect; the first line, without a fault, says so
PATIENCE = 60.0
LEAVES = re.compile(r"(?:^|,)\d+(?:,|$)")  # among datapath actions, a bare number is the port of an output
BOTH, OLD, NEW, NEITHER = 80, 81, 82, 83  # TCP ports: allowed by both policies, by one, by none


@dataclass
class Host:
    """One hypervisor: its bridge, and its way to the controller."""

    number: int
    line: Line
    to_switch: bool
    k: int

    @property
    def bridge(self) -> str:
        return f"b{self.number}"

    @property
    def dpid(self) -> str:
        return f"{self.number:016x}"

    @property
    def interfaces(self) -> dict[int, str]:
        return {1: f"{self.bridge}u", 2: f"{self.bridge}a"}

    @property
    def address(self) -> str:
        return f"10.1.{self.number >> 8}.{self.number & 0xFF}"

    def fault(self, what: What) -> Fault:
        return Fault(what, self.to_switch, self.k)


def policy_of(hosts: list[Host]) -> Policy:
    draft = Policy().edit()
    draft.put(Tag("default", "web"))
    for host in hosts:
        draft.put(Hypervisor(host.dpid, f"hv-{host.number}", (host.interfaces[1],)))
        draft.put(Droplet(host.number, name=f"d{host.number}", tags=("web",)))
        mac = f"02:00:00:00:{host.number >> 8:02x}:{host.number & 0xFF:02x}"
        draft.put(Port(f"p{host.number}", host.number, host.dpid, host.interfaces[2], None, mac, (host.address,),
                       slot=draft.new_slot()))  # fmt: skip
    rules = tuple(rule("inbound", "tcp", str(port), ANYONE, draft.new_rule_id()) for port in (BOTH, OLD))
    draft.put(Firewall(FIREWALL, "default", "web-fw", rules, (), (), ("web",)))
    return draft.done()


class Site:
    """The controller, the switch, the lines; and the policy that is to be in force."""

    def __init__(self, ovs: DummyOvs, controller: Controller, proxy: Proxy, hosts: list[Host], policy: Policy) -> None:
        self.ovs, self.controller, self.proxy, self.hosts, self.policy = ovs, controller, proxy, hosts, policy
        self.control = Control(ovs.directory)
        self.traced = 0

    def change(self, *ports: int) -> None:
        """Other rules for every droplet, by one request."""
        rules = [{"protocol": "tcp", "ports": str(port), "sources": {"addresses": list(ANYONE.addresses)}}
                 for port in ports]  # fmt: skip
        body = {"name": "web-fw", "inbound_rules": rules, "outbound_rules": [], "tags": ["web"]}
        assert self.controller.call("PUT", f"/v2/firewalls/{FIREWALL}", body).status == 200
        store = Store.open(self.controller.database)
        self.policy = store.load()[0]
        store.close()

    def arm(self, what: What) -> None:
        for host in self.hosts[1:]:
            host.line.arm(host.fault(what))

    def every(self, left: list[Host], test: Callable[[Host], bool], what: str, meanwhile: Callable[[], object]) -> None:
        """Waits until something is true of every host."""
        end = time.monotonic() + PATIENCE
        while left := [host for host in left if not test(host)]:
            assert time.monotonic() < end, f"{what}: {[(host.number, str(host.fault(What.DROP))) for host in left]}"
            meanwhile()
            time.sleep(0.05)

    def converge(self, but: Host | None = None) -> None:
        """Waits until every switch holds exactly what the policy means; what is forbidden does not pass meanwhile."""
        hosts = [host for host in self.hosts if host is not but]
        self.every(hosts, self.exact, "not what the policy means", self.nothing_forbidden_passes)
        self.every(hosts, lambda host: self.state(host) == "in_sync", "not in sync", lambda: None)
        for host in hosts:
            allowed = {str(one.ports) for one in self.policy.firewalls[FIREWALL].inbound_rules}
            for port in (BOTH, OLD, NEW, NEITHER):
                assert self.passes(host, port) is (str(port) in allowed), (host, port)

    def exact(self, host: Host) -> bool:
        held = flows_of(self.ovs.mgmt(host.bridge))
        meant = [*units(self.policy, host.dpid, host.interfaces, Rulings()).values(),
                 Generation(generation_of(held) or 0), Turn(turn_of(held)),
                 Fence(*(fence_of(held) or (0, 0)))]  # fmt: skip
        return held == dict(entry for unit in meant for entry in render(unit))

    def state(self, host: Host) -> str:
        return str(self.controller.call("GET", f"/v1/hypervisors/{host.dpid}").json["sync"]["state"])

    def nothing_forbidden_passes(self) -> None:
        for host in self.hosts:
            actions = self.trace(host, NEITHER)
            assert not LEAVES.search(actions), f"{host.bridge}: a packet that no policy allows has passed: {actions}"
            self.traced += 1

    def passes(self, host: Host, port: int) -> bool:
        """Whether a packet from outside that opens a TCP connection leaves the bridge by any port.

        What goes to a controller does not: Open vSwitch asks controllers about packets that no flow matches for as long
        as one of its OpenFlow connections has not agreed on a version, whatever fail_mode says.
        """
        return LEAVES.search(self.trace(host, port)) is not None

    def trace(self, host: Host, port: int) -> str:
        """The datapath actions at the end of that packet's way."""
        mac = next(one.mac for one in self.policy.ports.values() if one.hypervisor == host.dpid)
        packet = (
            f"in_port=1,tcp,dl_src=02:00:5e:00:00:01,dl_dst={mac},nw_src=198.51.100.7,nw_dst={host.address},nw_ttl=64,"
            f"tcp_src=40000,tcp_dst={port},tcp_flags=syn"
        )
        text = self.control.call("ofproto/trace", "--ct-next", "trk,new", "--ct-next", "trk,new", host.bridge, packet)
        return str(re.findall("Datapath actions: (.*)", text)[-1])


def flows_of(path: Path) -> dict[Key, Body]:
    """What a bridge holds under our cookie, in bytes."""
    held: dict[Key, Body] = {}
    with socket.socket(socket.AF_UNIX) as talk:
        talk.settimeout(20)
        talk.connect(str(path))
        talk.sendall(struct.pack("!BBHIHHI", 5, 0, 16, 1, 1, 8, 1 << 5))
        talk.sendall(wire.flow_stats_request(5, 2, MAGIC << 48, COOKIE_MASK))
        with talk.makefile("rb") as stream:
            while True:
                head = stream.read(8)
                message = head + stream.read(int.from_bytes(head[2:4], "big") - 8)
                if message[1] != 19:
                    continue
                reply = wire.decode(message)
                assert isinstance(reply, wire.FlowStatsReply)
                held |= {Key(f.table, f.priority, f.match): Body(f.cookie, f.instructions) for f in reply.flows}
                if not reply.more:
                    return held


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="fw-") as name, DummyOvs(Path(name) / "ovs") as ovs:
        controller = Impatient(
            Path(name) / "controller",
            settings={"reply_timeout": 3, "audit_interval": 0},
        )
        with Proxy("127.0.0.1", controller.openflow_port) as proxy:
            ks = [(True, -1), *((True, k) for k in range(TO_SWITCH)), *((False, k) for k in range(FROM_SWITCH))]
            hosts = [Host(number, proxy.line(), *k) for number, k in enumerate(ks, 1)]
            policy = policy_of(hosts)
            controller.directory.mkdir()
            store = Store.open(controller.database)
            draft = Policy().edit()
            for entities in (policy.hypervisors, policy.tags, policy.droplets, policy.ports, policy.firewalls):
                for entity in entities.values():
                    draft.put(entity)
            draft.counters = replace(draft.counters, rule=10, slot=len(hosts) + 1)
            store.commit(draft.changes, draft.counters, store.load()[1].point)
            store.close()
            build(ovs, hosts)
            with controller:
                built = Site(ovs, controller, proxy, hosts, policy)
                yield built
                built.control.close()


def build(ovs: DummyOvs, hosts: list[Host]) -> None:
    words: list[str] = []
    for host in hosts:
        words += ["--", "add-br", host.bridge, "--", "set", "bridge", host.bridge, "datapath_type=dummy"]
        words += ["fail_mode=secure", "protocols=OpenFlow13,OpenFlow14", f"other_config:datapath-id={host.dpid}"]
        for number, interface in host.interfaces.items():
            words += ["--", "add-port", host.bridge, interface, "--", "set", "interface", interface, "type=dummy"]
            words += [f"ofport_request={number}"]
    ovs.vsctl(*words[1:])


def plug_in(ovs: DummyOvs, hosts: list[Host]) -> None:
    words: list[str] = []
    for host in hosts:
        words += ["--", "set-controller", host.bridge, f"tcp:127.0.0.1:{host.line.port}"]
        words += ["--", "set", "controller", host.bridge, "max_backoff=1000", "inactivity_probe=5000"]
    ovs.vsctl(*words[1:])


@pytest.fixture
def connected(site: Site) -> Site:
    """All bridges connected and in sync, without a fault to come."""
    for host in site.hosts:
        host.line.arm(None)
    if not site.hosts[0].line.connections:
        plug_in(site.ovs, site.hosts)
    site.converge()
    return site


def test_T168_whatever_ends_a_connection_at_any_message_ends_in_exactly_the_policy(site: Site) -> None:
    """The stories follow each other on the same bridges: state depends on now, not on how it came to be."""
    started = time.monotonic()
    site.arm(What.RESET)
    plug_in(site.ovs, site.hosts)
    site.converge()
    first = site.hosts[0].line
    print(f"{'first connect, RST':40} {time.monotonic() - started:6.1f} s; messages {first.counts}")
    assert first.counts[True] < TO_SWITCH
    assert first.counts[False] < FROM_SWITCH

    for what, ports in ((What.HALF, (BOTH, NEW)), (What.HOLE, (BOTH, OLD))):
        began = time.monotonic()
        site.arm(what)
        site.change(*ports)
        site.converge()
        print(f"{'change, ' + what.value:40} {time.monotonic() - began:6.1f} s")

    for what, ports in ((What.FIN, (BOTH, NEW)), (What.STALL, (BOTH, OLD))):
        began = time.monotonic()
        for host in site.hosts:
            host.line.up = False
            site.proxy.hang_up(host.line)
        site.change(*ports)
        site.arm(what)
        for host in site.hosts:
            host.line.up = True
        site.converge()
        print(f"{'reconnect after a change, ' + what.value:40} {time.monotonic() - began:6.1f} s")
    print(f"traced {site.traced}")
    assert site.traced >= 2 * len(site.hosts)
    assert "Traceback" not in site.controller.log.read_text()


def test_T169_a_switch_that_stalls_holds_up_no_other(connected: Site) -> None:
    site, stalled = connected, connected.hosts[7]
    site.proxy.freeze(stalled.line)
    site.change(BOTH)
    site.converge(but=stalled)
    assert not site.exact(stalled)
    site.proxy.thaw(stalled.line)
    site.converge()


def test_T170_a_connection_whose_packets_vanish_is_noticed_and_told(connected: Site) -> None:
    site, lost = connected, connected.hosts[8]
    connections = lost.line.connections
    held = flows_of(site.ovs.mgmt(lost.bridge))
    site.proxy.freeze(lost.line)
    began = time.monotonic()
    site.every([lost], lambda host: site.state(host) == "unreachable", "not noticed", lambda: None)
    print(f"noticed after {time.monotonic() - began:.1f} s; echoes are missed after {ECHO_LIMIT} s")
    assert lost.line.connections == connections  # nothing told the controller but silence
    assert flows_of(site.ovs.mgmt(lost.bridge)) == held
    site.proxy.thaw(lost.line)
    site.converge()


def test_what_passes_is_what_leaves_by_a_port_not_what_a_controller_is_asked_about(connected: Site) -> None:
    """A bridge without flows asks whoever is just connecting; it forwards nothing."""
    host = connected.hosts[0]
    assert connected.passes(host, BOTH)
    host.line.up = False
    connected.proxy.hang_up(host.line)
    connected.ovs.ofctl("-O", "OpenFlow14", "del-flows", host.bridge)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(connected.ovs.mgmt(host.bridge)))
        connected.every([host], lambda host: "controller" in connected.trace(host, BOTH), "not asked", lambda: None)
        assert not connected.passes(host, BOTH)
    host.line.up = True
    connected.converge()
