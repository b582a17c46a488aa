"""Units: the parts of which a hypervisor's flows are the sum.

Each is a small frozen value (`PortGuards(slot=7, ofport=3, mac=..., ...)`) that renders to its flows by itself, from
its own fields alone.  Comparing units by value thus tells which flows may differ, without rendering the rest.  Which
units a policy means is `compile.py`.

Source of the flows: the listing in docs/pipeline.md, and the talk.  ct_state semantics: ovs-fields(7), "Connection
Tracking Fields".  Actions: ovs-actions(7).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..policy.model import Direction, Network, PortRange, Protocol, mac_number
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
    IP_ICMP,
    IP_ICMP6,
    IP_TCP,
    IP_UDP,
    NX_FRAG_LATER,
    Action,
    Ct,
    Flow,
    Load,
    Match,
    Move,
    Output,
    Resubmit,
    Value,
    match,
)
from .tables import (
    DIRECTION,
    DISPATCH,
    FROM_DROPLET,
    GUARD,
    HALF,
    INBOUND_RULES,
    LABEL_RULE,
    MARK,
    OUTBOUND_RULES,
    OUTPUT,
    RULE,
    RULES,
    SLOT,
    STATE,
    TO_DROPLET,
    VERDICT,
    ZONE,
    Kind,
    cookie,
)

IP_VERSIONS = (ETH_IP, ETH_IPV6)
MULTICAST = 1 << 40, 1 << 40  # the group bit of a MAC
UNTAGGED = 0  # vlan_vid: neither a VLAN id nor the bit that says there is a tag
ND_TTL = 255  # RFC 4861: a smaller hop limit means that the packet crossed a router
RS, RA, NS, NA, REDIRECT = 133, 134, 135, 136, 137
TCP_SYN = 0x002
LINK_LOCAL = Network(6, 0xFE80 << 112, 10)


def _eth(version: int) -> int:
    return ETH_IP if version == 4 else ETH_IPV6


def _state(on: int, off: int = 0) -> tuple[int, int]:
    """A ct_state match: bits that must be set, bits that must not."""
    return on, on | off


# --------------------------------------------------------------------------------------------- units


@dataclass(frozen=True)
class Static:
    """What every switch holds, whatever the policy."""

    def flows(self) -> Iterator[Flow]:
        static = cookie(Kind.STATIC)
        yield GUARD.flow(100, match(), cookie=static)

        yield DISPATCH.flow(100, match(), Resubmit(OUTPUT.id), cookie=static)
        for eth in IP_VERSIONS:
            yield DISPATCH.flow(
                110, match(reg7=FROM_DROPLET, eth_type=eth),
                Load(OUTBOUND_RULES, DIRECTION), Ct(ZONE, STATE.id), cookie=static,
            )  # fmt: skip

        # A droplet may not pick up a TCP connection in the middle: after the tracker lost its state, the droplet's
        # next segment would turn a connection whose inbound rule is gone into one that the droplet opened.
        for eth in IP_VERSIONS:
            yield STATE.flow(
                206,
                match(reg7=FROM_DROPLET, eth_type=eth, ip_proto=IP_TCP, ct_state=_state(CT_NEW | CT_TRK),
                      tcp_flags=(0, TCP_SYN)),
                cookie=static,
            )  # fmt: skip
        yield STATE.flow(201, match(ct_state=_state(CT_INV | CT_TRK)), cookie=static)
        rules_of_opener = Resubmit(RULES.id, ct=True)
        for eth in IP_VERSIONS:
            reply = _state(CT_RPL | CT_TRK, CT_INV)
            yield STATE.flow(
                200, match(eth_type=eth, ct_state=reply, reg6=INBOUND_RULES),
                Load(OUTBOUND_RULES, DIRECTION), rules_of_opener, cookie=static,
            )  # fmt: skip
            yield STATE.flow(
                200, match(eth_type=eth, ct_state=reply, reg6=OUTBOUND_RULES),
                Load(INBOUND_RULES, DIRECTION), rules_of_opener, cookie=static,
            )  # fmt: skip
            # A packet that would open a connection is judged as itself.  That is not the same as by its connection when
            # both ends open at once: the tracker calls the second SYN new, under the tuple of the first.
            opening = _state(CT_NEW | CT_TRK, CT_RPL | CT_INV)
            yield STATE.flow(200, match(eth_type=eth, ct_state=opening), Resubmit(RULES.id), cookie=static)
            yield STATE.flow(199, match(eth_type=eth, ct_state=_state(CT_TRK, CT_INV)), rules_of_opener, cookie=static)
        yield STATE.flow(0, match(), cookie=static)

        yield RULES.flow(0, match(), cookie=static)
        yield VERDICT.flow(100, match(), Resubmit(OUTPUT.id), cookie=static)

        yield OUTPUT.flow(200, match(ct_state=_state(CT_INV | CT_TRK)), cookie=static)
        yield OUTPUT.flow(200, match(ct_state=_state(CT_NEW | CT_TRK), ct_mark=0), cookie=static)
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
        yield STATE.flow(
            202,
            match(ct_state=_state(CT_EST | CT_TRK), ct_mark=self.number),
            Resubmit(OUTPUT.id),
            cookie=static,
        )
        for eth in IP_VERSIONS:
            # Userspace datapath: a later fragment has no ports to judge.  Sent on to the commit of its first fragment
            # it waits in the reassembler, and only an admitted first fragment completes it.  So also when a known
            # connection is judged again, which is below the fast path.
            for priority, state in ((205, _state(CT_NEW | CT_TRK, CT_INV)), (201, _state(CT_EST | CT_TRK, CT_INV))):
                yield STATE.flow(
                    priority, match(eth_type=eth, ct_state=state, ip_frag=(NX_FRAG_LATER, NX_FRAG_LATER)),
                    Ct(ZONE, OUTPUT.id, commit=True, exec=(mark,)), cookie=static,
                )  # fmt: skip
            for state in (_state(CT_TRK, CT_REL), _state(CT_NEW | CT_REL | CT_TRK)):
                yield VERDICT.flow(
                    110, match(eth_type=eth, ct_state=state),
                    Ct(ZONE, OUTPUT.id, commit=True, exec=(mark, Move(RULE, LABEL_RULE))), cookie=static,
                )  # fmt: skip


def next_generation(number: int) -> int:
    """31 bits, never 0: 0 is the mark of a connection that was never judged."""
    return number % 0x7FFFFFFF + 1


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
        static = cookie(Kind.STATIC)
        droplets = tuple(Output(ofport) for ofport in self.droplet_ofports)
        everywhere = droplets + tuple(Output(ofport) for ofport in self.uplink_ofports)
        if not droplets:
            return
        for half, types, actions in (
            (FROM_DROPLET, (NS, NA), everywhere),  # a router solicitation is for the uplinks: no droplet is a router
            (TO_DROPLET, (RA, NS, NA), droplets),
        ):
            yield OUTPUT.flow(106, match(reg7=half, eth_dst=MULTICAST, eth_type=ETH_ARP), *actions, cookie=static)
            for icmp_type in types:
                yield OUTPUT.flow(
                    106,
                    match(reg7=half, eth_dst=MULTICAST, eth_type=ETH_IPV6, ip_proto=IP_ICMP6, ip_ttl=ND_TTL,
                          icmpv6_type=icmp_type, icmpv6_code=0),
                    *actions, cookie=static,
                )  # fmt: skip
        yield OUTPUT.flow(
            106,
            match(reg7=TO_DROPLET, eth_dst=MULTICAST, eth_type=ETH_IP, ip_proto=IP_UDP, udp_src=67, udp_dst=68),
            *droplets, cookie=static,
        )  # fmt: skip


@dataclass(frozen=True)
class PortGuards:
    """What a droplet port may send, whoever protects it, and how packets are delivered into it."""

    slot: int
    ofport: int
    mac: str
    networks: tuple[Network, ...]  # its addresses, the link-local one included

    def flows(self) -> Iterator[Flow]:
        yield from self._refusals()
        yield from self._infrastructure()
        yield from self._traffic()
        yield from self._delivery()

    def _sends(self, **fields: Value) -> Match:
        return match(in_port=self.ofport, vlan_vid=UNTAGGED, eth_src=mac_number(self.mac), **fields)

    def _leaves(self, table: int) -> tuple[Action, ...]:
        return Load(self.slot, SLOT), Load(FROM_DROPLET, HALF), Resubmit(table)

    def _refusals(self) -> Iterator[Flow]:
        """What no droplet may send: it would be a router or a DHCP server for its neighbours."""
        drop = cookie(Kind.DROP, self.slot)
        v4 = {"in_port": self.ofport, "eth_type": ETH_IP, "ip_proto": IP_UDP}
        v6 = {"in_port": self.ofport, "eth_type": ETH_IPV6}
        yield GUARD.flow(2020, match(**v4, udp_src=67, udp_dst=68), cookie=drop)
        yield GUARD.flow(2020, match(**v6, ip_proto=IP_UDP, udp_src=547, udp_dst=546), cookie=drop)
        for icmp_type in (RA, REDIRECT):
            yield GUARD.flow(2020, match(**v6, ip_proto=IP_ICMP6, icmpv6_type=icmp_type), cookie=drop)
        # With two link-layer options OvS shows neither, nor the target (lib/flow.c, parse_icmpv6); receivers take one.
        yield GUARD.flow(2020, match(**v6, ip_proto=IP_ICMP6, icmpv6_type=NS, icmpv6_code=0, nd_target=0), cookie=drop)
        # A first fragment too short for its transport header (RFC 7112) would carry what is refused here in the next.
        first = {"ip_frag": (0, NX_FRAG_LATER)}
        yield GUARD.flow(2020, match(**v6, ip_proto=IP_ICMP6, icmpv6_type=0, **first), cookie=drop)
        yield GUARD.flow(2020, match(**v6, ip_proto=IP_UDP, udp_src=0, udp_dst=0, **first), cookie=drop)
        yield GUARD.flow(2020, match(**v6, ip_proto=0, **first), cookie=drop)
        # Neighbour discovery that failed the guards below must not pass as ordinary IPv6.
        for icmp_type in (RS, NS, NA):
            yield GUARD.flow(2005, match(**v6, ip_proto=IP_ICMP6, icmpv6_type=icmp_type), cookie=drop)
        yield GUARD.flow(100, match(in_port=self.ofport), cookie=drop)

    def _infrastructure(self) -> Iterator[Flow]:
        """ARP, neighbour discovery and DHCP requests, for its own addresses: past the rules."""
        port, mac, out = cookie(Kind.PORT, self.slot), mac_number(self.mac), self._leaves(OUTPUT.id)

        def passes(**fields: Value) -> Flow:
            return GUARD.flow(2010, self._sends(**fields), *out, cookie=port)

        yield passes(eth_type=ETH_ARP, arp_op=1, arp_sha=mac, arp_spa=0)  # RFC 5227 probe
        dhcp4 = {"eth_type": ETH_IP, "ip_proto": IP_UDP, "udp_src": 68, "udp_dst": 67}
        yield passes(**dhcp4, ipv4_src=0, ipv4_dst=0xFFFFFFFF)
        dhcp6 = {"eth_type": ETH_IPV6, "ip_proto": IP_UDP, "udp_src": 546, "udp_dst": 547}
        nd = {"eth_type": ETH_IPV6, "ip_proto": IP_ICMP6, "ip_ttl": ND_TTL, "icmpv6_code": 0}
        yield passes(**nd, icmpv6_type=RS, ipv6_src=0)
        for network in self.networks:
            if network.overlaps(LINK_LOCAL):
                own = (network.value, network.mask)
                yield passes(**nd, icmpv6_type=RS, ipv6_src=own)
                yield passes(**dhcp6, ipv6_src=own)
            value = (network.value, network.mask)
            if network.version == 4:
                yield passes(eth_type=ETH_ARP, arp_sha=mac, arp_spa=value)
                yield passes(**dhcp4, ipv4_src=value)
            else:
                for lladdr in (mac, 0):  # the option names the droplet itself, or is absent
                    yield passes(**nd, icmpv6_type=NS, ipv6_src=value, nd_sll=lladdr)
                    yield passes(**nd, icmpv6_type=NA, nd_target=value, nd_tll=lladdr)
                yield passes(**nd, icmpv6_type=NS, ipv6_src=0, nd_target=value, nd_sll=0)  # duplicate address detection

    def _traffic(self) -> Iterator[Flow]:
        for network in self.networks:
            source: dict[str, Value] = {f"ipv{network.version}_src": (network.value, network.mask)}
            yield GUARD.flow(
                2000, self._sends(eth_type=_eth(network.version), **source),
                *self._leaves(DISPATCH.id), cookie=cookie(Kind.PORT, self.slot),
            )  # fmt: skip

    def _delivery(self) -> Iterator[Flow]:
        port, mac = cookie(Kind.PORT, self.slot), mac_number(self.mac)
        infrastructure: list[dict[str, Value]] = [
            {"eth_type": ETH_ARP},
            {"eth_type": ETH_IP, "ip_proto": IP_UDP, "udp_src": 67, "udp_dst": 68},
            {"eth_type": ETH_IPV6, "ip_proto": IP_UDP, "udp_src": 547, "udp_dst": 546},
        ]
        infrastructure += [
            {"eth_type": ETH_IPV6, "ip_proto": IP_ICMP6, "ip_ttl": ND_TTL, "icmpv6_type": t, "icmpv6_code": 0}
            for t in (NS, NA, RA)
        ]
        for fields in infrastructure:
            yield DISPATCH.flow(
                120, match(reg7=TO_DROPLET, eth_dst=mac, **fields),
                Load(self.slot, SLOT), Resubmit(OUTPUT.id), cookie=port,
            )  # fmt: skip
        yield OUTPUT.flow(110, match(reg7=TO_DROPLET, reg5=self.slot), Output(self.ofport), cookie=port)
        # The receiver is here too: the packet has left its sender, now it is judged on its way in.
        yield OUTPUT.flow(
            110, match(reg7=FROM_DROPLET, eth_dst=mac),
            Load(TO_DROPLET, HALF), Load(0, SLOT), Resubmit(DISPATCH.id), cookie=port,
        )  # fmt: skip


@dataclass(frozen=True)
class PortProtection:
    """Whether a port's traffic is judged: behind a firewall it is tracked and needs a rule, behind none it is open."""

    slot: int
    mac: str
    protected: bool

    def flows(self) -> Iterator[Flow]:
        port, mac = cookie(Kind.PORT, self.slot), mac_number(self.mac)
        if not self.protected:
            yield DISPATCH.flow(115, match(reg7=FROM_DROPLET, reg5=self.slot), Resubmit(OUTPUT.id), cookie=port)
            yield DISPATCH.flow(
                115,
                match(reg7=TO_DROPLET, eth_dst=mac),
                Load(self.slot, SLOT),
                Resubmit(OUTPUT.id),
                cookie=port,
            )
            return
        for eth in IP_VERSIONS:
            yield DISPATCH.flow(
                110, match(reg7=TO_DROPLET, eth_dst=mac, eth_type=eth),
                Load(self.slot, SLOT), Load(INBOUND_RULES, DIRECTION), Ct(ZONE, STATE.id), cookie=port,
            )  # fmt: skip
        for direction in (INBOUND_RULES, OUTBOUND_RULES):
            yield RULES.flow(100, match(reg5=self.slot, reg6=direction), cookie=cookie(Kind.DROP, self.slot))


_DIRECTION = {Direction.INBOUND: INBOUND_RULES, Direction.OUTBOUND: OUTBOUND_RULES}
_IP_PROTOCOL = {
    (Protocol.TCP, 4): IP_TCP, (Protocol.TCP, 6): IP_TCP, (Protocol.UDP, 4): IP_UDP, (Protocol.UDP, 6): IP_UDP,
    (Protocol.ICMP, 4): IP_ICMP, (Protocol.ICMP, 6): IP_ICMP6,
}  # fmt: skip


@dataclass(frozen=True)
class RuleFlows:
    """One rule on this hypervisor: the ports here that it protects, the addresses that it stands for now.

    Plain expansion: a flow for each port, address and port mask.
    """

    rule_id: int
    direction: Direction
    protocol: Protocol
    ports: PortRange
    networks: tuple[Network, ...]
    slots: tuple[int, ...]

    def flows(self) -> Iterator[Flow]:
        direction, rule = _DIRECTION[self.direction], cookie(Kind.RULE, self.rule_id)
        side = "src" if self.direction is Direction.INBOUND else "dst"
        services: list[dict[str, Value]] = [{}]
        if self.protocol is not Protocol.ICMP and not self.ports.is_every:
            services = [{f"{self.protocol.value}_dst": pair} for pair in self.ports.masks()]
        admit = Load(self.rule_id, RULE), Resubmit(VERDICT.id)
        for slot in self.slots:
            for network in self.networks:
                peer: dict[str, Value] = {f"ipv{network.version}_{side}": (network.value, network.mask)}
                for service in services:
                    yield RULES.flow(
                        1000,
                        match(reg5=slot, reg6=direction, eth_type=_eth(network.version),
                              ip_proto=_IP_PROTOCOL[self.protocol, network.version], **peer, **service),
                        *admit, cookie=rule,
                    )  # fmt: skip


Unit = Static | Generation | Uplinks | Flood | PortGuards | PortProtection | RuleFlows
UnitKey = tuple[str, str]
