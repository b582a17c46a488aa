"""Entities as rows, and back.  Reading trusts nothing: a value of the wrong kind is a ValueError that names its column.

Knows the columns, not how rows are fetched or written.  Rules are rows of their own; which belong to which rule set,
and in what order, is put together by `store.py` and taken apart by `writes.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from ..policy.model import (
    Direction,
    Droplet,
    Entity,
    ExternalPeer,
    Firewall,
    Hypervisor,
    Peer,
    Port,
    PortRange,
    PortRules,
    Protocol,
    Rule,
    Tag,
)
from ..records import Entry, Outcome, Token

Row = Mapping[Any, Any]  # by column name

T = TypeVar("T")

_PEER_FIELDS: dict[str, type[Any]] = {
    "addresses": str,
    "droplet_ids": int,
    "tags": str,
    "load_balancer_uids": str,
    "kubernetes_ids": str,
}


# ---------------------------------------------------------------------------------------------- writing


def row_of(entity: Entity) -> dict[str, Any]:
    """The row of an entity, without its rules."""
    match entity:
        case Hypervisor():
            return {
                "dpid": entity.dpid,
                "name": entity.name,
                "uplinks": None if entity.uplinks is None else _json(entity.uplinks),
                "created_at": moment(entity.created_at),
            }
        case Tag():
            return {"account": entity.account, "key": entity.key[1], "name": entity.name, "number": entity.number}
        case Droplet():
            return {
                "id": entity.id,
                "account": entity.account,
                "name": entity.name,
                "tags": _json(entity.tags),
                "created_at": moment(entity.created_at),
            }
        case ExternalPeer():
            return {
                "key": entity.key,
                "uid": entity.uid,
                "account": entity.account,
                "name": entity.name,
                "addresses": _json(entity.addresses),
                "droplet_ids": _json(entity.droplet_ids),
                "created_at": moment(entity.created_at),
                "number": entity.number,
            }
        case Port():
            return {
                "id": entity.id,
                "droplet_id": entity.droplet_id,
                "hypervisor": entity.hypervisor,
                "interface": entity.interface,
                "number": entity.number,
                "mac": entity.mac,
                "addresses": _json(entity.addresses),
                "slot": entity.slot,
                "created_at": moment(entity.created_at),
                "max_connections": entity.max_connections,
            }
        case Firewall():
            return {
                "id": entity.id,
                "account": entity.account,
                "name": entity.name,
                "droplet_ids": _json(entity.droplet_ids),
                "tags": _json(entity.tags),
                "created_at": moment(entity.created_at),
                "number": entity.number,
            }
        case PortRules():
            return {"port_id": entity.port_id, "account": entity.account, "number": entity.number}


def rule_row(owner: Firewall | PortRules, rule: Rule, position: int) -> dict[str, Any]:
    return {
        "id": rule.id,
        "firewall_id": owner.id if isinstance(owner, Firewall) else None,
        "port_id": owner.port_id if isinstance(owner, PortRules) else None,
        "direction": rule.direction.value,
        "position": position,
        "protocol": rule.protocol.value,
        "first_port": rule.ports.first,
        "last_port": rule.ports.last,
        "ports": rule.ports.written or None,
        "peer": _json({name: getattr(rule.peer, name) for name in _PEER_FIELDS if getattr(rule.peer, name)}),
    }


def token_row(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "hash": token.hash,
        "role": token.role,
        "account": token.account,
        "note": token.note,
        "created_at": moment(token.created_at),
        "revoked_at": moment(token.revoked_at),
    }


def entry_row(entry: Entry) -> dict[str, Any]:
    """Without its number, which the database gives."""
    return {
        "at": moment(entry.at),
        "request_id": entry.request_id,
        "token": entry.token,
        "who": entry.who,
        "role": entry.role,
        "account": entry.account,
        "address": entry.address,
        "method": entry.method,
        "path": entry.path,
        "outcome": entry.outcome.value,
        "problem": entry.problem,
        "changes": entry.text or _json(entry.changes),
    }


def moment(value: datetime | None) -> str | None:
    """A moment as it is stored.  Raises ValueError for one without a time zone: it could be any of 24 hours."""
    if value is None:
        return None
    if value.tzinfo is None:
        raise ValueError(f"{value} has no time zone")
    return value.astimezone(UTC).isoformat(timespec="microseconds")


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


# ---------------------------------------------------------------------------------------------- reading


def hypervisor(row: Row) -> Hypervisor:
    return Hypervisor(
        dpid=_text(row, "dpid"),
        name=_text(row, "name"),
        uplinks=None if row["uplinks"] is None else _texts(row, "uplinks"),
        created_at=_when(row, "created_at"),
    )


def tag(row: Row) -> Tag:
    found = Tag(_text(row, "account"), _text(row, "name"), _given(row))
    if row["key"] != found.key[1]:
        raise ValueError(f"key {row['key']!r} does not belong to name {found.name!r}")
    return found


def droplet(row: Row) -> Droplet:
    return Droplet(
        id=number(row, "id"),
        account=_text(row, "account"),
        name=_text(row, "name"),
        tags=_texts(row, "tags"),
        created_at=_when(row, "created_at"),
    )


def external_peer(row: Row) -> ExternalPeer:
    found = ExternalPeer(
        uid=_text(row, "uid"),
        account=_text(row, "account"),
        name=_text(row, "name"),
        addresses=_texts(row, "addresses"),
        droplet_ids=_numbers(row, "droplet_ids"),
        created_at=_when(row, "created_at"),
        number=_given(row),
    )
    if row["key"] != found.key:
        raise ValueError(f"key {row['key']!r} does not belong to uid {found.uid!r}")
    return found


def port(row: Row) -> Port:
    return Port(
        id=_text(row, "id"),
        droplet_id=number(row, "droplet_id"),
        hypervisor=_text(row, "hypervisor"),
        interface=None if row["interface"] is None else _text(row, "interface"),
        number=None if row["number"] is None else number(row, "number"),
        mac=_text(row, "mac"),
        addresses=_texts(row, "addresses"),
        slot=number(row, "slot"),
        created_at=_when(row, "created_at"),
        max_connections=None if row["max_connections"] is None else number(row, "max_connections"),
    )


def firewall(row: Row, rules: Iterable[Rule]) -> Firewall:
    inbound, outbound = _split(rules)
    return Firewall(
        id=_text(row, "id"),
        account=_text(row, "account"),
        name=_text(row, "name"),
        inbound_rules=inbound,
        outbound_rules=outbound,
        droplet_ids=_numbers(row, "droplet_ids"),
        tags=_texts(row, "tags"),
        created_at=_when(row, "created_at"),
        number=_given(row),
    )


def port_rules(row: Row, rules: Iterable[Rule]) -> PortRules:
    inbound, outbound = _split(rules)
    return PortRules(_text(row, "port_id"), _text(row, "account"), inbound, outbound, _given(row))


def rule(row: Row) -> Rule:
    return Rule(
        direction=Direction(row["direction"]),
        protocol=Protocol(row["protocol"]),
        ports=PortRange(
            number(row, "first_port"),
            number(row, "last_port"),
            "" if row["ports"] is None else _text(row, "ports"),
        ),
        peer=_peer(row),
        id=number(row, "id"),
    )


def token(row: Row) -> Token:
    created_at = _when(row, "created_at")
    if created_at is None:
        raise ValueError("created_at is missing")
    return Token(
        id=_text(row, "id"),
        hash=_text(row, "hash"),
        role=_text(row, "role"),
        account=None if row["account"] is None else _text(row, "account"),
        note=_text(row, "note"),
        created_at=created_at,
        revoked_at=_when(row, "revoked_at"),
    )


def entry(row: Row) -> Entry:
    at, changes = _when(row, "at"), _parsed(row, "changes")
    if at is None or not isinstance(changes, list):
        raise ValueError("at or changes is missing")
    return Entry(
        at=at,
        request_id=_text(row, "request_id"),
        token=_text(row, "token"),
        who=_text(row, "who"),
        role=_text(row, "role"),
        account=None if row["account"] is None else _text(row, "account"),
        address=_text(row, "address"),
        method=_text(row, "method"),
        path=_text(row, "path"),
        outcome=Outcome(row["outcome"]),
        problem=_text(row, "problem"),
        changes=tuple(changes),
        number=number(row, "number"),
    )


def _peer(row: Row) -> Peer:
    found = _parsed(row, "peer")
    # A member that this program does not know would be left out, and the rule would mean something else.
    if not isinstance(found, dict) or not found.keys() <= _PEER_FIELDS.keys():
        raise ValueError(f"peer is {found!r}, which is no peer")
    return Peer(**{name: _list_of(_PEER_FIELDS[name], value, f"peer.{name}") for name, value in found.items()})


def _split(rules: Iterable[Rule]) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    found = tuple(rules)
    return (
        tuple(rule for rule in found if rule.direction is Direction.INBOUND),
        tuple(rule for rule in found if rule.direction is Direction.OUTBOUND),
    )


def _text(row: Row, name: str) -> str:
    value = row[name]
    if type(value) is not str:
        raise ValueError(f"{name} is {value!r}, not text")
    return value


def number(row: Row, name: str) -> int:
    value = row[name]
    if type(value) is not int:
        raise ValueError(f"{name} is {value!r}, not a number")
    return value


def _given(row: Row) -> int:
    """The number inside switches; 0 would be taken for a new one."""
    found = number(row, "number")
    if not 1 <= found <= 0xFFFFFFFF:
        raise ValueError(f"number is {found}, which was never given out")
    return found


def _when(row: Row, name: str) -> datetime | None:
    if row[name] is None:
        return None
    found = datetime.fromisoformat(_text(row, name))
    if found.tzinfo is None:
        raise ValueError(f"{name} is {row[name]!r}, which has no time zone")
    return found.astimezone(UTC)


def _texts(row: Row, name: str) -> tuple[str, ...]:
    return _list_of(str, _parsed(row, name), name)


def _numbers(row: Row, name: str) -> tuple[int, ...]:
    return _list_of(int, _parsed(row, name), name)


def _parsed(row: Row, name: str) -> object:
    try:
        return json.loads(_text(row, name))
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is no JSON: {error}") from None


def _list_of(kind: type[T], value: object, name: str) -> tuple[T, ...]:
    if not isinstance(value, list) or any(type(item) is not kind for item in value):
        raise ValueError(f"{name} is {value!r}, not a list of {kind.__name__}")
    return tuple(value)
