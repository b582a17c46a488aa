"""Neutron's native Open vSwitch firewall driver, driven over pipes: one JSON command a line, one answer a line.

Runs under the Python of a virtual environment that has `neutron`, and imports nothing of this project.  The driver is
alone: no agent loop, no RPC, no database, and privsep within the process (this is root), so that a real agent is
slower.  What it does to flows it does by itself, with `ovs-ofctl --bundle`.

    python neutron_driver.py unix:/path/db.sock /path/of/the/run/directory
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

GROUP = "members"


class NoConntrack:
    """For the driver's cleaner of connections, which knows the kernel's conntrack only."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def driver(database: str) -> Any:
    from neutron import privileged
    from neutron.agent.common import ovs_lib
    from neutron.conf.agent import common as agent_conf
    from neutron.conf.agent import securitygroups_rpc
    from neutron.plugins.ml2.drivers.openvswitch.agent.common import config  # noqa: F401 - registers its options
    from neutron.plugins.ml2.drivers.openvswitch.agent.openflow import br_cookie
    from oslo_config import cfg

    securitygroups_rpc.register_securitygroups_opts()
    agent_conf.register_root_helper(cfg.CONF)
    cfg.CONF([], project="neutron")
    cfg.CONF.set_override("ovsdb_connection", database, "OVS")
    for context in vars(privileged).values():
        if hasattr(context, "set_client_mode"):
            context.set_client_mode(False)
    from neutron.agent.linux.openvswitch_firewall import firewall

    class Bridge(br_cookie.OVSBridgeCookieMixin, ovs_lib.OVSBridge):
        pass

    made = firewall.OVSFirewallDriver(Bridge("br-int"))
    made.ipconntrack = NoConntrack()
    return made


class Commands:
    def __init__(self, made: Any) -> None:
        self.driver = made
        self.ports: list[dict[str, Any]] = []

    def load(self, ports: list[dict[str, Any]], rules: list[list[dict[str, Any]]], members: dict[str, Any]) -> None:
        self.ports = ports
        self._update(members)
        for port, listed in zip(ports, rules, strict=True):
            self.driver.update_security_group_rules(port["security_groups"][0], listed)
            self.driver.prepare_port_filter(port)

    def unload(self) -> None:
        for port in self.ports:
            self.driver.remove_port_filter(port)
        self._update({})

    def rules(self, port: int, rules: list[dict[str, Any]]) -> None:
        self.driver.update_security_group_rules(self.ports[port]["security_groups"][0], rules)
        self.driver.update_port_filter(self.ports[port])

    def members(self, members: dict[str, Any]) -> None:
        self._update(members)
        for port in self.ports:
            self.driver.update_port_filter(port)

    def _update(self, members: dict[str, Any]) -> None:
        pairs = {version: [tuple(pair) for pair in listed] for version, listed in members.items()}
        self.driver.update_security_group_members(GROUP, pairs)


def main() -> None:
    database, os.environ["OVS_RUNDIR"] = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    commands = Commands(driver(database))
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        work = getattr(commands, told.pop("do"))
        began = time.perf_counter()
        with commands.driver.defer_apply():
            work(**told)
        print(json.dumps(time.perf_counter() - began), file=answers, flush=True)


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)  # threads of the driver's libraries never end
