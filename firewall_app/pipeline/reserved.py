"""OpenFlow's reserved ports, by the names that the text form gives them (OpenFlow 1.4.0, 4.5)."""

from __future__ import annotations

IN_PORT, TABLE, NORMAL, FLOOD, ALL, CONTROLLER, LOCAL = range(0xFFFFFFF8, 0xFFFFFFFF)
NAMES = {
    "IN_PORT": IN_PORT, "TABLE": TABLE, "NORMAL": NORMAL, "FLOOD": FLOOD, "ALL": ALL, "CONTROLLER": CONTROLLER,
    "LOCAL": LOCAL,
}  # fmt: skip
FIRST = 0xFF00  # numbers from here on are no switch ports, also those of the 16 bits of OpenFlow 1.0
