"""Connections to measure on, and the switch between the two implementations."""

from __future__ import annotations

import contextlib
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import cast

import stillalive
from stillalive import _impl
from stillalive._backend import Backend

__all__ = [
    "Pair",
    "allow_descriptors",
    "on_path",
    "pair",
    "pairs",
    "reset",
    "using",
    "verify_switch",
    "wait_for",
]

Pair = tuple[socket.socket, socket.socket]


@contextlib.contextmanager
def pairs(number: int) -> Iterator[list[Pair]]:
    """Make `number` connections over loopback; all are closed at the end."""
    allow_descriptors(2 * number + 64)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
        made: list[Pair] = []
        for _ in range(number):
            client = stack.enter_context(socket.create_connection(listener.getsockname()))
            server = stack.enter_context(listener.accept()[0])
            made.append((client, server))
        yield made


@contextlib.contextmanager
def pair() -> Iterator[Pair]:
    """Make one connection over loopback."""
    with pairs(1) as made:
        yield made[0]


def allow_descriptors(number: int) -> None:
    """Raise the limit of open descriptors, as far as that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        allowed = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def reset(sock: socket.socket) -> None:
    """Close a socket so that its peer is sent a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until loopback has delivered something."""
    end = time.monotonic() + 5
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not arrive")
        time.sleep(0.001)


@contextlib.contextmanager
def using(backend: Backend) -> Iterator[None]:
    """Let the public functions run on this implementation."""
    before = _impl.backend
    _impl.backend = backend
    try:
        yield
    finally:
        _impl.backend = before


def on_path(backend: Backend, run: Callable[[int], float]) -> Callable[[int], float]:
    """Return a timing loop that runs on this implementation."""

    def switched(repeats: int) -> float:
        with using(backend):
            return run(repeats)

    return switched


class _SwitchedError(Exception):
    pass


class _NoBackend:
    def __getattr__(self, name: str) -> object:
        raise _SwitchedError(name)


def verify_switch() -> None:
    """Fail if a public function does not follow the switch: it would be measured twice."""
    with pair() as (client, _), using(cast(Backend, _NoBackend())):
        calls: dict[str, Callable[[], object]] = {
            "check": lambda: stillalive.check(client),
            "describe": lambda: stillalive.describe(client),
            "probe": lambda: stillalive.probe(client),
            "tune": lambda: stillalive.tune(client, idle=60),
            "Selector": stillalive.Selector,
        }
        for name, call in calls.items():
            try:
                call()
            except _SwitchedError:
                continue
            raise RuntimeError(f"{name}() does not follow the choice of the implementation")
