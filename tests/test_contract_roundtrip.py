"""Arbitrary firewalls through the API: what is valid comes back as it was written, what is not is refused in its place.

Valid ones are drawn in every spelling that is accepted, each beside the bytes that are to be read back.
"""

from __future__ import annotations

import copy
import ipaddress
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest
from api_server import World
from contract import BODIES, PEERS, ROUTES, Json, filled, raw
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from firewall_app.pipeline.flow import texts

Both = tuple[Any, Any]  # as it is sent, as it is read back
BARE: Json = {"name": "there-before", "outbound_rules": []}
EXAMPLES = 100  # a firewall takes longer to draw than other things

# --------------------------------------------------------------------------------------------- valid firewalls


def spelled_v6(number: int, how: str) -> str:
    address = ipaddress.IPv6Address(number)
    match how:
        case "exploded":
            return address.exploded
        case "upper":
            return str(address).upper()
        case "dotted":
            return ":".join(address.exploded.split(":")[:6]) + f":{ipaddress.IPv4Address(number & 0xFFFFFFFF)}"
    return str(address)


V4 = st.integers(0, 2**32 - 1).map(lambda number: (str(ipaddress.IPv4Address(number)), 32))
V6 = st.builds(
    lambda number, how: (spelled_v6(number, how), 128),
    st.one_of(st.integers(0, 2**128 - 1), st.integers(0, 2**33)),
    st.sampled_from(["plain", "exploded", "upper", "dotted"]),
)
ADDRESSES = st.one_of(V4, V6).flatmap(
    lambda pair: st.one_of(st.just(pair[0]), st.integers(0, pair[1]).map(lambda prefix: f"{pair[0]}/{prefix}"))
) | st.sampled_from(["0.0.0.0/0", "::/0", "10.0.0.0/8", "10.1.2.3/8", "10.0.0.0/08"])
IDS = st.sampled_from([101, 102, 103]).flatmap(lambda n: st.sampled_from([(n, n), (str(n), n), (f"0{n}", n)]))
TAGS = st.sampled_from(["web", "WEB", "Web", "db", "dB"])


def lists(of: st.SearchStrategy[Any]) -> st.SearchStrategy[Both]:
    """A list, or one of the ways to say that there is none.  `...`: the key is left out."""
    empty = st.sampled_from([[], None, ...]).map(lambda sent: (sent, []))
    return empty | st.lists(of, min_size=1, max_size=4).map(
        lambda items: tuple([item[i] if isinstance(item, tuple) else item for item in items] for i in (0, 1))  # type: ignore[arg-type, return-value]
    )


def sent(parts: dict[str, Any], order: list[str]) -> Json:
    return {key: parts[key] for key in order if parts[key] is not ...}


PEER_LISTS = {
    "addresses": lists(ADDRESSES),
    "droplet_ids": lists(IDS),
    "tags": lists(TAGS),
    "load_balancer_uids": lists(st.from_regex("[A-Za-z0-9._:-]{1,64}", fullmatch=True)),
    "kubernetes_ids": lists(st.uuids().map(str)),
}


@st.composite
def peers(draw: st.DrawFn) -> Both:
    if draw(st.integers(0, 9)) == 0:
        return None, {}
    drawn = {key: draw(strategy) for key, strategy in PEER_LISTS.items()}
    order = draw(st.permutations(list(drawn)))
    return sent({key: both[0] for key, both in drawn.items()}, order), {
        key: both[1] for key, both in drawn.items() if both[1]
    }


PORT = st.integers(1, 65535)
RANGE = st.tuples(PORT, PORT).filter(lambda pair: pair[0] <= pair[1]).map(lambda pair: f"{pair[0]}-{pair[1]}")
PORTS: st.SearchStrategy[Both] = st.one_of(
    st.sampled_from([("0", "0"), ("all", "0"), (0, "0"), ("1-65535", "1-65535")]),
    PORT.flatmap(lambda port: st.sampled_from([(port, str(port)), (str(port), str(port))])),
    RANGE.map(lambda text: (text, text)),
    PORT.map(lambda port: (f"{port}-{port}", f"{port}-{port}")),
)
ICMP_PORTS: st.SearchStrategy[Both] = st.sampled_from(
    [(..., "0"), (None, "0"), ("", "0"), ("0", "0"), (0, "0"), ("all", "0"), ("1-65535", "1-65535")]
)


@st.composite
def rules(draw: st.DrawFn, key: str) -> Both:
    protocol = draw(st.sampled_from(["tcp", "udp", "icmp"]))
    ports, read_ports = draw(ICMP_PORTS if protocol == "icmp" else PORTS)
    targets, read_targets = draw(peers())
    parts = {"protocol": protocol, "ports": ports, key: targets}
    read = {"protocol": protocol, "ports": read_ports, key: read_targets}
    return sent(parts, draw(st.permutations(list(parts)))), read


def once(names: list[str]) -> list[str]:
    """Those that differ from all before them in more than case."""
    return [name for i, name in enumerate(names) if name.lower() not in [other.lower() for other in names[:i]]]


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("a0:/ ", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def firewalls(draw: st.DrawFn) -> Both:
    """(body, the lists as they are read back)."""
    drawn = {
        "inbound_rules": draw(lists(rules("sources"))),
        "outbound_rules": draw(lists(rules("destinations"))),
        "droplet_ids": draw(lists(IDS)),
        "tags": draw(lists(TAGS)),
    }
    assume(drawn["inbound_rules"][0] is not ... or drawn["outbound_rules"][0] is not ...)
    parts = {"name": draw(st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9.-]{1,20}", fullmatch=True))}
    parts |= {key: both[0] for key, both in drawn.items()}
    for key in ("id", "status", "created_at", "pending_changes"):
        parts[key] = draw(st.just(...) | JUNK)
    read = {key: both[1] for key, both in drawn.items()}
    read["droplet_ids"] = list(dict.fromkeys(read["droplet_ids"]))
    read["tags"] = once(read["tags"])
    return sent(parts, draw(st.permutations(list(parts)))), {"name": parts["name"], **read}


# One for all examples: making another takes longer than an example.
WORLD = World().furnish()
WORLD.good("POST", "/v2/tags", {"name": "db"})


@contextmanager
def emptied() -> Iterator[World]:
    """The world, without firewalls before and after."""
    try:
        yield WORLD
    finally:
        for firewall_id in list(WORLD.core.policy.firewalls):
            WORLD.good("DELETE", f"/v2/firewalls/{firewall_id}")


def state(world: World) -> object:
    """What must not move: what is stored, and what each switch is to hold, to the byte."""
    flows = {
        dpid: {key: texts(unit.flows()) for key, unit in world.core.units(dpid, switch.interfaces).units.items()}
        for dpid, switch in world.switches.items()
    }
    return world.core.revision, world.store.revision, world.store.policy, flows


@settings(max_examples=EXAMPLES)
@given(firewalls())
@example(({"name": "fw", "inbound_rules": [], "tags": ["web", "db", "WEB"]}, {"tags": ["web", "db"]}))
def test_R9_echo_and_a_lossless_get_then_put(both: Both) -> None:
    body, read_back = both
    with emptied() as world:
        created = world.call("POST", "/v2/firewalls", body)
        assert created.status == 202, created.body
        for key, value in read_back.items():
            assert b'"%s": %s' % (key.encode(), raw(value)) in created.body, key
        one = f"/v2/firewalls/{created.json['firewall']['id']}"
        read = world.call("GET", one).body
        assert read == created.body
        before = state(world)
        for again in (json.loads(read)["firewall"], body):
            assert world.call("PUT", one, again).body == read
        assert world.call("GET", one).body == read
        assert state(world) == before


@settings(max_examples=EXAMPLES)
@given(firewalls())
def test_3_5_whole_rule_by_rule_in_the_spelling_in_which_they_came(both: Both) -> None:
    body, read_back = both
    given_rules = {key: body[key] for key in PEERS if key in body}
    with emptied() as world:
        one = f"/v2/firewalls/{world.good('POST', '/v2/firewalls', BARE)['firewall']['id']}"
        for _ in range(2):
            assert world.call("POST", f"{one}/rules", given_rules).status == 204
            there = world.good("GET", one)["firewall"]
            for kind, key in PEERS.items():
                assert {plain(rule, key) for rule in there[kind]} == {plain(rule, key) for rule in read_back[kind]}
                assert all(rule in read_back[kind] for rule in there[kind])
                assert len(there[kind]) == len({plain(rule, key) for rule in read_back[kind]})
        answer = world.call("DELETE", f"{one}/rules", given_rules)
        assert (answer.status, answer.headers.get("x-firewall-rules-unmatched")) == (204, None)
        left = world.good("GET", one)["firewall"]
        assert (left["inbound_rules"], left["outbound_rules"]) == ([], [])


def plain(rule: Json, key: str) -> str:
    """A rule with its peers as sets; 443-443 is 443."""
    ports = "-".join(dict.fromkeys(rule["ports"].split("-")))
    return repr((rule["protocol"], ports, sorted((name, sorted(set(v))) for name, v in rule[key].items())))


# --------------------------------------------------------------------------------------------- invalid ones


def spots(value: Any, at: str = "") -> Iterator[tuple[Any, Any, str]]:
    """Every (container, key, path) inside a body; what is read-only is of no meaning there."""
    if isinstance(value, dict):
        for key, item in value.items():
            if at or key not in ("id", "status", "created_at", "pending_changes"):
                path = f"{at}.{key}" if at else key
                yield value, key, path
                yield from spots(item, path)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield value, number, f"{at}[{number}]"
            yield from spots(item, f"{at}[{number}]")


@st.composite
def broken(draw: st.DrawFn) -> tuple[Json, str]:
    """A firewall with one fault, and where that is."""
    body = copy.deepcopy(draw(firewalls())[0])
    container, key, path = draw(st.sampled_from(list(spots(body))))
    parent = path[: -len(f"[{key}]" if isinstance(key, int) else f".{key}")] if path != key else ""
    how = draw(st.sampled_from(["number", "unknown", "missing", "tag", "droplet"]))
    if how == "unknown" and isinstance(container, dict):
        container["zzz"] = draw(JUNK)
        return body, f"{parent}.zzz" if parent else "zzz"
    if how == "missing" and key in ("name", "protocol", "sources", "destinations"):
        del container[key]
        return body, path
    if how == "tag" and re.search(r"(^|\.)tags\[", path):
        container[key] = "no-such"
        return body, path
    if how == "droplet" and "droplet_ids[" in path:
        container[key] = draw(st.sampled_from([104, "201", 2**53]))  # 201 is another account's
        return body, path
    container[key] = draw(st.sampled_from([1.5, True]))
    return body, path


@settings(max_examples=EXAMPLES)
@given(broken())
@example(({"name": "fw", "inbound_rules": [], "droplet_ids": [101, "101", 999]}, "droplet_ids[2]"))
@example(({"name": "fw", "inbound_rules": [], "tags": ["web", "WEB", "no-such"]}, "tags[2]"))
def test_R10_a_fault_is_told_where_it_is_and_changes_nothing(both: tuple[Json, str]) -> None:
    body, path = both
    with emptied() as world:
        one = world.good("POST", "/v2/firewalls", BARE)["firewall"]["id"]
        before = state(world)
        for method, target in (("POST", "/v2/firewalls"), ("PUT", f"/v2/firewalls/{one}")):
            answer = world.call(method, target, body)
            assert answer.status == 422, (path, answer.body)
            assert list(answer.problems) == [path], answer.problems
            assert state(world) == before


WRITES = [key for key, body in BODIES.items() if body is not None]


@settings(max_examples=EXAMPLES)
@given(
    st.sampled_from(WRITES),
    st.one_of(JUNK.map(raw), st.binary(max_size=30), firewalls().map(lambda both: raw(both[0]))),
)
def test_1_7_codes_for_whatever_is_sent(write: tuple[str, str], data: bytes) -> None:
    with emptied() as world:
        one = world.good("POST", "/v2/firewalls", BARE)["firewall"]["id"]
        before = state(world)
        answer = world.call(write[0], filled(write[1], one), data)
        assert answer.status in (200, 201, 202, 204, 400, 409, 422), answer.body
        if answer.status >= 400:
            assert answer.json["message"]
            assert state(world) == before


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, _ in ROUTES])
@settings(max_examples=30)
@given(text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), query=st.text("page=&1%aé/?", max_size=8))
def test_1_7_codes_for_whatever_is_asked_for(method: str, path: str, text: str, query: str) -> None:
    asked = re.sub(r"\{\w+\}", quote(text, safe=""), path)
    answer = WORLD.call(method, f"{asked}?{quote(query, safe='=&%?')}", BODIES.get((method, path)))
    assert answer.status < 500, answer.body
