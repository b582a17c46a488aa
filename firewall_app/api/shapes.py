"""What single values of bodies, paths and answers look like, as JSON Schema for the document.

What is accepted is decided in schemas.py and policy/model.py, and a test holds the two together.  What a schema cannot
tell (the first port of a range before the last, names that exist) is left to them.
"""

from __future__ import annotations

from typing import Any

from ..policy.model import MOST_CONNECTIONS

Schema = dict[str, Any]


def _whole(*alternatives: str) -> str:
    """An expression for the whole of a text."""
    return f"^(?:{'|'.join(alternatives)})$"


_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
# RFC 3986, section 3.2.2; a `::` stands for one group at least.
_GROUP = "[0-9a-fA-F]{1,4}"
_LAST = f"(?:{_GROUP}:{_GROUP}|{_IPV4})"
_IPV6 = "|".join(
    [f"(?:{_GROUP}:){{6}}{_LAST}"]
    + [
        f"(?:(?:{_GROUP}:){{0,{before - 1}}}{_GROUP})?::(?:{_GROUP}:){{{5 - before}}}{_LAST}"
        if before
        else f"::(?:{_GROUP}:){{5}}{_LAST}"
        for before in range(6)
    ]
    + [f"(?:(?:{_GROUP}:){{0,5}}{_GROUP})?::{_GROUP}", f"(?:(?:{_GROUP}:){{0,6}}{_GROUP})?::"]
)
_TO_32 = "(?:/(?:0{0,2}[0-9]|0?[12][0-9]|0?3[0-2]))?"
_TO_128 = "(?:/(?:0{0,2}[0-9]|0?[1-9][0-9]|1[01][0-9]|12[0-8]))?"
_ADDRESS = _whole(f"{_IPV4}{_TO_32}", f"(?:{_IPV6}){_TO_128}")


def _up_to(most: int) -> str:
    """The numbers from 1, without leading zeros."""
    digits = str(most)
    rest = [
        f"{digits[:at]}[{int(not at)}-{int(digit) - 1}][0-9]{{{len(digits) - at - 1}}}"
        for at, digit in enumerate(digits)
        if int(digit) > int(not at)
    ]
    return f"(?:{'|'.join([f'[1-9][0-9]{{0,{len(digits) - 2}}}', *rest, digits])})"


_PORT = _up_to(0xFFFF)
_PORTS = _whole("0", "all", f"{_PORT}(?:-{_PORT})?")


def _text(pattern: str, **more: Any) -> Schema:
    return {"type": "string", "pattern": pattern, **more}


LONGEST_NAME = 255
LONGEST_INTERFACE = 15  # OpenFlow carries 16 bytes of a port's name, the last one zero
# No control characters, nothing invisible, nothing that turns the direction of writing.
PRINTABLE = r"^[^\u0000-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]*$"

ACCOUNT = _text("^[A-Za-z0-9._:-]{1,64}$", examples=["acme"])
ADDRESS = _text(
    _ADDRESS,
    description="An IPv4 or IPv6 address or prefix.",
    examples=["203.0.113.0/24", "2001:db8::1"],
)
CONNECTIONS = {"type": "integer", "minimum": 0, "maximum": MOST_CONNECTIONS}
DPID = _text("^[0-9a-f]{16}$", description="The datapath id of the bridge.", examples=["0000000000000001"])
DROPLET_ID = {
    "description": "An integer, or its digits as a string.",
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": 2**53},
        _text(f"^0*{_up_to(2**53)}$", maxLength=18),
    ],
    "examples": [101],
}
EXTERNAL_UID = _text("^[A-Za-z0-9._:-]{1,64}$", examples=["4de7ac8b-495b-4884-9a69-1050c6793cd6"])
FIREWALL_NAME = _text("^[a-zA-Z0-9][a-zA-Z0-9.-]+$", maxLength=LONGEST_NAME, examples=["web-fw"])
HOST = _text(_whole(_IPV4, _IPV6), description="An IPv4 or IPv6 address.", examples=["203.0.113.1"])
INTERFACE = _text(PRINTABLE, minLength=1, maxLength=LONGEST_INTERFACE, examples=["tap3"])
MAC = _text("^(?!00(?::00){5}$)[0-9a-fA-F][02468aceACE](?::[0-9a-fA-F]{2}){5}$", examples=["02:00:00:00:00:01"])
MOMENT = {"type": "string", "format": "date-time", "examples": ["2026-01-02T03:04:05Z"]}
NAME = _text(PRINTABLE, maxLength=LONGEST_NAME)
OFPORT = {"type": "integer", "minimum": 1, "maximum": 0xFF00 - 1}
ONE_PORT = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": 0xFFFF},
        _text(f"^0*{_up_to(0xFFFF)}$", maxLength=5, examples=["443"]),
        {"type": "null"},
    ]
}
OWN_ADDRESS = {**ADDRESS, "not": {"pattern": "/0+$"}}
PORT_ID = _text("^[A-Za-z0-9._:-]{1,64}$", examples=["web-1-eth0"])
TAG = _text("^[A-Za-z0-9_:-]{1,255}$", examples=["web"])
TOKEN_ID = _text("^[0-9a-f]{1,64}$")
TIMELINE = _text("^[0-9a-f]{16}$")
TEXT = _text(r"^[^\u0000]*$")  # what databases keep
UPLINK = {
    "anyOf": [_text(PRINTABLE, minLength=1, maxLength=LONGEST_NAME), {"type": "integer"}],
    "examples": ["eth0"],
}
# Of a port: one of both, and not null.
INTERFACE_OR_NUMBER: Schema = {
    "anyOf": [
        {"required": [name], "properties": {name: {"type": kind}}}
        for name, kind in (("interface", "string"), ("number", "integer"))
    ]
}
# Of a rule: how its ports may be written depends on its protocol.
PORTS_BY_PROTOCOL: Schema = {
    "if": {"properties": {"protocol": {"const": "icmp"}}},
    "then": {
        "properties": {"ports": {"anyOf": [{"enum": [0, None]}, _text(_whole("", "0", "all", "1-65535"))]}},
    },
    "else": {
        "required": ["ports"],
        "properties": {"ports": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 65535}, _text(_PORTS)]}},
    },
}
# Of a token: a tenant's is of one account, an operator's is of all.
ACCOUNT_BY_ROLE: Schema = {
    "allOf": [
        {
            "if": {"properties": {"role": {"const": "tenant"}}},
            "then": {"required": ["account"], "properties": {"account": {"type": "string"}}},
        },
        {
            "if": {"properties": {"role": {"const": "operator"}}},
            "then": {"properties": {"account": {"type": "null"}}},
        },
    ]
}
# Of an end of a packet: something must be told of it, a droplet or a port at most.
_TOLD: Schema = {"not": {"type": "null"}}
ONE_END: Schema = {
    "anyOf": [{"required": [name], "properties": {name: _TOLD}} for name in ("droplet_id", "port", "address")],
    "not": {"required": ["droplet_id", "port"], "properties": {"droplet_id": _TOLD, "port": _TOLD}},
}
PACKET_PORTS: Schema = {
    "if": {"properties": {"protocol": {"const": "icmp"}}},
    "then": {"properties": {"ports": {"type": "null"}, "source_ports": {"type": "null"}}},
    "else": {"required": ["ports"], "properties": {"ports": _TOLD}},
}
