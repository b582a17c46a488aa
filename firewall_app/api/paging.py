"""Collections in pages: `page` and `per_page`, absolute links, the exact total."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import urlencode

from ..policy.errors import Fault, Invalid
from .routes import Call

T = TypeVar("T")
DEFAULT_PER_PAGE, MOST_PER_PAGE = 20, 200
MOST_COUNTED = 2**62  # a page may be farther off than databases can count


def page(call: Call, key: str, items: Sequence[T], render: Callable[[T], object]) -> dict[str, object]:
    """One page of a collection; past the last one it is empty.  Raises Invalid."""
    return page_of(call, key, lambda first, count: (items[first : first + count], len(items)), render)


def page_of(
    call: Call, key: str, fetch: Callable[[int, int], tuple[Sequence[T], int]], render: Callable[[T], object]
) -> dict[str, object]:
    """`page` of what is not at hand: `fetch` gives so many items from one on, and how many there are in all."""
    number, size = _wanted(call)
    shown, total = fetch(min((number - 1) * size, MOST_COUNTED), size)
    last = max(1, -(-total // size))
    links: dict[str, int] = {}
    if number > 1:
        links |= {"first": 1, "prev": min(number - 1, last)}
    if number < last:
        links |= {"next": number + 1, "last": last}
    return {
        key: [render(item) for item in shown],
        "links": {"pages": {name: _link(call, target) for name, target in links.items()}} if links else {},
        "meta": {"total": total},
    }


def _link(call: Call, number: int) -> str:
    """Absolute, to where this request came: clients follow it with their token attached."""
    others = {name: value for name, value in call.query.items() if name != "page"}
    return f"{call.url}?{urlencode({'page': number, **others})}"


def _wanted(call: Call) -> tuple[int, int]:
    faults: list[Fault] = []
    number = _number(call, "page", 1, None, faults)
    size = _number(call, "per_page", DEFAULT_PER_PAGE, MOST_PER_PAGE, faults)
    if faults:
        raise Invalid(faults)
    return number, size


def _number(call: Call, name: str, default: int, most: int | None, faults: list[Fault]) -> int:
    text = call.query.get(name, "")
    if not text:
        return default
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
    if value < 1 or (most is not None and value > most):
        faults.append(Fault(name, f"must be a number from 1 to {most}" if most else "must be a number from 1"))
        return default
    return value
