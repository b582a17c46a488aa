"""@digitalocean/mcp, from npm: a server of the Model Context Protocol, written in Go on godo.

godo is what doctl, terraform and many others speak through: what it makes of our answers is what those see.  The tools
know rules by addresses alone, and one rule of each direction when a firewall is made.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from typing import Any

import pytest

from clients.client import Client, Json, Told
from clients.lines import NODE, Lines
from clients.site import Tenant

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
PROGRAM = NODE / "node_modules/@digitalocean/mcp/dist" / f"mcp-digitalocean-linux-{MACHINES[platform.machine()]}"
GODO = "1.206.0"  # what it was built with
PROTOCOL = "2024-11-05"


class ToolError(Exception):
    """What a tool says that failed."""


class Mcp(Client):
    name = "@digitalocean/mcp"

    def __init__(self, tenant: Tenant, token: str | None = None) -> None:
        super().__init__(tenant, token)
        services = ("-services", "networking,droplets,accounts", "-log-level", "error")
        where = ("-digitalocean-api-endpoint", tenant.url, "-digitalocean-api-token", self.token)
        self._tools = Lines(PROGRAM, *services, *where)
        hello = {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"}}
        self._tools.ask({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello})
        self._tools.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    @staticmethod
    def environment(tenant: Tenant) -> dict[str, str]:
        return {"SSL_CERT_FILE": str(tenant.ca)} if tenant.ca else {}

    def close(self) -> None:
        self._tools.close()

    def firewall(self, name: str) -> Json:
        return {
            "name": name,
            "inbound_rules": [{"protocol": "tcp", "ports": "8000-9000", "sources": {"addresses": ["2001:DB8::/32"]}}],
            "outbound_rules": [{"protocol": "tcp", "ports": "0", "destinations": {"addresses": ["0.0.0.0/0"]}}],
            "droplet_ids": [self.tenant.droplets[0]],
            "tags": ["web"],
        }

    def told(self, call: Callable[[], object]) -> Told:
        with pytest.raises(ToolError) as caught:
            call()
        # api error: GET http://127.0.0.1:8080/v2/firewalls/x: 404 (request "uuid") The resource ...
        _, _, said = str(caught.value).partition("/v2/")
        code, _, message = said.partition(": ")[2].partition(" ")
        if message.startswith("(request "):
            message = message.partition('") ')[2]
        return Told("isError", f"{code} {message}")

    @staticmethod
    def tells(status: int, slug: str, message: str) -> Told:
        return Told("isError", f"{status} {message}")

    def create_firewall(self, body: Json) -> Json:
        """firewall-create"""
        given = {"Name": body["name"]}
        given |= {key: body[name] for key, name in (("DropletIDs", "droplet_ids"), ("Tags", "tags")) if name in body}
        for side, end, peers in (("Inbound", "Source", "sources"), ("Outbound", "Destination", "destinations")):
            (rule,) = body[f"{side.lower()}_rules"]
            (address,) = rule[peers]["addresses"]
            given |= {f"{side}Protocol": rule["protocol"], f"{side}PortRange": rule["ports"], f"{side}{end}": address}
        return self._json("firewall-create", given)

    def get_firewall(self, firewall: str) -> Json:
        """firewall-get"""
        return self._json("firewall-get", {"ID": firewall})

    def list_firewalls(self) -> list[Json]:
        """firewall-list"""
        return self._all("firewall-list")

    def delete_firewall(self, firewall: str) -> object:
        """firewall-delete"""
        return self._call("firewall-delete", {"ID": firewall})

    def add_rules(self, firewall: str, rules: Json) -> object:
        """firewall-add-rules"""
        return self._call("firewall-add-rules", {"ID": firewall, **_rules(rules)})

    def remove_rules(self, firewall: str, rules: Json) -> object:
        """firewall-remove-rules"""
        return self._call("firewall-remove-rules", {"ID": firewall, **_rules(rules)})

    def add_droplets(self, firewall: str, ids: list[int]) -> object:
        """firewall-add-droplets"""
        return self._call("firewall-add-droplets", {"ID": firewall, "DropletIDs": ids})

    def remove_droplets(self, firewall: str, ids: list[int]) -> object:
        """firewall-remove-droplets"""
        return self._call("firewall-remove-droplets", {"ID": firewall, "DropletIDs": ids})

    def add_tags(self, firewall: str, names: list[str]) -> object:
        """firewall-add-tags"""
        return self._call("firewall-add-tags", {"ID": firewall, "Tags": names})

    def remove_tags(self, firewall: str, names: list[str]) -> object:
        """firewall-remove-tags"""
        return self._call("firewall-remove-tags", {"ID": firewall, "Tags": names})

    def list_droplets(self) -> list[Json]:
        """droplet-list"""
        return self._all("droplet-list")

    def get_droplet(self, droplet: int) -> Json:
        """droplet-get"""
        return self._json("droplet-get", {"ID": droplet})

    def account(self) -> Json:
        """account-get-information"""
        return self._json("account-get-information", {})

    def _all(self, tool: str) -> list[Json]:
        """It says neither how many there are nor where to go on: its user asks until a page is not full."""
        found: list[Json] = []
        number, full = 1, True
        while full:
            some = self._json(tool, {"Page": number, "PerPage": self.page})
            found += some
            number, full = number + 1, len(some) == self.page
        return found

    def _json(self, tool: str, given: Json) -> Any:
        return json.loads(self._call(tool, given))

    def _call(self, tool: str, given: Json) -> str:
        asked = {"name": tool, "arguments": given}
        answer = self._tools.ask({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": asked})
        text: str = "\n".join(part["text"] for part in answer["result"]["content"])
        if answer["result"].get("isError"):
            raise ToolError(text)
        return text


def _rules(body: Json) -> Json:
    sides = {"InboundRules": ("inbound_rules", "Sources"), "OutboundRules": ("outbound_rules", "Destinations")}
    return {
        side: [
            {"Protocol": r["protocol"], "PortRange": r["ports"], peers: r[peers.lower()]["addresses"]}
            for r in body[key]
        ]
        for side, (key, peers) in sides.items()
        if key in body
    }
