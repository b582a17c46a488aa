"""The law of the decoder, for any bytes: tests/test_openflow_fuzz.py and tests/fuzz/decode.py hold it up."""

from __future__ import annotations

from firewall_app.openflow import wire


def hold(data: bytes) -> None:
    """Bytes are a message, or refused with DecodeError; what decodes as a flow is the same flow when it is encoded."""
    try:
        message = wire.decode(data)
    except wire.DecodeError:
        return
    assert isinstance(message, wire.Message)
    if isinstance(message, wire.FlowStatsReply):
        # Each entry is told whole: nothing of the message is passed over.
        assert sum(48 + len(flow.match) + len(flow.instructions) for flow in message.flows) == len(data) - 16
        for told in message.flows:
            _same_flow(told)


def _same_flow(told: wire.RawFlow) -> None:
    try:
        flow = wire.decode_flow(told)
    except wire.DecodeError:
        return
    again = told._replace(match=wire.encode_match(flow.match), instructions=wire.encode_instructions(flow.actions))
    assert wire.decode_flow(again) == flow
