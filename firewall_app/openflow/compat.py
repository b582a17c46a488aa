"""What Ryu 4.34 needs to serve us on a current Python, each with its reason.  Import before its services start.

Ryu is unmaintained; everything that we change in it is here.  (That it starts at all is `firewall_app_startup.py`.)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import eventlet
from ryu import cfg
from ryu.controller import controller
from ryu.controller.handler import DEAD_DISPATCHER
from ryu.ofproto import ofproto_parser

from .. import logs
from . import wire
from .echo import ECHOES
from .listener import TOLD, Connection, Listener

LOG = logs.get(__name__)
_MAIN = eventlet.getcurrent()  # who waits for Ryu's services; this module is imported there

# Message types that a session reads itself, in bytes (OpenFlow 1.4.0, 7.1): error, experimenter, configuration reply,
# port status, multipart reply, barrier reply, role reply, role status, bundle control.
_OURS = (1, 4, 8, 12, 19, 21, 25, 30, 33)
HELLO, ECHO_REQUEST, ECHO_REPLY, FEATURES_REPLY, MULTIPART = 0, 2, 3, 6, 19
TLS_HANDSHAKE = 0x16  # the first byte of who speaks TLS (RFC 8446, 5.1), where OpenFlow has its version
LONGEST_HELLO = 1024  # bytes; honest ones have 8 or 16, and Ryu takes 0.1 s for the longest that there are
SLICE = 0.005  # seconds for which one switch's messages are taken without letting others have their turn


def end(reason: BaseException) -> None:
    """Ends Ryu's main with an exception of it; Ryu closes its applications on the way out."""
    eventlet.kill(_MAIN, reason)


def _handler(original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """What Ryu does with a connection: of those that it opens itself (`ofp_switch_address_list`), too, one of ours."""

    def handle(sock: Any, address: Any) -> None:
        original(sock if isinstance(sock, Connection) else Connection(sock, address), address)

    return handle


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
            if lies:
                return None
            if kind == ECHO_REQUEST:
                datapath.send(wire.echo_reply(version, xid, bytes(data[8:])))
            elif kind == ECHO_REPLY:
                datapath.acknowledge_echo_reply(xid)
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
            if version == TLS_HANDSHAKE:
                problem = "it speaks TLS, and this port does not (`ssl:` for `tcp:`?)"
            elif kind in (HELLO, MULTIPART):
                problem = "a message that does not belong to a handshake, or is malformed"
            else:
                return None
        except Exception as error:  # noqa: BLE001,RUF100 - whatever a stranger sends ends the stranger's connection
            problem = f"{type(error).__name__}: {error}"
        if TOLD.news(datapath.address[0], problem.partition(":")[0]):
            LOG.warning("a switch is disconnected", address=datapath.address[0], error=problem)
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


def _serve(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """Has a session end with its connection, whatever becomes of Ryu's event that says so.

    Ryu kills the thread that sends echo requests when a connection ends.  That thread may be the one that has just
    declared the connection dead, and be waiting for room in the queue of events, which a hundred switches that go at
    once fill: the event is lost, and nobody says it a second time.
    """

    def serve(datapath: Any) -> None:
        try:
            original(datapath)
        finally:
            link = getattr(datapath, "firewall_link", None)
            if link is not None:
                link.close()

    return serve


def _is_news(record: logging.LogRecord) -> bool:
    """Whether the log has room for what Ryu says of a connection; the address is what it names last."""
    what = record.args if isinstance(record.args, tuple) else ()
    if not what or not isinstance(what[-1], tuple):
        return True
    return TOLD.news(str(what[-1][0]), record.msg, *map(str, what[:-1]))


def _asked_for_echoes(datapath: Any) -> None:
    """A method of Ryu's datapaths: all of them share one thread that asks."""
    ECHOES.enter(datapath)


def install() -> None:
    """Makes the changes; once."""
    if isinstance(controller.StreamServer, partial):
        return
    for name in ("OFPHandler", controller.LOG.name):
        logging.getLogger(name).addFilter(_is_news)
    controller.StreamServer = partial(Listener, fail=lambda why: end(SystemExit(f"firewall: {why}")))
    controller.datapath_connection_factory = _handler(controller.datapath_connection_factory)
    ofproto_parser.msg = _receive(ofproto_parser.msg)
    controller.Datapath.serve = _serve(controller.Datapath.serve)
    controller.Datapath._echo_request_loop = _asked_for_echoes
    # Ryu sends no echo requests unless told to, and so never notices a switch that is gone without a word.
    cfg.CONF.set_default("echo_request_interval", 5.0)
    cfg.CONF.set_default("maximum_unreplied_echo_requests", 3)
