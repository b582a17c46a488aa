"""The nouns: droplets, ports, tags, external peers, firewalls, rules.  Frozen values that are valid once they exist.

Constructors check and raise `ValueError` with what would have been right; gathering such errors with their path
is the job of whoever parses a document (`api/schemas.py`).  How the values hang together is `policy.py`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from functools import cached_property, lru_cache
from typing import NamedTuple

import netaddr

DEFAULT_ACCOUNT = "default"
LARGEST_DROPLET_ID = 2**53  # up to there every language reads JSON's numbers alike
MOST_CONNECTIONS = 2**31 - 1  # of one port: what every version of Open vSwitch takes


class Direction(Enum):
    """As seen by the droplet: who opens the connection."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Protocol(Enum):
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"  # ICMP for IPv4 peers, ICMPv6 (less neighbour discovery, which is infrastructure) for IPv6 peers


# --------------------------------------------------------------------------------------------- addresses


class Network(NamedTuple):
    """An IP prefix as numbers: the address with its host bits cleared, and how many bits count."""

    version: int
    value: int
    prefix: int

    @property
    def bits(self) -> int:
        return 32 if self.version == 4 else 128

    @property
    def mask(self) -> int:
        return ((1 << self.prefix) - 1) << (self.bits - self.prefix)

    def covers(self, address: Address) -> bool:
        return address.version == self.version and (address.value ^ self.value) & self.mask == 0

    @property
    def first(self) -> Address:
        return Address(self.version, self.value)

    @property
    def last(self) -> Address:
        return Address(self.version, self.value | (~self.mask & ((1 << self.bits) - 1)))

    def overlaps(self, other: Network) -> bool:
        return self.version == other.version and (self.value ^ other.value) & self.mask & other.mask == 0

    def __str__(self) -> str:
        host = str(self.first)
        return host if self.prefix == self.bits else f"{host}/{self.prefix}"


class Address(NamedTuple):
    """One IP address as a number."""

    version: int
    value: int

    def __str__(self) -> str:
        return str(netaddr.IPAddress(self.value, 4 if self.version == 4 else 6))

    @property
    def network(self) -> Network:
        return Network(self.version, self.value, 32 if self.version == 4 else 128)


@lru_cache(maxsize=65536)
def network(text: str) -> Network:
    """Parses `192.0.2.1`, `192.0.2.0/24`, `2001:db8::/32`; host bits are cleared.

    Strict as inet_pton(3): no short forms such as `10.1`, no zone ids, no netmasks.
    Raises ValueError.
    """
    host, slash, length = text.partition("/")
    try:
        address = netaddr.IPAddress(host, flags=netaddr.INET_PTON)
    except (netaddr.AddrFormatError, ValueError, TypeError):
        raise ValueError(f"{text!r} is not an IP address or prefix") from None
    bits = 32 if address.version == 4 else 128
    if slash and not (length.isascii() and length.isdigit() and len(length) <= 3 and int(length) <= bits):
        raise ValueError(f"{text!r}: the prefix length must be 0 to {bits}")
    prefix = int(length) if slash else bits
    keep = ((1 << prefix) - 1) << (bits - prefix)
    return Network(address.version, int(address) & keep, prefix)


def address(text: str) -> Address:
    """Parses one address without a prefix length.  Raises ValueError."""
    if "/" in text:
        raise ValueError(f"{text!r} is a prefix, not an address")
    return network(text).first


MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@lru_cache(maxsize=65536)
def mac_number(mac: str) -> int:
    """`00:01:02:03:04:05` as a 48-bit number."""
    return int(mac.replace(":", ""), 16)


def link_local(mac: str) -> Address:
    """The IPv6 link-local address that derives from a MAC (RFC 4291, appendix A: modified EUI-64)."""
    number = mac_number(mac)
    high, low = number >> 24, number & 0xFFFFFF
    return Address(6, 0xFE80 << 112 | (high ^ 0x020000) << 40 | 0xFFFE << 24 | low)


# --------------------------------------------------------------------------------------------- rules


@dataclass(frozen=True, order=True)
class PortRange:
    """TCP or UDP ports from `first` to `last`, both included.  `0` to `65535` is every port.

    A caller's own spelling (`443-443`) is kept, since clients compare what they read with what they wrote; it is no
    part of what the range is: `443-443` equals `443`.
    """

    first: int
    last: int
    written: str = field(default="", compare=False)  # empty: as `str` has it by itself

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last <= 0xFFFF:
            raise ValueError(f"{self.first}-{self.last} is not a range of ports")
        if self.written and _ports_written(self.written) != (self.first, self.last):
            raise ValueError(f"{self.written!r} does not mean {self.first}-{self.last}")

    @classmethod
    def parse(cls, text: str) -> PortRange:
        """`443`, `8000-9000`, and `0` for every port, as in the public API.  Raises ValueError."""
        found = cls(*_ports_written(text))
        return found if str(found) == text else replace(found, written=text)

    @classmethod
    def every(cls) -> PortRange:
        return cls(0, 0xFFFF)

    @property
    def is_every(self) -> bool:
        """`1-65535` too: port 0 is reserved and cannot be told from it by anyone."""
        return self.first <= 1 and self.last == 0xFFFF

    def __contains__(self, port: object) -> bool:
        return self.is_every or (isinstance(port, int) and self.first <= port <= self.last)

    def masks(self) -> tuple[tuple[int, int], ...]:
        """The fewest (value, mask) pairs that cover the range and nothing else; none for every port."""
        if self.first == self.last:
            return ((self.first, 0xFFFF),)
        if self.is_every:
            return ()
        pairs, port = [], self.first
        while port <= self.last:
            size = port & -port or 0x10000  # the largest block that may start here
            while port + size - 1 > self.last:
                size //= 2
            pairs.append((port, 0x10000 - size))
            port += size
        return tuple(pairs)

    def __str__(self) -> str:
        if self.written:
            return self.written
        if (self.first, self.last) == (0, 0xFFFF):
            return "0"
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def _ports_written(text: str) -> tuple[int, int]:
    """First and last.  Raises ValueError."""
    if text == "0":
        return 0, 0xFFFF
    found = re.fullmatch(r"([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?", text, re.ASCII)
    if not found:
        raise ValueError(f"{text!r} is not a port, a range such as 8000-9000, or 0 for all")
    first, last = int(found[1]), int(found[2] or found[1])
    if last > 0xFFFF:
        raise ValueError(f"{last} is past 65535")
    if first > last:
        raise ValueError(f"first {first} is after last {last}")
    return first, last


@dataclass(frozen=True)
class Peer:
    """Whom a rule names: addresses, droplets, tags, external peers.  All empty means nobody, never everybody.

    Addresses and tags are kept as they were written, since clients compare what they read with what they wrote.
    Load balancers and Kubernetes clusters stand for their `ExternalPeer`; without one they are nobody.
    """

    addresses: tuple[str, ...] = ()
    droplet_ids: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()
    load_balancer_uids: tuple[str, ...] = ()
    kubernetes_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text in self.addresses:
            network(text)

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        return tuple(network(text) for text in self.addresses)

    @cached_property
    def distinct(self) -> tuple[Network, ...]:
        """Its networks in order, each once."""
        return tuple(sorted(set(self.networks)))

    @cached_property
    def names_sets(self) -> bool:
        """Whether it names what others make up: tags, or external peers."""
        return bool(self.tags or self.load_balancer_uids or self.kubernetes_ids)

    @cached_property
    def size(self) -> int:
        """How many are named."""
        external = len(self.load_balancer_uids) + len(self.kubernetes_ids)
        return len(self.addresses) + len(self.droplet_ids) + len(self.tags) + external

    @property
    def external_uids(self) -> tuple[str, ...]:
        return self.load_balancer_uids + self.kubernetes_ids

    def overlaps(self, other: Peer) -> bool:
        """Whether both name something in common, however either spells it."""
        return not self._named.isdisjoint(other._named)

    @cached_property
    def _named(self) -> frozenset[object]:
        names = (name.lower() for name in self.tags + self.external_uids)
        return frozenset((*self.networks, *self.droplet_ids, *names))

    @cached_property
    def content(self) -> Hashable:
        lists = (self.addresses, self.droplet_ids, self.tags, self.load_balancer_uids, self.kubernetes_ids)
        return tuple(map(frozenset, lists))

    def same(self, other: Peer) -> bool:
        """Equal as sets."""
        return self.content == other.content


@dataclass(frozen=True)
class Rule:
    """One allow-rule.  Its content is its identity; `id` is what switches carry, given once by the store.

    How its ports are spelled is no part of its content: `443` and `443-443` are one rule, and either removes it.
    """

    direction: Direction
    protocol: Protocol
    ports: PortRange
    peer: Peer
    id: int = field(default=0, compare=False)  # 32 bits, 0: not stored yet

    @cached_property
    def content(self) -> Hashable:
        """What it says: equal for rules that are the same, so that many can be compared with many."""
        return self.direction, self.protocol, self.ports, self.peer.content

    def same(self, other: Rule) -> bool:
        """Whether both say the same, the order inside the peer aside."""
        return (self.direction, self.protocol, self.ports) == (
            other.direction,
            other.protocol,
            other.ports,
        ) and self.peer.same(other.peer)


# --------------------------------------------------------------------------------------------- entities

_DPID = re.compile(r"[0-9a-f]{16}")
_PORT_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_TAG = re.compile(r"[A-Za-z0-9_:-]{1,255}")
EXTERNAL_UID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_FIREWALL_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9.-]+")


def _must(pattern: re.Pattern[str], text: str, what: str) -> None:
    if not pattern.fullmatch(text):
        raise ValueError(f"{text!r} is not {what}")


@dataclass(frozen=True)
class Hypervisor:
    """One OvS bridge that connects to the controller, named by its datapath id (16 hex digits)."""

    dpid: str
    name: str
    uplinks: tuple[str, ...] | None = None  # interface names, shell patterns or numbers; None: the setting's default
    created_at: datetime | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        _must(_DPID, self.dpid, "a datapath id: 16 hex digits in lower case")


@dataclass(frozen=True)
class Tag:
    """A label on droplets.  Two spellings that differ in case are one tag; the first spelling is the name."""

    account: str
    name: str
    number: int = field(default=0, compare=False)  # its 32-bit name inside switches; given with the first `Draft.put`

    def __post_init__(self) -> None:
        _must(_TAG, self.name, "a tag: 1 to 255 letters, digits, '_', '-', ':'")

    @property
    def key(self) -> TagKey:
        return tag_key(self.account, self.name)


TagKey = tuple[str, str]


def tag_key(account: str, name: str) -> TagKey:
    """What identifies a tag: its account, and its name in lower case."""
    return account, name.lower()


@dataclass(frozen=True)
class Droplet:
    """A protected virtual machine."""

    id: int
    account: str = DEFAULT_ACCOUNT
    name: str = ""
    tags: tuple[str, ...] = ()
    created_at: datetime | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.id <= LARGEST_DROPLET_ID:
            raise ValueError(f"droplet id {self.id} is not a positive integer up to {LARGEST_DROPLET_ID}")

    @property
    def tag_keys(self) -> frozenset[TagKey]:
        return frozenset(tag_key(self.account, tag) for tag in self.tags)


@dataclass(frozen=True)
class ExternalPeer:
    """Whom the uid of a load balancer or a Kubernetes cluster stands for in the rules of an account.

    The operator says so: they are made elsewhere.  A uid is one in any case (RFC 9562, section 4).
    """

    uid: str
    account: str = DEFAULT_ACCOUNT
    name: str = ""
    addresses: tuple[str, ...] = ()
    droplet_ids: tuple[int, ...] = ()
    created_at: datetime | None = field(default=None, compare=False)
    number: int = field(default=0, compare=False)  # its 32-bit name inside switches; given with the first `Draft.put`

    def __post_init__(self) -> None:
        _must(EXTERNAL_UID, self.uid, "a uid: 1 to 64 letters, digits, '.', '_', ':', '-'")
        for text in self.addresses:
            network(text)

    @property
    def key(self) -> str:
        return self.uid.lower()

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        return tuple(network(text) for text in self.addresses)


@dataclass(frozen=True)
class Port:
    """A switch port of a hypervisor that belongs to a droplet.

    `interface` or `number` says which switch port it is.  `slot` is its 16-bit name inside the switch, and its
    conntrack zone (pipeline/tables.py); the store gives it out.  No flow depends on `max_connections`: OpenFlow knows
    no such limit, and `firewall_app/zones.py` carries it to the hypervisor.
    """

    id: str
    droplet_id: int
    hypervisor: str
    interface: str | None
    number: int | None
    mac: str
    addresses: tuple[str, ...] = ()
    slot: int = field(default=0, compare=False)
    created_at: datetime | None = field(default=None, compare=False)
    max_connections: int | None = None  # tracked at once; 0: no limit, None: the setting's default

    def __post_init__(self) -> None:
        _must(_PORT_ID, self.id, "a port id: 1 to 64 letters, digits, '.', '_', ':', '-'")
        _must(_DPID, self.hypervisor, "a datapath id: 16 hex digits in lower case")
        _must(MAC, self.mac, "a MAC address such as 00:01:02:03:04:05")
        if mac_number(self.mac) >> 40 & 1:
            raise ValueError(f"{self.mac} is a multicast address")
        if mac_number(self.mac) == 0:
            raise ValueError(f"{self.mac} is no address of a machine")
        if (self.interface is None) == (self.number is None):
            raise ValueError("one of interface and number is needed, and only one")
        if self.number is not None and not 1 <= self.number < 0xFF00:
            raise ValueError(f"port number {self.number} is not between 1 and 65279")
        for text in self.addresses:
            if network(text).prefix == 0:
                raise ValueError(f"{text!r} would let the droplet send from any address")
        if self.max_connections is not None and not 0 <= self.max_connections <= MOST_CONNECTIONS:
            raise ValueError(
                f"{self.max_connections} is not a number of connections: 1 to 2147483647, or 0 for no limit"
            )

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """What the droplet may send from: its addresses, and the link-local one of its MAC."""
        own = dict.fromkeys(network(text) for text in self.addresses)
        own[link_local(self.mac).network] = None
        return tuple(own)


Name = tuple[str, Hashable]  # whom rules name: "droplet", "tag" or "external", and the key of that


def external_name(account: str, uid: str) -> Name:
    return "external", (account, uid.lower())


class RuleSet:
    """What firewalls and port rule sets have in common: rules of both directions, and the account of their names."""

    account: str
    number: int  # its 32-bit name inside switches; given with the first `Draft.put`
    inbound_rules: tuple[Rule, ...]
    outbound_rules: tuple[Rule, ...]

    @property
    def rules(self) -> tuple[Rule, ...]:
        return self.inbound_rules + self.outbound_rules

    @cached_property
    def named(self) -> frozenset[Name]:
        """Whom its rules name that may change by itself."""
        peers = [rule.peer for rule in self.rules if rule.peer.names_sets or rule.peer.droplet_ids]
        droplets = {("droplet", droplet_id) for peer in peers for droplet_id in peer.droplet_ids}
        tags = {("tag", tag_key(self.account, tag)) for peer in peers for tag in peer.tags}
        return frozenset({*droplets, *tags, *(external_name(self.account, u) for p in peers for u in p.external_uids)})

    @cached_property
    def most_sets(self) -> int:
        """How many sets of addresses its rules can come to: one of its own for each, and each that it names."""
        return sum(1 + len(rule.peer.tags) + len(rule.peer.external_uids) for rule in self.rules)

    def in_direction(self, direction: Direction) -> tuple[Rule, ...]:
        return self.inbound_rules if direction is Direction.INBOUND else self.outbound_rules


@dataclass(frozen=True)
class Firewall(RuleSet):
    """A named set of rules, attached to droplets and to tags."""

    id: str
    account: str
    name: str
    inbound_rules: tuple[Rule, ...] = ()
    outbound_rules: tuple[Rule, ...] = ()
    droplet_ids: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()
    created_at: datetime | None = field(default=None, compare=False)
    number: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        _must(
            _FIREWALL_NAME,
            self.name,
            "a firewall name: two or more letters, digits, '.', '-', the first no sign",
        )

    @cached_property
    def tag_keys(self) -> frozenset[TagKey]:
        return frozenset(tag_key(self.account, tag) for tag in self.tags)


@dataclass(frozen=True)
class PortRules(RuleSet):
    """Rules of one port alone.  A port that has a set, even an empty one, counts as being behind a firewall."""

    port_id: str
    account: str
    inbound_rules: tuple[Rule, ...] = ()
    outbound_rules: tuple[Rule, ...] = ()
    number: int = field(default=0, compare=False)


Entity = Hypervisor | Tag | Droplet | ExternalPeer | Port | Firewall | PortRules
