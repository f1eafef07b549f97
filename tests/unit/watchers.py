"""A Watcher that a test drives step by step, and a place with connections for it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Self

import pytest

from stillalive._backend import (
    DEED_ABORT,
    NO_TIME,
    Backend,
    FirstLookLike,
    Info,
    Occurrence,
    WatcherLike,
    WatcherSettings,
)

PATIENCE = 10.0
"""Seconds: longer than anything here takes on a busy machine."""

TICK = 10
"""Milliseconds by which the kernel's clocks, and coarse ones, differ from the real one."""


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Driver:
    """A Watcher without its thread: time goes on in `run` and `until` only."""

    def __init__(self, watcher: WatcherLike, impl: Backend) -> None:
        self.watcher = watcher
        self.identify = impl.identify
        self.ahead_ms = 0
        """What the watcher's time is ahead of the real one."""
        self.told: list[Occurrence] = []

    def step(self) -> int:
        """Do all that is to be done now. Return the ms until there is more."""
        for _ in range(10_000):
            wait = self.watcher.step(now_ms() + self.ahead_ms)
            self.told += self.watcher.take(64, 0) or []
            if wait != 0:
                return wait
        raise AssertionError(f"a thread would spin: {self.watcher.stats()}")

    def run(self, ms: int) -> list[Occurrence]:
        """Let time go by. Return what was told since the test took it."""
        end = time.monotonic() + ms / 1000
        while True:
            wait = self.step()
            left = end - time.monotonic()
            if left <= 0:
                return self.told
            time.sleep(min(left, 0.02, wait / 1000 if wait > 0 else 1))

    def until(self, met: Callable[[], object]) -> list[Occurrence]:
        """Let time go by until something is so."""
        end = time.monotonic() + PATIENCE
        while not met():
            assert time.monotonic() < end, (self.told, self.watcher.stats())
            self.run(5)
        return self.told

    def tell(self, count: int = 1) -> list[Occurrence]:
        """Wait until so much is told, and take it."""
        told = self.until(lambda: len(self.told) >= count)
        assert len(told) == count, told
        self.told = []
        return told

    def leap(self, ms: int, stride: int = 400) -> None:
        """Move the watcher's time alone, not so fast that it would look like a stall."""
        while ms > 0:
            self.ahead_ms += min(ms, stride)
            ms -= stride
            self.step()

    def watch(
        self,
        sock: socket.socket,
        *,
        idle: int = NO_TIME,
        detect: int = NO_TIME,
        deed: int = DEED_ABORT,
        first: FirstLookLike | None = None,
    ) -> int:
        fd = sock.fileno()
        return self.watcher.watch(fd, self.identify(fd), detect, idle, deed, first)

    def stats(self, name: str) -> int:
        return self.watcher.stats()[name]


def bare_watcher(impl: Backend, queue: int = 1000, **settings: object) -> WatcherLike:
    """Make a Watcher that nobody drives and nobody stops."""
    if not hasattr(impl, "Watcher"):
        pytest.skip("this backend has no Watcher")
    return impl.Watcher(WatcherSettings(**settings), queue)  # type: ignore[arg-type]


@contextlib.contextmanager
def make_watcher(impl: Backend, queue: int = 1000, **settings: object) -> Iterator[Driver]:
    """Make a Watcher with these settings, to be driven."""
    watcher = bare_watcher(impl, queue, **settings)
    try:
        yield Driver(watcher, impl)
    finally:
        watcher.stop()


class Place:
    """A listener, and connections to it with both ends at hand: (client, server)."""

    def __init__(self, family: int = socket.AF_INET, host: str = "", port: int = 0) -> None:
        self.family = family
        host = host or ("::1" if family == socket.AF_INET6 else "127.0.0.1")
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.listener.bind((host, port))
        self.listener.listen(128)
        self.address = self.listener.getsockname()[:2]
        self.port: int = self.address[1]
        self.ends: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.listener.close()
        for end in self.ends:
            end.close()

    def connect(self) -> tuple[socket.socket, socket.socket]:
        client = socket.create_connection(self.address, timeout=PATIENCE)
        server, _ = self.listener.accept()
        server.settimeout(PATIENCE)
        self.ends += client, server
        return client, server

    def asked(self) -> tuple[socket.socket, socket.socket]:
        """One that has asked, and whose question was read."""
        client, server = self.connect()
        ask(client, server)
        return client, server

    def answered(self) -> tuple[socket.socket, socket.socket]:
        """One that has asked, and got its answer."""
        client, server = self.asked()
        answer(client, server)
        return client, server


def ask(client: socket.socket, server: socket.socket) -> None:
    client.sendall(b"question")
    assert server.recv(100) == b"question"


def answer(client: socket.socket, server: socket.socket) -> None:
    server.sendall(b"answer")
    assert client.recv(100) == b"answer"


def all_acked(impl: Backend, sock: socket.socket) -> None:
    """Wait until the peer's kernel has everything."""
    end = time.monotonic() + PATIENCE
    while Info(*impl.tcp_info(sock.fileno())).unacked > 0:
        assert time.monotonic() < end
        time.sleep(0.005)


def is_open(*ends: socket.socket) -> bool:
    """Tell whether both ends still work, without waiting."""
    client, server = ends
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        pass
    except OSError:
        return False
    finally:
        client.settimeout(PATIENCE)
    try:
        server.send(b"?")
    except OSError:
        return False
    return client.recv(1) == b"?"


def open_numbers() -> dict[int, str]:
    """Return what this process has open."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return {fd: target for fd, target in found.items() if not target.endswith("/fd")}
