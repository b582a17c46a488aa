"""Prints docs/flows.md: how many flows some policies come to, and how many flow-mods a change of them.

    python -m firewall_app.pipeline counts > docs/flows.md

What a change costs is compiled before and after, and compared as for a switch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..policy.model import (
    Direction,
    Droplet,
    Firewall,
    Hypervisor,
    Peer,
    Port,
    PortRange,
    Protocol,
    Rule,
    Tag,
)
from ..policy.policy import Policy
from .compile import MOST_SETS, Rulings, ports_here
from .counts import (
    AROUND,
    CONJUNCTION,
    FIREWALL,
    FLOOD,
    HYPERVISOR,
    IPV4,
    IPV6,
    JUDGED,
    LOAD,
    LOCAL,
    MESSAGE,
    OUTPUT,
    PARTS,
    PORT,
    RESUBMIT,
    RULED,
    RULELESS,
    TRACKED,
    UNTRACKED,
    UPLINKS,
    others,
    parts,
    total,
)
from .diff import Desired, difference
from .flow import Flow, Key
from .plan import units
from .tables import BY_ID, asks_no_less
from .unit import Generation, Unit, UnitKey, next_generation

# --------------------------------------------------------------------------------------------- policies

HERE, THERE = "0000000000000001", "0000000000000002"
UPLINK_NAME = "eth0"
INBOUND, OUTBOUND, TCP = Direction.INBOUND, Direction.OUTBOUND, Protocol.TCP
ANYONE = Peer(("0.0.0.0/0", "::/0"))
WIDEST = PortRange(1, 65534)  # 30 masks, more than any other
CHANGED = "changed-fw"  # the firewall of each policy that the changes are made to


class Site:
    """A policy in the making: droplets with a port and an IPv4 address each, and firewalls."""

    def __init__(self) -> None:
        self._draft = Policy().edit()
        self._count = 0
        self.interfaces = {1: UPLINK_NAME}
        for dpid in (HERE, THERE):
            self._draft.put(Hypervisor(dpid, dpid[-2:], (UPLINK_NAME,)))

    def droplets(self, count: int, *tags: str, dpid: str = HERE, ipv6: bool = False) -> tuple[int, ...]:
        """So many more; returns their ids."""
        for tag in tags:
            self._draft.put(Tag("default", tag))
        first = self._count + 1
        self._count += count
        for n in range(first, first + count):
            self._draft.put(Droplet(n, tags=tags))
            self._draft.put(port(n, dpid, ipv6))
            if dpid == HERE:
                self.interfaces[n + 1] = f"tap{n}"
        return tuple(range(first, first + count))

    def rule(self, peer: Peer, ports: PortRange, direction: Direction = INBOUND, protocol: Protocol = TCP) -> Rule:
        return Rule(direction, protocol, ports, peer, self._draft.new_rule_id())

    def firewall(self, name: str, *rules: Rule, droplets: tuple[int, ...] = (), tags: tuple[str, ...] = ()) -> None:
        inbound, outbound = (tuple(r for r in rules if r.direction is d) for d in (INBOUND, OUTBOUND))
        self._draft.put(Firewall(name, "default", name, inbound, outbound, droplets, tags))

    def prefixes(self, count: int) -> list[Rule]:
        """So many rules, each of one /24 and one TCP port."""
        return [self.rule(Peer((f"172.16.{i}.0/24",)), PortRange(8000 + i, 8000 + i)) for i in range(count)]

    def policy(self) -> Policy:
        return self._draft.done()


def port(number: int, dpid: str = HERE, ipv6: bool = False) -> Port:
    """The port of a droplet: everything about it follows from the number."""
    high, low = number >> 8, number & 0xFF
    own = (f"10.0.{high}.{low}",) + ((f"2001:db8::{number:x}",) if ipv6 else ())
    return Port(f"p{number}", number, dpid, f"tap{number}", None, f"02:00:00:00:{high:02x}:{low:02x}", own, number)


def shop() -> Site:
    site = Site()
    for tier in ("web", "app", "db"):
        site.droplets(5, tier, ipv6=True)
    site.firewall(
        "web-fw", site.rule(ANYONE, PortRange(443, 443)), site.rule(ANYONE, PortRange.every(), protocol=Protocol.ICMP),
        site.rule(Peer(tags=("app",)), PortRange(8080, 8080), OUTBOUND), tags=("web",),
    )  # fmt: skip
    site.firewall(
        "app-fw", site.rule(Peer(tags=("web",)), PortRange(8080, 8080)),
        site.rule(Peer(tags=("db",)), PortRange(5432, 5432), OUTBOUND), tags=("app",),
    )  # fmt: skip
    site.firewall(CHANGED, site.rule(Peer(tags=("app",)), PortRange(5432, 5432)), tags=("db",))
    return site


def one_firewall() -> Site:
    site = Site()
    site.droplets(100, "behind")
    site.firewall(CHANGED, *site.prefixes(50), tags=("behind",))
    return site


def own_firewalls() -> Site:
    site = Site()
    site.droplets(20, "web", dpid=THERE)
    for n in site.droplets(200):
        name = CHANGED if n == 220 else f"fw-{n}"
        site.firewall(
            name, *site.prefixes(49), site.rule(Peer(tags=("web",)), PortRange(9000, 9000)), droplets=(n,)
        )  # fmt: skip
    return site


def shared_firewall() -> Site:
    site = Site()
    site.droplets(20, "web", dpid=THERE)
    site.droplets(200, "behind")
    site.firewall(CHANGED, *site.prefixes(49), site.rule(Peer(tags=("web",)), PortRange(9000, 9000)), tags=("behind",))
    return site


def large_tag() -> Site:
    site = Site()
    site.droplets(1000, "web", dpid=THERE)
    site.droplets(50, "behind")
    ranges = [PortRange(2048 * i + 1, 2048 * i + 2046) for i in range(25)]
    rules = [site.rule(Peer(tags=("web",)), r, protocol=p) for p in (TCP, Protocol.UDP) for r in ranges]
    site.firewall(CHANGED, *rules, tags=("behind",))
    return site


def large_rule() -> Site:
    site = Site()
    site.droplets(50, "behind")
    addresses = tuple(f"172.16.{i >> 8}.{i & 255}" for i in range(1000))
    site.firewall(CHANGED, site.rule(Peer(addresses), WIDEST), tags=("behind",))
    return site


def popular_tag() -> Site:
    site = Site()
    site.droplets(100, "web", dpid=THERE)
    for n in site.droplets(100):
        rules = [site.rule(Peer(tags=("web",)), PortRange(8000 + i, 8000 + i)) for i in range(50)]
        site.firewall(f"fw-{n}", *rules, droplets=(n,))
    return site


SITES: tuple[tuple[str, Callable[[], Site], str, str], ...] = (
    ("a shop: web, app and db, 5 droplets each, IPv4 and IPv6, 6 rules between them", shop, "", ""),
    ("100 droplets behind one firewall of 50 rules, each of one /24 and one port", one_firewall, "", ""),
    ("200 droplets, each behind its own firewall of 50 rules: 49 as above, and one whose source is a tag that 20 "
     "droplets elsewhere have", own_firewalls, "33,986", "29,452"),
    ("the same 200 behind one firewall of these 50 rules", shared_firewall, "26,428", ""),
    ("50 droplets behind one firewall of 50 rules; the source of each is a tag of 1,000 droplets, each has a range of "
     "20 masks", large_tag, "", ""),
    ("50 droplets behind one firewall of one rule: 1,000 addresses, a range of 30 masks", large_rule, "", ""),
    ("100 droplets, each behind its own firewall of 50 rules, all from one tag of 100 droplets", popular_tag, "", ""),
)  # fmt: skip


# --------------------------------------------------------------------------------------------- changes

GENERATION = ("generation", "")
NEW = 60000  # a droplet that is not there yet


def _rule_added(policy: Policy) -> Policy:
    firewall = policy.firewalls[CHANGED]
    draft = policy.edit()
    rule = Rule(INBOUND, TCP, PortRange(22, 22), Peer(("198.51.100.0/24",)), draft.new_rule_id())
    draft.put(replace(firewall, inbound_rules=(*firewall.inbound_rules, rule)))
    return draft.done()


def _tag_joined(policy: Policy) -> Policy:
    draft = policy.edit()
    draft.put(replace(_spare(policy, THERE), tags=("web",)))
    return draft.done()


def _droplet_attached(policy: Policy) -> Policy:
    firewall = policy.firewalls[CHANGED]
    draft = policy.edit()
    draft.put(replace(firewall, droplet_ids=(*firewall.droplet_ids, _spare(policy, HERE).id)))
    return draft.done()


def _firewall_created(policy: Policy) -> Policy:
    draft = policy.edit()
    rules = tuple(
        Rule(INBOUND, TCP, PortRange(n, n), Peer((f"198.51.100.{n}",)), draft.new_rule_id()) for n in range(50)
    )
    draft.put(Firewall("new-fw", "default", "new-fw", rules, (), (_spare(policy, HERE).id,)))
    return draft.done()


def _port_registered(policy: Policy) -> Policy:
    draft = policy.edit()
    draft.put(Droplet(NEW))
    draft.put(port(NEW))
    return draft.done()


def _spare(policy: Policy, dpid: str) -> Droplet:
    """The last droplet of a hypervisor; `costs` puts an open one there."""
    return policy.droplets[max(policy.ports[name].droplet_id for name in policy.ports_on[dpid])]


CHANGES: tuple[tuple[str, str, Callable[[Policy], Policy]], ...] = (
    ("a rule of one /24 and one port is added to a firewall", "it is removed", _rule_added),
    ("a droplet elsewhere gets a tag that rules here name as a source", "it loses it", _tag_joined),
    ("an open droplet is attached to a firewall that has inbound rules", "it is detached", _droplet_attached),
    ("a firewall of 50 rules is created on an open droplet", "it is deleted", _firewall_created),
    ("a droplet port is registered, open", "it is removed", _port_registered),
)


@dataclass(frozen=True)
class Cost:
    """Flow-mods of one change."""

    put: int  # flows added or overwritten
    deleted: int
    raises: bool  # whether the generation goes up as well

    def __str__(self) -> str:
        return f"{self.put} + {self.deleted}"


class Held:
    """What a switch holds, as it follows one policy after the other."""

    def __init__(self, site: Site) -> None:
        self._interfaces = {**site.interfaces, 2 + NEW: f"tap{NEW}"}
        self._generation = 1
        self._desired: Desired[Key, Flow] = Desired(_render)
        self._flows: dict[Key, Flow] = {}

    def follow(self, policy: Policy) -> Cost:
        wanted: dict[UnitKey, Unit] = units(policy, HERE, self._interfaces, Rulings())
        touched = self._desired.update({**wanted, GENERATION: Generation(self._generation)})
        changes = difference(self._desired, self._flows, touched)
        cost = Cost(len(changes.put), len(changes.delete), changes.takes_away(_judges, _asks_no_less))
        self._apply(touched)
        return cost

    def raise_generation(self) -> int:
        """Flow-mods of that alone."""
        self._generation = next_generation(self._generation)
        touched = self._desired.change({GENERATION: Generation(self._generation)})
        changes = difference(self._desired, self._flows, touched)
        self._apply(touched)
        return len(changes.put) + len(changes.delete)

    def _apply(self, touched: set[Key]) -> None:
        for key in touched:
            flow = self._desired.get(key)
            if flow is None:
                self._flows.pop(key, None)
            else:
                self._flows[key] = flow


def _render(unit: Unit) -> Iterator[tuple[Key, Flow]]:
    return ((flow.key, flow) for flow in unit.flows())


def _judges(key: Key) -> bool:
    return BY_ID[key.table].judges


def _asks_no_less(key: Key, old: Flow, new: Flow) -> bool:
    return asks_no_less(key.table, old.actions, new.actions)


def costs(site: Site) -> tuple[list[tuple[str, Cost]], int]:
    """What each change costs on a hypervisor that holds the site's policy; and what raising the generation costs."""
    for dpid in (HERE, THERE):
        site.droplets(1, dpid=dpid)
    policy, held = site.policy(), Held(site)
    held.follow(policy)
    found = []
    for there, back, change in CHANGES:
        found.append((there, held.follow(change(policy))))
        found.append((back, held.follow(policy)))
    return found, held.raise_generation()


# --------------------------------------------------------------------------------------------- the page

_HEAD = """\
# How many flows

*This page is printed from `firewall_app/pipeline/` by `make docs`. Do not edit it.*

What a hypervisor holds is a sum: so much for itself, for each droplet port and its addresses, for each firewall that is
in force there, each of its rules, and each address of the sets that rules name. Nothing is multiplied by the number of
droplets but what belongs to a droplet. A firewall that no droplet of the hypervisor is behind costs nothing there, and
neither does a tag that only such firewalls name. How the tables work together is in [the pipeline](pipeline.md).

## The formula

| for each | flows | in table | namely |
|---|--:|---|---|"""

_MASKS = """
A rule's *masks* m are the port masks of its range: 1 for a single port, every port and ICMP, 30 at most (1-65534). Its
*addresses* a are those that it spells out and those of droplets that it names by their id, of v IP versions (1 or 2);
a droplet's addresses are those of its ports, and for each port the link-local one. Two rules of one firewall that want
the same match share one flow.

Added up, with u uplinks (u > 0), on a hypervisor with droplet ports:
"""

_LISTS = """
Three lists are one flow each and grow within it; with 64 KB, where a message of OpenFlow ends, it is full:

| list | bytes for each | full with |
|---|--:|--:|
| the firewalls of a port and direction, in c3 | {firewall} | {firewalls:,} |
| the sets of a firewall and direction, in c3s: tags, and own sets of rules | {set} | {sets:,} |
| the ports that hear broadcast, in z | {port} | {ports:,} |

And Open vSwitch drops a packet whose lookups in further tables are more than 4,096 (3.1.0: 4,084 pass, 4,124 do not).
Judging a packet takes two for each set, and one or two for each firewall, of all firewalls of the port in that
direction. So a firewall asks at most {asked} sets in a direction, those of its oldest rules; what the others name is
spelled out, address by address. A droplet may be behind 30 firewalls (`max_firewalls`).

Not counted are three flows that some releases of Open vSwitch need in order to forget what they cached
(`forget_cached`), and the six flow-mods with which each change moves them.
"""

_OTHERS = """
## Policies

Flows of one hypervisor with one uplink. Each droplet has one port with one IPv4 address (the shop's one of IPv6 too)
and, as every port, a link-local one; tags and droplets elsewhere count with these addresses as well.

*Ours of rules* are the flows that are there because of firewalls: c3, c3s, c3p, c3r, and the counted drops of c4. The
two columns after it are what the same rules would come to in other designs, by formula: *expanded* into one flow for
each port, address and mask; and as OpenFlow *conjunctions*, one id for each rule: a flow for each port and direction
(first clause), each address (second) and each mask (third), shared by all rules that need it, with one action for each
of them, and two flows for each rule that give the verdict. *Most actions* is what the longest of these has: at 16 bytes
each, a message of OpenFlow (64 KB) holds {actions:,}.
"""

_MEASURED = """
OVN and Neutron: measured by us on one machine, with OVN 23.03 of Debian 12 and the OVSFirewallDriver of Neutron from
PyPI; all flows of the bridge, so to be compared with *ours, all*. Where nothing stands nothing was measured.

Where every droplet has rules of its own, as in the third, there is little to share, and no design has fewer flows than
rules. Conjunctions come to sums as well, and in small policies to smaller ones. What they cost is elsewhere: a rule
that comes or goes writes anew every flow that it shares with others, more than 2,000 in the fifth, where ours are its
own 40; and a port, an address or a mask that thousands of rules need does not fit into a message.
"""

_CHANGES = """
## What a change costs

Flow-mods that the hypervisor is sent, as *flows added or overwritten + flows deleted*: the policy was compiled before
and after, and compared. Droplets have one IPv4 address and the link-local one.

| change | in the shop | among 200 × 50 rules | raises the generation |
|---|--:|--:|---|"""

_GENERATION = """
A change that may take something away also raises the generation in the same bundle, which is {generation} flow-mods
more, whatever the size of the policy. A droplet that joins or leaves a tag is one flow for each of its addresses, and
as many again when rules name the tag in the other direction too, however many rules, firewalls and droplets use it. The
rule in the shop is the first of its firewall that spells an address out, so the firewall's list, 2 flows, is written
anew; so it is for the first rule that names a tag. A port that comes or goes has the 9 flows of broadcast written anew,
since they list all ports.
"""


def page() -> str:
    """The whole page, as Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    for part in PARTS:
        tables = ", ".join(f"{count} in {table}" for table, count in part.tables)
        yield f"| {part.each} | {part.flows} | {tables} | {part.why} |"
    yield _MASKS
    yield from _sums()
    listed = {"firewall": LOAD + RESUBMIT, "set": 2 * LOAD + 2 * RESUBMIT, "port": OUTPUT}
    most = {f"{what}s": (MESSAGE - AROUND) // size // 10 * 10 for what, size in listed.items()}
    yield _LISTS.format(**listed, **most, asked=MOST_SETS).rstrip()
    yield _OTHERS.format(actions=(MESSAGE - AROUND) // CONJUNCTION)
    yield from _policies()
    yield _MEASURED.rstrip()
    yield _CHANGES
    (small, generation), (large, _) = costs(shop()), costs(own_firewalls())
    for (text, one), (_, other) in zip(small, large, strict=True):
        yield f"| {text} | {one} | {other} | {'yes' if other.raises else 'no'} |"
    yield _GENERATION.format(generation=generation).rstrip()


def _sums() -> Iterator[str]:
    alone = HYPERVISOR.flows + UPLINKS.flows + FLOOD.flows
    least = PORT.flows + IPV6.flows + LOCAL.flows
    behind = least + JUDGED.flows
    yield f"- the hypervisor itself: {alone} + u"
    yield (
        f"- an open port: {least + TRACKED.flows} + {IPV4.flows} for each IPv4 address + {IPV6.flows} for each IPv6 "
        f"address ({least + UNTRACKED.flows} when open droplets are not tracked)"
    )
    yield (
        f"- a port behind firewalls: {behind} + {IPV4.flows} for each IPv4 address + {IPV6.flows} for each IPv6 "
        f"address + {RULED.flows} for each direction with rules, {RULELESS.flows} for one without"
    )
    yield f"- a firewall: {FIREWALL.flows} for each direction in which it names somebody, and its rules"
    yield "- a rule: a·m when it is of few addresses, else a + m·v; and 2·m for each tag that it names"
    yield "- a tag that rules in force name: its addresses, once for each direction in which they do"


def _policies() -> Iterator[str]:
    rows, texts = [], []
    for number, (text, make, ovn, neutron) in enumerate(SITES, 1):
        site = make()
        policy = site.policy()
        found = parts(policy, HERE, site.interfaces, Rulings())
        other = others(policy, ports_here(policy, HERE, site.interfaces))
        most = f"{other.largest:,}" + ("" if other.fits else ": too many")
        texts.append(f"{number}. {text}")
        rows.append(
            f"| {number} | {total(found):,} | {total(found, of_rules=True):,} | {other.expanded:,} "
            f"| {other.conjunctions:,} | {most} | {ovn} | {neutron} |"
        )
    yield from texts
    yield "\n| | ours, all | ours, of rules | expanded | conjunctions | most actions | OVN, all | Neutron, all |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    yield from rows
