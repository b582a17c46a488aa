"""What the firewall loses and lets through while things break: runs the faults and prints a table.

    make faults                                   # three runs of each, and docs/faults.md written anew
    python -m lab.figures --only controller-killed --runs 1 --json figures.json

Ends with 0 when nothing forbidden passed, nothing was lost where nothing may be, and every flow set came back.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from .faults import FAULTS, Fault
from .ovs import datapath_type
from .postgresql import Server, binaries
from .rig import CALM, Figures, rig
from .system import LabError, run

Results = dict[Fault, list[Figures]]
HEADS = ("fault", "packets lost", "longest gap", "connections failed", "session to a droplet", "session of a droplet",
         "forbidden passed", "in step after", "flow-mods", "flows")  # fmt: skip


def complaints(fault: Fault, figures: Figures) -> list[str]:
    """What of a run breaks a promise."""
    found = [f"passed: {leak}" for leak in figures.leaks]
    if not figures.same_flows:
        found.append("the flows are not those of before")
    if not fault.cost:
        if figures.udp.lost:
            found.append(f"{figures.udp.lost} of {figures.udp.sent} packets lost")
        found += [f"connection failed: {problem}" for problem in figures.failed]
    if figures.inbound_stall is None:
        found.append("the session to a droplet ended")
    if figures.own_stall is None and not fault.own_ends:
        found.append("the session that a droplet had opened ended")
    if figures.flow_mods and not fault.flow_mods:
        found.append(f"{figures.flow_mods} flow-mods where none was needed")
    return found


# --- the table


def of_runs(values: Sequence[float], text: Callable[[float], str]) -> str:
    """The median, and the worst if it is another."""
    middle, worst = text(statistics.median_high(values)), text(max(values))
    return middle if middle == worst else f"{middle} ({worst})"


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def count(number: float) -> str:
    return f"{number:.0f}"


def stall(stalls: Sequence[float | None]) -> str:
    return "ends" if None in stalls else of_runs([one for one in stalls if one is not None], duration)


def row(fault: Fault, runs: Sequence[Figures]) -> tuple[str, ...]:
    lost = of_runs([one.udp.lost for one in runs], count)
    sent = statistics.median_high([one.udp.sent for one in runs])
    failed = of_runs([len(one.failed) for one in runs], count)
    connects = statistics.median_high([one.connects for one in runs])
    leaks, probes = sum(len(one.leaks) for one in runs), sum(one.probes for one in runs)
    return (
        fault.title,
        f"{lost} of {sent}",
        of_runs([one.udp.gap for one in runs], duration) if any(one.udp.lost for one in runs) else "-",
        f"{failed} of {connects}",
        stall([one.inbound_stall for one in runs]),
        stall([one.own_stall for one in runs]),
        f"{leaks} of {probes}",
        of_runs([one.in_sync for one in runs], duration),
        of_runs([one.flow_mods for one in runs], count),
        "same" if all(one.same_flows for one in runs) else "DIFFER",
    )


def table(results: Results) -> str:
    """For a terminal."""
    rows = [HEADS, *(row(fault, runs) for fault, runs in results.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


# --- the page

PAGE = """\
# Faults

*This page is written by `make faults`. Do not edit it.*

What is lost and what passes while something breaks: real packets, real Open vSwitch, a real controller with a real
store. Two hypervisors with an ovs-vswitchd each, joined by a network; three droplets behind firewalls, a host outside.
Throughout there are

- a UDP flow between droplets of both hypervisors, 500 packets a second each way, and one over IPv6 from outside, 100
  a second each way: *packets lost*, and the *longest gap* between two packets that arrived, by the times of sending;
- two TCP sessions on which both ends speak 100 times a second, one opened from outside *to a droplet*, one that a
  droplet opened: the longest time in which an end heard nothing;
- 50 new TCP connections a second, IPv4 and IPv6, from outside and between droplets: *failed* are those that did not
  come to be with the first packets;
- 200 forbidden packets a second of {kinds} kinds (closed ports, peers that may not, in the middle of connections that
  there are not, others' addresses and MACs; TCP, UDP, ICMP; IPv4, IPv6; between all machines), and a UDP flow and a
  TCP session whose rule was removed: *forbidden passed*. Before the policy is set each kind is seen to arrive, less
  those that no droplet may ever send.

*In step after*: from the moment that what was broken began to be given back until every switch holds the flows of the
policy and the controller says so; with a restarted controller that is mostly Python's start. *Flow-mods*: what the
controller sent to all switches, read from the wire. *Flows*: whether the flow sets are those of before, counters of
changes aside. Medians of {runs} runs, the worst in brackets if it is another; of what is forbidden, all runs
together.

{table}

*Nothing happens* is the measurement itself: what it shows is the machine's and not the firewall's.

## What cannot be without loss

{costs}

## Where and how

{where}

`make faults` does all of it again ({minutes:.0f} minutes); `python -m lab.figures --help` tells how to run less,
or more, and for figures in JSON. What is taken away stays away for half a second. The controller sends echo requests
each second and gives up after three, switches after 3 s, which changes how soon a silent link is noticed and nothing
else. Neighbours are written down in the machines, so that no figure depends on ARP.
"""


def markdown(results: Results) -> str:
    lines = [HEADS, tuple("---" for _ in HEADS), *(row(fault, runs) for fault, runs in results.items())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> list[str]:
    """Where this runs, and with what."""
    cpu = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())  # fmt: skip
    cores = len([line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("processor")])
    where = "userspace" if datapath_type("auto") == "netdev" else "the kernel's"
    ovs = run("ovs-vswitchd", "--version").splitlines()[0]
    return [
        f"{cores} cores of {cpu}, Linux {platform.release()}",
        f"{ovs}, {where} datapath",
        f"Python {platform.python_version()}, ryu {version('ryu')}, eventlet {version('eventlet')}",
        f"load average {os.getloadavg()[1]:.0f}, what else ran at the time included",
        f"{datetime.now(UTC):%Y-%m-%d}",
    ]


def page(results: Results, kinds: int, minutes: float) -> str:
    costs: dict[str, list[str]] = {}
    for fault in results:
        if fault.cost:
            costs.setdefault(fault.cost, []).append(fault.title)
    return PAGE.format(
        kinds=kinds,
        runs=max(len(runs) for runs in results.values()),
        table=markdown(results),
        costs="\n".join(f"- **{'; '.join(titles)}.** {cost.strip()}" for cost, titles in costs.items()),
        where="\n".join(f"- {line}" for line in machine()),
        minutes=max(1.0, minutes),
    )


# --- the command


class Progress:
    """One line while a run goes on, which its outcome replaces."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.began = total, 0, time.monotonic()

    def running(self, fault: Fault, number: int) -> None:
        self.done += 1
        if sys.stderr.isatty():
            print(
                f"\r[{self.done}/{self.total}] {fault.title}, run {number}\033[K", end="", file=sys.stderr, flush=True
            )

    def ended(self, fault: Fault, number: int, found: Sequence[str]) -> None:
        start = "\r\033[K" if sys.stderr.isatty() else ""
        said = "as promised" if not found else "; ".join(found[:5])
        clock = time.monotonic() - self.began
        print(f"{start}[{self.done}/{self.total}] {clock:4.0f} s  {fault.title}, run {number}: {said}", file=sys.stderr,
              flush=True)  # fmt: skip


def measure(faults: Sequence[Fault], runs: int, seconds: float, tag: str) -> tuple[Results, list[str], int]:
    """Runs all faults; their figures, the promises that were broken, and how many kinds of probes there are."""
    results: Results = {fault: [] for fault in faults}
    progress, broken, kinds = Progress(len(faults) * runs), [], 0
    for postgresql in (False, True):
        here = [fault for fault in faults if fault.postgresql is postgresql]
        if not here:
            continue
        with ExitStack() as stack:
            server = None
            if postgresql:
                found = binaries()
                if found is None:
                    raise LabError("no PostgreSQL server is installed (Debian: apt install postgresql)")
                server = Server(found)
                stack.callback(server.remove)
            bed = stack.enter_context(rig(tag, server))
            kinds = len(bed.forbidden.probes)
            for number in range(1, runs + 1):
                for fault in here:
                    progress.running(fault, number)
                    figures = bed.measured(fault.run, not fault.own_ends, seconds)
                    found_wrong = complaints(fault, figures)
                    progress.ended(fault, number, found_wrong)
                    results[fault].append(figures)
                    broken += [f"{fault.name}, run {number}: {text}" for text in found_wrong]
    return results, broken, kinds


def main() -> int:
    names = [fault.name for fault in FAULTS]
    parser = argparse.ArgumentParser(prog="python -m lab.figures", description=(__doc__ or "").splitlines()[0],
                                     epilog=f"faults: {', '.join(names)}")  # fmt: skip
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help="this fault; may be given again")
    parser.add_argument("--seconds", type=float, default=CALM, help="of traffic before and after each fault")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures of all runs")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page of the manual (docs/faults.md)")
    parser.add_argument("--tag", default="faults", help="names the namespaces; two at once need two tags")
    options = parser.parse_args()
    faults = [fault for fault in FAULTS if not options.only or fault.name in options.only]
    began = time.monotonic()
    try:
        results, broken, kinds = measure(faults, options.runs, options.seconds, options.tag)
    except KeyboardInterrupt:
        return 130
    except LabError as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 2
    print("\n" + table(results))
    minutes = (time.monotonic() - began) / 60
    print(f"\n{kinds} kinds of forbidden packets; {', '.join(machine())}; {minutes:.1f} minutes")
    if options.json:
        told = {fault.name: [asdict(one) for one in runs] for fault, runs in results.items()}
        options.json.write_text(json.dumps({"where": machine(), "faults": told, "broken": broken}, indent=1) + "\n")
    if options.page:
        options.page.write_text(page(results, kinds, minutes))
    for text in broken:
        print(f"BROKEN: {text}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
