"""docs/clients.md says which clients were run, at which versions, with which outcome; and is what the tests say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import clients_page
import pytest
from clients import test_ansible, test_clients, test_faults
from clients.every import CLIENTS, able
from clients.via_mcp import GODO, PROGRAM

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "clients.md"


def test_the_committed_page_is_what_the_tests_say() -> None:
    assert PAGE.read_text() == clients_page.page(), "docs/clients.md is stale: run `make docs`"


@pytest.mark.process
def test_the_command_prints_the_page() -> None:
    done = subprocess.run(
        [sys.executable, "tests/clients_page.py"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == PAGE.read_text()


def test_every_client_that_is_run_is_told_how_to_be_pointed_here() -> None:
    assert [way.client for way in clients_page.RUN] == [kind.name for kind in CLIENTS]


@pytest.mark.parametrize("name", ["pydo", "python-digitalocean"])
def test_what_is_installed_is_what_the_page_says(name: str) -> None:
    assert clients_page.version(name) == version(name)


@pytest.mark.process
def test_godo_is_of_the_version_that_the_page_says() -> None:
    assert f"github.com/digitalocean/godo@v{GODO}".encode() in PROGRAM.read_bytes()


@pytest.mark.process
def test_the_collection_is_of_the_version_that_the_page_says() -> None:
    manifest = test_ansible.MODULES.joinpath(*test_ansible.COLLECTION.split("."), "MANIFEST.json")
    assert json.loads(manifest.read_text())["collection_info"]["version"] == test_ansible.VERSION


@pytest.mark.parametrize("module", [test_clients, test_faults])
def test_every_test_says_what_it_shows_and_needs_calls_that_there_are(module: object) -> None:
    for name, (shown, needs) in clients_page.tests(module).items():
        assert shown, name
        assert "|" not in shown, name
        assert set(needs) <= set(clients_page.calls()), name
        assert able(needs), name


def test_every_call_of_every_client_is_needed_by_a_test() -> None:
    modules = (test_clients, test_faults)
    needed = {call for module in modules for _, needs in clients_page.tests(module).values() for call in needs}
    assert needed == set(clients_page.calls())


@pytest.mark.parametrize("kind", CLIENTS)
def test_every_call_is_run_with_each_client_that_has_it(kind: type) -> None:
    modules = (test_clients, test_faults)
    tests = [needs for module in modules for _, needs in clients_page.tests(module).values()]
    run = {call for needs in tests if kind in able(needs) for call in needs}
    assert run == {call for call in clients_page.calls() if hasattr(kind, call)}
