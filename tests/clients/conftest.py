"""Fixtures: the running program, an account for each test, and one test after the other with each client."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clients.client import Client
from clients.every import able
from clients.site import Site, Tenant, running

collect_ignore = ["ansible"]  # installed there, with tests of its own


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that has a client runs with every one that has the calls which it needs."""
    if "kind" in metafunc.fixturenames:
        kinds = able(metafunc.definition.get_closest_marker("needs").args)
        metafunc.parametrize("kind", kinds, ids=[kind.name for kind in kinds])


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="fw-") as directory, running(Path(directory)) as found:
        yield found


@pytest.fixture
def tenant(site: Site) -> Tenant:
    return site.tenant()


@pytest.fixture
def connect(kind: type[Client], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Client]]:
    """Makes clients of one kind: (tenant, token=the tenant's own)."""
    made: list[Client] = []

    def client(tenant: Tenant, token: str | None = None) -> Client:
        for name, value in kind.environment(tenant).items():
            monkeypatch.setenv(name, value)
        made.append(kind(tenant, token))
        return made[-1]

    yield client
    for one in made:
        one.close()


@pytest.fixture
def client(connect: Callable[..., Client], tenant: Tenant) -> Client:
    """A client that holds the token of an account of its own."""
    return connect(tenant)
