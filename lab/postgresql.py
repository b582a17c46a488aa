"""`Server`: a PostgreSQL server of our own: temporary directory, unix socket, gone afterwards.

It can be stopped, killed and started again; what it was given outlives that.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from .leftovers import lives
from .system import LabError, run, tail, wait_until

USER = "firewall"


def binaries() -> Path | None:
    """The folder with the newest initdb that is installed."""
    found = list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return max(found, key=lambda path: float(path.parts[-3])).parent
    plain = shutil.which("initdb")
    return Path(plain).parent if plain else None


class Server:
    """One private cluster.  Without fsync, unless it is asked for: tests crash servers, not kernels."""

    def __init__(self, binaries: Path, fsync: bool = False) -> None:
        self._binaries = binaries
        self._fsync = fsync
        self._numbers = count(1)
        # A short path: a unix socket's name may not be longer than 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="pg"))
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
        try:
            self._run("initdb", "-D", self._data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
            self.start()
        except BaseException:
            shutil.rmtree(self.folder)
            raise

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def start(self) -> None:
        options = (
            f"-c listen_addresses= -c unix_socket_directories={self.folder} -c fsync={'on' if self._fsync else 'off'}"
        )
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", self._data, "-l", log, "-o", options, "-w", "-t", "60", "start")

    def stop(self, mode: str = "fast") -> None:
        """`immediate` is how it looks after a crash of the server."""
        self._run("pg_ctl", "-D", self._data, "-m", mode, "-w", "stop")

    def kill(self) -> None:
        """End all of its processes at once, as a crash of the machine would."""
        server = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        # The server first, or it would start again what it finds killed.
        os.kill(server, signal.SIGSTOP)
        pids = [int(pid) for pid in run("pgrep", "-P", str(server)).split()]
        for pid in (server, *pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until("the end of PostgreSQL", lambda: not any(map(lives, (server, *pids))))
        # A zombie whose parent is in no hurry has its number still, and the next server would take it for alive.
        for lock in ("data/postmaster.pid", ".s.PGSQL.5432.lock"):
            (self.folder / lock).unlink(missing_ok=True)

    def remove(self) -> None:
        with suppress(LabError):
            self.stop("immediate")
        shutil.rmtree(self.folder)

    close = remove

    def database(self) -> str:
        """The URL of what behaves like a new, empty database: a schema of its own, which is made much faster."""
        name = f"test{next(self._numbers)}"
        self.sql(f"CREATE SCHEMA {name}")
        return f"postgresql://{USER}@/postgres?host={self.folder}&options=-csearch_path%3D{name}"

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        import psycopg  # as late as the store does

        with psycopg.connect(host=str(self.folder), user=USER, dbname="postgres", autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _run(self, program: str, *arguments: str) -> str:
        # initdb and postgres refuse to run as root.
        who = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        # A file, not a pipe: the server inherits it from pg_ctl and would keep a pipe open for ever.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [*who, str(self._binaries / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                check=False,
            )
            output.seek(0)
            text = output.read()
        if done.returncode:
            raise LabError(f"{program} failed with status {done.returncode}: {text}\n{tail(self.folder / 'log')}")
        return text.strip()
