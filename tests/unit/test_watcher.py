"""The Watcher of both backends: whom it ends, whom it spares, and what it tells."""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
import threading
import time

import pytest

from stillalive import _backend as b

from .guarding import deafen
from .serving import reset
from .watchers import PATIENCE, TICK, Place, all_acked, answer, ask, is_open, make_watcher, now_ms

LIMIT = 200


@pytest.fixture
def place():
    with Place() as made:
        yield made


def guarding(impl, place, **settings):
    return make_watcher(impl, discover=True, ports=(place.port,), **settings)


def fill(server):
    """Send until no more is taken."""
    server.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            server.send(bytes(65536))
    server.settimeout(PATIENCE)


# ---- each class ends -------------------------------------------------------------------------


def test_who_never_spoke_is_ended_and_told(impl, place):
    began = now_ms()
    client, server = place.connect()
    with guarding(impl, place, never_spoke_ms=LIMIT) as driver:
        (event,) = driver.tell()
        assert now_ms() - began >= LIMIT - TICK
        assert (event.cause, event.klass) == (b.FOR_NEVER_SPOKE, b.NEVER_SPOKE)
        assert (event.deed, event.dry_run, event.token, event.err) == (b.DEED_SHUTDOWN, False, 0, 0)
        assert (event.fd, event.identity) == (server.fileno(), impl.identify(server.fileno()))
        packed = socket.inet_aton("127.0.0.1")
        assert event.local == (packed, place.port, 0)
        assert event.peer == (packed, client.getsockname()[1], 0)
        assert LIMIT <= event.clock_ms < LIMIT + 1000
        assert (event.data_in_ms, event.data_out_ms) == (-1, -1)
        assert (event.bytes_in, event.bytes_out, event.unread, event.unsent) == (0, 0, 0, 0)
        assert event.heard_ms >= LIMIT
        assert now_ms() - 1000 < event.at_ms <= now_ms()
        assert (client.recv(1), server.recv(1)) == (b"", b"")
        assert driver.run(LIMIT) == []  # once is enough
        assert [driver.stats(name) for name in ("told_never_spoke", "told", "ended")] == [1, 1, 1]


def test_who_is_not_answered_is_ended(impl, place):
    client, server = place.connect()
    client.sendall(b"GET / HT")
    assert server.recv(100)
    with guarding(impl, place, unanswered_ms=LIMIT) as driver:
        (event,) = driver.tell()
        assert (event.cause, event.klass) == (b.FOR_UNANSWERED, b.UNANSWERED)
        assert (event.bytes_in, event.bytes_out) == (8, 0)
        assert LIMIT <= event.data_in_ms < LIMIT + 1000
        assert client.recv(1) == b""


def test_who_has_nothing_more_to_ask_is_ended(impl, place):
    client, server = place.answered()
    with guarding(impl, place, answered_ms=LIMIT) as driver:
        (event,) = driver.tell()
        assert (event.cause, event.klass) == (b.FOR_ANSWERED, b.ANSWERED)
        assert (event.bytes_in, event.bytes_out) == (8, 6)
        assert client.recv(1) == b""
        assert server.recv(1) == b""


def test_who_takes_nothing_is_ended(impl, place):
    _, server = place.asked()
    fill(server)
    with guarding(impl, place, stalled_ms=LIMIT) as driver:
        (event,) = driver.tell()
        assert (event.cause, event.klass) == (b.FOR_STALLED, b.SENDING)
        assert event.clock_ms >= LIMIT
        assert event.unsent > 0


def test_a_trickle_is_ended_after_two_slow_stretches(impl, place):
    client, server = place.asked()
    with guarding(impl, place, min_rate=10) as driver:
        driver.step()
        for _ in range(22):
            client.sendall(b"x")
            assert server.recv(1) == b"x"
            assert driver.told == []
            driver.leap(400)
        driver.leap(2400)
        (event,) = driver.tell()
        assert (event.cause, event.klass) == (b.FOR_MIN_RATE, b.UNANSWERED)


def test_who_sends_fast_enough_is_no_trickle(impl, place):
    client, server = place.asked()
    with guarding(impl, place, min_rate=10) as driver:
        for _ in range(40):
            client.sendall(b"x" * 5)
            assert server.recv(5)
            driver.leap(400)
        assert driver.told == []
    assert is_open(client, server)


def test_a_silent_peer_is_aborted_with_an_error(impl, place):
    client, server = place.answered()
    deafen(client)
    server.sendall(b"more")  # retransmissions are questions
    with guarding(impl, place, detect_ms=500) as driver:
        (event,) = driver.tell()
        assert (event.cause, event.deed) == (b.FOR_SILENT, b.DEED_ABORT)
        assert event.heard_ms >= 500
        assert driver.stats("ended") == 1
        driver.run(400)
        with pytest.raises(OSError, match="timed out|reset|Broken pipe"):
            server.recv(1)


def test_a_peer_whose_kernel_answers_is_not_silent(impl, place):
    client, server = place.answered()
    with guarding(impl, place, detect_ms=LIMIT) as driver:
        driver.run(4 * LIMIT)
        assert driver.told == []
    assert is_open(client, server)


# ---- healthy ones are left alone -------------------------------------------------------------


def test_unread_bytes_spare_until_they_are_read(impl, place):
    client, server = place.connect()
    client.sendall(b"question")
    with guarding(impl, place, unanswered_ms=LIMIT) as driver:
        driver.until(lambda: driver.stats("spared_unread") > 0)
        driver.run(2 * LIMIT)
        assert (driver.told, driver.stats("spared_unread")) == ([], 1)
        assert server.recv(100) == b"question"
        (event,) = driver.tell()
        assert event.unread == 0
        assert event.clock_ms >= 2 * LIMIT


def test_an_answer_in_the_same_moment_is_an_answer(impl, place):
    pairs = [place.connect() for _ in range(20)]
    for client, server in pairs:
        ask(client, server)
        answer(client, server)
    with guarding(impl, place, unanswered_ms=LIMIT, never_spoke_ms=LIMIT) as driver:
        assert driver.run(3 * LIMIT) == []
        assert driver.stats("tracked") == 20
    assert all(is_open(*pair) for pair in pairs)


def test_a_slow_reader_is_neither_stalled_nor_answered(impl, place):
    client, server = place.asked()
    with guarding(impl, place, answered_ms=LIMIT, stalled_ms=3 * LIMIT) as driver:
        fill(server)
        for _ in range(12):
            client.recv(1 << 17)
            assert driver.run(60) == []
    assert server.fileno() >= 0


def test_a_server_that_speaks_first_keeps_its_silent_clients(impl, place):
    client, server = place.connect()
    answer(client, server)
    with guarding(impl, place, unanswered_ms=LIMIT, never_spoke_ms=LIMIT) as driver:
        assert driver.run(3 * LIMIT) == []
    assert is_open(client, server)


def test_a_half_closed_client_gets_its_answer(impl, place):
    client, server = place.asked()
    client.shutdown(socket.SHUT_WR)
    with guarding(impl, place, never_spoke_ms=LIMIT, unanswered_ms=2 * LIMIT) as driver:
        assert driver.run(LIMIT) == []
        answer(client, server)
        assert driver.run(3 * LIMIT) == []
        server.sendall(b"tail")
        assert client.recv(10) == b"tail"


def test_who_was_busy_a_moment_ago_is_left_alone(impl, place):
    client, server = place.answered()
    with guarding(impl, place, answered_ms=3 * LIMIT, unanswered_ms=3 * LIMIT) as driver:
        for _ in range(12):
            ask(client, server)
            answer(client, server)
            assert driver.run(LIMIT // 2) == []
    assert is_open(client, server)


# ---- settings --------------------------------------------------------------------------------


def test_a_dry_run_tells_each_silence_once_and_does_nothing(impl, place):
    client, server = place.answered()
    with guarding(impl, place, answered_ms=LIMIT, dry_run=True) as driver:
        (event,) = driver.tell()
        assert (event.deed, event.dry_run) == (b.DEED_SHUTDOWN, True)
        assert driver.run(3 * LIMIT) == []
        ask(client, server)
        answer(client, server)
        driver.tell()
        assert (driver.stats("told_answered"), driver.stats("ended")) == (2, 0)
        assert driver.stats("tracked") == 1
    assert is_open(client, server)


@pytest.mark.parametrize(
    ("network", "spared"),
    [
        ((socket.inet_aton("127.0.0.0"), 8), True),
        ((socket.inet_aton("127.0.0.1"), 32), True),
        ((socket.inet_aton("0.0.0.0"), 0), True),
        ((socket.inet_pton(socket.AF_INET6, "::ffff:127.0.0.0"), 104), True),
        ((socket.inet_aton("126.0.0.0"), 8), False),
        ((bytes(16), 0), False),
    ],
)
def test_an_exempt_network_is_left_alone(impl, place, network, spared):
    client, server = place.connect()
    with guarding(impl, place, never_spoke_ms=LIMIT, exempt=(network,)) as driver:
        if not spared:
            driver.tell()
            return
        driver.until(lambda: driver.stats("spared_exempt") > 0)
        assert driver.run(LIMIT) == []
    assert is_open(client, server)


def test_what_is_held_is_left_alone_and_begins_anew(impl, place):
    client, server = place.connect()
    identity = impl.identify(server.fileno())
    with guarding(impl, place, never_spoke_ms=LIMIT) as driver:
        driver.watcher.hold(identity)
        driver.watcher.hold(identity)
        driver.until(lambda: driver.stats("spared_held") > 0)
        driver.watcher.release(identity)
        assert driver.run(2 * LIMIT) == []  # held once more
        assert driver.stats("held") == 1
        released = now_ms()
        driver.watcher.release(identity)
        (event,) = driver.tell()
        assert LIMIT <= event.clock_ms <= event.at_ms - released + TICK  # not since it was born
        assert driver.stats("held") == 0
    assert client.recv(1) == b""


def test_no_more_are_closed_per_second_than_allowed(impl, place):
    for _ in range(6):
        place.connect()
    with guarding(impl, place, never_spoke_ms=LIMIT, closes_per_second=10) as driver:
        times = [event.at_ms for event in driver.tell(6)]
        assert all(later - sooner >= 90 for sooner, later in itertools.pairwise(times))
        assert driver.stats("spared_rate") >= 4


def test_the_longest_idle_are_evicted_first_and_no_more_than_are_too_many(impl, place):
    pairs = []
    for _ in range(5):
        pairs.append(place.answered())
        time.sleep(0.03)  # the kernel's clocks
    busy = place.asked()
    with guarding(impl, place, evict_above=4, evict_idle_ms=100) as driver:
        events = driver.tell(2)
        assert {event.cause for event in events} == {b.FOR_EVICTED}
        assert [event.fd for event in events] == [server.fileno() for _, server in pairs[:2]]
        assert driver.run(1200) == []
        assert driver.stats("tracked") == 4
    assert all(is_open(*pair) for pair in (*pairs[2:], busy))


def test_a_dry_run_counts_whom_it_would_have_evicted_as_gone(impl, place):
    pairs = [place.answered() for _ in range(3)]
    with guarding(impl, place, evict_above=1, evict_idle_ms=100, dry_run=True) as driver:
        assert {event.cause for event in driver.tell(2)} == {b.FOR_EVICTED}
        assert driver.run(1200) == []
    assert all(is_open(*pair) for pair in pairs)


def test_nobody_is_evicted_before_the_least_idleness(impl, place):
    pairs = [place.answered() for _ in range(3)]
    with guarding(impl, place, evict_above=0, evict_idle_ms=60_000) as driver:
        assert driver.run(1500) == []
    assert all(is_open(*pair) for pair in pairs)


def test_a_drain_ends_what_is_at_rest(impl, place):
    silent, _ = place.connect()
    resting, _ = place.answered()
    busy, serving = place.asked()
    with guarding(impl, place, unanswered_ms=60_000, evict_idle_ms=LIMIT) as driver:
        assert driver.run(2 * LIMIT) == []
        driver.watcher.drain(True)
        assert {event.cause for event in driver.tell(2)} == {b.FOR_DRAINED}
        assert (silent.recv(1), resting.recv(1)) == (b"", b"")
        assert driver.run(2 * LIMIT) == []
        answer(busy, serving)
        driver.tell()
        assert busy.recv(1) == b""
        late, server = place.connect()
        driver.watcher.drain(False)
        assert driver.run(2 * LIMIT) == []
        assert is_open(late, server)


def test_looks_that_are_far_away_meet_at_a_tenth_of_a_second(impl, place):
    born = now_ms()
    for _ in range(3):
        place.connect()
        with guarding(impl, place, never_spoke_ms=60_000) as driver:
            driver.until(lambda: driver.stats("looks"))
            now, end = now_ms() // 10 * 10, now_ms() + 61_000
            looks = driver.stats("looks")
            while driver.stats("looks") == looks and now < end:
                now += 10
                driver.watcher.step(now)
            assert now % 100 == 0
            assert born + 60_000 - TICK <= now < end


def test_update_brings_other_limits(impl, place):
    client, _ = place.connect()
    settings = b.WatcherSettings(discover=True, ports=(place.port,), never_spoke_ms=60_000)
    with make_watcher(impl, **settings._asdict()) as driver:
        assert driver.run(LIMIT) == []
        driver.watcher.update(settings._replace(never_spoke_ms=LIMIT, dry_run=True))
        assert driver.tell()[0].dry_run
        driver.watcher.update(settings._replace(never_spoke_ms=LIMIT))
        assert not driver.tell()[0].dry_run
        assert client.recv(1) == b""
        spared = place.connect()
        driver.watcher.update(settings._replace(never_spoke_ms=LIMIT, discover=False))
        assert driver.run(2 * LIMIT) == []
        assert driver.stats("tracked") == 0
    assert is_open(*spared)


def test_a_slower_keepalive_is_paced_and_a_faster_one_kept(impl, place):
    (_, off), (_, fast), (_, own) = (place.answered() for _ in range(3))
    for sock, idle in ((fast, 5), (own, 900)):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 900_000)
    before = [impl.read_options(sock.fileno()) for sock in (fast, own)]
    pace = (1, 8, 8, 127, b.LEAVE, b.LEAVE)
    with guarding(impl, place, detect_ms=30_000, pace=pace, pace_jitter=2) as driver:
        driver.run(100)
        by = impl.identify(off.fileno()) % 3
        assert impl.read_options(off.fileno())[:4] == (1, 8 - by, 8 - by, 127)
        assert [impl.read_options(sock.fileno()) for sock in (fast, own)] == before
        assert driver.told == []


# ---- watches ---------------------------------------------------------------------------------


def test_an_idle_watch_gives_a_blocked_recv_an_error_and_no_end(impl, place):
    client, server = place.answered()
    seen = []

    def read():
        try:
            seen.append(server.recv(1))
        except OSError as error:
            seen.append(error)

    with make_watcher(impl) as driver:
        reader = threading.Thread(target=read)
        reader.start()
        token = driver.watch(server, idle=LIMIT)
        (event,) = driver.tell()
        assert (event.token, event.cause, event.deed) == (token, b.FOR_IDLE, b.DEED_ABORT)
        assert event.clock_ms >= LIMIT
        driver.until(lambda: seen)
        reader.join()
        assert isinstance(seen[0], OSError)
        assert driver.run(LIMIT) == []
        assert driver.stats("watched") == 0
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_watch_that_only_tells_leaves_the_connection_alone(impl, place):
    client, server = place.answered()
    with make_watcher(impl) as driver:
        driver.watch(server, idle=LIMIT, deed=b.DEED_NONE)
        (event,) = driver.tell()
        assert (event.cause, event.deed) == (b.FOR_IDLE, b.DEED_NONE)
        assert driver.run(2 * LIMIT) == []
        assert driver.stats("ended") == 0
    assert is_open(client, server)


def test_a_watch_may_shut_down(impl, place):
    client, server = place.answered()
    with make_watcher(impl, dry_run=True, closes_per_second=1) as driver:  # are not for watches
        driver.watch(server, idle=LIMIT, deed=b.DEED_SHUTDOWN)
        (event,) = driver.tell()
        assert (event.deed, event.dry_run) == (b.DEED_SHUTDOWN, False)
        assert (client.recv(1), server.recv(1)) == (b"", b"")


def test_a_watched_connection_in_use_is_left_alone(impl, place):
    client, server = place.answered()
    with make_watcher(impl) as driver:
        driver.watch(server, idle=3 * LIMIT)
        for _ in range(10):
            ask(client, server)
            answer(client, server)
            assert driver.run(LIMIT // 2) == []
    assert is_open(client, server)


def test_the_clock_of_a_watch_begins_with_it(impl, place):
    _, server = place.answered()
    time.sleep(0.3)  # the kernel's clock
    with make_watcher(impl) as driver:
        began = now_ms()
        driver.watch(server, idle=LIMIT)
        (event,) = driver.tell()
        assert event.at_ms - began >= LIMIT - TICK


def test_an_abort_waits_for_what_is_unread(impl, place):
    client, server = place.answered()
    client.sendall(b"late")
    all_acked(impl, client)  # or it would go on sending
    deafen(client)
    server.sendall(b"more")
    with make_watcher(impl) as driver:
        driver.watch(server, detect=500)
        (event,) = driver.tell()
        assert (event.cause, event.unread) == (b.FOR_SILENT, 4)
        driver.run(500)
        assert server.recv(10) == b"late"
        driver.run(200)
        with pytest.raises(OSError, match="timed out|reset|Broken pipe"):
            server.recv(1)


def test_a_silent_peer_is_told_to_its_watch(impl, place):
    client, server = place.answered()
    deafen(client)
    server.sendall(b"question")
    with make_watcher(impl) as driver:
        token = driver.watch(server, detect=500, deed=b.DEED_NONE)
        (event,) = driver.tell()
        assert (event.token, event.cause, event.klass) == (token, b.FOR_SILENT, b.SENDING)
        assert event.clock_ms >= 500


def test_a_reset_is_told_and_left_to_its_owner(impl, place):
    client, server = place.answered()
    peer = client.getsockname()
    with make_watcher(impl) as driver:
        token = driver.watch(server, detect=60_000)
        assert driver.run(150) == []
        reset(client)
        (event,) = driver.tell()
        assert (event.token, event.cause, event.deed) == (token, b.FOR_RESET, b.DEED_NONE)
        assert event.err == errno.ECONNRESET
        assert event.peer == (socket.inet_aton(peer[0]), peer[1], 0)
        assert driver.stats("watched") == 0
    with pytest.raises(ConnectionResetError):
        server.recv(1)


def test_the_kernels_own_timeout_is_told_as_one(impl, place):
    client, server = place.answered()
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)
    with make_watcher(impl) as driver:
        driver.watch(server, detect=60_000)
        assert driver.run(150) == []
        deafen(client)
        server.sendall(b"anybody?")
        (event,) = driver.tell()
        assert (event.cause, event.err) == (b.FOR_TIMED_OUT, errno.ETIMEDOUT)
    with pytest.raises(TimeoutError):
        server.recv(1)


def test_a_clean_end_is_no_death(impl, place):
    client, server = place.answered()
    with make_watcher(impl) as driver:
        driver.watch(server, detect=60_000)
        client.shutdown(socket.SHUT_WR)
        assert driver.run(LIMIT) == []
        assert server.recv(1) == b""
        server.sendall(b"bye")
        assert client.recv(3) == b"bye"


def test_closing_ends_a_watch(impl, place):
    _, server = place.answered()
    with make_watcher(impl) as driver:
        token = driver.watch(server, detect=60_000)
        driver.run(150)
        server.close()
        (event,) = driver.tell()
        assert (event.token, event.cause, event.deed) == (token, b.FOR_GONE, b.DEED_NONE)
        assert driver.stats("watched") == 0


def test_a_watch_waits_for_the_connection(impl, place):
    with make_watcher(impl) as driver, socket.socket() as client:
        driver.watch(client, idle=LIMIT)
        assert driver.run(2 * LIMIT) == []
        client.connect(place.address)
        connected = now_ms()
        (event,) = driver.tell()
        assert (event.cause, event.klass) == (b.FOR_IDLE, b.NEVER_SPOKE)
        assert event.at_ms - connected >= LIMIT - TICK


def test_a_cancelled_watch_tells_nothing(impl, place):
    client, server = place.answered()
    with make_watcher(impl) as driver:
        token = driver.watch(server, idle=LIMIT)
        assert driver.watcher.cancel(token)
        assert not driver.watcher.cancel(token)
        assert driver.run(2 * LIMIT) == []
        token = driver.watch(server, idle=LIMIT)
        driver.tell()
        assert not driver.watcher.cancel(token)
        assert client.fileno() >= 0


def test_what_is_held_is_not_aborted_by_its_watch(impl, place):
    client, server = place.answered()
    identity = impl.identify(server.fileno())
    with make_watcher(impl) as driver:
        driver.watcher.hold(identity)
        driver.watch(server, idle=LIMIT)
        assert driver.run(2 * LIMIT) == []
        driver.watcher.release(identity)
        driver.tell()
        assert client.fileno() >= 0
