"""Transactions with an OVSDB server on a connection that stays open, as a cloud's management would keep it."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from lab.system import LabError


class Ovsdb:
    def __init__(self, path: Path, database: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(120)
        self._socket.connect(str(path))
        self._database, self._number = database, 0
        self._decoder, self._text = json.JSONDecoder(), ""

    def transact(self, *operations: dict[str, Any]) -> list[dict[str, Any]]:
        self._number += 1
        self._send({"method": "transact", "id": self._number, "params": [self._database, *operations]})
        while True:
            message = self._next()
            if message.get("method") == "echo":
                self._send({"id": message["id"], "result": message["params"], "error": None})
            elif message.get("id") == self._number:
                faults = [one for one in message["result"] or () if one and "error" in one]
                if message["error"] or faults:
                    raise LabError(f"{self._database} refused: {message['error'] or faults[:3]}")
                found: list[dict[str, Any]] = message["result"]
                return found

    def close(self) -> None:
        self._socket.close()

    def _send(self, message: object) -> None:
        self._socket.sendall(json.dumps(message).encode())

    def _next(self) -> dict[str, Any]:
        parts: list[str] = [self._text]
        while True:
            text = "".join(parts)
            try:
                message, end = self._decoder.raw_decode(text)
            except ValueError:
                data = self._socket.recv(1 << 20)
                if not data:
                    raise LabError("the server of OVSDB has closed the connection") from None
                parts = [text, data.decode()]
                continue
            self._text = text[end:].lstrip()
            found: dict[str, Any] = message
            return found
