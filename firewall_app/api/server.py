"""The HTTP listener: eventlet's WSGI server, and the limits that it lacks.

A client has `http_timeout` seconds for a whole request head, as many for the body, and as many to take the answer,
however it spreads its bytes; an open connection without a request is closed after the same time.  Requests are not
logged here.  The only file of api/ that knows eventlet.
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import socket
import stat
import time
import uuid
from http import HTTPStatus
from typing import Any

import eventlet
from eventlet import wsgi

from ..settings import Settings
from .app import Wsgi

LOG = logging.getLogger(__name__)

BACKLOG = 1024
LONGEST_LINE = 8192  # of a chunk's size or a trailer
MOST_DISCARDED = 16 << 20  # bytes of a refused body that are read for nothing, so that the client reads our answer
STOP_PATIENCE: float = 5  # seconds that requests have to end when the server stops
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED})


class Server:
    """A running listener."""

    def __init__(self, listener: socket.socket, pool: eventlet.GreenPool, thread: Any) -> None:
        self._listener = listener
        self._pool = pool
        self._thread = thread
        name = listener.getsockname()
        self.port: int = name[1] if isinstance(name, tuple) else 0

    @property
    def connections(self) -> int:
        """How many there are now."""
        running: int = self._pool.running()
        return running

    def stop(self) -> None:
        """Accepts nothing more; requests under way have a few seconds."""
        self._thread.kill()
        with eventlet.Timeout(STOP_PATIENCE, False):
            self._pool.waitall()
        for worker in list(self._pool.coroutines_running):
            worker.kill()
        self._listener.close()


def serve(application: Wsgi, host: str, port: int, settings: Settings) -> Server:
    """Listens on an address, or on a Unix socket when `host` is a path.  Port 0: any.  Raises OSError."""
    listener = _listen(host, port)
    pool = eventlet.GreenPool(settings.max_connections)
    thread = eventlet.spawn(
        wsgi.server,
        _Listener(listener),
        application,
        custom_pool=pool,
        protocol=_Protocol,
        keepalive=settings.http_timeout,
        socket_timeout=settings.http_timeout,
        log=LOG,
        log_output=False,
        debug=False,
    )
    eventlet.sleep(0)  # the acceptor must have begun, or killing it would leave the listener open
    return Server(listener, pool, thread)


def _listen(host: str, port: int) -> socket.socket:
    if "/" in host:
        _clear(host)
        family, address = socket.AF_UNIX, host
    else:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        family, address = found[0], found[4]  # type: ignore[assignment]
    # eventlet shares the port by default: two controllers would split the requests and nobody would notice.
    listener: socket.socket = eventlet.listen(
        address, family=family, backlog=BACKLOG, reuse_addr=True, reuse_port=False
    )
    return listener


def _clear(path: str) -> None:
    """Removes a Unix socket on which nobody listens any more; one with a listener is in use as a port would be."""
    if not os.path.exists(path) or not stat.S_ISSOCK(os.stat(path).st_mode):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)


class _Listener:
    """A listening socket that outlives a lack of file descriptors."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._count = itertools.count(1)

    def accept(self) -> tuple[socket.socket, Any]:
        while True:
            try:
                client, address = self._listener.accept()
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                LOG.error("cannot accept HTTP connections: %s", error)
                eventlet.sleep(0.1)
                continue
            # Clients of a Unix socket have no names, and the server tells its connections apart by name.
            return client, address or ("unix", next(self._count))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)


class _Deadline:
    """Fails what runs inside it once a moment has passed."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def run(self, work: Any, *args: Any) -> Any:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the client is too slow")
        with eventlet.Timeout(left, TimeoutError("the client is too slow")):
            return work(*args)


class _Lines:
    """A request's byte stream whose lines have an end."""

    def __init__(self, stream: Any) -> None:
        self.read = stream.read
        self._stream = stream

    def readline(self, size: int = LONGEST_LINE) -> bytes:
        line: bytes = self._stream.readline(min(size, LONGEST_LINE) if size >= 0 else LONGEST_LINE)
        if len(line) >= LONGEST_LINE:
            raise ValueError("a line of the body is too long")
        return line


class _Input(wsgi.Input):
    """A request's body, under a deadline that begins with its first byte asked for."""

    _deadline: _Deadline | None = None
    seconds: float = 0

    def read(self, length: int | None = None) -> bytes:
        if self._deadline is None:
            self._deadline = _Deadline(self.seconds)
        data: bytes = self._deadline.run(super().read, length)
        return data

    def discard(self, buffer_size: int = 16 << 10) -> None:
        left = MOST_DISCARDED
        while left > 0:
            data = self.read(buffer_size)
            if not data:
                return
            left -= len(data)
        raise OSError("the rest of the body is too long to wait for")


class _Answer:
    """The way to the client, under a deadline for each answer."""

    def __init__(self, stream: Any, seconds: float) -> None:
        self._stream = stream
        self._seconds = seconds

    def writelines(self, lines: Any) -> None:
        _Deadline(self._seconds).run(self._stream.writelines, lines)

    def flush(self) -> None:
        _Deadline(self._seconds).run(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Protocol(wsgi.HttpProtocol):
    """One connection."""

    wfile: Any

    def setup(self) -> None:
        super().setup()
        self.wfile = _Answer(self.wfile, self.server.socket_timeout)

    def _read_request_line(self) -> Any:
        return _Deadline(self.server.socket_timeout).run(super()._read_request_line)

    def parse_request(self) -> bool:
        good: bool = _Deadline(self.server.socket_timeout).run(super().parse_request)
        if good and self.headers.get("transfer-encoding", "chunked").lower() != "chunked":
            # Read as having no body, such a request would hide a second one in it.
            self.send_error(501, "only chunked is understood as a Transfer-Encoding")
            return False
        return good

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        environ["CONTENT_TYPE"] = self.headers.get("content-type", "")  # eventlet says text/plain for none
        made = environ["wsgi.input"]
        body = _Input(
            _Lines(self.rfile), made.content_length, self.connection, made.wfile, made.wfile_line, made.chunked_input
        )
        body.seconds = self.server.socket_timeout
        environ["wsgi.input"] = environ["eventlet.input"] = body
        return environ

    def handle_one_response(self) -> None:
        super().handle_one_response()
        body = self.environ["eventlet.input"]
        if self.close_connection and not body.should_send_hundred_continue:
            # Closing while the client still sends would reset the connection, and our answer with it.
            try:
                self.connection.shutdown(socket.SHUT_WR)
                body.discard()
            except (OSError, ValueError):
                pass

    def send_error(self, code: int, message: str | None = None, *_: str) -> None:
        """What is no HTTP is answered in the shape of all our errors, too."""
        self.close_connection = True
        fault = {"id": "bad_request", "message": message or "bad request", "request_id": str(uuid.uuid4())}
        body = json.dumps(fault).encode() + b"\n"
        head = (
            f"HTTP/1.1 {int(code)} {HTTPStatus(code).phrase}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        )
        self.wfile.writelines([head.encode(), f"Content-Length: {len(body)}\r\n\r\n".encode(), body])
        self.wfile.flush()
