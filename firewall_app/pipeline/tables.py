"""The pipeline, declared once: tables, priorities, registers, marks, zones, cookies.

Everything that names a table, a register or a cookie names it from here; `Table.flow` refuses a flow that matches,
writes or goes where its table does not say so.  `docs/pipeline.md` is printed from this file (`pages.py`).

The table names are those of the talk (OvSCon 2017): 0, c1, c2, c3, z; c4 is its `ct(commit,table=z)` in a table of its
own, so that a rule costs one flow and not two; c3s, c3p and c3r are its c3 taken apart, so that a policy costs the sum
of its droplets, addresses and rules and not their product (docs/decisions/0012).

To add a table: is it needed, or does a priority in one that exists do?  Where does a miss go (it must be closed)?
Add it to TABLES in pipeline order, raise LAYOUT, and add it to the golden texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from .flow import Action, Bits, Ct, Flow, Load, Match, Move, Resubmit, bits

# --------------------------------------------------------------------------------------------- registers

NEVER = bits("reg0", 0, 0)  # nothing sets it: what matches it matches no packet
SET_KIND = bits("reg1")  # of the address set that is asked: NO_SET, OWN_SET or TAG_SET
MEMBER = bits("reg1", 2, 2)  # ... and whether the peer's address is in it
SET = bits("reg2")  # which one: the id of the rule that it belongs to, or the number of the tag
FIREWALL = bits("reg3")  # number of the firewall that is asked
RULE = bits("reg4")  # id of the rule that matched; c4 writes it into the connection's label
SLOT = bits("reg5")  # the droplet port whose half is being judged
ZONE = bits("reg5", 0, 15)  # ... which is also its conntrack zone
DIRECTION = bits("reg6")  # whose rules: INBOUND_RULES, OUTBOUND_RULES or NO_RULES
HALF = bits("reg7")  # FROM_DROPLET or TO_DROPLET
MARK = bits("ct_mark")  # the policy generation at which the connection was last judged
LABEL_RULE = bits("ct_label", 0, 31)  # the rule that admitted the connection; for people, never matched

NO_SET, OWN_SET, TAG_SET = 0, 1, 2
IS_MEMBER = 4  # MEMBER, within SET_KIND
ADMITTED_OPEN = 0xFFFFFFFF  # of RULE: no rule, the droplet is open
INBOUND_RULES, OUTBOUND_RULES, NO_RULES, NO_RULES_AND_INVALID = 0, 1, 2, 3
FROM_DROPLET, TO_DROPLET = 1, 2


@dataclass(frozen=True)
class Register:
    """What a register or a mark holds; printed into the documentation."""

    where: Bits
    name: str
    meaning: str


REGISTERS = (
    Register(NEVER, "never", "nothing sets it, so that what matches it matches no packet"),
    Register(SET_KIND, "set kind", "whose address set is asked: 0 none, 1 a rule's own, 2 a tag's"),
    Register(MEMBER, "member", "1 when the peer's address is in the set; goes with the kind"),
    Register(SET, "set", "which set: id of the rule, or number of the tag"),
    Register(FIREWALL, "firewall", "number of the firewall, or of the port's own rules, that is asked"),
    Register(RULE, "rule", f"id of the rule that matched, 0 for none yet; {ADMITTED_OPEN:#x} for an open droplet"),
    Register(SLOT, "slot", "16-bit id of the droplet port being judged, 1 to 65000; its conntrack zone too"),
    Register(
        DIRECTION,
        "direction",
        "rules to judge by: 0 inbound, 1 outbound; none for an open droplet: 2, or 3 when invalid",
    ),
    Register(HALF, "half", "1: leaving a droplet port; 2: about to enter one"),
    Register(MARK, "generation", "policy generation at which the connection was last judged, never 0"),
    Register(LABEL_RULE, "admitted by", "what the rule register held (audit only)"),
)

# --------------------------------------------------------------------------------------------- cookies

MAGIC = 0xD0F1  # top 16 bits of every cookie of ours: what has other bits there is never touched
LAYOUT = 2  # raised whenever the meaning of tables or cookies changes
COOKIE_MASK = 0xFFFF << 48
KIND_MASK = 0xFFFFFFFF << 32  # all but the number


class Kind(IntEnum):
    """What part of the policy a flow comes from; bits 40 to 47 of its cookie."""

    STATIC = 1  # the same on every switch
    PORT = 2  # a droplet port: guards and delivery; low bits: slot
    RULE = 3  # a rule; low bits: rule id
    FIREWALL = 4  # a firewall, or the rules of one port; low bits: its number
    TAG = 5  # an address of a tag or an external peer; low bits: the number of either
    SYSTEM = 6  # what always passes a droplet port (ARP, ND, DHCP); low bits: slot
    PICKUP = 7  # lets a droplet go on in the middle of TCP connections for some seconds; low bits: slot
    DROP = 8  # a drop that is counted for one port; low bits: slot


def cookie(kind: Kind, number: int = 0) -> int:
    """MAGIC | kind | layout version | slot, rule id, number of a firewall or a tag.

    No epoch: an unchanged flow keeps its cookie for ever.
    """
    return MAGIC << 48 | kind << 40 | LAYOUT << 32 | number


def cookie_parts(value: int) -> tuple[Kind, int] | None:
    """(kind, low bits) of a cookie of ours; None for one of someone else, or of another layout."""
    if value >> 48 != MAGIC or value >> 32 & 0xFF != LAYOUT:
        return None
    try:
        return Kind(value >> 40 & 0xFF), value & 0xFFFFFFFF
    except ValueError:
        return None


# --------------------------------------------------------------------------------------------- tables

_L3 = frozenset({"eth_type", "ip_proto"})
_ADDRESSES = frozenset({"ipv4_src", "ipv4_dst", "ipv6_src", "ipv6_dst"})
_PORTS = frozenset({"tcp_src", "tcp_dst", "udp_src", "udp_dst"})
_ND = frozenset({"ip_ttl", "icmpv6_type", "icmpv6_code", "nd_target", "nd_sll", "nd_tll"})
_ARP = frozenset({"arp_op", "arp_spa", "arp_tpa", "arp_sha", "arp_tha"})


@dataclass(frozen=True)
class Table:
    """One table of the pipeline.

    `judges`: whether a flow that goes away here can forbid something that was allowed; if so, its going bumps the
    generation, so that live connections are judged again (unit_host.py, Generation).
    `lists`: whether its flows list whom to ask, so that a longer list takes nothing away (`asks_no_less`).
    """

    id: int
    name: str
    purpose: str
    may_match: frozenset[str]
    may_write: frozenset[str]
    goes_to: frozenset[int]
    miss: str
    judges: bool = True
    lists: bool = False

    def flow(self, priority: int, match: Match, *actions: Action, cookie: int) -> Flow:
        """A flow of this table; raises ValueError when the table's declaration does not allow it."""
        for term in match.terms:
            if term.name not in self.may_match:
                raise ValueError(f"table {self.name} may not match {term.name}")
        for action in actions:
            for target in _targets(action):
                if target not in self.goes_to:
                    raise ValueError(f"table {self.name} may not go to table {target}")
            for written in _written(action):
                if written not in self.may_write:
                    raise ValueError(f"table {self.name} may not write {written}")
        return Flow(self.id, priority, match, actions, cookie)


def _targets(action: Action) -> tuple[int, ...]:
    return (action.table,) if isinstance(action, Resubmit | Ct) else ()


def _written(action: Action) -> tuple[str, ...]:
    if isinstance(action, Load | Move):
        return (action.to.name,)
    if isinstance(action, Ct):
        return tuple(inner.to.name for inner in action.exec)
    return ()


GUARD = Table(
    0, "0",
    "Anti-spoofing: a droplet port may send only from its own MAC and addresses, untagged. Says which half the packet "
    "is in. Ports that nobody registered reach nothing.",
    _L3 | _ADDRESSES | _PORTS | _ND | _ARP
    | {"in_port", "eth_src", "eth_dst", "vlan_vid", "ip_frag", "reg0", "pkt_mark"},
    frozenset({"reg5", "reg7"}), frozenset({10, 40}), "drop",
)  # fmt: skip
DISPATCH = Table(
    10, "c1",
    "Sends what belongs to a droplet through connection tracking, in the zone of its port; lets infrastructure (ARP, "
    "neighbour discovery, DHCP answers) by.",
    _L3 | _PORTS | _ND | {"reg5", "reg7", "eth_dst", "ip_frag"},
    frozenset({"reg5", "reg6"}), frozenset({20, 40}), "to z",
)  # fmt: skip
STATE = Table(
    20, "c2",
    "Connections judged at the present generation pass at once, and whatever belongs to an open droplet. Everything "
    "else goes to the rules of the direction in which its connection was opened.",
    _L3 | {"reg0", "reg5", "reg6", "reg7", "ct_state", "ct_mark", "tcp_flags", "ip_frag", "pkt_mark"},
    frozenset({"reg4", "reg6", "ct_mark"}), frozenset({30, 35, 40}), "drop",
)  # fmt: skip
FIREWALLS = Table(
    30, "c3",
    "The firewalls that a droplet port is behind: each is asked in turn (c3s), and then what they said is carried out "
    "(c4). A port without rules in a direction drops here, counted.",
    frozenset({"reg5", "reg6"}), frozenset({"reg3", "reg4"}), frozenset({31, 35}), "drop", lists=True,
)  # fmt: skip
SETS = Table(
    31, "c3s",
    "The address sets that a firewall's rules name: for each it is looked up whether the peer is a member (c3p), and "
    "then what the firewall allows to members (c3r). Lookups are under the tuple of the connection's first packet, "
    "those of a packet that would open a connection under its own.",
    frozenset({"reg3", "reg6", "ct_state"}), frozenset({"reg1", "reg2"}), frozenset({32, 33}), "nothing", lists=True,
)  # fmt: skip
PEERS = Table(
    32, "c3p",
    "The address sets: who is a member. One flow for each address, however many rules and droplets use the set.",
    frozenset({"reg1", "reg2", "reg6", "eth_type"}) | _ADDRESSES, frozenset({"reg1"}), frozenset(), "nothing",
)  # fmt: skip
RULES = Table(
    33, "c3r",
    "The rules: what each allows to its own addresses, or to the members of a set.",
    _L3 | _ADDRESSES | _PORTS | {"reg1", "reg2", "reg3", "reg6"}, frozenset({"reg4"}), frozenset(), "nothing",
)  # fmt: skip
VERDICT = Table(
    35, "c4",
    "Admitted by no rule: dropped, counted for each port and direction. Admitted: commits the connection with the "
    "present generation and the rule's id. Related ICMP errors are delivered and never committed.",
    _L3 | {"reg4", "reg5", "reg6", "ct_state"},
    frozenset({"ct_mark", "ct_label"}), frozenset({40}), "to z",
)  # fmt: skip
OUTPUT = Table(
    40, "z",
    "Delivers: into the droplet port, into the other half when the receiver is on this hypervisor too, or out of the "
    "uplinks. What connection tracking refused to commit is dropped, unless the droplet is open.",
    _L3 | _PORTS | _ND | {"reg0", "reg5", "reg6", "reg7", "eth_dst", "ct_state", "ct_zone", "ct_mark", "pkt_mark"},
    frozenset({"reg5", "reg7"}), frozenset({10}), "drop", judges=False,
)  # fmt: skip


def asks_no_less(table: int, before: tuple[Action, ...], now: tuple[Action, ...]) -> bool:
    """Whether a flow that lists whom to ask lists all that it did: then what it allowed is allowed still."""
    return BY_ID[table].lists and _questions(before) <= _questions(now)


def _questions(actions: tuple[Action, ...]) -> set[tuple[Resubmit, frozenset[tuple[Bits, int]]]]:
    """Where each lookup is, and what the registers say then."""
    registers: dict[Bits, int] = {}
    found = set()
    for action in actions:
        if isinstance(action, Load):
            registers[action.to] = action.value
        elif isinstance(action, Resubmit) and action.table != VERDICT.id:
            found.add((action, frozenset(registers.items())))
    return found


TABLES = (GUARD, DISPATCH, STATE, FIREWALLS, SETS, PEERS, RULES, VERDICT, OUTPUT)
BY_ID = {table.id: table for table in TABLES}
