"""What a droplet may say of itself, frame by frame: MAC, addresses, ARP, neighbour discovery, DHCP, EtherTypes.

`web` is behind a firewall that lets everything pass, the others are behind none: what does not come out was stopped by
the guards, whatever the rules say.  Where a test is about what needs no rule, `web` is behind one that is closed.
Ids are those of the behaviours.
"""

from __future__ import annotations

import struct
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from frames import (
    BROADCAST,
    NOBODY,
    arp,
    deliveries,
    dhcp4,
    dhcp6,
    ethernet,
    fragment,
    icmp6,
    icmp6_frame,
    ip_bytes,
    ipv4,
    ipv6,
    last_frame,
    lladdr_option,
    mac_bytes,
    misdelivered,
    mld_query,
    mld_report,
    multicast_mac,
    neighbour_advert,
    neighbour_solicit,
    redirect_body,
    router_advert,
    solicited_node,
    udp,
    udp_frame,
)

from lab.cloud import Cloud, inbound, outbound
from lab.controller import Controller
from lab.network import Hypervisor, Lab
from lab.system import ip

pytestmark = pytest.mark.lab
DROPLETS = {"web": ("hv1", 101), "app": ("hv1", 102), "db": ("hv2", 103)}
OPEN = {
    "inbound_rules": [inbound(protocol, "0") for protocol in ("tcp", "udp", "icmp")],
    "outbound_rules": [outbound(protocol, "0") for protocol in ("tcp", "udp", "icmp")],
}
# A firewall needs a rule; this one is for nobody here.
CLOSED = {"inbound_rules": [inbound("tcp", "1", addresses=["192.0.2.1"])]}
STRANGER = "02:00:00:00:99:99"  # a MAC of nobody
ALL_NODES = "33:33:00:00:00:01"


@pytest.fixture(scope="module")
def cloud():
    with Lab("g" + hex(int(time.time() * 1000) & 0xFFFFFF)[2:]) as lab:
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
def guarded(cloud):
    """The cloud as the first lines of this file say, and every MAC known where it is."""
    changed = [found["name"] for found in cloud.call("GET", "/v2/firewalls")["firewalls"]] != ["open"]
    if changed:
        firewall(cloud, "open", 101, **OPEN)
    ports = {port["id"]: (port["mac"], tuple(port["addresses"])) for port in cloud.call("GET", "/v1/ports")["ports"]}
    for name, (_, droplet_id) in DROPLETS.items():
        machine = cloud.lab.machines[name]
        if ports[name] != (machine.mac, machine.hosts):
            cloud.register(name, droplet_id)
            changed = True
    if changed:
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


def firewall(cloud, name, droplet_id, **rules):
    """Puts a droplet behind this firewall and no other."""
    for old in cloud.call("GET", "/v2/firewalls?per_page=200")["firewalls"]:
        cloud.call("DELETE", f"/v2/firewalls/{old['id']}")
    return cloud.call("POST", "/v2/firewalls", {"name": name, "droplet_ids": [droplet_id], **rules}, expect=202)


def addressed(cloud, name, *addresses, mac="", hypervisor="", interface="", port=""):
    """Registers a droplet's port anew, with these addresses; the answer, whatever it is."""
    machine, tap = cloud.lab.machines[name], cloud.lab.taps[name]
    answer = cloud.ask(
        "PUT", f"/v1/ports/{port or name}",
        {"droplet_id": DROPLETS[name][1], "hypervisor": hypervisor or tap.hypervisor.dpid,
         "interface": interface or tap.name, "mac": mac or machine.mac, "addresses": list(addresses)},
    )  # fmt: skip
    cloud.wait_in_sync()
    settle(cloud)
    return answer


def people(cloud):
    """web, app, db, outside."""
    return tuple(cloud.lab.machines[name] for name in ("web", "app", "db", "outside"))


def pings(source, target, version=4):
    """Whether `source` reaches `target`, both with empty caches; tried again, as a busy machine is late."""
    source.forget_neighbours()
    target.forget_neighbours()
    return any(source.call("icmp", address=target.address(version), timeout=1) == "open" for _ in range(3))


def silent(droplet, others, versions=(4, 6)):
    """Whether nothing comes back, neither of what `droplet` asks the others nor of what they ask it."""
    for machine in (droplet, *others):
        machine.forget_neighbours()
    asked = [
        source.submit("icmp", address=target.address(version), timeout=0.7)
        for other in others
        for source, target in ((droplet, other), (other, droplet))
        for version in versions
    ]
    return "open" not in [answer.result(30) for answer in asked]


# ---- who a droplet is


@pytest.mark.parametrize("name", ["web", "app"])
def test_T060_a_droplet_that_changes_its_mac_is_cut_off(guarded, name):
    droplet, outside, db = (guarded.lab.machines[n] for n in (name, "outside", "db"))
    assert pings(droplet, outside)
    droplet.set_mac(STRANGER)
    try:
        assert silent(droplet, (outside, db))
    finally:
        droplet.set_mac(droplet.mac)
    assert pings(droplet, outside)
    assert pings(droplet, db, 6)


@pytest.mark.parametrize("name", ["web", "app"])
def test_T061_a_droplet_that_changes_its_addresses_is_cut_off(guarded, name):
    droplet, outside = guarded.lab.machines[name], guarded.lab.machines["outside"]
    for version, address in ((4, "10.1.9.9"), (6, "fd00:1::909")):
        droplet.add_address(f"{address}/{16 if version == 4 else 64}")
        try:
            for machine in (droplet, outside):
                machine.forget_neighbours()
            assert droplet.call("icmp", address=outside.address(version), source=address) != "open"
            assert outside.call("icmp", address=address) != "open"
            own = droplet.address(version)
            assert droplet.call("icmp", address=outside.address(version), source=own, timeout=5) == "open"
        finally:
            droplet.del_address(f"{address}/{16 if version == 4 else 64}")


def test_T061_a_dhcp_request_from_an_address_of_another_does_not_leave(guarded):
    web, app, _, outside = people(guarded)
    w, server = web.mac, outside.address()

    def request(mac, src, dst, dst_mac=BROADCAST, data=b"request"):
        return udp_frame(dst_mac, mac, src, dst, data, 68, 67)

    cases = {
        "from none": (request(w, "0.0.0.0", "255.255.255.255"), {"outside"}),
        "own": (request(w, web.address(), server, outside.mac), {"outside"}),
        "of another": (request(w, app.address(), server, outside.mac), ()),
        "of another, broadcast": (request(w, app.address(), "255.255.255.255"), ()),
        "of nobody": (request(w, "10.1.9.9", server, outside.mac), ()),
        "from none to one host": (request(w, "0.0.0.0", server, outside.mac), ()),
        "own, another's MAC": (request(app.mac, web.address(), server, outside.mac), ()),
        "from none, another's MAC": (request(app.mac, "0.0.0.0", "255.255.255.255", data=b"mac"), ()),
    }
    assert misdelivered(guarded.lab.machines, "web", cases) == []


def test_T062_arp_needs_no_rule_in_either_direction(guarded):
    firewall(guarded, "closed", 101, **CLOSED)
    settle(guarded)
    web, app, db, outside = people(guarded)
    everybody = {"app", "db", "outside"}

    def ask(me, you):
        return ethernet(BROADCAST, me.mac, 0x0806, arp(1, me.mac, me.address(), NOBODY, you.address()))

    def answer(me, you):
        return ethernet(you.mac, me.mac, 0x0806, arp(2, me.mac, me.address(), you.mac, you.address()))

    unicast = ethernet(outside.mac, web.mac, 0x0806, arp(1, web.mac, web.address(), NOBODY, outside.address()))
    out = {"asks": (ask(web, outside), everybody), "asks one": (unicast, {"outside"})}
    out |= {f"answers {you.name}": (answer(web, you), {you.name}) for you in (app, db, outside)}
    assert misdelivered(guarded.lab.machines, "web", out) == []
    into = {"asks": (ask(outside, web), {"web", "app", "db"}), "answers": (answer(outside, web), {"web"})}
    assert misdelivered(guarded.lab.machines, "outside", into) == []
    # the real thing: the droplet's own system answers, though no rule lets in or out
    for asker in (app, db, outside):
        asker.call("capture", capture="answer", ethertype=0x0806, src=web.mac, dst=asker.mac)
        asker.call("send_frames", frames=[ask(asker, web)])
        assert asker.call("captured", capture="answer", seconds=10, count=1), asker.name


@pytest.mark.parametrize("sender", ["web", "db"])
def test_T063_arp_lies_do_not_leave(guarded, sender):
    me, machines = guarded.lab.machines[sender], guarded.lab.machines
    victims = {name: machine for name, machine in machines.items() if name != sender}
    cases = {}
    for name, victim in victims.items():
        own, theirs = me.address(), victim.address()
        lies = {
            f"answers that {name} is here": arp(2, me.mac, theirs, victim.mac, "10.1.0.77"),
            f"answers that {name} is elsewhere": arp(2, STRANGER, theirs, victim.mac, "10.1.0.77"),
            f"answers from no address to {name}": arp(2, me.mac, "0.0.0.0", victim.mac, "10.1.0.77"),
            f"asks as {name}": arp(1, me.mac, theirs, NOBODY, "10.1.0.77"),
            f"asks as MAC of {name}": arp(1, victim.mac, own, NOBODY, "10.1.0.77"),
            f"probes as MAC of {name}": arp(1, victim.mac, "0.0.0.0", NOBODY, "10.1.0.77"),
        }
        for what, lie in lies.items():
            cases[what] = (ethernet(victim.mac, me.mac, 0x0806, lie), ())
            cases[f"{what}, to all"] = (ethernet(BROADCAST, me.mac, 0x0806, lie), ())
        honest = arp(2, me.mac, own, victim.mac, theirs)
        cases[f"as {name} on the wire"] = (ethernet(BROADCAST, victim.mac, 0x0806, honest), ())
        cases[f"honest to {name}"] = (ethernet(victim.mac, me.mac, 0x0806, honest), {name})
    assert misdelivered(guarded.lab.machines, sender, cases) == []


def test_T064_the_arp_guard_does_not_disturb_ipv6(guarded):
    app, outside = guarded.lab.machines["app"], guarded.lab.machines["outside"]
    addressed(guarded, "app", app.address(6))
    assert silent(app, [outside], [4])  # an IPv4 address that is none of the port's: ARP for it is stopped
    assert pings(app, outside, 6)
    assert pings(outside, app, 6)
    web = guarded.lab.machines["web"]
    assert pings(web, app, 6)


@pytest.mark.parametrize("sender", ["web", "db"])
def test_T065_neighbour_advertisements_are_for_own_addresses(guarded, sender):
    me, machines = guarded.lab.machines[sender], guarded.lab.machines
    a, extra = me.address(6), "fd00:1::5000"
    outside = machines["outside"]
    b, group = outside.address(6), "ff02::1"
    everybody = set(machines) - {sender}

    def advert(target, dst, dst_mac, src=a):
        return ethernet(dst_mac, me.mac, 0x86DD, neighbour_advert(src, dst, target, me.mac))

    foreign = {
        f"target of {name}, {how}": (advert(other.address(6), dst, dst_mac), ())
        for name, other in machines.items()
        if name != sender
        for how, dst, dst_mac in (("solicited", b, outside.mac), ("to all", group, ALL_NODES))
    }
    own = {
        "own": (advert(a, b, outside.mac), {"outside"}),
        "own, to all": (advert(a, group, ALL_NODES), everybody),
        "own link-local": (advert(me.link_local, b, outside.mac, me.link_local), {"outside"}),
    }
    added = {
        "extra": advert(extra, b, outside.mac),
        "extra, to all, from it": advert(extra, group, ALL_NODES, extra),
    }
    stopped = {name: (frame, ()) for name, frame in added.items()}
    assert misdelivered(machines, sender, foreign | own | stopped) == []
    addressed(guarded, sender, *me.hosts, extra)
    passing = {"extra": (added["extra"], {"outside"}), "to all": (added["extra, to all, from it"], everybody)}
    assert misdelivered(machines, sender, foreign | own | passing) == []


@pytest.mark.parametrize("sender", ["web", "db"])
def test_T066_neighbour_discovery_names_the_own_mac_or_none(guarded, sender):
    me, machines = guarded.lab.machines[sender], guarded.lab.machines
    outside, other = machines["outside"], machines["app"]
    a, b = me.address(6), outside.address(6)
    group = solicited_node(b)
    everybody = set(machines) - {sender}
    passes, dropped = {"outside"}, ()
    adverts = {
        "own tll": (neighbour_advert(a, b, a, me.mac), passes),
        "foreign tll": (neighbour_advert(a, b, a, other.mac), dropped),
        "tll of nobody": (neighbour_advert(a, b, a, STRANGER), dropped),
        "broadcast as tll": (neighbour_advert(a, b, a, BROADCAST), dropped),
    }
    solicits = {
        "own sll": (neighbour_solicit(a, b, b, me.mac), passes),
        "no sll": (neighbour_solicit(a, b, b), passes),
        "foreign sll": (neighbour_solicit(a, b, b, other.mac), dropped),
        "own and foreign sll": (neighbour_solicit(a, b, b, me.mac, other.mac), dropped),
        "foreign and own sll": (neighbour_solicit(a, b, b, other.mac, me.mac), dropped),
        "from another": (neighbour_solicit(other.address(6), b, b, me.mac), dropped),
    }
    cases = {n: (ethernet(outside.mac, me.mac, 0x86DD, p), to) for n, (p, to) in (adverts | solicits).items()}
    cases["no tll"] = (icmp6_frame(outside.mac, me.mac, a, b, 136, bytes(4) + ip_bytes(a)), passes)
    for name, sll, to in (("own", me.mac, everybody), ("foreign", other.mac, ())):
        packet = neighbour_solicit(a, group, b, sll)
        cases[f"{name} sll, to the group"] = (ethernet(multicast_mac(group), me.mac, 0x86DD, packet), to)
    assert misdelivered(machines, sender, cases) == []


@pytest.mark.parametrize("kind", ["advert", "solicitation", "router advert"])
def test_T067_neighbour_discovery_that_crossed_a_router_is_dropped_in_both_halves(guarded, kind):
    web, _, _, outside = people(guarded)

    def packet(me, you, hops):
        a, b = me.address(6), you.address(6)
        if kind == "advert":
            return neighbour_advert(a, b, a, me.mac, hops)
        if kind == "solicitation":
            body = bytes(4) + ip_bytes(b) + lladdr_option(1, me.mac)
            return ipv6(a, b, 58, icmp6(a, b, 135, body), hops)
        return ipv6(me.link_local, b, 58, icmp6(me.link_local, b, 134, bytes(12)), hops)

    def cases(me, you, passes):
        hops = {255: passes, 254: (), 64: (), 0: ()}
        return {f"hops {n}": (ethernet(you.mac, me.mac, 0x86DD, packet(me, you, n)), to) for n, to in hops.items()}

    out = {"outside"} if kind != "router advert" else ()
    assert misdelivered(guarded.lab.machines, "web", cases(web, outside, out)) == []
    assert misdelivered(guarded.lab.machines, "outside", cases(outside, web, {"web"})) == []
    firewall(guarded, "closed", 101, **CLOSED)
    settle(guarded)
    assert misdelivered(guarded.lab.machines, "outside", cases(outside, web, {"web"})) == []


def test_T067_a_group_hears_no_neighbour_discovery_that_crossed_a_router(guarded):
    web, _, _, outside = people(guarded)
    a, group = outside.address(6), solicited_node(web.address(6))
    body = bytes(4) + ip_bytes(web.address(6)) + lladdr_option(1, outside.mac)
    cases = {
        f"hops {hops}": (icmp6_frame(multicast_mac(group), outside.mac, a, group, 135, body, hops), to)
        for hops, to in ((255, set(DROPLETS)), (254, ()))
    }
    assert misdelivered(guarded.lab.machines, "outside", cases) == []


def disguises(packet, src, dst):
    """An ICMPv6 message and the ways to hide what it is: name -> packet."""
    hop_by_hop, destination = bytes([58, 0, 1, 4, 0, 0, 0, 0]), bytes([58, 0, 1, 4, 0, 0, 0, 0])
    routing = bytes([58, 0, 0, 0, 0, 0, 0, 0])
    return {
        "plain": ipv6(src, dst, 58, packet),
        "behind hop-by-hop options": ipv6(src, dst, 0, hop_by_hop + packet),
        "behind destination options": ipv6(src, dst, 60, destination + packet),
        "behind both": ipv6(src, dst, 0, bytes([60, *hop_by_hop[1:]]) + destination + packet),
        "behind a routing header": ipv6(src, dst, 43, routing + packet),
        "as a fragment that is all": fragment(src, dst, 58, packet, more=False),
        "as a first fragment": fragment(src, dst, 58, packet),
        "as a first fragment, behind options": fragment(src, dst, 60, destination + packet),
        "a first fragment of options alone": fragment(src, dst, 60, destination),
    }


@pytest.mark.parametrize("sender", ["web", "db"])
def test_T068_a_droplet_is_no_router(guarded, sender):
    machines = guarded.lab.machines
    me, app = machines[sender], machines["app"]
    cases = {}
    for where, dst, dst_mac in (("all", "ff02::1", ALL_NODES), ("one", app.address(6), app.mac)):
        body = struct.pack("!BBHII", 64, 0, 1800, 0, 0) + lladdr_option(1, me.mac)
        advert = icmp6(me.link_local, dst, 134, body)
        for how, packet in disguises(advert, me.link_local, dst).items():
            cases[f"{how}, to {where}"] = (ethernet(dst_mac, me.mac, 0x86DD, packet), ())
    assert misdelivered(machines, sender, cases) == []


def test_T068_router_advertisements_from_the_uplink_reach_every_droplet(guarded):
    firewall(guarded, "closed", 101, **CLOSED)
    settle(guarded)
    web, _, db, outside = people(guarded)
    to_one = ipv6(outside.link_local, web.address(6), 58, icmp6(outside.link_local, web.address(6), 134, bytes(12)))
    cases = {
        "to all": (ethernet(ALL_NODES, outside.mac, 0x86DD, router_advert(outside.link_local, outside.mac)),
                   set(DROPLETS)),
        "to one": (ethernet(web.mac, outside.mac, 0x86DD, to_one), {"web"}),
    }  # fmt: skip
    assert misdelivered(guarded.lab.machines, "outside", cases) == []
    asks = icmp6_frame("33:33:00:00:00:02", db.mac, db.link_local, "ff02::2", 133, bytes(4))
    assert misdelivered(guarded.lab.machines, "db", {"router solicitation": (asks, {"outside"})}) == []


@pytest.mark.parametrize("sender", ["web", "db"])
def test_T069_a_droplet_redirects_nobody(guarded, sender):
    machines = guarded.lab.machines
    me, app = machines[sender], machines["app"]
    cases = {}
    for source, src in (("link-local", me.link_local), ("own", me.address(6))):
        for where, dst, dst_mac in (("all", "ff02::1", ALL_NODES), ("one", app.address(6), app.mac)):
            message = icmp6(src, dst, 137, redirect_body(me.link_local, "fd00:7::1"))
            for how, packet in disguises(message, src, dst).items():
                if "of options alone" not in how:  # that holds nothing of the message; T068 has it
                    cases[f"{how}, from {source}, to {where}"] = (ethernet(dst_mac, me.mac, 0x86DD, packet), ())
    assert misdelivered(machines, sender, cases) == []


# ---- DHCP


def test_T070_a_dhcp_client_gets_its_address_without_a_rule(guarded):
    firewall(guarded, "closed", 101, **CLOSED)
    settle(guarded)
    web, _, _, outside = people(guarded)
    server, client = outside.address(), web.address()

    def says(kind, src, dst, dst_mac):
        return {f"client {kind}": (udp_frame(dst_mac, web.mac, src, dst, dhcp4(kind, web.mac), 68, 67), {"outside"})}

    def answers(kind, dst, dst_mac, to):
        message = dhcp4(kind, web.mac, client)
        return {f"server {kind} to {dst}": (udp_frame(dst_mac, outside.mac, server, dst, message, 67, 68), to)}

    for sender, case in (
        ("web", says(1, "0.0.0.0", "255.255.255.255", BROADCAST)),
        ("outside", answers(2, "255.255.255.255", BROADCAST, set(DROPLETS))),
        ("outside", answers(2, client, web.mac, {"web"})),
        ("web", says(3, "0.0.0.0", "255.255.255.255", BROADCAST)),
        ("outside", answers(5, client, web.mac, {"web"})),
        ("web", says(3, client, server, outside.mac)),  # renews
        ("outside", answers(5, client, web.mac, {"web"})),
        ("web", says(3, client, "255.255.255.255", BROADCAST)),  # rebinds
    ):
        assert misdelivered(guarded.lab.machines, sender, case) == []


def test_T070_a_dhcpv6_client_gets_its_address_without_a_rule(guarded):
    firewall(guarded, "closed", 101, **CLOSED)
    settle(guarded)
    web, _, _, outside = people(guarded)
    servers = "ff02::1:2"
    for kind, answer in ((1, 2), (3, 7), (5, 7)):
        asks = udp_frame(multicast_mac(servers), web.mac, web.link_local, servers, dhcp6(kind, web.mac), 546, 547)
        assert misdelivered(guarded.lab.machines, "web", {f"client {kind}": (asks, {"outside"})}) == []
        told = udp_frame(web.mac, outside.mac, outside.link_local, web.link_local, dhcp6(answer, web.mac), 547, 546)
        assert misdelivered(guarded.lab.machines, "outside", {f"server {answer}": (told, {"web"})}) == []


@pytest.mark.parametrize("sender", ["web", "db"])
def test_T070_a_droplet_is_no_dhcp_server(guarded, sender):
    machines = guarded.lab.machines
    me, app, outside = machines[sender], machines["app"], machines["outside"]
    own, link = me.address(), me.link_local
    offer, advertise = dhcp4(2, app.mac, "10.1.0.66"), dhcp6(2, app.mac)
    v6 = ipv6(link, app.link_local, 60, bytes([17, 0, 1, 4, 0, 0, 0, 0])
              + udp(link, app.link_local, 547, 546, advertise))  # fmt: skip
    cases = {
        "offer to all": udp_frame(BROADCAST, me.mac, own, "255.255.255.255", offer, 67, 68),
        "offer to one": udp_frame(app.mac, me.mac, own, app.address(), offer, 67, 68),
        "offer outwards": udp_frame(outside.mac, me.mac, own, outside.address(), offer, 67, 68),
        "offer from no address": udp_frame(BROADCAST, me.mac, "0.0.0.0", "255.255.255.255", offer, 67, 68),
        "advertise": udp_frame(app.mac, me.mac, link, app.link_local, advertise, 547, 546),
        "advertise outwards": udp_frame(outside.mac, me.mac, link, outside.link_local, advertise, 547, 546),
        "advertise to all": udp_frame(ALL_NODES, me.mac, link, "ff02::1", advertise, 547, 546),
        "advertise from its address": udp_frame(app.mac, me.mac, me.address(6), app.address(6), advertise, 547, 546),
        "advertise behind options": ethernet(app.mac, me.mac, 0x86DD, v6),
    }
    assert misdelivered(machines, sender, {name: (frame, ()) for name, frame in cases.items()}) == []


@pytest.mark.parametrize("sender", ["web", "db", "outside"])
def test_T071_what_a_dhcp_client_asks_is_not_heard_by_droplets(guarded, sender):
    me = guarded.lab.machines[sender]
    leaves = {"outside"} - {sender}
    servers, link = "ff02::1:2", me.link_local
    cases = {
        "discover": udp_frame(BROADCAST, me.mac, "0.0.0.0", "255.255.255.255", dhcp4(1, me.mac), 68, 67),
        "rebind": udp_frame(BROADCAST, me.mac, me.address(), "255.255.255.255", dhcp4(3, me.mac), 68, 67),
        "solicit": udp_frame(multicast_mac(servers), me.mac, link, servers, dhcp6(1, me.mac), 546, 547),
    }
    assert misdelivered(guarded.lab.machines, sender, {n: (frame, leaves) for n, frame in cases.items()}) == []


# ---- several addresses


def identities(me, other, outside, addresses):
    """Every MAC with every address, as IP and as ARP or neighbour discovery: (MAC, address, kind) -> frame."""
    found = {}
    for whose, mac in (("own", me.mac), ("another's", other.mac)):
        for address in addresses:
            peer = outside.address(6 if ":" in address else 4)
            ip = udp_frame(outside.mac, mac, address, peer, f"{whose} {address}".encode())
            if ":" in address:
                told = ethernet(outside.mac, mac, 0x86DD, neighbour_advert(address, peer, address, mac))
            else:
                told = ethernet(outside.mac, mac, 0x0806, arp(2, mac, address, outside.mac, peer))
            found |= {(whose, address, "IP"): ip, (whose, address, "neighbour"): told}
    return found


@pytest.mark.parametrize("sender", ["web", "db"])
def test_T072_an_extra_address_passes_with_the_own_mac_alone(guarded, sender):
    machines = guarded.lab.machines
    me, app, outside = machines[sender], machines["app"], machines["outside"]
    extra = ("10.7.0.1", "fd00:7::1")
    foreign = (*app.hosts, "10.7.0.2", "fd00:7::2")
    frames = identities(me, app, outside, (*me.hosts, *extra, *foreign))

    def meant(allowed):
        return {
            " ".join(key): (frame, {"outside"} if key[0] == "own" and key[1] in allowed else ())
            for key, frame in frames.items()
        }

    assert misdelivered(machines, sender, meant(me.hosts)) == []
    addressed(guarded, sender, *me.hosts, "10.7.0.1/32", "fd00:7::1/128")
    assert misdelivered(machines, sender, meant(me.hosts + extra)) == []
    addressed(guarded, sender, *me.hosts)
    assert misdelivered(machines, sender, meant(me.hosts)) == []


def test_T073_a_prefix_is_allowed_from_its_first_address_to_its_last(guarded):
    machines = guarded.lab.machines
    web, app, outside = machines["web"], machines["app"], machines["outside"]
    inside = ("10.7.8.0", "10.7.8.1", "10.7.8.255", "fd00:7:8::", "fd00:7:8::1", "fd00:7:8:0:ffff:ffff:ffff:ffff")
    around = ("10.7.7.255", "10.7.9.0", "10.6.8.1", "fd00:7:7:ffff:ffff:ffff:ffff:ffff", "fd00:7:8:1::", "fd00:6:8::1")
    addressed(guarded, "web", *web.hosts, "10.7.8.0/24", "fd00:7:8::/64")
    frames = identities(web, app, outside, (*web.hosts, *inside, *around))
    cases = {
        " ".join(key): (frame, {"outside"} if key[0] == "own" and key[1] not in around else ())
        for key, frame in frames.items()
    }
    assert misdelivered(machines, "web", cases) == []


# ---- what a system says when it comes up, or moves


@pytest.mark.parametrize("sender", ["web", "db"])
def test_T074_duplicate_address_detection_is_heard_by_everybody(guarded, sender):
    machines = guarded.lab.machines
    me, app = machines[sender], machines["app"]

    def asks(target, *options):
        group = solicited_node(target)
        packet = neighbour_solicit("::", group, target, *options)
        return ethernet(multicast_mac(group), me.mac, 0x86DD, packet)

    everybody = set(machines) - {sender}
    cases = {
        "own": (asks(me.address(6)), everybody),
        "own link-local": (asks(me.link_local), everybody),
        "of another": (asks(app.address(6)), ()),
        "of nobody": (asks("fd00:1::909"), ()),
        "own, with a link-layer option": (asks(me.address(6), me.mac), ()),  # RFC 4861, 7.1.1: must not be
    }
    assert misdelivered(machines, sender, cases) == []


def test_T074_a_duplicate_address_is_detected(guarded):
    firewall(guarded, "closed", 101, **CLOSED)
    settle(guarded)
    web, _, db, outside = people(guarded)
    group = solicited_node(web.address(6))
    for asker in (db, outside):
        asker.call("capture", capture="defends", src=web.mac, dst=ALL_NODES, ethertype=0x86DD)
    asks = ethernet(multicast_mac(group), outside.mac, 0x86DD, neighbour_solicit("::", group, web.address(6)))
    assert misdelivered(guarded.lab.machines, "outside", {"DAD": (asks, set(DROPLETS))}) == []
    for asker in (db, outside):  # the droplet's own system says that the address is taken
        heard = asker.call("captured", capture="defends", seconds=10, count=1)
        assert [frame[108:110] for frame in heard[:1]] == ["88"], asker.name  # ICMPv6 type 136


def test_T074_reports_and_solicitations_are_no_way_out_to_one_machine(guarded):
    """They go to groups; to one address they would be a channel past the rules."""
    firewall(guarded, "closed", 101, **CLOSED)
    settle(guarded)
    web, _, _, outside = people(guarded)
    secret = bytes(4) + b"anything that fits"
    cases = {
        f"type {kind}": (icmp6_frame(outside.mac, web.mac, web.link_local, outside.address(6), kind, secret, hops), ())
        for kind, hops in ((131, 1), (132, 1), (143, 1), (133, 255))
    }
    assert misdelivered(guarded.lab.machines, "web", cases) == []


def test_T074_multicast_listeners_report_to_the_uplink_and_hear_queries(guarded):
    """Else switches that snoop would not learn where solicited-node groups are, and IPv6 would be lost."""
    web, app, _, outside = people(guarded)

    def report(me, src):
        group = solicited_node(me.address(6))
        return ethernet(multicast_mac("ff02::16"), me.mac, 0x86DD, mld_report(src, group))

    for me in (web, app):  # behind a firewall that has no rule for it, and behind none
        cases = {
            "own": (report(me, me.link_local), {"outside"}),
            "from no address": (report(me, "::"), {"outside"}),
            "from another": (report(me, outside.link_local), ()),
        }
        assert misdelivered(guarded.lab.machines, me.name, cases) == []
    query = ethernet(ALL_NODES, outside.mac, 0x86DD, mld_query(outside.link_local))
    assert misdelivered(guarded.lab.machines, "outside", {"query": (query, set(DROPLETS))}) == []
    firewall(guarded, "closed", 101, **CLOSED)
    settle(guarded)
    query = ethernet(ALL_NODES, web.mac, 0x86DD, mld_query(web.link_local))
    assert misdelivered(guarded.lab.machines, "web", {"a droplet that asks": (query, ())}) == []


@pytest.mark.parametrize("sender", ["web", "db"])
def test_T075_gratuitous_arp_is_for_own_addresses(guarded, sender):
    machines = guarded.lab.machines
    me, everybody = machines[sender], set(machines) - {sender}
    a4 = me.address()
    cases = {
        "request": (ethernet(BROADCAST, me.mac, 0x0806, arp(1, me.mac, a4, NOBODY, a4)), everybody),
        "reply": (ethernet(BROADCAST, me.mac, 0x0806, arp(2, me.mac, a4, BROADCAST, a4)), everybody),
    }
    for name, other in machines.items():
        if name != sender:
            b4 = other.address()
            cases[f"request for {name}"] = (ethernet(BROADCAST, me.mac, 0x0806, arp(1, me.mac, b4, NOBODY, b4)), ())
            cases[f"reply for {name}"] = (ethernet(BROADCAST, me.mac, 0x0806, arp(2, me.mac, b4, BROADCAST, b4)), ())
    assert misdelivered(machines, sender, cases) == []


@pytest.mark.parametrize("sender", ["web", "db"])
def test_T075_reverse_arp_announces_the_own_mac_to_the_uplink(guarded, sender):
    """What a hypervisor sends for a machine that has just moved to it, so that switches learn where it is now."""
    machines = guarded.lab.machines
    me, other = machines[sender], machines["app"]

    def rarp(op, sha, tha, src=me.mac, spa="0.0.0.0"):
        return ethernet(BROADCAST, src, 0x8035, arp(op, sha, spa, tha, spa))

    cases = {
        "request": (rarp(3, me.mac, me.mac), {"outside"}),
        "reply": (rarp(4, me.mac, me.mac), ()),
        "sender is another": (rarp(3, other.mac, me.mac), ()),
        "both are another": (rarp(3, other.mac, other.mac), ()),
        "on the wire another": (rarp(3, me.mac, me.mac, other.mac), ()),
        "all another": (rarp(3, other.mac, other.mac, other.mac), ()),
    }
    found = deliveries(machines, sender, cases)
    for name, (_, to) in cases.items():
        # other droplets need not hear it, and may
        assert found[name] & {"outside"} == to if to else found[name] == set(), f"{name}: {found[name]}"


# ---- other frames


@pytest.mark.parametrize("sender", ["web", "db"])
def test_T076_only_untagged_ip_and_arp_leave(guarded, sender):
    machines = guarded.lab.machines
    me, cases = machines[sender], {}
    for name, you in machines.items():
        if name == sender:
            continue
        a, b = me.address(), you.address()
        packet = ipv4(a, b, 17, udp(a, b, 5000, 5001, b"who hides what"))
        packet6 = ipv6(me.address(6), you.address(6), 58, bytes(8))
        question = arp(1, me.mac, a, NOBODY, b)
        ip, ip_tag, arp_tag = struct.pack("!H", 0x0800), struct.pack("!HH", 5, 0x0800), struct.pack("!HH", 5, 0x0806)
        snap = bytes.fromhex("aaaa03000000")
        frames = {
            "VLAN 5": ethernet(you.mac, me.mac, 0x0800, packet, vlan=5),
            "VLAN 5, ARP": ethernet(you.mac, me.mac, 0x0806, question, vlan=5),
            "VLAN 5, IPv6": ethernet(you.mac, me.mac, 0x86DD, packet6, vlan=5),
            "VLAN 4095": ethernet(you.mac, me.mac, 0x0800, packet, vlan=4095),
            "priority 0": ethernet(you.mac, me.mac, 0x0800, packet, vlan=0),
            "priority 7": ethernet(you.mac, me.mac, 0x0800, packet, vlan=0xE000),
            "drop eligible": ethernet(you.mac, me.mac, 0x0800, packet, vlan=0x1000),
            "two tags": ethernet(you.mac, me.mac, 0x8100, ip_tag + packet, vlan=0),
            "two tags, ARP": ethernet(you.mac, me.mac, 0x8100, arp_tag + question, vlan=0),
            "provider tag": ethernet(you.mac, me.mac, 0x88A8, ip_tag + packet),
            "provider and customer tag": ethernet(you.mac, me.mac, 0x88A8, b"\0\7\x81\0" + ip_tag + packet),
            "another provider's tag": ethernet(you.mac, me.mac, 0x9100, ip_tag + packet),
            "MPLS": ethernet(you.mac, me.mac, 0x8847, b"\0\1\1\x40" + packet),
            "MPLS multicast": ethernet(you.mac, me.mac, 0x8848, b"\0\1\1\x40" + packet),
            "PPPoE discovery": ethernet(you.mac, me.mac, 0x8863, bytes.fromhex("110900000004") + b"\1\1\0\0" + ip),
            "PPPoE session": ethernet(you.mac, me.mac, 0x8864, bytes.fromhex("11000001001a0021") + packet),
            "802.1X": ethernet(you.mac, me.mac, 0x888E, bytes(4) + name.encode()),
            "MACsec": ethernet(you.mac, me.mac, 0x88E5, bytes(4) + name.encode()),
            "provider backbone": ethernet(
                you.mac, me.mac, 0x88E7, bytes(4) + mac_bytes(you.mac + me.mac) + ip + packet
            ),
            "wake on LAN": ethernet(you.mac, me.mac, 0x0842, b"\xff" * 6 + mac_bytes(you.mac) * 16),
            "experimental": ethernet(you.mac, me.mac, 0x88B5, b"what is it" + name.encode()),
            "NSH": ethernet(you.mac, me.mac, 0x894F, bytes.fromhex("0fc2010100000100") + bytes(16) + packet),
            "LLC": ethernet(you.mac, me.mac, 3 + len(name), b"\xf0\xf0\3" + name.encode()),
            "SNAP of a vendor": ethernet(you.mac, me.mac, len(packet) + 8, bytes.fromhex("aaaa0300000c") + ip + packet),
            "IPv4 called IPv6": ethernet(you.mac, me.mac, 0x86DD, packet),
            "IPv6 called IPv4": ethernet(you.mac, me.mac, 0x0800, packet6),
            "ARP of another medium": ethernet(you.mac, me.mac, 0x0806, b"\0\6" + question[2:]),
        }
        stolen = ipv4("10.1.9.9", b, 17, udp("10.1.9.9", b, 5000, 5001, b"who hides what"))
        frames["SNAP, foreign address"] = ethernet(you.mac, me.mac, len(stolen) + 8, snap + ip + stolen)
        cases |= {f"{kind} to {name}": (frame, ()) for kind, frame in frames.items()}
    for kind, group, ethertype in (
        ("LLDP", "01:80:c2:00:00:0e", 0x88CC),
        ("LLDP to all", BROADCAST, 0x88CC),
        ("LACP", "01:80:c2:00:00:02", 0x8809),
        ("CDP", "01:00:0c:cc:cc:cc", 20),
        ("spanning tree", "01:80:c2:00:00:00", 38),
        ("loop test", "cf:00:00:00:00:00", 0x9000),
        ("fault management", "01:80:c2:00:00:30", 0x8902),
        ("time", "01:1b:19:00:00:00", 0x88F7),
        ("unknown to all", BROADCAST, 0x88B5),
    ):
        cases[kind] = (ethernet(group, me.mac, ethertype, b"\x42\x42\3" + bytes(35)), ())
    assert misdelivered(machines, sender, cases) == []


def test_T076_from_the_uplink_only_untagged_frames_come_in(guarded):
    web, app, _, outside = people(guarded)
    cases = {}
    for you in (web, app):
        a, b = outside.address(), you.address()
        packet = ipv4(a, b, 17, udp(a, b, 5000, 5001, b"who hides what"))
        tag = struct.pack("!HH", 5, 0x0800)
        cases |= {
            f"untagged to {you.name}": (ethernet(you.mac, outside.mac, 0x0800, packet), {you.name}),
            f"VLAN 5 to {you.name}": (ethernet(you.mac, outside.mac, 0x0800, packet, vlan=5), ()),
            f"priority to {you.name}": (ethernet(you.mac, outside.mac, 0x0800, packet, vlan=0), ()),
            f"provider tag to {you.name}": (ethernet(you.mac, outside.mac, 0x88A8, tag + packet), ()),
        }
    assert misdelivered(guarded.lab.machines, "outside", cases) == []


# ---- one MAC twice, few addresses, a MAC from the wrong side


def test_T077_one_mac_is_for_one_port_of_a_hypervisor(guarded):
    """A bridge has one network, and delivers by MAC: two ports of one MAC there are refused."""
    web, app, db, outside = people(guarded)
    answer = addressed(guarded, "app", *app.hosts, mac=web.mac)
    assert answer.status == 409
    assert answer.json["message"] == f"MAC {web.mac} belongs to port web"
    own = {"own": (udp_frame(outside.mac, app.mac, app.address(), outside.address()), {"outside"})}
    assert misdelivered(guarded.lab.machines, "app", own) == []  # what was there stays in force

    # on another hypervisor, which may be another network, it is accepted; each port keeps to its own addresses
    assert addressed(guarded, "db", *db.hosts, mac=web.mac).status == 200
    for name, me, twin in (("web", web, db), ("db", db, web)):
        frames = {
            "own address": (udp_frame(outside.mac, web.mac, me.address(), outside.address()), {"outside"}),
            "address of the other": (udp_frame(outside.mac, web.mac, twin.address(), outside.address()), ()),
            "MAC of before": (udp_frame(outside.mac, db.mac, me.address(), outside.address()), ()),
        }
        marked = ethernet(BROADCAST, web.mac, 0x0806, arp(1, web.mac, me.address(), NOBODY, outside.address()))
        frames["asks"] = (marked, set(guarded.lab.machines) - {name})
        # db's port has web's MAC now, so db's own probe is no honest one: this is sent as web
        found = as_mac(guarded, name, web.mac, frames)
        assert found == {case: set(to) for case, (_, to) in frames.items()}, name
    told = {"to the MAC": (udp_frame(web.mac, app.mac, app.address(), web.address()), {"web"})}
    assert misdelivered(guarded.lab.machines, "app", told) == []


def as_mac(cloud, sender, mac, frames):
    machines = {**cloud.lab.machines, sender: replace(cloud.lab.machines[sender], mac=mac)}
    return deliveries(machines, sender, frames)


def variants(me, you):
    """What a droplet may say with one kind of address only, to `you`: kind -> frame."""
    a4, b4, a6, b6 = me.address(), you.address(), me.address(6), you.address(6)
    link = me.link_local
    solicit = neighbour_solicit(link, b6, b6, me.mac)
    return {
        "IPv4": udp_frame(you.mac, me.mac, a4, b4),
        "ARP": ethernet(you.mac, me.mac, 0x0806, arp(2, me.mac, a4, you.mac, b4)),
        "DHCP renewal": udp_frame(you.mac, me.mac, a4, b4, dhcp4(3, me.mac), 68, 67),
        "IPv6": udp_frame(you.mac, me.mac, a6, b6),
        "advertisement": ethernet(you.mac, me.mac, 0x86DD, neighbour_advert(a6, b6, a6, me.mac)),
        "link-local": udp_frame(you.mac, me.mac, link, you.link_local),
        "link-local solicitation": ethernet(you.mac, me.mac, 0x86DD, solicit),
        "DHCP": udp_frame(BROADCAST, me.mac, "0.0.0.0", "255.255.255.255", dhcp4(1, me.mac), 68, 67),
        "DHCPv6": udp_frame(multicast_mac("ff02::1:2"), me.mac, link, "ff02::1:2", dhcp6(1, me.mac), 546, 547),
    }


@pytest.mark.parametrize("sender", ["web", "db"])
@pytest.mark.parametrize("versions", [(4,), (6,), ()], ids=["IPv4 only", "IPv6 only", "no address"])
def test_T078_a_port_speaks_with_the_addresses_that_it_has(guarded, sender, versions):
    """The link-local address of its MAC, and what a client needs to get an address, are every port's."""
    machines = guarded.lab.machines
    me, outside = machines[sender], machines["outside"]
    addressed(guarded, sender, *(me.address(version) for version in versions))
    needs = {"IPv4": 4, "ARP": 4, "DHCP renewal": 4, "IPv6": 6, "advertisement": 6}
    cases = {
        kind: (frame, {"outside"} if needs.get(kind) in (None, *versions) else ())
        for kind, frame in variants(me, outside).items()
    }
    assert misdelivered(machines, sender, cases) == []
    # what is sent to it comes, whatever its addresses are: delivery goes by MAC
    into = {
        version: udp_frame(me.mac, outside.mac, outside.address(version), me.address(version)) for version in (4, 6)
    }
    assert misdelivered(machines, "outside", {f"IPv{v}": (frame, {sender}) for v, frame in into.items()}) == []


@pytest.fixture
def unlearned(guarded):
    """The network outside does not believe a MAC from the port of `outside`, which would confuse itself."""
    fabric = f"fw-{guarded.lab.tag}-fabric"
    ip(fabric, "link set outside type bridge_slave learning off")
    yield guarded
    ip(fabric, "link set outside type bridge_slave learning on")


@pytest.mark.parametrize("rules", ["closed", "open"])
def test_T079_a_frame_from_the_uplink_with_a_droplets_mac_confuses_nothing(unlearned, rules):
    web, app, db, outside = people(unlearned)
    machines = unlearned.lab.machines
    if rules == "closed":
        firewall(unlearned, "closed", 101, **CLOSED)
        settle(unlearned)
    to_web = {"web"} if rules == "open" else set()

    def packet(me, you, mac, data):
        return udp_frame(you.mac, mac, me.address(), you.address(), data)

    lies = {
        "as app to web": (packet(outside, web, app.mac, b"as app"), to_web),
        "as web to web": (packet(outside, web, web.mac, b"as web"), to_web),
        "as app to app": (packet(outside, app, app.mac, b"itself"), {"app"}),
        "as app, its address too": (packet(app, web, app.mac, b"address"), to_web),
        "asks as app": (ethernet(BROADCAST, app.mac, 0x0806, arp(1, app.mac, app.address(), NOBODY, web.address())),
                        set(DROPLETS)),
    }  # fmt: skip
    assert misdelivered(machines, "outside", lies) == []
    # a bridge that learns would now send out of the uplink what is for app
    from_web = {"web to app": (packet(web, app, web.mac, b"after"), {"app"} if rules == "open" else ())}
    assert misdelivered(machines, "web", from_web) == []
    from_app = {
        "app to web": (packet(app, web, app.mac, b"after"), to_web),
        "app to outside": (packet(app, outside, app.mac, b"after"), {"outside"}),
    }
    assert misdelivered(machines, "app", from_app) == []
    assert misdelivered(machines, "db", {"db to app": (packet(db, app, db.mac, b"after"), {"app"})}) == []
    honest = {"outside to app": (packet(outside, app, outside.mac, b"honest"), {"app"})}
    assert misdelivered(machines, "outside", honest) == []
