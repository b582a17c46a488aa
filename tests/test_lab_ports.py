"""Ports that come, go and move, and flows that others change, on two real hypervisors with real packets."""

from __future__ import annotations

import re
import time

import pytest

from lab.cloud import Cloud, inbound, outbound
from lab.controller import Controller
from lab.network import Lab
from lab.system import wait_until
from lab.truth import OPEN, Case, table

pytestmark = pytest.mark.lab
PATIENCE = 20
# What differs from bundle to bundle: the generation, the turn, and which policy it was.
CHANGING = r"ct_mark=\w+|load:\w+->NXM_NX_CT_MARK|pkt_mark=\w+/\w+|note:[0-9a-f.]+"


@pytest.fixture(scope="module")
def cloud():
    with Lab("p" + hex(int(time.time() * 1000) & 0xFFFFFF)[2:]) as lab:
        for _ in range(2):
            lab.add_hypervisor()
        for name, host in (("web", "hv1"), ("app", "hv1"), ("db", "hv2")):
            lab.add_machine(name, host, tap=f"tap-{name}", plugged=False)
        lab.plug("web", 11)
        lab.plug("app", 12)
        lab.plug("db", 11)
        lab.add_outside()
        controller = lab.keep(
            Controller(lab.directory / "controller", host=lab.address, settings={"audit_interval": 0})
        )
        controller.start()
        lab.connect(controller.openflow_port)
        built = Cloud(lab, controller)
        built.register_hypervisors()
        for number, name in enumerate(("web", "app", "db"), 101):
            built.register(name, number, ("all",))
        rules = {"inbound_rules": [inbound("tcp", "80"), inbound("icmp", "0")],
                 "outbound_rules": [outbound("tcp", "80"), outbound("icmp", "0")]}  # fmt: skip
        built.call("POST", "/v2/firewalls", {"name": "all", "tags": ["all"], **rules}, expect=202)
        built.wait_in_sync()
        yield built


def port(cloud, name):
    return cloud.call("GET", f"/v1/ports/{name}")


def wait_for(cloud, name, state, number=None):
    def so():
        found = port(cloud, name)
        return found["status"] == state and (number is None or found["number"] == number)

    wait_until(f"port {name} {state} {number or ''}: {port(cloud, name)}", so, PATIENCE, 0.02)


def agree(cloud, *names, services=(("tcp", 80), ("tcp", 81), ("icmp", 0))):
    """Between these machines and the outside, what passes is what the policy means, and that is not nothing."""
    ends = (*names, "outside")
    cases = [Case(a, b, *service, 4) for a in ends for b in ends if a != b for service in services]
    expected, probed, wrong = cloud.compare(cases)
    assert not wrong, table(expected, probed)
    assert OPEN in probed.values()


def shape(host):
    return sorted(re.sub(CHANGING, "", line) for line in host.flows() if "cookie=0xd0f1" in line)


def silent(cloud, name, seconds=0.3):
    """Whether a machine hears nothing of what is sent to the other one's MAC and address from outside."""
    target, listener = cloud.lab.machines[name], "app" if name == "web" else "web"
    cloud.lab.machines[listener].call("capture", capture="m", dst=target.mac)
    cloud.lab.machines["outside"].call("icmp", address=target.address(), timeout=0.2)
    return not cloud.lab.machines[listener].call("captured", capture="m", seconds=seconds, count=1)


@pytest.mark.parametrize("away", [False, True])
def test_T166_two_interfaces_swap_their_numbers(cloud, away):
    """In one step of the database: at no moment has a number no interface."""
    host = cloud.lab.hypervisors["hv1"]
    numbers = {name: port(cloud, name)["number"] for name in ("web", "app")}
    if away:
        cloud.controller.kill()
    host.ovs.vsctl(
        "del-port", "br0", "tap-web", "--", "del-port", "br0", "tap-app",
        "--", "add-port", "br0", "tap-web", "--", "set", "interface", "tap-web", f"ofport_request={numbers['app']}",
        "--", "add-port", "br0", "tap-app", "--", "set", "interface", "tap-app", f"ofport_request={numbers['web']}",
    )  # fmt: skip
    if away:
        cloud.controller.start()
        cloud.wait_in_sync()
    wait_for(cloud, "web", "succeeded", host.ovs.ofport("tap-web"))
    wait_for(cloud, "app", "succeeded", host.ovs.ofport("tap-app"))
    assert (port(cloud, "web")["number"], port(cloud, "app")["number"]) == (numbers["app"], numbers["web"])
    agree(cloud, "web", "app")
    assert silent(cloud, "web")


def test_T166_T109_an_interface_that_takes_the_number_of_one_that_left_gets_none_of_its_frames(cloud):
    lab = cloud.lab
    host = lab.hypervisors["hv1"]
    number, zone = port(cloud, "web")["number"], zones(cloud, "hv1")["web"]
    cloud.lab.machines["outside"].call("icmp", address=lab.machines["web"].address(), timeout=1)
    assert tracked(host, zone)
    cloud.controller.stop()
    lab.unplug("web")
    lab.unplug("app")
    assert lab.plug("app", number) == number
    cloud.controller.start()
    cloud.wait_in_sync()
    wait_for(cloud, "app", "succeeded", number)
    wait_for(cloud, "web", "absent")
    assert silent(cloud, "web")
    assert not tracked(host, zone), "nothing is left of who went"
    lab.plug("web", number + 7)
    wait_for(cloud, "web", "succeeded", number + 7)
    agree(cloud, "web", "app")


def zones(cloud, host):
    found = cloud.call("GET", f"/v1/hypervisors/{cloud.lab.hypervisors[host].dpid}/zones")["zones"]
    return {one["port"]: one["zone"] for one in found}


def tracked(host, zone):
    return [line for line in host.ovs.appctl("dpctl/dump-conntrack").splitlines() if f"zone={zone}" in line]


def test_a_live_migration_and_back_takes_traffic_along_and_no_state(cloud):
    lab, old = cloud.lab, cloud.lab.hypervisors["hv1"]
    body = {name: port(cloud, "web")[name] for name in ("droplet_id", "interface", "mac", "addresses")}
    lab.machines["outside"].call("icmp", address=lab.machines["web"].address(), timeout=1)
    before = zones(cloud, "hv1")["web"]
    for target in ("hv2", "hv1"):
        # The target's device is there, under the same name, before the machine is.
        lab.move("web", target)
        lab.plug("web", 21)
        agree_not(cloud, "web")
        cloud.call("PUT", "/v1/ports/web", {**body, "hypervisor": lab.hypervisors[target].dpid})
        wait_for(cloud, "web", "succeeded", 21)
        agree(cloud, "web", "app", "db")
        assert not tracked(old, before)
        assert zones(cloud, target)["web"] != before


def agree_not(cloud, name):
    """A machine whose interface is plugged where nobody registered it reaches nobody and is reached by nobody."""
    machine, outside = cloud.lab.machines[name], cloud.lab.machines["outside"]
    assert machine.call("icmp", address=outside.address(), timeout=0.2) != OPEN
    assert outside.call("icmp", address=machine.address(), timeout=0.2) != OPEN


def test_a_port_that_is_deleted_while_it_is_plugged_is_closed_and_registered_again_open(cloud):
    host = cloud.lab.hypervisors["hv1"]
    body = {name: port(cloud, "app")[name] for name in ("droplet_id", "hypervisor", "interface", "mac", "addresses")}
    slot = zones(cloud, "hv1")["app"]
    cloud.call("DELETE", "/v1/ports/app")
    agree_not(cloud, "app")
    assert not tracked(host, slot)
    cloud.call("PUT", "/v1/ports/app", body)
    assert port(cloud, "app")["status"] == "succeeded"
    assert zones(cloud, "hv1")["app"] != slot
    agree(cloud, "web", "app")


# ---- what others do to flows


def drift(cloud, host):
    return cloud.call("GET", f"/v1/hypervisors/{host.dpid}/drift")["drift"]


OURS, OTHERS = "cookie=0xd0f1030200000063", "cookie=0x1234"
FORGED = f"{OURS},table=33,priority=1000,tcp,actions=load:0x1->NXM_NX_REG4[]"
MEDDLING = {
    "deleted": ("del-flows", "table=33", "removed"),
    "all deleted": ("del-flows", "", "removed"),
    "added": ("add-flow", FORGED, "added"),
    "changed": ("mod-flows", "table=0,actions=drop", "changed"),
}


@pytest.mark.parametrize("how", MEDDLING)
def test_T164_T175_what_somebody_does_to_flows_is_noticed_repaired_and_told(cloud, how):
    """By the flow monitor: audits are off."""
    host = cloud.lab.hypervisors["hv1"]
    right, before = shape(host), drift(cloud, host)
    command, argument, what = MEDDLING[how]
    host.ovs.ofctl(command, "br0", *([argument] if argument else []))
    wait_until("the repair", lambda: shape(host) == right and drift(cloud, host) != before, PATIENCE, 0.02)
    cloud.wait_in_sync()
    told = drift(cloud, host)
    assert what in {one["change"] for one in told}
    assert all("table=" in one["flow"] for one in told)
    agree(cloud, "web", "app", services=(("tcp", 80), ("tcp", 81)))


def test_T175_flows_replaced_by_those_of_a_file_are_put_back(cloud):
    host = cloud.lab.hypervisors["hv1"]
    right = shape(host)
    host.ovs.ofctl("replace-flows", "br0", "-", stdin="priority=0,actions=NORMAL\n")
    wait_until("the repair", lambda: shape(host) == right, PATIENCE, 0.02)
    assert any("NORMAL" in line for line in host.flows()), "a flow with another's cookie is left alone"
    host.ovs.ofctl("--strict", "del-flows", "br0", "table=0,priority=0")
    cloud.wait_in_sync()


def test_T181_flows_with_others_cookies_stay_and_one_in_the_place_of_ours_does_not(cloud):
    host = cloud.lab.hypervisors["hv1"]
    right = shape(host)
    mine = next(line for line in host.flows() if "table=33" in line and "tp_dst=80" in line)
    match = re.search(r"table=33, ?(priority=\S+)", mine)
    assert match
    elsewhere = [f"{OTHERS},table=99,priority=5,tcp,actions=drop", f"{OTHERS},table=33,priority=7,udp,actions=drop"]
    host.add_flows(*elsewhere)
    cloud.call("PUT", "/v1/droplets/102", {"name": "app", "tags": ["all", "more"]})
    cloud.call("PUT", "/v1/droplets/102", {"name": "app", "tags": ["all"]})
    cloud.controller.kill()
    # The same table, priority and match: OpenFlow knows one flow there, and it is ours no longer.
    place = match[1].rstrip(",")
    host.add_flows(f"{OTHERS},table=33,{place},actions=drop")
    assert len(shape(host)) == len(right) - 1
    cloud.controller.start()
    cloud.wait_in_sync()
    assert shape(host) == right
    host.add_flows(f"{OTHERS},table=33,{place},actions=drop")  # and once more while we look
    wait_until("the repair", lambda: shape(host) == right, PATIENCE, 0.02)
    cloud.wait_in_sync()
    assert len([line for line in host.flows() if OTHERS in line]) == 2
    host.ovs.ofctl("del-flows", "br0", f"{OTHERS}/-1")
    assert shape(host) == right


def test_T165_a_switch_that_restored_its_flows_is_sent_none(cloud):
    """As `ovs-ctl restart` does: flows are saved before the switch ends, and put back before it connects."""
    host = cloud.lab.hypervisors["hv1"]
    saved = host.ovs.ofctl("--no-names", "--no-stats", "dump-flows", "br0")
    cloud.controller.kill()
    host.ovs.restart_switch()
    host.ovs.ofctl("--bundle", "replace-flows", "br0", "-", stdin=saved)
    before = durations(host)
    cloud.controller.start()
    cloud.wait_in_sync()
    after = durations(host)
    assert len(before) > 50
    assert after.keys() == before.keys()
    assert all(after[flow] >= before[flow] for flow in before), "a flow that is written anew is younger"
    agree(cloud, "web", "app")


def test_T162_what_another_process_did_to_the_store_meanwhile_is_done(cloud):
    (firewall,) = cloud.call("GET", "/v2/firewalls")["firewalls"]
    cloud.controller.kill()
    with Controller(
        cloud.lab.directory / "other", host=cloud.lab.address, database=cloud.controller.database
    ) as another:
        rules = {"inbound_rules": [inbound("tcp", "81")], "outbound_rules": [outbound("tcp", "0")]}
        answer = another.call("PUT", f"/v2/firewalls/{firewall['id']}", {"name": "all", "tags": ["all"], **rules})
        assert answer.status == 200
    agree_still(cloud)
    cloud.controller.start()
    cloud.wait_in_sync()
    held = "".join(shape(cloud.lab.hypervisors["hv1"]))
    assert "tp_dst=81" in held
    assert "tp_dst=80" not in held
    agree(cloud, "web", "app", "db")


def agree_still(cloud):
    """Nobody drives the switches: what was allowed is."""
    web = cloud.lab.machines["web"]
    web.call("listen", tcp=[80], udp=[])
    assert cloud.lab.machines["outside"].call("tcp", address=web.address(), port=80, timeout=2) == OPEN


def durations(host):
    lines = host.ovs.ofctl("--no-names", "dump-flows", "br0").splitlines()
    found = {}
    for line in lines:
        age = re.search(r"duration=([0-9.]+)s", line)
        if age:
            found[re.sub(r"duration=\S+ |n_packets=\S+ |n_bytes=\S+ |idle_age=\S+ |hard_age=\S+ ", "", line)] = float(
                age[1]
            )
    return found
