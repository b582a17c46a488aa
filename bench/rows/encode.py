"""How many flow-mods a second are made of rules, and how many one switch takes."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from bench import policies
from bench.contestants import seconds
from bench.conversation import Bare, as_in_the_program
from bench.judges import reaches
from bench.policies import HERE, LARGE, Size
from bench.row import US, Plot, Row, Run, Series
from firewall_app.openflow import rendering, wire
from firewall_app.pipeline.compile import Rulings
from firewall_app.pipeline.plan import units
from firewall_app.pipeline.unit import RuleFlows
from lab.network import Lab
from lab.ovs import PrivateOvs
from lab.system import LabError

MADE = "flow-mods made of rules"
ONE_BY_ONE, SWITCH = "one by one, without templates", "what a switch takes"
NEW = 1 << 20  # what the rules of one run are numbered from, so that nothing is known of them
OBJECTS = 1000  # flow-mods that slow ways make in one go


def measure(run: Run) -> Iterator[Series]:
    size = Size(10, 10) if run.quick else LARGE
    rules = [unit for unit in units(policies.policy(size).done(), HERE, _interfaces(size), Rulings()).values()
             if isinstance(unit, RuleFlows) and unit.networks]  # fmt: skip
    ways: dict[str, tuple[Callable[[list[RuleFlows]], list[bytes]], list[RuleFlows]]] = {
        US: (_templates, rules),
        ONE_BY_ONE: (_encoded, rules[:OBJECTS]),
    }
    for library in ("ryu", "os-ken"):
        if find_spec(library.replace("-", "_")) is not None:
            name = f"{library.replace('ryu', 'Ryu')} {version(library)}"
            ways[name] = (_Objects(library.replace("-", "_")).make, rules[:OBJECTS])
    found: dict[str, list[float]] = defaultdict(list)
    with as_in_the_program(), Lab() as lab:
        hypervisor = lab.add_hypervisor("here", HERE)
        bare = lab.keep(Bare(hypervisor.ovs.directory / f"{hypervisor.bridge}.mgmt"))
        ready = _templates(rules)
        for number in range(run.runs):
            for who, (make, some) in ways.items():
                run.progress(who, number / run.runs)
                new = [replace(rule, rule_id=rule.rule_id + number * NEW) for rule in some]
                made: list[bytes] = []
                took = seconds(lambda make=make, new=new, made=made: made.extend(make(new)))  # type: ignore[misc]
                if len(made) != len(some):
                    raise LabError(f"{who} made {len(made)} flow-mods of {len(some)} rules")
                found[who].append(len(some) / took)
            run.progress(SWITCH, (number + 0.5) / run.runs)
            found[SWITCH].append(_taken(bare, hypervisor.ovs, hypervisor.bridge, ready, number + 1))
    notes = {
        US: f"{len(rules):,} rules, none of them made before",
        ONE_BY_ONE: "the same bytes, each flow a value of its own",
        SWITCH: "a bundle of messages that are ready, one connection, until it is in force",
    }
    for who, values in found.items():
        yield Series(who, MADE, "/s", tuple(values), note=notes.get(who, "objects for match, actions and message"))


def _interfaces(size: Size) -> dict[int, str]:
    return {port + 1: policies.interface(port) for port in range(size.ports)}


def _templates(rules: list[RuleFlows]) -> list[bytes]:
    pairs = [pair for rule in rules for pair in rendering.render(rule)]
    return list(wire.bundle_adds(wire.OF14, 1, range(1, len(pairs) + 1), pairs))


def _encoded(rules: list[RuleFlows]) -> list[bytes]:
    flows = (flow for rule in rules for flow in rule.flows())
    return [wire.bundle_add(wire.OF14, 1, wire.flow_mod(wire.OF14, xid, flow)) for xid, flow in enumerate(flows, 1)]


def _taken(bare: Bare, ovs: PrivateOvs, bridge: str, ready: list[bytes], bundle: int) -> float:
    bare.clear()
    adds = b"".join(message[:8] + bundle.to_bytes(4, "big") + message[12:] for message in ready)
    took = seconds(lambda: bare.commit(adds, bundle))
    count = int(ovs.ofctl("dump-aggregate", bridge).split("flow_count=")[1].split()[0])
    if count != len(ready):
        raise LabError(f"the switch holds {count} flows of {len(ready)}")
    return len(ready) / took


class _Objects:
    """The flow-mods of the same rules as a library has them made; without the bundle around each."""

    def __init__(self, package: str) -> None:
        self._ofp = importlib.import_module(f"{package}.ofproto.ofproto_v1_4")
        self._parser = importlib.import_module(f"{package}.ofproto.ofproto_v1_4_parser")
        self._datapath: Any = importlib.import_module(f"{package}.ofproto.ofproto_protocol").ProtocolDesc(
            version=wire.OF14
        )

    def make(self, rules: list[RuleFlows]) -> list[bytes]:
        parser, made = self._parser, []
        for xid, rule in enumerate(rules, 1):
            (network,) = rule.networks
            mask = ".".join(str(octet) for octet in network.mask.to_bytes(4, "big"))
            address = ".".join(str(octet) for octet in network.value.to_bytes(4, "big"))
            match = parser.OFPMatch(
                eth_type=0x0800, ipv4_src=(address, mask), ip_proto=6, tcp_dst=rule.ports.first,
                reg1=0, reg2=0, reg3=rule.firewall, reg6=0,
            )  # fmt: skip
            # All 32 bits: load:RULE->NXM_NX_REG4[]
            load = parser.NXActionRegLoad(31, "reg4", rule.rule_id)
            does = [parser.OFPInstructionActions(self._ofp.OFPIT_APPLY_ACTIONS, [load])]
            message = parser.OFPFlowMod(
                self._datapath, cookie=rule.rule_id, table_id=33, priority=1000, match=match, instructions=does
            )
            message.set_xid(xid)
            message.serialize()
            made.append(bytes(message.buf))
        return made


ROW = Row(
    name="encode",
    title="Flow-mods made of rules, a second",
    about=(
        "Rules that allow a TCP port from a /24 become messages that add their flows, in this process and with nothing"
        " kept from before: by templates as the controller has them, flow by flow without, and by the objects of Ryu"
        " and os-ken (their flow-mods are not even put into a bundle). The ceiling is what one switch takes of messages"
        " that are ready. Planning what a policy means is no part of it; full-load has all."
    ),
    measure=measure,
    targets=(
        reaches("no less than a switch takes", MADE, 1.0, than=SWITCH),
        reaches("10 times Ryu's", MADE, 10.0, than="Ryu"),
    ),
    plots=(Plot("encode", "Flow-mods a second", "", "flow-mods a second", (MADE,), log_y=True),),
)
