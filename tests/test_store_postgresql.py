"""What only PostgreSQL has: a server that goes away, several controllers at a time, a driver that may be missing."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from firewall_app.policy.errors import StoreError
from firewall_app.policy.model import Droplet
from firewall_app.store import Store, database

if TYPE_CHECKING:
    from postgresql import Server

pytest_plugins = ("postgresql",)
pytestmark = pytest.mark.postgresql


@pytest.fixture
def url(postgresql: Server) -> str:
    return postgresql.database()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(Store.open(url)) as opened:
        yield opened


def add(store: Store, number: int) -> int:
    policy, history = store.load()
    draft = policy.edit()
    draft.put(Droplet(number))
    return store.commit(draft.changes, draft.counters, history.point).revision


def test_a_server_that_crashes_keeps_what_was_acknowledged_and_is_found_again(postgresql: Server, store: Store) -> None:
    assert [add(store, number) for number in (1, 2, 3)] == [1, 2, 3]
    postgresql.stop("immediate")
    try:
        for call in (store.ping, store.load, lambda: add(store, 4)):
            with pytest.raises(StoreError):
                call()
    finally:
        postgresql.start()
    store.ping()
    assert add(store, 5) == 4
    assert sorted(store.load()[0].droplets) == [1, 2, 3, 5]


def test_a_connection_that_was_cut_is_replaced(postgresql: Server, store: Store) -> None:
    add(store, 1)
    others = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    assert postgresql.sql(f"SELECT pg_terminate_backend(pid) {others}") == [(True,)] * 2
    assert store.entries({}, 0, 1) == ([], 0)
    assert add(store, 2) == 2


def test_another_controller_that_hangs_is_an_error_not_a_hang(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 1)
    with closing(Store.open(url)) as store, closing(Store.open(url)) as other:
        with other._database.writing("hang") as connection:
            connection.exec_driver_sql("UPDATE counters SET value = value")
            with pytest.raises(StoreError, match="lock timeout"):
                add(store, 1)
        assert add(store, 1) == 1


def test_what_the_server_cannot_store_is_refused(store: Store) -> None:
    draft = store.load()[0].edit()
    draft.put(Droplet(1, name="a\0b"))
    with pytest.raises(StoreError, match="NUL"):
        store.commit(draft.changes, draft.counters, store.newest())
    assert add(store, 1) == 1


def test_a_server_that_is_not_there_is_an_error_without_the_password() -> None:
    with pytest.raises(StoreError, match="cannot open in postgresql") as caught:
        Store.open("postgresql://firewall:secret@127.0.0.1:1/firewall")
    assert "secret" not in str(caught.value)


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"install cloud-firewall\[postgresql\]"):
        Store.open("postgresql://localhost/firewall")


def test_what_was_acknowledged_survives_the_death_of_a_controller(url: str) -> None:
    from test_store_crash import check, writer

    for lines in (1, 7, 20):
        with writer(url) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(lines)][-1]
            os.kill(process.pid, signal.SIGKILL)
            rest = process.stdout.read().split()
            assert process.wait() == -signal.SIGKILL
        last = int(rest[-1] if rest else said)
        assert last <= check(url) <= last + 1


def test_the_short_scheme_is_understood(url: str) -> None:
    Store.open(url.replace("postgresql:", "postgres:")).close()
