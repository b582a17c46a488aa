"""Bodies of requests: bytes that arrive whole, say that they are JSON, and are; what they mean is for `schemas.py`.

Some may be long: `parsed` may be called in another thread.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..policy.errors import Fault, Invalid
from . import schemas
from .errors import MOST_FAULTS, BadBody, BadRequest, NotJson, TooLarge, TooSlow
from .routes import Route

DEEPEST_BODY = 32  # nested lists and objects; the deepest that means anything here has 6
LONGEST_INTEGER = 4300  # digits that Python reads
BYTES_FOR_A_VALUE = 10  # an address in quotes is longer; shorter values are numbers in the hundred thousands


def check_type(environ: Mapping[str, Any], route: Route, data: bytes) -> None:
    """Raises NotJson for a body that says so; some clients send bodies of DELETE as anything, or say nothing."""
    kind, _, parameters = environ.get("CONTENT_TYPE", "").lower().partition(";")
    kind = kind.strip()
    if not data.strip() or not kind or route.method == "DELETE":
        return
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise NotJson(f"the body must be application/json, not {kind}")
    charset = parameters.partition("charset=")[2].strip().strip('"')
    if charset not in ("", "utf-8", "utf8"):
        raise NotJson(f"the body must be UTF-8, not {charset}")


def parsed(data: bytes, route: Route, most: int) -> object:
    """The body, checked; None when there is none and the route means something by that."""
    assert route.body is not None  # noqa: S101 - the caller has looked
    if not data.strip():
        if route.body_optional:
            return None
        if route.method != "DELETE":
            raise BadBody("the body is empty")
        data = b"{}"
    return schemas.parse(route.body, _parse(data, most))


def read(environ: Mapping[str, Any], limit: int) -> bytes:
    """Never more than the limit; what says that it is larger is not read at all."""
    declared = environ.get("CONTENT_LENGTH") or ""
    chunked = environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked"
    if declared and not (declared.isascii() and declared.isdigit()):
        raise BadRequest("Content-Length is no number")
    if len(declared.lstrip("0")) > len(str(limit)) or int(declared or 0) > limit:
        raise TooLarge(f"the body is longer than {limit} bytes, which is what is allowed")
    try:
        data: bytes = environ["wsgi.input"].read(int(declared) if declared else limit + 1 if chunked else 0)
    except TimeoutError:
        raise TooSlow("the body did not arrive in time") from None
    except (OSError, ValueError) as error:
        raise BadRequest(f"the body cannot be read: {error}") from None
    if len(data) > limit:
        raise TooLarge(f"the body is longer than {limit} bytes, which is what is allowed")
    if declared and len(data) < int(declared):
        raise BadRequest(f"the body ends after {len(data)} of {declared} bytes")
    return data


def _parse(data: bytes, most: int) -> object:
    """JSON as RFC 8259 has it, and unambiguous: no key twice, no NaN.  Raises BadBody for what is none.

    Raises Invalid for JSON that nothing here can mean: what cannot be stored, or is out of all proportion.
    """
    if data.startswith(codecs.BOM_UTF8):
        raise BadBody("it begins with a byte order mark")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BadBody(f"byte {error.start} is not UTF-8") from None
    try:
        try:
            value = _json_value(text)
            good = _check_values(value, most)
        except _LongInteger:
            value, good = _json_value(text, _short_integer), False
    except RecursionError:
        if not _balanced(text):
            raise BadBody("its brackets do not match") from None
        raise Invalid.one("", f"nested deeper than {DEEPEST_BODY}") from None
    if not good:  # rare, so that places are looked for only now
        raise Invalid(_value_faults(value))
    return value


def _balanced(text: str) -> bool:
    """Whether every bracket of what is nested too deep to be parsed is closed, in its turn."""
    opened: list[str] = []
    for found in _STRING_OR_BRACKET.finditer(text):
        sign = found[0]
        if sign in ("[", "{"):
            opened.append(sign)
        elif sign in ("]", "}") and (not opened or opened.pop() + sign not in ("[]", "{}")):
            return False
    return not opened


class _LongInteger(Exception):
    """An integer of more digits than Python reads."""


_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"|[][{}]')
_LONG = object()  # stands for such an integer


def _json_value(text: str, parse_int: Callable[[str], object] | None = None) -> object:
    """Raises BadBody, _LongInteger, RecursionError."""
    try:
        return json.loads(
            text, object_pairs_hook=_members, parse_constant=_no_number, parse_float=_number, parse_int=parse_int
        )
    except json.JSONDecodeError as error:
        raise BadBody(str(error)) from None
    except ValueError:
        raise _LongInteger from None


def _short_integer(text: str) -> object:
    return int(text) if len(text.removeprefix("-")) <= LONGEST_INTEGER else _LONG


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise BadBody("a key stands twice in one object")
    return found


def _number(text: str) -> float:
    """`1.0` is an integer, as JSON Schema has it: some languages know but one kind of number."""
    found = float(text)
    return int(found) if found.is_integer() else found


def _no_number(text: str) -> object:
    raise BadBody(f"{text} is no number in JSON")


def _check_values(value: object, most: int) -> bool:
    """Whether all texts can be stored.  Raises Invalid for too many values, and for those that are nested too deep."""
    level, depth, count, good = [value], 0, 0, True
    while level:
        count += len(level)
        if count > most:
            raise Invalid.one("", f"more than {most} values")
        if depth > DEEPEST_BODY:
            raise Invalid.one("", f"nested deeper than {DEEPEST_BODY}")
        below: list[object] = []
        for item in level:
            if isinstance(item, str):
                good = good and not _text_fault(item)
            elif isinstance(item, dict):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                below += item
        level, depth = below, depth + 1
    return good


def _text_fault(text: str) -> str:
    """Why a text cannot be stored; empty when it can."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "half a surrogate pair is no text"
    return "text may not hold the character 0" if "\0" in text else ""


def _value_faults(value: object) -> list[Fault]:
    """What cannot be kept, and where.  A key that cannot be is told by the object that it stands in."""
    found: list[Fault] = []
    level: list[tuple[tuple[int | str, ...], object]] = [((), value)]
    for depth in range(DEEPEST_BODY + 2):
        below: list[tuple[tuple[int | str, ...], object]] = []
        for where, item in level:
            fault = ""
            if item is _LONG:
                fault = f"an integer of more than {LONGEST_INTEGER} digits"
            elif depth > DEEPEST_BODY:
                fault = f"nested deeper than {DEEPEST_BODY}"
            elif isinstance(item, str):
                fault = _text_fault(item)
            elif isinstance(item, dict):
                bad = {key: problem for key in item if (problem := _text_fault(key))}
                found += [Fault(schemas.path(where), f"a key: {problem}") for problem in bad.values()]
                below += [((*where, key), inner) for key, inner in item.items() if key not in bad]
            elif isinstance(item, list):
                below += [((*where, i), inner) for i, inner in enumerate(item)]
            if fault:
                found.append(Fault(schemas.path(where), fault))
            if len(found) > MOST_FAULTS:
                return found
        level = below
    return found
