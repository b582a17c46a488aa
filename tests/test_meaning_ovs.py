"""The test of `test_meaning.py` again, with a real ovs-vswitchd, real conntrack and real packets."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import strategies as our
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ovs_dummy import DummyOvs
from realfleet import RealFleet
from reference import Reference
from test_meaning import Tale, plugged
from test_pipeline_walker import wire

from firewall_app.pipeline.compile import Rulings
from firewall_app.pipeline.tracker import Frame
from firewall_app.policy.decide import Packet
from firewall_app.policy.model import Protocol

pytestmark = pytest.mark.ovs


@pytest.fixture(scope="module")
def fleet():
    with tempfile.TemporaryDirectory(prefix="fw-") as directory, DummyOvs(Path(directory)) as ovs:
        built = RealFleet(ovs, our.SITE, Rulings(), on_the_wire)
        yield built
        built.close()


def on_the_wire(frame: Frame) -> bytes:
    """A frame with its own MACs and with sequence numbers that say nothing."""
    return frame.eth_dst.to_bytes(6, "big") + frame.eth_src.to_bytes(6, "big") + wire(frame, 1000, 2000)[12:]


def trackable(packet: Packet) -> bool:
    """Whether a connection tracker can tell what a packet is.

    Ports of 0, which nobody may use (RFC 6335, 6), are invalid to Open vSwitch's, and so dropped.  A packet from an
    address to itself is the same tuple in both directions, so that no tracker can tell a reply.
    """
    if packet.source == packet.destination:
        return False
    return packet.protocol not in (Protocol.TCP, Protocol.UDP) or 0 not in (packet.source_port, packet.destination_port)


class RealTale(Tale):
    def __init__(self, fleet: RealFleet, rulings: Rulings) -> None:
        fleet.reset(rulings)
        self.fleet = fleet
        self.reference = Reference(rulings.closed)
        self.past = []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_real_switches_do_what_the_policy_means(fleet: RealFleet, data: st.DataObject) -> None:
    """A policy, packets of new and live connections, changes in between."""
    tale = RealTale(fleet, Rulings(closed=data.draw(st.booleans())))
    tale.follow(data.draw(our.policies()))
    for _ in range(data.draw(st.integers(1, 14), label="events")):
        policy = tale.fleet.policy
        kinds = ["edit"]
        kinds += ["open", "open", "open"] if policy.ports else []
        kinds += ["again", "reply", "reply", "error"] if tale.past else []
        match data.draw(st.sampled_from(kinds)):
            case "open":
                sent = data.draw(our.openings(policy, plugged(tale.fleet)))
                if trackable(sent.packet):
                    tale.send(sent)
            case "edit":
                tale.follow(data.draw(our.edits(policy)).done())
            case kind:
                sent = data.draw(st.sampled_from(tale.past))
                tale.send({"again": our.again, "reply": our.reply, "error": our.error}[kind](policy, sent))
