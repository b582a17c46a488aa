"""Who works when: native threads are few and serve in turn, and short work leaves the loop to others."""

from __future__ import annotations

import time
from itertools import pairwise

import eventlet
import pytest
from eventlet.event import Event

from firewall_app.openflow.turns import SLICE, Pace, Turns


def test_so_many_at_a_time_and_in_the_order_in_which_they_came() -> None:
    turns, doors = Turns(2), [Event() for _ in range(6)]
    inside: list[int] = []
    entered: list[int] = []

    def work(number: int) -> None:
        with turns:
            inside.append(number)
            entered.append(number)
            assert len(inside) <= 2
            doors[number].wait()
            inside.remove(number)

    pool = eventlet.GreenPool()
    for number in range(6):
        pool.spawn(work, number)
    eventlet.sleep(0)
    assert entered == [0, 1]
    for number in (1, 0, 2, 3, 4, 5):
        doors[number].send()
        eventlet.sleep(0)
    pool.waitall()
    assert entered == [0, 1, 2, 3, 4, 5]


def test_who_gives_up_waiting_gives_up_its_turn() -> None:
    turns, door = Turns(1), Event()

    def hold() -> None:
        with turns:
            door.wait()

    def wait(seconds: float) -> None:
        with eventlet.Timeout(seconds), turns:
            pass

    holder = eventlet.spawn(hold)
    eventlet.sleep(0)
    late = eventlet.spawn(wait, 0.01)
    patient = eventlet.spawn(wait, 10)
    with pytest.raises(eventlet.Timeout):
        late.wait()
    door.send()
    holder.wait()
    patient.wait()
    with turns:
        pass


def test_a_turn_given_to_one_that_is_told_to_stop_goes_to_the_next() -> None:
    turns, door, done = Turns(1), Event(), []

    def hold() -> None:
        with turns:
            door.wait()

    def work(number: int) -> None:
        with turns:
            done.append(number)

    eventlet.spawn(hold)
    eventlet.sleep(0)
    stopped, other = eventlet.spawn(work, 1), eventlet.spawn(work, 2)
    eventlet.sleep(0)
    door.send()
    stopped.kill()
    other.wait()
    assert 2 in done
    with turns:
        done.append(3)
    assert done[-1] == 3


def test_much_short_work_lets_the_loop_go_round_in_between() -> None:
    """Ten pieces of a slice each: the loop is round between any two of them."""
    pace, order = Pace(), []

    def piece(number: int) -> None:
        end = time.perf_counter() + SLICE
        while time.perf_counter() < end:
            pass
        order.append(number)

    def others() -> None:
        while len([one for one in order if one != "loop"]) < 10:
            order.append("loop")
            eventlet.sleep(0)

    pool = eventlet.GreenPool()
    for number in range(10):
        pool.spawn(pace.work, lambda number=number: piece(number))
    pool.spawn(others)
    pool.waitall()
    assert [one for one in order if one != "loop"] == list(range(10)), "in the order in which they came"
    pieces = [place for place, one in enumerate(order) if one != "loop"]
    assert all(later - earlier > 1 for earlier, later in pairwise(pieces))


def test_those_who_always_have_work_starve_nobody() -> None:
    pace, order = Pace(), []

    def piece(number: int) -> None:
        end = time.perf_counter() + SLICE
        while time.perf_counter() < end:
            pass
        order.append(number)

    def busy(number: int) -> None:
        while "seldom" not in order and len(order) < 100:
            pace.work(lambda: piece(number))
            eventlet.sleep(0)

    pool = eventlet.GreenPool()
    for number in range(3):
        pool.spawn(busy, number)
    eventlet.sleep(0)
    pool.spawn(pace.work, lambda: order.append("seldom"))
    pool.waitall()
    assert order.index("seldom") < 10


def test_work_that_fails_or_is_given_up_leaves_the_pace_as_it_was() -> None:
    pace, done = Pace(), []

    def fails() -> None:
        time.sleep(2 * SLICE)
        raise LookupError("as meant")

    failing = eventlet.spawn(pace.work, fails)
    given_up, last = (eventlet.spawn(pace.work, lambda number=number: done.append(number)) for number in (1, 2))
    eventlet.sleep(0)  # the first has used up its slice and more, the others wait
    given_up.kill()
    last.wait()
    assert done == [2]
    with pytest.raises(LookupError):
        failing.wait()
    assert pace.work(lambda: 7) == 7
