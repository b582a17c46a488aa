"""The log of the real program: a request can be followed to the switches, and what breaks is told in the same form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_app_pace import LiveSwitch

from lab.controller import Controller

pytestmark = pytest.mark.process
ROOT = Path(__file__).parent.parent


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_request_can_be_followed_to_the_switches(tmp_path: Path) -> None:
    with Controller(tmp_path, settings={"log_format": "json"}) as controller:
        switch = LiveSwitch(1, controller.openflow_port)
        try:
            path = f"/v1/hypervisors/{switch.dpid}"
            assert controller.call("PUT", path, {"name": "hv1"}, {"Prefer": "wait=30"}).status == 201
            assert controller.call("PUT", "/v1/droplets/7", {"name": "d"}).status == 201
            port = {"droplet_id": 7, "hypervisor": switch.dpid, "interface": "tap0", "mac": "02:00:00:00:00:07",
                    "addresses": ["10.0.0.7"]}  # fmt: skip
            made = controller.call("PUT", "/v1/ports/p7", port, {"Prefer": "wait=30"})
            assert made.status == 201
            refused = controller.call("PUT", "/v1/droplets/7", {"nme": "d"})
            assert refused.status == 422
        finally:
            switch.stop()
        found = lines(controller.log.read_text())
        of_request = [line for line in found if line.get("request") == made.headers["x-request-id"]]
        changed, answered = of_request
        assert (changed["event"], changed["hypervisors"]) == ("policy changed", 1)
        told = {"method": "PUT", "path": "/v1/ports/p7", "status": 201, "actor": "FIREWALL_OPERATOR_TOKEN"}
        assert answered == {**answered, "event": "answered", **told}
        (in_force,) = [
            line for line in found
            if line["event"] == "change in force" and line["revision"] == changed["revision"]
        ]  # fmt: skip
        assert in_force["dpid"] == switch.dpid
        assert in_force["added"] > 0
        (line,) = [line for line in found if line.get("request") == refused.json["request_id"]]
        assert (line["event"], line["status"]) == ("answered", 422)


FAULTS = """
import sys
import ryu.cmd.manager  # patches, as ryu-manager does
import eventlet, threading, warnings
from ryu import cfg, log
cfg.CONF(["--config-file", sys.argv[1]], project="ryu")
log.init_log()
eventlet.monkey_patch(thread=True)
from firewall_app import process

def breaks(where): raise ValueError("broken in " + where)

eventlet.spawn_n(breaks, "a green thread")
eventlet.spawn_after(0, breaks, "a timer")
eventlet.sleep(0.01)
native = eventlet.patcher.original("threading").Thread(target=process.LOG.warning, args=("from a native thread",))
native.start()
native.join()
thread = threading.Thread(target=breaks, args=("a thread",))
thread.start()
thread.join()
warnings.warn("of something")
breaks("main")
"""


def test_what_nobody_catches_is_logged_in_the_same_form(tmp_path: Path) -> None:
    config = tmp_path / "fw.conf"
    config.write_text("[firewall]\nlog_format = json\n")
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, str(config)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    found = lines(done.stderr)
    broken = {line["error"]: line["traceback"] for line in found if line["event"] == "an error that nobody caught"}
    assert set(broken) == {f"broken in {where}" for where in ("a green thread", "a timer", "a thread", "main")}
    assert all("in breaks" in trace for trace in broken.values())
    assert [line["logger"] for line in found if "of something" in line["event"]] == ["py.warnings"]
    assert [line["level"] for line in found if line["event"] == "from a native thread"] == ["warning"]
