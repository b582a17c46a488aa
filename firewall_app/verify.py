"""Checks whether what a live hypervisor holds does what the policy means.

Reads the policy over REST and the flows from the switch, walks packets through the flows as the switch would, and
compares each verdict with the plain meaning of the policy.  Nothing is changed and no packet is sent.  So it also finds
what comparing flows with flows cannot: a mistake of the controller itself, and flows that others have put there.

examples:
  python -m firewall_app.verify --api http://127.0.0.1:8080 --token-file run/firewall.token --bridge br-int
  ssh hv-1 ovs-ofctl -O OpenFlow14 --no-names dump-flows br-int |
      python -m firewall_app.verify --api http://127.0.0.1:8080 --token-file run/firewall.token \\
          --dpid 0000000000000001 --uplinks 1 --flows -

exit status: 0 all agree, 1 some do not, 2 it could not be checked
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from .pipeline import reserved
from .pipeline.compile import Rulings, ports_here, uplinks_here
from .pipeline.conform import Conformance, Disagreement, Findings
from .pipeline.flow import Flow
from .pipeline.parse import parse_dump
from .pipeline.probes import Case, Wiring, blocks, sample
from .pipeline.tables import MAGIC, cookie_parts
from .policy.model import Port
from .remote import Api, Reading, RemoteError, read
from .settings import Settings

AGREE, DISAGREE, COULD_NOT = 0, 1, 2
TRIES = 3  # how often to read again when the policy changes meanwhile
OFCTL = ("ovs-ofctl", "-O", "OpenFlow14,OpenFlow13", "--no-names")
MOST_LISTED = 10  # flows of others


class CouldNot(Exception):
    """Why it could not be checked."""


@dataclass(frozen=True)
class Held:
    """What a switch says of itself; from a file, only its flows."""

    dump: str
    dpid: str | None = None
    interfaces: dict[int, str] | None = None  # OpenFlow number to name, the bridge's own aside


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = _arguments().parse_args(argv)
    try:
        return _run(arguments)
    except CouldNot as problem:
        print(f"could not check: {problem}", file=sys.stderr)
        return COULD_NOT


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m firewall_app.verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--api", required=True, metavar="URL", help="the controller's REST API")
    parser.add_argument(
        "--token-file", required=True, type=Path, metavar="FILE", help="an operator's or viewer's token"
    )
    parser.add_argument("--dpid", type=_dpid, help="the hypervisor; default: what the bridge says that it is")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--bridge", help="a bridge of this machine, or what else ovs-ofctl takes: unix:PATH, tcp:IP:PORT"
    )
    source.add_argument("--flows", metavar="FILE", help="what `ovs-ofctl dump-flows` printed; - is the standard input")
    parser.add_argument(
        "--uplinks", type=lambda text: tuple(text.split(",")), metavar="LIST",
        help="interface names, patterns or numbers, with commas; numbers alone with --flows, which needs it unless the "
        f"hypervisor is registered with numbers. Default: as registered, else {','.join(Settings().uplinks)}",
    )  # fmt: skip
    parser.add_argument(
        "--others", action="store_true", help="flows that are not this firewall's are meant to be there"
    )
    parser.add_argument("--closed", action="store_true", help="the controller's option `closed` is set")
    parser.add_argument(
        "--cases", type=_count, default=20000, metavar="N", help="try at most so many; 0: all (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="which ones, when not all are tried (default: %(default)s)")
    parser.add_argument(
        "--show", type=_count, default=10, metavar="N", help="disagreements in full (default: %(default)s)"
    )
    return parser


def _dpid(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{16}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a datapath id: 16 hex digits")
    return text.lower()


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def _run(arguments: argparse.Namespace) -> int:
    try:
        token = arguments.token_file.read_text().strip()
        with Api(arguments.api, token) as api:
            revision, reading, held, dpid = _read(api, arguments)
            state = api.get(f"/v1/hypervisors/{dpid}")["sync"]
    except (OSError, RemoteError, UnicodeDecodeError) as problem:
        raise CouldNot(str(problem)) from problem
    except (KeyError, TypeError, ValueError) as problem:
        raise CouldNot(f"{arguments.api}: {type(problem).__name__}: {problem}") from problem
    dump = parse_dump(held.dump)
    if dump.unreadable:
        for line in dump.unreadable:
            print(f"{line.problem}, in:\n    {line.line}", file=sys.stderr)
        raise CouldNot(f"{len(dump.unreadable)} of the flows say what is not known here")
    policy = reading.policy
    wiring, absent = wiring_of(reading, held, dpid, arguments.uplinks)
    everything = blocks(policy, wiring, arguments.seed)
    total = sum(map(len, everything))
    cases = sample(everything, arguments.cases or total, arguments.seed)
    name = policy.hypervisors[dpid].name
    print(f"hypervisor {dpid} ({name}), policy of revision {revision}: {len(wiring.droplets)} droplet ports,")
    print(f"uplinks {', '.join(map(str, wiring.uplinks))}, {len(dump.flows)} flows")
    if state["state"] != "in_sync":
        print(f"the controller says that it is not in step: {state['state']} {state['error'] or ''}".rstrip())
    if absent:
        print(f"not plugged in, so not tried: {', '.join(port.id for port in absent)}")
    others = _tell_others(dump.flows)
    try:
        check = Conformance(policy, wiring, dump.flows, arguments.closed)
    except ValueError as problem:
        raise CouldNot(f"not the flows of one switch: {problem}") from problem
    _walk(check, cases, sys.stderr)
    all_tried = not arguments.cases or total <= arguments.cases
    tried = f"all {len(cases)} cases" if all_tried else f"{len(cases)} of {total} cases (seed {arguments.seed})"
    status = report(check.findings, tried, arguments.show)
    if status == AGREE and others and not arguments.others:
        # No sample of packets can show that a flow of somebody else lets nothing more pass.
        print("there are flows of others, so this is not said to agree (--others, when they are meant to be there)")
        return DISAGREE
    return status


# --------------------------------------------------------------------------------------------- reading


def _read(api: Api, arguments: argparse.Namespace) -> tuple[int, Reading, Held, str]:
    """Policy and flows of one moment, as far as revisions tell."""
    held = None if arguments.bridge else Held(_file(arguments.flows))
    for _ in range(TRIES):
        revision = api.get("/v1/status")["revision"]
        if arguments.bridge:
            held = ask_bridge(arguments.bridge)
        assert held is not None  # noqa: S101 - one of bridge and flows is given
        dpid = arguments.dpid or held.dpid
        if dpid is None:
            raise CouldNot("--flows does not say which hypervisor it is: give --dpid")
        if held.dpid not in (None, dpid):
            raise CouldNot(f"the bridge is hypervisor {held.dpid}, not {dpid}")
        reading = read(api.get, dpid)
        if api.get("/v1/status")["revision"] == revision:
            return revision, reading, held, dpid
    raise CouldNot(f"the policy has changed {TRIES} times while it was read")


def _file(name: str) -> str:
    return sys.stdin.read() if name == "-" else Path(name).read_text()


def ask_bridge(bridge: str) -> Held:
    """What a bridge says of itself.  Raises CouldNot."""
    shown = _ofctl("show", bridge)
    dpid = re.search(r"dpid:([0-9a-f]{16})", shown)
    if dpid is None:
        raise CouldNot(f"ovs-ofctl show {bridge} names no datapath id")
    ports = re.findall(r"^ ([0-9]+)\((.*)\): addr:", shown, re.MULTILINE)
    return Held(_ofctl("dump-flows", bridge), dpid[1], {int(number): name for number, name in ports})


def _ofctl(*words: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and the operator's own words
            [*OFCTL, *words], capture_output=True, text=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise CouldNot(f"{' '.join(words)}: {problem}") from problem
    if done.returncode:
        raise CouldNot(f"{' '.join((*OFCTL, *words))}: {done.stderr.strip()}")
    return done.stdout


def wiring_of(reading: Reading, held: Held, dpid: str, uplinks: tuple[str, ...] | None) -> tuple[Wiring, list[Port]]:
    """What is plugged in where, and which ports of the hypervisor are not.  Raises CouldNot."""
    policy = reading.policy
    hypervisor = policy.hypervisors.get(dpid)
    if hypervisor is None:
        raise CouldNot(f"{dpid} is not registered as a hypervisor")
    if uplinks is not None:
        hypervisor = replace(hypervisor, uplinks=uplinks)
        draft = policy.edit()
        draft.put(hypervisor)
        policy = draft.done()
    mine = [policy.ports[port_id] for port_id in sorted(policy.ports_on.get(dpid, ()))]
    interfaces = held.interfaces
    if interfaces is None:
        numbers = {int(word) for word in hypervisor.uplinks or () if word.isascii() and word.isdigit()}
        interfaces = {number: f"switch port {number}" for number in numbers}
        for port in mine:
            if port.id in reading.numbers:
                number = reading.numbers[port.id]
                interfaces[number] = port.interface or f"switch port {number}"
    here = {port.id: number for port, number in ports_here(policy, dpid, interfaces)}
    found = uplinks_here(policy, dpid, interfaces, Rulings(Settings().uplinks), taken=set(here.values()))
    if not found:
        raise CouldNot(
            f"none of the switch ports {sorted(interfaces)} is known as an uplink: "
            "a file of flows has no interface names, so give --uplinks with OpenFlow numbers (ovs-vsctl get interface "
            "NAME ofport)"
        )
    strangers = sorted({*interfaces, reserved.LOCAL} - {*here.values(), *found})
    return Wiring(here, found, tuple(strangers)), [port for port in mine if port.id not in here]


# --------------------------------------------------------------------------------------------- walking and telling


def _walk(check: Conformance, cases: Sequence[Case], screen: TextIO) -> None:
    shows = screen.isatty()
    for done, case in enumerate(cases):
        if shows and done % 100 == 0:
            print(f"\r{done * 100 // len(cases)} % of {len(cases)} cases", end="", file=screen, flush=True)
        check.check(case)
    if shows:
        print("\r\033[K", end="", file=screen, flush=True)


def _tell_others(flows: Sequence[Flow]) -> bool:
    """Lists the flows that are not of this firewall as it is now; whether there are any."""
    others = [flow for flow in flows if flow.cookie >> 48 != MAGIC]
    old = [flow for flow in flows if flow.cookie >> 48 == MAGIC and cookie_parts(flow.cookie) is None]
    for found, whose in ((others, "not of this firewall"), (old, "of another layout of this firewall")):
        if found:
            print(f"flows {whose}: {len(found)}; they are walked too:")
            for flow in found[:MOST_LISTED]:
                print(f"    {flow}")
            if len(found) > MOST_LISTED:
                print(f"    and {len(found) - MOST_LISTED} more")
    return bool(others or old)


def report(findings: Findings, tried: str, show: int) -> int:
    """Tells what was found; returns the exit status."""
    print(f"{tried}: {findings.packets} packets; the policy lets {findings.admitted} of the cases pass")
    wrong = findings.disagreements
    print(f"agree: {findings.agreed}   do not agree: {len(wrong)}   not known: {sum(findings.puzzles.values())}")
    for puzzle, number in findings.puzzles.items():
        print(f"not known, {number} times: {puzzle}")
    if wrong:
        print("\nwhat was tried with those that do not agree:")
        for why, number in Counter(one.case.why for one in wrong).most_common():
            print(f"{number:8} x {why}")
        for number, one in enumerate(_varied(wrong)[:show], 1):
            print(f"\n{number}. {one.what}")
            print(f"   tried for: {one.case.why}\n   policy: {one.meant}\n   flows:  {one.done}")
            for line in one.trace:
                print(f"      {line}")
        return DISAGREE
    return COULD_NOT if findings.puzzles or not findings.cases else AGREE


def _varied(found: Sequence[Disagreement]) -> list[Disagreement]:
    """The first of each reason for trying before the second of any."""
    seen: Counter[str] = Counter()
    ranked = []
    for one in found:
        ranked.append((seen[one.case.why], one))
        seen[one.case.why] += 1
    return [one for _, one in sorted(ranked, key=lambda pair: pair[0])]


if __name__ == "__main__":
    sys.exit(main())
