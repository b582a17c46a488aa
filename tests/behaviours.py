"""Behaviours that a firewall of this kind must have, and which tests show each; prints docs/behaviours.md.

    python tests/behaviours.py > docs/behaviours.md

A test bears the id of what it shows in its name.  `reason` is for what has no test: it says why.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
SHOWN = 3  # tests of a behaviour that are listed
PLANNED = "planned: resync and faults"
_ID = re.compile(r"(?<![A-Za-z0-9])T[0-9]{3}(?![0-9])")
_TEST = re.compile(r"^ *(?:async )?def (test_\w+)\(", re.MULTILINE)


class Behaviour(NamedTuple):
    id: str
    text: str
    reason: str | None = None


class Section(NamedTuple):
    title: str
    behaviours: tuple[Behaviour, ...]


def _of(*lines: tuple[str, str] | tuple[str, str, str]) -> tuple[Behaviour, ...]:
    return tuple(Behaviour(*line) for line in lines)


SECTIONS = (
    Section("Basics and direction", _of(
        ("T001", "A ping passes exactly while an inbound ICMP rule stands."),
        ("T002", "An inbound TCP rule opens TCP alone, and not the other direction."),
        ("T003", "An inbound UDP rule opens UDP alone, and not the other direction."),
        ("T004", "An outbound TCP rule opens TCP alone, and not the other direction."),
        ("T005", "An outbound UDP rule opens UDP alone, and not the other direction."),
        ("T006", "Answers to what a droplet may ask need no inbound rule."),
        ("T007", "A droplet behind no firewall is open, and closed again as soon as it is behind one."),
        ("T008", "Without rules nothing passes: inbound, outbound, both."),
        ("T009", "Rules for everybody let everything of their direction pass."),
        ("T010", "Inbound and outbound rules of one droplet are judged each by themselves."),
        ("T011", "A client that may not ask is not let out by what its server allows."),
        ("T012", "Two firewalls of one droplet add up; when one goes, the other's rules stay."),
        ("T013", "A droplet that leaves one of two firewalls loses its rules and keeps the other's."),
        ("T014", "A rule for one protocol does nothing for others."),
        ("T015", "A rule for every port opens every port of its protocol and nothing else."),
        ("T016", "SCTP is no protocol of a rule: it is refused by name, and passes between open droplets only."),
        ("T017", "Other IP protocols (GRE, ESP, 112) pass open droplets and are dropped at protected ones."),
    )),
    Section("Ports and ICMP", _of(
        ("T020", "A single port opens alone; its neighbours stay closed, beside an even port too."),
        ("T021", "A range of two ports ends below the first and above the second."),
        ("T022", "A range opens its first and last port and nothing beside them, also after it was moved."),
        ("T023", "1-65535 is the same as every port; port 0 is no port of a rule."),
        ("T024", "The masks of any range cover its ports, each once, and no other."),
        ("T025", "Overlapping ranges of several rules add up for each peer by itself."),
        ("T026", "Source ports cannot be said in a rule: whoever tries is told so, and nothing changes."),
        ("T027", "ICMP types cannot be said in a rule; an ICMP rule admits requests and what belongs to them."),
        ("T028", "Echo passes both ways when both ways are allowed; ICMP that cannot be tracked does not pass."),
        ("T029", "An allowed port that nobody serves answers with a refusal, not with silence."),
        ("T030", "A rule for a protocol that the server does not speak opens nothing of what it speaks."),
        ("T031", "A protocol has one name in a rule; a number is refused."),
    )),
    Section("Addresses and sets", _of(
        ("T040", "A peer of one address or of a prefix ends exactly at its first and last address."),
        ("T041", "A peer that is a tag admits who has it: at once when it joins, no more when it left."),
        ("T042", "What two tags both admit stays admitted until both are gone."),
        ("T043", "An address of two droplets stays a member while one of them is."),
        ("T044", "0.0.0.0/0 does not open IPv6, and ::/0 does not open IPv4."),
        ("T045", "An address in several spellings (host bits, /32) is one flow."),
        ("T046", "A set that grows from one address to many and shrinks again loses nothing for its members."),
        ("T047", "Two rules with one set and different ports both work, and one goes without the other."),
        ("T048", "A rule that is there twice stays until both are gone."),
        ("T049", "A rule that gives way to a wider one at the same moment drops nothing that both allow."),
        ("T050", "A member that joins or leaves costs the flows of its addresses and no others."),
        ("T051", "Tags, droplets and addresses combined in one rule follow each change of any of them."),
        ("T052", "1,000 addresses, 30 port masks and many droplets cost the sum and mean the product."),
        ("T053", "Rules cost nothing on hypervisors without their droplets, and come with the first one."),
    )),
    Section("Anti-spoofing, ARP, neighbour discovery, DHCP", _of(
        ("T060", "A droplet that changes its MAC is cut off."),
        ("T061", "A droplet that changes its IP address is cut off, for DHCP requests too."),
        ("T062", "ARP works without any rule, both ways."),
        ("T063", "ARP that claims another's address, or asks from it, does not leave."),
        ("T064", "The ARP guard does not disturb IPv6."),
        ("T065", "Neighbour advertisements leave for the droplet's own addresses alone, extra ones included."),
        ("T066", "Neighbour discovery that names a foreign MAC does not leave."),
        ("T067", "Neighbour discovery with a hop limit below 255 is dropped on its way out and in."),
        ("T068", "Router advertisements come from the uplink alone, however a droplet wraps its own."),
        ("T069", "ICMPv6 redirects of droplets are dropped."),
        ("T070", "A droplet gets its address by DHCP without a rule, and cannot serve DHCP itself."),
        ("T071", "What a DHCP client broadcasts is not heard by other droplets."),
        ("T072", "An extra address passes with the port's MAC; no other pair does."),
        ("T073", "A prefix as a port's address allows all its addresses and none beside them."),
        ("T074", "Duplicate address detection works, and multicast listeners are heard by the uplink."),
        ("T075", "Gratuitous ARP and RARP announce the droplet's own MAC and addresses, as after a migration."),
        ("T076", "Frames with VLAN tags and of unknown EtherTypes do not leave a droplet."),
        ("T077", "One MAC belongs to one port of a hypervisor."),
        ("T078", "A port with addresses of one IP version, or with none, speaks with those alone."),
        ("T079", "A frame from the uplink with a local droplet's MAC as its source changes no delivery."),
    )),
    Section("Connection state", _of(
        ("T090", "An open TCP connection ends when its rule goes."),
        ("T091", "A UDP stream of answers alone ends when its rule goes, though the opener is silent."),
        ("T092", "What a droplet opened ends both ways when the outbound rule goes."),
        ("T093", "The same connection goes on when the rule is there again."),
        ("T094", "A rule replaced by another that still allows costs a stream no packet."),
        ("T095", "A change may ask to keep what is established: that goes on, and nothing new opens."),
        ("T096", "A revoked session does not come back as the droplet's own after the tracker forgot it."),
        ("T097", "After all state is lost inbound TCP goes on the right way round; own TCP only within the grace."),
        ("T098", "Segments that belong to no connection, bad flags and bad checksums are dropped and counted."),
        ("T099", "A segment out of the window is dropped while that is checked."),
        ("T100", "The ports of a closed TCP connection may be used for a new one."),
        ("T101", "FIN and RST reach the tracker: the connection is not established any more."),
        ("T102", "An answer after its UDP connection expired is not accepted."),
        ("T103", "ICMP errors about allowed packets are delivered without a rule."),
        ("T104", "ICMP errors follow their connection, either way and over IPv6; without one they are dropped."),
        ("T105", "A sender hears that its packet was too big: path MTU discovery works through the firewall."),
        ("T106", "An ICMP error about a revoked connection is dropped."),
        ("T107", "What one zone knows of a packet counts for nothing in another."),
        ("T108", "One connection between two droplets of a host is judged for each of them by itself."),
        ("T109", "The zone of a port that went is empty; its slot's next owner inherits nothing."),
        ("T110", "At the limit of a zone new connections fail closed and known ones go on."),
        ("T111", "With the whole table full new connections fail closed and known ones go on."),
        ("T112", "A connection's label says which rule admitted it, and follows when another takes over."),
        ("T113", "What a control connection (FTP) announces needs a rule of its own: there are no helpers."),
        ("T114", "Generations go round after 31 bits and are never 0."),
        ("T115", "A droplet protected again by stricter rules has every connection judged anew."),
    )),
    Section("Fragments", _of(
        ("T120", "Fragments pass under the rule of their port: two and more, IPv4 and IPv6, in, out, on one host."),
        ("T121", "Order does not matter; what overlaps or is never completed is not delivered to anyone."),
        ("T122", "Later fragments alone reach nobody, also after they expired."),
        ("T123", "Fragments with a VLAN tag are not delivered."),
        ("T124", "A denied first fragment takes the later ones with it, and leaves no connection."),
        ("T125", "Extension headers around fragments change no verdict."),
    )),
    Section("One host, multicast, forwarding", _of(
        ("T130", "Between droplets of one host both ends must agree."),
        ("T131", "A droplet does not reach itself over the wire."),
        ("T132", "Unknown unicast and IP multicast from the uplink reach no droplet."),
        ("T133", "Multicast of a droplet is judged by its rules, leaves by the uplink, and reaches no droplet."),
        ("T134", "Large packets pass whole where the network is wide enough."),
        ("T135", "A port that nobody registered reaches nothing, and others' rules do not touch it."),
        ("T136", "A storm of ARP from one droplet does not stop the others."),
    )),
    Section("Changes", _of(
        ("T140", "While rules flip on and off, traffic that none of them allows never passes."),
        ("T141", "Changes that do not concern an allowed stream cost it no packet."),
        ("T142", "Replacing all of some 20,000 flows costs an allowed stream no packet."),
        ("T143", "When a switch refuses one flow of a change nothing of it is applied, and the API says which flow."),
        ("T144", "When a switch refuses the commit, the same."),
        ("T145", "A bundle that the switch gave up for idleness is sent again whole; nothing of it stays half-done."),
        ("T146", "Errors about bundles (open twice, unknown, wrong flags) do not end the session."),
        ("T147", "A droplet whose tags change moves in and out of sets with the answer to the write."),
        ("T148", "Counters of untouched rules survive other changes and a restart of the controller."),
        ("T149", "The same policy once more sends no flow-mod."),
        ("T150", "A rule swapped for another sends exactly the deletes and adds of the two."),
    )),
    Section("Faults", _of(
        ("T160", "The controller ends, by order or by SIGKILL: no packet is lost."),
        ("T161", "The controller restarts: allowed traffic loses nothing, forbidden traffic never passes."),
        ("T162", "What was changed while a switch was away is applied, and what was removed is gone."),
        ("T163", "A switch that was killed and restarted gets the same flows back."),
        ("T164", "Flows that were deleted by hand are put back."),
        ("T165", "A switch that restored its flows itself is sent no flow-mod."),
        ("T166", "A port that was plugged anew while the controller was away is right after the resync."),
        ("T167", "A switch that disconnects 50 times leaks neither tasks nor sockets."),
        ("T168", "A connection that is cut after any message ends in the right state and never in a hole."),
        ("T169", "One switch that stalls holds up no other."),
        ("T170", "A connection whose packets vanish is noticed within the limit."),
        ("T171", "Of two controllers the standby takes over without loss; the old one cannot write any more."),
        ("T172", "Two controllers that both believe they are active: the older token is refused."),
        ("T173", "A store that is lost or older than the switches deletes nothing and is told."),
        ("T174", "Each process stopped in turn, and a corrupt store: all comes back, closed meanwhile."),
        ("T175", "Flows that someone else changed are noticed and repaired."),
        ("T176", "No document crashes the controller or yields more than it means."),
        ("T177", "For random frames the switch delivers what the policy means and nothing else."),
        ("T178", "A clock that jumps by a day changes nothing."),
        ("T179", "When the store cannot write, the caller is told and no switch is touched."),
        ("T180", "Wrong xids, answers twice and oversized multiparts end the connection cleanly."),
        ("T181", "Flows with others' cookies are never touched."),
        ("T182", "A switch without `resubmit(,table,ct)` is refused with the reason, and left as it is."),
        ("T183", "A database that reconnects causes no storm of flow-mods."),
        ("T184", "500 switches that reconnect at once are all in sync within bounded time and memory."),
    )),
    Section("Truth tables and oracle", _of(
        ("T190", "Along a random walk of policies every pair, protocol and port does what the policy means."),
        ("T191", "Of a wide and a narrow rule, whichever goes first, the other keeps what it allows."),
        ("T192", "An empty peer is nobody and an absent list allows nothing; what is absent never means everything."),
        ("T193", "At each change of a membership the next ping and its answer do what the policy then means."),
        ("T194", "Flows read back from a switch and walked through the model do what the policy means."),
        ("T195", "Flows of another firewall stay until someone removes them by name.",
         "there is no such command: flows with others' cookies are never touched (T181), `ovs-ofctl` removes them"),
    )),
)  # fmt: skip

OTHER_PLATFORM = (
    ("reassembly by the kernel", "after `ct()` the kernel's lookups see whole packets; the userspace datapath keeps "
     "fragments, which is the harder case (T120-T125)"),
    ("connections across a restart of ovs-vswitchd", "the kernel keeps them, the userspace datapath does not (T097 is "
     "about their loss); stale marks do not match the new generation by design"),
    ("zone limits at commit", "the kernel drops the packet itself, the userspace datapath lets it go on uncommitted, "
     "and the pipeline drops it (T110, T111)"),
    ("helpers of the kernel", "kernels before 4.7 may assign FTP helpers unasked (T113 is without them); a related "
     "connection is judged as any other"),
    ("cached decisions under `flow-restore-wait`", "the kernel keeps them across a restart; the userspace datapath "
     "has none left"),
)  # fmt: skip


def bearers(tests: Path = TESTS) -> dict[str, list[str]]:
    """The tests whose names bear an id, by id; as `file.py::name` in the order of files and lines."""
    found: dict[str, list[str]] = {}
    for path in sorted(tests.glob("test_*.py")):
        for name in _TEST.findall(path.read_text()):
            for id_ in _ids(name):
                found.setdefault(id_, []).append(f"{tests.name}/{path.name}::{name}")
    return found


def _ids(name: str) -> list[str]:
    return list(dict.fromkeys(_ID.findall(name.replace("_", " "))))


_HEAD = """\
# Behaviours and their tests

*This page is printed from `tests/behaviours.py` by `make docs`. Do not edit it.*

What a firewall of this kind must do and must not, each with the tests that show it; a test bears the ids in its name.
Those in `test_lab_*.py` send real packets through a real Open vSwitch, those in `test_*_ovs.py` ask a real one, the
others are pure. Beside these stand tests of everything at once: random policies and packets against the plain meaning
of a policy (`test_meaning.py`, `test_meaning_ovs.py`, `test_laws.py`).
"""


def page(tests: Path = TESTS) -> str:
    """The whole page, as Markdown."""
    return "\n".join(_lines(bearers(tests))) + "\n"


def _lines(found: Mapping[str, list[str]]) -> Iterator[str]:
    yield _HEAD
    for section in SECTIONS:
        yield f"## {section.title}\n\n| | behaviour | tests |\n|---|---|---|"
        for one in section.behaviours:
            yield f"| {one.id} | {one.text} | {_shown(one, found.get(one.id, []))} |"
        yield ""
    yield """## Not on this platform

The tests run on Open vSwitch's userspace datapath. What differs in the kernel's is known from
documentation and source, and not tested:

| what | how it differs |
|---|---|"""
    for what, how in OTHER_PLATFORM:
        yield f"| {what} | {how} |"


def _shown(one: Behaviour, tests: list[str]) -> str:
    if not tests:
        return one.reason or "none"
    more = [f"and {len(tests) - SHOWN} more"] if len(tests) > SHOWN else []
    return "<br>".join([f"`{test}`" for test in tests[:SHOWN]] + more)


if __name__ == "__main__":
    sys.stdout.write(page())
