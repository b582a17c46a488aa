"""Connection limits of ports with real packets: `python -m firewall_app.zones` beside a real Open vSwitch."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from rawframes import SYN, Tcp, Udp, end, ends
from test_lab_state import ANY_OUT, MACHINES, Wall, dropped, entries, from_web, settle, slot_of, switch_of, to_web

from firewall_app.zones import IN_STEP, NOT_IN_STEP, limits_in
from lab.cloud import Cloud, inbound
from lab.controller import TOKEN, Controller
from lab.network import Lab
from lab.system import wait_until

pytestmark = pytest.mark.lab
IN = (inbound("tcp", "80"), inbound("udp", "53"))
ELSEWHERE = {0: 1000, 65001: 1001}  # zones that are not the controller's


@pytest.fixture(scope="module")
def cloud():
    with Lab("z" + hex(int(time.time() * 1000) & 0xFFFFFF)[2:]) as lab:
        lab.add_hypervisor()
        for name in MACHINES:
            lab.add_machine(name, "hv1")
        lab.add_outside()
        controller = lab.keep(Controller(lab.directory / "controller", host=lab.address))
        controller.start()
        lab.connect(controller.openflow_port)
        built = Cloud(lab, controller)
        built.register_hypervisors()
        for name in MACHINES:
            limit(built, name, None)
        built.wait_in_sync()
        (lab.directory / "token").write_text(TOKEN)
        yield built


@pytest.fixture
def clean(cloud):
    """Both droplets behind firewalls that let all in that is sent here; no limits, no connections; so it is left."""
    walls = [Wall(cloud, name, on=name, inbound_rules=IN, outbound_rules=ANY_OUT) for name in MACHINES]
    limit_elsewhere(cloud)
    yield cloud
    assert limits(cloud).items() >= ELSEWHERE.items()
    for wall in walls:
        wall.delete()
    for name in MACHINES:
        limit(cloud, name, None)
    carry(cloud)
    switch_of(cloud, "web").ovs.appctl("dpctl/flush-conntrack")


def limit_elsewhere(cloud):
    words = (f"zone={zone},limit={most}" for zone, most in ELSEWHERE.items())
    switch_of(cloud, "web").ovs.appctl("dpctl/ct-set-limits", *words)


def limit(cloud, name, most):
    """Registers a machine's port with so many connections at once."""
    machine, tap = cloud.lab.machines[name], cloud.lab.taps[name]
    body = {"droplet_id": MACHINES[name], "hypervisor": tap.hypervisor.dpid, "interface": tap.name,
            "mac": machine.mac, "addresses": [*machine.hosts, *ends(machine)], "max_connections": most}  # fmt: skip
    cloud.call("PUT", f"/v1/droplets/{MACHINES[name]}", {"name": name, "tags": []})
    cloud.call("PUT", f"/v1/ports/{name}", body)
    settle(cloud)


def command(cloud, *more):
    host = switch_of(cloud, "web")
    return [
        sys.executable, "-m", "firewall_app.zones", "--api", cloud.controller.rest.url,
        "--token-file", str(cloud.lab.directory / "token"), "--dpid", host.dpid,
        "--target", str(host.ovs.control), "--db", host.ovs.database, *more,
    ]  # fmt: skip


def carry(cloud, *more, status=IN_STEP):
    """Runs the command; the commands that it ran."""
    done = subprocess.run(command(cloud, *more), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line.startswith("ovs-")]


def limits(cloud):
    return limits_in(switch_of(cloud, "web").ovs.appctl("dpctl/ct-get-limits"))


def ours(cloud):
    return {zone: most for zone, most in limits(cloud).items() if zone not in ELSEWHERE}


def refused(talk):
    """Whether a connection cannot be opened."""
    if talk.protocol == "udp":
        return not talk.says(talk.client)
    return not talk.send(talk.client, SYN, ack=False)


def five(cloud):
    return [
        to_web(cloud, Tcp), to_web(cloud, Tcp, 6), to_web(cloud, Udp), from_web(cloud, Udp, 6), from_web(cloud, Tcp),
    ]  # fmt: skip


def test_T110_a_port_has_as_many_connections_as_it_may_and_no_more(clean):
    zone, host = slot_of(clean, "web"), switch_of(clean, "web")
    outside, app = clean.lab.machines["outside"], clean.lab.machines["app"]
    flows = sorted(host.flows())
    changed = clean.call("GET", f"/v1/hypervisors/{host.dpid}")["sync"]["last_change_at"]
    limit(clean, "web", 5)
    assert ours(clean) == {}
    assert len(carry(clean, "--dry-run", status=NOT_IN_STEP)) == 1
    assert ours(clean) == {}
    assert len(carry(clean)) == 1
    assert carry(clean) == []
    assert ours(clean) == {zone: 5}

    known = five(clean)
    fresh = [to_web(clean, Udp, 4, 4101), from_web(clean, Udp, 4, 5101), to_web(clean, Tcp, 6, 4102)]
    assert all(talk.open() for talk in known)
    before = dropped(host, "table=40", "ct_mark=0")
    assert all(refused(talk) for talk in fresh)
    assert dropped(host, "table=40", "ct_mark=0") >= before + len(fresh)
    assert [talk.heard() for talk in known] == ["both"] * 5
    others = [Udp(end(outside), end(app), 4200 + number, 53) for number in range(8)]
    assert all(talk.open() for talk in others)

    limit(clean, "web", 7)
    assert len(carry(clean)) == 1
    assert [talk.open() for talk in fresh] == [True, True, False]
    limit(clean, "web", 0)
    assert len(carry(clean)) == 1
    assert ours(clean) == {}
    fresh[2].again()
    assert fresh[2].open()
    assert [talk.heard() for talk in [*known, *fresh]] == ["both"] * 8
    # None of it was a change of flows, nor of the generation, which is in them.
    assert sorted(host.flows()) == flows
    assert clean.call("GET", f"/v1/hypervisors/{host.dpid}")["sync"]["last_change_at"] == changed


def test_a_droplet_behind_no_firewall_is_held_to_no_number(cloud):
    """Its connections are remembered, for a firewall to come, as far as the limit goes; they pass without, too."""
    zone, host = slot_of(cloud, "web"), switch_of(cloud, "web")
    limit(cloud, "web", 1)
    carry(cloud)
    try:
        assert ours(cloud) == {zone: 1}
        talks = [to_web(cloud, Udp), to_web(cloud, Tcp), from_web(cloud, Udp, 6)]
        assert all(talk.open() for talk in talks)
        assert [talk.heard() for talk in talks] == ["both"] * 3
        assert len(entries(host, zone)) == 1
    finally:
        limit(cloud, "web", None)
        carry(cloud)
        host.ovs.appctl("dpctl/flush-conntrack")


def test_the_limit_goes_with_the_port_and_comes_back_with_its_next_zone(clean):
    zone, other = slot_of(clean, "web"), slot_of(clean, "app")
    limit(clean, "web", 1)
    limit(clean, "app", 2)
    assert len(carry(clean)) == 1
    assert ours(clean) == {zone: 1, other: 2}
    clean.call("DELETE", "/v1/ports/web")
    assert len(carry(clean)) == 1
    assert ours(clean) == {other: 2}
    limit(clean, "web", 3)
    carry(clean)
    wait_until("the port is programmed", lambda: clean.call("GET", "/v1/ports/web")["status"] == "succeeded")
    assert slot_of(clean, "web") != zone
    assert ours(clean) == {slot_of(clean, "web"): 3, other: 2}


def restart(cloud):
    host = switch_of(cloud, "web")
    count = len(host.flows())
    host.ovs.restart_switch()
    wait_until("the flows are back", lambda: len(host.flows()) >= count, 30, 0.05)
    cloud.wait_in_sync()
    settle(cloud)


def test_after_a_restart_of_the_switch_the_next_run_puts_the_limit_back(clean):
    zone = slot_of(clean, "web")
    limit(clean, "web", 2)
    carry(clean)
    restart(clean)
    assert limits(clean) == {}  # which is why there is `--every`
    assert len(carry(clean)) == 1
    assert limits(clean) == {zone: 2}
    known = [to_web(clean, Udp), to_web(clean, Tcp)]
    assert all(talk.open() for talk in known)
    assert refused(to_web(clean, Udp, 4, 4101))
    limit_elsewhere(clean)


def test_a_command_that_runs_on_puts_the_limit_back_by_itself(clean):
    zone, host = slot_of(clean, "web"), switch_of(clean, "web")
    process = subprocess.Popen(
        command(clean, "--every", "0.2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        limit(clean, "web", 2)
        wait_until("the limit is in force", lambda: ours(clean) == {zone: 2}, 60, 0.1)
        host.ovs.stop_switch()
        assert "could not read" in process.stderr.readline()
        host.ovs.start_switch()
        wait_until("the limit is in force again", lambda: limits(clean) == {zone: 2}, 60, 0.1)
        clean.wait_in_sync()
        settle(clean)
        assert to_web(clean, Udp).open()
        assert to_web(clean, Udp, 6).open()
        assert refused(to_web(clean, Udp, 4, 4101))
    finally:
        process.terminate()
        process.communicate(timeout=60)
    limit_elsewhere(clean)
