"""What a switch holds, as bytes: the flows of units rendered, and what the flows that were read back say.

Pure functions; a flow that is not one of ours is never an error.  When what is compared with what is `session.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from ..history import TIMELINE_BITS, Point
from ..pipeline.flow import CT_EST, CT_TRK, Flow, match
from ..pipeline.tables import BY_ID, DISPATCH, MAGIC, STATE, Kind, asks_no_less, cookie_parts
from ..pipeline.unit import TURNS, Fence, PickUp, Turn
from . import wire
from .rendering import Body, Key, render


class Owner(NamedTuple):
    """Whose connections a zone holds: a port's, as long as it has its slot and its MAC."""

    slot: int
    mac: int


def is_ours(flow: wire.RawFlow) -> bool:
    return flow.cookie >> 48 == MAGIC


def goes_by_itself(key: Key, body: Body) -> bool:
    """Whether a flow is one that `pickup_grace` made: neither wanted nor in the way."""
    parts = cookie_parts(body.cookie)
    return parts is not None and parts[0] is Kind.PICKUP and (key, body) in render(PickUp(parts[1]))


Foreign = dict[tuple[int, int, int, bytes], wire.RawFlow]  # by cookie, table, priority and match


def held_in(flows: Iterable[wire.RawFlow]) -> tuple[dict[Key, Body], Foreign]:
    """Of what was read back: our flows, and those of others in our tables; what goes by itself is neither."""
    held: dict[Key, Body] = {}
    foreign: Foreign = {}
    for flow in flows:
        table, priority, cookie, match, instructions, *_ = flow
        if cookie >> 48 != MAGIC:
            if table in BY_ID:
                foreign[cookie, table, priority, match] = flow
            continue
        key, body = Key(table, priority, match), Body(cookie, instructions)
        if cookie >> 40 != _PICKED_UP or not goes_by_itself(key, body):
            held[key] = body
    return held, foreign


_PICKED_UP = MAGIC << 8 | Kind.PICKUP


def owners_of(flows: Iterable[wire.RawFlow]) -> frozenset[Owner]:
    """Whose zones are in use: those of ports that are tracked, as the flows that send packets there say.

    Also when another layout made them: the connections are the same.
    """
    found = set()
    for flow in flows:
        if flow.table == DISPATCH.id and flow.priority in (110, 112) and flow.cookie >> 40 & 0xFF == Kind.PORT:
            try:
                to = wire.decode_match(flow.match).get("eth_dst")
            except wire.DecodeError:
                continue  # not a flow of ours
            if to is not None:
                found.add(Owner(flow.cookie & 0xFFFFFFFF, to.value))
    return frozenset(found)


def slots_of(owners: Iterable[Owner]) -> list[int]:
    return sorted({owner.slot for owner in owners})


def judges(key: Key) -> bool:
    """Whether a flow's going can forbid something; a table that is not ours any more counts as one that can."""
    table = BY_ID.get(key.table)
    return table is None or table.judges


def asks_for_no_less(key: Key, old: Body, new: Body) -> bool:
    if key.table not in BY_ID or not BY_ID[key.table].lists:
        return False
    try:
        return asks_no_less(key.table, *(wire.decode_instructions(body.instructions) for body in (old, new)))
    except wire.DecodeError:
        return False  # not a flow of ours: nobody knows what it allowed


def generation_of(actual: Mapping[Key, Body]) -> int | None:
    """The generation that a switch holds: the mark that its fast path matches."""
    for key in actual:
        if key.table == STATE.id and key.priority == 202:
            try:
                found = wire.decode_match(key.match)
            except wire.DecodeError:
                continue
            mark = found.get("ct_mark")
            if mark is not None and found == match(ct_state=(CT_EST | CT_TRK, CT_EST | CT_TRK), ct_mark=mark.value):
                return mark.value
    return None


def fence_of(actual: Mapping[Key, Body]) -> Point | None:
    """The point of the policy that a switch last got; None when it has no note of one.

    What stands in the note's place and cannot be read (another version's, or somebody's) is a point that no store
    descends from.  It is made of its bytes, so that a confirmation is good for this one and no other.
    """
    body = actual.get(FENCE_KEY)
    if body is None:
        return None
    note = _read_fence(body)
    if note is None:
        return Point(int.from_bytes(sha256(body.instructions).digest()[:8]) >> 64 - TIMELINE_BITS, 1)
    return Point(note.timeline, note.revision)


def is_unread(actual: Mapping[Key, Body]) -> bool:
    """Whether there is something in the note's place that cannot be read."""
    return FENCE_KEY in actual and _read_fence(actual[FENCE_KEY]) is None


@lru_cache(maxsize=256)  # each comparison asks for the one that it had
def _read_fence(body: Body) -> Fence | None:
    try:
        return Fence.read(wire.decode_instructions(body.instructions))
    except wire.DecodeError:
        return None


def turn_of(actual: Mapping[Key, Body]) -> int:
    """The turn that a switch holds."""
    for number in range(TURNS):
        if any(key in actual for key, _ in render(Turn(number))):
            return number
    return 0


def text_of(key: Key, body: Body | None) -> str:
    """A flow as text, for people."""
    try:
        what = wire.decode_match(key.match)
        if body is None:
            return f"delete table={key.table},priority={key.priority},{what.text}"
        return Flow(key.table, key.priority, what, wire.decode_instructions(body.instructions), body.cookie).text
    except wire.DecodeError:
        cookie = f"cookie={body.cookie:#x}," if body is not None else ""
        return f"{cookie}table={key.table},priority={key.priority},match={key.match.hex()}"


FENCE_KEY = render(Fence(0, 0))[0][0]
