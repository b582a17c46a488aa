"""ryu-manager that tells how many of the things that could leak there are, when the file LEAKS_FILE is removed.

Started by tests in place of ryu-manager, with its arguments.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

import eventlet

import firewall_app_startup  # noqa: F401 - before anything may import ryu.app.wsgi


def count() -> dict[str, int]:
    """Objects that each connection has some of."""
    import greenlet
    from ryu.controller.controller import Datapath

    from firewall_app.openflow.link import Link
    from firewall_app.openflow.session import Session

    gc.collect()
    objects = gc.get_objects()
    kinds = {"links": Link, "sessions": Session, "datapaths": Datapath}
    found = {name: sum(isinstance(one, kind) for one in objects) for name, kind in kinds.items()}
    found["greenlets"] = sum(isinstance(one, greenlet.greenlet) and not one.dead for one in objects)
    found["files"] = len(os.listdir("/proc/self/fd"))
    return found


def tell_whenever_asked(path: Path) -> None:
    while True:
        if not path.exists():
            new = path.with_suffix(".new")
            new.write_text(json.dumps(count()))
            new.rename(path)
        eventlet.sleep(0.05)


def main() -> None:
    from ryu.cmd.manager import main as manager

    path = Path(os.environ["LEAKS_FILE"])
    path.write_text("")
    eventlet.spawn_n(tell_whenever_asked, path)
    sys.argv[0] = "ryu-manager"
    manager()


if __name__ == "__main__":
    main()
