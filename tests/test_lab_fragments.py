"""Fragments with real packets: as many as were sent arrive when their rule allows, none in any other case.

Open vSwitch's userspace reassembler keeps fragments until their packet is whole, at most 15 seconds, and lets go the
fragments themselves, not the packet.  It refuses fragments before the last that are smaller than links make them.
"""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass

import pytest
from frames import icmp6, tcp, udp
from rawframes import (
    FRAGMENT,
    HOP_BY_HOP,
    ICMP6,
    OPTIONS,
    ROUTING,
    TCP,
    UDP,
    datagram,
    delivered,
    echo,
    end,
    ends,
    fragment,
    fragments,
    passes,
)

from lab.cloud import Cloud, inbound, outbound
from lab.controller import Controller
from lab.network import Lab
from lab.system import wait_until

pytestmark = pytest.mark.lab
MACHINES = {"web": 101, "app": 102}
ALLOWED, DENIED = 7000, 7001
WAYS = (("outside", "web"), ("web", "outside"), ("app", "web"))
LONGEST_KEPT = 26  # seconds: a set expires after 15, and is thrown away unseen 10 later
TAG = "81000007"
MARK = b"incomplete"


@dataclass(frozen=True)
class Built:
    """The cloud, with `web` behind rules for one port and ICMP, `app` behind rules that let these out."""

    cloud: Cloud

    @property
    def machines(self):
        return self.cloud.lab.machines

    @property
    def switch(self):
        return self.cloud.lab.hypervisors["hv1"]

    def way(self, names, version):
        """The two ends of a way."""
        return tuple(end(self.machines[name], version) for name in names)

    def arrive(self, frames, names):
        """The frames that get from one machine to another."""
        source, target = (self.machines[name] for name in names)
        return delivered(source, target, frames)

    def known(self, *words):
        """The connections with these words in their lines."""
        lines = self.switch.ovs.appctl("dpctl/dump-conntrack").splitlines()
        return [line for line in lines if all(word in line for word in words)]


@pytest.fixture(scope="module")
def built():
    with Lab("f" + hex(int(time.time() * 1000) & 0xFFFFFF)[2:]) as lab:
        host = lab.add_hypervisor()
        for name in MACHINES:
            lab.add_machine(name, host)
        lab.add_outside()
        controller = lab.keep(Controller(lab.directory / "controller", host=lab.address))
        controller.start()
        lab.connect(controller.openflow_port)
        cloud = Cloud(lab, controller)
        cloud.register_hypervisors()
        for name, droplet_id in MACHINES.items():
            machine = lab.machines[name]
            cloud.call("PUT", f"/v1/droplets/{droplet_id}", {"name": name, "tags": []})
            body = {"droplet_id": droplet_id, "hypervisor": host.dpid, "interface": lab.taps[name].name,
                    "mac": machine.mac, "addresses": [*machine.hosts, *ends(machine)]}  # fmt: skip
            cloud.call("PUT", f"/v1/ports/{name}", body)
        incoming = [inbound("udp", str(ALLOWED)), inbound("icmp", "0")]
        outgoing = [outbound("udp", str(ALLOWED)), outbound("icmp", "0")]
        for name, rules in (("web", incoming), ("app", [])):
            cloud.call("POST", "/v2/firewalls", {"name": name, "droplet_ids": [MACHINES[name]],
                                                 "inbound_rules": rules, "outbound_rules": outgoing})  # fmt: skip
        cloud.wait_in_sync()
        cloud.settle()
        for machine in lab.machines.values():
            machine.call("listen", udp=[ALLOWED, DENIED])
        yield Built(cloud)


@dataclass(frozen=True)
class Watch:
    """What was sent that must never arrive anywhere, by what it is, and when."""

    sent: dict[str, list[str]]
    since: float


@pytest.fixture(scope="module", autouse=True)
def watch(built):
    """Sets that lack a fragment are under way, and watched for, while the other tests run: they have half a minute."""
    for machine in built.machines.values():
        machine.call("capture", capture="watch", contains=MARK.hex())
    sent = {}
    for way in WAYS:
        for version in (4, 6):
            source, target = built.way(way, version)
            for port in (ALLOWED, DENIED):
                payload = udp(source.address, target.address, 6000, port, MARK * 410)
                for lacking in (0, 1, 2):
                    parts = fragments(source, target, UDP, payload)
                    del parts[lacking]
                    sent[f"{'-'.join(way)} IPv{version} {port} without number {lacking}"] = parts
                    built.machines[way[0]].call("send_frames", frames=parts)
    return Watch(sent, time.monotonic())


# ---- whole sets


@pytest.mark.parametrize("version", [4, 6])
def test_T120_the_kernels_fragments_pass_by_the_rule_of_their_port(built, version):
    asked = {}
    for source, target in WAYS:
        address = built.machines[target].address(version)
        for size in (2000, 4000, 9000):  # in 2, 3 and 7 fragments
            for port, timeout in ((ALLOWED, 5), (DENIED, 0.5)):
                asked[source, target, port, size] = built.machines[source].submit(
                    "udp", address=address, port=port, size=size, timeout=timeout
                )
            asked[source, target, "ping", size] = built.machines[source].submit(
                "icmp", address=address, size=size, timeout=5
            )
    outcomes = {case: future.result(30) for case, future in asked.items()}
    assert outcomes == {case: "timeout" if case[2] == DENIED else "open" for case in asked}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_T120_T121_every_fragment_of_an_allowed_packet_arrives_in_whatever_order(built, way, version):
    source, target = built.way(way, version)
    orders = random.Random(version)
    for size, many in ((2000, 2), (4000, 3), (9000, 7)):
        for protocol, payload in (
            (UDP, udp(source.address, target.address, 6000 + size, ALLOWED, bytes(size))),
            echo(source, target, size, size),
        ):
            for order in ("as sent", "reversed", "shuffled"):
                frames = fragments(source, target, protocol, payload)
                assert len(frames) == many
                if order != "as sent":
                    frames.reverse() if order == "reversed" else orders.shuffle(frames)
                assert sorted(built.arrive(frames, way)) == sorted(frames), (protocol, size, order)
    # what was opened in fragments goes on whole, and the other way round
    assert passes(source, target, datagram(source, target, (8000, ALLOWED)))
    assert passes(target, source, datagram(target, source, (ALLOWED, 8000)))
    answer = fragments(target, source, UDP, udp(target.address, source.address, ALLOWED, 8000, bytes(4000)))
    assert sorted(built.arrive(answer, way[::-1])) == sorted(answer)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_T124_a_denied_first_fragment_takes_the_later_ones_with_it(built, way, version):
    source, target = built.way(way, version)
    for size in (2000, 4000):
        for number, step in enumerate((1, -1)):
            port = 6100 + size + number
            payload = udp(source.address, target.address, port, DENIED, bytes(size))
            assert built.arrive(fragments(source, target, UDP, payload)[::step], way) == []
            known = built.known(f"src={source.address}", f"sport={port}")
            assert not known
    stream = tcp(source.address, target.address, 6100, ALLOWED, 2) + bytes(2000)
    assert built.arrive(fragments(source, target, TCP, stream), way) == []


# ---- sets that are wrong


OVERLAPS = {
    "the second begins in the first": ((0, 1400), (1392, 2800), (2800, 4008)),
    "the last begins in the second": ((0, 1400), (1400, 2800), (2792, 4008)),
    "the first comes last and ends in the second": ((1400, 2800), (2800, 4008), (0, 1408)),
    "the last comes first and the second ends in it": ((2800, 4008), (1400, 2808), (0, 1400)),
}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_T121_fragments_that_overlap_are_dropped(built, way, version):
    source, target = built.way(way, version)
    payload = udp(source.address, target.address, 6200, ALLOWED, bytes(4000))
    for ident, (name, places) in enumerate(OVERLAPS.items(), start=30000):
        frames = [
            fragment(source, target, UDP, payload[at:stop], at, stop < len(payload), ident) for at, stop in places
        ]
        assert built.arrive(frames, way) == [], name


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_T121_of_two_first_fragments_the_one_that_is_delivered_is_the_one_that_was_judged(built, way, version):
    source, target = built.way(way, version)
    allowed, denied = (
        fragments(source, target, UDP, udp(source.address, target.address, 6210, port, bytes(4000)), ident=ident)
        for port, ident in ((ALLOWED, 31000), (DENIED, 31000))
    )
    assert allowed[1:] == denied[1:]
    assert built.arrive([denied[0], *allowed], way) == []
    allowed, denied = (
        fragments(source, target, UDP, udp(source.address, target.address, 6220, port, bytes(4000)), ident=31001)
        for port in (ALLOWED, DENIED)
    )
    assert sorted(built.arrive([allowed[0], denied[0], *allowed], way)) == sorted(allowed)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_T124_a_header_cut_in_two_reaches_nobody(built, way, version):
    source, target = built.way(way, version)
    for protocol, payload in (
        (UDP, udp(source.address, target.address, 6300, ALLOWED, bytes(200))),
        (UDP, udp(source.address, target.address, 6300, DENIED, bytes(200))),
        (TCP, tcp(source.address, target.address, 6300, DENIED, 2) + bytes(200)),
    ):
        assert built.arrive(fragments(source, target, protocol, payload, 8), way) == []


@pytest.mark.parametrize("version", [4, 6])
def test_T123_fragments_with_a_vlan_tag_are_not_delivered(built, version):
    for way in WAYS:
        source, target = built.way(way, version)
        payload = udp(source.address, target.address, 6400, ALLOWED, bytes(2000))
        plain = fragments(source, target, UDP, payload)
        tagged = [frame[:24] + TAG + frame[24:] for frame in fragments(source, target, UDP, payload)]
        assert built.arrive(tagged, way) == []
        assert sorted(built.arrive(plain, way)) == sorted(plain)


# ---- IPv6 extension headers


def options(following, size=8):
    """An options header that holds padding only."""
    padding, left = b"", size - 2
    while left:
        step = min(left, 257)
        padding += bytes([1, step - 2]) + bytes(step - 2)
        left -= step
    return bytes([following, size // 8 - 1]) + padding


BEFORE = {
    "hop-by-hop options": bytes([HOP_BY_HOP]) + options(FRAGMENT),
    "destination options": bytes([OPTIONS]) + options(FRAGMENT),
    "both": bytes([HOP_BY_HOP]) + options(OPTIONS) + options(FRAGMENT),
    "routing": bytes([ROUTING, FRAGMENT, 0, 4, 0, 0, 0, 0, 0]),
}


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_T125_extension_headers_before_the_fragment_header_change_no_verdict(built, way, before):
    source, target = built.way(way, 6)
    for port in (ALLOWED, DENIED):
        payload = udp(source.address, target.address, 6500, port, bytes(4000))
        frames = fragments(source, target, UDP, payload, 1384, before=BEFORE[before])
        assert sorted(built.arrive(frames, way)) == (sorted(frames) if port == ALLOWED else [])


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_T125_extension_headers_within_the_fragments_open_nothing(built, way):
    source, target = built.way(way, 6)
    for port in (ALLOWED, DENIED):
        payload = options(UDP) + udp(source.address, target.address, 6600, port, bytes(4000))
        frames = fragments(source, target, OPTIONS, payload)
        # Open vSwitch's userspace reassembler sees a hole where the options are and completes no such set.
        assert sorted(built.arrive(frames, way)) in ([], sorted(frames) if port == ALLOWED else [])


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_T125_options_that_push_the_header_into_the_next_fragment_hide_nothing(built, way):
    source, target = built.way(way, 6)
    router_advert = icmp6(source.address, target.address, 134, bytes(2000))
    for payload in (
        options(UDP, 1304) + udp(source.address, target.address, 6700, DENIED, bytes(2000)),
        options(ICMP6, 1304) + router_advert,
    ):
        assert built.arrive(fragments(source, target, OPTIONS, payload, 1304), way) == []


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_T125_a_packet_in_one_fragment_is_judged_as_the_packet_that_it_is(built, way):
    source, target = built.way(way, 6)
    for port in (ALLOWED, DENIED):
        frames = fragments(source, target, UDP, udp(source.address, target.address, 6710, port, bytes(100)))
        assert len(frames) == 1
        assert built.arrive(frames, way) == (frames if port == ALLOWED else [])


# ---- time


def test_T121_T122_what_is_not_whole_never_arrives_anywhere(built, watch):
    # Connections of all ways are opened meanwhile: Open vSwitch lets expired fragments go on with whatever it tracks.
    while time.monotonic() < watch.since + LONGEST_KEPT:
        for way in WAYS:
            for version in (4, 6):
                source, target = built.way(way, version)
                assert passes(source, target, datagram(source, target, (6900, ALLOWED), MARK))
        time.sleep(0.2)
    status = built.switch.ovs.appctl("dpctl/ipf-get-status")
    expired = [int(found[1]) for found in re.finditer(r"v\d frags expired: (\d+)", status)]
    assert min(expired) >= len(watch.sent) // 2, status  # so that they were there to leak
    seen = set()
    for machine in built.machines.values():
        frames = machine.call("captured", capture="watch")
        assert frames or machine.name == "app"  # so that it did watch; nobody speaks to `app`
        seen |= set(frames)
    assert not [name for name, frames in watch.sent.items() if seen & set(frames)]


def test_T120_fragments_pass_also_after_the_switch_was_restarted(built):
    host, flows = built.switch, len(built.switch.flows())
    host.ovs.restart_switch()
    wait_until("the flows are back", lambda: len(host.flows()) >= flows, 30, 0.05)
    built.cloud.wait_in_sync()
    for way in WAYS:
        for version in (4, 6):
            source, target = built.way(way, version)
            for port in (ALLOWED, DENIED):
                payload = udp(source.address, target.address, 6800, port, bytes(4000))
                frames = fragments(source, target, UDP, payload)
                assert sorted(built.arrive(frames, way)) == (sorted(frames) if port == ALLOWED else [])


@pytest.mark.parametrize("version", [4, 6])
def test_T124_what_is_left_over_of_a_long_datagram_reaches_no_other_droplet(built, version):
    """Of more than 32 fragments the reassembler lets the rest go with whatever packet is tracked next, of anybody."""
    outside, web = built.way(("outside", "web"), version)
    app = end(built.machines["app"], version)
    long = udp(outside.address, web.address, 4400, ALLOWED, b"S" * (1400 * 44 - 500))
    frames = fragments(outside, web, UDP, long, size=1400)
    assert len(frames) > 32
    refused = datagram(outside, app, (4401, DENIED))
    machine, sender = built.machines["app"], built.machines["outside"]
    machine.call("capture", capture="strays", src=sender.mac)
    for _ in range(3):
        sender.call("send_frames", frames=frames)
        for _ in range(5):
            assert not passes(outside, app, refused)
    arrived = machine.call("captured", capture="strays", seconds=0.5)
    assert [frame for frame in arrived if frame in frames] == []
