"""eventlet's WSGI server with an application of one line: what a request costs before anything of ours is done.

python -m bench.bare_server PORT
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import eventlet
from eventlet import wsgi


def hello(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello\n"]


if __name__ == "__main__":
    wsgi.server(eventlet.listen(("127.0.0.1", int(sys.argv[1])), reuse_port=False), hello, log_output=False)
