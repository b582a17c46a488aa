"""How often a token may be used, and how often an address may try tokens that nobody has.

Sliding windows in memory: a restart forgives everything.  Times are those of a clock that is never set.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import lru_cache

from .errors import TooMany

HOUR, MINUTE = 3600, 60
STEPS = 60  # a window moves on in this many steps, so that it costs the same however often it is used
MOST_KNOWN = 10_000  # tokens and addresses that are remembered; beyond, the one unused for the longest is forgotten


@dataclass
class Window:
    """Counts uses in the last `seconds`, of which `most` are allowed."""

    seconds: int
    most: int
    _steps: deque[list[int]] = field(default_factory=deque)  # [step, uses], the oldest first
    _count: int = 0

    def left(self, now: float) -> int:
        """How many more are allowed."""
        oldest = self._step(now) - STEPS
        while self._steps and self._steps[0][0] <= oldest:
            self._count -= self._steps.popleft()[1]
        return max(0, self.most - self._count)

    def use(self, now: float) -> None:
        step = self._step(now)
        if self._steps and self._steps[-1][0] >= step:
            self._steps[-1][1] += 1
        else:
            self._steps.append([step, 1])
        self._count += 1

    def reset(self, now: float) -> float:
        """When the oldest use is forgotten."""
        return (self._steps[0][0] + STEPS + 1) * self.seconds / STEPS if self._steps else now

    def _step(self, now: float) -> int:
        return int(now * STEPS / self.seconds)


class Windows:
    """Windows of one kind for many, by whom they are of."""

    def __init__(self, *kinds: tuple[int, int]) -> None:
        self._kinds = kinds
        self._known: OrderedDict[Hashable, tuple[Window, ...]] = OrderedDict()

    def of(self, whom: Hashable) -> tuple[Window, ...]:
        found = self._known.get(whom)
        if found is None:
            found = self._known[whom] = tuple(Window(seconds, most) for seconds, most in self._kinds)
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        self._known.move_to_end(whom)
        return found


class RateLimits:
    """Requests of one token: so many an hour, and so many a minute.  0 is no limit."""

    def __init__(self, an_hour: int, a_minute: int) -> None:
        self._windows = Windows((HOUR, an_hour or 1 << 60), (MINUTE, a_minute or 1 << 60))
        self._shown = an_hour or a_minute

    def use(self, token: Hashable, now: float) -> dict[str, str]:
        """Counts a request; the headers that say what is left.  Raises TooMany, which counts for nothing."""
        if not self._shown:
            return {}
        hour, minute = self._windows.of(token)
        shown = hour if hour.most < 1 << 60 else minute
        headers = {"ratelimit-limit": str(self._shown)}
        burst = not minute.left(now)
        if burst or not hour.left(now):
            headers |= _state(shown, now)
            if burst:  # as the public API has it: who waits for an hour should not sleep in a request
                headers["retry-after"] = str(max(1, math.ceil(minute.reset(now) - now)))
            raise TooMany("API rate limit exceeded.", headers)
        for window in (hour, minute):
            window.use(now)
        return headers | _state(shown, now)


class FailedAttempts:
    """Tokens that nobody has, tried from one address.

    A good token is always let in: whoever shares an address with an attacker must not be shut out, and no number of
    attempts finds one of 2^256 secrets.  What is limited is the work that attempts make, and the lines in the log.
    """

    def __init__(self, a_minute: int) -> None:
        self._windows = Windows((MINUTE, a_minute or 1 << 60))

    def add(self, address: str, now: float) -> int:
        """Counts an attempt, and says how many more there may be.  Raises TooMany."""
        (window,) = self._windows.of(_network(address))
        if not window.left(now):
            wait = max(1, math.ceil(window.reset(now) - now))
            raise TooMany("too many failed attempts from this address", {"retry-after": str(wait)})
        window.use(now)
        return window.left(now)


def _state(window: Window, now: float) -> dict[str, str]:
    return {
        "ratelimit-remaining": str(window.left(now)),
        "ratelimit-reset": str(math.ceil(time.time() + window.reset(now) - now)),
    }


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@lru_cache(MOST_KNOWN)
def plain_address(text: str) -> str:
    """An address as it is usually written, IPv4 as such on a socket of both versions; other text as it is."""
    if not is_address(text):
        return text  # a Unix socket
    parsed = ipaddress.ip_address(text)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def _network(text: str) -> str:
    """An IPv4 address, or the /64 that one host may have all of."""
    address = plain_address(text)
    return str(ipaddress.ip_network((address, 64), strict=False)) if ":" in address and is_address(address) else address
