"""How many requests may wait for switches at once (`Prefer: wait`), in all and of one token.

Each holds a connection of the listener while it waits: without a limit, one caller whose hypervisor is away could take
them all.  Called in the loop alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

ALL_OF, ONE_OF = 4, 20  # waits hold at most this part of all connections, together and with one token


class Waits:
    """Who waits now."""

    def __init__(self, connections: int) -> None:
        self._most = max(1, connections // ALL_OF)
        self._most_of_one = max(1, connections // ONE_OF)
        self._now: Counter[Hashable] = Counter()

    @contextmanager
    def place(self, whom: Hashable) -> Iterator[bool]:
        """Whether one more may wait; it does so for as long as this is held."""
        if self._now.total() >= self._most or self._now[whom] >= self._most_of_one:
            yield False
            return
        self._now[whom] += 1
        try:
            yield True
        finally:  # by whatever way the wait ends: eventlet kills threads of connections that it closes
            self._now[whom] -= 1
            self._now += Counter()  # keeps those alone that wait
