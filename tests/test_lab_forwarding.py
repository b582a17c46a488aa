"""Where frames go: between droplets of one host, to groups, through wide pipes, under a storm, and after a move.

Ids are those of the behaviours.  Who may send what is test_lab_guards.py.
"""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from frames import (
    BROADCAST,
    NOBODY,
    arp,
    deliveries,
    ethernet,
    last_frame,
    misdelivered,
    multicast_mac,
    udp_frame,
)

from lab.cloud import Cloud, inbound, outbound, seconds_until
from lab.controller import Controller
from lab.network import Hypervisor, Lab
from lab.system import ip
from lab.truth import OPEN, Case, probe, table

pytestmark = pytest.mark.lab
DROPLETS = {"web": ("hv1", 101), "app": ("hv1", 102), "db": ("hv2", 103)}
EVERYTHING = {
    "inbound_rules": [inbound(protocol, "0") for protocol in ("tcp", "udp", "icmp")],
    "outbound_rules": [outbound(protocol, "0") for protocol in ("tcp", "udp", "icmp")],
}
# A firewall needs a rule; this one is for nobody here.
NOTHING = {"inbound_rules": [inbound("tcp", "1", addresses=["192.0.2.1"])]}


@pytest.fixture(scope="module")
def cloud():
    with Lab("f" + hex(int(time.time() * 1000) & 0xFFFFFF)[2:]) as lab:
        for _ in range(2):
            lab.add_hypervisor()
        for name, (host, _) in DROPLETS.items():
            lab.add_machine(name, host)
        lab.add_outside()
        controller = lab.keep(Controller(lab.directory / "controller", host=lab.address))
        controller.start()
        lab.connect(controller.openflow_port)
        built = Cloud(lab, controller)
        built.register_hypervisors()
        for name, (_, droplet_id) in DROPLETS.items():
            built.register(name, droplet_id)
        built.wait_in_sync()
        yield built


@pytest.fixture
def unruled(cloud):
    """The cloud without a firewall, and every MAC known where it is."""
    firewalls = cloud.call("GET", "/v2/firewalls?per_page=200")["firewalls"]
    for found in firewalls:
        cloud.call("DELETE", f"/v2/firewalls/{found['id']}")
    if firewalls:
        settle(cloud)
    for machine in cloud.lab.machines.values():
        machine.forget_neighbours()
        machine.call("send_frames", frames=[last_frame(machine)])
    return cloud


def settle(cloud):
    """What `Cloud.settle` does, on all hypervisors at once: each takes half a second."""
    hosts = cloud.lab.hypervisors.values()
    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(Hypervisor.settle, hosts))


def protect(cloud, name, droplet_id, **rules):
    cloud.call("POST", "/v2/firewalls", {"name": name, "droplet_ids": [droplet_id], **rules}, expect=202)
    settle(cloud)


def people(cloud):
    """web, app, db, outside."""
    return tuple(cloud.lab.machines[name] for name in ("web", "app", "db", "outside"))


def outcomes(cloud, cases, passing):
    """Probes cases; those in `passing` must pass, the others must not."""
    probed = probe(cloud.lab.machines, cases, passing)
    expected = {case: case in passing for case in cases}
    wrong = [case for case in cases if (probed[case] == OPEN) != expected[case]]
    assert not wrong, table(expected, probed)


# ---- one host


@pytest.mark.parametrize("lets_in", [True, False], ids=["B lets in", "B does not"])
@pytest.mark.parametrize("lets_out", [True, False], ids=["A lets out", "A does not"])
def test_T130_between_droplets_of_one_host_both_ends_must_agree(unruled, lets_out, lets_in):
    protect(unruled, "sender", 101, outbound_rules=[outbound("tcp", "80" if lets_out else "79")])
    protect(unruled, "receiver", 102, inbound_rules=[inbound("tcp", "80" if lets_in else "79")])
    asked = [Case("web", "app", "tcp", 80, version) for version in (4, 6)]
    never = [Case("app", "web", "tcp", 80, version) for version in (4, 6)]
    never += [Case("web", "app", "udp", 80, version) for version in (4, 6)]
    outcomes(unruled, asked + never, asked if lets_out and lets_in else [])


@pytest.mark.parametrize("rules", [None, EVERYTHING, NOTHING], ids=["open", "everything allowed", "nothing allowed"])
def test_T131_a_droplet_does_not_reach_itself_over_the_wire(unruled, rules):
    """A switch never sends a packet back to where it came from, whatever the rules say: there is no hairpin.

    A droplet's own system keeps packets for its own address to itself, so only one that is made to (a load balancer
    on the droplet that translates to its own address) would notice.
    """
    if rules is not None:
        protect(unruled, "own", 101, **rules)
    web = unruled.lab.machines["web"]
    cases = {
        f"IPv{version} from {src} to {dst}": (udp_frame(web.mac, web.mac, src, dst, b"to myself"), ())
        for version, src, dst in (
            (4, web.address(4), web.address(4)),
            (6, web.address(6), web.address(6)),
            (6, web.link_local, web.address(6)),
            (4, web.address(4), unruled.lab.machines["app"].address(4)),
        )
    }
    cases["asks itself"] = (
        ethernet(web.mac, web.mac, 0x0806, arp(1, web.mac, web.address(), NOBODY, web.address())), (),
    )  # fmt: skip
    assert misdelivered(unruled.lab.machines, "web", cases) == []


# ---- groups, and those whom nobody knows

GROUPS = {"IPv4 group": "239.1.2.3", "local IPv4 group": "224.0.0.251", "IPv6 group": "ff05::1:3",
          "local IPv6 group": "ff02::fb"}  # fmt: skip


def to_many(me, data=b"to many"):
    """IP to groups, to all, and to a MAC that nobody has: name -> frame."""
    frames = {}
    for name, group in GROUPS.items():
        frames[name] = udp_frame(multicast_mac(group), me.mac, me.address(6 if ":" in group else 4), group, data)
    a4, a6 = me.address(4), me.address(6)
    frames["to all"] = udp_frame(BROADCAST, me.mac, a4, "255.255.255.255", data)
    frames["to the subnet"] = udp_frame(BROADCAST, me.mac, a4, "10.1.255.255", data)
    frames["to all nodes"] = udp_frame("33:33:00:00:00:01", me.mac, a6, "ff02::1", data)
    return frames


def unknown(me, data=b"who is it"):
    nobody = "02:00:00:00:99:99"
    return {
        "unknown IPv4": udp_frame(nobody, me.mac, me.address(4), "10.1.9.9", data),
        "unknown IPv6": udp_frame(nobody, me.mac, me.address(6), "fd00:1::909", data),
        "unknown, for a droplet's address": udp_frame(nobody, me.mac, me.address(4), "10.1.0.1", data),
        "unknown ARP": ethernet(nobody, me.mac, 0x0806, arp(2, me.mac, me.address(), nobody, "10.1.9.9")),
    }


@pytest.mark.parametrize("rules", [None, EVERYTHING], ids=["open", "everything allowed"])
def test_T132_multicast_and_unknown_unicast_from_the_uplink_reach_no_droplet(unruled, rules):
    if rules is not None:
        protect(unruled, "all", 101, **rules)
    web, app, db, outside = people(unruled)
    cases = {name: (frame, ()) for name, frame in (to_many(outside) | unknown(outside)).items()}
    for you in (web, app, db):  # what is for one comes, also in the Ethernet frame of a group's address
        for version in (4, 6):
            packet = udp_frame(you.mac, outside.mac, outside.address(version), you.address(version))
            cases[f"IPv{version} to {you.name}"] = (packet, {you.name})
            grouped = udp_frame(BROADCAST, outside.mac, outside.address(version), you.address(version))
            cases[f"IPv{version} to {you.name}, in a frame to all"] = (grouped, ())
    assert misdelivered(unruled.lab.machines, "outside", cases) == []


def test_T132_unknown_unicast_of_a_droplet_leaves_by_the_uplink_alone(unruled):
    for name in ("web", "db"):
        cases = {kind: (frame, {"outside"}) for kind, frame in unknown(unruled.lab.machines[name]).items()}
        assert misdelivered(unruled.lab.machines, name, cases) == []


@pytest.mark.parametrize(
    ("rules", "leaves"), [(None, True), (EVERYTHING, True), (NOTHING, False)],
    ids=["open", "everything allowed", "nothing allowed"],
)  # fmt: skip
def test_T133_multicast_of_a_droplet_leaves_by_the_uplink_under_a_rule_and_reaches_no_droplet(unruled, rules, leaves):
    if rules is not None:
        protect(unruled, "out", 101, **rules)
    cases = {
        name: (frame, {"outside"} if leaves else ()) for name, frame in to_many(unruled.lab.machines["web"]).items()
    }
    assert misdelivered(unruled.lab.machines, "web", cases) == []


def test_T133_a_rule_for_a_group_is_a_rule_for_its_address(unruled):
    web = unruled.lab.machines["web"]
    allowed = ("239.1.2.3", "ff05::1:3")
    protect(unruled, "out", 101, outbound_rules=[outbound("udp", "5001", addresses=list(allowed))])
    cases = {name: (frame, {"outside"} if GROUPS.get(name) in allowed else ()) for name, frame in to_many(web).items()}
    assert misdelivered(unruled.lab.machines, "web", cases) == []


# ---- wide, and fast


@pytest.fixture
def jumbo(unruled):
    """Frames of 9000 bytes from end to end."""
    lab = unruled.lab
    links = [(m.netns, "eth0") for m in lab.machines.values()]
    links += [(tap.hypervisor.netns, tap.name) for tap in lab.taps.values()]
    links += [(host.netns, host.uplink) for host in lab.hypervisors.values()]
    fabric = f"fw-{lab.tag}-fabric"
    links += [(fabric, name) for name in (*lab.hypervisors, "outside", "fabric")]

    def set_mtu(mtu):
        for netns, device in links:
            ip(netns, f"link set {device} mtu {mtu}")

    set_mtu(9000)
    yield unruled
    set_mtu(1500)


def test_T134_a_large_packet_passes_whole_where_the_network_is_wide(jumbo):
    protect(jumbo, "web", 101, inbound_rules=[inbound("icmp", "0")], outbound_rules=[outbound("icmp", "0")])
    web, app, db, outside = people(jumbo)
    for source, target in ((outside, web), (web, outside), (app, web), (web, app), (db, web), (db, outside)):
        for version in (4, 6):
            target.call("capture", capture="large", src=source.mac)
            address = target.address(version)
            assert any(source.call("icmp", address=address, size=8800, timeout=2) == "open" for _ in range(3)), (
                f"{source.name} to {target.name} over IPv{version}"
            )
            longest = max(len(frame) // 2 for frame in target.call("captured", capture="large"))
            assert longest == 14 + {4: 20, 6: 40}[version] + 8 + 8800  # one packet, not fragments
    # a rule is no less closed to large packets
    assert outside.call("udp", address=web.address(), port=80, size=8800) == "timeout"


def heard(machines, sender, frames, witness):
    """Which of the frames come out anywhere, though no probe of the sender's own does: the witness sends the last."""
    for machine in machines.values():
        machine.call("capture", capture="heard")
    machines[sender].call("send_frames", frames=list(frames.values()))
    assert misdelivered(machines, witness, {}, deaf=[sender]) == []
    found = set().union(*(machine.call("captured", capture="heard") for machine in machines.values()))
    return {name for name, frame in frames.items() if frame in found}


def test_T135_a_port_that_nobody_registered_is_closed_and_others_rules_are_not_its_neighbours(unruled):
    lab = unruled.lab
    stranger = lab.add_machine("stranger", "hv1")
    try:
        protect(unruled, "closed", 101, **NOTHING)
        web, app, db, outside = people(unruled)
        frames = to_many(stranger) | unknown(stranger)
        for you in (web, app, db, outside):
            a, b = stranger.address(), you.address()
            frames[f"asks {you.name}"] = ethernet(BROADCAST, stranger.mac, 0x0806, arp(1, stranger.mac, a, NOBODY, b))
            for version in (4, 6):
                frames[f"IPv{version} to {you.name}"] = udp_frame(
                    you.mac, stranger.mac, stranger.address(version), you.address(version)
                )
            frames[f"as web to {you.name}"] = udp_frame(you.mac, web.mac, web.address(), b)
        # the stranger's own last frame is stopped as well; after its frames, app says something that all others hear
        assert not heard(lab.machines, "stranger", frames, "app")
        for name in ("app", "db", "outside"):
            me = lab.machines[name]
            into = {
                f"IPv{v}": udp_frame(stranger.mac, me.mac, me.address(v), stranger.address(v), b"to") for v in (4, 6)
            }
            found = deliveries(lab.machines, name, {kind: (frame, ()) for kind, frame in into.items()}, ["stranger"])
            assert not [kind for kind, to in found.items() if "stranger" in to], name
        # app is behind no firewall; that web is, is nothing to it
        cases = [Case(source, "app", "tcp", 80, 4) for source in ("db", "outside")]
        cases += [Case("app", target, "tcp", 80, 6) for target in ("db", "outside")]
        outcomes(unruled, cases, cases)
    finally:
        lab.unplug("stranger")
        lab.machines.pop("stranger").close()


def test_T136_a_storm_of_arp_from_one_droplet_does_not_stop_the_others(unruled):
    web = unruled.lab.machines["web"]
    dpid = unruled.lab.hypervisors["hv1"].dpid

    def passed():
        """Packets that went by web's flows for ARP: what an operator sees of the storm."""
        flows = unruled.call("GET", f"/v1/hypervisors/{dpid}/flows?port=web")["flows"]
        return sum(flow["packets"] for flow in flows if f"arp_spa={web.address()}," in flow["flow"])

    before = passed()
    asks = arp(1, web.mac, web.address(), NOBODY, "10.1.9.9")
    burst = [ethernet(BROADCAST, web.mac, 0x0806, asks)] * 500
    calm = threading.Event()

    def storm():
        sent = 0
        while not calm.is_set():
            sent += web.call("send_frames", frames=burst)
        return sent

    pairs = (("app", "outside"), ("outside", "app"), ("app", "db"), ("db", "outside"), ("db", "app"))
    services = (("tcp", 80), ("udp", 53), ("icmp", 0))
    cases = [Case(*pair, *service, version) for pair in pairs for service in services for version in (4, 6)]
    with ThreadPoolExecutor(1) as pool:
        counting = pool.submit(storm)
        try:
            end = time.monotonic() + 2
            while time.monotonic() < end:
                # a full queue may lose some; what is asked again gets through
                probed = probe(unruled.lab.machines, cases, cases, tries=5, timeout=1)
                assert [case for case in cases if probed[case] != OPEN] == []
        finally:
            calm.set()
        sent = counting.result(60)
    assert sent > 5000
    assert seconds_until(lambda: passed() - before > sent / 10, 10) is not None, f"{sent} frames sent"


# ---- a port that moves


def marks_of(host, mac):
    """The slot of the port with a MAC on a hypervisor, and all flows there that are the port's."""
    flows = host.flows()
    slots = {
        int(slot, 16)
        for f in flows
        if mac in f
        for slot in re.findall(r"cookie=0xd0f1(?:02|06|08)[0-9a-f]{2}([0-9a-f]{8})", f)
    }
    assert len(slots) == 1, slots
    return slots.pop()


def flows_of(host, mac, slot):
    ours = re.compile(rf"{mac}|cookie=0xd0f10[28]01{slot:08x}|reg5={slot:#x}\b|load:{slot:#x}->NXM_NX_REG5\[\]")
    return [flow for flow in host.flows() if ours.search(flow)]


def test_a_port_that_moves_takes_its_policy_along_and_leaves_nothing_behind(unruled):
    lab = unruled.lab
    hv1, hv2 = lab.hypervisors["hv1"], lab.hypervisors["hv2"]
    _, app, _, outside = people(unruled)
    mover = lab.add_machine("mover", "hv1", tap="moving")
    try:
        unruled.register("mover", 104)
        protect(unruled, "mover", 104, inbound_rules=[inbound("tcp", "80"), inbound("udp", "5001", droplet_ids=[102])],
                outbound_rules=[outbound("icmp", "0")])  # fmt: skip
        in_force = [Case(name, "mover", "tcp", 80, v) for name in ("app", "db", "outside") for v in (4, 6)]
        in_force += [Case("mover", name, "icmp", 0, v) for name in ("app", "db", "outside") for v in (4, 6)]
        closed = [Case("outside", "mover", "tcp", 81, 4), Case("app", "mover", "icmp", 0, 6)]
        closed += [Case("mover", "outside", "tcp", 80, 4), Case("mover", "app", "udp", 53, 6)]
        outcomes(unruled, in_force + closed, in_force)
        for session, peer in (("4", outside), ("6", app)):
            assert peer.call("tcp_open", session=session, address=mover.address(int(session)), port=80) == "open"
        slot = marks_of(hv1, mover.mac)
        assert flows_of(hv1, mover.mac, slot)
        assert hv1.ovs.appctl("dpctl/dump-conntrack", f"zone={slot}")

        lab.move("mover", hv2)
        lab.plug("mover")
        unruled.register("mover", 104)
        unruled.wait_in_sync()
        settle(unruled)
        mover.call("send_frames", frames=[last_frame(mover)])  # the network outside learns where it is

        assert flows_of(hv1, mover.mac, slot) == []
        assert seconds_until(lambda: not hv1.ovs.appctl("dpctl/dump-conntrack", f"zone={slot}"), 10) is not None
        for session, peer in (("4", outside), ("6", app)):
            alive = seconds_until(lambda p=peer, s=session: p.call("tcp_say", session=s, timeout=3) == "alive", 15)
            assert alive is not None, session
            peer.call("tcp_close", session=session)
        outcomes(unruled, in_force + closed, in_force)
        assert marks_of(hv2, mover.mac) != slot

        left_behind(unruled, mover)
        outcomes(unruled, in_force + closed, in_force)
    finally:
        lab.unplug("mover")
        lab.machines.pop("mover").close()
        unruled.ask("DELETE", "/v1/ports/mover")
        unruled.droplets.pop("mover", None)


def left_behind(cloud, mover):
    """On the hypervisor of before, an interface with the old name, MAC and addresses neither sends nor receives."""
    lab = cloud.lab
    lab.add_machine("ghost", "hv1", tap="moving", mac=mover.mac, addresses=mover.addresses)
    try:
        cloud.wait_in_sync()
        settle(cloud)
        web, app, _, outside = people(cloud)
        frames = {
            "asks": ethernet(BROADCAST, mover.mac, 0x0806, arp(1, mover.mac, mover.address(), NOBODY, "10.1.9.9"))
        }
        for you in (app, outside):
            for version in (4, 6):
                frames[f"IPv{version} to {you.name}"] = udp_frame(
                    you.mac, mover.mac, mover.address(version), you.address(version), b"ghost"
                )
        assert not heard(lab.machines, "ghost", frames, "web")
        # allowed by the mover's rules, sent on the host where the interface of before still is
        to_it = udp_frame(mover.mac, app.mac, app.address(), mover.address(), b"where are you")
        assert misdelivered(lab.machines, "app", {"to it": (to_it, {"mover"})}, deaf=["ghost"]) == []
        named = udp_frame(mover.mac, web.mac, web.address(), mover.address(), b"where are you")
        assert misdelivered(lab.machines, "web", {"not allowed": (named, ())}, deaf=["ghost"]) == []
    finally:
        lab.unplug("ghost")
        lab.machines.pop("ghost").close()
