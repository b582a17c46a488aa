"""`RealFleet`: hypervisors of a real ovs-vswitchd that follow a policy through real sessions, and real packets.

What `fleet.Fleet` is with simulated switches.  One private Open vSwitch with dummy interfaces has a bridge for each
hypervisor; frames are put on an interface over its control socket, and what comes out is read from capture files.
All bridges share one datapath, hence one set of conntrack zones, as the bridges of one host do.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from fleet import Site
from ovs_dummy import DummyOvs
from session_driver import Driven, PolicyPlan, moment
from simfabric import Delivery, Place

from firewall_app.pipeline.compile import Rulings, ports_here
from firewall_app.pipeline.tracker import Frame
from firewall_app.policy.model import Port
from firewall_app.policy.policy import Policy


class Control:
    """The control socket of ovs-vswitchd, kept open: a command costs 0.1 ms instead of a process."""

    def __init__(self, directory: Path) -> None:
        (path,) = directory.glob("ovs-vswitchd.*.ctl")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(str(path))
        self._decoder = json.JSONDecoder()
        self._text = ""

    def call(self, method: str, *arguments: str) -> str:
        self._socket.sendall(json.dumps({"method": method, "params": arguments, "id": 1}).encode())
        while True:
            try:
                answer, end = self._decoder.raw_decode(self._text.lstrip())
                self._text = self._text.lstrip()[end:]
                break
            except json.JSONDecodeError:
                data = self._socket.recv(65536)
                if not data:
                    raise ConnectionError("ovs-vswitchd hung up") from None
                self._text += data.decode()
        if answer["error"]:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"] or ""

    def close(self) -> None:
        self._socket.close()


class Capture:
    """The frames that came out of an interface, read from a growing pcap file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._file.read(24)

    def frames(self) -> list[bytes]:
        """Those since the last call."""
        found = []
        while len(head := self._file.read(16)) == 16:
            length = struct.unpack("=IIII", head)[2]
            found.append(self._file.read(length))
        return found

    def close(self) -> None:
        self._file.close()


class RealFleet:
    """All hypervisors of a site, in a running private Open vSwitch."""

    def __init__(self, ovs: DummyOvs, site: Site, rulings: Rulings, wire: Callable[[Frame], bytes]) -> None:
        self.rulings = rulings
        self.policy = Policy()
        self._site, self._wire = site, wire
        self._control = Control(ovs.directory)
        self._plans: dict[str, PolicyPlan] = {}
        self._sessions: dict[str, Driven] = {}
        self._captures: dict[Place, Capture] = {}
        self._names: dict[Place, str] = {}
        for index, (dpid, interfaces) in enumerate(site.interfaces.items()):
            self._build(ovs, f"br{index}", dpid, interfaces)
        # Segments carry plausible but constant sequence numbers; what is tested is not the tracker's arithmetic.
        self._control.call("dpctl/ct-disable-tcp-seq-chk")

    def _build(self, ovs: DummyOvs, bridge: str, dpid: str, interfaces: dict[int, str]) -> None:
        ovs.add_bridge(bridge, dpid=int(dpid, 16))
        words: list[str] = []
        for number, name in interfaces.items():
            place, unique = Place(dpid, number), f"{bridge}-{name}"  # dummy interfaces have names of their own
            path = ovs.directory / f"{unique}.pcap"
            words += ["--", "add-port", bridge, unique, "--", "set", "interface", unique, "type=dummy",
                      f"ofport_request={number}", f"options:tx_pcap={path}"]  # fmt: skip
            self._names[place] = unique
        ovs.vsctl(*words[1:])
        for number, name in interfaces.items():
            place = Place(dpid, number)
            self._captures[place] = Capture(ovs.directory / f"{bridge}-{name}.pcap")
        # What the policy calls vm1 is br0-vm1 here: the session is told the names that it expects.
        plan = self._plans[dpid] = PolicyPlan(dpid, Policy(), self.rulings)
        given = dict(interfaces)

        def renamed(found: dict[int, str]) -> object:
            return plan({number: given[number] for number in found if number in given})

        self._sessions[dpid] = Driven(ovs.mgmt(bridge), renamed, dpid=dpid)
        self._sessions[dpid].settle()

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()
        for capture in self._captures.values():
            capture.close()
        self._control.close()

    def reset(self, rulings: Rulings) -> None:
        """Back to no policy and no connections."""
        self.rulings = rulings
        for plan in self._plans.values():
            plan.rulings = rulings
        self.follow(Policy())
        self._control.call("dpctl/flush-conntrack")

    def follow(self, policy: Policy) -> set[tuple[str, int]]:
        """Makes every switch follow a policy; returns the zones that were flushed, with their hypervisor."""
        flushed = set()
        for dpid, plan in self._plans.items():
            before = {port.slot for port, _ in ports_here(self.policy, dpid, self._site.interfaces[dpid])}
            after = {port.slot for port, _ in ports_here(policy, dpid, self._site.interfaces[dpid])}
            flushed |= {(dpid, slot) for slot in before - after}
            plan.change(policy)
            driven = self._sessions[dpid]
            driven.policy_changed()
            assert driven.session.report.confirmed == plan.revision, driven.session.report.error
            # The answer to a barrier also means that flushed zones are empty.
            driven.feed(driven.session.resync(moment()))
            driven.settle()
            assert driven.session.report.repaired_flows == 0
        self.policy = policy
        self._control.call("revalidator/purge")
        return flushed

    def place(self, port: Port) -> Place | None:
        interfaces = self._site.interfaces.get(port.hypervisor, {})
        here = {found.id: number for found, number in ports_here(self.policy, port.hypervisor, interfaces)}
        return Place(port.hypervisor, here[port.id]) if port.id in here else None

    def send(self, sender: Port | None, frame: Frame) -> Delivery:
        """From a droplet port, or from the world outside (None)."""
        data = self._wire(frame)
        if sender is None:
            return Delivery(tuple(self._arrive(data, skip="")), False, ())
        place = self.place(sender)
        assert place is not None, f"{sender.id} is not plugged in"
        reached, out = self._inject(place, data)
        if out:
            reached += self._arrive(data, skip=place.dpid)
        return Delivery(tuple(reached), out, ())

    def _arrive(self, data: bytes, skip: str) -> list[Place]:
        reached = []
        for dpid, uplink in self._site.uplinks.items():
            if dpid != skip:
                found, back = self._inject(Place(dpid, uplink), data)
                assert not back, "a frame from the uplink went back out of it"
                reached += found
        return reached

    def _lookups(self) -> str:
        """The datapath's count of packets looked up: one more when a packet has been dealt with, outputs and all."""
        return next(line for line in self._control.call("dpctl/show").splitlines() if "lookups" in line)

    def _inject(self, place: Place, data: bytes) -> tuple[list[Place], bool]:
        before = self._lookups()
        self._control.call("netdev-dummy/receive", self._names[place], data.hex())
        while self._lookups() == before:  # the answer says that the packet is queued, not that it was dealt with
            pass
        reached, out = [], False
        for other, capture in self._captures.items():
            for found in capture.frames():
                assert found == data, "a frame was changed on its way"
                if other.port == self._site.uplinks[other.dpid]:
                    out = True
                else:
                    reached.append(other)
        return reached, out
