"""check: what is known without asking, and nothing taken from the owner."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
import time

import pytest

from stillalive import NotSupportedError, State, check, probe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is supported so far")


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def eventually(sock: socket.socket, state: State) -> None:
    """Loopback delivers at once, but in another context."""
    end = time.monotonic() + 5
    while check(sock).state is not state:
        assert time.monotonic() < end, check(sock)
        time.sleep(0.001)


def test_a_fresh_connection_is_alive(impl, tcp_pair):
    a, _ = tcp_pair()
    found = check(a)
    assert found.state is State.ALIVE
    assert found.usable
    assert bool(found)
    assert found.heard_ago <= 1
    assert found.readable == 0
    assert found.asked == 0
    assert found.errno is None
    assert found.raise_if_unusable() is found


def test_fin(impl, tcp_pair):
    a, c = tcp_pair()
    c.close()
    eventually(a, State.PEER_CLOSED)
    found = check(a)
    assert not found
    with pytest.raises(ConnectionError, match="closed its sending side") as caught:
        found.raise_if_unusable()
    assert caught.value.errno == errno.EPIPE


def test_fin_behind_unread_data(impl, tcp_pair):
    a, c = tcp_pair()
    c.sendall(b"last words")
    c.close()
    eventually(a, State.PEER_CLOSED)
    found = check(a)
    assert found.readable == 10
    assert "behind 10 unread bytes" in found.reason
    assert a.recv(100) == b"last words"
    assert a.recv(100) == b""


def test_half_closed_by_the_peer_is_peer_closed(impl, tcp_pair):
    a, c = tcp_pair()
    c.shutdown(socket.SHUT_WR)
    eventually(a, State.PEER_CLOSED)
    a.sendall(b"still goes out")
    assert c.recv(100) == b"still goes out"


def test_half_closed_by_us_is_still_usable(impl, tcp_pair):
    a, c = tcp_pair()
    a.shutdown(socket.SHUT_WR)
    assert c.recv(1) == b""
    assert check(a).usable
    c.sendall(b"answer")
    assert a.recv(100) == b"answer"


def test_our_own_shut_reading_side_is_no_fin(impl, tcp_pair):
    a, _ = tcp_pair()
    a.shutdown(socket.SHUT_RD)
    assert check(a).usable


def test_rst_is_named_and_left_to_the_owner(impl, tcp_pair):
    a, c = tcp_pair()
    reset(c)
    eventually(a, State.RESET)
    for found in (check(a), probe(a), check(a)):
        assert found.state is State.RESET
        assert found.errno == errno.ECONNRESET
        with pytest.raises(ConnectionResetError):
            found.raise_if_unusable()
    with pytest.raises(ConnectionResetError):
        a.recv(1)


def test_rst_behind_unread_data_leaves_both_to_the_owner(impl, tcp_pair):
    a, c = tcp_pair()
    c.sendall(b"0123456789")
    reset(c)
    eventually(a, State.RESET)
    assert check(a).readable == 10
    assert a.recv(100) == b"0123456789"
    with pytest.raises(ConnectionResetError):
        a.recv(1)


def test_an_error_already_read_leaves_a_closed_connection(impl, tcp_pair):
    a, c = tcp_pair()
    reset(c)
    eventually(a, State.RESET)
    with pytest.raises(ConnectionResetError):
        a.recv(1)
    found = check(a)
    assert found.state is State.PEER_CLOSED
    assert "its error has been read already" in found.reason
    assert not found


def test_stray_data_is_reported_not_judged(impl, tcp_pair):
    a, c = tcp_pair()
    c.sendall(b"stray")
    end = time.monotonic() + 5
    while not check(a).readable:
        assert time.monotonic() < end
    found = check(a)
    assert found.usable
    assert found.readable == 5
    assert a.recv(10) == b"stray"


def test_connecting_is_open(impl):
    with socket.socket() as sock:
        sock.setblocking(False)
        # A listener whose queue is full answers no SYN.
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            blockers = [socket.socket() for _ in range(3)]
            try:
                for blocker in blockers:
                    blocker.setblocking(False)
                    blocker.connect_ex(listener.getsockname())
                assert sock.connect_ex(listener.getsockname()) == errno.EINPROGRESS
                found = check(sock)
                assert found.state is State.OPEN
                assert "still being made" in found.reason
                assert found.heard_ago is None
            finally:
                for blocker in blockers:
                    blocker.close()


def test_never_connected_is_enotconn(impl):
    with socket.socket() as sock:
        for call in (check, probe):
            with pytest.raises(OSError, match="never connected") as caught:
                call(sock)
            assert caught.value.errno == errno.ENOTCONN


@pytest.mark.parametrize("call", [check, probe, lambda s: asyncio.run(_aprobe(s))])
def test_what_has_no_peer_is_refused(impl, call):
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        for sock, name in ((udp, "UDP"), (unix, "AF_UNIX"), (listener, "listening")):
            with pytest.raises(NotSupportedError, match=name):
                call(sock)
        listener.close()
        with pytest.raises(OSError, match="closed") as caught:
            call(listener)
        assert caught.value.errno == errno.EBADF


async def _aprobe(sock: object) -> object:
    from stillalive import aprobe

    return await aprobe(sock)


def test_an_error_queue_that_is_not_empty_is_no_death(impl, tcp_pair):
    """MSG_ZEROCOPY completions raise POLLERR on healthy connections."""
    a, c = tcp_pair()
    so_zerocopy, msg_zerocopy = 60, 0x4000000
    try:
        a.setsockopt(socket.SOL_SOCKET, so_zerocopy, 1)
    except OSError as error:
        pytest.skip(f"this kernel has no MSG_ZEROCOPY: {error}")
    a.send(b"z" * 1000, msg_zerocopy)
    assert c.recv(2000) == b"z" * 1000
    assert check(a).usable


def test_repr_tells_state_and_reason(impl, tcp_pair):
    a, _ = tcp_pair()
    assert repr(check(a)).startswith("<Liveness ALIVE: a segment arrived 0")


def test_mptcp_ends_above_its_subflows(impl):
    ipproto_mptcp = 262
    try:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, ipproto_mptcp)
    except OSError as error:
        pytest.skip(f"this kernel has no MPTCP: {error}")
    with listener, socket.socket(socket.AF_INET, socket.SOCK_STREAM, ipproto_mptcp) as a:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        a.connect(listener.getsockname())
        c, _ = listener.accept()
        assert check(a).state is State.ALIVE
        c.sendall(b"12345")
        c.close()
        eventually(a, State.PEER_CLOSED)
        assert check(a).readable == 5
        assert a.recv(10) == b"12345"
