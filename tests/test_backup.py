"""The backup command: between both databases, beside a writer, and what it refuses."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from test_store import assert_same, one_of_each, put, raw
from test_store_faults import add, droplets

from firewall_app.backup import main
from firewall_app.history import History
from firewall_app.policy.model import Droplet
from firewall_app.policy.policy import Policy
from firewall_app.records import Entry, Key, Note, Outcome, Token
from firewall_app.store import Store

if TYPE_CHECKING:
    from postgresql import Server

pytest_plugins = ("postgresql",)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]
Fresh = Callable[[str], str]


@pytest.fixture
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Fresh:
    """Gives the URL of a new database of a kind whenever it is called."""
    numbers = count(1)

    def made(kind: str) -> str:
        if kind == "postgresql":
            server: Server = request.getfixturevalue("postgresql")
            return server.database()
        return f"sqlite:///{tmp_path}/store{next(numbers)}.db"

    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.backup"


def line(number: int) -> Entry:
    return Entry(NOW, f"r{number}", "", "ops", "operator", None, "::1", "PUT", "/x", Outcome.DONE)


def filled(url: str) -> tuple[Policy, History]:
    """A store with something of everything; the newest line of its audit log was deleted."""
    with closing(Store.open(url)) as store:
        put(store, *one_of_each())
        policy, history = store.load()
        draft = policy.edit()
        draft.put(Droplet(77))
        note = Note(line(1), Key("ops", "k1", "f", NOW), "77")
        store.commit(draft.changes, draft.counters, history.point, [note])
        store.add_token(Token("t1", "h1", "operator", None, "first", NOW), line(2))
        store.add_token(Token("t2", "h2", "tenant", "acme", "", NOW, revoked_at=NOW), line(3))
        found = store.load()
    raw(url, "DELETE FROM audit WHERE request_id = 'r3'")
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main(list(map(str, words))) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("backup: ")
    return error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", KINDS)
def test_everything_is_in_a_backup_and_comes_back_whole(
    fresh: Fresh, source: str, kind: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, target = fresh(source), fresh(kind)
    policy, history = filled(url)
    assert main(["create", "--database", url, str(file)]) == 0
    with closing(Store.open(url)) as store:
        lines, tokens = store.entries({}, 0, 9), store.tokens()
        put(store, Droplet(78))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [found.name for found in file.parent.iterdir() if found.name.startswith((".", "a."))] == ["a.backup"]
    before = file.read_bytes()
    assert main(["check", str(file)]) == 0
    assert f"revision {history.revision} of" in capsys.readouterr().out
    assert main(["restore", "--database", target, str(file)]) == 0
    assert f"changed after revision {history.revision}" in capsys.readouterr().out
    assert file.read_bytes() == before
    with closing(Store.open(target)) as store:
        assert not store.is_new
        found = store.load()
        assert_same(found[0], policy)
        assert (found[1], found[0].counters) == (history, policy.counters)
        assert store.tokens() == tokens
        assert store.made_with(Key("ops", "k1", "f", NOW)) == ("f", "77")
        (restored, *others), total = store.entries({}, 0, 9)
        assert (others, total) == (lines[0], lines[1] + 1)
        assert restored.path == "backup restore a.backup"
        assert restored.number == 4, "the number of a line that was deleted is not given again"
        assert put(store, Droplet(79))[1].revision == history.revision + 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_backup_beside_a_writer_is_of_one_moment(fresh: Fresh, kind: str, file: Path) -> None:
    """Each commit adds one droplet and takes the one before away: any mixture of two moments shows."""
    url = fresh(kind)
    written, enough = threading.Event(), threading.Event()

    def write() -> None:
        with closing(Store.open(url)) as store:
            policy, history = store.load()
            point = history.point
            while not enough.is_set():
                draft = policy.edit()
                draft.put(Droplet(point.revision + 1))
                if point.revision:
                    draft.drop(policy.droplets[point.revision])
                changes, counters = draft.changes, draft.counters
                policy, point = draft.done(), store.commit(changes, counters, point)
                written.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert written.wait(30)
        for number in range(2):
            copy = file.with_name(f"{number}.backup")
            assert main(["create", "--database", url, str(copy)]) == 0
            target = f"sqlite:///{file.parent}/target{number}.db"
            assert main(["restore", "--database", target, str(copy)]) == 0
            with closing(Store.open(target)) as store:
                assert droplets(store) == [store.newest().revision]
    finally:
        enough.set()
        writer.join()


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_holds_something_is_replaced_only_when_told_and_kept(
    fresh: Fresh, kind: str, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    url = fresh(kind)
    with closing(Store.open(url)) as store:
        add(store, 1)
    assert main(["create", "--database", url, str(file)]) == 0
    with closing(Store.open(url)) as store:
        add(store, 2)
        command = [sys.executable, "-m", "firewall_app.backup", "restore", "--replace", "--database", url, str(file)]
        done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert "in use: stop the controller" in done.stderr
        assert droplets(store) == [1, 2]
    assert "holds 2 droplets" in refused(capsys, "restore", "--database", url, file)
    with closing(Store.open(url)) as store:
        assert droplets(store) == [1, 2]
    assert main(["restore", "--replace", "--database", url, str(file)]) == 0
    with closing(Store.open(url)) as store:
        assert (droplets(store), store.newest().revision) == ([1], 1)
    (aside,) = file.parent.glob("*before-*")
    assert str(aside) in capsys.readouterr().out
    kept = f"sqlite:///{aside}"
    if kind == "postgresql":
        kept = f"sqlite:///{aside}.db"
        assert main(["restore", "--database", kept, str(aside)]) == 0
    with closing(Store.open(kept)) as store:
        assert droplets(store) == [1, 2]


def test_a_store_that_was_killed_is_kept_with_its_log(file: Path) -> None:
    """What a killed controller committed last is in the write-ahead log alone."""
    path = file.with_name("store.db")
    url = f"sqlite:///{path}"
    code = f"""
import os, sys; sys.path[:0] = {sys.path!r}
from test_store_faults import add; from firewall_app.store import Store
store = Store.open({url!r}); add(store, 1); os.kill(os.getpid(), 9)"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert path.with_name("store.db-wal").stat().st_size
    other = file.with_name("other.db")
    with closing(Store.open(f"sqlite:///{other}")) as store:
        add(store, 5)
    assert main(["create", "--database", f"sqlite:///{other}", str(file)]) == 0
    with path.open("r+b") as damaged:
        damaged.write(b"no header")
    assert main(["restore", "--replace", "--database", url, str(file)]) == 0
    with closing(Store.open(url)) as store:
        assert droplets(store) == [5]
    (aside,) = (found for found in path.parent.glob("store.db.before-*") if not found.name.endswith("-wal"))
    with aside.open("r+b") as damaged:
        damaged.write(b"SQLite fo")
    with closing(Store.open(f"sqlite:///{aside}")) as store:
        assert droplets(store) == [1]


def test_a_restore_that_fails_at_any_step_leaves_the_store_as_it_was(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file.with_name("store.db")
    url = f"sqlite:///{path}"
    with closing(Store.open(url)) as store:
        add(store, 1)
    assert main(["create", "--database", url, str(file)]) == 0
    with closing(Store.open(url)) as store:
        add(store, 2)
    failures = 0
    for name in ("rename", "hardlink_to", "unlink"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, fails(getattr(Path, name)))
            if main(["restore", "--replace", "--database", url, str(file)]):
                failures += 1
                with closing(Store.open(url)) as store:
                    assert droplets(store) == [1, 2]
                assert {found.name for found in path.parent.iterdir()} == {"store.db", "a.backup"}
    assert failures == 3
    assert capsys.readouterr().err.count("backup: cannot restore into") == failures


def fails(step: Callable[..., object]) -> Callable[..., object]:
    """As on a disk that fails; what is begun can be taken back."""

    def failing(path: Path, *arguments: object, **named: object) -> object:
        if step.__name__ == "unlink" and not path.name.endswith("db-shm"):
            return step(path, *arguments, **named)
        raise OSError(5, "Input/output error")

    return failing


@pytest.mark.parametrize("at", [0, 4096, 5000])
def test_a_damaged_backup_is_told_and_restores_nothing(at: int, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{file.parent}/store.db"
    with closing(Store.open(url)) as store:
        put(store, *(Droplet(n, name="x" * 200) for n in range(1, 100)))
    assert main(["create", "--database", url, str(file)]) == 0
    was = file.read_bytes()
    where = was.index(b"x" * 200) if at == 5000 else at
    file.write_bytes(was[:where] + bytes(byte ^ 1 for byte in was[where : where + 20]) + was[where + 20 :])
    target = file.with_name("target.db")
    for words in (["check", file], ["restore", "--database", f"sqlite:///{target}", file]):
        assert "backup: " in refused(capsys, *words)
    assert not target.exists()
    assert not list(file.parent.glob(".*"))


def test_what_is_no_backup_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = f"sqlite:///{file.parent}/target.db"
    store = file.with_name("store.db")
    Store.open(f"sqlite:///{store}").close()
    for wrong, words in ((file, "there is no file"), (store, "is no backup"), (file.parent, "there is no file")):
        assert words in refused(capsys, "restore", "--database", target, wrong)
    assert "is not there" in refused(capsys, "create", "--database", target, file)
    assert not file.with_name("target.db").exists()
    assert main(["create", "--database", f"sqlite:///{store}", str(file)]) == 0
    assert "exists already" in refused(capsys, "create", "--database", f"sqlite:///{store}", file)
    with closing(sqlite3.connect(store)) as plain:
        plain.execute("UPDATE alembic_version SET version_num = '9999'")
        plain.commit()
    newer = refused(capsys, "create", "--database", f"sqlite:///{store}", file.with_name("newer.backup"))
    assert "a newer program has written it" in newer


def test_a_backup_of_an_earlier_version_is_restored_and_its_store_left_as_it_is(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A backup command of tomorrow must not upgrade the store of a controller of today."""
    path = file.with_name("store.db")
    with closing(Store.open(f"sqlite:///{path}")) as store:
        add(store, 1)
    assert main(["create", "--database", f"sqlite:///{path}", str(file)]) == 0
    with closing(sqlite3.connect(path)) as plain:
        plain.execute("DROP TABLE external_peers")
        plain.execute("UPDATE alembic_version SET version_num = '0004'")
        plain.commit()
    assert "an older one wrote it" in refused(
        capsys, "create", "--database", f"sqlite:///{path}", file.with_name("b.backup")
    )
    with closing(sqlite3.connect(path)) as plain:
        assert plain.execute("SELECT version_num FROM alembic_version").fetchall() == [("0004",)]


def test_a_directory_keeps_the_newest(file: Path) -> None:
    config, path, folder = file.with_name("fw.conf"), file.with_name("store.db"), file.with_name("kept")
    folder.mkdir()
    (folder / "firewall-mine.backup").touch()
    old = [folder / f"firewall-2020010{day}T000000Z.backup" for day in (1, 2, 3)]
    for one in old:
        one.touch()
    config.write_text(f"[DEFAULT]\nverbose = true\n[firewall]\ndatabase = sqlite:///{path}\n")
    Store.open(f"sqlite:///{path}").close()
    assert main(["create", "--config-file", str(config), "--directory", str(folder), "--keep", "2"]) == 0
    left = sorted(found.name for found in folder.iterdir())
    assert left[:1] == [old[2].name]
    assert len(left) == 3
    assert left[2] == "firewall-mine.backup"
    assert main(["check", str(folder / left[1])]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_root_restores_belongs_to_whom_the_store_belonged(file: Path) -> None:
    path = file.with_name("store.db")
    url = f"sqlite:///{path}"
    with closing(Store.open(url)) as store:
        add(store, 1)
    assert main(["create", "--database", url, str(file)]) == 0
    os.chown(path, 65534, 65534)
    assert main(["restore", "--replace", "--database", url, str(file)]) == 0
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)


def test_help_and_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "python -m firewall_app.backup restore --config-file" in capsys.readouterr().out
    store = ("--database", "sqlite:///x.db")
    for wrong in (
        [], ["create"], ["create", *store], ["create", *store, "f", "--directory", "d"],
        ["create", *store, "f", "--keep", "3"], ["create", *store, "--directory", "d", "--keep", "0"], ["check"],
        ["restore", "f"], ["restore", *store],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2
    assert "there is no file" in refused(capsys, "create", "--config-file", "/no/such.conf", "f")
