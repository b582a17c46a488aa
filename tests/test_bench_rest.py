"""The bench of the REST API, small: that it measures what it says, of whom it says."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.load import Load, ask, request
from bench.row import US
from bench.rows import rest


@dataclass
class Small:
    directory: Path
    runs: int = 1
    quick: bool = True

    def progress(self, text: str, done: float | None = None) -> None:
        pass


@pytest.mark.lab
@pytest.mark.postgresql
def test_the_row_measures_each_contestant(tmp_path: Path) -> None:
    found = {(one.who, one.what): one for one in rest.ROW.measure(Small(tmp_path))}
    ours = {(US, rest.READ), (US, rest.PAGE)}
    ours |= {(who, what) for who in (US, rest.POSTGRESQL) for what in (rest.WRITE, rest.LATE, rest.ALONE)}
    others = {(rest.BARE, rest.READ), (rest.DISK, rest.WRITE), (rest.RYU_FIREWALL, rest.WRITE)}
    assert found.keys() == ours | others | {(rest.RYU_FIREWALL, rest.LATE)}
    assert all(one.median > 0 and len(one.values) == 1 for one in found.values())
    assert {one.unit for (_, what), one in found.items() if what in (rest.READ, rest.WRITE)} == {"1/s"}
    for target in rest.ROW.targets:
        assert "not measured" not in target.judge(list(found.values())).text


def test_the_load_repeats_what_each_client_asks_and_counts_every_answer() -> None:
    asked: list[tuple[str, str, bytes]] = []

    class Server(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, self.headers["Authorization"], body))
            self.send_response(404 if self.path == "/b" else 200)
            self.send_header("Content-Length", "70000")
            self.end_headers()
            self.wfile.write(b"x" * 70000)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            one, two = (request("POST", path, "t", {"n": 1}) for path in ("/a", "/b"))
            answered = ask(Load("127.0.0.1", server.server_port, 0.2, [[one, two], [one]]))
        finally:
            server.shutdown()
            thread.join()
    count = len(answered.milliseconds)
    assert count == len(asked) == sum(answered.statuses.values())
    assert set(asked) == {("/a", "Bearer t", b'{"n": 1}'), ("/b", "Bearer t", b'{"n": 1}')}
    assert answered.statuses["404"] == sum(path == "/b" for path, _, _ in asked) > 0
    assert answered.per_second == pytest.approx(count / answered.seconds)
