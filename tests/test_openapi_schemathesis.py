"""schemathesis reads the document and holds a running server to it: every operation, every check, calls in sequence.

The configuration is schemathesis.toml, checks of our own are in schemathesis_hooks.py.  To see one failure again:

    .venv/bin/python -m pytest tests/test_openapi_schemathesis.py -k operator
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from api_server import HV1, OPERATOR, TENANT, VIEWER, Process

from firewall_app.store import Store

HERE = Path(__file__).parent


@pytest.mark.process
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("token", "phases"),
    [
        pytest.param(OPERATOR, "examples,coverage,fuzzing,stateful", id="operator"),
        pytest.param(TENANT, "examples,fuzzing", id="tenant"),
        pytest.param(VIEWER, "examples,fuzzing", id="viewer"),
    ],
)
def test_the_server_does_what_its_document_says(tmp_path: Path, token: str, phases: str) -> None:
    database = f"sqlite:///{tmp_path}/firewall.db"
    server = Process(database=database, rate_limit=0, rate_burst=0, failed_attempts=0)
    try:
        found = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", HERE / "schemathesis.toml"),
                *("run", f"http://{server.host}:{server.port}/openapi.json", "--phases", phases, "--no-color"),
            ],
            cwd=tmp_path,
            env={**os.environ, "FIREWALL_TOKEN": token, "PYTHONPATH": str(HERE)},
            check=False,
            capture_output=True,
            text=True,
            timeout=550,
        )
        paths = server.call("GET", "/openapi.json").json["paths"].values()
        count = sum(len(operations) for operations in paths) - 1  # the document itself is read, not tested
        said = found.stdout + found.stderr
        assert found.returncode == 0, said
        assert re.search(rf"Tested: {count}\n", said), said
        seen = server.call("GET", "/v1/hypervisors").json["hypervisors"]
        assert HV1 in [hypervisor["dpid"] for hypervisor in seen]
    finally:
        written = server.stop()
    assert "failed" not in written, written
    Store.open(database).load()  # raises when a row cannot be read
