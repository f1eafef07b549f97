"""Connections whose peer vanishes, in every way that has been thought of.

Each scenario returns what was told, and the moment at which the peer had vanished for certain.
"""

from __future__ import annotations

import functools
import socket
import time

from .netlab import Connection, background_reader, fill, in_flight, receive_exactly
from .watching import EOF, SPARED, D, Stage, Told, dead, options, stalled_connection, steady_writes


def watch_quiet(stage: Stage, connection: Connection) -> None:
    """Watch a connection; its owner waits for data, and the last that was heard is now."""
    stage.watch(connection.client)
    connection.exchange()
    stage.reads(connection.client)


PHASES = ((0.0,), (0.3,), (0.6,), (0.9,))


@dead(*PHASES, within=(4, 6, 10))
def idle(stage: Stage, phase: float) -> Told:
    connection = stage.open()
    watch_quiet(stage, connection)
    time.sleep(phase)
    return stage.told(stage.vanish(connection))


@dead()
def idle_ipv6(stage: Stage) -> Told:
    connection = stage.open(socket.AF_INET6)
    watch_quiet(stage, connection)
    return stage.told(stage.vanish(connection))


@dead((0.0,), (1.5,))
def idle_for_long_before(stage: Stage, phase: float) -> Told:
    """The watch has asked many times when the peer vanishes."""
    connection = stage.open()
    watch_quiet(stage, connection)
    time.sleep(2 * D + phase)
    return stage.told(stage.vanish(connection))


@dead()
def watched_before_connect(stage: Stage) -> Told:
    connection = stage.open(prepare=stage.watch)
    connection.exchange()
    stage.reads(connection.client)
    return stage.told(stage.vanish(connection))


@dead()
def watched_before_connect_one_write(stage: Stage) -> Told:
    connection = stage.open(prepare=stage.watch)
    connection.exchange()
    stage.reads(connection.client)
    origin = stage.vanish(connection)
    connection.client.sendall(b"x")
    return stage.told(origin)


@dead(why="")
def inherited_from_listener(stage: Stage) -> Told:
    """A watch on a listener tells nothing; the kernel ends what the listener accepted."""
    listener = stage.lab.listen()
    stage.watch(listener.sock)
    connection = stage.lab.connect(listener)
    connection.exchange()
    stage.reads(connection.server)
    origin = stage.vanish(connection)
    saw = stage.owner_saw(origin + D + 0.5 - time.monotonic())
    return Told(origin, stage.event, saw.moment if saw else 0.0, saw)


@dead()
def accepted(stage: Stage) -> Told:
    """The watching side is the server's."""
    connection = stage.open()
    stage.watch(connection.server)
    connection.exchange()
    stage.reads(connection.server)
    return stage.told(stage.vanish(connection))


@dead((0.0,), (0.7,), within=(4, 6, 10))
def one_unacked_write(stage: Stage, phase: float) -> Told:
    connection = stage.open()
    watch_quiet(stage, connection)
    time.sleep(phase)
    origin = stage.vanish(connection)
    connection.client.sendall(b"x")
    return stage.told(origin)


@dead()
def one_unacked_write_ipv6(stage: Stage) -> Told:
    connection = stage.open(socket.AF_INET6)
    watch_quiet(stage, connection)
    origin = stage.vanish(connection)
    connection.client.sendall(b"x")
    return stage.told(origin)


@dead((0.0,), (0.8,))
def slow_path_idle(stage: Stage, phase: float) -> Told:
    connection = stage.open(rtt=0.3)
    watch_quiet(stage, connection)
    time.sleep(phase)
    return stage.told(stage.vanish(connection))


@dead()
def slow_path_one_write(stage: Stage) -> Told:
    connection = stage.open(rtt=0.3)
    watch_quiet(stage, connection)
    origin = stage.vanish(connection)
    connection.client.sendall(b"x")
    return stage.told(origin)


@dead((0.0,), (0.3,))
def bulk_transfer(stage: Stage, rtt: float) -> Told:
    connection = stage.open(rtt=rtt)
    stage.watch(connection.client)
    with background_reader(connection.server) as reader:
        stage.sends(connection.client)
        time.sleep(0.4 + 3 * rtt)
        origin = stage.vanish(connection)
    assert reader.received, "the transfer was not in progress when the peer vanished"
    return stage.told(origin)


@dead((0.4,), (0.05,))
def writes_into_the_void(stage: Stage, pause: float) -> Told:
    connection = stage.open()
    watch_quiet(stage, connection)
    origin = stage.vanish(connection)
    with steady_writes(connection.client, pause) as failed:
        told = stage.told(origin)
    # Whoever of the two is woken first takes the error; the other sees that all is over.
    if told.owner is not None and not told.owner.error and failed:
        told.owner = failed[0]
    return told


@dead((0.1,), (0.4,), (0.6,), (0.75,), (0.85,), (0.9,), (0.97,), within=(4, 6, 10))
def late_write(stage: Stage, share: float) -> Told:
    connection = stage.open()
    watch_quiet(stage, connection)
    origin = stage.vanish(connection)
    if not stage.is_told(origin + share * stage.within - time.monotonic()):
        connection.client.sendall(b"x")
    return stage.told(origin)


@dead((0.0,), (0.3,), (1.0,), (2.5,), (8.0,), within=(4, 6, 10))
def zero_window(stage: Stage, stalled: float) -> Told:
    """The peer stops reading, and later vanishes with its window shut."""
    connection = stalled_connection(stage)
    stage.watch(connection.client)
    fill(connection.client)
    stage.sends(connection.client)
    time.sleep(stalled)
    return stage.told(stage.vanish(connection))


@dead((0.0,), (0.7,))
def half_closed_by_us(stage: Stage, phase: float) -> Told:
    connection = stage.open()
    watch_quiet(stage, connection)
    connection.client.shutdown(socket.SHUT_WR)
    assert receive_exactly(connection.server, 1) == b""
    connection.settle()
    time.sleep(phase)
    return stage.told(stage.vanish(connection))


@dead()
def fin_unacked(stage: Stage) -> Told:
    connection = stage.open()
    watch_quiet(stage, connection)
    origin = stage.vanish(connection)
    connection.client.shutdown(socket.SHUT_WR)
    return stage.told(origin)


@dead((0.0,), (0.7,))
def half_closed_by_peer(stage: Stage, phase: float) -> Told:
    connection = stage.open()
    stage.watch(connection.client)
    connection.server.shutdown(socket.SHUT_WR)
    assert receive_exactly(connection.client, 1) == b""
    connection.settle()
    time.sleep(phase)
    return stage.told(stage.vanish(connection))


@dead()
def half_closed_by_peer_one_write(stage: Stage) -> Told:
    connection = stage.open()
    stage.watch(connection.client)
    connection.server.shutdown(socket.SHUT_WR)
    assert receive_exactly(connection.client, 1) == b""
    connection.settle()
    origin = stage.vanish(connection)
    connection.client.sendall(b"x")
    return stage.told(origin)


@dead((False,), (True,))
def return_path_cut(stage: Stage, write: bool) -> Told:
    connection = stage.open()
    watch_quiet(stage, connection)
    connection.cut_return()
    origin = time.monotonic()
    if write:
        connection.client.sendall(b"x")
    return stage.told(origin)


@dead((False,), (True,))
def unreachable_reported_by_icmp(stage: Stage, write: bool) -> Told:
    connection = stage.open()
    watch_quiet(stage, connection)
    connection.make_unreachable()
    origin = time.monotonic()
    if write:
        connection.client.sendall(b"x")
    return stage.told(origin)


@dead(within=(10,), nat=True)
def nat_expired_silent(stage: Stage) -> Told:
    """The questions of a watch this patient are too far apart for this NAT."""
    connection = stage.open()
    watch_quiet(stage, connection)
    # The router forgets one second after the last packet.
    return stage.told(time.monotonic() + 1)


@dead(nat=True)
def nat_expired_before_the_watch(stage: Stage) -> Told:
    connection = stage.open()
    time.sleep(D + 1)
    stage.watch(connection.client)
    stage.reads(connection.client)
    return stage.told(time.monotonic())


@dead(why="reset", nat=True)
def nat_expired_with_reset(stage: Stage) -> Told:
    connection = stage.open(nat_resets=True)
    time.sleep(1.5)
    stage.watch(connection.client)
    stage.reads(connection.client)
    return stage.told(time.monotonic())


@dead(within=(4, 10))
def vanished_before_the_watch(stage: Stage) -> Told:
    """The silence before the watch does not count; from there on it does."""
    connection = stage.open()
    connection.cut()
    time.sleep(D + 1)
    stage.watch(connection.client)
    stage.reads(connection.client)
    return stage.told(time.monotonic())


@dead((False,), why="reset")
def rebooted(stage: Stage, write: bool) -> Told:
    connection = stage.open()
    watch_quiet(stage, connection)
    connection.reboot_server()
    origin = time.monotonic()
    if write:
        connection.client.sendall(b"x")
    return stage.told(origin)


# The kernel tells the owner by itself; the watch says so, too.
dead((True,), why="reset", control=False)(rebooted)


@dead(why="reset", control=False)
def killed_with_unread_data(stage: Stage) -> Told:
    peer = stage.process()
    stage.watch(peer.client)
    peer.stop()
    peer.client.sendall(b"nobody reads this")
    while in_flight(peer.client):
        time.sleep(0.01)
    stage.reads(peer.client)
    return stage.told(peer.kill())


@dead(why="reset", control=False)
def killed_then_a_write(stage: Stage) -> Told:
    """The end of the stream is not death; that nobody takes the next write is."""
    peer = stage.process()
    stage.watch(peer.client)
    stage.sleep_until(peer.kill() + 1)
    origin = time.monotonic()
    peer.client.sendall(b"x")
    return stage.told(origin)


def read_to_the_end(sock: socket.socket) -> str:
    read = b""
    while data := sock.recv(100):
        read += data
    return f"{read!r}, then the end of the stream"


@dead()
def unread_data(stage: Stage) -> Told:
    """The owner may have what came before, and then gets the error."""
    connection = stage.open()
    stage.watch(connection.client)
    connection.exchange()
    connection.server.sendall(b"the first part")
    connection.settle()
    origin = stage.vanish(connection)
    return stage.told(origin, functools.partial(read_to_the_end, connection.client))


@dead(owner=EOF, control=False)
def idle_action_shutdown(stage: Stage) -> Told:
    connection = stage.open()
    stage.watch(connection.client, action="shutdown")
    connection.exchange()
    stage.reads(connection.client)
    return stage.told(stage.vanish(connection))


@dead((False,), (True,), owner=SPARED, control=False)
def action_none_then_healed(stage: Stage, write: bool) -> Told:
    """Nothing but the telling is done: when the path is back, so is the connection."""
    connection = stage.open()
    before = options(connection.client)
    stage.watch(connection.client, action=None)
    connection.exchange()
    origin = stage.vanish(connection)
    if write:
        connection.client.sendall(b"in the outage")
    told = stage.told(origin, lambda: None)
    connection.heal()
    if write:
        assert receive_exactly(connection.server, 13) == b"in the outage"
    connection.exchange()
    assert options(connection.client) == before
    return told
