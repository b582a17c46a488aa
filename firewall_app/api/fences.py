"""The operator's interface to what goes wrong between switches and the store: fences, and what others did to flows."""

from __future__ import annotations

from ..service import fences, hypervisors
from . import render, schemas
from .paging import page
from .routes import Call, Route


def list_fences(call: Call) -> object:
    return page(call, "fences", fences.every(call.core), render.fence)


def confirm(call: Call, timeline: str) -> object:
    """Not waited for: each switch is read anew before it is changed."""
    body: schemas.FenceBody = call.body
    return render.fence(fences.confirm(call.core, timeline, body.revision))


def list_drift(call: Call, dpid: str) -> object:
    """The newest first."""
    hypervisors.find(call.core, dpid)
    return page(call, "drift", list(call.core.progress.drift.get(dpid, ()))[::-1], render.drift)


ROUTES = (
    Route("GET", "/v1/fences", list_fences, 200, operators=True),
    Route("POST", "/v1/fences/{timeline}/confirm", confirm, 200, schemas.FenceBody, operators=True, settles=False),
    Route("GET", "/v1/hypervisors/{dpid}/drift", list_drift, 200),
)
