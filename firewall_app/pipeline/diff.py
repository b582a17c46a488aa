"""What a switch should hold (`Desired`), and the fewest changes that make it so (`difference`).

API model.  `Desired.update(units)` takes the units of a hypervisor and says which keys may now differ;
`difference(desired, actual, keys)` compares.  First connect, reconnect, restart, repair and change are all this:
there is no install and no uninstall.

Design.  (1) A unit that did not change is neither rendered nor compared.  (2) Two rules may want the same match (the
same rule in two firewalls): the flow of the lowest unit is in force, and when that one goes the next takes its place.
(3) Generic in what a flow is kept as, so that sessions can compare bytes and tests can compare `Flow`s.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
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
        self._rendered: dict[UnitKey, tuple[tuple[K, B], ...]] = {}
        self._wanted: dict[K, dict[UnitKey, B]] = {}

    def update(self, units: Mapping[UnitKey, Unit]) -> set[K]:
        """Makes `units` the whole; returns the keys whose flow may have changed."""
        gone = [name for name in self._units if name not in units]
        new = [name for name, unit in units.items() if self._units.get(name) != unit]
        return self._replace(gone, {name: units[name] for name in new})

    def put(self, name: UnitKey, unit: Unit) -> set[K]:
        """Replaces or adds one unit; returns the keys whose flow may have changed."""
        return self._replace((), {name: unit}) if self._units.get(name) != unit else set()

    def _replace(self, gone: Iterable[UnitKey], new: Mapping[UnitKey, Unit]) -> set[K]:
        touched: set[K] = set()
        for name in (*gone, *new):
            self._units.pop(name, None)
            for key, _ in self._rendered.pop(name, ()):
                touched.add(key)
                owners = self._wanted[key]
                del owners[name]
                if not owners:
                    del self._wanted[key]
        for name, unit in new.items():
            pairs = tuple(self._render(unit))
            self._units[name], self._rendered[name] = unit, pairs
            for key, body in pairs:
                touched.add(key)
                self._wanted.setdefault(key, {})[name] = body
        return touched

    def get(self, key: K) -> B | None:
        owners = self._wanted.get(key)
        if owners is None:
            return None
        return next(iter(owners.values())) if len(owners) == 1 else owners[min(owners, key=_precedence)]

    def keys(self) -> Iterable[K]:
        return self._wanted.keys()

    def __len__(self) -> int:
        return len(self._wanted)

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
    delete, put, replaced = [], [], []
    for key in set(actual).union(desired.keys()) if keys is None else keys:
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
