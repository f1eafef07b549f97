"""Connections whose peer is alive, though slow, silent, stalled or cut off for a moment.

Each scenario raises when anything is told, or when the connection did not come through.
"""

from __future__ import annotations

import os
import socket
import time

from .netlab import Connection, background_reader, fill, in_flight, receive_exactly, wait_for_end
from .watching import BLACK_HOLE, D, Stage, alive, options, stalled_connection, steady_writes


def look_on(stage: Stage, connection: Connection, seconds: float) -> None:
    """Let time pass, and see that nothing came of it."""
    stage.sleep_until(time.monotonic() + seconds)
    stage.untouched(connection)


def outage(stage: Stage, connection: Connection) -> None:
    """Cut both ways for a third of the promise."""
    began = time.monotonic()
    connection.cut()
    stage.sleep_until(began + stage.within / 3)
    connection.heal()


@alive(within=(4, 6, 10))
def alive_idle(stage: Stage) -> None:
    connection = stage.open()
    before = options(connection.client)
    stage.watch(connection.client)
    look_on(stage, connection, 3 * stage.within if stage.within < 6 else 2 * stage.within)
    stage.cancel()
    assert options(connection.client) == before


@alive((False,), (True,))
def alive_slow_reader(stage: Stage, stopped: bool) -> None:
    """A reader that pauses for three times the promise, and then reads everything."""
    if stopped:
        alive_stopped_reader(stage)
        return
    connection = stalled_connection(stage)
    stage.watch(connection.client)
    written = fill(connection.client)
    stage.sleep_until(time.monotonic() + 3 * D)
    assert receive_exactly(connection.server, len(written)) == written
    stage.untouched(connection)


def alive_stopped_reader(stage: Stage) -> None:
    peer = stage.process()
    stage.watch(peer.client)
    peer.stop()
    written = fill(peer.client)
    stage.sleep_until(time.monotonic() + 3 * D)
    peer.go_on()
    assert receive_exactly(peer.client, len(written)) == written
    peer.echo(b"and more")


@alive()
def alive_watched_in_a_long_stall(stage: Stage) -> None:
    """The kernel's next window probe is seconds away when the watch begins."""
    connection = stalled_connection(stage)
    written = fill(connection.client)
    time.sleep(7)
    stage.watch(connection.client)
    stage.sleep_until(time.monotonic() + 3 * D)
    assert receive_exactly(connection.server, len(written)) == written
    stage.untouched(connection)


@alive()
def alive_slow_path_idle(stage: Stage) -> None:
    connection = stage.open(rtt=0.6)
    stage.watch(connection.client)
    look_on(stage, connection, 3 * D)


@alive()
def alive_slow_path_ping_pong(stage: Stage) -> None:
    connection = stage.open(rtt=0.6)
    stage.watch(connection.client)
    end = time.monotonic() + 3 * D
    while time.monotonic() < end:
        stage.untouched(connection, os.urandom(1024))


@alive((0.0,), (0.6,))
def alive_slow_path_paced_writes(stage: Stage, rtt: float) -> None:
    connection = stage.open(rtt=rtt)
    stage.watch(connection.client)
    with (
        background_reader(connection.server) as reader,
        steady_writes(connection.client, 0.4) as failed,
    ):
        stage.sleep_until(time.monotonic() + 2 * D)
    assert not failed
    assert reader.received
    stage.sleep_until(time.monotonic() + 3 * rtt)


@alive((0.0,), (3.0,))
def alive_one_lost_question(stage: Stage, idle_before: float) -> None:
    connection = stage.open()
    time.sleep(idle_before * D)
    connection.drop_next(1)
    stage.watch(connection.client)
    stage.sleep_until(time.monotonic() + 2 * D)
    assert connection.dropped() == 1
    stage.untouched(connection)


@alive((0.0,), (2.0,))
def alive_one_lost_answer(stage: Stage, idle_before: float) -> None:
    connection = stage.open()
    time.sleep(idle_before * D)
    stage.lab.nft(
        f'add rule inet lab losses iifname "server" tcp dport {connection.port} '
        "numgen inc mod 2147483647 < 1 counter drop"
    )
    stage.watch(connection.client)
    stage.sleep_until(time.monotonic() + 2 * D)
    assert connection.dropped() == 1
    stage.untouched(connection)


@alive()
def alive_one_lost_write(stage: Stage) -> None:
    connection = stage.open()
    stage.watch(connection.client)
    stage.sleep_until(time.monotonic() + D)
    connection.drop_next(1)
    connection.client.sendall(b"x")
    assert receive_exactly(connection.server, 1) == b"x"
    look_on(stage, connection, D)


@alive(*((phase / 8,) for phase in range(8)), within=(4, 6, 10))
def alive_outage_idle(stage: Stage, phase: float) -> None:
    connection = stage.open()
    stage.watch(connection.client)
    connection.exchange()
    # Questions are about a quarter of the promise apart; two of them are passed.
    stage.sleep_until(time.monotonic() + (2 + phase) * stage.within / 4)
    outage(stage, connection)
    look_on(stage, connection, stage.within)


@alive()
def alive_outage_after_outage(stage: Stage) -> None:
    connection = stage.open()
    stage.watch(connection.client)
    for _ in range(5):
        outage(stage, connection)
        look_on(stage, connection, 0.5)
    look_on(stage, connection, D)


@alive((0.0,), (0.3,), (0.6,), (1.2,), within=(4, 6, 10))
def alive_outage_one_write(stage: Stage, phase: float) -> None:
    """The write is in flight from within the outage until its end."""
    connection = stage.open()
    stage.watch(connection.client)
    connection.exchange()
    connection.cut()
    began = time.monotonic()
    stage.sleep_until(began + phase)
    connection.client.sendall(b"in the outage")
    stage.sleep_until(began + stage.within / 3)
    assert in_flight(connection.client)
    connection.heal()
    assert receive_exactly(connection.server, 13) == b"in the outage"
    look_on(stage, connection, stage.within)


@alive((0.4,), (0.02,))
def alive_outage_steady_writes(stage: Stage, pause: float) -> None:
    connection = stage.open()
    stage.watch(connection.client)
    with background_reader(connection.server), steady_writes(connection.client, pause) as failed:
        for _ in range(2):
            stage.sleep_until(time.monotonic() + 1.5)
            outage(stage, connection)
        stage.sleep_until(time.monotonic() + D)
        assert not failed


@alive((0.0,), (2.0,), (6.0,))
def alive_outage_zero_window(stage: Stage, stalled: float) -> None:
    connection = stalled_connection(stage)
    stage.watch(connection.client)
    written = fill(connection.client)
    stage.sleep_until(time.monotonic() + stalled)
    outage(stage, connection)
    stage.sleep_until(time.monotonic() + D)
    assert receive_exactly(connection.server, len(written)) == written
    stage.untouched(connection)


@alive()
def alive_stopped_process(stage: Stage) -> None:
    """The process hangs, its kernel does not."""
    peer = stage.process()
    stage.watch(peer.client)
    peer.stop()
    peer.client.sendall(b"read later")
    stage.sleep_until(time.monotonic() + 3 * D)
    peer.go_on()
    assert receive_exactly(peer.client, 10) == b"read later"
    peer.echo(b"and more")


@alive()
def alive_half_closed_by_peer(stage: Stage) -> None:
    connection = stage.open()
    stage.watch(connection.client)
    connection.server.shutdown(socket.SHUT_WR)
    stage.sleep_until(time.monotonic() + 3 * D)
    assert wait_for_end(connection.client, 0) is None
    connection.client.sendall(b"to the end")
    assert receive_exactly(connection.server, 10) == b"to the end"
    assert connection.client.recv(1) == b""


@alive()
def alive_half_closed_by_us(stage: Stage) -> None:
    connection = stage.open()
    stage.watch(connection.client)
    connection.client.shutdown(socket.SHUT_WR)
    stage.sleep_until(time.monotonic() + 3 * D)
    assert wait_for_end(connection.client, 0) is None
    connection.server.sendall(b"to the end")
    assert receive_exactly(connection.client, 10) == b"to the end"
    assert connection.server.recv(1) == b""


@alive()
def alive_connecting(stage: Stage) -> None:
    """Nobody answers the connect; there is no peer yet that could vanish."""
    sock = stage.lab.client.call(socket.socket)
    with sock:
        stage.watch(sock)
        sock.setblocking(False)
        assert sock.connect_ex((BLACK_HOLE, 1))
        stage.sleep_until(time.monotonic() + 2 * D)
        assert wait_for_end(sock, 0) is None
