"""The lease on both databases: one controller at a time, whatever happens to the one before."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine

from firewall_app.history import Point
from firewall_app.policy.errors import Standby, StoreError
from firewall_app.policy.model import Droplet
from firewall_app.records import Entry, Outcome, Token
from firewall_app.store import Lease, Store
from lab.system import wait_until

if TYPE_CHECKING:
    from postgresql import Server

pytest_plugins = ("postgresql",)
NOW = datetime(2026, 1, 2, tzinfo=UTC)
LONG_AGO, SOON = 1_000_000, 4_000_000_000
Cut = Callable[[], None]


class Place:
    """A database that controllers share, and a way to take the lock away from whoever has it."""

    def __init__(self, url: str, cut: Cut) -> None:
        self.url, self.cut = url, cut

    def sql(self, statement: str) -> None:
        engine = create_engine(self.url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place(f"sqlite:///{tmp_path}/fw.db", (tmp_path / "fw.db-lease").unlink)
    server: Server = request.getfixturevalue("postgresql")
    url = server.database()
    schema = re.search(r"search_path%3D(\w+)", url)[1]
    held = f"FROM pg_locks WHERE locktype = 'advisory' AND objid = '{schema}'::regnamespace"

    def cut() -> None:
        assert server.sql(f"SELECT pg_terminate_backend(pid) {held}") == [(True,)]
        wait_until("the end of the session", lambda: not server.sql(f"SELECT pid {held}"), 30)

    return Place(url, cut)


class Controller:
    """What of a controller there is to the store."""

    def __init__(self, url: str, name: str, clock: float | None = None) -> None:
        self.lease = Lease(url, f"http://{name}", **({} if clock is None else {"clock": lambda: clock}))
        self.waits: list[str] = []
        try:
            self.store = Store.leased(url, self.lease, self.wait)
        except BaseException:
            self.lease.close()
            raise
        self.token = self.lease.take()

    def wait(self, why: str) -> None:
        self.waits.append(why)
        raise TimeoutError

    def write(self, number: int) -> int:
        policy, history = self.store.load()
        draft = policy.edit()
        draft.put(Droplet(number))
        return self.store.commit(draft.changes, draft.counters, history.point).revision

    def close(self) -> None:
        self.lease.close()
        self.store.close()


def comes_to(lease: Lease) -> int:
    """The token, once the server has noticed that the one before is gone."""
    return wait_until("the lease", lease.take, 30)


@pytest.fixture
def first(place: Place) -> Iterator[Controller]:
    with closing(Controller(place.url, "first")) as controller:
        yield controller


@pytest.fixture
def second(place: Place, first: Controller) -> Iterator[Controller]:
    with closing(Controller(place.url, "second")) as controller:
        yield controller


def test_T171_one_has_the_lease_the_other_knows_who_and_gets_it_as_soon_as_that_one_ends(
    first: Controller, second: Controller
) -> None:
    assert first.token is not None
    assert (second.token, second.lease.take(), second.lease.url) == (None, None, "http://first")
    assert first.write(1) == 1
    with pytest.raises(Standby, match="http://first"):
        second.write(2)
    first.lease.close()
    assert comes_to(second.lease) > first.token
    assert second.write(2) == 2
    assert second.lease.take() == second.lease.token  # a look changes nothing


def test_T171_a_standby_writes_nothing_at_all(second: Controller) -> None:
    entry = Entry(NOW, "", "", "", "", None, "", "", "", Outcome.DONE)
    writes = (
        lambda: second.write(1),
        lambda: second.store.record(entry),
        lambda: second.store.add_token(Token("t", "h", "viewer", None, "", NOW)),
        lambda: second.store.revoke_token("t", NOW),
        lambda: second.store.ping(write=True),
        lambda: second.store.supersede(Point(7, 8)),
    )
    for write in writes:
        with pytest.raises(Standby):
            write()
    assert (second.store.newest().revision, second.store.tokens(), second.store.entries({}, 0, 9)) == (0, [], ([], 0))
    second.store.ping()


def test_T172_the_deposed_one_cannot_commit_though_it_has_not_noticed(
    place: Place, first: Controller, second: Controller
) -> None:
    place.cut()
    assert comes_to(second.lease) > first.token
    with pytest.raises(Standby, match="http://second"):
        first.write(1)
    assert second.write(1) == 1
    assert first.lease.take() is None
    second.lease.close()
    assert comes_to(first.lease) > second.lease.holder.token
    assert first.write(2) == 2


def test_T172_nobody_takes_the_lease_between_the_check_of_a_commit_and_its_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("firewall_app.store.database.BUSY_SECONDS", 0.2)
    with closing(Controller(place.url, "first")) as first, closing(Lease(place.url)) as other:
        place.cut()
        with first.store._database.writing("hang"), pytest.raises(StoreError, match=r"lock timeout|is locked"):
            other.take()
        assert other.take() > first.token


def test_one_whose_lock_was_cut_goes_on_when_nobody_came_between(place: Place, first: Controller) -> None:
    place.cut()
    assert first.write(1) == 1
    assert first.lease.take() == first.token
    assert first.write(2) == 2


def test_the_token_only_grows_whatever_the_clock_says(place: Place) -> None:
    tokens = []
    for clock in (SOON, LONG_AGO, LONG_AGO, SOON + 9):
        with closing(Controller(place.url, "x", clock)) as controller:
            tokens.append(comes_to(controller.lease))
    assert tokens == [SOON, SOON + 1, SOON + 2, SOON + 9]


def test_a_database_that_was_lost_or_restored_gets_a_greater_token(place: Place, first: Controller) -> None:
    for statement in ("UPDATE lease SET token = 5", "DELETE FROM lease"):
        place.sql(statement)
        with pytest.raises(Standby):
            first.write(1)
        assert first.lease.take() >= first.token
        assert first.write(first.store.newest().revision + 1)


HOLD = """
import sys
from firewall_app.store import Lease, Store
lease = Lease(sys.argv[1], "http://dead")
store = Store.leased(sys.argv[1], lease, print)
print(lease.take(), flush=True)
sys.stdin.read()
"""


@pytest.mark.process
def test_T171_the_death_of_the_holder_gives_the_lease_free_at_once_and_a_frozen_one_keeps_it(place: Place) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, place.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        token = int(process.stdout.readline())
        process.send_signal(signal.SIGSTOP)
        with closing(Controller(place.url, "next")) as controller:
            assert controller.token is None
            process.kill()
            process.wait()
            assert comes_to(controller.lease) > token


def test_a_newer_program_waits_for_the_older_one_to_end_and_only_then_upgrades(
    place: Place, first: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.sql("UPDATE alembic_version SET version_num = '0006'")
    place.sql("DROP TABLE lease")
    with pytest.raises(TimeoutError):
        Controller(place.url, "newer")
    first.lease.close()

    def newer() -> Controller | None:
        with suppress(TimeoutError):
            return Controller(place.url, "newer")
        return None

    with closing(wait_until("the newer program", newer, 30)) as controller:
        assert controller.write(1) == 1


def test_two_links_to_one_file_are_one_lease(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "there" / "fw.db")
    (tmp_path / "there" / "fw.db").touch(0o600)
    with (
        closing(Lease(f"sqlite:///{tmp_path}/there/fw.db")) as one,
        closing(Lease(f"sqlite:///{tmp_path}/link.db")) as two,
    ):
        assert (one.lock(), two.lock()) == (True, False)


def test_a_lock_file_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "fw.db-lease").mkdir()
    with (
        closing(Lease(f"sqlite:///{tmp_path}/fw.db")) as lease,
        pytest.raises(StoreError, match=r"-lease: .*directory"),
    ):
        lease.lock()
