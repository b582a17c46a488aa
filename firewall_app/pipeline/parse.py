"""Flows from text: what `Flow.text` writes, and what `ovs-ofctl dump-flows` of Open vSwitch 3.1 prints.

    parse_flow("table=40,priority=110,reg5=0x1,reg7=0x2 actions=output:2")

What our pipeline uses is known, and a little more that others may have put beside it.  A word that is not known is a
ValueError with that word, never left out: a flow without one of its words says something else, mostly something wider.

Edge: no port names (`ovs-ofctl --no-names`) and no table names.  Statistics and timeouts are read over.

Sources: ovs-fields(7), ovs-actions(7), and lib/match.c and lib/ofp-actions.c of Open vSwitch, which print.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ..policy.model import MAC, address, mac_number
from . import reserved
from .flow import (
    CT_EST,
    CT_INV,
    CT_NEW,
    CT_REL,
    CT_RPL,
    CT_TRK,
    ETH_ARP,
    ETH_IP,
    ETH_IPV6,
    FIELDS,
    IP_ICMP,
    IP_ICMP6,
    IP_TCP,
    IP_UDP,
    NOT_A_FRAGMENT,
    NX_FRAG_ANY,
    NX_FRAG_LATER,
    Action,
    Bits,
    Ct,
    Field,
    Flow,
    Load,
    Match,
    Move,
    Note,
    Output,
    Resubmit,
    Value,
    bits,
    match,
)

ETH_RARP, IP_SCTP = 0x8035, 132
DEFAULT_PRIORITY = 32768  # of OpenFlow; left out when it is printed


@dataclass(frozen=True)
class Unreadable:
    """A line of a dump, and what in it is not known."""

    line: str
    problem: str


@dataclass(frozen=True)
class Dump:
    """What a switch says that it holds."""

    flows: tuple[Flow, ...]
    unreadable: tuple[Unreadable, ...]


def parse_dump(text: str) -> Dump:
    """All that `ovs-ofctl dump-flows` printed."""
    flows: list[Flow] = []
    unreadable: list[Unreadable] = []
    for line in map(str.strip, text.splitlines()):
        if not line or _HEADER.match(line):
            continue
        try:
            flows.append(parse_flow(line))
        except ValueError as problem:
            unreadable.append(Unreadable(line, str(problem)))
    return Dump(tuple(flows), tuple(unreadable))


_HEADER = re.compile(r"(OFP|NX)ST_FLOW reply \(\S+( \S+)?\)( \(\S+\))?:$")

# --------------------------------------------------------------------------------------------- flows


def parse_flow(line: str) -> Flow:
    """One flow.  Raises ValueError, which names the word that is not known."""
    head, found, tail = line.partition("actions=")
    if not found:
        raise ValueError(f"no actions= in {line!r}")
    about: dict[str, int] = {}
    words: dict[str, str] = {}
    for word in filter(None, re.split(r"[,\s]+", head)):
        name, equals, value = word.partition("=")
        if name in about or name in words:
            raise ValueError(f"{name} twice")
        if name in ("cookie", "table", "priority"):
            about[name] = _number(value, word)
        elif name in _STATISTICS and equals:
            continue
        elif word not in _FLAGS:
            words[name] = value if equals else ""
    return Flow(
        about.get("table", 0),
        about.get("priority", DEFAULT_PRIORITY),
        _match(words),
        tuple(_actions(tail.strip())),
        about.get("cookie", 0),
    )


_STATISTICS = {
    "duration", "n_packets", "n_bytes", "idle_age", "hard_age", "idle_timeout", "hard_timeout", "importance",
}  # fmt: skip
_FLAGS = {"send_flow_rem", "check_overlap", "reset_counts", "no_packet_counts", "no_byte_counts"}

# --------------------------------------------------------------------------------------------- matches

_SHORTHAND: dict[str, dict[str, Value]] = {
    "ip": {"eth_type": ETH_IP},
    "ipv6": {"eth_type": ETH_IPV6},
    "arp": {"eth_type": ETH_ARP},
    "rarp": {"eth_type": ETH_RARP},
    "tcp": {"eth_type": ETH_IP, "ip_proto": IP_TCP},
    "udp": {"eth_type": ETH_IP, "ip_proto": IP_UDP},
    "icmp": {"eth_type": ETH_IP, "ip_proto": IP_ICMP},
    "sctp": {"eth_type": ETH_IP, "ip_proto": IP_SCTP},
    "tcp6": {"eth_type": ETH_IPV6, "ip_proto": IP_TCP},
    "udp6": {"eth_type": ETH_IPV6, "ip_proto": IP_UDP},
    "icmp6": {"eth_type": ETH_IPV6, "ip_proto": IP_ICMP6},
    "sctp6": {"eth_type": ETH_IPV6, "ip_proto": IP_SCTP},
}

# Names of the text form and the fields that they may stand for, depending on the protocol.
_NAMES = {
    "dl_src": ("eth_src",), "dl_dst": ("eth_dst",), "dl_type": ("eth_type",), "vlan_tci": ("vlan_vid",),
    "dl_vlan": ("vlan_vid",), "nw_src": ("ipv4_src",), "nw_dst": ("ipv4_dst",), "nw_proto": ("ip_proto",),
    "nw_ttl": ("ip_ttl",), "nw_frag": ("ip_frag",), "tp_src": ("tcp_src", "udp_src"), "tp_dst": ("tcp_dst", "udp_dst"),
    "icmp_type": ("icmp_type", "icmpv6_type"), "icmp_code": ("icmp_code", "icmpv6_code"),
}  # fmt: skip


def _match(words: dict[str, str]) -> Match:
    fields: dict[str, Value] = {}
    for name in [name for name, value in words.items() if name in _SHORTHAND and not value]:
        if fields:
            raise ValueError(f"{name} beside another protocol")
        fields |= _SHORTHAND[name]
    rest = {name: value for name, value in words.items() if name not in _SHORTHAND or value}
    # What tp_dst or icmp_type is depends on the protocol, which may come after it.
    for name in sorted(rest, key=lambda name: name not in ("dl_type", "eth_type", "nw_proto", "ip_proto")):
        spec = _field(name, fields)
        if spec.name in fields:
            raise ValueError(f"{name} says again what is said already")
        fields[spec.name] = _value(name, spec, rest[name])
    return match(**fields)


def _field(name: str, so_far: dict[str, Value]) -> Field:
    candidates = [FIELDS[found] for found in _NAMES.get(name, (name,)) if found in FIELDS]
    if not candidates:
        raise ValueError(f"{name} is not known")
    protocol = so_far.get("ip_proto")
    fitting = [spec for spec in candidates if len(candidates) == 1 or protocol in spec.proto]
    if not fitting:
        raise ValueError(f"{name} is not known of IP protocol {protocol}")
    return fitting[0]


def _value(name: str, spec: Field, text: str) -> Value:
    word = f"{name}={text}"
    if name == "in_port" and text in reserved.NAMES:
        return reserved.NAMES[text]
    if name == "dl_vlan":
        return 0x1000 | _number(text, word)
    if name == "vlan_tci":
        return _vlan_tci(text, word)
    return _STYLES[spec.style](text, word)


def _plain(text: str, word: str) -> Value:
    value, slash, mask = text.partition("/")
    return (_number(value, word), _number(mask, word)) if slash else _number(value, word)


def _vlan_tci(text: str, word: str) -> Value:
    value, slash, mask = text.partition("/")
    found = _number(value, word), _number(mask, word) if slash else 0xFFFF
    if found[1] & ~0x1FFF:
        raise ValueError(f"{word} matches VLAN priorities, which are not known")
    return found


def _mac(text: str, word: str) -> Value:
    parts = text.split("/")
    if len(parts) > 2 or not all(map(MAC.fullmatch, parts)):
        raise ValueError(f"{word}: not a MAC address")
    return (mac_number(parts[0]), mac_number(parts[1])) if len(parts) == 2 else mac_number(parts[0])


def _ip(size: int, text: str, word: str) -> Value:
    host, slash, mask = text.partition("/")
    try:
        parsed = address(host)
        if not slash:
            numbers = parsed.value, (1 << size) - 1
        elif mask.isdecimal() and int(mask) <= size:
            numbers = parsed.value, (1 << size) - (1 << size - int(mask))
        else:
            numbers = parsed.value, address(mask).value
    except ValueError:
        raise ValueError(f"{word}: not an address") from None
    if (parsed.version == 4) != (size == 32):
        raise ValueError(f"{word}: an address of the other IP version")
    return numbers


def _frag(text: str, word: str) -> Value:
    if text not in _FRAGMENTS:
        raise ValueError(f"{word} is not known")
    return _FRAGMENTS[text]


_FRAGMENTS = {
    "no": NOT_A_FRAGMENT,
    "yes": (NX_FRAG_ANY, NX_FRAG_ANY),
    "first": (NX_FRAG_ANY, NX_FRAG_ANY | NX_FRAG_LATER),
    "later": (NX_FRAG_LATER, NX_FRAG_LATER),  # what is later is a fragment: the other bit says nothing more
    "not_later": (0, NX_FRAG_LATER),
}


def _flags(names: dict[str, int]) -> Callable[[str, str], Value]:
    def parse(text: str, word: str) -> Value:
        if text[:1].isdigit():
            return _plain(text, word)
        value = mask = 0
        if not re.fullmatch(r"([+-][a-z]+)+", text):
            raise ValueError(f"{word} is not known")
        for sign, name in re.findall(r"([+-])([a-z]+)", text):
            if name not in names:
                raise ValueError(f"{word}: {name} is not known")
            mask |= names[name]
            value |= names[name] if sign == "+" else 0
        return value, mask

    return parse


_STYLES: dict[str, Callable[[str, str], Value]] = {
    "dec": _plain,
    "hex": _plain,
    "vlan": _plain,
    "mac": _mac,
    "ip": partial(_ip, 32),
    "ip6": partial(_ip, 128),
    "frag": _frag,
    "ct": _flags({"new": CT_NEW, "est": CT_EST, "rel": CT_REL, "rpl": CT_RPL, "inv": CT_INV, "trk": CT_TRK}),
    "tcpflags": _flags(
        {name: 1 << i for i, name in enumerate(("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns"))}
    ),
}

# --------------------------------------------------------------------------------------------- actions


def _actions(text: str) -> Iterator[Action]:
    if text == "drop":
        return
    for word in _split(text):
        yield _action(word)


def _action(word: str) -> Action:
    if found := re.fullmatch(r"output:([0-9]+)", word):
        return Output(int(found[1]))
    # What is sent to the controller may be cut short: `CONTROLLER:65535`.
    port = re.sub(r"^output:|(?<=^CONTROLLER):[0-9]+$", "", word)
    if port in reserved.NAMES:
        return Output(reserved.NAMES[port])
    if found := re.fullmatch(r"resubmit\(,([0-9]+)(,ct)?\)", word):
        return Resubmit(int(found[1]), bool(found[2]))
    if found := re.fullmatch(r"ct\((.*)\)", word):
        return _ct(found[1])
    if found := re.fullmatch(r"note:([0-9a-f]{2}(?:\.[0-9a-f]{2})*)", word):
        return Note(bytes.fromhex(found[1].replace(".", "")))
    return _write(word)


def _write(word: str) -> Load | Move:
    if found := re.fullmatch(r"load:(\w+)->(.+)", word):
        return Load(_number(found[1], word), _bits(found[2], word))
    if found := re.fullmatch(r"set_field:(\w+)->(\w+)", word):
        return Load(_number(found[1], word), _bits(f"{found[2]}[]", word))
    if found := re.fullmatch(r"move:(.+)->(.+)", word):
        return Move(_bits(found[1], word), _bits(found[2], word))
    raise ValueError(f"action {word} is not known")


def _ct(inside: str) -> Ct:
    zone, table, commit = None, None, False
    written: list[Load | Move] = []
    for word in _split(inside):
        if word == "commit":
            commit = True
        elif found := re.fullmatch(r"table=([0-9]+)", word):
            table = int(found[1])
        elif found := re.fullmatch(r"zone=(.+\[.*\])", word):
            zone = _bits(found[1], word)
        elif found := re.fullmatch(r"exec\((.*)\)", word):
            written += map(_write, _split(found[1]))
        else:
            raise ValueError(f"{word} within ct is not known")
    if zone is None or table is None:
        raise ValueError(f"ct({inside}) without a table and a zone from a register is not known")
    return Ct(zone, table, commit, tuple(written))


def _bits(text: str, word: str) -> Bits:
    found = re.fullmatch(r"(?:NXM_NX_)?(\w+)\[(?:([0-9]+)(?:\.\.([0-9]+))?)?\]", text)
    name = found[1].lower() if found else ""
    if not found or name not in FIELDS:
        raise ValueError(f"{text} in {word} is not known")
    first = int(found[2] or 0)
    last = int(found[3]) if found[3] else first if found[2] else None
    return bits(name, first, last)


def _split(text: str) -> list[str]:
    """The words between commas, those within parentheses aside."""
    words, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            words.append("")
        else:
            words[-1] += character
    return words


def _number(text: str, word: str) -> int:
    if not re.fullmatch(r"0x[0-9a-fA-F]+|[0-9]+", text):
        raise ValueError(f"{word}: {text!r} is not a number")
    return int(text, 16 if text.startswith("0x") else 10)
