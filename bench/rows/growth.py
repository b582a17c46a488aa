"""How costs grow with the policy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from lab.network import Lab
from lab.system import LabError

from ..contestants.ours import Ours
from ..contestants.ovn import Ovn
from ..policies import Size
from ..row import Plot, Row, Run, Series

PORTS = tuple(Size(ports, 20) for ports in (10, 50, 100, 200, 500))
RULES = tuple(Size(50, rules) for rules in (10, 50, 100, 200))
WITH_OVN = (10, 50, 100, 200)  # ports; more would take minutes
CHANGES = 4  # of ours in each run
CHANGE, LOAD, FLOWS = "change of one rule", "connect to in sync", "flows"


def measure(run: Run) -> Iterator[Series]:
    axes = {"ports": PORTS, "rules": RULES} if not run.quick else {"ports": (Size(2, 3, 3),)}
    total, done = sum(map(len, axes.values())), 0
    for axis, sizes in axes.items():
        for size in sizes:
            run.progress(f"over {axis}: {size}", done / total)
            x = float(size.ports if axis == "ports" else size.rules)
            with_ovn = axis == "ports" and size.ports in WITH_OVN
            for (who, what, unit), values in _at(run, size, with_ovn).items():
                yield Series(who, f"{what}, over {axis}", unit, tuple(values), x=x)
            done += 1


def _at(run: Run, size: Size, with_ovn: bool) -> dict[tuple[str, str, str], list[float]]:
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    with Lab(datapath="netdev") as lab:
        cast: list[Ours | Ovn] = [Ours(lab, size)]
        if with_ovn:
            try:
                cast.append(Ovn(lab, size))
            except LabError:
                pass  # told by the other rows
        for number in range(run.runs):
            for one in cast:
                found[one.name, LOAD, "s"].append(one.load())
                for change in range(CHANGES if isinstance(one, Ours) else 1):
                    found[one.name, CHANGE, "ms"].append(one.add_rule(number * CHANGES + change))
                    found[one.name, CHANGE, "ms"].append(one.remove_rule(number * CHANGES + change))
                if not number:
                    found[one.name, FLOWS, "flows"].append(one.flows())
                if number < run.runs - 1:
                    one.unload()
    return found


def _plot(name: str, title: str, axis: str, y: str, what: str) -> Plot:
    return Plot(f"growth-{name}-{axis}", title, axis, y, (f"{what}, over {axis}",), log_x=True, log_y=True)


ROW = Row(
    name="growth",
    title="How costs grow with the policy",
    about=(
        "The policy of full-load at other sizes: 10 to 500 ports of 20 rules each, and 50 ports of 10 to 200 "
        "rules each. At each size the time from connecting an empty switch until it is in sync, the time of "
        "adding a rule to one port and of removing it (`Prefer: wait`: durable and committed), and the number of "
        "flows. OVN at 10 to 200 ports, in the same turns."
    ),
    measure=measure,
    plots=(
        _plot("change", "A rule added or removed, at 20 rules a port", "ports", "milliseconds", CHANGE),
        _plot("change", "A rule added or removed, at 50 ports", "rules", "milliseconds", CHANGE),
        _plot("load", "Connect to in sync, at 20 rules a port", "ports", "seconds", LOAD),
        _plot("load", "Connect to in sync, at 50 ports", "rules", "seconds", LOAD),
        _plot("flows", "Flows, at 20 rules a port", "ports", "flows", FLOWS),
        _plot("flows", "Flows, at 50 ports", "rules", "flows", FLOWS),
    ),
)
