"""Whether switches are still there: one thread asks all of them for an echo, each in its turn.

Replaces Ryu's thread for each switch and keeps its options (`echo_request_interval`,
`maximum_unreplied_echo_requests`).  All wait equally long for their next turn, so that those who wait are in order.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import eventlet

from . import wire

BATCH = 100  # switches that are asked before others get their turn


class Echoes:
    """Datapaths of Ryu that are asked from now on, until their connection ends."""

    def __init__(self) -> None:
        self._turns: deque[tuple[float, Any]] = deque()
        self._running = False

    def enter(self, datapath: Any) -> None:
        """Asks it now, and again with each interval."""
        if not datapath.max_unreplied_echo_requests or not datapath.send_q:
            return
        self._ask(datapath)
        self._turns.append((time.monotonic() + datapath.echo_request_interval, datapath))
        if not self._running:
            self._running = True
            eventlet.spawn_n(self._run)

    def _run(self) -> None:
        while self._turns:
            eventlet.sleep(max(0.0, self._turns[0][0] - time.monotonic()))
            for _ in range(min(BATCH, len(self._turns))):
                due, datapath = self._turns[0]
                if due > time.monotonic():
                    break
                self._turns.popleft()
                if not datapath.send_q:
                    continue  # its connection has ended
                if len(datapath.unreplied_echo_requests) > datapath.max_unreplied_echo_requests:
                    eventlet.spawn_n(datapath.close)  # closing may have to wait
                    continue
                self._ask(datapath)
                # From now on: after the loop was held up, what is overdue is asked once, and has its time to answer.
                self._turns.append((time.monotonic() + datapath.echo_request_interval, datapath))
        self._running = False

    @staticmethod
    def _ask(datapath: Any) -> None:
        """One who takes nothing is not asked, or all would wait: who sends to it notices.

        Not the room in its queue tells that, but who waits for room: those come first.
        """
        if datapath._send_q_sem.balance > 0:
            datapath.xid = (datapath.xid + 1) & datapath.ofproto.MAX_XID
            datapath.unreplied_echo_requests.append(datapath.xid)
            datapath.send(wire.echo_request(datapath.ofproto.OFP_VERSION, datapath.xid))


ECHOES = Echoes()
