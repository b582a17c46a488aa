"""Policies of a given size: so many ports on one hypervisor, each behind a firewall of its own with so many rules.

All rules but one allow a TCP port from a /24; the last one allows it from the droplets that carry a tag, which are
elsewhere.  Each is kept in a store directly: over REST a large one would take minutes.  Peers of the same work number
their rules by the same functions (`source`, `service`).
"""

from __future__ import annotations

from dataclasses import dataclass

from firewall_app.policy.model import (
    DEFAULT_ACCOUNT,
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
from firewall_app.policy.policy import Draft, Policy
from firewall_app.store.store import Store

HERE, ELSEWHERE = "0000000000000001", "0000000000000002"
TAG = "members"
UPLINK = "eth0"
MEMBERS_FROM = 1_000_001  # droplet ids of members


@dataclass(frozen=True)
class Size:
    ports: int
    rules: int  # of each port
    members: int = 20  # droplets that carry the tag

    def __str__(self) -> str:
        return f"{self.ports} ports x {self.rules} rules"


LARGE, SMALL = Size(200, 50), Size(10, 10)


def interface(port: int) -> str:
    return f"tap{port}"


def mac(port: int) -> str:
    return f"02:00:00:00:{port >> 8:02x}:{port & 255:02x}"


def address(port: int) -> str:
    return f"10.0.{port // 250}.{1 + port % 250}"


def source(port: int, rule: int) -> str:
    return f"172.{16 + port % 16}.{(port * 7 + rule) % 256}.0/24"


def service(rule: int) -> int:
    return 1000 + rule * 7


def member_interface(member: int) -> str:
    return f"m{member}"


def member_mac(member: int) -> str:
    return f"02:01:00:00:{member >> 8:02x}:{member & 255:02x}"


def member_address(member: int) -> str:
    return f"192.168.{1 + member // 200}.{1 + member % 200}"


def firewall_id(port: int) -> str:
    return f"00000000-0000-4000-8000-{port:012x}"


def droplet_id(port: int) -> int:
    return 1 + port


def policy(size: Size, spare: int = 1) -> Draft:
    """A policy of this size; `spare` droplets more are elsewhere and do not carry the tag yet."""
    draft = Policy().edit()
    draft.put(Hypervisor(HERE, "here", (UPLINK,)))
    draft.put(Hypervisor(ELSEWHERE, "elsewhere", (UPLINK,)))
    draft.put(Tag(DEFAULT_ACCOUNT, TAG))
    for port in range(size.ports):
        _add_port(draft, size, port)
    for member in range(size.members + spare):
        number = MEMBERS_FROM + member
        draft.put(Droplet(number, name=f"member-{member}", tags=(TAG,) if member < size.members else ()))
        draft.put(Port(member_interface(member), number, ELSEWHERE, member_interface(member), None, member_mac(member),
                       (member_address(member),), slot=draft.new_slot(ELSEWHERE)))  # fmt: skip
    return draft


def _add_port(draft: Draft, size: Size, port: int) -> None:
    draft.put(Droplet(droplet_id(port), name=f"droplet-{port}"))
    draft.put(Port(f"p{port}", droplet_id(port), HERE, interface(port), None, mac(port), (address(port),),
                   slot=draft.new_slot(HERE)))  # fmt: skip
    rules = [Rule(Direction.INBOUND, Protocol.TCP, PortRange(service(0), service(0)), Peer(tags=(TAG,)),
                  draft.new_rule_id())]  # fmt: skip
    rules += [
        Rule(Direction.INBOUND, Protocol.TCP, PortRange(service(rule), service(rule)), Peer((source(port, rule),)),
             draft.new_rule_id())
        for rule in range(1, size.rules)
    ]  # fmt: skip
    draft.put(Firewall(firewall_id(port), DEFAULT_ACCOUNT, f"firewall-{port}", tuple(rules), (), (droplet_id(port),)))


def keep(url: str, draft: Draft) -> None:
    """Makes a store that holds just this policy.  Nobody else may have it open."""
    store = Store.open(url)
    try:
        store.commit(draft.changes, draft.counters, store.newest())
    finally:
        store.close()
