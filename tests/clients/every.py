"""The clients that the tests run."""

from __future__ import annotations

from collections.abc import Iterable

from clients.client import Client
from clients.via_dots import Dots
from clients.via_mcp import Mcp
from clients.via_pydo import Pydo
from clients.via_python_digitalocean import PythonDigitalocean

CLIENTS: tuple[type[Client], ...] = (Pydo, PythonDigitalocean, Dots, Mcp)


def able(calls: Iterable[str]) -> list[type[Client]]:
    """Those that have all these calls."""
    return [kind for kind in CLIENTS if all(hasattr(kind, call) for call in calls)]
