"""A whole policy into an empty switch, by everybody."""

from __future__ import annotations

from collections.abc import Iterator

from lab.network import Lab

from .. import judges
from ..contestants import Contestant
from ..contestants.everybody import limits, peers
from ..contestants.ours import Ours
from ..policies import LARGE, SMALL, Size
from ..row import Plot, Row, Run, Series

SIZES = {LARGE: "full load", SMALL: "full load, 10 x 10"}
TRIAL = {Size(3, 4, 5): "full load"}


def measure(run: Run) -> Iterator[Series]:
    sizes = TRIAL if run.quick else SIZES
    for place, (size, what) in enumerate(sizes.items()):
        yield from _of_size(run, size, what, place / len(sizes), 1 / len(sizes))


def _of_size(run: Run, size: Size, what: str, done: float, share: float) -> Iterator[Series]:
    with Lab(datapath="netdev") as lab:
        run.progress(f"{size}: this controller", done)
        ours = Ours(lab, size)
        ours.load()
        flows = ours.dump()
        ours.unload()
        cast: list[Contestant] = [ours, *limits(lab, flows)]
        there, absent = peers(lab, size, run, with_shared=not run.quick)
        cast += there
        values: dict[str, list[float]] = {one.name: [] for one in cast}
        counts: dict[str, int] = {}
        for number in range(run.runs):
            for place, one in enumerate(cast):
                step = (number + place / len(cast)) / run.runs
                run.progress(f"{size}: {one.name}, run {number + 1}", done + share * step)
                values[one.name].append(one.load())
                counts[one.name] = one.flows()
                one.unload()
    for name, found in values.items():
        yield Series(name, what, "s", tuple(found), note=f"{counts[name]:,} flows")
    yield from absent.series(what, "s")


ROW = Row(
    name="full-load",
    title="Full load: 200 ports x 50 rules and a set of 20 addresses that all use",
    about=(
        "A policy of 200 droplets on one hypervisor, each behind a firewall of its own: 49 rules of a TCP port "
        "from a /24, and one of a TCP port from a tag that 20 droplets elsewhere carry. It is in the store, the "
        "controller runs, the switch is empty; measured is from telling the switch its controller (the start of "
        "`ovs-vsctl` included) until REST says `in_sync`. *ovs-ofctl* gives a switch the very same flows, from a "
        "text file; *OpenFlow from memory* sends them as bytes that are ready, in one bundle: what the switch "
        "takes. OVN: one transaction to the northbound database, until `hv_cfg` says that the hypervisor has it; "
        "*one group* is its other layout, in which all ports share one set of 50 rules. Neutron's driver: until "
        "it has flushed, without the agent, RPC and database around it. rest_firewall: 10,000 POSTs over 8 "
        "connections, until the switch has as many flows; it has no sets, no conntrack and no store. Flows differ "
        "in number since pipelines differ; all of them are for the same ports and rules."
    ),
    measure=measure,
    targets=(
        judges.times("within 1.5 times of `ovs-ofctl --bundle add-flows`", "full load", 1.5, than="ovs-ofctl"),
        judges.at_most("under 0.5 s", "full load", 0.5),
    ),
    plots=(Plot("full-load", "200 ports x 50 rules into an empty switch", "", "seconds", ("full load",), log_y=True),),
    headline=("full load",),
)
