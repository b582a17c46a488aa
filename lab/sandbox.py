"""A machine's system, as far as Mininet and Open vSwitch can tell, that is thrown away with the command that ran in it.

Mininet knows only the system's Open vSwitch, and its clean-up kills processes by name.  In a namespace of a `Lab`,
with process numbers and run-time directories of its own, it can do neither harm nor leave anything.
"""

from __future__ import annotations

PRIVATE = ("/run", "/etc/openvswitch", "/var/lib/openvswitch", "/var/log/openvswitch")


def sandboxed(netns: str, *command: str) -> list[str]:
    """The command line that runs `command` so; when it ends, everything that it started is killed."""
    mounts = " && ".join(f"mount -t tmpfs none {directory}" for directory in PRIVATE)
    script = f'{mounts} && mkdir /run/lock /run/netns && exec "$@"'
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["ip", "netns", "exec", netns, *unshare, "sh", "-c", script, "sh", *command]
