"""How long a controller that starts again takes to know that nothing has changed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from bench.contestants.ours import FlowMods, Ours
from bench.judges import at_most
from bench.policies import HERE, LARGE, Size
from bench.row import US, Plot, Row, Run, Series
from lab.controller import free_port, is_listened_on
from lab.network import Lab
from lab.system import LabError, end, spawn, wait_until

STEP, ANSWERS, SENT = "until in step", "until it listens", "flow-mods sent"
RYU = "Ryu 4.34 without any application"
BACKOFF = 1000  # milliseconds between two tries of a switch to connect, at most
MANAGER = str(Path(sys.executable).with_name("ryu-manager"))


def measure(run: Run) -> Iterator[Series]:
    size = Size(10, 10, 3) if run.quick else LARGE
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    with Lab() as lab:
        run.progress(f"{size}, loaded", 0)
        ours = Ours(lab, size)
        controller = ours.controller
        for hypervisor in lab.hypervisors.values():
            hypervisor.ovs.set_controller(
                hypervisor.bridge, f"tcp:{lab.address}:{controller.openflow_port}", max_backoff=BACKOFF
            )
        wait_until("all flows", lambda: _in_step(ours), 60)
        snoop = lab.keep(FlowMods(lab, controller.openflow_port))
        for number in range(run.runs):
            run.progress("the controller, again", (number + 0.3) / run.runs)
            controller.stop()
            before, began = snoop.sent(ours.here.address), time.monotonic()
            controller.start()
            found[US, ANSWERS].append(time.monotonic() - began)
            wait_until("all in step", lambda: _in_step(ours), 60, 0.01)
            found[US, STEP].append(time.monotonic() - began)
            found[US, SENT].append(snoop.sent(ours.here.address) - before)
            run.progress("Ryu alone", (number + 0.8) / run.runs)
            found[RYU, ANSWERS].append(_ryu(run.directory / "ryu.log"))
        flows = ours.flows()
    notes = {
        STEP: f"{flows:,} flows read back; a switch tries to connect every {BACKOFF / 1000:g} s, which is in it",
        ANSWERS: "REST answers, switches may connect",
        SENT: "to the switch with all ports, as counted on the wire",
    }
    for (who, what), values in found.items():
        note = notes[what] if who == US else "switches may connect; there is no REST"
        yield Series(who, what, "" if what == SENT else "s", tuple(values), note=note)


def _in_step(ours: Ours) -> bool:
    told = ours.controller.call("GET", f"/v1/hypervisors/{HERE}").json
    return bool(told["connected"] and told["sync"]["state"] == "in_sync")


def _ryu(log: Path) -> float:
    port, began = free_port(), time.monotonic()
    process: subprocess.Popen[bytes] = spawn(
        [MANAGER, "--ofp-listen-host", "127.0.0.1", "--ofp-tcp-listen-port", str(port), "ryu.controller.ofp_handler"],
        log,
    )
    try:
        wait_until("Ryu's port for switches", lambda: is_listened_on("127.0.0.1", port), 30, 0.01)
        if process.poll() is not None:
            raise LabError(f"Ryu ended by itself: {log.read_text()[-500:]}")
        return time.monotonic() - began
    finally:
        end(process)


ROW = Row(
    name="restart",
    title=f"Restart of the controller at {LARGE}: process start to in step, nothing changed",
    about=(
        "The controller is stopped and started again; the store has the policy, the switches have their flows. Measured"
        " from the start of the process until it says that the switch is in step: the program and the policy loaded,"
        " the switch connected, its flows read back and compared. The wait of the switch until it tries to connect"
        " again is part of it, up to a second. What Ryu needs alone to listen is beside it."
    ),
    measure=measure,
    targets=(
        at_most("under 3 s", STEP, 3.0),
        at_most("no flow-mod", SENT, 0.0, share=1.0),
    ),
    plots=(Plot("restart", "Restart of a controller", "", "seconds", (ANSWERS, STEP)),),
)
