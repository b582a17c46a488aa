"""Bodies become values: ports in every spelling, and nothing that the model would refuse."""

from __future__ import annotations

import difflib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from firewall_app.api.schemas import DropletBody, FirewallBody, HypervisorBody, PortBody, PortRulesBody, parse
from firewall_app.policy.errors import Fault, Invalid
from firewall_app.policy.model import Direction, Peer, PortRange, Protocol, Rule

NO_PORTS = "You must specify a positive value for ports."
NO_RANGE = "you must specify a valid range for ports"
MISSING = object()


def inbound(protocol: str, ports: object) -> dict[str, Any]:
    rule: dict[str, Any] = {"protocol": protocol, "ports": ports, "sources": {}}
    if ports is MISSING:
        del rule["ports"]
    return {"inbound_rules": [rule]}


@pytest.mark.parametrize(
    ("protocol", "ports", "read_back"),
    [
        ("tcp", "0", "0"),
        ("tcp", "all", "0"),
        ("udp", 0, "0"),
        ("tcp", "1-65535", "1-65535"),
        ("tcp", "443", "443"),
        ("tcp", "443-443", "443-443"),
        ("udp", 443, "443"),
        ("tcp", "65535", "65535"),
        ("tcp", "8000-9000", "8000-9000"),
        ("icmp", MISSING, "0"),
        ("icmp", None, "0"),
        ("icmp", "", "0"),
        ("icmp", "0", "0"),
        ("icmp", 0, "0"),
        ("icmp", "all", "0"),
        ("icmp", "1-65535", "1-65535"),
    ],
)
def test_ports_are_read_in_every_spelling(protocol: str, ports: object, read_back: str) -> None:
    (rule,) = parse(PortRulesBody, inbound(protocol, ports)).inbound()
    assert str(rule.ports) == read_back
    assert rule.ports.is_every is (read_back in ("0", "1-65535"))


@pytest.mark.parametrize(
    ("protocol", "ports", "problem"),
    [
        ("tcp", MISSING, NO_PORTS),
        ("udp", "", NO_PORTS),
        ("tcp", None, NO_PORTS),
        ("tcp", "9000-8000", NO_RANGE),
        ("tcp", "65536", NO_RANGE),
        ("tcp", "1-65536", NO_RANGE),
        ("tcp", "0-10", NO_RANGE),
        ("tcp", -1, NO_RANGE),
        ("tcp", 65536, NO_RANGE),
        ("tcp", " 80", NO_RANGE),
        ("tcp", "80,443", NO_RANGE),
        ("tcp", "80 - 90", NO_RANGE),
        ("tcp", "٨٠", NO_RANGE),
        ("tcp", "ALL", NO_RANGE),
        ("tcp", ["80"], "ports must be a string"),
        ("tcp", True, "ports must be a string"),
        ("tcp", 80.0, "ports must be a string"),
        ("icmp", "8", "icmp has no ports"),
    ],
)
def test_ports_that_cannot_be_are_refused(protocol: str, ports: object, problem: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(PortRulesBody, inbound(protocol, ports))
    (fault,) = caught.value.faults
    assert fault.at == "inbound_rules[0].ports"
    assert fault.problem.startswith(problem)


def test_a_rule_becomes_a_value() -> None:
    body = {
        "outbound_rules": [
            {
                "protocol": "udp",
                "ports": "53",
                "destinations": {
                    "addresses": ["192.0.2.1"],
                    "droplet_ids": ["7"],
                    "tags": ["t"],
                    "load_balancer_uids": ["l"],
                    "kubernetes_ids": ["k"],
                },
            }
        ]
    }
    peer = Peer(("192.0.2.1",), (7,), ("t",), ("l",), ("k",))
    expected = Rule(Direction.OUTBOUND, Protocol.UDP, PortRange(53, 53), peer)
    assert parse(PortRulesBody, body).outbound() == (expected,)


def faults(schema: Any, body: object) -> dict[str, str]:
    with pytest.raises(Invalid) as caught:
        parse(schema, body)
    return {fault.at: fault.problem for fault in caught.value.faults}


PORT = {"droplet_id": 1, "hypervisor": "0" * 16, "interface": "tap0", "mac": "02:00:00:00:00:01"}


@pytest.mark.parametrize(
    ("part", "at", "problem"),
    [
        ({"droplet_id": 0}, "droplet_id", "is not a positive integer"),
        ({"droplet_id": 2**60}, "droplet_id", "is not a positive integer"),
        ({"hypervisor": "1"}, "hypervisor", "16 hex digits"),
        ({"interface": ""}, "interface", "1 to 15 bytes"),
        ({"interface": "a" * 16}, "interface", "1 to 15 bytes"),
        ({"interface": None, "number": 0}, "number", "is not between 1 and 65279"),
        ({"interface": None, "number": "3"}, "number", "must be an integer"),
        ({"mac": "01:00:00:00:00:01"}, "mac", "multicast"),
        ({"mac": "00:00:00:00:00:00"}, "mac", "no address of a machine"),
        ({"mac": "0200.0000.0001"}, "mac", "is not a MAC address"),
        ({"addresses": ["10.0.0.1", "10.0.0"]}, "addresses[1]", "invalid address"),
        ({"addresses": ["0.0.0.0/0"]}, "addresses[0]", "send from any address"),
        ({"addresses": "10.0.0.1"}, "addresses", "must be a list"),
        ({"adresses": []}, "adresses", "did you mean 'addresses'?"),
    ],
)
def test_faults_of_ports_have_their_path(part: dict[str, object], at: str, problem: str) -> None:
    found = faults(PortBody, PORT | part)
    assert list(found) == [at]
    assert problem in found[at]


def test_a_port_needs_an_interface_or_a_number() -> None:
    assert faults(PortBody, {k: v for k, v in PORT.items() if k != "interface"}) == {
        "": "one of interface and number is needed"
    }


def test_macs_are_read_in_any_case() -> None:
    assert parse(PortBody, PORT | {"mac": "02:AB:00:00:00:01"}).mac == "02:ab:00:00:00:01"


def test_uplinks_are_names_patterns_or_numbers() -> None:
    assert parse(HypervisorBody, {"uplinks": ["eth*", 5]}).uplinks == ["eth*", "5"]
    assert set(faults(HypervisorBody, {"uplinks": ["", True], "name": "a\nb"})) == {"uplinks[0]", "uplinks[1]", "name"}


@pytest.mark.parametrize("body", [[], "x", 1, None])
def test_a_body_is_an_object(body: object) -> None:
    assert faults(FirewallBody, body) == {"": "must be an object"}


def test_accounts_and_tags_are_checked() -> None:
    assert set(faults(DropletBody, {"account": "a b", "tags": ["ok", "not ok"]})) == {"account", "tags[1]"}


KEYS = (
    "name", "ports", "sources", "protocol", "addresses", "tags", "droplet_ids", "inbound_rules", "outbound_rules",
    "uplinks", "mac", "number", "interface", "hypervisor", "droplet_id", "kubernetes_ids",
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=20,
)


@given(JSON, st.sampled_from([FirewallBody, PortBody, PortRulesBody, HypervisorBody, DropletBody]))
def test_whatever_is_sent_is_read_or_refused_with_reasons(value: object, schema: Any) -> None:
    refused: tuple[Fault, ...] | None = None
    try:
        found = parse(schema, value)
    except Invalid as error:
        refused = error.faults
    if refused is None:
        assert isinstance(found, schema)
    else:
        assert refused
        assert all(fault.problem for fault in refused)


def test_near_keys_are_looked_for_a_few_times_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(difflib, "get_close_matches", lambda key, *_, **__: asked.append(key) or [])
    long = {"x" * 41: 1, "name": "fw", "inbound_rules": []}
    with pytest.raises(Invalid) as caught:
        parse(FirewallBody, long | {f"nam{i}": 1 for i in range(3000)})
    assert asked == [f"nam{i}" for i in range(20)]
    assert (len(caught.value.faults), caught.value.more) == (1000, 2001)
    assert caught.value.__context__ is None  # it would hold all that pydantic found


def test_faults_of_values_hold_no_exceptions() -> None:
    """Each would hold a traceback, and its frames: bodies of a hundred thousand faults cost gigabytes."""
    rule = {"protocol": "tcp", "ports": "x", "sources": {"addresses": ["x"], "droplet_ids": [0]}}
    with pytest.raises(ValidationError) as caught:
        FirewallBody.model_validate({"name": "?", "inbound_rules": [rule]})
    kinds = {".".join(map(str, d["loc"])): d["type"] for d in caught.value.errors()}
    assert kinds == dict.fromkeys(
        (
            "name",
            "inbound_rules.0.ports",
            "inbound_rules.0.sources.addresses.0",
            "inbound_rules.0.sources.droplet_ids.0",
        ),
        "fault",
    )
