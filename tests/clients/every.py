"""The clients that the tests run."""

from __future__ import annotations

from clients.client import Client
from clients.via_dots import Dots
from clients.via_mcp import Mcp
from clients.via_pydo import Pydo
from clients.via_python_digitalocean import PythonDigitalocean

CLIENTS: tuple[type[Client], ...] = (Pydo, PythonDigitalocean, Dots, Mcp)
