"""Numbers of the protocols that several units name, and how a match on ct_state is said."""

from __future__ import annotations

from .flow import ETH_IP, ETH_IPV6

IP_VERSIONS = (ETH_IP, ETH_IPV6)
MULTICAST = 1 << 40, 1 << 40  # the group bit of a MAC
UNTAGGED = 0  # vlan_vid: neither a VLAN id nor the bit that says there is a tag
ND_TTL = 255  # RFC 4861: a smaller hop limit means that the packet crossed a router
RS, RA, NS, NA, REDIRECT = 133, 134, 135, 136, 137
MLD_TTL = 1  # RFC 2710: multicast listener discovery stays on its link
MLD_QUERY, MLD_REPORT, MLD_DONE, MLD2_REPORT = 130, 131, 132, 143
RARP_ANNOUNCES = 3  # RFC 903 "request reverse", which hosts send for a machine that moved to them
TCP_SYN = 0x002


def eth_type(version: int) -> int:
    """The EtherType of an IP version."""
    return ETH_IP if version == 4 else ETH_IPV6


def state(on: int, off: int = 0) -> tuple[int, int]:
    """A ct_state match: bits that must be set, bits that must not."""
    return on, on | off
