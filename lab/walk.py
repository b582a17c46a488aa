"""A random walk: change after change over REST, and after each step real packets must agree with `decide`.

    python -m lab.walk --steps 100 --seed 7

A step is one to three changes, drawn from the policy as REST tells it, so that a seed is a story.  After it every
machine asks every other by tcp, udp and icmp over IPv4 and IPv6, more cases lie at the edges of the rules in force,
and TCP sessions that were opened in earlier steps must be alive or silent as the policy means for their first packet.

A walk that fails prints the calls that lead there, shortened by trying, as `replay` reads them.  It checks that
packets obey the policy that REST tells; whether REST tells what was asked is not its business.
"""

from __future__ import annotations

import argparse
import ipaddress
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from firewall_app.policy.decide import Packet, Verdict, decide
from firewall_app.policy.model import Direction, Port, PortRange, Protocol, Rule, address
from firewall_app.policy.policy import Policy

from .cloud import WAIT, Cloud
from .controller import Controller
from .machine import Machine
from .network import Lab
from .system import LabError, wait_until
from .truth import OPEN, Case, agrees, all_pairs, disagreements, probe

TAGS = ("web", "db", "ops")
SPELLED = (*TAGS, "WEB", "Db")
FIREWALLS = ("fw-1", "fw-2", "fw-3", "fw-4")
VOICES = 3  # addresses of each IP version that a machine speaks from
MOST_SESSIONS = 8
# Ends of rules.  None of 32768 to 60999, where Linux takes the source ports of probes from; no DHCP.
ENDS = (1, 2, 7, 22, 42, 43, 80, 81, 100, 443, 999, 1000, 1023, 1024, 2047, 8000, 9999, 32766, 61440, 65534, 65535)
SHUN = {67, 68, 546, 547}


@dataclass(frozen=True)
class Call:
    """A request, or what is done to the lab itself (method LAB).  `{fw-1}` in a path is that firewall's id.

    `wait`: for every switch's confirmation before the next call.
    """

    method: str
    path: str
    body: Any = None
    wait: bool = True


@dataclass(frozen=True)
class Party:
    """A machine as a walk knows it.  A voice is one address of each IP version; the last is in `prefixes`."""

    name: str
    droplet_id: int | None  # None: the host outside
    mac: str = ""
    interface: str = ""
    voices: tuple[tuple[str, str], ...] = ()
    prefixes: tuple[str, str] = ("", "")

    def address(self, version: int, voice: int = 0) -> str:
        return self.voices[voice][0 if version == 4 else 1]

    @property
    def claims(self) -> tuple[str, ...]:
        """All that its port may be registered with."""
        return tuple(text for voice in self.voices[:-1] for text in voice) + self.prefixes


def party(name: str, number: int, droplet_id: int | None, mac: str = "", interface: str = "") -> Party:
    return Party(
        name, droplet_id, mac, interface,
        ((f"10.1.0.{number}", f"fd00:1::{number:x}"), (f"10.1.{10 + number}.5", f"fd00:1::{number:x}:5"),
         (f"10.1.{30 + number}.10", f"fd00:1::{number:x}:0:0:a")),
        (f"10.1.{30 + number}.8/29", f"fd00:1::{number:x}:0:0:0/80"),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------- drawing


def rule_body(rule: Rule) -> dict[str, Any]:
    peer = {key: list(found) for key in ("addresses", "droplet_ids", "tags") if (found := getattr(rule.peer, key))}
    return {
        "protocol": rule.protocol.value,
        "ports": str(rule.ports),
        "sources" if rule.direction is Direction.INBOUND else "destinations": peer,
    }


class Draw:
    """Draws changes and cases from a policy; the same numbers draw the same from the same policy."""

    def __init__(self, rng: random.Random, parties: Mapping[str, Party]) -> None:
        self.rng, self.parties = rng, parties
        self.droplets = {p.droplet_id: p for p in parties.values() if p.droplet_id is not None}

    def some(self, items: Iterable[Any], least: int = 0, most: int = 3) -> list[Any]:
        pool = list(items)
        return self.rng.sample(pool, min(len(pool), self.rng.randint(least, most)))

    # ---- rules

    def ports(self) -> str:
        match self.rng.randrange(6):
            case 0:
                return "0"
            case 1:
                return self.rng.choice(("1-65535", "2-65535", "1-65534", "1-2"))
            case 2 | 3:
                return str(self.rng.choice(ENDS))
            case _:
                first, last = sorted(self.rng.sample(ENDS, 2))
                return f"{first}-{last}"

    def prefix(self) -> str:
        """A prefix of any length around a machine's address, now and then its neighbour; host bits may be left in."""
        chosen = self.rng.choice(list(self.parties.values()))
        one = ipaddress.ip_address(self.rng.choice(self.rng.choice(chosen.voices)))
        bits = one.max_prefixlen
        length = self.rng.choice((0, 1, bits // 2, bits - 8, bits - 3, bits - 1, bits, self.rng.randint(0, bits)))
        if length and self.rng.random() < 0.3:
            one = type(one)(int(one) ^ 1 << (bits - length))
        if length == bits and self.rng.random() < 0.5:
            return str(one)
        return f"{one}/{length}" if self.rng.random() < 0.5 else str(ipaddress.ip_network((one, length), strict=False))

    def peer(self) -> dict[str, list[Any]]:
        kind = self.rng.randrange(20)
        if kind < 5:
            return {"addresses": ["0.0.0.0/0", "::/0"]}
        if kind < 6:
            return self.rng.choice(({}, {"addresses": []}, {"tags": [], "droplet_ids": []}))
        if kind < 8:
            return {"addresses": [self.prefix() for _ in range(self.rng.randint(10, 60))]}
        peer: dict[str, list[Any]] = {}
        if kind < 12 or kind > 17:
            peer["addresses"] = [self.prefix() for _ in range(self.rng.randint(1, 4))]
        if kind in (12, 13, 14, 18, 19):
            peer["tags"] = self.some(TAGS, 1, 2) if self.rng.randrange(4) else [self.rng.choice(SPELLED)]
        if kind in (15, 16, 17, 18):
            peer["droplet_ids"] = self.some(self.droplets, 1, 2)
        return peer

    def rule(self, inbound: bool) -> dict[str, Any]:
        protocol = self.rng.choice(("tcp", "tcp", "udp", "icmp"))
        ports = "0" if protocol == "icmp" else self.ports()
        return {"protocol": protocol, "ports": ports, "sources" if inbound else "destinations": self.peer()}

    def rules(self, old: Iterable[Rule], inbound: bool, most: int = 4) -> list[dict[str, Any]]:
        """Some of the old rules and some new, in any order."""
        found = self.some([rule_body(rule) for rule in old], 0, 4)
        found += [self.rule(inbound) for _ in range(self.rng.randint(0 if found else 1, most))]
        self.rng.shuffle(found)
        return found

    def both(self, inbound: Iterable[Rule] = (), outbound: Iterable[Rule] = (), most: int = 3) -> dict[str, Any]:
        return {"inbound_rules": self.rules(inbound, True, most), "outbound_rules": self.rules(outbound, False, most)}

    def fewer(self, owner: Any) -> dict[str, Any]:
        """Rules to be removed: some that are there, their peers in another order, and perhaps one that is not."""
        gone: dict[str, Any] = {}
        for key, old in (("inbound_rules", owner.inbound_rules), ("outbound_rules", owner.outbound_rules)):
            gone[key] = self.some([rule_body(rule) for rule in old], 0, 2)
            for rule in gone[key]:
                for names in rule.get("sources", rule.get("destinations")).values():
                    self.rng.shuffle(names)
            if not self.rng.randrange(8):
                gone[key].append(self.rule(key == "inbound_rules"))
        return gone

    # ---- changes

    def change(self, policy: Policy) -> list[Call]:
        """The calls of one change; none that this policy gives no reason for."""
        firewalls = sorted(policy.firewalls.values(), key=lambda firewall: firewall.name)
        ports = [policy.ports[name] for name in sorted(policy.ports)]
        kinds = ["create"] * (4 if len(firewalls) < len(FIREWALLS) else 0)
        kinds += ["put", "put", "delete", *["add rules", "remove rules"] * 3, "attach", "tag firewall"] * bool(
            firewalls
        )
        # Whoever is away soon returns, and a second one does not leave meanwhile: nothing passes to or from them.
        away = len(ports) < len(self.droplets)
        kinds += ["tag droplets"] * 3 + ["drop tag", *["register"] * 4 * away]
        kinds += ["port rules", "port rules", "addresses", "addresses", "move"] * bool(ports)
        kinds += ["unregister"] * (not away)
        kind = self.rng.choice(kinds)
        if kind in ("port rules", "addresses", "unregister", "move"):
            return self._port_change(kind, self.rng.choice(ports), policy)
        if kind in ("create", "tag droplets", "drop tag", "register"):
            return self._other_change(kind, policy)
        return self._firewall_change(kind, self.rng.choice(firewalls))

    def _attached(self) -> dict[str, Any]:
        return {"droplet_ids": self.some(self.droplets, 0, 2), "tags": self.some(TAGS, 0, 2)}

    def _firewall_change(self, kind: str, old: Any) -> list[Call]:
        path = f"/v2/firewalls/{{{old.name}}}"
        method = self.rng.choice(("POST", "DELETE"))
        match kind:
            case "put":
                body = {"name": old.name, **self.both(old.inbound_rules, old.outbound_rules), **self._attached()}
                return [Call("PUT", path, body)]
            case "delete":
                return [Call("DELETE", path)]
            case "add rules":
                return [Call("POST", f"{path}/rules", self.both(most=2))]
            case "remove rules":
                return [Call("DELETE", f"{path}/rules", self.fewer(old))]
            case "attach":
                among = old.droplet_ids if method == "DELETE" and old.droplet_ids else tuple(self.droplets)
                return [Call(method, f"{path}/droplets", {"droplet_ids": self.some(among, 1, 2)})]
            case _:
                return [Call(method, f"{path}/tags", {"tags": self.some(TAGS, 1, 2)})]

    def _other_change(self, kind: str, policy: Policy) -> list[Call]:
        tag = self.rng.choice(TAGS)
        match kind:
            case "create":
                used = {firewall.name for firewall in policy.firewalls.values()}
                name = self.rng.choice([name for name in FIREWALLS if name not in used])
                return [Call("POST", "/v2/firewalls", {"name": name, **self.both(), **self._attached()})]
            case "tag droplets":
                ids = [{"resource_id": str(i), "resource_type": "droplet"} for i in self.some(self.droplets, 1, 2)]
                return [Call(self.rng.choice(("POST", "DELETE")), f"/v2/tags/{tag}/resources", {"resources": ids})]
            case "drop tag":
                return [Call("DELETE", f"/v2/tags/{tag}"), Call("POST", "/v2/tags", {"name": tag})]
            case _:
                away = [one for one in self.droplets.values() if one.name not in policy.ports]
                if not away:
                    return []
                back = self.rng.choice(away)
                return [register(back, "here", self._claims(back))]

    def _claims(self, one: Party) -> list[str]:
        first = list(one.voices[0]) if self.rng.randrange(5) else []
        return first + self.some([text for text in one.claims if text not in first], 0 if first else 1, 4)

    def _port_change(self, kind: str, port: Port, policy: Policy) -> list[Call]:
        path, owner = f"/v1/ports/{port.id}", self.parties[port.id]
        own = policy.port_rules.get(port.id)
        match kind:
            case "addresses":
                return [register(owner, port.hypervisor, self._claims(owner))]
            case "unregister":
                return [Call("DELETE", path)]
            case "move":
                target = self.rng.choice([dpid for dpid in sorted(policy.hypervisors) if dpid != port.hypervisor])
                calls = [Call("LAB", f"move/{port.id}/{target}"), register(owner, target, list(port.addresses))]
                return calls if self.rng.randrange(2) else calls[::-1]
        if own is None or not self.rng.randrange(3):
            return [Call("PUT", f"{path}/rules", self.both())]
        add, less = Call("POST", f"{path}/rules", self.both(most=2)), Call("DELETE", f"{path}/rules", self.fewer(own))
        return [self.rng.choice((add, less, Call("DELETE", f"{path}/rules")))]

    # ---- cases

    def cases(self, policy: Policy, extra: int) -> list[Case]:
        """Every pair by every protocol and IP version, and `extra` cases at the edges of rules."""
        enforced = [
            (name, rule)
            for name in sorted(policy.ports)
            for owner in sorted(policy.rule_sets_of(policy.ports[name]), key=lambda owner: getattr(owner, "name", ""))
            for rule in owner.rules
        ]
        near = [at for _, rule in enforced if rule.protocol is not Protocol.ICMP for at in edges(rule.ports)] or [80]
        services = [(protocol, self.rng.choice(near)) for protocol in ("tcp", "udp")] + [("icmp", 0)]
        found = all_pairs(self.parties, services)  # type: ignore[arg-type]
        drawn = [self._edge_case(*self.rng.choice(enforced)) for _ in range(3 * extra if enforced else 0)]
        # Of those drawn far fewer pass than stop; a wrong stop is as wrong as a wrong pass.
        passes = {case: meant(policy, self.parties, case) for case in drawn}
        found += [case for case in passes if passes[case]][: extra // 2]
        found += [case for case in passes if not passes[case]][: extra // 2]
        return list(dict.fromkeys(found))

    def _edge_case(self, end: str, rule: Rule) -> Case:
        other = self.rng.choice([name for name in self.parties if name != end])
        ends = [f"{name}+{voice}" if (voice := self.rng.randrange(VOICES)) else name for name in (end, other)]
        source, target = ends if rule.direction is Direction.OUTBOUND else ends[::-1]
        port = 0 if rule.protocol is Protocol.ICMP else self.rng.choice(edges(rule.ports))
        return Case(source, target, rule.protocol.value, port, self.rng.choice((4, 6)))


def edges(ports: PortRange) -> list[int]:
    """Both ends, what is beside them, and one within."""
    middle = (ports.first + ports.last) // 2
    around = (ports.first - 1, ports.first, ports.last, ports.last + 1, middle if middle < 32768 else 61000)
    return [port for port in around if 0 < port < 0x10000 and port not in SHUN]


def register(one: Party, hypervisor: str, addresses: Sequence[str]) -> Call:
    """`here` is the hypervisor where the machine is plugged in."""
    body = {"droplet_id": one.droplet_id, "hypervisor": hypervisor, "interface": one.interface, "mac": one.mac,
            "addresses": list(addresses)}  # fmt: skip
    return Call("PUT", f"/v1/ports/{one.name}", body)


# --------------------------------------------------------------------------------------------- meaning


def meant(policy: Policy, parties: Mapping[str, Party], case: Case) -> bool:
    """Whether a case's packet may pass, and its answer too: a machine may be asked at an address not its own."""
    ends = []
    for end in (case.source, case.target):
        name, _, voice = end.partition("+")
        if parties[name].droplet_id is not None and name not in policy.ports:
            return False  # what nobody registered reaches nothing
        port = name if name in policy.ports else None
        ends.append((address(parties[name].address(case.version, int(voice or 0))), port))
    (source, sender), (target, receiver) = ends
    packet = Packet(source, target, Protocol(case.protocol), 0, case.port, sender, receiver)
    both = decide(policy, packet), decide(policy, packet.reply(), opening=packet)
    return all(decision.verdict is Verdict.ALLOW for decision in both)


# --------------------------------------------------------------------------------------------- the lab


class Voice(Machine):
    """A machine that speaks from one of its addresses; it shares the agent of the machine itself."""

    def submit(self, command: str, **arguments: Any) -> Any:
        if command in ("tcp", "udp", "icmp"):
            arguments["source"] = self.address(6 if ":" in arguments["address"] else 4)
        return super().submit(command, **arguments)


@dataclass
class Session:
    """A TCP connection that stays.  `guarded`: its opener was behind a firewall when it opened."""

    name: str
    case: Case
    guarded: bool
    silent_since: float | None = None
    looks: int = 0  # at which it was silent, as it should be

    @property
    def ends(self) -> tuple[str, str]:
        return self.case.source, self.case.target.partition("+")[0]


@dataclass
class Seen:
    """What a check found: `wrong` in words, `faults` the cases among them."""

    cases: int = 0
    passing: int = 0
    sessions: int = 0
    late: int = 0  # passed at the second look only
    wrong: list[str] = field(default_factory=list)
    faults: list[Case] = field(default_factory=list)


class Site:
    """A cloud whose machines have several addresses each; knows how to begin anew, and the sessions that are open."""

    def __init__(self, cloud: Cloud, parties: Mapping[str, Party], tags: Mapping[str, Sequence[str]]) -> None:
        self.cloud, self.parties, self.tags = cloud, parties, tags
        self.homes = {name: tap.hypervisor.dpid for name, tap in cloud.lab.taps.items()}
        self.sessions: dict[str, Session] = {}
        self.ids: dict[str, str] = {}
        self.voices: dict[str, Machine] = {}
        for one in parties.values():
            machine = cloud.lab.machines[one.name]
            for number, addresses in enumerate(one.voices):
                name = f"{one.name}+{number}" if number else one.name
                self.voices[name] = Voice(name, machine.netns, machine.mac, addresses, machine.log, machine.agent)
                for text in addresses if number else ():
                    # Deprecated: no connection chooses it as its source by itself.
                    long = f"{text}/{'64 nodad' if ':' in text else '16'}"
                    machine.ip(f"addr add {long} dev eth0 preferred_lft 0")
        for tag in TAGS:
            cloud.call("POST", "/v2/tags", {"name": tag})

    def begin(self) -> None:
        """Everybody at home with the first voice alone, no firewall, no rules of a port, no session."""
        for name in list(self.sessions):
            self._hang_up(name)
        for firewall in self.cloud.call("GET", "/v2/firewalls?per_page=200")["firewalls"]:
            self.cloud.call("DELETE", f"/v2/firewalls/{firewall['id']}")
        for one in self.parties.values():
            if one.droplet_id is not None:
                body = {"name": one.name, "tags": list(self.tags.get(one.name, ()))}
                self.cloud.call("PUT", f"/v1/droplets/{one.droplet_id}", body)
                if self.cloud.lab.taps[one.name].hypervisor.dpid != self.homes[one.name]:
                    self.apply(Call("LAB", f"move/{one.name}/{self.homes[one.name]}"))
                self.apply(register(one, "here", one.voices[0]))
                self.apply(Call("DELETE", f"/v1/ports/{one.name}/rules"))
        self.settle()

    # ---- calls

    def apply(self, call: Call, strict: bool = True) -> None:
        """Does it.  Not strict: a request may be refused, as when an earlier one was left out."""
        what, *names = call.path.strip("/").split("/")
        if call.method == "LAB":
            if what == "move":
                self._move(*names)
            else:
                self._open(*names)
            return
        body = call.body
        if names[:1] == ["ports"] and names[2:] != ["rules"]:
            # A port that goes or moves leaves its connections behind; one that stays, and they, are none the worse.
            here = self.cloud.lab.taps[names[1]].hypervisor.dpid
            if call.method == "DELETE" or body["hypervisor"] not in ("here", here):
                self._leave(names[1])
            if body is not None:
                body = {**body, "hypervisor": here if body["hypervisor"] == "here" else body["hypervisor"]}
        path = re.sub(r"\{(.*?)\}", lambda found: self.ids.get(found[1], "none"), call.path)
        answer = self.cloud.controller.call(call.method, path, body, WAIT if call.wait else None)
        if answer.status >= 300 and strict:
            raise LabError(f"{call} answered {answer.status}: {answer.json}")
        if answer.status < 300 and (call.method, call.path) == ("POST", "/v2/firewalls"):
            self.ids[body["name"]] = answer.json["firewall"]["id"]

    def _leave(self, name: str) -> None:
        for session in [s for s in self.sessions.values() if name in s.ends]:
            self._hang_up(session.name)

    def _move(self, name: str, dpid: str) -> None:
        self._leave(name)
        hosts = {host.dpid: host for host in self.cloud.lab.hypervisors.values()}
        self.cloud.lab.move(name, hosts[dpid])
        self.cloud.lab.plug(name)

    def _open(self, name: str, source: str, target: str, port: str, version: str) -> None:
        case = Case(source, target, "tcp", int(port), int(version))
        self.voices[target].call("listen", tcp=[case.port])
        policy = self.cloud.policy()
        to = self.voices[target].address(case.version)
        if self.voices[source].call("tcp_open", session=name, address=to, port=case.port, timeout=2) == OPEN:
            opener = policy.ports.get(source)
            self.sessions[name] = Session(name, case, bool(opener and policy.rule_sets_of(opener)))

    def _hang_up(self, name: str) -> None:
        self.voices[self.sessions.pop(name).case.source].call("tcp_close", session=name)

    # ---- checks

    def settle(self, absent: bool = False) -> None:
        """Waits until switches hold the policy, and nobody remembers where neighbours were.

        `absent`: machines may be elsewhere than the controller was told.
        """
        good = ("succeeded", "absent") if absent else ("succeeded",)

        def arrived() -> bool:
            ports = self.cloud.call("GET", "/v1/ports?per_page=200")["ports"]
            return all(port["status"] in good for port in ports)

        wait_until("all ports programmed", arrived, 30, 0.05)
        self.cloud.wait_in_sync()
        self.cloud.settle()
        for name in self.parties:
            self.cloud.lab.machines[name].forget_neighbours()

    def check(self, policy: Policy, cases: Sequence[Case]) -> Seen:
        """Probes the cases and speaks in every session; the switches must be settled."""
        expected = {case: meant(policy, self.parties, case) for case in cases}
        passing = {case for case, passes in expected.items() if passes}
        seen = Seen(len(cases), len(passing))
        probed = probe(self.voices, cases, passing, tries=3, timeout=0.5)
        slow = [case for case in disagreements(expected, probed) if expected[case]]
        if slow:  # a busy machine is late now and then; what is closed stays so
            again = probe(self.voices, slow, slow, tries=2, timeout=2)
            seen.late = sum(agrees(True, again[case]) for case in slow)
            probed |= again
        seen.faults = disagreements(expected, probed)
        for case in seen.faults:
            seen.wrong.append(f"{case.text}: expected {'pass' if expected[case] else 'stop'}, probed {probed[case]}")
        self._speak(policy, seen)
        return seen

    def _speak(self, policy: Policy, seen: Seen) -> None:
        for session in list(self.sessions.values()):
            opener = policy.ports.get(session.case.source)
            if not session.guarded and opener and policy.rule_sets_of(opener):
                # The tracker of its opener never saw it open, and a droplet may not begin in mid-stream.
                self._hang_up(session.name)
        seen.sessions = len(self.sessions)
        live = {name: meant(policy, self.parties, one.case) for name, one in self.sessions.items()}
        said = {
            name: self.voices[one.case.source].submit("tcp_say", session=name, timeout=2 if live[name] else 0.4)
            for name, one in self.sessions.items()
        }
        for name, answer in said.items():
            one, found, now = self.sessions[name], answer.result(60), time.monotonic()
            if live[name] and found == "silent":
                # What was sent in vain is sent again after a time that doubles, so at most as long as it was silent.
                until = now + max(8, 3 * (now - (one.silent_since or now)))
                while found == "silent" and time.monotonic() < until:
                    found = self.voices[one.case.source].call("tcp_say", session=name, timeout=2)
            if found != ("alive" if live[name] else "silent"):
                should = "alive" if live[name] else "silent"
                seen.wrong.append(f"session {name}, {one.case.text}: expected {should}, found {found}")
            one.silent_since = None if live[name] else one.silent_since or now
            one.looks = 0 if live[name] else one.looks + 1
            if found == "closed" or one.looks == 3:
                self._hang_up(name)


class Walk:
    """Steps from a seed; `calls` is what was done so far."""

    def __init__(self, site: Site, seed: int, extra: int = 80) -> None:
        self.site, self.extra = site, extra
        self.draw = Draw(random.Random(seed), site.parties)
        self.calls: list[Call] = []
        self.opened = 0
        site.begin()
        self.policy = site.cloud.policy()

    def do(self, *calls: Call) -> None:
        self.calls += calls
        for call in calls:
            self.site.apply(call)

    def step(self) -> Seen:
        rng = self.draw.rng
        hurried = rng.random() < 0.3
        for _ in range(rng.choice((1, 1, 2, 3))):
            while not (calls := self.draw.change(self.policy)):
                pass
            self.do(*(Call(c.method, c.path, c.body, not hurried) for c in calls))
            self.policy = self.site.cloud.policy()
        self.site.settle()
        cases = self.draw.cases(self.policy, self.extra)
        seen = self.site.check(self.policy, cases)
        self.calls.append(Call("LAB", "look"))
        tcp = [case for case in cases if case.protocol == "tcp" and "+" not in case.source]
        passing = [case for case in tcp if meant(self.policy, self.site.parties, case)]
        # Drawn in any case, so that how many sessions live does not change the story.
        for case in rng.sample(passing, min(3, len(passing))):
            self.opened += 1
            if len(self.site.sessions) < MOST_SESSIONS and case not in seen.faults:
                self.do(Call("LAB", f"open/s{self.opened}/{case.source}/{case.target}/{case.port}/{case.version}"))
        return seen


def replay(site: Site, calls: Iterable[Call], cases: Sequence[Case] = ()) -> list[str]:
    """Begins anew, makes the calls, and tells in words which of the cases and of the open sessions are wrong then.

    Calls that are refused are passed over.  At each `LAB look` the open sessions are spoken in, as the walk did.
    """
    site.begin()
    for call in calls:
        if (call.method, call.path) == ("LAB", "look"):
            if site.sessions:
                site.settle(absent=True)
                site.check(site.cloud.policy(), [])
        else:
            site.apply(call, strict=False)
    site.settle(absent=True)
    return site.check(site.cloud.policy(), cases).wrong


def shortened(calls: Sequence[Call], fails: Callable[[list[Call]], bool], tries: int = 30) -> list[Call]:
    """Fewer calls that still fail, by leaving out halves, quarters and so on, and trying at most so often."""
    left, size = list(calls), max(1, len(calls) // 2)
    while tries > 0:
        at, before = 0, len(left)
        while at < len(left) and tries > 0:
            trial = left[:at] + left[at + size :]
            tries -= 1
            if fails(trial):
                left = trial
            else:
                at += size
        if size == 1 and len(left) == before:
            break
        size = max(1, size // 2)
    return left


def script(calls: Iterable[Call], cases: Iterable[Case]) -> str:
    """What `replay` reads, as Python text."""
    lines = ["CALLS = [", *(f"    {call!r}," for call in calls), "]", "CASES = ["]
    return "\n".join([*lines, *(f"    {case!r}," for case in cases), "]"])


@contextmanager
def lab_site(tag: str, hypervisors: int = 2, droplets: int = 4) -> Iterator[Site]:
    """A lab with a controller, its droplets spread over hypervisors, and one host outside."""
    with Lab(tag) as lab:
        hosts = [lab.add_hypervisor() for _ in range(hypervisors)]
        parties, tags = {}, {}
        for number in range(1, droplets + 1):
            name = f"vm{number}"
            machine = lab.add_machine(name, hosts[(number - 1) * hypervisors // droplets])
            parties[name] = party(name, number, 100 + number, machine.mac, lab.taps[name].name)
            tags[name] = TAGS[(number - 1) % (len(TAGS) + 1) :][:1]
        lab.add_outside()
        parties["outside"] = party("outside", droplets + 1, None)
        controller = lab.keep(Controller(lab.directory / "controller", host=lab.address))
        controller.start()
        lab.connect(controller.openflow_port)
        cloud = Cloud(lab, controller)
        cloud.register_hypervisors()
        site = Site(cloud, parties, tags)
        site.begin()
        yield site


def words(calls: Iterable[Call]) -> str:
    found = [f"{call.method} {call.path}" for call in calls if call.path != "look" and not call.path.startswith("open")]
    return "; ".join(found)


def walk(site: Site, steps: int, seed: int, keep_going: bool = False, say: Callable[[str], object] = print) -> int:
    """Walks and tells; how many disagreements there were.  The first ends it unless it is to keep going."""
    say(f"seed {seed}, {steps} steps, {len(site.parties)} machines")
    walked, wrong, cases, begun = Walk(site, seed), 0, 0, time.monotonic()
    for number in range(1, steps + 1):
        started, done = time.monotonic(), len(walked.calls)
        seen = walked.step()
        cases += seen.cases + seen.sessions
        wrong += len(seen.wrong)
        late = f", {seen.late} late" if seen.late else ""
        say(f"{number:4} {words(walked.calls[done:])[:150]}")
        say(f"     {seen.cases} cases ({seen.passing} to pass), {seen.sessions} sessions{late}, "
            f"{len(seen.wrong)} not as expected, {time.monotonic() - started:.1f} s")  # fmt: skip
        if seen.wrong:
            for text in seen.wrong[:20]:
                say(f"     {text}")
            again = site.check(walked.policy, seen.faults).wrong
            say(f"seed {seed}, step {number}; asked once more, {len(again)} are not as expected")
            if not keep_going:
                say(_shortest(site, walked.calls, seen.faults[:5]))
                break
    say(f"seed {seed}: {cases} cases in {time.monotonic() - begun:.0f} s, {wrong} not as expected")
    return wrong


def _shortest(site: Site, calls: Sequence[Call], faults: Sequence[Case]) -> str:
    """The script of a failure; begins with whether it comes again when all is done again."""

    def fails(some: list[Call]) -> bool:
        return bool(replay(site, some, faults))

    # Sessions make a replay slow, and matter to sessions alone.
    plain = [call for call in calls if call.method != "LAB" or call.path.startswith("move")]
    left = plain if faults and fails(plain) else list(calls)
    again = left is plain or fails(left)
    said = f"# replayed: {'the same' if again else 'all as expected'}\n"
    return said + script(shortened(left, fails) if again else left, faults)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.walk", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 16))
    parser.add_argument("--hypervisors", type=int, default=2)
    parser.add_argument("--droplets", type=int, default=4)
    parser.add_argument("--keep-going", action="store_true", help="do not end at the first disagreement")
    parser.add_argument("--tag", default="walk", help="names the namespaces; two walks need two tags")
    options = parser.parse_args()
    try:
        with lab_site(options.tag, options.hypervisors, options.droplets) as site:
            say = lambda text: print(text, flush=True)  # noqa: E731
            return 1 if walk(site, options.steps, options.seed, options.keep_going, say) else 0
    except KeyboardInterrupt:
        return 130
    except LabError as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
