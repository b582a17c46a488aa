"""What Ryu 4.34 needs to serve us on a current Python, each with its reason.  Import before its services start.

Ryu is unmaintained; everything that we change in it is here.  (That it starts at all is `firewall_app_startup.py`.)
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl as _stdlib_ssl
import time
from collections.abc import Callable
from typing import Any

import eventlet
from eventlet.green import ssl
from ryu import cfg
from ryu.controller import controller
from ryu.controller.handler import DEAD_DISPATCHER
from ryu.lib import hub, ip
from ryu.ofproto import ofproto_parser

from . import wire

LOG = logging.getLogger(__name__)
_MAIN = eventlet.getcurrent()  # who waits for Ryu's services; this module is imported there
BACKLOG = 4096  # switches that may wait to be accepted: a thousand hypervisors come back at once after an outage
HANDSHAKE_TIMEOUT = 10.0  # seconds
_RETRY_ACCEPT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED}

# Message types that a session reads itself, in bytes (OpenFlow 1.4.0, 7.1): error, experimenter, configuration reply,
# port status, multipart reply, barrier reply, role reply, bundle control.
_OURS = (1, 4, 8, 12, 19, 21, 25, 33)
HELLO, ECHO_REQUEST, ECHO_REPLY, FEATURES_REPLY, MULTIPART = 0, 2, 3, 6, 19
LONGEST_HELLO = (
    1024  # bytes; honest ones have 8 or 16, and Ryu takes a tenth of a second for the longest that there are
)
SLICE = 0.005  # seconds for which one switch's messages are taken without letting others have their turn


def end(reason: BaseException) -> None:
    """Ends Ryu's main with an exception of it; Ryu closes its applications on the way out."""
    eventlet.kill(_MAIN, reason)


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
        backlog: int | None = None,  # noqa: ARG002 - Ryu's signature
        spawn: str = "default",  # noqa: ARG002
        **tls: Any,
    ) -> None:
        family = socket.AF_INET6 if ip.valid_ipv6(listen_info[0]) else socket.AF_INET
        try:
            self._server = eventlet.listen(listen_info, family=family, backlog=BACKLOG, reuse_port=False)
        except OSError as error:
            # Ryu would log what its service's thread raises, and go on without a listener.
            where = f"{listen_info[0]} port {listen_info[1]}"
            end(SystemExit(f"firewall: cannot listen for switches on {where}: {error}"))
            raise hub.TaskExit from None
        self._handle = handle
        self._context = _context(tls) if tls else None
        LOG.info("listening for switches on %s port %d", *self._server.getsockname()[:2])

    def serve_forever(self) -> None:
        while True:
            try:
                sock, address = self._server.accept()
            except OSError as error:
                if error.errno not in _RETRY_ACCEPT:
                    raise
                LOG.error("cannot accept a switch: %s", error)
                eventlet.sleep(0.5)
                continue
            eventlet.spawn_n(self._serve, sock, address)

    def _serve(self, sock: Any, address: Any) -> None:
        if self._context is not None:
            try:
                sock.settimeout(HANDSHAKE_TIMEOUT)
                sock = self._context.wrap_socket(sock, server_side=True)
            except (OSError, eventlet.Timeout) as error:
                LOG.warning("TLS handshake with %s failed: %s", address[0], error)
                sock.close()
                return
        self._handle(sock, address)


def _context(tls: dict[str, Any]) -> Any:
    context = ssl.SSLContext(_stdlib_ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _stdlib_ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls["certfile"], tls["keyfile"])
    if tls.get("ca_certs"):
        context.load_verify_locations(tls["ca_certs"])
        context.verify_mode = _stdlib_ssl.CERT_REQUIRED
    return context


def _receive(original: Callable[..., Any]) -> Callable[..., Any]:
    """What becomes of a message: replaces Ryu's parsing of all of them.

    Once a switch has a session, the session gets the bytes of what it understands: Ryu takes 40 to 99 us to parse one
    flow of a statistics reply, and can read none of what we need from it.  Before, only the messages of the handshake
    are Ryu's to read, and only when they are well-formed: its parsers never end on an element of length 0.
    """

    def parse(datapath: Any, version: int, kind: int, length: int, xid: int, data: Any) -> Any:
        _give_way(datapath)
        link = getattr(datapath, "firewall_link", None)
        if link is not None:
            lies = version not in (wire.OF13, wire.OF14) or int.from_bytes(data[2:4], "big") != len(data)
            if kind in _OURS or lies:
                link.received(bytes(data))
            if lies or kind not in (ECHO_REQUEST, ECHO_REPLY):
                return None
        if datapath.state == DEAD_DISPATCHER:
            return None
        try:
            head = bytes(data[:length])
            if kind == HELLO and _well_formed_hello(head):
                return original(datapath, version, kind, length, xid, data)
            if kind in (ECHO_REQUEST, ECHO_REPLY, FEATURES_REPLY) and version in (wire.OF13, wire.OF14):
                return original(datapath, version, kind, length, xid, data)
            if kind == MULTIPART and isinstance(wire.decode(head), wire.PortDescReply):
                # All that Ryu takes from it is that the handshake is over; the session asks for the ports itself.
                empty = bytearray(head[:2] + (16).to_bytes(2, "big") + head[4:16])
                return original(datapath, version, kind, 16, xid, empty)
            if kind not in (HELLO, MULTIPART):
                return None
            problem = "a message that does not belong to a handshake, or is malformed"
        except Exception as error:  # noqa: BLE001,RUF100 - whatever a stranger sends ends the stranger's connection
            problem = f"{type(error).__name__}: {error}"
        LOG.warning("a switch at %s is disconnected: %s", datapath.address[0], problem)
        # Not here: this is the thread that reads, and closing may have to wait.
        eventlet.spawn_n(datapath.close)
        return None

    return parse


def _give_way(datapath: Any) -> None:
    """Called with each message.  Ryu goes on for 2048 of them, which one switch can make last for minutes."""
    if time.monotonic() - getattr(datapath, "firewall_turn", 0.0) > SLICE:
        eventlet.sleep(0)
        datapath.firewall_turn = time.monotonic()


def _well_formed_hello(message: bytes) -> bool:
    """Whether the elements of a HELLO fill it without a gap (OpenFlow 1.3.5, 7.5.1)."""
    if len(message) > LONGEST_HELLO:
        return False
    rest = message[8:]
    while rest:
        size = int.from_bytes(rest[2:4], "big") if len(rest) >= 4 else 0
        if size < 4 or size > len(rest):
            return False
        rest = rest[(size + 7) // 8 * 8 :]
    return True


def install() -> None:
    """Makes the changes; once."""
    if controller.StreamServer is Listener:
        return
    controller.StreamServer = Listener
    ofproto_parser.msg = _receive(ofproto_parser.msg)
    # Ryu sends no echo requests unless told to, and so never notices a switch that is gone without a word.
    cfg.CONF.set_default("echo_request_interval", 5.0)
    cfg.CONF.set_default("maximum_unreplied_echo_requests", 3)
