"""OpenFlow messages to bytes, 1.4 and 1.3 (with ONF's bundles) from one encoder; and the door to those that read.

Cheap enough to be called for every flow.  Only the messages that our sessions use: no socket, no state, no xid of
its own; HELLO and FEATURES are the connection's business.  Replies are `replies.py`, matches and actions `oxm.py`;
whoever speaks to a switch imports this module alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from firewall_app.pipeline.flow import Flow

from .error_names import NICIRA, ONF
from .oxm import DecodeError, decode_instructions, decode_match, encode_instructions, encode_match
from .replies import (
    BUNDLE_CLOSE,
    BUNDLE_COMMIT,
    BUNDLE_DISCARD,
    BUNDLE_OPEN,
    DESC,
    FLOW,
    FLOW_MONITOR,
    MULTIPART_EXPERIMENTER,
    OF13,
    OF14,
    ONF_BUNDLE_CONTROL,
    ONF_FLOW_MONITOR,
    PORT_ADD,
    PORT_DELETE,
    PORT_DESC,
    PORT_MODIFY,
    BarrierReply,
    BundleReply,
    ConfigReply,
    DescReply,
    EchoReply,
    Error,
    FlowMonitorReply,
    FlowStatsReply,
    FlowUpdate,
    Message,
    Other,
    PortDescReply,
    PortInfo,
    PortStatus,
    RawFlow,
    RoleReply,
    RoleStatus,
    decode,
    decode_flow,
    goes_on,
)  # fmt: skip

__all__ = [
    "ADD", "ALL_TABLES", "BUNDLE_CLOSE", "BUNDLE_COMMIT", "BUNDLE_DISCARD", "BUNDLE_OPEN", "DELETE",
    "DELETE_STRICT", "NO_GENERATION", "OF13", "OF14", "PORT_ADD", "PORT_DELETE", "PORT_MODIFY", "ROLE_EQUAL",
    "ROLE_MASTER", "ROLE_NO_CHANGE", "ROLE_SLAVE",
    "BarrierReply", "BundleReply", "ConfigReply", "DecodeError", "DescReply", "EchoReply", "Error",
    "FlowMonitorReply", "FlowStatsReply", "FlowUpdate",
    "Message", "Other", "PortDescReply", "PortInfo", "PortStatus", "RawFlow", "RoleReply", "RoleStatus",
    "barrier", "bundle_add", "bundle_adds", "bundle_commit", "bundle_discard", "bundle_open", "ct_flush_zone", "decode",
    "decode_flow", "decode_instructions", "decode_match", "desc_request", "echo_reply", "echo_request",
    "encode_instructions", "encode_match", "flow_mod", "flow_monitor_request", "flow_stats_request", "get_config",
    "goes_on", "port_desc_request", "raw_flow_mod", "role_request", "set_config",
]  # fmt: skip

ADD, DELETE, DELETE_STRICT = 0, 3, 4  # flow-mod commands
ROLE_NO_CHANGE, ROLE_EQUAL, ROLE_MASTER, ROLE_SLAVE = 0, 1, 2, 3
NO_GENERATION = 0xFFFFFFFFFFFFFFFF  # what a switch tells that was never asked for a role
ALL_TABLES = 255

_ECHO_REQUEST, _ECHO_REPLY, _EXPERIMENTER, _GET_CONFIG_REQUEST, _SET_CONFIG, _FLOW_MOD = 2, 3, 4, 7, 9, 14
_MULTIPART_REQUEST, _BARRIER_REQUEST, _ROLE_REQUEST, _BUNDLE_CONTROL, _BUNDLE_ADD = 18, 20, 24, 33, 34
_ANY = 0xFFFFFFFF
_ADDED, _REMOVED, _CHANGED = 2, 4, 8  # OFPFMF_*, and the same of the ONF's
_NO_BUFFER = 0xFFFFFFFF
_ATOMIC_ORDERED = 3
_ONF_BUNDLE_ADD = 2301
_NXT_CT_FLUSH_ZONE = 29

_HEADER = struct.Struct("!BBHI")
_FLOW_MOD_HEAD = struct.Struct("!BBHIQQBBHHHIIIHH")  # the last: importance in 1.4, padding in 1.3
_BUNDLE_ADD_HEAD = struct.Struct("!BBHIIHH")
_ONF_BUNDLE_ADD_HEAD = struct.Struct("!BBHIIIIHH")
# A bundle-add and the head of the flow-mod in it, of which cookie, table and priority are bytes already.
_FLOW_IN_BUNDLE = struct.Struct("!BBHIIHHBBHI8s8xcB4x2sIII4x")
_FLOW_IN_ONF_BUNDLE = struct.Struct("!BBHIIIIHHBBHI8s8xcB4x2sIII4x")
_EMPTY_MATCH = struct.pack("!HH4x", 1, 4)


def _message(version: int, kind: int, xid: int, body: bytes = b"") -> bytes:
    return _HEADER.pack(version, kind, _fits(8 + len(body)), xid) + body


def _fits(size: int) -> int:
    if size > 0xFFFF:
        raise ValueError(f"a message of {size} bytes; OpenFlow ends at 65535")
    return size


def flow_mod(version: int, xid: int, flow: Flow, command: int = ADD) -> bytes:
    """Add a flow, or delete the one with its key: strictly by table, priority and match, whatever its cookie."""
    match = encode_match(flow.match)
    if command != ADD:
        return raw_flow_mod(version, xid, command, flow.table, flow.priority, match=match)
    instructions, cookie = encode_instructions(flow.actions), flow.cookie
    return raw_flow_mod(
        version, xid, ADD, flow.table, flow.priority, match=match, instructions=instructions, cookie=cookie
    )


def raw_flow_mod(
    version: int,
    xid: int,
    command: int,
    table: int,
    priority: int,
    *,
    match: bytes = _EMPTY_MATCH,
    instructions: bytes = b"",
    cookie: int = 0,
    cookie_mask: int = 0,
    hard_timeout: int = 0,
) -> bytes:
    """A flow-mod from parts that are bytes already, such as those of a `RawFlow`.

    In a delete, `cookie` and `cookie_mask` limit which flows are meant.  `hard_timeout`: seconds until the switch
    takes the flow away by itself; 0 never.
    """
    return (
        _FLOW_MOD_HEAD.pack(
            *(version, _FLOW_MOD, _fits(48 + len(match) + len(instructions)), xid, cookie, cookie_mask),
            *(table, command, 0, hard_timeout, priority, _NO_BUFFER, _ANY, _ANY, 0, 0),
        )
        + match
        + instructions
    )


def _bundle_control(version: int, xid: int, bundle_id: int, kind: int) -> bytes:
    body = struct.pack("!IHH", bundle_id, kind, _ATOMIC_ORDERED)
    if version >= OF14:
        return _message(version, _BUNDLE_CONTROL, xid, body)
    return _message(version, _EXPERIMENTER, xid, struct.pack("!II", ONF, ONF_BUNDLE_CONTROL) + body)


def bundle_open(version: int, xid: int, bundle_id: int) -> bytes:
    """Begin a bundle whose messages take effect at once and in order, or not at all.

    A message that is refused when it is added is left out, and the commit installs the rest: whoever adds must ask
    for a barrier, and discard the bundle when an error came before the reply.
    """
    return _bundle_control(version, xid, bundle_id, BUNDLE_OPEN)


def bundle_add(version: int, bundle_id: int, message: bytes) -> bytes:
    """Put a message into a bundle, under the message's own xid, which both must bear."""
    xid = int.from_bytes(message[4:8], "big")
    if version >= OF14:
        size = _fits(_BUNDLE_ADD_HEAD.size + len(message))
        head = _BUNDLE_ADD_HEAD.pack(version, _BUNDLE_ADD, size, xid, bundle_id, 0, _ATOMIC_ORDERED)
    else:
        size = _fits(_ONF_BUNDLE_ADD_HEAD.size + len(message))
        head = _ONF_BUNDLE_ADD_HEAD.pack(
            *(version, _EXPERIMENTER, size, xid, ONF, _ONF_BUNDLE_ADD, bundle_id, 0, _ATOMIC_ORDERED)
        )
    return head + message


def bundle_adds(
    version: int, bundle_id: int, xids: Iterable[int], flows: Iterable[tuple[bytes, bytes]]
) -> Iterator[bytes]:
    """What `bundle_add` makes of the flow-mods that add flows, for thousands of them.

    Each as two pieces of bytes, as rendering.py has them: table, priority and match; cookie and instructions.
    """
    head, kind = _FLOW_IN_BUNDLE, _BUNDLE_ADD
    where: tuple[int, ...] = bundle_id, 0, _ATOMIC_ORDERED
    if version < OF14:
        head, kind, where = _FLOW_IN_ONF_BUNDLE, _EXPERIMENTER, (ONF, _ONF_BUNDLE_ADD, *where)
    pack, around = head.pack, head.size - 48
    for xid, (key, body) in zip(xids, flows, strict=True):
        size = 48 + len(key) - 3 + len(body) - 8  # of the flow-mod
        yield (
            pack(
                *(version, kind, _fits(around + size), xid, *where, version, _FLOW_MOD, size, xid),
                *(body[:8], key[:1], ADD, key[1:3], _NO_BUFFER, _ANY, _ANY),
            )
            + key[3:]
            + body[8:]
        )


def bundle_commit(version: int, xid: int, bundle_id: int) -> bytes:
    return _bundle_control(version, xid, bundle_id, BUNDLE_COMMIT)


def bundle_discard(version: int, xid: int, bundle_id: int) -> bytes:
    return _bundle_control(version, xid, bundle_id, BUNDLE_DISCARD)


def barrier(version: int, xid: int) -> bytes:
    return _message(version, _BARRIER_REQUEST, xid)


def echo_request(version: int, xid: int, data: bytes = b"") -> bytes:
    return _message(version, _ECHO_REQUEST, xid, data)


def echo_reply(version: int, xid: int, data: bytes = b"") -> bytes:
    return _message(version, _ECHO_REPLY, xid, data)


def role_request(version: int, xid: int, role: int, generation_id: int = 0) -> bytes:
    """Ask for a role; a generation older than one the switch has seen is refused with ROLE_REQUEST_FAILED/STALE."""
    return _message(version, _ROLE_REQUEST, xid, struct.pack("!I4xQ", role, generation_id))


def get_config(version: int, xid: int) -> bytes:
    return _message(version, _GET_CONFIG_REQUEST, xid)


def set_config(version: int, xid: int, flags: int, miss_send_len: int) -> bytes:
    """`flags`: how fragments are seen; 3 is OvS's nx-match.  No reply: ask for a barrier."""
    return _message(version, _SET_CONFIG, xid, struct.pack("!HH", flags, miss_send_len))


def _multipart(version: int, xid: int, kind: int, body: bytes = b"") -> bytes:
    return _message(version, _MULTIPART_REQUEST, xid, struct.pack("!HH4x", kind, 0) + body)


def desc_request(version: int, xid: int) -> bytes:
    return _multipart(version, xid, DESC)


def port_desc_request(version: int, xid: int) -> bytes:
    return _multipart(version, xid, PORT_DESC)


def flow_stats_request(
    version: int, xid: int, cookie: int = 0, cookie_mask: int = 0, table: int = ALL_TABLES, match: bytes = _EMPTY_MATCH
) -> bytes:
    """The flows of a table, or of all, whose cookie has the given bits where the mask has ones.

    `match`: of these the ones that match nothing else.
    """
    body = struct.pack("!B3xII4xQQ", table, _ANY, _ANY, cookie, cookie_mask)
    return _multipart(version, xid, FLOW, body + match)


def flow_monitor_request(version: int, xid: int) -> bytes:
    """Be told of every flow that somebody else adds, changes or removes from now on.

    1.4, or 1.3 with the ONF's extension; an Open vSwitch that is too old answers with an error.  What we do ourselves
    is told in eight bytes each.
    """
    tables = struct.pack("!B", ALL_TABLES)
    if version >= OF14:
        head = struct.pack("!IIIH", 1, _ANY, _ANY, _ADDED | _REMOVED | _CHANGED) + tables + b"\0"
        return _multipart(version, xid, FLOW_MONITOR, head + _EMPTY_MATCH)
    head = struct.pack("!IIIHHI", ONF, ONF_FLOW_MONITOR, 1, _ADDED | _REMOVED | _CHANGED, 4, _ANY) + tables + b"\0\0\0"
    return _multipart(version, xid, MULTIPART_EXPERIMENTER, head + _EMPTY_MATCH)


def ct_flush_zone(version: int, xid: int, zone: int) -> bytes:
    """Forget every connection of a zone.  No reply: ask for a barrier."""
    return _message(version, _EXPERIMENTER, xid, struct.pack("!II6xH", NICIRA, _NXT_CT_FLUSH_ZONE, zone))
