"""Who reaches whom: many probes at once, and the outcome beside what was expected.

A case that is expected to pass may be tried again (`tries`), since a loaded machine is late now and then.  A case
that is expected to stop is tried once, and a single packet that gets through counts: a leak is never retried away.
Knows nothing of rules; what to expect is the caller's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

from .machine import Machine

Protocol = Literal["tcp", "udp", "icmp"]
OPEN, REFUSED, UNREACHABLE, TIMEOUT = "open", "refused", "unreachable", "timeout"
# "refused" is neither pass nor stop: somebody answered, but not the service that was asked.
MARKS = {OPEN: ".", TIMEOUT: "X", UNREACHABLE: "X", REFUSED: "r"}
MOST_AT_ONCE = 400  # in one round, over all machines: beyond, a busy machine is late and not closed
WIDTH = 100


@dataclass(frozen=True, order=True)
class Case:
    """May `source` reach `target`?  `address` asks for one of several that the target has."""

    source: str
    target: str
    protocol: Protocol
    port: int = 0  # none for icmp
    version: int = 4
    address: str = ""
    source_port: int = 0

    @property
    def service(self) -> tuple[str, int, int]:
        return self.protocol, self.port, self.version

    @property
    def text(self) -> str:
        port = f" {self.port}" if self.port else ""
        to = f" at {self.address}" if self.address else ""
        return f"{self.source} -> {self.target}{to} {self.protocol}{port} IPv{self.version}"


def all_pairs(
    names: Iterable[str], services: Iterable[tuple[Protocol, int]], versions: Iterable[int] = (4, 6)
) -> list[Case]:
    """Every machine to every other, for each (protocol, port) and IP version."""
    among = list(names)
    asked = [(protocol, port, version) for protocol, port in services for version in versions]
    return [
        Case(source, target, protocol, port, version)
        for protocol, port, version in asked
        for source in among
        for target in among
        if source != target
    ]


def probe(
    machines: Mapping[str, Machine],
    cases: Iterable[Case],
    expect_open: Collection[Case] | None = None,
    tries: int = 3,
    timeout: float = 0.4,
) -> dict[Case, str]:
    """The outcome of every case, probed in parallel; the targets listen on the ports that are asked.

    Only cases in `expect_open` get up to `tries` attempts until one is open; all others get exactly one.
    None expects nothing to be open.
    """
    asked = list(dict.fromkeys(cases))
    _listen(machines, asked)
    outcomes = _round(machines, asked, timeout)
    for _ in range(tries - 1):
        again = [case for case in asked if case in (expect_open or ()) and outcomes[case] != OPEN]
        if not again:
            break
        outcomes |= _round(machines, again, timeout)
    return outcomes


def _listen(machines: Mapping[str, Machine], cases: Iterable[Case]) -> None:
    ports: dict[str, dict[str, set[int]]] = {}
    for case in cases:
        if case.protocol != "icmp":
            wanted = ports.setdefault(case.target, {"tcp": set(), "udp": set()})
            wanted[case.protocol].add(case.port)
    pending = [
        machines[name].submit("listen", tcp=sorted(wanted["tcp"]), udp=sorted(wanted["udp"]))
        for name, wanted in ports.items()
    ]
    for future in pending:
        future.result(30)


def _round(machines: Mapping[str, Machine], cases: list[Case], timeout: float) -> dict[Case, str]:
    outcomes: dict[Case, str] = {}
    for start in range(0, len(cases), MOST_AT_ONCE):
        pending = {case: _ask(machines, case, timeout) for case in cases[start : start + MOST_AT_ONCE]}
        outcomes |= {case: future.result(timeout + 30) for case, future in pending.items()}
    return outcomes


def _ask(machines: Mapping[str, Machine], case: Case, timeout: float) -> Future[Any]:
    source = machines[case.source]
    address = case.address or machines[case.target].address(case.version)
    if case.protocol == "icmp":
        return source.submit("icmp", address=address, timeout=timeout)
    return source.submit(case.protocol, address=address, port=case.port, timeout=timeout, source_port=case.source_port)


def disagreements(expected: Mapping[Case, bool], probed: Mapping[Case, str]) -> list[Case]:
    """The cases that did not go as expected, in order; a refusal agrees with neither pass nor stop."""
    return sorted(case for case, wanted in expected.items() if not agrees(wanted, probed[case]))


def agrees(expected: bool, outcome: str) -> bool:
    return outcome == OPEN if expected else outcome in (TIMEOUT, UNREACHABLE)


def table(expected: Mapping[Case, bool], probed: Mapping[Case, str]) -> str:
    """For each service a matrix of what was expected beside one of what was probed, from row to column."""
    services = sorted({case.service for case in expected})
    blocks = [_block(service, expected, probed) for service in services]
    wrong = disagreements(expected, probed)
    verdict = f"{len(expected)} cases, {len(wrong)} not as expected"
    faults = [
        f"  {case.text}: expected {'pass' if expected[case] else 'stop'}, probed {probed[case]}" for case in wrong
    ]
    legend = "rows send, columns receive   . pass   X stop   r refused   ! not as expected"
    return "\n\n".join([*blocks, "\n".join([legend, verdict, *faults])])


def _block(service: tuple[str, int, int], expected: Mapping[Case, bool], probed: Mapping[Case, str]) -> str:
    """One service's matrices.  Of several cases between two machines, any that disagrees shows."""
    cases = [case for case in expected if case.service == service]
    names = list(dict.fromkeys(name for case in cases for name in (case.source, case.target)))
    left = min(12, max(map(len, names)))
    room = (WIDTH - left - 3) // (2 * len(names)) - 1  # columns of a cell, without the space before it
    cell = max(2, min(room, max(4, *map(len, names))))
    wanted: dict[tuple[str, str], str] = {}
    found: dict[tuple[str, str], str] = {}
    for case in cases:
        pair = case.source, case.target
        ok = agrees(expected[case], probed[case])
        if pair not in found or not ok:
            wanted[pair] = "." if expected[case] else "X"
            found[pair] = MARKS[probed[case]] + ("" if ok else "!")

    def row(name: str, left_cells: Iterable[str], right_cells: Iterable[str]) -> str:
        sides = ["".join(f" {text[:cell]:<{cell}}" for text in cells) for cells in (left_cells, right_cells)]
        return f"{name[:left]:<{left}}{sides[0]}  |{sides[1]}".rstrip()

    def cells(matrix: Mapping[tuple[str, str], str], source: str) -> list[str]:
        return [matrix.get((source, target), "-" if source == target else "") for target in names]

    protocol, port, version = service
    title = f"{protocol}{f' {port}' if port else ''}, IPv{version}"
    half = (cell + 1) * len(names)
    return "\n".join(
        [
            title,
            f"{'':<{left}} {'expected':<{half - 1}}  | probed",
            row("", names, names),
            *(row(name, cells(wanted, name), cells(found, name)) for name in names),
        ]
    )
