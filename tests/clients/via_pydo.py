"""pydo, DigitalOcean's own client for Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pydo
from azure.core.exceptions import HttpResponseError

from clients.client import RETURNED, Client, Json, Told, pages
from clients.site import Tenant


class Pydo(Client):
    name = "pydo"

    def __init__(self, tenant: Tenant, token: str | None = None) -> None:
        super().__init__(tenant, token)
        trust: dict[str, Any] = {"connection_verify": str(tenant.ca)} if tenant.ca else {}
        patience: dict[str, Any] = {} if self.patient else {"retry_total": 0}
        self._client = pydo.Client(self.token, endpoint=tenant.url, **trust, **patience)
        # It refuses to send a token over plain HTTP unless it is told so with each call.
        self._plain: dict[str, Any] = {} if tenant.ca else {"enforce_https": False}

    def told(self, call: Callable[[], object]) -> Told:
        try:
            answer = call()
        except HttpResponseError as error:
            return Told(type(error).__name__, str(error))
        assert isinstance(answer, dict)
        return Told(RETURNED, f"{answer['id']}: {answer['message']}")

    @staticmethod
    def tells(status: int, slug: str, message: str) -> Told:
        if status in (400, 404):  # what its specification lists for a call is an answer of that call
            return Told(RETURNED, f"{slug}: {message}")
        kinds = {401: "ClientAuthenticationError", 409: "ResourceExistsError"}
        text = f"(None) {message}\nCode: None\nMessage: {message}"
        return Told(kinds.get(status, "HttpResponseError"), text)

    def create_firewall(self, body: Json) -> Json:
        """firewalls.create"""
        return self._one(self._client.firewalls.create(body, **self._plain), "firewall")

    def get_firewall(self, firewall: str) -> Json:
        """firewalls.get"""
        return self._one(self._client.firewalls.get(firewall, **self._plain), "firewall")

    def list_firewalls(self) -> list[Json]:
        """firewalls.list"""
        return self._all(self._client.firewalls.list, "firewalls")

    def update_firewall(self, firewall: str, body: Json) -> Json:
        """firewalls.update"""
        return self._one(self._client.firewalls.update(firewall, body, **self._plain), "firewall")

    def delete_firewall(self, firewall: str) -> object:
        """firewalls.delete"""
        return self._client.firewalls.delete(firewall, **self._plain)

    def add_rules(self, firewall: str, rules: Json) -> object:
        """firewalls.add_rules"""
        return self._client.firewalls.add_rules(firewall, rules, **self._plain)

    def remove_rules(self, firewall: str, rules: Json) -> object:
        """firewalls.delete_rules"""
        return self._client.firewalls.delete_rules(firewall, rules, **self._plain)

    def add_droplets(self, firewall: str, ids: list[int]) -> object:
        """firewalls.assign_droplets"""
        return self._client.firewalls.assign_droplets(firewall, {"droplet_ids": ids}, **self._plain)

    def remove_droplets(self, firewall: str, ids: list[int]) -> object:
        """firewalls.delete_droplets"""
        return self._client.firewalls.delete_droplets(firewall, {"droplet_ids": ids}, **self._plain)

    def add_tags(self, firewall: str, names: list[str]) -> object:
        """firewalls.add_tags"""
        return self._client.firewalls.add_tags(firewall, {"tags": names}, **self._plain)

    def remove_tags(self, firewall: str, names: list[str]) -> object:
        """firewalls.delete_tags"""
        return self._client.firewalls.delete_tags(firewall, {"tags": names}, **self._plain)

    def list_droplets(self) -> list[Json]:
        """droplets.list"""
        return self._all(self._client.droplets.list, "droplets")

    def list_droplets_of_tag(self, name: str) -> list[Json]:
        """droplets.list(tag_name=)"""
        return self._all(self._client.droplets.list, "droplets", tag_name=name)

    def get_droplet(self, droplet: int) -> Json:
        """droplets.get"""
        return self._one(self._client.droplets.get(droplet, **self._plain), "droplet")

    def list_firewalls_of_droplet(self, droplet: int) -> list[Json]:
        """droplets.list_firewalls"""
        return self._all(lambda **page: self._client.droplets.list_firewalls(droplet, **page), "firewalls")

    def create_tag(self, name: str) -> Json:
        """tags.create"""
        return self._one(self._client.tags.create({"name": name}, **self._plain), "tag")

    def get_tag(self, name: str) -> Json:
        """tags.get"""
        return self._one(self._client.tags.get(name, **self._plain), "tag")

    def list_tags(self) -> list[Json]:
        """tags.list"""
        return self._all(self._client.tags.list, "tags")

    def delete_tag(self, name: str) -> object:
        """tags.delete"""
        return self._client.tags.delete(name, **self._plain)

    def tag_droplets(self, name: str, ids: list[int]) -> object:
        """tags.assign_resources"""
        return self._client.tags.assign_resources(name, _resources(ids), **self._plain)

    def untag_droplets(self, name: str, ids: list[int]) -> object:
        """tags.unassign_resources"""
        return self._client.tags.unassign_resources(name, _resources(ids), **self._plain)

    def account(self) -> Json:
        """account.get"""
        return self._one(self._client.account.get(**self._plain), "account")

    @staticmethod
    def _one(answer: Any, key: str) -> Json:
        found: Json = answer.get(key, answer)  # a fault comes back as an answer, without the key
        return found

    def _all(self, call: Callable[..., Any], key: str, **query: str) -> list[Json]:
        return pages(lambda number: call(per_page=self.page, page=number, **query, **self._plain), key)


def _resources(ids: list[int]) -> Json:
    return {"resources": [{"resource_id": str(number), "resource_type": "droplet"} for number in ids]}
