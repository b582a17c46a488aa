"""Databases that vanish, come back, are replaced, damaged, full, or silent, while a store is open."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from fakecore import ThreadRuntime

from firewall_app.policy.errors import StoreError
from firewall_app.policy.model import Droplet
from firewall_app.service.core import Core
from firewall_app.store import Store


def add(store: Store, *numbers: int) -> int:
    """Adds droplets; gives the revision."""
    policy, history = store.load()
    draft = policy.edit()
    for number in numbers:
        draft.put(Droplet(number))
    return store.commit(draft.changes, draft.counters, history.point).revision


def droplets(store: Store) -> list[int]:
    return sorted(store.load()[0].droplets)


def parts(path: Path) -> list[Path]:
    """A SQLite database and what belongs to it."""
    return [found for suffix in ("", "-wal", "-shm") if (found := path.with_name(path.name + suffix)).exists()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "firewall.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with closing(Store.open(f"sqlite:///{path}")) as opened:
        yield opened


def test_a_file_that_vanished_is_never_made_anew_and_used_again_when_it_is_back(store: Store, path: Path) -> None:
    add(store, 1)
    away = path.parent / "away"
    away.mkdir()
    for part in parts(path):
        part.rename(away / part.name)
    for call in (store.ping, store.load, lambda: add(store, 2), lambda: store.entries({}, 0, 1)):
        with pytest.raises(StoreError, match=r"firewall\.db is not there"):
            call()
    assert list(path.parent.iterdir()) == [away]
    for part in parts(away / path.name):
        part.rename(path.parent / part.name)
    assert add(store, 2) == 2
    assert droplets(store) == [1, 2]
    assert store.entries({}, 0, 1) == ([], 0)


def test_a_log_that_vanished_is_noticed_before_anything_is_lost(store: Store, path: Path) -> None:
    add(store, 1)
    path.with_name("firewall.db-wal").unlink()
    with pytest.raises(StoreError, match=r"firewall\.db-wal was removed while in use"):
        add(store, 2)
    store.close()
    with closing(Store.open(f"sqlite:///{path}")) as other:
        assert droplets(other) == [1]


def test_a_sound_database_in_place_of_another_is_taken_up(store: Store, path: Path) -> None:
    """Also beside what the former one left, which must be written neither over it nor away."""
    add(store, 1)
    other = path.with_name("other.db")
    with closing(Store.open(f"sqlite:///{other}")) as one:
        add(one, 7)
        add(one, 8)
    for part in parts(path):
        if part.name != path.name:
            shutil.copy(part, path.with_name("kept" + part.name.removeprefix(path.name)))
    other.rename(path)
    assert droplets(store) == [7, 8]
    assert store.entries({}, 0, 1) == ([], 0), "the other connection has followed, too"
    assert add(store, 9) == 3
    (left,) = path.parent.glob("firewall.db-wal.*")
    assert left.read_bytes() == path.with_name("kept-wal").read_bytes()
    store.close()
    with closing(Store.open(f"sqlite:///{path}")) as again:
        assert droplets(again) == [7, 8, 9]
    with closing(sqlite3.connect(path)) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("content", [b"", b"something else" * 1000], ids=["empty", "no database"])
def test_what_is_no_store_is_not_taken_for_one(store: Store, path: Path, content: bytes) -> None:
    add(store, 1)
    for part in parts(path):
        part.rename(part.with_name("away" + part.name.removeprefix(path.name)))
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"is not there, or empty|file is not a database"):
            store.load()
    assert path.read_bytes()[:14] == content[:14]
    path.unlink()
    for part in parts(path.with_name("away")):
        part.rename(part.with_name(path.name + part.name.removeprefix("away")))
    assert droplets(store) == [1]


def overwrite(path: Path) -> bytes:
    """Damages every page but the first; gives what was there."""
    was = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(len(was) - 4096))
    return was


def test_T174_a_database_whose_pages_were_overwritten_is_not_loaded(path: Path) -> None:
    with closing(Store.open(f"sqlite:///{path}")) as store:
        add(store, *range(1, 200))
    was = overwrite(path)
    with pytest.raises(StoreError, match=r"damaged|malformed"):
        Store.open(f"sqlite:///{path}")
    path.write_bytes(was)
    with closing(Store.open(f"sqlite:///{path}")) as store:
        assert len(droplets(store)) == 199


def test_T174_a_database_that_is_overwritten_while_in_use_takes_no_writes_until_a_sound_one_is_there(
    store: Store, path: Path
) -> None:
    add(store, *range(1, 200))
    sound = path.with_name("sound.db")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(sound)) as target:
        source.backup(target)
        source.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    overwrite(path)
    with closing(Store.open(f"sqlite:///{sound}")) as other:
        revision = add(other, 500)
    with pytest.raises(StoreError):
        add(store, 501)
    shutil.copy(sound, path.with_name("damaged"))
    overwrite(path.with_name("damaged"))
    path.with_name("damaged").rename(path)
    with pytest.raises(StoreError, match=r"damaged|malformed"):
        add(store, 501)
    sound.rename(path)
    assert add(store, 502) == revision + 1
    assert droplets(store) == [*range(1, 200), 500, 502]


def test_what_failed_before_its_commit_is_known_to_be_not_kept(store: Store, path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        store._database._engine.raw_connection().execute("PRAGMA busy_timeout=10")
        with pytest.raises(StoreError, match="locked") as failed:
            add(store, 1)
        assert not failed.value.may_be_kept


@contextmanager
def no_file_may_grow() -> Iterator[None]:
    """Every write to a file fails, as on a disk that has become read-only."""
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, was[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, was)


def test_T179_a_disk_that_takes_no_writes_is_told_and_nothing_is_half_kept(store: Store) -> None:
    add(store, 1)
    with no_file_may_grow():
        for _ in range(2):
            with pytest.raises(StoreError, match="disk I/O error") as failed:
                add(store, 2, 3)
            assert failed.value.may_be_kept, "it failed at the commit"
        assert droplets(store) == [1]
        with suppress(StoreError):
            store.ping()
    assert add(store, 4) == 2
    assert droplets(store) == [1, 4]


def test_T173_the_point_of_a_commit_whose_outcome_is_unknown_is_never_given_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another controller takes it over and gives it to switches; then the database is put back to before it."""
    with closing(Store.open(f"sqlite:///{path}")) as store:
        core = Core(*store.load(), store, ThreadRuntime())
        core.write(lambda draft: draft.put(Droplet(1)))
        with closing(sqlite3.connect(path.with_suffix(".old"))) as old, closing(sqlite3.connect(path)) as now:
            now.backup(old)
            taken_over = []

            def commit(*what: Any) -> None:
                taken_over.append(Store.commit(store, *what))
                raise StoreError("the connection broke")

            def away() -> None:
                raise StoreError("the connection broke")

            with monkeypatch.context() as broken:
                broken.setattr(store, "commit", commit)
                broken.setattr(store, "newest", away)
                with pytest.raises(StoreError, match="broke"):
                    core.write(lambda draft: draft.put(Droplet(2)))
            old.backup(now)
        core.follow(whole=True)
        assert list(core.policy.droplets) == [1]
        core.write(lambda draft: draft.put(Droplet(3)))
        assert core.revision == taken_over[0].revision
        assert not core.history.knows(taken_over[0])
