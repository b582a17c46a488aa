"""`Site`: the program as it is started, with accounts and a token for each, for clients that others wrote.

What a tenant cannot do (register droplets) is done here as the operator does it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.controller import Controller

Json = dict[str, Any]

AWAY = "00000000000000aa"  # a hypervisor that never connects
HERE = "00000000000000bb"  # one that does, in the tests that have an Open vSwitch


@dataclass(frozen=True)
class Tenant:
    """An account as its user sees it: where, by which token, which droplets."""

    url: str
    ca: Path | None  # the certificate to trust; None: plain HTTP
    account: str
    token: str
    droplets: tuple[int, ...]


class Site:
    """A running controller, and what its operator does."""

    def __init__(self, controller: Controller, ca: Path | None = None) -> None:
        self.controller, self.ca = controller, ca
        self._accounts, self._ids = itertools.count(1), itertools.count(1001)

    @property
    def url(self) -> str:
        return self.controller.rest.url

    def tenant(self, droplets: int = 3, tags: Callable[[int], list[str]] = lambda _: ["web"]) -> Tenant:
        """An account of its own, with so many droplets that carry these tags."""
        account = f"account-{next(self._accounts)}"
        ids = tuple(itertools.islice(self._ids, droplets))
        for number in ids:
            self.droplet(number, account, tags(number))
        return Tenant(self.url, self.ca, account, self.token(account), ids)

    def token(self, account: str, role: str = "tenant") -> str:
        """A new one."""
        return str(self.operator("POST", "/v1/tokens", {"role": role, "account": account})["token"])

    def droplet(self, number: int, account: str, tags: list[str]) -> None:
        self.operator("PUT", f"/v1/droplets/{number}", {"account": account, "name": f"droplet-{number}", "tags": tags})

    def port(self, droplet: int, hypervisor: str, interface: str) -> None:
        mac = f"02:00:00:00:{droplet >> 8:02x}:{droplet & 0xFF:02x}"
        body = {"droplet_id": droplet, "hypervisor": hypervisor, "interface": interface, "mac": mac}
        addresses = [f"10.0.{droplet >> 8}.{droplet & 0xFF}"]
        self.operator("PUT", f"/v1/ports/p{droplet}", {**body, "addresses": addresses})

    def operator(self, method: str, path: str, body: Json | None = None) -> Json:
        """A call with the operator's token, which must succeed."""
        answer = self.controller.call(method, path, body)
        assert answer.status < 300, (method, path, answer)
        found: Json = answer.json
        return found

    @property
    def revision(self) -> int:
        """Which change of the policy was the last."""
        return int(self.operator("GET", "/v1/status")["revision"])


@contextmanager
def running(directory: Path) -> Iterator[Site]:
    """A site in a process of its own, until the end of the block."""
    with Controller(directory) as controller:
        yield Site(controller)
