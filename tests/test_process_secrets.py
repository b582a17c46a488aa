"""No secret in any log: requests and faults with known secrets at every place, and each byte that is written."""

from __future__ import annotations

import json
import socket
import sqlite3
from pathlib import Path

import pytest
from fakeswitch import message

from firewall_app.policy.errors import StoreError
from firewall_app.service.access import digest
from firewall_app.store import Store
from lab.controller import RYU, TOKEN, Controller, Rest
from lab.system import LabError, wait_until

pytestmark = pytest.mark.process
# Whatever has this in it is a secret; a token is one from the first to the last character.
HUSH = "HUSHHUSHHUSHHUSH"

RAW = (
    f"GET http://me:{HUSH}@host/v1/droplets HTTP/1.1\r\nHost: x\r\n\r\n",
    f"GET /v1/droplets?token={HUSH}&password={HUSH} HTTP/1.1\r\nHost: x\r\n\r\n",
    f"GET /v1/droplets?{HUSH} HTTP/9.9\r\nHost: x\r\n\r\n",
    f"GET /v1/droplets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {HUSH}\r\n\r\n",
    f"GET /v1/droplets HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {HUSH}\r\n\r\n",
    f"GET /v1/droplets HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {HUSH}\r\n\r\n",
    f"GET /v1/droplets HTTP/1.1\r\nHost: x\r\n Authorization: Bearer {HUSH}\r\n\r\n",
    f"GET /v1/droplets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {HUSH}\0\r\n\r\n",
    f"GET /v1/droplets HTTP/1.1\r\nHost: x\r\nCookie: session={HUSH}\r\nX-Api-Key: {HUSH}\r\n\r\n",
    f"GET /v1/droplets HTTP/1.1\r\nHost: {HUSH}\r\nX-Forwarded-For: {HUSH}\r\nUser-Agent: {HUSH}\r\n\r\n",
    f"Authorization: Bearer {HUSH}\r\n\r\n",
    f"CONNECT me:{HUSH}@host:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    f"POST /v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    f"Transfer-Encoding: chunked\r\n\r\n{HUSH}\r\n",
)  # fmt: skip


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_in_any_log(tmp_path: Path, form: str) -> None:
    extra = tmp_path / "extra.log"
    command = (*RYU, "--verbose", "--default-log-level", "10", "--log-file", str(extra))
    secrets = {TOKEN, HUSH}
    with Controller(tmp_path, command=command, settings={"log_format": form}) as controller:
        for raw in RAW:
            with socket.create_connection((controller.host, controller.rest.port), timeout=30) as client:
                client.sendall(raw.encode() + b"\r\n\r\n")
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
        made = controller.call("POST", "/v1/tokens", {"role": "tenant", "account": "acme", "note": "n"})
        assert made.status == 201
        secret = made.json["token"] if isinstance(made.json["token"], str) else made.json["token"]["secret"]
        secrets |= {secret, digest(secret), digest(TOKEN)}
        tenant = Rest(controller.host, controller.rest.port, secret)
        assert tenant.call("GET", "/v2/firewalls").status == 200
        for path in (f"/v1/tokens/{secret}", f"/v1/tokens/{TOKEN}", f"/v2/firewalls/x%20{secret}%0a"):
            for method in ("GET", "DELETE"):
                assert controller.call(method, path).status in (404, 405)
        for body in (HUSH, {"name": HUSH, HUSH: HUSH}, {"inbound_rules": [HUSH]}, [HUSH]):
            for path in ("/v1/tokens", "/v2/firewalls", "/v1/explain", "/v2/tags"):
                controller.call("POST", path, body, {"Idempotency-Key": HUSH, "If-Match": HUSH, "Prefer": HUSH})
        # A store that fails under the program: its words go to the log, with a traceback.
        database = tmp_path / "firewall.db"
        database.rename(tmp_path / "moved.db")
        assert controller.call("PUT", "/v1/droplets/7", {"name": HUSH}).status == 503
        assert controller.call("POST", "/v1/tokens", {"role": "operator", "note": HUSH}).status == 503
        (tmp_path / "moved.db").rename(database)
        with socket.create_connection((controller.host, controller.openflow_port)) as stranger:
            stranger.sendall(message(0, 1, f"{HUSH} Bearer {HUSH}".encode()))
            wait_until("the stranger is seen", lambda: "a switch is disconnected" in extra.read_text())
        assert controller.stop() == 0
    for log in (controller.log, extra):
        written = log.read_bytes()
        assert b"is not there" in written
        for one in secrets:
            found = [line for line in written.splitlines() if one.encode() in line]
            assert not found, (one, found[:3])
        if form == "json":
            assert all({"time", "level", "logger", "event"} <= set(json.loads(line)) for line in written.splitlines())
    assert sqlite3.connect(database).execute("select count(*) from tokens").fetchone() == (1,)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{HUSH}@127.0.0.1:1/fw",
        f"postgresql://me@127.0.0.1:1/fw?password={HUSH}",
        f"postgresql://me:{HUSH}@127.0.0.1:1/fw?no_such_option={HUSH}",
        f"postgresql://me:{HUSH}@[::1/fw",
        f"mysql://me:{HUSH}@host/fw",
        f"sqlite:////no/such/fw.db?password={HUSH}",
    ],
)
def test_no_password_of_a_store_that_cannot_be_opened(url: str) -> None:
    with pytest.raises(StoreError) as told:
        Store.open(url)
    assert HUSH not in str(told.value)


def test_the_program_says_no_password_either(tmp_path: Path) -> None:
    url = f"postgresql://me:{HUSH}@127.0.0.1:1/fw?password={HUSH}"
    with pytest.raises(LabError, match="firewall: cannot open in postgresql"):
        Controller(tmp_path, command=(*RYU, "--verbose"), database=url).start()
    assert HUSH not in (tmp_path / "controller.log").read_text()
