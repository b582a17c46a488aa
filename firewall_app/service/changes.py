"""Changes as the audit log tells them: whole while that is short, else what differs, else what they were about.

A line of the log has a bound, or a tenant who changes one rule of a large firewall over and over would fill the disk,
and a page of lines would be too long to answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

from ..policy.model import Droplet, Entity, ExternalPeer, Firewall, Port, PortRules, Tag
from ..policy.policy import Change
from .describe import Json, entity, etag, name_of

LONGEST_LINE = 32 << 10  # bytes of JSON for all changes of one request
MOST_WHOLE = 40  # entries of lists in one object that was changed, up to which it is told whole, before and after
MOST_NAMED = 500  # entries of lists in one object, above which it is not worth trying to tell it whole
MOST_MENTIONED = 10  # objects by their entity tags alone, each of which takes some ten milliseconds
_LISTS = ("inbound_rules", "outbound_rules", "droplet_ids", "tags", "addresses")


def told(changes: Iterable[Change]) -> tuple[tuple[Json, ...], str]:
    """What is told of each, and the same as text: each with kind, id, before and after, of which null was not there.

    `cut`: "difference" when before and after hold of their lists only what the other has not, "all" when they hold
    nothing but the entity tag.  A last one without an id says how many more there were.
    """
    # Tags that came to be on the way are told last.
    listed = sorted(changes, key=lambda change: change.old is None and isinstance(change.new, Tag))
    found: list[Json] = []
    texts: list[str] = []
    left, mentions = LONGEST_LINE, 0
    for number, change in enumerate(listed):
        for tell in _WAYS if mentions < MOST_MENTIONED else _WAYS[:-1]:
            one = tell(change)
            if one is not None and len(text := _text(one)) <= left:
                found.append(one)
                texts.append(text)
                left -= len(text)
                mentions += tell is _mention
                break
        else:
            found.append({"kind": "more", "id": None, "before": None, "after": None, "more": len(listed) - number})
            texts.append(_text(found[-1]))
            break
    return tuple(found), f"[{','.join(texts)}]"


def _text(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"))


def _whole(change: Change) -> Json | None:
    most = MOST_NAMED if change.old is None or change.new is None else MOST_WHOLE
    if any(_size(value) > most for value in (change.old, change.new) if value is not None):
        return None
    return _change(change, entity)


def _difference(change: Change) -> Json | None:
    if change.old is None or change.new is None:
        return None
    old, new = _less(change.old, change.new), _less(change.new, change.old)
    if _size(old) + _size(new) > 2 * MOST_NAMED or entity(old) == entity(new):  # the latter: an order that changed
        return None
    return {**_change(Change(old, new), entity), "cut": "difference"}


def _mention(change: Change) -> Json | None:
    return {**_change(change, lambda value: {"etag": etag(value)}), "cut": "all"}


_WAYS = (_whole, _difference, _mention)


def _change(change: Change, describe: Callable[[Entity], Json]) -> Json:
    kind, key = name_of(change.entity)
    return {
        "kind": kind,
        "id": key,
        "before": describe(change.old) if change.old is not None else None,
        "after": describe(change.new) if change.new is not None else None,
    }


def _less(value: Entity, other: Entity) -> Entity:
    """The entity without what its lists have in common with another's."""
    kept: dict[str, Any] = {}
    for name in _LISTS:
        if (mine := getattr(value, name, None)) is not None:
            theirs = getattr(other, name)
            # Most are the same objects, which is cheaper to see than that they equal.
            others = set(_new_in(theirs, mine))
            kept[name] = tuple(item for item in _new_in(mine, theirs) if item not in others)
    return cast(Entity, replace(cast(Any, value), **kept))


def _new_in(items: Sequence[object], others: Sequence[object]) -> list[object]:
    known = set(map(id, others))
    return [item for item in items if id(item) not in known]


def _size(value: Entity) -> int:
    """How many entries there are in all lists."""
    match value:
        case Firewall() | PortRules():
            attached = len(value.droplet_ids) + len(value.tags) if isinstance(value, Firewall) else 0
            return sum(1 + rule.peer.size for rule in value.rules) + attached
        case Droplet():
            return len(value.tags)
        case ExternalPeer():
            return len(value.addresses) + len(value.droplet_ids)
        case Port():
            return len(value.addresses)
        case _:
            return 0
