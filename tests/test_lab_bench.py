"""The lab itself: the switch in it switches, the probes see what is true, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.leftovers import sweep
from lab.machine import Agent, Machine
from lab.network import Hypervisor, Lab
from lab.ovs import PrivateOvs
from lab.system import LabError, run, wait_until
from lab.truth import Case, all_pairs, disagreements, probe

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ovs-vswitchd") is None, reason="Open vSwitch is not installed"),
]

ROOT = Path(__file__).parents[1]
NORMAL = "priority=0,actions=NORMAL"


def tag(letter: str) -> str:
    """A tag that another run of these tests does not use at the same time."""
    return f"{letter}{os.getpid() % 0xFFFFFF:x}"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """hv1 with a and b, hv2 with c, and a host outside; ordinary switches."""
    with Lab(tag("l")) as built:
        first, second = built.add_hypervisor(), built.add_hypervisor()
        for name, hypervisor in (("a", first), ("b", first), ("c", second)):
            built.add_machine(name, hypervisor)
        built.add_outside("out")
        yield built


@pytest.fixture(autouse=True)
def plain(request: pytest.FixtureRequest) -> None:
    """Every test that uses the lab begins with learning switches."""
    if "lab" in request.fixturenames:
        for hypervisor in request.getfixturevalue("lab").hypervisors.values():
            if hypervisor.flows() != ["priority=0 actions=NORMAL"]:
                set_flows(hypervisor, NORMAL)


def set_flows(hypervisor: Hypervisor, *flows: str) -> None:
    hypervisor.ovs.ofctl("del-flows", hypervisor.bridge)
    if flows:
        hypervisor.add_flows(*flows)
    hypervisor.settle()


def machines(lab: Lab, names: str) -> list[Machine]:
    return [lab.machines[name] for name in names.split()]


# --- truth ---


def test_learning_switches_let_everybody_reach_everybody(lab: Lab) -> None:
    cases = all_pairs(lab.machines, [("tcp", 80), ("udp", 53), ("icmp", 0)])
    assert disagreements(dict.fromkeys(cases, True), probe(lab.machines, cases, set(cases))) == []


def test_a_bridge_in_secure_mode_without_flows_passes_nothing(lab: Lab) -> None:
    set_flows(lab.hypervisors["hv1"])
    cases = [
        case for case in all_pairs(lab.machines, [("tcp", 80), ("icmp", 0)]) if {"a", "b"} & {case.source, case.target}
    ]
    assert disagreements(dict.fromkeys(cases, False), probe(lab.machines, cases, timeout=0.2)) == []


@pytest.mark.parametrize(("version", "word"), [(4, "tcp"), (6, "tcp6")])
def test_one_dropped_port_is_seen_and_nothing_else_is(lab: Lab, version: int, word: str) -> None:
    set_flows(lab.hypervisors["hv2"], NORMAL, f"priority=9,{word},tp_dst=443,actions=drop")
    cases = all_pairs(lab.machines, [("tcp", 80), ("tcp", 443)])
    expected = {
        case: not (case.port == 443 and "c" in (case.source, case.target) and case.version == version) for case in cases
    }
    outcomes = probe(lab.machines, cases, {case for case in cases if expected[case]})
    assert disagreements(expected, outcomes) == []


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("command", ["tcp", "udp"])
def test_a_port_where_nobody_listens_refuses(lab: Lab, command: str, version: int) -> None:
    a, c = machines(lab, "a c")
    assert a.call(command, address=c.address(version), port=999, timeout=2) == "refused"


def test_an_address_that_nobody_has_is_silence(lab: Lab) -> None:
    assert lab.machines["a"].call("icmp", address="10.1.9.9", timeout=0.2) == "timeout"


@pytest.mark.parametrize("command", ["tcp", "udp"])
def test_the_source_port_is_the_one_asked_for(lab: Lab, command: str) -> None:
    a, b = machines(lab, "a b")
    set_flows(lab.hypervisors["hv1"], NORMAL, f"priority=9,{command},tp_src=40001,actions=drop")
    b.call("listen", **{command: [80]})
    found = [
        a.call(command, address=b.address(), port=80, source_port=port, timeout=0.3)
        for port in (40001, 40000, 40000)  # twice: a port must be free again at once
    ]
    assert found == ["timeout", "open", "open"]


@pytest.mark.parametrize("command", ["udp", "icmp"])
@pytest.mark.parametrize("version", [4, 6])
def test_packets_larger_than_the_link_come_back_whole(lab: Lab, command: str, version: int) -> None:
    a, c = machines(lab, "a c")
    c.call("listen", udp=[53])
    port = {"port": 53} if command == "udp" else {}
    assert a.call(command, address=c.address(version), size=4000, timeout=2, **port) == "open"


# --- addresses and frames ---


@pytest.mark.parametrize(("extra", "version"), [("10.1.7.7/16", 4), ("fd00:1::7:7/64", 6)])
def test_a_second_address_answers_for_itself_and_can_speak(lab: Lab, extra: str, version: int) -> None:
    a, b = machines(lab, "a b")
    host = extra.split("/", maxsplit=1)[0]
    b.call("listen", udp=[53])
    b.add_address(extra)
    try:
        assert a.call("udp", address=host, port=53, timeout=2) == "open"
        a.call("listen", udp=[53])
        a.call(
            "capture",
            capture="x",
            contains=socket.inet_pton(socket.AF_INET if version == 4 else socket.AF_INET6, host).hex(),
        )
        assert b.call("udp", address=a.address(version), port=53, source=host, timeout=2) == "open"
        assert a.call("captured", capture="x", seconds=2, count=1)
    finally:
        b.del_address(extra)


def test_link_local_addresses_are_there_at_once(lab: Lab) -> None:
    a, c = machines(lab, "a c")
    assert a.call("icmp", address=f"{c.link_local}%eth0", timeout=2) == "open"


def test_another_mac_is_seen_on_the_far_side(lab: Lab) -> None:
    a, c = machines(lab, "a c")
    c.call("capture", capture="mac", src="02:00:00:00:99:99")
    a.set_mac("02:00:00:00:99:99")
    try:
        c.forget_neighbours()
        assert a.call("icmp", address=c.address(), timeout=2) == "open"
    finally:
        a.set_mac(a.mac)
        c.forget_neighbours()
    assert c.call("captured", capture="mac", seconds=2, count=1)


@pytest.mark.parametrize("tag_bytes", ["", "81000005", "88a80007"])
def test_a_frame_arrives_as_it_was_sent_with_its_vlan_tag(lab: Lab, tag_bytes: str) -> None:
    a, c = machines(lab, "a c")
    frame = c.mac.replace(":", "") + a.mac.replace(":", "") + tag_bytes + "88b5" + "f00d" * 30
    c.call("capture", capture="f", ethertype=0x88B5, dst=c.mac)
    assert a.call("send_frames", frames=[frame, frame]) == 2
    assert c.call("captured", capture="f", seconds=2, count=2) == [frame, frame]


def test_a_capture_takes_only_what_it_was_asked_for(lab: Lab) -> None:
    a, c = machines(lab, "a c")
    c.call("capture", capture="other", ethertype=0x88B6)
    c.call("capture", capture="this", ethertype=0x88B5, contains="beef")
    frames = [c.mac.replace(":", "") + a.mac.replace(":", "") + kind for kind in ("88b5dead", "88b5beef")]
    a.call("send_frames", frames=[frame + "00" * 50 for frame in frames])
    assert c.call("captured", capture="this", seconds=2, count=1) == [frames[1] + "00" * 50]
    assert c.call("captured", capture="other") == []


# --- what lasts ---


def test_a_session_falls_silent_with_the_flow_and_goes_on_with_it(lab: Lab) -> None:
    a, c = machines(lab, "a c")
    c.call("listen", tcp=[22])
    assert a.call("tcp_open", session="s", address=c.address(), port=22, source_port=41000) == "open"
    assert a.call("tcp_say", session="s", timeout=2) == "alive"
    set_flows(lab.hypervisors["hv2"], NORMAL, "priority=9,tcp,tp_src=41000,actions=drop")
    assert a.call("tcp_say", session="s", timeout=0.3) == "silent"
    set_flows(lab.hypervisors["hv2"], NORMAL)
    assert a.call("tcp_say", session="s", timeout=10) == "alive"
    a.call("tcp_close", session="s")


def test_a_session_whose_far_side_goes_is_closed(lab: Lab) -> None:
    a, b = machines(lab, "a b")
    b.call("listen", tcp=[22])
    assert a.call("tcp_open", session="s", address=b.address(), port=22) == "open"
    b.close()  # the agent, and with it every socket; the next call starts another
    assert a.call("tcp_say", session="s", timeout=5) == "closed"
    a.call("tcp_close", session="s")


def test_a_stream_is_counted_where_it_arrives(lab: Lab) -> None:
    a, c = machines(lab, "a c")
    c.call("udp_count", port=7000)
    stream = a.call("udp_stream", stream="s", address=c.address(), port=7000, rate=200, seconds=0.25)
    assert stream["sent"] > 1
    wait_until("all packets", lambda: c.call("udp_counted", port=7000)["packets"] == stream["sent"])
    counted = c.call("udp_counted", port=7000, end=True)
    # One clock for all machines: what was received was sent before.
    assert stream["first"] <= counted["first"] <= counted["last"]


def test_a_stream_can_be_stopped_and_may_come_from_a_port_that_listens(lab: Lab) -> None:
    a, c = machines(lab, "a c")
    a.call("listen", udp=[53])
    c.call("udp_count", port=7001, knock=[a.address(), 53])
    stream = a.submit("udp_stream", stream="s", address=c.address(), port=7001, rate=100, seconds=600, source_port=53)
    wait_until("some packets", lambda: c.call("udp_counted", port=7001)["packets"] > 5)
    a.call("udp_stop", stream="s")
    assert stream.result(10)["sent"] >= 5  # what arrived, less the echo of the knock
    c.call("udp_counted", port=7001, end=True)


def test_a_command_that_fails_says_why_and_the_agent_goes_on(lab: Lab) -> None:
    a = lab.machines["a"]
    with pytest.raises(LabError, match="no such command"):
        a.call("dance")
    with pytest.raises(LabError, match="unexpected keyword argument 'prot'"):
        a.call("tcp", address="10.1.0.1", prot=80)
    assert a.call("icmp", address=a.address(), timeout=2) == "open"


# --- interfaces and switches that come and go ---


def test_a_machine_appears_later_leaves_and_moves(lab: Lab) -> None:
    a = lab.machines["a"]
    late = lab.add_machine("late", "hv1", plugged=False)
    to_late = Case("a", "late", "icmp")
    try:
        assert probe(lab.machines, [to_late], timeout=0.2)[to_late] == "timeout"
        assert lab.plug("late", ofport=77) == 77
        assert probe(lab.machines, [to_late], {to_late})[to_late] == "open"
        lab.unplug("late")
        assert probe(lab.machines, [to_late], timeout=0.2)[to_late] == "timeout"
        lab.move("late", "hv2")
        lab.plug("late")
        for hypervisor in lab.hypervisors.values():
            hypervisor.ovs.appctl("fdb/flush", "br0")
            hypervisor.settle()
        assert probe(lab.machines, [to_late], {to_late})[to_late] == "open"
        assert late.call("icmp", address=a.address(), timeout=2) == "open"
    finally:
        late.close()
        del lab.machines["late"]


@pytest.mark.parametrize("how", ["kill_switch", "stop_switch"])
def test_a_switch_that_restarts_is_closed_with_its_ports_in_place(lab: Lab, how: str) -> None:
    hypervisor, across = lab.hypervisors["hv2"], Case("a", "c", "icmp")
    ports = hypervisor.ovs.vsctl("list-ports", "br0")
    getattr(hypervisor.ovs, how)()
    assert not hypervisor.ovs.running
    with pytest.raises(LabError, match="does not answer"):
        hypervisor.ovs.appctl("version")
    hypervisor.ovs.start_switch()
    assert hypervisor.flows() == []
    assert hypervisor.ovs.vsctl("list-ports", "br0") == ports
    assert probe(lab.machines, [across], timeout=0.2)[across] == "timeout"
    set_flows(hypervisor, NORMAL)
    assert probe(lab.machines, [across], {across})[across] == "open"


def test_a_bridge_is_closed_before_it_has_a_controller(lab: Lab) -> None:
    hypervisor = lab.hypervisors["hv1"]
    asked = ("fail_mode", "protocols", "other_config:disable-in-band", "other_config:datapath-id", "datapath_id")
    assert hypervisor.ovs.vsctl("get", "Bridge", "br0", *asked).splitlines() == [
        "secure",
        "[OpenFlow13, OpenFlow14]",
        '"true"',
        '"0000000000000001"',
        '"0000000000000001"',
    ]


def test_every_hypervisor_reaches_the_one_address(lab: Lab) -> None:
    with socket.create_server((lab.address, 0)) as controller:
        controller.settimeout(10)
        for hypervisor in lab.hypervisors.values():
            hypervisor.connect(f"tcp:{lab.address}:{controller.getsockname()[1]}")
            assert hypervisor.ovs.vsctl("get", "Controller", "br0", "max_backoff") == "1000"
        seen = set()
        while len(seen) < len(lab.hypervisors):
            connection, (address, _) = controller.accept()
            connection.close()
            seen.add(address)
        assert seen == {hypervisor.address for hypervisor in lab.hypervisors.values()}
    for hypervisor in lab.hypervisors.values():
        hypervisor.connect()
        assert hypervisor.ovs.vsctl("get-controller", "br0") == ""


def test_a_hypervisor_can_be_cut_off_from_the_controller_alone(lab: Lab) -> None:
    cut, other = lab.hypervisors.values()

    def reach() -> list[str]:
        agents = [Agent(hypervisor.netns, lab.directory / "management.log") for hypervisor in (cut, other)]
        answers = [agent.submit("icmp", address=lab.address, timeout=1).result(10) for agent in agents]
        for agent in agents:
            agent.close()
        return answers

    cut.cut()
    try:
        assert [answer == "open" for answer in reach()] == [False, True]
        assert lab.machines["a"].call("icmp", address=lab.machines["c"].address(), timeout=2) == "open"
    finally:
        cut.heal()
    wait_until("the link", lambda: reach() == ["open", "open"])


def test_a_refusal_of_the_switch_is_an_error(lab: Lab) -> None:
    ovs = lab.hypervisors["hv1"].ovs
    with pytest.raises(LabError, match='"no/such" is not a valid command'):
        ovs.appctl("no/such")
    with pytest.raises(LabError, match="no bridge named br9"):
        ovs.add_port("br9", "tap9")


def test_a_path_too_long_for_a_socket_is_an_error() -> None:
    with pytest.raises(LabError, match="too long a path"):
        PrivateOvs(Path("/tmp", "x" * 100))


# --- nothing is left ---


def traces(name: str) -> list[str]:
    """Everything on this machine that carries the tag."""
    namespaces = [line.split()[0] for line in run("ip", "netns", "list").splitlines() if line]
    devices = [path.name for path in Path("/sys/class/net").iterdir()]
    found = [netns for netns in namespaces if netns.startswith(f"fw-{name}-")]
    found += [device for device in devices if device.startswith(f"fw{name}m")]
    found += [str(path) for path in Path("/tmp").glob(f"fw-{name}*")]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile
        if any(f"/fw-{name}/".encode() in word or f"fw-{name}-".encode() in word for word in words):
            found.append(b" ".join(words).decode())
    return found


def test_an_exception_leaves_nothing() -> None:
    name = tag("x")

    def fail() -> None:
        with Lab(name) as doomed:
            doomed.add_machine("m", doomed.add_hypervisor()).call("icmp", address="127.0.0.1")
            # Three namespaces, two devices, a directory, two daemons: the search does find things.
            assert len(traces(name)) >= 8
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert traces(name) == []


def test_a_build_that_fails_half_way_leaves_nothing() -> None:
    name = tag("h")
    with pytest.raises(LabError, match="is no device name"), Lab(name) as doomed:
        doomed.add_machine("m", doomed.add_hypervisor(), tap="a name with blanks")
    assert traces(name) == []


CHILD = """
    import sys, time
    from lab.network import Lab

    def build(lab):
        lab.add_machine("m", lab.add_hypervisor()).call("icmp", address="127.0.0.1")
        print("built", flush=True)

    if sys.argv[2] == "exit":
        build(Lab(sys.argv[1]).__enter__())
        sys.exit(3)
    with Lab(sys.argv[1]) as lab:
        build(lab)
        time.sleep(600)
"""


@contextlib.contextmanager
def child(name: str, how: str) -> Iterator[subprocess.Popen[str]]:
    """A process with a lab in it, built."""
    argv = [sys.executable, "-c", textwrap.dedent(CHILD), name, how]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "built\n":
                pytest.fail(process.communicate()[1])
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("how", "status"), [("TERM", 143), ("HUP", 129), ("INT", -2), ("exit", 3)])
def test_a_signal_or_the_exit_leaves_nothing(how: str, status: int) -> None:
    name = tag(how[0].lower())
    with child(name, how) as process:
        if how != "exit":
            run("kill", f"-{how}", str(process.pid))
        process.communicate(timeout=30)
    assert traces(name) == []
    assert process.returncode == status


def test_what_a_killed_lab_left_is_swept() -> None:
    name = tag("k")
    with child(name, "KILL") as process:
        process.kill()
        process.communicate()
    assert any("ovs-vswitchd" in trace for trace in traces(name))
    assert f"fw-{name}-hv1" in sweep(name)
    assert traces(name) == []
    assert sweep(name) == []


def test_a_new_lab_sweeps_what_a_killed_one_left_and_a_living_one_is_let_alone() -> None:
    name = tag("s")
    with child(name, "KILL") as process:
        with pytest.raises(LabError, match="is running"):
            sweep(name)
        with pytest.raises(LabError, match="is running"), Lab(name):
            pass
        process.kill()
        process.communicate()
    with Lab(name) as again:
        again.add_hypervisor()
    assert traces(name) == []


def test_two_labs_at_once_do_not_meet(lab: Lab) -> None:
    name = tag("o")
    with Lab(name) as other:
        assert other.address != lab.address
        stranger = other.add_machine("a", other.add_hypervisor(), addresses=["10.1.0.77/16"])
        set_flows(other.hypervisors["hv1"], NORMAL)
        assert stranger.call("icmp", address=lab.machines["a"].address(), timeout=0.2) == "timeout"
    assert traces(name) == []
    assert lab.machines["a"].call("icmp", address=lab.machines["b"].address(), timeout=2) == "open"


@pytest.mark.parametrize("bad", ["", "Capital", "ten-dashes", "toolongatag"])
def test_a_tag_that_names_no_device_is_refused(bad: str) -> None:
    if bad:
        with pytest.raises(LabError, match="a tag is"):
            Lab(bad)
    else:
        assert Lab(bad).tag == f"{os.getpid():x}"
