"""Units of the hypervisor as a whole: the fixed part of the pipeline, generation, fence, uplinks, broadcast."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .flow import (
    A_FRAGMENT,
    CT_EST,
    CT_INV,
    CT_NEW,
    CT_REL,
    CT_RPL,
    CT_TRK,
    ETH_ARP,
    ETH_IP,
    ETH_IPV6,
    IP_ICMP6,
    IP_TCP,
    IP_UDP,
    NX_FRAG_LATER,
    Action,
    Ct,
    Flow,
    Load,
    Move,
    Note,
    Output,
    Resubmit,
    Value,
    match,
)
from .system import ARP_IN, ARP_OUT, DHCP_IN, MLD_IN, ND_IN, ND_OUT, SystemRule
from .tables import (
    ADMITTED_OPEN,
    DIRECTION,
    DISPATCH,
    FIREWALLS,
    FROM_DROPLET,
    GUARD,
    HALF,
    INBOUND_RULES,
    LABEL_RULE,
    MARK,
    NEVER,
    NO_RULES,
    NO_RULES_AND_INVALID,
    OUTBOUND_RULES,
    OUTPUT,
    PEERS,
    RULE,
    RULES,
    SETS,
    STATE,
    TO_DROPLET,
    VERDICT,
    ZONE,
    Kind,
    cookie,
)
from .values import IP_VERSIONS, MLD_QUERY, MLD_TTL, MULTICAST, NA, ND_TTL, NS, RA, TCP_SYN, UNTAGGED, state

JUDGED = 0, NO_RULES  # of DIRECTION: by the rules of either direction


@dataclass(frozen=True)
class Static:
    """What every switch holds, whatever the policy."""

    fragments: bool = True  # whether they are tracked; else what is judged is dropped untracked

    def flows(self) -> Iterator[Flow]:
        static = cookie(Kind.STATIC)
        yield GUARD.flow(100, match(), cookie=static)

        yield DISPATCH.flow(100, match(), Resubmit(OUTPUT.id), cookie=static)
        for eth in IP_VERSIONS:
            yield DISPATCH.flow(
                110, match(reg7=FROM_DROPLET, eth_type=eth),
                Load(OUTBOUND_RULES, DIRECTION), Ct(ZONE, STATE.id), cookie=static,
            )  # fmt: skip
            if not self.fragments:
                yield DISPATCH.flow(111, match(eth_type=eth, ip_frag=A_FRAGMENT), cookie=static)
        yield from self._state()
        for table in (FIREWALLS, SETS, PEERS, RULES):
            yield table.flow(0, match(), cookie=static)
        yield from self._rest()

    def _state(self) -> Iterator[Flow]:
        static, deliver = cookie(Kind.STATIC), Resubmit(OUTPUT.id)
        # A droplet may not pick up a TCP connection in the middle: after the tracker lost its state, the droplet's
        # next segment would turn a connection whose inbound rule is gone into one that the droplet opened.  When the
        # droplet is open it passes, and is not committed: which end opened is for the other end's segment to say.
        for eth in IP_VERSIONS:
            middle: dict[str, Value] = {
                "eth_type": eth,
                "ip_proto": IP_TCP,
                "ct_state": state(CT_NEW | CT_TRK),
                "tcp_flags": (0, TCP_SYN),
            }
            yield STATE.flow(210, match(reg6=OUTBOUND_RULES, **middle), cookie=static)
            yield STATE.flow(210, match(reg6=NO_RULES, reg7=FROM_DROPLET, **middle), deliver, cookie=static)
        # What is invalid may belong to anything.
        yield STATE.flow(
            202, match(reg6=NO_RULES, ct_state=state(CT_INV | CT_TRK)),
            Load(NO_RULES_AND_INVALID, DIRECTION), deliver, cookie=static,
        )  # fmt: skip
        yield STATE.flow(201, match(ct_state=state(CT_INV | CT_TRK)), cookie=static)
        yield STATE.flow(
            200, match(reg6=NO_RULES, ct_state=state(CT_TRK, CT_INV)),
            Load(ADMITTED_OPEN, RULE), Resubmit(VERDICT.id), cookie=static,
        )  # fmt: skip
        # A reply is judged by the rules of the direction in which its connection was opened.
        reply = state(CT_RPL | CT_TRK, CT_INV)
        for direction, other in ((INBOUND_RULES, OUTBOUND_RULES), (OUTBOUND_RULES, INBOUND_RULES)):
            yield STATE.flow(
                199,
                match(reg6=direction, ct_state=reply),
                Load(other, DIRECTION),
                Resubmit(FIREWALLS.id),
                cookie=static,
            )
        yield STATE.flow(198, match(ct_state=state(CT_TRK, CT_INV)), Resubmit(FIREWALLS.id), cookie=static)
        yield STATE.flow(0, match(), cookie=static)

    def _rest(self) -> Iterator[Flow]:
        static = cookie(Kind.STATIC)
        yield VERDICT.flow(120, match(reg4=0), cookie=static)
        yield VERDICT.flow(100, match(), Resubmit(OUTPUT.id), cookie=static)

        # Fragments that waited in vain are given to whatever packet is committed then, with its registers (userspace
        # datapath before 3.6): invalid, and sometimes not even tracked.  What c2 itself sends on as invalid is 3.
        for bit in (1, 2):
            yield OUTPUT.flow(200, match(reg6=(0, bit), ct_state=state(CT_INV)), cookie=static)
        # The connection was refused: its zone or the table is full.  New is never established; to ask for that too has
        # packets of new and of known connections looked up under the same mask (docs/decisions/0035).
        yield OUTPUT.flow(200, match(reg6=JUDGED, ct_state=state(CT_NEW | CT_TRK, CT_EST), ct_mark=0), cookie=static)
        yield OUTPUT.flow(100, match(), cookie=static)


@dataclass(frozen=True)
class Generation:
    """The policy generation: connections that carry it pass; all others are judged again and then carry it.

    Every change that takes something away raises it, in the same bundle.  So a connection that a removed rule had
    admitted stops in both directions with the commit, and one that is still allowed is marked anew by its next packet.
    """

    number: int  # 1 to 2^31 - 1

    def flows(self) -> Iterator[Flow]:
        static = cookie(Kind.STATIC)
        mark = Load(self.number, MARK)
        # What is about a connection goes with it.
        for found in (state(CT_EST | CT_TRK), state(CT_REL | CT_TRK, CT_NEW | CT_INV)):
            yield STATE.flow(202, match(ct_state=found, ct_mark=self.number), Resubmit(OUTPUT.id), cookie=static)
        for eth in IP_VERSIONS:
            # Userspace datapath: a later fragment has no ports to judge.  Sent on to the commit of its first fragment
            # it waits in the reassembler, and only an admitted first fragment completes it.  So also when a known
            # connection is judged again, which is below the fast path.
            for priority, found in ((205, state(CT_NEW | CT_TRK, CT_INV)), (201, state(CT_EST | CT_TRK, CT_INV))):
                yield STATE.flow(
                    priority, match(eth_type=eth, ct_state=found, ip_frag=(NX_FRAG_LATER, NX_FRAG_LATER)),
                    Ct(ZONE, OUTPUT.id, commit=True, exec=(mark,)), cookie=static,
                )  # fmt: skip
            for found in (state(CT_TRK, CT_REL), state(CT_NEW | CT_REL | CT_TRK)):
                yield VERDICT.flow(
                    110, match(eth_type=eth, ct_state=found),
                    Ct(ZONE, OUTPUT.id, commit=True, exec=(mark, Move(RULE, LABEL_RULE))), cookie=static,
                )  # fmt: skip


def next_generation(number: int) -> int:
    """31 bits, never 0: 0 is the mark of a connection that was never judged."""
    return number % 0x7FFFFFFF + 1


TURNS = 32


@dataclass(frozen=True)
class Turn:
    """What makes a switch forget the decisions that it has cached: a bit that is looked at, another with every change.

    Open vSwitch keeps a cached decision, and changes it in place, as long as it looks at all the bits of a packet that
    the tables look at now.  In its userspace datapath that goes wrong at times: the old decision stays in force while
    packets keep using it.  These flows match no packet, whatever its mark, but their bit of the mark is looked at in
    each of the tables in which a packet begins; when the bit is another one, nothing that was cached will do.
    """

    number: int  # 0 to TURNS - 1

    def flows(self) -> Iterator[Flow]:
        bit = 1 << self.number
        for table in (GUARD, STATE, OUTPUT):
            yield table.flow(0xFFFF, match(reg0=(1, 1), pkt_mark=(bit, bit)), cookie=cookie(Kind.STATIC, 1))


@dataclass(frozen=True)
class Fence:
    """Which policy the switch last got (history.py): a flow that no packet matches and that every bundle writes.

    A controller that finds a point here which its own store does not descend from changes nothing on the switch: it
    would take away what somebody else was promised.  It is in the bundle with the flows, so that it never disagrees
    with them.
    """

    timeline: int  # 63 bits
    revision: int

    def flows(self) -> Iterator[Flow]:
        note = Note(_FENCE.pack(_FENCE_WORD, self.timeline, self.revision))
        yield OUTPUT.flow(1, FENCE_MATCH, note, cookie=cookie(Kind.STATIC, 2))

    @classmethod
    def read(cls, actions: tuple[Action, ...]) -> Fence | None:
        """What the actions of such a flow say; None when they are not those of one, or of another version of it."""
        match actions:
            case (Note(data),) if len(data) == _FENCE.size:
                word, timeline, revision = _FENCE.unpack(data)
                if word == _FENCE_WORD and max(timeline, revision) < 1 << 63:  # no store holds a greater number
                    return cls(timeline, revision)
        return None


FENCE_MATCH = match(**{NEVER.name: (1, 1)})
_FENCE = struct.Struct("!6sQQ")  # 22 bytes: a note that is padded could not be compared
_FENCE_WORD = b"fence1"


@dataclass(frozen=True)
class Uplinks:
    """The ports that lead to the rest of the network."""

    ofports: tuple[int, ...]

    def flows(self) -> Iterator[Flow]:
        static = cookie(Kind.STATIC)
        for ofport in self.ofports:
            yield GUARD.flow(
                1000, match(in_port=ofport, vlan_vid=UNTAGGED),
                Load(TO_DROPLET, HALF), Resubmit(DISPATCH.id), cookie=static,
            )  # fmt: skip
        if self.ofports:
            yield OUTPUT.flow(
                105, match(reg7=FROM_DROPLET), *(Output(ofport) for ofport in self.ofports), cookie=static
            )


@dataclass(frozen=True)
class Flood:
    """Broadcast that hosts cannot live without (ARP, neighbour discovery, DHCP answers) reaches every droplet."""

    droplet_ofports: tuple[int, ...]
    uplink_ofports: tuple[int, ...]

    def flows(self) -> Iterator[Flow]:
        for _, flow in self.system():
            yield flow

    def system(self) -> Iterator[tuple[SystemRule, Flow]]:
        """Each flow with the system rule that it belongs to."""
        static = cookie(Kind.STATIC)
        droplets = tuple(Output(ofport) for ofport in self.droplet_ofports)
        everywhere = droplets + tuple(Output(ofport) for ofport in self.uplink_ofports)
        if not droplets:
            return
        nd_in, nd_out, mld_in = (ND_IN, ND_TTL), (ND_OUT, ND_TTL), (MLD_IN, MLD_TTL)
        # Router solicitations and listener reports are for the uplinks alone: no droplet is a router.
        for half, arp, types, actions in (
            (FROM_DROPLET, ARP_OUT, {NS: nd_out, NA: nd_out}, everywhere),
            (TO_DROPLET, ARP_IN, {RA: nd_in, NS: nd_in, NA: nd_in, MLD_QUERY: mld_in}, droplets),
        ):
            to_all: dict[str, Value] = {"reg7": half, "eth_dst": MULTICAST}
            yield arp, OUTPUT.flow(106, match(**to_all, eth_type=ETH_ARP), *actions, cookie=static)
            for icmp_type, (rule, ttl) in types.items():
                yield rule, OUTPUT.flow(
                    106,
                    match(**to_all, eth_type=ETH_IPV6, ip_proto=IP_ICMP6, ip_ttl=ttl, icmpv6_type=icmp_type,
                          icmpv6_code=0),
                    *actions, cookie=static,
                )  # fmt: skip
        yield DHCP_IN, OUTPUT.flow(
            106,
            match(reg7=TO_DROPLET, eth_dst=MULTICAST, eth_type=ETH_IP, ip_proto=IP_UDP, udp_src=67, udp_dst=68),
            *droplets, cookie=static,
        )  # fmt: skip
