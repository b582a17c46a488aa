"""What the document says of each operation, beside what its route and its schemas say.

A new route needs a line here; a test fails without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from ..records import Outcome
from . import answers, shapes
from .paging import DEFAULT_PER_PAGE, MOST_PER_PAGE

Schema = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """One route.  Without a `description`, the docstring of its handler is taken."""

    id: str
    summary: str
    answer: type[BaseModel] | None = None  # None: nothing is answered, or no JSON
    description: str = ""
    query: tuple[Schema, ...] = ()
    example: object = None  # a body
    errors: tuple[int, ...] = ()  # that it gives beside those that its kind gives
    headers: tuple[str, ...] = ()  # of a good answer, beside those that its kind has
    faults: Mapping[int, type[BaseModel]] = field(default_factory=dict)  # errors with a body of their own
    media: str = ""  # of an answer that is no JSON
    gives: Mapping[str, str] = field(default_factory=dict)  # path parameter -> where its value is: links


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _or_empty(name: str, schema: Schema, description: str) -> Schema:
    """As if it were not there when it is empty."""
    return {**_query(name, schema, description), "allowEmptyValue": True}


_NUMBER = {"type": "integer", "minimum": 1, "maximum": 10**18 - 1}
_PAGED = (
    _or_empty("page", {**_NUMBER, "default": 1}, "Which page; past the last one it is empty."),
    _or_empty("per_page", {**_NUMBER, "maximum": MOST_PER_PAGE, "default": DEFAULT_PER_PAGE}, "Objects on a page."),
)
_ACCOUNT = _query("account", {"type": "string"}, "Objects of this account alone.")
# Of every operation on /v2.
ACCOUNT = _query("account", shapes.ACCOUNT, "Whose objects are meant; for operators, a tenant's token fixes it.")

# Path parameters, by name.
PATH: Mapping[str, Schema] = {
    "firewall_id": {"type": "string", "format": "uuid"},
    "droplet_id": {"type": "integer", "minimum": 1, "maximum": 2**53, "examples": [101]},
    "dpid": shapes.DPID,
    "port_id": shapes.PORT_ID,
    "name": shapes.TAG,
    "uid": shapes.EXTERNAL_UID,
    "token_id": shapes.TOKEN_ID,
    "timeline": shapes.TIMELINE,
}

TAGS: Mapping[str, tuple[str, str]] = {
    "/v2/firewalls": ("Firewalls", "Sets of rules that are attached to droplets and to tags."),
    "/v2/droplets": ("Droplets", "The virtual machines of the account."),
    "/v2/tags": ("Tags", "Labels on droplets, which firewalls and rules may name."),
    "/v2/account": ("Account", "What clients ask for to try their token."),
    "/v1/hypervisors": ("Operator: hypervisors", "Open vSwitch bridges that connect to this controller."),
    "/v1/fences": ("Operator: fences", "Switches that hold a policy which the store does not descend from."),
    "/v1/droplets": ("Operator: droplets", "Virtual machines of all accounts."),
    "/v1/ports": ("Operator: ports", "Switch ports of droplets, and the rules of one port alone."),
    "/v1/external-peers": ("Operator: external peers", "What uids of load balancers and clusters stand for."),
    "/v1/explain": ("Operator: explain", "Why a packet passes or not."),
    "/v1/tokens": ("Operator: tokens", "Who may do what."),
    "/v1/audit": ("Operator: audit log", "Who asked for what, and what came of it."),
    "/v1/status": ("Service", "How this service does."),
    "/healthz": ("Service", ""),
    "/readyz": ("Service", ""),
    "/metrics": ("Service", ""),
    "/openapi.json": ("Service", ""),
}

_RULES = {
    "inbound_rules": [{"protocol": "tcp", "ports": "443", "sources": {"addresses": ["0.0.0.0/0", "::/0"]}}],
    "outbound_rules": [{"protocol": "icmp", "destinations": {"tags": ["web"]}}],
}
_FIREWALL = {"name": "web-fw", "droplet_ids": [101], "tags": ["web"], **_RULES}
_RESOURCES = {"resources": [{"resource_id": "101", "resource_type": "droplet"}]}
_PORT = {
    "droplet_id": 101,
    "hypervisor": "0000000000000001",
    "interface": "tap7",
    "mac": "02:00:00:00:07:01",
    "addresses": ["192.0.2.7", "2001:db8::7"],
}
_UNMATCHED = "x-firewall-rules-unmatched"

OPERATIONS: Mapping[str, Operation] = {
    # ---- the tenants' interface; ids are those of the public API
    "GET /v2/account": Operation("account_get", "Show the account", answers.OneAccount),
    "GET /v2/firewalls": Operation("firewalls_list", "List firewalls", answers.Firewalls, query=_PAGED),
    "POST /v2/firewalls": Operation(
        "firewalls_create",
        "Create a firewall",
        answers.OneFirewall,
        "Answered once it is on disk; `status` and `pending_changes` tell how far it has come on the switches. "
        "Tags and droplets that it names must exist.",
        example=_FIREWALL,
        errors=(409,),
        headers=("Warning", "ETag", "Idempotent-Replayed"),
        gives={"firewall_id": "$response.body#/firewall/id"},
    ),
    "GET /v2/firewalls/{firewall_id}": Operation("firewalls_get", "Show a firewall", answers.OneFirewall),
    "PUT /v2/firewalls/{firewall_id}": Operation(
        "firewalls_update",
        "Replace a firewall",
        answers.OneFirewall,
        "What is left out becomes empty. What stays the same is not touched on any switch.",
        example=_FIREWALL,
        errors=(409,),
        headers=("Warning",),
    ),
    "DELETE /v2/firewalls/{firewall_id}": Operation("firewalls_delete", "Delete a firewall"),
    "POST /v2/firewalls/{firewall_id}/droplets": Operation(
        "firewalls_assign_droplets", "Attach droplets to a firewall", example={"droplet_ids": [101]}
    ),
    "DELETE /v2/firewalls/{firewall_id}/droplets": Operation(
        "firewalls_delete_droplets",
        "Take droplets from a firewall",
        description="Those that are not attached are passed over.",
        example={"droplet_ids": [101]},
    ),
    "POST /v2/firewalls/{firewall_id}/tags": Operation(
        "firewalls_add_tags", "Attach tags to a firewall", example={"tags": ["web"]}
    ),
    "DELETE /v2/firewalls/{firewall_id}/tags": Operation(
        "firewalls_delete_tags",
        "Take tags from a firewall",
        description="Those that are not attached are passed over.",
        example={"tags": ["web"]},
    ),
    "POST /v2/firewalls/{firewall_id}/rules": Operation(
        "firewalls_add_rules",
        "Add rules to a firewall",
        description="Rules that are there already are passed over.",
        example=_RULES,
        headers=("Warning",),
    ),
    "DELETE /v2/firewalls/{firewall_id}/rules": Operation(
        "firewalls_delete_rules",
        "Remove rules from a firewall",
        description="A rule must be given whole; what matches none is counted in a header, and no error.",
        example=_RULES,
        headers=(_UNMATCHED,),
    ),
    "GET /v2/droplets": Operation(
        "droplets_list",
        "List droplets",
        answers.CompatibleDroplets,
        query=(
            *_PAGED,
            _query("tag_name", {"type": "string"}, "Those with this tag; not together with `name` or `type`."),
            _query("name", {"type": "string"}, "Those of this name, in any case."),
            _query("type", {"type": "string", "enum": ["droplets", "gpus"]}, "There are none with GPUs."),
        ),
    ),
    "GET /v2/droplets/{droplet_id}": Operation("droplets_get", "Show a droplet", answers.OneCompatibleDroplet),
    "GET /v2/droplets/{droplet_id}/firewalls": Operation(
        "droplets_list_firewalls",
        "List the firewalls of a droplet",
        answers.Firewalls,
        "Those that it is behind, directly or by a tag.",
        query=_PAGED,
    ),
    "GET /v2/tags": Operation("tags_list", "List tags", answers.Tags, query=_PAGED),
    "POST /v2/tags": Operation(
        "tags_create",
        "Create a tag",
        answers.OneTag,
        "One that is there already is answered as it is.",
        example={"name": "web"},
        headers=("ETag",),
        faults={400: answers.TagFault},
        gives={"name": "$response.body#/tag/name"},
    ),
    "GET /v2/tags/{name}": Operation("tags_get", "Show a tag", answers.OneTag),
    "DELETE /v2/tags/{name}": Operation(
        "tags_delete", "Delete a tag", description="It is taken from all droplets, firewalls and rules."
    ),
    "POST /v2/tags/{name}/resources": Operation("tags_assign_resources", "Tag droplets", example=_RESOURCES),
    "DELETE /v2/tags/{name}/resources": Operation(
        "tags_unassign_resources", "Take a tag from droplets", example=_RESOURCES
    ),
    # ---- the operator's interface
    "GET /v1/hypervisors": Operation(
        "v1_hypervisors_list",
        "List hypervisors",
        answers.Hypervisors,
        "All that are registered, and of others those that are connected and the last that were, or were refused.",
        query=_PAGED,
    ),
    "GET /v1/hypervisors/{dpid}": Operation("v1_hypervisors_get", "Show a hypervisor", answers.Hypervisor),
    "PUT /v1/hypervisors/{dpid}": Operation(
        "v1_hypervisors_put",
        "Register or replace a hypervisor",
        answers.Hypervisor,
        "Refused when its uplinks would name a port of a droplet.",
        example={"name": "hv-1", "uplinks": ["eth*"]},
        errors=(409,),
        gives={"dpid": "$response.body#/dpid"},
    ),
    "DELETE /v1/hypervisors/{dpid}": Operation(
        "v1_hypervisors_delete",
        "Forget a hypervisor",
        description="Refused while ports are registered on it.",
        errors=(409,),
    ),
    "GET /v1/hypervisors/{dpid}/flows": Operation(
        "v1_hypervisors_flows",
        "Read the flows of a switch",
        answers.Flows,
        "As they are now, each with the rule or the port that it comes from. Not in pages.",
        query=(
            _or_empty("table", {"type": "integer", "minimum": 0, "maximum": 254}, "Those of this table."),
            _query("port", {"type": "string"}, "Those that serve this port."),
        ),
        errors=(503,),
    ),
    "GET /v1/hypervisors/{dpid}/zones": Operation(
        "v1_hypervisors_zones",
        "List the conntrack zones of a hypervisor",
        answers.Zones,
        "With the limit of connections that holds in each; 0: none. Not in pages.",
    ),
    "POST /v1/hypervisors/{dpid}/resync": Operation(
        "v1_hypervisors_resync",
        "Repair a switch now",
        answers.Hypervisor,
        "Its flows are read back, compared with the policy, and put right.",
    ),
    "GET /v1/droplets": Operation("v1_droplets_list", "List droplets", answers.Droplets, query=(*_PAGED, _ACCOUNT)),
    "GET /v1/droplets/{droplet_id}": Operation("v1_droplets_get", "Show a droplet", answers.Droplet),
    "PUT /v1/droplets/{droplet_id}": Operation(
        "v1_droplets_put",
        "Register or replace a droplet",
        answers.Droplet,
        "Tags are created on the way.",
        example={"name": "web-1", "tags": ["web"]},
        errors=(409,),
        gives={"droplet_id": "$response.body#/id"},
    ),
    "DELETE /v1/droplets/{droplet_id}": Operation(
        "v1_droplets_delete",
        "Forget a droplet",
        description="It is taken from every firewall. Refused while it has ports, unless they are to go with it.",
        query=(_query("ports", {"type": "string", "const": "delete"}, "Its ports go with it."),),
        errors=(409,),
    ),
    "GET /v1/ports": Operation(
        "v1_ports_list",
        "List ports",
        answers.Ports,
        query=(
            *_PAGED,
            _query("hypervisor", {"type": "string"}, "Those on this hypervisor."),
            _or_empty("droplet_id", {**_NUMBER, "minimum": 0}, "Those of this droplet."),
        ),
    ),
    "GET /v1/ports/{port_id}": Operation("v1_ports_get", "Show a port", answers.Port),
    "PUT /v1/ports/{port_id}": Operation(
        "v1_ports_put",
        "Register or replace a port",
        answers.Port,
        "`interface` or `number` says which switch port it is; the other is read from the switch. Refused for what "
        "another port has, and for what the hypervisor's own `uplinks` name.",
        example=_PORT,
        errors=(409,),
        gives={"port_id": "$response.body#/id"},
    ),
    "DELETE /v1/ports/{port_id}": Operation("v1_ports_delete", "Forget a port"),
    "GET /v1/ports/{port_id}/rules": Operation(
        "v1_ports_rules_get",
        "Show what applies to a port",
        answers.PortRules,
        "Its own rules, and under `rules` those of all firewalls too, with the addresses that each stands for now, and "
        "what its flows on the hypervisor have counted. Rules judge a connection when it opens, and again when a rule "
        "was taken away: these packets are counted. All ports of a firewall on the hypervisor share the flows of its "
        "rules. Null: the switch did not say.",
    ),
    "PUT /v1/ports/{port_id}/rules": Operation(
        "v1_ports_rules_put",
        "Replace the rules of a port",
        answers.PortRules,
        "A port with a set of its own, even an empty one, is behind a firewall. `packets` and `bytes` are null: they "
        "are read by GET alone.",
        example=_RULES,
        headers=("Warning",),
    ),
    "POST /v1/ports/{port_id}/rules": Operation(
        "v1_ports_rules_add", "Add rules to a port", example=_RULES, headers=("Warning",)
    ),
    "DELETE /v1/ports/{port_id}/rules": Operation(
        "v1_ports_rules_delete",
        "Remove rules from a port",
        description="Without a body the whole set is taken away.",
        example=_RULES,
        headers=(_UNMATCHED,),
    ),
    "GET /v1/external-peers": Operation(
        "v1_external_peers_list", "List external peers", answers.ExternalPeers, query=(*_PAGED, _ACCOUNT)
    ),
    "GET /v1/external-peers/{uid}": Operation("v1_external_peers_get", "Show an external peer", answers.ExternalPeer),
    "PUT /v1/external-peers/{uid}": Operation(
        "v1_external_peers_put",
        "Say whom a uid stands for",
        answers.ExternalPeer,
        "Rules of the account that name the uid mean these addresses and droplets.",
        example={"name": "lb-1", "addresses": ["203.0.113.80"], "droplet_ids": [101]},
        errors=(409,),
        gives={"uid": "$response.body#/uid"},
    ),
    "DELETE /v1/external-peers/{uid}": Operation(
        "v1_external_peers_delete", "Forget an external peer", description="Its uid stands for nobody from now on."
    ),
    "POST /v1/explain": Operation(
        "v1_explain",
        "Explain a packet",
        answers.Explanation,
        "Whether it may pass, which rules say so, and the flows that it meets. Nothing is sent anywhere.",
        example={"from": {"address": "203.0.113.9"}, "to": {"droplet_id": 101}, "protocol": "tcp", "ports": "443"},
    ),
    "GET /v1/tokens": Operation("v1_tokens_list", "List tokens", answers.Tokens, query=_PAGED, errors=(503,)),
    "POST /v1/tokens": Operation(
        "v1_tokens_create",
        "Create a token",
        answers.NewToken,
        "The secret is in this answer and nowhere else. A tenant's token needs an account.",
        example={"role": "tenant", "account": "acme", "note": "terraform of acme"},
        gives={"token_id": "$response.body#/id"},
    ),
    "GET /v1/tokens/{token_id}": Operation("v1_tokens_get", "Show a token", answers.Token, errors=(503,)),
    "DELETE /v1/tokens/{token_id}": Operation(
        "v1_tokens_delete", "Revoke a token", description="It is good for nothing from now on.", errors=(409,)
    ),
    "GET /v1/fences": Operation(
        "v1_fences_list",
        "List fences",
        answers.Fences,
        "A hypervisor that holds a policy which the store does not descend from (an older backup was restored, the "
        "store was lost, another controller drives it) is left as it is until an operator confirms. By timeline.",
        query=_PAGED,
    ),
    "POST /v1/fences/{timeline}/confirm": Operation(
        "v1_fences_confirm",
        "Lift a fence",
        answers.Fence,
        "What hypervisors hold of this timeline, up to this revision, is replaced by the policy. What only they still "
        "knew is lost.",
        example={"revision": 57},
    ),
    "GET /v1/hypervisors/{dpid}/drift": Operation(
        "v1_hypervisors_drift",
        "List what others did to the flows of a switch",
        answers.Drift,
        "Since this service started, the newest first; the last 100 flows, at most 20 of each repair.",
        query=_PAGED,
    ),
    "GET /v1/audit": Operation(
        "v1_audit_list",
        "Read the audit log",
        answers.AuditLog,
        "The newest first.",
        query=(
            *_PAGED,
            *(
                _query(name, {"type": "string"}, f"Entries with this {what} alone.")
                for name, what in (
                    ("account", "account"),
                    ("token", "token's id"),
                    ("request_id", "request id"),
                    ("method", "method"),
                    ("path", "path"),
                )
            ),
            _query(
                "outcome",
                {"type": "string", "enum": [outcome.value for outcome in Outcome]},
                "Entries with this outcome alone.",
            ),
            _or_empty("since", shapes.MOMENT, "Entries from this moment on."),
            _or_empty("until", shapes.MOMENT, "Entries before this moment."),
        ),
        errors=(503,),
    ),
    # ---- the service
    "GET /healthz": Operation("healthz", "Whether the process lives", answers.Health),
    "GET /readyz": Operation(
        "readyz",
        "Whether the service can work",
        answers.Ready,
        "The store can be reached, and every connected switch is in step.",
        faults={503: answers.Ready},
    ),
    "GET /v1/status": Operation("v1_status", "One object for a dashboard", answers.ServiceStatus),
    "GET /metrics": Operation("metrics", "Metrics for Prometheus", media="text/plain"),
    "GET /openapi.json": Operation("openapi", "This document", answers.Document),
}
