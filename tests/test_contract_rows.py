"""The contract's messages, hard rules, spellings of ports and removal of rules (1.6, R1 to R17, 3.4, 3.5), row by row.

Over a real socket, and bytes where bytes matter.  What a test of test_api_v2.py says already is not said again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from api_server import OPERATOR, Process
from contract import OUT, PING, ROWS, SSH, UNLIMITED, WEB, Api, Json, raw


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    process = Process(max_body=200_000, **UNLIMITED)
    yield process
    process.stop()


@pytest.fixture
def api(server: Process) -> Iterator[Api]:
    yield (found := Api(server))
    found.clean()


def test_every_row_has_a_test_and_every_test_a_row() -> None:
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    tests = [f"_{name}_" for name in re.findall(r"^def test_((?:R|\d_)\w+)", text, re.MULTILINE)]
    assert [row for row in ROWS if not any(f"_{row}_" in name for name in tests)] == []
    assert [name for name in tests if not any(name.startswith(f"_{row}_") for row in ROWS)] == []


def inbound(**rule: Any) -> Json:
    """A body with one inbound rule; `...` leaves a key out."""
    whole = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["10.0.0.0/8"]}} | rule
    return {"name": "one", "inbound_rules": [{key: value for key, value in whole.items() if value is not ...}]}


# --------------------------------------------------------------------------------------------- 1.6 messages


def test_1_6_duplicate_name(api: Api) -> None:
    api.make()
    other = api.make(name="other")
    for answer in (
        api.refused("POST", "/v2/firewalls", WEB, 409),
        api.refused("POST", "/v2/firewalls/", {"name": "web-fw", "inbound_rules": None}, 409),
        api.refused("PUT", f"/v2/firewalls/{other['id']}", WEB, 409),
    ):
        assert (answer.json["id"], answer.json["message"]) == ("conflict", "duplicate name")


WRITES_OF_RULES = [
    ("POST", "/v2/firewalls"),
    ("PUT", "/v2/firewalls/{}"),
    ("POST", "/v2/firewalls/{}/rules"),
    ("DELETE", "/v2/firewalls/{}/rules"),
]


def message(api: Api, method: str, path: str, body: Json) -> str:
    """What a write of one faulty rule is told."""
    if path.endswith("/rules"):
        body = {"inbound_rules": body["inbound_rules"]}
    firewall = api.make()
    answer = api.refused(method, path.format(firewall["id"]), body)
    assert answer.json["id"] == "unprocessable_entity"
    (at,) = answer.problems
    assert at.startswith("inbound_rules[0].")
    found: str = answer.json["message"]
    return found


@pytest.mark.parametrize(("method", "path"), WRITES_OF_RULES)
@pytest.mark.parametrize("ports", [..., "", None])
def test_1_6_positive_ports(api: Api, method: str, path: str, ports: object) -> None:
    body = inbound(ports=ports, protocol="udp")
    assert message(api, method, path, body) == "You must specify a positive value for ports."


@pytest.mark.parametrize(("method", "path"), WRITES_OF_RULES)
def test_1_6_range(api: Api, method: str, path: str) -> None:
    assert message(api, method, path, inbound(ports="9000-8000")).startswith("you must specify a valid range for ports")


@pytest.mark.parametrize(("method", "path"), WRITES_OF_RULES)
@pytest.mark.parametrize("sources", [[], ["10.0.0.0/8"], "10.0.0.0/8", 0])
def test_1_6_sources(api: Api, method: str, path: str, sources: object) -> None:
    said = message(api, method, path, inbound(sources=sources))
    assert said == "You specified an invalid type for one of the sources."


@pytest.mark.parametrize(("method", "path"), WRITES_OF_RULES)
@pytest.mark.parametrize("blank", ["", " "])
def test_1_6_blank_address(api: Api, method: str, path: str, blank: str) -> None:
    assert message(api, method, path, inbound(sources={"addresses": ["10.0.0.1", blank]})) == "invalid address"


def test_1_6_eleventh_droplet(api: Api) -> None:
    for number in range(301, 312):
        api.of(OPERATOR).good("PUT", f"/v1/droplets/{number}", {})
    try:
        ten, eleven = list(range(301, 311)), list(range(301, 312))
        assert api.make(name="ten", droplet_ids=ten)["droplet_ids"] == ten
        one = f"/v2/firewalls/{api.make(droplet_ids=ten)['id']}"
        for method, path, body in (
            ("POST", "/v2/firewalls", {**WEB, "name": "eleven", "droplet_ids": eleven}),
            ("PUT", one, {**WEB, "droplet_ids": eleven}),
            ("POST", f"{one}/droplets", {"droplet_ids": [311]}),
        ):
            assert "must have no more than 10 droplets" in api.refused(method, path, body).json["message"]
    finally:
        for number in range(301, 312):
            api.of(OPERATOR).good("DELETE", f"/v1/droplets/{number}")


def test_several_faults_are_told_each_with_its_place(api: Api) -> None:
    answer = api.refused("POST", "/v2/firewalls", inbound(ports="", sources=[]))
    assert answer.json["message"] == (
        "inbound_rules[0].ports: You must specify a positive value for ports.; "
        "inbound_rules[0].sources: You specified an invalid type for one of the sources."
    )


# --------------------------------------------------------------------------------------------- 3.3, where bytes matter


def test_R2_R3_R4_R6_the_bytes_of_a_firewall(api: Api) -> None:
    """Key order, absent keys, and nothing that is null."""
    rules = [
        {
            "ports": "22",
            "sources": {"tags": ["web"], "addresses": ["10.0.0.0/8"], "droplet_ids": []},
            "protocol": "tcp",
        },
        {"protocol": "udp", "ports": "53", "sources": None},
    ]
    answer = api.call("POST", "/v2/firewalls", {"name": "bytes", "inbound_rules": rules, "tags": None})
    assert (
        b'"inbound_rules": [{"protocol": "tcp", "ports": "22", "sources": {"addresses": ["10.0.0.0/8"], '
        b'"tags": ["web"]}}, {"protocol": "udp", "ports": "53", "sources": {}}], '
        b'"outbound_rules": [], "droplet_ids": [], "tags": [], "pending_changes": []'
    ) in answer.body
    assert b"null" not in answer.body
    one = f"/v2/firewalls/{answer.json['firewall']['id']}"
    assert api.call("GET", one).body == answer.body
    assert answer.body.removeprefix(b'{"firewall": ').removesuffix(b"}\n") in api.call("GET", "/v2/firewalls").body


def test_R7_ids_are_digits_in_a_string_wherever_ids_are(api: Api) -> None:
    rule = inbound(sources={"droplet_ids": ["103"]})["inbound_rules"]
    firewall = api.make(droplet_ids=["101", 102], inbound_rules=rule)
    assert raw(firewall["inbound_rules"][0]["sources"]) == b'{"droplet_ids": [103]}'
    one = f"/v2/firewalls/{firewall['id']}"
    api.good("DELETE", f"{one}/droplets", {"droplet_ids": ["101"]})
    api.good("POST", f"{one}/droplets", {"droplet_ids": ["103"]})
    assert api.good("GET", one)["firewall"]["droplet_ids"] == [102, 103]
    api.good("DELETE", f"{one}/rules", {"inbound_rules": rule, "outbound_rules": None})
    assert api.good("GET", one)["firewall"]["inbound_rules"] == []
    number = {"resources": [{"resource_id": 103, "resource_type": "droplet"}]}
    api.good("POST", "/v2/tags/web/resources", number)
    assert api.good("GET", "/v2/droplets/103")["droplet"]["tags"] == ["web"]


@pytest.mark.parametrize(
    "wrong", ["x", "", "-1", "1.0", " 101", "101 ", "+101", "0x65", "١٠١", 0, -101, 101.5, True, {}]
)
def test_R7_what_is_no_id_is_refused(api: Api, wrong: object) -> None:
    for body in (
        {**WEB, "droplet_ids": [wrong]},
        {**WEB, "inbound_rules": [{"protocol": "icmp", "sources": {"droplet_ids": [wrong]}}]},
    ):
        assert all("droplet_ids[0]" in at for at in api.refused("POST", "/v2/firewalls", body).problems)


@pytest.mark.parametrize(
    ("body", "at", "near"),
    [
        ({**WEB, "inbound_rule": []}, "inbound_rule", "inbound_rules"),
        ({**WEB, "droplets": [1]}, "droplets", "droplet_ids"),
        (inbound(port="22"), "inbound_rules[0].port", "ports"),
        (inbound(source={}), "inbound_rules[0].source", "sources"),
        (inbound(sources={"address": ["::/0"]}), "inbound_rules[0].sources.address", "addresses"),
        (inbound(sources={"tag": ["web"]}), "inbound_rules[0].sources.tag", "tags"),
    ],
)
def test_R7_unknown_keys_are_refused_with_the_near_one(api: Api, body: Json, at: str, near: str) -> None:
    problems = api.refused("POST", "/v2/firewalls", body).problems
    assert problems == {at: f"unknown field; did you mean {near!r}?"}


@pytest.mark.parametrize("slash", ["", "/"])
def test_R8_a_client_that_joins_what_stands_behind_the_mark_comes_back(api: Api, slash: str) -> None:
    """python-digitalocean keeps its own URL and takes the query of `next` alone."""
    made = [api.make(name=f"fw-{number}")["id"] for number in range(5)]
    mine = f"/v2/firewalls{slash}"
    page, found = api.good("GET", f"{mine}?per_page=2"), []
    while True:
        found += [firewall["id"] for firewall in page["firewalls"]]
        following = page["links"].get("pages", {}).get("next")
        if following is None:
            break
        assert following.startswith(f"http://{api.server.host}:{api.server.port}{mine}?")
        page = api.good("GET", f"{mine}?{following.split('?', 1)[1]}")
    assert found == made


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({"Host": "fw.example"}, "http://fw.example/v2/tags"),
        ({"Host": "fw.example:8443", "X-Forwarded-Proto": "https"}, "https://fw.example:8443/v2/tags"),
        ({"Host": "[2001:db8::1]:80"}, "http://[2001:db8::1]:80/v2/tags"),
        ({"Host": "fw.example", "X-Forwarded-Proto": "gopher"}, "http://fw.example/v2/tags"),
        ({"Host": "fw.example", "X-Forwarded-Proto": "HTTPS, http"}, "https://fw.example/v2/tags"),
        ({"Host": "fw.example", "X-Forwarded-Prefix": "/cloud/fw/"}, "http://fw.example/cloud/fw/v2/tags"),
        ({"Host": "fw.example", "X-Forwarded-Prefix": "evil.example"}, "http://fw.example/v2/tags"),
    ],
)
def test_1_2_urls(api: Api, headers: dict[str, str], base: str) -> None:
    for name in ("a", "b", "c"):
        api.good("POST", "/v2/tags", {"name": name})
    query = "?x=%2Fa%20b&page=2&per_page=1&y="
    pages = api.call("GET", f"/v2/tags{query}", headers=headers).json["links"]["pages"]
    assert set(pages) == {"first", "prev", "next", "last"}
    for relation, number in (("first", "1"), ("prev", "1"), ("next", "3"), ("last", "4")):
        assert pages[relation].split("?")[0] == base
        asked = parse_qs(urlsplit(pages[relation]).query, keep_blank_values=True)
        assert asked == {"page": [number], "per_page": ["1"], "x": ["/a b"], "y": [""]}


def test_R9_addresses_tags_ports_and_order_come_back_as_bytes(api: Api) -> None:
    addresses = [
        "10.1.2.3/8", "10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "192.0.2.1", "192.0.2.1",
        "::/0", "0::0/0", "2001:DB8:0:0::1", "2001:db8::1", "::ffff:192.0.2.1", "fe80::/10",
    ]  # fmt: skip
    rules = [
        {"protocol": "udp", "ports": "8000-9000", "sources": {"addresses": addresses, "tags": ["WEB", "web"]}},
        {"protocol": "tcp", "ports": "1-65535", "sources": {"droplet_ids": [103, 101, 103]}},
        {"protocol": "tcp", "ports": "1", "sources": {"load_balancer_uids": ["B", "a"], "kubernetes_ids": ["k", "K"]}},
        {"protocol": "icmp", "ports": "1-65535", "sources": {}},
        {"protocol": "udp", "ports": "8000-9000", "sources": {"addresses": addresses, "tags": ["WEB", "web"]}},
    ]
    answer = api.call("POST", "/v2/firewalls", {"name": "echo", "inbound_rules": rules, "tags": ["WEB"]})
    written = b'"inbound_rules": ' + raw(rules)
    assert answer.status == 202
    assert written in answer.body
    assert b'"tags": ["WEB"], "pending' in answer.body
    one = f"/v2/firewalls/{answer.json['firewall']['id']}"
    read = api.call("GET", one).body
    assert written in read
    assert api.call("PUT", one, read).status == 422  # it stands under the key `firewall` there
    assert api.call("PUT", one, raw(json.loads(read)["firewall"])).body == read


def errors(api: Api) -> Iterator[tuple[int, str, str, object]]:
    one = f"/v2/firewalls/{api.make()['id']}"
    yield 400, "POST", "/v2/firewalls", b"{"
    yield 400, "POST", "/v2/tags", b"{"
    yield 400, "PUT", one, b""
    yield 403, "GET", "/v2/firewalls?account=acme", None
    yield 403, "GET", "/v1/droplets", None
    yield 404, "GET", "/v2/firewalls/none", None
    yield 404, "DELETE", "/v2/firewalls/none", None
    yield 404, "DELETE", "/v2/firewalls/none/rules", {"inbound_rules": []}
    yield 404, "GET", "/v2/tags/none", None
    yield 404, "GET", "/v2/droplets/7/firewalls", None
    yield 404, "GET", "/v3/firewalls", None
    yield 405, "PATCH", one, {}
    yield 409, "POST", "/v2/firewalls", WEB
    yield 413, "POST", "/v2/firewalls", b" " * 200_001
    yield 422, "POST", "/v2/firewalls", {}
    yield 422, "POST", "/v2/firewalls", []
    yield 422, "GET", "/v2/firewalls?page=x", None
    yield 422, "POST", f"{one}/tags", {"tags": ["none"]}


def test_R10_every_error_has_id_and_message(api: Api) -> None:
    for status, method, path, body in errors(api):
        answer = api.call(method, path, body)
        assert answer.status == status, (method, path, answer.body)
        assert answer.headers["content-type"] == "application/json"
        for key in ("id", "message"):
            assert isinstance(answer.json[key], str), (method, path)
            assert answer.json[key], (method, path)


def in_chunks(method: str, path: str, body: bytes, kind: str | None) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {OPERATOR}\r\nConnection: close\r\n"
    head += f"Content-Type: {kind}\r\n" if kind else ""
    return head.encode() + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def test_R12_the_body_of_a_delete_may_come_in_chunks(api: Api) -> None:
    one = f"/v2/firewalls/{api.make()['id']}"
    request = in_chunks("DELETE", f"{one}/rules", raw({"inbound_rules": [SSH]}), "application/json")
    assert api.server.raw(request).startswith(b"HTTP/1.1 204 ")
    assert api.good("GET", one)["firewall"]["inbound_rules"] == [PING]
    for kind in (None, "text/plain", "application/x-www-form-urlencoded"):
        doomed = f"/v2/firewalls/{api.make(name='doomed')['id']}/"
        assert api.server.raw(in_chunks("DELETE", doomed, b"{}", kind)).startswith(b"HTTP/1.1 204 ")
        assert api.call("GET", doomed).status == 404


def test_R12_a_delete_whose_body_was_dropped_on_the_way_removes_nothing(api: Api) -> None:
    one = f"/v2/firewalls/{api.make()['id']}"
    for part in ("droplets", "tags", "rules"):
        api.refused("DELETE", f"{one}/{part}", None)


def test_R14_what_a_go_client_prints_holds_404_not_found(api: Api) -> None:
    for path in ("/v2/firewalls/gone", "/v2/firewalls/gone/", "/v2/firewalls/gone/rules", "/v2/tags/gone"):
        answer = api.call("DELETE", path, {"inbound_rules": []} if path.endswith("rules") else None)
        request_id = answer.json.get("request_id") or answer.headers.get("x-request-id")
        shown = f"(request {request_id!r}) " if request_id else ""
        assert "404 Not Found" in f"DELETE {path}: {answer.status} {shown}{answer.json['message']}"


def test_R15_each_write_is_in_the_next_answer_while_switches_are_slow(api: Api) -> None:
    for dpid in ("0000000000000001", "0000000000000002"):
        api.server.call("POST", f"/test/{dpid}/silent")
    try:
        firewall = api.make()
        assert firewall["status"] == "waiting"
        one = f"/v2/firewalls/{firewall['id']}"
        assert api.good("GET", one)["firewall"] == firewall
        for number in range(5):
            api.good("POST", f"{one}/rules", {"inbound_rules": inbound(ports=str(8000 + number))["inbound_rules"]})
            assert api.good("GET", one)["firewall"]["inbound_rules"][-1]["ports"] == str(8000 + number)
        api.good("DELETE", one)
        assert api.call("GET", one).status == 404
        assert api.good("GET", "/v2/firewalls")["meta"] == {"total": 0}
    finally:
        for dpid in ("0000000000000001", "0000000000000002"):
            api.server.call("POST", f"/test/{dpid}/confirm")


def test_R16_a_rule_is_there_in_whatever_order_its_peers_are_written(api: Api) -> None:
    one = f"/v2/firewalls/{api.make()['id']}"
    before = api.call("GET", one).body
    turned = {**PING, "sources": {"addresses": ["::/0", "0.0.0.0/0"]}}
    answer = api.call(
        "POST", f"{one}/rules", {"inbound_rules": [turned, {**PING, "ports": ""}], "outbound_rules": None}
    )
    assert (answer.status, api.call("GET", one).body) == (204, before)


# --------------------------------------------------------------------------------------------- 3.4 ports


def read_back(api: Api, protocol: str, ports: object) -> bytes:
    """The bytes that stand for ports in every answer after they were written in every way."""
    whole = inbound(protocol=protocol, ports=ports)
    created = api.call("POST", "/v2/firewalls", whole)
    one = f"/v2/firewalls/{created.json['firewall']['id']}"
    changed = api.call("PUT", one, whole)
    api.good("PUT", one, {"name": "one", "inbound_rules": []})
    api.good("POST", f"{one}/rules", {"inbound_rules": whole["inbound_rules"]})
    found = {re.findall(rb'"ports": (.*?), "sources"', a.body)[0] for a in (created, changed, api.call("GET", one))}
    gone = api.call("DELETE", f"{one}/rules", {"inbound_rules": whole["inbound_rules"]})
    assert (gone.status, gone.headers.get("x-firewall-rules-unmatched")) == (204, None)
    (only,) = found
    return only


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("ports", ["0", "all", 0])
def test_3_4_all_is_read_back_as_0(api: Api, protocol: str, ports: object) -> None:
    assert read_back(api, protocol, ports) == b'"0"'


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_3_4_whole_range_is_echoed(api: Api, protocol: str) -> None:
    assert read_back(api, protocol, "1-65535") == b'"1-65535"'


@pytest.mark.parametrize("ports", ["443", 443])
def test_3_4_one_port_is_text_when_it_is_read(api: Api, ports: object) -> None:
    assert read_back(api, "tcp", ports) == b'"443"'


@pytest.mark.parametrize("ports", ["8000-9000", "1-2", "65534-65535", "443-443", "65535-65535"])
def test_3_4_range_is_echoed(api: Api, ports: str) -> None:
    assert read_back(api, "udp", ports) == raw(ports)


@pytest.mark.parametrize(
    "ports",
    ["9000-8000", "65536", "1-65536", 65536, -1, "-1", "0-0", "0-65535", " 22", "22 ", "22 - 23", "22-", "-22", "22,80",
     "22:23", ["22"], ["22", "80"], {"from": 22}, True, 22.5, 1.5, "1e3", "0x16", "+22", "022", "any", "ALL", "ssh",
     "*", "２２"],
)  # fmt: skip
def test_3_4_range_in_any_other_spelling_is_refused(api: Api, ports: object) -> None:
    answer = api.refused("POST", "/v2/firewalls", inbound(ports=ports))
    assert list(answer.problems) == ["inbound_rules[0].ports"]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("ports", [..., "", None])
def test_3_4_missing_ports_are_refused(api: Api, protocol: str, ports: object) -> None:
    answer = api.refused("POST", "/v2/firewalls", inbound(protocol=protocol, ports=ports))
    assert answer.json["message"] == "You must specify a positive value for ports."


@pytest.mark.parametrize("ports", [..., None, "", "0", 0, "all"])
def test_3_4_icmp_without_ports_is_read_back_as_0(api: Api, ports: object) -> None:
    assert read_back(api, "icmp", ports) == b'"0"'


def test_3_4_icmp_whole_range_is_echoed(api: Api) -> None:
    assert read_back(api, "icmp", "1-65535") == b'"1-65535"'


# --------------------------------------------------------------------------------------------- 3.5 removal

TWO: Json = {
    "protocol": "tcp",
    "ports": "0",
    "sources": {"addresses": ["10.0.0.0/8", "::/0"], "tags": ["web"], "droplet_ids": [101, 103]},
}


@pytest.mark.parametrize(
    "given",
    [
        TWO,
        {**TWO, "ports": "all"},
        {**TWO, "ports": 0},
        {**TWO, "sources": {"droplet_ids": ["103", "101"], "tags": ["web"], "addresses": ["::/0", "10.0.0.0/8"]}},
        {**TWO, "sources": {**TWO["sources"], "load_balancer_uids": [], "kubernetes_ids": None}},
    ],
)
def test_3_5_whole_rule(api: Api, given: Json) -> None:
    one = f"/v2/firewalls/{api.make(inbound_rules=[SSH, TWO, PING])['id']}"
    answer = api.call("DELETE", f"{one}/rules", {"inbound_rules": [given]})
    assert (answer.status, answer.body, answer.headers.get("x-firewall-rules-unmatched")) == (204, b"", None)
    assert api.good("GET", one)["firewall"]["inbound_rules"] == [SSH, PING]


@pytest.mark.parametrize(
    "given",
    [
        {**TWO, "sources": {**TWO["sources"], "addresses": ["10.0.0.0/8"]}},
        {**TWO, "sources": {**TWO["sources"], "tags": []}},
        {**TWO, "sources": {}},
        {**TWO, "sources": {**TWO["sources"], "addresses": ["10.0.0.0/8", "::/0", "0.0.0.0/0"]}},
        {**TWO, "ports": "1-65535"},
        {**TWO, "ports": "22"},
        {**TWO, "protocol": "udp"},
    ],
)
def test_3_5_part_of_a_rule_is_no_rule(api: Api, given: Json) -> None:
    one = f"/v2/firewalls/{api.make(inbound_rules=[SSH, TWO, PING])['id']}"
    before = api.call("GET", one).body
    answer = api.call("DELETE", f"{one}/rules", {"inbound_rules": [given]})
    assert (answer.status, answer.headers.get("x-firewall-rules-unmatched")) == (204, "1")
    assert api.call("GET", one).body == before


def test_3_5_part_of_a_rule_does_not_keep_others_from_going(api: Api) -> None:
    one = f"/v2/firewalls/{api.make(inbound_rules=[SSH, TWO, PING])['id']}"
    part = {**TWO, "sources": {"addresses": ["::/0"]}}
    body = {"inbound_rules": [part, SSH, {**SSH, "ports": "23"}], "outbound_rules": [OUT]}
    answer = api.call("DELETE", f"{one}/rules", body)
    assert answer.headers["x-firewall-rules-unmatched"] == "2"
    left = api.good("GET", one)["firewall"]
    assert (left["inbound_rules"], left["outbound_rules"]) == ([TWO, PING], [])


def test_3_5_whole_rule_of_one_direction_is_none_of_the_other(api: Api) -> None:
    peers = {"addresses": ["10.0.0.0/8"]}
    one_in = {"protocol": "tcp", "ports": "22", "sources": peers}
    one_out = {"protocol": "tcp", "ports": "22", "destinations": peers}
    one = f"/v2/firewalls/{api.make(inbound_rules=[one_in], outbound_rules=[one_out])['id']}"
    api.good("DELETE", f"{one}/rules", {"outbound_rules": [one_out]})
    left = api.good("GET", one)["firewall"]
    assert (left["inbound_rules"], left["outbound_rules"]) == ([one_in], [])
