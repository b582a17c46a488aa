"""What strangers may send to the OpenFlow port: their connection ends, everything else goes on."""

from __future__ import annotations

import resource
import socket
import ssl
import struct
from collections.abc import Iterable

import pytest

from lab.controller import Controller
from lab.system import wait_until

pytestmark = pytest.mark.process
V13, V14, V15 = 4, 5, 6


def message(version: int, kind: int, body: bytes = b"", xid: int = 1, length: int | None = None) -> bytes:
    return struct.pack("!BBHI", version, kind, 8 + len(body) if length is None else length, xid) + body


def hello(version: int) -> bytes:
    return message(version, 0, struct.pack("!HHI", 1, 8, 1 << version))


def features(version: int, dpid: int = 77) -> bytes:
    return message(version, 6, struct.pack("!QIBBxxII", dpid, 0, 254, 0, 0x4F, 0))


def ports(version: int, body: bytes) -> bytes:
    return message(version, 19, struct.pack("!HH4x", 13, 0) + body)


def port14(length: int, property_length: int) -> bytes:
    fixed = struct.pack("!IH2x6s2x16sII", 1, length, bytes(6), b"tap1", 0, 0)
    return fixed + struct.pack("!HH", 0, property_length) + bytes(28)


GOOD = [hello(V14), features(V14)]
HOSTILE = {
    "a hello element of length 0": [message(V14, 0, struct.pack("!HHI", 1, 0, 0x10000))],
    "an unknown hello element of length 0": [message(V14, 0, struct.pack("!HHI", 9, 0, 0))],
    "a hello element past the end": [message(V14, 0, struct.pack("!HHI", 1, 64, 0))],
    "half a hello element": [message(V14, 0, b"\0\1")],
    "a hello of 1.5 with an element of length 0": [message(V15, 0, bytes(8))],
    "a port of length 0": [*GOOD, ports(V14, port14(0, 32))],
    "a port property of length 0": [*GOOD, ports(V14, port14(72, 0))],
    "a port that is cut off": [*GOOD, ports(V14, port14(72, 32)[:40])],
    "a port of 1.3 that is cut off": [hello(V13), features(V13), ports(V13, bytes(40))],
    "a port description of an unknown version": [*GOOD, ports(99, bytes(64))],
    "an unknown version": [message(0x7F, 0)],
    "nothing but ones": [b"\xff" * 64],
    "a length of 0": [message(V14, 0, length=0)],
    "a length of 3": [*GOOD, message(V14, 19, length=3)],
    "a packet-in before its time": [message(V14, 10, bytes(40))],
    "a port status before its time": [*GOOD, message(V14, 12, bytes(8) + port14(0, 0))],
    "an http request": [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"],
}


@pytest.fixture(scope="module")
def controller(tmp_path_factory):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    with Controller(tmp_path_factory.mktemp("hostile")) as running:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        yield running


def speak(controller: Controller, messages: list[bytes]) -> socket.socket:
    stranger = socket.create_connection((controller.host, controller.openflow_port), timeout=10)
    for data in messages:
        stranger.sendall(data)
    return stranger


@pytest.mark.parametrize("what", HOSTILE)
def test_it_goes_on(controller, what):
    strangers = [speak(controller, HOSTILE[what]) for _ in range(3)]
    controller.rest.timeout = 10
    for _ in range(3):
        assert controller.call("GET", "/healthz").status == 200
    for stranger in strangers:
        stranger.close()
    with speak(controller, [hello(V14)]) as honest:
        seen = b""
        while message(V14, 5)[:4] not in seen:  # asked for its features: the handshake works as before
            data = honest.recv(4096)
            assert data
            seen += data
    assert "Traceback" not in controller.log.read_text()


def test_it_may_have_as_many_files_as_the_system_lets_it(controller):
    soft, hard = resource.prlimit(controller.pid, resource.RLIMIT_NOFILE)
    assert soft == hard > 512


def test_a_port_description_that_never_ends_ends_the_connection(controller):
    with speak(controller, HOSTILE["a port of length 0"]) as stranger:
        while stranger.recv(4096):
            pass
    assert 'is disconnected address=127.0.0.1 error="DecodeError: a port' in controller.log.read_text()


def test_who_speaks_tls_to_the_port_without_it_is_told_apart(controller):
    context = ssl.create_default_context()
    with speak(controller, []) as stranger, pytest.raises(ssl.SSLError):
        context.wrap_socket(stranger, server_hostname="controller")
    # Our HELLO is no TLS, and may come to the client before we have read what it sent.
    said = 'error="it speaks TLS, and this port does not'
    wait_until("it is said", lambda: said in controller.log.read_text())


@pytest.mark.parametrize(
    ("ending", "why"),
    [(lambda switch: switch.shutdown(socket.SHUT_RDWR), "the switch closed the connection"),
     (lambda switch: switch.sendall(message(V14, 19, b"!", xid=2)), "malformed message: ")],
    ids=["close", "malformed"],
)  # fmt: skip
def test_a_switch_that_goes_is_told_in_the_log_and_listed_with_the_reason(controller, ending, why):
    def listed():
        found = controller.call("GET", "/v1/hypervisors").json["hypervisors"]
        return next((one for one in found if one["dpid"] == "000000000000004d"), {"connected": False})

    before = len(controller.log.read_text())
    with speak(controller, [hello(V14), features(V14), ports(V14, b"")]) as switch:
        wait_until("it is there", lambda: listed()["connected"])
        ending(switch)
        wait_until("it is gone", lambda: not listed()["connected"])
    told = f'hypervisor disconnected dpid=000000000000004d error="{why}'
    assert controller.log.read_text()[before:].count(told) == 1
    assert listed()["sync"]["state"] == "unreachable"
    assert listed()["sync"]["error"].startswith(why)


def refused(crowd: Iterable[socket.socket]) -> None:
    for stranger in list(crowd):
        try:
            while stranger.recv(4096):
                pass
        except ConnectionResetError:
            pass
        stranger.close()


def test_strangers_beyond_count_are_refused_and_the_next_is_heard(tmp_path):
    """Refusing one must not wait for the queue that the refusal itself fills."""
    with Controller(tmp_path, settings={"enrol": "false"}) as closed:
        refused(speak(closed, [hello(V14), features(V14), ports(V14, b"")]) for _ in range(300))
        said = "it is not registered: PUT /v1/hypervisors/000000000000004d lets it in"
        assert (
            closed.log.read_text().count(f'hypervisor refused dpid=000000000000004d address=127.0.0.1 error="{said}')
            == 1
        )  # as it would be of one that tries for days
        (listed,) = closed.call("GET", "/v1/hypervisors").json["hypervisors"]
        assert (listed["dpid"], listed["registered"], listed["connected"]) == ("000000000000004d", False, False)
        assert said in listed["sync"]["error"]
        # In another version, or under ever another name: the log has some of it.
        refused(speak(closed, [message(1, 0, struct.pack("!HHI", 1, 8, 1 << 1))]) for _ in range(20))
        refused(speak(closed, [hello(V14), features(V14, n), ports(V14, b"")]) for n in range(100, 200))
        log = closed.log.read_text()
        assert log.count("hypervisor refused") == 63
        assert log.count("too much is to be said of this address") == 1
        assert log.count("unsupported version") == 1
