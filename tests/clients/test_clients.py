"""Each operation with each client that has calls for it; the docstrings are the rows of docs/clients.md.

What a client reads is compared with what it wrote by the fields that its users read.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from ovs_dummy import DummyOvs

from clients.client import WRITTEN, Json
from clients.site import AWAY, HERE, Site, Tenant, running
from lab.system import wait_until

pytestmark = pytest.mark.process
needs = pytest.mark.needs
Client = Any  # one of clients.every: which calls it has beside those of every client, the marks say

MANY = 205  # more than the 200 of the longest page
WEB = {"protocol": "tcp", "ports": "443", "sources": {"addresses": ["192.0.2.1"]}}
SSH = {"protocol": "tcp", "ports": "2222", "sources": {"addresses": ["192.0.2.1", "192.0.2.128/25"]}}
DNS = {"protocol": "udp", "ports": "5353", "destinations": {"addresses": ["192.0.2.2"]}}


def written(firewall: Json) -> Json:
    return {name: firewall[name] for name in WRITTEN}


def made(client: Client, name: str = "web-fw", **parts: object) -> Json:
    firewall: Json = client.create_firewall({**client.firewall(name), **parts})
    return firewall


def ids(objects: list[Json]) -> list[Any]:
    return [one["id"] for one in objects]


@pytest.fixture(scope="module")
def crowd(site: Site) -> Tenant:
    """An account with as many firewalls, droplets and tags as fill more than one of the longest pages."""
    tenant = site.tenant(MANY, lambda number: ["all", f"tag-{number}"])
    for number in tenant.droplets:
        body = {"name": f"fw-{number}", "inbound_rules": [WEB]}
        site.operator("POST", f"/v2/firewalls?account={tenant.account}", body)
    return tenant


@pytest.fixture(scope="module")
def plain() -> Iterator[Site]:
    """Another controller, without a certificate."""
    with tempfile.TemporaryDirectory(prefix="fw-") as directory, running(Path(directory), tls=False) as found:
        yield found


@pytest.fixture(scope="module")
def plugged(site: Site) -> Iterator[Callable[[int], None]]:
    """Gives a droplet a port on a real Open vSwitch that is connected."""
    with tempfile.TemporaryDirectory(prefix="fw-") as directory, DummyOvs(Path(directory)) as ovs:
        ovs.add_bridge("br0", dpid=int(HERE, 16))
        ovs.vsctl("set-controller", "br0", f"tcp:127.0.0.1:{site.controller.openflow_port}")
        site.operator("PUT", f"/v1/hypervisors/{HERE}", {"name": "here"})
        path = f"/v1/hypervisors/{HERE}"
        wait_until("the switch is connected", lambda: site.operator("GET", path)["connected"], seconds=30)

        def plug(droplet: int) -> None:
            ovs.vsctl("add-port", "br0", f"tap{droplet}", "--", "set", "interface", f"tap{droplet}", "type=dummy")
            site.port(droplet, HERE, f"tap{droplet}")
            port = f"/v1/ports/p{droplet}"
            wait_until("the port is served", lambda: site.operator("GET", port)["status"] == "succeeded", seconds=30)

        yield plug


# --------------------------------------------------------------------------------------------- firewalls


@needs("create_firewall")
def test_create(client: Client) -> None:
    """make one with every kind of target that the client can say"""
    body = client.firewall("web-fw")
    firewall = client.create_firewall(body)
    assert written(firewall) == body
    assert UUID(firewall["id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", firewall["created_at"])
    assert (firewall["status"], firewall["pending_changes"]) == ("succeeded", [])


@needs("create_firewall")
def test_create_bare(client: Client) -> None:
    """make one without droplets and tags"""
    body = {"name": "bare", "inbound_rules": [WEB], "outbound_rules": [DNS]}
    assert written(client.create_firewall(body)) == {**body, "droplet_ids": [], "tags": []}


@needs("create_firewall", "get_firewall")
@pytest.mark.parametrize(
    ("protocol", "ports", "read"),
    [
        ("tcp", "443", "443"),
        ("udp", "8000-9000", "8000-9000"),
        ("tcp", "0", "0"),
        ("tcp", "all", "0"),
        ("udp", "1-65535", "1-65535"),
        ("icmp", "", "0"),
        ("icmp", "0", "0"),
        ("icmp", "all", "0"),
        ("icmp", "1-65535", "1-65535"),
    ],
)
def test_ports(client: Client, protocol: str, ports: str, read: str) -> None:
    """`ports` in every spelling"""
    rule = {**WEB, "protocol": protocol, "ports": ports}
    firewall = client.create_firewall({"name": "ports", "inbound_rules": [rule], "outbound_rules": [DNS]})
    assert firewall["inbound_rules"] == [{**rule, "ports": read}]
    assert client.get_firewall(firewall["id"])["inbound_rules"] == [{**rule, "ports": read}]


@needs("create_firewall", "get_firewall")
def test_read(client: Client) -> None:
    """read one right after it was made"""
    firewall = made(client)
    assert client.get_firewall(firewall["id"]) == firewall


@needs("create_firewall", "get_firewall")
def test_plain(connect: Any, plain: Site) -> None:
    """make and read one over plain HTTP"""
    tenant = plain.tenant()
    assert tenant.url.startswith("http://")
    client = connect(tenant)
    firewall = made(client)
    assert client.get_firewall(firewall["id"]) == firewall


@needs("create_firewall", "list_firewalls")
def test_list(client: Client) -> None:
    """list none, then a few"""
    assert client.list_firewalls() == []
    firewalls = [made(client, name) for name in ("fw-a", "fw-b")]
    assert sorted(client.list_firewalls(), key=lambda one: str(one["name"])) == firewalls


@needs("list_firewalls")
def test_list_over_pages(connect: Any, site: Site, crowd: Tenant) -> None:
    """list 205 over several pages"""
    found = connect(crowd, site.token(crowd.account)).list_firewalls()
    assert sorted(one["name"] for one in found) == [f"fw-{number}" for number in crowd.droplets]
    assert len(set(ids(found))) == MANY


@needs("create_firewall", "update_firewall", "get_firewall")
def test_update(client: Client) -> None:
    """replace one: id and creation stay, what is left out is emptied"""
    before = made(client)
    after = client.update_firewall(before["id"], {"name": "renamed", "outbound_rules": [DNS]})
    expected = {"name": "renamed", "outbound_rules": [DNS], "inbound_rules": [], "droplet_ids": [], "tags": []}
    assert written(after) == expected
    assert (after["id"], after["created_at"]) == (before["id"], before["created_at"])
    assert client.get_firewall(before["id"]) == after


@needs("create_firewall", "get_firewall", "update_firewall")
def test_write_back(client: Client, site: Site) -> None:
    """write back what was read: nothing changes"""
    firewall = client.get_firewall(made(client)["id"])
    revision = site.revision
    assert client.update_firewall(firewall["id"], firewall) == firewall
    assert site.revision == revision


@needs("create_firewall", "get_firewall", "add_rules")
def test_add_rules(client: Client) -> None:
    """add rules; once more changes nothing"""
    before = made(client)
    for _ in "12":
        client.add_rules(before["id"], {"inbound_rules": [SSH], "outbound_rules": [DNS]})
        after = client.get_firewall(before["id"])
        assert after["inbound_rules"] == [*before["inbound_rules"], SSH]
        assert after["outbound_rules"] == [*before["outbound_rules"], DNS]


@needs("create_firewall", "get_firewall", "add_rules", "remove_rules")
def test_remove_rules(client: Client) -> None:
    """remove rules; part of a rule matches nothing"""
    before = made(client)
    client.add_rules(before["id"], {"inbound_rules": [SSH]})
    client.remove_rules(before["id"], {"inbound_rules": [{**SSH, "sources": {"addresses": ["192.0.2.1"]}}]})
    assert SSH in client.get_firewall(before["id"])["inbound_rules"]
    client.remove_rules(before["id"], {"inbound_rules": [SSH]})
    assert client.get_firewall(before["id"]) == before


@needs("create_firewall", "get_firewall", "add_droplets", "remove_droplets")
def test_droplets_of_firewall(client: Client, tenant: Tenant) -> None:
    """attach and detach droplets"""
    one, two, three = tenant.droplets
    firewall = made(client)["id"]
    client.add_droplets(firewall, [two, three])
    assert client.get_firewall(firewall)["droplet_ids"] == [one, two, three]
    client.remove_droplets(firewall, [one, three])
    assert client.get_firewall(firewall)["droplet_ids"] == [two]


@needs("create_firewall", "get_firewall", "add_tags", "remove_tags")
def test_tags_of_firewall(client: Client, site: Site, tenant: Tenant) -> None:
    """attach and detach tags"""
    site.droplet(tenant.droplets[2], tenant.account, ["web", "db"])
    firewall = made(client)["id"]
    client.add_tags(firewall, ["db"])
    assert client.get_firewall(firewall)["tags"] == ["web", "db"]
    client.remove_tags(firewall, ["web"])
    assert client.get_firewall(firewall)["tags"] == ["db"]


@needs("create_firewall", "delete_firewall", "get_firewall", "list_firewalls")
def test_delete(client: Client) -> None:
    """delete one: it is gone from reads and lists"""
    gone, stays = made(client, "gone"), made(client, "stays")
    client.delete_firewall(gone["id"])
    assert client.list_firewalls() == [stays]
    missing = client.tells(404, "not_found", "The resource you requested could not be found.")
    assert client.told(lambda: client.get_firewall(gone["id"])) == missing


@needs("create_firewall", "get_firewall", "remove_droplets")
def test_pending(client: Client, site: Site, tenant: Tenant) -> None:
    """see `waiting` and the droplets that a change has not reached"""
    one = tenant.droplets[0]
    site.operator("PUT", f"/v1/hypervisors/{AWAY}", {"name": "away"})
    site.port(one, AWAY, f"tap{one}")
    firewall = made(client, tags=[])
    client.remove_droplets(firewall["id"], [one])
    for found, removing in ((firewall, False), (client.get_firewall(firewall["id"]), True)):
        assert found["status"] == "waiting"
        (change,) = found["pending_changes"]
        # Some leave out what is false.
        assert (change["droplet_id"], change.get("removing", False), change["status"]) == (one, removing, "waiting")


@pytest.mark.ovs
@needs("create_firewall", "get_firewall")
def test_succeeded(client: Client, tenant: Tenant, plugged: Callable[[int], None]) -> None:
    """see `succeeded` once a real switch has confirmed"""
    plugged(tenant.droplets[0])
    firewall = made(client, tags=[])
    assert firewall["status"] in ("waiting", "succeeded")
    settled = wait_until("succeeded", lambda: _settled(client.get_firewall(firewall["id"])), seconds=30, pause=0.1)
    assert written(settled) == written(firewall)


def _settled(firewall: Json) -> Json | None:
    return firewall if (firewall["status"], firewall["pending_changes"]) == ("succeeded", []) else None


# --------------------------------------------------------------------------------------------- droplets, tags


@needs("list_droplets", "get_droplet")
def test_droplets(client: Client, tenant: Tenant) -> None:
    """list droplets, and read one"""
    assert ids(client.list_droplets()) == list(tenant.droplets)
    droplet = client.get_droplet(tenant.droplets[1])
    assert (droplet["id"], droplet["name"]) == (tenant.droplets[1], f"droplet-{tenant.droplets[1]}")
    assert (droplet["tags"], droplet["status"]) == (["web"], "active")


@needs("list_droplets")
def test_droplets_over_pages(connect: Any, site: Site, crowd: Tenant) -> None:
    """list 205 droplets over several pages"""
    assert ids(connect(crowd, site.token(crowd.account)).list_droplets()) == list(crowd.droplets)


@needs("list_droplets_of_tag")
def test_droplets_of_tag(client: Client, site: Site, tenant: Tenant) -> None:
    """list the droplets of a tag"""
    site.droplet(tenant.droplets[2], tenant.account, ["db"])
    assert ids(client.list_droplets_of_tag("web")) == list(tenant.droplets[:2])


@needs("create_firewall", "list_firewalls_of_droplet")
def test_firewalls_of_droplet(client: Client, tenant: Tenant) -> None:
    """list the firewalls of a droplet, attached directly or by a tag"""
    direct, tagged = made(client, "direct", tags=[]), made(client, "tagged", droplet_ids=[])
    assert client.list_firewalls_of_droplet(tenant.droplets[1]) == [tagged]
    assert sorted(ids(client.list_firewalls_of_droplet(tenant.droplets[0]))) == sorted(ids([direct, tagged]))


@needs("create_tag", "get_tag", "list_tags", "delete_tag")
def test_tags(client: Client) -> None:
    """make a tag, twice; list, read and delete it"""
    tag = client.create_tag("env:prod")
    assert client.create_tag("env:prod") == tag == client.get_tag("env:prod")
    assert (tag["name"], tag["resources"]["count"], tag["resources"]["droplets"]["count"]) == ("env:prod", 0, 0)
    assert [one["name"] for one in client.list_tags()] == ["env:prod", "web"]
    client.delete_tag("env:prod")
    assert [one["name"] for one in client.list_tags()] == ["web"]


@needs("list_tags")
def test_tags_over_pages(connect: Any, site: Site, crowd: Tenant) -> None:
    """list 206 tags over several pages"""
    assert {one["name"] for one in connect(crowd, site.token(crowd.account)).list_tags()} == {
        "all",
        *(f"tag-{n}" for n in crowd.droplets),
    }


@needs("create_tag", "tag_droplets", "untag_droplets", "get_tag", "get_droplet", "delete_tag")
def test_tagging(client: Client, tenant: Tenant) -> None:
    """tag and untag droplets; deleting a tag untags them"""
    one, two, _ = tenant.droplets
    client.create_tag("db")
    client.tag_droplets("db", [one, two])
    assert client.get_tag("db")["resources"]["droplets"]["count"] == 2
    assert client.get_droplet(one)["tags"] == ["web", "db"]
    client.untag_droplets("db", [one])
    assert client.get_tag("db")["resources"]["count"] == 1
    client.delete_tag("db")
    assert client.get_droplet(two)["tags"] == ["web"]


@needs("account")
def test_account(client: Client, tenant: Tenant) -> None:
    """read the account"""
    account = client.account()
    assert (account["email"], account["status"]) == (f"{tenant.account}@localhost", "active")
    assert UUID(account["uuid"])
