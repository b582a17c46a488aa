"""Hypervisors, the droplet ports on them, and the rules of a single port: what the operator tells us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..pipeline.compile import uplink_pattern
from ..policy.errors import Conflict, Invalid, NotFound, Unreachable
from ..policy.model import Hypervisor, Port, PortRules, Rule, network
from ..policy.policy import Draft, Policy
from ..progress import Status, SwitchReport
from .core import Core, Written
from .rules import added, keep_ids, note_unmatched, removed, rule_faults, too_many, with_paths


@dataclass(frozen=True)
class HypervisorView:
    """A hypervisor that is registered, or has connected, or both."""

    dpid: str
    hypervisor: Hypervisor | None
    report: SwitchReport


@dataclass(frozen=True)
class PortView:
    """A port, and how it stands on its switch; number and interface as the switch has them."""

    port: Port
    status: Status
    error: str | None
    number: int | None
    interface: str | None


def every(core: Core) -> list[HypervisorView]:
    known = set(core.policy.hypervisors) | set(core.progress.reports)
    return [_view(core, dpid) for dpid in sorted(known)]


def find(core: Core, dpid: str) -> HypervisorView:
    if dpid not in core.policy.hypervisors and dpid not in core.progress.reports:
        raise NotFound(f"there is no hypervisor {dpid}")
    return _view(core, dpid)


def _view(core: Core, dpid: str) -> HypervisorView:
    return HypervisorView(dpid, core.policy.hypervisors.get(dpid), core.progress.report(dpid))


def put(core: Core, dpid: str, name: str, uplinks: Sequence[str] | None) -> Written[tuple[Hypervisor, bool]]:
    """Registers a hypervisor or replaces what is known of it.  The value is (hypervisor, whether it is new).

    Raises Conflict when its uplinks would name a port of a droplet.
    """

    def edit(draft: Draft) -> tuple[Hypervisor, bool]:
        policy = draft.peek()
        old = policy.hypervisors.get(dpid)
        made = old.created_at if old else core.runtime.now()
        new = Hypervisor(dpid, name, tuple(uplinks) if uplinks is not None else None, made)
        if old is None or old.uplinks != new.uplinks:
            for port_id in sorted(policy.ports_on.get(dpid, ())):
                _no_uplink(new, policy.ports[port_id], core.progress.report(dpid).interfaces)
        draft.put(new)
        return new, old is None

    return core.write(edit)


def delete(core: Core, dpid: str) -> Written[Hypervisor]:
    """Raises NotFound; Conflict while ports are registered on it."""

    def edit(draft: Draft) -> Hypervisor:
        policy = draft.peek()
        hypervisor = policy.hypervisors.get(dpid)
        if hypervisor is None:
            raise NotFound(f"there is no hypervisor {dpid}")
        ports = sorted(policy.ports_on.get(dpid, ()))
        if ports:
            raise Conflict(f"hypervisor {dpid} has ports: {', '.join(ports)}")
        draft.drop(hypervisor)
        return hypervisor

    return core.write(edit)


# ---- ports


def ports(core: Core, hypervisor: str | None = None, droplet_id: int | None = None) -> list[Port]:
    """Ports, by id; how each stands is `port_view`'s to say, for as many as are shown."""
    found = [
        port
        for port in core.policy.ports.values()
        if (hypervisor is None or port.hypervisor == hypervisor)
        and (droplet_id is None or port.droplet_id == droplet_id)
    ]
    return sorted(found, key=lambda port: port.id)


def find_port(policy: Policy, port_id: str) -> Port:
    port = policy.ports.get(port_id)
    if port is None:
        raise NotFound(f"there is no port {port_id}")
    return port


def port_view(core: Core, port: Port) -> PortView:
    if port.id not in core.policy.ports:
        return PortView(port, Status.WAITING, None, port.number, port.interface)
    return PortView(port, *core.progress.port_status(core.policy, port.id))


def put_port(core: Core, wanted: Port) -> Written[tuple[Port, bool]]:
    """Registers a port or replaces what is known of it.  The value is (port, whether it is new).

    A port that goes to another droplet or hypervisor gets a new slot, and with it fresh connection state.
    Raises Invalid for names that do not exist; Conflict when another port of the hypervisor claims the same, or the
    hypervisor's own uplinks do.
    """

    def edit(draft: Draft) -> tuple[Port, bool]:
        policy = draft.peek()
        if wanted.droplet_id not in policy.droplets:
            raise Invalid.one("droplet_id", f"droplet {wanted.droplet_id} does not exist")
        if wanted.hypervisor not in policy.hypervisors:
            raise Invalid.one("hypervisor", f"hypervisor {wanted.hypervisor} is not registered")
        old = policy.ports.get(wanted.id)
        for other_id in sorted(policy.ports_on.get(wanted.hypervisor, ())):
            if other_id != wanted.id:
                _no_claim_twice(wanted, policy.ports[other_id])
        if old is None or (old.hypervisor, old.interface, old.number) != (
            wanted.hypervisor, wanted.interface, wanted.number
        ):  # fmt: skip
            interfaces = core.progress.report(wanted.hypervisor).interfaces
            _no_uplink(policy.hypervisors[wanted.hypervisor], wanted, interfaces)
        stays = old is not None and (old.droplet_id, old.hypervisor) == (wanted.droplet_id, wanted.hypervisor)
        slot = old.slot if old is not None and stays else draft.new_slot(wanted.hypervisor)
        port = replace(wanted, slot=slot, created_at=old.created_at if old else core.runtime.now())
        draft.put(port)
        own = policy.port_rules.get(port.id)
        account = policy.droplets[port.droplet_id].account
        if own is not None and own.account != account:
            raise Conflict(f"port {port.id} has rules of account {own.account}; take them away first")
        return port, old is None

    return core.write(edit)


def _no_uplink(hypervisor: Hypervisor, port: Port, interfaces: Mapping[int, str]) -> None:
    """Raises Conflict for a port that the hypervisor's own uplinks name; `interfaces`: what its switch has now.

    The defaults of the settings name nobody's interface in particular: where they match, the port is the droplet's.
    """
    if port.interface is None:
        number, name = port.number, interfaces.get(port.number or 0)
    else:
        number, name = next((n for n, found in interfaces.items() if found == port.interface), None), port.interface
    pattern = uplink_pattern(hypervisor.uplinks or (), number, name)
    if pattern is not None:
        what = f"interface {port.interface}" if port.interface is not None else f"number {port.number}"
        raise Conflict(
            f"{what} of port {port.id} is an uplink of hypervisor {hypervisor.dpid}, whose uplinks name {pattern!r}"
        )


def _no_claim_twice(wanted: Port, other: Port) -> None:
    for what, mine, theirs in (
        ("interface", wanted.interface, other.interface),
        ("number", wanted.number, other.number),
        ("MAC", wanted.mac, other.mac),
    ):
        if mine is not None and mine == theirs:
            raise Conflict(f"{what} {mine} belongs to port {other.id}")
    for text in wanted.addresses:
        for theirs_text in other.addresses:
            if network(text).overlaps(network(theirs_text)):
                raise Conflict(f"address {text} belongs to port {other.id}")


def delete_port(core: Core, port_id: str) -> Written[Port]:
    """Removes a port and its own rules."""

    def edit(draft: Draft) -> Port:
        policy = draft.peek()
        port = find_port(policy, port_id)
        if port_id in policy.port_rules:
            draft.drop(policy.port_rules[port_id])
        draft.drop(port)
        return port

    return core.write(edit)


# ---- rules of one port


def rules_of_port(policy: Policy, port_id: str) -> PortRules:
    """The port's own rules, as a set that may be empty; raises NotFound for the port alone."""
    port = find_port(policy, port_id)
    return policy.port_rules.get(port_id) or PortRules(port_id, policy.droplets[port.droplet_id].account)


def counters(core: Core, dpid: str, timeout: float) -> Mapping[int, tuple[int, int]] | None:
    """Packets and bytes that a hypervisor's flows of rules have counted, by rule id; None when it does not say."""
    try:
        return core.switch(dpid).read_counters(timeout)
    except (NotFound, Unreachable):
        return None


def replace_rules(core: Core, port_id: str, inbound: Sequence[Rule], outbound: Sequence[Rule]) -> Written[PortRules]:
    def edit(draft: Draft) -> PortRules:
        old = rules_of_port(draft.peek(), port_id)
        new = replace(
            old,
            inbound_rules=keep_ids(draft, old.inbound_rules, inbound),
            outbound_rules=keep_ids(draft, old.outbound_rules, outbound),
        )
        return _checked(core, draft, new, inbound, outbound)

    return core.write(edit)


def add_rules(core: Core, port_id: str, inbound: Sequence[Rule], outbound: Sequence[Rule]) -> Written[PortRules]:
    def edit(draft: Draft) -> PortRules:
        old = rules_of_port(draft.peek(), port_id)
        new = replace(
            old,
            inbound_rules=added(draft, old.inbound_rules, inbound),
            outbound_rules=added(draft, old.outbound_rules, outbound),
        )
        return _checked(core, draft, new, inbound, outbound)

    return core.write(edit)


def remove_rules(core: Core, port_id: str, inbound: Sequence[Rule], outbound: Sequence[Rule]) -> Written[int]:
    """The value is how many of the rules given matched nothing.  The set stays, even when it is empty."""

    def edit(draft: Draft) -> int:
        policy = draft.peek()
        old = rules_of_port(policy, port_id)
        left_in, missed_in = removed(old.inbound_rules, inbound)
        left_out, missed_out = removed(old.outbound_rules, outbound)
        if port_id in policy.port_rules:
            draft.put(replace(old, inbound_rules=left_in, outbound_rules=left_out))
        return note_unmatched(core, missed_in + missed_out)

    return core.write(edit)


def clear_rules(core: Core, port_id: str) -> Written[None]:
    """Takes the whole set away: the port is behind the firewalls of its droplet alone, or behind none."""

    def edit(draft: Draft) -> None:
        policy = draft.peek()
        find_port(policy, port_id)
        if port_id in policy.port_rules:
            draft.drop(policy.port_rules[port_id])

    return core.write(edit)


def _checked(
    core: Core, draft: Draft, rules: PortRules, inbound: Sequence[Rule], outbound: Sequence[Rule]
) -> PortRules:
    faults = rule_faults(draft.peek(), rules.account, with_paths(inbound, outbound), core.limits)
    faults += too_many("", "rules", rules.rules, core.limits.rules)
    if faults:
        raise Invalid(faults)
    draft.put(rules)
    return rules
