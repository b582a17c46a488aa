"""The controller as a process, with a stand-in for the firewall: a web server that reads the same configuration."""

from __future__ import annotations

import os
import socket
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.controller import Controller, Rest
from lab.system import LabError

STAND_IN = """
    import configparser, json, os, socket, sys, threading, time
    from http.server import BaseHTTPRequestHandler, HTTPServer

    assert sys.argv[1] == "--config-file" and sys.argv[3] == "firewall_app.app", sys.argv
    config = configparser.ConfigParser()
    config.read(sys.argv[2])
    if config.has_option("firewall", "broken"):
        sys.exit("broken: " + config["firewall"]["broken"])

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen = {
                "method": self.command, "path": self.path, "body": json.loads(body) if body else None,
                "authorization": self.headers.get("Authorization"), "prefer": self.headers.get("Prefer"),
                "config": {name: dict(config[name]) for name in ("DEFAULT", "firewall")},
                "token": os.environ["FIREWALL_OPERATOR_TOKEN"], "pid": os.getpid(),
            }
            status = {"/empty": 204, "/missing": 404}.get(self.path, 200)
            data = b"" if status == 204 else b"no such thing" if status == 404 else json.dumps(seen).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if status == 404 else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", "abc")
            self.end_headers()
            self.wfile.write(data)
        do_GET = do_PUT = answer

    http = HTTPServer((config["DEFAULT"]["wsapi_host"], int(config["DEFAULT"]["wsapi_port"])), Handler)
    threading.Thread(target=http.serve_forever).start()
    time.sleep(float(config["firewall"].get("late", 0)))
    switches = (config["DEFAULT"]["ofp_listen_host"], int(config["DEFAULT"]["ofp_tcp_listen_port"]))
    with socket.create_server(switches) as listener:
        while True:
            listener.accept()[0].close()
"""


@pytest.fixture
def command(tmp_path: Path) -> tuple[str, str]:
    program = tmp_path / "stand_in.py"
    program.write_text(textwrap.dedent(STAND_IN))
    return sys.executable, str(program)


@pytest.fixture
def controller(tmp_path: Path, command: tuple[str, str]) -> Iterator[Controller]:
    with Controller(tmp_path / "c", command=command, token="a secret", settings={"shards": 2}) as started:
        yield started


def test_it_is_configured_by_a_file_and_the_token_by_the_environment(controller: Controller) -> None:
    seen = controller.call("GET", "/x").json
    assert seen["config"]["DEFAULT"] == {
        "ofp_listen_host": "127.0.0.1",
        "ofp_tcp_listen_port": str(controller.openflow_port),
        "wsapi_host": "127.0.0.1",
        "wsapi_port": str(controller.rest.port),
    }
    own = {key: seen["config"]["firewall"][key] for key in ("database", "shards")}
    assert own == {"database": f"sqlite:///{controller.directory}/firewall.db", "shards": "2"}
    assert seen["token"] == "a secret"


def test_a_call_carries_the_token_the_body_and_headers(controller: Controller) -> None:
    answer = controller.call("PUT", "/v1/x?a=1", {"name": "hv"}, {"Prefer": "wait=5"})
    assert (answer.status, answer.headers["etag"]) == (200, "abc")
    seen = {key: answer.json[key] for key in ("method", "path", "body", "authorization", "prefer")}
    assert seen == {
        "method": "PUT",
        "path": "/v1/x?a=1",
        "body": {"name": "hv"},
        "authorization": "Bearer a secret",
        "prefer": "wait=5",
    }


def test_a_client_without_token_sends_none(controller: Controller) -> None:
    assert Rest(controller.host, controller.rest.port, "").call("GET", "/x").json["authorization"] is None


def test_answers_without_a_body_or_without_json(controller: Controller) -> None:
    assert controller.call("GET", "/empty")[::2] == (204, None)
    assert controller.call("GET", "/missing")[::2] == (404, "no such thing")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_it_ends_and_comes_back_on_the_same_ports(controller: Controller, how: str) -> None:
    before, ports = controller.pid, (controller.openflow_port, controller.rest.port)
    getattr(controller, how)()
    assert not controller.running
    assert not Path(f"/proc/{before}").exists()
    with pytest.raises(OSError, match="refused"):
        controller.call("GET", "/x")
    controller.start()
    assert controller.call("GET", "/x").json["pid"] == controller.pid != before
    assert (controller.openflow_port, controller.rest.port) == ports


def test_restart_is_another_process_and_a_second_start_is_none(controller: Controller) -> None:
    before = controller.pid
    controller.start()
    assert controller.pid == before
    controller.restart()
    assert controller.pid != before


def test_one_that_ends_by_itself_is_reported_with_its_last_words(tmp_path: Path, command: tuple[str, str]) -> None:
    broken = Controller(tmp_path / "c", command=command, settings={"broken": "the reason"})
    with pytest.raises(LabError, match="broken: the reason"):
        broken.start()
    assert not broken.running


def test_once_it_has_started_switches_may_connect(tmp_path: Path, command: tuple[str, str]) -> None:
    with Controller(tmp_path / "c", command=command, settings={"late": 0.3}) as late:
        socket.create_connection((late.host, late.openflow_port), timeout=10).close()


def test_its_pid_file_is_there_while_it_runs(controller: Controller) -> None:
    """By it a lab that was killed is swept."""
    file = controller.directory / "controller.pid"
    assert int(file.read_text()) == controller.pid
    words = Path(f"/proc/{controller.pid}/cmdline").read_bytes()
    assert f"{controller.directory}{os.sep}".encode() in words
    controller.stop()
    assert not file.exists()
