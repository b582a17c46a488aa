"""Random bytes for the decoder, and random conversations for sessions; both from what a switch really says.

`tests/fuzz/decode.py` does the first with atheris, for hours; what it found stands in `FOUND`.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from decoding import hold
from fakeswitch import FakeSwitch, message, port_status
from hypothesis import example, given, settings
from hypothesis import strategies as st
from policies import ANYONE, DPID, rule, small, with_inbound

from firewall_app.history import beginning
from firewall_app.openflow import wire
from firewall_app.openflow.rendering import Body, Key, render
from firewall_app.openflow.session import Moment, Session
from firewall_app.pipeline.compile import Rulings
from firewall_app.pipeline.plan import units
from firewall_app.pipeline.tables import COOKIE_MASK, MAGIC, Kind, cookie_parts
from firewall_app.progress import Sync, Wanted

EPOCH = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FOUND = (
    # a field under a mask of zeros, which is to match nothing of it
    bytes.fromhex(
        "051300500000000700010000000000000040010000000000000000000001000000000000000000000000000000000001"
        "000000000000000000000000000000000001001000010b081000000000000000"
    ),
    # a register whose mask ends in the bytes of another field
    bytes.fromhex(
        "0513006800000007000100010000000000581e00000000021dcd65010001000000000000000000000000000000000001"
        "000000000000000100000000000000000001001000010b080000002c0134010000040018000000000000001000000002"
        "0000000000000000"
    ),
)

# --------------------------------------------------------------------------------------------- real messages


def conversation() -> tuple[list[bytes], list[bytes]]:
    """What a session and a switch say to each other when the switch connects and the policy changes."""
    switch, policies = FakeSwitch(), [small()]
    said: list[bytes] = []
    answers: list[bytes] = []

    def plan(interfaces):
        return Wanted(beginning(revision=len(policies)), units(policies[-1], DPID, interfaces, Rulings()))

    def exchange(waiting: list[bytes]) -> None:
        while waiting or session.filling:
            waiting = waiting or session.fill(NOW)
            said.append(waiting.pop(0))
            for answer in switch.answer(said[-1]):
                answers.append(answer)
                waiting += session.receive(answer, NOW)

    session = Session(DPID, 5, plan, lambda: plan({}).history, NOW)
    exchange(session.start(NOW))
    policies.append(with_inbound(policies[0], rule("inbound", "tcp", "443", ANYONE, 7)))
    exchange(session.policy_changed(NOW))
    exchange(session.resync(NOW))
    exchange(session.count())
    return said, answers


NOW = Moment(0.0, EPOCH)
SAID, ANSWERS = conversation()
# What a switch says of its own accord: its ports, and what others do to flows, as told in 1.4 and in 1.3.
ANSWERS.append(port_status(0, 4, "tap4"))
_CHANGED = [struct.pack("!HHBBHHH4xQ", 32, 1, 30, 0, 0, 0, 7, MAGIC << 48) + struct.pack("!HH4x", 1, 4)] * 2
ANSWERS.append(message(19, 9, struct.pack("!HH4x", 16, 0) + b"".join(_CHANGED)))
_CHANGED_13 = struct.pack("!HHHHHHHBxQ", 32, 1, 0, 7, 0, 0, 4, 30, MAGIC << 48) + struct.pack("!HH4x", 1, 4)
ANSWERS.append(b"\4" + message(19, 9, struct.pack("!HH4xII", 0xFFFF, 0, 0x4F4E4600, 1870) + _CHANGED_13)[1:])


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A real message with lengths, types and bytes changed where structures begin, and parts taken out or doubled."""
    data = bytearray(draw(st.sampled_from(ANSWERS)))
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, max(0, len(data) - 2) // 4)) * 4 + draw(st.sampled_from([0, 0, 0, 1, 2, 2, 3]))
        match draw(st.integers(0, 4)):
            case 0:
                data[place : place + 2] = struct.pack("!H", draw(st.sampled_from([0, 1, 4, 8, 56, 0x7FFF, 0xFFFF])))
            case 1:
                data[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case 2:
                data[place : place + draw(st.integers(1, 64))] = b""
            case 3:
                data[place:place] = data[place : place + draw(st.integers(1, 64))]
            case 4 if len(data) > 4:
                old = int.from_bytes(data[2:4], "big")
                data[2:4] = struct.pack("!H", max(0, min(0xFFFF, old + draw(st.integers(-8, 8)))))
    if draw(st.integers(0, 7)):
        data[2:4] = struct.pack("!H", len(data) & 0xFFFF)
    return bytes(data)


@settings(max_examples=400)
@given(mutants())
def test_T180_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    hold(data)


@pytest.mark.parametrize("data", FOUND, ids=range(len(FOUND)))
def test_what_fuzzing_has_found(data: bytes) -> None:
    hold(data)


LONGEST = {
    "flows": struct.pack("!HH4x", 1, 0) + (struct.pack("!H54x", 56)[:48] + struct.pack("!HH4x", 1, 4)) * 1169,
    "ports": struct.pack("!HH4x", 13, 0) + struct.pack("!IH34x", 1, 40) * 1637,
}


@pytest.mark.parametrize("what", LONGEST)
def test_the_work_of_decoding_is_in_proportion_to_size(what: str) -> None:
    """64 KB of the smallest elements that there are: so many lines for each of them, and no more."""
    body, (size, count) = LONGEST[what], {"flows": (56, 1169), "ports": (40, 1637)}[what]
    one = lines_of(lambda: wire.decode(message(19, 1, body[: 8 + size])))
    assert lines_of(lambda: wire.decode(message(19, 1, body))) <= one * count


def lines_of(work: Callable[[], object]) -> int:
    """How many lines of Python run."""
    count = 0

    def trace(_frame: object, event: str, _argument: object) -> object:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


# --------------------------------------------------------------------------------------------- sessions


class Liar:
    """A switch that answers as it likes; and a witness of what the session sends it."""

    def __init__(self) -> None:
        self.switch = FakeSwitch()
        self.policies = [small(), with_inbound(small(), rule("inbound", "tcp", "443", ANYONE, 7))]
        self.revision, self.seconds = 0, 0.0
        self.asked: list[bytes] = []  # what the session sent, and has had no answer to yet
        self.meant: list[set] = [set()]
        self.session = Session(
            DPID, 5, self.plan, lambda: beginning(revision=self.revision), self.now, reply_timeout=30, audit_interval=50
        )
        self.sends(self.session.start(self.now))

    @property
    def now(self) -> Moment:
        return Moment(self.seconds, EPOCH + timedelta(seconds=self.seconds))

    def plan(self, interfaces):
        wanted = units(self.policies[self.revision % 2], DPID, interfaces, Rulings())
        self.meant = [{entry for unit in wanted.values() for entry in render(unit)}]
        return Wanted(beginning(revision=self.revision), wanted)

    def sends(self, messages: list[bytes]) -> None:
        """What a session says is well formed, and what it puts into bundles is what the policy means."""
        for data in messages:
            assert int.from_bytes(data[2:4], "big") == len(data)
            self.asked.append(data)
            if data[1] == 34:
                self._added(data[16:])

    def _added(self, mod: bytes) -> None:
        cookie, mask, table, command, _, _, priority = struct.unpack_from("!QQBBHHH", mod, 8)
        end = 48 + (struct.unpack_from("!H", mod, 50)[0] + 7) // 8 * 8
        key = Key(table, priority, mod[48:end])
        held = {entry[0]: entry[1] for entry in self.meant[0]}
        if command == wire.DELETE_STRICT:
            assert (cookie, mask) == (MAGIC << 48, COOKIE_MASK)
            assert key not in held
        elif key in held:
            assert held[key] == Body(cookie, mod[end:])
        else:
            # Beside the policy there are what numbers the changes, the same on every switch.
            assert cookie_parts(cookie)[0] is Kind.STATIC, (table, priority)

    def hears(self, data: bytes) -> None:
        self.sends(self.session.receive(data, self.now))


@st.composite
def events(draw: st.DrawFn) -> tuple:
    return draw(
        st.sampled_from(
            [
                ("answer",),
                ("answer",),
                ("answer",),
                ("answer",),
                ("answer", "twice"),
                ("skip",),
                ("policy",),
                ("resync",),
            ]
        )
        | st.tuples(st.just("mutant"), mutants())
        | st.tuples(st.just("other"), st.sampled_from(ANSWERS))
        | st.tuples(st.just("time"), st.sampled_from([1, 6, 29, 31, 60]))
        | st.tuples(st.just("port"), st.integers(0, 2), st.integers(1, 4), st.sampled_from(["tap101", "tap102", "x"]))
    )


@settings(max_examples=150)
@given(st.lists(events(), max_size=40))
@example([("answer",)] * 10)
def test_T180_sessions_take_any_conversation(told: list[tuple]) -> None:
    liar = Liar()
    for event in told:
        if liar.session.dead is not None:
            break
        one_event(liar, *event)
    assert all(isinstance(line, str) for line in liar.session.changes)


def one_event(liar: Liar, what: str, *more) -> None:
    match what:
        case "answer" if liar.asked:
            for data in liar.switch.answer(liar.asked.pop(0)):
                liar.hears(data)
                if more and liar.session.dead is None:
                    liar.hears(data)
        case "skip" if liar.asked:
            liar.asked.pop(0)
        case "policy":
            liar.revision += 1
            liar.sends(liar.session.policy_changed(liar.now))
        case "resync":
            liar.sends(liar.session.resync(liar.now))
        case "mutant":
            liar.hears(more[0])
        case "other":  # the answer to something else, under the xid of what was asked last
            xid = liar.asked[-1][4:8] if liar.asked else bytes(4)
            liar.hears(more[0][:4] + xid + more[0][8:])
        case "time":
            liar.seconds += more[0]
            liar.sends(liar.session.tick(liar.now))
        case "port":
            liar.hears(port_status(*more))


def test_an_honest_conversation_in_this_harness_converges() -> None:
    liar = Liar()
    while liar.asked:
        one_event(liar, "answer")
    assert liar.session.report.sync is Sync.IN_SYNC
