"""What a switch sends, from bytes to values.  Requests are `wire.py`, matches and actions `oxm.py`.

Goals.  (1) Bytes are decoded, or refused with `DecodeError`, whatever they are.  (2) Flow statistics cost about a
microsecond an entry: a `RawFlow` keeps match and instructions as the bytes they are, which equal those that
`encode_match` and `encode_instructions` give for the same flow.  Only the messages that our sessions wait for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from firewall_app.pipeline.flow import Flow

from .error_names import EXPERIMENTER, ONF, error_name
from .oxm import DecodeError, decode_instructions, decode_match

OF13, OF14 = 4, 5  # the version byte of OpenFlow 1.3 and 1.4
PORT_ADD, PORT_DELETE, PORT_MODIFY = 0, 1, 2  # why a port's status is told
BUNDLE_OPEN, BUNDLE_CLOSE, BUNDLE_COMMIT, BUNDLE_DISCARD = 0, 2, 4, 6  # a reply's kind is one more
DESC, FLOW, PORT_DESC, FLOW_MONITOR, MULTIPART_EXPERIMENTER = 0, 1, 13, 16, 0xFFFF  # kinds of multipart
ONF_FLOW_MONITOR = 1870  # ... of the ONF's, for 1.3
ONF_BUNDLE_CONTROL = 2300

_ERROR, _ECHO_REPLY, _EXPERIMENTER, _GET_CONFIG_REPLY, _PORT_STATUS = 1, 3, 4, 8, 12
_MULTIPART_REPLY, _BARRIER_REPLY, _ROLE_REPLY, _ROLE_STATUS, _BUNDLE_CONTROL = 19, 21, 25, 30, 33
_MORE = 1

_HEADER = struct.Struct("!BBHI")


@dataclass(frozen=True)
class Error:
    """A message of ours was refused; `xid` is that message's, `data` its beginning."""

    xid: int
    type: int
    code: int  # of an experimenter's error: its type
    data: bytes
    experimenter: int | None = None

    @property
    def text(self) -> str:
        """Such as FLOW_MOD_FAILED/TABLE_FULL."""
        return error_name(self.type, self.code, self.experimenter)


@dataclass(frozen=True)
class EchoReply:
    xid: int
    data: bytes


@dataclass(frozen=True)
class BarrierReply:
    xid: int


@dataclass(frozen=True)
class RoleReply:
    xid: int
    role: int
    generation_id: int


@dataclass(frozen=True)
class RoleStatus:
    """Our role has become another one, since another controller was given ours."""

    xid: int
    role: int
    generation_id: int


@dataclass(frozen=True)
class BundleReply:
    """`kind`: BUNDLE_OPEN, _CLOSE, _COMMIT or _DISCARD, whichever was done."""

    xid: int
    bundle_id: int
    kind: int


@dataclass(frozen=True)
class ConfigReply:
    xid: int
    flags: int
    miss_send_len: int


@dataclass(frozen=True)
class DescReply:
    xid: int
    more: bool
    manufacturer: str
    hardware: str
    software: str
    serial: str
    datapath: str


@dataclass(frozen=True)
class PortInfo:
    number: int
    name: str
    mac: str
    config: int
    state: int


@dataclass(frozen=True)
class PortDescReply:
    xid: int
    more: bool
    ports: tuple[PortInfo, ...]


@dataclass(frozen=True)
class PortStatus:
    xid: int
    reason: int  # PORT_ADD, PORT_DELETE, PORT_MODIFY
    port: PortInfo


class RawFlow(NamedTuple):
    """A flow as a switch tells it; `match` with its header and padding, `instructions` empty for drop."""

    table: int
    priority: int
    cookie: int
    match: bytes
    instructions: bytes
    packets: int
    byte_count: int
    duration_ns: int


@dataclass(frozen=True)
class FlowStatsReply:
    xid: int
    more: bool
    flows: tuple[RawFlow, ...]


class FlowUpdate(NamedTuple):
    """A flow that somebody else added, changed or removed; `match` as in RawFlow."""

    table: int
    priority: int
    cookie: int
    match: bytes


@dataclass(frozen=True)
class FlowMonitorReply:
    """What others did to flows of a switch; changes of our own are left out."""

    xid: int
    updates: tuple[FlowUpdate, ...]


@dataclass(frozen=True)
class Other:
    """A message that is not for us."""

    xid: int
    type: int


Message = (
    Error
    | EchoReply
    | BarrierReply
    | RoleReply
    | RoleStatus
    | BundleReply
    | ConfigReply
    | DescReply
    | PortDescReply
    | PortStatus
    | FlowStatsReply
    | FlowMonitorReply
    | Other
)


def decode_flow(raw: RawFlow) -> Flow:
    """The flow as a value; raises DecodeError, naming the field or action, for what our pipeline never uses."""
    return Flow(raw.table, raw.priority, decode_match(raw.match), decode_instructions(raw.instructions), raw.cookie)


def decode(data: bytes) -> Message:
    """One whole message.  Raises DecodeError, and nothing else, for bytes that are not one."""
    data = bytes(data)
    if len(data) < 8:
        raise DecodeError(f"a message of {len(data)} bytes")
    version, kind, size, xid = _HEADER.unpack_from(data)
    if version not in (OF13, OF14):
        raise DecodeError(f"OpenFlow version {version} was not agreed on")
    if size != len(data):
        raise DecodeError(f"a message says {size} bytes and has {len(data)}")
    decoder = _DECODERS.get(kind)
    return decoder(data, version, xid) if decoder else Other(xid, kind)


def goes_on(data: bytes) -> bool:
    """Whether a message is a part of a reply, and others follow."""
    return data[1:2] == bytes([_MULTIPART_REPLY]) and bool(int.from_bytes(data[10:12], "big") & _MORE)


def _error(data: bytes, _version: int, xid: int) -> Error:
    _least(data, 12, "error")
    kind, code = struct.unpack_from("!HH", data, 8)
    if kind != EXPERIMENTER:
        return Error(xid, kind, code, data[12:])
    _least(data, 16, "experimenter error")
    return Error(xid, kind, code, data[16:], int.from_bytes(data[12:16], "big"))


def _echo(data: bytes, _version: int, xid: int) -> EchoReply:
    return EchoReply(xid, data[8:])


def _barrier(_data: bytes, _version: int, xid: int) -> BarrierReply:
    return BarrierReply(xid)


def _role(data: bytes, _version: int, xid: int) -> RoleReply:
    _least(data, 24, "role reply")
    return RoleReply(xid, *struct.unpack_from("!I4xQ", data, 8))


def _role_status(data: bytes, _version: int, xid: int) -> RoleStatus:
    _least(data, 24, "role status")
    return RoleStatus(xid, *struct.unpack_from("!I4xQ", data, 8))


def _config(data: bytes, _version: int, xid: int) -> ConfigReply:
    _least(data, 12, "config reply")
    return ConfigReply(xid, *struct.unpack_from("!HH", data, 8))


def _bundle(data: bytes, version: int, xid: int) -> BundleReply | Other:
    return _bundle_reply(data, 8, xid) if version >= OF14 else Other(xid, _BUNDLE_CONTROL)


def _experimenter(data: bytes, _version: int, xid: int) -> BundleReply | Other:
    _least(data, 16, "experimenter message")
    if struct.unpack_from("!II", data, 8) == (ONF, ONF_BUNDLE_CONTROL):
        return _bundle_reply(data, 16, xid)
    return Other(xid, _EXPERIMENTER)


def _bundle_reply(data: bytes, offset: int, xid: int) -> BundleReply:
    _least(data, offset + 8, "bundle reply")
    bundle_id, kind = struct.unpack_from("!IH", data, offset)
    if kind not in (BUNDLE_OPEN + 1, BUNDLE_CLOSE + 1, BUNDLE_COMMIT + 1, BUNDLE_DISCARD + 1):
        raise DecodeError(f"bundle control of type {kind} is no reply")
    return BundleReply(xid, bundle_id, kind - 1)


def _port_status(data: bytes, version: int, xid: int) -> PortStatus:
    _least(data, 16, "port status")
    port, end = _port(data, 16, version)
    if end != len(data):
        raise DecodeError(f"port status has {len(data) - end} bytes left over")
    return PortStatus(xid, data[8], port)


def _multipart_reply(data: bytes, version: int, xid: int) -> Message:
    _least(data, 16, "multipart reply")
    kind, flags = struct.unpack_from("!HH", data, 8)
    more = bool(flags & _MORE)
    if kind == FLOW:
        return FlowStatsReply(xid, more, _flows(data))
    if kind == PORT_DESC:
        return PortDescReply(xid, more, _ports(data, version))
    if kind == DESC:
        _least(data, 16 + 1056, "description")
        texts = struct.unpack_from("!256s256s256s32s256s", data, 16)
        return DescReply(xid, more, *map(_text, texts))
    if kind == FLOW_MONITOR and version >= OF14:
        return FlowMonitorReply(xid, _updates(data, 16, _UPDATE_14))
    if kind == MULTIPART_EXPERIMENTER and data[16:24] == struct.pack("!II", ONF, ONF_FLOW_MONITOR):
        return FlowMonitorReply(xid, _updates(data, 24, _UPDATE_13))
    return Other(xid, _MULTIPART_REPLY)


def _ports(data: bytes, version: int) -> tuple[PortInfo, ...]:
    ports, offset = [], 16
    while offset < len(data):
        port, offset = _port(data, offset, version)
        ports.append(port)
    return tuple(ports)


def _port(data: bytes, offset: int, version: int) -> tuple[PortInfo, int]:
    """A port at `offset`, and where the next begins.  Its speeds and properties are not read."""
    # 1.3 has 64 bytes; 1.4 has 40 and then properties, with the length of it all where 1.3 has padding.
    least = 40 if version >= OF14 else 64
    if len(data) - offset < least:
        raise DecodeError(f"a port of {len(data) - offset} bytes")
    number, size, mac, name, config, state = struct.unpack_from("!IH2x6s2x16sII", data, offset)
    if version < OF14:
        size = least
    if size < least or offset + size > len(data):
        raise DecodeError(f"a port says {size} bytes, {len(data) - offset} are left")
    return PortInfo(number, _text(name), mac.hex(":"), config, state), offset + size


_FLOW_STATS = struct.Struct("!HBxIIH10xQQQHH")  # up to and with the header of its match


_raw_flow: Callable[[tuple[int | bytes, ...]], RawFlow] = partial(tuple.__new__, RawFlow)


def _flows(data: bytes) -> tuple[RawFlow, ...]:
    flows: list[RawFlow] = []
    offset, end = 16, len(data)
    unpack, make, keep = _FLOW_STATS.unpack_from, _raw_flow, flows.append
    while offset < end:
        if end - offset < 56:
            raise DecodeError(f"a flow of {end - offset} bytes")
        size, table, seconds, nanos, priority, cookie, packets, octets, kind, match = unpack(data, offset)
        begin = offset + 48
        middle = begin + (match + 7 & ~7)
        following = offset + size
        if size < 56 or following > end:
            raise DecodeError(f"a flow says {size} bytes, {end - offset} are left")
        if kind != 1 or match < 4 or middle > following:
            raise DecodeError(f"a flow's match is of type {kind} and {match} bytes, {size - 48} are left")
        instructions, age = data[middle:following], seconds * 1_000_000_000 + nanos
        keep(make((table, priority, cookie, data[begin:middle], instructions, packets, octets, age)))
        offset = following
    return tuple(flows)


# Open vSwitch's ofp_flow_update_full of 1.4 (table, reason, timeouts, priority, cookie), and its nx_flow_update_full of
# 1.3 (reason, priority, timeouts, length of the match, table, cookie), after length and event.
_UPDATE_14 = struct.Struct("!4xBx4xH4xQ"), ("table", "priority", "cookie"), (1, 2, 3)
_UPDATE_13 = struct.Struct("!4x2xH4x2xBxQ"), ("priority", "table", "cookie"), (0, 1, 2)
_Layout = tuple[struct.Struct, tuple[str, ...], tuple[int, ...]]  # of the fields, their names, events with a flow


def _updates(data: bytes, offset: int, layout: _Layout) -> tuple[FlowUpdate, ...]:
    """Those about a whole flow.  The others are eight bytes each: a change of our own, or a pause."""
    fields, names, whole = layout
    found, end = [], len(data)
    while offset < end:
        size, event = struct.unpack_from("!HH", data, offset) if end - offset >= 4 else (0, 0)
        if size < 8 or offset + size > end:
            raise DecodeError(f"a flow update says {size} bytes, {end - offset} are left")
        if event in whole:
            if size < 32:
                raise DecodeError(f"a flow update of {size} bytes")
            kind, length = struct.unpack_from("!HH", data, offset + 24)
            after = offset + 24 + (length + 7 & ~7)
            if kind != 1 or length < 4 or after > offset + size:
                raise DecodeError(f"a flow update's match is of type {kind} and {length} bytes, {size - 24} are left")
            values = dict(zip(names, fields.unpack_from(data, offset), strict=True))
            found.append(FlowUpdate(**values, match=data[offset + 24 : after]))
        offset += size
    return tuple(found)


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def _least(data: bytes, size: int, what: str) -> None:
    if len(data) < size:
        raise DecodeError(f"{what} has {len(data)} bytes, {size} at least are needed")


_DECODERS: dict[int, Callable[[bytes, int, int], Message]] = {
    _ERROR: _error,
    _ECHO_REPLY: _echo,
    _EXPERIMENTER: _experimenter,
    _GET_CONFIG_REPLY: _config,
    _PORT_STATUS: _port_status,
    _MULTIPART_REPLY: _multipart_reply,
    _BARRIER_REPLY: _barrier,
    _ROLE_REPLY: _role,
    _ROLE_STATUS: _role_status,
    _BUNDLE_CONTROL: _bundle,
}
