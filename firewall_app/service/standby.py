"""Active or standby: one look at the lease, and what follows from it.

Who has the lease is `store/lease.py`'s to say; here is what a controller does that gets or loses it.
"""

from __future__ import annotations

from typing import Protocol

from .. import logs
from ..policy.errors import StoreError
from .core import Core

LOG = logs.get(__name__)


class Lease(Protocol):
    """What the service needs of a lease (`store.lease.Lease`)."""

    def take(self) -> int | None: ...

    @property
    def url(self) -> str: ...


def look(core: Core, lease: Lease) -> None:
    """Takes the lease when nobody has it, gives way when another has it.

    When the store cannot be asked all stays as it is: an active controller goes on driving its switches by the policy
    that it has (docs/decisions/0027).
    """
    try:
        token = core.runtime.aside(lease.take)
        if token is None:
            core.stand_by(lease.url)
            return
        if core.token is None:
            core.follow(whole=True)  # what the one before has committed; nobody can commit more
        core.lead(token)
    except StoreError as error:
        LOG.debug("the lease cannot be looked at", error=error)  # /readyz and every write say so
