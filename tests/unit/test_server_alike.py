"""Server: corners in which the two implementations could differ, and must not."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import weakref

import pytest

from .serving import PATIENCE, Recorder, Serving, read_all, until

LARGE = bytes(8_000_000)


class Buffered(asyncio.BufferedProtocol):
    """Calls `ask` when a buffer is wanted, and gives what it returns, or a good one."""

    def __init__(self, ask):
        self.ask, self.log = ask, []

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        self.buffer = bytearray(100)
        return self.ask(self) or self.buffer

    def buffer_updated(self, nbytes):
        self.log.append(bytes(self.buffer[:nbytes]))


@pytest.mark.parametrize("end", ["close", "write_eof"])
def test_a_paused_protocol_is_resumed_before_an_end_in_peace(impl, end):
    def answer(protocol, _):
        protocol.transport.set_write_buffer_limits(100_000, 1)  # passed in one go at the end
        protocol.transport.write(LARGE)
        getattr(protocol.transport, end)()

    with Serving(answer=answer) as serving:
        client = serving.connect()
        client.sendall(b"x")
        until(lambda: "pause" in serving.made[0].log)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == LARGE
        eof = ["eof"] if end == "write_eof" else []
        log = serving.made[0].was_lost().log
        assert log == ["made", "data", "pause", *eof, "resume", "lost"]


@pytest.mark.parametrize("first", ["close", "abort"])
def test_what_fails_after_the_end_is_told_but_does_not_change_it(impl, first):
    def answer(protocol, _):
        getattr(protocol.transport, first)()
        raise ValueError("too late")

    with Serving(answer=answer) as serving:
        client = serving.connect()
        client.sendall(b"x")
        protocol = serving.made[0].was_lost()
        assert (protocol.exception, protocol.reason) == (None, "owner")
        (told,) = serving.errors
        assert (str(told[0]), told[1]) == ("too late", protocol.transport)
        assert (serving.stats()["ended_owner"], serving.stats()["ended_error"]) == (1, 0)


def test_abort_after_the_last_byte_of_a_close_is_too_late(impl):
    def answer(protocol, data):
        protocol.transport.write(data)
        protocol.transport.close()
        protocol.transport.abort()

    with Serving(answer=answer) as serving:
        client = serving.connect()
        client.sendall(b"x")
        assert read_all(client) == b"x"  # a reset would raise
        assert serving.made[0].was_lost().reason == "owner"


def test_between_its_end_and_the_news_of_it_a_transport_is_over(impl):
    seen = []

    def answer(protocol, _):
        transport = protocol.transport
        transport.close()
        seen.append((transport.touch(), transport.idle_timeout, transport.is_closing()))

    with Serving(answer=answer, idle_timeout=60) as serving:
        serving.connect().sendall(b"x")
        serving.made[0].was_lost()
        assert seen == [(False, None, True)]


def test_the_socket_is_not_shown_any_more_when_the_end_is_told(impl):
    seen = []

    class Looker(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            self.shown = transport.get_extra_info("socket")

        def connection_lost(self, exc):
            seen.append((self.shown.fileno(), self.transport.get_extra_info("peername")))
            super().connection_lost(exc)

    serving = Serving(lambda: Looker(serving))
    with serving:
        client = serving.connect()
        address = client.getsockname()
        client.close()
        serving.made[0].was_lost()
        assert seen == [(-1, address)]


def test_who_pauses_while_giving_a_buffer_receives_nothing(impl):
    made = []

    def factory():
        made.append(Buffered(lambda protocol: protocol.transport.pause_reading()))
        return made[-1]

    with Serving(factory) as serving, socket.create_connection(serving.address) as client:
        client.sendall(b"x")
        until(lambda: made and hasattr(made[0], "buffer"))
        with socket.create_connection(serving.address) as other:  # the server has gone on
            other.sendall(b"x")
            until(lambda: len(made) == 2 and hasattr(made[1], "buffer"))
        assert made[0].log == []


def test_who_gave_the_buffer_is_told_of_it(impl):
    made = []

    def factory():
        made.append(Buffered(lambda protocol: protocol.transport.set_protocol(later)))
        return made[-1]

    serving = Serving(factory)
    later = Recorder(serving)
    with serving, socket.create_connection(serving.address) as client:
        client.settimeout(PATIENCE)
        client.sendall(b"first")
        until(lambda: made and made[0].log)
        client.sendall(b"second")
        until(lambda: later.data)
        assert (made[0].log, later.data) == ([b"first"], b"second")


def failing(name):
    def fail(self):
        raise ValueError("a property")

    return lambda serving: type("Failing", (asyncio.Protocol,), {name: property(fail)})()


class NoAnswer:
    def __bool__(self):
        raise ValueError("neither true nor false")


class Strange(Recorder):
    def eof_received(self):
        return NoAnswer()


def strided(serving):
    return Buffered(lambda _: memoryview(bytearray(100))[::2])


@pytest.mark.parametrize(
    "make",
    [failing("connection_made"), failing("eof_received"), Strange, strided],
    ids=["connection_made", "eof_received", "no answer", "strided"],
)
def test_no_protocol_is_strange_enough_to_stop_the_server(impl, make):
    serving = Serving(lambda: make(serving))
    with serving:
        for _ in range(2):
            with socket.create_connection(serving.address) as client:
                client.settimeout(PATIENCE)
                with contextlib.suppress(OSError):
                    client.sendall(b"x")
                    client.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    assert read_all(client) == b""
        until(lambda: serving.stats()["ended_error"] == 2)
        assert len(serving.errors) == 2


def test_an_interrupt_while_a_failure_is_told_does_not_save_the_connection(impl):
    def on_error(exception, transport):
        raise KeyboardInterrupt

    def answer(protocol, _):
        raise ValueError("the first")

    with Serving(answer=answer, on_error=on_error) as serving:
        serving.connect().sendall(b"x")
        serving.thread.join(PATIENCE)
        assert isinstance(serving.raised, KeyboardInterrupt)
        serving.server.close(5)
        assert str(serving.made[0].was_lost().exception) == "the first"
        assert serving.made[0].reason == "error"


@pytest.mark.parametrize("timeout", [0, 5])
def test_the_shutdown_is_told_to_the_oldest_first(impl, timeout):
    lost = []

    class Teller(Recorder):
        def connection_lost(self, exc):
            lost.append(self)
            super().connection_lost(exc)

    serving = Serving(lambda: Teller(serving))
    with serving:
        clients = [serving.connect() for _ in range(8)]
        closing = threading.Thread(target=serving.server.close, args=(timeout,))
        closing.start()
        until(lambda: len(lost) == 8)
        for client in clients:
            client.close()
        closing.join(PATIENCE)
        assert lost == serving.made


def test_a_closed_server_keeps_nothing_of_its_connections(impl):
    with Serving(idle_timeout=60, max_age=60) as serving:
        for _ in range(5):
            serving.connect()
        transports = [weakref.ref(protocol.transport) for protocol in serving.made]
        serving.server.close(0)
        serving.made.clear()
        gc.collect()
        assert [transport() for transport in transports] == [None] * 5
