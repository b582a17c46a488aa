"""What is answered, as schemas for the document: the twin of render.py, and never on the way of an answer.

Clients must expect that objects get more keys.  A test holds answers to exactly these.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, WithJsonSchema

from . import shapes

Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"}, pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
Count = Annotated[int, Field(ge=0)]
DropletId = Annotated[int, Field(ge=1)]
Dpid = Annotated[str, WithJsonSchema(shapes.DPID)]
Mac = Annotated[str, WithJsonSchema(shapes.MAC)]
PortId = Annotated[str, WithJsonSchema(shapes.PORT_ID)]
TagName = Annotated[str, WithJsonSchema(shapes.TAG)]
Url = Annotated[str, Field(json_schema_extra={"format": "uri"})]
Uuid = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Status = Literal["waiting", "succeeded", "failed"]


class Answer(BaseModel):
    """A JSON object in an answer."""


# ---- errors and pages


class FaultAt(Answer):
    """One thing that is wrong."""

    at: str = Field(description="Path in the body, or name in the query; empty: the whole.", examples=["name"])
    problem: str


class Fault(Answer):
    """What is wrong with a request."""

    id: str = Field(examples=["unprocessable_entity"])
    message: str
    request_id: str | None = Field(None, description="Stands in the log of the service.")
    errors: list[FaultAt] | None = Field(None, description="Every fault that was found.")


class TagFault(Fault):
    """What is wrong with a tag's body; the public API has a shape of its own for it."""

    error: str
    messages: list[str] | None
    root_causes: list[str]


class Pages(Answer):
    """Absolute links to other pages; what does not apply is left out."""

    first: Url = ""
    prev: Url = ""
    next: Url = ""
    last: Url = ""


class Links(Answer):
    pages: Pages | None = None


class Meta(Answer):
    total: Count = Field(description="Objects on all pages together.")


class Page(Answer):
    links: Links
    meta: Meta


# ---- the tenants' interface


class Peer(Answer):
    """Whom a rule names; empty lists are left out.  Nothing named: nobody."""

    addresses: list[str] = Field([], examples=[["203.0.113.0/24", "2001:db8::/32"]])
    droplet_ids: list[DropletId] = []
    tags: list[str] = []
    load_balancer_uids: list[str] = []
    kubernetes_ids: list[str] = []


class _Rule(Answer):
    protocol: Literal["tcp", "udp", "icmp"]
    ports: str = Field(description="One port, a range, or `0` for all; as it was written.", examples=["443"])


class RuleIn(_Rule):
    """Lets peers open connections to the droplets."""

    sources: Peer


class RuleOut(_Rule):
    """Lets the droplets open connections to peers."""

    destinations: Peer


class PendingChange(Answer):
    """A droplet that the last change has not reached yet."""

    droplet_id: DropletId
    removing: bool
    status: str


class Firewall(Answer):
    id: Uuid
    name: str
    status: Status
    created_at: Moment
    inbound_rules: list[RuleIn]
    outbound_rules: list[RuleOut]
    droplet_ids: list[DropletId] = Field(description="Attached directly; those reached by a tag are not listed.")
    tags: list[TagName]
    pending_changes: list[PendingChange]


class OneFirewall(Answer):
    firewall: Firewall


class Firewalls(Page):
    firewalls: list[Firewall]


class NetworkV4(Answer):
    ip_address: Annotated[str, Field(json_schema_extra={"format": "ipv4"})]
    netmask: str
    gateway: str | None
    type: Literal["public", "private"]


class NetworkV6(Answer):
    ip_address: Annotated[str, Field(json_schema_extra={"format": "ipv6"})]
    netmask: int
    gateway: str
    type: Literal["public"]


class Networks(Answer):
    v4: list[NetworkV4]
    v6: list[NetworkV6]


class Image(Answer):
    id: int
    name: str
    type: str
    distribution: str
    slug: str | None
    public: bool
    regions: list[str]
    created_at: Moment | None
    min_disk_size: int
    size_gigabytes: float
    description: str
    tags: list[str]
    status: str
    error_message: str


class Size(Answer):
    slug: str
    memory: int
    vcpus: int
    disk: int
    transfer: float
    price_monthly: float
    price_hourly: float
    regions: list[str]
    available: bool
    description: str


class Region(Answer):
    slug: str
    name: str
    sizes: list[str]
    available: bool
    features: list[str]


class CompatibleDroplet(Answer):
    """A droplet as the public API has it; of memory, image and the like nothing is known here."""

    id: DropletId
    name: str
    memory: int
    vcpus: int
    disk: int
    locked: bool
    status: Literal["active"]
    created_at: Moment | None
    features: list[str]
    backup_ids: list[int]
    next_backup_window: None
    snapshot_ids: list[int]
    image: Image
    volume_ids: list[str]
    size: Size
    size_slug: str
    networks: Networks
    region: Region
    tags: list[TagName]


class OneCompatibleDroplet(Answer):
    droplet: CompatibleDroplet


class CompatibleDroplets(Page):
    droplets: list[CompatibleDroplet]


class TaggedCount(Answer):
    count: Count
    last_tagged_uri: str


class TaggedResources(TaggedCount):
    droplets: TaggedCount
    images: TaggedCount
    volumes: TaggedCount
    volume_snapshots: TaggedCount
    databases: TaggedCount


class Tag(Answer):
    name: TagName
    resources: TaggedResources


class OneTag(Answer):
    tag: Tag


class Tags(Page):
    tags: list[Tag]


class Account(Answer):
    name: str
    email: str
    uuid: Uuid
    email_verified: bool
    status: Literal["active"]
    status_message: str
    droplet_limit: int
    floating_ip_limit: int
    reserved_ip_limit: int
    volume_limit: int


class OneAccount(Answer):
    account: Account


# ---- the operator's interface


Timeline = Annotated[str, WithJsonSchema(shapes.TIMELINE)]


class Held(Answer):
    """The policy that a switch holds, when this controller must not replace it."""

    timeline: Timeline
    revision: Count


class Fence(Held):
    hypervisors: list[Dpid]


class Fences(Page):
    fences: list[Fence]


class DriftEntry(Answer):
    """What somebody else did to a flow of ours, which was put right; or a flow of theirs in a table of ours."""

    at: Moment
    change: Literal["added", "changed", "removed", "foreign"]
    flow: str


class Drift(Page):
    drift: list[DriftEntry]


class Sync(Answer):
    """How a switch stands to the policy."""

    state: Literal["in_sync", "syncing", "failed", "standby", "unreachable"]
    flows: Count
    last_change_at: Moment | None
    last_repair_at: Moment | None
    repaired_flows: Count
    foreign_flows: Count = Field(description="Flows of others in tables of the firewall; they are left alone.")
    error: str | None
    fence: Held | None
    watched: bool | None = Field(description="Whether it tells of what others do to its flows; null: not known.")


class Hypervisor(Answer):
    dpid: Dpid
    registered: bool
    name: str | None
    uplinks: list[str] | None
    created_at: Moment | None
    connected: bool
    address: str | None
    connected_since: Moment | None
    openflow: str | None
    software: str | None
    sync: Sync


class Hypervisors(Page):
    hypervisors: list[Hypervisor]


class Droplet(Answer):
    id: DropletId
    account: str
    name: str
    tags: list[TagName]
    created_at: Moment | None


class Droplets(Page):
    droplets: list[Droplet]


class Port(Answer):
    id: PortId
    droplet_id: DropletId
    hypervisor: Dpid
    interface: str | None
    number: int | None
    mac: Mac
    addresses: list[str]
    max_connections: int | None
    status: Literal["waiting", "succeeded", "failed", "absent", "unreachable"]
    error: str | None
    created_at: Moment | None


class Ports(Page):
    ports: list[Port]


class ExternalPeer(Answer):
    """Whom the uid of a load balancer or a Kubernetes cluster stands for."""

    uid: Annotated[str, WithJsonSchema(shapes.EXTERNAL_UID)]
    account: str
    name: str
    addresses: list[str]
    droplet_ids: list[DropletId]
    created_at: Moment | None


class ExternalPeers(Page):
    external_peers: list[ExternalPeer]


class Zone(Answer):
    zone: int
    port: PortId
    droplet_id: DropletId
    max_connections: Count


class Zones(Answer):
    zones: list[Zone]


class OwnerFirewall(Answer):
    id: Uuid
    name: str


class OwnedRule(Answer):
    """A rule with the set that it stands in: a firewall, or a port's own."""

    id: int
    direction: Literal["inbound", "outbound"]
    firewall: OwnerFirewall | None
    port: PortId | None
    protocol: Literal["tcp", "udp", "icmp"]
    ports: str
    sources: Peer | None = None
    destinations: Peer | None = None


class ResolvedRule(OwnedRule):
    addresses: list[str] = Field(description="What its peers stand for now.")
    flows: list[str]
    packets: Count | None = Field(
        description="Packets that opened connections by it, or were judged again, on the hypervisor; null: not known."
    )
    bytes: Count | None


class SystemRule(Answer):
    """What always passes a port."""

    name: str
    direction: Literal["inbound", "outbound"]
    text: str
    flows: list[str]


class PortRules(Answer):
    port_id: PortId
    own: bool = Field(description="Whether the port has a set of its own.")
    inbound_rules: list[RuleIn]
    outbound_rules: list[RuleOut]
    rules: list[ResolvedRule]
    system_rules: list[SystemRule]


class Flow(Answer):
    flow: str = Field(description="One line, as `ovs-ofctl dump-flows` writes it.")
    packets: Count
    bytes: Count
    rule: OwnedRule | None
    port: PortId | None


class Flows(Answer):
    flows: list[Flow]


class PacketEnd(Answer):
    droplet_id: DropletId | None
    port: PortId | None
    address: str


class Packet(Answer):
    sender: PacketEnd = Field(alias="from")
    receiver: PacketEnd = Field(alias="to")
    protocol: Literal["tcp", "udp", "icmp"]
    source_ports: str | None
    ports: str | None


class Verdict(Answer):
    verdict: Literal["ALLOW", "DROP"]
    reason: str


class _OfFirewall(Answer):
    firewall: str | None
    firewall_id: Uuid | None


class NearestRule(_OfFirewall):
    rule: RuleIn | RuleOut
    misses_by: str


class Check(_OfFirewall):
    """What one end says to the packet."""

    direction: Literal["inbound", "outbound"]
    droplet_id: DropletId
    port: PortId
    verdict: Literal["ALLOW", "DROP"]
    reason: str
    rule: RuleIn | RuleOut | None
    nearest: NearestRule | None = Field(description="Of a drop: the rule that comes nearest, and what is off.")


class FlowOf(Answer):
    hypervisor: Dpid
    table: int
    flow: str


class OtherPacket(Verdict):
    packet: Packet


class Explanation(OtherPacket):
    """Whether a packet may pass, and why."""

    checks: list[Check]
    flows: list[FlowOf] = Field(description="What the packet meets on switches.")
    notes: list[str]
    others: list[OtherPacket] = Field(description="Other packets that the question may mean.")


class Token(Answer):
    id: Annotated[str, WithJsonSchema(shapes.TOKEN_ID)]
    role: Literal["operator", "tenant", "viewer"]
    account: str | None
    note: str
    created_at: Moment
    revoked_at: Moment | None


class Tokens(Page):
    tokens: list[Token]


class NewToken(Token):
    """A token with its secret, which is told this once."""

    token: str


class Change(Answer):
    """One object before and after; null is what was not there.

    `cut`: before and after tell only the `difference` of the lists in them, or but an entity tag of each (`all`).
    Where there were `more` objects than a line may tell, the last one says how many.
    """

    kind: str
    id: str | int | None
    before: dict[str, object] | None
    after: dict[str, object] | None
    cut: Literal["difference", "all"] = "all"
    more: int = 0


class AuditEntry(Answer):
    """Who asked for what, and what came of it."""

    id: int
    at: Moment
    request_id: str
    token: str | None = Field(description="The token's id.")
    who: str = Field(description="The token's note.")
    role: str
    account: str | None
    address: str
    method: str
    path: str
    outcome: Literal["done", "unchanged", "refused", "failed"]
    problem: str | None
    changes: list[Change]


class AuditLog(Page):
    entries: list[AuditEntry]


# ---- the service


class Health(Answer):
    status: Literal["ok"]


class Ready(Answer):
    status: Literal["ok", "not ready"]
    problems: list[str]


class HypervisorCounts(Answer):
    registered: Count
    connected: Count
    in_sync: Count
    syncing: Count
    failed: Count
    standby: Count
    unreachable: Count
    unconfirmed: Count


class Lease(Answer):
    """Of several controllers with one store the one that has the lease is active; `url` is where that one is."""

    active: bool
    token: Count | None
    url: str | None


class SinceStart(Answer):
    changes: Count
    connections: Count
    refusals: Count
    repairs: Count
    repaired_flows: Count
    store_failures: Count


class ServiceStatus(Answer):
    version: str
    revision: Count
    problems: list[str]
    lease: Lease
    hypervisors: HypervisorCounts
    since_start: SinceStart
    flows: Count
    droplets: Count
    ports: Count
    tags: Count
    firewalls: Count
    rules: Count


class Document(Answer):
    """This document."""

    openapi: str
    info: dict[str, object]
    security: list[dict[str, object]]
    tags: list[dict[str, object]]
    paths: dict[str, object]
    components: dict[str, object]
