"""T180: what a switch may do once it has said who it is: its connection ends or is waited on, all others are served.

Each assailant connects, is brought in step as any switch is, and then does its worst.  Beside it an honest switch asks
for echoes, and a policy change must reach it; the memory and the sockets of the program stay bounded.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakeswitch import V14, FakeSwitch, message, port, port_status
from faultproxy import Impatient
from test_app_pace import LiveSwitch

from lab.controller import Controller
from lab.system import wait_until

pytestmark = pytest.mark.process
HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY, FEATURES_REQUEST, FEATURES_REPLY = 0, 1, 2, 3, 5, 6
PACKET_IN, FLOW_REMOVED, MULTIPART, BARRIER_REPLY, ROLE_REPLY, BUNDLE = 10, 11, 19, 21, 25, 33
MEMORY = 300 << 20  # bytes that the program may grow by, however many switches do their worst
PATIENCE = 15.0


class Assailant:
    """A switch in step, until `assault`; then what it is sent is given to `answer`, which may be any."""

    def __init__(self, number: int, address: tuple[str, int], ports: dict[int, str] | None = None) -> None:
        self.dpid = f"{number:016x}"
        self.switch = FakeSwitch(ports=ports or {1: "eth0", 2: "tap0"})
        self.answer: Callable[[bytes], list[bytes]] = self.switch.answer
        self.reads = True
        self._number = number
        self._socket = socket.create_connection(address, timeout=PATIENCE)
        self._buffer = b""
        self._out = bytearray()
        self._socket.sendall(message(HELLO, 1, struct.pack("!HHI", 1, 8, 1 << V14)))
        self._socket.setblocking(False)
        while not self.switch.commits:
            assert self.step()

    def step(self) -> bool:
        """Takes what has come, and sends as much of the answers as is taken; False when the connection has ended."""
        try:
            data = self._socket.recv(65536) if self.reads else b"-"
        except BlockingIOError:
            data = b"-"
        except OSError:
            return False
        else:
            self._buffer += data if self.reads else b""
        while len(self._buffer) >= 8 and len(self._buffer) >= (size := int.from_bytes(self._buffer[2:4], "big")):
            one, self._buffer = self._buffer[:size], self._buffer[size:]
            self._out += b"".join(self._reply(one))
        try:
            while self._out:
                del self._out[: self._socket.send(self._out[:65536])]
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:
            return False
        return bool(data)

    def _reply(self, one: bytes) -> list[bytes]:
        kind, xid = one[1], int.from_bytes(one[4:8], "big")
        if kind == ECHO_REQUEST:
            return [message(ECHO_REPLY, xid, one[8:])]
        if kind == FEATURES_REQUEST:
            return [message(FEATURES_REPLY, xid, struct.pack("!QIBBxxII", self._number, 0, 254, 0, 0x4F, 0))]
        return [] if kind in (HELLO, ERROR, ECHO_REPLY) else self.answer(one)

    def send(self, data: bytes) -> bool:
        """Sends all of it, reading meanwhile; False when the connection has ended."""
        self._out += data
        end = time.monotonic() + PATIENCE
        while self.step():
            if not self._out:
                return True
            assert time.monotonic() < end, "the connection neither takes anything nor ends"
        return False

    def ends(self) -> None:
        """Waits until the connection has ended."""
        end = time.monotonic() + PATIENCE
        while self.step():
            time.sleep(0.005)
            assert time.monotonic() < end, "the connection goes on"

    def close(self) -> None:
        self._socket.close()


# --------------------------------------------------------------------------------------------- what they do


def ends_by(*messages: bytes) -> Callable[[Assailant, Controller], None]:
    """Something that ends the connection at once."""

    def assault(assailant: Assailant, _: Controller) -> None:
        for data in messages:
            assailant.send(data)
        assailant.ends()

    return assault


def goes_on_after(data: bytes, count: int = 20_000) -> Callable[[Assailant, Controller], None]:
    """Something that is waited on, however often it comes: the switch is served as before."""

    def assault(assailant: Assailant, controller: Controller) -> None:
        batch = 200
        for _ in range(count // batch):
            assert assailant.send(data * batch)
        answered(assailant, controller)

    return assault


def answered(assailant: Assailant, controller: Controller) -> None:
    """Its flows are read back: so everything that it sent before has been taken."""
    done: list[int] = []
    asking = threading.Thread(
        target=lambda: done.append(controller.call("GET", f"/v1/hypervisors/{assailant.dpid}/flows").status)
    )
    asking.start()
    while asking.is_alive():
        assert assailant.step()
        time.sleep(0.001)
    assert done == [200]


def answers(how: Callable[[Assailant, bytes], list[bytes]]) -> Callable[[Assailant, Controller], None]:
    """Answers in a way that ends the connection, as soon as it is asked something."""

    def assault(assailant: Assailant, controller: Controller) -> None:
        assailant.answer = lambda one: how(assailant, one)
        assert controller.call("POST", f"/v1/hypervisors/{assailant.dpid}/resync").status == 202
        assailant.ends()

    return assault


def flow_entry(length: int = 56, match_length: int = 4, match_type: int = 1) -> bytes:
    head = struct.pack("!HBxIIHHHHH2x", length, 0, 0, 0, 1, 0, 0, 0, 0) + struct.pack("!QQQ", 0xD0F1 << 48, 0, 0)
    return head + struct.pack("!HH4x", match_type, match_length)


def stats(xid: int, body: bytes, more: bool = False) -> bytes:
    return message(MULTIPART, xid, struct.pack("!HH4x", 1, more) + body)


def is_flow_request(one: bytes) -> bool:
    return one[1] == 18 and one[8:10] == b"\0\1"


def wrong_xid(assailant: Assailant, one: bytes) -> list[bytes]:
    found = assailant.switch.answer(one)
    return [reply[:4] + struct.pack("!I", 0x1234567) + reply[8:] for reply in found]


def twice(assailant: Assailant, one: bytes) -> list[bytes]:
    return assailant.switch.answer(one) * 2


def something_else(_: Assailant, one: bytes) -> list[bytes]:
    """The answer to another question, under the xid of this one."""
    return [message(ROLE_REPLY, int.from_bytes(one[4:8], "big"), struct.pack("!I4xQ", 2, 0))]


def ports_for_flows(_: Assailant, one: bytes) -> list[bytes]:
    return [message(MULTIPART, int.from_bytes(one[4:8], "big"), struct.pack("!HH4x", 13, 0))]


def for_ever(_: Assailant, one: bytes) -> list[bytes]:
    """A multipart that never ends."""
    if not is_flow_request(one):
        return []
    part = stats(int.from_bytes(one[4:8], "big"), flow_entry() * 1169, more=True)
    return [part] * 1100


def nothing(_: Assailant, __: bytes) -> list[bytes]:
    return []


def many_ports(assailant: Assailant, controller: Controller) -> None:
    """A new port with each message, without end."""
    numbers = iter(range(3, 1 << 20))
    while assailant.send(b"".join(port_status(0, next(numbers), "tap") for _ in range(100))):
        pass


def flapping(assailant: Assailant, controller: Controller) -> None:
    """A port that changes its name with each message."""
    for turn in range(100):
        assert assailant.send(b"".join(port_status(2, 2, f"tap{turn}x{n}") for n in range(50)))
    answered(assailant, controller)


def odd_names(assailant: Assailant, controller: Controller) -> None:
    """Names are bytes to a switch."""
    for number, name in enumerate((b"\xff\xfe\x80", b"\n\r\x1b[31m", b'"><script>', b"", b"a" * 16, b"%s%n{0}"), 10):
        raw = bytearray(port_status(0, number, ""))
        raw[32:48] = name.ljust(16, b"\0")
        assert assailant.send(bytes(raw))
    answered(assailant, controller)
    assert controller.call("GET", f"/v1/hypervisors/{assailant.dpid}").status == 200
    assert controller.call("GET", "/metrics").status == 200
    assert "\x1b" not in controller.log.read_text(errors="replace")


def unread(assailant: Assailant, controller: Controller) -> None:
    """Takes nothing of what it is sent, and asks for more and more of it."""
    assailant.reads = False
    try:
        while assailant.send(message(ECHO_REQUEST, 1, bytes(60_000))):
            pass
    except AssertionError:
        pytest.fail("a switch that reads nothing holds its connection")


def half_a_message(assailant: Assailant, controller: Controller) -> None:
    """A long message that is never finished; not even an echo can be answered behind it."""
    assailant._reply = lambda one: []  # type: ignore[method-assign]
    assailant.send(struct.pack("!BBHI", V14, MULTIPART, 0xFFFF, 1) + bytes(1000))
    assailant.ends()


def byte_by_byte(assailant: Assailant, controller: Controller) -> None:
    """Answers arrive a byte at a time, slower than they are asked for."""
    assailant._reply = lambda one: []  # type: ignore[method-assign]
    data = message(ECHO_REPLY, 1, bytes(1000))
    while data and assailant.send(data[:1]) and assailant.step():
        data = data[1:]
        time.sleep(0.05)
    assert data, "it was served to the end"


def from_everywhere(assailant: Assailant, controller: Controller) -> None:
    """One datapath id in a hundred places: each that comes ends the one before."""
    last = assailant
    for _ in range(100):
        following = Assailant(assailant._number, ("127.0.0.1", controller.openflow_port))
        last.ends()
        last.close()
        last = following
    answered(last, controller)
    last.close()


GARBAGE = bytes((7 * n * n + 3) & 0xFF for n in range(4096))
PORT = port(2, "tap0")
ASSAULTS: dict[str, Callable[[Assailant, Controller], None]] = {
    "garbage": ends_by(stats(1, GARBAGE)),
    "an unknown version": ends_by(struct.pack("!BBHI", 9, MULTIPART, 16, 1) + bytes(8)),
    "a length of 0": ends_by(struct.pack("!BBHI", V14, ERROR, 0, 1)),
    "a length of 7": ends_by(struct.pack("!BBHI", V14, PACKET_IN, 7, 1)),
    "a flow of length 0": ends_by(stats(1, flow_entry(length=0))),
    "a flow past the end": ends_by(stats(1, flow_entry(length=64))),
    "a match past the end": ends_by(stats(1, flow_entry(match_length=9))),
    "a match of length 0": ends_by(stats(1, flow_entry(match_length=0))),
    "a port of length 0": ends_by(message(MULTIPART, 1, struct.pack("!HH4x", 13, 0) + PORT[:4] + bytes(68))),
    "an error of 2 bytes": ends_by(message(ERROR, 1, b"\0\1")),
    "wrong xids": answers(wrong_xid),
    "answers twice": answers(twice),
    "the answer to something else": answers(something_else),
    "ports for flows": answers(ports_for_flows),
    "an answer that nobody asked for": ends_by(message(BARRIER_REPLY, 99)),
    "a multipart for ever": answers(for_ever),
    "never answers": answers(nothing),
    "floods packet-ins": goes_on_after(message(PACKET_IN, 0, bytes(40))),
    "floods flow-removed": goes_on_after(message(FLOW_REMOVED, 0, bytes(48))),
    "floods hellos": goes_on_after(message(HELLO, 0, struct.pack("!HHI", 1, 8, 1 << V14) * 100), 2_000),
    "floods features": goes_on_after(message(FEATURES_REPLY, 0, struct.pack("!QIBBxxII", 9, 0, 254, 0, 0, 0))),
    "floods echo requests": goes_on_after(message(ECHO_REQUEST, 0, bytes(8)), 5_000),
    "floods echo replies": goes_on_after(message(ECHO_REPLY, 0, bytes(8))),
    "floods port status": goes_on_after(port_status(2, 2, "tap0"), 3_000),
    "floods errors": lambda a, c: (a.send(message(ERROR, 1, bytes(4) + bytes(64)) * 2000), a.ends())[0],
    "ports without end": many_ports,
    "a port that flaps": flapping,
    "odd names": odd_names,
    "one datapath id in many places": from_everywhere,
    "reads nothing": unread,
    "half a message": half_a_message,
    "a byte at a time": byte_by_byte,
}


# --------------------------------------------------------------------------------------------- the test


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    settings = {"reply_timeout": 3, "audit_interval": 0}
    with Impatient(tmp_path_factory.mktemp("hostile"), settings=settings) as running:
        yield running


@pytest.fixture(scope="module")
def honest(controller: Controller) -> Iterator[LiveSwitch]:
    switch = LiveSwitch(1, controller.openflow_port)
    assert controller.call("PUT", f"/v1/hypervisors/{switch.dpid}", {"name": "hv", "uplinks": ["eth0"]}).status < 300
    assert controller.call("PUT", "/v1/droplets/1", {"name": "d"}).status < 300
    yield switch
    switch.stop()
    assert switch.problem is None
    assert switch.answered == switch.asked


@pytest.mark.parametrize("what", ASSAULTS)
def test_T180_a_switch_that_does_its_worst_is_closed_or_waited_on(controller, honest, what: str) -> None:
    memory, sockets = resident(controller), open_sockets(controller)
    assailant = Assailant(0x66, ("127.0.0.1", controller.openflow_port))
    try:
        ASSAULTS[what](assailant, controller)
    finally:
        assailant.close()
    served(controller, honest)
    wait_until("the assailant's end", lambda: open_sockets(controller) <= sockets, PATIENCE, 0.05)
    assert resident(controller) - memory < MEMORY
    assert "Traceback" not in controller.log.read_text(errors="replace")


def served(controller: Controller, honest: LiveSwitch) -> None:
    """A change reaches the honest switch, and its echoes are answered."""
    commits = honest.switch.commits
    mac = f"02:00:00:00:00:{commits % 256:02x}"
    body = {"droplet_id": 1, "hypervisor": honest.dpid, "interface": "tap0", "mac": mac, "addresses": ["10.0.0.1"]}
    answer = controller.call("PUT", "/v1/ports/p1", body, {"Prefer": "wait=30"})
    assert answer.status < 300, answer
    wait_until("the change on the honest switch", lambda: honest.switch.commits > commits, PATIENCE, 0.005)
    assert honest.problem is None


def resident(controller: Controller) -> int:
    return int(Path(f"/proc/{controller.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def open_sockets(controller: Controller) -> int:
    """Those to switches."""
    table = Path(f"/proc/{controller.pid}/net/tcp").read_text().splitlines()[1:]
    here = f"0100007F:{controller.openflow_port:04X}"
    return sum(1 for line in table if line.split()[1] == here and line.split()[3] == "01")
