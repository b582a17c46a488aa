"""What a random walk may do: changes and cases, drawn from a policy by a seed (`walk.py`)."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firewall_app.policy.decide import Packet, Verdict, decide
from firewall_app.policy.model import Direction, Port, PortRange, Protocol, Rule, address
from firewall_app.policy.policy import Policy

from .truth import Case, all_pairs

TAGS = ("web", "db", "ops")
SPELLED = (*TAGS, "WEB", "Db")
FIREWALLS = ("fw-1", "fw-2", "fw-3", "fw-4")
VOICES = 3  # addresses of each IP version that a machine speaks from
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
