"""What a policy means.  Never optimised: everything else is tested against this file.

`decide(policy, packet)` gives the verdict on one packet, with its reason.  It walks plainly over everything that the
policy holds and uses none of its indexes, so that it can also find them wrong.

The meaning, in order:

1. A droplet sends only as itself: from its own MAC and its own addresses.
2. Infrastructure passes without a rule: ARP and neighbour discovery for one's own addresses, DHCP requests, and the
   answers to them.  A droplet may not play router or DHCP server.
3. A packet that passes between a droplet and anyone is judged once for each of the two ends that is a droplet port:
   leaving the one by its outbound rules, entering the other by its inbound rules.  Both must allow it.
4. A packet is judged as the packet that opened its connection: a reply passes because the opening packet may pass, an
   ICMP error because the packet that it is about may.  So what a rule no longer allows stops in both directions.
5. A droplet behind no firewall is open (a setting makes it closed).  Behind one or more, what any rule of any of them
   allows may open a connection, and nothing else may.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .model import Address, Direction, ExternalPeer, Firewall, Peer, Port, PortRules, Protocol, Rule, tag_key
from .policy import Policy


class Verdict(Enum):
    ALLOW = "ALLOW"
    DROP = "DROP"


@dataclass(frozen=True)
class Packet:
    """An IP packet on its way, and who really sends it.

    `sender` and `receiver` are the ids of the droplet ports at the two ends; None is the world behind an uplink.
    `protocol` other than TCP, UDP and ICMP is given as its number.  For ICMP there are no ports.
    """

    source: Address
    destination: Address
    protocol: Protocol | int
    source_port: int = 0
    destination_port: int = 0
    sender: str | None = None
    receiver: str | None = None
    source_mac: str | None = None  # None: the sender's own

    def reply(self) -> Packet:
        """The packet that answers this one."""
        return Packet(
            self.destination, self.source, self.protocol, self.destination_port, self.source_port,
            self.receiver, self.sender,
        )  # fmt: skip


@dataclass(frozen=True)
class Check:
    """How one end judged: which port, by rules of which direction, and why."""

    port_id: str
    direction: Direction
    verdict: Verdict
    reason: str
    rule: Rule | None = None
    rule_set: Firewall | PortRules | None = None


@dataclass(frozen=True)
class Decision:
    """The verdict on a packet, its reason, and what each end said."""

    verdict: Verdict
    reason: str
    checks: tuple[Check, ...] = ()


def decide(policy: Policy, packet: Packet, opening: Packet | None = None, closed: bool = False) -> Decision:
    """Judges a packet.

    `opening` is the packet that opened the connection that this one belongs to (or, for an ICMP error, that the one
    it is about belongs to), when there is such a connection; None means that this packet would open one.
    `closed`: droplets behind no firewall are closed.
    """
    spoof = _spoofed(policy, packet)
    if spoof:
        return Decision(Verdict.DROP, spoof)
    first = opening or packet
    checks = []
    for port_id in dict.fromkeys((packet.sender, packet.receiver)):
        if port_id is not None:
            # The direction of the rules is that of whoever opened the connection, not of this packet.
            direction = Direction.OUTBOUND if port_id == first.sender else Direction.INBOUND
            checks.append(_judge(policy, policy.ports[port_id], direction, first, closed))
    for check in checks:
        if check.verdict is Verdict.DROP:
            return Decision(Verdict.DROP, check.reason, tuple(checks))
    return Decision(Verdict.ALLOW, "; ".join(check.reason for check in checks) or "not between droplets", tuple(checks))


def _spoofed(policy: Policy, packet: Packet) -> str:
    """Why the sender may not send this packet as its own; empty when it may."""
    if packet.sender is None:
        return ""
    port = policy.ports[packet.sender]
    if packet.source_mac is not None and packet.source_mac != port.mac:
        return f"{packet.source_mac} is not the MAC of port {port.id}"
    if not any(own.covers(packet.source) for own in port.networks):
        return f"{packet.source} is not an address of port {port.id}"
    return ""


def _judge(policy: Policy, port: Port, direction: Direction, packet: Packet, closed: bool) -> Check:
    """One end's verdict on an opening packet."""
    sets = _rule_sets(policy, port)
    if not sets and not closed:
        return Check(port.id, direction, Verdict.ALLOW, f"droplet {port.droplet_id} is behind no firewall")
    for rule_set in sets:
        for rule in rule_set.in_direction(direction):
            if _allows(policy, rule_set.account, rule, packet):
                name = rule_set.name if isinstance(rule_set, Firewall) else f"the rules of port {port.id}"
                reason = f"{direction.value} rule of {name} allows it"
                return Check(port.id, direction, Verdict.ALLOW, reason, rule, rule_set)
    reason = f"no {direction.value} rule of droplet {port.droplet_id} allows it"
    return Check(port.id, direction, Verdict.DROP, reason)


def _rule_sets(policy: Policy, port: Port) -> list[Firewall | PortRules]:
    """Every firewall that the port's droplet is behind, and the port's own rules if it has a set."""
    droplet = policy.droplets[port.droplet_id]
    found: list[Firewall | PortRules] = [
        firewall
        for firewall in policy.firewalls.values()
        if droplet.id in firewall.droplet_ids
        or (firewall.account == droplet.account and _share_a_tag(firewall.tags, droplet.tags))
    ]
    found += [own for own in policy.port_rules.values() if own.port_id == port.id]
    return found


def _share_a_tag(some: tuple[str, ...], others: tuple[str, ...]) -> bool:
    return bool({tag.lower() for tag in some} & {tag.lower() for tag in others})


def _allows(policy: Policy, account: str, rule: Rule, packet: Packet) -> bool:
    if packet.protocol is not rule.protocol:
        return False
    if rule.protocol is not Protocol.ICMP and packet.destination_port not in rule.ports:
        return False
    peer = packet.source if rule.direction is Direction.INBOUND else packet.destination
    return _is_peer(policy, account, rule, peer)


def _is_peer(policy: Policy, account: str, rule: Rule, address: Address) -> bool:
    uids = {uid.lower() for uid in (*rule.peer.load_balancer_uids, *rule.peer.kubernetes_ids)}
    external = [one for one in policy.external_peers.values() if one.account == account and one.uid.lower() in uids]
    spelled_out: tuple[Peer | ExternalPeer, ...] = (rule.peer, *external)
    if any(written.covers(address) for one in spelled_out for written in one.networks):
        return True
    for droplet in policy.droplets.values():
        named = any(droplet.id in one.droplet_ids for one in spelled_out) or any(
            tag_key(account, tag) == tag_key(droplet.account, own) for tag in rule.peer.tags for own in droplet.tags
        )
        if named and droplet.account == account:
            for port in policy.ports.values():
                if port.droplet_id == droplet.id and any(own.covers(address) for own in port.networks):
                    return True
    return False
