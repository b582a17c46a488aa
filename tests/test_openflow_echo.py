"""Whether switches are there is asked of each in its turn, and nobody's silence, nor the loop's, is another's end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import eventlet
import ryu.base.app_manager  # noqa: F401 - before what it imports, which imports it
from ryu.controller.controller import Datapath
from ryu.lib import hub
from ryu.ofproto import ofproto_v1_4

from firewall_app.openflow.echo import Echoes

ROOM = 16  # messages in the queue of one of Ryu's datapaths


class Switch:
    """A datapath of Ryu, as far as echoes see it; `answers` when it is asked."""

    ofproto = ofproto_v1_4
    max_unreplied_echo_requests = 3
    xid = 0

    def __init__(self, interval: float = 0.01, answers: bool = True) -> None:
        self.echo_request_interval = interval
        self.send_q: Any = hub.Queue(ROOM)
        self._send_q_sem = hub.BoundedSemaphore(ROOM)
        self.unreplied_echo_requests: list[int] = []
        self.asked: list[int] = []
        self.closed = False
        self._answers = answers

    def send(self, data: bytes) -> None:
        Datapath.send(self, data)

    def take(self) -> bytes:
        """As Ryu's thread that sends: room first, then the socket."""
        data, _ = self.send_q.get()
        self._send_q_sem.release()
        return data

    def read(self) -> None:
        while True:
            xid = int.from_bytes(self.take()[4:8], "big")
            self.asked.append(xid)
            if self._answers:
                self.unreplied_echo_requests.remove(xid)

    def close(self) -> None:
        self.closed, self.send_q = True, None


def until(condition: Callable[[], object]) -> None:
    with eventlet.Timeout(10):
        while not condition():
            eventlet.sleep(0.005)


def test_who_answers_stays_and_who_does_not_goes() -> None:
    echoes, there, gone = Echoes(), Switch(), Switch(answers=False)
    readers = [eventlet.spawn(one.read) for one in (there, gone)]
    for one in (there, gone):
        echoes.enter(one)
    until(lambda: gone.closed and len(there.asked) > 6)
    assert len(gone.asked) == 4
    assert not there.closed
    for reader in readers:
        reader.kill()
    there.close()


def test_a_loop_that_was_held_up_takes_no_switch_for_dead() -> None:
    """Each is asked once for all the turns that were missed, and may answer."""
    echoes, switch = Echoes(), Switch(interval=0.02, answers=False)
    reader = eventlet.spawn(switch.read)
    echoes.enter(switch)
    until(lambda: len(switch.asked) == 1)
    time.sleep(0.5)
    for _ in range(10):
        eventlet.sleep(0)
    assert len(switch.asked) <= 2
    reader.kill()
    switch.close()


def test_who_asks_does_not_wait_behind_those_who_wait_for_a_switch() -> None:
    """It has taken one of the messages that were in its way, and then no more; somebody waits for the room."""
    switch: Any = Switch()
    for _ in range(ROOM):
        switch.send(b"full")
    sender = eventlet.spawn(switch.send, b"waits for room")
    eventlet.sleep(0)
    switch.take()
    with eventlet.Timeout(10):
        Echoes._ask(switch)  # before the one who waits has noticed that there is room
    until(lambda: sender.dead)
    assert not switch.unreplied_echo_requests
