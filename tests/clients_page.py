"""What clients of others were run and what they did; prints docs/clients.md.

    PYTHONPATH=. python tests/clients_page.py > docs/clients.md

The tables are made from the tests in tests/clients and from what the tests install.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from clients import test_ansible, test_clients, test_faults
from clients.client import Client
from clients.every import CLIENTS, able
from clients.via_mcp import GODO

ROOT = Path(__file__).parent.parent


class Way(NamedTuple):
    """How a client is told to speak to this server."""

    client: str
    how: str


RUN = (
    Way(
        "pydo",
        '`Client(token, endpoint="https://HOST:PORT", connection_verify="ca.crt")`. Over plain HTTP it refuses to send '
        "a token, unless each call is given `enforce_https=False`",
    ),
    Way(
        "python-digitalocean",
        "`DIGITALOCEAN_END_POINT=https://HOST:PORT/v2/` in the environment, with the slash at the end; and "
        "`REQUESTS_CA_BUNDLE=ca.crt`. Not the argument `end_point`: objects that the manager makes do not know it",
    ),
    Way(
        "dots-wrapper",
        '`createApiClient({token, endpoint: "https://HOST:PORT/v2"})`; `NODE_EXTRA_CA_CERTS=ca.crt` in the environment',
    ),
    Way(
        "@digitalocean/mcp",
        "`-digitalocean-api-endpoint https://HOST:PORT`; `SSL_CERT_FILE=ca.crt` in the environment. It is built on "
        f"godo {GODO}, the library under doctl and terraform",
    ),
)
ANSIBLE = Way(
    "Ansible, community.digitalocean",
    "`baseurl: https://HOST:PORT/v2` in each task, without a slash at the end; `SSL_CERT_FILE=ca.crt` in the "
    "environment",
)
OTHERS = (
    Way("godo", '`godo.SetBaseURL("https://HOST:PORT/")`; `SSL_CERT_FILE=ca.crt`'),
    Way("doctl", "`--api-url https://HOST:PORT`; `SSL_CERT_FILE=ca.crt`"),
    Way("terraform", "`api_endpoint` of the provider, or `DIGITALOCEAN_API_URL`; `SSL_CERT_FILE=ca.crt`"),
    Way("droplet_kit", '`DropletKit::Client.new(access_token:, api_url: "https://HOST:PORT")`; `SSL_CERT_FILE=ca.crt`'),
    Way(
        "Ansible, digitalocean.cloud",
        "`client_override_options: {endpoint: https://HOST:PORT, connection_verify: ca.crt}`. It goes through pydo, "
        "and needs HTTPS",
    ),
)
FAULTS = (
    (401, "no valid token"),
    (403, "the token may not"),
    (404, "not there"),
    (409, "duplicate name"),
    (422, "at fault"),
)

_HEAD = """\
# Clients of others

*This page is printed from `tests/clients_page.py` by `make docs`. Do not edit it.*

Clients for DigitalOcean's API, run against this program by its tests: the real ones, at the versions below, over real
sockets and HTTPS, each test in an account of its own."""

_POINT = """
## How to point a client here

`ca.crt` is the authority that `python -m firewall_app.certificates` made, for those whose server has no certificate
that everybody trusts; the others leave it out."""

_CALLS = """
## What each client can ask for

An empty cell: it has no such call."""

_RUN = """
## What was run

A test runs with every client that has the calls for it; `passes` is such a run. What a client reads is compared with
what it wrote by the fields that its users read. The tests are in `tests/clients/{file}`."""

_ANSIBLE = """
### Ansible

The modules of community.digitalocean, run as a task runs them. In `tests/clients/test_ansible.py`."""

_TOLD = """
## How each tells of a fault

`returned`: no exception; the answer is the error's JSON. All pass our message on, but python-digitalocean for 404.
After 429, pydo and godo wait for as long as `retry-after` says and try again; pydo does not with `retry_total=0`."""


def page() -> str:
    """The whole page, as Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    yield _POINT
    run = (
        *((way.client, version(way.client), way.how) for way in RUN),
        (ANSIBLE.client, test_ansible.VERSION, ANSIBLE.how),
    )
    yield from _table(("client", "version", "how"), run)
    yield "\nThese are not run; `tests/test_contract_clients.py` and `test_contract_godo.py` send what they send:\n"
    yield from _table(("client", "how"), OTHERS)[1:]
    names = [kind.name for kind in CLIENTS]
    yield _CALLS
    yield from _table(("", *names), ((_words(call), *(_call(kind, call) for kind in CLIENTS)) for call in calls()))
    for module in (test_clients, test_faults):
        title = _RUN if module is test_clients else "\n### Faults\n\nIn `tests/clients/{file}`."
        yield title.format(file=Path(str(module.__file__)).name)
        yield from _table(("", *names, "test"), _ran(module))
    yield _ANSIBLE
    ran = ((str(test.__doc__), f"`{name}`") for name, test in vars(test_ansible).items() if name.startswith("test_"))
    yield from _table(("", ANSIBLE.client, "test"), ((shown, "passes", name) for shown, name in ran))
    yield _TOLD
    rows = ((f"{code} {text}", *(f"`{_kind(kind, code)}`" for kind in CLIENTS)) for code, text in FAULTS)
    yield from _table(("", *names), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return ["", *(f"| {' | '.join(cells)} |" for cells in lines)]


def version(client: str) -> str:
    """What is installed of a client: PyPI's are pinned in one file, npm's in another."""
    lock = json.loads((ROOT / "tests/clients/node/package-lock.json").read_text())["packages"]
    if (found := lock.get(f"node_modules/{client}")) is not None:
        return str(found["version"])
    pinned = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    return pinned[client]


def calls() -> list[str]:
    """All that any client can be asked for."""
    every = [name for kind in CLIENTS for name, call in vars(kind).items() if callable(call) and name[0] != "_"]
    return list(dict.fromkeys(name for name in every if name not in vars(Client)))


def _words(call: str) -> str:
    return call.replace("_", " ")


def _call(kind: type[Client], call: str) -> str:
    own = getattr(kind, call, None)
    return f"`{own.__doc__}`" if own is not None else ""


def tests(module: ModuleType) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The tests of a module by name: what each shows, and which calls it needs."""
    found = {}
    for name, test in vars(module).items():
        if name.startswith("test_"):
            (needs,) = [mark.args for mark in test.pytestmark if mark.name == "needs"]
            found[name] = (test.__doc__, needs)
    return found


def _ran(module: ModuleType) -> Iterator[tuple[str, ...]]:
    for name, (shown, needs) in tests(module).items():
        kinds = able(needs)
        yield (shown, *("passes" if kind in kinds else "" for kind in CLIENTS), f"`{name}`")


def _kind(kind: type[Client], code: int) -> str:
    return kind.tells(code, "", "").kind


if __name__ == "__main__":
    sys.stdout.write(page())
