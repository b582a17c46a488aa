"""Makes, lists and revokes the tokens with which people and programs use the REST API.

Over REST (--api) a token is in force, or no longer, when the command returns.  With --database the store itself is
written, for when no operator's token is at hand; a controller that is running follows within a second.

examples:
  python -m firewall_app.tokens --api http://127.0.0.1:8080 --token-file run/firewall.token \\
      create --role tenant --account acme --note "terraform of acme" > acme.token
  python -m firewall_app.tokens --api http://127.0.0.1:8080 --token-file run/firewall.token list
  python -m firewall_app.tokens --api http://127.0.0.1:8080 --token-file run/firewall.token revoke 5f0c61f3a9b2d7e4
  python -m firewall_app.tokens --database sqlite:////var/lib/firewall/firewall.db create --role operator

`create` prints the secret to stdout, once; it is kept nowhere.  SSL_CERT_FILE in the environment names the certificate
authority of the controller, if it has one of its own.

exit status: 0 done, 1 refused or failed, 2 wrong usage
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from .policy.errors import FirewallError, StoreError
from .records import Entry, Outcome
from .remote import Api, RemoteError
from .service.access import Role
from .service.describe import moment
from .service.tokens import change, made, revocable, told
from .store import Store

DONE, FAILED = 0, 1


class _Rest:
    """Tokens of a controller that runs."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def every(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self._api.get(f"/v1/tokens?per_page=200&page={len(found) // 200 + 1}")
            found += page["tokens"]
            if not page["tokens"] or len(found) >= page["meta"]["total"]:
                return found

    def create(self, role: Role, account: str | None, note: str) -> tuple[str, str]:
        answer = self._api.call("POST", "/v1/tokens", {"role": role.value, "account": account, "note": note})
        return answer["id"], answer["token"]

    def revoke(self, token_id: str) -> None:
        self._api.call("DELETE", f"/v1/tokens/{quote(token_id, safe='')}")


class _Database:
    """Tokens in a store, whether a controller uses it or not."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def every(self) -> list[dict[str, Any]]:
        return [
            {**told(t), "created_at": moment(t.created_at), "revoked_at": moment(t.revoked_at)}
            for t in self._store.tokens()
        ]

    def create(self, role: Role, account: str | None, note: str) -> tuple[str, str]:
        token, secret = made(role, account, note, datetime.now(UTC))
        self._store.add_token(token, self._entry("create", change(None, token), account))
        return token.id, secret

    def revoke(self, token_id: str) -> None:
        token = revocable(self._store.tokens(), token_id)
        if token.revoked_at is None:
            entry = self._entry("revoke", change(token, None), token.account)
            self._store.revoke_token(token_id, datetime.now(UTC), entry)

    @staticmethod
    def _entry(what: str, made: dict[str, object], account: str | None) -> Entry:
        return Entry(
            at=datetime.now(UTC), request_id="", token="", who=f"{user()} by command", role=Role.OPERATOR.value,
            account=account, address="", method="", path=f"tokens {what}", outcome=Outcome.DONE, changes=(made,),
        )  # fmt: skip


def _opened(url: str) -> Store:
    """A store that is there: a name that was mistyped must not become a new one."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise StoreError(f"there is no store {parsed.database}; the controller makes it when it starts")
    return Store.open(url)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        if arguments.database:
            store = _opened(arguments.database)
            try:
                return _run(_Database(store), arguments)
            finally:
                store.close()
        if not arguments.token_file:
            parser.error("--api needs --token-file")
        with Api(arguments.api, arguments.token_file.read_text().strip()) as api:
            return _run(_Rest(api), arguments)
    except (FirewallError, RemoteError, ArgumentError, OSError, ValueError) as error:
        print(f"tokens: {error}", file=sys.stderr)
        return FAILED


def _run(where: _Rest | _Database, arguments: argparse.Namespace) -> int:
    if arguments.command == "create":
        token_id, secret = where.create(Role(arguments.role), arguments.account, arguments.note)
        print(secret)
        print(f"made token {token_id}; its secret is shown this once", file=sys.stderr)
    elif arguments.command == "revoke":
        for token_id in arguments.id:
            where.revoke(token_id)
            print(f"revoked {token_id}", file=sys.stderr)
    else:
        _table(where.every(), arguments.all)
    return DONE


def _table(tokens: list[dict[str, Any]], revoked: bool) -> None:
    rows = [("ID", "ROLE", "ACCOUNT", "CREATED", "REVOKED", "NOTE")]
    for t in tokens:
        if revoked or not t["revoked_at"]:
            rows.append(
                (t["id"], t["role"], t["account"] or "-", t["created_at"] or "-", t["revoked_at"] or "-", t["note"])
            )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m firewall_app.tokens",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--api", metavar="URL", help="the controller's REST API")
    where.add_argument("--database", metavar="URL", help="the store, as in the controller's configuration")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="with --api: an operator's token")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    create = commands.add_parser("create", help="make a token", allow_abbrev=False)
    create.add_argument("--role", required=True, choices=[role.value for role in Role], help="what it may do")
    create.add_argument("--account", help="whose objects it is for; a tenant's token needs one")
    create.add_argument("--note", default="", help="who uses it for what; it stands in the audit log")
    listed = commands.add_parser("list", help="show the tokens in force", allow_abbrev=False)
    listed.add_argument("--all", action="store_true", help="revoked ones too")
    revoke = commands.add_parser("revoke", help="end tokens for good", allow_abbrev=False)
    revoke.add_argument("id", nargs="+", metavar="ID")
    return parser


if __name__ == "__main__":
    sys.exit(main())
