"""Windows' own sockets: what this package sets is what Winsock holds, as far as it tells."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
import threading

import pytest

from stillalive import KeepAlive, NotSupportedError, capabilities, check, tune
from stillalive._errors import os_error
from stillalive.liveness import State
from stillalive.selector import EVENT_READ, EVENT_WRITE

from .. import needs
from .serving import PATIENCE, Serving, read_all, until

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="Winsock is on Windows only")

R, W = EVENT_READ, EVENT_WRITE


def keepalive(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_the_times_are_set_together(impl, tcp_pair):
    needs.options(impl, "idle", "interval", "count")
    a, b = tcp_pair()
    held = tune(a, idle=60, interval=10, count=5)
    assert (held.enabled, held.idle, held.interval, held.count) == (True, 60, 10, 5)
    assert keepalive(a) == 1
    assert keepalive(b) == 0
    a.sendall(b"still there")
    assert b.recv(20) == b"still there"


def test_off_switches_off(impl, tcp_pair):
    needs.options(impl)
    a, _ = tcp_pair()
    tune(a, idle=60, interval=10)
    tune(a, KeepAlive.OFF)
    assert keepalive(a) == 0


def test_an_option_says_whether_it_is_there(impl, tcp_pair):
    """Old systems, and wine 8, have no deadline for data in flight."""
    a, _ = tcp_pair()
    if capabilities().options["user_timeout"].supported:
        assert tune(a, user_timeout=30).user_timeout == 30
    else:
        with pytest.raises(NotSupportedError) as refusal:
            tune(a, user_timeout=30)
        assert refusal.value.errno == errno.ENOPROTOOPT
        assert keepalive(a) == 0


def test_a_connection_is_open_until_its_peer_ends_it(impl, tcp_pair):
    a, b = tcp_pair()
    assert check(a).state is State.OPEN
    b.shutdown(socket.SHUT_WR)
    until(lambda: check(a).state is State.PEER_CLOSED)
    a.sendall(b"answer")
    assert b.recv(6) == b"answer"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ECONNRESET, ConnectionResetError),
        (errno.ECONNABORTED, ConnectionAbortedError),
        (errno.ECONNREFUSED, ConnectionRefusedError),
        (errno.ETIMEDOUT, TimeoutError),
    ],
)
def test_an_error_has_its_class_and_its_meaning(code, kind):
    error = os_error(code)
    assert type(error) is kind
    assert "unknown" not in str(error).lower()


def test_a_refused_connection_is_shown(selector):
    with socket.socket() as taken, socket.socket() as client:
        taken.bind(("127.0.0.1", 0))
        client.setblocking(False)
        client.connect_ex(taken.getsockname())
        selector.register(client, W, "it")
        assert [key.data for key, _ in selector.select(PATIENCE)] == ["it"]
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_a_peers_end_gives_no_peace_to_nobody(impl):
    """Who cannot write yet to a peer that has ended its side does not keep the loop awake."""
    large = bytes(8_000_000)

    def answer(protocol, _):
        protocol.transport.write(large)
        protocol.transport.write_eof()

    with Serving(answer=answer, stay_open=True) as serving:
        client = serving.connect()
        client.sendall(b"x")
        until(lambda: serving.stats()["buffered"])
        client.shutdown(socket.SHUT_WR)
        until(lambda: "eof" in serving.made[0].log)
        other = serving.connect()
        other.sendall(b"y")
        assert len(read_all(client)) == len(large)


def test_a_peers_end_is_not_readiness_to_write(selector, pair):
    a, b = pair()
    a.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            a.send(bytes(1_000_000))
    b.shutdown(socket.SHUT_WR)
    selector.register(a, W, "a")
    assert selector.select(0.1) == []
    selector.modify(a, R | W, "a")
    assert [mask for _, mask in selector.select(PATIENCE)] == [R]


def test_a_wake_ends_a_wait(selector):
    timer = threading.Timer(0.05, selector.wake)
    timer.start()
    assert selector.select(PATIENCE) == []
    timer.join()


@pytest.mark.parametrize("make", ["ProactorEventLoop", "SelectorEventLoop"])
def test_the_transports_of_both_loops_can_be_tuned(impl, make):
    needs.options(impl)

    async def answer(reader, writer) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()

    async def main() -> bool:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            held = tune(writer, idle=60, interval=10)
            found = check(writer).state is State.OPEN
            writer.close()
            await writer.wait_closed()
            return held.enabled is True and found

    with asyncio.Runner(loop_factory=getattr(asyncio, make)) as runner:
        assert runner.run(main())
