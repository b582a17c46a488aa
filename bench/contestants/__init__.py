"""Who is measured: this controller, its peers, and what a switch takes at most.  All do the same work (policies.py).

Each has an Open vSwitch of its own with ports that exist, and each call returns when that switch has what was asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from lab.ovs import PrivateOvs
from lab.system import run

from ..policies import Size


class Contestant(Protocol):
    @property
    def name(self) -> str:
        """With its version."""

    def load(self) -> float:
        """Everything, from an empty switch: seconds."""

    def unload(self) -> None: ...

    def flows(self) -> int: ...


class Changing(Contestant, Protocol):
    """One that changes what is loaded, a thing at a time.  Each returns milliseconds."""

    def add_rule(self, number: int) -> float:
        """A new one, on a port that depends on the number."""

    def remove_rule(self, number: int) -> float:
        """The one of that number."""


class Grouping(Changing, Protocol):
    """One that knows sets of addresses."""

    def add_member(self) -> float:
        """The spare member joins the set that all ports use."""

    def remove_member(self) -> float: ...


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def port_of(number: int, size: Size) -> int:
    """The port that the change of a number is on: changes go round."""
    return number * 7 % size.ports


def new_source(number: int) -> str:
    return f"172.31.{number % 256}.0/24"


NEW_SERVICE = 9  # the TCP port of rules that are added
AT_ONCE = 50  # ports that one ovs-vsctl makes


def add_interfaces(
    ovs: PrivateOvs, bridge: str, names: Iterable[str], more: Callable[[int], Iterable[str]] = lambda _: ()
) -> None:
    """Internal ports, which need no device; `more`: settings of the interface with that place."""
    listed = list(enumerate(names))
    for begin in range(0, len(listed), AT_ONCE):
        words: list[str] = []
        for place, name in listed[begin : begin + AT_ONCE]:
            words += ["--", "add-port", bridge, name, "--", "set", "Interface", name, "type=internal", *more(place)]
        run("ovs-vsctl", f"--db={ovs.database}", "--timeout=120", *words[1:], timeout=150)


def flow_count(ovs: PrivateOvs, bridge: str) -> int:
    return int(ovs.ofctl("dump-aggregate", bridge).split("flow_count=")[1].split()[0])
