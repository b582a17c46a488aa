"""`Machine`: one network namespace that stands for a virtual machine, and the line to the agent inside it.

The agent is started when it is first asked something.  Requests are answered as they complete, not in order:
`submit` gives a future, `call` waits for it.  What the agent can do is documented at its commands (agent.py).
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .system import LabError, ip, tail

PROGRAM = Path(__file__).with_name("agent.py")


class Agent:
    """A running agent.  Every request has a number; a thread hands each answer to whoever asked."""

    def __init__(self, netns: str, log: Path) -> None:
        self._log = log
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        # -I -S: the agent needs nothing but the standard library, and starts in half the time without the rest.
        argv = ["ip", "netns", "exec", netns, sys.executable, "-I", "-S", str(PROGRAM)]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        self._reader = threading.Thread(target=self._read, name=f"agent in {netns}", daemon=True)
        self._reader.start()

    def submit(self, command: str, **arguments: Any) -> Future[Any]:
        """Send a request; the future's exception is a LabError when the agent could not do it."""
        future: Future[Any] = Future()
        number = next(self._numbers)
        line = json.dumps({"id": number, "command": command, "arguments": arguments}) + "\n"
        assert self._process.stdin is not None
        with self._lock:
            self._waiting[number] = future
            try:
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()
            except (OSError, ValueError) as problem:
                del self._waiting[number]
                raise LabError(f"the agent is gone: {tail(self._log)}") from problem
        return future

    def close(self) -> None:
        """The agent ends when its input does, and takes its sockets with it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass  # it was gone already
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            with self._lock:
                future = self._waiting.pop(answer["id"])
            if "error" in answer:
                future.set_exception(LabError(answer["error"]))
            else:
                future.set_result(answer["result"])
        with self._lock:
            lost, self._waiting = self._waiting, {}
        for future in lost.values():
            future.set_exception(LabError(f"the agent ended without an answer: {tail(self._log)}"))


@dataclass
class Machine:
    """A virtual machine, or a host outside: one interface `eth0`.  Made by `Lab`."""

    name: str
    netns: str
    mac: str
    addresses: tuple[str, ...]  # with prefix length; the first of each version is the one that probes use
    log: Path
    _agent: Agent | None = field(default=None, repr=False)

    def address(self, version: int = 4) -> str:
        """Its first address of the IP version, without the prefix length."""
        for interface in map(ipaddress.ip_interface, self.addresses):
            if interface.version == version:
                return str(interface.ip)
        raise LabError(f"{self.name} has no IPv{version} address")

    @property
    def hosts(self) -> tuple[str, ...]:
        """All its addresses without prefix lengths, as a port of the firewall wants them."""
        return tuple(str(ipaddress.ip_interface(address).ip) for address in self.addresses)

    @property
    def link_local(self) -> str:
        """The IPv6 address that derives from its MAC (RFC 4291, appendix A), without `%eth0`."""
        octets = bytearray.fromhex(self.mac.replace(":", ""))
        octets[0] ^= 2
        identifier = bytes(octets[:3]) + b"\xff\xfe" + bytes(octets[3:])
        return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier))

    @property
    def agent(self) -> Agent:
        if self._agent is None:
            self._agent = Agent(self.netns, self.log)
        return self._agent

    def submit(self, command: str, **arguments: Any) -> Future[Any]:
        return self.agent.submit(command, **arguments)

    def call(self, command: str, wait: float = 60, **arguments: Any) -> Any:
        """The agent's answer; raises LabError with the reason when there is none."""
        try:
            return self.agent.submit(command, **arguments).result(wait)
        except TimeoutError as late:
            raise LabError(f"{self.name}: {command} gave no answer within {wait} s") from late

    def ip(self, *lines: str) -> None:
        """Run ip(8) command lines inside, e.g. `neigh flush all`."""
        ip(self.netns, *lines)

    def add_address(self, address: str) -> None:
        """Take one more address (with prefix length), at once; `addresses` stays what was given at first."""
        self.ip(f"addr add {address} dev eth0" + (" nodad" if ":" in address else ""))

    def del_address(self, address: str) -> None:
        self.ip(f"addr del {address} dev eth0")

    def set_mac(self, mac: str) -> None:
        """Speak with another MAC, as a spoofing tenant would; `mac` stays what was given at first."""
        self.ip(f"link set eth0 address {mac}")

    def forget_neighbours(self) -> None:
        """Empty the ARP and neighbour caches, so that the next packet has to ask again."""
        self.ip("neigh flush all")

    def close(self) -> None:
        if self._agent is not None:
            self._agent.close()
            self._agent = None
