"""What a session has asked its switch, and whether an answer is one.

A switch that answers what it was not asked, or without end, does not hold what we think; `fault` says so, and the
connection is to be closed.  No socket, no clock.
"""

from __future__ import annotations

from . import wire

ROLE = "its role"
FIRST_XID = 0x80000000  # Ryu numbers its own messages in the lower half
MOST_TOLD_BYTES = 64 << 20  # of one reading: some 250,000 flows; the largest example of docs/flows.md has 20,000

# Which questions a message may answer.  The replies to opening and discarding a bundle are not waited for.
_ANSWERS: dict[type, tuple[str, ...]] = {
    wire.DescReply: ("its version",),
    wire.PortDescReply: ("its ports",),
    wire.RoleReply: (ROLE,),
    wire.FlowStatsReply: ("its flows", "its fence"),
    wire.BarrierReply: ("a barrier", "a bundle"),
    wire.BundleReply: ("a commit",),
}


class Questions:
    """Those that are open, by xid.  `deadline`: when the last one asked must be answered, in seconds."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.open: dict[int, str] = {}  # xid -> what was asked
        self.deadline: float | None = None
        self.counting: int | None = None  # xid of a reading of counters that is on its way: asked beside all else
        self._xid = FIRST_XID
        self._given_up = self._xid  # the last xid of which an answer means nothing any more, unless it is open
        self._coming: dict[int, int] = {}  # bytes of answers that have come so far, and are not complete

    def next_xid(self) -> int:
        self._xid = FIRST_XID | (self._xid + 1) & 0x7FFFFFFF
        return self._xid

    def next_xids(self, count: int) -> list[int]:
        """So many at once."""
        first, self._xid = self._xid + 1, FIRST_XID | (self._xid + count) & 0x7FFFFFFF
        return [FIRST_XID | xid & 0x7FFFFFFF for xid in range(first, first + count)]

    def ask(self, what: str, now: float) -> int:
        """The xid for a question that must be answered."""
        xid = self.next_xid()
        self.open[xid] = what
        self.deadline = now + self.timeout
        return xid

    def answered(self, xid: int) -> bool:
        """Takes a question off the list; whether it was on it."""
        return self.open.pop(xid, None) is not None

    def is_last(self, data: bytes) -> bool:
        """Whether a message is the end of the only answer that is still waited for."""
        return self.open.keys() == {int.from_bytes(data[4:8], "big")} and not wire.goes_on(data)

    def give_up(self) -> None:
        """What was asked is of no use any more; answers to it may be on their way."""
        self._given_up = self._xid
        self._coming = {xid: size for xid, size in self._coming.items() if xid == self.counting}
        self.open, self.deadline = {}, None

    def is_stale(self, xid: int) -> bool:
        """Whether an answer is one to what was given up."""
        return FIRST_XID <= xid <= self._given_up and xid not in self.open and xid != self.counting

    def fault(self, message: wire.Message, size: int) -> str | None:
        """Why a message of so many bytes cannot be part of the conversation; None when it can."""
        kind = type(message).__name__
        if type(message) not in _ANSWERS or (isinstance(message, wire.BundleReply) and not _commits(message)):
            return None
        if self.is_stale(message.xid):
            return None
        if self.open.get(message.xid) not in _ANSWERS[type(message)] and message.xid != self.counting:
            return f"{kind} answers nothing that it was asked"
        if message.xid == self.counting and not isinstance(message, wire.FlowStatsReply):
            return f"{kind} answers a question for counters"
        told = self._coming.pop(message.xid, 0) + size
        if getattr(message, "more", False):
            self._coming[message.xid] = told
        return f"{kind} has no end: {told} bytes so far" if told > MOST_TOLD_BYTES else None


def _commits(reply: wire.BundleReply) -> bool:
    return reply.kind == wire.BUNDLE_COMMIT
