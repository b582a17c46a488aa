"""Small policies that several tests start from."""

from __future__ import annotations

from dataclasses import replace

from firewall_app.policy.model import (
    Direction,
    Droplet,
    Firewall,
    Hypervisor,
    Peer,
    Port,
    PortRange,
    Protocol,
    Rule,
    Tag,
)
from firewall_app.policy.policy import Policy

DPID = "0000000000000001"
FIREWALL = "6b6e0e2e-55b5-4d0b-9d7e-0d5a4a3c0001"
ANYONE = Peer(("0.0.0.0/0", "::/0"))


def rule(direction: str, protocol: str, ports: str, peer: Peer, number: int) -> Rule:
    return Rule(Direction(direction), Protocol(protocol), PortRange.parse(ports), peer, number)


def small(rules: int = 2) -> Policy:
    """Two droplets on a hypervisor: `web` (slot 1, behind a firewall with `rules` inbound rules), `db` (slot 2)."""
    draft = Policy().edit()
    draft.put(Hypervisor(DPID, "hv-1", ("up0",)))
    draft.put(Tag("default", "web"))
    for number, name, tags in ((101, "web", ("web",)), (102, "db", ())):
        draft.put(Droplet(number, name=name, tags=tags))
        mac, ip = f"02:00:00:00:00:{number - 100:02x}", f"10.1.0.{number - 100}"
        draft.put(Port(f"{name}-eth0", number, DPID, f"tap{number}", None, mac, (ip, f"fd00:1::{number - 100}"),
                       slot=draft.new_slot()))  # fmt: skip
    inbound = tuple(rule("inbound", "tcp", str(80 + i), ANYONE, draft.new_rule_id()) for i in range(rules))
    outbound = (rule("outbound", "udp", "53", ANYONE, draft.new_rule_id()),)
    draft.put(Firewall(FIREWALL, "default", "web-fw", inbound, outbound, (), ("web",)))
    return draft.done()


def with_inbound(policy: Policy, *rules: Rule) -> Policy:
    """The policy with other inbound rules in its firewall."""
    draft = policy.edit()
    draft.put(replace(policy.firewalls[FIREWALL], inbound_rules=rules))
    return draft.done()
