"""Documents that nobody should send: none crashes the program, and none lets more pass than it means."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import strategies as our
from api_server import HV1, HV2, World, port
from fleet import Fleet, Site
from hypothesis import given, settings
from hypothesis import strategies as st

from firewall_app.api.app import ROUTES
from firewall_app.api.routes import Routes
from firewall_app.pipeline.compile import Rulings
from firewall_app.policy.decide import Verdict, decide

Json = Any

SITE = Site({HV1: {1: "eth0", 3: "tap3", 4: "tap4"}, HV2: {1: "eth0", 3: "tap3"}}, {HV1: 1, HV2: 1})
PEERS = {"addresses": ["10.0.0.0/24", "fd00::/125"], "tags": ["web"], "droplet_ids": [101],
         "load_balancer_uids": ["lb-1"], "kubernetes_ids": ["k8s-1"]}  # fmt: skip
INBOUND = {"protocol": "tcp", "ports": "80-90", "sources": PEERS}
OUTBOUND = {"protocol": "udp", "ports": 53, "destinations": PEERS}
RULES = {"inbound_rules": [INBOUND], "outbound_rules": [OUTBOUND]}
FIREWALL = {"name": "fw", **RULES, "droplet_ids": [102], "tags": ["web"]}
RESOURCES = {"resources": [{"resource_id": "103", "resource_type": "droplet"}]}
# What each write takes when it is right; {firewall} is one that exists.
DOCUMENTS: dict[tuple[str, str], Json] = {
    ("POST", "/v2/firewalls"): {**FIREWALL, "name": "another"},
    ("PUT", "/v2/firewalls/{firewall}"): FIREWALL,
    ("DELETE", "/v2/firewalls/{firewall}"): None,
    ("POST", "/v2/firewalls/{firewall}/droplets"): {"droplet_ids": [103]},
    ("DELETE", "/v2/firewalls/{firewall}/droplets"): {"droplet_ids": [102]},
    ("POST", "/v2/firewalls/{firewall}/tags"): {"tags": ["db"]},
    ("DELETE", "/v2/firewalls/{firewall}/tags"): {"tags": ["web"]},
    ("POST", "/v2/firewalls/{firewall}/rules"): RULES,
    ("DELETE", "/v2/firewalls/{firewall}/rules"): RULES,
    ("POST", "/v2/tags"): {"name": "db"},
    ("DELETE", "/v2/tags/db"): None,
    ("POST", "/v2/tags/web/resources"): RESOURCES,
    ("DELETE", "/v2/tags/web/resources"): RESOURCES,
    ("PUT", f"/v1/hypervisors/{HV1}"): {"name": "hv", "uplinks": ["eth*", "1"]},
    ("DELETE", f"/v1/hypervisors/{HV2}"): None,
    ("POST", f"/v1/hypervisors/{HV1}/resync"): None,
    ("PUT", "/v1/droplets/102"): {"name": "d", "account": "default", "tags": ["web", "db"]},
    ("DELETE", "/v1/droplets/103?ports=delete"): None,
    ("PUT", "/v1/ports/p102"): {**port(102, HV1, "tap4", "10.0.0.2", "fd00::2"), "max_connections": 5},
    ("DELETE", "/v1/ports/p103"): None,
    ("PUT", "/v1/ports/p101/rules"): RULES,
    ("POST", "/v1/ports/p101/rules"): RULES,
    ("DELETE", "/v1/ports/p101/rules"): RULES,
    ("PUT", "/v1/external-peers/lb-1"): {"account": "default", "addresses": ["10.0.0.9"], "droplet_ids": [101]},
    ("DELETE", "/v1/external-peers/lb-1"): None,
}  # fmt: skip

odd_text = st.one_of(
    st.text(max_size=8),
    st.sampled_from([
        "", " ", "0", "-1", "١", "１", "\x00", "\ud800", "é" * 300, "🔥", "a" * 70_000,
        "0.0.0.0/0", "::/0", "10.0.0.1/33",
        "::ffff:10.0.0.1", "fe80::1%eth0", "010.0.0.1", "10.0.0.0/00", "1-", "-", "0-0", "65536", "65535-1", "1-65535",
        "all", "ALL", "tcp", "icmp", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "eth*", "[", "tap3", "null", "../x",
    ]),
)  # fmt: skip
odd_number = st.sampled_from(
    [0, -1, 1, 80, 2**16, 2**31, 2**53, 2**63, 2**64, 10**400, -(2**63), 0.5, 1e308, 1e400, -0.0]
)
leaves = st.one_of(st.none(), st.booleans(), odd_number, odd_text)
odd = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_text, inner, max_size=3), max_leaves=5
)
deep = st.integers(1, 3000).map(lambda depth: "[" * depth + "]" * depth)


def places(document: Json, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every value of a document, by the keys that lead to it."""
    entries = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [at, *(place for key, value in entries for place in places(value, (*at, key)))]


@st.composite
def bodies(draw: st.DrawFn, right: Json) -> bytes | None:
    """A document that is right, or one with something odd at one or two places of it."""
    if right is None and draw(st.booleans()):
        return None
    if draw(st.integers(0, 15)) == 0:
        return draw(st.one_of(deep.map(str.encode), st.binary(max_size=20)))
    document = {"it": deepcopy(right)}
    for _ in range(draw(st.integers(0, 2))):
        *way, last = ("it", *draw(st.sampled_from(places(document["it"]))))
        inside: Json = document
        for key in way:
            inside = inside[key]
        match draw(st.sampled_from(("replace", "replace", "add", "repeat", "drop"))):
            case "drop" if way:
                del inside[last]
            case "add" if isinstance(inside[last], dict):
                inside[last][draw(odd_text)] = draw(odd)
            case "repeat" if isinstance(inside[last], list):
                inside[last] *= draw(st.sampled_from((2, 60, 1100)))
            case _:
                inside[last] = draw(odd)
    return json.dumps(document["it"]).encode()


def test_every_write_that_packets_could_feel_is_here() -> None:
    table = Routes(ROUTES)
    tried = {table.find(method, path.partition("?")[0])[0] for method, path in DOCUMENTS}
    others = {route for route in ROUTES if route.writes} - tried
    assert {route.path.split("/")[2] for route in others} == {"tokens", "fences"}


@settings(max_examples=25)
@given(st.data())
def test_T176_no_document_crashes_the_program_or_passes_more_than_it_means(data: st.DataObject) -> None:
    world = World().furnish()
    firewall = world.good("POST", "/v2/firewalls", FIREWALL)["firewall"]["id"]
    for _ in range(data.draw(st.integers(1, 6), label="requests")):
        method, path = data.draw(st.sampled_from(list(DOCUMENTS)))
        body = data.draw(bodies(DOCUMENTS[method, path]))
        answer = world.call(method, path.format(firewall=firewall), body)
        assert answer.status < 500, (method, path, body, answer)
    policy = world.core.policy
    fleet = Fleet(SITE, Rulings())
    fleet.follow(policy)
    here = {place: port for port in policy.ports.values() if (place := fleet.place(port)) is not None}
    for _ in range(6 if policy.ports else 0):
        sent = data.draw(our.openings(policy, frozenset(port.id for port in here.values())))
        reached = fleet.send(policy.ports[sent.packet.sender] if sent.packet.sender else None, sent.frame).reached
        reached_ports = {here[place].mac for place in reached if place in here}
        receiver = policy.ports[sent.packet.receiver].mac if sent.packet.receiver else None
        allowed = decide(policy, sent.packet).verdict is Verdict.ALLOW
        assert reached_ports <= ({receiver} if allowed else set()), sent
