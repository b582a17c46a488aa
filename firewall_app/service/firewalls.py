"""Firewalls, as the tenant API has them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..policy.errors import Conflict, Crowded, Fault, Invalid, NotFound
from ..policy.model import Firewall, Rule, tag_key
from ..policy.policy import Draft, Policy
from ..progress import PendingChange, Status
from .core import Core, Limits, Written
from .rules import (
    added,
    droplet_faults,
    keep_ids,
    note_unmatched,
    removed,
    room_for_one,
    rule_faults,
    tag_faults,
    tags_once,
    too_many,
    with_paths,
)


@dataclass(frozen=True)
class FirewallSpec:
    """A firewall as someone wants it; lists as they were written, what is named twice too."""

    name: str
    inbound_rules: tuple[Rule, ...] = ()
    outbound_rules: tuple[Rule, ...] = ()
    droplet_ids: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class FirewallView:
    """A firewall, and how far its last changes have come."""

    firewall: Firewall
    status: Status
    pending: tuple[PendingChange, ...]


def view(core: Core, firewall: Firewall) -> FirewallView:
    """A firewall as it was written, with its status now; one that is gone since is waiting for good."""
    if firewall.id not in core.policy.firewalls:
        return FirewallView(firewall, Status.WAITING, ())
    pending = core.progress.pending(core.policy, firewall.id)
    return FirewallView(firewall, core.progress.status_of(pending), pending)


def find(policy: Policy, account: str, firewall_id: str) -> Firewall:
    firewall = policy.firewalls.get(firewall_id)
    if firewall is None or firewall.account != account:
        raise NotFound(f"there is no firewall {firewall_id}")
    return firewall


def every(core: Core, account: str) -> list[Firewall]:
    """All firewalls of an account, the oldest first."""
    policy = core.policy
    ids = policy.account_firewalls.get(account)
    if ids is None:
        core.by_age.pop(account, None)  # nothing is kept for names that anybody may ask for
        return []
    known, ordered = core.by_age.get(account, (None, []))
    if known is not ids:  # an index is another object when it is another
        ordered = sorted(ids, key=lambda one: _age(policy.firewalls[one]))
        core.by_age[account] = ids, ordered
    return [policy.firewalls[one] for one in ordered]


def of_droplet(core: Core, account: str, droplet_id: int) -> list[Firewall]:
    """The firewalls that a droplet is behind, directly or by a tag.  Raises NotFound."""
    droplet = core.policy.droplets.get(droplet_id)
    if droplet is None or droplet.account != account:
        raise NotFound(f"there is no droplet {droplet_id}")
    return sorted(core.policy.firewalls_of(droplet_id), key=_age)


def _age(firewall: Firewall) -> tuple[str, str]:
    return str(firewall.created_at), firewall.id


def create(core: Core, account: str, spec: FirewallSpec) -> Written[Firewall]:
    """Raises Invalid, Conflict (`duplicate name`).  Asked again under one key, it gives what it made the first time."""

    def edit(draft: Draft) -> Firewall:
        policy = draft.peek()
        made = core.deed.made_before if core.deed is not None else None
        if made is not None:
            firewall = policy.firewalls.get(made)
            if firewall is None:
                raise Conflict(f"firewall {made}, which this Idempotency-Key made, has been deleted")
            return firewall
        wanted = _checked(policy, account, spec, core.limits)
        if policy.firewalls_named.get((account, spec.name)):
            raise Conflict("duplicate name")
        count = len(policy.account_firewalls.get(account, ()))
        room_for_one(count, account, "firewalls", core.limits.account_firewalls)
        firewall = Firewall(
            str(uuid.uuid4()), account, wanted.name,
            keep_ids(draft, (), wanted.inbound_rules), keep_ids(draft, (), wanted.outbound_rules),
            wanted.droplet_ids, wanted.tags, core.runtime.now(),
        )  # fmt: skip
        draft.put(firewall)
        return firewall

    return _attach(core, account, edit, spec.droplet_ids, spec.tags)


def update(core: Core, account: str, firewall_id: str, spec: FirewallSpec) -> Written[Firewall]:
    """Replaces a firewall whole; what stays the same is not touched anywhere.  Raises Invalid, NotFound, Conflict."""

    def edit(draft: Draft) -> Firewall:
        policy = draft.peek()
        old = find(policy, account, firewall_id)
        wanted = _checked(policy, account, spec, core.limits)
        if policy.firewalls_named.get((account, spec.name), frozenset()) - {old.id}:
            raise Conflict("duplicate name")
        new = replace(
            old, name=wanted.name, droplet_ids=wanted.droplet_ids, tags=wanted.tags,
            inbound_rules=keep_ids(draft, old.inbound_rules, wanted.inbound_rules),
            outbound_rules=keep_ids(draft, old.outbound_rules, wanted.outbound_rules),
        )  # fmt: skip
        draft.put(new)
        return new

    return _attach(core, account, edit, spec.droplet_ids, spec.tags)


def delete(core: Core, account: str, firewall_id: str) -> Written[Firewall]:
    def edit(draft: Draft) -> Firewall:
        firewall = find(draft.peek(), account, firewall_id)
        draft.drop(firewall)
        return firewall

    return core.write(edit)


def add_droplets(core: Core, account: str, firewall_id: str, ids: Sequence[int]) -> Written[Firewall]:
    def edit(draft: Draft) -> Firewall:
        policy = draft.peek()
        old = find(policy, account, firewall_id)
        new = replace(old, droplet_ids=tuple(dict.fromkeys((*old.droplet_ids, *ids))))
        faults = droplet_faults(policy, account, ids, "droplet_ids")
        faults += too_many("droplet_ids", "droplets", new.droplet_ids, core.limits.droplets)
        return _put(draft, new, faults)

    return _attach(core, account, edit, ids, ())


def remove_droplets(core: Core, account: str, firewall_id: str, ids: Sequence[int]) -> Written[Firewall]:
    """Droplets that are not attached are passed over: the outcome is the one asked for."""

    def edit(draft: Draft) -> Firewall:
        old = find(draft.peek(), account, firewall_id)
        return _put(draft, replace(old, droplet_ids=tuple(i for i in old.droplet_ids if i not in set(ids))))

    return core.write(edit)


def add_tags(core: Core, account: str, firewall_id: str, names: Sequence[str]) -> Written[Firewall]:
    def edit(draft: Draft) -> Firewall:
        policy = draft.peek()
        old = find(policy, account, firewall_id)
        new = replace(old, tags=tags_once(account, (*old.tags, *names)))
        faults = tag_faults(policy, account, names, "tags")
        faults += too_many("tags", "tags", new.tags, core.limits.tags)
        return _put(draft, new, faults)

    return _attach(core, account, edit, (), names)


def remove_tags(core: Core, account: str, firewall_id: str, names: Sequence[str]) -> Written[Firewall]:
    def edit(draft: Draft) -> Firewall:
        old = find(draft.peek(), account, firewall_id)
        gone = {name.lower() for name in names}
        return _put(draft, replace(old, tags=tuple(tag for tag in old.tags if tag.lower() not in gone)))

    return core.write(edit)


def add_rules(
    core: Core, account: str, firewall_id: str, inbound: Sequence[Rule], outbound: Sequence[Rule]
) -> Written[Firewall]:
    """Rules that are there already are passed over."""

    def edit(draft: Draft) -> Firewall:
        policy = draft.peek()
        old = find(policy, account, firewall_id)
        new = replace(
            old,
            inbound_rules=added(draft, old.inbound_rules, inbound),
            outbound_rules=added(draft, old.outbound_rules, outbound),
        )
        faults = rule_faults(policy, account, with_paths(inbound, outbound), core.limits)
        faults += too_many("", "rules", new.rules, core.limits.rules)
        return _put(draft, new, faults)

    return core.write(edit)


def remove_rules(
    core: Core, account: str, firewall_id: str, inbound: Sequence[Rule], outbound: Sequence[Rule]
) -> Written[int]:
    """Removes rules that say the same as those given; the value is how many of those matched nothing."""

    def edit(draft: Draft) -> int:
        old = find(draft.peek(), account, firewall_id)
        left_in, missed_in = removed(old.inbound_rules, inbound)
        left_out, missed_out = removed(old.outbound_rules, outbound)
        _put(draft, replace(old, inbound_rules=left_in, outbound_rules=left_out))
        return note_unmatched(core, missed_in + missed_out)

    return core.write(edit)


def _attach(
    core: Core, account: str, edit: Callable[[Draft], Firewall], ids: Sequence[int], names: Sequence[str]
) -> Written[Firewall]:
    """Writes what attaches these droplets and tags; one that a droplet has too many by is told by its place."""
    try:
        return core.write(edit)
    except Crowded as error:
        if error.droplet_id in ids:
            raise error.at(f"droplet_ids[{ids.index(error.droplet_id)}]") from None
        droplet = core.policy.droplets.get(error.droplet_id)
        carried = droplet.tag_keys if droplet is not None else frozenset()
        places = (f"tags[{i}]" for i, name in enumerate(names) if tag_key(account, name) in carried)
        raise error.at(next(places, "")) from None


def _put(draft: Draft, firewall: Firewall, faults: Sequence[Fault] = ()) -> Firewall:
    if faults:
        raise Invalid(faults)
    draft.put(firewall)
    return firewall


def _checked(policy: Policy, account: str, spec: FirewallSpec, limits: Limits) -> FirewallSpec:
    """What is wanted, each droplet and each tag once, a tag in its first spelling.  Raises Invalid.

    Faults are told by their places among what was written.
    """
    once = replace(spec, droplet_ids=tuple(dict.fromkeys(spec.droplet_ids)), tags=tags_once(account, spec.tags))
    faults = droplet_faults(policy, account, spec.droplet_ids, "droplet_ids")
    faults += tag_faults(policy, account, spec.tags, "tags")
    faults += rule_faults(policy, account, with_paths(spec.inbound_rules, spec.outbound_rules), limits)
    faults += too_many("droplet_ids", "droplets", once.droplet_ids, limits.droplets)
    faults += too_many("tags", "tags", once.tags, limits.tags)
    faults += too_many("", "rules", spec.inbound_rules + spec.outbound_rules, limits.rules)
    if faults:
        raise Invalid(faults)
    return once
