"""Makes, checks and restores backups of the store: policy, tokens, audit log, everything.

A backup is one file, a SQLite database of the store's own tables, whatever the store itself is in.  So it can be
restored into SQLite or PostgreSQL, and moves a store from one to the other.  It is made while the controller runs and
writes.  It holds hashes of tokens and the whole audit log: keep it as private as the store.

examples:
  python -m firewall_app.backup create --config-file firewall.conf before-upgrade.backup
  python -m firewall_app.backup create --config-file firewall.conf --directory /var/backups/firewall --keep 14
  python -m firewall_app.backup check /var/backups/firewall/*.backup
  python -m firewall_app.backup restore --config-file firewall.conf before-upgrade.backup
  python -m firewall_app.backup restore --database postgresql://firewall@db/firewall now.backup

`restore` wants the controller stopped, unless its database is gone: hypervisors keep their flows meanwhile.  What was
changed after the backup is gone then; hypervisors that already follow such a change keep their flows and are sent
nothing, until an operator confirms it over /v1/fences.

exit status: 0 done, 1 refused or failed and nothing was changed, 2 wrong usage
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from oslo_config import cfg

from .policy.errors import StoreError
from .records import Entry, Outcome
from .service.access import Role
from .settings import Settings
from .store import copies
from .store.copies import Summary
from .tokens import user

DONE, FAILED = 0, 1
SUFFIX = ".backup"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "check":
            for file in arguments.file:
                print(_told(file, copies.check(file)))
            return DONE
        url = arguments.database or _configured(arguments.config_file)
        if arguments.command == "restore":
            _restore(url, arguments.file, arguments.replace)
        elif arguments.directory is None:
            if arguments.keep is not None:
                parser.error("--keep needs --directory")
            _create(url, arguments.file)
        else:
            now = datetime.now(UTC)
            _create(url, arguments.directory / f"firewall-{now:%Y%m%dT%H%M%SZ}{SUFFIX}")
            _clear(arguments.directory, arguments.keep)
    except (StoreError, OSError, cfg.Error) as error:
        print(f"backup: {error}", file=sys.stderr)
        return FAILED
    return DONE


def _create(url: str, file: Path) -> None:
    print(_told(file, copies.create(url, file, _progress())))


def _restore(url: str, file: Path, replace: bool) -> None:
    entry = Entry(
        at=datetime.now(UTC), request_id="", token="", who=f"{user()} by command", role=Role.OPERATOR.value,
        account=None, address="", method="", path=f"backup restore {file.name}", outcome=Outcome.DONE,
    )  # fmt: skip
    found, aside = copies.restore(url, file, replace, entry, _progress())
    print(_told(file, found))
    if aside is not None:
        print(f"what the store held before is kept in {aside}")
    print(
        "restored. Tokens are as they were then: those revoked since are in force again.\n"
        f"Hypervisors that were changed after revision {found.revision} keep their flows and are sent nothing until "
        "you confirm:\nGET /v1/fences lists them, POST /v1/fences/TIMELINE/confirm lets them follow this store."
    )


def _clear(directory: Path, keep: int | None) -> None:
    """Deletes the oldest backups that this command has made there."""
    made = sorted(directory.glob(f"firewall-{'[0-9]' * 8}T{'[0-9]' * 6}Z{SUFFIX}"))
    for file in made[:-keep] if keep else ():
        file.unlink()
        print(f"deleted {file}")


def _told(file: Path, found: Summary) -> str:
    kinds = ", ".join(f"{count} {name}" for name, count in found.rows.items() if count)
    return (
        f"{file}: revision {found.revision} of {found.source}, made {found.made_at}, "
        f"{file.stat().st_size:,} bytes; {kinds or 'nothing'}"
    )


def _progress() -> Callable[[str, int], None]:
    """Says how far it is, on a terminal's own line; a log gets nothing that is not a result."""
    shown = sys.stderr.isatty()

    def tell(table: str, rows: int) -> None:
        if shown:
            print(f"\r\033[K{table}: {rows:,} rows" if table else "\r\033[K", end="", file=sys.stderr, flush=True)

    return tell


def _configured(file: Path) -> str:
    """The store that a configuration of the controller names.  Raises cfg.Error."""
    sections: dict[str, dict[str, list[str]]] = {}
    try:
        cfg.ConfigParser(str(file), sections).parse()
    except FileNotFoundError:
        raise cfg.Error(f"there is no file {file}") from None
    return sections.get("firewall", {}).get("database", [Settings().database])[-1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m firewall_app.backup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    store = argparse.ArgumentParser(add_help=False)
    where = store.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--config-file", type=Path, metavar="FILE", help="the controller's configuration names the store"
    )
    where.add_argument("--database", metavar="URL", help="the store, as in the controller's configuration")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    create = commands.add_parser("create", parents=[store], help="make a backup", allow_abbrev=False)
    target = create.add_mutually_exclusive_group(required=True)
    target.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a file that does not exist")
    target.add_argument("--directory", type=Path, help="make FILE there, named by the time")
    create.add_argument(
        "--keep", type=_at_least_one, metavar="N", help="with --directory: delete all but the N newest of such files"
    )
    check = commands.add_parser("check", help="load backups whole and say what they hold", allow_abbrev=False)
    check.add_argument("file", nargs="+", type=Path, metavar="FILE")
    restore = commands.add_parser("restore", parents=[store], help="put a backup into the store", allow_abbrev=False)
    restore.add_argument("file", type=Path, metavar="FILE")
    restore.add_argument(
        "--replace", action="store_true", help="also in place of a store that holds something; that is kept aside"
    )
    return parser


def _at_least_one(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
