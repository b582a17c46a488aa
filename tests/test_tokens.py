"""The tokens command: over REST, and on a store, also beside a controller that runs."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from api_server import OPERATOR, Process
from test_app import said, start

from firewall_app.store import Store
from firewall_app.tokens import main
from lab.controller import Rest, free_port
from lab.system import wait_until


class Command:
    """The command with its first words; what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *where: str) -> None:
        self.capsys, self.where = capsys, where

    def __call__(self, *words: str, status: int = 0) -> str:
        self.capsys.readouterr()
        assert main([*self.where, *words]) == status
        out, self.said = self.capsys.readouterr()
        return out


def in_force(command: Command) -> dict[str, list[str]]:
    """The lines of `list`, by id."""
    lines = command("list").splitlines()
    assert lines[0].split() == ["ID", "ROLE", "ACCOUNT", "CREATED", "REVOKED", "NOTE"]
    return {line.split()[0]: line.split() for line in lines[1:]}


def test_over_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = Process()
    try:
        file = tmp_path / "token"
        file.write_text(OPERATOR + "\n")
        command = Command(capsys, "--api", f"http://127.0.0.1:{server.port}", "--token-file", str(file))
        secret = command("create", "--role", "tenant", "--account", "acme", "--note", "ci").strip()
        assert secret not in command.said
        ((token_id, line),) = in_force(command).items()
        assert line[1:3] == ["tenant", "acme"]
        assert server.call("GET", "/v2/droplets/201", token=secret).status == 200
        command("revoke", token_id)
        assert server.call("GET", "/v2/droplets/201", token=secret).status == 401
        assert in_force(command) == {}
        assert token_id in command("list", "--all")
        command("create", "--role", "tenant", status=1)
        assert "account" in command.said
        command("revoke", "none", status=1)
        assert "there is no token none" in command.said
        file.write_text("wrong")
        command("list", status=1)
        assert "401" in command.said
        for _ in range(201):
            server.call("POST", "/v1/tokens", {"role": "viewer"})
        file.write_text(OPERATOR)
        assert len(in_force(command)) == 201
    finally:
        server.stop()


def test_on_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path}/firewall.db"
    command = Command(capsys, "--database", url)
    command("list", status=1)
    assert "there is no store" in command.said
    assert not (tmp_path / "firewall.db").exists()
    Store.open(url).close()
    secret = command("create", "--role", "operator", "--note", "first of all").strip()
    ((first, _),) = in_force(command).items()
    command("revoke", first, status=1)
    assert "last operator's token" in command.said
    command("create", "--role", "operator")
    command("revoke", first)
    command("revoke", first)
    command("revoke", "none", status=1)
    for wrong in (("--account", ""), ("--account", "a b"), (), ("--account", "acme", "--note", "two\nlines")):
        command("create", "--role", "tenant", *wrong, status=1)
    store = Store.open(url)
    entries, total = store.entries({}, 0, 9)
    tokens = {token.id: token for token in store.tokens()}
    store.close()
    assert total == 3
    assert all("by command" in entry.who for entry in entries)
    assert secret not in repr((tokens, entries))
    assert len(tokens) == 2
    assert tokens[first].revoked_at is not None


@pytest.mark.process
def test_a_controller_that_runs_follows(tmp_path: Path) -> None:
    port, url = free_port(), f"sqlite:///{tmp_path}/firewall.db"
    process = start(tmp_path, f"database = {url}", wsapi_port=port)

    def command(*words: str) -> str:
        asked = [sys.executable, "-m", "firewall_app.tokens", "--database", url, *words]
        return subprocess.run(asked, check=True, capture_output=True, text=True, timeout=60).stdout

    try:
        said(process, "listening for switches")
        secret = command("create", "--role", "tenant", "--account", "acme").strip()
        wait_until("it is let in", lambda: Rest("127.0.0.1", port, secret).call("GET", "/v2/tags").status == 200, 30)
        (line,) = (line for line in command("list").splitlines() if "tenant" in line)
        command("revoke", line.split()[0])
        wait_until("it is not", lambda: Rest("127.0.0.1", port, secret).call("GET", "/v2/tags").status == 401, 30)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_help_says_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "python -m firewall_app.tokens --api http://" in capsys.readouterr().out
    for wrong in ([], ["list"], ["--api", "x", "--database", "y", "list"], ["--api", "http://x", "list"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2
