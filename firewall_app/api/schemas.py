"""Bodies of requests: JSON to values of policy/model.py.

Unknown keys are faults, since an ignored key of a firewall rule is a hole; keys that are read-only in answers are
passed over, so that what was read can be written back.  All faults of a body are found, each with its path.  Whether
the names in it exist is not known here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ..policy.errors import Fault, Invalid
from ..policy.model import Direction, Droplet, Firewall, Peer, Port, PortRange, Protocol, Rule, Tag, network
from ..service.firewalls import FirewallSpec

# --------------------------------------------------------------------------------------------- single values

# OpenFlow carries 16 bytes of a port's name, the last one zero.
LONGEST_INTERFACE = 15
LONGEST_NAME = 255
_ACCOUNT = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def _droplet_id(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("must be a droplet id: a positive integer")
    return Droplet(value).id


def _address(text: str) -> str:
    if not text.strip():
        raise ValueError("invalid address")
    try:
        network(text)
    except ValueError as error:
        raise ValueError(f"invalid address: {error}") from None
    return text


def _tag(text: str) -> str:
    return Tag("", text).name


def _firewall_name(text: str) -> str:
    return Firewall("", "", _name(text)).name


def _name(text: str) -> str:
    if len(text) > LONGEST_NAME or not text.isprintable():
        raise ValueError(f"must be at most {LONGEST_NAME} printable characters")
    return text


def account(text: str) -> str:
    """Raises ValueError."""
    if not _ACCOUNT.fullmatch(text):
        raise ValueError("must be an account: 1 to 64 letters, digits, '.', '_', ':', '-'")
    return text


def _uplink(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value or not _name(value):
        raise ValueError("must be an interface name, a shell pattern or a port number")
    return value


_PORT = Port(id="port", droplet_id=1, hypervisor="0" * 16, interface="eth0", number=None, mac="02:00:00:00:00:01")


def _port_with(**parts: Any) -> Port:
    """A port that is right but for these parts: the model says what is wrong with them."""
    return Port(**{name: getattr(_PORT, name) for name in ("id", "droplet_id", "hypervisor", "mac")} | parts)


def _mac(text: str) -> str:
    return _port_with(mac=text.lower(), interface="eth0", number=None).mac


def _dpid(text: str) -> str:
    return _port_with(hypervisor=text, interface="eth0", number=None).hypervisor


def _number(value: int) -> int:
    _port_with(interface=None, number=value)
    return value


def _connections(value: int) -> int:
    _port_with(interface="eth0", number=None, max_connections=value)
    return value


def _own_address(text: str) -> str:
    _address(text)
    _port_with(interface="eth0", number=None, addresses=(text,))
    return text


def _interface(text: str) -> str:
    if not text or len(text.encode()) > LONGEST_INTERFACE:
        raise ValueError(
            f"must be a name of 1 to {LONGEST_INTERFACE} bytes, which is what OpenFlow tells of one; "
            "a port with a longer name is registered by its number"
        )
    return _name(text)


def ports(protocol: str | None, value: object) -> PortRange:
    """Ports in any spelling that clients use.  `protocol` None: not known.  Raises ValueError."""
    if value is None:
        value = ""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError("ports must be a string: one port, a range such as 8000-9000, or 0 for all")
    if value in ("0", "all"):
        return PortRange.every()
    if value == "":
        if protocol in ("tcp", "udp"):
            raise ValueError("You must specify a positive value for ports.")
        return PortRange.every()
    try:
        found = PortRange.parse(value)
    except ValueError as error:
        raise ValueError(f"you must specify a valid range for ports: {error}") from None
    if protocol == "icmp" and not found.is_every:
        raise ValueError("icmp has no ports; leave them out")
    return found


# --------------------------------------------------------------------------------------------- bodies

DropletId = Annotated[
    int,
    BeforeValidator(_droplet_id),
    WithJsonSchema({"type": ["integer", "string"], "minimum": 1, "pattern": "^[0-9]+$"}),
]
AddressText = Annotated[str, AfterValidator(_address)]
Name = Annotated[str, AfterValidator(_name)]
Account = Annotated[str, AfterValidator(account)]
# What only answers hold.
ReadOnly = Annotated[Any, Field(default=None, json_schema_extra={"readOnly": True})]


class Body(BaseModel):
    """A JSON object in a request."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    one_of: ClassVar[tuple[str, ...]] = ()  # keys of which at least one must be there


class Targets(Body):
    """Whom a rule names."""

    addresses: list[AddressText] | None = None
    droplet_ids: list[DropletId] | None = None
    tags: list[str] | None = None
    load_balancer_uids: list[str] | None = None
    kubernetes_ids: list[str] | None = None

    def peer(self) -> Peer:
        return Peer(
            tuple(self.addresses or ()),
            tuple(self.droplet_ids or ()),
            tuple(self.tags or ()),
            tuple(self.load_balancer_uids or ()),
            tuple(self.kubernetes_ids or ()),
        )


class _RuleBody(Body):
    """`action`: newer clients know rules that deny; here all allow, and to say so is no news."""

    protocol: Literal["tcp", "udp", "icmp"]
    action: Literal["allow"] | None = None
    ports: Annotated[
        Any,
        Field(default=None, validate_default=True),
        WithJsonSchema({"type": ["string", "integer", "null"], "examples": ["443", "8000-9000", "0"]}),
    ]

    @field_validator("ports")
    @classmethod
    def _known_ports(cls, value: object, info: ValidationInfo) -> PortRange:
        return ports(info.data.get("protocol"), value)

    def _rule(self, direction: Direction, targets: Targets | None) -> Rule:
        found: PortRange = self.ports
        return Rule(direction, Protocol(self.protocol), found, targets.peer() if targets else Peer())


class InboundRule(_RuleBody):
    sources: Targets | None

    def rule(self) -> Rule:
        return self._rule(Direction.INBOUND, self.sources)


class OutboundRule(_RuleBody):
    destinations: Targets | None

    def rule(self) -> Rule:
        return self._rule(Direction.OUTBOUND, self.destinations)


class RulesBody(Body):
    """Rules of a firewall, or of one port."""

    one_of = ("inbound_rules", "outbound_rules")

    inbound_rules: list[InboundRule] | None = None
    outbound_rules: list[OutboundRule] | None = None

    def inbound(self) -> tuple[Rule, ...]:
        return tuple(body.rule() for body in self.inbound_rules or ())

    def outbound(self) -> tuple[Rule, ...]:
        return tuple(body.rule() for body in self.outbound_rules or ())


class FirewallBody(RulesBody):
    name: Annotated[str, AfterValidator(_firewall_name)]
    droplet_ids: list[DropletId] | None = None
    tags: list[str] | None = None
    id: ReadOnly
    status: ReadOnly
    created_at: ReadOnly
    pending_changes: ReadOnly

    def spec(self) -> FirewallSpec:
        return FirewallSpec(
            self.name,
            self.inbound(),
            self.outbound(),
            tuple(self.droplet_ids or ()),
            tuple(self.tags or ()),
        )


class PortRulesBody(RulesBody):
    port_id: ReadOnly
    own: ReadOnly
    system_rules: ReadOnly
    rules: ReadOnly


class DropletIdsBody(Body):
    droplet_ids: list[DropletId] | None


class TagsBody(Body):
    tags: list[str] | None


class TagBody(Body):
    name: Annotated[str, AfterValidator(_tag)]
    resources: ReadOnly


class Resource(Body):
    resource_id: DropletId
    resource_type: Literal["droplet"]


class ResourcesBody(Body):
    resources: list[Resource]


class HypervisorBody(Body):
    name: Name | None = None
    uplinks: list[Annotated[str, BeforeValidator(_uplink)]] | None = None
    dpid: ReadOnly
    registered: ReadOnly
    created_at: ReadOnly
    connected: ReadOnly
    address: ReadOnly
    connected_since: ReadOnly
    openflow: ReadOnly
    software: ReadOnly
    sync: ReadOnly


class DropletBody(Body):
    account: Account | None = None
    name: Name | None = None
    tags: list[Annotated[str, AfterValidator(_tag)]] | None = None
    id: ReadOnly
    created_at: ReadOnly


class ExternalPeerBody(Body):
    """Whom a uid of a load balancer or a Kubernetes cluster stands for."""

    account: Account | None = None
    name: Name | None = None
    addresses: list[AddressText] | None = None
    droplet_ids: list[DropletId] | None = None
    uid: ReadOnly
    created_at: ReadOnly


class PortBody(Body):
    """`interface` or `number` says which switch port it is; of both, an answer's, one was read from the switch."""

    one_of = ("interface", "number")

    droplet_id: DropletId
    hypervisor: Annotated[str, AfterValidator(_dpid)]
    interface: Annotated[str, AfterValidator(_interface)] | None = None
    number: Annotated[int, AfterValidator(_number)] | None = None
    mac: Annotated[str, AfterValidator(_mac)]
    addresses: list[Annotated[str, AfterValidator(_own_address)]] | None = None
    max_connections: Annotated[int, AfterValidator(_connections)] | None = None
    id: ReadOnly
    status: ReadOnly
    error: ReadOnly
    created_at: ReadOnly


class TokenBody(Body):
    role: Literal["operator", "tenant", "viewer"]
    account: Account | None = None
    note: Name | None = None


# --------------------------------------------------------------------------------------------- parsing

B = TypeVar("B", bound=Body)


def parse(schema: type[B], value: object) -> B:
    """Raises Invalid with every fault."""
    faults: list[Fault] = []
    if isinstance(value, dict) and schema.one_of and not any(name in value for name in schema.one_of):
        faults.append(Fault("", f"one of {' and '.join(schema.one_of)} is needed"))
    try:
        found = schema.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        raise Invalid(faults + [Fault(_path(d["loc"]), _problem(schema, d)) for d in details]) from None
    if faults:
        raise Invalid(faults)
    return found


def _path(where: Sequence[int | str]) -> str:
    text = ""
    for step in where:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


_PLAIN = {
    "missing": "is required",
    "string_type": "must be a string",
    "int_type": "must be an integer",
    "list_type": "must be a list",
    "model_type": "must be an object",
}


def _problem(schema: type[Body], detail: ErrorDetails) -> str:
    kind, where = detail["type"], detail["loc"]
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind == "extra_forbidden":
        return _unknown(_schema_at(schema, where[:-1]), str(where[-1]))
    if kind == "model_type" and where and where[-1] in ("sources", "destinations"):
        return f"You specified an invalid type for one of the {where[-1]}."
    if kind == "literal_error":
        return f"must be {detail['ctx']['expected']}"
    return _PLAIN.get(kind, detail["msg"])


def _unknown(schema: type[Body], key: str) -> str:
    close = difflib.get_close_matches(key, _keys(schema), n=1)
    return "unknown field" + (f"; did you mean {close[0]!r}?" if close else "")


def _schema_at(schema: type[Body], where: Sequence[int | str]) -> type[Body]:
    for step in where:
        if isinstance(step, str):
            schema = _schema_in(_keys(schema)[step].annotation) or schema
    return schema


def _keys(schema: type[Body]) -> dict[str, FieldInfo]:
    """The fields by the names that they have in JSON."""
    return {field.alias or name: field for name, field in schema.model_fields.items()}


def _schema_in(annotation: Any) -> type[Body] | None:
    """The schema inside `list[InboundRule] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Body):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _schema_in(inner))), None)
