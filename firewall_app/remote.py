"""The policy as a controller tells it over REST, read by a client with an operator's token (docs/api.md).

`read` needs nothing but a way to GET a path.  `Api` is the plainest such way.

Edge: reads only.  What REST does not tell is not there: ids of rules, slots, and generations.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from .policy.model import (
    Direction,
    Droplet,
    ExternalPeer,
    Firewall,
    Hypervisor,
    Peer,
    Port,
    PortRange,
    PortRules,
    Protocol,
    Rule,
    Tag,
)
from .policy.policy import Policy

Get = Callable[[str], Any]  # a path to the JSON that is answered
PER_PAGE = 200


class RemoteError(Exception):
    """The controller did not answer as it should."""


@dataclass(frozen=True)
class Reading:
    """A policy, and which OpenFlow number each of its ports has as far as the controller knows."""

    policy: Policy
    numbers: Mapping[str, int]


def read(get: Get, dpid: str | None = None) -> Reading:
    """All of the policy; with `dpid` the rule sets of single ports only where they count for that hypervisor."""
    draft = Policy().edit()
    for found in _list(get, "/v1/hypervisors"):
        if found["registered"]:
            uplinks = found["uplinks"]
            draft.put(Hypervisor(found["dpid"], found["name"] or "", None if uplinks is None else tuple(uplinks)))
    accounts: dict[int, str] = {}
    for found in _list(get, "/v1/droplets"):
        accounts[found["id"]] = found["account"]
        for tag in found["tags"]:
            draft.put(Tag(found["account"], tag))
        draft.put(Droplet(found["id"], found["account"], found["name"], tuple(found["tags"])))
    for found in _list(get, "/v1/external-peers"):
        named = tuple(found["addresses"]), tuple(found["droplet_ids"])
        draft.put(ExternalPeer(found["uid"], found["account"], found["name"], *named))
    numbers = {}
    # Where two ports claim one interface the older registration holds, and slots are given in turn.
    for found in sorted(_list(get, "/v1/ports"), key=lambda port: str(port["created_at"])):
        port = _port(found, draft.new_slot())
        draft.put(port)
        if found["number"] is not None:
            numbers[port.id] = found["number"]
        if dpid in (None, port.hypervisor):
            own = get(f"/v1/ports/{quote(port.id, safe='')}/rules")
            if own["own"]:
                draft.put(PortRules(port.id, accounts[port.droplet_id], *_rules(own)))
    for account in sorted(set(accounts.values())):
        for found in _list(get, "/v2/firewalls", account=account):
            attached = tuple(found["droplet_ids"]), tuple(found["tags"])
            draft.put(Firewall(found["id"], account, found["name"], *_rules(found), *attached))
    return Reading(draft.done(), numbers)


def _list(get: Get, path: str, **query: str) -> Iterator[dict[str, Any]]:
    """A collection, page by page."""
    number = 0
    while True:
        number += 1
        asked = "".join(f"&{name}={quote(value, safe='')}" for name, value in query.items())
        answer = get(f"{path}?page={number}&per_page={PER_PAGE}{asked}")
        found = answer[path.rsplit("/", 1)[1].replace("-", "_")]
        yield from found
        if number * PER_PAGE >= answer["meta"]["total"]:
            return


def _port(found: Mapping[str, Any], slot: int) -> Port:
    interface = found["interface"]
    return Port(
        found["id"], found["droplet_id"], found["hypervisor"], interface,
        found["number"] if interface is None else None, found["mac"], tuple(found["addresses"]), slot=slot,
        max_connections=found["max_connections"],
    )  # fmt: skip


def _rules(found: Mapping[str, Any]) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    return (
        tuple(_rule(Direction.INBOUND, rule, rule["sources"]) for rule in found["inbound_rules"]),
        tuple(_rule(Direction.OUTBOUND, rule, rule["destinations"]) for rule in found["outbound_rules"]),
    )


def _rule(direction: Direction, rule: Mapping[str, Any], peer: Mapping[str, Any]) -> Rule:
    names = ("addresses", "droplet_ids", "tags", "load_balancer_uids", "kubernetes_ids")
    if unknown := set(peer) - set(names):
        raise RemoteError(f"a rule names peers that are not known: {', '.join(sorted(unknown))}")
    return Rule(
        direction,
        Protocol(rule["protocol"]),
        PortRange.parse(rule["ports"]),
        Peer(*(tuple(peer.get(name, ())) for name in names)),
    )


class Api:
    """Requests with a bearer token, on one connection.  SSL_CERT_FILE in the environment names one's own authority."""

    def __init__(self, url: str, token: str, timeout: float = 60) -> None:
        """Raises ValueError for what is no URL of a controller."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{url!r} is not a URL such as http://127.0.0.1:8080")
        self.url, self._token, self._path = url, token, parts.path.rstrip("/")
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout, context=context)
        else:
            self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, path: str) -> Any:
        """What a path answers, as JSON.  Raises RemoteError."""
        return self.call("GET", path)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The JSON that is answered, None when there is no body.  Raises RemoteError."""
        headers = {"Accept": "application/json", "Authorization": f"Bearer {self._token}"}
        data = None
        if body is not None:
            headers["Content-Type"], data = "application/json", json.dumps(body)
        try:
            self._connection.request(method, self._path + path, data, headers)
            response = self._connection.getresponse()
            found = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise RemoteError(f"{self.url}{path}: {error or type(error).__name__}") from error
        if not 200 <= response.status < 300:
            raise RemoteError(f"{self.url}{path} answered {response.status}: {found[:300].decode(errors='replace')}")
        try:
            return json.loads(found) if found else None
        except ValueError as error:
            raise RemoteError(f"{self.url}{path} answered what is not JSON") from error
