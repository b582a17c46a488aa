"""Plans that are kept up step by step are the plans that would be made from nothing; and how little a step looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from unittest import mock

import strategies as our
from hypothesis import given, settings
from hypothesis import strategies as st

from firewall_app.pipeline.compile import MOST_SETS, Rulings
from firewall_app.pipeline.plan import Delta, Parts, Plan, units
from firewall_app.pipeline.touched import Touched, touched
from firewall_app.pipeline.unit import Unit, UnitKey
from firewall_app.policy.model import (
    Direction,
    Hypervisor,
    Tag,
    tag_key,
)
from firewall_app.policy.policy import Draft, Policy

IN = Direction.INBOUND


class Follower:
    """A plan, and the units that its deltas come to; it is told what a core would tell it."""

    def __init__(self, dpid: str, rulings: Rulings, parts: Parts) -> None:
        self.dpid, self.rulings = dpid, rulings
        self.plan = Plan(dpid, rulings, parts)
        self.units: dict[UnitKey, Unit] = {}
        self.missed: Touched | None = None
        self.begun = False

    def note(self, found: Touched) -> None:
        self.missed = found if self.missed is None else self.missed | found

    def follow(self, policy: Policy, serial: int, interfaces: Mapping[int, str]) -> Delta:
        found = (self.missed or Touched()) if self.begun else None
        delta = self.plan.follow(policy, serial, interfaces, found)
        assert self.begun or not delta.gone
        assert not delta.gone & delta.units.keys()
        for name in delta.gone:
            del self.units[name]
        self.units |= delta.units
        self.missed, self.begun = None, True
        return delta

    def check(self, policy: Policy, interfaces: Mapping[int, str]) -> None:
        assert self.units == units(policy, self.dpid, interfaces, self.rulings)


@st.composite
def edits(draw: st.DrawFn, policy: Policy) -> Draft:
    """A change of any kind: of what rules see, or of a tag that rules name, or of a hypervisor's uplinks."""
    draft = policy.edit()
    match draw(st.sampled_from(["rules", "rules", "rules", "tag", "hypervisor"])):
        case "rules":
            draft = draw(our.edits(policy))
        case "hypervisor":
            dpid = draw(st.sampled_from(our.HYPERVISORS))
            draft.put(Hypervisor(dpid, "hv", draw(st.sampled_from([None, (), ("uplink*",), ("vm*",)]))))
        case "tag":
            owner, name = draw(st.sampled_from(our.ACCOUNTS)), draw(st.sampled_from(our.TAGS))
            key = tag_key(owner, name)
            if key not in policy.tags or draw(st.booleans()):
                draft.put(Tag(owner, name))
                return draft
            for droplet_id in policy.tagged.get(key, ()):
                droplet = policy.droplets[droplet_id]
                draft.put(replace(droplet, tags=tuple(tag for tag in droplet.tags if tag.lower() != name.lower())))
            draft.drop(policy.tags[key])
    return draft


@given(st.data())
@settings(deadline=None)
def test_a_plan_that_follows_is_the_plan_made_from_nothing(data: st.DataObject) -> None:
    """Hypervisors ask when they like, and each is told only of changes that concern it."""
    most = data.draw(st.sampled_from([2, 3, MOST_SETS]))
    with (
        mock.patch("firewall_app.pipeline.compile.MOST_SETS", most),
        mock.patch("firewall_app.pipeline.touched.MOST_SETS", most),
    ):
        follows(data)


def follows(data: st.DataObject) -> None:
    rulings = Rulings(closed=data.draw(st.booleans()), track_open=data.draw(st.booleans()))
    policy, parts = data.draw(our.policies()), Parts()
    followers = [Follower(dpid, rulings, parts) for dpid in our.HYPERVISORS]
    for serial in range(1, data.draw(st.integers(2, 6))):
        draft = data.draw(edits(policy))
        changes = draft.changes
        after = draft.done()
        found = touched(policy, after, changes)
        parts.touch(found, after, serial)
        concerned = {dpid for change in changes for dpid in policy.concerned(change) | after.concerned(change)}
        for one in followers:
            if one.dpid in concerned:
                one.note(found)
        policy = after
        for one in followers:
            if data.draw(st.booleans()):
                interfaces = dict(our.SITE.interfaces[one.dpid])
                for number in data.draw(st.sets(st.sampled_from(sorted(interfaces)), max_size=2)):
                    del interfaces[number]
                one.follow(policy, serial, interfaces)
                one.check(policy, interfaces)
