"""The Watcher of both backends: how watched connections begin and end."""

from __future__ import annotations

import ctypes
import errno
import signal
import socket
import threading
import time

import pytest

from stillalive import _backend as b
from stillalive._pure import _ending

from .guarding import deafen
from .serving import reset
from .watchers import PATIENCE, Place, all_acked, bare_watcher, is_open, make_watcher, now_ms

LIMIT = 200
LONG = 60_000
RTO_MAX_MS = 44
DETACH_FILTER = 27


@pytest.fixture
def place():
    with Place() as made:
        yield made


@pytest.fixture
def bounded(impl):
    if not impl.supported() >> b.RTO_MAX & 1:
        pytest.skip("this kernel does not bound the pace of retransmissions")


def connecting(place, client):
    """Begin to connect: the first SYN is lost."""
    place.listener.listen(0)
    place.ends.append(socket.create_connection(place.address, timeout=PATIENCE))
    client.setblocking(False)
    assert client.connect_ex(place.address) == errno.EINPROGRESS


def state_of(impl, sock):
    return b.Info(*impl.tcp_info(sock.fileno())).state


def until_closed(impl, sock):
    end = time.monotonic() + PATIENCE
    while state_of(impl, sock) != b.CLOSE:
        assert time.monotonic() < end
        time.sleep(0.005)


def take_error(impl, sock):
    """Do what the owner's next call would: the error is told once."""
    until_closed(impl, sock)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def told(driver):
    (event,) = driver.tell()
    assert driver.stats("watched") == 0
    return event.cause, event.err


# ---- an error that the owner has taken -------------------------------------------------------


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_reset_is_one_although_the_owners_blocked_call_took_the_error(impl, place, side):
    watched, other = place.answered()[:: 1 if side == "client" else -1]
    with make_watcher(impl) as driver:
        driver.watch(watched, detect=LONG)  # seen open by that alone
        taken = []

        def read():
            with pytest.raises(ConnectionResetError) as caught:
                watched.recv(1)
            taken.append(caught.value)

        reader = threading.Thread(target=read)
        reader.start()
        peer = other.getsockname()
        reset(other)
        reader.join(PATIENCE)
        assert taken
        (event,) = driver.tell()
        assert (event.cause, event.err) == (b.FOR_RESET, errno.ECONNRESET)
        assert event.peer == (socket.inet_aton(peer[0]), peer[1], 0)
        assert driver.stats("watched") == 0


def test_a_reset_in_the_middle_of_a_transfer_whose_error_was_taken(impl, place):
    client, server = place.answered()
    with make_watcher(impl) as driver:
        driver.watch(server, detect=LONG)
        driver.run(150)
        server.sendall(bytes(5000))
        assert client.recv(100) == bytes(100)
        driver.run(150)
        reset(client)
        assert take_error(impl, server) == errno.ECONNRESET
        assert told(driver) == (b.FOR_RESET, errno.ECONNRESET)


def test_a_reset_after_the_peers_end_whose_error_was_taken(impl, place):
    client, server = place.answered()
    with make_watcher(impl) as driver:
        driver.watch(server, detect=LONG)
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b""
        driver.run(150)
        reset(client)
        assert take_error(impl, server) == errno.EPIPE
        assert told(driver) == (b.FOR_RESET, errno.EPIPE)


def test_what_was_under_way_at_a_look_does_not_hide_a_reset(impl, place):
    client, server = place.answered()
    with make_watcher(impl) as driver:
        driver.watch(server, detect=LONG)
        deafen(client)
        server.sendall(bytes(5000))
        driver.step()
        client.setsockopt(socket.SOL_SOCKET, DETACH_FILTER, 0)
        all_acked(impl, server)
        reset(client)
        assert take_error(impl, server) == errno.ECONNRESET
        assert told(driver) == (b.FOR_RESET, errno.ECONNRESET)


@pytest.mark.parametrize(
    ("state", "beyond", "ended", "wanted"),
    [
        (b.ESTABLISHED, 0, {}, (b.FOR_RESET, errno.ECONNRESET)),
        (b.ESTABLISHED, 1, {"bytes_acked": 101}, (b.FOR_RESET, errno.ECONNRESET)),
        (b.ESTABLISHED, 0, {"probes": 1}, (b.FOR_RESET, errno.ECONNRESET)),
        (b.CLOSE_WAIT, 0, {}, (b.FOR_RESET, errno.EPIPE)),
        (b.ESTABLISHED, 0, {"segs_in": 7}, (b.FOR_RESET, errno.ECONNRESET)),
        (b.SYN_SENT, 1, {"bytes_acked": 101, "rtt_us": 9}, (b.FOR_RESET, errno.ECONNRESET)),
        (b.ESTABLISHED, 0, {"segs_in": 7, "retransmits": 1}, (b.FOR_TIMED_OUT, errno.ETIMEDOUT)),
        (b.CLOSE_WAIT, 0, {"segs_in": 7, "probes": 1}, (b.FOR_TIMED_OUT, errno.ETIMEDOUT)),
        (b.ESTABLISHED, 0, {"bytes_acked": 101}, (b.FOR_GONE, 0)),
        (b.ESTABLISHED, 0, {"bytes_acked": 99}, (b.FOR_GONE, 0)),  # our host dropped something
        (b.ESTABLISHED, 0, {"bytes_retrans": -1}, (b.FOR_GONE, 0)),
        (b.ESTABLISHED, 0, {"segs_in": 0}, (b.FOR_GONE, 0)),
        (b.ESTABLISHED, 0, {"segs_in": -1}, (b.FOR_GONE, 0)),
        (b.SYN_SENT, 1, {"segs_in": 1}, (b.FOR_GONE, 0)),
    ],
)
def test_counters_alone_say_how_it_ended(monkeypatch, state, beyond, ended, wanted):
    nothing = b.Info(*(0 for _ in b.Info._fields))
    seen = nothing._replace(state=state, segs_in=7)
    # Of 100 bytes that were sent, 20 were sent twice.
    info = nothing._replace(
        state=b.CLOSE, segs_in=8, bytes_acked=100, bytes_sent=120, bytes_retrans=20
    )._replace(**ended)
    verdict = (b.PEER_CLOSED, b.WHY_CLOSED, 0, 0, 0, 3, 0)
    monkeypatch.setattr(_ending, "verdict_of", lambda fd, info, seen, waited_ms: (info, verdict))
    monkeypatch.setattr(_ending, "_unacked", lambda fd: 0)
    end = _ending.how_it_ended(-1, info, seen, 0, beyond)
    assert (end.cause, end.err) == wanted
    assert (end.info, end.unread) == (info, 3)
    never_seen = _ending.how_it_ended(-1, info, None, 0, beyond)
    assert (never_seen.cause, never_seen.err) == (b.FOR_GONE, 0)


def test_a_timeout_is_one_although_the_owners_call_took_the_error(impl, place):
    client, server = place.answered()
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)
    with make_watcher(impl) as driver:
        driver.watch(server, detect=LONG)
        driver.run(50)
        deafen(client)
        server.sendall(b"anybody?")
        assert take_error(impl, server) == errno.ETIMEDOUT
        assert told(driver) == (b.FOR_TIMED_OUT, errno.ETIMEDOUT)


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_reset_before_the_watcher_knew_of_it(impl, place, side):
    watched, other = place.answered()[:: 1 if side == "client" else -1]
    first = impl.FirstLook(watched.fileno())
    peer = other.getsockname()
    reset(other)
    assert take_error(impl, watched) == errno.ECONNRESET
    with make_watcher(impl) as driver:
        driver.watch(watched, detect=LONG, first=first)
        (event,) = driver.tell()
        assert (event.cause, event.err) == (b.FOR_RESET, errno.ECONNRESET)
        assert event.peer == (socket.inet_aton(peer[0]), peer[1], 0)


@pytest.mark.parametrize("begins", ["before", "half-closed"])
def test_an_end_in_order_before_the_watcher_knew_of_it(impl, place, begins):
    client, server = place.answered()
    if begins == "half-closed":
        server.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    first = impl.FirstLook(server.fileno())
    server.shutdown(socket.SHUT_WR)
    client.close()
    until_closed(impl, server)
    with make_watcher(impl) as driver:
        driver.watch(server, detect=LONG, first=first)
        assert told(driver) == (b.FOR_GONE, 0)


def test_a_first_look_at_another_socket_says_nothing(impl, place):
    _, stranger = place.answered()
    client, server = place.answered()
    first = impl.FirstLook(stranger.fileno())
    reset(client)
    assert take_error(impl, server) == errno.ECONNRESET
    with make_watcher(impl) as driver:
        driver.watch(server, detect=LONG, first=first)
        assert told(driver) == (b.FOR_GONE, 0)
        driver.watch(stranger, detect=LONG, first=first)
        assert driver.run(150) == []


def test_a_first_look_has_what_the_kernel_says(impl, place):
    client, server = place.answered()
    seen = impl.FirstLook(server.fileno())
    assert seen.identity == impl.identify(server.fileno()) != impl.identify(client.fileno())
    info, again = b.Info(*seen.info), b.Info(*impl.tcp_info(server.fileno()))
    assert (info.state, info.segs_in) == (b.ESTABLISHED, again.segs_in)
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        impl.FirstLook(10**6)
    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_reset_of_one_that_was_never_seen_quiet(impl, place, side):
    watched, other = place.answered()[:: 1 if side == "client" else -1]
    deafen(other)
    watched.sendall(b"under way")
    with make_watcher(impl) as driver:
        driver.watch(watched, detect=LONG)
        driver.run(150)
        reset(other)
        assert take_error(impl, watched) == errno.ECONNRESET
        assert told(driver) == (b.FOR_RESET, errno.ECONNRESET)


@pytest.mark.parametrize("refused", [False, True])
def test_an_attempt_whose_end_no_look_saw(impl, refused):
    with Place() as place, make_watcher(impl) as driver, socket.socket() as client:
        connecting(place, client)
        assert state_of(impl, client) == b.SYN_SENT
        driver.watch(client, detect=LONG)
        if refused:
            place.listener.close()
            assert take_error(impl, client) == errno.ECONNREFUSED
            assert told(driver) == (b.FOR_GONE, 0)
        else:
            place.ends.append(place.listener.accept()[0])
            server, _ = place.listener.accept()
            reset(server)
            assert take_error(impl, client) == errno.ECONNRESET
            assert told(driver) == (b.FOR_RESET, errno.ECONNRESET)


@pytest.mark.parametrize("first", ["watched", "peer"])
@pytest.mark.parametrize("looked", [False, True])
@pytest.mark.parametrize("busy", [False, True])
def test_who_closes_in_order_is_gone_without_an_error(impl, place, first, looked, busy):
    client, server = place.answered()
    with make_watcher(impl) as driver:
        driver.watch(server, detect=LONG)
        if busy:
            server.sendall(b"the last of it")
            assert client.recv(100)
        one, other = (server, client) if first == "watched" else (client, server)
        one.shutdown(socket.SHUT_WR)
        if looked:
            driver.run(150)
        assert other.recv(1) == b""
        other.shutdown(socket.SHUT_WR)
        if first == "watched":
            assert one.recv(1) == b""
        until_closed(impl, server)
        assert told(driver) == (b.FOR_GONE, 0)


def test_who_disconnects_and_takes_the_error_himself_is_gone(impl, place):
    _, server = place.answered()
    with make_watcher(impl) as driver:
        driver.watch(server, detect=LONG)
        driver.run(50)
        unspec = ctypes.create_string_buffer(16)
        assert ctypes.CDLL(None).connect(server.fileno(), unspec, 16) == 0
        take_error(impl, server)
        assert told(driver) == (b.FOR_GONE, 0)


# ---- connecting ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("detect", "wanted"),
    [(3800, 1000), (7600, 2000), (28_500, 7000), (114_000, 30_000), (3_000_000, 120_000)],
)
@pytest.mark.usefixtures("bounded")
def test_retransmissions_keep_pace_once_it_is_connected(impl, place, detect, wanted):
    with make_watcher(impl) as driver, socket.socket() as client:
        before = impl.read_options(client.fileno())
        driver.watch(client, detect=detect)
        assert driver.run(150) == []
        assert impl.read_options(client.fileno()) == before
        client.connect(place.address)
        server, _ = place.listener.accept()
        place.ends.append(server)
        driver.until(lambda: impl.read_options(client.fileno())[b.RTO_MAX] == wanted)
        assert impl.read_options(client.fileno())[: b.RTO_MAX] == before[: b.RTO_MAX]
        assert driver.run(LIMIT) == []
        assert is_open(client, server)


@pytest.mark.usefixtures("bounded")
def test_a_first_syn_that_is_lost_is_repeated_at_the_kernels_own_pace(impl):
    with Place() as place, make_watcher(impl) as driver, socket.socket() as client:
        connecting(place, client)
        assert state_of(impl, client) == b.SYN_SENT
        usual = client.getsockopt(socket.IPPROTO_TCP, RTO_MAX_MS)
        driver.watch(client, detect=3800)
        driver.run(LIMIT)
        assert state_of(impl, client) == b.SYN_SENT
        assert client.getsockopt(socket.IPPROTO_TCP, RTO_MAX_MS) == usual
        place.ends.append(place.listener.accept()[0])
        driver.until(lambda: client.getsockopt(socket.IPPROTO_TCP, RTO_MAX_MS) == 1000)
        assert state_of(impl, client) == b.ESTABLISHED
        assert driver.told == []


@pytest.mark.usefixtures("bounded")
def test_connected_between_the_watch_and_the_first_look_it_keeps_pace_too(impl, place):
    with make_watcher(impl) as driver, socket.socket() as client:
        driver.watch(client, detect=3800)
        client.connect(place.address)
        driver.run(LIMIT)
        assert client.getsockopt(socket.IPPROTO_TCP, RTO_MAX_MS) == 1000


@pytest.mark.usefixtures("bounded")
def test_a_quicker_pace_of_the_owners_stays(impl, place):
    with make_watcher(impl) as driver, socket.socket() as client:
        client.setsockopt(socket.IPPROTO_TCP, RTO_MAX_MS, 1500)
        driver.watch(client, detect=LONG)
        driver.run(50)
        client.connect(place.address)
        driver.run(2 * LIMIT)
        assert client.getsockopt(socket.IPPROTO_TCP, RTO_MAX_MS) == 1500


@pytest.mark.usefixtures("bounded")
def test_who_only_looks_for_idleness_changes_no_pace(impl, place):
    with make_watcher(impl) as driver, socket.socket() as client:
        before = impl.read_options(client.fileno())
        driver.watch(client, idle=LONG)
        driver.run(50)
        client.connect(place.address)
        driver.run(1200)
        assert impl.read_options(client.fileno()) == before


@pytest.mark.usefixtures("bounded")
def test_what_is_quicker_already_keeps_its_pace(impl, place):
    client, _ = place.connect()
    client.setsockopt(socket.IPPROTO_TCP, RTO_MAX_MS, 1500)
    before = impl.read_options(client.fileno())
    with make_watcher(impl) as driver:
        driver.watch(client, detect=28_500)
        driver.run(LIMIT)
        assert impl.read_options(client.fileno()) == before


# ---- an abort --------------------------------------------------------------------------------


def test_an_idle_connection_is_aborted_at_once(impl, place):
    client, server = place.answered()
    before = impl.read_options(server.fileno())
    with make_watcher(impl) as driver:
        driver.watch(server, idle=LIMIT)
        (event,) = driver.tell()
        assert (event.cause, event.deed, event.unread) == (b.FOR_IDLE, b.DEED_ABORT, 0)
        assert state_of(impl, server) == b.CLOSE  # without one more look
        assert impl.read_options(server.fileno()) == before
        for end in (server, client):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        assert (driver.stats("ended"), driver.stats("watched")) == (1, 0)
        assert driver.run(2 * LIMIT) == []


def test_an_idle_connection_with_unread_bytes_is_not_aborted(impl, place):
    client, server = place.answered()
    with make_watcher(impl) as driver:
        driver.watch(server, idle=LIMIT)
        client.sendall(b"more")
        assert driver.run(3 * LIMIT) == []
        assert server.recv(10) == b"more"
        driver.tell()
        assert state_of(impl, server) == b.CLOSE


def test_a_silent_peer_is_left_to_the_kernels_own_error_first(impl, place):
    client, server = place.answered()
    deafen(client)
    server.sendall(b"question")
    with make_watcher(impl) as driver:
        driver.watch(server, detect=500)
        (event,) = driver.tell()
        assert (event.cause, event.deed) == (b.FOR_SILENT, b.DEED_ABORT)
        assert state_of(impl, server) != b.CLOSE
        driver.until(lambda: state_of(impl, server) == b.CLOSE)


@pytest.mark.parametrize("deed", [b.DEED_ABORT, b.DEED_SHUTDOWN, b.DEED_NONE])
@pytest.mark.parametrize("half_closed", [False, True])
def test_both_addresses_are_told_whatever_is_done(impl, place, deed, half_closed):
    client, server = place.answered()
    if half_closed:
        client.shutdown(socket.SHUT_WR)
    ends = [(socket.inet_aton(host), port, 0) for host, port in map(_name, (server, client))]
    with make_watcher(impl) as driver:
        driver.watch(server, idle=LIMIT, deed=deed)
        (event,) = driver.tell()
        assert (event.cause, event.deed) == (b.FOR_IDLE, deed)
        assert [event.local, event.peer] == ends


def _name(sock):
    return sock.getsockname()[:2]


# ---- a signal handler ------------------------------------------------------------------------


def test_a_handler_that_stops_it_in_a_call_does_not_wait_for_the_thread(impl, monkeypatch):
    if impl.NAME != "pure":
        pytest.skip("its calls are not interrupted")
    watcher = bare_watcher(impl, never_spoke_ms=LONG)
    watcher.start()
    thread = watcher._thread
    before = signal.signal(signal.SIGALRM, lambda *_: watcher.stop())
    waited = []
    try:
        with watcher._changed, monkeypatch.context() as patch:  # as every call has it
            patch.setattr(thread, "join", lambda: waited.append(thread))
            signal.raise_signal(signal.SIGALRM)
            assert (waited, thread.is_alive()) == ([], True)
        thread.join(PATIENCE)
        assert not thread.is_alive()
    finally:
        signal.signal(signal.SIGALRM, before)
        watcher.stop()


# ---- a queue that is full --------------------------------------------------------------------


def test_the_ends_of_watches_are_told_however_slow_the_taker(impl, place):
    """Nobody takes until all have ended; each of them still has its end told."""
    with make_watcher(impl, queue=2) as driver:
        tokens = set()
        for _ in range(6):
            _, server = place.connect()
            tokens.add(driver.watch(server, idle=LIMIT, deed=b.DEED_NONE))
        end = time.monotonic() + 5
        told = set()
        while told != tokens and time.monotonic() < end:
            time.sleep(0.02)
            driver.watcher.step(now_ms())
            if driver.watcher.stats()["told_idle"] >= 2:
                told |= {seen.token for seen in driver.watcher.take(1, 0) or []}
        assert told == tokens
        assert driver.watcher.stats()["dropped"] == 0
