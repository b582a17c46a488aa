"""Bodies of requests: JSON to values of policy/model.py.

Unknown keys are faults, since an ignored key of a firewall rule is a hole; keys that are read-only in answers are
passed over, so that what was read can be written back.  All faults of a body are found, each with its path.  Whether
the names in it exist is not known here.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError
from typing_extensions import TypeAliasType

from ..policy.errors import Fault, Invalid
from ..policy.model import (
    EXTERNAL_UID,
    LARGEST_DROPLET_ID,
    Direction,
    Droplet,
    Firewall,
    Peer,
    Port,
    PortRange,
    Protocol,
    Rule,
    Tag,
    network,
)
from ..service.access import account
from ..service.firewalls import FirewallSpec
from . import shapes
from .errors import MOST_FAULTS
from .shapes import LONGEST_INTERFACE, LONGEST_NAME

# --------------------------------------------------------------------------------------------- single values

MOST_HINTS, LONGEST_HINTED = 20, 40  # unknown keys for which near ones are looked for, and characters of such a key

_NAME = re.compile(shapes.PRINTABLE)


def _droplet_id(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"must be a droplet id: a positive integer up to {LARGEST_DROPLET_ID}")
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
    if len(text) > LONGEST_NAME or not _NAME.fullmatch(text):
        raise ValueError(f"must be at most {LONGEST_NAME} printable characters")
    return text


def _uid(text: str) -> str:
    """Any other could never be mapped to an external peer, and would be nobody for good."""
    if not EXTERNAL_UID.fullmatch(text):
        raise ValueError("must be a uid: 1 to 64 letters, digits, '.', '_', ':', '-'")
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


def plainly(check: Callable[..., Any]) -> Callable[..., Any]:
    """A check whose fault is kept as text: an exception is kept with its traceback, and there may be very many."""

    @functools.wraps(check)
    def checked(*args: Any) -> Any:
        try:
            return check(*args)
        except ValueError as error:
            raise PydanticCustomError("fault", "{problem}", {"problem": str(error)}) from None

    return checked


def after(check: Callable[[Any], object]) -> AfterValidator:
    return AfterValidator(plainly(check))


def before(check: Callable[[Any], object]) -> BeforeValidator:
    return BeforeValidator(plainly(check))


# Types with a name of their own stand once in the OpenAPI document.
DropletId = TypeAliasType("DropletId", Annotated[int, before(_droplet_id), WithJsonSchema(shapes.DROPLET_ID)])
AddressText = TypeAliasType("AddressText", Annotated[str, after(_address), WithJsonSchema(shapes.ADDRESS)])
Name = Annotated[str, after(_name), WithJsonSchema(shapes.NAME)]
Account = Annotated[str, after(account), WithJsonSchema(shapes.ACCOUNT)]
TagName = Annotated[str, after(_tag), WithJsonSchema(shapes.TAG)]
TagThere = Annotated[str, WithJsonSchema(shapes.TEXT)]  # must exist already: what cannot be a tag does not
Uid = Annotated[str, after(_uid), WithJsonSchema(shapes.EXTERNAL_UID)]
Uplink = Annotated[str, before(_uplink), WithJsonSchema(shapes.UPLINK)]
Interface = Annotated[str, after(_interface), WithJsonSchema(shapes.INTERFACE)]
OwnAddress = Annotated[str, after(_own_address), WithJsonSchema(shapes.OWN_ADDRESS)]


def _at_most(setting: str) -> Any:
    """How long a list may be is a setting; openapi.py puts the number there."""
    return Field(default=None, json_schema_extra={"x-setting": setting})


# What only answers hold.
ReadOnly = Annotated[
    Any, Field(default=None, description="Ignored: only answers hold it.", json_schema_extra={"readOnly": True})
]


class Body(BaseModel):
    """A JSON object in a request."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    one_of: ClassVar[tuple[str, ...]] = ()  # keys of which at least one must be there

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler.resolve_ref_schema(handler(core))
        if cls.one_of:
            found.setdefault("anyOf", [{"required": [name]} for name in cls.one_of])
        return found


class Targets(Body):
    """Whom a rule names; nobody when all is empty.  A list may hold {max_entries} entries."""

    addresses: list[AddressText] | None = None
    droplet_ids: list[DropletId] | None = None
    tags: list[TagThere] | None = None
    load_balancer_uids: list[Uid] | None = None
    kubernetes_ids: list[Uid] | None = None

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

    model_config = ConfigDict(json_schema_extra=shapes.PORTS_BY_PROTOCOL)

    protocol: Literal["tcp", "udp", "icmp"]
    action: Literal["allow"] | None = None
    ports: Annotated[
        Any,
        Field(
            default=None,
            validate_default=True,
            description="One port, a range such as `8000-9000`, or `0` or `all` for all; `icmp` has none.",
            examples=["443", "8000-9000", "0"],
        ),
    ]

    @field_validator("ports")
    @classmethod
    @plainly
    def _known_ports(cls, value: object, info: ValidationInfo) -> PortRange:
        return ports(info.data.get("protocol"), value)

    def _rule(self, direction: Direction, targets: Targets | None) -> Rule:
        found: PortRange = self.ports
        return Rule(direction, Protocol(self.protocol), found, targets.peer() if targets else Peer())


class InboundRule(_RuleBody):
    """Lets peers open connections to the droplets."""

    sources: Targets | None

    def rule(self) -> Rule:
        return self._rule(Direction.INBOUND, self.sources)


class OutboundRule(_RuleBody):
    """Lets the droplets open connections to peers."""

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
    """A firewall whole: what is left out is empty."""

    inbound_rules: list[InboundRule] | None = _at_most("max_rules")
    outbound_rules: list[OutboundRule] | None = _at_most("max_rules")
    name: Annotated[str, after(_firewall_name), WithJsonSchema(shapes.FIREWALL_NAME)]
    droplet_ids: list[DropletId] | None = _at_most("max_droplets")
    tags: list[TagThere] | None = _at_most("max_tags")
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
    tags: list[TagThere] | None


class TagBody(Body):
    name: TagName
    resources: ReadOnly


class Resource(Body):
    resource_id: DropletId
    resource_type: Literal["droplet"]


class ResourcesBody(Body):
    resources: list[Resource]


class HypervisorBody(Body):
    name: Name | None = None
    uplinks: list[Uplink] | None = Field(
        default=None, description="Interfaces, shell patterns or OpenFlow numbers; null: what the options say."
    )
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
    tags: list[TagName] | None = None
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

    model_config = ConfigDict(json_schema_extra=shapes.INTERFACE_OR_NUMBER)
    one_of = ("interface", "number")

    droplet_id: DropletId
    hypervisor: Annotated[str, after(_dpid), WithJsonSchema(shapes.DPID)]
    interface: Interface | None = None
    number: Annotated[int, after(_number), WithJsonSchema(shapes.OFPORT)] | None = None
    mac: Annotated[str, after(_mac), WithJsonSchema(shapes.MAC)]
    addresses: list[OwnAddress] | None = Field(default=None, description="What the droplet may send from.")
    max_connections: Annotated[int, after(_connections), WithJsonSchema(shapes.CONNECTIONS)] | None = Field(
        default=None, description="Tracked at once; 0: no limit, null: the option `max_port_connections`."
    )
    id: ReadOnly
    status: ReadOnly
    error: ReadOnly
    created_at: ReadOnly


class FenceBody(Body):
    revision: int = Field(ge=0, description="The newest that a hypervisor holds: GET /v1/fences shows it.")


class TokenBody(Body):
    model_config = ConfigDict(json_schema_extra=shapes.ACCOUNT_BY_ROLE)

    role: Literal["operator", "tenant", "viewer"]
    account: Account | None = None
    note: Name | None = None


# --------------------------------------------------------------------------------------------- parsing

B = TypeVar("B", bound=Body)


def parse(schema: type[B], value: object) -> B:
    """Raises Invalid with every fault; those that nobody would be told of are counted alone."""
    faults: list[Fault] = []
    if isinstance(value, dict) and schema.one_of and not any(name in value for name in schema.one_of):
        faults.append(Fault("", f"one of {' and '.join(schema.one_of)} is needed"))
    more = 0
    try:
        found = schema.model_validate(value)
    except ValidationError as error:
        found, (told, more) = None, _faults(schema, error, MOST_FAULTS - len(faults))
        faults += told
    # Not in the handler: what is raised there holds on to all that pydantic found.
    if found is None or faults:
        raise Invalid(faults, more)
    return found


def _faults(schema: type[Body], error: ValidationError, most: int) -> tuple[list[Fault], int]:
    """The first faults, and how many more there are."""
    details = error.errors(include_url=False, include_input=False)
    told = details[:most]
    problems = _problems(schema, told)
    found = [Fault(path(d["loc"]), problem) for d, problem in zip(told, problems, strict=True)]
    return found, len(details) - len(told)


def path(where: Sequence[int | str]) -> str:
    """A place in a body, as faults tell it."""
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


def _problems(schema: type[Body], details: Sequence[ErrorDetails]) -> list[str]:
    found, hints = [], 0
    for detail in details:
        if detail["type"] == "extra_forbidden":
            *where, key = detail["loc"]
            hinted = hints < MOST_HINTS and len(str(key)) <= LONGEST_HINTED
            hints += hinted
            found.append("unknown field" + (_hint(_schema_at(schema, where), str(key)) if hinted else ""))
        else:
            found.append(_problem(detail))
    return found


def _problem(detail: ErrorDetails) -> str:
    kind, where = detail["type"], detail["loc"]
    if kind == "model_type" and where and where[-1] in ("sources", "destinations"):
        return f"You specified an invalid type for one of the {where[-1]}."
    if kind == "literal_error":
        return f"must be {detail['ctx']['expected']}"
    return _PLAIN.get(kind, detail["msg"])


def _hint(schema: type[Body], key: str) -> str:
    close = difflib.get_close_matches(key, _keys(schema), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


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
