"""What systemd is told of this process (sd_notify(3), whose authors ask that the protocol be spoken without a library).

Without systemd, or a unit of another type than `notify`, nothing happens.  The unit is beside this file.
"""

from __future__ import annotations

import os
import socket

from .. import logs

LOG = logs.get(__name__)


def notify(**variables: object) -> bool:
    """Tells e.g. READY=1, STATUS="3 hypervisors connected"; whether there was anybody to tell."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    text = "\n".join(f"{name}={' '.join(str(value).split())}" for name, value in variables.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
            client.setblocking(False)  # the loop waits for nobody, systemd included
            client.connect("\0" + address[1:] if address[0] == "@" else address)
            client.send(text.encode())
    except OSError as error:
        LOG.debug("systemd cannot be told", error=error)
        return False
    return True


def watchdog() -> float | None:
    """Seconds after which systemd takes a silent process for hung (sd_watchdog_enabled(3)); None: it does not look."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        seconds = int(os.environ.get("WATCHDOG_USEC", "")) / 1e6
    except ValueError:
        return None
    return seconds if seconds > 0 else None
