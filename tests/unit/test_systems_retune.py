"""tune() on a connection that has been idle for long, where the timer drops it unasked."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stillalive import KeepAlive, _pending, describe, tune
from stillalive import _backend as b

from .kernels import DROPPING, RTT, installed, live

dropping = pytest.mark.parametrize("key", DROPPING)


@dropping
@pytest.mark.parametrize(
    ("silent", "times"),
    [(1200, (60, 10, 5)), (90_000, (60, 10, 5)), (55, (120, 10, 5)), (20, (5, 5, 1))],
)
def test_set_at_once_the_timer_kills_a_healthy_connection(key, silent, times):
    """What tune() avoids, and that this model shows it; 55 s is less than the new idle time."""
    with installed(key) as kernel:
        fd = kernel.connect(silent, enabled=True)
        kernel.apply_options(fd, (1, *times, b.LEAVE, b.LEAVE))
        kernel.run_until(kernel.now + 1000)
        killed = kernel.sockets[fd].dead_at is not None
        # NetBSD arms an interval where keepalive is on already, not an idle time: 65 s of 170.
        assert killed == (key != "netbsd" or silent != 55)
        if killed:
            assert kernel.sockets[fd].probes == []


@settings(max_examples=200, deadline=None)
@given(
    key=st.sampled_from(DROPPING),
    clock=st.sampled_from(["none", "wraps", "good"]),
    silent=st.floats(0, 1_000_000),
    share=st.none() | st.floats(0, 1.5),
    idle=st.none() | st.integers(1, 3000),
    interval=st.none() | st.integers(1, 300),
    count=st.none() | st.integers(1, 20),
    enabled=st.booleans(),
    late=st.booleans(),
)
@example("freebsd", "good", 0.0, 0.6, 60, 10, 5, False, False)
@example("netbsd", "good", 0.0, 0.9, 5, 60, 3, True, False)
@example("freebsd", "good", 0.0, 0.45, 120, 10, 5, True, True)
def test_no_healthy_connection_is_killed_by_tune(
    key, clock, silent, share, idle, interval, count, enabled, late
):
    """Also where the kernel tells its silence, so that nothing waits without need."""
    wanted = [idle or 7200, interval or 75, count or 8]
    total = wanted[0] + wanted[1] * wanted[2]
    if share is not None:
        silent = share * total
    if key == "netbsd" and count == 1:  # see below
        return
    shown, wraps = clock != "none", clock == "wraps"
    with installed(key, late, answers_show=shown, ages_wrap=wraps) as kernel:
        if enabled:  # its own probes have kept it young
            silent %= 7100
        fd = kernel.connect(silent, enabled)
        result = tune(fd, idle=idle, interval=interval, count=count) if idle else None
        if result is None:
            result = tune(fd, KeepAlive(interval=interval, count=count, enabled=True))
        live(kernel, 3 * total + 100)
        sock = kernel.sockets[fd]
        assert sock.dead_at is None
        assert fd * 7 not in _pending._by_identity
        assert list(sock.times) == wanted
        # And one whose peer vanishes is given up, by the real count.
        sock.peer_alive, vanished = False, sock.heard_at
        live(kernel, 2 * total + 100)
        assert sock.dead_at is not None
        timers = wanted[2] + 2
        latest = vanished + wanted[0] + wanted[1] * (wanted[2] + 1) + timers * (RTT + 1)
        assert sock.dead_at <= latest


def test_a_count_of_one_is_not_safe_on_netbsd():
    """Its own setting arms an interval from now, and the count allows no more; the docs say so."""
    with installed("netbsd") as kernel:
        fd = kernel.connect()
        tune(fd, idle=2, interval=75, count=1)
        kernel.run_until(kernel.now + 80)
        kernel.sockets[fd].heard_at = kernel.now - 2
        assert _pending._look(_pending._by_identity[fd * 7])
        kernel.run_until(kernel.now + 80)
        assert kernel.sockets[fd].dead_at is not None


@dropping
def test_the_count_waits_and_the_times_do_not(key):
    with installed(key) as kernel:
        fd = kernel.connect(1200)
        result = tune(fd, idle=60, interval=10, count=5)
        assert result.pending
        assert (result.idle, result.interval) == (60, 10)
        assert 1_000_000 <= result.count * 10 <= 2_000_000
        shown = describe(fd)
        assert shown.pending
        assert any(text.startswith("count 5 is set as soon as") for text in shown.warnings)


@dropping
def test_an_answer_completes_it_where_it_shows(key):
    with installed(key) as kernel:
        fd = kernel.connect(1200)
        tune(fd, idle=60, interval=10, count=5)
        entry = _pending._by_identity[fd * 7]
        kernel.run_until(kernel.now + 59)
        assert not _pending._look(entry)
        kernel.run_until(kernel.now + 2)
        assert kernel.sockets[fd].probes
        done = _pending._look(entry)
        assert done == kernel.system.answers_show
        kernel.run_until(entry.began + entry.patience + 0.1)
        assert _pending._look(entry)
        assert kernel.sockets[fd].values[b.COUNT] == 5


def test_a_young_connection_waits_for_nothing_where_its_age_is_told():
    with installed("freebsd", answers_show=True, ages_wrap=False) as kernel:
        assert not tune(kernel.connect(47), idle=60, interval=10, count=5).pending
        assert tune(kernel.connect(49), idle=60, interval=10, count=5).pending
        assert not tune(kernel.connect(49), idle=60, interval=70, count=1).pending
        assert tune(kernel.connect(0), idle=60, interval=1, count=1).pending


@dropping
@pytest.mark.parametrize("held", [75, 1, 3000])
@pytest.mark.parametrize("interval", [1, 10, 75, 3000])
@pytest.mark.parametrize("silent", [0, 1200, 6000])
def test_a_timer_that_fires_between_two_settings_kills_nobody(key, held, interval, silent):
    with installed(key, eager=True) as kernel:
        fd = kernel.connect(silent, enabled=True)
        kernel.sockets[fd].values[b.INTERVAL] = held
        kernel.sockets[fd].heard_at = kernel.now - silent
        tune(fd, idle=5, interval=interval, count=3)
        assert kernel.sockets[fd].dead_at is None


def test_set_at_once_a_high_count_beside_a_long_interval_is_a_number_by_chance():
    """What that avoids: here the product is 0 in 32 bits, and a quiet connection is dropped."""
    with installed("darwin", eager=True) as kernel:
        fd = kernel.connect(6000, enabled=True)
        kernel.sockets[fd].values[b.IDLE : b.COUNT + 1] = [5, 2048, 8]
        kernel.apply_options(fd, (1, 5, 1, 2**21, b.LEAVE, b.LEAVE))
        assert kernel.sockets[fd].dead_at is not None


@dropping
def test_a_failure_after_the_first_step_restores(key, monkeypatch):
    with installed(key) as kernel:
        fd = kernel.connect(1200, enabled=True)
        before = list(kernel.sockets[fd].values)
        real = kernel.apply_options

        def fails(fd, values):
            if values[b.IDLE] == 60:
                raise OSError(5, "no")
            return real(fd, values)

        monkeypatch.setattr(kernel, "apply_options", fails)
        with pytest.raises(OSError, match="no"):
            tune(fd, idle=60, interval=10, count=5)
        assert kernel.sockets[fd].values == before


@dropping
def test_a_clock_that_starts_again_is_no_answer(key):
    with installed(key) as kernel:
        wrap = 2**32 / 1_000_000
        fd = kernel.connect(silent=wrap - 20)
        tune(fd, idle=60, interval=10, count=5)
        entry = _pending._by_identity[fd * 7]
        kernel.sockets[fd].timer_at = float("inf")
        for _ in range(50):
            kernel.run_until(kernel.now + 1)
            assert not _pending._look(entry)
        kernel.sockets[fd].heard_at = kernel.now
        assert _pending._look(entry) == kernel.system.answers_show


@dropping
def test_a_dead_peer_is_told_although_the_count_waited(key):
    with installed(key) as kernel:
        fd = kernel.connect(1200)
        kernel.sockets[fd].peer_alive = False
        began = kernel.now
        tune(fd, idle=60, interval=10, count=5)
        live(kernel, 1000)
        assert began + 100 <= kernel.sockets[fd].dead_at <= began + 60 + 10 * 6 + 5


@dropping
def test_what_changes_nothing_waits_for_nothing(key):
    with installed(key) as kernel:
        fd = kernel.connect(1200)
        assert not tune(fd, KeepAlive.OFF).pending
        assert not tune(fd, KeepAlive()).pending
        listener = kernel.listen()
        assert not tune(listener, idle=60, interval=10, count=5).pending


def test_tuning_again_keeps_the_real_count_in_mind():
    with installed("darwin") as kernel:
        fd = kernel.connect(1200)
        tune(fd, idle=60, interval=10, count=5)
        assert tune(fd, idle=30).pending
        live(kernel, 1000)
        assert kernel.sockets[fd].times == (30, 10, 5)
        assert kernel.sockets[fd].dead_at is None


@pytest.mark.parametrize("key", ["windows", "openbsd"])
def test_the_others_set_everything_at_once(key):
    with installed(key) as kernel:
        fd = kernel.connect(1200)
        assert not tune(fd, KeepAlive(enabled=True)).pending
