"""The rows of the compatible API's contract, by name, and a client for the tests that hold us to them.

Each row has at least one test that is named after it: row `R8` has `test_R8_...`, row `3_4_all` has `test_3_4_all_...`
(tests/test_contract_rows.py sees to that).  The numbers are those of the design page of the API.  Rate limits and the
commands of clients have tests elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from api_server import OPERATOR, TENANT, Answer, Process

from firewall_app.api import v2

Json = dict[str, Any]

ROWS = {
    # 1.1 transport, errors, headers
    "1_1_auth": "a bearer token, or 401",
    "1_1_success_bodies": "one object under a singular key; many under a plural one, with links and meta",
    "1_1_error_body": "id and message always, request_id as a rule",
    "1_1_stock_messages": "the texts of 400, 401 and 404",
    "1_1_tag_creation": "its 400 has a shape of its own",
    "1_1_request_id": "x-request-id is what the body says",
    "1_1_other_verbs": "HEAD on every GET; 405 with Allow on every path",
    # 1.2 pagination
    "1_2_bounds": "page from 1, per_page 1 to 200, 20 unless given",
    "1_2_total": "meta.total counts all pages",
    "1_2_links": "only the relations that apply, never null",
    "1_2_past_the_end": "200, an empty list, the same total",
    "1_2_urls": "absolute, with the other keys of the query, from the request's own scheme and host",
    # 1.3 the firewall
    "1_3_name": "two or more characters of a small set",
    "1_3_created_at": "whole seconds, Z",
    "1_3_droplet_ids": "those attached directly alone",
    "1_3_read_only": "what only answers hold is passed over in requests",
    "1_3_rule": "protocol, ports and peers, each required",
    # 1.4 endpoints
    "1_4_codes": "202, 200, 204 and 201, exactly",
    "1_4_create": "a name, and at least one kind of rules",
    "1_4_put": "a missing attribute is reset",
    "1_4_sub_resources": "their lists are required, and nothing else is known there",
    "1_4_no_others": "no PATCH, no GET on sub-resources, no path of one rule, no filter by name",
    # 1.5 status
    "1_5_waiting": "one entry for each droplet concerned, by tag too; none is succeeded",
    "1_5_removing": "a droplet that leaves is listed until its switch has confirmed",
    "1_5_failed": "a switch refused",
    # 1.6 messages of the live service
    "1_6_duplicate_name": "409 duplicate name",
    "1_6_positive_ports": "422 You must specify a positive value for ports.",
    "1_6_range": "422 you must specify a valid range for ports",
    "1_6_sources": "422 You specified an invalid type for one of the sources.",
    "1_6_blank_address": "422 invalid address",
    "1_6_eleventh_droplet": "422 ... must have no more than 10 droplets",
    # 1.7 codes
    "1_7_codes": "422 for what a body means, 400 for what is no JSON, never a 5xx",
    # 2 droplets, tags, the account
    "2_1_list": "filters by tag_name, name, type",
    "2_1_keys": "every required key, image and region objects",
    "2_1_networks": "addresses of both versions, masks, types",
    "2_2_create": "201, for a name that exists too",
    "2_2_object": "resources.droplets is never null",
    "2_2_delete": "untags everything",
    "2_2_resources": "resource_id is a string",
    "2_2_name": "letters, digits, _ - and :, at most 255",
    "2_2_case": "the first spelling is the name",
    "2_3_account": "200 with email, uuid, status, droplet_limit",
    # 3.3 the hard rules
    "R1": "exact success codes",
    "R2": "rules have protocol, ports and peers that are no null",
    "R3": "empty keys of peers are left out",
    "R4": "no extra key inside a rule",
    "R5": "the firewall may have more keys",
    "R6": "lists are never null or absent",
    "R7": "null, missing, [], ids as digits in a string; unknown keys are refused",
    "R8": "next is absolute and leads back here",
    "R9": "values are echoed as written",
    "R10": "errors have id and message",
    "R11": "trailing slashes, no redirect",
    "R12": "bodies of DELETE are read",
    "R13": "404 for a deleted firewall",
    "R14": "404 Not Found on DELETE, without a request id",
    "R15": "writes are read at once",
    "R16": "adding what is there and removing what is not are no errors",
    "R17": "id and created_at survive a PUT",
    # 3.4 ports
    "3_4_all": "0, all and the number 0 are read back as 0",
    "3_4_whole_range": "1-65535 is echoed",
    "3_4_one_port": "443 as text or number",
    "3_4_range": "8000-9000; no other spelling, 422",
    "3_4_missing": "tcp and udp need ports, 422",
    "3_4_icmp_without": "missing, empty, 0, all are read back as 0",
    "3_4_icmp_whole_range": "1-65535 is echoed",
    # 3.5 removal of rules
    "3_5_whole_rule": "a rule goes when it is given whole, peers as sets",
    "3_5_part_of_a_rule": "matches nothing, 204, and says so",
    # 4 and 5 limits and decisions
    "4_droplets": "10 for a firewall",
    "4_tags": "5 for a firewall",
    "4_rules": "50 of both directions",
    "4_entries": "1000 in each list of a rule's peers",
    "4_settings": "each limit is a setting",
    "5_empty_peers": "match nothing, never any",
    "5_own_peer": "a droplet may name itself",
    "5_unknown_tag": "422 that names it",
    "5_unknown_droplet": "422 that names it",
    "5_uids": "load balancers and clusters are kept and echoed",
}

UNLIMITED = {"rate_limit": 0, "rate_burst": 0, "failed_attempts": 0}  # a test asks more in a minute than a tenant may
PEERS = {"inbound_rules": "sources", "outbound_rules": "destinations"}
ANYWHERE = ["0.0.0.0/0", "::/0"]
SSH: Json = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["203.0.113.0/24"], "tags": ["web"]}}
PING: Json = {"protocol": "icmp", "ports": "0", "sources": {"addresses": ANYWHERE}}
OUT: Json = {"protocol": "tcp", "ports": "0", "destinations": {"addresses": ANYWHERE}}
WEB: Json = {
    "name": "web-fw",
    "inbound_rules": [SSH, PING],
    "outbound_rules": [OUT],
    "droplet_ids": [102],
    "tags": ["web"],
}
RESOURCES: Json = {"resources": [{"resource_id": "102", "resource_type": "droplet"}]}

# A body that succeeds for each write: by method and path.
BODIES: dict[tuple[str, str], Json | None] = {
    ("POST", "/v2/firewalls"): {**WEB, "name": "another"},
    ("PUT", "/v2/firewalls/{firewall_id}"): {**WEB, "inbound_rules": [PING]},
    ("DELETE", "/v2/firewalls/{firewall_id}"): None,
    ("POST", "/v2/firewalls/{firewall_id}/droplets"): {"droplet_ids": [103]},
    ("DELETE", "/v2/firewalls/{firewall_id}/droplets"): {"droplet_ids": [102]},
    ("POST", "/v2/firewalls/{firewall_id}/tags"): {"tags": ["web"]},
    ("DELETE", "/v2/firewalls/{firewall_id}/tags"): {"tags": ["web"]},
    ("POST", "/v2/firewalls/{firewall_id}/rules"): {"inbound_rules": [SSH]},
    ("DELETE", "/v2/firewalls/{firewall_id}/rules"): {"inbound_rules": [SSH]},
    ("POST", "/v2/tags"): {"name": "another"},
    ("DELETE", "/v2/tags/{name}"): None,
    ("POST", "/v2/tags/{name}/resources"): RESOURCES,
    ("DELETE", "/v2/tags/{name}/resources"): RESOURCES,
}
ROUTES = [(route.method, route.path, route.status) for route in v2.ROUTES]


def filled(path: str, firewall_id: str, droplet_id: object = 101, tag: str = "web") -> str:
    """The path of a route with its parameters; a parameter that is not known here fails the test."""
    values = {"firewall_id": firewall_id, "droplet_id": str(droplet_id), "name": tag}
    return re.sub(r"\{(\w+)\}", lambda found: quote(values[found[1]], safe=""), path)


def naming(tag: str, droplet_id: int, also: int = 101) -> list[tuple[str, str, Json]]:
    """Every place in a firewall where a tag or a droplet is named, beside one that is there: (method, path, body)."""
    one = "/v2/firewalls/{firewall_id}"
    tags, ids = ["web", tag], [also, droplet_id]
    parts: list[Json] = [{"tags": tags}, {"droplet_ids": ids}]
    parts += [{"inbound_rules": [{"protocol": "tcp", "ports": "1", "sources": part}]} for part in parts]
    found: list[tuple[str, str, Json]] = []
    for part in parts:
        whole = {"name": "new", "outbound_rules": [], **part}
        (name,) = part
        found += [("POST", "/v2/firewalls", whole), ("PUT", one, whole)]
        found.append(("POST", f"{one}/{name.replace('inbound_', '').replace('_ids', 's')}", part))
    return found


def raw(value: object) -> bytes:
    """JSON as the server writes it."""
    return json.dumps(value).encode()


class Api:
    """A tenant's client over a socket; sends what it is told to, as JSON where that is no bytes.

    Names of headers in answers are in lower case.
    """

    def __init__(self, server: Process, token: str | None = TENANT) -> None:
        self.server, self.token = server, token

    def of(self, token: str | None) -> Api:
        return Api(self.server, token)

    def call(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Answer:
        kind = {"Content-Type": "application/json"} if body is not None else {}
        answer = self.server.call(method, path, body, self.token, {**kind, **(headers or {})})
        return replace(answer, headers={name.lower(): value for name, value in answer.headers.items()})

    def good(self, method: str, path: str, body: object = None) -> Any:
        answer = self.call(method, path, body)
        assert answer.status < 300, (method, path, answer.status, answer.body)
        return answer.json if answer.body else None

    def make(self, **parts: Any) -> Json:
        firewall: Json = self.good("POST", "/v2/firewalls", {**WEB, **parts})["firewall"]
        return firewall

    def refused(self, method: str, path: str, body: object, status: int = 422) -> Answer:
        """The answer to what must be refused, and must change nothing."""
        before = self.everything()
        answer = self.call(method, path, body)
        assert answer.status == status, (method, path, answer.status, answer.body)
        assert self.everything() == before
        return answer

    def everything(self) -> tuple[bytes, ...]:
        """All that an account can see, as bytes."""
        return tuple(
            self.call("GET", f"/v2/{kind}?per_page=200").body for kind in ("firewalls", "tags", "droplets", "account")
        )

    def clean(self) -> None:
        """Back to how a furnished world begins, in both accounts."""
        for account, droplets in (
            ("default", {101: ["web"], 102: [], 103: []}),
            ("acme", {201: ["secret"]}),
        ):
            operator = self.of(OPERATOR)
            while found := operator.good("GET", f"/v2/firewalls?per_page=200&account={account}")["firewalls"]:
                for firewall in found:
                    operator.good("DELETE", f"/v2/firewalls/{firewall['id']}?account={account}")
            for tag in operator.good("GET", f"/v2/tags?per_page=200&account={account}")["tags"]:
                operator.good("DELETE", f"/v2/tags/{tag['name']}?account={account}")
            names = {101: "web-1", 102: "web-2", 103: "db-1", 201: "theirs"}
            for droplet_id, tags in droplets.items():
                body = {"name": names[droplet_id], "account": account, "tags": tags}
                operator.good("PUT", f"/v1/droplets/{droplet_id}", body)
