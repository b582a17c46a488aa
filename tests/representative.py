"""One representative policy in force on two hypervisors, and frames for it: for tests that go case by case."""

from __future__ import annotations

from dataclasses import replace

from fleet import Fleet, Site
from simfabric import Delivery

from firewall_app.pipeline.compile import Rulings
from firewall_app.pipeline.flow import ETH_ARP, ETH_IP, ETH_IPV6, IP_ICMP, IP_ICMP6, IP_TCP, IP_UDP
from firewall_app.pipeline.tables import BY_ID
from firewall_app.pipeline.tracker import SYN, Frame
from firewall_app.policy.model import (
    Direction,
    Droplet,
    Firewall,
    Hypervisor,
    Peer,
    Port,
    PortRange,
    PortRules,
    Protocol,
    Rule,
    Tag,
    address,
    link_local,
    mac_number,
)
from firewall_app.policy.policy import Policy

HERE, THERE = "00000000000000a1", "00000000000000a2"
IN, OUT = Direction.INBOUND, Direction.OUTBOUND
TCP, UDP, ICMP = Protocol.TCP, Protocol.UDP, Protocol.ICMP
EVERY = PortRange.every()
ANYONE = Peer(addresses=("0.0.0.0/0", "::/0"))
ROUTER = mac_number("02:00:00:00:00:fe")
BROADCAST = (1 << 48) - 1


def mac(number: int) -> int:
    return 0x02_00_00_00_00_00 + number


def ip(text: str) -> int:
    return address(text).value


def representative() -> Policy:
    """Two firewalls, a port rule set and an open droplet, on two hypervisors."""
    draft = Policy().edit()
    for dpid in (HERE, THERE):
        draft.put(Hypervisor(dpid, dpid[-2:], ("uplink*",)))
    for tag in ("web", "db", "nobody"):
        draft.put(Tag("default", tag))
    for number, tags in ((1, ("web",)), (2, ("db",)), (3, ()), (4, ("WEB",))):
        draft.put(Droplet(number, tags=tags))
    homes = {1: ("vm1", HERE), 2: ("vm2", HERE), 3: ("vm3", HERE), 4: ("vm1", THERE)}
    for number, (interface, dpid) in homes.items():
        own = (f"10.0.0.{number}", f"fd00::{number}") + (("10.0.0.8/30",) if number == 2 else ())
        draft.put(Port(f"p{number}", number, dpid, interface, None, f"02:00:00:00:00:0{number}", own, slot=number))
    web_in = (
        Rule(IN, TCP, PortRange(443, 443), ANYONE, 1),
        Rule(IN, TCP, PortRange(8000, 8002), Peer(addresses=("192.0.2.0/24", "2001:db8::/32")), 2),
        Rule(IN, ICMP, EVERY, Peer(addresses=("192.0.2.0/24", "2001:db8::/32")), 3),
    )
    web_out = (
        Rule(OUT, UDP, PortRange(53, 53), ANYONE, 4),
        Rule(OUT, TCP, PortRange(5432, 5432), Peer(tags=("db",)), 5),
    )
    draft.put(Firewall("f-web", "default", "web", web_in, web_out, tags=("Web",)))
    db_in = (Rule(IN, TCP, PortRange(5432, 5432), Peer(tags=("web",)), 6), Rule(IN, UDP, EVERY, ANYONE, 7))
    draft.put(Firewall("f-db", "default", "db", db_in, (Rule(OUT, ICMP, EVERY, ANYONE, 8),), droplet_ids=(2,)))
    draft.put(PortRules("p2", "default", (Rule(IN, TCP, PortRange(22, 22), Peer(droplet_ids=(1, 99)), 9),), ()))
    return draft.done()


SITE = Site(
    interfaces={
        HERE: {1: "uplink0", 11: "vm1", 12: "vm2", 13: "vm3", 77: "stranger"},
        THERE: {1: "uplink0", 11: "vm1"},
    },
    uplinks={HERE: 1, THERE: 1},
)
WEB, DB, OPEN, FAR, OUTSIDE = 1, 2, 3, 4, 0


class Net:
    """The representative policy in force; frames between its droplets by number (0 is outside)."""

    def __init__(self, policy: Policy | None = None, rulings: Rulings | None = None) -> None:
        self.policy = policy or representative()
        self.fleet = Fleet(SITE, rulings or Rulings())
        self.fleet.follow(self.policy)

    def send(self, sender: int, frame: Frame) -> Delivery:
        return self.fleet.send(self.policy.ports[f"p{sender}"] if sender else None, frame)

    def reached(self, sender: int, frame: Frame) -> set[int]:
        """The droplets that a frame reaches, and OUTSIDE when it goes out of an uplink."""
        delivery = self.send(sender, frame)
        places = {self.fleet.place(port): port.droplet_id for port in self.policy.ports.values()}
        return {places[place] for place in delivery.reached} | ({OUTSIDE} if delivery.outside else set())


def path(delivery: Delivery) -> list[tuple[str, int]]:
    """Table names and priorities of the flows that a frame met on the first switch."""
    return [(BY_ID[flow.table].name, flow.priority) for flow in delivery.walks[0].hits]


def frame(sender: int, receiver: int, version: int = 4, **fields: object) -> Frame:
    """An IP frame between two ends with their own addresses."""

    def own(number: int) -> int:
        if number:
            return ip(f"10.0.0.{number}" if version == 4 else f"fd00::{number}")
        return ip("192.0.2.7" if version == 4 else "2001:db8::7")

    eth = {"eth_src": mac(sender) if sender else ROUTER, "eth_dst": mac(receiver) if receiver else ROUTER}
    base = {**eth, "eth_type": ETH_IP if version == 4 else ETH_IPV6, "src": own(sender), "dst": own(receiver)}
    return Frame(**{**base, **fields})


def tcp(sender: int, receiver: int, sport: int, dport: int, flags: int = SYN, version: int = 4) -> Frame:
    return frame(sender, receiver, version, proto=IP_TCP, sport=sport, dport=dport, flags=flags)


def udp(sender: int, receiver: int, sport: int, dport: int, version: int = 4, **fields: object) -> Frame:
    return frame(sender, receiver, version, proto=IP_UDP, sport=sport, dport=dport, **fields)


def echo(sender: int, receiver: int, version: int = 4, answer: bool = False) -> Frame:
    kinds = {4: (8, 0), 6: (128, 129)}[version]
    proto = IP_ICMP if version == 4 else IP_ICMP6
    return frame(sender, receiver, version, proto=proto, icmp_type=kinds[answer], icmp_id=9)


def error(sender: int, receiver: int, about: Frame, kind: int, code: int, **fields: object) -> Frame:
    version = 4 if about.eth_type == ETH_IP else 6
    proto = IP_ICMP if version == 4 else IP_ICMP6
    return frame(sender, receiver, version, proto=proto, icmp_type=kind, icmp_code=code, inner=about, **fields)


def nd(sender: int, kind: int, receiver: int | None = None, **fields: object) -> Frame:
    """Neighbour discovery, from the link-local address of a droplet; to everybody when no receiver is given."""
    own = link_local(f"02:00:00:00:00:{sender or 0xFE:02x}").value
    base = {"src": own, "dst": ip("ff02::1"), "ttl": 255, "icmp_type": kind, "proto": IP_ICMP6}
    if receiver is None:
        base["eth_dst"] = 0x3333_0000_0001
    return replace(frame(sender, receiver or 0, 6), **{**base, **fields})


def arp(sender: int, receiver: int | None = None, **fields: object) -> Frame:
    base = {
        "eth_src": mac(sender) if sender else ROUTER,
        "eth_dst": BROADCAST if receiver is None else mac(receiver) if receiver else ROUTER,
        "eth_type": ETH_ARP,
        "arp_op": 1,
        "arp_sha": mac(sender) if sender else ROUTER,
        "arp_spa": ip(f"10.0.0.{sender or 254}"),
    }
    return Frame(**{**base, **fields})
