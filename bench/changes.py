"""One change of a loaded policy, by everybody: the rows add-rule, remove-rule and add-member.

Adding and removing take turns, so that the policy keeps its size; so one measurement gives all three rows, and is made
once for all rows of a run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lab.network import Lab

from . import judges
from .contestants.everybody import Absent, Peer, limits, peers
from .contestants.neutron import Neutron
from .contestants.openflow import Wire
from .contestants.ours import FlowMods, Ours
from .contestants.rest_firewall import RestFirewall
from .policies import LARGE, SMALL, Size
from .row import US, Plot, Row, Run, Series

ADD, REMOVE, JOIN, LEAVE = "add one rule", "remove one rule", "add one member", "remove one member"
SMALLER = ", 10 x 10"
SIZES = {LARGE: "", SMALL: SMALLER}
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


def of_one_rule(name: str, title: str, about: str, kind: str) -> Row:
    return Row(
        name=name,
        title=title,
        about=about,
        measure=measure(kind),
        targets=(
            judges.at_most("median 4 ms", kind, 4),
            judges.at_most("p99 20 ms", kind, 20, share=0.99),
            judges.times("at most 1.5 times of 10 x 10", kind, 1.5, of=kind + SMALLER),
        ),
        plots=(plot(name, title, kind),),
        headline=(kind,),
    )


@dataclass
class Team:
    """Everybody at one size, loaded."""

    suffix: str  # of what is measured
    ours: Ours
    wire: Wire
    others: list[Peer]
    absent: Absent


def _team(lab: Lab, size: Size, suffix: str, run: Run) -> Team:
    tag = "-10" if suffix else ""
    run.progress(f"{size}: this controller", 0.0)
    ours = Ours(lab, size, tag)
    ours.load()
    _, wire = limits(lab, ours.dump(), tag)
    wire.load()
    others, absent = peers(lab, size, run, tag)
    for one in others:
        run.progress(f"{size}: {one.name} is loaded")
        one.load()
    return Team(suffix, ours, wire, others, absent)


def _all(run: Run) -> Iterator[Series]:
    """Both sizes in the same turns, since one is told as a ratio to the other."""
    found: Samples = defaultdict(list)
    count = 4 if run.quick else OURS
    with Lab(datapath="netdev") as lab:
        teams = [_team(lab, *size, run) for size in (TRIAL if run.quick else SIZES).items()]
        for number in range(run.runs):
            run.progress(f"run {number + 1}", 0.3 + 0.7 * number / run.runs)
            for sample in range(number * count, (number + 1) * count):
                for team in teams:
                    _ours(found, team, sample)
            for team in teams:
                for one in team.others:
                    _others(found, team, one, number, 1 if run.quick else THEIRS)
        for team in teams:
            sent = _flow_mods(lab, team.ours)
            for what, counts in sent.items():
                yield Series(US, SENT + what + team.suffix, "messages", tuple(counts),
                             note="to the hypervisor of the ports")  # fmt: skip
    for (who, what), values in found.items():
        note = "one value: it sets up each port anew" if (len(values), what) == (1, JOIN) else ""
        yield Series(who, what, "ms", tuple(values), note=note)
    for team in teams:
        for what in (ADD, REMOVE, JOIN):
            yield from team.absent.series(what + team.suffix, "ms")


def _ours(found: Samples, team: Team, number: int) -> None:
    for one in (team.ours, team.wire):
        found[one.name, ADD + team.suffix].append(one.add_rule(number))
        found[one.name, REMOVE + team.suffix].append(one.remove_rule(number))
    found[team.ours.name, JOIN + team.suffix].append(team.ours.add_member())
    found[team.ours.name, LEAVE + team.suffix].append(team.ours.remove_member())


def _others(found: Samples, team: Team, one: Peer, run: int, count: int) -> None:
    for number in range(run * count, (run + 1) * count):
        found[one.name, ADD + team.suffix].append(one.add_rule(number))
        found[one.name, REMOVE + team.suffix].append(one.remove_rule(number))
        if isinstance(one, RestFirewall):
            continue  # it has no sets
        if isinstance(one, Neutron) and number % count:
            continue  # it sets up each port anew
        if isinstance(one, Neutron) and one.size.ports > SMALL.ports:
            if not number:  # half a minute
                found[one.name, JOIN + team.suffix].append(one.add_member())
            continue
        found[one.name, JOIN + team.suffix].append(one.add_member())
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
