"""Ryu's own `rest_firewall` as a peer: `ryu-manager ryu.app.rest_firewall`, one flow for each rule.

It has no sets of addresses (the rule for the set names one address here), no conntrack, no store; it answers when a
flow-mod is sent.  So a change counts as done when a flow monitor of the switch shows it.
"""

from __future__ import annotations

import json
import os
import queue
import selectors
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

from lab.controller import RYU, free_port, is_listened_on
from lab.network import Lab
from lab.ovs import PrivateOvs
from lab.system import LabError, end, spawn, tail, wait_until

from ..client import Client
from ..policies import Size, address, member_address, service, source
from . import NEW_SERVICE, flow_count, new_source, port_of, seconds

CONNECTIONS = 8  # over which everything is loaded


class RestFirewall:
    name = f"Ryu {version('ryu')} rest_firewall"

    def __init__(self, lab: Lab, size: Size, tag: str = "") -> None:
        self.size = size
        host = lab.add_hypervisor(f"restfw{tag}", f"{len(lab.hypervisors) + 1:016x}")
        self.ovs, self.bridge = host.ovs, host.bridge
        self.ovs.vsctl("set", "Bridge", self.bridge, "protocols=OpenFlow10,OpenFlow13")  # 1.0 for the monitor
        self._where = lab.address, free_port(lab.address)
        openflow, log = free_port(lab.address), lab.directory / f"rest_firewall{tag}.log"
        arguments = ["--ofp-listen-host", lab.address, "--ofp-tcp-listen-port", str(openflow),
                     "--wsapi-host", lab.address, "--wsapi-port", str(self._where[1])]  # fmt: skip
        process = spawn([*RYU, *arguments, "ryu.app.rest_firewall"], log)
        lab.keep(_Closing(lambda: end(process)))
        wait_until("ryu-manager", lambda: is_listened_on(*self._where) and is_listened_on(lab.address, openflow), 30)
        host.connect(f"tcp:{lab.address}:{openflow}")
        self._rest = lab.keep(Client(*self._where))
        self._rules = f"/firewall/rules/{host.dpid}"
        try:
            wait_until("rest_firewall's switch", self._has_a_switch, 30, 0.05)
        except LabError as problem:
            raise LabError(f"{problem}\n{tail(log)}") from problem
        self._rest.call("PUT", f"/firewall/module/enable/{host.dpid}")
        self._numbers: dict[int, str] = {}
        wait_until("rest_firewall's own flows", self.flows, 10)
        self._empty = self.flows()
        self._watch = lab.keep(_Watch(self.ovs, self.bridge))

    def _has_a_switch(self) -> bool:
        try:
            return bool(self._rest.call("GET", "/firewall/module/status"))
        except LabError:  # it answers 400 until there is one
            return False

    # ---- everything

    def load(self) -> float:
        wanted = [self._post(body) for body in self._all()]

        def work() -> None:
            _post_all(self._where, wanted)
            wait_until("all flows", lambda: self.flows() == self._empty + len(wanted), 60, 0.02)

        return seconds(work)

    def unload(self) -> None:
        self.ovs.ofctl("del-flows", self.bridge, "ip")
        wait_until("an empty switch", lambda: self.flows() == self._empty)

    def flows(self) -> int:
        return flow_count(self.ovs, self.bridge)

    def _all(self) -> Iterator[dict[str, str]]:
        for port in range(self.size.ports):
            for rule in range(self.size.rules):
                peer = source(port, rule) if rule else f"{member_address(0)}/32"
                yield _rule(port, peer, service(rule))

    def _post(self, body: dict[str, str]) -> bytes:
        data = json.dumps(body).encode()
        head = f"POST {self._rules} HTTP/1.1\r\nHost: ryu\r\nContent-Type: application/json\r\n"
        return head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data

    # ---- changes

    def add_rule(self, number: int) -> float:
        body = _rule(port_of(number, self.size), new_source(number), NEW_SERVICE)

        def work() -> None:
            answer = self._rest.call("POST", self._rules, body)
            self._numbers[number] = answer[0]["command_result"][0]["details"].split("rule_id=")[1]
            self._watch.seen("ADDED")

        self._watch.forget()
        return 1000 * seconds(work)

    def remove_rule(self, number: int) -> float:
        def work() -> None:
            self._rest.call("DELETE", self._rules, {"rule_id": self._numbers.pop(number)})
            self._watch.seen("DELETED")

        self._watch.forget()
        return 1000 * seconds(work)


def _rule(port: int, peer: str, service_port: int) -> dict[str, str]:
    return {"nw_src": peer, "nw_dst": f"{address(port)}/32", "nw_proto": "TCP", "tp_dst": str(service_port),
            "priority": "10"}  # fmt: skip


class _Closing:
    """What a lab can own."""

    def __init__(self, close: Any) -> None:
        self.close = close


class _Watch:
    """What a flow monitor of the switch shows, line by line."""

    def __init__(self, ovs: PrivateOvs, bridge: str) -> None:
        self._lines: queue.Queue[str] = queue.Queue()
        self._process = subprocess.Popen(
            ["stdbuf", "-oL", "ovs-ofctl", "-O", "OpenFlow10", "monitor", bridge,
             "watch:!initial"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True, env={**os.environ, "OVS_RUNDIR": str(ovs.directory)},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

        def heard() -> bool:
            ovs.ofctl("add-flow", bridge, "table=253,priority=1,actions=drop")
            ovs.ofctl("--strict", "del-flows", bridge, "table=253,priority=1")
            return not self._lines.empty()

        wait_until("the flow monitor", heard, 10)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "event=" in line:
                self._lines.put(line)

    def forget(self) -> None:
        while not self._lines.empty():
            self._lines.get()

    def seen(self, event: str) -> None:
        deadline = time.monotonic() + 30
        while f"event={event}" not in self._lines.get(timeout=max(0.0, deadline - time.monotonic())):
            pass

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _post_all(where: tuple[str, int], requests: Sequence[bytes]) -> None:
    """All of these, each connection one at a time; every one must succeed."""
    waiting = iter(requests)
    with selectors.DefaultSelector() as selector:
        for _ in range(CONNECTIONS):
            connection = socket.create_connection(where)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection, selectors.EVENT_READ, bytearray())
            _next(connection, waiting, selector)
        while selector.get_map():
            for key, _ in selector.select(30):
                assert isinstance(key.fileobj, socket.socket)
                connection, buffer = key.fileobj, key.data
                buffer += connection.recv(1 << 16)
                head, end_of_head, body = bytes(buffer).partition(b"\r\n\r\n")
                if not end_of_head or len(body) < int(head.lower().split(b"content-length:")[1].split()[0]):
                    continue
                if b"success" not in body:
                    raise LabError(f"rest_firewall: {body[:200]!r}")
                buffer.clear()
                _next(connection, waiting, selector)


def _next(connection: socket.socket, waiting: Iterator[bytes], selector: selectors.BaseSelector) -> None:
    request = next(waiting, None)
    if request is None:
        selector.unregister(connection)
        connection.close()
    else:
        connection.sendall(request)
