"""What the tests ask of a client, in the words of the public API; each client does it in its own way.

A method that a client's library has no call for is left out, and the tests that need it do not run for that client.
A method's docstring is the call that the client's users write; docs/clients.md shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from clients.site import Tenant

Json = dict[str, Any]

# What people write in a firewall.
WRITTEN = ("name", "inbound_rules", "outbound_rules", "droplet_ids", "tags")


class Told(NamedTuple):
    """How a client tells its user that something went wrong."""

    kind: str  # the exception; RETURNED when there is none
    text: str


RETURNED = "returned"


class Client:
    """One library with one token."""

    name: ClassVar[str]  # as the registry has it
    page: ClassVar[int] = 7  # objects that it is told to ask for at a time
    patient: ClassVar[bool] = True  # whether it waits and tries again by itself, where it does so at all

    def __init__(self, tenant: Tenant, token: str | None = None) -> None:
        self.tenant = tenant
        self.token = tenant.token if token is None else token

    def close(self) -> None:  # noqa: B027,RUF100 - most have nothing to close
        """When its test has ended."""

    @staticmethod
    def environment(tenant: Tenant) -> dict[str, str]:  # noqa: ARG004,RUF100 - most need none
        """What its user sets in the environment."""
        return {}

    def told(self, call: Callable[[], object]) -> Told:
        """How the fault of a call that must fail reaches the user."""
        raise NotImplementedError

    @staticmethod
    def tells(status: int, slug: str, message: str) -> Told:
        """How this client passes on what the server says, by its documentation or its source."""
        raise NotImplementedError

    def firewall(self, name: str) -> Json:
        """A firewall with a bit of everything that this client can write."""
        one, two, *_ = self.tenant.droplets
        everyone = {"addresses": ["0.0.0.0/0", "::/0"]}
        peers = {
            "addresses": ["203.0.113.7", "198.51.100.0/24", "2001:DB8::/32"],
            "droplet_ids": [two],
            "tags": ["web"],
            "load_balancer_uids": ["4de7ac8b-495b-4884-9a69-1050c6793cd6"],
        }
        return {
            "name": name,
            "inbound_rules": [
                {"protocol": "tcp", "ports": "22", "sources": peers},
                {"protocol": "tcp", "ports": "8000-9000", "sources": {"tags": ["web"]}},
                {"protocol": "icmp", "ports": "0", "sources": everyone},
            ],
            "outbound_rules": [
                {"protocol": "udp", "ports": "53", "destinations": {"addresses": ["192.0.2.53"]}},
                {"protocol": "tcp", "ports": "0", "destinations": everyone},
            ],
            "droplet_ids": [one],
            "tags": ["web"],
        }


def pages(fetch: Callable[[int], Json], key: str) -> list[Json]:
    """All pages of a collection, for clients that leave this to their users, the way their examples do it."""
    found: list[Json] = []
    number = 1
    while True:
        answer = fetch(number)
        found += answer[key]
        if "next" not in answer["links"].get("pages", {}):
            assert len(found) == answer["meta"]["total"]
            return found
        number += 1
