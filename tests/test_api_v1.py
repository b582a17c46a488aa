"""The operator's interface: every call, its answers, and that what was read can be written back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from api_server import HV1, HV2, World, port

HV3 = "00000000000000ab"
RULE = {"protocol": "tcp", "ports": "443", "sources": {"addresses": ["198.51.100.0/24"], "droplet_ids": [103]}}
OUT = {"protocol": "udp", "ports": "53", "destinations": {"addresses": ["::/0"]}}


@pytest.fixture
def world() -> World:
    return World().furnish()


def unchanged(world: World, path: str) -> Any:
    """Writes back what is read, and sees that nothing was written."""
    before = world.core.revision
    read = world.good("GET", path)
    answer = world.call("PUT", path, read)
    for rule in read.get("rules", ()):
        rule |= {"packets": None, "bytes": None}  # a write does not ask the switch
    assert (answer.status, answer.json) == (200, read)
    assert world.core.revision == before
    return read


# --------------------------------------------------------------------------------------------- hypervisors


def test_a_hypervisor_is_registered_replaced_and_removed(world: World) -> None:
    path = f"/v1/hypervisors/{HV3}"
    assert world.call("GET", path).status == 404
    created = world.call("PUT", path, {"name": "hv-3", "uplinks": ["bond0", 7]})
    assert created.status == 201
    assert (created.json["name"], created.json["uplinks"]) == ("hv-3", ["bond0", "7"])
    assert created.json["connected"] is False
    assert created.json["sync"]["state"] == "unreachable"
    replaced = world.call("PUT", path, {})
    assert (replaced.status, replaced.json["name"], replaced.json["uplinks"]) == (200, "", None)
    assert replaced.json["created_at"] == created.json["created_at"]
    assert world.call("DELETE", path).status == 204
    assert world.call("DELETE", path).status == 404


def test_a_hypervisor_shows_how_its_switch_stands(world: World) -> None:
    found = unchanged(world, f"/v1/hypervisors/{HV1}/")
    assert found["registered"] is found["connected"] is True
    assert (found["address"], found["openflow"]) == ("192.0.2.1", "1.4")
    assert found["connected_since"] == "2026-01-02T03:04:05Z"
    assert found["sync"] == {
        "state": "in_sync",
        "flows": 7,
        "last_change_at": "2026-01-02T03:04:05Z",
        "last_repair_at": None,
        "repaired_flows": 0,
        "foreign_flows": 0,
        "error": None,
        "fence": None,
        "watched": None,
    }
    world.switches[HV1].mode = "refuse"
    world.good("PUT", "/v1/ports/p101/rules", {"inbound_rules": []})
    sync = world.good("GET", f"/v1/hypervisors/{HV1}")["sync"]
    assert (sync["state"], sync["error"]) == ("failed", "table is full")


def test_a_hypervisor_that_connected_unregistered_is_listed_and_can_be_enrolled(world: World) -> None:
    switch = world.switches[HV1]
    switch.dpid = HV3
    switch.connect()
    assert [h["dpid"] for h in world.good("GET", "/v1/hypervisors")["hypervisors"]] == [HV1, HV2, HV3]
    found = world.good("GET", f"/v1/hypervisors/{HV3}")
    assert (found["registered"], found["name"]) == (False, None)
    assert world.call("PUT", f"/v1/hypervisors/{HV3}", found).status == 201


@pytest.mark.parametrize("dpid", ["1", "0000000000000AB0", "000000000000000g", "0" * 17])
def test_a_datapath_id_has_16_hex_digits(world: World, dpid: str) -> None:
    assert world.call("GET", f"/v1/hypervisors/{dpid}").status == 404
    answer = world.call("PUT", f"/v1/hypervisors/{dpid}", {})
    assert (answer.status, list(answer.problems)) == (422, ["dpid"])


def test_a_hypervisor_with_ports_stays(world: World) -> None:
    answer = world.call("DELETE", f"/v1/hypervisors/{HV1}")
    assert answer.status == 409
    assert answer.json["message"] == f"hypervisor {HV1} has ports: p101, p102"


def test_flows_are_read_back_with_what_they_come_from(world: World) -> None:
    body = {"name": "fw", "inbound_rules": [RULE], "droplet_ids": [101]}
    firewall = world.good("POST", "/v2/firewalls", body)["firewall"]
    world.good("PUT", "/v1/ports/p102/rules", {"outbound_rules": [OUT]})
    flows = world.good("GET", f"/v1/hypervisors/{HV1}/flows")["flows"]
    of_rules = [flow for flow in flows if flow["rule"]]
    # p101: 198.51.100.0/24, 103's three addresses and its link-local one less those of the other IP version: four flows
    assert {flow["rule"]["firewall"]["id"] for flow in of_rules if flow["rule"]["firewall"]} == {firewall["id"]}
    (inbound, *_) = [flow for flow in of_rules if flow["rule"]["direction"] == "inbound"]
    assert (inbound["packets"], inbound["bytes"]) == (10, 1000)
    assert {name: inbound["rule"][name] for name in RULE} == RULE
    (outbound,) = [flow for flow in of_rules if flow["rule"]["direction"] == "outbound"]
    assert (outbound["rule"]["port"], outbound["rule"]["firewall"]) == ("p102", None)
    assert "udp6" in outbound["flow"]
    assert {flow["port"] for flow in flows} == {None, "p101", "p102"}
    assert flows[-1]["flow"] == "table=99, whoever wrote this"


def test_flows_are_filtered_by_table_and_port(world: World) -> None:
    world.good("POST", "/v2/firewalls", {"name": "fw", "inbound_rules": [RULE], "droplet_ids": [101, 102]})
    path = f"/v1/hypervisors/{HV1}/flows"
    every = world.good("GET", path)["flows"]
    rules = world.good("GET", f"{path}?table=30")["flows"]
    assert 0 < len(rules) < len(every)
    assert all("table=30," in flow["flow"] for flow in rules)
    slot = world.core.policy.ports["p102"].slot
    of_port = world.good("GET", f"{path}?table=30&port=p102")["flows"]
    assert 0 < len(of_port) < len(rules)
    assert all(f"reg5={slot:#x}" in flow["flow"] for flow in of_port)
    guards = world.good("GET", f"{path}?table=0&port=p102")["flows"]
    assert guards
    assert {flow["port"] for flow in guards} == {"p102"}
    assert world.good("GET", f"{path}?table=77")["flows"] == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"{HV1}/flows?table=x", 422),
        (f"{HV1}/flows?table=255", 422),
        (f"{HV1}/flows?port=none", 404),
        (f"{HV3}/flows", 404),
    ],
)
def test_flows_that_cannot_be_read(world: World, path: str, code: int) -> None:
    assert world.call("GET", f"/v1/hypervisors/{path}").status == code


def test_a_resync_is_passed_on(world: World) -> None:
    answer = world.call("POST", f"/v1/hypervisors/{HV1}/resync")
    assert (answer.status, answer.json["dpid"]) == (202, HV1)
    assert (world.switches[HV1].resyncs, world.switches[HV2].resyncs) == (1, 0)
    assert world.call("POST", f"/v1/hypervisors/{HV3}/resync").status == 404
    world.core.disconnected(HV1, world.switches[HV1])
    assert world.call("POST", f"/v1/hypervisors/{HV1}/resync").status == 503


# --------------------------------------------------------------------------------------------- droplets


def test_a_droplet_is_registered_replaced_and_removed(world: World) -> None:
    created = world.call("PUT", "/v1/droplets/300", {"name": "x", "account": "acme", "tags": ["new", "NEW", "b"]})
    assert created.status == 201
    assert created.json == {
        "id": 300,
        "account": "acme",
        "name": "x",
        "tags": ["new", "b"],
        "created_at": created.json["created_at"],
    }
    assert unchanged(world, "/v1/droplets/300") == created.json
    assert [t["name"] for t in world.good("GET", "/v2/tags?account=acme")["tags"]] == ["b", "new", "secret"]
    assert world.call("PUT", "/v1/droplets/300", {"account": "acme"}).status == 200
    assert world.good("GET", "/v1/droplets/300")["tags"] == []
    assert world.call("PUT", "/v1/droplets/300", {}).status == 409  # it is acme's
    assert world.call("DELETE", "/v1/droplets/300").status == 204
    assert world.call("DELETE", "/v1/droplets/300").status == 404
    assert world.call("GET", "/v1/droplets/300").status == 404


def test_droplets_of_all_accounts_are_listed(world: World) -> None:
    assert [d["id"] for d in world.good("GET", "/v1/droplets")["droplets"]] == [101, 102, 103, 201]
    assert [d["id"] for d in world.good("GET", "/v1/droplets?account=acme")["droplets"]] == [201]


def test_a_droplet_with_ports_is_deleted_only_when_asked(world: World) -> None:
    firewall = world.good("POST", "/v2/firewalls", {"name": "fw", "inbound_rules": [RULE], "droplet_ids": [103]})
    assert world.call("DELETE", "/v1/droplets/103").json["message"] == "droplet 103 has ports: p103"
    assert world.call("DELETE", "/v1/droplets/103?ports=keep").status == 422
    assert world.call("DELETE", "/v1/droplets/103?ports=delete").status == 204
    assert world.call("GET", "/v1/ports/p103").status == 404
    left = world.good("GET", f"/v2/firewalls/{firewall['firewall']['id']}")["firewall"]
    assert left["droplet_ids"] == []
    assert left["inbound_rules"][0]["sources"] == {"addresses": ["198.51.100.0/24"]}


@pytest.mark.parametrize(("number", "code"), [("0", 422), (str(2**53 + 1), 422), ("x", 404), ("x" * 40, 404)])
def test_a_droplet_needs_a_number(world: World, number: str, code: int) -> None:
    assert world.call("PUT", f"/v1/droplets/{number}", {}).status == code


@pytest.mark.parametrize("number", [2**53 + 1, 2**63 - 1, "9" * 5000])
def test_a_droplet_id_that_is_too_large_names_the_largest(world: World, number: object) -> None:
    answer = world.call("PUT", f"/v1/droplets/{number}", {})
    assert (answer.status, str(2**53) in answer.problems["id"]) == (422, True)


def test_a_droplet_shows_the_first_spelling_of_its_tags(world: World) -> None:
    world.good("POST", "/v2/tags", {"name": "Case"})
    found = world.good("PUT", "/v1/droplets/161", {"tags": ["CASE", "new", "case", "NEW"]})
    assert found["tags"] == ["Case", "new"]
    unchanged(world, "/v1/droplets/161")
    resources = {"resources": [{"resource_id": "102", "resource_type": "droplet"}]}
    world.good("POST", "/v2/tags/cASE/resources", resources)
    assert world.good("GET", "/v1/droplets/102")["tags"] == ["Case"]


# --------------------------------------------------------------------------------------------- ports


def test_a_port_is_registered_replaced_and_removed(world: World) -> None:
    world.good("DELETE", "/v1/ports/p103")
    body = port(103, HV2, "tap3", "192.0.2.9") | {"mac": "02:00:00:00:00:AA"}
    created = world.call("PUT", "/v1/ports/nic:1", body)
    assert created.status == 201
    assert created.json == {
        "id": "nic:1",
        "droplet_id": 103,
        "hypervisor": HV2,
        "interface": "tap3",
        "number": 3,
        "mac": "02:00:00:00:00:aa",
        "addresses": ["192.0.2.9"],
        "max_connections": None,
        "status": "succeeded",
        "error": None,
        "created_at": created.json["created_at"],
    }
    assert unchanged(world, "/v1/ports/nic:1") == created.json
    replaced = world.call("PUT", "/v1/ports/nic:1", body | {"addresses": None})
    assert (replaced.status, replaced.json["addresses"]) == (200, [])
    assert world.call("DELETE", "/v1/ports/nic:1").status == 204
    assert world.call("DELETE", "/v1/ports/nic:1").status == 404


def test_a_port_registered_by_number_stays_so(world: World) -> None:
    by_number = {name: value for name, value in port(103, HV2, "").items() if name != "interface"} | {"number": 3}
    world.good("PUT", "/v1/ports/p103", by_number)
    assert unchanged(world, "/v1/ports/p103")["interface"] == "tap3"
    assert world.core.policy.ports["p103"].number == 3
    world.good("PUT", "/v1/ports/p103", by_number | {"interface": "tap9", "number": 4})
    assert (world.core.policy.ports["p103"].interface, world.core.policy.ports["p103"].number) == ("tap9", None)


def test_a_port_tells_how_it_stands(world: World) -> None:
    world.good("PUT", "/v1/droplets/104", {})
    absent = world.good("PUT", "/v1/ports/p104", port(104, HV1, "tap9"))
    assert (absent["status"], absent["number"]) == ("absent", None)
    world.switches[HV1].mode = "refuse"
    world.good("PUT", "/v1/ports/p101/rules", {"inbound_rules": []})
    failed = world.good("GET", "/v1/ports/p101")
    assert (failed["status"], failed["error"]) == ("failed", "table is full")
    world.switches[HV1].mode = "silent"
    world.good("PUT", "/v1/ports/p101/rules", {"inbound_rules": [RULE]})
    assert world.good("GET", "/v1/ports/p101")["status"] == "waiting"
    world.core.disconnected(HV1, world.switches[HV1])
    assert world.good("GET", "/v1/ports/p101")["status"] == "unreachable"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["p101", "p102", "p103"]),
        (f"?hypervisor={HV1}", ["p101", "p102"]),
        ("?droplet_id=103", ["p103"]),
        (f"?hypervisor={HV1}&droplet_id=103", []),
    ],
)
def test_ports_are_filtered(world: World, query: str, found: list[str]) -> None:
    assert [p["id"] for p in world.good("GET", f"/v1/ports{query}")["ports"]] == found
    assert world.call("GET", "/v1/ports?droplet_id=x").status == 422


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"interface": "tap4"}, "interface tap4 belongs to port p102"),
        ({"mac": "02:00:00:00:00:66"}, "MAC 02:00:00:00:00:66 belongs to port p102"),
        ({"addresses": ["10.0.0.0/30"]}, "address 10.0.0.0/30 belongs to port p102"),
    ],
)
def test_what_another_port_has_cannot_be_claimed(world: World, part: dict[str, object], message: str) -> None:
    world.good("PUT", "/v1/droplets/104", {})
    answer = world.call("PUT", "/v1/ports/p104", port(104, HV1, "tap9") | part)
    assert (answer.status, answer.json["message"]) == (409, message)


UPLINK = "is an uplink of hypervisor 0000000000000001, whose uplinks name"


@pytest.mark.parametrize(
    ("uplinks", "part", "message"),
    [
        (["eth0"], {"interface": "eth0"}, f"interface eth0 of port p9 {UPLINK} 'eth0'"),
        (["x", "eth*"], {"interface": "eth7"}, f"interface eth7 of port p9 {UPLINK} 'eth*'"),
        (["eth*"], {"interface": None, "number": 1}, f"number 1 of port p9 {UPLINK} 'eth*'"),  # eth0, says the switch
        ([7], {"interface": None, "number": 7}, f"number 7 of port p9 {UPLINK} '7'"),
        ([1], {"interface": "eth0"}, f"interface eth0 of port p9 {UPLINK} '1'"),
    ],
)
def test_an_uplink_is_no_port_of_a_droplet(
    world: World, uplinks: list[object], part: dict[str, object], message: str
) -> None:
    hypervisor, body = f"/v1/hypervisors/{HV1}", port(101, HV1, "tap9") | {"mac": "02:00:00:00:09:09"} | part
    world.good("PUT", hypervisor, {"uplinks": uplinks})
    answer = world.call("PUT", "/v1/ports/p9", body)
    assert (answer.status, answer.json["message"]) == (409, message)
    world.good("PUT", hypervisor, {"uplinks": []})
    world.good("PUT", "/v1/ports/p9", body)
    before = world.core.revision
    answer = world.call("PUT", hypervisor, {"uplinks": uplinks})
    assert (answer.status, answer.json["message"], world.core.revision) == (409, message, before)


def test_the_default_uplinks_take_no_port_from_a_droplet(world: World) -> None:
    world.good("PUT", f"/v1/hypervisors/{HV1}", {})
    world.good("PUT", "/v1/ports/p9", port(101, HV1, "eth9") | {"mac": "02:00:00:00:09:09"})


@pytest.mark.parametrize(
    ("path", "part", "at"),
    [
        ("x y", {}, ""),
        ("a" * 65, {}, ""),
        ("p9", {"droplet_id": 999}, "droplet_id"),
        ("p9", {"hypervisor": HV3}, "hypervisor"),
        ("p9", {"interface": None, "number": None}, ""),
        ("p9", {"interface": ""}, "interface"),
    ],
)
def test_faults_of_ports(world: World, path: str, part: dict[str, object], at: str) -> None:
    answer = world.call("PUT", f"/v1/ports/{path}", port(101, HV1, "tap9") | part)
    assert (answer.status, list(answer.problems)) == (422, [at])


@pytest.mark.parametrize("part", [{"interface": None}, {"interface": None, "number": None}])
def test_a_port_needs_an_interface_or_a_number(world: World, part: dict[str, object]) -> None:
    answer = world.call("PUT", "/v1/ports/p9", port(101, HV1, "tap9") | part)
    assert (answer.status, answer.problems) == (422, {"": "one of interface and number is needed"})


# --------------------------------------------------------------------------------------------- rules of one port


def test_a_write_tells_what_it_came_to_whatever_others_do_before_it_is_answered(world: World) -> None:
    path = "/v1/ports/p101/rules"
    settled = world.core.wait

    def meanwhile(*waited: Any) -> bool:
        world.core.wait = settled  # type: ignore[method-assign]
        world.good("DELETE", "/v1/ports/p101")
        return True

    world.core.wait = meanwhile  # type: ignore[method-assign]
    answer = world.call("PUT", path, {"inbound_rules": [RULE]}, headers={"Prefer": "wait=1"})
    assert (answer.status, len(answer.json["inbound_rules"])) == (200, 1)
    assert "p101" not in world.core.policy.ports


def test_rules_of_a_port_are_replaced_added_and_removed(world: World) -> None:
    path = "/v1/ports/p101/rules"
    empty = world.good("GET", path)
    assert (empty["own"], empty["inbound_rules"], empty["outbound_rules"], empty["rules"]) == (False, [], [], [])
    answer = world.call("PUT", path, {"inbound_rules": [RULE]})
    assert (answer.status, answer.json["own"], answer.json["inbound_rules"]) == (200, True, [RULE])
    assert unchanged(world, path)["outbound_rules"] == []
    assert world.call("POST", path, {"outbound_rules": [OUT], "inbound_rules": [RULE]}).status == 204
    found = world.good("GET", path)
    assert (found["inbound_rules"], found["outbound_rules"]) == ([RULE], [OUT])
    answer = world.call("DELETE", path, {"inbound_rules": [RULE, {**RULE, "ports": "80"}]})
    assert (answer.status, answer.headers["x-firewall-rules-unmatched"]) == (204, "1")
    assert world.call("DELETE", path, {"outbound_rules": [OUT]}).status == 204
    assert world.good("GET", path)["own"] is True  # an empty set: still behind a firewall
    assert world.call("DELETE", path, {}).status == 422
    assert world.call("DELETE", path).status == 204
    assert world.good("GET", path)["own"] is False


def test_all_that_applies_to_a_port_is_listed_resolved(world: World) -> None:
    world.good("POST", "/v2/firewalls", {"name": "tagged", "inbound_rules": [RULE], "tags": ["web"]})
    world.good("POST", "/v2/firewalls", {"name": "other", "inbound_rules": [RULE], "droplet_ids": [102]})
    world.good("PUT", "/v1/ports/p101/rules", {"outbound_rules": [OUT]})
    first, second = world.good("GET", "/v1/ports/p101/rules")["rules"]
    assert (first["firewall"]["name"], first["port"], first["direction"]) == ("tagged", None, "inbound")
    assert {name: first[name] for name in RULE} == RULE
    assert first["addresses"] == ["10.0.0.3", "10.9.0.0/24", "198.51.100.0/24", "fe80::ff:fe00:67"]
    number = next(f.number for f in world.core.policy.firewalls.values() if f.name == "tagged")
    assert len(first["flows"]) == 4
    assert all("tp_dst=443" in flow and f"reg3={number:#x},reg6=0x0" in flow for flow in first["flows"])
    assert (second["firewall"], second["port"], second["addresses"]) == (None, "p101", ["::/0"])
    world.good("POST", "/v2/tags/web/resources", {"resources": [{"resource_id": 102, "resource_type": "droplet"}]})
    names = {rule["firewall"]["name"] for rule in world.good("GET", "/v1/ports/p102/rules")["rules"]}
    assert names == {"tagged", "other"}


def test_rules_of_a_port_tell_what_they_have_counted(world: World) -> None:
    path = "/v1/ports/p101/rules"
    written = world.good("PUT", path, {"inbound_rules": [RULE], "outbound_rules": [OUT]})
    assert {(rule["packets"], rule["bytes"]) for rule in written["rules"]} == {(None, None)}
    for rule in world.good("GET", path)["rules"]:
        flows = sum("table=33," in flow for flow in rule["flows"])
        assert (rule["packets"], rule["bytes"]) == (10 * flows, 1000 * flows)
        assert flows
    world.switches[HV1].mode = "silent"
    assert {(rule["packets"], rule["bytes"]) for rule in world.good("GET", path)["rules"]} == {(None, None)}
    world.core.disconnected(HV1, world.switches[HV1])
    assert {(rule["packets"], rule["bytes"]) for rule in world.good("GET", path)["rules"]} == {(None, None)}


def test_what_always_passes_a_port_is_listed_with_its_flows(world: World) -> None:
    world.good("PUT", "/v1/ports/p101/rules", {"inbound_rules": []})
    rules = world.good("GET", "/v1/ports/p101/rules")["system_rules"]
    names = {"arp", "rarp", "neighbour-discovery", "multicast-listener-discovery", "dhcp-client"}
    assert {rule["name"] for rule in rules} == names
    assert {(rule["name"], rule["direction"]) for rule in rules} >= {("arp", "inbound"), ("dhcp-client", "outbound")}
    listed = [flow for rule in rules for flow in rule["flows"]]
    held = {flow["flow"] for flow in world.good("GET", f"/v1/hypervisors/{HV1}/flows?port=p101")["flows"]}
    assert listed
    everything = {flow["flow"] for flow in world.good("GET", f"/v1/hypervisors/{HV1}/flows")["flows"]}
    assert set(listed) <= everything
    past = {flow for flow in held if ("table=0," in flow or "table=10," in flow) and flow.endswith("resubmit(,40)")}
    assert past - set(listed) == set(), "what goes past the rules is listed"
    assert len(listed) == len(set(listed))
    world.good("PUT", "/v1/ports/p101", {**world.good("GET", "/v1/ports/p101"), "interface": "absent0", "number": None})
    own = [flow for rule in world.good("GET", "/v1/ports/p101/rules")["system_rules"] for flow in rule["flows"]]
    assert own == [], "none while its interface is not there"
    whole = world.good("GET", "/v1/ports/p101/rules")
    world.good("PUT", "/v1/ports/p101/rules", whole)


def test_rules_of_a_port_have_faults_too(world: World) -> None:
    path = "/v1/ports/p101/rules"
    assert world.call("PUT", path, {}).status == 422
    assert world.call("PUT", path).status == 400
    wrong = {**RULE, "sources": {"droplet_ids": [201], "tags": ["secret"]}}
    answer = world.call("POST", path, {"inbound_rules": [wrong]})
    assert list(answer.problems) == ["inbound_rules[0].sources.droplet_ids[0]", "inbound_rules[0].sources.tags[0]"]
    for method in ("GET", "PUT", "POST", "DELETE"):
        assert world.call(method, "/v1/ports/none/rules", {"inbound_rules": [RULE]}).status == 404


# --------------------------------------------------------------------------------------------- the service


def test_health_and_readiness(world: World) -> None:
    assert world.good("GET", "/healthz") == {"status": "ok"}
    assert world.good("GET", "/readyz") == {"status": "ok", "problems": []}
    world.switches[HV2].refuse()
    world.store.broken = True
    answer = world.call("GET", "/readyz", token=None)
    assert answer.status == 503
    assert answer.json["status"] == "not ready"
    assert [problem.split(":")[0] for problem in answer.json["problems"]] == ["store", f"hypervisor {HV2}"]
    assert world.call("GET", "/healthz").status == 200


def test_status_is_one_object_for_a_dashboard(world: World) -> None:
    world.good("POST", "/v2/firewalls", {"name": "fw", "inbound_rules": [RULE]})
    world.good("PUT", "/v1/ports/p101/rules", {"outbound_rules": [OUT]})
    world.core.disconnected(HV2, world.switches[HV2])
    found = world.good("GET", "/v1/status")
    assert found["revision"] == world.core.revision
    assert found["hypervisors"] == {
        "registered": 2,
        "connected": 1,
        "in_sync": 1,
        "syncing": 0,
        "failed": 0,
        "standby": 0,
        "unreachable": 1,
        "unconfirmed": 0,
    }
    assert found["since_start"] == {
        "changes": world.core.revision,
        "connections": 2,
        "refusals": 0,
        "repairs": 0,
        "repaired_flows": 0,
        "store_failures": 0,
    }
    assert [found[name] for name in ("droplets", "ports", "tags", "firewalls", "rules")] == [4, 3, 2, 1, 2]


# --------------------------------------------------------------------------------------------- the manual

CURL = re.compile(
    r"""^curl -H "\$A" (?:-H "Prefer: [^"]*" )?(?:-X (\w+) )?\$U(\S+)(?: --json '([^']*)')?""", re.MULTILINE
)


def test_the_calls_of_the_manual_work_in_their_order() -> None:
    text = (Path(__file__).parent.parent / "docs" / "api.md").read_text()
    world, answers = World(), {}
    world.switches["0000000000000001"].connect()
    calls = CURL.findall(text)
    assert len(calls) == text.count("\ncurl ")
    for method, path, body in calls:
        answers[path] = world.good(method or "POST", path, json.loads(body))
    told = answers["/v1/explain"]
    assert (told["verdict"], told["reason"]) == ("DROP", "no inbound rule of droplet 101 allows it")
    assert told["checks"][0]["nearest"]["misses_by"] in text
