"""Programs that run inside a machine and make connections: `loads.py serve|open`.  The standard library alone.

Who serves answers each connection with two bytes and closes it.  Who opens does so from a source port that is its own
for each connection, so that no connection tracker meets a tuple again that it may still remember.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time

AT_ONCE = 16  # connections that one client has open


def serve(address: str, port: int) -> None:
    with socket.create_server((address, port), backlog=4096) as listener:
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            connection.sendall(b"ok")
            connection.close()


def open_connections(source: str, first_port: int, target: str, port: int, count: int) -> float:
    """Seconds that it takes to open, hear and close so many connections."""
    poll = selectors.DefaultSelector()
    opened = done = 0
    start = time.perf_counter()
    while done < count:
        while opened < count and opened - done < AT_ONCE:
            one = socket.socket()
            one.setblocking(False)
            one.bind((source, first_port + opened))
            one.connect_ex((target, port))
            poll.register(one, selectors.EVENT_READ)
            opened += 1
        ready = poll.select(5)
        if not ready:
            raise TimeoutError(f"{done} of {count} connections, and no more within 5 s")
        for key, _ in ready:
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock.recv(16) != b"ok":
                raise ConnectionError("closed without an answer")
            poll.unregister(sock)
            sock.close()
            done += 1
    return time.perf_counter() - start


def main(what: str, *words: str) -> None:
    if what == "serve":
        serve(words[0], int(words[1]))
    elif what == "open":
        print(open_connections(words[0], int(words[1]), words[2], int(words[3]), int(words[4])))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
