"""What a lab that was killed leaves behind: finding it, and removing it.  `python -m lab.leftovers TAG...`

A lab holds a lock while it lives, so only what belongs to a dead one is removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

from .system import LabError, run, wait_until


def sweep(tag: str) -> list[str]:
    """Remove what a dead lab of that tag left; the names of what was removed.  A living lab is an error."""
    with claim_tag(tag):
        return remove(tag, Path(tempfile.gettempdir(), f"fw-{tag}"))


def claim(name: str) -> socket.socket:
    """A lock that the kernel lets go when we die: an abstract socket.  OSError when somebody has it."""
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        lock.bind(f"\0fw-lab-{name}")
    except OSError:
        lock.close()
        raise
    return lock


def claim_tag(tag: str) -> socket.socket:
    try:
        return claim(f"tag-{tag}")
    except OSError as taken:
        raise LabError(f"a lab with the tag {tag!r} is running") from taken


def remove(tag: str, directory: Path) -> list[str]:
    """Kill and remove all that carries the tag.  The caller holds the tag's lock."""
    removed: list[str] = []
    namespaces = [line.split()[0] for line in run("ip", "netns", "list").splitlines() if line]
    for netns in namespaces:
        if netns.startswith(f"fw-{tag}-"):
            for pid in run("ip", "netns", "pids", netns).split():
                _kill(int(pid))
            run("ip", "netns", "del", netns)
            removed.append(netns)
    for device in Path("/sys/class/net").iterdir():
        if re.fullmatch(rf"fw{tag}m[0-9]+", device.name):
            # It may go by itself at this moment: its other end was in a namespace that is gone.
            run("ip", "link", "del", device.name, check=False)
            removed.append(device.name)
    if directory.is_dir() and not directory.is_symlink() and directory.lstat().st_uid == os.geteuid():
        for file in directory.rglob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                _kill_if_of(directory, int(file.read_text()))
        shutil.rmtree(directory)
        removed.append(str(directory))
    return removed


def _kill_if_of(directory: Path, pid: int) -> None:
    """Kill the process if its command line names the directory: numbers in old files are used again."""
    if f"{directory}/".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
        _kill(pid)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_until(f"end of process {pid}", lambda: not lives(pid))


def lives(pid: int) -> bool:
    """A zombie is dead: it waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: removed", ", ".join(sweep(name)) or "nothing")
