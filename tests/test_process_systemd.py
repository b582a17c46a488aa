"""What systemd is told, over a real socket, and the unit that it is given."""

from __future__ import annotations

import configparser
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import firewall_app
from firewall_app import systemd
from lab.controller import Controller, Rest

UNIT = Path(firewall_app.__file__).parent / "systemd" / "cloud-firewall.service"
END_SECONDS = 4.7  # as firewall_app.process, which only Ryu can import


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(30)
        listener.bind("\0" + address[1:] if address[0] == "@" else address)
        yield listener


@pytest.fixture(params=["path", "abstract"])
def listener(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@{tmp_path}"
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with listening(address) as found:
        yield found


def test_variables_are_lines_of_one_datagram(listener: socket.socket) -> None:
    assert systemd.notify(READY=1, STATUS="3 of 4\nREADY=0\x0b connected")
    assert listener.recv(4096) == b"READY=1\nSTATUS=3 of 4 READY=0 connected"


def test_a_socket_that_is_full_holds_nobody(listener: socket.socket) -> None:
    told = 0
    while systemd.notify(WATCHDOG=1):
        told += 1
        assert told < 100_000
    assert told


@pytest.mark.parametrize("address", [None, "", "relative", "/no/such/socket", "@nobody-listens", "vsock:2:1"])
def test_without_systemd_nothing_happens(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not systemd.notify(READY=1)


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [("30000000", None, 30.0), ("500000", "", None), ("x", None, None), ("0", None, None), ("30000000", "1", None),
     (None, None, None)],
)  # fmt: skip
def test_the_watchdog_is_for_the_process_that_systemd_has_started(
    usec: str | None, pid: str | None, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert systemd.watchdog() == seconds


@pytest.mark.process
def test_the_program_tells_systemd_how_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{tmp_path}")
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with listening(f"@{tmp_path}") as listener:
        controller = Controller(tmp_path)
        try:
            controller.start()
            first = listener.recv(4096).decode().splitlines()
            assert first == ["READY=1", "STATUS=0 of 0 hypervisors connected, 0 in sync; policy revision 0"]
            # Whoever is told that it is ready can connect.
            socket.create_connection((controller.host, controller.openflow_port), timeout=30).close()
            assert Rest(controller.host, controller.rest.port).call("GET", "/readyz").status == 200
            assert controller.call("PUT", f"/v1/hypervisors/{1:016x}", {"name": "hv1"}).status == 201
            alive = ["WATCHDOG=1", "STATUS=0 of 1 hypervisors connected, 0 in sync; policy revision 1"]
            while listener.recv(4096).decode().splitlines() != alive:
                pass
            assert listener.recv(4096).decode().splitlines() == alive
        finally:
            assert controller.stop() == 0
        while (last := listener.recv(4096).decode().splitlines()) != ["STOPPING=1", "STATUS=ending"]:
            assert last == alive


# --------------------------------------------------------------------------------------------- the unit


@pytest.fixture(scope="module")
def unit() -> dict[str, list[str]]:
    """Its settings, each with all of its values."""
    parser = configparser.RawConfigParser(strict=False, delimiters="=", dict_type=dict)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    assert parser.sections() == ["Unit", "Service", "Install"]
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, sign, value = line.partition("=")
        if sign and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_is_told_when_the_program_is_ready_and_starts_it_again(unit: dict[str, list[str]]) -> None:
    assert unit["Type"] == ["notify"]
    assert unit["Restart"] == ["on-failure"]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert int(unit["WatchdogSec"][0]) >= 20  # comparing large policies holds the loop for moments, never so long
    assert END_SECONDS < int(unit["TimeoutStopSec"][0]) <= 10


def test_the_units_limit_is_beyond_the_programs() -> None:
    source = Path(firewall_app.__file__).with_name("process.py").read_text()
    assert f"END_SECONDS = {END_SECONDS}" in source


def test_the_unit_starts_the_program_with_its_configuration(unit: dict[str, list[str]]) -> None:
    program, *arguments = shlex.split(unit["ExecStart"][0])
    assert program.endswith("/.venv/bin/ryu-manager")
    assert arguments == ["--config-file", "${CREDENTIALS_DIRECTORY}/firewall.conf", "firewall_app.app"]
    assert unit["LoadCredential"] == ["firewall.conf:/etc/firewall/firewall.conf"]


def test_the_unit_gives_the_program_no_more_than_it_needs(unit: dict[str, list[str]]) -> None:
    for name in (
        "DynamicUser", "NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateUsers", "ProtectClock",
        "ProtectHostname", "ProtectControlGroups", "ProtectKernelLogs", "ProtectKernelModules", "LockPersonality",
        "ProtectKernelTunables", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "MemoryDenyWriteExecute",
    ):  # fmt: skip
        assert unit[name] == ["yes"], name
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == [""]
    assert unit["RestrictAddressFamilies"] == ["AF_INET AF_INET6 AF_UNIX"]
    assert unit["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    assert unit["UMask"] == ["0077"]
    assert int(unit["LimitNOFILE"][0]) >= 10_000  # a thousand hypervisors, a thousand clients
