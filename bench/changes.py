"""One change of a loaded policy, by everybody: the rows add-rule, remove-rule and add-member.

Adding and removing take turns, so that the policy keeps its size; so one measurement gives all three rows, and is made
once for all rows of a run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from lab.network import Lab

from .contestants.everybody import Peer, limits, peers
from .contestants.neutron import Neutron
from .contestants.openflow import Wire
from .contestants.ours import FlowMods, Ours
from .contestants.rest_firewall import RestFirewall
from .policies import LARGE, SMALL, Size
from .row import US, Plot, Run, Series

ADD, REMOVE, JOIN, LEAVE = "add one rule", "remove one rule", "add one member", "remove one member"
SMALLER = ", 10 x 10"
TRIAL = {Size(3, 4, 5): ""}
OURS, THEIRS = 20, 3  # samples of a run
SENT = "flow-mods: "
COUNTED = 3  # changes whose flow-mods are counted

Samples = dict[tuple[str, str], list[float]]

_known: dict[tuple[int, bool], list[Series]] = {}


def measure(kind: str, sent: Sequence[str] = ()) -> Callable[[Run], Iterator[Series]]:
    """A row's `measure`, of this kind of change, and how many flow-mods those of `sent` take."""

    def measured(run: Run) -> Iterator[Series]:
        asked = run.runs, run.quick
        if asked not in _known:
            _known[asked] = list(_all(run))
        wanted = {kind, kind + SMALLER, *(SENT + one for one in sent or (kind,))}
        yield from (one for one in _known[asked] if one.what in wanted)

    return measured


def plot(name: str, title: str, kind: str) -> Plot:
    return Plot(name, title, "", "milliseconds", (kind, kind + SMALLER), log_y=True)


def _all(run: Run) -> Iterator[Series]:
    sizes = TRIAL if run.quick else {LARGE: "", SMALL: SMALLER}
    for place, (size, suffix) in enumerate(sizes.items()):
        yield from _of_size(run, size, suffix, place / len(sizes), 1 / len(sizes))


def _of_size(run: Run, size: Size, suffix: str, done: float, share: float) -> Iterator[Series]:
    found: Samples = defaultdict(list)
    with Lab(datapath="netdev") as lab:
        run.progress(f"{size}: this controller", done)
        ours = Ours(lab, size)
        ours.load()
        _, wire = limits(lab, ours.dump())
        wire.load()
        others, absent = peers(lab, size, run)
        for one in others:
            run.progress(f"{size}: {one.name} is loaded", done)
            one.load()
        for number in range(run.runs):
            run.progress(f"{size}: run {number + 1}", done + share * (0.3 + 0.7 * number / run.runs))
            _ours(found, ours, number * OURS, 4 if run.quick else OURS)
            _limit(found, wire, number * OURS, OURS)
            for one in others:
                _others(found, one, number, 1 if run.quick else THEIRS)
        sent = _flow_mods(lab, ours)
    for (who, what), values in found.items():
        note = "one value: it sets up each port anew" if (len(values), what) == (1, JOIN) else ""
        yield Series(who, what + suffix, "ms", tuple(values), note=note)
    for what, counts in sent.items():
        yield Series(US, SENT + what + suffix, "messages", tuple(counts), note="to the hypervisor of the ports")
    for what in (ADD, REMOVE, JOIN):
        yield from absent.series(what + suffix, "ms")


def _ours(found: Samples, ours: Ours, first: int, count: int) -> None:
    for number in range(first, first + count):
        found[ours.name, ADD].append(ours.add_rule(number))
        found[ours.name, REMOVE].append(ours.remove_rule(number))
        found[ours.name, JOIN].append(ours.add_member())
        found[ours.name, LEAVE].append(ours.remove_member())


def _limit(found: Samples, wire: Wire, first: int, count: int) -> None:
    for number in range(first, first + count):
        found[wire.name, ADD].append(wire.add_rule(number))
        found[wire.name, REMOVE].append(wire.remove_rule(number))


def _others(found: Samples, one: Peer, run: int, count: int) -> None:
    for number in range(run * count, (run + 1) * count):
        found[one.name, ADD].append(one.add_rule(number))
        found[one.name, REMOVE].append(one.remove_rule(number))
        if isinstance(one, RestFirewall):
            continue  # it has no sets
        if isinstance(one, Neutron) and one.size.ports > SMALL.ports:
            if not number:  # half a minute each
                found[one.name, JOIN].append(one.add_member())
            continue
        found[one.name, JOIN].append(one.add_member())
        one.remove_member()


def _flow_mods(lab: Lab, ours: Ours) -> dict[str, list[float]]:
    """What a change sends to the hypervisor of the ports, read from the wire."""
    found: dict[str, list[float]] = defaultdict(list)
    counter = lab.keep(FlowMods(lab, ours.controller.openflow_port))
    doings: dict[str, Callable[[int], float]] = {
        ADD: ours.add_rule,
        REMOVE: ours.remove_rule,
        JOIN: lambda _: ours.add_member(),
        LEAVE: lambda _: ours.remove_member(),
    }
    for number in range(COUNTED):
        for what, change in doings.items():
            before = counter.sent(ours.here.address)
            change(number)
            found[what].append(counter.sent(ours.here.address) - before)
    return found
