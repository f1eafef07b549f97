"""Server: closing it from everywhere, interrupts, forks, and trouble in accept."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from stillalive._errors import ConnectionEndedError

from .. import needs
from .serving import PATIENCE, Serving, echo, read, read_all, reset, until

only_posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and processes")


def shut_down(protocol):
    """Check that closing the server ended it."""
    error = protocol.was_lost().exception
    assert type(error) is ConnectionEndedError
    return (error.reason, protocol.reason) == ("shutdown", "shutdown")


# ---- closing ----------------------------------------------------------------


def test_close_from_another_thread_returns_when_serving_has_ended(impl):
    with Serving() as serving:
        client = serving.connect()
        threading.Timer(0.05, client.close).start()
        serving.server.close()
        serving.thread.join(1)
        serving.thread.join(5)
        assert not serving.thread.is_alive()
        assert shut_down(serving.made[0])
        with pytest.raises(ConnectionRefusedError):
            serving.connect()
        assert serving.stats()["ended_shutdown"] == 1


def test_who_owes_nothing_is_ended_at_once(impl):
    with Serving(answer=echo) as serving:
        client = serving.connect()
        client.sendall(b"q")
        read(client, 1)
        closer = threading.Thread(target=serving.server.close)
        begin = time.monotonic()
        closer.start()
        assert read_all(client) == b""
        assert time.monotonic() - begin < 1
        client.close()
        closer.join(PATIENCE)


def test_who_owes_an_answer_may_give_it(impl):
    with Serving() as serving:
        client, driver = serving.connect(), serving.connect()
        client.sendall(b"question")
        until(lambda: serving.made[0].data)
        first = serving.made[0]
        closer = threading.Thread(target=serving.server.close, args=(PATIENCE,))
        serving.in_server(driver, closer.start)
        until(lambda: serving.stats()["open"] == 2 and not can_connect(serving))
        assert not first.lost.is_set()

        def reply():
            first.transport.write(b"an")
            first.transport.write(b"swer")

        serving.in_server(driver, reply)
        assert read_all(client) == b"answer"
        assert shut_down(first)
        client.close()
        driver.close()
        closer.join(PATIENCE)
        assert not closer.is_alive()


def can_connect(serving):
    with socket.socket() as attempt:
        return attempt.connect_ex(serving.address) == 0


def test_unsent_bytes_are_sent_before_the_end(impl):
    def reply(protocol, data):
        protocol.transport.write(b"x" * 8_000_000)

    with Serving(answer=reply) as serving:
        client = serving.connect()
        client.sendall(b"q")
        until(lambda: serving.stats()["buffered"] > 0)
        closer = threading.Thread(target=serving.server.close, args=(PATIENCE,))
        closer.start()
        assert len(read_all(client)) == 8_000_000
        client.close()
        closer.join(PATIENCE)
        assert not closer.is_alive()


@needs.resets
def test_after_the_timeout_the_rest_is_aborted(impl):
    with Serving() as serving:
        client = serving.connect()
        client.sendall(b"never answered")
        until(lambda: serving.made[0].data)
        begin = time.monotonic()
        serving.server.close(0.2)
        assert 0.2 <= time.monotonic() - begin < 1
        assert shut_down(serving.made[0])
        with pytest.raises(ConnectionResetError):
            read_all(client)


@needs.resets
def test_timeout_0_aborts_at_once(impl):
    with Serving() as serving:
        clients = [serving.connect() for _ in range(3)]
        clients[0].sendall(b"never answered")
        until(lambda: serving.made[0].data)
        begin = time.monotonic()
        serving.server.close(0)
        assert time.monotonic() - begin < 1
        assert all(shut_down(protocol) for protocol in serving.made)
        for client in clients:
            with pytest.raises(ConnectionResetError):
                read_all(client)


def test_timeout_0_waits_for_no_lingering_socket(impl):
    with Serving(answer=lambda protocol, data: protocol.transport.close()) as serving:
        serving.connect().sendall(b"x")
        until(lambda: serving.stats()["lingering"] == 1)
        begin = time.monotonic()
        serving.server.close(0)
        assert time.monotonic() - begin < 1
        assert serving.stats()["lingering"] == 0


def test_the_shortest_of_several_timeouts_counts(impl):
    with Serving() as serving:
        client = serving.connect()
        client.sendall(b"never answered")
        until(lambda: serving.made[0].data)
        closers = [
            threading.Thread(target=serving.server.close, args=arguments)
            for arguments in ((), (PATIENCE,))
        ]
        for closer in closers:
            closer.start()
        begin = time.monotonic()
        serving.server.close(0.1)
        assert time.monotonic() - begin < 1
        for closer in closers:
            closer.join(1)
            assert not closer.is_alive()


def test_close_from_a_callback_asks_and_returns(impl):
    def answer(protocol, data):
        protocol.transport.write(b"bye")
        protocol.serving.server.close()
        protocol.log.append("asked")

    with Serving(answer=answer) as serving:
        client = serving.connect()
        client.sendall(b"x")
        assert read_all(client) == b"bye"
        client.close()
        serving.thread.join(PATIENCE)
        serving.thread.join(5)
        assert not serving.thread.is_alive()
        assert serving.made[0].log == ["made", "data", "asked", "lost"]


def test_close_again_is_harmless(impl):
    with Serving() as serving:
        for _ in range(3):
            serving.server.close()
            serving.server.close(5)
    serving.server.close()


@pytest.mark.parametrize(
    ("timeout", "kind"), [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError)]
)
def test_a_wrong_timeout_does_not_close(impl, timeout, kind):
    with Serving() as serving:
        with pytest.raises(kind, match="timeout="):
            serving.server.close(timeout)
        assert serving.connect()


@pytest.mark.parametrize("timeout", [20_000_000, 1e300])
def test_a_very_long_timeout_is_as_good_as_the_longest(impl, timeout):
    with Serving() as serving:
        serving.server.close(timeout)
        serving.thread.join(5)
        assert not serving.thread.is_alive()


def test_close_before_serving_ends_it(impl):
    with Serving(start=False) as serving:
        serving.server.close()
        assert not can_connect(serving)
        serving.server.serve_forever()
        with pytest.raises(RuntimeError, match="once"):
            serving.server.serve_forever()


def test_serving_twice_is_refused(impl):
    with Serving(answer=echo) as serving:
        client = serving.connect()
        with pytest.raises(RuntimeError, match="once"):
            serving.server.serve_forever()
        client.sendall(b"x")
        assert read(client, 1) == b"x"
        client.close()
        serving.server.close()
        with pytest.raises(RuntimeError, match="once"):
            serving.server.serve_forever()


# ---- interrupts -------------------------------------------------------------


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_from_a_callback_comes_out_and_close_ends_the_rest(impl, interrupt):
    def answer(protocol, data):
        raise interrupt

    with Serving(answer=answer) as serving:
        client, other = serving.connect(), serving.connect()
        client.sendall(b"x")
        serving.thread.join(PATIENCE)
        assert type(serving.raised) is interrupt
        assert [protocol.lost.is_set() for protocol in serving.made] == [False, False]
        other.close()
        serving.server.close(0)
        assert all("lost" in protocol.log for protocol in serving.made)
        assert serving.errors == []


@only_posix
def test_close_from_a_signal_handler(impl, monkeypatch):
    with Serving(start=False) as serving:
        before = signal.signal(signal.SIGALRM, lambda *_: serving.server.close(0))
        try:
            begin = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            serving.server.serve_forever()
            assert 0.09 < time.monotonic() - begin < PATIENCE
        finally:
            signal.signal(signal.SIGALRM, before)
        assert not can_connect(serving)


@only_posix
def test_a_signal_handler_that_raises_ends_serving(impl):
    def handler(*_):
        raise KeyboardInterrupt

    def serve():
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        serving.server.serve_forever()

    with Serving(start=False) as serving:
        before = signal.signal(signal.SIGALRM, handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                serve()
        finally:
            signal.signal(signal.SIGALRM, before)
        assert can_connect(serving)
        serving.server.close(0)
        assert not can_connect(serving)


# ---- processes and listeners ------------------------------------------------


@only_posix
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_server_made_before_a_fork_serves_in_the_child(impl):
    with Serving(start=False, answer=echo) as serving:
        child = os.fork()
        if child == 0:
            threading.Timer(PATIENCE, os._exit, (3,)).start()
            with contextlib.suppress(BaseException):
                serving.server.serve_forever()
            os._exit(0)
        try:
            client = serving.connect(wait=False)
            client.sendall(b"to the child")
            assert read(client, 12) == b"to the child"
            assert serving.made == []
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@only_posix
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_cannot_close_what_its_parent_serves(impl):
    with Serving(answer=echo) as serving:
        client = serving.connect()
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                try:
                    serving.server.close(0)
                except RuntimeError as error:
                    code = 0 if "process" in str(error) else 2
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        client.sendall(b"still")
        assert read(client, 5) == b"still"


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="this system has none")
def test_two_servers_share_a_port(impl):
    first = socket.create_server(("127.0.0.1", 0), reuse_port=True)
    second = socket.create_server(first.getsockname(), reuse_port=True)
    with (
        Serving(listener=first, answer=echo) as one,
        Serving(listener=second, answer=echo) as other,
    ):
        end = time.monotonic() + PATIENCE
        while not (one.made and other.made) and time.monotonic() < end:
            client = one.connect(wait=False)
            client.sendall(b"x")
            assert read(client, 1) == b"x"
        assert one.made
        assert other.made


EXHAUSTED = """
import asyncio, errno, resource, socket, sys, threading, time
from stillalive import _impl
_impl.backend = _impl.choose(sys.argv[1])
from stillalive.server import Server

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

told = []
listener = socket.create_server(("127.0.0.1", 0), backlog=64)
address = listener.getsockname()
server = Server(listener, Echo, on_error=lambda *it: told.append(it))
clients = [socket.socket() for _ in range(40)]
used = clients[-1].fileno()
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 11, used + 11))
thread = threading.Thread(target=server.serve_forever)
thread.start()
for client in clients:
    client.settimeout(10)
    client.connect(address)
    client.sendall(b"x")
for _ in range(2):
    begin, cpu = time.monotonic(), time.process_time()
    time.sleep(0.5)
    assert time.process_time() - cpu < 0.25, "it does not rest"
    stats = server.stats()
    assert 5 <= stats["accepted"] < 40, stats
    assert 2 <= stats["refused"] <= 16, stats
    assert [(error.errno, transport) for error, transport in told] == [(errno.EMFILE, None)], told
for client in clients:  # those who are served make room for those who wait
    assert client.recv(1) == b"x"
    client.close()
while server.stats()["open"]:
    time.sleep(0.01)
server.close(10)
thread.join()
stats = server.stats()
assert stats["accepted"] == stats["ended_peer"] == 40, stats
print("fine")
"""


@needs.limits
def test_without_descriptors_accepting_rests_and_is_told_once(impl):
    name = "pure" if impl.NAME == "pure" else "c"
    done = subprocess.run(
        [sys.executable, "-c", EXHAUSTED, name], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")


@needs.resets
def test_a_connection_reset_in_the_backlog_is_harmless(impl):
    with Serving(start=False, answer=echo) as serving:
        for _ in range(5):
            reset(serving.connect(wait=False))
        serving.thread.start()
        try:
            until(lambda: serving.stats()["open"] == 0 and serving.stats()["accepted"])
            client = serving.connect(wait=False)
            client.sendall(b"x")
            assert read(client, 1) == b"x"
            assert serving.errors == []
        finally:
            serving.server.close(0)
            serving.thread.join(PATIENCE)


def test_a_closed_server_leaves_no_descriptor(impl):
    before = needs.descriptors_in_use()
    for _ in range(3):
        with Serving() as serving:
            serving.connect().sendall(b"x")
            serving.connect()
    assert needs.descriptors_in_use() == before
