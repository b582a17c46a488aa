"""Puts the limits on tracked connections of droplet ports in force on this hypervisor.

Reads from the controller which conntrack zones its ports have and how many connections each may have at once, reads
from Open vSwitch the limits in force, and makes them equal by the fewest commands.  Nothing to do is no command.
OpenFlow knows no such limit, so the controller cannot set it from afar.  Zones 1 to 65000 are the controller's: limits
there that no port asks for are removed.  Zone 0, zones above and the default limit are left as they are.

A connection over the limit is refused and dropped; those that are known go on.  Open vSwitch counts connections that
were opened after the limit was set.  It forgets limits that ovs-appctl has set when ovs-vswitchd restarts, so let this
run as a service: --every puts them back.  Limits that ovs-vsctl has set (Open vSwitch 3.3) last.

examples:
  python -m firewall_app.zones --api https://controller:8080 --token-file /etc/firewall/token \\
      --dpid 0000000000000001 --dry-run
  a systemd unit on the hypervisor:
      [Unit]
      After=openvswitch-switch.service
      [Service]
      ExecStart=/opt/firewall/.venv/bin/python -m firewall_app.zones --api https://controller:8080 \\
          --token-file /etc/firewall/token --dpid 0000000000000001 --every 30
      Restart=always
      [Install]
      WantedBy=multi-user.target

exit status: 0 the limits are in force, 1 they are not (a command failed, or --dry-run has found some to give),
2 it could not be read what they are or should be
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from .policy.model import MOST_CONNECTIONS
from .policy.policy import FIRST_SLOT, LAST_SLOT
from .remote import Api, RemoteError

IN_STEP, NOT_IN_STEP, COULD_NOT = 0, 1, 2
AT_ONCE = 1000  # zones in one command: Linux bounds the length of an argument
TIMEOUT = 60  # seconds that one command may take

T = TypeVar("T")
Command = tuple[str, ...]
Limits = Mapping[int, int]  # zone -> connections at once


class CouldNot(Exception):
    """What could not be read, and why."""


class Failed(Exception):
    """A command that failed, with its own words."""


class Tool(Enum):
    """What sets limits."""

    VSCTL = "ovs-vsctl"  # lasting, from Open vSwitch 3.3 on
    APPCTL = "ovs-appctl"


# --------------------------------------------------------------------------------------------- what to do


def commands(wanted: Limits, in_force: Limits, datapath: str, tool: Tool) -> tuple[Command, ...]:
    """The fewest commands that make the limits in force those wanted; `datapath` as in `netdev@ovs-netdev`."""
    raised = [(zone, limit) for zone, limit in sorted(wanted.items()) if in_force.get(zone) != limit]
    gone = [zone for zone in sorted(in_force) if FIRST_SLOT <= zone <= LAST_SLOT and zone not in wanted]
    if tool is Tool.APPCTL:
        sets = (
            ("dpctl/ct-set-limits", datapath, *(f"zone={zone},limit={limit}" for zone, limit in some))
            for some in _batches(raised)
        )
        removals = (("dpctl/ct-del-limits", datapath, f"zone={','.join(map(str, some))}") for some in _batches(gone))
        return (*sets, *removals)
    kind = datapath.partition("@")[0]
    steps = [("set-zone-limit", kind, f"zone={zone}", str(limit)) for zone, limit in raised]
    steps += [("--if-exists", "del-zone-limit", kind, f"zone={zone}") for zone in gone]
    return tuple(tuple(word for step in some for word in ("--", *step)) for some in _batches(steps))


def _batches(found: Sequence[T]) -> Iterator[Sequence[T]]:
    return (found[at : at + AT_ONCE] for at in range(0, len(found), AT_ONCE))


def wanted_limits(zones: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """The limits that the answers of the controller ask for.  Raises ValueError for what is none."""
    found: dict[int, int] = {}
    for entry in zones:
        zone, limit = entry["zone"], entry["max_connections"]
        if type(zone) is not int or not FIRST_SLOT <= zone <= LAST_SLOT:
            raise ValueError(f"{zone!r} is no zone of a port")
        if type(limit) is not int or not 0 <= limit <= MOST_CONNECTIONS:
            raise ValueError(f"zone {zone}: {limit!r} is no number of connections")
        # When all slots are given two ports may have one zone: neither must be held to less than its own limit.
        other = found.get(zone, limit)
        found[zone] = max(limit, other) if limit and other else 0
    return {zone: limit for zone, limit in found.items() if limit}


def limits_in(text: str) -> dict[int, int]:
    """What `dpctl/ct-get-limits` printed.  Raises ValueError for what it does not print."""
    first, *lines = text.splitlines() or [""]
    if not first.startswith("default limit="):
        raise ValueError(f"{first!r} is no default limit")
    found = {}
    for line in lines:
        parts = re.fullmatch(r"zone=(\d+),limit=(\d+)(,count=\d+)?", line)
        if parts is None:
            raise ValueError(f"{line!r} is no limit of a zone")
        found[int(parts[1])] = int(parts[2])
    return found


# --------------------------------------------------------------------------------------------- this hypervisor


@dataclass(frozen=True)
class OpenVSwitch:
    """The Open vSwitch of this machine; `target` and `database` say which, where there is more than one."""

    target: str | None = None
    database: str | None = None

    def line(self, tool: Tool, words: Sequence[str]) -> Command:
        """A command as it is run, and shown."""
        if tool is Tool.VSCTL:
            return (tool.value, *((f"--db={self.database}",) if self.database else ()), f"--timeout={TIMEOUT}", *words)
        return (tool.value, *(("-t", self.target) if self.target else ()), *words)

    def run(self, tool: Tool, words: Sequence[str]) -> str:
        """What a command printed.  Raises Failed."""
        line = self.line(tool, words)
        try:
            done = subprocess.run(  # noqa: S603 - no shell, and the operator's own words
                line, capture_output=True, text=True, timeout=TIMEOUT + 5, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise Failed(f"{tool.value}: {problem}") from problem
        if done.returncode:
            raise Failed(f"{_short(line)}: {done.stderr.strip() or f'status {done.returncode}'}")
        return done.stdout

    def datapath(self) -> str:
        """The name of the only datapath.  Raises CouldNot."""
        found = self._read("dpctl/dump-dps").split()
        if len(found) != 1:
            raise CouldNot(f"Open vSwitch has {len(found)} datapaths: {' '.join(found)}; name one by --datapath")
        return found[0]

    def limits(self, datapath: str) -> dict[int, int]:
        """The limits in force.  Raises CouldNot."""
        try:
            return limits_in(self._read("dpctl/ct-get-limits", datapath))
        except ValueError as problem:
            raise CouldNot(f"dpctl/ct-get-limits: {problem}") from problem

    def tools(self) -> tuple[Tool, ...]:
        """What may set limits here, the best first.

        Where ovs-vsctl cannot, as when the database has no record of the datapath, ovs-appctl still may.
        """
        try:
            lasting = "set-zone-limit" in self.run(Tool.VSCTL, ("--commands",))
        except Failed:
            lasting = False
        return (Tool.VSCTL, Tool.APPCTL) if lasting else (Tool.APPCTL,)

    def _read(self, *words: str) -> str:
        try:
            return self.run(Tool.APPCTL, words)
        except Failed as problem:
            raise CouldNot(str(problem)) from problem


def _short(line: Sequence[str]) -> str:
    text = shlex.join(line)
    return text if len(text) <= 200 else f"{text[:200]}..."


# --------------------------------------------------------------------------------------------- the command


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = _arguments().parse_args(argv)
    status = _once(arguments)
    try:
        while arguments.every is not None:
            time.sleep(arguments.every)
            status = _once(arguments)
    except KeyboardInterrupt:
        pass  # how one who has started it in a terminal ends it
    return status


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m firewall_app.zones",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--api", required=True, metavar="URL", help="the controller's REST API")
    parser.add_argument(
        "--token-file", required=True, type=Path, metavar="FILE", help="an operator's or viewer's token"
    )
    parser.add_argument(
        "--dpid", required=True, action="append", type=_dpid,
        help="the datapath id of the bridge, 16 hex digits; given once for each bridge of this machine that the "
        "controller drives, since they share their zones",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=_seconds, metavar="SECONDS", help="do it again and again, so many seconds after the last time"
    )
    parser.add_argument(
        "--datapath", metavar="NAME", help="as `ovs-appctl dpctl/dump-dps` names it; default: the only one"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    parser.add_argument("--target", metavar="SOCKET", help="which ovs-vswitchd: what `ovs-appctl -t` takes")
    parser.add_argument("--db", metavar="DATABASE", help="which ovsdb-server: what `ovs-vsctl --db` takes")
    return parser


def _dpid(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{16}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a datapath id: 16 hex digits")
    return text.lower()


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text) or not float(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return float(text)


def _once(arguments: argparse.Namespace) -> int:
    switch = OpenVSwitch(arguments.target, arguments.db)
    try:
        wanted = _ask(arguments.api, arguments.token_file, arguments.dpid)
        datapath = arguments.datapath or switch.datapath()
        left = _apply(switch, datapath, wanted, arguments.dry_run)
    except CouldNot as problem:
        _complain(f"could not read: {problem}")
        return COULD_NOT
    if left:
        return NOT_IN_STEP
    if arguments.every is None:
        _say(f"in force: limits of {len(wanted)} zones")
    return IN_STEP


def _ask(url: str, token_file: Path, dpids: Iterable[str]) -> dict[int, int]:
    """The limits that the controller wants on some bridges.  Raises CouldNot."""
    try:
        with Api(url, token_file.read_text().strip()) as api:
            zones = [zone for dpid in dpids for zone in api.get(f"/v1/hypervisors/{quote(dpid)}/zones")["zones"]]
        return wanted_limits(zones)
    except (OSError, RemoteError, UnicodeDecodeError) as problem:
        raise CouldNot(str(problem)) from problem
    except (KeyError, TypeError, ValueError) as problem:
        raise CouldNot(f"{url}: {type(problem).__name__}: {problem}") from problem


def _apply(switch: OpenVSwitch, datapath: str, wanted: Limits, dry_run: bool) -> bool:
    """Sets and removes; whether the limits still differ afterwards.  Raises CouldNot."""
    in_force = switch.limits(datapath)
    if not commands(wanted, in_force, datapath, Tool.APPCTL):
        return False
    for tool in switch.tools():
        for command in commands(wanted, in_force, datapath, tool):
            _say(shlex.join(switch.line(tool, command)))
            if not dry_run:
                try:
                    switch.run(tool, command)
                except Failed as problem:
                    _complain(f"failed: {problem}")
        if dry_run:
            return True
        in_force = switch.limits(datapath)
        if not commands(wanted, in_force, datapath, Tool.APPCTL):
            return False
    _complain("the limits in force are still not those wanted")
    return True


def _say(text: str) -> None:
    print(text, flush=True)


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
