"""What all rule sets have in common: names that must exist, limits, and rules that keep their id.

Names are looked up within one account; what belongs to another does not exist here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ..policy.errors import Fault, Invalid
from ..policy.model import Rule, TagKey, tag_key
from ..policy.policy import Draft, Policy
from .core import Core, Limits

PEER_KEY = {"inbound": "sources", "outbound": "destinations"}
LISTS = ("addresses", "droplet_ids", "tags", "load_balancer_uids", "kubernetes_ids")


def rule_faults(policy: Policy, account: str, rules: Iterable[tuple[str, Rule]], limits: Limits) -> list[Fault]:
    """What is wrong with rules as parts of a policy; each comes with its path (`inbound_rules[2]`)."""
    faults: list[Fault] = []
    for at, rule in rules:
        where = f"{at}.{PEER_KEY[rule.direction.value]}"
        too_long = [
            Fault(f"{where}.{name}", f"{count} entries; no more than {limits.entries} are allowed")
            for name in LISTS
            if (count := len(getattr(rule.peer, name))) > limits.entries
        ]
        faults += too_long
        if not too_long:  # a list that is too long is not looked through as well
            faults += droplet_faults(policy, account, rule.peer.droplet_ids, f"{where}.droplet_ids")
            faults += tag_faults(policy, account, rule.peer.tags, f"{where}.tags")
    return faults


def droplet_faults(policy: Policy, account: str, ids: Sequence[int], at: str) -> list[Fault]:
    def exists(droplet_id: int) -> bool:
        droplet = policy.droplets.get(droplet_id)
        return droplet is not None and droplet.account == account

    return [Fault(f"{at}[{i}]", f"droplet {d} does not exist") for i, d in enumerate(ids) if not exists(d)]


def tag_faults(policy: Policy, account: str, names: Sequence[str], at: str) -> list[Fault]:
    return [
        Fault(f"{at}[{i}]", f"tag {name!r} does not exist")
        for i, name in enumerate(names)
        if tag_key(account, name) not in policy.tags
    ]


def tags_once(account: str, names: Iterable[str]) -> tuple[str, ...]:
    """Tags in their first spelling, where that stands; two spellings that differ in case are one tag."""
    first: dict[TagKey, str] = {}
    for name in names:
        first.setdefault(tag_key(account, name), name)
    return tuple(first.values())


def too_many(at: str, what: str, items: Sequence[object], limit: int) -> list[Fault]:
    if len(items) <= limit:
        return []
    return [Fault(at, f"must have no more than {limit} {what}, not {len(items)}")]


def room_for_one(count: int, account: str, what: str, limit: int) -> None:
    """Raises Invalid when an account has as many as it may have; 0 is no limit."""
    if limit and count >= limit:
        raise Invalid.one("", f"account {account} has {count} {what}; no more than {limit} are allowed")


def with_paths(inbound: Sequence[Rule], outbound: Sequence[Rule]) -> list[tuple[str, Rule]]:
    found = [(f"inbound_rules[{i}]", rule) for i, rule in enumerate(inbound)]
    return found + [(f"outbound_rules[{i}]", rule) for i, rule in enumerate(outbound)]


def keep_ids(draft: Draft, old: Sequence[Rule], new: Sequence[Rule]) -> tuple[Rule, ...]:
    """The new rules with ids: a rule that was there keeps its own, so that its flows stay untouched.

    One that differs in some of its peers alone takes the place of one that went: of a long list of addresses that is
    written anew with one more, only that one is new to the switches.
    """
    free = list(old)
    kept: dict[int, Rule] = {}  # place among the new rules -> the one whose id it keeps
    alike: tuple[Callable[[Rule, Rule], bool], ...] = (
        lambda was, rule: was == rule,
        lambda was, rule: was.same(rule),
        lambda was, rule: (
            (was.direction, was.protocol, was.ports) == (rule.direction, rule.protocol, rule.ports)
            and was.peer.overlaps(rule.peer)
        ),
    )
    for like in alike:
        for place, rule in enumerate(new):
            known = next((was for was in free if like(was, rule)), None) if place not in kept else None
            if known is not None:
                free.remove(known)
                kept[place] = known
    return tuple(_numbered(draft, rule, kept.get(place)) for place, rule in enumerate(new))


def _numbered(draft: Draft, rule: Rule, was: Rule | None) -> Rule:
    """A rule with an id; the very one that was there, with all that is known of it, when it is written alike."""
    if was is None:
        return replace(rule, id=draft.new_rule_id())
    return was if (was, was.ports.written) == (rule, rule.ports.written) else replace(rule, id=was.id)


def added(draft: Draft, old: Sequence[Rule], new: Sequence[Rule]) -> tuple[Rule, ...]:
    """The old rules and those of the new ones that are not among them yet."""
    result, known = list(old), {rule.content for rule in _like(new, old)}
    for rule in new:
        if (content := rule.content) not in known:
            known.add(content)
            result.append(replace(rule, id=draft.new_rule_id()))
    return tuple(result)


def removed(old: Sequence[Rule], gone: Sequence[Rule]) -> tuple[tuple[Rule, ...], int]:
    """The old rules less those that say the same as one of `gone`; and how many of `gone` matched none."""
    unwanted = [rule.content for rule in gone]
    going, like = set(unwanted), _like(gone, old)
    known = {rule.content for rule in like}
    goes = {id(rule) for rule in like if rule.content in going}
    return tuple(rule for rule in old if id(rule) not in goes), sum(content not in known for content in unwanted)


def _like(some: Iterable[Rule], rules: Iterable[Rule]) -> list[Rule]:
    """Those of the rules that may say the same as some others: not all of a long list is looked at whole."""
    services = {rule.ports for rule in some}
    return [rule for rule in rules if rule.ports in services]


def note_unmatched(core: Core, unmatched: int) -> int:
    """Has the audit log say how many rules to be removed were not there: that is no error, and often a mistake."""
    if unmatched and core.deed is not None:
        core.deed.remark = f"{unmatched} of the rules to be removed are not there"
    return unmatched
