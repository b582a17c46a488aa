"""Every error that can reach a person, by whose fault it is.

    FirewallError
      CallerError                    fix the request
        Invalid                      values that cannot be: every fault with its path
          Crowded                    a droplet behind too many firewalls
        NotFound                     no such object for this caller
        Conflict                     it contradicts something that exists
        Stale                        it is about a state of the object that has passed
      SwitchError                    the store holds it; the controller keeps trying, the switch stays closed
        Unreachable                  the switch does not answer
      StoreError                     nothing is in force that was not, and nothing kept but where it says so
        Standby                      nothing was changed: another controller is the one that writes

Which HTTP status each becomes is said in one place, `api/errors.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a request: where (`inbound_rules[2].ports`; empty for the whole) and what."""

    at: str
    problem: str

    def __str__(self) -> str:
        return f"{self.at}: {self.problem}" if self.at else self.problem


class FirewallError(Exception):
    """Base of all errors of this program that a caller may see."""


class CallerError(FirewallError):
    """The request is at fault."""


class Invalid(CallerError):
    """A request with values that cannot be; carries every fault found, not only the first.

    `more`: how many further ones were counted and not looked at.
    """

    def __init__(self, faults: Iterable[Fault], more: int = 0) -> None:
        self.faults = tuple(faults)
        self.more = more
        super().__init__("; ".join(map(str, self.faults)))

    @classmethod
    def one(cls, at: str, problem: str) -> Invalid:
        return cls((Fault(at, problem),))


class Crowded(Invalid):
    """A droplet would be behind more firewalls than it may be."""

    def __init__(self, droplet_id: int, problem: str) -> None:
        super().__init__((Fault("", problem),))
        self.droplet_id = droplet_id

    def at(self, place: str) -> Invalid:
        """The same, told by the part of the request that puts it there."""
        return Invalid.one(place, self.faults[0].problem)


class NotFound(CallerError):
    """There is no such object, or none that this caller may see."""


class Conflict(CallerError):
    """The request contradicts something that exists; the message names it."""


class Stale(CallerError):
    """The object is no longer as the caller knew it."""


class SwitchError(FirewallError):
    """A switch is at fault; what was asked is stored and will be tried again."""


class Unreachable(SwitchError):
    """A switch does not answer."""


class StoreError(FirewallError):
    """The store failed.  Nothing is in force that was not.

    `may_be_kept`: what was asked for, since the answer of a commit was lost, or since it will be tried again.
    """

    def __init__(self, words: str = "", may_be_kept: bool = False) -> None:
        super().__init__(words)
        self.may_be_kept = may_be_kept


class Standby(StoreError):
    """Another controller has the lease: this one writes neither to the store nor to switches.

    `active`: where that one's REST API is; empty when it is not known.
    """

    def __init__(self, active: str = "") -> None:
        super().__init__(f"this controller stands by; the active one is {f'at {active}' if active else 'another'}")
        self.active = active
