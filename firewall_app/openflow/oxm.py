"""Matches and actions to OpenFlow bytes and back, one form for OpenFlow 1.3 and 1.4.

The bytes are those that Open vSwitch gives back for the same flow (`nx_put_raw` in its lib/nx-match.c, the encoders
in lib/ofp-actions.c), so that what is read from a switch compares with what was sent without being decoded.  Fields
come in the order of `pipeline/flow.py`; messages are `wire.py`.  Sources: ovs-fields(7), ovs-actions(7).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from firewall_app.pipeline.flow import (
    A_FRAGMENT,
    NOT_A_FRAGMENT,
    NX_FRAG_ANY,
    NX_FRAG_LATER,
    Action,
    Bits,
    Ct,
    Load,
    Match,
    Move,
    Note,
    Output,
    Resubmit,
    Term,
    bits,
    match,
)


class DecodeError(ValueError):
    """Bytes that are not what they claim to be, or that say what we have no word for."""


# --------------------------------------------------------------------------------------------- fields

_NXM, _OXM, _EXPERIMENTER = 0x0001, 0x8000, 0xFFFF
_ONF = 0x4F4E4600


class _Wire(NamedTuple):
    """Where a field stands in the registries, and its width in bytes without mask."""

    name: str
    oxm_class: int
    number: int
    size: int

    @property
    def prefix(self) -> bytes:
        """What stands between header and value and counts into the length: the experimenter."""
        return _ONF.to_bytes(4, "big") if self.oxm_class == _EXPERIMENTER else b""

    def header(self, masked: bool) -> bytes:
        size = len(self.prefix) + self.size * (2 if masked else 1)
        return struct.pack("!HBB", self.oxm_class, self.number << 1 | masked, size) + self.prefix


_WIRE = (
    _Wire("in_port", _OXM, 0, 4),
    _Wire("eth_dst", _OXM, 3, 6),
    _Wire("eth_src", _OXM, 4, 6),
    _Wire("eth_type", _OXM, 5, 2),
    _Wire("vlan_vid", _OXM, 6, 2),
    _Wire("ip_proto", _OXM, 10, 1),
    _Wire("ipv4_src", _OXM, 11, 4),
    _Wire("ipv4_dst", _OXM, 12, 4),
    _Wire("tcp_src", _OXM, 13, 2),
    _Wire("tcp_dst", _OXM, 14, 2),
    _Wire("udp_src", _OXM, 15, 2),
    _Wire("udp_dst", _OXM, 16, 2),
    _Wire("icmp_type", _OXM, 19, 1),
    _Wire("icmp_code", _OXM, 20, 1),
    _Wire("arp_op", _OXM, 21, 2),
    _Wire("arp_spa", _OXM, 22, 4),
    _Wire("arp_tpa", _OXM, 23, 4),
    _Wire("arp_sha", _OXM, 24, 6),
    _Wire("arp_tha", _OXM, 25, 6),
    _Wire("ipv6_src", _OXM, 26, 16),
    _Wire("ipv6_dst", _OXM, 27, 16),
    _Wire("icmpv6_type", _OXM, 29, 1),
    _Wire("icmpv6_code", _OXM, 30, 1),
    _Wire("nd_target", _OXM, 31, 16),
    _Wire("nd_sll", _OXM, 32, 6),
    _Wire("nd_tll", _OXM, 33, 6),
    _Wire("tcp_flags", _EXPERIMENTER, 42, 2),  # in the basic class from OpenFlow 1.5 on only
    _Wire("reg0", _NXM, 0, 4),
    _Wire("reg1", _NXM, 1, 4),
    _Wire("reg2", _NXM, 2, 4),
    _Wire("reg3", _NXM, 3, 4),
    _Wire("reg4", _NXM, 4, 4),
    _Wire("reg5", _NXM, 5, 4),
    _Wire("reg6", _NXM, 6, 4),
    _Wire("reg7", _NXM, 7, 4),
    _Wire("ip_frag", _NXM, 26, 1),
    _Wire("ip_ttl", _NXM, 29, 1),
    _Wire("pkt_mark", _NXM, 33, 4),
    _Wire("ct_state", _NXM, 105, 4),
    _Wire("ct_zone", _NXM, 106, 2),
    _Wire("ct_mark", _NXM, 107, 4),
    _Wire("ct_label", _NXM, 108, 16),
)
_PLAIN = {wire.name: (wire.header(masked=False), wire.size) for wire in _WIRE}
_MASKED = {wire.name: (wire.header(masked=True), wire.size) for wire in _WIRE}
_BY_NUMBER = {(wire.oxm_class, wire.number): wire for wire in _WIRE}

# Fields that `pipeline/flow.py` has text for in part only: the bits that a mask may name.
_MASKS = {"ct_state": 0x3F, "tcp_flags": 0x1FF}
# Fragments are told in two bits, "is one" and "is a later one".  OvS writes its nw_frag=later and =not_later so:
_LATER = _PLAIN["ip_frag"][0] + bytes([NX_FRAG_ANY | NX_FRAG_LATER])
_NOT_LATER = _MASKED["ip_frag"][0] + bytes([0, NX_FRAG_LATER])
_A_FRAGMENT = _MASKED["ip_frag"][0] + bytes(A_FRAGMENT)
_NO_FRAGMENT = _PLAIN["ip_frag"][0] + bytes([0])


@lru_cache(maxsize=1 << 16)
def _term(term: Term) -> bytes:
    name, value, mask = term
    if name in _MASKS and (mask is None or mask & ~_MASKS[name]):
        raise ValueError(f"{name} is matched with a mask within {_MASKS[name]:#x}, not {mask}")
    if name == "ip_frag":
        return _fragment(value, mask)
    if mask is None:
        header, size = _PLAIN[name]
        return header + value.to_bytes(size, "big")
    header, size = _MASKED[name]
    return header + value.to_bytes(size, "big") + mask.to_bytes(size, "big")


def _fragment(value: int, mask: int | None) -> bytes:
    if (value, mask) == NOT_A_FRAGMENT:
        return _NO_FRAGMENT
    if (value, mask) == A_FRAGMENT:
        return _A_FRAGMENT
    if mask != NX_FRAG_LATER:
        raise ValueError(
            f"ip_frag={value}/{mask}: fragments are matched as later ones (2/2) or not (0/2), any (1/1) or none (0/3)"
        )
    return _LATER if value else _NOT_LATER


_HH = struct.Struct("!HH")
_PADS = tuple(bytes(-n % 8) for n in range(8))


def encode_match(what: Match) -> bytes:
    """The whole ofp_match, its padding included."""
    return join_fields(b"".join(map(_term, what.terms)))


def encode_field(name: str, value: int, mask: int | None = None) -> bytes:
    """One field of a match; nothing when it matches everything.

    For the fields that rules are made of; that a match needs it, and has it in its place, is the caller's business.
    """
    header, size = _PLAIN[name]
    if mask is None or mask == (1 << 8 * size) - 1:
        return header + value.to_bytes(size, "big")
    return _MASKED[name][0] + value.to_bytes(size, "big") + mask.to_bytes(size, "big") if mask else b""


def join_fields(fields: bytes) -> bytes:
    """The whole ofp_match of fields in their order."""
    size = 4 + len(fields)
    return _HH.pack(1, size) + fields + _PADS[size & 7]


def decode_match(data: bytes) -> Match:
    """The inverse of `encode_match`; raises DecodeError."""
    if len(data) < 4:
        raise DecodeError(f"a match of {len(data)} bytes")
    kind, size = _HH.unpack_from(data)
    if kind != 1:
        raise DecodeError(f"match type {kind} is not OXM")
    if size < 4 or size + -size % 8 != len(data):
        raise DecodeError(f"a match says {size} bytes and has {len(data)}")
    fields: dict[str, tuple[int, int] | int] = {}
    offset = 4
    while offset < size:
        wire, masked, payload, offset = _field(data, offset, size)
        if wire.name in fields:
            raise DecodeError(f"{wire.name} is matched twice")
        value = int.from_bytes(payload[: wire.size], "big")
        if wire.name == "ip_frag" and not masked and value == NX_FRAG_ANY | NX_FRAG_LATER:
            value, masked, payload = NX_FRAG_LATER, True, bytes([NX_FRAG_LATER, NX_FRAG_LATER])
        elif wire.name == "ip_frag" and not masked and value == 0:
            masked, payload = True, bytes([0, NOT_A_FRAGMENT[1]])
        fields[wire.name] = (value, int.from_bytes(payload[wire.size :], "big")) if masked else value
    try:
        return match(**fields)
    except ValueError as error:
        raise DecodeError(f"a match that cannot be: {error}") from error


def _field(data: bytes, offset: int, end: int) -> tuple[_Wire, bool, bytes, int]:
    """One field at `offset`: what it is, whether masked, its value (and mask), and where the next begins."""
    if end - offset < 4:
        raise DecodeError(f"{end - offset} bytes left over in a match")
    oxm_class, number, size = struct.unpack_from("!HBB", data, offset)
    wire = _BY_NUMBER.get((oxm_class, number >> 1))
    if wire is None:
        raise DecodeError(f"match field {number >> 1} of class {oxm_class:#06x} is none of ours")
    header = (_MASKED if number & 1 else _PLAIN)[wire.name][0]
    following = offset + 4 + size
    if following > end:
        raise DecodeError(f"{wire.name} says {size} bytes, {end - offset - 4} are left")
    if data[offset : offset + len(header)] != header:
        raise DecodeError(f"{wire.name} has the header {data[offset : offset + len(header)].hex()}")
    return wire, bool(number & 1), data[offset + len(header) : following], following


# --------------------------------------------------------------------------------------------- actions

_OFPAT_OUTPUT, _OFPAT_EXPERIMENTER = 0, 0xFFFF
_OFPIT_APPLY_ACTIONS = 4
_NICIRA = 0x00002320
_MOVE, _LOAD, _NOTE, _RESUBMIT, _CT, _RESUBMIT_CT = 6, 7, 8, 14, 35, 44
_SAME_IN_PORT = 0xFFF8  # OFPP_IN_PORT
_COMMIT = 1
_LAST_TABLE = 254  # 255 is "this table" to resubmit and "no table" to ct

_INSTRUCTION = struct.Struct("!HHI")
_NX = struct.Struct("!HHIH")  # what every Nicira action begins with
_OUTPUT_ACTION = struct.Struct("!HHIH6x")
_LOAD_ACTION = struct.Struct("!HHIHHIQ")
_MOVE_ACTION = struct.Struct("!HHIHHHHII")
_RESUBMIT_ACTION = struct.Struct("!HHIHHB3x")
_CT_ACTION = struct.Struct("!HHIHHIHB3xH")

# Fields that actions name, by the 32 bits of their unmasked header.
_HEADERS = {
    name: int.from_bytes(_PLAIN[name][0], "big") for name in (*(f"reg{n}" for n in range(1, 8)), "ct_mark", "ct_label")
}
_NAMES = {header: name for name, header in _HEADERS.items()}


def encode_instructions(actions: tuple[Action, ...]) -> bytes:
    """One apply-actions instruction; nothing for no actions."""
    if not actions:
        return b""
    body = b"".join(map(_action, actions))
    size = 8 + len(body)
    if size > 0xFFFF:
        raise ValueError(f"{len(actions)} actions take {size} bytes; a flow holds 65535")
    return _INSTRUCTION.pack(_OFPIT_APPLY_ACTIONS, size, 0) + body


def _header(field: Bits) -> int:
    header = _HEADERS.get(field.name)
    if header is None:
        raise ValueError(f"no action reads or writes {field.name}")
    return header


def _range(field: Bits) -> int:
    return field.first << 6 | field.last - field.first


def _table(table: int) -> int:
    if not 0 <= table <= _LAST_TABLE:
        raise ValueError(f"table {table} is not between 0 and {_LAST_TABLE}")
    return table


def _action(action: Action) -> bytes:
    if isinstance(action, Load):
        return _load(action)
    if isinstance(action, Resubmit):
        subtype = _RESUBMIT_CT if action.ct else _RESUBMIT
        return _RESUBMIT_ACTION.pack(_OFPAT_EXPERIMENTER, 16, _NICIRA, subtype, _SAME_IN_PORT, _table(action.table))
    if isinstance(action, Output):
        return _OUTPUT_ACTION.pack(_OFPAT_OUTPUT, 16, action.port, 0)
    if isinstance(action, Ct):
        return _ct(action)
    if isinstance(action, Move):
        return _move(action)
    return _note(action)


def _load(action: Load) -> bytes:
    to = action.to
    if to.width > 64:
        raise ValueError(f"{action.text}: one load writes 64 bits at most")
    return _LOAD_ACTION.pack(_OFPAT_EXPERIMENTER, 24, _NICIRA, _LOAD, _range(to), _header(to), action.value)


def _move(action: Move) -> bytes:
    source, to = action.source, action.to
    head = (_OFPAT_EXPERIMENTER, 24, _NICIRA, _MOVE)
    return _MOVE_ACTION.pack(*head, source.width, source.first, to.first, _header(source), _header(to))


def _ct(action: Ct) -> bytes:
    if action.zone.width != 16:
        raise ValueError(f"{action.zone.text} is not the 16 bits of a zone")
    nested = b"".join(_load(do) if isinstance(do, Load) else _move(do) for do in action.exec)
    return (
        _CT_ACTION.pack(
            *(_OFPAT_EXPERIMENTER, _CT_ACTION.size + len(nested), _NICIRA, _CT),
            *(_COMMIT if action.commit else 0, _header(action.zone), _range(action.zone)),
            *(_table(action.table), 0),
        )
        + nested
    )


def _note(action: Note) -> bytes:
    size = _NX.size + len(action.data)
    if size % 8 or not action.data:
        # A switch pads with zeros and reads them back as data: another note than the one that was sent.
        raise ValueError(f"a note of {len(action.data)} bytes; 6, 14, 22, .. can be read back")
    return _NX.pack(_OFPAT_EXPERIMENTER, size, _NICIRA, _NOTE) + action.data


def decode_instructions(data: bytes) -> tuple[Action, ...]:
    """The inverse of `encode_instructions`; raises DecodeError."""
    if not data:
        return ()
    if len(data) < 8:
        raise DecodeError(f"an instruction of {len(data)} bytes")
    kind, size, _ = _INSTRUCTION.unpack_from(data)
    if kind != _OFPIT_APPLY_ACTIONS:
        raise DecodeError(f"instruction type {kind} is not apply-actions")
    if size != len(data):
        raise DecodeError(f"apply-actions says {size} bytes, the flow has {len(data)}")
    return tuple(_decode_action(part) for part in _parts(data, 8))


def _parts(data: bytes, offset: int) -> Iterator[bytes]:
    """The actions of a list, each with its header."""
    while offset < len(data):
        if len(data) - offset < 8:
            raise DecodeError(f"{len(data) - offset} bytes left over in a list of actions")
        size = _HH.unpack_from(data, offset)[1]
        if size < 8 or size % 8 or offset + size > len(data):
            raise DecodeError(f"an action says {size} bytes, {len(data) - offset} are left")
        yield data[offset : offset + size]
        offset += size


def _decode_action(data: bytes) -> Action:
    kind = _HH.unpack_from(data)[0]
    if kind == _OFPAT_OUTPUT:
        _exactly(data, _OUTPUT_ACTION, "output")
        return Output(_OUTPUT_ACTION.unpack(data)[2])
    subtype = _subtype(data)
    if subtype in (_RESUBMIT, _RESUBMIT_CT):
        _exactly(data, _RESUBMIT_ACTION, "resubmit")
        *_, in_port, table = _RESUBMIT_ACTION.unpack(data)
        if in_port != _SAME_IN_PORT:
            raise DecodeError(f"a resubmit under another port, {in_port}")
        return Resubmit(_decode_table(table, "resubmit"), ct=subtype == _RESUBMIT_CT)
    if subtype == _CT:
        return _decode_ct(data)
    if subtype == _NOTE:
        return Note(data[_NX.size :])
    return _decode_write(data)


def _decode_write(data: bytes) -> Load | Move:
    """What may also stand inside ct(exec()).  No other: lists within lists end here."""
    subtype = _subtype(data)
    try:
        if subtype == _LOAD:
            _exactly(data, _LOAD_ACTION, "load")
            *_, where, header, value = _LOAD_ACTION.unpack(data)
            return Load(value, _decode_bits(header, where >> 6, (where & 0x3F) + 1))
        if subtype == _MOVE:
            _exactly(data, _MOVE_ACTION, "move")
            *_, count, first, to_first, source, to = _MOVE_ACTION.unpack(data)
            return Move(_decode_bits(source, first, count), _decode_bits(to, to_first, count))
    except DecodeError:
        raise
    except ValueError as error:
        raise DecodeError(f"an action that cannot be: {error}") from error
    raise DecodeError(f"Nicira action {subtype} is none of ours, or not there")


def _decode_ct(data: bytes) -> Ct:
    if len(data) < _CT_ACTION.size:
        raise DecodeError(f"ct has {len(data)} bytes, {_CT_ACTION.size} at least are needed")
    *_, flags, header, where, table, alg = _CT_ACTION.unpack_from(data)
    if flags & ~_COMMIT or alg:
        raise DecodeError(f"ct has the flags {flags:#x} and the helper {alg}, of which we know commit alone")
    if not header:
        raise DecodeError(f"ct names the zone {where}, ours are in registers")
    try:
        zone = _decode_bits(header, where >> 6, (where & 0x3F) + 1)
    except DecodeError:
        raise
    except ValueError as error:
        raise DecodeError(f"the zone of ct: {error}") from error
    if zone.width != 16:
        raise DecodeError(f"the zone of ct has {zone.width} bits")
    nested = tuple(_decode_write(part) for part in _parts(data, _CT_ACTION.size))
    return Ct(zone, _decode_table(table, "ct"), bool(flags & _COMMIT), nested)


def _decode_bits(header: int, first: int, count: int) -> Bits:
    name = _NAMES.get(header)
    if name is None:
        raise DecodeError(f"an action on the field {header:#010x}, none of ours")
    return bits(name, first, first + count - 1)


def _decode_table(table: int, what: str) -> int:
    if table > _LAST_TABLE:
        raise DecodeError(f"{what} names no table")
    return table


def _subtype(data: bytes) -> int:
    kind, size = _HH.unpack_from(data)
    if kind != _OFPAT_EXPERIMENTER:
        raise DecodeError(f"action type {kind} is none of ours")
    if size < _NX.size:
        raise DecodeError(f"an experimenter action of {size} bytes")
    _, _, vendor, subtype = _NX.unpack_from(data)
    if vendor != _NICIRA:
        raise DecodeError(f"an action of the experimenter {vendor:#010x}")
    return int(subtype)


def _exactly(data: bytes, layout: struct.Struct, what: str) -> None:
    if len(data) != layout.size:
        raise DecodeError(f"{what} has {len(data)} bytes, {layout.size} are right")
