"""What one connected switch should hold, kept up as the policy changes: the bridge from the core to a `Plan`.

A switch asks when it has time, in whatever thread it compares; changes are noted meanwhile in the thread that makes
them.  What is noted comes before the policy that it leads to, so that a note is there whenever its policy is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from ..history import History
from ..pipeline.compile import Rulings, shared_peers
from ..pipeline.plan import Parts, Plan
from ..pipeline.touched import SharedKey, Touched
from ..policy.model import Firewall, PortRules
from ..policy.policy import Policy, owner_of
from ..progress import Wanted

Kept = tuple[Policy, History, int]  # what is in force; the serial number grows with each
FLOWS_OF_PORT = 50
MOST_COUNTED = 2_500  # flows; whoever asks what a call costs need not know more (openflow/link.py, SHORT)
MOST_NOTED = 10_000  # changes that one switch has not asked for; then it begins anew


class Planning:
    """One switch's plan.  Called by one thread at a time, with the interfaces that the switch has."""

    def __init__(
        self, dpid: str, rulings: Rulings, parts: Parts, kept: Callable[[], Kept], cut: Callable[[], int]
    ) -> None:
        """`cut`: the newest revision that cuts live connections there; it is asked after `kept`."""
        self.dpid = dpid
        self._plan = Plan(dpid, rulings, parts)
        self._kept = kept
        self._cut = cut
        self._noted: deque[tuple[int, Touched]] = deque()
        self._anew = 0  # the serial before which nothing is known of what changed
        self._begun = -1  # ... and the one with which the plan began

    def note(self, serial: int, touched: Touched | None) -> None:
        """A change leads to the policy of this serial; None: nobody knows what it changes."""
        if touched is None or len(self._noted) >= MOST_NOTED:
            self._anew = serial  # before what was noted goes: whoever misses it, sees this
            self._noted.clear()
        else:
            self._noted.append((serial, touched))

    def __call__(self, interfaces: Mapping[int, str]) -> Wanted:
        policy, history, serial = self._kept()
        noted = Touched()
        while self._noted:
            try:
                one = self._noted.popleft()
            except IndexError:
                break
            if one[0] > serial:
                self._noted.appendleft(one)
                break
            noted |= one[1]
        anew = self._anew
        found = None if self._begun < anew else noted
        delta = self._plan.follow(policy, serial, interfaces, found)
        if found is None and serial >= anew:
            self._begun = anew
        return Wanted(history, delta.units, self._cut(), None if found is None else delta.gone)

    @property
    def cost(self) -> int:
        """How many flows the next call looks at, about; more than MOST_COUNTED is told as that."""
        policy, _, _ = self._kept()
        here = policy.ports_on.get(self.dpid, frozenset())
        if self._begun < self._anew:
            return _cost(policy, here, ())
        total = 0
        for _, touched in list(self._noted):
            ports = here & touched.ports
            total += 4 * len(touched.members) + FLOWS_OF_PORT * len(self._plan.ports & touched.ports - ports)
            total += len(here) if self.dpid in touched.hosts else 0
            total += sum(_members(policy, key) for key in touched.shared)
            total += _cost(policy, ports, touched.rule_sets, self._plan)
            if total > MOST_COUNTED:
                break
        return total


def _cost(policy: Policy, port_ids: Iterable[str], owners: Iterable[str], known: Plan | None = None) -> int:
    """Of ports and rule sets, and of what these bring that a plan does not have yet."""
    total = 0
    rule_sets = {owner: found for owner in owners if (found := policy.rule_set(owner)) is not None}
    for port_id in port_ids:
        total += FLOWS_OF_PORT
        for rules in policy.rule_sets_of(policy.ports[port_id]):
            if known is None or owner_of(rules) not in known.rule_sets:
                rule_sets[owner_of(rules)] = rules
        if total > MOST_COUNTED:
            return total
    sets: set[SharedKey] = set()
    for found in rule_sets.values():
        total += _size(found)
        for rule in found.rules:
            if rule.peer.names_sets:
                sets.update(one.key for one in shared_peers(policy, found.account, rule))
    return total + sum(_members(policy, key) for key in sets if known is None or not known.asks(key))


def _size(rules: Firewall | PortRules) -> int:
    """Entries of all rules, and each rule."""
    return sum(1 + rule.peer.size for rule in rules.rules)


def _members(policy: Policy, key: SharedKey) -> int:
    if isinstance(key, str):
        peer = policy.external_peers.get(key)
        return 2 * (len(peer.addresses) + len(peer.droplet_ids)) if peer is not None else 0
    return 4 * len(policy.tagged.get(key, ()))
