"""A plain Ryu application, to compare with: it gives each switch that connects so many flows, and asks for a barrier.

    FLOWS=500 HOW=bytes ryu-manager --ofp-tcp-listen-port PORT bench/plain_ryu.py

It reads nothing back, remembers nothing, and hears no error.  HOW: `objects`, as Ryu's documentation has it, or `bytes`
that were made once.
"""

from __future__ import annotations

import os
from typing import Any

from ryu.base.app_manager import RyuApp
from ryu.controller import ofp_event
from ryu.controller.handler import MAIN_DISPATCHER, set_ev_cls
from ryu.ofproto import ofproto_v1_4

FLOWS, HOW = int(os.environ["FLOWS"]), os.environ["HOW"]
CHUNK = 32 << 10  # bytes sent at once


class PlainRyu(RyuApp):  # type: ignore[misc, unused-ignore]
    OFP_VERSIONS = (ofproto_v1_4.OFP_VERSION,)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bytes = b""

    @set_ev_cls(ofp_event.EventOFPStateChange, MAIN_DISPATCHER)
    def connected(self, event: Any) -> None:
        datapath = event.datapath
        if HOW == "objects":
            for number in range(FLOWS):
                datapath.send_msg(self._flow(datapath, number))
        else:
            for at in range(0, len(self._made(datapath)), CHUNK):
                datapath.send(self._bytes[at : at + CHUNK])
        datapath.send_msg(datapath.ofproto_parser.OFPBarrierRequest(datapath))

    def _made(self, datapath: Any) -> bytes:
        if FLOWS and not self._bytes:
            flows = [self._flow(datapath, number) for number in range(FLOWS)]
            for flow in flows:
                datapath.set_xid(flow)
                flow.serialize()
            self._bytes = b"".join(flow.buf for flow in flows)
        return self._bytes

    @staticmethod
    def _flow(datapath: Any, number: int) -> Any:
        ofp, parser = datapath.ofproto, datapath.ofproto_parser
        source = (f"198.18.{number % 250}.0", "255.255.255.0")
        match = parser.OFPMatch(eth_type=0x800, ip_proto=6, ipv4_src=source, tcp_dst=1000 + number)
        todo = [parser.OFPInstructionActions(ofp.OFPIT_APPLY_ACTIONS, [parser.OFPActionOutput(ofp.OFPP_NORMAL)])]
        return parser.OFPFlowMod(datapath, table_id=12, priority=100, match=match, instructions=todo)
