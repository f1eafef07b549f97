"""Server: how connections end, by themselves, by time and by failing callbacks."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import pickle
import socket
import sys
import time
import traceback

import pytest

from stillalive._errors import ConnectionEndedError, StillAliveError, report_unraisable

from .. import needs
from .serving import PATIENCE, Recorder, Serving, echo, read, read_all, reset, run, until

# ---- broken connections -----------------------------------------------------


@needs.resets
def test_a_reset_is_told_once_with_its_error(impl):
    with Serving() as serving:
        reset(serving.connect())
        protocol = serving.made[0].was_lost()
        assert isinstance(protocol.exception, ConnectionResetError)
        assert protocol.exception.errno == errno.ECONNRESET
        assert (protocol.reason, protocol.log) == ("error", ["made", "lost"])
        assert (serving.stats()["ended_error"], serving.errors) == (1, [])


def test_a_broken_connection_is_never_told_from_inside_write(impl):
    with Serving() as serving:
        broken, driver = serving.connect(), serving.connect()
        protocol = serving.made[0]
        log = protocol.log

        def write():
            protocol.transport.pause_reading()
            reset(broken)
            end = time.monotonic() + PATIENCE
            while not protocol.transport.is_closing() and time.monotonic() < end:
                protocol.transport.write(b"x" * 1000)
            protocol.transport.write(b"more")
            return list(log)

        assert serving.in_server(driver, write) == ["made"]
        protocol.was_lost()
        assert isinstance(protocol.exception, (ConnectionResetError, BrokenPipeError))
        assert log == ["made", "lost"]


def test_the_tail_of_an_answer_survives_input_that_nobody_reads(impl):
    answer = b"a" * 300_000

    def reply(protocol, data):
        protocol.transport.write(answer)
        protocol.transport.close()

    with Serving(answer=reply) as serving:
        client = serving.connect()
        client.sendall(b"q" * 100_000)
        serving.made[0].was_lost()
        for _ in range(20):
            client.sendall(b"q" * 10_000)
            time.sleep(0.001)
        assert serving.stats()["lingering"] == 1
        assert read_all(client) == answer
        client.close()
        until(lambda: serving.stats()["lingering"] == 0)


# ---- failing callbacks ------------------------------------------------------


class Broken(Exception):
    pass


def failing(name, error):
    """Make a kind of Recorder, or of buffered protocol, whose callback `name` fails."""

    def fail(self, *arguments):
        if name == "connection_made":
            (self.transport,) = arguments
        self.log.append("failed")
        raise error

    class Buffered(asyncio.BufferedProtocol):
        def __init__(self, serving):
            Recorder.__init__(self, serving)
            self.buffer = bytearray(100)

        def get_buffer(self, sizehint):
            return self.buffer

        def buffer_updated(self, nbytes):
            pass

        connection_made = Recorder.connection_made
        connection_lost = Recorder.connection_lost
        was_lost = Recorder.was_lost

    base = Buffered if name in ("get_buffer", "buffer_updated") else Recorder
    return type("Failing", (base,), {name: fail})


@pytest.mark.parametrize(
    "name", ["connection_made", "data_received", "eof_received", "get_buffer", "buffer_updated"]
)
@pytest.mark.parametrize("make", [Broken, lambda: OSError(errno.EAGAIN, "")], ids=["own", "os"])
def test_a_failing_callback_ends_its_own_connection_only(impl, name, make):
    made, error = [], make()

    def factory():
        made.append(failing(name, error)(serving) if len(made) == 1 else Recorder(serving))
        return made[-1]

    with Serving(factory, answer=echo) as serving:
        other = serving.connect()
        client = serving.connect(wait=False)
        with contextlib.suppress(OSError):  # it may have been ended already
            client.sendall(b"data")
            client.shutdown(socket.SHUT_WR)
        until(lambda: len(made) == 2)
        protocol = made[1].was_lost()
        assert protocol.exception is error
        assert protocol.log.count("failed") == protocol.log.count("lost") == 1
        assert protocol.log[-2:] == ["failed", "lost"]
        with contextlib.suppress(ConnectionResetError):
            assert read_all(client) == b"" or needs.WINE  # no reset, so the echo arrives
        other.sendall(b"fine")
        assert read(other, 4) == b"fine"
        ((told, transport),) = serving.errors
        assert told is error
        assert transport.get_extra_info("end_reason") == "error"
        assert "fail" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert serving.stats()["ended_error"] == 1


@pytest.mark.parametrize("buffer", [bytearray(), b"read-only", None, 5], ids=repr)
def test_a_buffer_that_cannot_be_filled_ends_the_connection(impl, buffer):
    kind = failing("buffer_updated", Broken())
    kind.get_buffer = lambda self, sizehint: buffer
    with Serving(lambda: kind(serving)) as serving:
        client = serving.connect()
        client.sendall(b"x")
        protocol = serving.made[0].was_lost()
        assert isinstance(protocol.exception, (RuntimeError, TypeError, ValueError, BufferError))
        assert [told for told, _ in serving.errors] == [protocol.exception]


@pytest.mark.parametrize("name", ["pause_writing", "resume_writing"])
def test_failing_to_pause_is_told_and_the_connection_goes_on(impl, name):
    error = Broken(name)
    with Serving(lambda: failing(name, error)(serving)) as serving:
        client = serving.connect()
        run(serving, client, lambda transport: transport.write(b"x" * 8_000_000))
        assert len(read(client, 8_000_000)) == 8_000_000
        until(lambda: "failed" in serving.made[0].log)
        run(serving, client, lambda transport: transport.write(b"on"))
        assert read(client, 2) == b"on"
        assert [told for told, _ in serving.errors] == [error]


def test_a_failing_connection_lost_is_told(impl):
    error = Broken()
    with Serving(lambda: failing("connection_lost", error)(serving)) as serving:
        serving.connect().close()
        until(lambda: serving.errors)
        assert serving.errors[0][0] is error
        until(lambda: serving.stats()["open"] == 0)
        assert serving.stats()["ended_peer"] == 1
        assert serving.connect()


def test_a_failing_factory_costs_one_connection(impl):
    outcomes = [Broken(), object(), None]

    def factory():
        outcome = outcomes.pop(0)
        if isinstance(outcome, Broken):
            raise outcome
        return outcome or Recorder(serving)

    with Serving(factory, answer=echo) as serving:
        for _ in range(2):
            with contextlib.suppress(ConnectionResetError):
                assert read_all(serving.connect(wait=False)) == b""
        client = serving.connect()
        client.sendall(b"works")
        assert read(client, 5) == b"works"
        assert [type(told) for told, _ in serving.errors] == [Broken, TypeError]
        assert [transport for _, transport in serving.errors] == [None, None]
        assert serving.stats()["ended_error"] == 2


def test_by_default_errors_are_reported_as_unraisable(impl, monkeypatch):
    caught = []
    monkeypatch.setattr(sys, "unraisablehook", caught.append)
    error = Broken("it")
    kind = failing("data_received", error)
    with Serving(lambda: kind(serving), on_error=None) as serving:
        client = serving.connect()
        client.sendall(b"x")
        serving.made[0].was_lost()
        until(lambda: caught)
        assert [found.exc_value for found in caught] == [error]
        frames = [frame.name for frame in traceback.extract_tb(caught[0].exc_traceback)]
        assert "fail" in frames


def test_a_failing_on_error_is_reported_and_the_server_goes_on(impl, monkeypatch):
    caught = []
    monkeypatch.setattr(sys, "unraisablehook", caught.append)
    failure = Broken("in on_error")

    def on_error(exception, transport):
        raise failure

    kind = failing("data_received", Broken("first"))
    with Serving(lambda: kind(serving), on_error=on_error) as serving:
        client = serving.connect()
        client.sendall(b"x")
        serving.made[0].was_lost()
        until(lambda: caught)
        assert [found.exc_value for found in caught] == [failure]
        assert serving.connect()


def test_what_nobody_can_catch_is_reported_without_a_cycle(monkeypatch):
    caught = []
    monkeypatch.setattr(sys, "unraisablehook", caught.append)
    error = Broken()
    report_unraisable(error, "somewhere")
    assert caught[0].exc_value is error
    assert repr(caught[0].object) == "somewhere"
    held = [
        value
        for frame, _ in traceback.walk_tb(error.__traceback__)
        for value in frame.f_locals.values()
    ]
    assert error not in held


# ---- the server's own reasons -----------------------------------------------


def ended(protocol, reason):
    """Check that the server ended it, and why."""
    error = protocol.was_lost().exception
    assert type(error) is ConnectionEndedError
    return (error.reason, protocol.reason) == (reason, reason)


def test_the_reasons_are_readable_errors():
    for reason in ("idle", "shed", "age", "shutdown"):
        error = pickle.loads(pickle.dumps(ConnectionEndedError(reason)))
        assert (error.reason, error.errno) == (reason, None)
        assert isinstance(error, ConnectionError)
        assert isinstance(error, StillAliveError)
        assert str(error).startswith("connection ended by the server: ")


def test_an_idle_connection_is_ended_and_not_early(impl):
    with Serving(idle_timeout=0.2) as serving:
        begin = time.monotonic()
        client = serving.connect(wait=False)
        assert read_all(client) == b""
        assert time.monotonic() - begin >= 0.2
        assert ended(serving.made[0], "idle")
        assert serving.stats()["ended_idle"] == 1


def test_idle_time_counts_from_the_last_byte(impl):
    with Serving(idle_timeout=30, frozen=True) as serving:
        silent, driver = serving.connect(), serving.connect()
        serving.advance(driver, 20)
        serving.advance(driver, 9.9)
        assert serving.stats()["open"] == 2
        serving.advance(driver, 0.2)
        assert read_all(silent) == b""
        assert ended(serving.made[0], "idle")
        assert not serving.made[1].lost.is_set()


def test_what_is_written_and_touched_is_not_idle(impl):
    with Serving(idle_timeout=30, frozen=True) as serving:
        serving.connect(), serving.connect()
        written, touched, left = (*serving.made, None)
        driver = serving.connect()
        left = serving.made[2]
        run(serving, driver, lambda transport: setattr(transport, "idle_timeout", None))
        forgotten = serving.connect() and serving.made[3]
        for _ in range(3):
            serving.advance(driver, 20)
            serving.in_server(driver, lambda: written.transport.write(b"x"))
            assert serving.in_server(driver, touched.transport.touch) is True
        assert ended(forgotten, "idle")
        assert [p.lost.is_set() for p in (written, touched, left)] == [False] * 3
        assert serving.in_server(driver, forgotten.transport.touch) is False


def test_who_is_touched_before_its_end_is_told_stays(impl):
    class Rescuer(Recorder):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            for other in self.serving.made:
                other.transport.touch()

    with Serving(lambda: Rescuer(serving), idle_timeout=30, frozen=True) as serving:
        for _ in range(3):
            serving.connect()
        serving.advance(serving.connect(), 10)
        driver = serving.connect()
        serving.advance(driver, 21)
        assert sum(protocol.lost.is_set() for protocol in serving.made) == 1


def test_each_connection_may_have_its_own_idle_timeout(impl):
    with Serving(idle_timeout=30, frozen=True) as serving:
        serving.connect()
        driver = serving.connect()
        shorter, never = serving.made

        def change():
            before = shorter.transport.idle_timeout
            shorter.transport.idle_timeout = 5
            never.transport.idle_timeout = None
            return before, shorter.transport.idle_timeout, never.transport.idle_timeout

        assert serving.in_server(driver, change) == (30, 5, None)
        serving.advance(driver, 5.1)
        assert ended(shorter, "idle")
        serving.advance(driver, 1000)
        assert not never.lost.is_set()


@pytest.mark.parametrize(("seconds", "kind"), [(0, ValueError), (-1, ValueError), ("1", TypeError)])
def test_a_wrong_idle_timeout_changes_nothing(impl, seconds, kind):
    with Serving(idle_timeout=30) as serving:
        client = serving.connect()
        with pytest.raises(kind, match="idle_timeout="):
            run(serving, client, lambda t: setattr(t, "idle_timeout", seconds))
        assert run(serving, client, lambda t: t.idle_timeout) == 30


def test_unsent_bytes_are_not_idle(impl):
    with Serving(idle_timeout=30, frozen=True) as serving:
        client = serving.connect()
        slow = serving.made[0]
        driver = serving.connect()
        run(serving, driver, lambda transport: setattr(transport, "idle_timeout", None))
        serving.in_server(driver, lambda: slow.transport.write(b"x" * 8_000_000))
        serving.advance(driver, 100)
        assert not slow.lost.is_set()
        assert len(read(client, 8_000_000)) == 8_000_000
        until(lambda: serving.stats()["buffered"] == 0)
        serving.advance(driver, 29)
        assert not slow.lost.is_set()
        serving.advance(driver, 2)
        assert ended(slow, "idle")


def test_beyond_max_connections_the_longest_idle_is_ended(impl):
    with Serving(max_connections=3, frozen=True) as serving:
        clients = [serving.connect() for _ in range(3)]
        for client in (clients[0], clients[2]):
            serving.advance(client, 1)
        serving.connect()
        assert ended(serving.made[1], "shed")
        assert read_all(clients[1]) == b""
        serving.advance(clients[2], 1)
        serving.connect()
        assert ended(serving.made[0], "shed")
        stats = serving.stats()
        assert (stats["open"], stats["shed"], stats["ended_shed"]) == (3, 2, 2)
        assert not serving.made[2].lost.is_set()


def test_those_with_unsent_bytes_are_not_shed_and_the_next_one_waits(impl):
    with Serving(max_connections=1) as serving:
        client = serving.connect()
        run(serving, client, lambda transport: transport.write(b"x" * 8_000_000))
        waiting = serving.connect(wait=False)
        waiting.sendall(b"hello")
        time.sleep(0.05)
        assert serving.stats()["accepted"] == 1
        assert len(read(client, 8_000_000)) == 8_000_000
        until(lambda: len(serving.made) == 2 and serving.made[1].data == b"hello")
        assert ended(serving.made[0], "shed")


def test_old_connections_are_ended_not_all_at_once(impl):
    with Serving(max_age=100, frozen=True) as serving:
        driver, *_ = [serving.connect() for _ in range(24)]  # it owes an answer, and so stays

        def ended_by_age():
            return sum(
                ended(protocol, "age") for protocol in serving.made if protocol.lost.is_set()
            )

        serving.advance(driver, 89.9)
        assert ended_by_age() == 0
        serving.advance(driver, 5.1)
        assert 0 < ended_by_age() < 23
        serving.advance(driver, 5.1)
        assert ended_by_age() == 23
        assert not serving.made[0].lost.is_set()


def test_an_owed_answer_outlives_max_age_a_little(impl):
    with Serving(max_age=100, frozen=True) as serving:
        owing, hopeless = serving.connect(), serving.connect()
        first, second = serving.made
        owing.sendall(b"q")
        hopeless.sendall(b"q")
        until(lambda: first.data and second.data)
        driver = serving.connect()
        serving.advance(driver, 101)
        driver = serving.connect()
        assert not first.lost.is_set()
        serving.in_server(
            driver, lambda: (first.transport.write(b"an"), first.transport.write(b"swer"))
        )
        assert read_all(owing) == b"answer"
        assert ended(first, "age")
        serving.advance(driver, 9)
        assert not second.lost.is_set()
        serving.advance(driver, 2)
        assert ended(second, "age")
