"""Commands, processes, namespaces: what the lab asks of Linux.  Knows nothing of switches or firewalls."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
SIOCETHTOOL = 0x8946
# ethtool(8) by number: transmit checksums, TCP segmentation, scatter-gather, generic segmentation, generic receive.
ETHTOOL_OFFLOADS = {"STXCSUM": 0x17, "STSO": 0x1F, "SSG": 0x19, "SGSO": 0x24, "SGRO": 0x2C}


class LabError(RuntimeError):
    """The lab could not do what was asked; the text says which command and what it answered."""


def run(*argv: str, check: bool = True, stdin: str | None = None, timeout: float = 60, **options: object) -> str:
    """What the command printed.  Raises LabError with its own words when it fails."""
    try:
        done = subprocess.run(  # type: ignore[call-overload]
            argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False, **options
        )
    except FileNotFoundError as missing:
        raise LabError(f"{missing.filename} is not installed; the lab needs it") from missing
    except subprocess.TimeoutExpired as late:
        raise LabError(f"{' '.join(argv)} gave no answer within {timeout} s") from late
    if check and done.returncode:
        raise LabError(f"{' '.join(argv)} failed ({done.returncode}): {(done.stderr or done.stdout).strip()}")
    return str(done.stdout)


def ip(netns: str | None, *lines: str) -> None:
    """Run ip(8) command lines, all by one process, in a namespace (None: the caller's)."""
    where = ("-n", netns) if netns else ()
    run("ip", *where, "-batch", "-", stdin="\n".join(lines) + "\n")


def in_netns(netns: str, function: Callable[[], T]) -> T:
    """The function's answer from inside a namespace (a name, or a path like /proc/PID/ns/net).

    Sockets that it makes stay there.  A thread of its own enters, so that the caller never leaves its own
    namespace, whatever goes wrong.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def enter() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            handle = os.open(Path("/run/netns", netns), os.O_RDONLY | os.O_CLOEXEC)
            try:
                if libc.setns(handle, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"cannot enter the namespace {netns}")
            finally:
                os.close(handle)
            outcome.append(function())
        except BaseException as problem:  # handed over to the caller's thread
            failure.append(problem)

    thread = threading.Thread(target=enter, name=f"in {netns}")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def write_sysctls(netns: str, values: Mapping[str, object]) -> None:
    """Set sysctls below /proc/sys/net, e.g. `ipv6/conf/default/accept_ra`; those that the kernel lacks raise."""

    def write() -> None:
        for name, value in values.items():
            Path("/proc/sys/net", name).write_text(str(value))

    in_netns(netns, write)


def offloads_off(netns: str, devices: Iterable[str]) -> None:
    """Make devices send real packets: a userspace switch forwards what it sees, unfinished checksums too."""
    with in_netns(netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as control:
        for device in devices:
            for command in ETHTOOL_OFFLOADS.values():
                value = ctypes.create_string_buffer(struct.pack("II", command, 0))
                request = struct.pack("16sP", device.encode(), ctypes.addressof(value))
                try:
                    fcntl.ioctl(control, SIOCETHTOOL, request)
                except OSError as refused:
                    # A device without that offload has nothing to switch off; a device that is missing does matter.
                    if refused.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                        raise LabError(f"cannot switch offloads of {device} off: {refused}") from refused


def wait_until(what: str, condition: Callable[[], T], seconds: float = 10, pause: float = 0.01) -> T:
    """The condition's first true answer.  Raises LabError that names `what` when the time is up."""
    end = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise LabError(f"{what}: not within {seconds} s")
        time.sleep(pause)


def spawn(argv: list[str], log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a daemon as our child, its output in `log`; a Ctrl-C in the terminal reaches us, not it."""
    with log.open("ab") as out:
        try:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=log.parent,
                start_new_session=True,
                env=None if env is None else dict(env),
            )
        except FileNotFoundError as missing:
            raise LabError(f"{missing.filename} is not installed; the lab needs it") from missing


def end(process: subprocess.Popen[bytes] | None, grace: float = 5) -> None:
    """SIGTERM, then SIGKILL to one that does not go."""
    if process is None:
        return
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, to say why something did not come up."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"
