"""What one connected switch should hold, kept up as the policy changes: the bridge from the core to a `Plan`.

A switch asks when it has time, in whatever thread it compares; changes are noted meanwhile in the thread that makes
them.  What is noted comes before the policy that it leads to, so that a note is there whenever its policy is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from ..history import History
from ..pipeline.compile import Rulings
from ..pipeline.plan import Parts, Plan
from ..pipeline.touched import Touched
from ..policy.policy import Policy
from ..progress import Wanted

Kept = tuple[Policy, History, int]  # what is in force; the serial number grows with each
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
    def little(self) -> bool:
        """Whether following takes less than a moment, as far as is known."""
        return self._begun >= self._anew
