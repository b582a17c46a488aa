"""Units of one droplet port: what it may send, what is delivered to it, and whose rules apply to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from ..policy.model import Network, mac_number
from .flow import (
    A_FRAGMENT,
    CT_NEW,
    CT_TRK,
    ETH_ARP,
    ETH_IP,
    ETH_IPV6,
    ETH_RARP,
    IP_ICMP6,
    IP_TCP,
    IP_UDP,
    NOT_A_FRAGMENT,
    NX_FRAG_LATER,
    Action,
    Ct,
    Flow,
    Load,
    Match,
    Output,
    Resubmit,
    Value,
    match,
)
from .system import ARP_IN, ARP_OUT, DHCP_IN, DHCP_OUT, MLD_OUT, ND_IN, ND_OUT, RARP_OUT, SystemRule
from .tables import (
    DIRECTION,
    DISPATCH,
    FIREWALL,
    FIREWALLS,
    FROM_DROPLET,
    GUARD,
    HALF,
    INBOUND_RULES,
    NO_RULES,
    OUTBOUND_RULES,
    OUTPUT,
    RULE,
    SETS,
    SLOT,
    STATE,
    TO_DROPLET,
    VERDICT,
    ZONE,
    Kind,
    cookie,
)
from .values import (
    IP_VERSIONS,
    MLD2_REPORT,
    MLD_DONE,
    MLD_REPORT,
    MLD_TTL,
    MULTICAST,
    NA,
    ND_TTL,
    NS,
    RA,
    RARP_ANNOUNCES,
    REDIRECT,
    RS,
    TCP_SYN,
    UNTAGGED,
    eth_type,
    state,
)

LINK_LOCAL = Network(6, 0xFE80 << 112, 10)


@dataclass(frozen=True)
class PortGuards:
    """What a droplet port may send, whoever protects it, and how packets are delivered into it."""

    slot: int
    ofport: int
    mac: str
    networks: tuple[Network, ...]  # its addresses, the link-local one included

    def flows(self) -> Iterator[Flow]:
        yield from self._refusals()
        for _, flow in self.system():
            yield flow
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
        # Whatever their source port: there are clients that look at their own alone.
        yield GUARD.flow(2020, match(**v4, udp_dst=68), cookie=drop)
        yield GUARD.flow(2020, match(**v6, ip_proto=IP_UDP, udp_dst=546), cookie=drop)
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

    def system(self) -> Iterator[tuple[SystemRule, Flow]]:
        """What passes without a rule, and the flows that let it: for the port's own addresses, past the rules."""
        for rule, fields in self._sent():
            flow = GUARD.flow(
                2010, self._sends(**fields), *self._leaves(OUTPUT.id), cookie=cookie(Kind.SYSTEM, self.slot)
            )
            yield rule, flow
        for rule, fields in self._received():
            flow = DISPATCH.flow(
                120, match(reg7=TO_DROPLET, eth_dst=mac_number(self.mac), **fields),
                Load(self.slot, SLOT), Resubmit(OUTPUT.id), cookie=cookie(Kind.SYSTEM, self.slot),
            )  # fmt: skip
            yield rule, flow

    def _sent(self) -> Iterator[tuple[SystemRule, dict[str, Value]]]:
        mac = mac_number(self.mac)
        yield ARP_OUT, {"eth_type": ETH_ARP, "arp_op": 1, "arp_sha": mac, "arp_spa": 0}  # RFC 5227 probe
        yield RARP_OUT, {
            "eth_type": ETH_RARP, "arp_op": RARP_ANNOUNCES, "arp_sha": mac, "arp_tha": mac, "arp_spa": 0, "arp_tpa": 0
        }  # fmt: skip
        dhcp4: dict[str, Value] = {"eth_type": ETH_IP, "ip_proto": IP_UDP, "udp_src": 68, "udp_dst": 67}
        yield DHCP_OUT, {**dhcp4, "ipv4_src": 0, "ipv4_dst": 0xFFFFFFFF}
        dhcp6: dict[str, Value] = {"eth_type": ETH_IPV6, "ip_proto": IP_UDP, "udp_src": 546, "udp_dst": 547}
        # RFC 6980: never in fragments, of which a later one could hold an option that these matches do not see.
        nd: dict[str, Value] = {
            "eth_type": ETH_IPV6, "ip_proto": IP_ICMP6, "ip_ttl": ND_TTL, "icmpv6_code": 0, "ip_frag": NOT_A_FRAGMENT
        }  # fmt: skip
        yield ND_OUT, {**nd, "icmpv6_type": RS, "ipv6_src": 0, "eth_dst": MULTICAST}
        mld: dict[str, Value] = {**nd, "ip_ttl": MLD_TTL}
        yield MLD_OUT, {**mld, "icmpv6_type": MLD2_REPORT, "ipv6_src": 0, "eth_dst": MULTICAST}
        for network in self.networks:
            value = (network.value, network.mask)
            if network.overlaps(LINK_LOCAL):
                yield ND_OUT, {**nd, "icmpv6_type": RS, "ipv6_src": value, "eth_dst": MULTICAST}
                yield DHCP_OUT, {**dhcp6, "ipv6_src": value}
                for kind in (MLD_REPORT, MLD_DONE, MLD2_REPORT):
                    yield MLD_OUT, {**mld, "icmpv6_type": kind, "ipv6_src": value, "eth_dst": MULTICAST}
            if network.version == 4:
                yield ARP_OUT, {"eth_type": ETH_ARP, "arp_sha": mac, "arp_spa": value}
                yield DHCP_OUT, {**dhcp4, "ipv4_src": value}
            else:
                for lladdr in (mac, 0):  # the option names the droplet itself, or is absent
                    yield ND_OUT, {**nd, "icmpv6_type": NS, "ipv6_src": value, "nd_sll": lladdr}
                    yield ND_OUT, {**nd, "icmpv6_type": NA, "nd_target": value, "nd_tll": lladdr}
                # duplicate address detection
                yield ND_OUT, {**nd, "icmpv6_type": NS, "ipv6_src": 0, "nd_target": value, "nd_sll": 0}

    def _received(self) -> Iterator[tuple[SystemRule, dict[str, Value]]]:
        yield ARP_IN, {"eth_type": ETH_ARP}
        yield DHCP_IN, {"eth_type": ETH_IP, "ip_proto": IP_UDP, "udp_src": 67, "udp_dst": 68}
        yield DHCP_IN, {"eth_type": ETH_IPV6, "ip_proto": IP_UDP, "udp_src": 547, "udp_dst": 546}
        for kind in (NS, NA, RA):
            nd = {"eth_type": ETH_IPV6, "ip_proto": IP_ICMP6, "ip_ttl": ND_TTL, "icmpv6_code": 0}
            yield ND_IN, {**nd, "icmpv6_type": kind}

    def _traffic(self) -> Iterator[Flow]:
        for network in self.networks:
            source: dict[str, Value] = {f"ipv{network.version}_src": (network.value, network.mask)}
            yield GUARD.flow(
                2000, self._sends(eth_type=eth_type(network.version), **source),
                *self._leaves(DISPATCH.id), cookie=cookie(Kind.PORT, self.slot),
            )  # fmt: skip

    def _delivery(self) -> Iterator[Flow]:
        port, mac = cookie(Kind.PORT, self.slot), mac_number(self.mac)
        # The receiver is here too: the packet has left its sender, now it is judged on its way in.
        yield OUTPUT.flow(
            110, match(reg7=FROM_DROPLET, eth_dst=mac),
            Load(TO_DROPLET, HALF), Load(0, SLOT), Resubmit(DISPATCH.id), cookie=port,
        )  # fmt: skip


class Protection(Enum):
    """What becomes of a port's IP traffic."""

    JUDGED = "judged"  # tracked, and passes by a rule: behind a firewall, or closed
    TRACKED = "tracked"  # open: passes whatever it is; its connections are known to a firewall that comes later
    UNTRACKED = "untracked"  # open, and unknown


@dataclass(frozen=True)
class PortProtection:
    """Where a port's packets go: to the rules, or past them; and what is delivered into it."""

    slot: int
    ofport: int
    mac: str
    protection: Protection
    fragments: bool = True  # whether they are tracked

    @property
    def tracked(self) -> bool:
        """Whether the port's zone is in use."""
        return self.protection is not Protection.UNTRACKED

    def flows(self) -> Iterator[Flow]:
        port = cookie(Kind.PORT, self.slot)
        leaving: dict[str, Value] = {"reg7": FROM_DROPLET, "reg5": self.slot}
        entering: dict[str, Value] = {"reg7": TO_DROPLET, "eth_dst": mac_number(self.mac)}
        here, deliver, into = Load(self.slot, SLOT), Resubmit(OUTPUT.id), Output(self.ofport)
        if self.protection is Protection.UNTRACKED:
            yield DISPATCH.flow(115, match(**leaving), deliver, cookie=port)
            yield DISPATCH.flow(115, match(**entering), here, deliver, cookie=port)
            yield OUTPUT.flow(110, match(reg7=TO_DROPLET, reg5=self.slot), into, cookie=port)
            return
        # What was tracked, in its own zone alone: the userspace datapath adds fragments of anybody to a packet that it
        # commits, and they come here with that packet's registers and with the zone that they were tracked in.
        for tracked in ({"ct_state": state(0, CT_TRK)}, {"ct_state": state(CT_TRK), "ct_zone": self.slot}):
            yield OUTPUT.flow(110, match(reg7=TO_DROPLET, reg5=self.slot, **tracked), into, cookie=port)
        if self.protection is Protection.TRACKED:
            track = Load(NO_RULES, DIRECTION), Ct(ZONE, STATE.id)
            for eth in IP_VERSIONS:
                yield DISPATCH.flow(112, match(**leaving, eth_type=eth), *track, cookie=port)
                yield DISPATCH.flow(112, match(**entering, eth_type=eth), here, *track, cookie=port)
                if not self.fragments:
                    fragment: dict[str, Value] = {"eth_type": eth, "ip_frag": A_FRAGMENT}
                    yield DISPATCH.flow(113, match(**leaving, **fragment), deliver, cookie=port)
                    yield DISPATCH.flow(113, match(**entering, **fragment), here, deliver, cookie=port)
            yield DISPATCH.flow(105, match(**entering), here, deliver, cookie=port)  # what is not IP
            return
        for eth in IP_VERSIONS:
            yield DISPATCH.flow(
                110, match(**entering, eth_type=eth), here, Load(INBOUND_RULES, DIRECTION), Ct(ZONE, STATE.id),
                cookie=port,
            )  # fmt: skip


@dataclass(frozen=True)
class PickUp:
    """For some seconds a droplet may go on in the middle of TCP connections that its outbound rules allow.

    The switch takes these flows away by itself: they are no unit of what it should hold.
    """

    slot: int

    def flows(self) -> Iterator[Flow]:
        for eth in IP_VERSIONS:
            yield STATE.flow(
                211,
                match(reg5=self.slot, reg6=OUTBOUND_RULES, eth_type=eth, ip_proto=IP_TCP,
                      ct_state=state(CT_NEW | CT_TRK), tcp_flags=(0, TCP_SYN)),
                Resubmit(FIREWALLS.id), cookie=cookie(Kind.PICKUP, self.slot),
            )  # fmt: skip


@dataclass(frozen=True)
class PortFirewalls:
    """The rules that apply to a port in one direction: by the numbers of the firewalls that have any."""

    slot: int
    direction: int  # INBOUND_RULES or OUTBOUND_RULES
    firewalls: tuple[int, ...]

    def flows(self) -> Iterator[Flow]:
        port, drop = cookie(Kind.PORT, self.slot), cookie(Kind.DROP, self.slot)
        asked = match(reg5=self.slot, reg6=self.direction)
        if not self.firewalls:
            yield FIREWALLS.flow(100, asked, cookie=drop)
            return
        # What the sender's half found, on this hypervisor too, is not what the receiver's half finds.
        actions: list[Action] = [Load(0, RULE)]
        for number in self.firewalls:
            actions += [Load(number, FIREWALL), Resubmit(SETS.id)]
        yield FIREWALLS.flow(100, asked, *actions, Resubmit(VERDICT.id), cookie=port)
        yield VERDICT.flow(130, match(reg4=0, reg5=self.slot, reg6=self.direction), cookie=drop)
