"""The nouns: what may exist, what is refused, and the arithmetic of addresses and ports."""

from __future__ import annotations

import ipaddress
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from firewall_app.policy.model import (
    Address,
    Direction,
    Droplet,
    ExternalPeer,
    Firewall,
    Hypervisor,
    Network,
    Peer,
    Port,
    PortRange,
    PortRules,
    Protocol,
    Rule,
    Tag,
    address,
    link_local,
    network,
    tag_key,
)

DPID = "00000000000000a1"
MAC = "02:00:00:00:00:01"
TCP_80 = Rule(Direction.INBOUND, Protocol.TCP, PortRange(80, 80), Peer(addresses=("10.0.0.1",)))

# --------------------------------------------------------------------------------------------- addresses

NETWORKS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).flatmap(
    lambda host: st.integers(0, host.max_prefixlen).map(lambda length: f"{host}/{length}")
)


@given(NETWORKS)
@example("10.1.2.3/0")
@example("::ffff:10.0.0.1/128")
def test_a_prefix_is_what_the_standard_library_says(text: str) -> None:
    ours, theirs = network(text), ipaddress.ip_network(text, strict=False)
    assert (ours.version, ours.value, ours.prefix) == (theirs.version, int(theirs.network_address), theirs.prefixlen)
    assert ours.mask == int(theirs.netmask)
    assert (ours.first.value, ours.last.value) == (int(theirs[0]), int(theirs[-1]))
    # Texts may differ (an IPv4-mapped address has two), what they say may not.
    assert network(str(ours)) == ours
    assert address(str(ours.first)) == ours.first


@given(NETWORKS, st.data())
def test_a_prefix_covers_its_ends_and_not_its_neighbours(text: str, data: st.DataObject) -> None:
    net = network(text)
    inside = data.draw(st.integers(net.first.value, net.last.value))
    assert net.covers(Address(net.version, inside))
    for value in (net.first.value - 1, net.last.value + 1):
        if 0 <= value < 1 << net.bits:
            assert not net.covers(Address(net.version, value))
    other = 6 if net.version == 4 else 4
    assert not net.covers(Address(other, inside & 0xFFFFFFFF))


@given(NETWORKS, NETWORKS)
@example("10.0.0.0/8", "10.1.0.0/16")
@example("10.0.0.0/16", "10.1.0.0/16")
@example("0.0.0.0/0", "::/0")
def test_prefixes_overlap_when_an_address_is_in_both(one: str, other: str) -> None:
    theirs = [ipaddress.ip_network(text, strict=False) for text in (one, other)]
    expected = theirs[0].version == theirs[1].version and theirs[0].overlaps(theirs[1])
    assert network(one).overlaps(network(other)) == expected
    assert network(other).overlaps(network(one)) == expected


def test_T045_a_prefix_and_a_host_have_one_value_and_one_text() -> None:
    assert str(network("10.0.0.7/24")) == "10.0.0.0/24"
    assert str(network("10.0.0.7/32")) == "10.0.0.7"
    assert str(network("2001:DB8:0::1/128")) == "2001:db8::1"
    assert network("10.0.0.7") == Network(4, 0x0A000007, 32) == address("10.0.0.7").network
    assert network("10.0.0.7/32") == network("10.0.0.7")
    assert network("10.0.0.7/24") == network("10.0.0.0/24")
    assert network("2001:DB8:0::1/128") == network("2001:db8::1")


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "10", "10.1", "10.0.0", "010.0.0.1", "0x0a000001", "1.2.3.4.5", "256.0.0.1", "10.0.0.1 ", " 10.0.0.1",
        "10.0.0.1/", "/24", "10.0.0.1/33", "10.0.0.1/-1", "10.0.0.1/+8", "10.0.0.1/255.0.0.0", "10.0.0.1/8/8",
        "10.0.0.1/1e1", "10.0.0.1/٣", "10.0.0.1/0008", "fe80::1%eth0", "::1/129", "::g", "1::2::3", "[::1]", "::1/x",
        "localhost", "any", "10.0.0.1\n", "10.0.0.1/8\n", "10.0.0.0-10.0.0.9",
    ],
)  # fmt: skip
def test_what_is_no_prefix_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        network(text)


def test_an_address_has_no_prefix_length() -> None:
    with pytest.raises(ValueError, match="is a prefix, not an address"):
        address("10.0.0.1/32")


@pytest.mark.parametrize(
    ("mac", "expected"),
    [
        ("00:25:96:12:34:56", "fe80::225:96ff:fe12:3456"),  # RFC 4291, appendix A
        ("02:00:00:00:00:01", "fe80::ff:fe00:1"),
        ("fe:ff:ff:ff:ff:ff", "fe80::fcff:ffff:feff:ffff"),
    ],
)
def test_link_local_addresses_derive_from_the_mac(mac: str, expected: str) -> None:
    assert str(link_local(mac)) == expected


# --------------------------------------------------------------------------------------------- ports

RANGES = st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)).map(sorted).map(lambda pair: PortRange(*pair))


def blocks(ports: PortRange, first: int = 0, size: int = 0x10000) -> int:
    """How many aligned blocks of a power of two make up what is in a range of the ports from `first` on."""
    if ports.last < first or first + size - 1 < ports.first:
        return 0
    if ports.first <= first and first + size - 1 <= ports.last:
        return 1
    half = size // 2
    return blocks(ports, first, half) + blocks(ports, first + half, half)


@given(RANGES)
@example(PortRange(42, 42))
@example(PortRange(0, 0))
@example(PortRange(1, 65535))
@example(PortRange(2, 65535))
@example(PortRange(1, 65534))
@example(PortRange(7, 8))
@example(PortRange(0, 65534))
def test_T024_masks_cover_the_range_once_and_nothing_else(ports: PortRange) -> None:
    masks = ports.masks()
    if ports.is_every:
        assert masks == ()
        return
    covered: list[int] = []
    for value, mask in masks:
        size = 0x10000 - mask
        assert size & size - 1 == 0, "a mask is a run of ones"
        assert value & ~mask == 0, "a value has no bits outside its mask"
        covered += range(value, value + size)
    assert covered == list(range(ports.first, ports.last + 1))
    assert len(masks) == blocks(ports) <= 30


@given(RANGES, st.integers(0, 0xFFFF))
@example(PortRange(1, 65535), 0)
@example(PortRange(1, 65534), 0)
def test_T024_a_port_is_in_a_range_exactly_when_a_mask_says_so(ports: PortRange, port: int) -> None:
    masks = ports.masks() or ((0, 0),)
    assert (port in ports) == any(port & mask == value for value, mask in masks)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [("443", 443, 443), ("8000-9000", 8000, 9000), ("0", 0, 65535), ("1-65535", 1, 65535), ("7-7", 7, 7)],
)
def test_ports_are_read(text: str, first: int, last: int) -> None:
    assert PortRange.parse(text) == PortRange(first, last)


@given(RANGES.filter(lambda ports: ports.first > 0 or ports == PortRange.every()))
def test_ports_are_written_as_they_are_read(ports: PortRange) -> None:
    assert PortRange.parse(str(ports)) == ports


def test_the_spelling_of_ports_is_kept_and_is_no_part_of_what_they_are() -> None:
    spelled = PortRange.parse("443-443")
    assert (str(spelled), spelled) == ("443-443", PortRange(443, 443))
    assert hash(spelled) == hash(PortRange(443, 443))
    one = replace(TCP_80, ports=PortRange.parse("80-80"))
    assert one == TCP_80
    assert one.same(TCP_80)
    assert not replace(TCP_80, ports=PortRange.parse("0")).same(replace(TCP_80, ports=PortRange.parse("1-65535")))
    with pytest.raises(ValueError, match="'443' does not mean 1-2"):
        PortRange(1, 2, "443")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        *((text, "not a port") for text in ("", "all", "-1", "1-", "-", "0-10", "00", "080", " 80", "80 ", "80\n")),
        *((text, "not a port") for text in ("80,81", "1-2-3", "٨٠", "+80", "100000")),
        *((text, "past 65535") for text in ("65536", "1-65536", "99999")),
        ("90-80", "first 90 is after last 80"),
    ],
)  # fmt: skip
def test_what_is_no_port_range_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        PortRange.parse(text)


@pytest.mark.parametrize(("first", "last"), [(-1, 5), (5, 4), (0, 65536)])
def test_no_such_range_exists(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="not a range of ports"):
        PortRange(first, last)


# --------------------------------------------------------------------------------------------- rules


def test_T031_a_protocol_has_one_name_and_no_number() -> None:
    assert {protocol.value for protocol in Protocol} == {"tcp", "udp", "icmp"}
    for other in ("6", 6, "TCP", "17", "sctp", "132", "any", "icmpv6", ""):
        with pytest.raises(ValueError, match="is not a valid Protocol"):
            Protocol(other)


def test_peers_are_the_same_as_sets() -> None:
    one = Peer(("10.0.0.1", "10.0.0.2"), (1, 2), ("a", "b"), ("l", "m"), ("k", "n"))
    turned = Peer(("10.0.0.2", "10.0.0.1", "10.0.0.1"), (2, 1), ("b", "a"), ("m", "l"), ("n", "k"))
    assert one.same(turned)
    assert one != turned
    for change in (
        {"addresses": ("10.0.0.1",)},
        {"droplet_ids": (1,)},
        {"tags": ("a",)},
        {"load_balancer_uids": ("l",)},
        {"kubernetes_ids": ()},
    ):
        assert not one.same(replace(one, **change))


def test_a_peer_is_checked_when_it_is_made() -> None:
    assert Peer(("10.0.0.7/8", "::/0")).networks == (network("10.0.0.0/8"), network("::/0"))
    with pytest.raises(ValueError, match=r"'10\.0\.0' is not"):
        Peer(("10.0.0.1", "10.0.0"))


def test_rules_are_the_same_by_what_they_say() -> None:
    assert replace(TCP_80, id=7) == TCP_80
    turned = replace(TCP_80, peer=Peer(("10.0.0.2", "10.0.0.1")))
    assert turned.same(replace(TCP_80, peer=Peer(("10.0.0.1", "10.0.0.2")), id=3))
    for change in (
        {"direction": Direction.OUTBOUND},
        {"protocol": Protocol.UDP},
        {"ports": PortRange(80, 81)},
        {"peer": Peer()},
    ):
        assert not TCP_80.same(replace(TCP_80, **change))
        assert replace(TCP_80, **change) != TCP_80


def test_values_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        TCP_80.ports = PortRange.every()  # type: ignore[misc]


# --------------------------------------------------------------------------------------------- entities


def port(**changes: object) -> Port:
    base: dict[str, object] = {
        "id": "p1", "droplet_id": 1, "hypervisor": DPID, "interface": "vm1", "number": None, "mac": MAC,
        "addresses": ("10.0.0.1",),
    }  # fmt: skip
    return Port(**{**base, **changes})  # type: ignore[arg-type]


def test_a_port_sends_from_its_addresses_and_its_link_local_one() -> None:
    one = port(addresses=("10.0.0.1", "10.0.0.9/30", "10.0.0.1/32", "fd00::1"))
    assert [str(net) for net in one.networks] == ["10.0.0.1", "10.0.0.8/30", "fd00::1", "fe80::ff:fe00:1"]
    assert [str(net) for net in port(addresses=()).networks] == ["fe80::ff:fe00:1"]
    assert len(port(addresses=("fe80::ff:fe00:1",)).networks) == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"id": ""}, "port id"),
        ({"id": "a" * 65}, "port id"),
        ({"id": "a b"}, "port id"),
        ({"id": "p1\n"}, "port id"),
        ({"hypervisor": "a1"}, "datapath id"),
        ({"hypervisor": DPID.upper()}, "datapath id"),
        ({"mac": "02-00-00-00-00-01"}, "MAC"),
        ({"mac": "02:00:00:00:00:0A"}, "MAC"),
        ({"mac": "02:00:00:00:00"}, "MAC"),
        ({"mac": "01:00:5e:00:00:01"}, "multicast"),
        ({"mac": "ff:ff:ff:ff:ff:ff"}, "multicast"),
        ({"mac": "00:00:00:00:00:00"}, "no address of a machine"),
        ({"interface": None}, "only one"),
        ({"number": 3}, "only one"),
        ({"interface": None, "number": 0}, "port number 0"),
        ({"interface": None, "number": 0xFF00}, "port number 65280"),
        ({"addresses": ("0.0.0.0/0",)}, "any address"),
        ({"addresses": ("::/0",)}, "any address"),
        ({"addresses": ("10.0.0.300",)}, "not an IP address"),
    ],
)
def test_ports_that_cannot_be_are_refused(changes: dict[str, object], why: str) -> None:
    port()
    with pytest.raises(ValueError, match=why):
        port(**changes)


def test_the_limits_of_a_port_number() -> None:
    assert [port(interface=None, number=n).number for n in (1, 0xFEFF)] == [1, 0xFEFF]


def test_slots_and_times_are_no_part_of_what_a_port_is() -> None:
    assert port(slot=3) == port(slot=4)


@pytest.mark.parametrize("number", [0, -1, 2**53 + 1])
def test_droplet_ids_are_positive_and_exact_in_json(number: int) -> None:
    Droplet(1)
    Droplet(2**53)
    with pytest.raises(ValueError, match="positive integer"):
        Droplet(number)


@pytest.mark.parametrize("name", ["", "a b", "ä", "a" * 256, "a\n", "a/b"])
def test_tags_that_cannot_be_are_refused(name: str) -> None:
    Tag("default", "Env:prod_1-x")
    Tag("default", "a" * 255)
    with pytest.raises(ValueError, match="tag"):
        Tag("default", name)


@pytest.mark.parametrize("uid", ["", "a b", "ä", "a" * 65, "a\n", "a/b", '"'])
def test_uids_that_cannot_be_are_refused(uid: str) -> None:
    assert ExternalPeer("6B6e0e2e-55b5-4d0b-9d7e-0d5a4a3c0001").key == "6b6e0e2e-55b5-4d0b-9d7e-0d5a4a3c0001"
    with pytest.raises(ValueError, match="uid"):
        ExternalPeer(uid)


def test_an_external_peer_is_checked_when_it_is_made() -> None:
    assert ExternalPeer("lb", addresses=("10.0.0.7/8",)).networks == (network("10.0.0.0/8"),)
    with pytest.raises(ValueError, match=r"'10\.0\.0' is not"):
        ExternalPeer("lb", addresses=("10.0.0",))


@pytest.mark.parametrize("name", ["", "a", ".a", "-a", "a b", "a_b", "ab\n"])
def test_firewall_names_that_cannot_be_are_refused(name: str) -> None:
    Firewall("f", "default", "web-1.a")
    with pytest.raises(ValueError, match="firewall name"):
        Firewall("f", "default", name)


@pytest.mark.parametrize("dpid", ["", "1", DPID.upper(), DPID + "0", "0x000000000000a1", DPID + "\n"])
def test_datapath_ids_that_cannot_be_are_refused(dpid: str) -> None:
    Hypervisor(DPID, "a1")
    with pytest.raises(ValueError, match="datapath id"):
        Hypervisor(dpid, "a1")


def test_tags_are_one_in_any_case_and_apart_by_account() -> None:
    assert Tag("acme", "Web").key == tag_key("acme", "wEB") == ("acme", "web")
    assert tag_key("acme", "web") != tag_key("umbrella", "web")
    assert Droplet(1, "acme", tags=("Web", "WEB", "db")).tag_keys == {("acme", "web"), ("acme", "db")}
    assert Firewall("f", "acme", "fw", tags=("WEB",)).tag_keys == {("acme", "web")}


def test_a_rule_set_knows_its_rules_by_direction() -> None:
    outbound = replace(TCP_80, direction=Direction.OUTBOUND)
    for rules in (Firewall("f", "a", "fw", (TCP_80,), (outbound,)), PortRules("p1", "a", (TCP_80,), (outbound,))):
        assert rules.in_direction(Direction.INBOUND) == (TCP_80,)
        assert rules.in_direction(Direction.OUTBOUND) == (outbound,)
        assert rules.rules == (TCP_80, outbound)
