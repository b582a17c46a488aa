"""A connection to PostgreSQL that breaks, or falls silent, at any message of a commit: nothing is half kept.

After each, the policy in force is the one that the store holds, whatever the caller was told, and the next write works.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pytest
from fakecore import ThreadRuntime
from test_store import assert_same

from firewall_app.policy.errors import StoreError
from firewall_app.policy.model import Droplet
from firewall_app.service.core import Core
from firewall_app.store import Store
from firewall_app.store.impatient import ImpatientConnection

if TYPE_CHECKING:
    from postgresql import Server

pytest_plugins = ("postgresql",)
pytestmark = pytest.mark.postgresql


class Proxy:
    """Between a client and the server; counts the client's messages, and cuts or keeps back where it is told to."""

    def __init__(self, target: Path) -> None:
        self._target = str(target / ".s.PGSQL.5432")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self._open: list[socket.socket] = []
        self.silent = False  # nothing is passed on, and nothing is closed
        self.arm()

    def arm(self, before: int | None = None, after: int | None = None) -> None:
        """The message of number `before` will not reach the server; the answer to `after` will not reach the client."""
        self.messages, self._before, self._after, self._swallows = 0, before, after, False

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        hang_up(*self._open)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._open):
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            self._open += [client, server]
            for work, source, target in ((self._forth, client, server), (self._back, server, client)):
                self._threads.append(threading.Thread(target=self._until_it_ends, args=(work, source, target)))
                self._threads[-1].start()

    def _until_it_ends(self, work: Callable[..., None], source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            work(source, target)
        hang_up(source, target)

    def _forth(self, client: socket.socket, server: socket.socket) -> None:
        """Message by message.  The first of a connection has no type before its length; it is not counted."""
        with client.makefile("rb") as source:
            server.sendall(message(source, 4))
            while data := message(source, 5):
                self.messages += 1
                if self.messages == self._before:
                    return
                self._swallows = self._after is not None and self.messages >= self._after
                if not self.silent:
                    server.sendall(data)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        while data := server.recv(65536):
            if self._swallows:
                self.arm()
                return
            if not self.silent:
                client.sendall(data)


def message(source: BinaryIO, head_size: int) -> bytes:
    head = source.read(head_size)
    return head + source.read(int.from_bytes(head[-4:], "big") - 4) if len(head) == head_size else b""


def hang_up(*ends: socket.socket) -> None:
    for one in ends:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(postgresql: Server) -> Iterator[Proxy]:
    with closing(Proxy(postgresql.folder)) as made:
        yield made


@pytest.fixture
def direct(postgresql: Server) -> Iterator[Store]:
    """The store that the core uses, without the proxy."""
    with closing(Store.open(postgresql.database())) as store:
        yield store


@pytest.fixture
def core(direct: Store, proxy: Proxy) -> Iterator[Core]:
    query = {**direct._database.url.query, "host": "127.0.0.1", "port": str(proxy.port), "connect_timeout": "2",
             "sslmode": "disable", "gssencmode": "disable"}  # fmt: skip
    url = direct._database.url.set(query=query).render_as_string()
    with closing(Store.open(url)) as store:
        yield Core(*store.load(), store, ThreadRuntime())


def add(core: Core, number: int) -> bool:
    """Adds a droplet; whether that was acknowledged."""
    try:
        core.write(lambda draft: draft.put(Droplet(number)))
    except StoreError:
        return False
    return True


def agree(core: Core, direct: Store) -> None:
    policy, history = direct.load()
    assert_same(core.policy, policy)
    assert core.history == history


def test_a_commit_that_is_cut_at_any_message_is_kept_whole_or_not_at_all(
    core: Core, direct: Store, proxy: Proxy
) -> None:
    assert add(core, 1000)
    proxy.arm()
    assert add(core, 1001)
    total, kept = proxy.messages, []
    for where in ("before", "after"):
        for number in range(1, total + 8):  # not every commit has as many: statements come to be prepared
            droplet = number + 100 * (where == "after")
            proxy.arm(**{where: number})
            acknowledged = add(core, droplet)
            proxy.arm()
            kept.append(droplet in direct.load()[0].droplets)
            assert acknowledged == kept[-1], (where, number)
            agree(core, direct)
            assert add(core, 500 + droplet), (where, number)
            agree(core, direct)
    assert kept.count(False) >= total
    assert True in kept


def test_a_server_that_falls_silent_is_given_up_and_found_again(
    core: Core, direct: Store, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImpatientConnection, "patience", 0.5)
    assert add(core, 1)
    proxy.silent = True
    assert not add(core, 2)
    assert sorted(core.policy.droplets) == [1]
    assert core.ready() == ["store: not reachable"]
    proxy.silent = False
    assert add(core, 3)
    agree(core, direct)
    assert sorted(core.policy.droplets) == [1, 3]
