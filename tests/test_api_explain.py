"""`POST /v1/explain`: what is asked, what is answered, and what makes no sense."""

from __future__ import annotations

from typing import Any

import pytest
from api_server import HV1, HV2, TENANT, VIEWER, Answer, World, port

from firewall_app.pipeline.compile import Rulings
from firewall_app.service.core import Core

WEB = {"protocol": "tcp", "ports": "80-90", "sources": {"addresses": ["1.1.2.0/24"], "tags": ["web"]}}
SSH = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["1.1.2.0/24", "192.0.2.1"]}}
PING = {"protocol": "icmp", "ports": "0", "sources": {"droplet_ids": [102]}}
OUT = {"protocol": "tcp", "ports": "443", "destinations": {"addresses": ["0.0.0.0/0"]}}


@pytest.fixture
def world() -> World:
    """Droplet 103 is behind a firewall, 101 and 102 behind none."""
    world = World().furnish()
    world.good(
        "POST",
        "/v2/firewalls",
        {"name": "db-fw", "inbound_rules": [WEB, SSH, PING], "outbound_rules": [OUT], "droplet_ids": [103]},
    )
    return world


def ask(
    world: World, source: object, target: object, protocol: str = "tcp", token: str = VIEWER, **more: Any
) -> Answer:
    return world.call("POST", "/v1/explain", {"from": source, "to": target, "protocol": protocol, **more}, token=token)


def told(world: World, source: object, target: object, protocol: str = "tcp", **more: Any) -> Any:
    answer = ask(world, source, target, protocol, **more)
    assert answer.status == 200, answer.body
    return answer.json


# --------------------------------------------------------------------------------------------- verdicts


def test_a_packet_that_passes_by_a_rule_at_one_end(world: World) -> None:
    found = told(world, {"droplet_id": "101"}, {"droplet_id": 103}, ports="80")
    assert (found["verdict"], found["notes"], found["others"]) == ("ALLOW", [], [])
    assert found["packet"] == {
        "from": {"droplet_id": 101, "port": "p101", "address": "203.0.113.1"},
        "to": {"droplet_id": 103, "port": "p103", "address": "10.0.0.3"},
        "protocol": "tcp",
        "source_ports": "40000",
        "ports": "80",
    }
    leaves, enters = found["checks"]
    assert (leaves["direction"], leaves["droplet_id"], leaves["verdict"]) == ("outbound", 101, "ALLOW")
    assert (leaves["reason"], leaves["rule"], leaves["firewall"]) == ("droplet 101 is behind no firewall", None, None)
    assert (enters["direction"], enters["port"], enters["firewall"]) == ("inbound", "p103", "db-fw")
    assert (enters["verdict"], enters["rule"], enters["nearest"]) == ("ALLOW", WEB, None)
    assert enters["firewall_id"] == world.good("GET", "/v2/firewalls")["firewalls"][0]["id"]
    assert list(dict.fromkeys(flow["hypervisor"] for flow in found["flows"])) == [HV1, HV2]
    assert [flow["table"] for flow in found["flows"] if flow["hypervisor"] == HV2] == [10, 30, 31, 32, 33, 40]


def test_flows_are_those_that_the_switch_tells(world: World) -> None:
    found = told(world, {"droplet_id": 101}, {"droplet_id": 103}, ports="80")
    held = {
        dpid: {flow["flow"]: flow["rule"] for flow in world.good("GET", f"/v1/hypervisors/{dpid}/flows")["flows"]}
        for dpid in (HV1, HV2)
    }
    for flow in found["flows"]:
        assert flow["flow"] in held[flow["hypervisor"]]
        assert f"table={flow['table']}," in flow["flow"]
    (of_rule,) = [held[HV2][f["flow"]] for f in found["flows"] if f["table"] == 33]
    assert {name: of_rule[name] for name in WEB} == WEB


@pytest.mark.parametrize(
    ("source", "protocol", "service", "rule", "misses_by"),
    [
        ("1.1.3.9", "tcp", "85", WEB, "source 1.1.3.9 is outside 1.1.2.0/24 and 1 more"),
        ("1.1.2.9", "tcp", "91", WEB, "port 91 is outside 80-90"),
        ("1.1.2.9", "tcp", "23", SSH, "port 23 is not 22"),
        ("192.0.2.2", "tcp", "22", SSH, "source 192.0.2.2 is not 192.0.2.1 and 1 more"),
        ("1.1.2.9", "udp", "80", WEB, "protocol udp is not tcp"),
        ("1.1.2.9", "udp", "22", SSH, "protocol udp is not tcp"),
        ("10.0.0.9", "icmp", None, PING, "source 10.0.0.9 is not 10.0.0.2"),
        ("1.1.3.9", "udp", "79", WEB, "protocol udp is not tcp; port 79 is outside 80-90; source 1.1.3.9 is outside "
                                      "1.1.2.0/24 and 1 more"),
    ],
)  # fmt: skip
def test_a_drop_names_the_nearest_rule(
    world: World, source: str, protocol: str, service: str | None, rule: object, misses_by: str
) -> None:
    found = told(world, {"address": source}, {"port": "p103"}, protocol, ports=service)
    (check,) = found["checks"]
    assert (found["verdict"], found["reason"]) == ("DROP", "no inbound rule of droplet 103 allows it")
    assert (check["verdict"], check["rule"], check["firewall"]) == ("DROP", None, None)
    nearest = check["nearest"]
    assert (nearest["firewall"], nearest["rule"], nearest["misses_by"]) == ("db-fw", rule, misses_by)
    assert found["flows"][-1]["flow"].endswith("actions=drop")


def test_a_rule_of_the_other_ip_version_and_one_that_names_nobody(world: World) -> None:
    rules = [{"protocol": "tcp", "ports": "443", "sources": {"addresses": ["1.1.2.0/24"]}}]
    world.good("PUT", "/v1/ports/p101/rules", {"inbound_rules": rules})
    ends = {"address": "2001:db8::5"}, {"droplet_id": 101}
    nearest = told(world, *ends, ports=443)["checks"][0]["nearest"]
    assert nearest["misses_by"] == "source 2001:db8::5 is IPv6, and the rule names no such address"
    assert (nearest["firewall"], nearest["firewall_id"]) == (None, None)
    world.good("POST", "/v2/tags", {"name": "nobody"})
    rules = [{"protocol": "tcp", "ports": "443", "sources": {"tags": ["nobody"]}}]
    world.good("PUT", "/v1/ports/p101/rules", {"inbound_rules": rules})
    nearest = told(world, *ends, ports=443)["checks"][0]["nearest"]
    assert nearest["misses_by"] == "the rule names no source that exists now"


def test_without_a_rule_in_the_direction_there_is_no_nearest(world: World) -> None:
    world.good("PUT", "/v1/ports/p101/rules", {"inbound_rules": []})
    found = told(world, {"address": "198.51.100.1"}, {"droplet_id": 101}, ports=443)
    assert found["checks"][0]["nearest"] is None
    assert [flow["table"] for flow in found["flows"]] == [10, 30]


def test_both_ends_are_checked_and_the_first_that_drops_ends_the_way(world: World) -> None:
    found = told(world, {"droplet_id": 103}, {"droplet_id": 101}, ports="25")
    assert [check["verdict"] for check in found["checks"]] == ["DROP", "ALLOW"]
    assert found["checks"][0]["nearest"]["misses_by"] == "port 25 is not 443"
    assert {flow["hypervisor"] for flow in found["flows"]} == {HV2}


def test_a_droplet_may_not_send_from_another_address(world: World) -> None:
    found = told(world, {"port": "p102", "address": "10.0.0.77"}, {"droplet_id": 101}, ports="80")
    assert (found["verdict"], found["reason"]) == ("DROP", "10.0.0.77 is not an address of port p102")
    assert (found["checks"], [flow["table"] for flow in found["flows"]]) == ([], [0])


def test_the_world_outside_is_not_ours(world: World) -> None:
    found = told(world, {"address": "198.51.100.1"}, {"address": "198.51.100.2"}, ports="80")
    assert (found["verdict"], found["reason"]) == ("ALLOW", "not between droplets")
    assert found["checks"] == found["flows"] == []


@pytest.mark.parametrize("closed", [False, True])
def test_settings_count(world: World, closed: bool) -> None:
    world.core.rulings = Rulings(closed=closed, track_open=False)
    found = told(world, {"address": "198.51.100.1"}, {"droplet_id": 101}, ports="80")
    assert found["verdict"] == ("DROP" if closed else "ALLOW")
    # A droplet that is not tracked goes past the rules; one that is closed meets them, and there is none.
    assert [flow["table"] for flow in found["flows"]] == ([10, 30] if closed else [10, 40])


# --------------------------------------------------------------------------------------------- which packet is meant


def test_every_ip_version_that_both_have_is_decided(world: World) -> None:
    world.good("PUT", "/v1/ports/p103", port(103, HV2, "tap3", "10.0.0.3", "2001:db8::3"))
    found = told(world, {"droplet_id": 101}, {"droplet_id": 103}, ports="22")
    assert (found["verdict"], found["packet"]["to"]["address"], found["others"]) == ("DROP", "10.0.0.3", [])
    rule = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["::/0"]}}
    world.good("PUT", "/v1/ports/p103/rules", {"inbound_rules": [rule]})
    found = told(world, {"droplet_id": 101}, {"droplet_id": 103}, ports="22")
    assert (found["verdict"], found["packet"]["to"]["address"]) == ("DROP", "10.0.0.3")
    (other,) = found["others"]
    assert (other["verdict"], other["packet"]["to"]["address"]) == ("ALLOW", "2001:db8::3")
    assert other["packet"]["from"] == {"droplet_id": 101, "port": "p101", "address": "2001:db8::1"}
    only = told(world, {"droplet_id": 101}, {"droplet_id": 103, "address": "2001:DB8::3"}, ports="22")
    assert (only["verdict"], only["packet"], only["others"]) == ("ALLOW", other["packet"], [])


def test_every_port_of_a_droplet_is_decided_and_an_address_says_which(world: World) -> None:
    world.good("PUT", "/v1/ports/a103", {**port(103, HV1, "tap9", "10.0.0.33"), "mac": "02:00:00:00:00:33"})
    world.good("PUT", "/v1/ports/a103/rules", {"inbound_rules": [{**WEB, "sources": {"addresses": ["0.0.0.0/0"]}}]})
    found = told(world, {"address": "198.51.100.1"}, {"droplet_id": 103}, ports=81)
    assert (found["verdict"], found["packet"]["to"]["port"]) == ("ALLOW", "a103")
    assert [(o["verdict"], o["packet"]["to"]["port"]) for o in found["others"]] == [("DROP", "p103")]
    found = told(world, {"address": "198.51.100.1"}, {"droplet_id": 103, "address": "10.0.0.3"}, ports=81)
    assert (found["verdict"], found["packet"]["to"]["port"], found["others"]) == ("DROP", "p103", [])


def test_a_host_in_a_prefix_stands_for_it(world: World) -> None:
    world.good("PUT", "/v1/ports/p103", port(103, HV2, "tap3", "10.9.0.0/24"))
    found = told(world, {"address": "198.51.100.1"}, {"droplet_id": 103}, ports=81)
    assert found["packet"]["to"]["address"] == "10.9.0.1"


def test_an_address_of_a_port_is_taken_for_it(world: World) -> None:
    found = told(world, {"address": "10.9.0.200"}, {"address": "10.0.0.2"}, "udp", ports=53)
    assert (found["packet"]["from"]["port"], found["packet"]["to"]["port"]) == ("p103", "p102")
    assert found["notes"] == [
        "from: 10.9.0.200 is an address of port p103, and was taken for it",
        "to: 10.0.0.2 is an address of port p102, and was taken for it",
    ]


def test_a_port_without_addresses_has_its_link_local_one(world: World) -> None:
    world.good("PUT", "/v1/ports/p102", port(102, HV1, "tap4"))
    found = told(world, {"port": "p102"}, {"address": "fe80::1"}, "icmp")
    assert found["packet"]["from"]["address"] == "fe80::ff:fe00:66"
    assert (found["packet"]["ports"], found["packet"]["source_ports"]) == (None, None)


def test_a_port_that_is_not_there_has_no_flows_and_a_note(world: World) -> None:
    world.good("PUT", "/v1/ports/p102", port(102, HV1, "tap99", "10.0.0.2"))
    found = told(world, {"address": "198.51.100.1"}, {"port": "p102"}, ports=80)
    assert (found["verdict"], found["flows"]) == ("ALLOW", [])
    assert found["notes"] == ["to: port p102 is absent"]


def test_dhcp_is_noted(world: World) -> None:
    found = told(world, {"droplet_id": 101}, {"address": "198.51.100.1"}, "udp", ports=67, source_ports="68")
    assert found["packet"]["source_ports"] == "68"
    assert "DHCP" in found["notes"][0]


# --------------------------------------------------------------------------------------------- what makes no sense

DROPLET, HOST = {"droplet_id": 101}, {"address": "198.51.100.1"}


@pytest.mark.parametrize(
    ("change", "at", "problem"),
    [
        ({"ports": "80-90"}, "ports", "must be one port"),
        ({"ports": "0"}, "ports", "must be one port"),
        ({"ports": 65536}, "ports", "must be one port"),
        ({"ports": True}, "ports", "must be one port"),
        ({"ports": None}, "ports", "is required for tcp"),
        ({"source_ports": "all"}, "source_ports", "must be one port"),
        ({"protocol": "icmp"}, "ports", "icmp has no ports"),
        ({"protocol": "icmp", "ports": None, "source_ports": "7"}, "source_ports", "icmp has no ports"),
        ({"protocol": "gre"}, "protocol", "must be 'tcp', 'udp' or 'icmp'"),
        ({"from": None}, "from", "must be an object"),
        ({"from": {}}, "from", "one of droplet_id, port, address is needed"),
        ({"from": {"address": None}}, "from", "one of droplet_id, port, address is needed"),
        ({"from": {"droplet_id": 101, "port": "p101"}}, "from", "droplet_id and port cannot stand together"),
        ({"to": {"adress": "10.0.0.1"}}, "to.adress", "unknown field; did you mean 'address'?"),
        ({"form": {}}, "form", "unknown field; did you mean 'from'?"),
        ({"to": {"droplet_id": 999}}, "to.droplet_id", "droplet 999 does not exist"),
        ({"to": {"droplet_id": 201}}, "to.droplet_id", "droplet 201 has no port"),
        ({"to": {"droplet_id": "web"}}, "to.droplet_id", "must be a droplet id"),
        ({"to": {"port": "p999"}}, "to.port", "port p999 does not exist"),
        ({"to": {"address": "10.0.0.0/24"}}, "to.address", "is a prefix, not an address"),
        ({"to": {"address": "10.1"}}, "to.address", "is not an IP address"),
        ({"to": {"address": "224.0.0.1"}}, "to.address", "224.0.0.1 is no address of a host"),
        ({"to": {"address": "::"}}, "to.address", ":: is no address of a host"),
        ({"from": {"address": "255.255.255.255"}}, "from.address", "no address of a host"),
        ({"from": {"droplet_id": 101, "address": "ff02::1"}}, "from.address", "no address of a host"),
        ({"to": {"port": "p101"}}, "to", "is the same as 'from'"),
        ({"to": {"droplet_id": 101}}, "to", "is the same as 'from'"),
        ({"from": {"address": "198.51.100.1"}, "to": {"address": "198.51.100.1"}}, "to", "is the same as 'from'"),
        ({"from": {"port": "p102"}, "to": {"address": "2001:db8::9"}}, "to", "has no address of an IP version"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_path(
    world: World, change: dict[str, Any], at: str, problem: str
) -> None:
    answer = world.call("POST", "/v1/explain", {"from": DROPLET, "to": HOST, "protocol": "tcp", "ports": 80, **change})
    assert answer.status == 422, answer.body
    assert problem in answer.problems[at]


def test_faults_of_both_ends_are_told(world: World) -> None:
    answer = ask(world, {"droplet_id": 7}, {"port": "p7"}, ports=80)
    assert list(answer.problems) == ["from.droplet_id", "to.port"]


def test_an_address_that_two_ports_hold_is_ambiguous(world: World) -> None:
    world.good("PUT", "/v1/ports/p102", port(102, HV1, "tap4", "10.9.0.4"))
    answer = ask(world, {"address": "10.9.0.4"}, DROPLET, ports=80)
    assert answer.problems == {"from.address": "10.9.0.4 is held by ports p102, p103; name the port"}


def test_a_question_that_stands_for_too_many_packets_is_refused(world: World) -> None:
    for number in range(65):
        body = {**port(102, HV1, f"tun{number}", f"10.2.0.{number}"), "mac": f"02:00:00:00:02:{number:02x}"}
        world.good("PUT", f"/v1/ports/many-{number}", body)
    answer = ask(world, {"droplet_id": 102}, HOST, ports=80)
    assert "stands for 66 pairs of addresses" in answer.json["message"]


def test_viewers_may_ask_and_tenants_may_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object, **__: object) -> None:
        raise AssertionError("explain writes nothing")

    monkeypatch.setattr(Core, "write", write)
    assert ask(world, DROPLET, HOST, ports=80, token=VIEWER).status == 200
    assert ask(world, DROPLET, HOST, ports=80, token=TENANT).status == 403
    assert ask(world, DROPLET, HOST, ports=80, token="").status == 401
    assert world.call("GET", "/v1/explain").headers["Allow"] == "POST"
