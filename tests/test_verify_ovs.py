"""The command against a running controller and a real switch: what it finds right, and that it finds what is wrong.

The switch holds what the controller sent it; then flows are taken away, added and changed behind the controller's back.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ovs_dummy import DummyOvs

from firewall_app.pipeline.flow import Flow
from firewall_app.pipeline.parse import parse_dump
from firewall_app.pipeline.tables import Kind, cookie_parts
from lab.controller import TOKEN, Controller
from lab.system import wait_until

pytestmark = pytest.mark.ovs
DPID = "0000000000000001"
PORTS = ("uplink", "web", "db", "open", "stranger")  # 1, 2, ..
EVERYWHERE = {"addresses": ["0.0.0.0/0", "::/0"]}


@dataclass
class Site:
    """A controller, and a switch that follows it."""

    controller: Controller
    ovs: DummyOvs
    directory: Path
    sound: list[str] = field(default_factory=list)  # the flows as the controller made them

    @property
    def bridge(self) -> str:
        return f"unix:{self.ovs.mgmt('br0')}"

    def call(self, method: str, path: str, body: object = None) -> object:
        answer = self.controller.call(method, path, body)
        assert answer.status < 300, answer
        return answer.json

    def dump(self) -> str:
        return self.ovs.ofctl("-O", "OpenFlow14", "dump-flows", self.bridge)

    def flows(self) -> tuple[Flow, ...]:
        dump = parse_dump(self.dump())
        assert dump.unreadable == ()
        return dump.flows

    def change(self, command: str, flow: str) -> None:
        self.ovs.ofctl("-O", "OpenFlow14", *([] if command == "add-flow" else ["--strict"]), command, self.bridge, flow)

    @property
    def state(self) -> str:
        return str(self.call("GET", f"/v1/hypervisors/{DPID}")["sync"]["state"])

    def connect(self) -> None:
        self.ovs.vsctl("set-controller", "br0", f"tcp:127.0.0.1:{self.controller.openflow_port}")
        wait_until("the switch in step", lambda: self.state == "in_sync", 60, 0.05)

    def verify(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        token = self.directory / "token"
        token.write_text(TOKEN + "\n")
        source = () if "--flows" in words else ("--bridge", self.bridge)
        return subprocess.run(
            [sys.executable, "-m", "firewall_app.verify", "--api", self.controller.rest.url,
             "--token-file", token, *source, *words],
            input=stdin, capture_output=True, text=True, timeout=250, check=False, env=self.ovs.env,
        )  # fmt: skip


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="fw-") as name, DummyOvs(Path(name) / "ovs") as ovs:
        directory = Path(name)
        with Controller(directory / "controller", settings={"audit_interval": 0}) as controller:
            ovs.add_bridge("br0", PORTS, dpid=int(DPID, 16))
            built = Site(controller, ovs, directory)
            populate(built)
            built.connect()
            built.sound = [flow.text for flow in built.flows()]
            yield built


def populate(site: Site) -> None:
    site.call("PUT", f"/v1/hypervisors/{DPID}", {"name": "hv-1", "uplinks": ["uplink"]})
    site.call("PUT", "/v1/hypervisors/0000000000000002", {"name": "hv-2", "uplinks": ["uplink"]})
    for number, (name, dpid) in enumerate((("web", DPID), ("db", DPID), ("open", DPID), ("far", DPID[:-1] + "2")), 1):
        site.call("PUT", f"/v1/droplets/{number}", {"name": name, "tags": [name] if name != "open" else []})
        addresses = [f"10.0.0.{number}", f"2001:db8::{number}"] + (["10.1.0.0/30"] if name == "db" else [])
        body = {"droplet_id": number, "hypervisor": dpid, "interface": name, "mac": f"00:01:02:03:04:0{number}"}
        site.call("PUT", f"/v1/ports/{name}", {**body, "addresses": addresses})
    web = {
        "name": "web", "tags": ["web"],
        "inbound_rules": [
            {"protocol": "tcp", "ports": "443", "sources": EVERYWHERE},
            {"protocol": "tcp", "ports": "8000-8002", "sources": {"addresses": ["192.0.2.0/24"], "tags": ["far"]}},
            {"protocol": "icmp", "ports": "0", "sources": {"addresses": ["2001:db8:1::/48"]}},
        ],
        "outbound_rules": [{"protocol": "tcp", "ports": "5432", "destinations": {"tags": ["db"]}},
                           {"protocol": "udp", "ports": "53", "destinations": EVERYWHERE}],
    }  # fmt: skip
    site.call("POST", "/v2/firewalls", web)
    db = [{"protocol": "tcp", "ports": "5432", "sources": {"droplet_ids": [1]}}]
    site.call("POST", "/v2/firewalls", {"name": "db", "droplet_ids": [2], "inbound_rules": db})
    own = [{"protocol": "udp", "ports": "161-162", "sources": {"addresses": ["198.51.100.0/25"]}}]
    site.call("POST", "/v1/ports/db/rules", {"inbound_rules": own})


@pytest.fixture
def spoilt(site: Site) -> Iterator[Site]:
    """A site whose flows may be spoilt, without a controller that would put them right; that is done afterwards."""
    site.ovs.vsctl("set-controller", "br0", "tcp:127.0.0.1:1")  # with none at all the bridge would forget its flows
    wait_until("the end of the connection", lambda: site.state == "unreachable", 20, 0.05)
    yield site
    site.ovs.ofctl("-O", "OpenFlow14", "--bundle", "replace-flows", site.bridge, "-", stdin="\n".join(site.sound))
    site.connect()


def test_the_text_of_a_switch_says_what_its_bytes_say(site: Site) -> None:
    """What is parsed from text here, the controller has decoded from the wire; every flow, to the letter."""
    told = site.call("GET", f"/v1/hypervisors/{DPID}/flows")["flows"]
    assert sorted(flow.text for flow in site.flows()) == sorted(flow["flow"] for flow in told)


def test_T194_a_switch_that_does_what_the_policy_means_agrees(site: Site) -> None:
    done = site.verify("--cases", "6000")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "3 droplet ports" in done.stdout
    assert "do not agree: 0" in done.stdout


def test_flows_from_a_file_and_from_the_standard_input(site: Site) -> None:
    words = ("--dpid", DPID, "--uplinks", "1", "--cases", "300")
    (site.directory / "flows").write_text(site.dump())
    assert site.verify("--flows", str(site.directory / "flows"), *words).returncode == 0
    done = site.verify("--flows", "-", *words, stdin=site.dump())
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"2\d\d of \d{4} cases \(seed 1\)", done.stdout)


def find(site: Site, *words: str) -> Flow:
    return next(flow for flow in site.flows() if all(word in flow.text for word in words))


def test_a_rule_whose_flow_is_gone_is_found(spoilt: Site) -> None:
    number = 0
    for flow in spoilt.flows():
        parts = cookie_parts(flow.cookie)
        if parts is not None and parts[0] is Kind.RULE and "tcp" in flow.text and "8002" in flow.text:
            spoilt.change("del-flows", f"table={flow.table},priority={flow.priority},{flow.match.text}")
            number += 1
    assert number > 0, "the policy has such a rule"
    done = spoilt.verify()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "firewall web: inbound tcp 8000-8002 from 192.0.2.0/24, tag far" in done.stdout
    assert "policy: ALLOW: inbound rule of web allows it; it should reach port web (2)" in done.stdout
    assert "flows:  it reaches nobody" in done.stdout
    assert "to 10.0.0.1 port 8002 (port web of droplet 1)" in done.stdout


def test_a_flow_of_someone_else_that_lets_everything_pass_is_found(spoilt: Site) -> None:
    spoilt.change("add-flow", "cookie=0xbad,priority=40000,ip,in_port=1,actions=output:2")
    done = spoilt.verify("--cases", "2000")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "flows not of this firewall: 1" in done.stdout
    assert "    cookie=0xbad,table=0,priority=40000,ip,in_port=1 actions=output:2" in done.stdout
    assert "policy: DROP: no inbound rule of droplet 1 allows it" in done.stdout
    assert "flows:  it reaches port web (2)" in done.stdout


def test_a_switch_that_switches_as_any_other_is_found(spoilt: Site) -> None:
    spoilt.change("add-flow", "priority=40000,actions=NORMAL")
    done = spoilt.verify("--cases", "500")
    assert (done.returncode, "it reaches NORMAL" in done.stdout) == (1, True), done.stdout + done.stderr


def test_a_guard_that_lets_a_false_address_pass_is_found(spoilt: Site) -> None:
    guard = find(spoilt, "table=0,priority=2000", "in_port=2", "nw_src=10.0.0.1")
    spoilt.change("add-flow", guard.text.replace("nw_src=10.0.0.1", "nw_src=10.0.0.0/30"))
    done = spoilt.verify()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "web under another's address" in done.stdout
    assert "policy: DROP: 10.0.0.2 is not an address of port web" in done.stdout


def test_a_stranger_that_gets_in_is_found(spoilt: Site) -> None:
    spoilt.change("add-flow", "cookie=1,table=0,priority=50,in_port=5,actions=output:3")
    spoilt.change("del-flows", f"table=0,priority=100,{find(spoilt, 'table=0,priority=100 ').match.text}".rstrip(","))
    done = spoilt.verify()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "a switch port that nobody registered" in done.stdout
    assert "(switch port 5, which nobody registered)" in done.stdout


def test_what_it_does_not_know_is_said_and_nothing_is_concluded(spoilt: Site) -> None:
    spoilt.change("add-flow", "cookie=0xbad,table=99,ip,nw_tos=4,actions=drop")
    done = spoilt.verify()
    assert done.returncode == 2
    assert "nw_tos is not known, in:" in done.stderr
    assert "table=99" in done.stderr
    assert "agree" not in done.stdout


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--dpid", "00000000000000ff"), "the bridge is hypervisor 0000000000000001, not 00000000000000ff"),
        (("--uplinks", "bond0"), "give --uplinks"),
        (("--flows", "-"), "give --dpid"),
        (("--flows", "-", "--dpid", "00000000000000ff"), "there is no hypervisor"),
        (("--flows", "/nowhere"), "No such file"),
        (("--api", "http://127.0.0.1:1"), "refused"),
        (("--token-file", "/dev/null"), "401"),
    ],
)
def test_what_hinders_it_is_said(site: Site, words: tuple[str, ...], problem: str) -> None:
    done = site.verify(*words, stdin="")
    assert (done.returncode, problem in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
