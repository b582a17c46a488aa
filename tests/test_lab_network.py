"""The network that a lab is, by itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab.network import Lab

pytestmark = pytest.mark.lab


def test_the_way_to_the_controller_stays_as_it_is_when_hypervisors_come():
    with Lab(f"n{os.getpid() % 0xFFFFFF:x}") as lab:
        mac = Path(f"/sys/class/net/fw{lab.tag}m0/address")
        before = mac.read_text()
        lab.add_hypervisor()
        assert mac.read_text() == before
