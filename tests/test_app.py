"""The program as it is started: plain ryu-manager, a configuration file, an environment."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from lab.controller import Controller, Rest, free_port

pytestmark = pytest.mark.process
ROOT = Path(__file__).parent.parent
RYU = Path(sys.executable).parent / "ryu-manager"


def start(
    directory: Path, *lines: str, token: str | None = None, stdin: int | None = None, **default: object
) -> subprocess.Popen[str]:
    """ryu-manager with a configuration of its own, not waited for."""
    settings = {"ofp_listen_host": "127.0.0.1", "ofp_tcp_listen_port": free_port(), "wsapi_host": "127.0.0.1",
                "wsapi_port": free_port(), **default}  # fmt: skip
    text = ["[DEFAULT]", *(f"{k} = {v}" for k, v in settings.items()), "[firewall]", *lines]
    (directory / "fw.conf").write_text("\n".join(text) + "\n")
    environment = {k: v for k, v in os.environ.items() if k != "FIREWALL_OPERATOR_TOKEN"}
    if token is not None:
        environment["FIREWALL_OPERATOR_TOKEN"] = token
    return subprocess.Popen(
        [RYU, "--config-file", directory / "fw.conf", "firewall_app.app"],
        env=environment, cwd=directory, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def ends(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, output


def said(process: subprocess.Popen[str], words: str) -> str:
    """What it printed until a line with `words`."""
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return "".join(lines)
    raise AssertionError(f"it ended without saying {words!r}:\n{''.join(lines)}")


def test_a_first_token_is_made_once_and_readable_by_its_owner_alone(tmp_path):
    port = free_port()
    lines = (f"database = sqlite:///{tmp_path}/fw.db",)
    process = start(tmp_path, *lines, wsapi_port=port)
    try:
        log = said(process, "listening for switches")
        path = tmp_path / "fw.token"
        assert str(path) in log
        token = path.read_text().strip()
        assert token not in log
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert Rest("127.0.0.1", port, token).call("GET", "/v1/hypervisors").status == 200
        assert Rest("127.0.0.1", port, token[:-1]).call("GET", "/v1/hypervisors").status == 401
        assert Rest("127.0.0.1", port, "").call("GET", "/v1/hypervisors").status == 401
        assert Rest("127.0.0.1", port, "").call("GET", "/healthz").status == 200
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    hashes = [row[0] for row in sqlite3.connect(tmp_path / "fw.db").execute("select hash from tokens")]
    assert len(hashes) == 1
    assert token not in hashes[0]
    again = start(tmp_path, *lines, wsapi_port=port)
    try:
        assert "first operator's token" not in said(again, "listening for switches")
        assert Rest("127.0.0.1", port, token).call("GET", "/v1/hypervisors").status == 200
    finally:
        again.kill()
        again.communicate()


def test_the_environments_token_is_an_operators_and_no_other_is_made(tmp_path):
    port = free_port()
    process = start(tmp_path, f"database = sqlite:///{tmp_path}/fw.db", token="from-outside", wsapi_port=port)
    try:
        log = said(process, "listening for switches")
        assert "from-outside" not in log
        assert not (tmp_path / "fw.token").exists()
        assert Rest("127.0.0.1", port, "from-outside").call("GET", "/v1/hypervisors").status == 200
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("database = sqlite:////no/such/directory/fw.db",), "/no/such/directory"),
        (("database = oracle://somewhere",), "oracle"),
        (("database = sqlite:///fw.db", "max_rules = many"), "max_rules"),
        (("database = sqlite:///fw.db", "clsed = true"), "did you mean closed"),
        (("database = sqlite:///fw.db", "tls_key = /no/such.key"), "tls_certificate is not: HTTPS needs both"),
        (("database = sqlite:///fw.db", "tls_certificate = /no/such.crt", "tls_key = /x"), "cannot read /no/such.crt"),
    ],
)
def test_what_cannot_work_is_said_in_a_line_and_ends_the_program(tmp_path, lines, words):
    code, output = ends(start(tmp_path, *lines, token="t"))
    assert code != 0
    assert words in output.splitlines()[-1]
    assert "Traceback" not in output


def test_a_database_of_a_newer_schema_is_refused_and_left_alone(tmp_path):
    process = start(tmp_path, f"database = sqlite:///{tmp_path}/fw.db", token="t")
    said(process, "listening for switches")
    process.kill()
    process.communicate()
    with sqlite3.connect(tmp_path / "fw.db") as database:
        database.execute("update alembic_version set version_num = '9999'")
    code, output = ends(start(tmp_path, f"database = sqlite:///{tmp_path}/fw.db", token="t"))
    assert code != 0
    assert "9999" in output.splitlines()[-1]
    assert "Traceback" not in output


SLOW = """
import os, eventlet, ryu.cmd.manager
from firewall_app.app import _Runtime
runtime, inside, most = _Runtime(), [], []
wait, tell = os.pipe()
def work():
    inside.append(1)
    most.append(len(inside))
    os.read(wait, 1)  # in a native thread: only what runs beside it can end it
    inside.pop()
with eventlet.Timeout(30):
    works = [eventlet.spawn(runtime.slow, work) for _ in range(30)]
    while not inside:
        eventlet.sleep(0)
    assert runtime.aside(lambda: "stored") == "stored"
    os.write(tell, b"x" * len(works))
    for one in works:
        one.wait()
print(max(most))
"""


def test_slow_work_leaves_the_store_a_thread():
    found = subprocess.run(
        [sys.executable, "-c", SLOW], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (found.stdout, found.returncode) == ("2\n", 0), found.stderr


@pytest.mark.parametrize("option", ["ofp_tcp_listen_port", "wsapi_port"])
def test_a_port_that_is_taken_ends_the_program_with_its_number(tmp_path, option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        code, output = ends(start(tmp_path, f"database = sqlite:///{tmp_path}/fw.db", token="t", **{option: number}))
    assert code != 0
    assert f"port {number}" in output
    assert "Traceback" not in output


def test_a_directory_that_is_not_there_is_named(tmp_path):
    code, output = ends(start(tmp_path, f"database = sqlite:///{tmp_path}/no/fw.db", token="t"))
    assert (code, output.count("\n")) == (1, 1)
    assert f"firewall: the directory {tmp_path}/no of the store does not exist; create it" in output


def test_sighup_is_of_a_terminal_that_closes_or_means_nothing(tmp_path):
    process = start(tmp_path, f"database = sqlite:///{tmp_path}/fw.db", token="t", stdin=subprocess.DEVNULL)
    said(process, "listening for switches")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)  # comes after it: both are taken in the order of their numbers
    code, output = ends(process)
    assert (code, "ending signal=SIGTERM" in output) == (0, True)
    ours, theirs = os.openpty()
    process = start(tmp_path, f"database = sqlite:///{tmp_path}/fw.db", token="t", stdin=theirs)
    said(process, "listening for switches")
    process.send_signal(signal.SIGHUP)
    code, output = ends(process)
    assert (code, "ending signal=SIGHUP" in output) == (0, True)
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_it_is_told_to(tmp_path, end):
    process = start(tmp_path, f"database = sqlite:///{tmp_path}/fw.db", token="t")
    said(process, "listening for switches")
    process.send_signal(end)
    code, output = ends(process)
    assert code == 0
    assert "Traceback" not in output


def test_an_acknowledged_write_survives_sigkill(tmp_path):
    controller = Controller(tmp_path)
    with controller:
        for number in range(1, 40):
            body = {"name": f"d{number}", "tags": ["web"]}
            assert controller.call("PUT", f"/v1/droplets/{number}", body).status == 201
        controller.kill()
        controller.start()
        answer = controller.call("GET", "/v1/droplets?per_page=200")
        assert [d["id"] for d in answer.json["droplets"]] == list(range(1, 40))


def test_the_wheel_carries_what_a_plain_installation_needs(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "run", "tests", "docs"))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(source),
    ]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("cloud_firewall-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert {
        "cloud_firewall_ryu.pth",
        "firewall_app_startup.py",
        "firewall_app/app.py",
        "firewall_app/py.typed",
        "firewall_app/systemd/cloud-firewall.service",
    } <= names
    assert any(re.fullmatch(r"firewall_app/store/migrations/versions/0001\w*\.py", name) for name in names)
    assert not [name for name in names if name.startswith(("tests/", "lab/"))]
    # the store of the unpacked wheel, not of this checkout, makes a database
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path / "site")!r})
import firewall_app; assert 'site' in firewall_app.__file__
from firewall_app.store import Store; print(Store.open('sqlite:///{tmp_path}/x.db').load()[1].revision)
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert made.stdout.strip() == "0", made.stderr


def test_make_run_prints_what_to_type_and_works_as_printed():
    with tempfile.TemporaryDirectory() as directory:
        openflow, rest = free_port(), free_port()
        environment = {k: v for k, v in os.environ.items() if k != "FIREWALL_OPERATOR_TOKEN"}
        environment |= {"RUN_DIR": directory, "OPENFLOW_PORT": str(openflow), "REST_PORT": str(rest)}
        process = subprocess.Popen(
            ["scripts/run"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            log = said(process, "listening for switches")
            assert f"tcp:ADDRESS-OF-THIS-HOST:{openflow}" in log
            (curl,) = [line.strip() for line in log.splitlines() if line.strip().startswith("curl")]
            answer = subprocess.run(curl, shell=True, capture_output=True, text=True, check=True).stdout
            assert '"hypervisors": []' in answer
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
