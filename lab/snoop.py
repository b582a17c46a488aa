"""Counts the flow-mods that a controller sends, by listening on the management network.

Nothing is put between controller and switches, so what is measured is what runs.  Reads TCP in order and OpenFlow in
it (1.3 and 1.4, bundles included).  Knows one direction and one kind of message; it cannot read TLS.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from dataclasses import dataclass, field

from .streams import drained
from .traffic import ETH_P_ALL, SO_RCVBUFFORCE

FLOW_MOD, EXPERIMENTER, BUNDLE_ADD = 14, 4, 34
ONF, ONF_BUNDLE_ADD = 0x4F4E4600, 2301
SYN = 2
RETRY = 1 << 31  # sequence numbers that are further ahead than this are behind


def flow_mods(data: bytes) -> tuple[int, bytes]:
    """How many flow-mods whole messages at the beginning of some bytes hold, and the bytes that are left."""
    count = 0
    while len(data) >= 8:
        kind, length = struct.unpack_from("!xBH", data)
        if length < 8:
            raise ValueError(f"no OpenFlow: a message of {length} bytes")
        if len(data) < length:
            break
        if kind == EXPERIMENTER and length >= 26 and struct.unpack_from("!II", data, 8) == (ONF, ONF_BUNDLE_ADD):
            kind = data[25]
        elif kind == BUNDLE_ADD:
            kind = data[17]
        count += kind == FLOW_MOD
        data = data[length:]
    return count, data


@dataclass
class Connection:
    """What came of one TCP connection so far, in order."""

    next: int | None = None  # the sequence number that is awaited
    early: dict[int, bytes] = field(default_factory=dict)  # what came before what it follows
    rest: bytes = b""

    def segment(self, number: int, data: bytes) -> int:
        """Takes a segment; how many flow-mods it completes."""
        if self.next is None:
            self.next = number
        behind = (self.next - number) & 0xFFFFFFFF
        if behind >= RETRY:
            self.early[number] = data
            return 0
        found = 0
        while behind < len(data):  # what was sent again and is known already is passed over
            count, self.rest = flow_mods(self.rest + data[behind:])
            found += count
            self.next = (number + len(data)) & 0xFFFFFFFF
            number, data, behind = self.next, self.early.pop(self.next, b""), 0
        return found


class Snoop:
    """Listens on a device for what is sent from a TCP port; `ready` is to be called when `socket` can be read."""

    def __init__(self, device: str, port: int) -> None:
        self.port = port
        self.sent: Counter[str] = Counter()  # flow-mods by the address of the switch
        self._connections: dict[tuple[bytes, int], Connection] = {}
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 25)
        self.socket.bind((device, ETH_P_ALL))

    def close(self) -> None:
        self.socket.close()

    def ready(self) -> None:
        for packet in drained(self.socket):
            if packet[0] >> 4 == 4 and packet[9] == socket.IPPROTO_TCP:
                self._take(packet)

    def _take(self, packet: bytes) -> None:
        head = (packet[0] & 15) * 4
        source, target, number = struct.unpack_from("!HHI", packet, head)
        if source != self.port:
            return
        key = packet[16:20], target
        if packet[head + 13] & SYN:
            self._connections[key] = Connection((number + 1) & 0xFFFFFFFF)
            return
        begin, end = head + (packet[head + 12] >> 4) * 4, int.from_bytes(packet[2:4], "big")
        if data := packet[begin:end]:
            found = self._connections.setdefault(key, Connection()).segment(number, data)
            self.sent[socket.inet_ntoa(packet[16:20])] += found
