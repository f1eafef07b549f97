"""The demo's second server: one of our own, whose silent clients must go and no other."""

from __future__ import annotations

import contextlib
import selectors
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from ..server import Server

__all__ = ["DESCRIPTORS", "LATE", "LIMIT", "IdleClient", "run_idle_part"]

LIMIT = 1.5
"""The idle timeout in seconds."""
LATE = 0.5
"""What is allowed beyond: the promise is 40 ms, the rest is for a busy machine."""
_TALK_EVERY = 0.3
_WATCHED = LIMIT + LATE + 0.5
_LARGE = b"x" * 4_000_000
"""More than both kernels hold for a client that does not read."""

_KINDS = {
    "talking": 10,  # every 0.3 s
    "slow": 4,  # does not read its answer
    "silent": 10,  # never says a word
    "quiet": 10,  # idle after an echo
}
"""How many of each kind; the first two are to be left alone."""
DESCRIPTORS = 2 * sum(_KINDS.values()) + 8


@dataclass(slots=True)
class IdleClient:
    """One client, and what became of its connection."""

    kind: str
    sock: socket.socket
    address: str
    last: float
    """When it connected or spoke last: the server's clock starts later; monotonic."""
    ended_after: float | None = None
    sent: int = 0
    echoed: int = 0
    wrong: bool = False

    @property
    def must_end(self) -> bool:
        return self.kind in ("silent", "quiet")


class _Echo:
    def connection_made(self, transport: object) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        write: Callable[[bytes], None] = self._transport.write  # type: ignore[attr-defined]
        write(_LARGE if data == b"much" else data)


class _PlainEcho(socketserver.BaseRequestHandler):
    """The same as servers are usually written: no deadline anywhere."""

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(4096):
                self.request.sendall(_LARGE if data == b"much" else data)


class _PlainServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False


def _guarded(stack: ExitStack) -> tuple[str, int]:
    listener = socket.create_server(("127.0.0.1", 0))
    address: tuple[str, int] = listener.getsockname()
    server = Server(listener, _Echo, idle_timeout=LIMIT)
    thread = threading.Thread(target=server.serve_forever, name="stillalive demo: Server")
    thread.start()
    stack.callback(thread.join)
    stack.callback(server.close, 0)
    return address


def _plain(stack: ExitStack) -> tuple[str, int]:
    server = _PlainServer(("127.0.0.1", 0), _PlainEcho)
    stack.callback(server.server_close)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stack.callback(server.shutdown)
    host, port = server.server_address[:2]
    return str(host), port


def run_idle_part(guarded: bool) -> list[IdleClient]:
    """Serve, let every client do what its kind does, and watch for LIMIT and a little more."""
    with ExitStack() as stack:
        address = _guarded(stack) if guarded else _plain(stack)
        clients = [_connect(kind, address, stack) for kind, n in _KINDS.items() for _ in range(n)]
        _watch(clients)
        for client in clients:
            _say_goodbye(client)
    return clients


def _connect(kind: str, address: tuple[str, int], stack: ExitStack) -> IdleClient:
    before = time.monotonic()
    sock = stack.enter_context(socket.create_connection(address, timeout=5))
    client = IdleClient(kind, sock, "{}:{}".format(*sock.getsockname()[:2]), before)
    if kind == "slow":
        sock.sendall(b"much")
    elif kind != "silent":
        _talk(client)
        client.wrong = sock.recv(64) != b"hello"
        client.echoed += 1
    return client


def _talk(client: IdleClient) -> None:
    before = time.monotonic()  # the server may take it before this thread goes on
    with contextlib.suppress(OSError):
        client.sock.sendall(b"hello")
        client.sent += 1
        client.last = before


def _watch(clients: list[IdleClient]) -> None:
    """See when connections end; let the talking ones talk."""
    with selectors.DefaultSelector() as selector:
        for client in clients:
            if client.kind != "slow":
                selector.register(client.sock, selectors.EVENT_READ, client)
        until = time.monotonic() + _WATCHED
        talk_at = time.monotonic() + _TALK_EVERY
        while (now := time.monotonic()) < until:
            for key, _ in selector.select(max(0.0, min(until, talk_at) - now)):
                if not _hear(key.data):
                    selector.unregister(key.fileobj)
            if time.monotonic() >= talk_at:
                talk_at += _TALK_EVERY
                for client in clients:
                    if client.kind == "talking" and client.ended_after is None:
                        _talk(client)


def _hear(client: IdleClient) -> bool:
    """Take what has come; False at the end of the stream."""
    with contextlib.suppress(OSError):
        data = client.sock.recv(4096)
        if data:
            client.wrong |= data.replace(b"hello", b"") != b""
            client.echoed += data.count(b"hello")
            return True
    client.ended_after = time.monotonic() - client.last
    return False


def _say_goodbye(client: IdleClient) -> None:
    """Find out whether a connection that was to be left alone still works to the last byte."""
    if client.must_end or client.ended_after is not None:
        return
    wanted = len(_LARGE) if client.kind == "slow" else len(b"hello") * (client.sent - client.echoed)
    got = 0
    with contextlib.suppress(OSError):
        while got < wanted and (data := client.sock.recv(1 << 20)):
            got += len(data)
    client.wrong |= got != wanted
