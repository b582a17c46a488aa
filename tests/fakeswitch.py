"""A switch as far as a session can see: answers messages, keeps flows as bytes, misbehaves when told to.

Says nothing about packets; that is `pipeline/walker.py`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from firewall_app.openflow.rendering import Body, Key

EXPERIMENTER, SET_CONFIG, FLOW_MOD, MULTIPART, BARRIER, ROLE, BUNDLE, BUNDLE_ADD = 4, 9, 14, 18, 20, 24, 33, 34
ADD, DELETE_STRICT = 0, 4
NO_MATCH = struct.pack("!HH4x", 1, 4)
V14 = 5


def message(kind: int, xid: int, body: bytes = b"") -> bytes:
    return struct.pack("!BBHI", V14, kind, 8 + len(body), xid) + body


def port_status(reason: int, number: int, name: str) -> bytes:
    return message(12, 0, struct.pack("!B7x", reason) + port(number, name))


def port(number: int, name: str) -> bytes:
    return struct.pack("!IH2x6s2x16sII", number, 72, b"\2\0\0\0\0\1", name.encode(), 0, 0) + struct.pack(
        "!HH4xIIIIII", 0, 32, 0, 0, 0, 0, 0, 0
    )


@dataclass
class FakeSwitch:
    """Answers like Open vSwitch 3.1 with OpenFlow 1.4.  `flows` is what it holds."""

    ports: dict[int, str] = field(default_factory=lambda: {1: "up0", 2: "tap101", 3: "tap102"})
    software: str = "3.1.0"
    hardware: str = "Open vSwitch"
    flows: dict[Key, Body] = field(default_factory=dict)
    generation: int = 0xFFFFFFFFFFFFFFFF
    refuse_adds: int = 0  # so many of the next flow-mods in bundles get an error
    refuse_commit: bool = False
    mute: frozenset[int] = frozenset()  # message types that get no answer
    commits: int = 0
    adds: int = 0
    timeouts: dict[Key, int] = field(default_factory=dict)  # of flows that the switch takes away by itself
    flushed: list[int] = field(default_factory=list)
    config: int = 0
    monitors: int = 0  # how many times it was asked to tell what others do
    role: int = 1
    slave: bool = False  # another controller is master, until this one asks
    _bundle: list[bytes] = field(default_factory=list)

    def answer(self, data: bytes) -> list[bytes]:
        """What it says to one message."""
        _, kind, _, xid = struct.unpack_from("!BBHI", data)
        if kind in self.mute:
            return []
        match kind:
            case 18:
                return self._multipart(struct.unpack_from("!H", data, 8)[0], xid, data[48:])
            case 20:
                return [message(21, xid)]
            case 24:
                return self._role(xid, *struct.unpack_from("!I4xQ", data, 8))
            case 9:
                self.config = struct.unpack_from("!H", data, 8)[0]
                return []
            case 33:
                return self._control(xid, *struct.unpack_from("!IHH", data, 8))
            case 34:
                return self._add(xid, data)
            case 4:
                experimenter, subtype, zone = struct.unpack_from("!II6xH", data, 8)
                assert (experimenter, subtype) == (0x2320, 29)
                self.flushed.append(zone)
                return []
        raise AssertionError(f"a session sent message type {kind}")

    def _role(self, xid: int, role: int, generation: int) -> list[bytes]:
        if role in (2, 3):  # master, slave
            ahead = (generation - self.generation) & 0xFFFFFFFFFFFFFFFF
            if self.generation != 0xFFFFFFFFFFFFFFFF and ahead >= 1 << 63:
                return [message(1, xid, struct.pack("!HH", 11, 0) + bytes(24))]  # stale
            self.role, self.generation, self.slave = role, generation, role == 3
        return [message(25, xid, struct.pack("!I4xQ", self.role, self.generation))]

    def _multipart(self, kind: int, xid: int, match: bytes) -> list[bytes]:
        first = struct.pack("!HH4x", kind, 0)
        if kind == 0:
            texts = ("Nicira, Inc.", self.hardware, self.software)
            body = b"".join(t.encode().ljust(256, b"\0") for t in texts) + bytes(32 + 256)
            return [message(19, xid, first + body)]
        if kind == 13:
            return [message(19, xid, first + b"".join(port(n, name) for n, name in self.ports.items()))]
        if kind == 16:
            self.monitors += 1
            return [message(19, xid, first)]
        assert kind == 1
        parts, size = [], 0
        out = []
        for key, body in self.flows.items():
            if match not in (NO_MATCH, key.match):
                continue
            length = 48 + len(key.match) + len(body.instructions)
            head = struct.pack("!HBxIIHHHHH2x", length, key.table, 0, 0, key.priority, 0, 0, 0, 0)
            entry = head + struct.pack("!QQQ", body.cookie, 2, 300) + key.match + body.instructions
            parts.append(entry)
            size += len(entry)
            if size > 30000:
                out.append(message(19, xid, struct.pack("!HH4x", 1, 1) + b"".join(parts)))
                parts, size = [], 0
        return [*out, message(19, xid, first + b"".join(parts))]

    def _control(self, xid: int, bundle: int, kind: int, flags: int) -> list[bytes]:
        assert flags == 3
        if self.slave:
            return [message(1, xid, struct.pack("!HH", 1, 10) + bytes(16))]
        if kind == 0:
            self._bundle = []
        elif kind == 4:
            if self.refuse_commit:
                first = struct.unpack_from("!I", self._bundle[0], 4)[0]
                return [
                    message(1, first, struct.pack("!HH", 5, 1) + self._bundle[0][:64]),
                    message(1, xid, struct.pack("!HH", 17, 15) + bytes(8)),
                ]
            self._apply()
        elif kind == 6:
            self._bundle = []
        return [message(33, xid, struct.pack("!IHH", bundle, kind + 1, flags))]

    def _add(self, xid: int, data: bytes) -> list[bytes]:
        self.adds += 1
        if self.slave:
            return [message(1, xid, struct.pack("!HH", 1, 10) + data[:64])]
        if self.refuse_adds:
            self.refuse_adds -= 1
            return [message(1, xid, struct.pack("!HH", 5, 1) + data[:64])]
        self._bundle.append(data[16:])
        return []

    def _apply(self) -> None:
        self.commits += 1
        for mod in self._bundle:
            cookie, _, table, command, _, hard_timeout, priority = struct.unpack_from("!QQBBHHH", mod, 8)
            length = struct.unpack_from("!H", mod, 50)[0]
            end = 48 + (length + 7) // 8 * 8
            key = Key(table, priority, mod[48:end])
            if command == ADD:
                self.flows[key] = Body(cookie, mod[end:])
                if hard_timeout:
                    self.timeouts[key] = hard_timeout
            else:
                assert command == DELETE_STRICT
                self.flows.pop(key, None)
        self._bundle = []
