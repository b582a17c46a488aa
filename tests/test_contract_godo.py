"""Clients on godo (doctl, terraform, the firewall controller of a managed Kubernetes), as far as they touch us.

What they send, and how they take what they are answered, was read from their sources; none of their code is here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from api_server import Process
from contract import ANYWHERE, PEERS, UNLIMITED, Api, Json


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    process = Process(**UNLIMITED)
    yield process
    process.stop()


@pytest.fixture
def api(server: Process) -> Iterator[Api]:
    yield (found := Api(server))
    found.clean()


# --------------------------------------------------------------------------------------------- godo


class GodoError(Exception):
    """Prints as godo's ErrorResponse does."""


class Godo:
    """Its lists are never left out: what is not set is null.  Empty ports and empty lists of peers are left out."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def do(self, method: str, path: str, body: object = None) -> Any:
        headers = {"Accept": "application/json", "User-Agent": "godo/1.201.0"}
        if method != "GET":
            headers["Content-Type"] = "application/json"
        data = None if body is None else json.dumps(body).encode() + b"\n"
        answer = self.api.call(method, path, data, headers)
        if not 200 <= answer.status <= 299:
            fault = json.loads(answer.body) if answer.body else {}
            request_id = fault.get("request_id") or answer.headers.get("x-request-id", "")
            which = f'(request "{request_id}") ' if request_id else ""
            raise GodoError(f"{method} {path}: {answer.status} {which}{fault.get('message', '')}")
        return json.loads(answer.body) if answer.body else None

    @staticmethod
    def rules(kind: str, rules: Iterable[Json] | None) -> list[Json] | None:
        if rules is None:
            return None
        found = []
        for rule in rules:
            peers = rule.get(PEERS[kind])
            kept = None if peers is None else {key: value for key, value in peers.items() if value}
            head = {key: rule[key] for key in ("protocol", "ports") if rule.get(key)}
            found.append({**head, PEERS[kind]: kept})
        return found

    def request(self, name: str, **parts: Any) -> Json:
        return {
            "name": name,
            "inbound_rules": self.rules("inbound_rules", parts.get("inbound_rules")),
            "outbound_rules": self.rules("outbound_rules", parts.get("outbound_rules")),
            "droplet_ids": parts.get("droplet_ids"),
            "tags": parts.get("tags"),
        }


# --------------------------------------------------------------------------------------------- doctl


class Doctl:
    WORKERS = 4

    def __init__(self, api: Api) -> None:
        self.godo = Godo(api)

    def rules(self, kind: str, text: str) -> list[Json] | None:
        """`protocol:tcp,ports:22,address:::/0 protocol:icmp,...`; unknown keys are dropped in silence."""
        lists = {"address": "addresses", "tag": "tags", "droplet_id": "droplet_ids",
                 "load_balancer_uid": "load_balancer_uids", "kubernetes_id": "kubernetes_ids"}  # fmt: skip
        found = []
        for word in text.split(" ") if text else ():
            rule: Json = {PEERS[kind]: {}}
            for pair in word.split(","):
                key, _, value = pair.partition(":")
                if key in ("protocol", "ports"):
                    rule[key] = value
                elif key in lists:
                    rule[PEERS[kind]].setdefault(lists[key], []).append(int(value) if key == "droplet_id" else value)
            found.append(rule)
        return found or None

    def body(self, name: str, inbound: str = "", outbound: str = "", droplets: Any = (), tags: Any = ()) -> Json:
        parts = {"inbound_rules": self.rules("inbound_rules", inbound), "droplet_ids": list(droplets)}
        return self.godo.request(name, outbound_rules=self.rules("outbound_rules", outbound), tags=list(tags), **parts)

    def list(self, path: str = "/v2/firewalls", per_page: int = 200) -> list[Json]:
        """The first page, then 2 to the last by several workers.  (It drops a page that fails; here that fails.)"""

        def fetch(page: int) -> Json:
            found: Json = self.godo.do("GET", f"{path}?page={page}&per_page={per_page}")
            return found

        first = fetch(1)
        pages = (first["links"] or {}).get("pages") or {}
        last = int(parse_qs(urlsplit(pages["last"]).query)["page"][0]) if pages.get("last") else 1
        found = list(first["firewalls"])
        with ThreadPoolExecutor(self.WORKERS) as workers:
            for page in workers.map(fetch, range(2, last + 1)):
                found += page["firewalls"]
        return found

    @staticmethod
    def row(firewall: Json) -> dict[str, str]:
        """A line of its table; goes through every pointer without looking whether it is nil."""

        def shown(rules: list[Json], key: str) -> str:
            words = []
            for rule in rules:
                parts = [f"protocol:{rule['protocol']}"]
                parts += [f"ports:{rule['ports']}"] if rule["ports"] and rule["protocol"] != "icmp" else []
                for name, singular in (("addresses", "address"), ("tags", "tag"), ("droplet_ids", "droplet_id")):
                    parts += [f"{singular}:{value}" for value in rule[key].get(name, ())]
                words.append(",".join(parts))
            return " ".join(words)

        return {
            "ID": firewall["id"],
            "Name": firewall["name"],
            "Status": firewall["status"],
            "Created": firewall["created_at"],
            "InboundRules": shown(firewall["inbound_rules"], "sources"),
            "OutboundRules": shown(firewall["outbound_rules"], "destinations"),
            "DropletIDs": ",".join(map(str, firewall["droplet_ids"])),
            "Tags": ",".join(firewall["tags"]),
            "PendingChanges": " ".join(str(change["droplet_id"]) for change in firewall["pending_changes"]),
        }


def test_doctl_creates_with_its_integration_tests_body(api: Api) -> None:
    doctl = Doctl(api)
    body = doctl.body("test-firewall", "protocol:tcp,ports:443")
    assert body == {
        "name": "test-firewall",
        "inbound_rules": [{"protocol": "tcp", "ports": "443", "sources": {}}],
        "outbound_rules": None,
        "droplet_ids": [],
        "tags": [],
    }
    row = doctl.row(doctl.godo.do("POST", "/v2/firewalls", body)["firewall"])
    shown = [row[column] for column in ("Status", "InboundRules", "OutboundRules", "DropletIDs", "PendingChanges")]
    assert shown == ["succeeded", "protocol:tcp,ports:443", "", "", ""]


def test_doctl_lists_more_than_one_page_and_drops_none(api: Api) -> None:
    doctl = Doctl(api)
    names = [f"fw-{number:03}" for number in range(203)]
    for name in names:
        doctl.godo.do("POST", "/v2/firewalls", doctl.body(name, "protocol:icmp,address:::/0"))
    assert [doctl.row(firewall)["Name"] for firewall in doctl.list()] == names
    assert [doctl.row(firewall)["Name"] for firewall in doctl.list(per_page=20)] == names


def test_doctl_goes_through_its_commands(api: Api) -> None:
    doctl = Doctl(api)
    do = doctl.godo.do
    do("POST", "/v2/tags", {"name": "env:prod"})
    ssh = "protocol:tcp,ports:22,address:::/0,address:10.0.0.0/8,tag:env:prod,droplet_id:101"
    one = f"/v2/firewalls/{do('POST', '/v2/firewalls', doctl.body('fw', ssh, '', [102]))['firewall']['id']}"
    assert doctl.row(do("GET", one)["firewall"])["InboundRules"] == (
        "protocol:tcp,ports:22,address:::/0,address:10.0.0.0/8,tag:env:prod,droplet_id:101"
    )
    assert [firewall["name"] for firewall in doctl.list("/v2/droplets/102/firewalls")] == ["fw"]
    do("POST", f"{one}/droplets", {"droplet_ids": [101, 103]})
    do("DELETE", f"{one}/droplets", {"droplet_ids": [102]})
    do("POST", f"{one}/tags", {"tags": ["env:prod", "web"]})
    do("DELETE", f"{one}/tags", {"tags": ["env:prod"]})
    more = {
        "inbound_rules": None,
        "outbound_rules": doctl.rules("outbound_rules", "protocol:udp,ports:all,address:::/0"),
    }
    do("POST", f"{one}/rules", more)
    row = doctl.row(do("GET", one)["firewall"])
    assert (row["DropletIDs"], row["Tags"]) == ("101,103", "web")
    assert row["OutboundRules"] == "protocol:udp,ports:0,address:::/0"
    do("DELETE", f"{one}/rules", more)
    row = doctl.row(do("PUT", one, doctl.body("renamed", ssh))["firewall"])  # flags that are not given reset
    assert (row["Name"], row["OutboundRules"], row["DropletIDs"], row["Tags"]) == ("renamed", "", "", "")
    do("DELETE", one)
    with pytest.raises(GodoError, match=r": 404 "):
        do("GET", one)
    assert doctl.list() == []


def test_doctl_is_told_that_a_misspelt_key_left_a_rule_without_ports(api: Api) -> None:
    doctl = Doctl(api)
    with pytest.raises(GodoError, match=r"422 .*You must specify a positive value for ports\."):
        doctl.godo.do("POST", "/v2/firewalls", doctl.body("fw", "protocol:tcp,port:22,address:::/0"))


# --------------------------------------------------------------------------------------------- terraform


class Terraform:
    """One resource: its configuration, what its state holds after a read, and what it does to make them meet."""

    def __init__(self, api: Api, config: Json) -> None:
        self.godo, self.config = Godo(api), config
        self.id: str | None = None
        self.state: object = None

    def body(self) -> Json:
        parts: Json = {}
        for kind, key in PEERS.items():
            # A set has no order; any will do.
            parts[kind] = [
                {"protocol": protocol, "ports": ports, key: peers}
                for protocol, ports, peers in reversed(self.config.get(kind, []))
            ] or None
        return self.godo.request(
            self.config["name"], droplet_ids=self.config.get("droplet_ids"), tags=self.config.get("tags"), **parts
        )

    def wanted(self) -> object:
        return (
            self.config["name"],
            sorted(self.config.get("droplet_ids", [])),
            sorted(tag.lower() for tag in self.config.get("tags", [])),
            *(sorted(map(self._hash, self.config.get(kind, []))) for kind in PEERS),
        )

    def _hash(self, rule: tuple[str, str, Json]) -> str:
        protocol, ports, peers = rule
        return repr((protocol, ports, sorted((key, sorted(map(str, value))) for key, value in peers.items() if value)))

    def read(self) -> None:
        try:
            found = self.godo.do("GET", f"/v2/firewalls/{self.id}")["firewall"]
        except GodoError as error:
            if ": 404 " not in str(error):
                raise
            self.id = self.state = None
            return
        rules = {
            kind: [(rule["protocol"], self._flat(rule), rule[PEERS[kind]]) for rule in found[kind]] for kind in PEERS
        }
        tags = [tag.lower() for tag in found["tags"]]
        self.state = (
            found["name"], sorted(found["droplet_ids"]), sorted(tags),
            *(sorted(map(self._hash, rules[kind])) for kind in PEERS),
        )  # fmt: skip

    @staticmethod
    def _flat(rule: Json) -> str:
        """`0` is read as `all`, and as nothing for icmp."""
        ports: str = rule["ports"]
        return ports if ports != "0" else "" if rule["protocol"] == "icmp" else "all"

    def plan_is_clean(self) -> bool:
        self.read()
        return self.state == self.wanted()

    def apply(self) -> None:
        if self.id is None:
            self.id = self.godo.do("POST", "/v2/firewalls", self.body())["firewall"]["id"]
        elif not self.plan_is_clean():
            self.godo.do("PUT", f"/v2/firewalls/{self.id}", self.body())
        self.read()

    def destroy(self) -> None:
        try:
            self.godo.do("DELETE", f"/v2/firewalls/{self.id}")
        except GodoError as error:
            if "404 Not Found" not in str(error):
                raise


CONFIG: Json = {
    "name": "only-22-80-and-443",
    "droplet_ids": [102, 101],
    "tags": ["WEB"],
    "inbound_rules": [
        ("tcp", "22", {"addresses": ["192.168.1.0/24", "2002:1:2::/48"]}),
        ("tcp", "all", {"addresses": ANYWHERE, "tags": ["Web"]}),
        ("icmp", "", {"addresses": ANYWHERE}),
        ("udp", "1-65535", {"droplet_ids": [103], "load_balancer_uids": ["4de7ac8b"], "kubernetes_ids": ["k"]}),
    ],
    "outbound_rules": [
        ("icmp", "1-65535", {"addresses": ["::0/0", "0.0.0.0/0"]}),
        ("udp", "53", {"addresses": ["2001:DB8::/32"]}),
    ],
}


def test_terraform_creates_plans_clean_updates_and_destroys_twice(api: Api) -> None:
    terraform = Terraform(api, CONFIG)
    terraform.apply()
    first = terraform.id
    assert terraform.plan_is_clean()
    terraform.config = {**CONFIG, "tags": ["web"], "outbound_rules": CONFIG["outbound_rules"][:1], "droplet_ids": [103]}
    assert not terraform.plan_is_clean()
    terraform.apply()
    assert (terraform.plan_is_clean(), terraform.id) == (True, first)
    terraform.destroy()
    terraform.destroy()
    assert not terraform.plan_is_clean()
    assert terraform.id is None


def test_terraform_plans_clean_with_one_kind_of_rules(api: Api) -> None:
    for number, kind in enumerate(PEERS):
        terraform = Terraform(api, {"name": f"fw-{number}", kind: CONFIG[kind]})
        terraform.apply()
        assert terraform.plan_is_clean()


def test_terraform_sees_what_was_changed_and_what_was_deleted_behind_its_back(api: Api) -> None:
    terraform = Terraform(api, CONFIG)
    terraform.apply()
    api.good("DELETE", f"/v2/firewalls/{terraform.id}/tags", {"tags": ["web"]})
    assert not terraform.plan_is_clean()
    terraform.apply()
    assert terraform.plan_is_clean()
    api.good("DELETE", f"/v2/firewalls/{terraform.id}")
    terraform.read()
    assert terraform.id is None
    terraform.apply()
    assert terraform.plan_is_clean()


def test_terraform_tags_before_it_attaches(api: Api) -> None:
    do = Godo(api).do
    for _ in range(2):
        assert do("POST", "/v2/tags", {"name": "web"})["tag"]["name"] == "web"
        body = {"resources": [{"resource_id": "103", "resource_type": "droplet"}]}
        do("POST", "/v2/tags/web/resources", body)
    assert do("GET", "/v2/tags/web")["tag"]["resources"]["droplets"]["count"] == 2
    do("DELETE", "/v2/tags/web/resources", body)


# --------------------------------------------------------------------------------------------- Kubernetes


class Controller:
    """Keeps one firewall as it should be: gets it, compares name, rules and tags, puts; creates it when it is gone."""

    ALL = ("", "0", "all")

    def __init__(self, api: Api) -> None:
        self.godo = Godo(api)
        peers = {"addresses": ANYWHERE}
        self.wanted = self.godo.request(
            "k8s-public-access",
            inbound_rules=[{"protocol": "tcp", "ports": "30000-32767", "sources": peers}],
            outbound_rules=[
                {"protocol": "tcp", "ports": "all", "destinations": peers},
                {"protocol": "udp", "ports": "all", "destinations": peers},
                {"protocol": "icmp", "destinations": peers},
            ],
            tags=["web"],
        )
        self.id = "00000000-0000-4000-8000-000000000000"
        self.writes = 0

    def plain(self, firewall: Json) -> object:
        def ports(rule: Json) -> str:
            found: str = rule.get("ports", "")
            return "all" if found in self.ALL else found

        rules = [
            [(rule["protocol"], ports(rule), json.dumps(rule[key])) for rule in firewall[kind] or ()]
            for kind, key in PEERS.items()
        ]
        return firewall["name"], rules, firewall["tags"]

    def reconcile(self) -> None:
        try:
            found = self.godo.do("GET", f"/v2/firewalls/{self.id}")["firewall"]
        except GodoError as error:
            if ": 404 " not in str(error):
                raise
            found = next((f for f in Doctl(self.godo.api).list() if f["name"] == self.wanted["name"]), None)
        if found is not None and self.plain(found) == self.plain(self.wanted):
            return
        self.writes += 1
        try:
            done = self.godo.do("PUT", f"/v2/firewalls/{found['id'] if found else self.id}", self.wanted)
        except GodoError as error:
            if ": 404 " not in str(error):
                raise
            done = self.godo.do("POST", "/v2/firewalls", self.wanted)
        self.id = done["firewall"]["id"]


def test_a_kubernetes_controller_settles_and_repairs(api: Api) -> None:
    controller = Controller(api)
    for _ in range(3):
        controller.reconcile()
    assert controller.writes == 1
    rule = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ANYWHERE}}
    api.good("POST", f"/v2/firewalls/{controller.id}/rules", {"inbound_rules": [rule]})
    for _ in range(2):
        controller.reconcile()
    assert controller.writes == 2
    api.good("DELETE", f"/v2/firewalls/{controller.id}")
    for _ in range(2):
        controller.reconcile()
    assert controller.writes == 3
    assert api.good("GET", "/v2/firewalls")["meta"]["total"] == 1
