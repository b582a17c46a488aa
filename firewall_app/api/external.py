"""External peers: the operator's word for what a load balancer or a Kubernetes cluster is in rules."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..policy.errors import Invalid
from ..policy.model import ExternalPeer, Rule
from ..policy.policy import Policy
from ..service import describe, external
from . import schemas
from .paging import page
from .routes import Call, Route, about

MOST_NAMED = 10  # uids in one header


def list_external_peers(call: Call) -> object:
    return page(call, "external_peers", external.every(call.core, call.query.get("account")), describe.entity)


def get_external_peer(call: Call, uid: str) -> object:
    return describe.entity(external.find(call.core.policy, uid))


def put_external_peer(call: Call, uid: str) -> object:
    body: schemas.ExternalPeerBody = call.body
    account = body.account or call.settings.default_account
    named = tuple(body.addresses or ()), tuple(body.droplet_ids or ())
    try:
        wanted = ExternalPeer(uid, account, body.name or "", *named)
    except ValueError as error:
        raise Invalid.one("uid", str(error)) from None
    found, new = call.settle(external.put(call.core, wanted))
    call.status = 201 if new else 200
    return describe.entity(found)


def delete_external_peer(call: Call, uid: str) -> None:
    call.settle(external.delete(call.core, uid))


def warn_unmapped(call: Call, account: str, rules: Iterable[Rule]) -> None:
    """Says which uids of rules that were written stand for nobody."""
    uids = external.unmapped(call.core.policy, account, rules)
    if not uids:
        return
    # A uid is text of the caller: what could break a header, or fill it, is counted.
    shown = [uid for uid in uids if re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", uid)][:MOST_NAMED]
    hidden = [f"{len(uids) - len(shown)} not shown"] if len(shown) < len(uids) else []
    listed = ", ".join([*shown, *hidden])
    call.headers["Warning"] = f'299 - "uids without an external peer match nobody: {listed}"'


def _the_peer(policy: Policy, _: Call, uid: str) -> ExternalPeer:
    return external.find(policy, uid)


_EXTERNAL = "/v1/external-peers/{uid}"

ROUTES = (
    Route("GET", "/v1/external-peers", list_external_peers, 200),
    *about(
        _the_peer,
        Route("GET", _EXTERNAL, get_external_peer, 200),
        Route("PUT", _EXTERNAL, put_external_peer, 200, schemas.ExternalPeerBody, created=True),
        Route("DELETE", _EXTERNAL, delete_external_peer, 204),
    ),
)
