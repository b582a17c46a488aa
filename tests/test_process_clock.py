"""T178: the real program under a clock that jumps by a day (libfaketime).  Only what people read tells the time."""

from __future__ import annotations

import http.client
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from test_app_pace import LiveSwitch

from lab.controller import RYU, Controller
from lab.system import wait_until

pytestmark = pytest.mark.process
DAY = timedelta(days=1)
RULE = {"protocol": "tcp", "ports": "80", "sources": {"addresses": ["192.0.2.0/24"]}}


def faketime() -> str:
    (found, *_) = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None]
    assert found is not None, "libfaketime is not installed: apt-get install faketime"
    return str(found)


def test_T178_a_clock_that_jumps_by_a_day_changes_nothing(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    fake = (
        "env", f"LD_PRELOAD={faketime()}", f"FAKETIME_TIMESTAMP_FILE={clock}", "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
    )  # fmt: skip
    with Controller(tmp_path, command=(*fake, *RYU)) as controller:
        switch = LiveSwitch(1, controller.openflow_port)
        idle = http.client.HTTPConnection(controller.host, controller.rest.port, timeout=30)
        path = f"/v1/hypervisors/{switch.dpid}"
        try:
            assert controller.call("PUT", path, {"name": "hv1"}, {"Prefer": "wait=30"}).status == 201
            port = {"droplet_id": 7, "hypervisor": switch.dpid, "interface": "tap0", "mac": "02:00:00:00:00:07",
                    "addresses": ["10.0.0.7"]}  # fmt: skip
            assert controller.call("PUT", "/v1/droplets/7", {"name": "d"}).status == 201
            assert controller.call("PUT", "/v1/ports/p7", port, {"Prefer": "wait=30"}).status == 201
            wait_until("in sync", lambda: controller.call("GET", path).json["sync"]["state"] == "in_sync", 30)
            since = controller.call("GET", path).json["connected_since"]
            for number, (jump, shift) in enumerate({"+1d": DAY, "-1d": -DAY, "+0": timedelta(0)}.items()):
                clock.write_text(f"{jump}\n")
                # A change is kept, told to the switch, confirmed in time, and bears the time of its day.
                made = controller.call(
                    "POST",
                    "/v2/firewalls",
                    {"name": f"f{number}", "droplet_ids": [7], "inbound_rules": [RULE]},
                    {"Prefer": "wait=30"},
                )
                assert (made.status, made.json["firewall"]["status"]) == (202, "succeeded")
                told = datetime.fromisoformat(made.json["firewall"]["created_at"])
                assert abs(told - (datetime.now(UTC) + shift)) < DAY / 4
                # Nobody was disconnected: neither the switch, nor a client that waits.
                asked = switch.asked
                wait_until("echoes", lambda asked=asked: switch.answered > asked + 3, 30)
                assert controller.call("GET", path).json["connected_since"] == since
                assert controller.call("GET", "/readyz").status == 200
                idle.request("GET", "/healthz")
                assert idle.getresponse().read()
        finally:
            idle.close()
            switch.stop()
        assert switch.problem is None
        log = controller.log.read_text()
    assert log.count("hypervisor connected") == 1
    assert "WARNING" not in log
