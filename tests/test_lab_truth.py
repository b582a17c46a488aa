"""Truth tables without a lab: what is tried again, and how it is shown.  The machines here answer from a script."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from lab.machine import Machine
from lab.truth import Case, agrees, all_pairs, disagreements, probe, table


class Scripted(Machine):
    """Answers every probe with the next outcome of its script, and remembers what it was asked."""

    def __init__(self, name: str, number: int, *outcomes: str) -> None:
        super().__init__(name, "", "02:00:00:00:00:01", (f"10.1.0.{number}/16", f"fd00:1::{number}/64"), Path())
        self.outcomes = list(outcomes)
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def submit(self, command: str, **arguments: Any) -> Future[Any]:
        self.asked.append((command, arguments))
        answer: Future[Any] = Future()
        answer.set_result(None if command == "listen" else self.outcomes.pop(0))
        return answer


def pair(*outcomes: str) -> dict[str, Machine]:
    return {"a": Scripted("a", 1, *outcomes), "b": Scripted("b", 2)}


WEB = Case("a", "b", "tcp", 80)


def test_a_case_expected_open_is_tried_again_until_it_is() -> None:
    assert probe(pair("timeout", "timeout", "open"), [WEB], {WEB}, tries=3) == {WEB: "open"}


def test_it_is_not_tried_more_often_than_asked() -> None:
    assert probe(pair("timeout", "timeout", "open"), [WEB], {WEB}, tries=2) == {WEB: "timeout"}


def test_a_leak_is_never_retried_away() -> None:
    machines = pair("open", "timeout", "timeout")
    assert probe(machines, [WEB], expect_open=set(), tries=3) == {WEB: "open"}
    assert len(machines["a"].asked) == 1


def test_a_stop_that_was_not_expected_open_is_seen_at_the_first_try() -> None:
    assert probe(pair("timeout", "open"), [WEB], tries=3) == {WEB: "timeout"}


def test_the_target_listens_where_it_is_probed_and_its_address_is_of_the_version() -> None:
    machines = pair("open", "open", "open")
    probe(machines, [WEB, Case("a", "b", "udp", 53, 6), Case("a", "b", "icmp")])
    assert machines["b"].asked == [("listen", {"tcp": [80], "udp": [53]})]
    asked = [(command, arguments["address"]) for command, arguments in machines["a"].asked]
    assert asked == [("tcp", "10.1.0.2"), ("udp", "fd00:1::2"), ("icmp", "10.1.0.2")]


@pytest.mark.parametrize(
    ("expected", "outcome", "agreed"),
    [
        (True, "open", True),
        (True, "timeout", False),
        (True, "refused", False),
        (False, "timeout", True),
        (False, "unreachable", True),
        (False, "open", False),
        (False, "refused", False),  # somebody answered, so a packet got through
    ],
)
def test_what_agrees(expected: bool, outcome: str, agreed: bool) -> None:
    assert agrees(expected, outcome) is agreed


def test_all_pairs_leave_out_oneself() -> None:
    cases = all_pairs("abc", [("tcp", 80), ("icmp", 0)], (4,))
    assert len(cases) == 2 * 6
    assert all(case.source != case.target for case in cases)


def test_a_disagreement_is_marked_and_named() -> None:
    other = Case("b", "a", "tcp", 80)
    expected, probed = {WEB: False, other: True}, {WEB: "open", other: "open"}
    assert disagreements(expected, probed) == [WEB]
    assert table(expected, probed) == "\n".join(
        [
            "tcp 80, IPv4",
            "  expected   | probed",
            "  a    b     | a    b",
            "a -    X     | -    .!",
            "b .    -     | .    -",
            "",
            "rows send, columns receive   . pass   X stop   r refused   ! not as expected",
            "2 cases, 1 not as expected",
            "  a -> b tcp 80 IPv4: expected stop, probed open",
        ]
    )


@pytest.mark.parametrize("outcome_of", [lambda i: "open", lambda i: "timeout" if i % 2 else "refused"])
def test_six_machines_fit_in_100_columns(outcome_of: Callable[[int], str]) -> None:
    names = [f"a-rather-long-name-{i}" for i in range(6)]
    cases = all_pairs(names, [("tcp", 8080)])
    text = table(dict.fromkeys(cases, True), {c: outcome_of(i) for i, c in enumerate(cases)})
    matrices = [line for line in text.splitlines() if "|" in line]
    assert len(matrices) == 2 * (1 + 1 + 6)
    assert max(map(len, matrices)) <= 100
