"""Connection state with real packets: who may go on after a change, and what no state may let through.

Most conversations are made by hand (rawframes.py), so that each packet is known to have arrived or not.
"""

from __future__ import annotations

import re
import time
from functools import partial

import pytest
from frames import arp, ethernet
from rawframes import ACK, FIN, RST, SYN, End, Tcp, Udp, datagram, end, ends, framed, icmp_error, passes, segment

from lab.cloud import Cloud, inbound, outbound, seconds_until
from lab.controller import Controller
from lab.network import Lab
from lab.system import run, wait_until

pytestmark = pytest.mark.lab
MACHINES = {"web": 101, "app": 102}  # both on hv1; hv2 is empty
ANY_OUT = (outbound("tcp", "0"), outbound("udp", "0"))
OPENING = {Tcp: 80, Udp: 53}
UNREACHABLE, EXCEEDED, TOO_BIG = ({4: (3, 1), 6: (1, 3)}, {4: (11, 0), 6: (3, 0)}, {4: (3, 4), 6: (2, 0)})


@pytest.fixture(scope="module")
def cloud():
    with Lab("s" + hex(int(time.time() * 1000) & 0xFFFFFF)[2:]) as lab:
        for _ in range(2):
            lab.add_hypervisor()
        for name in MACHINES:
            lab.add_machine(name, "hv1")
        lab.add_outside()
        controller = lab.keep(Controller(lab.directory / "controller", host=lab.address))
        controller.start()
        lab.connect(controller.openflow_port)
        built = Cloud(lab, controller)
        built.register_hypervisors()
        for name in MACHINES:
            register(built, name)
        built.wait_in_sync()
        yield built


@pytest.fixture
def clean(cloud):
    """The cloud without firewalls, and switches that remember no connection; so it is left too."""
    yield cloud
    for firewall in cloud.call("GET", "/v2/firewalls?per_page=200")["firewalls"]:
        cloud.call("DELETE", f"/v2/firewalls/{firewall['id']}")
    for host in cloud.lab.hypervisors.values():
        host.ovs.appctl("dpctl/flush-conntrack")
    settle(cloud)


def settle(cloud):
    """As `Cloud.settle`, for the switch alone that has droplets."""
    switch_of(cloud, "web").settle()


def register(cloud, name):
    """Makes a machine a droplet whose port has the addresses of its `end` too."""
    machine, tap, droplet_id = cloud.lab.machines[name], cloud.lab.taps[name], MACHINES[name]
    body = {"droplet_id": droplet_id, "hypervisor": tap.hypervisor.dpid, "interface": tap.name, "mac": machine.mac,
            "addresses": [*machine.hosts, *ends(machine)]}  # fmt: skip
    cloud.call("PUT", f"/v1/droplets/{droplet_id}", {"name": name, "tags": []})
    cloud.call("PUT", f"/v1/ports/{name}", body)


def migrate(cloud, name, host):
    """Moves a machine and its port to another hypervisor, and tells the network."""
    cloud.lab.move(name, host)
    register(cloud, name)
    cloud.lab.plug(name)
    wait_until("the port is programmed", lambda: cloud.call("GET", f"/v1/ports/{name}")["status"] == "succeeded")
    switch_of(cloud, name).settle()
    announce(cloud.lab.machines[name])


def announce(machine):
    """As after a migration of a virtual machine: until then the network sends to where it was."""
    own = machine.address(4)
    gratuitous = arp(1, machine.mac, own, "00:00:00:00:00:00", own)
    machine.call("send_frames", frames=[ethernet("ff:ff:ff:ff:ff:ff", machine.mac, 0x0806, gratuitous)])


class Wall:
    """One firewall, changed in place; every change is settled when it returns."""

    def __init__(self, cloud, name="fw", *, on="web", inbound_rules=(), outbound_rules=()):
        self.cloud, self.name, self.on = cloud, name, on
        body = self._body(inbound_rules, outbound_rules)
        self.id = cloud.call("POST", "/v2/firewalls", body, expect=202)["firewall"]["id"]
        settle(cloud)

    def _body(self, inbound_rules, outbound_rules):
        return {"name": self.name, "droplet_ids": [MACHINES[self.on]],
                "inbound_rules": list(inbound_rules), "outbound_rules": list(outbound_rules)}  # fmt: skip

    def put(self, inbound_rules=(), outbound_rules=()):
        self.cloud.call("PUT", f"/v2/firewalls/{self.id}", self._body(inbound_rules, outbound_rules))
        settle(self.cloud)

    def change(self, method, rule, prefer=None):
        """POST or DELETE one rule; what was answered."""
        side = "inbound_rules" if "sources" in rule else "outbound_rules"
        headers = {"Prefer": prefer or "wait=30"}
        path = f"/v2/firewalls/{self.id}/rules"
        answer = self.cloud.controller.call(method, path, {side: [rule]}, headers)
        assert answer.status == 204, answer
        wait_until("the switches have it", lambda: self.status == "succeeded", 30)
        settle(self.cloud)
        return answer

    @property
    def status(self):
        return self.cloud.call("GET", f"/v2/firewalls/{self.id}")["firewall"]["status"]

    def delete(self):
        self.cloud.call("DELETE", f"/v2/firewalls/{self.id}")
        settle(self.cloud)


def to_web(cloud, kind=Tcp, version=4, client_port=4000, port=None, source="outside"):
    """A conversation that somebody opens to `web`."""
    machines = cloud.lab.machines
    return kind(end(machines[source], version), end(machines["web"], version), client_port, port or OPENING[kind])


def from_web(cloud, kind=Tcp, version=4, client_port=5000, port=443, target="outside"):
    machines = cloud.lab.machines
    return kind(end(machines["web"], version), end(machines[target], version), client_port, port)


def switch_of(cloud, name):
    return cloud.lab.taps[name].hypervisor


def slot_of(cloud, name):
    """The slot of a machine's port, which is its zone, from the flow that delivers into it."""
    mac = cloud.lab.machines[name].mac
    found = {
        match[1] for line in switch_of(cloud, name).flows()
        if (match := re.search(rf"dl_dst={mac}.*load:0x([0-9a-f]+)->NXM_NX_REG5\[\]", line)) and match[1] != "0"
    }  # fmt: skip
    assert len(found) == 1, found
    return int(found.pop(), 16)


def entries(host, zone, *words):
    """The connections that a switch has in a zone, with these words in their lines."""
    lines = host.ovs.appctl("dpctl/dump-conntrack", f"zone={zone}").splitlines()
    return [line for line in lines if line and all(word in line for word in words)]


def is_empty(host, zone):
    return not entries(host, zone)


def dropped(host, *words):
    """The packets that flows with these words have dropped."""
    host.settle()
    lines = host.ovs.ofctl("dump-flows", host.bridge).splitlines()
    found = [line for line in lines if "actions=drop" in line and all(word in line for word in words)]
    assert found, words
    return sum(int(re.search(r"n_packets=(\d+)", line)[1]) for line in found)


def forget(cloud, name):
    """What the expiry of all of a port's connections does."""
    switch_of(cloud, name).ovs.appctl("dpctl/flush-conntrack", f"zone={slot_of(cloud, name)}")


# ---- revocation


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", [Tcp, Udp])
@pytest.mark.parametrize("target", ["outside", "app"])
def test_T092_what_a_droplet_opened_ends_both_ways_with_its_outbound_rule(clean, kind, version, target):
    rule, other = outbound(kind.protocol, "443"), outbound(kind.protocol, "444")
    wall = Wall(clean, outbound_rules=[rule, other])
    cut = from_web(clean, kind, version, port=443, target=target)
    kept = from_web(clean, kind, version, port=444, target=target)
    assert cut.open()
    assert kept.open()
    wall.change("DELETE", rule)
    assert (cut.heard(), kept.heard()) == ("none", "both")
    wall.change("POST", rule)
    assert cut.heard() == "both"


def test_T094_a_rule_replaced_by_another_that_still_allows_loses_nothing(clean):
    rules = [inbound("udp", "7003"), inbound("udp", "7000-7010"), inbound("udp", "0", addresses=["10.1.0.0/16"])]
    wall = Wall(clean, inbound_rules=rules[:1])
    web, outside = clean.lab.machines["web"], clean.lab.machines["outside"]
    web.call("udp_count", port=7003)
    stream = outside.submit("udp_stream", stream="t", address=web.address(), port=7003, rate=500, seconds=60)
    for number in range(15):
        wall.put([rules[(number + 1) % 3]])
    outside.call("udp_stop", stream="t")
    sent = stream.result(30)["sent"]
    assert sent > 100
    wait_until("every packet sent", lambda: web.call("udp_counted", port=7003)["packets"] >= sent)
    assert web.call("udp_counted", port=7003, end=True)["packets"] == sent


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", [Tcp, Udp])
def test_T095_a_write_may_keep_what_is_established(clean, kind, version):
    rule, other = inbound(kind.protocol, str(OPENING[kind])), inbound("tcp", "8080")
    wall = Wall(clean, inbound_rules=[rule, other])
    kept = to_web(clean, kind, version)
    assert kept.open()
    answer = wall.change("DELETE", rule, prefer="wait=30, keep-established")
    applied = {word.strip() for word in answer.headers.get("preference-applied", "").split(",")}
    assert applied == {"wait=30", "keep-established"}
    assert kept.heard() == "both"
    assert not to_web(clean, kind, version, client_port=4001).open()
    assert kept.heard() == "both"
    wall.change("DELETE", other)  # which judges everything again
    assert kept.heard() == "none"


@pytest.mark.parametrize("version", [4, 6])
def test_T095_T105_what_is_kept_still_hears_of_its_errors(clean, version):
    wall = Wall(clean, inbound_rules=[inbound("tcp", "80"), inbound("tcp", "81")])
    talk = to_web(clean, Tcp, version)
    assert talk.open()

    def error():
        answer = icmp_error(talk.client, talk.server, TOO_BIG[version], talk.last(talk.server), 1300)
        return passes(talk.client, talk.server, answer)

    assert error()
    wall.change("DELETE", inbound("tcp", "80"), prefer="wait=30, keep-established")
    assert talk.heard() == "both"
    assert error()
    wall.change("DELETE", inbound("tcp", "81"))
    assert not error(), "cut with the next change"


def test_T095_keeping_needs_no_waiting_and_holds_for_outbound_rules(clean):
    wall = Wall(clean, outbound_rules=ANY_OUT)
    own = from_web(clean)
    assert own.open()
    answer = wall.change("DELETE", ANY_OUT[0], prefer="keep-established")
    assert answer.headers.get("preference-applied") == "keep-established"
    assert own.heard() == "both"
    assert not from_web(clean, client_port=5001).open()


@pytest.mark.parametrize("version", [4, 6])
def test_T096_a_revoked_session_does_not_come_back_as_the_droplets_own(clean, version):
    rule = inbound("tcp", "80")
    wall = Wall(clean, inbound_rules=[rule], outbound_rules=ANY_OUT)
    talk = to_web(clean, Tcp, version)
    assert talk.open()
    wall.change("DELETE", rule)
    assert talk.heard() == "none"
    forget(clean, "web")
    for first in (talk.server, talk.client, talk.server):
        assert talk.heard(first) == "none"
    assert not entries(switch_of(clean, "web"), slot_of(clean, "web"))
    assert from_web(clean, Tcp, version).open()


# ---- lost state


@pytest.fixture(params=["flushed", "restarted"])
def lose(request, clean):
    """Makes the switch of `web` forget all connections."""
    host = switch_of(clean, "web")

    def flushed():
        host.ovs.appctl("dpctl/flush-conntrack")

    def restarted():
        before = len(host.flows())
        host.ovs.restart_switch()
        wait_until("the flows are back", lambda: len(host.flows()) >= before, 30, 0.05)
        clean.wait_in_sync()

    return {"flushed": flushed, "restarted": restarted}[request.param]


@pytest.mark.parametrize("version", [4, 6])
def test_T097_after_state_is_lost_inbound_tcp_goes_on_the_right_way_round_and_own_tcp_does_not(clean, lose, version):
    rule = inbound("tcp", "80")
    wall = Wall(clean, inbound_rules=[rule], outbound_rules=ANY_OUT)
    theirs, own = to_web(clean, Tcp, version), from_web(clean, Tcp, version)
    assert theirs.open()
    assert own.open()
    lose()
    assert own.heard(own.client) == "none"
    assert theirs.heard(theirs.client) == "both"
    wall.change("DELETE", rule)  # which outbound rules must not make up for
    assert theirs.heard() == "none"
    assert own.heard() == "none"


def test_T097_for_a_grace_a_droplet_may_pick_up_its_own_tcp_after_its_switch_was_restarted(clean):
    host, lab, controller = switch_of(clean, "web"), clean.lab, clean.controller
    wall = Wall(clean, outbound_rules=[outbound("tcp", "443")])
    own = from_web(clean, Tcp)
    denied = from_web(clean, Tcp, port=444)

    def no_more():
        forget(clean, "web")
        return own.heard(own.client) == "none"

    assert own.open()
    before = dict(controller.settings)
    try:
        controller.settings["pickup_grace"] = 8
        controller.restart()
        clean.wait_in_sync()
        assert no_more()  # the switch kept its state, so there is no grace
        flows = len(host.flows())
        host.ovs.restart_switch()
        wait_until("the flows are back", lambda: len(host.flows()) >= flows, 30, 0.05)
        assert own.heard(own.client) == "both"
        assert denied.heard(denied.client) == "none"
        assert seconds_until(no_more, 60) is not None
        migrate(clean, "web", "hv2")
        assert own.heard(own.client) == "both"
        assert denied.heard(denied.client) == "none"
        wall.put()
        assert own.heard() == "none"
    finally:
        controller.settings = before
        controller.restart()
        if lab.taps["web"].hypervisor is not host:
            migrate(clean, "web", "hv1")
        clean.wait_in_sync()


# ---- what is no connection


@pytest.mark.parametrize("version", [4, 6])
def test_T098_segments_that_belong_to_no_connection_are_dropped_and_counted(clean, version):
    Wall(clean, inbound_rules=[inbound("tcp", "0"), inbound("udp", "0")], outbound_rules=ANY_OUT)
    web, outside = (end(clean.lab.machines[name], version) for name in ("web", "outside"))
    host, ports = switch_of(clean, "web"), iter(range(2000, 3000))

    def lost(source, target, flags, **more):
        return not passes(source, target, segment(source, target, (next(ports), 80), flags, **more))

    before = dropped(host, "table=20", "+inv")
    both = {"syn+ack": SYN | ACK, "syn+fin": SYN | FIN, "syn+rst": SYN | RST, "nothing": 0, "fin": FIN}
    for name, flags in both.items():
        assert lost(outside, web, flags), name
        assert lost(web, outside, flags), name
    assert lost(outside, web, SYN, spoil=1)
    assert lost(web, outside, SYN, spoil=1)
    assert dropped(host, "table=20", "+inv") >= before + 2 * len(both) + 2
    before = dropped(host, "table=20", "tcp_flags=-syn")
    for flags in (ACK, ACK | FIN, RST):
        assert lost(web, outside, flags)
    assert dropped(host, "table=20", "tcp_flags=-syn") >= before + 3
    assert not lost(outside, web, SYN)  # so that the above were lost for what they are
    assert not lost(web, outside, SYN)


@pytest.mark.parametrize("version", [4, 6])
def test_T099_a_segment_out_of_the_window_is_dropped_while_that_is_checked(clean, version):
    Wall(clean, inbound_rules=[inbound("tcp", "80")])
    talk, control = to_web(clean, Tcp, version), switch_of(clean, "web").ovs.appctl
    assert talk.open()
    assert not talk.send(talk.client, ACK, b"too far", ahead=10_000_000)
    assert not talk.send(talk.server, ACK, b"too far", ahead=10_000_000)
    assert talk.heard() == "both"
    control("dpctl/ct-disable-tcp-seq-chk")
    try:
        assert talk.send(talk.client, ACK, b"too far", ahead=10_000_000)
    finally:
        control("dpctl/ct-enable-tcp-seq-chk")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("ending", ["fin", "reset"])
def test_T100_T101_a_connection_that_ended_is_not_established_and_its_ports_may_be_used_again(clean, version, ending):
    wall = Wall(clean, inbound_rules=[inbound("tcp", "80")], outbound_rules=ANY_OUT)
    host, zone = switch_of(clean, "web"), slot_of(clean, "web")
    for talk in (to_web(clean, Tcp, version), from_web(clean, Tcp, version)):
        port = f"sport={talk.ports[0]},dport={talk.ports[1]}"
        assert talk.open()
        assert entries(host, zone, port, "state=ESTABLISHED")
        if ending == "fin":
            assert talk.send(talk.client, FIN | ACK)
            assert talk.send(talk.server, FIN | ACK)
            assert talk.send(talk.client, ACK)
        else:
            assert talk.send(talk.server, RST | ACK)
        assert not entries(host, zone, port, "state=ESTABLISHED")
        talk.again()
        assert talk.open()
        assert len(entries(host, zone, port, "state=ESTABLISHED")) == 1
    ended = to_web(clean, Tcp, version)
    ended.again()
    ended.again()
    wall.put()
    assert not ended.open()  # the new one is judged as new


@pytest.mark.parametrize("version", [4, 6])
def test_T102_an_answer_after_its_udp_connection_expired_is_not_accepted(clean, version):
    Wall(clean, outbound_rules=ANY_OUT)
    host, zone, talk = switch_of(clean, "web"), slot_of(clean, "web"), from_web(clean, Udp, version)
    timeouts = ("udp_first=2", "udp_single=2", "udp_multiple=2")
    control, datapath = host.ovs.vsctl, host.ovs.datapath
    if datapath not in control("get", "Open_vSwitch", ".", "datapaths"):
        made = ("--id=@d", "create", "Datapath", "datapath_version=0", "--", "set", "Open_vSwitch", ".")
        control(*made, f"datapaths:{datapath}=@d")
    control("add-zone-tp", datapath, f"zone={zone}", *timeouts)
    try:
        wait_until("an answer within two seconds", talk.open, 30)
        wait_until("the connection has expired", lambda: is_empty(host, zone), 30, 0.2)
    finally:
        control("del-zone-tp", datapath, f"zone={zone}")
    assert talk.heard() == "client"  # the answer first, which nobody had asked for; then the question
    assert talk.says(talk.server)


# ---- ICMP errors


@pytest.mark.parametrize("version", [4, 6])
def test_T104_T106_icmp_errors_follow_the_connection_that_they_are_about(clean, version):
    asked, served = outbound("udp", "0"), inbound("udp", "53")
    wall = Wall(clean, inbound_rules=[served], outbound_rules=[asked])
    own, theirs, never = from_web(clean, Udp, version), to_web(clean, Udp, version), from_web(clean, Udp, version, 5999)
    web, outside = own.client, own.server
    router = end(clean.lab.machines["outside"], version, host=1)

    def errors(talk):
        """What becomes of errors about a conversation: about either end's packets, from a router and from `web`."""
        return {
            (source is router, who == talk.client): passes(source, target, icmp_error(source, target, kind[version],
                                                                                     talk.last(who)))
            for source, target, kind in ((router, web, EXCEEDED), (web, outside, UNREACHABLE))
            for who in (talk.client, talk.server)
            # an error goes to whoever sent what it is about
            if (who.address == target.address)
        }  # fmt: skip

    assert own.open()
    assert theirs.open()
    # a router's about what `web` sent, and that of `web` about what it got: each in both directions of a connection
    assert errors(own) == {(True, True): True, (False, False): True}
    assert errors(theirs) == {(True, False): True, (False, True): True}
    assert errors(never) == {(True, True): False, (False, False): False}
    wall.change("DELETE", asked)
    assert not any(errors(own).values())
    assert all(errors(theirs).values())
    wall.change("DELETE", served)
    assert not any(errors(theirs).values())
    wall.change("POST", asked)
    assert all(errors(own).values())


@pytest.mark.parametrize("version", [4, 6])
def test_T105_the_senders_kernel_hears_that_a_packet_was_too_big(clean, version):
    Wall(clean, outbound_rules=[outbound("udp", "0")])
    web, outside = clean.lab.machines["web"], clean.lab.machines["outside"]
    here, there = (End(machine, version, machine.address(version)) for machine in (web, outside))
    router = end(outside, version, host=1)
    port = 7100 + version

    def mtu():
        found = re.search(r"mtu (\d+)", run("ip", "-n", web.netns, "route", "get", there.address))
        return int(found[1]) if found else None

    web.call("udp_count", port=port, version=version, knock=[there.address, port])
    try:
        about = datagram(here, there, (port, port), b"k" * 1400)
        assert passes(router, here, icmp_error(router, here, TOO_BIG[version], about, 1300))
        assert wait_until("the path's MTU is known", mtu) == 1300
    finally:
        web.call("udp_counted", port=port, end=True)
        for option in ("-4", "-6"):
            run("ip", option, "-n", web.netns, "route", "flush", "cache")


# ---- zones


@pytest.mark.parametrize("version", [4, 6])
def test_T107_what_one_zone_knows_counts_for_nothing_in_another(clean, version):
    Wall(clean, outbound_rules=ANY_OUT)
    wall = Wall(clean, "receiver", on="app")
    host, talk = switch_of(clean, "web"), from_web(clean, Udp, version, target="app")

    def known():
        return [
            len(entries(host, slot_of(clean, name), f"dst={talk.server.address},sport=5000")) for name in ("web", "app")
        ]

    assert talk.heard(talk.client) == "none"
    assert known() == [1, 0]
    wall.change("POST", inbound("udp", "443"))
    assert talk.heard(talk.client) == "both"
    assert known() == [1, 1]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", [Tcp, Udp])
def test_T108_a_connection_between_two_droplets_of_one_host_needs_both_of_its_zones(clean, kind, version):
    mine, theirs = outbound(kind.protocol, "443"), inbound(kind.protocol, "443")
    sender = Wall(clean, outbound_rules=[mine])
    receiver = Wall(clean, "receiver", on="app", inbound_rules=[theirs])
    talk = from_web(clean, kind, version, target="app")
    assert talk.open()
    for wall, rule in ((receiver, theirs), (sender, mine)):
        wall.change("DELETE", rule)
        assert talk.heard() == "none"
        wall.change("POST", rule)
        assert talk.heard(talk.client) == "both"
    forget(clean, "app")
    assert entries(switch_of(clean, "web"), slot_of(clean, "web"), f"dst={talk.server.address}")
    receiver.change("DELETE", theirs)
    assert talk.heard() == "none"


def test_T109_the_zone_of_a_port_that_went_is_empty_and_its_next_owner_inherits_nothing(clean):
    host = switch_of(clean, "web")
    Wall(clean, inbound_rules=[inbound("udp", "53")], outbound_rules=ANY_OUT)
    talk, inherited = to_web(clean, Udp), from_web(clean, Udp, port=9)
    for _ in range(2):  # slots are given in turn: from the second on, the next is known
        assert talk.open()
        zone = slot_of(clean, "web")
        assert entries(host, zone)
        clean.call("DELETE", "/v1/ports/web")
        wait_until("the zone is empty", partial(is_empty, host, zone), 10)
        # A connection in the next zone, marked as one that was judged: whoever finds it there lets its answers pass.
        mark = next(found[1] for line in host.flows() if (found := re.search(r"\+est\S*ct_mark=(0x\w+)", line)))
        remember = f"ct(commit,zone={zone + 1},exec(load:{mark}->NXM_NX_CT_MARK[]))"
        request = framed(inherited.client, inherited.server, inherited.last(inherited.client))
        host.ovs.ofctl("packet-out", host.bridge, f"in_port=local packet={request} actions={remember}")
        assert entries(host, zone + 1, f"mark={int(mark, 16)}")
        register(clean, "web")
        settle(clean)
    assert slot_of(clean, "web") == zone + 1
    assert is_empty(host, zone + 1)
    assert not inherited.says(inherited.server)


@pytest.mark.parametrize("limit", ["zone", "table"])
def test_T110_T111_when_no_more_connections_fit_new_ones_fail_and_known_ones_go_on(clean, limit):
    Wall(clean, inbound_rules=[inbound("tcp", "80"), inbound("udp", "53")], outbound_rules=ANY_OUT)
    host = switch_of(clean, "web")
    control, zone = host.ovs.appctl, slot_of(clean, "web")
    known = [to_web(clean, Tcp), to_web(clean, Udp, 6), from_web(clean, Udp)]
    fresh = [to_web(clean, Tcp, 6, 4100), to_web(clean, Udp, 4, 4100), from_web(clean, Tcp, 4, 5100)]
    most = control("dpctl/ct-get-maxconns").strip()
    refused = dropped(host, "table=40", "ct_mark=0")
    if limit == "zone":  # OvS counts what is opened from then on
        control("dpctl/ct-set-limits", f"zone={zone},limit={len(known)}")
    assert all(talk.open() for talk in known)
    if limit == "table":
        control("dpctl/ct-set-maxconns", control("dpctl/ct-get-nconns").strip())
    try:
        for talk in fresh:
            assert not talk.says(talk.client) if talk.protocol == "udp" else not talk.send(talk.client, SYN, ack=False)
        assert dropped(host, "table=40", "ct_mark=0") >= refused + len(fresh)
        assert [talk.heard() for talk in known] == ["both"] * 3
        open_droplet = Udp(known[0].client, end(clean.lab.machines["app"]), 4100, 53)
        assert open_droplet.open()
    finally:
        control("dpctl/ct-del-limits", f"zone={zone}")
        control("dpctl/ct-set-maxconns", most)
    assert all(talk.open() for talk in fresh)


@pytest.mark.parametrize("version", [4, 6])
def test_T112_a_connection_says_which_rule_admitted_it(clean, version):
    host, zone = switch_of(clean, "web"), slot_of(clean, "web")

    def rules():
        """The ids of the rules whose flows the switch has."""
        found = (re.match(r"cookie=0xd0f103..([0-9a-f]{8})", line) for line in host.flows())
        return {int(match[1], 16) for match in found if match}

    def label():
        (line,) = entries(host, zone, f"dport={talk.ports[1]}", f"src={talk.client.address}")
        return int(re.search(r"labels=(0x[0-9a-f]+)", line)[1], 16)

    wall, talk = Wall(clean, inbound_rules=[inbound("tcp", "80")]), to_web(clean, Tcp, version)
    assert talk.open()
    (first,) = rules()
    assert label() == first
    wall.put([inbound("tcp", "80-90")])
    assert talk.heard() == "both"
    (second,) = rules()
    assert second != first
    assert label() == second


def test_T113_what_is_announced_in_a_control_connection_needs_a_rule_of_its_own(clean):
    wall = Wall(clean, inbound_rules=[inbound("tcp", "21")])
    control, passive = to_web(clean, port=21), to_web(clean, port=50000, client_port=4001)
    active = from_web(clean, port=50001, client_port=20)
    assert control.open()
    high, low = divmod(50000, 256)
    address = passive.server.address.replace(".", ",")
    assert control.send(control.server, ACK, f"227 Entering Passive Mode ({address},{high},{low})\r\n".encode())
    assert not passive.open()
    address = active.server.address.replace(".", ",")
    assert control.send(control.client, ACK, f"PORT {address},{high},{low + 1}\r\n".encode())
    assert not active.open()
    wall.put([inbound("tcp", "21"), inbound("tcp", "50000")], [outbound("tcp", "50001")])
    assert passive.open()
    assert active.open()
    assert control.heard() == "both"


# ---- open, then behind a firewall


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", [Tcp, Udp])
def test_T115_protected_again_by_stricter_rules_every_connection_is_judged_anew(clean, kind, version):
    lax = [inbound(kind.protocol, "80-82")]
    wall = Wall(clean, inbound_rules=lax, outbound_rules=ANY_OUT)
    judged = {port: to_web(clean, kind, version, port=port) for port in (80, 81)}
    judged |= {port: from_web(clean, kind, version, port=port) for port in (443, 444)}
    assert all(talk.open() for talk in judged.values())
    wall.delete()
    assert all(talk.heard() == "both" for talk in judged.values())
    judged[82] = to_web(clean, kind, version, port=82)  # while all was open
    assert judged[82].open()
    Wall(clean, inbound_rules=[inbound(kind.protocol, "81-82")], outbound_rules=[outbound(kind.protocol, "444")])
    assert {port: talk.heard() for port, talk in judged.items()} == {
        80: "none", 81: "both", 82: "both", 443: "none", 444: "both",
    }  # fmt: skip


@pytest.mark.parametrize(("peer", "version"), [("outside", 4), ("outside", 6), ("app", 4)])
@pytest.mark.parametrize("kind", [Tcp, Udp])
def test_unprotected_to_protected_what_the_rules_allow_goes_on_and_nothing_else(clean, kind, version, peer):
    for number, (inbound_rules, outbound_rules, heard) in enumerate(
        (
            ((), (outbound(kind.protocol, "443"),), ("both", "none")),
            ((), ANY_OUT, ("both", "none")),  # what outbound rules allow is no reason to answer what others opened
            ((inbound(kind.protocol, "0"),), (), ("none", "both")),
            ((inbound("icmp", "0"),), (), ("none", "none")),
        )
    ):
        own = from_web(clean, kind, version, 5000 + number, target=peer)
        theirs = to_web(clean, kind, version, 4000 + number, source=peer)
        assert own.open()
        assert theirs.open()
        wall = Wall(clean, inbound_rules=inbound_rules, outbound_rules=outbound_rules)
        assert (own.heard(), theirs.heard()) == heard, (inbound_rules, outbound_rules)
        wall.delete()
