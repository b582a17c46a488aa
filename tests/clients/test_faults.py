"""How each client tells its user what went wrong; the docstrings are rows of docs/clients.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from clients.client import Json
from clients.site import Site, Tenant

pytestmark = pytest.mark.process
needs = pytest.mark.needs
Client = Any  # as in test_clients.py

NOT_FOUND = (404, "not_found", "The resource you requested could not be found.")
DELETED = (404, "not_found", "Not Found. The resource you requested could not be found.")
UNAUTHORIZED = (401, "unauthorized", "Unable to authenticate you.")
FORBIDDEN = (403, "forbidden", "You are not authorized to perform this operation.")
WEB = {"protocol": "tcp", "ports": "443", "sources": {"addresses": ["192.0.2.1"]}}
NO_ONE = "00000000-0000-4000-8000-000000000000"


def invalid(message: str) -> tuple[int, str, str]:
    return 422, "unprocessable_entity", message


def tells(client: Client, fault: tuple[int, str, str], call: Callable[[], object]) -> None:
    assert client.told(call) == client.tells(*fault)


def refuses(client: Client, words: str, call: Callable[[], object]) -> None:
    """As `tells`, where the message's exact words do not matter."""
    found, expected = client.told(call), client.tells(*invalid(""))
    assert found.kind == expected.kind
    assert words in found.text


def made(client: Client, name: str = "web-fw", **parts: object) -> Json:
    firewall: Json = client.create_firewall({**client.firewall(name), **parts})
    return firewall


@pytest.fixture
def stranger(site: Site) -> Tenant:
    """Another account, with a firewall and a tag that nobody else has."""
    tenant = site.tenant(droplets=1, tags=lambda _: ["theirs"])
    site.operator("POST", f"/v2/firewalls?account={tenant.account}", {"name": "theirs", "inbound_rules": [WEB]})
    return tenant


def firewall_of(site: Site, tenant: Tenant) -> str:
    (firewall,) = site.operator("GET", f"/v2/firewalls?account={tenant.account}")["firewalls"]
    return str(firewall["id"])


@needs("list_firewalls", "create_firewall")
def test_no_token(connect: Any, tenant: Tenant) -> None:
    """a token that nobody has"""
    client = connect(tenant, token="nobodys")
    tells(client, UNAUTHORIZED, client.list_firewalls)
    tells(client, UNAUTHORIZED, lambda: made(client))


@needs("list_tags")
def test_too_often(connect: Any, site: Site, tenant: Tenant, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """more requests than a token has in a minute"""
    monkeypatch.setattr(kind, "patient", False)
    client = connect(tenant)
    assert [tag["name"] for tag in client.list_tags()] == ["web"]
    site.use_up(tenant.token)
    tells(client, (429, "too_many_requests", "API rate limit exceeded."), client.list_tags)


@needs("list_firewalls", "create_firewall", "delete_firewall")
def test_viewer(connect: Any, site: Site, tenant: Tenant) -> None:
    """a token that may only read, for a write"""
    client = connect(tenant, token=site.token(tenant.account, "viewer"))
    assert client.list_firewalls() == []
    tells(client, FORBIDDEN, lambda: made(client))
    tells(client, FORBIDDEN, lambda: client.delete_firewall(NO_ONE))


@needs("get_firewall", "delete_firewall", "add_droplets", "remove_tags")
def test_unknown_firewall(client: Client, tenant: Tenant) -> None:
    """the id of no firewall"""
    tells(client, NOT_FOUND, lambda: client.get_firewall(NO_ONE))
    tells(client, NOT_FOUND, lambda: client.add_droplets(NO_ONE, [tenant.droplets[0]]))
    tells(client, DELETED, lambda: client.delete_firewall(NO_ONE))
    tells(client, DELETED, lambda: client.remove_tags(NO_ONE, ["web"]))


@needs("update_firewall", "add_rules", "remove_rules")
def test_unknown_firewall_for_rules(client: Client) -> None:
    """the id of no firewall, to replace it or change its rules"""
    tells(client, NOT_FOUND, lambda: client.update_firewall(NO_ONE, client.firewall("web-fw")))
    tells(client, NOT_FOUND, lambda: client.add_rules(NO_ONE, {"inbound_rules": [WEB]}))
    tells(client, DELETED, lambda: client.remove_rules(NO_ONE, {"inbound_rules": [WEB]}))


@needs("get_droplet")
def test_unknown_droplet(client: Client) -> None:
    """the id of no droplet"""
    tells(client, NOT_FOUND, lambda: client.get_droplet(999_999_999))


@needs("get_tag", "delete_tag", "tag_droplets")
def test_unknown_tag(client: Client, tenant: Tenant) -> None:
    """the name of no tag"""
    tells(client, NOT_FOUND, lambda: client.get_tag("none"))
    tells(client, NOT_FOUND, lambda: client.tag_droplets("none", [tenant.droplets[0]]))
    tells(client, DELETED, lambda: client.delete_tag("none"))


@needs("create_firewall")
def test_duplicate(client: Client) -> None:
    """a name that a firewall has"""
    made(client)
    tells(client, (409, "conflict", "duplicate name"), lambda: made(client))


@needs("create_firewall", "update_firewall")
def test_duplicate_by_update(client: Client) -> None:
    """a name that another firewall has, on replacing"""
    made(client)
    other = made(client, "other")
    tells(
        client,
        (409, "conflict", "duplicate name"),
        lambda: client.update_firewall(other["id"], {**other, "name": "web-fw"}),
    )


@needs("create_firewall")
@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({"ports": ""}, "You must specify a positive value for ports."),
        (
            {"ports": "90-80"},
            "you must specify a valid range for ports: first 90 is after last 80",
        ),
        ({"protocol": "sctp"}, "inbound_rules[0].protocol: must be 'tcp', 'udp' or 'icmp'"),
        (
            {"sources": {"addresses": ["10.0.0.256"]}},
            "invalid address: '10.0.0.256' is not an IP address or prefix",
        ),
    ],
)
def test_bad_rule(client: Client, parts: Json, problem: str) -> None:
    """a rule with bad ports, protocol or address"""
    tells(client, invalid(problem), lambda: made(client, inbound_rules=[{**WEB, **parts}]))
    assert client.list_firewalls() == []


@needs("create_firewall")
def test_bad_name(client: Client) -> None:
    """a name that is none"""
    problem = "name: 'no spaces' is not a firewall name: two or more letters, digits, '.', '-', the first no sign"
    tells(client, invalid(problem), lambda: made(client, "no spaces"))


@needs("create_tag")
def test_bad_tag(client: Client) -> None:
    """a tag's name that is none"""
    problem = "name: 'no spaces' is not a tag: 1 to 255 letters, digits, '_', '-', ':'"
    tells(client, invalid(problem), lambda: client.create_tag("no spaces"))


@needs("create_firewall", "add_tags", "add_droplets", "get_firewall")
def test_unknown_names(client: Client) -> None:
    """a tag or a droplet that does not exist, on making and on attaching"""
    no_tag, no_droplet = (
        invalid("tags[0]: tag 'none' does not exist"),
        "droplet_ids[0]: droplet 999999999 does not exist",
    )
    tells(client, no_tag, lambda: made(client, tags=["none"]))
    tells(client, invalid(no_droplet), lambda: made(client, droplet_ids=[999_999_999]))
    firewall = made(client)
    tells(client, no_tag, lambda: client.add_tags(firewall["id"], ["none"]))
    tells(client, invalid(no_droplet), lambda: client.add_droplets(firewall["id"], [999_999_999]))
    assert client.get_firewall(firewall["id"]) == firewall


@needs("create_firewall", "add_tags")
def test_too_many(connect: Any, site: Site) -> None:
    """more droplets or tags than a firewall may have"""
    tenant = site.tenant(droplets=11, tags=lambda number: ["web", f"tag-{number % 11}"])
    client = connect(tenant)
    refuses(client, "no more than 10 droplets", lambda: made(client, droplet_ids=list(tenant.droplets)))
    firewall = made(client)
    tags = [f"tag-{number}" for number in range(5)]
    refuses(client, "no more than 5 tags", lambda: client.add_tags(firewall["id"], tags))


@needs("create_firewall", "add_rules")
def test_too_many_rules(client: Client) -> None:
    """more rules than a firewall may have"""
    firewall = made(client)
    has = len(firewall["inbound_rules"] + firewall["outbound_rules"])
    rules = [{**WEB, "ports": str(number)} for number in range(100, 151 - has)]
    client.add_rules(firewall["id"], {"inbound_rules": rules[:-1]})
    refuses(
        client,
        "no more than 50 rules",
        lambda: client.add_rules(firewall["id"], {"inbound_rules": [rules[-1], WEB]}),
    )


@needs("get_firewall", "delete_firewall", "add_droplets", "list_firewalls")
def test_anothers_firewall(client: Client, site: Site, tenant: Tenant, stranger: Tenant) -> None:
    """another account's firewall: it does not exist"""
    theirs = firewall_of(site, stranger)
    assert client.list_firewalls() == []
    tells(client, NOT_FOUND, lambda: client.get_firewall(theirs))
    tells(client, NOT_FOUND, lambda: client.add_droplets(theirs, [tenant.droplets[0]]))
    tells(client, DELETED, lambda: client.delete_firewall(theirs))
    assert firewall_of(site, stranger) == theirs


@needs("create_firewall", "add_tags", "get_droplet", "list_droplets")
def test_anothers_droplet(client: Client, tenant: Tenant, stranger: Tenant) -> None:
    """another account's droplet and tag: they do not exist"""
    (theirs,) = stranger.droplets
    assert [one["id"] for one in client.list_droplets()] == list(tenant.droplets)
    tells(client, NOT_FOUND, lambda: client.get_droplet(theirs))
    problem = f"droplet_ids[0]: droplet {theirs} does not exist"
    tells(client, invalid(problem), lambda: made(client, droplet_ids=[theirs]))
    firewall = made(client)["id"]
    tells(client, invalid("tags[0]: tag 'theirs' does not exist"), lambda: client.add_tags(firewall, ["theirs"]))


@needs("create_firewall", "create_tag", "get_tag")
def test_anothers_names_are_free(client: Client, stranger: Tenant) -> None:
    """names that another account uses: one's own, too"""
    assert made(client, "theirs")["name"] == "theirs"
    tells(client, NOT_FOUND, lambda: client.get_tag("theirs"))
    assert client.create_tag("theirs")["resources"]["count"] == 0
