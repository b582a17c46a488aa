"""Long answers are made beside the loop, in parts, and say the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from api_server import TENANT, Threads, World
from hypothesis import given
from hypothesis import strategies as st

from firewall_app.api import telling
from firewall_app.api.telling import HEAVY, Told, encode, encode_in_parts, is_heavy, weight_of_json

T = TypeVar("T")
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
JSON = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
        | inner.map(lambda value: Told(1, lambda: value))
    ),
    max_leaves=30,
)


@given(JSON)
def test_parts_make_the_same_whole(value: object) -> None:
    assert encode_in_parts(value) == encode(value)
    json.loads(encode(value))


def test_no_part_is_longer_than_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = {"protocol": "tcp", "ports": "1", "sources": {"addresses": ["192.0.2.1"] * 1000}}
    one = {"id": "x", "inbound_rules": [rule] * 50, "outbound_rules": [rule] * 50}
    sizes: list[int] = []

    class Measured:
        @staticmethod
        def dumps(value: object, **options: Any) -> str:
            sizes.append(len(found := json.dumps(value, **options)))
            return found

    monkeypatch.setattr(telling, "json", Measured)
    page = {"firewalls": [Told(1, lambda: one)] * 3, "links": {}, "meta": {"total": 3}}
    entry = {"changes": [{"kind": "firewall", "before": None, "after": one}]}
    for answer in (page, {"firewall": one}, {"rules": [{"flows": ["x"] * 1000}] * 100}, {"entries": [entry] * 3}):
        telling.encode_in_parts(answer)
    assert max(sizes) <= len(json.dumps(rule))


def test_what_is_heavy() -> None:
    half = Told(HEAVY // 2, dict)
    assert not is_heavy({"firewalls": [half, half], "meta": {"total": 2}})
    assert is_heavy({"firewalls": [half, half, Told(1, dict)]})
    assert is_heavy({"firewall": Told(HEAVY + 1, dict)})
    assert is_heavy(Told(HEAVY + 1, dict))
    assert not is_heavy({"status": "ok"})
    change = {"before": None, "after": {"inbound_rules": [{"sources": {"addresses": ["192.0.2.1"] * 1000}}] * 6}}
    assert weight_of_json((change,)) > HEAVY


class Counting(Threads):
    def __init__(self) -> None:
        super().__init__()
        self.slowly = 0

    def slow(self, work: Callable[[], T]) -> T:
        self.slowly += 1
        return work()


def test_long_answers_are_made_beside_the_loop() -> None:
    runtime = Counting()
    world = World(runtime=runtime).furnish()
    rule = {"protocol": "tcp", "sources": {"addresses": [f"10.0.{i >> 8}.{i & 255}" for i in range(990)]}}
    for name in ("fw1", "fw2", "fw3"):
        rules = [{**rule, "ports": str(number + 1)} for number in range(2)]
        world.good("POST", "/v2/firewalls", {"name": name, "inbound_rules": rules}, token=TENANT)

    def asks(path: str) -> int:
        before = runtime.slowly
        world.good("GET", path)
        return runtime.slowly - before

    def forget() -> None:
        """As after a restart: nothing was told yet."""
        draft = world.core.policy.edit()
        for firewall in world.core.policy.firewalls.values():
            draft.put(replace(firewall))
        world.core._kept = draft.done(), *world.core._kept[1:]

    some = next(iter(world.core.policy.firewalls))
    forget()
    assert asks("/v2/firewalls") == 1
    assert (asks("/v2/firewalls"), asks("/v2/firewalls?per_page=2"), asks(f"/v2/firewalls/{some}")) == (0, 0, 0)
    assert asks("/v1/audit?per_page=1") == 0
    told = {**rule, "sources": {"addresses": rule["sources"]["addresses"][:400]}, "ports": "1"}  # in the log whole
    for number in range(14):
        body = {"name": f"told{number}", "inbound_rules": [told]}
        world.good("POST", "/v2/firewalls", body, token=TENANT)
    assert asks("/v1/audit") == 1
    rules = [{**rule, "ports": str(number + 1)} for number in range(6)]
    world.good("PUT", f"/v2/firewalls/{some}", {"name": "fw1", "inbound_rules": rules}, token=TENANT)
    forget()
    assert asks(f"/v2/firewalls/{some}") == 1
    assert asks("/v1/ports/p101/rules") == 1
