"""The policy as read over REST is the policy; what cannot be read is an error that says where."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from api_server import HV1, HV2, VIEWER, World, port

from firewall_app.policy.policy import Policy
from firewall_app.remote import PER_PAGE, Api, RemoteError, read


def getter(world: World, seen: list[str] | None = None, token: str = VIEWER) -> Callable[[str], object]:
    def get(path: str) -> object:
        if seen is not None:
            seen.append(path)
        return world.good("GET", path, token=token)

    return get


def furnished() -> World:
    world = World().furnish()
    rules = [
        {"protocol": "tcp", "ports": "443", "sources": {"addresses": ["0.0.0.0/0"], "tags": ["Web"]}},
        {"protocol": "icmp", "ports": "0", "sources": {"droplet_ids": [102], "load_balancer_uids": ["lb"]}},
    ]
    out = [{"protocol": "udp", "ports": "53-54", "destinations": {"addresses": ["2001:db8::/32"]}}]
    mapped = {"name": "front", "addresses": ["2001:DB8::9"], "droplet_ids": [103]}
    world.good("PUT", "/v1/external-peers/LB", mapped)
    world.good("PUT", "/v1/external-peers/theirs", {"account": "acme"})
    world.good("POST", "/v2/firewalls", {"name": "web", "tags": ["web"], "inbound_rules": rules})
    secret = {"name": "theirs", "droplet_ids": [201], "outbound_rules": out}
    world.good("POST", "/v2/firewalls?account=acme", secret)
    world.good("PUT", "/v1/ports/p201", port(201, HV2, "tap9", "10.0.0.9"))
    world.good("PUT", "/v1/ports/p201/rules", {"inbound_rules": [], "outbound_rules": out})
    world.good("PUT", "/v1/hypervisors/0000000000000003", {"name": "bare"})
    return world


def meaning(policy: Policy) -> tuple[object, ...]:
    """All that a policy says, less what REST does not tell; a port by the interface that it is plugged into."""
    ports = {key: replace(one, interface=one.interface, slot=0) for key, one in policy.ports.items()}
    tables = (
        policy.hypervisors, policy.droplets, ports, policy.firewalls, policy.port_rules, policy.external_peers,
    )  # fmt: skip
    return tuple(dict(table) for table in tables)


def test_the_policy_that_is_read_is_the_policy() -> None:
    world = furnished()
    reading = read(getter(world))
    assert meaning(reading.policy) == meaning(world.core.policy)
    assert reading.policy.hypervisors["0000000000000003"].uplinks is None
    assert reading.numbers == {"p101": 3, "p102": 4, "p103": 3}  # the interface of p201 is not there


def test_a_port_that_was_registered_by_number_is_found_by_it() -> None:
    world = furnished()
    body = {**port(201, HV2, "", "10.0.0.9"), "number": 77}
    world.good("PUT", "/v1/ports/p201", {k: v for k, v in body.items() if k != "interface"})
    reading = read(getter(world))
    assert reading.numbers["p201"] == 77
    assert (reading.policy.ports["p201"].number, reading.policy.ports["p201"].interface) == (77, None)


def test_rules_of_single_ports_are_asked_for_one_hypervisor_alone() -> None:
    seen: list[str] = []
    reading = read(getter(furnished(), seen), HV1)
    assert [path for path in seen if path.endswith("/rules")] == ["/v1/ports/p101/rules", "/v1/ports/p102/rules"]
    assert reading.policy.port_rules == {}
    assert HV2 in reading.policy.hypervisors


def test_collections_of_many_pages_are_read_whole() -> None:
    world = World()
    for number in range(1, 2 * PER_PAGE + 2):
        world.good("PUT", f"/v1/droplets/{number}", {})
    assert sorted(read(getter(world)).policy.droplets) == list(range(1, 2 * PER_PAGE + 2))


def test_a_peer_of_a_kind_that_is_not_known_is_refused() -> None:
    """A rule with less peers than it has would be another rule."""
    world = furnished()

    def get(path: str) -> object:
        answer = world.good("GET", path)
        for firewall in answer.get("firewalls", ()):
            for rule in firewall["inbound_rules"]:
                rule["sources"]["regions"] = ["ams3"]
        return answer

    with pytest.raises(RemoteError, match="regions"):
        read(get)


# --------------------------------------------------------------------------------------------- HTTP


@contextmanager
def server(status: int, body: bytes) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A server that always answers the same, and what it was asked: path and token."""
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{made.server_port}", asked
        finally:
            made.shutdown()
            thread.join()


def test_a_get_carries_the_token_and_the_path_of_the_url() -> None:
    with server(200, b'{"a": 1}') as (url, asked), Api(f"{url}/behind/", "secret") as api:
        assert [api.get("/v1/x"), api.get("/v1/y")] == [{"a": 1}, {"a": 1}]
    assert asked == [("/behind/v1/x", "Bearer secret"), ("/behind/v1/y", "Bearer secret")]


@pytest.mark.parametrize(("status", "body", "said"), [(403, b"no", "answered 403: no"), (200, b"<html>", "not JSON")])
def test_an_answer_that_is_none_is_told_with_its_path(status: int, body: bytes, said: str) -> None:
    with server(status, body) as (url, _), Api(url, "secret") as api, pytest.raises(RemoteError, match=said) as caught:
        api.get("/v1/x")
    assert f"{url}/v1/x" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_nobody_there() -> None:
    with server(200, b"{}") as (url, _):
        pass
    with Api(url, "secret", timeout=5) as api, pytest.raises(RemoteError, match="refused"):
        api.get("/v1/x")


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://host/", "http://", "http://host?x=1", "http://host:port"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|[Pp]ort"):
        Api(url, "")
