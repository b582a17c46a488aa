"""Whom a rule names, with real packets: addresses, prefixes, droplets, tags, and sets of these that change.

Behaviours T040 to T053; those of them that `test_lab_firewall.py` shows are not repeated.  T052 is about more addresses
than a lab has, so it walks the compiled tables instead.  What a rule opens for its peers is `test_lab_rules.py`.
"""

from __future__ import annotations

import random
import re
import time
from contextlib import contextmanager
from itertools import product

import pytest
from fleet import Fleet, Site
from policies import DPID, rule

from firewall_app.pipeline.compile import Rulings
from firewall_app.pipeline.flow import ETH_IP, IP_TCP
from firewall_app.pipeline.plan import units
from firewall_app.pipeline.tracker import SYN, Frame
from firewall_app.policy.decide import Packet, Verdict, decide
from firewall_app.policy.model import Address, Droplet, Firewall, Hypervisor, Peer, Port, Protocol, address, mac_number
from firewall_app.policy.policy import Policy
from lab.cloud import Cloud, inbound, outbound, seconds_until
from lab.controller import Controller
from lab.network import Lab
from lab.truth import Case, table

lab = pytest.mark.lab
MACHINES = {"web": ("hv1", 101, ("web",)), "app": ("hv1", 102, ("app",)), "ops": ("hv1", 104, ()),
            "db": ("hv2", 103, ())}  # fmt: skip
# Of the machine outside: the first of each IP version, a host, and a /24 and a /112 with both neighbours of each.
HOSTS = (("10.1.0.200", "10.1.0.201", "10.1.4.255", "10.1.5.0", "10.1.5.1", "10.1.5.255", "10.1.6.0"),
         ("fd00:1::200", "fd00:1::201", "fd00:1::4:ffff", "fd00:1::5:0", "fd00:1::5:1", "fd00:1::5:ffff",
          "fd00:1::6:0"))  # fmt: skip
INSIDE = {"10.1.0.201", "10.1.5.0", "10.1.5.1", "10.1.5.255",
          "fd00:1::201", "fd00:1::5:0", "fd00:1::5:1", "fd00:1::5:ffff"}  # fmt: skip


@pytest.fixture(scope="module")
def cloud():
    with Lab("s" + hex(int(time.time() * 1000) & 0xFFFFFF)[2:]) as network:
        for _ in range(2):
            network.add_hypervisor()
        for name, (host, _, _) in MACHINES.items():
            network.add_machine(name, host)
        network.add_outside(addresses=[f"{host}/{size}" for hosts, size in zip(HOSTS, (16, 64), strict=True)
                                       for host in hosts])  # fmt: skip
        controller = network.keep(Controller(network.directory / "controller", host=network.address))
        controller.start()
        network.connect(controller.openflow_port)
        built = Cloud(network, controller)
        built.register_hypervisors()
        for name, (_, droplet_id, tags) in MACHINES.items():
            built.register(name, droplet_id, tags)
        built.wait_in_sync()
        yield built


@pytest.fixture
def clean(cloud):
    """The cloud with no firewall, and with the droplets and tags that it began with."""
    for firewall in cloud.call("GET", "/v2/firewalls?per_page=200")["firewalls"]:
        cloud.call("DELETE", f"/v2/firewalls/{firewall['id']}")
    own = {droplet_id for _, droplet_id, _ in MACHINES.values()}
    for droplet in cloud.call("GET", "/v1/droplets?per_page=200")["droplets"]:
        if droplet["id"] not in own:
            cloud.call("DELETE", f"/v1/droplets/{droplet['id']}?ports=delete")
    for name, (_, droplet_id, tags) in MACHINES.items():
        cloud.call("PUT", f"/v1/droplets/{droplet_id}", {"name": name, "tags": list(tags)})
    for tag in ("pool", "spare"):
        cloud.call("POST", "/v2/tags", {"name": tag})
    return cloud


def body_of(name, inbound_rules=(), outbound_rules=(), **attached):
    return {"name": name, "inbound_rules": list(inbound_rules), "outbound_rules": list(outbound_rules), **attached}


def protect(cloud, name="fw", inbound_rules=(), outbound_rules=(), **attached):
    """The path of a new firewall."""
    body = body_of(name, inbound_rules, outbound_rules, **attached)
    return f"/v2/firewalls/{cloud.call('POST', '/v2/firewalls', body, expect=202)['firewall']['id']}"


def join(cloud, tag, *droplets, leave=False):
    members = [{"resource_id": str(droplet), "resource_type": "droplet"} for droplet in droplets]
    cloud.call("DELETE" if leave else "POST", f"/v2/tags/{tag}/resources", {"resources": members}, expect=204)


def ghost(cloud, number, *addresses):
    """A droplet whose interface never appears: the addresses of a member, and no machine."""
    cloud.call("PUT", f"/v1/droplets/{number}", {"name": f"ghost{number}", "tags": []})
    port = {"droplet_id": number, "hypervisor": cloud.lab.hypervisors["hv2"].dpid, "interface": f"ghost{number}",
            "mac": f"02:00:00:00:0a:{number & 255:02x}", "addresses": list(addresses)}  # fmt: skip
    cloud.call("PUT", f"/v1/ports/ghost{number}", port)


def passing(cloud, cases):
    """Which of the cases pass; each must go as the policy means."""
    expected, probed, wrong = cloud.compare(cases)
    assert not wrong, table(expected, probed)
    return {case for case, passes in expected.items() if passes}


def who(cloud, target="web", port=80, version=4):
    """The machines that reach a TCP port."""
    sources = [name for name in cloud.lab.machines if name != target]
    return {case.source for case in passing(cloud, [Case(name, target, "tcp", port, version) for name in sources])}


def held(cloud):
    """For each hypervisor what its flows do, by what they match; less those that hold the generation, or the fence."""
    return {
        name: dict(line.split(" actions=") for line in host.flows()
                   if not re.search(r"table=(20|35),.*ct_mark|pkt_mark|actions=note", line, re.IGNORECASE))
        for name, host in cloud.lab.hypervisors.items()
    }  # fmt: skip


def changed(before, after):
    """For each hypervisor the matches whose flow came, went or does something else."""
    return {
        name: {match for match in before[name].keys() | after[name].keys()
               if before[name].get(match) != after[name].get(match)}
        for name in before
    }  # fmt: skip


@contextmanager
def lossless(cloud, sender, receiver, port, version=4):
    """A stream of 500 datagrams a second of which none may be lost; yields how many have arrived."""
    source, target = cloud.lab.machines[sender], cloud.lab.machines[receiver]
    address, name = target.address(version), f"{sender}-{port}"
    target.call("udp_count", port=port, version=version)
    stream = source.submit("udp_stream", stream=name, address=address, port=port, rate=500, seconds=120)

    def count():
        return target.call("udp_counted", port=port)["packets"]

    try:
        assert seconds_until(count, 10) is not None, "not even the first arrives"
        yield count
    finally:
        source.call("udp_stop", stream=name)
        sent = stream.result(30)["sent"]
        complete = seconds_until(lambda: count() >= sent, 5) is not None
        arrived = target.call("udp_counted", port=port, end=True)["packets"]
    assert complete, f"{arrived} of {sent} arrived"
    assert arrived == sent


def more(*counts, than=20):
    """Waits until each stream has brought so many more."""
    goals = [(count, count() + than) for count in counts]
    for count, goal in goals:
        assert seconds_until(lambda count=count, goal=goal: count() >= goal, 10) is not None, "the stream stopped"


# ---- addresses


@lab
def test_T040_a_host_and_a_prefix_end_where_they_say(clean):
    peers = ["10.1.0.201", "10.1.5.0/24", "fd00:1::201", "fd00:1::5:0/112"]
    protect(clean, inbound_rules=[inbound("tcp", "80", addresses=peers)],
            outbound_rules=[outbound("tcp", "80", addresses=peers)], tags=["web"])  # fmt: skip
    web, outside = clean.lab.machines["web"], clean.lab.machines["outside"]
    for machine in (web, outside):
        machine.call("listen", tcp=[80], udp=[])
    clean.settle()

    def probe(timeout):
        """Each address of `outside`, as the one that asks and as the one that is asked."""
        asked = {
            ("from", host): outside.submit("tcp", address=web.address(version), port=80, source=host, timeout=timeout)
            for version, hosts in zip((4, 6), HOSTS, strict=True)
            for host in hosts
        }
        asked |= {("to", host): web.submit("tcp", address=host, port=80, timeout=timeout)
                  for hosts in HOSTS for host in hosts}  # fmt: skip
        return {case: answer.result(60) for case, answer in asked.items()}

    outcomes = probe(2)
    assert {case for case, outcome in outcomes.items() if outcome == "open"} == set(product(("from", "to"), INSIDE))
    assert set(outcomes.values()) == {"open", "timeout"}


@lab
def test_T042_two_tags_with_one_member_open_for_it_until_both_are_gone(clean):
    both = [inbound("tcp", "80", tags=["pool"]), inbound("tcp", "80-81", tags=["spare"])]
    path = protect(clean, inbound_rules=both, tags=["web"])
    join(clean, "pool", 102, 103)
    join(clean, "spare", 102)
    assert who(clean) == {"app", "db"}
    join(clean, "pool", 102, leave=True)
    assert who(clean) == {"app", "db"}
    clean.call("DELETE", f"{path}/rules", {"inbound_rules": both[1:]}, expect=204)
    assert who(clean) == {"db"}


@lab
def test_T042_one_rule_that_names_an_address_several_times_loses_it_with_the_last(clean):
    app = clean.lab.machines["app"].address()
    peer = {"tags": ["spare", "pool"], "droplet_ids": [102], "addresses": [app]}
    path = protect(clean, inbound_rules=[inbound("tcp", "80", **peer)], tags=["web"])
    join(clean, "pool", 102)
    for less in ({"addresses": []}, {"droplet_ids": []}, {"tags": ["pool"]}):
        peer |= less
        clean.call("PUT", path, body_of("fw", [inbound("tcp", "80", **peer)], tags=["web"]), expect=200)
        assert "app" in who(clean)
    join(clean, "pool", 102, leave=True)
    assert who(clean) == set()


@lab
def test_T043_an_address_of_two_droplets_stays_while_one_of_them_does(clean):
    ghost(clean, 201, clean.lab.machines["app"].address())
    protect(clean, inbound_rules=[inbound("tcp", "80", tags=["pool"])], tags=["web"])
    join(clean, "pool", 102, 201)
    join(clean, "pool", 102, leave=True)
    assert who(clean) == {"app"}
    join(clean, "pool", 102)
    clean.call("DELETE", "/v1/droplets/201?ports=delete", expect=204)
    assert who(clean) == {"app"}
    join(clean, "pool", 102, leave=True)
    assert who(clean) == set()


@lab
def test_an_external_peer_is_what_the_operator_says_now(clean):
    mapping = "/v1/external-peers/4de7ac8b-495b-4884-9a69-1050c6793cd6"
    rule = inbound("tcp", "80", load_balancer_uids=["4DE7AC8B-495B-4884-9A69-1050C6793CD6"])
    protect(clean, inbound_rules=[rule], tags=["web"])
    assert who(clean) == set()
    clean.call("PUT", mapping, {"addresses": ["10.1.0.200/31"], "droplet_ids": [103]}, expect=201)
    assert who(clean) == {"outside", "db"}
    clean.call("PUT", mapping, {"droplet_ids": [102, 103]}, expect=200)
    assert who(clean) == {"app", "db"}
    clean.call("DELETE", mapping, expect=204)
    assert who(clean) == set()


@lab
def test_T045_one_address_in_several_spellings_is_one_flow(clean):
    plain = ["10.1.0.202", "10.1.5.0/24", "fd00:1::202", "fd00:1::5:0/112"]
    spelled = [*plain, "10.1.0.202/32", "10.1.5.77/24", "10.1.5.0/24", "FD00:1:0::202/128", "fd00:1::5:9/112"]
    path = protect(clean, inbound_rules=[inbound("tcp", "80", addresses=plain)], tags=["web"])
    before = clean.lab.hypervisors["hv1"].flows()
    body = body_of("fw", [inbound("tcp", "80", addresses=spelled)], tags=["web"])
    clean.call("PUT", path, body, expect=200)
    after = clean.lab.hypervisors["hv1"].flows()
    assert len(after) == len(before)
    for text in ("nw_src=10.1.0.202", "nw_src=10.1.5.0/24", "ipv6_src=fd00:1::202", "ipv6_src=fd00:1::5:0/112"):
        assert sum(text in re.split("[, ]", line) for line in after) == 1, text


# ---- sets that change


@lab
def test_T046_a_set_grows_and_shrinks_and_its_members_lose_nothing(clean):
    """From one droplet to ten and back, past every size at which its flows may take another shape."""
    ghosts = range(211, 220)
    for number in ghosts:
        ghost(clean, number, f"10.1.9.{number}", f"fd00:1::9:{number}")
    rules = [inbound("udp", "7046", tags=["pool"]), inbound("udp", "7047-7049", tags=["pool"])]
    protect(clean, inbound_rules=rules, tags=["web"])
    join(clean, "pool", 102)
    with lossless(clean, "app", "web", 7046) as one, lossless(clean, "app", "web", 7047, version=6) as other:
        for leave, numbers in ((False, ghosts), (True, reversed(ghosts))):
            for number in numbers:
                join(clean, "pool", number, leave=leave)
                more(one, other)
            assert who(clean, port=7046) == set()  # UDP alone was opened


@lab
@pytest.mark.parametrize("version", [4, 6])
def test_T046_a_list_of_addresses_grows_from_one_and_shrinks_and_the_first_loses_nothing(clean, version):
    first = clean.lab.machines["db"].address(version)
    others = [f"10.1.9.{n}" if version == 4 else f"fd00:1::9:{n}" for n in range(1, 10)]
    port = 7050 + version

    def rules(size):
        return [inbound("udp", str(port), addresses=[first, *others][:size])]

    path = protect(clean, inbound_rules=rules(1), tags=["web"])
    protect(clean, "client", outbound_rules=[outbound("udp", str(port), tags=["web"])], droplet_ids=[103])
    with lossless(clean, "db", "web", port, version) as count:
        for size in (2, 3, 2, 8, 9, 10, 9, 8, 2, 1):
            clean.call("PUT", path, body_of("fw", rules(size), tags=["web"]), expect=200)
            more(count)


@lab
def test_T047_two_rules_with_one_tag_are_two_rules(clean):
    rules = [inbound("tcp", "80", tags=["pool"]), inbound("tcp", "81-83", tags=["pool"])]
    join(clean, "pool", 102, 103)
    path = protect(clean, inbound_rules=rules, tags=["web"])
    cases = {Case(source, "web", "tcp", port, 4) for source, port in product(("app", "db"), range(79, 85))}
    assert {case.port for case in passing(clean, cases)} == {80, 81, 82, 83}
    clean.call("DELETE", f"{path}/rules", {"inbound_rules": rules[:1]}, expect=204)
    assert passing(clean, cases) == {case for case in cases if case.port in (81, 82, 83)}
    clean.call("POST", f"{path}/rules", {"inbound_rules": rules[:1]}, expect=204)
    clean.call("DELETE", f"{path}/rules", {"inbound_rules": rules[1:]}, expect=204)
    assert passing(clean, cases) == {case for case in cases if case.port == 80}


@lab
def test_T048_a_rule_in_two_firewalls_stays_until_both_are_gone(clean):
    same = [inbound("udp", "7048", tags=["app"]), inbound("tcp", "80", addresses=["10.1.0.0/16"])]
    protect(clean, "base", tags=["web"])  # without it `web` would be open at the end
    first = protect(clean, "first", inbound_rules=same, tags=["web"])
    second = protect(clean, "second", inbound_rules=same, droplet_ids=[101])
    everybody = {"app", "ops", "db", "outside"}
    with lossless(clean, "app", "web", 7048) as count:
        clean.call("DELETE", second, expect=204)
        more(count)
        assert who(clean) == everybody
        second = protect(clean, "second", inbound_rules=same, droplet_ids=[101])
        clean.call("DELETE", first, expect=204)
        more(count)
        assert who(clean) == everybody
    clean.call("DELETE", second, expect=204)
    assert who(clean) == set()


@lab
def test_T049_a_rule_that_gives_way_to_a_wider_or_narrower_one_loses_nothing(clean):
    narrow = [inbound("udp", "7059", droplet_ids=[102])]
    versions = [
        narrow,
        [inbound("udp", "7000-7100", tags=["app"])],
        [inbound("udp", "0")],
        [inbound("udp", "7059", addresses=["10.1.0.0/16"])],
        [inbound("udp", "7058-7059", tags=["app"], addresses=["192.0.2.0/24"])],
    ]
    path = protect(clean, inbound_rules=narrow, tags=["web"])
    with lossless(clean, "app", "web", 7059) as count:
        for rules in (*versions[1:], *reversed(versions)) * 2:
            clean.call("PUT", path, body_of("fw", rules, tags=["web"]), expect=200)
            more(count)


@lab
def test_T050_who_joins_or_leaves_a_tag_costs_two_flows_an_address_whatever_uses_it(clean):
    """One for the rules that name it as a source, one for those that name it as a destination."""
    into = [inbound(protocol, ports, tags=["pool"])
            for protocol, ports in (("tcp", "80"), ("udp", "1000-1999"), ("icmp", "0"))]  # fmt: skip
    out = [outbound("tcp", "5432", tags=["pool"]), outbound("udp", "53", tags=["pool"])]
    join(clean, "pool", 103)
    protect(clean, inbound_rules=into, outbound_rules=out, droplet_ids=[101, 102])
    addresses = 3  # of the droplet that joins: IPv4, IPv6 and link-local
    before = held(clean)
    join(clean, "pool", 104)
    with_member = held(clean)
    assert who(clean) == {"db", "ops"}
    join(clean, "pool", 104, leave=True)
    after = held(clean)
    assert who(clean) == {"db"}
    for change in (changed(before, with_member), changed(with_member, after)):
        assert change["hv2"] == set()
        assert 0 < len(change["hv1"]) <= 2 * addresses, "\n".join(sorted(change["hv1"])[:20])
    assert after == before


@lab
def test_T051_tags_droplets_and_addresses_in_one_rule_follow_each_change(clean):
    outside = clean.lab.machines["outside"].address()
    path = protect(clean, inbound_rules=[inbound("tcp", "80", tags=["pool"], addresses=[outside])], tags=["web"])
    join(clean, "pool", 104)
    assert who(clean) == {"outside", "ops"}
    combined = [inbound("tcp", "80", tags=["pool", "spare"], droplet_ids=[102])]
    clean.call("PUT", path, body_of("fw", combined, tags=["web"]), expect=200)
    join(clean, "spare", 103)
    assert who(clean) == {"ops", "app", "db"}
    # The rule turns to another tag while the tag that it leaves still has members.
    clean.call("PUT", path, body_of("fw", [inbound("tcp", "80", tags=["spare"])], tags=["web"]), expect=200)
    join(clean, "spare", 102)
    assert who(clean) == {"app", "db"}
    clean.call("DELETE", "/v2/tags/pool", expect=204)
    join(clean, "spare", 103, leave=True)
    assert who(clean) == {"app"}


@lab
def test_T053_a_rule_is_where_its_droplets_are_and_comes_with_them(clean):
    network = clean.lab
    clean.call("POST", "/v2/tags", {"name": "late"})
    join(clean, "pool", 102, 103)
    before = held(clean)
    protect(clean, inbound_rules=[inbound("tcp", "80-82", tags=["pool"])], tags=["web", "late"])
    machine = network.add_machine("late", "hv2", plugged=False)
    try:
        clean.register("late", 105, ["late"])
        change = changed(before, held(clean))
        assert change["hv1"]
        assert change["hv2"] == set()  # members are there, and nobody whom the rule protects
        network.plug("late")
        assert seconds_until(lambda: clean.call("GET", "/v1/ports/late")["status"] == "succeeded", 10) is not None
        for port in (80, 82):
            assert who(clean, "late", port) == {"app", "db"}
        assert who(clean, "late", 83) == set()
    finally:
        if network.taps["late"].plugged:
            network.unplug("late")
        network.machines.pop("late")
        clean.droplets.pop("late", None)
        machine.close()


# ---- more addresses than a lab has

ADDRESSES, PORTS = 1000, 50
ROUTER = 0x02_00_00_00_FF_FE


def large():
    """One rule of 1000 addresses and 30 port masks, for 50 droplets of one hypervisor; and the same without it."""
    draft = Policy().edit()
    draft.put(Hypervisor(DPID, "hv-1", ("up0",)))
    for n in range(1, PORTS + 1):
        draft.put(Droplet(n))
        mac = f"02:00:00:00:01:{n:02x}"
        draft.put(Port(f"p{n}", n, DPID, f"tap{n}", None, mac, (f"10.0.0.{n}",), slot=draft.new_slot()))
    # Every other address of 8 x 250: what lies between two members is none.
    peers = Peer(tuple(f"198.51.{n // 125}.{n % 125 * 2}" for n in range(ADDRESSES)))
    everyone = tuple(range(1, PORTS + 1))
    empty = Firewall("f", "default", "large", (), (), everyone)
    draft.put(empty)
    without = draft.done()
    draft = without.edit()
    allow = rule("inbound", "tcp", "1-65534", peers, draft.new_rule_id())
    assert len(allow.ports.masks()) == 30
    draft.put(Firewall("f", "default", "large", (allow,), (), everyone))
    return without, draft.done()


def test_T052_a_large_rule_costs_a_sum_and_means_the_product():
    site = Site({DPID: {1: "up0", **{n + 1: f"tap{n}" for n in range(1, PORTS + 1)}}}, {DPID: 1})
    without, policy = large()
    most = 3 * (ADDRESSES + 30 + PORTS)

    def keys(wanted):
        """What the units of a policy render to; no more of it than is needed to say that it is too much."""
        found = set()
        for unit in units(wanted, DPID, site.interfaces[DPID], Rulings()).values():
            for flow in unit.flows():
                found.add(flow.key)
                if len(found) > 50 * PORTS + 10 * most:
                    return found
        return found

    cost = len(keys(policy) - keys(without))
    assert ADDRESSES < cost < most

    fleet = Fleet(site, Rulings())
    fleet.follow(policy)
    draw = random.Random(52)
    members = sorted({int(network.value) for network in policy.firewalls["f"].inbound_rules[0].peer.networks})
    outcomes = set()
    for number in range(400):
        source = draw.choice(members) + draw.choice((0, 0, 1, -1, 1 << 9))
        port = draw.choice((0x0001, 0xFFFE, 0xFFFF, 1 << draw.randrange(16), draw.randrange(1, 0x10000)))
        receiver = policy.ports[f"p{draw.randint(1, PORTS)}"]
        target = address(receiver.addresses[0])
        packet = Packet(Address(4, source), target, Protocol.TCP, 1024 + number, port, None, receiver.id)
        frame = Frame(ROUTER, mac_number(receiver.mac), ETH_IP, src=source, dst=target.value, proto=IP_TCP,
                      sport=1024 + number, dport=port, flags=SYN)  # fmt: skip
        meant = decide(policy, packet).verdict is Verdict.ALLOW
        delivery = fleet.send(None, frame)
        assert (delivery.reached == (fleet.place(receiver),)) is meant, f"{packet}\n{delivery}"
        assert bool(delivery.reached) is meant
        outcomes.add((meant, source in members, 0 < port < 0xFFFF))
    assert outcomes == {(True, True, True), (False, True, False), (False, False, True), (False, False, False)}
