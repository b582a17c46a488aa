"""`Site`: the program as it is started, with accounts and a token for each, for clients that others wrote.

What a tenant cannot do (register droplets) is done here as the operator does it.
"""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from firewall_app import certificates
from lab.controller import Controller

Json = dict[str, Any]

PATIENCE = 1000  # requests; a token has 250 a minute
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

    def __init__(self, controller: Controller, ca: Path | None) -> None:
        self.controller, self.ca = controller, ca
        self._operator = requests.Session()
        self._operator.headers["Authorization"] = f"Bearer {controller.rest.token}"
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

    def use_up(self, token: str) -> None:
        """Makes requests with a token until it has no more."""
        trust = str(self.ca) if self.ca else None
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {token}"
            for _ in range(PATIENCE):
                if session.get(f"{self.url}/v2/account", timeout=60, verify=trust).status_code == 429:
                    return
        raise AssertionError(f"{PATIENCE} requests, and no end")

    def droplet(self, number: int, account: str, tags: list[str]) -> None:
        self.operator("PUT", f"/v1/droplets/{number}", {"account": account, "name": f"droplet-{number}", "tags": tags})

    def port(self, droplet: int, hypervisor: str, interface: str) -> None:
        mac = f"02:00:00:00:{droplet >> 8:02x}:{droplet & 0xFF:02x}"
        body = {"droplet_id": droplet, "hypervisor": hypervisor, "interface": interface, "mac": mac}
        addresses = [f"10.0.{droplet >> 8}.{droplet & 0xFF}"]
        self.operator("PUT", f"/v1/ports/p{droplet}", {**body, "addresses": addresses})

    def operator(self, method: str, path: str, body: Json | None = None) -> Json:
        """A call with the operator's token, which must succeed."""
        # With each call: what a session is told to trust gives way to the environment.
        trust = str(self.ca) if self.ca else None
        answer = self._operator.request(method, self.url + path, json=body, timeout=60, verify=trust)
        assert answer.ok, (method, path, answer.text)
        found: Json = answer.json()
        return found

    def close(self) -> None:
        self._operator.close()

    @property
    def revision(self) -> int:
        """Which change of the policy was the last."""
        return int(self.operator("GET", "/v1/status")["revision"])


@contextmanager
def running(directory: Path, tls: bool = True) -> Iterator[Site]:
    """A site in a process of its own, until the end of the block; with the certificate that a lab would make."""
    settings, ca, trusted = {}, None, None
    if tls:
        assert certificates.main(["--directory", str(directory), "--name", "127.0.0.1"]) == 0
        settings = {"tls_certificate": directory / "server.crt", "tls_key": directory / "server.key"}
        ca = directory / "ca.crt"
        trusted = ssl.create_default_context(cafile=ca)
    with Controller(directory, settings=settings, tls=trusted) as controller, closing(Site(controller, ca)) as site:
        yield site
