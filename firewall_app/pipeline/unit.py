"""Units: the parts of which a hypervisor's flows are the sum.

Each is a small frozen value (`PortGuards(slot=7, ofport=3, mac=..., ...)`) that renders to its flows by itself, from
its own fields alone.  Comparing units by value thus tells which flows may differ, without rendering the rest.  Which
units a policy means is `compile.py`; they are defined in `unit_host.py`, `unit_port.py` and `unit_rule.py`.

Source of the flows: the listing in docs/pipeline.md, and the talk.  ct_state semantics: ovs-fields(7), "Connection
Tracking Fields".  Actions: ovs-actions(7).
"""

from __future__ import annotations

from .system import SystemRule
from .unit_host import TURNS, Fence, Flood, Generation, Static, Turn, Uplinks, next_generation
from .unit_port import PickUp, PortFirewalls, PortGuards, PortProtection, Protection
from .unit_rule import AddressSet, FirewallSets, RuleFlows, SetMembers, is_plain

__all__ = [
    "TURNS",
    "AddressSet", "Fence", "FirewallSets", "Flood", "Generation",
    "PickUp", "PortFirewalls", "PortGuards", "PortProtection",
    "Protection", "RuleFlows", "SetMembers", "Static", "SystemRule", "Turn", "Unit", "UnitKey", "Uplinks", "is_plain",
    "next_generation",
]  # fmt: skip

Unit = (
    Static
    | Generation
    | Turn
    | Fence
    | Uplinks
    | Flood
    | PortGuards
    | PortProtection
    | PortFirewalls
    | RuleFlows
    | SetMembers
    | FirewallSets
)
UnitKey = tuple[str, str]
