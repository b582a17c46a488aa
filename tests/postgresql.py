"""A PostgreSQL server of our own for the tests.

A pytest plugin: a test module that says `pytest_plugins = ("postgresql",)` has the fixture `postgresql`.  The server
is started once for all tests; every test asks it for a database of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab.postgresql import Server, binaries


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    found = binaries()
    if found is None:
        problem = "no PostgreSQL server is installed (Debian: apt install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(problem)
        pytest.skip(problem)
    server = Server(found)
    yield server
    server.remove()
