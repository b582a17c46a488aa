"""Where switches connect: over TCP or TLS, and what becomes of those that never say who they are.

Replaces Ryu's StreamServer, and stands between Ryu and the sockets.  Which switch may stay is not decided here.
"""

from __future__ import annotations

import _socket
import errno
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import eventlet
from eventlet.green.ssl import GreenSSLSocket
from oslo_config import cfg
from ryu.lib import hub, ip

from .. import logs
from ..tls import OPENFLOW, Certificate, CertificateError, load
from .identity import Identity

LOG = logs.get(__name__)
BACKLOG = 4096  # switches that may wait to be accepted: a thousand hypervisors come back at once after an outage
IDENTIFY = 10.0  # seconds from accept to the end of the handshake of OpenFlow, TLS included
STRANGERS = 1024  # connections at once that have not said who they are
PATIENCE = 3.0  # seconds that a stranger keeps its place when others want it; a storm of honest ones needs less
LOOK = 1.0  # seconds between two looks at the strangers, and at the files of TLS
TOGETHER = 64  # switches accepted before others go on: Open vSwitch dials again when it hears no HELLO for a second
AT_ONCE = 32 << 10  # bytes read from a switch at least: Ryu asks for a header, and then for the rest
AGAIN = 3600.0  # seconds until the same is said again of the same stranger
MINUTE = 60.0
_RETRY_ACCEPT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED}
_HINTS = {
    "WRONG_VERSION_NUMBER": "it speaks no TLS (`tcp:` for `ssl:`?)",
    "HTTP_REQUEST": "it speaks HTTP",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not believe our certificate",
    "UNEXPECTED_EOF_WHILE_READING": "it went away",
}


def uses_tls(conf: cfg.ConfigOpts) -> bool:
    """Whether Ryu's options ask for TLS.

    Raises cfg.Error for those of which Ryu would make something else, CertificateError for files that cannot be used.
    """
    files = (OPENFLOW.key, OPENFLOW.certificate, OPENFLOW.authorities)
    lacking = [name for name in files if not conf[name]]
    if lacking == list(files):
        if conf.ofp_ssl_listen_port:
            raise cfg.Error(f"ofp_ssl_listen_port is set and {', '.join(files)} are not: OpenFlow over TLS needs them")
        return False
    if lacking:
        raise cfg.Error(f"OpenFlow over TLS needs {', '.join(files)}; {' and '.join(lacking)} not set")
    if conf.ofp_tcp_listen_port or conf.ofp_switch_address_list:
        name = "ofp_tcp_listen_port" if conf.ofp_tcp_listen_port else "ofp_switch_address_list"
        raise cfg.Error(f"{name} is set: with {OPENFLOW.key} OpenFlow is spoken over TLS alone (ofp_ssl_listen_port)")
    load(conf[OPENFLOW.certificate], conf[OPENFLOW.key], conf[OPENFLOW.authorities], OPENFLOW)
    return True


class Told:
    """What was said of whom, so that the log has it once and not with each attempt.

    Of one host no more than `each` things an hour, whatever it makes up; it pushes out nothing of others.
    """

    def __init__(self, hosts: int = 1024, each: int = 64) -> None:
        self._hosts, self._each = hosts, each
        self._said: OrderedDict[str, dict[tuple[str, ...], float]] = OrderedDict()

    def news(self, host: str, *what: str) -> bool:
        now, site = time.monotonic(), _site(host)
        said = {each: when for each, when in self._said.pop(site, {}).items() if now - when < AGAIN}
        self._said[site] = said
        if len(self._said) > self._hosts:
            self._said.popitem(last=False)
        if what in said or len(said) > self._each:
            return False
        said[what] = now
        if len(said) > self._each:
            LOG.warning("too much is to be said of this address: the rest of this hour is left out", address=host)
            return False
        return True


TOLD = Told()


class Lines:
    """How many lines the log has because of a host: so many of each level in a minute."""

    def __init__(self, most: int = 1000, hosts: int = 1024) -> None:
        """`most` is for a host with hundreds of bridges; journald begins to drop at 20 times that."""
        self._most, self._hosts = most, hosts
        self._count: OrderedDict[tuple[str, int], tuple[float, int]] = OrderedDict()  # since when, how many

    def room(self, host: str, level: int) -> bool:
        """Whether one more may be written."""
        now, key = time.monotonic(), (_site(host), level)
        since, count = self._count.pop(key, (now, 0))
        if now - since >= MINUTE:
            since, count = now, 0
        self._count[key] = since, count + 1
        if len(self._count) > self._hosts:
            self._count.popitem(last=False)
        if count == self._most:
            LOG.warning("too many lines because of this address: the rest of this minute is left out", address=host)
        return count < self._most


LINES = Lines()


def _nothing() -> None: ...


class Connection:
    """A switch's connection, with what Ryu's `Datapath` calls of a socket.

    A socket of Python's ssl itself would not do: its `shutdown` ends encryption and goes on in plain text, while Ryu
    reads on; and any SSLError is a timeout to Ryu, which reads again at once, for ever.
    """

    def __init__(self, sock: Any, address: Any) -> None:
        self._socket = sock
        self._patience: float | None = None  # seconds that sending may take
        self.host: str = address[0]
        self.since = time.monotonic()
        self.identity: Identity | None = None  # of a peer that showed a certificate
        self.known: Callable[[], None] = _nothing  # to be called when it has said who it is, and may stay
        self.ended: str | None = None  # why; None while it goes on

    def secure(self, context: ssl.SSLContext) -> None:
        """The handshake of TLS.  Raises OSError, or ValueError for a certificate that cannot be read."""
        self._socket.settimeout(IDENTIFY)
        self._socket = GreenSSLSocket(self._socket, server_side=True, do_handshake_on_connect=False, _context=context)
        self._socket.do_handshake()
        self.identity = Identity.of(self._socket.getpeercert(binary_form=True))

    def setsockopt(self, *option: Any) -> None:
        self._socket.setsockopt(*option)

    def settimeout(self, seconds: float) -> None:
        """For sending alone: who waits to be told something waits as long as the connection lasts (`echo.py`)."""
        self._patience = seconds
        self._socket.settimeout(None)

    def recv(self, size: int) -> bytes:
        """Whatever has come; Ryu takes more than it asked for."""
        try:
            data: bytes = self._socket.recv(max(size, AT_ONCE))
        except TimeoutError:
            raise
        except ssl.SSLError as error:
            self.ends(f"the connection broke: {error.reason}")
            raise ConnectionAbortedError(f"{error.reason}") from None
        except OSError as error:
            self.ends(f"the connection broke: {error.strerror}")
            raise
        if not data:
            self.ends("the switch closed the connection")
        return data

    def sendall(self, data: bytes) -> None:
        self._socket.settimeout(self._patience)
        try:
            self._socket.sendall(data)
        except OSError as error:
            self.ends(f"the connection broke: {error.strerror or error}")
            raise
        finally:
            self._socket.settimeout(None)

    def ends(self, why: str) -> None:
        """The first reason is the one: what comes later comes of it."""
        self.ended = self.ended or why

    def shutdown(self, _: int = socket.SHUT_RDWR) -> None:
        """Ends the connection both ways: whoever waits for it wakes.  Raises OSError when it has ended."""
        if isinstance(self._socket, GreenSSLSocket):
            _socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        else:
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


class Strangers:
    """Connections that have not said who they are, the oldest first, by where they come from."""

    def __init__(self) -> None:
        self._from: dict[str, OrderedDict[Connection, None]] = {}
        self._count = 0

    def enter(self, connection: Connection) -> None:
        self._from.setdefault(_site(connection.host), OrderedDict())[connection] = None
        self._count += 1

    def leave(self, connection: Connection) -> None:
        """Also of one that has left."""
        those = self._from.get(_site(connection.host), OrderedDict())
        if connection in those:
            del those[connection]
            self._count -= 1
            if not those:
                del self._from[_site(connection.host)]

    @property
    def full(self) -> bool:
        return self._count >= STRANGERS

    def overdue(self, now: float) -> list[Connection]:
        """Those that have no right to their place: all that took too long, and one when there is no room.

        That one is the oldest of where most come from: one host that opens many connections takes the place of its
        own.  It keeps the place for a moment, since honest ones in a storm are done sooner.
        """
        found = [each for those in self._from.values() for each in those if now - each.since >= IDENTIFY]
        if self.full and not found:
            most = max(self._from, key=lambda site: len(self._from[site]))
            oldest = next(iter(self._from[most]))
            found = [oldest] if now - oldest.since >= PATIENCE else []
        return found


def _site(host: str) -> str:
    """Whom an address belongs to: of IPv6 a /64."""
    if ":" not in host:
        return host
    address = IPv6Address(host.partition("%")[0])
    return str(address.ipv4_mapped or IPv6Network((address, 64), strict=False))


LISTENERS: list[Listener] = []  # that listen


class Listener:
    """Replaces Ryu's StreamServer.

    Ryu's pops its TLS arguments while serving the first connection, so that only one TLS switch ever connects; it
    listens with a backlog of 50, so that a storm of reconnects is paced by SYN retransmission; it stops for good at
    the first failed accept; and it lets a second process take half of the switches (SO_REUSEPORT).
    """

    def __init__(
        self,
        listen_info: tuple[str, int],
        handle: Callable[[Any, Any], None],
        *,
        fail: Callable[[str], None],
        **tls: Any,
    ) -> None:
        """`fail` ends the program: Ryu would log what its service's thread raises, and go on without a listener."""
        family = socket.AF_INET6 if ip.valid_ipv6(listen_info[0]) else socket.AF_INET
        try:
            self._certificate = Certificate(tls["certfile"], tls["keyfile"], tls["ca_certs"], OPENFLOW) if tls else None
            self._server = eventlet.listen(listen_info, family=family, backlog=BACKLOG, reuse_port=False)
        except (OSError, CertificateError) as error:
            where = f"{listen_info[0]} port {listen_info[1]}"
            fail(
                str(error) if isinstance(error, CertificateError) else f"cannot listen for switches on {where}: {error}"
            )
            raise hub.TaskExit from None
        self._handle = handle
        self._strangers = Strangers()
        self._open: set[Connection] = set()
        self.address: tuple[str, int] = self._server.getsockname()[:2]
        LISTENERS.append(self)
        host, port = self.address
        LOG.info("listening for switches", host=host, port=port, tls=bool(tls))

    @property
    def count(self) -> int:
        """Connections that are open."""
        return len(self._open)

    def close(self) -> None:
        """Nobody new is let in."""
        self._server.close()

    def serve_forever(self) -> None:
        eventlet.spawn_n(self._look)
        failing = False  # said once
        accepted = 0
        while True:
            while self._strangers.full and not self._end_overdue():
                eventlet.sleep(0.05)
            try:
                sock, address = self._server.accept()
            except OSError as error:
                if error.errno not in _RETRY_ACCEPT:
                    raise
                if not failing:
                    LOG.error("a switch cannot be accepted", error=error)
                failing = True
                eventlet.sleep(0.5)
                continue
            failing = False
            connection = Connection(sock, address)
            self._strangers.enter(connection)
            eventlet.spawn_n(self._serve, connection, address)
            accepted += 1
            if accepted % TOGETHER == 0:
                eventlet.sleep(0)  # those that were accepted go on, however many wait

    def _serve(self, connection: Connection, address: Any) -> None:
        connection.known = lambda: self._strangers.leave(connection)
        self._open.add(connection)
        try:
            if self._certificate is not None:
                self._secure(connection, self._certificate)
            self._handle(connection, address)
        except OSError as error:
            LOG.debug("connection ended", address=connection.host, error=error)
        finally:
            self._open.discard(connection)
            self._strangers.leave(connection)
            connection.known = _nothing
            connection.close()

    def _secure(self, connection: Connection, certificate: Certificate) -> None:
        """Raises OSError when there is no handshake, and says why."""
        try:
            connection.secure(certificate.context)
        except (OSError, ValueError) as error:
            why = (
                getattr(error, "verify_message", None) or _HINTS.get(getattr(error, "reason", None) or "") or str(error)
            )
            if TOLD.news(connection.host, why):
                LOG.warning("TLS handshake failed", address=connection.host, error=why)
            raise ConnectionAbortedError(why) from None

    def _look(self) -> None:
        """Now and then: ends strangers that take too long, and switches whose certificates were revoked."""
        context = None
        while True:
            try:
                self._end_overdue()
                if self._certificate is not None and self._certificate.context is not context:
                    context = self._certificate.context
                    self._end_revoked(self._certificate)
            except Exception:
                LOG.exception("looking after connections failed")
            eventlet.sleep(LOOK)

    def _end_overdue(self) -> bool:
        """Whether there were any."""
        overdue = self._strangers.overdue(time.monotonic())
        for connection in overdue:
            self._strangers.leave(connection)
            if TOLD.news(connection.host, "overdue"):
                LOG.warning("a stranger did not say which switch it is: disconnected", address=connection.host)
            _end(connection)
        return bool(overdue)

    def _end_revoked(self, certificate: Certificate) -> None:
        lists = certificate.revoked()
        for connection in list(self._open) if lists else ():
            if connection.identity is not None and connection.identity.is_revoked(lists):
                LOG.warning(
                    "a certificate was revoked: disconnected", address=connection.host, certificate=connection.identity
                )
                connection.ends("its certificate was revoked")
                _end(connection)


def _end(connection: Connection) -> None:
    try:
        connection.shutdown()
    except OSError:
        pass  # it has ended by itself
