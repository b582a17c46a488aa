"""What a switch should hold (`Desired`), and the fewest changes that make it so (`difference`).

API model.  `Desired.update(units)` takes all units of a hypervisor, `change` those that are others than before; both
say which keys may now differ.  `difference(desired, actual, keys)` compares.  First connect, reconnect, restart,
repair and change are all this: there is no install and no uninstall.

Design.  (1) A unit that did not change is neither rendered nor compared.  (2) Two rules may want the same match (the
same rule in two firewalls): the flow of the lowest unit is in force, and when that one goes the next takes its place.
(3) Generic in what a flow is kept as, so that sessions can compare bytes and tests can compare `Flow`s.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from .unit import Unit, UnitKey

K = TypeVar("K", bound=Hashable)
B = TypeVar("B")


class Desired(Generic[K, B]):
    """The flows that a switch should hold, as the sum of units.  `render` turns a unit into (key, body) pairs."""

    def __init__(self, render: Callable[[Unit], Iterable[tuple[K, B]]]) -> None:
        self._render = render
        self._units: dict[UnitKey, Unit] = {}
        self._rendered: dict[UnitKey, Sequence[tuple[K, B]]] = {}
        self._wanted: dict[K, B] = {}  # in force
        self._owner: dict[K, UnitKey] = {}  # the unit that wants it; of several the one in force
        self._others: dict[K, dict[UnitKey, B]] = {}  # what further units want of the same key

    def update(self, units: Mapping[UnitKey, Unit]) -> set[K]:
        """Makes `units` the whole; returns the keys whose flow may have changed."""
        return self.change(units, [name for name in self._units if name not in units])

    def change(self, units: Mapping[UnitKey, Unit], gone: Iterable[UnitKey] = ()) -> set[K]:
        """Replaces or adds units, and takes away those of these names; returns the keys whose flow may have changed."""
        touched: set[K] = set()
        new = {}
        for name, unit in units.items():
            known = self._units.get(name)
            if known is not unit and known != unit:
                new[name] = unit
        for name in (*gone, *new):
            if self._units.pop(name, None) is not None:
                for key, _ in self._rendered.pop(name):
                    touched.add(key)
                    self._release(key, name)
        for name, unit in new.items():
            pairs = self._render(unit)
            pairs = pairs if isinstance(pairs, Sequence) else tuple(pairs)
            self._units[name], self._rendered[name] = unit, pairs
            for key, body in pairs:
                touched.add(key)
                if self._owner.setdefault(key, name) is name:
                    self._wanted[key] = body
                else:
                    self._contend(key, name, body)
        return touched

    def _contend(self, key: K, name: UnitKey, body: B) -> None:
        """One more unit wants a key."""
        first = self._owner[key]
        others = self._others.setdefault(key, {})
        if _precedence(name) < _precedence(first):
            others[first] = self._wanted[key]
            self._wanted[key], self._owner[key] = body, name
        else:
            others[name] = body

    def _release(self, key: K, name: UnitKey) -> None:
        """A unit wants a key no more: the next in turn has it, if there is one."""
        others = self._others.get(key)
        if others is None:
            del self._wanted[key], self._owner[key]
            return
        if name in others:
            del others[name]
        else:
            first = min(others, key=_precedence)
            self._owner[key], self._wanted[key] = first, others.pop(first)
        if not others:
            del self._others[key]

    def get(self, key: K) -> B | None:
        return self._wanted.get(key)

    def keys(self) -> Iterable[K]:
        return self._wanted.keys()

    def __len__(self) -> int:
        return len(self._wanted)

    @property
    def flows(self) -> Mapping[K, B]:
        """What is in force: the flow of each key."""
        return self._wanted

    def known(self, actual: Mapping[K, B]) -> dict[K, B]:
        """The same as `actual`, in the objects that are kept here already, as far as they are equal."""
        same = {key: want for key, want in self._wanted.items() if actual.get(key) == want}
        if len(same) != len(actual):
            same.update((key, body) for key, body in actual.items() if key not in same)
        return same

    def unit(self, name: UnitKey) -> Unit | None:
        return self._units.get(name)

    @property
    def units(self) -> Mapping[UnitKey, Unit]:
        return self._units


def _precedence(name: UnitKey) -> tuple[str, int, str]:
    """Names of rule units are numbers: the oldest rule is the one that counts."""
    kind, text = name
    return kind, int(text) if text.isdigit() else 0, text


@dataclass(frozen=True)
class Difference(Generic[K, B]):
    """What to delete, and what to add or overwrite.  Applied in one atomic bundle, deletes first."""

    delete: tuple[K, ...]
    put: tuple[tuple[K, B], ...]
    replaced: tuple[tuple[K, B, B], ...]  # those of `put` that overwrite another flow: key, old, new

    def __bool__(self) -> bool:
        return bool(self.delete or self.put)

    def without(self, keys: Container[K]) -> Difference[K, B]:
        """What of it is about other keys."""
        return Difference(
            tuple(key for key in self.delete if key not in keys),
            tuple(pair for pair in self.put if pair[0] not in keys),
            tuple(one for one in self.replaced if one[0] not in keys),
        )

    def __add__(self, other: Difference[K, B]) -> Difference[K, B]:
        """Both, when they are about different keys."""
        return Difference(self.delete + other.delete, self.put + other.put, self.replaced + other.replaced)

    def takes_away(self, judges: Callable[[K], bool], asks_no_less: Callable[[K, B, B], bool]) -> bool:
        """Whether something may be forbidden now that was allowed, so that live connections must be judged again.

        `judges`: whether the going of a flow may forbid something; `asks_no_less`: whether one that takes the place of
        another allows all that it did.
        """
        return any(map(judges, self.delete)) or any(
            judges(key) and not asks_no_less(key, old, new) for key, old, new in self.replaced
        )


def difference(desired: Desired[K, B], actual: Mapping[K, B], keys: Iterable[K] | None = None) -> Difference[K, B]:
    """The fewest changes that turn `actual` into `desired`; only `keys` are looked at, when given."""
    if keys is None and actual == desired.flows:  # as it mostly is when a switch is read back
        return Difference((), (), ())
    if keys is None:
        keys = [key for key in actual if key not in desired.flows]
        keys += [key for key, want in desired.flows.items() if actual.get(key) != want]
    delete, put, replaced = [], [], []
    for key in keys:
        want, have = desired.get(key), actual.get(key)
        if want == have:
            continue
        if want is None:
            delete.append(key)
            continue
        put.append((key, want))
        if have is not None:
            replaced.append((key, have, want))
    return Difference(tuple(delete), tuple(put), tuple(replaced))
