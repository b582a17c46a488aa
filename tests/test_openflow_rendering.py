"""Units rendered by template are what their flows are, encoded: byte for byte, whatever the unit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from representative import HERE, SITE, representative

from firewall_app.openflow import rendering
from firewall_app.openflow.rendering import Body, Key, encoded, render
from firewall_app.pipeline.compile import Rulings
from firewall_app.pipeline.plan import units
from firewall_app.pipeline.tables import INBOUND_RULES, OUTBOUND_RULES, OWN_SET, TAG_SET
from firewall_app.pipeline.unit import (
    AddressSet,
    Fence,
    FirewallSets,
    Generation,
    PortFirewalls,
    PortGuards,
    PortProtection,
    Protection,
    RuleFlows,
    SetMembers,
    Unit,
)
from firewall_app.policy.model import Direction, Network, PortRange, Protocol

U32 = st.integers(0, 0xFFFFFFFF)
U63 = st.integers(0, (1 << 63) - 1)
SLOTS = st.integers(1, 65000)
MACS = st.binary(min_size=6, max_size=6).map(lambda octets: octets.hex(":"))
DIRECTIONS = st.sampled_from(Direction)
NUMBERED = st.sampled_from((INBOUND_RULES, OUTBOUND_RULES))
SETS = st.builds(AddressSet, st.sampled_from((OWN_SET, TAG_SET)), U32)


@st.composite
def networks(draw: st.DrawFn, whole: bool = False) -> Network:
    version = draw(st.sampled_from((4, 6)))
    bits = 32 if version == 4 else 128
    prefix = bits if whole else draw(st.integers(0, bits))
    value = draw(st.one_of(st.integers(0, (1 << bits) - 1), st.just(0)))
    if version == 6 and draw(st.booleans()):
        value = 0xFE80 << 112 | value & (1 << 64) - 1
    return Network(version, value >> bits - prefix << bits - prefix, prefix)


@st.composite
def ranges(draw: st.DrawFn) -> PortRange:
    first, last = sorted(draw(st.tuples(*[st.integers(0, 0xFFFF)] * 2)))
    return draw(st.sampled_from((PortRange(first, last), PortRange(first, first), PortRange.every())))


UNITS = st.one_of(
    st.builds(
        RuleFlows, U32, U32, DIRECTIONS, st.sampled_from(Protocol), ranges(),
        st.lists(networks(), max_size=4).map(tuple),
        st.lists(st.tuples(SETS, st.sampled_from(((4,), (6,), (4, 6)))), max_size=3).map(tuple),
    ),
    st.builds(SetMembers, SETS, DIRECTIONS, st.lists(networks(), max_size=6).map(tuple)),
    st.builds(
        PortGuards, SLOTS, U32, MACS,
        st.lists(st.one_of(networks(whole=True), networks(whole=True), networks()), max_size=4, unique=True).map(tuple),
    ),
    st.builds(PortProtection, SLOTS, U32, MACS, st.sampled_from(Protection), st.booleans()),
    st.builds(PortFirewalls, SLOTS, NUMBERED, st.lists(U32, max_size=5).map(tuple)),
    st.builds(FirewallSets, U32, DIRECTIONS, st.booleans(), st.lists(SETS, max_size=5).map(tuple)),
    st.builds(Generation, st.integers(1, 0x7FFFFFFF)),
    st.builds(Fence, U63, U63),
)  # fmt: skip


@given(UNITS)
def test_what_is_rendered_is_what_the_flows_are(unit):
    assert render(unit) == encoded(unit)
    assert render(unit) == encoded(unit), "once it is known"


def test_so_for_a_policy_of_all_kinds():
    found = {**units(representative(), HERE, SITE.interfaces[HERE], Rulings()), ("generation", ""): Generation(1)}
    assert {type(unit) for unit in found.values()} > {RuleFlows, SetMembers, PortGuards, PortFirewalls, FirewallSets}
    for unit in found.values():
        assert render(unit) == encoded(unit)


ORDINARY = (
    PortGuards(7, 12, "02:00:00:00:00:07", (Network(4, 0x0A000007, 32), Network(6, 0xFE80 << 112 | 7, 128))),
    PortProtection(7, 12, "02:00:00:00:00:07", Protection.JUDGED),
    PortProtection(7, 12, "02:00:00:00:00:07", Protection.TRACKED, fragments=False),
    PortFirewalls(7, INBOUND_RULES, (3,)),
    PortFirewalls(7, OUTBOUND_RULES, ()),
    FirewallSets(3, Direction.INBOUND, True, (AddressSet(TAG_SET, 4),)),
    Generation(1_790_000_000),
    Fence(1 << 62 | 5, 4711),
)


@pytest.mark.parametrize("unit", ORDINARY, ids=lambda unit: type(unit).__name__)
def test_ordinary_ports_have_a_template(unit: Unit):
    """Nothing but speed is lost without, so nothing else would tell."""
    render(unit)
    cut = rendering._CUTS[type(unit)]
    assert rendering._TEMPLATES[cut.apart(unit)[0]] is not None


def test_units_whose_flows_differ_by_more_than_numbers_get_no_template():
    class Odd(PortFirewalls):
        """Its flows' priority depends on the slot."""

        def flows(self):
            return (replace(flow, priority=self.slot & 0xFF) for flow in super().flows())

    assert rendering._learn(Odd(1, INBOUND_RULES, (3,)), rendering._CUTS[PortFirewalls]) is None


@given(st.integers(0, 254), st.integers(0, 0xFFFF), st.binary(max_size=40), st.integers(0, 2**64 - 1))
def test_a_key_and_a_body_tell_what_they_were_made_of(table, priority, what, cookie):
    key, body = Key(table, priority, what), Body(cookie, what)
    assert (key.table, key.priority, key.match) == (table, priority, what)
    assert (body.cookie, body.instructions) == (cookie, what)
    assert key == Key(table, priority, what)
    assert body != Body(cookie ^ 1, what)
