"""How many requests an HTTP server answers: some connections that ask one thing after another, each as fast as it can.

A process of its own (`python -m bench.load`), so that asking takes nothing from who answers but the machine's time:
requests are bytes made before, and of an answer only the status and the end are looked for.
"""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONGEST_ANSWER = 10.0  # seconds


@dataclass(frozen=True)
class Load:
    """For each connection the requests that it repeats in turn."""

    host: str
    port: int
    seconds: float
    requests: Sequence[Sequence[str]]


@dataclass
class Answered:
    seconds: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    milliseconds: list[float] = field(default_factory=list)  # of each, in the order of the answers

    @property
    def per_second(self) -> float:
        return len(self.milliseconds) / self.seconds


def ask(load: Load) -> Answered:
    """Raises CalledProcessError when the server closes a connection or does not answer."""
    given = json.dumps(asdict(load)).encode()
    command = [sys.executable, "-m", "bench.load"]
    done = subprocess.run(command, input=given, stdout=subprocess.PIPE, check=True, cwd=ROOT)
    return Answered(**json.loads(done.stdout))


def request(method: str, path: str, token: str = "", body: object = None, headers: Sequence[str] = ()) -> str:
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", *headers]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    text = json.dumps(body) if body is not None else ""
    if text:
        lines += ["Content-Type: application/json", f"Content-Length: {len(text)}"]
    return "\r\n".join([*lines, "", text])


class _Client:
    """One connection."""

    def __init__(self, load: Load, requests: Sequence[str]) -> None:
        self.socket = socket.create_connection((load.host, load.port), LONGEST_ANSWER)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._requests = [request.encode() for request in requests]
        self._sent = 0
        self._began = 0.0
        self._buffer = b""

    def ask(self) -> None:
        self._began = time.perf_counter()
        self.socket.sendall(self._requests[self._sent % len(self._requests)])
        self._sent += 1

    def hear(self, statuses: Counter[str], milliseconds: list[float]) -> bool:
        """Whether an answer is whole; notes it."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server has closed the connection")
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        length = 0
        for line in head.split(b"\r\n"):
            if line[:15].lower() == b"content-length:":
                length = int(line[15:])
        if len(body) < length:
            return False
        self._buffer = b""
        statuses[head[9:12].decode()] += 1
        milliseconds.append((time.perf_counter() - self._began) * 1000)
        return True


def _ask(load: Load) -> Answered:
    statuses: Counter[str] = Counter()
    milliseconds: list[float] = []
    selector = selectors.DefaultSelector()
    clients = [_Client(load, requests) for requests in load.requests]
    began = time.perf_counter()
    for client in clients:
        selector.register(client.socket, selectors.EVENT_READ, client)
        client.ask()
    asking, seconds = len(clients), 0.0
    while asking:
        ready = selector.select(LONGEST_ANSWER)
        if not ready:
            raise TimeoutError(f"no answer within {LONGEST_ANSWER:.0f} s")
        for key, _ in ready:
            if key.data.hear(statuses, milliseconds):
                seconds = time.perf_counter() - began
                if seconds < load.seconds:
                    key.data.ask()
                else:
                    asking -= 1
    return Answered(seconds, dict(statuses), milliseconds)


if __name__ == "__main__":
    json.dump(asdict(_ask(Load(**json.load(sys.stdin)))), sys.stdout)
