"""The program inside each machine of the lab: probes, answers, streams and captures, on request.

Requests and answers are lines of JSON, {"id", "command", "arguments"} and {"id", "result"} or {"id", "error"};
answers come as they are ready.  It stays, so a probe costs milliseconds and not a process.  It is run by its path and
needs the standard library alone; it knows nothing of the lab around it.

An outcome is "open" (the far side answered), "refused" (it said no: TCP reset or ICMP port unreachable),
"unreachable" (something said there is no way) or "timeout" (silence, which is what a firewall's drop looks like).
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

OPEN, REFUSED, UNREACHABLE, TIMEOUT = "open", "refused", "unreachable", "timeout"
ERRORS = {
    errno.ECONNREFUSED: REFUSED,
    errno.EHOSTUNREACH: UNREACHABLE,
    errno.ENETUNREACH: UNREACHABLE,
    errno.ETIMEDOUT: TIMEOUT,
}

SOL_PACKET, PACKET_AUXDATA, PACKET_OUTGOING = 263, 8, 4
TP_STATUS_VLAN_VALID = 0x10
ETH_P_ALL = 3
ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
# IP_PKTINFO (8) got its name in Python 3.14.
PKTINFO = {
    socket.AF_INET: (socket.IPPROTO_IP, 8),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO),
}
ECHO_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
ECHO_REPLY = {socket.AF_INET: 0, socket.AF_INET6: 129}
# A connection that is closed with this is reset and forgotten, so its port can be used again at once.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def resolve(address: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Family and socket address of a numeric address; `fe80::1%eth0` has its interface."""
    found = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    return found[0][0], found[0][4]


def make_socket(family: int, kind: int, proto: int = 0, bind: tuple[str, int] | None = None) -> socket.socket:
    made = socket.socket(family, kind | socket.SOCK_NONBLOCK, proto)
    if family == socket.AF_INET6 and kind != socket.SOCK_RAW:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if bind is not None:
        try:
            made.bind(resolve(*bind)[1])
        except OSError:
            made.close()
            raise
    return made


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    folded: int = total + (total >> 16)
    return ~folded & 0xFFFF


async def outcome(probe: Awaitable[None], timeout: float) -> str:
    try:
        await asyncio.wait_for(probe, timeout)
    except TimeoutError:
        return TIMEOUT
    except OSError as problem:
        if problem.errno not in ERRORS:
            raise
        return ERRORS[problem.errno]
    return OPEN


@dataclass
class Session:
    """A TCP connection that stays; every line said has a number, so that a late echo is known as such."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    said: int = 0

    async def say(self, padding: int = 0) -> None:
        self.said += 1
        line = b"line %d%s\n" % (self.said, b"." * padding)
        self.writer.write(line)
        while (heard := await self.reader.readline()) != line:
            if not heard:
                raise ConnectionResetError(errno.ECONNRESET, "closed by the far side")


@dataclass
class Counter:
    """Counts what arrives at a UDP port; times are CLOCK_MONOTONIC, the same in all machines of the lab."""

    socket: socket.socket
    packets: int = 0
    first: float | None = None
    last: float | None = None

    def receive(self) -> None:
        try:
            while True:
                self.socket.recv(65536)
                self.last = time.monotonic()
                self.first = self.first or self.last
                self.packets += 1
        except BlockingIOError:
            pass
        except OSError:
            pass  # an ICMP error for something sent before; nothing was received


@dataclass
class Capture:
    """Frames that came in through an interface, as the wire had them, VLAN tag included."""

    socket: socket.socket
    ethertype: int | None
    src: bytes  # empty: any
    dst: bytes
    contains: bytes
    outgoing: bool
    frames: list[str] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def receive(self) -> None:
        try:
            while True:
                frame, extra, _, address = self.socket.recvmsg(65536, 256)
                if address[2] == PACKET_OUTGOING and not self.outgoing:
                    continue
                for level, kind, data in extra:
                    if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                        status, _, _, _, _, tci, tpid = struct.unpack("IIIHHHH", data[:20])
                        if status & TP_STATUS_VLAN_VALID:  # the kernel took the tag out; put it back
                            frame = frame[:12] + struct.pack("!HH", tpid or 0x8100, tci) + frame[12:]
                if self.wants(frame):
                    self.frames.append(frame.hex())
                    self.arrived.set()
        except BlockingIOError:
            pass

    def wants(self, frame: bytes) -> bool:
        """`ethertype` is that of the frame, or of what is behind its VLAN tag."""
        kinds = {int.from_bytes(frame[12:14], "big")}
        if kinds & {0x8100, 0x88A8}:
            kinds.add(int.from_bytes(frame[16:18], "big"))
        return (
            (self.ethertype is None or self.ethertype in kinds)
            and (not self.dst or frame[:6] == self.dst)
            and (not self.src or frame[6:12] == self.src)
            and self.contains in frame
        )


class Agent:
    """The commands.  `do_NAME` answers the command NAME; its parameters are the request's arguments."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.listeners: dict[tuple[str, int, int], Any] = {}
        self.listening = asyncio.Lock()
        self.sessions: dict[str, Session] = {}
        self.counters: dict[int, Counter] = {}
        self.captures: dict[str, Capture] = {}
        self.streams: dict[str, asyncio.Event] = {}

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            command = getattr(self, f"do_{request['command']}", None)
            if command is None:
                raise ValueError("no such command")
            return {"id": request["id"], "result": await command(**request["arguments"])}
        except Exception as problem:  # whatever it is, the asker must hear of it
            return {"id": request["id"], "error": f"{request['command']}: {type(problem).__name__}: {problem}"}

    # --- answering ---

    async def do_listen(self, tcp: list[int] = [], udp: list[int] = []) -> None:  # noqa: B006 - only read
        """Echo lines (TCP) and datagrams (UDP) on ports, IPv4 and IPv6; ports already open stay open."""
        async with self.listening:  # a second request for the same port must find it open, not half open
            await self._listen(tcp, udp)

    async def _listen(self, tcp: list[int], udp: list[int]) -> None:
        for family, any_address in ANY.items():
            for port in tcp:
                if ("tcp", family, port) not in self.listeners:
                    opened = make_socket(family, socket.SOCK_STREAM, bind=(any_address, port))
                    server = await asyncio.start_server(self._echo_lines, sock=opened, backlog=256)
                    self.listeners["tcp", family, port] = server
            for port in udp:
                if ("udp", family, port) not in self.listeners:
                    opened = make_socket(family, socket.SOCK_DGRAM, bind=(any_address, port))
                    # The answer must come from the address that was asked; a machine may have several.
                    opened.setsockopt(*PKTINFO[family], 1)
                    self.loop.add_reader(opened, self._echo_datagrams, opened)
                    self.listeners["udp", family, port] = opened

    async def do_unlisten(self, tcp: list[int] = [], udp: list[int] = []) -> None:  # noqa: B006 - only read
        for family in ANY:
            for port in tcp:
                self.listeners.pop(("tcp", family, port)).close()
            for port in udp:
                closing = self.listeners.pop(("udp", family, port))
                self.loop.remove_reader(closing)
                closing.close()

    async def _echo_lines(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(line)
        except OSError:
            pass  # a reset is how probes hang up
        finally:
            writer.close()

    def _echo_datagrams(self, opened: socket.socket) -> None:
        try:
            while True:
                data, extra, _, peer = opened.recvmsg(65536, 256)
                opened.sendmsg([data], [_reply_from(item) for item in extra], 0, peer)
        except OSError:
            pass  # nothing more to read, or an ICMP error for an answer sent before

    # --- one probe ---

    async def do_tcp(
        self, address: str, port: int, *, timeout: float = 0.4, source: str = "", source_port: int = 0
    ) -> str:
        """Connect and hang up."""
        family, target = resolve(address, port)
        with make_socket(family, socket.SOCK_STREAM, bind=(source or ANY[family], source_port)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            return await outcome(self.loop.sock_connect(probe, target), timeout)

    async def do_udp(
        self,
        address: str,
        port: int,
        *,
        timeout: float = 0.4,
        source: str = "",
        source_port: int = 0,
        size: int = 16,
    ) -> str:
        """Send one datagram and wait for its echo."""
        family, target = resolve(address, port)
        token = os.urandom(8) + bytes(size - 8)
        with make_socket(family, socket.SOCK_DGRAM, bind=(source or ANY[family], source_port)) as probe:

            async def echo() -> None:
                probe.connect(target)
                probe.send(token)
                while await self.loop.sock_recv(probe, 65536) != token:
                    pass

            return await outcome(echo(), timeout)

    async def do_icmp(self, address: str, timeout: float = 0.4, source: str = "", size: int = 16) -> str:
        """Send one echo request and wait for its reply."""
        family, target = resolve(address, 0)
        proto = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
        identity, token = os.urandom(4), os.urandom(8) + bytes(size - 8)
        request = bytes([ECHO_REQUEST[family], 0, 0, 0]) + identity + token
        if family == socket.AF_INET:  # for IPv6 the kernel does it: the sum covers addresses that we may not know
            request = request[:2] + struct.pack("!H", checksum(request)) + request[4:]
        with make_socket(family, socket.SOCK_RAW, proto, bind=(source or ANY[family], 0)) as probe:

            async def reply() -> None:
                probe.connect(target)
                probe.send(request)
                while True:
                    packet = await self.loop.sock_recv(probe, 65536)
                    if family == socket.AF_INET:
                        packet = packet[(packet[0] & 15) * 4 :]
                    if packet[0] == ECHO_REPLY[family] and packet[4:] == identity + token:
                        return

            return await outcome(reply(), timeout)

    # --- a TCP connection that stays ---

    async def do_tcp_open(
        self, session: str, address: str, port: int, *, timeout: float = 1, source_port: int = 0
    ) -> str:
        """Connect, exchange one line, and stay connected under the session's name."""
        family, target = resolve(address, port)
        connection = make_socket(family, socket.SOCK_STREAM, bind=(ANY[family], source_port))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        result = await outcome(self.loop.sock_connect(connection, target), timeout)
        if result != OPEN:
            connection.close()
            return result
        self.sessions[session] = Session(*await asyncio.open_connection(sock=connection))
        return OPEN if await self.do_tcp_say(session, timeout) == "alive" else TIMEOUT

    async def do_tcp_say(self, session: str, timeout: float = 1, kilobytes: int = 0) -> str:
        """Say a line: "alive" when it came back, "silent" when nothing did in time, "closed" on FIN or reset.

        `kilobytes`: so many long lines, one after the other, each within the time.
        """
        try:
            for _ in range(max(1, kilobytes)):
                await asyncio.wait_for(self.sessions[session].say(1000 if kilobytes else 0), timeout)
        except TimeoutError:
            return "silent"
        except OSError:
            return "closed"
        return "alive"

    async def do_tcp_close(self, session: str) -> None:
        """Hang up by a reset."""
        self.sessions.pop(session).writer.close()

    # --- UDP in one direction ---

    async def do_udp_stream(
        self, stream: str, address: str, port: int, *, rate: float, seconds: float, source_port: int = 0
    ) -> dict[str, Any]:
        """Send `rate` datagrams a second until the time is up or `udp_stop`; how many, and when the last."""
        family, target = resolve(address, port)
        stop = self.streams[stream] = asyncio.Event()
        sent, start, last = 0, time.monotonic(), 0.0
        with make_socket(family, socket.SOCK_DGRAM, bind=(ANY[family], source_port)) as sender:
            while not stop.is_set() and (now := time.monotonic()) < start + seconds:
                due = int((now - start) * rate) + 1
                for number in range(sent, due):
                    try:
                        sender.sendto(struct.pack("!I", number), target)
                    except OSError:
                        pass  # an ICMP error for one sent before; the stream goes on, as a real one would
                    last = time.monotonic()
                sent = max(sent, due)
                await asyncio.sleep(max(0.0, start + sent / rate - time.monotonic()))
        del self.streams[stream]
        return {"sent": sent, "first": start, "last": last}

    async def do_udp_stop(self, stream: str) -> None:
        self.streams[stream].set()

    async def do_udp_count(self, port: int, version: int = 4, knock: list[Any] | None = None) -> None:
        """Begin to count what arrives at a port.  `knock` [address, port]: send one datagram there first."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        counter = Counter(make_socket(family, socket.SOCK_DGRAM, bind=(ANY[family], port)))
        self.counters[port] = counter
        self.loop.add_reader(counter.socket, counter.receive)
        if knock is not None:
            counter.socket.sendto(b"knock", resolve(*knock)[1])

    async def do_udp_counted(self, port: int, end: bool = False) -> dict[str, Any]:
        """What has arrived so far: packets, and the times of the first and the last."""
        counter = self.counters[port]
        counter.receive()
        if end:
            self.loop.remove_reader(counter.socket)
            counter.socket.close()
            del self.counters[port]
        return {"packets": counter.packets, "first": counter.first, "last": counter.last}

    # --- frames ---

    async def do_send_frames(self, frames: list[str], interface: str = "eth0") -> int:
        """Put frames on the wire as they are given, in hex from destination MAC to payload."""
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((interface, 0))
            for frame in frames:
                sender.send(bytes.fromhex(frame))
        return len(frames)

    async def do_capture(
        self,
        capture: str,
        *,
        ethertype: int | None = None,
        src: str = "",
        dst: str = "",
        contains: str = "",
        outgoing: bool = False,
        interface: str = "eth0",
    ) -> None:
        """Begin to collect frames: of an ethertype, of MACs, with some bytes (hex) in them."""
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ALL))
        opened.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        opened.bind((interface, ETH_P_ALL))
        begun = Capture(opened, ethertype, mac(src), mac(dst), bytes.fromhex(contains), outgoing)
        self.captures[capture] = begun
        self.loop.add_reader(opened, begun.receive)

    async def do_captured(
        self, capture: str, seconds: float = 0, count: int = 0, end: bool = True, until: str = ""
    ) -> list[str]:
        """The frames so far, in hex; waits `seconds`, less when `count` have come or one with the bytes `until`."""
        found = self.captures[capture]

        def complete() -> bool:
            return 0 < count <= len(found.frames) or (bool(until) and any(until in frame for frame in found.frames))

        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not complete():
            found.arrived.clear()
            try:
                await asyncio.wait_for(found.arrived.wait(), left)
            except TimeoutError:
                pass
        found.receive()
        if end:
            self.loop.remove_reader(found.socket)
            found.socket.close()
            del self.captures[capture]
        return found.frames


def _reply_from(item: tuple[int, int, bytes]) -> tuple[int, int, bytes]:
    """The pktinfo to send with, from the one received (ip(7), ipv6(7)): our address, and no fixed interface."""
    level, kind, data = item
    if level == socket.IPPROTO_IP:
        return level, kind, struct.pack("I4s4s", 0, data[4:8], bytes(4))
    return level, kind, data


async def main() -> None:
    loop = asyncio.get_running_loop()
    requests = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
    agent = Agent()
    running: set[asyncio.Task[None]] = set()

    async def serve(request: dict[str, Any]) -> None:
        print(json.dumps(await agent.answer(request)), flush=True)

    while line := await requests.readline():
        task = asyncio.create_task(serve(json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)


if __name__ == "__main__":
    asyncio.run(main())
