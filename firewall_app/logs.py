"""How log lines look: time, level, logger, text; INFO and above unless `--verbose` or `--default-log-level` say else.

Ryu sets the root logger to DEBUG and prints bare text.  Imported by `app.py` before anything that logs.
"""

from __future__ import annotations

import logging

from ryu.cfg import CONF

_FORMAT = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")


def configure() -> None:
    """Takes effect on the handlers that Ryu has set up by now."""
    root = logging.getLogger()
    if not CONF.verbose and CONF.default_log_level is None and not CONF.log_config_file:
        root.setLevel(logging.INFO)
        for noisy in ("alembic", "ryu.base.app_manager", "sqlalchemy"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
    if not CONF.log_config_file:
        for handler in root.handlers:
            handler.setFormatter(_FORMAT)


configure()
