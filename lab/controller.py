"""`Controller`: the firewall as a process of its own, to be started, stopped, killed and started again.

It is configured as an operator would, by a file in `--config-file`.  `Rest` is the smallest client that its API needs.
Knows nothing of the network around; which address to listen on is told.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .system import LabError, end, spawn, tail, wait_until

ROOT = Path(__file__).parents[1]
RYU = (str(Path(sys.executable).with_name("ryu-manager")),)
APP = "firewall_app.app"
TOKEN = "lab-operator-token"


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def is_listened_on(host: str, port: int) -> bool:
    """Asked without a connection, which a controller would take for a switch."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as refused:
            if refused.errno != errno.EADDRINUSE:
                raise
            return True
    return False


class Answer(NamedTuple):
    """`json` is the body parsed, None when there is none; text that is not JSON comes as a string."""

    status: int
    headers: dict[str, str]  # names in lower case
    json: Any


class Rest:
    """Calls with a bearer token; `token` empty sends none.  With `tls`, which says whom to trust, over HTTPS."""

    def __init__(
        self, host: str, port: int, token: str = TOKEN, timeout: float = 70, tls: ssl.SSLContext | None = None
    ) -> None:
        self.host, self.port, self.token, self.timeout, self.tls = host, port, token, timeout, tls

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """One request on a connection of its own.  Raises OSError when nobody answers."""
        sent = {"Accept": "application/json"}
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        data = None
        if body is not None:
            data = json.dumps(body)
            sent["Content-Type"] = "application/json"
        connection = (
            http.client.HTTPSConnection(self.host, self.port, timeout=self.timeout, context=self.tls)
            if self.tls
            else http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
        )
        try:
            connection.request(method, path, data, {**sent, **(headers or {})})
            response = connection.getresponse()
            text = response.read()
        except http.client.HTTPException as broken:
            raise ConnectionError(f"{method} {path}: {type(broken).__name__} {broken}") from broken
        finally:
            connection.close()
        found = {name.lower(): value for name, value in response.getheaders()}
        is_json = "json" in found.get("content-type", "")
        return Answer(response.status, found, json.loads(text) if text and is_json else text.decode() or None)


class Controller:
    """One controller; its configuration, database and log are in `directory`, and outlive it."""

    def __init__(
        self,
        directory: Path,
        *,
        host: str = "127.0.0.1",
        openflow_port: int = 0,
        rest_port: int = 0,
        database: str = "",
        token: str = TOKEN,
        settings: Mapping[str, object] | None = None,
        ryu: Mapping[str, object] | None = None,
        command: Sequence[str] = RYU,
        tls: ssl.SSLContext | None = None,
        openflow_tls: Mapping[str, object] | None = None,
    ) -> None:
        """`settings` are lines of the section [firewall], `ryu` of [DEFAULT].

        `command` is followed by --config-file and the app.  `openflow_tls` has Ryu's options ctl_privkey, ctl_cert and
        ca_certs; with it OpenFlow is spoken over TLS.
        """
        self.directory = directory
        self.host = host
        self.openflow_port = openflow_port or free_port(host)
        self.rest = Rest(host, rest_port or free_port(host), token, tls=tls)
        self.database = database or f"sqlite:///{directory}/firewall.db"
        self.settings = {"database": self.database, **(settings or {})}
        self.ryu = dict(ryu or {})
        self.openflow_tls = dict(openflow_tls or {})
        self.command = tuple(command)
        self.config = directory / "controller.conf"
        self.log = directory / "controller.log"
        self._pid_file = directory / "controller.pid"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Controller:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise LabError("the controller does not run")
        return self._process.pid

    def start(self, wait: float = 30) -> None:
        """Start it and wait until it answers /healthz and listens for switches; its log says why when it does not."""
        if self.running:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config.write_text(self._config())
        environment = {**os.environ, "FIREWALL_OPERATOR_TOKEN": self.rest.token, "PYTHONUNBUFFERED": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        argv = [*self.command, "--config-file", str(self.config), APP]
        self._process = process = spawn(argv, self.log, environment)
        self._pid_file.write_text(f"{process.pid}\n")

        def listens() -> bool:
            if process.poll() is not None:
                raise LabError(f"the controller ended by itself ({process.returncode}):\n{tail(self.log)}")
            try:
                healthy = self.rest.call("GET", "/healthz").status == 200
            except OSError:
                return False
            return healthy and is_listened_on(self.host, self.openflow_port)

        try:
            wait_until("the controller's GET /healthz, and its port for switches", listens, wait, 0.05)
        except LabError as problem:
            self.close()
            raise LabError(f"{problem}\n{tail(self.log)}") from problem

    def stop(self) -> int | None:
        """SIGTERM, as an orderly shutdown; the exit status, None if it did not run."""
        process = self._process
        end(process, grace=10)
        self._forget()
        return process.returncode if process is not None else None

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        self._forget()

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        return self.rest.call(method, path, body, headers)

    def _forget(self) -> None:
        self._process = None
        self._pid_file.unlink(missing_ok=True)

    def _config(self) -> str:
        lines = [
            "[DEFAULT]",
            f"ofp_listen_host = {self.host}",
            f"ofp_{'ssl' if self.openflow_tls else 'tcp'}_listen_port = {self.openflow_port}",
            *(f"{name} = {value}" for name, value in self.openflow_tls.items()),
            f"wsapi_host = {self.host}",
            f"wsapi_port = {self.rest.port}",
            *(f"{name} = {value}" for name, value in self.ryu.items()),
            "",
            "[firewall]",
            *(f"{name} = {value}" for name, value in self.settings.items()),
        ]
        return "\n".join(lines) + "\n"
