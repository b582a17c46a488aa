"""The whole program: switches keep their pace while HTTP clients do their worst, and writers lose nothing."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from api_server import lab_certificate
from fakeswitch import V14, FakeSwitch, message

from lab.controller import TOKEN, Controller
from lab.system import wait_until

pytestmark = pytest.mark.process

HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY, FEATURES_REQUEST, FEATURES_REPLY = 0, 1, 2, 3, 5, 6
AUTH = f"Authorization: Bearer {TOKEN}\r\n".encode()
SILENCE = 5.0  # seconds that an echo may take at worst; a switch gives up after 15 (inactivity_probe)
ASSAULT = 6.0  # seconds


class LiveSwitch:
    """A `FakeSwitch` that is connected, and asks for an echo ten times a second."""

    def __init__(self, number: int, port: int, switch: FakeSwitch | None = None) -> None:
        """`switch`: one that was connected before."""
        self.dpid = f"{number:016x}"
        self.switch = switch or FakeSwitch(ports={1: "eth0", 2: "tap0"})
        self.asked = self.answered = 0
        self.worst = 0.0
        self.problem: BaseException | None = None
        self._number = number
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=0.1)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Waits for the last answers, then ends."""
        self._stopped.set()
        self._thread.join(30)
        self._socket.close()

    def _run(self) -> None:
        try:
            self._socket.sendall(message(HELLO, 1, struct.pack("!HHI", 1, 8, 1 << V14)))
            self._talk()
        except BaseException as problem:  # noqa: BLE001,RUF100 - the test tells
            self.problem = problem

    def _talk(self) -> None:
        buffer, last, end = b"", 0.0, None
        while True:
            now = time.monotonic()
            if self._stopped.is_set():
                end = end or now + 2 * SILENCE
                if self.answered == self.asked or now > end:
                    return
            elif now - last >= 0.1:
                self._socket.sendall(message(ECHO_REQUEST, 7, struct.pack("!d", now)))
                self.asked, last = self.asked + 1, now
            try:
                data = self._socket.recv(65536)
                if not data:
                    raise ConnectionError("the controller closed the connection")
            except TimeoutError:
                continue
            buffer += data
            while len(buffer) >= 8 and len(buffer) >= (length := int.from_bytes(buffer[2:4], "big")):
                one, buffer = buffer[:length], buffer[length:]
                for reply in self._answer(one):
                    self._socket.sendall(reply)

    def _answer(self, one: bytes) -> list[bytes]:
        kind, (xid,) = one[1], struct.unpack_from("!I", one, 4)
        if kind == ECHO_REPLY:
            self.answered += 1
            self.worst = max(self.worst, time.monotonic() - struct.unpack_from("!d", one, 8)[0])
            return []
        if kind == ECHO_REQUEST:
            return [message(ECHO_REPLY, xid, one[8:])]
        if kind == FEATURES_REQUEST:
            return [message(FEATURES_REPLY, xid, struct.pack("!QIBBxxII", self._number, 0, 254, 0, 0x4F, 0))]
        if kind in (HELLO, ERROR):
            return []
        return self.switch.answer(one)


# --------------------------------------------------------------------------------------------- assailants


def send(client: socket.socket, data: bytes) -> None:
    client.sendall(data)
    client.settimeout(2)
    while client.recv(65536):
        pass


def post(body: bytes, *headers: bytes) -> bytes:
    head = b"POST /v2/firewalls HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + AUTH
    return head + b"".join(line + b"\r\n" for line in (*headers, b"Content-Length: %d" % len(body))) + b"\r\n" + body


MANY = json.dumps(["10.0.0.1"] * 90_000).encode()
ASSAULTS: dict[str, bytes] = {
    "deep lists": post(b"[" * 500_000),
    "deep objects": post(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "many values": post(b'{"name": "x", "inbound_rules": [{"protocol": "tcp", "sources": {"addresses": %s}}]}' % MANY),
    "a key twice": post(b'{"name": "x", "name": "y"}'),
    "no UTF-8": post(b'"' + b"\xff" * 900_000 + b'"'),
    "a long number": post(b"9" * 900_000),
    "too large a body": post(b" " * 3_000_000),
    "chunks of one byte": post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    + b"1\r\n \r\n" * 50_000,
    "a head without end": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000,
    "a line without end": b"GET /" + b"x" * 1_000_000,
    "requests without end": b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n" + AUTH + b"\r\n",
    "half a request": b"POST /v2/firewalls HTTP/1.1\r\nHost: x\r\n" + AUTH + b"Content-Length: 99\r\n\r\n{",
    "garbage": bytes(range(256)) * 4000,
    "nothing": b"",
}


@contextmanager
def assault(connect: Callable[[], socket.socket], port: int) -> Iterator[dict[str, int]]:
    """Every kind over and over, with 300 idle connections beside; how often each was carried out."""
    stopped, count = threading.Event(), dict.fromkeys([*ASSAULTS, "handshakes"], 0)

    def again(what: str) -> None:
        while not stopped.is_set():
            try:
                with connect() as client:
                    send(client, ASSAULTS[what] * (20 if what == "requests without end" else 1))
            except (OSError, ValueError):
                pass  # being thrown out is what it is after
            count[what] += 1

    def handshakes() -> None:
        while not stopped.is_set():
            with connect():
                count["handshakes"] += 1

    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
    threads = [threading.Thread(target=again, args=(what,)) for what in ASSAULTS]
    threads.append(threading.Thread(target=handshakes))
    for thread in threads:
        thread.start()
    try:
        yield count
    finally:
        stopped.set()
        for thread in threads:
            thread.join(60)
        for client in idle:
            client.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_switches_keep_their_pace_while_clients_do_their_worst(tmp_path: Path, scheme: str) -> None:
    """Every echo is answered, and in time; every change of the policy is confirmed by every switch."""
    settings: dict[str, Any] = {"max_connections": 250, "http_timeout": 3}
    trust: ssl.SSLContext | None = None
    if scheme == "https":
        made, trust = lab_certificate(tmp_path)
        settings |= made
    with Controller(tmp_path, settings=settings, tls=trust) as controller:

        def connect() -> socket.socket:
            client = socket.create_connection(("127.0.0.1", controller.rest.port), timeout=30)
            return trust.wrap_socket(client, server_hostname="localhost") if trust else client

        switches = [LiveSwitch(number, controller.openflow_port) for number in (1, 2, 3)]
        try:
            for droplet, switch in enumerate(switches, 1):
                port = {"droplet_id": droplet, "hypervisor": switch.dpid, "interface": "tap0",
                        "mac": f"02:00:00:00:00:0{droplet}", "addresses": [f"10.0.0.{droplet}"]}  # fmt: skip
                assert controller.call("PUT", f"/v1/hypervisors/{switch.dpid}", {"name": switch.dpid}).status == 201
                assert controller.call("PUT", f"/v1/droplets/{droplet}", {"name": f"d{droplet}"}).status == 201
                assert controller.call("PUT", f"/v1/ports/p{droplet}", port, {"Prefer": "wait=30"}).status == 201
            body = {"name": "all", "droplet_ids": [1, 2, 3], "inbound_rules": [rule(1)]}
            one = controller.call("POST", "/v2/firewalls", body).json["firewall"]
            with assault(connect, controller.rest.port) as count:
                begun, changes = time.monotonic(), 0
                while changes < 3 or time.monotonic() < begun + ASSAULT:
                    changes += 1
                    body["inbound_rules"] = [rule(changes)]
                    answer = controller.call("PUT", f"/v2/firewalls/{one['id']}", body, {"Prefer": "wait=30"})
                    assert (answer.status, answer.json["firewall"]["status"]) == (200, "succeeded")
                wait_until("every assault to have been carried out", lambda: all(count.values()), 60, 0.1)
        finally:
            for switch in switches:
                switch.stop()
        assert [switch.problem for switch in switches] == [None] * 3
        assert all(switch.answered == switch.asked > 20 for switch in switches)
        assert max(switch.worst for switch in switches) < SILENCE
        assert [switch.switch.commits > changes for switch in switches] == [True] * 3
        assert "Traceback" not in controller.log.read_text()
        assert controller.call("GET", f"/v2/firewalls/{one['id']}").json["firewall"]["inbound_rules"] == [rule(changes)]


# --------------------------------------------------------------------------------------------- writers


WRITERS, ROUNDS = 8, 6


def test_writers_of_one_firewall_lose_nothing(tmp_path: Path) -> None:
    """Eight at once add and remove rules, droplets and tags of their own; all that was acknowledged is there."""
    most = {"max_rules": 1000, "max_droplets": 1000, "max_tags": 1000}
    with Controller(tmp_path, settings=most) as controller:
        for number in range(1, WRITERS * ROUNDS + 1):
            body = {"name": f"d{number}", "tags": [f"t{number}"]}
            assert controller.call("PUT", f"/v1/droplets/{number}", body).status == 201
        made = controller.call("POST", "/v2/firewalls", {"name": "shared", "inbound_rules": [rule(65535)]})
        path = f"/v2/firewalls/{made.json['firewall']['id']}"

        def write(writer: int) -> set[int]:
            """The numbers that this writer has left in."""
            kept: set[int] = set()
            for number in range(writer * ROUNDS + 1, (writer + 1) * ROUNDS + 1):
                for kind, what in parts(number):
                    assert controller.call("POST", f"{path}/{kind}", what).status == 204
                kept.add(number)
                if number % 3 == 0:
                    for kind, what in parts(number - 1):
                        assert controller.call("DELETE", f"{path}/{kind}", what).status == 204
                    kept.remove(number - 1)
            return kept

        with ThreadPoolExecutor(WRITERS) as pool:
            kept = set().union(*pool.map(write, range(WRITERS)))
        assert len(kept) == WRITERS * ROUNDS * 2 // 3

        def check() -> None:
            found = controller.call("GET", path).json["firewall"]
            assert sorted(int(one["ports"]) for one in found["inbound_rules"]) == [*sorted(kept), 65535]
            assert sorted(found["droplet_ids"]) == sorted(kept)
            assert sorted(found["tags"]) == sorted(f"t{number}" for number in kept)

        check()
        controller.kill()
        controller.start()
        check()


def rule(number: int) -> dict[str, Any]:
    return {"protocol": "tcp", "ports": str(number), "sources": {"addresses": ["0.0.0.0/0"]}}


def parts(number: int) -> list[tuple[str, dict[str, Any]]]:
    return [
        ("rules", {"inbound_rules": [rule(number)]}),
        ("droplets", {"droplet_ids": [number]}),
        ("tags", {"tags": [f"t{number}"]}),
    ]
