"""Which units (`unit.py`) a policy means for one hypervisor, kept up as the policy changes: `Plan`.

API model.  `Plan.follow(policy, ...)` is told what a change touched (`touched.py`) and says which units are others now;
told nothing it takes everything for touched, which is how a plan begins.  `units()` is a plan that has just begun.

Design.  A plan is the sum of parts: the hypervisor's own, one for each droplet port, one for each rule set that a port
here is behind, one for each set of addresses that those ask.  (1) A part that is not touched is not looked at, so that
a change costs what it changes.  (2) The parts of rule sets and of shared sets are the same for every hypervisor: they
are made once (`Parts`), and hypervisors share their units, and the bytes of these.  (3) A hypervisor is told of what
concerns it at the time: of a firewall's changes only while ports here are behind it.  One step may be over several
changes, and what seems to have stayed may have gone and come back: so what touched ports are behind is looked at, and
what touched rule sets ask.  That it is the same part is seen at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, TypeVar

from ..policy.model import Direction, ExternalPeer, Port, Tag
from ..policy.policy import Policy, owner_of
from .compile import MOST_FIREWALLS, Rulings, members_of, ports_here, rule_units, shared_peers, uplinks_here
from .tables import TAG_SET
from .touched import SharedKey, Touched
from .unit import (
    AddressSet,
    FirewallSets,
    Flood,
    PortFirewalls,
    PortGuards,
    PortProtection,
    Protection,
    RuleFlows,
    SetMembers,
    Static,
    Unit,
    UnitKey,
    Uplinks,
)
from .unit_rule import DIRECTIONS

Units = Mapping[UnitKey, Unit]
SetName = tuple[SharedKey, Direction]  # of a shared set in one direction
K = TypeVar("K", bound=Hashable)
P = TypeVar("P")


class Delta(NamedTuple):
    """What is another unit now, or was none before; and what is none any more."""

    units: dict[UnitKey, Unit]
    gone: set[UnitKey]


@dataclass(frozen=True)
class Part:
    """Some units that come and go together."""

    units: Units = field(default_factory=dict)
    asks: frozenset[SetName] = frozenset()  # rule sets: the shared sets that they need
    number: int = 0  # shared sets: the one that switches know it by


NOTHING = Part()


class _Kept(Generic[K]):
    """Parts by name, each good until a change touches what it was made from.

    Policies have serial numbers, so that who still works with an older one neither gets nor leaves a part of another.
    Threads may share it: what races costs a part made twice.
    """

    def __init__(self, make: Callable[[Policy, K, Units], Part]) -> None:
        self._make = make
        self._parts: dict[K, tuple[int, Part]] = {}  # with the serial of the policy that it was made from
        self._touched: dict[K, int] = {}
        self._all_touched = 0

    def touch(self, keys: Iterable[K] | None, serial: int) -> None:
        """A policy of this serial is about to come; None: nothing is known of what it changes."""
        if keys is None:
            self._all_touched = serial
            self._parts, self._touched = {}, {}
            return
        for key in keys:
            self._touched[key] = serial

    def get(self, policy: Policy, serial: int, key: K) -> Part:
        touched = max(self._touched.get(key, 0), self._all_touched)
        made, part = self._parts.get(key, (-1, NOTHING))
        if made >= touched <= serial and made >= 0:
            return part
        # Units that are as they were stay the same objects: hypervisors compare them by that, and share their bytes.
        new = self._make(policy, key, part.units)
        units = dict(new.units)
        for name, unit in new.units.items():
            was = part.units.get(name)
            if was is not None and was is not unit and was == unit:
                units[name] = was
        new = replace(new, units=units)
        if made <= serial:
            self._parts[key] = serial, new
        return new

    def forget(self, keys: Iterable[K]) -> None:
        """They are not in the newest policy."""
        for key in keys:
            self._parts.pop(key, None)
            self._touched.pop(key, None)


class Parts:
    """The parts that hypervisors share."""

    def __init__(self) -> None:
        self.rule_sets: _Kept[str] = _Kept(_rule_set)
        self.shared: _Kept[SetName] = _Kept(_shared_set)

    def touch(self, touched: Touched | None, policy: Policy, serial: int) -> None:
        """This policy is about to be in force."""
        if touched is None:
            self.rule_sets.touch(None, serial)
            self.shared.touch(None, serial)
            return
        self.rule_sets.touch(touched.rule_sets, serial)
        self.rule_sets.forget(owner for owner in touched.rule_sets if policy.rule_set(owner) is None)
        names = [(key, direction) for key in touched.sets for direction in Direction]
        self.shared.touch(names, serial)
        self.shared.forget(name for name in names if _shared(policy, name[0]) is None)


def _rule_set(policy: Policy, owner: str, known: Units) -> Part:
    """A rule set's rules, the sets of their own that they name, and what it asks of them."""
    rule_set = policy.rule_set(owner)
    if rule_set is None:
        return NOTHING
    found: dict[UnitKey, Unit] = {}
    asks: set[SetName] = set()
    before = {unit.rule_id: unit for unit in known.values() if isinstance(unit, RuleFlows)}
    for direction in Direction:
        asked: dict[AddressSet, None] = {}
        plain = False
        for flows, own_set in rule_units(policy, rule_set, direction, before).values():
            if not (flows.networks or flows.sets):
                continue
            found["rule", str(flows.rule_id)] = flows
            if own_set is not None:
                found["own set", str(flows.rule_id)] = own_set
            plain |= bool(flows.networks)
            asked |= dict.fromkeys(members for members, _ in flows.sets)
        for rule in rule_set.in_direction(direction) if asked else ():
            if rule.peer.names_sets:
                for one in shared_peers(policy, rule_set.account, rule):
                    if AddressSet(TAG_SET, one.number) in asked:
                        asks.add((one.key, direction))
        if plain or asked:
            found["firewall", f"{rule_set.number} {direction.value}"] = FirewallSets(
                rule_set.number, direction, plain, tuple(sorted(asked))
            )
    return Part(found, frozenset(asks))


def _shared_set(policy: Policy, name: SetName, known: Units) -> Part:
    """The members of a set, each port by itself: one that joins or leaves is a unit of two flows, or of few."""
    key, direction = name
    shared = _shared(policy, key)
    if shared is None:
        return NOTHING
    members = AddressSet(TAG_SET, shared.number)
    found: dict[UnitKey, Unit] = {}
    if isinstance(shared, ExternalPeer):
        found[set_name(shared.number, direction)] = SetMembers(members, direction, tuple(sorted(set(shared.networks))))
    for port_id in (port for one in members_of(policy, shared) for port in policy.ports_of.get(one, ())):
        unit_key, networks = set_name(shared.number, direction, port_id), policy.ports[port_id].networks
        unit = known.get(unit_key)
        if not isinstance(unit, SetMembers) or unit.networks != networks:
            unit = SetMembers(members, direction, networks)
        found[unit_key] = unit
    return Part(found, number=shared.number)


def _shared(policy: Policy, key: SharedKey) -> Tag | ExternalPeer | None:
    return policy.external_peers.get(key) if isinstance(key, str) else policy.tags.get(key)


def set_name(number: int, direction: Direction, port_id: str = "") -> UnitKey:
    """Of the unit that has the addresses which a port lends a set; or of those that the set has by itself."""
    return "tag", f"{number} {direction.value} {port_id}".rstrip()


@dataclass(frozen=True)
class _Here:
    """A droplet port with its switch port, the rule sets that it is behind, and its units."""

    port: Port
    ofport: int
    owners: frozenset[str]
    units: Units


class Plan:
    """The units of one hypervisor."""

    def __init__(self, dpid: str, rulings: Rulings, parts: Parts) -> None:
        self._dpid = dpid
        self._rulings = rulings
        self._parts = parts
        self._begin()

    def _begin(self) -> None:
        self._interfaces: Mapping[int, str] | None = None
        self._host: Units = {}
        self._ports: dict[str, _Here] = {}
        self._behind: Counter[str] = Counter()  # owner of rules -> ports here that are behind them
        self._rule_sets: dict[str, Part] = {}
        self._asking: Counter[SetName] = Counter()  # shared set -> rule sets here that ask it
        self._shared: dict[SetName, Part] = {}

    @property
    def ports(self) -> Set[str]:
        """The droplet ports that it has units of."""
        return self._ports.keys()

    @property
    def rule_sets(self) -> Set[str]:
        """The owners of the rules that it has units of."""
        return self._rule_sets.keys()

    def asks(self, key: SharedKey) -> bool:
        """Whether it has units of a shared set."""
        return any((key, direction) in self._shared for direction in Direction)

    def follow(self, policy: Policy, serial: int, interfaces: Mapping[int, str], touched: Touched | None) -> Delta:
        """The plan becomes that of a policy; says what differs from what it was.

        `interfaces`: the switch ports there are, OpenFlow number to interface name.  A droplet port whose interface
        is not there has no flows, and so can neither send nor receive.  `touched`: by all changes since; None: begin
        anew, as if there had been no unit.
        """
        if touched is None:
            self._begin()
        delta = Delta({}, set())
        ports = set() if touched is None else self._ports.keys() & touched.ports
        if touched is None or self._dpid in touched.hosts or interfaces != self._interfaces:
            ports |= self._look_at_host(policy, interfaces, delta)
        rule_sets: set[str] = set() if touched is None else self._rule_sets.keys() & touched.rule_sets
        for port_id in ports:
            rule_sets |= self._look_at_port(policy, port_id, delta)
        shared: set[SetName] = set()
        if touched is not None:
            shared.update(
                n for key in touched.sets for direction in Direction if (n := (key, direction)) in self._shared
            )
        asked: set[SetName] = set()
        for owner in rule_sets:
            asked |= self._look_at_rule_set(policy, serial, owner, delta)
        members: dict[SharedKey, set[str]] = {}
        for key, port_id in touched.members if touched is not None else ():
            members.setdefault(key, set()).add(port_id)
        for name in shared | asked:
            known = touched is not None and name[0] not in touched.shared and name not in asked
            self._look_at_shared(policy, serial, name, members.get(name[0], set()) if known else None, delta)
        delta.gone.difference_update(delta.units)
        return delta

    def _look_at_host(self, policy: Policy, interfaces: Mapping[int, str], delta: Delta) -> set[str]:
        """What depends on all ports at once; returns the droplet ports that are to be looked at."""
        self._interfaces = dict(interfaces)
        here = {port.id: (port, ofport) for port, ofport in ports_here(policy, self._dpid, interfaces)}
        ofports = {ofport for _, ofport in here.values()}
        uplinks = uplinks_here(policy, self._dpid, interfaces, self._rulings, taken=ofports)
        units: dict[UnitKey, Unit] = {
            ("static", ""): Static(self._rulings.fragments),
            ("uplinks", ""): Uplinks(uplinks),
            ("flood", ""): Flood(tuple(sorted(ofports)), uplinks),
        }
        _differ(self._host, units, delta)
        self._host = units
        dirty = {one for one, was in self._ports.items() if one not in here or here[one] != (was.port, was.ofport)}
        for port_id, (port, ofport) in here.items():
            if port_id not in self._ports or port_id in dirty:
                was = self._ports.get(port_id)
                kept = (was.owners, was.units) if was is not None else (frozenset(), {})
                self._ports[port_id] = _Here(port, ofport, *kept)
                dirty.add(port_id)
        for port_id in dirty - here.keys():
            was = self._ports[port_id]
            self._ports[port_id] = _Here(was.port, -1, was.owners, was.units)
        return dirty

    def _look_at_port(self, policy: Policy, port_id: str, delta: Delta) -> frozenset[str]:
        """Returns the rule sets that it is or was behind; a step may have skipped a time when it was not."""
        was = self._ports[port_id]
        port = policy.ports.get(port_id)
        units: dict[UnitKey, Unit] = {}
        owners: frozenset[str] = frozenset()
        if port is None or was.ofport < 0:
            del self._ports[port_id]
        else:
            sets = policy.rule_sets_of(port)
            owners = frozenset(map(owner_of, sets))
            units["guards", port_id] = PortGuards(port.slot, was.ofport, port.mac, port.networks)
            units["protection", port_id] = PortProtection(
                port.slot, was.ofport, port.mac, self._protection(bool(sets)), self._rulings.fragments
            )
            for direction, number in DIRECTIONS.items() if sets or self._rulings.closed else ():
                asked = sorted(s.number for s in sets if s.in_direction(direction))[:MOST_FIREWALLS]
                units["rules of", f"{port_id} {direction.value}"] = PortFirewalls(port.slot, number, tuple(asked))
            self._ports[port_id] = _Here(port, was.ofport, owners, units)
        _differ(was.units, units, delta)
        _count(self._behind, was.owners, owners)
        return was.owners | owners

    def _protection(self, behind: bool) -> Protection:
        if behind or self._rulings.closed:
            return Protection.JUDGED
        return Protection.TRACKED if self._rulings.track_open else Protection.UNTRACKED

    def _look_at_rule_set(self, policy: Policy, serial: int, owner: str, delta: Delta) -> frozenset[SetName]:
        """Returns the shared sets that it asks or asked; a step may have skipped a time when it did not."""
        was = self._rule_sets.pop(owner, NOTHING)
        now = NOTHING
        if self._behind[owner]:
            now = self._rule_sets[owner] = self._parts.rule_sets.get(policy, serial, owner)
        else:
            del self._behind[owner]
        if now is not was:
            _differ(was.units, now.units, delta)
        _count(self._asking, was.asks, now.asks)
        return was.asks | now.asks

    def _look_at_shared(
        self, policy: Policy, serial: int, name: SetName, port_ids: set[str] | None, delta: Delta
    ) -> None:
        """`port_ids`: the members that may differ; None: any."""
        was = self._shared.pop(name, NOTHING)
        now = NOTHING
        if self._asking[name]:
            now = self._shared[name] = self._parts.shared.get(policy, serial, name)
        else:
            del self._asking[name]
        if was is now:
            return
        if was.number != now.number or port_ids is None:
            _differ(was.units, now.units, delta)
            return
        for port_id in port_ids:
            key = set_name(now.number, name[1], port_id)
            if key in now.units:
                delta.units[key] = now.units[key]
            elif key in was.units:
                delta.gone.add(key)


def _differ(was: Units, now: Units, delta: Delta) -> None:
    if now:
        delta.units.update((name, unit) for name, unit in now.items() if was.get(name) is not unit)
    delta.gone.update(was.keys() - now.keys())


def _count(users: Counter[K], was: frozenset[K], now: frozenset[K]) -> None:
    """Counts who uses what."""
    for key in now - was:
        users[key] += 1
    for key in was - now:
        users[key] -= 1


def units(policy: Policy, dpid: str, interfaces: Mapping[int, str], rulings: Rulings) -> dict[UnitKey, Unit]:
    """What one hypervisor should hold, the generation aside, planned from nothing."""
    return Plan(dpid, rulings, Parts()).follow(policy, 0, interfaces, None).units
