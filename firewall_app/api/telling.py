"""Answers to bytes: in the loop when that is quick, beside it when there is much to tell.

A handler puts `Told` where it would put JSON that may be long: at the top of an answer, in one of its keys, or in a
list there.  Its weight is the number of entries in the rules that it tells, or anything that costs as much.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..policy.model import Rule

HEAVY = 5000  # entries that take some ten milliseconds
ALWAYS = HEAVY + 1  # the weight of what is told beside the loop whatever it holds
# Encoding holds the interpreter for its whole run, from other threads too.  Down to the rules of the firewalls of a
# page, and of the changes in the audit log, each part is encoded by itself.
PARTS = 7
SHALLOW = 2  # down to what is told at the top, in a key, or in a list there


@dataclass(frozen=True)
class Told:
    """JSON that is made when it is encoded, perhaps in another thread: by `make`, out of what does not change.

    Bytes are JSON already.
    """

    weight: int
    make: Callable[[], object]


def weight(rules: Iterable[Rule]) -> int:
    """How many entries rules hold."""
    return sum(
        1 + len(peer.addresses) + len(peer.droplet_ids) + len(peer.tags) + len(peer.external_uids)
        for peer in (rule.peer for rule in rules)
    )


def weight_of_json(value: object) -> int:
    """The same of what is JSON already; lists of plain values are not looked through."""
    if isinstance(value, dict):
        return sum(map(weight_of_json, value.values()))
    if isinstance(value, list | tuple):
        return len(value) + (sum(map(weight_of_json, value)) if value and isinstance(value[0], dict) else 0)
    return 0


def is_heavy(answer: object) -> bool:
    """Whether an answer should be encoded beside the loop."""
    values = list(answer.values()) if isinstance(answer, dict) else [answer]
    parts = [part for value in values for part in (value if isinstance(value, list) else [value])]
    return sum(part.weight for part in parts if isinstance(part, Told)) > HEAVY


def encode(answer: object) -> bytes:
    """As JSON, in as few runs as may be."""
    return b"".join((*_parts(answer, SHALLOW), b"\n"))


def encode_in_parts(answer: object) -> bytes:
    """The same bytes, so that other threads get their turn meanwhile."""
    return b"".join((*_parts(answer, PARTS), b"\n"))


def _parts(value: object, depth: int) -> Iterator[bytes]:
    if isinstance(value, Told):
        yield from _parts(value.make(), depth)
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, dict) and depth:
        yield b"{"
        for number, (key, inner) in enumerate(value.items()):
            yield (b", " if number else b"") + json.dumps(key).encode() + b": "
            yield from _parts(inner, depth - 1)
        yield b"}"
    elif isinstance(value, list) and depth and value and isinstance(value[0], dict | list | Told):
        yield b"["
        for number, inner in enumerate(value):
            yield b", " if number else b""
            yield from _parts(inner, depth - 1)
        yield b"]"
    else:
        yield json.dumps(value, default=_made).encode()


def _made(value: object) -> object:
    if isinstance(value, Told):
        made = value.make()
        return json.loads(made) if isinstance(made, bytes) else made  # deeper than any is looked for
    raise TypeError(f"{type(value).__name__} is no JSON")
