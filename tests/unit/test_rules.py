"""The arithmetic of the kernel's timers, against what was measured on Linux 6.18."""

from __future__ import annotations

import pytest

from stillalive import _rules as rules


@pytest.mark.parametrize(
    ("idle", "interval", "count", "user_timeout", "measured"),
    [
        (1, 1, 3, 0, 3.97),
        (1, 1, 3, 0.5, 2.0),
        (1, 1, 3, 1.0, 2.0),
        (1, 1, 3, 2.5, 3.05),
        (1, 1, 3, 4.0, 4.05),
        (1, 1, 3, 6.5, 7.1),
        (2, 2, 2, 5.0, 6.0),
        (3, 1, 2, 2.0, 4.1),
        (1, 1, 2, 9.0, 9.1),
        (1, 2, 9, 4.0, 4.9),
        (2, 20, 9, 3.0, 22.8),
    ],
)
def test_idle_death_is_as_measured(idle, interval, count, user_timeout, measured):
    computed = rules.idle_death(idle, interval, count, user_timeout)
    assert computed <= measured + 0.1
    assert measured <= rules.with_lateness(computed)


@pytest.mark.parametrize(
    ("user_timeout", "rto", "measured"),
    [
        (4.0, 0.204, 4.43),
        (2.5, 0.204, 2.95),
        (8.0, 0.204, 8.45),
        (4.0, 0.652, 5.36),
        (1.0, 0.304, 1.66),
        (3.0, 1.272, 5.59),
    ],
)
def test_in_flight_death_bounds_what_was_measured(user_timeout, rto, measured):
    bound = rules.in_flight_death(user_timeout, rto, 120.0, 15)
    assert measured <= bound <= measured + 0.45


@pytest.mark.parametrize(
    ("rto_max", "retries2", "expected"),
    [(120.0, 15, 924.6), (1.0, 15, 14.4), (2.0, 15, 27.0), (120.0, 3, 3.0)],
)
def test_retries_limit_is_the_kernels_model(rto_max, retries2, expected):
    assert rules.retries_limit(rto_max, retries2) == pytest.approx(expected)


@pytest.mark.parametrize(("rto_max", "measured"), [(1.0, 15.0), (2.0, 27.5), (120.0, 938.0)])
def test_without_user_timeout_retries_bound_the_wait(rto_max, measured):
    assert measured <= rules.in_flight_death(0.0, 0.204, rto_max, 15) <= measured + rto_max


def test_an_outage_is_survived_only_if_a_probe_is_left_after_it():
    assert rules.survives_idle(2.0, interval=1, count=3, rtt=0.1)
    assert not rules.survives_idle(2.1, interval=1, count=3, rtt=0.1)
    assert not rules.survives_idle(0.0, interval=1, count=1, rtt=1.6)


def test_retransmissions_that_may_be_far_apart_do_not_help():
    assert rules.survives_in_flight(2.0, user_timeout=4.5, rto_max=1.0, rtt=0.0)
    assert not rules.survives_in_flight(2.0, user_timeout=2.5, rto_max=120.0, rtt=0.0)


def test_the_budget_leaves_room_for_late_timers():
    for bound in (3, 5, 6, 10, 30, 600, 32767):
        whole = rules.whole_budget(bound)
        assert rules.with_lateness(whole) <= bound < rules.with_lateness(whole + 1)
