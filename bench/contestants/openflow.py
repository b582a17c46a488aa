"""What bounds everybody: the flows of a policy given to an Open vSwitch by nothing but OpenFlow.

`Ofctl` is `ovs-ofctl --bundle add-flows`: it reads text, encodes it and commits one bundle.  `Wire` has the bytes
ready and only sends them, on a connection that is open: a bundle, and the answer to its commit.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from firewall_app.openflow import wire
from firewall_app.pipeline.flow import Flow
from firewall_app.pipeline.parse import parse_flow
from lab.network import Lab
from lab.ovs import PrivateOvs
from lab.system import LabError, run

from . import NEW_SERVICE, flow_count, new_source, seconds

VERSION = 5  # OpenFlow 1.4 on the wire
HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY, FEATURES_REQUEST, FEATURES_REPLY = 0, 1, 2, 3, 5, 6
BARRIER_REPLY, BUNDLE_CONTROL = 21, 33


class Ofctl:
    name = "ovs-ofctl --bundle add-flows"

    def __init__(self, ovs: PrivateOvs, bridge: str, flows: Sequence[str]) -> None:
        self.ovs, self.bridge, self._count = ovs, bridge, len(flows)
        self._file = Path(ovs.directory, "flows.txt")
        self._file.write_text("\n".join(flows) + "\n")

    def load(self) -> float:
        return seconds(
            lambda: self.ovs.ofctl("-O", "OpenFlow14", "--bundle", "add-flows", self.bridge, str(self._file))
        )

    def unload(self) -> None:
        self.ovs.ofctl("del-flows", self.bridge)

    def flows(self) -> int:
        return flow_count(self.ovs, self.bridge)


class Wire:
    name = "OpenFlow from memory"

    def __init__(self, lab: Lab, ovs: PrivateOvs, bridge: str, flows: Sequence[str]) -> None:
        self.ovs, self.bridge = ovs, bridge
        self._flows = [parse_flow(line) for line in flows]
        self._messages = b"".join(wire.bundle_add(VERSION, 1, wire.flow_mod(VERSION, 7, flow)) for flow in self._flows)
        self._next = 1000
        self._connection = lab.keep(_Switch(lab, ovs, bridge))

    def load(self) -> float:
        return seconds(lambda: self._bundle(self._messages))

    def unload(self) -> None:
        self.ovs.ofctl("del-flows", self.bridge)

    def flows(self) -> int:
        return flow_count(self.ovs, self.bridge)

    def add_rule(self, number: int) -> float:
        flow = self._one(number)
        change = wire.bundle_add(VERSION, 1, wire.flow_mod(VERSION, 7, flow))
        return 1000 * seconds(lambda: self._bundle(change))

    def remove_rule(self, number: int) -> float:
        flow = self._one(number)
        change = wire.bundle_add(VERSION, 1, wire.flow_mod(VERSION, 7, flow, wire.DELETE_STRICT))
        return 1000 * seconds(lambda: self._bundle(change))

    def _one(self, number: int) -> Flow:
        match = f"tcp,reg1=0x0,reg2=0x0,reg3=0x4,reg6=0x0,nw_src={new_source(number)},tp_dst={NEW_SERVICE}"
        return parse_flow(f"cookie=0x0,table=33,priority=1000,{match} actions=load:0x3->NXM_NX_REG4[]")

    def _bundle(self, adds: bytes) -> None:
        """As sessions do: adds and a barrier, and the commit when its answer says that nothing was refused."""
        self._connection.send(wire.bundle_open(VERSION, 1, 1))
        self._connection.wait(BUNDLE_CONTROL)
        self._connection.send(adds + wire.barrier(VERSION, 2))
        self._connection.wait(BARRIER_REPLY)
        self._connection.send(wire.bundle_commit(VERSION, 3, 1))
        self._connection.wait(BUNDLE_CONTROL)


class _Switch:
    """The controller's end of one connection."""

    def __init__(self, lab: Lab, ovs: PrivateOvs, bridge: str) -> None:
        self._buffer = b""
        with socket.create_server((lab.address, 0)) as server:
            target = f"tcp:{lab.address}:{server.getsockname()[1]}"
            ovs.vsctl("set-controller", bridge, target, "--", "set", "controller", bridge,
                      "connection_mode=out-of-band")  # fmt: skip
            server.settimeout(20)
            self._socket, _ = server.accept()
        self._socket.settimeout(60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send(_message(HELLO, 1))
        self.wait(HELLO)
        self.send(_message(FEATURES_REQUEST, 2))
        self.wait(FEATURES_REPLY)
        # Nobody answers echo requests while others are measured.  Heeded when it changes, not from the start.
        ovs.vsctl("set", "controller", bridge, "inactivity_probe=0")

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def wait(self, kind: int) -> None:
        while True:
            while len(self._buffer) < 8 or len(self._buffer) < int.from_bytes(self._buffer[2:4], "big"):
                data = self._socket.recv(1 << 16)
                if not data:
                    raise LabError("the switch has hung up")
                self._buffer += data
            length = int.from_bytes(self._buffer[2:4], "big")
            message, self._buffer = self._buffer[:length], self._buffer[length:]
            if message[1] == ECHO_REQUEST:
                self.send(_message(ECHO_REPLY, int.from_bytes(message[4:8], "big"), message[8:]))
            elif message[1] == ERROR:
                raise LabError(f"the switch refuses: {message[8:20].hex()}")
            elif message[1] == kind:
                return


def _message(kind: int, xid: int, body: bytes = b"") -> bytes:
    return bytes((VERSION, kind)) + (8 + len(body)).to_bytes(2, "big") + xid.to_bytes(4, "big") + body


def ovs_version() -> str:
    return run("ovs-vswitchd", "--version").splitlines()[0].split()[-1]
