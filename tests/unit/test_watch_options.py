"""watch(): the options that it puts on a socket, what they promise, and how they come back."""

from __future__ import annotations

import os
import socket
import time

import pytest

from stillalive import _asking, _impl, _pacing, _pending, describe, probe, tune
from stillalive import _backend as b
from stillalive import guard as guards
from stillalive.guard import DetectsWithin, Guard, watch
from stillalive.policy import KeepAlive

from . import guarding
from .guarding import Blocked
from .serving import until

fake, real = guarding.fake, guarding.real


def options(sock):
    return _impl.backend.read_options(sock.fileno())


# ---- the socket's own options -----------------------------------------------


def test_options_come_back_after_cancel(fake, tcp_pair):
    a, _ = tcp_pair()
    tune(a, idle=100, interval=20, count=5, user_timeout=190)
    before = options(a)
    watching = watch(a, detect_within=8)
    enabled, idle, interval, count, user_timeout, rto_max = options(a)
    assert (enabled, idle, interval, count, user_timeout) == (1, 2, 2, 127, 0)
    assert rto_max in (2000, b.LEAVE)
    watching.cancel()
    assert options(a) == before


@pytest.mark.parametrize(
    ("cause", "deed", "back"),
    [
        (b.FOR_SILENT, b.DEED_NONE, True),
        (b.FOR_IDLE, b.DEED_SHUTDOWN, True),
        (b.FOR_SILENT, b.DEED_ABORT, False),
        (b.FOR_GONE, b.DEED_NONE, False),
    ],
)
def test_options_come_back_unless_it_is_being_aborted(fake, tcp_pair, cause, deed, back):
    a, _ = tcp_pair()
    before = options(a)
    watching = watch(a, detect_within=8)
    fake[0].end(watching._token, cause=cause, deed=deed)
    waited = watching.wait(10)
    assert (waited is None) == (cause == b.FOR_GONE)
    assert (options(a) == before) == back
    assert not _pacing._loans


def test_an_unconnected_socket_has_its_options_back(fake):
    with socket.socket() as sock:
        before = options(sock)
        watching = watch(sock, detect_within=8)
        assert options(sock)[b.IDLE] == 2
        assert options(sock)[b.RTO_MAX] == before[b.RTO_MAX]  # or connect() gave up early
        watching.cancel()
        assert options(sock) == before


def test_an_idle_timeout_alone_changes_nothing(fake, tcp_pair):
    a, _ = tcp_pair()
    before = options(a)
    watching = watch(a, idle_timeout=5)
    assert options(a) == before
    assert watching.detects_within == DetectsWithin(None, None, None, None, None, None)
    a.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    watching.cancel()
    assert options(a)[b.ENABLED] == 1


def test_the_last_of_several_gives_back(fake, tcp_pair):
    a, _ = tcp_pair()
    before = options(a)
    slow, fast = watch(a, detect_within=40), watch(a, detect_within=8)
    assert options(a)[b.IDLE] == 2
    third = watch(os.dup(a.fileno()), detect_within=20)
    assert options(a)[b.IDLE] == 2
    fast.cancel()
    slow.cancel()
    assert options(a)[b.ENABLED] == 1
    number = third._fd
    third.cancel()
    assert options(a) == before
    os.close(number)


def test_what_is_tuned_meanwhile_stays(fake, tcp_pair):
    a, _ = tcp_pair()
    tune(a, idle=100, interval=20, count=5)
    before = options(a)
    watching = watch(a, detect_within=8)
    tune(a, idle=33)
    watching.cancel()
    assert options(a)[b.IDLE] == 33
    assert options(a)[b.INTERVAL :] == before[b.INTERVAL :]


def test_what_is_tuned_between_two_watches_comes_back(fake, tcp_pair):
    a, _ = tcp_pair()
    first = watch(a, detect_within=40)
    tune(a, idle=5)
    second = watch(a, detect_within=40)
    assert options(a)[b.IDLE] == 5
    first.cancel()
    second.cancel()
    assert options(a)[b.IDLE] == 5
    assert options(a)[b.ENABLED] == 1


def test_switching_off_meanwhile_stays(fake, tcp_pair):
    a, _ = tcp_pair()
    tune(a, idle=100, interval=20, count=5)
    before = options(a)
    watching = watch(a, detect_within=8)
    tune(a, KeepAlive.OFF)
    watching.cancel()
    assert options(a) == (0, *before[1:])


def test_what_is_tuned_meanwhile_stays_on(fake, tcp_pair):
    a, _ = tcp_pair()
    before = options(a)
    watching = watch(a, detect_within=8)
    tune(a, user_timeout=60)
    watching.cancel()
    assert options(a) == (1, *before[1:4], 60_000, before[5])


def test_a_quicker_pace_of_the_owners_stays(fake, tcp_pair):
    a, _ = tcp_pair()
    tune(a, idle=9, interval=4, count=3)
    watching = watch(a, detect_within=400)
    enabled, idle, interval, count, *_ = options(a)
    assert (enabled, idle, count) == (1, 9, 127)
    assert interval >= 4 and interval * 127 > 400
    watching.cancel()
    assert options(a)[b.IDLE : b.USER_TIMEOUT] == (9, 4, 3)


def test_what_waited_to_be_set_comes_back(fake, tcp_pair):
    a, _ = tcp_pair()
    tune(a, idle=100, interval=20, count=5)
    identity = _impl.backend.identify(a.fileno())
    rest = (b.LEAVE, b.LEAVE, b.LEAVE, 4, 77_000, b.LEAVE)
    _pending.add(a.fileno(), identity, rest, patience=1000)
    _pending._by_identity[identity].began -= 0.0
    watching = watch(a, detect_within=8)
    assert not describe(a).pending
    assert options(a)[b.USER_TIMEOUT] == 0
    watching.cancel()
    until(lambda: options(a)[b.COUNT :][:2] == (4, 77_000))


def test_a_pending_tune_during_the_watch_has_the_last_word(fake, tcp_pair):
    a, _ = tcp_pair()
    tune(a, idle=100, interval=20, count=5, user_timeout=190)
    watching = watch(a, detect_within=8)
    identity = _impl.backend.identify(a.fileno())
    rest = (b.LEAVE, b.LEAVE, b.LEAVE, 4, 77_000, b.LEAVE)
    with _pending._wake:
        entry = _pending._Entry(time.monotonic() + 60, identity, a.fileno(), rest, 0.0, 60.0)
        _pending._by_identity[identity] = entry
    try:
        watching.cancel()
        held = options(a)
        assert (held[b.IDLE], held[b.INTERVAL]) == (100, 20)
        assert (held[b.COUNT], held[b.USER_TIMEOUT]) == (127, 0)  # the entry's to set
    finally:
        _pending.forget(identity)


def test_a_quiet_connection_must_answer_before_its_user_timeout_is_back(
    fake, tcp_pair, monkeypatch
):
    a, _ = tcp_pair()
    tune(a, idle=10, interval=2, count=3, user_timeout=15)
    watching = watch(a, detect_within=60)
    backend = _impl.backend
    quiet = [True]

    def told(fd):
        info = b.Info(*backend._impl.tcp_info(fd))
        ago = 50_000 if quiet[0] else 0
        return tuple(info._replace(last_ack_recv_ms=ago, last_data_recv_ms=ago))

    monkeypatch.setattr(backend, "tcp_info", told, raising=False)
    watching.cancel()
    assert options(a)[b.USER_TIMEOUT] == 0
    assert describe(a).pending
    quiet[0] = False
    until(lambda: options(a)[b.USER_TIMEOUT] == 15_000)
    assert options(a)[b.COUNT] == 3


def test_probing_a_watched_socket(real, tcp_pair):
    a, _ = tcp_pair()
    before = options(a)
    watching = watch(a, detect_within=8)
    lent = options(a)
    asked = Blocked(probe, a, 5)
    asked.end()
    assert asked.result.usable
    assert options(a) == lent
    assert describe(a).idle == 2
    watching.cancel()
    assert options(a) == before


def test_giving_back_while_a_probe_asks(fake, tcp_pair):
    a, _ = tcp_pair()
    before = options(a)
    watching = watch(a, detect_within=8)
    session = _asking.join(a.fileno(), _impl.backend.identify(a.fileno()))
    session.ask(1)
    assert options(a)[b.IDLE] == 1
    watching.cancel()
    assert options(a) == before
    session.leave()
    assert options(a) == before


def test_a_failure_gives_back(fake, tcp_pair, monkeypatch):
    a, _ = tcp_pair()
    before = options(a)
    watch(a, idle_timeout=5).cancel()

    def fails(*unused):
        raise MemoryError

    monkeypatch.setattr(fake[0], "watch", fails)
    with pytest.raises(MemoryError):
        watch(a, detect_within=8)
    assert options(a) == before
    assert not _pacing._loans


# ---- listeners --------------------------------------------------------------


@pytest.mark.parametrize("deadline", [4, 4.5, 6, 30, 3600])
def test_a_listener_passes_on_what_keeps_the_deadline(fake, deadline):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = options(listener)
        watching = watch(listener, detect_within=deadline)
        assert watching.detects_within.idle <= deadline
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                held = describe(accepted)
                assert held.enabled
                assert held.idle + held.interval * held.count <= deadline
                assert held.count >= 2
                assert not held.user_timeout  # it would end a slow reader
        assert watching.wait(0) is None
        assert fake[0].watched == {}
        watching.cancel()
        assert options(listener) == before


def test_listeners_that_were_closed_are_forgotten(fake, monkeypatch):
    monkeypatch.setattr(_pacing, "_SWEEP_AT", 4)
    for _ in range(20):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            watch(listener, detect_within=10)
    assert len(_pacing._loans) <= 8
    assert len(guards._default_guard._run._listening) <= 9
    _pacing._loans.clear()


def test_stopping_the_guard_gives_a_listener_back(fake):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = options(listener)
        with Guard(answered=5) as guard:
            watching = guard.watch(listener, detect_within=10)
            assert options(listener) != before
        assert options(listener) == before
        assert watching.wait(0) is None
        watching.cancel()


# ---- the pace ---------------------------------------------------------------

DEADLINES = [4, 4.5, 5, 6, 7.9, 8, 10, 15, 30, 60, 100, 333.3, 3600, 100_000]
TIMER_LATE = 1 / 8
RTT = 0.6


@pytest.mark.parametrize("deadline", DEADLINES)
def test_the_pace_tolerates_an_outage_of_a_third(deadline):
    for identity in range(50):
        _, idle, interval, count, user_timeout, rto_max = _pacing.pace(deadline, True, identity)
        decided = _pacing.detect_ms(deadline) / 1000
        assert user_timeout == 0
        assert idle + interval * count > 1.1 * deadline  # the watcher decides
        assert idle <= max(1, deadline / 4)
        # An outage that begins just before a probe: the first after it is answered.
        asked = idle
        while asked < idle + deadline / 3:
            asked += interval
        late = asked * (TIMER_LATE if deadline >= 8 else 0.04)
        assert asked + late < decided
        if deadline >= 8:
            assert asked + late + RTT < decided
        # One lost probe, and a long round trip.
        assert idle + interval + 0.1 + RTT < decided
        # Two questions are out well before the decision.
        assert (idle + interval) * (1 + TIMER_LATE) + 0.1 < decided
        # Retransmissions, from a write just before the first probe was due.
        assert rto_max / 1000 <= max(1, deadline / 4)
        assert idle + deadline / 3 + rto_max / 1000 < decided


@pytest.mark.parametrize("deadline", DEADLINES)
def test_the_watcher_tells_in_time(deadline):
    decided = _pacing.detect_ms(deadline)
    look = min(max(decided / 40, 100), 1000)
    assert decided + look <= deadline * 1000
    assert decided >= 0.93 * deadline * 1000


def test_the_pace_differs_from_socket_to_socket():
    beats = {_pacing.pace(60, True, identity)[b.IDLE] for identity in range(100)}
    assert beats == {12, 13, 14, 15}
    assert _pacing.pace(8, False)[b.RTO_MAX] == b.LEAVE
    assert _pacing.pace(4_000_000, True) == (1, 32767, 32767, 127, 0, 120_000)


def test_the_bounds_are_honest():
    assert _pacing.bounds(8, True, 0.2) == DetectsWithin(8, 8, 8, 8, 8, None)
    assert _pacing._connecting(1) >= 7.15  # as measured, for each rto_max
    assert _pacing._connecting(2) >= 13.17
    assert _pacing._connecting(5) >= 31.8
    assert _pacing.bounds(4, True, None).connecting >= 133
    assert _pacing.bounds(8, False, 0.2) == DetectsWithin(8, 8, 8, None, 8, None)
    slow = _pacing.bounds(4, False, 1.5)
    assert slow.in_flight > 6
    assert slow.late_write > slow.in_flight
    assert slow.zero_window is None


def test_old_kernels_have_no_bound_for_a_shut_window(fake, tcp_pair, monkeypatch):
    a, _ = tcp_pair()
    monkeypatch.setattr(_pacing, "has_rto_max", lambda: False)
    before = options(a)
    watching = watch(a, detect_within=8)
    assert watching.detects_within.zero_window is None
    assert watching.detects_within.idle == 8
    assert options(a)[b.RTO_MAX] == before[b.RTO_MAX]
    watching.cancel()
