"""Probing asks the peer's kernel, and leaves nothing behind: no byte, no option, no error eaten."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest

import stillalive
from stillalive import State
from stillalive._backend import Backend

from .netlab import (
    Connection,
    NetLab,
    fill,
    receive_exactly,
    small_buffers,
    until,
    wait_for_end,
    wait_for_error,
)

pytestmark = pytest.mark.usefixtures("impl")

ALLOWANCE = 0.5
# A probe leaves at once only when nothing was heard for a second.
QUIET = 1.2
PROBERS = 6

KEEPALIVE_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
)
ODD_VALUES = (1, 1234, 57, 11, 98765)

Setup = Callable[[socket.socket], None]


def options(sock: socket.socket) -> tuple[int, ...]:
    return tuple(sock.getsockopt(*option) for option in KEEPALIVE_OPTIONS)


def keepalive_off(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)


def keepalive_odd(sock: socket.socket) -> None:
    for option, value in zip(KEEPALIVE_OPTIONS, ODD_VALUES, strict=True):
        sock.setsockopt(*option, value)


def keepalive_generous(sock: socket.socket) -> None:
    stillalive.tune(sock, idle=60, interval=20, count=5)


BEFORE = pytest.mark.parametrize("before", [keepalive_off, keepalive_odd], ids=["off", "odd"])


def open_many(lab: NetLab) -> Iterator[Connection]:
    """Connections that have been quiet long enough, without a wait in every test."""
    while True:
        batch = [lab.open() for _ in range(48)]
        time.sleep(QUIET)
        yield from batch


@pytest.fixture(scope="module")
def quiet_connections(lab: NetLab) -> Iterator[Connection]:
    return open_many(lab)


@pytest.fixture
def connection(quiet_connections: Iterator[Connection]) -> Iterator[Connection]:
    opened = next(quiet_connections)
    yield opened
    opened.close()


def test_answered(quiet_connections: Iterator[Connection]) -> None:
    elapsed = []
    for _ in range(3):
        sock = next(quiet_connections).client
        before = options(sock)
        began = time.monotonic()
        result = stillalive.probe(sock)
        elapsed.append(time.monotonic() - began)
        assert result.state is State.ALIVE
        assert result.usable and result
        assert result.raise_if_unusable() is result
        assert result.asked >= 1
        assert options(sock) == before
    # The best of three says what the probe costs; the others what else the machine did.
    assert min(elapsed) < 0.1


def test_answered_ipv6(lab: NetLab) -> None:
    connections = [lab.open(socket.AF_INET6) for _ in range(3)]
    time.sleep(QUIET)
    elapsed = []
    for connection in connections:
        began = time.monotonic()
        assert stillalive.probe(connection.client).state is State.ALIVE
        elapsed.append(time.monotonic() - began)
    assert min(elapsed) < 0.1


def test_answered_over_a_slow_path(lab: NetLab) -> None:
    connection = lab.open(rtt=0.3)
    time.sleep(QUIET)
    result = stillalive.probe(connection.client)
    assert result.state is State.ALIVE
    assert 0.3 <= result.elapsed <= 0.3 + ALLOWANCE


def test_recent_data_is_an_answer(connection: Connection) -> None:
    connection.exchange()
    began = time.monotonic()
    result = stillalive.probe(connection.client)
    assert result.state is State.ALIVE
    assert result.heard_ago is not None and result.heard_ago <= 1
    assert time.monotonic() - began < 1 + ALLOWANCE


def test_answered_after_we_shut_down(connection: Connection) -> None:
    connection.client.shutdown(socket.SHUT_WR)
    connection.settle()
    time.sleep(QUIET)
    assert stillalive.probe(connection.client).state is State.ALIVE


@BEFORE
def test_dead_peer_is_silent(connection: Connection, before: Setup) -> None:
    sock = connection.client
    before(sock)
    values = options(sock)
    connection.cut()
    began = time.monotonic()
    result = stillalive.probe(sock, timeout=0.6)
    assert 0.6 <= time.monotonic() - began <= 0.6 + ALLOWANCE
    assert result.state is State.SILENT
    assert result.asked >= 1
    assert not result.usable and not result
    with pytest.raises(ConnectionError):
        result.raise_if_unusable()
    assert options(sock) == values
    assert wait_for_end(sock, 0) is None


@pytest.mark.parametrize("before", [keepalive_off, keepalive_generous], ids=["off", "generous"])
def test_probing_never_kills(connection: Connection, before: Setup) -> None:
    sock = connection.client
    before(sock)
    values = options(sock)
    connection.cut()
    for _ in range(12):
        assert stillalive.probe(sock, timeout=0.25).state is State.SILENT
    assert wait_for_end(sock, 0) is None
    connection.heal()
    assert stillalive.probe(sock).state is State.ALIVE
    assert options(sock) == values
    connection.exchange()


def test_forgotten_connection_is_reset(connection: Connection) -> None:
    sock = connection.client
    connection.reboot_server()
    assert stillalive.check(sock).state is State.OPEN
    result = stillalive.probe(sock)
    assert result.state is State.RESET
    assert not result.usable
    assert stillalive.check(sock).state is State.RESET
    with pytest.raises(ConnectionResetError):
        sock.recv(1)


def test_fin_behind_unread_data(connection: Connection) -> None:
    sock = connection.client
    connection.server.sendall(b"last words")
    connection.server.close()
    until(lambda: stillalive.check(sock).state is State.PEER_CLOSED)
    for result in (stillalive.check(sock), stillalive.probe(sock)):
        assert result.state is State.PEER_CLOSED
        assert result.readable == len(b"last words")
        assert not result.usable
    assert receive_exactly(sock, 100) == b"last words"
    assert sock.recv(1) == b""


@pytest.mark.parametrize("state", [State.ALIVE, State.SILENT], ids=lambda state: state.name)
@BEFORE
def test_probers_at_once(connection: Connection, before: Setup, state: State) -> None:
    sock = connection.client
    before(sock)
    values = options(sock)
    if state is State.SILENT:
        connection.cut()
    together = threading.Barrier(PROBERS)

    def ask() -> State:
        together.wait(timeout=5)
        return stillalive.probe(sock, timeout=0.4).state

    with ThreadPoolExecutor(max_workers=PROBERS) as pool:
        asked = [pool.submit(ask) for _ in range(PROBERS)]
        assert {future.result(timeout=20) for future in asked} == {state}
    assert options(sock) == values
    assert wait_for_end(sock, 0) is None


@pytest.mark.parametrize("state", [State.ALIVE, State.SILENT], ids=lambda state: state.name)
@BEFORE
def test_async_probers_at_once(connection: Connection, before: Setup, state: State) -> None:
    sock = connection.client
    before(sock)
    values = options(sock)
    if state is State.SILENT:
        connection.cut()

    async def ask_all() -> tuple[set[State], float]:
        pulse = asyncio.create_task(longest_pause())
        asked = await asyncio.gather(
            *(stillalive.aprobe(sock, timeout=0.4) for _ in range(PROBERS))
        )
        pulse.cancel()
        return {result.state for result in asked}, await pulse

    states, pause = asyncio.run(asyncio.wait_for(ask_all(), 20))
    assert states == {state}
    assert pause < 0.3, "probing blocked the event loop"
    assert options(sock) == values


async def longest_pause() -> float:
    """How long the loop kept this task waiting at worst, until it is cancelled."""
    longest = 0.0
    before = time.monotonic()
    try:
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            longest = max(longest, now - before)
            before = now
    except asyncio.CancelledError:
        return longest


def test_probing_beside_traffic(connection: Connection) -> None:
    sock = connection.client
    values = options(sock)
    stop = threading.Event()

    def ask() -> list[stillalive.Liveness]:
        results = []
        # A prober that never pauses would mostly compete for the interpreter.
        while not stop.wait(0.002):
            results.append(stillalive.probe(sock))
        return results

    with ThreadPoolExecutor(max_workers=2) as pool:
        echoing = pool.submit(echo, connection.server)
        asking = pool.submit(ask)
        try:
            for burst in range(2):
                # The pause lets real questions go out; the burst then begins in the midst of one.
                time.sleep(QUIET * burst)
                converse(sock, 2000)
        finally:
            stop.set()
            results = asking.result(timeout=20)
            sock.shutdown(socket.SHUT_WR)
            echoing.result(timeout=20)
    assert {result.state for result in results} == {State.ALIVE}
    assert any(result.asked for result in results)
    assert options(sock) == values


def converse(sock: socket.socket, count: int) -> None:
    """Send random blocks and compare all that comes back."""
    sent, received = hashlib.sha256(), hashlib.sha256()
    for _ in range(count):
        block = os.urandom(256)
        sock.sendall(block)
        sent.update(block)
        received.update(receive_exactly(sock, len(block)))
    assert received.digest() == sent.digest()


def echo(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)


@BEFORE
def test_cancelled_aprobe_restores(connection: Connection, before: Setup) -> None:
    sock = connection.client
    before(sock)
    values = options(sock)
    connection.cut()

    async def cancel() -> None:
        task = asyncio.create_task(stillalive.aprobe(sock, timeout=5))
        await asyncio.sleep(0.2)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert options(sock) == values

    began = time.monotonic()
    asyncio.run(cancel())
    assert time.monotonic() - began < 0.2 + ALLOWANCE
    assert options(sock) == values
    connection.heal()
    assert stillalive.probe(sock).state is State.ALIVE


def test_tuning_during_a_probe_holds(connection: Connection) -> None:
    sock = connection.client
    connection.cut()
    with ThreadPoolExecutor(max_workers=1) as pool:
        asking = pool.submit(stillalive.probe, sock, timeout=0.6)
        time.sleep(0.2)
        stillalive.tune(sock, idle=100, interval=10, count=7)
        assert asking.result(timeout=5).state is State.SILENT
    assert options(sock) == (1, 100, 10, 7, 0)
    assert wait_for_error(sock, 0) is False


class Interrupted(Exception):
    """Raised by the signal handler in the midst of a probe."""


@BEFORE
def test_interrupted_probe_restores(connection: Connection, before: Setup) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    def asked() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        stillalive.probe(sock, timeout=5)

    sock = connection.client
    before(sock)
    values = options(sock)
    connection.cut()
    previous = signal.signal(signal.SIGALRM, interrupt)
    began = time.monotonic()
    try:
        with pytest.raises(Interrupted):
            asked()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert time.monotonic() - began < 0.2 + ALLOWANCE
    assert options(sock) == values
    connection.heal()
    assert stillalive.probe(sock).state is State.ALIVE


def probe_interrupted_at(sock: socket.socket, number: int) -> str | None:
    """Raise where the interpreter looks for signals the given time; where that was, if anywhere.

    It looks when a function is entered, and after a call of what is no Python function. A class
    is none; its constructor's return stands for the moment after it.
    """
    looks = 0
    place = None

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal looks, place
        module = frame.f_globals.get("__name__", "")
        ours = module.startswith("stillalive.")
        if module == __name__ or event not in ("call", "c_return", "return"):
            return
        looks += ours != (event == "return")
        if looks == number and place is None:
            place = f"{module}:{frame.f_lineno} ({event})"
            raise Interrupted

    previous = sys.getprofile()
    sys.setprofile(profile)
    try:
        stillalive.probe(sock, timeout=0.002)
    except Interrupted:
        return place
    finally:
        sys.setprofile(previous)
    return None


# What an interrupted call leaves behind is collected, and the exception may strike in a
# finalizer; that is no matter of this test.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupted_anywhere(quiet_connections: Iterator[Connection], impl: Backend) -> None:
    """A signal handler may raise at any moment, also while the options are given back."""
    lost = []
    for number in itertools.count(1):
        connection = next(quiet_connections)
        sock = connection.client
        values = options(sock)
        connection.cut()
        place = probe_interrupted_at(sock, number)
        if place is None:
            break
        assert not wait_for_error(sock, 0), f"the descriptor was closed: interrupted at {place}"
        # A prober that was not counted out would keep the next one from giving back.
        stillalive.probe(sock, timeout=0.002)
        # Without the compiled core giving back takes several steps that cannot be one.
        if impl.NAME == "c" and options(sock) != values:
            lost.append(place)
        connection.close()
    assert not lost


def test_more_probes_than_the_kernel_counts(connection: Connection) -> None:
    """The largest probe count there is must not become the number of probes that kills."""
    connection.cut()
    for _ in range(200):
        assert stillalive.probe(connection.client, timeout=0.008).state is State.SILENT
    connection.heal()
    assert stillalive.probe(connection.client).state is State.ALIVE


def test_death_by_keepalive_stays_with_the_owner(connection: Connection) -> None:
    sock = connection.client
    connection.cut()
    stillalive.tune(sock, idle=1, interval=1, count=1)
    assert wait_for_error(sock, 5)
    for result in (stillalive.check(sock), stillalive.probe(sock)):
        assert result.state is State.DEAD
        assert not result.usable
    with pytest.raises(TimeoutError) as caught:
        sock.recv(1)
    assert caught.value.errno == errno.ETIMEDOUT


def test_data_in_flight(connection: Connection) -> None:
    sock = connection.client
    values = options(sock)
    connection.cut()
    sock.sendall(b"x")
    result = stillalive.probe(sock, timeout=1)
    assert result.state is State.SILENT
    assert result.asked > 0
    connection.heal()
    assert stillalive.probe(sock).state is State.ALIVE
    assert receive_exactly(connection.server, 1) == b"x"
    assert options(sock) == values


def test_stalled_reader_is_alive(lab: NetLab) -> None:
    """No probe leaves while the window is shut; the answers to window probes count."""
    connection = lab.connect(lab.listen(prepare=small_buffers), small_buffers)
    written = fill(connection.client)
    time.sleep(QUIET)
    assert stillalive.probe(connection.client).state is State.ALIVE
    assert receive_exactly(connection.server, len(written)) == written
