"""Values to JSON.

What a virtual machine is besides its network (memory, image, region) is not known here; the keys that clients read
without asking whether they are there hold zeros and empty strings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import netaddr

from ..history import Point
from ..pipeline.compile import peer_networks, rule_units, shared_peers
from ..pipeline.flow import Flow, texts
from ..pipeline.tables import Kind, cookie_parts
from ..pipeline.unit import Flood, PortGuards, RuleFlows, SetMembers, SystemRule
from ..policy.model import Direction, Droplet, Firewall, Port, PortRules, Rule, Tag, network
from ..policy.policy import Policy
from ..progress import Drift, SwitchReport
from ..service import describe
from ..service.core import FlowStats
from ..service.describe import Json, moment, rules
from ..service.fences import Fence
from ..service.firewalls import FirewallView
from ..service.hypervisors import HypervisorView, PortView


def firewall(view: FirewallView) -> bytes:
    """As text: what was written is kept so, only how far it has come is made anew."""
    named, rest = describe.firewall_text(view.firewall)
    pending = [
        {"droplet_id": change.droplet_id, "removing": change.removing, "status": change.status.value}
        for change in view.pending
    ]
    changes = json.dumps(pending).encode() if pending else b"[]"
    return b'{%b, "status": "%b", %b, "pending_changes": %b}' % (named, view.status.value.encode(), rest, changes)


# ---- droplets and tags


def compatible_droplet(policy: Policy, value: Droplet) -> Json:
    """As /v2 has it: every key that the public API requires."""
    created = moment(value.created_at)
    return {
        "id": value.id,
        "name": value.name,
        "memory": 0,
        "vcpus": 0,
        "disk": 0,
        "locked": False,
        "status": "active",
        "created_at": created,
        "features": [],
        "backup_ids": [],
        "next_backup_window": None,
        "snapshot_ids": [],
        "image": {
            "id": 0, "name": "", "type": "custom", "distribution": "Unknown", "slug": None, "public": False,
            "regions": [], "created_at": created, "min_disk_size": 0, "size_gigabytes": 0, "description": "",
            "tags": [], "status": "available", "error_message": "",
        },
        "volume_ids": [],
        "size": {
            "slug": "", "memory": 0, "vcpus": 0, "disk": 0, "transfer": 0.0, "price_monthly": 0.0,
            "price_hourly": 0.0, "regions": [], "available": True, "description": "",
        },
        "size_slug": "",
        "networks": _networks(policy, value),
        "region": {"slug": "", "name": "", "sizes": [], "available": True, "features": []},
        "tags": list(value.tags),
    }  # fmt: skip


def _networks(policy: Policy, value: Droplet) -> dict[str, list[Json]]:
    """The single addresses of a droplet's ports; prefixes that it may send from are no addresses of interfaces.

    IPv4 is private when it is of RFC 1918 or link-local, else public; IPv6 is always called public, since the public
    API knows no other.  The subnet and its gateway are not known: masks are those of a single host.
    """
    found: dict[str, list[Json]] = {"v4": [], "v6": []}
    for port_id in sorted(policy.ports_of.get(value.id, ())):
        for text in policy.ports[port_id].addresses:
            own = network(text)
            if own.prefix != own.bits:
                continue
            address = str(own.first)
            if own.version == 6:
                found["v6"].append({"ip_address": address, "netmask": 128, "gateway": "", "type": "public"})
                continue
            parsed = netaddr.IPAddress(address)
            private = parsed.is_ipv4_private_use() or parsed.is_link_local()
            found["v4"].append(
                {
                    "ip_address": address,
                    "netmask": "255.255.255.255",
                    "gateway": None if private else "",
                    "type": "private" if private else "public",
                }
            )
    return found


def tag(value: Tag, carriers: int) -> Json:
    """What was tagged last is not remembered."""
    count: Json = {"count": carriers, "last_tagged_uri": ""}
    none: Json = {"count": 0, "last_tagged_uri": ""}
    others: Json = dict.fromkeys(("images", "volumes", "volume_snapshots", "databases"), none)
    return {"name": value.name, "resources": {**count, "droplets": count, **others}}


# ---- hypervisors and ports


def hypervisor(view: HypervisorView) -> Json:
    known, report = view.hypervisor, view.report
    return {
        "dpid": view.dpid,
        "registered": known is not None,
        "name": known.name if known is not None else None,
        "uplinks": list(known.uplinks) if known is not None and known.uplinks is not None else None,
        "created_at": moment(known.created_at) if known is not None else None,
        "connected": report.connected,
        "address": report.address,
        "connected_since": moment(report.connected_since),
        "openflow": report.openflow,
        "software": report.software,
        "sync": _sync(report),
    }


def _sync(report: SwitchReport) -> Json:
    return {
        "state": report.sync.value,
        "flows": report.flows,
        "last_change_at": moment(report.last_change_at),
        "last_repair_at": moment(report.last_repair_at),
        "repaired_flows": report.repaired_flows,
        "foreign_flows": report.foreign_flows,
        "error": report.error,
        "fence": _point(report.fence) if report.fence is not None else None,
        "watched": report.watched,
    }


def _point(point: Point) -> Json:
    return {"timeline": point.name, "revision": point.revision}


def fence(found: Fence) -> Json:
    return {**_point(found.point), "hypervisors": list(found.hypervisors)}


def drift(entry: Drift) -> Json:
    return {"at": moment(entry.at), "change": entry.what, "flow": entry.flow}


def port(view: PortView) -> Json:
    value = view.port
    return {
        "id": value.id,
        "droplet_id": value.droplet_id,
        "hypervisor": value.hypervisor,
        "interface": view.interface,
        "number": view.number,
        "mac": value.mac,
        "addresses": list(value.addresses),
        "max_connections": value.max_connections,
        "status": view.status.value,
        "error": view.error,
        "created_at": moment(value.created_at),
    }


def zone(value: Port, default: int) -> Json:
    """The conntrack zone of a port, and the limit that holds there; 0 is none."""
    own = value.max_connections
    return {
        "zone": value.slot,
        "port": value.id,
        "droplet_id": value.droplet_id,
        "max_connections": own if own is not None else default,
    }


def port_rules(
    policy: Policy, view: PortView, own: PortRules, flood: Flood, counters: Mapping[int, tuple[int, int]] | None
) -> Json:
    """The port's own rules, in the shape in which they are written, and all that applies to it, resolved.

    `counters`: packets and bytes of rules by id; None when they are not known.
    """
    found = view.port
    port_id = found.id
    return {
        "port_id": port_id,
        "own": port_id in policy.port_rules,
        "inbound_rules": rules(own.inbound_rules),
        "outbound_rules": rules(own.outbound_rules),
        "rules": [
            {**_resolved(policy, owner, value, units.get(value.id, ())), **_counted(value, counters)}
            for owner in policy.rule_sets_of(found)
            for direction in Direction
            for units in (rule_units(policy, owner, direction),)
            for value in owner.in_direction(direction)
        ],
        "system_rules": _system_rules(view, flood),
    }


def _system_rules(view: PortView, flood: Flood) -> list[Json]:
    """What always passes the port, with the flows that let it; none before its switch port is there."""
    port = view.port
    flows: dict[SystemRule, list[Flow]] = {}
    guards = PortGuards(port.slot, view.number or 0, port.mac, port.networks)
    for rule, flow in (*guards.system(), *flood.system()):
        flows.setdefault(rule, []).append(flow)
    return [
        {
            "name": rule.name,
            "direction": rule.direction.value,
            "text": rule.text,
            "flows": texts(found) if view.number is not None else [],
        }
        for rule, found in flows.items()
    ]


def _resolved(
    policy: Policy, owner: Firewall | PortRules, value: Rule, units: tuple[RuleFlows | SetMembers | None, ...]
) -> Json:
    return {
        **_owned(owner, value),
        "addresses": [str(network) for network in peer_networks(policy, owner.account, value)],
        "flows": texts(flow for unit in units if unit is not None for flow in unit.flows()),
    }


def _counted(value: Rule, counters: Mapping[int, tuple[int, int]] | None) -> Json:
    packets, size = counters.get(value.id, (0, 0)) if counters is not None else (None, None)
    return {"packets": packets, "bytes": size}


def _owned(owner: Firewall | PortRules, value: Rule) -> Json:
    """A rule with the set that it stands in."""
    firewall = {"id": owner.id, "name": owner.name} if isinstance(owner, Firewall) else None
    return {
        "id": value.id,
        "direction": value.direction.value,
        "firewall": firewall,
        "port": owner.port_id if isinstance(owner, PortRules) else None,
        **describe.rule(value),
    }


def flows(policy: Policy, stats: Iterable[FlowStats]) -> list[Json]:
    """Flows as read back, each with the rule, or the port, that it comes from."""
    owners: tuple[Mapping[str, Firewall], Mapping[str, PortRules]] = policy.firewalls, policy.port_rules
    by_id = {value.id: (owner, value) for table in owners for owner in table.values() for value in owner.rules}
    found: list[Json] = []
    for entry in stats:
        kind, number = _origin(entry)
        owner = by_id.get(number) if kind is Kind.RULE else None
        slot = number if kind in (Kind.PORT, Kind.DROP, Kind.SYSTEM) else None
        found.append(
            {
                "flow": entry.text,
                "packets": entry.packets,
                "bytes": entry.bytes,
                "rule": _owned(*owner) if owner is not None else None,
                "port": next(iter(sorted(policy.slots.get(slot, ()))), None) if slot is not None else None,
            }
        )
    return found


def of_port(policy: Policy, port: Port, stats: Iterable[FlowStats]) -> list[FlowStats]:
    """The flows that serve a port: made for it, or for rules that apply to it."""
    sets = policy.rule_sets_of(port)
    rules = [(owner, value) for owner in sets for value in owner.rules]
    numbers = {
        **{kind: {port.slot} for kind in (Kind.PORT, Kind.DROP, Kind.SYSTEM)},
        Kind.FIREWALL: {owner.number for owner in sets},
        Kind.RULE: {value.id for _, value in rules},
        Kind.TAG: {one.number for owner, value in rules for one in shared_peers(policy, owner.account, value)},
    }

    def serves(entry: FlowStats) -> bool:
        kind, number = _origin(entry)
        return kind is not None and number in numbers.get(kind, ())

    return [entry for entry in stats if serves(entry)]


def _origin(entry: FlowStats) -> tuple[Kind | None, int]:
    parts = cookie_parts(entry.flow.cookie) if entry.flow is not None else None
    return parts if parts is not None else (None, 0)
