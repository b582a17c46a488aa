"""`Reference`: what should become of a packet, by `decide()` and by what each end remembers of connections.

`decide()` judges a packet by the packet that opened its connection.  Who opened it is remembered at each end apart:
a droplet's firewall knows only what passed *it*.  Where both ends remember the same opening, as they nearly always
do, the whole verdict is that of one call of `decide()`, and `Reference` asks exactly that.

Where a real connection tracker must differ from `decide()`, it is said here, once, by name (`Untracked`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from strategies import Sent

from firewall_app.pipeline.flow import IP_ICMP, IP_TCP
from firewall_app.pipeline.tracker import ACK, SYN, Frame, Tuple, tuple_of
from firewall_app.policy.decide import Packet, Verdict, decide
from firewall_app.policy.model import Port, Protocol
from firewall_app.policy.policy import Policy

Zone = tuple[str, int]  # hypervisor and slot: a port that moves forgets


@dataclass(frozen=True)
class Expected:
    """Whether a packet leaves its sender's port, and whether it reaches its receiver."""

    leaves: bool
    arrives: bool
    why: str


class Reference:
    """The verdicts of a policy on a sequence of packets."""

    def __init__(self, closed: bool) -> None:
        self.closed = closed
        self._memory: dict[Zone, dict[Tuple, Packet]] = {}

    def forget(self, zones: set[Zone]) -> None:
        for zone in zones:
            self._memory.pop(zone, None)

    def expect(self, policy: Policy, sent: Sent) -> Expected:
        """The verdict on a packet; ends that admit it remember it."""
        packet = sent.packet
        openings: list[Packet] = []
        whys = []
        leaves = True
        for end in (packet.sender, packet.receiver):
            if end is None:
                continue
            opening, why = self._opening(policy, policy.ports[end], sent)
            openings += [opening] if opening is not None else []
            one_end = replace(packet, **{"receiver" if end == packet.sender else "sender": None})
            decision = decide(policy, one_end, opening, self.closed)
            whys.append(f"{end}: {decision.verdict.value} as {opening}, {why or decision.reason}")
            if why or decision.verdict is Verdict.DROP:
                if not why and len(openings) == len([e for e in (packet.sender, packet.receiver) if e]):
                    self._agree(policy, sent, openings, Verdict.DROP)
                return Expected(leaves and end != packet.sender, False, "\n".join(whys))
            self._remember(policy, policy.ports[end], sent, opening)
        self._agree(policy, sent, openings, Verdict.ALLOW)
        return Expected(packet.sender is not None, True, "\n".join(whys))

    def _agree(self, policy: Policy, sent: Sent, openings: list[Packet], verdict: Verdict) -> None:
        """One call of `decide()` says the same, when the ends remember the same."""
        if len(set(openings)) == 1:
            whole = decide(policy, sent.packet, openings[0], self.closed)
            assert whole.verdict is verdict, (whole, sent)

    def _opening(self, policy: Policy, port: Port, sent: Sent) -> tuple[Packet | None, str]:
        """The packet by which an end judges this one, and why the end drops it whatever the rules say."""
        known = self._memory.get((port.hypervisor, port.slot), {})
        frame = sent.frame
        about = tuple_of(frame.inner) if frame.inner is not None else tuple_of(frame)
        assert about is not None
        opening = known.get(about) or known.get(about.reverse)
        if frame.proto == IP_TCP and frame.flags & (SYN | ACK) == SYN and opening is not None:
            # A SYN says that its sender opens: by both sides at once, it is judged for each by its own rules.
            return sent.packet, ""
        if opening is not None:
            return opening, ""
        return sent.packet, Untracked.refused(port, sent) if protected(policy, port, self.closed) else ""

    def _remember(self, policy: Policy, port: Port, sent: Sent, opening: Packet | None) -> None:
        if sent.frame.inner is not None:
            return
        own = tuple_of(sent.frame)
        assert own is not None
        memory = self._memory.setdefault((port.hypervisor, port.slot), {})
        if own not in memory and own.reverse not in memory and not Untracked.refused(port, sent):
            memory[own] = opening or sent.packet


class Untracked:
    """Packets that belong to a connection of which an end has no memory: where trackers differ from `decide()`.

    It comes to this when the port moved to another hypervisor, and when the opening packet was refused at this end.
    `decide()` would judge each as an opening; a tracker does not let each of them open something.  An open droplet's
    packets pass all the same, and open nothing that a firewall that comes later would know of:
    """

    @staticmethod
    def refused(port: Port, sent: Sent) -> str:
        """Why such a packet is dropped; empty when it is judged as an opening, as `decide()` does."""
        frame: Frame = sent.frame
        if frame.inner is not None:
            return "an ICMP error about nothing known"
        if sent.packet.protocol is Protocol.ICMP and frame.icmp_type in ((0,) if frame.proto == IP_ICMP else (129,)):
            return "an echo reply opens nothing"
        if frame.proto == IP_TCP and frame.flags & (SYN | ACK) == SYN | ACK:
            return "a SYN+ACK opens nothing"
        if frame.proto == IP_TCP and not frame.flags & SYN and port.id == sent.packet.sender:
            # Else a droplet could turn a revoked inbound connection into an outbound one, once the tracker forgot it.
            return "a droplet may not pick up TCP in the middle"
        return ""


def protected(policy: Policy, port: Port, closed: bool) -> bool:
    return closed or bool(policy.rule_sets_of(port))
