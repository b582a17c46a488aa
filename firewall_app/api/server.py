"""The HTTP listener: eventlet's WSGI server, with TLS when there is a certificate, and never too full for a new client.

Requests are not logged here.  What happens on a connection is in connection.py; no other file of api/ knows eventlet.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import stat
from typing import Any

import eventlet
from eventlet import wsgi

from .. import logs
from ..settings import Settings
from ..tls import Certificate
from .app import Wsgi
from .connection import Connections, Room

LOG = logs.get(__name__)

BACKLOG = 1024
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

    def refuse(self) -> None:
        """Accepts nothing more, and closes connections without a request."""
        self._thread.kill()
        self._listener.close()

    def drain(self, seconds: float) -> int:
        """Gives requests under way some time; how many are left."""
        with eventlet.Timeout(seconds, False):
            self._pool.waitall()
        return self.connections

    def stop(self) -> None:
        """Accepts nothing more; requests under way have a few seconds."""
        self.refuse()
        self.drain(STOP_PATIENCE)
        for worker in list(self._pool.coroutines_running):
            worker.kill()


def serve(application: Wsgi, host: str, port: int, settings: Settings) -> Server:
    """Listens on an address, or on a Unix socket when `host` is a path.  Port 0: any.

    Raises OSError, or CertificateError.
    """
    certificate = Certificate(settings.tls_certificate, settings.tls_key) if settings.tls_certificate else None
    connections = Connections(certificate)
    listener = _listen(host, port)
    pool = eventlet.GreenPool(settings.max_connections)
    thread = eventlet.spawn(
        wsgi.server,
        _Listener(listener, pool, connections.room),
        application,
        environ={"wsgi.url_scheme": "https", "HTTPS": "on"} if certificate else None,
        custom_pool=pool,
        protocol=connections,
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
    if family != socket.AF_UNIX:
        # Accepted ones inherit it.  The end of a long answer would wait 40 ms for the client to confirm its beginning.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
    """A listening socket that outlives a lack of file descriptors, and makes room for whom it accepts."""

    def __init__(self, listener: socket.socket, pool: eventlet.GreenPool, room: Room) -> None:
        self._listener = listener
        self._pool = pool
        self._room = room
        self._count = itertools.count(1)

    def accept(self) -> tuple[socket.socket, Any]:
        failing = False  # said once
        while True:
            try:
                client, address = self._listener.accept()
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                if not failing:
                    LOG.error("HTTP connections cannot be accepted", error=error)
                failing = True
                eventlet.sleep(0.1)
                continue
            while self._pool.free() <= 0:
                self._room.give_way()
                eventlet.sleep(0.01)
            # Clients of a Unix socket have no names, and the server tells its connections apart by name.
            return client, address or ("unix", next(self._count))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)
