"""The contract's droplets, tags and account (2), row by row, over a real socket."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from api_server import OPERATOR, VIEWER, Process
from contract import UNLIMITED, Api, Json


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    process = Process(**UNLIMITED)
    yield process
    process.stop()


@pytest.fixture
def api(server: Process) -> Iterator[Api]:
    yield (found := Api(server))
    found.clean()


ALL = [101, 102, 103]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ALL),
        ("tag_name=web", [101]),
        ("tag_name=WEB", [101]),
        ("tag_name=none", []),
        ("name=WEB-2", [102]),
        ("name=web", []),
        ("name=theirs", []),
        ("type=droplets", ALL),
        ("type=gpus", []),
        ("name=db-1&type=droplets", [103]),
    ],
)
def test_2_1_list(api: Api, query: str, found: list[int]) -> None:
    answer = api.good("GET", f"/v2/droplets?{query}")
    assert [droplet["id"] for droplet in answer["droplets"]] == found
    assert answer["meta"]["total"] == len(found)


@pytest.mark.parametrize("query", ["tag_name=web&name=web-1", "tag_name=web&type=droplets", "type=x"])
def test_2_1_list_filters_that_exclude_each_other(api: Api, query: str) -> None:
    assert api.call("GET", f"/v2/droplets?{query}").status == 422


KEYS: dict[str, type | tuple[type, ...]] = {
    "id": int, "name": str, "memory": int, "vcpus": int, "disk": int, "locked": bool, "status": str, "created_at": str,
    "features": list, "backup_ids": list, "next_backup_window": (dict, type(None)), "snapshot_ids": list,
    "image": dict, "volume_ids": list, "size": dict, "size_slug": str, "networks": dict, "region": dict, "tags": list,
}  # fmt: skip


def test_2_1_keys(api: Api) -> None:
    one = api.good("GET", "/v2/droplets/101")["droplet"]
    assert one in api.good("GET", "/v2/droplets")["droplets"]
    assert {key for key, kind in KEYS.items() if not isinstance(one.get(key, ...), kind)} == set()
    assert one["status"] in ("new", "active", "off", "archive")
    assert isinstance(one["region"]["slug"], str)
    assert {"id", "name", "distribution", "slug"} <= set(one["image"])


def test_2_1_networks(api: Api) -> None:
    for number in ALL:
        networks = api.good("GET", f"/v2/droplets/{number}")["droplet"]["networks"]
        assert set(networks) == {"v4", "v6"}
        for network in networks["v4"]:
            assert re.fullmatch(r"\d+\.\d+\.\d+\.\d+", network["netmask"])
            assert network["type"] in ("public", "private")
            assert (network["gateway"] is None) is (network["type"] == "private")
        for network in networks["v6"]:
            assert isinstance(network["netmask"], int)
            assert network["type"] == "public"


def test_2_2_create_and_2_2_object(api: Api) -> None:
    first, again = (api.call("POST", "/v2/tags", {"name": "env:Prod_1-a"}) for _ in range(2))
    assert (first.status, again.status, first.body) == (201, 201, again.body)
    assert b"null" not in first.body
    tag = first.json["tag"]
    assert tag["name"] == "env:Prod_1-a"
    kinds = ("droplets", "images", "volumes", "volume_snapshots", "databases")
    for counted in (tag["resources"], *(tag["resources"][kind] for kind in kinds)):
        assert counted["count"] == 0
        assert isinstance(counted["last_tagged_uri"], str)
    for path in ("/v2/tags/env:Prod_1-a", "/v2/tags/env%3AProd_1-a"):
        assert api.good("GET", path) == first.json


@pytest.mark.parametrize("name", ["a" * 255, ":", "-", "_", "0"])
def test_2_2_name(api: Api, name: str) -> None:
    assert api.good("POST", "/v2/tags", {"name": name})["tag"]["name"] == name
    assert api.call("GET", f"/v2/tags/{name}").status == 200


@pytest.mark.parametrize("name", ["", "a" * 256, "a b", "a.b", "a/b", "ä", "a\n", None, 1, ["a"]])
def test_2_2_name_that_is_none(api: Api, name: object) -> None:
    assert list(api.refused("POST", "/v2/tags", {"name": name}).problems) == ["name"]


def test_2_2_case(api: Api) -> None:
    assert api.good("POST", "/v2/tags", {"name": "WEB"})["tag"]["name"] == "web"
    assert [tag["name"] for tag in api.good("GET", "/v2/tags")["tags"]] == ["web"]
    firewall = api.make(tags=["Web"])
    assert firewall["tags"] == ["Web"]  # as written, all the same
    api.good("POST", "/v2/tags", {"name": "db"})
    one = f"/v2/firewalls/{firewall['id']}"
    api.good("POST", f"{one}/tags", {"tags": ["Db", "web", "dB"]})
    assert api.good("GET", one)["firewall"]["tags"] == ["Web", "Db"]
    api.of(OPERATOR).good("PUT", "/v1/droplets/102", {"name": "web-2", "tags": ["B", "a", "b", "A"]})
    assert api.good("GET", "/v2/droplets/102")["droplet"]["tags"] == ["B", "a"]


def test_2_2_delete(api: Api) -> None:
    rule = {"protocol": "tcp", "ports": "22", "sources": {"tags": ["WEB"]}}
    one = f"/v2/firewalls/{api.make(tags=['Web'], inbound_rules=[rule])['id']}"
    assert api.call("DELETE", "/v2/tags/web").status == 204
    left = api.good("GET", one)["firewall"]
    assert (left["tags"], left["inbound_rules"]) == ([], [{**rule, "sources": {}}])  # nobody, not everybody
    assert api.good("GET", "/v2/droplets/101")["droplet"]["tags"] == []
    assert api.call("DELETE", "/v2/tags/web").status == 404


def test_2_2_resources(api: Api) -> None:
    def of(*ids: object) -> Json:
        return {"resources": [{"resource_id": number, "resource_type": "droplet"} for number in ids]}

    for _ in range(2):
        assert api.call("POST", "/v2/tags/web/resources", of("102", "103")).status == 204
    assert api.good("GET", "/v2/tags/web")["tag"]["resources"]["droplets"]["count"] == 3
    for _ in range(2):
        assert api.call("DELETE", "/v2/tags/web/resources", of("101", 103)).status == 204
    assert [d["id"] for d in api.good("GET", "/v2/droplets?tag_name=web")["droplets"]] == [102]
    assert list(api.refused("POST", "/v2/tags/web/resources", of("102", "999")).problems) == [
        "resources[1].resource_id"
    ]
    assert api.call("POST", "/v2/tags/none/resources", of("102")).status == 404
    assert api.good("POST", "/v2/tags/web/resources", {"resources": []}) is None


def test_2_3_account(api: Api) -> None:
    for client in (api, api.of(VIEWER)):
        account = client.good("GET", "/v2/account")["account"]
        assert "@" in account["email"]
        assert re.fullmatch(r"[0-9a-f-]{36}", account["uuid"])
        assert account["status"] == "active"
        assert account["droplet_limit"] > 0
