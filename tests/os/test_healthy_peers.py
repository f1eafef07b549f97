"""A peer that is alive is never taken for dead: not when it is slow, silent, stalled or cut off
for a moment.

As with the dead peers, every scenario has a connection of its own and all run at once; a scenario
raises when the connection did not come through.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

import stillalive

from .netlab import (
    Connection,
    NetLab,
    background_reader,
    fill,
    in_flight,
    receive_exactly,
    small_buffers,
    tcp_option,
    until,
    user_timeout,
    wait_for_end,
)

ALLOWANCE = 0.5
RESULT_TIMEOUT = 90.0
BLOCK = 16384
# Longer than any user timeout that detect_within=16 may set.
STALL = 20.0

CASES: dict[str, Callable[[NetLab], None]] = {}
Scenario = Callable[..., None]


def cases(*rows: tuple[object, ...]) -> Callable[[Scenario], Scenario]:
    """Register a scenario once for every row of arguments."""

    def register(run: Scenario) -> Scenario:
        for row in rows:
            name = "-".join([run.__name__, *map(str, row)])
            CASES[name] = functools.partial(run_with, run, row)
        return run

    return register


def run_with(run: Scenario, arguments: tuple[object, ...], lab: NetLab) -> None:
    run(lab, *arguments)


def assert_untouched(connection: Connection) -> None:
    """Neither end was ended, and data still passes both ways."""
    ending = wait_for_end(connection.client, 0)
    assert ending is None, f"the client was ended: {ending}"
    connection.exchange(os.urandom(1024))


def interrupt(connection: Connection, outage: float) -> None:
    """Cut both ways for a time."""
    began = time.monotonic()
    connection.cut()
    time.sleep(max(0.0, began + outage - time.monotonic()))
    connection.heal()


@cases((3,), (4,), (6,))
def idle(lab: NetLab, within: float) -> None:
    connection = lab.open()
    stillalive.tune(connection.client, detect_within=within)
    time.sleep(2 * within + 2)
    assert_untouched(connection)


@cases((4,), (6,))
def slow_path_idle(lab: NetLab, within: float) -> None:
    connection = lab.open(rtt=0.6)
    stillalive.tune(connection.client, detect_within=within)
    time.sleep(2 * within + 2)
    assert_untouched(connection)


@cases((4,), (6,))
def slow_path_ping_pong(lab: NetLab, within: float) -> None:
    connection = lab.open(rtt=0.6)
    stillalive.tune(connection.client, detect_within=within)
    end = time.monotonic() + 2 * within
    while time.monotonic() < end:
        assert_untouched(connection)


@cases(())
def slow_path_tuned_before_connect(lab: NetLab) -> None:
    connection = lab.open(rtt=0.6, prepare=lambda sock: stillalive.tune(sock, detect_within=6))
    time.sleep(8)
    assert_untouched(connection)


@cases((6,), (9,))
def one_lost_probe(lab: NetLab, within: float) -> None:
    connection = lab.open()
    stillalive.tune(connection.client, detect_within=within)
    connection.exchange()
    connection.drop_next(1)
    time.sleep(within + 3)
    assert connection.dropped() == 1
    assert_untouched(connection)


@cases(*((within, phase) for within in (6, 9) for phase in (0.0, 0.2, 0.4, 0.6)))
def outage_while_idle(lab: NetLab, within: float, phase: float) -> None:
    connection = lab.open()
    stillalive.tune(connection.client, detect_within=within)
    connection.exchange()
    time.sleep(phase * within)
    interrupt(connection, within / 3)
    time.sleep(within)
    assert_untouched(connection)


@cases((6,), (9,))
def outage_with_one_write(lab: NetLab, within: float) -> None:
    connection = lab.open()
    stillalive.tune(connection.client, detect_within=within)
    connection.exchange()
    connection.cut()
    began = time.monotonic()
    connection.client.sendall(b"written into the outage")
    time.sleep(max(0.0, began + within / 3 - time.monotonic()))
    assert in_flight(connection.client)
    connection.heal()
    assert receive_exactly(connection.server, 23) == b"written into the outage"
    assert_untouched(connection)


@cases((6,), (9,))
def outage_during_transfer(lab: NetLab, within: float) -> None:
    """Both ends keep sending; every byte arrives."""
    connection = lab.open()
    stillalive.tune(connection.client, detect_within=within)
    ends = (connection.client, connection.server)
    stop = threading.Event()
    with (
        background_reader(connection.server) as at_server,
        background_reader(connection.client) as at_client,
        ThreadPoolExecutor(max_workers=2) as pool,
    ):
        senders = [pool.submit(send_paced, sock, stop) for sock in ends]
        try:
            time.sleep(1)
            interrupt(connection, within / 3)
            time.sleep(1)
        finally:
            stop.set()
        sent = [sender.result(timeout=RESULT_TIMEOUT) for sender in senders]
        for sock in ends:
            sock.shutdown(socket.SHUT_WR)
        until(lambda: at_server.ended and at_client.ended)
    assert [at_server.digest.digest(), at_client.digest.digest()] == sent


def send_paced(sock: socket.socket, stop: threading.Event) -> bytes:
    """Send a block every few milliseconds; the digest of all of them."""
    digest = hashlib.sha256()
    while not stop.wait(0.01):
        block = os.urandom(BLOCK)
        sock.sendall(block)
        digest.update(block)
    return digest.digest()


@cases((4,), (6,))
def late_tuning(lab: NetLab, within: float) -> None:
    """The connection was idle longer than its new deadline when it is tuned."""
    connection = lab.open()
    time.sleep(within + 1.5)
    stillalive.tune(connection.client, detect_within=within)
    time.sleep(2 * within)
    assert_untouched(connection)
    assert 0 < user_timeout(connection.client) <= within


@cases((6,))
def late_tuning_with_lost_probe(lab: NetLab, within: float) -> None:
    """A user timeout set at once would make the one lost probe fatal."""
    connection = lab.open()
    sock = connection.client
    time.sleep(within + 1.5)
    connection.drop_next(1)
    policy = stillalive.tune(sock, detect_within=within)
    assert policy.pending
    assert user_timeout(sock) == 0
    until(lambda: bool(stillalive.describe(sock).user_timeout), timeout=within)
    assert connection.dropped() == 1
    assert 0 < user_timeout(sock) <= within
    time.sleep(within)
    assert_untouched(connection)
    connection.cut()
    origin = time.monotonic()
    sock.sendall(b"x")
    ending = wait_for_end(sock, within + 3)
    assert ending is not None, "the completed tuning does not find a dead peer"
    assert ending.moment - origin <= within + ALLOWANCE


@cases((4,), (6,))
def tuning_after_unanswered_probes(lab: NetLab, within: float) -> None:
    """The kernel still counts what a probe asked during an outage that is over now."""
    connection = lab.open()
    time.sleep(1.2)
    connection.cut()
    assert stillalive.probe(connection.client, timeout=3).state is stillalive.State.SILENT
    connection.heal()
    stillalive.tune(connection.client, detect_within=within)
    time.sleep(2 * within)
    assert_untouched(connection)
    assert 0 < user_timeout(connection.client) <= within


@cases(())
def stalled_reader_is_spared(lab: NetLab) -> None:
    """The peer answers every window probe but does not read; later it reads everything."""
    connection, written = stalled_connection(lab, spare_stalled=True)
    assert tcp_option(connection.client, socket.TCP_USER_TIMEOUT) == 0
    assert wait_for_end(connection.client, STALL) is None
    assert receive_exactly(connection.server, len(written)) == written
    assert_untouched(connection)


@cases(())
def control_stalled_reader_dies_by_user_timeout(lab: NetLab) -> None:
    """Without spare_stalled the same reader is lost within the same time."""
    connection, _ = stalled_connection(lab, spare_stalled=False)
    ending = wait_for_end(connection.client, STALL)
    assert ending is not None
    assert ending.error == errno.ETIMEDOUT


def stalled_connection(lab: NetLab, *, spare_stalled: bool) -> tuple[Connection, bytes]:
    connection = lab.connect(lab.listen(prepare=small_buffers), small_buffers)
    stillalive.tune(connection.client, detect_within=16, spare_stalled=spare_stalled)
    connection.exchange()
    return connection, fill(connection.client)


@pytest.fixture(scope="module")
def outcomes(lab: NetLab) -> Iterator[dict[str, Future[None]]]:
    """Start every scenario; the tests wait each for its own."""
    with ThreadPoolExecutor(max_workers=len(CASES)) as pool:
        yield {name: pool.submit(run, lab) for name, run in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_healthy_peer_is_not_touched(name: str, outcomes: dict[str, Future[None]]) -> None:
    outcomes[name].result(timeout=RESULT_TIMEOUT)
