"""What it costs to read back what a switch holds, and to find that it is what it should be."""

from __future__ import annotations

import importlib
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator

from bench import policies
from bench.contestants import add_interfaces, seconds
from bench.conversation import Bare, Conversation, as_in_the_program
from bench.judges import at_most, times
from bench.policies import HERE, LARGE, Size
from bench.row import US, Plot, Row, Run, Series
from firewall_app.openflow import wire
from lab.network import Lab
from lab.system import LabError
from lab.system import run as command

READ, DECODE = "flows read and compared", "flow statistics decoded"
SWITCH, RYU = "the switch alone", "Ryu 4.34"


def measure(run: Run) -> Iterator[Series]:
    size = Size(10, 10) if run.quick else LARGE
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    with as_in_the_program(), Lab() as lab:
        run.progress("a switch and its flows", 0)
        hypervisor = lab.add_hypervisor("here", HERE)
        ovs, bridge = hypervisor.ovs, hypervisor.bridge
        add_interfaces(ovs, bridge, (policies.interface(port) for port in range(size.ports)))
        socket = ovs.directory / f"{bridge}.mgmt"
        ovs_ofctl = f"ovs-ofctl {command('ovs-ofctl', '--version').split()[3]} dump-flows"
        talk = lab.keep(Conversation(socket, policies.policy(size).done(), HERE))
        bare = lab.keep(Bare(socket))
        told = bare.statistics()
        flows = sum(len(wire.decode(message).flows) for message in told)
        changes, ryu = talk.changes, _parser()
        for number in range(run.runs):
            run.progress(f"{flows:,} flows", (number + 0.5) / run.runs)
            found[US, READ].append(seconds(talk.resync))
            found[ovs_ofctl, READ].append(seconds(lambda: ovs.ofctl("dump-flows", bridge)))
            found[SWITCH, READ].append(seconds(bare.statistics))
            found[US, DECODE].append(1e6 / flows * seconds(lambda: [wire.decode(message) for message in told]))
            found[RYU, DECODE].append(1e6 / flows * seconds(lambda: ryu(told)))
        if talk.changes != changes:
            raise LabError(f"{talk.changes - changes} flow-mods were sent to a switch that was in step")
    notes = {
        (US, READ): f"{flows:,} flows, no flow-mod",
        (ovs_ofctl, READ): "its process and its text; compares nothing",
        (SWITCH, READ): "until its last byte has come, on a plain socket",
        (US, DECODE): "match and instructions stay bytes: that is what is compared",
        (RYU, DECODE): "its parser makes objects of all",
    }
    for (who, what), values in found.items():
        yield Series(who, what, "s" if what == READ else "us a flow", tuple(values), note=notes[who, what])


def _parser() -> Callable[[list[bytes]], None]:
    """Ryu's, as its loop calls it."""
    importlib.import_module("ryu.ofproto.ofproto_v1_4_parser")
    parse = importlib.import_module("ryu.ofproto.ofproto_parser").msg
    datapath = importlib.import_module("ryu.ofproto.ofproto_protocol").ProtocolDesc(version=wire.OF14)

    def parse_all(told: list[bytes]) -> None:
        for message in told:
            head = struct.unpack_from("!BBHI", message)
            if not parse(datapath, *head, bytearray(message)).body:
                raise LabError("Ryu found no flows")

    return parse_all


ROW = Row(
    name="flow-stats",
    title=f"Flow statistics of {LARGE} read back and compared",
    about=(
        "A real switch holds what the policy means. A session of ours in this process asks for its flows, decodes them"
        " and compares them with what is meant, as after each reconnect and in each audit; nothing differs and nothing"
        " is sent. Beside it, what the switch needs to tell them, and the statistics of the same flows decoded by"
        " Ryu's parser, which this controller does not use. Ryu's loop is no part of this row: it is of restart."
    ),
    measure=measure,
    targets=(
        at_most("under 0.3 s", READ, 0.3),
        times("at most a tenth of Ryu's parser", DECODE, 0.1, than=RYU),
    ),
    plots=(Plot("flow-stats", "Flows read back and compared", "", "seconds", (READ,)),),
)
