"""The pure backend on this system's own sockets, whichever system this is."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
import time

import pytest

from stillalive import NotSupportedError, _pure
from stillalive import _backend as b
from stillalive._systems import system

from .model_systems import fails

HERE = system()
if not _pure.supported():
    pytest.skip("no keepalive options are known of this system", allow_module_level=True)

TIMES = (b.IDLE, b.INTERVAL, b.COUNT)
HAS_TIMES = all(_pure.supported() >> option & 1 for option in TIMES)


def seen(sock: socket.socket, *states: int) -> b.Verdict:
    """Look until it is seen, or for 5 s."""
    until = time.monotonic() + 5
    while (verdict := _pure.check(sock.fileno()))[0] not in states and time.monotonic() < until:
        time.sleep(0.01)
    assert verdict[0] in states, verdict
    return verdict


def test_what_is_supported_is_in_the_table():
    for number, option in enumerate(HERE.options):
        if option is None:
            assert not _pure.supported() >> number & 1
            assert _pure.option_range(number) is None
    assert _pure.supported() & 1


def test_a_fresh_socket_holds_something_for_each(tcp_pair):
    a, _ = tcp_pair()
    for number, held in enumerate(_pure.read_options(a.fileno())):
        assert (held == b.LEAVE) == (not _pure.supported() >> number & 1)


@pytest.mark.skipif(not HAS_TIMES, reason="this system has no times of a socket's own")
@pytest.mark.parametrize("connected", [True, False])
def test_a_policy_is_set_and_its_owner_sees_it(tcp_pair, connected):
    sock = tcp_pair()[0] if connected else socket.socket()
    with sock:
        held = _pure.apply_options(sock.fileno(), (1, 60, 10, 5, -1, -1))
        assert held[:4] == (1, 60, 10, 5)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
        told = _pure.read_options(sock.fileno())
        assert all(t in (h, b.UNREADABLE) for h, t in zip(held[:4], told, strict=False))
        assert _pure.apply_options(sock.fileno(), (0, -1, -1, -1, -1, -1))[0] == 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


@pytest.mark.parametrize("option", [b.IDLE, b.INTERVAL, b.COUNT])
def test_what_is_out_of_range_changes_nothing(tcp_pair, option):
    a, _ = tcp_pair()
    before = _pure.read_options(a.fileno())
    values = [1, -1, -1, -1, -1, -1]
    values[option] = 0
    with pytest.raises(OSError, match="sockopt"):
        _pure.apply_options(a.fileno(), tuple(values))
    assert _pure.read_options(a.fileno()) == before


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_names_and_kinds(tcp_pair, family):
    if family == socket.AF_INET6 and not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    a, c = tcp_pair(family)
    assert _pure.kind(a.fileno())[:3] == (family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    names = {_pure.identify(a.fileno()), _pure.identify(c.fileno())}
    assert len(names) == 2
    assert 0 not in names
    with a.dup() as twin:
        assert _pure.identify(twin.fileno()) in names


def test_an_open_connection(tcp_pair):
    a, c = tcp_pair()
    seen(a, b.OPEN, b.ALIVE)
    c.sendall(b"abc")
    until = time.monotonic() + 5
    while _pure.check(a.fileno())[5] != 3 and time.monotonic() < until:
        time.sleep(0.01)
    assert _pure.check(a.fileno())[5] == 3
    assert a.recv(9) == b"abc"


def test_the_peers_end(tcp_pair):
    a, c = tcp_pair()
    c.shutdown(socket.SHUT_WR)
    assert seen(a, b.PEER_CLOSED)[1] == b.WHY_FIN
    assert a.recv(9) == b""
    a.sendall(b"still open on this side")


def test_a_reset_is_seen_and_left_for_the_owner(tcp_pair):
    a, c = tcp_pair()
    witness = _pure.Witness(a.fileno())
    witness.begin(0)
    linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    c.close()
    first = seen(a, b.RESET, b.DEAD)
    assert first[1] in (b.WHY_RST, b.WHY_RST_OR_TIMEOUT)
    assert witness.look(0, 10)[0] in (b.RESET, b.DEAD)
    assert _pure.check(a.fileno())[:4] == first[:4]
    if sys.platform != "win32":  # wine itself takes it
        with fails(errno.ECONNRESET):
            a.recv(1)


def test_a_refused_connection_has_no_peer():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with socket.socket() as sock:
            with contextlib.suppress(OSError):
                sock.connect(held.getsockname())
            try:
                state = _pure.check(sock.fileno())[0]
            except OSError as error:
                assert error.errno == errno.ENOTCONN  # the error was the owner's, and he has it
            else:
                assert state in (b.RESET, b.DEAD, b.PEER_CLOSED)


def test_what_is_no_connection():
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(NotSupportedError):
        _pure.check(listener.fileno())
    with socket.socket() as fresh, fails(errno.ENOTCONN):
        _pure.check(fresh.fileno())
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        for ask in (_pure.check, _pure.tcp_info, _pure.read_options):
            with pytest.raises(NotSupportedError):
                ask(other.fileno())


def test_a_closed_descriptor():
    with socket.socket() as sock:
        number = sock.fileno()
    for ask in (_pure.check, _pure.tcp_info, _pure.read_options, _pure.identify, _pure.kind):
        with fails(errno.EBADF):
            ask(number)
