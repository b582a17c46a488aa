"""A client of a REST API on one connection that stays open, as SDKs and load balancers keep theirs."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any

from lab.system import LabError


class Client:
    def __init__(self, host: str, port: int, token: str = "") -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=120)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = {"Content-Type": "application/json"}
        if token:
            self._head["Authorization"] = f"Bearer {token}"

    def call(self, method: str, path: str, body: Any = None, head: Mapping[str, str] | None = None) -> Any:
        """The answer's body.  A change must have reached its switches when it was to wait for them."""
        data = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, data, {**self._head, **(head or {})})
        answer = self._connection.getresponse()
        text = answer.read().decode()
        if answer.status >= 300:
            raise LabError(f"{method} {path} answered {answer.status}: {text}")
        if head and "Prefer" in head and answer.headers.get("X-Change-Status") != "succeeded":
            raise LabError(f"{method} {path}: the switches have not confirmed it: {dict(answer.headers)}")
        return json.loads(text) if text else None

    def close(self) -> None:
        self._connection.close()
