"""What breaks, one fault at a time, on a rig whose traffic never pauses.

A fault does its harm, gives back what it took, and returns the moment at which it began to give back: from then on the
time until all is in step is counted.  What it promises is data beside it; docs/faults.md and the tests read it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from .rig import Rig
from .system import LabError, run, wait_until

AWAY = 0.5  # seconds for which something stays away
SILENCE = 5.0  # seconds of a silent control link: both ends have given the connection up by then
CHANGES = 20
OWN_FLOWS = "cookie=0xd0f1000000000000/0xffff000000000000"


@dataclass(frozen=True)
class Fault:
    name: str  # for --only
    title: str
    run: Callable[[Rig], float]
    # Why packets are lost, and what bounds it; empty: nothing may be lost.
    cost: str = ""
    own_ends: bool = False  # the TCP session that a droplet opened does not survive
    flow_mods: bool = True  # whether any may be sent
    postgresql: bool = False


def nothing(_bed: Rig) -> float:
    time.sleep(2)
    return time.monotonic()


# --- the controller


def _restarted(bed: Rig) -> float:
    time.sleep(AWAY)
    back = time.monotonic()
    bed.controller.start()
    return back


def controller_stopped(bed: Rig) -> float:
    bed.controller.stop()
    return _restarted(bed)


def controller_killed(bed: Rig) -> float:
    bed.controller.kill()
    return _restarted(bed)


# --- the switch


def switch_killed(bed: Rig) -> float:
    host = bed.hosts[0]
    host.ovs.kill_switch()
    time.sleep(AWAY)
    back = time.monotonic()
    host.ovs.start_switch()
    return back


def switch_restarted(bed: Rig) -> float:
    """As `ovs-ctl restart`: Open vSwitch drops the flows that it was given back as soon as it has a controller."""
    before, back = bed.connections(), time.monotonic()
    bed.hosts[0].ovs.restart_switch_with_flows(bed.hosts[0].bridge)
    bed.wait_connections(before, 1)
    return back


def switch_restored(bed: Rig) -> float:
    """The flows are put back while the switch has a controller and does not reach it yet."""
    host, before = bed.hosts[0], bed.connections()
    saved = host.ovs.saved_flows(host.bridge)
    back = time.monotonic()
    host.cut()
    host.ovs.restart_switch()
    host.ovs.put_flows(host.bridge, saved)
    host.heal()
    bed.wait_connections(before, 1)
    return back


def both_killed(bed: Rig) -> float:
    bed.controller.kill()
    bed.hosts[0].ovs.kill_switch()
    time.sleep(AWAY)
    back = time.monotonic()
    bed.hosts[0].ovs.start_switch()
    bed.controller.start()
    return back


def ovsdb_killed(bed: Rig) -> float:
    ovs = bed.hosts[0].ovs
    ovs.kill_database()
    time.sleep(AWAY)
    back = time.monotonic()
    ovs.start_database()
    return back


def flows_deleted(bed: Rig) -> float:
    back = time.monotonic()
    bed.hosts[0].ovs.ofctl("del-flows", bed.hosts[0].bridge, f"{OWN_FLOWS}")
    return back


# --- links


def control_reset(bed: Rig) -> float:
    before, back = bed.connections(), time.monotonic()
    for host in bed.hosts:
        run("ip", "netns", "exec", host.netns, "ss", "-K", "dport", "=", str(bed.controller.openflow_port))
    bed.wait_connections(before, len(bed.hosts))
    return back


def control_silent(bed: Rig) -> float:
    """While the link is silent the policy changes; once it is back the switch has to be told."""
    host, before = bed.hosts[0], bed.connections()
    host.cut()
    gone = time.monotonic()
    bed.change(1, wait=0)
    wait_until("the controller to notice", lambda: host.dpid not in bed.sync(), 20, 0.05)
    time.sleep(max(0.0, gone + SILENCE - time.monotonic()))
    host.heal()
    back = time.monotonic()
    bed.wait_connections(before, 1)
    wait_until("all switches in step", bed.in_sync, 30, 0.02)
    in_step = time.monotonic() - back
    bed.change(0)
    return time.monotonic() - in_step


def _flapped(netns: str, device: str) -> float:
    run("ip", "-n", netns, "link", "set", device, "down")
    time.sleep(AWAY)
    run("ip", "-n", netns, "link", "set", device, "up")
    return time.monotonic()


def uplink_flapped(bed: Rig) -> float:
    return _flapped(bed.hosts[0].netns, bed.hosts[0].uplink)


def port_flapped(bed: Rig) -> float:
    tap = bed.lab.taps["front"]
    return _flapped(tap.hypervisor.netns, tap.name)


# --- the store


def _refused(bed: Rig) -> None:
    """A write is answered 503 and a read is answered."""
    status = bed.controller.call("PUT", *bed.spare(1)).status
    if status != 503:
        raise LabError(f"with a store that fails a write was answered {status}")
    if (status := bed.controller.call("GET", "/v2/firewalls").status) != 200:
        raise LabError(f"with a store that fails a read was answered {status}")


def sqlite_locked(bed: Rig) -> float:
    file = bed.controller.database.removeprefix("sqlite:///")
    with sqlite3.connect(file, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        _refused(bed)
        other.execute("ROLLBACK")
    other.close()
    return _writes_again(bed)


def _writes_again(bed: Rig) -> float:
    back = time.monotonic()
    wait_until("a write to be taken", lambda: bed.controller.call("PUT", *bed.spare(0)).status == 200, 30, 0.05)
    return back


def postgresql_killed(bed: Rig) -> float:
    if bed.server is None:
        raise LabError("this rig has no PostgreSQL")
    bed.server.kill()
    _refused(bed)
    bed.server.start()
    return _writes_again(bed)


# --- changes


def changes(bed: Rig) -> float:
    for number in range(1, CHANGES):
        bed.change(number)
    back = time.monotonic()
    bed.change(0)
    return back


def killed_amid_changes(bed: Rig) -> float:
    """Somebody goes on asking for changes, each until it is taken; what was taken must not be lost."""
    wanted = [*range(1, CHANGES), 0]
    taken: list[int] = []
    may_ask = threading.Event()
    may_ask.set()

    def ask() -> None:
        while len(taken) < CHANGES:
            may_ask.wait()
            with suppress(OSError):
                if bed.controller.call("PUT", *bed.spare(wanted[len(taken)])).status == 200:
                    taken.append(wanted[len(taken)])

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    wait_until("half of the changes", lambda: len(taken) >= CHANGES // 2, 60, 0.001)
    may_ask.clear()
    bed.controller.kill()
    back = time.monotonic()
    bed.controller.start()
    # The one under way may have been stored although nobody was told.
    if (found := bed.spare_number()) not in wanted[len(taken) - 1 : len(taken) + 1]:
        raise LabError(f"change {taken[-1]} was answered, and after the restart the policy is that of {found}")
    may_ask.set()
    asking.join(60)
    return back


ENDS = (
    "A droplet's own TCP sessions end, as the datapath in userspace forgets its connections (see pickup_grace); "
    "those that others opened to it go on."
)
NO_DATAPATH = (
    "In userspace ovs-vswitchd is the datapath: nothing is switched from its death until it has its flows again, "
    "whoever gives them. fail_mode=secure keeps it closed meanwhile. "
)
FAULTS: tuple[Fault, ...] = (
    Fault("nothing", "nothing happens", nothing, flow_mods=False),
    Fault("controller-stopped", "controller: SIGTERM, restart", controller_stopped, flow_mods=False),
    Fault("controller-killed", "controller: SIGKILL, restart", controller_killed, flow_mods=False),
    Fault("switch-killed", "ovs-vswitchd: SIGKILL, restart", switch_killed, NO_DATAPATH + ENDS, own_ends=True),
    Fault("switch-restarted", "ovs-vswitchd: restart as by ovs-ctl", switch_restarted,
          NO_DATAPATH + "What ovs-ctl restores, Open vSwitch 3.1 drops again when it sets up its controller. " + ENDS,
          own_ends=True),
    Fault("switch-restored", "ovs-vswitchd: restart, flows put back", switch_restored, NO_DATAPATH + ENDS,
          own_ends=True, flow_mods=False),
    Fault("both-killed", "controller and ovs-vswitchd: SIGKILL, restart", both_killed,
          NO_DATAPATH + "Its flows wait for the controller's start. " + ENDS, own_ends=True),
    Fault("ovsdb-killed", "ovsdb-server: SIGKILL, restart", ovsdb_killed,
          "Without its database ovs-vswitchd runs no bridge (ovs:vswitchd/bridge.c, bridge_run), and so the userspace "
          "datapath stands still until it has reconnected, at most 1 s after the database is back.", flow_mods=False),
    Fault("control-reset", "control connections: reset", control_reset, flow_mods=False),
    Fault("control-silent", "control link: silent, policy changed meanwhile", control_silent),
    Fault("uplink-flap", f"uplink: down for {AWAY} s", uplink_flapped, "The link is down: nothing can pass.",
          flow_mods=False),
    Fault("port-flap", f"a droplet's port: down for {AWAY} s", port_flapped, "The link is down: nothing can pass.",
          flow_mods=False),
    Fault("sqlite-locked", "SQLite: locked by another", sqlite_locked, flow_mods=False),
    Fault("changes", f"{CHANGES} changes of the policy", changes),
    Fault("killed-amid-changes", f"controller: SIGKILL amid {CHANGES} changes", killed_amid_changes),
    Fault("flows-deleted", "all our flows deleted by hand", flows_deleted,
          "Without flows a switch passes nothing until they are repaired."),
    Fault("postgresql-killed", "PostgreSQL: SIGKILL, restart", postgresql_killed, flow_mods=False, postgresql=True),
)  # fmt: skip
