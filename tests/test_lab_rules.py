"""Rules with real packets: directions, protocols, ports, ICMP; and what a rule cannot say.

Behaviours T001 to T031; those of them that `test_lab_firewall.py` shows are not repeated.  Every outcome is asserted
twice: as the test names it, and as the policy's meaning has it.  Whom a rule names is `test_lab_sets.py`.
"""

from __future__ import annotations

import struct
import time
from itertools import product

import pytest
from frames import checksum, ethernet, icmp6, ipv4, ipv6, tcp, udp

from lab.cloud import Cloud, inbound, outbound
from lab.controller import Controller
from lab.network import Lab
from lab.truth import all_pairs, table

pytestmark = pytest.mark.lab
MACHINES = {"web": ("hv1", 101, ("web",)), "app": ("hv1", 102, ("app",)), "db": ("hv2", 103, ())}
EVERYTHING = [inbound("tcp", "0"), inbound("udp", "0"), inbound("icmp", "0")]
ANYTHING = [outbound("tcp", "0"), outbound("udp", "0"), outbound("icmp", "0")]
SERVICES = (("tcp", 80), ("udp", 80), ("icmp", 0))
FENCE = 9  # a UDP port that is always open where frames are sent: what comes before its datagram has come or never will


@pytest.fixture(scope="module")
def cloud():
    with Lab("r" + hex(int(time.time() * 1000) & 0xFFFFFF)[2:]) as lab:
        for _ in range(2):
            lab.add_hypervisor()
        for name, (host, _, _) in MACHINES.items():
            lab.add_machine(name, host)
        lab.add_outside()
        controller = lab.keep(Controller(lab.directory / "controller", host=lab.address))
        controller.start()
        lab.connect(controller.openflow_port)
        built = Cloud(lab, controller)
        built.register_hypervisors()
        for name, (_, droplet_id, tags) in MACHINES.items():
            built.register(name, droplet_id, tags)
        built.wait_in_sync()
        yield built


@pytest.fixture
def clean(cloud):
    """The cloud with no firewall, and with the tags that it began with."""
    for firewall in cloud.call("GET", "/v2/firewalls?per_page=200")["firewalls"]:
        cloud.call("DELETE", f"/v2/firewalls/{firewall['id']}")
    for name, (_, droplet_id, tags) in MACHINES.items():
        cloud.call("PUT", f"/v1/droplets/{droplet_id}", {"name": name, "tags": list(tags)})
    return cloud


def body_of(name, inbound_rules=(), outbound_rules=(), **attached):
    return {"name": name, "inbound_rules": list(inbound_rules), "outbound_rules": list(outbound_rules), **attached}


def protect(cloud, name="fw", inbound_rules=(), outbound_rules=(), **attached):
    """The path of a new firewall."""
    body = body_of(name, inbound_rules, outbound_rules, **attached)
    return f"/v2/firewalls/{cloud.call('POST', '/v2/firewalls', body, expect=202)['firewall']['id']}"


def passing(cloud, cases):
    """Which of the cases pass; each must go as the policy means."""
    expected, probed, wrong = cloud.compare(cases)
    assert not wrong, table(expected, probed)
    return {case for case, passes in expected.items() if passes}


def with_web(cloud, services=SERVICES):
    """Every machine to `web` and back, both IP versions."""
    return [case for case in all_pairs(cloud.lab.machines, services) if "web" in (case.source, case.target)]


def to_web(cases):
    return {case for case in cases if case.target == "web"}


def arrived(cloud, sender, receiver, frames, version=4):
    """Which of the frames (name -> frame) that `sender` puts on the wire come out at `receiver`."""
    me, you = cloud.lab.machines[sender], cloud.lab.machines[receiver]
    a, b = me.address(version), you.address(version)
    mark = f"fence {sender} {receiver}".encode()
    ip, ethertype = (ipv4, 0x0800) if version == 4 else (ipv6, 0x86DD)
    fence = ethernet(you.mac, me.mac, ethertype, ip(a, b, 17, udp(a, b, FENCE, FENCE, mark)))
    you.call("capture", capture="all", src=me.mac)
    you.call("capture", capture="fence", contains=mark.hex())
    me.call("send_frames", frames=[*frames.values(), fence])
    assert you.call("captured", capture="fence", seconds=10, count=1), "not even what may arrive does"
    # OvS cuts the padding of a short frame off where it tracks it.
    came = {frame.rstrip("0") for frame in you.call("captured", capture="all")}
    return {name for name, frame in frames.items() if frame.rstrip("0") in came}


# ---- direction


def test_T001_a_ping_passes_exactly_while_a_rule_says_so(clean):
    path = protect(clean, tags=["web"])
    pings = to_web(with_web(clean, [("icmp", 0)]))
    rule = {"inbound_rules": [inbound("icmp", "0")]}
    assert passing(clean, pings) == set()
    clean.call("POST", f"{path}/rules", rule, expect=204)
    assert passing(clean, pings) == pings
    clean.call("DELETE", f"{path}/rules", rule, expect=204)
    assert passing(clean, pings) == set()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_T002_T003_an_inbound_rule_opens_one_protocol_and_one_direction(clean, protocol):
    protect(clean, inbound_rules=[inbound(protocol, "80")], tags=["web"])
    cases = with_web(clean)
    assert passing(clean, cases) == {case for case in to_web(cases) if case.protocol == protocol}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_T004_T005_an_outbound_rule_opens_one_protocol_and_one_direction(clean, protocol):
    protect(clean, outbound_rules=[outbound(protocol, "80")], tags=["web"])
    cases = with_web(clean)
    assert passing(clean, cases) == {case for case in cases if case.source == "web" and case.protocol == protocol}


def test_T008_T009_all_or_nothing_in_each_direction(clean):
    path = protect(clean, tags=["web"])
    cases = set(with_web(clean))
    for into, out in product((EVERYTHING, []), (ANYTHING, [])):
        clean.call("PUT", path, body_of("fw", into, out, tags=["web"]), expect=200)
        meant = (to_web(cases) if into else set()) | (cases - to_web(cases) if out else set())
        assert passing(clean, cases) == meant


def test_T010_each_direction_is_judged_by_its_own_rules(clean):
    protect(clean, inbound_rules=[inbound("tcp", "80")], outbound_rules=[outbound("udp", "80")], tags=["web"])
    cases = with_web(clean)
    assert passing(clean, cases) == {
        case for case in cases if case.protocol == ("tcp" if case.target == "web" else "udp")
    }


def test_T011_a_client_that_may_not_ask_is_not_let_out_by_the_server(clean):
    protect(clean, "server", inbound_rules=EVERYTHING, tags=["web"])
    protect(clean, "client", inbound_rules=EVERYTHING, outbound_rules=[outbound("udp", "80")], droplet_ids=[102, 103])
    cases = to_web(with_web(clean))
    assert passing(clean, cases) == {case for case in cases if case.source == "outside" or case.protocol == "udp"}


def test_T012_T013_a_droplet_leaves_one_of_two_firewalls(clean):
    """By id and by tag; the rules of the other stay."""
    protect(clean, "stays", inbound_rules=[inbound("tcp", "80")], tags=["web"])
    by_id = protect(clean, "by-id", inbound_rules=[inbound("udp", "80")], droplet_ids=[101])
    protect(clean, "by-tag", inbound_rules=[inbound("icmp", "0")], tags=["app"])
    clean.call("PUT", "/v1/droplets/101", {"name": "web", "tags": ["web", "app"]})
    cases = {case for case in with_web(clean) if (case.source, case.target) in (("outside", "web"), ("db", "web"))}
    assert passing(clean, cases) == cases
    clean.call("DELETE", f"{by_id}/droplets", {"droplet_ids": [101]}, expect=204)
    assert passing(clean, cases) == {case for case in cases if case.protocol != "udp"}
    clean.call("PUT", "/v1/droplets/101", {"name": "web", "tags": ["web"]})
    assert passing(clean, cases) == {case for case in cases if case.protocol == "tcp"}


# ---- protocols


def strange(sender, receiver, version):
    """name -> frame, of IP protocols that no rule can name."""
    a, b = sender.address(version), receiver.address(version)
    ip, ethertype = (ipv4, 0x0800) if version == 4 else (ipv6, 0x86DD)
    payloads = {
        "sctp": (132, struct.pack("!HHII", 80, 80, 0, 0) + b"\1\0\0\x14" + bytes(16)),  # INIT
        "gre": (47, struct.pack("!HH", 0, 0x0800) + ipv4("192.0.2.1", "192.0.2.2", 17, bytes(8))),
        "esp": (50, struct.pack("!II", 1, 1) + bytes(24)),
        "vrrp": (112, b"\x31\1\x64\0" + bytes(28)),
    }
    return {
        name: ethernet(receiver.mac, sender.mac, ethertype, ip(a, b, number, payload))
        for name, (number, payload) in payloads.items()
    }


@pytest.mark.parametrize("version", [4, 6])
def test_T014_T016_T017_protocols_that_no_rule_can_name_pass_between_open_droplets_only(clean, version):
    protect(clean, inbound_rules=EVERYTHING, outbound_rules=ANYTHING, tags=["web"])
    clean.settle()
    machines = clean.lab.machines
    for sender, receiver in (("outside", "web"), ("app", "web"), ("web", "app"), ("web", "db"), ("web", "outside")):
        frames = strange(machines[sender], machines[receiver], version)
        assert arrived(clean, sender, receiver, frames, version) == set(), (sender, receiver)
    for sender, receiver in (("outside", "app"), ("app", "db"), ("db", "outside")):
        frames = strange(machines[sender], machines[receiver], version)
        assert arrived(clean, sender, receiver, frames, version) == set(frames), (sender, receiver)


def test_T015_T023_every_port_of_a_protocol_and_nothing_else(clean):
    """`0`, `all` and `1-65535` are three ways to say it."""
    ends = [(protocol, port) for protocol in ("tcp", "udp") for port in (1, 2, 80, 32768, 65534, 65535)]
    path = protect(clean, inbound_rules=[inbound("tcp", "0")], outbound_rules=[outbound("udp", "all")], tags=["web"])
    cases = [case for case in with_web(clean, [*ends, ("icmp", 0)]) if "outside" in (case.source, case.target)]
    assert passing(clean, cases) == {
        case for case in cases if case.protocol == ("tcp" if case.target == "web" else "udp")
    }
    body = body_of("fw", [inbound("udp", "1-65535")], [outbound("tcp", "1-65535")], tags=["web"])
    clean.call("PUT", path, body, expect=200)
    assert passing(clean, cases) == {
        case for case in cases if case.protocol == ("udp" if case.target == "web" else "tcp")
    }


def test_T023_port_0_is_no_port(clean):
    protect(clean, inbound_rules=EVERYTHING, outbound_rules=ANYTHING, tags=["web"])
    clean.settle()
    machines = clean.lab.machines

    def segments(sender, receiver, port):
        a, b = sender.address(), receiver.address()
        return {
            "tcp": ethernet(receiver.mac, sender.mac, 0x0800, ipv4(a, b, 6, tcp(a, b, 4000 + port, port, 2))),
            "udp": ethernet(receiver.mac, sender.mac, 0x0800, ipv4(a, b, 17, udp(a, b, 4000 + port, port))),
        }

    for sender, receiver in (("outside", "web"), ("web", "db"), ("outside", "app")):
        ends = machines[sender], machines[receiver]
        open_droplets = "web" not in (sender, receiver)
        assert arrived(clean, sender, receiver, segments(*ends, 1)) == {"tcp", "udp"}
        assert arrived(clean, sender, receiver, segments(*ends, 0)) == ({"tcp", "udp"} if open_droplets else set())


@pytest.mark.parametrize(
    ("changes", "at", "problem"),
    [
        pytest.param({"protocol": "sctp"}, "protocol", "must be 'tcp', 'udp' or 'icmp'", id="T016"),
        pytest.param({"protocol": "132"}, "protocol", "must be 'tcp', 'udp' or 'icmp'", id="T016-number"),
        pytest.param({"source_ports": "1024-65535"}, "source_ports", "unknown field", id="T026"),
        pytest.param({"protocol": "icmp", "ports": "8"}, "ports", "icmp has no ports", id="T027-type"),
        pytest.param({"protocol": "icmp", "icmp_type": 8}, "icmp_type", "unknown field", id="T027-field"),
        pytest.param({"protocol": "6"}, "protocol", "must be 'tcp', 'udp' or 'icmp'", id="T031"),
        pytest.param({"protocol": 6}, "protocol", "must be 'tcp', 'udp' or 'icmp'", id="T031-number"),
        pytest.param({"ports": ""}, "ports", "You must specify a positive value for ports.", id="T015"),
        pytest.param({"ports": "0-80"}, "ports", "you must specify a valid range for ports", id="T023"),
    ],
)
def test_T016_T026_T027_T031_what_a_rule_cannot_say_is_refused_by_name_and_changes_nothing(clean, changes, at, problem):
    path = protect(clean, inbound_rules=[inbound("tcp", "80")], tags=["web"])
    before = clean.call("GET", path)
    rule = {**inbound("tcp", "80"), **changes}
    if changes.get("protocol") == "icmp" and "ports" not in changes:
        rule["ports"] = "0"
    answer = clean.ask("POST", f"{path}/rules", {"inbound_rules": [inbound("tcp", "81"), rule]})
    assert answer.status == 422
    assert [fault["at"] for fault in answer.json["errors"]] == [f"inbound_rules[1].{at}"]
    assert problem in answer.json["errors"][0]["problem"]
    assert clean.call("GET", path) == before


# ---- ports


def test_T021_T022_a_range_ends_where_it_says_and_can_be_moved(clean):
    services = [("udp", port) for port in (1000, 1001, 1002, 1003)] + [
        ("tcp", port) for port in (2046, 2047, 2057, 2058)
    ]
    sources = ["outside", "app"]
    cases = [case for case in to_web(with_web(clean, services)) if case.source in sources]

    def opened():
        found = passing(clean, cases)
        ports = {case.port for case in found}
        assert len(found) == 2 * len(sources) * len(ports)
        return ports

    path = protect(clean, inbound_rules=[inbound("udp", "1001-1002"), inbound("tcp", "2047-2057")], tags=["web"])
    assert opened() == {1001, 1002, 2047, 2057}
    moved = [inbound("udp", "1002-1003"), inbound("tcp", "2058-3000")]
    clean.call("PUT", path, body_of("fw", moved, tags=["web"]), expect=200)
    assert opened() == {1002, 1003, 2058}


def test_T020_an_even_port_opens_alone_in_both_directions(clean):
    ports = (41, 42, 43, 65533, 65534, 65535, 1, 2, 3)
    singles = ("42", "65534", "2")
    protect(clean, inbound_rules=[inbound("tcp", port) for port in singles],
            outbound_rules=[outbound("udp", port) for port in singles], tags=["web"])  # fmt: skip
    cases = [case for case in with_web(clean, [*product(("tcp", "udp"), ports)])
             if "outside" in (case.source, case.target) and case.version == 4]  # fmt: skip
    assert passing(clean, cases) == {
        case for case in cases
        if case.port in (42, 65534, 2) and case.protocol == ("tcp" if case.target == "web" else "udp")
    }  # fmt: skip


def test_T025_overlapping_ranges_add_up_for_each_peer_by_itself(clean):
    outside = clean.lab.machines["outside"]
    rules = [
        inbound("tcp", "80-90", tags=["app"]),
        inbound("tcp", "85-95", addresses=[outside.address(4), outside.address(6)]),
        inbound("tcp", "88", droplet_ids=[103]),
        inbound("tcp", "90-92", tags=["app"], droplet_ids=[103]),
    ]
    protect(clean, inbound_rules=rules, tags=["web"])
    open_to = {"app": set(range(80, 93)), "outside": set(range(85, 96)), "db": {88, 90, 91, 92}}
    cases = to_web(with_web(clean, [("tcp", port) for port in range(79, 97)]))
    assert passing(clean, cases) == {case for case in cases if case.port in open_to[case.source]}


def test_T029_T030_an_allowed_port_that_nobody_serves_says_so(clean):
    web = clean.lab.machines["web"]
    protect(clean, inbound_rules=[inbound("tcp", "4990-4991"), inbound("udp", "4992")], tags=["web"])
    web.call("listen", tcp=[4992], udp=[4991])
    clean.settle()
    for source, version in product(("outside", "app"), (4, 6)):

        def probe(protocol, port, timeout, source=source, version=version):
            return clean.lab.machines[source].call(
                protocol, address=web.address(version), port=port, timeout=timeout)  # fmt: skip

        assert probe("tcp", 4990, 5) == "refused"  # no listener
        assert probe("tcp", 4991, 5) == "refused"  # one of the other protocol
        assert probe("udp", 4992, 5) == "refused"
        assert probe("udp", 4991, 0.3) == "timeout"  # a listener, and a rule of the other protocol
        assert probe("tcp", 4992, 0.3) == "timeout"


# ---- ICMP


def icmp4(kind, body):
    head = struct.pack("!BBH", kind, 0, 0) + body
    return head[:2] + struct.pack("!H", checksum(head)) + head[4:]


def messages(sender, receiver, version):
    """name -> frame: two that ask for an answer, as tracking knows them, and one of a type that nobody knows."""
    a, b = sender.address(version), receiver.address(version)
    body = struct.pack("!HH", 7, 1) + bytes(12)
    if version == 4:
        kinds = {"echo": 8, "timestamp": 13, "unknown": 40}
        return {name: ethernet(receiver.mac, sender.mac, 0x0800, ipv4(a, b, 1, icmp4(kind, body)))
                for name, kind in kinds.items()}  # fmt: skip
    kinds = {"echo": 128, "unknown": 200}
    return {name: ethernet(receiver.mac, sender.mac, 0x86DD, ipv6(a, b, 58, icmp6(a, b, kind, body)))
            for name, kind in kinds.items()}  # fmt: skip


@pytest.mark.parametrize("version", [4, 6])
def test_T027_T028_icmp_is_requests_and_their_answers_and_nothing_that_cannot_be_tracked(clean, version):
    fence = {"inbound_rules": [inbound("udp", str(FENCE))], "outbound_rules": [outbound("udp", str(FENCE))]}
    path = protect(clean, **fence, tags=["web"])
    clean.settle()
    machines = clean.lab.machines
    pairs = [("outside", "web"), ("app", "web"), ("web", "outside"), ("web", "app")]
    for sender, receiver in pairs:
        frames = messages(machines[sender], machines[receiver], version)
        assert arrived(clean, sender, receiver, frames, version) == set(), (sender, receiver)
    clean.call("POST", f"{path}/rules", {"inbound_rules": [inbound("icmp", "0")]}, expect=204)
    clean.settle()
    for sender, receiver in pairs:
        frames = messages(machines[sender], machines[receiver], version)
        meant = {"echo", "timestamp"} & set(frames) if receiver == "web" else set()
        assert arrived(clean, sender, receiver, frames, version) == meant, (sender, receiver)
    # Between open droplets the tracker has no say.
    frames = messages(machines["outside"], machines["db"], version)
    assert arrived(clean, "outside", "db", frames, version) == set(frames)


def test_T028_echo_passes_both_ways_when_both_ways_are_allowed(clean):
    path = protect(clean, inbound_rules=[inbound("icmp", "0")], outbound_rules=[outbound("icmp", "0")], tags=["web"])
    cases = with_web(clean, [("icmp", 0), ("udp", 80)])
    pings = {case for case in cases if case.protocol == "icmp"}
    assert passing(clean, cases) == pings
    clean.call("DELETE", f"{path}/rules", {"inbound_rules": [inbound("icmp", "0")]}, expect=204)
    assert passing(clean, cases) == pings - to_web(pings)
