"""The tenants' interface: DigitalOcean's public firewall API, to the letter where a client would notice.

Each handler is one operation of that API.  Success codes stand in the table at the end: several clients compare them.
"""

from __future__ import annotations

import uuid

from .. import logs
from ..policy.errors import Invalid, NotFound
from ..policy.model import Droplet, Firewall, Tag
from ..policy.policy import LAST_SLOT, Policy
from ..service import describe, droplets, firewalls
from ..service.describe import Json
from . import render, schemas
from .external import warn_unmapped
from .paging import page
from .routes import Call, Route, about
from .telling import Told, weight

LOG = logs.get(__name__)

UNMATCHED = "x-firewall-rules-unmatched"

# ---- firewalls


def list_firewalls(call: Call) -> object:
    return page(call, "firewalls", firewalls.every(call.core, call.account), lambda f: _firewall(call, f))


def create_firewall(call: Call) -> object:
    body: schemas.FirewallBody = call.body
    written = firewalls.create(call.core, call.account, body.spec())
    call.tag(written.value)
    if call.deed.made_before is not None:
        call.headers["Idempotent-Replayed"] = "true"
    warn_unmapped(call, call.account, written.value.rules)
    return {"firewall": _firewall(call, call.settle(written))}


def get_firewall(call: Call, firewall_id: str) -> object:
    return {"firewall": _firewall(call, firewalls.find(call.core.policy, call.account, firewall_id))}


def update_firewall(call: Call, firewall_id: str) -> object:
    body: schemas.FirewallBody = call.body
    written = firewalls.update(call.core, call.account, firewall_id, body.spec())
    warn_unmapped(call, call.account, written.value.rules)
    return {"firewall": _firewall(call, call.settle(written))}


def delete_firewall(call: Call, firewall_id: str) -> None:
    call.settle(firewalls.delete(call.core, call.account, firewall_id))


def assign_droplets(call: Call, firewall_id: str) -> None:
    body: schemas.DropletIdsBody = call.body
    call.settle(firewalls.add_droplets(call.core, call.account, firewall_id, body.droplet_ids or ()))


def remove_droplets(call: Call, firewall_id: str) -> None:
    body: schemas.DropletIdsBody = call.body
    call.settle(firewalls.remove_droplets(call.core, call.account, firewall_id, body.droplet_ids or ()))


def add_tags(call: Call, firewall_id: str) -> None:
    body: schemas.TagsBody = call.body
    call.settle(firewalls.add_tags(call.core, call.account, firewall_id, body.tags or ()))


def remove_tags(call: Call, firewall_id: str) -> None:
    body: schemas.TagsBody = call.body
    call.settle(firewalls.remove_tags(call.core, call.account, firewall_id, body.tags or ()))


def add_rules(call: Call, firewall_id: str) -> None:
    body: schemas.RulesBody = call.body
    inbound, outbound = body.inbound(), body.outbound()
    call.settle(firewalls.add_rules(call.core, call.account, firewall_id, inbound, outbound))
    warn_unmapped(call, call.account, inbound + outbound)


def delete_rules(call: Call, firewall_id: str) -> None:
    body: schemas.RulesBody = call.body
    written = firewalls.remove_rules(call.core, call.account, firewall_id, body.inbound(), body.outbound())
    say_unmatched(call, call.settle(written), f"firewall {firewall_id}")


def list_firewalls_of_droplet(call: Call, droplet_id: str) -> object:
    found = firewalls.of_droplet(call.core, call.account, _droplet(call, droplet_id).id)
    return page(call, "firewalls", found, lambda f: _firewall(call, f))


def _firewall(call: Call, firewall: Firewall) -> Told:
    view = firewalls.view(call.core, firewall)
    written = 1 if describe.firewall_text.has(firewall) else weight(firewall.rules)
    return Told(written + len(view.pending), lambda: render.firewall(view))


def say_unmatched(call: Call, unmatched: int, owner: str) -> None:
    """Removing a rule that is not there is no error; a caller who meant another one should still be able to see it."""
    if unmatched:
        call.headers[UNMATCHED] = str(unmatched)
        LOG.warning("rules to be removed are not there", rules=unmatched, owner=owner)


# ---- droplets


def list_droplets(call: Call) -> object:
    query = call.query
    if "tag_name" in query and ("name" in query or "type" in query):
        raise Invalid.one("tag_name", "cannot be combined with name or type")
    if query.get("type", "droplets") not in ("droplets", "gpus"):
        raise Invalid.one("type", "must be 'droplets' or 'gpus'")
    found = droplets.every(call.core, call.account)
    if "tag_name" in query:
        wanted = query["tag_name"].lower()
        found = [d for d in found if wanted in (tag.lower() for tag in d.tags)]
    if "name" in query:
        found = [d for d in found if d.name.lower() == query["name"].lower()]
    if query.get("type") == "gpus":
        found = []
    return page(call, "droplets", found, lambda d: render.compatible_droplet(call.core.policy, d))


def get_droplet(call: Call, droplet_id: str) -> object:
    return {"droplet": render.compatible_droplet(call.core.policy, _droplet(call, droplet_id))}


def _droplet(call: Call, text: str) -> Droplet:
    return droplets.find(call.core.policy, call.account, number(text, "droplet"))


def number(text: str, what: str) -> int:
    """A number in a path.  Raises NotFound: there is nothing at a path that holds another word."""
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    raise NotFound(f"there is no {what} {text}")


# ---- tags


def list_tags(call: Call) -> object:
    return page(call, "tags", droplets.tags(call.core, call.account), lambda t: _tag(call, t))


def create_tag(call: Call) -> object:
    body: schemas.TagBody = call.body
    tag = call.settle(droplets.create_tag(call.core, call.account, body.name))
    call.tag(tag)
    return {"tag": _tag(call, tag)}


def get_tag(call: Call, name: str) -> object:
    return {"tag": _tag(call, droplets.find_tag(call.core.policy, call.account, name))}


def delete_tag(call: Call, name: str) -> None:
    call.settle(droplets.delete_tag(call.core, call.account, name))


def tag_resources(call: Call, name: str) -> None:
    _tag_droplets(call, name, add=True)


def untag_resources(call: Call, name: str) -> None:
    _tag_droplets(call, name, add=False)


def _tag_droplets(call: Call, name: str, add: bool) -> None:
    body: schemas.ResourcesBody = call.body
    ids = [resource.resource_id for resource in body.resources]
    call.settle(droplets.tag_droplets(call.core, call.account, name, ids, add))


def _tag(call: Call, tag: Tag) -> Json:
    return render.tag(tag, len(droplets.carriers(call.core.policy, tag)))


# ---- what paths are about


def _the_firewall(policy: Policy, call: Call, firewall_id: str) -> Firewall:
    return firewalls.find(policy, call.account, firewall_id)


def _the_droplet(policy: Policy, call: Call, droplet_id: str) -> Droplet:
    return droplets.find(policy, call.account, number(droplet_id, "droplet"))


def _the_tag(policy: Policy, call: Call, name: str) -> Tag:
    return droplets.find_tag(policy, call.account, name)


# ---- account


def get_account(call: Call) -> object:
    """Some clients ask for it first, to see whether their token is good."""
    return {
        "account": {
            "droplet_limit": LAST_SLOT,
            "floating_ip_limit": 0,
            "reserved_ip_limit": 0,
            "volume_limit": 0,
            "name": call.account,
            "email": f"{call.account}@localhost",
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"account:{call.account}")),
            "email_verified": True,
            "status": "active",
            "status_message": "",
        }
    }


_FIREWALL = "/v2/firewalls/{firewall_id}"
_TAG = "/v2/tags/{name}"

ROUTES = (
    Route("GET", "/v2/account", get_account, 200),
    Route("GET", "/v2/firewalls", list_firewalls, 200),
    Route("POST", "/v2/firewalls", create_firewall, 202, schemas.FirewallBody, once=True),
    *about(
        _the_firewall,
        Route("GET", _FIREWALL, get_firewall, 200),
        Route("PUT", _FIREWALL, update_firewall, 200, schemas.FirewallBody),
        Route("DELETE", _FIREWALL, delete_firewall, 204),
        Route("POST", f"{_FIREWALL}/droplets", assign_droplets, 204, schemas.DropletIdsBody),
        Route("DELETE", f"{_FIREWALL}/droplets", remove_droplets, 204, schemas.DropletIdsBody),
        Route("POST", f"{_FIREWALL}/tags", add_tags, 204, schemas.TagsBody),
        Route("DELETE", f"{_FIREWALL}/tags", remove_tags, 204, schemas.TagsBody),
        Route("POST", f"{_FIREWALL}/rules", add_rules, 204, schemas.RulesBody),
        Route("DELETE", f"{_FIREWALL}/rules", delete_rules, 204, schemas.RulesBody),
    ),
    Route("GET", "/v2/droplets", list_droplets, 200),
    *about(_the_droplet, Route("GET", "/v2/droplets/{droplet_id}", get_droplet, 200)),
    Route("GET", "/v2/droplets/{droplet_id}/firewalls", list_firewalls_of_droplet, 200),
    Route("GET", "/v2/tags", list_tags, 200),
    Route("POST", "/v2/tags", create_tag, 201, schemas.TagBody),
    *about(
        _the_tag,
        Route("GET", _TAG, get_tag, 200),
        Route("DELETE", _TAG, delete_tag, 204),
        Route("POST", f"{_TAG}/resources", tag_resources, 204, schemas.ResourcesBody),
        Route("DELETE", f"{_TAG}/resources", untag_resources, 204, schemas.ResourcesBody),
    ),
)
