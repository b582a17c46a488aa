"""Ports that come, go, move and change hands, whatever else is under way: a state machine, and its cases by name.

After everything has been delivered the switches hold what the policy means for the ports that are there, packets get
to whom `decide()` says and to no other device, statuses tell the truth, and no zone holds what a former owner opened.
"""

from __future__ import annotations

from unittest import mock

import pytest
from fakecore import fake_core
from fakeswitch import message, port_status
from fakeswitch import port as port_bytes
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from policies import ANYONE
from policies import rule as one_rule
from simfabric import Place, SimFabric
from simhost import SimHost
from strategies import frame_of

from firewall_app.openflow import wire
from firewall_app.openflow.rendering import render
from firewall_app.openflow.session import FENCE, GENERATION, TURN
from firewall_app.pipeline.compile import ports_here
from firewall_app.pipeline.plan import units
from firewall_app.pipeline.tracker import Frame
from firewall_app.pipeline.unit import PortGuards
from firewall_app.policy import policy as policy_module
from firewall_app.policy.decide import Packet, Verdict, decide
from firewall_app.policy.errors import CallerError
from firewall_app.policy.model import Droplet, Firewall, Hypervisor, Port, Protocol, address
from firewall_app.policy.policy import Policy
from firewall_app.progress import Status
from firewall_app.service import hypervisors

A, B = "00000000000000a1", "00000000000000a2"
UPLINK, LOCAL = 1, 0xFFFFFFFE
NUMBERS, NAMES, DROPLETS = (2, 3, 4), ("tap1", "tap2", "tap3"), (1, 2, 3)
HERE = {UPLINK: "up0", LOCAL: "br0"}
OUTSIDE = address("192.0.2.7")


def base() -> Policy:
    """Droplets 1 and 2 behind a firewall that lets UDP 42 in and out, 3 open; no ports."""
    draft = Policy().edit()
    for dpid in (A, B):
        draft.put(Hypervisor(dpid, dpid[-2:], ("up*",)))
    for number in DROPLETS:
        draft.put(Droplet(number))
    rules = [(one_rule(way, "udp", "42", ANYONE, draft.new_rule_id()),) for way in ("inbound", "outbound")]
    draft.put(Firewall("f", "default", "fw", *rules, (1, 2)))
    return draft.done()


def wanted_port(name: str, droplet: int, dpid: str, interface: str | None, number: int | None) -> Port:
    return Port(name, droplet, dpid, interface, number, f"02:00:00:00:00:{droplet:02x}", (f"10.0.0.{droplet}",))


class World:
    """Two hypervisors under one core, and the network between them."""

    def __init__(self) -> None:
        self.core, _ = fake_core(base())
        self.hosts = {dpid: SimHost(self.core, dpid, HERE) for dpid in (A, B)}
        self.fabric = SimFabric({d: host.switch.bridge for d, host in self.hosts.items()}, dict.fromkeys((A, B), 1))
        self.source_port = 1000

    def connect(self) -> None:
        for host in self.hosts.values():
            host.connect()
        self.settle()

    def settle(self) -> None:
        while any(host.to_controller for host in self.hosts.values()):
            for host in self.hosts.values():
                host.settle()

    def put(self, name: str, droplet: int, dpid: str, interface: str | None = None, number: int | None = None) -> None:
        hypervisors.put_port(self.core, wanted_port(name, droplet, dpid, interface, number))

    def place(self, port: Port) -> Place | None:
        """Where a port is plugged in."""
        there = self.hosts[port.hypervisor].switch.ports
        return next((Place(port.hypervisor, n) for p, n in ports_here(self.core.policy, port.hypervisor, there)
                     if p.id == port.id), None)  # fmt: skip

    # ---- traffic

    def probe(self, sender: Port | None, receiver: Port | None, to: int) -> tuple[Packet, Frame]:
        """A packet of a new connection; `to`: UDP port."""
        self.source_port += 1
        source, target = (address(end.addresses[0]) if end else OUTSIDE for end in (sender, receiver))
        packet = Packet(source, target, Protocol.UDP, self.source_port, to, sender.id if sender else None,
                        receiver.id if receiver else None)  # fmt: skip
        return packet, frame_of(self.core.policy, packet)

    def traffic(self) -> None:
        """Somebody sends something, and whatever the flows say becomes of it: for the connections that it makes."""
        for dpid, host in self.hosts.items():
            for number in host.switch.ports:
                for port in self.core.policy.ports.values():
                    if number in NUMBERS:
                        self.fabric.send(Place(dpid, number), self.probe(port, None, 42)[1])
        for port in self.core.policy.ports.values():
            self.fabric.arrive(self.probe(None, port, 42)[1])

    # ---- what must be so

    def check(self) -> None:
        """Once everything is delivered; packets only where all hypervisors are connected."""
        self.settle()
        for dpid, host in self.hosts.items():
            if host.session is not None:
                self.check_flows(dpid, host)
                self.check_zones(dpid, host)
        self.check_statuses()
        if all(host.session is not None for host in self.hosts.values()):
            self.check_packets()

    def check_flows(self, dpid: str, host: SimHost) -> None:
        assert host.session is not None
        meant = dict(units(self.core.policy, dpid, host.switch.ports, self.core.rulings))
        for own in (GENERATION, TURN, FENCE):
            unit = host.session._desired.unit(own)
            assert unit is not None
            meant[own] = unit
        assert host.switch.flows == dict(pair for unit in meant.values() for pair in render(unit)), dpid

    def check_statuses(self) -> None:
        for port in self.core.policy.ports.values():
            host = self.hosts[port.hypervisor]
            status, error, number, interface = self.core.progress.port_status(self.core.policy, port.id)
            there, place = host.switch.ports, self.place(port)
            if host.session is None:
                assert status is Status.UNREACHABLE
            elif place is not None:
                assert (status, error, number, interface) == (Status.SUCCEEDED, None, place.port, there[place.port])
            elif list(there.values()).count(port.interface or "") > 1:
                assert status is Status.FAILED
                assert "several switch ports" in (error or "")
            elif port.number in there or port.interface in there.values():
                assert status is Status.FAILED
                assert "belongs to port" in (error or "")
            else:
                assert status is Status.ABSENT

    def check_zones(self, dpid: str, host: SimHost) -> None:
        """A zone in use holds connections of the droplet that has it now, and of nobody who had it before."""
        for port, _ in ports_here(self.core.policy, dpid, host.switch.ports):
            own = address(port.addresses[0]).value
            for opened in host.switch.bridge.zone(port.slot)._by_tuple:
                assert own in (opened.src, opened.dst), f"{port.id} has inherited {opened}"

    def check_packets(self) -> None:
        """From everybody to everybody: who may, reaches the other's device and no other."""
        ends = [None, *self.core.policy.ports.values()]
        for sender in ends:
            for receiver in ends:
                if sender is receiver or (sender is not None and self.place(sender) is None):
                    continue
                for to in (42, 43):
                    packet, frame = self.probe(sender, receiver, to)
                    # A droplet that is registered twice, as while it is moved, has one MAC at two places.
                    twins = [one for one in self.core.policy.ports.values() if receiver and one.mac == receiver.mac]
                    if sender in twins:
                        continue
                    places = {place for one in twins if (place := self.place(one)) is not None}
                    start = self.place(sender) if sender else None
                    sent = self.fabric.send(start, frame) if start else self.fabric.arrive(frame)
                    allowed = decide(self.core.policy, packet).verdict is Verdict.ALLOW
                    if len(twins) > 1:
                        assert set(sent.reached) <= (places if allowed else set()), f"{packet}\n{sent}"
                    else:
                        assert set(sent.reached) == (places if allowed else set()), f"{packet}\n{sent}"


@settings(max_examples=25, stateful_step_count=30, suppress_health_check=list(HealthCheck))
class Ports(RuleBasedStateMachine):
    """Everything that may happen to ports, in any order, with messages on their way."""

    def __init__(self) -> None:
        super().__init__()
        # Few, so that slots come round to other owners while a hypervisor is away.
        self.few_slots = mock.patch.object(policy_module, "LAST_SLOT", 7)
        self.few_slots.start()
        self.world = World()
        self.world.connect()
        self.world.put("p1", 1, A, interface="tap1")
        self.world.put("p2", 2, A, number=3)
        self.world.put("p3", 3, B, interface="tap1")
        for dpid, number, name in ((A, 2, "tap1"), (A, 3, "tap2"), (B, 2, "tap1")):
            self.host(dpid).plug(number, name)
        self.world.check()

    def teardown(self) -> None:
        try:
            for host in self.world.hosts.values():
                if host.session is None:
                    host.connect()
            self.world.check()
        finally:
            self.few_slots.stop()

    def host(self, dpid: str) -> SimHost:
        return self.world.hosts[dpid]

    @rule(dpid=st.sampled_from((A, B)), number=st.sampled_from(NUMBERS), name=st.sampled_from(NAMES))
    def plug_or_plug_elsewhere(self, dpid: str, number: int, name: str) -> None:
        """An interface gets a number; whatever had the number or the name goes first."""
        there = self.host(dpid).switch.ports
        for other in [n for n, had in there.items() if n == number or had == name]:
            self.host(dpid).unplug(other)
        self.host(dpid).plug(number, name)

    @rule(dpid=st.sampled_from((A, B)), number=st.sampled_from(NUMBERS))
    def unplug(self, dpid: str, number: int) -> None:
        if number in self.host(dpid).switch.ports:
            self.host(dpid).unplug(number)

    @rule(dpid=st.sampled_from((A, B)), number=st.sampled_from(NUMBERS), name=st.sampled_from(NAMES))
    def rename(self, dpid: str, number: int, name: str) -> None:
        """Also to a name that another one has: long names look the same once they are cut."""
        if number in self.host(dpid).switch.ports:
            self.host(dpid).rename(number, name)

    @rule(dpid=st.sampled_from((A, B)), pair=st.permutations(NUMBERS))
    def swap(self, dpid: str, pair: list[int]) -> None:
        there = self.host(dpid).switch.ports
        one, other = pair[:2]
        if one in there and other in there:
            names = there[one], there[other]
            self.host(dpid).unplug(one)
            self.host(dpid).unplug(other)
            self.host(dpid).plug(one, names[1])
            self.host(dpid).plug(other, names[0])

    @rule(dpid=st.sampled_from((A, B)), number=st.sampled_from((UPLINK, LOCAL)))
    def flap(self, dpid: str, number: int) -> None:
        self.host(dpid).flap(number, HERE[number])

    @rule(
        name=st.sampled_from(("p1", "p2", "p3", "p4")), droplet=st.sampled_from(DROPLETS),
        dpid=st.sampled_from((A, B)), at=st.sampled_from((*NAMES, *NUMBERS)),
    )  # fmt: skip
    def register(self, name: str, droplet: int, dpid: str, at: str | int) -> None:
        """By interface or by number; a port that is registered already moves."""
        try:
            if isinstance(at, str):
                self.world.put(name, droplet, dpid, interface=at)
            else:
                self.world.put(name, droplet, dpid, number=at)
        except CallerError:
            pass  # another port has it

    @rule(name=st.sampled_from(("p1", "p2", "p3", "p4")))
    def deregister(self, name: str) -> None:
        if name in self.world.core.policy.ports:
            hypervisors.delete_port(self.world.core, name)

    @rule(dpid=st.sampled_from((A, B)))
    def the_connection_goes_or_comes(self, dpid: str) -> None:
        host = self.host(dpid)
        if host.session is None:
            host.connect()
        else:
            host.disconnect()

    @rule(dpid=st.sampled_from((A, B)))
    def audit(self, dpid: str) -> None:
        self.host(dpid).resync()

    @rule(dpid=st.sampled_from((A, B)), messages=st.integers(1, 4))
    def some_messages_arrive(self, dpid: str, messages: int) -> None:
        self.host(dpid).pass_on(messages)

    @rule()
    def traffic(self) -> None:
        self.world.traffic()

    @rule()
    def all_is_delivered(self) -> None:
        self.world.check()

    @invariant()
    def what_is_said_to_have_succeeded_is_on_the_switch(self) -> None:
        core = self.world.core
        for port in core.policy.ports.values():
            status, _, number, _ = core.progress.port_status(core.policy, port.id)
            if status is Status.SUCCEEDED:
                assert number is not None
                held = self.host(port.hypervisor).switch.flows
                for key, body in render(PortGuards(port.slot, number, port.mac, port.networks)):
                    assert held.get(key) == body, f"{port.id} has not succeeded at number {number}"

    @invariant()
    def nothing_is_taken_for_a_repair(self) -> None:
        """Nobody has changed a flow behind our back."""
        assert all(report.repaired_flows == 0 for report in self.world.core.progress.reports.values())


TestPorts = Ports.TestCase


# --------------------------------------------------------------------------------------------- by example


@pytest.fixture
def world() -> World:
    """Droplet 1 at interface tap1 and 2 at tap2 of the first hypervisor."""
    made = World()
    made.connect()
    for number in (1, 2):
        made.put(f"p{number}", number, A, interface=f"tap{number}")
        made.hosts[A].plug(number + 1, f"tap{number}")
    made.check()
    return made


def status(world: World, name: str) -> tuple[Status, int | None]:
    found = world.core.progress.port_status(world.core.policy, name)
    return found[0], found[2]


def connect_out(world: World, name: str) -> int:
    """A connection that a droplet opens; how many its zone holds then."""
    port = world.core.policy.ports[name]
    place = world.place(port)
    assert place is not None
    world.fabric.send(place, world.probe(port, None, 42)[1])
    return world.hosts[port.hypervisor].switch.bridge.connections(port.slot)


def test_a_port_that_comes_during_an_audit_is_neither_a_repair_nor_done_before_it_is(world):
    host = world.hosts[A]
    host.unplug(2)
    world.settle()
    host.resync()
    host.plug(4, "tap1")
    host.to_controller.rotate(1)  # before the answer with the flows
    host.pass_on(1)
    assert status(world, "p1") == (Status.WAITING, 4)
    world.check()
    assert status(world, "p1") == (Status.SUCCEEDED, 4)
    assert world.core.progress.report(A).repaired_flows == 0


def test_a_port_that_goes_during_a_bundle_is_gone_after_it(world):
    host = world.hosts[A]
    world.put("p3", 3, A, interface="tap3")
    host.plug(4, "tap3")
    host.pass_on(1)  # the bundle that opens it is on its way
    host.unplug(4)
    host.to_controller.rotate(1)
    host.pass_on(1)
    assert status(world, "p3") == (Status.ABSENT, None)
    world.check()
    assert status(world, "p3")[0] is Status.ABSENT


def test_a_list_of_ports_in_parts_takes_up_what_happens_between_them(world):
    host = world.hosts[A]
    host.connect()
    version, ports = host.to_controller
    assert ports[1] == 19
    xid = int.from_bytes(ports[4:8], "big")
    first = message(19, xid, b"\0\x0d\0\1\0\0\0\0" + port_bytes(2, "tap1") + port_bytes(3, "tap2"))
    rest = message(19, xid, b"\0\x0d\0\0\0\0\0\0" + port_bytes(UPLINK, "up0") + port_bytes(LOCAL, "br0"))
    host.to_controller.clear()
    host.to_controller += [version, first]
    host.unplug(3)
    host.plug(4, "tap2")
    host.to_controller.append(rest)
    world.check()
    assert status(world, "p2") == (Status.SUCCEEDED, 4)


def test_an_answer_about_ports_that_nobody_asked_for_ends_the_connection_and_changes_nothing(world):
    host = world.hosts[A]
    before = dict(host.switch.flows)
    session, now = host.session, host.now
    assert session.receive(message(19, 7, b"\0\x0d\0\0\0\0\0\0" + port_bytes(9, "tap1")), now) == []
    assert session.dead == "PortDescReply answers nothing that it was asked"
    assert 9 not in session.report.interfaces
    host.disconnect()
    host.connect()
    world.check()
    assert host.switch.flows == before


def test_of_two_ports_with_one_name_neither_is_the_droplets(world):
    """OpenFlow cuts names after 15 characters: `vhost-client-1-a` and `-b` look the same."""
    host = world.hosts[A]
    for _ in range(2):  # by a port status, and as the list of ports tells it
        host.switch.ports.pop(9, None)
        host.plug(9, "tap1")
        world.check()
        assert status(world, "p1")[0] is Status.FAILED
        assert "several switch ports are named tap1" in str(world.core.progress.port_status(world.core.policy, "p1"))
        host.connect()
    world.check()
    host.unplug(9)
    world.check()
    assert status(world, "p1") == (Status.SUCCEEDED, 2)


def test_two_ports_that_swap_their_numbers_get_each_others_frames_no_longer(world):
    host = world.hosts[A]
    for away in (False, True):
        if away:
            host.disconnect()
        names = host.switch.ports[2], host.switch.ports[3]
        for number in (2, 3):
            host.unplug(number)
        host.plug(2, names[1])
        host.plug(3, names[0])
        if away:
            host.connect()
        world.check()
        assert {status(world, "p1"), status(world, "p2")} == {(Status.SUCCEEDED, 2), (Status.SUCCEEDED, 3)}


def test_a_port_registered_by_number_is_whatever_takes_the_number(world):
    host = world.hosts[A]
    world.put("p3", 3, A, number=9)
    world.check()
    assert status(world, "p3") == (Status.ABSENT, 9)
    for name in ("tap7", "tap8"):
        host.plug(9, name)
        world.check()
        assert world.core.progress.port_status(world.core.policy, "p3")[3] == name
        host.unplug(9)
        world.check()
    host.plug(9, "tap1")  # the interface of another droplet, under two numbers for a moment
    host.unplug(2)
    world.check()
    assert status(world, "p3")[0] is Status.FAILED, "the older registration holds"


def test_a_droplet_that_moves_and_comes_back_takes_no_connection_along(world):
    """A live migration: its interface is on both hypervisors, then it is registered on the other."""
    first = world.core.policy.ports["p1"].slot
    assert connect_out(world, "p1")
    world.hosts[B].plug(5, "tap1")
    world.check()
    assert world.place(world.core.policy.ports["p1"]).dpid == A
    for dpid in (B, A):
        world.put("p1", 1, dpid, interface="tap1")
        world.check()  # zones of new slots are empty, and packets go to the one place
        assert world.place(world.core.policy.ports["p1"]).dpid == dpid
        assert connect_out(world, "p1")
    assert world.hosts[A].switch.bridge.connections(first) == 0
    assert world.core.policy.ports["p1"].slot != first, "slots rest"


def test_a_port_that_is_plugged_while_a_change_is_under_way_is_no_repair_of_the_audit_after(world):
    host = world.hosts[A]
    host.unplug(2)
    host.plug(4, "tap1")
    world.core.switch(A).resync()
    world.settle()
    assert world.core.progress.report(A).repaired_flows == 0
    world.check()


def test_a_port_that_moved_while_a_change_was_committed_has_not_succeeded_until_it_is_looked_at(world):
    """Also when the next thing is an audit, and not the comparison."""
    host = world.hosts[A]
    for number in (2, 3):
        host.unplug(number)
    host.plug(2, "tap2")
    host.plug(3, "tap1")
    host.pass_on(2)
    host.pass_on(4)
    host.resync()
    host.pass_on(1)
    assert world.core.progress.port_status(world.core.policy, "p1")[0] is Status.WAITING
    world.settle()
    assert world.core.progress.port_status(world.core.policy, "p1")[0] is Status.SUCCEEDED
    world.check()


def test_T109_a_slot_that_changed_hands_while_the_switch_was_away_is_emptied(world, monkeypatch):
    """As after a restored backup: what was registered since is forgotten, and its slot is given to somebody else."""
    host, slot = world.hosts[A], world.core.policy.ports["p2"].slot
    assert connect_out(world, "p2")
    host.disconnect()
    hypervisors.delete_port(world.core, "p2")
    host.unplug(3)
    monkeypatch.setattr(policy_module, "LAST_SLOT", slot)  # the round begins anew
    world.put("p3", 3, A, interface="tap3")
    assert world.core.policy.ports["p3"].slot == slot
    host.plug(3, "tap3")
    host.connect()
    commits = host.switch.commits
    while host.switch.commits == commits:
        assert host.to_controller, "a bundle was to be committed"
        host.pass_on(1)
    assert host.switch.flushed[-1] == slot, "before the new owner's flows are there"
    world.settle()
    assert host.switch.flushed[-2:] == [slot, slot], "and after: the former owner was still there meanwhile"
    assert host.switch.bridge.connections(slot) == 0
    world.check()


def test_a_flow_deleted_by_hand_costs_no_connection(world):
    host, slot = world.hosts[A], world.core.policy.ports["p1"].slot
    assert connect_out(world, "p1")
    flushed = list(host.switch.flushed)
    for key in [key for key in host.switch.flows if key.table == 10]:
        del host.switch.flows[key]
    host.resync()
    world.settle()
    assert world.core.progress.report(A).repaired_flows > 0
    assert host.switch.flushed == flushed
    assert host.switch.bridge.connections(slot)


def test_what_was_admitted_before_all_flows_were_deleted_is_judged_again(world):
    """By hand, while a rule was taken away: what it had admitted must not live on by its mark."""
    host = world.hosts[A]
    before = host.session._desired.unit(GENERATION)
    host.switch.flows.clear()
    host.resync()
    world.settle()
    assert host.session._desired.unit(GENERATION) != before


def test_the_switchs_own_port_is_nobodys(world):
    host = world.hosts[A]
    for reason in (wire.PORT_MODIFY, wire.PORT_DELETE, wire.PORT_ADD):
        host.to_controller.append(port_status(reason, LOCAL, "br0"))
        world.settle()
    world.check()
