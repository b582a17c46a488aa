"""`POST /v1/explain`: may this packet pass, why, and which flows say so."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, WithJsonSchema, field_validator

from ..pipeline.probes import SOURCE_PORT
from ..policy.decide import Check, Packet
from ..policy.model import Firewall, PortRules, Protocol, address
from ..policy.policy import Policy
from ..service import describe
from ..service.describe import Json
from ..service.explain import Answer, End, Nearest, Question, explain
from . import shapes
from .routes import Call, Route
from .schemas import Body, DropletId, after, plainly


def _host(text: str) -> str:
    address(text)
    return text


def _port(value: object) -> int:
    """One port, as a number or as text.  Raises ValueError."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 0xFFFF:
        return int(text)
    raise ValueError("must be one port, from 1 to 65535: a packet has no range of them")


_ONE_PORT = WithJsonSchema(shapes.ONE_PORT)


class EndBody(Body):
    """A droplet, a port or an address; an address beside one of the others says which of theirs."""

    model_config = ConfigDict(json_schema_extra=shapes.ONE_END)
    one_of = ("droplet_id", "port", "address")

    droplet_id: DropletId | None = None
    port: str | None = None
    address: Annotated[str, after(_host), WithJsonSchema(shapes.HOST)] | None = None

    def end(self) -> End:
        return End(self.droplet_id, self.port, address(self.address) if self.address is not None else None)


class ExplainBody(Body):
    """A packet, which need not exist."""

    model_config = ConfigDict(json_schema_extra=shapes.PACKET_PORTS)

    source: Annotated[EndBody, Field(alias="from")]
    target: Annotated[EndBody, Field(alias="to")]
    protocol: Literal["tcp", "udp", "icmp"]
    ports: Annotated[Any, Field(default=None, validate_default=True), _ONE_PORT]
    source_ports: Annotated[Any, Field(default=None), _ONE_PORT]

    @field_validator("source", "target")
    @classmethod
    @plainly
    def _one_end(cls, value: EndBody) -> EndBody:
        """Here and not in EndBody: the fault is of the end as a whole."""
        if value.droplet_id is not None and value.port is not None:
            raise ValueError("droplet_id and port cannot stand together")
        if all(getattr(value, name) is None for name in EndBody.one_of):
            raise ValueError(f"one of {', '.join(EndBody.one_of)} is needed")
        return value

    @field_validator("ports", "source_ports")
    @classmethod
    @plainly
    def _one_port(cls, value: object, info: ValidationInfo) -> int | None:
        protocol = info.data.get("protocol")
        if value is not None and protocol == "icmp":
            raise ValueError("icmp has no ports; leave them out")
        if value is None and info.field_name == "ports" and protocol in ("tcp", "udp"):
            raise ValueError(f"is required for {protocol}")
        return _port(value) if value is not None else None

    def question(self) -> Question:
        return Question(
            self.source.end(), self.target.end(), Protocol(self.protocol), self.ports or 0,
            self.source_ports or SOURCE_PORT,
        )  # fmt: skip


def explain_packet(call: Call) -> object:
    body: ExplainBody = call.body
    core = call.core
    # The policy may be large, and it is searched through.
    return core.runtime.slow(lambda: _answer(explain(core, body.question())))


def _answer(found: Answer) -> Json:
    policy = found.policy
    return {
        "verdict": found.decision.verdict.value,
        "reason": found.decision.reason,
        "packet": _packet(policy, found.packet),
        "checks": [_check(policy, *pair) for pair in zip(found.decision.checks, found.nearest, strict=True)],
        "flows": [{"hypervisor": dpid, "table": flow.table, "flow": flow.text} for dpid, flow in found.flows],
        "notes": list(found.notes),
        "others": [
            {"verdict": decision.verdict.value, "reason": decision.reason, "packet": _packet(policy, packet)}
            for packet, decision in found.others
        ],
    }


def _packet(policy: Policy, packet: Packet) -> Json:
    def end(port_id: str | None, where: object) -> Json:
        port = policy.ports[port_id] if port_id is not None else None
        return {"droplet_id": port.droplet_id if port else None, "port": port_id, "address": str(where)}

    assert isinstance(packet.protocol, Protocol)  # noqa: S101 - no question names another
    has_ports = packet.protocol is not Protocol.ICMP
    return {
        "from": end(packet.sender, packet.source),
        "to": end(packet.receiver, packet.destination),
        "protocol": packet.protocol.value,
        "source_ports": str(packet.source_port) if has_ports else None,
        "ports": str(packet.destination_port) if has_ports else None,
    }


def _check(policy: Policy, check: Check, nearest: Nearest | None) -> Json:
    return {
        "direction": check.direction.value,
        "droplet_id": policy.ports[check.port_id].droplet_id,
        "port": check.port_id,
        "verdict": check.verdict.value,
        "reason": check.reason,
        **_owner(check.rule_set),
        "rule": describe.rule(check.rule) if check.rule is not None else None,
        "nearest": {
            **_owner(nearest.rule_set),
            "rule": describe.rule(nearest.rule),
            "misses_by": "; ".join(nearest.misses),
        }
        if nearest is not None
        else None,
    }


def _owner(rule_set: Firewall | PortRules | None) -> Json:
    """The firewall that a rule stands in; none when it is a rule of the port alone."""
    firewall = rule_set if isinstance(rule_set, Firewall) else None
    return {"firewall": firewall.name if firewall else None, "firewall_id": firewall.id if firewall else None}


ROUTES = (Route("POST", "/v1/explain", explain_packet, 200, ExplainBody, safe=True),)
