"""The operator's interface: hypervisors, droplets, ports, rules of one port; and how the service does."""

from __future__ import annotations

from dataclasses import asdict

from .. import __version__
from ..pipeline.compile import flood_here
from ..policy.errors import Fault, Invalid, NotFound
from ..policy.model import LARGEST_DROPLET_ID, Droplet, Hypervisor, Port, PortRules
from ..policy.policy import Policy
from ..progress import Sync
from ..service import describe, droplets, hypervisors
from ..service.describe import Json
from ..service.hypervisors import HypervisorView
from . import render, schemas
from .external import warn_unmapped
from .paging import page
from .routes import Call, Route, about
from .telling import ALWAYS, Told
from .v2 import number, say_unmatched

# ---- hypervisors


def list_hypervisors(call: Call) -> object:
    return page(call, "hypervisors", hypervisors.every(call.core), render.hypervisor)


def get_hypervisor(call: Call, dpid: str) -> object:
    return render.hypervisor(hypervisors.find(call.core, dpid))


def put_hypervisor(call: Call, dpid: str) -> object:
    body: schemas.HypervisorBody = call.body
    try:
        Hypervisor(dpid, "")
    except ValueError as error:
        raise Invalid.one("dpid", str(error)) from None
    found, new = call.settle(hypervisors.put(call.core, dpid, body.name or "", body.uplinks))
    call.status = 201 if new else 200
    return render.hypervisor(HypervisorView(dpid, found, call.core.progress.report(dpid)))


def delete_hypervisor(call: Call, dpid: str) -> None:
    call.settle(hypervisors.delete(call.core, dpid))


def list_flows(call: Call, dpid: str) -> object:
    """Not paged: every request reads the switch anew, so that pages would not fit together."""
    switch = call.core.switch(dpid)
    table = _number_asked(call, "table", 254)
    port = hypervisors.find_port(call.core.policy, call.query["port"]) if call.query.get("port") else None
    stats = switch.read_flows(call.settings.reply_timeout)
    policy = call.core.policy

    def told() -> object:
        found = stats
        if table is not None:
            found = [entry for entry in found if entry.flow is not None and entry.flow.table == table]
        if port is not None:
            found = render.of_port(policy, port, found)
        found.sort(key=lambda s: (s.flow.table, -s.flow.priority, s.text) if s.flow is not None else (255, 0, s.text))
        return {"flows": render.flows(policy, found)}

    return Told(ALWAYS, told)  # there may be tens of thousands


def list_zones(call: Call, dpid: str) -> object:
    """Not paged: limits are put in force for all zones or for none."""
    hypervisors.find(call.core, dpid)
    found = sorted(hypervisors.ports(call.core, dpid), key=lambda port: (port.slot, port.id))
    return {"zones": [render.zone(port, call.settings.max_port_connections) for port in found]}


def resync(call: Call, dpid: str) -> object:
    call.core.switch(dpid).resync()
    return render.hypervisor(hypervisors.find(call.core, dpid))


# ---- droplets


def list_droplets(call: Call) -> object:
    return page(call, "droplets", droplets.every(call.core, call.query.get("account")), describe.entity)


def get_droplet(call: Call, droplet_id: str) -> object:
    return describe.entity(droplets.find(call.core.policy, None, number(droplet_id, "droplet")))


def put_droplet(call: Call, droplet_id: str) -> object:
    body: schemas.DropletBody = call.body
    if droplet_id.isascii() and droplet_id.isdigit() and len(droplet_id.lstrip("0")) > len(str(LARGEST_DROPLET_ID)):
        raise Invalid.one("id", f"a droplet id is a positive integer up to {LARGEST_DROPLET_ID}")
    wanted = number(droplet_id, "droplet")
    try:
        Droplet(wanted)
    except ValueError as error:
        raise Invalid.one("id", str(error)) from None
    account = body.account or call.settings.default_account
    droplet, new = call.settle(droplets.put(call.core, wanted, account, body.name or "", body.tags or ()))
    call.status = 201 if new else 200
    return describe.entity(droplet)


def delete_droplet(call: Call, droplet_id: str) -> None:
    asked = call.query.get("ports")
    if asked not in (None, "delete"):
        raise Invalid.one("ports", "must be 'delete', or left out")
    call.settle(droplets.delete(call.core, number(droplet_id, "droplet"), with_ports=asked == "delete"))


# ---- ports


def list_ports(call: Call) -> object:
    droplet_id = _number_asked(call, "droplet_id")
    found = hypervisors.ports(call.core, call.query.get("hypervisor") or None, droplet_id)
    return page(call, "ports", found, lambda port: render.port(hypervisors.port_view(call.core, port)))


def get_port(call: Call, port_id: str) -> object:
    return _port(call, hypervisors.find_port(call.core.policy, port_id))


def put_port(call: Call, port_id: str) -> object:
    body: schemas.PortBody = call.body
    interface, ofport = body.interface, body.number
    if interface is None and ofport is None:
        raise Invalid.one("", "one of interface and number is needed")
    if interface is not None and ofport is not None:
        # Answers hold both. What was registered stays what counts, so that writing an answer back changes nothing.
        old = call.core.policy.ports.get(port_id)
        by_number = old is not None and old.number == ofport
        interface, ofport = (None, ofport) if by_number else (interface, None)
    try:
        wanted = Port(
            id=port_id,
            droplet_id=body.droplet_id,
            hypervisor=body.hypervisor,
            interface=interface,
            number=ofport,
            mac=body.mac,
            addresses=tuple(body.addresses or ()),
            max_connections=body.max_connections,
        )
    except ValueError as error:
        raise Invalid([Fault("", str(error))]) from None
    port, new = call.settle(hypervisors.put_port(call.core, wanted))
    call.status = 201 if new else 200
    return _port(call, port)


def delete_port(call: Call, port_id: str) -> None:
    call.settle(hypervisors.delete_port(call.core, port_id))


def _port(call: Call, port: Port) -> Json:
    return render.port(hypervisors.port_view(call.core, port))


# ---- rules of one port


def get_port_rules(call: Call, port_id: str) -> object:
    return _port_rules(call, port_id, counted=True)


def _port_rules(call: Call, port_id: str, counted: bool) -> object:
    policy = call.deed.after or call.core.policy  # of a write what it came to, whoever has written since
    own = hypervisors.rules_of_port(policy, port_id)
    port = policy.ports[port_id]
    view = hypervisors.port_view(call.core, port)
    interfaces = call.core.progress.report(port.hypervisor).interfaces
    flood = flood_here(policy, port.hypervisor, interfaces, call.core.rulings)
    timeout = call.settings.reply_timeout
    counters = hypervisors.counters(call.core, port.hypervisor, timeout) if counted else None
    return Told(ALWAYS, lambda: render.port_rules(policy, view, own, flood, counters))


def put_port_rules(call: Call, port_id: str) -> object:
    body: schemas.PortRulesBody = call.body
    written = call.settle(hypervisors.replace_rules(call.core, port_id, body.inbound(), body.outbound()))
    warn_unmapped(call, written.account, written.rules)
    return _port_rules(call, port_id, counted=False)  # a write does not wait for a switch that nobody asked to wait for


def add_port_rules(call: Call, port_id: str) -> None:
    body: schemas.PortRulesBody = call.body
    inbound, outbound = body.inbound(), body.outbound()
    written = call.settle(hypervisors.add_rules(call.core, port_id, inbound, outbound))
    warn_unmapped(call, written.account, inbound + outbound)


def delete_port_rules(call: Call, port_id: str) -> None:
    body: schemas.PortRulesBody | None = call.body
    if body is None:
        call.settle(hypervisors.clear_rules(call.core, port_id))
        return
    written = hypervisors.remove_rules(call.core, port_id, body.inbound(), body.outbound())
    say_unmatched(call, call.settle(written), f"port {port_id}")


# ---- the service


def health(_: Call) -> object:
    return {"status": "ok"}


def ready(call: Call) -> object:
    problems = call.core.ready()
    if call.access.barred:
        problems.append(f"store: {len(call.access.barred)} revoked tokens are refused and not kept as revoked yet")
    call.status = 503 if problems else 200
    return {"status": "not ready" if problems else "ok", "problems": problems}


def status(call: Call) -> object:
    """One object for a dashboard."""
    policy, reports = call.core.policy, call.core.progress.reports.values()
    return {
        "version": __version__,
        "revision": call.core.revision,
        "problems": call.core.ready(),
        "lease": {
            "active": call.core.token is not None,
            "token": call.core.token,
            "url": call.core.active or None,
        },
        "hypervisors": {
            "registered": len(policy.hypervisors),
            "connected": sum(report.connected for report in reports),
            **{sync.value: sum(report.sync is sync for report in reports) for sync in Sync},
            "unconfirmed": sum(not call.core.progress.confirmed(dpid) for dpid in policy.hypervisors),
        },
        "since_start": {**asdict(call.core.progress.totals), "store_failures": call.core.store_failures},
        "flows": sum(report.flows for report in reports),
        "droplets": len(policy.droplets),
        "ports": len(policy.ports),
        "tags": len(policy.tags),
        "firewalls": len(policy.firewalls),
        "rules": sum(len(owner.rules) for owner in (*policy.firewalls.values(), *policy.port_rules.values())),
    }


def _the_hypervisor(policy: Policy, _: Call, dpid: str) -> Hypervisor:
    if dpid not in policy.hypervisors:
        raise NotFound(f"there is no hypervisor {dpid}")
    return policy.hypervisors[dpid]


def _the_droplet(policy: Policy, _: Call, droplet_id: str) -> Droplet:
    return droplets.find(policy, None, number(droplet_id, "droplet"))


def _the_port(policy: Policy, _: Call, port_id: str) -> Port:
    return hypervisors.find_port(policy, port_id)


def _the_rules(policy: Policy, _: Call, port_id: str) -> PortRules:
    return hypervisors.rules_of_port(policy, port_id)


def _number_asked(call: Call, name: str, most: int | None = None) -> int | None:
    """A number in the query; None when it is not there.  Raises Invalid."""
    text = call.query.get(name)
    if not text:
        return None
    try:
        found = number(text, name)
    except NotFound:
        raise Invalid.one(name, "must be a number") from None
    if most is not None and found > most:
        raise Invalid.one(name, f"must be a number from 0 to {most}")
    return found


_HYPERVISOR, _DROPLET, _PORT = "/v1/hypervisors/{dpid}", "/v1/droplets/{droplet_id}", "/v1/ports/{port_id}"

ROUTES = (
    Route("GET", "/healthz", health, 200, open=True),
    Route("GET", "/readyz", ready, 200, open=True),
    Route("GET", "/v1/status", status, 200),
    Route("GET", "/v1/hypervisors", list_hypervisors, 200),
    *about(
        _the_hypervisor,
        Route("GET", _HYPERVISOR, get_hypervisor, 200),
        Route("PUT", _HYPERVISOR, put_hypervisor, 200, schemas.HypervisorBody, created=True),
        Route("DELETE", _HYPERVISOR, delete_hypervisor, 204),
    ),
    Route("GET", f"{_HYPERVISOR}/flows", list_flows, 200),
    Route("GET", f"{_HYPERVISOR}/zones", list_zones, 200),
    Route("POST", f"{_HYPERVISOR}/resync", resync, 202, settles=False),
    Route("GET", "/v1/droplets", list_droplets, 200),
    *about(
        _the_droplet,
        Route("GET", _DROPLET, get_droplet, 200),
        Route("PUT", _DROPLET, put_droplet, 200, schemas.DropletBody, created=True),
        Route("DELETE", _DROPLET, delete_droplet, 204),
    ),
    Route("GET", "/v1/ports", list_ports, 200),
    *about(
        _the_port,
        Route("GET", _PORT, get_port, 200),
        Route("PUT", _PORT, put_port, 200, schemas.PortBody, created=True),
        Route("DELETE", _PORT, delete_port, 204),
    ),
    *about(
        _the_rules,
        Route("GET", f"{_PORT}/rules", get_port_rules, 200),
        Route("PUT", f"{_PORT}/rules", put_port_rules, 200, schemas.PortRulesBody),
        Route("POST", f"{_PORT}/rules", add_port_rules, 204, schemas.PortRulesBody),
        Route("DELETE", f"{_PORT}/rules", delete_port_rules, 204, schemas.PortRulesBody, body_optional=True),
    ),
)
