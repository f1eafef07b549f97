"""How a watched connection ended, when its own host has dropped some of its segments.

Linux counts those as sent each time it tries, and not as retransmitted. The counters must not
take an end in order for a reset then.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stillalive import _backend as b

from ..unit.serving import reset
from ..unit.watchers import make_watcher
from .netlab import Connection, NetLab, in_flight, receive_exactly, until

LONG = 60_000
DATA = bytes(500)
RULES = """
table inet %s {
    chain out {
        type filter hook output priority 0
        tcp sport %d ip length > 100 drop
    }
}
"""


@contextmanager
def dropped_here(lab: NetLab, connection: Connection) -> Iterator[None]:
    """Have the client's own host drop whatever carries data."""
    port = connection.client.getsockname()[1]
    name = f"own{port}"
    lab.client.command("nft", "-f", "-", text=RULES % (name, port))
    try:
        yield
    finally:
        lab.client.command("nft", "delete", "table", "inet", name)


def sent_in_vain(impl: b.Backend, lab: NetLab, connection: Connection) -> None:
    """Send what is dropped here, and let it arrive at last: it counts more than once."""
    with dropped_here(lab, connection):
        connection.client.sendall(DATA)
        until(lambda: info(impl, connection.client).bytes_sent > 2 * len(DATA))
    assert receive_exactly(connection.server, len(DATA)) == DATA
    until(lambda: not in_flight(connection.client))


def info(impl: b.Backend, sock: socket.socket) -> b.Info:
    return b.Info(*impl.tcp_info(sock.fileno()))


@pytest.mark.parametrize("looked", [False, True])
def test_an_end_in_order_is_none(impl: b.Backend, lab: NetLab, looked: bool) -> None:
    connection = lab.open()
    client, server = connection.client, connection.server
    with make_watcher(impl) as driver:
        driver.watch(client, detect=LONG)
        sent_in_vain(impl, lab, connection)
        if looked:
            driver.run(1200)
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b""
        server.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        until(lambda: info(impl, client).state == b.CLOSE)
        (event,) = driver.tell()
        assert (event.cause, event.err) == (b.FOR_GONE, 0)


@pytest.mark.parametrize("under_way", [False, True])
def test_a_reset_is_one_although_its_error_was_taken(
    impl: b.Backend, lab: NetLab, under_way: bool
) -> None:
    connection = lab.open()
    client, server = connection.client, connection.server
    with make_watcher(impl) as driver:
        driver.watch(client, detect=LONG)
        sent_in_vain(impl, lab, connection)
        if under_way:
            connection.cut()
            client.sendall(DATA)
            until(lambda: in_flight(client) > 0)
            connection.heal()
        else:
            driver.run(1200)
        reset(server)
        until(lambda: info(impl, client).state == b.CLOSE)
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
        (event,) = driver.tell()
        assert (event.cause, event.err) == (b.FOR_RESET, errno.ECONNRESET)
