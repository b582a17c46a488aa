"""The OpenAPI document: valid, complete, and as exact as what reads bodies."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
from api_server import World
from hypothesis import example, given
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator

from firewall_app.api import openapi, schemas, shapes
from firewall_app.api.documentation import ROUTES as PAGES
from firewall_app.api.operations import OPERATIONS, PATH
from firewall_app.settings import Settings


@pytest.fixture(scope="module")
def world() -> World:
    return World(Settings(max_rules=7)).furnish()


@pytest.fixture(scope="module")
def document(world: World) -> Any:
    return world.good("GET", "/openapi.json", token=None)


def operations(document: Any) -> dict[str, Any]:
    return {f"{m.upper()} {path}": op for path, found in document["paths"].items() for m, op in found.items()}


def test_the_document_is_valid(document: Any) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_every_route_is_described_and_nothing_else(world: World, document: Any) -> None:
    routes = {openapi.key(route) for route in world.application._routes.all if route not in PAGES}
    assert set(operations(document)) == routes == set(OPERATIONS)


def test_every_operation_is_described_in_full(document: Any) -> None:
    found = operations(document)
    assert len({op["operationId"] for op in found.values()}) == len(found)
    for name, op in found.items():
        assert op["summary"], name
        assert len(op["tags"]) == 1, name
        names = re.findall(r"\{(\w+)\}", name)
        assert [p["name"] for p in op.get("parameters", ()) if p.get("in") == "path"] == names
        assert set(names) <= set(PATH)
        for code, response in op["responses"].items():
            if code == "204":
                assert "content" not in response, name
            elif "$ref" not in response:
                (content,) = response["content"].values()
                assert content["schema"], (name, code)
        if "requestBody" in op:
            assert op["requestBody"]["content"]["application/json"]["example"], name


def test_limits_are_those_of_the_settings(document: Any) -> None:
    rules = document["components"]["schemas"]["FirewallBody"]["properties"]["inbound_rules"]["anyOf"][0]
    assert rules["maxItems"] == 7
    assert "x-setting" not in json.dumps(document)


def test_examples_fit_their_schemas(world: World, document: Any) -> None:
    for route in world.application._routes.all:
        if route.body is not None:
            operation = operations(document)[openapi.key(route)]
            content = operation["requestBody"]["content"]["application/json"]
            schema = {**content["schema"], "components": document["components"]}
            jsonschema.Draft202012Validator(schema).validate(content["example"])
            assert schemas.parse(route.body, content["example"])


# --------------------------------------------------------------------------------------------- single values


def accepted(value: object, **where: Any) -> bool:
    """Whether the parser takes a body of that one value."""
    ((schema, body),) = where.items()
    try:
        schemas.parse(getattr(schemas, schema), body)
    except schemas.Invalid:
        return False
    return True


PORT = {"droplet_id": 1, "hypervisor": "0" * 16, "interface": "tap0", "mac": "02:00:00:00:00:01"}
RULE = {"protocol": "tcp", "ports": "1", "sources": {}}
# What is tried: how it is put into a body, and its schema.
VALUES: dict[str, tuple[str, Any, Any]] = {
    "address": ("PortRulesBody", lambda v: {"inbound_rules": [RULE | {"sources": {"addresses": [v]}}]}, shapes.ADDRESS),
    "own address": ("PortBody", lambda v: PORT | {"addresses": [v]}, shapes.OWN_ADDRESS),
    "account": ("DropletBody", lambda v: {"account": v}, shapes.ACCOUNT),
    "token note": ("TokenBody", lambda v: {"role": "viewer", "note": v}, shapes.NAME),
    "connections": ("PortBody", lambda v: PORT | {"max_connections": v}, shapes.CONNECTIONS),
    "dpid": ("PortBody", lambda v: PORT | {"hypervisor": v}, shapes.DPID),
    "firewall name": ("FirewallBody", lambda v: {"name": v, "inbound_rules": []}, shapes.FIREWALL_NAME),
    "mac": ("PortBody", lambda v: PORT | {"mac": v}, shapes.MAC),
    "name": ("DropletBody", lambda v: {"name": v}, shapes.NAME),
    "ofport": ("PortBody", lambda v: PORT | {"number": v}, shapes.OFPORT),
    "tag": ("TagBody", lambda v: {"name": v}, shapes.TAG),
    "uplink": ("HypervisorBody", lambda v: {"uplinks": [v]}, shapes.UPLINK),
}
NEAR = st.one_of(
    st.from_regex(shapes.ADDRESS["pattern"], fullmatch=True),
    st.from_regex(r"[0-9a-f]{0,2}(:[0-9a-f]{0,4}){2,8}(/[0-9]{1,3})?", fullmatch=True),
    st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){2,4}(/[0-9]{1,3})?", fullmatch=True),
    st.from_regex(r"[0-9a-f]{2}(:[0-9A-F]{2}){4,6}", fullmatch=True),
    st.from_regex(r"[0-9a-fA-F]{15,17}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.text("aZ0_.:-~", max_size=70),
    st.integers(-1, 70000),
    st.integers(2**31 - 2, 2**31),
    st.none(),
    st.booleans(),
    st.floats(allow_nan=False).filter(lambda f: not f.is_integer()),
)


@pytest.mark.parametrize("what", VALUES)
def test_the_schema_of_a_value_accepts_what_the_parser_accepts(what: str) -> None:
    schema, body, shape = VALUES[what]
    validator = jsonschema.Draft202012Validator({**shape})

    @given(NEAR)
    @example("1::2:3:4:5:6:7:8")
    @example("1:2:3:4:5:6:7::")
    @example("::ffff:192.0.2.1/096")
    @example("10.0.0.0/033")
    @example("0.0.0.0/000")
    @example("00:00:00:00:00:00")
    @example("a" * 64)
    @example("a" * 65)
    @example("a" * 255)
    @example("a" * 256)
    @example("a\u2028b")
    def check(value: object) -> None:
        if isinstance(value, str) and value.endswith("\n"):
            return  # the end of a line counts as the end of a text in Python's expressions, not in JSON Schema's
        if value is None and what in ("account", "name", "token note", "ofport", "connections"):
            return  # may be left out, and so be null
        assert validator.is_valid(value) is accepted(value, **{schema: body(value)}), value

    check()


@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp", "other"])
@given(
    ports=st.one_of(
        st.sampled_from(["", "0", "all", "1-65535", "65535", "65536", "0-1", "01", None, True, 1.5]),
        st.integers(-1, 65537),
        st.from_regex("[0-9]{1,5}", fullmatch=True),
        st.integers(1, 70000).map(lambda last: f"1-{last}"),
    )
)
def test_the_schema_of_a_rule_knows_ports_by_protocol(document: Any, protocol: str, ports: object) -> None:
    schema = {"$ref": "#/components/schemas/PortRulesBody", "components": document["components"]}
    body = {"inbound_rules": [{"protocol": protocol, "ports": ports, "sources": None}]}
    if ports is None:
        del body["inbound_rules"][0]["ports"]
    assert jsonschema.Draft202012Validator(schema).is_valid(body) is accepted(body, PortRulesBody=body)
