"""Random frames into a real ovs-vswitchd: whatever comes out must be allowed by what the policy means.

`fuzzframes.py` draws the frames and says what a host could take one to be; `Law` holds every such reading against
`decide()` and the guards.  `FUZZ_SEED` (a number, or `random`) and `FUZZ_FRAMES` choose what is sent.  A failure prints
the story in hex: `replay()` sends it again, and what was found so becomes a case of `FOUND`.
"""

from __future__ import annotations

import os
import random
import struct
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import frames
import pytest
from fleet import Site
from fuzzframes import (
    ARP,
    ICMP,
    IP4,
    IP6,
    NA,
    NS,
    RA,
    RARP,
    REDIRECT,
    RS,
    TCP,
    UDP,
    End,
    Ip,
    Maker,
    Piece,
    Reading,
    Shot,
    read,
)
from ovs_dummy import DummyOvs
from realfleet import RealFleet
from representative import HERE, ROUTER, representative
from simfabric import Place

from firewall_app.pipeline.compile import Rulings
from firewall_app.policy.decide import Packet, Verdict, decide
from firewall_app.policy.model import Address, Droplet, Port, Protocol, mac_number
from firewall_app.policy.policy import Policy

SEED = os.environ.get("FUZZ_SEED", "20240601")
FRAMES = int(os.environ.get("FUZZ_FRAMES", "20000"))
ENOUGH = 10_000  # that some of each kind come out
OUTSIDE, STRANGER = "outside", "stranger"
SENDERS = ("p1", "p1", "p2", "p2", "p3", "p5", OUTSIDE, OUTSIDE, STRANGER)
LIKELY = (
    (OUTSIDE, "p1", "tcp", 443), ("p3", "p1", "tcp", 443), (OUTSIDE, "p1", "tcp", 8001), (OUTSIDE, "p1", "icmp", 0),
    ("p1", OUTSIDE, "udp", 53), ("p1", "p2", "tcp", 5432), ("p1", "p2", "udp", 53), ("p2", OUTSIDE, "icmp", 0),
    (OUTSIDE, "p2", "udp", 1234), ("p5", "p2", "udp", 80), ("p3", "p5", "tcp", 80), ("p3", OUTSIDE, "tcp", 80),
)  # fmt: skip
SITE = Site({HERE: {1: "uplink0", 11: "vm1", 12: "vm2", 13: "vm3", 14: "vm5", 77: "stranger"}}, {HERE: 1})


def site_policy() -> Policy:
    """The representative one and a second open droplet: p1 and p2 are protected, p3 and p5 are not."""
    draft = representative().edit()
    draft.put(Droplet(5))
    draft.put(Port("p5", 5, HERE, "vm5", None, "02:00:00:00:00:05", ("10.0.0.5", "fd00::5"), slot=5))
    return draft.done()


def packed(address: Address) -> bytes:
    return address.value.to_bytes(4 if address.version == 4 else 16, "big")


def mac_of(port: Port) -> bytes:
    return mac_number(port.mac).to_bytes(6, "big")


def cast(policy: Policy) -> list[End]:
    """The droplets here, and the world."""
    ends = []
    for port in (port for port in policy.ports.values() if port.hypervisor == HERE):
        v4, v6 = ([packed(one.last) for one in port.networks if one.version == version] for version in (4, 6))
        ends.append(End(port.id, mac_of(port), tuple(v4), tuple(v6)))
    v4 = (bytes([192, 0, 2, 7]), bytes([198, 51, 100, 1]), bytes([10, 0, 0, 4]))
    v6 = tuple(bytes.fromhex(text) for text in ("20010db8" + "00" * 11 + "07", "fe80" + "00" * 13 + "fe"))
    return [*ends, End(OUTSIDE, ROUTER.to_bytes(6, "big"), v4, v6)]


# --------------------------------------------------------------------------------------------- the law

Tuple = tuple[object, ...]


@dataclass
class Law:
    """What may come out of the switch.  Remembers which connections and fragments it has seen begin."""

    policy: Policy
    opened: dict[tuple[str, Tuple], Packet] = field(default_factory=dict)
    firsts: set[tuple[str, Tuple]] = field(default_factory=set)

    def sees(self, shot: Shot) -> None:
        """A frame goes in: it may open a connection at either end, and be the first of its fragments."""
        sender = self.policy.ports.get(shot.sender)
        for reading in read(shot.data):
            receiver = self._owner(reading.receiver)
            for end in (sender, receiver):
                if reading.ip and end and self._judged(reading.ip, end, sender, receiver) is None:
                    key = flow(reading.ip)
                    if key and not self._known(end, reading.ip):
                        self.opened[end.id, key] = packet_of(reading.ip, sender, receiver)
                    if reading.ip.piece is Piece.FIRST:
                        self.firsts.add((end.id, datagram(reading.ip)))

    def objection(self, sender: str, exit: str, data: bytes) -> str | None:
        """Why a frame that came from `sender` must not have come out at `exit`; None when it may."""
        if STRANGER in (sender, exit):
            return "a port that nobody registered sent or received"
        if sender == exit:
            return "it went back where it came from"
        for reading in read(data):
            why = self._refuses(reading, self.policy.ports.get(sender), self.policy.ports.get(exit))
            if why:
                return f"{why} ({reading})"
        return None

    def _owner(self, mac: bytes) -> Port | None:
        return next((p for p in self.policy.ports.values() if mac_of(p) == mac and p.hypervisor == HERE), None)

    def _refuses(self, reading: Reading, sender: Port | None, receiver: Port | None) -> str | None:
        if reading.tagged:
            return "tagged"
        if sender:
            why = self._guard(reading, sender)
            if why:
                return why
        free = infrastructure(reading, sender is None)
        if receiver and reading.receiver != mac_of(receiver) and not (free and reading.receiver[0] & 1):
            return "addressed to somebody else"
        for end in (sender, receiver):
            if end is None or not self.policy.rule_sets_of(end):
                continue
            if free or (end is sender and asks_to_be_configured(reading, end)):
                continue
            why = self._judged(reading.ip, end, sender, receiver) if reading.ip else "not IP"
            if why:
                return f"{end.id}: {why}"
        return None

    def _guard(self, reading: Reading, port: Port) -> str | None:
        """What no droplet may send, protected or not."""
        mac = mac_of(port)
        if reading.sender != mac:
            return "the source MAC is not the sender's"
        if reading.kind == ARP:
            arp = reading.arp
            if arp is None or not arp.standard or arp.sha != mac:
                return "ARP names another MAC"
            return None if owns(port, arp.spa) or (arp.op == 1 and not any(arp.spa)) else "ARP names another address"
        if reading.kind == RARP:
            arp = reading.arp
            own = arp and arp.standard and arp.sha == arp.tha == mac and not any(arp.spa + arp.tpa)
            return None if own else "RARP about somebody else"
        if reading.kind not in (IP4, IP6) or reading.ip is None:
            return "neither IP, ARP nor RARP"
        return router_or_server(reading.ip) or hidden(reading.ip) or discovery(reading, port) or source(reading, port)

    def _judged(self, ip: Ip, end: Port, sender: Port | None, receiver: Port | None) -> str | None:
        """One end's verdict by the rules; None when it allows."""
        if ip.piece is Piece.LATER:
            return None if (end.id, datagram(ip)) in self.firsts else "a later fragment, the first was not admitted"
        if sender and end is receiver and not owns(sender, ip.source):
            sender = None  # an address that it has not got yet: the guards know when that may be
        packet, known = packet_of(ip, sender, receiver), self._known(end, ip)
        if ip.protocol == TCP and end is sender and not known and (len(ip.body) < 14 or not ip.body[13] & 2):
            return "a droplet picks up a connection in the middle"
        for opening in [known, None] if known else [None]:
            decision = decide(self.policy, packet, opening)
            if any(check.port_id == end.id and check.verdict is Verdict.ALLOW for check in decision.checks):
                return None
        return f"{decision.reason}: {packet}"

    def _known(self, end: Port, ip: Ip) -> Packet | None:
        """The packet that opened the connection that this one belongs to, or is an error about."""
        about = quoted(ip)
        if about is not None and about.source != ip.destination:
            return None
        key = flow(about or ip)
        return key and (self.opened.get((end.id, key)) or self.opened.get((end.id, turned(key))))


def flow(ip: Ip) -> Tuple | None:
    """What tells a connection from others; an error has none."""
    if ip.piece is Piece.LATER or ip.protocol is None:
        return None
    if ip.icmp:
        echo = {(4, 0): 8, (6, 129): 128}.get((ip.version, ip.icmp[0]), ip.icmp[0])
        return ip.version, ip.protocol, (ip.source, 0), (ip.destination, 0), echo, ip.body[4:6]
    if ip.ports:
        return ip.version, ip.protocol, (ip.source, ip.ports[0]), (ip.destination, ip.ports[1])
    return None


def turned(key: Tuple) -> Tuple:
    return (*key[:2], key[3], key[2], *key[4:])


def datagram(ip: Ip) -> Tuple:
    return ip.version, ip.source, ip.destination, ip.ident, ip.protocol if ip.version == 4 else None


def quoted(ip: Ip) -> Ip | None:
    """The packet that an ICMP error is about."""
    if ip.icmp is None or ip.icmp[0] not in ((3, 4, 5, 11, 12) if ip.version == 4 else (1, 2, 3, 4)):
        return None
    kind = IP4 if ip.version == 4 else IP6
    return next((r.ip for r in read(b"\0" * 12 + kind.to_bytes(2, "big") + ip.body[8:]) if r.ip), None)


def packet_of(ip: Ip, sender: Port | None, receiver: Port | None) -> Packet:
    known = {TCP: Protocol.TCP, UDP: Protocol.UDP, ICMP if ip.version == 4 else 58: Protocol.ICMP}
    protocol = 255 if ip.protocol is None else known.get(ip.protocol, ip.protocol)
    source, destination = (Address(ip.version, int.from_bytes(one, "big")) for one in (ip.source, ip.destination))
    ports = ip.ports
    if ports is None and protocol in (Protocol.TCP, Protocol.UDP):
        protocol, ports = 255, (0, 0)  # no port can be told, so no rule can allow it
    return Packet(source, destination, protocol, *(ports or (0, 0)), sender and sender.id, receiver and receiver.id)


def owns(port: Port, address: bytes) -> bool:
    one = Address(4 if len(address) == 4 else 6, int.from_bytes(address, "big"))
    return any(own.covers(one) for own in port.networks)


def nd_type(ip: Ip | None) -> int:
    """Neighbour discovery that receivers accept (RFC 4861, 7.1): its type, else 0."""
    if ip and ip.version == 6 and ip.icmp and ip.hops == 255 and ip.icmp[1] == 0 and ip.icmp[0] in (RS, RA, NS, NA):
        return ip.icmp[0]
    return 0


def infrastructure(reading: Reading, from_outside: bool) -> bool:
    """What every host gets without a rule."""
    if reading.kind == ARP or (reading.kind == RARP and not from_outside):
        return True
    if nd_type(reading.ip) in ((NS, NA, RA) if from_outside else (NS, NA)):
        return True
    return from_outside and reading.label in ("dhcp4 answer", "dhcp6 answer")


def asks_to_be_configured(reading: Reading, port: Port) -> bool:
    """What a protected droplet may send without a rule; that it comes from it is what the guard sees to."""
    if reading.label == "dhcp6 request":
        return reading.ip is not None and reading.ip.source[:2] == b"\xfe\x80"
    return nd_type(reading.ip) == RS or reading.label == "dhcp4 request"


def router_or_server(ip: Ip) -> str | None:
    if ip.version == 6 and ip.icmp and ip.icmp[0] in (RA, REDIRECT):
        return "a droplet plays router"
    server = (67, 68) if ip.version == 4 else (547, 546)
    return "a droplet plays DHCP server" if ip.protocol == UDP and ip.ports == server else None


def hidden(ip: Ip) -> str | None:
    """RFC 7112: a first fragment must show what it is, or the next one may say that it is what is refused."""
    if ip.version == 6 and ip.piece is Piece.FIRST:
        needs = {None: 1 << 16, UDP: 8, 58: 4}.get(ip.protocol, 0)
        return "a first fragment hides what it is" if len(ip.body) < needs else None
    return None


def discovery(reading: Reading, port: Port) -> str | None:
    ip = reading.ip
    if ip is None or ip.version != 6 or not ip.icmp or ip.icmp[0] not in (RS, NS, NA):
        return None
    if not nd_type(ip):
        return "neighbour discovery that came from afar"
    if ip.piece is Piece.FIRST:
        return "neighbour discovery that goes on in another fragment (RFC 6980)"
    if ip.icmp[0] == RS:  # its option says nothing about others, and switches cannot see it
        return None
    if any(address not in (mac_of(port), b"\0" * 6) for address in ip.nd_addresses):
        return "neighbour discovery names another MAC"
    if (ip.icmp[0] == NA or not any(ip.source)) and not owns(port, ip.nd_target):
        return "neighbour discovery for another address"
    return None


def source(reading: Reading, port: Port) -> str | None:
    ip = reading.ip
    if ip is None or owns(port, ip.source):
        return None
    if reading.label == "dhcp4 request" and not any(ip.source) and ip.destination == b"\xff" * 4:
        return None
    if nd_type(ip) == NA or (nd_type(ip) in (NS, RS) and not any(ip.source)):
        return None  # who advertises does not matter to caches: what it advertises does
    return "the source is not an address of the sender"


# --------------------------------------------------------------------------------------------- the switch


class Range(RealFleet):
    """One hypervisor that frames are shot at."""

    def shoot(self, shot: Shot) -> list[tuple[str, bytes]]:
        """Sends a frame; returns what came out meanwhile, and where."""
        before = self._lookups()
        self._control.call("netdev-dummy/receive", self._names[self.gate(shot.sender)], shot.data.hex())
        while self._lookups() == before:
            pass
        return [(self.end(place), data) for place, capture in self._captures.items() for data in capture.frames()]

    def forget(self) -> None:
        self._control.call("dpctl/flush-conntrack")

    def wait(self) -> None:
        """Until fragments that are held have expired (lib/ipf.c, 15 s), on the switch's own clock."""
        self._control.call("time/warp", "15500")

    def prepare(self) -> None:
        for version in ("v4", "v6"):  # the least it lets one set
            self._control.call("dpctl/ipf-set-min-frag", version, "400")
        self.follow(site_policy())

    def gate(self, end: str) -> Place:
        number = {OUTSIDE: 1, STRANGER: 77}.get(end)
        return Place(HERE, number) if number else self.place(self.policy.ports[end]) or Place(HERE, 0)

    def end(self, place: Place) -> str:
        return {1: OUTSIDE, 11: "p1", 12: "p2", 13: "p3", 14: "p5", 77: STRANGER}[place.port]


@dataclass
class Game:
    """Stories told to the switch, and what of them broke the law."""

    fleet: Range
    law: Law
    passed: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # sender, end, label
    _told: dict[bytes, str] = field(default_factory=dict)  # in which story a frame was sent

    def play(self, story: list[Shot], wait: int | None = None) -> Iterator[str]:
        """One story, with no connections before it; before frame `wait` of it, what the switch holds expires."""
        self.fleet.forget()
        self.law.opened.clear()
        senders: dict[bytes, str] = {}
        for number, shot in enumerate(story):
            if number == wait:
                self.fleet.wait()
            self.law.sees(shot)
            senders[shot.data] = shot.sender
            for end, data in self.fleet.shoot(shot):
                if data not in senders:
                    yield f"{data.hex()} came out at {end} late: {self._told.get(data, 'it was never sent')}"
                    continue
                why = self.law.objection(senders[data], end, data)
                if why:
                    yield f"{data.hex()} from {senders[data]} came out at {end}: {why}"
                self.passed[senders[data], end, read(data)[0].label] += 1
        for shot in story:
            self._told[shot.data] = f"{shot.sender} sent it in the story {[one.data.hex() for one in story]}"


def replay(fleet: Range, *story: tuple[str, str]) -> list[str]:
    """Sends frames, each (sender, hex), as one story; returns what breaks the law."""
    return list(Game(fleet, Law(fleet.policy)).play([Shot(sender, bytes.fromhex(data)) for sender, data in story]))


@pytest.fixture(scope="module")
def fleet() -> Iterator[Range]:
    with tempfile.TemporaryDirectory(prefix="fw-") as directory, DummyOvs(Path(directory)) as ovs:
        built = Range(ovs, SITE, Rulings(), lambda frame: b"")
        built.prepare()
        yield built
        built.close()


# --------------------------------------------------------------------------------------------- tests

COMMON = ("arp", "ns", "na", "tcp4", "tcp6", "udp4", "udp6", "icmp4", "icmp6")
PIECES, OTHERS = ("later4", "later6"), ("other4", "other6")
ASKS = ("rs", "dhcp4 request", "dhcp6 request", *PIECES)
ANSWERS = ("ra", "dhcp4 answer", "dhcp6 answer", *PIECES)
REACHES = {  # what must get through, or a switch that drops everything would pass
    ("protected", OUTSIDE): (*COMMON, *ASKS),
    (OUTSIDE, "protected"): (*COMMON, *ANSWERS),
    ("open", OUTSIDE): (*COMMON, *ASKS, *OTHERS),
    (OUTSIDE, "open"): (*COMMON, *ANSWERS, *OTHERS),
    ("protected", "protected"): COMMON,
    ("protected", "open"): COMMON,
    ("open", "protected"): COMMON[:-2],
    ("open", "open"): (*COMMON, *PIECES, *OTHERS),
}


def missing(passed: Counter[tuple[str, str, str]]) -> list[str]:
    sort = {"p1": "protected", "p2": "protected", "p3": "open", "p5": "open"}
    seen = {(sort.get(sender, sender), sort.get(end, end), label) for sender, end, label in passed}
    return [
        f"{label} from {sender} to {end}"
        for (sender, end), labels in REACHES.items()
        for label in labels
        if (sender, end, label) not in seen
    ]


@pytest.mark.ovs
@pytest.mark.timeout(max(300, FRAMES // 50))
def test_T177_nothing_comes_out_that_the_policy_does_not_mean(fleet: Range) -> None:
    seed = random.SystemRandom().getrandbits(32) if SEED == "random" else int(SEED)
    print(f"FUZZ_SEED={seed}")
    rng = random.Random(seed)
    maker, game, sent = Maker(rng, cast(fleet.policy), SENDERS, LIKELY), Game(fleet, Law(fleet.policy)), 0
    while sent < FRAMES:
        story = maker.story()
        wait = rng.randrange(len(story)) if rng.random() < 0.03 else None
        for problem in game.play(story, wait):
            told = "\n".join(f"  {shot.sender} {shot.data.hex()}" for shot in story)
            pytest.fail(f"FUZZ_SEED={seed}, the story of frames {sent} to {sent + len(story) - 1}:\n{told}\n{problem}")
        sent += len(story)
    print(f"{sent} frames, came out: {sorted(game.passed.items())}")
    if FRAMES >= ENOUGH:
        assert not missing(game.passed), "nothing of these came out"


FOUND = {
    "nd in two fragments, the second names another MAC": (
        ("p3", "3333ff000001020000000003" "86dd" "60000000" "0020" "2c" "ff" "fd000000000000000000000000000003"
               "ff0200000000000000000001ff000001" "3a00000100000007"
               "87000000" "00000000" "fd000000000000000000000000000001"),
        ("p3", "3333ff000001020000000003" "86dd" "60000000" "0010" "2c" "ff" "fd000000000000000000000000000003"
               "ff0200000000000000000001ff000001" "3a00001800000007" "0101020000000005"),
    ),
}  # fmt: skip


@pytest.mark.ovs
@pytest.mark.parametrize("story", FOUND.values(), ids=FOUND)
def test_what_was_found_does_not_come_back(fleet: Range, story: tuple[tuple[str, str], ...]) -> None:
    assert not replay(fleet, *story)


def later(ident: int) -> str:
    """The last fragment of a UDP datagram from outside to p1."""
    packet = bytearray(frames.ipv4("192.0.2.99", "10.0.0.1", UDP, b"not admitted"))
    packet[4:12] = struct.pack("!HHBBH", ident, 100, 64, UDP, 0)
    packet[10:12] = struct.pack("!H", frames.checksum(bytes(packet[:20])))
    return frames.ethernet("02:00:00:00:00:01", "02:00:00:00:00:fe", IP4, bytes(packet))


@pytest.mark.ovs
def test_fragments_that_expire_are_not_delivered(fleet: Range) -> None:
    """What the tracker held and nobody admitted is not delivered when its time is up and others' packets pass.

    It lets go of one datagram at a time, and a packet that opens a connection passes it twice.
    """
    opening = frames.ipv4("192.0.2.7", "10.0.0.1", 6, frames.tcp("192.0.2.7", "10.0.0.1", 1000, 443, 2))
    shots = [Shot(OUTSIDE, bytes.fromhex(later(number))) for number in range(4)]
    shots += [Shot(OUTSIDE, bytes.fromhex(frames.ethernet("02:00:00:00:00:01", "02:00:00:00:00:fe", IP4, opening)))]
    game = Game(fleet, Law(fleet.policy))
    assert not list(game.play(shots, wait=4))
    assert set(game.passed) == {(OUTSIDE, "p1", "tcp4")}, "the opening must pass, and nothing else"


# --------------------------------------------------------------------------------------------- the law itself

M1, M3, M5, OUT = (f"02:00:00:00:00:{end}" for end in ("01", "03", "05", "fe"))
V1, V3 = "fd00::1", "fd00::3"


def six(sender: str, packet: bytes, dst: str = OUT) -> str:
    return frames.ethernet(dst, sender, IP6, packet)


def jumbogram(packet: bytes) -> bytes:
    """Its hop-by-hop options are beyond a length of 0."""
    return packet[:4] + b"\0\0\0" + packet[7:40] + bytes([packet[6], 0, 1, 4, 0, 0, 0, 0]) + packet[40:]


ADVERT = frames.router_advert("fe80::ff:fe00:3", M3)
SERVES = frames.udp("10.0.0.3", "10.0.0.5", 67, 68)
PROBE = frames.udp("10.0.0.3", "10.0.0.1", 1000, 9)
FIRST = frames.first_fragment("fe80::ff:fe00:3", "ff02::1", 58, ADVERT[40:])
BEHIND = frames.router_advert("fe80::ff:fe00:3", M3, b"\x3c\0\1\4\0\0\0\0")
HIDES = frames.first_fragment("fe80::ff:fe00:3", "ff02::1", 60, b"")


def four(sender: str, dst: str, source: str, destination: str, protocol: int, body: bytes) -> str:
    return frames.ethernet(dst, sender, IP4, frames.ipv4(source, destination, protocol, body))


UNLAWFUL = [  # from, to, frame, and what is wrong with it
    ("p3", OUTSIDE, six(M5, frames.ipv6(V3, "2001:db8::7", 17, PROBE)), "the source MAC"),
    ("p3", OUTSIDE, six(M3, frames.ipv6("fd00::5", "2001:db8::7", 17, PROBE)), "the source is not"),
    ("p3", OUTSIDE, frames.ethernet(OUT, M3, IP4, frames.ipv4("10.0.0.3", "192.0.2.7", 17, PROBE), vlan=0), "tagged"),
    ("p3", OUTSIDE, frames.ethernet(OUT, M3, 0x88CC, PROBE), "neither IP"),
    ("p3", OUTSIDE, six(M3, ADVERT), "router"),
    ("p3", OUTSIDE, six(M3, BEHIND), "router"),
    ("p3", OUTSIDE, six(M3, jumbogram(ADVERT)), "router"),
    ("p3", OUTSIDE, six(M3, FIRST), "router"),
    ("p3", OUTSIDE, six(M3, HIDES), "hides"),
    ("p3", "p5", four(M3, M5, "10.0.0.3", "10.0.0.5", 17, SERVES), "DHCP server"),
    ("p3", OUTSIDE, frames.ethernet(OUT, M3, ARP, frames.arp(2, M3, "10.0.0.5", OUT, "10.0.0.254")), "another address"),
    ("p3", OUTSIDE, frames.ethernet(OUT, M3, ARP, frames.arp(2, M5, "10.0.0.3", OUT, "10.0.0.254")), "another MAC"),
    ("p3", OUTSIDE, frames.ethernet(OUT, M3, RARP, frames.arp(3, M3, "0.0.0.0", M5, "0.0.0.0")), "RARP"),
    ("p3", OUTSIDE, six(M3, frames.neighbour_advert(V3, "ff02::1", "fd00::5", M3)), "another address"),
    ("p3", OUTSIDE, six(M3, frames.neighbour_solicit(V3, "ff02::1", V1, M3, M5)), "another MAC"),
    ("p3", OUTSIDE, six(M3, frames.neighbour_advert(V3, "ff02::1", V3, M3, hops=254)), "from afar"),
    ("p3", "p1", four(M3, M1, "10.0.0.3", "10.0.0.1", 17, PROBE), "no inbound rule"),
    ("p1", OUTSIDE, four(M1, OUT, "10.0.0.1", "192.0.2.7", 17, PROBE), "no outbound rule"),
    (OUTSIDE, "p1", four(OUT, M1, "192.0.2.7", "10.0.0.1", 17, PROBE), "no inbound rule"),
    (OUTSIDE, "p1", four(OUT, M1, "192.0.2.7", "10.0.0.1", 47, PROBE), "no inbound rule"),
    (OUTSIDE, "p1", later(1), "later fragment"),
    (OUTSIDE, "p5", four(OUT, M3, "192.0.2.7", "10.0.0.3", 17, PROBE), "somebody else"),
    (OUTSIDE, STRANGER, frames.ethernet(frames.BROADCAST, OUT, ARP, frames.arp(1, OUT, "10.0.0.254", OUT, "10.0.0.3")),
     "nobody registered"),
]  # fmt: skip


@pytest.mark.parametrize(("sender", "end", "data", "why"), UNLAWFUL)
def test_the_law_objects(sender: str, end: str, data: str, why: str) -> None:
    assert why in (Law(site_policy()).objection(sender, end, bytes.fromhex(data)) or "")


OPENING = frames.tcp("10.0.0.3", "10.0.0.1", 1000, 443, 2)
LAWFUL = {
    "RARP of one's own": ("p3", OUTSIDE, frames.ethernet(OUT, M3, RARP, frames.arp(3, M3, "0.0.0.0", M3, "0.0.0.0"))),
    "ARP of one's own": ("p1", "p3", frames.ethernet(M3, M1, ARP, frames.arp(2, M1, "10.0.0.1", M3, "10.0.0.3"))),
    "one's own target": ("p1", OUTSIDE, six(M1, frames.neighbour_advert(V1, "ff02::1", V1, M1))),
    "by a rule": ("p3", "p1", four(M3, M1, "10.0.0.3", "10.0.0.1", 6, OPENING)),
    "advert from outside": (OUTSIDE, "p1", six(OUT, frames.router_advert("fe80::fe", OUT), dst="33:33:00:00:00:01")),
}  # fmt: skip


@pytest.mark.parametrize(("sender", "end", "data"), LAWFUL.values(), ids=LAWFUL)
def test_the_law_does_not_object(sender: str, end: str, data: str) -> None:
    assert Law(site_policy()).objection(sender, end, bytes.fromhex(data)) is None


def test_a_seed_tells_the_same_stories() -> None:
    one, other = (Maker(random.Random(7), cast(site_policy()), SENDERS, LIKELY) for _ in range(2))
    assert [one.story() for _ in range(200)] == [other.story() for _ in range(200)]
