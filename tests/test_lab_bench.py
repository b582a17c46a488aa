"""Rows with real switches, controllers and peers, run small: that they measure what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import changes
from bench.contestants.rest_firewall import RestFirewall
from bench.row import US, Row, Series
from bench.rows import add_member, add_rule, full_load, growth, remove_rule
from bench.runner import RowRun

pytestmark = [pytest.mark.lab, pytest.mark.ovs, pytest.mark.process]
OFCTL, WIRE = "ovs-ofctl --bundle add-flows", "OpenFlow from memory"


def run(row: Row, directory: Path) -> dict[tuple[str, str], Series]:
    """What one quick run measures; every value must be one."""
    found = list(row.measure(RowRun(1, True, directory, lambda *_: None)))
    for one in found:
        assert one.values or one.note.startswith("not measured: "), one
        assert all(value > 0 for value in one.values), one
    return {(one.who, one.what): one for one in found if one.values}


def peer(found: dict[tuple[str, str], Series], name: str) -> list[str]:
    return [what for who, what in found if who.startswith(name)]


def test_full_load(tmp_path: Path) -> None:
    found = run(full_load.ROW, tmp_path)
    ours, text, wire = (found[who, "full load"] for who in (US, OFCTL, WIRE))
    assert ours.note == text.note == wire.note, "limits are measured with the flows of ours"
    assert wire.median < ours.median
    assert peer(found, RestFirewall.name) == ["full load"]


def test_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_known", {})
    added = run(add_rule.ROW, tmp_path)
    assert {who for who, what in added if what == changes.ADD} >= {US, WIRE, RestFirewall.name}
    assert added[US, changes.SENT + changes.ADD].values == added[US, changes.SENT + changes.ADD].values[:1] * 3
    removed = run(remove_rule.ROW, tmp_path)
    assert len(removed[US, changes.REMOVE].values) == len(added[US, changes.ADD].values)
    joined = run(add_member.ROW, tmp_path)
    assert not peer(joined, RestFirewall.name), "it has no sets"
    (verdict,) = [
        target.judge(list(joined.values())) for target in add_member.ROW.targets if "flow-mods" in target.text
    ]
    assert verdict.met, verdict.text


def test_growth(tmp_path: Path) -> None:
    found = run(growth.ROW, tmp_path)
    whats = {what for who, what in found if who == US}
    assert whats >= {what for plot in growth.ROW.plots for what in plot.what if "over ports" in what}
    assert all(one.x == 2 for one in found.values())
