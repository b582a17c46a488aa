"""The real server over real sockets: the limits that keep one client from harming the others."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import socket
import ssl
import stat
import warnings
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import ModuleType

import pytest
from api_server import HV1, OPERATOR, Process, lab_certificate, read_all

AUTH = f"Authorization: Bearer {OPERATOR}\r\n".encode()
RULES = [{"protocol": "tcp", "ports": "22", "sources": {"addresses": ["10.0.0.0/8"]}}]


@pytest.fixture(scope="module", params=["http", "https"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """All that holds for the one holds for the other."""
    settings, trust = {}, None
    if request.param == "https":
        settings, trust = lab_certificate(tmp_path_factory.mktemp("tls"))
    process = Process(tls=trust, http_timeout=1, max_body=10_000, **settings)
    yield process
    process.stop()


def split(answer: bytes) -> tuple[int, bytes, bytes]:
    """(status, head, body) of one answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1\.[01] (\d+) ", head)
    assert found, answer
    return int(found[1]), head, body


def half_close(client: socket.socket) -> None:
    """Ends what this side sends, as losing the other half of a connection would: without the goodbye of TLS."""
    socket.socket.shutdown(client, socket.SHUT_WR)


def post(head: bytes, body: bytes = b"") -> bytes:
    return b"POST /v2/tags HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + AUTH + head + b"\r\n" + body


# --------------------------------------------------------------------------------------------- as it should be


def test_a_firewall_lives_and_dies_over_http(server: Process) -> None:
    body = {"name": "over-http", "inbound_rules": RULES, "droplet_ids": ["102"]}
    created = server.call("POST", "/v2/firewalls/", body)
    assert created.status == 202
    one = f"/v2/firewalls/{created.json['firewall']['id']}"
    read = server.call("GET", one)
    assert (read.status, read.headers["Content-Type"]) == (200, "application/json")
    assert read.json["firewall"]["inbound_rules"] == RULES
    assert server.call("PUT", one, read.json["firewall"]).json == read.json
    removed = server.call("DELETE", f"{one}/rules", {"inbound_rules": RULES})
    assert (removed.status, removed.body, removed.headers.get("Content-Length")) == (204, b"", None)
    assert server.call("GET", one).json["firewall"]["inbound_rules"] == []
    assert server.call("DELETE", one, b"{}").status == 204
    gone = server.call("DELETE", one)
    assert (gone.status, gone.headers.get("X-Request-Id")) == (404, None)


def test_links_are_followed_to_this_server(server: Process) -> None:
    pages = server.call("GET", "/v2/droplets?per_page=2").json["links"]["pages"]
    base = f"{'https' if server.tls else 'http'}://{server.host}:{server.port}"
    assert pages == {
        "next": f"{base}/v2/droplets?page=2&per_page=2",
        "last": f"{base}/v2/droplets?page=2&per_page=2",
    }
    following = server.call("GET", pages["next"].removeprefix(base)).json
    assert [droplet["id"] for droplet in following["droplets"]] == [103]


def test_head_sends_no_body_and_the_connection_goes_on(server: Process) -> None:
    first = b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    second = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    status, head, rest = split(server.raw(first + second))
    assert status == 200
    assert b"Content-Length: 17" in head
    assert split(rest)[2] == b'{"status": "ok"}\n'


def test_a_body_in_chunks_is_read(server: Process) -> None:
    chunks = b'7\r\n{"name"\r\n5;x=y\r\n: "c"\r\n1\r\n}\r\n0\r\nTrailer: x\r\n\r\n'
    assert split(server.raw(post(b"Transfer-Encoding: chunked\r\n", chunks)))[0] == 201


def test_a_client_is_told_to_go_on_before_its_body_is_read(server: Process) -> None:
    with server.connect() as client:
        client.sendall(post(b"Content-Length: 13\r\nExpect: 100-continue\r\n"))
        assert client.recv(100).startswith(b"HTTP/1.1 100 Continue")
        client.sendall(b'{"name": "e"}')
        assert split(read_all(client))[0] == 201


@pytest.mark.parametrize(("mode", "outcome"), [("confirm", "succeeded"), ("refuse", "failed")])
def test_a_write_waits_for_its_switches(server: Process, mode: str, outcome: str) -> None:
    server.call("POST", f"/test/{HV1}/silent")
    try:
        body = {"name": f"wait-{mode}", "inbound_rules": RULES, "droplet_ids": [101]}
        waiting = server.call("POST", "/v2/firewalls", body, headers={"Prefer": "wait=0"})
        assert waiting.json["firewall"]["status"] == "waiting"
        assert waiting.headers["Preference-Applied"] == "wait=0"
        one = f"/v2/firewalls/{waiting.json['firewall']['id']}"
        server.call("POST", f"/test/{HV1}/{mode}-later")
        settled = server.call("PUT", one, {**body, "inbound_rules": []}, headers={"Prefer": "wait=20"})
        assert settled.json["firewall"]["status"] == outcome
        server.call("POST", f"/test/{HV1}/silent")
        late = server.call("PUT", one, body, headers={"Prefer": "wait=1"})
        assert (late.status, late.json["firewall"]["status"]) == (200, "waiting")
    finally:
        server.call("POST", f"/test/{HV1}/confirm")


# --------------------------------------------------------------------------------------------- too much


def test_a_body_over_the_limit_is_refused(server: Process) -> None:
    answer = server.call("POST", "/v2/tags", b" " * 10_001)
    assert (answer.status, answer.json["id"]) == (413, "payload_too_large")
    assert server.call("POST", "/v2/tags", b'{"name": "fits"}'.ljust(10_000)).status == 201


def test_a_body_over_the_limit_need_not_be_sent(server: Process) -> None:
    answer = server.raw(post(b"Content-Length: 9999999999\r\nExpect: 100-continue\r\n"))
    assert split(answer)[0] == 413
    assert b"100 Continue" not in answer


def test_a_client_that_sends_all_of_a_large_body_still_reads_why_not(server: Process) -> None:
    answer = server.raw(post(b"Content-Length: 5000000\r\n", b"x" * 5_000_000))
    assert split(answer)[0] == 413


CHUNKS_THAT_ARE_NONE = [
    b"zz\r\n",
    b"f" * 20_000,
    b"-5\r\nabc\r\n",
    b"5\r\nabcdefgh\r\n0\r\n\r\n",
    b"0x5\r\nabcde\r\n0\r\n\r\n",
    b"+5\r\nabcde\r\n0\r\n\r\n",
    b"0_5\r\nabcde\r\n0\r\n\r\n",
    b" 5\r\nabcde\r\n0\r\n\r\n",
    b"5\r\nabcde0\r\n\r\n",
    b"fffffffff\r\n",
    b"\r\n",
    b"0\r\nno trailer\r\n\r\n",
    b"0\r\n" + b"X: y\r\n" * 200 + b"\r\n",
]


def test_chunks_over_the_limit_are_refused(server: Process) -> None:
    chunk = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
    assert split(server.raw(post(b"Transfer-Encoding: chunked\r\n", chunk * 3 + b"0\r\n\r\n")))[0] == 413


@pytest.mark.parametrize("chunks", CHUNKS_THAT_ARE_NONE)
def test_chunks_that_are_none_are_refused(server: Process, chunks: bytes) -> None:
    status, _, body = split(server.raw(post(b"Transfer-Encoding: chunked\r\n", chunks)))
    assert status == 400
    assert json.loads(body)["id"] == "bad_request"


CUT_OFF = {
    "a head": b"POST /v2/tags HTTP/1.1\r\nHost: x\r\n" + AUTH + b"Transfer-Enc",
    "a head at the end of a line": b"DELETE /v2/tags/cut HTTP/1.1\r\nHost: x\r\n" + AUTH,
    "a body": post(b"Content-Length: 99\r\n", b'{"name": "cut-off"}'),
    "a chunk": post(b"Transfer-Encoding: chunked\r\n", b'20\r\n{"name": "cut-off"}'),
    "a body before its last chunk": post(b"Transfer-Encoding: chunked\r\n", b'13\r\n{"name": "cut-off"}\r\n'),
    "a body after its last chunk": post(b"Transfer-Encoding: chunked\r\n", b'13\r\n{"name": "cut-off"}\r\n0\r\n'),
}


@pytest.mark.parametrize("what", CUT_OFF)
def test_a_request_that_is_cut_off_does_nothing(server: Process, what: str) -> None:
    assert server.call("POST", "/v2/tags", {"name": "cut"}).status in (201, 422)  # there, from now or from before
    with server.connect() as client:
        client.sendall(CUT_OFF[what])
        half_close(client)
        try:
            answer = read_all(client)
        except ssl.SSLError:  # OpenSSL ends a connection whose other half ends without a goodbye, and says so
            answer = b""
    assert not answer or split(answer)[0] == 400
    assert server.call("GET", "/v2/tags/cut-off").status == 404
    assert server.call("GET", "/v2/tags/cut").status == 200


def test_long_heads_are_refused(server: Process) -> None:
    assert split(server.raw(b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n"))[0] == 414
    assert split(server.raw(b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"))[0] == 431
    assert split(server.raw(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"))[0] == 431


# --------------------------------------------------------------------------------------------- no HTTP


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"GET / HTTP/x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS to a port without it
        (post(b"Transfer-Encoding: gzip, chunked\r\n", b"GET /smuggled HTTP/1.1\r\n\r\n"), 501),
    ],
)
def test_what_is_no_http_is_answered_as_json(server: Process, data: bytes, code: int) -> None:
    status, head, body = split(server.raw(data))
    assert status == code
    assert b"application/json" in head
    fault = json.loads(body)
    assert set(fault) == {"id", "message", "request_id", "errors"}
    assert fault["errors"] == [{"at": "", "problem": fault["message"]}]
    assert f"x-request-id: {fault['request_id']}\r\n".encode() in head


@pytest.mark.parametrize("head", [b"Content-Length: x\r\n", b"Content-Length: -1\r\n", b"Content-Length: \xb2\r\n"])
def test_a_length_that_is_none_is_refused(server: Process, head: bytes) -> None:
    assert split(server.raw(post(head)))[0] == 400


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (b"Content-Length: 2\r\nContent-Length: 4\r\n", 400),
        (b"Content-Length: 2, 4\r\n", 400),
        (b"Content-Length: +2\r\n", 400),
        (b"Content-Length: 0_2\r\n", 400),
        (b"Content-Length : 2\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", 501),
        (b"Transfer-Encoding: chunked, identity\r\n", 501),
        (b"Transfer-Encoding:\x0bchunked\r\n", 400),
        (b"no colon\r\nContent-Length: 2\r\n", 400),
        (b": no name\r\n", 400),
        (b"X: folded\r\n Content-Length: 2\r\n", 400),
        (b"X: y\rContent-Length: 2\r\n", 400),
        (b"X: \0\r\n", 400),
        (b"Host: y\r\n", 400),  # the second one
    ],
)
def test_heads_that_two_readers_could_read_differently_are_refused(server: Process, head: bytes, code: int) -> None:
    """Whatever follows is not taken for a second request."""
    hidden = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = server.raw(post(head).replace(b"Connection: close\r\n", b"") + hidden)
    assert split(answer)[0] == code
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("request_head", "code"),
    [
        (b"GET /healthz\r\n", 400),  # HTTP/0.9
        (b"GET /healthz HTTP/1.1\r\n", 400),  # no Host
        (b"GET /healthz HTTP/1.0\r\n", 200),  # needs none
        (b"POST /v2/tags HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"GET  /healthz HTTP/1.1\r\nHost: x\r\n", 400),
        (b"GET /healthz\tHTTP/1.1\r\nHost: x\r\n", 400),
        (b"G\xc3\xa4T /healthz HTTP/1.1\r\nHost: x\r\n", 400),
        (b"\r\nGET /healthz HTTP/1.0\r\n", 200),  # RFC 9112, 2.2
        (b"PRI * HTTP/2.0\r\n", 505),
    ],
)
def test_request_lines(server: Process, request_head: bytes, code: int) -> None:
    assert split(server.raw(request_head + b"\r\n"))[0] == code


@pytest.mark.parametrize(
    "target", [b"http://fw.example:99/v2/droplets?per_page=2", b"HTTPS://fw.example:99/v2/droplets?per_page=2"]
)
def test_a_whole_url_names_the_host(server: Process, target: bytes) -> None:
    request = b"GET " + target + b" HTTP/1.1\r\nHost: other\r\nConnection: close\r\n" + AUTH + b"\r\n"
    status, _, body = split(server.raw(request))
    assert status == 200
    assert "://fw.example:99/v2/droplets?page=2" in json.loads(body)["links"]["pages"]["next"]


def test_requests_in_a_row_are_answered_in_their_order(server: Process) -> None:
    """A refused one ends the row."""
    first = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    body = b'{"name": "in-a-row"}'
    second = post(b"Content-Length: %d\r\n" % len(body), body).replace(b"Connection: close\r\n", b"")
    third = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    answers = server.raw(first + second + third + b"nonsense\r\n\r\n" + first)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"201", b"401", b"400"]


def test_two_ways_to_say_where_a_body_ends_are_one_too_many(server: Process) -> None:
    head = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"
    assert split(server.raw(post(head, b"0\r\n\r\n")))[0] == 400


def test_a_crash_shows_no_traceback(server: Process) -> None:
    answer = server.call("GET", "/test/crash")
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body


# --------------------------------------------------------------------------------------------- too slow


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"GET /v2/fire",
        b"GET / HTTP/1.1\r\nHost: ",
    ],
)
def test_a_client_that_does_not_go_on_is_disconnected(server: Process, beginning: bytes) -> None:
    assert server.raw(beginning) == b""


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 100\r\n", b"Transfer-Encoding: chunked\r\n"],
)
def test_a_body_that_does_not_come_is_a_408(server: Process, head: bytes) -> None:
    status, _, body = split(server.raw(post(head, b"5\r\n{")))
    assert (status, json.loads(body)["id"]) == (408, "request_timeout")


@pytest.mark.parametrize(
    ("beginning", "drop"),
    [
        (b"GET /", b"x"),
        (b"GET / HTTP/1.1\r\n", b"X: y\r\n"),
        (post(b"Content-Length: 5000\r\n"), b" "),
        (post(b"Transfer-Encoding: chunked\r\n"), b"1\r\n \r\n"),
        (post(b"Content-Length: 999999\r\n"), b" "),  # refused, and its rest is not waited for
    ],
)
def test_a_client_that_sends_drop_by_drop_does_not_hold_the_server(
    server: Process, beginning: bytes, drop: bytes
) -> None:
    """Each drop comes well before a read would time out; only a deadline for the whole ends this."""
    with server.connect() as client:
        client.sendall(beginning)
        client.settimeout(0.2)
        for _ in range(100):
            try:
                client.sendall(drop)
                if not client.recv(65536):
                    return
            except TimeoutError:
                continue
            except OSError:
                return
    pytest.fail("the server still listens after 100 drops")


def test_a_client_that_does_not_read_does_not_hold_the_server() -> None:
    """As many connections as there may be, all full of answers that nobody takes: the next one is served."""
    server = Process(http_timeout=1, max_connections=3)
    clients = []
    try:
        for _ in range(3):
            client = server.connect()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n" + AUTH + b"\r\n"
            try:
                client.send(request * 2000)
            except BlockingIOError:
                pass
            clients.append(client)
        assert server.call("GET", "/healthz").status == 200
    finally:
        for client in clients:
            client.close()
        server.stop()


IDLE = {
    "says nothing": b"",
    "has been answered": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "stops in a head": b"GET /healthz HTTP/1.1\r\nHost:",
    "stops in a body that is read for nothing": b"POST /v2/tags HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{",
}


@pytest.mark.parametrize("what", IDLE)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_full_server_ends_who_waits_longest_for_a_new_client(tmp_path: Path, scheme: str, what: str) -> None:
    """Within the time that one connection may be idle, far more clients are served than there are places."""
    settings, trust = lab_certificate(tmp_path) if scheme == "https" else ({}, None)
    server = Process(tls=trust, http_timeout=600, max_connections=5, **settings)
    idle = []
    try:
        for _ in range(12):
            idle.append(client := server.connect())
            client.sendall(IDLE[what])
        assert server.call("GET", "/v2/firewalls").status == 200
        for client in idle[:5]:
            read_all(client)  # these have been ended
    finally:
        for client in idle:
            client.close()
        assert all("no valid token" in line for line in server.stop().splitlines())


def test_a_client_at_work_does_not_give_way() -> None:
    """Of three places two are taken by a write that waits for its switches, and by a body that is on its way."""
    server = Process(http_timeout=600, max_connections=3)
    body = b'{"name": "at-work", "inbound_rules": %s, "droplet_ids": [101]}' % json.dumps(RULES).encode()
    head = b"POST /v2/firewalls HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + AUTH
    server.call("POST", f"/test/{HV1}/silent")
    with server.connect() as waiting, server.connect() as sending:
        try:
            waiting.sendall(head + b"Prefer: wait=3\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            sending.sendall(head + b"Content-Length: 17\r\n\r\n{")
            for _ in range(10):
                assert server.call("GET", "/healthz").status == 200
            sending.sendall(b'"name": "slow"  }')
            assert split(read_all(sending))[0] in (202, 400, 422)
            assert split(read_all(waiting))[0] == 202
        finally:
            server.stop()


def test_slow_clients_do_not_hold_up_others(server: Process) -> None:
    slow = [server.connect() for _ in range(50)]
    try:
        for client in slow:
            client.sendall(post(b"Content-Length: 100\r\n", b"{"))
        assert server.call("GET", "/v2/firewalls").status == 200
    finally:
        for client in slow:
            client.close()


def test_a_client_whose_next_request_is_always_there_leaves_others_their_turn(server: Process) -> None:
    count, one = 400, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with server.connect() as quick, server.connect() as other:
        quick.sendall(one * count)
        other.sendall(one)
        assert other.recv(4096).startswith(b"HTTP/1.1 200 ")
        quick.setblocking(False)
        answers = b""
        with suppress(BlockingIOError, ssl.SSLWantReadError):
            while data := quick.recv(1 << 20):
                answers += data
        assert answers.count(b"HTTP/1.1 200 ") < count
        quick.settimeout(20)
        while answers.count(b"HTTP/1.1 200 ") < count:
            answers += quick.recv(1 << 20)


def test_the_end_of_a_long_answer_does_not_wait_for_the_client_to_confirm_its_beginning(module: ModuleType) -> None:
    with closing(module._listen("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_server_outlives_clients_that_go_away(server: Process) -> None:
    for data in (b"", b"GET", post(b"Content-Length: 100\r\n", b"{"), post(b"Content-Length: 0\r\n")):
        client = server.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset instead of an end
        client.sendall(data)
        client.close()
    assert server.call("GET", "/healthz").status == 200


# --------------------------------------------------------------------------------------------- the listener


def test_it_listens_on_a_unix_socket_and_replaces_one_that_was_left(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    server = Process(str(path))
    try:
        assert stat.S_ISSOCK(os.stat(path).st_mode)
        assert server.port == 0
        assert server.call("GET", "/v2/firewalls").status == 200
        with server.connect() as first, server.connect() as second:
            for client in (first, second):
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert [split(read_all(client))[0] for client in (first, second)] == [200, 200]
        with pytest.raises(RuntimeError, match="Address already in use"):
            Process(str(path))
    finally:
        server.stop()


def test_it_listens_on_ipv6() -> None:
    server = Process("::1")
    try:
        assert server.call("GET", "/healthz").status == 200
    finally:
        server.stop()


def test_it_says_nothing_on_stderr_when_all_is_well_and_ends_when_it_is_told_to() -> None:
    server = Process()
    with server.connect() as idle:
        assert server.call("GET", "/v2/firewalls").status == 200
        server.raw(b"nonsense\r\n\r\n")
        assert server.stop() == ""
        assert idle.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        server.connect()


def test_requests_under_way_end_with_the_server() -> None:
    server = Process()
    with server.connect() as client:
        client.sendall(post(b"Content-Length: 100\r\n", b"{"))
        assert server.call("GET", "/healthz").status == 200  # it has been accepted
        server.stop()
        assert client.recv(1) == b""
    assert server.left == 0


def test_a_port_is_not_shared() -> None:
    server = Process()
    try:
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", server.port))
    finally:
        server.stop()


# --------------------------------------------------------------------------------------------- in this process


@pytest.fixture
def module() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # eventlet says that it is deprecated, to all who import it
        from firewall_app.api import server

    return server


class Accepting:
    """A listener that has no file descriptors left, then accepts two clients of a Unix socket, then breaks."""

    def __init__(self) -> None:
        self.found: list[object] = [OSError(errno.EMFILE, "too many"), ("a", ""), ("b", ""), OSError(errno.EBADF, "x")]

    def accept(self) -> object:
        following = self.found.pop(0)
        if isinstance(following, OSError):
            raise following
        return following


def test_a_lack_of_file_descriptors_passes_and_clients_without_a_name_get_one(module: ModuleType) -> None:
    listener = module._Listener(Accepting(), module.eventlet.GreenPool(9), None)
    assert [listener.accept(), listener.accept()] == [("a", ("unix", 1)), ("b", ("unix", 2))]
    with pytest.raises(OSError, match="x"):
        listener.accept()


def test_what_is_no_http_is_logged_in_one_short_line_without_secrets(
    module: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    from firewall_app.api.connection import Protocol

    class Wire:
        sent = b""

        def writelines(self, lines: list[bytes]) -> None:
            self.sent += b"".join(lines)

        def flush(self) -> None:
            pass

    refused = object.__new__(Protocol)
    refused.wfile, refused.client_address = Wire(), ("192.0.2.7", 40000)
    refused.raw_requestline = b"GET /" + b"x" * 5000 + b"?token=SECRET HTTP/1.1\r\n"
    with caplog.at_level(logging.INFO):
        refused.send_error(400, "b'Authorization SECRET' is no header field", "a line is no header field")
    (line,) = [record.getMessage() for record in caplog.records]
    assert json.loads(split(refused.wfile.sent)[2])["request_id"] in line
    assert 'address=192.0.2.7 status=400 error="a line is no header field"' in line
    assert "SECRET" not in line
    assert len(line) < 500


def test_an_answer_that_is_taken_drop_by_drop_has_an_end(module: ModuleType) -> None:
    from firewall_app.api import connection

    class Drops:
        def writelines(self, lines: list[bytes]) -> None:
            while True:
                module.eventlet.sleep(0.001)

        flush = writelines

    ours, theirs = socket.socketpair()
    with ours, theirs:
        answer = connection._Answer(Drops(), ours, 0.01, connection.Room())
        with pytest.raises(TimeoutError, match="too slow"):
            answer.writelines([b"x"])
        assert theirs.recv(1) == b""  # what is left unsaid is not waited for again
