"""Servers with and without a Guard, each in a process of its own.

``python -m benchmarks.guarded_servers KIND plain|guard|stats|limit`` prints its
port, and ends when stdin does. With ``stats`` the limits are so short that every
connection is looked at all the time, and each line on stdin is answered with
the Guard's counters. With ``limit`` plain C looks as often instead, from the
first line on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable

from stillalive import Guard

from .native import Looked, Native

__all__ = ["KINDS"]

_BODY = b"hello"
_SHORT_S = 2


async def _asgi(scope, receive, send) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    headers = [(b"content-length", b"5"), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _BODY})


def _wsgi(environ, start_response):
    start_response("200 OK", [("Content-Length", "5"), ("Content-Type", "text/plain")])
    return [_BODY]


def _listener() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _uvicorn(listener: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(_asgi, log_level="error", access_log=False, timeout_keep_alive=75)
    uvicorn.Server(config).run(sockets=[listener])


def _gunicorn(listener: socket.socket) -> None:
    from gunicorn.app.base import BaseApplication

    class Application(BaseApplication):
        def load_config(self) -> None:
            self.cfg.set("bind", [f"fd://{listener.fileno()}"])
            self.cfg.set("worker_class", "gthread")
            self.cfg.set("threads", 4)
            self.cfg.set("keepalive", 75)
            self.cfg.set("loglevel", "critical")

        def load(self):
            return _wsgi

    os.set_inheritable(listener.fileno(), True)
    Application().run()


class _Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.write = transport.write

    def data_received(self, data):
        self.write(data)


def _echo(listener: socket.socket) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Echo, sock=listener)
        await server.serve_forever()

    asyncio.run(serve())


KINDS: dict[str, Callable[[socket.socket], None]] = {
    "uvicorn": _uvicorn,
    "gunicorn": _gunicorn,
    "echo": _echo,
}


class _Plain:
    """The looks without what a Guard adds."""

    def __init__(self) -> None:
        self._native = Native()
        self._looked: Looked | None = None

    def stats(self) -> dict[str, int]:
        """Return the counters as a Guard does."""
        if self._looked is None:
            self._looked = self._native.looks(_connections(), _SHORT_S * 1000)
        took_us = self._looked.took // 1000
        return {"looks": self._looked.looks, "cpu_us": took_us, "passes": 0, "pass_cpu_us": 0}


def _connections() -> list[int]:
    found = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # this very folder, or not connected
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                with socket.socket(fileno=os.dup(fd)) as copy:
                    if copy.family == socket.AF_INET and copy.getpeername():
                        found.append(fd)
    random.shuffle(found)  # as activity is, and with it what is due
    return found


def _listen_to_stdin(stats: Callable[[], dict[str, int]]) -> None:
    for _ in sys.stdin:
        print(json.dumps(stats()), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def _stats_of(how: str) -> Callable[[], dict[str, int]]:
    if how == "plain":
        return dict
    if how == "limit":
        return _Plain().stats
    limit = 60 if how == "guard" else _SHORT_S
    # Thousands of clients take longer than 2 s to connect: none is to be ended.
    return (
        Guard(never_spoke=limit, unanswered=limit, answered=limit, dry_run=how == "stats")
        .start()
        .stats
    )


def main() -> None:
    """Run one of them."""
    kind, how = sys.argv[1:]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    stats = _stats_of(how)
    listener = _listener()
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=_listen_to_stdin, args=(stats,), daemon=True).start()
    KINDS[kind](listener)


if __name__ == "__main__":
    main()
