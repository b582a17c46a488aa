"""A program that answers each line of JSON on its standard input with a line of JSON."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

Json = dict[str, Any]
NODE = Path(__file__).parent / "node"


class Lines:
    """Such a program, from the first call until `close`."""

    def __init__(self, *argv: str | Path) -> None:
        assert (NODE / "node_modules").is_dir(), "the clients from npm are not installed: run scripts/install-clients"
        self._process = subprocess.Popen(
            argv, cwd=NODE, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def send(self, message: Json) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def ask(self, message: Json) -> Json:
        self.send(message)
        assert self._process.stdout is not None
        answer: Json = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """Ends it, as the end of its input does."""
        self._process.communicate(timeout=20)
