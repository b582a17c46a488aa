"""Entities as plain JSON, as people write and read them: for answers, the audit log, and entity tags."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Generic, TypeVar

from ..policy.model import Direction, Droplet, Entity, ExternalPeer, Firewall, Hypervisor, Port, PortRules, Rule, Tag

Json = dict[str, object]
V = TypeVar("V")
T = TypeVar("T")


class Kept(Generic[V, T]):
    """A function of a frozen value alone: called once for each, the result is kept with the value and goes with it."""

    def __init__(self, work: Callable[[V], T]) -> None:
        self._work = work
        self._name = f"_{work.__name__}"  # beside the value's fields, as functools.cached_property has it

    def __call__(self, value: V) -> T:
        known: dict[str, T] = value.__dict__
        if self._name not in known:
            known[self._name] = self._work(value)
        return known[self._name]

    def has(self, value: V) -> bool:
        """Whether it was called for a value, so that the result costs nothing."""
        return self._name in value.__dict__


def moment(value: datetime | None) -> str | None:
    """RFC 3339 in UTC, whole seconds."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if value is not None else None


def rule(value: Rule) -> Json:
    """Exactly the keys of the public API: some clients refuse or compare any other."""
    peer = value.peer
    targets = {
        "addresses": peer.addresses,
        "droplet_ids": peer.droplet_ids,
        "tags": peer.tags,
        "load_balancer_uids": peer.load_balancer_uids,
        "kubernetes_ids": peer.kubernetes_ids,
    }
    return {
        "protocol": value.protocol.value,
        "ports": str(value.ports),
        "sources" if value.direction is Direction.INBOUND else "destinations": {
            name: list(names) for name, names in targets.items() if names
        },
    }


def rules(values: Iterable[Rule]) -> list[Json]:
    return [rule(value) for value in values]


@Kept
def rule_text(value: Rule) -> str:
    """`rule` as text."""
    return json.dumps(rule(value))


def rules_text(values: Iterable[Rule]) -> str:
    return f"[{', '.join(map(rule_text, values))}]"


@Kept
def firewall_text(value: Firewall) -> tuple[bytes, bytes]:
    """All members of a firewall's JSON that were written: id and name, and the rest."""
    named = json.dumps({"id": value.id, "name": value.name})[1:-1]
    attached = json.dumps({"droplet_ids": value.droplet_ids, "tags": value.tags})[1:-1]
    rest = (
        f'"created_at": {json.dumps(moment(value.created_at))}, "inbound_rules": {rules_text(value.inbound_rules)}, '
        f'"outbound_rules": {rules_text(value.outbound_rules)}, {attached}'
    )
    return named.encode(), rest.encode()


def entity(value: Entity) -> Json:
    """All that was written of an entity, and nothing that switches say of it."""
    match value:
        case Hypervisor():
            return {
                "dpid": value.dpid,
                "name": value.name,
                "uplinks": None if value.uplinks is None else list(value.uplinks),
                "created_at": moment(value.created_at),
            }
        case Tag():
            return {"account": value.account, "name": value.name}
        case Droplet():
            return {
                "id": value.id,
                "account": value.account,
                "name": value.name,
                "tags": list(value.tags),
                "created_at": moment(value.created_at),
            }
        case ExternalPeer():
            return {
                "uid": value.uid,
                "account": value.account,
                "name": value.name,
                "addresses": list(value.addresses),
                "droplet_ids": list(value.droplet_ids),
                "created_at": moment(value.created_at),
            }
        case Port():
            return {
                "id": value.id,
                "droplet_id": value.droplet_id,
                "hypervisor": value.hypervisor,
                "interface": value.interface,
                "number": value.number,
                "mac": value.mac,
                "addresses": list(value.addresses),
                "max_connections": value.max_connections,
                "created_at": moment(value.created_at),
            }
        case Firewall():
            return {
                "id": value.id,
                "account": value.account,
                "name": value.name,
                "created_at": moment(value.created_at),
                "inbound_rules": rules(value.inbound_rules),
                "outbound_rules": rules(value.outbound_rules),
                "droplet_ids": list(value.droplet_ids),
                "tags": list(value.tags),
            }
        case PortRules():
            return {
                "port_id": value.port_id,
                "account": value.account,
                "inbound_rules": rules(value.inbound_rules),
                "outbound_rules": rules(value.outbound_rules),
            }


_KINDS: dict[type[Entity], tuple[str, str]] = {
    Hypervisor: ("hypervisor", "dpid"),
    Tag: ("tag", "name"),
    Droplet: ("droplet", "id"),
    ExternalPeer: ("external_peer", "uid"),
    Port: ("port", "id"),
    Firewall: ("firewall", "id"),
    PortRules: ("port_rules", "port_id"),
}


def name_of(value: Entity) -> tuple[str, str | int]:
    """What kind of object it is, and what people call it by."""
    kind, key = _KINDS[type(value)]
    name: str | int = getattr(value, key)
    return kind, name


@Kept
def etag(value: Entity) -> str:
    """An entity tag (RFC 9110, 8.8.3) that differs when what was written differs; how switches stand is left out."""
    if isinstance(value, Firewall):
        text = b", ".join((b"Firewall", json.dumps(value.account).encode(), *firewall_text(value)))
    else:
        number = value.number if isinstance(value, Tag) else None  # a tag that was deleted and made again is another
        text = json.dumps([type(value).__name__, number, entity(value)], sort_keys=True).encode()
    return f'"{hashlib.sha256(text).hexdigest()[:20]}"'
