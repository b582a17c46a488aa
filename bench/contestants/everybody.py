"""Brings peers and limits onto a lab.  A peer that is not to be had is told of, with the reason, and not measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from lab.network import Lab
from lab.system import LabError

from ..policies import Size
from ..row import Run, Series
from .neutron import Neutron
from .openflow import Ofctl, Wire
from .ovn import Ovn
from .rest_firewall import RestFirewall

Peer = Ovn | Neutron | RestFirewall


@dataclass
class Absent:
    """Who could not be measured, and why."""

    reasons: dict[str, str] = field(default_factory=dict)

    def series(self, what: str, unit: str) -> Iterator[Series]:
        for name, reason in self.reasons.items():
            yield Series(name, what, unit, (), note=f"not measured: {reason}")


def limits(lab: Lab, flows: Sequence[str], tag: str = "") -> tuple[Ofctl, Wire]:
    """Both with a switch between them, which has no other controller."""
    host = lab.add_hypervisor(f"limit{tag}", f"{len(lab.hypervisors) + 1:016x}")
    return Ofctl(host.ovs, host.bridge, flows), Wire(lab, host.ovs, host.bridge, flows)


def peers(lab: Lab, size: Size, run: Run, tag: str = "", with_shared: bool = False) -> tuple[list[Peer], Absent]:
    makers: dict[str, Callable[[], Peer]] = {"OVN": lambda: Ovn(lab, size, tag)}
    if with_shared:
        makers["OVN, one group"] = lambda: Ovn(lab, size, tag, shared=True)
    if not run.quick:  # it is installed for this, which takes longer than a trial
        makers["Neutron, native driver"] = lambda: Neutron(lab, size, tag)
    makers["Ryu rest_firewall"] = lambda: RestFirewall(lab, size, tag)
    found: list[Peer] = []
    absent = Absent()
    for name, make in makers.items():
        run.progress(f"{size}: {name} comes up")
        try:
            found.append(make())
        except LabError as problem:
            absent.reasons[name] = str(problem).splitlines()[0][:300]
    return found, absent
