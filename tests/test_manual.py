"""Lines of docs/operations.md that an operator copies: they do what the text around them says."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from ovs_dummy import DummyOvs

import firewall_app

ROOT = Path(__file__).parent.parent
MANUAL = (ROOT / "docs/operations.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", MANUAL, re.MULTILINE | re.DOTALL)
OPTIONS = ("connection_mode", "inactivity_probe", "max_backoff")


def test_units_that_are_started_and_stopped_are_those_that_there_are() -> None:
    units = {unit.stem for unit in (Path(firewall_app.__file__).parent / "systemd").glob("*.service")}
    named = re.findall(
        r"systemctl (?:enable --now|start|stop|restart|status|edit) ([\w-]+)", "\n".join(BLOCKS) + MANUAL
    )
    assert len(named) >= 5
    assert set(named) <= units


@pytest.mark.ovs
def test_every_target_that_a_bridge_is_given_has_the_options_that_it_needs() -> None:
    first, *others = [
        block for block in BLOCKS if re.search(r"set-controller br0 (tcp|ssl):.*\n(for|.*set con)", block)
    ]
    assert len(others) == 2, "from TCP to TLS, and two controllers"
    with tempfile.TemporaryDirectory(prefix="fw-") as directory, DummyOvs(Path(directory)) as ovs:
        ovs.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=dummy")
        for block in (first, *others):
            done = subprocess.run(["sh", "-ec", block], env=ovs.env, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, ""), block
            found = ovs.vsctl("--format=csv", "--no-headings", f"--columns={','.join(OPTIONS)}", "list", "Controller")
            targets = re.search(r"set-controller br0 (.*)", block)[1].split()  # type: ignore[index]
            assert found.split() == ["out-of-band,15000,4000"] * len(targets)
