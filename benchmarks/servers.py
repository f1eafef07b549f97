"""The servers of the benchmarks, each in a process of its own.

``python -m benchmarks.servers KIND [accept N]`` prints its port, and ends when
stdin does. All of them echo; those that can end connections that are idle for
60 s. With ``accept N`` it waits for a line on stdin first, and prints the
nanoseconds of CPU that N connections took.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import resource
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable

import stillalive
from stillalive import KeepAlive

__all__ = ["KINDS"]

LIMIT = 60.0
_BACKLOG = 4096
_KEEPALIVE = KeepAlive(idle=60, interval=10, count=4)
_READ = 65536


def _listener(*, tuned: bool = False) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tuned:
        stillalive.tune(listener, _KEEPALIVE)
    return listener


class Count:
    """Say when so many connections have come, and what CPU that took."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.left = wanted
        self.began = 0

    def start(self) -> None:
        if self.wanted:
            sys.stdin.readline()
        self.began = time.process_time_ns()

    def one(self) -> None:
        self.left -= 1
        if self.left == 0:
            print(time.process_time_ns() - self.began, flush=True)


def _until_stdin_ends(then: Callable[[], object]) -> None:
    def wait() -> None:
        sys.stdin.read()
        then()

    threading.Thread(target=wait, daemon=True).start()


# ---- stillalive ------------------------------------------------------------------------------


def _stillalive(count: Count) -> None:
    class Echo:
        def connection_made(self, transport):
            self.write = transport.write

        def data_received(self, data):
            self.write(data)

    class Counted(Echo):
        def connection_made(self, transport):
            self.write = transport.write
            count.one()

    listener = _listener()
    print(listener.getsockname()[1], flush=True)
    server = stillalive.Server(
        listener,
        Counted if count.wanted else Echo,
        idle_timeout=LIMIT,
        keepalive=_KEEPALIVE,
    )
    count.start()
    _until_stdin_ends(lambda: server.close(0))
    server.serve_forever()


def _selector(count: Count) -> None:
    """Serve by hand on a Selector, with its idle timeout."""
    listener = _listener(tuned=True)
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    sel = stillalive.Selector()
    sel.register(listener, selectors.EVENT_READ)
    sel.register(sys.stdin, selectors.EVENT_READ)
    count.start()
    while True:
        for key, mask in sel.select():
            sock = key.fileobj
            if sock is listener:
                for _ in range(64):
                    try:
                        made, _ = listener.accept()
                    except BlockingIOError:
                        break
                    made.setblocking(False)
                    sel.register(made, selectors.EVENT_READ, idle_timeout=LIMIT)
                    count.one()
            elif sock is sys.stdin:
                return
            elif mask & stillalive.EVENT_IDLE or not _answer(sock):
                sel.unregister(sock)
                sock.close()


def _answer(sock: socket.socket) -> bool:
    try:
        data = sock.recv(_READ)
        if not data:
            return False
        sock.send(data)
    except OSError:
        return False
    return True


# ---- plain Python ----------------------------------------------------------------------------


def _heap(count: Count, *, tuned: bool = False) -> None:
    """Serve with selectors, and a heap that is re-armed lazily."""
    listener = _listener()
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    sel = selectors.DefaultSelector()
    sel.register(listener, selectors.EVENT_READ)
    sel.register(sys.stdin, selectors.EVENT_READ)
    last: dict[int, float] = {}
    heap: list[tuple[float, int]] = []
    values = _KEEPALIVE.values()
    count.start()
    while True:
        ready = sel.select(1)
        now = time.monotonic()
        for key, _ in ready:
            sock = key.fileobj
            if sock is listener:
                for _ in range(64):
                    try:
                        made, _ = listener.accept()
                    except BlockingIOError:
                        break
                    made.setblocking(False)
                    if tuned:  # what one would do for each connection
                        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, values[2])
                        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, values[3])
                        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, values[1])
                    sel.register(made, selectors.EVENT_READ)
                    last[made.fileno()] = now
                    heapq.heappush(heap, (now + LIMIT, made.fileno()))
                    count.one()
            elif sock is sys.stdin:
                return
            elif _answer(sock):
                last[key.fd] = now
            else:
                sel.unregister(sock)
                del last[key.fd]
                sock.close()
        while heap and heap[0][0] <= now:
            _, fd = heapq.heappop(heap)
            if fd in last and last[fd] + LIMIT > now:
                heapq.heappush(heap, (last[fd] + LIMIT, fd))


# ---- asyncio and uvloop ----------------------------------------------------------------------


class _Echo(asyncio.Protocol):
    count: Count
    everyone: set[_Echo]

    def connection_made(self, transport):
        self.transport = transport
        self.count.one()

    def data_received(self, data):
        self.transport.write(data)


class _Stamped(_Echo):
    def connection_made(self, transport):
        super().connection_made(transport)
        self.now = asyncio.get_running_loop().time
        self.last = self.now()
        self.everyone.add(self)

    def data_received(self, data):
        self.last = self.now()
        self.transport.write(data)

    def connection_lost(self, exc):
        self.everyone.discard(self)


class _Armed(_Echo):
    def connection_made(self, transport):
        super().connection_made(transport)
        self.loop = asyncio.get_running_loop()
        self.timer = self.loop.call_later(LIMIT, transport.close)

    def data_received(self, data):
        self.timer.cancel()
        self.timer = self.loop.call_later(LIMIT, self.transport.close)
        self.transport.write(data)

    def connection_lost(self, exc):
        self.timer.cancel()


async def _scan(everyone: set[_Stamped]) -> None:
    while True:
        await asyncio.sleep(1)
        oldest = asyncio.get_running_loop().time() - LIMIT
        for one in [one for one in everyone if one.last < oldest]:
            one.transport.close()


async def _serve(protocol: type[_Echo], count: Count) -> None:
    protocol.count, protocol.everyone = count, set()
    listener = _listener()
    print(listener.getsockname()[1], flush=True)
    count.start()
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    _until_stdin_ends(lambda: loop.call_soon_threadsafe(over.set))
    server = await loop.create_server(protocol, sock=listener, backlog=_BACKLOG)
    scanning = asyncio.create_task(_scan(protocol.everyone))
    await over.wait()
    scanning.cancel()
    server.close()


async def _serve_streams(count: Count) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            while True:
                async with asyncio.timeout(LIMIT):
                    data = await reader.read(_READ)
                if not data:
                    break
                writer.write(data)
                await writer.drain()
        writer.close()

    listener = _listener()
    print(listener.getsockname()[1], flush=True)
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    _until_stdin_ends(lambda: loop.call_soon_threadsafe(over.set))
    await asyncio.start_server(answer, sock=listener, backlog=_BACKLOG)
    await over.wait()


# ---- gevent ----------------------------------------------------------------------------------


def _gevent(count: Count, *, limit: float | None) -> None:
    import gevent
    import gevent.server
    import gevent.socket

    def answer(sock, _) -> None:
        count.one()
        with contextlib.suppress(OSError):
            while True:
                data = b""
                with gevent.Timeout(limit, False):
                    data = sock.recv(_READ)
                if not data:
                    break
                sock.sendall(data)

    def answer_for_ever(sock, _) -> None:
        count.one()
        with contextlib.suppress(OSError):
            while data := sock.recv(_READ):
                sock.sendall(data)

    listener = gevent.socket.socket(fileno=_listener().detach())
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    count.start()
    server = gevent.server.StreamServer(listener, answer_for_ever if limit is None else answer)
    over = gevent.get_hub().loop.async_()
    over.start(server.stop)
    _until_stdin_ends(over.send)
    server.serve_forever(stop_timeout=0)


def _on(factory: Callable[[], asyncio.AbstractEventLoop] | None, main, *taken) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(*taken))


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop

    return uvloop.new_event_loop


def _our_selector() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(stillalive.Selector())


KINDS: dict[str, Callable[[Count], None]] = {
    "stillalive": _stillalive,
    "stillalive-selector": _selector,
    "heap": _heap,
    "heap-tuned": lambda count: _heap(count, tuned=True),
    "asyncio": lambda count: _on(None, _serve, _Echo, count),
    "asyncio-stamp": lambda count: _on(None, _serve, _Stamped, count),
    "asyncio-timer": lambda count: _on(None, _serve, _Armed, count),
    "asyncio-streams": lambda count: _on(None, _serve_streams, count),
    "asyncio-our-selector": lambda count: _on(_our_selector, _serve, _Echo, count),
    "uvloop": lambda count: _on(_uvloop(), _serve, _Echo, count),
    "uvloop-stamp": lambda count: _on(_uvloop(), _serve, _Stamped, count),
    "uvloop-timer": lambda count: _on(_uvloop(), _serve, _Armed, count),
    "uvloop-streams": lambda count: _on(_uvloop(), _serve_streams, count),
    "gevent": lambda count: _gevent(count, limit=None),
    "gevent-timeout": lambda count: _gevent(count, limit=LIMIT),
}


def main() -> None:
    """Run one of them."""
    kind, *rest = sys.argv[1:]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    KINDS[kind](Count(int(rest[1]) if rest else 0))


if __name__ == "__main__":
    main()
