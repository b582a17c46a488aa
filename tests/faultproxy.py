"""A proxy between switches and a controller that understands OpenFlow's framing and misbehaves at message k.

`Proxy` runs an event loop in a thread; each `Line` is a port of its own, for one switch.  A line carries messages
faithfully until a fault is armed, and again once it has come; `wait` tells when.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from enum import Enum

from lab.controller import Controller


class What(Enum):
    RESET = "reset"  # the connection ends with RST instead of the message
    FIN = "fin"
    HALF = "half"  # half of the message arrives, then the connection ends
    HOLE = "hole"  # from here on nothing arrives in this direction, and nobody is told
    STALL = "stall"  # this and what follows comes STALL seconds late
    DROP = "drop"  # this message alone is lost


STALL = 0.7
ECHOES = (2, 3)  # message types that come when they come: they are not counted
ECHO_INTERVAL = 0.5
ECHO_LIMIT = 4 * ECHO_INTERVAL  # three may be missing


@dataclass(frozen=True)
class Fault:
    what: What
    to_switch: bool
    k: int  # counted from 0, from when the fault was armed

    def __str__(self) -> str:
        return f"{self.what.value}, message {self.k} {'to' if self.to_switch else 'from'} the switch"


class Line:
    """The way of one switch to the controller."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.port = 0
        self.up = True  # False: new connections are refused at once
        self.connections = 0
        self.fault: Fault | None = None
        self.counts = {True: 0, False: 0}
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()

    def arm(self, fault: Fault | None) -> None:
        """From now on messages are counted, and this fault comes once."""
        self.fault, self.counts = fault, {True: 0, False: 0}

    async def _serve(self, switch: asyncio.StreamReader, to_switch: asyncio.StreamWriter) -> None:
        writers = [to_switch]
        try:
            if self.up:
                controller, to_controller = await asyncio.open_connection(*self._target)
                writers.append(to_controller)
                self._writers |= set(writers)
                self.connections += 1
                ways = [self._carry(True, controller, to_switch), self._carry(False, switch, to_controller)]
                tasks = [asyncio.ensure_future(way) for way in ways]
                done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if any(task.exception() is None and task.result() for task in done):
                    for writer in writers:
                        linger = struct.pack("ii", 1, 0)
                        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                        writer.transport.abort()
                for task in pending:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for writer in writers:
                self._writers.discard(writer)
                writer.close()

    async def _carry(self, to_switch: bool, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> bool:
        """Until the connection ends; True when it is to end with RST."""
        while True:
            try:
                head = await source.readexactly(8)
                message = head + await source.readexactly(max(8, int.from_bytes(head[2:4], "big")) - 8)
            except (asyncio.IncompleteReadError, OSError):
                await self._flows.wait()
                return False
            await self._flows.wait()
            fault, count = self.fault, self.counts[to_switch]
            self.counts[to_switch] += head[1] not in ECHOES
            if fault is not None and fault.to_switch is to_switch and count == fault.k and head[1] not in ECHOES:
                self.fault = None
                match fault.what:
                    case What.RESET:
                        return True
                    case What.FIN:
                        return False
                    case What.HALF:
                        target.write(message[: len(message) // 2])
                        await target.drain()
                        return False
                    case What.HOLE:
                        while await source.read(65536):
                            pass
                        return False
                    case What.STALL:
                        await asyncio.sleep(STALL)
                    case What.DROP:
                        continue
            target.write(message)
            await target.drain()

    def _hang_up(self) -> None:
        for writer in list(self._writers):
            writer.close()


class Impatient(Controller):
    """A controller that misses echoes soon: `ECHO_LIMIT` seconds instead of 20."""

    def _config(self) -> str:
        return super()._config().replace("[firewall]", f"echo_request_interval = {ECHO_INTERVAL}\n\n[firewall]")


class Proxy:
    """Lines to one controller, all served by one thread."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    def line(self) -> Line:
        line = Line(self._target)
        started = asyncio.start_server(line._serve, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(started, self._loop).result(20)
        self._servers.append(server)
        line.port = server.sockets[0].getsockname()[1]
        return line

    def hang_up(self, line: Line) -> None:
        """Ends a line's connections, as a lost link does."""
        self._loop.call_soon_threadsafe(line._hang_up)

    def freeze(self, line: Line) -> None:
        """From now on nothing arrives, either way, not even that a connection has ended; until `thaw`."""
        self._loop.call_soon_threadsafe(line._flows.clear)

    def thaw(self, line: Line) -> None:
        self._loop.call_soon_threadsafe(line._flows.set)

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
