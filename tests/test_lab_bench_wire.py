"""The rows about bytes, small: they measure what they say, of whom they say."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bench.row import US, Series
from bench.rows import encode, flow_stats, restart
from bench.runner import RowRun

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ovs-vswitchd") is None, reason="Open vSwitch is not installed"),
]


def measured(row, directory: Path) -> dict[tuple[str, str], Series]:
    run = RowRun(1, True, directory, lambda _text, _done: None)
    found = {(one.who.split()[0], one.what): one for one in row.ROW.measure(run)}
    assert all(len(one.values) == 1 for one in found.values())
    return found


def test_flow_statistics(tmp_path):
    found = measured(flow_stats, tmp_path)
    assert found.keys() == {
        (US.split()[0], flow_stats.READ), ("ovs-ofctl", flow_stats.READ), ("the", flow_stats.READ),
        (US.split()[0], flow_stats.DECODE), ("Ryu", flow_stats.DECODE),
    }  # fmt: skip
    assert all(one.median > 0 for one in found.values())
    assert "670 flows, no flow-mod" in found[US.split()[0], flow_stats.READ].note


def test_flow_mods(tmp_path):
    found = measured(encode, tmp_path)
    assert {who for who, _ in found} >= {US.split()[0], "one", "Ryu", "what"}
    assert all(one.what == encode.MADE and one.median > 0 for one in found.values())


def test_a_restart(tmp_path):
    found = measured(restart, tmp_path)
    us = US.split()[0]
    assert found.keys() == {(us, restart.ANSWERS), (us, restart.STEP), (us, restart.SENT), ("Ryu", restart.ANSWERS)}
    assert found[us, restart.SENT].values == (0,)
    assert found[us, restart.STEP].median >= found[us, restart.ANSWERS].median > 0
