"""External peers: whom the uids of load balancers and Kubernetes clusters stand for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..policy.errors import Conflict, Fault, Invalid, NotFound
from ..policy.model import ExternalPeer, Rule
from ..policy.policy import Draft, Policy
from .core import Core, Written
from .rules import droplet_faults


def every(core: Core, account: str | None) -> list[ExternalPeer]:
    """All external peers of an account, or of all accounts, by uid."""
    found = [one for one in core.policy.external_peers.values() if account is None or one.account == account]
    return sorted(found, key=lambda one: one.key)


def find(policy: Policy, uid: str) -> ExternalPeer:
    found = policy.external_peers.get(uid.lower())
    if found is None:
        raise NotFound(f"there is no external peer {uid}")
    return found


def put(core: Core, wanted: ExternalPeer) -> Written[tuple[ExternalPeer, bool]]:
    """Maps a uid or replaces its mapping.  The value is (external peer, whether it is new).

    Raises Invalid for droplets that the account has not, Conflict when another account has the uid.
    """

    def edit(draft: Draft) -> tuple[ExternalPeer, bool]:
        policy = draft.peek()
        old = policy.external_peers.get(wanted.key)
        if old is not None and old.account != wanted.account:
            raise Conflict(f"external peer {old.uid} belongs to account {old.account}")
        most = core.limits.entries
        faults = [
            Fault(name, f"{len(entries)} entries; no more than {most} are allowed")
            for name, entries in (("addresses", wanted.addresses), ("droplet_ids", wanted.droplet_ids))
            if len(entries) > most
        ]
        faults = faults or droplet_faults(policy, wanted.account, wanted.droplet_ids, "droplet_ids")
        if faults:
            raise Invalid(faults)
        made = replace(wanted, created_at=old.created_at if old else core.runtime.now())
        draft.put(made)
        return made, old is None

    return core.write(edit)


def delete(core: Core, uid: str) -> Written[ExternalPeer]:
    """Takes a mapping away: rules that name the uid go on naming it, and it is nobody."""

    def edit(draft: Draft) -> ExternalPeer:
        found = find(draft.peek(), uid)
        draft.drop(found)
        return found

    return core.write(edit)


def unmapped(policy: Policy, account: str, rules: Iterable[Rule]) -> list[str]:
    """The uids in rules of an account that stand for nobody, as they were written, each once."""
    rules = tuple(rules)
    mapped = {one.key for rule in rules for one in policy.external_peers_of(account, rule)}
    named = dict.fromkeys(uid for rule in rules for uid in rule.peer.external_uids)
    return [uid for uid in named if uid.lower() not in mapped]
