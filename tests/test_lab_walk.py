"""The random walk: a short one with real packets, what it is made of, and the truth tables of T190 to T193.

WALK_STEPS and WALK_SEED choose another walk; `python -m lab.walk` walks for longer.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import pytest
from api_server import HV1, HV2, World
from frames import checksum, ethernet, icmp6, ipv4, ipv6

import lab.draw
from firewall_app.policy.decide import Decision, Packet, Verdict, decide
from firewall_app.policy.model import Protocol, address
from firewall_app.policy.policy import Policy
from lab.cloud import EVERYWHERE, inbound, outbound
from lab.draw import Call, Draw, Party, meant, party, register
from lab.system import write_sysctls
from lab.truth import Case, all_pairs
from lab.walk import Seen, Site, lab_site, replay, script, shortened, walk

ANY_TCP_UDP_ICMP = [("tcp", "0"), ("udp", "0"), ("icmp", "0")]
OUT = [outbound(protocol, ports) for protocol, ports in ANY_TCP_UDP_ICMP]


def tag() -> str:
    return "k" + hex(random.SystemRandom().getrandbits(24))[2:]


@pytest.fixture(scope="module")
def lab_() -> Iterator[Site]:
    with lab_site(tag()) as site:
        yield site


@pytest.fixture
def site(lab_: Site) -> Site:
    lab_.begin()
    return lab_


def check(site: Site, cases: list[Case]) -> dict[Case, bool]:
    """Every case must go as the policy means; what it means."""
    site.settle()
    policy = site.cloud.policy()
    seen = site.check(policy, cases)
    assert not seen.wrong, "\n".join(seen.wrong)
    return {case: meant(policy, site.parties, case) for case in cases}


def protect(site: Site, name: str = "fw-1", /, **body: object) -> None:
    site.apply(Call("POST", "/v2/firewalls", {"name": name, **body}))


# --------------------------------------------------------------------------------------------- the walk


@pytest.mark.lab
def test_a_random_walk_agrees_with_the_meaning_at_every_step(site):
    told: list[str] = []
    steps, seed = int(os.environ.get("WALK_STEPS", "12")), int(os.environ.get("WALK_SEED", "190"))
    assert walk(site, steps, seed, say=told.append) == 0, "\n".join(told)
    assert len([line for line in told if " to pass), " in line]) == steps


@pytest.mark.lab
def test_a_walk_that_disagrees_says_how_to_come_there_again(site, monkeypatch):
    """An oracle that takes one firewall to close everything stands for switches that let everything pass."""

    def closes(policy: Policy, packet: Packet, opening: Packet | None = None) -> Decision:
        there = any(firewall.name == "fw-2" for firewall in policy.firewalls.values())
        return Decision(Verdict.DROP, "so they say") if there else decide(policy, packet, opening)

    monkeypatch.setattr(lab.draw, "decide", closes)
    monkeypatch.setattr(lab.draw, "FIREWALLS", ("fw-2",))
    told: list[str] = []
    assert walk(site, 30, 2, say=told.append) > 0
    text = "\n".join(told)
    assert "expected stop, probed open" in text
    assert "seed 2, step " in text
    found: dict[str, list] = {}
    exec(told[-2], {"Call": Call, "Case": Case}, found)
    assert [call.path for call in found["CALLS"]] == ["/v2/firewalls"], "one firewall is enough to see it"
    assert "replayed: the same" in text
    assert replay(site, found["CALLS"], found["CASES"])
    monkeypatch.undo()
    assert replay(site, found["CALLS"], found["CASES"]) == []


@pytest.mark.lab
def test_sessions_are_silent_and_alive_again_as_their_rule_goes_and_comes(site):
    rule = {"inbound_rules": [inbound("tcp", "80", addresses=["10.1.0.0/16", "fd00:1::/64"])]}
    look = Call("LAB", "look")
    calls = [
        Call("POST", "/v2/firewalls", {"name": "fw-1", "droplet_ids": [101], **rule, "outbound_rules": OUT}),
        Call("LAB", "open/a/outside/vm1/80/4"),
        Call("LAB", "open/b/vm3/vm1/80/6"),
        Call("LAB", "open/c/vm1/vm2/81/4"),
        look,
        Call("DELETE", "/v2/firewalls/{fw-1}/rules", rule),
        look,
    ]
    assert replay(site, calls) == []
    assert {name: session.looks for name, session in site.sessions.items()} == {"a": 2, "b": 2, "c": 0}
    site.apply(Call("POST", "/v2/firewalls/{fw-1}/rules", rule))
    check(site, [])
    assert [session.looks for session in site.sessions.values()] == [0, 0, 0]
    # A session is wrong when it lives on although its rule is gone, and when it is silent although it may speak.
    policy = site.cloud.policy()
    without = policy.edit()
    without.drop(next(iter(policy.firewalls.values())))
    closed = without.peek().edit()
    closed.put(next(iter(policy.firewalls.values())).__class__("f", "default", "fw", droplet_ids=(101,)))
    seen = Seen()
    site._speak(closed.done(), seen)
    assert [text.rsplit(": ")[1] for text in seen.wrong] == ["expected silent, found alive"] * 3


@pytest.mark.lab
def test_a_machine_that_moves_takes_its_rules_along(site):
    protect(site, inbound_rules=[inbound("tcp", "80", droplet_ids=[102])], outbound_rules=OUT, droplet_ids=[101])
    cases = all_pairs(site.parties, [("tcp", 80), ("icmp", 0)])
    before = check(site, cases)
    host = site.cloud.lab.hypervisors["hv2"]
    moved = [(Call("LAB", f"move/{name}/{host.dpid}"), register(one, host.dpid, one.voices[0]))
             for name, one in site.parties.items() if name in ("vm1", "vm2")]  # fmt: skip
    for calls in (moved[0], moved[1][::-1]):  # whichever comes first, the machine or the word of it
        for call in calls:
            site.apply(call)
        assert check(site, cases) == before
    assert site.cloud.lab.taps["vm1"].hypervisor is host


@pytest.mark.lab
def test_second_addresses_count_when_they_are_registered(site):
    vm1 = site.parties["vm1"]
    protect(site, inbound_rules=[inbound("udp", "53", droplet_ids=[101])], outbound_rules=OUT, droplet_ids=[103])
    cases = [Case(f"vm1{voice}", "vm3", "udp", 53, version) for voice in ("", "+1", "+2") for version in (4, 6)]
    assert list(check(site, cases).values()) == [True, True, False, False, False, False]
    site.apply(register(vm1, "here", [vm1.voices[1][1], *vm1.prefixes]))
    assert list(check(site, cases).values()) == [False, False, False, True, True, True]


# --------------------------------------------------------------------------------------------- T190


@pytest.mark.lab
def test_T190_nine_machines_by_nine_at_every_step_of_a_policy_of_tags():
    """Eight droplets on two hypervisors and a host outside; tags web, db, ops and none, on two droplets each."""
    with lab_site(tag(), droplets=8) as site:
        members = {"resources": [{"resource_id": str(i), "resource_type": "droplet"} for i in (104, 105)]}
        rules = {
            "inbound_rules": [inbound("tcp", "80", tags=["ops"]), inbound("udp", "80-81", tags=["web"]),
                              inbound("icmp", "0", addresses=["10.1.0.0/29", "fd00:1::/125"])],
            "outbound_rules": [outbound("tcp", "80-81"), outbound("icmp", "0", tags=["db", "ops"])],
        }  # fmt: skip
        narrow = {**rules, "inbound_rules": [inbound("tcp", "81", tags=["ops", "db"]), *rules["inbound_rules"][2:]]}
        steps = [
            [],
            [Call("POST", "/v2/firewalls", {"name": "fw-1", **rules, "tags": ["web"]})],
            [Call("POST", "/v2/tags/web/resources", members)],
            [Call("PUT", "/v2/firewalls/{fw-1}", {"name": "fw-1", **narrow, "tags": ["web", "db"]})],
            [Call("POST", "/v2/firewalls", {"name": "fw-2", "inbound_rules": [inbound("udp", "80", tags=["db"])],
                                            "outbound_rules": OUT, "tags": ["db", "ops"]})],
            [Call("DELETE", "/v2/tags/web/resources", members), Call("DELETE", "/v1/ports/vm3")],
            [Call("DELETE", "/v2/tags/ops"), register(site.parties["vm3"], "here", site.parties["vm3"].voices[0])],
            [Call("DELETE", "/v2/firewalls/{fw-1}")],
        ]  # fmt: skip
        cases = all_pairs(site.parties, [("tcp", 80), ("tcp", 81), ("udp", 80), ("udp", 81), ("icmp", 0)])
        assert len(site.parties) == 9
        assert len(cases) == 9 * 8 * 5 * 2
        tables = []
        for calls in steps:
            for call in calls:
                site.apply(call)
            tables.append(check(site, cases))
        assert all(tables[0].values())
        assert all(one != other for one, other in pairwise(tables)), "a step changed nothing"


# --------------------------------------------------------------------------------------------- T191

WIDE_AND_NARROW = {
    "vm1": (inbound("tcp", "1500", addresses=["10.1.0.0/30", "fd00:1::/126"]),
            inbound("tcp", "1500", droplet_ids=[103])),
    "vm2": (inbound("tcp", "1000-2000"), inbound("tcp", "1500")),
    "vm3": (inbound("tcp", "1000-2000", tags=["db"]), inbound("tcp", "1500", droplet_ids=[102])),
    "vm4": (inbound("tcp", "0"), inbound("tcp", "1000-2000", addresses=["10.1.0.2", "fd00:1::2"])),
}  # fmt: skip


@pytest.mark.lab
@pytest.mark.parametrize("apart", [False, True], ids=["one firewall", "two firewalls"])
def test_T191_conflicts_a_wide_and_a_narrow_rule_deleted_in_both_orders(site, apart):
    """All four pairs at once, each on a droplet of its own; what may leave is always everything."""
    cases = all_pairs(site.parties, [("tcp", 999), ("tcp", 1000), ("tcp", 1500), ("tcp", 2001)])
    seen: dict[frozenset[int], list[dict[Case, bool]]] = {}
    for came in (0, 1), (1, 0):
        for went in (0, 1), (1, 0):
            for kind in came:
                for name, rules in WIDE_AND_NARROW.items():
                    body = {"inbound_rules": [rules[kind]], "outbound_rules": OUT}
                    if apart or kind == came[0]:
                        protect(site, where(name, kind, apart), droplet_ids=[site.parties[name].droplet_id], **body)
                    else:
                        site.apply(Call("POST", f"/v2/firewalls/{{{where(name, kind, apart)}}}/rules", body))
            there = {0, 1}
            seen.setdefault(frozenset(there), []).append(check(site, cases))
            for kind in went:
                for name, rules in WIDE_AND_NARROW.items():
                    gone = {"inbound_rules": [rules[kind]]}
                    site.apply(Call("DELETE", f"/v2/firewalls/{{{where(name, kind, apart)}}}/rules", gone))
                there.remove(kind)
                seen.setdefault(frozenset(there), []).append(check(site, cases))
            for name in {where(name, kind, apart) for name in WIDE_AND_NARROW for kind in came}:
                site.apply(Call("DELETE", f"/v2/firewalls/{{{name}}}"))
    assert sorted(map(len, seen.values())) == [2, 2, 4, 4]
    for tables in seen.values():
        assert all(table == tables[0] for table in tables), "the order in which rules come and go does not matter"
    assert not any(passes for case, passes in seen[frozenset()][0].items() if case.target != "outside")
    for name in WIDE_AND_NARROW:
        many = {kinds: sum(passes for case, passes in tables[0].items() if case.target == name)
                for kinds, tables in seen.items()}  # fmt: skip
        wide, narrow, both = (many[frozenset(kinds)] for kinds in ({0}, {1}, {0, 1}))
        assert both >= wide > 0, name
        assert both > narrow > 0, name


def where(name: str, kind: int, apart: bool) -> str:
    return f"fw-{name}-{kind}" if apart else f"fw-{name}"


# --------------------------------------------------------------------------------------------- T192

NOBODY = ({}, {"addresses": []}, {"tags": [], "droplet_ids": []}, {"addresses": None, "tags": None}, None)


@pytest.mark.lab
def test_T192_an_empty_peer_is_nobody_and_an_empty_list_allows_nothing(site):
    cases = all_pairs(["vm1", "vm2", "outside"], [("tcp", 80), ("udp", 80), ("icmp", 0)])
    rules = {
        f"{direction}_rules": [
            {"protocol": protocol, "ports": ports, peers: peer}
            for protocol, ports in ANY_TCP_UDP_ICMP
            for peer in NOBODY
        ]
        for direction, peers in (("inbound", "sources"), ("outbound", "destinations"))
    }  # fmt: skip
    bodies = [rules, {"inbound_rules": []}, {"outbound_rules": [], "inbound_rules": None}]
    for body in bodies:
        protect(site, droplet_ids=[101], **body)
        for case, passes in check(site, cases).items():
            assert passes is ("vm1" not in (case.source, case.target)), case
        site.apply(Call("DELETE", "/v2/firewalls/{fw-1}"))


@pytest.mark.lab
@pytest.mark.parametrize(("given", "other"), [("inbound", "outbound"), ("outbound", "inbound")])
def test_T192_an_absent_list_allows_nothing_in_its_direction(site, given, other):
    make = inbound if given == "inbound" else outbound
    rules = [make(protocol, ports) for protocol, ports in ANY_TCP_UDP_ICMP]
    cases = all_pairs(["vm1", "outside"], [("tcp", 80), ("udp", 80), ("icmp", 0)])
    for absent in ({}, {f"{other}_rules": None}, {f"{other}_rules": []}):
        protect(site, **{f"{given}_rules": rules}, droplet_ids=[101], **absent)
        for case, passes in check(site, cases).items():
            assert passes is (case.target == "vm1") is (given == "inbound") or passes is (
                (case.source == "vm1") is (given == "outbound")
            ), case
        site.apply(Call("DELETE", "/v2/firewalls/{fw-1}"))


@pytest.mark.lab
def test_T192_port_0_is_every_port_and_of_its_protocol_alone(site):
    services = [(protocol, port) for protocol in ("tcp", "udp") for port in (1, 32767, 65535)]
    cases = [case for case in all_pairs(["vm1", "outside"], [*services, ("icmp", 0)]) if case.target == "vm1"]
    for spelled in ("0", 0, "all", "1-65535"):
        protect(site, inbound_rules=[{"protocol": "tcp", "ports": spelled, "sources": EVERYWHERE}], droplet_ids=[101])
        assert [case.protocol for case, passes in check(site, cases).items() if passes] == ["tcp"] * 6, spelled
        site.apply(Call("DELETE", "/v2/firewalls/{fw-1}"))


@pytest.mark.lab
@pytest.mark.parametrize(
    "rule",
    [{"protocol": "tcp", "ports": "80"}, {"protocol": "tcp", "sources": EVERYWHERE}, {"ports": "80", "sources": {}}],
    ids=["sources", "ports", "protocol"],
)
def test_T192_what_is_absent_is_never_taken_for_everything(site, rule):
    """An absent peer, or absent ports, is refused; nothing changes, and nobody is let in."""
    protect(site, inbound_rules=[], droplet_ids=[101])
    cases = all_pairs(["vm1", "outside"], [("tcp", 80)])
    answer = site.cloud.ask("POST", f"/v2/firewalls/{site.ids['fw-1']}/rules", {"inbound_rules": [rule]})
    assert answer.status == 422
    assert not any(check(site, cases).values())


# --------------------------------------------------------------------------------------------- T193


class PingPong:
    """Echo requests and replies, frame by frame, between machines whose kernels keep silent."""

    def __init__(self, site: Site) -> None:
        self.site, self.machines = site, site.cloud.lab.machines
        self.marks = 0

    def play(self, echoes: list[Echo]) -> list[bool]:
        """Whether each comes out at its receiver; they are sent one after the other."""
        marks = []
        for name in ("vm1", "outside"):
            self.machines[name].call("capture", capture="pp", contains=b"ping-pong".hex())
        for echo in echoes:
            self.marks += 1
            marks.append(b"ping-pong %06d" % self.marks)
            self.machines[echo.sender].call("send_frames", frames=[self.frame(echo, marks[-1])])
        policy = self.site.cloud.policy()
        awaited = {name: [mark for mark, echo in zip(marks, echoes, strict=True) if echo.receiver == name
                          and self.meant(policy, echo)] for name in ("vm1", "outside")}  # fmt: skip
        came = {}
        for name in ("vm1", "outside"):
            # Those that are awaited may take their time; what should not come gets the time that they take and more.
            deadline = 3 if awaited[name] else 0
            self.machines[name].call("captured", capture="pp", seconds=deadline, count=len(awaited[name]), end=False)
            came[name] = self.machines[name].call("captured", capture="pp", seconds=0.4)
        return [any(mark.hex() in frame for frame in came[echo.receiver])
                for mark, echo in zip(marks, echoes, strict=True)]  # fmt: skip

    def frame(self, echo: Echo, mark: bytes) -> str:
        me, you = self.machines[echo.sender], self.machines[echo.receiver]
        source, target = me.address(echo.version), you.address(echo.version)
        body = struct.pack("!HH", echo.identity, self.marks) + mark
        if echo.version == 4:
            head = struct.pack("!BB", 0 if echo.pong else 8, 0)
            total = checksum(head + b"\0\0" + body)
            return ethernet(you.mac, me.mac, 0x0800, ipv4(source, target, 1, head + struct.pack("!H", total) + body))
        kind = 129 if echo.pong else 128
        return ethernet(you.mac, me.mac, 0x86DD, ipv6(source, target, 58, icmp6(source, target, kind, body)))

    def meant(self, policy: Policy, echo: Echo) -> bool:
        source, target = (address(self.machines[name].address(echo.version)) for name in (echo.sender, echo.receiver))
        ends = [name if name != "outside" else None for name in (echo.sender, echo.receiver)]
        packet = Packet(source, target, Protocol.ICMP, sender=ends[0], receiver=ends[1])
        return decide(policy, packet, packet.reply() if echo.pong else None).verdict is Verdict.ALLOW


class Echo(NamedTuple):
    sender: str
    receiver: str
    version: int
    identity: int
    pong: bool = False

    def answer(self) -> Echo:
        return Echo(self.receiver, self.sender, self.version, self.identity, pong=True)


@pytest.mark.lab
def test_T193_a_ping_and_its_pong_at_each_change_of_a_membership(site):
    """At each change: pong and ping of an exchange that began before the first, then a new ping; in both directions."""
    quiet = {"ipv4/icmp_echo_ignore_all": 1, "ipv6/icmp/echo_ignore_all": 1}
    machines, game = site.cloud.lab.machines, PingPong(site)
    member = {"resources": [{"resource_id": "101", "resource_type": "droplet"}]}
    ping = {"inbound_rules": [inbound("icmp", "0")]}
    changes = [
        Call("POST", "/v2/firewalls", {"name": "fw-1", "outbound_rules": OUT, **ping, "droplet_ids": [101]}),
        Call("DELETE", "/v2/firewalls/{fw-1}/rules", ping),
        Call("POST", "/v2/firewalls/{fw-1}/rules", ping),
        Call("DELETE", "/v2/firewalls/{fw-1}/rules", {"outbound_rules": OUT}),
        Call("POST", "/v2/firewalls", {"name": "fw-2", **ping, "tags": ["ops"]}),
        Call("DELETE", "/v2/firewalls/{fw-1}/rules", ping),
        Call("POST", "/v2/tags/ops/resources", member),
        Call("DELETE", "/v2/tags/ops/resources", member),
        Call("POST", "/v2/firewalls/{fw-2}/droplets", {"droplet_ids": [101]}),
        Call("DELETE", "/v2/firewalls/{fw-1}/droplets", {"droplet_ids": [101]}),
        Call("DELETE", "/v2/firewalls/{fw-2}/droplets", {"droplet_ids": [101]}),
    ]
    pairs = [(opener, other, version) for opener, other in (("outside", "vm1"), ("vm1", "outside"))
             for version in (4, 6)]  # fmt: skip
    old = [Echo(*pair, 1 + number) for number, pair in enumerate(pairs)]
    met = set()
    try:
        for name in ("vm1", "outside"):
            write_sysctls(machines[name].netns, quiet)
        for number, change in enumerate(changes):
            site.apply(change)
            site.settle()
            if number == 0:
                assert all(game.play(old))
            new = [Echo(*pair, 100 + 10 * number + i) for i, pair in enumerate(pairs)]
            # The pong first: revoked, it must not wait for a ping to be stopped.
            echoes = [*(echo.answer() for echo in old), *old, *new]
            policy = site.cloud.policy()
            expected = [game.meant(policy, echo) for echo in echoes]
            assert game.play(echoes) == expected, change
            met |= {(echo[:3], passes) for echo, passes in zip(echoes, expected, strict=True) if not echo.pong}
    finally:
        for name in ("vm1", "outside"):
            write_sysctls(machines[name].netns, dict.fromkeys(quiet, 0))
    assert met == {(pair, passes) for pair in pairs for passes in (True, False)}


# --------------------------------------------------------------------------------------------- without a lab

PARTIES = {f"vm{i}": party(f"vm{i}", i, 100 + i, f"02:00:00:00:00:0{i}", f"tap{i}") for i in (1, 2, 3)}
PARTIES["outside"] = party("outside", 4, None)


def furnished() -> World:
    world = World()
    for switch in world.switches.values():
        switch.connect()
    for number, dpid in enumerate((HV1, HV2), 1):
        world.good("PUT", f"/v1/hypervisors/{dpid}", {"name": f"hv-{number}", "uplinks": ["eth*"]})
    for name in lab.draw.TAGS:
        world.good("POST", "/v2/tags", {"name": name})
    for one in PARTIES.values():
        if one.droplet_id is not None:
            world.good("PUT", f"/v1/droplets/{one.droplet_id}", {"name": one.name})
            ask(world, register(one, HV1, one.voices[0]))
    return world


def ask(world: World, call: Call) -> None:
    if call.method == "LAB":
        return
    ids = {firewall.name: firewall.id for firewall in world.core.policy.firewalls.values()}
    body = call.body
    if isinstance(body, dict) and body.get("hypervisor") == "here":
        body = {**body, "hypervisor": HV1}
    world.good(call.method, call.path.format(**ids), body)


def story(seed: int, length: int) -> tuple[list[Call], list[list[Case]], World]:
    world, draw = furnished(), Draw(random.Random(seed), PARTIES)
    calls, cases = [], []
    for _ in range(length):
        for call in draw.change(world.core.policy):
            calls.append(call)
            ask(world, call)
        cases.append(draw.cases(world.core.policy, 20))
    return calls, cases, world


def test_every_change_that_is_drawn_is_one_that_the_api_takes_and_all_kinds_are_drawn():
    calls, cases, _ = story(1, 400)
    kinds = {(call.method, call.path.split("/")[2], call.path.split("/")[-1]) for call in calls if call.method != "LAB"}
    for what in ("rules", "droplets", "tags"):
        assert ("POST", "firewalls", what) in kinds
        assert ("DELETE", "firewalls", what) in kinds
    assert {(method, "ports", "rules") for method in ("PUT", "POST", "DELETE")} <= kinds
    assert {("POST", "tags", "resources"), ("DELETE", "tags", "resources"), ("DELETE", "ports", "vm1")} <= kinds
    rules = [rule for call in calls for rule in (call.body or {}).get("inbound_rules", [])]
    written = [text for rule in rules for text in rule["sources"].get("addresses", [])]
    assert {rule["protocol"] for rule in rules} == {"tcp", "udp", "icmp"}
    assert {text.rpartition("/")[2] for text in written if "/" in text} >= {str(n) for n in (0, 1, 16, 31, 32, 64, 128)}
    assert any(len(rule["sources"].get("addresses", [])) > 9 for rule in rules)
    assert any(rule["sources"] == {} for rule in rules)
    assert any({"addresses", "tags", "droplet_ids"} <= set(rule["sources"]) for rule in rules)
    assert all({(c.source, c.target, c.protocol, c.version) for c in some} >= PAIRS for some in cases)


PAIRS = {(one, other, protocol, version) for one in PARTIES for other in PARTIES if one != other
         for protocol in ("tcp", "udp", "icmp") for version in (4, 6)}  # fmt: skip


def test_a_seed_is_a_story():
    one, other = story(7, 60), story(7, 60)
    assert one[:2] == other[:2]
    assert story(8, 60)[0] != one[0]


def test_cases_lie_on_both_sides_of_the_rules():
    _, cases, world = story(3, 40)
    policy = world.core.policy
    passes = [meant(policy, PARTIES, case) for case in cases[-1]]
    assert 10 < sum(passes) < len(passes) - 10


def test_what_is_meant_needs_ends_that_are_registered_and_an_answer():
    world = furnished()
    ask(world, register(PARTIES["vm1"], HV1, [PARTIES["vm1"].address(4)]))
    ask(world, Call("DELETE", "/v1/ports/vm3"))

    def passes(source: str, target: str, version: int = 4) -> bool:
        return meant(world.core.policy, PARTIES, Case(source, target, "udp", 80, version))

    assert passes("vm1", "vm2")
    assert passes("outside", "outside+1")
    assert not passes("vm1", "vm2", 6), "it may not send from that address"
    assert not passes("vm2", "vm1", 6), "it may not answer from that address"
    assert not passes("vm2", "vm1+1")
    assert not passes("vm3", "outside")
    assert not passes("outside", "vm3")


def test_calls_are_shortened_to_those_that_matter():
    calls = [Call("POST", f"/{number}") for number in range(23)]
    tried = []

    def fails(some: list[Call]) -> bool:
        tried.append(some)
        return {calls[5], calls[6], calls[17]} <= set(some)

    assert shortened(calls, fails, tries=100) == [calls[5], calls[6], calls[17]]
    tried.clear()
    assert {calls[5], calls[6], calls[17]} <= set(shortened(calls, fails, tries=4))
    assert len(tried) == 4


def test_a_script_is_python_that_says_the_same():
    calls = [Call("PUT", "/v2/firewalls/{fw-1}", {"name": "fw-1", "tags": None}, wait=False), Call("LAB", "look")]
    cases = [Case("vm1+2", "outside", "tcp", 80, 6)]
    found: dict[str, object] = {}
    exec(script(calls, cases), {"Call": Call, "Case": Case}, found)
    assert found == {"CALLS": calls, "CASES": cases}


def test_a_machine_may_claim_its_voices_and_the_prefixes_that_hold_the_last():
    one: Party = PARTIES["vm2"]
    assert one.address(6, 1) == "fd00:1::2:5"
    assert len(one.claims) == 6
    for prefix, text in zip(one.prefixes, one.voices[-1], strict=True):
        assert lab.draw.ipaddress.ip_address(text) in lab.draw.ipaddress.ip_network(prefix)
