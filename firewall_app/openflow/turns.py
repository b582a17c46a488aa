"""Who works when: the loop is everybody's, and a switch that has much to compare must not keep it from others.

What is short is done in the loop, one after the other (`Pace`): going to another thread and back costs more than the
work itself, and up to five milliseconds for each time that the two threads change.  What is long is done aside in a
native thread, few at a time (`Turns`): more would share one interpreter, and keep the store waiting.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from eventlet.event import Event
from eventlet.hubs import get_hub

T = TypeVar("T")
SLICE = 0.004  # seconds of work after which the loop looks whether others have something to do


class Turns:
    """At most so many at a time, in the order in which they came; who waits costs nothing, however many they are."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: deque[Event] = deque()

    def __enter__(self) -> None:
        if self._free:
            self._free -= 1
            return
        turn = Event()
        self._waiting.append(turn)
        try:
            turn.wait()
        except BaseException:
            if turn.ready():
                self._leave()
            else:
                self._waiting.remove(turn)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._waiting:
            self._waiting.popleft().send()
        else:
            self._free += 1


class Pace:
    """Short pieces of work, in the loop; after a slice of them it turns to whatever else has come.

    Nobody goes before those who wait, and who is woken has its turn: one who always has work starves nobody.
    """

    def __init__(self) -> None:
        self._spent = 0.0
        self._turning = False  # whether the loop is on its way round
        self._waiting: deque[Event] = deque()

    def work(self, work: Callable[[], T]) -> T:
        if self._waiting or self._spent >= SLICE:
            turn = Event()
            self._waiting.append(turn)
            try:
                turn.wait()
            except BaseException:
                if turn.ready():
                    self._wake()
                else:
                    self._waiting.remove(turn)
                raise
        start = time.perf_counter()
        try:
            return work()
        finally:
            self._spent += time.perf_counter() - start
            if not self._turning:
                self._turning = True
                get_hub().schedule_call_global(0, self._round)
            if self._spent < SLICE:
                self._wake()

    def _round(self) -> None:
        """The loop has looked at everybody once."""
        self._spent, self._turning = 0.0, False
        self._wake()

    def _wake(self) -> None:
        if self._waiting:
            self._waiting.popleft().send()
