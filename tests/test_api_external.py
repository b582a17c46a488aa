"""External peers over HTTP: the operator's mapping, what it does to rules, and what callers are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from api_server import HV1, HV2, OTHER_TENANT, TENANT, VIEWER, World, port

from firewall_app.pipeline.unit import Unit, UnitKey

LB = "4de7ac8b-495b-4884-9a69-1050c6793cd6"
PEERS = "/v1/external-peers"
RULE: dict[str, Any] = {"protocol": "tcp", "ports": "443", "sources": {"load_balancer_uids": [LB]}}
WEB = {"name": "web-fw", "droplet_ids": [101], "inbound_rules": [RULE]}


@pytest.fixture
def world() -> World:
    return World().furnish()


def stands_for(world: World, port_id: str = "p101") -> list[str]:
    """The addresses of the first rule of a port, as the operator is told."""
    found: list[str] = world.good("GET", f"/v1/ports/{port_id}/rules")["rules"][0]["addresses"]
    return found


def held(world: World, dpid: str) -> Mapping[UnitKey, Unit]:
    return world.core.units(dpid, world.switches[dpid].interfaces).units


def test_a_mapping_is_made_read_listed_replaced_and_taken_away(world: World) -> None:
    body = {"name": "front", "addresses": ["203.0.113.9", "2001:DB8::/64"], "droplet_ids": [103, 101]}
    answer = world.call("PUT", f"{PEERS}/{LB}", body)
    made = {"uid": LB, "account": "default", **body, "created_at": answer.json["created_at"]}
    assert (answer.status, answer.json) == (201, made)
    assert made["created_at"]
    assert world.good("GET", f"{PEERS}/{LB.upper()}") == made
    revision = world.core.revision
    answer = world.call("PUT", f"{PEERS}/{LB}", made)
    assert (answer.status, answer.json) == (200, made)
    assert world.core.revision == revision, "the same again is no change"
    tag = world.call("GET", f"{PEERS}/{LB}").headers["ETag"]
    assert answer.headers["ETag"] == tag
    assert world.call("PUT", f"{PEERS}/{LB}", {}, headers={"If-Match": '"other"'}).status == 412
    bare = {**made, "name": "", "addresses": [], "droplet_ids": []}
    assert world.good("PUT", f"{PEERS}/{LB}", {"addresses": None}) == bare
    world.good("PUT", f"{PEERS}/k8s", {"account": "acme", "droplet_ids": ["201"]})
    listed = world.good("GET", f"{PEERS}?per_page=1&page=2", token=VIEWER)
    assert [one["uid"] for one in listed["external_peers"]] == ["k8s"]
    assert (listed["meta"], set(listed["links"]["pages"])) == ({"total": 2}, {"first", "prev"})
    assert [one["uid"] for one in world.good("GET", f"{PEERS}?account=default")["external_peers"]] == [LB]
    assert world.call("DELETE", f"{PEERS}/{LB}").status == 204
    assert world.call("DELETE", f"{PEERS}/{LB}").status == 404
    assert world.call("GET", f"{PEERS}/{LB}").status == 404
    told = [change for entry in world.good("GET", "/v1/audit")["entries"] for change in entry["changes"]]
    assert {"kind": "external_peer", "id": LB, "before": bare, "after": None} in told


def test_a_rule_means_what_its_account_has_mapped_now(world: World) -> None:
    world.good("POST", "/v2/firewalls", WEB)
    assert stands_for(world) == [], "without a mapping nobody, never everybody"
    world.good("PUT", f"{PEERS}/{LB}", {"account": "acme", "addresses": ["203.0.113.9"], "droplet_ids": [201]})
    assert stands_for(world) == [], "the mapping of another account"
    world.good("DELETE", f"{PEERS}/{LB}")
    world.good("PUT", f"{PEERS}/{LB.upper()}", {"addresses": ["203.0.113.9/30"], "droplet_ids": [102]})
    assert stands_for(world) == ["10.0.0.2", "203.0.113.8/30", "fe80::ff:fe00:66"]
    flows = world.good("GET", "/v1/ports/p101/rules")["rules"][0]["flows"]
    served = world.good("GET", f"/v1/hypervisors/{HV1}/flows?port=p101")["flows"]
    assert set(flows) <= {entry["flow"] for entry in served}
    assert sum("203.0.113.8/30" in entry["flow"] for entry in served) == 1, "its address is one flow, for the port too"
    world.good("DELETE", f"{PEERS}/{LB}")
    assert stands_for(world) == []
    one = world.good("GET", "/v2/firewalls")["firewalls"][0]
    assert one["inbound_rules"] == [RULE], "what the tenant wrote stays as it is"


def test_a_mapping_counts_when_a_verdict_is_explained(world: World) -> None:
    world.good("POST", "/v2/firewalls", WEB)
    asked = {"from": {"address": "203.0.113.9"}, "to": {"droplet_id": 101}, "protocol": "tcp", "ports": "443"}
    assert world.good("POST", "/v1/explain", asked)["verdict"] == "DROP"
    world.good("PUT", f"{PEERS}/{LB}", {"addresses": ["203.0.113.8/30"]})
    found = world.good("POST", "/v1/explain", asked)
    assert (found["verdict"], found["checks"][0]["rule"]) == ("ALLOW", RULE)
    assert any("203.0.113.8/30" in one["flow"] for one in found["flows"])


def test_a_mapping_named_by_many_rules_costs_its_addresses_once(world: World) -> None:
    rules = [{**RULE, "ports": f"{first}-{first + 2}"} for first in range(1000, 2000, 50)]
    world.good("POST", "/v2/firewalls", {**WEB, "inbound_rules": rules})

    def count() -> int:
        return sum(1 for unit in held(world, HV1).values() for _ in unit.flows())

    before = count()
    world.good("PUT", f"{PEERS}/{LB}", {"addresses": ["192.0.2.1"]})
    first = count()
    world.good("PUT", f"{PEERS}/{LB}", {"addresses": [f"192.0.2.{n}" for n in range(1, 101)]})
    assert count() - first == 99
    assert first - before < 100


def test_only_hypervisors_concerned_are_told_and_waited_for(world: World) -> None:
    world.good("POST", "/v2/firewalls", WEB)
    told = {dpid: switch.told for dpid, switch in world.switches.items()}

    def more() -> dict[str, int]:
        return {dpid: switch.told - told[dpid] for dpid, switch in world.switches.items()}

    world.good("PUT", f"{PEERS}/unnamed", {"addresses": ["192.0.2.1"], "droplet_ids": [101, 103]})
    assert more() == {HV1: 0, HV2: 0}
    world.switches[HV1].mode = "silent"
    answer = world.call("PUT", f"{PEERS}/{LB}", {"droplet_ids": [103]}, headers={"Prefer": "wait=0"})
    assert answer.headers["X-Change-Status"] == "waiting"
    assert more() == {HV1: 1, HV2: 0}
    firewall = world.good("GET", "/v2/firewalls")["firewalls"][0]
    assert firewall["pending_changes"] == [{"droplet_id": 101, "removing": False, "status": "waiting"}]
    world.switches[HV1].mode = "confirm"
    world.good("PUT", "/v1/ports/p103", port(103, HV2, "tap3", "10.0.0.33"))
    assert more() == {HV1: 2, HV2: 1}, "a member of the mapping has another address"
    assert "10.0.0.33" in stands_for(world)


def test_a_droplet_that_is_deleted_leaves_its_mappings(world: World) -> None:
    world.good("POST", "/v2/firewalls", WEB)
    world.good("PUT", f"{PEERS}/{LB}", {"droplet_ids": [102, 103, 102], "addresses": ["192.0.2.1"]})
    world.good("DELETE", "/v1/droplets/102?ports=delete")
    assert world.good("GET", f"{PEERS}/{LB}")["droplet_ids"] == [103]
    assert stands_for(world) == ["10.0.0.3", "10.9.0.0/24", "192.0.2.1", "fe80::ff:fe00:67"]


@pytest.mark.parametrize(
    ("uid", "body", "status", "at"),
    [
        (LB, {"droplet_ids": [101, 999]}, 422, ["droplet_ids[1]"]),
        (LB, {"droplet_ids": [101, 201]}, 422, ["droplet_ids[1]"]),
        (LB, {"addresses": ["10.0.0.1", "10.0.0"], "adresses": []}, 422, ["addresses[1]", "adresses"]),
        (LB, {"addresses": [f"10.0.{n >> 8}.{n & 255}" for n in range(1001)]}, 422, ["addresses"]),
        (LB, {"account": "a b"}, 422, ["account"]),
        ("a b", {}, 422, ["uid"]),
        ("a" * 65, {}, 422, ["uid"]),
        ("taken", {}, 409, [""]),
        ("TAKEN", {"account": "umbrella"}, 409, [""]),
    ],
)
def test_mappings_that_cannot_be(world: World, uid: str, body: object, status: int, at: list[str]) -> None:
    world.good("PUT", f"{PEERS}/taken", {"account": "acme"})
    answer = world.call("PUT", f"{PEERS}/{uid}", body)
    assert (answer.status, list(answer.problems)) == (status, at)
    assert [one["uid"] for one in world.good("GET", PEERS)["external_peers"]] == ["taken"]


@pytest.mark.parametrize("token", [TENANT, OTHER_TENANT])
def test_mappings_are_not_for_tenants(world: World, token: str) -> None:
    world.good("PUT", f"{PEERS}/{LB}", {})
    for method, path in (
        ("GET", PEERS),
        ("GET", f"{PEERS}/{LB}"),
        ("PUT", f"{PEERS}/{LB}"),
        ("DELETE", f"{PEERS}/{LB}"),
    ):
        assert world.call(method, path, {} if method == "PUT" else None, token=token).status == 403
    assert world.call("PUT", f"{PEERS}/{LB}", {}, token=VIEWER).status == 403


# --------------------------------------------------------------------------------------------- warnings


def test_a_write_that_names_a_uid_without_a_mapping_carries_a_warning(world: World) -> None:
    world.good("PUT", f"{PEERS}/{LB}", {})
    world.good("PUT", f"{PEERS}/theirs", {"account": "acme"})
    both = {**RULE, "sources": {"load_balancer_uids": [LB.upper()], "kubernetes_ids": ["theirs", "k", "theirs"]}}
    said = '299 - "uids without an external peer match nobody: theirs, k"'
    answer = world.call("POST", "/v2/firewalls", {**WEB, "inbound_rules": [both]})
    one, own = f"/v2/firewalls/{answer.json['firewall']['id']}", "/v1/ports/p101/rules"
    assert answer.headers["Warning"] == said
    writes = (("PUT", one, WEB), ("POST", f"{one}/rules", {}), ("PUT", own, {}), ("POST", own, {}))
    for method, path, body in writes:
        assert world.call(method, path, {**body, "inbound_rules": [both]}).headers["Warning"] == said, (method, path)
        answer = world.call(method, path, {**body, "inbound_rules": [RULE]})
        assert answer.status < 300
        assert "Warning" not in answer.headers, (method, path)


@pytest.mark.parametrize(
    ("uids", "listed"),
    [
        (["a", "B.c_d:e-f"], "a, B.c_d:e-f"),
        ([f"{n:064d}" for n in range(1000)], ", ".join(f"{n:064d}" for n in range(10)) + ", 990 not shown"),
    ],
    ids=["some", "very many"],
)
def test_a_warning_holds_what_a_header_can(world: World, uids: list[str], listed: str) -> None:
    rule = {**RULE, "sources": {"kubernetes_ids": uids}}
    answer = world.call("POST", "/v2/firewalls", {**WEB, "inbound_rules": [rule]})
    assert answer.headers["Warning"] == f'299 - "uids without an external peer match nobody: {listed}"'


@pytest.mark.parametrize("field", ["load_balancer_uids", "kubernetes_ids"])
def test_a_uid_that_no_peer_can_have_is_refused(world: World, field: str) -> None:
    uids = [LB, LB.upper(), LB.replace("-", ""), f"urn:uuid:{LB}", "", "x y", "a" * 65, 'q"\r\n', "é", "a\n"]
    rule = {**RULE, "sources": {field: uids}}
    said = "must be a uid: 1 to 64 letters, digits, '.', '_', ':', '-'"
    for method, path, body in (("POST", "/v2/firewalls", WEB), ("PUT", "/v1/ports/p101/rules", {})):
        answer = world.call(method, path, {**body, "inbound_rules": [rule]})
        assert answer.status == 422
        assert answer.problems == {f"inbound_rules[0].sources.{field}[{i}]": said for i in range(4, 10)}


# --------------------------------------------------------------------------------------------- spelling


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"addresses": ["2001:db8::1"]}, {"addresses": ["2001:DB8:0::1"]}),
        ({"addresses": ["10.0.0.0/8"]}, {"addresses": ["10.1.2.3/8"]}),
        ({"tags": ["web"]}, {"tags": ["WEB"]}),
        ({"kubernetes_ids": ["k8s"]}, {"load_balancer_uids": ["K8S"]}),
    ],
)
def test_another_spelling_is_stored_and_changes_no_flow(world: World, before: object, after: object) -> None:
    world.good("PUT", f"{PEERS}/k8s", {"addresses": ["192.0.2.1"]})
    made = world.good("POST", "/v2/firewalls", {**WEB, "inbound_rules": [{**RULE, "sources": before}]})["firewall"]
    old = held(world, HV1)
    rule = {**RULE, "sources": after}
    changed = world.good("PUT", f"/v2/firewalls/{made['id']}", {**WEB, "inbound_rules": [rule]})["firewall"]
    assert changed["inbound_rules"] == [rule]
    assert held(world, HV1) == old


def test_ports_are_echoed_as_written_and_mean_the_same(world: World) -> None:
    plain = {**RULE, "sources": {"addresses": ["192.0.2.1"]}}
    spelled = {**plain, "ports": "443-443"}
    one = f"/v2/firewalls/{world.good('POST', '/v2/firewalls', {**WEB, 'inbound_rules': [plain]})['firewall']['id']}"
    before, revision = held(world, HV1), world.core.revision
    assert world.good("PUT", one, {**WEB, "inbound_rules": [spelled]})["firewall"]["inbound_rules"] == [spelled]
    assert world.good("GET", one)["firewall"]["inbound_rules"] == [spelled]
    assert held(world, HV1) == before, "no flow differs"
    assert world.core.revision == revision + 1
    world.good("PUT", one, world.good("GET", one)["firewall"])
    assert world.core.revision == revision + 1
    world.good("POST", f"{one}/rules", {"inbound_rules": [plain]})
    assert world.good("GET", one)["firewall"]["inbound_rules"] == [spelled], "it is there already"
    answer = world.call("DELETE", f"{one}/rules", {"inbound_rules": [plain]})
    assert "x-firewall-rules-unmatched" not in answer.headers
    assert world.good("GET", one)["firewall"]["inbound_rules"] == []
