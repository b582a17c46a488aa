"""Whether flows do what a policy means: walks packets through them and compares each verdict with `decide()`.

A packet that may pass is followed by the answer, by a second one, and for UDP by the ICMP error that would be the
answer of a closed port.  Each must reach the port that it is for and no other; one that may not pass must reach none.

Edge: the halves that other hypervisors do are theirs; a packet for a droplet there has passed here when it left by the
uplinks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from ..policy.decide import Decision, Packet, Verdict, decide
from ..policy.model import Protocol
from ..policy.policy import Policy
from . import reserved
from .flow import Flow
from .probes import Case, Wiring, frame_of
from .tracker import ACK, PSH, SYN, Frame, Unsupported
from .walker import Ambiguous, Bridge, Looped


@dataclass(frozen=True)
class Disagreement:
    """A packet with which the flows do something else than the policy means."""

    case: Case
    what: str  # the packet in words
    meant: str  # what the policy says of it, and why
    done: str  # what the flows do with it
    trace: tuple[str, ...]  # the flows that it met


@dataclass
class Findings:
    """What walking found out.  `puzzles`: what the walker does not know, and how often it met that."""

    cases: int = 0
    packets: int = 0
    admitted: int = 0  # cases that the policy lets pass
    disagreements: list[Disagreement] = field(default_factory=list)
    puzzles: dict[str, int] = field(default_factory=dict)

    @property
    def agreed(self) -> int:
        return self.cases - len(self.disagreements) - sum(self.puzzles.values())


@dataclass(frozen=True)
class _Step:
    """One packet of a case."""

    name: str
    packet: Packet
    frame: Frame
    ofport: int  # where it comes in


class Conformance:
    """A policy and a bridge that should do what it means."""

    def __init__(self, policy: Policy, wiring: Wiring, flows: Iterable[Flow], closed: bool = False) -> None:
        """Raises ValueError when two of the flows have one key: no switch holds such."""
        self.policy, self.wiring, self.closed = policy, wiring, closed
        self.bridge = Bridge()
        self.bridge.install(flows)
        self.findings = Findings()

    def check(self, case: Case) -> None:
        """Walks a case, from no connections at all, up to its first packet that goes wrong."""
        self.bridge.forget()
        self.findings.cases += 1
        opening = case.packet
        for step in self._steps(case, opening):
            decision = self._decide(case, step, opening)
            passes = decision.verdict is Verdict.ALLOW
            self.findings.admitted += passes and step.name == ""
            try:
                wrong = self._walk(case, step, decision)
            except Unsupported as puzzle:
                self.findings.puzzles[str(puzzle)] = self.findings.puzzles.get(str(puzzle), 0) + 1
                return
            if wrong is not None:
                self.findings.disagreements.append(wrong)
                return
            if not passes and step.name == "":
                return

    def _steps(self, case: Case, opening: Packet) -> Iterator[_Step]:
        source, target = case.source, case.target
        yield _Step("", opening, case.frame, source.ofport)
        reply = opening.reply()
        answer = frame_of(reply, target.mac, source.mac, SYN | ACK, answer=True)
        yield _Step("the answer to ", reply, answer, target.ofport)
        yield _Step(
            "a second packet like ", opening, frame_of(opening, source.mac, target.mac, ACK | PSH), source.ofport
        )
        if opening.protocol is Protocol.UDP:
            error = replace(reply, protocol=Protocol.ICMP, source_port=0, destination_port=0)
            kind, code = (3, 3) if opening.source.version == 4 else (1, 4)
            unreachable = replace(
                frame_of(error, target.mac, source.mac), icmp_type=kind, icmp_code=code, icmp_id=0, inner=case.frame
            )
            yield _Step("the ICMP error about ", error, unreachable, target.ofport)

    def _decide(self, case: Case, step: _Step, opening: Packet) -> Decision:
        if case.source.stranger:
            return Decision(Verdict.DROP, "what nobody registered reaches nobody")
        return decide(self.policy, step.packet, None if step.name == "" else opening, self.closed)

    def _walk(self, case: Case, step: _Step, decision: Decision) -> Disagreement | None:
        self.findings.packets += 1
        meant = self._meant(step.packet, decision)
        try:
            walk = self.bridge.walk(step.ofport, step.frame)
        except (Ambiguous, Looped) as problem:
            name = "two flows of one priority do different things with it"
            done = name if isinstance(problem, Ambiguous) else "it goes round until the switch drops it"
            trace: tuple[str, ...] = tuple(str(problem).splitlines())
        else:
            if sorted(walk.outputs) == sorted(meant):
                return None
            done, trace = f"it reaches {self._places(walk.outputs)}", walk.trace
        said = f"{decision.verdict.value}: {decision.reason}"
        if meant:
            said += f"; it should reach {self._places(meant)}"
        return Disagreement(case, step.name + packet_text(step.packet, self.policy, case), said, done, trace)

    def _meant(self, packet: Packet, decision: Decision) -> tuple[int, ...]:
        if decision.verdict is Verdict.DROP:
            return ()
        return (self.wiring.droplets[packet.receiver],) if packet.receiver is not None else self.wiring.uplinks

    def _places(self, ofports: Iterable[int]) -> str:
        names = {number: f"port {port} ({number})" for port, number in self.wiring.droplets.items()}
        names |= {number: f"uplink {number}" for number in self.wiring.uplinks}
        names |= {number: name for name, number in reserved.NAMES.items()}
        return " and ".join(names.get(number, f"switch port {number}") for number in ofports) or "nobody"


def packet_text(packet: Packet, policy: Policy, case: Case) -> str:
    """A packet in words."""
    protocol = packet.protocol.value if isinstance(packet.protocol, Protocol) else f"IP protocol {packet.protocol}"
    has_ports = packet.protocol in (Protocol.TCP, Protocol.UDP)

    def end(address: object, service: int, port_id: str | None) -> str:
        where = f"{address}" + (f" port {service}" if has_ports else "")
        if port_id is None:
            return f"{where} (outside)"
        return f"{where} (port {port_id} of droplet {policy.ports[port_id].droplet_id})"

    source = end(packet.source, packet.source_port, packet.sender)
    if case.source.stranger:
        source = source.replace("(outside)", f"(switch port {case.source.ofport}, which nobody registered)")
    if packet.source_mac is not None:
        source += f" with the MAC {packet.source_mac}"
    return f"{protocol} from {source} to {end(packet.destination, packet.destination_port, packet.receiver)}"
