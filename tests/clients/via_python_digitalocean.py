"""python-digitalocean: objects that load and save themselves.

It has no call that changes rules, and none that replaces a firewall.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import digitalocean
import pytest
from digitalocean.Firewall import Destinations, InboundRule, OutboundRule, Sources

from clients.client import Client, Json, Told
from clients.site import Tenant


class PythonDigitalocean(Client):
    name = "python-digitalocean"
    page = 200  # it asks for so many unasked, and for the following pages itself

    def __init__(self, tenant: Tenant, token: str | None = None) -> None:
        super().__init__(tenant, token)
        self._manager = digitalocean.Manager(token=self.token)

    @staticmethod
    def environment(tenant: Tenant) -> dict[str, str]:
        # Not by an argument of the manager: what it makes would not know it.
        trust = {"REQUESTS_CA_BUNDLE": str(tenant.ca)} if tenant.ca else {}
        return {"DIGITALOCEAN_END_POINT": f"{tenant.url}/v2/", **trust}

    def told(self, call: Callable[[], object]) -> Told:
        with pytest.raises(digitalocean.Error) as caught:
            call()
        return Told(caught.type.__name__, str(caught.value))

    @staticmethod
    def tells(status: int, slug: str, message: str) -> Told:
        return Told("NotFoundError", "") if status == 404 else Told("DataReadError", message)

    def create_firewall(self, body: Json) -> Json:
        """Firewall.create"""
        inbound = [
            InboundRule(r["protocol"], r["ports"], Sources(**r["sources"])) for r in body.get("inbound_rules", ())
        ]
        outbound = [
            OutboundRule(r["protocol"], r["ports"], Destinations(**r["destinations"]))
            for r in body.get("outbound_rules", ())
        ]
        rules = {"inbound_rules": inbound, "outbound_rules": outbound}
        return _firewall(digitalocean.Firewall(token=self.token, **{**body, **rules}).create())

    def get_firewall(self, firewall: str) -> Json:
        """Manager.get_firewall"""
        return _firewall(self._manager.get_firewall(firewall))

    def list_firewalls(self) -> list[Json]:
        """Manager.get_all_firewalls"""
        return [_firewall(found) for found in self._manager.get_all_firewalls()]

    def delete_firewall(self, firewall: str) -> object:
        """Firewall.destroy"""
        return self._by_id(firewall).destroy()

    def add_droplets(self, firewall: str, ids: list[int]) -> object:
        """Firewall.add_droplets"""
        return self._by_id(firewall).add_droplets(ids)

    def remove_droplets(self, firewall: str, ids: list[int]) -> object:
        """Firewall.remove_droplets"""
        return self._by_id(firewall).remove_droplets(ids)

    def add_tags(self, firewall: str, names: list[str]) -> object:
        """Firewall.add_tags"""
        return self._by_id(firewall).add_tags(names)

    def remove_tags(self, firewall: str, names: list[str]) -> object:
        """Firewall.remove_tags"""
        return self._by_id(firewall).remove_tags(names)

    def list_droplets(self) -> list[Json]:
        """Manager.get_all_droplets"""
        return [_droplet(found) for found in self._manager.get_all_droplets()]

    def list_droplets_of_tag(self, name: str) -> list[Json]:
        """Manager.get_all_droplets(tag_name=)"""
        return [_droplet(found) for found in self._manager.get_all_droplets(tag_name=name)]

    def get_droplet(self, droplet: int) -> Json:
        """Manager.get_droplet"""
        return _droplet(self._manager.get_droplet(droplet))

    def create_tag(self, name: str) -> Json:
        """Tag.create"""
        tag = digitalocean.Tag(token=self.token, name=name)
        tag.create()
        return _tag(tag)

    def get_tag(self, name: str) -> Json:
        """Tag.load"""
        return _tag(digitalocean.Tag(token=self.token, name=name).load())

    def list_tags(self) -> list[Json]:
        """Manager.get_all_tags"""
        return [_tag(found) for found in self._manager.get_all_tags()]

    def delete_tag(self, name: str) -> object:
        """Tag.delete"""
        return digitalocean.Tag(token=self.token, name=name).delete()

    def tag_droplets(self, name: str, ids: list[int]) -> object:
        """Tag.add_droplets"""
        return digitalocean.Tag(token=self.token, name=name).add_droplets(ids)

    def untag_droplets(self, name: str, ids: list[int]) -> object:
        """Tag.remove_droplets"""
        return digitalocean.Tag(token=self.token, name=name).remove_droplets(ids)

    def account(self) -> Json:
        """Manager.get_account"""
        found = self._manager.get_account()
        return {name: getattr(found, name) for name in ("email", "uuid", "status", "droplet_limit")}

    def _by_id(self, firewall: str) -> Any:
        return digitalocean.Firewall(token=self.token, id=firewall)


def _firewall(found: Any) -> Json:
    """What its user reads from the attributes."""
    names = ("id", "name", "status", "created_at", "pending_changes", "droplet_ids", "tags")
    inbound = [{"protocol": r.protocol, "ports": r.ports, "sources": _peers(r.sources)} for r in found.inbound_rules]
    outbound = [
        {"protocol": r.protocol, "ports": r.ports, "destinations": _peers(r.destinations)} for r in found.outbound_rules
    ]
    return {**{name: getattr(found, name) for name in names}, "inbound_rules": inbound, "outbound_rules": outbound}


def _peers(found: Any) -> Json:
    return {name: names for name, names in vars(found).items() if names}


def _droplet(found: Any) -> Json:
    # It adds addresses and more of its own; these are as the server has them.
    return {name: getattr(found, name) for name in ("id", "name", "tags", "networks", "status", "region", "image")}


def _tag(found: Any) -> Json:
    return {"name": found.name, "resources": found.resources}
