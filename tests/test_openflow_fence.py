"""The note of which policy a switch last got, when it is not what this version writes."""

from __future__ import annotations

import struct

import pytest
from test_openflow_session import Talk, without_first_rule

from firewall_app.history import TIMELINE_BITS
from firewall_app.openflow import wire
from firewall_app.openflow.held import FENCE_KEY
from firewall_app.openflow.rendering import Body
from firewall_app.pipeline.flow import Note
from firewall_app.progress import Sync


def noted(word: bytes, timeline: int, revision: int) -> bytes:
    return wire.encode_instructions((Note(struct.pack("!6sQQ", word, timeline, revision)),))


UNREADABLE = {
    "no actions": b"",
    "a later version": noted(b"fence2", 1, 1),
    "a shorter one": wire.encode_instructions((Note(b"fence1" + bytes(8)),)),
    "a timeline that no store can hold": noted(b"fence1", 1 << TIMELINE_BITS, 1),
    "a revision that no store can hold": noted(b"fence1", 1, 1 << 63),
    "instructions that nobody knows": struct.pack("!HHIHH4x", 4, 16, 0xBAD, 16, 16),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_T173_a_note_that_cannot_be_read_is_a_policy_that_nobody_knows(what):
    switch = Talk().switch
    switch.flows[FENCE_KEY] = Body(switch.flows[FENCE_KEY].cookie, UNREADABLE[what])
    held, commits = dict(switch.flows), switch.commits
    talk = Talk(switch, without_first_rule(Talk().policy), revision=5)
    fence = talk.report.fence
    assert (talk.report.sync, talk.report.confirmed, fence.revision) == (Sync.FAILED, -1, 1)
    assert f"a note that cannot be read, taken for revision 1 of timeline {fence.name}" in talk.report.error
    assert (switch.flows, switch.commits) == (held, commits)

    talk.history = talk.history.superseding(fence)
    talk.exchange(talk.session.policy_changed(talk.now))
    assert (talk.report.sync, talk.report.confirmed, talk.report.fence) == (Sync.IN_SYNC, 5, None)
    assert (switch.flows[FENCE_KEY].instructions, switch.commits) == (noted(b"fence1", 1, 5), commits + 1)


def test_T173_a_confirmation_of_one_such_note_is_none_of_the_next():
    switch, fences = Talk().switch, []
    for revision in (7, 8):
        body = Body(switch.flows[FENCE_KEY].cookie, noted(b"fence2", 1, revision))
        switch.flows[FENCE_KEY] = body
        talk = Talk(switch)
        assert talk.report.sync is Sync.FAILED
        fences.append(talk.report.fence)
        talk.history = talk.history.superseding(talk.report.fence)
        talk.exchange(talk.session.policy_changed(talk.now))
        assert talk.report.sync is Sync.IN_SYNC
    assert fences[0] != fences[1]


def test_T175_a_note_that_somebody_overwrites_while_we_are_master_is_put_back():
    talk = Talk()
    right = dict(talk.switch.flows)
    talk.switch.flows[FENCE_KEY] = Body(right[FENCE_KEY].cookie, UNREADABLE["no actions"])
    talk.exchange(talk.session.resync(talk.now))
    assert (talk.report.sync, talk.report.fence, talk.report.repaired_flows) == (Sync.IN_SYNC, None, 1)
    assert talk.switch.flows[FENCE_KEY] == right[FENCE_KEY]
