"""The migrations, by Alembic.  Imported only where there is something to upgrade: it is slow to import."""

from __future__ import annotations

from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from ..policy.errors import StoreError


def _config() -> Config:
    config = Config()
    folder = resources.files("firewall_app.store") / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    return config


def versions() -> list[str]:
    """Those that this program knows, the newest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]


def upgrade(connection: Connection) -> None:
    """Runs the migrations that are missing, in the transaction that the connection is in."""
    config = _config()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(f"the tables cannot be upgraded: {error}") from error
