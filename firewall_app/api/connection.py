"""One HTTP connection: eventlet's protocol, and what it lacks.

A client has `http_timeout` seconds for the handshake of TLS, as many for a whole request head, for the body, and to
take the answer, however it spreads its bytes; an open connection without a request is closed after the same time, or
when another client needs its place.  A request is read as RFC 9112 has it or refused: where two readers could differ
on where it ends, a second one can hide in it.
"""

from __future__ import annotations

import json
import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import eventlet
from eventlet import wsgi
from eventlet.green import ssl

from .. import logs
from ..tls import Certificate

LOG = logs.get(__name__)

LONGEST_LINE = 8192  # of a chunk's size or a trailer
MOST_TRAILERS = 100
LONGEST_LOGGED = 200  # bytes of what a stranger has sent
MOST_DISCARDED = 16 << 20  # bytes that are read for nothing, so that a client that still sends reads our answer
LINGER = 5  # seconds, for the same

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(_TOKEN + rb" [!-~\x80-\xff]+ HTTP/[0-9]\.[0-9]\r?\n")
FIELD = re.compile(_TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r?\n")
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\0\r\n]*)?\r?\n")
ABSOLUTE = re.compile(r"https?://([^/?#@]+)", re.IGNORECASE)
BLANK = (b"\r\n", b"\n")


class Room:
    """Which connections wait for their clients, the longest first: that one gives way when there is no more room."""

    def __init__(self) -> None:
        self._waiting: dict[Any, None] = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        thread = eventlet.getcurrent()
        self._waiting[thread] = None
        try:
            yield
        finally:
            self._waiting.pop(thread, None)

    def give_way(self) -> None:
        """Ends one connection, if any waits."""
        thread = next(iter(self._waiting), None)
        if thread is not None:
            del self._waiting[thread]
            eventlet.kill(thread, TimeoutError("another client needs the place"))


class Connections:
    """Serves each connection; eventlet's server calls it in a green thread for each."""

    def __init__(self, certificate: Certificate | None) -> None:
        self.room = Room()
        self._certificate = certificate

    def __call__(self, state: list[Any], server: wsgi.Server) -> None:
        """`state` is eventlet's: address, socket, and whether there is a request or the server closes."""
        try:
            kind = Protocol if self._certificate is None else self._secure(state, self._certificate.context, server)
            kind(state, server, self.room)
        except OSError as error:
            LOG.debug("HTTP connection ended", address=state[0][0], error=error)
        except (ValueError, AttributeError):
            # Closing, eventlet takes TLS away from sockets while their threads still use it.
            if state[2] != wsgi.STATE_CLOSE:
                raise

    def _secure(self, state: list[Any], context: Any, server: wsgi.Server) -> type[Protocol]:
        """The handshake."""
        deadline = Deadline(server.socket_timeout)
        with self.room.waiting():
            first = deadline.run(state[1].recv, 1, socket.MSG_PEEK)
            if first.isalpha():  # no handshake begins with a letter, every request does
                return _WithoutTls
            secured = ssl.SSLContext.wrap_socket(context, state[1], server_side=True, do_handshake_on_connect=False)
            state[1] = secured
            deadline.run(secured.do_handshake)
        return Protocol


class Deadline:
    """Fails what runs inside it once a moment has passed."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def run(self, work: Any, *args: Any) -> Any:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the client is too slow")
        with eventlet.Timeout(left, TimeoutError("the client is too slow")):
            return work(*args)


class _HeadError(ValueError):
    """A line of a request's head that is none."""


class _Head:
    """The lines of a request's head.  One that is cut off is no head: what is missing might forbid the request."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readline(self, size: int = -1) -> bytes:
        line: bytes = self._stream.readline(size)
        if line not in BLANK and not FIELD.fullmatch(line):
            raise _HeadError(repr(line[:80]))
        return line


class _Input(wsgi.Input):
    """A request's body, under a deadline that begins with its first byte asked for."""

    _deadline: Deadline | None = None
    _ended = False  # the last chunk has been read, and what follows it
    chunk_length: int
    seconds: float = 0
    room: Room

    def read(self, length: int | None = None) -> bytes:
        if self._deadline is None:
            self._deadline = Deadline(self.seconds)
        try:
            data: bytes = self._deadline.run(super().read, length)
        except BaseException:
            self._deadline = Deadline(0)  # what was given up is not begun again, to be read for nothing
            raise
        return data

    def discard(self, buffer_size: int = 16 << 10) -> None:
        left = MOST_DISCARDED
        with self.room.waiting():
            while left > 0:
                data = self.read(buffer_size)
                if not data:
                    return
                left -= len(data)
        raise OSError("the rest of the body is too long to wait for")

    def _chunked_read(self, rfile: Any, length: int | None = None, use_readline: bool = False) -> bytes:  # noqa: ARG002
        """Replaces eventlet's, which takes `0x1_0` for a size and skips what is left of a chunk."""
        if self.should_send_hundred_continue:
            self.send_hundred_continue_response()
            self.is_hundred_continue_response_sent = True
        found = bytearray()
        while self.chunk_length != 0 and (length is None or len(found) < length):
            if self.chunk_length < 0:
                size = CHUNK.fullmatch(rfile.readline(LONGEST_LINE))
                if not size:
                    raise wsgi.ChunkReadError("the size of a chunk is no number")
                self.chunk_length, self.position = int(size[1], 16), 0
                continue
            left = self.chunk_length - self.position
            data = rfile.read(left if length is None else min(left, length - len(found)))
            if not data:
                raise OSError("it ends in the middle of a chunk")
            found += data
            self.position += len(data)
            if self.position == self.chunk_length:
                if rfile.readline(LONGEST_LINE) not in BLANK:
                    raise wsgi.ChunkReadError("a chunk is longer than its size")
                self.chunk_length = -1
        if self.chunk_length == 0 and not self._ended:
            self._ended = True
            self._discard_trailers(rfile)
        return bytes(found)

    def _discard_trailers(self, rfile: Any) -> None:
        for _ in range(MOST_TRAILERS):
            line = rfile.readline(LONGEST_LINE)
            if line in BLANK:
                return
            if not FIELD.fullmatch(line):
                break
        raise wsgi.ChunkReadError("what follows the last chunk is no end")


class _Answer:
    """The way to the client, under a deadline for each answer."""

    def __init__(self, stream: Any, connection: Any, seconds: float, room: Room) -> None:
        self._stream = stream
        self._connection = connection
        self._seconds = seconds
        self._room = room

    def writelines(self, lines: Any) -> None:
        self._run(self._stream.writelines, lines)

    def flush(self) -> None:
        self._run(self._stream.flush)

    def _run(self, work: Any, *args: Any) -> None:
        try:
            with self._room.waiting():
                Deadline(self._seconds).run(work, *args)
        except BaseException:
            # What is left in the buffer would be waited for again when it is closed.
            wsgi.greenio.shutdown_safe(self._connection)
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Protocol(wsgi.HttpProtocol):
    """Requests and answers."""

    wfile: Any
    rfile: Any
    path: str
    raw_requestline: bytes
    conn_state: list[Any]
    _last = False
    _linger = False  # an answer has been sent that ends the connection

    def __init__(self, state: list[Any], server: wsgi.Server, room: Room) -> None:
        self._room = room
        super().__init__(state, server)  # serves the connection to its end

    @property
    def close_connection(self) -> bool:
        """Whether this is the last answer; also once the server ends, so that the client is told so."""
        return self._last or self.conn_state[2] == wsgi.STATE_CLOSE

    @close_connection.setter
    def close_connection(self, last: object) -> None:
        self._last = bool(last)

    def setup(self) -> None:
        super().setup()
        self.wfile = _Answer(self.wfile, self.connection, self.server.socket_timeout, self._room)

    def _read_request_line(self) -> Any:
        limit = self.server.url_length_limit
        eventlet.sleep(0)  # a client that is quick enough never lets its thread wait, and would keep out all others

        def read() -> bytes:
            line: bytes = self.rfile.readline(limit)
            return self.rfile.readline(limit) if line in BLANK else line  # RFC 9112, 2.2: one may come before

        try:
            with self._room.waiting():
                line: bytes = Deadline(self.server.socket_timeout).run(read)
        except ConnectionError:
            return b""
        if len(line) >= limit:
            self.raw_requestline = line
            self.send_error(414, f"the request line is longer than {limit} bytes")
            return b""
        return line

    def parse_request(self) -> bool:
        self.rfile = _Head(self.rfile)  # eventlet puts the stream back
        if not REQUEST_LINE.fullmatch(self.raw_requestline):
            return self._refuse(400, "this is no request of HTTP/1.1")
        try:
            with self._room.waiting():
                if not Deadline(self.server.socket_timeout).run(super().parse_request):
                    return False
        except _HeadError as error:
            return self._refuse(400, f"a line of the head is no header field: {error}", "a line is no header field")
        except (wsgi.HeaderLineTooLong, wsgi.HeadersTooLarge):
            return self._refuse(431, "the request's head is too long")
        return self._whole() and self._named()

    def _whole(self) -> bool:
        """Whether it is beyond doubt where the request ends."""
        lengths = self.headers.get_all("Content-Length", ())
        codings = [coding.strip(" \t").lower() for coding in self.headers.get_all("Transfer-Encoding", ())]
        if codings and (lengths or self.request_version < "HTTP/1.1"):
            return self._refuse(400, "Transfer-Encoding goes neither with a Content-Length nor with HTTP/1.0")
        if codings not in ([], ["chunked"]):
            return self._refuse(501, "only chunked is understood as a Transfer-Encoding")
        if len(lengths) > 1 or not all(length.isascii() and length.isdigit() for length in lengths):
            return self._refuse(400, "Content-Length is no number")
        return True

    def _named(self) -> bool:
        """Whether it says to whom it goes; a whole URL does, too (RFC 9112, 3.2)."""
        hosts = self.headers.get_all("Host", ())
        if len(hosts) > 1 or (not hosts and self.request_version == "HTTP/1.1"):
            return self._refuse(400, "there must be one Host")
        if absolute := ABSOLUTE.match(self.path):
            rest = self.path[absolute.end() :]
            self.path = rest if rest.startswith("/") else f"/{rest}"
            del self.headers["Host"]
            self.headers["Host"] = absolute[1]
        return True

    def _refuse(self, code: int, message: str, logged: str | None = None) -> bool:
        self.send_error(code, message, logged)
        return False

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        environ["CONTENT_TYPE"] = self.headers.get("content-type", "")  # eventlet says text/plain for none
        made = environ["wsgi.input"]
        body = _Input(self.rfile, made.content_length, self.connection, made.wfile, made.wfile_line, made.chunked_input)
        body.seconds, body.room = self.server.socket_timeout, self._room
        environ["wsgi.input"] = environ["eventlet.input"] = body
        return environ

    def handle_one_response(self) -> None:
        super().handle_one_response()
        self._linger = bool(self.close_connection)

    def finish(self) -> None:
        try:
            self.wfile.flush()
            self._hang_up()
        except (OSError, ValueError):
            pass
        super().finish()

    def _hang_up(self) -> None:
        """Says that no more comes.  Closing while the client still sends would reset the connection, and our answer."""
        connection = self.connection
        if isinstance(connection, ssl.GreenSSLSocket):
            connection.setblocking(False)  # TLS has a goodbye of its own; the client's is not waited for
            try:
                connection.unwrap()
            except OSError:
                pass
            connection.setblocking(True)
        if not self._linger:
            return
        connection.shutdown(socket.SHUT_WR)
        left, deadline = MOST_DISCARDED, Deadline(min(LINGER, self.server.socket_timeout))
        with self._room.waiting():
            while left > 0:
                try:
                    data = deadline.run(connection.recv, 1 << 16)
                except BlockingIOError:
                    continue  # once its TLS is shut, a green socket waits for data and raises this all the same
                if not data:
                    return
                left -= len(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is no HTTP is answered in the shape of all our errors, too.

        `explain`: what the log says instead of the message, which may quote a header, and so a secret.
        """
        self.close_connection = self._linger = True
        text, request_id = message or "bad request", str(uuid.uuid4())
        # A query may hold secrets, and the log has none of any request.
        line = self.raw_requestline.partition(b"?")[0].rstrip()[:LONGEST_LOGGED].decode("latin-1")
        why = (explain or text)[:LONGEST_LOGGED]
        address = self.client_address[0]
        LOG.info("not a request", request=request_id, line=line, address=address, status=int(code), error=why)
        fault = {
            "id": "bad_request",
            "message": text,
            "request_id": request_id,
            "errors": [{"at": "", "problem": text}],
        }
        body = json.dumps(fault).encode() + b"\n"
        head = (
            f"HTTP/1.1 {int(code)} {HTTPStatus(code).phrase}\r\nContent-Type: application/json\r\n"
            f"x-request-id: {request_id}\r\nConnection: close\r\n"
        )
        self.wfile.writelines([head.encode(), f"Content-Length: {len(body)}\r\n\r\n".encode(), body])
        self.wfile.flush()


class _WithoutTls(Protocol):
    """Whoever speaks HTTP where HTTPS is spoken is told so."""

    def parse_request(self) -> bool:
        return super().parse_request() and self._refuse(400, "this server speaks HTTPS: the URL begins with https://")
