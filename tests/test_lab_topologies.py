"""The Mininet topologies: each starts, its ordinary switches let everybody through, and it stops cleanly.

Each runs as a person would run it, but in a sandbox: Mininet uses the system's Open vSwitch, and this machine's is
not for tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from lab.controller import Controller
from lab.network import Lab
from lab.sandbox import sandboxed

ROOT = Path(__file__).parents[1]
PYTHON = "/usr/bin/python3"  # the one that Debian's Mininet is installed for
TOPOLOGIES = {"one_hypervisor": 4, "two_hypervisors": 5, "small_cloud": 10}  # and how many hosts
DATABASES = {"one_hypervisor": "h3", "two_hypervisors": "h4", "small_cloud": "h5"}  # a droplet tagged db; h1 is web

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="Mininet needs root"),
    pytest.mark.skipif(shutil.which("mn") is None, reason="Mininet is not installed"),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(f"p{os.getpid() % 0xFFFFFF:x}") as built:
        built.add_managed_namespace("mininet")
        yield built


def run_topology(lab: Lab, name: str, *arguments: str, after: str = "true") -> subprocess.CompletedProcess[str]:
    """Run one as by hand; with `--controller` and `--rest` on `lab.address` it reaches a controller out here.

    `after` is a shell command that runs when the topology is down, in the same sandbox.
    """
    script = f'"$@"; status=$?; {after}; exit $status'
    command = ["sh", "-c", script, "sh", PYTHON, f"topologies/{name}.py", *arguments]
    argv = sandboxed(f"fw-{lab.tag}-mininet", *command)
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_plain_switches_let_everybody_through_and_nothing_stays(lab: Lab, name: str) -> None:
    left = "echo; ovs-vsctl list-br; ls /sys/class/net; ps -eo args | grep [m]ininet:"
    done = run_topology(
        lab, name, "--plain", "--run", "pingall", "--run", "h1 ping -6 -c1 -W2 fd00:1::ff01", after=left
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n0% lost\n" in done.stdout
    assert "1 received" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()[1 : 1 + TOPOLOGIES[name]]][-1] == "out"
    after = done.stdout.rpartition("\n\n")[2].split()
    assert set(after) <= {"lo", "mgmt", "ovs-netdev"}, done.stdout


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_without_a_controller_nothing_passes(lab: Lab, name: str) -> None:
    settings = "ovs-vsctl --bare --columns=fail_mode,protocols,other_config list Bridge hv1"
    done = run_topology(lab, name, "--no-register", "--run", "h1 ping -c1 -W1 h2", "--run", f"h1 {settings}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "0 received" in done.stdout
    assert "secure\nOpenFlow13 OpenFlow14\n" in done.stdout
    assert "disable-in-band=true" in done.stdout


@pytest.mark.parametrize(("name", "more"), [("one_hypervisor", ""), ("small_cloud", ",hypervisors=2,droplets=2")])
def test_mn_takes_them_as_custom_topologies(lab: Lab, name: str, more: str) -> None:
    """`mn` cannot start Open vSwitch, so one of our scripts does; both see the same sandbox."""
    mn = f"mn --custom topologies/{name}.py --topo {name}{more} --controller none --test none"
    done = run_topology(lab, "one_hypervisor", "--plain", "--run", "h1 true", after=f"{mn} && echo mn went well")
    assert "mn went well" in done.stdout, done.stdout + done.stderr
    assert "h1 h2 h3" in done.stderr


def test_a_controller_that_is_not_there_is_said_plainly(lab: Lab) -> None:
    done = run_topology(lab, "one_hypervisor", "--token", "x", "--controller", "nonsense")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "error: --controller is ADDRESS:PORT, not 'nonsense'")


def test_no_token_is_said_plainly(lab: Lab) -> None:
    done = run_topology(lab, "one_hypervisor", "--token", "")
    assert done.returncode == 1
    assert "error: no operator token" in done.stderr


def test_what_is_registered(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The REST calls of the smallest topology, received by a server here; its switch is taken for connected."""
    with HTTPServer((lab.address, 0), Recorder) as server:
        server.calls = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            done = subprocess.run(
                sandboxed(
                    f"fw-{lab.tag}-mininet", PYTHON, "-c", CONNECTED, "--token", "secret", "--run", "h1 true",
                    "--rest", f"http://{lab.address}:{server.server_port}",
                ),
                cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
        finally:
            server.shutdown()
            thread.join()
        assert done.returncode == 0, done.stdout + done.stderr
        assert {headers for headers, _, _ in server.calls} == {("Bearer secret", "wait=10")}
        made = {path: body for _, path, body in server.calls}
    assert list(made) == [
        "/v1/hypervisors/0000000000000001",
        *(f"/v1/{kind}" for n in (1, 2, 3) for kind in (f"droplets/{100 + n}", f"ports/h{n}-eth0")),
    ]
    assert made["/v1/hypervisors/0000000000000001"] == {"name": "hv1", "uplinks": ["hv1-up"]}
    assert made["/v1/droplets/103"] == {"name": "h3", "tags": ["db"]}
    assert made["/v1/ports/h2-eth0"] == {
        "droplet_id": 102,
        "hypervisor": "0000000000000001",
        "interface": "tap2",
        "mac": "02:00:00:00:00:02",
        "addresses": ["10.1.0.2", "fd00:1::2"],
    }


CONNECTED = """
import sys
sys.path.insert(0, "topologies")
import common, one_hypervisor
common.Hypervisor.connected = lambda self: True
sys.exit(common.main(one_hypervisor.OneHypervisor(), common.parser("").parse_args()))
"""


class Recorder(BaseHTTPRequestHandler):
    """Answers every PUT with 201 and keeps it."""

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server: Any = self.server
        server.calls.append(((self.headers["Authorization"], self.headers["Prefer"]), self.path, body))
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_under_the_controller_what_passes_is_what_the_policy_means(lab: Lab, name: str, tmp_path: Path) -> None:
    """The firewall is there first; a droplet is behind it from the moment that it is registered."""
    with Controller(tmp_path, host=lab.address) as controller:
        for tag in ("web", "db"):
            assert controller.call("POST", "/v2/tags", {"name": tag}).status == 201
        firewall = {
            "name": "web-fw",
            "tags": ["web"],
            "inbound_rules": [{"protocol": "icmp", "ports": "0", "sources": {"tags": ["db"]}}],
        }
        assert controller.call("POST", "/v2/firewalls", firewall).status == 202
        db = DATABASES[name]
        tries = {(db, "h1"): 1, ("h1", db): 0, ("out", "h1"): 0, ("out", db): 1}
        pings = {f"{source} ping -c1 -W1 {target}": passes for (source, target), passes in tries.items()}
        done = run_topology(
            lab,
            name,
            *("--controller", f"{lab.address}:{controller.openflow_port}"),
            *("--rest", controller.rest.url, "--token", controller.rest.token),
            *(word for ping in pings for word in ("--run", ping)),
        )
        droplets = controller.call("GET", "/v1/droplets?per_page=200").json["droplets"]
    tags = {droplet["name"]: droplet["tags"] for droplet in droplets}
    assert (tags["h1"], tags[db]) == (["web"], ["db"]), done.stdout + done.stderr
    assert len(tags) == TOPOLOGIES[name] - 1
    received = [int(line.split(" received")[0].split()[-1]) for line in done.stdout.splitlines() if " received" in line]
    assert received == list(pings.values()), done.stdout + done.stderr
