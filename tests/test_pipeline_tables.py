"""The declaration of the pipeline: what a table refuses, and that the declaration agrees with itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall_app.pipeline.flow import ETH_IP, FIELDS, Action, Ct, Load, Move, Output, Resubmit, bits, match
from firewall_app.pipeline.tables import (
    BY_ID,
    COOKIE_MASK,
    DISPATCH,
    FIREWALLS,
    GUARD,
    LABEL_RULE,
    LAYOUT,
    MAGIC,
    MARK,
    OUTPUT,
    OWN_SET,
    REGISTERS,
    RULE,
    RULES,
    SETS,
    SLOT,
    STATE,
    TABLES,
    TAG_SET,
    VERDICT,
    ZONE,
    Kind,
    asks_no_less,
    cookie,
    cookie_parts,
)
from firewall_app.pipeline.unit import AddressSet, FirewallSets, PortFirewalls
from firewall_app.policy.model import Direction


def test_tables_are_in_the_order_in_which_a_packet_meets_them() -> None:
    assert [table.id for table in TABLES] == sorted(BY_ID) == [0, 10, 20, 30, 31, 32, 33, 35, 40]
    assert [table.name for table in TABLES] == ["0", "c1", "c2", "c3", "c3s", "c3p", "c3r", "c4", "z"]
    backwards = {(table.id, target) for table in TABLES for target in table.goes_to if target <= table.id}
    assert backwards == {(OUTPUT.id, DISPATCH.id)}, "the second half of a packet between droplets of one host"


def test_what_tables_declare_exists() -> None:
    for table in TABLES:
        assert table.may_match | table.may_write <= set(FIELDS)
        assert table.goes_to <= set(BY_ID)
        assert table.miss in ("drop", "to z", "nothing")
        assert table.purpose.endswith(".")
    assert not OUTPUT.judges
    assert all(table.judges for table in TABLES if table is not OUTPUT)
    assert {register.where.name for register in REGISTERS} >= {*(f"reg{n}" for n in range(8)), "ct_mark", "ct_label"}


def test_a_flow_carries_its_table() -> None:
    flow = GUARD.flow(7, match(in_port=1), Load(1, SLOT), Resubmit(DISPATCH.id), cookie=5)
    assert (flow.table, flow.priority, flow.cookie) == (0, 7, 5)


@pytest.mark.parametrize(
    ("table", "matches", "actions", "why"),
    [
        (GUARD, {"ct_mark": 1}, (), "table 0 may not match ct_mark"),
        (STATE, {"eth_type": ETH_IP, "ipv4_src": 1}, (), "table c2 may not match ipv4_src"),
        (RULES, {"ct_state": 1}, (), "table c3r may not match ct_state"),
        (OUTPUT, {"in_port": 1}, (), "table z may not match in_port"),
        (GUARD, {}, (Resubmit(RULES.id),), "table 0 may not go to table 33"),
        (GUARD, {}, (Resubmit(GUARD.id),), "table 0 may not go to table 0"),
        (VERDICT, {}, (Ct(ZONE, RULES.id, commit=True),), "table c4 may not go to table 33"),
        (RULES, {}, (Resubmit(99),), "table c3r may not go to table 99"),
        (RULES, {}, (Load(1, SLOT),), "table c3r may not write reg5"),
        (DISPATCH, {}, (Move(bits("reg4"), bits("reg7")),), "table c1 may not write reg7"),
        (DISPATCH, {}, (Ct(ZONE, STATE.id, commit=True, exec=(Load(1, MARK),)),), "table c1 may not write ct_mark"),
        (STATE, {}, (Ct(ZONE, OUTPUT.id, commit=True, exec=(Move(RULE, LABEL_RULE),)),), "may not write ct_label"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_flow_that_its_table_does_not_declare_is_refused(table, matches, actions, why) -> None:
    with pytest.raises(ValueError, match=why):
        table.flow(1, match(**matches), *actions, cookie=0)


@pytest.mark.parametrize(
    ("table", "before", "now", "no_less"),
    [
        (FIREWALLS, (), (1,), True),
        (FIREWALLS, (1,), (), False),
        (FIREWALLS, (2,), (1, 2, 3), True),
        (FIREWALLS, (1, 2), (1, 3), False),
        (RULES, (1,), (1, 2), False),  # no list
    ],
)
def test_a_longer_list_of_firewalls_takes_nothing_away(table, before, now, no_less) -> None:
    old, new = (PortFirewalls(1, 0, numbers) for numbers in (before, now))
    lists = [next(iter(unit.flows())).actions for unit in (old, new)]
    assert asks_no_less(table.id, *lists) == no_less


def test_a_list_of_sets_is_no_longer_when_kinds_and_numbers_trade_places() -> None:
    def asked(plain: bool, *sets: tuple[int, int]) -> tuple[Action, ...]:
        return next(
            iter(FirewallSets(1, Direction.INBOUND, plain, tuple(AddressSet(*s) for s in sets)).flows())
        ).actions

    assert asks_no_less(SETS.id, asked(False, (OWN_SET, 5)), asked(True, (OWN_SET, 4), (OWN_SET, 5), (TAG_SET, 5)))
    assert not asks_no_less(SETS.id, asked(False, (OWN_SET, 5), (TAG_SET, 6)), asked(False, (OWN_SET, 6), (TAG_SET, 5)))
    assert not asks_no_less(SETS.id, asked(True, (TAG_SET, 6)), asked(False, (TAG_SET, 6)))


def test_output_is_no_table() -> None:
    assert OUTPUT.flow(1, match(), Output(1), cookie=0).actions == (Output(1),)


@given(st.sampled_from(Kind), st.integers(0, 0xFFFFFFFF))
def test_a_cookie_says_what_it_is_of(kind: Kind, number: int) -> None:
    made = cookie(kind, number)
    assert made & COOKIE_MASK == MAGIC << 48
    assert made < 1 << 64
    assert cookie_parts(made) == (kind, number)


@pytest.mark.parametrize(
    "foreign",
    [
        0,
        5,
        cookie(Kind.RULE, 5) ^ 1 << 48,
        cookie(Kind.RULE, 5) ^ 1 << 63,
        cookie(Kind.RULE, 5) + (1 << 32),  # another layout
        MAGIC << 48 | 99 << 40 | LAYOUT << 32,
        MAGIC << 48 | LAYOUT << 32,
    ],
    ids=hex,
)
def test_a_cookie_of_someone_else_says_nothing(foreign: int) -> None:
    assert cookie_parts(foreign) is None


def test_a_slot_fits_in_a_zone() -> None:
    assert (ZONE.name, ZONE.first, ZONE.last) == (SLOT.name, 0, 15)
