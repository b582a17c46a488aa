"""T178: the real program under a clock that jumps by a day (libfaketime).  Only what people read tells the time."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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


@contextmanager
def held(switch: LiveSwitch) -> Iterator[threading.Event]:
    """While it lasts the switch answers nothing; gives the event that it was asked something."""
    asked, free, answer = threading.Event(), threading.Event(), switch.switch.answer

    def slow(data: bytes) -> list[bytes]:
        asked.set()
        assert free.wait(60)
        return answer(data)

    switch.switch.answer = slow  # type: ignore[method-assign]
    try:
        yield asked
    finally:
        switch.switch.answer = answer  # type: ignore[method-assign]
        free.set()


def status(controller: Controller, path: str) -> str:
    return str(controller.call("GET", path).json["firewall"]["status"])


def test_T178_a_clock_that_jumps_by_a_day_changes_nothing(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    fake = (
        "env", f"LD_PRELOAD={faketime()}", f"FAKETIME_TIMESTAMP_FILE={clock}", "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
    )  # fmt: skip
    with Controller(tmp_path, command=(*fake, *RYU)) as controller, ThreadPoolExecutor() as threads:
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
            for number, (jump, shift) in enumerate({"+1d": DAY, "-1d": -DAY}.items()):
                body = {"name": f"f{number}", "droplet_ids": [7], "inbound_rules": [RULE]}
                # In the middle of a change, whose switch takes its time.
                with held(switch) as asked:
                    making = threads.submit(controller.call, "POST", "/v2/firewalls", body, {"Prefer": "wait=2"})
                    assert asked.wait(30)
                    clock.write_text(f"{jump}\n")
                    made = making.result()
                    assert (made.status, made.json["firewall"]["status"]) == (202, "waiting")
                firewall = f"/v2/firewalls/{made.json['firewall']['id']}"
                wait_until("done", lambda path=firewall: status(controller, path) == "succeeded", 30)
                # The next one is kept, told to the switch, confirmed in time, and bears the time of its day.
                body["name"] = f"g{number}"
                made = controller.call("POST", "/v2/firewalls", body, {"Prefer": "wait=30"})
                assert (made.status, made.json["firewall"]["status"]) == (202, "succeeded")
                told = datetime.fromisoformat(made.json["firewall"]["created_at"])
                assert abs(told - (datetime.now(UTC) + shift)) < DAY / 4
                # Nobody was disconnected: neither the switch, nor a client that waits.
                answered = switch.answered
                wait_until("echoes", lambda before=answered: switch.answered > before + 3, 30)
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
    assert "WARNING" not in log.partition("hypervisor connected")[2]
