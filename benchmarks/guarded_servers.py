"""Servers with and without a Guard, each in a process of its own.

``python -m benchmarks.guarded_servers KIND plain|guard|stats`` prints its port,
and ends when stdin does. With ``stats`` the limits are so short that every
connection is looked at all the time, and each line on stdin is answered with
the Guard's counters.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable

from stillalive import Guard

__all__ = ["KINDS"]

_BODY = b"hello"


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


def _listen_to_stdin(guard: Guard | None) -> None:
    for _ in sys.stdin:
        print(json.dumps({} if guard is None else guard.stats()), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run one of them."""
    kind, how = sys.argv[1:]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    guard = None
    if how != "plain":
        limit = 60 if how == "guard" else 2
        # Thousands of clients take longer than 2 s to connect: none is to be ended.
        guard = Guard(
            never_spoke=limit, unanswered=limit, answered=limit, dry_run=how == "stats"
        ).start()
    listener = _listener()
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=_listen_to_stdin, args=(guard,), daemon=True).start()
    KINDS[kind](listener)


if __name__ == "__main__":
    main()
