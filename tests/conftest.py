"""Fixtures that every test may use: both implementations, and real connections."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from stillalive import _impl
from stillalive._backend import Backend

from .unit.guarding import clean_up

Pair = tuple[socket.socket, socket.socket]


def _implementations() -> list[str]:
    if os.environ.get("STILLALIVE_IMPL") == "pure":
        return ["pure"]
    try:
        _impl.choose("c")
    except ImportError:
        return ["pure"]
    return ["c", "pure"]


IMPLEMENTATIONS = _implementations()


@pytest.fixture(params=IMPLEMENTATIONS)
def impl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """Run the test once on each implementation, with Guards of its own."""
    chosen = _impl.choose(request.param)
    monkeypatch.setattr(_impl, "backend", chosen)
    yield chosen
    clean_up()


def connect(family: int = socket.AF_INET) -> Pair:
    """Return two connected TCP sockets on loopback."""
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    with socket.create_server((host, 0), family=family) as listener:
        client = socket.create_connection(listener.getsockname()[:2], timeout=5)
        server, _ = listener.accept()
    client.settimeout(None)
    return client, server


@pytest.fixture
def tcp_pair() -> Iterator[Callable[..., Pair]]:
    """Make pairs of connected sockets that are closed after the test."""
    with contextlib.ExitStack() as stack:

        def make(family: int = socket.AF_INET) -> Pair:
            client, server = connect(family)
            stack.enter_context(client)
            stack.enter_context(server)
            return client, server

        yield make
