"""What always passes a droplet port, whoever protects it: by name, for people."""

from __future__ import annotations

from dataclasses import dataclass

from ..policy.model import Direction


@dataclass(frozen=True)
class SystemRule:
    """What always passes a droplet port, whoever protects it."""

    name: str
    direction: Direction
    text: str


_OUT, _IN = Direction.OUTBOUND, Direction.INBOUND
ARP_OUT = SystemRule("arp", _OUT, "ARP requests, answers and probes for the port's own MAC and addresses")
ARP_IN = SystemRule("arp", _IN, "ARP sent to the port, or to all")
RARP_OUT = SystemRule("rarp", _OUT, "RARP announcements of the port's own MAC, as sent after a live migration")
ND_OUT = SystemRule(
    "neighbour-discovery", _OUT,
    "ICMPv6 router and neighbour solicitations, and neighbour advertisements, for the port's own MAC and addresses",
)  # fmt: skip
ND_IN = SystemRule(
    "neighbour-discovery", _IN, "ICMPv6 neighbour solicitations and advertisements, and router advertisements"
)
MLD_OUT = SystemRule(
    "multicast-listener-discovery", _OUT, "ICMPv6 multicast listener reports, without which snooping switches lose IPv6"
)
MLD_IN = SystemRule("multicast-listener-discovery", _IN, "ICMPv6 multicast listener queries sent to all")
DHCP_OUT = SystemRule("dhcp-client", _OUT, "requests of a DHCP client: UDP 68 to 67, and UDP 546 to 547 over IPv6")
DHCP_IN = SystemRule("dhcp-client", _IN, "answers to a DHCP client: UDP 67 to 68, and UDP 547 to 546 over IPv6")
