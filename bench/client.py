"""A client of a REST API on one connection that stays open, as SDKs and load balancers keep theirs."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Mapping
from typing import Any

from lab.system import LabError

IDLE = 10.0  # seconds after which a connection is made anew: servers close those that rest


class Client:
    def __init__(self, host: str, port: int, token: str = "") -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=120)
        self._used = -IDLE
        self._head = {"Content-Type": "application/json"}
        if token:
            self._head["Authorization"] = f"Bearer {token}"

    def call(self, method: str, path: str, body: Any = None, head: Mapping[str, str] | None = None) -> Any:
        """The answer's body.  A change must have reached its switches when it was to wait for them."""
        data = None if body is None else json.dumps(body).encode()
        if time.monotonic() - self._used > IDLE:
            self._connection.close()
            self._connection.connect()
            self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.request(method, path, data, {**self._head, **(head or {})})
        answer = self._connection.getresponse()
        text = answer.read().decode()
        self._used = time.monotonic()
        if answer.status >= 300:
            raise LabError(f"{method} {path} answered {answer.status}: {text}")
        if head and "Prefer" in head and answer.headers.get("X-Change-Status") != "succeeded":
            raise LabError(f"{method} {path}: the switches have not confirmed it: {dict(answer.headers)}")
        return json.loads(text) if text else None

    def close(self) -> None:
        self._connection.close()
