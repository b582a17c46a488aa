"""T174: each process of a deployment is killed in turn, with a change of the policy before, meanwhile and after.

The controller, its database, ovs-vswitchd and ovsdb-server are real; what counts is what the bridge holds in the end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ovs_dummy import DummyOvs
from test_app_pace import rule

from lab.controller import Controller
from lab.system import wait_until

if TYPE_CHECKING:
    from postgresql import Server

pytest_plugins = ("postgresql",)
pytestmark = [pytest.mark.ovs, pytest.mark.postgresql, pytest.mark.process]
DPID = f"{1:016x}"


class Site:
    """One bridge with a droplet, a controller, a database."""

    def __init__(self, ovs: DummyOvs, controller: Controller) -> None:
        self.ovs, self.controller, self.call = ovs, controller, controller.call
        ovs.add_bridge("br0", ("eth0", "tap0"))
        ovs.vsctl("set-controller", "br0", f"tcp:127.0.0.1:{controller.openflow_port}", "--",
                  "set", "controller", "br0", "max_backoff=1000", "connection_mode=out-of-band")  # fmt: skip
        for path, body in (
            (f"/v1/hypervisors/{DPID}", {"name": "hv"}),
            ("/v1/droplets/1", {"name": "web"}),
            ("/v1/ports/p", {"droplet_id": 1, "hypervisor": DPID, "interface": "tap0",
                             "mac": "02:00:00:00:00:01", "addresses": ["10.0.0.1"]}),
        ):  # fmt: skip
            assert self.call("PUT", path, body).status == 201
        self.body = {"name": "all", "droplet_ids": [1]}
        made = self.call("POST", "/v2/firewalls", {**self.body, "inbound_rules": [rule(1)]}).json["firewall"]
        self.path = f"/v2/firewalls/{made['id']}"

    def change(self, number: int) -> int:
        return self.call("PUT", self.path, {**self.body, "inbound_rules": [rule(number)]}).status

    def dump(self) -> str | None:
        """What the bridge holds; None when it does not answer."""
        try:
            return self.ovs.ofctl("-O", "OpenFlow14", "--no-stats", "--no-names", "dump-flows", "br0")
        except RuntimeError:
            return None

    def opened(self) -> set[int]:
        """The TCP ports that the bridge's flows open to the droplet."""
        found = (self.dump() or "").split("tp_dst=")
        return {int(text.split(",")[0].split()[0]) for text in found[1:]} & set(range(1000, 2000))

    def follows(self, number: int) -> None:
        def there() -> bool:
            sync = self.call("GET", f"/v1/hypervisors/{DPID}").json["sync"]["state"]
            return sync == "in_sync" and self.opened() == {number}

        wait_until(f"the bridge to open port {number} alone", there, 60, 0.05)


@pytest.fixture(scope="module")
def site(postgresql: Server) -> Iterator[Site]:
    with (
        tempfile.TemporaryDirectory(prefix="fw-") as folder,
        DummyOvs(Path(folder, "ovs")) as ovs,
        Controller(Path(folder), database=postgresql.database()) as controller,
    ):
        yield Site(ovs, controller)


def kill_controller(site: Site, _: Server) -> Callable[[], None]:
    site.controller.kill()
    return site.controller.start


def kill_database(_: Site, server: Server) -> Callable[[], None]:
    server.kill()
    return server.start


def kill_switch(site: Site, _: Server) -> Callable[[], None]:
    site.ovs.kill_vswitchd()
    return site.ovs.start_vswitchd


def kill_switch_database(site: Site, _: Server) -> Callable[[], None]:
    site.ovs.kill("ovsdb-server")
    return site.ovs.start_ovsdb


def kill_both(site: Site, _: Server) -> Callable[[], None]:
    """The switch comes back first: until the controller does, it passes nothing."""
    site.controller.kill()
    site.ovs.kill_vswitchd()

    def back() -> None:
        site.ovs.start_vswitchd()
        wait_until("the bridge to be there", lambda: site.dump() is not None, 30)
        assert site.dump() == "", "nothing passes"
        assert "fail_mode: secure" in site.ovs.vsctl("show")
        site.controller.start()

    return back


KILLS = [kill_controller, kill_database, kill_switch, kill_switch_database, kill_both]


@pytest.mark.parametrize("kill", KILLS)
def test_T174_each_process_is_killed_in_turn_and_all_comes_back(
    site: Site, postgresql: Server, kill: Callable[[Site, Server], Callable[[], None]]
) -> None:
    base = 1000 + 10 * KILLS.index(kill)
    assert site.change(base) in (200, 202)
    site.follows(base)
    back = kill(site, postgresql)
    kept = base
    if site.controller.running and site.change(base + 1) in (200, 202):
        kept = base + 1
    assert kept == base + (kill in (kill_switch, kill_switch_database))
    back()
    site.follows(kept)
    assert site.change(base + 2) in (200, 202)
    site.follows(base + 2)
    wait_until("it to be ready", lambda: site.call("GET", "/readyz").status == 200, 30)
