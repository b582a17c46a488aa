"""Ansible's modules of community.digitalocean, as a task runs them; the docstrings are rows of docs/clients.md.

They say what is to be, and find out themselves what is: by listing, and comparing with what they would write.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clients.client import Json
from clients.site import Site, Tenant

pytestmark = pytest.mark.process

MODULES = Path(__file__).parent / "ansible"
COLLECTION = "ansible_collections.community.digitalocean"
VERSION = "1.23.0"  # that of Debian 12
MANY = 45  # more than the module's page of 40
Module = Callable[..., Json]


@pytest.fixture
def module(tenant: Tenant, tmp_path: Path) -> Module:
    """Runs a task: (module, its arguments) -> its result."""
    assert MODULES.is_dir(), "Ansible's modules are not installed: run scripts/install-clients"
    trust = {"SSL_CERT_FILE": str(tenant.ca)} if tenant.ca else {}
    always = {"baseurl": f"{tenant.url}/v2", "oauth_token": tenant.token, "_ansible_remote_tmp": str(tmp_path)}

    def run(task: str, **given: object) -> Json:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", f"{COLLECTION}.plugins.modules.{task}"],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": {**always, **given}}), capture_output=True, text=True, check=False,
            cwd=tmp_path, env={**os.environ, **trust, "PYTHONPATH": str(MODULES)},
        )  # fmt: skip
        assert done.stdout, done.stderr
        result: Json = json.loads(done.stdout)
        return result

    return run


def wanted(tenant: Tenant, **parts: object) -> Json:
    one, two, _ = (str(number) for number in tenant.droplets)
    everyone = {"addresses": ["0.0.0.0/0", "::/0"]}
    return {
        "name": "web-fw",
        "state": "present",
        "droplet_ids": [one],
        "tags": ["web"],
        "inbound_rules": [
            {
                "protocol": "tcp",
                "ports": "22",
                "sources": {"addresses": ["203.0.113.0/24", "2001:DB8::/32"], "tags": ["web"], "droplet_ids": [two]},
            },
            {"protocol": "icmp", "ports": "1-65535", "sources": everyone},
        ],
        "outbound_rules": [{"protocol": "tcp", "ports": "1-65535", "destinations": everyone}],
        **parts,
    }


def test_present(module: Module, tenant: Tenant, site: Site) -> None:
    """a firewall that is to be: made, then left alone (`changed: false`)"""
    made = module("digital_ocean_firewall", **wanted(tenant))
    assert made["changed"], made
    assert [rule["ports"] for rule in made["data"]["inbound_rules"]] == ["22", "1-65535"]
    revision = site.revision
    assert not module("digital_ocean_firewall", **wanted(tenant))["changed"]
    assert site.revision == revision


def test_changed(module: Module, tenant: Tenant) -> None:
    """another set of rules: changed once, then left alone"""
    first = module("digital_ocean_firewall", **wanted(tenant))["data"]
    rules = [{"protocol": "udp", "ports": "53", "sources": {"addresses": ["10.1.2.3/8"]}}]
    second = module("digital_ocean_firewall", **wanted(tenant, inbound_rules=rules))
    assert (second["changed"], second["data"]["inbound_rules"]) == (True, rules)
    assert second["data"]["id"] == first["id"]
    assert not module("digital_ocean_firewall", **wanted(tenant, inbound_rules=rules))["changed"]


def test_absent(module: Module, tenant: Tenant, site: Site) -> None:
    """a firewall that is not to be, found by its name behind a page of others: deleted, then left alone"""
    for number in range(MANY):
        site.operator("POST", f"/v2/firewalls?account={tenant.account}", {"name": f"fw-{number}", "inbound_rules": []})
    assert len(module("digital_ocean_firewall_info")["data"]) == MANY
    assert module("digital_ocean_firewall", name=f"fw-{MANY - 1}", state="absent")["changed"]
    assert not module("digital_ocean_firewall", name=f"fw-{MANY - 1}", state="absent")["changed"]
    assert len(module("digital_ocean_firewall_info")["data"]) == MANY - 1


def test_tag(module: Module, tenant: Tenant) -> None:
    """a tag: made, put on a droplet, listed, deleted"""
    assert module("digital_ocean_tag", name="db", state="present")["changed"]
    assert module("digital_ocean_tag", name="db", resource_id=str(tenant.droplets[0]), state="present")["changed"]
    tags = {tag["name"]: tag["resources"]["count"] for tag in module("digital_ocean_tag_info")["data"]}
    assert tags == {"db": 1, "web": 3}
    assert module("digital_ocean_tag", name="db", state="absent")["changed"]
    assert [droplet["tags"] for droplet in module("digital_ocean_droplet_info")["data"]] == [["web"]] * 3


def test_account(module: Module, tenant: Tenant) -> None:
    """the account"""
    assert module("digital_ocean_account_info")["data"]["email"] == f"{tenant.account}@localhost"


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({"tags": ["none"]}, "tags[0]: tag 'none' does not exist"),
        ({"oauth_token": "nobodys"}, "Failed to login"),
    ],
)
def test_fault(module: Module, tenant: Tenant, parts: dict[str, Any], problem: str) -> None:
    """an unknown tag, or a token that nobody has: the task fails and says why"""
    result = module("digital_ocean_firewall", **wanted(tenant, **parts))
    assert result["failed"]
    assert problem in json.dumps(result["msg"])
